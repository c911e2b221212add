//! Groups of results that differ in nothing but seeds: one configuration each, with a label, parameters and mean
//! quantities.

pub mod quantity;

use crate::{
    findings::passes,
    joint::{ConfigQuantity, joint},
    passes_curve::{self, PassesCurve},
    setting::source,
    statistics::Estimate,
    words,
};
use hemlock_artifact::AttackId;
use hemlock_pipeline::{REPLICATED, ResultRow, grouped, nodes, telling};
use hemlock_stage::StageRole;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A function that reads a number from a row; it returns `None` if the row has no such number.
pub type Quantity = fn(&ResultRow) -> Option<f64>;

/// Whether the extractor was pre-trained on the source of the images that the head is trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PretrainingKind {
    /// The extractor was pre-trained on the same source.
    FineTuning,
    /// The extractor was pre-trained on another source.
    Transfer,
    /// The extractor or its features were imported, or the extractor was not trained at all.
    Unknown,
}

/// The results of one configuration. There is one row per seed or, if extractors or images have seeds of their own, one
/// row per combination of seeds.
#[derive(Debug, Clone)]
pub struct ConfigGroup {
    /// A label in words that distinguishes the configuration from the other configurations of its experiment.
    pub label: String,
    /// The label, after [`Self::experiment`] if the report has several experiments.
    pub name: String,
    /// The name of the pipeline, followed by the downstream data if the pipeline has several sources of these.
    /// Configurations of one experiment are compared in one chart.
    pub experiment: String,
    /// The parameters in the label: field and value.
    pub label_parameters: Vec<(String, String)>,
    /// The results, in the order of their seeds.
    pub rows: Vec<ResultRow>,
    /// Whether the attack had enough passes through the extractor, judged by the other configurations.
    pub passes_curve: PassesCurve,
}

impl ConfigGroup {
    /// Groups rows into configurations. A result that several pipelines share counts once. Stages that no evaluation
    /// reads may have measured it with several parameters: each of these is a configuration.
    #[must_use]
    pub fn all(rows: &[ResultRow]) -> Vec<Self> {
        let mut seen = BTreeSet::new();
        let rows: Vec<ResultRow> = rows.iter().filter(|row| seen.insert(row.identity())).cloned().collect();
        let sources: BTreeSet<(&str, Option<String>)> =
            rows.iter().map(|r| (r.pipeline.as_str(), downstream(r))).collect();
        let experiment = |row: &ResultRow| match downstream(row) {
            Some(images) if sources.iter().filter(|(pipeline, _)| *pipeline == row.pipeline).count() > 1 => {
                format!("{}, {}", row.pipeline, source(&images))
            }
            _ => row.pipeline.clone(),
        };
        let mut parameters: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for row in &rows {
            parameters.entry(experiment(row)).or_default().extend(&row.params);
        }
        let differing = parameters.into_iter().map(|(experiment, of)| {
            let fields = telling(of.into_iter().map(|(node, params)| (*node, params))).into_iter();
            let fields = fields.filter(|(node, field)| *field != "seed" || !REPLICATED.contains(node));
            (experiment, fields.map(|(node, field)| (node.to_owned(), field.to_owned())).collect())
        });
        let differing: BTreeMap<String, BTreeSet<(String, String)>> = differing.collect();
        let named = |group: Vec<&ResultRow>| {
            let mut rows: Vec<ResultRow> = group.into_iter().cloned().collect();
            rows.sort_by_key(|r| (r.origin.seeds, r.seed));
            let experiment = experiment(&rows[0]);
            let label_parameters = differing.get(&experiment).map(|fields| shown(&rows[0], fields)).unwrap_or_default();
            let label = label(&rows[0].attack, &label_parameters, &[]);
            let name = if sources.len() > 1 { format!("{experiment}: {label}") } else { label.clone() };
            Self { label, name, experiment, label_parameters, rows, passes_curve: PassesCurve::default() }
        };
        let mut configs: Vec<Self> = grouped(&rows).into_iter().map(named).collect();
        passes_curve::judge(&mut configs);
        configs
    }

    /// The label without the parameters in `fields`.
    #[must_use]
    pub fn label_without(&self, fields: &[&str]) -> String {
        label(&self.row().attack, &self.label_parameters, fields)
    }

    /// The attack's objective and how its images were made, without parameters.
    #[must_use]
    pub fn attack(&self) -> String {
        label(&self.row().attack, &[], &[])
    }

