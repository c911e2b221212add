//! Comparison of two settings of a pipeline: results that agree in everything else, side by side.

use crate::{MeanStd, Plan, REPLICATED, ResultRow, Selection, results::rows_of};
use hemlock_store::{Store, StoreError};
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Parameters of a result by full name, `node.field`, and its seed as `seed`.
type Fields = BTreeMap<String, Value>;

/// One quantity for both sides, the first side first.
pub type Both<T> = [T; 2];

/// The results of one side of a comparison.
#[derive(Debug, Clone)]
pub struct Side {
    /// The results that exist.
    pub rows: Vec<ResultRow>,
    /// Number of selected branches without a result.
    pub missing: usize,
}

/// Two results, one from each side, that differ less from each other than from the other results.
#[derive(Debug, Clone, Serialize)]
pub struct Pair {
    /// The parameters in which the two differ, with both values. A value is `None` if that side does not have the
    /// parameter.
    pub differs: BTreeMap<String, Both<Option<Value>>>,
    /// The seeds of the two.
    pub seed: Both<u64>,
    /// Test accuracy in `[0, 1]`, for the training sets that both have.
    pub accuracy: BTreeMap<String, Both<f64>>,
    /// What the poisons cost: clean accuracy minus poisoned accuracy. The latter is for images or, if there are none,
    /// for features.
    pub drop: Both<Option<f64>>,
    /// Time that the attack's stages took, in seconds.
    pub seconds: Both<Option<f64>>,
    /// Keys of the evaluations.
    pub key: Both<String>,
    /// All parameters of the two.
    #[serde(skip)]
    fields: Both<Fields>,
}

/// Means over pairs that differ in seeds only.
#[derive(Debug, Clone)]
pub struct Compared {
    /// The parameters that distinguish these pairs from others.
    pub told: BTreeMap<String, Value>,
    /// The parameters in which their sides differ, except those in [`Comparison::differs`].
    pub differs: BTreeMap<String, Both<Option<Value>>>,
    /// Number of pairs.
    pub seeds: usize,
    /// Quantities by name: the means of both sides, and of the second minus the first.
    pub quantities: Vec<(&'static str, [MeanStd; 3])>,
}

/// The differences between two settings, and their effect on the results.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// The parameters in which all pairs differ in the same way.
    pub differs: BTreeMap<String, Both<Option<Value>>>,
    /// All pairs.
    pub pairs: Vec<Pair>,
    /// The pairs, averaged over seeds.
    pub compared: Vec<Compared>,
    /// Number of results on each side that are in no pair.
    pub alone: Both<usize>,
}

/// Returns the results of the selected branches of a plan. The inner error says why the selection does not fit the plan
/// ([`Selection::of`]).
///
/// # Errors
/// An artifact is damaged or cannot be read.
pub fn side(plan: &Plan, selection: &Selection, store: &Store) -> Result<Result<Side, String>, StoreError> {
    let branches = match selection.of(plan) {
        Ok(branches) => branches,
        Err(e) => return Ok(Err(e)),
    };
    let (rows, missing) = rows_of(plan, branches.into_iter(), store)?;
    Ok(Ok(Side { rows, missing }))
}

/// Pairs the results of two sides, and compares the pairs.
///
/// - Two results are a pair if each differs from the other in the fewest parameters, among all results of the other
///   side.
/// - If the sides have seeds in common, only results with the same seed are paired.
/// - Results that both sides have are not paired with each other.
#[must_use]
pub fn compare(a: &[ResultRow], b: &[ResultRow]) -> Comparison {
    let keys = |rows: &[ResultRow]| rows.iter().map(|row| row.key.clone()).collect::<BTreeSet<_>>();
    let seeds = |rows: &[ResultRow]| rows.iter().map(|row| row.seed).collect::<BTreeSet<_>>();
    let shared: BTreeSet<String> = keys(a).intersection(&keys(b)).cloned().collect();
    let by_seed = !seeds(a).is_disjoint(&seeds(b));
    let (left, right): (Vec<Fields>, Vec<Fields>) = (a.iter().map(fields).collect(), b.iter().map(fields).collect());
    let paired = |i: usize, j: usize| {
        let both_shared = shared.contains(&a[i].key) && shared.contains(&b[j].key);
        !both_shared && (!by_seed || a[i].seed == b[j].seed)
    };
    let distance = |i: usize, j: usize| paired(i, j).then(|| differing(&left[i], &right[j]).len());
    let least_of = |i: usize| (0..b.len()).filter_map(|j| distance(i, j)).min();
    let least_to = |j: usize| (0..a.len()).filter_map(|i| distance(i, j)).min();
    let (of, to): (Vec<_>, Vec<_>) = ((0..a.len()).map(least_of).collect(), (0..b.len()).map(least_to).collect());
    let mut pairs = Vec::new();
    let (mut in_a, mut in_b) = (BTreeSet::new(), BTreeSet::new());
    for (i, j) in (0..a.len()).flat_map(|i| (0..b.len()).map(move |j| (i, j))) {
        let here = distance(i, j);
        if here.is_some() && here == of[i] && here == to[j] {
            pairs.push(pair([&a[i], &b[j]], [&left[i], &right[j]]));
            in_a.insert(i);
            in_b.insert(j);
        }
    }
    let mut differs = pairs.first().map(|p| p.differs.clone()).unwrap_or_default();
    differs.retain(|field, values| pairs.iter().all(|p| p.differs.get(field) == Some(values)));
    let alone = [a.len() - in_a.len(), b.len() - in_b.len()];
    let compared = over_seeds(&pairs, &differs);
    Comparison { differs, pairs, compared, alone }
}

