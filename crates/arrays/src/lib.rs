//! Named arrays from files of other tools: NumPy's `.npz` and `.npy`, and safetensors.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use hemlock_stage::{ErrorKind, FileError, MESSAGE, ParamError, StageError, few, open_file, short};
use ndarray::{Array2, Array4, ShapeBuilder};
use npyz::{DType, Endianness, NpyHeader, Order, TypeChar};
use safetensors::{Dtype, tensor::Metadata};
use zip::ZipArchive;

/// An error about a file of arrays.
#[derive(Debug, thiserror::Error)]
pub enum ArraysError {
    /// Neither the name nor the content says what kind of file it is.
    #[error("is {}; expected a file that ends in .npz or .safetensors, or a folder of .npy files", .path.display())]
    Ending {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// An array is missing.
    #[error("{} has no array `{name}`; it has {}", .path.display(), few(.found))]
    Missing {
        /// The file.
        path: PathBuf,
        /// The name of the missing array.
        name: &'static str,
        /// The names of the arrays that are there.
        found: Vec<String>,
    },
    /// An array has another shape, type or content than expected.
    #[error("{}: the array `{name}` {problem}", .path.display())]
    Array {
        /// The file.
        path: PathBuf,
        /// The name of the array.
        name: &'static str,
        /// What the array is, and what was expected.
        problem: String,
    },
}

impl ArraysError {
    fn array(path: &Path, name: &'static str, problem: &str) -> Self {
        Self::Array { path: path.to_owned(), name, problem: short(problem, MESSAGE).into_owned() }
    }

    /// Converts to the error of a stage whose parameter `field` names the file.
    pub fn of_field(self, field: &str) -> StageError {
        match self {
            Self::Ending { .. } => ParamError::new(field, self.to_string()).into(),
            e => e.into(),
        }
    }
}

impl From<ArraysError> for StageError {
    fn from(e: ArraysError) -> Self {
        Self::new(ErrorKind::Data, e)
    }
}

/// The kind of file that holds the arrays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Npz,
    Safetensors,
    Folder,
}

impl Kind {
    /// Returns the kind that the file's content shows or, if the content shows none, the kind that its ending promises.
    fn of(path: &Path) -> Result<Self, ArraysError> {
        if path.is_dir() {
            return Ok(Self::Folder);
        }
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
        let promised = match ending.as_deref() {
            Some("npz") => Some(Self::Npz),
            Some("safetensors") => Some(Self::Safetensors),
            None if !path.exists() => Some(Self::Folder),
            _ => None,
        };
        Self::found(path).or(promised).ok_or_else(|| ArraysError::Ending { path: path.to_owned() })
    }

    /// Returns the kind that the file's content shows.
    fn found(path: &Path) -> Option<Self> {
        let mut file = open_file(path).ok()?;
        let mut start = [0; 9];
        file.read_exact(&mut start).ok()?;
        let length = u64::from_le_bytes(*start.first_chunk()?);
        if start[8] == b'{' && length < file.metadata().ok()?.len() {
            return Some(Self::Safetensors);
        }
        // PyTorch's files are zip archives as well, so that only an entry that ends in `.npy` shows the kind.
        let archive = start.starts_with(b"PK").then(|| ZipArchive::new(BufReader::new(file)).ok())??;
        archive.file_names().any(|name| name.is_ok_and(|name| name.ends_with(".npy"))).then_some(Self::Npz)
    }

    fn words(self) -> &'static str {
        match self {
            Self::Npz => ".npz archive",
            Self::Safetensors => "safetensors file",
            Self::Folder => "folder of .npy files",
        }
    }

    fn unreadable(self, path: &Path) -> impl FnOnce(io::Error) -> FileError {
        FileError::unreadable(path, self.words())
    }

    fn damaged<E: Display>(self, path: &Path) -> impl FnOnce(E) -> FileError {
        FileError::damaged(path, self.words())
    }
}

