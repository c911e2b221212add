//! Imports from files that NumPy wrote, and from files that every reader should refuse.

mod fuzz;

use crate::{Import, Normalize, Params, Splits, Stage};
use half::{bf16, f16};
use hemlock_arrays::Arrays;
use hemlock_artifact::Matrix;
use hemlock_fixtures::context_in;
use hemlock_stage::{Environment, ErrorKind, Seed, Stage as _};
use ndarray::Array2;
use safetensors::{Dtype, tensor::TensorView};
use serde_json::json;
use std::{
    fs,
    io::{Cursor, Write},
    path::Path,
};
use tempfile::TempDir;
use zip::{ZipWriter, write::SimpleFileOptions};

/// An array: its name, its type in NumPy's notation, its shape, and its bytes.
type Entry = (&'static str, &'static str, Vec<usize>, Vec<u8>);

fn npy(descr: &str, shape: &[usize], bytes: &[u8]) -> Vec<u8> {
    let shape: String = shape.iter().map(|n| format!("{n}, ")).collect();
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}\n");
    let length = (header.len() as u16).to_le_bytes();
    [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), bytes].concat()
}

fn npz(entries: &[Entry]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, descr, shape, bytes) in entries {
        zip.start_file(format!("{name}.npy"), SimpleFileOptions::default()).unwrap();
        zip.write_all(&npy(descr, shape, bytes)).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn safetensors(entries: &[Entry]) -> Vec<u8> {
    let view = |(name, descr, shape, bytes): &'_ Entry| {
        let dtype = match *descr {
            "<f4" => Dtype::F32,
            "<i8" => Dtype::I64,
            other => unreachable!("{other}"),
        };
        (*name, TensorView::new(dtype, shape.clone(), Vec::leak(bytes.clone())).unwrap())
    };
    safetensors::serialize(entries.iter().map(view), None).unwrap()
}

fn f4(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

fn i8(values: impl IntoIterator<Item = i64>) -> Vec<u8> {
    values.into_iter().flat_map(i64::to_le_bytes).collect()
}

/// Arrays of 8 training samples and 4 test samples with 3 features, in 2 classes.
fn good() -> Vec<Entry> {
    vec![
        ("train", "<f4", vec![8, 3], f4((0..24).map(|i| i as f32))),
        ("train_labels", "<i8", vec![8], i8((0..8).map(|i| i % 2))),
        ("test", "<f4", vec![4, 3], f4((0..12).map(|i| -i as f32))),
        ("test_labels", "<i8", vec![4], i8([1, 0, 1, 0])),
    ]
}

/// [`good`], with one array replaced or added.
fn with(entry: Entry) -> Vec<Entry> {
    let mut entries: Vec<Entry> = good().into_iter().filter(|(name, ..)| *name != entry.0).collect();
    entries.push(entry);
    entries
}

fn import(path: impl AsRef<Path>) -> Import {
    Import { path: path.as_ref().to_owned(), validation: 0, seed: Seed::Of(0), normalization: Normalize::None }
}

fn read_with(import: &Import, seed: u64) -> Result<Splits, (ErrorKind, String)> {
    let read = context_in("", seed, |ctx| import.digest(ctx.env).and_then(|_| import.read(ctx)));
    read.map_err(|e| (e.kind(), e.to_string()))
}

fn read(path: impl AsRef<Path>) -> Result<Splits, (ErrorKind, String)> {
    read_with(&import(path), 0)
}

/// A folder for files, which are named after their content.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn read(&self, name: &str, bytes: &[u8]) -> Result<Splits, (ErrorKind, String)> {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        read(path)
    }
    /// Imports an `.npz` file of these arrays, and returns the error message.
    #[track_caller]
    fn refuses(&self, entries: &[Entry], words: &[&str]) {
        let (kind, message) = self.read("x.npz", &npz(entries)).map(|_| ()).unwrap_err();
        assert_eq!(kind, ErrorKind::Data, "{message}");
        for word in ["x.npz"].iter().chain(words) {
            assert!(message.contains(word), "'{word}' is not in: {message}");
        }
    }
}

