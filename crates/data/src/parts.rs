//! Parts of a dataset, as files name and label them, and the pools that they make.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hemlock_stage::few;
use image::RgbImage;

use crate::DataError;
use crate::pool::{Groups, Pool, PoolImages, Pools};

/// One of the three splits that a file or a column may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SplitName {
    Train,
    Validation,
    Test,
}

impl SplitName {
    /// Reads the name of a split, as it is usual.
    pub fn parse(name: &str) -> Option<Self> {
        match name.trim().to_lowercase().as_str() {
            "train" | "training" => Some(Self::Train),
            "val" | "valid" | "validation" | "dev" => Some(Self::Validation),
            "test" | "testing" => Some(Self::Test),
            _ => None,
        }
    }

    /// Reads the split that begins a file's name, as in `train-00000-of-00002.parquet`.
    pub fn of_file(name: &str) -> Option<Self> {
        Self::parse(name.split(|c: char| !c.is_ascii_alphabetic()).next()?)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

/// A label as a file gives it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Label {
    /// A number; below 0 if the image has no label.
    Number(i64),
    Name(String),
}

impl Label {
    /// Reads a number if the text is one, and a name otherwise.
    pub fn parse(text: &str) -> Self {
        let text = text.trim();
        text.parse().map_or_else(|_| Self::Name(text.to_owned()), Self::Number)
    }

    fn is_missing(&self) -> bool {
        matches!(self, Self::Number(number) if *number < 0)
    }

    fn name(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Name(name) => name.clone(),
        }
    }
}

/// The images of a split, or of the whole dataset.
pub(crate) struct Part {
    /// `None` if nothing says which split the images belong to.
    pub split: Option<SplitName>,
    pub labels: Vec<Label>,
    /// The group of every image, if groups are known.
    pub groups: Option<Vec<String>>,
    pub images: Box<dyn PoolImages>,
}

/// Makes pools of parts. `names` are the classes of the numbers from 0 on; without them, classes are the distinct
/// labels in order.
///
/// A dataset of training and validation images without test images is measured on its validation images, as ImageNet
/// is. A split without labels is no part of the dataset.
///
/// # Errors
/// [`DataError::Layout`] about `path` if there are no training images, if a split comes twice, or if labels do not fit
/// to each other.
pub(crate) fn pools(
    path: &Path,
    mut parts: Vec<Part>,
    names: Option<Vec<String>>,
    size: Option<usize>,
) -> Result<Pools, DataError> {
    let wrong = |reason: String| DataError::Layout { path: path.to_path_buf(), reason };
    let mut skipped = Vec::new();
    parts.retain(|part| {
        let unlabelled = !part.labels.is_empty() && part.labels.iter().all(Label::is_missing);
        if unlabelled {
            skipped.push(format!("{} (without labels)", part.split.map_or("images", SplitName::name)));
        }
        !unlabelled
    });
    let classes = Classes::new(&parts, names).map_err(wrong)?;
    let group_names: BTreeSet<&String> = parts.iter().filter_map(|part| part.groups.as_ref()).flatten().collect();
    let group_names: Vec<String> = group_names.into_iter().cloned().collect();
    let grouped = !parts.is_empty() && parts.iter().all(|part| part.groups.is_some());
    let mut pools: BTreeMap<SplitName, Pool> = BTreeMap::new();
    for part in parts {
        let split = part.split.unwrap_or(SplitName::Train);
        let labels = part.labels.iter().map(|label| classes.number(split, label)).collect::<Result<_, _>>();
        let number = |name: &String| group_names.binary_search(name).unwrap_or_default() as u32;
        let groups = part.groups.filter(|_| grouped).map(|groups| groups.iter().map(number).collect());
        let pool = Pool { labels: labels.map_err(wrong)?, groups, images: part.images };
        if pools.insert(split, pool).is_some() {
            return Err(wrong(format!("has two {} splits", split.name())));
        }
    }
    let train = pools.remove(&SplitName::Train).filter(|pool| !pool.labels.is_empty());
    let train = train.ok_or_else(|| wrong("has no training images".to_owned()))?;
    let (mut validation, mut test) = (pools.remove(&SplitName::Validation), pools.remove(&SplitName::Test));
    if test.is_none() {
        test = validation.take();
    }
    let groups = if grouped { Groups(group_names) } else { Groups::default() };
    Ok(Pools { classes: classes.names, size, train, validation, test, groups, skipped })
}

