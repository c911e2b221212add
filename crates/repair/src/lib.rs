//! Stage: a linear head that was trained on poisons, repaired after some of them were found.
//!
//! The problem is convex, so that the exact repair is known: a head that is trained without what was found. What is
//! done with deep networks, where that is too expensive, can be compared with it.

use hemlock_artifact::{Export, Exported, ExtractorArtifact, Features, PoisonFeatures, Poisons, TargetParams};
use hemlock_defences::filters::FilterOptions;
use hemlock_defences::repair::{GradientSteps, fine_tune, gradient_ascent, newton_step};
use hemlock_defences::{FilterRef, TrainingData, metrics};
use hemlock_head::{FitOptions, Head, Samples, accuracy, fit};
use hemlock_optim::norm;
use hemlock_stage::{About, Column, Context, ParamError, StageError, StageRole, inputs};
use hemlock_store::{Artifact, PayloadReader, PayloadWriter, StoreError};
use hemlock_streams::Purpose;
use hemlock_victims::{TrainingSetChange, VictimData};
use rand::seq::SliceRandom;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a head that was trained on poisons is repaired after some of them were found.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// How the head is repaired.
    pub method: RepairMethod,
    /// Share of the poisons that is found.
    #[schemars(range(min = 0, max = 1))]
    pub found: f64,
    /// The filter whose most suspicious samples are taken for poisons, as many as the share `found` of the poisons. By
    /// default, poisons are found without error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<FilterRef>,
    /// Number of steps of `gradient-ascent` and `fine-tune`.
    #[schemars(range(min = 1))]
    pub steps: usize,
    /// Length of a step of `gradient-ascent` and `fine-tune`, as a multiple of the inverse of the objective's largest
    /// curvature.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub rate: f64,
    /// Weight of what was found in `gradient-ascent`.
    #[schemars(range(min = 0))]
    pub ascent: f64,
}

/// How a head is repaired.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RepairMethod {
    /// Trains again, without what was found: exact.
    #[default]
    Refit,
    /// One step of Newton's method on the objective without what was found (Guo et al., 2020).
    Newton,
    /// Descends without what was found, and ascends on it (Kurmanji et al., 2023).
    GradientAscent,
    /// Descends without what was found (Goel et al., 2023).
    FineTune,
}

impl Default for Params {
    fn default() -> Self {
        Self { method: RepairMethod::Refit, found: 1.0, by: None, steps: 100, rate: 1.0, ascent: 0.01 }
    }
}

impl hemlock_stage::Params for Params {
    fn check(&self) -> Result<(), ParamError> {
        let found = self.found;
        ParamError::require((0.0..=1.0).contains(&found), "found", found, "at least 0 and at most 1")?;
        ParamError::at_least_one("steps", self.steps as u64)?;
        ParamError::positive("rate", self.rate)?;
        ParamError::non_negative("ascent", self.ascent)
    }
}

inputs! {
    /// What the stage reads.
    pub struct Inputs {
        /// Features of the downstream dataset.
        features: Features = "features",
        /// The clean head and its weight decay.
        target: TargetParams = "target-params",
        ; optional {
            /// Poisoned features.
            poison_features: PoisonFeatures = "poison-features",
            /// Poisons as images, which are taken if there are any.
            poisons: Poisons = "invert",
            /// The extractor of the images' features.
            extractor: ExtractorArtifact = "pretrain",
        }
    }
}

/// What a repair reached. Accuracies are shares of the test split, in `[0, 1]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Repaired {
    /// Accuracy of the head that was trained on the poisons.
    pub poisoned: f64,
    /// Accuracy of the repaired head.
    pub repaired: f64,
    /// Accuracy of the head that was trained without what was found.
    pub exact: f64,
    /// Accuracy that the repair brings back, as a share of what the poisons cost; `None` if they cost nothing.
    pub recovery: Option<f64>,
    /// Distance of the repaired head to the exact one, as a share of the distance of the poisoned head to it; 0 if the
    /// two are equal.
    pub distance: f64,
    /// Share of the poisons among what was removed; `None` if nothing was.
    pub precision: Option<f64>,
}

impl Artifact for Repaired {
    const KIND: &'static str = "repaired";

    fn write(&self, w: &mut PayloadWriter) -> Result<(), StoreError> {
        w.value("numbers", self)
    }

    fn read(r: &PayloadReader) -> Result<Self, StoreError> {
        r.value("numbers")
    }

    fn summary(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("numbers are JSON")
    }
}

impl Export for Repaired {
    fn export(&self) -> Exported {
        Exported::default()
    }
}

/// The stage.
pub struct Stage;

/// A column of results.
const fn column(field: &'static str, heading: &'static str, meaning: &'static str) -> Column {
    Column { field, heading, meaning, digits: 3 }
}

