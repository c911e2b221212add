//! Defences against poisons in the training set of a linear head on frozen features, and what they guarantee.
//!
//! | module | contents |
//! | --- | --- |
//! | [`DefenceSpec`] | a defence as it is written in specs |
//! | [`filters`] | scores of how suspicious every training sample is, and what to remove |
//! | [`metrics`] | what a filter found, and how much accuracy a defence brings back |
//! | [`weight_decay`] | the weight decay that held-out data, trusted data or folds choose |
//! | [`robust`] | heads whose training tolerates poisons |
//! | [`certificates`] | for every test sample, the number of poisons up to which its prediction provably stays |
//! | [`images`] | transformations of images, before features are extracted |
//! | [`repair`] | a trained head, once some of its poisons are known |
//!
//! Everything starts from a [`TrainingData`]: blocks of samples as a victim has them, poisons included, with the weight
//! decay of the victim's objective `mean cross-entropy + λ/2 |W|²`. Nothing here knows which samples are poisons, apart
//! from [`metrics`] and [`repair`], which are told.
//!
//! Conventions:
//! - Results have the same bits for any number of threads: sums are taken over chunks of a fixed size, in their order.
//! - Results do not depend on the order of the samples, apart from rounding and from which of two equal samples is
//!   removed first: what is drawn at random is drawn by a hash of a sample's features, never by its row.
//! - Features are f64 or f32. Copies of selected rows are made in f64: at most one of the whole set at a time.

pub mod certificates;
mod error;
pub mod filters;
mod hash;
pub mod images;
mod linalg;
mod losses;
pub mod metrics;
pub mod repair;
pub mod robust;
mod spec;
mod training_data;
mod training_size;
pub mod weight_decay;

pub use error::DefenceError;
pub use spec::{ConfiguredFilter, DefenceKind, DefenceSpec, FilterRef};
pub use training_data::{Subset, TrainingData};
pub use training_size::TrainingSize;
