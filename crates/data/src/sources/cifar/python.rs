//! The Python version of CIFAR: a pickled dictionary per file, with an array of pixels, `[n, 3072]`, and lists of
//! labels.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hemlock_stage::{open_file, read_file};
use serde_pickle::{DeOptions, HashableValue, Value};

use super::{Cifar, FILE_MIB, Files, Layout, PIXELS};
use crate::DataError;
use crate::archive;

/// A file of the Python version, and the file of the binary version that it becomes.
struct Batch {
    python: &'static str,
    binary: &'static str,
}

const fn batch(python: &'static str, binary: &'static str) -> Batch {
    Batch { python, binary }
}

/// Where a dataset's values are.
struct Names {
    batches: &'static [Batch],
    /// The keys of the labels of a batch, in the order of the binary version's label bytes.
    labels: &'static [&'static str],
    /// The file with the names of the classes.
    meta: &'static str,
    /// The keys of these names, and the binary version's files of them.
    classes: &'static [(&'static str, &'static str)],
}

const CIFAR10: Names = Names {
    batches: &[
        batch("data_batch_1", "data_batch_1.bin"),
        batch("data_batch_2", "data_batch_2.bin"),
        batch("data_batch_3", "data_batch_3.bin"),
        batch("data_batch_4", "data_batch_4.bin"),
        batch("data_batch_5", "data_batch_5.bin"),
        batch("test_batch", "test_batch.bin"),
    ],
    labels: &["labels"],
    meta: "batches.meta",
    classes: &[("label_names", "batches.meta.txt")],
};

const CIFAR100: Names = Names {
    batches: &[batch("train", "train.bin"), batch("test", "test.bin")],
    labels: &["coarse_labels", "fine_labels"],
    meta: "meta",
    classes: &[("coarse_label_names", "coarse_label_names.txt"), ("fine_label_names", "fine_label_names.txt")],
};

impl Names {
    fn of(cifar: Cifar) -> &'static Self {
        match cifar {
            Cifar::Cifar10 => &CIFAR10,
            Cifar::Cifar100 => &CIFAR100,
        }
    }

    fn files(&self) -> impl Iterator<Item = &'static str> {
        self.batches.iter().map(|batch| batch.python).chain([self.meta])
    }
}

pub(super) fn read_folder(cifar: Cifar, folder: &Path) -> Result<Files, DataError> {
    let mut pickles = BTreeMap::new();
    for name in Names::of(cifar).files() {
        let path = folder.join(name);
        // A file that is missing is reported with its folder.
        if open_file(&path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            continue;
        }
        pickles.insert(name, read_file(&path, FILE_MIB).map_err(DataError::io("read", &path))?);
    }
    convert(cifar, folder, pickles)
}

pub(super) fn read_archive(cifar: Cifar, archive: &Path) -> Result<Files, DataError> {
    let folder = Path::new(cifar.python_folder());
    let wanted: BTreeMap<PathBuf, &'static str> =
        Names::of(cifar).files().map(|name| (folder.join(name), name)).collect();
    let mut pickles = BTreeMap::new();
    archive::each_file(
        archive,
        |path| wanted.contains_key(path),
        |path, bytes| {
            pickles.insert(wanted[path], bytes);
            Ok(())
        },
    )?;
    convert(cifar, archive, pickles)
}

/// Brings pickles to the binary layout.
fn convert(cifar: Cifar, place: &Path, mut pickles: BTreeMap<&'static str, Vec<u8>>) -> Result<Files, DataError> {
    let names = Names::of(cifar);
    let mut unpickle = |name: &'static str| {
        let missing = || DataError::FileMissing { file: name.to_owned(), place: place.to_path_buf() };
        Pickle::read(place.join(name), &pickles.remove(name).ok_or_else(missing)?)
    };
    let mut contents = BTreeMap::new();
    for Batch { python, binary } in names.batches {
        contents.insert(*binary, unpickle(python)?.records(Layout::of(cifar), names.labels)?);
    }
    let meta = unpickle(names.meta)?;
    for (key, file) in names.classes {
        // The binary version's lists end with an empty line.
        let lines: String = meta.texts(key)?.iter().map(|name| format!("{name}\n")).collect();
        contents.insert(*file, (lines + "\n").into_bytes());
    }
    Files::complete(cifar, place, contents)
}

