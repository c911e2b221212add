//! Running, running again, and resuming.

use crate::project::{Project, TINY};
use std::{
    thread,
    time::{Duration, Instant},
};

const ALL: [&str; 7] =
    ["dataset.downstream", "pretrain", "features", "target-params", "poison-features", "invert", "evaluate"];

#[test]
fn a_pipeline_runs_once_and_a_change_runs_what_it_touches() {
    let project = Project::new();
    let first = project.ok("run tiny");
    assert_eq!(Project::stages_that_ran(&first), ALL);
    // The plan is printed once before all tasks, and a summary once after them.
    let said: Vec<&str> = first.err.lines().filter(|line| !line.starts_with(' ')).collect();
    assert_eq!((said.len(), said[0]), (2, "tiny: 7 tasks, 0 cached, 7 to run"), "{}", first.err);
    assert!(said[1].starts_with("tiny: 7 tasks ran, 0 cached, ") && said[1].ends_with(" s"), "{}", first.err);
    assert!(first.err.contains(" (7 of 7)\n"), "{}", first.err);
    let again = project.ok("run tiny");
    assert_eq!(Project::stages_that_ran(&again), Vec::<String>::new());
    // Tasks with nothing to do are printed as a number, and as a list only with `-v`.
    assert_eq!(again.err, "tiny: 0 tasks ran, 7 cached\n");
    assert_eq!(project.ok("run tiny -v").err.matches("    cached  ").count(), 7);
    // With `--on-the-way`, nothing is printed if the stage has nothing to do, or if there is no such stage.
    for stage in ["features", "victim"] {
        assert_eq!(project.ok(&format!("{stage} tiny --on-the-way")).err, "");
    }
    assert_eq!(project.ok("victim tiny").err, "tiny: there is no [victim] in this spec, and nothing to do\n");

    assert_eq!(Project::stages_that_ran(&project.ok("run tiny --set poison-features.poison_fraction=0.1")), ALL[4..]);
    assert_eq!(Project::stages_that_ran(&project.ok("run tiny --set evaluate.controls=[\"duplicates\"]")), ALL[6..]);
    // With `--on-the-way`, tasks are printed, but plan and summary are left to the run that was asked for.
    let said = project.ok("invert tiny --on-the-way --set poison-features.poison_fraction=0.2").err;
    assert!(said.lines().count() == 4 && said.lines().all(|line| line.starts_with(' ')), "{said}");
    // A single stage is forced. Nothing else runs and, as its content is the same, no other artifact is out of date.
    assert_eq!(Project::stages_that_ran(&project.ok("invert tiny --force")), ["invert"]);
    assert_eq!(Project::stages_that_ran(&project.ok("run tiny")), Vec::<String>::new());
    // A stage also runs the stages that it needs.
    assert_eq!(Project::stages_that_ran(&project.ok("features tiny --root other")), ALL[..3]);
}

#[test]
fn the_same_spec_gives_the_same_bytes_whatever_the_number_of_threads() {
    let project = Project::new();
    project.ok("run tiny --root a");
    project.command("run tiny --root b").env("RAYON_NUM_THREADS", "1").assert().success();
    let diff = project.ok("diff a b");
    assert_eq!(diff.out.matches("identical").count(), ALL.len(), "{}", diff.out);
    assert!(diff.out.contains("7 artifacts in both roots, 0 in one alone"), "{}", diff.out);
    assert!(diff.out.contains("verdict: the same bytes"), "{}", diff.out);
    project.ok("dataset tiny --root c --set dataset.downstream.train=100");
    project.fails("diff a c", 4, &["none of their 8 artifacts in common"]);
}

#[test]
fn killed_at_any_moment_a_rerun_completes_with_the_same_bytes() {
    let project = Project::new();
    project.spec("tiny", &TINY.replace("epochs = 1", "epochs = 3"));
    let started = Instant::now();
    project.ok("run tiny --root whole");
    let whole = started.elapsed();
    for tenths in [1, 3, 5, 7, 9] {
        let root = format!("killed-{tenths}");
        let mut child = project.spawn(&format!("run tiny --root {root}"));
        thread::sleep(whole * tenths / 10);
        child.kill().unwrap();
        child.wait().unwrap();
        project.ok(&format!("status tiny --root {root}"));
        project.ok(&format!("run tiny --root {root}"));
        let diff = project.ok(&format!("diff whole {root}"));
        assert_eq!(diff.out.matches("identical").count(), ALL.len(), "{}", diff.out);
    }
}

#[cfg(unix)]
#[test]
fn an_interrupt_stops_cleanly_and_the_next_run_resumes() {
    let project = Project::new();
    project.spec("tiny", &TINY.replace("epochs = 1", "epochs = 20"));
    let child = project.spawn("pretrain tiny");
    // This is well after the first epoch's checkpoint, and well before the last one.
    let checkpoint = || walk(&project.path().join("artifacts/.partial")).iter().any(|p| p.contains("checkpoint"));
    while !checkpoint() {
        thread::sleep(Duration::from_millis(20));
    }
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(checkpoint());
    project.ok("pretrain tiny");
    project.ok("pretrain tiny --root whole");
    assert_eq!(project.ok("diff artifacts whole").out.matches("identical").count(), 2);
}

