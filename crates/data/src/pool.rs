//! Pools of images, and the choice and loading of splits from them.

use std::path::{Path, PathBuf};

use hemlock_artifact::{Dataset, Images, Pixels, TestGroups};
use hemlock_stage::{ParamError, few};
use image::{Rgb, RgbImage};
use ndarray::{Array4, Dim};
use rayon::prelude::*;

use crate::error::{DataError, UnreadableImage};
use crate::resize::Preparation;
use crate::split::{NOT_TAKEN, SplitSpec};

/// The pools of images that a source offers.
pub(crate) struct Pools {
    pub classes: Vec<String>,
    /// Height and width of every picture, in pixels; `None` if they differ.
    pub size: Option<usize>,
    pub train: Pool,
    /// The validation pool; `None` if the validation split is taken from the training pool.
    pub validation: Option<Pool>,
    /// The test pool; `None` if the test split is taken from the training pool.
    pub test: Option<Pool>,
    /// The groups that images belong to, if the source knows them.
    pub groups: Groups,
    /// Files and folders that were found and are not part of the source.
    pub skipped: Vec<String>,
}

/// The names of groups, in the order of their numbers.
#[derive(Debug, Default)]
pub(crate) struct Groups(pub Vec<String>);

/// Labelled images, which are read one by one once they are chosen.
pub(crate) struct Pool {
    pub labels: Vec<u32>,
    /// The group of every image, if groups are known.
    pub groups: Option<Vec<u32>>,
    pub images: Box<dyn PoolImages>,
}

/// Random access to the pictures of a pool.
pub(crate) trait PoolImages: Send + Sync {
    /// Gets ready to give the pictures of `indices`, which ascend, and which are asked for next.
    fn prepare(&self, _indices: &[u32]) -> Result<(), DataError> {
        Ok(())
    }

    /// Picture `index`; the error is the reason why it cannot be read.
    fn picture(&self, index: u32) -> Result<RgbImage, String>;

    /// Writes picture `index` as RGB bytes `[3, size, size]` to `chw`, if all pictures of the pool have this size and
    /// are stored so. Returns whether it did.
    fn copy(&self, _index: u32, _chw: &mut [u8]) -> bool {
        false
    }

    /// The file of picture `index`, or its place in a file, for messages.
    fn place(&self, index: u32) -> PathBuf;
}

/// Height and width of images if pictures have several sizes, in pixels.
const SIZE: usize = 32;

/// Makes a picture of planes, `[3, size, size]`.
pub(crate) fn picture(chw: &[u8], size: usize) -> RgbImage {
    let plane = size * size;
    RgbImage::from_fn(size as u32, size as u32, |x, y| {
        let at = y as usize * size + x as usize;
        Rgb([0, 1, 2].map(|channel| chw[channel * plane + at]))
    })
}

/// Number of images between two reports of progress.
const BLOCK: usize = 256;

impl Pools {
    /// Restricts the pools to the classes in `names`, which get labels in this order.
    pub fn only(mut self, names: &[String]) -> Result<Self, DataError> {
        let number = |name: &String| {
            let known = || DataError::UnknownClass {
                class: name.clone(),
                known: few(self.classes.iter().map(|class| format!("`{class}`"))),
            };
            self.classes.iter().position(|class| class == name).ok_or_else(known)
        };
        let mut new = vec![NOT_TAKEN; self.classes.len()];
        for (label, name) in (0u32..).zip(names) {
            new[number(name)?] = label;
        }
        let pools = [Some(&mut self.train), self.validation.as_mut(), self.test.as_mut()];
        for label in pools.into_iter().flatten().flat_map(|pool| &mut pool.labels) {
            *label = new[*label as usize];
        }
        names.clone_into(&mut self.classes);
        Ok(self)
    }

