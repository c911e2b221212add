//! What can go wrong on the way to an engine.

use std::{io, path::PathBuf};

/// Jobs that could not be handed over.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The engine's command is not there.
    #[error("cannot run `{program}`; expected {engine}'s commands in PATH")]
    NoEngine {
        /// The command.
        program: String,
        /// Whose it is.
        engine: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The engine's command failed.
    #[error("`{program}` fails at {job}: {said}")]
    Refused {
        /// The command.
        program: String,
        /// What it was asked for.
        job: String,
        /// What it says.
        said: String,
    },
    /// Engines read `%` in the names of logs as the beginning of a placeholder.
    #[error("{} has a `%` in it, which engines replace in the names of logs; expected another artifact root", path.display())]
    Placeholder {
        /// The folder of the logs.
        path: PathBuf,
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
