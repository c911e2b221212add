//! Weights that were trained elsewhere: PyTorch checkpoints and safetensors files.
//!
//! A checkpoint wraps a network in many ways: below `state_dict`, as `module.` of a parallel model, as
//! `encoder_q.` of a contrastive one, beside optimisers, projectors and a second encoder. What wraps
//! is known by name, so that a spec need not describe it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use burn::store::burn_pack::Tensor as Stored;
use burn::store::pytorch::PytorchStore;
use burn::store::{ModuleStore, SafetensorsStore};
use burn::tensor::{Device, TensorData};
use hemlock_stage::FileError;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::device::quietly;
use crate::extractor::{Extractor, ExtractorSpec};
use crate::network::{Arch, Network};
use crate::weights::{Weight, Weights, WeightsError};

/// Endings of the files that can be imported.
pub const ENDINGS: [&str; 5] = ["pt", "pth", "th", "bin", "safetensors"];

/// Keys of checkpoints, and names of modules, that hold a network whole.
const WRAPPERS: [&str; 11] = [
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "module",
    "_orig_mod",
    "backbone",
    "encoder",
    "encoder_q",
    "base_encoder",
];

/// Modules that stand on top of a network, and are no part of an extractor.
const HEADS: [&str; 7] = ["fc", "linear", "classifier", "head", "projector", "projection_head", "predictor"];

/// A file that gives no extractor.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// More than one network may be meant.
    #[error("{} holds several networks, in {}: save the one that is meant to a file of its own", .path.display(), .prefixes.join(" and "))]
    Ambiguous {
        /// The file.
        path: PathBuf,
        /// What stands before the names of each.
        prefixes: Vec<String>,
    },
    /// The tensors are not those of the architecture.
    #[error("{} cannot be imported as {arch}", .path.display())]
    Misfit {
        /// The file.
        path: PathBuf,
        /// The architecture.
        arch: Arch,
        /// What is missing, too much, or of another shape.
        source: Box<WeightsError>,
    },
}

impl Extractor {
    /// An extractor with the weights of a file: safetensors where its name ends in `.safetensors`, else a PyTorch checkpoint.
    ///
    /// The network is found below whatever wraps it. Classifiers, projectors and PyTorch's
    /// `num_batches_tracked` counters are left aside, and so is what stands outside of that wrapping; all
    /// else must fit `spec.arch` exactly. Values of other types are converted to f32.
    ///
    /// # Errors
    /// The file is not there, is damaged or of another kind, or holds another network, or several.
    pub fn import(spec: ExtractorSpec, path: &Path, device: &Device) -> Result<Self, ImportError> {
        let tensors = open(path)?;
        // The seed is immaterial: every value is replaced, or loading fails.
        let net = Network::new(spec.arch, spec.image_size, &mut ChaCha8Rng::seed_from_u64(0), device);
        let network = network(&tensors, &Weights::collect(&net))
            .map_err(|prefixes| ImportError::Ambiguous { path: path.to_owned(), prefixes })?;
        let weights = network.into_iter().map(|(name, tensor)| Ok((name, read(path, tensor)?)));
        let weights = Weights(weights.collect::<Result<_, ImportError>>()?);
        let misfit = |e| ImportError::Misfit { path: path.to_owned(), arch: spec.arch, source: Box::new(e) };
        let net = weights.load(net).map_err(misfit)?;
        Ok(Self::new(spec, &net, device))
    }
}

/// All tensors of a file by name, the keys of nested dictionaries joined with dots. Their values are read when asked for.
pub(crate) fn open(path: &Path) -> Result<BTreeMap<String, Stored>, ImportError> {
    File::open(path).map_err(FileError::unreadable(path, promised(path)))?;
    guarded(path, || {
        let tensors = if is_safetensors(path) {
            SafetensorsStore::from_file(path).get_all_tensors().cloned().map_err(|e| e.to_string())?
        } else {
            // Renumbered, the second block of a layer without a first one would pass for the first.
            let mut store = PytorchStore::from_file(path).map_indices_contiguous(false);
            store.get_all_tensors().cloned().map_err(|e| e.to_string())?
        };
        if tensors.is_empty() { Err("it holds no tensors".to_owned()) } else { Ok(tensors) }
    })
}

/// The values of a tensor.
pub(crate) fn read(path: &Path, tensor: &Stored) -> Result<Weight, ImportError> {
    guarded(path, || {
        let bytes = tensor.to_bytes().map_err(|e| e.to_string())?;
        let data = TensorData::from_bytes(bytes, tensor.shape.clone(), tensor.dtype);
        Ok(Weight { shape: data.shape().to_vec(), values: data.iter::<f32>().collect() })
    })
}