/// An interrupt ends a run that cannot stop by itself, here because it waits for a lock.
#[cfg(unix)]
#[test]
fn an_interrupt_stops_within_seconds_whatever_the_run_is_at() {
    let project = Project::new();
    project.ok("run tiny");
    let locks = std::fs::read_dir(project.path().join("artifacts/.locks")).unwrap();
    let lock = locks.map(|e| e.unwrap().path()).find(|path| path.to_string_lossy().contains("evaluate-")).unwrap();
    std::fs::remove_dir_all(project.path().join("artifacts/evaluate")).unwrap();
    let held = std::fs::File::open(lock).unwrap();
    held.lock().unwrap();
    let mut child = project.spawn("run tiny");
    thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none(), "it waits");
    let asked = Instant::now();
    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    drop(held);
    project.ok("run tiny");
}

/// There is a checkpoint after every step, and a kill after the first one leaves no time to stop cleanly.
#[cfg(unix)]
#[test]
fn a_killed_training_goes_on_within_an_epoch_whatever_the_method() {
    for method in ["simclr", "moco-v3", "supervised"] {
        let project = Project::new();
        let fine = "epochs = 3\ncheckpoint_minutes = 1e-9\nknn_every = 1";
        let spec = TINY.replace("epochs = 1", fine).replace("batch = 48", "batch = 16");
        project.spec("tiny", &spec.replace("\"simclr\"", &format!("\"{method}\"")));
        project.ok("pretrain tiny --root whole");
        let checkpoint = || walk(&project.path().join("killed/.partial")).iter().any(|p| p.contains("checkpoint"));
        for more in [0, 100] {
            let mut child = project.spawn("pretrain tiny --root killed");
            while !checkpoint() {
                thread::sleep(Duration::from_millis(5));
            }
            thread::sleep(Duration::from_millis(more));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(!project.ok("pretrain tiny --root killed").err.contains("starts over"));
        let diff = project.ok("diff whole killed");
        assert_eq!(diff.out.matches("identical").count(), 2, "{method}: {}", diff.out);
    }
}

#[cfg(unix)]
fn walk(dir: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(walk(&entry.path()));
        } else {
            found.push(entry.path().display().to_string());
        }
    }
    found
}

#[test]
fn two_runs_at_once_share_the_work() {
    let project = Project::new();
    let children = [project.spawn("run tiny"), project.spawn("run tiny")];
    let mut ran = 0;
    for child in children {
        let output = child.wait_with_output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{err}");
        ran += err.lines().filter(|l| l.trim_start().starts_with("done")).count();
    }
    assert_eq!(ran, ALL.len());
}

#[test]
fn tasks_side_by_side_give_the_same_bytes() {
    let project = Project::new();
    let sweep = "--set seeds=[0,1] --set poison-features.poison_fraction=[0.05,0.1]";
    project.ok(&format!("run tiny --root one {sweep}"));
    let three = project.ok(&format!("run tiny --root three -j 3 {sweep}"));
    let ran = Project::stages_that_ran(&three);
    assert_eq!((ran.len(), &ran[..4]), (16, &ALL.map(str::to_owned)[..4]));
    let diff = project.ok("diff one three");
    assert_eq!(diff.out.matches("identical").count(), 16, "{}", diff.out);
    assert_eq!(
        Project::stages_that_ran(&project.ok(&format!("run tiny --root three -j 3 {sweep}"))),
        Vec::<String>::new()
    );
    assert!(
        project.ok("invert tiny --root three -j 2 --force").err.contains("tiny up to invert: 1 task ran, 5 cached")
    );
}

/// If a task fails, only the tasks that read its artifact are skipped.
#[test]
fn a_failure_leaves_the_tasks_beside_it_alone() {
    let project = Project::new();
    let dull = "[[victim]]\nkind = \"linear\"\n[[victim]]\nkind = \"mlp\"\nlearning_rate = 1e30\nepochs = 3\n";
    project.spec("half", &TINY.replace("[evaluate]", &format!("{dull}[evaluate]")));
    for jobs in 1..=3 {
        let words = ["loss is", "lower `learning_rate`", "a task that it reads from failed"];
        project.fails(&format!("run half -j {jobs} --root r{jobs}"), 1, &words);
        assert!(project.ok(&format!("results half --root r{jobs}")).err.contains("1 of 2 branches has no result"));
    }
}

#[test]
fn every_task_of_the_frozen_plan_is_a_process_of_its_own() {
    let project = Project::new();
    for task in project.tasks("tiny") {
        let argv: Vec<&str> = task["argv"].as_array().unwrap().iter().map(|a| a.as_str().unwrap()).collect();
        assert_eq!(argv[0], "hemlock");
        let ran = project.ok(&argv[1..].join(" "));
        assert_eq!(Project::stages_that_ran(&ran), [task["node"].as_str().unwrap()]);
        assert!(project.path().join(task["outputs"][0].as_str().unwrap()).is_dir());
    }
    assert!(project.tasks("tiny").iter().all(|t| t["state"] == "cached"));
    // A task on its own is refused if its inputs do not exist, or if the spec has changed.
    let last = project.tasks("tiny")[6]["key"].as_str().unwrap().to_owned();
    project.fails(&format!("run tiny --root empty --task {last}"), 4, &["is not there", "run the stage"]);
    project.fails(&format!("run tiny --set pretrain.epochs=2 --task {last}"), 2, &["has no task"]);
}
