//! Imports files as other tools write them. They are written by the tests, or by the script in the same folder.

use super::network::{BESIDE, HEADS, WRAPPERS};
use super::*;
use crate::device::{self, Backend};
use hemlock_streams::Purpose;
use std::fs;
use std::io::{Cursor, Write};
use zip::{ZipWriter, write::SimpleFileOptions};

/// Written by the script of the same name in that folder.
const MOCO: &[u8] = include_bytes!("../../tests/data/moco_resnet8_w4.pth");

/// Written by `torchscript.py` in that folder.
const SCRIPT: &[u8] = include_bytes!("../../tests/data/torchscript_clip.pt");

fn spec(arch: &str) -> ExtractorSpec {
    ExtractorSpec { arch: arch.parse().unwrap(), image_size: [8, 8], mean: [0.5; 3], std: [0.25; 3] }
}

fn initial(arch: &str) -> Weights {
    let device = device::open(Backend::default()).unwrap();
    Weights::collect(&Network::new(arch.parse().unwrap(), [8, 8], &mut Purpose::Test.of(3), &device))
}

/// Writes `bytes` to a file of that name and imports it.
fn import(arch: &str, name: &str, bytes: &[u8]) -> Result<Weights, ImportError> {
    choose(arch, name, bytes, WeightsChoice::default())
}

fn choose(arch: &str, name: &str, bytes: &[u8], choice: WeightsChoice<'_>) -> Result<Weights, ImportError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    let device = device::open(Backend::default()).unwrap();
    let extractor = Extractor::import(spec(arch), &path, choice, &device)?.extractor;
    Ok(Weights::from_safetensors(&extractor.to_safetensors().unwrap()).unwrap())
}

/// The message of an error, and that of its cause.
fn message(e: &ImportError) -> String {
    let cause = std::error::Error::source(e).map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{e}{cause}")
}

fn weight(shape: &[usize]) -> Weight {
    Weight { shape: shape.to_vec(), values: vec![0.5; shape.iter().product()] }
}

fn all_prefixes() -> Vec<String> {
    let inner = WRAPPERS.iter().chain(&BESIDE).map(|wrapper| format!("{wrapper}."));
    let known = ["", "module.encoder_q.", "state_dict.module.backbone.", "model_state_dict.encoder._orig_mod."];
    known.into_iter().map(str::to_owned).chain(inner).collect()
}

#[test]
fn networks_are_found_below_what_wraps_them_and_heads_are_left_aside() {
    let network = initial("resnet8-w4");
    for prefix in all_prefixes() {
        let mut file = Weights::default();
        file.put_under(&prefix, network.clone());
        for head in HEADS {
            file.0.insert(format!("{prefix}{head}.weight"), weight(&[10, 16]));
            file.0.insert(format!("{prefix}{head}.2.bias"), weight(&[10]));
        }
        file.0.insert(format!("{prefix}layer1.0.bn1.num_batches_tracked"), weight(&[]));
        if !prefix.is_empty() {
            file.0.insert("queue".to_owned(), weight(&[2, 3]));
            file.0.insert("other.conv1.weight".to_owned(), weight(&[1]));
        }
        let imported = import("resnet8-w4", "x.safetensors", &file.to_safetensors().unwrap()).unwrap();
        assert!(imported == network, "{prefix}");
    }
}

#[test]
fn a_projection_shortcut_may_be_called_shortcut() {
    let network = initial("resnet18-w4");
    let renamed = network.0.iter().map(|(name, w)| (name.replace("downsample", "shortcut"), w.clone()));
    let bytes = Weights(renamed.collect()).to_safetensors().unwrap();
    assert!(import("resnet18-w4", "x.safetensors", &bytes).unwrap() == network);
}

