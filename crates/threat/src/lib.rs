//! The threat model: what an attacker sees, where poisons may lie, and bounds of what poisons there can do.
//!
//! - [`Sees`]: the labelled splits that an attack may look at.
//! - [`Constraint`]: the set that poisoned features have to lie in.
//! - [`SupportFunction`], [`poisonability`]: lower bounds of the share of poisons that makes a head stationary.
//! - [`loss_ceiling`]: an upper bound of the clean loss, whatever the poisons.

mod ceiling;
mod constraint;
mod reach;
mod sees;

pub use ceiling::loss_ceiling;
pub use constraint::{Constraint, ConstraintError, ConstraintKind, ConstraintKinds, class_means};
pub use reach::{Poison, PoisonFractionBounds, SupportFunction, poisonability};
pub use sees::{NoValidation, Sees};
