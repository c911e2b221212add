//! Control: as many clean samples a second time. It does not exist for poisons that replace samples.

use super::{Basis, Control, Relabelled};
use hemlock_head::Samples;
use hemlock_stage::StageError;
use hemlock_streams::Purpose;
use hemlock_victims::TrainingSetChange;
use rand::seq::index;

/// The control of clean samples that occur twice.
pub(super) static CONTROL: Control =
    Control { name: "duplicates", about: "after as many clean samples were added a second time", make };

fn make(of: &Basis) -> Result<Option<TrainingSetChange>, StageError> {
    if of.replaced.is_some() {
        return Ok(None);
    }
    Ok(Some(of.change(draw(of.clean()?, of.count, of.data.ctx.seed))))
}

/// Draws `m` different clean samples uniformly, with their own labels.
pub(super) fn draw(clean: Samples, m: usize, seed: u64) -> Relabelled {
    let mut rows = index::sample(&mut Purpose::ControlSamples.of(seed), clean.len(), m.min(clean.len())).into_vec();
    rows.sort_unstable();
    let labels = rows.iter().map(|i| clean.labels()[*i]).collect();
    Relabelled { rows, labels }
}
