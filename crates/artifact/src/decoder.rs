//! A decoder: a network from features to images.

use crate::CurvePoint;
use hemlock_store::{Artifact, PayloadReader, PayloadWriter, StoreError};
use serde::{Deserialize, Serialize};

/// A network that turns features into images, trained on clean pairs. It holds the network's sizes and weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecoderArtifact {
    /// Number of features.
    pub dim: u64,
    /// Channels of the widest layer.
    pub width: u64,
    /// Height and width of the images, in pixels.
    pub image_size: u64,
    /// The largest L2 norm of the features that the decoder was trained on. Features with a larger norm are scaled down
    /// to it before they are decoded.
    pub norm: f32,
    /// Mean training loss of every epoch.
    pub curve: Vec<CurvePoint>,
    /// The reconstruction errors on images that the decoder was not trained on.
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
    /// Mean peak signal-to-noise ratio, in dB.
    pub psnr: f64,
    /// Root mean square distance between the features of the reconstructions and the given features, divided by the
    /// root mean square distance of the given features to their mean. It is not finite for a single image, which is its
    /// own mean.
    pub feature_error: f64,
}

impl Artifact for DecoderArtifact {
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
