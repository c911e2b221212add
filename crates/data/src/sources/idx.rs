//! MNIST's format IDX: a header of big-endian numbers, and bytes.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use hemlock_stage::open_file;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Kind, check_path, digest_files, file_name, files_in, has_ending, locate};
use crate::parts::{Label, Part, SplitName, pools};
use crate::pool::Pools;
use crate::raw::{Order, RawImages, Shape};
use crate::{DataError, Folders};

/// Parameters of IDX files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Idx {
    /// The folder of `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and
    /// `t10k-labels-idx1-ubyte`, relative to the working directory or to the data directory. Each may end in `.gz`.
    pub path: PathBuf,
    /// What names of files begin with before `train` and `t10k` (or `test`), as `emnist-letters-`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
}

/// The files of a split.
struct Files {
    split: SplitName,
    images: PathBuf,
    labels: PathBuf,
}

impl Idx {
    fn files(&self, data: Option<&Path>) -> Result<Vec<Files>, DataError> {
        let folder = locate(&self.path, data);
        // torchvision unpacks to a folder of this name.
        let folder = if folder.join("raw").is_dir() { folder.join("raw") } else { folder };
        let names = files_in(&folder)?;
        let find = |split: &str, what: &str| {
            let begins = format!("{}{split}-{what}", self.prefix);
            let mut found = names.iter().filter(|path| file_name(path).starts_with(&begins));
            // Of a file and its archive, the file comes first.
            found.next().cloned()
        };
        let mut files = Vec::new();
        for (split, begins) in [(SplitName::Train, "train"), (SplitName::Test, "t10k"), (SplitName::Test, "test")] {
            match (find(begins, "images"), find(begins, "labels")) {
                (Some(images), Some(labels)) => files.push(Files { split, images, labels }),
                (None, None) => {}
                _ => {
                    let reason = format!("has images or labels of `{}{begins}` without the others", self.prefix);
                    return Err(DataError::Layout { path: folder, reason });
                }
            }
        }
        if !files.iter().any(|files| files.split == SplitName::Train) {
            let reason = format!("has no `{0}train-images…` and `{0}train-labels…` of the format IDX", self.prefix);
            return Err(DataError::Layout { path: folder, reason });
        }
        Ok(files)
    }
}

impl Kind for Idx {
    fn name(&self) -> &'static str {
        "idx"
    }

    fn check(&self) -> Result<(), DataError> {
        check_path(&self.path)
    }

    fn digest(&self, data: Option<&Path>) -> Result<blake3::Hash, DataError> {
        let files = self.files(data)?;
        let paths = files.iter().flat_map(|files| [&files.images, &files.labels]);
        digest_files("hemlock-data idx v1", paths.map(|path| (file_name(path), path.as_path())))
    }

    fn open(&self, folders: Folders) -> Result<Pools, DataError> {
        let mut parts = Vec::new();
        let mut size = None;
        for Files { split, images, labels } in self.files(folders.data)? {
            let (dims, bytes) = read(&images)?;
            let wrong = |reason| damaged(&images, reason);
            let (height, width, channels) = match dims[..] {
                [_, height, width] => (height, width, 1),
                [_, height, width, channels] => (height, width, channels),
                _ => return Err(wrong(format!("it has the shape {dims:?}; expected [n, height, width]"))),
            };
            let shape = Shape { channels, height, width, order: Order::Pixels }.check().map_err(wrong)?;
            let (label_dims, numbers) = read(&labels)?;
            if label_dims != [dims[0]] {
                let reason = format!("it has the shape {label_dims:?}, and there are {} images", dims[0]);
                return Err(damaged(&labels, reason));
            }
            size = shape.side();
            parts.push(Part {
                split: Some(split),
                labels: numbers.into_iter().map(|label| Label::Number(label.into())).collect(),
                groups: None,
                images: Box::new(RawImages::new(shape, bytes, &images)),
            });
        }
        pools(&locate(&self.path, folders.data), parts, None, size)
    }
}

fn damaged(file: &Path, reason: String) -> DataError {
    DataError::Damaged { file: file.to_path_buf(), what: "file of the format IDX", reason }
}

/// Reads the shape of an array of bytes, and its bytes.
fn read(path: &Path) -> Result<(Vec<usize>, Vec<u8>), DataError> {
    let file = open_file(path).map_err(DataError::io("read", path))?;
    let read = if has_ending(path, "gz") { read_array(&mut GzDecoder::new(file)) } else { read_array(&mut { file }) };
    read.map_err(|error| damaged(path, error.to_string()))
}

fn read_array(file: &mut impl Read) -> io::Result<(Vec<usize>, Vec<u8>)> {
    let wrong = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
    let mut magic = [0; 4];
    file.read_exact(&mut magic)?;
    let [0, 0, 8, axes @ 1..=4] = magic else {
        return Err(wrong(format!("it begins with {magic:?}; expected 0, 0, 8 for bytes, and the number of axes")));
    };
    let mut dims = Vec::new();
    for _ in 0..axes {
        let mut length = [0; 4];
        file.read_exact(&mut length)?;
        dims.push(u32::from_be_bytes(length) as usize);
    }
    let expected = dims.iter().try_fold(1usize, |all, n| all.checked_mul(*n));
    let expected = expected.ok_or_else(|| wrong(format!("its shape {dims:?} is too large")))?;
    let mut bytes = Vec::new();
    // One byte more shows that there are too many.
    file.take((expected as u64).saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() != expected {
        let more = if bytes.len() > expected { "more" } else { &bytes.len().to_string() };
        return Err(wrong(format!(
            "it has {more} bytes after its header; expected {expected}, for the shape {dims:?}"
        )));
    }
    Ok((dims, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_read_whole_or_refused() {
        let array = [&[0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3][..], &[1, 2, 3, 4, 5, 6]].concat();
        assert_eq!(read_array(&mut &array[..]).unwrap(), (vec![2, 3], vec![1, 2, 3, 4, 5, 6]));
        for cut in 0..array.len() {
            assert!(read_array(&mut &array[..cut]).is_err(), "{cut}");
        }
        let more = [&array[..], &[7]].concat();
        assert!(read_array(&mut &more[..]).unwrap_err().to_string().starts_with("it has more bytes"));
        assert!(read_array(&mut &[0, 0, 13, 1, 0, 0, 0, 0][..]).is_err(), "floating-point numbers");
        let huge = [[0, 0, 8, 4], [255; 4], [255; 4], [255; 4], [255; 4]].concat();
        assert!(read_array(&mut &huge[..]).unwrap_err().to_string().contains("too large"));
    }
}
