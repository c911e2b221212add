//! F2: at equal visibility, the feature-targeted attack is stronger than attacks on pixels.

use super::{
    Finding, FindingComparison, Question, Unit,
    axis::{Axis, ComparableGroup, ask},
};
use crate::{ConfigGroup, config_group::quantity};
use hemlock_stage::StageRole;

const TEST: &str = "For each attack on pixels within an L∞ limit and with β = 0: the victim is less accurate under the \
                    feature-targeted attack with the same objective. The same is tested for the strongest attack of \
                    each kind: for the claim, that some feature-targeted attack beats every attack on pixels; against \
                    it, that some attack on pixels beats every feature-targeted one. Both sides have the same setting, \
                    limit, poison fraction, labels, constraint on features, number of passes, and splits that the \
                    attacker sees. One-sided tests, seed by seed and image by image.";

const QUESTION: Question = Question {
    id: "F2",
    claim: "Under the same visibility constraint, the feature-targeted attack beats attacks on pixels.",
    test: TEST,
    needs: "a feature-targeted attack (matching without refinement) and an attack on pixels that are equal in \
            everything else, within the same L∞ limit",
};

const REFINED: Question = Question {
    id: "F2-refined",
    claim: "Under the same visibility constraint, the refined feature-targeted attack beats attacks on pixels.",
    test: TEST,
    needs: "matching with refinement on the attack's own objective and an attack on pixels that are equal in \
            everything else, within the same L∞ limit",
};

/// The axis for attacks with the same objective: how images are made, how features are searched for, and the length of
/// steps, which suits the method.
const SAME_OBJECTIVE: Axis = Axis::of(&["images", "step"]).and_stages(ROUTE);
/// The axis for the strongest attacks: also the objective, and the parameters that belong to it.
const STRONGEST: Axis = Axis::of(&["images", "step", "attack", "attack.", "start", "target-params."]).and_stages(ROUTE);
/// The stages that only feature-targeted attacks have.
const ROUTE: &[StageRole] = &[StageRole::FeatureAttack, StageRole::Inversion];

/// Tests F2 on decoders and matching alone, as in the paper.
pub fn finding(configs: &[ConfigGroup]) -> Finding {
    compared(configs, &QUESTION, ConfigGroup::inverted)
}

/// Tests F2 on refined matching. Controls that start refinement elsewhere do not count.
pub fn of_refined(configs: &[ConfigGroup]) -> Finding {
    compared(configs, &REFINED, ConfigGroup::refined_from_matched)
}

/// Compares `accuracy(pixels) - accuracy(features) > 0` for configurations within one L-infinity limit, with `beta =
/// 0`, that are equal in everything but the route:
///
/// 1. every attack on pixels with the feature-targeted attack that has the same objective (of several, the one nearest
///    in PSNR)
/// 2. the strongest of each kind, if there are several: see [`strongest`]
fn compared(configs: &[ConfigGroup], question: &Question, targeted: fn(&ConfigGroup) -> bool) -> Finding {
    // Noise is neither kind of attack, and has another poison fraction.
    let limited = |of: fn(&ConfigGroup) -> bool| {
        configs.iter().filter(|c| of(c) && c.linf().is_some() && c.beta() == 0.0).collect::<Vec<&ConfigGroup>>()
    };
    let (pixels, features) = (limited(ConfigGroup::on_pixels), limited(targeted));
    let mut comparisons = Vec::new();
    let asked = ask(&pixels, &features, SAME_OBJECTIVE);
    for group in &asked.groups {
        for p in &group.left {
            let distance = |f: &ConfigGroup| (psnr(f) - psnr(p)).abs();
            if let Some(f) = group.right.iter().min_by(|a, b| distance(a).total_cmp(&distance(b))) {
                let what = "accuracy under the attack on pixels − under the feature-targeted one, same objective";
                comparisons.extend(pair(p, f, what));
            }
        }
    }
    comparisons.extend(ask(&pixels, &features, STRONGEST).groups.iter().filter_map(strongest));
    let sides = [
        ("attack on pixels within an L∞ limit", pixels.len()),
        (
            if question.id == REFINED.id {
                "refined feature-targeted attack within an L∞ limit"
            } else {
                "decoder or matching alone within an L∞ limit"
            },
            features.len(),
        ),
    ];
    question.judged(comparisons).beside(asked.apart, &sides, question)
}

