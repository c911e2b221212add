//! Differences of a head's rows of weights: how far they reach in the sets of labels.

use hemlock_head::kernel::{held, weight_products};
use ndarray::{Array2, ArrayView1, ArrayView2, Axis, s};
use rayon::prelude::*;

use super::{Constraint, ROWS, norm};

/// What rounding may add to the square of the distance between two rows, relative to their squares.
const ROUNDING: f64 = 1e-14;
/// Rows the square of whose distance is below this, relative to their squares, are subtracted from each other.
const ALIKE: f64 = 1e-8;

impl Constraint {
    /// Upper bounds of `<w_k - w_y, z>` over the sets of the given labels `y`, for all `k`. `w` are the weights of
    /// packed parameters, `[K, d + 1]`. `visit` is called with `y` and its bounds, `[K]`; its results are returned in
    /// the order of the labels.
    pub fn map_differences<T: Send>(
        &self,
        packed: ArrayView2<'_, f64>,
        labels: &[usize],
        visit: impl Fn(usize, &[f64]) -> T + Sync,
    ) -> Vec<T> {
        let squares = squares(packed);
        let of_block = |labels: &[usize]| {
            let bounds = Differences::of(self, packed, &squares, labels).into_iter().zip(labels);
            bounds.map(|(differences, y)| visit(*y, &differences.bounds)).collect::<Vec<_>>()
        };
        labels.par_chunks(ROWS).flat_map_iter(of_block).collect()
    }

    /// The sum of `c_yk (e_k - e_y) [z_yk, 1]ᵀ` over the given labels `y` and all `k`, `[K, d + 1]`, where `e` are unit
    /// vectors and `z_yk` attains the bound of [`Constraint::map_differences`]. It is the gradient of a function of
    /// these bounds and of the differences of the biases, whose derivatives are `c_yk`. `coefficients` is called with
    /// `y` and its bounds, and returns `c_yk`, `[K]`.
    pub fn sum_extremes(
        &self,
        packed: ArrayView2<'_, f64>,
        labels: &[usize],
        coefficients: impl Fn(usize, &[f64]) -> Vec<f64> + Sync,
    ) -> Array2<f64> {
        let squares = squares(packed);
        let of_block = |labels: &&[usize]| {
            let differences = Differences::of(self, packed, &squares, labels);
            let c: Vec<Vec<f64>> = labels.iter().zip(&differences).map(|(y, d)| coefficients(*y, &d.bounds)).collect();
            self.extremes(packed, labels, &differences, &c)
        };
        let blocks: Vec<&[usize]> = labels.chunks(ROWS).collect();
        blocks.chunks(held(packed.len())).fold(Array2::zeros(packed.dim()), |sum, some| {
            some.par_iter().map(of_block).collect::<Vec<_>>().into_iter().fold(sum, |sum, part| sum + part)
        })
    }

