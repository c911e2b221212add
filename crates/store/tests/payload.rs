//! Payload files: a reader gets what was written, or an error.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::fmt::Debug;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use hemlock_store::{Element, PayloadReader, PayloadWriter, StoreError, StoreErrorKind};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Facts {
    name: String,
    scores: Vec<f64>,
    inner: Option<Box<Facts>>,
}

/// Returns a reader of the files that `fill` writes into a fresh folder.
fn written(fill: impl FnOnce(&mut PayloadWriter)) -> (TempDir, PayloadReader) {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = PayloadWriter::new(dir.path(), "features");
    fill(&mut writer);
    let reader = PayloadReader::new(dir.path(), "features", writer.files().clone());
    (dir, reader)
}

fn shape_and<T: Arbitrary + Debug>() -> impl Strategy<Value = (Vec<usize>, Vec<T>)> {
    prop::collection::vec(0_usize..6, 0..=4).prop_flat_map(|shape| {
        let len: usize = shape.iter().product();
        (Just(shape), prop::collection::vec(any::<T>(), len))
    })
}

/// Compares bytes, because a NaN must come back with the same bits.
fn round_trip<T: Element + Debug>(shape: &[usize], data: &[T]) {
    let (_dir, reader) = written(|w| w.array("train", shape, data).unwrap());
    let block = reader.array::<T>("train").unwrap();
    assert_eq!(block.shape, shape);
    assert_eq!(bytemuck::cast_slice::<T, u8>(&block.data), bytemuck::cast_slice::<T, u8>(data));

    let mapped = reader.map::<T>("train").unwrap();
    assert_eq!(mapped.shape(), shape);
    assert_eq!(bytemuck::cast_slice::<T, u8>(mapped.data()), bytemuck::cast_slice::<T, u8>(data));

    let Some((&rows, rest)) = shape.split_first() else { return };
    let row: usize = rest.iter().product();
    let some = reader.rows::<T>("train", rows / 2..rows).unwrap();
    assert_eq!(some.shape, [&[rows - rows / 2], rest].concat());
    assert_eq!(bytemuck::cast_slice::<T, u8>(&some.data), bytemuck::cast_slice::<T, u8>(&data[rows / 2 * row..]));
    assert_eq!(reader.rows::<T>("train", 0..rows + 1).unwrap_err().kind(), StoreErrorKind::Refused);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn f32_comes_back((shape, data) in shape_and::<f32>()) {
        round_trip(&shape, &data);
    }

    #[test]
    fn f64_comes_back((shape, data) in shape_and::<f64>()) {
        round_trip(&shape, &data);
    }

    #[test]
    fn u8_comes_back((shape, data) in shape_and::<u8>()) {
        round_trip(&shape, &data);
    }

    #[test]
    fn u32_comes_back((shape, data) in shape_and::<u32>()) {
        round_trip(&shape, &data);
    }

    #[test]
    fn values_and_bytes_come_back(
        name in any::<String>(),
        scores in prop::collection::vec(any::<f64>().prop_filter("equal to itself", |x| !x.is_nan()), 0..9),
        bytes in prop::collection::vec(any::<u8>(), 0..99),
    ) {
        let inner = Facts { name: name.clone(), scores: vec![], inner: None };
        let facts = Facts { name, scores, inner: Some(Box::new(inner)) };
        let (_dir, reader) = written(|w| {
            w.value("facts", &facts).unwrap();
            w.bytes("raw", &bytes).unwrap();
        });
        prop_assert_eq!(reader.value::<Facts>("facts").unwrap(), facts);
        prop_assert_eq!(reader.bytes("raw").unwrap(), bytes);
    }
}

/// Arrays that are longer than the chunks in which they are hashed.
#[test]
fn a_long_array_comes_back() {
    let data: Vec<u32> = (0..3_000_000).map(|n: u32| n.wrapping_mul(2_654_435_761)).collect();
    let (_dir, reader) = written(|w| w.array("train", &[3_000, 1_000], &data).unwrap());
    assert_eq!(reader.shaped::<u32, 2>("train").unwrap(), ([3_000, 1_000], data));
}

/// A file that is put together by hand, from the layout in the module's documentation.
#[test]
fn the_file_is_laid_out_as_documented() {
    let (dir, reader) = written(|w| w.array("train", &[2, 1], &[1.5_f32, -2.0]).unwrap());
    let mut expected = Vec::new();
    expected.extend(b"HEMLOCK\0");
    expected.extend([1, 0, 0, 0, 1, 0, 2, 0]);
    for number in [2_u64, 1, 0, 0, 8] {
        expected.extend(number.to_le_bytes());
    }
    expected.extend(b"features/train");
    expected.resize(128, 0);
    expected.extend(1.5_f32.to_le_bytes());
    expected.extend((-2.0_f32).to_le_bytes());
    let digest = blake3::hash(&expected);
    expected[96..128].copy_from_slice(digest.as_bytes());
    assert_eq!(fs::read(dir.path().join("train")).unwrap(), expected);
    assert_eq!(reader.files()["train"].digest.as_bytes(), digest.as_bytes());
}