/// Returns the BLAKE3 hash of a file, in hex. For a folder, it hashes the names and files of those arrays in `names`
/// that are there.
///
/// # Errors
/// If the kind of the file is unknown, or if a file cannot be read.
pub fn digest(path: &Path, names: &[&str]) -> Result<String, ArraysError> {
    let kind = Kind::of(path)?;
    let hash = |path: &Path| -> Result<blake3::Hash, ArraysError> {
        let mut hasher = blake3::Hasher::new();
        open_file(path).and_then(|_| hasher.update_mmap_rayon(path)).map_err(kind.unreadable(path))?;
        Ok(hasher.finalize())
    };
    if kind != Kind::Folder {
        return Ok(hash(path)?.to_hex().to_string());
    }
    let there = npy_files(path)?;
    let mut all = blake3::Hasher::new();
    for name in names.iter().filter(|name| there.iter().any(|there| there == *name)) {
        all.update(name.as_bytes()).update(hash(&npy_file(path, name))?.as_bytes());
    }
    Ok(all.finalize().to_hex().to_string())
}

fn npy_file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.npy"))
}

/// Returns the name of the array that a file or an entry of an archive holds.
fn array_name(file: &str) -> String {
    file.strip_suffix(".npy").unwrap_or(file).to_owned()
}

/// Returns the names of a folder's `.npy` files without their ending, in order.
fn npy_files(folder: &Path) -> Result<Vec<String>, ArraysError> {
    let unreadable = || Kind::Folder.unreadable(folder);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable())? {
        let file = entry.map_err(unreadable())?.file_name();
        let (file, name) = (file.to_string_lossy(), array_name(&file.to_string_lossy()));
        names.extend((name != file).then_some(name));
    }
    names.sort();
    Ok(names)
}

/// The arrays of a file or folder. Values are read when a method asks for them.
pub struct Arrays {
    path: PathBuf,
    names: Vec<String>,
    source: Source,
}

enum Source {
    Npz(ZipArchive<BufReader<File>>),
    /// The file, the offset at which its tensors begin, and their types and places.
    Safetensors(BufReader<File>, u64, Metadata),
    Folder,
}

impl Arrays {
    /// Opens a `.npz` or `.safetensors` file, or a folder of `.npy` files.
    ///
    /// # Errors
    /// If the path does not exist, is of no known kind, cannot be read, or is damaged.
    pub fn open(path: &Path) -> Result<Self, ArraysError> {
        let kind = Kind::of(path)?;
        let open = || open_file(path).map(BufReader::new).map_err(kind.unreadable(path));
        let (names, source) = match kind {
            Kind::Npz => {
                let archive = ZipArchive::new(open()?).map_err(kind.damaged(path))?;
                let names: zip::result::ZipResult<Vec<_>> =
                    archive.file_names().map(|name| name.map(|name| array_name(&name))).collect();
                (names.map_err(kind.damaged(path))?, Source::Npz(archive))
            }
            Kind::Safetensors => {
                let mut file = open()?;
                let (start, metadata) = safetensors_header(&mut file).map_err(kind.damaged(path))?;
                (metadata.offset_keys(), Source::Safetensors(file, start, metadata))
            }
            Kind::Folder => (npy_files(path)?, Source::Folder),
        };
        Ok(Self { path: path.to_owned(), names, source })
    }

    /// The names of all arrays.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether there is an array of that name.
    pub fn has(&self, name: &str) -> bool {
        self.names.iter().any(|there| there == name)
    }

    /// Returns the error that an array of this file cannot be used, with the reason.
    pub fn refuse(&self, name: &'static str, problem: impl Into<String>) -> ArraysError {
        ArraysError::array(&self.path, name, &problem.into())
    }

