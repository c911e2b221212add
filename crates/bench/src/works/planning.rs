//! A work that plans a spec of ten thousand tasks.

use crate::{Amount, Run, Work};
use anyhow::{Result, ensure};
use hemlock_pipeline::{Plan, Spec};
use hemlock_stage::Environment;
use hemlock_store::Store;
use std::path::Path;

/// A spec with 91 seeds, 10 attacks and 5 inversions: 910 sets of poisoned features, 4,550 sets of images, as many
/// evaluations, and the tasks before them.
const SPEC: &str = r#"
seeds = [SEEDS]

[dataset.downstream]
source = { kind = "synthetic", domain = "a" }

[pretrain]
[features]
[target-params]

[poison-features]
attack = "gradient-canceling"
poison_fraction = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1]

[invert]
method = "feature-matching"
beta = [0.0, 0.1, 0.2, 0.3, 0.4]

[evaluate]
"#;
const TASKS: usize = 10_000;

/// Parses a spec and decides what to do about every task, in an empty artifact root.
pub(super) struct Planning;

impl Work for Planning {
    fn what(&self) -> String {
        format!("plan a spec of {TASKS} tasks")
    }

    /// No arithmetic bounds it.
    fn amount(&self) -> Result<Option<Amount>> {
        Ok(None)
    }

    fn prepare(&self) -> Result<Run> {
        let seeds: Vec<String> = (0..91).map(|seed: u32| seed.to_string()).collect();
        let spec = SPEC.replace("SEEDS", &seeds.join(", "));
        let (root, graph) = (tempfile::tempdir()?, hemlock::graph());
        Ok(Box::new(move || {
            let spec = Spec::parse(Path::new("bench.toml"), &spec, &[], &graph)?;
            let plan = Plan::new(&spec, &graph, &Environment::default())?;
            let decided = plan.decide(&Store::new(root.path()), false).len();
            ensure!(decided >= TASKS, "there are {decided} tasks only");
            Ok(())
        }))
    }
}