/// Compares with the values that tests/data/write_arrays.py writes.
fn check_numpy(s: usize, features: &Matrix, labels: &[u32], n: usize) {
    let expected = Array2::from_shape_fn((n, 4), |(i, j)| (((7 * i + 3 * j + s) % 16) as f32 - 8.0) / 8.0);
    assert_eq!(features.view(), expected);
    assert!(features.view().is_standard_layout());
    assert_eq!(labels, (0..n as u32).map(|i| (i + s as u32) % 3).collect::<Vec<_>>());
}

#[test]
fn files_by_numpy_are_read() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    for (file, validation) in [("features.npz", 3), ("features", 0)] {
        let splits = read(data.join(file)).unwrap();
        assert_eq!(splits.classes, ["0", "1", "2"]);
        check_numpy(0, &splits.train.features, &splits.train.labels, 12);
        check_numpy(1, &splits.validation.features, &splits.validation.labels, validation);
        check_numpy(2, &splits.test.features, &splits.test.labels, 6);
    }
}

#[test]
fn every_type_is_read() {
    let place = Place::new();
    let x = [1.5f32, -0.25, 3.0];
    let half = x.map(|x| f16::from_f32(x).to_bits());
    let types: [(&str, Vec<u8>); 6] = [
        ("<f2", half.iter().flat_map(|x| x.to_le_bytes()).collect()),
        (">f2", half.iter().flat_map(|x| x.to_be_bytes()).collect()),
        ("<f4", f4(x)),
        (">f4", x.iter().flat_map(|x| x.to_be_bytes()).collect()),
        ("<f8", x.iter().flat_map(|x| f64::from(*x).to_le_bytes()).collect()),
        (">f8", x.iter().flat_map(|x| f64::from(*x).to_be_bytes()).collect()),
    ];
    for (descr, bytes) in types {
        let splits = place.read("x.npz", &npz(&with(("test", descr, vec![4, 3], bytes.repeat(4))))).unwrap();
        assert_eq!(splits.test.features.view().row(3).to_vec(), x, "{descr}");
    }
    let y = [0u8, 1, 1, 0];
    for (descr, size) in
        [("|i1", 1), ("<i2", 2), ("<i4", 4), ("<i8", 8), ("|u1", 1), ("<u2", 2), ("<u4", 4), ("<u8", 8)]
    {
        let little: Vec<u8> = y.iter().flat_map(|y| [&[*y], &vec![0; size - 1][..]].concat()).collect();
        let big: Vec<u8> = y.iter().flat_map(|y| [&vec![0; size - 1][..], &[*y]].concat()).collect();
        for (descr, bytes) in [(descr.to_owned(), little), (descr.replace('<', ">"), big)] {
            let entry = ("test_labels", &*Box::leak(descr.into_boxed_str()), vec![4], bytes);
            assert_eq!(
                place.read("x.npz", &npz(&with(entry.clone()))).unwrap().test.labels,
                [0, 1, 1, 0],
                "{}",
                entry.1
            );
        }
    }
    // A type that only safetensors has.
    let bytes: Vec<u8> = x.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect();
    let view = TensorView::new(Dtype::BF16, vec![1, 3], &bytes).unwrap();
    let path = place.0.path().join("x.safetensors");
    fs::write(&path, safetensors::serialize([("train", view)], None).unwrap()).unwrap();
    assert_eq!(Arrays::open(&path).unwrap().features("train").unwrap().row(0).to_vec(), x);
}

