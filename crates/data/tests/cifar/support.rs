//! Tiny datasets in the published layouts.

use std::fs;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use hemlock_data::Cifar;

/// Names and bytes of a dataset's files.
pub type Files = Vec<(String, Vec<u8>)>;

/// Records whose labels count up and whose pixels differ from record to record.
fn records(count: usize, first: usize, labels: impl Fn(usize) -> Vec<u8>) -> Vec<u8> {
    (first..first + count)
        .flat_map(|i| {
            let pixels = (0..3072).map(move |p| ((i * 31 + p * 7) % 251) as u8);
            labels(i).into_iter().chain(pixels)
        })
        .collect()
}

fn names(count: usize, prefix: &str) -> Vec<u8> {
    let lines: String = (0..count).map(|i| format!("{prefix}{i}\n")).collect();
    // The official lists end with an empty line.
    (lines + "\n").into_bytes()
}

/// 5 x 20 training records and 10 test records.
pub fn cifar10() -> Files {
    let label = |i: usize| vec![(i % 10) as u8];
    let mut files: Files = (0..5)
        .map(|batch| {
            let name = format!("data_batch_{}.bin", batch + 1);
            (name, records(20, 20 * batch, label))
        })
        .collect();
    files.push(("test_batch.bin".into(), records(10, 100, label)));
    files.push(("batches.meta.txt".into(), names(10, "class")));
    files
}

/// 200 training records and 100 test records. Five consecutive fine classes share a coarse one.
pub fn cifar100() -> Files {
    let labels = |i: usize| vec![(i % 100 / 5) as u8, (i % 100) as u8];
    vec![
        ("train.bin".into(), records(200, 0, labels)),
        ("test.bin".into(), records(100, 200, labels)),
        ("fine_label_names.txt".into(), names(100, "fine")),
        ("coarse_label_names.txt".into(), names(20, "coarse")),
    ]
}

/// Writes the files into their folder under `root`.
pub fn unpacked(cifar: Cifar, files: &Files, root: &Path) {
    let folder = root.join(cifar.folder());
    fs::create_dir_all(&folder).unwrap();
    for (name, bytes) in files {
        fs::write(folder.join(name), bytes).unwrap();
    }
}

/// A `.tar.gz` archive of the files in their folder.
pub fn archive(cifar: Cifar, files: &Files) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        let path = format!("{}/{name}", cifar.folder());
        tar.append_data(&mut header, path, bytes.as_slice()).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

/// A `.tar.gz` archive of one entry, written as it is, however unsafe.
pub fn archive_of_entry(path: &str, kind: tar::EntryType) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    if kind == tar::EntryType::Symlink || kind == tar::EntryType::Link {
        header.set_link_name("elsewhere").unwrap();
    }
    let contents: &[u8] = if kind == tar::EntryType::Regular { b"escaped" } else { b"" };
    header.set_size(contents.len() as u64);
    // `Header::set_path` would refuse the paths that are tested here.
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_cksum();
    tar.append(&header, contents).unwrap();
    tar.into_inner().unwrap().finish().unwrap()
}
