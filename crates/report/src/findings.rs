//! The findings of the paper, each tested on the rows at hand.
//!
//! A finding is a claim about all rows that it can be asked of, made of [`Comparison`]s: differences that the claim
//! says are above 0, a test each. It is
//!
//! - **confirmed** where every comparison is: its difference is above 0 at the level [`LEVEL`], one-sided. (All of
//!   several tests have to reject, so the level of the whole is that of one: an intersection-union test.)
//! - **contradicted** where some comparison is: its difference is below 0 at that level, divided by the number of
//!   comparisons (Bonferroni), since one counterexample is enough.
//! - **undecided** otherwise; and where there is no comparison, or none with at least two seeds whose results differ.
//!
//! Sides of a comparison are equal in all traits but those that the finding asks about ([`axis`]). What differs in
//! something else, too, is not compared, and listed with what differs.
//!
//! Differences are taken seed by seed where both sides have the same seeds, and image by image where they have the same
//! test images. What varies beside them, extractors, training data, attacks, test images, is told apart: see
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

pub use axis::Apart;
pub(crate) use traits::passes;

use crate::{
    Case,
    statistics::{Estimate, Inference, Lack},
};
use std::collections::{BTreeMap, BTreeSet};

/// Level of significance.
pub const LEVEL: f64 = 0.05;

/// What the rows say of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// They bear it out.
    Confirmed,
    /// They speak against it.
    Contradicted,
    /// They do not tell.
    Undecided,
}

impl Verdict {
    /// In a word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Contradicted => "contradicted",
            Self::Undecided => "undecided",
        }
    }
}

/// What a difference is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Percentage points, of a difference of fractions.
    Points,
    /// Percent of what the clean victim has above chance.
    Percent,
    /// Decibels.
    Decibels,
    /// A number.
    Plain,
}

/// A difference that a finding says is above 0.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// Which rows it is taken over.
    pub rows: String,
    /// What is subtracted from what.
    pub quantity: &'static str,
    /// Its unit.
    pub unit: Unit,
    /// The difference.
    pub difference: f64,
    /// Half the width of its 95 % confidence interval.
    pub half_width: Option<f64>,
    /// One-sided p-value of it being at most 0; `None` where nothing is known of its error.
    pub p: Option<f64>,
    /// What it is an estimate of and how sure, or what is missing for that.
    pub inference: Result<Inference, Lack>,
    /// Number of seeds or, where extractors or images have seeds of their own, of combinations.
    pub seeds: usize,
    /// Whether it is for the claim or against it, at the levels of the finding.
    pub verdict: Verdict,
}

impl Comparison {
    /// A difference that was taken seed by seed.
    fn paired(rows: String, quantity: &'static str, unit: Unit, e: Estimate) -> Self {
        let (half_width, p, inference) = (e.half_width(), e.p_above(), e.inference);
        let verdict = Verdict::Undecided;
        Self { rows, quantity, unit, difference: e.mean, half_width, p, inference, seeds: e.n, verdict }
    }

    /// A difference of two samples that have nothing in common.
    fn independent(rows: String, quantity: &'static str, unit: Unit, a: &Estimate, b: &Estimate) -> Self {
        Self::paired(rows, quantity, unit, a.minus(b))
    }

    /// What it holds for, or what is missing for a test, in words.
    #[must_use]
    pub fn holds(&self) -> String {
        match &self.inference {
            Ok(inference) => inference.scope.words(),
            Err(lack) => format!("not tested: {}", lack.words()),
        }
    }

    fn judge(&mut self, comparisons: usize) {
        self.verdict = match self.p {
            Some(p) if p <= LEVEL => Verdict::Confirmed,
            Some(p) if 1.0 - p <= LEVEL / comparisons as f64 => Verdict::Contradicted,
            _ => Verdict::Undecided,
        };
    }
}

