//! Extractors from files of weights that were trained elsewhere.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use hemlock_models::import::repository::{Repository, Resizing, config_paths};
use hemlock_models::import::{FILE, Resampling, files, said};
use hemlock_models::{Arch, Extractor, ExtractorSpec, Imported, WeightsChoice};
use hemlock_stage::{Context, Environment, ErrorKind, FileError, ParamError, StageError, few, open_file};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::probe::{self, Probe};
use hemlock_training::Pretrained;

/// The parameters of an import: a file, and what it does not say about its weights, or a folder that says all of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportConfig {
    /// The architecture: docs/pretraining.md lists them. By default, that of the folder `path` or, for a file,
    /// `resnet20`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<Arch>,
    /// A folder of transformers, timm or OpenCLIP, whose JSON files say what the fields below do not. Relative paths
    /// start at the data root (`--data` or `HEMLOCK_DATA`). Either this or `weights` is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// A PyTorch checkpoint, a safetensors file, or the index of several (`.index.json`). Relative paths start at the
    /// data root. By default, the file in the folder `path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    /// Mean of each channel, for pixels in `[0, 1]`, that the network expects to be subtracted. A file needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(inner(inner(range(min = 0, max = 1))))]
    pub mean: Option<[f64; 3]>,
    /// Standard deviation of each channel, for pixels in `[0, 1]`, that the network expects the difference to be
    /// divided by. A file needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(inner(inner(range(min = 0, max = 1))))]
    pub std: Option<[f64; 3]>,
    /// Height and width of the images that the network was trained on, in pixels. By default, that of the folder
    /// `path` or, for a file, 32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub image_size: Option<usize>,
    /// The probe, which the network is compared with: a safetensors or `.npz` file with 8-bit `images`,
    /// `[n, 3, image_size, image_size]`, and the `features`, `[n, d]`, that the original framework computes for them.
    /// Without a probe, results are marked as those of an unverified import.
    #[serde(default)]
    pub probe: Option<PathBuf>,
    /// Which of several sets of weights in the file to take, by the name in front of its tensors, such as
    /// `state_dict_ema` or `teacher`.
    #[serde(default)]
    pub branch: Option<String>,
    /// The prefix of the network's names in the file, if it is no usual wrapper, or the end of it, such as
    /// `trunk._feature_blocks.`.
    #[serde(default)]
    pub prefix: Option<String>,
    /// Tensors of the file that are not part of the network: names of tensors or of modules, or beginnings of names
    /// followed by `*`.
    #[serde(default)]
    pub ignore: Vec<String>,
    /// How learned positions of a transformer are resampled if `image_size` asks for another grid of patches than the
    /// file has. Without it, as the library does whose names the tensors have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resampling: Option<Resampling>,
    /// How the weights were trained, in a word or two, such as `supervised`. Results show it. Not in the key.
    #[serde(default)]
    pub trained: Option<String>,
}

/// What is needed to import weights.
#[derive(Debug)]
struct Resolved {
    weights: PathBuf,
    spec: ExtractorSpec,
    resizing: Resizing,
}

impl ImportConfig {
    /// Checks every parameter.
    ///
    /// # Errors
    /// The first field that is outside of its range.
    pub(crate) fn check(&self) -> Result<(), ParamError> {
        let given = |path: &Path| !path.as_os_str().is_empty();
        let some = self.weights.as_deref().is_none_or(given);
        ParamError::require(some, "weights", "empty", "the path of a file")?;
        let some = self.path.as_deref().is_none_or(given);
        ParamError::require(some, "path", "empty", "the path of a folder")?;
        let named_one = self.path.is_some() || self.weights.is_some();
        ParamError::require(named_one, "weights", "missing", "a file here, or a folder in `path`")?;
        for (field, missing) in [("mean", self.mean.is_none()), ("std", self.std.is_none())] {
            let said = self.path.is_some() || !missing;
            ParamError::require(said, field, "missing", "three numbers, such as [0.5, 0.5, 0.5]")?;
        }
        let some = self.probe.as_deref().is_none_or(given);
        ParamError::require(some, "probe", "empty", "the path of a file, or no such field")?;
        let named = |text: &str| !text.is_empty() && !text.starts_with('*');
        let branch = self.branch.as_deref().is_none_or(named);
        ParamError::require(branch, "branch", "empty", "a name in the file, or no such field")?;
        let each = self.ignore.iter().all(|name| named(name));
        ParamError::require(
            each,
            "ignore",
            "a list with an empty name",
            "names of tensors, or beginnings with `*` after them",
        )?;
        // Means and standard deviations of pixels up to 255 are a common mistake.
        for mean in self.mean.into_iter().flatten() {
            ParamError::require((0.0..=1.0).contains(&mean), "mean", mean, "0 to 1, as pixels are")?;
        }
        for std in self.std.into_iter().flatten() {
            ParamError::require(std > 0.0 && std <= 1.0, "std", std, "above 0 and up to 1, as pixels are")?;
        }
        if let Some(size) = self.image_size {
            ParamError::at_least_one("image_size", size as u64)?;
        }
        if let (Some(arch), Some(size)) = (self.arch, self.image_size) {
            arch.check_size([size; 2]).map_err(|e| ParamError::new("image_size", e.to_string()))?;
        }
        let said = self.trained.as_deref().is_none_or(|trained| !trained.trim().is_empty());
        ParamError::require(said, "trained", "empty", "a word or two, or no such field")
    }

