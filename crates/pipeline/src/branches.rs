//! The number of branches of a spec, which is counted before any branch is made.

use crate::{Graph, telling};
use hemlock_stage::{ErrorKind, StageError, few};
use serde_json::Value;
use std::{collections::BTreeMap, fmt};

/// Most branches of a spec. A plan with this many takes some seconds, and some hundred megabytes of memory.
pub const MOST_BRANCHES: usize = 20_000;

/// A number of variants or branches. It is exact up to the allowed number, and rounded far beyond it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Count(f64);

impl Count {
    pub(crate) const ONE: Self = Self(1.0);

    pub(crate) fn times(self, n: usize) -> Self {
        Self(self.0 * n as f64)
    }
    pub(crate) fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
    pub(crate) fn is_too_many(self) -> bool {
        self.0 > MOST_BRANCHES as f64
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1e12 { write!(f, "{}", self.0) } else { write!(f, "{:e}", self.0) }
    }
}

/// The variants of every node that a spec has.
type Variants = BTreeMap<&'static str, Vec<Value>>;

/// Counts the branches that [`Plan::new`](crate::Plan::new) makes, or a few more if a node cannot run on a route. Like
/// that function, it multiplies node after node.
pub(crate) fn count(variants: &Variants, seeds: usize, graph: &Graph) -> Result<Count, StageError> {
    let routes = graph.routes(variants);
    // Numbers of branches by the route that they have taken, and by whether they have a seed.
    let mut branches = BTreeMap::from([((None, false), Count::ONE)]);
    for node in graph.nodes() {
        let Some(of) = variants.get(node.name) else { continue };
        let mut drawing = 0;
        for params in of {
            drawing += usize::from(node.stage.seeded(params)?);
        }
        let taken = node.route.filter(|route| routes.contains(route));
        let mut after: BTreeMap<_, Count> = BTreeMap::new();
        let mut add = |route, seed, count| {
            let sum = after.entry((route, seed)).or_default();
            *sum = sum.plus(count);
        };
        for ((route, seed), count) in branches {
            if taken.is_some() && route.is_some() && route != taken {
                add(route, seed, count);
                continue;
            }
            let on = route.or(taken);
            if seed {
                add(on, true, count.times(of.len()));
            } else {
                add(on, true, count.times(drawing).times(seeds));
                add(on, false, count.times(of.len() - drawing));
            }
            if let (Some(taken), None) = (taken, route) {
                routes.iter().filter(|other| **other != taken).for_each(|other| add(Some(*other), seed, count));
            }
        }
        branches = after;
    }
    Ok(branches.into_values().fold(Count::default(), Count::plus))
}

/// Returns the number of branches, which is at most [`MOST_BRANCHES`].
///
/// # Errors
/// There are more branches. The message says which lists multiply.
pub(crate) fn check(variants: &Variants, seeds: usize, graph: &Graph) -> Result<usize, StageError> {
    let branches = count(variants, seeds, graph)?;
    if !branches.is_too_many() {
        return Ok(branches.0 as usize);
    }
    let many = |(node, of): (&&str, &Vec<Value>)| {
        let fields = telling(of.iter().map(|params| (*node, params)));
        let fields = few(fields.into_iter().map(|(_, field)| format!("`{field}`")));
        (of.len() > 1).then(|| format!("[{node}] {} ({fields})", of.len()))
    };
    let mut lists: Vec<String> = variants.iter().filter_map(many).collect();
    lists.extend((seeds > 1).then(|| format!("seeds {seeds}")));
    let message = format!(
        "the spec has {branches} branches, and may have at most {MOST_BRANCHES}: its lists multiply, {}; make them shorter, \
         or write several specs",
        few(lists)
    );
    Err(StageError::new(ErrorKind::Params, message))
}
