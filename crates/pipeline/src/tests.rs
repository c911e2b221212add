//! Tests of specs of any kind, on a graph of stages that do nothing.

use crate::{Graph, MOST_BRANCHES, Node, Override, Plan, Spec};
use hemlock_artifact::Features;
use hemlock_stage::{About, Context, Environment, ParamError, StageError, StageRole, erase, inputs};
use proptest::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Parameters of all stages of these tests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Params {
    number: f64,
    name: Option<String>,
    draws: bool,
    layer: Layer,
    list: Vec<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Layer {
    width: usize,
}

impl Default for Layer {
    fn default() -> Self {
        Self { width: 1 }
    }
}

impl hemlock_stage::Params for Params {
    fn check(&self) -> Result<(), ParamError> {
        ParamError::units("layer.width", self.layer.width)
    }
}

macro_rules! stage {
    ($stage:ident, $name:literal, $inputs:ty) => {
        struct $stage;

        impl hemlock_stage::Stage for $stage {
            const NAME: &'static str = $name;
            const ABOUT: About = About::new(StageRole::Data, "make a test");
            const VERSION: u32 = 1;
            const SEEDED: bool = false;
            const USES_DEVICE: bool = false;
            const LISTS: &'static [&'static str] = &["list"];
            type Params = Params;
            type Inputs = $inputs;
            type Output = Features;

            fn seeded(params: &Params) -> bool {
                params.draws
            }
            fn run(_: &Params, _: $inputs, _: &Context) -> Result<Features, StageError> {
                Err(StageError::internal("it does nothing"))
            }
        }
    };
}

inputs! {
    struct FromSource {
        source: Features = "source",
    }
}
inputs! {
    struct FromEnds {
        ; optional {
            poisons: Features = "left",
        }
    }
}

stage!(Source, "source", ());
stage!(Left, "left", FromSource);
stage!(Right, "right", FromSource);
stage!(End, "end", FromEnds);

/// A graph with two routes from `source` to `end`.
fn graph() -> Graph {
    let node = |name, stage, fallback_for, route| Node { name, stage, fallback_for, route, instead: &[], with: None };
    Graph::new(vec![
        node("source", erase::<Source>(), None, None),
        node("left", erase::<Left>(), None, Some("left")),
        node("right", erase::<Right>(), Some("left"), Some("right")),
        node("end", erase::<End>(), None, None),
    ])
}

fn spec(text: &str, overrides: &[&str]) -> Result<Spec, String> {
    let overrides: Result<Vec<Override>, String> = overrides.iter().map(|text| text.parse()).collect();
    Spec::parse(Path::new("x.toml"), text, &overrides?, &graph()).map_err(|e| e.to_string())
}

const WHOLE: &str = "[source]\n[left]\n[right]\n[end]";

fn numbers(n: usize) -> String {
    format!("{:?}", (0..n).collect::<Vec<_>>())
}

#[test]
fn a_fan_out_beyond_the_limit_is_refused_with_what_multiplies() {
    let set = |n| format!("left.number={}", numbers(n));
    let hundreds: Vec<String> =
        ["source", "left", "end"].iter().map(|node| format!("{node}.number={}", numbers(100))).collect();
    let hundreds: Vec<&str> = hundreds.iter().map(String::as_str).collect();
    let message = spec("seeds = [0, 1]\n[source]\n[left]\ndraws = true\n[end]", &hundreds).unwrap_err();
    assert_eq!(
        message,
        format!(
            "x.toml: the spec has 2000000 branches, and may have at most {MOST_BRANCHES}: its lists multiply, [end] 100 \
             (`number`), [left] 100 (`number`), [source] 100 (`number`), seeds 2; make them shorter, or write several specs"
        )
    );
    assert_eq!(spec(WHOLE, &[&set(MOST_BRANCHES - 1)]).unwrap().branches, MOST_BRANCHES);
    assert!(spec(WHOLE, &[&set(MOST_BRANCHES)]).unwrap_err().contains("20001 branches"));
    let seeds = format!("seeds={}", numbers(MOST_BRANCHES + 1));
    assert!(spec("[source]\ndraws = true", &[&seeds]).unwrap_err().contains("its lists multiply, seeds 20001;"));
    assert_eq!(spec(WHOLE, &["left.number=[1, 2, 1]"]).unwrap_err(), "x.toml:2: [left] `number` holds 1 twice");
}

