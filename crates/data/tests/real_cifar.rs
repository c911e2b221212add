//! Tests on the published datasets or their class-balanced subsets, if these are available.
#![allow(clippy::print_stderr, clippy::unwrap_used)]

use std::env;
use std::path::PathBuf;
use std::time::Instant;

use hemlock_artifact::Dataset;
use hemlock_data::{
    ArchiveOrigin, Cifar, Cifar10, Cifar100, Cifar100Labels, Folders, Preparation, Source, SplitSpec, Trust,
};
use ndarray::Axis;

/// The directory in `HEMLOCK_TEST_DATA` or, without it, the datasets next to the workspace.
fn data_root(cifar: Cifar) -> Option<PathBuf> {
    let root = env::var_os("HEMLOCK_TEST_DATA")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/datasets"), PathBuf::from);
    if root.join(cifar.folder()).is_dir() || root.join(cifar.archive()).is_file() {
        return Some(root);
    }
    assert!(
        env::var_os("HEMLOCK_REQUIRE_REFERENCE").is_none(),
        "{cifar} is not in {}, and it is required",
        root.display()
    );
    eprintln!("SKIPPED: {cifar} isn't in {}; set HEMLOCK_TEST_DATA to a directory that holds it", root.display());
    None
}

fn counts(labels: &[u32], classes: usize) -> Vec<usize> {
    let mut counts = vec![0; classes];
    for &label in labels {
        counts[label as usize] += 1;
    }
    counts
}

fn check(cifar: Cifar, source: &Source, classes: usize) -> Option<Dataset> {
    let root = data_root(cifar)?;
    let load = |split: SplitSpec| {
        let start = Instant::now();
        let loaded =
            hemlock_data::load(source, &Preparation::default(), &split, Folders::data(&root), &|_, _| true).unwrap();
        eprintln!("{}: loaded in {:?}", loaded.name, start.elapsed());
        loaded
    };
    let all = load(SplitSpec::default());
    assert_eq!(all.classes.len(), classes);
    let size = (all.train.labels.len(), all.test.labels.len());
    assert!([(20_000, 4_000), (50_000, 10_000)].contains(&size), "{size:?}");
    assert_eq!(counts(&all.train.labels, classes), vec![size.0 / classes; classes]);
    assert_eq!(counts(&all.test.labels, classes), vec![size.1 / classes; classes]);

    let some =
        load(SplitSpec { train: Some(10_000), validation: Some(2_000), test: Some(4_000), ..SplitSpec::default() });
    for (split, pool, count) in
        [(&some.train, &all.train, 10_000), (&some.validation, &all.train, 2_000), (&some.test, &all.test, 4_000)]
    {
        assert_eq!(split.pixels.view().dim(), (count, 3, 32, 32));
        assert_eq!(counts(&split.labels, classes), vec![count / classes; classes]);
        let last = split.source_index[count - 1] as usize;
        assert_eq!(split.pixels.view().index_axis(Axis(0), count - 1), pool.pixels.view().index_axis(Axis(0), last));
    }

    let start = Instant::now();
    let digest = hemlock_data::digest(source, Some(&root)).unwrap();
    eprintln!("{}: digest {digest} in {:?}", all.name, start.elapsed());
    Some(all)
}

#[test]
fn cifar10() {
    if let Some(all) = check(Cifar::Cifar10, &Source::Cifar10(Cifar10 {}), 10) {
        let names = "airplane automobile bird cat deer dog frog horse ship truck";
        assert_eq!(all.classes.join(" "), names);
        // Mean of all training pixels as published: 0.4914, 0.4822, 0.4465.
        let pixels = all.train.pixels.view();
        for (channel, mean) in [0.4914, 0.4822, 0.4465].into_iter().enumerate() {
            let plane = pixels.index_axis(Axis(1), channel);
            let sum: f64 = plane.iter().map(|&byte| f64::from(byte)).sum();
            let found = sum / 255.0 / plane.len() as f64;
            assert!((found - mean).abs() < 0.005, "{found}");
        }
    }
}

#[test]
fn cifar100() {
    let source = |labels| Source::Cifar100(Cifar100 { labels });
    if let Some(fine) = check(Cifar::Cifar100, &source(Cifar100Labels::Fine), 100) {
        assert_eq!(fine.classes[0], "apple");
        assert_eq!(fine.classes[99], "worm");
        let coarse = check(Cifar::Cifar100, &source(Cifar100Labels::Coarse), 20).unwrap();
        assert_eq!(coarse.classes[0], "aquatic_mammals");
        // Apples are fruit.
        let apple = fine.train.labels.iter().position(|&label| label == 0);
        let fruit = coarse.train.labels[apple.unwrap()] as usize;
        assert_eq!(coarse.classes[fruit], "fruit_and_vegetables");
    }
}

#[test]
fn archives_are_known_and_so_are_the_folders_of_subsets() {
    for cifar in [Cifar::Cifar10, Cifar::Cifar100] {
        let Some(root) = data_root(cifar) else { continue };
        let archive = root.join(cifar.archive());
        if !archive.is_file() {
            assert!(env::var_os("HEMLOCK_REQUIRE_REFERENCE").is_none(), "{} is required", archive.display());
            eprintln!("SKIPPED: {cifar} is unpacked in {}", root.display());
            continue;
        }
        let fetch = |origin: PathBuf| {
            let start = Instant::now();
            let new = tempfile::tempdir().unwrap();
            let origin = ArchiveOrigin::Path(origin);
            let fetched = hemlock_data::fetch(cifar, &origin, &Trust::Known, new.path(), &|_, _| true);
            let fetched = fetched.unwrap();
            eprintln!("{cifar}: fetched in {:?}", start.elapsed());
            assert!(!fetched.already_there);
            (new, fetched)
        };
        let (unpacked, fetched) = fetch(archive);
        if fetched.train == 20_000 {
            fetch(unpacked.path().to_path_buf());
        }
    }
}
