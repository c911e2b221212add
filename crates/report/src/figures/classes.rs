//! The figure of classes: how much accuracy the strongest attack costs in each.

use super::{Figure, strongest, titled};
use crate::{
    ReportError,
    chart::{Chart, ChartAxis, MarkKind, Point, Series},
    result_set::ResultSet,
    statistics::Estimate,
    words,
};
use hemlock_artifact::Features;

/// The largest number of classes whose names fit on an axis.
const NAMED: usize = 12;

/// Draws the change of accuracy within every class, for the attack with the largest drop.
pub fn figure(result_set: &ResultSet) -> Result<Figure, ReportError> {
    let mut figure = Figure::new(
        "classes",
        "Change of accuracy by class",
        "The chart shows the accuracy within each class under the attack with the largest drop, minus that of the \
         clean victim, in ascending order. If there are few classes, error bars show standard deviations over seeds.",
    );
    for experiment in result_set.experiments() {
        let (configs, _) = strongest(&experiment.configs, 1);
        let Some(config) = configs.first() else { continue };
        let classes = config.rows[0].per_class.clean.len();
        let change = |k: usize| {
            let of = |r: &hemlock_pipeline::ResultRow| {
                let poisoned = r.per_class.poisoned()?;
                Some(poisoned.get(k).copied().flatten()? - r.per_class.clean.get(k).copied().flatten()?)
            };
            config.mean(of)
        };
        let mut changes: Vec<(usize, Estimate)> = (0..classes).filter_map(|k| Some((k, change(k)?))).collect();
        if changes.is_empty() {
            continue;
        }
        changes.sort_by(|a, b| a.1.mean.total_cmp(&b.1.mean));
        let known = result_set.read::<Features>(&config.rows[0], "features")?.map(|f| f.classes).unwrap_or_default();
        let name = |k: usize| known.get(k).cloned().unwrap_or_else(|| k.to_string());
        let names: Vec<String> = changes.iter().map(|(k, _)| name(*k)).collect();
        let named = names.len() <= NAMED;
        let at = |(i, (_, e)): (usize, &(usize, Estimate))| {
            let (place, change) = (i as f64, 100.0 * e.mean);
            let (x, y) = if named { (change, place) } else { (place + 1.0, change) };
            // Error bars of many classes would cover each other.
            Point { x, y, spread: if named { 100.0 * e.std } else { 0.0 } }
        };
        let points = changes.iter().enumerate().map(at).collect();
        let change = ChartAxis::from_zero("Change of accuracy, points");
        let (x, y) = match named {
            true => (change, ChartAxis::names("Class", names.clone())),
            false => (ChartAxis::linear("Classes, in ascending order of the change"), change),
        };
        let chart = Chart {
            title: titled(result_set, &experiment.name, &config.label),
            x,
            y,
            series: vec![Series { name: String::new(), points, drawn: MarkKind::Bars, style: 0 }],
            references: Vec::new(),
        };
        let values = changes.iter().zip(&names).map(|((_, e), name)| format!("{name} {}", words::percent(e.mean)));
        figure.chart(&chart, &format!("Points by class: {}.", values.collect::<Vec<_>>().join(", ")))?;
        if let (true, Some(first), Some(last)) = (names.len() > NAMED, names.first(), names.last()) {
            figure.caption += &format!(" In {}, class {first} loses most and class {last} least.", experiment.name);
        }
    }
    Ok(figure.or("no result has accuracy by class."))
}
