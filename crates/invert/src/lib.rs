//! Stage `invert`: images whose features are the poisoned ones.

use hemlock_artifact::{Dataset, Extractor, Features, Images, PoisonFeatures, Poisons, TargetParams};
use hemlock_attack::{attacks, random_features};
use hemlock_models::{extracted, open_extractor};
use hemlock_perturb::{
    CleanFeatureStats, Decoder, FrozenExtractor, GreyLevels, Matched, Matching, MatchingProblem, Measure, Optimizer,
    PixelLimits, PixelRange, Refinement, base_images, nearest, unit,
};
use hemlock_stage::{About, Context, Need, ParamError, Port, StageError, StageRole, inputs};
use hemlock_streams::Purpose;
use ndarray::{Array4, Axis};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A method of inversion, and its parameters.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "method", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Params {
    /// Feature matching: pixels `x` that minimise `|f(x) - zeta|^2 + beta |x - x_b|^2`, where `f` is the extractor,
    /// `zeta` are the poisoned features, and `x_b` is the base image.
    FeatureMatching {
        /// Weight `beta` of the squared distance to the base image, for pixels in `[0, 1]`.
        #[serde(default)]
        #[schemars(range(min = 0))]
        beta: f64,
        /// Largest change of a pixel from the base image, such as `"8/255"`. If it is absent, pixels may change to any
        /// value.
        #[serde(default)]
        linf: Option<GreyLevels>,
        /// Whether pixels are clipped to `[0, 1]`. `false` does not go with `linf`: such pixels are stored as floats,
        /// because image files cannot hold them.
        #[serde(default = "defaults::clip")]
        clip: bool,
        /// The optimiser of the pixels.
        #[serde(default)]
        optimizer: Optimizer,
        /// Most passes through the extractor, forward and backward, per start.
        #[serde(default = "defaults::steps")]
        #[schemars(range(min = 1))]
        steps: u32,
        /// Step length, for pixels in `[0, 1]`: of Adam's first step, which refinement uses, too, and of L-BFGS's steps
        /// without curvature information.
        #[serde(default = "defaults::step")]
        #[schemars(extend("exclusiveMinimum" = 0))]
        step: f64,
        /// An image is finished when ten passes lower its loss by less than this share.
        #[serde(default = "defaults::tolerance")]
        #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
        tolerance: f64,
        /// The start of feature matching.
        #[serde(default)]
        start: MatchingStart,
        /// Number of further starts, at the clean training images whose features are nearest to the poisoned ones. The
        /// best result is kept.
        #[serde(default)]
        restarts: u32,
        /// Steps of refinement: of all images together, after matching, on the objective that the poisoned features
        /// were made for. 0 turns refinement off. The first steps are long, so that a few of them undo the matching.
        /// The pull of the objective on the features keeps its strength until the end, and `beta` is weighed against
        /// it.
        #[serde(default)]
        refine: u32,
        /// The start of refinement. `base` and `random` are controls: they show how much of a refined attack is not due
        /// to the features that its images were matched to.
        #[serde(default, skip_serializing_if = "RefineFrom::is_matched")]
        #[schemars(!skip_serializing_if)]
        refine_from: RefineFrom,
    },
    /// Decoding: the decoder of `[decoder]` turns the poisoned features into images.
    Decoder {},
}

/// The start of refinement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RefineFrom {
    /// The images that were matched to the poisoned features.
    #[default]
    Matched,
    /// The base images, without matching.
    Base,
    /// Images that were matched to normally distributed features, with the clean mean and standard deviation of every
    /// coordinate, projected onto the constraint.
    Random,
}

impl RefineFrom {
    fn is_matched(&self) -> bool {
        *self == Self::Matched
    }

    /// The name of refined images in results.
    fn name(self) -> &'static str {
        match self {
            Self::Matched => REFINED,
            Self::Base => "refined-from-base",
            Self::Random => "refined-from-random",
        }
    }
}

/// The start of feature matching. If there is an Linf ball, starts are projected onto it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MatchingStart {
    /// The base image.
    #[default]
    Base,
    /// The clean training image whose features are nearest to the poisoned ones.
    Nearest,
    /// The decoder's image.
    Decoder,
}

mod defaults {
    pub(super) fn clip() -> bool {
        true
    }
    pub(super) fn steps() -> u32 {
        200
    }
    pub(super) fn step() -> f64 {
        0.02
    }
    pub(super) fn tolerance() -> f64 {
        0.01
    }
}

