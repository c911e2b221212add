//! Pixels, moved through a frozen extractor.
//!
//! - [`FrozenExtractor`]: passes through the extractor, forward and back to the pixels.
//! - [`PixelLimits`], [`PixelRange`]: how far pixels may go from those that they are made of.
//! - [`Matching`]: images whose features are given ones, each by an optimiser of its own.
//! - [`Refinement`]: images that descend an attack's objective together.
//! - [`Decoder`], [`DecoderNetwork`]: images from features, by a network.
//! - [`Measure`], [`visibility`]: what became of the images, and how far they are from those that they are made of.

mod clean;
mod decoder;
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
pub use matching::{Matched, Matching, MatchingProblem, Optimizer};
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
