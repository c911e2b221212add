//! The certificate of trimmed prototypes (FCert).

use ndarray::ArrayView2;

use super::Certificates;
use crate::DefenceError;
use crate::robust::TrimmedPrototypes;
use crate::robust::trimmed_mean;

/// The predictions of trimmed prototypes for features `[n, d]`, and the numbers of training samples, of all classes
/// together, whose features may be replaced without changing them. Labels stay, and so do the sizes of the classes.
///
/// If `t` samples of a class are replaced, its trimmed mean distance lies between those of a window that has moved by
/// `t` places down and up the sorted distances. The attacker chooses how many of `r` samples make the predicted class
/// look farther; the others make another class look nearer. The radius is at most [`TrimmedPrototypes::trim`].
///
/// # Errors
/// Returns an error if the features have a different number of columns.
pub fn certify_prototypes(
    prototypes: &TrimmedPrototypes,
    features: ArrayView2<'_, f64>,
) -> Result<Certificates, DefenceError> {
    let trim = prototypes.trim();
    let all = prototypes.map(features, |sorted| {
        let mean = |class: usize, shift: isize| trimmed_mean(&sorted[class], trim, shift);
        let now: Vec<f64> = (0..sorted.len()).map(|class| mean(class, 0)).collect();
        let winner = (1..now.len()).fold(0, |best, class| if now[class] < now[best] { class } else { best });
        let stays = |poisons: usize| {
            (0..now.len()).filter(|other| *other != winner).all(|other| {
                (0..=poisons).all(|up| {
                    let down = poisons - up;
                    let (farthest, nearest) = (mean(winner, up as isize), mean(other, -(down as isize)));
                    farthest < nearest || (farthest == nearest && winner < other)
                })
            })
        };
        let radius = (1..=trim).take_while(|poisons| stays(*poisons)).count();
        (winner as u32, radius)
    })?;
    Ok(all.into_iter().collect())
}
