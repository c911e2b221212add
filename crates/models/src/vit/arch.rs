//! What decides which function a vision transformer computes, besides its weights.

use std::fmt;
use std::str::FromStr;

/// The architecture of a vision transformer: a preset, and fields that differ from it.
///
/// It is written as the preset's name, such as `vit-tiny-p4` for patches of 4x4 pixels, `-d6` after it for a depth of 6
/// blocks instead of the preset's, and then `field=value` for every other difference, separated by spaces:
/// `vit-small-p16 heads=12`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VitArch {
    /// Channels of a token.
    pub(crate) width: usize,
    /// Blocks.
    pub(crate) depth: usize,
    /// Heads of attention in each block; they divide the width.
    pub(crate) heads: usize,
    /// Side of a patch in pixels.
    pub(crate) patch: usize,
    /// Hidden channels of each block's MLP. A gated MLP has twice as many before its gate.
    pub(crate) hidden: usize,
    /// The activation of the MLPs.
    pub(crate) activation: Activation,
    /// What layer norms add to the variance.
    pub(crate) norm_eps: Epsilon,
    /// Whether a class token precedes the patches.
    pub(crate) class_token: bool,
    /// Register tokens, between the class token and the patches.
    pub(crate) registers: usize,
    /// How the network knows where a patch lies.
    pub(crate) positions: Positions,
    /// Whether a layer norm precedes the first block, as in CLIP.
    pub(crate) pre_norm: bool,
    /// Whether the output of each attention and MLP is multiplied by a learned scale for each channel.
    pub(crate) layer_scale: bool,
    /// Whether the embedding of patches has a bias.
    pub(crate) patch_bias: bool,
    /// Whether queries, keys and values have a bias.
    pub(crate) qkv_bias: bool,
    /// Which tokens become features.
    pub(crate) readout: Readout,
    /// The class tokens of how many last blocks become features.
    pub(crate) last: usize,
    /// The length of features after a projection without bias, as in CLIP; 0 without one.
    pub(crate) projection: usize,
}

/// A choice with names.
macro_rules! choices {
    ($(#[$doc:meta])* $name:ident { $($(#[$each:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(crate) enum $name { $($(#[$each])* $variant),* }

        impl $name {
            const WORDS: &[&str] = &[$($word),*];
        }

        impl FromStr for $name {
            type Err = ();

            fn from_str(s: &str) -> Result<Self, ()> {
                match s { $($word => Ok(Self::$variant),)* _ => Err(()) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),* })
            }
        }
    };
}

choices! {
    /// The activation of an MLP.
    Activation {
        /// x Φ(x) (Hendrycks and Gimpel, 2016).
        Gelu = "gelu",
        /// GELU's approximation by tanh.
        GeluTanh = "gelu-tanh",
        /// x σ(1.702 x), as in OpenAI's CLIP.
        QuickGelu = "quick-gelu",
        /// The gate silu(a) times b, for the two halves a and b of the first linear map (Shazeer, 2020).
        SwiGlu = "swiglu",
    }
}

choices! {
    /// How a transformer knows where a patch lies.
    Positions {
        /// A learned vector for each token, added to its embedding.
        Learned = "learned",
        /// Queries and keys of patches are rotated by angles of row and column (RoFormer, Su et al., 2021), as in
        /// DINOv3.
        Rotary = "rotary",
    }
}

choices! {
    /// Which tokens become features.
    Readout {
        /// The class token.
        Class = "class",
        /// The mean of the patches.
        Mean = "mean",
        /// The class token, and after it the mean of the patches.
        ClassMean = "class-mean",
        /// Attention of one learned query over all tokens, followed by an MLP, as in SigLIP.
        Attention = "attention",
    }
}

/// A small positive number, compared by its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Epsilon(u64);

impl Epsilon {
    const fn new(value: f64) -> Self {
        Self(value.to_bits())
    }

    pub(crate) fn value(self) -> f64 {
        f64::from_bits(self.0)
    }
}

impl FromStr for Epsilon {
    type Err = ();

    fn from_str(s: &str) -> Result<Self, ()> {
        s.parse().ok().filter(|v| (1e-15..=0.1).contains(v)).map(Self::new).ok_or(())
    }
}

impl fmt::Display for Epsilon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:e}", self.value())
    }
}

