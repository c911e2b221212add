//! Whether attacks on pixels were given enough passes: how much more would have helped.
//!
//! An attack's strength is a curve over its passes through the extractor. A run says nothing of that by itself: its
//! steps get shorter towards its end, so that every curve within a run ends flat. What tells are runs of other lengths,
//! equal in all else.

use crate::{
    Case,
    findings::axis::{Axis, grouped},
    joint::joint,
    words,
};
use hemlock_artifact::Stopped;
use hemlock_pipeline::Row;

/// The share of what an objective gains in a run that a run of a fraction of the length may have missed, for the curve
/// to be called flat.
pub const FLAT: f64 = 0.05;
/// How many times as long another run has to be to tell something.
const LONGER: u64 = 2;

/// What is known of an attack's strength over its passes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Strength {
    /// It is no attack on pixels, and no noise.
    #[default]
    NotAsked,
    /// There is no run of another length to compare with.
    Unknown,
    /// Passes were added, and this is the share of the longer run's gain that they brought.
    Gained {
        /// Passes of the shorter run.
        from: u64,
        /// Passes of the longer one.
        to: u64,
        /// The share, at most 1; below 0, where the longer run gains less.
        share: f64,
    },
    /// Noise: whether its making ended since nothing was left to gain, rather than with its rounds, in all seeds.
    Ended(bool),
}

impl Strength {
    /// Whether it has flattened: more passes bring at most [`FLAT`] of the gain. `None` where that is not known, or not
    /// asked.
    pub fn flat(self) -> Option<bool> {
        match self {
            Self::NotAsked | Self::Unknown => None,
            Self::Gained { share, .. } => Some(share <= FLAT),
            Self::Ended(flat) => Some(flat),
        }
    }

    /// In a few words; nothing where it is not asked.
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

    /// What is said of a case that is used all the same, after its name; nothing where its curve is flat.
    pub fn remark(self) -> String {
        match (self, self.flat()) {
            (Self::NotAsked, _) | (_, Some(true)) => String::new(),
            (_, None) => " [curve over passes not known]".to_owned(),
            (_, Some(false)) => format!(" [curve {}]", self.told()),
        }
    }
}

/// Judges attacks on pixels by runs that differ in their passes alone, and noise by how its making ended. What is
/// compared is what the attacker optimises: no test label is looked at.
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

/// By the next longer run that is long enough to tell or, of the longest, by the next shorter.
fn of(case: &Case, family: &[&Case]) -> Strength {
    let Some(passes) = case.passes() else { return Strength::Unknown };
    let longer = family.iter().find(|c| c.passes().is_some_and(|p| p >= LONGER * passes));
    let shorter = family.iter().rev().find(|c| c.passes().is_some_and(|p| LONGER * p <= passes));
    let (short, long) = match (longer, shorter) {
        (Some(longer), _) => (case, *longer),
        (None, Some(shorter)) => (*shorter, case),
        (None, None) => return Strength::Unknown,
    };
    // Up or down, as the objective is one that rises or falls; of seeds that both have.
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
        // Of an objective that goes down, too.
        let down = runs(&[(80, 0.201), (320, 0.2)]);
        assert_eq!(down[1].strength.flat(), Some(true));
        // A short run that went the wrong way.
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
