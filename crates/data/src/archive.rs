//! Reading `.tar.gz` archives without trusting them.

use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use flate2::read::GzDecoder;
use hemlock_stage::open_file;
use tar::{Archive, Entry, EntryType};

use crate::DataError;

/// No published dataset unpacks to more; beyond it an archive reads as cut off.
const MAX_UNPACKED: u64 = 1 << 30;

/// Calls `visit(path, contents)` for each regular file of `archive` whose path is `wanted`, in the
/// archive's order.
///
/// # Errors
/// Unreadable archives, and entries that have no place in a dataset, wanted or not: links, devices,
/// and paths that would leave the folder that they are unpacked in.
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
    // The checksum of the compressed data comes last.
    io::copy(&mut tar.into_inner(), &mut io::sink()).map_err(broken)?;
    Ok(())
}

/// The folder that `archive` unpacks to: the first name in the path of its first file. None where it cannot be read.
pub(crate) fn top_folder(archive: &Path) -> Option<String> {
    /// A first file begins no later.
    const BEGINNING: u64 = 1 << 20;
    let file = open_file(archive).ok()?;
    let mut tar = Archive::new(GzDecoder::new(file).take(BEGINNING));
    let path = tar.entries().ok()?.map_while(Result::ok).find_map(|entry| {
        let path = safe_path(&entry).ok()?;
        (path.components().count() > 0).then_some(path)
    })?;
    Some(path.components().next()?.as_os_str().to_string_lossy().into_owned())
}

/// The entry's path without `.` components, or why it is refused.
fn safe_path<R: Read>(entry: &Entry<'_, R>) -> Result<PathBuf, &'static str> {
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
