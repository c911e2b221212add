//! The figures of drops: over the poison fraction, the visibility, `beta` and the number of passes.

use super::{Figure, titled};
use crate::{
    Case, ReportError,
    case::{Quantity, quantity},
    chart::{Axis, Chart, Drawn, MOST, Point, Series},
    evidence::Evidence,
    words,
};

/// The parameters that limit the change of pixels, and the length of steps, which is larger for weaker limits.
const LIMITS: [&str; 4] = ["linf", "beta", "clip", "step"];
const DROP: &str = "Accuracy drop, points";

/// A name, and cases that are equal in all parameters but the swept ones.
type Sweep<'c> = (String, Vec<&'c Case>);

/// Groups cases into sweeps over the parameters in `apart_from`. The cases of a sweep are sorted by `by`.
fn sweeps<'c>(cases: &[&'c Case], apart_from: &[&str], by: fn(&Case) -> f64) -> Vec<Sweep<'c>> {
    let mut sweeps: Vec<(String, String, Vec<&Case>)> = Vec::new();
    for case in cases {
        let rest = case.rows[0].attack.to_string() + &case.text(|_, field| !apart_from.contains(&field));
        match sweeps.iter_mut().find(|(r, ..)| *r == rest) {
            Some((.., sweep)) => sweep.push(case),
            None => sweeps.push((rest, case.label_without(apart_from), vec![case])),
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
    (sweeps, (out > 0).then(|| format!(" Not drawn: {}.", words::count(out, "more line"))))
}

fn points(cases: &[&Case], x: fn(&Case) -> f64, y: Quantity, scale: f64) -> Vec<Point> {
    let point = |c: &&Case| {
        let e = c.mean(y)?;
        Some(Point { x: x(c), y: scale * e.mean, spread: scale * e.std })
    };
    cases.iter().filter_map(point).collect()
}

fn tell(name: &str, points: &[Point], unit: &str) -> String {
    let told: Vec<String> =
        points.iter().map(|p| format!("{} at {}", words::number(p.y, 1), words::number(p.x, 2))).collect();
    format!("{name}: {} {unit}.", told.join(", "))
}

/// The name of the limit on pixels. Attacks with the same limit share a chart.
fn limit(case: &Case) -> String {
    match (case.linf(), case.making()) {
        _ if case.replaces() => "noise".to_owned(),
        (Some(levels), _) => format!("L∞ ≤ {levels}"),
        (None, None) => "features".to_owned(),
        _ if case.free() => "unclipped pixels".to_owned(),
        _ if case.beta() > 0.0 => "β > 0".to_owned(),
        _ => "pixels in [0, 1]".to_owned(),
    }
}

/// Draws the drop over the poison fraction.
pub fn over_budget(evidence: &Evidence) -> Result<Figure, ReportError> {
    let mut figure = Figure::new(
        "budget",
        "Drop against poison fraction",
        "Accuracy that each attack costs, over its number of poisons as a share of the clean training set; attacks \
         under the same limit in one chart, with as many flipped labels. Error bars: standard deviation over seeds.",
    );
    for scene in evidence.scenes() {
        let mut panels: Vec<(String, Vec<Sweep>)> = Vec::new();
        for (name, sweep) in
            sweeps(&scene.cases, &["poison_fraction"], Case::poison_fraction).into_iter().filter(|(_, s)| s.len() > 1)
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
            let mut told = Vec::new();
            let mut draw = |name: &str, sweep: &[&Case], drop: Quantity, style| {
                let points = points(sweep, |c| 100.0 * c.poison_fraction(), drop, 100.0);
                told.push(tell(name, &points, "points at % of poisons"));
                Series { name: name.to_owned(), points, drawn: Drawn::Line, style }
            };
            let attacks = sweeps.iter().enumerate();
            let mut series: Vec<Series> =
                attacks.map(|(style, (name, sweep))| draw(name, sweep, quantity::drop, style)).collect();
            let controls = flipped.iter().enumerate();
            series.extend(controls.map(|(i, (name, sweep))| draw(name, sweep, quantity::drop_of_flips, MOST - 1 - i)));
            figure.remark(left_out);
            let chart = Chart {
                title: titled(evidence, &scene.name, &limit),
                x: Axis::chosen("Poisons, % of the clean count (logarithmic)"),
                y: Axis::from_zero(DROP),
                series,
                references: Vec::new(),
            };
            figure.chart(&chart, &told.join(" "))?;
        }
    }
    Ok(figure.or("no attack was run with more than one poison fraction (a list for poison_fraction)."))
}

