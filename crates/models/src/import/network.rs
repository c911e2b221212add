//! Finds the tensors of a network in a file.

use std::collections::BTreeMap;
use std::path::Path;

use burn::store::burn_pack::Tensor as StoredTensor;

use super::{ImportError, WeightsChoice, listed, short};
use crate::network::Arch;
use crate::weights::{Weights, WeightsError};

/// Names of dictionary keys and modules that wrap a whole network.
pub(super) const WRAPPERS: [&str; 22] = [
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "module",
    "_orig_mod",
    "backbone",
    "encoder",
    "encoder_q",
    "base_encoder",
    // Networks of transformers and OpenCLIP.
    "convnext",
    "convnextv2",
    "vit",
    "dinov2",
    "dinov2_with_registers",
    "dinov3_vit",
    "vision_model",
    "vision_tower",
    "visual",
    "trunk",
    "vision",
];

/// More such names, of weights that usually come with others, such as an average. If a file has several sets, none of
/// these is taken unless a [`WeightsChoice`] names it.
pub(super) const BESIDE: [&str; 21] = [
    "state_dict_ema",
    "ema_state_dict",
    "model_ema",
    "ema_model",
    "ema",
    "best_state_dict",
    "student",
    "teacher",
    "online",
    "target",
    "online_encoder",
    "target_encoder",
    "encoder_k",
    "momentum_encoder",
    // solo-learn and lightly.
    "momentum_backbone",
    "backbone_momentum",
    "query_backbone",
    "student_backbone",
    "teacher_backbone",
    "prediction_backbone",
    "target_backbone",
];

/// Pairs of encoders, of MoCo, MoCo v3, solo-learn and lightly: the authors' own evaluations take the first and drop
/// the second.
const TRAINED: [(&str, &str); 7] = [
    ("encoder_q", "encoder_k"),
    ("base_encoder", "momentum_encoder"),
    ("encoder", "momentum_encoder"),
    ("backbone", "momentum_backbone"),
    ("backbone", "backbone_momentum"),
    ("backbone", "query_backbone"),
    ("backbone", "student_backbone"),
];

/// Modules on top of a network that are no part of an extractor.
pub(super) const HEADS: [&str; 10] = [
    "fc",
    "linear",
    "classifier",
    "head",
    "projector",
    "projection_head",
    "predictor",
    "pooler",
    "attn_pool",
    "fc_norm",
];

/// Modules that only pre-training needs: the decoder of MAE, the token of masked patches, and CLIP's encoder of texts.
const TRAINING: [&str; 17] = [
    "mask_token",
    "decoder_embed",
    "decoder_pos_embed",
    "decoder_blocks",
    "decoder_norm",
    "decoder_pred",
    "text_model",
    "text_projection",
    "visual_projection",
    "logit_scale",
    "logit_bias",
    "transformer",
    "token_embedding",
    "positional_embedding",
    "ln_final",
    "text",
    "dino_head",
];

/// The tensors of the network that was found.
#[derive(Debug)]
pub(super) struct Found<'a> {
    /// The prefix of their names in the file.
    pub(super) prefix: &'a str,
    /// The tensors, by the network's own names.
    pub(super) tensors: BTreeMap<String, &'a StoredTensor>,
}

/// Why no network was found.
#[derive(Debug)]
pub(super) enum Unfound {
    Several(Vec<(String, String)>),
    Choice { field: &'static str, value: String, expected: String },
    Below(String),
}

impl Unfound {
    pub(super) fn of(self, path: &Path, arch: Arch) -> ImportError {
        let path = path.to_owned();
        match self {
            Self::Several(sets) => ImportError::Several { path, sets },
            Self::Choice { field, value, expected } => ImportError::Choice { path, field, value, expected },
            Self::Below(prefix) => ImportError::Below { path, arch: Box::new(arch), prefix },
        }
    }
}

impl Found<'_> {
    /// Compares names and shapes with those of the network.
    pub(super) fn fits(&self, expected: &Weights) -> Result<(), WeightsError> {
        expected.expect(self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.shape.to_vec())).collect())
    }

    /// Modules of the file outside of the network's prefix, with the number of their tensors.
    pub(super) fn outside(&self, tensors: &BTreeMap<String, StoredTensor>) -> Vec<(String, usize)> {
        let mut modules: BTreeMap<String, usize> = BTreeMap::new();
        for name in tensors.keys().filter(|name| !name.starts_with(self.prefix)) {
            let wrapped = wrapped(name);
            let module = name[wrapped..].split('.').next().unwrap_or_default();
            *modules.entry(format!("{}{module}", &name[..wrapped])).or_default() += 1;
        }
        modules.into_iter().collect()
    }

    /// The modules that are left over, if that is the only misfit.
    pub(super) fn aside(&self, misfit: &WeightsError) -> Vec<String> {
        let WeightsError::Misfit { missing, unexpected, misshaped } = misfit else { return Vec::new() };
        if !missing.is_empty() || !misshaped.is_empty() {
            return Vec::new();
        }
        let modules = unexpected.iter().map(|name| name.split('.').next().unwrap_or(name).to_owned());
        let mut modules: Vec<String> = modules.collect();
        modules.dedup();
        // A module whose other tensors the network needs cannot be ignored as a whole.
        modules.retain(|module| !self.tensors.keys().any(|name| under(name, module) && !unexpected.contains(name)));
        modules
    }
}

