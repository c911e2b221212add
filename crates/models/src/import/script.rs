//! TorchScript archives (`torch.jit.save`): the tensors of a program, by the names of its `state_dict`.
//!
//! The archive's `data.pkl` is a pickle of the program's module: an object of attributes, of which some are modules
//! and some are tensors. What the program computes lies in `code/`, and is neither read nor run.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use burn::store::burn_pack::{Error as PackError, Tensor as StoredTensor};
use burn::tensor::{BoolStore, Bytes, DType};
use zip::ZipArchive;

use super::short;

/// Most bytes of a pickle, most values in it, most attributes of a program, and most modules inside of each other.
const PICKLE: u64 = 100 << 20;
const VALUES: usize = 1 << 22;
const NAMES: usize = 1 << 20;
const DEPTH: usize = 64;
/// Most elements of a storage, and of a tensor that has more of them than its storage.
const STORED: usize = 1 << 36;
const EXPANDED: usize = 1 << 24;

/// A value of a pickle. Values refer to each other by their place among all values.
#[derive(Debug, Clone)]
enum Value {
    Text(String),
    Whole(i64),
    Global(String),
    Sequence(Vec<usize>),
    Table(Vec<(usize, usize)>),
    /// An object, and its state once it is known.
    Object(Option<usize>),
    Storage {
        key: String,
        dtype: DType,
        length: usize,
    },
    Tensor(View),
    /// Anything that no name and no tensor depends on.
    Other,
}

/// A tensor as a part of a storage.
#[derive(Debug, Clone)]
struct View {
    key: String,
    dtype: DType,
    /// Elements of the storage.
    length: usize,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

/// The tensors of an archive, by name.
///
/// # Errors
/// If the archive is damaged, or if its tensors are quantised or sparse.
pub(super) fn tensors(path: &Path) -> Result<BTreeMap<String, StoredTensor>, String> {
    let mut archive = open(path)?;
    let names: Vec<String> = archive.file_names().filter_map(|name| Some(name.ok()?.into_owned())).collect();
    let ends = |end: &str| names.iter().find(|name| name.strip_suffix(end).is_some_and(|root| !root.contains('/')));
    let pickle = ends("/data.pkl").ok_or("there is no data.pkl")?;
    let root = pickle.trim_end_matches("data.pkl");
    if read(&mut archive, &format!("{root}byteorder"), PICKLE).is_ok_and(|order| order.starts_with(b"big")) {
        return Err("its numbers are big-endian".to_owned());
    }
    let bytes = read(&mut archive, pickle, PICKLE)?;
    let (values, module) = Machine::new(&bytes).run()?;
    let mut views = Vec::new();
    let mut seen = 0;
    walk(&values, module, "", 0, &mut seen, &mut views)?;
    let stored = |(name, view): (String, View)| {
        let (path, entry) = (path.to_owned(), format!("{root}data/{}", view.key));
        let (dtype, shape) = (view.dtype, view.shape.clone());
        let length = view.elements() * dtype.size();
        let bytes = move || {
            let made = open(&path).and_then(|mut archive| view.values(&mut archive, &entry));
            made.map(Bytes::from_bytes_vec).map_err(PackError::IoError)
        };
        (name.clone(), StoredTensor::deferred(name, dtype, shape, None, length, bytes))
    };
    Ok(views.into_iter().map(stored).collect())
}

fn open(path: &Path) -> Result<ZipArchive<BufReader<File>>, String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    ZipArchive::new(BufReader::new(file)).map_err(|e| e.to_string())
}

/// The content of an entry, of at most so many bytes.
fn read(archive: &mut ZipArchive<BufReader<File>>, name: &str, most: u64) -> Result<Vec<u8>, String> {
    let failed = |e: &dyn std::fmt::Display| format!("`{}`: {e}", short(name));
    let entry = archive.by_name(name).map_err(|e| failed(&e))?;
    if entry.size() > most {
        return Err(failed(&format!("it has {} bytes, and at most {most} are expected", entry.size())));
    }
    let mut bytes = Vec::new();
    entry.take(most).read_to_end(&mut bytes).map_err(|e| failed(&e))?;
    Ok(bytes)
}

