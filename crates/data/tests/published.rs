//! Small datasets in the layouts in which they are published, which `published/make.py` made with the libraries that
//! usually write them.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use hemlock_artifact::{Dataset, Images};
use hemlock_data::{
    ArchiveOrigin, DataError, Folders, KnownDataset, Preparation, Source, SplitSpec, Trust, digest, load,
};
use hemlock_fuzz::{Corpus, error};
use tempfile::{TempDir, tempdir};

fn published() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/published")
}

/// A source, as a spec writes it.
fn source(text: &str) -> Source {
    #[derive(serde::Deserialize)]
    struct Spec {
        source: Source,
    }
    toml::from_str::<Spec>(&format!("source = {text}")).unwrap().source
}

/// Loads all images in their own size, from the data directory `data`.
fn load_from(data: &Path, text: &str, size: Option<usize>) -> Result<Dataset, DataError> {
    let preparation = Preparation { size, ..Preparation::default() };
    let scratch = tempdir().unwrap();
    let folders = Folders { data: Some(data), scratch: Some(scratch.path()) };
    load(&source(text), &preparation, &SplitSpec::default(), folders, &|_, _| true)
}

/// The numbers of the images of a split and their labels, by the formula that `make.py` drew them with.
fn check(split: &Images, expected: &[(usize, u32)], channels: usize, what: &str) {
    assert_eq!(split.labels, expected.iter().map(|(_, label)| *label).collect::<Vec<_>>(), "{what}");
    for (at, (i, _)) in expected.iter().enumerate() {
        for ((_, c, y, x), level) in split.pixels.view().slice(ndarray::s![at..=at, .., .., ..]).indexed_iter() {
            let c = if channels == 1 { 0 } else { c };
            let expected = (31 * i + 83 * c + 7 * y + 3 * x) % 251;
            assert_eq!(usize::from(*level), expected, "{what}: image {i}, channel {c}, row {y}, column {x}");
        }
    }
}

/// What a dataset should be: how a spec writes it, the side and the channels of its images, its classes, and its
/// splits.
struct Expected {
    source: &'static str,
    side: usize,
    channels: usize,
    classes: &'static [&'static str],
    train: &'static [(usize, u32)],
    validation: &'static [(usize, u32)],
    test: &'static [(usize, u32)],
}

