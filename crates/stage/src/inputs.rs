//! The artifacts that a stage reads, by role.

use crate::StageError;
use hemlock_store::{Artifact, Manifest, Store};
use std::collections::BTreeMap;

/// One artifact that a stage reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// The artifact's role in this stage, which is part of the key.
    pub role: &'static str,
    /// The node of the pipeline that makes it.
    pub node: &'static str,
    /// How the stage needs the role to be filled, unless its parameters decide otherwise
    /// ([`Stage::need`](crate::Stage::need)).
    pub need: Need,
}

/// How a stage needs a role to be filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The stage cannot run without the artifact.
    Required,
    /// The stage takes the artifact if the pipeline makes one. The field of the inputs is an `Option`.
    Optional,
    /// The pipeline has to make the artifact, although the stage does not read it: other stages use both together. It
    /// is not part of the key, and the field of the inputs is an `Option`.
    Present,
    /// The stage does not read the artifact, which is therefore not part of its key. The field of the inputs is an
    /// `Option`.
    Unread,
}

/// The artifacts that a task was given, by role. An artifact is read from disk when [`InputSet::read`] asks for it.
pub struct InputSet {
    store: Store,
    manifests: BTreeMap<&'static str, Manifest>,
}

impl InputSet {
    /// Makes a set of published artifacts in `store`, from their manifests by role.
    #[must_use]
    pub fn new(store: Store, manifests: BTreeMap<&'static str, Manifest>) -> Self {
        Self { store, manifests }
    }

    /// Reads the artifact in `role`. Returns `None` if the pipeline makes none.
    ///
    /// # Errors
    /// The artifact cannot be read or is damaged.
    pub fn read<A: Artifact>(&self, role: &'static str) -> Result<Option<A>, StageError> {
        Ok(self.manifests.get(role).map(|m| self.store.read(m)).transpose()?)
    }

    /// Reads the artifact in `role`, which every plan provides.
    ///
    /// # Errors
    /// No artifact has the role, or the artifact cannot be read or is damaged.
    pub fn require<A: Artifact>(&self, role: &'static str) -> Result<A, StageError> {
        self.read(role)?.ok_or_else(|| StageError::internal(format!("no artifact was given for the input '{role}'")))
    }
}

/// Typed inputs of a stage. Declare them with [`inputs!`](crate::inputs).
pub trait Inputs: Sized {
    /// The roles, each with the node that fills it.
    const PORTS: &'static [Port];
    /// Reads the artifacts of all roles.
    ///
    /// # Errors
    /// A required artifact is missing, or an artifact cannot be read or is damaged.
    fn load(set: &InputSet) -> Result<Self, StageError>;
}

/// The inputs of a stage that reads no artifact.
impl Inputs for () {
    const PORTS: &'static [Port] = &[];
    fn load(_: &InputSet) -> Result<Self, StageError> {
        Ok(())
    }
}

/// Declares a stage's inputs: a struct with a field per role, each with its type and the node that makes it. Fields
/// after `; optional { … }` are `Option`s.
#[macro_export]
macro_rules! inputs {
    (
        $(#[$doc:meta])* $vis:vis struct $name:ident {
            $($(#[$fdoc:meta])* $role:ident: $ty:ty = $node:literal,)*
            $(; optional { $($(#[$odoc:meta])* $orole:ident: $oty:ty = $onode:literal,)* })?
        }
    ) => {
        $(#[$doc])*
        $vis struct $name {
            $($(#[$fdoc])* pub $role: $ty,)*
            $($($(#[$odoc])* pub $orole: Option<$oty>,)*)?
        }
        impl $crate::Inputs for $name {
            const PORTS: &'static [$crate::Port] = &[
                $($crate::Port { role: stringify!($role), node: $node, need: $crate::Need::Required },)*
                $($($crate::Port { role: stringify!($orole), node: $onode, need: $crate::Need::Optional },)*)?
            ];
            fn load(set: &$crate::InputSet) -> Result<Self, $crate::StageError> {
                Ok(Self {
                    $($role: set.require(stringify!($role))?,)*
                    $($($orole: set.read(stringify!($orole))?,)*)?
                })
            }
        }
    };
}
