//! Tables with a row per image: CSV or Parquet.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use hemlock_stage::{few, open_file};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::folder::{FileImages, digest_images};
use super::parquet::{LABELS, split_of_value, text};
use super::{Kind, check_path, has_ending, locate};
use crate::checksum::FieldHasher;
use crate::parquet_file::ParquetFile;
use crate::parts::{Label, Row, SplitName, by_split, pools};
use crate::pool::Pools;
use crate::{DataError, Folders};

/// Parameters of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageTable {
    /// The table, `.parquet` or text of separated columns (`.csv`), relative to the working directory or to the data
    /// directory.
    pub path: PathBuf,
    /// A table of the validation images, if `path` has the training images alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<PathBuf>,
    /// A table of the test images, if `path` has the training images alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<PathBuf>,
    /// The folder that paths of images start at; by default that of the table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<PathBuf>,
    /// What is appended to every path of an image, as `.jpg`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ending: String,
    /// What separates columns of text; by default a comma, and a tab if the table ends in `.tsv`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub separator: Option<char>,
    /// Whether the first line names the columns. Without it, columns are called `1`, `2` and so on.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub header: bool,
    /// The column of paths; by default `path`, `image`, `file`, `filename`, `file_name` or `img_filename`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The column of labels; by default `label`, `labels`, `fine_label`, `class`, `cls`, `target` or `y`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The column of splits (`train`, `validation` or `val`, `test`; or 0, 1, 2, as in WILDS); by default `split`, if
    /// there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// The column of groups, whose accuracies are compared; several columns, as `y+place`, make a group of every
    /// combination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

const PATHS: [&str; 6] = ["path", "image", "file", "filename", "file_name", "img_filename"];
const SPLIT: &str = "split";

fn yes() -> bool {
    true
}

/// The columns that are read of a table, one value per row.
struct Columns {
    images: Vec<String>,
    labels: Vec<Label>,
    splits: Option<Vec<Label>>,
    groups: Option<Vec<String>>,
}

/// The text of a table, or its columns.
enum Open {
    Text(HashMap<String, Vec<String>>, PathBuf),
    Parquet(ParquetFile),
}

impl Open {
    /// Reads the first of some columns that is there.
    fn column(&self, what: &str, names: &[&str]) -> Result<Vec<Label>, DataError> {
        match self {
            Self::Parquet(file) => file.labels(file.find(what, names)?),
            Self::Text(columns, path) => {
                let found = names.iter().find_map(|name| columns.get(*name));
                let values = found.ok_or_else(|| {
                    let mut there: Vec<_> = columns.keys().map(|name| format!("`{name}`")).collect();
                    there.sort();
                    let asked = few(names.iter().map(|name| format!("`{name}`")));
                    let reason = format!("has no column {asked} for the {what}; it has {}", few(there));
                    DataError::Layout { path: path.clone(), reason }
                })?;
                Ok(values.iter().map(|value| Label::parse(value)).collect())
            }
        }
    }

    fn has(&self, name: &str) -> bool {
        match self {
            Self::Parquet(file) => file.position(name).is_some(),
            Self::Text(columns, _) => columns.contains_key(name),
        }
    }

    /// Reads a column of texts.
    fn texts(&self, what: &str, names: &[&str]) -> Result<Vec<String>, DataError> {
        match self {
            Self::Parquet(_) => Ok(self.column(what, names)?.into_iter().map(text).collect()),
            Self::Text(columns, _) => match names.iter().find_map(|name| columns.get(*name)) {
                Some(values) => Ok(values.clone()),
                None => self.column(what, names).map(|_| Vec::new()),
            },
        }
    }
}

impl ImageTable {
    /// The tables, each with the split that it has alone.
    fn tables(&self, data: Option<&Path>) -> Vec<(Option<SplitName>, PathBuf)> {
        let alone = self.validation.is_some() || self.test.is_some();
        let others = [(SplitName::Validation, &self.validation), (SplitName::Test, &self.test)];
        let first = (alone.then_some(SplitName::Train), locate(&self.path, data));
        let others = others.into_iter().filter_map(|(split, path)| Some((Some(split), locate(path.as_ref()?, data))));
        std::iter::once(first).chain(others).collect()
    }

