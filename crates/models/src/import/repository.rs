//! Folders of transformers, timm and OpenCLIP: what their JSON files say about a network and its images.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{ImportError, short};
use crate::clip_resnet::ClipResNetArch;
use crate::convnext::ConvNextArch;
use crate::network::Arch;

/// Names of the files of weights, in the order in which they are looked for.
const WEIGHTS: [&str; 8] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_pytorch_model.bin",
    "model.pth",
    "weights.safetensors",
];

/// Names of the files that describe a network or its images.
const CONFIGS: [&str; 3] = ["config.json", "open_clip_config.json", "preprocessor_config.json"];

/// What a folder says about a network and its images.
#[derive(Debug, Clone, PartialEq)]
pub struct Repository {
    /// The file of weights, or the index of several files.
    pub weights: PathBuf,
    /// The architecture.
    pub arch: Result<Arch, String>,
    /// Mean of each channel, of pixels in `[0, 1]`.
    pub mean: Option<[f64; 3]>,
    /// Standard deviation of each channel.
    pub std: Option<[f64; 3]>,
    /// Side of the images that the network takes, in pixels.
    pub image_size: Option<usize>,
    /// How images are brought to that size.
    pub resizing: Resizing,
}

/// How images are brought to the size that a network takes, as far as a folder says it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resizing {
    /// The size that the shorter side, or both sides, get before images are cropped.
    pub resize: Option<usize>,
    /// Whether both sides get that size, so that images are not cropped.
    pub square: bool,
    /// The interpolation, by its name in PIL.
    pub interpolation: Option<&'static str>,
}

/// The paths of the JSON files of a folder, as far as there are any.
#[must_use]
pub fn config_paths(folder: &Path) -> Vec<PathBuf> {
    CONFIGS.iter().map(|name| folder.join(name)).filter(|path| path.is_file()).collect()
}

impl Resizing {
    /// The lines of a table of `[dataset]` that prepare pictures as the network expects them, of `size` pixels. What is
    /// not known, or is the default there, has no line.
    #[must_use]
    pub fn dataset(&self, size: usize) -> Vec<String> {
        let mut lines = vec![format!("size = {size}")];
        if self.square {
            lines.push("resize = \"square\"".to_owned());
        }
        lines.extend(self.interpolation.filter(|by| *by != "bilinear").map(|by| format!("interpolation = \"{by}\"")));
        if let Some(resized) = self.resize.filter(|resized| *resized > size) {
            // The shortest share of which the resized side follows, which is rounded down.
            let shares = (2..9).map(|digits| format!("{:.digits$}", size as f64 / resized as f64));
            let follows =
                |share: &String| share.parse().is_ok_and(|share: f64| (size as f64 / share) as usize == resized);
            lines.extend(
                shares.into_iter().find(follows).map(|share| format!("crop = {}", share.trim_end_matches('0'))),
            );
        }
        lines
    }
}