const CIFAR10: &[&str] = &["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
const STL10: &[&str] = &["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"];

const EXPECTED: &[Expected] = &[
    Expected {
        source: "{ kind = 'idx', path = 'mnist' }",
        side: 28,
        channels: 1,
        classes: &["0", "1", "2", "7"],
        train: &[(0, 3), (1, 2), (2, 1), (3, 0)],
        validation: &[],
        test: &[(4, 3), (5, 2)],
    },
    Expected {
        source: "{ kind = 'npz', path = 'medmnist.npz' }",
        side: 28,
        channels: 3,
        classes: &["0", "1", "2"],
        train: &[(0, 1), (1, 0), (2, 2), (3, 0)],
        validation: &[(4, 2), (5, 1)],
        test: &[(6, 0), (7, 0)],
    },
    Expected {
        source: "{ kind = 'npz', path = 'medmnist-grey.npz' }",
        side: 28,
        channels: 1,
        classes: &["0", "1", "2"],
        train: &[(0, 1), (1, 0), (2, 2), (3, 0)],
        validation: &[(4, 2), (5, 1)],
        test: &[(6, 0), (7, 0)],
    },
    Expected {
        source: "{ kind = 'npz', path = 'keras.npz' }",
        side: 28,
        channels: 1,
        classes: &["3", "8"],
        train: &[(0, 0), (1, 1)],
        validation: &[],
        test: &[(2, 1)],
    },
    Expected {
        source: "{ kind = 'mat', path = 'svhn' }",
        side: 32,
        channels: 3,
        classes: &["0", "1", "2", "9"],
        train: &[(0, 1), (1, 0), (2, 3), (3, 2)],
        validation: &[],
        test: &[(4, 0), (5, 1)],
    },
    Expected {
        source: "{ kind = 'mat', path = 'svhn', extra = true }",
        side: 32,
        channels: 3,
        classes: &["0", "1", "2", "9"],
        train: &[(0, 1), (1, 0), (2, 3), (3, 2), (6, 3), (7, 3)],
        validation: &[],
        test: &[(4, 0), (5, 1)],
    },
    Expected {
        source: "'stl10'",
        side: 96,
        channels: 3,
        classes: STL10,
        train: &[(0, 9), (1, 0)],
        validation: &[],
        test: &[(2, 2)],
    },
    Expected {
        source: "{ kind = 'stl10', fold = 3 }",
        side: 96,
        channels: 3,
        classes: STL10,
        train: &[(1, 0)],
        validation: &[],
        test: &[(2, 2)],
    },
    Expected {
        source: "{ kind = 'stl10', pool = 'unlabelled' }",
        side: 96,
        channels: 3,
        classes: &["unlabelled"],
        train: &[(3, 0)],
        validation: &[],
        test: &[],
    },
    Expected {
        source: "'cifar10'",
        side: 32,
        channels: 3,
        classes: CIFAR10,
        train: &[(0, 9), (1, 8), (2, 7), (3, 6), (4, 5)],
        validation: &[],
        test: &[(5, 4)],
    },
    Expected {
        source: "{ kind = 'parquet', path = 'huggingface' }",
        side: 8,
        channels: 3,
        classes: &["cat", "dog", "emu"],
        train: &[(0, 0), (1, 2), (2, 1), (3, 1), (4, 0)],
        validation: &[(5, 2)],
        test: &[(6, 1), (7, 0)],
    },
    Expected {
        source: "{ kind = 'parquet', path = 'columns.parquet', image = 'picture', label = 'animal', split = 'part' }",
        side: 8,
        channels: 3,
        classes: &["cat", "emu"],
        train: &[(0, 1), (1, 0), (3, 0)],
        validation: &[],
        test: &[(2, 1)],
    },
    Expected {
        source: "{ kind = 'webdataset', path = 'webdataset' }",
        side: 8,
        channels: 3,
        classes: &["heron", "ibis", "jay"],
        train: &[(0, 1), (1, 0), (2, 2)],
        validation: &[],
        test: &[(3, 0)],
    },
    Expected {
        source: "{ kind = 'table', path = 'waterbirds/metadata.csv', group = 'y+place' }",
        side: 8,
        channels: 3,
        classes: &["0", "1"],
        train: &[(0, 0), (1, 1), (2, 1)],
        validation: &[(3, 0)],
        test: &[(4, 1), (5, 0)],
    },
    Expected {
        source: "{ kind = 'table', path = 'pets/annotations/trainval.txt', test = 'pets/annotations/test.txt', \
                 images = 'pets/images', ending = '.jpg', separator = ' ', header = false, image = '1', label = '2' }",
        side: 8,
        channels: 3,
        classes: &["1", "2"],
        train: &[(0, 0), (1, 1)],
        validation: &[],
        test: &[(2, 1)],
    },
    Expected {
        source: "{ kind = 'image-folder', path = 'tiny-imagenet' }",
        side: 8,
        channels: 3,
        classes: &["n01", "n02"],
        train: &[(0, 0), (1, 1)],
        validation: &[],
        test: &[(3, 0), (2, 1)],
    },
    Expected {
        source: "{ kind = 'image-folder', path = 'food-101', train = 'meta/train.txt', test = 'meta/test.txt' }",
        side: 8,
        channels: 3,
        classes: &["apple_pie", "waffles"],
        train: &[(1, 0), (0, 1)],
        validation: &[],
        test: &[(2, 0)],
    },
];

#[test]
fn images_labels_classes_and_splits_are_the_published_ones() {
    for Expected { source, side, channels, classes, train, validation, test } in EXPECTED {
        let loaded = load_from(&published(), source, Some(*side)).unwrap_or_else(|error| panic!("{source}: {error}"));
        assert_eq!(loaded.classes, *classes, "{source}");
        check(&loaded.train, train, *channels, source);
        check(&loaded.validation, validation, *channels, source);
        check(&loaded.test, test, *channels, source);
    }
}

#[test]
fn cifar100_has_fine_and_coarse_labels_in_its_python_version() {
    let fine = load_from(&published(), "'cifar100'", None).unwrap();
    assert_eq!((fine.classes.len(), fine.classes[99].as_str()), (100, "fine99"));
    check(&fine.train, &[(0, 0), (1, 99), (2, 7)], 3, "fine");
    check(&fine.test, &[(3, 50)], 3, "fine");
    let coarse = load_from(&published(), "{ kind = 'cifar100', labels = 'coarse' }", None).unwrap();
    assert_eq!((coarse.classes.len(), coarse.classes[19].as_str()), (20, "coarse19"));
    check(&coarse.train, &[(0, 0), (1, 19), (2, 1)], 3, "coarse");
}

/// The same records have the same digest, whichever version holds them.
#[test]
fn both_versions_of_cifar_are_the_same_data() {
    let python = load_from(&published(), "'cifar10'", None).unwrap();
    let root = tempdir().unwrap();
    let folder = root.path().join("cifar-10-batches-bin");
    fs::create_dir(&folder).unwrap();
    for (split, names) in [
        (&python.train, vec!["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"]),
        (&python.test, vec!["test_batch"]),
    ] {
        for (i, name) in names.into_iter().enumerate() {
            let pixels = split.pixels.view().index_axis(ndarray::Axis(0), i).iter().copied().collect::<Vec<u8>>();
            fs::write(folder.join(format!("{name}.bin")), [&[split.labels[i] as u8][..], &pixels].concat()).unwrap();
        }
    }
    // The published list of names ends with an empty line.
    fs::write(folder.join("batches.meta.txt"), format!("{}\n\n", CIFAR10.join("\n"))).unwrap();
    let digest_in = |root: &Path| digest(&source("'cifar10'"), Some(root)).unwrap();
    assert_eq!(digest_in(root.path()), digest_in(&published()));
    assert_eq!(load_from(root.path(), "'cifar10'", None).unwrap(), python);

    let archived = tempdir().unwrap();
    let file = fs::File::create(archived.path().join("cifar-10-python.tar.gz")).unwrap();
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(file, flate2::Compression::fast()));
    tar.append_dir_all("cifar-10-batches-py", published().join("cifar-10-batches-py")).unwrap();
    tar.into_inner().unwrap().finish().unwrap();
    assert_eq!(digest_in(archived.path()), digest_in(&published()));
    assert_eq!(load_from(archived.path(), "'cifar10'", None).unwrap(), python);
}

