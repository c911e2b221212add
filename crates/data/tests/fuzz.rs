//! Variants of pictures and of datasets: each is either read, or refused with a short message.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use hemlock_data::{
    ArchiveOrigin, Cifar, Cifar10, Folders, ImageFolder, Preparation, Source, SplitSpec, Trust, fetch, load,
};
use hemlock_fuzz::{Corpus, error};
use tempfile::tempdir;

/// Pictures of all formats that are decoded.
fn pictures() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures/kinds");
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    paths.iter().map(|path| (name(path), fs::read(path).unwrap())).collect()
}

fn fuzz_pictures_of(wanted: impl Fn(&str) -> bool, ending: &str) {
    let samples: Vec<Vec<u8>> =
        pictures().into_iter().filter(|(name, _)| wanted(name)).map(|(_, bytes)| bytes).collect();
    assert!(!samples.is_empty());
    let root = tempdir().unwrap();
    for split in ["train", "test"] {
        fs::create_dir_all(root.path().join(split).join("a")).unwrap();
        fs::write(root.path().join(split).join("a/picture.png"), &pictures()[0].1).unwrap();
    }
    let path = root.path().join("train/a/variant").with_extension(ending);
    let source = Source::ImageFolder(ImageFolder::new(root.path().to_owned()));
    let sized = Preparation { size: Some(8), ..Preparation::default() };
    Corpus::new(samples).fuzz(|bytes| {
        fs::write(&path, bytes).unwrap();
        load(&source, &sized, &SplitSpec::default(), Folders::default(), &|_, _| true)
            .map_or_else(|e| error(&e), |_| Ok(()))
    });
}

#[test]
fn fuzz_png_and_jpeg() {
    fuzz_pictures_of(|name| name.ends_with(".png") || name.contains(".jp"), "png");
}

#[test]
fn fuzz_other_pictures() {
    fuzz_pictures_of(|name| !name.ends_with(".png") && !name.contains(".jp"), "tga");
}

/// The files of CIFAR-10 with one record each.
fn records() -> Vec<(String, Vec<u8>)> {
    let record = |label: u8| [vec![label], vec![7; 3072]].concat();
    let mut files: Vec<_> = (1..=5).map(|i| (format!("data_batch_{i}.bin"), record(i))).collect();
    files.push(("test_batch.bin".to_owned(), record(0)));
    files
        .push(("batches.meta.txt".to_owned(), (0..10).map(|i| format!("class{i}\n")).collect::<String>().into_bytes()));
    files
}

fn archive() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in records() {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("{}/{name}", Cifar::Cifar10.folder()), &bytes[..]).unwrap();
    }
    tar.into_inner().unwrap()
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
    gz.write_all(bytes).unwrap();
    gz.finish().unwrap()
}

fn fuzz_archives(sample: Vec<u8>, wrap: impl Fn(&[u8]) -> Vec<u8>) {
    let root = tempdir().unwrap();
    let (file, data) = (root.path().join("x.tar.gz"), root.path().join("data"));
    Corpus::new([sample]).words(["../../", "/", "ustar", "cifar-10-batches-bin/"]).fuzz(|bytes| {
        fs::write(&file, wrap(bytes)).unwrap();
        let fetched = fetch(Cifar::Cifar10, &ArchiveOrigin::Path(file.clone()), &Trust::Any, &data, &|_, _| true);
        // Nothing is written outside the folder, and nothing incomplete stays behind.
        let there = |dir: &Path| fs::read_dir(dir).map(|entries| entries.count()).unwrap_or(0);
        let (out, left) = (there(root.path()), there(&data));
        let _ = fs::remove_dir_all(&data);
        match fetched {
            _ if out > 2 => Err("a file got out of its folder".to_owned()),
            Err(_) if left > 0 => Err("a refused archive left files".to_owned()),
            Err(e) => error(&e),
            Ok(_) => Ok(()),
        }
    });
}

#[test]
fn fuzz_archive() {
    fuzz_archives(archive(), compressed);
}

#[test]
fn fuzz_compression() {
    fuzz_archives(compressed(&archive()), <[u8]>::to_vec);
}

#[test]
fn fuzz_records() {
    let root = tempdir().unwrap();
    let folder = root.path().join(Cifar::Cifar10.folder());
    fs::create_dir(&folder).unwrap();
    for (name, bytes) in records() {
        fs::write(folder.join(name), bytes).unwrap();
    }
    let samples = [records()[0].1.clone(), records()[6].1.clone()];
    Corpus::new(samples).fuzz(|bytes| {
        for name in ["data_batch_1.bin", "batches.meta.txt"] {
            let good = fs::read(folder.join(name)).unwrap();
            fs::write(folder.join(name), bytes).unwrap();
            let loaded = load(
                &Source::Cifar10(Cifar10 {}),
                &Preparation::default(),
                &SplitSpec::default(),
                Folders::data(root.path()),
                &|_, _| true,
            );
            fs::write(folder.join(name), good).unwrap();
            loaded.map_or_else(|e| error(&e), |_| Ok(()))?;
        }
        Ok(())
    });
}
