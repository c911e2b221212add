//! Control: the clean samples without those that poisons replace. It does not exist for poisons that are added.

use super::{Basis, Control};
use hemlock_stage::StageError;
use hemlock_victims::TrainingSetChange;

/// The smallest number of samples that a victim is trained on; batches of a network have at least as many.
const FEWEST: usize = 4;

/// The control without the samples that poisons replace.
pub(super) static CONTROL: Control =
    Control { name: "removed", about: "without the samples that poisons replace", make };

fn make(of: &Basis) -> Result<Option<TrainingSetChange>, StageError> {
    let Some(replaced) = of.replaced else { return Ok(None) };
    if of.clean()?.len() - replaced.len() < FEWEST {
        return Ok(None);
    }
    Ok(Some(TrainingSetChange { removed: replaced.to_vec(), ..TrainingSetChange::none(of.data) }))
}
