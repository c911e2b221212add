//! STL-10 in its binary version: planes of 96 x 96 pixels, column by column, and labels from 1 on.

use std::path::{Path, PathBuf};

use hemlock_stage::{open_file, read_file};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Kind, check_path, digest_files, file_name, locate};
use crate::parts::{Label, Part, SplitName, pools};
use crate::pool::{Groups, Pool, Pools};
use crate::raw::{Order, RawImages, Shape};
use crate::{DataError, Folders};

/// Parameters of STL-10.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stl10 {
    /// The folder of the binary version or its parent, relative to the working directory or to the data directory.
    #[serde(default = "usual")]
    pub path: PathBuf,
    /// The images of the training pool.
    #[serde(default)]
    pub pool: Stl10Pool,
    /// One of the ten published choices of 1,000 training images, 0 to 9; by default all 5,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 9))]
    pub fold: Option<usize>,
}

/// Which images of STL-10 are in the training pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Stl10Pool {
    /// The 5,000 that have labels.
    #[default]
    Labelled,
    /// The 100,000 that have none, for pre-training without labels: all have the class `unlabelled`.
    Unlabelled,
}

const SHAPE: Shape = Shape { channels: 3, height: 96, width: 96, order: Order::Columns };

/// The class of images without labels.
const UNLABELLED: &str = "unlabelled";

const CLASSES: &str = "class_names.txt";
const FOLDS: &str = "fold_indices.txt";

fn usual() -> PathBuf {
    "stl10_binary".into()
}

impl Stl10 {
    fn folder(&self, data: Option<&Path>) -> PathBuf {
        let folder = locate(&self.path, data);
        let below = folder.join("stl10_binary");
        if below.is_dir() { below } else { folder }
    }

    /// The names of the files that are read.
    fn files(&self) -> Vec<&'static str> {
        match self.pool {
            Stl10Pool::Unlabelled => vec!["unlabeled_X.bin"],
            Stl10Pool::Labelled => {
                let mut files = vec!["train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin", CLASSES];
                files.extend(self.fold.map(|_| FOLDS));
                files
            }
        }
    }

    fn part(&self, folder: &Path, split: SplitName) -> Result<Part, DataError> {
        let (images, n) = images(&folder.join(format!("{}_X.bin", split.name())))?;
        let path = folder.join(format!("{}_y.bin", split.name()));
        let labels = read_file(&path, 1).map_err(DataError::io("read", &path))?;
        if labels.len() != n {
            return Err(damaged(&path, format!("it has {} labels of {n} images", labels.len())));
        }
        // Labels are counted from 1.
        let labels = labels.into_iter().map(|label| Label::Number(i64::from(label) - 1)).collect();
        Ok(Part { split: Some(split), labels, groups: None, images: Box::new(images) })
    }
}

impl Kind for Stl10 {
    fn name(&self) -> &'static str {
        match self.pool {
            Stl10Pool::Labelled => "stl10",
            Stl10Pool::Unlabelled => "stl10-unlabelled",
        }
    }

    fn check(&self) -> Result<(), DataError> {
        check_path(&self.path)?;
        match (self.fold, self.pool) {
            (Some(fold), _) if fold > 9 => {
                Err(DataError::Parameter { field: "source.fold", value: fold.to_string(), expected: "0 to 9" })
            }
            (Some(fold), Stl10Pool::Unlabelled) => Err(DataError::Parameter {
                field: "source.fold",
                value: fold.to_string(),
                expected: "none, as images without labels have no folds",
            }),
            _ => Ok(()),
        }
    }

    fn may_validate(&self) -> bool {
        false
    }

    fn digest(&self, data: Option<&Path>) -> Result<blake3::Hash, DataError> {
        let folder = self.folder(data);
        let files: Vec<PathBuf> = self.files().into_iter().map(|name| folder.join(name)).collect();
        digest_files("hemlock-data stl10 v1", files.iter().map(|path| (file_name(path), path.as_path())))
    }

    fn open(&self, folders: Folders) -> Result<Pools, DataError> {
        let folder = self.folder(folders.data);
        if self.pool == Stl10Pool::Unlabelled {
            let (images, n) = images(&folder.join("unlabeled_X.bin"))?;
            let none = RawImages::new(SHAPE, Vec::new(), &folder);
            return Ok(Pools {
                classes: vec![UNLABELLED.to_owned()],
                size: SHAPE.side(),
                train: Pool { labels: vec![0; n], groups: None, images: Box::new(images) },
                validation: None,
                test: Some(Pool { labels: Vec::new(), groups: None, images: Box::new(none) }),
                groups: Groups::default(),
                skipped: Vec::new(),
            });
        }
        let mut train = self.part(&folder, SplitName::Train)?;
        if let Some(fold) = self.fold {
            train = take(train, fold, &folder.join(FOLDS))?;
        }
        let path = folder.join(CLASSES);
        let names = read_file(&path, 1).map_err(DataError::io("read", &path))?;
        let names: Vec<String> = String::from_utf8_lossy(&names)
            .lines()
            .map(|line| line.trim().to_owned())
            .filter(|l| !l.is_empty())
            .collect();
        pools(&folder, vec![train, self.part(&folder, SplitName::Test)?], Some(names), SHAPE.side())
    }
}

fn damaged(file: &Path, reason: String) -> DataError {
    DataError::Damaged { file: file.to_path_buf(), what: "file of STL-10", reason }
}

/// The images of a file, and their number.
fn images(path: &Path) -> Result<(RawImages, usize), DataError> {
    let file = open_file(path).map_err(DataError::io("read", path))?;
    let length = file.metadata().map_err(DataError::io("read", path))?.len();
    let record = SHAPE.bytes() as u64;
    if length == 0 || length % record != 0 {
        return Err(damaged(path, format!("its {length} bytes are no multiple of {record}, the size of an image")));
    }
    Ok((RawImages::in_file(SHAPE, file, 0, path), (length / record) as usize))
}

/// Takes the training images of a line of the file of folds, which has their positions, separated by spaces.
fn take(part: Part, fold: usize, path: &Path) -> Result<Part, DataError> {
    let text = read_file(path, 1).map_err(DataError::io("read", path))?;
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().nth(fold).ok_or_else(|| damaged(path, format!("it has no line {}", fold + 1)))?;
    let position = |word: &str| {
        let position = word.parse::<u32>().ok().filter(|position| (*position as usize) < part.labels.len());
        position.ok_or_else(|| damaged(path, format!("line {} has `{word}`, which is no image", fold + 1)))
    };
    let rows: Vec<u32> = line.split_whitespace().map(position).collect::<Result<_, _>>()?;
    let labels = rows.iter().map(|row| part.labels[*row as usize].clone()).collect();
    Ok(part.subset(rows, labels))
}
