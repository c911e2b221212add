//! Estimates the variance of a mean over extractors, training data, attacks and test images.

use super::{Components, ImageDeviations, ImageSharing, Inference, InferenceScope, Lack};
use std::collections::{BTreeMap, BTreeSet};

/// A value of one extractor and one draw of training data.
#[derive(Debug, Clone, Default)]
pub struct Observation {
    /// The number of the extractor.
    pub extractor: usize,
    /// The number of the draw of training data.
    pub draw: usize,
    /// The value.
    pub value: f64,
    /// The part of its error that comes from test images.
    pub deviations: ImageDeviations,
}

/// Draws count as the same training data if they share more than this part of their images.
const SAME: f64 = 0.95;

/// At most this part of the variance that does not come from training data is subtracted for what does not overlap.
const MOST: f64 = 0.4;

/// The factor by which a mean square with `f` degrees of freedom is multiplied where degrees of freedom are computed.
///
/// With `1` in place of this factor one has Satterthwaite's formula. A mean square with 2 to 4 degrees of freedom,
/// added to one with infinitely many, then counts too little whenever it happens to be small: 6.2 % are rejected
/// instead of 5 %. The constant 2.4 keeps rejections between 4.4 and 5.3 %, and coverage between 94 and 96 %, over all
/// ratios of the two variances and from 2 degrees of freedom.
fn weight(f: f64) -> f64 {
    1.0 + 2.4 / f
}