#[test]
fn seeds_are_a_list() {
    assert_eq!(
        spec(&format!("seeds = 3\n{WHOLE}"), &[]).unwrap_err(),
        "x.toml:1: `seeds` is 3; expected a list: `[3]` for the seed 3, `[0, 1, 2]` for three seeds"
    );
    assert_eq!(spec(WHOLE, &["seeds=[3]"]).unwrap().seeds, [3]);
    for seeds in ["[]", "[1, 1]", "[-1]", "[0.5]", "true", "\"all\"", "[[1]]"] {
        let message = spec(WHOLE, &[&format!("seeds={seeds}")]).unwrap_err();
        assert!(message.contains("expected a list of different integers"), "{seeds}: {message}");
    }
}

#[test]
fn overrides_that_were_cut_at_spaces_say_so() {
    for text in ["left.number=[0.01,", "0.02]", "left.layer={width", "left.number=[0.01,0.02"] {
        let message = text.parse::<Override>().unwrap_err();
        assert!(
            message.contains("stands in quotes as a whole, such as 'poison-features.poison_fraction=[0.01, 0.03]'"),
            "{message}"
        );
    }
    assert!("left.number=[0.01, 0.02]".parse::<Override>().is_ok());
    for lines in ["left.number=1\nleft.layer=2", "left.number=1\nx = 2", "left.number=1\n[left]"] {
        assert!(lines.parse::<Override>().unwrap_err().contains("is more than one override"), "{lines}");
    }
    assert!("left.number=[1,\n2]".parse::<Override>().is_ok());
}

#[test]
fn nothing_is_too_deep() {
    let parts = |n: usize| format!("a{}=1", ".a".repeat(n - 1));
    assert!(parts(60_000).parse::<Override>().unwrap_err().contains("has 60000 parts, and no field has more than 16"));
    assert!(parts(17).parse::<Override>().is_err());
    assert!(spec(WHOLE, &[&parts(16)]).unwrap_err().contains("unknown key `a`"));
    for nested in ["[", "{a="] {
        let message = format!("left.number={}", nested.repeat(60_000)).parse::<Override>().unwrap_err();
        assert!(message.len() < 500, "{message}");
        let message = spec(&format!("[left]\nnumber = {}", nested.repeat(60_000)), &[]).unwrap_err();
        assert!(message.len() < 500, "{message}");
    }
    let message = spec(&format!("[left{}]", ".a".repeat(60_000)), &[]).unwrap_err();
    assert!(message.len() < 500, "{message}");
}

#[test]
fn only_regular_files_of_some_length_are_specs() {
    let folder = tempfile::tempdir().unwrap();
    let load = |path: &Path| Spec::load(path, &[], &graph()).unwrap_err().to_string();
    let long = folder.path().join("long.toml");
    std::fs::write(&long, "#".repeat((1 << 20) + 1)).unwrap();
    assert!(load(&long).ends_with("is no pipeline spec: it has more than 1048576 bytes"));
    assert!(load(folder.path()).contains("it is a folder; expected a file"));
    if cfg!(unix) {
        assert!(load(Path::new("/dev/zero")).contains("expected a file"));
    }
}

#[test]
fn errors_name_the_file_that_says_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let load = |own: &str| {
        write("own.toml", &format!("extends = 'base.toml'\n{own}"));
        let said = Spec::load(&folder.path().join("own.toml"), &[], &graph()).unwrap_err().to_string();
        said.replace(&format!("{}/", folder.path().display()), "")
    };
    let starts = |said: String, with: &str| assert!(said.starts_with(with), "{said}");
    write("base.toml", "\n[source]\nnumber = 1\nname = 7\n[left]\n[end]\n");
    starts(load(""), "base.toml:4: [source] `name`: ");
    starts(load("[source]\nnumber = 2"), "base.toml:4: [source] `name`: ");
    starts(load("\n[source]\nname = true"), "own.toml:4: [source] `name`: ");
    starts(load("[[source]]\n[[source]]\nname = true"), "own.toml:4: [source] `name`: ");
    write("base.toml", "seeds = 3\n[source]\n[lift]\n[end]\n");
    starts(load(""), "base.toml:1: `seeds` is 3");
    starts(load("seeds = [0]"), "base.toml:3: unknown key `lift`");
    starts(load("seeds = [0]\n[lift]"), "own.toml:3: unknown key `lift`");
    // If a table is missing from the spec, the error is about the table that needs it.
    write("base.toml", "[left]\n[end]\n");
    starts(load(""), "base.toml:1: [left] reads what [source] makes");
    starts(load("\n[left]"), "own.toml:3: [left] reads what [source] makes");
    // If no file sets a field, the error is about its table, in the last file that has the table.
    write("base.toml", "[source]\n[left]\nlayer = { width = 0 }\n[end]\n");
    starts(load("[left]\nlayer.width = 0"), "own.toml:3: [left] `layer.width`: ");
    starts(load("[left]\nnumber = 3"), "base.toml:3: [left] `layer.width`: ");
}

