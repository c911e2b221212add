//! Sets that poisoned features may have to lie in, and the projections onto them.

use ndarray::{Array2, ArrayView2};

/// A closed convex set in feature space.
#[derive(Debug, Clone, PartialEq)]
pub enum Constraint {
    /// All of feature space.
    None,
    /// The L2 ball around the origin.
    Ball {
        /// Its radius.
        radius: f64,
    },
}

impl Constraint {
    /// The ball whose radius is the smallest norm that at least a share `quantile` of the rows of `features` do not exceed.
    #[must_use]
    pub fn ball_at_quantile(features: ArrayView2<f64>, quantile: f64) -> Self {
        let mut norms: Vec<f64> = features.rows().into_iter().map(|row| row.dot(&row).sqrt()).collect();
        norms.sort_by(f64::total_cmp);
        let rank = (quantile * norms.len() as f64).ceil() as usize;
        Self::Ball { radius: norms.get(rank.saturating_sub(1)).copied().unwrap_or(0.0) }
    }

    /// Moves every row to the nearest point of the set.
    pub fn project(&self, features: &mut Array2<f64>) {
        match self {
            Self::None => {}
            Self::Ball { radius } => {
                for mut row in features.rows_mut() {
                    let norm = row.dot(&row).sqrt();
                    if norm > *radius {
                        row *= radius / norm;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn ball_by_hand() {
        let z = array![[3.0, 4.0], [0.0, 1.0], [0.0, 2.0], [0.0, 3.0]];
        assert_eq!(Constraint::ball_at_quantile(z.view(), 0.75), Constraint::Ball { radius: 3.0 });
        assert_eq!(Constraint::ball_at_quantile(z.view(), 1.0), Constraint::Ball { radius: 5.0 });
        let mut moved = array![[6.0, 8.0], [1.0, 0.0]];
        Constraint::Ball { radius: 5.0 }.project(&mut moved);
        assert_eq!(moved, array![[3.0, 4.0], [1.0, 0.0]]);
    }
}
