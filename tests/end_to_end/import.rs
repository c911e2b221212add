//! Extractors that are imported from files of weights.

use crate::project::{Project, TINY, unlabelled};
use safetensors::SafeTensors;
use serde_json::Value;
use std::{fs, path::PathBuf};

/// The tiny pipeline with imported weights, and with `fields` in the table of the import.
fn spec(fields: &str) -> String {
    let (before, rest) = TINY.split_once("[pretrain]").unwrap();
    let (_, after) = rest.split_once("[features]").unwrap();
    format!("{before}[pretrain]\nmethod = \"import\"\narch = \"resnet8-w4\"\n{fields}\n[features]{after}")
}

/// Exports the extractor of the tiny pipeline to the data root, to import it again. Returns the project and the fields
/// of the import.
fn exported() -> (Project, String) {
    let project = Project::new();
    project.ok("features tiny");
    project.ok("export tiny pretrain -o data");
    let info: Value = serde_json::from_slice(&fs::read(project.path().join("data/extractor.json")).unwrap()).unwrap();
    let fields = format!("weights = \"extractor.safetensors\"\nmean = {}\nstd = {}\n", info["mean"], info["std"]);
    project.spec("import", &spec(&fields));
    (project, fields)
}

fn features(project: &Project, pipeline: &str) -> Vec<PathBuf> {
    let out = project.ok(&format!("export {pipeline} features -o features-{pipeline}")).out;
    out.lines().map(|file| project.path().join(file)).collect()
}

/// Stages and keys of the tasks of a plan.
fn keys(project: &Project, args: &str) -> Vec<(String, String)> {
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    project.tasks(args).iter().map(|t| (text(&t["node"]), text(&t["key"]))).collect()
}

#[test]
fn an_exported_extractor_is_imported_and_gives_the_same_features() {
    let (project, fields) = exported();
    let again = project.ok("run import");
    assert_eq!(Project::stages_that_ran(&again)[..2], ["pretrain", "features"]);
    for (a, b) in features(&project, "tiny").iter().zip(features(&project, "import")) {
        let [one, other] = [fs::read(a).unwrap(), fs::read(b).unwrap()];
        assert!(unlabelled(&one) == unlabelled(&other), "{}", a.display());
    }
    // An export of the imported extractor gives the same file again.
    project.ok("export import pretrain -o out");
    let read = |file: &str| fs::read(project.path().join(file)).unwrap();
    let weights = read("out/extractor.safetensors");
    assert!(unlabelled(&read("data/extractor.safetensors")) == unlabelled(&weights));
    assert!(SafeTensors::deserialize(&weights).unwrap().tensor("layer1.0.conv1.weight").is_ok());

    // Results show how the extractor was trained. Changing this description makes nothing run again.
    assert!(project.ok("results import").out.contains("extractor import,"));
    project.spec("import", &spec(&format!("{fields}trained = \"our own, briefly\"")));
    assert!(project.ok("run import").err.contains("0 tasks ran"));
    assert!(project.ok("results import").out.contains("extractor import (our own, briefly),"));
    let row: Value = serde_json::from_str(&project.ok("results import --json").out).unwrap();
    assert_eq!(row["params"]["pretrain"]["trained"], "our own, briefly");
}

