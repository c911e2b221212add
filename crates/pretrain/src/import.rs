//! Extractors that were trained elsewhere, from a file of weights.

use std::path::PathBuf;

use burn::tensor::Device;
use hemlock_models::import::{ENDINGS, promised};
use hemlock_models::{Arch, Extractor, ExtractorSpec};
use hemlock_stage::{Environment, FileError, ParamError, StageError};
use serde::{Deserialize, Serialize};

use crate::train::{Pretrained, internal};

/// Where weights lie, and what the file does not say about them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportConfig {
    /// The network.
    #[serde(default)]
    pub arch: Arch,
    /// A PyTorch checkpoint or a safetensors file; a relative path starts at the data root (`--data` or `HEMLOCK_DATA`).
    pub weights: PathBuf,
    /// Mean of each channel of pixels in `[0, 1]`, which the network expects to be subtracted.
    pub mean: [f64; 3],
    /// Standard deviation of each channel, by which the network expects the rest to be divided.
    pub std: [f64; 3],
    /// Height and width of the images that it was trained on, in pixels.
    #[serde(default = "default_image_size")]
    pub image_size: usize,
    /// How the weights were trained, in a word or two: `supervised`. Results say so, and nothing is
    /// computed from it.
    #[serde(default)]
    pub trained: Option<String>,
}

fn default_image_size() -> usize {
    32
}

impl ImportConfig {
    /// Checks every parameter.
    ///
    /// # Errors
    /// The first field outside its range.
    pub(crate) fn check(&self) -> Result<(), ParamError> {
        let ending = self.weights.extension().unwrap_or_default();
        let known = ENDINGS.iter().any(|known| ending.eq_ignore_ascii_case(known));
        let expected = format!("the path of a file that ends in .{}", ENDINGS.join(", ."));
        ParamError::require(known, "weights", format!("`{}`", self.weights.display()), &expected)?;
        for (mean, std) in self.mean.into_iter().zip(self.std) {
            // Values for pixels up to 255 would pass for others.
            ParamError::require((0.0..=1.0).contains(&mean), "mean", mean, "0 to 1, as pixels are")?;
            ParamError::require(std > 0.0 && std <= 1.0, "std", std, "above 0 and up to 1, as pixels are")?;
        }
        ParamError::at_least_one("image_size", self.image_size as u64)?;
        let size = self.arch.check_size([self.image_size; 2]);
        size.map_err(|e| ParamError::new("image_size", e.to_string()))?;
        let said = self.trained.as_deref().is_none_or(|trained| !trained.trim().is_empty());
        ParamError::require(said, "trained", "empty", "a word or two, or no such field")
    }

    /// The BLAKE3 of the file, in hex.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn digest(&self, env: &Environment) -> Result<String, StageError> {
        let path = env.locate(&self.weights)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_mmap_rayon(&path).map_err(FileError::unreadable(&path, promised(&path)))?;
        Ok(hasher.finalize().to_hex().to_string())
    }
}

/// Makes an extractor of the file's weights.
///
/// # Errors
/// The file cannot be read, or doesn't hold the network of `config.arch`.
pub fn import(config: &ImportConfig, env: &Environment, device: &Device) -> Result<Pretrained, StageError> {
    let channels = |values: [f64; 3]| values.map(|v| v as f32);
    let spec = ExtractorSpec {
        arch: config.arch,
        image_size: [config.image_size; 2],
        mean: channels(config.mean),
        std: channels(config.std),
    };
    let extractor = Extractor::import(spec.clone(), &env.locate(&config.weights)?, device)?;
    let weights = extractor.to_safetensors().map_err(internal)?;
    Ok(Pretrained { weights, spec, curve: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ImportConfig {
        ImportConfig {
            arch: Arch::default(),
            weights: "x.pth".into(),
            mean: [0.5; 3],
            std: [0.25; 3],
            image_size: 32,
            trained: None,
        }
    }

    #[test]
    fn fields_are_checked() {
        assert_eq!(config().check(), Ok(()));
        for (config, message) in [
            (ImportConfig { weights: "x.onnx".into(), ..config() }, "`weights`: is `x.onnx`; expected the path of a"),
            (ImportConfig { mean: [0.5, 123.7, 0.5], ..config() }, "`mean`: is 123.7; expected 0 to 1"),
            (ImportConfig { std: [0.25, 0.25, 0.0], ..config() }, "`std`: is 0; expected above 0"),
            (ImportConfig { image_size: 0, ..config() }, "`image_size`: is 0; expected at least 1"),
            (ImportConfig { trained: Some(" ".into()), ..config() }, "`trained`: is empty; expected"),
        ] {
            let error = config.check().unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
