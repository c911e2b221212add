//! CIFAR-10 and CIFAR-100 in their binary or their Python version, unpacked or in their archive.
//!
//! What is read of the Python version is brought to the binary layout. Both have the same records in the same order, so
//! that they have the same digest, too.
//!
//! A record is one label byte (CIFAR-10) or a coarse and a fine label byte (CIFAR-100), then 3,072
//! pixel bytes: 32x32, channel by channel, row by row
//! (<https://www.cs.toronto.edu/~kriz/cifar.html>). A file may hold any number of records.

mod python;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use hemlock_stage::{open_file, read_file};
use image::RgbImage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Folders;
use crate::archive;
use crate::checksum::FieldHasher;
use crate::error::DataError;
use crate::pool::{Groups, Pool, PoolImages, Pools, picture};
use crate::sources::Kind;

/// Parameters of CIFAR-10: none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cifar10 {}

/// Parameters of CIFAR-100.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cifar100 {
    /// The label of a record that is the class.
    #[serde(default)]
    pub labels: Cifar100Labels,
}

/// Which label of a CIFAR-100 record is the class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Cifar100Labels {
    /// The 100 classes.
    #[default]
    Fine,
    /// The 20 superclasses of five classes each.
    Coarse,
}

/// A published dataset of CIFAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cifar {
    /// CIFAR-10.
    Cifar10,
    /// CIFAR-100.
    Cifar100,
}

impl Cifar {
    /// Both datasets.
    pub const ALL: [Self; 2] = [Self::Cifar10, Self::Cifar100];

    /// The name, as specs write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cifar10 => "cifar10",
            Self::Cifar100 => "cifar100",
        }
    }

    /// The folder that the official archive unpacks to.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Cifar10 => "cifar-10-batches-bin",
            Self::Cifar100 => "cifar-100-binary",
        }
    }

    /// The folder that the archive of the Python version unpacks to.
    fn python_folder(self) -> &'static str {
        match self {
            Self::Cifar10 => "cifar-10-batches-py",
            Self::Cifar100 => "cifar-100-python",
        }
    }

    /// The file name of the archive of the Python version.
    fn python_archive(self) -> &'static str {
        match self {
            Self::Cifar10 => "cifar-10-python.tar.gz",
            Self::Cifar100 => "cifar-100-python.tar.gz",
        }
    }

    /// The official archive's file name.
    pub fn archive(self) -> &'static str {
        match self {
            Self::Cifar10 => "cifar-10-binary.tar.gz",
            Self::Cifar100 => "cifar-100-binary.tar.gz",
        }
    }
}

impl fmt::Display for Cifar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Kind for Cifar10 {
    fn name(&self) -> &'static str {
        "cifar10"
    }

    fn may_validate(&self) -> bool {
        false
    }

    fn digest(&self, data: Option<&Path>) -> Result<blake3::Hash, DataError> {
        digest(Cifar::Cifar10, "label", data)
    }

    fn open(&self, folders: Folders) -> Result<Pools, DataError> {
        Files::find(Cifar::Cifar10, folders.data)?.into_pools(0)
    }
}

impl Kind for Cifar100 {
    fn name(&self) -> &'static str {
        match self.labels {
            Cifar100Labels::Fine => "cifar100",
            Cifar100Labels::Coarse => "cifar100-coarse",
        }
    }

    fn may_validate(&self) -> bool {
        false
    }

    fn digest(&self, data: Option<&Path>) -> Result<blake3::Hash, DataError> {
        let label = match self.labels {
            Cifar100Labels::Fine => "fine",
            Cifar100Labels::Coarse => "coarse",
        };
        digest(Cifar::Cifar100, label, data)
    }

    fn open(&self, folders: Folders) -> Result<Pools, DataError> {
        let which = match self.labels {
            Cifar100Labels::Coarse => 0,
            Cifar100Labels::Fine => 1,
        };
        Files::find(Cifar::Cifar100, folders.data)?.into_pools(which)
    }
}

/// Largest size of a file that is read, in MiB; the published files have at most 147.
const FILE_MIB: u64 = 1024;

const SIZE: usize = 32;
const PIXELS: usize = 3 * SIZE * SIZE;

/// The names of a dataset's files, and the label bytes of its records.
struct Layout {
    /// The label bytes that precede a record's pixels.
    labels: &'static [Label],
    train: &'static [&'static str],
    test: &'static [&'static str],
}

struct Label {
    field: &'static str,
    classes: usize,
    names: &'static str,
}