/// The mean of some observations, and its error. `overlap(a, b)` is the share of training images that two draws have in
/// common.
///
/// Assume one cell for each combination of extractor and training data; its value is a mean over test images. The
/// variance of the mean is the sum of three terms: the analysis of variance of these values (`S`), the overlap of
/// training images (`X`), and the test images that values share (`C`).
///
/// ```text
/// V = S + X + C        S = max(a, b, a + b - r)
/// ```
///
/// - `a`, `b` and `r` are the sample variances of the means of extractors, of the means of training data, and of the
///   residuals, each divided by the number of its terms. Both `a` and `b` contain `r`, so `a + b` would count it twice.
///   If there is one extractor, or one set of training data, `S` is the sample variance over the other, divided by
///   their number.
/// - `C` is the mean covariance, over their common test images, of two values with different extractors and training
///   data.
/// - `X` corrects for overlapping training data. Draws that share a share `q` of their images are correlated by `q`, if
///   images act independently. The sample variance misses this: the variance of the mean of `D` draws is the sample
///   variance times `1 / D + q / (1 - q)` (Nadeau and Bengio, 2003). A part of the sample variance comes from test
///   images and attacks, which do not overlap. This part is not counted in `X`, up to two fifths of the variance that
///   does not come from training data (subtracting more is too much if there are few draws).
///
/// # Errors
/// - There is only one value.
/// - All values are equal.
/// - Too many combinations of extractor and training data are missing.
pub fn infer(observations: Vec<Observation>, overlap: &dyn Fn(usize, usize) -> f64) -> Result<(f64, Inference), Lack> {
    if observations.len() < 2 {
        return Err(Lack::One);
    }
    let largest = observations.iter().fold(0.0f64, |most, cell| most.max(cell.value.abs()));
    let levels = |of: fn(&Observation) -> usize| observations.iter().map(of).collect::<BTreeSet<usize>>();
    let (mut extractors, mut draws) = (levels(|c| c.extractor), levels(|c| c.draw));
    // Values that are equal up to rounding have no variance.
    if observations.iter().all(|cell| (cell.value - observations[0].value).abs() <= 1e-12 * largest) {
        return Err(if extractors.len() * draws.len() > 1 { Lack::NoSpread } else { Lack::Equal });
    }
    let mut runs: BTreeMap<(usize, usize), Vec<Observation>> = BTreeMap::new();
    for cell in observations {
        runs.entry((cell.extractor, cell.draw)).or_default().push(cell);
    }
    let counts: BTreeMap<(usize, usize), usize> = runs.iter().map(|(at, runs)| (*at, runs.len())).collect();
    let attacks = counts.values().copied().max().unwrap_or(1);
    let scope =
        InferenceScope { extractors: extractors.len(), draws: draws.len(), attacks, ..InferenceScope::default() };
    if runs.len() == 1 {
        let units: Vec<Observation> = runs.into_values().flatten().collect();
        let images = tested(&units);
        return Ok(one_way(&units, 0.0, InferenceScope { images, ..scope }, |rest| Components {
            rest,
            ..Components::default()
        }));
    }
    let mut means: BTreeMap<(usize, usize), Observation> =
        runs.into_iter().map(|(at, runs)| (at, mean(&runs))).collect();
    let nested = |of: fn(&(usize, usize)) -> usize| levels_once(means.keys().map(of));
    let (in_draws, in_extractors) = (nested(|at| at.0), nested(|at| at.1));
    let crossed = means.len() == extractors.len() * draws.len();
    if !crossed && (in_draws || in_extractors) {
        // The design is nested: every draw has extractors of its own, or every extractor has training data of its own.
        // The units that remain are draws or extractors.
        let by_draw = in_draws && draws.len() > 1;
        let mut units: BTreeMap<usize, Vec<Observation>> = BTreeMap::new();
        for (at, cell) in means {
            units.entry(if by_draw { at.1 } else { at.0 }).or_default().push(cell);
        }
        let units: Vec<Observation> = units.into_values().map(|observations| mean(&observations)).collect();
        let (overlap, scope) = overlapping(&draws, overlap, scope);
        let scope = InferenceScope { images: tested(&units), nested: true, ..scope };
        return Ok(one_way(&units, overlap, scope, |draws| Components { draws, ..Components::default() }));
    }
    if !crossed {
        (extractors, draws) = rectangle(&means, &extractors, &draws).ok_or(Lack::Incomplete)?;
        means.retain(|at, _| extractors.contains(&at.0) && draws.contains(&at.1));
    }
    let left_out = counts.iter().filter(|(at, _)| !means.contains_key(at)).map(|(_, n)| n).sum();
    let scope = InferenceScope { extractors: extractors.len(), draws: draws.len(), left_out, ..scope };
    let (overlap, scope) = overlapping(&draws, overlap, scope);
    let observations: Vec<Observation> = means.into_values().collect();
    let scope = InferenceScope { images: tested(&observations), ..scope };
    Ok(match (extractors.len(), draws.len()) {
        (1, _) => one_way(&observations, overlap, scope, |draws| Components { draws, ..Components::default() }),
        (_, 1) => one_way(&observations, 0.0, scope, |extractors| Components { extractors, ..Components::default() }),
        (e, d) => two_way(&observations, (e, d), overlap, scope),
    })
}

/// The mean share of training images that two draws have in common, and the scope with it. If draws share nearly all
/// images, there are no other training data to generalise to. They then count as runs on the same data.
fn overlapping(
    draws: &BTreeSet<usize>,
    overlap: &dyn Fn(usize, usize) -> f64,
    scope: InferenceScope,
) -> (f64, InferenceScope) {
    match mean_of_pairs(draws, overlap) {
        share if share > SAME => {
            (0.0, InferenceScope { draws: 1, attacks: scope.attacks * draws.len(), overlap: share, ..scope })
        }
        share => (share, InferenceScope { overlap: share, ..scope }),
    }
}

/// The larger complete table: either the extractors that have all draws, or the draws that all extractors have. `None`
/// if it has fewer than two observations.
fn rectangle(
    means: &BTreeMap<(usize, usize), Observation>,
    extractors: &BTreeSet<usize>,
    draws: &BTreeSet<usize>,
) -> Option<(BTreeSet<usize>, BTreeSet<usize>)> {
    let there = |e: &usize, d: &usize| means.contains_key(&(*e, *d));
    let some_extractors: BTreeSet<usize> =
        extractors.iter().filter(|e| draws.iter().all(|d| there(e, d))).copied().collect();
    let some_draws: BTreeSet<usize> =
        draws.iter().filter(|d| extractors.iter().all(|e| there(e, d))).copied().collect();
    let (a, b) = (some_extractors.len() * draws.len(), some_draws.len() * extractors.len());
    match a.max(b) {
        0 | 1 => None,
        _ if a >= b => Some((some_extractors, draws.clone())),
        _ => Some((extractors.clone(), some_draws)),
    }
}

