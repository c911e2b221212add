//! Publishes a page and the files beside it. A file is never seen half-written, and a run that is killed leaves nothing
//! behind for good.
//!
//! All files are first written to a hidden folder beside the page, and then renamed one by one, the page last. The
//! hidden folder contains a file that is locked while its run is alive. The next run removes hidden folders whose lock
//! is free.

use crate::{ReportError, page::RESULTS};
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// The beginning of the name of a hidden folder; the name of the page follows.
const PREFIX: &str = ".hemlock-report-";
/// The name of the locked file in a hidden folder.
const LOCK: &str = "lock";
/// How often a hidden folder is made anew if another run removes it.
const ATTEMPTS: u32 = 100;

/// Writes files in order. `page` is the path of the page, after which the hidden folder is named. Files of earlier
/// reports in the same folders are removed if they are not among `files`.
///
/// No file is renamed before all are written. If a rename fails, the files before it are new and the others are old.
///
/// # Errors
/// A folder cannot be made, or a file cannot be written or renamed.
pub fn publish(page: &Path, files: &[(PathBuf, Vec<u8>)]) -> Result<(), ReportError> {
    let parent = page.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(|e| ReportError::write(parent, e))?;
    let prefix = format!("{PREFIX}{}.", page.file_name().unwrap_or_default().to_string_lossy());
    clear(parent, &prefix);
    let (staging, held) = stage(parent, &prefix)?;
    let staged = |i: usize| staging.path().join(i.to_string());
    for (i, (path, content)) in files.iter().enumerate() {
        let write = || {
            let mut file = File::create(staged(i))?;
            file.write_all(content)?;
            file.sync_all()
        };
        write().map_err(|e| ReportError::write(path, e))?;
    }
    for folder in folders(files) {
        fs::create_dir_all(folder).map_err(|e| ReportError::write(folder, e))?;
    }
    for (i, (path, _)) in files.iter().enumerate() {
        fs::rename(staged(i), path).map_err(|e| ReportError::write(path, e))?;
    }
    folders(files).into_iter().filter(|folder| *folder != parent).for_each(|folder| sweep(folder, files));
    drop(held);
    Ok(())
}

/// Makes a hidden folder, and returns it with its locked file.
fn stage(parent: &Path, prefix: &str) -> Result<(TempDir, File), ReportError> {
    for _ in 0..ATTEMPTS {
        let staging = tempfile::Builder::new().prefix(prefix).tempdir_in(parent);
        let staging = staging.map_err(|e| ReportError::write(parent, e))?;
        let lock = staging.path().join(LOCK);
        let locked = File::create(&lock).and_then(|file| file.lock().map(|()| file));
        // Before the file is locked, another run may take the folder for a leftover and remove it. That run holds the
        // lock meanwhile, so that it is free only after the file is gone.
        match locked {
            Ok(file) if lock.exists() => return Ok((staging, file)),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(ReportError::write(&lock, e)),
        }
    }
    let what = format!("other reports removed the hidden folder {ATTEMPTS} times; write one report at a time here");
    Err(ReportError::write(parent, what))
}

/// The folders of all files, each once.
fn folders(files: &[(PathBuf, Vec<u8>)]) -> Vec<&Path> {
    let mut folders: Vec<&Path> = files.iter().filter_map(|(path, _)| path.parent()).collect();
    folders.retain(|folder| !folder.as_os_str().is_empty());
    folders.sort();
    folders.dedup();
    folders
}

/// The paths in a folder; none if the folder cannot be read.
fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// Removes the hidden folders of runs that were killed. Folders that cannot be removed, or that belong to a run that is
/// alive, stay.
fn clear(parent: &Path, prefix: &str) {
    let hidden = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
    for folder in entries(parent).filter(hidden) {
        // The lock is held until the folder is gone.
        let lock = File::open(folder.join(LOCK));
        let free = match &lock {
            Ok(lock) => lock.try_lock().is_ok(),
            // Either the run was killed before it made its lock, or another run is about to make one. The latter's
            // folder is young.
            Err(e) => e.kind() == io::ErrorKind::NotFound && !young(&folder),
        };
        if free && let Err(e) = fs::remove_dir_all(&folder) {
            tracing::warn!("{} stays behind: {e}", folder.display());
        }
    }
}

/// Whether a folder was made within the last minute.
fn young(folder: &Path) -> bool {
    let made = fs::metadata(folder).and_then(|m| m.modified());
    made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age.as_secs() < 60))
}