/// Runs `work` on a file that may be damaged, which readers may answer with an error or with a panic.
fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, String>) -> Result<T, ImportError> {
    Ok(quietly(work).flatten().map_err(FileError::damaged(path, promised(path)))?)
}

/// What kind of file the ending promises.
#[must_use]
pub fn promised(path: &Path) -> &'static str {
    if is_safetensors(path) { "safetensors file" } else { "PyTorch checkpoint" }
}

fn is_safetensors(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("safetensors"))
}

/// Of all tensors those of the network, under its own names: of what is wrapped alike, the one that shares most names with
/// `expected`. Where two share as many, what wraps them.
fn network<'a>(
    tensors: &'a BTreeMap<String, Stored>,
    expected: &Weights,
) -> Result<BTreeMap<String, &'a Stored>, Vec<String>> {
    let mut networks: BTreeMap<&str, BTreeMap<String, &Stored>> = BTreeMap::new();
    for (name, tensor) in tensors {
        let (prefix, name) = name.split_at(wrapped(name));
        let module = name.split('.').next().unwrap_or_default();
        if !HEADS.contains(&module) && !name.ends_with("num_batches_tracked") {
            // A projection shortcut has either name.
            let name = name.replace(".shortcut.", ".downsample.");
            networks.entry(prefix).or_default().insert(name, tensor);
        }
    }
    let shared =
        |network: &BTreeMap<String, &Stored>| network.keys().filter(|name| expected.0.contains_key(*name)).count();
    let most = networks.values().map(shared).max().unwrap_or(0);
    let best: Vec<&str> =
        networks.iter().filter(|(_, network)| most > 0 && shared(network) == most).map(|(prefix, _)| *prefix).collect();
    if best.len() > 1 {
        return Err(best.into_iter().map(|prefix| format!("`{prefix}*`")).collect());
    }
    // Where none fits at all, the largest shows best what the file is.
    Ok(networks.into_values().max_by_key(|network| (shared(network), network.len())).unwrap_or_default())
}

