//! Datasets of image files, with one folder per class.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hemlock_stage::{few, open_file};
use image::RgbImage;
use rayon::prelude::*;

use crate::checksum::FieldHasher;
use crate::decode::{LIMIT_MIB, decode};
use crate::error::{DataError, UnreadableImage};
use crate::pool::{Pool, PoolImages, Pools};

/// Names of files and folders that file managers and archivers leave among images. Names that begin with a dot are
/// skipped, too.
const LITTER: [&str; 4] = ["Thumbs.db", "desktop.ini", "@eaDir", "__MACOSX"];

/// Names that the folder of the validation split may have.
const VALIDATION: [&str; 3] = ["val", "valid", "validation"];

/// The image files of each class, in order.
pub(crate) type Files = Vec<Vec<PathBuf>>;

/// The files of an image dataset, by split and class.
pub(crate) struct Tree {
    pub classes: Vec<String>,
    pub train: Files,
    pub validation: Option<Files>,
    pub test: Option<Files>,
    /// Files and folders that are not part of the dataset, relative to its folder. Folders end in `/`.
    pub skipped: Vec<String>,
}

impl Tree {
    pub fn scan(path: &Path) -> Result<Self, DataError> {
        let wrong = |reason: String| DataError::FolderLayout { path: path.to_path_buf(), reason };
        if !path.is_dir() {
            return Err(wrong("there is no such folder".to_owned()));
        }
        let mut scan = Scan { root: path, skipped: Vec::new() };
        let (train, test) = (path.join("train"), path.join("test"));
        let validation: Vec<&str> = VALIDATION.into_iter().filter(|name| path.join(name).is_dir()).collect();
        match (train.is_dir(), test.is_dir(), validation.as_slice()) {
            (false, false, []) => {
                refuse_splits(path)?;
                let (classes, train) = scan.classes(path)?;
                Ok(Self { classes, train, validation: None, test: None, skipped: scan.skipped })
            }
            (false, ..) => Err(wrong("it has no train/ beside its other splits".to_owned())),
            (true, false, []) => Err(wrong("train/ has no test/ beside it".to_owned())),
            (true, false, [name, ..]) => Err(wrong(format!(
                "train/ and {name}/ have no test/ beside them; rename {name}/ to test to measure on it"
            ))),
            (true, true, [a, b, ..]) => Err(wrong(format!("{a}/ and {b}/ are two validation splits"))),
            (true, true, validation) => {
                let (classes, train) = scan.classes(&train)?;
                let mut split = |name: &str| {
                    let (others, files) = scan.classes(&path.join(name))?;
                    if others == classes { Ok(files) } else { Err(wrong(unequal(&classes, name, &others))) }
                };
                let test = split("test")?;
                let validation = validation.first().map(|name| split(name)).transpose()?;
                let splits = |name: &str| name == "train" || name == "test" || VALIDATION.contains(&name);
                for entry in entries(path)? {
                    let name = file_name(&entry);
                    match entry.is_dir() {
                        true if splits(&name) => {}
                        true if is_split(&name) => return Err(wrong(no_split(&name))),
                        _ => scan.skip(&entry),
                    }
                }
                Ok(Self { classes, train, validation, test: Some(test), skipped: scan.skipped })
            }
        }
    }

    fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let others = [&self.validation, &self.test].into_iter().flatten();
        [&self.train].into_iter().chain(others).flatten().flatten()
    }
}

/// Refuses a folder that contains splits by other names, or whole datasets, which would otherwise be taken for classes.
fn refuse_splits(path: &Path) -> Result<(), DataError> {
    let reason = |folder: &PathBuf| {
        let name = file_name(folder);
        if is_split(&name) {
            Some(no_split(&name))
        } else if folder.join("train").is_dir() && folder.join("test").is_dir() {
            Some(format!("`{name}` is one itself; give the path of that folder"))
        } else {
            None
        }
    };
    let folders = entries(path)?.into_iter().filter(|entry| entry.is_dir());
    let wrong = |reason| DataError::FolderLayout { path: path.to_path_buf(), reason };
    folders.filter_map(|folder| reason(&folder)).map(wrong).map(Err).next().unwrap_or(Ok(()))
}

/// Describes the problem that a folder is named like a split but is not one.
fn no_split(name: &str) -> String {
    format!("`{name}` is named like a split, and no class; splits are called train/, test/ and val/, in lower case")
}

/// Describes how the classes of train/ and of another split differ.
fn unequal(train: &[String], name: &str, others: &[String]) -> String {
    let alone = |some: &[String], others: &[String]| {
        few(some.iter().filter(|class| !others.contains(class)).map(|class| format!("`{class}`")))
    };
    format!("classes that only train/ has: {}; only {name}/: {}", alone(train, others), alone(others, train))
}

/// A walk through a dataset's folder that records what it skips.
struct Scan<'a> {
    root: &'a Path,
    skipped: Vec<String>,
}

