//! Features that are imported from files, instead of images and an extractor.

use crate::project::{Project, TINY};
use safetensors::{Dtype, SafeTensors, serialize};
use serde_json::Value;
use std::{collections::BTreeSet, fs, path::Path};

/// The tiny pipeline on imported features, without inversion. `fields` are added to `[features]`.
fn spec(fields: &str) -> String {
    let (head, rest) = TINY.split_once("[dataset.downstream]").unwrap();
    let (_, rest) = rest.split_once("[features]").unwrap();
    let (attack, rest) = rest.split_once("[invert]").unwrap();
    let (_, evaluate) = rest.split_once("[evaluate]").unwrap();
    format!("{head}[features]\nmethod = \"import\"\n{fields}\n{attack}[evaluate]{evaluate}")
}

/// Tensors, each with its name, type, shape and bytes.
type Arrays = Vec<(String, Dtype, Vec<usize>, Vec<u8>)>;

/// The features of the tiny pipeline without normalisation, as the arrays of an import.
fn exported(project: &Project) -> Arrays {
    project.ok("features tiny --set features.normalization=none");
    project.ok("export tiny features --set features.normalization=none -o out");
    let mut arrays = Vec::new();
    for split in ["train", "validation", "test"] {
        let bytes = fs::read(project.path().join(format!("out/{split}.safetensors"))).unwrap();
        for (name, tensor) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
            let name = if name == "features" { split.to_owned() } else { format!("{split}_{name}") };
            arrays.push((name, tensor.dtype(), tensor.shape().to_vec(), tensor.data().to_vec()));
        }
    }
    arrays
}

/// Writes arrays as `numpy.save` does.
fn write_npy(folder: &Path, arrays: &Arrays) {
    fs::create_dir_all(folder).unwrap();
    for (name, dtype, shape, bytes) in arrays {
        let descr = if *dtype == Dtype::F32 { "<f4" } else { "<i8" };
        let shape: String = shape.iter().map(|n| format!("{n},")).collect();
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}\n");
        let length = (header.len() as u16).to_le_bytes();
        let file = [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), bytes].concat();
        fs::write(folder.join(format!("{name}.npy")), file).unwrap();
    }
}

