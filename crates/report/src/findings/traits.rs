//! The traits of a configuration: its parameters, under names that mean the same on every route.
//!
//! A limit on pixels is `linf`, whatever stage sets it. The number of passes through the extractor is `passes`, no
//! matter how they were spent. So configurations of different routes can be compared trait by trait.
//!
//! What a parameter means follows from the role of its stage, so that stages of other crates are compared as well. Only
//! names of fields are listed here: which of them mean the same is a decision that no stage can make alone.

use crate::ConfigGroup;
use hemlock_attack::attacks;
use hemlock_pipeline::{REPLICATED, ResultRow, nodes};
use hemlock_stage::StageRole;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Fields of attacks on features that belong to the search among features, which has no counterpart on pixels. Other
/// fields have to be equal on all routes, also those that are not known here.
const SEARCH: [&str; 9] =
    ["label_update_interval", "base", "solver", "steps", "step", "patience", "max_seconds", "tolerance", "memory"];
/// Fields of stages that make images: they limit pixels or set the length of steps.
const PIXELS: [&str; 4] = ["linf", "beta", "clip", "step"];
/// Fields of stages that make images: together they determine the number of passes ([`passes`]).
const PASSES: [&str; 4] = ["steps", "rounds", "restarts", "refine"];
/// The fields of a constraint on features.
const SETS: [&str; 3] = ["constraint", "quantile", "neighbors"];
/// The names of all fields of specs that are listed here.
pub fn known_fields() -> Vec<&'static str> {
    [&SEARCH[..], &PIXELS, &PASSES, &SETS].concat()
}

/// A trait of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trait {
    /// The name.
    pub name: String,
    /// The role of the stage, if only this stage can have the trait; `None` if several stages, or none, can have it.
    pub stage: Option<StageRole>,
    /// The value.
    pub value: String,
}

/// The traits of a configuration, sorted by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traits(Vec<Trait>);

impl Traits {
    /// Finds the traits of a configuration. A value that stands for nothing (no limit, a weight of 0) is no trait,
    /// because another stage may not have the field at all.
    pub fn of(config: &ConfigGroup) -> Self {
        let attack = attacks::find(config.aim());
        let own = attack.as_ref().and_then(|attack| attack.own(&Map::new()).ok()).unwrap_or_default();
        let aims = attack.is_some_and(|attack| attack.uses_target());
        let mut traits = BTreeMap::new();
        for (node, role, field, value) in parameters(config) {
            if let Some((name, stage)) = name(node, role, field, &own, aims) {
                traits.insert(name, (stage, crate::words::value(value)));
            }
        }
        let mut add = |name: &str, value: String| traits.insert(name.to_owned(), (None, value));
        if let Some(making) = config.making() {
            add("images", making.to_owned());
        }
        if let Some(passes) = passes(config) {
            add("passes", passes.to_string());
        }
        if config.on_features() || config.on_pixels() {
            add("constraint", constraint(config));
            add("sees", config.row().sees.to_string());
        }
        add("victim.kind", config.victim().to_owned());
        Self(traits.into_iter().map(|(name, (stage, value))| Trait { name, stage, value }).collect())
    }

    /// The traits, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &Trait> {
        self.0.iter()
    }

    /// The value of a trait; `None` if the configuration does not have it.
    #[cfg(test)]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|of| of.name == name).map(|of| of.value.as_str())
    }
}

/// The parameters that may be traits: node, role of its stage, field and value. They have the same value in all rows,
/// and stand for something.
fn parameters(config: &ConfigGroup) -> Vec<(&'static str, StageRole, &str, &Value)> {
    let row = config.row();
    let mut found = Vec::new();
    for (node, params) in &row.params {
        let role = row.roles.get(node).copied().unwrap_or(StageRole::Data);
        let key = row.deciding.get(node);
        // Parameters of data name images and files, and keys have their digests instead. Of other stages the parameters
        // in the key are taken, because others have no effect.
        let data = role == StageRole::Data;
        let params = if data { params } else { key.unwrap_or(params) };
        // Fields that only monitor or save a training are not in its key either. An import is no training, and neither
        // is a process.
        let trained = data && params["method"].as_str().is_some_and(|method| !matches!(method, "import" | "process"));
        let watches = |field: &str| trained && key.is_some_and(|key| key.get(field).is_none());
        for (field, value) in params.as_object().into_iter().flatten() {
            // Sides are paired by the seeds of replicates, so these are no traits. Nor are fields in which the rows of
            // a configuration differ.
            let paired = field == "seed" && REPLICATED.contains(node);
            let of = |row: &ResultRow| (if data { &row.params } else { &row.deciding }).get(node)?.get(field).cloned();
            let same = config.rows.iter().all(|row| of(row).as_ref() == Some(value));
            if same && !paired && !watches(field) && !nothing(field, value) {
                found.push((*node, role, field.as_str(), value));
            }
        }
    }
    found
}

