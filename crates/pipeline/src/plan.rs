//! Plans: a spec's branches as tasks whose keys are known before anything runs.

use crate::{Graph, Node, Spec};
use hemlock_stage::{About, Environment, Need, Port, StageError};
use hemlock_store::{Identity, Key};
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    path::PathBuf,
};

/// One run of one stage: what it is, and where its inputs come from.
#[derive(Debug, Clone)]
pub struct Task {
    /// Node of the graph.
    pub node: &'static str,
    /// Stage that runs there.
    pub stage: &'static str,
    /// What the stage says of itself.
    pub about: About,
    /// Checked parameters.
    pub params: Value,
    /// Everything that decides the result.
    pub identity: Identity,
    /// Hash of the identity.
    pub key: Key,
    /// Number in the plan of the task that fills each role.
    pub inputs: BTreeMap<&'static str, usize>,
}

impl Task {
    /// `stage/key`, the artifact's folder below the artifact root.
    #[must_use]
    pub fn folder(&self) -> String {
        format!("{}/{}", self.stage, self.key)
    }
}

/// One choice for every node: the tasks that lead to one result.
#[derive(Debug, Clone, Default)]
pub struct Branch {
    /// Seed of the attack, once a seeded stage is in the branch.
    pub seed: Option<u64>,
    /// [`Node::route`], once it is chosen.
    route: Option<&'static str>,
    /// Number in the plan of the task at every node.
    pub tasks: BTreeMap<&'static str, usize>,
}

/// All tasks of a spec, inputs before those that read them.
#[derive(Debug)]
pub struct Plan {
    /// Name of the pipeline.
    pub pipeline: String,
    /// File of its spec.
    pub spec: PathBuf,
    /// Overrides of the spec, as they were given.
    pub overrides: Vec<String>,
    /// The tasks.
    pub tasks: Vec<Task>,
    /// The branches, which share tasks.
    pub branches: Vec<Branch>,
}

/// A spec that cannot be planned.
#[derive(Debug, thiserror::Error)]
#[error("[{node}] cannot be planned")]
pub struct PlanError {
    /// The node that cannot be planned.
    pub node: &'static str,
    /// Why.
    pub source: StageError,
}

impl Plan {
    /// Plans a spec. Reads raw data (for its digests), and no artifact.
    ///
    /// # Errors
    /// Raw data is missing or damaged.
    pub fn new(spec: &Spec, graph: &Graph, env: &Environment) -> Result<Self, PlanError> {
        let mut plan = Self {
            pipeline: spec.name.clone(),
            spec: spec.path.clone(),
            overrides: spec.overrides.iter().map(ToString::to_string).collect(),
            tasks: Vec::new(),
            branches: vec![Branch::default()],
        };
        let mut known = HashMap::new();
        // Two nodes may read the same raw data, and its digest takes time.
        let mut sources = HashMap::new();
        let routes = graph.routes(&spec.variants);
        for node in graph.nodes() {
            let Some(params) = spec.variants.get(node.name) else { continue };
            let variants: Result<Vec<Variant>, _> =
                params.iter().map(|params| Variant::new(node, params, env, &mut sources)).collect();
            let variants = variants.map_err(|source| PlanError { node: node.name, source })?;
            // A node whose route leads nowhere is on none.
            let route = node.route.filter(|route| routes.contains(route));
            for branch in std::mem::take(&mut plan.branches) {
                if route.is_some() && branch.route.is_some() && branch.route != route {
                    plan.branches.push(branch);
                    continue;
                }
                let at = At { graph, node, variants: &variants, seeds: &spec.seeds, route };
                plan.extend(&branch, &at, &mut known);
                if let (Some(taken), None) = (route, branch.route) {
                    let others = routes.iter().filter(|route| **route != taken);
                    plan.branches.extend(others.map(|route| Branch { route: Some(route), ..branch.clone() }));
                }
            }
        }
        Ok(plan)
    }

