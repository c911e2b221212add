//! A decoder: from features back to images.

use crate::CurvePoint;
use hemlock_store::{Artifact, PayloadReader, PayloadWriter, StoreError};
use serde::{Deserialize, Serialize};

/// A network that turns features into images, trained on clean pairs: what is needed to build it and fill it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decoder {
    /// Number of features.
    pub dim: u64,
    /// Channels of the widest layer.
    pub width: u64,
    /// Height and width of the images, in pixels.
    pub image_size: u64,
    /// Features of a larger L2 norm are scaled down to it first; the largest norm that the decoder was trained on.
    pub norm: f32,
    /// Mean training loss of every epoch.
    pub curve: Vec<CurvePoint>,
    /// How good it is on images that it was not trained on.
    pub held_out: Reconstruction,
    /// Weights in safetensors form, under PyTorch's names and layouts.
    #[serde(skip)]
    pub weights: Vec<u8>,
}

/// How well a decoder reconstructs images from their features.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reconstruction {
    /// Number of images.
    pub images: u64,
    /// Mean squared error of pixels in `[0, 1]`.
    pub pixel_error: f64,
    /// Mean peak signal-to-noise ratio, dB.
    pub psnr: f64,
    /// Distance of the reconstructions' features to the given ones, relative to the distance of these to their mean:
    /// root mean squares.
    pub feature_error: f64,
}

impl Artifact for Decoder {
    const KIND: &'static str = "decoder";

    fn write(&self, w: &mut PayloadWriter) -> Result<(), StoreError> {
        w.value("info", self)?;
        w.bytes("weights", &self.weights)
    }

    fn read(r: &PayloadReader) -> Result<Self, StoreError> {
        let decoder: Self = r.value("info")?;
        Ok(Self { weights: r.bytes("weights")?, ..decoder })
    }

    fn summary(&self) -> serde_json::Value {
        serde_json::json!({
            "epochs": self.curve.len(), "loss": self.curve.last().map(|p| p.objective), "held_out": self.held_out.images,
            "pixel_error": self.held_out.pixel_error, "psnr": self.held_out.psnr,
            "feature_error": self.held_out.feature_error,
        })
    }
}
