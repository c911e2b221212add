//! Exports in formats that other tools open, and what the README says about them.

use crate::project::Project;
use safetensors::SafeTensors;
use serde_json::Value;
use std::{fs, path::Path, process::Command};

const README: &str = include_str!("../../README.md");

/// The quickstart pipeline with its own choices, and with everything else as small as possible.
fn small_quickstart(project: &Project) {
    let base = concat!("\"", env!("CARGO_MANIFEST_DIR"), "/../../pipelines/base/");
    let mut spec = include_str!("../../pipelines/quickstart.toml").replace("\"base/", base);
    let smaller = [
        ("domain = \"a\" }", "domain = \"a\", classes = 4, train_pool = 400, test_pool = 200 }"),
        ("train = 2000\nvalidation = 500\ntest = 1000", "train = 96\nvalidation = 16\ntest = 48"),
        (
            "arch = \"resnet8\"\nepochs = 4\nbatch = 128",
            "arch = \"resnet8-w4\"\nepochs = 1\nbatch = 48\nwarmup_epochs = 0",
        ),
        ("radius = 0.5", "radius = 0.1"),
        ("weight_decay = 1e-3\n\n[[poison-features]]", "weight_decay = 1e-2\n\n[[poison-features]]"),
        (
            "poison_fraction = [0.01, 0.03]\nconstraint = \"ball\"\n\n",
            "poison_fraction = [0.01, 0.03]\nconstraint = \"ball\"\nsteps = 5\n\n",
        ),
        ("epochs = 6\nbatch = 32", "epochs = 1\nwidth = 8\nbatch = 32"),
        ("steps = 30\nrefine = 30", "steps = 3\nrefine = 2"),
    ];
    for (from, to) in smaller {
        assert!(spec.contains(from), "{from}");
        spec = spec.replacen(from, to, 1);
    }
    project.spec("quickstart", &spec);
    project.ok("run quickstart -j 2");
}

/// A section of the README.
fn section(title: &str) -> &'static str {
    let (_, rest) = README.split_once(&format!("\n## {title}\n")).unwrap();
    rest.split_once("\n## ").map_or(rest, |(section, _)| section)
}

#[test]
fn the_walk_through_of_the_readme_works() {
    let project = Project::new();
    small_quickstart(&project);
    let text = section("Use the results elsewhere");
    let commands = text.lines().filter_map(|line| line.strip_prefix("    just "));
    let commands: Vec<&str> = commands.map(|line| line.split(" #").next().unwrap().trim()).collect();
    assert_eq!(commands.len(), 4, "{text}");
    for command in &commands {
        assert!(command.starts_with("export quickstart "), "{command}");
        assert!(project.ok(command).out.lines().count() > 0, "{command}");
    }
    // No two of the commands write to the same folder.
    let mut folders: Vec<&str> = commands.iter().filter_map(|c| c.split(" -o ").nth(1)?.split(' ').next()).collect();
    folders.dedup();
    assert_eq!(folders.len(), commands.len());

    let (_, python) = text.split_once("```python\n").unwrap();
    let (python, _) = python.split_once("```").unwrap();
    let interpreter = std::env::var("HEMLOCK_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has = Command::new(&interpreter).args(["-c", "import numpy, safetensors"]).output();
    if !has.is_ok_and(|has| has.status.success()) {
        assert!(std::env::var_os("HEMLOCK_REQUIRE_PYTHON").is_none(), "{interpreter} has no numpy, or no safetensors");
        // `just unit` says that the README's Python is not run. The files that it reads must exist.
        for file in ["features/test.safetensors", "heads/images.safetensors", "many/index.csv"] {
            assert!(python.contains(file) || file.starts_with("heads"), "{file}");
            assert!(project.path().join(file).is_file(), "{file}");
        }
        return;
    }
    let ran = Command::new(&interpreter).args(["-c", python]).current_dir(project.path()).output().unwrap();
    let (out, err) = (String::from_utf8(ran.stdout).unwrap(), String::from_utf8_lossy(&ran.stderr).into_owned());
    assert!(ran.status.success(), "{err}");
    // The script prints accuracies from the result table.
    let rows = project.ok("results quickstart --json").out;
    let rows: Vec<Value> = rows.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let accuracy = |seed: u64, attack: &str, poison_fraction: f64, method: &str, constraint: &str| {
        let row = rows.iter().find(|r| {
            let params = &r["params"];
            r["seed"] == seed
                && params["poison-features"]["attack"] == attack
                && r["poison_fraction"] == poison_fraction
                && params["invert"]["method"] == method
                && params["poison-features"]["constraint"] == constraint
        });
        row.unwrap()["accuracy"]["images"].as_f64().unwrap()
    };
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0].parse::<f64>().unwrap(), accuracy(0, "bilevel", 0.03, "decoder", "ball"), "{out}");
    let rest: Vec<Vec<&str>> = lines[1..].iter().map(|line| line.split_whitespace().collect()).collect();
    // There are two seeds and two inversions. For the ball, there are two budgets of one attack and one of the other.
    assert_eq!(rest.len(), 2 * 2 * 3, "{out}");
    for row in rest {
        let [seed, attack, poison_fraction, method, measured] = row[..] else { panic!("{out}") };
        let (seed, poison_fraction) = (seed.parse().unwrap(), poison_fraction.parse().unwrap());
        assert_eq!(measured.parse::<f64>().unwrap(), accuracy(seed, attack, poison_fraction, method, "ball"), "{out}");
    }
}

