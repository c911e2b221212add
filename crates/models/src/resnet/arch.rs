//! What decides which function a residual network computes, besides its weights.

use std::fmt;
use std::str::FromStr;

/// An architecture. It is written as its depth, its stem or shortcuts, and its widths, if these are not the usual ones:
/// `resnet20`, `resnet20-b`, `resnet20-w8` if its first group has 8 channels, or `resnet50-imagenet-wide`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ResNetArch {
    pub(super) depth: Depth,
    pub(super) width: usize,
    pub(super) stem: Stem,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Stem {
    /// A 3x3 convolution.
    Small,
    /// A 3x3 convolution with padding of two pixels, so that images grow by two.
    Padded,
    /// A 3x3 convolution, and max pooling of stride 2.
    Pooled,
    /// A 7x7 convolution of stride 2, and max pooling of stride 2.
    ImageNet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Depth {
    /// Three groups of `blocks` blocks each.
    Cifar { blocks: usize, shortcuts: Shortcuts },
    /// Four groups, with projection shortcuts.
    ImageNet { depth: usize, blocks: [usize; 4], block: Block },
}

/// What leads to more channels beside the blocks of a CIFAR network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Shortcuts {
    /// Option A: every second pixel, padded with channels of zeros.
    Padding,
    /// Option B: a convolution and a batch norm.
    Projection,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Block {
    /// Two 3x3 convolutions.
    Basic,
    /// A 3x3 convolution between two of 1x1, with four times its channels outside.
    Bottleneck,
    /// The same with twice its channels outside.
    Wide,
}

/// A text that begins as the name of a residual network, and is none.
#[derive(Debug, thiserror::Error)]
pub enum ResNetArchError {
    /// No network has this depth.
    #[error("`{0}` is no depth; expected 18, 34, 50, 101 or 152, or, for a CIFAR network, 6 n + 2 from 8 to 1202")]
    Depth(String),
    /// Networks of this depth have no such variant.
    #[error("`-{suffix}` is for {of}")]
    Variant {
        /// The suffix that asks for the variant.
        suffix: &'static str,
        /// The networks that have it.
        of: &'static str,
    },
    /// The first width is no number, or out of range.
    #[error("`-{0}` is no width; expected `-w` and a multiple of 4 from 4 to 256")]
    Width(String),
    /// The suffix is unknown, or at the wrong place.
    #[error(
        "`-{0}` is unexpected here; the suffixes are, in this order, `-imagenet`, `-pool`, `-pad2` or `-b`, `-wide`, `-wN`"
    )]
    Suffix(String),
}

/// Where a name's `-pool`, `-pad2` and `-imagenet` fit, and where its `-b` does.
const TORCHVISION: &str = "`resnet18`, `resnet34`, `resnet50`, `resnet101` and `resnet152`";
const CIFAR: &str = "the CIFAR networks, such as `resnet20`";

impl Depth {
    /// The networks of torchvision.
    const IMAGENET: [Self; 5] = [
        Self::ImageNet { depth: 18, blocks: [2, 2, 2, 2], block: Block::Basic },
        Self::ImageNet { depth: 34, blocks: [3, 4, 6, 3], block: Block::Basic },
        Self::ImageNet { depth: 50, blocks: [3, 4, 6, 3], block: Block::Bottleneck },
        Self::ImageNet { depth: 101, blocks: [3, 4, 23, 3], block: Block::Bottleneck },
        Self::ImageNet { depth: 152, blocks: [3, 8, 36, 3], block: Block::Bottleneck },
    ];

    /// The network of so many layers: of 50 and 152, torchvision's and not that for CIFAR.
    fn of(layers: usize) -> Option<Self> {
        let cifar = || {
            let blocks = layers.checked_sub(2)? / 6;
            let made = Self::Cifar { blocks, shortcuts: Shortcuts::Padding };
            (made.layers() == layers && (1..=200).contains(&blocks)).then_some(made)
        };
        Self::IMAGENET.into_iter().find(|depth| depth.layers() == layers).or_else(cifar)
    }

    /// Number of convolutions on the way through all blocks, and the classifier.
    fn layers(self) -> usize {
        match self {
            Self::Cifar { blocks, .. } => 6 * blocks + 2,
            Self::ImageNet { depth, .. } => depth,
        }
    }

    fn default_width(self) -> usize {
        match self {
            Self::Cifar { .. } => 16,
            Self::ImageNet { .. } => 64,
        }
    }