impl hemlock_stage::Params for Params {
    fn check(&self) -> Result<(), ParamError> {
        let Self::FeatureMatching { beta, linf, clip, steps, step, tolerance, refine, refine_from, .. } = *self else {
            return Ok(());
        };
        if refine == 0 && !refine_from.is_matched() {
            let message =
                "says where refinement starts, and there is none; expected `refine` above 0, or leave this out";
            return Err(ParamError::new("refine_from", message));
        }
        ParamError::non_negative("beta", beta)?;
        PixelRange::check(linf, clip)?;
        ParamError::at_least_one("steps", steps)?;
        ParamError::positive("step", step)?;
        ParamError::require((0.0..1.0).contains(&tolerance), "tolerance", tolerance, "a share from 0 and below 1")
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
        /// Poisoned features.
        poison_features: PoisonFeatures = "poison-features",
        ; optional {
            /// The decoder, if images start there or are made by it.
            decoder: hemlock_artifact::Decoder = "decoder",
            /// The clean head and the target head, for refinement.
            target: TargetParams = "target-params",
        }
    }
}

/// Name of images that were refined; the names of its controls begin with it.
pub const REFINED: &str = "refined";

/// The stage.
pub struct Stage;

impl hemlock_stage::Stage for Stage {
    const NAME: &'static str = "invert";
    const ABOUT: About =
        About { named_by: &["method"], ..About::new(StageRole::Inversion, "find images with the poisoned features") };
    const VERSION: u32 = 9;
    const SEEDED: bool = false;
    const USES_DEVICE: bool = true;
    type Params = Params;
    type Inputs = Inputs;
    type Output = Poisons;

    /// Refinement from the base images does not match, so the parameters of matching are not in the key.
    fn key_params(params: &Params) -> Result<Value, serde_json::Error> {
        let mut value = serde_json::to_value(params)?;
        if let (Params::FeatureMatching { refine_from: RefineFrom::Base, .. }, Some(fields)) =
            (params, value.as_object_mut())
        {
            let matching = ["optimizer", "steps", "tolerance", "start", "restarts"];
            fields.retain(|field, _| !matching.contains(&field.as_str()));
        }
        Ok(value)
    }

    /// Only random features are drawn.
    fn seeded(params: &Params) -> bool {
        matches!(params, Params::FeatureMatching { refine_from: RefineFrom::Random, .. })
    }

    fn need(params: &Params, port: &Port) -> Need {
        let needs = match (port.role, params) {
            ("decoder", Params::Decoder {}) => true,
            ("decoder", Params::FeatureMatching { start, refine_from, .. }) => {
                *start == MatchingStart::Decoder && *refine_from != RefineFrom::Base
            }
            ("target", Params::Decoder {}) => false,
            ("target", Params::FeatureMatching { refine, .. }) => *refine > 0,
            _ => return port.need,
        };
        if needs { Need::Required } else { Need::Unread }
    }

    fn accepts(_: &Params, port: &Port, made_with: &Value) -> Result<(), ParamError> {
        extracted(port, made_with)
    }

