//! What can go wrong with a dataset, in words that say what to do next.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use hemlock_stage::{ErrorKind, ParamError, StageError};

use crate::source::Cifar;

/// How a caller may react to a [`DataError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataErrorKind {
    /// The data isn't there: fetch it or name where it lies.
    Missing,
    /// The data or the request is wrong: trying again gives the same answer.
    Invalid,
    /// The file system or the network failed: trying again may help.
    Io,
    /// The caller's progress callback asked to stop.
    Interrupted,
}

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A published dataset was asked for without saying where data lies.
    #[error(
        "{dataset} is read from a data directory and none was given: set HEMLOCK_DATA or pass \
         --data DIR (`hemlock data {dataset}` fetches the dataset)"
    )]
    NoDataRoot {
        /// The dataset that was asked for.
        dataset: Cifar,
    },

    /// A published dataset is neither unpacked nor archived under the data directory.
    #[error(
        "{dataset} not found: looked for {}/ and {} in {}; run `hemlock data {dataset}` to get it, \
         or set HEMLOCK_DATA (or pass --data) to the directory that holds it",
        .dataset.folder(), .dataset.archive(), .root.display()
    )]
    DatasetMissing {
        /// The dataset that was asked for.
        dataset: Cifar,
        /// The data directory.
        root: PathBuf,
    },

    /// One file of a dataset isn't there.
    #[error("{file} is missing from {}: the dataset is incomplete, remove it and fetch it again", .place.display())]
    FileMissing {
        /// The file's name.
        file: String,
        /// The folder or archive that should hold it.
        place: PathBuf,
    },

    /// A record file ends within a record.
    #[error(
        "{} is truncated: {bytes} bytes is no multiple of the record size, {record} bytes; \
         remove the dataset and fetch it again", .file.display()
    )]
    Truncated {
        /// The record file.
        file: PathBuf,
        /// Its length in bytes.
        bytes: usize,
        /// The length of a record in bytes.
        record: usize,
    },

    /// A training batch is shorter than the others.
    #[error(
        "{} is truncated: {bytes} bytes, and the longest batch has {expected}; \
         remove the dataset and fetch it again", .file.display()
    )]
    UnequalBatch {
        /// The record file.
        file: PathBuf,
        /// Its length in bytes.
        bytes: usize,
        /// The length of the longest batch in bytes.
        expected: usize,
    },

    /// A record file holds nothing.
    #[error("{} holds no records: remove the dataset and fetch it again", .file.display())]
    NoRecords {
        /// The record file.
        file: PathBuf,
    },

    /// A record carries a label that the dataset doesn't have.
    #[error(
        "{}: record {record} has {field} {value}, allowed is 0 to {max}; \
         remove the dataset and fetch it again", .file.display()
    )]
    LabelRange {
        /// The record file.
        file: PathBuf,
        /// The record's index in that file, from 0.
        record: usize,
        /// Which label of the record.
        field: &'static str,
        /// The label found.
        value: u8,
        /// The largest label allowed.
        max: usize,
    },

    /// A list of class names has the wrong length.
    #[error("{} names {found} classes, expected {expected}", .file.display())]
    ClassNames {
        /// The text file, one class name a line.
        file: PathBuf,
        /// The dataset's number of classes.
        expected: usize,
        /// The number of names found.
        found: usize,
    },

    /// An archive can't be read as a gzipped tar.
    #[error("{} is no readable .tar.gz archive: check the file or fetch it again", .archive.display())]
    Archive {
        /// The archive.
        archive: PathBuf,
        /// What the reader met.
        source: io::Error,
    },

    /// An archive holds an entry that has no place in a dataset.
    #[error("{} holds the entry `{entry}`, which {reason}: refusing to unpack it", .archive.display())]
    UnsafeEntry {
        /// The archive.
        archive: PathBuf,
        /// The entry's path as stored.
        entry: String,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// Another version of a dataset, or another dataset.
    #[error(
        "{} holds {what}, which is not read as {dataset}: get the binary version, {} (`hemlock data {dataset}` downloads it)",
        .place.display(), .dataset.archive()
    )]
    OtherVersion {
        /// The archive, or the folder.
        place: PathBuf,
        /// What it holds.
        what: &'static str,
        /// The dataset that was asked for.
        dataset: Cifar,
    },

    /// Something that was fetched isn't what was expected.
    #[error(
        "{what} has the checksum {found}; expected {expected}. If you trust it, name its checksum \
         (`--digest`) or take any (`--trust`)"
    )]
    ChecksumMismatch {
        /// What was fetched: a path or a URL.
        what: String,
        /// The checksum found, `algorithm:hex`.
        found: String,
        /// What would have been accepted.
        expected: String,
    },

    /// Text that should be a checksum isn't one.
    #[error(
        "`{text}` is no checksum: write sha256:<64 hex digits>, md5:<32 hex digits> or \
         blake3:<64 hex digits>"
    )]
    ChecksumSyntax {
        /// The text.
        text: String,
    },

    /// A download failed.
    #[error("downloading {url} failed: {reason}; try again, or fetch the file another way and pass its path")]
    Download {
        /// The address.
        url: String,
        /// What the server or the network answered.
        reason: String,
    },

    /// A folder isn't laid out as an image dataset.
    #[error(
        "{} is no image folder: {reason}; expected images in DIR/train/CLASS/ and DIR/test/CLASS/ (and DIR/val/CLASS/), \
         or in DIR/CLASS/", .path.display()
    )]
    FolderLayout {
        /// The folder in question.
        path: PathBuf,
        /// What was found instead.
        reason: String,
    },

    /// Image files that can't be decoded: all of them, not just the first.
    #[error("{} of the image files can't be read; repair, convert or remove them:{}", .0.len(), list(.0))]
    UnreadableImages(
        /// The files in the order of the dataset.
        Vec<UnreadableImage>,
    ),

    /// A split asks for more images of a class than there are.
    #[error("asks for {asked} images of class `{class}`, and {available} are available: lower `{split}`")]
    Shortage {
        /// `train`, `validation` or `test`.
        split: &'static str,
        /// The class's name.
        class: String,
        /// Images asked of the class.
        asked: usize,
        /// Images of the class that other splits leave.
        available: usize,
    },

    /// A class was asked for that the source does not have.
    #[error("names the class `{class}`, which the source does not have; expected some of {known}")]
    UnknownClass {
        /// The name.
        class: String,
        /// Names that the source has.
        known: String,
    },

    /// A parameter has a value that makes no sense.
    #[error("{field} is {value}, expected {expected}")]
    Parameter {
        /// The parameter's name as written in a spec.
        field: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        expected: &'static str,
    },

    /// The images do not fit into memory.
    #[error(transparent)]
    TooLarge(#[from] ParamError),

    /// The file system failed.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was tried: `read`, `create`, ….
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },

    /// The progress callback asked to stop; nothing was left behind.
    #[error("interrupted")]
    Interrupted,
}

