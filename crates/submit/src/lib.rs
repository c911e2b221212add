//! Hands the tasks of a plan to engines that run them elsewhere: Slurm, HyperQueue.
//!
//! A task is one process, with files in and out, that may be run again at any time: what it made is found, and what it
//! was making is begun anew or resumed. So an engine needs to know nothing but commands, what comes after what, and
//! what each takes.

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

/// A task as an engine sees it.
#[derive(Debug, Clone)]
pub struct Job {
    /// Number of the task in its plan.
    pub id: usize,
    /// For people: node and the start of the key.
    pub name: String,
    /// Folder of the artifact, absolute: what tells this job from any other, whoever submits it.
    pub artifact: PathBuf,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Jobs that have to be done before, by their numbers.
    pub after: Vec<usize>,
    /// What it takes.
    pub resources: Resources,
    /// File that its output goes to.
    pub log: PathBuf,
}

/// The tasks of a plan that are left to do, those first that others come after.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Name of the pipeline.
    pub pipeline: String,
    /// Folder that the commands run in.
    pub folder: PathBuf,
    /// The jobs.
    pub jobs: Vec<Job>,
}

/// What was handed over.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Submitted {
    /// Number of tasks that are new to the engine.
    pub new: usize,
    /// Number of tasks that the engine has from before, waiting or running.
    pub queued: usize,
}

/// What runs jobs.
pub trait Engine {
    /// What would be handed over, as a text that a shell or the engine understands.
    fn show(&self, batch: &Batch) -> String;

    /// Hands a batch over, and tells what the engine calls it as it goes. Jobs that the engine has already are not
    /// handed over again, as far as it tells.
    ///
    /// # Errors
    /// The engine's commands are not there, or one fails. What was handed over until then stays.
    fn submit(&self, batch: &Batch, tell: &mut dyn FnMut(&str)) -> Result<Submitted, SubmitError>;
}

impl Batch {
    /// The folders of the jobs' logs.
    fn log_folders(&self) -> BTreeSet<&Path> {
        self.jobs.iter().filter_map(|job| job.log.parent()).collect()
    }

    /// Makes the folders of the jobs' logs.
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

/// Threads of a job: as many as it has processors.
const THREADS: &str = "RAYON_NUM_THREADS";

/// An argument as a shell has to see it.
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
                job(3, "pretrain", &[], large),
                job(5, "evaluate", &[2, 3], Resources::default()),
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
