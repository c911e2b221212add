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
use serde_json::Value;

/// Draws the certified accuracy and the accuracy under attacks over the number of poisons, a chart for each victim
/// whose certificate counts added samples.
pub fn figure(result_set: &ResultSet) -> Result<Figure, ReportError> {
    let mut figure = Figure::new(
        "certified",
        "Certified and attacked accuracy",
        "The curve is the accuracy that is certified: no attack that adds so many samples leaves the victim with less. \
         Points are attacks that were run. The true worst case is in the shaded gap, between the curve and the lowest \
         attack of as many poisons or fewer. Values are means over seeds, and error bars are standard deviations.",
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
            let (certified, attacks) = (certified(configs[0]), attacks(&configs));
            if attacks.len() > MOST - 1 {
                figure.remark(Some(" Further attacks are not drawn.".to_owned()));
            }
            let (chart, sentences) = chart(titled(result_set, &experiment.name, &victim), certified, attacks);
            figure.chart(&chart, &sentences)?;
        }
    }
    Ok(figure.or("no victim certifies how many added samples its predictions withstand (`kind = \"voting\"`)."))
}

/// The chart of a victim with its text. `certified` has the certified accuracy with 0, 1, 2 and so on poisons.
fn chart(title: String, certified: Vec<f64>, attacks: Vec<(String, Vec<Point>)>) -> (Chart, String) {
    let clean = certified[0];
    let at = |p: &Point| format!("{} % with {} poisons", words::number(p.y, 1), p.x);
    let mut sentences = vec![format!("{} % without poisons.", words::number(clean, 1))];
    let gap = gap(&certified, attacks.iter().flat_map(|(_, points)| points));
    if let Some(p) = gap.last() {
        sentences.push(format!("The gap is {} points wide with {} poisons.", words::number(2.0 * p.spread, 1), p.x));
    }
    let curve = (0..).zip(certified).skip(1).map(|(m, y)| Point { x: f64::from(m), y, spread: 0.0 }).collect();
    let mut series = vec![
        Series { name: "gap".to_owned(), points: gap, drawn: MarkKind::Band, style: 0 },
        Series { name: "certified".to_owned(), points: curve, drawn: MarkKind::Curve, style: 0 },
    ];
    for (style, (name, points)) in (1..MOST).zip(attacks) {
        sentences.push(format!("{name}: {}.", points.iter().map(at).collect::<Vec<_>>().join(", ")));
        series.push(Series { name, points, drawn: MarkKind::Line, style });
    }
    let chart = Chart {
        title,
        x: ChartAxis::log("Poisons"),
        y: ChartAxis::from_zero("Accuracy, %"),
        series,
        references: vec![(clean, "without poisons".to_owned())],
    };
    (chart, sentences.join(" "))
}

/// Where the worst case may be: a band from the certified accuracy up to the lowest accuracy that an attack of as many
/// poisons or fewer has reached. It ends at the largest number of poisons that an attack has.
fn gap<'p>(certified: &[f64], attacks: impl Iterator<Item = &'p Point>) -> Vec<Point> {
    let mut attacks: Vec<(usize, f64)> = attacks.map(|p| (p.x.ceil() as usize, p.y)).collect();
    attacks.sort_by_key(|(poisons, _)| *poisons);
    let most = attacks.last().map_or(0, |(poisons, _)| *poisons);
    // Between these numbers of poisons neither end changes.
    let mut corners: Vec<usize> =
        attacks.iter().flat_map(|(m, _)| [m.saturating_sub(1), *m]).chain(0..certified.len()).collect();
    corners.retain(|poisons| (1..=most).contains(poisons));
    corners.sort_unstable();
    corners.dedup();
    let band = |poisons: usize| {
        let reached = attacks.iter().take_while(|(m, _)| *m <= poisons).map(|(_, accuracy)| *accuracy);
        let (high, low) = (reached.fold(certified[0], f64::min), certified.get(poisons).copied().unwrap_or(0.0));
        Point { x: poisons as f64, y: (high + low) / 2.0, spread: (high - low) / 2.0 }
    };
    corners.into_iter().map(band).collect()
}

