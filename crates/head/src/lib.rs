//! The mathematics of a softmax head, in closed form and in f64.
//!
//! A head with `K` classes on `d` features has the parameters `w = (W, b)`, packed as `[K, d + 1]`: weight columns
//! first, bias last. Everything with the shape of the parameters (gradients, directions, residuals) is packed the same
//! way. With `A = [Z, 1]`, `P = softmax(A wᵀ)` row by row, and the one-hot labels `E`:
//!
//! ```text
//! gradient           G(w)     = (P - E)ᵀ A                                                [K, d + 1]
//! Hessian-vector     H V      = (P ∘ (U - Σₖ Pₖ Uₖ))ᵀ A,   U = A Vᵀ                       [K, d + 1]
//! mixed derivative   d⟨R, G⟩/dz = R_Wᵀ (p - e) + Wᵀ (diag p - p pᵀ) (R_W z + R_b)         [d] for each row
//! ```
//!
//! Conventions:
//! - Losses, gradients and Hessians are *sums* over samples unless a name says mean.
//! - The training objective is `mean cross-entropy + λ/2 |W|²`: weight decay never applies to the bias.
//! - A training set is a slice of [`Samples`] ("blocks", such as clean data and poisons), so that nothing is
//!   concatenated.
//! - Results are bit-identical for any number of threads: rows are taken in chunks of a fixed size, and the chunks'
//!   sums are added in row order.

mod calibrate;
mod error;
mod fit;
mod float;
mod hessian;
pub mod kernel;
mod loss;
mod margin;
mod mixed;
mod parameters;
mod passes;
mod precondition;
mod predict;
mod product;
mod samples;
mod sgd;
pub mod testing;

pub use calibrate::calibrate;
pub use error::HeadError;
pub use fit::{Fit, FitOptions, fit, fit_with};
pub use hessian::{HessianSolution, SolveOptions, hessian_vector_sum, solve_hessian, solve_hessian_with};
pub use loss::{
    LossAndGradient, Precision, add_weight_decay, gradient_sum, gradient_sum_of, loss_and_gradient,
    loss_and_gradient_sum, mean_loss,
};
pub use margin::smoothed_error;
pub use mixed::{implicit_gradient, mixed_derivative, mixed_derivative_of, product_and_derivative};
pub use parameters::{Head, unpack};
pub use passes::{HessianProduct, MakePasses, OnHost, Passes, RoughPass, SamplePass, volume};
pub use precondition::Preconditioner;
pub use predict::{accuracy, judge, judgements, logits, per_class_accuracy, predict, probabilities};
pub use samples::{Samples, subsample};
pub use sgd::{SgdOptions, SgdSchedule, fit_sgd};
