//! The memory of L-BFGS (Nocedal & Wright, algorithm 7.4), for vectors so long that reading them dominates the cost of
//! a step.
//!
//! Until the direction is assembled, the two loops need nothing but inner products. They therefore run on the
//! coefficients of the direction with respect to the stored vectors (Chen, Wang & Zhou, "Large-scale L-BFGS using
//! MapReduce", 2014). A step reads the memory twice, on all threads.

use crate::Snapshot;
use ndarray::{Array2, ArrayView1};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::{array, collections::VecDeque};

/// Number of pairs of a step and a gradient change that are kept. Results depend on it, so it is part of a task's key.
pub const PAIRS: usize = 5;
/// Number of elements in a block of a sum. It is fixed, so that the number of threads does not change how sums are
/// grouped.
const BLOCK: usize = 2048;

/// The last [`PAIRS`] steps and the gradient changes that they caused.
pub struct LbfgsMemory {
    /// The step of slot `i` at index `2 i`, and its gradient change at `2 i + 1`.
    vectors: Vec<Array2<f64>>,
    /// The inner products of all vectors.
    gram: Array2<f64>,
    /// The slots in use, from the oldest to the newest.
    order: VecDeque<usize>,
    /// Whether the inner products of the newest pair are still missing.
    unmultiplied: bool,
}

impl Default for LbfgsMemory {
    fn default() -> Self {
        Self::new()
    }
}

impl LbfgsMemory {
    /// An empty memory.
    #[must_use]
    pub fn new() -> Self {
        let vectors = vec![Array2::zeros((0, 0)); 2 * PAIRS];
        Self { vectors, gram: Array2::zeros((2 * PAIRS, 2 * PAIRS)), order: VecDeque::new(), unmultiplied: false }
    }

    /// The state, from which the same directions follow.
    #[must_use]
    pub fn state(&self) -> Snapshot {
        let state = Snapshot::default().with("order", &self.order).with("unmultiplied", self.unmultiplied);
        let state = state.with_matrix("gram", &self.gram);
        self.used().fold(state, |state, i| state.with_matrix(&i.to_string(), &self.vectors[i]))
    }

    /// The memory with a state, for vectors of a shape.
    ///
    /// # Errors
    /// Returns what is wrong with the state.
    pub fn from_state(state: &Snapshot, shape: (usize, usize)) -> Result<Self, String> {
        let mut memory = Self { gram: state.matrix("gram")?, ..Self::new() };
        (memory.order, memory.unmultiplied) = (state.get("order")?, state.get("unmultiplied")?);
        let fits = memory.order.len() <= PAIRS && memory.order.iter().all(|slot| *slot < PAIRS);
        if !fits || memory.gram.dim() != (2 * PAIRS, 2 * PAIRS) {
            return Err("its memory has another size".to_owned());
        }
        for i in memory.used().collect::<Vec<_>>() {
            memory.vectors[i] = state.matrix(&i.to_string())?;
            if memory.vectors[i].dim() != shape {
                return Err("its steps have another shape".to_owned());
            }
        }
        Ok(memory)
    }

    /// Whether the memory holds no pairs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Removes all pairs.
    pub fn clear(&mut self) {
        self.order.clear();
        self.unmultiplied = false;
    }

    /// Stores a step and the change of the gradient along it. Call [`LbfgsMemory::direction`] between two pushes,
    /// because it computes the inner products of the newest pair.
    pub fn push(&mut self, step: Array2<f64>, change: Array2<f64>) {
        let full = self.order.len() == PAIRS;
        let slot = if full { self.order.pop_front() } else { None }.unwrap_or(self.order.len());
        self.order.push_back(slot);
        [self.vectors[2 * slot], self.vectors[2 * slot + 1]] = [step, change];
        self.unmultiplied = true;
    }

