//! The engine Slurm: one job per task, which waits for the jobs that it depends on (`afterok`), and before it an array
//! of jobs for its parts, if it has any.

use crate::{Batch, Engine, Job, SubmitError, Submitted, THREADS, command_line, quoted};
use std::{
    collections::BTreeMap,
    io::Write,
    process::{Command, Stdio},
};

/// The engine Slurm. Its commands are looked for in `PATH`.
pub struct Slurm;

impl Engine for Slurm {
    /// Returns a shell script, which does not check which jobs are in the queue already.
    fn show(&self, batch: &Batch) -> String {
        let folders: Vec<String> = batch.log_folders().iter().map(|path| quoted(&path.to_string_lossy())).collect();
        let mut text = format!("#!/bin/sh\nset -e\nmkdir -p {}\n", folders.join(" "));
        for job in &batch.jobs {
            // A job's number may be followed by a semicolon and the name of a cluster, which is cut off.
            let mut after: Vec<String> = job.after.iter().map(|id| format!("${{job{id}%%;*}}")).collect();
            for step in Step::of(job) {
                let variable = format!("{}{}", if step.is_array { "parts" } else { "job" }, job.id);
                let options: Vec<String> = step.options(batch).iter().map(|option| quoted(option)).collect();
                text += &format!("{variable}=$(sbatch {}", options.join(" "));
                if !after.is_empty() {
                    text += &format!(" --dependency=afterok:{}", after.join(":"));
                }
                text += &format!(" <<'END'\n{}END\n)\n", step.script());
                after = vec![format!("${{{variable}%%;*}}")];
            }
        }
        text
    }

    fn submit(&self, batch: &Batch, tell: &mut dyn FnMut(&str)) -> Result<Submitted, SubmitError> {
        let queue = queue()?;
        batch.prepare()?;
        let mut submitted = Submitted::default();
        let mut ids: BTreeMap<usize, String> = BTreeMap::new();
        for job in &batch.jobs {
            if let Some(id) = queue.get(&*job.artifact.to_string_lossy()) {
                ids.insert(job.id, id.clone());
                submitted.queued += 1;
                continue;
            }
            let mut after: Vec<String> = job.after.iter().filter_map(|id| ids.get(id)).cloned().collect();
            for step in Step::of(job) {
                let name = step.name();
                let mut sbatch = Command::new("sbatch");
                sbatch.args(step.options(batch));
                if !after.is_empty() {
                    sbatch.arg(format!("--dependency=afterok:{}", after.join(":")));
                }
                let said = said(sbatch, "sbatch", &step.script(), &name)?;
                let id =
                    id(&said).ok_or_else(|| SubmitError::NoNumber { job: name.clone(), said: said.trim().into() })?;
                tell(&format!("{id}\t{name}"));
                ids.insert(job.id, id.to_owned());
                after = vec![id.to_owned()];
            }
            submitted.new += 1;
        }
        Ok(submitted)
    }
}

/// What is submitted for a task, one step after the other: the array of its parts, if it has any, and the task itself.
struct Step<'a> {
    job: &'a Job,
    is_array: bool,
}

impl<'a> Step<'a> {
    fn of(job: &'a Job) -> impl Iterator<Item = Self> {
        let array = (job.parts > 1).then_some(Self { job, is_array: true });
        array.into_iter().chain([Self { job, is_array: false }])
    }

    fn name(&self) -> String {
        if self.is_array { format!("{}-parts", self.job.name) } else { self.job.name.clone() }
    }

