//! What is timed: kernels and stages, by Criterion (`just bench`) and beside PyTorch (`just bench-peer`).
//!
//! - [`works()`]: the list that both go through; a new [`Work`] is a new line there. [`gpu_works`] are those of a GPU's
//!   size (`just gpu-bench`).
//! - [`Machine`]: what they run on, and its physical limits.
//! - [`Results`]: what Criterion measured, as shares of these limits.

mod machine;
mod results;
mod work;
mod works;

pub use machine::{Limits, Machine};
pub use results::{Results, Row, Seconds};
pub use work::{Amount, Array, Given, Limit, Run, Work, on_threads};
pub use works::{Works, gpu_works, works};
