//! The traits of a case: its parameters, under names that mean the same on every route.
//!
//! A limit on pixels is `linf`, whether `[invert]` or `[poison-images]` sets it. The number of passes through the
//! extractor is `passes`, no matter how they were spent. So cases of different routes can be compared trait by trait.

use crate::Case;
use hemlock_attack::attacks;
use hemlock_pipeline::{REPLICATED, Row};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Fields of `[poison-features]` that belong to the search among features, which has no counterpart on pixels.
const SEARCH: [&str; 9] =
    ["label_update_interval", "base", "solver", "steps", "step", "stall", "max_seconds", "tolerance", "memory"];
/// Fields of `[invert]`, `[poison-images]` and `[unlearnable]` that limit pixels or set the length of steps.
const PIXELS: [&str; 4] = ["linf", "beta", "clip", "step"];
/// Fields that together determine the number of passes.
const PASSES: [&str; 3] = ["steps", "restarts", "refine"];
/// Nodes some of whose parameters may have no effect, so that the parameters in their keys are taken. For other nodes
/// the parameters of the spec are taken, because they name data and files, and keys do not.
const MADE: [&str; 5] = ["target-params", "poison-features", "invert", "poison-images", "unlearnable"];
/// The fields of a constraint on features.
const SETS: [&str; 3] = ["constraint", "quantile", "neighbors"];

/// The values of the traits of a case, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traits(BTreeMap<String, String>);

impl Traits {
    /// Finds the traits of a case. A value that stands for nothing (no limit, a weight of 0) is no trait, because
    /// another stage may not have the field at all.
    pub fn of(case: &Case) -> Self {
        let mut traits = BTreeMap::new();
        let own = attacks::find(case.aim()).and_then(|attack| attack.own(&Map::new()).ok()).unwrap_or_default();
        let aims = attacks::find(case.aim()).is_some_and(|attack| attack.uses_target());
        let row = &case.rows[0];
        for (node, params) in &row.params {
            let made = MADE.contains(node);
            // Fields that only monitor or save a training are not in its key. An import has the digests of its files in
            // its key.
            let trained = *node == "pretrain" && params["method"] != "import";
            let watches = |field: &str| trained && row.deciding.get(node).is_some_and(|key| key.get(field).is_none());
            let params = if made { row.deciding.get(node).unwrap_or(params) } else { params };
            for (field, value) in params.as_object().into_iter().flatten() {
                // Sides are paired by the seeds of replicates, so these are no traits. Nor are fields in which the rows
                // of a case differ.
                if field == "seed" && REPLICATED.contains(node) {
                    continue;
                }
                let of = |row: &Row| (if made { &row.deciding } else { &row.params }).get(node)?.get(field).cloned();
                let same = case.rows.iter().all(|row| of(row).as_ref() == Some(value)) && !watches(field);
                if let (Some(name), false, true) = (name(node, field, &own, aims), nothing(field, value), same) {
                    traits.insert(name, crate::words::value(value));
                }
            }
        }
        traits.extend(case.making().map(|making| ("images".to_owned(), making.to_owned())));
        traits.extend(passes(case).map(|passes| ("passes".to_owned(), passes.to_string())));
        if case.on_features() || case.on_pixels() {
            traits.insert("constraint".to_owned(), constraint(case));
            traits.insert("sees".to_owned(), case.row().sees.to_string());
        }
        traits.insert("victim.kind".to_owned(), case.victim().to_owned());
        Self(traits)
    }

    /// The names and values, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The value of a trait; `None` if the case does not have it.
    #[cfg(test)]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// The name of the trait that a field of a node belongs to. `None` if another trait contains it, or if it has no effect
/// on the attack. `own` are the fields that belong to the attack, and `aims` says whether the attack aims at the target
/// head.
fn name(node: &str, field: &str, own: &Map<String, Value>, aims: bool) -> Option<String> {
    let of_node = || Some(format!("{node}.{field}"));
    match (node, field) {
        ("poison-features" | "poison-images", field) if SETS.contains(&field) => None,
        ("invert" | "poison-images", field) if PASSES.contains(&field) => None,
        ("unlearnable", "rounds" | "steps") => None,
        ("invert" | "poison-images" | "unlearnable", field) if PIXELS.contains(&field) => Some(field.to_owned()),
        // The fields of `[evaluate]` say nothing about the attack.
        ("evaluate", _) => None,
        // How images are made is the trait `images`.
        ("invert", "method" | "refine_from") => None,
        ("poison-features", field) if SEARCH.contains(&field) => of_node(),
        // Which labelled splits an attack reads is the trait `sees`.
        ("target-params" | "poison-features" | "poison-images", "sees") => None,
        ("poison-features" | "poison-images", field) if own.contains_key(field) => Some(format!("attack.{field}")),
        ("poison-features" | "poison-images", field) => Some(field.to_owned()),
        ("unlearnable", "poison_fraction") => Some(field.to_owned()),
        ("target-params", "weight_decay") => Some(field.to_owned()),
        ("target-params", _) if !aims => None,
        _ => of_node(),
    }
}

/// Whether a value stands for something that is absent.
fn nothing(field: &str, value: &Value) -> bool {
    value.is_null() || *value == false || (field == "beta" && value.as_f64() == Some(0.0))
}

/// The constraint on the poisons' features: the names of its sets and their parameters.
fn constraint(case: &Case) -> String {
    let told = |field: &str| of_attack(case, field).filter(|v| !v.is_null()).map(crate::words::value);
    let kinds = told("constraint").unwrap_or_else(|| "none".to_owned());
    let share = told("quantile").filter(|_| kinds != "none").map(|q| format!(" at {q}")).unwrap_or_default();
    let neighbors = told("neighbors").filter(|_| kinds.contains("knn")).map(|k| format!(", k = {k}"));
    format!("{kinds}{share}{}", neighbors.unwrap_or_default())
}

/// A parameter of an attack on features or pixels, if it has an effect.
fn of_attack<'c>(case: &'c Case, field: &str) -> Option<&'c Value> {
    ["poison-features", "poison-images"].iter().find_map(|node| deciding(case, node, field))
}

