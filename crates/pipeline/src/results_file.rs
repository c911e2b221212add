//! Results in a file of their own. A report can be made from it without the artifacts and without the raw data.
//!
//! The file is JSON Lines, compressed with Zstandard. Its first line is a [`Header`]. Every other line is an object
//! with one field: `samples`, which samples victims were trained and tested on, or `result`, one result with the
//! answers of its victims. Samples come before the first result that refers to them.

use crate::{Answered, Origin, ResultRow};
use base64::{Engine, prelude::BASE64_STANDARD};
use hemlock_artifact::{Drawn, Measured};
use hemlock_stage::{Column, StageRole};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

const FORMAT: &str = "hemlock-results";
const VERSION: u32 = 1;
/// The level of compression, and the logarithm of the number of bytes that are searched for repetitions. Rows of one
/// data set share the answers of controls, and lie some megabytes apart.
const COMPRESSION: (i32, u32) = (12, 24);

/// A pipeline whose results are in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedPipeline {
    /// Name of the spec.
    pub name: String,
    /// Description of what the pipeline shows.
    pub description: String,
    /// The command that runs the pipeline.
    pub command: String,
    /// Number of branches without a result.
    pub missing: usize,
}

/// What a results file contains.
#[derive(Debug, Clone, PartialEq)]
pub struct ResultsFile {
    /// The pipelines.
    pub pipelines: Vec<SavedPipeline>,
    /// The results of all pipelines, with the answers of their victims.
    pub rows: Vec<ResultRow>,
}

/// A results file cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}{}: {what}", path.display(), line.map(|line| format!(", line {line}")).unwrap_or_default())]
pub struct ResultsFileError {
    /// The file.
    pub path: PathBuf,
    /// The line in the decompressed file, counted from 1, if the error belongs to one.
    pub line: Option<usize>,
    /// What is wrong, and what was expected.
    pub what: String,
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
    hemlock_version: String,
    pipelines: Vec<SavedPipeline>,
    /// Number of results.
    results: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    Samples(Samples),
    Result(Box<Saved>),
}

/// The samples of all results with this [`Origin::data`].
#[derive(Serialize, Deserialize)]
struct Samples {
    data: String,
    test: Vec<u32>,
    train: Vec<u32>,
    validation: Vec<u32>,
}

/// A result, with what its public form leaves out.
#[derive(Serialize, Deserialize)]
struct Saved {
    #[serde(flatten)]
    row: ResultRow,
    stage: String,
    roles: BTreeMap<String, StageRole>,
    deciding: BTreeMap<String, Value>,
    columns: Vec<SavedColumn>,
    origin: Origin,
    clean_outliers: Option<f64>,
    /// By training set: one bit per test image, the first image in the lowest bit of the first byte, as base64.
    right: Option<Measured<String>>,
}

#[derive(Serialize, Deserialize)]
struct SavedColumn {
    node: String,
    field: String,
    heading: String,
    meaning: String,
    digits: usize,
}

impl ResultsFile {
    /// Returns the content of the file. The same results give the same bytes.
    ///
    /// # Errors
    /// Memory is exhausted.
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let mut to = zstd::Encoder::new(Vec::new(), COMPRESSION.0)?;
        to.window_log(COMPRESSION.1)?;
        to.include_checksum(true)?;
        let mut line = |line: String| writeln!(to, "{line}");
        line(serde_json::to_string(&Header {
            format: FORMAT.to_owned(),
            version: VERSION,
            hemlock_version: env!("CARGO_PKG_VERSION").to_owned(),
            pipelines: self.pipelines.clone(),
            results: self.rows.len(),
        })?)?;
        let mut told = BTreeSet::new();
        for row in &self.rows {
            if let Some(answers) = row.answers.as_ref().filter(|_| told.insert(&row.origin.data)) {
                let Drawn { test, train, validation } = (*answers.drawn).clone();
                let samples = Samples { data: row.origin.data.clone(), test, train, validation };
                line(serde_json::to_string(&Line::Samples(samples))?)?;
            }
            line(serde_json::to_string(&Line::Result(Box::new(Saved::of(row))))?)?;
        }
        to.finish()
    }

    /// Reads a file.
    ///
    /// # Errors
    /// The file cannot be read, is no such file, is of another version, or is damaged.
    pub fn read(path: &Path) -> Result<Self, ResultsFileError> {
        let failed = |line, what| ResultsFileError { path: path.to_owned(), line, what };
        let unreadable = |e: io::Error| {
            failed(
                None,
                format!(
                    "cannot be read as a results file, which is JSON Lines \
                                                              compressed with Zstandard: {e}"
                ),
            )
        };
        // Each line is a text of its own, whose number would only confuse.
        let invalid = |e: serde_json::Error| e.to_string().replace(" at line 1 column", ", at column");
        let mut from = zstd::Decoder::new(File::open(path).map_err(unreadable)?).map_err(unreadable)?;
        from.window_log_max(COMPRESSION.1).map_err(unreadable)?;
        let mut lines = BufReader::new(from).lines().enumerate();
        let first = lines.next().ok_or_else(|| failed(None, "is empty".to_owned()))?.1.map_err(unreadable)?;
        let header: Header = serde_json::from_str(&first).map_err(|e| failed(Some(1), invalid(e)))?;
        if (header.format.as_str(), header.version) != (FORMAT, VERSION) {
            let (format, version, by) = (header.format, header.version, header.hemlock_version);
            let what = format!(
                "is `{format}` of version {version}, written by Hemlock {by}; expected `{FORMAT}` of \
                                version {VERSION}"
            );
            return Err(failed(Some(1), what));
        }
        let (mut drawn, mut rows) = (BTreeMap::new(), Vec::new());
        for (i, line) in lines {
            let wrong = |what| failed(Some(i + 1), what);
            match serde_json::from_str(&line.map_err(unreadable)?).map_err(|e| wrong(invalid(e)))? {
                Line::Samples(Samples { data, test, train, validation }) => {
                    drawn.insert(data, Arc::new(Drawn { test, train, validation }));
                }
                Line::Result(saved) => rows.push(saved.into_row(&drawn, &header.pipelines).map_err(wrong)?),
            }
        }
        match rows.len() {
            0 => Err(failed(None, "has no results".to_owned())),
            n if n != header.results => Err(failed(None, format!("has {n} results; expected {}", header.results))),
            _ => Ok(Self { pipelines: header.pipelines, rows }),
        }
    }
}

