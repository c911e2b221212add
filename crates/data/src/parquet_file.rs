//! Columns of Parquet files, and images that are encoded in one of them.

use std::collections::HashMap;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};

use hemlock_stage::{few, open_file};
use image::RgbImage;
use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType, DataType};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::Value;

use crate::DataError;
use crate::decode::{LIMIT_MIB, decode_bytes};
use crate::parts::Label;
use crate::pool::PoolImages;

/// Number of rows whose numbers and texts are read at once.
const ROWS: usize = 1 << 16;

/// An open Parquet file.
pub(crate) struct ParquetFile {
    path: PathBuf,
    reader: SerializedFileReader<File>,
    /// The names of the columns that have values, as in `image.bytes`.
    columns: Vec<String>,
}

impl ParquetFile {
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let file = open_file(path).map_err(DataError::io("read", path))?;
        let length = file.metadata().map_err(DataError::io("read", path))?.len();
        let reader = guarded(|| SerializedFileReader::new(file)).map_err(|error| damaged(path, error))?;
        check_ranges(reader.metadata(), length).map_err(|reason| damaged(path, reason))?;
        let schema = reader.metadata().file_metadata().schema_descr();
        let columns = schema.columns().iter().map(|column| column.path().string()).collect();
        Ok(Self { path: path.to_path_buf(), reader, columns })
    }

    /// Returns the position of the first of some columns that is there, or the error that `what` needs one of them.
    pub fn find(&self, what: &str, names: &[&str]) -> Result<usize, DataError> {
        let found = names.iter().find_map(|name| self.position(name));
        found.ok_or_else(|| {
            let quoted = |names: &mut dyn Iterator<Item = &str>| few(names.map(|name| format!("`{name}`")));
            let (asked, there) =
                (quoted(&mut names.iter().copied()), quoted(&mut self.columns.iter().map(String::as_str)));
            let reason = format!("has no column {asked} for the {what}; it has {there}");
            DataError::Layout { path: self.path.clone(), reason }
        })
    }

    pub fn position(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column == name)
    }

    /// The name of a column.
    pub fn column(&self, column: usize) -> &str {
        &self.columns[column]
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        let groups = self.reader.metadata().row_groups();
        groups.iter().map(|group| usize::try_from(group.num_rows()).unwrap_or(0)).sum()
    }

    /// The names of the classes that Hugging Face's description of the features has for a column.
    pub fn class_names(&self, column: &str) -> Option<Vec<String>> {
        let entries = self.reader.metadata().file_metadata().key_value_metadata()?;
        let described = entries.iter().find(|entry| entry.key == "huggingface")?.value.as_deref()?;
        let described: Value = serde_json::from_str(described).ok()?;
        let names = described["info"]["features"][column]["names"].as_array()?;
        names.iter().map(|name| name.as_str().map(str::to_owned)).collect()
    }

    /// Reads a column of numbers or texts.
    pub fn labels(&self, column: usize) -> Result<Vec<Label>, DataError> {
        let mut labels = Vec::new();
        for group in 0..self.reader.num_row_groups() {
            let integral = |number: f64| (number.fract() == 0.0).then_some(Label::Number(number as i64));
            let read = guarded(|| match self.reader.get_row_group(group)?.get_column_reader(column)? {
                ColumnReader::Int32ColumnReader(mut reader) => {
                    values(&mut reader, &mut labels, |number| Some(Label::Number((*number).into())))
                }
                ColumnReader::Int64ColumnReader(mut reader) => {
                    values(&mut reader, &mut labels, |number| Some(Label::Number(*number)))
                }
                ColumnReader::DoubleColumnReader(mut reader) => {
                    values(&mut reader, &mut labels, |number| integral(*number))
                }
                ColumnReader::FloatColumnReader(mut reader) => {
                    values(&mut reader, &mut labels, |number| integral((*number).into()))
                }
                ColumnReader::BoolColumnReader(mut reader) => {
                    values(&mut reader, &mut labels, |yes| Some(Label::Number((*yes).into())))
                }
                ColumnReader::ByteArrayColumnReader(mut reader) => {
                    let text =
                        |bytes: &ByteArray| Some(Label::Name(String::from_utf8_lossy(bytes.data()).into_owned()));
                    values(&mut reader, &mut labels, text)
                }
                _ => Err(ParquetError::General("it has neither numbers nor texts".to_owned())),
            });
            let name = &self.columns[column];
            read.map_err(|error| damaged(&self.path, format!("the column `{name}`: {error}")))?;
        }
        Ok(labels)
    }
}