    /// Minus the approximate inverse Hessian times `gradient`. Removes the newest pair if the function has no positive
    /// curvature along it.
    pub fn direction(&mut self, gradient: &Array2<f64>) -> Array2<f64> {
        let along = match self.order.back() {
            // The products of the newest pair are computed together with the gradient's, so that the memory is read
            // once.
            Some(newest) if std::mem::take(&mut self.unmultiplied) => {
                let [s, y] = [2 * newest, 2 * newest + 1];
                let [along, of_s, of_y] = self.products([gradient, &self.vectors[s], &self.vectors[y]]);
                for (new, products) in [(s, of_s), (y, of_y)] {
                    self.gram.row_mut(new).assign(&ArrayView1::from(&products));
                    self.gram.column_mut(new).assign(&ArrayView1::from(&products));
                }
                // A pair that is rounding noise or not a number would break positive definiteness.
                let of = |a, b| self.gram[(a, b)];
                let upwards = of(s, y) > f64::EPSILON * (of(s, s) * of(y, y)).sqrt();
                if !upwards {
                    self.order.pop_back();
                }
                along
            }
            _ => {
                let [along] = self.products([gradient]);
                along
            }
        };
        // The direction's coefficients of the gradient and of the stored vectors.
        let (mut of_gradient, mut of) = (-1.0, vec![0.0; 2 * PAIRS]);
        let product = |of_gradient: f64, of: &[f64], with: usize| {
            of_gradient * along[with] + self.gram.row(with).dot(&ArrayView1::from(of))
        };
        let curvature = |slot: usize| self.gram[(2 * slot, 2 * slot + 1)];
        let mut shares = Vec::with_capacity(PAIRS);
        for slot in self.order.iter().rev() {
            let share = product(of_gradient, &of, 2 * slot) / curvature(*slot);
            of[2 * slot + 1] -= share;
            shares.push(share);
        }
        if let Some(newest) = self.order.back() {
            let scale = curvature(*newest) / self.gram[(2 * newest + 1, 2 * newest + 1)];
            of_gradient *= scale;
            of.iter_mut().for_each(|c| *c *= scale);
        }
        for (slot, share) in self.order.iter().zip(shares.into_iter().rev()) {
            let known = product(of_gradient, &of, 2 * slot + 1) / curvature(*slot);
            of[2 * slot] += share - known;
        }
        self.combined(of_gradient, gradient, &of)
    }

    /// The indices of the vectors in use.
    fn used(&self) -> impl Iterator<Item = usize> {
        self.order.iter().flat_map(|slot| [2 * slot, 2 * slot + 1])
    }

    /// The inner products of each vector in `with` with all stored vectors, 0 for vectors that are not in use.
    fn products<const N: usize>(&self, with: [&Array2<f64>; N]) -> [Vec<f64>; N] {
        let with = with.map(elements);
        let length = with.first().map_or(0, |w| w.len());
        let arch = Arch::new();
        let of_block = |start: usize| -> Vec<[f64; N]> {
            let block = start..length.min(start + BLOCK);
            let with = with.map(|w| &w[block.clone()]);
            let part = |i: usize| arch.dispatch(Products(&elements(&self.vectors[i])[block.clone()], with));
            self.used().map(part).collect()
        };
        let starts: Vec<usize> = (0..length).step_by(BLOCK).collect();
        let parts: Vec<_> = starts.into_par_iter().map(of_block).collect();
        let mut sums = [(); N].map(|()| vec![0.0; 2 * PAIRS]);
        for part in parts {
            for (i, products) in self.used().zip(part) {
                sums.iter_mut().zip(products).for_each(|(sum, product)| sum[i] += product);
            }
        }
        sums
    }

    /// The linear combination of `gradient` and the stored vectors with the given coefficients.
    fn combined(&self, of_gradient: f64, gradient: &Array2<f64>, of: &[f64]) -> Array2<f64> {
        let mut sum = gradient * of_gradient;
        let arch = Arch::new();
        let blocks = sum.as_slice_mut().expect("a sum of contiguous arrays is contiguous").par_chunks_mut(BLOCK);
        blocks.enumerate().for_each(|(b, block)| {
            let range = b * BLOCK..b * BLOCK + block.len();
            for i in self.used() {
                let v = &elements(&self.vectors[i])[range.clone()];
                arch.dispatch(|| add(block, of[i], v));
            }
        });
        sum
    }
}

