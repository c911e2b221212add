//! What a file of weights says about its network besides names and shapes, and whether that contradicts a spec.
//!
//! Three places are read:
//!
//! - the values next to the tensors in a checkpoint;
//! - the metadata of a safetensors file;
//! - configuration files in the same folder ([`beside_paths`]), as timm, transformers, or an export of an extractor
//!   write them.
//!
//! Objects of Python classes, such as an `argparse.Namespace`, are not read.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use pytorch_reader::PickleValue;
use serde_json::{Map, Value};

use super::short;
use crate::extractor::ExtractorSpec;
use crate::network::Arch;
use crate::vit::{Activation, Readout};

/// One statement of a file about its network.
#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    file: String,
    field: String,
    value: Value,
    /// The property that it is about; `None` if it could not be read.
    about: Option<About>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    Arch,
    Heads,
    /// The number of heads of MoCo v3's small transformer.
    Moco,
    Width,
    Depth,
    Patch,
    Size,
    LayerNorm,
    BatchNorm,
    Activation,
    Pool,
    Mean,
    Std,
}

/// Names of fields, and the property that they are about. The second list counts only in a model's own configuration:
/// in the settings of a training, these fields may describe a projector.
const FIELDS: [(&[&str], &[&str], About); 12] = [
    (&["arch", "architecture", "architectures", "model_name", "backbone", "model", "net", "network"], &[], About::Arch),
    (&["num_attention_heads", "num_heads", "n_heads"], &["heads"], About::Heads),
    (&[], &["hidden_size", "embed_dim", "num_features", "features"], About::Width),
    (&[], &["num_hidden_layers", "depth"], About::Depth),
    (&["patch_size"], &[], About::Patch),
    (&["image_size", "img_size", "input_size"], &[], About::Size),
    (&["layer_norm_eps"], &["norm_eps"], About::LayerNorm),
    (&["bn_eps", "batch_norm_eps"], &["norm_eps"], About::BatchNorm),
    (&["hidden_act", "act_layer"], &["activation"], About::Activation),
    (&["global_pool"], &["pool", "pool_type"], About::Pool),
    (&["image_mean"], &["mean"], About::Mean),
    (&["image_std"], &["std"], About::Std),
];

/// Usual names of objects that hold the settings of a training.
const SETTINGS: [&str; 6] = ["args", "opt", "config", "cfg", "hparams", "hyper_parameters"];

/// The largest configuration file that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// Files in the same folder that may describe the network of a file of weights, as far as they exist.
#[must_use]
pub fn beside_paths(path: &Path) -> Vec<PathBuf> {
    let own = path.with_extension("json");
    let named = ["config.json", "preprocessor_config.json"].map(|name| path.with_file_name(name));
    let mut paths: Vec<PathBuf> =
        named.into_iter().chain([own]).filter(|other| other.is_file() && other != path).collect();
    paths.dedup();
    paths
}

/// The statements of the files in the same folder.
pub(super) fn beside(path: &Path) -> Vec<Said> {
    let mut said = Vec::new();
    for path in beside_paths(path) {
        let short = fs::metadata(&path).is_ok_and(|meta| meta.len() <= LONGEST);
        let text = short.then(|| fs::read(&path).ok()).flatten();
        match text.and_then(|text| serde_json::from_slice(&text).ok()) {
            Some(value) => walk(&name(&path), &mut Vec::new(), &value, true, &mut said),
            None => said.push(unread(&path, "it", "no JSON, or too long")),
        }
    }
    said
}

/// The statements of a checkpoint, besides its tensors.
pub(super) fn of_pickle<T>(path: &Path, root: &PickleValue, tensors: &BTreeMap<String, T>) -> Vec<Said> {
    let PickleValue::Dict(values) = root else { return Vec::new() };
    let mut said = Vec::new();
    let mut sorted: Vec<(&String, &PickleValue)> = values.iter().collect();
    sorted.sort_by_key(|(key, _)| *key);
    for (key, value) in sorted {
        match value {
            PickleValue::Unsupported(class) if SETTINGS.contains(&key.as_str()) => said.push(unread(path, key, class)),
            value => {
                if let Some(value) = plain(value, 0) {
                    walk(&name(path), &mut vec![key.clone()], &value, false, &mut said);
                }
            }
        }
    }
    // MoCo v3's transformers have heads of 32 channels, under names that others give to heads of 64.
    let moco = || tensors.keys().any(|name| name.split('.').any(|part| part == "base_encoder"));
    let arch = values.get("arch").and_then(|arch| if let PickleValue::String(arch) = arch { Some(arch) } else { None });
    if arch.is_some_and(|arch| arch == "vit_small") && moco() {
        let value = "vit_small, in MoCo v3 with 12 heads".into();
        said.push(Said { file: name(path), field: "arch".to_owned(), value, about: Some(About::Moco) });
    }
    said
}

