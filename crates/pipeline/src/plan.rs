//! Plans: a spec's branches as tasks whose keys are known before anything runs.

use crate::{Graph, Node, Spec};
use hemlock_stage::{Environment, Need, Port, StageError};
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
        let mut known: HashMap<(&str, Key), usize> = HashMap::new();
        // Two nodes may read the same raw data, and its digest takes time.
        let mut sources: HashMap<String, Option<String>> = HashMap::new();
        let routes = graph.routes(&spec.variants);
        for node in graph.nodes() {
            let Some(variants) = spec.variants.get(node.name) else { continue };
            let variants = variants
                .iter()
                .map(|params| {
                    let source = match sources.entry(node.stage.source_id(params)?) {
                        Entry::Occupied(known) => known.get().clone(),
                        Entry::Vacant(new) => new.insert(node.stage.source(params, env)?).clone(),
                    };
                    let seeded = node.stage.seeded(params)?;
                    Ok(Variant {
                        params,
                        key_params: node.stage.key_params(params)?,
                        source,
                        seeded,
                        ports: read(node, params)?,
                    })
                })
                .collect::<Result<Vec<_>, _>>()
                .map_err(|source| PlanError { node: node.name, source })?;
            // A node whose route leads nowhere is on none.
            let taken = node.route.filter(|route| routes.contains(route));
            let mut branches = Vec::new();
            for branch in std::mem::take(&mut plan.branches) {
                if taken.is_some() && branch.route.is_some() && branch.route != taken {
                    branches.push(branch);
                    continue;
                }
                let anew = branch.seed.is_none() && variants.iter().any(|v| v.seeded);
                let seeds = if anew { spec.seeds.iter().copied().map(Some).collect() } else { vec![branch.seed] };
                for (turn, seed) in seeds.into_iter().enumerate() {
                    for Variant { params, key_params, source, seeded, ports } in &variants {
                        // What draws nothing is there once, beside variants that draw.
                        let seed = if anew && !seeded { None } else { seed };
                        if anew && !seeded && turn > 0 {
                            continue;
                        }
                        let inputs = inputs(ports, &branch, graph);
                        let identity = Identity {
                            stage: node.stage.name().to_owned(),
                            stage_version: node.stage.version(),
                            params: key_params.clone(),
                            seed: seed.filter(|_| *seeded),
                            source: source.clone(),
                            inputs: inputs.iter().map(|(role, i)| ((*role).to_owned(), plan.tasks[*i].key)).collect(),
                        };
                        let key = identity.key();
                        let task = *known.entry((node.name, key)).or_insert_with(|| {
                            let (node, stage, params) = (node.name, node.stage.name(), (*params).clone());
                            plan.tasks.push(Task { node, stage, params, identity, key, inputs });
                            plan.tasks.len() - 1
                        });
                        let route = branch.route.or(taken);
                        let mut branch = Branch { seed, route, ..branch.clone() };
                        branch.tasks.insert(node.name, task);
                        branches.push(branch);
                    }
                }
                if let (Some(taken), None) = (taken, branch.route) {
                    let others = routes.iter().filter(|route| **route != taken);
                    branches.extend(others.map(|route| Branch { route: Some(route), ..branch.clone() }));
                }
            }
            plan.branches = branches;
        }
        Ok(plan)
    }
}

/// One choice of parameters for a node.
struct Variant<'a> {
    params: &'a Value,
    key_params: Value,
    source: Option<String>,
    seeded: bool,
    ports: Vec<Port>,
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
