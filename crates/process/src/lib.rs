//! Feature extractors that are child processes. A child answers requests over its stdin and stdout, and keeps its
//! network to itself: it may be of any framework, on any device.
//!
//! - [`frame`]: how requests and answers are written.
//! - [`ProcessExtractor`]: a running child, which is asked for features and gradients, and restarted once.
//! - [`Fault`], [`ProcessError`]: what a child may do wrong.
//!
//! docs/process-extractor.md describes the protocol for those who write the other side.

mod child;
mod error;
mod extractor;
pub mod frame;
mod group;

pub use error::{Fault, ProcessError};
pub use extractor::{Description, KeptPass, ProcessExtractor};
pub use group::kill_all;