#[test]
fn the_content_of_the_file_is_in_the_key_and_its_path_is_not() {
    let (project, fields) = exported();
    let data = project.path().join("data");
    let before = keys(&project, "import");
    // The import reads no training images, whatever the spec says about them.
    let dataset = "[dataset.pretrain]\nsource = { kind = \"synthetic\", domain = \"b\" }\n\n[pretrain]";
    project.spec("more", &spec(&fields).replace("[pretrain]", dataset));
    let more = keys(&project, "more");
    assert!(before.iter().all(|task| more.contains(task)));
    let pretrain = project.tasks("import").into_iter().find(|t| t["stage"] == "pretrain").unwrap();
    assert_eq!(pretrain["inputs"], serde_json::json!({}));

    fs::create_dir(data.join("other")).unwrap();
    // The file next to it is read, too.
    for ending in ["safetensors", "json"] {
        fs::copy(data.join(format!("extractor.{ending}")), data.join(format!("other/same.{ending}"))).unwrap();
    }
    let absolute = data.join("other/same.safetensors");
    assert_eq!(keys(&project, "import --set pretrain.weights=other/same.safetensors"), before);
    assert_eq!(keys(&project, &format!("import --set pretrain.weights={}", absolute.display())), before);
    for set in ["mean=[0.5,0.5,0.5]", "std=[0.5,0.5,0.5]", "image_size=16", "arch=resnet20"] {
        assert_ne!(keys(&project, &format!("import --set pretrain.{set}")), before, "{set}");
    }
    // The content of a probe is in the key. The fields that otherwise describe the network are then not.
    let probed = keys(&project, "import --set pretrain.probe=probe.safetensors");
    assert_ne!(probed, before);
    fs::copy(data.join("probe.safetensors"), data.join("other/of-another-name")).unwrap();
    let set = "--set pretrain.probe=other/of-another-name";
    assert_eq!(keys(&project, &format!("import {set}")), probed);
    fs::remove_file(data.join("other/same.json")).unwrap();
    let without = "import --set pretrain.weights=other/same.safetensors";
    assert_ne!(keys(&project, without), before);
    assert_eq!(keys(&project, &format!("{without} {set}")), probed);
    fs::copy(data.join("extractor.json"), data.join("other/same.json")).unwrap();
    for set in ["branch=teacher", "prefix=model.", "ignore=[\"x\"]"] {
        assert_ne!(keys(&project, &format!("import --set pretrain.{set}")), before, "{set}");
    }
    assert_eq!(project.tasks("import --set pretrain.mean=[[0.5,0.5,0.5],[0.4,0.4,0.4]]").len(), 2 * before.len() - 1);

    // A copy with other metadata is another file with the same weights.
    let bytes = fs::read(&absolute).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let other = safetensors::serialize(tensors.tensors(), Some(metadata)).unwrap();
    fs::write(data.join("extractor.safetensors"), other).unwrap();
    let after = keys(&project, "import");
    assert_eq!(before[0], after[0], "the dataset");
    assert!(before[1..].iter().zip(&after[1..]).all(|(a, b)| a.0 == b.0 && a.1 != b.1));
    project.ok("features import");
}

#[test]
fn fields_of_other_methods_are_refused() {
    let (project, fields) = exported();
    let bad = |field: &str, words: &[&str]| {
        project.spec("bad", &spec(&format!("{fields}{field}")));
        project.fails("plan bad", 2, words);
    };
    bad("epochs = 1", &["bad.toml:16", "[pretrain] `epochs`", "unknown field `epochs`", "expected one of `arch`"]);
    bad("seed = 1", &["bad.toml:16", "[pretrain] `seed`", "unknown field"]);
    bad("image_sise = 16", &["bad.toml:16", "did you mean `image_size`?"]);
    bad("image_size = \"big\"", &["bad.toml:16", "`image_size`", "big"]);
    bad("trained = \"\"", &["bad.toml:16", "`trained`: is empty"]);
    let set = |value: &str, words: &[&str]| project.fails(&format!("plan import --set pretrain.{value}"), 2, words);
    set("std=[0.5,0.5]", &["--set pretrain.std=[0.5,0.5]", "`std`", "array of length 3"]);
    set("std=[58,57,58]", &["`std`: is 58", "above 0 and up to 1"]);
    set("weights=\"\"", &["`weights`: is empty", "the path of a file"]);
    set("probe=\"\"", &["`probe`: is empty", "or no such field"]);
    project.spec("bad", &spec("weights = \"extractor.safetensors\""));
    project.fails("plan bad", 2, &["[pretrain] `mean`: is missing; expected three numbers"]);
    // Other methods do not accept the fields of an import either.
    project.fails("plan tiny --set pretrain.weights=x.pth", 2, &["`weights`: unknown field", "expected one of"]);
    project.fails("plan tiny --set pretrain.method=import", 2, &["[pretrain] `batch`: unknown field `batch`"]);
    project.fails(
        "plan tiny --set pretrain.augment.flipp=1",
        2,
        &["--set pretrain.augment.flipp=1", "`augment.flipp`"],
    );
}

