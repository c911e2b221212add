//! The setting and the threat model in words, from the parameters of the results.

use crate::{
    Case,
    case::Pretraining,
    words::{capital, list, share},
};
use hemlock_threat::Sees;
use serde_json::Value;
use std::collections::BTreeSet;

/// Describes the setting of some cases: headings, each with a sentence or two.
pub fn describe(cases: &[&Case]) -> Vec<(&'static str, String)> {
    let setting = Setting(cases);
    let said = [
        ("Extractor", Some(setting.extractor())),
        ("Victim extractor", setting.victim_extractor()),
        ("Downstream data", setting.downstream()),
        ("Means and intervals", setting.scope()),
        ("Pre-training", Some(setting.pretraining())),
        ("Victim", Some(setting.victims())),
        ("Target", setting.target()),
        ("Poison fraction", Some(setting.budget())),
        ("Attacker", Some(setting.attacker())),
        ("What may change", Some([setting.labels(), &setting.pixels(), &setting.features()].concat())),
    ];
    said.into_iter().filter_map(|(heading, text)| Some((heading, text?))).collect()
}

/// The cases whose setting is described.
struct Setting<'a>(&'a [&'a Case]);

impl<'a> Setting<'a> {
    /// The value of a parameter in the first case that has it.
    fn first(&self, node: &str, field: &str) -> Option<&'a Value> {
        self.0.iter().find_map(|c| c.parameter(node, field))
    }

    /// The first value of a parameter, as text.
    fn text(&self, node: &str, field: &str) -> Option<String> {
        self.first(node, field).map(crate::words::value)
    }

    /// All values that `of` returns for the cases, each once, in the order of the cases.
    fn every(&self, of: &dyn Fn(&Case) -> Option<String>) -> Vec<String> {
        let mut seen = BTreeSet::new();
        self.0.iter().filter_map(|c| of(c)).filter(|v| seen.insert(v.clone())).collect()
    }

    /// A sentence about how the attacker's extractor was made.
    fn extractor(&self) -> String {
        let arch = self.every(&|c| c.parameter("pretrain", "arch").map(crate::words::value));
        let trained = self.every(&|c| Some(method(c)?.to_owned()));
        let node =
            if self.first("dataset.pretrain", "source").is_some() { "dataset.pretrain" } else { "dataset.downstream" };
        let images =
            self.text(node, "train").filter(|n| n != "null").map(|n| format!("{n} images of ")).unwrap_or_default();
        match self.first("features", "path") {
            Some(path) => {
                format!(
                    "Features were read from the file {}; what made them is not known here.",
                    crate::words::value(path)
                )
            }
            None => {
                let on = self.0.first().and_then(|c| c.pretrained_on()).map(|s| format!(" on {images}{}", source(&s)));
                let epochs = self
                    .text("pretrain", "epochs")
                    .filter(|_| on.is_some())
                    .map(|e| if e == "1" { ", for 1 epoch".to_owned() } else { format!(", for {e} epochs") })
                    .unwrap_or_default();
                let unverified = match self.0.iter().any(|c| c.rows.iter().any(|row| row.verified == Some(false))) {
                    true => " An unverified import: nothing shows that it computes what its weights were trained in.",
                    false => "",
                };
                format!(
                    "{}, {}{}{epochs}.{unverified} No attacker changes it.{}",
                    list(&arch),
                    list(&trained),
                    on.unwrap_or_default(),
                    if self.0.iter().all(|c| c.shares_extractor()) {
                        " All seeds share it: they differ in what comes after it."
                    } else {
                        " Every seed has one of its own."
                    }
                )
            }
        }
    }

    /// A sentence about the victim extractor; `None` if victims use the attacker's.
    fn victim_extractor(&self) -> Option<String> {
        let arch = self.text("victim-extractor.pretrain", "arch")?;
        let trained = self.text("victim-extractor.pretrain", "method").unwrap_or_default();
        Some(format!("Victims use another extractor than the attacker's: {arch}, by {trained}."))
    }

    /// A sentence about the images that heads are trained and tested on.
    fn downstream(&self) -> Option<String> {
        let downstream = source(&self.0.first()?.downstream()?);
        let counts = [("train", "to train on"), ("validation", "for validation"), ("test", "to test on")];
        let counts: Vec<String> = counts
            .iter()
            .filter_map(|(field, what)| {
                let n = self.first("dataset.downstream", field)?;
                // An absent `validation` stands for the validation split of the source, which may be empty. The other
                // counts stand for all images if they are absent.
                let told = !n.is_null() || *field != "validation";
                told.then(|| if n.is_null() { format!("all {what}") } else { format!("{n} {what}") })
            })
            .collect();
        let images = if self.first("dataset.downstream", "seed").is_some_and(|s| s == "run") {
            " Every seed chooses its own, of test images as far as there are others."
        } else {
            ""
        };
        Some(format!("{downstream}: {}.{images}", list(&counts)))
    }

    /// A sentence about what means and intervals generalise to.
    fn scope(&self) -> Option<String> {
        let inference = self.0.iter().find_map(|c| c.mean(crate::case::quantity::drop)?.inference.ok())?;
        Some(format!("Hold {}.", inference.scope.words()))
    }

    /// A sentence about whether this is fine-tuning or transfer.
    fn pretraining(&self) -> String {
        let said = match self.0.first().map(|c| c.pretraining()) {
            Some(Pretraining::FineTuning) => {
                "Fine-tuning: the extractor was pre-trained on the source that the head is trained on."
            }
            Some(Pretraining::Transfer) => {
                "Transfer: the extractor was pre-trained on another source than the head is trained on."
            }
            _ => {
                "Whether this is fine-tuning or transfer is not known: what the extractor was pre-trained on is not part of the pipeline."
            }
        };
        said.to_owned()
    }

    /// A sentence about the victims.
    fn victims(&self) -> String {
        let decay =
            self.text("target-params", "weight_decay").map(|d| format!(" (weight decay {d})")).unwrap_or_default();
        let victims: Vec<String> = self.every(&|c| {
            let decay = if c.victim().starts_with("linear") { decay.as_str() } else { "" };
            Some(victim(c.victim()).to_owned() + decay)
        });
        format!("{}. Trained anew on clean data and poisons together.", capital(&list(&victims)))
    }

    /// A sentence about the target heads.
    fn target(&self) -> Option<String> {
        let strengths = self.every(&|c| {
            let told =
                |field: &str| c.parameter("target-params", field).filter(|v| !v.is_null()).map(crate::words::value);
            let radius = |radius: String| match told("radius_unit").as_deref() {
                Some("absolute") => format!("radius {radius}"),
                _ => format!("radius {radius}, in norms of the clean head"),
            };
            let strength =
                told("radius").map(radius).or_else(|| told("share").map(|share| format!("share {share}")))?;
            let fitted = told("calibration").is_some_and(|c| c != "none");
            let fitted = if fitted { ", then scale and biases fitted again" } else { "" };
            let method = told("method")?.replace("gradpc", "GradPC").replace('-', " ");
            Some(format!("{method} ({strength}){fitted}"))
        });
        if strengths.is_empty() {
            return None;
        }
        let weaker = self.every(&|c| {
            let weaker = c.rows.iter().find_map(|r| r.stepped_back.as_ref())?;
            Some(format!(" Instead of {0} {1} it is {0} {2}.", weaker.field, weaker.asked, weaker.used))
        });
        Some(format!("{}.{}", capital(&list(&strengths)), weaker.concat()))
    }

    /// A sentence about the poison fraction, and whether poisons are added or replace their base images.
    fn budget(&self) -> String {
        let budgets: Vec<String> = self.every(&|c| Some(share(c.poison_fraction())));
        let train = self.first("dataset.downstream", "train").and_then(Value::as_u64);
        let many = self.0.iter().map(|c| c.poison_fraction()).fold(0.0, f64::max);
        let many = train.map(|n| format!(" (up to {:.0} poisons)", many * n as f64)).unwrap_or_default();
        let role = if self.0.iter().any(|c| c.replaces()) {
            "Where an attack is on the training images themselves, poisons stand in for the images they are made of; otherwise they are added."
        } else {
            "They are added; no clean sample is taken away."
        };
        format!("ε_d = {} of the clean training count{many}. {role}", list(&budgets))
    }

    /// Sentences about what the attacker knows and can do.
    fn attacker(&self) -> String {
        let seen = |sees: Sees| match sees {
            Sees::Train => "the training split",
            Sees::TrainAndValidation => "the training and the validation split, which victims do not train on",
        };
        let sees: Vec<String> = self.every(&|c| c.rows.first().map(|r| seen(r.sees).to_owned()));
        let controls: Vec<String> = self.every(&|c| c.rows.first().map(|r| seen(r.controls_see).to_owned()));
        let of =
            if sees.len() > 1 { "Attacks look at the labels of different splits" } else { "Looks at the labels of" };
        let knowledge = match (sees.as_slice(), controls.as_slice()) {
            (a, b) if a == b && a.len() == 1 => format!("{of} {}, as controls do.", list(&sees)),
            (a, _) if a.len() == 1 => {
                format!("{of} {}; controls look at those of {}.", list(&sees), controls.join(", or "))
            }
            _ => format!("{of}: {}; controls look at those of {}.", sees.join(", or "), controls.join(", or ")),
        };
        let clean = if self.0.iter().any(|c| c.replaces()) { "other clean samples" } else { "the clean samples" };
        format!(
            "White-box: knows the extractor, the clean data and how the victim trains. {knowledge} Does not see the test \
             labels, and cannot touch the extractor, {clean} or the training itself."
        )
    }

    /// A sentence about the labels of poisons: clean-label or dirty-label.
    fn labels(&self) -> &'static str {
        match (self.0.iter().any(|c| c.clean_label()), self.0.iter().any(|c| !c.clean_label())) {
            (true, true) => {
                "Some attacks keep the labels of the images that poisons are made of (clean labels); others choose labels, too."
            }
            (true, false) => "Labels stay those of the images that poisons are made of (clean labels).",
            _ => "Labels are the attacker's choice.",
        }
    }

    /// Sentences about the constraints on pixels.
    fn pixels(&self) -> String {
        let mut limits: Vec<String> = self.every(&|c| c.linf().map(|l| format!("{l}")));
        limits.sort_by(|a, b| a.parse::<f64>().unwrap_or(0.0).total_cmp(&b.parse().unwrap_or(0.0)));
        let betas = self.every(&|c| (c.beta() > 0.0).then(|| c.beta().to_string()));
        let mut pixels = String::new();
        if self.0.iter().any(|c| c.making().is_some()) {
            let free = if self.0.iter().any(|c| c.free()) {
                " Unclipped pixels may leave [0, 1], and are kept as floats."
            } else {
                ""
            };
            pixels = format!(" Pixels lie in [0, 1] and are stored with 8 bits.{free}");
            if !limits.is_empty() {
                pixels += &format!(
                    " Where an L∞ limit is named, none changes by more than {} grey levels of 255.",
                    list(&limits)
                );
            }
            if !betas.is_empty() {
                pixels += &format!(" With β > 0 ({}) distance to the base image is penalised.", list(&betas));
            }
        }
        pixels
    }

    /// A sentence about the constraints on poisoned features.
    fn features(&self) -> String {
        let constraints: Vec<String> =
            self.every(&|c| c.parameter("poison-features", "constraint").map(crate::words::value));
        match constraints.as_slice() {
            [] => String::new(),
            [one] if one == "none" => " Poisoned features may lie anywhere.".to_owned(),
            some => {
                let sets: Vec<String> = some.iter().filter(|s| *s != "none").cloned().collect();
                let or = if sets.len() < some.len() { ", or may lie anywhere" } else { "" };
                format!(" Poisoned features have to lie in a set measured on clean ones ({}){or}.", list(&sets))
            }
        }
    }
}

