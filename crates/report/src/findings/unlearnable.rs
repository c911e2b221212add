//! F4: error-minimising noise works on end-to-end training, and hardly on a frozen extractor.

use super::{
    Finding, FindingComparison, Question, Unit,
    axis::{Axis, ask, grouped},
};
use crate::{ConfigGroup, config_group::quantity};
use hemlock_artifact::AttackId;

const QUESTION: Question = Question {
    id: "F4",
    claim: "Error-minimising noise hardly works on a frozen extractor, but works on end-to-end training.",
    test: "For noise of the same kind: the drop of an end-to-end victim, under noise that was crafted against \
           end-to-end training, is above 0; and a third of it is larger than the drop of a linear head on the frozen \
           extractor, both under that noise and under noise that was crafted against such a head. One-sided tests, \
           seed by seed.",
    needs: "error-minimising noise that was crafted against end-to-end training, with an end-to-end victim and with a \
            linear head on the frozen extractor",
};

/// The name of end-to-end training, as a victim and as a surrogate of the noise.
pub const END_TO_END: &str = "end-to-end";

/// The axis: the victim, the surrogate that noise is crafted against, and how this surrogate trains.
const AXIS: Axis = Axis::of(&["victim.", "surrogate", "train_steps", "learning_rate", "batch"]);

/// The surrogate that a configuration's noise is crafted against; `None` if the configuration is not noise.
pub fn surrogate_of(config: &ConfigGroup) -> Option<&str> {
    config.of_attack("surrogate")?.as_str()
}

/// Whether a configuration is error-minimising noise, which the claim is about.
fn minimises(config: &&ConfigGroup) -> bool {
    config.aim() == AttackId::ERROR_MINIMIZING
}

/// Groups the configurations of noise into kinds of noise, each with all surrogates and all victims.
pub fn kinds(configs: &[ConfigGroup]) -> Vec<Vec<&ConfigGroup>> {
    let is_noise = |config: &&ConfigGroup| AttackId::noise_label(config.aim()).is_some();
    let noise: Vec<&ConfigGroup> = configs.iter().filter(is_noise).collect();
    grouped(&noise, AXIS)
}

/// Compares configurations that differ in the victim and in the surrogate that the noise is crafted against. `drop(V on
/// S)` is the drop of the victim `V` with noise against the surrogate `S`.
///
/// 1. `drop(end-to-end on end-to-end) > 0`
/// 2. `drop(end-to-end on end-to-end) / 3 - drop(linear on S) > 0`, for both surrogates `S`
pub fn finding(configs: &[ConfigGroup]) -> Finding {
    let drop = quantity::drop_on_images;
    let of =
        |victim: &str| configs.iter().filter(minimises).filter(|c| c.victim() == victim).collect::<Vec<&ConfigGroup>>();
    let strong: Vec<&ConfigGroup> =
        of(END_TO_END).into_iter().filter(|c| surrogate_of(c) == Some(END_TO_END)).collect();
    let linear = of("linear");
    let asked = ask(&strong, &linear, AXIS);
    let mut comparisons = Vec::new();
    for group in asked.groups {
        for strong in group.left {
            if let Some(e) = strong.mean(drop) {
                let what = "drop of the end-to-end victim";
                comparisons.push(FindingComparison::of(strong.remarked_name(), what, Unit::Points, e));
            }
            for frozen in &group.right {
                if let Some(e) = strong.combined(drop, frozen, drop, |strong, frozen| strong / 3.0 - frozen) {
                    let rows = format!("{} against {}", strong.remarked_name(), frozen.remarked_name());
                    let what = "a third of the drop of the end-to-end victim − drop on the frozen extractor";
                    comparisons.push(FindingComparison::of(rows, what, Unit::Points, e));
                }
            }
        }
    }
    let sides = [
        ("end-to-end victim under noise that was crafted against end-to-end training", strong.len()),
        ("linear head on the frozen extractor under noise", linear.len()),
    ];
    QUESTION.judged(comparisons).beside(asked.apart, &sides, &QUESTION)
}

#[cfg(test)]
mod tests {
    use super::super::{Verdict, testing::made_up};
    use super::*;
    use serde_json::json;

    fn noise(victim: &str, against: &str, images: [f64; 3]) -> ConfigGroup {
        let params = json!({ "surrogate": against, "batch": if against == "frozen" { 128 } else { 64 } });
        made_up("error-minimizing + sample-wise").victim(victim).with("unlearnable", params).images(images).config()
    }

    fn configs(frozen: [f64; 3], end_to_end: [f64; 3]) -> Vec<ConfigGroup> {
        vec![noise("linear", "end-to-end", frozen), noise("end-to-end", "end-to-end", end_to_end)]
    }

    #[test]
    fn all_three_verdicts() {
        let verdict = |frozen, end_to_end| finding(&configs(frozen, end_to_end)).verdict;
        assert_eq!(verdict([0.79, 0.80, 0.79], [0.30, 0.31, 0.30]), Verdict::Confirmed);
        assert_eq!(verdict([0.40, 0.41, 0.40], [0.30, 0.31, 0.30]), Verdict::Contradicted);
        assert_eq!(verdict([0.70, 0.60, 0.65], [0.30, 0.31, 0.30]), Verdict::Undecided);
        assert!(finding(&configs([0.8; 3], [0.3; 3])[..1]).comparisons.is_empty());
    }

    #[test]
    fn noise_against_the_frozen_extractor_counts_too() {
        let mut all = configs([0.79, 0.80, 0.79], [0.30, 0.31, 0.30]);
        all.push(noise("linear", "frozen", [0.40, 0.41, 0.40]));
        let found = finding(&all);
        assert_eq!((found.comparisons.len(), found.verdict), (3, Verdict::Contradicted));
    }

    /// Noise with another objective says nothing about the claim, and has a row of its own in the table.
    #[test]
    fn bait_is_noise_that_the_claim_is_not_about() {
        let mut all = configs([0.79, 0.80, 0.79], [0.30, 0.31, 0.30]);
        let params = json!({ "surrogate": "frozen", "attack": "bait" });
        let bait = made_up("bait + sample-wise").victim("linear").with("unlearnable", params);
        all.push(bait.images([0.10, 0.11, 0.10]).config());
        let found = finding(&all);
        assert_eq!((found.comparisons.len(), found.verdict), (2, Verdict::Confirmed));
        assert_eq!(kinds(&all).iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
    }
}
