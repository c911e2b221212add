//! The shipped pipelines, and specs that extend others.

use crate::project::{Project, TINY};
use std::time::{Duration, Instant};
use std::{fs, path::PathBuf};

const PIPELINES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../pipelines");

/// The profiles, and the pipelines that have them.
const PROFILES: [(&str, &[&str]); 2] = [
    (
        "paper",
        &[
            "findings",
            "finetune-cifar10",
            "paper-finetune-cifar10",
            "paper-transfer-cifar10",
            "paper-transfer-cifar100",
            "quickstart",
            "transfer-cifar10",
            "transfer-cifar100",
        ],
    ),
    (
        "paper-code",
        &[
            "finetune-cifar10",
            "paper-finetune-cifar10",
            "paper-transfer-cifar10",
            "paper-transfer-cifar100",
            "quickstart",
            "transfer-cifar10",
            "transfer-cifar100",
        ],
    ),
];

/// A project with raw data of all kinds that shipped pipelines read. A plan only computes its digest, so little is
/// enough.
fn project() -> Project {
    let project = Project::new();
    let write = |name: &str, bytes: &[u8]| {
        let path = project.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    let lines = |n: usize| (0..n).map(|i| format!("class{i}\n")).collect::<String>();
    write("data/cifar-10-batches-bin/batches.meta.txt", lines(10).as_bytes());
    for file in ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"] {
        write(&format!("data/cifar-10-batches-bin/{file}.bin"), &[0; 3073]);
    }
    write("data/cifar-100-binary/fine_label_names.txt", lines(100).as_bytes());
    write("data/cifar-100-binary/coarse_label_names.txt", lines(20).as_bytes());
    for file in ["train", "test"] {
        write(&format!("data/cifar-100-binary/{file}.bin"), &[0; 3074]);
    }
    write("data/resnet20-12fca82f.th", b"weights");
    write("data/clip-cifar10.npz", b"features");
    for file in ["train/a/1.png", "train/b/1.png", "test/a/1.png", "test/b/1.png"] {
        write(&format!("my-images/{file}"), b"image");
    }
    project
}

/// Names of the shipped pipelines, in alphabetical order.
fn names() -> Vec<String> {
    let files = fs::read_dir(PIPELINES).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: PathBuf| Some(path.to_str()?.strip_suffix(".toml")?.rsplit('/').next()?.to_owned());
    let mut names: Vec<String> = files.filter_map(name).collect();
    names.sort();
    names
}

#[test]
fn every_shipped_pipeline_is_planned_with_every_profile_it_has() {
    let (project, mut table) = (project(), String::new());
    for name in names() {
        let plan = |set: &str| {
            let said = project.ok(&format!("plan {name} --pipelines {PIPELINES} {set}")).out;
            let counted = said.lines().find(|line| line.contains(" tasks in ")).unwrap();
            counted.split_once(':').unwrap().0.to_owned()
        };
        table += &format!("{name}: {}\n", plan(""));
        for (profile, pipelines) in PROFILES {
            let set = format!("--set profile={profile}");
            if pipelines.contains(&name.as_str()) {
                table += &format!("{name} {profile}: {}\n", plan(&set));
            } else {
                let plan = format!("plan {name} --pipelines {PIPELINES} {set}");
                project.fails(&plan, 2, &[&format!("no profile \"{profile}\"")]);
            }
        }
    }
    insta::assert_snapshot!("shipped", table);
}

/// The least of five attempts counts, because other tests run meanwhile.
#[test]
fn the_largest_pipeline_is_planned_in_less_than_a_second() {
    let project = project();
    let plan = || {
        let begun = Instant::now();
        let said = project.ok(&format!("plan findings --pipelines {PIPELINES}")).out;
        assert!(said.contains("3192 tasks in 1440 branches"));
        begun.elapsed()
    };
    let least = (0..5).map(|_| plan()).min().unwrap();
    assert!(least < Duration::from_secs(1), "{least:?}");
}

#[test]
fn what_pipelines_extend_is_no_pipeline() {
    let project = Project::new();
    fs::create_dir(project.path().join("pipelines/base")).unwrap();
    fs::write(project.path().join("pipelines/base/common.toml"), TINY).unwrap();
    project.spec("near", "extends = \"base/common.toml\"\nseeds = [1]\n");
    project.fails("plan nowhere", 2, &["expected one of near, tiny\n"]);
    let seeds = |args: &str| project.tasks(args).iter().map(|task| task["seed"].clone()).collect::<Vec<_>>();
    assert!(seeds("near").contains(&1.into()) && !seeds("tiny").contains(&1.into()));
    // The artifacts are no garbage, whether or not the extended spec still exists.
    project.ok("run near");
    assert_eq!(project.ok("gc").out, "");
    let base = project.path().join("pipelines/base/common.toml");
    fs::remove_file(&base).unwrap();
    project.fails("plan near", 2, &["pipelines/near.toml:1: `extends` names base/common.toml"]);
    assert!(project.ok("gc --delete").err.contains("what 'near' made stays"));
    fs::write(&base, TINY).unwrap();
    assert!(project.ok("run near").err.contains("0 tasks ran, 7 cached"));
}

#[test]
fn a_spec_anywhere_may_extend_a_shipped_one() {
    let project = Project::new();
    fs::create_dir(project.path().join("specs")).unwrap();
    let spec = |text: &str| fs::write(project.path().join("specs/mine.toml"), text).unwrap();
    spec("extends = \"../pipelines/tiny.toml\"\n[pretrain]\nepochs = 2\n[invert]\nsteps = 2\n");
    let whole = TINY.replace("epochs = 1", "epochs = 2").replace("steps = 3", "steps = 2");
    assert_ne!(whole, TINY);
    project.spec("whole", &whole);
    let keys = |args: &str| project.tasks(args).iter().map(|task| task["key"].clone()).collect::<Vec<_>>();
    assert_eq!(keys("specs/mine.toml"), keys("whole"));
    assert!(project.ok("run specs/mine.toml").err.contains("mine: 7 tasks ran"));
    // A table with another method replaces the extended one, so that its required fields are not taken from there.
    spec("extends = \"../pipelines/tiny.toml\"\n[pretrain]\nmethod = \"import\"\n");
    project.fails("plan specs/mine.toml", 2, &["specs/mine.toml:2: [pretrain] `weights`: is missing"]);
    // An error points to the file and line in which the value is set.
    spec("extends = \"../pipelines/tiny.toml\"\n[pretrain]\nbatch = 1\n");
    project.fails("plan specs/mine.toml", 2, &["specs/mine.toml:3: [pretrain] `batch`"]);
    project.spec("tiny", &TINY.replace("radius = 0.5", "radius = -1"));
    project.fails("plan specs/mine.toml --set pretrain.batch=8", 2, &["/tiny.toml:20: [target-params] `radius`"]);
}
