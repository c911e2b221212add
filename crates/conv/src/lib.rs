//! Convolutions and batch norms on the processor, vectorised.
//!
//! - **Layout**: images are a [`BlockedTensor`]: blocks of 16 channels, so that one pixel of a block is one AVX-512
//!   register, within a border of zeros, so that no kernel has to test for the edge of an image.
//! - **Kernels**: a [`Conv`] of 3x3 with at least 16 channels on both sides, or 64 if it has stride 2, multiplies
//!   transformed tiles (Winograd's algorithm, `winograd`). Any other computes a block of pixels times a block of
//!   channels in registers, directly from this layout. There is no im2col matrix. The forward and the backward pass are
//!   the same loops.
//! - **Depthwise** convolutions ([`Depthwise`]) take and give rows of channels, a row for each pixel.
//! - **Instructions**: AVX-512, AVX2 with FMA, NEON or scalar code is chosen at run time. The order of the sums depends
//!   on this choice and on nothing else.

mod blocked_tensor;
mod conv;
mod depthwise;
mod kernel;
mod norm;
mod pool;
mod weights;
mod winograd;

#[cfg(test)]
mod tests;

pub use blocked_tensor::BlockedTensor;
pub use conv::{Conv, Geometry};
pub use depthwise::Depthwise;
pub use kernel::{Accumulate, ConvPass, Epilogue};
pub use norm::Moments;
pub use weights::PartialGradient;
pub use winograd::Workspace;
