//! The examples of docs/extending.md: binaries of their own, each with one additional stage or attack.

use crate::project::{Project, TINY};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Path of an example, which is built next to the tests.
fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let built = tests.parent().and_then(Path::parent).unwrap().join("examples").join(name);
    assert!(built.is_file(), "{} is not built: cargo build --release --workspace --examples", built.display());
    built
}

fn rows(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A stage from another crate is in the help, the plan, the results and the report, and its parameters fan out.
#[test]
fn a_stage_of_ones_own_is_known_everywhere() {
    let project = Project::with(&example("own_stage"));
    project.spec("filtered", &format!("{TINY}\n[norm-filter]\nquantile = [0.5, 0.9]\n"));
    let help = project.ok("--help").out;
    assert!(
        help.contains("norm-filter")
            && help.split_whitespace().collect::<Vec<_>>().join(" ").contains("filter features by their norm"),
        "{help}"
    );
    assert!(project.ok("plan filtered").out.contains("norm-filter"));
    project.fails("plan filtered --set norm-filter.quantile=2", 2, &["[norm-filter]", "`quantile`"]);
    project.ok("norm-filter filtered");
    project.ok("run filtered");
    let rows = rows(&project.ok("results filtered --json").out);
    let removed = |row: &Value| row["stages"]["norm-filter"]["removed_clean"].as_f64().unwrap();
    assert_eq!(rows.len(), 2);
    // The filter keeps half of the clean samples, or nine tenths, up to ties and rounding.
    assert!((removed(&rows[0]) - 0.5).abs() < 0.1 && (removed(&rows[1]) - 0.1).abs() < 0.1, "{rows:?}");
    assert_eq!(rows[0]["params"]["norm-filter"]["quantile"], 0.5);
    let table = project.ok("results filtered --wide --legend").out;
    assert!(table.contains("removed poisons") && table.contains("that the norm filter removes"), "{table}");
    project.ok("report filtered -o page.html");
    let csv = std::fs::read_to_string(project.path().join("page.tables/rows.csv")).unwrap();
    assert!(csv.lines().next().unwrap().contains("stages.norm-filter.removed_poisons"), "{csv}");
    let page = std::fs::read_to_string(project.path().join("page.html")).unwrap();
    for declared in ["removed clean samples", "that the norm filter removes", "filter features by their norm"] {
        assert!(page.contains(declared), "{declared}");
    }
    let means = std::fs::read_to_string(project.path().join("page.tables/results.csv")).unwrap();
    assert!(means.lines().next().unwrap().contains(",removed poisons,"), "{means}");
    // Both parameters are rows, although the victims are the same.
    let rows_of = |csv: &str| csv.lines().count() - 1;
    assert_eq!([rows_of(&csv), rows_of(&means)], [2, 2]);
    assert_eq!(rows_of(&project.ok("results filtered --csv").out), 2);
    // The stage does not run on branches that have no poisoned features.
    let pixels = "[poison-images]\nattack = \"gradient-canceling\"\npoison_fraction = 0.1\nsteps = 3\n";
    project.spec("both", &format!("{TINY}\n{pixels}\n[norm-filter]\n"));
    project.ok("run both");
    let both = self::rows(&project.ok("results both --json").out);
    let filtered: Vec<bool> = both.iter().map(|row| row["stages"].get("norm-filter").is_some()).collect();
    assert_eq!(filtered, [true, false]);
    // The binary without the stage reports that the stage is unknown.
    Project::new().fails("plan nothing", 2, &["nothing"]);
}

/// An attack from another crate works on features, through inversion, and on pixels.
#[test]
fn an_attack_of_ones_own_is_known_everywhere() {
    let project = Project::with(&example("own_attack"));
    let spec = TINY.replace("attack = \"gradient-canceling\"", "attack = \"one-step\"");
    assert_ne!(spec, TINY);
    project.spec("own", &format!("{spec}\n[poison-images]\nattack = \"one-step\"\npoison_fraction = 0.1\nsteps = 3\n"));
    project.ok("run own --set invert.refine=2");
    let rows = rows(&project.ok("results own --set invert.refine=2 --json").out);
    let methods: Vec<&str> = rows.iter().map(|row| row["method"].as_str().unwrap()).collect();
    assert_eq!(methods, ["refined", "pixels"]);
    assert!(rows.iter().all(|row| row["attack"] == "one-step" && row["accuracy"]["images"].is_number()), "{rows:?}");
    project.fails("plan own --set poison-features.attack=two-step", 2, &["`one-step`"]);
}