#[test]
fn whatever_else_does_not_fit_is_named_at_once() {
    let mut file = initial("resnet8-w4");
    file.0.remove("conv1.weight");
    file.0.remove("layer2.0.bn1.running_var");
    file.0.insert("layer4.0.conv1.weight".to_owned(), weight(&[1]));
    file.0.insert("queue".to_owned(), weight(&[1]));
    file.0.insert("bn1.bias".to_owned(), weight(&[5]));
    let error = import("resnet8-w4", "x.safetensors", &file.to_safetensors().unwrap()).unwrap_err();
    let message = message(&error);
    assert!(
        message.ends_with(
            "x.safetensors cannot be imported as resnet8-w4: the weights don't fit the network: \
             2 missing: `conv1.weight`, `layer2.0.bn1.running_var`; \
             2 unexpected: `layer4.0.conv1.weight`, `queue`; 1 of another shape: `bn1.bias` [5], not [4]"
        ),
        "{message}"
    );
    let other = import("resnet14-w4", "x.safetensors", &initial("resnet8-w4").to_safetensors().unwrap());
    let message = self::message(&other.unwrap_err());
    assert!(message.contains("30 missing: `layer1.1.bn1.bias`,"), "{message}");
    assert!(message.ends_with("and 26 more"), "{message}");
}

/// Two networks under different prefixes, as the bytes of a file.
fn two(first: &str, second: &str) -> ([Weights; 2], Vec<u8>) {
    let a = initial("resnet8-w4");
    let mut b = a.clone();
    b.0.values_mut().flat_map(|weight| &mut weight.values).for_each(|v| *v *= 0.5);
    let mut file = Weights::default();
    file.put_under(first, a.clone());
    file.put_under(second, b.clone());
    ([a, b], file.to_safetensors().unwrap())
}

#[test]
fn several_sets_of_weights_are_refused_unless_one_is_chosen() {
    for (first, second, picks) in [
        ("state_dict.", "state_dict_ema.", ["branch = \"state_dict\"", "branch = \"state_dict_ema\""]),
        ("model.", "model_ema.module.", ["branch = \"model\"", "branch = \"model_ema\""]),
        ("state_dict.", "best_state_dict.", ["branch = \"state_dict\"", "branch = \"best_state_dict\""]),
        ("student.module.backbone.", "teacher.backbone.", ["branch = \"student\"", "branch = \"teacher\""]),
        ("model.", "net.", ["branch = \"model\"", "branch = \"net\""]),
        ("", "backbone.", ["prefix = \"\"", "branch = \"backbone\""]),
        // Prefixes that are no known wrappers.
        ("state_dict.", "averaged.", ["branch = \"state_dict\"", "branch = \"averaged\""]),
    ] {
        let (networks, bytes) = two(first, second);
        let said = import("resnet8-w4", "x.safetensors", &bytes).unwrap_err().to_string();
        let [a, b] = &picks;
        let mut prefixes = [format!("`{first}*`"), format!("`{second}*`")];
        prefixes.sort();
        assert!(
            said.contains(&format!("x.safetensors holds 2 sets of weights: {}; choose one", prefixes.join(", "))),
            "{said}"
        );
        assert!(said.contains(&format!("`{a}`")) && said.contains(&format!("`{b}`")), "{said}");
        for (pick, network) in picks.iter().zip(&networks) {
            let (field, value) = pick.split_once(" = ").unwrap();
            let value = Some(value.trim_matches('"'));
            let choice = match field {
                "branch" => WeightsChoice { branch: value, ..WeightsChoice::default() },
                _ => WeightsChoice { prefix: value, ..WeightsChoice::default() },
            };
            assert!(choose("resnet8-w4", "x.safetensors", &bytes, choice).unwrap() == *network, "{pick}");
        }
    }
}

/// As in the authors' own evaluations; the other encoder can be chosen.
#[test]
fn of_contrastive_encoders_the_one_that_is_trained_is_taken() {
    for (first, second) in
        [("module.encoder_q.", "module.encoder_k."), ("module.base_encoder.", "module.momentum_encoder.")]
    {
        let (networks, bytes) = two(first, second);
        assert!(import("resnet8-w4", "x.safetensors", &bytes).unwrap() == networks[0]);
        let branch = second.split('.').nth(1);
        let choice = WeightsChoice { branch, ..WeightsChoice::default() };
        assert!(choose("resnet8-w4", "x.safetensors", &bytes, choice).unwrap() == networks[1]);
    }
}

