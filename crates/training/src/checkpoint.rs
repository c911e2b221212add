//! Checkpoints: the network in training, the objective's own state, the optimiser's state and the curve.
//!
//! A checkpoint is the length of a header in 8 little-endian bytes, the header in JSON, and a safetensors file.

use burn::module::Module;
use burn::tensor::Device;
use hemlock_artifact::Epoch;
use hemlock_models::weights::{Weights, WeightsError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::optimizer::Optimizer;
use crate::step::TrainingObjective;

/// The version of the format: a checkpoint of another version is not read.
const VERSION: u32 = 2;

/// Why a training cannot continue from a checkpoint.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckpointError {
    #[error("its header is damaged")]
    Header,
    #[error("it has format version {0}, expected {VERSION}")]
    Version(u32),
    #[error("it was written with other parameters")]
    OtherRun,
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

/// The progress of a training.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Done {
    /// The records of the finished epochs.
    pub(crate) curve: Vec<Epoch>,
    /// Steps taken in the current epoch.
    pub(crate) step: usize,
    /// Sum of the losses of these steps.
    pub(crate) total: f64,
}

#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    /// The parameters of the key; those that do not decide the result may change between two runs.
    params: Value,
    steps: usize,
    done: Done,
}

/// The part of the header that all versions have.
#[derive(Deserialize)]
struct AnyHeader {
    version: u32,
}

/// Writes a checkpoint.
pub(crate) fn write<O: TrainingObjective>(
    params: Value,
    online: &O::OnlineNetwork,
    objective: &O,
    optimizer: &Optimizer,
    done: &Done,
) -> Result<Vec<u8>, WeightsError> {
    let mut weights = optimizer.state();
    weights.put_under("student.", Weights::collect(online));
    weights.put_under("objective.", objective.state());
    let header = Header { version: VERSION, params, steps: optimizer.steps, done: done.clone() };
    let header = serde_json::json!(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend(weights.to_safetensors()?);
    Ok(bytes)
}

/// Reads a checkpoint. Restores the state of `objective` and `optimizer`, and returns a copy of `online` with the
/// saved weights, and the progress.
pub(crate) fn read<O: TrainingObjective>(
    bytes: &[u8],
    params: &Value,
    online: &O::OnlineNetwork,
    objective: &mut O,
    optimizer: &mut Optimizer,
    device: &Device,
) -> Result<(O::OnlineNetwork, Done), CheckpointError> {
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or(CheckpointError::Header)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let (header, tensors) = rest.split_at_checked(length).ok_or(CheckpointError::Header)?;
    let AnyHeader { version } = serde_json::from_slice(header).map_err(|_| CheckpointError::Header)?;
    if version != VERSION {
        return Err(CheckpointError::Version(version));
    }
    let header: Header = serde_json::from_slice(header).map_err(|_| CheckpointError::Header)?;
    if header.params != *params {
        return Err(CheckpointError::OtherRun);
    }
    let weights = Weights::from_safetensors(tensors)?;
    // `valid` copies: clones share running statistics, which a failure must leave alone.
    let online = weights.under("student.").load(online.valid())?;
    objective.restore(weights.under("objective."))?;
    optimizer.restore(&weights, header.steps, device);
    Ok((online, header.done))
}