/// The statements in the metadata of a safetensors file.
pub(super) fn of_metadata(path: &Path) -> Vec<Said> {
    let mut said = Vec::new();
    if let Some(metadata) = metadata(path) {
        // Values are strings, some of which hold JSON.
        let parsed = metadata.into_iter().map(|(key, value)| {
            let parsed = value.as_str().and_then(|text| serde_json::from_str(text).ok());
            (key, parsed.unwrap_or(value))
        });
        walk(&name(path), &mut Vec::new(), &Value::Object(parsed.collect()), true, &mut said);
    }
    said
}

fn metadata(path: &Path) -> Option<Map<String, Value>> {
    use std::io::Read;
    #[derive(serde::Deserialize)]
    struct Header {
        #[serde(rename = "__metadata__")]
        metadata: Option<Map<String, Value>>,
    }
    let mut file = File::open(path).ok()?;
    let mut length = [0; 8];
    file.read_exact(&mut length).ok()?;
    let mut header = Vec::new();
    file.take(u64::from_le_bytes(length)).read_to_end(&mut header).ok()?;
    serde_json::from_slice::<Header>(&header).ok()?.metadata
}

fn name(path: &Path) -> String {
    short(&path.display().to_string())
}

fn unread(path: &Path, field: &str, class: &str) -> Said {
    Said { file: name(path), field: field.to_owned(), value: class.into(), about: None }
}

/// The value as JSON, without what JSON cannot hold, such as tensors, and without long lists.
fn plain(value: &PickleValue, depth: usize) -> Option<Value> {
    match value {
        PickleValue::Bool(b) => Some((*b).into()),
        PickleValue::Int(i) => Some((*i).into()),
        PickleValue::Float(f) => Some((*f).into()),
        PickleValue::String(s) => Some(s.as_str().into()),
        PickleValue::List(values) if values.len() <= 4 => values.iter().map(|v| plain(v, depth + 1)).collect(),
        PickleValue::Dict(values) if depth < 6 => Some(
            values
                .iter()
                .filter_map(|(key, v)| Some((key.clone(), plain(v, depth + 1)?)))
                .collect::<Map<_, _>>()
                .into(),
        ),
        _ => None,
    }
}

/// Collects statements about the network, at most `MOST`.
fn walk(file: &str, path: &mut Vec<String>, value: &Value, own: bool, said: &mut Vec<Said>) {
    const MOST: usize = 100;
    if let Value::Object(fields) = value {
        for (key, value) in fields {
            path.push(key.clone());
            // These tables hold a model's own configuration, whatever the file is.
            let own = own || ["model_args", "model_config", "pretrained_cfg"].contains(&key.as_str());
            walk(file, path, value, own, said);
            path.pop();
        }
        return;
    }
    let Some(last) = path.last() else { return };
    let last = last.to_lowercase().replace('-', "_");
    // The name may stand in a table that is called after the property.
    let last = match path.len() {
        1 => last,
        n if last == "name" => path[n - 2].to_lowercase(),
        _ => last,
    };
    if value.is_null() || said.len() >= MOST {
        return;
    }
    for (everywhere, in_models, about) in FIELDS {
        if everywhere.contains(&&*last) || (own && in_models.contains(&&*last)) {
            said.push(Said { file: file.to_owned(), field: path.join("."), value: value.clone(), about: Some(about) });
        }
    }
}

/// The comparison of what files say with a spec.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// Contradictions, one sentence each.
    pub contradictions: Vec<String>,
    /// Statements that could not be compared with the spec.
    pub unchecked: Vec<String>,
}

/// Compares what files say with a spec.
#[must_use]
pub fn judge(said: &[Said], spec: &ExtractorSpec) -> Judged {
    let mut judged = Judged::default();
    for one in said {
        let value = short(&one.value.as_str().map_or_else(|| one.value.to_string(), str::to_owned));
        let field = short(&one.field);
        let Some(about) = one.about else {
            judged.unchecked.push(format!("`{field}` of {} ({value}) could not be read", one.file));
            continue;
        };
        match ours(about, &one.value, spec) {
            Answer::Same => {}
            Answer::Unknown => judged.unchecked.push(format!("{} says `{field}` = {value}", one.file)),
            Answer::Other(ours) => {
                judged.contradictions.push(format!("{} says `{field}` = {value}, and {ours}", one.file));
            }
        }
    }
    judged
}

enum Answer {
    Same,
    /// Nothing in the spec can be compared with it.
    Unknown,
    /// What the spec says instead.
    Other(String),
}

