//! Two stages: images whose features are the poisoned ones, and the decoder that one way of finding them needs.

mod clean;
pub mod decoder;
mod matching;
mod minimize;
mod pass;
mod refine;
#[cfg(test)]
mod testing;

pub use matching::Optimizer;

use clean::{Clean, distance, distances, nearest, norm};
use decoder::Decoder;
use hemlock_artifact::{Dataset, Extractor, Features, Fit, Images, PoisonFeatures, Poisons, TargetParams};
use hemlock_head::Constraint;
use hemlock_models::{extract, open_extractor};
use hemlock_poison_features::Goal;
use hemlock_stage::{Context, ErrorKind, Need, ParamError, Port, StageError, inputs};
use matching::{Matched, Matching, Problem};
use ndarray::{Array4, ArrayView2, ArrayView3, Axis};
use pass::{Frozen, rounded};
use refine::Refinement;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Parameters of the stage: a method, and what it needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Params {
    /// Pixels that minimise `|f(x) - zeta|^2 + beta |x - x_b|^2`, `x_b` the base image.
    FeatureMatching {
        /// Weight of the distance to the base image.
        #[serde(default)]
        beta: f64,
        /// Largest change of a pixel against the base image, in grey levels of 255; absent: any within `[0, 1]`.
        #[serde(default)]
        linf: Option<u8>,
        /// How pixels are searched for.
        #[serde(default)]
        optimizer: Optimizer,
        /// Most passes through the extractor, forward and backward, per start.
        #[serde(default = "defaults::steps")]
        steps: u32,
        /// Length of Adam's first step, also in refinement, and of L-BFGS's step where it knows no curvature; in pixel units of `[0, 1]`.
        #[serde(default = "defaults::step")]
        step: f64,
        /// An image is done when ten passes lower its loss by less than this share.
        #[serde(default = "defaults::tolerance")]
        tolerance: f64,
        /// Where an image starts.
        #[serde(default)]
        start: Start,
        /// Further starts, at the clean training images whose features are nearest to the poisoned ones; the best result is kept.
        #[serde(default)]
        restarts: u32,
        /// Steps of all images together, once they are matched, on the objective that the poisoned features were made for; 0: none. The
        /// first ones are long, so that a few undo what was matched. The features pull on the images with the same strength to the
        /// end, and `beta` weighs against that.
        #[serde(default)]
        refine: u32,
    },
    /// Images from the decoder that the stage `decoder` trained.
    Decoder {},
}

/// Where feature matching starts. Images are moved into the Linf ball where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// At the base image.
    #[default]
    Base,
    /// At the clean training image whose features are nearest to the poisoned ones.
    Nearest,
    /// At the decoder's image.
    Decoder,
}

mod defaults {
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
        let Self::FeatureMatching { beta, linf, steps, step, tolerance, .. } = *self else { return Ok(()) };
        ParamError::non_negative("beta", beta)?;
        ParamError::require(linf != Some(0), "linf", 0, "at least 1 grey level")?;
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
            /// The decoder, for those that start there.
            decoder: hemlock_artifact::Decoder = "decoder",
            /// The clean and the target head, for refinement.
            target: TargetParams = "target-params",
        }
    }
}

/// The stage.
pub struct Stage;

impl hemlock_stage::Stage for Stage {
    const NAME: &'static str = "invert";
    const VERSION: u32 = 6;
    const SEEDED: bool = false;
    const USES_DEVICE: bool = true;
    type Params = Params;
    type Inputs = Inputs;
    type Output = Poisons;

    fn need(params: &Params, port: &Port) -> Need {
        let needs = match (port.role, params) {
            ("decoder", Params::Decoder {}) => true,
            ("decoder", Params::FeatureMatching { start, .. }) => *start == Start::Decoder,
            ("target", Params::Decoder {}) => false,
            ("target", Params::FeatureMatching { refine, .. }) => *refine > 0,
            _ => return port.need,
        };
        if needs { Need::Required } else { Need::Unread }
    }

