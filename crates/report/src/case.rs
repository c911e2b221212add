//! Cases: results that differ in nothing but seeds, and how each is called.

use crate::{
    findings::passes,
    joint::{Side, joint},
    setting::source,
    statistics::Estimate,
    strength::{self, Strength},
    words,
};
use hemlock_artifact::AttackId;
use hemlock_attack::attacks;
use hemlock_invert::REFINED;
use hemlock_pipeline::{REPLICATED, Row, grouped, telling};
use hemlock_stage::StageRole;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A number of a row, where it has it.
pub type Quantity = fn(&Row) -> Option<f64>;

/// Whether an extractor was pre-trained on the data that the head is trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pretraining {
    /// On the same source.
    FineTuning,
    /// On another one.
    Transfer,
    /// The extractor or its features were imported, or it was not trained at all.
    Unknown,
}

/// The results of one setting, one row a seed or, where extractors or images have seeds of their own, a combination of
/// them.
#[derive(Debug, Clone)]
pub struct Case {
    /// What tells it from other cases of its pipeline, in words.
    pub label: String,
    /// The same, with its scene where a report has several.
    pub name: String,
    /// Its pipeline, and its downstream data where that has several: cases of one scene are compared in one chart.
    pub scene: String,
    /// The parameters in the label: field, and value.
    pub told: Vec<(String, String)>,
    /// Its rows, by seed.
    pub rows: Vec<Row>,
    /// Whether it was given enough passes, as far as other cases tell.
    pub strength: Strength,
}

impl Case {
    /// The cases of some rows; a result that several pipelines share counts once.
    #[must_use]
    pub fn all(rows: &[Row]) -> Vec<Self> {
        let mut seen = BTreeSet::new();
        let rows: Vec<Row> = rows.iter().filter(|r| seen.insert((r.key.clone(), r.seed))).cloned().collect();
        let pipelines: BTreeSet<&str> = rows.iter().map(|r| r.pipeline.as_str()).collect();
        let sources: BTreeSet<(&str, String)> = rows.iter().map(|r| (r.pipeline.as_str(), downstream(r))).collect();
        let scene = |row: &Row| match sources.iter().filter(|(pipeline, _)| *pipeline == row.pipeline).count() {
            1 => row.pipeline.clone(),
            _ => format!("{}, {}", row.pipeline, source(&downstream(row))),
        };
        let told: BTreeMap<&str, BTreeSet<(String, String)>> = pipelines
            .iter()
            .map(|pipeline| {
                let of = rows.iter().filter(|r| r.pipeline == *pipeline).flat_map(|r| &r.params);
                let fields = telling(of.map(|(node, params)| (*node, params))).into_iter();
                let fields = fields.filter(|(node, field)| *field != "seed" || !REPLICATED.contains(node));
                (*pipeline, fields.map(|(node, field)| (node.to_owned(), field.to_owned())).collect())
            })
            .collect();
        let named = |group: Vec<&Row>| {
            let mut rows: Vec<Row> = group.into_iter().cloned().collect();
            rows.sort_by_key(|r| (r.origin.seeds, r.seed));
            let told = told.get(rows[0].pipeline.as_str()).map(|fields| shown(&rows[0], fields)).unwrap_or_default();
            let label = label(&rows[0].attack, &told, &[]);
            let scene = scene(&rows[0]);
            let name = if sources.len() > 1 { format!("{scene}: {label}") } else { label.clone() };
            Self { label, name, scene, told, rows, strength: Strength::default() }
        };
        let mut cases: Vec<Self> = grouped(&rows).into_iter().map(named).collect();
        strength::judge(&mut cases);
        cases
    }

    /// The label without what it says of some parameters.
    #[must_use]
    pub fn label_without(&self, fields: &[&str]) -> String {
        label(&self.row().attack, &self.told, fields)
    }

