//! The command `hemlock`, and the stages of its pipelines.
//!
//! Another binary can have the same command with additional stages or attacks: see `examples/`.

mod app;
mod args;
mod commands;
mod exit;
mod printer;
mod reference;
mod registry;
mod render;
mod results;

pub use app::main;
pub use registry::{graph, node};
