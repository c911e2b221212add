//! The figure of stages: accuracy from stage to stage of an attack.

use super::{Figure, strongest, titled};
use crate::{
    ReportError,
    chart::{Chart, ChartAxis, MarkKind, Point, Series},
    config_group::{Quantity, quantity},
    result_set::ResultSet,
    words,
};

/// The stages: a short name, the name of the series, and the quantity.
const STAGES: [(&str, &str, Quantity); 4] = [
    ("clean", "clean head", quantity::clean),
    ("target", "target head", quantity::target),
    ("features", "retrained on poisoned features", quantity::features),
    ("images", "retrained on poisoned images", quantity::images),
];
/// The largest number of results in a chart.
const LINES: usize = 24;

/// Draws one row per result, with one point per stage.
pub fn figure(result_set: &ResultSet) -> Result<Figure, ReportError> {
    let mut figure = Figure::new(
        "stage-by-stage",
        "Accuracy from stage to stage",
        "The chart shows the test accuracy of the clean head, of the attacker's target head (which is not retrained), \
         and of the victim that is retrained on poisoned features and on the images made from them. The difference \
         between the last two is what inversion loses. Attacks on pixels have no poisoned features. Error bars are \
         standard deviations over seeds.",
    );
    for experiment in result_set.experiments() {
        let (configs, left_out) = strongest(&experiment.configs, LINES);
        if configs.is_empty() {
            continue;
        }
        // The first result is at the top.
        let place = |i: usize| (configs.len() - 1 - i) as f64;
        let series = STAGES.iter().enumerate().map(|(style, (_, name, q))| {
            let point = |(i, e): (usize, crate::statistics::Estimate)| {
                // Stages are shifted against each other, so that equal values do not hide each other.
                let aside = 0.1 * (1.5 - style as f64);
                Point { x: 100.0 * e.mean, y: place(i) + aside, spread: 100.0 * e.std }
            };
            let measured = configs.iter().enumerate().filter_map(|(i, config)| Some((i, config.mean(*q)?)));
            Series { name: (*name).to_owned(), points: measured.map(point).collect(), drawn: MarkKind::Points, style }
        });
        let sentences = configs.iter().map(|config| {
            let values = STAGES
                .iter()
                .filter_map(|(name, _, q)| Some(format!("{name} {}", words::percent(config.mean(*q)?.mean))));
            format!("{}: {}.", config.label, values.collect::<Vec<_>>().join(", "))
        });
        let chart = Chart {
            title: titled(result_set, &experiment.name, "accuracy from stage to stage"),
            x: ChartAxis::linear("Test accuracy, %"),
            y: ChartAxis::names("", configs.iter().rev().map(|c| c.label.clone()).collect()),
            series: series.filter(|s| !s.points.is_empty()).collect(),
            references: Vec::new(),
        };
        figure.chart(&chart, &sentences.collect::<Vec<_>>().join(" "))?;
        figure.remark(left_out);
    }
    Ok(figure.or("there is no result."))
}