    /// Number of blocks of each group.
    pub(super) fn groups(self) -> Vec<usize> {
        match self {
            Self::Cifar { blocks, .. } => vec![blocks; 3],
            Self::ImageNet { blocks, .. } => blocks.to_vec(),
        }
    }

    pub(super) fn block(self) -> Block {
        match self {
            Self::Cifar { .. } => Block::Basic,
            Self::ImageNet { block, .. } => block,
        }
    }

    /// Whether a shortcut to another number of channels is a projection.
    pub(super) fn projects(self) -> bool {
        !matches!(self, Self::Cifar { shortcuts: Shortcuts::Padding, .. })
    }
}

impl Block {
    /// Channels of the 3x3 convolutions and of the output, divided by the width of the group.
    pub(super) fn factors(self) -> [usize; 2] {
        match self {
            Self::Basic => [1, 1],
            Self::Bottleneck => [1, 4],
            Self::Wide => [2, 4],
        }
    }
}

impl ResNetArch {
    /// Number of features, d: the channels of the last group, averaged over the image.
    #[must_use]
    pub fn feature_dim(self) -> usize {
        (self.width << (self.depth.groups().len() - 1)) * self.depth.block().factors()[1]
    }

    /// Number of residual blocks.
    pub(crate) fn blocks(self) -> usize {
        self.depth.groups().into_iter().sum()
    }

    /// Whether max pooling follows the stem's convolution.
    pub(super) fn pools(self) -> bool {
        matches!(self.stem, Stem::Pooled | Stem::ImageNet)
    }

    /// A lower bound of the numbers that a forward pass holds at once, for one image of `[height, width]`: the stem's
    /// output.
    pub(crate) fn held(self, [height, width]: [usize; 2]) -> f64 {
        let stride = if self.stem == Stem::ImageNet { 2 } else { 1 };
        // A padded stem's output is a little larger.
        self.width as f64 * (height / stride) as f64 * (width / stride) as f64
    }

    /// The numbers that the forward cache of a training step holds for one image of `[height, width]`: the outputs of
    /// all convolutions.
    pub(crate) fn kept(self, size: [usize; 2]) -> f64 {
        let (mut area, mut kept) = (size.map(|side| side as f64), 0.0);
        let halve = |area: &mut [f64; 2]| *area = area.map(|side| (side / 2.0).ceil());
        if self.stem == Stem::ImageNet {
            halve(&mut area);
        }
        kept += self.width as f64 * area[0] * area[1];
        if self.pools() {
            halve(&mut area);
        }
        let [inner, outer] = self.depth.block().factors();
        let channels = if outer > 1 { 2 * inner + outer } else { 2 };
        for (group, blocks) in self.depth.groups().into_iter().enumerate() {
            if group > 0 {
                halve(&mut area);
            }
            kept += (blocks * channels * (self.width << group)) as f64 * area[0] * area[1];
        }
        kept
    }
}

impl Default for ResNetArch {
    /// `resnet20`.
    fn default() -> Self {
        let depth = Depth::Cifar { blocks: 3, shortcuts: Shortcuts::Padding };
        Self { depth, width: depth.default_width(), stem: Stem::Small }
    }
}

impl FromStr for ResNetArch {
    type Err = ResNetArchError;

    fn from_str(s: &str) -> Result<Self, ResNetArchError> {
        let mut parts = s.strip_prefix("resnet").unwrap_or_default().split('-').peekable();
        let layers = parts.next().unwrap_or_default();
        let digits = !layers.starts_with('0') && layers.bytes().all(|byte| byte.is_ascii_digit());
        let known = layers.parse().ok().filter(|_| digits).and_then(Depth::of);
        let mut depth = known.ok_or_else(|| ResNetArchError::Depth(layers.to_owned()))?;
        let mut next = |suffix: &str| parts.next_if_eq(&suffix).is_some();
        let unfit = |suffix, of| Err(ResNetArchError::Variant { suffix, of });

        let stem = match &mut depth {
            Depth::ImageNet { .. } if next("imagenet") => Stem::ImageNet,
            Depth::ImageNet { .. } if next("pool") => Stem::Pooled,
            Depth::ImageNet { .. } if next("pad2") => Stem::Padded,
            Depth::ImageNet { .. } if next("b") => return unfit("b", CIFAR),
            Depth::Cifar { .. } if next("imagenet") => return unfit("imagenet", TORCHVISION),
            Depth::Cifar { .. } if next("pool") => return unfit("pool", TORCHVISION),
            Depth::Cifar { .. } if next("pad2") => return unfit("pad2", TORCHVISION),
            Depth::Cifar { shortcuts, .. } if next("b") => {
                *shortcuts = Shortcuts::Projection;
                Stem::Small
            }
            _ => Stem::Small,
        };
        if next("wide") {
            match &mut depth {
                Depth::ImageNet { block: block @ Block::Bottleneck, .. } => *block = Block::Wide,
                _ => return unfit("wide", "`resnet50`, `resnet101` and `resnet152`"),
            }
        }
        let width = match parts.next_if(|part| part.starts_with('w') && *part != "wide") {
            Some(part) => {
                let width = part[1..].parse().ok().filter(|w: &usize| (4..=256).contains(w) && w.is_multiple_of(4));
                width.ok_or_else(|| ResNetArchError::Width(part.to_owned()))?
            }
            None => depth.default_width(),
        };
        match parts.next() {
            Some(part) => Err(ResNetArchError::Suffix(part.to_owned())),
            None => Ok(Self { depth, width, stem }),
        }
    }
}

