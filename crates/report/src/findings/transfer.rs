//! F3: transfer loses more accuracy than fine-tuning.

use super::{
    Finding, FindingComparison, IncomparablePair, Question, Unit,
    axis::{Axis, ask},
};
use crate::{
    ConfigGroup,
    config_group::{PretrainingKind, quantity},
};
use std::collections::BTreeSet;

const QUESTION: Question = Question {
    id: "F3",
    claim: "Transfer loses more accuracy than fine-tuning.",
    test: "Attacks are compared that are equal in everything but the data, and raise the victim's loss on clean \
           training data by at least a twentieth in one of the two settings. If heads train on the same images, with extractors that were pre-trained on different images: the \
           drop in transfer is larger than the drop in fine-tuning, in points. If the extractor is the same and the \
           downstream data differ: the same for the drop as a share of the accuracy of the clean victim above chance, \
           drop / (clean − 1/K) with K classes, because points on different data cannot be compared. One-sided tests: \
           seed by seed if heads train on the same images, otherwise for two samples.",
    needs: "the same attack in a fine-tuning and in a transfer pipeline, reported together, which raises the loss on \
            clean training data by a twentieth",
};

/// The axis of pre-training: the images that the extractor was pre-trained on.
const EXTRACTOR: Axis = Axis::of(&["dataset.pretrain.source", "dataset.pretrain.classes"]);
/// The axis of downstream data: the images that the head is trained on.
const DOWNSTREAM: Axis = Axis::of(&["dataset.downstream.source", "dataset.downstream.classes"]);

