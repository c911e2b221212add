//! Any of the networks, by the name of its architecture.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clip_resnet::{self, ClipResNet, ClipResNetArch, ClipResNetArchError};
use crate::convnext::{self, ConvNext, ConvNextArch, ConvNextArchError};
use crate::initial::WeightSource;
use crate::resnet::{ResNet, ResNetArch, ResNetArchError};
use crate::vit::{Vit, VitArch, VitArchError};

/// An architecture: see [`ResNetArch`] and [`VitArch`].
///
/// In a spec, it is written as its name, `"vit-small-p16 heads=12"`, or as a table of a preset and fields,
/// `{ preset = "vit-small-p16", heads = 12 }`. Elsewhere it is the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
pub enum Arch {
    /// A residual network.
    ResNet(ResNetArch),
    /// A residual network of CLIP.
    ClipResNet(ClipResNetArch),
    /// A ConvNeXt.
    ConvNext(ConvNextArch),
    /// A vision transformer.
    Vit(VitArch),
}

/// How a spec writes an architecture.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected an architecture's name, or a table of a `preset` and fields")]
enum Written {
    Name(String),
    Table(BTreeMap<String, Value>),
}

/// A text that is not the name of an architecture.
#[derive(Debug, thiserror::Error)]
pub enum ArchError {
    /// No family has such a name.
    #[error(
        "unknown architecture `{0}`: expected a residual network such as `resnet20`, `resnet18` or \
         `resnet50-imagenet`, a `convnext-tiny`, or a vision transformer such as `vit-tiny-p4` or `dinov2-small-p14` \
         (docs/pretraining.md)"
    )]
    Unknown(String),
    /// The name is like that of a residual network.
    #[error("unknown architecture `{name}`: {source} (docs/pretraining.md)")]
    ResNet {
        /// The name.
        name: String,
        /// What is wrong with it.
        source: ResNetArchError,
    },
    /// The name is like that of a residual network of CLIP.
    #[error("unknown architecture `{name}`: {source} (docs/pretraining.md)")]
    ClipResNet {
        /// The name.
        name: String,
        /// What is wrong with it.
        source: ClipResNetArchError,
    },
    /// The name is like that of a ConvNeXt.
    #[error("unknown architecture `{name}`: {source} (docs/pretraining.md)")]
    ConvNext {
        /// The name.
        name: String,
        /// What is wrong with it.
        source: ConvNextArchError,
    },
    /// The name is like that of a transformer.
    #[error("unknown architecture `{name}`: {source}")]
    Vit {
        /// The name.
        name: String,
        /// What is wrong with it.
        source: VitArchError,
    },
    /// A table has no preset, or a field that is no text, number or boolean.
    #[error("in a table, `{0}` must be {1}")]
    Table(String, &'static str),
}

/// An image size that an architecture cannot process.
#[derive(Debug, thiserror::Error)]
#[error("images of {} x {} pixels do not fit `{arch}`: it wants sides that are multiples of {patch}", size[0], size[1])]
pub struct ImageSizeError {
    arch: Arch,
    size: [usize; 2],
    patch: usize,
}

impl Arch {
    /// Number of features, d.
    #[must_use]
    pub fn feature_dim(self) -> usize {
        match self {
            Self::ResNet(arch) => arch.feature_dim(),
            Self::ClipResNet(arch) => arch.feature_dim(),
            Self::ConvNext(arch) => arch.feature_dim(),
            Self::Vit(arch) => arch.feature_dim(),
        }
    }

    /// Number of blocks, each with a shortcut around it; what precedes the first one is the stem.
    #[must_use]
    pub fn blocks(self) -> usize {
        match self {
            Self::ResNet(arch) => arch.blocks(),
            Self::ClipResNet(arch) => arch.blocks(),
            Self::ConvNext(arch) => arch.depths().into_iter().sum(),
            Self::Vit(arch) => arch.depth,
        }
    }

    /// A lower bound of the numbers (f32) that a forward pass holds in memory at once, for one image of
    /// `[height, width]`.
    #[must_use]
    pub fn held(self, size: [usize; 2]) -> f64 {
        match self {
            Self::ResNet(arch) => arch.held(size),
            Self::ClipResNet(arch) => arch.held(size),
            Self::ConvNext(arch) => arch.held(size),
            Self::Vit(arch) => arch.held(size),
        }
    }

    /// A lower bound of the numbers (f32) that the forward cache of a training step holds, for one image of
    /// `[height, width]`.
    #[must_use]
    pub fn kept(self, size: [usize; 2]) -> f64 {
        match self {
            Self::ResNet(arch) => arch.kept(size),
            Self::ClipResNet(arch) => arch.kept(size),
            Self::ConvNext(arch) => arch.kept(size),
            Self::Vit(arch) => arch.kept(size),
        }
    }

    /// Checks that the architecture can process images of `[height, width]`.
    ///
    /// # Errors
    /// If a side is zero or not a multiple of a transformer's patch, or of 32 for a residual network of CLIP
    /// or a ConvNeXt.
    pub fn check_size(self, size: [usize; 2]) -> Result<(), ImageSizeError> {
        let patch = match self {
            Self::Vit(vit) => vit.patch(),
            Self::ClipResNet(_) => clip_resnet::STRIDE,
            Self::ConvNext(_) => convnext::STRIDE,
            Self::ResNet(_) => return Ok(()),
        };
        let fits = size.into_iter().all(|side| side > 0 && side.is_multiple_of(patch));
        if fits { Ok(()) } else { Err(ImageSizeError { arch: self, size, patch }) }
    }
}

