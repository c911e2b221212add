//! Labelled images in three splits.

use crate::stored::Pixels;
use crate::{TestGroups, arrays};
use hemlock_store::{Artifact, PayloadReader, PayloadWriter, StoreError};
use serde::{Deserialize, Serialize};

/// One split of a dataset.
#[derive(Debug, Clone, PartialEq)]
pub struct Images {
    /// 8-bit RGB, `[n, 3, height, width]`.
    pub pixels: Pixels,
    /// The class of every image, `[n]`.
    pub labels: Vec<u32>,
    /// The position of every image in the pool of the source that it was drawn from, `[n]`.
    pub source_index: Vec<u32>,
}

impl Images {
    /// Number of images.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }
    /// Whether there are no images.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

/// A dataset as stages read it: chosen, split and decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// Name of the source.
    pub name: String,
    /// Class names; a label is an index into them.
    pub classes: Vec<String>,
    /// Images for training.
    pub train: Images,
    /// Images for choosing hyperparameters; may be empty.
    pub validation: Images,
    /// Images for measuring only; may be empty.
    pub test: Images,
    /// Number of files and folders that were found beside the images and are not part of the dataset.
    pub skipped: usize,
    /// The groups of the test images, if the source has groups.
    pub test_groups: Option<TestGroups>,
}

#[derive(Serialize, Deserialize)]
struct Info {
    name: String,
    classes: Vec<String>,
}

/// The file that holds [`Dataset::skipped`]. It is absent if nothing was skipped, as in artifacts from before this
/// field existed.
const SKIPPED: &str = "skipped";

impl Artifact for Dataset {
    const KIND: &'static str = "dataset";

    fn write(&self, w: &mut PayloadWriter) -> Result<(), StoreError> {
        w.value("info", &Info { name: self.name.clone(), classes: self.classes.clone() })?;
        if self.skipped > 0 {
            w.value(SKIPPED, &self.skipped)?;
        }
        TestGroups::write(self.test_groups.as_ref(), w)?;
        for (split, images) in [("train", &self.train), ("validation", &self.validation), ("test", &self.test)] {
            images.pixels.write(w, &format!("{split}.pixels"))?;
            arrays::write_vec(w, &format!("{split}.labels"), &images.labels)?;
            arrays::write_vec(w, &format!("{split}.source_index"), &images.source_index)?;
        }
        Ok(())
    }

    fn read(r: &PayloadReader) -> Result<Self, StoreError> {
        let Info { name, classes } = r.value("info")?;
        let split = |split: &str| -> Result<Images, StoreError> {
            Ok(Images {
                pixels: Pixels::read(r, &format!("{split}.pixels"))?,
                labels: arrays::read_vec(r, &format!("{split}.labels"))?,
                source_index: arrays::read_vec(r, &format!("{split}.source_index"))?,
            })
        };
        let (train, validation, test) = (split("train")?, split("validation")?, split("test")?);
        let skipped = if r.files().contains_key(SKIPPED) { r.value(SKIPPED)? } else { 0 };
        Ok(Self { name, classes, train, validation, test, skipped, test_groups: TestGroups::read(r)? })
    }

    fn summary(&self) -> serde_json::Value {
        let mut summary = serde_json::json!({
            "name": self.name, "classes": self.classes.len(),
            "train": self.train.len(), "validation": self.validation.len(), "test": self.test.len(),
        });
        if self.skipped > 0 {
            summary["skipped"] = self.skipped.into();
        }
        summary
    }
}
