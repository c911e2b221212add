//! Residual networks under the names of other libraries, translated into torchvision's and OpenAI's.

use std::collections::BTreeMap;

use burn::store::burn_pack::Tensor as StoredTensor;

use super::layout::made;
use super::positions::{self, Resampling};
use super::{WeightsChoice, values};
use crate::weights::{Weight, Weights};

/// torchvision's names of what is numbered in a sequence of a network's children, and a name that shows which it is: of
/// lightly's network, and of torchvision's own, where ReLU and pooling have numbers, too.
const SEQUENCES: [(&str, &[(&str, &str)]); 2] = [
    (
        "2.0.conv1.weight",
        &[("0", "conv1"), ("1", "bn1"), ("2", "layer1"), ("3", "layer2"), ("4", "layer3"), ("5", "layer4")],
    ),
    (
        "4.0.conv1.weight",
        &[("0", "conv1"), ("1", "bn1"), ("4", "layer1"), ("5", "layer2"), ("6", "layer3"), ("7", "layer4")],
    ),
];

/// OpenAI's names of modules of CLIP's networks, after timm's.
const CLIP: [(&str, &str); 15] = [
    ("stem.conv1.conv", "conv1"),
    ("stem.conv1.bn", "bn1"),
    ("stem.conv2.conv", "conv2"),
    ("stem.conv2.bn", "bn2"),
    ("stem.conv3.conv", "conv3"),
    ("stem.conv3.bn", "bn3"),
    ("head.pos_embed", "attnpool.positional_embedding"),
    ("head.q", "attnpool.q_proj"),
    ("head.k", "attnpool.k_proj"),
    ("head.v", "attnpool.v_proj"),
    ("head.proj", "attnpool.c_proj"),
    ("stages.0", "layer1"),
    ("stages.1", "layer2"),
    ("stages.2", "layer3"),
    ("stages.3", "layer4"),
];

/// The same inside of a block.
const CLIP_BLOCK: [(&str, &str); 8] = [
    ("conv1_1x1.conv", "conv1"),
    ("conv1_1x1.bn", "bn1"),
    ("conv2_kxk.conv", "conv2"),
    ("conv2_kxk.bn", "bn2"),
    ("conv3_1x1.conv", "conv3"),
    ("conv3_1x1.bn", "bn3"),
    ("shortcut.conv.conv", "downsample.0"),
    ("shortcut.conv.bn", "downsample.1"),
];

/// The positions of the attention of CLIP's networks.
const POSITIONS: &str = "attnpool.positional_embedding";

/// What comes before the names of a network that has a tensor of a name with this end.
pub(super) fn roots<'a>(tensors: &'a BTreeMap<String, StoredTensor>, end: &'a str) -> impl Iterator<Item = &'a str> {
    let roots = tensors.keys().filter_map(move |name| name.strip_suffix(end));
    roots.filter(|root| root.is_empty() || root.ends_with('.'))
}

/// The tensors under other names, where `to` gives one for the rest of a name after one of the roots.
pub(super) fn renamed<T>(
    tensors: BTreeMap<String, StoredTensor>,
    roots: &[(String, T)],
    to: impl Fn(&T, &str) -> Option<String>,
) -> BTreeMap<String, StoredTensor> {
    let own = |name: &str| {
        let mut below = roots.iter().filter_map(|(root, of)| Some((root, of, name.strip_prefix(root.as_str())?)));
        below.find_map(|(root, of, rest)| Some(format!("{root}{}", to(of, rest)?)))
    };
    tensors.into_iter().map(|(name, tensor)| (own(&name).unwrap_or(name), tensor)).collect()
}

/// Gives the modules of a residual network their names, where they are numbered: `nn.Sequential(*net.children())` is
/// how lightly's examples, among others, take the classifier away.
pub(super) fn translate(tensors: BTreeMap<String, StoredTensor>) -> BTreeMap<String, StoredTensor> {
    let numbered = |root: &str| {
        let has = |name: &str| tensors.contains_key(&format!("{root}{name}"));
        let sequence = SEQUENCES.iter().find(|(sign, _)| has(sign))?;
        has("0.weight").then_some(sequence.1)
    };
    let roots = roots(&tensors, "1.running_mean");
    let roots: Vec<_> = roots.filter_map(|root| Some((root.to_owned(), numbered(root)?))).collect();
    renamed(tensors, &roots, |sequence, name| {
        let (number, rest) = name.split_once('.')?;
        let (_, own) = sequence.iter().find(|(from, _)| *from == number)?;
        Some(format!("{own}.{rest}"))
    })
}

/// The name with the first of these modules called by its other name.
pub(super) fn swapped(name: &str, modules: &[(&str, &str)]) -> Option<String> {
    modules.iter().find_map(|(from, to)| {
        let rest = name.strip_prefix(from)?;
        (rest.is_empty() || rest.starts_with('.')).then(|| format!("{to}{rest}"))
    })
}

/// Gives the modules of CLIP's networks OpenAI's names, where they have timm's, and resamples the positions of the
/// attention to the grid of the image size.
pub(super) fn translate_clip(
    tensors: BTreeMap<String, StoredTensor>,
    expected: &Weights,
    grid: [usize; 2],
    choice: WeightsChoice<'_>,
) -> BTreeMap<String, StoredTensor> {
    let roots: Vec<_> = roots(&tensors, "stem.conv1.conv.weight").map(|root| (root.to_owned(), ())).collect();
    let mut tensors = renamed(tensors, &roots, |(), name| {
        let name = swapped(name, &CLIP)?;
        let mut parts = name.splitn(3, '.');
        let (group, block, inner) = (parts.next()?, parts.next()?, parts.next().unwrap_or_default());
        let inner = if group.starts_with("layer") { swapped(inner, &CLIP_BLOCK) } else { None };
        Some(inner.map_or_else(|| name.clone(), |inner| format!("{group}.{block}.{inner}")))
    });
    let Some(own) = expected.0.get(POSITIONS) else { return tensors };
    for (_, stored) in tensors.iter_mut().filter(|(name, _)| name.ends_with(POSITIONS)) {
        let [rows, width] = stored.shape[..] else { continue };
        // Whether they fit depends on the shape alone.
        let probe = Weight { shape: vec![rows, 1], values: vec![0.0; rows] };
        let resampling = choice.resampling.unwrap_or(Resampling::BicubicAntialias);
        if own.shape == [rows, width] || positions::fit(&probe, true, grid, resampling).is_none() {
            continue;
        }
        let part = stored.clone();
        *stored = made(POSITIONS, vec![own.shape[0], width], move || {
            let fitted = positions::fit(&values(&part)?, true, grid, resampling);
            fitted.ok_or_else(|| "positions are of no square grid".to_owned())
        });
    }
    tensors
}
