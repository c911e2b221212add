//! The error of a mean over extractors, training data, attacks and test images.

use super::{Components, Inference, Lack, Noise, Scope, Tested};
use std::collections::{BTreeMap, BTreeSet};

/// A value, and what it is of.
#[derive(Debug, Clone, Default)]
pub struct Cell {
    /// Number of the extractor.
    pub extractor: usize,
    /// Number of the draw of training data.
    pub draw: usize,
    /// The value.
    pub value: f64,
    /// What test images add to its error.
    pub noise: Noise,
}

/// Draws that have more of their training images in common are not taken for draws of training data, but of these.
const SAME: f64 = 0.95;

/// The part of the variance that is not of training data that is taken off for what does not overlap, at most.
const MOST: f64 = 0.4;

/// A mean square of `f` degrees of freedom counts for so many times itself where degrees of freedom are found: for its
/// mean, and for what it scatters by. With 1 in the place of 2.4 / f it is Satterthwaite's formula, which with 2 to 4
/// degrees of freedom beside what has infinitely many takes the mean square for smaller than it is whenever it comes
/// out small: 5 % become 6.2. The number is the one that keeps sizes between 4.4 and 5.3 % and coverage between 94 and
/// 96 % over all ratios of the two variances, from 2 degrees of freedom.
fn weight(f: f64) -> f64 {
    1.0 + 2.4 / f
}

/// The mean of some cells, and its error. `overlap` is the share of training images that two draws have in common.
///
/// Where cells are one a combination of extractor and training data, with a value for each mean over test images, the
/// variance of the mean is that of the analysis of variance of these values, and beside it that of the test images that
/// they share:
///
/// ```text
/// V = S + X + C        S = max(a, b, a + b - r)
/// ```
///
/// `a`, `b` and `r` are the variances of the means of extractors, of training data, and of what is left, each divided
/// by how many it is taken over: of each other, `a` and `b` contain `r`. `C` is the mean covariance, over their common
/// test images, of values that differ in both. Where there is one extractor, or one set of training data, `S` is the
/// variance of the others' means.
///
/// `X` is for training data that overlap. Draws that share a share `q` of their images are correlated by `q`, as far as
/// images act by themselves; their sample variance leaves that out, and so the variance of the mean of `D` draws is
/// `1 / D + q / (1 - q)` sample variances (Nadeau and Bengio, 2003). But a part of the sample variance comes from test
/// images and from attacks, which do not overlap: that part is not counted in `X`, as far as it is at most two fifths
/// of the variance that is not of training data (more would be too much where sample variances are of few draws).
///
/// # Errors
/// There is one value, all are the same, or too few combinations are there.
pub fn infer(cells: Vec<Cell>, overlap: &dyn Fn(usize, usize) -> f64) -> Result<(f64, Inference), Lack> {
    if cells.len() < 2 {
        return Err(Lack::One);
    }
    let largest = cells.iter().fold(0.0f64, |most, cell| most.max(cell.value.abs()));
    let levels = |of: fn(&Cell) -> usize| cells.iter().map(of).collect::<BTreeSet<usize>>();
    let (mut extractors, mut draws) = (levels(|c| c.extractor), levels(|c| c.draw));
    // Of values that are equal but for rounding a mean is not.
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
        // An extractor of its own for every draw, or for some; or training data that no two extractors have in common.
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

/// The share of training images that two draws have in common, as far as it counts, and the scope with it. Draws of
/// nearly all the images that there are differ in nothing that could be generalised to: they are no draws, but runs.
fn overlapping(draws: &BTreeSet<usize>, overlap: &dyn Fn(usize, usize) -> f64, scope: Scope) -> (f64, Scope) {
    match mean_of_pairs(draws, overlap) {
        share if share > SAME => {
            (0.0, Scope { draws: 1, attacks: scope.attacks * draws.len(), overlap: share, ..scope })
        }
        share => (share, Scope { overlap: share, ..scope }),
    }
}

/// What is there, by the number of cells: extractors that have all draws, or draws that all extractors have.
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

/// Whether no level comes twice.
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

/// The mean of cells, as a cell of the first one's extractor and draw.
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

/// What training images that draws have in common add to the variance of a mean: see [`infer`].
struct Overlap {
    /// Sample variances of draws' means that the variance of their mean has beside its share.
    times: f64,
    /// What is not counted of that.
    but: f64,
}

impl Overlap {
    /// Of `d` draws with that share in common: of the variance of their means' mean `other` is not of training images.
    /// `beside` it there are variances of the mean that are not of training data.
    fn new(share: f64, d: usize, other: f64, beside: f64) -> Self {
        let times = d as f64 * share / (1.0 - share);
        Self { times, but: (times * other).min(MOST * beside) }
    }

    /// What is added to a variance `b` of the mean of draws, and how fast that grows with it.
    fn of(&self, b: f64) -> (f64, f64) {
        let more = self.times * b - self.but;
        if more > 0.0 { (more, self.times) } else { (0.0, 0.0) }
    }
}

/// Of units, all of one kind, that share a share of their training images.
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

/// Mean covariance of two different cells that a condition holds for.
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

/// Of all combinations of `e` extractors and `d` draws of training data.
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
    // Of the variance of the mean, what extractors' and draws' own views of the test images are, and what is left.
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
