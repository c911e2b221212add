//! NumPy's `.npz` files of images and labels.

use std::path::{Path, PathBuf};

use hemlock_arrays::{Arrays, ArraysError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Kind, check_path, digest_files, locate};
use crate::DataError;
use crate::parts::{Label, Part, SplitName, pools};
use crate::pool::Pools;
use crate::raw::{Order, RawImages, Shape};

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

    fn open(&self, data: Option<&Path>) -> Result<Pools, DataError> {
        let path = locate(&self.path, data);
        let mut arrays = Arrays::open(&path)?;
        let known = KNOWN.into_iter().find(|names| names.iter().any(|(_, images, _)| arrays.has(images)));
        // If none of them is there, the error names the first, and what is there instead.
        let known = known.unwrap_or(&KNOWN[0][..1]);
        let (mut parts, mut size) = (Vec::new(), None);
        for (split, images, labels) in known {
            if !arrays.has(images) && *split == Some(SplitName::Validation) {
                continue;
            }
            let (part, shape) = part(&mut arrays, *split, images, labels, &path)?;
            parts.push(part);
            size = shape.side();
        }
        pools(&path, parts, None, size)
    }
}

fn part(
    arrays: &mut Arrays,
    split: Option<SplitName>,
    images: &'static str,
    labels: &'static str,
    path: &Path,
) -> Result<(Part, Shape), ArraysError> {
    let (dims, bytes) = arrays.bytes(images)?;
    let (n, height, width, channels) = match dims[..] {
        [n, height, width] => (n, height, width, 1),
        [n, height, width, channels] => (n, height, width, channels),
        _ => return Err(arrays.refuse(images, format!("has shape {dims:?}; expected [n, height, width] or with 3"))),
    };
    let shape = Shape { channels, height, width, order: Order::Pixels }.check();
    let shape = shape.map_err(|reason| arrays.refuse(images, reason))?;
    let numbers = arrays.integers(labels)?;
    if numbers.len() != n {
        return Err(arrays.refuse(labels, format!("has {} labels of {n} images", numbers.len())));
    }
    let labels = numbers.into_iter().map(Label::Number).collect();
    let images = Box::new(RawImages::new(shape, bytes, &path.join(images)));
    Ok((Part { split, labels, groups: None, images }, shape))
}
