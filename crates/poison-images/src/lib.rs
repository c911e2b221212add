//! Stage `poison-images`: attacks in input space, which optimise the pixels of poisons through the frozen extractor.
//! They are the baselines for the feature-targeted attack.
//!
//! The attacks are those of `poison-features`: each minimises a function of the poisons' features, which here are the
//! features of images. If a constraint limits the features, the goal of every step is projected onto it, as in
//! refinement.

use hemlock_artifact::{AttackSpec, CurvePoint, Dataset, ExtractorArtifact, Features, Images, Poisons, TargetParams};
use hemlock_attack::adaptive::{self, Adaptive, Evasion};
use hemlock_attack::{
    AttackParams, AttackRef, InitialPoisons, Initialization, Labels, Objective, Start, attacks, poison_count,
};
use hemlock_head::Samples;
use hemlock_head_device::make_passes;
use hemlock_models::{Extractor, extracted, open_extractor};
use hemlock_perturb::{
    CleanFeatureStats, FrozenExtractor, GreyLevels, Measure, PixelLimits, PixelRange, Refinement, base_images,
};
use hemlock_stage::{About, Context, ParamError, Port, StageError, StageRole, inputs};
use hemlock_threat::{Constraint, ConstraintKind, ConstraintKinds};
use ndarray::Array4;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, ser::Error};
use serde_json::Value;

/// An attack on pixels, without target features. A field that the chosen attack does not use is ignored, and does not
/// change the key.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Params {
    /// The attack, which defines the objective.
    pub attack: AttackRef,
    /// Number of poisons, divided by the number of clean training samples.
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1))]
    pub poison_fraction: f64,
    /// Labels of the poisons. Adversarial labels are chosen at the start of a descent, and not during it.
    #[serde(default)]
    pub labels: Labels,
    /// The base images: `clean` draws them at random, and `influence` takes those that help the attack most, to first
    /// order. If it is absent, the attack decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
    /// The constraint on the features of the images: a set as in `poison-features`, or `none`. Every step aims at
    /// features within it, as in refinement; images may end slightly outside.
    #[serde(default)]
    pub constraint: ConstraintKinds,
    /// The share of the clean features that the constraint lets through; `none` and `box` let all of them through.
    #[serde(default = "defaults::quantile")]
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1))]
    pub quantile: f64,
    /// The number of neighbours k of the constraint `knn`.
    #[serde(default = "defaults::neighbors")]
    #[schemars(range(min = 1))]
    pub neighbors: u32,
    /// Weight of the squared distance to the base image, as in refinement.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub beta: f64,
    /// Largest change of a pixel from the base image, such as `"8/255"`. If it is absent, pixels may change to any
    /// value.
    #[serde(default)]
    pub linf: Option<GreyLevels>,
    /// Whether pixels are clipped to `[0, 1]`. `false` does not go with `linf`: such pixels are stored as floats,
    /// because image files cannot hold them.
    #[serde(default = "defaults::clip")]
    pub clip: bool,
    /// Number of steps, each of all images together.
    #[serde(default = "defaults::steps")]
    #[schemars(range(min = 1))]
    pub steps: u32,
    /// Length of Adam's first step, for pixels in `[0, 1]`. If it is absent, 0.02, or 0.1 if pixels are not clipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub step: Option<f64>,
    /// Whether the attack knows the filter of the victim, and moves images such that it keeps them. It then makes
    /// images for every filter of `[[defence]]`, and they meet that filter alone.
    #[serde(default, skip_serializing_if = "Adaptive::is_off")]
    #[schemars(with = "bool")]
    pub adaptive: Adaptive,
    /// The attack's own parameters.
    #[serde(flatten)]
    pub own: AttackParams,
}

mod defaults {
    pub(super) fn clip() -> bool {
        true
    }
    pub(super) fn steps() -> u32 {
        300
    }
    pub(super) fn quantile() -> f64 {
        0.95
    }
    pub(super) fn neighbors() -> u32 {
        5
    }
}