#[test]
fn several_artifacts_have_an_index_and_every_file_says_what_it_is() {
    let project = Project::new();
    let set = "--set seeds=[0,1] --set poison-features.poison_fraction=[0.05,0.1]";
    project.ok(&format!("run tiny {set}"));
    project.ok(&format!("export tiny invert {set} -o many"));
    let index = fs::read_to_string(project.path().join("many/index.csv")).unwrap();
    let lines: Vec<Vec<&str>> = index.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(lines[0], ["folder", "stage", "seed", "attack", "poison_fraction", "poison-features.poison_fraction"]);
    let mut seen: Vec<(&str, &str)> = lines[1..].iter().map(|line| (line[2], line[4])).collect();
    seen.sort_unstable();
    assert_eq!(seen, [("0", "0.05"), ("0", "0.1"), ("1", "0.05"), ("1", "0.1")]);
    let metadata = |file: &Path| {
        let bytes = fs::read(file).unwrap();
        SafeTensors::read_metadata(&bytes).unwrap().1.metadata().clone().unwrap()
    };
    for line in &lines[1..] {
        let said = metadata(&project.path().join("many").join(line[0]).join("poisons.safetensors"));
        assert_eq!(
            (&*said["pipeline"], &*said["stage"], &*said["key"], &*said["seed"]),
            ("tiny", "invert", line[0], line[2])
        );
        assert_eq!(said["hemlock_version"], env!("CARGO_PKG_VERSION"));
        let params: Value = serde_json::from_str(&said["params"]).unwrap();
        assert_eq!(params["steps"], 3);
    }
    // Equal artifacts give equal files. Files of weights have metadata, too, and can be imported with them.
    project.ok("export tiny pretrain -o one");
    project.ok("export tiny pretrain -o two");
    let [one, two] = ["one", "two"].map(|dir| project.path().join(dir).join("extractor.safetensors"));
    assert_eq!(fs::read(&one).unwrap(), fs::read(two).unwrap());
    assert_eq!(metadata(&one)["stage"], "pretrain");
}

