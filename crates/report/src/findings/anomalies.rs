//! F6-anomalies: under transfer, some matched poisons are outliers.

use super::{Finding, FindingComparison, Question, Unit, transfer::pairs};
use crate::{
    ConfigGroup,
    config_group::{PretrainingKind, Quantity, quantity},
    words,
};
use hemlock_pipeline::ResultRow;

const TEST: &str = "For images without a limit on pixels: under transfer, the share of outliers among the poisons is \
                    larger than among clean test samples, by the same rule (paired t test); and larger than among the \
                    images of the same attack in fine-tuning, if the two are equal in everything but the data (paired \
                    if the downstream images are the same, otherwise as by Welch). The names of results give the share \
                    among the poisoned features as well. One-sided tests.";

const QUESTION: Question = Question {
    id: "F6-anomalies",
    claim: "Under transfer, more than in fine-tuning, some matched poisons are anomalous.",
    test: TEST,
    needs: "images by a decoder or by matching without refinement, without a limit, in a transfer pipeline and in a \
            fine-tuning one",
};

const REFINED: Question = Question {
    id: "F6-anomalies-refined",
    claim: "Under transfer, more than in fine-tuning, some refined poisons are anomalous.",
    test: TEST,
    needs: "images by matching with refinement, without a limit, in a transfer pipeline and in a fine-tuning one",
};

/// Tests decoders and matching alone.
pub fn finding(configs: &[ConfigGroup]) -> Finding {
    unusual(configs, &QUESTION, ConfigGroup::inverted)
}

/// Tests matching that is refined.
pub fn of_refined(configs: &[ConfigGroup]) -> Finding {
    unusual(configs, &REFINED, ConfigGroup::refined_from_matched)
}

/// Compares, for unlimited images in transfer:
///
/// 1. `outliers(images) - outliers(clean test samples) > 0`
/// 2. `outliers(images, transfer) - outliers(images, fine-tuning) > 0`, if the two are equal in everything but one
///    source
fn unusual(configs: &[ConfigGroup], question: &Question, of: fn(&ConfigGroup) -> bool) -> Finding {
    let made: Vec<&ConfigGroup> =
        configs.iter().filter(|c| of(c) && c.unlimited() && c.mean(quantity::outliers).is_some()).collect();
    let of = |kind| made.iter().copied().filter(|c| c.pretraining() == kind).collect::<Vec<&ConfigGroup>>();
    let (moved, tuned) = (of(PretrainingKind::Transfer), of(PretrainingKind::FineTuning));
    let mut comparisons = Vec::new();
    for config in &moved {
        let excess = |r: &ResultRow| Some(quantity::outliers(r)? - r.clean_outliers?);
        if let Some(e) = config.mean(excess) {
            let what = "share of outliers among the poisons − among clean test samples";
            comparisons.push(FindingComparison::of(named(config), what, Unit::Points, e));
        }
    }
    let (pairs, apart) = pairs(&moved, &tuned);
    for (moved, tuned, same_images) in pairs {
        let rows = format!("{} against {}", named(moved), named(tuned));
        let what = "share of outliers among the poisons, in transfer − in fine-tuning";
        let e = if same_images {
            moved.minus(quantity::outliers, tuned, quantity::outliers)
        } else {
            moved.minus_other_data(quantity::outliers, tuned)
        };
        comparisons.extend(e.map(|e| FindingComparison::of(rows, what, Unit::Points, e)));
    }
    let sides = [("set of images in transfer", moved.len()), ("set of images in fine-tuning", tuned.len())];
    question.judged(comparisons).beside(apart, &sides, question)
}

/// The name of a configuration, with the shares of outliers among its images and among its poisoned features.
fn named(config: &ConfigGroup) -> String {
    let share = |q: Quantity| config.mean(q).map(|e| format!("{} %", words::number(100.0 * e.mean, 1)));
    let of_features = share(quantity::outliers_of_features).map(|s| format!(", {s} of the features"));
    let of_images = share(quantity::outliers).unwrap_or_default();
    format!("{} (outliers: {of_images} of the images{})", config.name, of_features.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::{Verdict, testing::made_up};
    use super::*;
    use serde_json::json;

    fn on(source: &str, making: &str, outliers: [f64; 3], clean: f64) -> ConfigGroup {
        made_up(&format!("bilevel + {making}"))
            .with("pretrain", json!({ "method": "simclr" }))
            .with("dataset.pretrain", json!({ "source": "cifar10" }))
            .with("dataset.downstream", json!({ "source": source }))
            .images([0.6; 3])
            .outliers(outliers, clean)
            .config()
    }

    #[test]
    fn outliers_are_compared_with_clean_samples() {
        let verdict = |clean| finding(&[on("cifar100", "feature-matching", [0.3, 0.31, 0.32], clean)]).verdict;
        assert_eq!((verdict(0.02), verdict(0.6)), (Verdict::Confirmed, Verdict::Contradicted));
    }

    /// If poisons are outliers in fine-tuning as well, this says nothing about transfer.
    #[test]
    fn outliers_are_compared_with_those_of_fine_tuning() {
        let with = |tuned| {
            let moved = on("cifar100", "feature-matching", [0.3, 0.31, 0.32], 0.02);
            finding(&[moved, on("cifar10", "feature-matching", tuned, 0.02)])
        };
        let found = with([0.02, 0.03, 0.01]);
        assert_eq!((found.comparisons.len(), found.verdict), (2, Verdict::Confirmed));
        assert_eq!(with([0.98, 0.97, 0.99]).verdict, Verdict::Contradicted);
    }

    #[test]
    fn refinement_is_asked_apart() {
        let configs = [on("cifar100", "refined", [0.3, 0.31, 0.32], 0.02)];
        assert!(finding(&configs).comparisons.is_empty());
        assert_eq!(of_refined(&configs).verdict, Verdict::Confirmed);
    }
}