    fn options(&self, batch: &Batch) -> Vec<String> {
        let Job { resources, artifact, log, parts, .. } = self.job;
        let (comment, log) = if self.is_array {
            (format!("{}#parts", artifact.display()), log.with_extension("part-%a.log"))
        } else {
            (artifact.display().to_string(), log.clone())
        };
        let mut options = vec![
            "--parsable".to_owned(),
            format!("--job-name={}", self.name()),
            format!("--comment={comment}"),
            format!("--chdir={}", batch.folder.display()),
            format!("--output={}", log.display()),
            "--open-mode=append".to_owned(),
            // Without this, the dependents of a job that failed would wait forever.
            "--kill-on-invalid-dep=yes".to_owned(),
            "--requeue".to_owned(),
            format!("--cpus-per-task={}", resources.cpus()),
        ];
        options.extend(self.is_array.then(|| format!("--array=1-{parts}")));
        options.extend(resources.memory.map(|memory| format!("--mem={}M", memory.mebibytes())));
        options.extend(resources.time.map(|time| format!("--time={time}")));
        options.extend(resources.gpus.map(|gpus| format!("--gres=gpu:{gpus}")));
        options.extend(resources.options.iter().cloned());
        options
    }

    fn script(&self) -> String {
        let Job { resources, argv, parts, .. } = self.job;
        let part = if self.is_array { format!(" --part \"$SLURM_ARRAY_TASK_ID/{parts}\"") } else { String::new() };
        format!("#!/bin/sh\nexport {THREADS}={}\nexec {}{part}\n", resources.cpus(), command_line(argv))
    }
}

/// Parses the number of a job from what `sbatch --parsable` writes: the number, and perhaps the name of a cluster.
fn id(said: &str) -> Option<&str> {
    said.trim().split(';').next().filter(|id| id.starts_with(|first: char| first.is_ascii_digit()))
}

/// Returns the numbers of the user's jobs that run or may still run, by the artifact that each makes.
fn queue() -> Result<BTreeMap<String, String>, SubmitError> {
    let mut squeue = Command::new("squeue");
    squeue.args(["--me", "--noheader", "--states=PENDING,RUNNING,SUSPENDED,CONFIGURING", "--format=%i|%r|%k"]);
    let said = said(squeue, "squeue", "", "the queue")?;
    Ok(said.lines().filter_map(queued).map(|(id, artifact)| (artifact.to_owned(), id.to_owned())).collect())
}

/// Parses the number and the artifact in a line of the queue. Returns `None` for a job whose dependency failed, which
/// Slurm is about to kill.
fn queued(line: &str) -> Option<(&str, &str)> {
    let mut parts = line.trim().splitn(3, '|');
    let (id, reason, artifact) = (parts.next()?, parts.next()?, parts.next()?);
    (reason.trim() != "DependencyNeverSatisfied").then_some((id.trim(), artifact.trim()))
}

/// Runs a command with text on stdin, and returns its stdout.
fn said(mut command: Command, program: &str, input: &str, job: &str) -> Result<String, SubmitError> {
    let missing = |source| SubmitError::NoEngine { program: program.to_owned(), engine: "Slurm", source };
    let refused = |said: String| SubmitError::Refused {
        program: program.to_owned(),
        job: job.to_owned(),
        said: said.trim().to_owned(),
    };
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(missing)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that ends before it has read everything explains why on stderr.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|e| refused(e.to_string()))?;
    if !output.status.success() {
        return Err(refused(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::batch;

    #[test]
    fn jobs_that_will_be_killed_are_not_in_the_queue() {
        assert_eq!(queued("17|Dependency|/data/artifacts/invert/a|b"), Some(("17", "/data/artifacts/invert/a|b")));
        assert_eq!(queued("17|DependencyNeverSatisfied|/data/artifacts/invert/ab"), None);
        assert_eq!(queued(""), None);
    }

    #[test]
    fn what_is_no_number_is_no_job() {
        assert_eq!(["17\n", "17;west\n"].map(id), [Some("17"); 2]);
        assert_eq!(["", "\n", ";west", "Submitted batch job 17"].map(id), [None; 4]);
    }

    #[test]
    fn a_batch_is_a_script() {
        insta::assert_snapshot!(Slurm.show(&batch()));
    }
}
