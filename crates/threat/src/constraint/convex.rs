//! Convex sets, projections onto them, and the projection onto their intersection.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, ArrayViewMut1, Axis, Zip};

use super::{ClassRows, at_quantile, norm, unit};
use hemlock_head::Samples;

/// The largest number of rounds of Dykstra's algorithm, and the change of its corrections, relative to `1 +` the norm
/// of the point, at which it stops. (The point itself may stay unchanged for several rounds before it moves again.)
const ROUNDS: usize = 10_000;
const SETTLED: f64 = 1e-8;
/// A direction whose product with a unit vector is less than its own length by more than this share is not parallel to
/// it, whatever is rounded.
const PARALLEL: f64 = 1e-6;

/// A closed convex set for each label.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Convex {
    /// A ball around the origin.
    Ball(f64),
    /// A range for each coordinate.
    Box { low: Array1<f64>, high: Array1<f64> },
    /// A ball around the centroid of the label's class, by class.
    Sphere(Vec<Sphere>),
    /// The points whose offset from the centroid of the label's class, along a direction of that class, is at most the
    /// half-width; by class.
    Slab(Vec<Slab>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sphere {
    centre: Array1<f64>,
    radius: f64,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Slab {
    centre: Array1<f64>,
    /// The unit vector from the mean of the other centroids to this one.
    direction: Array1<f64>,
    half_width: f64,
}

impl Convex {
    pub(super) fn ball(clean: Samples<'_>, quantile: f64) -> Self {
        let norms = clean.chunks().flat_map(|c| c.to_f64().rows().into_iter().map(norm).collect::<Vec<_>>());
        Self::Ball(at_quantile(norms.collect(), quantile))
    }

    pub(super) fn range(clean: Samples<'_>) -> Self {
        let mut low = Array1::from_elem(clean.dim(), f64::INFINITY);
        let mut high = Array1::from_elem(clean.dim(), f64::NEG_INFINITY);
        for chunk in clean.chunks() {
            for z in chunk.to_f64().rows() {
                Zip::from(&mut low).and(&mut high).and(z).for_each(|low, high, z| {
                    *low = low.min(*z);
                    *high = high.max(*z);
                });
            }
        }
        Self::Box { low, high }
    }

    pub(super) fn sphere(classes: &ClassRows<'_>, quantile: f64) -> Self {
        let sphere = |class: usize| {
            let centre = classes.centroids.row(class).to_owned();
            let distances = classes.select(class).rows().into_iter().map(|z| norm((&z - &centre).view())).collect();
            Sphere { radius: at_quantile(distances, quantile), centre }
        };
        Self::Sphere((0..classes.rows.len()).map(sphere).collect())
    }

    pub(super) fn slab(classes: &ClassRows<'_>, quantile: f64) -> Self {
        let sum = classes.centroids.sum_axis(Axis(0));
        let others = (classes.rows.len() - 1) as f64;
        let slab = |class: usize| {
            let centre = classes.centroids.row(class).to_owned();
            let mut direction = &centre - &((&sum - &centre) / others);
            // If the centroids are equal, no direction separates them. The direction is zero, and the slab is the whole
            // space.
            direction /= norm(direction.view()).max(f64::MIN_POSITIVE);
            let offsets =
                classes.select(class).rows().into_iter().map(|z| (&z - &centre).dot(&direction).abs()).collect();
            Slab { half_width: at_quantile(offsets, quantile), centre, direction }
        };
        Self::Slab((0..classes.rows.len()).map(slab).collect())
    }

    pub(super) fn project_row(&self, mut row: ArrayViewMut1<'_, f64>, label: usize) {
        let shrink = |row: &mut ArrayViewMut1<'_, f64>, radius: f64| {
            let norm = norm(row.view());
            if norm > radius {
                *row *= radius / norm;
            }
        };
        match self {
            Self::Ball(radius) => shrink(&mut row, *radius),
            Self::Box { low, high } => {
                Zip::from(row).and(low).and(high).for_each(|z, low, high| *z = z.clamp(*low, *high));
            }
            Self::Sphere(spheres) => {
                let Sphere { centre, radius } = &spheres[label];
                row -= centre;
                shrink(&mut row, *radius);
                row += centre;
            }
            Self::Slab(slabs) => {
                let Slab { centre, direction, half_width } = &slabs[label];
                let offset = (&row - centre).dot(direction);
                row.scaled_add(offset.clamp(-half_width, *half_width) - offset, direction);
            }
        }
    }

    /// The largest `|z|` in a label's set, or an upper bound of it. It is infinite for a slab.
    pub(super) fn largest_norm(&self, label: usize) -> f64 {
        match self {
            Self::Ball(radius) => *radius,
            Self::Box { low, high } => norm(Zip::from(low).and(high).map_collect(|l, h| l.abs().max(h.abs())).view()),
            Self::Sphere(spheres) => norm(spheres[label].centre.view()) + spheres[label].radius,
            Self::Slab(_) => f64::INFINITY,
        }
    }

    /// The radii of the labels' sets, if these are balls.
    pub(super) fn radii(&self, labels: &[usize]) -> Option<Vec<f64>> {
        match self {
            Self::Ball(radius) => Some(vec![*radius; labels.len()]),
            Self::Sphere(spheres) => Some(labels.iter().map(|y| spheres[*y].radius).collect()),
            Self::Box { .. } | Self::Slab(_) => None,
        }
    }

    /// The centres of the labels' sets, `[labels, d]`, if these are balls around other points than the origin.
    pub(super) fn centres(&self, labels: &[usize]) -> Option<Array2<f64>> {
        let Self::Sphere(spheres) = self else { return None };
        let mut centres = Array2::zeros((labels.len(), spheres[0].centre.len()));
        centres.rows_mut().into_iter().zip(labels).for_each(|(mut row, y)| row.assign(&spheres[*y].centre));
        Some(centres)
    }

    /// Calls `lower` with some `k` and with the largest `<w_k - w_y, z>` over the set of label `y`, or an upper bound
    /// of it. For any other `k`, it is infinite. `w` are `weights`, `[K, d]`, and `lengths` are at least `|w_k - w_y|`.
    pub(super) fn bound_differences(
        &self,
        weights: ArrayView2<'_, f64>,
        y: usize,
        lengths: &[f64],
        mut lower: impl FnMut(usize, f64),
    ) {
        match self {
            Self::Ball(radius) => lengths.iter().enumerate().for_each(|(k, length)| lower(k, radius * length)),
            Self::Sphere(spheres) => {
                let Sphere { centre, radius } = &spheres[y];
                let along = weights.dot(centre);
                lengths.iter().enumerate().for_each(|(k, length)| lower(k, along[k] - along[y] + radius * length));
            }
            Self::Box { low, high } => {
                for (k, row) in weights.rows().into_iter().enumerate() {
                    let mut sum = 0.0;
                    Zip::from(row).and(weights.row(y)).and(low).and(high).for_each(|w, of_y, low, high| {
                        let across = w - of_y;
                        sum += across * if across > 0.0 { high } else { low };
                    });
                    lower(k, sum);
                }
            }
            Self::Slab(slabs) => {
                let along = weights.dot(&slabs[y].direction);
                for (k, length) in lengths.iter().enumerate() {
                    // Any other difference is surely not parallel to the slab's direction.
                    if (along[k] - along[y]).abs() >= length * (1.0 - PARALLEL) {
                        lower(k, self.extreme((&weights.row(k) - &weights.row(y)).view(), y).0);
                    }
                }
            }
        }
    }

    /// The largest `<direction, z>` over a label's set, and a point that attains it. It is infinite for a slab, unless
    /// the direction is parallel to the slab's own; the point is then zero.
    pub(super) fn extreme(&self, direction: ArrayView1<'_, f64>, label: usize) -> (f64, Array1<f64>) {
        let point = match self {
            Self::Ball(radius) => unit(direction) * *radius,
            Self::Box { low, high } => {
                Zip::from(direction).and(low).and(high).map_collect(|a, low, high| if *a > 0.0 { *high } else { *low })
            }
            Self::Sphere(spheres) => unit(direction) * spheres[label].radius + &spheres[label].centre,
            Self::Slab(slabs) => {
                let Slab { centre, direction: across, half_width } = &slabs[label];
                let along = direction.dot(across);
                let rest = &direction - &(across * along);
                if norm(rest.view()) > 1e-12 * norm(direction) {
                    return (f64::INFINITY, Array1::zeros(direction.len()));
                }
                centre + &(across * (half_width * along.signum()))
            }
        };
        (direction.dot(&point), point)
    }
}

/// Moves `row` to the nearest point of an intersection by Dykstra's algorithm (Boyle & Dykstra, 1986): alternating
/// projections. Before each projection, the last correction by the same set is undone.
pub(super) fn dykstra(sets: &[Convex], mut row: ArrayViewMut1<'_, f64>, label: usize) {
    let mut corrections = vec![Array1::<f64>::zeros(row.len()); sets.len()];
    for _ in 0..ROUNDS {
        let mut change = 0.0;
        for (set, correction) in sets.iter().zip(&mut corrections) {
            row += &*correction;
            let before = row.to_owned();
            set.project_row(row.view_mut(), label);
            let moved = before - &row;
            change += norm((&moved - &*correction).view());
            correction.assign(&moved);
        }
        if change <= SETTLED * (1.0 + norm(row.view())) {
            break;
        }
    }
}
