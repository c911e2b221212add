//! The figures of optimisation: objectives of attacks, and losses of pre-training.

use super::{Figure, features_name, strongest, titled};
use crate::{
    ConfigGroup, ReportError,
    chart::{Chart, ChartAxis, MOST, MarkKind, Point, Series},
    result_set::ResultSet,
    words,
};
use hemlock_artifact::{AttackId, CurvePoint, ExtractorArtifact, PoisonFeatures, Poisons};
use hemlock_attack::attacks;

fn points(curve: &[CurvePoint]) -> Vec<Point> {
    curve.iter().map(|p| Point { x: f64::from(p.step), y: p.objective, spread: 0.0 }).collect()
}

/// The name of an attack's objective, for an axis.
pub(super) fn objective(aim: &str) -> String {
    let shown = match attacks::find(aim) {
        Some(attack) => attack.value_label(),
        None => AttackId::noise_label(aim).unwrap_or("objective"),
    };
    words::capital(shown.strip_prefix("the ").unwrap_or(shown))
}

/// The curves of one objective, which share a chart.
struct ObjectiveCurves {
    /// What the title of the chart says: the objective, and where it was minimised or maximised.
    title: String,
    x: &'static str,
    y: ChartAxis,
    series: Vec<Series>,
}

/// Draws the objectives of attacks along their steps.
pub fn of_attacks(result_set: &ResultSet) -> Result<Figure, ReportError> {
    let mut figure = Figure::new(
        "attack-curves",
        "How attacks went",
        "The charts show what each attack optimises along its steps, for its first seed: on features, and on images \
         while they are refined or attacked directly. The objectives of Gradient Canceling and of noise \
         fall; those of the bilevel attack and of TGDA rise. Feature matching moves each image separately, and \
         its curve is the mean over the images.",
    );
    for experiment in result_set.experiments() {
        let (configs, left_out) = strongest(&experiment.configs, MOST);
        for curves in of_configs(result_set, &configs)? {
            let sentences = curves.series.iter().filter_map(|s| {
                let (first, last) = (s.points.first()?, s.points.last()?);
                let ends = [first.y, last.y].map(|y| words::number(y, 3));
                Some(format!("{}: from {} to {} in {} steps.", s.name, ends[0], ends[1], last.x))
            });
            let description = sentences.collect::<Vec<_>>().join(" ");
            let chart = Chart {
                title: titled(result_set, &experiment.name, &curves.title),
                x: ChartAxis::count(curves.x),
                y: curves.y,
                series: curves.series,
                references: Vec::new(),
            };
            figure.chart(&chart, &description)?;
        }
        figure.remark(left_out);
    }
    Ok(figure.or("no attack left a curve."))
}

/// The curves of some configurations, by what they are curves of.
fn of_configs(result_set: &ResultSet, configs: &[&ConfigGroup]) -> Result<Vec<ObjectiveCurves>, ReportError> {
    let mut all: Vec<ObjectiveCurves> = Vec::new();
    let mut add = |title: String, x, y: ChartAxis, name: String, curve: &[CurvePoint]| {
        if curve.len() < 2 {
            return;
        }
        let points = points(curve);
        let at = all.iter().position(|curves| curves.title == title).unwrap_or_else(|| {
            all.push(ObjectiveCurves { title, x, y, series: Vec::new() });
            all.len() - 1
        });
        let series = &mut all[at].series;
        let same = |s: &Series| s.points.iter().map(|p| p.y.to_bits()).eq(points.iter().map(|p| p.y.to_bits()));
        if series.len() < MOST && !series.iter().any(same) {
            series.push(Series { name, points, drawn: MarkKind::Curve, style: series.len() });
        }
    };
    for config in configs {
        let aim = config.aim();
        let y = || ChartAxis::linear(objective(aim));
        if let Some(features) = result_set.read::<PoisonFeatures>(config.row(), "poison_features")? {
            add(format!("{aim}, on features"), "Step", y(), features_name(config), &features.curve);
        }
        if let Some(poisons) = result_set.read::<Poisons>(config.row(), "poisons")? {
            add(format!("{aim}, on images"), "Step", y(), config.label.clone(), &poisons.refined);
            let loss = ChartAxis::log("Squared feature distance + penalty");
            let passes = "Passes through the extractor";
            add("feature matching, mean loss".to_owned(), passes, loss, config.label.clone(), &poisons.curve);
        }
    }
    Ok(all)
}

/// Draws the loss of pre-training by epoch, and the accuracy of nearest neighbours.
pub fn pretraining(result_set: &ResultSet) -> Result<Figure, ReportError> {
    let mut figure = Figure::new(
        "pretraining",
        "How pre-training went",
        "The charts show the mean loss of every epoch of pre-training and, where it was measured, the accuracy of a \
         classifier by nearest neighbours on the embeddings. Losses of different methods cannot be compared.",
    );
    let mut seen = Vec::new();
    let (mut loss, mut knn) = (Vec::new(), Vec::new());
    for config in &result_set.configs {
        let Some(task) = result_set.input(&config.rows[0], "extractor") else { continue };
        if seen.contains(&task.key) || seen.len() == MOST {
            continue;
        }
        seen.push(task.key);
        let Some(extractor) = result_set.read::<ExtractorArtifact>(&config.rows[0], "extractor")? else { continue };
        if extractor.curve.is_empty() {
            continue;
        }
        let on = config.pretrained_on().map(|s| format!(" on {}", crate::setting::source(&s))).unwrap_or_default();
        let name = format!("{}, {}{on}", extractor.arch, extractor.method);
        let style = loss.len();
        let series = |of: &dyn Fn(&hemlock_artifact::Epoch) -> Option<f64>| {
            let point = |e: &hemlock_artifact::Epoch| Some(Point { x: f64::from(e.epoch), y: of(e)?, spread: 0.0 });
            Series {
                name: name.clone(),
                points: extractor.curve.iter().filter_map(point).collect(),
                drawn: MarkKind::Line,
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
        let sentences = series.iter().filter_map(|s| {
            Some(format!("{}: {} after {} epochs.", s.name, words::number(s.points.last()?.y, 3), s.points.last()?.x))
        });
        let description = sentences.collect::<Vec<_>>().join(" ");
        let chart = Chart {
            title: title.to_owned(),
            x: ChartAxis::count("Epoch"),
            y: ChartAxis::linear(y),
            series,
            references: Vec::new(),
        };
        figure.chart(&chart, &description)?;
    }
    Ok(figure.or("no extractor was trained here."))
}
