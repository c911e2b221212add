//! The engine HyperQueue: one job per plan, whose tasks depend on each other.

use crate::{Batch, Engine, SubmitError, Submitted, THREADS};
use serde::Serialize;
use std::{collections::BTreeMap, path::PathBuf, process::Command};

/// The engine HyperQueue. Its command `hq` is looked for in `PATH`.
pub struct HyperQueue {
    /// The job definition file to write, which lists the tasks.
    pub file: PathBuf,
}

/// HyperQueue's job definition file.
#[derive(Serialize)]
struct JobFile<'a> {
    name: &'a str,
    #[serde(rename = "task")]
    tasks: Vec<Task<'a>>,
}

#[derive(Serialize)]
struct Task<'a> {
    id: usize,
    command: &'a [String],
    cwd: String,
    stdout: String,
    stderr: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_limit: Option<String>,
    #[serde(skip_serializing_if = "<[usize]>::is_empty")]
    deps: &'a [usize],
    env: BTreeMap<&'static str, String>,
    request: [Request; 1],
}

#[derive(Serialize)]
struct Request {
    resources: BTreeMap<&'static str, String>,
}

impl Engine for HyperQueue {
    fn show(&self, batch: &Batch) -> String {
        let tasks = batch.jobs.iter().map(|job| {
            let mut resources = BTreeMap::from([("cpus", job.resources.cpus().to_string())]);
            resources.extend(job.resources.memory.map(|memory| ("mem", memory.mebibytes().to_string())));
            resources.extend(job.resources.gpus.map(|gpus| ("gpus/nvidia", gpus.to_string())));
            Task {
                id: job.id,
                command: &job.argv,
                cwd: batch.folder.display().to_string(),
                // Each submission has its own logs, because HyperQueue truncates files that exist.
                stdout: job.log.with_extension("%{JOB_ID}.log").display().to_string(),
                stderr: job.log.with_extension("%{JOB_ID}.err").display().to_string(),
                time_limit: job.resources.time.map(|time| format!("{}s", time.seconds())),
                deps: &job.after,
                env: BTreeMap::from([(THREADS, job.resources.cpus().to_string())]),
                request: [Request { resources }],
            }
        });
        let file = JobFile { name: &batch.pipeline, tasks: tasks.collect() };
        toml::to_string(&file).expect("a job file is a table of plain values")
    }

    /// HyperQueue cannot say which artifacts the tasks of other jobs make. Submitting twice therefore makes two jobs,
    /// in which each task waits for its twin and finds the artifact that the twin made.
    fn submit(&self, batch: &Batch, tell: &mut dyn FnMut(&str)) -> Result<Submitted, SubmitError> {
        batch.prepare()?;
        let write = |source| SubmitError::Folder { path: self.file.clone(), source };
        if let Some(folder) = self.file.parent() {
            std::fs::create_dir_all(folder).map_err(write)?;
        }
        std::fs::write(&self.file, self.show(batch)).map_err(write)?;
        let program = "hq".to_owned();
        let output = Command::new(&program)
            .args(["job", "submit-file"])
            .arg(&self.file)
            .output()
            .map_err(|source| SubmitError::NoEngine { program: program.clone(), engine: "HyperQueue", source })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(SubmitError::Refused { program, job: batch.pipeline.clone(), said });
        }
        tell(String::from_utf8_lossy(&output.stdout).trim());
        Ok(Submitted { new: batch.jobs.len(), queued: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::batch;

    #[test]
    fn a_batch_is_a_job_file() {
        insta::assert_snapshot!(HyperQueue { file: PathBuf::new() }.show(&batch()));
    }
}