/// Whether the victim's certificate counts what attacks do: samples that are added.
fn counts_added(config: &ConfigGroup) -> bool {
    config.rows.iter().all(|row| row.certificate.as_ref().is_some_and(|c| c.unit.starts_with("samples added")))
}

/// The parameters of the victim with their values.
fn victim_params(config: &ConfigGroup) -> impl Iterator<Item = (&str, &Value)> {
    let row = config.row();
    let of_victim = row.roles.iter().filter(|(_, role)| **role == StageRole::Victim);
    let params = of_victim.filter_map(|(node, _)| row.params.get(node)?.as_object());
    params.flatten().map(|(field, value)| (field.as_str(), value))
}

/// The kind of the victim and its parameters, in words.
fn victim(config: &ConfigGroup) -> String {
    let fields = victim_params(config).filter(|(field, _)| *field != "kind");
    let fields = fields.map(|(field, value)| format!("{} {}", field.replace('_', " "), words::value(value)));
    std::iter::once(config.victim().to_owned()).chain(fields).collect::<Vec<_>>().join(", ")
}

/// The certified accuracy with 0, 1, 2 and so on poisons down to 0, in percent, mean over seeds.
fn certified(config: &ConfigGroup) -> Vec<f64> {
    let of = |row: &ResultRow, poisons: usize| {
        row.certificate.as_ref().and_then(|c| c.accuracy.get(poisons).copied()).unwrap_or(0.0)
    };
    let longest = config.rows.iter().filter_map(|row| Some(row.certificate.as_ref()?.accuracy.len())).max();
    let mean = |poisons| config.rows.iter().map(|row| of(row, poisons)).sum::<f64>() / config.rows.len() as f64;
    (0..=longest.unwrap_or(0)).map(|poisons| 100.0 * mean(poisons)).collect()
}

/// The accuracy under every attack over its number of poisons, with its name. Attacks that differ in the poison
/// fraction alone are one line.
fn attacks(configs: &[&ConfigGroup]) -> Vec<(String, Vec<Point>)> {
    let mut found: Vec<(String, Vec<Point>)> = Vec::new();
    for config in configs {
        let Some(e) = config.mean(|row| row.accuracy.poisoned().copied()) else { continue };
        let poisons = config.rows.iter().map(|row| row.poisons as f64).sum::<f64>() / config.rows.len() as f64;
        let point = Point { x: poisons, y: 100.0 * e.mean, spread: 100.0 * e.std };
        let of_victim = victim_params(config).map(|(field, _)| field);
        let name = config.label_without(&of_victim.chain(["poison_fraction"]).collect::<Vec<_>>());
        match found.iter_mut().find(|(other, _)| *other == name) {
            Some((_, points)) => points.push(point),
            None => found.push((name, vec![point])),
        }
    }
    found.iter_mut().for_each(|(_, points)| points.sort_by(|a, b| a.x.total_cmp(&b.x)));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_is_between_the_certificate_and_the_lowest_attack_so_far() {
        let attack = |x, y| Point { x, y, spread: 1.0 };
        // An attack of three poisons that is worse than one of two does not close the gap.
        let gap = gap(&[80.0, 60.0, 0.0], [attack(5.0, 50.0), attack(2.0, 70.0), attack(3.0, 75.0)].iter());
        let ends: Vec<(f64, f64, f64)> = gap.iter().map(|p| (p.x, p.y - p.spread, p.y + p.spread)).collect();
        let expected = [(1.0, 60.0, 80.0), (2.0, 0.0, 70.0), (3.0, 0.0, 70.0), (4.0, 0.0, 70.0), (5.0, 0.0, 50.0)];
        assert_eq!(ends, expected);
    }

    #[test]
    fn without_attacks_there_is_no_gap() {
        assert!(gap(&[80.0, 0.0], [].iter()).is_empty());
        let (chart, text) = chart("A victim".to_owned(), vec![80.0, 0.0], Vec::new());
        assert!(text == "80.0 % without poisons." && chart.svg().is_ok(), "{text}");
    }
}
