//! The setting and the threat model in words, from the parameters of the results.

use crate::{
    ConfigGroup,
    config_group::PretrainingKind,
    words::{capital, list, share},
};
use hemlock_pipeline::nodes;
use hemlock_threat::Sees;
use serde_json::Value;
use std::collections::BTreeSet;

/// Describes the setting of some configurations: headings, each with a sentence or two.
pub fn describe(configs: &[&ConfigGroup]) -> Vec<(&'static str, String)> {
    let context = ExperimentContext(configs);
    let facts = [
        ("Extractor", Some(context.extractor())),
        ("Victim extractor", context.victim_extractor()),
        ("Downstream data", context.downstream()),
        ("Means and intervals", context.scope()),
        ("Pre-training", Some(context.pretraining())),
        ("Victim", Some(context.victims())),
        ("Target", context.target()),
        ("Poison fraction", Some(context.budget())),
        ("Attacker", Some(context.attacker())),
        ("Defences", context.defences()),
        ("Constraints on poisons", Some([context.labels(), &context.pixels(), &context.features()].concat())),
    ];
    facts.into_iter().filter_map(|(heading, text)| Some((heading, text?))).collect()
}

/// The configurations whose setting is described.
struct ExperimentContext<'a>(&'a [&'a ConfigGroup]);

impl<'a> ExperimentContext<'a> {
    /// The value of a parameter in the first configuration that has it.
    fn first(&self, node: &str, field: &str) -> Option<&'a Value> {
        self.0.iter().find_map(|c| c.parameter(node, field))
    }

    /// The first value of a parameter, as text.
    fn text(&self, node: &str, field: &str) -> Option<String> {
        self.first(node, field).map(crate::words::value)
    }

    /// All values that `of` returns for the configurations, each once, in the order of the configurations.
    fn every(&self, of: &dyn Fn(&ConfigGroup) -> Option<String>) -> Vec<String> {
        let mut seen = BTreeSet::new();
        self.0.iter().filter_map(|c| of(c)).filter(|v| seen.insert(v.clone())).collect()
    }

    /// A sentence about how the attacker's extractor was made.
    fn extractor(&self) -> String {
        let text = |c: &ConfigGroup, field| c.parameter(nodes::EXTRACTOR, field).map(crate::words::value);
        let process = |c: &ConfigGroup| (text(c, "method")? == "process").then(|| "a network of its own".to_owned());
        let arch = self.every(&|c| text(c, "arch").or_else(|| process(c)));
        let trained = self.every(&method);
        let node = if self.first(nodes::PRETRAINING_IMAGES, "source").is_some() {
            nodes::PRETRAINING_IMAGES
        } else {
            nodes::DOWNSTREAM_IMAGES
        };
        let images =
            self.text(node, "train").filter(|n| n != "null").map(|n| format!("{n} images of ")).unwrap_or_default();
        match self.first(nodes::FEATURES, "path") {
            Some(path) => {
                format!(
                    "Features were imported from the file {}, and the extractor is not known.",
                    crate::words::value(path)
                )
            }
            None => {
                let sources = self.every(&|c| c.pretrained_on().map(|s| source(&s)));
                let on = (!sources.is_empty()).then(|| format!(" on {images}{}", sources.join(" or ")));
                let epochs = self
                    .text(nodes::EXTRACTOR, "epochs")
                    .filter(|_| on.is_some())
                    .map(|e| if e == "1" { ", for 1 epoch".to_owned() } else { format!(", for {e} epochs") })
                    .unwrap_or_default();
                let unverified = match self.0.iter().any(|c| c.rows.iter().any(|row| row.verified == Some(false))) {
                    true => {
                        " This is an unverified import: no probe has shown that it computes the network that its weights were \
                         trained in."
                    }
                    false => "",
                };
                format!(
                    "{}, {}{}{epochs}.{unverified} Attackers cannot change it.{}",
                    list(&arch),
                    list(&trained),
                    on.unwrap_or_default(),
                    if self.0.iter().all(|c| c.shares_extractor()) {
                        " All seeds share it."
                    } else {
                        " Every seed has an extractor of its own."
                    }
                )
            }
        }
    }

    /// A sentence about the victim extractor; `None` if victims use the attacker's.
    fn victim_extractor(&self) -> Option<String> {
        let trained = self.text(nodes::VICTIM_EXTRACTOR, "method")?;
        if trained == "process" {
            return Some("Victims use another extractor than attackers, which a process computes.".to_owned());
        }
        let arch = self.text(nodes::VICTIM_EXTRACTOR, "arch")?;
        Some(format!("Victims use another extractor than attackers: {arch}, pre-trained by {trained}."))
    }

    /// A sentence about the images that heads are trained and tested on.
    fn downstream(&self) -> Option<String> {
        let downstream = source(&self.0.first()?.downstream()?);
        let counts = [("train", "to train on"), ("validation", "for validation"), ("test", "to test on")];
        let counts: Vec<String> = counts
            .iter()
            .filter_map(|(field, what)| {
                // An absent `validation` stands for the validation split of the source, which may be empty. The other
                // counts stand for all images if they are absent.
                let count = |c: &ConfigGroup| match c.parameter(nodes::DOWNSTREAM_IMAGES, field)? {
                    Value::Null => (*field != "validation").then(|| "all".to_owned()),
                    n => Some(n.to_string()),
                };
                let counts = self.every(&count);
                (!counts.is_empty()).then(|| format!("{} {what}", counts.join(" or ")))
            })
            .collect();
        let images = if self.first(nodes::DOWNSTREAM_IMAGES, "seed").is_some_and(|s| s == "run") {
            " Every seed draws training images of its own, and test images of its own if there are enough."
        } else {
            ""
        };
        Some(format!("{downstream}: {}.{images}", list(&counts)))
    }

    /// A sentence about what means and intervals generalise to.
    fn scope(&self) -> Option<String> {
        let inference = self.0.iter().find_map(|c| c.mean(crate::config_group::quantity::drop)?.inference.ok())?;
        Some(format!("They hold {}.", inference.scope.words()))
    }

    /// Whether this is fine-tuning or transfer: a sentence for each kind that occurs.
    fn pretraining(&self) -> String {
        let sentence = |kind| match kind {
            PretrainingKind::FineTuning => {
                "Fine-tuning: the extractor was pre-trained on the source that the head is trained on."
            }
            PretrainingKind::Transfer => {
                "Transfer: the extractor was pre-trained on another source than the head is trained on."
            }
            PretrainingKind::Unknown => {
                "Whether this is fine-tuning or transfer is not known: what the extractor was pre-trained on is not part \
                 of the pipeline."
            }
        };
        self.every(&|c| Some(sentence(c.pretraining()).to_owned())).join(" ")
    }

    /// A sentence about the victims.
    fn victims(&self) -> String {
        let decay =
            self.text(nodes::TARGET, "weight_decay").map(|d| format!(" (weight decay {d})")).unwrap_or_default();
        let victims: Vec<String> = self.every(&|c| {
            let decay = if c.victim().starts_with("linear") { decay.as_str() } else { "" };
            Some(in_words(c.victim(), &VICTIMS).unwrap_or(c.victim()).to_owned() + decay)
        });
        format!("{}. Victims are trained from scratch on clean data and poisons together.", capital(&list(&victims)))
    }

    /// A sentence about the target heads.
    fn target(&self) -> Option<String> {
        let strengths = self.every(&|c| {
            let value =
                |field: &str| c.parameter(nodes::TARGET, field).filter(|v| !v.is_null()).map(crate::words::value);
            let radius = |radius: String| match value("radius_unit").as_deref() {
                Some("absolute") => format!("radius {radius}"),
                _ => format!("radius {radius}, in norms of the clean head"),
            };
            let strength =
                value("radius").map(radius).or_else(|| value("share").map(|share| format!("share {share}")))?;
            let fitted = value("calibration").is_some_and(|c| c != "none");
            let fitted = if fitted { ", and then its scale and biases are fitted" } else { "" };
            let method = value("method")?.replace("gradpc", "GradPC").replace('-', " ");
            Some(format!("{method} ({strength}){fitted}"))
        });
        if strengths.is_empty() {
            return None;
        }
        let weaker = self.every(&|c| {
            let weaker = c.rows.iter().find_map(|r| r.stepped_back.as_ref())?;
            Some(format!(
                " The {0} is {2} instead of {1}, because calibration leaves nothing of a stronger target.",
                weaker.field, weaker.asked, weaker.used
            ))
        });
        Some(format!("{}.{}", capital(&list(&strengths)), weaker.concat()))
    }

    /// A sentence about the poison fraction, and whether poisons are added or replace their base images.
    fn budget(&self) -> String {
        let budgets: Vec<String> = self.every(&|c| Some(share(c.poison_fraction())));
        let train = self.first(nodes::DOWNSTREAM_IMAGES, "train").and_then(Value::as_u64);
        let many = self.0.iter().map(|c| c.poison_fraction()).fold(0.0, f64::max);
        let many = train.map(|n| format!(" (up to {:.0} poisons)", many * n as f64)).unwrap_or_default();
        let role = match (self.0.iter().any(|c| c.replaces()), self.0.iter().all(|c| c.replaces())) {
            (_, true) => "Poisons replace their base images.",
            (true, false) => "The poisons of some attacks replace their base images; other poisons are added.",
            (false, _) => "Poisons are added, and no clean sample is removed.",
        };
        format!("The poison fraction is {}{many}. {role}", list(&budgets))
    }

    /// Sentences about what the attacker knows and can do.
    fn attacker(&self) -> String {
        let seen = |sees: Sees| match sees {
            Sees::Train => "the training split",
            Sees::TrainAndValidation => "the training and the validation split, which victims do not train on",
        };
        let sees: Vec<String> = self.every(&|c| c.rows.first().map(|r| seen(r.sees).to_owned()));
        let controls: Vec<String> = self.every(&|c| c.rows.first().map(|r| seen(r.controls_see).to_owned()));
        let of = if sees.len() > 1 {
            "Attacks use the labels of different splits"
        } else {
            "The attacker uses the labels of"
        };
        let knowledge = match (sees.as_slice(), controls.as_slice()) {
            (a, b) if a == b && a.len() == 1 => format!("{of} {}, and so do controls.", list(&sees)),
            (a, _) if a.len() == 1 => {
                format!("{of} {}; controls use those of {}.", list(&sees), controls.join(", or "))
            }
            _ => format!("{of}: {}; controls use those of {}.", sees.join(", or "), controls.join(", or ")),
        };
        let clean = if self.0.iter().any(|c| c.replaces()) { "other clean samples" } else { "the clean samples" };
        format!(
            "The attack is white-box: the attacker knows the extractor, the clean data and how the victim trains. \
             {knowledge} The attacker does not see test labels, and cannot change the extractor, {clean}, or the \
             training."
        )
    }

    /// Sentences about the defences that victims train behind, and whether attackers know them; `None` without any.
    fn defences(&self) -> Option<String> {
        let of = |c: &ConfigGroup| c.defence().map(crate::words::value);
        let kinds = self.every(&|c| of(c).filter(|kind| kind != "none"));
        if kinds.is_empty() {
            return None;
        }
        let also = if self.0.iter().any(|c| of(c).is_none_or(|k| k == "none")) { " and without one" } else { "" };
        let adaptive = |c: &&ConfigGroup| c.of_attack("adaptive").is_some_and(|a| !a.is_null() && *a != false);
        let defended = || self.0.iter().copied().filter(|c| of(c).is_some_and(|kind| kind != "none"));
        let known = match (defended().any(|c| adaptive(&c)), defended().all(|c| adaptive(&c))) {
            (_, true) => "Attackers know the defence and adapt to it.",
            (true, false) => "Attackers who are called adaptive know the defence; others do not.",
            (false, _) => "Attackers do not know the defence.",
        };
        Some(format!("Victims train behind a defence ({}){also}. {known}", kinds.join(", ")))
    }

    /// A sentence about the labels of poisons: clean-label or dirty-label.
    fn labels(&self) -> &'static str {
        match (self.0.iter().any(|c| c.clean_label()), self.0.iter().any(|c| !c.clean_label())) {
            (true, true) => {
                "Some attacks keep the labels of base images (clean-label), and others choose labels (dirty-label)."
            }
            (true, false) => "Poisons keep the labels of their base images (clean-label).",
            _ => "The attacker chooses the labels of poisons (dirty-label).",
        }
    }

    /// Sentences about the constraints on pixels.
    fn pixels(&self) -> String {
        let mut limits: Vec<f64> = self.0.iter().filter_map(|c| c.linf()).collect();
        limits.sort_by(f64::total_cmp);
        limits.dedup();
        let limits: Vec<String> = limits.iter().map(ToString::to_string).collect();
        let betas = self.every(&|c| (c.beta() > 0.0).then(|| c.beta().to_string()));
        let mut pixels = String::new();
        if self.0.iter().any(|c| c.making().is_some()) {
            let unclipped = if self.0.iter().any(|c| c.unclipped()) {
                " Unclipped pixels may leave [0, 1], and are stored as floats."
            } else {
                ""
            };
            pixels = format!(" Pixels lie in [0, 1] and are stored with 8 bits.{unclipped}");
            if !limits.is_empty() {
                pixels +=
                    &format!(" Under an L∞ limit, pixels change by at most {} grey levels of 255.", list(&limits));
            }
            if !betas.is_empty() {
                pixels +=
                    &format!(" With β > 0 ({}), the squared distance to the base image is penalised.", list(&betas));
            }
        }
        pixels
    }

    /// A sentence about the constraints on poisoned features.
    fn features(&self) -> String {
        let constraints: Vec<String> = self.every(&|c| c.of_feature_attack("constraint").map(crate::words::value));
        match constraints.as_slice() {
            [] => String::new(),
            [one] if one == "none" => " Poisoned features may lie anywhere.".to_owned(),
            some => {
                let sets: Vec<String> = some.iter().filter(|s| *s != "none").cloned().collect();
                let or = if sets.len() < some.len() { "; without a constraint they may lie anywhere" } else { "" };
                format!(
                    " Poisoned features have to lie in a set that is measured on clean features ({}){or}.",
                    list(&sets)
                )
            }
        }
    }
}

