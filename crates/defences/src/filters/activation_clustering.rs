//! Two clusters in every class, the smaller of which is suspicious.

use hemlock_head::subsample;
use ndarray::{Array1, Array2, ArrayView1, Axis, Slice};
use rayon::prelude::*;

use super::neighbors::{Single, distance, visit_distances};
use super::{Filter, FilterOptions, Filtered, RemovalRule, remove_of_classes};
use crate::linalg::{centre, eigen, gram, mean, product, squared};
use crate::{DefenceError, TrainingData};

/// Number of principal components that are clustered.
const COMPONENTS: usize = 10;
/// A cluster with a smaller share of its class than this is suspicious, if the clusters are apart.
const SMALL: f64 = 0.35;
/// The mean silhouette from which on clusters are apart.
const APART: f64 = 0.1;
/// The largest number of samples of a class that the mean silhouette is taken over.
const SILHOUETTES: usize = 4096;
/// Largest number of rounds of Lloyd's algorithm.
const ROUNDS: usize = 300;

pub(super) static FILTER: Filter = Filter {
    name: "activation-clustering",
    score: "the distance to the centre of the larger of two clusters of the class, minus that to the centre of the \
            smaller one, in the class's 10 first principal components",
    rule: "the smaller cluster of each class that has less than 35 % of it and a mean silhouette of at least 0.1 \
           between the clusters, whatever share is expected",
    by_class: true,
    multiple: 0.0,
    source: "Chen et al., 2018 (thresholds: the defaults of IBM's Adversarial Robustness Toolbox)",
    run,
    fixed: None,
};

fn run(set: &TrainingData<'_>, options: &FilterOptions) -> Result<Filtered, DefenceError> {
    let (mut scores, mut removed) = (vec![0.0; set.len()], vec![false; set.len()]);
    for rows in set.class_rows().iter().filter(|rows| !rows.is_empty()) {
        let mut z = set.select(rows).features;
        centre(&mut z);
        let (_, vectors) = eigen(&gram(z.view()))?;
        let points = product(z.view(), vectors.slice_axis(Axis(1), Slice::from(..COMPONENTS.min(set.dim()))));
        let clusters = Clusters::of(&points);
        let suspicious = clusters.share() < SMALL && clusters.mean_silhouette(&points) >= APART;
        for ((row, point), small) in rows.iter().zip(points.rows()).zip(&clusters.in_small) {
            scores[*row] = distance(point, clusters.large.view()) - distance(point, clusters.small.view());
            removed[*row] = *small && suspicious;
        }
    }
    Ok(match options.removal {
        RemovalRule::Share(share) => remove_of_classes(set, scores, share),
        RemovalRule::Paper { .. } => Filtered { scores, removed },
    })
}

/// Two clusters of points.
struct Clusters {
    /// The centre of the cluster with more points, and that of the other one.
    large: Array1<f64>,
    small: Array1<f64>,
    /// Whether a point belongs to the smaller cluster.
    in_small: Vec<bool>,
    /// The sum of the squared distances to the centres.
    inertia: f64,
}

