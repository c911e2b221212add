//! F1: attacks on pixels are strong without limits, and weak if poisons have to look clean.

use super::{
    Finding, FindingComparison, Question, Unit,
    axis::{Axis, IncomparablePair, TraitDifference, ask},
};
use crate::{ConfigGroup, config_group::quantity};

const QUESTION: Question = Question {
    id: "F1",
    claim: "Attacks on pixels are strong without constraints, and weak once poisons must look clean.",
    test: "For each attack on pixels with and without a limit: the drop without a limit is larger than that of \
           influence flips that are chosen with the same labelled splits, and the drop at the tightest limit of at most \
           8/255 is less than a third of it. One-sided tests, seed by seed and image by image.",
    needs: "an attack on pixels, both without a limit and with L∞ ≤ 8/255",
};

/// The axis: the limits on pixels, and the length of steps, which suits them.
const AXIS: Axis = Axis::of(&["linf", "beta", "clip", "step"]);

/// The largest L-infinity limit within which images count as clean, in grey levels of 255.
const CLEAN: f64 = 8.0;

/// Compares configurations that differ in the limit on pixels alone (and in the length of steps, which suits it): the
/// one without a limit, and the one within the tightest limit of at most [`CLEAN`].
///
/// 1. `drop(no limit) - drop(influence flips) > 0`
/// 2. `drop(no limit) / 3 - drop(limit) > 0`
pub fn finding(configs: &[ConfigGroup]) -> Finding {
    let on_pixels =
        |of: &dyn Fn(&ConfigGroup) -> bool| configs.iter().filter(|c| c.on_pixels() && of(c)).collect::<Vec<_>>();
    let unlimited = on_pixels(&ConfigGroup::unlimited);
    let limited = on_pixels(&|c| c.linf().is_some_and(|l| l <= CLEAN) && c.beta() == 0.0);
    let mut asked = ask(&unlimited, &limited, AXIS);
    let mut comparisons = Vec::new();
    for group in std::mem::take(&mut asked.groups) {
        // Unclipped pixels have the weakest limit.
        let loose = group.left.into_iter().max_by_key(|c| c.unclipped());
        let levels = |c: &ConfigGroup| c.linf().unwrap_or(f64::INFINITY);
        let tight = group.right.into_iter().min_by(|a, b| levels(a).total_cmp(&levels(b)));
        let (Some(loose), Some(tight)) = (loose, tight) else { continue };
        let drop = quantity::drop_on_images;
        // Flips that were chosen without the labels that the attack sees are a weaker control.
        let [attack, control] = [loose.row().sees, loose.row().controls_see];
        if attack != control {
            let differ =
                TraitDifference { of: "sees".into(), left: Some(attack.to_string()), right: Some(control.to_string()) };
            let (left, right) = (loose.name.clone(), "influence flips".to_owned());
            asked.apart.push(IncomparablePair { left, right, differ: vec![differ] });
        } else if let Some(e) = loose.minus(drop, loose, quantity::drop_of_flips) {
            let what = "drop without a limit − drop of influence flips";
            comparisons.push(FindingComparison::of(loose.remarked_name(), what, Unit::Points, e));
        }
        if let Some(e) = loose.combined(drop, tight, drop, |loose, tight| loose / 3.0 - tight) {
            let rows = format!("{} against {}", loose.remarked_name(), tight.remarked_name());
            comparisons.push(FindingComparison::of(
                rows,
                "a third of the drop without a limit − drop within the limit",
                Unit::Points,
                e,
            ));
        }
    }
    let sides =
        [("attack on pixels without a limit", unlimited.len()), ("attack on pixels within 8/255", limited.len())];
    QUESTION.judged(comparisons).beside(asked.apart, &sides, &QUESTION)
}

#[cfg(test)]
mod tests {
    use super::super::{Verdict, testing::made_up};
    use super::*;
    use hemlock_artifact::Measured;
    use hemlock_threat::Sees;

    fn configs(loose: [f64; 3], tight: [f64; 3]) -> Vec<ConfigGroup> {
        let pixels = |linf: Option<u8>, images: [f64; 3]| {
            made_up("bilevel + pixels")
                .with(
                    "poison-images",
                    serde_json::json!({ "attack": "bilevel", "linf": linf.map(|levels| format!("{levels}/255")) }),
                )
                .images(images)
        };
        vec![pixels(None, loose).config(), pixels(Some(8), tight).config()]
    }

    /// Clean accuracy is 0.8, and flips cost 0.01.
    #[test]
    fn all_three_verdicts() {
        let verdict = |loose, tight| finding(&configs(loose, tight)).verdict;
        assert_eq!(verdict([0.50, 0.51, 0.49], [0.77, 0.78, 0.77]), Verdict::Confirmed);
        assert_eq!(verdict([0.50, 0.51, 0.49], [0.55, 0.56, 0.55]), Verdict::Contradicted);
        assert_eq!(verdict([0.50, 0.51, 0.49], [0.77, 0.60, 0.70]), Verdict::Undecided);
        // An attack that is no stronger than flipped labels.
        assert_eq!(verdict([0.800, 0.805, 0.800], [0.83, 0.85, 0.84]), Verdict::Contradicted);
        assert_eq!(finding(&configs([0.5; 3], [0.7; 3])[..1]).verdict, Verdict::Undecided);
    }

    /// Flips that saw less than the attack, and random ones, are no control of it.
    #[test]
    fn the_control_is_at_full_strength() {
        let compared = |change: &dyn Fn(&mut ConfigGroup)| {
            let mut all = configs([0.50, 0.51, 0.49], [0.77, 0.78, 0.77]);
            all.iter_mut().for_each(change);
            let found = finding(&all);
            (found.comparisons.len(), found.apart.first().map(IncomparablePair::why).unwrap_or_default())
        };
        let sees = |c: &mut ConfigGroup| c.rows.iter_mut().for_each(|r| r.sees = Sees::TrainAndValidation);
        let random_alone = |c: &mut ConfigGroup| {
            for row in &mut c.rows {
                row.accuracy =
                    Measured::new(0.8).with("random_flips", 0.795).with("images", *row.accuracy.images().unwrap());
            }
        };
        assert_eq!(compared(&|_| {}), (2, String::new()));
        assert_eq!(compared(&sees), (1, "sees: train and validation against train".to_owned()));
        assert_eq!(compared(&random_alone), (1, String::new()));
    }
}