    pub(crate) fn row(&self) -> &ResultRow {
        &self.rows[0]
    }

    /// The name of the pipeline.
    #[must_use]
    pub fn pipeline(&self) -> &str {
        &self.row().pipeline
    }

    /// The name of the attack's objective, such as `gradient-canceling`.
    #[must_use]
    pub fn aim(&self) -> &str {
        &self.row().attack.objective
    }

    /// How images were made, such as `feature-matching` or `pixels`; `None` if there are no images.
    #[must_use]
    pub fn making(&self) -> Option<&str> {
        self.row().attack.method.as_deref()
    }

    /// Whether the attack searches for poisoned features, no matter whether and how images were made from them.
    #[must_use]
    pub fn on_features(&self) -> bool {
        self.row().roles.values().any(|role| *role == StageRole::FeatureAttack)
    }

    /// Whether images were made from poisoned features, by a decoder or by matching, without refinement.
    #[must_use]
    pub fn inverted(&self) -> bool {
        self.on_features() && self.making().is_some() && !self.refined()
    }

    /// Whether refinement took steps on the attack's own objective, after feature matching or instead of it. Such
    /// images count as an attack of its own.
    #[must_use]
    pub fn refined(&self) -> bool {
        self.making().is_some_and(|making| making.starts_with(AttackId::REFINED))
    }

    /// Whether refinement started from images that match poisoned features. Refinement that starts elsewhere is a
    /// control.
    #[must_use]
    pub fn refined_from_matched(&self) -> bool {
        self.making() == Some(AttackId::REFINED)
    }

    /// Whether the attack optimised pixels directly, without poisoned features. Error-minimising noise does so as well,
    /// but no finding about pixels asks about it, so the role of the stage is not enough.
    #[must_use]
    pub fn on_pixels(&self) -> bool {
        self.making() == Some("pixels")
    }

    /// The largest number of passes of an image through the extractor; `None` if there are no images, or if they were
    /// made without any pass.
    #[must_use]
    pub fn passes(&self) -> Option<u64> {
        passes(self)
    }

    /// An identifier of the configuration: the key of its first row.
    pub(crate) fn id(&self) -> &str {
        &self.row().key
    }

    /// The name, followed by a remark if the curve over passes is not flat or not known.
    #[must_use]
    pub fn remarked_name(&self) -> String {
        self.name.clone() + &self.passes_curve.remark()
    }

    /// The kind of victim, such as `linear`.
    #[must_use]
    pub fn victim(&self) -> &str {
        &self.row().victim
    }

    /// The number of poisons, divided by the number of clean training samples.
    #[must_use]
    pub fn poison_fraction(&self) -> f64 {
        self.row().poison_fraction
    }

    /// Whether poisons have the labels of their base images.
    #[must_use]
    pub fn clean_label(&self) -> bool {
        self.row().clean_label
    }

    /// Whether poisons replace their base images instead of being added.
    #[must_use]
    pub fn replaces(&self) -> bool {
        self.row().replaces
    }

    /// The value of a parameter of a node.
    #[must_use]
    pub fn parameter(&self, node: &str, field: &str) -> Option<&Value> {
        self.row().params.get(node)?.get(field)
    }

    /// The value of a parameter of the first node, by name, whose stage has a certain role and which has this
    /// parameter.
    fn of_role(&self, role: impl Fn(StageRole) -> bool, field: &str) -> Option<&Value> {
        let nodes = self.row().roles.iter().filter(|(_, of)| role(**of));
        nodes.map(|(node, _)| *node).find_map(|node| self.parameter(node, field))
    }

    /// The value of a parameter of the stage that made the poisoned images.
    fn of_images(&self, field: &str) -> Option<&Value> {
        self.of_role(StageRole::makes_images, field)
    }

    /// The value of a parameter of the attack.
    #[must_use]
    pub fn of_attack(&self, field: &str) -> Option<&Value> {
        self.of_role(StageRole::is_attack, field)
    }

    /// The kind of the defence that the victim trains behind.
    pub(crate) fn defence(&self) -> Option<&Value> {
        self.of_role(|role| role == StageRole::Defence, "kind")
    }

    /// The value of a parameter of the attack on features.
    #[must_use]
    pub fn of_feature_attack(&self, field: &str) -> Option<&Value> {
        self.of_role(|role| role == StageRole::FeatureAttack, field)
    }

