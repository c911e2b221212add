//! F3: transfer loses more accuracy than fine-tuning.

use super::{
    Apart, Comparison, Finding, Question, Unit,
    axis::{Axis, ask},
};
use crate::{
    Case,
    case::{Pretraining, quantity},
};
use std::collections::BTreeSet;

const QUESTION: Question = Question {
    id: "F3",
    claim: "Transfer loses more accuracy than fine-tuning.",
    test: "For attacks that are equal in all but the data, and cost at least a point in one of the two. Where heads \
           train on the same images of extractors that were pre-trained on different ones: the drop in transfer is \
           above that in fine-tuning, in points. Where one way of pre-training meets different \
           downstream data: the same of the drop as a share of what the clean victim has above chance, drop / (clean \
           − 1/K) with K classes, since points of other data are no yardstick. \
           One-sided tests: seed by seed where heads train on the same images, of two samples otherwise.",
    needs: "the same attack, of at least a point, in a fine-tuning and in a transfer pipeline: report on both at once",
};

/// The least drop of an attack, in one of the two cases, that is compared.
const ASKED: f64 = 0.01;

/// The axis of pre-training: the images that the extractor was pre-trained on.
const EXTRACTOR: Axis = Axis(&["dataset.pretrain.source", "dataset.pretrain.classes"]);
/// The axis of downstream data: the images that the head is trained on.
const DOWNSTREAM: Axis = Axis(&["dataset.downstream.source", "dataset.downstream.classes"]);

/// Pairs of a transfer case and a fine-tuning case that differ in one source alone. The third value says whether this
/// is the source of pre-training, so that heads are trained on the same images. Also returns the most similar cases of
/// those without a partner.
pub(super) fn pairs<'c>(moved: &[&'c Case], tuned: &[&'c Case]) -> (Vec<(&'c Case, &'c Case, bool)>, Vec<Apart>) {
    let (extractor, downstream) = (ask(moved, tuned, EXTRACTOR), ask(moved, tuned, DOWNSTREAM));
    let mut pairs: Vec<(&Case, &Case, bool)> = Vec::new();
    for (groups, same_images) in [(extractor.groups, true), (downstream.groups, false)] {
        for group in groups {
            let all = group.left.iter().flat_map(|moved| group.right.iter().map(move |tuned| (*moved, *tuned)));
            pairs.extend(all.map(|(moved, tuned)| (moved, tuned, same_images)));
        }
    }
    // A case that is compared along one axis is not missing along the other.
    let compared = |name: &str| pairs.iter().any(|(moved, tuned, _)| moved.name == name || tuned.name == name);
    let mut apart = extractor.apart;
    apart.extend(downstream.apart);
    apart.retain(|a| !compared(&a.left) && !compared(&a.right));
    // If a pair is listed for both axes, the one with fewer differences is kept.
    apart.sort_by_key(|a| a.differ.len());
    let mut told = BTreeSet::new();
    apart.retain(|a| told.insert((a.left.clone(), a.right.clone())));
    (pairs, apart)
}

/// Compares every transfer case with every fine-tuning case that differs from it in one source alone:
///
/// 1. in the source of pre-training: `drop(transfer) - drop(fine-tuning) > 0`
/// 2. in the source of downstream data: the same for [`quantity::share_above_chance`]
///
/// Drops are those on images, or on features if there are no images. Pairs of which both drops are below [`ASKED`] are
/// left out.
pub fn finding(cases: &[Case]) -> Finding {
    let of = |kind: Pretraining| cases.iter().filter(|c| c.pretraining() == kind).collect::<Vec<&Case>>();
    let (moved, tuned) = (of(Pretraining::Transfer), of(Pretraining::FineTuning));
    let (pairs, apart) = pairs(&moved, &tuned);
    let costs = |c: &Case| c.mean(quantity::drop).is_some_and(|e| e.mean >= ASKED);
    let mut comparisons = Vec::new();
    for (moved, tuned, same_images) in pairs.into_iter().filter(|(moved, tuned, _)| costs(moved) || costs(tuned)) {
        let rows = format!("{} against {}", moved.told_name(), tuned.told_name());
        let share = quantity::share_above_chance;
        if same_images {
            let e = moved.minus(quantity::drop, tuned, quantity::drop);
            let what = "drop in transfer − in fine-tuning, same downstream images";
            comparisons.extend(e.map(|e| Comparison::paired(rows, what, Unit::Points, e)));
        } else if let (Some(a), Some(b)) = (moved.mean(share), tuned.mean(share)) {
            let what = "drop as a share of what is above chance, in transfer − in fine-tuning";
            comparisons.push(Comparison::independent(rows, what, Unit::Percent, &a, &b));
        }
    }
    let sides = [("fine-tuning result", tuned.len()), ("transfer result", moved.len())];
    QUESTION.judged(comparisons).beside(apart, &sides, &QUESTION)
}

#[cfg(test)]
mod tests {
    use super::super::{Verdict, testing::made_up};
    use super::*;
    use serde_json::json;

    fn cases(transfer: [f64; 3], tuned: [f64; 3]) -> Vec<Case> {
        let setting = |source: &str, images| {
            made_up("bilevel + feature-matching")
                .with("pretrain", json!({ "method": "simclr" }))
                .with("dataset.pretrain", json!({ "source": "cifar10" }))
                .with("dataset.downstream", json!({ "source": source }))
                .images(images)
                .case()
        };
        vec![setting("cifar100", transfer), setting("cifar10", tuned)]
    }

    #[test]
    fn all_three_verdicts() {
        let verdict = |transfer, tuned| finding(&cases(transfer, tuned)).verdict;
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
                .case()
        };
        // Seeds vary far more than the two sides differ.
        let all = [on("cifar100", [0.50, 0.60, 0.70]), on("cifar10", [0.52, 0.61, 0.72])];
        assert_eq!(finding(&all).verdict, Verdict::Confirmed);
    }

    #[test]
    fn other_data_is_compared_by_shares_and_attacks_that_cost_nothing_are_left_out() {
        let mut all = cases([0.60, 0.61, 0.60], [0.70, 0.71, 0.70]);
        assert_eq!(finding(&all).comparisons.len(), 1);
        // Clean accuracy is 0.8.
        assert!(finding(&cases([0.795; 3], [0.793; 3])).comparisons.is_empty(), "attacks that cost nothing");
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
                .case()
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
                .case()
        };
        let found = finding(&[with("cifar10", 0.3), with("cifar100", 0.5)]);
        assert!(found.comparisons.is_empty());
        let whys: Vec<String> = found.apart.iter().map(Apart::why).collect();
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
                .case()
                .pretraining()
        };
        assert_eq!([on("fine"), on("coarse")], [Pretraining::FineTuning; 2]);
    }

    #[test]
    fn seeds_share_an_extractor_unless_its_images_are_their_own() {
        let shared = |dataset: &'static str, seed: serde_json::Value| {
            made_up("bilevel + feature-matching")
                .with("pretrain", json!({ "method": "simclr" }))
                .with("dataset.downstream", json!({ "source": "cifar10", "seed": "run" }))
                .with(dataset, json!({ "source": "cifar10", "seed": seed }))
                .case()
                .shares_extractor()
        };
        assert!(shared("dataset.pretrain", json!(0)));
        assert!(!shared("dataset.pretrain", json!("run")));
        assert!(!shared("dataset.downstream", json!("run")), "it is trained on the downstream images");
        assert!(shared("dataset.downstream", json!(0)));
    }
}
