//! What a filter found, and how much accuracy a defence brings back.

use crate::DefenceError;
use crate::filters::Filtered;

/// How well a filter told poisons from clean samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DetectionRates {
    /// Removed poisons, as a share of all poisons; `None` without poisons.
    pub recall: Option<f64>,
    /// Removed clean samples, as a share of all clean samples; `None` without clean samples.
    pub false_positives: Option<f64>,
    /// The area under the curve of the recall over the false positives, as the threshold of the score moves: the
    /// probability that a poison has a larger score than a clean sample, where equal scores count half. `None` without
    /// poisons or without clean samples.
    pub auroc: Option<f64>,
    /// Removed samples, as a share of all samples.
    pub removed: f64,
}

/// Compares what a filter did with what it should have done. `is_poison` says of every sample whether it is a poison.
///
/// # Errors
/// Returns an error if there are no samples, or if `is_poison` does not have one element for each sample.
pub fn detection(filtered: &Filtered, is_poison: &[bool]) -> Result<DetectionRates, DefenceError> {
    let count = filtered.scores.len();
    DefenceError::check_length("the list of poisons", is_poison.len(), count)?;
    DefenceError::check_count("samples", count, 1, usize::MAX)?;
    let share = |poisons: bool| {
        let all = is_poison.iter().filter(|is| **is == poisons).count();
        let both = is_poison.iter().zip(&filtered.removed).filter(|(is, removed)| **is == poisons && **removed);
        (all > 0).then(|| both.count() as f64 / all as f64)
    };
    Ok(DetectionRates {
        recall: share(true),
        false_positives: share(false),
        auroc: auroc(&filtered.scores, is_poison),
        removed: filtered.removed.iter().filter(|removed| **removed).count() as f64 / count as f64,
    })
}

/// The area under the curve, from the ranks of the poisons (the statistic of Mann and Whitney).
fn auroc(scores: &[f64], is_poison: &[bool]) -> Option<f64> {
    let poisons = is_poison.iter().filter(|is| **is).count() as f64;
    let clean = is_poison.len() as f64 - poisons;
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
    let (mut rank, mut sum) = (0.0, 0.0);
    for equal in order.chunk_by(|a, b| scores[*a] == scores[*b]) {
        let here = equal.iter().filter(|i| is_poison[**i]).count() as f64;
        sum += here * (rank + 0.5 * (equal.len() as f64 + 1.0));
        rank += equal.len() as f64;
    }
    (poisons > 0.0 && clean > 0.0).then(|| (sum - 0.5 * poisons * (poisons + 1.0)) / (poisons * clean))
}

/// The share of an attack's damage that a defence undoes: `(defended - attacked) / (clean - attacked)`, from accuracies
/// in `[0, 1]`. It is 1 if the defence restores the clean accuracy, 0 if it changes nothing, and negative if it does
/// harm. `None` if the attack did no damage.
#[must_use]
pub fn recovery(clean: f64, attacked: f64, defended: f64) -> Option<f64> {
    (clean > attacked).then(|| (defended - attacked) / (clean - attacked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detection_by_hand() {
        let filtered =
            Filtered { scores: vec![1.0, 2.0, 2.0, 3.0, 0.0], removed: vec![false, true, false, true, false] };
        let found = detection(&filtered, &[false, false, true, true, false]).unwrap();
        // Of six pairs of a poison and a clean sample, five have the poison in front, and one is a tie.
        let expected = DetectionRates {
            recall: Some(0.5),
            false_positives: Some(1.0 / 3.0),
            auroc: Some(5.5 / 6.0),
            removed: 0.4,
        };
        assert_eq!(found, expected);
        let none = detection(&filtered, &[false; 5]).unwrap();
        assert_eq!((none.recall, none.auroc, none.false_positives), (None, None, Some(0.4)));
        assert!(matches!(detection(&filtered, &[true]), Err(DefenceError::Length { expected: 5, found: 1, .. })));
    }

    #[test]
    fn recovery_by_hand() {
        assert_eq!(recovery(0.75, 0.25, 0.5), Some(0.5));
        assert_eq!(recovery(0.75, 0.25, 0.0), Some(-0.5));
        assert_eq!(recovery(0.75, 0.75, 0.5), None);
    }
}
