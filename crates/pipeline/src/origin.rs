//! Where a result comes from: its extractor, its data, and the predictions of its victims on every test image.

use crate::{Plan, ResultRow, nodes};
use hemlock_artifact::{Answers, Drawn, Evaluation, Measured};
use hemlock_store::{Artifact, Key, Store, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Nodes that make extractors: the attacker's, and that of victims which have another one.
pub(crate) const EXTRACTORS: [&str; 2] = [nodes::EXTRACTOR, nodes::VICTIM_EXTRACTOR];

/// Nodes whose field `seed` makes replicates of one case rather than different cases.
pub const REPLICATED: [&str; 5] =
    [nodes::PRETRAINING_IMAGES, nodes::DOWNSTREAM_IMAGES, nodes::EXTRACTOR, nodes::VICTIM_EXTRACTOR, nodes::FEATURES];

/// What a result is one draw of. Results of one case share some of these and differ in others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Keys of the attacker's extractor and the victim extractor; the file, if features were imported instead.
    pub extractor: String,
    /// Key of the downstream images. If features were imported, it is the key of the features, whose splits are drawn
    /// there.
    pub data: String,
    /// The source of the test images, as a text. Images of the same source may be the same images.
    pub pool: String,
    /// Seeds of the [`REPLICATED`] nodes, `None` for a node without a seed. Comparisons pair results by them.
    pub seeds: [Option<u64>; REPLICATED.len()],
}

/// What the victims of a result predicted on every test image.
#[derive(Debug, Clone, PartialEq)]
pub struct Answered {
    /// By training set: whether the predicted class was right, for every test image (`[n]`).
    pub right: Measured<Vec<bool>>,
    /// Which samples victims were trained and tested on.
    pub drawn: Arc<Drawn>,
}

impl Origin {
    /// The origin of a result in a run of the seed `run`. `tasks` are the tasks of its branch by node, and `read` those
    /// that the result comes from.
    pub(crate) fn of(plan: &Plan, tasks: &BTreeMap<&'static str, usize>, read: &BTreeSet<usize>, run: u64) -> Self {
        let task = |node: &str| tasks.get(node).filter(|task| read.contains(task)).map(|task| &plan.tasks[*task]);
        let key = |node: &str| task(node).map(|task| task.key.to_string());
        let extractors: Vec<String> = EXTRACTORS.into_iter().filter_map(key).collect();
        let imported = || task(nodes::FEATURES).map(|task| task.params["path"].to_string()).unwrap_or_default();
        let seed = |node: &str| match task(node)?.params.get("seed")? {
            Value::String(_) => Some(run),
            seed => seed.as_u64(),
        };
        let source = |node: &str| Some(task(node)?.params.get("source")?.to_string());
        Self {
            extractor: if extractors.is_empty() { imported() } else { extractors.join(" ") },
            data: key(nodes::DOWNSTREAM_IMAGES).or_else(|| key(nodes::FEATURES)).unwrap_or_default(),
            pool: source(nodes::DOWNSTREAM_IMAGES).unwrap_or_else(imported),
            seeds: REPLICATED.map(seed),
        }
    }
}

/// Whether two sets of parameters, by node, differ in seeds of [`REPLICATED`] nodes only.
pub(crate) fn replicates(a: &BTreeMap<&'static str, Value>, b: &BTreeMap<&'static str, Value>) -> bool {
    let alike = |node: &str, a: &Value, b: &Value| match (a.as_object(), b.as_object()) {
        (Some(a), Some(b)) if REPLICATED.contains(&node) => {
            let rest = |of: &serde_json::Map<String, Value>| of.keys().filter(|field| *field != "seed").count();
            rest(a) == rest(b) && a.iter().all(|(field, value)| field == "seed" || b.get(field) == Some(value))
        }
        _ => a == b,
    };
    a.len() == b.len() && a.iter().zip(b).all(|((node, a), (other, b))| node == other && alike(node, a, b))
}

/// Reads which test images the victims of each result classified correctly, into [`ResultRow::answers`]. They take one
/// bit per image, and only tests and intervals need them. A result whose evaluation is gone by now keeps `None`.
///
/// # Errors
/// An evaluation is damaged or cannot be read, or a row has an invalid key.
pub fn read_answers(rows: &mut [ResultRow], store: &Store) -> Result<(), StoreError> {
    // Few sets of images occur among the results, so each is read once.
    let mut known: BTreeMap<String, Arc<Drawn>> = BTreeMap::new();
    for row in rows.iter_mut() {
        let key: Key = row.key.parse().map_err(|e| StoreError::Refused { what: format!("{}: {e}", row.key) })?;
        let Some(manifest) = store.lookup(row.stage, &key)? else { continue };
        let reader = store.reader(&manifest, Evaluation::KIND);
        let right = Answers::read_right(&reader, &row.accuracy)?;
        let drawn = match known.get(&row.origin.data) {
            Some(drawn) => drawn.clone(),
            None => {
                let drawn = Arc::new(Drawn::read(&reader)?);
                known.insert(row.origin.data.clone(), drawn.clone());
                drawn
            }
        };
        row.answers = Some(Arc::new(Answered { right, drawn }));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn seeds_of_what_is_drawn_anew_tell_no_case_apart() {
        let params = |pretrain: Value, attack: u64| {
            BTreeMap::from([("pretrain", pretrain), ("poison-features", json!({ "seed": attack }))])
        };
        let a = params(json!({ "epochs": 3, "seed": 0 }), 0);
        assert!(replicates(&a, &params(json!({ "epochs": 3, "seed": 7 }), 0)));
        assert!(replicates(&a, &params(json!({ "epochs": 3 }), 0)));
        for other in
            [json!({ "epochs": 4, "seed": 0 }), json!({ "seed": 0 }), json!({ "epochs": 3, "seed": 0, "x": 1 })]
        {
            assert!(!replicates(&a, &params(other, 0)));
        }
        assert!(!replicates(&a, &params(json!({ "epochs": 3, "seed": 0 }), 1)), "a field of another node");
        assert!(!replicates(&a, &BTreeMap::from([("pretrain", json!({ "epochs": 3, "seed": 0 }))])));
    }
}
