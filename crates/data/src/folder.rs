//! Image files in a folder per class.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use image::imageops::{self, FilterType};
use image::{ImageReader, ImageResult, RgbImage};
use rayon::prelude::*;

use crate::checksum::FieldHasher;
use crate::error::{DataError, UnreadableImage};
use crate::pool::{Pool, PoolImages, Pools};

const EXTENSIONS: [&str; 4] = ["png", "jpg", "jpeg", "ppm"];

/// The files of a dataset: class names in order, and each class's files in order.
struct Tree {
    classes: Vec<String>,
    train: Vec<Vec<PathBuf>>,
    test: Option<Vec<Vec<PathBuf>>>,
}

impl Tree {
    fn scan(path: &Path) -> Result<Self, DataError> {
        let wrong = |reason: String| DataError::FolderLayout { path: path.to_path_buf(), reason };
        if !path.is_dir() {
            return Err(wrong("there is no such folder".to_owned()));
        }
        let (train, test) = (path.join("train"), path.join("test"));
        match (train.is_dir(), test.is_dir()) {
            (true, true) => {
                let (classes, train) = scan_classes(&train)?;
                let (test_classes, test) = scan_classes(&test)?;
                if classes != test_classes {
                    return Err(wrong(format!("train/ has the classes {classes:?} but test/ has {test_classes:?}")));
                }
                Ok(Self { classes, train, test: Some(test) })
            }
            (false, false) => {
                let (classes, train) = scan_classes(path)?;
                Ok(Self { classes, train, test: None })
            }
            (true, false) => Err(wrong("train/ has no test/ beside it".to_owned())),
            (false, true) => Err(wrong("test/ has no train/ beside it".to_owned())),
        }
    }

    fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let test = self.test.iter().flatten();
        self.train.iter().chain(test).flatten()
    }
}

/// The class folders of `path`, sorted by name, and their image files, sorted by name.
fn scan_classes(path: &Path) -> Result<(Vec<String>, Vec<Vec<PathBuf>>), DataError> {
    let wrong = |reason: String| DataError::FolderLayout { path: path.to_path_buf(), reason };
    let mut classes = Vec::new();
    let mut files = Vec::new();
    for folder in visible_entries(path)? {
        if !folder.is_dir() {
            continue;
        }
        let class = file_name(&folder);
        let images: Vec<_> = visible_entries(&folder)?.into_iter().filter(|file| has_image_extension(file)).collect();
        if images.is_empty() {
            return Err(wrong(format!("the class folder `{class}` has no images")));
        }
        classes.push(class);
        files.push(images);
    }
    if classes.is_empty() {
        return Err(wrong("it has no class folders".to_owned()));
    }
    Ok((classes, files))
}

/// What lies in `folder`, hidden entries excepted, sorted by name.
fn visible_entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let read = || -> io::Result<Vec<PathBuf>> { fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect() };
    let mut paths = read().map_err(DataError::io("list", folder))?;
    paths.retain(|path| !file_name(path).starts_with('.'));
    paths.sort();
    Ok(paths)
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn has_image_extension(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default();
    EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// Image files, decoded when asked for.
struct FileImages {
    paths: Vec<PathBuf>,
    size: usize,
}

impl PoolImages for FileImages {
    fn write(&self, index: u32, chw: &mut [u8]) -> Result<(), UnreadableImage> {
        let path = &self.paths[index as usize];
        let image = decode(path, self.size)
            .map_err(|error| UnreadableImage { path: path.clone(), reason: error.to_string() })?;
        for (channel, plane) in chw.chunks_exact_mut(self.size * self.size).enumerate() {
            for (byte, pixel) in plane.iter_mut().zip(image.pixels()) {
                *byte = pixel[channel];
            }
        }
        Ok(())
    }
}

/// Scales the shorter side to `size` (Lanczos, window 3) and crops the centre. Transparency is
/// dropped and orientation tags are ignored.
fn decode(path: &Path, size: usize) -> ImageResult<RgbImage> {
    let reader = ImageReader::open(path)?.with_guessed_format()?;
    let image = reader.decode()?.into_rgb8();
    // `Source::check` keeps sizes small.
    let size = size as u32;
    let (width, height) = image.dimensions();
    let short = width.min(height).max(1);
    let scale = |side: u32| {
        let scaled = (f64::from(side) * f64::from(size) / f64::from(short)).round();
        (scaled as u32).max(size)
    };
    let (scaled_width, scaled_height) = (scale(width), scale(height));
    let scaled = if (scaled_width, scaled_height) == (width, height) {
        image
    } else {
        imageops::resize(&image, scaled_width, scaled_height, FilterType::Lanczos3)
    };
    let (x, y) = ((scaled_width - size) / 2, (scaled_height - size) / 2);
    Ok(imageops::crop_imm(&scaled, x, y, size, size).to_image())
}

pub(crate) fn open(path: &Path, size: usize) -> Result<Pools, DataError> {
    let tree = Tree::scan(path)?;
    let pool = |files: Vec<Vec<PathBuf>>| {
        let labels = (0u32..).zip(&files).flat_map(|(class, files)| std::iter::repeat_n(class, files.len())).collect();
        Pool { labels, images: Box::new(FileImages { paths: files.into_iter().flatten().collect(), size }) }
    };
    Ok(Pools { classes: tree.classes, size, train: pool(tree.train), test: tree.test.map(pool) })
}

/// The digest of the files' relative paths and contents and of the size they are scaled to.
pub(crate) fn digest(path: &Path, size: usize) -> Result<blake3::Hash, DataError> {
    let tree = Tree::scan(path)?;
    let files: Vec<_> = tree.files().collect();
    let hashes: Vec<_> = files
        .par_iter()
        .map(|file| {
            let bytes = fs::read(file).map_err(DataError::io("read", file))?;
            Ok(blake3::hash(&bytes))
        })
        .collect::<Result<_, DataError>>()?;
    let mut hasher = FieldHasher::new("hemlock-data image-folder v1");
    hasher.field(size.to_string().as_bytes());
    for (file, hash) in files.into_iter().zip(hashes) {
        let relative = file.strip_prefix(path).unwrap_or(file);
        let names: Vec<_> = relative.components().map(|name| name.as_os_str().to_string_lossy()).collect();
        hasher.field(names.join("/").as_bytes()).field(hash.as_bytes());
    }
    Ok(hasher.finish())
}
