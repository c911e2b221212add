//! Stage: a feature extractor, trained or imported.
//!
//! - [`config`]: the parameters, and what makes them valid.
//! - [`mod@import`]: weights that were trained elsewhere.
//! - [`probe`]: whether an imported network computes what its weights were trained in.
//!
//! `hemlock-training` has the training methods; the random initialisation without training is their control.

pub mod config;
pub mod import;
pub mod probe;
mod stage;

pub use config::PretrainConfig;
pub use import::{ImportConfig, import};
pub use stage::{Inputs, Stage};
