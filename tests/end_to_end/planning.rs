//! The output of `plan`, `why` and `status` before and after runs.

use crate::project::{Project, TINY};
use serde_json::Value;
use std::collections::BTreeSet;

/// Replaces keys, which differ with the code's versions, so that the words around them can be compared.
fn without_keys(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let words = line.split_inclusive(' ').map(|word| {
            let bare = word.trim_end().trim_end_matches(':');
            let key = bare.len() == 12 && bare.bytes().all(|b| b.is_ascii_hexdigit());
            if key { word.replace(bare, "KEY") } else { word.to_owned() }
        });
        out += words.collect::<String>().trim_end();
        out.push('\n');
    }
    out
}

#[test]
fn plan_and_why_agree_with_what_runs() {
    let project = Project::new();
    insta::assert_snapshot!("plan-before", without_keys(&project.ok("plan tiny").out));
    project.ok("run tiny");
    insta::assert_snapshot!("plan-after", without_keys(&project.ok("plan tiny").out));
    let change = "--set poison-features.poison_fraction=0.1";
    insta::assert_snapshot!("plan-change", without_keys(&project.ok(&format!("plan tiny {change}")).out));
    insta::assert_snapshot!(
        "why-change",
        without_keys(&project.ok(&format!("why tiny --stage poison-features {change}")).out)
    );
    let json = project.ok(&format!("why tiny --stage poison-features --json {change}")).out;
    let why: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(why["why"]["changes"][0]["path"], "poison_fraction", "{json}");
    assert_eq!(why["why"]["changes"][0]["node"], "poison-features", "{json}");
    // Planning writes nothing that a run would use.
    assert_eq!(
        Project::stages_that_ran(&project.ok(&format!("run tiny {change}"))),
        ["poison-features", "invert", "evaluate"]
    );
}

/// Two attacks, two budgets and two inversions.
const SEVERAL: &str = r#"
[[poison-features]]
attack = "bilevel"
poison_fraction = [0.05, 0.1]
steps = 3

[[poison-features]]
attack = "gradient-canceling"
poison_fraction = 0.05

[decoder]
epochs = 1
width = 8

[[invert]]
method = "feature-matching"
steps = 3

[[invert]]
method = "decoder"
"#;

fn several() -> Project {
    let project = Project::new();
    let attacks = TINY.find("[poison-features]").unwrap()..TINY.find("[evaluate]").unwrap();
    project.spec("several", &TINY.replace(&TINY[attacks], SEVERAL));
    project
}

#[test]
fn rows_tell_tasks_apart() {
    let project = several();
    let ran = project.ok("run several");
    let plan = project.ok("plan several").out;
    let status = project.ok("status several").out;
    for said in [&ran.err, &plan, &status] {
        for row in [
            "poison-features bilevel, 5 %, seed 0 ",
            "poison-features bilevel, 10 %, seed 0 ",
            "invert gradient-canceling, 5 %, decoder, seed 0 ",
            "evaluate bilevel, 10 %, feature-matching, seed 0 ",
        ] {
            assert!(said.contains(row), "'{row}' is not in:\n{said}");
        }
    }
    let mut rows: Vec<String> = without_keys(&plan).lines().map(str::to_owned).collect();
    let all = rows.len();
    rows.sort();
    rows.dedup();
    assert_eq!(rows.len(), all, "two rows read the same:\n{plan}");
    // The facts are written in words, and not as JSON.
    assert!(status.contains("poison fraction bound (certified ") && !status.contains(['{', '"']), "{status}");
}