    fn accepts(port: &Port, made_with: &Value) -> Result<(), ParamError> {
        extracted(port, made_with)
    }

    fn run(params: &Params, inputs: Inputs, ctx: &Context) -> Result<Poisons, StageError> {
        let Inputs { dataset, extractor, features, poison_features, target, decoder } = inputs;
        let extractor = open_extractor(&extractor, ctx.device)?;
        let frozen = Frozen::new(&extractor, &features.normalization);
        let zeta = poison_features.features.view();
        let decoded = match &decoder {
            Some(decoder) => Some(Decoder::open(decoder, frozen.device())?.decode(zeta, ctx)?),
            None => None,
        };
        let clean = Clean::new(features.train.features.view());
        let constraint = poison_features.aim.constraint(features.train.samples(features.classes.len())?)?;
        let mut refined = Vec::new();
        let base = base_images(&dataset.train, &poison_features.base_index)?;
        let (method, found) = match *params {
            Params::FeatureMatching { beta, linf, optimizer, steps, step, tolerance, start, restarts, refine } => {
                let linf = linf.map(|levels| f32::from(levels) / 255.0);
                let exact = (EXACT * clean.nearest.median).powi(2) as f32;
                let problem = Problem { frozen: &frozen, base: base.view(), zeta, beta, linf, exact };
                let matching = Matching { optimizer, steps, step, tolerance };
                let starts = Starts::new(start, restarts, &problem, decoded.as_ref(), &dataset.train, &features)?;
                let mut found = matching.run(&problem, starts.count, &|row, n| starts.pixels(row, n), ctx)?;
                if let Some(target) = target.filter(|_| refine > 0) {
                    let mut goal = Goal::new(&poison_features.aim, &features, &target)?;
                    let labels = &poison_features.labels;
                    let refinement = Refinement { steps: refine, step, labels, constraint: &constraint };
                    (found.pixels, refined) = refinement.run(&problem, goal.objective(), found.pixels, ctx)?;
                    found.passes.iter_mut().for_each(|passes| *passes += refine);
                    goal.warn();
                }
                ("feature-matching", found)
            }
            Params::Decoder {} => {
                let pixels = decoded.ok_or_else(|| StageError::internal("the decoder was not given"))?;
                ("decoder", Matched { pixels, passes: vec![0; zeta.nrows()], curve: Vec::new() })
            }
        };
        let unrounded = frozen.features(found.pixels.view(), ctx)?;
        let images = rounded(&found.pixels);
        let mut z = extract(&extractor, images.view(), ctx)?;
        features.normalization.apply(z.view_mut());
        let measured = Measured {
            zeta,
            unrounded: unrounded.view(),
            z: z.view(),
            outside: outside(&constraint, z.view(), &poison_features.labels),
            base_index: &poison_features.base_index,
        };
        let fits = measured.fits(&found.passes, &clean, features.train.features.view());
        Ok(Poisons {
            images,
            fits,
            labels: poison_features.labels,
            base_index: poison_features.base_index,
            method: method.to_owned(),
            clean_nearest: clean.nearest.median,
            curve: found.curve,
            refined,
        })
    }
}

/// Requires features that the extractor made: images are searched for with its gradients.
fn extracted(port: &Port, made_with: &Value) -> Result<(), ParamError> {
    if port.role == "features" && made_with["method"] == "import" {
        let message = "needs the extractor that made the features, and [features] imports them from a file; leave out [decoder] and [invert]";
        return Err(ParamError::new("", message));
    }
    Ok(())
}

/// Feature distance, as a share of the clean samples' median distance to their nearest others, at which an image counts as matched. Rounding
/// to 8 bits moves features about as far.
const EXACT: f64 = 0.01;

/// The images that feature matching starts at.
struct Starts<'a> {
    first: Start,
    /// Starts of a poison.
    count: usize,
    base: &'a Problem<'a>,
    decoded: Option<&'a Array4<f32>>,
    train: &'a Images,
    /// For every poison, the training images whose features are nearest to the poisoned ones.
    nearest: Vec<Vec<(usize, f32)>>,
}

