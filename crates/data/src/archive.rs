//! Reading `.tar.gz` archives without trusting them.

use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use flate2::read::GzDecoder;
use hemlock_stage::open_file;
use tar::{Archive, Entry, EntryType};

use crate::DataError;

/// Largest unpacked size of an archive, in bytes; an archive reads as cut off beyond it. No published dataset is
/// larger.
const MAX_UNPACKED: u64 = 1 << 30;

/// Calls `visit(path, contents)` for each regular file of `archive` whose path is `wanted`, in the
/// archive's order.
///
/// The archive cannot be read, or has an entry that does not belong in a dataset: a link, a device, or a path that
/// would leave the folder that it is unpacked in. Entries that are not wanted are checked as well.
pub(crate) fn each_file(
    archive: &Path,
    wanted: impl Fn(&Path) -> bool,
    mut visit: impl FnMut(&Path, Vec<u8>) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let broken = |source| DataError::Archive { archive: archive.to_path_buf(), source };
    let file = open_file(archive).map_err(DataError::io("open", archive))?;
    let mut tar = Archive::new(GzDecoder::new(file).take(MAX_UNPACKED));
    for entry in tar.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let path = safe_path(&entry).map_err(|reason| DataError::UnsafeEntry {
            archive: archive.to_path_buf(),
            entry: String::from_utf8_lossy(&entry.path_bytes()).into_owned(),
            reason,
        })?;
        if entry.header().entry_type() == EntryType::Regular && wanted(&path) {
            let mut contents = Vec::new();
            entry.read_to_end(&mut contents).map_err(broken)?;
            visit(&path, contents)?;
        }
    }
    // The checksum of the compressed data is at the end of the file, so that only reading all of it checks it.
    io::copy(&mut tar.into_inner(), &mut io::sink()).map_err(broken)?;
    Ok(())
}

/// Returns the name of the folder that `archive` unpacks to: the first component of the path of its first entry; `None`
/// if the archive cannot be read.
pub(crate) fn top_folder(archive: &Path) -> Option<String> {
    /// Number of bytes that are searched for the first entry.
    const BEGINNING: u64 = 1 << 20;
    let file = open_file(archive).ok()?;
    let mut tar = Archive::new(GzDecoder::new(file).take(BEGINNING));
    let path = tar.entries().ok()?.map_while(Result::ok).find_map(|entry| {
        let path = safe_path(&entry).ok()?;
        (path.components().count() > 0).then_some(path)
    })?;
    Some(path.components().next()?.as_os_str().to_string_lossy().into_owned())
}

/// Returns the entry's path without `.` components, or why the entry is refused.
pub(crate) fn safe_path<R: Read>(entry: &Entry<'_, R>) -> Result<PathBuf, &'static str> {
    match entry.header().entry_type() {
        EntryType::Regular | EntryType::Directory | EntryType::XGlobalHeader => {}
        EntryType::Symlink | EntryType::Link => return Err("is a link"),
        _ => return Err("is neither a file nor a folder"),
    }
    let path = entry.path().map_err(|_| "has an unreadable name")?;
    let mut safe = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => safe.push(name),
            Component::CurDir => {}
            Component::ParentDir => return Err("would leave its folder by `..`"),
            Component::RootDir | Component::Prefix(_) => return Err("has an absolute path"),
        }
    }
    Ok(safe)
}
