//! What the stages that use a frozen extractor have in common: opening it on the run's device, and extracting
//! features with the run's progress and cancellation.

use crate::device::runs_on_rayon;
use crate::{Arch, DeviceError, ExtractError, Extractor, ExtractorSpec, ImportError, WeightsError, device};
use burn::tensor::Device;
use hemlock_stage::{Context, ErrorKind, ParamError, Port, StageError};
use ndarray::{Array2, ArrayView4, ArrayViewMut2, Axis};
use serde_json::Value;

impl From<DeviceError> for StageError {
    fn from(e: DeviceError) -> Self {
        Self::new(ErrorKind::Device, e)
    }
}

impl From<WeightsError> for StageError {
    fn from(e: WeightsError) -> Self {
        Self::new(ErrorKind::Artifact, e)
    }
}

impl From<ImportError> for StageError {
    fn from(e: ImportError) -> Self {
        let kind = match e {
            // The file is what it says; it is the spec that does not fit it.
            ImportError::Misfit { .. }
            | ImportError::Several { .. }
            | ImportError::Choice { .. }
            | ImportError::Below { .. } => ErrorKind::Params,
            ImportError::File(_) | ImportError::Other { .. } => ErrorKind::Data,
        };
        Self::new(kind, e)
    }
}

impl From<ExtractError> for StageError {
    fn from(e: ExtractError) -> Self {
        match e {
            ExtractError::Interrupted => Self::interrupted(),
            ExtractError::Shape { .. } => Self::new(ErrorKind::Data, e),
        }
    }
}

/// Opens the device of that name.
///
/// # Errors
/// There is no such backend, it is not compiled in, or it finds no device.
pub fn open_device(name: &str) -> Result<Device, StageError> {
    Ok(device::open_named(name)?)
}

/// So many devices of the backend that a device's name says, that one first.
///
/// # Errors
/// The machine has fewer, or one cannot be opened.
pub fn open_devices(name: &str, count: usize) -> Result<Vec<Device>, StageError> {
    let backend = name.split(':').next().unwrap_or(name).parse()?;
    let names = device::names_of(backend);
    if names.len() < count {
        let message = format!("is {count}; the backend `{backend}` has {} here", names.len());
        return Err(ParamError::new("devices", message).into());
    }
    let first = names.iter().position(|known| known == name).unwrap_or(0);
    names.iter().cycle().skip(first).take(count).map(|name| open_device(name)).collect()
}

/// The network of an extractor artifact, frozen, on the device of that name.
///
/// # Errors
/// The device cannot be opened, the weights are not those of the architecture, or a pass does not fit into memory.
pub fn open_extractor(artifact: &hemlock_artifact::Extractor, device: &str) -> Result<Extractor, StageError> {
    let arch: Arch = artifact.arch.parse().map_err(|e| StageError::new(ErrorKind::Artifact, e))?;
    let size = artifact.image_size;
    let spec = ExtractorSpec { arch, image_size: [size, size], mean: artifact.mean, std: artifact.std };
    let device = open_device(device)?;
    if runs_on_rayon(&device) {
        let what = format!("a pass of an image of {size} x {size} pixels through `{arch}`");
        ParamError::fits("arch", what, 4.0 * arch.held([size, size]))?;
    }
    Ok(Extractor::from_safetensors(spec, &artifact.weights, &device)?)
}

/// Features `[n, d]` of 8-bit images `[n, 3, height, width]`, before normalisation: [`extract_into`] memory.
///
/// # Errors
/// As there.
pub fn extract(extractor: &Extractor, images: ArrayView4<'_, u8>, ctx: &Context) -> Result<Array2<f32>, StageError> {
    let mut features = Array2::zeros((images.len_of(Axis(0)), extractor.feature_dim()));
    extract_into(extractor, images, features.view_mut(), ctx, &|_| {})?;
    Ok(features)
}

/// Writes features `[n, d]` of 8-bit images `[n, 3, height, width]`, before normalisation, to `features`. `done` hears
/// how many images are through.
///
/// # Errors
/// The images have another size than the extractor's, a feature is not finite, or the run was interrupted.
pub fn extract_into(
    extractor: &Extractor,
    images: ArrayView4<'_, u8>,
    mut features: ArrayViewMut2<'_, f32>,
    ctx: &Context,
    done: &(dyn Fn(usize) + Sync),
) -> Result<(), StageError> {
    extractor.features_into(images, features.view_mut(), &|n| {
        done(n);
        !ctx.cancel.requested()
    })?;
    match features.indexed_iter().find(|(_, z)| !z.is_finite()) {
        Some(((row, column), z)) => {
            let message = format!("feature {column} of image {row} is {z}: the extractor's weights are not usable");
            Err(StageError::new(ErrorKind::Numeric, message))
        }
        None => Ok(()),
    }
}

/// Requires features that the extractor made: images are searched for with its gradients.
///
/// # Errors
/// Features from a file.
pub fn extracted(port: &Port, made_with: &Value) -> Result<(), ParamError> {
    if matches!(port.role, "features" | "victim_features") && made_with["method"] == "import" {
        let message = format!(
            "needs the extractor that made the features, and [{}] imports them from a file; leave this table out",
            port.node
        );
        return Err(ParamError::new("", message));
    }
    Ok(())
}
