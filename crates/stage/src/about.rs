//! How a stage describes itself to the command line, to results and to reports.

use serde::{Deserialize, Serialize};

/// A stage's description of itself.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// What the stage does, as the end of the sentence "Run up to the stage NAME: …".
    pub does: &'static str,
    /// What the stage is for.
    pub role: StageRole,
    /// Parameters that always appear in the names of the stage's tasks and of all results that come from them.
    pub named_by: &'static [&'static str],
    /// Numbers of its artifact's summary that are columns of results.
    pub columns: &'static [Column],
    /// A field, and a node whose parameters it stands for if it is `true`. A plan then makes one variant for each of
    /// the node's, with these parameters in the field, and its branches have no other variant of the node.
    pub adapts_to: Option<(&'static str, &'static str)>,
}

impl About {
    /// Describes a stage without parameters in names and without columns of results.
    #[must_use]
    pub const fn new(role: StageRole, does: &'static str) -> Self {
        Self { does, role, named_by: &[], columns: &[], adapts_to: None }
    }
}

/// What a stage is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StageRole {
    /// The stage makes clean data, or what victims have without an attack: images, an extractor, features.
    Data,
    /// The stage makes something that attacks need: a target head, a decoder.
    Preparation,
    /// The stage is an attack on features.
    FeatureAttack,
    /// The stage makes images of poisoned features.
    Inversion,
    /// The stage is an attack on images.
    ImageAttack,
    /// The stage trains a victim on clean data.
    Victim,
    /// The stage examines data or poisons, and measures or filters them.
    Defence,
    /// The stage trains victims on poisons and measures them.
    Evaluation,
}

impl StageRole {
    /// Whether the stage's time counts as the attacker's.
    #[must_use]
    pub fn is_attackers(self) -> bool {
        matches!(self, Self::Preparation | Self::FeatureAttack | Self::Inversion | Self::ImageAttack)
    }

    /// Whether the stage is an attack: it decides what the poisons do.
    #[must_use]
    pub fn is_attack(self) -> bool {
        matches!(self, Self::FeatureAttack | Self::ImageAttack)
    }

    /// Whether the stage makes poisoned images.
    #[must_use]
    pub fn makes_images(self) -> bool {
        matches!(self, Self::Inversion | Self::ImageAttack)
    }
}

/// A number of an artifact's summary that is a column of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// The field of the summary, which is also the name of the column.
    pub field: &'static str,
    /// The heading of the column.
    pub heading: &'static str,
    /// What the number means, as a sentence.
    pub meaning: &'static str,
    /// Number of digits after the decimal point.
    pub digits: usize,
}
