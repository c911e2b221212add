//! Datasets of image files, with one folder per class, or with lists of files.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use hemlock_stage::{few, open_file, read_file, short};
use image::RgbImage;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Kind, file_name, has_ending, locate, relative};
use crate::Folders;
use crate::checksum::FieldHasher;
use crate::decode::{LIMIT_MIB, decode};
use crate::error::{DataError, UnreadableImage};
use crate::pool::{Groups, Pool, PoolImages, Pools};

/// Parameters of an image folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageFolder {
    /// The folder, relative to the working directory or to the data directory.
    pub path: PathBuf,
    /// A file in the folder that lists the training images, one a line, as `CLASS/NAME` with or without an ending. They
    /// lie in `path/images`, or in `path` if there is no such folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<PathBuf>,
    /// The list of the validation images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<PathBuf>,
    /// The list of the test images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<PathBuf>,
}

impl ImageFolder {
    /// A folder without lists.
    pub fn new(path: PathBuf) -> Self {
        Self { path, train: None, validation: None, test: None }
    }

    fn tree(&self, data: Option<&Path>) -> Result<Tree, DataError> {
        let path = locate(&self.path, data);
        match &self.train {
            None => Tree::scan(&path),
            Some(train) => Tree::listed(&path, train, self.validation.as_deref(), self.test.as_deref()),
        }
    }
}

impl Kind for ImageFolder {
    fn name(&self) -> &'static str {
        "image-folder"
    }

    fn check(&self) -> Result<(), DataError> {
        if self.train.is_none() && (self.validation.is_some() || self.test.is_some()) {
            let (field, value) = ("source.train", "not given".to_owned());
            return Err(DataError::Parameter { field, value, expected: "a list, as another split has one" });
        }
        Ok(())
    }

    fn digest(&self, data: Option<&Path>) -> Result<blake3::Hash, DataError> {
        digest(&self.tree(data)?, &locate(&self.path, data))
    }

    fn open(&self, folders: Folders) -> Result<Pools, DataError> {
        Ok(open(self.tree(folders.data)?))
    }
}

/// Names of files and folders that file managers and archivers leave among images. Names that begin with a dot are
/// skipped, too.
const LITTER: [&str; 4] = ["Thumbs.db", "desktop.ini", "@eaDir", "__MACOSX"];

/// Endings of files that describe images, and are none.
const NOTES: [&str; 8] = ["txt", "csv", "tsv", "json", "xml", "md", "html", "mat"];

/// The file in Tiny-ImageNet's `val/` that names the class of every image in `val/images/`.
const ANNOTATIONS: &str = "val_annotations.txt";
/// The folder of images that are not in folders of their classes, or that are all that a class has.
const IMAGES: &str = "images";