impl View {
    fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Checks that all elements lie in the storage, and that there are not many more of them.
    fn checked(self) -> Result<Self, String> {
        let product = self.shape.iter().try_fold(1usize, |all, length| all.checked_mul(*length));
        let last = || {
            let steps = self.shape.iter().zip(&self.strides).map(|(length, stride)| (length - 1).checked_mul(*stride));
            steps.into_iter().try_fold(self.offset, |at, step| at.checked_add(step?))
        };
        let fits = match product {
            _ if self.strides.len() != self.shape.len() => false,
            Some(0) => true,
            Some(_) if self.length > STORED => false,
            Some(count) => count <= self.length.max(EXPANDED) && last().is_some_and(|last| last < self.length),
            None => false,
        };
        if fits { Ok(self) } else { Err(format!("a tensor of shape {:?} is outside of its storage", self.shape)) }
    }

    /// The elements in row-major order.
    fn values(&self, archive: &mut ZipArchive<BufReader<File>>, entry: &str) -> Result<Vec<u8>, String> {
        let size = self.dtype.size();
        if self.elements() == 0 {
            return Ok(Vec::new());
        }
        let all = read(archive, entry, (self.length * size) as u64)?;
        if all.len() < self.length * size {
            return Err(format!("`{}` has {} bytes, and {} are expected", short(entry), all.len(), self.length * size));
        }
        let mut places = vec![self.offset];
        for (length, stride) in self.shape.iter().zip(&self.strides) {
            places = places.into_iter().flat_map(|at| (0..*length).map(move |i| at + i * stride)).collect();
        }
        Ok(places.into_iter().flat_map(|at| &all[at * size..(at + 1) * size]).copied().collect())
    }
}

/// Collects the tensors of a module and of the modules in it.
fn walk(
    values: &[Value],
    at: usize,
    prefix: &str,
    depth: usize,
    seen: &mut usize,
    views: &mut Vec<(String, View)>,
) -> Result<(), String> {
    let Value::Object(Some(state)) = &values[at] else { return Ok(()) };
    let Value::Table(state) = &values[*state] else { return Ok(()) };
    if depth > DEPTH {
        return Err(format!("its modules are nested more than {DEPTH} times"));
    }
    for (name, value) in state {
        *seen += 1;
        if *seen > NAMES {
            return Err(format!("it has more than {NAMES} attributes"));
        }
        let Value::Text(name) = &values[*name] else { continue };
        match &values[*value] {
            Value::Tensor(view) => views.push((format!("{prefix}{name}"), view.clone())),
            Value::Object(_) => walk(values, *value, &format!("{prefix}{name}."), depth + 1, seen, views)?,
            _ => {}
        }
    }
    Ok(())
}

/// Reads a pickle as PyTorch's own pickler writes it. It calls nothing: of all functions that a pickle may name, the
/// ones that make tensors are understood.
struct Machine<'a> {
    bytes: &'a [u8],
    values: Vec<Value>,
    stack: Vec<usize>,
    /// Lengths of the stack at its marks.
    marks: Vec<usize>,
    memo: BTreeMap<usize, usize>,
}