#[test]
fn a_spec_that_extends_another_is_one_that_was_written_in_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.toml");
    std::fs::write(folder.path().join("base.toml"), "seeds = [0, 1]\n[source]\nnumber = [1, 2]\n[left]\n[end]\n")
        .unwrap();
    let parse = |text: &str| Spec::parse(&path, text, &["left.number=5".parse().unwrap()], &graph()).unwrap();
    let extended = parse("extends = 'base.toml'\n[source]\nname = 'a'\n[left]\ndraws = true\n");
    let whole = parse("seeds = [0, 1]\n[source]\nname = 'a'\nnumber = [1, 2]\n[left]\ndraws = true\n[end]\n");
    assert_eq!((&extended.variants, &extended.seeds), (&whole.variants, &whole.seeds));
    let keys = |spec: &Spec| {
        let plan = Plan::new(spec, &graph(), &Environment::default()).unwrap();
        plan.tasks.iter().map(|task| task.key).collect::<Vec<_>>()
    };
    assert_eq!(keys(&extended), keys(&whole));
    let message = spec(WHOLE, &["extends=base.toml"]).unwrap_err();
    assert_eq!(message, "x.toml: --set extends=base.toml: `extends` stands in the file; expected a field of a stage");
}

/// A list of numbers, or a single number.
fn list(most: usize) -> impl Strategy<Value = String> {
    (0..most).prop_map(|n| if n == 0 { "7".to_owned() } else { numbers(n) })
}

/// Texts that are short, long, or full of characters with a meaning.
fn text() -> impl Strategy<Value = String> {
    let marks =
        prop::collection::vec(prop::sample::select(vec!["[", "]", "{", "}", "=", ".", "\"", "\n", ",", "a"]), 0..60);
    let word =
        prop::sample::select(vec!["source", "left", "number", "layer.width", "seeds", "profiles.a.left", "[[end]]"]);
    prop_oneof![
        any::<String>(),
        marks.prop_map(|marks| marks.concat()),
        (any::<char>(), 1000..300_000usize).prop_map(|(c, n)| c.to_string().repeat(n)),
        word.prop_map(str::to_owned),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn branches_are_counted_as_they_are_made(
        lists in prop::collection::vec(list(5), 4),
        draws in prop::collection::vec(prop::sample::select(vec!["true", "false", "[true, false]"]), 4),
        there in prop::collection::vec(any::<bool>(), 4),
        seeds in 1..4usize,
    ) {
        let mut text = format!("seeds = {}\n", numbers(seeds));
        for (i, node) in ["source", "left", "right", "end"].into_iter().enumerate() {
            if i == 0 || there[i] {
                text += &format!("[{node}]\nnumber = {}\ndraws = {}\n", lists[i], draws[i]);
            }
        }
        match spec(&text, &[]) {
            Ok(spec) => {
                let plan = Plan::new(&spec, &graph(), &Environment::default()).unwrap();
                prop_assert_eq!(spec.branches, plan.branches.len());
            }
            Err(message) => prop_assert!(message.contains("the spec has none of"), "{}", message),
        }
    }

    #[test]
    fn messages_are_short_whatever_is_wrong(file in text(), key in text(), value in text()) {
        let quoted = serde_json::to_string(&key).unwrap_or_default();
        let whole = format!("{WHOLE}\n");
        for (text, set) in [
            (file.clone(), format!("{key}={value}")),
            (whole.clone(), format!("left.{key}={value}")),
            (whole.clone(), format!("left.name={value}")),
            (whole.clone(), format!("left.number={value}")),
            (format!("{quoted} = 1\n{WHOLE}"), format!("seeds={value}")),
            (format!("{WHOLE}\n{quoted} = {quoted}"), format!("left.layer={value}")),
            (format!("profile = {quoted}\n{WHOLE}\n[profiles.{quoted}]\nleft = {quoted}"), format!("profile={value}")),
        ] {
            for message in [spec(&text, &[]), spec(&text, &[&set])].into_iter().filter_map(Result::err) {
                prop_assert!(message.chars().count() < 2000, "{} characters: {:.300}", message.len(), message);
            }
        }
    }
}
