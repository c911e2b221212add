//! Small data sets, and what is written of them.

use super::*;
use image::ImageFormat;
use ndarray::{Array2, Array4};
use npyz::{Deserialize, NpyFile};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;
use std::io::{Cursor, Write};
use zip::ZipArchive;

/// Three clean images, two poisons and one test image of 2 x 3 pixels, whose first pixel is their number.
struct Small {
    images: [Array4<u8>; 3],
    classes: Vec<String>,
}

impl Small {
    fn new() -> Self {
        let images = |first: u8, n: usize| {
            Array4::from_shape_fn((n, 3, 2, 3), |(i, c, y, x)| if (c, y, x) == (0, 0, 0) { first + i as u8 } else { 7 })
        };
        let images = [images(0, 3), images(100, 2), images(200, 1)];
        Self { images, classes: vec!["cat".to_owned(), "dog".to_owned()] }
    }

    fn set(&self, replaces: bool) -> PoisonedSet<'_> {
        let labelled =
            |i: usize, labels| LabelledSamples { samples: SetSamples::Images(self.images[i].view()), labels };
        PoisonedSet {
            classes: &self.classes,
            train: labelled(0, &[0, 1, 1]),
            validation: None,
            test: Some(labelled(2, &[1])),
            poisons: labelled(1, &[1, 0]),
            base_index: Some(&[2, 0]),
            replaces,
        }
    }
}

fn contents(set: &PoisonedSet, format: SetFormat) -> Vec<(String, Vec<u8>)> {
    let files = set.files(format).unwrap();
    let names = files.names().iter().cloned().enumerate();
    names.map(|(number, name)| (name, files.content(number).unwrap())).collect()
}

/// An array of an `.npz` file: its shape and its values; `None` if it is not there.
fn array<T: Deserialize>(file: &[u8], name: &str) -> Option<(Vec<u64>, Vec<T>)> {
    let mut archive = ZipArchive::new(Cursor::new(file)).unwrap();
    let entry = archive.by_name(&format!("{name}.npy")).ok()?;
    let array = NpyFile::new(entry).unwrap();
    Some((array.shape().to_vec(), array.into_vec().unwrap()))
}

fn text(contents: &[(String, Vec<u8>)], name: &str) -> String {
    let (_, bytes) = contents.iter().find(|(found, _)| found == name).unwrap();
    String::from_utf8(bytes.clone()).unwrap()
}

#[test]
fn a_folder_has_an_image_per_sample_and_the_manifest_names_the_poisons() {
    let small = Small::new();
    let made = contents(&small.set(false), SetFormat::Folder);
    let manifest = text(&made, MANIFEST);
    assert_eq!(
        manifest,
        "split,row,file,label,class,poison,source\n\
         train,0,train/cat/000000.png,0,cat,0,\n\
         train,1,train/dog/000001.png,1,dog,0,\n\
         train,2,train/dog/000002.png,1,dog,0,\n\
         train,3,train/dog/000003.png,1,dog,1,2\n\
         train,4,train/cat/000004.png,0,cat,1,0\n\
         test,0,test/dog/000000.png,1,dog,0,\n"
    );
    assert_eq!(made.len(), 7);
    let first_pixels = [0, 1, 2, 100, 101, 200];
    for ((name, bytes), first) in made.iter().zip(first_pixels) {
        let image = image::load_from_memory_with_format(bytes, ImageFormat::Png).unwrap().to_rgb8();
        assert_eq!((image.dimensions(), image[(0, 0)].0), ((3, 2), [first, 7, 7]), "{name}");
    }
    assert_eq!(made, contents(&small.set(false), SetFormat::Folder));
}

#[test]
fn poisons_that_replace_samples_take_their_places() {
    let made = contents(&Small::new().set(true), SetFormat::Npz);
    let rows: Vec<String> = text(&made, MANIFEST).lines().map(str::to_owned).collect();
    assert_eq!(
        rows[1..4],
        ["train,0,data.npz,0,cat,1,0", "train,1,data.npz,1,dog,0,", "train,2,data.npz,1,dog,1,2"].map(str::to_owned)
    );
    let file = &made[0].1;
    let (shape, pixels) = array::<u8>(file, "train_images").unwrap();
    assert_eq!(shape, [3, 2, 3, 3]);
    assert_eq!([pixels[0], pixels[18], pixels[36]], [101, 1, 100], "the base images are gone");
    assert_eq!(array::<i64>(file, "train_labels").unwrap().1, [0, 1, 1]);
    assert_eq!(array::<bool>(file, "train_poison").unwrap().1, [true, false, true]);
    assert_eq!(array::<i64>(file, "train_source").unwrap().1, [0, -1, 2]);
    assert!(array::<u8>(file, "val_images").is_none());
    assert_eq!(text(&made, "classes.txt"), "cat\ndog\n");
}

