//! F3: extractors from elsewhere are more fragile.

use super::{Comparison, Finding, Question, Unit};
use crate::{
    Case,
    case::{Pretraining, quantity},
};

const QUESTION: Question = Question {
    id: "F3",
    claim: "Transfer loses more accuracy than fine-tuning.",
    test: "For the same attack and way of pre-training, where either the pre-training or the downstream data are the same, and the attack \
           costs at least a point in one of the two: the drop in transfer is above that in fine-tuning, in points and as a share of the \
           clean accuracy. One-sided tests: seed by seed where heads train on the same images, of two samples otherwise, since seeds of \
           different data have nothing in common.",
    needs: "the same attack, of at least a point, in a fine-tuning and in a transfer pipeline: report on both at once",
};

/// Of attacks that cost less in both, nothing can be compared.
const ASKED: f64 = 0.01;

/// Of every fine-tuning and transfer case that agree in attack, victim and parameters of pre-training, and in one of the two sources,
/// `drop(transfer) - drop(fine-tuning) > 0`, in points and relative to the clean accuracy. Drops are those on images, where there
/// are any. Targets may differ: they are chosen for their setting. Attacks of less than [`ASKED`] in both are left out.
pub fn finding(cases: &[Case]) -> Finding {
    let attack = |node: &str, _: &str| !node.starts_with("dataset") && node != "target-params";
    let mut comparisons = Vec::new();
    for tuned in cases.iter().filter(|c| c.pretraining() == Pretraining::FineTuning) {
        let same_data = |c: &Case| c.pretrained_on() == tuned.pretrained_on() || c.downstream() == tuned.downstream();
        let alike = |c: &&Case| {
            c.pretraining() == Pretraining::Transfer
                && c.rows[0].attack == tuned.rows[0].attack
                && c.eps_d() == tuned.eps_d()
                && c.text(attack) == tuned.text(attack)
                && same_data(c)
        };
        for moved in cases.iter().filter(alike) {
            let costs = |c: &Case| c.mean(quantity::drop).is_some_and(|e| e.mean >= ASKED);
            if !costs(moved) && !costs(tuned) {
                continue;
            }
            let rows = format!("{} against {}", moved.name, tuned.name);
            let downstream = |c: &Case| c.text(|node, _| node == "dataset.downstream");
            let same_images = downstream(moved) == downstream(tuned);
            let quantities: [(crate::case::Quantity, _, _); 2] = [
                (quantity::drop, "drop in transfer − in fine-tuning", Unit::Points),
                (quantity::relative_drop, "relative drop in transfer − in fine-tuning", Unit::Percent),
            ];
            for (quantity, what, unit) in quantities {
                if same_images {
                    let paired = |e| Comparison::paired(rows.clone(), what, unit, e);
                    comparisons.extend(moved.minus(quantity, tuned, quantity).map(paired));
                } else if let (Some(a), Some(b)) = (moved.mean(quantity), tuned.mean(quantity)) {
                    comparisons.push(Comparison::independent(rows.clone(), what, unit, &a, &b));
                }
            }
        }
    }
    QUESTION.judged(comparisons)
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

    /// Extractors that were pre-trained on different images, and heads on the same.
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
        // Seeds vary far more than the difference does.
        let all = [on("cifar100", [0.50, 0.60, 0.70]), on("cifar10", [0.52, 0.61, 0.72])];
        assert_eq!(finding(&all).verdict, Verdict::Confirmed);
    }

    #[test]
    fn both_drops_are_compared_where_data_are_shared() {
        let mut all = cases([0.60, 0.61, 0.60], [0.70, 0.71, 0.70]);
        assert_eq!(finding(&all).comparisons.len(), 2);
        // Clean accuracy is 0.8.
        assert!(finding(&cases([0.795; 3], [0.793; 3])).comparisons.is_empty(), "attacks that cost nothing");
        all[0].rows.iter_mut().for_each(|r| r.params.get_mut("dataset.pretrain").unwrap()["source"] = json!("other"));
        assert!(finding(&all).comparisons.is_empty());
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