impl Repository {
    /// Reads the JSON files of a folder.
    ///
    /// # Errors
    /// If there is no file of weights, or if a file is no JSON.
    pub fn read(folder: &Path) -> Result<Self, ImportError> {
        let wrong = |what: String, remedy: String| ImportError::Other { path: folder.to_owned(), what, remedy };
        if !folder.is_dir() {
            let remedy = "name the folder that `hf download` or `save_pretrained` wrote".to_owned();
            return Err(wrong("no folder".to_owned(), remedy));
        }
        let weights = WEIGHTS.iter().map(|name| folder.join(name)).find(|path| path.is_file()).ok_or_else(|| {
            let remedy = format!("expected one of {}, or name the file by `weights`", WEIGHTS.join(", "));
            wrong("a folder without a file of weights".to_owned(), remedy)
        })?;
        let mut tables = Vec::new();
        for path in config_paths(folder) {
            let text = fs::read(&path).map_err(hemlock_stage::FileError::unreadable(&path, "JSON file"))?;
            let table: Map<String, Value> = serde_json::from_slice(&text).map_err(|e| {
                let name = path.file_name().unwrap_or_default().display();
                wrong(format!("a folder whose {name} is no JSON ({e})"), "fetch it again".to_owned())
            })?;
            tables.push(Value::Object(table));
        }
        let first = |paths: &[&str]| tables.iter().find_map(|table| paths.iter().find_map(|path| at(table, path)));
        let arch = tables.iter().map(architecture).find(|found| found != &Err(None));
        let arch = arch.unwrap_or(Err(None)).map_err(|what| {
            what.unwrap_or_else(|| format!("no {} says which architecture it is", CONFIGS[..2].join(" or ")))
        });
        let channels = |paths: &[&str]| first(paths).and_then(triple);
        let side = |paths: &[&str]| first(paths).and_then(side_of);
        let crops = first(&["do_center_crop"]).and_then(Value::as_bool);
        let crop = side(&["crop_size"]).filter(|_| crops != Some(false));
        let size = side(&["size", "preprocess_cfg.size"]);
        let given = side(&[
            "pretrained_cfg.input_size",
            "model_cfg.vision_cfg.image_size",
            "vision_config.image_size",
            "image_size",
        ]);
        let percent = first(&["pretrained_cfg.crop_pct"]).and_then(Value::as_f64);
        let image_size = crop.or(size).or(given);
        let by_percent = percent.zip(image_size).map(|(percent, side)| (side as f64 / percent).floor() as usize);
        let squash = first(&["preprocess_cfg.resize_mode", "pretrained_cfg.crop_mode"]).and_then(Value::as_str);
        let resizing = Resizing {
            resize: by_percent.or(size),
            square: squash == Some("squash") || (size.is_some() && crop.is_none() && !shorter(&tables)),
            interpolation: first(&["resample", "pretrained_cfg.interpolation", "preprocess_cfg.interpolation"])
                .and_then(interpolation),
        };
        Ok(Self {
            weights,
            arch,
            mean: channels(&["image_mean", "pretrained_cfg.mean", "preprocess_cfg.mean"]),
            std: channels(&["image_std", "pretrained_cfg.std", "preprocess_cfg.std"]),
            image_size,
            resizing,
        })
    }
}

/// The value at a path of fields, joined by dots.
fn at<'a>(table: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(table, |value, field| value.get(field)).filter(|value| !value.is_null())
}

/// Whether the size is that of the shorter side.
fn shorter(tables: &[Value]) -> bool {
    tables.iter().filter_map(|table| table.get("size")).any(|size| size.is_u64() || size.get("shortest_edge").is_some())
}

fn triple(value: &Value) -> Option<[f64; 3]> {
    let values: Vec<f64> = value.as_array()?.iter().map(Value::as_f64).collect::<Option<_>>()?;
    values.try_into().ok()
}

/// A side: a number, `[channels, side, side]`, or a table of sides.
fn side_of(value: &Value) -> Option<usize> {
    let side = match value {
        Value::Array(sides) => sides.last()?,
        Value::Object(sides) => ["shortest_edge", "height"].iter().find_map(|name| sides.get(*name))?,
        side => side,
    };
    usize::try_from(side.as_u64()?).ok()
}

/// An interpolation: its name, or its number in PIL.
fn interpolation(value: &Value) -> Option<&'static str> {
    match (value.as_u64(), value.as_str()) {
        (Some(1), _) | (_, Some("lanczos")) => Some("lanczos"),
        (Some(2), _) | (_, Some("bilinear")) => Some("bilinear"),
        (Some(3), _) | (_, Some("bicubic")) => Some("bicubic"),
        _ => None,
    }
}

/// The architecture that a table describes. The error is what it describes instead; `None` if it describes none.
fn architecture(table: &Value) -> Result<Arch, Option<String>> {
    if let Some(name) = at(table, "architecture").and_then(Value::as_str) {
        return by_timm(name, table)
            .ok_or_else(|| Some(format!("`architecture` is `{}`, which is not known", short(name))));
    }
    if let Some(model) = at(table, "model_cfg") {
        return by_open_clip(model);
    }
    let kind = at(table, "model_type").and_then(Value::as_str).ok_or(None)?;
    by_transformers(kind, table)
}

/// An architecture from the words of its name, `preset field=value ...`.
fn parsed(words: &[String]) -> Result<Arch, Option<String>> {
    words.join(" ").parse().map_err(|e: crate::network::ArchError| Some(e.to_string()))
}

