//! Vision transformers under the names of other libraries, translated into timm's.
//!
//! A file holds a transformer wherever the embedding of its patches is. What stands beside it is renamed; queries, keys
//! and values are joined, packed matrices are cut, and learned positions are resampled to the grid of the image size.
//! Names that are not known stay, so that messages show them.

use std::collections::BTreeMap;

use burn::store::burn_pack::{Error as PackError, Tensor as StoredTensor};
use burn::tensor::{Bytes, DType};

use super::positions::{self, Resampling};
use super::{WeightsChoice, values};
use crate::vit::{Activation, Positions, Readout, VitArch};
use crate::weights::{Weight, Weights};

/// Names of the embedding of patches, and the layout that has them.
const ROOTS: [(&str, Layout); 5] = [
    ("embeddings.patch_embeddings.projection.weight", Layout::Transformers),
    ("embeddings.patch_embeddings.weight", Layout::Transformers),
    ("embeddings.patch_embedding.weight", Layout::Transformers),
    ("conv1.weight", Layout::OpenClip),
    ("patch_embed.proj.weight", Layout::Timm),
];

/// Whose names a transformer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Transformers,
    /// OpenAI's and OpenCLIP's.
    OpenClip,
    /// timm's and those of most authors.
    Timm,
}

/// Names outside of blocks, and timm's for them.
const OUTER: [(&str, &str); 28] = [
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.class_embedding", "cls_token"),
    ("class_embedding", "cls_token"),
    ("embeddings.mask_token", "mask_token"),
    ("embeddings.register_tokens", "reg_token"),
    ("register_tokens", "reg_token"),
    ("storage_tokens", "reg_token"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.position_embedding.weight", "pos_embed"),
    ("positional_embedding", "pos_embed"),
    ("embeddings.patch_embeddings.projection.weight", "patch_embed.proj.weight"),
    ("embeddings.patch_embeddings.projection.bias", "patch_embed.proj.bias"),
    ("embeddings.patch_embeddings.weight", "patch_embed.proj.weight"),
    ("embeddings.patch_embeddings.bias", "patch_embed.proj.bias"),
    ("embeddings.patch_embedding.weight", "patch_embed.proj.weight"),
    ("embeddings.patch_embedding.bias", "patch_embed.proj.bias"),
    ("conv1.weight", "patch_embed.proj.weight"),
    ("layernorm", "norm"),
    ("post_layernorm", "norm"),
    ("ln_post", "norm"),
    // The name in transformers is misspelt.
    ("pre_layrnorm", "norm_pre"),
    ("pre_layernorm", "norm_pre"),
    ("ln_pre", "norm_pre"),
    ("head.probe", "attn_pool.latent"),
    ("head.attention.out_proj", "attn_pool.proj"),
    ("head.layernorm", "attn_pool.norm"),
    ("head.mlp.fc1", "attn_pool.mlp.fc1"),
    ("head.mlp.fc2", "attn_pool.mlp.fc2"),
];

/// What comes before the number of a block.
const BLOCKS: [&str; 7] =
    ["encoder.layer.", "encoder.layers.", "model.layer.", "layer.", "layers.", "transformer.resblocks.", "blocks."];

/// Names inside of a block, and timm's for them.
const INNER: [(&str, &str); 28] = [
    ("layernorm_before", "norm1"),
    ("layer_norm1", "norm1"),
    ("ln_1", "norm1"),
    ("layernorm_after", "norm2"),
    ("layer_norm2", "norm2"),
    ("ln_2", "norm2"),
    ("attn.in_proj_weight", "attn.qkv.weight"),
    ("attn.in_proj_bias", "attn.qkv.bias"),
    ("attention.output.dense", "attn.proj"),
    ("attention.o_proj", "attn.proj"),
    ("self_attn.out_proj", "attn.proj"),
    ("attn.out_proj", "attn.proj"),
    ("layer_scale1.lambda1", "ls1.gamma"),
    ("layer_scale2.lambda1", "ls2.gamma"),
    ("gamma_1", "ls1.gamma"),
    ("gamma_2", "ls2.gamma"),
    ("ls_1.gamma", "ls1.gamma"),
    ("ls_2.gamma", "ls2.gamma"),
    ("intermediate.dense", "mlp.fc1"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.w12", "mlp.fc1"),
    ("mlp.weights_in", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
    ("mlp.c_proj", "mlp.fc2"),
    ("mlp.w3", "mlp.fc2"),
    ("mlp.weights_out", "mlp.fc2"),
    ("mlp.down_proj", "mlp.fc2"),
    ("mlp.up_proj", "mlp.fc1"),
];

/// Parts that are joined to one matrix or vector: their names, timm's name, and which part they are.
const JOINED: [(&str, &str, usize); 21] = [
    ("attention.attention.query", "attn.qkv", 0),
    ("attention.attention.key", "attn.qkv", 1),
    ("attention.attention.value", "attn.qkv", 2),
    ("attention.q_proj", "attn.qkv", 0),
    ("attention.k_proj", "attn.qkv", 1),
    ("attention.v_proj", "attn.qkv", 2),
    ("self_attn.q_proj", "attn.qkv", 0),
    ("self_attn.k_proj", "attn.qkv", 1),
    ("self_attn.v_proj", "attn.qkv", 2),
    ("attn.q_proj", "attn.qkv", 0),
    ("attn.k_proj", "attn.qkv", 1),
    ("attn.v_proj", "attn.qkv", 2),
    ("attn.q_bias", "attn.qkv.bias", 0),
    ("attn.k_bias", "attn.qkv.bias", 1),
    ("attn.v_bias", "attn.qkv.bias", 2),
    ("mlp.gate_proj", "mlp.fc1", 0),
    ("mlp.up_proj", "mlp.fc1", 1),
    ("mlp.w1", "mlp.fc1", 0),
    ("mlp.w2", "mlp.fc1", 1),
    ("mlp.fc1_g", "mlp.fc1", 0),
    ("mlp.fc1_x", "mlp.fc1", 1),
];

/// Where a tensor belongs in the network.
enum Place {
    /// It is the tensor of that name.
    Whole(String),
    /// It is a part of the tensor of that name.
    Part(String, usize),
    /// It is the transpose of the tensor of that name.
    Transposed(String),
    /// The tensor of that name is multiplied by it.
    Factor(String),
    /// It is a packed matrix or vector of attention pooling; this is its kind.
    Packed(&'static str),
    /// It is not part of the network.
    Aside,
}

/// Translates the names of all transformers among `tensors` into those of `expected`, the network for a grid of
/// patches. Learned positions are resampled as `choice` says, or, if it does not, as in the library of the names.
pub(super) fn translate(
    mut tensors: BTreeMap<String, StoredTensor>,
    expected: &Weights,
    arch: VitArch,
    grid: [usize; 2],
    choice: WeightsChoice<'_>,
) -> BTreeMap<String, StoredTensor> {
    let roots = roots(&tensors);
    // What is ignored goes by the names of the file.
    tensors.retain(|name, _| {
        let below = roots.keys().filter_map(|root| name.strip_prefix(root.as_str()));
        !below.chain([name.as_str()]).any(|name| choice.ignores(name))
    });
    let (mut outside, mut found) = (BTreeMap::new(), BTreeMap::<&str, BTreeMap<String, StoredTensor>>::new());
    for (name, tensor) in tensors {
        // A root may be inside of another.
        let root = roots.keys().filter(|root| name.starts_with(root.as_str())).max_by_key(|root| root.len());
        match root {
            Some(root) => drop(found.entry(root).or_default().insert(name[root.len()..].to_owned(), tensor)),
            None => drop(outside.insert(name, tensor)),
        }
    }
    let mut made = BTreeMap::new();
    for (root, tensors) in found {
        let translation = Translation { expected, arch, grid, layout: roots[root], resampling: choice.resampling };
        for (name, tensor) in translation.run(tensors) {
            made.insert(format!("{root}{name}"), tensor);
        }
        // CLIP's projection stands beside its transformer.
        let beside = [("vision_model.", "visual_projection.weight"), ("trunk.", "head.proj.weight")];
        for (below, projection) in beside {
            let projection = root.strip_suffix(below).map(|parent| format!("{parent}{projection}"));
            if arch.projection > 0
                && let Some(tensor) = projection.and_then(|name| outside.remove(&name))
            {
                made.insert(format!("{root}projection.weight"), tensor);
            }
        }
    }
    made.extend(outside);
    made
}

/// Prefixes of transformers, with their layouts.
fn roots(tensors: &BTreeMap<String, StoredTensor>) -> BTreeMap<String, Layout> {
    let below = |name: &str, end: &str| {
        let root = name.strip_suffix(end)?;
        (root.is_empty() || root.ends_with('.')).then(|| root.to_owned())
    };
    let mut roots = BTreeMap::new();
    for name in tensors.keys() {
        for (end, layout) in ROOTS {
            let Some(root) = below(name, end) else { continue };
            // A convolution of that name is no embedding of patches.
            if layout != Layout::OpenClip || tensors.contains_key(&format!("{root}class_embedding")) {
                roots.insert(root, layout);
            }
        }
    }
    roots
}

/// The translation of one transformer.
struct Translation<'a> {
    expected: &'a Weights,
    arch: VitArch,
    grid: [usize; 2],
    layout: Layout,
    resampling: Option<Resampling>,
}

impl Translation<'_> {
    fn run(&self, tensors: BTreeMap<String, StoredTensor>) -> BTreeMap<String, StoredTensor> {
        let masked = tensors.contains_key("mask_token");
        let mut made = BTreeMap::new();
        let mut joined: BTreeMap<String, BTreeMap<usize, StoredTensor>> = BTreeMap::new();
        let mut factors = BTreeMap::new();
        for (name, tensor) in tensors {
            match self.place(&name) {
                None => drop(made.insert(name, tensor)),
                Some(Place::Aside) => {}
                Some(Place::Whole(to)) => drop(made.insert(to, tensor)),
                Some(Place::Part(to, index)) => drop(joined.entry(to).or_default().insert(index, tensor)),
                Some(Place::Factor(to)) => drop(factors.insert(to, tensor)),
                Some(Place::Transposed(to)) => drop(made.insert(to, transposed(tensor))),
                Some(Place::Packed(kind)) => {
                    let width = tensor.shape.first().map_or(0, |rows| rows / 3);
                    made.insert(format!("attn_pool.q.{kind}"), rows(&tensor, 0, width));
                    made.insert(format!("attn_pool.kv.{kind}"), rows(&tensor, width, 2 * width));
                }
            }
        }
        for (name, parts) in joined {
            if let Some(tensor) = self.join(&name, parts) {
                made.insert(name, tensor);
            }
        }
        for (name, factor) in factors {
            if let Some(tensor) = made.get_mut(&name) {
                *tensor = product(tensor, factor);
            }
        }
        if let Some(stored) = made.get_mut("pos_embed") {
            let resampling = self.resampling.unwrap_or_else(|| self.usual(masked));
            if let Some(fitted) = self.fitted(stored, resampling) {
                *stored = fitted;
            }
        }
        for (name, tensor) in &mut made {
            if let Some(own) = self.expected.0.get(name)
                && let Some(reshaped) = reshaped(tensor, &own.shape)
            {
                *tensor = reshaped;
            }
        }
        made
    }

    /// How the library that the names are from resamples positions. Scales and a `mask_token` are the signs of DINOv2's
    /// own files.
    fn usual(&self, masked: bool) -> Resampling {
        match self.layout {
            Layout::Transformers if self.arch.registers == 0 => Resampling::Bicubic,
            Layout::Timm if masked && self.arch.layer_scale && self.arch.registers == 0 => Resampling::BicubicOffset,
            Layout::Transformers | Layout::Timm | Layout::OpenClip => Resampling::BicubicAntialias,
        }
    }

    /// Where the tensor of that name belongs; `None` if the name is timm's or unknown.
    fn place(&self, name: &str) -> Option<Place> {
        let whole = |name: String| Some(Place::Whole(name));
        if let Some((number, inner)) = block(name) {
            let own = |to: String| format!("blocks.{number}.{to}");
            let bias = inner.strip_suffix(".bias_mask").map(|module| Place::Factor(own(format!("{module}.bias"))));
            if bias.is_some() {
                return bias;
            }
            // The first of two matrices is the gate, where there is one.
            let gated = self.arch.activation == Activation::SwiGlu;
            let part = JOINED.iter().filter(|(_, to, _)| gated || *to != "mlp.fc1");
            if let Some((to, index)) = part.into_iter().find_map(|(from, to, i)| Some((renamed(inner, from, to)?, i))) {
                return Some(Place::Part(own(to), *index));
            }
            let inner_name = INNER.iter().find_map(|(from, to)| renamed(inner, from, to));
            return whole(own(inner_name.unwrap_or_else(|| inner.to_owned())));
        }
        let projects = self.arch.projection > 0;
        match name {
            "proj" | "head.weight" if projects => {
                let to = "projection.weight".to_owned();
                return Some(if name == "proj" { Place::Transposed(to) } else { Place::Whole(to) });
            }
            "proj" => return Some(Place::Aside),
            "head.attention.in_proj_weight" => return self.pooling(Place::Packed("weight")),
            "head.attention.in_proj_bias" => return self.pooling(Place::Packed("bias")),
            _ => {}
        }
        let rotary = self.arch.positions == Positions::Rotary;
        if name.ends_with("position_ids") || (rotary && name.starts_with("rope")) {
            return Some(Place::Aside);
        }
        let to = OUTER.iter().find_map(|(from, to)| renamed(name, from, to)).unwrap_or_else(|| name.to_owned());
        if to.starts_with("attn_pool.") { self.pooling(Place::Whole(to)) } else { whole(to) }
    }

    /// The place of a part of attention pooling, which other read-outs leave aside.
    fn pooling(&self, place: Place) -> Option<Place> {
        Some(if self.arch.readout == Readout::Attention { place } else { Place::Aside })
    }

    /// Parts one after the other. Queries, keys and values may lack biases, which are zero then.
    fn join(&self, name: &str, parts: BTreeMap<usize, StoredTensor>) -> Option<StoredTensor> {
        let own = self.expected.0.get(name)?;
        let count = if name.contains(".qkv.") { 3 } else { 2 };
        if name.ends_with(".weight") && parts.len() < count {
            return None;
        }
        let each = own.values.len() / count;
        let parts: Vec<Option<StoredTensor>> = (0..count).map(|i| parts.get(&i).cloned()).collect();
        let fits = |part: &Option<StoredTensor>| part.as_ref().is_none_or(|part| length(part) == each);
        if !parts.iter().all(fits) {
            return None;
        }
        Some(made(name, own.shape.clone(), move || {
            let read = |part: &Option<StoredTensor>| match part {
                Some(part) => Ok(values(part)?.values),
                None => Ok(vec![0.0; each]),
            };
            Ok(parts.iter().map(read).collect::<Result<Vec<_>, String>>()?.concat())
        }))
    }

    /// Learned positions for the grid; `None` if they are of no square grid.
    fn fitted(&self, stored: &StoredTensor, resampling: Resampling) -> Option<StoredTensor> {
        let own = self.expected.0.get("pos_embed")?;
        let (class, grid) = (self.arch.class_token, self.grid);
        let width = *stored.shape.last().filter(|width| Some(*width) == own.shape.last())?;
        // Whether they fit depends on the shape alone.
        let rows = length(stored).checked_div(width)?;
        let probe = Weight { shape: vec![rows, 1], values: vec![0.0; rows] };
        positions::fit(&probe, class, grid, resampling)?;
        let part = stored.clone();
        Some(made("pos_embed", own.shape.clone(), move || {
            let fitted = positions::fit(&values(&part)?, class, grid, resampling);
            fitted.ok_or_else(|| "positions are of no square grid".to_owned())
        }))
    }
}

/// The number of a block in a name, and what follows it.
fn block(name: &str) -> Option<(usize, &str)> {
    let rest = BLOCKS.iter().find_map(|before| name.strip_prefix(before))?;
    let (first, rest) = rest.split_once('.')?;
    let number = first.parse().ok()?;
    // Training checkpoints of DINOv2 have chunks of blocks: `blocks.0.3.` is block 3.
    match rest.split_once('.').and_then(|(second, rest)| Some((second.parse().ok()?, rest))) {
        Some(inner) => Some(inner),
        None => Some((number, rest)),
    }
}

/// The name with the module `from` called `to`; `None` if it is in no such module.
fn renamed(name: &str, from: &str, to: &str) -> Option<String> {
    let rest = name.strip_prefix(from)?;
    (rest.is_empty() || rest.starts_with('.')).then(|| format!("{to}{rest}"))
}

fn length(tensor: &StoredTensor) -> usize {
    tensor.shape.iter().product()
}

/// A tensor of f32 that is made when it is read.
pub(super) fn made(
    name: &str,
    shape: Vec<usize>,
    values: impl Fn() -> Result<Vec<f32>, String> + Send + Sync + 'static,
) -> StoredTensor {
    let length = 4 * shape.iter().product::<usize>();
    let bytes = move || {
        let made = values().map_err(PackError::IoError)?;
        Ok(Bytes::from_bytes_vec(made.into_iter().flat_map(f32::to_le_bytes).collect()))
    };
    StoredTensor::deferred(name.to_owned(), DType::F32, shape, None, length, bytes)
}

/// Some rows of a matrix, or elements of a vector.
fn rows(of: &StoredTensor, from: usize, count: usize) -> StoredTensor {
    let mut shape = of.shape.to_vec();
    let row: usize = shape.iter().skip(1).product();
    if let Some(first) = shape.first_mut() {
        *first = count;
    }
    let of = of.clone();
    made("", shape, move || {
        let part = values(&of)?.values;
        part.get(from * row..(from + count) * row).map(<[f32]>::to_vec).ok_or_else(|| "it has too few rows".to_owned())
    })
}

/// The transpose of a matrix; a tensor of other axes stays.
fn transposed(of: StoredTensor) -> StoredTensor {
    let [rows, columns] = of.shape[..] else { return of };
    made("", vec![columns, rows], move || {
        let all = values(&of)?.values;
        Ok((0..columns).flat_map(|c| (0..rows).map(move |r| r * columns + c)).map(|i| all[i]).collect())
    })
}

/// The product of two tensors of equal shape, element by element.
fn product(of: &StoredTensor, factor: StoredTensor) -> StoredTensor {
    let of = of.clone();
    made("", of.shape.to_vec(), move || {
        let (all, factors) = (values(&of)?.values, values(&factor)?.values);
        Ok(all.into_iter().zip(factors).map(|(v, f)| v * f).collect())
    })
}

/// The tensor in another shape, if only axes of length 1 are too many or missing.
pub(super) fn reshaped(of: &StoredTensor, shape: &[usize]) -> Option<StoredTensor> {
    let long = |shape: &[usize]| shape.iter().copied().filter(|axis| *axis != 1).collect::<Vec<_>>();
    if of.shape[..] == *shape || long(&of.shape) != long(shape) {
        return None;
    }
    let part = of.clone();
    Some(made("", shape.to_vec(), move || Ok(values(&part)?.values)))
}