const CIFAR10: Layout = Layout {
    labels: &[Label { field: "label", classes: 10, names: "batches.meta.txt" }],
    train: &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"],
    test: &["test_batch.bin"],
};

const CIFAR100: Layout = Layout {
    labels: &[
        Label { field: "coarse label", classes: 20, names: "coarse_label_names.txt" },
        Label { field: "fine label", classes: 100, names: "fine_label_names.txt" },
    ],
    train: &["train.bin"],
    test: &["test.bin"],
};

impl Layout {
    fn of(cifar: Cifar) -> &'static Self {
        match cifar {
            Cifar::Cifar10 => &CIFAR10,
            Cifar::Cifar100 => &CIFAR100,
        }
    }

    fn record(&self) -> usize {
        self.labels.len() + PIXELS
    }

    /// The names of all files, records before class names. Contents are hashed in this order.
    fn files(&self) -> impl Iterator<Item = &'static str> {
        let records = self.train.iter().chain(self.test).copied();
        records.chain(self.labels.iter().map(|label| label.names))
    }
}

/// The contents of a dataset's files.
pub(crate) struct Files {
    cifar: Cifar,
    /// The folder or archive that they were read from.
    place: PathBuf,
    /// The bytes of every file of the layout, by name.
    contents: BTreeMap<&'static str, Vec<u8>>,
}

/// Number of records in a dataset's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Records {
    pub train: usize,
    pub test: usize,
}

/// The folder or archive that holds a dataset.
enum Place {
    Folder(PathBuf),
    Archive(PathBuf),
    PythonFolder(PathBuf),
    PythonArchive(PathBuf),
}

impl Place {
    /// Finds the dataset under `data_root`: its folder or, if there is none, its archive; and first the binary version.
    fn find(cifar: Cifar, data_root: Option<&Path>) -> Result<Self, DataError> {
        let root = data_root.ok_or(DataError::NoDataRoot { dataset: cifar })?;
        let folder = root.join(cifar.folder());
        let archive = root.join(cifar.archive());
        if folder.is_dir() {
            Ok(Self::Folder(folder))
        } else if archive.is_file() {
            Ok(Self::Archive(archive))
        } else if root.join(cifar.python_folder()).is_dir() {
            Ok(Self::PythonFolder(root.join(cifar.python_folder())))
        } else if root.join(cifar.python_archive()).is_file() {
            Ok(Self::PythonArchive(root.join(cifar.python_archive())))
        } else {
            check_version(cifar, root)?;
            Err(DataError::DatasetMissing { dataset: cifar, root: root.to_path_buf() })
        }
    }
}

/// Turns the error that a file does not exist into `None`.
fn there<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

/// The files that the datasets' site offers. Each row has the folder that an archive unpacks to, the archive, a file in
/// that folder, and a description.
const VERSIONS: [(&str, &str, &str, &str); 6] = [
    ("cifar-10-batches-py", "cifar-10-python.tar.gz", "data_batch_1", "the Python version of CIFAR-10"),
    ("cifar-10-batches-mat", "cifar-10-matlab.tar.gz", "data_batch_1.mat", "the MATLAB version of CIFAR-10"),
    ("cifar-10-batches-bin", "cifar-10-binary.tar.gz", "data_batch_1.bin", "CIFAR-10"),
    ("cifar-100-python", "cifar-100-python.tar.gz", "train", "the Python version of CIFAR-100"),
    ("cifar-100-matlab", "cifar-100-matlab.tar.gz", "train.mat", "the MATLAB version of CIFAR-100"),
    ("cifar-100-binary", "cifar-100-binary.tar.gz", "train.bin", "CIFAR-100"),
];

/// Refuses a place that holds another version of the dataset, or the other dataset, but not this one. The place may be
/// an archive, a dataset's folder, or the parent of one.
pub(crate) fn check_version(cifar: Cifar, place: &Path) -> Result<(), DataError> {
    let folder = if place.is_dir() { None } else { archive::top_folder(place) };
    let holds = |(name, archive, file, _): &&(&str, &str, &str, &str)| match &folder {
        Some(folder) => folder == name,
        None => place.join(name).is_dir() || place.join(archive).is_file() || place.join(file).is_file(),
    };
    let found: Vec<_> = VERSIONS.iter().filter(holds).collect();
    // A folder may hold both datasets, and several versions.
    if found.iter().any(|(name, ..)| *name == cifar.folder()) {
        return Ok(());
    }
    match found.first() {
        None => Ok(()),
        Some((.., what)) => Err(DataError::OtherVersion { place: place.to_path_buf(), what, dataset: cifar }),
    }
}

