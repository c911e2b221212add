//! What a transformer computes, on the processor, vectorised: matrix products, activations, layer norms and attention,
//! forward and backward, without gradients of weights.
//!
//! - **Layout**: activations are matrices of `f32` in row-major order, a row for each token. The right factor of a
//!   product is [`Packed`]: panels of 64 columns, so that a row of a panel is four AVX-512 registers.
//! - **Kernel**: [`product`] computes a block of rows times a panel in registers.
//! - **Instructions**: AVX-512, AVX2 with FMA, NEON or scalar code is chosen at run time. The order of the sums depends
//!   on this choice and on nothing else.

mod activation;
mod attention;
mod norm;
mod product;

#[cfg(test)]
mod tests;

pub use activation::Activation;
pub use attention::{Attention, Heads};
pub use norm::{normalise, normalise_backward};
pub use product::{Addend, Left, Packed, product};
