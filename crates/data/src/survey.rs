//! A survey of an image folder, before a dataset is made of it.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::decode::decode;
use crate::error::{DataError, UnreadableImage};
use crate::sources::folder::{Files, Tree};

/// Number of images that are decoded to measure their sizes.
const DECODED: usize = 64;

/// The contents of an image folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSurvey {
    /// Names of the classes, in the order of their labels.
    pub classes: Vec<String>,
    /// Number of training images of each class. If `test` is `None`, these are all images that there are.
    pub train: Vec<usize>,
    /// Number of validation images of each class; `None` if the folder has no validation split.
    pub validation: Option<Vec<usize>>,
    /// Number of test images of each class; `None` if the folder has no test split.
    pub test: Option<Vec<usize>>,
    /// Shorter sides, in pixels, ascending, of some training images that are spread over the folder.
    pub sides: Vec<u32>,
    /// Files and folders that are not part of the dataset, relative to its folder.
    pub skipped: Vec<String>,
}

/// Counts the images of a folder, and decodes some of them.
///
/// # Errors
/// If the folder is not laid out as an image dataset, if it cannot be read, or if some of the images that were decoded
/// are damaged; the error names all of these.
pub fn survey(path: &Path) -> Result<ImageSurvey, DataError> {
    let Tree { classes, train, validation, test, skipped, .. } = Tree::scan(path)?;
    let count = |files: Files| files.iter().map(Vec::len).collect();
    let sides = sides(&train)?;
    Ok(ImageSurvey {
        classes,
        train: count(train),
        validation: validation.map(count),
        test: test.map(count),
        sides,
        skipped,
    })
}

/// Returns the shorter sides of up to [`DECODED`] images, which are spread evenly over the files.
fn sides(files: &Files) -> Result<Vec<u32>, DataError> {
    let files: Vec<&PathBuf> = files.iter().flatten().collect();
    let some: Vec<&PathBuf> = files.iter().step_by(files.len().div_ceil(DECODED).max(1)).copied().collect();
    let side = |path: &&PathBuf| match decode(path) {
        Ok(picture) => Ok(picture.width().min(picture.height())),
        Err(reason) => Err(UnreadableImage { path: path.to_path_buf(), reason }),
    };
    let (mut sides, mut unreadable) = (Vec::new(), Vec::new());
    for side in some.par_iter().map(side).collect::<Vec<_>>() {
        match side {
            Ok(side) => sides.push(side),
            Err(image) => unreadable.push(image),
        }
    }
    sides.sort_unstable();
    if unreadable.is_empty() { Ok(sides) } else { Err(DataError::UnreadableImages(unreadable)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn image(path: &Path, width: usize, height: usize) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let header = format!("P6 {width} {height} 255\n").into_bytes();
        fs::write(path, [header, vec![7; 3 * width * height]].concat()).unwrap();
    }

    #[test]
    fn images_are_counted_by_split_and_class() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (i, name) in
            ["train/a/1", "train/a/2", "train/b/1", "test/a/1", "test/b/1", "test/b/x/2"].iter().enumerate()
        {
            image(&at(name), 10 - i, 20);
        }
        fs::write(at("notes.txt"), "").unwrap();
        let found = survey(folder.path()).unwrap();
        let expected = ImageSurvey {
            classes: vec!["a".to_owned(), "b".to_owned()],
            train: vec![2, 1],
            validation: None,
            test: Some(vec![1, 2]),
            sides: vec![8, 9, 10],
            skipped: vec!["notes.txt".to_owned()],
        };
        assert_eq!(found, expected);
        image(&at("val/a/1"), 5, 5);
        image(&at("val/b/1"), 5, 5);
        assert_eq!(survey(folder.path()).unwrap(), ImageSurvey { validation: Some(vec![1, 1]), ..expected });
        let whole = survey(&at("train")).unwrap();
        assert_eq!((whole.train, whole.test), (vec![2, 1], None));
    }

    #[test]
    fn some_of_many_images_are_decoded_and_bad_ones_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let at = |i: usize| folder.path().join(format!("a/{i:04}"));
        for i in 0..300 {
            image(&at(i), 1, 1 + i);
        }
        assert_eq!(survey(folder.path()).unwrap().sides, vec![1; 60]);
        fs::write(at(1), "no image").unwrap();
        assert_eq!(survey(folder.path()).unwrap().train, [300], "it is none of those that are decoded");
        fs::write(at(5), "no image").unwrap();
        let message = survey(folder.path()).unwrap_err().to_string();
        assert!(message.contains("a/0005") && message.contains("no image"), "{message}");
    }
}