/// The name of the trait that a field of a node belongs to, and the role of the stage if no other stage can have the
/// trait. `None` if another trait contains it, or if it has no effect on the attack. `own` are the fields that belong
/// to the attack, and `aims` says whether the attack aims at the target head.
fn name(
    node: &str,
    role: StageRole,
    field: &str,
    own: &Map<String, Value>,
    aims: bool,
) -> Option<(String, Option<StageRole>)> {
    let shared = |name: String| Some((name, None));
    let of_node = || Some((format!("{node}.{field}"), Some(role)));
    match field {
        // How victims are measured, and what controls see, says nothing about the attack.
        _ if role == StageRole::Evaluation => None,
        // How images are made is the trait `images`.
        "method" | "refine_from" if role == StageRole::Inversion => None,
        _ if role.makes_images() && PASSES.contains(&field) => None,
        _ if role.makes_images() && PIXELS.contains(&field) => shared(field.to_owned()),
        // Which labelled splits an attack reads is the trait `sees`.
        "sees" if role.is_attackers() => None,
        _ if role == StageRole::FeatureAttack && SEARCH.contains(&field) => of_node(),
        _ if role.is_attack() && SETS.contains(&field) => None,
        _ if role.is_attack() && own.contains_key(field) => shared(format!("attack.{field}")),
        _ if role.is_attack() => shared(field.to_owned()),
        // The weight decay is the victim's, whatever the target.
        "weight_decay" if node == nodes::TARGET => shared(field.to_owned()),
        // A target counts only for attacks that aim at it.
        _ if node == nodes::TARGET && !aims => None,
        _ => of_node(),
    }
}

/// Whether a value stands for something that is absent.
fn nothing(field: &str, value: &Value) -> bool {
    value.is_null() || *value == false || (field == "beta" && value.as_f64() == Some(0.0))
}

/// The constraint on the poisons' features: the names of its sets and their parameters.
fn constraint(config: &ConfigGroup) -> String {
    let of = |field: &str| config.deciding(StageRole::is_attack, field).filter(|v| !v.is_null());
    let set = |field: &str| of(field).map(crate::words::value);
    let kinds = set("constraint").unwrap_or_else(|| "none".to_owned());
    let share = set("quantile").filter(|_| kinds != "none").map(|q| format!(" at {q}")).unwrap_or_default();
    let neighbors = set("neighbors").filter(|_| kinds.contains("knn")).map(|k| format!(", k = {k}"));
    format!("{kinds}{share}{}", neighbors.unwrap_or_default())
}

/// The largest number of passes of an image through the extractor: `steps`, of each of `rounds`, from every start, and
/// the steps of a refinement. An attack on pixels that chose its labels, and so has a gap, took all of its steps three
/// times. `None` if there are no images, or if they were made without any pass.
pub fn passes(config: &ConfigGroup) -> Option<u64> {
    let number = |field: &str| config.deciding(StageRole::makes_images, field).and_then(Value::as_u64);
    // If refinement starts from base images, nothing is matched, and the key has no `steps`.
    let steps = number("steps").unwrap_or(0) * number("rounds").unwrap_or(1);
    let descents = if config.on_pixels() && config.row().gap.is_some() { 3 } else { 1 };
    let passes = steps * descents * (1 + number("restarts").unwrap_or(0)) + number("refine").unwrap_or(0);
    (passes > 0).then_some(passes)
}

#[cfg(test)]
mod tests {
    use super::super::testing::made_up;
    use super::*;
    use hemlock_threat::Sees;
    use serde_json::json;

    fn get(config: &ConfigGroup, name: &str) -> Option<String> {
        Traits::of(config).get(name).map(str::to_owned)
    }

