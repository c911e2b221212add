//! Image folders, from their files to the output of `status`.

use crate::project::{Project, TINY};
use std::fs;

const SYNTHETIC: &str = "{ kind = \"synthetic\", domain = \"a\", classes = 4, train_pool = 400, test_pool = 200 }";

/// A project with a pipeline `own` on a folder of the given splits, with two classes and four images per class.
fn project(splits: &[&str]) -> Project {
    let project = Project::new();
    let source = TINY.replace(SYNTHETIC, "{ kind = \"image-folder\", path = \"own\" }\nsize = 8");
    project.spec("own", &source.replace("train = 96\nvalidation = 16\ntest = 48\n", ""));
    for split in splits {
        for (class, level) in [("a", 50), ("b", 200)] {
            for i in 0..4 {
                let pixels = [b"P6 8 8 255\n".as_slice(), &[level + i; 3 * 64]].concat();
                write(&project, &format!("{split}/{class}/{i}.ppm"), &pixels);
            }
        }
    }
    project
}

fn write(project: &Project, name: &str, bytes: &[u8]) {
    let path = project.path().join("own").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn what_an_image_folder_leaves_out_is_told() {
    let project = project(&["train", "test", "val"]);
    write(&project, "train/notes.txt", b"seen");
    write(&project, "unlabelled/1.ppm", b"seen");
    let ran = project.ok("dataset own");
    let words = "2 files or folders are no part of the dataset: `train/notes.txt`, `unlabelled/`";
    assert!(ran.err.contains(words), "{}", ran.err);
    let status = project.ok("status own").out;
    assert!(status.contains("skipped 2") && status.contains("validation 8"), "{status}");
}

#[test]
fn what_decides_how_images_look_is_in_the_key() {
    let project = project(&["train", "test", "val"]);
    let key = |set: &str| project.tasks(&format!("own {set}"))[0]["key"].clone();
    let absent = key("");
    let set = |field: &str| key(&format!("--set dataset.downstream.{field}"));
    for usual in ["interpolation='bilinear'", "resize='shorter'", "crop=1"] {
        assert_eq!(set(usual), absent, "{usual}");
    }
    for other in ["interpolation='lanczos'", "resize='square'", "crop=0.875", "size=9"] {
        assert_ne!(set(other), absent, "{other}");
    }
    // The validation split has all of val/, none of it, or some of it.
    assert_ne!(key("--set dataset.downstream.validation=0"), absent);
    // For a source without val/, an absent field means the same as 0.
    let tiny = |field: &str| {
        project.spec("plain", &TINY.replace("validation = 16\n", field));
        project.tasks("plain")[0]["key"].clone()
    };
    assert_eq!(tiny(""), tiny("validation = 0\n"));
    assert_ne!(tiny(""), tiny("validation = 16\n"));
}

#[test]
fn broken_images_are_raw_data_that_is_damaged() {
    let project = project(&["train", "test"]);
    write(&project, "train/a/cut.ppm", b"P6 8 8 255\nxyz");
    write(&project, "train/b/notes.txt", b"no image");
    project.fails(
        "dataset own",
        3,
        &["2 of the image files can't be read", "train/a/cut.ppm: ", "train/b/notes.txt: it is no image"],
    );
    let filter = "dataset.downstream.interpolation='box'";
    project.fails(&format!("plan own --set {filter}"), 2, &["interpolation", "box", "bilinear", "lanczos"]);
}

#[test]
fn a_choice_of_all_images_is_said_to_be_the_same_for_all_seeds() {
    let project = project(&["train", "test"]);
    let is_told = |more: &str| {
        let ran = project.ok(&format!("dataset own --set dataset.downstream.seed=run {more}"));
        ran.err.contains("every seed has the same images")
    };
    assert!(is_told(""));
    assert!(!is_told("--set dataset.downstream.train=4"));
}