/// Finds the tensors of the network, under its own names.
///
/// A set of weights is a prefix under which more than half of the names of `expected` are found. If exactly one set is
/// below known wrappers, it is the network. If there are several, `choice` must pick one.
pub(super) fn find<'a>(
    tensors: &'a BTreeMap<String, StoredTensor>,
    expected: &Weights,
    choice: WeightsChoice<'_>,
) -> Result<Found<'a>, Unfound> {
    let kept: BTreeMap<&'a str, &'a StoredTensor> = (tensors.iter())
        .filter(|(name, _)| !choice.ignores(name))
        .map(|(name, tensor)| (name.as_str(), tensor))
        .collect();
    let sets = sets(&kept, expected);
    let prefix = pick(&kept, &sets, expected, choice)?;
    let inner: Vec<&str> = sets.iter().copied().filter(|set| set.len() > prefix.len()).collect();
    let mut network = BTreeMap::new();
    for (full, tensor) in kept {
        let Some(name) = full.strip_prefix(prefix) else { continue };
        // A projection shortcut may be called `shortcut` or `downsample`.
        let own = canonical(name);
        let module = name.split('.').next().unwrap_or_default();
        let beside = HEADS.contains(&module) || TRAINING.contains(&module) || known(module);
        let aside = || beside || name.ends_with("num_batches_tracked") || inner.iter().any(|i| full.starts_with(i));
        if choice.ignores(name) || (!expected.0.contains_key(&own) && aside()) {
            continue;
        }
        network.insert(own, tensor);
    }
    Ok(Found { prefix, tensors: network })
}

/// Checks that each pattern of [`WeightsChoice::ignore`] matches a tensor, by its full name or by the end of it.
pub(super) fn known_to(tensors: &BTreeMap<String, StoredTensor>, choice: WeightsChoice<'_>) -> Result<(), Unfound> {
    let matched = |pattern: &str, full: &str| {
        let mut starts = std::iter::once(0).chain(full.match_indices('.').map(|(dot, _)| dot + 1));
        starts.any(|start| matches(pattern, &full[start..]))
    };
    let Some(unused) = choice.ignore.iter().find(|p| !tensors.keys().any(|name| matched(p, name))) else {
        return Ok(());
    };
    let names: Vec<&String> = tensors.keys().collect();
    let expected = format!("no tensor has such a name, there are {}", listed(&names, 3, |n| format!("`{}`", short(n))));
    Err(Unfound::Choice { field: "ignore", value: unused.clone(), expected })
}

/// The prefixes of all sets of weights, in order.
fn sets<'a>(tensors: &BTreeMap<&'a str, &StoredTensor>, expected: &Weights) -> Vec<&'a str> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for full in tensors.keys() {
        let cuts = std::iter::once(0).chain(full.match_indices('.').map(|(dot, _)| dot + 1));
        for cut in cuts.filter(|cut| expected.0.contains_key(&canonical(&full[*cut..]))) {
            *counts.entry(&full[..cut]).or_default() += 1;
        }
    }
    counts.into_iter().filter(|(_, count)| 2 * count > expected.0.len()).map(|(prefix, _)| prefix).collect()
}

