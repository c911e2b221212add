//! Seeds that are parameters of a stage.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The seed of what a stage draws. In a spec it is a number, or `"run"`: then each of the pipeline's seeds gives other
/// draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Value", into = "Value")]
#[schemars(extend("anyOf" = [{ "type": "integer", "minimum": 0 }, { "const": "run" }]))]
pub enum Seed {
    /// A fixed seed.
    Of(u64),
    /// The pipeline's seed.
    Run,
}

impl Seed {
    /// The seed to draw with, in a pipeline of the seed `run`.
    #[must_use]
    pub fn of(self, run: u64) -> u64 {
        if let Self::Of(seed) = self { seed } else { run }
    }
}

impl Default for Seed {
    fn default() -> Self {
        Self::Of(0)
    }
}

impl TryFrom<Value> for Seed {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        match (value.as_u64(), value.as_str()) {
            (Some(seed), _) => Ok(Self::Of(seed)),
            (_, Some("run")) => Ok(Self::Run),
            _ => Err(format!("is {value}; expected an integer from 0, or \"run\"")),
        }
    }
}

impl From<Seed> for Value {
    fn from(seed: Seed) -> Self {
        match seed {
            Seed::Of(seed) => seed.into(),
            Seed::Run => "run".into(),
        }
    }
}