/// Refuses a dataset if a file is missing, or if a training batch is cut between two records. `lengths` are the sizes
/// of the files that are there, in bytes.
fn check_lengths(cifar: Cifar, place: &Path, lengths: &BTreeMap<&'static str, usize>) -> Result<(), DataError> {
    let layout = Layout::of(cifar);
    if let Some(name) = layout.files().find(|name| !lengths.contains_key(name)) {
        return Err(DataError::FileMissing { file: name.to_owned(), place: place.to_path_buf() });
    }
    // A cut between two records is visible only by comparison with the other batches. A cut within a record has an
    // error of its own.
    let bytes = |name: &&'static str| lengths[name];
    let expected = layout.train.iter().map(bytes).max().unwrap_or(0);
    let cut = |name: &&&'static str| {
        let bytes = bytes(name);
        0 < bytes && bytes < expected && bytes.is_multiple_of(layout.record())
    };
    match layout.train.iter().find(cut) {
        None => Ok(()),
        Some(name) => Err(DataError::UnequalBatch { file: place.join(name), bytes: bytes(name), expected }),
    }
}

/// Starts a hash of a dataset's files: their names and contents, in the layout's order. A folder and its archive have
/// the same hash.
fn files_hasher(cifar: Cifar) -> FieldHasher {
    let mut hasher = FieldHasher::new("hemlock-data cifar files v1");
    hasher.field(cifar.to_string().as_bytes());
    hasher
}

/// Returns the digest of the files in a folder. They are mapped into memory rather than read.
fn digest_folder(cifar: Cifar, folder: &Path) -> Result<blake3::Hash, DataError> {
    let mut lengths = BTreeMap::new();
    for name in Layout::of(cifar).files() {
        let path = folder.join(name);
        if let Some(file) = there(open_file(&path)).map_err(DataError::io("read", &path))? {
            let length = file.metadata().map_err(DataError::io("read", &path))?.len();
            lengths.insert(name, length as usize);
        }
    }
    check_lengths(cifar, folder, &lengths)?;
    let mut hasher = files_hasher(cifar);
    for name in Layout::of(cifar).files() {
        let path = folder.join(name);
        hasher.field(name.as_bytes()).file(&path, lengths[name]).map_err(DataError::io("read", &path))?;
    }
    Ok(hasher.finish())
}

impl Files {
    /// Reads the dataset from under `data_root`.
    pub fn find(cifar: Cifar, data_root: Option<&Path>) -> Result<Self, DataError> {
        Self::read(cifar, Place::find(cifar, data_root)?)
    }

    fn read(cifar: Cifar, place: Place) -> Result<Self, DataError> {
        match place {
            Place::Folder(folder) => Self::read_folder(cifar, &folder),
            Place::Archive(archive) => Self::read_archive(cifar, &archive),
            Place::PythonFolder(folder) => python::read_folder(cifar, &folder),
            Place::PythonArchive(archive) => python::read_archive(cifar, &archive),
        }
    }

    /// Reads the files that lie in `folder`.
    pub fn read_folder(cifar: Cifar, folder: &Path) -> Result<Self, DataError> {
        let mut contents = BTreeMap::new();
        for name in Layout::of(cifar).files() {
            let path = folder.join(name);
            if let Some(bytes) = there(read_file(&path, FILE_MIB)).map_err(DataError::io("read", &path))? {
                contents.insert(name, bytes);
            }
        }
        if contents.is_empty() {
            check_version(cifar, folder)?;
        }
        Self::complete(cifar, folder, contents)
    }

    /// Reads the files from an archive of the dataset's folder.
    pub fn read_archive(cifar: Cifar, archive: &Path) -> Result<Self, DataError> {
        let wanted: BTreeMap<PathBuf, &'static str> =
            Layout::of(cifar).files().map(|name| (Path::new(cifar.folder()).join(name), name)).collect();
        let mut contents = BTreeMap::new();
        archive::each_file(
            archive,
            |path| wanted.contains_key(path),
            |path, bytes| {
                contents.insert(wanted[path], bytes);
                Ok(())
            },
        )?;
        Self::complete(cifar, archive, contents)
    }

    fn complete(cifar: Cifar, place: &Path, contents: BTreeMap<&'static str, Vec<u8>>) -> Result<Self, DataError> {
        let lengths = contents.iter().map(|(name, bytes)| (*name, bytes.len())).collect();
        check_lengths(cifar, place, &lengths)?;
        Ok(Self { cifar, place: place.to_path_buf(), contents })
    }

