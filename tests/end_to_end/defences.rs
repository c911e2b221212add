//! Defences, and what they do to poisons.

use crate::project::{Project, TINY};
use serde_json::Value;

fn results(project: &Project, name: &str) -> Vec<Value> {
    let results = project.ok(&format!("results {name} --json")).out;
    results.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The tiny pipeline with defences.
fn with(tables: &str) -> String {
    TINY.replace("[evaluate]", &format!("{tables}\n[evaluate]"))
}

#[test]
fn a_defence_stands_beside_none_and_its_clean_victim_is_trained_once() {
    let project = Project::new();
    let spec = with("[[defence]]\nkind = [\"sphere\", \"loss\"]\nremove = 0.1\n");
    project.spec("defended", &spec.replace("poison_fraction = 0.05", "poison_fraction = [0.05, 0.5]"));
    let ran = Project::stages_that_ran(&project.ok("run defended"));
    assert_eq!(ran.iter().filter(|stage| *stage == "defence").count(), 2, "{ran:?}");
    let rows = results(&project, "defended");
    assert_eq!(rows.len(), 4);
    project.ok("run tiny");
    let undefended = results(&project, "tiny");
    for row in &rows {
        let (accuracy, detection) = (&row["accuracy"], &row["detection"]);
        let share = |field: &str| detection[field].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&share("recall")) && (0.0..=1.0).contains(&share("auroc")), "{row}");
        assert!((share("removed") - 0.1).abs() < 0.02 && share("false_positives") <= 0.15, "{row}");
        // Controls stand beside the same attack without a defence.
        assert!(accuracy["random_flips"].is_null() && row["loss_bound"].is_null(), "{row}");
        assert_eq!(accuracy["undefended_clean"], undefended[0]["accuracy"]["clean"]);
    }
    assert_eq!(rows[0]["accuracy"]["undefended"], undefended[0]["accuracy"]["images"]);
    let table = project.ok("results defended").out;
    assert!(["sphere", "loss", "undefended"].iter().all(|word| table.contains(word)), "{table}");
    let wide = project.ok("results defended --wide").out;
    assert!(wide.contains("recall, %") && wide.contains("AUROC, %"), "{wide}");
    project.ok("report defended");
    // Another default that has no effect is the same defence.
    let plan = project.ok("plan defended --set defence.expected=0.2").out;
    assert!(plan.lines().all(|line| !line.starts_with("run")), "{plan}");
}

#[test]
fn what_a_filter_cannot_do_is_refused() {
    let project = Project::new();
    let refused = |table: &str, code: i32, parts: &[&str]| {
        project.spec("refused", &with(&format!("[defence]\n{table}\n")));
        project.fails("run refused", code, parts);
    };
    refused("kind = 'spheres'", 2, &["unknown variant `spheres`", "`sphere`"]);
    refused("kind = 'sphere'\nremove = 1.0", 2, &["remove", "below 1"]);
    refused("kind = 'sphere'\nneighbors = 3", 2, &["neighbors", "`sphere` has no neighbours"]);
    refused("kind = 'sphere'\nremove = 0.999", 2, &["all", "class", "remove less"]);
    let network = "[victim]\nkind = 'fine-tune'\nepochs = 2\nwarmup_epochs = 1\n[defence]\nkind = 'sphere'";
    project.spec("network", &with(network));
    project.fails("plan network", 2, &["`sphere` filters features", "`fine-tune` trains on images"]);
}