#[test]
fn why_compares_with_the_same_branch_and_names_the_root() {
    let project = several();
    project.ok("run several");
    let beta = "--set invert.beta=0.1";
    let said = project.ok(&format!("why several {beta}")).out;
    insta::assert_snapshot!("why-root", without_keys(&said));
    // For every inversion and evaluation that runs, the nearest artifact is on the task's own branch, even though other
    // branches have newer artifacts.
    let before = project.ok("plan several").out;
    for stage in ["invert", "evaluate"] {
        let said = project.ok(&format!("why several --stage {stage} {beta}")).out;
        let lines: Vec<_> = said.lines().filter_map(|l| l.split_once(" runs; the nearest artifact is ")).collect();
        assert_eq!(lines.len(), 3, "{said}");
        for (task, nearest) in lines {
            let (label, _) = task.trim().rsplit_once(' ').unwrap();
            assert!(before.contains(&format!("{label} {nearest}")), "{label} {nearest} is not in:\n{before}");
        }
        let json = project.ok(&format!("why several --stage {stage} --json {beta}")).out;
        let why: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for task in why.iter().filter(|t| t["state"] == "run") {
            let changes = task["why"]["changes"].as_array().unwrap();
            assert_eq!(changes.len(), 1, "{task}");
            assert_eq!((&changes[0]["node"], &changes[0]["path"]), (&"invert".into(), &"beta".into()), "{task}");
        }
    }
    // A task that follows from a change names its cause, in the plan and while it runs.
    let plan = project.ok(&format!("plan several {beta}")).out;
    assert_eq!(plan.matches("because of invert.beta: 0.0 -> 0.1").count(), 3, "{plan}");
    assert!(project.ok(&format!("run several {beta}")).err.contains("(because of invert.beta: 0.0 -> 0.1)"));
}

#[test]
fn a_new_pipeline_is_not_compared_with_what_is_unlike_it() {
    let project = Project::new();
    project.ok("run tiny");
    // A pipeline of another name that is nearly the same is worth a comparison.
    project.spec("near", &TINY.replace("radius = 0.5", "radius = 0.4"));
    let said = project.ok("why near").out;
    assert!(said.starts_with("target-params.radius: 0.5 -> 0.4\n") && said.contains(" of tiny\n"), "{said}");
    let far = TINY.replace("classes = 4", "classes = 3").replace("train = 96", "train = 90");
    project.spec("far", &far.replace("validation = 16", "validation = 15").replace("test = 48", "test = 45"));
    let said = project.ok("why far").out;
    assert_eq!(said.matches("never ran here").count(), 7, "{said}");
}

#[test]
fn names_that_are_nearly_right() {
    let project = Project::new();
    for i in 0..20 {
        project.spec(&format!("spec-{i:02}"), TINY);
    }
    project.fails("plan tinny", 2, &["no pipeline 'tinny'", "did you mean `tiny`?"]);
    project.fails("plan qqq", 2, &["expected one of spec-00, ", " and 15 more in pipelines"]);
    project.fails("why tiny --stage inverts", 2, &["no stage 'inverts'", "did you mean `invert`?"]);
    project.fails("export tiny evaluat -o out", 2, &["no stage 'evaluat'", "did you mean `evaluate`?"]);
    let said = project.run(&format!("plan {}", "x".repeat(100_000)));
    assert!(said.code == 2 && said.err.len() < 101_000, "{}", said.err.len());
}

#[test]
fn what_stands_in_the_wrong_place_is_put_right() {
    let project = Project::new();
    project.fails("run tiny --force", 2, &["one stage", "hemlock invert tiny --force"]);
    project.fails("run tiny set=seeds=[0]", 2, &["before the recipe: just set='seeds=[0]' RECIPE", "--set"]);
    project.fails("results tiny as=one", 2, &["just as='one' RECIPE", "--as NAME"]);
    project.fails("report tiny set=seeds=[0]", 2, &["before the recipe"]);
    project.fails("run tiny other", 2, &["unexpected argument 'other'"]);
}