/// Removes files of earlier reports from a folder: files that are not among `files`, and that a report wrote (see
/// [`ours`]).
fn sweep(folder: &Path, files: &[(PathBuf, Vec<u8>)]) {
    let stale = entries(folder).filter(|path| !files.iter().any(|(kept, _)| kept == path)).filter(|path| ours(path));
    for path in stale {
        if let Err(e) = fs::remove_file(&path) {
            tracing::warn!("{} is of an earlier report and stays: {e}", path.display());
        }
    }
}

/// Whether a report wrote this file, by its name, or by the mark in a chart. Other people's files are left alone.
fn ours(path: &Path) -> bool {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    match path.extension().and_then(|e| e.to_str()) {
        Some("csv" | "md") => crate::tables::NAMES.iter().any(|name| stem == *name) || stem.starts_with("finding-F"),
        Some("svg") => fs::read_to_string(path).is_ok_and(|text| text.contains(crate::chart::MARK)),
        Some("zst") => path.file_name().is_some_and(|name| name == RESULTS),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            entries(folder).map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_replaced_and_those_of_earlier_pages_removed() {
        let dir = tempfile::tempdir().unwrap();
        let page = dir.path().join("p.html");
        let file = |path: &str, text: &str| (dir.path().join(path), text.as_bytes().to_vec());
        let svg = format!("<svg>{}</svg>", crate::chart::MARK);
        let all = [file("p.tables/noise.csv", "a"), file("p.figures/x.svg", &svg), file("p.html", "1")];
        publish(&page, &all).unwrap();
        assert_eq!(names(dir.path()), ["p.figures", "p.html", "p.tables"]);
        fs::write(dir.path().join("p.figures/mine.svg"), "<svg/>").unwrap();
        fs::write(dir.path().join("p.tables/mine.csv"), "mine").unwrap();
        publish(&page, &[file("p.tables/results.csv", "b"), file("p.figures/y.svg", &svg), file("p.html", "2")])
            .unwrap();
        assert_eq!(names(&dir.path().join("p.tables")), ["mine.csv", "results.csv"]);
        assert_eq!(names(&dir.path().join("p.figures")), ["mine.svg", "y.svg"]);
        assert_eq!(fs::read_to_string(&page).unwrap(), "2");
    }

    #[test]
    fn leftovers_are_removed_unless_their_run_lives() {
        let dir = tempfile::tempdir().unwrap();
        let page = dir.path().join("p.html");
        let left = |name: &str| {
            let folder = dir.path().join(format!("{PREFIX}{name}"));
            fs::create_dir(&folder).unwrap();
            (File::create(folder.join(LOCK)).unwrap(), folder)
        };
        let (killed, gone) = left("p.html.a");
        drop(killed);
        let (living, stays) = left("p.html.b");
        living.lock().unwrap();
        let (_other, others) = left("q.html.a");
        publish(&page, &[(page.clone(), "1".into())]).unwrap();
        assert_eq!((gone.exists(), stays.exists(), others.exists()), (false, true, true));
        assert_eq!(names(dir.path()).iter().filter(|n| n.contains("p.html")).count(), 2);
    }

    /// The old page stays if the new one cannot be written.
    #[test]
    fn the_page_comes_last() {
        let dir = tempfile::tempdir().unwrap();
        let page = dir.path().join("p.html");
        fs::write(&page, "old").unwrap();
        // A file where the folder of tables should be.
        fs::write(dir.path().join("p.tables"), "").unwrap();
        let error = publish(&page, &[(dir.path().join("p.tables/a.csv"), Vec::new()), (page.clone(), "new".into())]);
        assert!(error.unwrap_err().to_string().contains("p.tables"));
        assert_eq!(fs::read_to_string(&page).unwrap(), "old");
        assert_eq!(names(dir.path()), ["p.html", "p.tables"]);
    }

    /// A hidden folder can be made here, but its path leaves no room for the name of a file in it.
    #[cfg(target_os = "linux")]
    #[test]
    fn an_error_that_no_other_run_caused_ends_the_attempts() {
        const LONGEST_PATH: usize = 4095;
        let dir = tempfile::tempdir().unwrap();
        let mut parent = dir.path().to_owned();
        // The name of the hidden folder ends in six random letters.
        let hidden = format!("/{PREFIX}p.html.").len() + 6;
        let length = LONGEST_PATH - LOCK.len() - hidden;
        while parent.as_os_str().len() + 202 < length {
            parent.push("d".repeat(200));
        }
        parent.push("d".repeat(length - parent.as_os_str().len() - 1));
        fs::create_dir_all(&parent).unwrap();
        let page = parent.join("p.html");
        let error = publish(&page, &[(page.clone(), Vec::new())]).unwrap_err().to_string();
        assert!(error.contains("/lock: "), "{error}");
        assert_eq!(names(&parent), [""; 0]);
    }
}