/// Whether no level occurs twice.
fn levels_once(levels: impl Iterator<Item = usize>) -> bool {
    let mut seen = BTreeSet::new();
    levels.into_iter().all(|level| seen.insert(level))
}

fn mean_of_pairs(levels: &BTreeSet<usize>, of: &dyn Fn(usize, usize) -> f64) -> f64 {
    let (mut sum, mut n) = (0.0, 0.0f64);
    for a in levels {
        for b in levels.range(a + 1..) {
            sum += of(*a, *b);
            n += 1.0;
        }
    }
    sum / n.max(1.0)
}

/// The mean of observations, with the extractor and the draw of the first one.
fn mean(observations: &[Observation]) -> Observation {
    let share = 1.0 / observations.len() as f64;
    let mut deviations = ImageDeviations::default();
    observations.iter().for_each(|cell| deviations.add(share, &cell.deviations));
    let value = share * observations.iter().map(|cell| cell.value).sum::<f64>();
    Observation { extractor: observations[0].extractor, draw: observations[0].draw, value, deviations }
}

fn tested(observations: &[Observation]) -> ImageSharing {
    let first = &observations[0].deviations;
    if observations.iter().any(|cell| cell.deviations.is_empty()) {
        return ImageSharing::Unknown;
    }
    if observations.iter().all(|cell| cell.deviations.same(first)) {
        return ImageSharing::Same(first.len());
    }
    let others =
        |a: &Observation| observations.iter().filter(|b| b.draw != a.draw).any(|b| a.deviations.meets(&b.deviations));
    if observations.iter().any(others) { ImageSharing::Partly } else { ImageSharing::Apart }
}

/// The term `X` of [`infer`]: what overlapping training images add to the variance of a mean.
struct Overlap {
    /// `D q / (1 - q)`: the factor of the variance of the mean of `D` draws, without overlap.
    times: f64,
    /// What is subtracted for the part of the variance that does not come from training images.
    but: f64,
}

impl Overlap {
    /// The term for `d` draws that have a `share` of their images in common. `other` is the part of the variance of the
    /// draws' mean that does not come from training images. `beside` is the part of the variance of the whole mean that
    /// does not come from training data.
    fn new(share: f64, d: usize, other: f64, beside: f64) -> Self {
        let times = d as f64 * share / (1.0 - share);
        Self { times, but: (times * other).min(MOST * beside) }
    }

    /// What is added to a variance `b` of the mean of draws, and its derivative with respect to `b`.
    fn of(&self, b: f64) -> (f64, f64) {
        let more = self.times * b - self.but;
        if more > 0.0 { (more, self.times) } else { (0.0, 0.0) }
    }
}

/// The mean of units of one factor, and its error. `overlap` is the share of training images that two units have in
/// common; `part` says which source the variance of the units belongs to.
fn one_way(
    units: &[Observation],
    overlap: f64,
    scope: InferenceScope,
    part: impl Fn(f64) -> Components,
) -> (f64, Inference) {
    let n = units.len() as f64;
    let grand = units.iter().map(|unit| unit.value).sum::<f64>() / n;
    let b = units.iter().map(|unit| (unit.value - grand).powi(2)).sum::<f64>() / (n - 1.0) / n;
    let own = units.iter().map(|unit| unit.deviations.covariance(&unit.deviations)).sum::<f64>() / n;
    let common = covariances(units, |_, _| true).max(0.0);
    let alone = (own - common).max(0.0) / n;
    let (more, rate) = Overlap::new(overlap, units.len(), alone, common + alone).of(b);
    let f = n - 1.0;
    let inference = Inference {
        variance: common + b + more,
        components: Components { images: common, ..part(b + more) },
        scope,
        freedom: (common + weight(f) * (b + more), (weight(f) * b * (1.0 + rate)).powi(2) / f, f),
    };
    (grand, inference)
}

