//! What a training run needs to go on: the student, the optimiser's state and the curve.
//!
//! A checkpoint is a header in JSON, its length in 8 little-endian bytes before it, and a
//! safetensors file.

use burn::module::Module;
use hemlock_artifact::Epoch;
use hemlock_models::weights::{Weights, WeightsError};
use serde::{Deserialize, Serialize};

use crate::config::SimclrConfig;
use crate::optimizer::Optimizer;
use crate::student::Student;

/// Changes with the format: a checkpoint of another version is not read.
const VERSION: u32 = 1;

/// A checkpoint that cannot be continued from.
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

#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    config: SimclrConfig,
    steps: usize,
    curve: Vec<Epoch>,
}

/// The bytes of a checkpoint after the epochs of `curve`.
pub(crate) fn write(
    config: &SimclrConfig,
    student: &Student,
    optimizer: &Optimizer,
    curve: &[Epoch],
) -> Result<Vec<u8>, WeightsError> {
    let mut weights = optimizer.state();
    weights.put_under("student.", Weights::collect(student));
    let header = Header { version: VERSION, config: config.clone(), steps: optimizer.steps, curve: curve.to_vec() };
    let header = serde_json::json!(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend(weights.to_safetensors()?);
    Ok(bytes)
}

/// Takes up the state of a checkpoint: `optimizer` is changed, and `student` with its weights
/// returned, with the curve so far.
pub(crate) fn read(
    bytes: &[u8],
    config: &SimclrConfig,
    student: &Student,
    optimizer: &mut Optimizer,
) -> Result<(Student, Vec<Epoch>), CheckpointError> {
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or(CheckpointError::Header)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let (header, tensors) = rest.split_at_checked(length).ok_or(CheckpointError::Header)?;
    let header: Header = serde_json::from_slice(header).map_err(|_| CheckpointError::Header)?;
    if header.version != VERSION {
        return Err(CheckpointError::Version(header.version));
    }
    if header.config != *config {
        return Err(CheckpointError::OtherRun);
    }
    let weights = Weights::from_safetensors(tensors)?;
    // A copy of its own: clones share running statistics, and a failure must leave them alone.
    let student = weights.under("student.").load(student.valid())?;
    optimizer.restore(&weights, header.steps, &student.device());
    Ok((student, header.curve))
}