/// Refuses row groups and columns that lie outside the file, which the reader does not expect.
fn check_ranges(metadata: &ParquetMetaData, length: u64) -> Result<(), String> {
    for (number, group) in metadata.row_groups().iter().enumerate() {
        let inside = |column: &ColumnChunkMetaData| {
            let begin = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
            let numbers = [begin, column.data_page_offset(), column.compressed_size(), column.num_values()];
            let end = begin.checked_add(column.compressed_size()).and_then(|end| u64::try_from(end).ok());
            numbers.iter().all(|number| *number >= 0) && end.is_some_and(|end| end <= length)
        };
        // Runs of one value take less than a bit for each; a bound is needed all the same.
        let rows = u64::try_from(group.num_rows()).is_ok_and(|rows| rows / 4096 <= length);
        if !rows || !group.columns().iter().all(inside) {
            return Err(format!("its row group {number} does not lie in its {length} bytes"));
        }
    }
    Ok(())
}

/// Calls the Parquet reader, which panics on some damaged files, and returns a panic as an error.
fn guarded<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied());
        Err(ParquetError::General(text.unwrap_or("its reader failed").to_owned()))
    })
}

fn damaged(path: &Path, error: impl ToString) -> DataError {
    DataError::Damaged { file: path.to_path_buf(), what: "Parquet file", reason: error.to_string() }
}

/// Reads the rest of a column of a row group. `label` returns `None` for a value that is no label.
fn values<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    labels: &mut Vec<Label>,
    label: impl Fn(&T::T) -> Option<Label>,
) -> Result<(), ParquetError> {
    loop {
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let (records, count, _) = reader.read_records(ROWS, Some(&mut levels), None, &mut values)?;
        if records == 0 {
            return Ok(());
        }
        if count != records {
            return Err(ParquetError::General(format!("{} of {records} rows have no value", records - count)));
        }
        for value in &values {
            let wrong = || ParquetError::General("it has a number that is no integer".to_owned());
            labels.push(label(value).ok_or_else(wrong)?);
        }
    }
}

/// A file of images, and the column that holds them.
struct Shard {
    path: PathBuf,
    column: usize,
    /// Position of its first image in the collection.
    first: u32,
}

/// Images that are encoded in a column of several files. They are read in blocks, and not kept.
pub(crate) struct ParquetImages {
    shards: Vec<Shard>,
    cursor: Mutex<Option<Cursor>>,
    /// The encoded images of the block that is read, or the reasons why there are none.
    block: RwLock<HashMap<u32, Result<ByteArray, String>>>,
}

impl ParquetImages {
    /// Images of some files, each with the column of its images. They come in this order.
    pub fn new(files: &[(ParquetFile, usize)]) -> Result<Self, DataError> {
        let (mut shards, mut first) = (Vec::new(), 0u32);
        for (file, column) in files {
            let schema = file.reader.metadata().file_metadata().schema_descr();
            let kind = schema.column(*column);
            if kind.physical_type() != Type::BYTE_ARRAY || kind.max_rep_level() > 0 {
                let reason = format!("has a column `{}` that holds no encoded images", file.column(*column));
                return Err(DataError::Layout { path: file.path.clone(), reason });
            }
            shards.push(Shard { path: file.path.clone(), column: *column, first });
            let next = u32::try_from(file.rows()).ok().and_then(|rows| first.checked_add(rows));
            first = next.ok_or_else(|| damaged(&file.path, "it has too many rows"))?;
        }
        Ok(Self { shards, cursor: Mutex::new(None), block: RwLock::default() })
    }

