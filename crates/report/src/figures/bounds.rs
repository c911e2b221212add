//! The figure of poison fraction bounds: how many poisons a target needs, and how much accuracy it costs.

use super::{Figure, titled};
use crate::{
    Case, ReportError,
    case::quantity,
    chart::{Axis, Chart, Drawn, MOST, Point, Series},
    evidence::Evidence,
    words,
};
use hemlock_artifact::{PathPoint, TargetParams};

/// The least poison fraction that is shown, in per cent: heads that need less are as good as clean.
const LEAST: f64 = 0.01;

/// Draws drops over poison fractions: the bounds along the attacker's path, and measured attacks.
pub fn figure(evidence: &Evidence) -> Result<Figure, ReportError> {
    let mut figure = Figure::new(
        "poison-fraction-bound",
        "Poison fraction bound",
        "The curve goes along the attacker's path from the clean head: how much accuracy a head costs, over the lower bound of the poison fraction that \
         makes it stationary (the bound by support functions, docs/attacks.md); the triangle is the target. Other points: what Gradient \
         Canceling really cost with the share that it had, on features in the set that the bounds are for. Left of the triangle \
         there are too few poisons for the target, and the victim ends elsewhere.",
    );
    for scene in evidence.scenes() {
        // Bounds hold for poisons within one constraint, so the attack has to have the same.
        let set = |c: &Case, node: &str| c.parameter(node, "constraint").map(words::value);
        let aimed = |c: &&Case| {
            c.aim() == "gradient-canceling"
                && c.mean(quantity::drop_on_features).is_some()
                && set(c, "poison-features") == set(c, "target-params")
        };
        let cases: Vec<&Case> = scene.cases.iter().copied().filter(aimed).collect();
        let Some(first) = cases.first() else { continue };
        let Some(target) = evidence.read::<TargetParams>(&first.rows[0], "target")? else { continue };
        let clean = target.path.first().map_or(0.0, |p| p.test_accuracy);
        let place = |p: &PathPoint| {
            let x = 100.0 * p.poison_fraction_bound.support;
            (x >= LEAST && x.is_finite()).then_some(Point { x, y: 100.0 * (clean - p.test_accuracy), spread: 0.0 })
        };
        let end = target.path.last().and_then(place);
        // The last point may be a calibrated target, which is not on the path of the ascent.
        let ascent = &target.path[..target.path.len().saturating_sub(1)];
        let way = ascent.iter().filter_map(place).collect();
        let mut told: Vec<String> = Vec::new();
        if let Some(p) = end {
            let [takes, costs] = [p.x, p.y].map(|v| words::number(v, 1));
            told.push(format!("The target takes at least {takes} % of poisons and costs {costs} points."));
        }
        let named = |name: &str, points, drawn, style| Series { name: name.to_owned(), points, drawn, style };
        let mut series = vec![
            named("heads on the attacker's path", way, Drawn::Curve, 6),
            named("the target", end.into_iter().collect(), Drawn::Points, 2),
        ];
        let mut seen: Vec<String> = Vec::new();
        for case in &cases {
            // Several inversions of the same features are one point.
            let features = case.text(|node, _| node == "poison-features");
            let Some(e) = case.mean(quantity::drop_on_features).filter(|_| !seen.contains(&features)) else { continue };
            if seen.len() == MOST - 2 {
                break;
            }
            let point = Point { x: 100.0 * case.poison_fraction(), y: 100.0 * e.mean, spread: 100.0 * e.std };
            told.push(format!(
                "{} with {}: {} points.",
                case.label,
                words::share(case.poison_fraction()),
                words::number(point.y, 1)
            ));
            series.push(Series {
                name: features_of(case),
                points: vec![point],
                drawn: Drawn::Points,
                style: seen.len(),
            });
            seen.push(features);
        }
        let chart = Chart {
            title: titled(evidence, &scene.name, "what targets take, and cost"),
            x: Axis::log("Poisons, % of the clean count (logarithmic)"),
            y: Axis::from_zero("Accuracy drop, points"),
            series,
            references: Vec::new(),
        };
        figure.chart(&chart, &told.join(" "))?;
    }
    Ok(figure.or(
        "no Gradient Canceling on features was run in the set that the bounds are for ([target-params] constraint).",
    ))
}

/// The name of a case's poisoned features: solver, constraint and poison fraction.
fn features_of(case: &Case) -> String {
    let told = |field: &str| case.parameter("poison-features", field).map(words::value);
    let constraint = told("constraint").filter(|c| c != "none").unwrap_or_else(|| "no constraint".to_owned());
    format!("{}, {constraint}, {}", told("solver").unwrap_or_default(), words::share(case.poison_fraction()))
}
