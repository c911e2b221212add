//! What a device computes, beside the processor.

use super::House;
use crate::{exit::Usage, render};
use anyhow::Result;
use hemlock_self_test::{Found, VERSION, checks};
use hemlock_stage::{ErrorKind, Progress as _, StageError, read_file};
use std::{fs, io::ErrorKind::NotFound, path::Path};

impl House<'_> {
    pub(super) fn self_test(&self, filter: Option<&str>, json: bool, output: Option<&Path>) -> Result<()> {
        let device = self.args.device.to_string();
        hemlock_models::device::open(self.args.device).map_err(StageError::from)?;
        let mut checks = checks();
        let names: Vec<String> = checks.iter().map(|check| check.name.clone()).collect();
        checks.retain(|check| filter.is_none_or(|filter| check.name.contains(filter)));
        if checks.is_empty() {
            let filter = filter.unwrap_or_default();
            return Err(Usage(format!(
                "no check has '{filter}' in its name; expected part of one of {}",
                names.join("; ")
            ))
            .into());
        }
        let mut known = output.map(known).transpose()?.unwrap_or_default();
        let bar = self.printer.start(&format!("self-test of {device}"), checks.len() as u64, "checks");
        let mut all: Vec<Found> = Vec::new();
        for (done, check) in checks.iter().enumerate() {
            bar.at(done as u64);
            bar.say(check.name.clone());
            let same = |found: &&Found| {
                found.check == check.name && found.device == device && found.hemlock_version == VERSION
            };
            let found = match known.iter().find(same) {
                Some(found) => found.clone(),
                None => {
                    let found = check.run(&device, self.cancel)?;
                    known.push(found.clone());
                    output.map_or(Ok(()), |path| keep(path, &known))?;
                    found
                }
            };
            if json {
                self.printer.result(&serde_json::to_string(&found)?)?;
            }
            all.push(found);
        }
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
}

/// What a file holds of earlier runs; nothing, where it is not there.
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

/// Writes what was found, whole or not at all.
fn keep(path: &Path, found: &[Found]) -> Result<()> {
    let lines = found.iter().map(|found| Ok(serde_json::to_string(found)? + "\n")).collect::<Result<String>>()?;
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let written = fs::write(&part, lines).and_then(|()| fs::rename(&part, path));
    Ok(written.map_err(|e| StageError::new(ErrorKind::Artifact, format!("cannot write {}: {e}", path.display())))?)
}
