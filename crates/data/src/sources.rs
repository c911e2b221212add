//! The kinds of sources. Each is one file, and one line in the list below.

pub(crate) mod cifar;
pub(crate) mod folder;
mod idx;
mod mat;
mod npz;
mod parquet;
mod stl10;
pub mod synthetic;
mod table;
mod webdataset;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use hemlock_stage::open_file;
use schemars::{JsonSchema, Schema, json_schema};
use serde::de::value::{MapAccessDeserializer, MapDeserializer};
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

pub use self::parquet::Parquet;
pub use cifar::{Cifar, Cifar10, Cifar100, Cifar100Labels};
pub use folder::ImageFolder;
pub use idx::Idx;
pub use mat::Mat;
pub use npz::Npz;
pub use stl10::{Stl10, Stl10Pool};
pub use synthetic::{Domain, Synthetic};
pub use table::ImageTable;
pub use webdataset::Webdataset;

use crate::checksum::FieldHasher;
use crate::pool::Pools;
use crate::{DataError, Folders};

/// What every kind of source can do. `data` is the data directory, where published datasets lie.
pub(crate) trait Kind {
    /// A short name for reports.
    fn name(&self) -> &'static str;

    /// Checks that every parameter is within its range.
    fn check(&self) -> Result<(), DataError> {
        Ok(())
    }

    /// Whether the source may have a validation pool.
    fn may_validate(&self) -> bool {
        true
    }

    /// Returns a digest of all that decides the images, apart from the parameters other than `path`.
    fn digest(&self, data: Option<&Path>) -> Result<blake3::Hash, DataError>;

    /// Reads the labels, and finds the images.
    fn open(&self, folders: Folders) -> Result<Pools, DataError>;
}