fn ours(about: About, value: &Value, spec: &ExtractorSpec) -> Answer {
    let arch = spec.arch;
    let text = || value.as_str().or_else(|| value.as_array().filter(|a| a.len() == 1)?[0].as_str());
    let answer = |same: Option<bool>, ours: &dyn Fn() -> String| match same {
        Some(true) => Answer::Same,
        Some(false) => Answer::Other(ours()),
        None => Answer::Unknown,
    };
    let has = |what: String| move || format!("`{arch}` has {what}");
    // A count that only transformers have.
    let count = |own: &dyn Fn(crate::vit::VitArch) -> usize| match arch {
        Arch::Vit(vit) => answer(value.as_u64().map(|n| n == own(vit) as u64), &has(own(vit).to_string())),
        Arch::ResNet(_) | Arch::ClipResNet(_) | Arch::ConvNext(_) => Answer::Same,
    };
    let word = |known: &[&str]| {
        let same = text().map(|word| known.contains(&&*word.to_lowercase()));
        answer(same, &has(known[0].to_owned()))
    };
    let number = |own: f64| answer(value.as_f64().map(|n| (n - own).abs() <= 0.01 * own), &has(format!("{own:e}")));
    match (about, arch) {
        (About::Arch, _) => match text() {
            Some(name) => answer(named(arch, name), &|| format!("the spec `arch = \"{arch}\"`")),
            None => Answer::Same,
        },
        (About::Moco, Arch::Vit(vit)) if vit.heads() == 12 => Answer::Same,
        (About::Moco, Arch::Vit(vit)) => Answer::Other(format!("`{arch}` has {}", vit.heads())),
        (About::Moco, _) => Answer::Same,
        (About::Heads, _) => count(&|vit| vit.heads()),
        (About::Depth, _) => count(&|vit| vit.depth()),
        (About::Patch, _) => count(&|vit| vit.patch()),
        (About::Width, _) => count(&|vit| vit.width),
        (About::LayerNorm, Arch::Vit(vit)) => number(vit.norm_eps.value()),
        // transformers says it of the last layer norm alone.
        (About::LayerNorm, Arch::ConvNext(convnext)) => number(convnext.norm_eps()),
        (About::BatchNorm, Arch::ResNet(_) | Arch::ClipResNet(_)) => number(1e-5),
        (About::LayerNorm | About::BatchNorm, _) => Answer::Same,
        (About::Activation, Arch::Vit(vit)) => word(match vit.activation {
            Activation::Gelu => &["gelu"],
            Activation::GeluTanh => &["gelu_tanh", "gelu_pytorch_tanh", "gelu_new"],
            Activation::QuickGelu => &["quick_gelu", "quickgelu"],
            Activation::SwiGlu => &["silu", "swiglu"],
        }),
        (About::Activation, Arch::ConvNext(_)) => word(&["gelu"]),
        (About::Activation, Arch::ResNet(_)) => word(&["relu"]),
        // What is said of a CLIP is usually about its encoder of texts.
        (About::Activation | About::Pool, Arch::ClipResNet(_)) => Answer::Same,
        (About::Pool, Arch::Vit(vit)) => word(match vit.readout {
            Readout::Class => &["token", "cls", ""],
            Readout::Mean => &["avg", "mean"],
            Readout::Attention => &["map"],
            Readout::ClassMean => return Answer::Unknown,
        }),
        (About::Pool, Arch::ResNet(_) | Arch::ConvNext(_)) => word(&["avg", "mean", ""]),
        (About::Size, _) => size(value, spec),
        (About::Mean, _) => channels(value, spec.mean, "mean"),
        (About::Std, _) => channels(value, spec.std, "std"),
    }
}

/// Compares an image size: one side or two, possibly after the number of channels.
fn size(value: &Value, spec: &ExtractorSpec) -> Answer {
    let [height, width] = spec.image_size.map(|side| side as u64);
    let sides: Option<Vec<u64>> = match value {
        Value::Array(sides) => sides.iter().map(Value::as_u64).collect(),
        side => side.as_u64().map(|side| vec![side; 2]),
    };
    match sides.as_deref() {
        Some([h, w] | [3, h, w]) if [*h, *w] == [height, width] => Answer::Same,
        Some([_, _] | [3, _, _]) => Answer::Other(format!("the spec `image_size = {height}`")),
        _ => Answer::Unknown,
    }
}

