//! Submission of the tasks of a plan to engines that run them elsewhere: Slurm and HyperQueue.
//!
//! A task is one process that reads and writes files, and may be run again at any time: finished artifacts are found,
//! and unfinished ones are begun anew or resumed. An engine therefore needs to know only the commands, their
//! dependencies and their resources.

mod error;
mod hyperqueue;
mod slurm;

pub use error::SubmitError;
pub use hyperqueue::HyperQueue;
pub use slurm::Slurm;

use hemlock_pipeline::Resources;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// A task in the form that an engine gets.
#[derive(Debug, Clone)]
pub struct Job {
    /// The number of the task in its plan.
    pub id: usize,
    /// A name for people: the node, and the start of the key.
    pub name: String,
    /// The absolute path of the artifact's folder. It identifies the job, whoever submits it.
    pub artifact: PathBuf,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Number of parts that jobs of their own compute before this one; 1 if it computes all by itself. A part has this
    /// job's arguments, followed by `--part I/N`, from `1/N` to `N/N`.
    pub parts: u32,
    /// The numbers of the jobs that must be done before.
    pub after: Vec<usize>,
    /// The resources that the job needs.
    pub resources: Resources,
    /// The file for the job's output.
    pub log: PathBuf,
}

/// The tasks of a plan that are left to do. Each comes after those that it depends on.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The name of the pipeline.
    pub pipeline: String,
    /// The folder that the commands run in.
    pub folder: PathBuf,
    /// The jobs.
    pub jobs: Vec<Job>,
}

/// The result of a submission.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Submitted {
    /// Number of tasks that are new to the engine.
    pub new: usize,
    /// Number of tasks that the engine has from before, waiting or running.
    pub queued: usize,
}

/// A system that runs jobs.
pub trait Engine {
    /// Returns what would be submitted, as a text that a shell or the engine understands.
    fn show(&self, batch: &Batch) -> String;

    /// Submits a batch. `tell` is called with a line for every job or set of jobs that the engine accepted, including
    /// the engine's name for it. Jobs that the engine has already are not submitted again, if the engine can tell.
    ///
    /// # Errors
    /// If a folder or file cannot be written, or if a command of the engine cannot be started or fails. Jobs that were
    /// submitted before stay submitted.
    fn submit(&self, batch: &Batch, tell: &mut dyn FnMut(&str)) -> Result<Submitted, SubmitError>;
}

impl Batch {
    /// The folders of the jobs' logs.
    fn log_folders(&self) -> BTreeSet<&Path> {
        self.jobs.iter().filter_map(|job| job.log.parent()).collect()
    }

    /// Creates the folders of the jobs' logs.
    fn prepare(&self) -> Result<(), SubmitError> {
        for path in self.log_folders() {
            if path.to_string_lossy().contains('%') {
                return Err(SubmitError::Placeholder { path: path.to_owned() });
            }
            std::fs::create_dir_all(path).map_err(|source| SubmitError::Folder { path: path.to_owned(), source })?;
        }
        Ok(())
    }
}

/// The variable that sets the number of threads of a job; it is set to the number of processors.
const THREADS: &str = "RAYON_NUM_THREADS";

/// Quotes an argument for a shell.
fn quoted(argument: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        return argument.to_owned();
    }
    format!("'{}'", argument.replace('\'', r"'\''"))
}

fn command_line(argv: &[String]) -> String {
    argv.iter().map(|argument| quoted(argument)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod testing {
    use super::*;

    pub fn batch() -> Batch {
        let job = |id: usize, name: &str, after: &[usize], resources: Resources| Job {
            id,
            name: name.to_owned(),
            artifact: PathBuf::from(format!("/data/artifacts/{name}")),
            argv: ["/bin/hemlock", "run", "it's.toml", "--task", name].map(str::to_owned).to_vec(),
            parts: 1,
            after: after.to_vec(),
            resources,
            log: PathBuf::from(format!("/data/artifacts/logs/{name}.log")),
        };
        let large: Resources = serde_json::from_value(serde_json::json!({
            "cpus": 8, "memory": "32G", "time": "12:00:00", "gpus": 1, "options": ["--partition=gpu"],
        }))
        .unwrap();
        Batch {
            pipeline: "tiny".to_owned(),
            folder: PathBuf::from("/home/a user"),
            jobs: vec![
                job(2, "features", &[], Resources::default()),
                job(3, "pretrain", &[], large.clone()),
                Job { parts: 2, ..job(4, "invert", &[2, 3], large) },
                job(5, "evaluate", &[2, 4], Resources::default()),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_arguments_back() {
        let awkward = ["plain-1.0", "two words", "it's", "$HOME", "a\"b", "", "--set", "poison_fraction=[0.1,0.2]"]
            .map(str::to_owned);
        let line = format!("for a in {}; do printf '%s\\n' \"$a\"; done", command_line(&awkward));
        let read = std::process::Command::new("sh").args(["-c", &line]).output().unwrap().stdout;
        assert_eq!(String::from_utf8(read).unwrap(), awkward.map(|a| a + "\n").concat());
    }
}