/// Pairs of a transfer configuration and a fine-tuning configuration that differ in one source alone. The third value
/// says whether this is the source of pre-training, so that heads are trained on the same images. Also returns the most
/// similar configurations of those without a partner.
pub(super) fn pairs<'c>(
    moved: &[&'c ConfigGroup],
    tuned: &[&'c ConfigGroup],
) -> (Vec<(&'c ConfigGroup, &'c ConfigGroup, bool)>, Vec<IncomparablePair>) {
    let (extractor, downstream) = (ask(moved, tuned, EXTRACTOR), ask(moved, tuned, DOWNSTREAM));
    let mut pairs: Vec<(&ConfigGroup, &ConfigGroup, bool)> = Vec::new();
    for (groups, same_images) in [(extractor.groups, true), (downstream.groups, false)] {
        for group in groups {
            let all = group.left.iter().flat_map(|moved| group.right.iter().map(move |tuned| (*moved, *tuned)));
            pairs.extend(all.map(|(moved, tuned)| (moved, tuned, same_images)));
        }
    }
    // A configuration that is compared along one axis is not missing along the other.
    let compared = |name: &str| pairs.iter().any(|(moved, tuned, _)| moved.name == name || tuned.name == name);
    let mut apart = extractor.apart;
    apart.extend(downstream.apart);
    apart.retain(|a| !compared(&a.left) && !compared(&a.right));
    // If a pair is listed for both axes, the one with fewer differences is kept.
    apart.sort_by_key(|a| a.differ.len());
    let mut listed = BTreeSet::new();
    apart.retain(|a| listed.insert((a.left.clone(), a.right.clone())));
    (pairs, apart)
}

/// Compares every transfer configuration with every fine-tuning configuration that differs from it in one source alone:
///
/// 1. in the source of pre-training: `drop(transfer) - drop(fine-tuning) > 0`
/// 2. in the source of downstream data: the same for [`quantity::share_above_chance`]
///
/// Drops are those on images, or on features if there are no images. Pairs of which neither
/// attack works ([`ConfigGroup::works`]) are left out.
pub fn finding(configs: &[ConfigGroup]) -> Finding {
    let of = |kind: PretrainingKind| configs.iter().filter(|c| c.pretraining() == kind).collect::<Vec<&ConfigGroup>>();
    let (moved, tuned) = (of(PretrainingKind::Transfer), of(PretrainingKind::FineTuning));
    let (pairs, apart) = pairs(&moved, &tuned);
    let works = |c: &ConfigGroup| c.works(quantity::rise);
    let mut comparisons = Vec::new();
    for (moved, tuned, same_images) in pairs.into_iter().filter(|(moved, tuned, _)| works(moved) || works(tuned)) {
        let rows = format!("{} against {}", moved.remarked_name(), tuned.remarked_name());
        let compared = if same_images {
            let e = moved.minus(quantity::drop, tuned, quantity::drop);
            let what = "drop in transfer − in fine-tuning, same downstream images";
            e.map(|e| FindingComparison::of(rows, what, Unit::Points, e))
        } else {
            let e = moved.minus_other_data(quantity::share_above_chance, tuned);
            let what = "drop as a share of the accuracy above chance, in transfer − in fine-tuning";
            e.map(|e| FindingComparison::of(rows, what, Unit::Percent, e))
        };
        comparisons.extend(compared);
    }
    let sides = [("fine-tuning result", tuned.len()), ("transfer result", moved.len())];
    QUESTION.judged(comparisons).beside(apart, &sides, &QUESTION)
}

#[cfg(test)]
mod tests {
    use super::super::{Verdict, testing::made_up};
    use super::*;
    use serde_json::json;

    fn configs(transfer: [f64; 3], tuned: [f64; 3]) -> Vec<ConfigGroup> {
        let setting = |source: &str, images| {
            made_up("bilevel + feature-matching")
                .with("pretrain", json!({ "method": "simclr" }))
                .with("dataset.pretrain", json!({ "source": "cifar10" }))
                .with("dataset.downstream", json!({ "source": source }))
                .images(images)
                .config()
        };
        vec![setting("cifar100", transfer), setting("cifar10", tuned)]
    }

    #[test]
    fn all_three_verdicts() {
        let verdict = |transfer, tuned| finding(&configs(transfer, tuned)).verdict;
        assert_eq!(verdict([0.60, 0.61, 0.60], [0.70, 0.71, 0.70]), Verdict::Confirmed);
        assert_eq!(verdict([0.70, 0.71, 0.70], [0.60, 0.61, 0.60]), Verdict::Contradicted);
        assert_eq!(verdict([0.70, 0.60, 0.65], [0.66, 0.67, 0.70]), Verdict::Undecided);
    }

    /// Extractors that were pre-trained on different images; heads that are trained on the same images.
    #[test]
    fn seeds_of_the_same_images_are_paired() {
        let on = |source: &str, images: [f64; 3]| {
            made_up("bilevel + feature-matching")
                .with("pretrain", json!({ "method": "simclr" }))
                .with("dataset.pretrain", json!({ "source": source }))
                .with("dataset.downstream", json!({ "source": "cifar10" }))
                .images(images)
                .config()
        };
        // Seeds vary far more than the two sides differ.
        let all = [on("cifar100", [0.50, 0.60, 0.70]), on("cifar10", [0.52, 0.61, 0.72])];
        assert_eq!(finding(&all).verdict, Verdict::Confirmed);
    }

    #[test]
    fn other_data_is_compared_by_shares_and_attacks_that_cost_nothing_are_left_out() {
        let mut all = configs([0.60, 0.61, 0.60], [0.70, 0.71, 0.70]);
        assert_eq!(finding(&all).comparisons.len(), 1);
        // Clean accuracy is 0.8.
        assert!(finding(&configs([0.795; 3], [0.793; 3])).comparisons.is_empty(), "attacks that cost nothing");
        all[0].rows.iter_mut().for_each(|r| r.params.get_mut("dataset.pretrain").unwrap()["source"] = json!("other"));
        assert!(finding(&all).comparisons.is_empty());
    }

    /// A victim with little accuracy to lose loses few points. Here fine-tuning costs 60 % of the accuracy, and
    /// transfer costs all that is above chance.
    #[test]
    fn points_of_other_data_contradict_nothing() {
        let on = |source: &str, (clean, classes), images| {
            made_up("bilevel + feature-matching")
                .with("pretrain", json!({ "method": "simclr" }))
                .with("dataset.pretrain", json!({ "source": "cifar10" }))
                .with("dataset.downstream", json!({ "source": source }))
                .clean(clean, classes)
                .images(images)
                .config()
        };
        let tuned = on("cifar10", (0.5085, 10), [0.20, 0.201, 0.199]);
        let moved = on("cifar100", (0.1965, 100), [0.01, 0.011, 0.009]);
        let found = finding(&[tuned, moved]);
        assert_eq!(found.verdict, Verdict::Confirmed, "{}", found.reason);
        let difference = found.comparisons[0].difference;
        assert!((difference - (1.0 - 0.3085 / 0.4085)).abs() < 1e-9, "{difference}");
    }

    /// Pairs that differ in a target or a poison fraction are not compared.
    #[test]
    fn what_differs_in_more_than_data_is_told() {
        let with = |source: &str, radius: f64| {
            made_up("gradient-canceling + feature-matching")
                .with("pretrain", json!({ "method": "simclr" }))
                .with("dataset.pretrain", json!({ "source": "cifar10" }))
                .with("dataset.downstream", json!({ "source": source }))
                .with("target-params", json!({ "radius": radius, "weight_decay": 1e-4 }))
                .images([0.5, 0.51, 0.5])
                .config()
        };
        let found = finding(&[with("cifar10", 0.3), with("cifar100", 0.5)]);
        assert!(found.comparisons.is_empty());
        let whys: Vec<String> = found.apart.iter().map(IncomparablePair::why).collect();
        assert!(whys.contains(&"target-params.radius: 0.5 against 0.3".to_owned()), "{whys:?}");
    }

    /// The images with coarse labels are the same images.
    #[test]
    fn labels_make_no_transfer() {
        let on = |labels: &str| {
            made_up("bilevel")
                .with("pretrain", json!({ "method": "simclr" }))
                .with("dataset.pretrain", json!({ "source": { "kind": "cifar100", "labels": "fine" } }))
                .with("dataset.downstream", json!({ "source": { "kind": "cifar100", "labels": labels } }))
                .config()
                .pretraining()
        };
        assert_eq!([on("fine"), on("coarse")], [PretrainingKind::FineTuning; 2]);
    }

    #[test]
    fn seeds_share_an_extractor_unless_its_images_are_their_own() {
        let shared = |dataset: &'static str, seed: serde_json::Value| {
            made_up("bilevel + feature-matching")
                .with("pretrain", json!({ "method": "simclr" }))
                .with("dataset.downstream", json!({ "source": "cifar10", "seed": "run" }))
                .with(dataset, json!({ "source": "cifar10", "seed": seed }))
                .config()
                .shares_extractor()
        };
        assert!(shared("dataset.pretrain", json!(0)));
        assert!(!shared("dataset.pretrain", json!("run")));
        assert!(!shared("dataset.downstream", json!("run")), "it is trained on the downstream images");
        assert!(shared("dataset.downstream", json!(0)));
    }
}