impl Scan<'_> {
    /// Returns the names of the class folders in `path`, sorted, and the files of each class.
    fn classes(&mut self, path: &Path) -> Result<(Vec<String>, Files), DataError> {
        let wrong = |reason: String| DataError::FolderLayout { path: path.to_path_buf(), reason };
        let (mut classes, mut all) = (Vec::new(), Vec::new());
        for folder in entries(path)? {
            let class = file_name(&folder);
            if is_litter(&class) || !folder.is_dir() {
                self.skip(&folder);
                continue;
            }
            let mut files = Vec::new();
            self.images(&folder, &mut HashSet::new(), &mut files)?;
            if files.is_empty() {
                return Err(wrong(format!("the class folder `{class}` has no images")));
            }
            // torchvision's order: by folder, and by name within a folder.
            files.sort_by_cached_key(|file: &PathBuf| {
                let folder = file.parent().unwrap_or(file);
                (folder.to_string_lossy().into_owned(), file_name(file))
            });
            classes.push(class);
            all.push(files);
        }
        if classes.is_empty() {
            return Err(wrong("it has no class folders".to_owned()));
        }
        Ok((classes, all))
    }

    /// Collects the files below a folder. `seen` holds the folders that were entered, with links resolved.
    fn images(
        &mut self,
        folder: &Path,
        seen: &mut HashSet<PathBuf>,
        files: &mut Vec<PathBuf>,
    ) -> Result<(), DataError> {
        let real = folder.canonicalize().map_err(DataError::io("resolve", folder))?;
        if !seen.insert(real) {
            let reason = "it is a link to a folder of the same class, whose images would count twice".to_owned();
            return Err(DataError::FolderLayout { path: folder.to_path_buf(), reason });
        }
        for entry in entries(folder)? {
            if is_litter(&file_name(&entry)) {
                self.skip(&entry);
            } else if entry.is_dir() {
                self.images(&entry, seen, files)?;
            } else {
                files.push(entry);
            }
        }
        Ok(())
    }

    fn skip(&mut self, entry: &Path) {
        let end = if entry.is_dir() { "/" } else { "" };
        self.skipped.push(format!("{}{end}", relative(entry, self.root)));
    }
}

/// The contents of `folder`, sorted by name.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let read = || -> io::Result<Vec<PathBuf>> { fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect() };
    let mut paths = read().map_err(DataError::io("list", folder))?;
    paths.sort();
    Ok(paths)
}

fn is_litter(name: &str) -> bool {
    name.starts_with('.') || LITTER.contains(&name)
}

fn is_split(name: &str) -> bool {
    let name = name.to_lowercase();
    ["train", "training", "test", "testing"].contains(&name.as_str()) || VALIDATION.contains(&name.as_str())
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// The path relative to `root`, with `/` between names.
fn relative(path: &Path, root: &Path) -> String {
    let relative = path.strip_prefix(root).unwrap_or(path);
    let names: Vec<_> = relative.components().map(|name| name.as_os_str().to_string_lossy()).collect();
    names.join("/")
}

/// Image files that are decoded when they are asked for.
struct FileImages {
    paths: Vec<PathBuf>,
}

impl PoolImages for FileImages {
    fn picture(&self, index: u32) -> Result<RgbImage, String> {
        decode(&self.paths[index as usize])
    }

    fn place(&self, index: u32) -> PathBuf {
        self.paths[index as usize].clone()
    }
}

pub(crate) fn open(path: &Path) -> Result<Pools, DataError> {
    let tree = Tree::scan(path)?;
    let pool = |files: Files| {
        let labels = (0u32..).zip(&files).flat_map(|(class, files)| std::iter::repeat_n(class, files.len())).collect();
        Pool { labels, images: Box::new(FileImages { paths: files.into_iter().flatten().collect() }) }
    };
    Ok(Pools {
        classes: tree.classes,
        size: None,
        train: pool(tree.train),
        validation: tree.validation.map(pool),
        test: tree.test.map(pool),
        skipped: tree.skipped,
    })
}

/// Returns the digest of the files' relative paths and contents. Its version must change whenever the same files would
/// give other pixels.
pub(crate) fn digest(path: &Path) -> Result<blake3::Hash, DataError> {
    let tree = Tree::scan(path)?;
    let files: Vec<_> = tree.files().collect();
    let hashes: Vec<_> = files.par_iter().map(|file| hash(file)).collect();
    let unreadable = files.iter().zip(&hashes).filter_map(|(file, hash)| {
        let reason = hash.as_ref().err()?.to_string();
        Some(UnreadableImage { path: file.to_path_buf(), reason })
    });
    let unreadable: Vec<_> = unreadable.collect();
    if !unreadable.is_empty() {
        return Err(DataError::UnreadableImages(unreadable));
    }
    let mut hasher = FieldHasher::new("hemlock-data image-folder v3");
    for (file, hash) in files.into_iter().zip(hashes.into_iter().flatten()) {
        hasher.field(relative(file, path).as_bytes()).field(hash.as_bytes());
    }
    Ok(hasher.finish())
}

/// Returns the hash of a file's contents. If the file is too long to be decoded, only its beginning is hashed.
fn hash(file: &Path) -> io::Result<blake3::Hash> {
    use io::Read as _;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(open_file(file)?.take((LIMIT_MIB << 20) + 1))?;
    Ok(hasher.finalize())
}
