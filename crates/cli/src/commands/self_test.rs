//! The command `self-test`: compares what a device computes with what the processor computes.

use super::App;
use crate::{exit::Usage, render};
use anyhow::Result;
use hemlock_models::device::Backend;
use hemlock_self_test::{Check, Found, VERSION, checks};
use hemlock_stage::{ErrorKind, Progress as _, StageError, read_file};
use rayon::prelude::*;
use std::{
    fs,
    io::ErrorKind::NotFound,
    num::NonZeroUsize,
    path::Path,
    process::{Command as Process, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

impl App<'_> {
    pub(super) fn self_test(
        &self,
        filter: Option<&str>,
        jobs: Option<NonZeroUsize>,
        json: bool,
        output: Option<&Path>,
    ) -> Result<()> {
        let backend = self.args.device;
        let device = backend.to_string();
        hemlock_models::device::open(backend).map_err(StageError::from)?;
        let checks = chosen(filter)?;
        let known = Mutex::new(output.map(known).transpose()?.unwrap_or_default());
        let bar = self.printer.start(&format!("self-test of {device}"), checks.len() as u64, "checks");
        let done = AtomicU64::new(0);
        let jobs = jobs.map_or(if backend == Backend::Flex { 1 } else { 4 }, NonZeroUsize::get).min(checks.len());
        let find = |check: &Check| -> Result<Found> {
            bar.say(check.name.clone());
            let same = |found: &&Found| {
                found.check == check.name && found.device == device && found.hemlock_version == VERSION
            };
            let before = lock(&known).iter().find(same).cloned();
            let found = match before {
                Some(found) => found,
                None => {
                    let found = if jobs > 1 { self.apart(check, &device)? } else { check.run(&device, self.cancel)? };
                    let mut known = lock(&known);
                    known.push(found.clone());
                    output.map_or(Ok(()), |path| keep(path, &known))?;
                    found
                }
            };
            if json {
                self.printer.result(&serde_json::to_string(&found)?)?;
            }
            bar.at(done.fetch_add(1, Ordering::Relaxed) + 1);
            Ok(found)
        };
        let all: Vec<Found> = if jobs > 1 {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(jobs).build()?;
            pool.install(|| checks.par_iter().with_max_len(1).map(find).collect::<Result<_>>())?
        } else {
            checks.iter().map(find).collect::<Result<_>>()?
        };
        drop(bar);
        if !json {
            self.printer.result(&render::self_test(&all))?;
        }
        match all.iter().filter(|found| !found.passed()).count() {
            0 => Ok(()),
            failed => {
                let message = format!("{device} failed {failed} of {} checks", all.len());
                Err(StageError::new(ErrorKind::Numeric, message).into())
            }
        }
    }

    /// Runs a check in a process of its own. If the process ends without a result, the check has failed.
    fn apart(&self, check: &Check, device: &str) -> Result<Found> {
        let mut process = Process::new(self.program()?);
        process.args(["--device", device, "--quiet", "self-test", "--json", "--jobs", "1"]).arg(&check.name);
        // Compiled kernels are cached, but not their timings, which are disturbed by other checks that run at the same
        // time.
        process.env("CUBECL_AUTOTUNE_CACHE", "0");
        let ended = process.stdin(Stdio::null()).output()?;
        if self.cancel.requested() {
            return Err(StageError::interrupted().into());
        }
        Ok(serde_json::from_slice(&ended.stdout).unwrap_or_else(|_| {
            let said = String::from_utf8_lossy(&ended.stderr);
            let last = said.lines().last().unwrap_or("it said nothing");
            check.failed(device, format!("its process ended with {}: {last}", ended.status))
        }))
    }
}

fn lock(known: &Mutex<Vec<Found>>) -> MutexGuard<'_, Vec<Found>> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the check of the given name or, if there is none, all checks whose names contain it.
fn chosen(filter: Option<&str>) -> Result<Vec<Check>> {
    let all = checks();
    let Some(filter) = filter else { return Ok(all) };
    let names: Vec<String> = all.iter().map(|check| check.name.clone()).collect();
    let exact = names.iter().any(|name| name == filter);
    let is = |check: &Check| if exact { check.name == filter } else { check.name.contains(filter) };
    let chosen: Vec<Check> = all.into_iter().filter(is).collect();
    if chosen.is_empty() {
        let names = names.join("; ");
        return Err(Usage(format!("no check has '{filter}' in its name; expected part of one of {names}")).into());
    }
    Ok(chosen)
}

/// Reads the results of earlier runs from a file. Returns none if the file does not exist.
fn known(path: &Path) -> Result<Vec<Found>> {
    let wrong = |what: String| {
        let what = format!("{}: {what}; expected what an earlier self-test wrote, or no file", path.display());
        StageError::new(ErrorKind::Artifact, what)
    };
    let bytes = match read_file(path, 16) {
        Err(e) if e.kind() == NotFound => return Ok(Vec::new()),
        read => read.map_err(|e| wrong(format!("cannot be read: {e}")))?,
    };
    let lines = bytes.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.trim_ascii().is_empty());
    let read = |(i, line): (usize, &[u8])| {
        serde_json::from_slice(line).map_err(|e| wrong(format!("line {}: {e}", i + 1)).into())
    };
    lines.map(read).collect()
}

/// Writes results to a file, completely or not at all.
fn keep(path: &Path, found: &[Found]) -> Result<()> {
    let lines = found.iter().map(|found| Ok(serde_json::to_string(found)? + "\n")).collect::<Result<String>>()?;
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let written = fs::write(&part, lines).and_then(|()| fs::rename(&part, path));
    Ok(written.map_err(|e| StageError::new(ErrorKind::Artifact, format!("cannot write {}: {e}", path.display())))?)
}