#[test]
fn what_is_not_known_can_be_said() {
    let network = initial("resnet8-w4");
    let under = |prefix: &str| {
        let mut file = Weights::default();
        file.put_under(prefix, network.clone());
        file.0.insert(format!("{prefix}prototypes.weight"), weight(&[30, 16]));
        file.to_safetensors().unwrap()
    };
    let ignore = ["prototypes.*".to_owned()];
    let all = WeightsChoice { prefix: Some("trunk._feature_blocks."), ignore: &ignore, ..WeightsChoice::default() };
    for prefix in ["trunk._feature_blocks.", "classy_state_dict.base_model.model.trunk._feature_blocks."] {
        let bytes = under(prefix);
        let said = import("resnet8-w4", "x.safetensors", &bytes).unwrap_err().to_string();
        assert!(said.ends_with(&format!("if it is the one that is meant, say `prefix = \"{prefix}\"`")), "{said}");
        assert!(choose("resnet8-w4", "x.safetensors", &bytes, all).unwrap() == network);
        let undotted = WeightsChoice { prefix: Some("trunk._feature_blocks"), ..all };
        assert!(choose("resnet8-w4", "x.safetensors", &bytes, undotted).unwrap() == network);
    }
    let bytes = under("module.");
    let said = message(&import("resnet8-w4", "x.safetensors", &bytes).unwrap_err());
    assert!(said.contains("say `ignore = [\"prototypes\"]`): the weights don't fit"), "{said}");
    assert!(said.ends_with("1 unexpected: `prototypes.weight`"), "{said}");
    for name in ["prototypes", "prototypes.weight", "proto*", "module.prototypes.*"] {
        let ignore = [name.to_owned()];
        let choice = WeightsChoice { ignore: &ignore, ..WeightsChoice::default() };
        assert!(choose("resnet8-w4", "x.safetensors", &bytes, choice).unwrap() == network, "{name}");
    }
    let refused = |choice| choose("resnet8-w4", "x.safetensors", &bytes, choice).unwrap_err().to_string();
    let ignore = ["prototypes".to_owned(), "prototype".to_owned()];
    let said = refused(WeightsChoice { ignore: &ignore, ..WeightsChoice::default() });
    assert!(said.contains("`ignore` is `prototype`; no tensor has such a name, there are `module.bn1.bias`"), "{said}");
    let said = refused(WeightsChoice { branch: Some("teacher"), ..WeightsChoice::default() });
    assert!(said.ends_with("`branch` is `teacher`; the file has the architecture's names under `module.*`"), "{said}");
    let said = refused(WeightsChoice { prefix: Some("trunk."), ..WeightsChoice::default() });
    assert!(said.ends_with("`prefix` is `trunk.`; the file has the architecture's names under `module.*`"), "{said}");
}

#[test]
fn messages_about_many_tensors_are_short() {
    let mut file = Weights::default();
    for i in 0..50_000 {
        file.0.insert(format!("{i}.{}", "long".repeat(5)), weight(&[0]));
    }
    file.0.insert("x".repeat(100_000), weight(&[0]));
    file.0.insert("conv1.weight".to_owned(), weight(&[0; 100]));
    let bytes = file.to_safetensors().unwrap();
    let ignore = ["y".repeat(100_000)];
    for choice in [
        WeightsChoice::default(),
        WeightsChoice { ignore: &ignore, ..WeightsChoice::default() },
        WeightsChoice { branch: Some(&ignore[0]), ..WeightsChoice::default() },
    ] {
        let said = message(&choose("resnet8-w4", "x.safetensors", &bytes, choice).unwrap_err());
        assert!(said.len() < 1000, "{} bytes", said.len());
    }
}

/// A checkpoint in half precision, prefixed and nested, with a second encoder, a queue and an optimiser.
#[test]
fn a_pytorch_checkpoint_is_imported() {
    let mut expected = initial("resnet8-w4");
    for (i, weight) in expected.0.values_mut().enumerate() {
        for (j, value) in weight.values.iter_mut().enumerate() {
            *value = (((31 * i + 7 * j) % 64) as f32 - 32.0) / 64.0;
        }
    }
    for name in ["x.pth", "x.pth.tar", "x.safetensors", "last.ckpt", "checkpoint"] {
        assert!(import("resnet8-w4", name, MOCO).unwrap() == expected);
    }
}

