//! What a running stage gets from outside: seed, device, progress, cancellation, checkpoints, scratch space.

use crate::{ErrorKind, StageError, VALUE, short};
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// Where raw data is found.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// The folder that holds raw datasets, and weights and features to import.
    pub data: Option<PathBuf>,
    /// The commands of specs that may run as child processes.
    pub commands: Vec<ChildCommand>,
}

/// A command that a stage runs as a child process, because a spec says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildCommand {
    /// The program and its arguments.
    pub words: Vec<String>,
    /// How long the child may take to answer once.
    pub timeout: Duration,
}

impl fmt::Display for ChildCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |c: char| c.is_alphanumeric() || "-_./=:,+@%".contains(c);
        let quoted = |word: &String| {
            if !word.is_empty() && word.chars().all(plain) { word.clone() } else { format!("{word:?}") }
        };
        f.write_str(&self.words.iter().map(quoted).collect::<Vec<_>>().join(" "))
    }
}

impl Environment {
    /// Returns the path of a file of raw data. A relative path starts at the data folder.
    ///
    /// # Errors
    /// The path is relative, and there is no data folder.
    pub fn locate(&self, path: &Path) -> Result<PathBuf, StageError> {
        match &self.data {
            Some(data) => Ok(data.join(path)),
            None if path.is_absolute() => Ok(path.to_owned()),
            None => {
                let message = format!("{} lies below a data directory, and none was given", path.display());
                Err(StageError::new(ErrorKind::Data, message))
            }
        }
    }

    /// Returns the folder that commands run in, so that their relative paths start at the data folder: that folder, or,
    /// if it does not exist, the current one.
    #[must_use]
    pub fn command_folder(&self) -> PathBuf {
        self.data.clone().filter(|data| data.is_dir()).unwrap_or_else(|| PathBuf::from("."))
    }

    /// Returns a command with these words, if it may run.
    ///
    /// # Errors
    /// Nobody allowed it.
    pub fn allowed(&self, words: &[String]) -> Result<&ChildCommand, StageError> {
        self.commands.iter().find(|command| command.words == words).ok_or_else(|| {
            let command = ChildCommand { words: words.to_vec(), timeout: Duration::ZERO };
            let command = command.to_string();
            let command = short(&command, VALUE);
            let message =
                format!("a spec names the command `{command}`, and it was not allowed: see `--allow-command`");
            StageError::new(ErrorKind::Params, message)
        })
    }
}

/// A request to stop, shared between a signal handler and the stages.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks every stage to stop at its next check.
    pub fn request(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
    /// Whether a stop was requested.
    #[must_use]
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Shows the progress of long work. Whoever owns the terminal implements it.
pub trait Progress: Send + Sync {
    /// Begins a piece of work of `total` steps, counted in `unit`s. The work ends when the bar is dropped.
    fn start(&self, label: &str, total: u64, unit: &'static str) -> Box<dyn Bar>;
}

/// The progress of one piece of work.
pub trait Bar: Send + Sync {
    /// Sets how many steps are done.
    fn at(&self, done: u64);
    /// Shows a short message next to the bar, such as the current loss.
    fn say(&self, message: String);
}

/// A [`Progress`] and [`Bar`] that shows nothing.
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _: &str, _: u64, _: &'static str) -> Box<dyn Bar> {
        Box::new(Silent)
    }
}

impl Bar for Silent {
    fn at(&self, _: u64) {}
    fn say(&self, _: String) {}
}

/// Keeps the state of an unfinished run, so that the next run can resume it.
pub trait Checkpoints: Send + Sync {
    /// Returns the state that was saved last, or `None` if no state was saved.
    ///
    /// # Errors
    /// The state cannot be read.
    fn load(&self) -> Result<Option<Vec<u8>>, StageError>;
    /// Replaces the saved state atomically.
    ///
    /// # Errors
    /// The state cannot be written.
    fn save(&self, state: &[u8]) -> Result<(), StageError>;
    /// Returns all pieces that were added, in no particular order.
    ///
    /// # Errors
    /// They cannot be read.
    fn pieces(&self) -> Result<Vec<Vec<u8>>, StageError> {
        Ok(Vec::new())
    }
    /// Adds a piece: finished work that neither later work nor other processes change.
    ///
    /// # Errors
    /// It cannot be written.
    fn add_piece(&self, _piece: &[u8]) -> Result<(), StageError> {
        Ok(())
    }
}

/// [`Checkpoints`] that keep nothing.
pub struct NoCheckpoints;

impl Checkpoints for NoCheckpoints {
    fn load(&self) -> Result<Option<Vec<u8>>, StageError> {
        Ok(None)
    }
    fn save(&self, _: &[u8]) -> Result<(), StageError> {
        Ok(())
    }
}

/// What one run of a stage is given besides its parameters and inputs.
pub struct Context<'a> {
    /// The pipeline's seed; 0 for a stage that is not seeded.
    pub seed: u64,
    /// Name of the device to compute on.
    pub device: &'a str,
    /// Where raw data is found.
    pub env: &'a Environment,
    /// Shows the progress of the run.
    pub progress: &'a dyn Progress,
    /// The request to stop, which the stage has to check.
    pub cancel: &'a Cancel,
    /// The state of an unfinished run, to be loaded and saved.
    pub checkpoints: &'a dyn Checkpoints,
    /// Set by [`Context::computes_on_device`].
    pub on_device: &'a AtomicBool,
    /// A folder for arrays that may be larger than memory ([`hemlock_store::Scratch`]).
    pub scratch: &'a Path,
}

impl Context<'_> {
    /// Returns an error if a stop was requested. A stage calls it between steps, to stop early.
    ///
    /// # Errors
    /// A stop was requested ([`ErrorKind::Interrupted`]).
    pub fn check(&self) -> Result<(), StageError> {
        if self.cancel.requested() { Err(StageError::interrupted()) } else { Ok(()) }
    }

    /// Takes note that the run computes on the device, although [`Stage::uses_device`] does not say so: because its
    /// inputs are large. The manifest then names the device.
    ///
    /// [`Stage::uses_device`]: crate::Stage::uses_device
    pub fn computes_on_device(&self) {
        self.on_device.store(true, Ordering::SeqCst);
    }
}

impl StageError {
    /// The error of a run that was asked to stop.
    #[must_use]
    pub fn interrupted() -> Self {
        Self::new(ErrorKind::Interrupted, "interrupted; run the same command again to go on")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_start_at_the_data_folder() {
        let env = Environment { data: Some("data".into()), ..Environment::default() };
        let (relative, absolute) = (Path::new("x.pth"), Path::new("/models/x.pth"));
        assert_eq!(env.locate(relative).unwrap(), Path::new("data/x.pth"));
        assert_eq!(env.locate(absolute).unwrap(), absolute);
        assert_eq!(Environment::default().locate(absolute).unwrap(), absolute);
        assert!(Environment::default().locate(relative).is_err());
    }
}
