//! Image datasets: sources, verification, splits.
//!
//! A [`Source`] says where images come from, a [`SplitSpec`] which of them to take. [`load`] gives
//! the images, [`digest`] identifies what a source would give without decoding it, and [`fetch`]
//! obtains the published datasets. Images are RGB bytes in the order channel, row, column, all of
//! one size.
//!
//! ```text
//! Source ──> Pools (labels, lazily read images) ──> SplitSpec ──> Dataset { train, validation, test }
//! ```
//!
//! Invariant: the same source, split and bytes on disk give the same [`Dataset`], whatever the number
//! of threads, and whether a published dataset is unpacked or still in its archive.

mod archive;
mod checksum;
mod decode;
mod error;
mod fetch;
mod known;
mod parquet_file;
mod parts;
mod pool;
mod raw;
mod resize;
mod sources;
mod split;
mod survey;
mod temporary;

use std::path::Path;

pub use checksum::{Checksum, ChecksumAlgorithm};
pub use error::{DataError, DataErrorKind, UnreadableImage};
pub use fetch::{ArchiveOrigin, Fetched, Trust, fetch};
pub use known::{FetchedFiles, KnownDataset};
pub use resize::{Interpolation, Preparation, Resize};
pub use sources::{
    Cifar, Cifar10, Cifar100, Cifar100Labels, Domain, Idx, ImageFolder, ImageTable, Mat, Npz, Parquet, Source, Stl10,
    Stl10Pool, Synthetic, Webdataset, synthetic,
};
pub use split::{Balance, Chosen, DatasetRole, SplitSpec};
pub use survey::{ImageSurvey, survey};

use hemlock_artifact::Dataset;
use hemlock_stage::few;

/// Folders that images are read from and written to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Folders<'a> {
    /// The data directory, where published datasets lie.
    pub data: Option<&'a Path>,
    /// A folder for files of images that are being made, so that these may be larger than memory. Without it, they are
    /// made in memory.
    pub scratch: Option<&'a Path>,
}

impl<'a> Folders<'a> {
    /// A data directory, and no scratch folder.
    pub fn data(data: &'a Path) -> Self {
        Self { data: Some(data), scratch: None }
    }
}

/// Loads the images that `split` takes from `source`, prepared as `preparation` says. Warns of files and folders that
/// are not part of the dataset.
///
/// `progress` is called with the number of images that were loaded and the total, both 0 until the total is known. If
/// it returns false, loading stops.
/// # Errors
/// - Data is missing or malformed. All unreadable images among the chosen ones are reported in one error.
/// - A split asks for more images than there are, or a parameter is out of its range.
/// - The images do not fit into memory or into the scratch folder, or the file system fails.
/// - [`DataError::Interrupted`] if `progress` returned false.
pub fn load(
    source: &Source,
    preparation: &Preparation,
    split: &SplitSpec,
    folders: Folders,
    progress: &dyn Fn(usize, usize) -> bool,
) -> Result<Dataset, DataError> {
    source.check()?;
    preparation.check()?;
    split.check()?;
    if !progress(0, 0) {
        return Err(DataError::Interrupted);
    }
    let mut pools = source.kind().open(folders)?;
    if let Some(classes) = &split.classes {
        pools = pools.only(classes)?;
    }
    if !pools.skipped.is_empty() {
        let (skipped, count) = (few(pools.skipped.iter().map(|name| format!("`{name}`"))), pools.skipped.len());
        tracing::warn!("{}: {count} files or folders are no part of the dataset: {skipped}", source.name());
    }
    pools.load(source.name(), preparation, split, folders.scratch, progress)
}

/// Returns a BLAKE3 digest, in hex, that identifies the images of `source` without decoding them. It covers the
/// contents of its files and what their names say, or the version and the parameters of a generator. `data` is the data
/// directory.
///
/// # Errors
/// The errors of [`load`], except that contents are not checked.
pub fn digest(source: &Source, data: Option<&Path>) -> Result<String, DataError> {
    source.check()?;
    Ok(source.kind().digest(data)?.to_hex().to_string())
}