/// Sizes of a family: its name, width, depth and heads, and what else differs in it.
type Size = (&'static str, usize, usize, usize, fn(&mut VitArch));

/// A family of presets: its name, its usual patch if the name need not say it, and its sizes.
struct Family {
    name: &'static str,
    patch: Option<usize>,
    sizes: &'static [Size],
    differs: fn(&mut VitArch),
}

const SMALL: Size = ("small", 384, 12, 6, |_| {});
const BASE: Size = ("base", 768, 12, 12, |_| {});
const LARGE: Size = ("large", 1024, 24, 16, |_| {});
const HUGE: Size = ("huge", 1280, 32, 16, |_| {});

/// The width of the projection.
fn project(arch: &mut VitArch, to: usize) {
    arch.projection = to;
}

const CLIP: &[Size] = &[
    ("base", 768, 12, 12, |a| project(a, 512)),
    ("large", 1024, 24, 16, |a| project(a, 768)),
    ("huge", 1280, 32, 16, |a| project(a, 1024)),
];

fn clip(arch: &mut VitArch) {
    (arch.pre_norm, arch.patch_bias, arch.norm_eps) = (true, false, Epsilon::new(1e-5));
}

const DINOV2: &[Size] =
    &[SMALL, BASE, LARGE, ("giant", 1536, 40, 24, |a| (a.activation, a.hidden) = (Activation::SwiGlu, 4096))];

const FAMILIES: [Family; 8] = [
    Family {
        name: "vit",
        patch: None,
        sizes: &[("nano", 64, 12, 1, |_| {}), ("tiny", 192, 12, 3, |_| {}), SMALL, BASE, LARGE, HUGE],
        differs: |_| {},
    },
    Family { name: "mocov3", patch: Some(16), sizes: &[("small", 384, 12, 12, |_| {}), BASE], differs: |_| {} },
    Family { name: "dinov2", patch: Some(14), sizes: DINOV2, differs: |a| a.layer_scale = true },
    Family {
        name: "dinov2-reg",
        patch: Some(14),
        sizes: DINOV2,
        differs: |a| (a.layer_scale, a.registers) = (true, 4),
    },
    Family {
        name: "dinov3",
        patch: Some(16),
        sizes: &[
            SMALL,
            ("small-plus", 384, 12, 6, |a| a.activation = Activation::SwiGlu),
            BASE,
            LARGE,
            ("huge-plus", 1280, 32, 20, |a| a.activation = Activation::SwiGlu),
            ("7b", 4096, 40, 32, |a| {
                (a.activation, a.hidden, a.qkv_bias) = (Activation::SwiGlu, 8192, false);
            }),
        ],
        differs: |a| {
            (a.layer_scale, a.registers, a.positions) = (true, 4, Positions::Rotary);
            a.norm_eps = Epsilon::new(1e-5);
        },
    },
    Family {
        name: "clip",
        patch: None,
        sizes: CLIP,
        differs: |a| {
            clip(a);
            a.activation = Activation::QuickGelu;
        },
    },
    Family { name: "openclip", patch: None, sizes: CLIP, differs: clip },
    Family {
        name: "siglip",
        patch: None,
        sizes: &[BASE, LARGE, ("so400m", 1152, 27, 16, |a| a.hidden = 4304)],
        differs: |a| {
            (a.class_token, a.readout, a.activation) = (false, Readout::Attention, Activation::GeluTanh);
        },
    },
];

/// Why a text is not the name of a transformer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VitArchError {
    /// The name is not that of a preset.
    #[error("`{0}` is no preset; expected one of {presets}", presets = presets())]
    Preset(String),
    /// A preset's patch or depth is missing, or out of range.
    #[error("`{0}`: expected `-p` and the side of a patch in pixels, and possibly `-d` and a depth, both 1 to 64")]
    Numbers(String),
    /// A word is not `field=value`.
    #[error("`{0}` is no `field=value`; the fields are {fields}", fields = FIELDS.map(|f| f.0).join(", "))]
    Field(String),
    /// A value does not fit its field.
    #[error("`{field}` is `{value}`; expected {expected}")]
    Value {
        /// The field.
        field: String,
        /// Its value.
        value: String,
        /// What would fit.
        expected: String,
    },
}

/// All presets, for messages.
fn presets() -> String {
    let family = |family: &Family| {
        let sizes: Vec<&str> = family.sizes.iter().map(|size| size.0).collect();
        let patch = if family.patch.is_some() { "[-pN]" } else { "-pN" };
        format!("`{}-{{{}}}{patch}`", family.name, sizes.join("|"))
    };
    FAMILIES.iter().map(family).collect::<Vec<_>>().join(", ")
}