/// Largest size of a list of files, in MiB.
const LIST_MIB: u64 = 256;

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
    /// Whether something else than the folder of a file says its class or its split.
    apart: bool,
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
                Ok(Self { classes, train, validation: None, test: None, skipped: scan.skipped, apart: false })
            }
            (false, ..) => Err(wrong("it has no train/ beside its other splits".to_owned())),
            (_, _, [a, b, ..]) => Err(wrong(format!("{a}/ and {b}/ are two validation splits"))),
            (true, has_test, validation) => {
                let (classes, train) = scan.classes(&train)?;
                let mut apart = false;
                let mut split = |name: &str| scan.split(name, &classes, &mut apart);
                let mut test = if has_test { split("test")? } else { None };
                let mut validation = validation.first().map(|name| split(name)).transpose()?.flatten();
                // Of training and validation images alone, the latter are measured on, as of ImageNet.
                if test.is_none() {
                    test = validation.take();
                }
                let splits = |name: &str| name == "train" || name == "test" || VALIDATION.contains(&name);
                for entry in entries(path)? {
                    let name = file_name(&entry);
                    match entry.is_dir() {
                        true if splits(&name) => {}
                        true if is_split(&name) => return Err(wrong(no_split(&name))),
                        _ => scan.skip(&entry),
                    }
                }
                Ok(Self { classes, train, validation, test, skipped: scan.skipped, apart })
            }
        }
    }

    /// Finds the files that lists name.
    fn listed(path: &Path, train: &Path, validation: Option<&Path>, test: Option<&Path>) -> Result<Self, DataError> {
        let below = path.join(IMAGES);
        let images = if below.is_dir() { below } else { path.to_path_buf() };
        let read = |list: &Path| read_list(&path.join(list), &images);
        let train = read(train)?;
        let classes: Vec<String> = train.keys().cloned().collect();
        let other = |list: Option<&Path>| {
            let Some(list) = list else { return Ok(None) };
            let mut files = read(list)?;
            let found: Vec<String> = files.keys().cloned().collect();
            if let Some(class) = found.iter().find(|class| !classes.contains(class)) {
                let reason = format!("names the class `{class}`, of which there is no training image");
                return Err(DataError::Layout { path: path.join(list), reason });
            }
            Ok(Some(classes.iter().map(|class| files.remove(class).unwrap_or_default()).collect()))
        };
        let (mut validation, mut test): (Option<Files>, Option<Files>) = (other(validation)?, other(test)?);
        if test.is_none() {
            test = validation.take();
        }
        Ok(Self { train: train.into_values().collect(), classes, validation, test, skipped: Vec::new(), apart: true })
    }

    fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let others = [&self.validation, &self.test].into_iter().flatten();
        [&self.train].into_iter().chain(others).flatten().flatten()
    }
}

/// Reads a list of files by class: lines of `CLASS/NAME`, with or without an ending.
fn read_list(list: &Path, images: &Path) -> Result<BTreeMap<String, Vec<PathBuf>>, DataError> {
    let text = read_file(list, LIST_MIB).map_err(DataError::io("read", list))?;
    let mut classes: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for line in String::from_utf8_lossy(&text).lines().map(str::trim).filter(|line| !line.is_empty()) {
        let wrong = |reason: String| DataError::Layout { path: list.to_path_buf(), reason };
        let is_plain = Path::new(line).components().all(|part| matches!(part, Component::Normal(_)));
        let class = Path::new(line).parent().map(file_name).filter(|class| !class.is_empty() && is_plain);
        let class = class.ok_or_else(|| wrong(format!("has the line `{}`; expected CLASS/NAME", short(line, 80))))?;
        let files = ["", ".jpg", ".jpeg", ".png"].map(|ending| images.join(format!("{line}{ending}")));
        let file = files.into_iter().find(|file| file.is_file());
        let none = || wrong(format!("names `{}`, and {} has no such image", short(line, 80), images.display()));
        classes.entry(class).or_default().push(file.ok_or_else(none)?);
    }
    if classes.is_empty() {
        return Err(DataError::Layout { path: list.to_path_buf(), reason: "names no images".to_owned() });
    }
    Ok(classes)
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

/// Reads the classes of the images of a split from a file: their names, and the names of their classes behind a tab.
fn annotated(file: &Path, images: &Path, classes: &[String]) -> Result<Files, DataError> {
    let text = read_file(file, LIST_MIB).map_err(DataError::io("read", file))?;
    let mut files = vec![Vec::new(); classes.len()];
    for line in String::from_utf8_lossy(&text).lines().filter(|line| !line.trim().is_empty()) {
        let mut words = line.split('\t');
        let class = |name: &str| classes.iter().position(|class| class == name);
        match (words.next(), words.next().and_then(class)) {
            (Some(name), Some(class)) if Path::new(name).file_name() == Some(name.as_ref()) => {
                files[class].push(images.join(name));
            }
            _ => {
                let reason = format!("has the line `{}`; expected an image and a class", short(line, 80));
                return Err(DataError::Layout { path: file.to_path_buf(), reason });
            }
        }
    }
    Ok(files)
}

/// A walk through a dataset's folder that records what it skips.
struct Scan<'a> {
    root: &'a Path,
    skipped: Vec<String>,
}

