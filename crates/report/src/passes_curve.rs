//! Whether attacks on pixels were given enough passes through the extractor.
//!
//! The objective that an attack reaches is a curve over its passes. A single run says nothing about this curve: steps
//! get shorter towards the end, so that every curve within a run ends flat. So an attack is judged by runs of other
//! lengths that are equal in everything else.

use crate::{
    ConfigGroup,
    config_group::{Quantity, quantity},
    findings::axis::{Axis, grouped},
    joint::joint,
    words,
};
use hemlock_artifact::Stopped;
use hemlock_attack::attacks;

/// The share of a longer run's gain that a shorter run may miss so that the curve still counts as flat.
pub const FLAT: f64 = 0.05;
/// The least ratio of the lengths of two runs that are compared.
const LONGER: u64 = 2;

/// What is known about the objective of an attack over its passes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum PassesCurve {
    /// The attack is neither on pixels nor noise.
    #[default]
    NotAsked,
    /// There is no run of a sufficiently different length.
    Unknown,
    /// Two runs of different lengths were compared, by how far each moved its objective from the base images.
    Gained {
        /// Number of passes of the shorter run.
        from: u64,
        /// Number of passes of the longer run.
        to: u64,
        /// The share of the longer run's gain that its additional passes brought: `(long - short) / long`. It is
        /// negative if the longer run gained less, and above 1 if the shorter run moved in the wrong direction.
        share: f64,
    },
    /// For noise: whether its making ended by itself in all seeds, and not because it reached the largest number of
    /// rounds.
    Ended(bool),
}

impl PassesCurve {
    /// Whether the curve has flattened: more passes bring at most [`FLAT`] of the gain. `None` if that is not known.
    pub fn flat(self) -> Option<bool> {
        match self {
            Self::NotAsked | Self::Unknown => None,
            Self::Gained { share, .. } => Some(share <= FLAT),
            Self::Ended(flat) => Some(flat),
        }
    }

    /// The curve in a few words; empty for [`Self::NotAsked`].
    pub fn words(self) -> String {
        match self {
            Self::NotAsked => String::new(),
            Self::Unknown => "not known".to_owned(),
            Self::Ended(true) => "flat".to_owned(),
            Self::Ended(false) => "not flat: stopped at the largest number of rounds".to_owned(),
            Self::Gained { from, to, share } => {
                let flat = if share <= FLAT { "flat" } else { "not flat" };
                format!("{flat}: {} % of the gain from {from} to {to} passes", words::number(100.0 * share, 0))
            }
        }
    }

    /// A remark for after the name of a configuration in a comparison; empty if the curve is flat, or for
    /// [`Self::NotAsked`].
    pub fn remark(self) -> String {
        match (self, self.flat()) {
            (Self::NotAsked, _) | (_, Some(true)) => String::new(),
            (_, None) => " [curve over passes not known]".to_owned(),
            (_, Some(false)) => format!(" [curve {}]", self.words()),
        }
    }
}

/// Sets the curve of every configuration. Attacks on pixels are judged by runs that differ in their passes alone,
/// and noise by how its making ended. Only the attacker's objective is compared; no test label is used.
pub fn judge(configs: &mut [ConfigGroup]) {
    let pixels: Vec<&ConfigGroup> = configs.iter().filter(|c| c.on_pixels()).collect();
    let mut judged: Vec<(String, PassesCurve)> = Vec::new();
    for mut family in grouped(&pixels, Axis::of(&["passes"])) {
        family.sort_by_key(|c| c.passes());
        for config in &family {
            judged.push((config.id().to_owned(), of(config, &family)));
        }
    }
    for config in configs.iter_mut() {
        let found = judged.iter().find(|(id, _)| id == config.id()).map(|(_, curve)| *curve);
        let stopped: Option<Vec<Stopped>> = config.rows.iter().map(|r| Some(r.learner?.stopped)).collect();
        let ended = stopped.map(|all| PassesCurve::Ended(all.iter().all(|s| *s != Stopped::Rounds)));
        config.passes_curve = found.or(ended).unwrap_or_default();
    }
}

/// The curve of a configuration within its `family`, which is sorted by passes. The configuration is compared with
/// the next longer run that is at least [`LONGER`] times as long or, if there is none, with the next shorter one.
fn of(config: &ConfigGroup, family: &[&ConfigGroup]) -> PassesCurve {
    let Some(passes) = config.passes() else { return PassesCurve::Unknown };
    let longer = family.iter().find(|c| c.passes().is_some_and(|p| p >= LONGER * passes));
    let shorter = family.iter().rev().find(|c| c.passes().is_some_and(|p| LONGER * p <= passes));
    let (short, long) = match (longer, shorter) {
        (Some(longer), _) => (config, *longer),
        (None, Some(shorter)) => (*shorter, config),
        (None, None) => return PassesCurve::Unknown,
    };
    // Means are taken over the seeds that both runs have.
    let gain = gain(config);
    let of = |which: usize| joint(&[(short, &gain), (long, &gain)], &|values| values[which]).filter(|e| e.n > 0);
    match (of(0), of(1), short.passes(), long.passes()) {
        (Some(less), Some(more), Some(from), Some(to)) if more.mean != 0.0 => {
            PassesCurve::Gained { from, to, share: (more.mean - less.mean) / more.mean }
        }
        _ => PassesCurve::Unknown,
    }
}