#[test]
fn a_project_is_worked_in_from_another_folder() {
    let project = Project::new();
    let at = project.path().display().to_string();
    let elsewhere = tempfile::tempdir().unwrap();
    let run = |args: &str| {
        let output = project.command(args).current_dir(elsewhere.path()).output().unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, _, err) = run("run tiny");
    assert!(code == 2 && err.contains("no specs in pipelines") && err.contains("-C DIR"), "{err}");
    std::fs::create_dir(project.path().join("specs")).unwrap();
    std::fs::copy(project.path().join("pipelines/tiny.toml"), project.path().join("specs/own.toml")).unwrap();
    assert_eq!(run(&format!("-C {at} run specs/own.toml")).0, 0);
    assert!(project.path().join("artifacts/evaluate").is_dir());
    assert!(run(&format!("results tiny -C {at}")).1.contains("gradient-canceling"));
    // Relative paths in a spec start at the folder of `-C`, too.
    let source = "{ kind = \"image-folder\", path = \"own\" }\nsize = 8";
    let synthetic = "{ kind = \"synthetic\", domain = \"a\", classes = 4, train_pool = 400, test_pool = 200 }";
    assert!(TINY.contains(synthetic));
    project.spec("folder", &TINY.replace(synthetic, source));
    let (code, _, err) = run(&format!("-C {at} plan folder"));
    assert!(code == 3 && err.contains("own"), "{err}");
    // The JSON of a plan says in which folder it works.
    let plan: Value = serde_json::from_str(&run(&format!("-C {at} plan tiny --json")).1).unwrap();
    let argv: Vec<&str> = plan["tasks"][0]["argv"].as_array().unwrap().iter().map(|a| a.as_str().unwrap()).collect();
    let (code, _, err) = run(&argv[1..].join(" "));
    assert_eq!(code, 0, "{err}");
    // The spec can also be given by a path from the current folder.
    assert_eq!(run(&format!("plan {at}/specs/own.toml --root {at}/artifacts")).0, 0);
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    let (code, _, err) = run("-C nowhere plan tiny");
    assert!(code == 2 && err.contains("-C nowhere"), "{err}");
}

#[test]
fn lists_fan_out_and_branches_share_what_they_have_in_common() {
    let project = Project::new();
    let count = |args: &str, stage: &str| project.tasks(args).iter().filter(|t| t["stage"] == stage).count();
    let args = "tiny --set seeds=[0,1,2] --set target-params.radius=[0.1,0.5] --set invert.beta=[0,0.1]";
    assert_eq!(count(args, "pretrain"), 1);
    assert_eq!(count(args, "target-params"), 2);
    assert_eq!(count(args, "poison-features"), 6);
    assert_eq!(count(args, "invert"), 12);
    assert_eq!(count(args, "evaluate"), 12);
}

#[test]
fn an_override_goes_to_the_tables_that_know_its_field() {
    let project = Project::new();
    let two = "[decoder]\n[[invert]]\nmethod = \"feature-matching\"\n\n[[invert]]\nmethod = \"decoder\"\n";
    project.spec("two", &TINY.replace("[invert]\nmethod = \"feature-matching\"\nsteps = 3\n", two));
    let tasks = project.tasks("two --set invert.steps=[7,8]");
    let params: Vec<&Value> = tasks.iter().filter(|t| t["stage"] == "invert").map(|t| &t["params"]).collect();
    assert_eq!(params.len(), 3);
    assert_eq!((&params[0]["steps"], &params[1]["steps"], &params[2]["steps"]), (&7.into(), &8.into(), &Value::Null));
    project.fails("plan two --set invert.stepps=7", 2, &["--set invert.stepps=7", "did you mean `steps`?"]);
}

#[test]
fn what_a_choice_does_not_read_is_not_in_its_key() {
    let project = Project::new();
    let keys = |args: &str| -> Vec<Value> { project.tasks(args).iter().map(|t| t["key"].clone()).collect() };
    assert_eq!(keys("tiny"), keys("tiny --set poison-features.quantile=0.5"));
    assert_ne!(keys("tiny"), keys("tiny --set poison-features.constraint=ball"));
    assert_eq!(
        keys("tiny --set pretrain.method=random"),
        keys("tiny --set pretrain.method=random --set pretrain.epochs=2")
    );
    assert_eq!(keys("tiny --set invert.beta=0"), keys("tiny --set invert.beta=-0.0"));
}

