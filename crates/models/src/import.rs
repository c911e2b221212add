//! Extractors from files of other tools: PyTorch checkpoints, TorchScript archives and safetensors files.
//!
//! A checkpoint wraps a network in many ways: below `state_dict`, as `module.` of a parallel model, as `encoder_q.` of
//! a contrastive one, together with optimisers, projectors and a second encoder. Wrappers with known names are found
//! without help. A [`WeightsChoice`] tells the rest: an unknown wrapper, or which of several networks is meant.
//!
//! Names and shapes do not show what a network computes: [`said`] reads what else the file says about it.

mod convnext;
mod kind;
mod layout;
mod network;
mod positions;
pub mod repository;
mod residual;
pub mod said;
mod script;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use burn::store::ModuleStore;
use burn::store::burn_pack::{Error as PackError, Tensor as StoredTensor};
use burn::store::pytorch::PytorchStore;
use burn::tensor::{BoolStore, Bytes, DType, Device, TensorData};
use hemlock_stage::FileError;
use pytorch_reader::{PickleValue, PytorchReader};
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde_json::Value;

use crate::clip_resnet;
use crate::device::quietly;
use crate::extractor::{Extractor, ExtractorSpec};
use crate::initial::Zeros;
use crate::network::{Arch, Network};
use crate::weights::{Weight, Weights, WeightsError};
use kind::Kind;
pub(crate) use kind::short;
pub use positions::Resampling;
use said::Said;

/// What a file of weights should be, for messages.
pub const FILE: &str = "PyTorch checkpoint or safetensors file";

/// Which tensors of a file are meant, if their names do not decide it.
#[derive(Clone, Copy, Debug, Default)]
pub struct WeightsChoice<'a> {
    /// A part of the prefix that picks one of several sets of weights, such as `state_dict_ema`.
    pub branch: Option<&'a str>,
    /// The prefix before the network's names, or its last parts.
    pub prefix: Option<&'a str>,
    /// Tensors to ignore: names of tensors or of modules, or beginnings of names followed by `*`.
    pub ignore: &'a [String],
    /// How learned positions are resampled if the image size asks for another grid of patches; without it, as the
    /// library does whose names the tensors have.
    pub resampling: Option<Resampling>,
}

impl WeightsChoice<'_> {
    /// Whether a tensor of that name is to be ignored.
    fn ignores(&self, name: &str) -> bool {
        self.ignore.iter().any(|pattern| network::matches(pattern, name))
    }
}

/// An imported extractor, and what the file says about it.
#[derive(Debug)]
pub struct Imported {
    /// The extractor.
    pub extractor: Extractor,
    /// The prefix of the network's names in the file.
    pub prefix: String,
    /// What the file and its neighbours say about the network.
    pub said: Vec<Said>,
    /// Modules of the file that are not part of the network, with the number of their tensors.
    pub aside: Vec<(String, usize)>,
}

/// Why a file gives no extractor.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be opened or read, or is damaged.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is of a known kind that weights cannot be read from.
    #[error("{} is {what}; {remedy}", .path.display())]
    Other {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// More than one set of weights fits.
    #[error("{} holds {} sets of weights: {}; choose one by {}", .path.display(), .sets.len(), prefixes(.sets), picks(.sets))]
    Several {
        /// The file.
        path: PathBuf,
        /// The prefix of each set, and the field of a [`WeightsChoice`] that picks it.
        sets: Vec<(String, String)>,
    },
    /// The choice matches nothing in the file.
    #[error("{}: `{field}` is `{}`; {expected}", .path.display(), short(.value))]
    Choice {
        /// The file.
        path: PathBuf,
        /// The field of the [`WeightsChoice`].
        field: &'static str,
        /// Its value.
        value: String,
        /// What the file has instead.
        expected: String,
    },
    /// The network is below a name that is no known wrapper.
    #[error(
        "{} has the names of {arch} under `{}`, which may be a part of another network; if it is the one that is meant, say \
         `prefix = \"{}\"`", .path.display(), short(.prefix), short(.prefix)
    )]
    Below {
        /// The file.
        path: PathBuf,
        /// The architecture.
        arch: Box<Arch>,
        /// The prefix of the names.
        prefix: String,
    },
    /// The tensors are not those of the architecture.
    #[error("{} cannot be imported as {arch}{}", .path.display(), remedy(.aside))]
    Misfit {
        /// The file.
        path: PathBuf,
        /// The architecture.
        arch: Box<Arch>,
        /// The modules that are left over, if that is the only misfit.
        aside: Vec<String>,
        /// The tensors that are missing, left over, or of another shape.
        source: Box<WeightsError>,
    },
}

