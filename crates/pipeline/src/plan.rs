//! Plans: the branches of a spec as tasks whose keys are known before anything runs.

use crate::{Graph, Node, Spec};
use hemlock_stage::{About, Environment, Need, Port, StageError, StageRole};
use hemlock_store::{Identity, Key};
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    path::PathBuf,
};

/// One run of one stage: everything that decides its result, and the tasks that make its inputs.
#[derive(Debug, Clone)]
pub struct Task {
    /// Node of the graph.
    pub node: &'static str,
    /// Stage that runs at the node.
    pub stage: &'static str,
    /// The stage's description.
    pub about: About,
    /// The checked parameters.
    pub params: Value,
    /// Everything that decides the result.
    pub identity: Identity,
    /// Hash of the identity.
    pub key: Key,
    /// For each role, the number in the plan of the task that fills it.
    pub inputs: BTreeMap<&'static str, usize>,
}

impl Task {
    /// The artifact's folder, `stage/key`, relative to the artifact root.
    #[must_use]
    pub fn folder(&self) -> String {
        format!("{}/{}", self.stage, self.key)
    }

    /// The parameters as results have them. Parameters of a node that the task adapts to are `true`, because those of
    /// the node stand beside them.
    pub(crate) fn shown_params(&self) -> Value {
        let mut params = self.params.clone();
        let field = self.about.adapts_to.and_then(|(field, _)| params.get_mut(field));
        if let Some(field) = field.filter(|field| field.is_object()) {
            *field = Value::Bool(true);
        }
        params
    }

    /// Whether the task evaluates poisons, so that it gives a result.
    #[must_use]
    pub fn is_evaluation(&self) -> bool {
        self.about.role == StageRole::Evaluation
    }
}

/// A branch of a plan: one choice for every node, and so the tasks that lead to one result.
#[derive(Debug, Clone, Default)]
pub struct Branch {
    /// Seed of the attack; `None` as long as no stage of the branch is seeded.
    pub seed: Option<u64>,
    /// The route that the branch takes ([`Node::route`]); `None` as long as it is not chosen.
    route: Option<&'static str>,
    /// For each node, the number in the plan of its task.
    pub tasks: BTreeMap<&'static str, usize>,
}

/// All tasks of a spec. The inputs of a task come before it.
#[derive(Debug)]
pub struct Plan {
    /// Name of the pipeline.
    pub pipeline: String,
    /// Path of the spec.
    pub spec: PathBuf,
    /// Overrides of the spec, as they were given.
    pub overrides: Vec<String>,
    /// The tasks. A task's number is its index here.
    pub tasks: Vec<Task>,
    /// The branches, which share tasks.
    pub branches: Vec<Branch>,
}

/// A failure to plan a spec.
#[derive(Debug, thiserror::Error)]
#[error("[{node}] cannot be planned")]
pub struct PlanError {
    /// The node that cannot be planned.
    pub node: &'static str,
    /// The reason.
    pub source: StageError,
}

impl Plan {
    /// Plans a spec. This reads raw data to compute its digest, but no artifact.
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
        // Several nodes may read the same raw data, and computing its digest takes time.
        let mut sources = HashMap::new();
        let routes = graph.routes(&spec.variants);
        for node in graph.nodes() {
            let Some(params) = spec.variants.get(node.name) else { continue };
            let variants: Result<Vec<Variant>, _> =
                params.iter().map(|params| Variant::new(node, params, env, &mut sources)).collect();
            let variants = variants.map_err(|source| PlanError { node: node.name, source })?;
            // A node on a route without an end counts as being on no route.
            let route = node.route.filter(|route| routes.contains(route));
            for branch in std::mem::take(&mut plan.branches) {
                if route.is_some() && branch.route.is_some() && branch.route != route {
                    plan.branches.push(branch);
                    continue;
                }
                // If a branch lacks what another route makes, the node does not run on it.
                let meets = |v: &&Variant| v.runs_on(&branch, graph) && plan.is_for(&branch, node.name, v.params);
                let runs: Vec<&Variant> = variants.iter().filter(meets).collect();
                if runs.is_empty() && !variants.is_empty() {
                    plan.branches.push(branch);
                    continue;
                }
                let at = At { graph, node, variants: &runs, seeds: &spec.seeds, route };
                plan.extend(&branch, &at, &mut known);
                if let (Some(taken), None) = (route, branch.route) {
                    let others = routes.iter().filter(|route| **route != taken);
                    plan.branches.extend(others.map(|route| Branch { route: Some(route), ..branch.clone() }));
                }
            }
        }
        Ok(plan)
    }

    /// Whether a branch may have a variant of a node: a stage that adapts to the node's parameters allows no others.
    fn is_for(&self, branch: &Branch, node: &str, params: &Value) -> bool {
        branch.tasks.values().all(|task| {
            let Task { about, params: own, .. } = &self.tasks[*task];
            let field = about.adapts_to.filter(|(_, to)| *to == node).and_then(|(field, _)| own.get(field));
            field.is_none_or(|field| !field.is_object() || field == params)
        })
    }

    /// Adds a branch for every seed and every variant of a node, and the tasks that are new.
    fn extend(&mut self, branch: &Branch, at: &At, known: &mut HashMap<(&'static str, Key), usize>) {
        let anew = branch.seed.is_none() && at.variants.iter().any(|v| v.seeded);
        let seeds = if anew { at.seeds.iter().copied().map(Some).collect() } else { vec![branch.seed] };
        for (turn, seed) in seeds.into_iter().enumerate() {
            for variant in at.variants {
                // A variant that draws no random numbers gives one branch, even if other variants give one per seed.
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

    /// Returns the number of a variant's task on a branch. It adds the task if its key is new.
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

/// The node by which branches are extended, with what that needs.
struct At<'a> {
    graph: &'a Graph,
    node: &'a Node,
    variants: &'a [&'a Variant<'a>],
    /// Seeds of the pipeline.
    seeds: &'a [u64],
    /// The route that the node is on, if that route has an end.
    route: Option<&'static str>,
}

/// One choice of parameters for a node.
struct Variant<'a> {
    params: &'a Value,
    key_params: Value,
    source: Option<String>,
    seeded: bool,
    ports: Vec<Port>,
    /// The nodes of the ports that have to be filled.
    required: Vec<&'static str>,
}

impl<'a> Variant<'a> {
    /// Computes what follows from a node's parameters. `sources` holds the digests that are known already.
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
        let (mut ports, mut required) = (Vec::new(), Vec::new());
        for port in node.ports() {
            match node.stage.need(params, &port)? {
                Need::Unread => continue,
                Need::Present => {
                    required.push(port.node);
                    continue;
                }
                Need::Required => required.push(port.node),
                Need::Optional => {}
            }
            ports.push(port);
        }
        Ok(Self { params, key_params, source, seeded, ports, required })
    }

    /// Whether a branch has all that has to be read.
    fn runs_on(&self, branch: &Branch, graph: &Graph) -> bool {
        self.required.iter().all(|node| graph.fillers(node).any(|node| branch.tasks.contains_key(node)))
    }
}

/// The tasks of a branch that fill the given roles.
fn inputs(ports: &[Port], branch: &Branch, graph: &Graph) -> BTreeMap<&'static str, usize> {
    let mut inputs = BTreeMap::new();
    for port in ports {
        if let Some(task) = graph.fillers(port.node).find_map(|node| branch.tasks.get(node)) {
            inputs.insert(port.role, *task);
        }
    }
    inputs
}