    /// The value of a parameter, as [`Self::of_role`] finds it, in the key of the artifact: a parameter without effect
    /// is not there.
    pub(crate) fn deciding(&self, role: impl Fn(StageRole) -> bool, field: &str) -> Option<&Value> {
        let row = self.row();
        let nodes = row.roles.iter().filter(|(_, of)| role(**of));
        nodes.map(|(node, _)| node).find_map(|node| row.deciding.get(node)?.get(field))
    }

    /// The L-infinity limit on the change of a pixel, in grey levels of 255; `None` if there is no limit.
    #[must_use]
    pub fn linf(&self) -> Option<f64> {
        self.of_images("linf")?.as_str()?.strip_suffix("/255")?.parse().ok()
    }

    /// The weight of the squared distance to the base image; 0 if the stage has no such weight.
    #[must_use]
    pub fn beta(&self) -> f64 {
        self.of_images("beta").and_then(Value::as_f64).unwrap_or(0.0)
    }

    /// Whether pixels are unclipped: they may leave `[0, 1]`.
    #[must_use]
    pub fn unclipped(&self) -> bool {
        self.of_images("clip").and_then(Value::as_bool) == Some(false)
    }

    /// Whether nothing keeps images near their base images: no L-infinity limit, and `beta = 0`.
    #[must_use]
    pub fn unlimited(&self) -> bool {
        self.linf().is_none() && self.beta() == 0.0
    }

    /// Whether poisons raise the loss on clean training data by at least a twentieth, on average. No test label decides
    /// this. True if the victim has no such loss.
    #[must_use]
    pub fn works(&self, rise: Quantity) -> bool {
        self.mean(rise).is_none_or(|e| e.mean >= 0.05)
    }

    /// The parameters for which `keep(node, field)` is true, one per line, as a text that can be compared. Seeds of
    /// replicates are left out.
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

    /// The source of a node's images as it stands in the spec, as JSON.
    fn source(&self, node: &str) -> Option<String> {
        self.parameter(node, "source").map(Value::to_string)
    }

    /// The source that the extractor was pre-trained on, as JSON; `None` if it is not known, or if the extractor was
    /// not trained.
    #[must_use]
    pub fn pretrained_on(&self) -> Option<String> {
        self.source(pretraining_node(self.row())?)
    }

    /// Whether all seeds have the same extractor: neither its seed nor the images that it is trained on depend on the
    /// seed of the run.
    #[must_use]
    pub fn shares_extractor(&self) -> bool {
        let own = |node: &str| self.parameter(node, "seed").is_some_and(|seed| seed == "run");
        let seed = |row: &ResultRow| row.params.get(nodes::EXTRACTOR)?.get("seed").cloned();
        let differ = own(nodes::EXTRACTOR) || self.rows.iter().any(|row| seed(row) != seed(self.row()));
        self.parameter(nodes::EXTRACTOR, "method").is_some_and(|method| method == "import")
            || !(differ || pretraining_node(self.row()).is_some_and(own))
    }

    /// The source of the images that the head is trained on, as JSON.
    #[must_use]
    pub fn downstream(&self) -> Option<String> {
        self.source(nodes::DOWNSTREAM_IMAGES)
    }

    /// Whether the configuration is fine-tuning or transfer. The same images with other labels, such as fine and coarse
    /// ones, count as the same source.
    #[must_use]
    pub fn pretraining(&self) -> PretrainingKind {
        let images = |source: &String| {
            let mut source: Value = serde_json::from_str(source).expect("a source was written as JSON");
            source.as_object_mut().map(|fields| fields.remove("labels"));
            source
        };
        match (self.pretrained_on(), self.downstream()) {
            (Some(a), Some(b)) if images(&a) == images(&b) => PretrainingKind::FineTuning,
            (Some(_), Some(_)) => PretrainingKind::Transfer,
            _ => PretrainingKind::Unknown,
        }
    }

    /// Mean and error of a quantity over the rows; `None` if a row does not have the quantity.
    #[must_use]
    pub fn mean(&self, quantity: impl Fn(&ResultRow) -> Option<f64>) -> Option<Estimate> {
        joint(&[(self, &quantity)], &|values| values[0])
    }

    /// The mean difference of a quantity of this configuration and one of another configuration, over the seeds that
    /// both have.
    #[must_use]
    pub fn minus(&self, mine: Quantity, other: &Self, theirs: Quantity) -> Option<Estimate> {
        self.combined(mine, other, theirs, |a, b| a - b)
    }