    /// Reads features `[n, d]`, stored as floating-point numbers of 16, 32 or 64 bits.
    ///
    /// # Errors
    /// If the array is missing, has another shape or type, is cut off, or holds a number that is not finite in 32 bits.
    pub fn features(&mut self, name: &'static str) -> Result<Array2<f32>, ArraysError> {
        self.read(name, |mut stored| {
            let [n, d] = stored.shape[..] else {
                return Err(format!("has shape {:?}; expected [n, d], a row of features per sample", stored.shape));
            };
            let Some(element) = stored.dtype.and_then(float) else {
                let expected = "expected floating-point numbers of 16, 32 or 64 bits";
                return Err(format!("has elements of type {}; {expected}", stored.type_name));
            };
            let (fortran, mut values) = (stored.fortran, Vec::new());
            stored.values(&element, &mut values, |i, x| {
                if (x as f32).is_finite() {
                    return Ok(x as f32);
                }
                let (row, column) = if fortran { (i % n, i / n) } else { (i / d, i % d) };
                Err(format!("is {x} at [{row}, {column}]; expected numbers that are finite in 32 bits"))
            })?;
            let features = Array2::from_shape_vec((n, d).set_f(fortran), values).map_err(|e| e.to_string())?;
            Ok(if fortran { features.as_standard_layout().into_owned() } else { features })
        })
    }

    /// Reads pixels `[n, 3, height, width]`, stored as unsigned integers of 8 bits.
    ///
    /// # Errors
    /// If the array is missing, has another shape or type, or is cut off.
    pub fn pixels(&mut self, name: &'static str) -> Result<Array4<u8>, ArraysError> {
        self.read(name, |mut stored| {
            let [n, 3, height, width] = stored.shape[..] else {
                return Err(format!("has shape {:?}; expected [n, 3, height, width]", stored.shape));
            };
            if stored.dtype != Some(Dtype::U8) {
                let expected =
                    "expected unsigned integers of 8 bits: pixels as a file holds them, before any normalisation";
                return Err(format!("has elements of type {}; {expected}", stored.type_name));
            }
            let (fortran, mut values) = (stored.fortran, Vec::new());
            let byte: Type<u8> = Type { size: 1, value: |bits| bits as u8 };
            stored.values(&byte, &mut values, |_, pixel| Ok(pixel))?;
            Array4::from_shape_vec((n, 3, height, width).set_f(fortran), values).map_err(|e| e.to_string())
        })
    }

    /// Writes the elements of an array of any shape, stored as unsigned integers of 8 bits, in C order to `to`. Returns
    /// its shape.
    ///
    /// # Errors
    /// If the array is missing, has another type or order, or is cut off, or if it cannot be written.
    pub fn copy_bytes(&mut self, name: &'static str, to: &mut dyn Write) -> Result<Vec<usize>, ArraysError> {
        self.read(name, |mut stored| {
            if stored.dtype != Some(Dtype::U8) {
                return Err(format!("has elements of type {}; expected unsigned integers of 8 bits", stored.type_name));
            }
            if stored.fortran && stored.shape.len() > 1 {
                return Err("is in Fortran order; expected C order, as `numpy.ascontiguousarray` gives it".to_owned());
            }
            stored.blocks(1, |block| to.write_all(block).map_err(|e| format!("cannot be copied: {e}")))?;
            Ok(stored.shape)
        })
    }

    /// Reads integers `[n]` or `[n, 1]` of any type.
    ///
    /// # Errors
    /// If the array is missing, has another shape or type, is cut off, or holds a number that does not fit into an
    /// `i64`.
    pub fn integers(&mut self, name: &'static str) -> Result<Vec<i64>, ArraysError> {
        self.read(name, |mut stored| {
            if !matches!(stored.shape[..], [_] | [_, 1]) {
                return Err(format!("has shape {:?}; expected [n] or [n, 1], an integer per sample", stored.shape));
            }
            let Some(element) = stored.dtype.and_then(integer) else {
                return Err(format!("has elements of type {}; expected integers", stored.type_name));
            };
            let mut integers = Vec::new();
            stored.values(&element, &mut integers, |i, x| {
                i64::try_from(x).map_err(|_| format!("is {x} at [{i}]; expected integers of 64 bits"))
            })?;
            Ok(integers)
        })
    }

