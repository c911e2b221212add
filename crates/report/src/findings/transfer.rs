//! F3: extractors from elsewhere are more fragile.

use super::{Comparison, Finding, Question, Unit};
use crate::{
    Case,
    case::{Pretraining, quantity},
};

const QUESTION: Question = Question {
    id: "F3",
    claim: "Transfer loses more accuracy than fine-tuning.",
    test: "For the same attack and way of pre-training, where either the pre-training or the downstream data are the same: the drop in \
           transfer is above that in fine-tuning, in points and as a share of the clean accuracy. Welch's t tests, one-sided, since \
           seeds of different data have nothing in common.",
    needs: "the same attack in a fine-tuning and in a transfer pipeline: report on both at once",
};

/// Of every fine-tuning and transfer case that agree in attack, victim and parameters of pre-training, and in one of the two sources,
/// `drop(transfer) - drop(fine-tuning) > 0`, in points and relative to the clean accuracy. Drops are those on images, where there
/// are any. Targets may differ: they are chosen for their setting.
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
            let rows = format!("{} against {}", moved.name, tuned.name);
            let quantities: [(crate::case::Quantity, _, _); 2] = [
                (quantity::drop, "drop in transfer − in fine-tuning", Unit::Points),
                (quantity::relative_drop, "relative drop in transfer − in fine-tuning", Unit::Percent),
            ];
            for (quantity, what, unit) in quantities {
                if let (Some(a), Some(b)) = (moved.mean(quantity), tuned.mean(quantity)) {
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

    #[test]
    fn both_drops_are_compared_where_data_are_shared() {
        let mut all = cases([0.60, 0.61, 0.60], [0.70, 0.71, 0.70]);
        assert_eq!(finding(&all).comparisons.len(), 2);
        all[0].rows.iter_mut().for_each(|r| r.params.get_mut("dataset.pretrain").unwrap()["source"] = json!("other"));
        assert!(finding(&all).comparisons.is_empty());
    }
}
