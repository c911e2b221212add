//! Stage: a feature extractor, trained without labels.
//!
//! - [`config`]: the parameters, and what makes them valid.
//! - [`augment`]: random views of an image.
//! - [`ntxent`]: the contrastive loss.
//! - [`simclr`]: the training loop, its checkpoints and its loss curve.
//!
//! SimCLR: Chen et al., "A simple framework for contrastive learning of visual representations"
//! (ICML 2020). The random initialisation without training is there as the control.

pub mod augment;
mod checkpoint;
pub mod config;
mod knn;
pub mod ntxent;
mod optimizer;
pub mod simclr;
mod stage;
mod streams;
mod student;

pub use config::{Method, PretrainConfig};
pub use simclr::{Monitor, Pretrained, pretrain};
pub use stage::{Inputs, Stage};