/// The classes of a dataset.
struct Classes {
    names: Vec<String>,
    /// The labels of the classes in order; `None` if labels are positions in `names`.
    labels: Option<Vec<Label>>,
}

impl Classes {
    fn new(parts: &[Part], names: Option<Vec<String>>) -> Result<Self, String> {
        if let Some(names) = names {
            return Ok(Self { names, labels: None });
        }
        let of = |part: &Part| part.labels.iter().cloned().collect::<BTreeSet<Label>>();
        let train = parts.iter().filter(|part| matches!(part.split, None | Some(SplitName::Train))).map(of);
        let train: Vec<Label> = train.flatten().collect::<BTreeSet<_>>().into_iter().collect();
        for part in parts {
            let other: Vec<_> = of(part).into_iter().filter(|label| train.binary_search(label).is_err()).collect();
            if !other.is_empty() {
                let split = part.split.map_or("train", SplitName::name);
                let names = few(other.iter().map(|label| format!("`{}`", label.name())));
                return Err(format!("has labels in its {split} split that no training image has: {names}"));
            }
        }
        Ok(Self { names: train.iter().map(Label::name).collect(), labels: Some(train) })
    }

    fn number(&self, split: SplitName, label: &Label) -> Result<u32, String> {
        let split = split.name();
        if label.is_missing() {
            return Err(format!("has an image without a label in its {split} split: `{}`", label.name()));
        }
        let position = match (&self.labels, label) {
            (Some(labels), label) => labels.binary_search(label).ok(),
            (None, Label::Number(number)) => usize::try_from(*number).ok().filter(|number| *number < self.names.len()),
            (None, Label::Name(name)) => self.names.iter().position(|class| class == name),
        };
        let position = position.ok_or_else(|| {
            let n = self.names.len();
            format!("has the label `{}` in its {split} split, which none of its {n} classes is", label.name())
        })?;
        Ok(position as u32)
    }
}

impl Part {
    /// The images at some positions, which have these labels.
    pub fn subset(self, rows: Vec<u32>, labels: Vec<Label>) -> Self {
        let images = Box::new(Subset { of: Arc::from(self.images), rows });
        Self { labels, groups: None, images, ..self }
    }
}

/// Some of the images of a larger collection, which several splits share.
struct Subset {
    of: Arc<dyn PoolImages>,
    /// The positions of the images in the collection.
    rows: Vec<u32>,
}

impl PoolImages for Subset {
    fn picture(&self, index: u32) -> Result<RgbImage, String> {
        self.of.picture(self.rows[index as usize])
    }

    fn copy(&self, index: u32, chw: &mut [u8]) -> bool {
        self.of.copy(self.rows[index as usize], chw)
    }

    fn prepare(&self, indices: &[u32]) -> Result<(), DataError> {
        let rows: Vec<u32> = indices.iter().map(|index| self.rows[*index as usize]).collect();
        self.of.prepare(&rows)
    }

    fn place(&self, index: u32) -> PathBuf {
        self.of.place(self.rows[index as usize])
    }
}

/// One image of a collection: its split, its label and its group.
pub(crate) struct Row {
    pub split: Option<SplitName>,
    pub label: Label,
    pub group: Option<String>,
}

