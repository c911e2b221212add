//! What decides which function a ConvNeXt computes, besides its weights.

use std::fmt;
use std::str::FromStr;

/// Side of the patches of the stem, and by how much the network is smaller than an image.
pub(crate) const PATCH: usize = 4;
pub(crate) const STRIDE: usize = 32;
/// Side of the kernels of depthwise convolutions.
pub(super) const SIDE: usize = 7;
/// Hidden channels of a block's MLP, divided by its channels.
pub(super) const EXPANSION: usize = 4;
/// What the last layer norm adds to the variance, if the name does not say it.
const EPSILON: f64 = 1e-6;

/// An architecture: a preset, and what differs from it. It is written as the preset's name, `-wN` after it for another
/// width of the first stage, and `norm_eps=E` for another epsilon of the last layer norm: `convnext-tiny`,
/// `convnextv2-atto-w8`, `convnext-base norm_eps=1e-12`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvNextArch {
    preset: Preset,
    width: usize,
    /// The bits of the last layer norm's epsilon.
    norm_eps: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Preset {
    name: &'static str,
    depths: [usize; 4],
    width: usize,
    version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Version {
    /// With layer scales.
    One,
    /// With global response normalisation.
    Two,
}

/// The presets of version 1 and 2: names, depths, and the width of the first stage.
const SIZES: [(&str, &str, [usize; 4], usize); 10] = [
    ("convnext-atto", "convnextv2-atto", [2, 2, 6, 2], 40),
    ("convnext-femto", "convnextv2-femto", [2, 2, 6, 2], 48),
    ("convnext-pico", "convnextv2-pico", [2, 2, 6, 2], 64),
    ("convnext-nano", "convnextv2-nano", [2, 2, 8, 2], 80),
    ("convnext-tiny", "convnextv2-tiny", [3, 3, 9, 3], 96),
    ("convnext-small", "convnextv2-small", [3, 3, 27, 3], 96),
    ("convnext-base", "convnextv2-base", [3, 3, 27, 3], 128),
    ("convnext-large", "convnextv2-large", [3, 3, 27, 3], 192),
    ("convnext-xlarge", "convnextv2-xlarge", [3, 3, 27, 3], 256),
    ("convnext-huge", "convnextv2-huge", [3, 3, 27, 3], 352),
];

fn presets() -> impl Iterator<Item = Preset> {
    SIZES.into_iter().flat_map(|(one, two, depths, width)| {
        [(one, Version::One), (two, Version::Two)].map(|(name, version)| Preset { name, depths, width, version })
    })
}

/// A text that begins as the name of a ConvNeXt, and is none.
#[derive(Debug, thiserror::Error)]
pub enum ConvNextArchError {
    /// No network has this name.
    #[error(
        "`{0}` is no size; expected `atto`, `femto`, `pico`, `nano`, `tiny`, `small`, `base`, `large`, `xlarge` or `huge`"
    )]
    Size(String),
    /// The width is no number, or out of range.
    #[error("`-{0}` is no width; expected `-w` and a multiple of 4 from 4 to 512")]
    Width(String),
    /// Another field than the epsilon, or one of another value.
    #[error("`{0}` is no field; expected `norm_eps=` and a number from 1e-15 to 0.1")]
    Field(String),
}

impl ConvNextArch {
    /// Whether a text begins as the name of a ConvNeXt.
    pub(crate) fn is_named(text: &str) -> bool {
        text.starts_with("convnext")
    }

    /// The name of the preset of that depths, of version 1 or, with global response normalisation, 2.
    pub(crate) fn of_depths(depths: &[u64], width: u64, response_norm: bool) -> Option<String> {
        let version = if response_norm { Version::Two } else { Version::One };
        let same = |preset: &Preset| {
            preset.version == version && depths.iter().copied().eq(preset.depths.map(|depth| depth as u64))
        };
        let all: Vec<Preset> = presets().filter(same).collect();
        let found = all.iter().find(|preset| preset.width as u64 == width).or(all.first())?;
        Some(format!("{}-w{width}", found.name))
    }

    /// Whether it is the same preset as another, whatever the fields.
    pub(crate) fn same_preset(self, other: Self) -> bool {
        self.preset == other.preset
    }

    /// Number of features, d: the channels of the last stage.
    #[must_use]
    pub fn feature_dim(self) -> usize {
        self.widths()[3]
    }

