//! The command `hemlock`, and the stages of its pipelines.
//!
//! Another binary can have the same command with additional stages or attacks: see `examples/`.

mod app;
mod args;
mod commands;
mod exit;
mod printer;
pub mod project;
mod reference;
mod registry;
mod render;
mod results;

pub use app::{command, main};
pub use exit::code;
pub use registry::{graph, node};
