//! Optimisation of pixels through a frozen extractor.
//!
//! - [`FrozenExtractor`]: forward passes through the extractor, and gradients with respect to pixels.
//! - [`PixelLimits`], [`PixelRange`]: how far pixels may be from those of the base image.
//! - [`Matching`]: feature matching, where every image has an optimiser of its own.
//! - [`Refinement`]: steps of all images together on an attack's own objective.
//! - [`Decoder`], [`DecoderNetwork`]: a network from features to images.
//! - [`Measure`], [`visibility`]: measures of finished poisons, and of their distance to the base images.

mod clean;
mod decoder;
mod evade;
mod grey_levels;
mod limits;
mod matching;
mod measure;
mod minimize;
mod pass;
mod refine;
mod tensors;
mod visibility;

pub use clean::{CleanFeatureStats, ReferenceStats, distances, nearest, norm};
pub use decoder::{Decoder, DecoderNetwork};
pub use grey_levels::GreyLevels;
pub use limits::{PixelLimits, PixelRange};
pub use matching::{Matched, Matching, MatchingProblem, Optimizer, StartImages};
pub use measure::{Measure, base_images};
pub use pass::{FrozenExtractor, host, rounded};
pub use refine::Refinement;
pub use tensors::{OnDevice, up};
pub use visibility::{ssim, visibility};

use ndarray::ArrayView3;

/// An 8-bit image as pixels in `[0, 1]`.
#[must_use]
pub fn unit(image: ArrayView3<u8>) -> Vec<f32> {
    image.iter().map(|p| f32::from(*p) / 255.0).collect()
}
