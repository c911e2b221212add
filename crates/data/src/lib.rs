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
pub use fetch::{Fetched, Origin, Trust, fetch};
pub use resize::Filter;
pub use source::{Cifar, Cifar100Labels, Domain, Source, SyntheticSpec};
pub use split::{Chosen, Role, SplitSpec};
pub use survey::{Survey, survey};

use hemlock_artifact::Dataset;
use hemlock_stage::few;
use pool::Pools;

/// Loads the images that `split` takes from `source`.
///
/// `data_root` is the directory of the published datasets; only those need it. `progress` hears
/// `(images done, images in all)`, both 0 until the number is known, and returns false to stop.
///
/// # Errors
/// Missing or malformed data, a split that asks for more than there is, parameters out of range,
/// file system failures and [`DataError::Interrupted`]. Of an image folder, all unreadable files
/// among the chosen ones are reported at once. What lies in it and is no part of it is warned of.
pub fn load(
    source: &Source,
    split: &SplitSpec,
    data_root: Option<&Path>,
    progress: &dyn Fn(usize, usize) -> bool,
) -> Result<Dataset, DataError> {
    source.check()?;
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
    pools.load(source.name(), split, progress)
}

/// A BLAKE3 digest, in hex, of what `source` gives: the contents of record and class name files and
/// the choice of label, the names and contents of image files and how they are scaled, or a
/// generator's version and parameters.
///
/// # Errors
/// As [`load`], except that contents are not checked.
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
        Source::ImageFolder { path, size, filter } => folder::digest(path, *size, *filter)?,
        Source::Synthetic(spec) => synthetic::digest(spec),
    };
    Ok(hash.to_hex().to_string())
}

fn open(source: &Source, data_root: Option<&Path>) -> Result<Pools, DataError> {
    match source {
        Source::Cifar10 => cifar::open_cifar10(data_root),
        Source::Cifar100 { labels } => cifar::open_cifar100(*labels, data_root),
        Source::ImageFolder { path, size, filter } => folder::open(path, *size, *filter),
        Source::Synthetic(spec) => Ok(synthetic::open(spec)),
    }
}