/// Methods of pre-training, each in words.
const METHODS: [(&str, &str); 4] = [
    ("random", "with random weights, not trained at all"),
    ("supervised", "pre-trained with labels"),
    ("simclr", "pre-trained with SimCLR, without labels"),
    ("moco-v3", "pre-trained with MoCo v3, without labels"),
];

/// Kinds of victims, each in words.
const VICTIMS: [(&str, &str); 7] = [
    ("linear", "a linear head on frozen features, trained to the minimum of its loss"),
    ("linear-sgd", "a linear head on frozen features, trained by stochastic gradient descent"),
    ("knn", "nearest neighbours among frozen features"),
    ("mlp", "a small network on frozen features"),
    ("last-block", "a network: the head and the last block of the extractor, from its weights"),
    ("fine-tune", "a network: the head and the whole extractor, from its weights"),
    ("end-to-end", "a network of the same architecture, from random weights"),
];

/// The values of specs that have words here. Others are named as in the spec.
pub fn known_values() -> impl Iterator<Item = &'static str> {
    let known = METHODS.iter().chain(&VICTIMS).map(|(value, _)| *value);
    known.chain(["import", "process", "cifar10", "cifar100", "synthetic"])
}

fn in_words<'a>(value: &str, known: &'a [(&str, &str)]) -> Option<&'a str> {
    known.iter().find(|(known, _)| *known == value).map(|(_, words)| *words)
}