/// A ConvNeXt of transformers.
fn convnext(table: &Value, second: bool) -> Result<Arch, Option<String>> {
    let numbers = |field: &str, usual: [u64; 4]| match at(table, field).and_then(Value::as_array) {
        Some(values) => values.iter().filter_map(Value::as_u64).collect(),
        None => usual.to_vec(),
    };
    let (depths, widths) = (numbers("depths", [3, 3, 9, 3]), numbers("hidden_sizes", [96, 192, 384, 768]));
    let first = widths.first().copied().unwrap_or_default();
    let known = widths.iter().copied().eq([1, 2, 4, 8].map(|factor| factor * first));
    let preset = ConvNextArch::of_depths(&depths, first, second).filter(|_| known);
    let preset = preset.ok_or_else(|| Some(format!("`depths` are {depths:?} and `hidden_sizes` {widths:?}")))?;
    let plain = at(table, "hidden_act").and_then(Value::as_str).is_none_or(|act| act == "gelu");
    if !plain || at(table, "patch_size").and_then(Value::as_u64).is_some_and(|patch| patch != 4) {
        return Err(Some("`hidden_act` is not `gelu`, or `patch_size` is not 4".to_owned()));
    }
    let epsilon = at(table, "layer_norm_eps").and_then(Value::as_f64).unwrap_or(1e-12);
    parsed(&[format!("{preset} norm_eps={epsilon:e}")])
}

/// The fields of a table of transformers.
fn by_transformers(kind: &str, table: &Value) -> Result<Arch, Option<String>> {
    if let "convnext" | "convnextv2" = kind {
        return convnext(table, kind == "convnextv2");
    }
    let vision = at(table, "vision_config").unwrap_or(table);
    let number = |field: &str, usual: u64| at(vision, field).and_then(Value::as_u64).unwrap_or(usual);
    let is = |field: &str, usual: bool| at(vision, field).and_then(Value::as_bool).unwrap_or(usual);
    // A field that a table leaves out has the class's default value.
    let (family, patch, eps, act) = match kind.trim_end_matches("_vision_model") {
        "vit" | "deit" => ("vit-base", 16, 1e-12, "gelu"),
        "dinov2" => ("dinov2-base", 14, 1e-6, "gelu"),
        "dinov2_with_registers" => ("dinov2-reg-base", 16, 1e-6, "gelu"),
        "dinov3_vit" => ("dinov3-base", 16, 1e-5, "gelu"),
        "clip" => ("clip-base", 32, 1e-5, "quick_gelu"),
        "siglip" | "siglip2" => ("siglip-base", 16, 1e-6, "gelu_pytorch_tanh"),
        other => {
            let known = "vit, deit, dinov2, dinov2_with_registers, dinov3_vit, clip, siglip, convnext, convnextv2";
            return Err(Some(format!("`model_type` is `{}`; known are {known}", short(other))));
        }
    };
    let width = number("hidden_size", 768);
    let gated = is("use_swiglu_ffn", false) || is("use_gated_mlp", false);
    let mut hidden = number("intermediate_size", 4 * width);
    if kind.starts_with("dinov2") {
        let ratio = at(vision, "mlp_ratio").and_then(Value::as_f64).unwrap_or(4.0);
        hidden = (width as f64 * ratio) as u64;
        if gated {
            // As its code rounds the width of a gate.
            hidden = (2 * hidden / 3).div_ceil(8) * 8;
        }
    }
    let activation = match at(vision, "hidden_act").and_then(Value::as_str).unwrap_or(act) {
        _ if gated => "swiglu",
        "gelu" => "gelu",
        "quick_gelu" => "quick-gelu",
        "gelu_pytorch_tanh" | "gelu_new" => "gelu-tanh",
        other => return Err(Some(format!("`hidden_act` is `{}`, which is not known", short(other)))),
    };
    let eps = at(vision, "layer_norm_eps").and_then(Value::as_f64).unwrap_or(eps);
    let mut words = vec![
        format!("{family}-p{}", number("patch_size", patch)),
        format!("width={width} depth={}", number("num_hidden_layers", 12)),
        format!("heads={} hidden={hidden}", number("num_attention_heads", 12)),
        format!("activation={activation} norm_eps={eps:e}"),
    ];
    if kind.contains("registers") || kind == "dinov3_vit" {
        words.push(format!("registers={}", number("num_register_tokens", if kind == "dinov3_vit" { 0 } else { 4 })));
    }
    if kind.starts_with("clip") {
        let own = at(table, "projection_dim").or_else(|| at(vision, "projection_dim")).and_then(Value::as_u64);
        words.push(format!("projection={}", own.unwrap_or(512)));
    }
    if kind == "dinov3_vit" {
        let bias = ["query_bias", "value_bias"].iter().zip([true, true]).any(|(field, usual)| is(field, usual));
        words.push(format!("qkv_bias={bias}"));
    } else if kind.starts_with("vit") || kind.starts_with("dinov2") {
        words.push(format!("qkv_bias={}", is("qkv_bias", true)));
    }
    parsed(&words)
}

