//! The figures of drops: over the poison fraction, the visibility, `beta` and the number of passes.

use super::{Figure, titled};
use crate::{
    ConfigGroup, ReportError,
    chart::{Chart, ChartAxis, MOST, MarkKind, Point, Series},
    config_group::{Quantity, quantity},
    result_set::ResultSet,
    words,
};

/// The parameters that limit the change of pixels, and the length of steps, which is larger for weaker limits.
const LIMITS: [&str; 4] = ["linf", "beta", "clip", "step"];
const DROP: &str = "Accuracy drop, points";

/// A name, and configurations that are equal in all parameters but the swept ones.
type Sweep<'c> = (String, Vec<&'c ConfigGroup>);

/// Groups configurations into sweeps over the parameters in `apart_from`. The configurations of a sweep are sorted by
/// `by`.
fn sweeps<'c>(configs: &[&'c ConfigGroup], apart_from: &[&str], by: fn(&ConfigGroup) -> f64) -> Vec<Sweep<'c>> {
    let mut sweeps: Vec<(String, String, Vec<&ConfigGroup>)> = Vec::new();
    for config in configs {
        let rest = config.rows[0].attack.to_string() + &config.text(|_, field| !apart_from.contains(&field));
        match sweeps.iter_mut().find(|(r, ..)| *r == rest) {
            Some((.., sweep)) => sweep.push(config),
            None => sweeps.push((rest, config.label_without(apart_from), vec![config])),
        }
    }
    let swept = sweeps.into_iter().map(|(_, name, mut sweep)| {
        sweep.sort_by(|a, b| by(a).total_cmp(&by(b)));
        (name, sweep)
    });
    swept.collect()
}

/// The first `most` sweeps, and a remark if others are left out.
fn first<'c>(mut sweeps: Vec<Sweep<'c>>, most: usize) -> (Vec<Sweep<'c>>, Option<String>) {
    let out = sweeps.len().saturating_sub(most);
    sweeps.truncate(most);
    let (lines, are) = (words::count(out, "more line"), if out == 1 { "is" } else { "are" });
    (sweeps, (out > 0).then(|| format!(" {lines} {are} not drawn.")))
}

fn points(configs: &[&ConfigGroup], x: fn(&ConfigGroup) -> f64, y: Quantity, scale: f64) -> Vec<Point> {
    let point = |c: &&ConfigGroup| {
        let e = c.mean(y)?;
        Some(Point { x: x(c), y: scale * e.mean, spread: scale * e.std })
    };
    configs.iter().filter_map(point).collect()
}

fn sentence(name: &str, points: &[Point], unit: &str) -> String {
    let values: Vec<String> =
        points.iter().map(|p| format!("{} at {}", words::number(p.y, 1), words::number(p.x, 2))).collect();
    format!("{name}: {} {unit}.", values.join(", "))
}

/// The name of the limit on pixels. Attacks with the same limit share a chart.
fn limit(config: &ConfigGroup) -> String {
    match (config.linf(), config.making()) {
        _ if config.replaces() => "noise".to_owned(),
        (Some(levels), _) => format!("L∞ ≤ {levels}"),
        (None, None) => "features".to_owned(),
        _ if config.unclipped() => "unclipped pixels".to_owned(),
        _ if config.beta() > 0.0 => "β > 0".to_owned(),
        _ => "pixels in [0, 1]".to_owned(),
    }
}

/// Draws the drop over the poison fraction.
pub fn over_budget(result_set: &ResultSet) -> Result<Figure, ReportError> {
    let mut figure = Figure::new(
        "budget",
        "Drop against poison fraction",
        "The charts show the accuracy that each attack costs against its poison fraction. Attacks under the same limit \
         share a chart, with as many flipped labels for comparison. Error bars are standard deviations over seeds.",
    );
    for experiment in result_set.experiments() {
        let mut panels: Vec<(String, Vec<Sweep>)> = Vec::new();
        for (name, sweep) in sweeps(&experiment.configs, &["poison_fraction"], ConfigGroup::poison_fraction)
            .into_iter()
            .filter(|(_, s)| s.len() > 1)
        {
            let limit = limit(sweep[0]);
            match panels.iter_mut().find(|(l, _)| *l == limit) {
                Some((_, sweeps)) => sweeps.push((name, sweep)),
                None => panels.push((limit, vec![(name, sweep)])),
            }
        }
        for (limit, sweeps) in panels {
            // Flipped labels are no control for noise, which replaces training images.
            let mut flipped: Vec<Sweep> = Vec::new();
            for (_, sweep) in sweeps.iter().filter(|(_, sweep)| !sweep[0].replaces()) {
                if !flipped.iter().any(|(_, other)| other[0].victim() == sweep[0].victim()) {
                    flipped.push((sweep[0].victim().to_owned(), sweep.clone()));
                }
            }
            flipped.truncate(MOST / 2);
            if let [(name, _)] = flipped.as_mut_slice() {
                "flipped labels".clone_into(name);
            } else {
                flipped.iter_mut().for_each(|(name, _)| *name = format!("flipped labels, {name} victim"));
            }
            let (sweeps, left_out) = first(sweeps, MOST - flipped.len());
            let mut sentences = Vec::new();
            let mut draw = |name: &str, sweep: &[&ConfigGroup], drop: Quantity, style| {
                let points = points(sweep, |c| 100.0 * c.poison_fraction(), drop, 100.0);
                sentences.push(sentence(name, &points, "points at % of poisons"));
                Series { name: name.to_owned(), points, drawn: MarkKind::Line, style }
            };
            let attacks = sweeps.iter().enumerate();
            let mut series: Vec<Series> =
                attacks.map(|(style, (name, sweep))| draw(name, sweep, quantity::drop, style)).collect();
            let controls = flipped.iter().enumerate();
            series.extend(controls.map(|(i, (name, sweep))| draw(name, sweep, quantity::drop_of_flips, MOST - 1 - i)));
            figure.remark(left_out);
            let chart = Chart {
                title: titled(result_set, &experiment.name, &limit),
                x: ChartAxis::chosen("Poisons, % of the clean count (logarithmic)"),
                y: ChartAxis::from_zero(DROP),
                series,
                references: Vec::new(),
            };
            figure.chart(&chart, &sentences.join(" "))?;
        }
    }
    Ok(figure.or("no attack was run with more than one poison fraction (a list for poison_fraction)."))
}