/// A field of an architecture: its name, how it is read (with what is expected instead), and how it is written.
type Field = (&'static str, fn(&mut VitArch, &str) -> Result<(), String>, fn(&VitArch) -> String);

/// Reads a number of a field.
fn number(to: &mut usize, text: &str, from: usize, most: usize) -> Result<(), String> {
    let read = text.parse().ok().filter(|n| (from..=most).contains(n));
    *to = read.ok_or_else(|| format!("a whole number from {from} to {most}"))?;
    Ok(())
}

/// Reads a value of another kind, which is one of `words`.
fn word<T: FromStr>(to: &mut T, text: &str, words: &[&str]) -> Result<(), String> {
    *to = text.parse().map_err(|_| format!("one of {}", words.join(", ")))?;
    Ok(())
}

const BOOL: [&str; 2] = ["true", "false"];
/// The largest width of anything.
const WIDEST: usize = 1 << 14;
/// The largest patch and depth.
const MOST: usize = 64;

const FIELDS: [Field; 16] = [
    ("width", |a, t| number(&mut a.width, t, 4, WIDEST), |a| a.width.to_string()),
    ("heads", |a, t| number(&mut a.heads, t, 1, WIDEST), |a| a.heads.to_string()),
    ("hidden", |a, t| number(&mut a.hidden, t, 1, WIDEST), |a| a.hidden.to_string()),
    ("activation", |a, t| word(&mut a.activation, t, Activation::WORDS), |a| a.activation.to_string()),
    (
        "norm_eps",
        |a, t| t.parse().map(|eps| a.norm_eps = eps).map_err(|()| "a number from 1e-15 to 0.1".to_owned()),
        |a| a.norm_eps.to_string(),
    ),
    ("class_token", |a, t| word(&mut a.class_token, t, &BOOL), |a| a.class_token.to_string()),
    ("registers", |a, t| number(&mut a.registers, t, 0, MOST), |a| a.registers.to_string()),
    ("positions", |a, t| word(&mut a.positions, t, Positions::WORDS), |a| a.positions.to_string()),
    ("pre_norm", |a, t| word(&mut a.pre_norm, t, &BOOL), |a| a.pre_norm.to_string()),
    ("layer_scale", |a, t| word(&mut a.layer_scale, t, &BOOL), |a| a.layer_scale.to_string()),
    ("patch_bias", |a, t| word(&mut a.patch_bias, t, &BOOL), |a| a.patch_bias.to_string()),
    ("qkv_bias", |a, t| word(&mut a.qkv_bias, t, &BOOL), |a| a.qkv_bias.to_string()),
    ("readout", |a, t| word(&mut a.readout, t, Readout::WORDS), |a| a.readout.to_string()),
    ("last", |a, t| number(&mut a.last, t, 1, MOST), |a| a.last.to_string()),
    ("projection", |a, t| number(&mut a.projection, t, 0, WIDEST), |a| a.projection.to_string()),
    ("depth", |a, t| number(&mut a.depth, t, 1, MOST), |a| a.depth.to_string()),
];

impl VitArch {
    /// A member of a family, with a patch and possibly another depth.
    fn preset(family: &Family, size: &Size, patch: usize, deep: Option<usize>) -> Self {
        let (_, width, depth, heads, differs) = *size;
        let mut arch = Self {
            width,
            depth,
            heads,
            patch,
            hidden: 4 * width,
            activation: Activation::Gelu,
            norm_eps: Epsilon::new(1e-6),
            class_token: true,
            registers: 0,
            positions: Positions::Learned,
            pre_norm: false,
            layer_scale: false,
            patch_bias: true,
            qkv_bias: true,
            readout: Readout::Class,
            last: 1,
            projection: 0,
        };
        (family.differs)(&mut arch);
        differs(&mut arch);
        arch.depth = deep.unwrap_or(arch.depth);
        arch
    }

    /// Whether a text begins like the name of a preset.
    pub(crate) fn is_named(text: &str) -> bool {
        FAMILIES.iter().any(|family| text.split(['-', ' ']).next() == family.name.split('-').next())
    }

    /// Number of features, d.
    #[must_use]
    pub fn feature_dim(self) -> usize {
        let each = if self.projection > 0 { self.projection } else { self.width };
        each * (self.last + usize::from(self.readout == Readout::ClassMean))
    }

    /// The numbers that the forward cache of a training step holds for one image of `[height, width]`: the outputs of
    /// all matrices, and the attention weights.
    pub(crate) fn kept(self, [height, width]: [usize; 2]) -> f64 {
        let patches = (height / self.patch) as f64 * (width / self.patch) as f64;
        let tokens = self.before_patches() as f64 + patches;
        let first = if self.activation == Activation::SwiGlu { 2 * self.hidden } else { self.hidden };
        let (made, attention) = ((3 + 1 + 1) * self.width + first, self.heads as f64 * tokens);
        self.depth as f64 * tokens * (made as f64 + attention)
    }

    /// A lower bound of the numbers that a forward pass holds at once for one image: those of one block.
    pub(crate) fn held(self, size: [usize; 2]) -> f64 {
        self.kept(size) / self.depth as f64
    }

    /// Number of attention heads.
    #[must_use]
    pub fn heads(self) -> usize {
        self.heads
    }

    /// Number of blocks.
    #[must_use]
    pub fn depth(self) -> usize {
        self.depth
    }

    /// Side of a patch in pixels; the sides of an image must be multiples of it.
    #[must_use]
    pub fn patch(self) -> usize {
        self.patch
    }

    /// Number of tokens before the patches.
    pub(crate) fn before_patches(self) -> usize {
        usize::from(self.class_token) + self.registers
    }

    /// Checks what several fields decide together.
    fn check(self) -> Result<Self, VitArchError> {
        let wrong = |field: &str, value: String, expected: &str| {
            Err(VitArchError::Value { field: field.to_owned(), value, expected: expected.to_owned() })
        };
        if !self.width.is_multiple_of(self.heads) {
            return wrong("heads", self.heads.to_string(), &format!("a divisor of the width, {}", self.width));
        }
        if self.positions == Positions::Rotary && !(self.width / self.heads).is_multiple_of(4) {
            return wrong("heads", self.heads.to_string(), "heads of a multiple of 4 channels, for rotary positions");
        }
        if self.positions == Positions::Learned && !self.width.is_multiple_of(4) {
            return wrong("width", self.width.to_string(), "a multiple of 4");
        }
        let class = matches!(self.readout, Readout::Class | Readout::ClassMean);
        if class && !self.class_token {
            return wrong("readout", self.readout.to_string(), "mean or attention, without a class token");
        }
        if self.last > self.depth {
            return wrong("last", self.last.to_string(), &format!("at most the depth, {}", self.depth));
        }
        if self.last > 1 && !class {
            return wrong("last", self.last.to_string(), "1, unless class tokens are read");
        }
        Ok(self)
    }
}

impl FromStr for VitArch {
    type Err = VitArchError;

    fn from_str(s: &str) -> Result<Self, VitArchError> {
        let mut words = s.split_whitespace();
        let name = words.next().unwrap_or_default();
        let mut arch = named(name)?;
        for word in words {
            let (field, value) = word.split_once('=').ok_or_else(|| VitArchError::Field(word.to_owned()))?;
            let known = FIELDS.iter().find(|known| known.0 == field);
            let (_, read, _) = known.ok_or_else(|| VitArchError::Field(word.to_owned()))?;
            read(&mut arch, value).map_err(|expected| VitArchError::Value {
                field: field.to_owned(),
                value: value.to_owned(),
                expected,
            })?;
        }
        arch.check()
    }
}

/// The preset of that name.
fn named(name: &str) -> Result<VitArch, VitArchError> {
    let members = FAMILIES.iter().flat_map(|family| family.sizes.iter().map(move |size| (family, size)));
    let rest = |(family, size): &(&Family, &Size)| {
        let rest = name.strip_prefix(family.name)?.strip_prefix('-')?.strip_prefix(size.0)?;
        (rest.is_empty() || rest.starts_with("-p") || rest.starts_with("-d")).then(|| rest.to_owned())
    };
    let (family, size, rest) = members
        .filter_map(|member| Some((member.0, member.1, rest(&member)?)))
        // `-plus` is a size, and not `-p` with a patch.
        .min_by_key(|(.., rest)| rest.len())
        .ok_or_else(|| VitArchError::Preset(name.to_owned()))?;
    let wrong = || VitArchError::Numbers(name.to_owned());
    let number = |s: &str| s.parse().ok().filter(|n| (1..=MOST).contains(n)).ok_or_else(wrong);
    let (patch, depth) = match rest.split_once("-d") {
        Some((patch, depth)) => (patch, Some(number(depth)?)),
        None => (&*rest, None),
    };
    let patch = match patch.strip_prefix("-p") {
        Some(patch) => number(patch)?,
        None => family.patch.filter(|_| patch.is_empty()).ok_or_else(wrong)?,
    };
    Ok(VitArch::preset(family, size, patch, depth))
}

impl fmt::Display for VitArch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = FAMILIES.iter().flat_map(|family| family.sizes.iter().map(move |size| (family, size)));
        // The preset of the same width, if there is one, that differs in the fewest fields.
        let nearest = members
            .map(|(family, size)| {
                let preset = VitArch::preset(family, size, self.patch, Some(self.depth));
                let others: Vec<String> = (FIELDS.iter())
                    .filter(|(_, _, write)| write(&preset) != write(self))
                    .map(|(field, _, write)| format!(" {field}={}", write(self)))
                    .collect();
                let depth = if size.2 == self.depth { String::new() } else { format!("-d{}", self.depth) };
                let name = format!("{}-{}-p{}{depth}", family.name, size.0, self.patch);
                (preset.width != self.width, others.len(), name + &others.concat())
            })
            .min_by_key(|(other, count, _)| (*other, *count));
        f.pad(&nearest.map(|(.., name)| name).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arch(name: &str) -> VitArch {
        name.parse().unwrap()
    }

    #[test]
    fn names_round_trip() {
        for name in [
            "vit-tiny-p4",
            "vit-small-p16",
            "vit-nano-p8-d2",
            "vit-huge-p14",
            "mocov3-small-p16",
            "dinov2-giant-p14",
            "dinov2-reg-base-p14",
            "dinov3-small-plus-p16",
            "dinov3-7b-p16",
            "clip-base-p32",
            "openclip-huge-p14",
            "siglip-so400m-p14",
            "vit-small-p16 hidden=1024 heads=3 ",
            "vit-base-p16 readout=mean",
            "dinov2-small-p14-d3 readout=class-mean last=2",
            "clip-base-p16 norm_eps=1e-6 projection=0",
        ] {
            let arch = arch(name);
            assert_eq!(arch.to_string().parse(), Ok(arch), "{name}");
            let sorted = |name: &str| {
                let mut words: Vec<String> = name.split_whitespace().map(str::to_owned).collect();
                words.sort();
                words
            };
            assert_eq!(sorted(&arch.to_string()), sorted(name));
        }
        assert_eq!(arch("dinov2-small").to_string(), "dinov2-small-p14");
        assert_eq!(arch("dinov3-huge-plus"), arch("dinov3-huge-plus-p16"));
        assert_eq!(arch("vit-small-p16 heads=12"), arch("mocov3-small-p16"));
    }

    #[test]
    fn what_is_no_architecture_says_what_would_be() {
        let error = |name: &str| name.parse::<VitArch>().unwrap_err().to_string();
        for name in ["vit-tiny", "vit-tiny-p0", "vit-tiny-p4-d", "vit-tiny-p4-d99", "clip-base"] {
            assert_eq!(
                error(name),
                format!(
                    "`{name}`: expected `-p` and the side of a patch in pixels, and possibly `-d` and a depth, both 1 to 64"
                )
            );
        }
        assert!(
            error("vit").starts_with("`vit` is no preset; expected one of `vit-{nano|tiny|small|base|large|huge}-pN`,")
        );
        for (name, message) in [
            ("vit-tiny-p4 heads", "`heads` is no `field=value`; the fields are width, heads, hidden,"),
            ("vit-tiny-p4 head=2", "`head=2` is no `field=value`;"),
            ("vit-tiny-p4 heads=5", "`heads` is `5`; expected a divisor of the width, 192"),
            ("vit-tiny-p4 heads=x", "`heads` is `x`; expected a whole number from 1 to 16384"),
            (
                "vit-tiny-p4 activation=relu",
                "`activation` is `relu`; expected one of gelu, gelu-tanh, quick-gelu, swiglu",
            ),
            (
                "vit-tiny-p4 class_token=false",
                "`readout` is `class`; expected mean or attention, without a class token",
            ),
            ("vit-tiny-p4 readout=mean last=2", "`last` is `2`; expected 1, unless class tokens are read"),
            ("vit-tiny-p4 last=13", "`last` is `13`; expected at most the depth, 12"),
            ("vit-tiny-p4 norm_eps=0", "`norm_eps` is `0`; expected a number from 1e-15 to 0.1"),
        ] {
            assert!(error(name).starts_with(message), "{}", error(name));
        }
    }

    #[test]
    fn features_are_what_is_read() {
        for (name, dim) in [
            ("vit-small-p16", 384),
            ("dinov2-small-p14 readout=class-mean", 768),
            ("dinov2-small-p14 readout=class-mean last=4", 5 * 384),
            ("clip-base-p32", 512),
            ("clip-large-p14 projection=0", 1024),
            ("siglip-base-p16", 768),
        ] {
            assert_eq!(arch(name).feature_dim(), dim, "{name}");
        }
    }
}
