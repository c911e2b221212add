//! The command `hemlock self-test`. The computations of its checks are tested where they are implemented.

use crate::project::Project;
use serde_json::Value;
use std::fs;

#[test]
fn a_self_test_goes_on_where_it_was_stopped() {
    let project = Project::new();
    let ran = project.ok("self-test -o found.jsonl resnet8");
    assert!(ran.out.contains("features, resnet8") && ran.out.contains("passed"), "{}", ran.out);
    let file = project.path().join("found.jsonl");
    let first = fs::read_to_string(&file).unwrap();
    assert_eq!(first.lines().count(), 2);
    // Results that are already in the file are used as they are.
    fs::write(&file, first.replace("\"difference\":0.0", "\"difference\":0.5")).unwrap();
    project.fails("self-test -o found.jsonl resnet8", 1, &["flex failed 2 of 2 checks"]);
    project.fails("self-test -o found.jsonl resnet", 1, &["flex failed 2 of "]);
    assert!(fs::read_to_string(&file).unwrap().lines().count() > 2);
    let json: Value =
        serde_json::from_str(project.ok("self-test --json vit").out.lines().next().unwrap_or("{}")).unwrap();
    assert_eq!((&json["device"], &json["difference"]), (&"flex".into(), &0.0.into()));
    // With `--jobs`, checks run side by side, each in a process of its own.
    let beside = project.ok("self-test --jobs 2 --json resnet8").out;
    let found: Vec<Value> = beside.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|found| found["difference"] == 0.0 && found["failure"].is_null()), "{beside}");
    fs::write(&file, "no line").unwrap();
    project.fails(
        "self-test -o found.jsonl",
        4,
        &["found.jsonl: line 1: ", "expected what an earlier self-test wrote"],
    );
    project.fails("self-test nothing", 2, &["no check has 'nothing' in its name", "features, resnet8"]);
    project.fails("self-test --device cuda:7", 2, &["CUDA_VISIBLE_DEVICES"]);
}