/// Lists the first `shown` elements, and the number of the others.
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
    /// An extractor with the weights of a file, whose content decides whether it is read as a PyTorch checkpoint or as
    /// safetensors.
    ///
    /// The network is found below its wrappers. Classifiers, projectors, PyTorch's `num_batches_tracked` counters and
    /// what is outside of the wrappers are ignored; everything else must fit `spec.arch` exactly. Values of other types
    /// are converted to f32.
    ///
    /// Names and shapes that fit do not show that the network computes what the weights were trained in.
    ///
    /// # Errors
    /// If the file does not exist, is damaged, or is of another kind; if it holds another network; or if it holds
    /// several networks and `choice` does not pick one.
    pub fn import(
        spec: ExtractorSpec,
        path: &Path,
        choice: WeightsChoice<'_>,
        device: &Device,
    ) -> Result<Imported, ImportError> {
        let mut file = open(path)?;
        // The initial values do not matter: loading replaces every one of them, or fails.
        let net = Network::new(spec.arch, spec.image_size, &mut Zeros, device);
        let expected = Weights::collect(&net);
        network::known_to(&file.tensors, choice).map_err(|e| e.of(path, spec.arch))?;
        let tensors = std::mem::take(&mut file.tensors);
        file.tensors = match spec.arch {
            Arch::ResNet(_) => residual::translate(tensors),
            Arch::ClipResNet(_) => {
                let grid = spec.image_size.map(|side| side / clip_resnet::STRIDE);
                residual::translate_clip(tensors, &expected, grid, choice)
            }
            Arch::ConvNext(_) => convnext::translate(tensors, &expected),
            Arch::Vit(arch) => {
                let grid = spec.image_size.map(|side| side / arch.patch());
                layout::translate(tensors, &expected, arch, grid, choice)
            }
        };
        let found = network::find(&file.tensors, &expected, choice).map_err(|e| e.of(path, spec.arch))?;
        let prefix = found.prefix.to_owned();
        let aside = found.outside(&file.tensors);
        let weights = match found.fits(&expected) {
            Ok(()) => found.tensors.into_iter().map(|(name, tensor)| Ok((name, read(path, tensor)?))),
            Err(source) => {
                let (path, arch, aside) = (path.to_owned(), Box::new(spec.arch), found.aside(&source));
                return Err(ImportError::Misfit { path, arch, aside, source: Box::new(source) });
            }
        };
        let weights = Weights(weights.collect::<Result<_, ImportError>>()?);
        let misfit = |e| ImportError::Misfit {
            path: path.to_owned(),
            arch: Box::new(spec.arch),
            aside: Vec::new(),
            source: Box::new(e),
        };
        let net = weights.load(net).map_err(misfit)?;
        let mut said = file.said(path);
        said.extend(said::beside(path));
        Ok(Imported { extractor: Self::new(spec, &net, device), prefix, said, aside })
    }
}

/// A file of tensors, opened for reading.
pub(crate) struct Opened {
    kind: Kind,
    /// All tensors by name, with the keys of nested dictionaries joined by dots. Their values are read on demand.
    pub(crate) tensors: BTreeMap<String, StoredTensor>,
}

/// Most characters that a message quotes of a reader's reason.
const REASON: usize = 400;

/// The ending of the index of weights in several files.
const INDEX: &str = ".index.json";

