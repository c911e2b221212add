//! F2: at equal visibility, aiming at features pays.

use super::{Comparison, Finding, Question, Unit, groups};
use crate::{Case, case::quantity};

const QUESTION: Question = Question {
    id: "F2",
    claim: "Under the same visibility constraint, the feature-targeted attack beats attacks on pixels.",
    test: "For each limit L∞, share of poisons and kind of labels: the victim of the feature-targeted attack is less accurate than that \
           of the attack on pixels with the same objective, and the best of the one less than that of the best of the other (the best by their means \
           over the same seeds). One-sided tests, seed by seed and image by image.",
    needs: "a feature-targeted attack and one on pixels with the same limit L∞, share of poisons and kind of labels",
};

/// The case under which the victim is least accurate.
fn best<'c>(cases: &[&'c Case]) -> Option<&'c Case> {
    let measured = cases.iter().filter_map(|c| Some((c.mean(quantity::images)?.mean, *c)));
    measured.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, case)| case)
}

/// Of cases with the same limit L∞, `beta = 0`, share of poisons, kind of labels and setting, `accuracy(pixels) - accuracy(features) > 0`,
///
/// 1. for every case on pixels, and of the feature-targeted ones with its objective the one that is nearest in PSNR,
/// 2. for the best of each kind, by mean accuracy, unless that is a pair of 1.
pub fn finding(cases: &[Case]) -> Finding {
    let alike = |case: &Case| {
        // Noise on training images is neither, and has another budget.
        let linf = case.linf().filter(|_| case.beta() == 0.0 && !case.replaces())?;
        Some((case.setting(), linf.to_bits(), case.eps_d().to_bits(), case.clean_label(), case.free()))
    };
    let psnr = |case: &Case| case.mean(quantity::psnr).map_or(f64::NAN, |e| e.mean);
    let mut comparisons = Vec::new();
    for group in groups(cases, alike) {
        let (pixels, features): (Vec<&Case>, Vec<&Case>) = group.into_iter().partition(|c| c.on_pixels());
        let mut pairs: Vec<(&Case, &Case, &'static str)> = Vec::new();
        for p in &pixels {
            let same = features.iter().filter(|f| f.aim() == p.aim());
            let distance = |f: &Case| (psnr(f) - psnr(p)).abs();
            if let Some(f) = same.min_by(|a, b| distance(a).total_cmp(&distance(b))) {
                pairs.push((
                    p,
                    f,
                    "accuracy under the attack on pixels − under the feature-targeted one, same objective",
                ));
            }
        }
        if let (Some(p), Some(f)) = (best(&pixels), best(&features))
            && !pairs.iter().any(|(a, b, _)| std::ptr::eq(*a, p) && std::ptr::eq(*b, f))
        {
            pairs.push((p, f, "accuracy under the best attack on pixels − under the best feature-targeted one"));
        }
        for (p, f, what) in pairs {
            let Some(e) = p.minus(quantity::images, f, quantity::images) else { continue };
            let rows = format!("{} ({:.1} dB) against {} ({:.1} dB)", p.name, psnr(p), f.name, psnr(f));
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

    fn cases(pixels: [f64; 3], features: [f64; 3], linf: u8) -> Vec<Case> {
        let pixels = made_up("bilevel + pixels").with("poison-images", json!({ "linf": 8 })).images(pixels);
        let matched = made_up("bilevel + feature-matching").with("invert", json!({ "linf": linf })).images(features);
        vec![pixels.case(), matched.case()]
    }

    #[test]
    fn all_three_verdicts() {
        let verdict = |pixels, features| finding(&cases(pixels, features, 8)).verdict;
        assert_eq!(verdict([0.75, 0.74, 0.75], [0.70, 0.70, 0.69]), Verdict::Confirmed);
        assert_eq!(verdict([0.70, 0.70, 0.69], [0.75, 0.74, 0.75]), Verdict::Contradicted);
        assert_eq!(verdict([0.70, 0.75, 0.69], [0.75, 0.71, 0.70]), Verdict::Undecided);
        // Other limits are not compared.
        assert!(finding(&cases([0.75; 3], [0.70; 3], 16)).comparisons.is_empty());
    }

    #[test]
    fn objectives_are_compared_with_themselves_and_the_best_with_the_best() {
        let mut all = cases([0.75, 0.74, 0.75], [0.70, 0.70, 0.69], 8);
        let tgda = made_up("tgda + pixels").with("poison-images", json!({ "linf": 8 })).images([0.60, 0.61, 0.60]);
        all.push(tgda.case());
        let found = finding(&all);
        assert_eq!(found.comparisons.len(), 2);
        assert_eq!(found.verdict, Verdict::Contradicted, "the best attack on pixels is better");
    }

    #[test]
    fn noise_is_no_feature_targeted_attack() {
        let mut all = cases([0.75, 0.74, 0.75], [0.70, 0.70, 0.69], 8);
        let noise = made_up("error-minimizing + class-wise").with("unlearnable", json!({ "linf": 8 }));
        let mut noise = noise.images([0.30, 0.31, 0.30]).case();
        noise.rows.iter_mut().for_each(|r| r.replaces = true);
        all.push(noise);
        assert_eq!(finding(&all).comparisons.len(), 1);
    }
}
