//! Damaged, unreachable and exported artifacts.

use crate::project::{Project, TINY, flip};
use std::fs;

#[test]
fn a_damaged_artifact_is_refused_and_rebuilt_when_asked() {
    let project = Project::new();
    project.ok("run tiny");
    let file = project.artifact("artifacts", "features").join("train.features");
    flip(&file);
    // The file keeps its length, so the damage is only found when the file is read.
    project.fails("target-params tiny --force", 4, &["train.features", "--repair"]);
    // Several tasks that cannot read the artifact report it once.
    let ran = project.run("run tiny --set target-params.radius=[0.1,0.2,0.3]");
    assert_eq!((ran.code, ran.err.matches("--repair").count()), (4, 1), "{}", ran.err);
    assert!(ran.err.contains("error: target-params radius=0.1 ") && ran.err.contains(" and 2 more: "), "{}", ran.err);
    let repaired = project.ok("run tiny --repair");
    assert_eq!(Project::stages_that_ran(&repaired), ["features"]);
    project.ok("target-params tiny --force");

    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    project.fails("run tiny", 4, &["train.features", "--repair"]);
    flip(&project.artifact("artifacts", "pretrain").join("manifest.json"));
    project.fails("run tiny", 4, &["manifest.json", "--repair"]);
    assert_eq!(Project::stages_that_ran(&project.ok("run tiny --repair")), ["pretrain", "features"]);
}

#[test]
fn a_newer_format_is_refused() {
    let project = Project::new();
    project.ok("features tiny");
    let manifest = project.artifact("artifacts", "features").join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"format\": \"1.0\"", "\"format\": \"2.0\"")).unwrap();
    project.fails("features tiny", 4, &["2.0", "newer"]);
}

#[test]
fn garbage_is_shown_then_deleted_and_what_pipelines_reach_stays() {
    let project = Project::new();
    project.ok("run tiny");
    assert_eq!(project.ok("gc").out, "");
    project.ok("run tiny --set evaluate.controls=[\"duplicates\"]");
    // The spec reaches the first evaluation, and the last run the second one.
    assert_eq!(project.ok("gc").out, "");
    project.ok("run tiny");
    let preview = project.ok("gc");
    assert_eq!(preview.out.lines().count(), 1, "{}", preview.out);
    assert!(preview.out.contains("evaluate"), "{}", preview.out);
    project.ok("gc --delete");
    assert_eq!(project.ok("gc").out, "");
    assert!(Project::stages_that_ran(&project.ok("run tiny")).is_empty());

    project.fails("gc tinny", 2, &["no pipeline 'tinny'", "tiny"]);
    // If a spec is gone or was moved, its artifacts are kept until its pipeline is named.
    let spec = project.path().join("pipelines/tiny.toml");
    fs::rename(&spec, project.path().join("moved.toml")).unwrap();
    let kept = project.ok("gc --delete");
    assert!(
        kept.err.contains("what 'tiny' reached stays") && kept.err.contains("\n0 artifacts deleted"),
        "{}",
        kept.err
    );
    fs::rename(project.path().join("moved.toml"), &spec).unwrap();
    assert!(Project::stages_that_ran(&project.ok("run tiny")).is_empty());
    fs::remove_file(&spec).unwrap();
    assert!(project.ok("gc tiny").out.lines().count() == 7);
    project.ok("gc tiny --delete");
    for stage in ["dataset", "features", "evaluate"] {
        assert_eq!(fs::read_dir(project.path().join("artifacts").join(stage)).unwrap().count(), 0);
    }
    assert_eq!(fs::read_dir(project.path().join("artifacts/.pipelines")).unwrap().count(), 0);
    project.fails("gc tiny", 2, &["neither a spec nor artifacts"]);
}

/// Number of artifacts in a root.
fn count(project: &Project, root: &str) -> usize {
    let stages = fs::read_dir(project.path().join(root)).unwrap().map(|e| e.unwrap());
    let stages = stages.filter(|e| !e.file_name().to_string_lossy().starts_with('.'));
    stages.map(|e| fs::read_dir(e.path()).unwrap().count()).sum()
}