/// Length of what wraps a tensor's name in the network: `state_dict.module.` of `state_dict.module.conv1.weight`.
fn wrapped(name: &str) -> usize {
    let mut length = 0;
    while let Some((first, _)) = name[length..].split_once('.')
        && WRAPPERS.contains(&first)
    {
        length += first.len() + 1;
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{self, Backend};
    use std::fs;

    /// Written by the script of the same name beside it.
    const MOCO: &[u8] = include_bytes!("../tests/data/moco_resnet8_w4.pth");

    fn spec(arch: &str) -> ExtractorSpec {
        ExtractorSpec { arch: arch.parse().unwrap(), image_size: [8, 8], mean: [0.5; 3], std: [0.25; 3] }
    }

    fn initial(arch: &str) -> Weights {
        let device = device::open(Backend::default()).unwrap();
        Weights::collect(&Network::new(arch.parse().unwrap(), [8, 8], &mut ChaCha8Rng::seed_from_u64(3), &device))
    }

    /// Writes `bytes` to a file of that name, and imports it.
    fn import(arch: &str, name: &str, bytes: &[u8]) -> Result<Weights, ImportError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        let device = device::open(Backend::default()).unwrap();
        let extractor = Extractor::import(spec(arch), &path, &device)?;
        Ok(Weights::from_safetensors(&extractor.to_safetensors().unwrap()).unwrap())
    }

    /// What an error says, and what its cause says.
    fn message(e: &ImportError) -> String {
        let cause = std::error::Error::source(e).map(|cause| format!(": {cause}")).unwrap_or_default();
        format!("{e}{cause}")
    }

    fn weight(shape: &[usize]) -> Weight {
        Weight { shape: shape.to_vec(), values: vec![0.5; shape.iter().product()] }
    }

    fn all_prefixes() -> Vec<String> {
        let inner = WRAPPERS.iter().map(|wrapper| format!("{wrapper}."));
        let known = ["", "module.encoder_q.", "state_dict.module.backbone.", "model_state_dict.encoder._orig_mod."];
        known.into_iter().map(str::to_owned).chain(inner).collect()
    }

    #[test]
    fn networks_are_found_below_what_wraps_them_and_heads_are_left_aside() {
        let network = initial("resnet8-w4");
        for prefix in all_prefixes() {
            let mut file = Weights::default();
            file.put_under(&prefix, network.clone());
            for head in HEADS {
                file.0.insert(format!("{prefix}{head}.weight"), weight(&[10, 16]));
                file.0.insert(format!("{prefix}{head}.2.bias"), weight(&[10]));
            }
            file.0.insert(format!("{prefix}layer1.0.bn1.num_batches_tracked"), weight(&[]));
            if !prefix.is_empty() {
                file.0.insert("queue".to_owned(), weight(&[2, 3]));
                file.0.insert("momentum_encoder.conv1.weight".to_owned(), weight(&[1]));
            }
            let imported = import("resnet8-w4", "x.safetensors", &file.to_safetensors().unwrap()).unwrap();
            assert!(imported == network, "{prefix}");
        }
    }

    #[test]
    fn a_projection_shortcut_may_be_called_shortcut() {
        let network = initial("resnet18-w4");
        let renamed = network.0.iter().map(|(name, w)| (name.replace("downsample", "shortcut"), w.clone()));
        let bytes = Weights(renamed.collect()).to_safetensors().unwrap();
        assert!(import("resnet18-w4", "x.safetensors", &bytes).unwrap() == network);
    }

    #[test]
    fn whatever_else_does_not_fit_is_named_at_once() {
        let mut file = initial("resnet8-w4");
        file.0.remove("conv1.weight");
        file.0.remove("layer2.0.bn1.running_var");
        file.0.insert("layer4.0.conv1.weight".to_owned(), weight(&[1]));
        file.0.insert("queue".to_owned(), weight(&[1]));
        file.0.insert("bn1.bias".to_owned(), weight(&[5]));
        let error = import("resnet8-w4", "x.safetensors", &file.to_safetensors().unwrap()).unwrap_err();
        let message = message(&error);
        assert!(
            message.ends_with(
                "x.safetensors cannot be imported as resnet8-w4: the weights don't fit the network: \
                 2 missing: `conv1.weight`, `layer2.0.bn1.running_var`; \
                 2 unexpected: `layer4.0.conv1.weight`, `queue`; 1 of another shape: `bn1.bias` [5], not [4]"
            ),
            "{message}"
        );
        let other = import("resnet14-w4", "x.safetensors", &initial("resnet8-w4").to_safetensors().unwrap());
        let message = self::message(&other.unwrap_err());
        assert!(message.contains("30 missing: `layer1.1.bn1.bias`,"), "{message}");
        assert!(message.ends_with("and 26 more"), "{message}");
    }

    #[test]
    fn two_networks_are_ambiguous() {
        let mut file = initial("resnet8-w4");
        file.put_under("backbone.", file.clone());
        let message = import("resnet8-w4", "x.safetensors", &file.to_safetensors().unwrap()).unwrap_err().to_string();
        assert!(message.contains("several networks, in `*` and `backbone.*`"), "{message}");
    }

    /// Half precision, prefixed, nested, beside a second encoder, a queue and an optimiser.
    #[test]
    fn a_pytorch_checkpoint_is_imported() {
        let mut expected = initial("resnet8-w4");
        for (i, weight) in expected.0.values_mut().enumerate() {
            for (j, value) in weight.values.iter_mut().enumerate() {
                *value = (((31 * i + 7 * j) % 64) as f32 - 32.0) / 64.0;
            }
        }
        for name in ["x.pth", "x.pt", "x.th", "x.bin"] {
            assert!(import("resnet8-w4", name, MOCO).unwrap() == expected);
        }
    }

    #[test]
    fn indices_are_not_renumbered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pth");
        fs::write(&path, MOCO).unwrap();
        assert!(open(&path).unwrap().contains_key("optimizer.state.5.momentum_buffer"));
    }

    #[test]
    fn damage_is_an_error_that_says_what_was_expected() {
        let safetensors = initial("resnet8-w4").to_safetensors().unwrap();
        for (name, whole, expected) in [
            ("x.pth", MOCO, "is damaged, or no PyTorch checkpoint: "),
            ("x.safetensors", &safetensors, "is damaged, or no safetensors file: "),
        ] {
            let cuts = (0..whole.len()).step_by(whole.len() / 50).chain([1, 8, whole.len() - 1]);
            let damaged = cuts.map(|cut| whole[..cut].to_vec());
            let other = if whole == MOCO { safetensors.clone() } else { MOCO.to_vec() };
            // The last: an empty dictionary.
            for bytes in damaged.chain([other, b"no weights at all".to_vec(), b"\x80\x02}.".to_vec()]) {
                let error = import("resnet8-w4", name, &bytes).unwrap_err();
                assert!(matches!(error, ImportError::File(FileError::Format { .. })), "{error}");
                let message = error.to_string();
                assert!(message.contains(name) && message.contains(expected), "{message}");
            }
        }
        let device = device::open(Backend::default()).unwrap();
        let missing = Extractor::import(spec("resnet8-w4"), Path::new("nowhere.pth"), &device).unwrap_err();
        assert_eq!(missing.to_string(), "cannot read nowhere.pth, which should be a PyTorch checkpoint");
    }
}