    /// The shard of an image, and its row there.
    fn locate(&self, index: u32) -> (usize, usize) {
        let shard = self.shards.partition_point(|shard| shard.first <= index) - 1;
        (shard, (index - self.shards[shard].first) as usize)
    }
}

/// A position in the column of images of a shard.
struct Cursor {
    shard: usize,
    file: ParquetFile,
    /// The row group that is read, and the rows of the shard that it and those before it have.
    group: usize,
    end: usize,
    /// The row that the reader is at.
    row: usize,
    reader: ColumnReaderImpl<ByteArrayType>,
}

impl Cursor {
    /// Opens the row group that has a row.
    fn open(shard: usize, file: ParquetFile, column: usize, row: usize) -> Result<Self, ParquetError> {
        let (mut group, mut begin) = (0, 0);
        loop {
            let Some(metadata) = file.reader.metadata().row_groups().get(group) else {
                return Err(ParquetError::General(format!("it has no row {row}")));
            };
            let end = begin + usize::try_from(metadata.num_rows()).unwrap_or(0);
            if row < end {
                let ColumnReader::ByteArrayColumnReader(reader) =
                    file.reader.get_row_group(group)?.get_column_reader(column)?
                else {
                    return Err(ParquetError::General("its images are no bytes".to_owned()));
                };
                return Ok(Self { shard, file, group, end, row: begin, reader });
            }
            (group, begin) = (group + 1, end);
        }
    }

    /// Reads the encoded image of a row that lies in the row group, at or behind the position.
    fn read(&mut self, row: usize) -> Result<ByteArray, ParquetError> {
        self.reader.skip_records(row - self.row)?;
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        self.reader.read_records(1, Some(&mut levels), None, &mut values)?;
        self.row = row + 1;
        values.pop().ok_or_else(|| ParquetError::General("it has no image: the value is missing".to_owned()))
    }
}

impl PoolImages for ParquetImages {
    fn prepare(&self, indices: &[u32]) -> Result<(), DataError> {
        let mut cursor = self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        let mut block = HashMap::new();
        for &index in indices {
            let (shard, row) = self.locate(index);
            let Shard { path, column, .. } = &self.shards[shard];
            let mut at = match cursor.take() {
                Some(at) if at.shard == shard && (at.row..at.end).contains(&row) => at,
                Some(at) if at.shard == shard => {
                    tracing::debug!(group = at.group, row, "next row group");
                    guarded(|| Cursor::open(shard, at.file, *column, row)).map_err(|error| damaged(path, error))?
                }
                _ => {
                    let file = ParquetFile::open(path)?;
                    guarded(|| Cursor::open(shard, file, *column, row)).map_err(|error| damaged(path, error))?
                }
            };
            block.insert(index, guarded(|| at.read(row)).map_err(|error| error.to_string()));
            *cursor = Some(at);
        }
        *self.block.write().unwrap_or_else(PoisonError::into_inner) = block;
        Ok(())
    }

    fn picture(&self, index: u32) -> Result<RgbImage, String> {
        let block = self.block.read().unwrap_or_else(PoisonError::into_inner);
        let bytes = block.get(&index).ok_or("it was not read")?.as_ref().map_err(Clone::clone)?.data();
        if bytes.len() as u64 > LIMIT_MIB << 20 {
            return Err(format!("it has {} bytes; the limit is {LIMIT_MIB} MiB", bytes.len()));
        }
        decode_bytes(bytes, Path::new(""))
    }

    fn place(&self, index: u32) -> PathBuf {
        let (shard, row) = self.locate(index);
        self.shards[shard].path.join(format!("row {row}"))
    }
}
