//! The errors of this crate. Their messages say what to do next.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use hemlock_stage::{ErrorKind, MESSAGE, ParamError, StageError, short};

use hemlock_arrays::ArraysError;
use hemlock_store::StoreError;

use crate::sources::Cifar;

/// How a caller may react to a [`DataError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataErrorKind {
    /// The data is not there. The user has to fetch it, or to say where it is.
    Missing,
    /// The data or the request is wrong. Trying again gives the same error.
    Invalid,
    /// The file system or the network failed. Trying again may help.
    Io,
    /// The caller's progress callback asked to stop.
    Interrupted,
}

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A published dataset was asked for without a data directory.
    #[error(
        "{dataset} is read from a data directory and none was given: set HEMLOCK_DATA or pass \
         --data DIR (`hemlock data {dataset}` fetches the dataset)"
    )]
    NoDataRoot {
        /// The dataset that was asked for.
        dataset: Cifar,
    },

    /// The data directory has neither the folder nor the archive of a published dataset.
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

    /// A file of a dataset is missing.
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

    /// A record file is empty.
    #[error("{} holds no records: remove the dataset and fetch it again", .file.display())]
    NoRecords {
        /// The record file.
        file: PathBuf,
    },

    /// A record has a label that the dataset does not have.
    #[error(
        "{}: record {record} has {field} {value}, allowed is 0 to {max}; \
         remove the dataset and fetch it again", .file.display()
    )]
    LabelRange {
        /// The record file.
        file: PathBuf,
        /// The record's index in that file, from 0.
        record: usize,
        /// The name of the label within the record.
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

    /// An archive cannot be read as a gzipped tar file.
    #[error("{} is no readable .tar.gz archive: check the file or fetch it again", .archive.display())]
    Archive {
        /// The archive.
        archive: PathBuf,
        /// The error of the reader.
        source: io::Error,
    },

    /// An archive has an entry that does not belong in a dataset.
    #[error("{} holds the entry `{entry}`, which {reason}: refusing to unpack it", .archive.display())]
    UnsafeEntry {
        /// The archive.
        archive: PathBuf,
        /// The entry's path as stored.
        entry: String,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// A place holds another version of the dataset, or another dataset.
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

    /// Fetched data does not have the expected checksum.
    #[error(
        "{what} has the checksum {found}; expected {expected}. If you trust it, name its checksum \
         (`--digest`) or take any (`--trust`)"
    )]
    ChecksumMismatch {
        /// What was fetched: a path or a URL.
        what: String,
        /// The checksum found, `algorithm:hex`.
        found: String,
        /// The checksums that would have been accepted.
        expected: String,
    },

    /// A text is not a checksum.
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

    /// A folder is not laid out as an image dataset.
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

    /// A file or folder does not have the layout of its kind of source.
    #[error("{} {reason}", .path.display())]
    Layout {
        /// The file or folder.
        path: PathBuf,
        /// What it has instead, as a predicate.
        reason: String,
    },

    /// A file is damaged, or of another format.
    #[error("{} is no {what} that can be read: {}", .file.display(), short(.reason, MESSAGE))]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What it should be.
        what: &'static str,
        /// The reader's reason.
        reason: String,
    },

    /// A file of arrays cannot be used.
    #[error(transparent)]
    Arrays(#[from] ArraysError),

    /// A scratch file cannot be made.
    #[error(transparent)]
    Scratch(#[from] StoreError),

    /// Image files that cannot be decoded: all of those that were read, not just the first.
    #[error("{} of the image files can't be read; repair, convert or remove them:{}", .0.len(), list(.0))]
    UnreadableImages(
        /// The files, in the order of the dataset.
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
        /// Images of the class that the other splits leave.
        available: usize,
    },

    /// A class was asked for that the source does not have.
    #[error("names the class `{class}`, which the source does not have; expected some of {known}")]
    UnknownClass {
        /// The name that was asked for.
        class: String,
        /// The names that the source has, shortened.
        known: String,
    },

    /// A parameter has a value out of its range.
    #[error("{field} is {value}, expected {expected}")]
    Parameter {
        /// The parameter's name as written in a spec.
        field: &'static str,
        /// Its value.
        value: String,
        /// The values that it may have.
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
        /// The system's error.
        source: io::Error,
    },

    /// The progress callback asked to stop; nothing was left behind.
    #[error("interrupted")]
    Interrupted,
}

/// An image file that cannot be decoded, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableImage {
    /// The file.
    pub path: PathBuf,
    /// The error of the decoder or the file system.
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

    /// Replaces the place in an error by the address that the data was fetched from.
    pub(crate) fn at(self, url: &str) -> Self {
        match self {
            Self::OtherVersion { what, dataset, .. } => Self::OtherVersion { place: url.into(), what, dataset },
            other => other,
        }
    }

    /// For `map_err`: a [`DataError::Io`] about `path`; `action` is what failed, such as `read`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_path_buf(), source }
    }
}

/// Number of files that a message shows of a longer list.
const SHOWN: usize = 4;

/// Lists the first files, one per line, and the number of the others.
fn list(files: &[UnreadableImage]) -> String {
    let mut text = String::new();
    for UnreadableImage { path, reason } in files.iter().take(SHOWN) {
        // Writing to a String never fails.
        let _ = write!(text, "\n  {}: {}", path.display(), short(reason, MESSAGE));
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Readers of other formats put what they found into their reasons: here a whole image, of a damaged pickle.
    #[test]
    fn a_readers_reason_is_cut() {
        let reason = format!("expected string, got Bytes({:?})", [200u8; 3072]);
        let damaged = DataError::Damaged { file: "data_batch_1".into(), what: "pickle of CIFAR", reason };
        let message = damaged.to_string();
        assert!(
            message.starts_with("data_batch_1 is no pickle of CIFAR that can be read: expected string"),
            "{message}"
        );
        assert!(message.len() < 1200, "{}", message.len());
    }
}
