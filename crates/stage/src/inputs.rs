//! The artifacts that a stage reads, by role.

use crate::StageError;
use hemlock_store::{Artifact, Manifest, Store};
use std::collections::BTreeMap;

/// One artifact that a stage reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// What the artifact is to this stage; part of the key.
    pub role: &'static str,
    /// The node of the pipeline that makes it.
    pub node: &'static str,
    /// How the stage wants it filled, whatever its parameters: see [`Stage::need`](crate::Stage::need).
    pub need: Need,
}

/// How a stage wants a role filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// It cannot run without the artifact.
    Required,
    /// It takes the artifact where the pipeline makes one. The field is an `Option`.
    Optional,
    /// It does not look at the artifact, which is not part of its key either. The field is an `Option`.
    Unread,
}

/// The artifacts that a task was given, by role; each is read when it is asked for.
pub struct InputSet {
    store: Store,
    manifests: BTreeMap<&'static str, Manifest>,
}

impl InputSet {
    /// A set of published artifacts.
    #[must_use]
    pub fn new(store: Store, manifests: BTreeMap<&'static str, Manifest>) -> Self {
        Self { store, manifests }
    }

    /// Reads the artifact for `role`, or `None` where the pipeline has none.
    ///
    /// # Errors
    /// The artifact cannot be read or is damaged.
    pub fn read<A: Artifact>(&self, role: &'static str) -> Result<Option<A>, StageError> {
        Ok(self.manifests.get(role).map(|m| self.store.read(m)).transpose()?)
    }

    /// Reads the artifact for `role`, which a plan always provides.
    ///
    /// # Errors
    /// The role is empty, or the artifact cannot be read or is damaged.
    pub fn require<A: Artifact>(&self, role: &'static str) -> Result<A, StageError> {
        self.read(role)?.ok_or_else(|| StageError::internal(format!("no artifact was given for the input '{role}'")))
    }
}

/// Typed inputs of a stage. Declare them with [`inputs!`](crate::inputs).
pub trait Inputs: Sized {
    /// The roles, and the nodes that fill them.
    const PORTS: &'static [Port];
    /// Reads all of them.
    ///
    /// # Errors
    /// An artifact is missing, cannot be read or is damaged.
    fn load(set: &InputSet) -> Result<Self, StageError>;
}

/// A stage at the head of the graph reads nothing.
impl Inputs for () {
    const PORTS: &'static [Port] = &[];
    fn load(_: &InputSet) -> Result<Self, StageError> {
        Ok(())
    }
}

/// Declares a stage's inputs: a struct whose fields are roles, each with its type and the node that makes it.
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
