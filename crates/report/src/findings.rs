//! Tests of the paper's claims on the rows of a report.
//!
//! A finding is a claim about all rows that it applies to. It consists of [`FindingComparison`]s: differences that are
//! above 0 if the claim holds, with one test each. All tests are one-sided. A finding is
//!
//! - **confirmed** if every difference is significantly above 0 at the level [`LEVEL`]. (All tests have to reject, so
//!   no correction is due: an intersection-union test.)
//! - **contradicted** if some difference is significantly below 0 at that level, divided by the number of comparisons
//!   (Bonferroni), because one counterexample is enough.
//! - **undecided** otherwise. This includes findings without a comparison, and those of which no comparison has at
//!   least two seeds with different results.
//!
//! The sides of a comparison are equal in all traits, except for those that the finding asks about ([`axis`]). Pairs
//! that differ in something else as well are not compared; the nearest ones are listed with their differences.
//!
//! Differences are taken seed by seed if both sides have the same seeds, and image by image if they have the same test
//! images. The error of a mean is estimated from extractors, training data, attacks and test images: see
//! [`statistics`](crate::statistics). A verdict says what it generalises to.

mod anomalies;
pub mod axis;
mod beta;
mod equal_visibility;
mod inversion;
mod pixels;
mod traits;
mod transfer;
pub mod unlearnable;

pub use axis::IncomparablePair;
pub use traits::known_fields;
pub(crate) use traits::passes;

use crate::{
    ConfigGroup,
    statistics::{Estimate, Inference, Lack},
};
use std::collections::BTreeSet;

/// The level of significance.
pub const LEVEL: f64 = 0.05;

/// The verdict on a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Every comparison is significantly for the claim.
    Confirmed,
    /// Some comparison is significantly against the claim.
    Contradicted,
    /// Neither, or nothing could be tested.
    Undecided,
}

impl Verdict {
    /// The verdict as a word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Contradicted => "contradicted",
            Self::Undecided => "undecided",
        }
    }
}

/// The unit of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Percentage points, for a difference of fractions.
    Points,
    /// Per cent of the clean victim's accuracy above chance.
    Percent,
    /// Decibels.
    Decibels,
    /// No unit.
    Plain,
}

/// A difference that is above 0 if the claim holds.
#[derive(Debug, Clone)]
pub struct FindingComparison {
    /// The names of the rows that are compared.
    pub rows: String,
    /// The minuend and the subtrahend, in words.
    pub quantity: &'static str,
    /// The unit of the difference.
    pub unit: Unit,
    /// The mean difference; fractions, if the unit is points or per cent.
    pub difference: f64,
    /// Half the width of the 95 % confidence interval of the difference; `None` if its error is not known.
    pub half_width: Option<f64>,
    /// The one-sided p-value of the null hypothesis that the difference is at most 0; `None` if its error is not known.
    pub p: Option<f64>,
    /// The one-sided p-value of the null hypothesis that the difference is at least 0.
    pub p_against: Option<f64>,
    /// The error of the difference and what it generalises to, or the reason why its error is not known.
    pub inference: Result<Inference, Lack>,
    /// The number of seeds or, if extractors or images have seeds of their own, of combinations of seeds.
    pub seeds: usize,
    /// Whether the comparison is for the claim or against it, at the levels of the finding.
    pub verdict: Verdict,
}

impl FindingComparison {
    /// A comparison with an estimate of the difference.
    fn of(rows: String, quantity: &'static str, unit: Unit, e: Estimate) -> Self {
        let (half_width, p, inference) = (e.half_width(), e.p_above(), e.inference);
        let p_against = p.map(|p| 1.0 - p);
        let verdict = Verdict::Undecided;
        Self { rows, quantity, unit, difference: e.mean, half_width, p, p_against, inference, seeds: e.n, verdict }
    }

    /// What the difference generalises to, or why it was not tested, in words.
    #[must_use]
    pub fn holds(&self) -> String {
        match &self.inference {
            Ok(inference) => inference.scope.words(),
            Err(lack) => format!("not tested: {}", lack.words()),
        }
    }

    fn judge(&mut self, comparisons: usize) {
        let at_most = |p: Option<f64>, level: f64| p.is_some_and(|p| p <= level);
        self.verdict = if at_most(self.p, LEVEL) {
            Verdict::Confirmed
        } else if at_most(self.p_against, LEVEL / comparisons as f64) {
            Verdict::Contradicted
        } else {
            Verdict::Undecided
        };
    }
}

