//! All combinations of targets, solvers, constraints, labels and victims.

use crate::project::{Project, TINY};
use serde_json::Value;

/// Summaries of the artifacts of a stage, which a run with `args` makes.
fn summaries(project: &Project, stage: &str, args: &str) -> Vec<Value> {
    project.ok(&format!("{stage} {args}"));
    let status = project.ok(&format!("plan {args} --json"));
    let plan: Value = serde_json::from_str(&status.out).unwrap();
    let tasks = plan["tasks"].as_array().unwrap().iter().filter(|task| task["stage"] == stage);
    let read = |task: &Value| -> Value {
        let folder = project.path().join("artifacts").join(stage).join(task["key"].as_str().unwrap());
        let manifest = std::fs::read_to_string(folder.join("manifest.json")).unwrap();
        serde_json::from_str::<Value>(&manifest).unwrap()["summary"].clone()
    };
    tasks.map(read).collect()
}

#[test]
fn any_solver_goes_with_any_constraint_start_and_labels() {
    let project = Project::new();
    let solvers = r#"["gradient-descent","adam","lbfgs","conditional-gradient"]"#;
    let constraints = r#"["none","ball","box","sphere+slab","knn","knn+ball"]"#;
    let common = format!("--set poison-features.steps=3 --set poison-features.solver={solvers}");
    for attack in ["gradient-canceling", "bilevel"] {
        let set = format!("tiny {common} --set poison-features.attack={attack}");
        let labels = r#"["clean","random","adversarial"]"#;
        let made = summaries(
            &project,
            "poison-features",
            &format!("{set} --set poison-features.constraint={constraints} --set poison-features.labels={labels}"),
        );
        assert_eq!(made.len(), 4 * 6 * 3);
        for summary in &made {
            if attack == "gradient-canceling" {
                let (objective, bound) = (&summary["objective"], &summary["bound"]);
                assert!(bound.as_f64().unwrap() <= objective.as_f64().unwrap() + 1e-9, "{summary}");
            }
        }
        let starts = r#"["clean","influence","zeros","random","class-means","greedy"]"#;
        let made = summaries(&project, "poison-features", &format!("{set} --set poison-features.start={starts}"));
        // The conditional gradient has a start of its own.
        assert_eq!(made.len(), 3 * 6 + 1);
    }
}

#[test]
fn a_poison_is_made_of_the_nearest_sample_of_its_class_or_of_where_it_started() {
    let project = Project::new();
    let bases = |base: &str| {
        let set = format!("tiny --set poison-features.attack=bilevel --set poison-features.base={base}");
        project.ok(&format!("poison-features {set}"));
        project.ok(&format!("export {set} poison-features -o {base}"));
        project.ok(&format!("export {set} features -o {base}"));
        let read = |file: &str, name: &str| -> Vec<i64> {
            let bytes = std::fs::read(project.path().join(base).join(file)).unwrap();
            let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            let data = tensors.tensor(name).unwrap().data().to_vec();
            data.chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
        };
        let own = read("train.safetensors", "labels");
        let bases = read("poison-features.safetensors", "base_index");
        let labels: Vec<i64> = bases.iter().map(|i| own[*i as usize]).collect();
        assert_eq!(labels, read("poison-features.safetensors", "labels"), "{base}");
        bases
    };
    assert_ne!(bases("start"), bases("nearest"));
}

#[test]
fn what_is_idle_is_not_in_the_key() {
    let project = Project::new();
    let key = |args: &str| project.tasks(args).last().unwrap()["key"].clone();
    let same = |set: &str| assert_eq!(key("tiny"), key(&format!("tiny {set}")), "{set}");
    same("--set poison-features.quantile=0.5");
    same("--set poison-features.temperature=3");
    same("--set poison-features.label_update_interval=7");
    same("--set poison-features.steps=2000");
    same("--set poison-features.inner.steps=7");
    same("--set poison-features.sees=[\"train\",\"validation\"]");
    same("--set target-params.share=0.9");
    same("--set target-params.quantile=0.5");
    // They must not be in the artifact either, or one key would have two contents.
    project.ok("run tiny");
    project.ok("run tiny --root other --set poison-features.temperature=3 --set poison-features.quantile=0.5");
    let differences = project.ok("diff artifacts other").out;
    let (differences, _) = differences.split_once("\n\n").unwrap();
    let stages = differences.lines().filter(|line| line.contains(" / ") && !line.contains("accuracy"));
    assert!(stages.clone().count() > 5 && stages.clone().all(|line| line.ends_with("identical")), "{differences}");
}

