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
mod cifar;
mod decode;
mod error;
mod fetch;
mod folder;
mod pool;
mod resize;
mod source;
mod split;
mod survey;
pub mod synthetic;
mod temporary;

use std::path::Path;

pub use checksum::{Checksum, ChecksumAlgorithm};
pub use error::{DataError, DataErrorKind, UnreadableImage};
pub use fetch::{ArchiveOrigin, Fetched, Trust, fetch};
pub use resize::{Interpolation, Preparation, Resize};
pub use source::{Cifar, Cifar100Labels, Domain, Source, SyntheticSpec};
pub use split::{Chosen, DatasetRole, SplitSpec};
pub use survey::{ImageSurvey, survey};

use hemlock_artifact::Dataset;
use hemlock_stage::few;
use pool::Pools;

/// Loads the images that `split` takes from `source`, prepared as `preparation` says. Warns of files and folders in an
/// image folder that are not part of the dataset.
///
/// `data_root` is the directory of the published datasets, which no other source needs. `progress` is called with the
/// number of images that were loaded and the total, both 0 until the total is known. If it returns false, loading
/// stops.
/// # Errors
/// - Data is missing or malformed. All unreadable files among the chosen ones of an image folder are reported in one
///   error.
/// - A split asks for more images than there are, or a parameter is out of its range.
/// - The images do not fit into memory, or the file system fails.
/// - [`DataError::Interrupted`] if `progress` returned false.
pub fn load(
    source: &Source,
    preparation: &Preparation,
    split: &SplitSpec,
    data_root: Option<&Path>,
    progress: &dyn Fn(usize, usize) -> bool,
) -> Result<Dataset, DataError> {
    source.check()?;
    preparation.check()?;
    split.check()?;
    if !progress(0, 0) {
        return Err(DataError::Interrupted);
    }
    let mut pools = open(source, data_root)?;
    if let Some(classes) = &split.classes {
        pools = pools.only(classes)?;
    }
    if !pools.skipped.is_empty() {
        let (skipped, count) = (few(pools.skipped.iter().map(|name| format!("`{name}`"))), pools.skipped.len());
        tracing::warn!("{}: {count} files or folders are no part of the dataset: {skipped}", source.name());
    }
    pools.load(source.name(), preparation, split, progress)
}

/// Returns a BLAKE3 digest, in hex, that identifies the images of `source` without decoding them. It covers
///
/// - for CIFAR: the contents of record files and class name files, and the choice of label;
/// - for an image folder: the names and contents of the image files;
/// - for generated images: the generator's version and parameters.
///
/// # Errors
/// The errors of [`load`], except that contents are not checked.
pub fn digest(source: &Source, data_root: Option<&Path>) -> Result<String, DataError> {
    source.check()?;
    let hash = match source {
        Source::Cifar10 => cifar::digest(Cifar::Cifar10, "label", data_root)?,
        Source::Cifar100 { labels } => {
            let label = match labels {
                Cifar100Labels::Fine => "fine",
                Cifar100Labels::Coarse => "coarse",
            };
            cifar::digest(Cifar::Cifar100, label, data_root)?
        }
        Source::ImageFolder { path } => folder::digest(path)?,
        Source::Synthetic(spec) => synthetic::digest(spec),
    };
    Ok(hash.to_hex().to_string())
}

fn open(source: &Source, data_root: Option<&Path>) -> Result<Pools, DataError> {
    match source {
        Source::Cifar10 => cifar::open_cifar10(data_root),
        Source::Cifar100 { labels } => cifar::open_cifar100(*labels, data_root),
        Source::ImageFolder { path } => folder::open(path),
        Source::Synthetic(spec) => Ok(synthetic::open(spec)),
    }
}