impl Saved {
    fn of(row: &ResultRow) -> Self {
        let column = |(node, column): &(&str, Column)| SavedColumn {
            node: (*node).to_owned(),
            field: column.field.to_owned(),
            heading: column.heading.to_owned(),
            meaning: column.meaning.to_owned(),
            digits: column.digits,
        };
        let owned = |name: &&str| (*name).to_owned();
        Self {
            stage: row.stage.to_owned(),
            roles: row.roles.iter().map(|(node, role)| (owned(node), *role)).collect(),
            deciding: row.deciding.iter().map(|(node, params)| (owned(node), params.clone())).collect(),
            columns: row.declared.iter().map(column).collect(),
            origin: row.origin.clone(),
            clean_outliers: row.clean_outliers,
            right: row.answers.as_ref().map(|answers| answers.right.map(|right| packed(right))),
            row: row.clone(),
        }
    }

    /// The row, which is of one of `pipelines`, and whose samples are among `drawn`, by [`Origin::data`]. The error
    /// says what is wrong.
    fn into_row(self, drawn: &BTreeMap<String, Arc<Drawn>>, pipelines: &[SavedPipeline]) -> Result<ResultRow, String> {
        let Self { mut row, stage, roles, deciding, columns, origin, clean_outliers, right } = self;
        if !pipelines.iter().any(|of| of.name == row.pipeline) {
            return Err(format!("`pipeline` is `{}`, which the first line does not name", row.pipeline));
        }
        if let Some(right) = right {
            let drawn = drawn.get(&origin.data).ok_or_else(|| format!("`samples` of {} are missing", origin.data))?;
            let n = drawn.test.len();
            let unpack = |set: &str, text: &String| {
                let right = unpacked(text, n).ok_or_else(|| format!("`right.{set}` is not base64 of {n} bits"))?;
                let share = right.iter().filter(|right| **right).count() as f64 / n.max(1) as f64;
                match row.accuracy.get(set) {
                    Some(accuracy) if (accuracy - share).abs() < 1e-9 => Ok(right),
                    accuracy => Err(format!(
                        "`accuracy.{set}` is {}; expected {share}, the share in `right.{set}`",
                        accuracy.map_or_else(|| "missing".to_owned(), f64::to_string)
                    )),
                }
            };
            row.answers = Some(Arc::new(Answered { right: right.try_map(unpack)?, drawn: drawn.clone() }));
        }
        let column = |c: SavedColumn| {
            let (field, heading, meaning) = (name(c.field), name(c.heading), name(c.meaning));
            (name(c.node), Column { field, heading, meaning, digits: c.digits })
        };
        (row.stage, row.origin, row.clean_outliers) = (name(stage), origin, clean_outliers);
        (row.roles, row.deciding) = (named(roles), named(deciding));
        row.declared = columns.into_iter().map(column).collect();
        Ok(row)
    }
}

fn packed(bits: &[bool]) -> String {
    let byte = |bits: &[bool]| bits.iter().enumerate().map(|(i, bit)| u8::from(*bit) << i).sum::<u8>();
    BASE64_STANDARD.encode(bits.chunks(8).map(byte).collect::<Vec<u8>>())
}

/// `n` bits; `None` if there are not so many.
fn unpacked(text: &str, n: usize) -> Option<Vec<bool>> {
    let bytes = BASE64_STANDARD.decode(text).ok().filter(|bytes| bytes.len() == n.div_ceil(8))?;
    Some((0..n).map(|i| bytes[i / 8] >> (i % 8) & 1 == 1).collect())
}

/// A name that is kept as long as the process lives, as those in the code are. Each is kept once.
fn name(text: String) -> &'static str {
    static NAMES: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
    let mut names = NAMES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    match names.get(text.as_str()) {
        Some(known) => known,
        None => {
            let kept: &'static str = text.leak();
            names.insert(kept);
            kept
        }
    }
}

fn named<T>(of: BTreeMap<String, T>) -> BTreeMap<&'static str, T> {
    of.into_iter().map(|(text, value)| (name(text), value)).collect()
}

/// Reads [`ResultRow::params`].
pub(crate) fn params<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<&'static str, Value>, D::Error> {
    BTreeMap::deserialize(from).map(named)
}

/// Reads [`ResultRow::stages`].
pub(crate) fn stages<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<BTreeMap<&'static str, BTreeMap<&'static str, f64>>, D::Error> {
    let of: BTreeMap<String, BTreeMap<String, f64>> = Deserialize::deserialize(from)?;
    Ok(of.into_iter().map(|(node, fields)| (name(node), named(fields))).collect())
}