    /// Adds a branch for every seed and variant of a node, and the tasks that are not known yet.
    fn extend(&mut self, branch: &Branch, at: &At, known: &mut HashMap<(&'static str, Key), usize>) {
        let anew = branch.seed.is_none() && at.variants.iter().any(|v| v.seeded);
        let seeds = if anew { at.seeds.iter().copied().map(Some).collect() } else { vec![branch.seed] };
        for (turn, seed) in seeds.into_iter().enumerate() {
            for variant in at.variants {
                // What draws nothing is there once, beside variants that draw.
                let seed = if anew && !variant.seeded { None } else { seed };
                if anew && !variant.seeded && turn > 0 {
                    continue;
                }
                let task = self.task(variant, seed, branch, at, known);
                let route = branch.route.or(at.route);
                let mut branch = Branch { seed, route, ..branch.clone() };
                branch.tasks.insert(at.node.name, task);
                self.branches.push(branch);
            }
        }
    }

    /// The number of the task of a variant on a branch, which is new if its key is.
    fn task(
        &mut self,
        variant: &Variant,
        seed: Option<u64>,
        branch: &Branch,
        at: &At,
        known: &mut HashMap<(&'static str, Key), usize>,
    ) -> usize {
        let inputs = inputs(&variant.ports, branch, at.graph);
        let stage = &at.node.stage;
        let identity = Identity {
            stage: stage.name().to_owned(),
            stage_version: stage.version(),
            params: variant.key_params.clone(),
            seed: seed.filter(|_| variant.seeded),
            source: variant.source.clone(),
            inputs: inputs.iter().map(|(role, i)| ((*role).to_owned(), self.tasks[*i].key)).collect(),
        };
        let (node, key, params) = (at.node.name, identity.key(), variant.params.clone());
        *known.entry((node, key)).or_insert_with(|| {
            self.tasks.push(Task { node, stage: stage.name(), about: stage.about(), params, identity, key, inputs });
            self.tasks.len() - 1
        })
    }
}

/// A node that branches are extended by.
struct At<'a> {
    graph: &'a Graph,
    node: &'a Node,
    variants: &'a [Variant<'a>],
    /// Seeds of the pipeline.
    seeds: &'a [u64],
    /// The route that it is on, if that leads to an end.
    route: Option<&'static str>,
}

/// One choice of parameters for a node.
struct Variant<'a> {
    params: &'a Value,
    key_params: Value,
    source: Option<String>,
    seeded: bool,
    ports: Vec<Port>,
}

impl<'a> Variant<'a> {
    /// A node's parameters, and what follows from them. `sources` holds the digests that are known.
    fn new(
        node: &Node,
        params: &'a Value,
        env: &Environment,
        sources: &mut HashMap<String, Option<String>>,
    ) -> Result<Self, StageError> {
        let source = match sources.entry(node.stage.source_id(params)?) {
            Entry::Occupied(known) => known.get().clone(),
            Entry::Vacant(new) => new.insert(node.stage.source(params, env)?).clone(),
        };
        let (seeded, key_params) = (node.stage.seeded(params)?, node.stage.key_params(params)?);
        Ok(Self { params, key_params, source, seeded, ports: read(node, params)? })
    }
}

/// The roles that a node reads with these parameters.
fn read(node: &Node, params: &Value) -> Result<Vec<Port>, StageError> {
    let mut read = Vec::new();
    for port in node.ports() {
        if node.stage.need(params, &port)? != Need::Unread {
            read.push(port);
        }
    }
    Ok(read)
}

/// The tasks of a branch that fill roles.
fn inputs(ports: &[Port], branch: &Branch, graph: &Graph) -> BTreeMap<&'static str, usize> {
    let mut inputs = BTreeMap::new();
    for port in ports {
        if let Some(task) = graph.fillers(port.node).find_map(|node| branch.tasks.get(node)) {
            inputs.insert(port.role, *task);
        }
    }
    inputs
}