/// Sources that know the size of their images keep it by default, and resize them to any other.
#[test]
fn every_source_is_resized_alike() {
    for (text, side) in [("{ kind = 'idx', path = 'mnist' }", 28), ("'cifar10'", 32), ("'stl10'", 96)] {
        let own = load_from(&published(), text, None).unwrap();
        assert_eq!(own.train.pixels.view().dim().2, side, "{text}");
        let large = load_from(&published(), text, Some(224)).unwrap();
        assert_eq!(large.train.pixels.view().dim().3, 224, "{text}");
    }
    let text = "{ kind = 'image-folder', path = 'food-101', train = 'meta/train.txt', test = 'meta/test.txt' }";
    assert_eq!(load_from(&published(), text, None).unwrap().train.pixels.view().dim().2, 32, "the usual size");
}

#[test]
fn a_digest_depends_on_contents_and_not_on_the_place() {
    for Expected { source: text, .. } in EXPECTED {
        let copy = copied();
        let source = source(text);
        let of = |root: &Path| digest(&source, Some(root)).unwrap();
        assert_eq!(of(copy.path()), of(&published()), "{text}");
    }
}

/// A copy of all datasets, to damage.
fn copied() -> TempDir {
    fn copy(from: &Path, to: &Path) {
        for entry in fs::read_dir(from).unwrap() {
            let from = entry.unwrap().path();
            let to = to.join(from.file_name().unwrap());
            if from.is_dir() {
                fs::create_dir(&to).unwrap();
                copy(&from, &to);
            } else {
                fs::copy(&from, &to).unwrap();
            }
        }
    }
    let root = tempdir().unwrap();
    copy(&published(), root.path());
    root
}

/// Files of each format, with the source that reads them.
const FILES: &[(&str, &str)] = &[
    ("{ kind = 'idx', path = 'mnist' }", "mnist/train-images-idx3-ubyte.gz"),
    ("{ kind = 'idx', path = 'mnist' }", "mnist/t10k-labels-idx1-ubyte"),
    ("{ kind = 'npz', path = 'medmnist.npz' }", "medmnist.npz"),
    ("{ kind = 'mat', path = 'svhn' }", "svhn/train_32x32.mat"),
    ("'stl10'", "stl10_binary/test_y.bin"),
    ("'cifar10'", "cifar-10-batches-py/data_batch_1"),
    ("'cifar100'", "cifar-100-python/meta"),
    ("{ kind = 'parquet', path = 'huggingface' }", "huggingface/data/test-00000-of-00001.parquet"),
    ("{ kind = 'webdataset', path = 'webdataset' }", "webdataset/train-000000.tar"),
    ("{ kind = 'table', path = 'waterbirds/metadata.csv' }", "waterbirds/metadata.csv"),
    ("{ kind = 'image-folder', path = 'tiny-imagenet' }", "tiny-imagenet/val/val_annotations.txt"),
    (
        "{ kind = 'image-folder', path = 'food-101', train = 'meta/train.txt', test = 'meta/test.txt' }",
        "food-101/meta/train.txt",
    ),
];

