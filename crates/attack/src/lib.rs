//! Attacks on a linear head: what poisons minimise, and how they are moved.
//!
//! What an attack minimises is an [`Objective`]: a function of the sum of the poisons' gradients at a head. Any solver
//! ([`descend`]), start ([`Plan`]), choice of labels ([`Labels`]) and constraint goes with any objective, on features
//! and, through an extractor's derivative, on pixels.
//!
//! - [`attacks`]: the attacks, each a file and a line of [`attacks::ATTACKS`]: Gradient Canceling, which makes the
//!   target parameters a stationary point of the victim's training; the bilevel attack, which raises the retrained
//!   victim's error; and TGDA, which raises the loss of a victim that descends meanwhile.
//! - [`Canceling`], [`Bilevel`]: the objectives that they have.

mod adam;
pub mod attacks;
mod bilevel;
mod canceling;
mod descent;
mod greedy;
mod labels;
mod memory;
mod objective;
mod start;
pub mod testing;

pub use attacks::{Follower, Known, Own};
pub use bilevel::Bilevel;
pub use canceling::{Canceled, Canceling};
pub use descent::{Descent, Found, Solver, Stop, descend};
pub use greedy::{Added, Choice, Class, add, nearest_samples};
pub use labels::{Base, Labels};
pub use memory::PAIRS;
pub use objective::{Force, Objective};
pub use start::{Plan, Start, StartKind, poison_count, random_features};