    #[test]
    fn names_mean_the_same_on_both_routes() {
        let features = made_up("bilevel + refined")
            .with(
                "poison-features",
                json!({ "attack": "bilevel", "constraint": "ball", "quantile": 0.9, "sees": ["train", "validation"],
                                             "temperature": 0.5, "steps": 200, "labels": "clean" }),
            )
            .sees(Sees::TrainAndValidation)
            .with(
                "invert",
                json!({ "method": "feature-matching", "linf": "8/255", "beta": 0.0, "steps": 20, "refine": 60,
                                    "restarts": 1, "step": 0.02 }),
            )
            .config();
        let pixels = made_up("bilevel + pixels")
            .with(
                "poison-images",
                json!({ "attack": "bilevel", "linf": "8/255", "beta": 0.0, "steps": 100, "step": 0.02,
                                           "sees": ["train", "validation"], "temperature": 0.5, "labels": "clean" }),
            )
            .sees(Sees::TrainAndValidation)
            .config();
        for name in ["linf", "passes", "step", "sees", "attack.temperature", "labels", "attack"] {
            assert_eq!(get(&features, name), get(&pixels, name), "{name}");
            assert!(get(&features, name).is_some(), "{name}");
        }
        assert_eq!(get(&features, "passes").as_deref(), Some("100"));
        assert_eq!(get(&features, "constraint").as_deref(), Some("ball at 0.9"));
        assert_eq!(get(&pixels, "constraint").as_deref(), Some("none"));
        assert_eq!((get(&features, "beta"), get(&pixels, "poison-features.steps")), (None, None));
        assert_eq!(get(&features, "poison-features.steps").as_deref(), Some("200"));
    }

    /// With adversarial labels, attacks on pixels take three descents, and attacks on features take no pass.
    #[test]
    fn every_descent_counts() {
        let mut made = made_up("bilevel + pixels").with("poison-images", json!({ "steps": 80 })).config();
        assert_eq!(passes(&made), Some(80));
        made.rows.iter_mut().for_each(|row| row.gap = Some(0.0));
        assert_eq!(passes(&made), Some(240));
        let mut made = made_up("bilevel + feature-matching").with("invert", json!({ "steps": 80 })).config();
        made.rows.iter_mut().for_each(|row| row.gap = Some(0.0));
        assert_eq!(passes(&made), Some(80));
    }

    #[test]
    fn a_target_that_nobody_aims_at_is_no_trait() {
        let with = |attack: &str| {
            made_up(attack).with("target-params", json!({ "radius": 0.3, "weight_decay": 1e-4 })).config()
        };
        let (bilevel, canceling) = (with("bilevel"), with("gradient-canceling"));
        assert_eq!(
            (get(&bilevel, "target-params.radius"), get(&bilevel, "weight_decay")),
            (None, Some("0.0001".into()))
        );
        assert_eq!(get(&canceling, "target-params.radius").as_deref(), Some("0.3"));
    }

    #[test]
    fn what_is_seen_is_a_trait_whoever_names_it() {
        let mut config = made_up("bilevel").with("target-params", json!({ "sees": ["train"] })).config();
        assert_eq!(get(&config, "sees").as_deref(), Some("train"));
        config.rows.iter_mut().for_each(|row| row.sees = Sees::TrainAndValidation);
        assert_ne!(get(&config, "sees").as_deref(), Some("train"));
    }

    /// A table has the fields of all attacks; its key has those of one attack alone.
    #[test]
    fn what_idles_is_no_trait() {
        let table = json!({ "attack": "gradient-canceling", "sees": ["train", "validation"], "temperature": 0.5, "quantile": 0.9 });
        let deciding = json!({ "attack": "gradient-canceling", "step": 0.02, "start": "clean" });
        let config = made_up("gradient-canceling + pixels").with_idle("poison-images", table, deciding).config();
        assert_eq!(get(&config, "sees").as_deref(), Some("train"));
        assert_eq!(get(&config, "step").as_deref(), Some("0.02"));
        assert_eq!((get(&config, "attack.temperature"), get(&config, "constraint").as_deref()), (None, Some("none")));
    }

    #[test]
    fn how_a_training_is_watched_is_no_trait() {
        let table = json!({ "method": "simclr", "epochs": 3, "checkpoint_minutes": 5.0 });
        let config =
            made_up("bilevel").with_idle("pretrain", table, json!({ "method": "simclr", "epochs": 3 })).config();
        assert_eq!(get(&config, "pretrain.epochs").as_deref(), Some("3"));
        assert_eq!(get(&config, "pretrain.checkpoint_minutes"), None);
        let table = json!({ "method": "import", "weights": "a.pth" });
        let config =
            made_up("bilevel").with_idle("pretrain", table, json!({ "method": "import", "digest": "0f" })).config();
        assert_eq!(get(&config, "pretrain.weights").as_deref(), Some("a.pth"));
    }

    /// Sides are paired by these seeds, and controls belong to both sides.
    #[test]
    fn seeds_of_replicates_and_controls_are_no_traits() {
        let config = made_up("bilevel")
            .with("pretrain", json!({ "seed": 0, "epochs": 3 }))
            .with("evaluate", json!({ "sees": ["train", "validation"] }))
            .config();
        assert_eq!((get(&config, "pretrain.seed"), get(&config, "pretrain.epochs").as_deref()), (None, Some("3")));
        assert_eq!(get(&config, "evaluate.sees"), None);
    }
}