#[test]
fn a_file_without_its_content_is_named() {
    for (text, file) in FILES {
        let root = copied();
        fs::write(root.path().join(file), "\u{1}no such content\n").unwrap();
        let error = load_from(root.path(), text, None).unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        let message = format!("{error} {source}");
        assert!(message.contains(file), "{file}: {message}");
        assert!(!message.contains('\n') && message.len() < 600, "{message}");
    }
}

/// A file that was cut off is refused, unless what is left is whole without the rest.
#[test]
fn a_cut_file_is_refused_or_whole() {
    for (text, file) in &FILES[..9] {
        let root = copied();
        let path = root.path().join(file);
        let (bytes, whole) = (fs::read(&path).unwrap(), load_from(root.path(), text, None).unwrap());
        for length in (0..bytes.len()).step_by((bytes.len() / 40).max(1)) {
            fs::write(&path, &bytes[..length]).unwrap();
            if let Ok(loaded) = load_from(root.path(), text, None) {
                // What is cut from an archive between two samples is missing without a trace.
                let prefix = file.ends_with(".tar") && loaded.train.len() < whole.train.len();
                assert!(prefix || loaded == whole, "{file}: {length} of {} bytes", bytes.len());
            }
        }
    }
}

#[test]
fn missing_files_and_columns_are_named_with_what_is_there() {
    for (text, words) in [
        ("{ kind = 'idx', path = 'svhn' }", "svhn has no `train-images…`"),
        ("{ kind = 'npz', path = 'nowhere.npz' }", "nowhere.npz"),
        ("{ kind = 'mat', path = 'mnist' }", "mnist has no `train*.mat`"),
        ("{ kind = 'parquet', path = 'mnist' }", "mnist has no files that end in `.parquet`"),
        ("{ kind = 'webdataset', path = 'mnist' }", "mnist has no archives that end in `.tar`"),
        (
            "{ kind = 'parquet', path = 'columns.parquet' }",
            "for the images; it has `picture`, `animal`, `part`, `place`",
        ),
        (
            "{ kind = 'parquet', path = 'columns.parquet', image = 'picture', label = 'kind' }",
            "has no column `kind` for the labels; it has",
        ),
        ("{ kind = 'table', path = 'waterbirds/metadata.csv', label = 'bird' }", "has no column `bird` for the labels"),
        (
            "{ kind = 'table', path = 'waterbirds/metadata.csv', split = 'img_id' }",
            "has the split `3`; expected `train`",
        ),
        ("{ kind = 'stl10', path = 'mnist' }", "train_X.bin"),
    ] {
        let error = load_from(&published(), text, None).unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        let message = format!("{error} {source}");
        assert!(message.contains(words), "{text}: {message}");
    }
}

fn fuzz(texts: &[&str]) {
    let root = copied();
    for (text, file) in FILES.iter().filter(|(_, file)| texts.contains(file)) {
        let path = root.path().join(file);
        let good = fs::read(&path).unwrap();
        Corpus::new([good.clone()]).fuzz(|bytes| {
            fs::write(&path, bytes).unwrap();
            load_from(root.path(), text, None).map_or_else(|e| error(&e), |_| Ok(()))
        });
        fs::write(&path, good).unwrap();
    }
}

#[test]
fn fuzz_idx_and_npz() {
    fuzz(&["mnist/t10k-labels-idx1-ubyte", "mnist/train-images-idx3-ubyte.gz", "medmnist.npz"]);
}

#[test]
fn fuzz_mat() {
    fuzz(&["svhn/train_32x32.mat"]);
}

#[test]
fn fuzz_pickle() {
    fuzz(&["cifar-10-batches-py/data_batch_1", "cifar-100-python/meta"]);
}

#[test]
fn fuzz_parquet() {
    fuzz(&["huggingface/data/test-00000-of-00001.parquet"]);
}