    /// Paths of the files that the import reads, in one line.
    pub(crate) fn files(&self) -> String {
        let files = [&self.path, &self.weights, &self.probe].into_iter().flatten();
        files.map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
    }

    /// The values for a file that the spec leaves out, which no folder gives.
    pub(crate) fn with_defaults(mut self) -> Self {
        if self.path.is_none() {
            self.arch.get_or_insert_default();
            self.image_size.get_or_insert(32);
        }
        self
    }

    /// The file of weights, and the folder's JSON files if there is a folder.
    fn sources(&self, env: &Environment) -> Result<(PathBuf, Option<Repository>), StageError> {
        let folder = self.path.as_ref().map(|path| env.locate(path)).transpose()?;
        let repository = folder.as_deref().map(Repository::read).transpose()?;
        let named = self.weights.as_ref().map(|weights| env.locate(weights)).transpose()?;
        let weights = named.or_else(|| repository.as_ref().map(|repository| repository.weights.clone()));
        Ok((weights.unwrap_or_default(), repository))
    }

    /// What the spec says and, where it says nothing, the folder.
    fn resolve(&self, env: &Environment) -> Result<Resolved, StageError> {
        let (weights, repository) = self.sources(env)?;
        let folder = self.path.as_deref().unwrap_or(Path::new("")).display().to_string();
        let missing = |field: &str, why: &str| {
            StageError::from(ParamError::new(field, format!("is missing, and {folder} does not say it{why}")))
        };
        let said = repository.as_ref();
        let arch = match (self.arch, said.map(|said| &said.arch)) {
            (Some(arch), _) => arch,
            (None, Some(Ok(arch))) => *arch,
            (None, Some(Err(why))) => return Err(missing("arch", &format!(": {why}"))),
            (None, None) => Arch::default(),
        };
        let size = self.image_size.or_else(|| said?.image_size).ok_or_else(|| missing("image_size", ""))?;
        let mean = self.mean.or_else(|| said?.mean).ok_or_else(|| missing("mean", ""))?;
        let std = self.std.or_else(|| said?.std).ok_or_else(|| missing("std", ""))?;
        arch.check_size([size; 2]).map_err(|e| ParamError::new("image_size", e.to_string()))?;
        let channels = |values: [f64; 3]| values.map(|v| v as f32);
        let spec = ExtractorSpec { arch, image_size: [size; 2], mean: channels(mean), std: channels(std) };
        Ok(Resolved { weights, spec, resizing: said.map(|said| said.resizing.clone()).unwrap_or_default() })
    }

    /// The BLAKE3 digest of the file, in hex. If there is a probe, or, without one, configuration files next to the
    /// weights, it is a digest of all their digests.
    ///
    /// # Errors
    /// If one of the files cannot be read.
    pub(crate) fn digest(&self, env: &Environment) -> Result<String, StageError> {
        let (path, repository) = self.sources(env)?;
        let parts = files(&path)?.iter().map(|path| hash(path)).collect::<Result<Vec<_>, _>>()?;
        let weights = match &parts[..] {
            [one] => one.clone(),
            all => blake3::hash(all.concat().as_bytes()).to_hex().to_string(),
        };
        let probe = self.probe.as_ref().map(|probe| probe_digest(&env.locate(probe)?)).transpose()?;
        // With a probe, it does not matter what other files say.
        let others = match (probe, repository) {
            (probe, Some(_)) => {
                let folder = env.locate(self.path.as_deref().unwrap_or(Path::new("")))?;
                let said = config_paths(&folder).into_iter().map(|path| Ok(("beside", hash(&path)?)));
                said.chain(probe.map(|probe| Ok(("probe", probe)))).collect::<Result<_, StageError>>()?
            }
            (Some(probe), None) => vec![("probe", probe)],
            (None, None) => {
                let paths = said::beside_paths(&path);
                paths.iter().map(|path| Ok(("beside", hash(path)?))).collect::<Result<_, StageError>>()?
            }
        };
        if others.is_empty() {
            return Ok(weights);
        }
        let mut all = blake3::Hasher::new();
        all.update(weights.as_bytes());
        for (role, digest) in others {
            all.update(role.as_bytes()).update(digest.as_bytes());
        }
        Ok(all.finalize().to_hex().to_string())
    }
}