/// The configuration whose victims are least accurate on average.
fn least_accurate<'c>(configs: &[&'c ConfigGroup]) -> Option<&'c ConfigGroup> {
    let accuracy = |c: &ConfigGroup| c.mean(quantity::images).map_or(f64::INFINITY, |e| e.mean);
    configs.iter().copied().min_by(|a, b| accuracy(a).total_cmp(&accuracy(b)))
}

fn psnr(config: &ConfigGroup) -> f64 {
    config.mean(quantity::psnr).map_or(f64::NAN, |e| e.mean)
}

/// Compares an attack on pixels with a feature-targeted attack.
fn pair(p: &ConfigGroup, f: &ConfigGroup, what: &'static str) -> Option<FindingComparison> {
    let e = p.minus(quantity::images, f, quantity::images)?;
    let rows = format!("{} ({:.1} dB) against {} ({:.1} dB)", p.remarked_name(), psnr(p), f.remarked_name(), psnr(f));
    Some(FindingComparison::of(rows, what, Unit::Points, e))
}

/// Compares the strongest attack on pixels with the strongest feature-targeted attack, by mean accuracy. Test images
/// choose these two, so the p-values come from all pairs ([`some_beats_all`]). `None` if there is one attack of each
/// kind and [`compared`] has compared them already.
fn strongest(group: &ComparableGroup) -> Option<FindingComparison> {
    let (pixels, features) = (&group.left, &group.right);
    if pixels.len() == 1 && features.len() == 1 && !ask(pixels, features, SAME_OBJECTIVE).groups.is_empty() {
        return None;
    }
    let what =
        "accuracy under the strongest attack on pixels − under the strongest feature-targeted one; p of all pairs";
    let mut comparison = pair(least_accurate(pixels)?, least_accurate(features)?, what)?;
    let p_above = |p: &ConfigGroup, f: &ConfigGroup| p.minus(quantity::images, f, quantity::images)?.p_above();
    if comparison.p.is_some() {
        let features_win = |f: &ConfigGroup, p: &ConfigGroup| p_above(p, f).unwrap_or(1.0);
        let pixels_win = |p: &ConfigGroup, f: &ConfigGroup| p_above(p, f).map_or(1.0, |p| 1.0 - p);
        comparison.p = Some(some_beats_all(features, pixels, features_win));
        comparison.p_against = Some(some_beats_all(pixels, features, pixels_win));
        // The interval of a pair that was chosen for its result would be too narrow.
        comparison.half_width = None;
    }
    Some(comparison)
}

