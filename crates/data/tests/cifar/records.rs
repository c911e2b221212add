//! CIFAR files, unpacked and archived, intact and broken.

use std::fs;
use std::path::Path;

use hemlock_artifact::Dataset;
use hemlock_data::{
    Cifar, Cifar10, Cifar100, Cifar100Labels, DataError, DataErrorKind, Folders, Preparation, Source, SplitSpec,
    digest, load,
};
use tempfile::{TempDir, tempdir};

use crate::support::{self, Files};

const FINE: Source = Source::Cifar100(Cifar100 { labels: Cifar100Labels::Fine });
const COARSE: Source = Source::Cifar100(Cifar100 { labels: Cifar100Labels::Coarse });

fn load_all(source: &Source, root: &Path) -> Result<Dataset, DataError> {
    load(source, &Preparation::default(), &SplitSpec::default(), Folders::data(root), &|_, _| true)
}

fn folder(cifar: Cifar, files: &Files) -> TempDir {
    let root = tempdir().unwrap();
    support::unpacked(cifar, files, root.path());
    root
}

fn cifar10_error(files: &Files) -> DataError {
    load_all(&Source::Cifar10(Cifar10 {}), folder(Cifar::Cifar10, files).path()).unwrap_err()
}

#[test]
fn records_become_images() {
    let root = folder(Cifar::Cifar10, &support::cifar10());
    let loaded = load_all(&Source::Cifar10(Cifar10 {}), root.path()).unwrap();
    assert_eq!(loaded.name, "cifar10");
    assert_eq!(loaded.classes[3], "class3");
    assert_eq!(loaded.train.pixels.view().dim(), (100, 3, 32, 32));
    assert_eq!(loaded.test.pixels.view().dim(), (10, 3, 32, 32));
    assert_eq!(loaded.validation.labels.len(), 0);
    assert_eq!(loaded.train.labels[42], 2);
    assert_eq!(loaded.train.source_index, (0..100).collect::<Vec<_>>());
    // Pixel (channel 2, row 5, column 7) of record 42, by the helper's formula.
    let p = 2 * 1024 + 5 * 32 + 7;
    let expected = ((42 * 31 + p * 7) % 251) as u8;
    assert_eq!(loaded.train.pixels.view()[[42, 2, 5, 7]], expected);
}

#[test]
fn the_label_of_cifar100_is_chosen() {
    let root = folder(Cifar::Cifar100, &support::cifar100());
    let fine = load_all(&FINE, root.path()).unwrap();
    let coarse = load_all(&COARSE, root.path()).unwrap();
    assert_eq!((fine.classes.len(), coarse.classes.len()), (100, 20));
    assert_eq!((fine.train.labels[123], coarse.train.labels[123]), (23, 4));
    assert_eq!(fine.train.pixels, coarse.train.pixels);
    let digests = [&FINE, &COARSE].map(|source| digest(source, Some(root.path())).unwrap());
    assert_ne!(digests[0], digests[1]);
}

#[test]
fn some_classes_are_taken_in_the_order_of_their_names() {
    let root = folder(Cifar::Cifar10, &support::cifar10());
    let take = |classes: &[&str]| {
        let classes = Some(classes.iter().map(|name| (*name).to_owned()).collect());
        load(
            &Source::Cifar10(Cifar10 {}),
            &Preparation::default(),
            &SplitSpec { classes, ..SplitSpec::default() },
            Folders::data(root.path()),
            &|_, _| true,
        )
    };
    let (all, some) =
        (load_all(&Source::Cifar10(Cifar10 {}), root.path()).unwrap(), take(&["class7", "class3"]).unwrap());
    assert_eq!(some.classes, ["class7", "class3"]);
    assert_eq!((some.train.labels.len(), some.test.labels.len()), (20, 2));
    for (at, source) in some.train.source_index.iter().enumerate() {
        let source = *source as usize;
        assert_eq!(all.train.labels[source], [7, 3][some.train.labels[at] as usize]);
        assert_eq!(
            some.train.pixels.view().index_axis(ndarray::Axis(0), at),
            all.train.pixels.view().index_axis(ndarray::Axis(0), source)
        );
    }
    let unknown = take(&["class7", "class12"]).unwrap_err();
    assert!(matches!(unknown, DataError::UnknownClass { .. }));
    assert!(
        unknown
            .to_string()
            .starts_with("names the class `class12`, which the source does not have; expected some of `class0`")
    );
}

#[test]
fn an_archive_gives_what_its_folder_gives() {
    for (cifar, files, source) in [
        (Cifar::Cifar10, support::cifar10(), Source::Cifar10(Cifar10 {})),
        (Cifar::Cifar100, support::cifar100(), COARSE),
    ] {
        let unpacked = folder(cifar, &files);
        let packed = tempdir().unwrap();
        let bytes = support::archive(cifar, &files);
        fs::write(packed.path().join(cifar.archive()), bytes).unwrap();
        assert_eq!(load_all(&source, unpacked.path()).unwrap(), load_all(&source, packed.path()).unwrap());
        assert_eq!(digest(&source, Some(unpacked.path())).unwrap(), digest(&source, Some(packed.path())).unwrap());
    }
}

