//! Extractors that are child processes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hemlock_artifact::{DescribedProcess, ExtractorArtifact};
use hemlock_models::{Extractor, ProcessExtractor, open_device, open_process};
use hemlock_stage::{ChildCommand, Context, Environment, ParamError, StageError, few};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::import::hash;

/// Longest time, in seconds, that a spec may give a child to answer: a day.
const LONGEST: f64 = 86_400.0;

/// The parameters of a child process: its command, and the files that decide what it computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProcessConfig {
    /// The program and its arguments, such as `["python", "extractor.py"]`. It runs in the data root (`--data` or
    /// `HEMLOCK_DATA`), so that relative paths start there. Words after the program that are paths of files are files
    /// of the command: their content is in the key, as the words are.
    pub command: Vec<String>,
    /// Further files that decide what the command computes, such as weights and modules. Relative paths start at the
    /// data root. Their content is in the key, and their paths are not.
    #[serde(default)]
    pub files: Vec<PathBuf>,
    /// How long the child may take to start, and to answer once, in seconds. Not in the key.
    #[serde(default = "default_timeout")]
    #[schemars(range(max = 86_400), extend("exclusiveMinimum" = 0))]
    pub timeout: f64,
    /// How the network was trained, in a word or two, such as `supervised`. Results show it. Not in the key.
    #[serde(default)]
    pub trained: Option<String>,
}

fn default_timeout() -> f64 {
    120.0
}

impl ProcessConfig {
    /// Checks every parameter.
    ///
    /// # Errors
    /// The first field that is outside of its range.
    pub(crate) fn check(&self) -> Result<(), ParamError> {
        let program = self.command.first().is_some_and(|program| !program.is_empty());
        ParamError::require(program, "command", "empty", "a program and its arguments")?;
        let plain = self.command.iter().all(|word| !word.contains('\0'));
        ParamError::require(plain, "command", "a list with a NUL character", "words")?;
        let named = self.files.iter().all(|path| !path.as_os_str().is_empty());
        ParamError::require(named, "files", "a list with an empty path", "paths of files")?;
        let finite = self.timeout > 0.0 && self.timeout <= LONGEST;
        ParamError::require(finite, "timeout", self.timeout, "above 0, and up to 86400")?;
        let said = self.trained.as_deref().is_none_or(|trained| !trained.trim().is_empty());
        ParamError::require(said, "trained", "empty", "a word or two, or no such field")
    }

    /// The command, with the time that its child has to answer.
    pub(crate) fn child(&self) -> ChildCommand {
        ChildCommand { words: self.command.clone(), timeout: Duration::from_secs_f64(self.timeout) }
    }

    /// The command and the paths of its files, in one line.
    pub(crate) fn files(&self) -> String {
        format!("process {:?} {:?}", self.command, self.files)
    }

    /// The BLAKE3 digest, in hex, of the files of the command, with their places in it, and of `files`.
    ///
    /// # Errors
    /// If one of the files cannot be read, or if there are none.
    pub(crate) fn digest(&self, env: &Environment) -> Result<String, StageError> {
        let folder = env.command_folder();
        let script = |(place, word): (usize, &String)| {
            let path = folder.join(word);
            path.is_file().then_some((place, path))
        };
        let mut scripts: Vec<(usize, PathBuf)> = self.command.iter().enumerate().skip(1).filter_map(script).collect();
        if scripts.is_empty() && self.command.first().is_some_and(|word| Path::new(word).components().count() > 1) {
            // The program is the script, and not an interpreter of one.
            scripts.extend(self.command.iter().enumerate().take(1).filter_map(script));
        }
        if scripts.is_empty() && self.files.is_empty() {
            let words = few(self.command.iter().skip(1).map(|word| format!("`{word}`")));
            let message = format!(
                "names no file below {}, so that nobody would notice a change of what it computes (words: {words}); \
                 name the script in the command, or in `files`",
                folder.display()
            );
            return Err(ParamError::new("command", message).into());
        }
        let mut all = blake3::Hasher::new();
        for (place, path) in scripts {
            all.update(format!("word {place}").as_bytes()).update(hash(&path)?.as_bytes());
        }
        for path in &self.files {
            all.update(b"file").update(hash(&env.locate(path)?)?.as_bytes());
        }
        Ok(all.finalize().to_hex().to_string())
    }
}