/// The prefix of the network that `choice` means.
fn pick<'a>(
    tensors: &BTreeMap<&'a str, &StoredTensor>,
    all: &[&'a str],
    expected: &Weights,
    choice: WeightsChoice<'_>,
) -> Result<&'a str, Unfound> {
    let mut sets = all.to_vec();
    if let Some(branch) = choice.branch {
        sets.retain(|set| set.split('.').any(|name| name == branch));
    }
    let dotted = choice.prefix.map(|p| if p.is_empty() || p.ends_with('.') { p.to_owned() } else { format!("{p}.") });
    if let Some(prefix) = &dotted {
        sets.retain(|set| *set == prefix || (!prefix.is_empty() && set.ends_with(&format!(".{prefix}"))));
    }
    let chosen = choice.branch.is_some() || choice.prefix.is_some();
    if !chosen {
        let trained = |set: &str, (first, second): (&str, &str)| {
            let swapped: Vec<&str> = set.split('.').map(|name| if name == second { first } else { name }).collect();
            swapped.join(".")
        };
        let beside =
            |set: &&str| TRAINED.iter().map(|pair| trained(set, *pair)).any(|s| s != **set && all.contains(&&*s));
        sets.retain(|set| !beside(set));
    }
    match sets[..] {
        [set] if chosen || set.split_terminator('.').all(known) => Ok(set),
        [set] => Err(Unfound::Below(set.to_owned())),
        [] if chosen => {
            let (field, value) = match (choice.branch, choice.prefix) {
                (Some(branch), _) => ("branch", branch),
                (None, prefix) => ("prefix", prefix.unwrap_or_default()),
            };
            // If a prefix was given that exists, comparing what is below it explains better why it is no such network.
            let asked = dotted.filter(|_| choice.branch.is_none());
            let below = asked.and_then(|p| tensors.keys().find_map(|name| Some(&name[..name.find(&p)? + p.len()])));
            let there = || match all.len() {
                0 => "the file has no set of weights with the architecture's names".to_owned(),
                _ => format!(
                    "the file has the architecture's names under {}",
                    listed(all, 4, |s| format!("`{}*`", short(s)))
                ),
            };
            below.ok_or_else(|| Unfound::Choice { field, value: value.to_owned(), expected: there() })
        }
        [] => Ok(largest(tensors, expected)),
        _ => Err(Unfound::Several(sets.iter().map(|set| (String::from(*set), how(set, &sets))).collect())),
    }
}

/// The field of a [`WeightsChoice`] that picks the set `set` and none of the others, as it is written in a spec.
fn how(set: &str, all: &[&str]) -> String {
    let others = || all.iter().filter(|other| **other != set);
    let own = |name: &&str| !others().any(|other| other.split('.').any(|there| there == *name));
    match set.split_terminator('.').find(own) {
        Some(name) => format!("branch = \"{name}\""),
        None => format!("prefix = \"{set}\""),
    }
}

/// The prefix to report on if no set is nearly complete: among those of known wrappers, the one that shares most names
/// with the network, and, of equals, the one with most tensors.
fn largest<'a>(tensors: &BTreeMap<&'a str, &StoredTensor>, expected: &Weights) -> &'a str {
    let mut sets: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for full in tensors.keys() {
        let (prefix, name) = full.split_at(wrapped(full));
        let counts = sets.entry(prefix).or_default();
        counts.0 += usize::from(expected.0.contains_key(&canonical(name)));
        counts.1 += 1;
    }
    sets.into_iter().max_by_key(|(_, counts)| *counts).map_or("", |(prefix, _)| prefix)
}

/// A tensor's name in the network.
fn canonical(name: &str) -> String {
    name.replace(".shortcut.", ".downsample.")
}

fn known(name: &str) -> bool {
    WRAPPERS.contains(&name) || BESIDE.contains(&name)
}

/// Length of the known wrappers at the beginning of a tensor's name: `state_dict.module.` of
/// `state_dict.module.conv1.weight`.
fn wrapped(name: &str) -> usize {
    let mut length = 0;
    while let Some((first, _)) = name[length..].split_once('.')
        && known(first)
    {
        length += first.len() + 1;
    }
    length
}

/// Whether a pattern of [`WeightsChoice::ignore`] matches a name.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern || under(name, pattern),
    }
}

/// Whether a name is that of something inside of a module.
fn under(name: &str, module: &str) -> bool {
    name.strip_prefix(module).is_some_and(|rest| rest.starts_with('.'))
}
