//! What the documentation promises.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

/// The example of a new attack applies to the sources, and is no more than a new file and a module with a line in the registry.
#[test]
fn the_example_of_an_attack_applies() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = include_str!("../../docs/extending.md");
    let (_, rest) = text.split_once("```diff\n").unwrap();
    let (diff, _) = rest.split_once("```\n").unwrap();
    let git = |args: &[&str]| {
        let git =
            Command::new("git").args(args).current_dir(&root).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut git = git.unwrap();
        git.stdin.take().unwrap().write_all(diff.as_bytes()).unwrap();
        let output = git.wait_with_output().unwrap();
        assert!(output.status.success(), "git {args:?} refused the diff in docs/extending.md");
        String::from_utf8(output.stdout).unwrap()
    };
    git(&["apply", "--check", "-"]);
    let files = git(&["apply", "--numstat", "-"]);
    let files: Vec<Vec<&str>> = files.lines().map(|line| line.split('\t').collect()).collect();
    let attacks = "crates/poison-features/src/attacks";
    assert_eq!(files[0], ["2", "0", &format!("{attacks}/mod.rs")]);
    assert_eq!((files.len(), files[1][1], files[1][2]), (2, "0", &*format!("{attacks}/one_step.rs")));
}
