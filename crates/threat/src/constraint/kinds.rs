//! Kinds of sets, and how they are written.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A kind of set that poisoned features may have to lie in, measured on the clean samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConstraintKind {
    /// The L2 ball around the origin whose radius is a quantile of the clean norms.
    Ball,
    /// The range of the clean features, coordinate by coordinate.
    Box,
    /// A ball around the centroid of the label's class, whose radius is a quantile of that class's distances.
    Sphere,
    /// A slab around the centroid of the label's class, across the direction that tells the class from the others; its
    /// width is a quantile of that class's offsets.
    Slab,
    /// The points whose distance to their k-th nearest sample of the label's class is at most a quantile of that
    /// distance in the class.
    Knn,
}

/// The intersection of some kinds of sets, written `ball` or `sphere+slab`; all of space, if there are none, written
/// `none`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ConstraintKinds(Vec<ConstraintKind>);

const NAMES: [(&str, ConstraintKind); 5] = [
    ("ball", ConstraintKind::Ball),
    ("box", ConstraintKind::Box),
    ("sphere", ConstraintKind::Sphere),
    ("slab", ConstraintKind::Slab),
    ("knn", ConstraintKind::Knn),
];

impl ConstraintKinds {
    /// The kinds, each once.
    #[must_use]
    pub fn kinds(&self) -> &[ConstraintKind] {
        &self.0
    }

    /// Whether a quantile decides what they let through; a box lets all clean samples through.
    #[must_use]
    pub fn has_quantile(&self) -> bool {
        self.0.iter().any(|kind| *kind != ConstraintKind::Box)
    }
}

impl FromStr for ConstraintKinds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::default());
        }
        let mut kinds = Vec::new();
        for name in text.split('+') {
            let known = NAMES.iter().find(|(known, _)| *known == name.trim());
            let (_, kind) = known.ok_or_else(|| {
                let names = NAMES.map(|(name, _)| name).join(", ");
                format!("unknown constraint `{text}`: expected none, {names}, or several such as `sphere+slab`")
            })?;
            if !kinds.contains(kind) {
                kinds.push(*kind);
            }
        }
        Ok(Self(kinds))
    }
}

impl TryFrom<String> for ConstraintKinds {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ConstraintKinds> for String {
    fn from(kinds: ConstraintKinds) -> Self {
        kinds.to_string()
    }
}

impl fmt::Display for ConstraintKinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |kind: &ConstraintKind| NAMES.iter().find(|(_, k)| k == kind).map_or("", |(name, _)| *name);
        if self.0.is_empty() { f.pad("none") } else { f.pad(&self.0.iter().map(name).collect::<Vec<_>>().join("+")) }
    }
}