#[test]
fn one_content_has_one_meaning_in_every_kind_of_file() {
    let place = Place::new();
    let folder = place.0.path().join("folder");
    fs::create_dir(&folder).unwrap();
    for (name, descr, shape, bytes) in good() {
        fs::write(folder.join(format!("{name}.npy")), npy(descr, &shape, &bytes)).unwrap();
    }
    fs::write(folder.join("README"), "no array").unwrap();
    let all = [place.read("x.npz", &npz(&good())), place.read("X.SAFETENSORS", &safetensors(&good())), read(&folder)];
    for splits in all.map(Result::unwrap) {
        assert_eq!(splits.train.features.view(), Array2::from_shape_fn((8, 3), |(i, j)| (3 * i + j) as f32));
        assert_eq!(splits.test.labels, [1, 0, 1, 0]);
        assert_eq!(splits.validation.features.view().dim(), (0, 3));
    }
    // The digest of a folder covers the arrays that are read, and nothing else.
    let digest = || import(&folder).digest(&Environment { data: Some("".into()), ..Environment::default() }).unwrap();
    let before = digest();
    fs::write(folder.join("README"), "changed").unwrap();
    assert_eq!(digest(), before);
    fs::rename(folder.join("test.npy"), folder.join("validation.npy")).unwrap();
    assert_ne!(digest(), before);
}

#[test]
fn arrays_that_do_not_fit_are_named() {
    let place = Place::new();
    let without = |name: &str| good().into_iter().filter(|(n, ..)| *n != name).collect::<Vec<_>>();
    place.refuses(&without("train"), &["no array `train`", "it has train_labels, test, test_labels"]);
    place.refuses(&without("test_labels"), &["no array `test_labels`"]);
    place.refuses(&[], &["no array `train`; it has none"]);
    let validation = ("validation", "<f4", vec![1, 3], f4([0.0; 3]));
    place.refuses(&with(validation), &["no array `validation_labels`"]);

    let fails = |entry: Entry, words: &[&str]| place.refuses(&with(entry), words);
    fails(("train", "<f4", vec![24], f4([0.0; 24])), &["`train` has shape [24]; expected [n, d]"]);
    fails(("train", "<f4", vec![2, 4, 3], f4([0.0; 24])), &["`train` has shape [2, 4, 3]"]);
    fails(("test_labels", "<i8", vec![4, 1], i8([0; 4])), &["`test_labels` has shape [4, 1]; expected [n]"]);
    fails(("train", "<i8", vec![8, 3], i8([0; 24])), &["`train` has elements of type '<i8'; expected floating-point"]);
    fails(
        ("train_labels", "<f4", vec![8], f4([0.0; 8])),
        &["`train_labels` has elements of type '<f4'; expected integers"],
    );
    fails(("train_labels", "|O", vec![8], vec![0; 64]), &["`train_labels` has elements of type '|O'"]);
    fails(("train_labels", "|b1", vec![8], vec![0; 8]), &["`train_labels` has elements of type '|b1'"]);
    fails(("train_labels", "<U3", vec![8], vec![0; 96]), &["`train_labels` has elements of type '<U3'"]);
    fails(("train_labels", "<i8", vec![7], i8([0; 7])), &["`train_labels` has 7 labels; expected 8", "`train`"]);
    fails(("test", "<f4", vec![4, 2], f4([0.0; 8])), &["`test` has 2 features per sample; expected 3"]);
    fails(("test", "<f4", vec![0, 3], vec![]), &["`test_labels` has 4 labels; expected 0"]);
    for (x, shown) in [(f32::NAN, "NaN"), (f32::NEG_INFINITY, "-inf")] {
        let mut values = [0.0; 24];
        values[7] = x;
        fails(("train", "<f4", vec![8, 3], f4(values)), &[&format!("`train` is {shown} at [2, 1]; expected")]);
    }
    let large: Vec<u8> = [1e39f64; 24].iter().flat_map(|x| x.to_le_bytes()).collect();
    fails(("train", "<f8", vec![8, 3], large), &["`train` is 1000000000", "at [0, 0]; expected", "finite in 32 bits"]);

    fails(("test_labels", "<i8", vec![4], i8([0, 1, -1, 0])), &["`test_labels` is -1 at [2]; expected classes"]);
    fails(("test_labels", "<i8", vec![4], i8([0, 1, 1 << 32, 0])), &["`test_labels` is 4294967296 at [2]"]);
    let absent = "`train_labels` has no sample of class";
    fails(
        ("test_labels", "<i8", vec![4], i8([0, 1, 2, 0])),
        &[absent, "class 2, and `test_labels` goes up to class 2"],
    );
    fails(("test_labels", "<u4", vec![4], [255; 16].to_vec()), &[absent, "class 2, and `test_labels`"]);
    let from_one = i8((0..8).map(|i| 1 + i % 2));
    fails(("train_labels", "<i8", vec![8], from_one), &[absent, "class 0", "counted from 0"]);
    let mut one = with(("train_labels", "<i8", vec![8], i8([0; 8])));
    one.iter_mut().filter(|(name, ..)| *name == "test_labels").for_each(|entry| entry.3 = i8([0; 4]));
    place.refuses(&one, &["`train_labels` has one class; expected at least 2"]);

    let empty = |name, labels| [(name, "<f4", vec![0, 3], vec![]), (labels, "<i8", vec![0], vec![])];
    let mut entries = good();
    entries.splice(0..2, empty("train", "train_labels"));
    place.refuses(&entries, &["`train` has shape [0, 3]; expected at least one sample"]);
    let mut entries = good();
    entries.splice(2..4, empty("test", "test_labels"));
    place.refuses(&entries, &["`test` has shape [0, 3]; expected at least one sample"]);
    // A validation split may be empty.
    let mut entries = good();
    entries.extend(empty("validation", "validation_labels"));
    assert!(place.read("x.npz", &npz(&entries)).is_ok());
}

