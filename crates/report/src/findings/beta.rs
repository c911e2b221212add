//! F6: who wants to look clean gives up strength, and far-fetched features stand out.

use super::{Comparison, Finding, Question, Unit, groups};
use crate::{
    Case,
    case::{Pretraining, Quantity, quantity},
};
use std::collections::BTreeMap;

const QUESTION: Question = Question {
    id: "F6",
    claim: "Larger β: cleaner images, weaker attack. Under transfer, some matched poisons are anomalous.",
    test: "For each sweep over β: PSNR rises and the drop falls from the smallest β to the largest and, with \
           three or more, along all of them (the slope over their order, by least squares). For each inversion without a limit under transfer: the share of \
           outliers among the poisons is above that among clean test samples, by the same rule. One-sided tests, seed by seed.",
    needs: "inversions with at least two values of β, or a transfer pipeline with inverted images",
};

/// Of cases that differ in beta alone, without L∞:
///
/// 1. `psnr(largest) - psnr(smallest) > 0` and `drop(smallest) - drop(largest) > 0`
/// 2. with three values or more, the slopes of PSNR and of accuracy over the order of beta, by least squares, above 0
///
/// and of transfer cases without a limit: `outliers(poisons) - outliers(clean test samples) > 0`.
pub fn finding(cases: &[Case], clean_outliers: &BTreeMap<String, f64>) -> Finding {
    let alike = |case: &Case| {
        let inverted = case.making() == Some("feature-matching") && case.linf().is_none();
        inverted.then(|| case.text(|_, field| field != "beta"))
    };
    let mut comparisons = Vec::new();
    for mut sweep in groups(cases, alike) {
        sweep.sort_by(|a, b| a.beta().total_cmp(&b.beta()));
        let [low, .., high] = sweep.as_slice() else { continue };
        let ends = format!("{} against β = {}", high.name, low.beta());
        if let Some(e) = high.minus(quantity::psnr, low, quantity::psnr) {
            comparisons.push(Comparison::paired(
                ends.clone(),
                "PSNR at the largest β − at the smallest",
                Unit::Decibels,
                e,
            ));
        }
        if let Some(e) = low.minus(quantity::drop_on_images, high, quantity::drop_on_images) {
            comparisons.push(Comparison::paired(
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
                if let Some(e) = Case::slope(&sweep, quantity) {
                    comparisons.push(Comparison::paired(all.clone(), what, unit, e));
                }
            }
        }
    }
    for case in cases.iter().filter(|c| c.pretraining() == Pretraining::Transfer && c.unlimited() && !c.on_pixels()) {
        let excess = |r: &hemlock_pipeline::Row| Some(quantity::outliers(r)? - clean_outliers.get(&r.key)?);
        if let Some(e) = case.mean(excess) {
            let what = "share of outliers among the poisons − among clean test samples";
            comparisons.push(Comparison::paired(case.name.clone(), what, Unit::Points, e));
        }
    }
    QUESTION.judged(comparisons)
}

#[cfg(test)]
mod tests {
    use super::super::{Verdict, testing::made_up};
    use super::*;
    use serde_json::json;

    fn sweep(psnr: [f64; 3], images: [[f64; 3]; 3]) -> Vec<Case> {
        let betas = [0.0, 1.0, 10.0];
        let at = |i: usize| {
            let invert = json!({ "beta": betas[i], "linf": null });
            made_up("bilevel + feature-matching").with("invert", invert).images(images[i]).psnr(psnr[i]).case()
        };
        (0..3).map(at).collect()
    }

    #[test]
    fn all_three_verdicts() {
        let verdict = |psnr, images| finding(&sweep(psnr, images), &BTreeMap::new()).verdict;
        let weaker = [[0.50, 0.51, 0.50], [0.60, 0.61, 0.60], [0.70, 0.71, 0.72]];
        let stronger = [weaker[2], weaker[1], weaker[0]];
        assert_eq!(verdict([15.0, 20.0, 30.0], weaker), Verdict::Confirmed);
        assert_eq!(verdict([15.0, 20.0, 30.0], stronger), Verdict::Contradicted);
        let noisy = [[0.50, 0.70, 0.60], [0.65, 0.61, 0.60], [0.70, 0.55, 0.68]];
        assert_eq!(verdict([15.0, 20.0, 30.0], noisy), Verdict::Undecided);
    }

    #[test]
    fn outliers_are_compared_with_clean_samples_under_transfer() {
        let transfer = made_up("bilevel + feature-matching")
            .with("pretrain", json!({ "method": "simclr" }))
            .with("dataset.pretrain", json!({ "source": "cifar10" }))
            .with("dataset.downstream", json!({ "source": "cifar100" }))
            .images([0.6; 3])
            .outliers([0.3, 0.31, 0.32])
            .case();
        let clean = |share: f64| transfer.rows.iter().map(|r| (r.key.clone(), share)).collect::<BTreeMap<_, _>>();
        let verdict = |share| finding(std::slice::from_ref(&transfer), &clean(share)).verdict;
        assert_eq!((verdict(0.02), verdict(0.6)), (Verdict::Confirmed, Verdict::Contradicted));
    }
}