/// CLIP as OpenAI publishes it, in half precision: the weights are those of the file that it was made of, rounded.
#[test]
fn a_torchscript_archive_is_imported() {
    let clip = "clip-base-p4 width=16 depth=2 heads=2 hidden=32 projection=8";
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let device = device::open(Backend::default()).unwrap();
    let ignore = ["probe.*".to_owned()];
    let weights = |name: &str, ignore| {
        let choice = WeightsChoice { ignore, ..WeightsChoice::default() };
        let mut spec = spec(clip);
        spec.image_size = [16, 16];
        let imported = Extractor::import(spec, &folder.join(name), choice, &device).unwrap();
        (imported.prefix, Weights::from_safetensors(&imported.extractor.to_safetensors().unwrap()).unwrap())
    };
    let (prefix, found) = weights("torchscript_clip.pt", &[][..]);
    let (_, expected) = weights("families/clip.safetensors", &ignore[..]);
    assert_eq!(prefix, "visual.");
    assert!(found.0.keys().eq(expected.0.keys()));
    for (name, weight) in &expected.0 {
        let pairs = found.0[name].values.iter().zip(&weight.values);
        // Half precision rounds to 11 bits.
        assert!(pairs.into_iter().all(|(half, full)| (half - full).abs() <= full.abs() / 2048.0 + 1e-7), "{name}");
    }
}

/// Archives whose pickle is `pickle`, with one storage of two numbers.
fn script(pickle: &[u8]) -> Result<BTreeMap<String, Weight>, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pt");
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let numbers = [1.5f32, -2.0].map(f32::to_le_bytes).concat();
    for (name, content) in [("data.pkl", pickle), ("code/a.py", b""), ("data/0", &numbers)] {
        zip.start_file(format!("x/{name}"), SimpleFileOptions::default()).unwrap();
        zip.write_all(content).unwrap();
    }
    fs::write(&path, zip.finish().unwrap().into_inner()).unwrap();
    let opened = open(&path).map_err(|e| e.to_string())?;
    opened.tensors.iter().map(|(name, t)| Ok((name.clone(), read(&path, t).map_err(|e| e.to_string())?))).collect()
}

#[test]
fn hostile_torchscript_archives_are_refused() {
    let tensor = |shape: &str, strides: &str| {
        let storage = "((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x02tQ";
        format!("ctorch._utils\n_rebuild_tensor_v2\n{storage}K\0{shape}{strides}NtR")
    };
    let object = |value: &str| format!("c__torch__\nNet\n)\u{81}}}(X\x01\0\0\0w{value}ub.");
    // NEWOBJ is one byte.
    let bytes = |text: String| text.chars().map(|c| c as u8).collect::<Vec<u8>>();
    let good = script(&bytes(object(&tensor("(K\x02t", "(K\x01t")))).unwrap();
    assert_eq!(good["w"], Weight { shape: vec![2], values: vec![1.5, -2.0] });
    let repeated = script(&bytes(object(&tensor("(K\x03t", "(K\0t")))).unwrap();
    assert_eq!(repeated["w"].values, [1.5; 3]);
    assert!(script(&bytes(object(&tensor("(K\0K\x05t", "(K\x01K\x01t")))).unwrap()["w"].values.is_empty());
    // An object that is its own attribute.
    let cyclic = "c__torch__\nNet\n)\u{81}q\0}(X\x01\0\0\0wh\0ub.".to_owned();
    for (pickle, expected) in [
        (object(&tensor("(K\x03t", "(K\x01t")), "a tensor of shape [3] is outside of its storage"),
        (object(&tensor("(J\u{ff}\u{ff}\u{ff}\x7ft", "(K\0t")), "is outside of its storage"),
        (object(&tensor("(K\x02t", "(K\x01K\x01t")), "is outside of its storage"),
        (object("ctorch._utils\n_rebuild_qtensor\n)R"), "a tensor of the kind `qtensor`, which is not read"),
        (object("cos\nsystem\n(X\x02\0\0\0lstR"), "it holds no tensors"),
        (cyclic, "its modules are nested more than 64 times"),
        (object("i"), "its data.pkl has the operation 0x69, which is not expected"),
        (object("h\x07"), "the pickle has no value 7"),
    ] {
        let error = script(&bytes(pickle)).unwrap_err();
        assert!(error.contains("is damaged, or no TorchScript archive") && error.contains(expected), "{error}");
    }
}

#[test]
fn indices_are_not_renumbered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pth");
    fs::write(&path, MOCO).unwrap();
    assert!(open(&path).unwrap().tensors.contains_key("optimizer.state.5.momentum_buffer"));
}

