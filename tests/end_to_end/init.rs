//! Specs that are written for images and features at hand.

use crate::project::Project;
use std::{fs, io::Write as _};
use zip::{ZipWriter, write::SimpleFileOptions};

/// What makes a run of images quick.
const QUICK: &str = "--set pretrain.arch=resnet8-w4 --set pretrain.epochs=2 --set invert.steps=2 --set invert.refine=2";

/// The bytes of a `.npy` file.
fn npy(descr: &str, shape: &str, bytes: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), bytes].concat()
}

/// Features of classes that lie apart, as `numpy.savez` writes them: so many of a class to train and to test on.
fn npz(project: &Project, name: &str, classes: usize, train: usize, test: usize) {
    let path = project.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut zip = ZipWriter::new(fs::File::create(path).unwrap());
    let mut add = |name: &str, bytes: Vec<u8>| {
        zip.start_file(format!("{name}.npy"), SimpleFileOptions::default()).unwrap();
        zip.write_all(&bytes).unwrap();
    };
    let mut state = 1_u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32
    };
    for (split, count) in [("train", train), ("test", test)] {
        let labels: Vec<i64> = (0..count * classes).map(|i| (i % classes) as i64).collect();
        let apart = |label: &i64, coordinate: i64| if *label == coordinate { 1.0 } else { 0.0 };
        let features: Vec<f32> = labels.iter().flat_map(|l| [0, 1, 2, 3].map(|j| apart(l, j) + noise())).collect();
        let bytes = features.iter().flat_map(|z| z.to_le_bytes()).collect::<Vec<_>>();
        add(split, npy("<f4", &format!("({}, 4)", labels.len()), &bytes));
        let bytes = labels.iter().flat_map(|l| l.to_le_bytes()).collect::<Vec<_>>();
        add(&format!("{split}_labels"), npy("<i8", &format!("({},)", labels.len()), &bytes));
    }
    zip.finish().unwrap();
}

fn written(project: &Project, name: &str) -> String {
    fs::read_to_string(project.path().join(format!("pipelines/{name}.toml"))).unwrap()
}

#[test]
fn a_spec_for_a_folder_of_images_runs_as_it_is() {
    let project = Project::new();
    project.images(["flowers/train", "flowers/test"], &[(20, 8), (12, 8)], 32);
    fs::write(project.path().join("flowers/notes.txt"), "seen").unwrap();
    let said = project.ok("init --images flowers");
    insta::assert_snapshot!("init-images-found", said.out);
    insta::assert_snapshot!("init-images", written(&project, "flowers"));
    assert!(said.err.contains("next: `hemlock run flowers`"), "{}", said.err);
    project.ok("plan flowers");
    project.ok(&format!("run flowers {QUICK}"));
    assert_eq!(project.ok(&format!("results flowers --json {QUICK}")).out.lines().count(), 4);
}

#[test]
fn folders_of_all_kinds_get_a_spec_that_runs() {
    let kinds = [
        ("no split", ["own", ""], &[(12, 0); 3][..], 16, "36 unsplit images (12 a class)"),
        ("next to nothing", ["own/train", "own/test"], &[(2, 1); 2], 8, "4 training images (2 a class)"),
        ("large pictures", ["own/train", "own/test"], &[(9, 3), (30, 4)], 100, "39 training images (9 to 30 a class)"),
    ];
    for (kind, splits, classes, side, found) in kinds {
        let project = Project::new();
        project.images(splits, classes, side);
        let said = project.ok("init --images own/ --name try-1").out;
        assert!(said.contains(found), "{kind}: {said}");
        let ran = project.run(&format!("run try-1 {QUICK} --set poison-features.attack=bilevel"));
        assert_eq!(ran.code, 0, "{kind}: {}\n{}", ran.err, written(&project, "try-1"));
    }
}

#[test]
fn a_spec_for_a_file_of_features_runs_as_it_is() {
    let project = Project::new();
    npz(&project, "data/clip.npz", 3, 40, 10);
    let said = project.ok("init --features data/clip.npz");
    insta::assert_snapshot!("init-features-found", said.out);
    insta::assert_snapshot!("init-features", written(&project, "clip"));
    project.ok("plan clip");
    project.ok("run clip --set seeds=[0] --set poison-features.steps=5");
    let results = project.ok("results clip --set seeds=[0] --set poison-features.steps=5 --json").out;
    assert_eq!(results.lines().count(), 8);

    // Elsewhere than below data/, and of so few samples that none can be held out.
    npz(&project, "own.npz", 4, 4, 2);
    assert!(project.ok("init specs/own.toml --features own.npz").err.contains("next: `hemlock run specs/own.toml`"));
    let text = fs::read_to_string(project.path().join("specs/own.toml")).unwrap();
    assert!(!text.contains("validation"), "{text}");
    project.ok("run specs/own.toml --set seeds=[0] --set poison-features.steps=5");
}

#[test]
fn what_is_there_is_replaced_only_by_force() {
    let project = Project::new();
    project.images(["own/train", "own/test"], &[(3, 1); 2], 8);
    project.spec("own", "mine");
    project.fails("init --images own", 2, &["pipelines/own.toml is there already", "--force"]);
    project.fails("init pipelines/own.toml --images own", 2, &["is there already"]);
    assert_eq!(written(&project, "own"), "mine");
    project.ok("init --images own --force");
    project.ok("plan own");
    let names = fs::read_dir(project.path().join("pipelines")).unwrap().count();
    assert_eq!(names, 2, "nothing but specs is left");
}

#[test]
fn what_no_spec_can_be_written_for_is_named() {
    let project = Project::new();
    let write = |name: &str, bytes: &[u8]| {
        let path = project.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    project.fails("init --images nowhere", 3, &["nowhere is no image folder: there is no such folder"]);
    write("flat/1.png", b"");
    project.fails("init --images flat", 3, &["flat is no image folder", "DIR/train/CLASS/"]);
    write("bad/a/1.png", b"text");
    write("bad/b/1.png", b"text");
    project.fails("init --images bad", 3, &["bad/a/1.png", "it is no image"]);
    project.images(["one", ""], &[(5, 0)], 8);
    project.fails("init --images one", 3, &["one has 1 class; expected at least 2"]);
    project.images(["few", ""], &[(5, 0), (1, 0)], 8);
    project.fails("init --images few", 3, &["one image of the class `class 1`, and no test/"]);

    project.fails("init --features no.npz", 3, &["cannot read no.npz", "No such file"]);
    write("own.pt", b"weights");
    project.fails("init --features own.pt", 2, &["`--features`: is own.pt; expected a file that ends in .npz"]);
    write("cut.npz", b"PK");
    project.fails("init --features cut.npz", 3, &["cut.npz is damaged, or no .npz archive"]);

    project.images(["own/train", "own/test"], &[(3, 1); 2], 8);
    project.fails("init", 2, &["--images <DIR>"]);
    project.fails("init --images own --features own.pt", 2, &["cannot be used with"]);
    project.fails("init own.txt --images own", 2, &["'own.txt' is no name of a spec", ".toml"]);
    project.fails("init --images own --name a/b", 2, &["--name", "letters, digits"]);
    project.fails("init --images /", 2, &["gives the pipeline no name", "--name NAME"]);
    project.fails("init own.pt/own.toml --images own", 4, &["cannot write own.pt/own.toml"]);
    let pipelines = fs::read_dir(project.path().join("pipelines")).unwrap().count();
    assert_eq!(pipelines, 1, "nothing is written");
}
