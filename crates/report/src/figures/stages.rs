//! The figure of stages: accuracy from stage to stage of an attack.

use super::{Figure, strongest, titled};
use crate::{
    ReportError,
    case::{Quantity, quantity},
    chart::{Axis, Chart, Drawn, Point, Series},
    evidence::Evidence,
    words,
};

/// The stages: a short name, the name of the series, and the quantity.
const STAGES: [(&str, &str, Quantity); 4] = [
    ("clean", "clean head", quantity::clean),
    ("target", "the attacker's target", quantity::target),
    ("features", "retrained with poisoned features", quantity::features),
    ("images", "retrained with images made of them", quantity::images),
];
/// The largest number of results in a chart.
const LINES: usize = 24;

/// Draws one row per result, with one point per stage.
pub fn figure(evidence: &Evidence) -> Result<Figure, ReportError> {
    let mut figure = Figure::new(
        "stage-by-stage",
        "Accuracy from stage to stage",
        "Test accuracy of the clean head, of the attacker's target (not retrained), and of the victim retrained with poisoned features \
         and with the 8-bit images made of them. Between the last two is what inversion loses. Attacks on pixels have no poisoned \
         features. Error bars: standard deviation over seeds.",
    );
    for scene in evidence.scenes() {
        let (cases, left_out) = strongest(&scene.cases, LINES);
        if cases.is_empty() {
            continue;
        }
        // The first result is at the top.
        let place = |i: usize| (cases.len() - 1 - i) as f64;
        let series = STAGES.iter().enumerate().map(|(style, (_, name, q))| {
            let point = |(i, e): (usize, crate::statistics::Estimate)| {
                // Stages are shifted against each other, so that equal values do not hide each other.
                let aside = 0.1 * (1.5 - style as f64);
                Point { x: 100.0 * e.mean, y: place(i) + aside, spread: 100.0 * e.std }
            };
            let measured = cases.iter().enumerate().filter_map(|(i, case)| Some((i, case.mean(*q)?)));
            Series { name: (*name).to_owned(), points: measured.map(point).collect(), drawn: Drawn::Points, style }
        });
        let told = cases.iter().map(|case| {
            let values = STAGES
                .iter()
                .filter_map(|(name, _, q)| Some(format!("{name} {}", words::percent(case.mean(*q)?.mean))));
            format!("{}: {}.", case.label, values.collect::<Vec<_>>().join(", "))
        });
        let chart = Chart {
            title: titled(evidence, &scene.name, "accuracy from stage to stage"),
            x: Axis::linear("Test accuracy, %"),
            y: Axis::names("", cases.iter().rev().map(|c| c.label.clone()).collect()),
            series: series.filter(|s| !s.points.is_empty()).collect(),
            references: Vec::new(),
        };
        figure.chart(&chart, &told.collect::<Vec<_>>().join(" "))?;
        figure.remark(left_out);
    }
    Ok(figure.or("there is no result."))
}