#[test]
fn any_changed_byte_changes_the_digest() {
    let files = support::cifar10();
    let digest_of = |files: &Files| {
        let root = folder(Cifar::Cifar10, files);
        digest(&Source::Cifar10(Cifar10 {}), Some(root.path())).unwrap()
    };
    let original = digest_of(&files);
    assert_eq!(original.len(), 64);
    for file in 0..files.len() {
        let mut changed = files.clone();
        let last = changed[file].1.last_mut().unwrap();
        *last ^= 1;
        assert_ne!(digest_of(&changed), original, "{}", files[file].0);
    }
}

#[test]
fn a_truncated_file_is_named_with_its_sizes() {
    let mut files = support::cifar10();
    files[2].1.truncate(5000);
    let error = cifar10_error(&files);
    let message = error.to_string();
    for words in ["data_batch_3.bin", "5000 bytes", "3073 bytes"] {
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(error.kind(), DataErrorKind::Invalid);
    files[2].1.clear();
    assert!(cifar10_error(&files).to_string().contains("no records"));
}

#[test]
fn a_label_out_of_range_is_named() {
    let mut files = support::cifar10();
    files[5].1[3 * 3073] = 10;
    let message = cifar10_error(&files).to_string();
    for words in ["test_batch.bin", "record 3", "label 10", "0 to 9"] {
        assert!(message.contains(words), "{message}");
    }
    // The coarse label is checked although the fine one was chosen.
    let mut files = support::cifar100();
    files[0].1[2 * 3074] = 20;
    let root = folder(Cifar::Cifar100, &files);
    let message = load_all(&FINE, root.path()).unwrap_err().to_string();
    assert!(message.contains("coarse label 20"), "{message}");
}

#[test]
fn missing_names_and_files_are_named() {
    let mut files = support::cifar10();
    files[6].1 = b"one\ntwo\n".to_vec();
    let message = cifar10_error(&files).to_string();
    assert!(message.contains("names 2 classes, expected 10"), "{message}");

    files.remove(1);
    let error = cifar10_error(&files);
    assert!(error.to_string().contains("data_batch_2.bin is missing"));
    assert_eq!(error.kind(), DataErrorKind::Missing);
}

#[test]
fn a_missing_dataset_says_where_it_was_looked_for_and_how_to_get_it() {
    let root = tempdir().unwrap();
    let error = load_all(&FINE, root.path()).unwrap_err();
    let message = error.to_string();
    assert!(message.contains(&root.path().display().to_string()));
    for words in ["hemlock data cifar100", "HEMLOCK_DATA", "--data"] {
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(error.kind(), DataErrorKind::Missing);
    let error = digest(&Source::Cifar10(Cifar10 {}), None).unwrap_err();
    assert!(error.to_string().contains("hemlock data cifar10"));
    assert_eq!(error.kind(), DataErrorKind::Missing);
}

#[test]
fn an_archive_that_is_none_or_is_cut_off_is_refused() {
    let whole = support::archive(Cifar::Cifar10, &support::cifar10());
    let cut = [&b"<html>not found</html>"[..], &[], &whole[..whole.len() / 2], &whole[..whole.len() - 4]];
    for bytes in cut {
        let root = tempdir().unwrap();
        fs::write(root.path().join("cifar-10-binary.tar.gz"), bytes).unwrap();
        let error = load_all(&Source::Cifar10(Cifar10 {}), root.path()).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("no readable .tar.gz"), "{message}");
        assert_eq!(error.kind(), DataErrorKind::Invalid);
    }
}

#[test]
fn progress_counts_to_the_end_and_can_stop() {
    let root = folder(Cifar::Cifar10, &support::cifar10());
    let heard = std::cell::RefCell::new(Vec::new());
    let split = SplitSpec { train: Some(50), validation: Some(20), ..SplitSpec::default() };
    load(&Source::Cifar10(Cifar10 {}), &Preparation::default(), &split, Folders::data(root.path()), &|done, all| {
        heard.borrow_mut().push((done, all));
        true
    })
    .unwrap();
    assert_eq!(*heard.borrow(), [(0, 0), (50, 80), (70, 80), (80, 80)]);
    for stop in [0, 50, 70] {
        let error = load(
            &Source::Cifar10(Cifar10 {}),
            &Preparation::default(),
            &split,
            Folders::data(root.path()),
            &|done, _| done != stop,
        );
        assert_eq!(error.unwrap_err().kind(), DataErrorKind::Interrupted);
    }
}
