//! Variants of the shipped specs, and of what the command line takes: each is planned, or refused in a few words.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests, too")]

use hemlock_fuzz::{Corpus, error, message};
use hemlock_pipeline::{Override, Plan, Selection, Spec};
use hemlock_stage::Environment;
use std::path::{Path, PathBuf};

fn pipelines() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../pipelines")
}

/// The shipped specs, and what they extend.
fn specs() -> Vec<String> {
    let files = |folder: PathBuf| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = files(pipelines()).chain(files(pipelines().join("base")));
    let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
    files.sort();
    assert!(!files.is_empty());
    files.into_iter().map(|path| std::fs::read_to_string(path).unwrap()).collect()
}

/// Every line of the specs, and what nests, widens or overflows.
fn words(specs: &[String]) -> Vec<String> {
    let mut words: Vec<String> = specs.iter().flat_map(|spec| spec.lines()).map(|line| format!("\n{line}\n")).collect();
    words.sort();
    words.dedup();
    let own = [
        "[[[[",
        "{a={a={",
        "a.b.c.d=1\n",
        "nan",
        "-inf",
        "1979-05-27T07:32:00Z",
        "[0,1,2,3,4,5,6,7,8,9]",
        "\"\"\"",
        "1e400",
        "extends = \"fuzz.toml\"\n",
        "extends = [\"base/head.toml\", \"base\", \"/dev/zero\"]\n",
    ];
    words.into_iter().chain(own.map(str::to_owned)).collect()
}

/// Reads a spec, and plans it as far as that goes without raw data.
fn plan(text: &str, overrides: &[Override]) -> Result<(), String> {
    let graph = hemlock::graph();
    let spec = match Spec::parse(&pipelines().join("fuzz.toml"), text, overrides, &graph) {
        Ok(spec) => spec,
        Err(e) => return error(&e),
    };
    let env = Environment { data: Some(PathBuf::from("nowhere")), ..Environment::default() };
    Plan::new(&spec, &graph, &env).map_or_else(|e| error(&e), |_| Ok(()))
}

#[test]
fn fuzz_specs() {
    let specs = specs();
    let words = words(&specs);
    Corpus::new(specs).words(words).fuzz(|bytes| plan(&String::from_utf8_lossy(bytes), &[]));
}

#[test]
fn fuzz_overrides() {
    let samples = [
        "pretrain.epochs=5",
        "seeds=[0,1]",
        "invert={ method = 'decoder' }",
        "poison-features.poison_fraction=[0.01, 0.03]",
    ];
    let words = [
        "dataset.downstream.",
        "decoder.width=",
        "[[",
        "{",
        "extends",
        "profile",
        "profiles.paper.",
        "18446744073709551616",
    ];
    let spec = &specs()[0];
    Corpus::new(samples).words(words).fuzz(|bytes| match String::from_utf8_lossy(bytes).parse::<Override>() {
        Ok(change) => plan(spec, &[change]),
        Err(e) => message(&e),
    });
}

#[test]
fn fuzz_selections() {
    let (graph, path) = (hemlock::graph(), pipelines().join("quickstart.toml"));
    let plan = Plan::new(
        &Spec::load(&path, &[], &graph).unwrap(),
        &graph,
        &Environment { data: None, ..Environment::default() },
    )
    .unwrap();
    let samples =
        ["seed=0", "poison_fraction=0.03,invert.beta=0", "attack=bilevel", "dataset.downstream.source.kind=synthetic"];
    let words = [",", "=", "[", "{", "1e400", "constraint=", "poison-features."];
    Corpus::new(samples).words(words).fuzz(|bytes| match String::from_utf8_lossy(bytes).parse::<Selection>() {
        Ok(selection) => selection.of(&plan).map_or_else(|e| message(&e), |_| Ok(())),
        Err(e) => message(&e),
    });
}
