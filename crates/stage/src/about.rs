//! What a stage says of itself: all that the command line, results and reports know of it.

/// What a stage says of itself.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// What it does, as the end of "Run up to the stage NAME: …".
    pub does: &'static str,
    /// What it is for.
    pub role: StageRole,
    /// Parameters that every task and every result that comes from it is named by.
    pub named_by: &'static [&'static str],
    /// Numbers of its artifact's summary that are columns of results.
    pub columns: &'static [Column],
}

impl About {
    /// A stage that names no result and has no column.
    #[must_use]
    pub const fn new(role: StageRole, does: &'static str) -> Self {
        Self { does, role, named_by: &[], columns: &[] }
    }
}

/// What a stage is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StageRole {
    /// It makes clean data, or what victims have without an attack: images, an extractor, features.
    Data,
    /// It makes something that attacks need: a target head, a decoder.
    Preparation,
    /// It is an attack on features.
    FeatureAttack,
    /// It makes images of poisoned features.
    Inversion,
    /// It is an attack on images.
    ImageAttack,
    /// It trains a victim on clean data.
    Victim,
    /// It looks at data or poisons, and measures or filters them.
    Defence,
    /// It trains victims on poisons and measures them.
    Evaluation,
}

impl StageRole {
    /// Whether its time is the attacker's.
    #[must_use]
    pub fn is_attackers(self) -> bool {
        matches!(self, Self::Preparation | Self::FeatureAttack | Self::Inversion | Self::ImageAttack)
    }

    /// Whether it decides what poisons do.
    #[must_use]
    pub fn is_attack(self) -> bool {
        matches!(self, Self::FeatureAttack | Self::ImageAttack)
    }

    /// Whether it makes poisoned images.
    #[must_use]
    pub fn makes_images(self) -> bool {
        matches!(self, Self::Inversion | Self::ImageAttack)
    }
}

/// A number of an artifact's summary that is a column of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// The field of the summary, and the name of the column.
    pub field: &'static str,
    /// What stands above the column.
    pub heading: &'static str,
    /// What the number is, as a sentence.
    pub meaning: &'static str,
    /// Digits behind the decimal point.
    pub digits: usize,
}
