//! Attacks on a linear head: what poisons minimise, and how they are moved.
//!
//! An attack minimises an [`Objective`]: a function of the sum of the poisons' gradients at a head. Every solver
//! ([`descend`], [`add`]), start ([`Initialization`]), choice of labels ([`Labels`]) and constraint works with every
//! objective, on features and, through the gradient of an extractor, on pixels.
//!
//! [`attacks`] holds the attacks. Each is one file and one line; [`attacks::all`] lists them:
//!
//! - Gradient Canceling makes the target head a stationary point of the victim's training ([`CancelingObjective`]).
//! - The bilevel attack raises the error, or the cross-entropy, of the retrained head ([`BilevelObjective`]).
//! - TGDA raises the loss of a head that takes steps of gradient descent at the same time ([`BilevelObjective`]).
//!
//! Every attack can adapt to a filter of the training set ([`adaptive`]).

pub mod adaptive;
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
pub use descent::{Descended, Descent, SearchWatch, Solver, Stop, descend, descend_watched};
pub use greedy::{Added, Choice, Class, add, nearest_samples};
pub use labels::{Base, Labels};
pub use objective::{Objective, ObjectiveGradient, Term};
pub use start::{InitialPoisons, Initialization, Start, poison_count, random_features};
