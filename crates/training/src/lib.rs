//! Training of networks: one loop for extractors, with labels and without, and the same step for classifiers.
//!
//! - [`config`]: the parameters of a training, and their valid ranges.
//! - [`augment`]: random views of an image.
//! - [`ntxent`], [`infonce`]: the contrastive losses.
//! - [`mod@train`]: the training loop, with its checkpoints, its monitors and its loss curve.
//! - [`simclr`], [`moco`], [`supervised`]: the objective of each method.
//! - [`classifier`]: networks with a linear classifier, for stages that train victims.
//! - [`knn`]: k-nearest-neighbour votes.
//!
//! SimCLR and MoCo v3 train without labels; supervised training is there for comparison.

pub mod augment;
mod checkpoint;
pub mod classifier;
pub mod config;
pub mod infonce;
pub mod knn;
pub mod moco;
pub mod ntxent;
mod online_network;
mod optimizer;
pub mod simclr;
mod step;
pub mod supervised;
pub mod train;

pub use classifier::{Classifier, ClassifierConfig, InitialWeights, Labelled, Schedule, Session, freezes};
pub use config::{Method, TrainConfig};
pub use train::{Monitor, Pretrained, pretrain, random};