    /// Reads labels `[n]`, stored as integers of any type.
    ///
    /// # Errors
    /// If the array is missing, has another shape or type, is cut off, or holds a number that does not fit into a
    /// `u32`.
    pub fn labels(&mut self, name: &'static str) -> Result<Vec<u32>, ArraysError> {
        self.read(name, |mut stored| {
            if stored.shape.len() != 1 {
                return Err(format!("has shape {:?}; expected [n], a class per sample", stored.shape));
            }
            let Some(element) = stored.dtype.and_then(integer) else {
                return Err(format!("has elements of type {}; expected integers", stored.type_name));
            };
            let mut labels = Vec::new();
            stored.values(&element, &mut labels, |i, label| {
                u32::try_from(label).map_err(|_| format!("is {label} at [{i}]; expected classes, counted from 0"))
            })?;
            Ok(labels)
        })
    }

    fn read<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(StoredArray) -> Result<T, String>,
    ) -> Result<T, ArraysError> {
        if !self.has(name) {
            return Err(ArraysError::Missing { path: self.path.clone(), name, found: self.names.clone() });
        }
        let refuse = |problem: String| ArraysError::array(&self.path, name, &problem);
        let no_npy = |e: &dyn Display| refuse(format!("is damaged, or no .npy file: {e}"));
        let stored = match &mut self.source {
            Source::Npz(archive) => {
                // NumPy's `savez` adds the ending to names; other writers may not.
                let entry = [format!("{name}.npy"), name.to_owned()].iter().find_map(|n| archive.index_for_name(n));
                let entry = archive.by_index(entry.unwrap_or(usize::MAX)).map_err(|e| no_npy(&e))?;
                let bytes = entry.size();
                StoredArray::npy(entry, bytes).map_err(|e| no_npy(&e))?
            }
            Source::Safetensors(file, start, metadata) => {
                StoredArray::tensor(file, *start, metadata, name).map_err(|e| refuse(format!("cannot be read: {e}")))?
            }
            Source::Folder => {
                let path = npy_file(&self.path, name);
                let opened = open_file(&path).and_then(|file| Ok((file.metadata()?.len(), BufReader::new(file))));
                let (bytes, file) = opened.map_err(Kind::Folder.unreadable(&path))?;
                StoredArray::npy(file, bytes).map_err(|e| no_npy(&e))?
            }
        };
        read(stored).map_err(refuse)
    }
}

/// Reads the header of a safetensors file: the offset at which its tensors begin, and their types and places.
///
/// # Errors
/// If the file cannot be read, is not in this format, or has another length than its header says.
pub fn safetensors_header(file: &mut (impl Read + Seek)) -> io::Result<(u64, Metadata)> {
    let total = file.seek(SeekFrom::End(0))?;
    file.rewind()?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let cut = || io::Error::new(io::ErrorKind::UnexpectedEof, format!("{total} bytes are not all of it"));
    let start = u64::from_le_bytes(length).checked_add(8).filter(|start| *start <= total).ok_or_else(cut)?;
    let mut header = Vec::new();
    file.take(start - 8).read_to_end(&mut header)?;
    // Deserialising checks types, shapes and offsets against each other.
    let metadata: Metadata = serde_json::from_slice(&header)?;
    if start.checked_add(metadata.data_len() as u64) == Some(total) { Ok((start, metadata)) } else { Err(cut()) }
}

/// An array in a file, before its values are read.
struct StoredArray<'a> {
    shape: Vec<usize>,
    /// Name of the elements' type, as the file gives it.
    type_name: String,
    /// Type of the elements; `None` if it is not a plain number.
    dtype: Option<Dtype>,
    big_endian: bool,
    /// Whether the first axis varies fastest.
    fortran: bool,
    /// Size of all elements, in bytes.
    bytes: u64,
    elements: Box<dyn Read + 'a>,
}

/// The largest header of a `.npy` file that is parsed, in bytes, without the spaces at its end. A header for plain
/// numbers takes a hundred bytes, and the parser is recursive.
const HEADER: usize = 1024;
/// The largest header of a `.npy` file with its spaces, in bytes. NumPy reads 10,000.
const PADDED: u64 = 1 << 16;