/// Makes the enum of all kinds from the list of them.
macro_rules! kinds {
    ($($(#[$attribute:meta])+ $kind:ident,)+) => {
        /// The source of a dataset's images.
        ///
        /// In TOML it is either its kind, `source = "cifar10"`, or a table of its kind and parameters, `source = {
        /// kind = "cifar100", labels = "coarse" }`. It is serialised as a table with all parameters.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(remote = "Self", tag = "kind", rename_all = "kebab-case")]
        #[schemars(transform = or_kind)]
        pub enum Source {
            $($(#[$attribute])+ $kind($kind),)+
        }

        impl Source {
            pub(crate) fn kind(&self) -> &dyn Kind {
                match self {
                    $(Self::$kind(source) => source,)+
                }
            }
        }
    };
}

kinds! {
    /// CIFAR-10: 32x32, 10 classes. Its binary or its Python version, in the data directory.
    Cifar10,
    /// CIFAR-100: 32x32, 100 fine or 20 coarse classes. Its binary or its Python version, in the data directory.
    Cifar100,
    /// Image files in one folder per class, including files in folders below it. The layout is `path/train/CLASS/*`,
    /// `path/test/CLASS/*` and `path/val/CLASS/*`, of which some may be missing; or `path/CLASS/*`, where the test
    /// split is taken from the same pool, unless lists of files say otherwise.
    ImageFolder,
    /// Files of MNIST's format IDX, `train-images-idx3-ubyte` and so on, which may end in `.gz`.
    Idx,
    /// NumPy's `.npz` file of images and labels, as of MedMNIST and of Keras.
    Npz,
    /// MATLAB's `.mat` files (version 5) of images `X` and labels `y`, as of SVHN.
    Mat,
    /// STL-10: 96x96, 10 classes, and 100,000 images without labels. Its binary version.
    Stl10,
    /// Parquet files with a column of encoded images and a column of labels, as datasets of Hugging Face have them.
    Parquet,
    /// Tar archives with an image and a label per sample, `KEY.jpg` and `KEY.cls`, as of WebDataset.
    Webdataset,
    /// A table with a row per image: its path, its label and, optionally, its split and its group.
    #[serde(rename = "table")]
    ImageTable,
    /// Generated images of simple shapes with textures, for trying things out.
    Synthetic,
}

impl Source {
    /// The fields that say where files lie. What they hold is in the digest.
    pub const PATHS: &[&str] = &["path", "images"];

    /// A short name for reports: its kind, and what tells it from others of its kind, as in `cifar100-coarse`.
    pub fn name(&self) -> &'static str {
        self.kind().name()
    }

    /// Whether the source may have a validation pool.
    pub fn may_validate(&self) -> bool {
        self.kind().may_validate()
    }

    /// Checks that every parameter is within its range.
    ///
    /// # Errors
    /// [`DataError::Parameter`] for the first parameter that is not.
    pub fn check(&self) -> Result<(), DataError> {
        self.kind().check()
    }
}

/// Returns `path` itself or, if nothing is there, what lies under the data directory by this name.
fn locate(path: &Path, data: Option<&Path>) -> PathBuf {
    let under = data.map(|data| data.join(path)).filter(|under| !path.exists() && under.exists());
    under.unwrap_or_else(|| path.to_path_buf())
}

/// Refuses an empty path.
fn check_path(path: &Path) -> Result<(), DataError> {
    if path.as_os_str().is_empty() {
        return Err(DataError::Parameter { field: "source.path", value: "empty".into(), expected: "a path" });
    }
    Ok(())
}

/// The files in a folder, sorted by name. Names that begin with a dot are left out.
fn files_in(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(DataError::io("list", folder))? {
        let path = entry.map_err(DataError::io("list", folder))?.path();
        if path.is_file() && !file_name(&path).starts_with('.') {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The files in a folder and in all folders below it, sorted by folder and name. Names that begin with a dot are left
/// out.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut files = files_in(folder)?;
    let mut folders = Vec::new();
    for entry in fs::read_dir(folder).map_err(DataError::io("list", folder))? {
        let entry = entry.map_err(DataError::io("list", folder))?;
        // Links to folders could make a loop.
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder && !file_name(&entry.path()).starts_with('.') {
            folders.push(entry.path());
        }
    }
    folders.sort();
    for folder in folders {
        files.extend(files_below(&folder)?);
    }
    Ok(files)
}

/// The path relative to `root`, with `/` between names.
fn relative(path: &Path, root: &Path) -> String {
    let relative = path.strip_prefix(root).unwrap_or(path);
    let names: Vec<_> = relative.components().map(|name| name.as_os_str().to_string_lossy()).collect();
    names.join("/")
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn has_ending(path: &Path, ending: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(ending))
}

/// Returns the digest of some files' contents, each with the name that `name` gives.
fn digest_files<'a>(
    context: &str,
    files: impl IntoIterator<Item = (String, &'a Path)>,
) -> Result<blake3::Hash, DataError> {
    let mut hasher = FieldHasher::new(context);
    for (name, path) in files {
        let read = open_file(path).and_then(|file| file.metadata());
        let length = read.map_err(DataError::io("read", path))?.len();
        hasher.field(name.as_bytes()).file(path, length as usize).map_err(DataError::io("read", path))?;
    }
    Ok(hasher.finish())
}

/// Adds to the schema of a table the kinds that may stand without one, as they need no parameters.
fn or_kind(schema: &mut Schema) {
    let alone = |variant: &Value| {
        let needs = variant["required"].as_array().is_some_and(|fields| fields.len() == 1);
        needs.then(|| variant["properties"]["kind"]["const"].clone())
    };
    let tables = schema.get("oneOf").and_then(Value::as_array);
    let kinds: Vec<Value> = tables.into_iter().flatten().filter_map(alone).collect();
    let table = schema.clone();
    *schema = json_schema!({ "anyOf": [{ "enum": kinds }, table] });
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // The function that `remote = "Self"` derives, which is inherent and not the trait's.
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KindOrTable;

        impl<'de> Visitor<'de> for KindOrTable {
            type Value = Source;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a source: its kind, or a table with `kind` and parameters")
            }

            fn visit_str<E: Error>(self, kind: &str) -> Result<Source, E> {
                Source::deserialize(MapDeserializer::new(std::iter::once(("kind", kind))))
            }

            fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<Source, A::Error> {
                Source::deserialize(MapAccessDeserializer::new(table))
            }
        }

        deserializer.deserialize_any(KindOrTable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Serialize, Deserialize)]
    struct Params {
        source: Source,
    }

    fn parse(text: &str) -> Result<Source, String> {
        toml::from_str::<Params>(text).map(|params| params.source).map_err(|error| error.to_string())
    }

    #[test]
    fn kinds_and_tables() {
        assert_eq!(parse("source = 'cifar10'"), Ok(Source::Cifar10(Cifar10 {})));
        assert_eq!(parse("source = 'cifar100'"), Ok(Source::Cifar100(Cifar100 { labels: Cifar100Labels::Fine })));
        assert_eq!(
            parse("source = { kind = 'cifar100', labels = 'coarse' }"),
            Ok(Source::Cifar100(Cifar100 { labels: Cifar100Labels::Coarse }))
        );
        assert_eq!(
            parse("[source]\nkind = 'image-folder'\npath = 'pets'"),
            Ok(Source::ImageFolder(ImageFolder::new("pets".into())))
        );
        assert_eq!(parse("source = { kind = 'synthetic', domain = 'b' }"), Ok(Source::synthetic(Domain::B)));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, words) in [
            ("source = 'cifar11'", "unknown variant `cifar11`"),
            ("source = 'synthetic'", "missing field `domain`"),
            ("source = { kind = 'cifar10', labels = 'fine' }", "unknown field `labels`"),
            ("source = { kind = 'synthetic', domain = 'a', dificulty = 1 }", "unknown field `dificulty`"),
            ("source = { kind = 'image-folder', path = 'x', pixels = 1 }", "unknown field `pixels`"),
            ("source = 3", "a source: its kind, or a table"),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.contains(words), "{text}: {message}");
        }
    }

    #[test]
    fn round_trips() {
        for source in [
            Source::Cifar10(Cifar10 {}),
            Source::Cifar100(Cifar100 { labels: Cifar100Labels::Coarse }),
            Source::ImageFolder(ImageFolder::new("pets".into())),
            Source::synthetic(Domain::A),
        ] {
            let json = serde_json::to_string(&source).unwrap();
            assert_eq!(serde_json::from_str::<Source>(&json).unwrap(), source);
            let params = Params { source: source.clone() };
            assert_eq!(parse(&toml::to_string(&params).unwrap()), Ok(source));
        }
    }

    #[test]
    fn ranges_are_checked() {
        for (text, field) in [
            ("source = { kind = 'synthetic', domain = 'a', difficulty = 1.5 }", "source.difficulty"),
            ("source = { kind = 'synthetic', domain = 'a', difficulty = nan }", "source.difficulty"),
            ("source = { kind = 'synthetic', domain = 'a', classes = 11 }", "source.classes"),
        ] {
            let message = parse(text).unwrap().check().unwrap_err().to_string();
            assert!(message.starts_with(field), "{message}");
        }
        assert!(Source::synthetic(Domain::A).check().is_ok());
    }
}