#[test]
fn sizes_that_a_header_promises_are_not_believed() {
    let place = Place::new();
    let fails = |shape: Vec<usize>, words: &[&str]| {
        place.refuses(&with(("train", "<f4", shape, f4([0.0; 24]))), words);
    };
    fails(vec![9, 3], &["`train` has 96 bytes; expected 108, for shape [9, 3] of type '<f4'"]);
    fails(vec![7, 3], &["`train` has 96 bytes; expected 84"]);
    fails(vec![1 << 40, 1 << 40], &["`train` has 96 bytes"]);
    fails(vec![1 << 33, 1 << 29], &["`train` has 96 bytes"]);
}

/// Safetensors files and archives record their length, and so do the headers of a folder's arrays.
#[test]
fn every_truncation_is_an_error() {
    let place = Place::new();
    for (name, bytes) in [("x.npz", npz(&good())), ("x.safetensors", safetensors(&good()))] {
        for length in 0..bytes.len() {
            let (kind, message) = place.read(name, &bytes[..length]).map(|_| ()).unwrap_err();
            assert_eq!(kind, ErrorKind::Data);
            assert!(message.contains("is damaged, or no"), "{length}: {message}");
        }
        assert!(place.read(name, &bytes).is_ok());
    }
    let folder = place.0.path().join("folder");
    fs::create_dir(&folder).unwrap();
    for (name, descr, shape, bytes) in good() {
        fs::write(folder.join(format!("{name}.npy")), npy(descr, &shape, &bytes)).unwrap();
    }
    let whole = fs::read(folder.join("train.npy")).unwrap();
    for length in 0..whole.len() {
        fs::write(folder.join("train.npy"), &whole[..length]).unwrap();
        let (kind, message) = read(&folder).map(|_| ()).unwrap_err();
        assert!(kind == ErrorKind::Data && message.contains("the array `train`"), "{length}: {message}");
    }
}

/// The checksum of an archive covers the values.
#[test]
fn flipped_bits_never_panic_and_archives_notice_them() {
    let place = Place::new();
    for (name, bytes) in [("x.npz", npz(&good())), ("x.safetensors", safetensors(&good()))] {
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << (at % 8);
            let _ = place.read(name, &bytes);
        }
    }
    let mut bytes = npz(&with(("train", "<f4", vec![8, 3], f4([1.5; 24]))));
    let at = bytes.windows(4).position(|w| w == 1.5f32.to_le_bytes()).unwrap_or(bytes.len() / 3);
    bytes[at] ^= 1;
    assert!(place.read("x.npz", &bytes).is_err());
}