impl Default for Arch {
    /// `resnet20`.
    fn default() -> Self {
        Self::ResNet(ResNetArch::default())
    }
}

impl FromStr for Arch {
    type Err = ArchError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if ClipResNetArch::is_named(s) {
            let named = s.parse().map(Self::ClipResNet);
            return named.map_err(|source| ArchError::ClipResNet { name: s.to_owned(), source });
        }
        if ConvNextArch::is_named(s) {
            let named = s.parse().map(Self::ConvNext);
            return named.map_err(|source| ArchError::ConvNext { name: s.to_owned(), source });
        }
        if VitArch::is_named(s) {
            return s.parse().map(Self::Vit).map_err(|source| ArchError::Vit { name: s.to_owned(), source });
        }
        if !s.starts_with("resnet") {
            return Err(ArchError::Unknown(s.to_owned()));
        }
        s.parse().map(Self::ResNet).map_err(|source| ArchError::ResNet { name: s.to_owned(), source })
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ResNet(arch) => arch.fmt(f),
            Self::ClipResNet(arch) => arch.fmt(f),
            Self::ConvNext(arch) => arch.fmt(f),
            Self::Vit(arch) => arch.fmt(f),
        }
    }
}

impl TryFrom<Written> for Arch {
    type Error = ArchError;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let mut fields = match written {
            Written::Name(name) => return name.parse(),
            Written::Table(fields) => fields,
        };
        let preset = fields.remove("preset");
        let preset = preset.as_ref().and_then(Value::as_str);
        let mut name = preset.ok_or_else(|| ArchError::Table("preset".into(), "an architecture's name"))?.to_owned();
        for (field, value) in fields {
            let text = match value {
                Value::String(text) if !text.contains(char::is_whitespace) => text,
                Value::Bool(_) | Value::Number(_) => value.to_string(),
                _ => return Err(ArchError::Table(field, "a word, a number, or true or false")),
            };
            name.push_str(&format!(" {field}={text}"));
        }
        name.parse()
    }
}

impl JsonSchema for Arch {
    fn schema_name() -> Cow<'static, str> {
        "Arch".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "An architecture's name, or a table of a `preset` and fields.",
            "type": ["string", "object"],
            "examples": ["resnet20", "resnet18-imagenet", "vit-tiny-p4", "dinov2-small-p14"]
        })
    }
}

impl From<Arch> for String {
    fn from(arch: Arch) -> Self {
        arch.to_string()
    }
}

/// A network without its classifier: images `[n, 3, h, w]` in, features `[n, d]` out.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "an extractor has one network, whose weights are elsewhere")]
pub enum Network {
    /// A residual network.
    ResNet(ResNet),
    /// A residual network of CLIP.
    ClipResNet(ClipResNet),
    /// A ConvNeXt.
    ConvNext(ConvNext),
    /// A vision transformer.
    Vit(Vit),
}

impl Network {
    /// A network for images of `[height, width]`, which [`Arch::check_size`] accepts, with weights drawn from
    /// `weights`.
    #[must_use]
    pub fn new(arch: Arch, size: [usize; 2], weights: &mut dyn WeightSource, device: &Device) -> Self {
        match arch {
            Arch::ResNet(arch) => Self::ResNet(ResNet::new(arch, weights, device)),
            Arch::ClipResNet(arch) => Self::ClipResNet(ClipResNet::new(arch, size, weights, device)),
            Arch::ConvNext(arch) => Self::ConvNext(ConvNext::new(arch, weights, device)),
            Arch::Vit(arch) => Self::Vit(Vit::new(arch, size, weights, device)),
        }
    }

    /// Number of blocks.
    #[must_use]
    pub fn blocks(&self) -> usize {
        match self {
            Self::ResNet(net) => net.blocks().count(),
            Self::ClipResNet(net) => net.blocks().count(),
            Self::ConvNext(net) => net.arch().depths().into_iter().sum(),
            Self::Vit(net) => net.arch().depth,
        }
    }

    /// Features `[n, d]` from the output of the first `blocks` blocks, as
    /// [`BackbonePrefix::activations`](crate::BackbonePrefix::activations) returns it. After all blocks, nothing is
    /// left to compute.
    #[must_use]
    pub fn after(&self, blocks: usize, activations: Tensor<4>) -> Tensor<2> {
        if blocks >= self.blocks() {
            return activations.flatten::<2>(1, 3);
        }
        match self {
            Self::ResNet(net) => net.after(blocks, activations),
            Self::ClipResNet(net) => net.after(blocks, activations),
            Self::ConvNext(net) => net.after(blocks, activations),
            Self::Vit(net) => net.after(blocks, activations),
        }
    }

    /// Features `[n, d]` of normalised images `[n, 3, h, w]`.
    #[must_use]
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        match self {
            Self::ResNet(net) => net.forward(images),
            Self::ClipResNet(net) => net.forward(images),
            Self::ConvNext(net) => net.forward(images),
            Self::Vit(net) => net.forward(images),
        }
    }
}
