//! The errors of submitting jobs.

use std::{io, path::PathBuf};

/// Jobs could not be submitted.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The engine's command could not be started.
    #[error("cannot run `{program}`; expected {engine}'s commands in PATH")]
    NoEngine {
        /// The command.
        program: String,
        /// The engine that it belongs to.
        engine: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The engine's command failed.
    #[error("`{program}` fails at {job}: {said}")]
    Refused {
        /// The command.
        program: String,
        /// The job or query that it was called for.
        job: String,
        /// The text that it wrote to stderr.
        said: String,
    },
    /// Slurm did not say which number it gave to a job.
    #[error(
        "`sbatch --parsable` gave no number to {job}, but wrote '{said}'; `squeue --me` shows whether it is queued"
    )]
    NoNumber {
        /// The job.
        job: String,
        /// The text that it wrote to stdout.
        said: String,
    },
    /// The path of the logs contains a `%`, which engines read as the beginning of a placeholder.
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
        /// The system's error.
        source: io::Error,
    },
}