impl Params {
    /// The parameters that do not belong to an attack.
    const FIELDS: [&str; 13] = [
        "attack",
        "poison_fraction",
        "labels",
        "start",
        "constraint",
        "quantile",
        "neighbors",
        "beta",
        "linf",
        "clip",
        "steps",
        "step",
        "adaptive",
    ];

    fn spec(&self, seed: u64) -> Result<AttackSpec, ParamError> {
        Ok(AttackSpec {
            attack: self.attack.name().to_owned(),
            parameters: self.own.of(self.attack)?.into_table(),
            seed,
            constraint: self.constraint.clone(),
            quantile: self.quantile,
            neighbors: self.neighbors,
            filter: self.adaptive.filter(seed)?,
        })
    }

    fn step(&self) -> f64 {
        self.step.unwrap_or(if self.clip { 0.02 } else { 0.1 })
    }

    fn start(&self) -> Start {
        self.start.unwrap_or(self.attack.defaults().start)
    }
}

impl hemlock_stage::Params for Params {
    fn check(&self) -> Result<(), ParamError> {
        self.own.check(&Self::FIELDS)?;
        self.adaptive.check()?;
        ParamError::share("poison_fraction", self.poison_fraction)?;
        ParamError::share("quantile", self.quantile)?;
        ParamError::at_least_one("neighbors", self.neighbors)?;
        if !matches!(self.start(), Start::Clean | Start::Influence) {
            return Err(ParamError::new(
                "start",
                "says where features start, and images start at images; expected `clean` or `influence`",
            ));
        }
        ParamError::non_negative("beta", self.beta)?;
        PixelRange::check(self.linf, self.clip)?;
        ParamError::at_least_one("steps", self.steps)?;
        ParamError::positive("step", self.step())
    }
}

inputs! {
    /// What the stage reads.
    pub struct Inputs {
        /// Downstream images.
        dataset: Dataset = "dataset.downstream",
        /// The frozen extractor.
        extractor: ExtractorArtifact = "pretrain",
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
    const ABOUT: About = About {
        named_by: &["attack", "poison_fraction"],
        adapts_to: Some(("adaptive", "defence")),
        ..About::new(StageRole::ImageAttack, "find poisoned images in pixels")
    };
    const VERSION: u32 = 6;
    const SEEDED: bool = true;
    const USES_DEVICE: bool = true;
    const LISTS: &'static [&'static str] = &["sees", "weight_decays"];
    type Params = Params;
    type Inputs = Inputs;
    type Output = Poisons;

    fn key_params(params: &Params) -> Result<Value, serde_json::Error> {
        let own = params.own.of(params.attack).map_err(serde_json::Error::custom)?;
        let (start, step, adaptive) = (Some(params.start()), Some(params.step()), params.adaptive.resolved());
        let resolved = Params { start, step, own, adaptive, ..params.clone() };
        let mut value = serde_json::to_value(resolved)?;
        if let Some(fields) = value.as_object_mut() {
            fields.retain(|field, _| match field.as_str() {
                "quantile" => params.constraint.has_quantile(),
                "neighbors" => params.constraint.kinds().contains(&ConstraintKind::Knn),
                _ => true,
            });
        }
        Ok(value)
    }

    /// Base images that help most are not drawn, and neither are labels that are not random. Filters may draw.
    fn seeded(params: &Params) -> bool {
        let moves = params.own.stochasticity(params.attack).is_some();
        params.start() == Start::Clean || params.labels == Labels::Random || moves || !params.adaptive.is_off()
    }

    fn accepts(_: &Params, port: &Port, made_with: &Value) -> Result<(), ParamError> {
        extracted(port, made_with)
    }

    fn run(params: &Params, inputs: Inputs, ctx: &Context) -> Result<Poisons, StageError> {
        let Inputs { dataset, extractor, features, target } = inputs;
        let extractor = open_extractor(&extractor, ctx)?;
        poison(params, &extractor, &dataset.train, (&features, &target), ctx)
    }
}