impl<'a> Starts<'a> {
    fn new(
        first: Start,
        restarts: u32,
        problem: &'a Problem<'a>,
        decoded: Option<&'a Array4<f32>>,
        train: &'a Images,
        features: &Features,
    ) -> Result<Self, StageError> {
        let count = restarts as usize + 1;
        let wanted = restarts as usize + usize::from(first == Start::Nearest);
        if wanted > train.len() {
            let message = format!("is {restarts}; expected fewer than the {} training images", train.len());
            return Err(ParamError::new("restarts", message).into());
        }
        let nearest = nearest(problem.zeta, features.train.features.view(), wanted);
        Ok(Self { first, count, base: problem, decoded, train, nearest })
    }

    /// Pixels in `[0, 1]` of the start `n` of a poison.
    fn pixels(&self, row: usize, n: usize) -> Vec<f32> {
        match (n, self.first, self.decoded) {
            (0, Start::Base, _) => self.base.base(row),
            (0, Start::Decoder, Some(decoded)) => decoded.index_axis(Axis(0), row).iter().copied().collect(),
            _ => {
                let neighbour = self.nearest[row][n - usize::from(self.first != Start::Nearest)].0;
                unit(self.train.pixels.view().index_axis(Axis(0), neighbour))
            }
        }
    }
}

/// An 8-bit image in `[0, 1]`.
fn unit(image: ArrayView3<u8>) -> Vec<f32> {
    image.iter().map(|p| f32::from(*p) / 255.0).collect()
}

/// Features of poisons, `[m, d]`: those wanted, and those of the images before and after rounding.
struct Measured<'a> {
    zeta: ArrayView2<'a, f32>,
    unrounded: ArrayView2<'a, f32>,
    z: ArrayView2<'a, f32>,
    /// How far each lies outside of the constraint.
    outside: Vec<f32>,
    base_index: &'a [u32],
}

impl Measured<'_> {
    /// How well each was matched, and how usual it is among the `train`ing features.
    fn fits(&self, passes: &[u32], clean: &Clean, train: ArrayView2<f32>) -> Vec<Fit> {
        let neighbours = nearest(self.z, train, 1);
        let (before, after) = (distances(self.unrounded, self.zeta), distances(self.z, self.zeta));
        let fit = |i: usize| {
            let (norm, nearest) = (norm(self.z.row(i)), neighbours[i].first().map_or(f32::NAN, |(_, d)| *d));
            Fit {
                start_distance: distance(train.row(self.base_index[i] as usize), self.zeta.row(i)),
                distance_unrounded: before[i],
                distance: after[i],
                outside: self.outside[i],
                norm,
                norm_z: clean.norm.z(norm),
                nearest,
                nearest_z: clean.nearest.z(nearest),
                passes: passes[i],
            }
        };
        (0..passes.len()).map(fit).collect()
    }
}

/// How far every row of `z` lies outside of its label's set.
fn outside(constraint: &Constraint, z: ArrayView2<f32>, labels: &[u32]) -> Vec<f32> {
    let mut inside = z.mapv(f64::from);
    constraint.project(&mut inside, labels);
    distances(inside.mapv(|x| x as f32).view(), z)
}

/// The images that the poisons are made of, `[m, 3, height, width]`.
fn base_images(train: &Images, base_index: &[u32]) -> Result<Array4<u8>, StageError> {
    let rows: Vec<usize> = base_index.iter().map(|i| *i as usize).collect();
    match rows.iter().find(|i| **i >= train.len()) {
        Some(i) => {
            let message = format!("a poison is made of training image {i}, and there are {}", train.len());
            Err(StageError::new(ErrorKind::Artifact, message))
        }
        None => Ok(train.pixels.view().select(Axis(0), &rows)),
    }
}

/// The share of the first step's length at `done` of `all` steps: half a cosine, from 1 to 0.
fn cosine(done: u64, all: u64) -> f64 {
    0.5 * (1.0 + (std::f64::consts::PI * done as f64 / all as f64).cos())
}
