//! Bad input gives one clear message and the right exit code, and nothing is lost.

use crate::project::{Project, TINY};
use std::fs;

#[test]
fn specs_are_checked_before_anything_runs() {
    let project = Project::new();
    let bad = |from: &str, to: &str, words: &[&str]| {
        assert!(TINY.contains(from));
        project.spec("bad", &TINY.replace(from, to));
        project.fails("plan bad", 2, words);
    };
    bad("epochs = 1", "epoch = 1", &["pipelines/bad.toml:13", "epoch", "did you mean `epochs`?"]);
    bad("[target-params]", "[target-parms]", &["bad.toml:19", "target-parms", "did you mean `target-params`?"]);
    bad("[dataset.downstream]", "[dataset.downstraem]", &["bad.toml:4", "did you mean `dataset.downstream`?"]);
    bad("\"synthetic\"", "\"synthetik\"", &["bad.toml:5", "synthetik", "did you mean `synthetic`?"]);
    bad("\"simclr\"", "\"simclrr\"", &["bad.toml:11", "did you mean `simclr`?"]);
    bad("\"resnet8-w4\"", "\"resnet9\"", &["bad.toml:12", "resnet9", "6 n + 2 from 8 to 1202"]);
    bad("seeds = [0]", "seeds = []", &["bad.toml:2", "seeds"]);
    bad("seeds = [0]", "seeds = [-1]", &["bad.toml:2", "-1"]);
    bad("radius = 0.5", "radius = \"big\"", &["bad.toml:20", "radius", "big"]);
    bad("radius = 0.5", "radius = -0.5", &["bad.toml:20", "radius", "-0.5", "above 0"]);
    bad("radius = 0.5", "radius = nan", &["bad.toml:20", "radius"]);
    bad("radius = 0.5", "radius =", &["bad.toml:20"]);
    bad("[features]", "", &["[features]", "no [features]"]);
    for poison_fraction in ["0", "-0.1", "1.5", "nan"] {
        bad(
            "poison_fraction = 0.05",
            &format!("poison_fraction = {poison_fraction}"),
            &["bad.toml:25", "poison_fraction"],
        );
    }
}

#[test]
fn overrides_are_checked_before_anything_runs() {
    let project = Project::new();
    project.fails("plan tiny --set pretrain.epohcs=3", 2, &["epohcs", "did you mean `epochs`?"]);
    project.fails("plan tiny --set pretrain.epochs=-1", 2, &["--set pretrain.epochs=-1", "epochs"]);
    // The field is also named if its table has a tag.
    project.fails(
        "plan tiny --set invert.steps=x",
        2,
        &["--set invert.steps=x", "[invert] `steps`", "expected a whole number from 0"],
    );
    project.fails(
        "plan tiny --set profiles.paper.invert.steps=1",
        2,
        &["--set profiles.paper.invert.steps=1", "--set invert.steps=1"],
    );
    for (field, words) in [
        ("linf=0/255", "at least 1 grey level"),
        ("linf=300/255", "`linf`"),
        ("tolerance=1", "below 1"),
        ("beta=-1", "a number from 0"),
        ("start=middle", "expected one of"),
        ("refine_from=base", "expected `refine` above 0"),
    ] {
        project.fails(&format!("plan tiny --set invert.{field}"), 2, &["[invert]", words]);
    }
    let classes = |names: &str| format!("run tiny --set dataset.downstream.classes={names}");
    project.fails(&classes("['plain-disc']"), 2, &["`classes`", "at least two names"]);
    project.fails(&classes("['nothing','nobody']"), 2, &["`classes`", "the class `nothing`", "expected some of `"]);
    let source = "dataset.downstream.source={kind='image-folder',pth='x'}";
    project.fails(&format!("plan tiny --set {source}"), 2, &["--set", "`source`", "did you mean `path`?"]);
    project.fails("plan tiny --set pretrain", 2, &["expected `stage.field=value`"]);
    project.fails("run tiny --set invert.restarts=1000", 2, &["`restarts`", "fewer than the 96 training images"]);
    project.fails("plan nowhere", 2, &["no pipeline 'nowhere'", "expected one of", "tiny"]);
    project.fails("why tiny --stage nowhere", 2, &["nowhere", "target-params"]);
    project.fails("frobnicate tiny", 2, &["frobnicate"]);
}

#[test]
fn the_decoders_training_has_a_table_of_its_own() {
    let project = Project::new();
    let decoder = ["--set invert.method=decoder", "--set invert.start=decoder"];
    project.fails(&format!("plan tiny {}", decoder[0]), 2, &["steps"]);
    project.fails(&format!("plan tiny {}", decoder[1]), 2, &["[invert] reads what [decoder] makes", "no [decoder]"]);
    project.spec("old", &TINY.replace("\"feature-matching\"\nsteps = 3", "\"decoder\"\nepochs = 2"));
    project.fails("plan old", 2, &["old.toml:29", "unknown field `epochs`"]);
}

