//! The figures of optimisation: objectives of attacks, and losses of pre-training.

use super::{Figure, strongest, titled};
use crate::{
    Case, ReportError,
    chart::{Axis, Chart, Drawn, MOST, Point, Series},
    evidence::Evidence,
    words,
};
use hemlock_artifact::{CurvePoint, Extractor, PoisonFeatures, Poisons};
use hemlock_attack::attacks;

fn points(curve: &[CurvePoint]) -> Vec<Point> {
    curve.iter().map(|p| Point { x: f64::from(p.step), y: p.objective, spread: 0.0 }).collect()
}

/// The name of an attack's objective, for an axis.
pub(super) fn objective(aim: &str) -> String {
    let shown = match attacks::find(aim) {
        Some(attack) => attack.value_label(),
        None if aim == hemlock_unlearnable::NAME => hemlock_unlearnable::VALUE_LABEL,
        None => "objective",
    };
    words::capital(shown.strip_prefix("the ").unwrap_or(shown))
}

/// A chart of one objective at one stage.
struct Panel {
    aim: String,
    stage: &'static str,
    x: &'static str,
    series: Vec<Series>,
}

/// Draws the objectives of attacks along their steps.
pub fn of_attacks(evidence: &Evidence) -> Result<Figure, ReportError> {
    let mut figure = Figure::new(
        "attack-curves",
        "How attacks went",
        "What each attack optimises, along its steps, for its first seed: on features, and on images while they are refined or attacked at once. \
         Gradient Canceling and noise go down; the bilevel attack and TGDA go up. Matching is each image by itself.",
    );
    for scene in evidence.scenes() {
        let mut panels: Vec<Panel> = Vec::new();
        let mut add = |aim: &str, stage, x, name: String, curve: &[CurvePoint]| {
            if curve.len() < 2 {
                return;
            }
            let points = points(curve);
            let at = panels.iter().position(|p| p.aim == aim && p.stage == stage).unwrap_or_else(|| {
                panels.push(Panel { aim: aim.to_owned(), stage, x, series: Vec::new() });
                panels.len() - 1
            });
            let series = &mut panels[at].series;
            let same = |s: &Series| s.points.iter().map(|p| p.y.to_bits()).eq(points.iter().map(|p| p.y.to_bits()));
            if series.len() < MOST && !series.iter().any(same) {
                series.push(Series { name, points, drawn: Drawn::Curve, style: series.len() });
            }
        };
        let (cases, left_out) = strongest(&scene.cases, MOST);
        for case in &cases {
            let row = &case.rows[0];
            if let Some(features) = evidence.read::<PoisonFeatures>(row, "poison_features")? {
                add(case.aim(), "on features", "Step", features_label(case), &features.curve);
            }
            if let Some(poisons) = evidence.read::<Poisons>(row, "poisons")? {
                add(case.aim(), "on images", "Step", case.label.clone(), &poisons.refined);
                add(
                    "feature matching",
                    "mean loss",
                    "Passes through the extractor",
                    case.label.clone(),
                    &poisons.curve,
                );
            }
        }
        for panel in panels {
            let title = format!("{}, {}", panel.aim, panel.stage);
            let told = panel.series.iter().filter_map(|s| {
                let (first, last) = (s.points.first()?, s.points.last()?);
                let ends = [first.y, last.y].map(|y| words::number(y, 3));
                Some(format!("{}: from {} to {} in {} steps.", s.name, ends[0], ends[1], last.x))
            });
            let told = told.collect::<Vec<_>>().join(" ");
            let matching = panel.aim == "feature matching";
            let chart = Chart {
                title: titled(evidence, &scene.name, &title),
                x: Axis::count(panel.x),
                y: if matching {
                    Axis::log("Squared feature distance + penalty")
                } else {
                    Axis::linear(objective(&panel.aim))
                },
                series: panel.series,
                references: Vec::new(),
            };
            figure.chart(&chart, &told)?;
        }
        figure.remark(left_out);
    }
    Ok(figure.or("no attack left a curve."))
}

/// A label of a case's poisoned features, which all inversions of these share.
fn features_label(case: &Case) -> String {
    let told = |field: &str| case.parameter("poison-features", field).map(words::value).unwrap_or_default();
    let constraint = match told("constraint").as_str() {
        "none" => "no constraint".to_owned(),
        other => other.to_owned(),
    };
    format!("{constraint}, {}, {}", told("solver"), words::share(case.poison_fraction()))
}

/// Draws the loss of pre-training by epoch, and the accuracy of nearest neighbours.
pub fn pretraining(evidence: &Evidence) -> Result<Figure, ReportError> {
    let mut figure = Figure::new(
        "pretraining",
        "How pre-training went",
        "Mean loss of every epoch of pre-training, and where it was measured, accuracy of nearest neighbours among the embeddings. Losses of \
         different methods are of different kinds.",
    );
    let mut seen = Vec::new();
    let (mut loss, mut knn) = (Vec::new(), Vec::new());
    for case in &evidence.cases {
        let Some(task) = evidence.input(&case.rows[0], "extractor") else { continue };
        if seen.contains(&task.key) || seen.len() == MOST {
            continue;
        }
        seen.push(task.key);
        let Some(extractor) = evidence.read::<Extractor>(&case.rows[0], "extractor")? else { continue };
        if extractor.curve.is_empty() {
            continue;
        }
        let on = case.pretrained_on().map(|s| format!(" on {}", crate::setting::source(&s))).unwrap_or_default();
        let name = format!("{}, {}{on}", extractor.arch, extractor.method);
        let style = loss.len();
        let series = |of: &dyn Fn(&hemlock_artifact::Epoch) -> Option<f64>| {
            let point = |e: &hemlock_artifact::Epoch| Some(Point { x: f64::from(e.epoch), y: of(e)?, spread: 0.0 });
            Series {
                name: name.clone(),
                points: extractor.curve.iter().filter_map(point).collect(),
                drawn: Drawn::Line,
                style,
            }
        };
        loss.push(series(&|e| Some(e.loss)));
        let neighbours = series(&|e| e.knn.map(|a| 100.0 * a));
        if !neighbours.points.is_empty() {
            knn.push(neighbours);
        }
    }
    for (series, title, y) in [(loss, "Loss", "Mean loss, nats"), (knn, "Nearest neighbours", "Accuracy, %")] {
        if series.is_empty() {
            continue;
        }
        let told = series.iter().filter_map(|s| {
            Some(format!("{}: {} after {} epochs.", s.name, words::number(s.points.last()?.y, 3), s.points.last()?.x))
        });
        let told = told.collect::<Vec<_>>().join(" ");
        let chart = Chart {
            title: title.to_owned(),
            x: Axis::count("Epoch"),
            y: Axis::linear(y),
            series,
            references: Vec::new(),
        };
        figure.chart(&chart, &told)?;
    }
    Ok(figure.or("no extractor was trained here."))
}
