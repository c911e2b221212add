//! Artifacts that are damaged, unreachable, exported.

use crate::house::{House, TINY, flip};
use std::fs;

#[test]
fn a_damaged_artifact_is_refused_and_rebuilt_when_asked() {
    let house = House::new();
    house.ok("run tiny");
    let file = house.artifact("artifacts", "features").join("train.features");
    flip(&file);
    // Its length is right, so it is found when it is read.
    house.fails("target-params tiny --force", 4, &["train.features", "--repair"]);
    // Several tasks that cannot read it say so once.
    let ran = house.run("run tiny --set target-params.radius=[0.1,0.2,0.3]");
    assert_eq!((ran.code, ran.err.matches("--repair").count()), (4, 1), "{}", ran.err);
    assert!(ran.err.contains("error: target-params radius=0.1 ") && ran.err.contains(" and 2 more: "), "{}", ran.err);
    let repaired = house.ok("run tiny --repair");
    assert_eq!(House::stages_that_ran(&repaired), ["features"]);
    house.ok("target-params tiny --force");

    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    house.fails("run tiny", 4, &["train.features", "--repair"]);
    flip(&house.artifact("artifacts", "pretrain").join("manifest.json"));
    house.fails("run tiny", 4, &["manifest.json", "--repair"]);
    assert_eq!(House::stages_that_ran(&house.ok("run tiny --repair")), ["pretrain", "features"]);
}

#[test]
fn a_newer_format_is_refused() {
    let house = House::new();
    house.ok("features tiny");
    let manifest = house.artifact("artifacts", "features").join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"format\": \"1.0\"", "\"format\": \"2.0\"")).unwrap();
    house.fails("features tiny", 4, &["2.0", "newer"]);
}

#[test]
fn garbage_is_shown_then_deleted_and_what_pipelines_reach_stays() {
    let house = House::new();
    house.ok("run tiny");
    assert_eq!(house.ok("gc").out, "");
    house.ok("run tiny --set evaluate.controls=[\"duplicates\"]");
    // The spec still reaches the first evaluation, and the last run the second.
    assert_eq!(house.ok("gc").out, "");
    house.ok("run tiny");
    let preview = house.ok("gc");
    assert_eq!(preview.out.lines().count(), 1, "{}", preview.out);
    assert!(preview.out.contains("evaluate"), "{}", preview.out);
    house.ok("gc --delete");
    assert_eq!(house.ok("gc").out, "");
    assert!(House::stages_that_ran(&house.ok("run tiny")).is_empty());

    house.fails("gc tinny", 2, &["no pipeline 'tinny'", "tiny"]);
    // A spec that is gone reaches nothing.
    fs::remove_file(house.path().join("pipelines/tiny.toml")).unwrap();
    house.ok("gc --delete");
    for stage in ["dataset", "features", "evaluate"] {
        assert_eq!(fs::read_dir(house.path().join("artifacts").join(stage)).unwrap().count(), 0);
    }
}

/// A spec outside the pipelines folder reaches its artifacts, whatever was run last, and whatever its name.
#[test]
fn specs_given_by_path_keep_their_artifacts() {
    let house = House::new();
    fs::remove_file(house.path().join("pipelines/tiny.toml")).unwrap();
    for (folder, spec) in [("one", TINY.to_owned()), ("two", TINY.replace("eps_d = 0.05", "eps_d = 0.1"))] {
        fs::create_dir(house.path().join(folder)).unwrap();
        fs::write(house.path().join(folder).join("exp.toml"), spec).unwrap();
        house.ok(&format!("run {folder}/exp.toml"));
    }
    house.fails("run one/exp.toml --set poison-features.step=1e300", 1, &["poison-features"]);
    house.ok("gc --delete");
    for folder in ["one", "two"] {
        assert!(House::stages_that_ran(&house.ok(&format!("run {folder}/exp.toml"))).is_empty());
    }
    assert_eq!(house.ok("gc one/exp.toml").out, "");
}

#[test]
fn questions_leave_no_folder_behind() {
    let house = House::new();
    for command in ["plan tiny", "status tiny", "why tiny", "gc", "run nosuch", "run tiny --device cuda"] {
        house.run(&format!("{command} --root elsewhere"));
    }
    assert!(!house.path().join("elsewhere").exists());
}

#[test]
fn pictures_and_tensors_are_exported() {
    let house = House::new();
    house.ok("run tiny");
    house.ok("export tiny invert --select seed=0,eps_d=0.05 -o out --format png");
    assert_eq!(fs::read_dir(house.path().join("out/poisons")).unwrap().count(), 5);
    house.ok("export tiny pretrain -o out");
    // One artifact in two roles is written once, and so without a folder of its own.
    house.ok("export tiny dataset -o images");
    assert!(house.path().join("images/train-images.safetensors").is_file());
    assert!(house.path().join("out/extractor.safetensors").is_file());
    house.fails("export tiny invert --select seed=7 -o out", 2, &["matches the selection"]);
    house.fails("export tiny invert --select sede=0 -o out", 2, &["sede", "did you mean `seed`?"]);
    house.fails("export tiny invertt -o out", 2, &["invertt", "expected one of"]);
    house.fails("export tiny evaluate -o out --format png", 2, &["no pictures"]);
    house.fails("export tiny features -o out --root empty", 4, &["not there yet"]);
}
