//! F6: a larger `beta` gives cleaner images and a weaker attack.

use super::{
    Finding, FindingComparison, Question, Unit,
    axis::{Axis, sweeps},
};
use crate::{
    ConfigGroup,
    config_group::{Quantity, quantity},
};

const TEST: &str = "For each sweep over β: PSNR is higher and the drop is smaller at the largest β than at the \
                    smallest. With three values or more, the least-squares slopes of PSNR and of the accuracy of the \
                    victim over the order of β are above 0 as well. One-sided tests, seed by seed.";

const QUESTION: Question = Question {
    id: "F6",
    claim: "A larger β in feature matching gives cleaner images and a weaker attack.",
    test: TEST,
    needs: "matching without refinement, with at least two values of β, equal in everything else, without an L∞ limit",
};

const REFINED: Question = Question {
    id: "F6-refined",
    claim: "A larger β in refinement gives cleaner images and a weaker attack.",
    test: TEST,
    needs: "matching with refinement, with at least two values of β, equal in everything else, without an L∞ limit",
};

const AXIS: Axis = Axis::of(&["beta"]);

/// Tests F6 on matching alone, as in the paper.
pub fn finding(configs: &[ConfigGroup]) -> Finding {
    traded(configs, &QUESTION, |c| c.making() == Some("feature-matching"))
}

/// Tests F6 on refined matching, where `beta` is weighed against the attack's own objective.
pub fn of_refined(configs: &[ConfigGroup]) -> Finding {
    traded(configs, &REFINED, ConfigGroup::refined_from_matched)
}

/// Compares configurations that differ in `beta` alone, without an L-infinity limit:
///
/// 1. `psnr(largest) - psnr(smallest) > 0` and `drop(smallest) - drop(largest) > 0`
/// 2. with three values or more: the slopes of PSNR and of accuracy over the order of `beta`, by least squares, are
///    above 0
fn traded(configs: &[ConfigGroup], question: &Question, of: fn(&ConfigGroup) -> bool) -> Finding {
    let made: Vec<&ConfigGroup> = configs.iter().filter(|c| of(c) && c.linf().is_none()).collect();
    let (swept, apart) = sweeps(&made, AXIS);
    let mut comparisons = Vec::new();
    for mut sweep in swept {
        sweep.sort_by(|a, b| a.beta().total_cmp(&b.beta()));
        let [low, .., high] = sweep.as_slice() else { continue };
        let ends = format!("{} against β = {}", high.name, low.beta());
        if let Some(e) = high.minus(quantity::psnr, low, quantity::psnr) {
            comparisons.push(FindingComparison::of(
                ends.clone(),
                "PSNR at the largest β − at the smallest",
                Unit::Decibels,
                e,
            ));
        }
        if let Some(e) = low.minus(quantity::drop_on_images, high, quantity::drop_on_images) {
            comparisons.push(FindingComparison::of(
                ends.clone(),
                "drop at the smallest β − at the largest",
                Unit::Points,
                e,
            ));
        }
        if sweep.len() > 2 {
            let all = format!("{}, {} values of β", low.name, sweep.len());
            let slopes: [(Quantity, _, _); 2] = [
                (quantity::psnr, "rise of PSNR from one β to the next", Unit::Decibels),
                (quantity::images, "rise of the victim's accuracy from one β to the next", Unit::Points),
            ];
            for (quantity, what, unit) in slopes {
                if let Some(e) = ConfigGroup::slope(&sweep, quantity) {
                    comparisons.push(FindingComparison::of(all.clone(), what, unit, e));
                }
            }
        }
    }
    let what = if question.id == REFINED.id { "matching that is refined" } else { "matching alone" };
    // A configuration with a single β has no partner; the most similar configuration differs in something else.
    question.judged(comparisons).beside(apart, &[(what, made.len())], question)
}

#[cfg(test)]
mod tests {
    use super::super::{Verdict, testing::made_up};
    use super::*;
    use hemlock_artifact::AttackId;
    use serde_json::json;

    fn sweep(psnr: [f64; 3], images: [[f64; 3]; 3]) -> Vec<ConfigGroup> {
        let betas = [0.0, 1.0, 10.0];
        let at = |i: usize| {
            let invert = json!({ "beta": betas[i], "linf": null });
            made_up("bilevel + feature-matching").with("invert", invert).images(images[i]).psnr(psnr[i]).config()
        };
        (0..3).map(at).collect()
    }

    #[test]
    fn all_three_verdicts() {
        let verdict = |psnr, images| finding(&sweep(psnr, images)).verdict;
        let weaker = [[0.50, 0.51, 0.50], [0.60, 0.61, 0.60], [0.70, 0.71, 0.72]];
        let stronger = [weaker[2], weaker[1], weaker[0]];
        assert_eq!(verdict([15.0, 20.0, 30.0], weaker), Verdict::Confirmed);
        assert_eq!(verdict([15.0, 20.0, 30.0], stronger), Verdict::Contradicted);
        let noisy = [[0.50, 0.70, 0.60], [0.65, 0.61, 0.60], [0.70, 0.55, 0.68]];
        assert_eq!(verdict([15.0, 20.0, 30.0], noisy), Verdict::Undecided);
    }

    /// In refinement, `beta` is weighed against the attack's own objective.
    #[test]
    fn refinement_is_asked_apart() {
        let weaker = [[0.50, 0.51, 0.50], [0.60, 0.61, 0.60], [0.70, 0.71, 0.72]];
        let mut all = sweep([15.0, 20.0, 30.0], weaker);
        assert!(of_refined(&all).comparisons.is_empty());
        all.iter_mut().for_each(|c| c.rows.iter_mut().for_each(|r| r.attack = AttackId::by("bilevel", "refined")));
        assert!(finding(&all).comparisons.is_empty());
        assert_eq!(of_refined(&all).verdict, Verdict::Confirmed);
        assert!(finding(&all).reason.contains("missing: matching alone"), "{}", finding(&all).reason);
    }

    #[test]
    fn what_differs_in_more_than_beta_is_told() {
        let mut all = sweep([15.0, 20.0, 30.0], [[0.5; 3]; 3]);
        all[0].rows.iter_mut().for_each(|r| r.deciding.get_mut("invert").unwrap()["tolerance"] = json!(0.1));
        let found = finding(&all);
        assert_eq!(found.apart.len(), 1);
        assert_eq!(found.apart[0].why(), "invert.tolerance: 0.1 against none");
    }
}