fn write_safetensors(file: &Path, arrays: &Arrays) {
    let views = arrays.iter().map(|(name, dtype, shape, bytes)| {
        (name, safetensors::tensor::TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    fs::write(file, serialize(views, None).unwrap()).unwrap();
}

/// A project whose data root has the features of the tiny pipeline in two formats, and a pipeline that imports one of
/// them.
fn project() -> (Project, Arrays) {
    let project = Project::new();
    let arrays = exported(&project);
    let data = project.path().join("data");
    write_npy(&data.join("own"), &arrays);
    write_safetensors(&data.join("own.safetensors"), &arrays);
    project.spec("own", &spec("path = \"own.safetensors\""));
    (project, arrays)
}

fn keys(project: &Project, args: &str) -> Vec<Value> {
    project.tasks(args).iter().map(|t| t["key"].clone()).collect()
}

fn files(project: &Project, args: &str) -> Vec<Vec<u8>> {
    let out = project.ok(&format!("export {args}")).out;
    // In the array that was imported, samples have other positions.
    let lines = out.lines().filter(|file| !file.ends_with("drawn.safetensors"));
    lines.map(|file| fs::read(project.path().join(file)).unwrap()).collect()
}

/// Whether two lists of files hold the same tensors, whatever their metadata are, and wherever samples were drawn from.
fn same(some: &[Vec<u8>], others: &[Vec<u8>]) -> bool {
    let tensors = |file: &[u8]| {
        let all = SafeTensors::deserialize(file).unwrap();
        let of = all.iter().filter(|(name, _)| *name != "source_index");
        of.map(|(name, t)| (name.to_owned(), t.shape().to_vec(), t.data().to_vec())).collect::<BTreeSet<_>>()
    };
    some.len() == others.len() && some.iter().zip(others).all(|(a, b)| tensors(a) == tensors(b))
}

#[test]
fn imported_features_give_what_the_extractor_s_give() {
    let (project, _) = project();
    project.spec("bare", &TINY.replace("[invert]\nmethod = \"feature-matching\"\nsteps = 3\n", ""));
    project.ok("run bare");
    let ran = project.ok("run own");
    assert_eq!(Project::stages_that_ran(&ran), ["features", "target-params", "poison-features", "evaluate"]);
    assert!(project.ok("run own").err.contains("0 tasks ran, 4 cached"));
    for stage in ["features", "target-params", "poison-features", "evaluate"] {
        let [a, b] = ["bare", "own"].map(|name| files(&project, &format!("{name} {stage} -o {name}-{stage}")));
        assert!(!a.is_empty() && same(&a, &b), "{stage}");
    }
    let row =
        |name: &str| -> Value { serde_json::from_str(&project.ok(&format!("results {name} --json")).out).unwrap() };
    let (extracted, imported) = (row("bare"), row("own"));
    for field in ["accuracy", "per_class", "clean_loss", "loss_bound", "objective"] {
        assert_eq!(extracted[field], imported[field], "{field}");
    }
    // No device made the features, and the table names them after their file.
    assert_eq!(imported["device"], "host");
    assert!(project.ok("results own").out.contains("extractor own.safetensors,"));
    assert!(project.ok("status own").out.ends_with("4 tasks in 1 branch: 4 cached, 0 to run\n"));

    // A folder counts as another file with the same features.
    project.ok("run own --set features.path=own");
    let own = |set: &str, out: &str| files(&project, &format!("own evaluate {set} -o {out}"));
    assert!(same(&own("", "a"), &own("--set features.path=own", "b")));
}

#[test]
fn the_content_of_the_file_is_in_the_key_and_its_path_is_not() {
    let (project, mut arrays) = project();
    let data = project.path().join("data");
    let before = keys(&project, "own");
    fs::create_dir(data.join("other")).unwrap();
    fs::copy(data.join("own.safetensors"), data.join("other/same.safetensors")).unwrap();
    assert_eq!(keys(&project, "own --set features.path=other/same.safetensors"), before);
    let absolute = data.join("other/same.safetensors");
    assert_eq!(keys(&project, &format!("own --set features.path={}", absolute.display())), before);
    assert_eq!(keys(&project, "own --set features.seed=1"), before, "nothing is drawn");
    for set in ["normalization=l2", "normalization=none"] {
        assert_ne!(keys(&project, &format!("own --set features.{set}")), before, "{set}");
    }
    // What the spec says about images and extractors is not read.
    let (datasets, _) = TINY.split_once("[features]").unwrap();
    let (_, rest) =
        spec("path = \"own.safetensors\"").split_once("[features]").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    project.spec("more", &format!("{datasets}[features]{rest}"));
    let features = project.tasks("more").into_iter().find(|t| t["stage"] == "features").unwrap();
    assert_eq!((&features["key"], &features["inputs"]), (&before[0], &serde_json::json!({})));

    let last = arrays[0].3.len() - 1;
    arrays[0].3[last] ^= 1;
    write_safetensors(&data.join("own.safetensors"), &arrays);
    assert!(keys(&project, "own").iter().zip(&before).all(|(a, b)| a != b));
}

#[test]
fn validation_is_held_out_where_the_file_has_none() {
    let (project, arrays) = project();
    let without: Arrays = arrays.into_iter().filter(|(name, ..)| !name.starts_with("validation")).collect();
    write_safetensors(&project.path().join("data/pool.safetensors"), &without);
    let drawn = "features.path=pool.safetensors --set features.validation=16";
    project.ok(&format!("run own --set {drawn}"));
    let row: Value = serde_json::from_str(&project.ok(&format!("results own --set {drawn} --json")).out).unwrap();
    assert!(row["accuracy"]["influence_flips"].is_number());
    let seeds = |set: &str| -> Vec<Value> {
        let tasks = project.tasks(&format!("own --set seeds=[3,4] --set {drawn} {set}"));
        tasks.iter().filter(|t| t["stage"] == "features").map(|t| t["seed"].clone()).collect()
    };
    assert_eq!(seeds(""), [Value::Null]);
    assert_eq!(seeds("--set features.seed=run"), [3, 4]);
    project.fails(
        "features own --set features.validation=16",
        2,
        &["`validation`: is 16", "own.safetensors has a validation split of 16 samples", "leave the field out"],
    );
    project.fails(
        &format!("features own --set {drawn}000"),
        2,
        &["`validation`: is 16000", "of class 0, which has 24"],
    );
}

#[test]
fn inversion_asks_for_an_extractor() {
    let (project, _) = project();
    let fields = "path = \"own.safetensors\"";
    let words = ["needs the extractor that made the features", "imports them from a file", "leave this table out"];
    let invert = "[invert]\nmethod = \"feature-matching\"\n";
    project.spec("bad", &spec(fields).replace("[evaluate]", &format!("{invert}[evaluate]")));
    for command in ["plan", "run"] {
        project.fails(&format!("{command} bad"), 2, &[&["bad.toml:17: [invert] "], &words[..]].concat());
    }
    project.spec("bad", &spec(fields).replace("[evaluate]", "[decoder]\n[evaluate]"));
    project.fails("plan bad", 2, &[&["bad.toml:17: [decoder] "], &words[..]].concat());
    // An extractor of the pipeline's own does not help: it did not make the features.
    project.fails("plan tiny --set features.method=import --set features.path=own.safetensors", 2, &words);
}

#[test]
fn what_cannot_be_imported_is_named() {
    let (project, arrays) = project();
    let data = project.path().join("data");
    let fails = |path: &str, code: i32, words: &[&str]| {
        for command in ["features", "run"] {
            project.fails(&format!("{command} own --set features.path={path}"), code, words);
        }
    };
    // Without the file, there is no key and so no plan.
    let words =
        ["[features] cannot be planned", "cannot read data/no.npz, which should be a .npz archive", "No such file"];
    project.fails("plan own --set features.path=no.npz", 3, &words);
    fails("no.npz", 3, &words);
    fails("no", 3, &["cannot read data/no, which should be a folder of .npy files"]);
    fs::write(data.join("own.pt"), "weights").unwrap();
    fails("own.pt", 2, &["`path`: is data/own.pt; expected a file that ends in .npz or .safetensors"]);
    fs::write(data.join("empty.npz"), "").unwrap();
    fails("empty.npz", 3, &["data/empty.npz is damaged, or no .npz archive"]);
    fs::create_dir(data.join("nothing")).unwrap();
    fails("nothing", 3, &["data/nothing has no array `train`; it has none"]);
    let bytes = fs::read(data.join("own.safetensors")).unwrap();
    fs::write(data.join("cut.safetensors"), &bytes[..bytes.len() - 1]).unwrap();
    fails("cut.safetensors", 3, &["data/cut.safetensors is damaged, or no safetensors file"]);
    let mut short = arrays.clone();
    short.retain(|(name, ..)| name != "test_labels");
    write_safetensors(&data.join("short.safetensors"), &short);
    fails("short.safetensors", 3, &["data/short.safetensors has no array `test_labels`", "it has "]);

    let bad = |field: &str, words: &[&str]| {
        project.spec("bad", &spec(field));
        project.fails("plan bad", 2, words);
    };
    bad("", &["bad.toml:5", "[features]", "missing field `path`"]);
    bad("path = \"\"", &["bad.toml:6", "`path`: is empty"]);
    bad("path = \"own\"\nvalidatoin = 3", &["bad.toml:7", "did you mean `validation`?"]);
    bad("path = \"own\"\nvalidation = -3", &["bad.toml:7", "`validation`"]);
    bad("path = \"own\"\nnormalization = \"L2\"", &["bad.toml:7", "`normalization`", "`l2`"]);
    bad("path = \"own\"\nseed = \"ran\"", &["bad.toml:7", "`seed`", "\"run\""]);
    project.fails("plan tiny --set features.path=x.npz", 2, &["[features] `path`: unknown field `path`"]);
}

/// Normalised features work everywhere, whether they were extracted or imported.
#[test]
fn l2_normalisation_goes_through_the_whole_pipeline() {
    let (project, _) = project();
    let set = "--set features.normalization=l2";
    let refined = format!("tiny {set} --set invert.refine=2 --set poison-features.constraint=ball");
    project.ok(&format!("run {refined}"));
    project.ok(&format!("run own {set}"));
    let [extracted, imported] =
        ["tiny", "own"].map(|name| files(&project, &format!("{name} features {set} -o l2-{name}")));
    assert!(same(&extracted, &imported));
    // There are no shift and no scale.
    assert_eq!(extracted.len(), 3);
    for bytes in &extracted {
        let tensors = SafeTensors::deserialize(bytes).unwrap();
        let tensor = tensors.tensor("features").unwrap();
        let values: Vec<f32> = tensor.data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        for row in values.chunks(tensor.shape()[1]) {
            assert!((row.iter().map(|z| z * z).sum::<f32>() - 1.0).abs() < 1e-5);
        }
    }
    // The features of poisoned images are normalised, too.
    project.ok(&format!("export {refined} invert -o poisons"));
    let csv = fs::read_to_string(project.path().join("poisons/poisons.csv")).unwrap();
    let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    let norm = rows[0].iter().position(|name| *name == "norm").unwrap();
    let norms: Vec<f64> = rows[1..].iter().map(|row| row[norm].parse().unwrap()).collect();
    assert!(norms.len() == 5 && norms.iter().all(|norm| (norm - 1.0).abs() < 1e-5), "{norms:?}");
    // A decoder works with normalised features, too.
    project.spec(
        "decoded",
        &TINY.replace("method = \"feature-matching\"\nsteps = 3", "method = \"decoder\"\n[decoder]\nepochs = 1"),
    );
    project.ok(&format!("run decoded {set}"));
}
