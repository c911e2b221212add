//! How features become images: by the decoder, or by feature matching and refinement.

use crate::{Known, MatchingStart, Params, RefineFrom};
use hemlock_artifact::{AttackId, CurvePoint, DecoderArtifact, Features, Images, PoisonFeatures, TargetParams};
use hemlock_attack::adaptive::{self, Evasion};
use hemlock_attack::{attacks, random_features};
use hemlock_head_device::make_passes;
use hemlock_models::Extractor;
use hemlock_perturb::{
    CleanFeatureStats, Decoder, FrozenExtractor, Matched, Matching, MatchingProblem, PixelLimits, PixelRange,
    Refinement, StartImages, base_images, nearest, unit,
};
use hemlock_stage::{Context, ParamError, Part, StageError};
use hemlock_streams::Purpose;
use hemlock_threat::Constraint;
use ndarray::{Array2, Array4, ArrayView2, Axis};

/// Feature distance at which an image counts as matched, divided by the clean samples' median distance to their nearest
/// neighbours. Rounding to 8 bits moves features by about as much.
const EXACT: f64 = 0.01;

/// What every step of an inversion reads.
pub(crate) struct Inversion<'a> {
    pub(crate) frozen: FrozenExtractor<'a>,
    pub(crate) train: &'a Images,
    pub(crate) features: &'a Features,
    pub(crate) clean: CleanFeatureStats,
    pub(crate) poison_features: &'a PoisonFeatures,
    pub(crate) constraint: Constraint,
    pub(crate) ctx: &'a Context<'a>,
}

/// The images of an inversion, and how they were found.
pub(crate) struct Inverted {
    /// The name of these images in results.
    pub(crate) method: &'static str,
    /// Whether pixels may lie outside of `[0, 1]`.
    pub(crate) unclipped: bool,
    pub(crate) matched: Matched,
    /// The attack's objective in the course of refinement; empty if there was none.
    pub(crate) refined: Vec<CurvePoint>,
}

impl<'a> Inversion<'a> {
    pub(crate) fn new(
        extractor: &'a Extractor,
        Known { train, features, poison_features }: Known<'a>,
        ctx: &'a Context,
    ) -> Result<Self, StageError> {
        Ok(Self {
            frozen: FrozenExtractor::new(extractor, &features.normalization),
            train,
            features,
            clean: CleanFeatureStats::new(features.train.features.view()),
            poison_features,
            constraint: attacks::constraint(&poison_features.spec, features.train.samples(features.classes.len())?)?,
            ctx,
        })
    }

    /// Makes images of the poisoned features. The decoder is there if `params` read it, and so is the target.
    pub(crate) fn run(
        &self,
        params: &Params,
        decoder: Option<&DecoderArtifact>,
        target: Option<&TargetParams>,
    ) -> Result<Inverted, StageError> {
        let Params::FeatureMatching { clip, step, refine, refine_from, .. } = *params else {
            let zeta = self.poison_features.features.view();
            let pixels =
                self.decoded(decoder, zeta)?.ok_or_else(|| StageError::internal("the decoder was not given"))?;
            return Ok(Inverted {
                method: "decoder",
                unclipped: false,
                matched: Matched::none(pixels),
                refined: Vec::new(),
            });
        };
        let base = self.base()?;
        let matched = match refine_from {
            RefineFrom::Base => Matched::none(base.mapv(|p| f32::from(p) / 255.0)),
            RefineFrom::Matched | RefineFrom::Random => {
                self.match_to(params, &base, decoder, |matching, problem, starts| {
                    matching.run(problem, starts, self.ctx)
                })?
            }
        };
        if refine == 0 {
            return Ok(Inverted { method: "feature-matching", unclipped: !clip, matched, refined: Vec::new() });
        }
        let target = target.ok_or_else(|| StageError::internal("the target was not given"))?;
        let (matched, refined) = self.refine(matched, (refine, step), &limits(params, &base), target)?;
        Ok(Inverted { method: refine_from.name(), unclipped: !clip, matched, refined })
    }

    /// Matches the images of one part of the poisons, and keeps them for the run of all.
    pub(crate) fn part(
        &self,
        params: &Params,
        decoder: Option<&DecoderArtifact>,
        part: Part,
    ) -> Result<(), StageError> {
        let base = self.base()?;
        self.match_to(params, &base, decoder, |matching, problem, starts| {
            matching.part(problem, starts, part, self.ctx)
        })
    }

    /// Calls `work` with the matching of `params`, which are those of feature matching, its problem and its starts.
    fn match_to<T>(
        &self,
        params: &Params,
        base: &Array4<u8>,
        decoder: Option<&DecoderArtifact>,
        work: impl FnOnce(&Matching, &MatchingProblem, &StartImages) -> Result<T, StageError>,
    ) -> Result<T, StageError> {
        let Params::FeatureMatching { optimizer, steps, step, tolerance, start, restarts, .. } = *params else {
            return Err(StageError::internal("a decoder matches nothing"));
        };
        let random = self.random_features(params)?;
        // The features to match: the poisoned ones or, as a control, random ones.
        let zeta = random.as_ref().map_or(self.poison_features.features.view(), |random| random.view());
        let decoded = self.decoded(decoder, zeta)?;
        let exact = (EXACT * self.clean.nearest.median).powi(2) as f32;
        let limits = limits(params, base);
        let problem = MatchingProblem { frozen: &self.frozen, limits, zeta, exact };
        let starts = self.starts((start, restarts), &limits, zeta, decoded.as_ref())?;
        let pixels = |row: usize, number: usize| starts.pixels(row, number);
        work(
            &Matching { optimizer, steps, step, tolerance },
            &problem,
            &StartImages { count: starts.count, pixels: &pixels },
        )
    }