/// Draws the drop over the visibility of the change: PSNR and L-infinity distance.
pub fn over_visibility(evidence: &Evidence) -> Result<Figure, ReportError> {
    let mut figure = Figure::new(
        "visibility",
        "Drop against visibility",
        "Accuracy that images cost, over how much they differ from those that they are made of, with as many poisons \
         each: peak signal-to-noise ratio (further right: less visible) and the largest change of a pixel (further \
         left: less visible). Feature-targeted attacks and those on pixels share the axes: at equal visibility, \
         whoever is higher is stronger. Lines join what differs in the limits on pixels alone. Error bars: standard \
         deviation over seeds.",
    );
    for scene in evidence.scenes() {
        let seen = scene.cases.iter().copied().filter(|c| c.mean(quantity::psnr).is_some() && !c.replaces());
        let seen: Vec<&Case> = seen.collect();
        let Some(most) = seen.iter().map(|c| c.poison_fraction()).max_by(f64::total_cmp) else { continue };
        let cases: Vec<&Case> = seen.into_iter().filter(|c| c.poison_fraction() == most).collect();
        if cases.len() < 2 {
            continue;
        }
        let (attacks, left_out) =
            first(sweeps(&cases, &[&LIMITS[..], &["poison_fraction"]].concat(), Case::beta), MOST);
        let axes: [(Quantity, Axis, &str); 2] = [
            (quantity::psnr, Axis::linear("PSNR, dB"), "PSNR"),
            (quantity::linf, Axis::log("L∞, grey levels of 255 (logarithmic)"), "L∞"),
        ];
        figure.remark(left_out);
        for (seen, x, name) in axes {
            let mut told = Vec::new();
            let series = attacks.iter().enumerate().map(|(style, (name, cases))| {
                let point = |c: &&Case| {
                    let (x, y) = (c.mean(seen)?, c.mean(quantity::drop_on_images)?);
                    Some(Point { x: x.mean, y: 100.0 * y.mean, spread: 100.0 * y.std })
                };
                let mut points: Vec<Point> = cases.iter().filter_map(point).collect();
                points.sort_by(|a, b| a.x.total_cmp(&b.x));
                told.push(tell(name, &points, "points"));
                Series { name: name.clone(), points, drawn: Drawn::Line, style }
            });
            let chart = Chart {
                series: series.collect(),
                title: titled(
                    evidence,
                    &scene.name,
                    &format!("drop against {name}, {} of poisons", words::share(most)),
                ),
                x,
                y: Axis::from_zero(DROP),
                references: Vec::new(),
            };
            figure.chart(&chart, &told.join(" "))?;
        }
    }
    Ok(figure.or("there are fewer than two results with poisoned images."))
}

