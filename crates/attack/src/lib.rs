//! Attacks on a linear head: what poisons minimise, and how they are moved.
//!
//! What an attack minimises is an [`Objective`]: a function of the sum of the poisons' gradients at a head. Any solver
//! ([`descend`]), start ([`Initialization`]), choice of labels ([`Labels`]) and constraint goes with any objective, on
//! features and, through an extractor's derivative, on pixels.
//!
//! - [`attacks`]: the attacks, each a file and a line of [`attacks::all`]: Gradient CancelingObjective, which makes
//!   the target parameters a stationary point of the victim's training; the bilevel attack, which raises the retrained
//!   victim's error; and TGDA, which raises the loss of a victim that descends meanwhile.
//! - [`CancelingObjective`], [`BilevelObjective`]: the objectives that they have.

pub mod attacks;
mod bilevel;
mod canceling;
mod descent;
mod greedy;
mod labels;
mod objective;
mod start;
pub mod testing;

pub use attacks::{AttackParams, AttackRef, InnerLoop};
pub use bilevel::BilevelObjective;
pub use canceling::{Canceled, CancelingObjective};
pub use descent::{Descended, Descent, Solver, Stop, descend};
pub use greedy::{Added, Choice, Class, add, nearest_samples};
pub use labels::{Base, Labels};
pub use objective::{Objective, ObjectiveGradient};
pub use start::{InitialPoisons, Initialization, Start, poison_count, random_features};
