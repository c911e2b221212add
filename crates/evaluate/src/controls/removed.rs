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
    let change = TrainingSetChange { removed: replaced.to_vec(), ..TrainingSetChange::none(of.data) };
    let n = of.clean()?.len();
    let left = change.kept(n).map_or(n, |kept| kept.len());
    Ok((left >= FEWEST).then_some(change))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hemlock_fixtures::{AttackInputs, context, extractor};
    use hemlock_threat::Sees;
    use hemlock_victims::VictimData;

    #[test]
    fn a_sample_that_is_replaced_twice_is_removed_once() {
        let AttackInputs { features, target, .. } =
            AttackInputs::new(&extractor("resnet8-w4", "flex").unwrap(), 6, 0).unwrap();
        let remains = |replaced: &[u32]| {
            context(0, |ctx| {
                let data = VictimData::of_features(&features, 1e-2, ctx);
                let basis = Basis {
                    data: &data,
                    head: &target.clean,
                    count: replaced.len(),
                    replaced: Some(replaced),
                    sees: Sees::Train,
                    reads_images: false,
                };
                make(&basis).unwrap().is_some()
            })
        };
        assert!(remains(&[0, 1]) && remains(&[0, 1, 0, 1, 0, 1, 0]), "four of six samples stay");
        assert!(!remains(&[0, 1, 2]) && !remains(&[0, 1, 2, 0, 1, 2, 0]), "three are too few");
    }
}