#[test]
fn fuzz_webdataset_and_lists() {
    fuzz(&["webdataset/train-000000.tar", "waterbirds/metadata.csv", "tiny-imagenet/val/val_annotations.txt"]);
}

/// Packs a folder as a published archive of it.
fn packed(folder: &Path, name: &str, archive: &Path) {
    let file = flate2::write::GzEncoder::new(fs::File::create(archive).unwrap(), flate2::Compression::fast());
    let mut tar = tar::Builder::new(file);
    tar.append_dir_all(name, folder).unwrap();
    tar.into_inner().unwrap().finish().unwrap();
}

#[test]
fn known_datasets_are_put_where_their_sources_read_them() {
    let (origin, data) = (tempdir().unwrap(), tempdir().unwrap());
    let from = |name: &str| origin.path().join(name);
    for part in ["images", "annotations"] {
        packed(&published().join("pets").join(part), part, &from(&format!("{part}.tar.gz")));
    }
    packed(&published().join("food-101"), "food-101", &from("food-101.tar.gz"));
    packed(&published().join("stl10_binary"), "stl10_binary", &from("stl10_binary.tar.gz"));
    for name in ["train_32x32.mat", "test_32x32.mat"] {
        fs::copy(published().join("svhn").join(name), from(name)).unwrap();
    }
    for name in ["pets", "food101", "stl10", "svhn"] {
        let known = KnownDataset::named(name).unwrap();
        let fetch =
            |trust: &Trust| known.fetch(&ArchiveOrigin::Path(origin.path().into()), trust, data.path(), &|_, _| true);
        let refused = fetch(&Trust::Known).unwrap_err().to_string();
        assert!(refused.contains("of the published") && refused.contains("md5:"), "{refused}");
        assert!(!data.path().join(name).exists());
        assert!(!fetch(&Trust::Any).unwrap().already_there);
        assert!(fetch(&Trust::Known).unwrap().already_there);
        let loaded = load_from(data.path(), known.source, Some(8)).unwrap();
        assert!(loaded.train.len() >= 2 && !loaded.test.is_empty(), "{name}");
    }
    assert_eq!(fs::read_dir(data.path()).unwrap().count(), 4, "nothing else is left");
    let one = KnownDataset::named("svhn").unwrap();
    let other = tempdir().unwrap();
    let error = one.fetch(&ArchiveOrigin::Path(from("test_32x32.mat")), &Trust::Any, other.path(), &|_, _| true);
    assert!(error.unwrap_err().to_string().contains("expected a folder of train_32x32.mat, test_32x32.mat"));
}

#[test]
fn a_zip_archive_is_unpacked_and_kept_in_its_folder() {
    let (origin, data) = (tempdir().unwrap(), tempdir().unwrap());
    let archive = origin.path().join("EuroSAT.zip");
    let write = |name: &str| {
        let mut zip = zip::ZipWriter::new(fs::File::create(&archive).unwrap());
        for name in ["2750/Forest/a.jpg", "2750/River/b.jpg", name] {
            zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
            let image = fs::read(published().join("pets/images/beagle_1.jpg")).unwrap();
            std::io::Write::write_all(&mut zip, &image).unwrap();
        }
        zip.finish().unwrap();
    };
    let known = KnownDataset::named("eurosat").unwrap();
    let fetch = || known.fetch(&ArchiveOrigin::Path(archive.clone()), &Trust::Any, data.path(), &|_, _| true);
    write("../../escaped.jpg");
    assert!(fetch().unwrap_err().to_string().contains("escaped.jpg"));
    assert!(!data.path().join("eurosat").exists());
    write("2750/River/c.jpg");
    fetch().unwrap();
    let source = source(known.source);
    let split = SplitSpec { test: Some(2), ..SplitSpec::default() };
    let loaded = load(&source, &Preparation::default(), &split, Folders::data(data.path()), &|_, _| true).unwrap();
    assert_eq!(loaded.classes, ["Forest", "River"]);
    assert_eq!((loaded.train.labels, loaded.test.labels), (vec![1], vec![0, 1]));
}

#[test]
fn names_of_known_datasets_are_in_order_and_their_sources_are_sources() {
    let names: Vec<&str> = KnownDataset::all().iter().map(|known| known.name).collect();
    assert!(names.is_sorted() && names.len() > 20, "{names:?}");
    for known in KnownDataset::all() {
        assert!(known.source.contains(known.name), "{}", known.name);
        assert!(source(known.source).check().is_ok());
    }
}