#[test]
fn refinement_reads_the_target_and_keeps_more_of_the_attack() {
    let project = Project::new();
    let refined = "--set poison-features.attack=bilevel --set poison-features.constraint=ball \
                   --set poison-features.steps=10 --set invert.refine=20 --set invert.steps=1";
    project.ok(&format!("run tiny {refined}"));
    let row: Value = serde_json::from_str(&project.ok(&format!("results tiny {refined} --json")).out).unwrap();
    assert_eq!((&row["attack"], &row["method"]), (&"bilevel".into(), &"refined".into()));
    let (loss, loss_bound) = (&row["clean_loss"], row["loss_bound"].as_f64().unwrap());
    assert!(loss["features"].as_f64().unwrap() <= loss_bound, "{row}");
    assert!(loss["features"].as_f64().unwrap() > loss["clean"].as_f64().unwrap(), "{row}");
    let matched = refined.replace("refine=20", "refine=0");
    project.ok(&format!("run tiny {matched}"));
    let plain: Value = serde_json::from_str(&project.ok(&format!("results tiny {matched} --json")).out).unwrap();
    assert!(loss["images"].as_f64().unwrap() > plain["clean_loss"]["images"].as_f64().unwrap(), "{row} {plain}");

    assert_eq!((&plain["attack"], &plain["method"]), (&"bilevel".into(), &"feature-matching".into()));
    // The controls make as many passes, from another start.
    for (from, sets) in [("base", "refine=21"), ("random", "refine=20")] {
        let control = refined.replace("refine=20", &format!("{sets} --set invert.refine_from={from}"));
        project.ok(&format!("run tiny {control}"));
        let row: Value = serde_json::from_str(&project.ok(&format!("results tiny {control} --json")).out).unwrap();
        assert_eq!((&row["attack"], &row["method"]), (&"bilevel".into(), &format!("refined-from-{from}").into()));
    }

    // If nothing is refined, the target is not read.
    let key = |args: &str| {
        project.tasks(&format!("tiny {args}")).into_iter().find(|t| t["stage"] == "invert").unwrap()["inputs"].clone()
    };
    assert!(key(refined)["target"].is_string() && key(&matched)["target"].is_null());
}

#[test]
fn a_reachable_target_is_as_strong_as_the_budget_and_no_stronger() {
    let project = Project::new();
    let set = "tiny --set target-params.radius=reachable --set target-params.constraint=ball \
               --set target-params.calibration=scale-and-bias --set target-params.poison_fraction=[0.02,0.2]";
    let made = summaries(&project, "target-params", set);
    let bound = |i: usize| made[i]["poison_fraction_bound"]["support"].as_f64().unwrap();
    let radius = |i: usize| made[i]["radius"].as_f64().unwrap();
    assert!(bound(0) <= 0.02 && bound(1) <= 0.2, "{made:?}");
    assert!(radius(0) > 0.0 && radius(1) > 1.2 * radius(0), "{made:?}");
    for method in ["flipped-labels", "shifted-labels"] {
        let set = format!("tiny --set target-params.method={method} --set target-params.share");
        let made = summaries(&project, "target-params", &format!("{set}=[0.1,0.9]"));
        let radius = |i: usize| made[i]["radius"].as_f64().unwrap();
        assert!(radius(0) < radius(1), "{made:?}");
        let budget = "--set target-params.poison_fraction=0.3 --set target-params.constraint=ball";
        let made = summaries(&project, "target-params", &format!("{set}=reachable {budget}"));
        assert!(made[0]["poison_fraction_bound"]["support"].as_f64().unwrap() <= 0.3, "{made:?}");
    }
    project.fails(
        "plan tiny --set target-params.radius=reachable",
        2,
        &["target-params", "`poison_fraction`", "is missing"],
    );
    project.fails(
        "target-params tiny --set target-params.radius=reachable --set target-params.poison_fraction=1e-9 --set target-params.constraint=ball",
        2,
        &["target-params", "`poison_fraction`", "takes at least", "'ball'"],
    );
}

