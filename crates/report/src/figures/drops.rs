//! What attacks cost, over their budget, their visibility, and the weight that holds images back.

use super::{Figure, titled};
use crate::{
    Case, ReportError,
    case::{Quantity, quantity},
    chart::{Axis, Chart, Drawn, MOST, Point, Scale, Series},
    evidence::Evidence,
    words,
};

const DROP: &str = "Accuracy drop, points";

/// Cases that agree in all but a parameter, by what names them.
fn sweeps<'c>(cases: &[&'c Case], apart_from: &str, by: fn(&Case) -> f64) -> Vec<(String, Vec<&'c Case>)> {
    let mut sweeps: Vec<(String, String, Vec<&Case>)> = Vec::new();
    for case in cases {
        let rest = case.rows[0].attack.clone() + &case.text(|_, field| field != apart_from);
        match sweeps.iter_mut().find(|(r, ..)| *r == rest) {
            Some((.., sweep)) => sweep.push(case),
            None => sweeps.push((rest, case.label_without(apart_from), vec![case])),
        }
    }
    let swept = sweeps.into_iter().map(|(_, name, mut sweep)| {
        sweep.sort_by(|a, b| by(a).total_cmp(&by(b)));
        (name, sweep)
    });
    swept.filter(|(_, sweep)| sweep.len() > 1).take(MOST).collect()
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

/// Drop against the share of poisons.
pub fn over_budget(evidence: &Evidence) -> Result<Figure, ReportError> {
    let mut figure = Figure::new(
        "budget",
        "Drop against budget",
        "Accuracy that each attack costs, over its number of poisons as a share of the clean training set. Error bars: standard deviation \
         over seeds. Dashed: what as many flipped labels cost, at the largest budget.",
    );
    for scene in evidence.scenes() {
        let cases = &scene.cases;
        let sweeps = sweeps(&cases, "eps_d", Case::eps_d);
        if sweeps.is_empty() {
            continue;
        }
        let mut told = Vec::new();
        let series = sweeps.iter().enumerate().map(|(style, (name, sweep))| {
            let points = points(sweep, |c| 100.0 * c.eps_d(), quantity::drop, 100.0);
            told.push(tell(name, &points, "points at % of poisons"));
            Series { name: name.clone(), points, drawn: Drawn::Line, style }
        });
        let series = series.collect();
        let flips = sweeps.iter().filter_map(|(_, s)| s.last()?.mean(quantity::drop_of_flips)).next();
        let chart = Chart {
            title: titled(evidence, &scene.name, "drop against budget"),
            x: Axis::from_zero("Poisons, % of the clean count"),
            y: Axis::from_zero(DROP),
            series,
            references: flips.map(|e| (100.0 * e.mean, "flipped labels".to_owned())).into_iter().collect(),
        };
        figure.chart(&chart, &told.join(" "))?;
    }
    Ok(figure.or("no attack was run with more than one share of poisons (a list for eps_d)."))
}

/// Drop against how much images changed.
pub fn over_visibility(evidence: &Evidence) -> Result<Figure, ReportError> {
    let mut figure = Figure::new(
        "visibility",
        "Drop against visibility",
        "Accuracy that images cost, over how much they differ from those that they are made of: peak signal-to-noise ratio (further right: \
         less visible) and the largest change of a pixel (further left: less visible). Feature-targeted attacks and those on pixels share \
         the axes: at equal visibility, whoever is higher is stronger. Error bars: standard deviation over seeds.",
    );
    for scene in evidence.scenes() {
        let cases: Vec<&Case> = scene.cases.iter().copied().filter(|c| c.mean(quantity::psnr).is_some()).collect();
        if cases.len() < 2 {
            continue;
        }
        let mut attacks: Vec<String> = Vec::new();
        for case in &cases {
            if !attacks.contains(&case.attack()) {
                attacks.push(case.attack());
            }
        }
        let axes: [(Quantity, Axis, &str); 2] = [
            (quantity::psnr, Axis::linear("PSNR, dB"), "PSNR"),
            (quantity::linf, Axis::log("L∞, grey levels of 255"), "L∞"),
        ];
        for (seen, x, name) in axes {
            let mut told = Vec::new();
            let series = attacks.iter().take(MOST).enumerate().map(|(style, attack)| {
                let of = cases.iter().filter(|c| c.attack() == *attack);
                let point = |c: &&Case| {
                    let (x, y) = (c.mean(seen)?, c.mean(quantity::drop_on_images)?);
                    Some(Point { x: x.mean, y: 100.0 * y.mean, spread: 100.0 * y.std })
                };
                let points: Vec<Point> = of.filter_map(point).collect();
                told.push(tell(attack, &points, "points"));
                Series { name: attack.clone(), points, drawn: Drawn::Points, style }
            });
            let chart = Chart {
                series: series.collect(),
                title: titled(evidence, &scene.name, &format!("drop against {name}")),
                x,
                y: Axis::from_zero(DROP),
                references: Vec::new(),
            };
            figure.chart(&chart, &told.join(" "))?;
        }
    }
    Ok(figure.or("there are fewer than two results with poisoned images."))
}

/// What beta trades.
pub fn over_beta(evidence: &Evidence) -> Result<Figure, ReportError> {
    let mut figure = Figure::new(
        "beta",
        "What β trades",
        "The weight β of the distance to the base image holds images back: the larger, the cleaner they look, and the less they cost. \
         β = 0 stands at the left end. Error bars: standard deviation over seeds.",
    );
    for scene in evidence.scenes() {
        let cases: Vec<&Case> =
            scene.cases.iter().copied().filter(|c| c.linf().is_none() && c.making().is_some()).collect();
        let sweeps = sweeps(&cases, "beta", Case::beta);
        if sweeps.is_empty() {
            continue;
        }
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
                x: Axis {
                    title: "β, weight of the squared distance to the base image".to_owned(),
                    scale: Scale::Names(names.clone()),
                    holds: None,
                },
                y: if unit == "drop" { Axis::from_zero(title) } else { Axis::linear(title) },
                references: Vec::new(),
            };
            figure.chart(&chart, &told.join(" "))?;
        }
    }
    Ok(figure.or("no inversion was run with more than one β."))
}

/// All values of beta in some sweeps, in order: as names, and as numbers. (0 has no place on a logarithmic axis.)
fn levels(sweeps: &[(String, Vec<&Case>)]) -> (Vec<String>, Vec<f64>) {
    let mut betas: Vec<f64> = sweeps.iter().flat_map(|(_, s)| s.iter().map(|c| c.beta())).collect();
    betas.sort_by(f64::total_cmp);
    betas.dedup();
    (betas.iter().map(f64::to_string).collect(), betas)
}
