//! The folder that an export writes into, with a list of what exports wrote there.

use super::ExportError;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

/// File name of the list.
const LIST: &str = ".exported.json";
/// Suffix of unfinished files. Their names begin with a dot.
const PART: &str = ".part";

/// What exports wrote into a folder: paths of files in it, by the stage and format of the export.
#[derive(Default, Serialize, Deserialize)]
#[serde(transparent)]
struct Written(BTreeMap<String, BTreeSet<String>>);

/// A folder that one export writes into. The export replaces what an earlier export of the same stage and format wrote,
/// removes the rest of that, and touches nothing else.
pub(super) struct Folder<'a> {
    root: &'a Path,
    of: String,
    written: Written,
    /// Files that this export has written so far.
    files: BTreeSet<String>,
    /// Folders in it that were prepared for writing.
    ready: BTreeSet<PathBuf>,
}

impl<'a> Folder<'a> {
    /// Opens the folder for an export of a stage and format, such as `features, safetensors`. It creates nothing yet.
    pub(super) fn open(root: &'a Path, of: String) -> Result<Self, ExportError> {
        let path = root.join(LIST);
        let written = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| ExportError::List { path, what: e.to_string() })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Written::default(),
            Err(e) => return Err(failed(&path, e)),
        };
        Ok(Self { root, of, written, files: BTreeSet::new(), ready: BTreeSet::new() })
    }

    /// Adds files to the list before they are written, and checks that none of them overwrites a file that is not from
    /// an earlier export of the same stage and format. If one would, nothing is claimed.
    pub(super) fn claim(&mut self, names: impl IntoIterator<Item = String>) -> Result<(), ExportError> {
        let own = self.written.0.get(&self.of).cloned().unwrap_or_default();
        let names: BTreeSet<String> = names.into_iter().collect();
        for name in names.difference(&own) {
            let path = self.root.join(name);
            if fs::symlink_metadata(&path).is_ok() {
                let by = self.written.0.iter().find(|(_, files)| files.contains(name)).map(|(of, _)| of.clone());
                return Err(ExportError::Taken { path, by });
            }
        }
        // Files are listed before they exist, so that the files of a killed export are known.
        if !names.is_subset(&own) {
            self.list(own.into_iter().chain(names).collect())?;
        }
        Ok(())
    }

    /// Writes a file that was claimed. It is written under another name and renamed, so that no unfinished file has its
    /// name.
    pub(super) fn write(&mut self, name: String, bytes: &[u8]) -> Result<(), ExportError> {
        let path = self.root.join(&name);
        self.prepare(path.parent().unwrap_or(self.root))?;
        write(&path, bytes)?;
        self.files.insert(name);
        Ok(())
    }

    /// Removes the files of an earlier export that were not replaced, and returns the paths of the files that this
    /// export wrote.
    pub(super) fn finish(mut self) -> Result<Vec<PathBuf>, ExportError> {
        let stale: Vec<String> =
            self.written.0.get(&self.of).map(|own| own.difference(&self.files).cloned().collect()).unwrap_or_default();
        for name in &stale {
            let path = self.root.join(name);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(&path, e)),
                _ => {}
            }
            // Removes folders that are empty now, the innermost first.
            for folder in path.ancestors().skip(1).take_while(|folder| *folder != self.root) {
                if fs::remove_dir(folder).is_err() {
                    break;
                }
            }
        }
        let files = std::mem::take(&mut self.files);
        let paths = files.iter().map(|name| self.root.join(name)).collect();
        self.list(files)?;
        Ok(paths)
    }

    fn list(&mut self, files: BTreeSet<String>) -> Result<(), ExportError> {
        self.prepare(self.root)?;
        self.written.0.insert(self.of.clone(), files);
        let path = self.root.join(LIST);
        let list = serde_json::to_vec_pretty(&self.written).map_err(|e| failed(&path, e))?;
        write(&path, &list)
    }

    /// Creates a folder, and removes unfinished files of killed exports from it.
    fn prepare(&mut self, dir: &Path) -> Result<(), ExportError> {
        if !self.ready.insert(dir.to_owned()) {
            return Ok(());
        }
        fs::create_dir_all(dir).map_err(|e| failed(dir, e))?;
        for entry in fs::read_dir(dir).map_err(|e| failed(dir, e))?.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            // A process that is still writing holds a lock on its file.
            if name.starts_with('.')
                && name.ends_with(PART)
                && entry.file_type().is_ok_and(|found| found.is_file())
                && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok())
            {
                fs::remove_file(entry.path()).map_err(|e| failed(&entry.path(), e))?;
            }
        }
        Ok(())
    }
}

