//! Stage: the victim, retrained from scratch on clean data and poisons, and the controls.

mod controls;
mod visibility;

pub use controls::{aligned_flips, duplicates, random_flips};
pub use visibility::{ssim, visibility};

use hemlock_artifact::{
    Accuracy, Dataset, Evaluation, Extractor, Features, Measured, PoisonFeatures, Poisons, TargetParams,
};
use hemlock_head::{
    Constraint, FitOptions, Head, Samples, SgdOptions, accuracy, fit, fit_sgd, loss_and_gradient, loss_ceiling,
    mean_loss, norm, per_class_accuracy,
};
use hemlock_stage::{Context, ParamError, StageError, inputs};
use ndarray::Array2;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::cell::Cell;

/// Parameters of the stage. What a choice makes idle is ignored, and is not part of the key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// How victims train.
    pub victim: Victim,
    /// Of `exact`: gradient norm of the mean objective at which a victim counts as trained.
    pub tolerance: f64,
    /// Of `exact`: most steps of a victim's training.
    pub max_iterations: u32,
    /// Of `sgd`: passes over the training set.
    pub epochs: u32,
    /// Of `sgd`: samples a step.
    pub batch: usize,
    /// Of `sgd`: learning rate of the first step; it falls to 0 along half a cosine.
    pub learning_rate: f64,
    /// Of `sgd`: the share of the last step that is taken again.
    pub momentum: f64,
}

/// How victims train.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Victim {
    /// To the minimum, by L-BFGS.
    #[default]
    Exact,
    /// By stochastic gradient descent with momentum and a cosine schedule.
    Sgd,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            victim: Victim::Exact,
            tolerance: 1e-6,
            max_iterations: 10_000,
            epochs: 100,
            batch: 256,
            learning_rate: 0.1,
            momentum: 0.9,
        }
    }
}

impl hemlock_stage::Params for Params {
    fn check(&self) -> Result<(), ParamError> {
        ParamError::positive("tolerance", self.tolerance)?;
        ParamError::at_least_one("max_iterations", self.max_iterations)?;
        ParamError::at_least_one("epochs", self.epochs)?;
        ParamError::at_least_one("batch", self.batch as u64)?;
        ParamError::positive("learning_rate", self.learning_rate)?;
        let momentum = self.momentum;
        ParamError::require((0.0..1.0).contains(&momentum), "momentum", momentum, "at least 0 and below 1")
    }
}

inputs! {
    /// What the stage reads.
    pub struct Inputs {
        /// Features of the downstream dataset.
        features: Features = "features",
        /// The clean head and the target head.
        target: TargetParams = "target-params",
        ; optional {
            /// Poisoned features.
            poison_features: PoisonFeatures = "poison-features",
            /// Poisons as images, from features or from pixels.
            poisons: Poisons = "invert",
            /// Downstream images.
            dataset: Dataset = "dataset.downstream",
            /// The frozen extractor.
            extractor: Extractor = "pretrain",
        }
    }
}

/// The stage.
pub struct Stage;

impl hemlock_stage::Stage for Stage {
    const NAME: &'static str = "evaluate";
    const VERSION: u32 = 8;
    const SEEDED: bool = true;
    const USES_DEVICE: bool = true;
    type Params = Params;
    type Inputs = Inputs;
    type Output = Evaluation;

    fn key_params(params: &Params) -> Result<Value, serde_json::Error> {
        let mut value = serde_json::to_value(params)?;
        let exact = params.victim == Victim::Exact;
        if let Some(fields) = value.as_object_mut() {
            fields.retain(|field, _| match field.as_str() {
                "tolerance" | "max_iterations" => exact,
                "epochs" | "batch" | "learning_rate" | "momentum" => !exact,
                _ => true,
            });
        }
        Ok(value)
    }

