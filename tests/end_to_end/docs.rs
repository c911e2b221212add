//! Promises that the documentation makes.

use crate::project::Project;
use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The example of an attack in docs/extending.md is the file that the tests build and run.
#[test]
fn the_example_of_an_attack_is_the_one_that_is_built() {
    let text = include_str!("../../docs/extending.md");
    let (_, rest) = text.split_once("```rust\n").unwrap();
    let (code, _) = rest.split_once("```\n").unwrap();
    assert_eq!(code, include_str!("../../crates/cli/examples/own_attack.rs"));
}

/// No line of a comment or a document has more than 120 columns, except in tables and code.
#[test]
fn prose_stands_within_120_columns() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let listed = Command::new("git").args(["ls-files", "*.rs", "*.md"]).current_dir(&root).output().unwrap();
    let mut wide = Vec::new();
    for file in String::from_utf8(listed.stdout).unwrap().lines() {
        let text = fs::read_to_string(root.join(file)).unwrap();
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

/// The repository's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The verdicts in the documents are those that a report gives on the results that come with them. Results are no use
/// if no document says what they are of.
#[test]
fn verdicts_are_those_of_the_measured_results() {
    let names = |folder: &str, extension: &str| -> Vec<PathBuf> {
        let files = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|file| file.extension().is_some_and(|e| e == extension)).collect()
    };
    let pages: Vec<String> = names("docs", "md").iter().map(|page| fs::read_to_string(page).unwrap()).collect();
    let files = names("docs/measured", "zst");
    assert!(!files.is_empty());
    let (project, mut computed) = (Project::new(), HashSet::new());
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        let command = format!("--from docs/measured/{name}");
        assert!(pages.iter().any(|page| page.contains(&command)), "{name} is on no page");
        project.ok(&format!("report --from {} -o {name}.html", file.display()));
        // There is no such table if nothing was compared.
        let verdicts =
            fs::read_to_string(project.path().join(format!("{name}.tables/findings.md"))).unwrap_or_default();
        computed.extend(verdicts.lines().filter(|line| line.starts_with("| F")).map(str::to_owned));
    }
    let page = fs::read_to_string(root().join("docs/measured-findings.md")).unwrap();
    let told: HashSet<String> = page.lines().filter(|line| line.starts_with("| F")).map(str::to_owned).collect();
    assert_eq!(told, computed);
}

/// Every stage and every attack stands in the documents that list them.
#[test]
fn all_stages_and_attacks_are_in_the_documents() {
    let read = |file: &str| fs::read_to_string(root().join(file)).unwrap();
    let stages = hemlock::graph().stages();
    for file in ["ARCHITECTURE.md", "docs/spec.md", "docs/command-line.md", "docs/introduction.md"] {
        let text = read(file);
        let missing: Vec<_> = stages.iter().filter(|stage| !text.contains(**stage)).collect();
        assert!(missing.is_empty(), "{file}: {missing:?}");
    }
    for file in ["docs/attacks.md", "docs/results.md"] {
        let text = read(file);
        let names = hemlock_attack::attacks::all().map(|attack| attack.name());
        let missing: Vec<_> = names.filter(|name| !text.contains(&format!("`{name}`"))).collect();
        assert!(missing.is_empty(), "{file}: {missing:?}");
    }
}

/// Every stage has a recipe, which does the stages before it first.
#[test]
fn every_stage_has_a_recipe_after_that_of_the_stage_before_it() {
    let justfile = fs::read_to_string(root().join("justfile")).unwrap();
    let stages = hemlock::graph().stages();
    for (i, stage) in stages.iter().enumerate() {
        let first = match i.checked_sub(1) {
            Some(before) => format!("(behind ARGS) ({} NAME \"--on-the-way\")", stages[before]),
            None => "build".to_owned(),
        };
        let command =
            format!("@{{{{hemlock}}}} {stage} {{{{NAME}}}} --jobs {{{{jobs}}}} {{{{overrides}}}} {{{{ARGS}}}}");
        let recipe = format!("\n{stage} NAME *ARGS: {first}\n    {command}\n");
        assert!(justfile.contains(&recipe), "the justfile has no such recipe:{recipe}");
    }
}

/// One public name has one meaning: no name of a public type is defined twice. What every crate of a stage defines is
/// the exception.
#[test]
fn public_types_have_names_of_their_own() {
    const OF_EVERY_STAGE: [&str; 3] = ["Inputs", "Params", "Stage"];
    let listed = Command::new("git").args(["ls-files", "crates/*/src/*.rs"]).current_dir(root()).output().unwrap();
    let mut definitions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in String::from_utf8(listed.stdout).unwrap().lines() {
        for (i, line) in fs::read_to_string(root().join(file)).unwrap().lines().enumerate() {
            let mut words = line.trim_start().split(|c: char| !c.is_alphanumeric() && c != '_');
            let (Some("pub"), Some(kind), Some(name)) = (words.next(), words.next(), words.next()) else { continue };
            if ["enum", "struct", "trait", "type"].contains(&kind) && !OF_EVERY_STAGE.contains(&name) {
                definitions.entry(name.to_owned()).or_default().push(format!("{file}:{}", i + 1));
            }
        }
    }
    assert!(definitions.len() > 100, "the definitions are not found: {definitions:#?}");
    definitions.retain(|_, places| places.len() > 1);
    assert!(definitions.is_empty(), "{definitions:#?}");
}

/// The Markdown files in a folder and, if `deep` is set, in all folders below it.
fn markdown(folder: &Path, deep: bool) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if deep && path.is_dir() {
            files.extend(markdown(&path, deep));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The lines of a document that are not code: neither fenced nor indented.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence && !line.starts_with("    ")
    })
}