/// Divides a collection by the splits of its rows.
///
/// # Errors
/// The reason, if some rows have a split and others have none.
pub(crate) fn by_split(rows: Vec<Row>, images: Box<dyn PoolImages>) -> Result<Vec<Part>, String> {
    let of: Arc<dyn PoolImages> = Arc::from(images);
    let splits: BTreeSet<Option<SplitName>> = rows.iter().map(|row| row.split).collect();
    if splits.len() > 1 && splits.contains(&None) {
        return Err("has images whose split is not known beside others whose split is".to_owned());
    }
    let grouped = rows.iter().all(|row| row.group.is_some());
    let part = |split: Option<SplitName>| {
        let (mut labels, mut groups, mut positions) = (Vec::new(), Vec::new(), Vec::new());
        for (position, row) in (0u32..).zip(&rows).filter(|(_, row)| row.split == split) {
            labels.push(row.label.clone());
            groups.extend(row.group.clone());
            positions.push(position);
        }
        let images = Box::new(Subset { of: Arc::clone(&of), rows: positions });
        Part { split, labels, groups: grouped.then_some(groups), images }
    };
    Ok(splits.into_iter().map(part).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::{Order, RawImages, Shape};

    fn numbers(labels: &[i64]) -> Vec<Label> {
        labels.iter().copied().map(Label::Number).collect()
    }

    fn part(split: Option<SplitName>, labels: Vec<Label>) -> Part {
        let shape = Shape { channels: 1, height: 1, width: 1, order: Order::Pixels };
        let images = RawImages::new(shape, vec![0; labels.len()], Path::new("x"));
        Part { split, labels, groups: None, images: Box::new(images) }
    }

    fn made(parts: Vec<Part>, names: Option<&[&str]>) -> Result<Pools, String> {
        let names = names.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        pools(Path::new("data"), parts, names, None).map_err(|error| error.to_string())
    }

    use SplitName::{Test, Train, Validation};

    #[test]
    fn classes_are_the_distinct_labels_in_order() {
        let made = made(vec![part(Some(Train), numbers(&[10, 2, 7, 2])), part(Some(Test), numbers(&[7]))], None);
        let made = made.unwrap();
        assert_eq!(made.classes, ["2", "7", "10"]);
        assert_eq!((made.train.labels, made.test.unwrap().labels), (vec![2, 0, 1, 0], vec![1]));
        assert!(made.validation.is_none());
    }

    #[test]
    fn names_are_the_classes_of_numbers() {
        let names: &[&str] = &["cat", "dog", "emu"];
        let pool = made(vec![part(None, numbers(&[1, 0]))], Some(names)).unwrap();
        assert_eq!((pool.classes.len(), pool.train.labels), (3, vec![1, 0]));
        let error = made(vec![part(None, numbers(&[1, 3]))], Some(names)).err().unwrap();
        assert!(error.contains("data has the label `3` in its train split, which none of its 3 classes is"), "{error}");
        let named = part(None, vec![Label::parse("dog"), Label::parse(" 0 ")]);
        assert_eq!(made(vec![named], Some(names)).unwrap().train.labels, [1, 0]);
    }

    #[test]
    fn validation_images_are_test_images_if_there_are_no_others() {
        let both =
            made(vec![part(Some(Train), numbers(&[0, 1])), part(Some(Validation), numbers(&[1]))], None).unwrap();
        assert!(both.validation.is_none() && both.test.unwrap().labels == [1]);
        let unlabelled = part(Some(Test), numbers(&[-1, -1, -1]));
        let parts = vec![part(Some(Train), numbers(&[0, 1])), part(Some(Validation), numbers(&[1])), unlabelled];
        let three = made(parts, None).unwrap();
        assert!(three.validation.is_none() && three.test.unwrap().labels == [1]);
        assert_eq!(three.skipped, ["test (without labels)"]);
    }

    #[test]
    fn contradictions_are_refused() {
        for (parts, words) in [
            (vec![part(Some(Test), numbers(&[0]))], "labels in its test split that no training image has: `0`"),
            (vec![], "has no training images"),
            (vec![part(None, numbers(&[0, -1]))], "has an image without a label in its train split: `-1`"),
            (vec![part(None, numbers(&[0])), part(Some(Train), numbers(&[0]))], "has two train splits"),
        ] {
            let error = made(parts, None).err().unwrap();
            assert!(error.starts_with("data ") && error.contains(words), "{error}");
        }
    }
}
