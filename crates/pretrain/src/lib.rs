//! Stage `pretrain`: a feature extractor, trained, imported, or in a child process.
//!
//! - [`config`]: the parameters, and their valid ranges.
//! - [`mod@import`]: extractors from files of weights that were trained elsewhere.
//! - [`process`]: extractors that are child processes.
//! - [`probe`]: the comparison of an imported network with features of the original framework.
//!
//! The training methods are in `hemlock-training`; random initialisation without training is their control.

pub mod config;
pub mod import;
pub mod probe;
pub mod process;
mod stage;

pub use config::PretrainConfig;
pub use import::{ImportConfig, import};
pub use process::ProcessConfig;
pub use stage::{Inputs, Stage};