/// The files that weights are read from: the file itself or, if it is an index of several files, these after it.
///
/// # Errors
/// If an index cannot be read or names no files.
pub fn files(path: &Path) -> Result<Vec<PathBuf>, ImportError> {
    let mut files = vec![path.to_owned()];
    if !path.to_string_lossy().ends_with(INDEX) {
        return Ok(files);
    }
    let what = "index of weights in several files";
    let text = fs::read(path).map_err(FileError::unreadable(path, what))?;
    let index: Value = serde_json::from_slice(&text).map_err(FileError::damaged(path, what))?;
    let names = index["weight_map"].as_object().map(|map| map.values().filter_map(Value::as_str).collect());
    let names: BTreeSet<&str> = names.unwrap_or_default();
    if names.is_empty() {
        return Err(FileError::damaged(path, what)("it has no `weight_map` of file names").into());
    }
    // Only the last part counts: an index names files of its own folder.
    files.extend(names.into_iter().filter_map(|name| Some(path.with_file_name(Path::new(name).file_name()?))));
    Ok(files)
}

/// Opens a file, or all files of an index, and reads the names and shapes of the tensors.
pub(crate) fn open(path: &Path) -> Result<Opened, ImportError> {
    let [_, parts @ ..] = &files(path)?[..] else { return open_one(path) };
    let mut opened = parts.iter().map(|part| open_one(part));
    let Some(mut all) = opened.next().transpose()? else { return open_one(path) };
    for part in opened {
        all.tensors.extend(part?.tensors);
    }
    Ok(all)
}

/// Opens a file and reads the names and shapes of its tensors.
fn open_one(path: &Path) -> Result<Opened, ImportError> {
    let kind = kind::of(path)?;
    let tensors = guarded(path, kind, || match kind {
        Kind::Safetensors => safetensors(path),
        Kind::TorchScript => script::tensors(path),
        Kind::PyTorch => {
            // With renumbering, the second block of a layer without a first one would pass for the first.
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

/// Reads `length` bytes of a file.
fn part(path: &Path, from: u64, length: usize) -> io::Result<Bytes> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = vec![0; length];
    file.read_exact(&mut bytes)?;
    Ok(Bytes::from_bytes_vec(bytes))
}

/// The tensors of a safetensors file.
fn safetensors(path: &Path) -> Result<BTreeMap<String, StoredTensor>, String> {
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
        Ok((name.clone(), StoredTensor::deferred(name, dtype, info.shape.clone(), None, length, bytes)))
    };
    metadata.tensors().into_iter().map(stored).collect()
}

impl Opened {
    /// The statements of the file about its network, besides its tensors.
    fn said(&self, path: &Path) -> Vec<Said> {
        match self.kind {
            Kind::PyTorch => {
                pickled(path).map(|value| said::of_pickle(path, &value, &self.tensors)).unwrap_or_default()
            }
            Kind::Safetensors => said::of_metadata(path),
            Kind::TorchScript => Vec::new(),
        }
    }
}

/// The content of a checkpoint, where tensors are replaced by their type.
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

/// The values of a tensor, converted to f32.
pub(crate) fn read(path: &Path, tensor: &StoredTensor) -> Result<Weight, ImportError> {
    guarded(path, Kind::PyTorch, || values(tensor))
}

/// The values of a tensor, converted to f32.
fn values(tensor: &StoredTensor) -> Result<Weight, String> {
    let bytes = tensor.to_bytes().map_err(|e| e.to_string())?;
    let data = TensorData::from_bytes(bytes, tensor.shape.clone(), tensor.dtype);
    Ok(Weight { shape: data.shape().to_vec(), values: data.iter::<f32>().collect() })
}

fn words(kind: Kind) -> &'static str {
    match kind {
        Kind::Safetensors => "safetensors file",
        Kind::PyTorch => FILE,
        Kind::TorchScript => "TorchScript archive",
    }
}

/// Runs `work` on a file that may be damaged, and turns a reader's panic into an error.
fn guarded<T>(path: &Path, kind: Kind, work: impl FnOnce() -> Result<T, String>) -> Result<T, ImportError> {
    let short = |reason: String| hemlock_stage::short(&reason, REASON).into_owned();
    Ok(quietly(work).flatten().map_err(short).map_err(FileError::damaged(path, words(kind)))?)
}

#[cfg(test)]
mod tests;
