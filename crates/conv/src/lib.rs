//! Convolutions and batch norms on the processor, at its speed.
//!
//! Images lie as [`BlockedTensor`]: blocks of 16 channels, so that a pixel of a block is one AVX-512 register, within a
//! border of zeros, so that no kernel asks where an image ends. A [`Conv`] computes a block of pixels times a block of
//! channels in registers, straight from the planes: nothing is unrolled into a matrix. Forwards and backwards it is one
//! loop over taps. The instructions (AVX-512, AVX2 and FMA, NEON, or plain) are chosen at run time; the order of the
//! sums depends on them, and on nothing else.

mod conv;
mod kernel;
mod norm;
mod planes;
mod pool;
mod weights;

#[cfg(test)]
mod tests;

pub use conv::{Conv, Geometry};
pub use kernel::{Accumulate, Epilogue};
pub use norm::Moments;
pub use planes::BlockedTensor;
