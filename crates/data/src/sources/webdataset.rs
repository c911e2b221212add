//! Tar archives with an image and a label per sample, as of WebDataset.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use hemlock_stage::{open_file, read_file};
use image::RgbImage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tar::Archive;

use super::parquet::split_of;
use super::{Kind, check_path, digest_files, files_below, has_ending, locate, relative};
use crate::archive::safe_path;
use crate::decode::{LIMIT_MIB, decode_bytes};
use crate::parts::{Label, Row, by_split, pools};
use crate::pool::{PoolImages, Pools};
use crate::{DataError, Folders};

/// Parameters of WebDataset's archives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Webdataset {
    /// A `.tar` archive, or a folder of such as `train-000000.tar` or `test/0.tar`, relative to the working directory
    /// or to the data directory. An archive's name, or its folder's, begins with its split. A file `classnames.txt` in
    /// the folder names the classes, one a line.
    pub path: PathBuf,
}

/// Endings of images, as WebDataset's readers know them.
const IMAGES: [&str; 9] = ["jpg", "jpeg", "png", "webp", "ppm", "pgm", "bmp", "tif", "tiff"];
const CLASSES: &str = "classnames.txt";
/// The longest file of a label that is read, in bytes.
const LABEL: u64 = 4096;

/// An image in an archive.
struct Entry {
    shard: usize,
    key: String,
    offset: u64,
    length: u64,
}

impl Webdataset {
    /// The archives in order, with the folder that their names are relative to.
    fn files(&self, data: Option<&Path>) -> Result<(PathBuf, Vec<PathBuf>), DataError> {
        let path = locate(&self.path, data);
        if path.is_file() {
            let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
            return Ok((folder, vec![path]));
        }
        let files: Vec<PathBuf> = files_below(&path)?.into_iter().filter(|path| has_ending(path, "tar")).collect();
        if files.is_empty() {
            return Err(DataError::Layout { path, reason: "has no archives that end in `.tar`".to_owned() });
        }
        Ok((path, files))
    }

    /// The names of the classes, if there are any.
    fn class_names(folder: &Path) -> Result<Option<Vec<String>>, DataError> {
        let path = folder.join(CLASSES);
        if !path.is_file() {
            return Ok(None);
        }
        let text = read_file(&path, 16).map_err(DataError::io("read", &path))?;
        let names = String::from_utf8_lossy(&text).lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>();
        Ok(Some(names.into_iter().filter(|name| !name.is_empty()).collect()))
    }
}

impl Kind for Webdataset {
    fn name(&self) -> &'static str {
        "webdataset"
    }

    fn check(&self) -> Result<(), DataError> {
        check_path(&self.path)
    }

    fn digest(&self, data: Option<&Path>) -> Result<blake3::Hash, DataError> {
        let (folder, mut files) = self.files(data)?;
        files.extend(Some(folder.join(CLASSES)).filter(|path| path.is_file()));
        let named = files.iter().map(|path| (relative(path, &folder), path.as_path()));
        digest_files("hemlock-data webdataset v1", named)
    }

    fn open(&self, folders: Folders) -> Result<Pools, DataError> {
        let (folder, shards) = self.files(folders.data)?;
        let (mut entries, mut rows) = (Vec::new(), Vec::new());
        for (shard, path) in shards.iter().enumerate() {
            for (key, sample) in samples(path)? {
                let wrong = |what| damaged(path, format!("the sample `{key}` has no {what}"));
                let ((offset, length), label) =
                    (sample.image.ok_or_else(|| wrong("image"))?, sample.label.ok_or_else(|| wrong("`.cls`"))?);
                entries.push(Entry { shard, key, offset, length });
                rows.push(Row { split: split_of(path), label, group: None });
            }
        }
        let images = ArchiveImages { shards, entries };
        let parts = by_split(rows, Box::new(images));
        let parts = parts.map_err(|reason| DataError::Layout { path: folder.clone(), reason })?;
        pools(&folder, parts, Self::class_names(&folder)?, None)
    }
}

fn damaged(file: &Path, reason: String) -> DataError {
    DataError::Damaged { file: file.to_path_buf(), what: ".tar archive of WebDataset", reason }
}

/// What an archive has of a sample.
#[derive(Default)]
struct Sample {
    /// Where its image begins, and its length.
    image: Option<(u64, u64)>,
    label: Option<Label>,
}

/// Finds the samples of an archive, by key.
fn samples(path: &Path) -> Result<BTreeMap<String, Sample>, DataError> {
    let file = open_file(path).map_err(DataError::io("read", path))?;
    let wrong = |error: io::Error| damaged(path, error.to_string());
    let length = file.metadata().map_err(DataError::io("read", path))?.len();
    let mut samples: BTreeMap<String, Sample> = BTreeMap::new();
    let mut archive = Archive::new(BufReader::new(file));
    for entry in archive.entries_with_seek().map_err(wrong)? {
        let mut entry = entry.map_err(wrong)?;
        let name = safe_path(&entry).map_err(|reason| DataError::UnsafeEntry {
            archive: path.to_path_buf(),
            entry: String::from_utf8_lossy(&entry.path_bytes()).into_owned(),
            reason,
        })?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = relative(&name, Path::new(""));
        // A key ends at the first dot of the file's name.
        let begin = name.rfind('/').map_or(0, |at| at + 1);
        let Some(dot) = name[begin..].find('.').map(|at| begin + at) else { continue };
        let (key, ending) = (&name[..dot], name[dot + 1..].to_lowercase());
        if IMAGES.contains(&ending.as_str()) {
            let place = (entry.raw_file_position(), entry.size());
            if place.0.checked_add(place.1).is_none_or(|end| end > length) {
                return Err(damaged(path, format!("it is cut: `{name}` ends behind its end")));
            }
            if samples.entry(key.to_owned()).or_default().image.replace(place).is_some() {
                return Err(damaged(path, format!("the sample `{key}` has two images")));
            }
        } else if ending == "cls" {
            let mut text = String::new();
            entry.by_ref().take(LABEL).read_to_string(&mut text).map_err(wrong)?;
            samples.entry(key.to_owned()).or_default().label = Some(Label::parse(&text));
        }
    }
    Ok(samples)
}

/// Images in archives.
struct ArchiveImages {
    shards: Vec<PathBuf>,
    entries: Vec<Entry>,
}

impl PoolImages for ArchiveImages {
    fn picture(&self, index: u32) -> Result<RgbImage, String> {
        let Entry { shard, offset, length, .. } = &self.entries[index as usize];
        if *length > LIMIT_MIB << 20 {
            return Err(format!("it has {length} bytes; the limit is {LIMIT_MIB} MiB"));
        }
        let mut bytes = vec![0; *length as usize];
        let read = File::open(&self.shards[*shard]).and_then(|mut file| {
            file.seek(SeekFrom::Start(*offset))?;
            file.read_exact(&mut bytes)
        });
        read.map_err(|error| error.to_string())?;
        decode_bytes(&bytes, Path::new(""))
    }

    fn place(&self, index: u32) -> PathBuf {
        let Entry { shard, key, .. } = &self.entries[index as usize];
        self.shards[*shard].join(key)
    }
}
