//! The figure of poison fraction bounds: how many poisons a target needs, and how much accuracy it costs.

use super::{Figure, features_name, titled};
use crate::{
    ConfigGroup, ReportError,
    chart::{Chart, ChartAxis, MOST, MarkKind, Point, Series},
    config_group::quantity,
    result_set::ResultSet,
    words,
};
use hemlock_artifact::{PathPoint, TargetParams};
use hemlock_attack::attacks;
use hemlock_pipeline::nodes;

/// The least poison fraction that is shown, in per cent: heads that need less are as good as clean.
const LEAST: f64 = 0.01;

/// Draws drops over poison fractions: the bounds along the attacker's path, and measured attacks.
pub fn figure(result_set: &ResultSet) -> Result<Figure, ReportError> {
    let mut figure = Figure::new(
        "poison-fraction-bound",
        "Poison fraction bound",
        "The curve shows the heads on the attacker's path from the clean head to the target: how much accuracy each of \
         them costs, over the lower bound of the poison fraction that makes it a stationary point of training (the \
         bound by support functions, see docs/attacks.md). The triangle is the target. The other points are measured \
         attacks on features that aim at the target, within the constraint that the bounds hold for. Left of the \
         triangle there are too few poisons for the target, and training ends at another head. Error bars are standard \
         deviations over seeds.",
    );
    for experiment in result_set.experiments() {
        let configs: Vec<&ConfigGroup> = experiment.configs.iter().copied().filter(|c| is_bounded(c)).collect();
        let Some(first) = configs.first() else { continue };
        let Some(target) = result_set.read::<TargetParams>(first.row(), "target")? else { continue };
        let (path, of_target) = path(&target);
        let (attacks, of_attacks) = measured(result_set, &configs);
        let chart = Chart {
            title: titled(result_set, &experiment.name, "what targets take, and cost"),
            x: ChartAxis::log("Poisons, % of the clean count (logarithmic)"),
            y: ChartAxis::from_zero("Accuracy drop, points"),
            series: path.into_iter().chain(attacks).collect(),
            references: Vec::new(),
        };
        let description: Vec<String> = of_target.into_iter().chain(of_attacks).collect();
        figure.chart(&chart, &description.join(" "))?;
    }
    Ok(figure.or("no attack on features that aims at a target was run within the constraint that the bounds hold for \
         (`constraint` of [target-params])."))
}

/// Whether the bounds along the path hold for an attack: it aims at the target, on features within the same constraint.
fn is_bounded(config: &ConfigGroup) -> bool {
    attacks::find(config.aim()).is_some_and(|attack| attack.uses_target())
        && config.mean(quantity::drop_on_features).is_some()
        && config.of_feature_attack("constraint") == config.parameter(nodes::TARGET, "constraint")
}

/// The heads on the attacker's path and the target, as two series, and a sentence about the target.
fn path(target: &TargetParams) -> ([Series; 2], Option<String>) {
    let clean = target.path.first().map_or(0.0, |p| p.test_accuracy);
    let place = |p: &PathPoint| {
        let x = 100.0 * p.poison_fraction_bound.support;
        (x >= LEAST && x.is_finite()).then_some(Point { x, y: 100.0 * (clean - p.test_accuracy), spread: 0.0 })
    };
    let end = target.path.last().and_then(place);
    // The last point may be a calibrated target, which is not on the path of the ascent.
    let ascent = &target.path[..target.path.len().saturating_sub(1)];
    let path = ascent.iter().filter_map(place).collect();
    let named = |name: &str, points, drawn, style| Series { name: name.to_owned(), points, drawn, style };
    let series = [
        named("heads on the attacker's path", path, MarkKind::Curve, 6),
        named("the target", end.into_iter().collect(), MarkKind::Points, 2),
    ];
    let sentence = end.map(|p| {
        let [needs, costs] = [p.x, p.y].map(|v| words::number(v, 1));
        format!("The target needs at least {needs} % of poisons and costs {costs} points.")
    });
    (series, sentence)
}

/// The measured attacks, a series and a sentence each. Several inversions of the same features are one point.
fn measured(result_set: &ResultSet, configs: &[&ConfigGroup]) -> (Vec<Series>, Vec<String>) {
    let (mut series, mut sentences, mut seen) = (Vec::new(), Vec::new(), Vec::new());
    for config in configs {
        let features = result_set.input(config.row(), "poison_features").map(|task| task.key);
        let Some(e) = config.mean(quantity::drop_on_features).filter(|_| !seen.contains(&features)) else { continue };
        if series.len() == MOST - 2 {
            break;
        }
        let fraction = config.poison_fraction();
        let point = Point { x: 100.0 * fraction, y: 100.0 * e.mean, spread: 100.0 * e.std };
        let [share, drop] = [words::share(fraction), words::number(point.y, 1)];
        sentences.push(format!("{} with {share}: {drop} points.", config.label));
        let (name, style) = (features_name(config), series.len());
        series.push(Series { name, points: vec![point], drawn: MarkKind::Points, style });
        seen.push(features);
    }
    (series, sentences)
}