    fn run(params: &Params, inputs: Inputs, ctx: &Context) -> Result<Evaluation, StageError> {
        let Inputs { features, target, poison_features, poisons, dataset, extractor } = inputs;
        let classes = features.classes.len();
        let (clean, test) = (features.train.samples(classes)?, features.test.samples(classes)?);
        let victims = Victims { clean, params, weight_decay: target.weight_decay, ctx, worst: Cell::new(0.0) };

        let (attack, clean_label, eps_d, objective, m) = match (&poisons, &poison_features) {
            (Some(p), _) => {
                (format!("{} + {}", p.attack, p.method), p.clean_label, p.eps_d, p.objective, p.labels.len())
            }
            (None, Some(p)) => (p.aim.attack.clone(), p.clean_label, p.eps_d, p.objective, p.labels.len()),
            (None, None) => return Err(StageError::internal("there are no poisons")),
        };
        let on_features = match &poison_features {
            Some(poisons) => {
                Some(victims.train("poisoned features", &poisons.features.mapv(f64::from), &poisons.labels)?)
            }
            None => None,
        };
        let (mut on_images, mut seen, mut changes) = (None, None, Vec::new());
        if let Some(poisons) = &poisons {
            let (Some(dataset), Some(extractor)) = (&dataset, &extractor) else {
                return Err(StageError::internal(
                    "poisons came without the images and the extractor they were made with",
                ));
            };
            let extractor = hemlock_models::open_extractor(extractor, ctx.device)?;
            let mut z = hemlock_models::extract(&extractor, poisons.images.view(), ctx)?;
            features.normalization.apply(z.view_mut());
            on_images = Some(victims.train("poisoned images", &z.mapv(f64::from), &poisons.labels)?);
            let (visibility, each) = visibility(poisons, &dataset.train)?;
            (seen, changes) = (Some(visibility), each);
        }
        let (rows, labels) = random_flips(clean, m, ctx.seed);
        let flipped = victims.train("random flips", &rows, &labels)?;
        let validation = features.validation.samples(classes)?;
        let aligned = if validation.is_empty() {
            None
        } else {
            let (rows, labels) = aligned_flips(clean, validation, &target.clean, target.weight_decay, m)?;
            Some(victims.train("aligned flips", &rows, &labels)?)
        };
        let (rows, labels) = duplicates(clean, m, ctx.seed);
        let duplicated = victims.train("duplicates", &rows, &labels)?;

        let constraint = match &poison_features {
            Some(poisons) => poisons.aim.constraint(clean)?,
            None => Constraint::default(),
        };
        let bar = ctx.progress.start("ceiling", 0, "steps");
        let ceiling = loss_ceiling(clean, &constraint, m, target.weight_decay, &target.clean, &|step, _| {
            bar.at(step as u64);
            !ctx.cancel.requested()
        })?;
        ctx.check()?;

        let clean_head = match params.victim {
            Victim::Exact => target.clean,
            Victim::Sgd => victims.train("clean data", &Array2::zeros((0, clean.dim())), &[])?,
        };
        let heads = Measured {
            clean: clean_head,
            target: target.target,
            features: on_features,
            images: on_images,
            random_flips: flipped,
            aligned_flips: aligned,
            duplicates: duplicated,
        };
        let measure = |head: &Head| -> Result<Accuracy, StageError> {
            Ok(Accuracy { overall: accuracy(head, test)?, per_class: per_class_accuracy(head, test)? })
        };
        Ok(Evaluation {
            attack,
            clean_label,
            eps_d,
            objective,
            bound: poison_features.as_ref().and_then(|poisons| poisons.bound),
            poisonability: target.path.last().map(|point| point.poisonability),
            poisons: m as u64,
            accuracy: heads.try_map(measure)?,
            clean_loss: heads.try_map(|head| mean_loss(head, &[clean]))?,
            ceiling,
            heads,
            gradient_norm: match params.victim {
                Victim::Exact => victims.worst.get().max(target.clean_gradient_norm),
                Victim::Sgd => victims.worst.get(),
            },
            visibility: seen,
            changes,
        })
    }
}

/// Trains victims, each from scratch.
struct Victims<'a> {
    clean: Samples<'a>,
    params: &'a Params,
    weight_decay: f64,
    ctx: &'a Context<'a>,
    /// Largest gradient norm at which a victim's training stopped.
    worst: Cell<f64>,
}

impl Victims<'_> {
    /// A head trained on the clean samples and `added` ones, `[m, d]`.
    fn train(&self, what: &str, added: &Array2<f64>, labels: &[u32]) -> Result<Head, StageError> {
        let added = Samples::new(added.view(), labels, self.clean.classes())?;
        match self.params.victim {
            Victim::Exact => self.train_exactly(what, added),
            Victim::Sgd => self.descend(what, added),
        }
    }

    fn descend(&self, what: &str, added: Samples) -> Result<Head, StageError> {
        let Params { epochs, batch, learning_rate, momentum, .. } = *self.params;
        let options =
            SgdOptions { weight_decay: self.weight_decay, epochs, batch, learning_rate, momentum, seed: self.ctx.seed };
        let bar = self.ctx.progress.start(what, epochs.into(), "epochs");
        let head = fit_sgd(&[self.clean.reborrow(), added.reborrow()], &options, &mut |epoch, _, loss| {
            bar.at(u64::from(epoch) + 1);
            bar.say(format!("loss {loss:.4}"));
            !self.ctx.cancel.requested()
        })?;
        self.ctx.check()?;
        let (_, gradient) = loss_and_gradient(&head, &[self.clean.reborrow(), added.reborrow()], self.weight_decay)?;
        self.worst.set(self.worst.get().max(norm(&gradient)));
        Ok(head)
    }

    fn train_exactly(&self, what: &str, added: Samples) -> Result<Head, StageError> {
        let options = FitOptions {
            gradient_tolerance: self.params.tolerance,
            max_iterations: self.params.max_iterations as usize,
            ..FitOptions::new(self.weight_decay)
        };
        let bar = self.ctx.progress.start(what, 0, "steps");
        let trained = fit(&[self.clean.reborrow(), added.reborrow()], &options, &|step, gradient| {
            bar.at(step as u64);
            bar.say(format!("gradient norm {gradient:.1e}"));
            !self.ctx.cancel.requested()
        })?;
        self.ctx.check()?;
        if !trained.converged {
            tracing::warn!(
                victim = what,
                gradient_norm = trained.gradient_norm,
                "a victim's training stopped before its tolerance {:.1e}",
                self.params.tolerance
            );
        }
        self.worst.set(self.worst.get().max(trained.gradient_norm));
        Ok(trained.head)
    }
}