/// Compares values of three channels, of pixels up to 1 or up to 255.
fn channels(value: &Value, own: [f32; 3], field: &str) -> Answer {
    let values: Option<Vec<f64>> = value.as_array().and_then(|values| values.iter().map(Value::as_f64).collect());
    let Some([r, g, b]) = values.as_deref() else { return Answer::Unknown };
    let scale = if r.max(*g).max(*b) > 1.0 { 255.0 } else { 1.0 };
    // People write about three digits.
    let close = [r, g, b].into_iter().zip(own).all(|(v, own)| (v / scale - f64::from(own)).abs() < 1.5e-3);
    if close { Answer::Same } else { Answer::Other(format!("the spec `{field} = {own:?}`")) }
}

/// Beginnings of the names of network families.
const FAMILIES: [&str; 24] = [
    "resnet",
    "wide-resnet",
    "wideresnet",
    "wrn",
    "preactresnet",
    "preact-resnet",
    "resnext",
    "seresnet",
    "se-resnet",
    "skresnet",
    "senet",
    "vit",
    "deit",
    "beit",
    "swin",
    "cait",
    "xcit",
    "convnext",
    "densenet",
    "efficientnet",
    "mobilenet",
    "regnet",
    "vgg",
    "alexnet",
];

/// Whether a name, as timm, torchvision or an author may write it, is that of an architecture; `None` if it says too
/// little.
fn named(arch: Arch, name: &str) -> Option<bool> {
    if name.parse::<Arch>().is_ok_and(|named| named == arch) {
        return Some(true);
    }
    let name = name.to_lowercase().replace('_', "-");
    // For example `timm/resnet50.a1-in1k`.
    let name = name.rsplit('/').next()?.split('.').next()?;
    let number = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
    let own = arch.to_string();
    // torchvision's `wide_resnet50_2` is `resnet50-imagenet-wide`.
    let wide = name.strip_prefix("wide-resnet").and_then(|rest| rest.strip_suffix("-2"));
    if let (Arch::ResNet(_), Some(depth)) = (arch, wide) {
        return Some(own.contains("-wide") && own.strip_prefix("resnet").map(number).as_deref() == Some(depth));
    }
    // timm's `resnet50x4_clip` is OpenAI's `RN50x4`.
    let clip =
        name.strip_suffix("-clip").or_else(|| name.strip_prefix("rn")).map(|name| name.trim_end_matches("-quickgelu"));
    if let Arch::ClipResNet(_) = arch {
        let preset = own.split(['-', ' ']).nth(1)?.trim_start_matches("resnet");
        let other = || FAMILIES.iter().any(|family| name.starts_with(family)).then_some(false);
        return clip.map_or_else(other, |clip| Some(clip.trim_start_matches("resnet") == preset));
    }
    if let (Arch::ConvNext(own), true) = (arch, name.starts_with("convnext")) {
        // Names with more words, such as `convnext-tiny-hnf`, are those of other networks.
        let named = name.parse::<Arch>().ok();
        return Some(matches!(named, Some(Arch::ConvNext(named)) if named.same_preset(own)));
    }
    match (arch, name.strip_prefix("resnet"), name.strip_prefix("vit-").or_else(|| name.strip_prefix("deit-"))) {
        (Arch::ResNet(_), Some(rest), _) => {
            let rest = rest.trim_start_matches('-');
            let depth = number(rest);
            if depth.is_empty() {
                // `resnetblur50` is another network, and `resnet` may be any.
                return rest.contains(|c: char| c.is_ascii_digit()).then_some(false);
            }
            if depth != number(&own["resnet".len()..]) {
                return Some(false);
            }
            match &rest[depth.len()..] {
                // Others call these by the same name.
                "" => (!own.contains("-pool") && !own.contains("-wide")).then_some(true),
                "-clip" | "-clip-gap" => Some(false),
                "b" | "c" | "d" | "e" | "s" | "t" | "v1b" | "v1c" | "v1d" | "v1e" | "v1s" | "v2" => Some(false),
                _ if name.parse::<Arch>().is_ok() => Some(false),
                _ => None,
            }
        }
        (Arch::Vit(vit), _, Some(rest)) => {
            let size = own.split('-').nth(1)?;
            let parts: Vec<&str> = rest.split('-').collect();
            let sizes = ["nano", "ti", "tiny", "s", "small", "b", "base", "l", "large", "h", "huge", "giant"];
            let patch = parts.iter().find_map(|part| part.strip_prefix("patch")).and_then(|p| p.parse::<usize>().ok());
            let other =
                parts[0] != size && !(parts[0] == "ti" && size == "tiny") && !(parts[0] == "s" && size == "small");
            let gone = ["quickgelu", "gap", "distilled"].iter().any(|word| parts.contains(word));
            if sizes.contains(&parts[0]) && other || patch.is_some_and(|p| p != vit.patch()) || gone {
                return Some(false);
            }
            sizes.contains(&parts[0]).then_some(true)
        }
        _ => FAMILIES.iter().any(|family| name.starts_with(family)).then_some(false),
    }
}