/// Flips each bit of a file, appends a byte to it, and truncates it at every length. `read` must return an error each
/// time.
fn every_damage(path: &Path, read: impl Fn() -> Option<StoreError>) {
    assert!(read().is_none());
    let good = fs::read(path).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    let put = |at: usize, byte: u8| {
        (&file).seek(SeekFrom::Start(at as u64)).unwrap();
        (&file).write_all(&[byte]).unwrap();
    };
    for bit in 0..good.len() * 8 {
        let at = bit / 8;
        put(at, good[at] ^ 1 << (bit % 8));
        let error = read().unwrap_or_else(|| panic!("bit {bit} flipped unnoticed"));
        assert!(matches!(error.kind(), StoreErrorKind::Corrupt | StoreErrorKind::NewerFormat), "{error}");
        assert!(error.to_string().contains("--repair"), "{error}");
        put(at, good[at]);
    }
    put(good.len(), 0);
    assert!(read().is_some(), "a byte too long");
    for len in (0..good.len()).rev() {
        file.set_len(len as u64).unwrap();
        assert!(read().is_some(), "cut to {len} bytes");
    }
}

#[test]
fn any_damage_to_an_array_is_an_error() {
    let (dir, reader) = written(|w| w.array("train", &[2, 3], &[1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap());
    every_damage(&dir.path().join("train"), || reader.array::<f32>("train").err());
}

#[test]
fn any_damage_to_an_empty_array_is_an_error() {
    let (dir, reader) = written(|w| w.array::<u8>("train", &[0, 3], &[]).unwrap());
    every_damage(&dir.path().join("train"), || reader.array::<u8>("train").err());
}

#[test]
fn any_damage_to_a_value_is_an_error() {
    let facts = Facts { name: "a".into(), scores: vec![1.0], inner: None };
    let (dir, reader) = written(|w| w.value("facts", &facts).unwrap());
    every_damage(&dir.path().join("facts"), || reader.value::<Facts>("facts").err());
}

/// The digests of these files are right although the files were swapped; only the manifest's record tells.
#[test]
fn a_sound_file_from_elsewhere_is_an_error() {
    let (here, reader) = written(|w| w.bytes("raw", b"here").unwrap());
    let (there, _) = written(|w| w.bytes("raw", b"gone").unwrap());
    fs::copy(there.path().join("raw"), here.path().join("raw")).unwrap();
    assert_eq!(reader.bytes("raw").unwrap_err().kind(), StoreErrorKind::Corrupt);
}

/// Rewrites two bytes of the header and its digest, as another version of the format would.
fn with_version(dir: &TempDir, at: usize, version: u16) -> PayloadReader {
    let path = dir.path().join("raw");
    let mut file = fs::read(&path).unwrap();
    file[at..at + 2].copy_from_slice(&version.to_le_bytes());
    file[96..128].fill(0);
    let digest = blake3::hash(&file);
    file[96..128].copy_from_slice(digest.as_bytes());
    fs::write(&path, &file).unwrap();
    let record = serde_json::json!({ "bytes": file.len(), "digest": digest.to_hex().as_str() });
    let record = serde_json::from_value(record).unwrap();
    PayloadReader::new(dir.path(), "features", [("raw".to_owned(), record)].into())
}

#[test]
fn a_newer_major_is_refused_and_a_newer_minor_is_not() {
    let (dir, _) = written(|w| w.bytes("raw", b"abc").unwrap());
    assert_eq!(with_version(&dir, 10, 7).bytes("raw").unwrap(), b"abc");
    let error = with_version(&dir, 8, 2).bytes("raw").unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::NewerFormat);
    assert!(error.to_string().contains("has format 2.7"), "{error}");
}

#[test]
fn a_file_of_another_type_is_a_mismatch() {
    let (dir, reader) = written(|w| w.array("train", &[2, 1], &[1.0_f32, 2.0]).unwrap());
    let mismatch = |e: StoreError, text: &str| {
        assert!(matches!(e, StoreError::Mismatch { .. }), "{e}");
        assert!(e.to_string().contains(text), "{e}");
    };
    mismatch(reader.array::<u32>("train").unwrap_err(), "holds an array of f32 where an array of u32");
    mismatch(reader.value::<f32>("train").unwrap_err(), "where a value was expected");
    mismatch(reader.shaped::<f32, 1>("train").unwrap_err(), "shape [2, 1]");
    let other = PayloadReader::new(dir.path(), "images", reader.files().clone());
    mismatch(other.array::<f32>("train").unwrap_err(), "holds `features/train` where `images/train`");
    assert_eq!(reader.array::<f32>("test").unwrap_err().kind(), StoreErrorKind::Missing);
    fs::remove_file(dir.path().join("train")).unwrap();
    assert_eq!(reader.array::<f32>("train").unwrap_err().kind(), StoreErrorKind::Missing);
}

#[test]
fn a_sound_value_of_another_type_is_damage() {
    let (_dir, reader) = written(|w| w.value("facts", &300_u32).unwrap());
    let error = reader.value::<u8>("facts").unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Corrupt);
    assert!(error.to_string().contains("not a u8 of this version"), "{error}");
}

#[test]
fn senseless_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = PayloadWriter::new(dir.path(), "features");
    writer.bytes("raw", b"1").unwrap();
    let long = "x".repeat(32);
    let refused = [
        writer.bytes("raw", b"2"),
        writer.bytes("../raw", b""),
        writer.bytes("manifest.json", b""),
        writer.bytes(&long, b""),
        writer.array("a", &[2, 2], &[1_u8, 2, 3]),
        writer.array("a", &[1, 1, 1, 1, 1], &[1_u8]),
        writer.array("a", &[usize::MAX, 2], &[1_u8]),
    ];
    for (n, result) in refused.into_iter().enumerate() {
        assert_eq!(result.unwrap_err().kind(), StoreErrorKind::Refused, "case {n}");
    }
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
}
