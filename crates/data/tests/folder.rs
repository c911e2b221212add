//! Image folders.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use hemlock_artifact::Dataset;
use hemlock_data::{DataError, Filter, Source, SplitSpec, digest, load};
use image::{Rgb, RgbImage};
use tempfile::tempdir;

fn source(path: &Path, size: usize) -> Source {
    Source::ImageFolder { path: path.to_path_buf(), size, filter: Filter::default() }
}

fn load_all(path: &Path, split: SplitSpec) -> Result<Dataset, DataError> {
    load(&source(path, 16), &split, None, &|_, _| true)
}

/// A red left half and a blue right half, `width` x `height`.
fn picture(path: &Path, width: u32, height: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    RgbImage::from_fn(width, height, |x, _| if x < width / 2 { Rgb([255, 0, 0]) } else { Rgb([0, 0, 255]) })
        .save(path)
        .unwrap();
}

#[test]
fn given_splits_are_read_resized_and_labelled_by_name() {
    let root = tempdir().unwrap();
    let path = root.path();
    picture(&path.join("train/dog/b.png"), 64, 32);
    picture(&path.join("train/cat/a.ppm"), 16, 16);
    picture(&path.join("train/cat/B.JPG"), 20, 30);
    picture(&path.join("test/cat/a.png"), 8, 8);
    picture(&path.join("test/dog/a.jpeg"), 16, 16);
    fs::write(path.join("train/cat/notes.txt"), "no image").unwrap();
    fs::write(path.join("train/cat/.hidden.png"), "no image").unwrap();
    let loaded = load_all(path, SplitSpec::default()).unwrap();
    assert_eq!(loaded.classes, ["cat", "dog"]);
    assert_eq!(loaded.train.labels, [0, 0, 1]);
    assert_eq!(loaded.test.labels, [0, 1]);
    assert_eq!(loaded.train.pixels.view().dim(), (3, 3, 16, 16));
    // `a.ppm` has the right size already and comes after `B.JPG`.
    for (x, rgb) in [(0, [255, 0, 0]), (7, [255, 0, 0]), (8, [0, 0, 255])] {
        let pixel = [0, 1, 2].map(|c| loaded.train.pixels.view()[[1, c, 5, x]]);
        assert_eq!(pixel, rgb);
    }
    // The centre of the wide one holds the border of its halves.
    let wide = |c, x| loaded.train.pixels.view()[[2, c, 8, x]];
    assert!(wide(0, 2) > 240 && wide(2, 2) < 15);
    assert!(wide(0, 13) < 15 && wide(2, 13) > 240);
}

#[test]
fn without_a_test_folder_the_pool_is_split() {
    let root = tempdir().unwrap();
    for class in ["a", "b"] {
        for i in 0..6 {
            picture(&root.path().join(format!("{class}/{i}.png")), 16, 16);
        }
    }
    let error = load_all(root.path(), SplitSpec::default()).unwrap_err();
    assert!(error.to_string().contains("split.test"), "{error}");
    let split = SplitSpec { test: Some(4), validation: Some(2), ..SplitSpec::default() };
    let loaded = load_all(root.path(), split).unwrap();
    assert_eq!(loaded.train.labels, [0, 0, 0, 1, 1, 1]);
    let mut all = [loaded.train.source_index, loaded.validation.source_index, loaded.test.source_index].concat();
    all.sort_unstable();
    assert_eq!(all, (0..12).collect::<Vec<_>>());
}

#[test]
fn all_unreadable_files_are_reported_at_once() {
    let root = tempdir().unwrap();
    let path = root.path();
    for split in ["train", "test"] {
        picture(&path.join(split).join("a/1.png"), 16, 16);
    }
    let whole = fs::read(path.join("train/a/1.png")).unwrap();
    fs::write(path.join("train/a/2.png"), &whole[..whole.len() / 2]).unwrap();
    fs::write(path.join("train/a/3.jpg"), "just text").unwrap();
    fs::write(path.join("test/a/4.ppm"), "").unwrap();
    let error = load_all(path, SplitSpec::default()).unwrap_err();
    let message = error.to_string();
    assert!(message.starts_with("3 image files"), "{message}");
    for name in ["train/a/2.png", "train/a/3.jpg", "test/a/4.ppm"] {
        let file = path.join(name).display().to_string();
        assert!(message.contains(&file), "{message}");
    }
    assert!(!message.contains("1.png"), "{message}");
}

#[test]
fn other_layouts_are_refused_with_what_is_wrong() {
    let root = tempdir().unwrap();
    let path = root.path();
    let message = || load_all(path, SplitSpec::default()).unwrap_err().to_string();
    assert!(message().contains("it has no class folders"));
    picture(&path.join("train/a/1.png"), 16, 16);
    assert!(message().contains("train/ has no test/"));
    picture(&path.join("test/b/1.png"), 16, 16);
    assert!(message().contains(r#"["a"] but test/ has ["b"]"#));
    fs::create_dir(path.join("train/b")).unwrap();
    assert!(message().contains("`b` has no images"));
    let missing = load_all(&path.join("nowhere"), SplitSpec::default()).unwrap_err();
    assert!(missing.to_string().contains("nowhere is no image folder"));
}

#[test]
fn the_digest_is_of_names_contents_and_size() {
    let build = |names: [&str; 2], widths: [u32; 2]| {
        let root = tempdir().unwrap();
        for (name, width) in names.into_iter().zip(widths) {
            picture(&root.path().join(name), width, 16);
        }
        root
    };
    let of = |root: &tempfile::TempDir| digest(&source(root.path(), 16), None).unwrap();
    let base = build(["a/1.png", "b/1.png"], [16, 20]);
    assert_eq!(of(&base), of(&build(["a/1.png", "b/1.png"], [16, 20])));
    assert_ne!(of(&base), of(&build(["a/1.png", "b/1.png"], [20, 16])));
    assert_ne!(of(&base), of(&build(["a/1.png", "c/1.png"], [16, 20])));
    let larger = digest(&source(base.path(), 17), None).unwrap();
    assert_ne!(of(&base), larger);
}
