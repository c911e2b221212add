//! Image folders.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use hemlock_artifact::Dataset;
use hemlock_data::{DataError, Folders, ImageFolder, Interpolation, Preparation, Source, SplitSpec, digest, load};
use hemlock_store::{Artifact, PayloadReader, PayloadWriter};
use image::{Rgb, RgbImage};
use tempfile::tempdir;

fn source(path: &Path) -> Source {
    Source::ImageFolder(ImageFolder::new(path.to_path_buf()))
}

fn sized(size: usize) -> Preparation {
    Preparation { size: Some(size), ..Preparation::default() }
}

fn load_all(path: &Path, split: SplitSpec) -> Result<Dataset, DataError> {
    load(&source(path), &sized(16), &split, Folders::default(), &|_, _| true)
}

/// Writes a picture of `width` x `height` pixels whose left half is red and whose right half is blue.
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
    // The centre of the wide picture contains the border between its halves.
    let wide = |c, x| loaded.train.pixels.view()[[2, c, 8, x]];
    assert!(wide(0, 2) > 240 && wide(2, 2) < 15);
    assert!(wide(0, 13) < 15 && wide(2, 13) > 240);
}

/// The layout of ImageNet.
#[test]
fn validation_images_are_test_images_if_there_are_no_others() {
    let root = tempdir().unwrap();
    let path = root.path();
    for name in ["train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/1.png", "val/b/2.png"] {
        picture(&path.join(name), 16, 16);
    }
    fs::write(path.join("train/a/notes.txt"), "no image").unwrap();
    let loaded = load_all(path, SplitSpec::default()).unwrap();
    assert_eq!((loaded.train.labels, loaded.test.labels), (vec![0, 1], vec![0, 1, 1]));
    assert_eq!((loaded.validation.labels.len(), loaded.skipped), (0, 1));
    picture(&path.join("test/a/1.png"), 16, 16);
    picture(&path.join("test/b/1.png"), 16, 16);
    let loaded = load_all(path, SplitSpec::default()).unwrap();
    assert_eq!((loaded.validation.labels, loaded.test.labels), (vec![0, 1, 1], vec![0, 1]));
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
    assert!(message.starts_with("3 of the image files"), "{message}");
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
    // Training images alone are one pool.
    assert!(message().contains("split.test is not given"), "{}", message());
    picture(&path.join("val/a/1.png"), 16, 16);
    for class in 0..30 {
        picture(&path.join(format!("test/b{class:02}/1.png")), 16, 16);
    }
    let unequal = "only train/ has: `a`; only test/: `b00`, `b01`, `b02`, `b03`, `b04`, `b05`, `b06`, `b07`, `b08`, `b09` and 20 more;";
    assert!(message().contains(unequal), "{}", message());
    picture(&path.join("valid/a/1.png"), 16, 16);
    assert!(message().contains("val/ and valid/ are two validation splits"));
    fs::create_dir(path.join("train/b")).unwrap();
    fs::remove_dir_all(path.join("valid")).unwrap();
    assert!(message().contains("`b` has no images"));
    fs::remove_dir_all(path.join("train")).unwrap();
    assert!(message().contains("it has no train/ beside its other splits"));
    let missing = load_all(&path.join("nowhere"), SplitSpec::default()).unwrap_err();
    assert!(missing.to_string().contains("nowhere is no image folder"));
}

/// Files in folders below a class belong to the class, so that a folder of splits must not pass for a folder of
/// classes.
#[test]
fn splits_are_not_taken_for_classes() {
    let root = tempdir().unwrap();
    let path = root.path();
    let message = |path: &Path| load_all(path, SplitSpec::default()).unwrap_err().to_string();
    for name in ["pets/train/train/1.png", "pets/test/train/1.png"] {
        picture(&path.join(name), 16, 16);
    }
    assert!(message(path).contains("`pets` is one itself; give the path of that folder"), "{}", message(path));
    // A class may have the name of a split.
    assert_eq!(load_all(&path.join("pets"), SplitSpec::default()).unwrap().classes, ["train"]);
    picture(&path.join("other/Training/cat/1.png"), 16, 16);
    picture(&path.join("other/Testing/cat/1.png"), 16, 16);
    assert!(message(&path.join("other")).contains("`Testing` is named like a split"));
    // Split names in another case would be skipped where the file system distinguishes case.
    picture(&path.join("pets/Validation/train/1.png"), 16, 16);
    let said = message(&path.join("pets"));
    assert!(said.contains("`Validation` is named like a split") && said.contains("val/"), "{said}");
}