    /// Channels of each stage.
    pub(super) fn widths(self) -> [usize; 4] {
        [1, 2, 4, 8].map(|factor| factor * self.width)
    }

    /// Blocks of each stage.
    pub(crate) fn depths(self) -> [usize; 4] {
        self.preset.depths
    }

    /// Whether MLPs have global response normalisation, and blocks no layer scale.
    pub(super) fn response_norm(self) -> bool {
        self.preset.version == Version::Two
    }

    /// What the last layer norm adds to the variance.
    pub(crate) fn norm_eps(self) -> f64 {
        f64::from_bits(self.norm_eps)
    }

    /// A lower bound of the numbers that a forward pass holds at once for one image of `[height, width]`: the hidden
    /// channels of the first stage.
    pub(crate) fn held(self, [height, width]: [usize; 2]) -> f64 {
        (EXPANSION * self.width) as f64 * (height / PATCH) as f64 * (width / PATCH) as f64
    }

    /// The numbers that the forward cache of a training step holds for one image of `[height, width]`: the outputs of
    /// all convolutions, layer norms and matrices.
    pub(crate) fn kept(self, size: [usize; 2]) -> f64 {
        let area = size.map(|side| (side / PATCH) as f64).iter().product::<f64>();
        let stages = self.widths().into_iter().zip(self.depths()).enumerate();
        let each =
            stages.map(|(i, (width, depth))| (depth * (3 + EXPANSION) * width) as f64 * area / (1 << (2 * i)) as f64);
        each.sum()
    }
}

impl FromStr for ConvNextArch {
    type Err = ConvNextArchError;

    fn from_str(s: &str) -> Result<Self, ConvNextArchError> {
        let mut words = s.split_whitespace();
        let name = words.next().unwrap_or_default();
        let mut parts = name.splitn(3, '-');
        let (family, size) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let found = presets().find(|preset| preset.name.split_once('-') == Some((family, size)));
        let preset = found.ok_or_else(|| ConvNextArchError::Size(size.to_owned()))?;
        let mut arch = Self { preset, width: preset.width, norm_eps: EPSILON.to_bits() };
        if let Some(suffix) = parts.next() {
            let width = suffix.strip_prefix('w').and_then(|width| width.parse().ok());
            let width = width.filter(|w: &usize| (4..=512).contains(w) && w.is_multiple_of(4));
            arch.width = width.ok_or_else(|| ConvNextArchError::Width(suffix.to_owned()))?;
        }
        for word in words {
            let value = word.strip_prefix("norm_eps=").and_then(|value| value.parse::<f64>().ok());
            let value = value.filter(|value| (1e-15..=0.1).contains(value));
            arch.norm_eps = value.ok_or_else(|| ConvNextArchError::Field(word.to_owned()))?.to_bits();
        }
        Ok(arch)
    }
}

impl fmt::Display for ConvNextArch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Preset { name, width, .. } = self.preset;
        let wide = if self.width == width { String::new() } else { format!("-w{}", self.width) };
        let usual = self.norm_eps() == EPSILON;
        let epsilon = if usual { String::new() } else { format!(" norm_eps={:e}", self.norm_eps()) };
        f.pad(&format!("{name}{wide}{epsilon}"))
    }
}

#[cfg(test)]
mod tests {
    use crate::network::Arch;

    #[test]
    fn names_round_trip_and_errors_say_what_is_valid() {
        for name in ["convnext-tiny", "convnextv2-huge", "convnext-base-w4", "convnextv2-atto-w8 norm_eps=1e-12"] {
            assert_eq!(name.parse::<Arch>().unwrap().to_string(), name);
        }
        assert_eq!("convnext-tiny-w96 norm_eps=1e-6".parse::<Arch>().unwrap().to_string(), "convnext-tiny");
        for (name, expected) in [
            ("convnext", "unknown architecture `convnext`: `` is no size; expected `atto`,"),
            ("convnext-xxlarge", "`xxlarge` is no size"),
            ("convnext-tiny-hnf", "`-hnf` is no width; expected `-w` and a multiple of 4 from 4 to 512"),
            ("convnext-tiny-w6", "`-w6` is no width"),
            ("convnext-tiny depth=2", "`depth=2` is no field; expected `norm_eps=` and a number"),
        ] {
            let message = name.parse::<Arch>().unwrap_err().to_string();
            assert!(message.contains(expected), "{name}: {message}");
        }
    }
}