    /// The base images of the poisons.
    fn base(&self) -> Result<Array4<u8>, StageError> {
        base_images(self.train, &self.poison_features.base_index)
    }

    /// The decoder's images of some features, if there is a decoder.
    fn decoded(
        &self,
        decoder: Option<&DecoderArtifact>,
        zeta: ArrayView2<f32>,
    ) -> Result<Option<Array4<f32>>, StageError> {
        decoder.map(|decoder| Decoder::open(decoder, self.frozen.device())?.decode(zeta, self.ctx)).transpose()
    }

    /// The features that images are matched to as a control; `None` if they are matched to the poisoned ones.
    fn random_features(&self, params: &Params) -> Result<Option<Array2<f32>>, StageError> {
        let Params::FeatureMatching { refine_from: RefineFrom::Random, .. } = params else { return Ok(None) };
        let PoisonFeatures { features, labels, .. } = self.poison_features;
        let samples = self.features.train.samples(self.features.classes.len())?;
        let mut rng = Purpose::RefinementFeatures.of(self.ctx.seed);
        let mut random = random_features(samples, features.nrows(), &mut rng)?;
        self.constraint.project(&mut random, labels);
        Ok(Some(random.mapv(|z| z as f32)))
    }

    /// The starts of feature matching: the first one, and so many at clean images.
    fn starts<'s>(
        &'s self,
        (first, restarts): (MatchingStart, u32),
        limits: &'s PixelLimits<'s>,
        zeta: ArrayView2<f32>,
        decoded: Option<&'s Array4<f32>>,
    ) -> Result<Starts<'s>, StageError> {
        let count = restarts as usize + 1;
        let wanted = restarts as usize + usize::from(first == MatchingStart::Nearest);
        if wanted > self.train.len() {
            let message = format!("is {restarts}; expected fewer than the {} training images", self.train.len());
            return Err(ParamError::new("restarts", message).into());
        }
        let nearest = nearest(zeta, self.features.train.features.view(), wanted);
        Ok(Starts { first, count, limits, decoded, train: self.train, nearest })
    }

    /// Moves matched images by so many steps, of which the first has the given length, on the objective that the
    /// poisoned features were made for. Returns the images, and the objective at some steps.
    fn refine(
        &self,
        matched: Matched,
        (steps, step): (u32, f64),
        limits: &PixelLimits,
        target: &TargetParams,
    ) -> Result<(Matched, Vec<CurvePoint>), StageError> {
        let PoisonFeatures { spec, labels, .. } = self.poison_features;
        let clean = self.features.train.samples(self.features.classes.len())?;
        let passes = make_passes(clean, self.ctx)?;
        let mut objective = attacks::objective(spec, self.features, target, self.ctx.cancel, &*passes)?;
        let refinement = Refinement { name: "refinement", steps, step, labels, constraint: &self.constraint };
        let mut refined = refinement.run(&self.frozen, limits, &mut *objective, matched.pixels, self.ctx)?;
        let mut taken = steps;
        if let Some(evasion) = Evasion::new(spec, clean, target.weight_decay)? {
            refined = refinement.adapt(
                &self.frozen,
                limits,
                &mut *objective,
                (&evasion, &self.constraint),
                refined,
                self.ctx,
            )?;
            taken += adaptive::TURNS * adaptive::steps_of_turn(steps);
        }
        let (pixels, refined) = refined;
        objective.warn();
        let passes = matched.passes.iter().map(|passes| passes + taken).collect();
        Ok((Matched { pixels, passes, ..matched }, refined))
    }
}

/// How far pixels may be from their base images: as the parameters of feature matching say.
fn limits<'a>(params: &Params, base: &'a Array4<u8>) -> PixelLimits<'a> {
    let (beta, range) = match *params {
        Params::FeatureMatching { beta, linf, clip, .. } => (beta, PixelRange::new(linf, clip)),
        Params::Decoder {} => (0.0, PixelRange::Unit),
    };
    PixelLimits { base: base.view(), beta, range }
}

impl RefineFrom {
    /// The name of refined images in results.
    fn name(self) -> &'static str {
        match self {
            Self::Matched => AttackId::REFINED,
            Self::Base => "refined-from-base",
            Self::Random => "refined-from-random",
        }
    }
}

/// The images at which feature matching starts.
struct Starts<'a> {
    first: MatchingStart,
    /// Number of starts per poison.
    count: usize,
    limits: &'a PixelLimits<'a>,
    decoded: Option<&'a Array4<f32>>,
    train: &'a Images,
    /// For every poison, the training images whose features are nearest to its own, with their distances.
    nearest: Vec<Vec<(usize, f32)>>,
}

impl Starts<'_> {
    /// Pixels in `[0, 1]` of start number `n` of a poison.
    fn pixels(&self, row: usize, n: usize) -> Vec<f32> {
        match (n, self.first, self.decoded) {
            (0, MatchingStart::Base, _) => self.limits.base_pixels(row),
            (0, MatchingStart::Decoder, Some(decoded)) => decoded.index_axis(Axis(0), row).iter().copied().collect(),
            _ => {
                let neighbour = self.nearest[row][n - usize::from(self.first != MatchingStart::Nearest)].0;
                unit(self.train.pixels.view().index_axis(Axis(0), neighbour))
            }
        }
    }
}
