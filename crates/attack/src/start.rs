//! Where poisons start: their base samples, features and labels before they are moved.

use crate::greedy::{self, Choice, nearest_samples};
use crate::{Labels, Objective};
use hemlock_head::Samples;
use hemlock_stage::{ParamError, StageError};
use hemlock_streams::Purpose;
use hemlock_threat::{Constraint, class_means};
use ndarray::{Array2, Axis, Zip};
use rand::{RngExt, seq::index};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where poisons start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// At randomly drawn clean training samples.
    Clean,
    /// At the most influential clean training samples: those that lower the objective most, to first order.
    Influence,
    /// At zero.
    Zeros,
    /// At normally distributed features, with the clean mean and standard deviation of each coordinate.
    Random,
    /// At the centroid of their class.
    ClassMeans,
    /// Where the solver `conditional-gradient` adds them, without its sweeps of exchanges.
    Greedy,
}

/// Poisons before they are moved.
#[derive(Debug, Clone)]
pub struct InitialPoisons {
    /// The training sample that each poison is made of, `[m]`.
    pub base: Vec<u32>,
    /// The features, `[m, d]`.
    pub features: Array2<f64>,
    /// The labels, `[m]`.
    pub labels: Vec<u32>,
}

/// What decides the start of poisons.
pub struct Initialization<'a> {
    /// The clean samples.
    pub clean: Samples<'a>,
    /// The number of poisons.
    pub count: usize,
    /// The kind of start.
    pub kind: Start,
    /// Which labels they have.
    pub labels: Labels,
    /// Number of sweeps in which greedily added poisons are exchanged for better ones.
    pub sweeps: u32,
    /// The seed of all random draws.
    pub seed: u64,
}

impl Initialization<'_> {
    /// The poisons to start from. They lie within the constraint only if the start is greedy. `visit` is called during
    /// a greedy start with the number of poisons considered and the displayed objective.
    ///
    /// # Errors
    /// Returns an error if
    ///
    /// - the start is `class-means` and a class has no samples,
    /// - the start is greedy and the constraint cannot be bounded ([`Constraint::bounded`]),
    /// - the objective cannot be evaluated, or
    /// - `visit` returns an error.
    pub fn make(
        &self,
        objective: &mut dyn Objective,
        constraint: &Constraint,
        visit: &mut dyn FnMut(u32, f64) -> Result<(), StageError>,
    ) -> Result<InitialPoisons, StageError> {
        let mut start = self.draw();
        match self.kind {
            Start::Clean => {}
            Start::Influence => start = self.influential(objective, start)?,
            Start::Zeros => start.features.fill(0.0),
            Start::Random => {
                let mut rng = Purpose::PoisonFeatures.of(self.seed);
                start.features = random_features(self.clean, self.count, &mut rng)?;
            }
            Start::ClassMeans => {
                let means = class_means(self.clean).map_err(|e| ParamError::new("start", e.to_string()))?;
                Zip::from(start.features.rows_mut())
                    .and(&start.labels)
                    .for_each(|mut z, label| z.assign(&means.row(*label as usize)));
            }
            Start::Greedy => return self.greedy(objective, constraint, start.labels, visit),
        }
        if self.labels == Labels::Adversarial {
            let none = Array2::zeros((0, self.clean.dim()));
            start.labels = objective.evaluate(none.view(), &[])?.best_labels(start.features.view())?;
        }
        Ok(start)
    }

    /// Clean samples, drawn without replacement and sorted, with their own labels or, for random labels, random other
    /// ones.
    fn draw(&self) -> InitialPoisons {
        let classes = self.clean.classes() as u32;
        let mut rows = index::sample(&mut Purpose::BaseImages.of(self.seed), self.clean.len(), self.count).into_vec();
        rows.sort_unstable();
        let mut rng = Purpose::PoisonLabels.of(self.seed);
        let mut label = |row: &usize| {
            let own = self.clean.labels()[*row];
            let shift = if self.labels == Labels::Random { rng.random_range(1..classes) } else { 0 };
            (own + shift) % classes
        };
        let labels = rows.iter().map(&mut label).collect();
        let features = self.clean.select(&rows);
        InitialPoisons { base: rows.into_iter().map(|i| i as u32).collect(), features, labels }
    }

    /// The clean samples that lower the objective most, to first order, each with the label that the policy allows.
    /// Random labels are taken from the drawn poisons.
    fn influential(&self, objective: &mut dyn Objective, drawn: InitialPoisons) -> Result<InitialPoisons, StageError> {
        let none = Array2::zeros((0, self.clean.dim()));
        let local = objective.evaluate(none.view(), &[])?;
        let mut gains: Vec<(f64, u32, u32)> = Vec::with_capacity(self.clean.len());
        for chunk in self.clean.chunks() {
            for (row, own) in local.gains(chunk.to_f64().view())?.rows().into_iter().zip(chunk.labels()) {
                let other = drawn.labels[gains.len() % drawn.labels.len()];
                let label = match self.labels {
                    Labels::Clean => *own,
                    Labels::Random if other != *own => other,
                    Labels::Random => (own + 1) % self.clean.classes() as u32,
                    Labels::Adversarial => (0u32..).zip(row).max_by(|a, b| a.1.total_cmp(b.1)).map_or(*own, |(y, _)| y),
                };
                gains.push((row[label as usize], gains.len() as u32, label));
            }
        }
        gains.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        gains.truncate(self.count);
        let base: Vec<u32> = gains.iter().map(|(_, row, _)| *row).collect();
        let rows: Vec<usize> = base.iter().map(|i| *i as usize).collect();
        let labels = gains.iter().map(|(_, _, label)| *label).collect();
        Ok(InitialPoisons { features: self.clean.select(&rows), labels, base })
    }

    /// Poisons that are added one by one. An unbounded constraint is cut at the largest norm of the clean samples,
    /// because the poison that lowers the objective most would lie at infinity. With clean labels, a poison may have
    /// any label that is not used up, because its base image is chosen afterwards among the samples with this label.
    fn greedy(
        &self,
        objective: &mut dyn Objective,
        constraint: &Constraint,
        drawn: Vec<u32>,
        visit: &mut dyn FnMut(u32, f64) -> Result<(), StageError>,
    ) -> Result<InitialPoisons, StageError> {
        let mut most = vec![usize::MAX; self.clean.classes()];
        if self.labels == Labels::Clean {
            most.fill(0);
            self.clean.labels().iter().for_each(|label| most[*label as usize] += 1);
        }
        let choice = if self.labels == Labels::Random { Choice::Given(drawn) } else { Choice::Any { most } };
        let constraint = constraint.bounded(self.clean).map_err(|e| ParamError::new("constraint", e.to_string()))?;
        let added = greedy::add(objective, self.count, &choice, &constraint, self.clean, self.sweeps, visit)?;
        let base = nearest_samples(&added.features, &added.labels, self.clean, self.labels.base_class());
        Ok(InitialPoisons { base, features: added.features, labels: added.labels })
    }
}