/// An image file that can't be decoded, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableImage {
    /// The file.
    pub path: PathBuf,
    /// The decoder's or the file system's words.
    pub reason: String,
}

impl DataError {
    /// How a caller may react.
    pub fn kind(&self) -> DataErrorKind {
        match self {
            Self::NoDataRoot { .. } | Self::DatasetMissing { .. } | Self::FileMissing { .. } => DataErrorKind::Missing,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => DataErrorKind::Missing,
            Self::Io { .. } | Self::Download { .. } => DataErrorKind::Io,
            Self::Interrupted => DataErrorKind::Interrupted,
            _ => DataErrorKind::Invalid,
        }
    }

    /// The same error of what was fetched from an address.
    pub(crate) fn at(self, url: &str) -> Self {
        match self {
            Self::OtherVersion { what, dataset, .. } => Self::OtherVersion { place: url.into(), what, dataset },
            other => other,
        }
    }

    /// For `map_err`: what was tried on which path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_path_buf(), source }
    }
}

/// Files that a message shows of many.
const SHOWN: usize = 4;

/// The first files of a list, a line each, and how many more there are.
fn list(files: &[UnreadableImage]) -> String {
    let mut text = String::new();
    for UnreadableImage { path, reason } in files.iter().take(SHOWN) {
        // Writing to a String never fails.
        let _ = write!(text, "\n  {}: {reason}", path.display());
    }
    match files.len().saturating_sub(SHOWN) {
        0 => text,
        more => format!("{text}\n  and {more} more"),
    }
}

impl From<DataError> for StageError {
    fn from(e: DataError) -> Self {
        if let DataError::TooLarge(e) = e {
            return e.into();
        }
        match (e.kind(), &e) {
            (DataErrorKind::Interrupted, _) => Self::interrupted(),
            (_, DataError::Shortage { split, .. }) => ParamError::new(*split, e.to_string()).into(),
            (_, DataError::UnknownClass { .. }) => ParamError::new("classes", e.to_string()).into(),
            (DataErrorKind::Missing | DataErrorKind::Invalid | DataErrorKind::Io, _) => Self::new(ErrorKind::Data, e),
        }
    }
}
