//! Accuracy from stage to stage of the attack.

use super::{Figure, strongest, titled};
use crate::{
    ReportError,
    case::{Quantity, quantity},
    chart::{Axis, Chart, Drawn, MOST, Point, Series},
    evidence::Evidence,
    words,
};

const STAGES: [(&str, Quantity); 4] = [
    ("clean", quantity::clean),
    ("target", quantity::target),
    ("features", quantity::features),
    ("images", quantity::images),
];

pub fn figure(evidence: &Evidence) -> Result<Figure, ReportError> {
    let mut figure = Figure::new(
        "stage-by-stage",
        "Accuracy from stage to stage",
        "Test accuracy of the clean head, of the attacker's target (not retrained), and of the victim retrained with poisoned features \
         and with the 8-bit images made of them. Between the last two is what inversion loses. Attacks on pixels have no poisoned \
         features. Error bars: standard deviation over seeds.",
    );
    for scene in evidence.scenes() {
        let (cases, left_out) = strongest(&scene.cases, MOST);
        if cases.is_empty() {
            continue;
        }
        let mut told = Vec::new();
        let series = cases.iter().enumerate().map(|(style, case)| {
            let mean = |q: Quantity| case.mean(q);
            let points = STAGES.iter().enumerate().filter_map(|(i, (_, q))| {
                let e = mean(*q)?;
                // Side by side, so that bars can be told apart.
                let aside = 0.05 * (style as f64 - (cases.len() - 1) as f64 / 2.0);
                Some(Point { x: i as f64 + aside, y: 100.0 * e.mean, spread: 100.0 * e.std })
            });
            let points: Vec<Point> = points.collect();
            let values =
                STAGES.iter().filter_map(|(name, q)| Some(format!("{name} {}", words::percent(mean(*q)?.mean))));
            told.push(format!("{}: {}.", case.label, values.collect::<Vec<_>>().join(", ")));
            Series { name: case.label.clone(), points, drawn: Drawn::Line, style }
        });
        let chart = Chart {
            title: titled(evidence, &scene.name, "accuracy from stage to stage"),
            x: Axis::names("Trained on, or taken from", STAGES.iter().map(|(name, _)| (*name).to_owned()).collect()),
            y: Axis::from_zero("Test accuracy, %"),
            series: series.collect(),
            references: Vec::new(),
        };
        figure.chart(&chart, &told.join(" "))?;
        figure.remark(left_out);
    }
    Ok(figure.or("there is no result."))
}