#[test]
fn whatever_lies_below_a_class_belongs_to_it() {
    let root = tempdir().unwrap();
    let path = root.path();
    // torchvision's order: by folder, and by name within a folder.
    let files = ["a/z.png", "a/more/1.png", "a/more-yet/0.bmp", "a/more/x/2", "b/1.jpg"];
    for (i, name) in files.iter().enumerate() {
        fs::create_dir_all(path.join(name).parent().unwrap()).unwrap();
        let picture = RgbImage::from_pixel(16, 16, Rgb([i as u8; 3]));
        picture.save_with_format(path.join(name), image::ImageFormat::Png).unwrap();
    }
    let split = SplitSpec { test: Some(0), ..SplitSpec::default() };
    let loaded = load_all(path, split).unwrap();
    assert_eq!(loaded.train.labels, [0, 0, 0, 0, 1]);
    let levels: Vec<u8> = (0..5).map(|image| loaded.train.pixels.view()[[image, 0, 0, 0]]).collect();
    assert_eq!(levels, [0, 1, 2, 3, 4]);
}

#[test]
fn what_is_passed_over_is_counted() {
    let root = tempdir().unwrap();
    let path = root.path();
    for split in ["train", "test"] {
        picture(&path.join(split).join("a/1.png"), 16, 16);
    }
    // The pixels as the artifact stores them.
    let kept = |loaded: &Dataset| {
        let folder = tempdir().unwrap();
        let mut writer = PayloadWriter::new(folder.path(), Dataset::KIND);
        loaded.write(&mut writer).unwrap();
        let read = Dataset::read(&PayloadReader::new(folder.path(), Dataset::KIND, writer.files().clone())).unwrap();
        assert_eq!(read, *loaded);
        read.skipped
    };
    assert_eq!(kept(&load_all(path, SplitSpec::default()).unwrap()), 0);
    for name in
        ["README", "train/labels.csv", "train/a/.hidden.png", "train/a/Thumbs.db", "extra/a/1.png", "test/@eaDir/x"]
    {
        fs::create_dir_all(path.join(name).parent().unwrap()).unwrap();
        fs::write(path.join(name), "no image").unwrap();
    }
    let loaded = load_all(path, SplitSpec::default()).unwrap();
    assert_eq!((loaded.train.len(), loaded.test.len(), loaded.skipped), (1, 1, 6));
    assert_eq!((kept(&loaded), &loaded.summary()["skipped"]), (6, &6.into()));
}

#[test]
fn a_validation_folder_is_the_validation_split() {
    let root = tempdir().unwrap();
    let path = root.path();
    for class in ["a", "b"] {
        for (split, count) in [("train", 5), ("validation", 3), ("test", 2)] {
            for i in 0..count {
                picture(&path.join(format!("{split}/{class}/{i}.png")), 16, 16);
            }
        }
    }
    let sizes = |validation| {
        let loaded = load_all(path, SplitSpec { validation, ..SplitSpec::default() }).unwrap();
        (loaded.train.len(), loaded.validation.labels, loaded.test.len())
    };
    assert_eq!(sizes(None), (10, vec![0, 0, 0, 1, 1, 1], 4));
    assert_eq!(sizes(Some(3)), (10, vec![0, 0, 1], 4));
    assert_eq!(sizes(Some(0)), (10, vec![], 4));
    let before = digest(&source(path), None).unwrap();
    picture(&path.join("validation/a/0.png"), 20, 16);
    assert_ne!(digest(&source(path), None).unwrap(), before);
}

