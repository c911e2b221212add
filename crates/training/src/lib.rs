//! Training of networks: one loop for extractors, with labels and without, and for classifiers.
//!
//! - [`config`]: the parameters, and what makes them valid.
//! - [`augment`]: random views of an image.
//! - [`ntxent`], [`infonce`]: the contrastive losses.
//! - [`mod@train`]: the training loop, its checkpoints, its monitors and its loss curve.
//! - [`simclr`], [`moco`], [`supervised`]: what each method trains for.
//! - [`classifier`]: networks with a classifier of given classes, for stages that train victims.
//! - [`knn`]: the vote of the nearest neighbours.
//!
//! SimCLR and MoCo v3 train without labels; supervised training is there to compare them with.

pub mod augment;
mod checkpoint;
pub mod classifier;
pub mod config;
pub mod infonce;
pub mod knn;
pub mod moco;
pub mod ntxent;
mod optimizer;
pub mod simclr;
mod step;
mod student;
pub mod supervised;
pub mod train;

pub use classifier::{Classifier, ClassifierConfig, InitialWeights, Labelled, Schedule, Session};
pub use config::{Method, TrainConfig};
pub use train::{Monitor, Pretrained, pretrain, random};
