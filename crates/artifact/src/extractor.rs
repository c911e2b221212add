//! A frozen feature extractor.

use hemlock_store::{Artifact, PayloadReader, PayloadWriter, StoreError};
use serde::{Deserialize, Serialize};

/// A frozen feature extractor: its architecture, its weights, and how it was trained.
#[derive(Debug, Clone, PartialEq)]
pub struct ExtractorArtifact {
    /// Name of the architecture, such as `resnet20`.
    pub arch: String,
    /// The method that trained it, such as `simclr` or `supervised`.
    pub method: String,
    /// Number of features.
    pub dim: usize,
    /// Height and width of the images that it was trained on, in pixels.
    pub image_size: usize,
    /// Mean of every channel; it is subtracted from pixels in `[0, 1]`.
    pub mean: [f32; 3],
    /// Standard deviation of every channel; the difference is divided by it.
    pub std: [f32; 3],
    /// Weights in safetensors form, under the names that PyTorch implementations use.
    pub weights: Vec<u8>,
    /// One point per epoch of training.
    pub curve: Vec<Epoch>,
    /// The comparison that shows that an imported network computes the same as where its weights were trained; `None`
    /// if there was no such comparison, or if the extractor was not imported.
    pub verified: Option<Verified>,
    /// The child process that computes features, if the extractor is one. It then has no weights, and its normalisation
    /// is its own.
    pub process: Option<DescribedProcess>,
}

/// A child process that is an extractor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribedProcess {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Its name for itself.
    pub name: String,
}

/// A comparison of features with those that another framework computed from the same images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verified {
    /// BLAKE3 hash of the images and their features, in hex.
    pub probe: String,
    /// Number of images that were compared.
    pub images: u64,
    /// The largest absolute difference of a feature, divided by the largest absolute feature.
    pub difference: f64,
}

impl ExtractorArtifact {
    /// Whether the weights were imported without a comparison that shows that the network computes the same as where
    /// they were trained.
    #[must_use]
    pub fn unverified(&self) -> bool {
        self.method == "import" && self.verified.is_none()
    }
}

/// Measurements of one epoch of pre-training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Number of the epoch, from 1.
    pub epoch: u32,
    /// Mean loss over the steps of the epoch.
    pub loss: f64,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// The standard deviation of the coordinates of the normalised embeddings in the last step, averaged over the
    /// coordinates and multiplied by sqrt(dimension). It is 1 for embeddings that are spread over the sphere, and near
    /// 0 for a collapsed network. Embeddings are the outputs of the projection head or, in supervised training, the
    /// features.
    pub spread: f64,
    /// Accuracy of a k-nearest-neighbour classifier, in `[0, 1]`; `None` in epochs that do not measure it. It is
    /// measured on the validation split or, if that is empty, on each training image with all others as neighbours.
    pub knn: Option<f64>,
}

impl Epoch {
    /// The spread below which a network counts as collapsed: directions differ by a hundredth of what they could.
    const COLLAPSED: f64 = 0.1;

    /// Whether all embeddings point in nearly the same direction. A collapse onto a few directions is not detected.
    #[must_use]
    pub fn collapsed(&self) -> bool {
        self.spread.is_nan() || self.spread < Self::COLLAPSED
    }
}

#[derive(Serialize, Deserialize)]
struct Info {
    arch: String,
    method: String,
    dim: u64,
    image_size: u64,
    mean: [f32; 3],
    std: [f32; 3],
    curve: Vec<Epoch>,
}

impl Artifact for ExtractorArtifact {
    const KIND: &'static str = "extractor";

    fn write(&self, w: &mut PayloadWriter) -> Result<(), StoreError> {
        w.value(
            "info",
            &Info {
                arch: self.arch.clone(),
                method: self.method.clone(),
                dim: self.dim as u64,
                image_size: self.image_size as u64,
                mean: self.mean,
                std: self.std,
                curve: self.curve.clone(),
            },
        )?;
        if let Some(verified) = &self.verified {
            w.value("verified", verified)?;
        }
        if let Some(process) = &self.process {
            w.value("process", process)?;
        }
        w.bytes("weights", &self.weights)
    }

    fn read(r: &PayloadReader) -> Result<Self, StoreError> {
        let info: Info = r.value("info")?;
        Ok(Self {
            arch: info.arch,
            method: info.method,
            dim: info.dim as usize,
            image_size: info.image_size as usize,
            mean: info.mean,
            std: info.std,
            weights: r.bytes("weights")?,
            curve: info.curve,
            verified: r.files().contains_key("verified").then(|| r.value("verified")).transpose()?,
            process: r.files().contains_key("process").then(|| r.value("process")).transpose()?,
        })
    }

    fn summary(&self) -> serde_json::Value {
        let (last, verified) = (self.curve.last(), self.verified.as_ref());
        let mut summary = serde_json::json!({
            "arch": self.arch, "method": self.method, "features": self.dim,
            "epochs": self.curve.len(), "loss": last.map(|e| e.loss), "spread": last.map(|e| e.spread),
            "knn": last.and_then(|e| e.knn), "collapsed": last.filter(|e| e.collapsed()).map(|_| true),
            "verified": (self.method == "import").then_some(!self.unverified()),
            "probe": verified.map(|v| v.probe.chars().take(16).collect::<String>()),
            "difference": verified.map(|v| v.difference),
        });
        if let Some(process) = &self.process {
            summary["process"] = process.name.clone().into();
        }
        summary
    }
}
