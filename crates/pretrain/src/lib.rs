//! Stage: a feature extractor, trained or imported.
//!
//! - [`config`]: the parameters, and what makes them valid.
//! - [`augment`]: random views of an image.
//! - [`ntxent`], [`infonce`]: the contrastive losses.
//! - [`train`]: the training loop, its checkpoints, its monitors and its loss curve.
//! - [`simclr`], [`moco`], [`supervised`]: what each method trains for.
//! - [`mod@import`]: weights that were trained elsewhere.
//! - [`probe`]: whether an imported network computes what its weights were trained in.
//! - [`classifier`]: networks with a classifier of given classes, for stages that train victims.
//!
//! SimCLR and MoCo v3 train without labels; supervised training is there to compare them with, and the random
//! initialisation without training as the control.

pub mod augment;
mod checkpoint;
pub mod classifier;
pub mod config;
pub mod import;
pub mod infonce;
pub mod knn;
pub mod moco;
pub mod ntxent;
mod optimizer;
pub mod probe;
pub mod simclr;
mod stage;
mod step;
mod student;
pub mod supervised;
pub mod train;

pub use classifier::{Classifier, ClassifierConfig, Labelled, Schedule, Session, Start};
pub use config::{Method, PretrainConfig, TrainConfig};
pub use import::{ImportConfig, import};
pub use stage::{Inputs, Stage};
pub use train::{Monitor, Pretrained, pretrain, random};