/// A claim of the paper, its comparisons and the verdict.
#[derive(Debug, Clone)]
pub struct Finding {
    /// The number of the claim in docs/findings.md, such as `F1`.
    pub id: &'static str,
    /// The claim.
    pub claim: &'static str,
    /// The test, in words.
    pub test: &'static str,
    /// The verdict.
    pub verdict: Verdict,
    /// The reason for the verdict, in one sentence.
    pub reason: String,
    /// The comparisons.
    pub comparisons: Vec<FindingComparison>,
    /// Pairs that were not compared because they differ in something that the finding does not ask about.
    pub apart: Vec<IncomparablePair>,
    /// The number of such pairs that are not listed in `apart`.
    pub apart_more: usize,
}

impl Finding {
    /// Adds the pairs that could not be compared. `sides` are the names of the sides of the comparison and the number
    /// of configurations of each; they give the reason if there is no comparison.
    fn beside(mut self, apart: Vec<IncomparablePair>, sides: &[(&str, usize)], question: &Question) -> Self {
        if self.comparisons.is_empty() {
            self.reason = axis::missing(sides, question.needs);
        }
        (self.apart, self.apart_more) = axis::listed(apart);
        self
    }
}

impl Finding {
    /// What the tests generalise to, each scope once.
    #[must_use]
    pub fn scopes(&self) -> Vec<String> {
        let scopes = self.comparisons.iter().filter_map(|c| Some(c.inference.ok()?.scope.words()));
        scopes.collect::<BTreeSet<String>>().into_iter().collect()
    }
}

/// A claim and its test, before any row is tested.
struct Question {
    id: &'static str,
    claim: &'static str,
    test: &'static str,
    /// The rows that the test needs, in words.
    needs: &'static str,
}

impl Question {
    fn judged(&self, mut comparisons: Vec<FindingComparison>) -> Finding {
        let n = comparisons.len();
        comparisons.iter_mut().for_each(|c| c.judge(n));
        let count = |v| comparisons.iter().filter(|c| c.verdict == v).count();
        let (for_it, against) = (count(Verdict::Confirmed), count(Verdict::Contradicted));
        let untested = comparisons.iter().filter(|c| c.p.is_none()).count();
        let verb = |count: usize, verb: &str| if count == 1 { format!("{verb}s") } else { verb.to_owned() };
        let (verdict, reason) = match (n, for_it, against) {
            (0, ..) => (Verdict::Undecided, format!("There is nothing to compare: the test needs {}.", self.needs)),
            (1, _, 1) => (Verdict::Contradicted, "The comparison contradicts the claim.".to_owned()),
            (n, _, 1..) => {
                let [contradict, support] = [verb(against, "contradict"), verb(for_it, "support")];
                let counts = format!("{against} of {n} comparisons {contradict} the claim, and {for_it} {support} it.");
                (Verdict::Contradicted, counts)
            }
            (1, 1, 0) => (Verdict::Confirmed, "The comparison supports the claim.".to_owned()),
            (n, f, 0) if n == f => (Verdict::Confirmed, format!("All {n} comparisons support the claim.")),
            (n, ..) if untested == n => {
                let lacks: BTreeSet<&str> =
                    comparisons.iter().filter_map(|c| Some(c.inference.err()?.words())).collect();
                let lacks: Vec<&str> = lacks.into_iter().collect();
                (Verdict::Undecided, format!("Nothing could be tested: {}.", lacks.join("; ")))
            }
            (1, ..) => (Verdict::Undecided, "The comparison is not significant.".to_owned()),
            (n, 0, 0) => (Verdict::Undecided, format!("None of the {n} comparisons is significant.")),
            (n, f, 0) => {
                let (support, others) = (verb(f, "support"), if n - f == 1 { "other is" } else { "others are" });
                let counts = format!("{f} of {n} comparisons {support} the claim; the {others} not significant.");
                (Verdict::Undecided, counts)
            }
        };
        let (apart, apart_more) = (Vec::new(), 0);
        Finding { id: self.id, claim: self.claim, test: self.test, verdict, reason, comparisons, apart, apart_more }
    }
}

/// Tests all claims.
#[must_use]
pub fn findings(configs: &[ConfigGroup]) -> Vec<Finding> {
    vec![
        pixels::finding(configs),
        equal_visibility::finding(configs),
        equal_visibility::of_refined(configs),
        transfer::finding(configs),
        unlearnable::finding(configs),
        inversion::finding(configs),
        inversion::of_refined(configs),
        beta::finding(configs),
        beta::of_refined(configs),
        anomalies::finding(configs),
        anomalies::of_refined(configs),
    ]
}

#[cfg(test)]
pub(crate) mod testing;