/// Attacks the pixels of training images, whose features and whose target head are given.
///
/// # Errors
/// If the images and the extractor do not fit each other, if the extractor fails, or if the run was interrupted.
pub fn poison(
    params: &Params,
    extractor: &Extractor,
    train: &Images,
    (features, target): (&Features, &TargetParams),
    ctx: &Context,
) -> Result<Poisons, StageError> {
    let samples = features.train.samples(features.classes.len())?;
    let spec = params.spec(ctx.seed)?;
    let frozen = FrozenExtractor::new(extractor, &features.normalization);
    let constraint = attacks::constraint(&spec, samples)?;
    let passes = make_passes(samples, ctx)?;
    let mut objective = attacks::objective(&spec, features, target, ctx.cancel, &*passes)?;
    let attack = PixelAttack {
        params,
        frozen: &frozen,
        train,
        clean: samples,
        count: poison_count(params.poison_fraction, samples.len())?,
        constraint: &constraint,
        ctx,
    };
    let mut attacked = attack.best(&mut *objective)?;
    if let Some(evasion) = Evasion::new(&spec, samples, target.weight_decay)? {
        attacked = attack.adapt(&mut *objective, &evasion, attacked)?;
    }
    let Attacked { start, pixels, curve, passes, gap } = attacked;
    objective.warn();
    let clean = CleanFeatureStats::new(features.train.features.view());
    let measure = Measure {
        frozen: attack.frozen,
        features,
        clean: &clean,
        constraint: attack.constraint,
        labels: &start.labels,
        base_index: &start.base,
        unclipped: !params.clip,
    };
    let passes = vec![passes; start.base.len()];
    let (images, fits) = measure.finish(&pixels, None, &passes, ctx)?;
    Ok(Poisons {
        images,
        pixels: (!params.clip).then_some(pixels),
        fits,
        attack: params.attack.name().to_owned(),
        method: "pixels".to_owned(),
        objective: last(&curve),
        clean_label: params.labels == Labels::Clean,
        replaces: false,
        poison_fraction: params.poison_fraction,
        labels: start.labels,
        base_index: start.base,
        clean_nearest: clean.nearest.median,
        outliers_of_features: None,
        gap,
        learner: None,
        curve: Vec::new(),
        refined: curve,
    })
}

/// An attack on pixels, and what it reads.
struct PixelAttack<'a> {
    params: &'a Params,
    frozen: &'a FrozenExtractor<'a>,
    train: &'a Images,
    clean: Samples<'a>,
    count: usize,
    constraint: &'a Constraint,
    ctx: &'a Context<'a>,
}

/// The images of an attack, and what it started from.
struct Attacked {
    start: InitialPoisons,
    pixels: Array4<f32>,
    /// The displayed objective at some steps.
    curve: Vec<CurvePoint>,
    /// Number of passes of each image through the extractor.
    passes: u32,
    /// With adversarial labels, see [`Poisons::gap`].
    gap: Option<f64>,
}

impl Attacked {
    /// The displayed objective at the end.
    fn objective(&self) -> f64 {
        last(&self.curve)
    }
}

