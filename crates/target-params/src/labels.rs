//! Wrong labels for training target heads.

use hemlock_streams::Purpose;
use rand::{RngExt, seq::index};

/// Which wrong label a sample gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// A random other class, uniformly.
    Random,
    /// The next class; the first class follows the last.
    Next,
}

/// The labels after a random fraction `share` of them has been replaced by wrong ones. With the same seed, a larger
/// fraction includes the samples of a smaller one.
#[must_use]
pub fn wrong_labels(labels: &[u32], classes: usize, wrong: Wrong, share: f64, seed: u64) -> Vec<u32> {
    let mut rng = Purpose::TargetLabels.of(seed);
    let order = index::sample(&mut rng, labels.len(), labels.len());
    let mut changed = labels.to_vec();
    let count = (share * labels.len() as f64).round() as usize;
    for i in order.iter().take(count) {
        let shift = match wrong {
            Wrong::Random => rng.random_range(1..classes as u32),
            Wrong::Next => 1,
        };
        changed[i] = (labels[i] + shift) % classes as u32;
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_wrong() {
        let labels: Vec<u32> = (0..100).map(|i| i % 4).collect();
        for wrong in [Wrong::Random, Wrong::Next] {
            let some = wrong_labels(&labels, 4, wrong, 0.3, 7);
            assert_eq!(some.iter().zip(&labels).filter(|(a, b)| a != b).count(), 30);
            let more = wrong_labels(&labels, 4, wrong, 0.6, 7);
            assert!((0..100).all(|i| some[i] == labels[i] || some[i] == more[i]));
            assert_eq!(wrong_labels(&labels, 4, wrong, 0.0, 7), labels);
        }
        let next = wrong_labels(&labels, 4, Wrong::Next, 1.0, 7);
        assert!(next.iter().zip(&labels).all(|(a, b)| *a == (b + 1) % 4));
    }
}
