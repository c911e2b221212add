//! Estimates the variance of a mean over extractors, training data, attacks and test images.

use super::{Components, Inference, Lack, Noise, Scope, Tested};
use std::collections::{BTreeMap, BTreeSet};

/// A value of one extractor and one draw of training data.
#[derive(Debug, Clone, Default)]
pub struct Cell {
    /// The number of the extractor.
    pub extractor: usize,
    /// The number of the draw of training data.
    pub draw: usize,
    /// The value.
    pub value: f64,
    /// The part of its error that comes from test images.
    pub noise: Noise,
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

/// The mean of some cells, and its error. `overlap(a, b)` is the share of training images that two draws have in
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
pub fn infer(cells: Vec<Cell>, overlap: &dyn Fn(usize, usize) -> f64) -> Result<(f64, Inference), Lack> {
    if cells.len() < 2 {
        return Err(Lack::One);
    }
    let largest = cells.iter().fold(0.0f64, |most, cell| most.max(cell.value.abs()));
    let levels = |of: fn(&Cell) -> usize| cells.iter().map(of).collect::<BTreeSet<usize>>();
    let (mut extractors, mut draws) = (levels(|c| c.extractor), levels(|c| c.draw));
    // Values that are equal up to rounding have no variance.
    if cells.iter().all(|cell| (cell.value - cells[0].value).abs() <= 1e-12 * largest) {
        return Err(if extractors.len() * draws.len() > 1 { Lack::NoSpread } else { Lack::Equal });
    }
    let mut runs: BTreeMap<(usize, usize), Vec<Cell>> = BTreeMap::new();
    for cell in cells {
        runs.entry((cell.extractor, cell.draw)).or_default().push(cell);
    }
    let counts: BTreeMap<(usize, usize), usize> = runs.iter().map(|(at, runs)| (*at, runs.len())).collect();
    let attacks = counts.values().copied().max().unwrap_or(1);
    let scope = Scope { extractors: extractors.len(), draws: draws.len(), attacks, ..Scope::default() };
    if runs.len() == 1 {
        let units: Vec<Cell> = runs.into_values().flatten().collect();
        let images = tested(&units);
        return Ok(one_way(&units, 0.0, Scope { images, ..scope }, |rest| Components {
            rest,
            ..Components::default()
        }));
    }
    let mut means: BTreeMap<(usize, usize), Cell> = runs.into_iter().map(|(at, runs)| (at, mean(&runs))).collect();
    let nested = |of: fn(&(usize, usize)) -> usize| levels_once(means.keys().map(of));
    let (in_draws, in_extractors) = (nested(|at| at.0), nested(|at| at.1));
    let crossed = means.len() == extractors.len() * draws.len();
    if !crossed && (in_draws || in_extractors) {
        // The design is nested: every draw has extractors of its own, or every extractor has training data of its own.
        // The units that remain are draws or extractors.
        let by_draw = in_draws && draws.len() > 1;
        let mut units: BTreeMap<usize, Vec<Cell>> = BTreeMap::new();
        for (at, cell) in means {
            units.entry(if by_draw { at.1 } else { at.0 }).or_default().push(cell);
        }
        let units: Vec<Cell> = units.into_values().map(|cells| mean(&cells)).collect();
        let (overlap, scope) = overlapping(&draws, overlap, scope);
        let scope = Scope { images: tested(&units), nested: true, ..scope };
        return Ok(one_way(&units, overlap, scope, |draws| Components { draws, ..Components::default() }));
    }
    if !crossed {
        (extractors, draws) = rectangle(&means, &extractors, &draws).ok_or(Lack::Incomplete)?;
        means.retain(|at, _| extractors.contains(&at.0) && draws.contains(&at.1));
    }
    let left_out = counts.iter().filter(|(at, _)| !means.contains_key(at)).map(|(_, n)| n).sum();
    let scope = Scope { extractors: extractors.len(), draws: draws.len(), left_out, ..scope };
    let (overlap, scope) = overlapping(&draws, overlap, scope);
    let cells: Vec<Cell> = means.into_values().collect();
    let scope = Scope { images: tested(&cells), ..scope };
    Ok(match (extractors.len(), draws.len()) {
        (1, _) => one_way(&cells, overlap, scope, |draws| Components { draws, ..Components::default() }),
        (_, 1) => one_way(&cells, 0.0, scope, |extractors| Components { extractors, ..Components::default() }),
        (e, d) => two_way(&cells, (e, d), overlap, scope),
    })
}

/// The mean share of training images that two draws have in common, and the scope with it. If draws share nearly all
/// images, there are no other training data to generalise to. They then count as runs on the same data.
fn overlapping(draws: &BTreeSet<usize>, overlap: &dyn Fn(usize, usize) -> f64, scope: Scope) -> (f64, Scope) {
    match mean_of_pairs(draws, overlap) {
        share if share > SAME => {
            (0.0, Scope { draws: 1, attacks: scope.attacks * draws.len(), overlap: share, ..scope })
        }
        share => (share, Scope { overlap: share, ..scope }),
    }
}

/// The larger complete table: either the extractors that have all draws, or the draws that all extractors have. `None`
/// if it has fewer than two cells.
fn rectangle(
    means: &BTreeMap<(usize, usize), Cell>,
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

/// The mean of cells, with the extractor and the draw of the first one.
fn mean(cells: &[Cell]) -> Cell {
    let share = 1.0 / cells.len() as f64;
    let mut noise = Noise::default();
    cells.iter().for_each(|cell| noise.add(share, &cell.noise));
    let value = share * cells.iter().map(|cell| cell.value).sum::<f64>();
    Cell { extractor: cells[0].extractor, draw: cells[0].draw, value, noise }
}

fn tested(cells: &[Cell]) -> Tested {
    let first = &cells[0].noise;
    if cells.iter().any(|cell| cell.noise.is_empty()) {
        return Tested::Unknown;
    }
    if cells.iter().all(|cell| cell.noise.same(first)) {
        return Tested::Same(first.len());
    }
    let others = |a: &Cell| cells.iter().filter(|b| b.draw != a.draw).any(|b| a.noise.meets(&b.noise));
    if cells.iter().any(others) { Tested::Partly } else { Tested::Apart }
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
fn one_way(units: &[Cell], overlap: f64, scope: Scope, part: impl Fn(f64) -> Components) -> (f64, Inference) {
    let n = units.len() as f64;
    let grand = units.iter().map(|unit| unit.value).sum::<f64>() / n;
    let b = units.iter().map(|unit| (unit.value - grand).powi(2)).sum::<f64>() / (n - 1.0) / n;
    let own = units.iter().map(|unit| unit.noise.covariance(&unit.noise)).sum::<f64>() / n;
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

/// The mean covariance, by test images, of two different cells for which `when` is true.
fn covariances(cells: &[Cell], when: impl Fn(&Cell, &Cell) -> bool) -> f64 {
    let (mut sum, mut n) = (0.0, 0.0f64);
    for (i, a) in cells.iter().enumerate() {
        for b in cells[i + 1..].iter().filter(|b| when(a, b)) {
            sum += a.noise.covariance(&b.noise);
            n += 1.0;
        }
    }
    sum / n.max(1.0)
}

/// The mean over all combinations of `e` extractors and `d` draws of training data, and its error.
fn two_way(cells: &[Cell], (e, d): (usize, usize), overlap: f64, scope: Scope) -> (f64, Inference) {
    let (ne, nd) = (e as f64, d as f64);
    let grand = cells.iter().map(|cell| cell.value).sum::<f64>() / (ne * nd);
    let means = |of: fn(&Cell) -> usize, n: f64| {
        let mut means: BTreeMap<usize, f64> = BTreeMap::new();
        cells.iter().for_each(|cell| *means.entry(of(cell)).or_default() += cell.value / n);
        means
    };
    let (by_extractor, by_draw) = (means(|c| c.extractor, nd), means(|c| c.draw, ne));
    let spread = |means: &BTreeMap<usize, f64>| means.values().map(|mean| (mean - grand).powi(2)).sum::<f64>();
    let (fa, fb) = (ne - 1.0, nd - 1.0);
    let fr = fa * fb;
    let (a, b) = (spread(&by_extractor) / fa / ne, spread(&by_draw) / fb / nd);
    let left = |cell: &Cell| cell.value - by_extractor[&cell.extractor] - by_draw[&cell.draw] + grand;
    let r = cells.iter().map(|cell| left(cell).powi(2)).sum::<f64>() / fr / (ne * nd);

    let own = cells.iter().map(|cell| cell.noise.covariance(&cell.noise)).sum::<f64>() / (ne * nd);
    let same_extractor = covariances(cells, |x, y| x.extractor == y.extractor);
    let same_draw = covariances(cells, |x, y| x.draw == y.draw);
    let common = covariances(cells, |x, y| x.extractor != y.extractor && x.draw != y.draw).max(0.0);
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