    /// The name and bytes of each file, in the layout's order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        Layout::of(self.cifar).files().map(|name| (name, self.contents[name].as_slice()))
    }

    /// The digest of all files, which equals that of the unpacked folder.
    pub fn digest(&self) -> blake3::Hash {
        let mut hasher = files_hasher(self.cifar);
        for (name, bytes) in self.iter() {
            hasher.field(name.as_bytes()).field(bytes);
        }
        hasher.finish()
    }

    /// Checks every record and every list of class names.
    pub fn check(&self) -> Result<Records, DataError> {
        let layout = Layout::of(self.cifar);
        for label in layout.labels {
            self.class_names(label)?;
        }
        let count = |files: &[&'static str]| -> Result<usize, DataError> {
            files.iter().map(|name| self.check_records(name)).sum()
        };
        Ok(Records { train: count(layout.train)?, test: count(layout.test)? })
    }

    fn check_records(&self, name: &'static str) -> Result<usize, DataError> {
        let layout = Layout::of(self.cifar);
        let (file, bytes) = (self.place.join(name), &self.contents[name]);
        let size = layout.record();
        if bytes.is_empty() {
            return Err(DataError::NoRecords { file });
        }
        if bytes.len() % size != 0 {
            return Err(DataError::Truncated { file, bytes: bytes.len(), record: size });
        }
        for (index, record) in bytes.chunks_exact(size).enumerate() {
            for (label, &value) in layout.labels.iter().zip(record) {
                if usize::from(value) >= label.classes {
                    return Err(DataError::LabelRange {
                        file,
                        record: index,
                        field: label.field,
                        value,
                        max: label.classes - 1,
                    });
                }
            }
        }
        Ok(bytes.len() / size)
    }

    fn class_names(&self, label: &Label) -> Result<Vec<String>, DataError> {
        let names: Vec<String> = String::from_utf8_lossy(&self.contents[label.names])
            .lines()
            .map(|line| line.trim().to_owned())
            .filter(|line| !line.is_empty())
            .collect();
        if names.len() == label.classes {
            Ok(names)
        } else {
            Err(DataError::ClassNames {
                file: self.place.join(label.names),
                expected: label.classes,
                found: names.len(),
            })
        }
    }

    /// Converts the files to pools of images, with label byte `which` of each record as the class.
    fn into_pools(mut self, which: usize) -> Result<Pools, DataError> {
        self.check()?;
        let layout = Layout::of(self.cifar);
        let classes = self.class_names(&layout.labels[which])?;
        let mut pool = |files: &[&'static str]| {
            let parts: Vec<_> = files.iter().filter_map(|name| self.contents.remove(name)).collect();
            let records = RecordImages { bytes: parts.concat(), size: layout.record() };
            Pool { labels: records.labels(which), groups: None, images: Box::new(records) }
        };
        let (train, test) = (pool(layout.train), Some(pool(layout.test)));
        Ok(Pools {
            classes,
            size: Some(SIZE),
            train,
            validation: None,
            test,
            groups: Groups::default(),
            skipped: Vec::new(),
        })
    }
}

/// The records of several files, one after another.
struct RecordImages {
    bytes: Vec<u8>,
    /// Size of a record in bytes, labels included.
    size: usize,
}

impl RecordImages {
    fn labels(&self, which: usize) -> Vec<u32> {
        let records = self.bytes.chunks_exact(self.size);
        records.map(|record| u32::from(record[which])).collect()
    }

    /// The planes of a picture, `[3, 32, 32]`.
    fn planes(&self, index: u32) -> &[u8] {
        let end = (index as usize + 1) * self.size;
        &self.bytes[end - PIXELS..end]
    }
}

impl PoolImages for RecordImages {
    fn picture(&self, index: u32) -> Result<RgbImage, String> {
        Ok(picture(self.planes(index), SIZE))
    }

    fn copy(&self, index: u32, chw: &mut [u8]) -> bool {
        chw.copy_from_slice(self.planes(index));
        true
    }

    fn place(&self, index: u32) -> PathBuf {
        format!("record {index}").into()
    }
}

/// Returns the digest of the dataset's files and of the choice of label.
fn digest(cifar: Cifar, label: &str, data_root: Option<&Path>) -> Result<blake3::Hash, DataError> {
    let files = match Place::find(cifar, data_root)? {
        Place::Folder(folder) => digest_folder(cifar, &folder)?,
        place => Files::read(cifar, place)?.digest(),
    };
    let mut hasher = FieldHasher::new("hemlock-data cifar source v1");
    hasher.field(files.as_bytes()).field(label.as_bytes());
    Ok(hasher.finish())
}