    /// The mean difference of a quantity between this configuration and another one whose head was trained on other
    /// data. Their training data are independent, so that they are two samples. If both have the same extractors,
    /// several of them, these are what is drawn at random on both sides, and the difference is taken for each.
    #[must_use]
    pub fn minus_other_data(&self, quantity: Quantity, other: &Self) -> Option<Estimate> {
        let extractors = self.extractors();
        let same = extractors == other.extractors();
        if same && extractors.len() > 1 {
            return self.minus(quantity, other, quantity);
        }
        let mut estimate = self.mean(quantity)?.minus(&other.mean(quantity)?);
        if let Ok(inference) = &mut estimate.inference {
            inference.scope.sides = !same;
        }
        Some(estimate)
    }

    /// The extractors of all rows.
    fn extractors(&self) -> BTreeSet<&str> {
        self.rows.iter().map(|row| row.origin.extractor.as_str()).collect()
    }

    /// The mean of `f(mine, theirs)`, where `mine` is a quantity of this configuration and `theirs` is one of another
    /// configuration, over the seeds that both have.
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

    /// The rise of a quantity from one configuration to the next: the least-squares slope over their order, for the
    /// seeds that all have.
    #[must_use]
    pub fn slope(configs: &[&Self], quantity: Quantity) -> Option<Estimate> {
        let middle = (configs.len() as f64 - 1.0) / 2.0;
        let scale = (0..configs.len()).map(|i| (i as f64 - middle).powi(2)).sum::<f64>();
        let sides: Vec<ConfigQuantity> = configs.iter().map(|config| (*config, &quantity as _)).collect();
        joint(&sides, &|values| {
            values.iter().enumerate().map(|(i, value)| (i as f64 - middle) / scale * value).sum::<f64>()
        })
    }
}

/// The node of the images that a row's extractor was pre-trained on; `None` if they are not known, or if the extractor
/// was not trained.
fn pretraining_node(row: &ResultRow) -> Option<&'static str> {
    let method = row.params.get(nodes::EXTRACTOR)?.get("method").and_then(Value::as_str)?;
    let own = row.params.get(nodes::PRETRAINING_IMAGES).is_some_and(|params| params.get("source").is_some());
    // Without pre-training images of its own, an extractor is trained on the downstream images.
    let node = if own { nodes::PRETRAINING_IMAGES } else { nodes::DOWNSTREAM_IMAGES };
    (!matches!(method, "import" | "process" | "random")).then_some(node)
}

/// Which images a row's extractor was pre-trained on, as a text that can be compared; `None` as above.
pub fn pretraining_images(row: &ResultRow) -> Option<String> {
    let mut images = row.params.get(pretraining_node(row)?)?.clone();
    if images.get("seed").is_some_and(|seed| seed == "run") {
        images["seed"] = row.seed.into();
    }
    Some(images.to_string())
}

/// The source of the images that a row's head is trained on, as JSON; `None` if its features were imported.
fn downstream(row: &ResultRow) -> Option<String> {
    row.params.get(nodes::DOWNSTREAM_IMAGES).and_then(|params| params.get("source")).map(Value::to_string)
}

/// The values of the fields in `fields`, except for those that are not set and those that the attack's name or the
/// experiment already says. A field that several nodes have is listed once.
fn shown(row: &ResultRow, fields: &BTreeSet<(String, String)>) -> Vec<(String, String)> {
    let mut shown: Vec<(String, String)> = Vec::new();
    for (node, field) in fields {
        let role = row.roles.get(node.as_str());
        let in_name = match field.as_str() {
            "attack" | "noise" => role.is_some_and(|role| role.is_attack()),
            "method" | "refine_from" => role == Some(&StageRole::Inversion),
            "source" => node == nodes::DOWNSTREAM_IMAGES,
            _ => false,
        };
        // A victim and a defence both have a `kind`.
        let name = match role {
            Some(StageRole::Defence) if field == "kind" => "defence",
            _ => field,
        };
        let value = row.params.get(node.as_str()).and_then(|params| params.get(field));
        // `null`, `false` and `clip = true` stand for what is not set.
        let value = value.filter(|v| !v.is_null() && **v != (field == "clip"));
        if let (false, Some(value)) = (in_name, value)
            && !shown.iter().any(|(shown, _)| shown == name)
        {
            shown.push((name.to_owned(), words::value(value)));
        }
    }
    shown
}

