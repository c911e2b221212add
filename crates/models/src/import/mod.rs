//! Weights that were trained elsewhere: PyTorch checkpoints and safetensors files.
//!
//! A checkpoint wraps a network in many ways: below `state_dict`, as `module.` of a parallel model, as
//! `encoder_q.` of a contrastive one, beside optimisers, projectors and a second encoder. What wraps
//! is known by name, so that a spec need not describe it; what is not known, and which of several
//! networks is meant, a [`Choice`] says.
//!
//! Names and shapes do not tell what a network computes: [`said`] reads what the file says besides.

mod kind;
mod network;
pub mod said;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use burn::store::ModuleStore;
use burn::store::burn_pack::{Error as PackError, Tensor as Stored};
use burn::store::pytorch::PytorchStore;
use burn::tensor::{BoolStore, Bytes, DType, Device, TensorData};
use hemlock_stage::FileError;
use hemlock_streams::Purpose;
use pytorch_reader::{PickleValue, PytorchReader};
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;

use crate::device::quietly;
use crate::extractor::{Extractor, ExtractorSpec};
use crate::network::{Arch, Network};
use crate::weights::{Weight, Weights, WeightsError};
use kind::Kind;
pub(crate) use kind::short;
use said::Said;

/// What a file of weights should be, in words.
pub const FILE: &str = "PyTorch checkpoint or safetensors file";

/// Which tensors of a file are meant, where its names do not say.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choice<'a> {
    /// One of several sets of weights, by a name that stands before its tensors': `state_dict_ema`.
    pub branch: Option<&'a str>,
    /// What stands before the network's names, or the end of that.
    pub prefix: Option<&'a str>,
    /// Tensors that are left aside: names, of tensors or of what holds them, or beginnings of names with `*` after
    /// them.
    pub ignore: &'a [String],
}

/// An extractor from a file, and what the file says of it.
#[derive(Debug)]
pub struct Imported {
    /// The extractor.
    pub extractor: Extractor,
    /// What stood before its tensors' names.
    pub prefix: String,
    /// What the file and those beside it say about the network.
    pub said: Vec<Said>,
    /// Modules of the file that are no part of it, and how many tensors each has.
    pub aside: Vec<(String, usize)>,
}

/// A file that gives no extractor.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is of a kind that is known, and holds no weights that can be read.
    #[error("{} is {what}; {remedy}", .path.display())]
    Other {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// More than one network may be meant.
    #[error("{} holds {} sets of weights: {}; choose one by {}", .path.display(), .sets.len(), prefixes(.sets), picks(.sets))]
    Several {
        /// The file.
        path: PathBuf,
        /// What stands before the names of each, and the field of a [`Choice`] that picks it.
        sets: Vec<(String, String)>,
    },
    /// The choice fits nothing in the file.
    #[error("{}: `{field}` is `{}`; {expected}", .path.display(), short(.value))]
    Choice {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What there is.
        expected: String,
    },
    /// The network lies below a name that is no known wrapper.
    #[error(
        "{} has the names of {arch} under `{}`, which may be a part of another network; if it is the one that is meant, say \
         `prefix = \"{}\"`", .path.display(), short(.prefix), short(.prefix)
    )]
    Below {
        /// The file.
        path: PathBuf,
        /// The architecture.
        arch: Arch,
        /// What stands before the names.
        prefix: String,
    },
    /// The tensors are not those of the architecture.
    #[error("{} cannot be imported as {arch}{}", .path.display(), remedy(.aside))]
    Misfit {
        /// The file.
        path: PathBuf,
        /// The architecture.
        arch: Arch,
        /// Modules that are too much, where nothing else is wrong.
        aside: Vec<String>,
        /// What is missing, too much, or of another shape.
        source: Box<WeightsError>,
    },
}

/// The first few of what was found in a file, and the number of all others.
fn listed<T>(found: &[T], shown: usize, of: impl Fn(&T) -> String) -> String {
    let some: Vec<String> = found.iter().take(shown).map(of).collect();
    let more = found.len().saturating_sub(shown);
    if more == 0 { some.join(", ") } else { format!("{} and {more} more", some.join(", ")) }
}

