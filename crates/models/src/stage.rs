//! What stages that use a frozen extractor share: opening it on the run's device, and extracting features with the
//! run's cancellation.

use crate::device::runs_on_rayon;
use crate::{Arch, DeviceError, ExtractError, Extractor, ExtractorSpec, ImportError, WeightsError, device};
use burn::tensor::Device;
use hemlock_artifact::ExtractorArtifact;
use hemlock_process::{Fault, ProcessError, ProcessExtractor};
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
            // The file is sound; it is the spec that does not fit it.
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
            ExtractError::NoNetwork => Self::new(ErrorKind::Params, e),
            ExtractError::Process(ProcessError { fault: Fault::Interrupted, .. }) => Self::interrupted(),
            ExtractError::Process(e) => e.into(),
            ExtractError::Function(e) => e.into(),
        }
    }
}

/// Opens the device of that name, such as `flex` or `cuda:1`.
///
/// # Errors
/// If there is no such backend, if it is not compiled in, or if it finds no usable device.
pub fn open_device(name: &str) -> Result<Device, StageError> {
    Ok(device::open_named(name)?)
}

/// Opens `count` devices of one backend, beginning with the device `name`, or with the first one if `name` is the
/// backend's name alone.
///
/// # Errors
/// If the machine has fewer devices of that backend or none of that name, or if one of them cannot be opened.
pub fn open_devices(name: &str, count: usize) -> Result<Vec<Device>, StageError> {
    let backend = name.split(':').next().unwrap_or(name).parse()?;
    let names = device::names_of(backend);
    if names.len() < count {
        let message = format!("is {count}; the backend `{backend}` has {} here", names.len());
        return Err(ParamError::new("devices", message).into());
    }
    // Refuses a number that no device has. A backend's name alone is that of its first device.
    open_device(name)?;
    let first = names.iter().position(|known| known == name).unwrap_or(0);
    names.iter().cycle().skip(first).take(count).map(|name| open_device(name)).collect()
}

/// Opens an extractor artifact on the run's device: the frozen network with its weights, or the child process that has
/// it, which runs until the extractor is dropped.
///
/// # Errors
/// If the device cannot be opened, if the weights are not those of the architecture, if a pass on the processor would
/// not fit into memory, or if the child process may not run, fails, or is not the one that was described.
pub fn open_extractor(artifact: &ExtractorArtifact, ctx: &Context) -> Result<Extractor, StageError> {
    let Some(described) = &artifact.process else { return open_network(artifact, ctx.device) };
    let child = open_process(&described.command, ctx)?;
    let (about, size) = (child.about(), artifact.image_size);
    if (&about.name, about.features, about.image_size) != (&described.name, artifact.dim, [size; 2]) {
        let message = format!(
            "the process is `{}` with {} features of {:?} pixels, and was `{}` with {} features of {:?} pixels when \
             [pretrain] ran: what decides that belongs in `command` or `files`",
            about.name, about.features, about.image_size, described.name, artifact.dim, [size; 2]
        );
        return Err(StageError::new(ErrorKind::Data, message));
    }
    Ok(Extractor::process(child, &open_device(ctx.device)?))
}

/// Starts the child process with these words, if it may run.
///
/// # Errors
/// If nobody allowed the command, or if the child cannot be started or does not describe an extractor.
pub fn open_process(command: &[String], ctx: &Context) -> Result<ProcessExtractor, StageError> {
    let command = ctx.env.allowed(command)?.clone();
    let child = ProcessExtractor::open(command, ctx.env.command_folder(), ctx.cancel.clone());
    Ok(child.map_err(ExtractError::from)?)
}

/// Opens an extractor artifact that has weights on a device.
///
/// # Errors
/// As [`open_extractor`], and if the extractor is a child process.
pub fn open_network(artifact: &ExtractorArtifact, device: &str) -> Result<Extractor, StageError> {
    if artifact.process.is_some() {
        return Err(ExtractError::NoNetwork.into());
    }
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

/// Features `[n, d]` of 8-bit images `[n, 3, height, width]`, before the normalisation of features.
///
/// # Errors
/// As [`extract_into`].
pub fn extract(extractor: &Extractor, images: ArrayView4<'_, u8>, ctx: &Context) -> Result<Array2<f32>, StageError> {
    let mut features = Array2::zeros((images.len_of(Axis(0)), extractor.feature_dim()));
    extract_into(extractor, images, features.view_mut(), ctx, &|_| {})?;
    Ok(features)
}

/// Writes the features `[n, d]` of 8-bit images `[n, 3, height, width]`, before the normalisation of features, to
/// `features`. `done` is called with the number of finished images.
///
/// # Errors
/// If the images have another size than the extractor expects, if a feature is not finite, or if the run was
/// interrupted.
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

/// Checks that the features of a spec come from its extractor, for stages that need its gradients to search for images.
///
/// # Errors
/// If the features were imported from a file.
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

/// Checks that an extractor is a network of Hemlock's, for stages that need it or its architecture.
///
/// # Errors
/// If it is a child process.
pub fn has_network(port: &Port, made_with: &Value, why: &str) -> Result<(), ParamError> {
    if matches!(port.role, "extractor" | "victim_extractor") && made_with["method"] == "process" {
        let message = format!(
            "{why}, and [{}] is a child process, which keeps its network to itself; the `method`s that train, and \
             `import`, have one",
            port.node
        );
        return Err(ParamError::new("", message));
    }
    Ok(())
}