/// The inner products of the first vector with each of the others, which have the same length.
struct Products<'a, const N: usize>(&'a [f64], [&'a [f64]; N]);

impl<const N: usize> WithSimd for Products<'_, N> {
    type Output = [f64; N];

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> [f64; N] {
        let (v, rest) = S::as_simd_f64s(self.0);
        let with = self.1.map(S::as_simd_f64s);
        let mut sums = [simd.splat_f64s(0.0); N];
        for (i, v) in v.iter().enumerate() {
            for (sum, (w, _)) in sums.iter_mut().zip(&with) {
                *sum = simd.mul_add_f64s(*v, w[i], *sum);
            }
        }
        array::from_fn(|n| {
            let rest: f64 = rest.iter().zip(with[n].1).map(|(v, w)| v * w).sum();
            simd.reduce_sum_f64s(sums[n]) + rest
        })
    }
}

/// Adds `times * v` to `to`.
#[inline(always)]
fn add(to: &mut [f64], times: f64, v: &[f64]) {
    for (to, v) in to.iter_mut().zip(v) {
        *to += times * v;
    }
}

/// The elements of a contiguous array. The arrays of a solver are contiguous, because they derive from a contiguous
/// start.
fn elements(array: &Array2<f64>) -> &[f64] {
    array.as_slice().expect("the arrays of a solver are contiguous")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{inner, norm};
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;
    use rand_distr::{Distribution, StandardNormal};

    /// After as many steps along conjugate directions as there are dimensions, the inverse Hessian of a quadratic is
    /// known.
    #[test]
    fn learns_the_inverse_hessian() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut normal = |rows, columns| Array2::from_shape_fn((rows, columns), |_| StandardNormal.sample(&mut rng));
        let a: Array2<f64> = normal(3, 3);
        let hessian = a.t().dot(&a) + Array2::<f64>::eye(3);
        let mut memory = LbfgsMemory::new();
        let mut gradient: Array2<f64> = normal(1, 3);
        // There are more steps than slots, so slots are reused. The last steps span the space.
        for _ in 0..3 * PAIRS {
            let direction = memory.direction(&gradient);
            let curvature = inner(&direction, &direction.dot(&hessian));
            let step = &direction * (-inner(&gradient, &direction) / curvature);
            let change = step.dot(&hessian);
            gradient += &change;
            memory.push(step, change);
            if norm(&gradient) < 1e-12 {
                gradient = normal(1, 3);
            }
        }
        let probe = normal(1, 3);
        let direction = memory.direction(&probe);
        let off = norm(&(direction.dot(&hessian) + &probe)) / norm(&probe);
        assert!(off < 1e-6, "{off}");
    }

    /// Compares with the two loops of the textbook, on vectors that are longer than one block.
    #[test]
    fn is_the_two_loops() {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let mut normal = || Array2::from_shape_fn((70, 70), |_| StandardNormal.sample(&mut rng));
        let mut memory = LbfgsMemory::new();
        let mut pairs: VecDeque<(Array2<f64>, Array2<f64>)> = VecDeque::new();
        for _ in 0..PAIRS + 3 {
            let step: Array2<f64> = normal();
            let change = &step * 2.0 + normal() * 0.3;
            memory.push(step.clone(), change.clone());
            memory.direction(&step);
            pairs.push_back((step, change));
            if pairs.len() > PAIRS {
                pairs.pop_front();
            }
        }
        let gradient = normal();
        let mut expected = -&gradient;
        let mut shares = Vec::new();
        for (s, y) in pairs.iter().rev() {
            let share = inner(s, &expected) / inner(s, y);
            expected.scaled_add(-share, y);
            shares.push(share);
        }
        let (s, y) = pairs.back().unwrap();
        expected *= inner(s, y) / inner(y, y);
        for ((s, y), share) in pairs.iter().zip(shares.into_iter().rev()) {
            let known = inner(y, &expected) / inner(s, y);
            expected.scaled_add(share - known, s);
        }
        let off = norm(&(memory.direction(&gradient) - &expected)) / norm(&expected);
        assert!(off < 1e-12, "{off}");
        memory.clear();
        assert!(memory.is_empty());
        assert_eq!(memory.direction(&gradient), -gradient);
    }
}