/// Draws the drop over the visibility of the change: PSNR and L-infinity distance.
pub fn over_visibility(result_set: &ResultSet) -> Result<Figure, ReportError> {
    let mut figure = Figure::new(
        "visibility",
        "Drop against visibility",
        "The charts show the accuracy that poisoned images cost against their difference from the base images, for \
         attacks with the same poison fraction: the peak signal-to-noise ratio (images further right are less visible) \
         and the largest change of a pixel (images further left are less visible). At equal visibility, the higher of \
         two attacks is the stronger one. Lines join results that differ only in the limits on pixels. Error bars are \
         standard deviations over seeds.",
    );
    for experiment in result_set.experiments() {
        let seen = experiment.configs.iter().copied().filter(|c| c.mean(quantity::psnr).is_some() && !c.replaces());
        let seen: Vec<&ConfigGroup> = seen.collect();
        let Some(most) = seen.iter().map(|c| c.poison_fraction()).max_by(f64::total_cmp) else { continue };
        let configs: Vec<&ConfigGroup> = seen.into_iter().filter(|c| c.poison_fraction() == most).collect();
        if configs.len() < 2 {
            continue;
        }
        let (attacks, left_out) =
            first(sweeps(&configs, &[&LIMITS[..], &["poison_fraction"]].concat(), ConfigGroup::beta), MOST);
        let axes: [(Quantity, ChartAxis, &str); 2] = [
            (quantity::psnr, ChartAxis::linear("PSNR, dB"), "PSNR"),
            (quantity::linf, ChartAxis::log("L∞, grey levels of 255 (logarithmic)"), "L∞"),
        ];
        figure.remark(left_out);
        for (seen, x, name) in axes {
            let mut sentences = Vec::new();
            let series = attacks.iter().enumerate().map(|(style, (name, configs))| {
                let point = |c: &&ConfigGroup| {
                    let (x, y) = (c.mean(seen)?, c.mean(quantity::drop_on_images)?);
                    Some(Point { x: x.mean, y: 100.0 * y.mean, spread: 100.0 * y.std })
                };
                let mut points: Vec<Point> = configs.iter().filter_map(point).collect();
                points.sort_by(|a, b| a.x.total_cmp(&b.x));
                sentences.push(sentence(name, &points, "points"));
                Series { name: name.clone(), points, drawn: MarkKind::Line, style }
            });
            let chart = Chart {
                series: series.collect(),
                title: titled(
                    result_set,
                    &experiment.name,
                    &format!("drop against {name}, {} of poisons", words::share(most)),
                ),
                x,
                y: ChartAxis::from_zero(DROP),
                references: Vec::new(),
            };
            figure.chart(&chart, &sentences.join(" "))?;
        }
    }
    Ok(figure.or("there are fewer than two results with poisoned images."))
}