impl fmt::Display for ResNetArch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variant = match (self.stem, self.depth) {
            (Stem::ImageNet, _) => "-imagenet",
            (Stem::Pooled, _) => "-pool",
            (Stem::Padded, _) => "-pad2",
            (Stem::Small, Depth::Cifar { shortcuts: Shortcuts::Projection, .. }) => "-b",
            (Stem::Small, _) => "",
        };
        let wide = if self.depth.block() == Block::Wide { "-wide" } else { "" };
        let width = if self.width == self.depth.default_width() { String::new() } else { format!("-w{}", self.width) };
        f.pad(&format!("resnet{}{variant}{wide}{width}", self.depth.layers()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Arch;

    #[test]
    fn names_round_trip_and_errors_list_what_is_valid() {
        for name in [
            "resnet8",
            "resnet20",
            "resnet44",
            "resnet56-w32",
            "resnet110-b",
            "resnet1202-b-w8",
            "resnet18",
            "resnet18-pool",
            "resnet18-pad2",
            "resnet34-w16",
            "resnet50",
            "resnet50-wide-w8",
            "resnet50-imagenet-w32",
            "resnet101-imagenet",
            "resnet152-pool-wide-w4",
        ] {
            assert_eq!(name.parse::<ResNetArch>().unwrap().to_string(), name);
        }
        assert_eq!("resnet20-w16".parse::<ResNetArch>().unwrap().to_string(), "resnet20");
        let depth = "is no depth; expected 18, 34, 50, 101 or 152, or, for a CIFAR network, 6 n + 2 from 8 to 1202";
        for (name, expected) in [
            ("resnet51", &*format!("unknown architecture `resnet51`: `51` {depth} (docs/pretraining.md)")),
            ("resnet", &format!("`` {depth}")),
            ("resnet2", &format!("`2` {depth}")),
            ("resnet020", &format!("`020` {depth}")),
            ("resnet1208", &format!("`1208` {depth}")),
            ("resnet99999999999999999999", depth),
            ("resnet20-imagenet", "`-imagenet` is for `resnet18`, `resnet34`, `resnet50`, `resnet101` and `resnet152`"),
            ("resnet110-pool", "`-pool` is for `resnet18`"),
            ("resnet20-pad2", "`-pad2` is for `resnet18`"),
            ("resnet50-b", "`-b` is for the CIFAR networks, such as `resnet20`"),
            ("resnet34-wide", "`-wide` is for `resnet50`, `resnet101` and `resnet152`"),
            ("resnet20-w", "`-w` is no width; expected `-w` and a multiple of 4 from 4 to 256"),
            ("resnet20-w0", "`-w0` is no width"),
            ("resnet20-w6", "`-w6` is no width"),
            ("resnet20-w260", "`-w260` is no width"),
            (
                "resnet18-w8-pool",
                "`-pool` is unexpected here; the suffixes are, in this order, `-imagenet`, `-pool`, `-pad2` or",
            ),
            ("resnet50-imagenet-pool", "`-pool` is unexpected here"),
            ("resnet50-wide-wide", "`-wide` is unexpected here"),
            ("resnet20-b-", "`-` is unexpected here"),
            ("", "unknown architecture ``: expected a residual network such as `resnet20`"),
        ] {
            let message = name.parse::<Arch>().unwrap_err().to_string();
            assert!(message.contains(expected), "{name}: {message}");
        }
    }
}
