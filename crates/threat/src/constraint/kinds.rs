//! Kinds of constraints, and their names in specs.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A kind of set that poisoned features may have to lie in. The clean samples determine its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConstraintKind {
    /// The L2 ball around the origin. Its radius is a quantile of the norms of the clean features.
    Ball,
    /// The smallest box that contains the clean features: their range in each coordinate.
    Box,
    /// A ball around the centroid of the label's class. Its radius is a quantile of the distances within that class.
    Sphere,
    /// A slab around the centroid of the label's class. It is bounded along the line from the mean of the other
    /// centroids to this one; its half-width is a quantile of that class's offsets along the line.
    Slab,
    /// The points that have k samples of the label's class within a radius. The radius is a quantile of the distances
    /// from the class's samples to their k-th nearest other sample.
    Knn,
}

/// An intersection of kinds of sets, written `ball` or `sphere+slab`. If there are no kinds, it is the whole space and
/// is written `none`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(
    extend("pattern" = "^(none|(ball|box|sphere|slab|knn)( *[+] *(ball|box|sphere|slab|knn))*)$"),
    extend("examples" = ["none", "ball", "box", "sphere", "slab", "knn", "sphere+slab"]),
)]
pub struct ConstraintKinds(Vec<ConstraintKind>);

const NAMES: [(&str, ConstraintKind); 5] = [
    ("ball", ConstraintKind::Ball),
    ("box", ConstraintKind::Box),
    ("sphere", ConstraintKind::Sphere),
    ("slab", ConstraintKind::Slab),
    ("knn", ConstraintKind::Knn),
];

impl ConstraintKinds {
    /// The kinds of the intersection, each of them once.
    #[must_use]
    pub fn kinds(&self) -> &[ConstraintKind] {
        &self.0
    }

    /// Whether the size of some set depends on the quantile. The box does not: it contains all clean samples.
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