/// A finding, and what the rows say of it.
#[derive(Debug, Clone)]
pub struct Finding {
    /// Its number in the paper's list.
    pub id: &'static str,
    /// What it says.
    pub claim: &'static str,
    /// How it is tested.
    pub test: &'static str,
    /// What the rows say.
    pub verdict: Verdict,
    /// Why, in a sentence.
    pub reason: String,
    /// What was compared.
    pub comparisons: Vec<Comparison>,
    /// What was not, since it differs in something that the finding does not ask about.
    pub apart: Vec<Apart>,
    /// How many more of those there are.
    pub apart_more: usize,
}

impl Finding {
    /// The finding with what it could not compare; `sides` are what it takes, and how many cases it has of each.
    fn beside(mut self, apart: Vec<Apart>, sides: &[(&str, usize)], question: &Question) -> Self {
        if self.comparisons.is_empty() {
            self.reason = axis::missing(sides, question.needs);
        }
        (self.apart, self.apart_more) = axis::listed(apart);
        self
    }
}

impl Finding {
    /// What its tests generalise to, each way once.
    #[must_use]
    pub fn scopes(&self) -> Vec<String> {
        let scopes = self.comparisons.iter().filter_map(|c| Some(c.inference.ok()?.scope.words()));
        scopes.collect::<BTreeSet<String>>().into_iter().collect()
    }
}

/// What a finding is, before rows are asked.
struct Question {
    id: &'static str,
    claim: &'static str,
    test: &'static str,
    /// Which rows it takes.
    needs: &'static str,
}

impl Question {
    fn judged(&self, mut comparisons: Vec<Comparison>) -> Finding {
        let n = comparisons.len();
        comparisons.iter_mut().for_each(|c| c.judge(n));
        let count = |v| comparisons.iter().filter(|c| c.verdict == v).count();
        let (for_it, against) = (count(Verdict::Confirmed), count(Verdict::Contradicted));
        let few = comparisons.iter().filter(|c| c.p.is_none()).count();
        let (verdict, reason) = match (n, for_it, against) {
            (0, ..) => (Verdict::Undecided, format!("There is nothing to compare: it takes {}.", self.needs)),
            (1, _, 1) => (Verdict::Contradicted, "The comparison speaks against it.".to_owned()),
            (n, _, 1..) => {
                (Verdict::Contradicted, format!("{against} of {n} comparisons speak against it, {for_it} for it."))
            }
            (n, f, 0) if n == f => (
                Verdict::Confirmed,
                if n == 1 {
                    "The comparison bears it out.".to_owned()
                } else {
                    format!("All {n} comparisons bear it out.")
                },
            ),
            (n, ..) if few == n => {
                let lacks: BTreeSet<&str> =
                    comparisons.iter().filter_map(|c| Some(c.inference.err()?.words())).collect();
                let lacks: Vec<&str> = lacks.into_iter().collect();
                (Verdict::Undecided, format!("Nothing could be tested: {}.", lacks.join("; ")))
            }
            (n, ..) => (
                Verdict::Undecided,
                format!(
                    "{} of {n} comparisons {} it out; the others do not tell.",
                    if for_it == 0 { "None".to_owned() } else { for_it.to_string() },
                    if for_it > 1 { "bear" } else { "bears" }
                ),
            ),
        };
        let (apart, apart_more) = (Vec::new(), 0);
        Finding { id: self.id, claim: self.claim, test: self.test, verdict, reason, comparisons, apart, apart_more }
    }
}

/// All findings. `clean_outliers` holds, by a row's key, the share of clean test samples that count as outliers as
/// poisons do.
#[must_use]
pub fn findings(cases: &[Case], clean_outliers: &BTreeMap<String, f64>) -> Vec<Finding> {
    vec![
        pixels::finding(cases),
        equal_visibility::finding(cases),
        equal_visibility::of_refined(cases),
        transfer::finding(cases),
        unlearnable::finding(cases),
        inversion::finding(cases),
        inversion::of_refined(cases),
        beta::finding(cases),
        beta::of_refined(cases),
        anomalies::finding(cases, clean_outliers),
        anomalies::of_refined(cases, clean_outliers),
    ]
}

#[cfg(test)]
pub(crate) mod testing;