/// A parameter as it stands in the key of an artifact.
fn deciding<'c>(case: &'c Case, node: &str, field: &str) -> Option<&'c Value> {
    case.rows[0].deciding.get(node)?.get(field)
}

/// The largest number of passes of an image through the extractor; `None` if there are no images, or if they were made
/// without any pass.
pub fn passes(case: &Case) -> Option<u64> {
    let number = |node: &str, field: &str| deciding(case, node, field).and_then(Value::as_u64);
    if let Some(steps) = number("poison-images", "steps") {
        return Some(steps);
    }
    if let (Some(rounds), Some(steps)) = (number("unlearnable", "rounds"), number("unlearnable", "steps")) {
        return Some(rounds * steps);
    }
    let starts = 1 + number("invert", "restarts").unwrap_or(0);
    // If refinement starts from base images, nothing is matched, and the key has no `steps`.
    let passes = number("invert", "steps").unwrap_or(0) * starts + number("invert", "refine").unwrap_or(0);
    (passes > 0).then_some(passes)
}

#[cfg(test)]
mod tests {
    use super::super::testing::made_up;
    use super::*;
    use hemlock_threat::Sees;
    use serde_json::json;

    fn get(case: &Case, name: &str) -> Option<String> {
        Traits::of(case).get(name).map(str::to_owned)
    }

    #[test]
    fn names_mean_the_same_on_both_routes() {
        let features = made_up("bilevel + refined")
            .with(
                "poison-features",
                json!({ "attack": "bilevel", "constraint": "ball", "quantile": 0.9, "objective": "both",
                                             "temperature": 0.5, "steps": 200, "labels": "clean" }),
            )
            .with(
                "invert",
                json!({ "method": "feature-matching", "linf": "8/255", "beta": 0.0, "steps": 20, "refine": 60,
                                    "restarts": 1, "step": 0.02 }),
            )
            .case();
        let pixels = made_up("bilevel + pixels")
            .with(
                "poison-images",
                json!({ "attack": "bilevel", "linf": "8/255", "beta": 0.0, "steps": 100, "step": 0.02,
                                           "objective": "both", "temperature": 0.5, "labels": "clean" }),
            )
            .case();
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

    #[test]
    fn a_target_that_nobody_aims_at_is_no_trait() {
        let with =
            |attack: &str| made_up(attack).with("target-params", json!({ "radius": 0.3, "weight_decay": 1e-4 })).case();
        let (bilevel, canceling) = (with("bilevel"), with("gradient-canceling"));
        assert_eq!(
            (get(&bilevel, "target-params.radius"), get(&bilevel, "weight_decay")),
            (None, Some("0.0001".into()))
        );
        assert_eq!(get(&canceling, "target-params.radius").as_deref(), Some("0.3"));
    }

    #[test]
    fn what_is_seen_is_a_trait_whoever_names_it() {
        let mut case = made_up("bilevel").with("target-params", json!({ "sees": ["train"] })).case();
        assert_eq!(get(&case, "sees").as_deref(), Some("train"));
        case.rows.iter_mut().for_each(|row| row.sees = Sees::TrainAndValidation);
        assert_ne!(get(&case, "sees").as_deref(), Some("train"));
    }

    /// A table has the fields of all attacks; its key has those of one attack alone.
    #[test]
    fn what_idles_is_no_trait() {
        let table = json!({ "attack": "gradient-canceling", "objective": "both", "temperature": 0.5, "quantile": 0.9 });
        let deciding = json!({ "attack": "gradient-canceling", "step": 0.02, "start": "clean" });
        let case = made_up("gradient-canceling + pixels").with_idle("poison-images", table, deciding).case();
        assert_eq!(get(&case, "sees").as_deref(), Some("train"));
        assert_eq!(get(&case, "step").as_deref(), Some("0.02"));
        assert_eq!((get(&case, "attack.temperature"), get(&case, "constraint").as_deref()), (None, Some("none")));
    }

    #[test]
    fn how_a_training_is_watched_is_no_trait() {
        let table = json!({ "method": "simclr", "epochs": 3, "checkpoint_minutes": 5.0 });
        let case = made_up("bilevel").with_idle("pretrain", table, json!({ "method": "simclr", "epochs": 3 })).case();
        assert_eq!(get(&case, "pretrain.epochs").as_deref(), Some("3"));
        assert_eq!(get(&case, "pretrain.checkpoint_minutes"), None);
        let table = json!({ "method": "import", "weights": "a.pth" });
        let case =
            made_up("bilevel").with_idle("pretrain", table, json!({ "method": "import", "digest": "0f" })).case();
        assert_eq!(get(&case, "pretrain.weights").as_deref(), Some("a.pth"));
    }

    /// Sides are paired by these seeds, and controls belong to both sides.
    #[test]
    fn seeds_of_replicates_and_controls_are_no_traits() {
        let case = made_up("bilevel")
            .with("pretrain", json!({ "seed": 0, "epochs": 3 }))
            .with("evaluate", json!({ "sees": ["train", "validation"] }))
            .case();
        assert_eq!((get(&case, "pretrain.seed"), get(&case, "pretrain.epochs").as_deref()), (None, Some("3")));
        assert_eq!(get(&case, "evaluate.sees"), None);
    }
}