/// How the extractor of a case was made, in words.
fn method(case: &Case) -> Option<&'static str> {
    let trained = case.parameter("pretrain", "trained").and_then(Value::as_str);
    Some(match (case.parameter("pretrain", "method")?.as_str()?, trained) {
        ("import", Some("supervised")) => "imported (trained elsewhere, with labels)",
        ("import", _) => "imported (trained elsewhere)",
        ("random", _) => "with random weights, not trained at all",
        ("supervised", _) => "pre-trained with labels",
        ("simclr", _) => "pre-trained with SimCLR, without labels",
        ("moco-v3", _) => "pre-trained with MoCo v3, without labels",
        _ => "pre-trained",
    })
}

fn victim(name: &str) -> &str {
    match name {
        "linear" => "a linear head on frozen features, trained to the minimum of its loss",
        "linear-sgd" => "a linear head on frozen features, trained by stochastic gradient descent",
        "knn" => "nearest neighbours among frozen features",
        "mlp" => "a small network on frozen features",
        "last-block" => "the head and the extractor's last block",
        "fine-tune" => "the head and the whole extractor, from its weights",
        "end-to-end" => "a network of the same architecture, from random weights",
        other => other,
    }
}

/// The name of a source of images; `text` is the source in the spec, as JSON.
pub fn source(text: &str) -> String {
    let value: Value = serde_json::from_str(text).unwrap_or(Value::Null);
    let name =
        value.as_str().map(str::to_owned).or_else(|| value.get("kind").map(crate::words::value)).unwrap_or_default();
    match (name.as_str(), value.get("domain").and_then(Value::as_str), value.get("path").and_then(Value::as_str)) {
        ("cifar10", ..) => "CIFAR-10".to_owned(),
        ("cifar100", ..) => "CIFAR-100".to_owned(),
        ("synthetic", Some(domain), _) => format!("synthetic pictures (domain {domain})"),
        (_, _, Some(path)) => format!("pictures of the folder {path}"),
        _ => name,
    }
}