/// What runs of different lengths are compared by: the signed change of the attack's objective, as some objectives rise
/// and others fall. If the objective changes while it is minimised, as with TGDA's learner, its values cannot be
/// compared; then it is the rise of the victim's loss on clean training data.
fn gain(config: &ConfigGroup) -> Quantity {
    let row = config.row();
    let nodes = row.roles.iter().filter(|(_, role)| role.is_attack()).map(|(node, _)| node);
    let mut tables = nodes.filter_map(|node| row.params.get(node)?.as_object());
    let attack = attacks::find(config.aim());
    if tables.any(|table| attack.is_some_and(|attack| attack.stochasticity(table).is_some())) {
        quantity::rise
    } else {
        |r| Some(r.objective - r.initial_objective?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::testing::made_up;
    use hemlock_artifact::LearnerState;
    use serde_json::json;

    fn runs(objectives: &[(u32, f64)]) -> Vec<ConfigGroup> {
        let rows = objectives.iter().flat_map(|(steps, objective)| {
            let params = json!({ "attack": "bilevel", "linf": "8/255", "steps": steps });
            made_up("bilevel + pixels").with("poison-images", params).objective(0.4, *objective).rows()
        });
        ConfigGroup::all(&rows.collect::<Vec<_>>())
    }

    #[test]
    fn a_curve_is_flat_where_more_passes_bring_little() {
        let configs = runs(&[(80, 0.44), (320, 0.4985), (1280, 0.5)]);
        let flat: Vec<Option<bool>> = configs.iter().map(|c| c.passes_curve.flat()).collect();
        assert_eq!(flat, [Some(false), Some(true), Some(true)]);
        assert_eq!(configs[0].passes_curve.words(), "not flat: 59 % of the gain from 80 to 320 passes");
        assert_eq!(configs[0].passes_curve.remark(), " [curve not flat: 59 % of the gain from 80 to 320 passes]");
        assert_eq!(configs[2].passes_curve.remark(), "");
    }

    #[test]
    fn the_longest_is_judged_by_what_came_before() {
        let configs = runs(&[(80, 0.44), (320, 0.46)]);
        assert_eq!(configs[1].passes_curve.flat(), Some(false));
        // Also for an objective that falls.
        let down = runs(&[(80, 0.201), (320, 0.2)]);
        assert_eq!(down[1].passes_curve.flat(), Some(true));
        // A short run that moved in the wrong direction.
        let wrong = runs(&[(80, 0.3), (320, 0.5)]);
        assert_eq!(wrong[0].passes_curve.words(), "not flat: 200 % of the gain from 80 to 320 passes");
    }

    #[test]
    fn one_run_tells_nothing_of_others() {
        for configs in [runs(&[(80, 0.44)]), runs(&[(80, 0.44), (100, 0.45)])] {
            assert!(configs.iter().all(|c| c.passes_curve == PassesCurve::Unknown));
            assert_eq!(configs[0].passes_curve.remark(), " [curve over passes not known]");
        }
        let features = made_up("bilevel").config();
        assert_eq!((features.passes_curve, features.passes_curve.remark()), (PassesCurve::NotAsked, String::new()));
    }

    /// TGDA's objective is that of a learner that moves meanwhile, so runs are compared by their victims.
    #[test]
    fn an_objective_that_changes_is_not_compared() {
        let tgda = |steps: u32, objective: f64, accuracy: f64| {
            let params = json!({ "attack": "tgda", "linf": "8/255", "steps": steps });
            let made = made_up("tgda + pixels").with("poison-images", params).objective(0.4, objective);
            made.images([accuracy; 3]).rows()
        };
        // The objective is that of equal gains. The made-up loss rises by as much as accuracy falls: 1.5 and 2.
        let configs = ConfigGroup::all(&[tgda(80, 0.5, 0.5), tgda(320, 0.5, 0.4)].concat());
        assert_eq!(configs[0].passes_curve.words(), "not flat: 25 % of the gain from 80 to 320 passes");
    }

    #[test]
    fn noise_that_ran_out_of_rounds_is_not_flat() {
        let with = |stopped| {
            let learner = LearnerState { rounds: 100, loss: 0.5, mistaken: 0.1, stopped };
            made_up("error-minimizing + class-wise").learner(learner).config().passes_curve.flat()
        };
        assert_eq!(
            [with(Stopped::Rounds), with(Stopped::Stalled), with(Stopped::Learnt)],
            [Some(false), Some(true), Some(true)]
        );
    }
}
