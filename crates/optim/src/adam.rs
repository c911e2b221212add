//! Adam (Kingma & Ba, 2015) with a cosine schedule, on a matrix.

use crate::{Snapshot, half_cosine};
use ndarray::{Array2, Zip};

const DECAY: (f64, f64) = (0.9, 0.999);

/// The state of one minimisation by Adam.
pub struct Adam {
    first: Array2<f64>,
    second: Array2<f64>,
    /// Length of the first step for each coordinate.
    rate: f64,
    taken: f64,
    steps: f64,
}

impl Adam {
    /// Adam for a matrix of shape `shape`. The step length falls from `rate` to 0 over `steps` steps.
    #[must_use]
    pub fn new(shape: (usize, usize), rate: f64, steps: u32) -> Self {
        Self { first: Array2::zeros(shape), second: Array2::zeros(shape), rate, taken: 0.0, steps: steps.into() }
    }

    /// The state, from which the same steps follow.
    #[must_use]
    pub fn state(&self) -> Snapshot {
        let taken = Snapshot::default().with("taken", self.taken);
        taken.with_matrix("first", &self.first).with_matrix("second", &self.second)
    }

    /// Goes on from a state.
    ///
    /// # Errors
    /// Returns what is wrong with the state.
    pub fn restore(&mut self, state: &Snapshot) -> Result<(), String> {
        let (first, second) = (state.matrix("first")?, state.matrix("second")?);
        if first.dim() != self.first.dim() || second.dim() != self.first.dim() {
            return Err("its moments have another shape".to_owned());
        }
        (self.first, self.second, self.taken) = (first, second, state.get("taken")?);
        Ok(())
    }

    /// Moves `x` by one step against `gradient`. The scale of the gradients has no effect.
    pub fn step(&mut self, x: &mut Array2<f64>, gradient: &Array2<f64>) {
        let rate = self.rate * half_cosine(self.taken, self.steps);
        self.taken += 1.0;
        let (unbias1, unbias2) = (1.0 - DECAY.0.powf(self.taken), 1.0 - DECAY.1.powf(self.taken));
        Zip::from(x).and(&mut self.first).and(&mut self.second).and(gradient).for_each(|z, m, v, g| {
            *m = DECAY.0 * *m + (1.0 - DECAY.0) * g;
            *v = DECAY.1 * *v + (1.0 - DECAY.1) * g * g;
            // The smallest positive number prevents 0 / 0 and changes nothing else.
            *z -= rate * (*m / unbias1) / ((*v / unbias2).sqrt() + f64::MIN_POSITIVE);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn finds_a_minimum_whatever_the_scale() {
        for scale in [1e-12, 1.0, 1e12] {
            let mut adam = Adam::new((1, 2), 0.1, 400);
            let mut z = array![[3.0, -2.0]];
            for _ in 0..400 {
                let gradient = array![[scale * (z[(0, 0)] - 1.0), scale * 10.0 * z[(0, 1)]]];
                adam.step(&mut z, &gradient);
            }
            assert!((z[(0, 0)] - 1.0).abs() < 1e-3 && z[(0, 1)].abs() < 1e-3, "{z}");
        }
    }
}