fn prefixes(sets: &[(String, String)]) -> String {
    listed(sets, 4, |(prefix, _)| format!("`{}*`", short(prefix)))
}

fn picks(sets: &[(String, String)]) -> String {
    let picks: Vec<String> = sets.iter().take(4).map(|(_, pick)| format!("`{}`", short(pick))).collect();
    picks.join(" or ")
}

fn remedy(modules: &[String]) -> String {
    let names: Vec<String> = modules.iter().map(|module| format!("\"{}\"", short(module))).collect();
    match names.len() {
        0 => String::new(),
        1..=4 => format!(" (if what is too much is no part of the network, say `ignore = [{}]`)", names.join(", ")),
        _ => " (`ignore` leaves aside what is no part of the network)".to_owned(),
    }
}

impl Extractor {
    /// An extractor with the weights of a file, whose content says whether it is a PyTorch checkpoint or safetensors.
    ///
    /// The network is found below whatever wraps it. Classifiers, projectors and PyTorch's
    /// `num_batches_tracked` counters are left aside, and so is what stands outside of that wrapping; all
    /// else must fit `spec.arch` exactly. Values of other types are converted to f32.
    ///
    /// That names and shapes fit does not show that the network computes what the weights were trained in.
    ///
    /// # Errors
    /// The file is not there, is damaged or of another kind, or holds another network, or several that `choice` does
    /// not tell apart.
    pub fn import(
        spec: ExtractorSpec,
        path: &Path,
        choice: Choice<'_>,
        device: &Device,
    ) -> Result<Imported, ImportError> {
        let file = open(path)?;
        // Every value is replaced, or loading fails.
        let net = Network::new(spec.arch, spec.image_size, &mut Purpose::Placeholder.of(0), device);
        let expected = Weights::collect(&net);
        let found = network::find(&file.tensors, &expected, choice).map_err(|e| e.of(path, spec.arch))?;
        let prefix = found.prefix.to_owned();
        let aside = found.outside(&file.tensors);
        let weights = match found.fits(&expected) {
            Ok(()) => found.tensors.into_iter().map(|(name, tensor)| Ok((name, read(path, tensor)?))),
            Err(source) => {
                let (path, arch, aside) = (path.to_owned(), spec.arch, found.aside(&source));
                return Err(ImportError::Misfit { path, arch, aside, source: Box::new(source) });
            }
        };
        let weights = Weights(weights.collect::<Result<_, ImportError>>()?);
        let misfit =
            |e| ImportError::Misfit { path: path.to_owned(), arch: spec.arch, aside: Vec::new(), source: Box::new(e) };
        let net = weights.load(net).map_err(misfit)?;
        let mut said = file.said(path);
        said.extend(said::beside(path));
        Ok(Imported { extractor: Self::new(spec, &net, device), prefix, said, aside })
    }
}

/// A file of tensors that was opened.
pub(crate) struct Opened {
    kind: Kind,
    /// All tensors by name, the keys of nested dictionaries joined with dots. Their values are read when asked for.
    pub(crate) tensors: BTreeMap<String, Stored>,
}

/// Characters of a reader's reason that a message quotes.
const REASON: usize = 400;

/// Opens a file.
pub(crate) fn open(path: &Path) -> Result<Opened, ImportError> {
    let kind = kind::of(path)?;
    let tensors = guarded(path, kind, || match kind {
        Kind::Safetensors => safetensors(path),
        Kind::PyTorch => {
            // Renumbered, the second block of a layer without a first one would pass for the first.
            let mut store = PytorchStore::from_file(path).map_indices_contiguous(false);
            store.get_all_tensors().cloned().map_err(|e| e.to_string())
        }
    })?;
    if !tensors.is_empty() {
        return Ok(Opened { kind, tensors });
    }
    if kind == Kind::PyTorch && pickled(path).is_some_and(|value| holds_numpy(&value)) {
        let remedy = "in PyTorch: `torch.save({k: torch.as_tensor(v) for k, v in weights.items()}, \"weights.pth\")`";
        return Err(ImportError::Other {
            path: path.to_owned(),
            what: "a pickle of NumPy arrays, and not of tensors".to_owned(),
            remedy: remedy.to_owned(),
        });
    }
    Err(FileError::damaged(path, words(kind))("it holds no tensors").into())
}

