//! ARCHITECTURE.md's statements about crates, compared with the output of cargo.

use serde_json::Value;
use std::{collections::BTreeMap, path::Path, process::Command};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// A row of the table: one kind of crates.
struct Kind {
    name: String,
    crates: Vec<String>,
    uses: Vec<String>,
}

/// Parses the table below the heading `Crates`.
fn kinds() -> Vec<Kind> {
    let text = include_str!("../../ARCHITECTURE.md");
    let (_, section) = text.split_once("## Crates\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| ") && line.contains('`'));
    let kind = |row: &str| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        Kind {
            name: cells[0].to_owned(),
            crates: cells[1].trim_matches('`').split(' ').map(str::to_owned).collect(),
            uses: cells[2].split(", ").filter(|kind| !kind.is_empty()).map(str::to_owned).collect(),
        }
    };
    rows.map(kind).collect()
}

/// The crates of this workspace, and which of them each uses outside of its tests.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let metadata = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(ROOT)
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let short = |name: &Value| name.as_str().unwrap().trim_start_matches("hemlock-").to_owned();
    let used = |package: &Value| {
        let all = package["dependencies"].as_array().unwrap().iter();
        let used = all.filter(|one| one["kind"] != "dev" && !one["path"].is_null());
        used.map(|one| short(&one["name"])).collect()
    };
    metadata["packages"].as_array().unwrap().iter().map(|package| (short(&package["name"]), used(package))).collect()
}

#[test]
fn every_crate_uses_what_its_kind_may_use() {
    let (kinds, dependencies) = (kinds(), dependencies());
    let kind_of = |name: &str| kinds.iter().find(|kind| kind.crates.iter().any(|one| one == name));
    let place = |kind: &Kind, name: &str| kind.crates.iter().position(|one| one == name);
    let mut broken = Vec::new();
    for (name, used) in &dependencies {
        let Some(kind) = kind_of(name) else {
            broken.push(format!("`{name}` is in no row"));
            continue;
        };
        for other in used {
            let Some(theirs) = kind_of(other) else { continue };
            let same = theirs.name == kind.name;
            let allowed = match kind.name.as_str() {
                "stages" if same => false,
                "building blocks" | "stages" if ["pipeline", "submit"].contains(&other.as_str()) => false,
                _ if same => place(kind, other) < place(kind, name),
                _ => kind.uses.contains(&theirs.name),
            };
            if !allowed {
                broken.push(format!("`{name}` ({}) uses `{other}` ({})", kind.name, theirs.name));
            }
        }
    }
    let named = kinds.iter().flat_map(|kind| &kind.crates).filter(|name| !dependencies.contains_key(*name));
    broken.extend(named.map(|name| format!("there is no crate `{name}`")));
    assert!(dependencies.len() > 20 && broken.is_empty(), "ARCHITECTURE.md says otherwise:\n{}", broken.join("\n"));
}

/// Clippy refuses `println!` and similar macros. These are the other ways to print.
#[test]
fn only_the_command_line_and_the_benches_print() {
    let listed = Command::new("git").args(["ls-files", "crates/*/src/*.rs"]).current_dir(ROOT).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let files: Vec<&str> = listed.lines().filter(|file| !file.starts_with("crates/bench/")).collect();
    let prints = |file: &&&str| {
        let text = std::fs::read_to_string(Path::new(ROOT).join(file)).unwrap();
        ["io::stdout()", "io::stderr()", "allow(clippy::print_stdout"].iter().any(|way| text.contains(way))
    };
    let printing: Vec<&&str> = files.iter().filter(prints).collect();
    assert!(printing.iter().all(|file| file.starts_with("crates/cli/")), "{printing:?}");
    assert!(!printing.is_empty(), "the command line prints in another way now");
}