/// Draws the drop and the PSNR over `beta`.
pub fn over_beta(evidence: &Evidence) -> Result<Figure, ReportError> {
    let mut figure = Figure::new(
        "beta",
        "What β trades",
        "The weight β of the distance to the base image holds images back: the larger, the cleaner they look, and \
         the less they cost. β = 0 stands at the left end. Error bars: standard deviation over seeds.",
    );
    for scene in evidence.scenes() {
        let cases: Vec<&Case> =
            scene.cases.iter().copied().filter(|c| c.linf().is_none() && c.making().is_some()).collect();
        let swept = sweeps(&cases, &["beta"], Case::beta).into_iter().filter(|(_, sweep)| sweep.len() > 1);
        let (sweeps, left_out) = first(swept.collect(), MOST);
        if sweeps.is_empty() {
            continue;
        }
        figure.remark(left_out);
        let (names, betas) = levels(&sweeps);
        for (q, title, unit, scale) in
            [(quantity::drop_on_images as Quantity, DROP, "drop", 100.0), (quantity::psnr, "PSNR, dB", "PSNR", 1.0)]
        {
            let mut told = Vec::new();
            let series = sweeps.iter().enumerate().map(|(style, (name, sweep))| {
                let mut drawn = points(sweep, Case::beta, q, scale);
                told.push(tell(name, &drawn, "by β"));
                drawn.iter_mut().for_each(|p| p.x = betas.iter().position(|b| *b == p.x).unwrap_or(0) as f64);
                Series { name: name.clone(), points: drawn, drawn: Drawn::Line, style }
            });
            let chart = Chart {
                series: series.collect(),
                title: titled(evidence, &scene.name, &format!("{unit} over β")),
                x: Axis::names("β, weight of the squared distance to the base image", names.clone()),
                y: if unit == "drop" { Axis::from_zero(title) } else { Axis::linear(title) },
                references: Vec::new(),
            };
            figure.chart(&chart, &told.join(" "))?;
        }
    }
    Ok(figure.or("no inversion was run with more than one β."))
}

/// Draws the objective and the drop of attacks on pixels over their passes through the extractor.
pub fn over_passes(evidence: &Evidence) -> Result<Figure, ReportError> {
    let mut figure = Figure::new(
        "passes",
        "Strength against passes",
        "What attacks on pixels optimise, and the accuracy that they cost, over their passes through the extractor: \
         runs of different lengths, equal in all else. Where a curve has not flattened, the attack would do better \
         with more. Error bars: standard deviation over seeds.",
    );
    let passes = |c: &Case| c.passes().unwrap_or(0) as f64;
    for scene in evidence.scenes() {
        let pixels: Vec<&Case> = scene.cases.iter().copied().filter(|c| c.on_pixels()).collect();
        let swept: Vec<Sweep> =
            sweeps(&pixels, &["steps"], passes).into_iter().filter(|(_, sweep)| sweep.len() > 1).collect();
        let mut aims: Vec<&str> = swept.iter().map(|(_, sweep)| sweep[0].aim()).collect();
        aims.dedup();
        for aim in aims {
            let of = swept.iter().filter(|(_, sweep)| sweep[0].aim() == aim).cloned().collect();
            let (sweeps, left_out) = first(of, MOST);
            figure.remark(left_out);
            let charts: [(Quantity, String, &str, f64); 2] = [
                (quantity::objective, super::curves::objective(aim), "objective", 1.0),
                (quantity::drop_on_images, DROP.to_owned(), "drop", 100.0),
            ];
            for (quantity, title, what, scale) in charts {
                let mut told = Vec::new();
                let series = sweeps.iter().enumerate().map(|(style, (name, sweep))| {
                    let points = points(sweep, passes, quantity, scale);
                    told.push(tell(name, &points, "by passes"));
                    Series { name: name.clone(), points, drawn: Drawn::Line, style }
                });
                let chart = Chart {
                    series: series.collect(),
                    title: titled(evidence, &scene.name, &format!("{aim}, {what} against passes")),
                    x: Axis::chosen("Passes through the extractor (logarithmic)"),
                    y: if what == "drop" { Axis::from_zero(title) } else { Axis::linear(title) },
                    references: Vec::new(),
                };
                figure.chart(&chart, &told.join(" "))?;
            }
        }
    }
    Ok(figure.or("no attack on pixels was run with more than one number of steps (a list for steps)."))
}

/// All values of `beta` in some sweeps, in ascending order, as names and as numbers. They are names because 0 has no
/// place on a logarithmic axis.
fn levels(sweeps: &[Sweep]) -> (Vec<String>, Vec<f64>) {
    let mut betas: Vec<f64> = sweeps.iter().flat_map(|(_, s)| s.iter().map(|c| c.beta())).collect();
    betas.sort_by(f64::total_cmp);
    betas.dedup();
    (betas.iter().map(f64::to_string).collect(), betas)
}