#[test]
fn files_that_hold_no_arrays() {
    let place = Place::new();
    let said = |name: &str, bytes: &[u8]| place.read(name, bytes).map(|_| ()).unwrap_err();
    let (kind, message) = said("x.pt", b"anything");
    assert!(kind == ErrorKind::Params && message.starts_with("`path`: is "), "{message}");
    assert!(message.ends_with("x.pt; expected a file that ends in .npz or .safetensors, or a folder of .npy files"));
    assert_eq!(said("train.npy", &npy("<f4", &[1, 1], &[0; 4])).0, ErrorKind::Params);
    assert_eq!(said("features", b"no ending").0, ErrorKind::Params);
    for (name, kind) in [("nowhere.npz", ".npz archive"), ("nowhere.safetensors", "safetensors"), ("nowhere", "folder")]
    {
        let (found, message) = read(place.0.path().join(name)).map(|_| ()).unwrap_err();
        assert!(found == ErrorKind::Data && message.contains("cannot read") && message.contains(kind), "{message}");
    }
    assert!(said("text.npz", b"no archive at all").1.contains("text.npz is damaged, or no .npz archive"));
    // Entries that are no arrays, and a header that would overflow the stack of a recursive parser.
    for content in [b"text".to_vec(), [b"\x93NUMPY\x02\x00\x00\x00\x00\x01", "(".repeat(1 << 24).as_bytes()].concat()] {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        zip.start_file("train.npy", SimpleFileOptions::default()).unwrap();
        zip.write_all(&content).unwrap();
        let (kind, message) = said("x.npz", &zip.finish().unwrap().into_inner());
        assert!(kind == ErrorKind::Data && message.contains("`train` is damaged, or no .npy file"), "{message}");
    }
    let nested = npy(&format!("{}{}", "'".to_owned() + &"(".repeat(700), ")".repeat(200)), &[8, 3], &[0; 96]);
    let folder = place.0.path().join("nested");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("train.npy"), nested).unwrap();
    assert!(read(&folder).is_err());
}

#[test]
fn validation_is_drawn_from_every_class_alike() {
    let place = Place::new();
    assert!(place.read("x.npz", &npz(&good())).is_ok());
    let drawn = |validation, seed, run| {
        let import = Import { validation, seed, ..import(place.0.path().join("x.npz")) };
        read_with(&import, run)
    };
    let rows = |splits: &Splits| splits.validation.features.view().column(0).to_vec();
    let first = drawn(4, Seed::Of(1), 0).unwrap();
    assert_eq!(first.train.labels.iter().filter(|y| **y == 0).count(), 2);
    assert_eq!(first.validation.labels.iter().filter(|y| **y == 0).count(), 2);
    let mut all = [first.train.features.view().column(0).to_vec(), rows(&first)].concat();
    all.sort_by(f32::total_cmp);
    assert_eq!(all, (0..8).map(|i| 3.0 * i as f32).collect::<Vec<_>>());
    for splits in [&first.train, &first.validation] {
        let class = |z: f32| (z / 3.0) as u32 % 2;
        assert!(splits.features.view().column(0).iter().zip(&splits.labels).all(|(z, y)| class(*z) == *y));
        let stands = |(z, i): (&f32, &u32)| *z == 3.0 * *i as f32;
        assert!(
            splits.features.view().column(0).iter().zip(&splits.source_index).all(stands),
            "where it stood in the file"
        );
    }
    assert_eq!(rows(&drawn(4, Seed::Of(1), 7).unwrap()), rows(&first));
    assert_eq!(rows(&drawn(4, Seed::Run, 1).unwrap()), rows(&first));
    assert!((2..9).any(|seed| rows(&drawn(4, Seed::Of(seed), 0).unwrap()) != rows(&first)));

    let refused = |validation: usize| {
        let (kind, message) = drawn(validation, Seed::Of(0), 0).map(|_| ()).unwrap_err();
        assert!(kind == ErrorKind::Params && message.starts_with("`validation`: is "), "{message}");
        message
    };
    assert!(refused(7).ends_with("leaves none of class 0 to train on"));
    assert!(refused(8).ends_with("leaves none to train on"));
    assert!(refused(10).ends_with("asks for 5 samples of class 0, which has 4"));
    let mut entries = good();
    entries.push(("validation", "<f4", vec![2, 3], f4([0.0; 6])));
    entries.push(("validation_labels", "<i8", vec![2], i8([0, 1])));
    assert_eq!(place.read("x.npz", &npz(&entries)).unwrap().validation.labels, [0, 1]);
    assert!(refused(4).ends_with("has a validation split of 2 samples; leave the field out"));
}