impl PixelAttack<'_> {
    /// Attacks with the labels that the parameters name. Adversarial labels include clean labels as a special case, so
    /// there are three descents, and the best result is taken: one with clean labels, one with adversarial labels from
    /// its own start, and one with adversarial labels from the end of the first. If the objective is stochastic, values
    /// of different descents cannot be compared, and there is one.
    fn best(&self, objective: &mut dyn Objective) -> Result<Attacked, StageError> {
        let labels = self.params.labels;
        if labels != Labels::Adversarial || objective.is_stochastic() {
            return self.attack(objective, labels);
        }
        let kept = self.attack(objective, Labels::Clean)?;
        let alone = self.attack(objective, labels)?;
        let onwards = self.onwards(objective, &kept)?;
        let sign = if objective.is_maximized() { -1.0 } else { 1.0 };
        let better = |a: Attacked, b: Attacked| if sign * b.objective() < sign * a.objective() { b } else { a };
        let reached = alone.objective();
        let best = better(better(alone, onwards), kept);
        Ok(Attacked { gap: Some((best.objective() - reached).abs()), ..best })
    }

    /// Attacks from the start that the parameters name.
    fn attack(&self, objective: &mut dyn Objective, labels: Labels) -> Result<Attacked, StageError> {
        let Self { params, clean, count, constraint, ctx, .. } = *self;
        let plan = Initialization { clean, count, kind: params.start(), labels, sweeps: 0, seed: ctx.seed };
        let start = plan.make(objective, constraint, &mut |_, _| ctx.check())?;
        let pixels = base_images(self.train, &start.base)?.mapv(|p| f32::from(p) / 255.0);
        self.descend(objective, start, pixels)
    }

    /// Attacks from the end of another attack, with labels that are adversarial there.
    fn onwards(&self, objective: &mut dyn Objective, before: &Attacked) -> Result<Attacked, StageError> {
        let InitialPoisons { base, labels, .. } = &before.start;
        let features = self.frozen.features(before.pixels.view(), self.ctx)?.mapv(f64::from);
        let labels = objective.evaluate(features.view(), labels)?.best_labels(features.view())?;
        let start = InitialPoisons { base: base.clone(), features, labels };
        let after = self.descend(objective, start, before.pixels.clone())?;
        // Only the labels of its first point are new.
        let later = after.curve.iter().skip(1);
        let later = later.map(|point| CurvePoint { step: before.passes + point.step, ..*point });
        let curve = before.curve.iter().cloned().chain(later).collect();
        Ok(Attacked { curve, passes: before.passes + after.passes, ..after })
    }

    fn descend(
        &self,
        objective: &mut dyn Objective,
        start: InitialPoisons,
        pixels: Array4<f32>,
    ) -> Result<Attacked, StageError> {
        let (pixels, curve) = self.with_refinement(&start, |refinement, limits| {
            refinement.run(self.frozen, limits, objective, pixels, self.ctx)
        })?;
        Ok(Attacked { start, pixels, curve, passes: self.params.steps, gap: None })
    }

    /// Adapts images to a filter.
    fn adapt(
        &self,
        objective: &mut dyn Objective,
        evasion: &Evasion,
        Attacked { start, pixels, curve, passes, gap }: Attacked,
    ) -> Result<Attacked, StageError> {
        let (pixels, curve) = self.with_refinement(&start, |refinement, limits| {
            refinement.adapt(self.frozen, limits, objective, (evasion, self.constraint), (pixels, curve), self.ctx)
        })?;
        let passes = passes + adaptive::TURNS * adaptive::steps_of_turn(self.params.steps);
        Ok(Attacked { start, pixels, curve, passes, gap })
    }

    /// Calls `go` with the limits of the images and the parameters of their descent.
    fn with_refinement<T>(
        &self,
        start: &InitialPoisons,
        go: impl FnOnce(&Refinement, &PixelLimits) -> Result<T, StageError>,
    ) -> Result<T, StageError> {
        let Self { params, constraint, .. } = *self;
        let base = base_images(self.train, &start.base)?;
        let range = PixelRange::new(params.linf, params.clip);
        let limits = PixelLimits { base: base.view(), beta: params.beta, range };
        let (steps, step) = (params.steps, params.step());
        go(&Refinement { name: "attack on pixels", steps, step, labels: &start.labels, constraint }, &limits)
    }
}

/// The objective at the end of a curve.
fn last(curve: &[CurvePoint]) -> f64 {
    curve.last().map_or(f64::NAN, |point| point.objective)
}

#[cfg(test)]
mod tests;