impl Scan<'_> {
    /// Returns the files of another split than the training split; `None` if they have no labels. Sets `apart` if a
    /// file says their classes.
    fn split(&mut self, name: &str, classes: &[String], apart: &mut bool) -> Result<Option<Files>, DataError> {
        let path = self.root.join(name);
        let wrong = |reason: String| DataError::FolderLayout { path: self.root.to_path_buf(), reason };
        let (annotations, images) = (path.join(ANNOTATIONS), path.join(IMAGES));
        if annotations.is_file() && images.is_dir() {
            *apart = true;
            return annotated(&annotations, &images, classes).map(Some);
        }
        let folders: Vec<PathBuf> = entries(&path)?.into_iter().filter(|entry| entry.is_dir()).collect();
        if folders == [images] && !classes.iter().any(|class| class == IMAGES) {
            self.skipped.push(format!("{name}/ (without labels)"));
            return Ok(None);
        }
        let (others, files) = self.classes(&path)?;
        if others == classes { Ok(Some(files)) } else { Err(wrong(unequal(classes, name, &others))) }
    }

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
            let is_note = NOTES.iter().any(|ending| has_ending(&entry, ending)) && !entry.is_dir();
            if is_note || is_litter(&file_name(&entry)) {
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

/// Image files that are decoded when they are asked for.
pub(super) struct FileImages {
    pub paths: Vec<PathBuf>,
}

impl PoolImages for FileImages {
    fn picture(&self, index: u32) -> Result<RgbImage, String> {
        decode(&self.paths[index as usize])
    }

    fn place(&self, index: u32) -> PathBuf {
        self.paths[index as usize].clone()
    }
}

fn open(tree: Tree) -> Pools {
    let pool = |files: Files| {
        let labels = (0u32..).zip(&files).flat_map(|(class, files)| std::iter::repeat_n(class, files.len())).collect();
        let images = Box::new(FileImages { paths: files.into_iter().flatten().collect() });
        Pool { labels, groups: None, images }
    };
    Pools {
        classes: tree.classes,
        size: None,
        train: pool(tree.train),
        validation: tree.validation.map(pool),
        test: tree.test.map(pool),
        groups: Groups::default(),
        skipped: tree.skipped,
    }
}

/// Returns the digest of the files' relative paths and contents. Its version must change whenever the same files would
/// give other pixels.
fn digest(tree: &Tree, path: &Path) -> Result<blake3::Hash, DataError> {
    let files: Vec<&PathBuf> = tree.files().collect();
    let mut hasher = FieldHasher::new("hemlock-data image-folder v3");
    digest_images(&mut hasher, &files, path)?;
    if tree.apart {
        // Paths of files do not say their classes and splits.
        for files in [Some(&tree.train), tree.validation.as_ref(), tree.test.as_ref()] {
            let counts: Vec<usize> = files.into_iter().flatten().map(Vec::len).collect();
            hasher.field(format!("{counts:?}").as_bytes());
        }
        hasher.field(format!("{:?}", tree.classes).as_bytes());
    }
    Ok(hasher.finish())
}

/// Adds image files to a digest, by their paths relative to `root` and their contents.
pub(super) fn digest_images(hasher: &mut FieldHasher, files: &[&PathBuf], root: &Path) -> Result<(), DataError> {
    let hashes: Vec<_> = files.par_iter().map(|file| hash(file)).collect();
    let unreadable = files.iter().zip(&hashes).filter_map(|(file, hash)| {
        let reason = hash.as_ref().err()?.to_string();
        Some(UnreadableImage { path: file.to_path_buf(), reason })
    });
    let unreadable: Vec<_> = unreadable.collect();
    if !unreadable.is_empty() {
        return Err(DataError::UnreadableImages(unreadable));
    }
    for (file, hash) in files.iter().zip(hashes.into_iter().flatten()) {
        hasher.field(relative(file, root).as_bytes()).field(hash.as_bytes());
    }
    Ok(())
}

/// Returns the hash of a file's contents. If the file is too long to be decoded, only its beginning is hashed.
fn hash(file: &Path) -> io::Result<blake3::Hash> {
    use io::Read as _;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(open_file(file)?.take((LIMIT_MIB << 20) + 1))?;
    Ok(hasher.finalize())
}
