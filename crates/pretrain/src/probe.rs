//! Probes: images with the features that the original framework computes for them. They show whether an imported
//! network computes what its weights were trained in.

use std::path::Path;

use hemlock_arrays::Arrays;
use hemlock_artifact::{Data, ExtractorArtifact, Tensor, Verified};
use hemlock_models::{Backend, Extractor, ExtractorSpec, extract, open_network};
use hemlock_stage::{Context, ErrorKind, StageError};
use ndarray::{Array2, Array4, Axis};

/// Names of the arrays of a probe.
pub(crate) const NAMES: [&str; 2] = ["images", "features"];

/// The largest difference that counts as rounding, divided by the largest feature.
pub const TOLERANCE: f64 = 1e-3;

/// Number of images of the probe in an export.
const IMAGES: usize = 4;

/// How much the features of different images must differ, divided by the largest feature. It is far above the
/// tolerance, because otherwise a wrong network would not be noticed.
const SPREAD: f64 = 10.0 * TOLERANCE;

/// Images and the features of the original framework.
#[derive(Debug)]
pub(crate) struct Probe {
    images: Array4<u8>,
    features: Array2<f32>,
}

/// Why a probe cannot be used, or what it shows.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    /// The images or features do not fit the network.
    #[error("the probe {path} {problem}")]
    Unfit { path: String, problem: String },
    /// The network computes other features.
    #[error(
        "`{arch}` with these weights does not give the features of {path}: the largest difference is {difference:.1e} of the largest \
         feature, and {TOLERANCE:e} is allowed. What usually differs: mean and std, heads of attention, padding or stride of the stem, \
         a pooling, the stride's place in a block, the padding of shortcuts, the activation, an epsilon"
    )]
    Differs { path: String, arch: String, difference: f64 },
}

impl From<ProbeError> for StageError {
    fn from(e: ProbeError) -> Self {
        let kind = match e {
            ProbeError::Unfit { .. } => ErrorKind::Data,
            // The files are sound; it is the spec that does not fit them.
            ProbeError::Differs { .. } => ErrorKind::Params,
        };
        Self::new(kind, e)
    }
}

/// The largest absolute value.
fn largest<'a>(values: impl IntoIterator<Item = &'a f32>) -> f64 {
    values.into_iter().fold(0.0, |most, v| most.max(f64::from(v.abs())))
}

/// A probe of an extractor, computed on the processor. `None` for unverified imports, whose probe would show nothing,
/// and if this binary has no backend for the processor.
pub(crate) fn of(artifact: &ExtractorArtifact) -> Result<Option<Vec<Tensor>>, StageError> {
    if artifact.unverified() || !Backend::compiled().contains(&Backend::Flex) {
        return Ok(None);
    }
    let extractor = open_network(artifact, &Backend::Flex.to_string())?;
    let side = artifact.image_size;
    // Waves of several directions and colours, which a network tells apart.
    let images = Array4::from_shape_fn((IMAGES, 3, side, side), |(i, c, y, x)| {
        let (x, y) = (x as f32 / side as f32, y as f32 / side as f32);
        let (turns, shift) = ((i + 1) as f32, (c * (i + 1)) as f32);
        let wave = (std::f32::consts::TAU * (turns * x + (IMAGES - i) as f32 * y) + shift).sin();
        (127.5 + 127.5 * wave).round() as u8
    });
    let features = extractor.features(images.view(), &|_| true)?;
    let shape = |shape: &[usize]| shape.to_vec();
    Ok(Some(vec![
        Tensor { name: NAMES[0].into(), shape: shape(images.shape()), data: Data::U8(images.into_iter().collect()) },
        Tensor {
            name: NAMES[1].into(),
            shape: shape(features.shape()),
            data: Data::F32(features.into_iter().collect()),
        },
    ]))
}