/// So many bytes of a file.
fn part(path: &Path, from: u64, length: usize) -> io::Result<Bytes> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = vec![0; length];
    file.read_exact(&mut bytes)?;
    Ok(Bytes::from_bytes_vec(bytes))
}

/// The tensors of a safetensors file.
fn safetensors(path: &Path) -> Result<BTreeMap<String, Stored>, String> {
    let (start, metadata) = File::open(path)
        .and_then(|mut file| hemlock_arrays::safetensors_header(&mut file))
        .map_err(|e| e.to_string())?;
    let stored = |(name, info): (String, &TensorInfo)| {
        let dtype = match info.dtype {
            Dtype::F64 => DType::F64,
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::I64 => DType::I64,
            Dtype::I32 => DType::I32,
            Dtype::I16 => DType::I16,
            Dtype::I8 => DType::I8,
            Dtype::U64 => DType::U64,
            Dtype::U32 => DType::U32,
            Dtype::U8 => DType::U8,
            Dtype::BOOL => DType::Bool(BoolStore::Native),
            other => return Err(format!("`{}` has elements of type {other:?}, which are not read", short(&name))),
        };
        let (from, to) = info.data_offsets;
        let (path, at, length) = (path.to_owned(), start + from as u64, to - from);
        let bytes = move || part(&path, at, length).map_err(|e| PackError::IoError(e.to_string()));
        Ok((name.clone(), Stored::deferred(name, dtype, info.shape.clone(), None, length, bytes)))
    };
    metadata.tensors().into_iter().map(stored).collect()
}

impl Opened {
    /// What the file says besides its tensors.
    fn said(&self, path: &Path) -> Vec<Said> {
        match self.kind {
            Kind::PyTorch => {
                pickled(path).map(|value| said::of_pickle(path, &value, &self.tensors)).unwrap_or_default()
            }
            Kind::Safetensors => said::of_metadata(path),
        }
    }
}

/// All that a checkpoint holds, the tensors by their type alone.
fn pickled(path: &Path) -> Option<PickleValue> {
    quietly(|| PytorchReader::read_pickle_data(path, None).map_err(|e| e.to_string())).flatten().ok()
}

/// Whether some value is a NumPy array.
fn holds_numpy(value: &PickleValue) -> bool {
    match value {
        PickleValue::Unsupported(name) => name.starts_with("numpy.") && name.ends_with("_reconstruct"),
        PickleValue::Dict(values) => values.values().any(holds_numpy),
        PickleValue::List(values) => values.iter().any(holds_numpy),
        _ => false,
    }
}

/// The values of a tensor.
pub(crate) fn read(path: &Path, tensor: &Stored) -> Result<Weight, ImportError> {
    guarded(path, Kind::PyTorch, || {
        let bytes = tensor.to_bytes().map_err(|e| e.to_string())?;
        let data = TensorData::from_bytes(bytes, tensor.shape.clone(), tensor.dtype);
        Ok(Weight { shape: data.shape().to_vec(), values: data.iter::<f32>().collect() })
    })
}

fn words(kind: Kind) -> &'static str {
    match kind {
        Kind::Safetensors => "safetensors file",
        Kind::PyTorch => FILE,
    }
}

/// Runs `work` on a file that may be damaged, which readers may answer with an error or with a panic.
fn guarded<T>(path: &Path, kind: Kind, work: impl FnOnce() -> Result<T, String>) -> Result<T, ImportError> {
    let short = |reason: String| hemlock_stage::short(&reason, REASON).into_owned();
    Ok(quietly(work).flatten().map_err(short).map_err(FileError::damaged(path, words(kind)))?)
}

#[cfg(test)]
mod tests;
