//! The command `hemlock`, and the stages of its pipelines.
//!
//! A binary of your own has the same command with further stages or attacks: see `examples/`.

mod app;
mod args;
mod commands;
mod exit;
mod printer;
mod registry;
mod render;
mod results;

pub use app::main;
pub use registry::{graph, node};
