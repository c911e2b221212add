//! Heads whose training tolerates poisons.
//!
//! | head | what is trained | source |
//! | --- | --- | --- |
//! | [`truncated_loss`] | the cross-entropy of a sample counts up to a threshold | Wu & Liu, 2007; Collobert et al., 2006 |
//! | [`median_of_means`] | the geometric median of heads on disjoint parts | Minsker, 2015 |
//! | [`hinge`] | the multi-class hinge loss, which grows only linearly | Crammer & Singer, 2001 |
//! | [`TrimmedPrototypes`] | no head: trimmed mean distances to the samples of each class | Wang et al., 2024 (FCert) |

mod hinge;
mod median_of_means;
mod prototypes;
mod truncated;

pub use hinge::hinge;
pub use median_of_means::median_of_means;
pub use prototypes::TrimmedPrototypes;
pub(crate) use prototypes::trimmed_mean;
pub use truncated::{Truncated, truncated_loss};