    /// What the attack is after and how images are made, without parameters.
    #[must_use]
    pub fn attack(&self) -> String {
        label(&self.row().attack, &[], &[])
    }

    pub(crate) fn row(&self) -> &Row {
        &self.rows[0]
    }

    /// The pipeline that it is of.
    #[must_use]
    pub fn pipeline(&self) -> &str {
        &self.row().pipeline
    }

    /// What the attack is after, such as `gradient-canceling`.
    #[must_use]
    pub fn aim(&self) -> &str {
        &self.row().attack.objective
    }

    /// How images were made, such as `feature-matching` or `pixels`; `None` where there are none.
    #[must_use]
    pub fn making(&self) -> Option<&str> {
        self.row().attack.method.as_deref()
    }

    /// Whether it is an attack on features, whatever images were made of them, if any.
    #[must_use]
    pub fn on_features(&self) -> bool {
        attacks::find(self.aim()).is_some() && !self.on_pixels()
    }

    /// Whether images were made of poisoned features, by a decoder or by matching, and nothing was done to them then.
    #[must_use]
    pub fn inverted(&self) -> bool {
        self.on_features() && self.making().is_some() && !self.refined()
    }

    /// Whether images descended the attack's own objective after features were matched, or in the place of that: an
    /// attack of its own.
    #[must_use]
    pub fn refined(&self) -> bool {
        self.making().is_some_and(|making| making.starts_with(REFINED))
    }

    /// Whether refinement started at the images that were matched to poisoned features, and not, as a control,
    /// elsewhere.
    #[must_use]
    pub fn refined_from_matched(&self) -> bool {
        self.making() == Some(REFINED)
    }

    /// Whether pixels were attacked at once, with no features aimed at.
    #[must_use]
    pub fn on_pixels(&self) -> bool {
        self.making() == Some("pixels")
    }

    /// Most passes of an image through the extractor; `None` where images are made without any, and where there are
    /// none.
    #[must_use]
    pub fn passes(&self) -> Option<u64> {
        passes(self)
    }

    /// What is its alone: the key of its first row.
    pub(crate) fn id(&self) -> &str {
        &self.row().key
    }

    /// Its name and, where its curve over passes is not flat, or not known, that.
    #[must_use]
    pub fn told_name(&self) -> String {
        self.name.clone() + &self.strength.remark()
    }

    /// How the victim trains.
    #[must_use]
    pub fn victim(&self) -> &str {
        &self.row().victim
    }

    /// Share of poisons.
    #[must_use]
    pub fn poison_fraction(&self) -> f64 {
        self.row().poison_fraction
    }

    /// Whether poisons have the labels of the images that they are made of.
    #[must_use]
    pub fn clean_label(&self) -> bool {
        self.row().clean_label
    }

    /// Whether poisons stand in for the images they are made of, rather than being added.
    #[must_use]
    pub fn replaces(&self) -> bool {
        self.row().replaces
    }

    /// A parameter of a node.
    #[must_use]
    pub fn parameter(&self, node: &str, field: &str) -> Option<&Value> {
        self.row().params.get(node)?.get(field)
    }

    /// A parameter of the first stage that is for something, by its node's name, and has it.
    fn of_role(&self, role: impl Fn(StageRole) -> bool, field: &str) -> Option<&Value> {
        let nodes = self.row().roles.iter().filter(|(_, of)| role(**of));
        nodes.map(|(node, _)| *node).find_map(|node| self.parameter(node, field))
    }

    /// A parameter of the stage that made the poisoned images.
    fn of_images(&self, field: &str) -> Option<&Value> {
        self.of_role(StageRole::makes_images, field)
    }

    /// A parameter of the attack.
    #[must_use]
    pub fn of_attack(&self, field: &str) -> Option<&Value> {
        self.of_role(StageRole::is_attack, field)
    }

