//! The stages of Hemlock's pipelines, as the command `hemlock` knows them.

mod registry;

pub use registry::graph;