#[test]
fn damage_is_an_error_that_says_what_was_expected() {
    let safetensors = initial("resnet8-w4").to_safetensors().unwrap();
    for (name, whole) in [("x.pth", MOCO), ("x.pt", SCRIPT), ("x.safetensors", &safetensors)] {
        let cuts = (0..whole.len()).step_by(whole.len() / 50).skip(1).chain([1, 8, 9, whole.len() - 1]);
        let damaged = cuts.map(|cut| whole[..cut].to_vec());
        // The last one is an empty dictionary.
        for bytes in damaged.chain([b"no weights at all".to_vec(), b"\x80\x02}.".to_vec()]) {
            let error = import("resnet8-w4", name, &bytes).unwrap_err();
            assert!(matches!(error, ImportError::File(FileError::Format { .. })), "{error}");
            let message = error.to_string();
            assert!(message.contains(name) && message.contains("is damaged, or no "), "{message}");
        }
    }
    let device = device::open(Backend::default()).unwrap();
    let missing = Extractor::import(spec("resnet8-w4"), Path::new("nowhere.pth"), WeightsChoice::default(), &device);
    let expected = "cannot read nowhere.pth, which should be a PyTorch checkpoint or safetensors file";
    assert_eq!(missing.unwrap_err().to_string(), expected);
}

/// An archive with entries of these names.
fn archive(names: &[&str]) -> Vec<u8> {
    archive_of(names, b"anything")
}