    /// The largest change of a pixel that was allowed, in grey levels of 255.
    #[must_use]
    pub fn linf(&self) -> Option<f64> {
        self.of_images("linf")?.as_str()?.strip_suffix("/255")?.parse().ok()
    }

    /// Weight of the distance to the base image.
    #[must_use]
    pub fn beta(&self) -> f64 {
        self.of_images("beta").and_then(Value::as_f64).unwrap_or(0.0)
    }

    /// Whether pixels may leave `[0, 1]`.
    #[must_use]
    pub fn free(&self) -> bool {
        self.of_images("clip").and_then(Value::as_bool) == Some(false)
    }

    /// Whether nothing holds images near those that they are made of.
    #[must_use]
    pub fn unlimited(&self) -> bool {
        self.linf().is_none() && self.beta() == 0.0
    }

    /// The parameters that a filter lets through, as a text to compare.
    #[must_use]
    pub fn text(&self, keep: impl Fn(&str, &str) -> bool) -> String {
        let mut text = String::new();
        for (node, params) in &self.row().params {
            let seed = |field: &str| field == "seed" && REPLICATED.contains(node);
            let kept = params.as_object().into_iter().flatten().filter(|(field, _)| !seed(field) && keep(node, field));
            for (field, value) in kept {
                text += &format!("{node}.{field}={value}\n");
            }
        }
        text
    }

    /// Where images come from: a source of the spec, as a text.
    fn source(&self, node: &str) -> Option<String> {
        self.parameter(node, "source").map(Value::to_string)
    }

    /// The source that the extractor was pre-trained on, where it is known.
    #[must_use]
    pub fn pretrained_on(&self) -> Option<String> {
        let method = self.parameter("pretrain", "method").and_then(Value::as_str)?;
        if matches!(method, "import" | "random") {
            return None;
        }
        // Without images of its own an extractor is trained on the downstream ones.
        self.source("dataset.pretrain").or_else(|| self.source("dataset.downstream"))
    }

    /// Whether all seeds have one extractor: none is trained on images that seeds have of their own.
    #[must_use]
    pub fn shares_extractor(&self) -> bool {
        let own = |node: &str| self.parameter(node, "seed").is_some_and(|seed| seed == "run");
        // Without images of its own an extractor is trained on the downstream ones.
        let images = if self.parameter("dataset.pretrain", "source").is_some() {
            "dataset.pretrain"
        } else {
            "dataset.downstream"
        };
        let seed = |row: &Row| row.params.get("pretrain")?.get("seed").cloned();
        let differ = own("pretrain") || self.rows.iter().any(|row| seed(row) != seed(self.row()));
        self.parameter("pretrain", "method").is_some_and(|method| method == "import")
            || !(differ || self.pretrained_on().is_some() && own(images))
    }

    /// The source that the head is trained on.
    #[must_use]
    pub fn downstream(&self) -> Option<String> {
        self.source("dataset.downstream")
    }

    /// Fine-tuning or transfer: whether the images are of one source, whatever labels were taken with them.
    #[must_use]
    pub fn pretraining(&self) -> Pretraining {
        let images = |source: &String| {
            let mut source: Value = serde_json::from_str(source).expect("a source was written as JSON");
            source.as_object_mut().map(|fields| fields.remove("labels"));
            source
        };
        match (self.pretrained_on(), self.downstream()) {
            (Some(a), Some(b)) if images(&a) == images(&b) => Pretraining::FineTuning,
            (Some(_), Some(_)) => Pretraining::Transfer,
            _ => Pretraining::Unknown,
        }
    }

    /// Mean and deviation of a quantity over seeds; `None` where a row has none.
    #[must_use]
    pub fn mean(&self, quantity: impl Fn(&Row) -> Option<f64>) -> Option<Estimate> {
        joint(&[(self, &quantity)], &|values| values[0])
    }

