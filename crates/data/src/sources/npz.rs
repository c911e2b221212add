//! NumPy's `.npz` files of images and labels.

use std::path::{Path, PathBuf};

use hemlock_arrays::Arrays;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tempfile::tempfile_in;

use super::{Kind, check_path, digest_files, locate};
use crate::parts::{Label, Part, SplitName, pools};
use crate::pool::Pools;
use crate::raw::{Order, RawImages, Shape};
use crate::{DataError, Folders};

/// Parameters of `.npz` files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Npz {
    /// The file, relative to the working directory or to the data directory. Its arrays are `train_images`,
    /// `train_labels`, `val_images`, `val_labels`, `test_images` and `test_labels`, as of MedMNIST; `x_train`,
    /// `y_train`, `x_test` and `y_test`, as of Keras; or `images` and `labels` of one pool. Images are 8-bit, `[n,
    /// height, width]` or `[n, height, width, 3]`; labels are integers, `[n]` or `[n, 1]`.
    pub path: PathBuf,
}

/// A split's arrays of images and of labels.
type Names = (Option<SplitName>, &'static str, &'static str);

/// The names of arrays that are known. The first that the file has are taken.
const KNOWN: [&[Names]; 3] = [
    &[
        (Some(SplitName::Train), "train_images", "train_labels"),
        (Some(SplitName::Validation), "val_images", "val_labels"),
        (Some(SplitName::Test), "test_images", "test_labels"),
    ],
    &[(Some(SplitName::Train), "x_train", "y_train"), (Some(SplitName::Test), "x_test", "y_test")],
    &[(None, "images", "labels")],
];

impl Kind for Npz {
    fn name(&self) -> &'static str {
        "npz"
    }

    fn check(&self) -> Result<(), DataError> {
        check_path(&self.path)
    }

    fn digest(&self, data: Option<&Path>) -> Result<blake3::Hash, DataError> {
        digest_files("hemlock-data npz v1", [(String::new(), locate(&self.path, data).as_path())])
    }

    fn open(&self, folders: Folders) -> Result<Pools, DataError> {
        let path = locate(&self.path, folders.data);
        let mut arrays = Arrays::open(&path)?;
        let known = KNOWN.into_iter().find(|names| names.iter().any(|(_, images, _)| arrays.has(images)));
        // If none of them is there, the error names the first, and what is there instead.
        let known = known.unwrap_or(&KNOWN[0][..1]);
        let (mut parts, mut size) = (Vec::new(), None);
        for (split, images, labels) in known {
            if !arrays.has(images) && *split == Some(SplitName::Validation) {
                continue;
            }
            let (part, shape) = part(&mut arrays, *split, [images, labels], &path, folders.scratch)?;
            parts.push(part);
            size = shape.side();
        }
        pools(&path, parts, None, size)
    }
}

/// Opens the images and labels of a split. The images go through a file in the scratch folder if there is one, because
/// an archive gives them in order alone.
fn part(
    arrays: &mut Arrays,
    split: Option<SplitName>,
    [images, labels]: [&'static str; 2],
    path: &Path,
    scratch: Option<&Path>,
) -> Result<(Part, Shape), DataError> {
    let mut bytes = Vec::new();
    let mut file =
        scratch.map(tempfile_in).transpose().map_err(DataError::io("write into", scratch.unwrap_or(path)))?;
    let dims = match &mut file {
        Some(file) => arrays.copy_bytes(images, file)?,
        None => arrays.copy_bytes(images, &mut bytes)?,
    };
    let (n, height, width, channels) = match dims[..] {
        [n, height, width] => (n, height, width, 1),
        [n, height, width, channels] => (n, height, width, channels),
        _ => {
            let reason = format!("has shape {dims:?}; expected [n, height, width] or with 3");
            return Err(arrays.refuse(images, reason).into());
        }
    };
    let shape = Shape { channels, height, width, order: Order::Pixels }.check();
    let shape = shape.map_err(|reason| arrays.refuse(images, reason))?;
    let numbers = arrays.integers(labels)?;
    if numbers.len() != n {
        return Err(arrays.refuse(labels, format!("has {} labels of {n} images", numbers.len())).into());
    }
    let labels = numbers.into_iter().map(Label::Number).collect();
    let place = path.join(images);
    let images = match file {
        Some(file) => RawImages::in_file(shape, file, 0, &place),
        None => RawImages::new(shape, bytes, &place),
    };
    Ok((Part { split, labels, groups: None, images: Box::new(images) }, shape))
}