impl hemlock_stage::Stage for Stage {
    const NAME: &'static str = "repair";
    const ABOUT: About = About {
        named_by: &["method", "found"],
        columns: &[
            column("repaired", "repaired", "This is the accuracy of the head after its repair."),
            column("exact", "refitted", "This is the accuracy of a head that is trained without what was found."),
            column("recovery", "repair's recovery", "This is the accuracy that the repair brings back, as a share."),
            column("distance", "distance to refitted", "It is 0 for an exact repair, and 1 for none."),
        ],
        ..About::new(StageRole::Defence, "repair the head after some poisons were found")
    };
    const VERSION: u32 = 4;
    const SEEDED: bool = true;
    const USES_DEVICE: bool = true;
    type Params = Params;
    type Inputs = Inputs;
    type Output = Repaired;

    fn run(params: &Params, inputs: Inputs, ctx: &Context) -> Result<Repaired, StageError> {
        let Inputs { features, target, poison_features, poisons, extractor } = &inputs;
        let weight_decay = target.weight_decay;
        let data = VictimData { extractor: extractor.as_ref(), ..VictimData::of_features(features, weight_decay, ctx) };
        let change = match (poisons, poison_features) {
            (Some(poisons), _) => TrainingSetChange::of_images(&data, poisons)?,
            (None, Some(poisons)) => TrainingSetChange::of_features(&data, poisons),
            (None, None) => return Err(StageError::internal("there are no poisons")),
        };
        let (clean, added) = (features.train.samples(data.classes())?, change.samples(data.classes())?);
        let kept = change.kept(clean.len()).unwrap_or_else(|| (0..clean.len()).collect());
        let labels: Vec<u32> = kept.iter().map(|row| clean.labels()[*row]).collect();
        let rows = clean.select(&kept);
        let blocks = [Samples::new(rows.view(), &labels, data.classes())?, added];
        let set = TrainingData::new(&blocks, weight_decay, ctx.seed)?;
        let suspects = suspects(params, &set, kept.len(), ctx)?;
        let repaired = repaired(params, &set, &suspects, ctx)?;
        ctx.check()?;
        let test = features.test.samples(data.classes())?;
        let Heads { poisoned, exact, head } = repaired;
        let [before, after, best] = [&poisoned, &head, &exact].map(|head| accuracy(head, test));
        let (before, after) = (before?, after?);
        let off = |head: &Head| norm(&(&head.packed() - &exact.packed()));
        let gone = suspects.iter().filter(|gone| **gone).count();
        let found = suspects[kept.len()..].iter().filter(|gone| **gone).count();
        Ok(Repaired {
            poisoned: before,
            repaired: after,
            exact: best?,
            recovery: metrics::recovery(accuracy(&target.clean, test)?, before, after),
            distance: if off(&poisoned) > 0.0 { off(&head) / off(&poisoned) } else { 0.0 },
            precision: (gone > 0).then(|| found as f64 / gone as f64),
        })
    }
}

/// Which samples of the set are taken for poisons. The first `clean` ones are clean.
fn suspects(params: &Params, set: &TrainingData, clean: usize, ctx: &Context) -> Result<Vec<bool>, StageError> {
    let poisons = set.len() - clean;
    let count = (params.found * poisons as f64).round() as usize;
    let mut suspects = vec![false; set.len()];
    let order: Vec<usize> = match params.by {
        None => {
            let mut order: Vec<usize> = (clean..set.len()).collect();
            order.shuffle(&mut Purpose::FoundPoisons.of(ctx.seed));
            order
        }
        Some(filter) => {
            let scores = filter.filter().apply(set, &FilterOptions::share(0.0))?.scores;
            let mut order: Vec<usize> = (0..set.len()).collect();
            order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
            order
        }
    };
    order.into_iter().take(count).for_each(|row| suspects[row] = true);
    Ok(suspects)
}

/// The head that was trained on everything, the one that was trained without the suspects, and the repaired one.
struct Heads {
    poisoned: Head,
    exact: Head,
    head: Head,
}

fn repaired(params: &Params, set: &TrainingData, suspects: &[bool], ctx: &Context) -> Result<Heads, StageError> {
    let weight_decay = set.weight_decay();
    let train = |blocks: &[Samples], start: Option<Head>| {
        let options = FitOptions { start, ..FitOptions::new(weight_decay) };
        fit(blocks, &options, &|_, _| !ctx.cancel.requested())
    };
    let poisoned = train(set.blocks(), None)?.head;
    let stays: Vec<bool> = suspects.iter().map(|gone| !gone).collect();
    let (kept, gone) = (set.filter(&stays)?, set.filter(suspects)?);
    let kept = [kept.samples()];
    let exact = train(&kept, Some(poisoned.clone()))?.head;
    let descent = GradientSteps { weight_decay, count: params.steps, rate: params.rate };
    let head = match params.method {
        RepairMethod::Refit => exact.clone(),
        RepairMethod::Newton => newton_step(&poisoned, &kept, weight_decay)?,
        // Without anything to ascend on, this is descent.
        RepairMethod::GradientAscent if gone.labels.is_empty() => fine_tune(&poisoned, &kept, &descent)?,
        RepairMethod::GradientAscent => gradient_ascent(&poisoned, &kept, &[gone.samples()], params.ascent, &descent)?,
        RepairMethod::FineTune => fine_tune(&poisoned, &kept, &descent)?,
    };
    Ok(Heads { poisoned, exact, head })
}
