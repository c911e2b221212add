//! Control: as many clean samples with wrong labels that are drawn uniformly.

use super::{Basis, Control, Relabelled, duplicates};
use hemlock_head::Samples;
use hemlock_stage::StageError;
use hemlock_streams::Purpose;
use hemlock_victims::TrainingSetChange;
use rand::RngExt;

/// The control of flips that are drawn at random.
pub(super) static CONTROL: Control = Control {
    name: "random-flips",
    about: "after as many clean samples were added, or replaced, with random wrong labels",
    make,
};

fn make(of: &Basis) -> Result<Option<TrainingSetChange>, StageError> {
    Ok(Some(of.change(draw(of.clean()?, of.count, of.data.ctx.seed))))
}

/// The samples of [`duplicates::draw`], each with a label drawn uniformly from the other classes.
pub(super) fn draw(clean: Samples, m: usize, seed: u64) -> Relabelled {
    let mut rng = Purpose::ControlLabels.of(seed);
    let mut drawn = duplicates::draw(clean, m, seed);
    let classes = clean.classes() as u32;
    for label in &mut drawn.labels {
        *label = (*label + rng.random_range(1..classes)) % classes;
    }
    drawn
}