    /// A quantity of this case minus one of another, over the seeds that both have.
    #[must_use]
    pub fn minus(&self, mine: Quantity, other: &Self, theirs: Quantity) -> Option<Estimate> {
        self.combined(mine, other, theirs, |a, b| a - b)
    }

    /// A quantity of this case and one of another, combined seed by seed.
    #[must_use]
    pub fn combined(
        &self,
        mine: Quantity,
        other: &Self,
        theirs: Quantity,
        f: impl Fn(f64, f64) -> f64,
    ) -> Option<Estimate> {
        joint(&[(self, &mine), (other, &theirs)], &|values| f(values[0], values[1]))
    }

    /// How much a quantity rises from one case to the next, by least squares, over the seeds that all have.
    #[must_use]
    pub fn slope(cases: &[&Self], quantity: Quantity) -> Option<Estimate> {
        let middle = (cases.len() as f64 - 1.0) / 2.0;
        let scale = (0..cases.len()).map(|i| (i as f64 - middle).powi(2)).sum::<f64>();
        let sides: Vec<Side> = cases.iter().map(|case| (*case, &quantity as _)).collect();
        joint(&sides, &|values| {
            values.iter().enumerate().map(|(i, value)| (i as f64 - middle) / scale * value).sum::<f64>()
        })
    }
}

/// The source that a row's head is trained on, as a text.
fn downstream(row: &Row) -> String {
    row.params
        .get("dataset.downstream")
        .and_then(|params| params.get("source"))
        .map(Value::to_string)
        .unwrap_or_default()
}

/// The fields of a row that tell it apart, without those that its attack's name says.
fn shown(row: &Row, told: &BTreeSet<(String, String)>) -> Vec<(String, String)> {
    let mut shown: Vec<(String, String)> = Vec::new();
    for (node, field) in told {
        let role = row.roles.get(node.as_str());
        let said = match field.as_str() {
            "attack" | "noise" => role.is_some_and(|role| role.is_attack()),
            "method" | "refine_from" => role == Some(&StageRole::Inversion),
            "source" => node == "dataset.downstream",
            _ => false,
        };
        let value = row.params.get(node.as_str()).and_then(|params| params.get(field));
        // Pixels are clipped, and have no limit, unless a spec says otherwise.
        let value = value.filter(|v| !v.is_null() && **v != (field == "clip"));
        if let (false, Some(value)) = (said, value)
            && !shown.iter().any(|(f, _)| f == field)
        {
            shown.push((field.clone(), words::value(value)));
        }
    }
    shown
}

fn label(attack: &AttackId, told: &[(String, String)], but: &[&str]) -> String {
    let told =
        told.iter().filter(|(field, _)| !but.contains(&field.as_str())).map(|(field, value)| in_words(field, value));
    let made = attack.method.as_ref().map(|method| method.replace('-', " "));
    std::iter::once(attack.objective.clone()).chain(made).chain(told).collect::<Vec<_>>().join(", ")
}

fn in_words(field: &str, value: &str) -> String {
    match field {
        "linf" => format!("L∞ ≤ {value}"),
        "beta" => format!("β = {value}"),
        "poison_fraction" => value.parse().map_or_else(|_| value.to_owned(), words::share),
        "constraint" if value == "none" => "no constraint".to_owned(),
        "constraint" | "arch" => value.to_owned(),
        "kind" => format!("{value} victim"),
        "surrogate" => format!("against {value}"),
        "clip" => "unclipped pixels".to_owned(),
        _ => format!("{} {value}", field.replace('_', " ")),
    }
}

/// The quantities of a row.
pub mod quantity {
    use hemlock_pipeline::Row;