    fn run(params: &Params, inputs: Inputs, ctx: &Context) -> Result<Poisons, StageError> {
        let Inputs { dataset, extractor, features, poison_features, target, decoder } = inputs;
        let extractor = open_extractor(&extractor, ctx.device)?;
        let frozen = FrozenExtractor::new(&extractor, &features.normalization);
        let zeta = poison_features.features.view();
        let samples = features.train.samples(features.classes.len())?;
        let constraint = attacks::constraint(&poison_features.spec, samples)?;
        let random = match params {
            Params::FeatureMatching { refine_from: RefineFrom::Random, .. } => {
                let mut rng = Purpose::RefinementFeatures.of(ctx.seed);
                let mut random = random_features(samples, zeta.nrows(), &mut rng)?;
                constraint.project(&mut random, &poison_features.labels);
                Some(random.mapv(|z| z as f32))
            }
            _ => None,
        };
        // The features to match: the poisoned ones or, as a control, random ones.
        let matched_to = random.as_ref().map_or(zeta, |random| random.view());
        let decoded = match &decoder {
            Some(decoder) => Some(Decoder::open(decoder, frozen.device())?.decode(matched_to, ctx)?),
            None => None,
        };
        let clean = CleanFeatureStats::new(features.train.features.view());
        let mut refined = Vec::new();
        let base = base_images(&dataset.train, &poison_features.base_index)?;
        let (method, free, found) = match *params {
            Params::FeatureMatching {
                beta,
                linf,
                clip,
                optimizer,
                steps,
                step,
                tolerance,
                start,
                restarts,
                refine,
                refine_from,
            } => {
                let exact = (EXACT * clean.nearest.median).powi(2) as f32;
                let limits = PixelLimits { base: base.view(), beta, range: PixelRange::new(linf, clip) };
                let problem = MatchingProblem { frozen: &frozen, limits, zeta: matched_to, exact };
                let mut found = if refine_from == RefineFrom::Base {
                    Matched::none(base.mapv(|p| f32::from(p) / 255.0))
                } else {
                    let matching = Matching { optimizer, steps, step, tolerance };
                    let starts = Starts::new(start, restarts, &problem, decoded.as_ref(), &dataset.train, &features)?;
                    matching.run(&problem, starts.count, &|row, n| starts.pixels(row, n), ctx)?
                };
                if let Some(target) = target.filter(|_| refine > 0) {
                    let mut objective = attacks::objective(&poison_features.spec, &features, &target, ctx.cancel)?;
                    let labels = &poison_features.labels;
                    let refinement =
                        Refinement { name: "refinement", steps: refine, step, labels, constraint: &constraint };
                    (found.pixels, refined) = refinement.run(&frozen, &limits, &mut *objective, found.pixels, ctx)?;
                    found.passes.iter_mut().for_each(|passes| *passes += refine);
                    objective.warn();
                }
                (if refine > 0 { refine_from.name() } else { "feature-matching" }, !clip, found)
            }
            Params::Decoder {} => {
                let pixels = decoded.ok_or_else(|| StageError::internal("the decoder was not given"))?;
                ("decoder", false, Matched::none(pixels))
            }
        };
        let measure = Measure {
            frozen: &frozen,
            features: &features,
            clean: &clean,
            constraint: &constraint,
            labels: &poison_features.labels,
            base_index: &poison_features.base_index,
            free,
        };
        let (images, fits) = measure.finish(&found.pixels, Some(zeta), &found.passes, ctx)?;
        Ok(Poisons {
            images,
            pixels: free.then_some(found.pixels),
            fits,
            attack: poison_features.spec.attack,
            method: method.to_owned(),
            objective: poison_features.objective,
            clean_label: poison_features.clean_label,
            replaces: false,
            poison_fraction: poison_features.poison_fraction,
            labels: poison_features.labels,
            base_index: poison_features.base_index,
            clean_nearest: clean.nearest.median,
            outliers_of_features: Some(clean.outliers(zeta, features.train.features.view())),
            learner: None,
            curve: found.curve,
            refined,
        })
    }
}

/// Feature distance at which an image counts as matched, divided by the clean samples' median distance to their nearest
/// neighbours. Rounding to 8 bits moves features by about as much.
const EXACT: f64 = 0.01;

/// The images at which feature matching starts.
struct Starts<'a> {
    first: MatchingStart,
    /// Number of starts per poison.
    count: usize,
    base: &'a MatchingProblem<'a>,
    decoded: Option<&'a Array4<f32>>,
    train: &'a Images,
    /// For every poison, the training images whose features are nearest to its own, with their distances.
    nearest: Vec<Vec<(usize, f32)>>,
}

impl<'a> Starts<'a> {
    fn new(
        first: MatchingStart,
        restarts: u32,
        problem: &'a MatchingProblem<'a>,
        decoded: Option<&'a Array4<f32>>,
        train: &'a Images,
        features: &Features,
    ) -> Result<Self, StageError> {
        let count = restarts as usize + 1;
        let wanted = restarts as usize + usize::from(first == MatchingStart::Nearest);
        if wanted > train.len() {
            let message = format!("is {restarts}; expected fewer than the {} training images", train.len());
            return Err(ParamError::new("restarts", message).into());
        }
        let nearest = nearest(problem.zeta, features.train.features.view(), wanted);
        Ok(Self { first, count, base: problem, decoded, train, nearest })
    }

    /// Pixels in `[0, 1]` of start number `n` of a poison.
    fn pixels(&self, row: usize, n: usize) -> Vec<f32> {
        match (n, self.first, self.decoded) {
            (0, MatchingStart::Base, _) => self.base.limits.base_pixels(row),
            (0, MatchingStart::Decoder, Some(decoded)) => decoded.index_axis(Axis(0), row).iter().copied().collect(),
            _ => {
                let neighbour = self.nearest[row][n - usize::from(self.first != MatchingStart::Nearest)].0;
                unit(self.train.pixels.view().index_axis(Axis(0), neighbour))
            }
        }
    }
}

#[cfg(test)]
mod tests;
