//! Data sets with poisons among the clean samples, in files that other tools read.
//!
//! A data set is written as image files in one folder per class, as one `.npz` file, or as a Parquet file per split.
//! Beside it, `manifest.csv` says of every sample which file and row it is in, whether it is a poison, and of which
//! training sample it was made. Equal data sets give equal bytes.

mod arrays;
mod columns;
mod files;
#[cfg(test)]
mod tests;

pub use files::png;

use hemlock_artifact::{Dataset, Features, PoisonFeatures, Poisons};
use ndarray::{ArrayView2, ArrayView4, Axis};
use std::fmt;
use std::str::FromStr;

/// Name of the file that says which samples are poisons.
const MANIFEST: &str = "manifest.csv";

/// The files of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetFormat {
    /// PNG files in one folder per class, below one folder per split.
    Folder,
    /// One `.npz` file.
    Npz,
    /// A Parquet file per split, with encoded images.
    Parquet,
}

impl SetFormat {
    /// All formats.
    pub const ALL: [Self; 3] = [Self::Folder, Self::Npz, Self::Parquet];

    /// The name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Folder => "folder",
            Self::Npz => "npz",
            Self::Parquet => "parquet",
        }
    }
}

impl fmt::Display for SetFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for SetFormat {
    type Err = SetError;

    fn from_str(name: &str) -> Result<Self, SetError> {
        Self::ALL.into_iter().find(|format| format.name() == name).ok_or_else(|| SetError::Format(name.to_owned()))
    }
}

/// Why a data set cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum SetError {
    /// There is no such format.
    #[error("there is no format `{0}`; expected folder, npz or parquet")]
    Format(String),
    /// Features were to be written as images.
    #[error("features cannot be written as {0}, which is for images; expected npz")]
    Features(SetFormat),
    /// The poisons are no floats of images, or of another shape than the clean samples.
    #[error("the poisons have the shape {found:?} for each sample, and the clean samples {expected:?}")]
    Shape {
        /// The shape of a poison.
        found: Vec<usize>,
        /// The shape of a clean sample.
        expected: Vec<usize>,
    },
    /// A poison is made of a training sample that is not there, or a label has no class.
    #[error("{0}")]
    Index(String),
    /// An encoder failed.
    #[error("{file} cannot be encoded: {what}")]
    Encode {
        /// The file.
        file: String,
        /// The encoder's words.
        what: String,
    },
}

/// Samples of a split: 8-bit images `[n, 3, height, width]`, or features `[n, d]`.
#[derive(Debug, Clone, Copy)]
pub enum SetSamples<'a> {
    /// Images.
    Images(ArrayView4<'a, u8>),
    /// Features.
    Features(ArrayView2<'a, f32>),
}

impl SetSamples<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Images(images) => images.len_of(Axis(0)),
            Self::Features(features) => features.nrows(),
        }
    }

    /// The shape of one sample.
    fn shape(&self) -> &[usize] {
        match self {
            Self::Images(images) => &images.shape()[1..],
            Self::Features(features) => &features.shape()[1..],
        }
    }
}

/// Samples with their labels.
#[derive(Debug, Clone, Copy)]
pub struct LabelledSamples<'a> {
    /// The samples.
    pub samples: SetSamples<'a>,
    /// The class of every sample, `[n]`.
    pub labels: &'a [u32],
}

impl<'a> LabelledSamples<'a> {
    fn images(images: &'a hemlock_artifact::Images) -> Self {
        Self { samples: SetSamples::Images(images.pixels.view()), labels: &images.labels }
    }

    fn features(split: &'a hemlock_artifact::FeatureSplit) -> Self {
        Self { samples: SetSamples::Features(split.features.view()), labels: &split.labels }
    }
}

/// A data set, and the poisons that are to be among its training samples.
#[derive(Debug, Clone, Copy)]
pub struct PoisonedSet<'a> {
    /// Names of the classes; a label is an index into them.
    pub classes: &'a [String],
    /// The clean training samples.
    pub train: LabelledSamples<'a>,
    /// Samples that are held out; may be empty.
    pub validation: Option<LabelledSamples<'a>>,
    /// Samples for measuring only; may be empty.
    pub test: Option<LabelledSamples<'a>>,
    /// The poisons.
    pub poisons: LabelledSamples<'a>,
    /// The row of the training sample that each poison is made of, `[m]`; unknown if it is `None`.
    pub base_index: Option<&'a [u32]>,
    /// Whether the poisons replace these samples; otherwise they come behind all of them.
    pub replaces: bool,
}

/// A sample of a split as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sample {
    /// The place of the sample among the clean ones or among the poisons.
    place: usize,
    label: u32,
    poison: bool,
    /// The row of the training sample that a poison is made of.
    source: Option<u32>,
}

/// A split as it is written.
struct Part<'a> {
    /// The name of its folder, and the beginning of the names of its arrays of images.
    name: &'static str,
    clean: SetSamples<'a>,
    poisons: SetSamples<'a>,
    samples: Vec<Sample>,
}

impl<'a> PoisonedSet<'a> {
    /// The images of a data set and poisoned images.
    #[must_use]
    pub fn of_images(dataset: &'a Dataset, poisons: &'a Poisons) -> Self {
        Self {
            classes: &dataset.classes,
            train: LabelledSamples::images(&dataset.train),
            validation: Some(LabelledSamples::images(&dataset.validation)),
            test: Some(LabelledSamples::images(&dataset.test)),
            poisons: LabelledSamples { samples: SetSamples::Images(poisons.images.view()), labels: &poisons.labels },
            base_index: Some(&poisons.base_index),
            replaces: poisons.replaces,
        }
    }

