//! Control: the clean samples that are left without those that poisons replace. There is none where poisons are added.

use super::{Basis, Control};
use hemlock_stage::StageError;
use hemlock_victims::TrainingSetChange;

/// The fewest samples that a victim is trained on: a network has batches of at least as many.
const FEWEST: usize = 4;

/// Clean samples without those that poisons replace.
pub(super) static CONTROL: Control =
    Control { name: "removed", about: "without the samples that poisons replace", make };

fn make(of: &Basis) -> Result<Option<TrainingSetChange>, StageError> {
    let Some(replaced) = of.replaced else { return Ok(None) };
    if of.clean()?.len() - replaced.len() < FEWEST {
        return Ok(None);
    }
    Ok(Some(TrainingSetChange { removed: replaced.to_vec(), ..TrainingSetChange::none(of.data) }))
}