#[test]
fn help_has_examples() {
    let help = Project::new().ok("--help").out;
    insta::assert_snapshot!("help", help);
}

#[test]
fn every_seed_may_have_images_of_its_own() {
    let project = Project::new();
    let seeds = |set: &str, stage: &str| -> Vec<Value> {
        let tasks = project.tasks(&format!("tiny --set seeds=[3,4] {set}"));
        tasks.iter().filter(|t| t["stage"] == stage).map(|t| t["seed"].clone()).collect()
    };
    assert_eq!(seeds("", "dataset"), [Value::Null]);
    assert_eq!(seeds("", "evaluate"), [3, 4]);
    let own = "--set dataset.downstream.seed=run";
    assert_eq!(seeds(own, "dataset"), [3, 4]);
    assert_eq!(seeds(own, "pretrain"), [Value::Null, Value::Null]);
    assert_eq!(seeds(own, "evaluate"), [3, 4]);
    // A fixed seed can be listed next to it. It gives one dataset, with which every seed of the attack is combined.
    let both = r#"--set dataset.downstream.seed=[0,"run"]"#;
    assert_eq!(seeds(both, "dataset"), [Value::Null, Value::from(3), Value::from(4)]);
    assert_eq!(seeds(both, "evaluate").len(), 4);
    project.fails("plan tiny --set dataset.downstream.seed=own", 2, &["`seed`", "own", "\"run\""]);
    project.ok(&format!("features tiny --set seeds=[3,4] {own}"));
}

/// The extractor's seed follows the run's seed, or is a list. A list makes replicates of one result, and not results of
/// their own.
#[test]
fn every_seed_may_have_an_extractor_of_its_own() {
    let project = Project::new();
    let seeds = |set: &str, stage: &str| -> Vec<Value> {
        let tasks = project.tasks(&format!("tiny --set seeds=[3,4] {set}"));
        tasks.iter().filter(|t| t["stage"] == stage).map(|t| t["seed"].clone()).collect()
    };
    assert_eq!(seeds("", "pretrain"), [Value::Null]);
    let own = "--set pretrain.seed=run";
    assert_eq!((seeds(own, "dataset"), seeds(own, "pretrain")), (vec![Value::Null], vec![3.into(), 4.into()]));
    assert_eq!(seeds(own, "evaluate"), [3, 4]);
    let several = "--set pretrain.seed=[0,1]";
    assert_eq!((seeds(several, "pretrain").len(), seeds(several, "evaluate").len()), (2, 4));
    project.fails("plan tiny --set pretrain.seed=own", 2, &["seed", "own", "\"run\""]);

    let set = "tiny --set seeds=[3] --set pretrain.seed=[0,1]";
    project.ok(&format!("run {set}"));
    let rows = |args: &str| project.ok(args).out.lines().filter(|line| line.contains("feature-matching ")).count();
    assert_eq!((rows(&format!("results {set}")), rows("results tiny --set seeds=[3] --set pretrain.seed=1")), (1, 1));
    project.ok(&format!("report {set} -o page.html"));
    let page = std::fs::read_to_string(project.path().join("page.html")).unwrap();
    assert!(
        page.contains("over 2 extractors (pre-trained on the same images), for these training data, on the same"),
        "{page}"
    );
}