impl Probe {
    /// Reads a probe for networks with the spec `spec`.
    ///
    /// # Errors
    /// If the file cannot be read, if its arrays do not fit the spec or each other, or if the features of its images
    /// hardly differ.
    pub(crate) fn read(path: &Path, spec: &ExtractorSpec) -> Result<Self, StageError> {
        let mut arrays = Arrays::open(path).map_err(|e| e.of_field("probe"))?;
        let (images, features) = (arrays.pixels(NAMES[0])?, arrays.features(NAMES[1])?);
        let unfit = |problem: String| Err(ProbeError::Unfit { path: path.display().to_string(), problem }.into());
        let (n, _, height, width) = images.dim();
        let ([own_height, own_width], own) = (spec.image_size, spec.arch.feature_dim());
        if [height, width] != spec.image_size {
            let expected = format!("expected {own_height} x {own_width}, the `image_size`");
            return unfit(format!("has `images` of {height} x {width} pixels; {expected}"));
        }
        if features.dim() != (n, own) {
            let (rows, columns) = features.dim();
            let expected = format!("expected [{n}, {own}]: for each image the features before the classifier");
            return unfit(format!("has `features` of shape [{rows}, {columns}]; {expected}"));
        }
        let apart = features.outer_iter().map(|row| largest(&(&row - &features.row(0)))).fold(0.0, f64::max);
        if n < 2 || apart <= SPREAD * largest(&features) {
            return unfit("shows nothing: expected at least two images whose features differ clearly".to_owned());
        }
        Ok(Self { images, features })
    }

    /// Compares the features of an extractor with those of the probe.
    ///
    /// # Errors
    /// If they differ by more than rounding, or if the extraction fails.
    pub(crate) fn verify(
        &self,
        path: &Path,
        digest: String,
        extractor: &Extractor,
        ctx: &Context,
    ) -> Result<Verified, StageError> {
        let features = extract(extractor, self.images.view(), ctx)?;
        let difference = largest(&(&features - &self.features)) / largest(&self.features);
        if difference > TOLERANCE {
            let (path, arch) = (path.display().to_string(), extractor.spec()?.arch.to_string());
            return Err(ProbeError::Differs { path, arch, difference }.into());
        }
        Ok(Verified { probe: digest, images: self.images.len_of(Axis(0)) as u64, difference })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ImportConfig, import};
    use hemlock_fixtures::context_in;
    use hemlock_models::device;
    use safetensors::{Dtype, SafeTensors, tensor::TensorView};
    use std::fs;

    /// Written by PyTorch, with the script next to them.
    const WEIGHTS: &[u8] = include_bytes!("../tests/data/look_alikes.pth");
    const PROBES: &[u8] = include_bytes!("../tests/data/look_alikes.safetensors");