#[test]
fn victims_that_descend_end_near_those_that_are_exact() {
    let project = Project::new();
    let victims = "[[victim]]\nkind = \"linear\"\n\n[[victim]]\nkind = \"linear-sgd\"\nepochs = 200\n\n[evaluate]";
    project.spec("both", &TINY.replace("[evaluate]", victims));
    project.ok("run both");
    let rows = project.ok("results both --json").out;
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 2);
    let clean = |i: usize| rows[i]["accuracy"]["clean"].as_f64().unwrap();
    assert!((clean(0) - clean(1)).abs() < 0.1, "{} {}", clean(0), clean(1));
    assert_ne!(rows[0]["key"], rows[1]["key"]);
    // The default victim is the first of the victims.
    project.ok("run tiny");
    let plain: Value = serde_json::from_str(&project.ok("results tiny --json").out).unwrap();
    assert_eq!(plain["accuracy"], rows[0]["accuracy"]);
    assert_eq!((&plain["victim"], &rows[1]["victim"]), (&"linear".into(), &"linear-sgd".into()));
    assert!(rows[0]["best"].is_null() && rows[1]["best"]["images"].is_number(), "{rows:?}");
}

#[test]
fn clean_and_free_labels_never_share_a_row() {
    let project = Project::new();
    let set = r#"tiny --set poison-features.labels=["clean","adversarial"] --set seeds=[0,1]"#;
    project.ok(&format!("run {set}"));
    let table = project.ok(&format!("results {set}")).out;
    let labels: Vec<&str> = table
        .lines()
        .filter(|l| l.contains(" -> ") && !l.starts_with("labels"))
        .map(|l| if l.starts_with("clean ") { "clean" } else { "adversarial" })
        .collect();
    assert_eq!(labels, ["clean", "adversarial"], "{table}");
    for row in project.ok(&format!("results {set} --json")).out.lines() {
        let row: Value = serde_json::from_str(row).unwrap();
        assert_eq!(row["clean_label"], row["params"]["poison-features"]["labels"] == "clean");
    }
}

#[test]
fn impossible_wishes_are_refused() {
    let project = Project::new();
    let fails = |set: &str, code: i32, words: &[&str]| {
        let set: String = set.split(' ').map(|s| format!("--set poison-features.{s} ")).collect();
        project.fails(&format!("poison-features tiny {set}"), code, words);
    };
    fails("constraint=bal", 2, &["`constraint`", "unknown constraint `bal`", "expected none, ball"]);
    fails("constraint=knn neighbors=30", 2, &["training samples", "needs at least 31"]);
    fails("solver=newton", 2, &["`solver`", "newton", "conditional-gradient"]);
    fails("solver=conditional-gradient max_seconds=9", 2, &["`max_seconds`", "leave it out"]);
    fails("max_seconds=0", 2, &["`max_seconds`", "above 0"]);
    fails("poison_fraction=0.001", 2, &["`poison_fraction`", "gives no poison"]);
}

const PIXELS: &str = r#"
[[poison-images]]
attack = "gradient-canceling"
poison_fraction = 0.1
steps = 4

[[poison-images]]
attack = "tgda"
poison_fraction = 0.1
steps = 4
linf = "8/255"
"#;