/// Only the record says what a spec outside the pipelines folder reaches.
#[test]
fn nothing_is_deleted_that_a_damaged_or_lost_record_may_have_named() {
    let project = Project::new();
    fs::rename(project.path().join("pipelines/tiny.toml"), project.path().join("tiny.toml")).unwrap();
    project.ok("run tiny.toml");
    let record = || fs::read_dir(project.path().join("artifacts/.pipelines")).unwrap().next().unwrap().unwrap().path();
    let (path, good) = (record(), fs::read(record()).unwrap());
    let moved = String::from_utf8(good.clone()).unwrap().replace("tiny.toml", "tinx.toml");
    for bad in [moved.as_bytes(), b"", &good[..good.len() / 2], b"\xff\xfe"] {
        fs::write(&path, bad).unwrap();
        project.fails("gc --delete", 4, &["the record", "is damaged", "run its pipeline again"]);
        project.fails("gc", 4, &["the record"]);
        assert_eq!(count(&project, "artifacts"), 7);
    }
    // A run writes the record again.
    project.ok("run tiny.toml");
    assert_eq!(fs::read(&path).unwrap(), good);
    fs::remove_file(&path).unwrap();
    let kept = project.ok("gc --delete");
    assert!(kept.err.contains("what 'tiny' made stays, though there is neither a spec nor a record"), "{}", kept.err);
    assert_eq!(count(&project, "artifacts"), 7);

    // The spec exists, but cannot be read any more.
    let spec = |text: &str| project.spec("tiny", text);
    spec("seeds = [");
    project.fails("gc --delete", 2, &["nothing is deleted", "pipelines/tiny.toml reaches"]);
    project.fails("gc tiny --delete", 2, &["nothing is deleted"]);
    spec(TINY);
    project.ok("run tiny");
    spec("seeds = [");
    let kept = project.ok("gc --delete");
    assert!(kept.err.contains("what 'tiny' made stays") && kept.err.contains("cannot be planned now"), "{}", kept.err);
    // A broken spec that never ran here neither stops gc nor is mentioned.
    spec(TINY);
    project.spec("other", "seeds = [");
    assert!(!project.ok("gc --delete").err.contains("other"));
    assert_eq!(count(&project, "artifacts"), 7);
}

/// gc reads the records when it deletes, not when it starts. A run that begins in between keeps the artifacts that it
/// found.
#[test]
fn a_run_beside_gc_keeps_what_it_found() {
    let project = Project::new();
    project.ok("run tiny");
    // Only the run itself keeps these artifacts: the spec as it is written does not reach them, and the record is
    // replaced by the run after it.
    for _ in 0..4 {
        let set = "--set poison-features.poison_fraction=0.1";
        project.ok(&format!("run tiny {set}"));
        project.ok("run tiny");
        let (gc, run) = (project.spawn("gc --delete"), project.spawn(&format!("run tiny {set}")));
        let ran = run.wait_with_output().unwrap();
        assert!(gc.wait_with_output().unwrap().status.success());
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        project.ok(&format!("results tiny {set}"));
    }
}

#[cfg(unix)]
#[test]
fn a_killed_forced_run_leaves_nothing_that_the_next_run_does_not_remove() {
    let project = Project::new();
    project.ok("run tiny");
    let scratch = project.path().join("artifacts/.partial");
    let left = || fs::read_dir(&scratch).unwrap().count();
    for _ in 0..20 {
        let mut child = project.spawn("invert tiny --force");
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
    let preview = project.ok("gc");
    assert_eq!(left(), 1, "{}", preview.out);
    project.ok("run tiny");
    assert_eq!(left(), 0);
}

/// A spec outside the pipelines folder keeps its artifacts, whichever pipeline ran last, and whatever its name is.
#[test]
fn specs_given_by_path_keep_their_artifacts() {
    let project = Project::new();
    fs::remove_file(project.path().join("pipelines/tiny.toml")).unwrap();
    for (folder, spec) in
        [("one", TINY.to_owned()), ("two", TINY.replace("poison_fraction = 0.05", "poison_fraction = 0.1"))]
    {
        fs::create_dir(project.path().join(folder)).unwrap();
        fs::write(project.path().join(folder).join("exp.toml"), spec).unwrap();
        project.ok(&format!("run {folder}/exp.toml"));
    }
    project.fails("run one/exp.toml --set poison-features.step=1e300", 1, &["poison-features"]);
    project.ok("gc --delete");
    for folder in ["one", "two"] {
        assert!(Project::stages_that_ran(&project.ok(&format!("run {folder}/exp.toml"))).is_empty());
    }
    assert_eq!(project.ok("gc one/exp.toml").out, "");
}

#[test]
fn questions_leave_no_folder_behind() {
    let project = Project::new();
    for command in ["plan tiny", "status tiny", "why tiny", "gc", "run nosuch", "run tiny --device cuda"] {
        project.run(&format!("{command} --root elsewhere"));
    }
    assert!(!project.path().join("elsewhere").exists());
}