    fn open_table(&self, path: &Path) -> Result<Open, DataError> {
        if has_ending(path, "parquet") {
            return ParquetFile::open(path).map(Open::Parquet);
        }
        let file = open_file(path).map_err(DataError::io("read", path))?;
        let separator = self.separator.unwrap_or(if has_ending(path, "tsv") { '\t' } else { ',' });
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(u8::try_from(separator).unwrap_or(b','))
            .has_headers(self.header)
            .trim(csv::Trim::All)
            .from_reader(file);
        let damaged = |error: csv::Error| DataError::Damaged {
            file: path.to_path_buf(),
            what: "table",
            reason: error.to_string(),
        };
        let mut names: Vec<String> = Vec::new();
        if self.header {
            names = reader.headers().map_err(damaged)?.iter().map(str::to_owned).collect();
        }
        let mut columns: Vec<Vec<String>> = vec![Vec::new(); names.len()];
        for record in reader.records() {
            let record = record.map_err(damaged)?;
            columns.resize(record.len().max(columns.len()), Vec::new());
            columns.iter_mut().zip(&record).for_each(|(column, value)| column.push(value.to_owned()));
        }
        let numbered = (names.len()..columns.len()).map(|column| (column + 1).to_string());
        let names: Vec<String> = names.iter().cloned().chain(numbered).collect();
        Ok(Open::Text(names.into_iter().zip(columns).collect(), path.to_path_buf()))
    }

    fn columns(&self, path: &Path) -> Result<Columns, DataError> {
        let table = self.open_table(path)?;
        let images = table.texts("images", &self.image.as_deref().map_or(PATHS.to_vec(), |name| vec![name]))?;
        let usual = || LABELS.into_iter().chain(["y"]).collect();
        let labels = table.column("labels", &self.label.as_deref().map_or_else(usual, |name| vec![name]))?;
        let split = self.split.as_deref().or(table.has(SPLIT).then_some(SPLIT));
        let splits = split.map(|name| table.column("splits", &[name])).transpose()?;
        let groups = self.group.as_deref().map(|names| {
            let columns: Vec<Vec<String>> =
                names.split('+').map(|name| table.texts("groups", &[name.trim()])).collect::<Result<_, _>>()?;
            let row = |row: usize| columns.iter().map(|column| column[row].as_str()).collect::<Vec<_>>().join("+");
            Ok::<_, DataError>((0..images.len()).map(row).collect())
        });
        Ok(Columns { images, labels, splits, groups: groups.transpose()? })
    }

    /// Reads all tables: the path of every image, and what is known of it.
    fn rows(&self, data: Option<&Path>) -> Result<(Vec<PathBuf>, Vec<Row>), DataError> {
        let (mut paths, mut rows) = (Vec::new(), Vec::new());
        for (alone, path) in self.tables(data) {
            let folder = || path.parent().unwrap_or(Path::new("")).to_path_buf();
            let root = self.images.as_ref().map_or_else(folder, |images| locate(images, data));
            let Columns { images, labels, splits, groups } = self.columns(&path)?;
            let mut groups = groups.map(Vec::into_iter);
            for (i, (image, label)) in images.into_iter().zip(labels).enumerate() {
                let value = splits.as_ref().map(|splits| &splits[i]).filter(|_| alone.is_none());
                let split = match value {
                    None => alone,
                    Some(value) => Some(split_of_value(value).ok_or_else(|| DataError::Layout {
                        path: path.clone(),
                        reason: format!(
                            "has the split `{}`; expected `train`, `validation` or `test`",
                            text(value.clone())
                        ),
                    })?),
                };
                paths.push(root.join(format!("{image}{}", self.ending)));
                rows.push(Row { split, label, group: groups.as_mut().and_then(Iterator::next) });
            }
        }
        Ok((paths, rows))
    }
}

impl Kind for ImageTable {
    fn name(&self) -> &'static str {
        "table"
    }

    fn check(&self) -> Result<(), DataError> {
        check_path(&self.path)?;
        match self.separator {
            Some(separator) if !separator.is_ascii() => {
                let (field, value) = ("source.separator", separator.to_string());
                Err(DataError::Parameter { field, value, expected: "an ASCII character" })
            }
            _ => Ok(()),
        }
    }

    fn digest(&self, data: Option<&Path>) -> Result<blake3::Hash, DataError> {
        let (paths, rows) = self.rows(data)?;
        let mut hasher = FieldHasher::new("hemlock-data table v1");
        for Row { split, label, group } in &rows {
            hasher.field(format!("{split:?} {label:?} {group:?}").as_bytes());
        }
        let folder = locate(&self.path, data);
        let root = match &self.images {
            Some(images) => locate(images, data),
            None => folder.parent().unwrap_or(Path::new("")).to_path_buf(),
        };
        digest_images(&mut hasher, &paths.iter().collect::<Vec<_>>(), &root)?;
        Ok(hasher.finish())
    }

    fn open(&self, folders: Folders) -> Result<Pools, DataError> {
        let (paths, rows) = self.rows(folders.data)?;
        let path = locate(&self.path, folders.data);
        let parts = by_split(rows, Box::new(FileImages { paths }));
        let parts = parts.map_err(|reason| DataError::Layout { path: path.clone(), reason })?;
        pools(&path, parts, None, None)
    }
}