/// Number of bytes that are read at once; a multiple of the size of every type of elements.
const BLOCK: usize = 1 << 16;

impl<'a> StoredArray<'a> {
    /// Reads the header of a `.npy` file that has this many bytes in all.
    fn npy(mut file: impl Read + 'a, bytes: u64) -> io::Result<Self> {
        let (header, used) = npy_header(&mut file)?;
        let too_large = |_| io::Error::new(io::ErrorKind::InvalidData, "its shape is too large");
        let shape = header.shape().iter().map(|n| usize::try_from(*n)).collect::<Result<_, _>>().map_err(too_large)?;
        let (dtype, big_endian) = match header.dtype() {
            DType::Plain(plain) => {
                let dtype = match (plain.type_char(), plain.size_field()) {
                    (TypeChar::Float, 2) => Some(Dtype::F16),
                    (TypeChar::Float, 4) => Some(Dtype::F32),
                    (TypeChar::Float, 8) => Some(Dtype::F64),
                    (TypeChar::Int, 1) => Some(Dtype::I8),
                    (TypeChar::Int, 2) => Some(Dtype::I16),
                    (TypeChar::Int, 4) => Some(Dtype::I32),
                    (TypeChar::Int, 8) => Some(Dtype::I64),
                    (TypeChar::Uint, 1) => Some(Dtype::U8),
                    (TypeChar::Uint, 2) => Some(Dtype::U16),
                    (TypeChar::Uint, 4) => Some(Dtype::U32),
                    (TypeChar::Uint, 8) => Some(Dtype::U64),
                    _ => None,
                };
                (dtype, plain.endianness() == Endianness::Big)
            }
            DType::Array(..) | DType::Record(_) => (None, false),
        };
        Ok(Self {
            shape,
            type_name: header.dtype().descr(),
            dtype,
            big_endian,
            fortran: header.order() == Order::Fortran,
            bytes: bytes.saturating_sub(used),
            elements: Box::new(file),
        })
    }

    /// Finds a tensor of a safetensors file whose tensors begin at `start`.
    fn tensor(file: &'a mut BufReader<File>, start: u64, metadata: &Metadata, name: &str) -> io::Result<Self> {
        let info = metadata.info(name).ok_or(io::ErrorKind::NotFound)?;
        let (from, to) = info.data_offsets;
        file.seek(SeekFrom::Start(start + from as u64))?;
        let bytes = (to - from) as u64;
        Ok(Self {
            shape: info.shape.clone(),
            type_name: format!("{:?}", info.dtype),
            dtype: Some(info.dtype),
            big_endian: false,
            fortran: false,
            bytes,
            elements: Box::new(file.take(bytes)),
        })
    }

    /// Calls `checked` with the position and value of every element, in the file's order, and appends what it returns.
    fn values<E, T>(
        &mut self,
        element: &Type<E>,
        values: &mut Vec<T>,
        mut checked: impl FnMut(usize, E) -> Result<T, String>,
    ) -> Result<(), String> {
        let (size, big_endian) = (element.size, self.big_endian);
        let total = self.total(size)?;
        values.try_reserve_exact(total / size).map_err(|_| format!("of {total} bytes does not fit into memory"))?;
        self.blocks(size, |block| {
            for bytes in block.chunks_exact(size) {
                let mut bits = [0; 8];
                bits[..size].copy_from_slice(bytes);
                if big_endian {
                    bits[..size].reverse();
                }
                values.push(checked(values.len(), (element.value)(u64::from_le_bytes(bits)))?);
            }
            Ok(())
        })
    }

    /// Returns the number of bytes of an array with elements of `size` bytes, if the file has as many.
    fn total(&self, size: usize) -> Result<usize, String> {
        let count = self.shape.iter().try_fold(1usize, |count, n| count.checked_mul(*n));
        let total = count.and_then(|count| count.checked_mul(size)).unwrap_or(usize::MAX);
        if total as u64 != self.bytes {
            let Self { shape, type_name, bytes, .. } = self;
            return Err(format!("has {bytes} bytes; expected {total}, for shape {shape:?} of type {type_name}"));
        }
        Ok(total)
    }