/// A pickled dictionary.
struct Pickle {
    file: PathBuf,
    values: BTreeMap<HashableValue, Value>,
}

impl Pickle {
    fn read(file: PathBuf, bytes: &[u8]) -> Result<Self, DataError> {
        // Objects of classes, as NumPy's arrays, become what they are rebuilt from. No code of the file is run.
        let options = DeOptions::new().replace_unresolved_globals();
        match serde_pickle::value_from_slice(bytes, options) {
            Ok(Value::Dict(values)) => Ok(Self { file, values }),
            Ok(_) => Err(damaged(&file, "it holds no dictionary".to_owned())),
            Err(error) => Err(damaged(&file, error.to_string())),
        }
    }

    fn wrong(&self, key: &str, problem: impl Into<String>) -> DataError {
        damaged(&self.file, format!("its `{key}` {}", problem.into()))
    }

    /// The value of a key, which Python 2 writes as bytes and Python 3 as text.
    fn get(&self, key: &str) -> Result<&Value, DataError> {
        let keys = [HashableValue::Bytes(key.into()), HashableValue::String(key.to_owned())];
        keys.iter().find_map(|key| self.values.get(key)).ok_or_else(|| self.wrong(key, "is missing"))
    }

    fn list(&self, key: &str) -> Result<&[Value], DataError> {
        match self.get(key)? {
            Value::List(list) => Ok(list),
            _ => Err(self.wrong(key, "is no list")),
        }
    }

    fn texts(&self, key: &str) -> Result<Vec<String>, DataError> {
        let text = |value: &Value| match value {
            Value::String(text) => Ok(text.clone()),
            Value::Bytes(bytes) => Ok(String::from_utf8_lossy(bytes).into_owned()),
            _ => Err(self.wrong(key, "has an element that is no text")),
        };
        self.list(key)?.iter().map(text).collect()
    }

    /// The bytes of an array, by rows. It is rebuilt from a tuple of a version, its shape, its type, whether its first
    /// axis varies fastest, and its bytes.
    fn pixels(&self) -> Result<Cow<'_, [u8]>, DataError> {
        let found = match self.get("data")? {
            Value::Tuple(parts) => match parts.as_slice() {
                [_, Value::Tuple(shape), _, Value::Bool(by_columns), Value::Bytes(bytes)] => {
                    Some((shape, *by_columns, bytes))
                }
                _ => None,
            },
            _ => None,
        };
        match found {
            Some((shape, by_columns, bytes)) if shape.get(1) == Some(&Value::I64(PIXELS as i64)) => {
                let n = bytes.len() / PIXELS;
                let rows = || (0..n * PIXELS).map(|at| bytes[at % PIXELS * n + at / PIXELS]).collect();
                Ok(if by_columns { Cow::Owned(rows()) } else { Cow::Borrowed(bytes) })
            }
            _ => Err(self.wrong("data", format!("is no array of bytes, [n, {PIXELS}]"))),
        }
    }

    /// The records of the binary layout.
    fn records(&self, layout: &Layout, labels: &[&str]) -> Result<Vec<u8>, DataError> {
        let pixels = self.pixels()?;
        let n = pixels.len() / PIXELS;
        let mut records = Vec::with_capacity(n * layout.record());
        let labels: Vec<&[Value]> = labels.iter().map(|key| self.list(key)).collect::<Result<_, _>>()?;
        if labels.iter().any(|labels| labels.len() != n) || pixels.len() % PIXELS != 0 {
            let counts: Vec<usize> = labels.iter().map(|labels| labels.len()).collect();
            return Err(self.wrong("data", format!("has {} bytes, and there are {counts:?} labels", pixels.len())));
        }
        for (i, pixels) in pixels.chunks_exact(PIXELS).enumerate() {
            for labels in &labels {
                match &labels[i] {
                    Value::I64(label) if (0..256).contains(label) => records.push(*label as u8),
                    other => return Err(self.wrong("labels", format!("have {other} at {i}; expected a class"))),
                }
            }
            records.extend_from_slice(pixels);
        }
        Ok(records)
    }
}

fn damaged(file: &Path, reason: String) -> DataError {
    DataError::Damaged { file: file.to_path_buf(), what: "pickle of CIFAR", reason }
}
