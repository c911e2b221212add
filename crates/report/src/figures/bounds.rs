//! What a target takes, and what attacks on it cost.

use super::{Figure, titled};
use crate::{
    Case, ReportError,
    case::quantity,
    chart::{Axis, Chart, Drawn, MOST, Point, Series},
    evidence::Evidence,
    words,
};
use hemlock_artifact::TargetParams;

/// Poisonability of the targets against measured drops.
pub fn figure(evidence: &Evidence) -> Result<Figure, ReportError> {
    let mut figure = Figure::new(
        "poisonability",
        "Poisonability",
        "The curve goes along the attacker's path from the clean head to the target: how much accuracy a head would cost, over the least \
         share of poisons that can make it stationary (the bound by support functions; docs/attacks.md). Points: what Gradient \
         Canceling cost with the share that it had, on features. No point can be above the curve by reaching its target; where poisons \
         are too few for the target, the victim ends elsewhere.",
    );
    for m in &evidence.measured {
        let aimed = |c: &&Case| c.aim() == "gradient-canceling" && c.mean(quantity::drop_on_features).is_some();
        let cases: Vec<&Case> = evidence.of(m).into_iter().filter(aimed).collect();
        let Some(first) = cases.first() else { continue };
        let Some(target) = evidence.read::<TargetParams>(&first.rows[0], "target")? else { continue };
        let clean = target.path.first().map_or(0.0, |p| p.test_accuracy);
        let path: Vec<Point> = target
            .path
            .iter()
            .filter(|p| p.poisonability.support.is_finite())
            .map(|p| Point { x: 100.0 * p.poisonability.support, y: 100.0 * (clean - p.test_accuracy), spread: 0.0 })
            .collect();
        let mut told: Vec<String> = path
            .last()
            .map(|p| {
                format!(
                    "The target takes at least {} % of poisons and costs {} points.",
                    words::number(p.x, 1),
                    words::number(p.y, 1)
                )
            })
            .into_iter()
            .collect();
        let mut series = vec![Series {
            name: "heads on the way to the target".to_owned(),
            points: path,
            drawn: Drawn::Curve,
            style: 6,
        }];
        let mut seen: Vec<String> = Vec::new();
        for case in &cases {
            // Inversions of the same features are one point.
            let features = case.text(|node, _| node == "poison-features");
            let Some(e) = case.mean(quantity::drop_on_features).filter(|_| !seen.contains(&features)) else { continue };
            if seen.len() == MOST - 1 {
                break;
            }
            let point = Point { x: 100.0 * case.eps_d(), y: 100.0 * e.mean, spread: 100.0 * e.std };
            told.push(format!(
                "{} with {}: {} points.",
                case.label,
                words::share(case.eps_d()),
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
            title: titled(evidence, &m.subject.spec.name, "what targets take, and cost"),
            x: Axis::from_zero("Poisons, % of the clean count"),
            y: Axis::from_zero("Accuracy drop, points"),
            series,
            references: Vec::new(),
        };
        figure.chart(&chart, &told.join(" "))?;
    }
    Ok(figure.or("no attack on features aims at a target: bounds are of Gradient Canceling."))
}

/// What a case's features are called.
fn features_of(case: &Case) -> String {
    let told = |field: &str| case.parameter("poison-features", field).map(words::value);
    let constraint = told("constraint").filter(|c| c != "none").unwrap_or_else(|| "no constraint".to_owned());
    format!("{}, {constraint}, {}", told("solver").unwrap_or_default(), words::share(case.eps_d()))
}
