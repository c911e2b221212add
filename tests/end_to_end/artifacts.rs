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
    // What a spec reached that is gone, or was moved, stays until its pipeline is named.
    let spec = house.path().join("pipelines/tiny.toml");
    fs::rename(&spec, house.path().join("moved.toml")).unwrap();
    let kept = house.ok("gc --delete");
    assert!(
        kept.err.contains("what 'tiny' reached stays") && kept.err.contains("\n0 artifacts deleted"),
        "{}",
        kept.err
    );
    fs::rename(house.path().join("moved.toml"), &spec).unwrap();
    assert!(House::stages_that_ran(&house.ok("run tiny")).is_empty());
    fs::remove_file(&spec).unwrap();
    assert!(house.ok("gc tiny").out.lines().count() == 7);
    house.ok("gc tiny --delete");
    for stage in ["dataset", "features", "evaluate"] {
        assert_eq!(fs::read_dir(house.path().join("artifacts").join(stage)).unwrap().count(), 0);
    }
    assert_eq!(fs::read_dir(house.path().join("artifacts/.pipelines")).unwrap().count(), 0);
    house.fails("gc tiny", 2, &["neither a spec nor artifacts"]);
}

/// Every artifact below a root.
fn count(house: &House, root: &str) -> usize {
    let stages = fs::read_dir(house.path().join(root)).unwrap().map(|e| e.unwrap());
    let stages = stages.filter(|e| !e.file_name().to_string_lossy().starts_with('.'));
    stages.map(|e| fs::read_dir(e.path()).unwrap().count()).sum()
}

/// A record is all that says what a spec outside the pipelines folder reaches.
#[test]
fn nothing_is_deleted_that_a_damaged_or_lost_record_may_have_named() {
    let house = House::new();
    fs::rename(house.path().join("pipelines/tiny.toml"), house.path().join("tiny.toml")).unwrap();
    house.ok("run tiny.toml");
    let record = || fs::read_dir(house.path().join("artifacts/.pipelines")).unwrap().next().unwrap().unwrap().path();
    let (path, good) = (record(), fs::read(record()).unwrap());
    let moved = String::from_utf8(good.clone()).unwrap().replace("tiny.toml", "tinx.toml");
    for bad in [moved.as_bytes(), b"", &good[..good.len() / 2], b"\xff\xfe"] {
        fs::write(&path, bad).unwrap();
        house.fails("gc --delete", 4, &["the record", "is damaged", "run its pipeline again"]);
        house.fails("gc", 4, &["the record"]);
        assert_eq!(count(&house, "artifacts"), 7);
    }
    // A run writes it anew.
    house.ok("run tiny.toml");
    assert_eq!(fs::read(&path).unwrap(), good);
    fs::remove_file(&path).unwrap();
    let kept = house.ok("gc --delete");
    assert!(kept.err.contains("what 'tiny' made stays, though there is neither a spec nor a record"), "{}", kept.err);
    assert_eq!(count(&house, "artifacts"), 7);

    // A spec that is there, and says nothing any more.
    let spec = |text: &str| house.spec("tiny", text);
    spec("seeds = [");
    house.fails("gc --delete", 2, &["nothing is deleted", "pipelines/tiny.toml reaches"]);
    house.fails("gc tiny --delete", 2, &["nothing is deleted"]);
    spec(TINY);
    house.ok("run tiny");
    spec("seeds = [");
    let kept = house.ok("gc --delete");
    assert!(kept.err.contains("what 'tiny' made stays") && kept.err.contains("cannot be planned now"), "{}", kept.err);
    // One that never ran here is no obstacle, and nothing to talk about.
    spec(TINY);
    house.spec("other", "seeds = [");
    assert!(!house.ok("gc --delete").err.contains("other"));
    assert_eq!(count(&house, "artifacts"), 7);
}

/// The record is read again when gc deletes, not when it began: a run in between has found its artifacts for good.
#[test]
fn a_run_beside_gc_keeps_what_it_found() {
    let house = House::new();
    house.ok("run tiny");
    // Its own artifacts are garbage but for its run: another spec of that name has the record, and is what is planned.
    for _ in 0..4 {
        let set = "--set poison-features.poison_fraction=0.1";
        house.ok(&format!("run tiny {set}"));
        house.ok("run tiny");
        let (gc, run) = (house.spawn("gc --delete"), house.spawn(&format!("run tiny {set}")));
        let ran = run.wait_with_output().unwrap();
        assert!(gc.wait_with_output().unwrap().status.success());
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        house.ok(&format!("results tiny {set}"));
    }
}

#[cfg(unix)]
#[test]
fn a_killed_forced_run_leaves_nothing_that_the_next_run_does_not_remove() {
    let house = House::new();
    house.ok("run tiny");
    let scratch = house.path().join("artifacts/.partial");
    let left = || fs::read_dir(&scratch).unwrap().count();
    for _ in 0..20 {
        let mut child = house.spawn("invert tiny --force");
        while left() == 0 && child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        if left() > 0 {
            break;
        }
    }
    assert_eq!(left(), 1, "no kill hit");
    let preview = house.ok("gc");
    assert_eq!(left(), 1, "{}", preview.out);
    house.ok("run tiny");
    assert_eq!(left(), 0);
}

/// A spec outside the pipelines folder reaches its artifacts, whatever was run last, and whatever its name.
#[test]
fn specs_given_by_path_keep_their_artifacts() {
    let house = House::new();
    fs::remove_file(house.path().join("pipelines/tiny.toml")).unwrap();
    for (folder, spec) in
        [("one", TINY.to_owned()), ("two", TINY.replace("poison_fraction = 0.05", "poison_fraction = 0.1"))]
    {
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