impl<'a> Machine<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, values: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: BTreeMap::new() }
    }

    /// All values, and the place of the result.
    #[allow(clippy::too_many_lines, reason = "an arm for each operation")]
    fn run(mut self) -> Result<(Vec<Value>, usize), String> {
        loop {
            if self.values.len() > VALUES {
                return Err(format!("its data.pkl has more than {VALUES} values"));
            }
            let code = self.number::<1>()? as u8;
            match code {
                0x80 => drop(self.take(1)?),
                b'.' => {
                    let result = self.pop()?;
                    return Ok((self.values, result));
                }
                b'(' => self.marks.push(self.stack.len()),
                b')' | b']' => self.push(Value::Sequence(Vec::new())),
                b'}' => self.push(Value::Table(Vec::new())),
                b'N' | 0x88 | 0x89 => self.push(Value::Other),
                b'G' => {
                    self.take(8)?;
                    self.push(Value::Other);
                }
                b'K' => self.whole::<1>()?,
                b'M' => self.whole::<2>()?,
                b'J' => {
                    let number = self.number::<4>()? as u32;
                    self.push(Value::Whole(i64::from(number.cast_signed())));
                }
                0x8a => self.long()?,
                b'X' => self.text::<4>()?,
                b'U' | 0x8c => self.text::<1>()?,
                b'c' => {
                    let name = [self.line()?, self.line()?].join(" ");
                    self.push(Value::Global(name));
                }
                b'q' => self.put::<1>()?,
                b'r' => self.put::<4>()?,
                b'h' => self.get::<1>()?,
                b'j' => self.get::<4>()?,
                b't' => {
                    let parts = self.since_mark()?;
                    self.push(Value::Sequence(parts));
                }
                0x85..=0x87 => {
                    let count = usize::from(code - 0x84);
                    let from = self.stack.len().checked_sub(count).ok_or("the pickle's stack is empty")?;
                    let parts = self.stack.split_off(from);
                    self.push(Value::Sequence(parts));
                }
                b'a' => {
                    let part = self.pop()?;
                    self.append(vec![part])?;
                }
                b'e' => {
                    let parts = self.since_mark()?;
                    self.append(parts)?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.set(&[key, value])?;
                }
                b'u' => {
                    let parts = self.since_mark()?;
                    self.set(&parts)?;
                }
                b'Q' => self.storage()?,
                0x81 => {
                    self.pop()?;
                    self.pop()?;
                    self.push(Value::Object(None));
                }
                b'R' => self.call()?,
                b'b' => {
                    let state = self.pop()?;
                    let object = *self.stack.last().ok_or("the pickle's stack is empty")?;
                    if let Value::Object(own) = &mut self.values[object] {
                        *own = Some(state);
                    }
                }
                other => return Err(format!("its data.pkl has the operation {other:#04x}, which is not expected")),
            }
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or("its data.pkl ends too early")?;
        self.bytes = rest;
        Ok(taken)
    }

    /// A number of so many bytes.
    fn number<const N: usize>(&mut self) -> Result<usize, String> {
        Ok(self.take(N)?.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    fn line(&mut self) -> Result<String, String> {
        let length = self.bytes.iter().position(|byte| *byte == b'\n').ok_or("its data.pkl ends too early")?;
        let line = self.take(length + 1)?;
        Ok(String::from_utf8_lossy(&line[..length]).into_owned())
    }

    fn push(&mut self, value: Value) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    fn pop(&mut self) -> Result<usize, String> {
        self.stack.pop().ok_or_else(|| "the pickle's stack is empty".to_owned())
    }

    fn since_mark(&mut self) -> Result<Vec<usize>, String> {
        let mark = self.marks.pop().filter(|mark| *mark <= self.stack.len()).ok_or("the pickle has no mark")?;
        Ok(self.stack.split_off(mark))
    }

    fn whole<const N: usize>(&mut self) -> Result<(), String> {
        let number = self.number::<N>()?;
        self.push(Value::Whole(number as i64));
        Ok(())
    }

    /// A number in as many bytes as it needs.
    fn long(&mut self) -> Result<(), String> {
        let length = self.number::<1>()?;
        let bytes = self.take(length)?;
        let sign = if bytes.last().is_some_and(|last| *last >= 0x80) { 0xff } else { 0 };
        let mut all = [sign; 8];
        let known = length <= 8;
        if known {
            all[..length].copy_from_slice(bytes);
        }
        self.push(if known { Value::Whole(i64::from_le_bytes(all)) } else { Value::Other });
        Ok(())
    }

    fn text<const N: usize>(&mut self) -> Result<(), String> {
        let length = self.number::<N>()?;
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.push(Value::Text(text));
        Ok(())
    }

    fn put<const N: usize>(&mut self) -> Result<(), String> {
        let index = self.number::<N>()?;
        let top = *self.stack.last().ok_or("the pickle's stack is empty")?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn get<const N: usize>(&mut self) -> Result<(), String> {
        let index = self.number::<N>()?;
        let value = *self.memo.get(&index).ok_or_else(|| format!("the pickle has no value {index}"))?;
        self.stack.push(value);
        Ok(())
    }

    fn append(&mut self, parts: Vec<usize>) -> Result<(), String> {
        let top = *self.stack.last().ok_or("the pickle's stack is empty")?;
        if let Value::Sequence(all) = &mut self.values[top] {
            all.extend(parts);
        }
        Ok(())
    }

    /// Sets keys of a table, each followed by its value.
    fn set(&mut self, parts: &[usize]) -> Result<(), String> {
        let top = *self.stack.last().ok_or("the pickle's stack is empty")?;
        if let Value::Table(all) = &mut self.values[top] {
            all.extend(parts.as_chunks().0.iter().map(|[key, value]| (*key, *value)));
        }
        Ok(())
    }

    /// A storage: `("storage", type, key, device, elements)`.
    fn storage(&mut self) -> Result<(), String> {
        let id = self.pop()?;
        let strange = || "its data.pkl has a storage that is not understood".to_owned();
        let parts = self.sequence(id).ok_or_else(strange)?;
        let [_, kind, key, _, length] = parts[..] else { return Err(strange()) };
        let (Value::Global(kind), Value::Text(key)) = (&self.values[kind], &self.values[key]) else {
            return Err(strange());
        };
        let dtype = match kind.trim_start_matches("torch ").trim_end_matches("Storage") {
            "Double" => DType::F64,
            "Float" => DType::F32,
            "Half" => DType::F16,
            "BFloat16" => DType::BF16,
            "Long" => DType::I64,
            "Int" => DType::I32,
            "Short" => DType::I16,
            "Char" => DType::I8,
            "Byte" => DType::U8,
            "Bool" => DType::Bool(BoolStore::Native),
            _ => return Err(format!("it has tensors of `{}`, which are not read", short(kind))),
        };
        let (key, length) = (key.clone(), self.size(length).ok_or_else(strange)?);
        self.push(Value::Storage { key, dtype, length });
        Ok(())
    }

    /// The call of a function.
    fn call(&mut self) -> Result<(), String> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let name = if let Value::Global(name) = &self.values[function] { name.as_str() } else { "" };
        match name.strip_prefix("torch._utils ") {
            Some("_rebuild_tensor_v2" | "_rebuild_tensor") => {
                let view = self.view(arguments).ok_or("its data.pkl has a tensor that is not understood")?;
                self.push(Value::Tensor(view.checked()?));
            }
            Some("_rebuild_parameter") => {
                let tensor = self.sequence(arguments).and_then(|parts| parts.first().copied());
                self.stack.push(tensor.ok_or("its data.pkl has a parameter that is not understood")?);
            }
            Some(other) if other.starts_with("_rebuild") => {
                let kind = other.trim_start_matches("_rebuild_");
                return Err(format!("it has a tensor of the kind `{}`, which is not read", short(kind)));
            }
            _ if name == "collections OrderedDict" => self.push(Value::Table(Vec::new())),
            _ => self.push(Value::Other),
        }
        Ok(())
    }

    /// The tensor of `(storage, offset, shape, strides, ...)`.
    fn view(&self, arguments: usize) -> Option<View> {
        let [storage, offset, shape, strides, ..] = self.sequence(arguments)?[..] else { return None };
        let Value::Storage { key, dtype, length } = &self.values[storage] else { return None };
        let sizes = |of: usize| self.sequence(of)?.iter().map(|size| self.size(*size)).collect::<Option<Vec<_>>>();
        Some(View {
            key: key.clone(),
            dtype: *dtype,
            length: *length,
            offset: self.size(offset)?,
            shape: sizes(shape)?,
            strides: sizes(strides)?,
        })
    }

    fn sequence(&self, at: usize) -> Option<&Vec<usize>> {
        if let Value::Sequence(parts) = &self.values[at] { Some(parts) } else { None }
    }

    fn size(&self, at: usize) -> Option<usize> {
        if let Value::Whole(number) = self.values[at] { usize::try_from(number).ok() } else { None }
    }
}
