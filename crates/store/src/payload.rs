//! Payload files: the contents of an artifact.
//!
//! A payload file is a 128-byte header and a body. Numbers are little-endian.
//!
//! | bytes   | field                                                                          |
//! |---------|--------------------------------------------------------------------------------|
//! | 0..8    | magic, `HEMLOCK\0`                                                             |
//! | 8..10   | format, major `u16`: a newer one is refused                                    |
//! | 10..12  | format, minor `u16`: a newer one is accepted                                   |
//! | 12..14  | encoding `u16`: 0 bincode, 1 `f32`, 2 `u8`, 3 `u32`, 4 `f64`                   |
//! | 14..16  | number of axes `u16`, at most 4; 0 for bincode                                 |
//! | 16..48  | lengths of the axes, 4 x `u64`, unused ones zero                               |
//! | 48..56  | length of the body in bytes `u64`                                              |
//! | 56..96  | kind and name, such as `features/train`, UTF-8, padded with zeros              |
//! | 96..128 | BLAKE3 of the header with this field zeroed, followed by the body              |
//! | 128..   | the body: the array in C order, or the value's bincode                         |
//!
//! The body is aligned for every element type, so that other programs can map it:
//! `np.memmap(path, "<f4", "r", offset=128, shape=(n, d))`.

mod element;
mod file;
mod header;
mod mapped;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use element::{Block, Element};
pub(crate) use file::PayloadFile;
pub(crate) use header::Encoding;
pub use mapped::{Mapped, Scratch};

use crate::manifest::FileRecord;
use crate::names::check_name;
use crate::{Result, StoreError, codec};

#[cfg(target_endian = "big")]
compile_error!("payload bodies are the little-endian memory of arrays: big-endian hosts are not supported");

/// The contents of an artifact, which one stage writes and later stages read.
pub trait Artifact: Sized {
    /// The type's name on disk, such as `features`. Legal characters are `a-z 0-9 . _ -`.
    const KIND: &'static str;

    /// Writes the whole content as named payload files.
    ///
    /// # Errors
    /// The errors of [`PayloadWriter`]'s methods.
    fn write(&self, writer: &mut PayloadWriter) -> Result<()>;

    /// Reads back what [`write`](Self::write) wrote.
    ///
    /// # Errors
    /// The errors of [`PayloadReader`]'s methods, and [`PayloadReader::corrupt`] if contents contradict each other.
    fn read(reader: &PayloadReader) -> Result<Self>;

    /// Returns short facts for the manifest, such as shapes and scores. No stage reads them.
    fn summary(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
}

/// Writes payload files into a folder.
#[derive(Debug)]
pub struct PayloadWriter {
    dir: PathBuf,
    kind: String,
    files: BTreeMap<String, FileRecord>,
}

impl PayloadWriter {
    /// Makes a writer of artifacts of the given [`Artifact::KIND`] into an existing folder.
    pub fn new(dir: impl Into<PathBuf>, kind: &str) -> Self {
        Self { dir: dir.into(), kind: kind.to_owned(), files: BTreeMap::new() }
    }

    /// Writes an array in C order to the file `name`.
    ///
    /// # Errors
    /// - [`StoreError::Refused`] if the name is illegal or was used, if there are more than four axes, or if the shape
    ///   does not fit the data.
    /// - [`StoreError::Io`] if writing fails.
    pub fn array<T: Element>(&mut self, name: &str, shape: &[usize], data: &[T]) -> Result<()> {
        if header::volume(shape) != Some(data.len()) {
            return Err(StoreError::refused(format!(
                "`{}/{name}` has {} elements, which the shape {shape:?} does not hold",
                self.kind,
                data.len()
            )));
        }
        self.file(name, T::ENCODING, shape, bytemuck::cast_slice(data))
    }

    /// Writes a struct, or any other value that serde's derive supports, to the file `name`.
    ///
    /// The encoding does not store types. Types that have to be told what they read (`serde_json::Value`,
    /// `#[serde(untagged)]`, `#[serde(flatten)]`, `skip_serializing_if`) therefore do not work.
    ///
    /// # Errors
    /// As [`array`](Self::array), and [`StoreError::Refused`] if the value cannot be encoded or takes more than 256
    /// MiB.
    pub fn value<T: Serialize>(&mut self, name: &str, value: &T) -> Result<()> {
        let body = codec::encode(value)
            .map_err(|e| StoreError::refused(format!("the value of `{}/{name}` cannot be encoded: {e}", self.kind)))?;
        self.file(name, Encoding::Bincode, &[], &body)
    }

    /// Writes bytes to the file `name`, as an array of `u8` with one axis.
    ///
    /// # Errors
    /// As [`array`](Self::array).
    pub fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.array(name, &[bytes.len()], bytes)
    }

    /// The files written so far, by name.
    pub fn files(&self) -> &BTreeMap<String, FileRecord> {
        &self.files
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn set_kind(&mut self, kind: &str) {
        kind.clone_into(&mut self.kind);
    }

    fn file(&mut self, name: &str, encoding: Encoding, shape: &[usize], body: &[u8]) -> Result<()> {
        check_name("kind", &self.kind)?;
        check_name("file name", name)?;
        if self.files.contains_key(name) {
            return Err(StoreError::refused(format!("`{}/{name}` was already written", self.kind)));
        }
        let label = label(&self.kind, name);
        let record = PayloadFile::create(&self.dir.join(name), &label, encoding, shape, body)?;
        self.files.insert(name.to_owned(), record);
        Ok(())
    }
}

/// Reads the payload files of one artifact.
#[derive(Debug)]
pub struct PayloadReader {
    dir: PathBuf,
    kind: String,
    files: BTreeMap<String, FileRecord>,
}

impl PayloadReader {
    /// Makes a reader of an artifact of the given [`Artifact::KIND`], which consists of `files` in a folder.
    pub fn new(dir: impl Into<PathBuf>, kind: &str, files: BTreeMap<String, FileRecord>) -> Self {
        Self { dir: dir.into(), kind: kind.to_owned(), files }
    }