#[test]
fn keys_hold_what_decides_and_nothing_else() {
    let key = |params| Stage::key_params(&serde_json::from_value::<Params>(params).unwrap()).unwrap();
    // The key from before there were methods: features that were extracted then stay valid.
    assert_eq!(key(json!({})), json!({ "normalization": "standardize" }));
    assert_eq!(key(json!({ "method": "extract", "normalization": "l2" })), json!({ "normalization": "l2" }));
    let imported = json!({ "method": "import", "path": "x.npz", "normalization": "none", "seed": 3 });
    assert_eq!(key(imported), json!({ "method": "import", "normalization": "none", "validation": 0 }));
    let drawn = json!({ "method": "import", "path": "x.npz", "validation": 10, "seed": 3 });
    let expected = json!({ "method": "import", "normalization": "standardize", "validation": 10, "seed": 3 });
    assert_eq!(key(drawn), expected);
    for bad in
        [json!({ "method": "import" }), json!({ "path": "x.npz" }), json!({ "method": "import", "path": "x", "a": 1 })]
    {
        assert!(serde_json::from_value::<Params>(bad).is_err());
    }
}

/// A header of the given version, padded with spaces to the given size.
fn padded(version: u8, size: usize, bytes: &[u8]) -> Vec<u8> {
    let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (8, 3), }";
    let header = format!("{text}{}\n", " ".repeat(size - text.len() - 1));
    let length = (header.len() as u32).to_le_bytes();
    let length = &length[..if version == 1 { 2 } else { 4 }];
    [&b"\x93NUMPY"[..], &[version, 0], length, header.as_bytes(), bytes].concat()
}

/// NumPy reads all of these versions and sizes.
#[test]
fn headers_may_be_padded_and_of_any_version() {
    let place = Place::new();
    let folder = place.0.path().join("folder");
    fs::create_dir(&folder).unwrap();
    for (name, descr, shape, bytes) in good() {
        fs::write(folder.join(format!("{name}.npy")), npy(descr, &shape, &bytes)).unwrap();
    }
    let expected = read(&folder).unwrap().train.features.view().to_owned();
    for (version, size) in [(1, 64), (1, 4096), (1, 10_000), (2, 118), (2, 4096), (3, 118), (3, 60_000)] {
        fs::write(folder.join("train.npy"), padded(version, size, &f4((0..24).map(|i| i as f32)))).unwrap();
        assert_eq!(read(&folder).unwrap().train.features.view(), expected, "{version} {size}");
    }
    for (file, words) in [
        (padded(4, 118, &f4([0.0; 24])), "is damaged, or no .npy file"),
        (padded(2, 70_000, &f4([0.0; 24])), "its header has 70000 bytes; expected at most 65536"),
        (padded(1, 4096, &f4([0.0; 24]))[..3000].to_vec(), "is damaged, or no .npy file"),
        (b"\x93NUMPZ\x01\x00".to_vec(), "it does not begin as such files do"),
    ] {
        fs::write(folder.join("train.npy"), file).unwrap();
        let (kind, message) = read(&folder).map(|_| ()).unwrap_err();
        assert!(kind == ErrorKind::Data && message.contains("`train`") && message.contains(words), "{message}");
    }
}