/// The BLAKE3 digest of a file, in hex.
pub(crate) fn hash(path: &Path) -> Result<String, StageError> {
    let mut hasher = blake3::Hasher::new();
    open_file(path).and_then(|_| hasher.update_mmap_rayon(path)).map_err(FileError::unreadable(path, FILE))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// The BLAKE3 digest of a probe's arrays, in hex.
fn probe_digest(path: &Path) -> Result<String, StageError> {
    hemlock_arrays::digest(path, &probe::NAMES).map_err(|e| e.of_field("probe"))
}

/// Imports an extractor from a file of weights, and compares it with the probe or, without one, with what files say
/// about the network.
///
/// # Errors
/// - a file cannot be read, or does not hold a network of `config.arch`;
/// - there is a probe, and the network does not compute its features;
/// - there is no probe, and a file contradicts the spec.
pub fn import(config: &ImportConfig, ctx: &Context, device: &Device) -> Result<Pretrained, StageError> {
    let Resolved { weights: path, spec, resizing } = config.resolve(ctx.env)?;
    // The probe is read first, so that its errors appear before a large file is read.
    let probe = config.probe.as_ref().map(|probe| ctx.env.locate(probe)).transpose()?;
    let probe = probe.map(|path| Ok::<_, StageError>((Probe::read(&path, &spec)?, path))).transpose()?;
    let choice = WeightsChoice {
        branch: config.branch.as_deref(),
        prefix: config.prefix.as_deref(),
        ignore: &config.ignore,
        resampling: config.resampling,
    };
    let Imported { extractor, prefix, said, aside } = Extractor::import(spec.clone(), &path, choice, device)?;
    let verified = match probe {
        Some((probe, path)) => Some(probe.verify(&path, probe_digest(&path)?, &extractor, ctx)?),
        None => {
            // What a folder says is in the spec already, unless the spec says something else on purpose.
            let judged = if config.path.is_some() { said::Judged::default() } else { said::judge(&said, &spec) };
            unverified(&path, &prefix, &aside, &judged)?;
            None
        }
    };
    if resizing != Resizing::default() {
        let lines = resizing.dataset(spec.image_size[0]).join(", ");
        tracing::info!(
            "{}: the network expects images as these lines of [dataset.downstream] make them: {lines}",
            path.display()
        );
    }
    let weights = extractor.to_safetensors().map_err(|e| StageError::new(ErrorKind::Internal, e))?;
    Ok(Pretrained { weights, spec, curve: Vec::new(), verified })
}

/// Warns that an import was not verified.
///
/// # Errors
/// If what the files say contradicts the spec.
fn unverified(path: &Path, prefix: &str, aside: &[(String, usize)], judged: &said::Judged) -> Result<(), StageError> {
    let some = |all: &[String]| match all.len().saturating_sub(3) {
        0 => all.join("; "),
        more => format!("{}; and {more} more", all[..3].join("; ")),
    };
    if !judged.contradictions.is_empty() {
        let message = format!("{}. A `probe` shows what is right (docs/pretraining.md)", some(&judged.contradictions));
        return Err(StageError::new(ErrorKind::Params, message));
    }
    let found = if prefix.is_empty() { String::new() } else { format!(" (`{prefix}*`)") };
    let unchecked = match judged.unchecked.len() {
        0 => String::new(),
        _ => format!(" Not compared with anything: {}.", some(&judged.unchecked)),
    };
    let aside = few(aside.iter().map(|(module, tensors)| format!("`{module}` ({tensors})")));
    let aside = if aside == "none" { String::new() } else { format!(" Left aside, with so many tensors: {aside}.") };
    tracing::warn!(
        "unverified import: names and shapes of {}{found} fit, which does not show that the network computes what these weights were \
         trained in. Write a `probe` with the original framework: a few lines, in docs/pretraining.md.{aside}{unchecked}",
        path.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ImportConfig {
        let (mean, std) = (Some([0.5; 3]), Some([0.25; 3]));
        ImportConfig { weights: Some("x.pth".into()), mean, std, ..ImportConfig::default() }.with_defaults()
    }

    #[test]
    fn fields_are_checked() {
        assert_eq!(config().check(), Ok(()));
        for (config, message) in [
            (
                ImportConfig { weights: Some(PathBuf::new()), ..config() },
                "`weights`: is empty; expected the path of a file",
            ),
            (
                ImportConfig { weights: None, ..config() },
                "`weights`: is missing; expected a file here, or a folder in `path`",
            ),
            (
                ImportConfig { path: Some(PathBuf::new()), ..config() },
                "`path`: is empty; expected the path of a folder",
            ),
            (ImportConfig { mean: None, ..config() }, "`mean`: is missing; expected three numbers"),
            (ImportConfig { probe: Some(PathBuf::new()), ..config() }, "`probe`: is empty; expected the path"),
            (ImportConfig { branch: Some(String::new()), ..config() }, "`branch`: is empty; expected a name"),
            (ImportConfig { ignore: vec!["*".to_owned()], ..config() }, "`ignore`: is a list with an empty name"),
            (ImportConfig { mean: Some([0.5, 123.7, 0.5]), ..config() }, "`mean`: is 123.7; expected 0 to 1"),
            (ImportConfig { std: Some([0.25, 0.25, 0.0]), ..config() }, "`std`: is 0; expected above 0"),
            (ImportConfig { image_size: Some(0), ..config() }, "`image_size`: is 0; expected at least 1"),
            (ImportConfig { trained: Some(" ".into()), ..config() }, "`trained`: is empty; expected"),
        ] {
            let error = config.check().unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