fn label(attack: &AttackId, parameters: &[(String, String)], but: &[&str]) -> String {
    let parameters = parameters
        .iter()
        .filter(|(field, _)| !but.contains(&field.as_str()))
        .map(|(field, value)| in_words(field, value));
    let made = attack.method.as_ref().map(|method| method.replace('-', " "));
    std::iter::once(attack.objective.clone()).chain(made).chain(parameters).collect::<Vec<_>>().join(", ")
}

/// Classes, a JSON list, in words: a long list by its number and its ends.
fn classes(list: &str) -> String {
    match serde_json::from_str::<Vec<String>>(list).as_deref() {
        Ok(all @ [first, .., last]) if all.len() > 3 => format!("{} classes, {first} to {last}", all.len()),
        Ok(all) => all.join(", "),
        Err(_) => list.to_owned(),
    }
}

/// A parameter in words. A field without words of its own is named as in the spec.
fn in_words(field: &str, value: &str) -> String {
    match field {
        "linf" => format!("L∞ ≤ {value}"),
        "beta" => format!("β = {value}"),
        "poison_fraction" => value.parse().map_or_else(|_| value.to_owned(), words::share),
        "constraint" if value == "none" => "no constraint".to_owned(),
        "constraint" | "arch" => value.to_owned(),
        "classes" => classes(value),
        "kind" => format!("{value} victim"),
        "defence" => format!("behind {value}"),
        "adaptive" => field.to_owned(),
        "surrogate" => format!("{value} surrogate"),
        "clip" => "unclipped pixels".to_owned(),
        _ => format!("{} {value}", field.replace('_', " ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::testing::made_up;
    use serde_json::json;

    /// Victims and defences are told apart in names, although both have a `kind`.
    #[test]
    fn names_have_the_victim_and_the_defence() {
        let made = |victim: &str, defence: &str, adaptive: bool| {
            let made = made_up("bilevel").with("poison-features", json!({ "attack": "bilevel", "adaptive": adaptive }));
            made.with("victim", json!({ "kind": victim })).with("defence", json!({ "kind": defence })).rows()
        };
        let rows = [
            made("linear", "sphere", false),
            made("linear", "sphere", true),
            made("linear", "slab", false),
            made("mlp", "sphere", false),
        ];
        let configs = ConfigGroup::all(&rows.concat());
        let names: Vec<&str> = configs.iter().map(|config| config.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "bilevel, behind sphere, linear victim",
                "bilevel, behind sphere, adaptive, linear victim",
                "bilevel, behind slab, linear victim",
                "bilevel, behind sphere, mlp victim"
            ]
        );
    }

    /// Heads on the same images with other labels, or on fewer classes, have names of their own.
    #[test]
    fn names_have_the_labels_and_the_classes() {
        let on = |downstream: Value| made_up("bilevel").with("dataset.downstream", downstream).rows();
        let coarse = json!({ "kind": "cifar100", "labels": "coarse" });
        let classes = json!(["apple", "bear", "chair", "rose"]);
        let rows = [
            on(json!({ "source": "cifar100" })),
            on(json!({ "source": coarse })),
            on(json!({ "source": "cifar100", "classes": classes })),
        ];
        let configs = ConfigGroup::all(&rows.concat());
        let names: Vec<&str> = configs.iter().map(|config| config.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "made-up, CIFAR-100: bilevel",
                "made-up, CIFAR-100 (coarse labels): bilevel",
                "made-up, CIFAR-100: bilevel, 4 classes, apple to rose"
            ]
        );
    }

    /// What differs only from the other data of the pipeline is in no name: a chart shows one experiment.
    #[test]
    fn names_have_what_differs_within_the_experiment() {
        let on = |source: &str, train: u32, attack: &str| {
            made_up(attack).with("dataset.downstream", json!({ "source": source, "train": train })).rows()
        };
        let rows = [
            on("cifar10", 4000, "bilevel"),
            on("cifar100", 2000, "bilevel"),
            on("cifar100", 2000, "gradient-canceling"),
            on("svhn", 1000, "bilevel"),
            on("svhn", 3000, "bilevel"),
        ];
        let configs = ConfigGroup::all(&rows.concat());
        let labels: Vec<&str> = configs.iter().map(|config| config.label.as_str()).collect();
        assert_eq!(labels, ["bilevel", "bilevel", "gradient-canceling", "bilevel, train 1000", "bilevel, train 3000"]);
    }
}