pub(super) fn failed(path: &Path, what: impl ToString) -> ExportError {
    ExportError::Write { path: path.to_owned(), what: what.to_string() }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), ExportError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let part = path.with_file_name(format!(".{name}.{}{PART}", std::process::id()));
    let written = || {
        let mut file = File::create(&part)?;
        file.lock()?;
        // Another export may have removed the file as a leftover before it was locked.
        if !part.exists() {
            file = File::create(&part)?;
            file.lock()?;
        }
        file.write_all(bytes)?;
        fs::rename(&part, path)
    };
    written().map_err(|e| {
        // An unfinished file is of no use. If it cannot be removed, the next export does it.
        let _ = fs::remove_file(&part);
        failed(path, e)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All files in a folder except the list.
    fn names(dir: &Path) -> Vec<String> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir).unwrap().map(|e| e.unwrap()) {
            let name = entry.file_name().into_string().unwrap();
            match entry.path().is_dir() {
                true => names.extend(self::names(&entry.path()).into_iter().map(|inner| format!("{name}/{inner}"))),
                false if name == LIST => {}
                false => names.push(name),
            }
        }
        names.sort();
        names
    }

    fn export(root: &Path, of: &str, files: &[&str]) -> Result<usize, ExportError> {
        let mut folder = Folder::open(root, of.to_owned())?;
        folder.claim(files.iter().map(ToString::to_string))?;
        files.iter().try_for_each(|name| folder.write(name.to_string(), of.as_bytes()))?;
        Ok(folder.finish()?.len())
    }

    #[test]
    fn an_export_replaces_its_own_files_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("out");
        assert_eq!(export(&root, "a", &["x", "many/1", "many/2"]).unwrap(), 3);
        assert_eq!(export(&root, "b", &["y", "many/3"]).unwrap(), 2);
        // A smaller export of the same kind leaves nothing of the first one behind.
        assert_eq!(export(&root, "a", &["x", "z"]).unwrap(), 2);
        assert_eq!(names(&root), ["many/3", "x", "y", "z"]);
        let taken = |of: &str, name: &str| export(&root, of, &["new", name]).unwrap_err().to_string();
        assert!(taken("b", "x").contains("the export of a wrote it"), "{}", taken("b", "x"));
        fs::write(root.join("mine"), b"mine").unwrap();
        assert!(taken("a", "mine").contains("no export is known"), "{}", taken("a", "mine"));
        assert_eq!(names(&root), ["many/3", "mine", "x", "y", "z"]);
        assert_eq!(fs::read(root.join("mine")).unwrap(), b"mine");
        fs::write(root.join(LIST), b"{").unwrap();
        assert!(taken("a", "x").contains(LIST));
    }

    #[test]
    fn a_killed_export_is_finished_or_replaced_by_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut killed = Folder::open(dir.path(), "a".to_owned()).unwrap();
        killed.claim(["x".to_owned(), "y".to_owned()]).unwrap();
        killed.write("x".to_owned(), b"1").unwrap();
        drop(killed);
        assert_eq!(export(dir.path(), "a", &["y", "z"]).unwrap(), 2);
        assert_eq!(names(dir.path()), ["y", "z"]);
    }

    #[test]
    fn what_killed_exports_left_is_removed_and_what_others_write_stays() {
        let dir = tempfile::tempdir().unwrap();
        let part = |name: &str| dir.path().join(name);
        for name in [".test.safetensors.1.part", ".busy.png.2.part", "own.part", ".hidden"] {
            fs::write(part(name), b"half").unwrap();
        }
        let busy = File::open(part(".busy.png.2.part")).unwrap();
        busy.lock().unwrap();
        assert_eq!(export(dir.path(), "a", &["a.csv"]).unwrap(), 1);
        assert_eq!(names(dir.path()), [".busy.png.2.part", ".hidden", "a.csv", "own.part"]);
        assert_eq!(fs::read(part("a.csv")).unwrap(), b"a");
        assert!(write(&part("none/a.csv"), b"").is_err());
        assert_eq!(names(dir.path()), [".busy.png.2.part", ".hidden", "a.csv", "own.part"]);
    }
}
