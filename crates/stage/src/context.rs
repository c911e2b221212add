//! What a running stage gets from outside: seed, device, progress, cancellation, checkpoints.

use crate::{ErrorKind, StageError};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Where raw data is found.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// The folder that holds raw datasets, and weights and features to import.
    pub data: Option<PathBuf>,
}

impl Environment {
    /// Where a file of raw data lies: a relative path starts at the data folder.
    ///
    /// # Errors
    /// The path is relative, and no folder was given.
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
}

/// A request to stop, shared between a signal handler and the stages.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks every stage to stop at its next check.
    pub fn request(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
    /// Whether a stop was asked for.
    #[must_use]
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Shows how far long work is. Implemented by whoever owns the terminal.
pub trait Progress: Send + Sync {
    /// Begins a piece of work of `total` steps, counted in `unit`s; it ends when the bar is dropped.
    fn start(&self, label: &str, total: u64, unit: &'static str) -> Box<dyn Bar>;
}

/// One piece of work under way.
pub trait Bar: Send + Sync {
    /// Sets how many steps are done.
    fn at(&self, done: u64);
    /// Says something short beside the bar, such as the current loss.
    fn say(&self, message: String);
}

/// Progress that nobody sees.
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

/// Keeps the state of an unfinished run, so that the next one resumes.
pub trait Checkpoints: Send + Sync {
    /// The last saved state, if there is one.
    ///
    /// # Errors
    /// It cannot be read.
    fn load(&self) -> Result<Option<Vec<u8>>, StageError>;
    /// Replaces the saved state atomically.
    ///
    /// # Errors
    /// It cannot be written.
    fn save(&self, state: &[u8]) -> Result<(), StageError>;
}

/// Checkpoints that are never kept.
pub struct NoCheckpoints;

impl Checkpoints for NoCheckpoints {
    fn load(&self) -> Result<Option<Vec<u8>>, StageError> {
        Ok(None)
    }
    fn save(&self, _: &[u8]) -> Result<(), StageError> {
        Ok(())
    }
}

/// What surrounds one run of a stage.
pub struct Context<'a> {
    /// The pipeline's seed; zero for stages that are not seeded.
    pub seed: u64,
    /// Name of the backend to compute on.
    pub device: &'a str,
    /// Where raw data is found.
    pub env: &'a Environment,
    /// Shows how far the run is.
    pub progress: &'a dyn Progress,
    /// A request to stop.
    pub cancel: &'a Cancel,
    /// State of an unfinished run.
    pub checkpoints: &'a dyn Checkpoints,
    /// A folder for arrays that may be larger than memory ([`hemlock_store::Scratch`]).
    pub scratch: &'a Path,
}

impl Context<'_> {
    /// Returns early where a stop was asked for.
    ///
    /// # Errors
    /// [`ErrorKind::Interrupted`].
    pub fn check(&self) -> Result<(), StageError> {
        if self.cancel.requested() { Err(StageError::interrupted()) } else { Ok(()) }
    }
}

impl StageError {
    /// The run was asked to stop.
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
        let env = Environment { data: Some("data".into()) };
        let (relative, absolute) = (Path::new("x.pth"), Path::new("/models/x.pth"));
        assert_eq!(env.locate(relative).unwrap(), Path::new("data/x.pth"));
        assert_eq!(env.locate(absolute).unwrap(), absolute);
        assert_eq!(Environment::default().locate(absolute).unwrap(), absolute);
        assert!(Environment::default().locate(relative).is_err());
    }
}
