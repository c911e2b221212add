//! The engine HyperQueue: one job per plan, whose tasks depend on each other.

use crate::{Batch, Engine, Job, SubmitError, Submitted, THREADS};
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
    tasks: Vec<Task>,
}

#[derive(Serialize)]
struct Task {
    id: usize,
    command: Vec<String>,
    cwd: String,
    stdout: String,
    stderr: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_limit: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    deps: Vec<usize>,
    env: BTreeMap<&'static str, String>,
    request: [Request; 1],
}

#[derive(Serialize)]
struct Request {
    resources: BTreeMap<&'static str, String>,
}

impl Task {
    fn new(batch: &Batch, job: &Job, id: usize, command: Vec<String>, deps: Vec<usize>) -> Self {
        let mut resources = BTreeMap::from([("cpus", job.resources.cpus().to_string())]);
        resources.extend(job.resources.memory.map(|memory| ("mem", memory.mebibytes().to_string())));
        resources.extend(job.resources.gpus.map(|gpus| ("gpus/nvidia", gpus.to_string())));
        // Each task of a submission has its own logs, because HyperQueue truncates files that exist.
        let own = if id == job.id { "%{JOB_ID}" } else { "%{JOB_ID}.%{TASK_ID}" };
        Self {
            id,
            command,
            cwd: batch.folder.display().to_string(),
            stdout: job.log.with_extension(format!("{own}.log")).display().to_string(),
            stderr: job.log.with_extension(format!("{own}.err")).display().to_string(),
            time_limit: job.resources.time.map(|time| format!("{}s", time.seconds())),
            deps,
            env: BTreeMap::from([(THREADS, job.resources.cpus().to_string())]),
            request: [Request { resources }],
        }
    }
}

impl Engine for HyperQueue {
    fn show(&self, batch: &Batch) -> String {
        let mut free = batch.jobs.iter().map(|job| job.id + 1).max().unwrap_or(0)..;
        let mut tasks = Vec::new();
        for job in &batch.jobs {
            let mut after = job.after.clone();
            if job.parts > 1 {
                let parts = (1..=job.parts).zip(&mut free).map(|(number, id)| {
                    let argv = [&*job.argv, &["--part".to_owned(), format!("{number}/{}", job.parts)]].concat();
                    Task::new(batch, job, id, argv, job.after.clone())
                });
                let parts: Vec<Task> = parts.collect();
                after = parts.iter().map(|part| part.id).collect();
                tasks.extend(parts);
            }
            tasks.push(Task::new(batch, job, job.id, job.argv.clone(), after));
        }
        let file = JobFile { name: &batch.pipeline, tasks };
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
