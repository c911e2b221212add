//! The threat model: what an attacker sees, where poisons may lie, and bounds of what such poisons can do.
//!
//! - [`Sees`]: the labelled splits that an attack may look at.
//! - [`Constraint`]: the set that poisoned features have to lie in.
//! - [`SupportFunction`], [`poison_fraction_bounds`]: lower bounds of the poison fraction that makes a head stationary.
//! - [`loss_bound()`]: an upper bound of the clean loss, over all poisons within the constraint.

mod constraint;
mod loss_bound;
mod sees;
mod support_function;

pub use constraint::{Constraint, ConstraintError, ConstraintKind, ConstraintKinds, Project, class_means};
pub use loss_bound::{LossBoundStart, loss_bound};
pub use sees::{NoValidation, Sees};
pub use support_function::{Poison, PoisonFractionBounds, SupportFunction, poison_fraction_bounds};
