//! `hemlock` with one additional stage: `norm-filter`, a filter by the norm of features. It records how many poisons
//! and how many clean samples it would remove. Commands, plans, results and reports learn of it from its [`About`].

use hemlock_artifact::{Export, Exported, Features, PoisonFeatures};
use hemlock_stage::{About, Column, Context, ParamError, StageError, StageRole, inputs};
use hemlock_store::{Artifact, PayloadReader, PayloadWriter, StoreError};
use ndarray::ArrayView2;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::process::ExitCode;

/// The parameters in the table `[norm-filter]` of a spec.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Params {
    /// The share of the clean samples, those with the smallest norms, that the filter keeps.
    #[schemars(range(max = 1), extend("exclusiveMinimum" = 0))]
    quantile: f64,
}

impl Default for Params {
    fn default() -> Self {
        Self { quantile: 0.95 }
    }
}

impl hemlock_stage::Params for Params {
    fn check(&self) -> Result<(), ParamError> {
        ParamError::share("quantile", self.quantile)
    }
}

inputs! {
    /// What the stage reads.
    struct Inputs {
        /// Features of the downstream dataset.
        features: Features = "features",
        /// Poisoned features.
        poisons: PoisonFeatures = "poison-features",
    }
}

/// What the stage makes: the shares of the samples that the filter removes.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct Removed {
    poisons: f64,
    clean: f64,
}

impl Artifact for Removed {
    const KIND: &'static str = "removed";

    fn write(&self, w: &mut PayloadWriter) -> Result<(), StoreError> {
        w.value("removed", self)
    }

    fn read(r: &PayloadReader) -> Result<Self, StoreError> {
        r.value("removed")
    }

    fn summary(&self) -> serde_json::Value {
        serde_json::json!({ "removed_poisons": self.poisons, "removed_clean": self.clean })
    }
}

impl Export for Removed {
    fn export(&self) -> Exported {
        Exported::default()
    }
}

struct NormFilter;

impl hemlock_stage::Stage for NormFilter {
    const NAME: &'static str = "norm-filter";
    const ABOUT: About = About {
        columns: &[
            Column {
                field: "removed_poisons",
                heading: "removed poisons",
                meaning: "This is the share of the poisons that the norm filter removes.",
                digits: 2,
            },
            Column {
                field: "removed_clean",
                heading: "removed clean samples",
                meaning: "This is the share of the clean samples that the norm filter removes.",
                digits: 2,
            },
        ],
        ..About::new(StageRole::Defence, "filter features by their norm")
    };
    const VERSION: u32 = 1;
    const SEEDED: bool = false;
    const USES_DEVICE: bool = false;
    type Params = Params;
    type Inputs = Inputs;
    type Output = Removed;

    fn run(params: &Params, Inputs { features, poisons }: Inputs, _: &Context) -> Result<Removed, StageError> {
        let norms = |z: ArrayView2<f32>| z.rows().into_iter().map(|z| z.dot(&z).sqrt()).collect::<Vec<f32>>();
        let clean = norms(features.train.features.view());
        let mut sorted = clean.clone();
        sorted.sort_by(f32::total_cmp);
        let kept = ((params.quantile * sorted.len() as f64) as usize).clamp(1, sorted.len());
        let share = |of: &[f32]| of.iter().filter(|norm| **norm > sorted[kept - 1]).count() as f64 / of.len() as f64;
        Ok(Removed { poisons: share(&norms(poisons.features.view())), clean: share(&clean) })
    }
}

fn main() -> ExitCode {
    hemlock::main(hemlock::graph().with(hemlock::node::<NormFilter>("norm-filter"), "poison-features"))
}