#[test]
fn files_of_many_names_are_told_by_a_few() {
    let place = Place::new();
    let many: Vec<Entry> = (0..60_000).map(|i| (&*format!("array{i}").leak(), "<f4", vec![0], vec![])).collect();
    let message = place.read("x.npz", &npz(&many)).map(|_| ()).unwrap_err().1;
    assert!(message.ends_with(" and 59990 more") && message.len() < 500, "{message}");
    let message = place.read("x.safetensors", &safetensors(&many)).map(|_| ()).unwrap_err().1;
    assert!(message.ends_with(" and 59990 more") && message.len() < 500, "{message}");
    let deep = place.read("x.npz", &npz(&with(("train", "<f4", vec![1; 300], f4([0.0])))));
    let message = deep.map(|_| ()).unwrap_err().1;
    assert!(message.contains("`train`") && message.len() < 2000, "{message}");
}

#[cfg(unix)]
#[test]
fn what_is_no_regular_file_is_not_read() {
    let place = Place::new();
    for (device, link) in [("/dev/zero", "x.npz"), ("/dev/zero", "x.safetensors")] {
        let link = place.0.path().join(link);
        std::os::unix::fs::symlink(device, &link).unwrap();
        let (kind, message) = read(&link).map(|_| ()).unwrap_err();
        assert!(kind == ErrorKind::Data && message.contains("cannot read"), "{message}");
    }
}

/// Runs the stage with an import of these arrays.
fn run(entries: &[Entry], normalization: Normalize) -> Result<hemlock_artifact::Features, (ErrorKind, String)> {
    let place = Place::new();
    let path = place.0.path().join("x.npz");
    fs::write(&path, npz(entries)).unwrap();
    let params = Params::Import(Import { normalization, ..import(&path) });
    let inputs = crate::Inputs { dataset: None, extractor: None };
    context_in("", 0, |ctx| Stage::run(&params, inputs, ctx)).map_err(|e| (e.kind(), e.to_string()))
}

#[test]
fn dead_features_are_refused_by_what_is_true_of_them() {
    let train = |z: [f32; 24]| with(("train", "<f4", vec![8, 3], f4(z)));
    let refused = |entries: &[Entry], normalization| {
        let (kind, message) = run(entries, normalization).map(|_| ()).unwrap_err();
        assert!(kind == ErrorKind::Data && message.contains("x.npz: "), "{message}");
        message
    };
    for normalization in [Normalize::None, Normalize::Standardize, Normalize::L2] {
        assert!(refused(&train([0.0; 24]), normalization).contains("every feature of every training sample is 0"));
    }
    let message = refused(&train([0.3; 24]), Normalize::Standardize);
    assert!(message.contains("every feature has one value in the whole training split"), "{message}");
    for normalization in [Normalize::None, Normalize::L2] {
        let alike = std::array::from_fn(|i| (i % 3) as f32);
        assert!(refused(&train(alike), normalization).contains("every training sample has the same features"));
    }
    // Some samples are all zeros; the rest can be used.
    let half = std::array::from_fn(|i| if i % 3 == 0 { 0.0 } else { 1e-14 * i as f32 });
    let features = run(&train(half), Normalize::Standardize).unwrap();
    assert_eq!(features.normalization.constant(), 1);
    let column = features.train.features.view().column(1).to_owned();
    assert!((column.iter().map(|z| z * z).sum::<f32>() - 8.0).abs() < 1e-3, "{column}");
    // In units of the training split, the test split lies beyond the range of 32 bits.
    let far = std::array::from_fn(|i| 2e-39 * i as f32);
    let message = refused(&train(far), Normalize::Standardize);
    assert!(!message.contains("NaN") && message.contains("of the test split is too far"), "{message}");
}