/// An archive with entries of these names, each with the same content.
fn archive_of(names: &[&str], content: &[u8]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for name in names {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

#[test]
fn other_files_are_called_by_what_they_are() {
    // `pickle.dumps({"w": numpy.zeros(1, "f4")}, 2)`
    let numpy: &[u8] = b"\x80\x02}q\x00X\x01\x00\x00\x00wq\x01cnumpy._core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85q\x04\
        c_codecs\nencode\nq\x05X\x01\x00\x00\x00bq\x06X\x06\x00\x00\x00latin1q\x07\x86q\x08Rq\t\x87q\nRq\x0b(K\x01K\x01\x85q\x0ccnumpy\n\
        dtype\nq\rX\x02\x00\x00\x00f4q\x0e\x89\x88\x87q\x0fRq\x10(K\x03X\x01\x00\x00\x00<q\x11NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x12b\
        \x89h\x05X\x04\x00\x00\x00\x00\x00\x00\x00q\x13h\x07\x86q\x14Rq\x15tq\x16bs.";
    let mut tar = vec![0; 1024];
    tar[..13].copy_from_slice(b"model/weights");
    tar[257..262].copy_from_slice(b"ustar");
    for (bytes, what) in [
        (numpy.to_vec(), "x.pth is a pickle of NumPy arrays, and not of tensors; in PyTorch: `torch.save("),
        (
            include_bytes!("../../tests/data/torchscript_frozen.pt").to_vec(),
            "is a frozen TorchScript program, whose weights have lost their names; save it as it was before",
        ),
        (archive(&["m/model.json", "m/tensors/0"]), "is a TorchScript program of a version of PyTorch before 1.4"),
        // The ends of the pickles of `torch.save({"w": torch._neg_view(w)})` and of `w.conj().imag`.
        (archive_of(&["m/data.pkl"], b"}q\x0bX\x03\0\0\0negq\x0c\x88stq\rRq\x0es."), "as the negative or conjugate"),
        (archive_of(&["m/data.pkl"], b"}X\x04\0\0\0conj\x88s."), "`torch.save({k: v.resolve_neg().resolve_conj()"),
        (archive(&["train.npy"]), "is an archive of NumPy arrays (.npz)"),
        (archive(&["config.json", "model.weights.h5"]), "is a model of Keras"),
        (archive(&["best.pth"]), "is a zip archive, with `best.pth` in it; unpack it"),
        (tar, "is a tar archive, with `model/weights` in it; unpack it"),
        (b"\x89HDF\r\n\x1a\n...".to_vec(), "is an HDF5 file, such as Keras writes; save its weights as"),
        (b"\x08\x07\x12\x07pytorch".to_vec(), "is an ONNX model"),
        (b"\x08\x01\x12\xff".to_vec(), "is a TensorFlow SavedModel"),
        (b"\x04\0\0\0\x01\0\0\0\x03\0\0\0V 1".to_vec(), "is a file of Lua's Torch7 (.t7)"),
        (b"version https://git-lfs.github.com/spec/v1\noid".to_vec(), "is a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>".to_vec(), "is a web page"),
        (b"\x1f\x8b\x08".to_vec(), "is compressed by gzip; unpack it"),
        (Vec::new(), "is empty"),
    ] {
        let error = import("resnet8-w4", "x.pth", &bytes).unwrap_err();
        assert!(matches!(error, ImportError::Other { .. }) && error.to_string().contains(what), "{error}");
    }
}

/// What a file says that has the files `beside` in its folder and these texts as its own metadata.
fn judged(arch: &str, beside: &[(&str, &str)], metadata: &[(&str, &str)]) -> said::Judged {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weights.safetensors");
    let bytes = initial(arch).to_safetensors().unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    fs::write(&path, safetensors::serialize(tensors.tensors(), Some(metadata)).unwrap()).unwrap();
    for (name, text) in beside {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let device = device::open(Backend::default()).unwrap();
    let imported = Extractor::import(spec(arch), &path, WeightsChoice::default(), &device).unwrap();
    said::judge(&imported.said, &spec(arch))
}

#[test]
fn what_a_file_or_its_configuration_says_is_compared() {
    let config = |text: &str| judged("vit-nano-p4-d2", &[("config.json", text)], &[]);
    // As timm, transformers and our own exports write them.
    for text in [
        r#"{"architecture": "vit_nano_patch4_8.mae", "num_features": 64, "global_pool": "token", "num_classes": 10}"#,
        r#"{"pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "input_size": [3, 8, 8]}}"#,
        r#"{"hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-06}"#,
        r#"{"arch": "vit-nano-p4-d2", "features": 64, "image_size": 8, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}"#,
        r#"{"image_mean": [127.5, 127.5, 127.5], "patch_size": 4, "license": "mit"}"#,
    ] {
        assert_eq!(config(text), said::Judged::default(), "{text}");
    }
    for (text, expected) in [
        (r#"{"num_attention_heads": 12}"#, "says `num_attention_heads` = 12, and `vit-nano-p4-d2` has 1"),
        (r#"{"layer_norm_eps": 1e-12}"#, "says `layer_norm_eps` = 1e-12, and `vit-nano-p4-d2` has 1e-6"),
        (r#"{"hidden_act": "quick_gelu"}"#, "says `hidden_act` = quick_gelu, and `vit-nano-p4-d2` has gelu"),
        (r#"{"global_pool": "avg"}"#, "says `global_pool` = avg, and `vit-nano-p4-d2` has token"),
        (r#"{"architecture": "vit_base_patch16_224"}"#, "and the spec `arch = \"vit-nano-p4-d2\"`"),
        (r#"{"architectures": ["resnet50"]}"#, "and the spec `arch = \"vit-nano-p4-d2\"`"),
        (r#"{"image_size": 224}"#, "says `image_size` = 224, and the spec `image_size = 8`"),
        (
            r#"{"pretrained_cfg": {"mean": [0.485, 0.456, 0.406]}}"#,
            "`pretrained_cfg.mean` = [0.485,0.456,0.406], and the spec `mean =",
        ),
        (r#"{"image_std": [0.229, 0.224, 0.225]}"#, "and the spec `std = [0.25, 0.25, 0.25]`"),
    ] {
        let said = config(text).contradictions;
        assert!(said.len() == 1 && said[0].contains("config.json says") && said[0].contains(expected), "{said:?}");
    }
    assert!(config("no JSON").unchecked[0].contains("could not be read"));
    assert_eq!(config(r#"{"architecture": "my_net"}"#).unchecked.len(), 1);
    // One statement from each of the other places.
    let own = judged("resnet8-w4", &[("weights.json", r#"{"arch": "resnet14"}"#)], &[]);
    assert!(own.contradictions[0].contains("weights.json says `arch` = resnet14"), "{own:?}");
    let metadata = judged("resnet8-w4", &[], &[("format", "pt"), ("config", r#"{"bn_eps": 0.001}"#)]);
    assert!(
        metadata.contradictions[0].ends_with("says `config.bn_eps` = 0.001, and `resnet8-w4` has 1e-5"),
        "{metadata:?}"
    );
}

/// Names of other networks may begin with the name of an architecture.
#[test]
fn names_of_architectures_are_understood() {
    let arch = |arch: &str, name: &str| {
        let said = judged(arch, &[("config.json", &format!(r#"{{"architecture": "{name}"}}"#))], &[]);
        match (said.contradictions.len(), said.unchecked.len()) {
            (0, 0) => Some(true),
            (1, 0) => Some(false),
            (0, 1) => None,
            other => panic!("{name}: {other:?}"),
        }
    };
    for name in ["resnet18", "ResNet_18", "timm/resnet18.a1_in1k", "resnet18-w4"] {
        assert_eq!(arch("resnet18-w4", name), Some(true), "{name}");
    }
    for name in
        ["resnet50", "resnet18d", "resnetblur18", "resnetaa50", "wide_resnet50_2", "vit_small", "PreActResNet18"]
    {
        assert_eq!(arch("resnet18-w4", name), Some(false), "{name}");
    }
    for name in ["resnet18_cifar_variant", "resnet18x4", "resnet", "simclr"] {
        assert_eq!(arch("resnet18-w4", name), None, "{name}");
    }
    // Other stems have tensors of the same names and shapes.
    assert_eq!(arch("resnet18-w4", "resnet18-pool-w4"), Some(false));
    assert_eq!(arch("resnet18-pool-w4", "resnet18-pool-w4"), Some(true));
    assert_eq!(arch("resnet18-pool-w4", "resnet18"), None);
    assert_eq!(arch("resnet20-b-w4", "resnet20"), Some(true));
    assert_eq!(arch("resnet50-wide-w4", "wide_resnet50_2.tv_in1k"), Some(true));
    assert_eq!(arch("resnet50-wide-w4", "wide_resnet101_2"), Some(false));
    assert_eq!(arch("resnet50-w4", "wide_resnet50_2"), Some(false));
    for (name, same) in [
        ("vit_tiny_patch4_32", Some(true)),
        ("deit_tiny_patch4", Some(true)),
        ("vit_tiny_patch16_224", Some(false)),
        ("vit_small", Some(false)),
        ("vit_tiny_patch4_quickgelu", Some(false)),
        ("vit_relpos", None),
    ] {
        assert_eq!(arch("vit-tiny-p4-d1", name), same, "{name}");
    }
}

#[test]
fn what_stands_beside_the_tensors_of_a_checkpoint_is_compared() {
    let text = |text: &str| PickleValue::String(text.to_owned());
    let dict = |entries: Vec<(&str, PickleValue)>| {
        PickleValue::Dict(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    };
    let judge = |arch: &str, root: PickleValue, tensor: &str| {
        let tensors = BTreeMap::from([(tensor.to_owned(), ())]);
        let mut spec = spec(arch);
        spec.image_size = [64, 64];
        said::judge(&said::of_pickle(Path::new("w.pth"), &root, &tensors), &spec)
    };
    // Heads of 32 channels show in no name and no shape.
    let moco = || dict(vec![("arch", text("vit_small")), ("epoch", PickleValue::Int(300))]);
    let said = judge("vit-small-p16", moco(), "state_dict.module.base_encoder.cls_token");
    assert_eq!(
        said.contradictions,
        ["w.pth says `arch` = vit_small, in MoCo v3 with 12 heads, and `vit-small-p16` has 6"]
    );
    assert_eq!(judge("vit-small-p16", moco(), "state_dict.cls_token"), said::Judged::default());
    // The sizes of a projector do not describe the network, and a table called `backbone` holds its name.
    let settings = dict(vec![
        ("hidden_size", PickleValue::Int(2048)),
        ("backbone", dict(vec![("name", text("resnet50")), ("std", PickleValue::Float(1.0))])),
    ]);
    let said = judge("resnet18", dict(vec![("hyper_parameters", settings)]), "state_dict.backbone.conv1.weight");
    assert_eq!(
        said.contradictions,
        ["w.pth says `hyper_parameters.backbone.name` = resnet50, and the spec `arch = \"resnet18\"`"]
    );
    let namespace = dict(vec![("args", PickleValue::Unsupported("argparse.Namespace".to_owned()))]);
    let said = judge("resnet18", namespace, "x");
    assert_eq!(said.unchecked, ["`args` of w.pth (argparse.Namespace) could not be read"]);
}