    /// Accuracy of the victim that is trained on clean data.
    pub fn clean(r: &Row) -> Option<f64> {
        Some(r.accuracy.clean)
    }
    /// Accuracy of the attacker's target.
    pub fn target(r: &Row) -> Option<f64> {
        r.accuracy.target().copied()
    }
    /// Accuracy after retraining on poisoned features.
    pub fn features(r: &Row) -> Option<f64> {
        r.accuracy.features().copied()
    }
    /// Accuracy after retraining on poisoned images.
    pub fn images(r: &Row) -> Option<f64> {
        r.accuracy.images().copied()
    }
    /// Control: random wrong labels.
    pub fn random_flips(r: &Row) -> Option<f64> {
        r.accuracy.get("random_flips").copied()
    }
    /// Control: the wrong labels that influence most.
    pub fn influence_flips(r: &Row) -> Option<f64> {
        r.accuracy.get("influence_flips").copied()
    }
    /// Control: clean samples a second time.
    pub fn duplicates(r: &Row) -> Option<f64> {
        r.accuracy.get("duplicates").copied()
    }
    /// Control: the poisons' base images taken away.
    pub fn removed(r: &Row) -> Option<f64> {
        r.accuracy.get("removed").copied()
    }
    /// Accuracy after the best epoch of training on poisoned images, of victims with epochs.
    pub fn best_epoch(r: &Row) -> Option<f64> {
        r.best.as_ref()?.images().copied()
    }
    /// What poisoned images cost, best epoch against best epoch.
    pub fn drop_of_best_epochs(r: &Row) -> Option<f64> {
        Some(r.best.as_ref()?.clean - best_epoch(r)?)
    }
    /// What poisoned images cost or, where there are none, poisoned features.
    pub fn drop(r: &Row) -> Option<f64> {
        drop_on_images(r).or_else(|| drop_on_features(r))
    }
    /// What poisoned features cost.
    pub fn drop_on_features(r: &Row) -> Option<f64> {
        Some(clean(r)? - features(r)?)
    }
    /// Control: what it costs to take the poisons' base images away.
    pub fn drop_of_removed(r: &Row) -> Option<f64> {
        Some(clean(r)? - removed(r)?)
    }
    /// What poisoned images cost.
    pub fn drop_on_images(r: &Row) -> Option<f64> {
        Some(clean(r)? - images(r)?)
    }
    /// What the poisons cost, as a share of what the clean victim has above chance: `drop / (clean - 1/K)` with `K`
    /// classes. `None` where it has nothing above chance.
    pub fn share_above_chance(r: &Row) -> Option<f64> {
        let classes = Some(r.per_class.clean.len()).filter(|k| *k > 0)?;
        let above = clean(r)? - 1.0 / classes as f64;
        (above > 0.0).then_some(drop(r)? / above)
    }
    /// What the strongest control of flipped labels costs: aligned ones or, where there are none, random ones.
    pub fn drop_of_flips(r: &Row) -> Option<f64> {
        Some(clean(r)? - influence_flips(r).or_else(|| random_flips(r))?)
    }
    /// What the attack optimised.
    pub fn objective(r: &Row) -> Option<f64> {
        Some(r.objective)
    }
    /// Peak signal-to-noise ratio, dB.
    pub fn psnr(r: &Row) -> Option<f64> {
        r.visibility.as_ref().map(|v| v.psnr)
    }
    /// Structural similarity.
    pub fn ssim(r: &Row) -> Option<f64> {
        r.visibility.as_ref().map(|v| v.ssim)
    }
    /// Largest change of a pixel, in grey levels of 255.
    pub fn linf(r: &Row) -> Option<f64> {
        r.visibility.as_ref().map(|v| 255.0 * v.linf)
    }
    /// Share of outliers among the poisons.
    pub fn outliers(r: &Row) -> Option<f64> {
        r.visibility.as_ref().map(|v| v.outliers)
    }
    /// Share of outliers among the features that images were made of.
    pub fn outliers_of_features(r: &Row) -> Option<f64> {
        r.visibility.as_ref()?.outliers_of_features
    }
    /// Time of the attack, in seconds.
    pub fn seconds(r: &Row) -> Option<f64> {
        r.seconds
    }
}
