//! Parquet files with a column of encoded images, as datasets of Hugging Face have them.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Kind, check_path, digest_files, file_name, files_below, has_ending, locate};
use crate::parquet_file::{ParquetFile, ParquetImages};
use crate::parts::{Label, Row, SplitName, by_split, pools};
use crate::pool::Pools;
use crate::{DataError, Folders};

/// Parameters of Parquet files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parquet {
    /// A file, or a folder of files such as `train-00000-of-00002.parquet` and `data/test-00000-of-00001.parquet`,
    /// relative to the working directory or to the data directory. A file's name, or its folder's, begins with its
    /// split.
    pub path: PathBuf,
    /// The column of images: encoded bytes, or a struct with a field `bytes`. By default `image`, `img`, `jpg`, `png`
    /// or `webp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The column of labels: integers or names. By default `label`, `labels`, `fine_label`, `class`, `cls` or `target`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// A column of splits, if names of files do not say them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// A column of groups, whose accuracies are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

const IMAGES: [&str; 5] = ["image", "img", "jpg", "png", "webp"];
pub(super) const LABELS: [&str; 6] = ["label", "labels", "fine_label", "class", "cls", "target"];

impl Parquet {
    /// The files, in order, with the folder that their names are relative to.
    fn files(&self, data: Option<&Path>) -> Result<(PathBuf, Vec<PathBuf>), DataError> {
        let path = locate(&self.path, data);
        if path.is_file() {
            let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
            return Ok((folder, vec![path]));
        }
        let files: Vec<PathBuf> = files_below(&path)?.into_iter().filter(|path| has_ending(path, "parquet")).collect();
        if files.is_empty() {
            return Err(DataError::Layout { path, reason: "has no files that end in `.parquet`".to_owned() });
        }
        Ok((path, files))
    }
}

/// Returns the split that the name of a file says, or the name of its folder.
pub(super) fn split_of(path: &Path) -> Option<SplitName> {
    let folder = || SplitName::of_file(&file_name(path.parent()?));
    SplitName::of_file(&file_name(path)).or_else(folder)
}

/// Returns the text of a label.
pub(super) fn text(label: Label) -> String {
    match label {
        Label::Number(number) => number.to_string(),
        Label::Name(name) => name,
    }
}

/// Reads a name of a split, or the number that stands for it in WILDS.
pub(super) fn split_of_value(label: &Label) -> Option<SplitName> {
    match label {
        Label::Number(0) => Some(SplitName::Train),
        Label::Number(1) => Some(SplitName::Validation),
        Label::Number(2) => Some(SplitName::Test),
        Label::Number(_) => None,
        Label::Name(name) => SplitName::parse(name),
    }
}

impl Kind for Parquet {
    fn name(&self) -> &'static str {
        "parquet"
    }

    fn check(&self) -> Result<(), DataError> {
        check_path(&self.path)
    }

    fn digest(&self, data: Option<&Path>) -> Result<blake3::Hash, DataError> {
        let (folder, files) = self.files(data)?;
        let named = files.iter().map(|path| (super::relative(path, &folder), path.as_path()));
        digest_files("hemlock-data parquet v1", named)
    }

    fn open(&self, folders: Folders) -> Result<Pools, DataError> {
        let (folder, paths) = self.files(folders.data)?;
        let wrong = |path: &Path, reason: String| DataError::Layout { path: path.to_path_buf(), reason };
        let (mut files, mut rows, mut names) = (Vec::new(), Vec::new(), None);
        for path in &paths {
            let file = ParquetFile::open(path)?;
            let asked: Vec<&str> = self.image.as_deref().map_or(IMAGES.to_vec(), |name| vec![name]);
            let bytes: Vec<String> = asked.iter().map(|name| format!("{name}.bytes")).collect();
            let either: Vec<&str> = bytes.iter().map(String::as_str).chain(asked.iter().copied()).collect();
            let image = file.find("images", &either)?;
            let asked: Vec<&str> = self.label.as_deref().map_or(LABELS.to_vec(), |name| vec![name]);
            let label = file.find("labels", &asked)?;
            names = names.or_else(|| file.class_names(file.column(label)));
            let labels = file.labels(label)?;
            let column = |what: &str, name: &Option<String>| {
                name.as_deref().map(|name| file.find(what, &[name]).and_then(|column| file.labels(column))).transpose()
            };
            let (splits, groups) = (column("splits", &self.split)?, column("groups", &self.group)?);
            let (mut splits, mut groups) = (splits.map(Vec::into_iter), groups.map(Vec::into_iter));
            for label in labels {
                let split = match splits.as_mut().and_then(Iterator::next) {
                    None => split_of(path),
                    Some(value) => Some(split_of_value(&value).ok_or_else(|| {
                        wrong(
                            path,
                            format!("has the split `{}`; expected `train`, `validation` or `test`", text(value)),
                        )
                    })?),
                };
                rows.push(Row { split, label, group: groups.as_mut().and_then(Iterator::next).map(text) });
            }
            files.push((file, image));
        }
        let images = ParquetImages::new(&files)?;
        let parts = by_split(rows, Box::new(images)).map_err(|reason| wrong(&folder, reason))?;
        pools(&folder, parts, names, None)
    }
}