    /// Chooses and reads the images of the three splits.
    pub fn load(
        &self,
        name: &str,
        preparation: &Preparation,
        split: &SplitSpec,
        scratch: Option<&Path>,
        progress: &dyn Fn(usize, usize) -> bool,
    ) -> Result<Dataset, DataError> {
        let (validation, test) = (labels(self.validation.as_ref()), labels(self.test.as_ref()));
        let chosen = split.choose(&self.classes, &self.train.labels, validation, test)?;
        let size = preparation.size.or(self.size).unwrap_or(SIZE);
        let total = chosen.train.len() + chosen.validation.len() + chosen.test.len();
        if scratch.is_none() {
            let bytes = 3.0 * (size * size) as f64 * total as f64;
            ParamError::fits("train", format!("a choice of {total} images of {size} x {size} pixels"), bytes)?;
        }
        let as_is = self.size == Some(size) && preparation.crop == 1.0;
        let mut reader = Reader { preparation, size, as_is, scratch, done: 0, total, progress, unreadable: Vec::new() };
        let test = self.test.as_ref().unwrap_or(&self.train);
        let of = |groups: &Vec<u32>| chosen.test.iter().map(|index| groups[*index as usize]).collect();
        let test_groups =
            test.groups.as_ref().map(|groups| TestGroups { names: self.groups.0.clone(), of: of(groups) });
        let loaded = Dataset {
            name: name.to_owned(),
            classes: self.classes.clone(),
            train: reader.read(&self.train, chosen.train)?,
            validation: reader.read(self.validation.as_ref().unwrap_or(&self.train), chosen.validation)?,
            test: reader.read(test, chosen.test)?,
            skipped: self.skipped.len(),
            test_groups,
        };
        if reader.unreadable.is_empty() { Ok(loaded) } else { Err(DataError::UnreadableImages(reader.unreadable)) }
    }
}

fn labels(pool: Option<&Pool>) -> Option<&[u32]> {
    pool.map(|pool| pool.labels.as_slice())
}

struct Reader<'a> {
    preparation: &'a Preparation,
    size: usize,
    /// Whether pictures are images already.
    as_is: bool,
    /// The folder of the files that images are written to; `None` for memory.
    scratch: Option<&'a Path>,
    done: usize,
    total: usize,
    progress: &'a dyn Fn(usize, usize) -> bool,
    unreadable: Vec<UnreadableImage>,
}

impl Reader<'_> {
    fn read(&mut self, pool: &Pool, source_index: Vec<u32>) -> Result<Images, DataError> {
        let shape = [source_index.len(), 3, self.size, self.size];
        let mut images = match self.scratch {
            Some(folder) => Pixels::scratch(folder, Dim(shape))?,
            None => Array4::zeros(shape).into(),
        };
        let pixels = 3 * self.size * self.size;
        let (preparation, size, as_is) = (self.preparation, self.size, self.as_is);
        let write = |index: u32, chw: &mut [u8]| {
            if as_is && pool.images.copy(index, chw) {
                return Ok(());
            }
            let written = pool.images.picture(index).and_then(|picture| preparation.write(&picture, size, chw));
            written.map_err(|reason| UnreadableImage { path: pool.images.place(index), reason })
        };
        let mut view = images.view_mut();
        let bytes = view.as_slice_mut().expect("a new array is contiguous");
        for (block, indices) in bytes.chunks_mut(BLOCK * pixels).zip(source_index.chunks(BLOCK)) {
            pool.images.prepare(indices)?;
            let unreadable: Vec<_> =
                block.par_chunks_mut(pixels).zip(indices).filter_map(|(chw, &index)| write(index, chw).err()).collect();
            self.unreadable.extend(unreadable);
            self.done += indices.len();
            if !(self.progress)(self.done, self.total) {
                return Err(DataError::Interrupted);
            }
        }
        let labels = source_index.iter().map(|&index| pool.labels[index as usize]).collect();
        Ok(Images { pixels: images, labels, source_index })
    }
}