#[test]
fn a_budget_that_gives_no_poison_names_what_would() {
    let project = Project::new();
    project.fails(
        "run tiny --set poison-features.poison_fraction=0.001",
        2,
        &["poison_fraction", "no poison", "expected at least"],
    );
    // The artifacts of stages that ran before are kept.
    assert!(project.artifact("artifacts", "target-params").is_dir());
}

#[test]
fn splits_that_do_not_fit_the_data() {
    let project = Project::new();
    project.fails("run tiny --set dataset.downstream.train=100000", 2, &["dataset.downstream", "`train`", "available"]);
    project.fails("run tiny --set dataset.downstream.train=0", 2, &["`train`"]);
    project.fails("run tiny --set dataset.downstream.test=0 --set pretrain.method=random", 2, &["test"]);
}

#[test]
fn a_failing_branch_leaves_the_others_intact() {
    let project = Project::new();
    let set = "--set poison-features.poison_fraction=[0.001,0.05]";
    project.fails(&format!("run tiny {set}"), 2, &["no poison"]);
    let results = project.ok(&format!("results tiny {set} --json"));
    assert_eq!(results.out.lines().count(), 1);
    assert!(results.err.contains("1 of 2 branches has no result yet"), "{}", results.err);
}

#[test]
fn raw_data_that_is_missing_or_damaged() {
    let project = Project::new();
    project.spec(
        "cifar",
        &TINY.replace(
            "{ kind = \"synthetic\", domain = \"a\", classes = 4, train_pool = 400, test_pool = 200 }",
            "\"cifar10\"",
        ),
    );
    project.fails("plan cifar", 3, &["cifar10", "hemlock data cifar10"]);
    let folder = project.path().join("data/cifar-10-batches-bin");
    fs::create_dir_all(&folder).unwrap();
    let classes: String = (0..10).map(|i| format!("class{i}\n")).collect();
    fs::write(folder.join("batches.meta.txt"), classes).unwrap();
    let records: Vec<u8> = (0..200u32).flat_map(|i| [vec![(i % 10) as u8], vec![i as u8; 3072]].concat()).collect();
    for file in ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"] {
        fs::write(folder.join(format!("{file}.bin")), &records).unwrap();
    }
    project.ok("dataset cifar");
    fs::write(folder.join("data_batch_3.bin"), &records[..5000]).unwrap();
    project.fails("dataset cifar", 3, &["data_batch_3.bin", "5000", "3073"]);
    // The file is cut between two records.
    fs::write(folder.join("data_batch_3.bin"), &records[..3073 * 50]).unwrap();
    project.fails("dataset cifar", 3, &["data_batch_3.bin", "153650", "614600"]);
    let mut wrong = records.clone();
    wrong[3073] = 11;
    fs::write(folder.join("data_batch_3.bin"), wrong).unwrap();
    project.fails("dataset cifar", 3, &["data_batch_3.bin", "11"]);
    fs::write(project.path().join("no.tar.gz"), "no archive").unwrap();
    project.fails("data cifar10 --from no.tar.gz --trust --data elsewhere", 3, &["no.tar.gz"]);
    project.fails("data cifar10 --from no.tar.gz --data elsewhere", 3, &["no.tar.gz", "expected"]);
    assert!(!project.path().join("elsewhere/cifar-10-batches-bin").exists());
}

#[test]
fn results_need_an_evaluation() {
    let project = Project::new();
    project.spec("short", &TINY.replace("[evaluate]\n", ""));
    project.ok("run short");
    project.fails("results short", 2, &["has no [evaluate]"]);
}

#[test]
fn a_backend_that_is_not_there() {
    let project = Project::new();
    if cfg!(not(feature = "cuda")) {
        project.fails("run tiny --device cuda", 5, &["cuda", "not compiled in"]);
    }
    project.fails("run tiny --device abacus", 2, &["abacus", "flex"]);
}

/// This test needs the right to mount a small file system. Without it, the test is skipped, or fails if
/// `HEMLOCK_REQUIRE_FULL_DISK` is set.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_loses_nothing() {
    let project = Project::new();
    let disk = project.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=600k", "tmpfs"])
        .arg(&disk)
        .status()
        .is_ok_and(|s| s.success());
    if !mounted {
        assert!(std::env::var_os("HEMLOCK_REQUIRE_FULL_DISK").is_none(), "a file system cannot be mounted here");
        #[allow(clippy::print_stderr)]
        {
            eprintln!("SKIPPED: a full disk was not tried, because a file system cannot be mounted here");
        }
        return;
    }
    let ran = project.run("run tiny --root disk/artifacts");
    let status = project.run("status tiny --root disk/artifacts");
    let grown = std::process::Command::new("mount").args(["-o", "remount,size=50m"]).arg(&disk).status();
    let again = project.run("run tiny --root disk/artifacts");
    let unmounted = std::process::Command::new("umount").arg(&disk).status();
    assert!(unmounted.unwrap().success());
    assert_eq!(ran.code, 4, "{}", ran.err);
    assert!(ran.err.contains("disk full"), "{}", ran.err);
    assert_eq!(status.code, 0, "{}", status.err);
    assert!(grown.unwrap().success());
    assert_eq!(again.code, 0, "{}", again.err);
}