/// The mean covariance, by test images, of two different observations for which `when` is true.
fn covariances(observations: &[Observation], when: impl Fn(&Observation, &Observation) -> bool) -> f64 {
    let (mut sum, mut n) = (0.0, 0.0f64);
    for (i, a) in observations.iter().enumerate() {
        for b in observations[i + 1..].iter().filter(|b| when(a, b)) {
            sum += a.deviations.covariance(&b.deviations);
            n += 1.0;
        }
    }
    sum / n.max(1.0)
}

/// The mean over all combinations of `e` extractors and `d` draws of training data, and its error.
fn two_way(
    observations: &[Observation],
    (e, d): (usize, usize),
    overlap: f64,
    scope: InferenceScope,
) -> (f64, Inference) {
    let (ne, nd) = (e as f64, d as f64);
    let grand = observations.iter().map(|cell| cell.value).sum::<f64>() / (ne * nd);
    let means = |of: fn(&Observation) -> usize, n: f64| {
        let mut means: BTreeMap<usize, f64> = BTreeMap::new();
        observations.iter().for_each(|cell| *means.entry(of(cell)).or_default() += cell.value / n);
        means
    };
    let (by_extractor, by_draw) = (means(|c| c.extractor, nd), means(|c| c.draw, ne));
    let spread = |means: &BTreeMap<usize, f64>| means.values().map(|mean| (mean - grand).powi(2)).sum::<f64>();
    let (fa, fb) = (ne - 1.0, nd - 1.0);
    let fr = fa * fb;
    let (a, b) = (spread(&by_extractor) / fa / ne, spread(&by_draw) / fb / nd);
    let left = |cell: &Observation| cell.value - by_extractor[&cell.extractor] - by_draw[&cell.draw] + grand;
    let r = observations.iter().map(|cell| left(cell).powi(2)).sum::<f64>() / fr / (ne * nd);

    let own = observations.iter().map(|cell| cell.deviations.covariance(&cell.deviations)).sum::<f64>() / (ne * nd);
    let same_extractor = covariances(observations, |x, y| x.extractor == y.extractor);
    let same_draw = covariances(observations, |x, y| x.draw == y.draw);
    let common = covariances(observations, |x, y| x.extractor != y.extractor && x.draw != y.draw).max(0.0);
    // The parts of the variance of the mean that come from interactions of test images: with extractors, with draws,
    // and the rest.
    let with_extractor = (same_extractor - common).max(0.0) / ne;
    let with_draw = (same_draw - common).max(0.0) / nd;
    let alone = (own - same_extractor - same_draw + common).max(0.0) / (ne * nd);
    let images = common + with_extractor + with_draw + alone;

    let (more, rate) = Overlap::new(overlap, d, r.max(alone) + with_draw, images + a + r).of(b);
    let sum = |a: f64, b: f64, r: f64| a.max(b).max(a + b - r);
    let (wa, wb, wr) = (weight(fa) * a, weight(fb) * b, weight(fr) * r);
    let root = common + sum(wa, wb, wr) + weight(fb) * more;
    let denominator = wa.powi(2) / fa + (wb * (1.0 + rate)).powi(2) / fb + wr.powi(2) / fr;
    let inference = Inference {
        variance: common + sum(a, b, r) + more,
        components: Components {
            images: common,
            extractors: (a - r).max(0.0),
            draws: (b - r).max(0.0) + more,
            rest: r.min(a).min(b),
        },
        scope,
        freedom: (root, denominator, fa.min(fb)),
    };
    (grand, inference)
}