/// Draws the drop and the PSNR over `beta`.
pub fn over_beta(result_set: &ResultSet) -> Result<Figure, ReportError> {
    let mut figure = Figure::new(
        "beta",
        "Trade-off by β",
        "The larger the weight β of the squared distance to the base image is, the cleaner poisons look, and the less \
         accuracy they cost. Values of β are equally spaced, beginning with 0 if it was run. Error bars are standard \
         deviations over seeds.",
    );
    for experiment in result_set.experiments() {
        let configs: Vec<&ConfigGroup> =
            experiment.configs.iter().copied().filter(|c| c.linf().is_none() && c.making().is_some()).collect();
        let swept = sweeps(&configs, &["beta"], ConfigGroup::beta).into_iter().filter(|(_, sweep)| sweep.len() > 1);
        let (sweeps, left_out) = first(swept.collect(), MOST);
        if sweeps.is_empty() {
            continue;
        }
        figure.remark(left_out);
        let (names, betas) = levels(&sweeps);
        for (q, title, unit, scale) in
            [(quantity::drop_on_images as Quantity, DROP, "drop", 100.0), (quantity::psnr, "PSNR, dB", "PSNR", 1.0)]
        {
            let mut sentences = Vec::new();
            let series = sweeps.iter().enumerate().map(|(style, (name, sweep))| {
                let mut drawn = points(sweep, ConfigGroup::beta, q, scale);
                sentences.push(sentence(name, &drawn, "by β"));
                drawn.iter_mut().for_each(|p| p.x = betas.iter().position(|b| *b == p.x).unwrap_or(0) as f64);
                Series { name: name.clone(), points: drawn, drawn: MarkKind::Line, style }
            });
            let chart = Chart {
                series: series.collect(),
                title: titled(result_set, &experiment.name, &format!("{unit} over β")),
                x: ChartAxis::names("β, weight of the squared distance to the base image", names.clone()),
                y: if unit == "drop" { ChartAxis::from_zero(title) } else { ChartAxis::linear(title) },
                references: Vec::new(),
            };
            figure.chart(&chart, &sentences.join(" "))?;
        }
    }
    Ok(figure.or("no inversion was run with more than one β."))
}

/// Draws the objective and the drop of attacks on pixels over their passes through the extractor.
pub fn over_passes(result_set: &ResultSet) -> Result<Figure, ReportError> {
    let mut figure = Figure::new(
        "passes",
        "Strength against passes",
        "The charts show the objectives of attacks on pixels, and the accuracy that they cost, against the number of \
         their passes through the extractor, for runs that are equal in everything else. If a curve has not flattened, \
         more passes would make the attack stronger. Error bars are standard deviations over seeds.",
    );
    let passes = |c: &ConfigGroup| c.passes().unwrap_or(0) as f64;
    for experiment in result_set.experiments() {
        let pixels: Vec<&ConfigGroup> = experiment.configs.iter().copied().filter(|c| c.on_pixels()).collect();
        let swept: Vec<Sweep> =
            sweeps(&pixels, &["steps"], passes).into_iter().filter(|(_, sweep)| sweep.len() > 1).collect();
        for (aim, sweeps) in by_objective(swept) {
            let (sweeps, left_out) = first(sweeps, MOST);
            figure.remark(left_out);
            let charts: [(Quantity, String, &str, f64); 2] = [
                (quantity::objective, super::curves::objective(aim), "objective", 1.0),
                (quantity::drop_on_images, DROP.to_owned(), "drop", 100.0),
            ];
            for (quantity, title, what, scale) in charts {
                let mut sentences = Vec::new();
                let series = sweeps.iter().enumerate().map(|(style, (name, sweep))| {
                    let points = points(sweep, passes, quantity, scale);
                    sentences.push(sentence(name, &points, "by passes"));
                    Series { name: name.clone(), points, drawn: MarkKind::Line, style }
                });
                let chart = Chart {
                    series: series.collect(),
                    title: titled(result_set, &experiment.name, &format!("{aim}, {what} against passes")),
                    x: ChartAxis::chosen("Passes through the extractor (logarithmic)"),
                    y: if what == "drop" { ChartAxis::from_zero(title) } else { ChartAxis::linear(title) },
                    references: Vec::new(),
                };
                figure.chart(&chart, &sentences.join(" "))?;
            }
        }
    }
    Ok(figure.or("no attack on pixels was run with more than one number of steps (a list for steps)."))
}

/// Sweeps by the objective of their attack, in their order.
fn by_objective(sweeps: Vec<Sweep<'_>>) -> Vec<(&str, Vec<Sweep<'_>>)> {
    let mut groups: Vec<(&str, Vec<Sweep>)> = Vec::new();
    for sweep in sweeps {
        let aim = sweep.1[0].aim();
        match groups.iter_mut().find(|(other, _)| *other == aim) {
            Some((_, group)) => group.push(sweep),
            None => groups.push((aim, vec![sweep])),
        }
    }
    groups
}

/// All values of `beta` in some sweeps, in ascending order, as names and as numbers. They are names because 0 has no
/// place on a logarithmic axis.
fn levels(sweeps: &[Sweep]) -> (Vec<String>, Vec<f64>) {
    let mut betas: Vec<f64> = sweeps.iter().flat_map(|(_, s)| s.iter().map(|c| c.beta())).collect();
    betas.sort_by(f64::total_cmp);
    betas.dedup();
    (betas.iter().map(f64::to_string).collect(), betas)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::testing::made_up;

    /// Two lengths of the bilevel attack before one of TGDA, and two behind it.
    #[test]
    fn an_objective_has_its_charts_once() {
        let run = |aim: &str| made_up(&format!("{aim} + pixels")).config();
        let [first, other, last] = ["bilevel", "tgda", "bilevel"].map(run);
        let sweeps = [&first, &other, &last].map(|config| (config.label.clone(), vec![config])).to_vec();
        let groups: Vec<(&str, usize)> = by_objective(sweeps).iter().map(|(aim, of)| (*aim, of.len())).collect();
        assert_eq!(groups, [("bilevel", 2), ("tgda", 1)]);
    }
}