/// The targets of all links and images in a document, `[text](target)`.
fn links(text: &str) -> Vec<String> {
    // A link may continue on the next line, and code in its text may contain brackets.
    let text = prose(text).collect::<Vec<_>>().join(" ");
    let without_code: String = text.split('`').step_by(2).collect();
    let targets = without_code.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
    targets.map(str::to_owned).collect()
}

/// The anchors of a document's headings, as GitHub and mdBook make them: lower case, hyphens instead of spaces, no
/// punctuation, and a number if the same heading occurs again.
fn anchors(text: &str) -> HashSet<String> {
    let mut anchors = HashSet::new();
    for heading in prose(text).filter(|line| line.trim_start_matches('#').starts_with(' ') && line.starts_with('#')) {
        let kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
        let words: String = heading.trim_start_matches('#').trim().to_lowercase().chars().filter(kept).collect();
        let anchor = words.replace(' ', "-");
        let numbered = (1..).map(|n| format!("{anchor}-{n}"));
        let free = std::iter::once(anchor.clone()).chain(numbered).find(|anchor| !anchors.contains(anchor));
        anchors.extend(free);
    }
    anchors
}

/// What is wrong with a link of a document, or `None` if the link is good.
fn broken(document: &Path, link: &str) -> Option<&'static str> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
    let target = if path.is_empty() { document.to_owned() } else { document.parent().unwrap().join(path) };
    if !target.exists() {
        return Some("no such file");
    }
    let known = |anchor| anchors(&fs::read_to_string(&target).unwrap()).contains(anchor);
    anchor.is_some_and(|anchor| !known(anchor)).then_some("no such heading")
}

/// Relative links lead to files that exist, and to headings in them.
#[test]
fn links_lead_somewhere() {
    let mut wrong = Vec::new();
    for document in [markdown(&root(), false), markdown(&root().join("docs"), true)].concat() {
        for link in links(&fs::read_to_string(&document).unwrap()) {
            if let Some(why) = broken(&document, &link) {
                wrong.push(format!("{}: {link}: {why}", document.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let text = "# One `[two]`, 3\n\n[a](b.md) and ![c\nd](e.svg 'f'); `[no](code)`\n\n    [no](code)\n\n```\n[no](code)\n```\n\
        [`[g]`](#one-two-3)\n## One\n## One\n";
    assert_eq!(links(text), ["b.md", "e.svg", "#one-two-3"]);
    assert_eq!(anchors(text), ["one-two-3", "one", "one-1"].map(str::to_owned).into());
    let readme = root().join("README.md");
    assert_eq!(broken(&readme, "https://just.systems"), None);
    assert_eq!(broken(&readme, "README.md#start"), None);
    assert_eq!(broken(&readme, "nowhere.md"), Some("no such file"));
    assert_eq!(broken(&readme, "#nowhere"), Some("no such heading"));
}

/// The summary names every page: mdBook leaves out all others.
#[test]
fn the_summary_names_every_page() {
    let docs = root().join("docs");
    let named = links(&fs::read_to_string(docs.join("SUMMARY.md")).unwrap());
    for page in markdown(&docs, true) {
        let name = page.strip_prefix(&docs).unwrap().to_str().unwrap();
        assert!(name == "SUMMARY.md" || named.iter().any(|named| named == name), "docs/SUMMARY.md lacks {name}");
    }
}

/// The README is a short page to start from, and its example of exports is the one in the book.
#[test]
fn the_readme_is_short_and_agrees_with_the_book() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let lines = readme.lines().count();
    assert!(lines <= 150, "README.md has {lines} lines");
    let book = fs::read_to_string(root().join("docs/use-results.md")).unwrap();
    let script = |text: &str| text.split("```python\n").nth(1).unwrap().split("```").next().unwrap().to_owned();
    assert_eq!(script(&readme), script(&book));
    let commands = |text: &str| -> Vec<String> {
        let exports = text.lines().filter(|line| line.starts_with("    just export quickstart"));
        exports.map(|line| line.split(" #").next().unwrap().trim().to_owned()).collect()
    };
    assert_eq!(commands(&readme), commands(&book));
}

/// Workflows call scripts of the repository that are there and can be run, and no others.
#[test]
fn workflows_call_what_is_there() {
    let workflows = fs::read_dir(root().join(".github/workflows")).unwrap().map(|entry| entry.unwrap().path());
    let mut called = 0;
    for workflow in workflows {
        let text = fs::read_to_string(&workflow).unwrap();
        for line in text.lines().filter_map(|line| line.trim().strip_prefix("- run: ")) {
            let Some(script) = line.split_whitespace().find(|word| !word.contains('=')) else { continue };
            if !script.contains('/') {
                continue;
            }
            let file = root().join(script);
            assert!(file.is_file(), "{}: {script}", workflow.display());
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt;
                let mode = fs::metadata(&file).unwrap().permissions().mode();
                assert!(mode & 0o111 != 0, "{script} cannot be run");
            }
            called += 1;
        }
    }
    assert!(called >= 3, "ci.yml and release.yml call scripts");
}

/// The notes of a release are its section of the changelog.
#[test]
fn a_release_has_notes_or_does_not_begin() {
    let said = |version: &str| {
        let ran = Command::new(root().join(".ci/changelog")).arg(version).output().unwrap();
        (ran.status.success(), String::from_utf8_lossy(&ran.stderr).into_owned())
    };
    let (begins, why) = said("99.0.0");
    assert!(!begins && why.contains("the tag says 99.0.0"), "{why}");
    let changelog = fs::read_to_string(root().join("CHANGELOG.md")).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    let has = changelog.lines().any(|line| line.starts_with("## ") && line.contains(version));
    assert_eq!(said(version).0, has);
}