    /// The features of a data set and poisoned features, as a head sees them.
    #[must_use]
    pub fn of_features(features: &'a Features, poisons: &'a PoisonFeatures) -> Self {
        Self {
            classes: &features.classes,
            train: LabelledSamples::features(&features.train),
            validation: Some(LabelledSamples::features(&features.validation)),
            test: Some(LabelledSamples::features(&features.test)),
            poisons: LabelledSamples {
                samples: SetSamples::Features(poisons.features.view()),
                labels: &poisons.labels,
            },
            base_index: Some(&poisons.base_index),
            replaces: false,
        }
    }

    /// The files of the data set, with their contents, one after the other.
    ///
    /// # Errors
    /// If the poisons and the clean samples do not fit each other, or if features are to be written as images.
    pub fn files(&self, format: SetFormat) -> Result<SetFiles<'a>, SetError> {
        self.check(format)?;
        let parts = self.parts();
        Ok(match format {
            SetFormat::Folder => files::folder(self.classes, parts),
            SetFormat::Npz => arrays::npz(self.classes, parts),
            SetFormat::Parquet => columns::parquet(self.classes, parts),
        })
    }

    fn check(&self, format: SetFormat) -> Result<(), SetError> {
        let Self { classes, train, validation, test, poisons, base_index, .. } = self;
        if matches!(train.samples, SetSamples::Features(_)) && format != SetFormat::Npz {
            return Err(SetError::Features(format));
        }
        for other in [Some(poisons), validation.as_ref(), test.as_ref()].into_iter().flatten() {
            let (found, expected) = (other.samples.shape(), train.samples.shape());
            if other.samples.len() > 0 && found != expected {
                return Err(SetError::Shape { found: found.to_vec(), expected: expected.to_vec() });
            }
        }
        for part in [Some(train), Some(poisons), validation.as_ref(), test.as_ref()].into_iter().flatten() {
            let (samples, labels) = (part.samples.len(), part.labels.len());
            if samples != labels {
                return Err(SetError::Index(format!("there are {samples} samples and {labels} labels")));
            }
            if let Some(label) = part.labels.iter().find(|label| **label as usize >= classes.len()) {
                return Err(SetError::Index(format!("a label is {label}, and there are {} classes", classes.len())));
            }
        }
        let (poisons, samples) = (poisons.samples.len(), train.samples.len());
        match base_index {
            Some(base) if base.len() != poisons => {
                Err(SetError::Index(format!("there are {poisons} poisons and {} sources", base.len())))
            }
            Some(base) => match base.iter().find(|row| **row as usize >= samples) {
                Some(row) => {
                    Err(SetError::Index(format!("a poison is made of training sample {row}, and there are {samples}")))
                }
                None => Ok(()),
            },
            None if self.replaces => Err(SetError::Index("poisons replace samples, and do not say which".to_owned())),
            None => Ok(()),
        }
    }

    /// The splits as they are written, without empty ones.
    fn parts(&self) -> Vec<Part<'a>> {
        let clean = |labels: &[u32]| -> Vec<Sample> {
            let sample = |(place, label): (usize, &u32)| Sample { place, label: *label, poison: false, source: None };
            labels.iter().enumerate().map(sample).collect()
        };
        let mut samples = clean(self.train.labels);
        for (place, label) in self.poisons.labels.iter().enumerate() {
            let source = self.base_index.map(|base| base[place]);
            let poison = Sample { place, label: *label, poison: true, source };
            match source.filter(|_| self.replaces) {
                Some(row) => samples[row as usize] = poison,
                None => samples.push(poison),
            }
        }
        let poisons = self.poisons.samples;
        let mut parts = vec![Part { name: "train", clean: self.train.samples, poisons, samples }];
        for (name, split) in [("val", self.validation), ("test", self.test)] {
            if let Some(split) = split.filter(|split| split.samples.len() > 0) {
                parts.push(Part { name, clean: split.samples, poisons, samples: clean(split.labels) });
            }
        }
        parts
    }
}

/// The files of a data set: their names, and what makes the content of each.
pub struct SetFiles<'a> {
    names: Vec<String>,
    make: Box<dyn Fn(usize) -> Result<Vec<u8>, SetError> + 'a>,
}

impl SetFiles<'_> {
    /// The names, as paths below the folder that the data set is written to.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The content of the file with this number.
    ///
    /// # Errors
    /// If it cannot be encoded.
    pub fn content(&self, number: usize) -> Result<Vec<u8>, SetError> {
        (self.make)(number)
    }
}

/// The manifest: a row per sample. `file` names the file of a sample.
fn manifest(
    classes: &[String],
    parts: &[Part<'_>],
    file: &dyn Fn(&Part<'_>, usize, &Sample) -> String,
) -> Result<Vec<u8>, SetError> {
    let failed = |e: &dyn fmt::Display| SetError::Encode { file: MANIFEST.to_owned(), what: e.to_string() };
    let mut csv = csv::Writer::from_writer(Vec::new());
    let header = ["split", "row", "file", "label", "class", "poison", "source"];
    csv.write_record(header).map_err(|e| failed(&e))?;
    for part in parts {
        for (row, sample) in part.samples.iter().enumerate() {
            let source = sample.source.map_or_else(String::new, |source| source.to_string());
            let class = &classes[sample.label as usize];
            let (row_text, label) = (row.to_string(), sample.label.to_string());
            let file = file(part, row, sample);
            let poison = if sample.poison { "1" } else { "0" };
            csv.write_record([part.name, &row_text, &file, &label, class, poison, &source]).map_err(|e| failed(&e))?;
        }
    }
    csv.into_inner().map_err(|e| failed(&e))
}
