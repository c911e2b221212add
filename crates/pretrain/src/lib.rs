//! Stage: a feature extractor, trained without labels or imported.
//!
//! - [`config`]: the parameters, and what makes them valid.
//! - [`augment`]: random views of an image.
//! - [`ntxent`]: the contrastive loss.
//! - [`simclr`]: the training loop, its checkpoints and its loss curve.
//! - [`mod@import`]: weights that were trained elsewhere.
//!
//! SimCLR: Chen et al., "A simple framework for contrastive learning of visual representations"
//! (ICML 2020). The random initialisation without training is there as the control.

pub mod augment;
mod checkpoint;
pub mod config;
pub mod import;
mod knn;
pub mod ntxent;
mod optimizer;
pub mod simclr;
mod stage;
mod streams;
mod student;

pub use config::{PretrainConfig, SimclrConfig};
pub use import::{ImportConfig, import};
pub use simclr::{Monitor, Pretrained, pretrain, random};
pub use stage::{Inputs, Stage};
