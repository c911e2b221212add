//! Benchmarks of kernels and stages, with Criterion (`just bench`) and against PyTorch (`just bench-peer`).
//!
//! - [`works()`] lists the works that both run; a new [`Work`] is a new line there. [`gpu_works`] lists works that are
//!   large enough for a GPU (`just gpu-bench`).
//! - [`Machine`] describes the machine that they run on, and its physical limits.
//! - [`shared_tiles`] simulates more threads than the machine has.
//! - [`Results`] holds Criterion's measurements as shares of these limits.

mod machine;
mod results;
mod threads;
mod work;
mod works;

pub use machine::{Machine, MeasuredRates};
pub use results::{Results, Seconds, WorkMeasurement};
pub use threads::{SharedTiles, shared_tiles};
pub use work::{Amount, Array, Limit, PeerInputs, Run, Work, in_task_pool};
pub use works::{Works, gpu_works, works};