#[test]
fn a_profile_stands_in_for_tables() {
    let project = Project::new();
    let profiles = "\n[profiles.paper.target-params]\nradius = 2.0\n\n[[profiles.paper.poison-features]]\nattack = \"bilevel\"\npoison_fraction = 0.1\n";
    project.spec("cook", &format!("{TINY}{profiles}"));
    let params = |args: &str, node: &str| {
        let tasks = project.tasks(args);
        tasks.iter().find(|task| task["node"] == node).unwrap()["params"].clone()
    };
    assert_eq!(params("cook", "target-params")["radius"], 0.5);
    let paper = "cook --set profile=paper";
    assert_eq!(params(paper, "target-params")["radius"], 2.0);
    assert_eq!(params(paper, "poison-features")["attack"], "bilevel");
    assert_eq!(params(paper, "invert"), params("cook", "invert"));
    // Overrides from the command line are applied last.
    let both = format!("{paper} --set poison-features.poison_fraction=0.2");
    assert_eq!(params(&both, "poison-features")["poison_fraction"], 0.2);
    project.fails(
        &format!("plan {paper} --set target-params.radius=x"),
        2,
        &["--set target-params.radius=x", "`radius`"],
    );
    project.fails("plan cook --set profile=papper", 2, &["no profile \"papper\"", "expected one of \"paper\""]);
    project.fails("plan tiny --set profile=paper", 2, &["the spec has none"]);
    // The message about the old name of profiles names the new one.
    project.fails("plan cook --set recipe=paper", 2, &["unknown key `recipe`", "did you mean `profile`?"]);
    project.spec("old", &format!("{TINY}{}", profiles.replace("profiles.", "recipes.")));
    project.fails("plan old", 2, &["old.toml:33: unknown key `recipes`", "did you mean `profiles`?"]);
    // A profile is checked even if another one is chosen.
    project.spec("cook", &format!("{TINY}{}", profiles.replace("radius = 2.0", "radios = 2.0")));
    project.fails("plan cook", 2, &["cook.toml:34", "radios", "did you mean `radius`?"]);
    project.spec("cook", &format!("{TINY}{}", profiles.replace("paper.target-params", "paper.target-parms")));
    project.fails("plan cook", 2, &["profile `paper`", "target-parms"]);
}