impl Clusters {
    /// The best of several runs of 2-means. For each coordinate, which is a principal component, one run starts from
    /// its halves, and two start from the points that are nearer to one of its ends than to the mean, because poisons
    /// may be a few points far out. A run starts at the same clusters whatever the order of the points.
    fn of(points: &Array2<f64>) -> Self {
        let middle = mean(points.view());
        let whole = Self {
            large: middle.clone(),
            small: middle.clone(),
            in_small: vec![false; points.nrows()],
            inertia: f64::INFINITY,
        };
        let columns: Vec<_> = points.columns().into_iter().collect();
        let runs_of = |column: &ArrayView1<'_, f64>| {
            let mean = column.sum() / column.len() as f64;
            let above = column.iter().map(|value| *value > mean).collect();
            let [low, high] = ends(*column).map(|row| {
                let centres = [middle.clone(), points.row(row).to_owned()];
                nearer_to_second(points, &centres)
            });
            [above, low, high].map(|start| lloyd(points, start))
        };
        let runs: Vec<_> = columns.par_iter().map(runs_of).collect();
        let runs = runs.into_iter().flatten().flatten();
        runs.fold(whole, |best, next| if next.inertia < best.inertia { next } else { best })
    }

    fn share(&self) -> f64 {
        self.in_small.iter().filter(|small| **small).count() as f64 / self.in_small.len() as f64
    }

    /// The mean silhouette (Rousseeuw, 1987); 0 if there is one cluster only.
    fn mean_silhouette(&self, points: &Array2<f64>) -> f64 {
        let rows = subsample(points.nrows(), SILHOUETTES);
        let some = points.select(Axis(0), &rows);
        // Silhouettes are ratios of distances, which the scale does not change.
        let some = Single::of(some.view()).points(some.view());
        let small: Vec<bool> = rows.iter().map(|row| self.in_small[*row]).collect();
        let counts = [false, true].map(|which| small.iter().filter(|one| **one == which).count());
        if counts.contains(&0) {
            return 0.0;
        }
        let silhouettes = visit_distances(some.view(), &some, |row, squares| {
            squares[row] = 0.0;
            let mut sums = [0.0; 2];
            for (square, small) in squares.iter().zip(&small) {
                sums[usize::from(*small)] += f64::from(square.max(0.0).sqrt());
            }
            let own = usize::from(small[row]);
            if counts[own] == 1 {
                return 0.0;
            }
            let inside = sums[own] / (counts[own] - 1) as f64;
            let outside = sums[1 - own] / counts[1 - own] as f64;
            // Points that all coincide are in no cluster more than in the other.
            if inside.max(outside) > 0.0 { (outside - inside) / inside.max(outside) } else { 0.0 }
        });
        silhouettes.iter().sum::<f64>() / rows.len() as f64
    }
}

/// The rows of the smallest and of the largest value.
fn ends(column: ArrayView1<'_, f64>) -> [usize; 2] {
    let rows = 1..column.len();
    let low = rows.clone().fold(0, |best, row| if column[row] < column[best] { row } else { best });
    [low, rows.fold(0, |best, row| if column[row] > column[best] { row } else { best })]
}

/// Lloyd's algorithm from two clusters; `None` if one of them has no points.
fn lloyd(points: &Array2<f64>, mut second: Vec<bool>) -> Option<Clusters> {
    let mut centres = centres_of(points, &second)?;
    for _ in 0..ROUNDS {
        let next = nearer_to_second(points, &centres);
        if next == second {
            break;
        }
        second = next;
        centres = centres_of(points, &second)?;
    }
    let inertia = points
        .rows()
        .into_iter()
        .zip(&second)
        .map(|(point, second)| squared((&point - &centres[usize::from(*second)]).view()));
    let inertia = inertia.sum();
    let more_in_second = 2 * second.iter().filter(|second| **second).count() > second.len();
    let [mut large, mut small] = centres;
    if more_in_second {
        std::mem::swap(&mut large, &mut small);
        second.iter_mut().for_each(|second| *second = !*second);
    }
    Some(Clusters { large, small, in_small: second, inertia })
}

/// The means of the first and of the second cluster; `None` if one of them has no points.
fn centres_of(points: &Array2<f64>, second: &[bool]) -> Option<[Array1<f64>; 2]> {
    let mut sums = [Array1::zeros(points.ncols()), Array1::zeros(points.ncols())];
    let mut counts = [0usize; 2];
    for (point, second) in points.rows().into_iter().zip(second) {
        sums[usize::from(*second)] += &point;
        counts[usize::from(*second)] += 1;
    }
    let [first, second] = sums;
    (!counts.contains(&0)).then(|| [first / counts[0] as f64, second / counts[1] as f64])
}

fn nearer_to_second(points: &Array2<f64>, centres: &[Array1<f64>; 2]) -> Vec<bool> {
    // The nearer centre is told by the side of the plane between them.
    let across = &centres[1] - &centres[0];
    let middle = 0.5 * (squared(centres[1].view()) - squared(centres[0].view()));
    points.dot(&across).iter().map(|along| *along > middle).collect()
}
