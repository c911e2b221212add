//! Whether attacks on pixels were given enough passes through the extractor.
//!
//! The strength of an attack is a curve over its passes. A single run says nothing about this curve: steps get shorter
//! towards the end, so that every curve within a run ends flat. So an attack is judged by runs of other lengths that
//! are equal in everything else.

use crate::{
    Case,
    findings::axis::{Axis, grouped},
    joint::joint,
    words,
};
use hemlock_artifact::Stopped;
use hemlock_pipeline::Row;

/// The share of a longer run's gain that a shorter run may miss so that the curve still counts as flat.
pub const FLAT: f64 = 0.05;
/// The least ratio of the lengths of two runs that are compared.
const LONGER: u64 = 2;

/// What is known about an attack's strength over its passes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Strength {
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

impl Strength {
    /// Whether the curve has flattened: more passes bring at most [`FLAT`] of the gain. `None` if that is not known.
    pub fn flat(self) -> Option<bool> {
        match self {
            Self::NotAsked | Self::Unknown => None,
            Self::Gained { share, .. } => Some(share <= FLAT),
            Self::Ended(flat) => Some(flat),
        }
    }

    /// The strength in a few words; empty for [`Self::NotAsked`].
    pub fn told(self) -> String {
        match self {
            Self::NotAsked => String::new(),
            Self::Unknown => "not known".to_owned(),
            Self::Ended(true) => "flat".to_owned(),
            Self::Ended(false) => "not flat: ended with its rounds".to_owned(),
            Self::Gained { from, to, share } => {
                let flat = if share <= FLAT { "flat" } else { "not flat" };
                format!("{flat}: {} % of the gain from {from} to {to} passes", words::number(100.0 * share, 0))
            }
        }
    }

    /// A remark for after the name of a case in a comparison; empty if the curve is flat, or for [`Self::NotAsked`].
    pub fn remark(self) -> String {
        match (self, self.flat()) {
            (Self::NotAsked, _) | (_, Some(true)) => String::new(),
            (_, None) => " [curve over passes not known]".to_owned(),
            (_, Some(false)) => format!(" [curve {}]", self.told()),
        }
    }
}

/// Sets the strength of every case. Attacks on pixels are judged by runs that differ in their passes alone, and noise
/// by how its making ended. Only the attacker's objective is compared; no test label is used.
pub fn judge(cases: &mut [Case]) {
    let pixels: Vec<&Case> = cases.iter().filter(|c| c.on_pixels()).collect();
    let mut judged: Vec<(String, Strength)> = Vec::new();
    for mut family in grouped(&pixels, Axis(&["passes"])) {
        family.sort_by_key(|c| c.passes());
        for case in &family {
            judged.push((case.id().to_owned(), of(case, &family)));
        }
    }
    for case in cases.iter_mut() {
        let found = judged.iter().find(|(id, _)| id == case.id()).map(|(_, strength)| *strength);
        let stopped: Option<Vec<Stopped>> = case.rows.iter().map(|r| Some(r.learner?.stopped)).collect();
        let ended = stopped.map(|all| Strength::Ended(all.iter().all(|s| *s != Stopped::Rounds)));
        case.strength = found.or(ended).unwrap_or_default();
    }
}

/// The strength of a case within its `family`, which is sorted by passes. The case is compared with the next longer run
/// that is at least [`LONGER`] times as long or, if there is none, with the next shorter one.
fn of(case: &Case, family: &[&Case]) -> Strength {
    let Some(passes) = case.passes() else { return Strength::Unknown };
    let longer = family.iter().find(|c| c.passes().is_some_and(|p| p >= LONGER * passes));
    let shorter = family.iter().rev().find(|c| c.passes().is_some_and(|p| LONGER * p <= passes));
    let (short, long) = match (longer, shorter) {
        (Some(longer), _) => (case, *longer),
        (None, Some(shorter)) => (*shorter, case),
        (None, None) => return Strength::Unknown,
    };
    // The signed change of the objective: some objectives rise and others fall. Means are taken over the seeds that
    // both runs have.
    let moved = |r: &Row| Some(r.objective - r.initial_objective?);
    let of = |which: usize| joint(&[(short, &moved), (long, &moved)], &|values| values[which]).filter(|e| e.n > 0);
    match (of(0), of(1), short.passes(), long.passes()) {
        (Some(less), Some(more), Some(from), Some(to)) if more.mean != 0.0 => {
            Strength::Gained { from, to, share: (more.mean - less.mean) / more.mean }
        }
        _ => Strength::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::testing::made_up;
    use hemlock_artifact::LearnerState;
    use serde_json::json;

    fn runs(objectives: &[(u32, f64)]) -> Vec<Case> {
        let rows = objectives.iter().flat_map(|(steps, objective)| {
            let params = json!({ "attack": "bilevel", "linf": "8/255", "steps": steps });
            made_up("bilevel + pixels").with("poison-images", params).objective(0.4, *objective).rows()
        });
        Case::all(&rows.collect::<Vec<_>>())
    }

    #[test]
    fn a_curve_is_flat_where_more_passes_bring_little() {
        let cases = runs(&[(80, 0.44), (320, 0.4985), (1280, 0.5)]);
        let flat: Vec<Option<bool>> = cases.iter().map(|c| c.strength.flat()).collect();
        assert_eq!(flat, [Some(false), Some(true), Some(true)]);
        assert_eq!(cases[0].strength.told(), "not flat: 59 % of the gain from 80 to 320 passes");
        assert_eq!(cases[0].strength.remark(), " [curve not flat: 59 % of the gain from 80 to 320 passes]");
        assert_eq!(cases[2].strength.remark(), "");
    }

    #[test]
    fn the_longest_is_judged_by_what_came_before() {
        let cases = runs(&[(80, 0.44), (320, 0.46)]);
        assert_eq!(cases[1].strength.flat(), Some(false));
        // Also for an objective that falls.
        let down = runs(&[(80, 0.201), (320, 0.2)]);
        assert_eq!(down[1].strength.flat(), Some(true));
        // A short run that moved in the wrong direction.
        let wrong = runs(&[(80, 0.3), (320, 0.5)]);
        assert_eq!(wrong[0].strength.told(), "not flat: 200 % of the gain from 80 to 320 passes");
    }

    #[test]
    fn one_run_tells_nothing_of_others() {
        for cases in [runs(&[(80, 0.44)]), runs(&[(80, 0.44), (100, 0.45)])] {
            assert!(cases.iter().all(|c| c.strength == Strength::Unknown));
            assert_eq!(cases[0].strength.remark(), " [curve over passes not known]");
        }
        let features = made_up("bilevel").case();
        assert_eq!((features.strength, features.strength.remark()), (Strength::NotAsked, String::new()));
    }

    #[test]
    fn noise_that_ran_out_of_rounds_is_not_flat() {
        let with = |stopped| {
            let learner = LearnerState { rounds: 100, loss: 0.5, mistaken: 0.1, stopped };
            made_up("error-minimizing + class-wise").learner(learner).case().strength.flat()
        };
        assert_eq!(
            [with(Stopped::Rounds), with(Stopped::Stalled), with(Stopped::Learnt)],
            [Some(false), Some(true), Some(true)]
        );
    }
}