    /// [`Constraint::sum_extremes`] for some labels, with their differences and coefficients.
    ///
    /// In a ball the extreme point is `z_yk = a_yk (w_k - w_y) + centre_y` with `a_yk = radius / |w_k - w_y|`, so that
    /// the sums over pairs are products of matrices.
    fn extremes(
        &self,
        packed: ArrayView2<'_, f64>,
        labels: &[usize],
        differences: &[Differences],
        c: &[Vec<f64>],
    ) -> Array2<f64> {
        let (weights, shape) = (packed.slice(s![.., ..-1]), (labels.len(), packed.nrows()));
        let own = weights.select(Axis(0), labels);
        let mut sum = Array2::zeros(packed.dim());
        let (mut of_weights, mut of_biases) = sum.view_mut().split_at(Axis(1), packed.ncols() - 1);
        for (set, convex) in self.convex.iter().enumerate() {
            let Some(radius) = convex.radii(labels) else { continue };
            let nearest = |i: usize, k: usize| differences[i].nearest[k] == set;
            let scaled = Array2::from_shape_fn(shape, |(i, k)| {
                let length = differences[i].lengths[k];
                if length > 0.0 && nearest(i, k) { c[i][k] * radius[i] / length } else { 0.0 }
            });
            let mut of_labels = &own * &scaled.sum_axis(Axis(1)).insert_axis(Axis(1)) - scaled.dot(&weights);
            let mut towards = &weights * &scaled.sum_axis(Axis(0)).insert_axis(Axis(1)) - scaled.t().dot(&own);
            if let Some(centres) = convex.centres(labels) {
                let c = Array2::from_shape_fn(shape, |(i, k)| if nearest(i, k) { c[i][k] } else { 0.0 });
                towards += &c.t().dot(&centres);
                of_labels -= &(&centres * &c.sum_axis(Axis(1)).insert_axis(Axis(1)));
            }
            of_weights += &towards;
            labels.iter().zip(of_labels.rows()).for_each(|(y, row)| of_weights.row_mut(*y).scaled_add(1.0, &row));
        }
        let is_ball: Vec<bool> = self.convex.iter().map(|convex| convex.radii(labels).is_some()).collect();
        for (i, y) in labels.iter().enumerate() {
            for (k, c) in c[i].iter().enumerate().filter(|(_, c)| **c != 0.0) {
                of_biases[(k, 0)] += c;
                of_biases[(*y, 0)] -= c;
                // Where two rows are equal, the bound has no derivative; none is added.
                if differences[i].lengths[k] > 0.0 && !is_ball.get(differences[i].nearest[k]).is_some_and(|ball| *ball)
                {
                    let (_, z) = self.extreme((&weights.row(k) - &weights.row(*y)).view(), *y);
                    of_weights.row_mut(k).scaled_add(*c, &z);
                    of_weights.row_mut(*y).scaled_add(-c, &z);
                }
            }
        }
        sum
    }
}

/// The squared lengths of the weights of packed parameters, `[K]`.
fn squares(packed: ArrayView2<'_, f64>) -> Vec<f64> {
    packed.slice(s![.., ..-1]).rows().into_iter().map(|row| row.dot(&row)).collect()
}

/// The differences `w_k - w_y` of weights for one label `y`, `[K]` each.
struct Differences {
    /// Their lengths, or a little more.
    lengths: Vec<f64>,
    /// Upper bounds of their products with points of the label's set.
    bounds: Vec<f64>,
    /// Which set gives the bound: the place of a convex set, the number of these for `knn`, or [`NONE`].
    nearest: Vec<usize>,
}

/// No set gives the bound, which is infinite, or 0 for a difference of 0.
const NONE: usize = usize::MAX;

impl Differences {
    /// The differences for each of the labels, with one product of matrices. `squares` are those of the weights.
    fn of(constraint: &Constraint, packed: ArrayView2<'_, f64>, squares: &[f64], labels: &[usize]) -> Vec<Self> {
        let weights = packed.slice(s![.., ..-1]);
        let products = weight_products(packed.select(Axis(0), labels).view(), packed);
        let of_label = |(products, y): (ArrayView1<'_, f64>, &usize)| {
            let length = |(product, square): (&f64, &f64)| {
                let both = square + squares[*y];
                // Of rows that are almost equal, hardly a digit is left.
                let square = both * (1.0 + ROUNDING) - 2.0 * product;
                if square < ALIKE * both { f64::NAN } else { square.sqrt() }
            };
            let mut lengths: Vec<f64> = products.iter().zip(squares).map(length).collect();
            for (k, length) in lengths.iter_mut().enumerate().filter(|(_, length)| length.is_nan()) {
                *length = norm((&weights.row(k) - &weights.row(*y)).view());
            }
            let mut bounds: Vec<f64> = lengths.iter().map(|l| if *l == 0.0 { 0.0 } else { f64::INFINITY }).collect();
            let mut nearest = vec![NONE; lengths.len()];
            let mut lower = |set: usize, k: usize, bound: f64| {
                if bound < bounds[k] {
                    (bounds[k], nearest[k]) = (bound, set);
                }
            };
            for (set, convex) in constraint.convex.iter().enumerate() {
                convex.bound_differences(weights, *y, &lengths, |k, bound| lower(set, k, bound));
            }
            if let Some(knn) = &constraint.knn {
                knn[*y].bound_differences(weights, *y, &lengths, |k, bound| lower(constraint.convex.len(), k, bound));
            }
            Self { lengths, bounds, nearest }
        };
        products.rows().into_iter().zip(labels).map(of_label).collect()
    }
}
