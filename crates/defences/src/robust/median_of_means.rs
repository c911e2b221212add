//! The geometric median of heads that are trained on disjoint parts.

use hemlock_head::Head;
use hemlock_optim::norm;
use ndarray::Array2;
use rayon::prelude::*;

use crate::hash::{hashes, part};
use crate::losses::train;
use crate::{DefenceError, TrainingData};

const PURPOSE: &str = "hemlock 2026 parts of the median of means";
/// The gradient norm at which a part's head counts as trained.
const TOLERANCE: f64 = 1e-6;
/// Largest number of steps to the median, and the length of a step, relative to the norm of the median, at which it
/// stops.
const STEPS: usize = 10_000;
const SETTLED: f64 = 1e-10;

/// Deals the samples into `parts` by a hash, trains a head on each part, and returns the heads' geometric median: the
/// head with the least sum of distances to them. Fewer than half of the parts cannot move it arbitrarily far, whatever
/// samples they have.
///
/// # Errors
/// Returns an error if there are no parts or more than samples, if a part has no samples, or if a head cannot be
/// trained.
pub fn median_of_means(set: &TrainingData<'_>, parts: usize) -> Result<Head, DefenceError> {
    DefenceError::check_count("parts", parts, 1, set.len())?;
    let hashes = hashes(set, PURPOSE);
    let train_on = |number: usize| {
        let rows: Vec<usize> = (0..set.len()).filter(|row| part(&hashes[*row], parts) == number).collect();
        if rows.is_empty() {
            return Err(DefenceError::EmptyPart { defence: "median of means", parts, samples: set.len() });
        }
        let subset = set.select(&rows);
        let blocks = [subset.samples()];
        let part = TrainingData::new(&blocks, set.weight_decay(), set.seed())?;
        Ok(train(&part, TOLERANCE)?.0.into_packed())
    };
    let heads: Vec<Array2<f64>> = (0..parts).into_par_iter().map(train_on).collect::<Result<_, DefenceError>>()?;
    Ok(Head::from_packed(geometric_median(&heads))?)
}

/// The algorithm of Weiszfeld, with the step of Vardi & Zhang (2000) where it meets one of the points.
fn geometric_median(points: &[Array2<f64>]) -> Array2<f64> {
    let zero = Array2::zeros(points[0].dim());
    let mut median = points.iter().fold(zero.clone(), |sum, point| sum + point) / points.len() as f64;
    for _ in 0..STEPS {
        let distances: Vec<f64> = points.iter().map(|point| norm(&(point - &median))).collect();
        let at = distances.iter().filter(|distance| **distance == 0.0).count() as f64;
        let others = || points.iter().zip(&distances).filter(|(_, distance)| **distance > 0.0);
        let weights: f64 = others().map(|(_, distance)| distance.recip()).sum();
        if weights == 0.0 {
            break;
        }
        let mean = others().fold(zero.clone(), |sum, (point, distance)| sum + point / *distance) / weights;
        // The pull of the other points; those at the median hold it with a strength of 1 each.
        let pull = norm(&(&mean - &median)) * weights;
        let share = if at > 0.0 { (1.0 - at / pull).max(0.0) } else { 1.0 };
        let step = (mean - &median) * share;
        median += &step;
        if norm(&step) <= SETTLED * norm(&median) {
            break;
        }
    }
    median
}

#[cfg(test)]
mod tests {
    use super::*;
    use hemlock_head::Samples;
    use hemlock_head::testing::{GaussianClusters, random};
    use ndarray::array;

    #[test]
    fn medians_by_hand() {
        // On a line, the geometric median is the median.
        let line = [0.0, 1.0, 2.0, 50.0, 1e6].map(|x| array![[x, 0.0]]);
        assert!((geometric_median(&line) - array![[2.0, 0.0]]).iter().all(|off| off.abs() < 1e-6));
        // In a triangle without an angle of 120 degrees or more, all sides are seen at 120 degrees.
        let triangle = [array![[0.0, 0.0]], array![[1.0, 0.0]], array![[0.5, 3f64.sqrt() / 2.0]]];
        let centre = array![[0.5, 3f64.sqrt() / 6.0]];
        assert!((geometric_median(&triangle) - centre).iter().all(|off| off.abs() < 1e-8));
        assert_eq!(geometric_median(&[array![[3.0]], array![[3.0]]]), array![[3.0]]);
    }

    #[test]
    fn the_median_has_the_least_sum_of_distances() {
        let points: Vec<_> = (0..7).map(|seed| random(3, 4, seed)).collect();
        let sum = |at: &Array2<f64>| points.iter().map(|point| norm(&(point - at))).sum::<f64>();
        let median = geometric_median(&points);
        assert!((0..50).all(|seed| sum(&(&median + &(random(3, 4, 100 + seed) * 1e-3))) > sum(&median)));
    }

    /// A few samples that are very far out spoil few parts.
    #[test]
    fn few_far_samples_move_it_little() {
        let data = GaussianClusters::new(600, 3, 3, 1);
        let far = random(3, 3, 2) * 1e3;
        let blocks = [data.samples(), Samples::new(far.view(), &[0, 1, 2], 3).unwrap()];
        let off = |blocks: &[Samples<'_>], parts| {
            let set = TrainingData::new(blocks, 1e-2, 4).unwrap();
            let clean = TrainingData::new(&blocks[..1], 1e-2, 4).unwrap();
            let of = |set| median_of_means(set, parts).unwrap().into_packed();
            norm(&(of(&set) - &of(&clean)))
        };
        assert!(off(&blocks, 15) < 0.5 * off(&blocks, 1), "{} {}", off(&blocks, 15), off(&blocks, 1));
    }

    #[test]
    fn an_empty_part_is_named() {
        let data = GaussianClusters::new(20, 2, 2, 1);
        let blocks = [data.samples()];
        let set = TrainingData::new(&blocks, 0.1, 0).unwrap();
        let refused = median_of_means(&set, 20).unwrap_err();
        assert_eq!(refused, DefenceError::EmptyPart { defence: "median of means", parts: 20, samples: 20 });
    }
}
