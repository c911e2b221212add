//! F5: what features can do, images cannot.

use super::{Comparison, Finding, Question, Unit};
use crate::{Case, case::quantity};

const QUESTION: Question = Question {
    id: "F5",
    claim: "Inversion is the bottleneck: poisoned features cost far more accuracy than the images made of them.",
    test: "For each inversion without a limit on pixels, of features that cost at least a point: the images cost less than half of what \
           the features cost. One-sided tests, seed by seed and image by image.",
    needs: "poisoned features that cost at least a point, inverted with β = 0 and without L∞",
};

/// Of less nothing can be kept.
const ASKED: f64 = 0.01;

/// Of cases with poisoned features and images that nothing holds near their bases, `drop(features) / 2 - drop(images) > 0`.
/// (With a limit, images would have to look clean, too, and that is another matter: F2.)
pub fn finding(cases: &[Case]) -> Finding {
    let asked = |c: &&Case| c.unlimited() && c.mean(quantity::drop_on_features).is_some_and(|e| e.mean >= ASKED);
    let comparison = |case: &Case| {
        let e = case.combined(quantity::drop_on_features, case, quantity::drop_on_images, |features, images| {
            features / 2.0 - images
        })?;
        Some(Comparison::paired(case.name.clone(), "half of the drop on features − drop on images", Unit::Points, e))
    };
    QUESTION.judged(cases.iter().filter(asked).filter_map(comparison).collect())
}

#[cfg(test)]
mod tests {
    use super::super::{Verdict, testing::made_up};
    use super::*;

    fn cases(features: [f64; 3], images: [f64; 3]) -> Vec<Case> {
        vec![made_up("bilevel + feature-matching").features(features).images(images).case()]
    }

    #[test]
    fn all_three_verdicts() {
        let verdict = |features, images| finding(&cases(features, images)).verdict;
        assert_eq!(verdict([0.50, 0.51, 0.50], [0.76, 0.77, 0.75]), Verdict::Confirmed);
        assert_eq!(verdict([0.50, 0.51, 0.50], [0.52, 0.53, 0.52]), Verdict::Contradicted);
        assert_eq!(verdict([0.50, 0.51, 0.50], [0.76, 0.60, 0.65]), Verdict::Undecided);
        assert!(finding(&cases([0.80, 0.79, 0.80], [0.80; 3])).comparisons.is_empty(), "features that cost nothing");
    }
}