/// Normally distributed features `[count, d]`, with the clean mean and standard deviation of each coordinate.
///
/// # Errors
/// Returns an error if there are no clean samples.
pub fn random_features(clean: Samples, count: usize, rng: &mut ChaCha8Rng) -> Result<Array2<f64>, StageError> {
    let clean = clean.to_f64();
    let (mean, deviation) = (clean.mean_axis(Axis(0)), clean.std_axis(Axis(0), 0.0));
    let mean = mean.ok_or_else(|| StageError::internal("the training split is empty"))?;
    let mut features = Array2::zeros((count, mean.len()));
    for mut row in features.rows_mut() {
        Zip::from(&mut row).and(&mean).and(&deviation).for_each(|z, mean, deviation| {
            let noise: f64 = StandardNormal.sample(rng);
            *z = mean + deviation * noise;
        });
    }
    Ok(features)
}

/// The number of poisons: the poison fraction times the number of clean samples, rounded.
///
/// # Errors
/// Returns an error if the number would be 0.
pub fn poison_count(poison_fraction: f64, clean: usize) -> Result<usize, StageError> {
    let count = (poison_fraction * clean as f64).round() as usize;
    if count == 0 {
        let least = 1.0 / clean as f64;
        let message = format!(
            "gives no poison: {poison_fraction} of {clean} clean training samples is less than one; expected at least {least:.2e}"
        );
        return Err(ParamError::new("poison_fraction", message).into());
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Clouds;
    use crate::{BilevelObjective, ObjectiveGradient};
    use hemlock_head::HeadError;
    use ndarray::ArrayView2;

    fn make(setting: &Clouds, kind: Start, labels: Labels) -> InitialPoisons {
        let clean = setting.clean();
        let mut objective =
            BilevelObjective::new(clean, vec![setting.validation()], setting.head.clone(), 1e-2, 1.0).unwrap();
        let plan = Initialization { clean, count: 12, kind, labels, sweeps: 0, seed: 1 };
        let start = plan.make(&mut objective, &Constraint::ball(1.0), &mut |_, _| Ok(())).unwrap();
        assert_eq!((start.base.len(), start.features.nrows(), start.labels.len()), (12, 12, 12));
        let different: std::collections::BTreeSet<u32> = start.base.iter().copied().collect();
        assert_eq!(different.len(), 12);
        start
    }

    const KINDS: [Start; 6] =
        [Start::Clean, Start::Influence, Start::Zeros, Start::Random, Start::ClassMeans, Start::Greedy];

    #[test]
    fn labels_are_what_the_policy_says() {
        let setting = Clouds::new();
        let own = |start: &InitialPoisons| -> Vec<u32> {
            start.base.iter().map(|i| setting.clean().labels()[*i as usize]).collect()
        };
        for kind in KINDS {
            let kept = make(&setting, kind, Labels::Clean);
            assert_eq!(own(&kept), kept.labels, "{kind:?}");
            let random = make(&setting, kind, Labels::Random);
            assert!(own(&random).iter().zip(&random.labels).all(|(a, b)| a != b), "{kind:?}");
        }
    }

    #[test]
    fn better_starts_are_better() {
        let setting = Clouds::new();
        let error = |kind, labels| {
            let start = make(&setting, kind, labels);
            let mut objective =
                BilevelObjective::new(setting.clean(), vec![setting.validation()], setting.head.clone(), 1e-2, 1.0)
                    .unwrap();
            let value = objective.evaluate(start.features.view(), &start.labels).unwrap().value;
            objective.display_value(value)
        };
        let clean = error(Start::Clean, Labels::Clean);
        let influence = error(Start::Influence, Labels::Clean);
        let adversarial = error(Start::Influence, Labels::Adversarial);
        assert!(clean < influence && influence < adversarial, "{clean} {influence} {adversarial}");
        assert!(error(Start::Greedy, Labels::Adversarial) > clean);
    }

    #[test]
    fn features_are_what_the_kind_says() {
        let setting = Clouds::new();
        let clean = make(&setting, Start::Clean, Labels::Clean);
        let rows: Vec<usize> = clean.base.iter().map(|i| *i as usize).collect();
        assert_eq!(clean.features, setting.clean().select(&rows));
        assert!(make(&setting, Start::Zeros, Labels::Clean).features.iter().all(|z| *z == 0.0));
        let means = make(&setting, Start::ClassMeans, Labels::Clean);
        let expected = class_means(setting.clean()).unwrap();
        assert_eq!(means.features.row(0), expected.row(means.labels[0] as usize));
        let random = make(&setting, Start::Random, Labels::Clean).features;
        assert!(random.iter().all(|z| z.abs() < 6.0) && random[(0, 0)] != random[(1, 0)]);
    }

    /// An objective that must not be evaluated, for starts that do not need it.
    struct Never;

    impl Objective for Never {
        fn evaluate(&mut self, _: ArrayView2<f64>, _: &[u32]) -> Result<ObjectiveGradient, HeadError> {
            Err(HeadError::Empty)
        }
        fn display_value(&self, value: f64) -> f64 {
            value
        }
    }

    #[test]
    fn greedy_poisons_stay_where_clean_samples_are() {
        let setting = Clouds::new();
        let clean = setting.clean();
        let mut objective =
            BilevelObjective::new(clean, vec![setting.validation()], setting.head.clone(), 1e-2, 1.0).unwrap();
        let plan =
            Initialization { clean, count: 3, kind: Start::Greedy, labels: Labels::Adversarial, sweeps: 1, seed: 1 };
        let start = plan.make(&mut objective, &Constraint::default(), &mut |_, _| Ok(())).unwrap();
        let largest = |z: &Array2<f64>| z.rows().into_iter().map(|z| z.dot(&z)).fold(0.0, f64::max);
        assert!(largest(&start.features) <= largest(&clean.to_f64().into_owned()) * (1.0 + 1e-9));
    }

    #[test]
    fn a_plain_start_costs_nothing() {
        let setting = Clouds::new();
        let plan = Initialization {
            clean: setting.clean(),
            count: 3,
            kind: Start::Clean,
            labels: Labels::Random,
            sweeps: 0,
            seed: 4,
        };
        assert!(plan.make(&mut Never, &Constraint::default(), &mut |_, _| Ok(())).is_ok());
    }
}