#[test]
fn a_file_that_cannot_be_imported_is_named() {
    let (project, _) = exported();
    let data = project.path().join("data");
    let fails = |file: &str, code: i32, words: &[&str]| {
        project.fails(&format!("pretrain import --set pretrain.weights={file}"), code, words);
    };
    // Without the file, there is no key and so no plan.
    let words = ["[pretrain]", "cannot read data/nowhere.pth, which should be a PyTorch checkpoint or", "No such file"];
    project.fails("plan import --set pretrain.weights=nowhere.pth", 3, &words);
    fails("nowhere.pth", 3, &words);
    let bytes = fs::read(data.join("extractor.safetensors")).unwrap();
    fs::write(data.join("cut.safetensors"), &bytes[..bytes.len() / 2]).unwrap();
    fails("cut.safetensors", 3, &["data/cut.safetensors is damaged, or no safetensors file"]);
    fs::write(data.join("page.pth"), "<!DOCTYPE html>").unwrap();
    fails("page.pth", 3, &["data/page.pth is a web page", "fetch it by hand"]);
    // What matters is the content of the file, not its name.
    fs::write(data.join("renamed.pth.tar"), &bytes).unwrap();
    project.ok("pretrain import --set pretrain.weights=renamed.pth.tar");
    fs::write(data.join("text.th"), "no weights").unwrap();
    fails("text.th", 3, &["data/text.th is damaged, or no PyTorch checkpoint"]);
    let misfit = "pretrain import --set pretrain.arch=resnet14-w4";
    project.fails(misfit, 2, &["extractor.safetensors cannot be imported as resnet14-w4", "30 missing: `layer1.1."]);
    // The file next to the weights and the spec disagree.
    let words = ["data/extractor.json says `image_size` = ", ", and the spec `image_size = 16`. A `probe` shows"];
    project.fails("pretrain import --set pretrain.image_size=16", 2, &words);
    project.fails("pretrain import --set pretrain.std=[0.5,0.5,0.5]", 2, &["and the spec `std = [0.5, 0.5, 0.5]`"]);
    // The images have another size than the network expects.
    let other = "import --set pretrain.image_size=16 --set pretrain.weights=renamed.pth.tar";
    project.ok(&format!("pretrain {other}"));
    project.fails(&format!("features {other}"), 3, &["the extractor expects [n, 3, 16, 16]"]);
}

#[test]
fn an_import_is_unverified_until_a_probe_shows_what_it_computes() {
    let (project, fields) = exported();
    let said = project.ok("run import").err;
    assert_eq!(
        said.matches("unverified import: names and shapes of data/extractor.safetensors fit").count(),
        1,
        "{said}"
    );
    assert!(said.contains("docs/pretraining.md"), "{said}");
    assert!(project.ok("status import").out.contains(", unverified import"));
    let table = project.ok("results import").out;
    assert!(table.contains("UNVERIFIED IMPORT: no `probe` has shown that an extractor (import) computes"), "{table}");
    let row = |pipeline: &str| -> Value {
        serde_json::from_str(&project.ok(&format!("results {pipeline} --json")).out).unwrap()
    };
    assert_eq!(row("import")["verified"], false);
    let page = |pipeline: &str| {
        project.ok(&format!("report {pipeline} -o {pipeline}.html"));
        fs::read_to_string(project.path().join(format!("{pipeline}.html"))).unwrap().to_lowercase()
    };
    assert_eq!(page("import").matches("unverified import").count(), 2);
    // An import that was compared with nothing verifies nothing.
    let out = project.ok("export import pretrain -o out").out;
    assert!(!out.contains("probe"), "{out}");

    project.spec("probed", &spec(&format!("{fields}probe = \"probe.safetensors\"\n")));
    let said = project.ok("run probed").err;
    assert!(!said.contains("unverified"), "{said}");
    let status = project.ok("status probed").out;
    assert!(status.contains("difference 0") && status.contains(", verified import"), "{status}");
    assert!(!project.ok("results probed").out.contains("UNVERIFIED"));
    assert_eq!(row("probed")["verified"], true);
    assert!(!page("probed").contains("unverified import"));
    assert!(project.ok("export probed pretrain -o again").out.contains("again/probe.safetensors"));
    // Of what was not imported, there is nothing to verify.
    project.ok("run tiny");
    assert_eq!(row("tiny")["verified"], Value::Null);
    assert!(!project.ok("status tiny").out.contains("verified"));

    let other = "pretrain probed --set pretrain.mean=[0.1,0.2,0.3]";
    let words = [
        "`resnet8-w4` with these weights does not give the features of data/probe.safetensors",
        "1e-3 is allowed",
        "mean and std",
    ];
    project.fails(other, 2, &words);
    project.fails(
        "pretrain probed --set pretrain.probe=extractor.safetensors",
        3,
        &["has no array `images`; it has bn1.bias,"],
    );
    project.fails("plan probed --set pretrain.probe=nowhere", 3, &["cannot read data/nowhere"]);
}