fn fields(row: &ResultRow) -> Fields {
    let params = row.params.iter().flat_map(|(node, params)| {
        let own = params.as_object().into_iter().flatten();
        own.map(move |(field, value)| (format!("{node}.{field}"), value.clone()))
    });
    params.chain([("seed".to_owned(), row.seed.into())]).collect()
}

/// The names for which not all maps that have them have the same value.
pub(crate) fn differing_among<'a, V: PartialEq + 'a>(
    all: impl Iterator<Item = &'a BTreeMap<String, V>>,
) -> BTreeSet<&'a String> {
    let (mut first, mut differ) = (BTreeMap::new(), BTreeSet::new());
    for (name, value) in all.flatten() {
        if first.entry(name).or_insert(value) != &value {
            differ.insert(name);
        }
    }
    differ
}

fn differing(a: &Fields, b: &Fields) -> BTreeMap<String, Both<Option<Value>>> {
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let differ = names.into_iter().filter(|name| a.get(*name) != b.get(*name));
    differ.map(|name| (name.clone(), [a.get(name).cloned(), b.get(name).cloned()])).collect()
}

fn pair(rows: Both<&ResultRow>, fields: Both<&Fields>) -> Pair {
    let [a, b] = rows.map(|row| row.accuracy.named().collect::<BTreeMap<_, _>>());
    let both = a.iter().filter_map(|(name, x)| Some(((*name).to_owned(), [**x, **b.get(name)?])));
    let drop = |row: &ResultRow| Some(row.accuracy.clean - row.accuracy.poisoned()?);
    Pair {
        differs: differing(fields[0], fields[1]),
        seed: rows.map(|row| row.seed),
        accuracy: both.collect(),
        drop: rows.map(drop),
        seconds: rows.map(|row| row.seconds),
        key: rows.map(|row| row.key.clone()),
        fields: fields.map(Fields::clone),
    }
}

fn over_seeds(pairs: &[Pair], all_differ: &BTreeMap<String, Both<Option<Value>>>) -> Vec<Compared> {
    // Extractors and images can have seeds of their own. If both sides of a pair have the same such seeds, these are
    // treated like the seed of the run.
    let but_seeds = |pair: &Pair| {
        let seed = |name: &str| {
            name == "seed"
                || name.strip_suffix(".seed").is_some_and(|node| REPLICATED.contains(&node))
                    && !pair.differs.contains_key(name)
        };
        pair.fields.clone().map(|fields| fields.into_iter().filter(|(name, _)| !seed(name)).collect::<Fields>())
    };
    let mut groups: Vec<(Both<Fields>, Vec<&Pair>)> = Vec::new();
    for pair in pairs {
        let fields = but_seeds(pair);
        match groups.iter_mut().find(|(known, _)| *known == fields) {
            Some((_, group)) => group.push(pair),
            None => groups.push((fields, vec![pair])),
        }
    }
    let telling: Vec<&String> = differing_among(groups.iter().map(|(fields, _)| &fields[0])).into_iter().collect();
    let compared = |(fields, group): &(Both<Fields>, Vec<&Pair>)| {
        let told = telling.iter().filter_map(|name| Some(((*name).clone(), fields[0].get(*name)?.clone())));
        let mut differs = group[0].differs.clone();
        differs.retain(|field, _| !all_differ.contains_key(field) && field != "seed");
        Compared { told: told.collect(), differs, seeds: group.len(), quantities: quantities(group) }
    };
    groups.iter().map(compared).collect()
}

/// The quantities that all pairs have.
fn quantities(pairs: &[&Pair]) -> Vec<(&'static str, [MeanStd; 3])> {
    let means = |of: &dyn Fn(&Pair) -> Option<Both<f64>>| {
        let values: Option<Vec<Both<f64>>> = pairs.iter().map(|p| of(p)).collect();
        values.map(|values| {
            let mean = |f: &dyn Fn(&Both<f64>) -> f64| MeanStd::of(&values.iter().map(f).collect::<Vec<_>>());
            [mean(&|[a, _]| *a), mean(&|[_, b]| *b), mean(&|[a, b]| b - a)]
        })
    };
    let both = |[a, b]: Both<Option<f64>>| Some([a?, b?]);
    let mut found = Vec::new();
    for name in ["clean", "target", "features", "images"] {
        found.extend(means(&|p| p.accuracy.get(name).copied()).map(|means| (name, means)));
    }
    found.extend(means(&|p| both(p.drop)).map(|means| ("drop", means)));
    found.extend(means(&|p| both(p.seconds)).map(|means| ("seconds", means)));
    found
}