#[cfg(unix)]
#[test]
fn links_special_files_and_endless_ones_are_refused_by_name() {
    use std::os::unix::fs::symlink;
    let root = tempdir().unwrap();
    let path = root.path();
    for class in ["a", "b"] {
        picture(&path.join(class).join("1.png"), 16, 16);
    }
    let split = || SplitSpec { test: Some(0), ..SplitSpec::default() };
    let messages = || {
        let loaded = load_all(path, split()).unwrap_err().to_string();
        [loaded, digest(&source(path), None).unwrap_err().to_string()]
    };
    symlink("..", path.join("a/up")).unwrap();
    for message in messages() {
        assert!(message.contains("a/up/a") && message.contains("link to a folder of the same class"), "{message}");
    }
    fs::remove_file(path.join("a/up")).unwrap();
    // A link to another folder counts like the folder itself.
    let elsewhere = tempdir().unwrap();
    picture(&elsewhere.path().join("2.png"), 16, 16);
    symlink(elsewhere.path(), path.join("b/linked")).unwrap();
    assert_eq!(load_all(path, split()).unwrap().train.labels, [0, 1, 1]);
    symlink("/dev/zero", path.join("a/2.png")).unwrap();
    symlink("nowhere", path.join("a/3.png")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(path.join("a/4.png")).unwrap();
    for message in messages() {
        assert!(message.starts_with("3 of the image files"), "{message}");
        for words in ["a/2.png: it is a pipe, a socket or a device", "a/3.png: No such file", "a/4.png: it is a pipe"] {
            assert!(message.contains(words), "{message}");
        }
    }
}

#[test]
fn a_message_names_the_first_files_and_counts_the_others() {
    let root = tempdir().unwrap();
    for class in ["a", "b"] {
        picture(&root.path().join(class).join("1.png"), 16, 16);
        for i in 0..500 {
            fs::write(root.path().join(format!("{class}/{i:03}.avif")), b"\0\0\0\x20ftypavif").unwrap();
        }
    }
    let split = SplitSpec { test: Some(0), ..SplitSpec::default() };
    let message = load_all(root.path(), split).unwrap_err().to_string();
    assert!(message.starts_with("1000 of the image files") && message.ends_with("and 996 more"), "{message}");
    assert!(
        message.contains("a/000.avif: Avif is not decoded; convert it to PNG") && message.len() < 1000,
        "{message}"
    );
}

#[test]
fn thin_and_huge_pictures_take_no_more_than_they_need() {
    let root = tempdir().unwrap();
    let path = root.path();
    for (name, width, height) in [("a/tall.png", 1, 65535), ("a/wide.png", 60000, 2), ("b/small.png", 3, 3)] {
        picture(&path.join(name), width, height);
    }
    let split = SplitSpec { test: Some(0), ..SplitSpec::default() };
    let source = source(path);
    let large = Preparation { interpolation: Interpolation::Lanczos, ..sized(1024) };
    let loaded = load(&source, &large, &split, Folders::default(), &|_, _| true).unwrap();
    // The tall one is all blue.
    let tall = loaded.train.pixels.view();
    assert!(tall.slice(ndarray::s![0, 2, .., ..]).iter().all(|level| *level == 255));
    fs::write(path.join("b/huge.ppm"), "P6 20000 20000 255\n").unwrap();
    let message = load(&source, &large, &split, Folders::default(), &|_, _| true).unwrap_err().to_string();
    let words = "b/huge.ppm: its 20000 x 20000 pixels take 1145 MiB; the limit is 512 MiB";
    assert!(message.contains(words), "{message}");
}

#[test]
fn the_digest_is_of_names_and_contents() {
    let build = |names: [&str; 2], widths: [u32; 2]| {
        let root = tempdir().unwrap();
        for (name, width) in names.into_iter().zip(widths) {
            picture(&root.path().join(name), width, 16);
        }
        root
    };
    let of = |root: &tempfile::TempDir| digest(&source(root.path()), None).unwrap();
    let base = build(["a/1.png", "b/1.png"], [16, 20]);
    assert_eq!(of(&base), of(&build(["a/1.png", "b/1.png"], [16, 20])));
    assert_ne!(of(&base), of(&build(["a/1.png", "b/1.png"], [20, 16])));
    assert_ne!(of(&base), of(&build(["a/1.png", "c/1.png"], [16, 20])));
}