/// The fields of an image tower of OpenCLIP.
fn by_open_clip(model: &Value) -> Result<Arch, Option<String>> {
    let vision = at(model, "vision_cfg").ok_or(None)?;
    if let Some(name) = at(vision, "timm_model_name").and_then(Value::as_str) {
        return by_timm(name, vision).ok_or_else(|| Some(format!("`timm_model_name` is `{}`", short(name))));
    }
    let number = |table: &Value, field: &str| at(table, field).and_then(Value::as_u64);
    if let Some(layers) = at(vision, "layers").and_then(Value::as_array) {
        let layers: Vec<u64> = layers.iter().filter_map(Value::as_u64).collect();
        let preset = ClipResNetArch::of_layers(&layers);
        let preset = preset.ok_or_else(|| Some(format!("`layers` is {layers:?}, of no known residual network")))?;
        let (width, to) = (number(vision, "width").unwrap_or(64), number(model, "embed_dim").unwrap_or(1024));
        return parsed(&[format!("{preset}-w{width} projection={to}")]);
    }
    let (Some(width), Some(depth), Some(patch)) =
        (number(vision, "width"), number(vision, "layers"), number(vision, "patch_size"))
    else {
        return Err(Some("`vision_cfg` describes no vision transformer".to_owned()));
    };
    let quick = at(model, "quick_gelu").and_then(Value::as_bool).unwrap_or(false);
    let ratio = at(vision, "mlp_ratio").and_then(Value::as_f64).unwrap_or(4.0);
    parsed(&[
        format!("{}-base-p{patch}", if quick { "clip" } else { "openclip" }),
        format!("width={width} depth={depth} heads={}", width / number(vision, "head_width").unwrap_or(64).max(1)),
        format!("hidden={}", (width as f64 * ratio) as u64),
        format!("projection={}", number(model, "embed_dim").unwrap_or(512)),
    ])
}

