//! F4: unlearnable examples are learned by who does not learn features.

use super::{Comparison, Finding, Question, Unit, groups};
use crate::{Case, case::quantity};

const QUESTION: Question = Question {
    id: "F4",
    claim: "Error-minimising noise hardly works on a frozen extractor, but works on end-to-end training.",
    test: "For the same noise, made against end-to-end training: the drop of an end-to-end victim is above 0, and the drop of a linear \
           head on the frozen extractor below a third of it. Paired t tests over seeds, one-sided.",
    needs: "error-minimising noise, with a linear victim on the frozen extractor and an end-to-end one",
};

/// Name of the attack.
pub const NOISE: &str = "error-minimizing";
/// Victim that trains the whole network.
pub const END_TO_END: &str = "end-to-end";

/// Of cases that differ in the victim alone, with noise that was made against end-to-end training (or against whatever, where it does not say):
///
/// 1. `drop(end-to-end) > 0`
/// 2. `drop(end-to-end) / 3 - drop(linear, frozen) > 0`
pub fn finding(cases: &[Case]) -> Finding {
    let alike = |case: &Case| {
        let noise = case.aim() == NOISE && case.parameter("unlearnable", "against").is_none_or(|a| a == END_TO_END);
        noise.then(|| case.text(|node, _| node != "evaluate"))
    };
    let mut comparisons = Vec::new();
    for group in groups(cases, alike) {
        let end_to_end = group.iter().find(|c| c.victim() == END_TO_END);
        let frozen = group.iter().find(|c| c.victim() == "linear");
        let (Some(end_to_end), Some(frozen)) = (end_to_end, frozen) else { continue };
        let drop = quantity::drop_on_images;
        if let Some(e) = end_to_end.mean(drop) {
            comparisons.push(Comparison::paired(
                end_to_end.name.clone(),
                "drop of the end-to-end victim",
                Unit::Points,
                e,
            ));
        }
        if let Some(e) = end_to_end.combined(drop, frozen, drop, |end_to_end, frozen| end_to_end / 3.0 - frozen) {
            let rows = format!("{} against {}", end_to_end.name, frozen.name);
            let what = "a third of the drop of the end-to-end victim − drop on the frozen extractor";
            comparisons.push(Comparison::paired(rows, what, Unit::Points, e));
        }
    }
    QUESTION.judged(comparisons)
}

#[cfg(test)]
mod tests {
    use super::super::{Verdict, testing::made_up};
    use super::*;
    use serde_json::json;

    fn cases(frozen: [f64; 3], end_to_end: [f64; 3]) -> Vec<Case> {
        let noise = |victim: &str, images| {
            let evaluate = json!({ "victim": victim });
            made_up("error-minimizing + sample-wise").with("evaluate", evaluate).images(images).case()
        };
        vec![noise("exact", frozen), noise("end-to-end", end_to_end)]
    }

    #[test]
    fn all_three_verdicts() {
        let verdict = |frozen, end_to_end| finding(&cases(frozen, end_to_end)).verdict;
        assert_eq!(verdict([0.79, 0.80, 0.79], [0.30, 0.31, 0.30]), Verdict::Confirmed);
        assert_eq!(verdict([0.40, 0.41, 0.40], [0.30, 0.31, 0.30]), Verdict::Contradicted);
        assert_eq!(verdict([0.70, 0.60, 0.65], [0.30, 0.31, 0.30]), Verdict::Undecided);
        assert!(finding(&cases([0.8; 3], [0.3; 3])[..1]).comparisons.is_empty());
    }
}
