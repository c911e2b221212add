//! ConvNeXts under the names of other libraries, translated into timm's.

use std::collections::BTreeMap;

use burn::store::burn_pack::Tensor as StoredTensor;

use super::layout::reshaped;
use super::residual::{renamed, roots, swapped};
use crate::weights::Weights;

/// Whose names a network has.
#[derive(Clone, Copy, Debug)]
enum Layout {
    Timm,
    /// Those of the authors' own code.
    Own,
    Torchvision,
    Transformers,
}

/// Names of the convolution of the stem, and the layout that has them.
const STEMS: [(&str, Layout); 4] = [
    ("stem.0.weight", Layout::Timm),
    ("downsample_layers.0.0.weight", Layout::Own),
    ("features.0.0.weight", Layout::Torchvision),
    ("embeddings.patch_embeddings.weight", Layout::Transformers),
];

/// Names outside of stages, and timm's for them.
const OUTER: [(&str, &str); 9] = [
    ("downsample_layers.0.0", "stem.0"),
    ("downsample_layers.0.1", "stem.1"),
    ("features.0.0", "stem.0"),
    ("features.0.1", "stem.1"),
    ("classifier.0", "head.norm"),
    ("embeddings.patch_embeddings", "stem.0"),
    ("embeddings.layernorm", "stem.1"),
    ("layernorm", "head.norm"),
    ("norm", "head.norm"),
];

/// Names inside of a block, and timm's for them.
const INNER: [(&str, &str); 14] = [
    ("dwconv", "conv_dw"),
    ("layernorm", "norm"),
    ("pwconv1", "mlp.fc1"),
    ("pwconv2", "mlp.fc2"),
    ("grn.gamma", "mlp.grn.weight"),
    ("grn.beta", "mlp.grn.bias"),
    ("grn.weight", "mlp.grn.weight"),
    ("grn.bias", "mlp.grn.bias"),
    ("layer_scale_parameter", "gamma"),
    ("layer_scale", "gamma"),
    ("block.0", "conv_dw"),
    ("block.2", "norm"),
    ("block.3", "mlp.fc1"),
    ("block.5", "mlp.fc2"),
];

/// Gives all ConvNeXts among `tensors` timm's names, and the shapes of `expected` where only axes of length 1 differ.
pub(super) fn translate(tensors: BTreeMap<String, StoredTensor>, expected: &Weights) -> BTreeMap<String, StoredTensor> {
    let found = STEMS.into_iter().flat_map(|(stem, layout)| {
        roots(&tensors, stem).map(move |root| (root.to_owned(), layout)).collect::<Vec<_>>()
    });
    let roots: Vec<(String, Layout)> = found.collect();
    let mut tensors = renamed(tensors, &roots, |layout, name| own(*layout, name));
    for (name, tensor) in &mut tensors {
        let below = roots.iter().filter_map(|(root, _)| expected.0.get(name.strip_prefix(root.as_str())?)).next();
        if let Some(reshaped) = below.and_then(|own| reshaped(tensor, &own.shape)) {
            *tensor = reshaped;
        }
    }
    tensors
}

/// timm's name; `None` if it is that already, or unknown.
fn own(layout: Layout, name: &str) -> Option<String> {
    let block = |stage: usize, block: &str, rest: &str| {
        let inner = swapped(rest, &INNER).unwrap_or_else(|| rest.to_owned());
        Some(format!("stages.{stage}.blocks.{block}.{inner}"))
    };
    let numbered = |before: &str| {
        let (number, rest) = name.strip_prefix(before)?.split_once('.')?;
        Some((number.parse::<usize>().ok()?, rest))
    };
    let outer = || swapped(name, &OUTER);
    match layout {
        Layout::Timm => None,
        Layout::Own => {
            if let Some((stage @ 1.., rest)) = numbered("downsample_layers.") {
                return Some(format!("stages.{stage}.downsample.{rest}"));
            }
            let Some((stage, rest)) = numbered("stages.") else { return outer() };
            let (number, rest) = rest.split_once('.')?;
            block(stage, number, rest)
        }
        Layout::Torchvision => {
            let Some((index @ 1.., rest)) = numbered("features.") else { return outer() };
            // Stages have odd numbers, and what leads from one to the next has even ones.
            if index.is_multiple_of(2) {
                return Some(format!("stages.{}.downsample.{rest}", index / 2));
            }
            let (number, rest) = rest.split_once('.')?;
            block(index / 2, number, rest)
        }
        Layout::Transformers => {
            let Some((stage, rest)) = numbered("encoder.stages.") else { return outer() };
            if let Some(rest) = rest.strip_prefix("downsampling_layer.") {
                return Some(format!("stages.{stage}.downsample.{rest}"));
            }
            let (number, rest) = rest.strip_prefix("layers.")?.split_once('.')?;
            block(stage, number, rest)
        }
    }
}