/// Starts the child, and tries it on two images, so that what is wrong with it shows here, and not in the middle of an
/// attack.
///
/// # Errors
/// If the command may not run, or if the child fails.
pub(crate) fn described(config: &ProcessConfig, ctx: &Context) -> Result<ExtractorArtifact, StageError> {
    let child = open_process(&config.command, ctx)?;
    let about = child.about().clone();
    let [side, _] = about.image_size;
    attempt(child, side, ctx)?;
    Ok(ExtractorArtifact {
        arch: "process".to_owned(),
        method: "process".to_owned(),
        dim: about.features,
        image_size: side,
        mean: [0.0; 3],
        std: [1.0; 3],
        weights: Vec::new(),
        curve: Vec::new(),
        verified: None,
        process: Some(DescribedProcess { command: config.command.clone(), name: about.name }),
    })
}

/// Asks for features and for gradients.
fn attempt(child: ProcessExtractor, side: usize, ctx: &Context) -> Result<(), StageError> {
    let extractor = Extractor::process(child, &open_device(ctx.device)?);
    let size = 3 * side * side;
    let pixels: Vec<f32> = (0..2 * size).map(|i| (i % 251) as f32 / 250.0).collect();
    extractor.vjp(&pixels, |_, features| features.to_vec())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn config(command: &[&str], files: &[&str]) -> ProcessConfig {
        serde_json::from_value(serde_json::json!({ "command": command, "files": files })).unwrap()
    }

    #[test]
    fn fields_are_checked() {
        let good = config(&["python", "x.py"], &[]);
        assert_eq!(good.check(), Ok(()));
        for (config, message) in [
            (config(&[], &[]), "`command`: is empty; expected a program"),
            (config(&["", "x.py"], &[]), "`command`: is empty; expected a program"),
            (config(&["python", "a\0"], &[]), "`command`: is a list with a NUL"),
            (config(&["python"], &[""]), "`files`: is a list with an empty path"),
            (ProcessConfig { timeout: 0.0, ..good.clone() }, "`timeout`: is 0; expected above 0"),
            (ProcessConfig { timeout: f64::NAN, ..good.clone() }, "`timeout`: is NaN"),
            (ProcessConfig { trained: Some(" ".into()), ..good.clone() }, "`trained`: is empty"),
        ] {
            let error = config.check().unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }

    #[test]
    fn the_digest_is_that_of_the_files_and_of_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let env = Environment { data: Some(dir.path().into()), ..Environment::default() };
        for (name, text) in [("x.py", "a"), ("y.py", "a"), ("z.py", "b"), ("w.npy", "weights")] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let digest = |command: &[&str], files: &[&str]| config(command, files).digest(&env);
        let one = digest(&["python", "x.py"], &[]).unwrap();
        assert_eq!(one, digest(&["python", "y.py"], &[]).unwrap(), "paths are not in it");
        assert_ne!(one, digest(&["python", "z.py"], &[]).unwrap());
        assert_ne!(one, digest(&["python", "-u", "x.py"], &[]).unwrap());
        assert_ne!(one, digest(&["python", "x.py"], &["w.npy"]).unwrap());
        let absolute = dir.path().join("w.npy");
        assert_eq!(
            digest(&["python", "x.py"], &["w.npy"]).unwrap(),
            digest(&["python", "x.py"], &[absolute.to_str().unwrap()]).unwrap()
        );
        assert_ne!(digest(&["./x.py"], &[]).unwrap(), digest(&["./z.py"], &[]).unwrap(), "the program is the script");
        let error = digest(&["python", "typo.py"], &[]).unwrap_err().to_string();
        assert!(error.starts_with("`command`: names no file below") && error.contains("`typo.py`"), "{error}");
        let error = digest(&["python", "x.py"], &["typo.npy"]).unwrap_err().to_string();
        assert!(error.contains("typo.npy"), "{error}");
    }
}
