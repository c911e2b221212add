//! The splits that an attacker sees.

use hemlock_failure::{ErrorKind, Failure};
use hemlock_head::Samples;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The labelled clean splits that an attack or a control may look at. Specs write it as a list: `["train"]` or
/// `["train", "validation"]`. Attacks that see different splits are not compared on equal terms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Vec<String>", into = "Vec<&'static str>")]
#[schemars(extend("enum" = [["train"], ["train", "validation"], ["validation", "train"]]))]
pub enum Sees {
    /// The training split of the victims, as in the paper.
    #[default]
    Train,
    /// The training split and the validation split, on which victims do not train.
    TrainAndValidation,
}

/// The attack should see a validation split, but the dataset has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`dataset.downstream`: gives no validation split, which `sees` names; expected `validation` above 0")]
pub struct NoValidation;

impl Failure for NoValidation {
    fn class(&self) -> ErrorKind {
        ErrorKind::Params
    }
}

impl Sees {
    /// Whether the validation split is visible.
    #[must_use]
    pub fn validation(self) -> bool {
        self == Self::TrainAndValidation
    }

    /// The samples of the visible splits.
    ///
    /// # Errors
    /// Returns an error if the validation split should be visible and has no samples.
    pub fn samples<'a>(self, train: Samples<'a>, validation: Samples<'a>) -> Result<Vec<Samples<'a>>, NoValidation> {
        match self {
            Self::Train => Ok(vec![train]),
            Self::TrainAndValidation if validation.is_empty() => Err(NoValidation),
            Self::TrainAndValidation => Ok(vec![validation, train]),
        }
    }

    /// The names of the visible splits.
    #[must_use]
    pub fn splits(self) -> &'static [&'static str] {
        match self {
            Self::Train => &["train"],
            Self::TrainAndValidation => &["train", "validation"],
        }
    }
}

impl TryFrom<Vec<String>> for Sees {
    type Error = String;

    fn try_from(splits: Vec<String>) -> Result<Self, String> {
        let named: Vec<&str> = splits.iter().map(String::as_str).collect();
        match named.as_slice() {
            ["train"] => Ok(Self::Train),
            ["train", "validation"] | ["validation", "train"] => Ok(Self::TrainAndValidation),
            _ => {
                let (splits, both) = (serde_json::json!(splits), "[\"train\", \"validation\"]");
                Err(format!(
                    "sees {splits}; expected [\"train\"] or {both}: whoever attacks sees what victims train on"
                ))
            }
        }
    }
}

impl From<Sees> for Vec<&'static str> {
    fn from(sees: Sees) -> Self {
        sees.splits().to_vec()
    }
}

impl fmt::Display for Sees {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.splits().join(" and "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_list_of_splits() {
        let read = |json: &str| serde_json::from_str::<Sees>(json);
        for (json, sees) in [("[\"train\"]", Sees::Train), ("[\"train\",\"validation\"]", Sees::TrainAndValidation)] {
            assert_eq!(read(json).unwrap(), sees);
            assert_eq!(serde_json::to_string(&sees).unwrap(), json);
        }
        assert_eq!(read("[\"validation\", \"train\"]").unwrap(), Sees::TrainAndValidation);
        for json in ["[]", "[\"validation\"]", "[\"test\"]", "[\"train\", \"train\"]", "\"train\""] {
            assert!(read(json).is_err(), "{json}");
        }
        let message = read("[\"validation\"]").unwrap_err().to_string();
        assert!(message.starts_with("sees [\"validation\"]; expected [\"train\"] or"), "{message}");
    }
}