    /// Reads elements of `size` bytes, block by block.
    fn blocks(&mut self, size: usize, mut each: impl FnMut(&[u8]) -> Result<(), String>) -> Result<(), String> {
        let mut left = self.total(size)?;
        let damaged = |e: io::Error| format!("is damaged: {e}");
        let mut block = vec![0; BLOCK];
        while left > 0 {
            let read = &mut block[..left.min(BLOCK)];
            self.elements.read_exact(read).map_err(damaged)?;
            each(read)?;
            left -= read.len();
        }
        // An archive compares its checksum when it is read to the end.
        self.elements.read(&mut block).map(|_| ()).map_err(damaged)
    }
}

/// Reads the header of a `.npy` file of version 1, 2 or 3, which may be padded. Returns it with the number of bytes
/// before the elements.
fn npy_header(file: &mut impl Read) -> io::Result<(NpyHeader, u64)> {
    let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut start = [0; 8];
    file.read_exact(&mut start)?;
    let [magic @ .., major, _] = start;
    if magic != *b"\x93NUMPY" {
        return Err(wrong("it does not begin as such files do".to_owned()));
    }
    let mut length = [0; 4];
    let wide = if major == 1 { 2 } else { 4 };
    file.read_exact(&mut length[..wide])?;
    let padded = u64::from(u32::from_le_bytes(length));
    if padded > PADDED {
        return Err(wrong(format!("its header has {padded} bytes; expected at most {PADDED}")));
    }
    let mut text = Vec::new();
    file.take(padded).read_to_end(&mut text)?;
    if text.len() as u64 != padded {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let text = text.trim_ascii_end();
    if text.len() > HEADER {
        return Err(wrong(format!(
            "its header has {} bytes that are no spaces; expected at most {HEADER}",
            text.len()
        )));
    }
    // The parser gets the same header without its padding.
    let unpadded = (text.len() as u32 + 1).to_le_bytes();
    let header = [&start[..], &unpadded[..wide], text, b"\n"].concat();
    Ok((NpyHeader::from_reader(&header[..])?, start.len() as u64 + wide as u64 + padded))
}

/// A type of elements: their size, and how to convert them.
struct Type<T> {
    /// Size of an element, in bytes.
    size: usize,
    /// Converts the bits of an element, which are the lowest bits of the argument; the others are 0.
    value: fn(u64) -> T,
}

/// Returns the conversion of a floating-point type to f64; `None` for other types.
fn float(dtype: Dtype) -> Option<Type<f64>> {
    let (size, value): (_, fn(u64) -> _) = match dtype {
        Dtype::F16 => (2, |bits| f16::from_bits(bits as u16).to_f64()),
        Dtype::BF16 => (2, |bits| bf16::from_bits(bits as u16).to_f64()),
        Dtype::F32 => (4, |bits| f64::from(f32::from_bits(bits as u32))),
        Dtype::F64 => (8, f64::from_bits),
        _ => return None,
    };
    Some(Type { size, value })
}

/// Returns the conversion of an integer type to i128; `None` for other types.
fn integer(dtype: Dtype) -> Option<Type<i128>> {
    let (size, value): (_, fn(u64) -> _) = match dtype {
        Dtype::I8 => (1, |bits| (bits as i8).into()),
        Dtype::I16 => (2, |bits| (bits as i16).into()),
        Dtype::I32 => (4, |bits| (bits as i32).into()),
        Dtype::I64 => (8, |bits| (bits as i64).into()),
        Dtype::U8 => (1, |bits| bits.into()),
        Dtype::U16 => (2, |bits| bits.into()),
        Dtype::U32 => (4, |bits| bits.into()),
        Dtype::U64 => (8, |bits| bits.into()),
        _ => return None,
    };
    Some(Type { size, value })
}