#[test]
fn what_tasks_take_is_checked_and_handed_over() {
    let project = Project::new();
    let resources = "[resources]\ncpus = 2\noptions = [\"--account=lab\"]\n[resources.pretrain]\ntime = \"0:30:00\"\ndevice = \"cuda\"\n";
    project.spec("cluster", &format!("{TINY}{resources}"));
    // Resources are in no key.
    project.ok("dataset tiny");
    let script = project.ok("submit slurm cluster --dry-run").out;
    assert!(!script.contains("/dataset/") && script.matches("sbatch").count() == 6, "{script}");
    let line = script.lines().find(|line| line.contains("--job-name=pretrain-")).unwrap();
    assert!(line.contains(" --cpus-per-task=2 --time=0:30:00 --account=lab ") && !line.contains("afterok"), "{line}");
    assert_eq!((script.matches("--device cuda").count(), script.matches("--device flex").count()), (1, 5), "{script}");
    let line = script.lines().find(|line| line.contains("--job-name=features-")).unwrap();
    assert!(line.contains(" --cpus-per-task=2 --account=lab --dependency=afterok:${job1%%;*} <<"), "{line}");
    let file: toml::Table = project.ok("submit hyperqueue cluster --dry-run").out.parse().unwrap();
    assert_eq!(file["task"].as_array().unwrap().len(), 6);

    // Only tasks that can be computed in parts get an array of jobs.
    let parts = "submit slurm cluster --dry-run --set resources.parts=3";
    let script = project.ok(parts).out;
    assert!(script.matches("sbatch").count() == 7 && script.matches("--array=1-3").count() == 1, "{script}");
    assert!(script.contains("--part \"$SLURM_ARRAY_TASK_ID/3\"\nEND\n)\njob"), "{script}");
    let line = script.lines().find(|line| line.contains("--job-name=invert-") && line.starts_with("job")).unwrap();
    assert!(line.contains("--dependency=afterok:${parts") && line.matches("afterok").count() == 1, "{line}");
    let file: toml::Table = project.ok(&parts.replace("slurm", "hyperqueue")).out.parse().unwrap();
    let tasks = file["task"].as_array().unwrap();
    let numbers: BTreeSet<i64> = tasks.iter().map(|task| task["id"].as_integer().unwrap()).collect();
    assert_eq!((tasks.len(), numbers.len()), (9, 9));
    let refined = "[invert]\nrefine = 1\nrefine_from = \"base\"";
    project.spec("based", &TINY.replace("[invert]", refined));
    assert!(!project.ok(&parts.replace("cluster", "based")).out.contains("--array"), "nothing is matched");

    for engine in ["slurm", "hyperqueue"] {
        let said = project.command(&format!("submit {engine} cluster")).env("PATH", "/nowhere").output().unwrap();
        assert_eq!(said.status.code(), Some(5));
        let err = String::from_utf8_lossy(&said.stderr);
        assert!(err.contains("commands in PATH") && err.matches("os error").count() == 1, "{err}");
    }
    project.ok("run cluster");
    assert!(project.ok("submit slurm cluster").err.contains("7 tasks cached, and nothing is left"));

    let bad = |table: &str, words: &[&str]| {
        project.spec("bad", &format!("{TINY}{table}"));
        project.fails("plan bad", 2, words);
    };
    bad("[resources]\nmemory = \"8\"\n", &["bad.toml:", "[resources] `memory`: '8' is no amount of memory"]);
    bad("[resources.pretrain]\ntime = \"4h\"\n", &["[resources.pretrain] `time`: '4h' is no time"]);
    bad("[resources.pretrian]\ncpus = 1\n", &["[resources]", "unknown field `pretrian`"]);
    bad("[resources]\ncpus = 0\n", &["[resources] `cpus`"]);
    bad("[resources.invert]\nparts = 0\n", &["[resources.invert] `parts`"]);
    bad("[resources.invert]\nparts = 4000000000\n", &["[resources.invert] `parts`"]);
    project.spec("bad", &format!("{TINY}[resources]\ndevice = \"tpu\"\n"));
    project.fails("submit slurm bad --dry-run --root none", 2, &["[resources] `device`: unknown backend `tpu`"]);
}

#[test]
fn parts_of_a_task_are_computed_by_processes_of_their_own() {
    let project = Project::new();
    project.ok("run tiny --root whole");
    project.ok("poison-features tiny");
    let plan: Value = serde_json::from_str(&project.ok("plan tiny --json").out).unwrap();
    let key = |stage: &str| {
        let task = plan["tasks"].as_array().unwrap().iter().find(|task| task["stage"] == stage).unwrap();
        task["key"].as_str().unwrap().to_owned()
    };
    let task = format!("run tiny --task {}", key("invert"));
    for part in ["1/3", "3/3", "3/3"] {
        let said = project.ok(&format!("{task} --part {part}")).err;
        assert!(said.contains(&format!("part {part} is kept")) && !said.contains("task ran"), "{said}");
    }
    assert!(!project.path().join("artifacts/invert").exists(), "parts are no artifact");
    project.ok(&task);
    assert!(project.ok(&format!("{task} --part 2/3")).err.contains("1 cached"), "all is done");
    project.ok("run tiny");
    let diff = project.ok("diff whole artifacts").out;
    assert_eq!(diff.matches("identical").count(), 7, "{diff}");

    let evaluate = format!("run tiny --root other --task {} --part 1/2", key("evaluate"));
    project.fails(&evaluate, 2, &["the stage 'evaluate'", "not computed in parts", "leave `--part` out"]);
    project.fails(&format!("{task} --part 4/3"), 2, &["expected the number of a part", "`3/64`"]);
    project.fails("run tiny --part 1/3", 2, &["--task"]);
}
