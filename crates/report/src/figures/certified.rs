//! The figure of certified accuracy: what no attack can go below, and what attacks have reached.

use super::{Figure, titled};
use crate::{
    ConfigGroup, ReportError,
    chart::{Chart, ChartAxis, MOST, MarkKind, Point, Series},
    result_set::ResultSet,
    words,
};
use hemlock_pipeline::ResultRow;
use hemlock_stage::StageRole;

/// Draws the certified accuracy and the accuracy under attacks over the number of poisons, a chart for each victim
/// whose certificate counts added samples.
pub fn figure(result_set: &ResultSet) -> Result<Figure, ReportError> {
    let mut figure = Figure::new(
        "certified",
        "Certified and attacked accuracy",
        "The curve is the accuracy that is certified: no attack that adds so many samples leaves the victim with less. \
         Points are attacks that were run. The true worst case is between the curve and the lowest point. Values are \
         means over seeds, and error bars are standard deviations.",
    );
    for experiment in result_set.experiments() {
        let mut victims: Vec<(String, Vec<&ConfigGroup>)> = Vec::new();
        for config in experiment.configs.iter().copied().filter(|c| counts_added(c) && !c.replaces()) {
            let victim = victim(config);
            match victims.iter_mut().find(|(other, _)| *other == victim) {
                Some((_, configs)) => configs.push(config),
                None => victims.push((victim, vec![config])),
            }
        }
        for (victim, configs) in victims {
            let certified = certified(configs[0]);
            let at = |p: &Point| format!("{} % with {} poisons", words::number(p.y, 1), p.x);
            let mut sentences = vec![format!("Certified: {}.", certified.points.first().map(at).unwrap_or_default())];
            let mut series = vec![certified];
            for (name, points) in attacks(&configs) {
                if series.len() == MOST {
                    figure.remark(Some(" Further attacks are not drawn.".to_owned()));
                    break;
                }
                sentences.push(format!("{name}: {}.", points.iter().map(at).collect::<Vec<_>>().join(", ")));
                series.push(Series { name, points, drawn: MarkKind::Line, style: series.len() });
            }
            let chart = Chart {
                title: titled(result_set, &experiment.name, &victim),
                x: ChartAxis::count("Poisons"),
                y: ChartAxis::from_zero("Accuracy, %"),
                series,
                references: Vec::new(),
            };
            figure.chart(&chart, &sentences.join(" "))?;
        }
    }
    Ok(figure.or("no victim certifies how many added samples its predictions withstand (`kind = \"voting\"`)."))
}

/// Whether the victim's certificate counts what attacks do: samples that are added.
fn counts_added(config: &ConfigGroup) -> bool {
    config.rows.iter().all(|row| row.certificate.as_ref().is_some_and(|c| c.unit.starts_with("samples added")))
}

/// The kind of the victim and its parameters.
fn victim(config: &ConfigGroup) -> String {
    let row = config.row();
    let of_victim = row.roles.iter().filter(|(_, role)| **role == StageRole::Victim);
    let params = of_victim.filter_map(|(node, _)| row.params.get(node)?.as_object());
    let fields = params.flatten().filter(|(field, _)| *field != "kind");
    let fields: Vec<String> = fields.map(|(field, value)| format!("{field} {}", words::value(value))).collect();
    if fields.is_empty() { config.victim().to_owned() } else { format!("{}, {}", config.victim(), fields.join(", ")) }
}

/// The certified accuracy at every number of poisons, mean over seeds.
fn certified(config: &ConfigGroup) -> Series {
    let of = |row: &ResultRow, poisons: usize| {
        row.certificate.as_ref().and_then(|c| c.accuracy.get(poisons).copied()).unwrap_or(0.0)
    };
    let longest = config.rows.iter().filter_map(|row| Some(row.certificate.as_ref()?.accuracy.len())).max();
    let point = |poisons: usize| {
        let mean = config.rows.iter().map(|row| of(row, poisons)).sum::<f64>() / config.rows.len() as f64;
        Point { x: poisons as f64, y: 100.0 * mean, spread: 0.0 }
    };
    let points = (0..=longest.unwrap_or(0)).map(point).collect();
    Series { name: "certified".to_owned(), points, drawn: MarkKind::Curve, style: 0 }
}

/// The accuracy under every attack over its number of poisons, with its name. Attacks that differ in the poison
/// fraction alone are one line.
fn attacks(configs: &[&ConfigGroup]) -> Vec<(String, Vec<Point>)> {
    let mut found: Vec<(String, Vec<Point>)> = Vec::new();
    for config in configs {
        let Some(e) = config.mean(|row| row.accuracy.poisoned().copied()) else { continue };
        let poisons = config.rows.iter().map(|row| row.poisons as f64).sum::<f64>() / config.rows.len() as f64;
        let point = Point { x: poisons, y: 100.0 * e.mean, spread: 100.0 * e.std };
        let name = config.label_without(&["poison_fraction", "kind", "heads", "spread", "election"]);
        match found.iter_mut().find(|(other, _)| *other == name) {
            Some((_, points)) => points.push(point),
            None => found.push((name, vec![point])),
        }
    }
    found.iter_mut().for_each(|(_, points)| points.sort_by(|a, b| a.x.total_cmp(&b.x)));
    found
}
