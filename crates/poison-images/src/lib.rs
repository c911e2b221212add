//! Stage: poisoned images, by an attack that moves pixels through the frozen extractor, with no features aimed at in between: the
//! baselines that the feature-targeted attack is compared with.
//!
//! The attacks are those of `poison-features`: what each minimises is a function of the poisons' features, here those that images have.

use hemlock_artifact::{Aim, Dataset, Extractor, Features, Poisons, TargetParams};
use hemlock_head::{Constraint, ConstraintKinds};
use hemlock_invert::{Clean, Frozen, Limits, Measure, Refinement, base_images, extracted};
use hemlock_models::open_extractor;
use hemlock_poison_features::{Attack, Follower, Goal, Labels, Plan, Split, StartKind, check_follower, poison_count};
use hemlock_stage::{Context, ParamError, Port, StageError, inputs};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Parameters of the stage. What a choice makes idle is ignored, and is not part of the key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// What the poisons are to do.
    pub attack: Attack,
    /// Poisons, as a share of the clean training count.
    pub eps_d: f64,
    /// Labels of the poisons. `aligned` ones are chosen once, at the start.
    #[serde(default)]
    pub labels: Labels,
    /// Which clean images the poisons are made of: `clean`, drawn at random, or `aligned`, those that help most; absent: `clean` for
    /// Gradient Canceling, `aligned` for the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<StartKind>,
    /// Weight of the distance to the base image, as in refinement.
    #[serde(default)]
    pub beta: f64,
    /// Largest change of a pixel against the base image, in grey levels of 255; absent: any within `[0, 1]`.
    #[serde(default)]
    pub linf: Option<u8>,
    /// Steps of all images together.
    #[serde(default = "defaults::steps")]
    pub steps: u32,
    /// Length of Adam's first step, in pixel units of `[0, 1]`.
    #[serde(default = "defaults::step")]
    pub step: f64,
    /// Of the bilevel attack and of TGDA: the split whose error, or loss, is raised.
    #[serde(default)]
    pub objective: Split,
    /// Of the bilevel attack: temperature of the smoothed error.
    #[serde(default = "defaults::temperature")]
    pub temperature: f64,
    /// Of TGDA: the follower.
    #[serde(default)]
    pub follower: Follower,
}

mod defaults {
    pub(super) fn steps() -> u32 {
        300
    }
    pub(super) fn step() -> f64 {
        0.02
    }
    pub(super) fn temperature() -> f64 {
        0.5
    }
}

impl Params {
    fn aim(&self, seed: u64) -> Aim {
        Aim {
            attack: self.attack,
            raised: self.objective,
            temperature: self.temperature,
            follower: self.follower.resolved(),
            seed,
            constraint: ConstraintKinds::default(),
            quantile: 1.0,
            neighbors: 1,
        }
    }

    fn start(&self) -> StartKind {
        self.start.unwrap_or(match self.attack {
            Attack::GradientCanceling => StartKind::Clean,
            Attack::Bilevel | Attack::Tgda => StartKind::Aligned,
        })
    }
}

impl hemlock_stage::Params for Params {
    fn check(&self) -> Result<(), ParamError> {
        ParamError::share("eps_d", self.eps_d)?;
        if !matches!(self.start(), StartKind::Clean | StartKind::Aligned) {
            return Err(ParamError::new(
                "start",
                "says where features start, and images start at images; expected `clean` or `aligned`",
            ));
        }
        ParamError::non_negative("beta", self.beta)?;
        ParamError::require(self.linf != Some(0), "linf", 0, "at least 1 grey level")?;
        ParamError::at_least_one("steps", self.steps)?;
        ParamError::positive("step", self.step)?;
        ParamError::positive("temperature", self.temperature)?;
        check_follower(&self.follower)
    }
}

inputs! {
    /// What the stage reads.
    pub struct Inputs {
        /// Downstream images.
        dataset: Dataset = "dataset.downstream",
        /// The frozen extractor.
        extractor: Extractor = "pretrain",
        /// Features of the downstream dataset.
        features: Features = "features",
        /// The clean head and the target head.
        target: TargetParams = "target-params",
    }
}

/// The stage.
pub struct Stage;

impl hemlock_stage::Stage for Stage {
    const NAME: &'static str = "poison-images";
    const VERSION: u32 = 1;
    const SEEDED: bool = true;
    const USES_DEVICE: bool = true;
    type Params = Params;
    type Inputs = Inputs;
    type Output = Poisons;

    fn key_params(params: &Params) -> Result<Value, serde_json::Error> {
        let follower = params.follower.resolved();
        let mut value = serde_json::to_value(Params { start: Some(params.start()), follower, ..params.clone() })?;
        if let Some(fields) = value.as_object_mut() {
            fields.retain(|field, _| params.attack.reads(field));
        }
        Ok(value)
    }

    /// Aligned starts are not drawn.
    fn seeded(params: &Params) -> bool {
        let descends = params.attack == Attack::Tgda && params.follower.steps > 0;
        params.start() == StartKind::Clean || params.labels == Labels::Random || descends
    }

    fn accepts(port: &Port, made_with: &Value) -> Result<(), ParamError> {
        extracted(port, made_with)
    }

    fn run(params: &Params, inputs: Inputs, ctx: &Context) -> Result<Poisons, StageError> {
        let Inputs { dataset, extractor, features, target } = inputs;
        let extractor = open_extractor(&extractor, ctx.device)?;
        let frozen = Frozen::new(&extractor, &features.normalization);
        let samples = features.train.samples(features.classes.len())?;
        let anywhere = Constraint::default();
        let mut goal = Goal::new(&params.aim(ctx.seed), &features, &target)?;
        let plan = Plan {
            clean: samples,
            count: poison_count(params.eps_d, samples.len())?,
            kind: params.start(),
            labels: params.labels,
            sweeps: 0,
            seed: ctx.seed,
        };
        let start = plan.make(goal.objective(), &anywhere, &mut |_, _| Ok(()))?;
        let base = base_images(&dataset.train, &start.base)?;
        let limits =
            Limits { base: base.view(), beta: params.beta, linf: params.linf.map(|levels| f32::from(levels) / 255.0) };
        let descent = Refinement {
            name: "attack on pixels",
            steps: params.steps,
            step: params.step,
            labels: &start.labels,
            constraint: &anywhere,
        };
        let pixels = base.mapv(|p| f32::from(p) / 255.0);
        let (pixels, refined) = descent.run(&frozen, &limits, goal.objective(), pixels, ctx)?;
        goal.warn();
        let clean = Clean::new(features.train.features.view());
        let measure = Measure {
            frozen: &frozen,
            features: &features,
            clean: &clean,
            constraint: &anywhere,
            labels: &start.labels,
            base_index: &start.base,
        };
        let passes = vec![params.steps; start.base.len()];
        let (images, fits) = measure.finish(&pixels, None, &passes, ctx)?;
        Ok(Poisons {
            images,
            fits,
            attack: params.attack.name().to_owned(),
            method: "pixels".to_owned(),
            objective: refined.last().map_or(f64::NAN, |point| point.objective),
            clean_label: params.labels == Labels::Kept,
            eps_d: params.eps_d,
            labels: start.labels,
            base_index: start.base,
            clean_nearest: clean.nearest.median,
            curve: Vec::new(),
            refined,
        })
    }
}