    /// Imports the weights with a probe of these tensors.
    fn verify(tensors: Vec<(&str, TensorView)>) -> Result<Option<Verified>, StageError> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("w.pth"), WEIGHTS).unwrap();
        fs::write(dir.path().join("probe"), safetensors::serialize(tensors, None).unwrap()).unwrap();
        let config: ImportConfig = serde_json::from_value(serde_json::json!({
            "arch": "resnet8-w4", "weights": "w.pth", "probe": "probe", "image_size": 8,
            "mean": [0.5, 0.4, 0.3], "std": [0.25, 0.2, 0.3],
        }))
        .unwrap();
        let device = device::open(Backend::Flex).unwrap();
        Ok(context_in(dir.path(), 0, |ctx| import(&config, ctx, &device))?.verified)
    }

    fn tensors() -> SafeTensors<'static> {
        SafeTensors::deserialize(PROBES).unwrap()
    }

    /// The images, and the features of that name.
    fn features(name: &str) -> Vec<(&'static str, TensorView<'static>)> {
        vec![("images", tensors().tensor("images").unwrap()), ("features", tensors().tensor(name).unwrap())]
    }

    #[test]
    fn the_features_of_the_original_framework_verify_an_import_and_those_of_look_alikes_do_not() {
        let verified = verify(features("features")).unwrap().unwrap();
        assert!(verified.difference < 1e-5 && verified.images == 2 && verified.probe.len() == 64, "{verified:?}");
        for other in ["pool", "padding", "end", "average", "eps", "leaky", "mean"] {
            let error = verify(features(other)).unwrap_err();
            let said = error.to_string();
            assert_eq!(error.kind(), ErrorKind::Params, "{said}");
            assert!(said.starts_with("`resnet8-w4` with these weights does not give the features of"), "{said}");
            assert!(said.contains("of the largest feature, and 1e-3 is allowed"), "{said}");
        }
    }

    #[test]
    fn a_probe_that_shows_nothing_is_refused() {
        let images = tensors().tensor("images").unwrap();
        let one = &images.data()[..3 * 8 * 8];
        let floats = vec![0; 2 * 16 * 4];
        let view = |dtype, shape: &[usize], data| TensorView::new(dtype, shape.to_vec(), data).unwrap();
        let good = tensors().tensor("features").unwrap();
        for (images, features, words) in [
            (
                view(Dtype::U8, &[1, 3, 8, 8], one),
                view(Dtype::F32, &[1, 16], &good.data()[..64]),
                "shows nothing: expected at least two",
            ),
            (
                images.clone(),
                view(Dtype::F32, &[2, 16], &floats),
                "shows nothing: expected at least two images whose features differ",
            ),
            (
                images.clone(),
                view(Dtype::F32, &[1, 32], good.data()),
                "has `features` of shape [1, 32]; expected [2, 16]",
            ),
            (
                view(Dtype::U8, &[2, 3, 4, 8], &images.data()[..192]),
                good.clone(),
                "of 4 x 8 pixels; expected 8 x 8, the `image_size`",
            ),
            (
                view(Dtype::U8, &[2, 8, 8, 3], images.data()),
                good.clone(),
                "has shape [2, 8, 8, 3]; expected [n, 3, height, width]",
            ),
            (
                view(Dtype::F32, &[1, 3, 8, 4], images.data()),
                good.clone(),
                "has elements of type F32; expected unsigned integers",
            ),
        ] {
            let error = verify(vec![("images", images), ("features", features)]).unwrap_err();
            assert!(error.kind() == ErrorKind::Data && error.to_string().contains(words), "{error}");
        }
        let error = verify(vec![("images", images), ("outputs", good)]).unwrap_err();
        assert!(error.to_string().ends_with("probe has no array `features`; it has outputs, images"), "{error}");
    }

    /// The probe of an export verifies an import of the same network, and detects another normalisation.
    #[test]
    fn an_exported_probe_fits_its_extractor_alone() {
        let verified = verify(features("features")).unwrap();
        let mut artifact = ExtractorArtifact {
            arch: "resnet8-w4".to_owned(),
            method: "simclr".to_owned(),
            dim: 16,
            image_size: 8,
            mean: [0.5, 0.4, 0.3],
            std: [0.25, 0.2, 0.3],
            weights: Vec::new(),
            curve: Vec::new(),
            verified: None,
            process: None,
        };
        let spec = ExtractorSpec {
            arch: artifact.arch.parse().unwrap(),
            image_size: [8, 8],
            mean: artifact.mean,
            std: artifact.std,
        };
        let device = device::open(Backend::Flex).unwrap();
        let net = hemlock_models::Network::new(spec.arch, [8, 8], &mut hemlock_streams::Purpose::Test.of(1), &device);
        artifact.weights = Extractor::new(spec, &net, &device).to_safetensors().unwrap();
        let values = |artifact: &ExtractorArtifact| match &of(artifact).unwrap().unwrap()[..] {
            [images, Tensor { data: Data::F32(features), shape, .. }] => {
                assert_eq!((&images.shape[..], &shape[..]), (&[IMAGES, 3, 8, 8][..], &[IMAGES, 16][..]));
                features.clone()
            }
            other => panic!("{other:?}"),
        };
        let right = values(&artifact);
        let apart = |other: &[f32]| right.iter().zip(other).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
        assert_eq!(apart(&values(&artifact)), 0.0);
        assert!(apart(&right[16..]) > SPREAD * largest(&right), "images that the network tells apart");
        artifact.mean = [0.4; 3];
        assert!(apart(&values(&artifact)) > TOLERANCE * largest(&right));
        // An import has a probe only if it was verified itself.
        artifact.method = "import".to_owned();
        assert!(of(&artifact).unwrap().is_none());
        artifact.verified = verified;
        assert!(of(&artifact).unwrap().is_some());
    }
}