#[test]
fn a_parquet_file_has_a_row_per_sample() {
    let made = contents(&Small::new().set(false), SetFormat::Parquet);
    let names: Vec<&str> = made.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["train-00000-of-00001.parquet", "test-00000-of-00001.parquet", MANIFEST]);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&made[0].1).unwrap();
    let reader = SerializedFileReader::new(file).unwrap();
    let described = reader.metadata().file_metadata().key_value_metadata().unwrap();
    assert!(described[0].value.as_ref().unwrap().contains("[\"cat\",\"dog\"]"));
    let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 5);
    let expected = [(0, 0, None), (1, 1, None), (2, 1, None), (100, 1, Some(2))];
    for (row, (first, label, source)) in rows.iter().zip(expected) {
        let bytes = row.get_group(0).unwrap().get_bytes(0).unwrap().data().to_vec();
        let image = image::load_from_memory_with_format(&bytes, ImageFormat::Png).unwrap().to_rgb8();
        assert_eq!((image[(0, 0)].0[0], row.get_long(1).unwrap()), (first, label));
        assert_eq!((row.get_bool(2).unwrap(), row.get_long(3).ok()), (source.is_some(), source));
    }
}

#[test]
fn features_are_arrays() {
    let (clean, poisons) = (Array2::from_elem((2, 3), 0.5f32), Array2::from_elem((1, 3), -1.0f32));
    let classes = ["a/b", "a:b"].map(str::to_owned);
    let set = PoisonedSet {
        classes: &classes,
        train: LabelledSamples { samples: SetSamples::Features(clean.view()), labels: &[0, 1] },
        validation: Some(LabelledSamples { samples: SetSamples::Features(clean.view()), labels: &[1, 1] }),
        test: None,
        poisons: LabelledSamples { samples: SetSamples::Features(poisons.view()), labels: &[0] },
        base_index: None,
        replaces: false,
    };
    let made = contents(&set, SetFormat::Npz);
    let train = array::<f32>(&made[0].1, "train").unwrap();
    assert_eq!(train, (vec![3, 3], vec![0.5, 0.5, 0.5, 0.5, 0.5, 0.5, -1.0, -1.0, -1.0]));
    assert_eq!(array::<i64>(&made[0].1, "validation_labels").unwrap().1, [1, 1]);
    let refused = set.files(SetFormat::Folder).err().unwrap().to_string();
    assert_eq!(refused, "features cannot be written as folder, which is for images; expected npz");
}

#[test]
fn what_does_not_fit_is_refused() {
    let small = Small::new();
    let refused = |set: PoisonedSet| set.files(SetFormat::Npz).err().unwrap().to_string();
    let far = PoisonedSet { base_index: Some(&[0, 3]), ..small.set(false) };
    assert_eq!(refused(far), "a poison is made of training sample 3, and there are 3");
    let few = PoisonedSet { base_index: Some(&[0]), ..small.set(false) };
    assert_eq!(refused(few), "there are 2 poisons and 1 sources");
    let unknown = PoisonedSet { base_index: None, ..small.set(true) };
    assert_eq!(refused(unknown), "poisons replace samples, and do not say which");
    let label = PoisonedSet { classes: &small.classes[..1], ..small.set(false) };
    assert_eq!(refused(label), "a label is 1, and there are 1 classes");
    let wide = Array4::zeros((2, 3, 2, 4));
    let poisons = LabelledSamples { samples: SetSamples::Images(wide.view()), labels: &[0, 1] };
    let wide = refused(PoisonedSet { poisons, ..small.set(false) });
    assert_eq!(wide, "the poisons have the shape [3, 2, 4] for each sample, and the clean samples [3, 2, 3]");
    let zip = "zip".parse::<SetFormat>().unwrap_err().to_string();
    assert_eq!(zip, "there is no format `zip`; expected folder, npz or parquet");
}

/// Folders of classes have the classes' names where these can be names of folders.
#[test]
fn names_of_folders_are_safe() {
    let mut small = Small::new();
    small.classes = vec!["../up".to_owned(), "Über uns".to_owned()];
    let made = contents(&small.set(false), SetFormat::Folder);
    assert_eq!(made[0].0, "train/0000-.._up/000000.png");
    assert_eq!(made[1].0, "train/0001-Über uns/000001.png");
    small.classes = vec!["Cat".to_owned(), "cat".to_owned()];
    assert_eq!(contents(&small.set(false), SetFormat::Folder)[0].0, "train/0000-Cat/000000.png", "on any file system");
}