/// An evaluation's answers are exported image by image: bits, whose share is the accuracy, and margins of their sign.
#[test]
fn answers_to_every_test_image_are_exported_with_their_margins() {
    let project = Project::new();
    project.ok("run tiny");
    project.ok("export tiny evaluate -o out");
    let bytes = fs::read(project.path().join("out/answers.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let row: Value = serde_json::from_str(&project.ok("results tiny --json").out).unwrap();
    for set in ["clean", "images", "influence_flips"] {
        let right = tensors.tensor(&format!("{set}.right")).unwrap().data().to_vec();
        let margins = tensors.tensor(&format!("{set}.margin")).unwrap();
        let margins = margins.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
        let margins: Vec<f32> = margins.collect();
        assert_eq!((right.len(), margins.len()), (48, 48), "{set}");
        assert!(margins.iter().zip(&right).all(|(margin, right)| (*margin > 0.0) == (*right == 1)), "{set}");
        let share = f64::from(right.iter().map(|right| u32::from(*right)).sum::<u32>()) / 48.0;
        assert!((share - row["accuracy"][set].as_f64().unwrap()).abs() < 1e-12, "{set}");
    }
}

/// A folder has the files of the last export. Files that exports did not write are not touched.
#[test]
fn a_used_folder_keeps_nothing_stale_and_loses_nothing_of_others() {
    let project = Project::new();
    let set = "--set seeds=[0,1]";
    project.ok(&format!("run tiny {set}"));
    project.ok(&format!("export tiny features {set} -o out"));
    project.ok(&format!("export tiny features {set} --select seed=0 -o out"));
    let names = || {
        let entries = fs::read_dir(project.path().join("out")).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert!(!names().iter().any(|name| name == "index.csv"), "{:?}", names());
    let before = names();
    let evaluate = format!("export tiny evaluate {set} --select seed=0 -o out");
    fs::write(project.path().join("out/images.safetensors"), "mine").unwrap();
    project.fails(&evaluate, 4, &["images.safetensors", "no export is known", "another folder"]);
    assert_eq!(fs::read(project.path().join("out/images.safetensors")).unwrap(), b"mine");
    fs::remove_file(project.path().join("out/images.safetensors")).unwrap();
    project.ok(&evaluate);
    project.fails(
        &evaluate.replace("evaluate", "target-params"),
        4,
        &["clean.safetensors", "evaluate, safetensors wrote"],
    );
    assert!(before.iter().all(|name| names().contains(name)));
}

#[test]
fn a_selection_that_does_not_work_says_what_there_is() {
    let project = Project::new();
    let set = "--set seeds=[0,1] --set poison-features.constraint=[\"none\",\"ball\"]";
    let fails = |select: &str, words: &[&str]| {
        project.fails(&format!("export tiny invert {set} --select {select} -o out"), 2, words);
    };
    fails("seed=9", &["no branch has seed=9", "of 'seed' there is 0, 1"]);
    fails(
        "poison-features.constraint=bal",
        &["there is none, ball", "did you mean `poison-features.constraint=ball`?"],
    );
    fails("constraint=ball", &["`poison-features.constraint`", "`target-params.constraint`", "in full"]);
    fails("sede=0", &["no field 'sede'", "did you mean `seed`?"]);
    fails("foo=bar", &["no field 'foo'", "branches differ in seed, poison-features.constraint"]);
    fails("poison-features.foo=bar", &["no field 'poison-features.foo'"]);
    fails("seed", &["'seed' is no condition", "stage.field=value"]);
    project.fails(
        &format!("export tiny decoder {set} --select seed=0 -o out"),
        2,
        &["no branch of 'tiny' that is selected has the stage 'decoder'", "features, target-params"],
    );
    assert!(!project.path().join("out").exists());
    project.ok(&format!("run tiny {set}"));
    // Selections work with full names, and with fields inside a table.
    let full = "poison-features.constraint=ball,dataset.downstream.source.domain=a,invert.steps=3";
    let files = project.ok(&format!("export tiny invert {set} --select {full},seed=1 -o out")).out;
    assert!(files.contains("out/poisons.safetensors"), "{files}");
    let select = "poison-features.constraint=none,seed=0";
    let combined = format!("export tiny invert {set} --select {select},poison-features.quantile=0.95 -o out");
    project.ok(&combined);
}

#[test]
fn pictures_and_tensors_are_exported() {
    let project = Project::new();
    project.ok("run tiny");
    project.ok("export tiny invert --select seed=0,poison_fraction=0.05 -o out --format png");
    assert_eq!(fs::read_dir(project.path().join("out/poisons")).unwrap().count(), 5);
    // The next export removes what a killed export left.
    fs::write(project.path().join("out/.extractor.safetensors.1.part"), "half").unwrap();
    project.ok("export tiny pretrain -o out");
    assert!(!project.path().join("out/.extractor.safetensors.1.part").exists());
    // An artifact with two roles is written once, and so without a folder of its own.
    project.ok("export tiny dataset -o images");
    assert!(project.path().join("images/train-images.safetensors").is_file());
    assert!(project.path().join("out/extractor.safetensors").is_file());
    project.fails("export tiny invertt -o out", 2, &["invertt", "expected one of"]);
    project.fails("export tiny evaluate -o out --format png", 2, &["no pictures"]);
    project.fails("export tiny features -o out --root empty", 4, &["not there yet"]);
}

/// If an export is killed at any moment, no file has half of its content, and the next export removes what is left.
#[cfg(unix)]
#[test]
fn a_killed_export_leaves_no_half_a_file() {
    let project = Project::new();
    project.ok("dataset tiny --set dataset.downstream.train=300");
    let export = "export tiny dataset --set dataset.downstream.train=300 --format png -o out";
    project.ok(&export.replace("-o out", "-o whole"));
    let pictures = |dir: &str| {
        let dir = project.path().join(dir).join("train");
        let names = fs::read_dir(dir).into_iter().flatten().map(|e| e.unwrap().file_name().into_string().unwrap());
        names.collect::<Vec<_>>()
    };
    for milliseconds in [20, 40, 60, 80] {
        let mut child = project.spawn(export);
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        child.kill().unwrap();
        child.wait().unwrap();
        for name in pictures("out").iter().filter(|name| !name.starts_with('.')) {
            let file = |dir: &str| fs::read(project.path().join(dir).join("train").join(name)).unwrap();
            assert_eq!(file("out"), file("whole"));
        }
    }
    project.ok(export);
    let mut both = [pictures("out"), pictures("whole")];
    both.iter_mut().for_each(|names| names.sort());
    assert_eq!(both[0], both[1]);
}

/// A poisoned data set is read as any other: the poisons are among the training samples, and the manifest names them.
#[test]
fn a_poisoned_data_set_is_a_data_set() {
    let project = Project::new();
    project.ok("run tiny");
    let export = "export tiny invert --select seed=0";
    for (format, kind, place) in
        [("folder", "image-folder", ""), ("npz", "npz", "/data.npz"), ("parquet", "parquet", "")]
    {
        project.ok(&format!("{export} -o {format} --dataset {format}"));
        let manifest = fs::read_to_string(project.path().join(format).join("manifest.csv")).unwrap();
        let rows: Vec<Vec<&str>> = manifest.lines().skip(1).map(|line| line.split(',').collect()).collect();
        let of = |split: &str| rows.iter().filter(|row| row[0] == split).count();
        let poisons: Vec<_> = rows.iter().filter(|row| row[5] == "1").collect();
        assert!(poisons.iter().all(|row| row[0] == "train" && !row[6].is_empty()) && poisons.len() == 5);
        let path = project.path().join(format).display().to_string() + place;
        let source = format!("{{ kind = \"{kind}\", path = \"{path}\" }}");
        let (test, train) = (of("test"), 4 * ((of("train") - 5) / 4));
        let again = format!("[dataset.downstream]\nsource = {source}\ntrain = {train}\ntest = {test}\n");
        project.spec("again", &format!("seeds = [0]\n{again}"));
        project.ok("dataset again");
    }
    project.ok("export tiny poison-features --select seed=0 -o features --dataset npz");
    assert!(project.path().join("features/data.npz").is_file());
    project.fails("export tiny poison-features -o f --dataset folder", 2, &["features cannot be written as folder"]);
    project.fails("export tiny evaluate -o f --dataset npz", 2, &["'evaluate' makes no poisons", "--dataset"]);
    project.fails("export tiny invert -o f --dataset npz --format png", 2, &["cannot be used with"]);
}