/// The p-value of the null hypothesis that none of `some` beats all of `others`; `p(a, b)` is that of "`a` does not
/// beat `b`". One that beats all has to beat each of them (an intersection-union test, so the largest p-value counts),
/// and any may be the one (Bonferroni).
fn some_beats_all(
    some: &[&ConfigGroup],
    others: &[&ConfigGroup],
    p: impl Fn(&ConfigGroup, &ConfigGroup) -> f64,
) -> f64 {
    let beats_all = |a: &ConfigGroup| others.iter().map(|b| p(a, b)).fold(0.0, f64::max);
    let least = some.iter().map(|a| beats_all(a)).fold(1.0, f64::min);
    (least * some.len() as f64).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::super::{Verdict, testing::made_up};
    use super::*;
    use hemlock_threat::Sees;
    use serde_json::{Value, json};

    fn on_pixels(images: [f64; 3], constraint: Option<&str>) -> ConfigGroup {
        let mut params = json!({ "attack": "bilevel", "linf": "8/255", "steps": 80 });
        if let Some(constraint) = constraint {
            params["constraint"] = json!(constraint);
        }
        made_up("bilevel + pixels").with("poison-images", params).images(images).config()
    }

    fn targeted(making: &str, images: [f64; 3], constraint: &str, invert: Value) -> ConfigGroup {
        made_up(&format!("bilevel + {making}"))
            .with("poison-features", json!({ "attack": "bilevel", "constraint": constraint, "solver": "adam" }))
            .with("invert", invert)
            .images(images)
            .config()
    }

    fn matched(images: [f64; 3], linf: u8) -> ConfigGroup {
        let invert = json!({ "method": "feature-matching", "linf": format!("{linf}/255"), "steps": 80, "refine": 0 });
        targeted("feature-matching", images, "none", invert)
    }

    fn configs(pixels: [f64; 3], features: [f64; 3], linf: u8) -> Vec<ConfigGroup> {
        vec![on_pixels(pixels, None), matched(features, linf)]
    }

    #[test]
    fn all_three_verdicts() {
        let verdict = |pixels, features| finding(&configs(pixels, features, 8)).verdict;
        assert_eq!(verdict([0.75, 0.74, 0.75], [0.70, 0.70, 0.69]), Verdict::Confirmed);
        assert_eq!(verdict([0.70, 0.70, 0.69], [0.75, 0.74, 0.75]), Verdict::Contradicted);
        assert_eq!(verdict([0.70, 0.75, 0.69], [0.75, 0.71, 0.70]), Verdict::Undecided);
        // Attacks within different limits are not compared.
        let other = finding(&configs([0.75; 3], [0.70; 3], 16));
        assert!(other.comparisons.is_empty());
        assert_eq!(other.apart[0].why(), "linf: 8/255 against 16/255");
    }

    /// A constraint weakens an attack, so both sides have to have it.
    #[test]
    fn a_constraint_on_one_side_alone_is_not_compared() {
        let in_ball = |constraint| {
            let invert = json!({ "method": "feature-matching", "linf": "8/255", "steps": 80, "refine": 0 });
            targeted("feature-matching", [0.70, 0.70, 0.69], constraint, invert)
        };
        let pixels = |constraint| on_pixels([0.75, 0.74, 0.75], constraint);
        let apart = finding(&[pixels(None), in_ball("ball")]);
        assert!(apart.comparisons.is_empty());
        assert_eq!(apart.apart[0].why(), "constraint: none against ball");
        let both = [pixels(None), pixels(Some("ball")), in_ball("none"), in_ball("ball")];
        let found = finding(&both);
        assert_eq!((found.comparisons.len(), found.apart.len()), (2, 0), "each with its own");
    }

    /// Refinement takes steps on the attack's own objective, so it is an attack on pixels with another start.
    #[test]
    fn refinement_is_asked_apart() {
        let invert = json!({ "method": "feature-matching", "linf": "8/255", "steps": 20, "refine": 60 });
        let refined = targeted("refined", [0.60, 0.60, 0.61], "none", invert.clone());
        let mut all = configs([0.75, 0.74, 0.75], [0.76, 0.76, 0.77], 8);
        all.push(refined);
        let (alone, apart) = (finding(&all), of_refined(&all));
        assert_eq!((alone.comparisons.len(), alone.verdict), (1, Verdict::Contradicted));
        assert_eq!((apart.comparisons.len(), apart.verdict), (1, Verdict::Confirmed));
        // Refinement that starts elsewhere is a control.
        all.push(targeted("refined-from-base", [0.80, 0.80, 0.81], "none", invert));
        assert_eq!(of_refined(&all).comparisons.len(), 1);
        let none = of_refined(&all[..2]);
        assert!(none.reason.contains("missing: refined feature-targeted attack"), "{}", none.reason);
    }

    /// Adam on pixels has a length of its steps; L-BFGS in matching needs none.
    #[test]
    fn how_far_a_step_goes_keeps_nobody_apart() {
        let params = json!({ "attack": "bilevel", "linf": "8/255", "steps": 80, "step": 0.01 });
        let pixels = made_up("bilevel + pixels").with("poison-images", params).images([0.75; 3]).config();
        assert_eq!(finding(&[pixels, matched([0.70; 3], 8)]).comparisons.len(), 1);
    }

    #[test]
    fn passes_are_equal() {
        let invert = json!({ "method": "feature-matching", "linf": "8/255", "steps": 20, "refine": 0 });
        let all = [on_pixels([0.75; 3], None), targeted("feature-matching", [0.70; 3], "none", invert)];
        assert_eq!(finding(&all).apart[0].why(), "passes: 80 against 20");
    }

    fn of_tgda(images: [f64; 3]) -> ConfigGroup {
        let tgda = json!({ "attack": "tgda", "linf": "8/255", "steps": 80, "inner": { "steps": 20 } });
        made_up("tgda + pixels").with("poison-images", tgda).images(images).config()
    }

    #[test]
    fn objectives_are_compared_with_themselves_and_the_strongest_with_the_strongest() {
        let mut all = configs([0.75, 0.74, 0.75], [0.70, 0.70, 0.69], 8);
        all.push(of_tgda([0.60, 0.61, 0.60]));
        let found = finding(&all);
        assert_eq!(found.comparisons.len(), 2);
        assert!(found.comparisons[1].rows.starts_with("tgda"));
        assert_eq!(found.verdict, Verdict::Contradicted, "the strongest attack on pixels is stronger");
    }

    /// The strongest of several is a choice by test images, which p-values pay for.
    #[test]
    fn the_strongest_has_to_beat_all_and_pays_for_the_choice() {
        let pixels = [0.75, 0.74, 0.75];
        let mut all = configs(pixels, [0.72, 0.72, 0.73], 8);
        let alone = finding(&all).comparisons[0].clone();
        all.push(of_tgda([0.78, 0.79, 0.79]));
        let both = finding(&all).comparisons[1].clone();
        // The one feature-targeted attack beats both, and the smaller margin counts.
        assert_eq!((both.difference, both.p), (alone.difference, alone.p));
        // Against it, either of the two may win: twice the smaller p-value.
        assert_eq!(both.p_against, Some((2.0 * alone.p_against.unwrap()).min(1.0)));
        let all = [all[0].clone(), all[1].clone(), of_tgda([0.70, 0.69, 0.68])];
        let lost = finding(&all).comparisons[1].clone();
        assert!(lost.difference < 0.0 && lost.p.unwrap() > 0.9, "one that beats it is enough");
        let test = lost.inference.unwrap();
        assert!(lost.p_against.unwrap() < 0.2 && test.variance > 0.0);
    }

    /// An attack that reads validation labels is not compared with one that does not.
    #[test]
    fn the_strongest_have_seen_the_same() {
        let comparisons = |sees| {
            let best = json!({ "attack": "tgda", "linf": "8/255", "steps": 80, "sees": sees });
            let best = made_up("tgda + pixels").with("poison-images", best).images([0.60, 0.61, 0.60]);
            let mut all = configs([0.75, 0.74, 0.75], [0.70, 0.70, 0.69], 8);
            all.push(best.sees(sees).config());
            finding(&all).comparisons.len()
        };
        assert_eq!([Sees::Train, Sees::TrainAndValidation].map(comparisons), [2, 1]);
    }

    #[test]
    fn noise_is_no_feature_targeted_attack() {
        let mut all = configs([0.75, 0.74, 0.75], [0.70, 0.70, 0.69], 8);
        let noise = made_up("error-minimizing + class-wise").with("unlearnable", json!({ "linf": "8/255" }));
        let mut noise = noise.images([0.30, 0.31, 0.30]).config();
        noise.rows.iter_mut().for_each(|r| r.replaces = true);
        all.push(noise);
        assert_eq!(finding(&all).comparisons.len(), 1);
    }
}
