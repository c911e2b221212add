//! Image folders, from their files to the output of `status`.

use crate::project::{Project, TINY};
use serde_json::Value;
use std::fmt::Write as _;
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
    write(&project, "train/b/notes", b"no image");
    project.fails(
        "dataset own",
        3,
        &["2 of the image files can't be read", "train/a/cut.ppm: ", "train/b/notes: it is no image"],
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

/// Groups of a table, and classes of unequal size, have accuracies of their own in the results.
#[test]
fn groups_and_classes_reach_the_results() {
    let project = Project::new();
    project.images(["train", "test"], &[(60, 16), (30, 8)], 16);
    let mut table = "path,label,split,place\n".to_owned();
    for (split, counts) in [("train", [60, 30]), ("test", [16, 8])] {
        for (class, count) in counts.into_iter().enumerate() {
            for i in 0..count {
                writeln!(table, "{split}/class {class}/{i}.ppm,{class},{split},{}", i % 2).unwrap();
            }
        }
    }
    fs::write(project.path().join("table.csv"), table).unwrap();
    let source = "{ kind = \"table\", path = \"table.csv\", group = \"label+place\" }\nsize = 16";
    let counts = "balance = \"proportional\"\ntrain = 60\nvalidation = 9\ntest = 24\n";
    let spec = TINY.replace(SYNTHETIC, source).replace("train = 96\nvalidation = 16\ntest = 48\n", counts);
    project.spec("groups", &spec);
    project.ok("run groups");
    let results = project.ok("results groups --json").out;
    let row: Value = serde_json::from_str(results.lines().next().unwrap()).unwrap();
    let number = |field: &str, set: &str| row[field][set].as_f64().unwrap();
    for set in ["clean", "images"] {
        let classes: Vec<f64> = row["per_class"][set].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        assert!((number("mean_per_class", set) - (classes[0] + classes[1]) / 2.0).abs() < 1e-12, "{row}");
        // As many as there are of each class in the test pool.
        let overall = (16.0 * classes[0] + 8.0 * classes[1]) / 24.0;
        assert!((number("accuracy", set) - overall).abs() < 1e-12, "{row}");
        // Groups divide classes, so that the worst of them is no better than the worst class.
        assert!(number("worst_group", set) <= classes[0].min(classes[1]), "{row}");
    }
}
