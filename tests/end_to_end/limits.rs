//! Excessive values are refused at once, with short messages, and without using more memory than there is.

use crate::project::{Project, TINY};
use std::{
    fs,
    time::{Duration, Instant},
};

/// Most characters of any message.
const LONGEST: usize = 4000;

/// Runs the binary with more arguments, which may contain spaces.
#[track_caller]
fn refused(project: &Project, args: &str, last: &[&str]) -> String {
    let output = project.command(args).args(last).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let shown = said.chars().take(LONGEST).collect::<String>();
    assert_eq!(output.status.code(), Some(2), "hemlock {args}: {shown}");
    assert!(said.chars().count() < LONGEST, "{} characters: {shown}", said.len());
    said
}

#[test]
fn a_fan_out_is_counted_before_it_is_made() {
    let project = Project::new();
    let numbers: Vec<String> = (1..=100).map(|i| format!("{}", f64::from(i) / 100.0)).collect();
    let list = format!("[{}]", numbers.join(","));
    let sets: Vec<String> = ["target-params.radius", "poison-features.poison_fraction", "invert.beta"]
        .iter()
        .flat_map(|field| ["--set".to_owned(), format!("{field}={list}")])
        .collect();
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    for command in ["plan tiny", "run tiny", "results tiny", "export tiny features -o out"] {
        let said = refused(&project, command, &sets);
        for word in ["pipelines/tiny.toml", "1000000 branches", "at most 20000", "[invert] 100 (`beta`)", "(`radius`)"]
        {
            assert!(said.contains(word), "{word}: {said}");
        }
    }
    // A sweep of thousands of seeds can be planned.
    let seeds: Vec<String> = (0..5000).map(|seed| seed.to_string()).collect();
    let plan = project.command("plan tiny --set").arg(format!("seeds=[{}]", seeds.join(","))).output().unwrap();
    assert!(String::from_utf8(plan.stdout).unwrap().contains("15004 tasks in 5000 branches"));
}

#[test]
fn messages_are_short_whatever_they_quote() {
    let project = Project::new();
    let long = "x".repeat(100_000);
    for last in [
        format!("--set={long}"),
        format!("--set={long}=1"),
        format!("--set=pretrain.{long}=1"),
        format!("--set=pretrain.arch={long}"),
        format!("--set=pretrain.epochs={long}"),
        format!("--set=invert.method={long}"),
        format!("--set=dataset.downstream.source={long}"),
        format!("--set=seeds={long}"),
        format!("--set=profile={long}"),
        format!("--set=a{}=1", ".a".repeat(60_000)),
        format!("--set=pretrain.epochs={}", "[".repeat(60_000)),
        format!("--device={long}"),
        format!("--{long}"),
    ] {
        refused(&project, "plan tiny", &[&last]);
    }
    refused(&project, "plan", &[&long]);
    refused(&project, &long, &[]);
    refused(&project, "why tiny --stage", &[&long]);
    refused(&project, "export tiny features -o out --select", &[&format!("{long}=1")]);
    refused(&project, "export tiny features -o out --select", &[&long]);
    project.spec("key", &format!("{TINY}\n[{}]\n", "k".repeat(900_000)));
    refused(&project, "plan key", &[]);
    project.spec("long", &format!("{TINY}# {}\n", "x".repeat(2_000_000)));
    assert!(refused(&project, "plan long", &[]).contains("more than 1048576 bytes"));
}

#[test]
fn widths_have_bounds_and_what_does_not_fit_into_memory_is_not_begun() {
    let project = Project::new();
    project.spec("decoded", &TINY.replace("\"feature-matching\"\nsteps = 3", "\"decoder\"\n[decoder]"));
    for (args, field) in [
        ("plan tiny --set pretrain.projector.out=", "projector.out"),
        ("plan tiny --set pretrain.projector.hidden=", "projector.hidden"),
        ("plan tiny --set pretrain.predictor.hidden=", "predictor.hidden"),
        ("plan decoded --set decoder.width=", "width"),
        ("plan tiny --set victim.kind=mlp --set victim.hidden=", "hidden"),
    ] {
        for width in ["65537", "4294967296", "1000000000000", "9223372036854775807"] {
            project.fails(&format!("{args}{width}"), 2, &[field, width, "expected at most 65536"]);
        }
    }
    let pool = "dataset.downstream.source={kind='synthetic',domain='a',train_pool=4000000000}";
    project.fails(&format!("plan tiny --set {pool}"), 2, &["train_pool", "at most 10000000"]);
    // The value is within the bounds, but needs more memory than a machine has.
    let words = ["a decoder of width 65536", "of memory, and", "are available"];
    project.fails("run decoded --set decoder.width=65536", 2, &words);
    assert!(project.artifact("artifacts", "features").is_dir(), "what ran before stays");
}

#[test]
fn seeds_are_a_list_and_shares_are_no_percentages() {
    let project = Project::new();
    project.fails("plan tiny --set seeds=3", 2, &["`[3]` for the seed 3", "`[0, 1, 2]` for three seeds"]);
    project.fails(
        "plan tiny --set poison-features.poison_fraction=3",
        2,
        &["a share above 0 and up to 1: 3 % is 0.03"],
    );
    let quotes = "in quotes as a whole, such as 'poison-features.poison_fraction=[0.01, 0.03]'";
    project.fails("plan tiny --set poison-features.poison_fraction=[0.01, --set 0.02]", 2, &[quotes]);
    project.fails("plan tiny --set 0.02]", 2, &["'0.02]' is no override", quotes]);
}

/// A request to stop takes effect within a step, even while an objective computes something itself.
#[cfg(unix)]
#[test]
fn long_steps_are_stopped() {
    let project = Project::new();
    project.ok("target-params tiny");
    let set = "--set poison-features.attack=tgda --set poison-features.inner.steps=4294967295";
    let child = project.spawn(&format!("poison-features tiny {set}"));
    std::thread::sleep(Duration::from_secs(2));
    let begun = Instant::now();
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(!project.path().join("artifacts/poison-features").exists() || !has_artifact(&project));
}

/// Whether any poisoned features were published.
fn has_artifact(project: &Project) -> bool {
    let entries = fs::read_dir(project.path().join("artifacts/poison-features")).unwrap();
    entries.flatten().any(|entry| entry.path().join("manifest.json").is_file())
}