/// An architecture by timm's name for it, and timm's arguments for it.
fn by_timm(name: &str, table: &Value) -> Option<Arch> {
    let name = name.split('.').next()?;
    if let Some(preset) = name.strip_suffix("_clip").filter(|name| name.starts_with("resnet")) {
        let classes = at(table, "num_classes").and_then(Value::as_u64);
        let projection = classes.map_or(String::new(), |classes| format!(" projection={classes}"));
        return format!("clip-{preset}{projection}").parse().ok();
    }
    if let Some(rest) = name.strip_prefix("resnet") {
        return ["18", "34", "50", "101", "152"]
            .contains(&rest)
            .then(|| format!("resnet{rest}-imagenet").parse().ok())?;
    }
    if let Ok(arch) = name.replace('_', "-").parse::<Arch>() {
        return Some(arch);
    }
    if let Some(depth) = name.strip_prefix("wide_resnet").and_then(|rest| rest.strip_suffix("_2")) {
        return format!("resnet{depth}-imagenet-wide").parse().ok();
    }
    let rest = name.strip_prefix("vit_").or_else(|| name.strip_prefix("deit_"))?;
    let (size, rest) = rest.split_once("_patch")?;
    let mut words = rest.split('_');
    let patch = words.next()?;
    let words: Vec<&str> = words.filter(|word| word.parse::<usize>().is_err()).collect();
    let size = match size {
        "small_plus" => "small-plus".to_owned(),
        "huge_plus" => "huge-plus".to_owned(),
        other => other.replace('_', "-"),
    };
    let (family, more) = match words[..] {
        [] => ("vit", ""),
        ["dinov2"] => ("dinov2", ""),
        ["reg4", "dinov2"] => ("dinov2-reg", ""),
        // timm's networks have no biases of queries and values, unless the name says so.
        ["dinov3"] => ("dinov3", " qkv_bias=false"),
        ["dinov3", "qkvb"] => ("dinov3", ""),
        ["clip"] => ("openclip", ""),
        ["clip", "quickgelu"] => ("clip", ""),
        // timm's networks of this family have the exact GELU.
        ["siglip"] => ("siglip", " activation=gelu"),
        _ => return None,
    };
    let pool = at(table, "global_pool").and_then(Value::as_str);
    let read = match (family, pool) {
        ("siglip", _) | (_, None | Some("token" | "")) => "",
        (_, Some("avg")) => " readout=mean",
        _ => return None,
    };
    let projection = match (family, at(table, "num_classes").and_then(Value::as_u64)) {
        ("clip" | "openclip", Some(classes)) => format!(" projection={classes}"),
        _ => String::new(),
    };
    format!("{family}-{size}-p{patch}{more}{read}{projection}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> Result<Repository, ImportError> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        Repository::read(dir.path())
    }

    /// The files of published repositories, shortened.
    #[test]
    #[allow(clippy::too_many_lines, reason = "a table of published files")]
    fn published_folders_are_understood() {
        for (files, arch, size, interpolation) in [
            (
                &[
                    (
                        "config.json",
                        r#"{"model_type": "dinov2", "hidden_size": 384, "num_hidden_layers": 12,
                        "num_attention_heads": 6, "patch_size": 14, "image_size": 518, "layer_norm_eps": 1e-06,
                        "hidden_act": "gelu", "mlp_ratio": 4, "use_swiglu_ffn": false, "qkv_bias": true}"#,
                    ),
                    (
                        "preprocessor_config.json",
                        r#"{"crop_size": {"height": 224, "width": 224},
                        "do_center_crop": true, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
                        "resample": 3, "size": {"shortest_edge": 256}}"#,
                    ),
                ][..],
                "dinov2-small-p14",
                (224, Some(256), false),
                Some("bicubic"),
            ),
            (
                &[
                    (
                        "config.json",
                        r#"{"model_type": "dinov3_vit", "hidden_size": 384, "intermediate_size": 1536,
                        "num_hidden_layers": 12, "num_attention_heads": 6, "patch_size": 16, "num_register_tokens": 4,
                        "layer_norm_eps": 1e-05, "use_gated_mlp": true, "hidden_act": "silu", "key_bias": false}"#,
                    ),
                    (
                        "preprocessor_config.json",
                        r#"{"do_center_crop": null, "resample": 2,
                        "size": {"height": 224, "width": 224}, "image_mean": [0.5, 0.5, 0.5]}"#,
                    ),
                ],
                "dinov3-small-plus-p16",
                (224, Some(224), true),
                Some("bilinear"),
            ),
            (
                &[
                    (
                        "config.json",
                        r#"{"model_type": "clip", "projection_dim": 512, "vision_config": {
                        "hidden_size": 768, "patch_size": 32, "hidden_act": "quick_gelu"}}"#,
                    ),
                    ("preprocessor_config.json", r#"{"crop_size": 224, "size": 224, "resample": 3}"#),
                ],
                "clip-base-p32",
                (224, Some(224), false),
                Some("bicubic"),
            ),
            (
                &[(
                    "config.json",
                    r#"{"model_type": "siglip", "vision_config": {"image_size": 224,
                    "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304,
                    "num_attention_heads": 16, "num_hidden_layers": 27, "patch_size": 14}}"#,
                )],
                "siglip-so400m-p14",
                (224, None, false),
                None,
            ),
            (
                &[(
                    "config.json",
                    r#"{"architecture": "vit_small_patch16_224", "num_classes": 0, "global_pool": "token",
                    "pretrained_cfg": {"input_size": [3, 224, 224], "crop_pct": 0.9, "interpolation": "bicubic",
                    "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}"#,
                )],
                "vit-small-p16",
                (224, Some(248), false),
                Some("bicubic"),
            ),
            (
                &[(
                    "config.json",
                    r#"{"architecture": "resnet50.a1_in1k", "pretrained_cfg": {"input_size": [3, 224, 224]}}"#,
                )],
                "resnet50-imagenet",
                (224, None, false),
                None,
            ),
            (
                &[(
                    "config.json",
                    r#"{"architecture": "wide_resnet101_2", "pretrained_cfg": {"input_size": [3, 176, 176]}}"#,
                )],
                "resnet101-imagenet-wide",
                (176, None, false),
                None,
            ),
            (
                &[(
                    "config.json",
                    r#"{"model_type": "convnextv2", "depths": [2, 2, 6, 2], "hidden_sizes": [40, 80, 160, 320],
                    "layer_norm_eps": 1e-12, "patch_size": 4, "image_size": 224, "hidden_act": "gelu"}"#,
                )],
                "convnextv2-atto norm_eps=1e-12",
                (224, None, false),
                None,
            ),
            (
                &[(
                    "config.json",
                    r#"{"architecture": "convnext_small.fb_in22k", "num_classes": 0, "global_pool": "avg",
                    "pretrained_cfg": {"input_size": [3, 224, 224], "crop_pct": 0.875, "interpolation": "bicubic"}}"#,
                )],
                "convnext-small",
                (224, Some(256), false),
                Some("bicubic"),
            ),
            (
                &[(
                    "config.json",
                    r#"{"architecture": "resnet101_clip", "num_classes": 512, "pretrained_cfg": {
                    "input_size": [3, 224, 224], "interpolation": "bicubic"}}"#,
                )],
                "clip-resnet101",
                (224, None, false),
                Some("bicubic"),
            ),
            (
                &[(
                    "open_clip_config.json",
                    r#"{"model_cfg": {"embed_dim": 640, "vision_cfg": {"image_size": 288,
                    "layers": [4, 6, 10, 6], "width": 80, "patch_size": null}}}"#,
                )],
                "clip-resnet50x4",
                (288, None, false),
                None,
            ),
            (
                &[(
                    "open_clip_config.json",
                    r#"{"model_cfg": {"embed_dim": 512, "vision_cfg": {"image_size": 224,
                    "layers": 12, "width": 768, "patch_size": 16}}, "preprocess_cfg": {"mean": [0.48, 0.45, 0.4],
                    "interpolation": "bicubic", "resize_mode": "shortest"}}"#,
                )],
                "openclip-base-p16",
                (224, None, false),
                Some("bicubic"),
            ),
        ] {
            let all: Vec<(&str, &str)> = files.iter().copied().chain([("model.safetensors", "")]).collect();
            let found = folder(&all).unwrap();
            assert_eq!(found.arch.map(|arch| arch.to_string()), Ok(arch.to_owned()));
            let Resizing { resize, square, interpolation: by } = found.resizing;
            assert_eq!((found.image_size, resize, square, by), (Some(size.0), size.1, size.2, interpolation), "{arch}");
        }
    }

    #[test]
    fn resizing_is_written_as_a_dataset_has_it() {
        let lines = |resize, square, interpolation, size| Resizing { resize, square, interpolation }.dataset(size);
        assert_eq!(
            lines(Some(256), false, Some("bicubic"), 224),
            ["size = 224", "interpolation = \"bicubic\"", "crop = 0.875"]
        );
        assert_eq!(lines(Some(248), false, Some("bilinear"), 224), ["size = 224", "crop = 0.9"]);
        assert_eq!(lines(Some(235), false, None, 224), ["size = 224", "crop = 0.95"]);
        assert_eq!(lines(Some(518), false, None, 518), ["size = 518"]);
        assert_eq!(
            lines(Some(224), true, Some("lanczos"), 224)[1..],
            ["resize = \"square\"", "interpolation = \"lanczos\""]
        );
    }

    #[test]
    fn what_is_not_understood_is_named() {
        assert!(
            folder(&[])
                .unwrap_err()
                .to_string()
                .contains("is a folder without a file of weights; expected one of model.safe")
        );
        let weights = ("pytorch_model.bin", "");
        assert!(folder(&[weights, ("config.json", "[]")]).unwrap_err().to_string().contains("config.json is no JSON"));
        let arch = |text: &str| folder(&[weights, ("config.json", text)]).unwrap().arch.unwrap_err();
        assert_eq!(arch("{}"), "no config.json or open_clip_config.json says which architecture it is");
        assert!(arch(r#"{"model_type": "swin"}"#).starts_with("`model_type` is `swin`; known are vit, deit,"));
        assert_eq!(arch(r#"{"architecture": "beit_base"}"#), "`architecture` is `beit_base`, which is not known");
        assert_eq!(
            arch(r#"{"model_type": "vit", "hidden_act": "relu"}"#),
            "`hidden_act` is `relu`, which is not known"
        );
        assert!(
            arch(r#"{"model_type": "vit", "num_attention_heads": 7}"#).contains("`heads` is `7`; expected a divisor")
        );
    }
}