    /// Reads a whole array and checks its digest.
    ///
    /// # Errors
    /// - [`StoreError::Missing`], [`StoreError::Corrupt`] or [`StoreError::NewerFormat`] if the file cannot be used,
    ///   and [`StoreError::Io`] if it cannot be read.
    /// - [`StoreError::Mismatch`] if the file holds another kind, name or type of element.
    pub fn array<T: Element>(&self, name: &str) -> Result<Block<T>> {
        let file = self.open(name, T::ENCODING)?;
        let shape = file.header().shape.clone();
        let mut data: Vec<T> = bytemuck::zeroed_vec(file.header().elements());
        file.read_into(bytemuck::cast_slice_mut(&mut data))?;
        Ok(Block { shape, data })
    }

    /// Reads a whole array of `N` axes, and returns its shape and its elements in C order.
    ///
    /// # Errors
    /// As [`array`](Self::array), and [`StoreError::Mismatch`] if the array does not have `N` axes.
    pub fn shaped<T: Element, const N: usize>(&self, name: &str) -> Result<([usize; N], Vec<T>)> {
        let Block { shape, data } = self.array(name)?;
        let shape = shape.try_into().map_err(|shape| StoreError::Mismatch {
            path: self.dir.join(name),
            expected: format!("an array of {N} axes"),
            found: format!("an array of shape {shape:?}"),
        })?;
        Ok((shape, data))
    }

    /// Maps an array into memory. It is read once from end to end to check its digest.
    ///
    /// # Errors
    /// As [`array`](Self::array).
    pub fn map<T: Element>(&self, name: &str) -> Result<Mapped<T>> {
        self.open(name, T::ENCODING)?.map()
    }

    /// Reads some rows (indices of the first axis) of an array, and returns a block of shape `[rows.len(), ..]`.
    ///
    /// Only the header and the file's length are checked. The digest covers the whole file, which this method avoids
    /// reading; [`Store::verify`](crate::Store::verify) checks it.
    ///
    /// # Errors
    /// As [`array`](Self::array), and [`StoreError::Refused`] if the array has no such rows.
    pub fn rows<T: Element>(&self, name: &str, rows: Range<usize>) -> Result<Block<T>> {
        let file = self.open(name, T::ENCODING)?;
        let shape = &file.header().shape;
        let Some((&total, rest)) = shape.split_first() else {
            return Err(StoreError::refused(format!("`{}/{name}` is a single number and has no rows", self.kind)));
        };
        if rows.start > rows.end || rows.end > total {
            return Err(StoreError::refused(format!(
                "`{}/{name}` has {total} rows: there are no rows {rows:?}",
                self.kind
            )));
        }
        // The volume in the header was checked, so these products overflow only if there are no elements.
        let row: usize = if file.header().elements() == 0 { 0 } else { rest.iter().product() };
        let mut data: Vec<T> = bytemuck::zeroed_vec(rows.len() * row);
        file.read_at(bytemuck::cast_slice_mut(&mut data), rows.start * row * size_of::<T>())?;
        let shape = std::iter::once(rows.len()).chain(rest.iter().copied()).collect();
        Ok(Block { shape, data })
    }

    /// Reads a value that [`PayloadWriter::value`] wrote, and checks its digest.
    ///
    /// # Errors
    /// As [`array`](Self::array), and [`StoreError::Corrupt`] if the bytes have the right digest but do not encode a
    /// `T`.
    pub fn value<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let file = self.open(name, Encoding::Bincode)?;
        let mut body = vec![0; file.header().elements()];
        file.read_into(&mut body)?;
        codec::decode(&body)
            .map_err(|e| self.corrupt(name, format!("it is not a {} of this version: {e}", std::any::type_name::<T>())))
    }

    /// Reads bytes that [`PayloadWriter::bytes`] wrote, and checks their digest.
    ///
    /// # Errors
    /// As [`array`](Self::array).
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        Ok(self.shaped::<u8, 1>(name)?.1)
    }

    /// The files of the artifact, by name.
    pub fn files(&self) -> &BTreeMap<String, FileRecord> {
        &self.files
    }

    /// For [`Artifact::read`]: returns the error that the contents of the file `name` are invalid, and why.
    pub fn corrupt(&self, name: &str, what: impl Into<String>) -> StoreError {
        StoreError::corrupt(&self.dir.join(name), what)
    }

    fn open(&self, name: &str, encoding: Encoding) -> Result<PayloadFile> {
        let path = self.dir.join(name);
        let Some(record) = self.files.get(name) else {
            return Err(StoreError::missing(&path, format!("file `{name}` of kind `{}`", self.kind)));
        };
        let file = PayloadFile::open(&path)?;
        file.expect(&label(&self.kind, name), encoding)?;
        file.expect_record(record)?;
        Ok(file)
    }
}

/// Returns the label of the file `name` of an artifact, which its header holds.
fn label(kind: &str, name: &str) -> String {
    format!("{kind}/{name}")
}