/// How the extractor of a configuration was made, in words.
fn method(config: &ConfigGroup) -> Option<String> {
    let trained = config.parameter(nodes::EXTRACTOR, "trained").and_then(Value::as_str);
    Some(match (config.parameter(nodes::EXTRACTOR, "method")?.as_str()?, trained) {
        ("import", Some("supervised")) => "imported (trained elsewhere, with labels)".to_owned(),
        ("import", _) => "imported (trained elsewhere)".to_owned(),
        ("process", Some("supervised")) => "computed by a process (trained elsewhere, with labels)".to_owned(),
        ("process", _) => "computed by a process (trained elsewhere)".to_owned(),
        (other, _) => in_words(other, &METHODS).map_or_else(|| format!("pre-trained by {other}"), str::to_owned),
    })
}

/// The name of a source of images; `text` is the source in the spec, as JSON.
pub fn source(text: &str) -> String {
    let value: Value = serde_json::from_str(text).expect("a source was written as JSON");
    let field = |name: &str| value.get(name).and_then(Value::as_str);
    match (value.as_str().or_else(|| field("kind")), field("domain"), field("path")) {
        (Some("cifar10"), ..) => "CIFAR-10".to_owned(),
        (Some("cifar100"), ..) if field("labels") == Some("coarse") => "CIFAR-100 (coarse labels)".to_owned(),
        (Some("cifar100"), ..) => "CIFAR-100".to_owned(),
        (Some("synthetic"), Some(domain), _) => format!("synthetic pictures (domain {domain})"),
        (_, _, Some(path)) => format!("pictures of the folder {path}"),
        (name, ..) => name.unwrap_or(text).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::testing::made_up;
    use serde_json::json;

    #[test]
    fn the_threat_model_says_who_knows_the_defence() {
        let behind = |defence: Option<&str>, adaptive: bool| {
            let made = made_up("bilevel").with("poison-features", json!({ "attack": "bilevel", "adaptive": adaptive }));
            match defence {
                Some(kind) => made.with("defence", json!({ "kind": kind })).config(),
                None => made.config(),
            }
        };
        let said = |configs: &[ConfigGroup]| {
            let facts = describe(&configs.iter().collect::<Vec<_>>());
            facts.into_iter().find(|(heading, _)| *heading == "Defences").map(|(_, text)| text)
        };
        assert_eq!(said(&[behind(None, false)]), None);
        assert_eq!(said(&[behind(Some("none"), false)]), None);
        assert_eq!(
            said(&[behind(Some("sphere"), false), behind(Some("slab"), false)]).unwrap(),
            "Victims train behind a defence (sphere, slab). Attackers do not know the defence."
        );
        assert_eq!(
            said(&[behind(None, false), behind(Some("sphere"), false), behind(Some("sphere"), true)]).unwrap(),
            "Victims train behind a defence (sphere) and without one. Attackers who are called adaptive know the \
             defence; others do not."
        );
        assert_eq!(
            said(&[behind(Some("sphere"), true)]).unwrap(),
            "Victims train behind a defence (sphere). Attackers know the defence and adapt to it."
        );
    }
}
