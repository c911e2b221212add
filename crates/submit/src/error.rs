//! What can go wrong on the way to an engine.

use std::{io, path::PathBuf};

/// Jobs that could not be handed over.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The engine's command is not there.
    #[error("cannot run `{program}`: {source}; expected {engine}'s commands in PATH")]
    NoEngine {
        /// The command.
        program: String,
        /// Whose it is.
        engine: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The engine's command failed.
    #[error("`{program}` refuses the job of {job}: {said}")]
    Refused {
        /// The command.
        program: String,
        /// What it was asked for.
        job: String,
        /// What it says.
        said: String,
    },
    /// A folder or a file cannot be written.
    #[error("cannot write {}", path.display())]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}
