//! MATLAB's `.mat` files of version 5, as of SVHN.

use std::path::{Path, PathBuf};

use hemlock_stage::{few, open_file};
use matfile::{Array, MatFile, NumericData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Kind, check_path, digest_files, file_name, files_in, has_ending, locate};
use crate::parts::{Label, Part, SplitName, pools};
use crate::pool::Pools;
use crate::raw::{Order, RawImages, Shape};
use crate::{DataError, Folders};

/// Parameters of `.mat` files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mat {
    /// The folder of `train*.mat`, `test*.mat` and, optionally, `val*.mat`, relative to the working directory or to the
    /// data directory. A file has 8-bit images `X`, `[height, width, 3, n]`, and labels `y`, `[n, 1]`. In files of SVHN
    /// (`train_32x32.mat`), the label 10 is the class `0`.
    pub path: PathBuf,
    /// Whether the training pool has the images of `extra*.mat`, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub extra: bool,
}

impl Mat {
    /// The files of each split, in the order of their images.
    fn files(&self, data: Option<&Path>) -> Result<Vec<(SplitName, PathBuf)>, DataError> {
        let folder = locate(&self.path, data);
        let mut files = Vec::new();
        for path in files_in(&folder)?.into_iter().filter(|path| has_ending(path, "mat")) {
            let name = file_name(&path);
            let extra = (self.extra && name.starts_with("extra")).then_some(SplitName::Train);
            files.extend(SplitName::of_file(&name).or(extra).map(|split| (split, path)));
        }
        // The training file comes before the extra one.
        files.sort_by_key(|(split, path)| (*split, file_name(path).starts_with("extra")));
        let has = |begin: &str| files.iter().any(|(_, path)| file_name(path).starts_with(begin));
        let missing = [("train", true), ("extra", self.extra)].into_iter().find(|(begin, asked)| *asked && !has(begin));
        match missing {
            None => Ok(files),
            Some((begin, _)) => Err(DataError::Layout { path: folder, reason: format!("has no `{begin}*.mat`") }),
        }
    }
}

impl Kind for Mat {
    fn name(&self) -> &'static str {
        "mat"
    }

    fn check(&self) -> Result<(), DataError> {
        check_path(&self.path)
    }

    fn digest(&self, data: Option<&Path>) -> Result<blake3::Hash, DataError> {
        let files = self.files(data)?;
        digest_files("hemlock-data mat v1", files.iter().map(|(_, path)| (file_name(path), path.as_path())))
    }

    fn open(&self, folders: Folders) -> Result<Pools, DataError> {
        let mut splits: Vec<(SplitName, PathBuf, Content)> = Vec::new();
        for (split, path) in self.files(folders.data)? {
            let content = Content::read(&path)?;
            match splits.last_mut() {
                Some((last, first, all)) if *last == split => {
                    if all.shape != content.shape {
                        let reason = format!("it has images of another size than {}", first.display());
                        return Err(damaged(&path, reason));
                    }
                    all.pixels.extend(content.pixels);
                    all.labels.extend(content.labels);
                }
                _ => splits.push((split, path, content)),
            }
        }
        let size = splits.first().and_then(|(.., content)| content.shape.side());
        let part = |(split, path, Content { shape, pixels, labels }): (SplitName, PathBuf, Content)| Part {
            split: Some(split),
            labels,
            groups: None,
            images: Box::new(RawImages::new(shape, pixels, &path)),
        };
        pools(&locate(&self.path, folders.data), splits.into_iter().map(part).collect(), None, size)
    }
}

fn damaged(file: &Path, reason: String) -> DataError {
    DataError::Damaged { file: file.to_path_buf(), what: ".mat file of images", reason }
}

/// The images of one file.
struct Content {
    shape: Shape,
    pixels: Vec<u8>,
    labels: Vec<Label>,
}

impl Content {
    fn read(path: &Path) -> Result<Self, DataError> {
        let file = open_file(path).map_err(DataError::io("read", path))?;
        let wrong = |reason: String| damaged(path, reason);
        let mat = MatFile::parse(file).map_err(|error| match error {
            matfile::Error::IOError(error) => wrong(error.to_string()),
            error => wrong(format!("{error}; expected version 5 (`save -v7` in MATLAB, not `-v7.3`)")),
        })?;
        let find = |name: &str| {
            let found = mat.arrays().iter().map(|array| format!("`{}`", array.name()));
            mat.find_by_name(name).ok_or_else(|| wrong(format!("it has no array `{name}`; it has {}", few(found))))
        };
        let (images, labels) = (find("X")?, find("y")?);
        // The first axis varies fastest, so that an image is a plane per channel, column by column.
        let (height, width, channels, n) = match images.size()[..] {
            [height, width, n] => (height, width, 1, n),
            [height, width, channels, n] => (height, width, channels, n),
            _ => return Err(wrong(format!("`X` has the shape {:?}; expected [height, width, 3, n]", images.size()))),
        };
        let shape = Shape { channels, height, width, order: Order::Columns }.check().map_err(wrong)?;
        let NumericData::UInt8 { real: pixels, imag: None } = images.data() else {
            return Err(wrong("`X` is no array of unsigned integers of 8 bits".to_owned()));
        };
        let svhn = file_name(path).ends_with("_32x32.mat");
        let label = |number: i64| Label::Number(if svhn && number == 10 { 0 } else { number });
        let labels: Vec<Label> = integers(labels).map_err(wrong)?.into_iter().map(label).collect();
        if labels.len() != n || Some(pixels.len()) != shape.bytes().checked_mul(n) {
            let counts = format!("`y` has {} labels, and `X` has the shape {:?}", labels.len(), images.size());
            return Err(wrong(counts));
        }
        Ok(Self { shape, pixels: pixels.clone(), labels })
    }
}

/// The elements of an array of integers, which MATLAB may store as floating-point numbers.
fn integers(array: &Array) -> Result<Vec<i64>, String> {
    let integral = |number: f64| {
        let fits = number.fract() == 0.0 && number.abs() < 1e15;
        fits.then_some(number as i64).ok_or_else(|| format!("`{}` has {number}; expected integers", array.name()))
    };
    match array.data() {
        NumericData::UInt8 { real, .. } => Ok(real.iter().map(|x| i64::from(*x)).collect()),
        NumericData::Int8 { real, .. } => Ok(real.iter().map(|x| i64::from(*x)).collect()),
        NumericData::UInt16 { real, .. } => Ok(real.iter().map(|x| i64::from(*x)).collect()),
        NumericData::Int16 { real, .. } => Ok(real.iter().map(|x| i64::from(*x)).collect()),
        NumericData::UInt32 { real, .. } => Ok(real.iter().map(|x| i64::from(*x)).collect()),
        NumericData::Int32 { real, .. } => Ok(real.iter().map(|x| i64::from(*x)).collect()),
        NumericData::Int64 { real, .. } => Ok(real.clone()),
        NumericData::Double { real, .. } => real.iter().map(|x| integral(*x)).collect(),
        NumericData::Single { real, .. } => real.iter().map(|x| integral(f64::from(*x))).collect(),
        NumericData::UInt64 { .. } => Err(format!("`{}` has unsigned integers of 64 bits", array.name())),
    }
}