#[test]
fn attacks_on_pixels_stand_beside_those_on_features() {
    let project = Project::new();
    project.spec("both", &TINY.replace("[evaluate]", &format!("{PIXELS}[evaluate]")));
    let count = |stage: &str| project.tasks("both").iter().filter(|t| t["stage"] == stage).count();
    assert_eq!((count("poison-features"), count("invert"), count("poison-images"), count("evaluate")), (1, 1, 2, 3));
    project.ok("run both");
    let rows = project.ok("results both --json");
    let rows: Vec<Value> = rows.out.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    let attacks: Vec<_> = rows.iter().map(|r| ["attack", "method"].map(|field| r[field].as_str().unwrap())).collect();
    let expected = [["gradient-canceling", "feature-matching"], ["gradient-canceling", "pixels"], ["tgda", "pixels"]];
    assert_eq!(attacks, expected);
    assert!(rows[0]["accuracy"]["features"].is_number() && rows[1]["accuracy"]["features"].is_null());
    let linf = |row: &Value| row["visibility"]["linf"].as_f64().unwrap();
    assert!(linf(&rows[2]) <= 8.0 / 255.0 + 1e-6 && linf(&rows[2]) > 4.0 / 255.0, "{}", linf(&rows[2]));
    assert!(rows.iter().all(|r| r["accuracy"]["images"].is_number()));

    // More steps improve each attack's objective in its own direction, and the victims' loss rises.
    let objective = |args: &str| -> Vec<f64> {
        project.ok(&format!("run both {args}"));
        let rows = project.ok(&format!("results both --json {args}"));
        let rows = rows.out.lines().map(|row| serde_json::from_str::<Value>(row).unwrap());
        rows.skip(1).map(|row| row["objective"].as_f64().unwrap()).collect()
    };
    let (few, many) = (objective("--set poison-images.steps=1"), objective("--set poison-images.steps=12"));
    assert!(many[0] < few[0] && many[1] > few[1], "{few:?} {many:?}");
    let loss = |head: &str| rows[2]["clean_loss"][head].as_f64().unwrap();
    assert!(loss("images") > loss("clean"), "{} {}", loss("images"), loss("clean"));

    // Parameters that an attack does not read are not in its key.
    let keys = |set: &str| project.tasks(&format!("both {set}")).iter().map(|t| t["key"].clone()).collect::<Vec<_>>();
    assert_eq!(keys(""), keys("--set poison-images.temperature=3"));
    let retrained = "--set poison-images.attack=bilevel-cross-entropy";
    assert_eq!(keys(retrained), keys(&format!("{retrained} --set poison-images.inner.batch=7")));
    assert_ne!(keys(retrained), keys(""));
    // The seed is not in the key of an attack that draws nothing.
    let count = |set: &str| {
        project.tasks(&format!("both --set seeds=[0,1] {set}")).iter().filter(|t| t["stage"] == "poison-images").count()
    };
    assert_eq!((count(""), count(&format!("{retrained} --set poison-images.start=influence"))), (4, 2));

    // An attack on pixels works without attacks on features. Without either, there is nothing to evaluate.
    let (before, _) = TINY.split_once("[poison-features]").unwrap();
    project.spec("pixels", &format!("{before}{PIXELS}[evaluate]\n"));
    assert_eq!(project.tasks("pixels").iter().filter(|t| t["stage"] == "evaluate").count(), 2);
    assert_eq!(Project::stages_that_ran(&project.ok("run pixels")), Vec::<String>::new(), "the same artifacts");
    project.spec("neither", &format!("{before}[evaluate]\n"));
    let none = ["[evaluate]", "none of [poison-features], [invert], [poison-images]"];
    project.fails("plan neither", 2, &none);
    // A decoder alone makes no poisons.
    project.spec("decoder", &format!("{before}[decoder]\n[evaluate]\n"));
    project.fails("plan decoder", 2, &none);
    project.spec("idle", &format!("{before}[decoder]\n{PIXELS}[evaluate]\n"));
    assert_eq!(project.tasks("idle").iter().filter(|t| t["stage"] == "evaluate").count(), 2);
}
