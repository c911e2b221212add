//! Stage `invert`: images whose features are the poisoned ones.

mod inversion;

use hemlock_artifact::{
    Dataset, DecoderArtifact, ExtractorArtifact, Features, Images, PoisonFeatures, Poisons, TargetParams,
};
use hemlock_models::{Extractor, extracted, open_extractor};
use hemlock_perturb::{GreyLevels, Measure, Optimizer, PixelRange};
use hemlock_stage::{About, Context, Need, ParamError, Part, Port, StageError, StageRole, inputs};
use inversion::{Inversion, Inverted};
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
        extractor: ExtractorArtifact = "pretrain",
        /// Features of the downstream dataset.
        features: Features = "features",
        /// Poisoned features.
        poison_features: PoisonFeatures = "poison-features",
        ; optional {
            /// The decoder, if images start there or are made by it.
            decoder: DecoderArtifact = "decoder",
            /// The clean head and the target head, for refinement.
            target: TargetParams = "target-params",
        }
    }
}

/// The stage.
pub struct Stage;

impl hemlock_stage::Stage for Stage {
    const NAME: &'static str = "invert";
    const ABOUT: About =
        About { named_by: &["method"], ..About::new(StageRole::Inversion, "find images with the poisoned features") };
    const VERSION: u32 = 12;
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

    /// Every image is matched by itself.
    fn splits(params: &Params) -> bool {
        matches!(params, Params::FeatureMatching { refine_from: RefineFrom::Matched | RefineFrom::Random, .. })
    }

    fn part(params: &Params, inputs: Inputs, part: Part, ctx: &Context) -> Result<(), StageError> {
        let Inputs { dataset, extractor, features, poison_features, decoder, .. } = inputs;
        let extractor = open_extractor(&extractor, ctx)?;
        let known = Known { train: &dataset.train, features: &features, poison_features: &poison_features };
        Inversion::new(&extractor, known, ctx)?.part(params, decoder.as_ref(), part)
    }

    fn run(params: &Params, inputs: Inputs, ctx: &Context) -> Result<Poisons, StageError> {
        let Inputs { dataset, extractor, features, poison_features, target, decoder } = inputs;
        let extractor = open_extractor(&extractor, ctx)?;
        let known = Known { train: &dataset.train, features: &features, poison_features: &poison_features };
        invert(params, &extractor, known, (decoder.as_ref(), target.as_ref()), ctx)
    }
}

/// What an inversion knows besides the extractor.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The training images.
    pub train: &'a Images,
    /// Their features.
    pub features: &'a Features,
    /// The poisoned features.
    pub poison_features: &'a PoisonFeatures,
}

/// Makes images of poisoned features. The decoder and the target are there if `params` read them ([`Stage::need`]).
///
/// # Errors
/// If the images and the extractor do not fit each other, if the extractor fails, or if the run was interrupted.
///
/// [`Stage::need`]: hemlock_stage::Stage::need
pub fn invert(
    params: &Params,
    extractor: &Extractor,
    known: Known,
    (decoder, target): (Option<&DecoderArtifact>, Option<&TargetParams>),
    ctx: &Context,
) -> Result<Poisons, StageError> {
    let Known { features, poison_features, .. } = known;
    let inversion = Inversion::new(extractor, known, ctx)?;
    let Inverted { method, unclipped, matched, refined } = inversion.run(params, decoder, target)?;
    let measure = Measure {
        frozen: &inversion.frozen,
        features,
        clean: &inversion.clean,
        constraint: &inversion.constraint,
        labels: &poison_features.labels,
        base_index: &poison_features.base_index,
        unclipped,
    };
    let zeta = poison_features.features.view();
    let (images, fits) = measure.finish(&matched.pixels, Some(zeta), &matched.passes, ctx)?;
    let outliers = inversion.clean.outliers(zeta, features.train.features.view());
    Ok(Poisons {
        images,
        pixels: unclipped.then_some(matched.pixels),
        fits,
        attack: poison_features.spec.attack.clone(),
        method: method.to_owned(),
        objective: poison_features.objective,
        clean_label: poison_features.clean_label,
        replaces: false,
        poison_fraction: poison_features.poison_fraction,
        clean_nearest: inversion.clean.nearest.median,
        outliers_of_features: Some(outliers),
        gap: None,
        labels: poison_features.labels.clone(),
        base_index: poison_features.base_index.clone(),
        learner: None,
        curve: matched.curve,
        refined,
    })
}

#[cfg(test)]
mod tests;
