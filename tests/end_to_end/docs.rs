//! What the documentation promises.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

/// The example of a new attack applies to the sources, and is no more than a new file and a module with a line in the
/// registry.
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

/// Comments and documents stand within 120 columns, but for tables and code.
#[test]
fn prose_stands_within_120_columns() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let listed = Command::new("git").args(["ls-files", "*.rs", "*.md"]).current_dir(&root).output().unwrap();
    let mut wide = Vec::new();
    for file in String::from_utf8(listed.stdout).unwrap().lines() {
        let text = std::fs::read_to_string(root.join(file)).unwrap();
        let (document, mut code) = (file.ends_with(".md"), false);
        for (i, line) in text.lines().enumerate() {
            code ^= document && line.trim_start().starts_with("```");
            let table = line.trim_start().trim_start_matches(['/', '!']).trim_start().starts_with('|');
            let prose = if document { !code && !line.starts_with("    ") } else { line.trim_start().starts_with("//") };
            if prose && !table && line.chars().count() > 120 {
                wide.push(format!("{file}:{}", i + 1));
            }
        }
    }
    assert!(wide.is_empty(), "{wide:#?}");
}
