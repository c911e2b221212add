//! F5: poisoned features cost far more accuracy than the images made from them.

use super::{Finding, FindingComparison, Question, Unit};
use crate::{ConfigGroup, config_group::quantity};

const TEST: &str = "For images without a limit on pixels, made from features that raise the victim's \
                    loss on clean training data by at least a twentieth: the images cost less than half of what the \
                    features cost. One-sided tests, seed by seed and image by image.";

const QUESTION: Question = Question {
    id: "F5",
    claim: "Inversion is the bottleneck: poisoned features cost far more accuracy than the images made from them.",
    test: TEST,
    needs: "poisoned features that raise the loss on clean training data by a twentieth, inverted by a decoder or by \
            matching without refinement, with β = 0 and without an L∞ limit",
};

const REFINED: Question = Question {
    id: "F5-refined",
    claim: "Refinement does not remove the bottleneck: poisoned features cost far more accuracy than refined images.",
    test: TEST,
    needs: "poisoned features that raise the loss on clean training data by a twentieth, matched and refined, with \
            β = 0 and without an L∞ limit",
};

/// Tests F5 on decoders and matching alone, as in the paper.
pub fn finding(configs: &[ConfigGroup]) -> Finding {
    kept(configs, &QUESTION, ConfigGroup::inverted)
}

/// Tests F5 on refined matching. Refined images are no inversion of features, because refinement takes steps on the
/// attack's own objective.
pub fn of_refined(configs: &[ConfigGroup]) -> Finding {
    kept(configs, &REFINED, ConfigGroup::refined_from_matched)
}

/// Compares `drop(features) / 2 - drop(images) > 0`, for configurations with poisoned features and with images without
/// any limit. (With a limit, images would have to look clean as well; this is what F2 asks.)
fn kept(configs: &[ConfigGroup], question: &Question, of: fn(&ConfigGroup) -> bool) -> Finding {
    let made: Vec<&ConfigGroup> = configs.iter().filter(|c| of(c) && c.unlimited()).collect();
    // Below this there is nothing for inversion to lose.
    let asked: Vec<&&ConfigGroup> = made.iter().filter(|c| c.works(quantity::rise_on_features)).collect();
    let comparison = |config: &ConfigGroup| {
        let e = config.combined(quantity::drop_on_features, config, quantity::drop_on_images, |features, images| {
            features / 2.0 - images
        })?;
        Some(FindingComparison::of(
            config.name.clone(),
            "half of the drop on features − drop on images",
            Unit::Points,
            e,
        ))
    };
    let compared = asked.iter().filter_map(|config| comparison(config)).collect();
    let what = if question.id == REFINED.id { "matching that is refined" } else { "decoder or matching alone" };
    let sides = [
        (what, made.len()),
        ("the same of features that raise the loss on clean training data by a twentieth", asked.len()),
    ];
    // If there are no images at all, the second side would only repeat this.
    let sides = if made.is_empty() { &sides[..1] } else { &sides };
    question.judged(compared).beside(Vec::new(), sides, question)
}

#[cfg(test)]
mod tests {
    use super::super::{Verdict, testing::made_up};
    use super::*;

    fn configs(features: [f64; 3], images: [f64; 3]) -> Vec<ConfigGroup> {
        vec![made_up("bilevel + feature-matching").features(features).images(images).config()]
    }

    /// Refined images say nothing about inversion, because refinement takes steps on the attack's own objective.
    #[test]
    fn refinement_is_asked_apart() {
        let refined = made_up("bilevel + refined").features([0.50, 0.51, 0.50]).images([0.52, 0.53, 0.52]).config();
        let mut all = configs([0.50, 0.51, 0.50], [0.76, 0.77, 0.75]);
        all.push(refined);
        assert_eq!((finding(&all).verdict, of_refined(&all).verdict), (Verdict::Confirmed, Verdict::Contradicted));
        let none = of_refined(&all[..1]);
        assert!(none.reason.contains("missing: matching that is refined"), "{}", none.reason);
    }

    #[test]
    fn all_three_verdicts() {
        let verdict = |features, images| finding(&configs(features, images)).verdict;
        assert_eq!(verdict([0.50, 0.51, 0.50], [0.76, 0.77, 0.75]), Verdict::Confirmed);
        assert_eq!(verdict([0.50, 0.51, 0.50], [0.52, 0.53, 0.52]), Verdict::Contradicted);
        assert_eq!(verdict([0.50, 0.51, 0.50], [0.76, 0.60, 0.65]), Verdict::Undecided);
        assert!(finding(&configs([0.80, 0.79, 0.80], [0.80; 3])).comparisons.is_empty(), "features that cost nothing");
    }
}
