//! Stage `unlearnable`: images that teach nothing, by noise `delta` with `|delta|_inf <= linf`. The images replace
//! their base images in the training set, under the same labels `y`.
//!
//! Of error-minimising noise (Huang et al., "Unlearnable examples", ICLR 2021), noise and model both minimise the
//! training loss, so that nothing is left to be learnt from the images themselves:
//!
//! ```text
//! min over delta, min over w    L(f(x + delta), y; w)
//! ```
//!
//! BAIT (Li et al., "When priors backfire: on the vulnerability of unlearnable examples to pretraining", ICLR 2026,
//! arXiv 2603.04731) is made for models that start from pre-trained weights, whose features see through such noise. The
//! inner problem trains the model on the images with noise and their labels, and the outer one binds them to designated
//! wrong classes `t(y)`:
//!
//! ```text
//! min over delta    L(f(x + delta), t(y); w*)    where w* minimises    L(f(x + delta), y; w)
//! ```
//!
//! Only the abstract of the paper could be read, which says this much in words. Not verified, and chosen here: the
//! wrong class is the next one, `t(y) = (y + 1) mod K`; a step of the outer problem holds `w*` constant; signed
//! gradient steps, rounds and surrogates are those of error-minimising noise.

mod learner;
mod noise;

pub use noise::Scope;

use hemlock_artifact::{
    AttackId, CurvePoint, Dataset, ExtractorArtifact, Features, LearnerState, Poisons, Stopped, TargetParams,
};
use hemlock_attack::poison_count;
use hemlock_head::Head;
use hemlock_models::{extracted, has_network, open_extractor};
use hemlock_perturb::{CleanFeatureStats, GreyLevels, Measure, base_images};
use hemlock_stage::{About, Context, ParamError, Port, StageError, StageRole, inputs};
use hemlock_streams::{Purpose, Trained};
use hemlock_threat::Constraint;
use hemlock_training::{ClassifierConfig, InitialWeights, Labelled, Schedule, Session};
use learner::{Learner, Network, Probe};
use ndarray::{Array4, Axis};
use noise::Noise;
use rand::seq::index;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Noise on training images, after which they teach nothing. The images with noise replace the images they are made of.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Number of images with noise, divided by the number of clean training images; at most 1.
    #[schemars(extend("exclusiveMinimum" = 0), range(max = 1))]
    pub poison_fraction: f64,
    /// What the noise minimises; by default `error-minimizing`.
    #[serde(default, skip_serializing_if = "NoiseObjective::is_usual")]
    pub attack: NoiseObjective,
    /// Whether every image (`sample-wise`) or every class (`class-wise`) has its own noise.
    #[serde(default)]
    pub noise: Scope,
    /// The surrogate: the model that the noise is made against.
    #[serde(default)]
    pub surrogate: Surrogate,
    /// Largest change of a pixel, such as `"8/255"`.
    #[serde(default = "defaults::linf")]
    pub linf: GreyLevels,
    /// Most rounds, each of training followed by noise.
    #[serde(default = "defaults::rounds")]
    #[schemars(range(min = 1))]
    pub rounds: u32,
    /// Steps of the noise per round.
    #[serde(default = "defaults::steps")]
    #[schemars(range(min = 1))]
    pub steps: u32,
    /// Length of a step of the noise, in grey levels. If it is absent, a quarter of `linf`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub step: Option<f64>,
    /// For the surrogates `fine-tune` and `end-to-end`: training steps per round.
    #[serde(default = "defaults::train_steps")]
    #[schemars(range(min = 1))]
    pub train_steps: u32,
    /// For the surrogates `fine-tune` and `end-to-end`: the learning rate.
    #[serde(default = "defaults::learning_rate")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub learning_rate: f64,
    /// For the surrogates `fine-tune` and `end-to-end`: images per training step.
    #[serde(default = "defaults::batch")]
    #[schemars(range(min = 4))]
    pub batch: usize,
    /// The stage ends when the least loss of all rounds has fallen by less than 1 % in this many rounds: the training
    /// loss, or with `bait` the loss against the wrong classes.
    #[serde(default = "defaults::patience")]
    #[schemars(range(min = 1))]
    pub patience: u32,
    /// The stage ends when the surrogate, after its training, assigns at most this share of the images with noise to
    /// other classes than those that the noise aims at: their own, or with `bait` the wrong ones.
    #[serde(default = "defaults::tolerance")]
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub tolerance: f64,
}

/// What noise minimises.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NoiseObjective {
    /// The loss that the surrogate is trained on: error-minimising noise (Huang et al., 2021).
    #[default]
    ErrorMinimizing,
    /// The loss against the next class, `y + 1`, of the surrogate that is trained on the right ones: BAIT (Li et al.,
    /// 2026).
    Bait,
}

impl NoiseObjective {
    fn is_usual(&self) -> bool {
        *self == Self::default()
    }

    /// The name of the objective in results.
    fn objective(self) -> &'static str {
        match self {
            Self::ErrorMinimizing => AttackId::ERROR_MINIMIZING,
            Self::Bait => AttackId::BAIT,
        }
    }

    /// The class that the noise aims at on an image of this class, of so many.
    fn aim(self, label: u32, classes: usize) -> u32 {
        match self {
            Self::ErrorMinimizing => label,
            Self::Bait => (label + 1) % classes as u32,
        }
    }
}

/// The model that the noise is made against.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Surrogate {
    /// A linear head on the frozen extractor.
    #[default]
    Frozen,
    /// The extractor's network, trained from its weights.
    FineTune,
    /// A network of the extractor's architecture, trained end to end.
    EndToEnd,
}

mod defaults {
    use hemlock_perturb::GreyLevels;

    pub(super) fn linf() -> GreyLevels {
        const { GreyLevels::new(8).expect("8 is above 0") }
    }
    pub(super) fn rounds() -> u32 {
        100
    }
    pub(super) fn patience() -> u32 {
        10
    }
    pub(super) fn steps() -> u32 {
        5
    }
    pub(super) fn train_steps() -> u32 {
        20
    }
    pub(super) fn learning_rate() -> f64 {
        0.05
    }
    pub(super) fn batch() -> usize {
        128
    }
    pub(super) fn tolerance() -> f64 {
        0.01
    }
}

impl Params {
    fn step(&self) -> f64 {
        self.step.unwrap_or(f64::from(self.linf.levels()) / 4.0)
    }

    fn training(&self, seed: u64) -> ClassifierConfig {
        let (batch, learning_rate) = (self.batch, self.learning_rate);
        let (trained, schedule) = (Trained::Surrogate, Schedule::Constant);
        let usual = ClassifierConfig::scratch();
        ClassifierConfig { trained, seed, batch, learning_rate, schedule, warmup_epochs: 0, ..usual }
    }
}

impl hemlock_stage::Params for Params {
    fn check(&self) -> Result<(), ParamError> {
        ParamError::share("poison_fraction", self.poison_fraction)?;
        ParamError::at_least_one("rounds", self.rounds)?;
        ParamError::at_least_one("steps", self.steps)?;
        ParamError::at_least_one("patience", self.patience)?;
        ParamError::positive("step", self.step())?;
        ParamError::at_least_one("train_steps", self.train_steps)?;
        ParamError::require(
            (0.0..1.0).contains(&self.tolerance),
            "tolerance",
            self.tolerance,
            "a share from 0 and below 1",
        )?;
        self.training(0).check()
    }
}

inputs! {
    /// What the stage reads.
    pub struct Inputs {
        /// Downstream images.
        dataset: Dataset = "dataset.downstream",
        /// The extractor.
        extractor: ExtractorArtifact = "pretrain",
        /// Features of the downstream dataset.
        features: Features = "features",
        /// The clean head and the weight decay.
        target: TargetParams = "target-params",
    }
}

/// The stage.
pub struct Stage;

impl hemlock_stage::Stage for Stage {
    const NAME: &'static str = "unlearnable";
    const ABOUT: About = About {
        named_by: &["attack", "noise", "poison_fraction"],
        ..About::new(StageRole::ImageAttack, "find noise that makes images teach nothing")
    };
    const VERSION: u32 = 6;
    const SEEDED: bool = true;
    const USES_DEVICE: bool = true;
    type Params = Params;
    type Inputs = Inputs;
    type Output = Poisons;

    fn key_params(params: &Params) -> Result<Value, serde_json::Error> {
        let mut value = serde_json::to_value(Params { step: Some(params.step()), ..params.clone() })?;
        if let Some(fields) = value.as_object_mut() {
            let trains = ["train_steps", "learning_rate", "batch"];
            fields.retain(|field, _| params.surrogate != Surrogate::Frozen || !trains.contains(&field.as_str()));
        }
        Ok(value)
    }

    /// Images are drawn if not all of them have noise, and a network in training draws, too.
    fn seeded(params: &Params) -> bool {
        params.surrogate != Surrogate::Frozen || params.poison_fraction < 1.0
    }

    fn accepts(params: &Params, port: &Port, made_with: &Value) -> Result<(), ParamError> {
        match params.surrogate {
            Surrogate::Frozen => {}
            Surrogate::FineTune => {
                has_network(port, made_with, "`surrogate = \"fine-tune\"` trains the extractor's network")?;
            }
            Surrogate::EndToEnd => {
                let why = "`surrogate = \"end-to-end\"` trains a network of the extractor's architecture";
                has_network(port, made_with, why)?;
            }
        }
        extracted(port, made_with)
    }

    fn run(params: &Params, inputs: Inputs, ctx: &Context) -> Result<Poisons, StageError> {
        let Inputs { dataset, extractor, features, target } = inputs;
        let extractor = open_extractor(&extractor, ctx)?;
        let (train, classes) = (&dataset.train, features.classes.len());
        let count = poison_count(params.poison_fraction, train.len())?;
        let rows = noised(train.len(), count, ctx.seed);
        let labels: Vec<u32> = rows.iter().map(|row| train.labels[*row]).collect();
        let aims: Vec<u32> = labels.iter().map(|label| params.attack.aim(*label, classes)).collect();
        let base_index: Vec<u32> = rows.iter().map(|row| *row as u32).collect();
        let base = base_images(train, &base_index)?;
        let noise = Noise::new(base.view(), &labels, classes, params.noise, params.linf.as_pixel());
        let NoisedImages { images, curve, passes, learner } = match params.surrogate {
            Surrogate::Frozen => {
                let probe = Probe::new(&extractor, &features, &target, &base_index, &labels)?;
                make(params, noise, probe, &aims, ctx)?
            }
            trained @ (Surrogate::FineTune | Surrogate::EndToEnd) => {
                let rest: Vec<usize> = (0..train.len()).filter(|row| rows.binary_search(row).is_err()).collect();
                let pixels = train.pixels.view().select(Axis(0), &rest);
                let rest: Vec<u32> = rest.iter().map(|row| train.labels[*row]).collect();
                let clean = Labelled { pixels: pixels.view(), labels: &rest };
                let start = match trained {
                    Surrogate::FineTune => InitialWeights::FineTune(&extractor),
                    _ => InitialWeights::Scratch { arch: extractor.spec()?.arch, device: extractor.device() },
                };
                let images = [clean, Labelled { pixels: base.view(), labels: &labels }];
                let session = Session::new(start, &params.training(ctx.seed), classes, &images)?;
                let network = Network::new(session, params.train_steps as usize, clean, &labels)?;
                make(params, noise, network, &aims, ctx)?
            }
        };
        let clean = CleanFeatureStats::new(features.train.features.view());
        let measure = Measure {
            frozen: &hemlock_perturb::FrozenExtractor::new(&extractor, &features.normalization),
            features: &features,
            clean: &clean,
            constraint: &Constraint::default(),
            labels: &labels,
            base_index: &base_index,
            unclipped: false,
        };
        let (images, fits) = measure.finish(&images.mapv(|p| f32::from(p) / 255.0), None, &vec![passes; count], ctx)?;
        Ok(Poisons {
            images,
            pixels: None,
            fits,
            attack: params.attack.objective().to_owned(),
            method: params.noise.name().to_owned(),
            objective: learner.loss,
            clean_label: true,
            replaces: true,
            poison_fraction: params.poison_fraction,
            labels,
            base_index,
            clean_nearest: clean.nearest.median,
            outliers_of_features: None,
            gap: None,
            learner: Some(learner),
            curve: Vec::new(),
            refined: curve,
        })
    }
}

/// The rows of the images that get noise, ascending: `count` of `all`.
fn noised(all: usize, count: usize, seed: u64) -> Vec<usize> {
    let mut rows = index::sample(&mut Purpose::NoisedImages.of(seed), all, count).into_vec();
    rows.sort_unstable();
    rows
}

/// Share of the least loss by which `patience` rounds have to lower it.
const FALL: f64 = 0.01;

/// The result of making noise.
struct NoisedImages {
    /// The images with noise.
    images: Array4<u8>,
    /// The mean loss on these images, against the classes that the noise aims at, after every round's training.
    curve: Vec<CurvePoint>,
    /// Steps that the noise took.
    passes: u32,
    /// The surrogate's final state, and why the rounds ended.
    learner: LearnerState,
}

/// Alternates training on the labels of the images with noise that aims at the classes `aims`. Training comes last, so
/// that the reported loss is that of the final images.
fn make(
    params: &Params,
    mut noise: Noise,
    mut learner: impl Learner,
    aims: &[u32],
    ctx: &Context,
) -> Result<NoisedImages, StageError> {
    let bar = ctx.progress.start("noise", u64::from(params.rounds) * u64::from(params.steps), "steps");
    let (mut curve, mut passes): (Vec<CurvePoint>, u32) = (Vec::new(), 0);
    let length = (params.step() / 255.0) as f32;
    let n = aims.len() as f64;
    for round in 0.. {
        learner.learn(noise.images().view(), ctx)?;
        let (frozen, head) = learner.as_is();
        let gradient_and_losses =
            |noise: &Noise| frozen.vjp_tiled(&noise.pixels(), aims.len(), |row, z| loss(head, z, &aims[row..]));
        let (mut gradient, losses) = gradient_and_losses(&noise)?;
        let mean = |of: fn(&SampleLoss) -> f64| losses.iter().flatten().map(of).sum::<f64>() / n;
        let (loss, mistaken) = (mean(|f| f.loss), mean(|f| f64::from(u8::from(f.mistaken))));
        bar.say(format!("loss {loss:.3}, mistaken {mistaken:.3}"));
        curve.push(CurvePoint { step: round, objective: loss });
        let stopped = match round {
            _ if mistaken <= params.tolerance => Some(Stopped::Learnt),
            _ if stalled(&curve, params.patience) => Some(Stopped::Stalled),
            _ => (round >= params.rounds).then_some(Stopped::Rounds),
        };
        if let Some(stopped) = stopped {
            let learner = LearnerState { rounds: round, loss, mistaken, stopped };
            return Ok(NoisedImages { images: noise.images(), curve, passes, learner });
        }
        for step in 0..params.steps {
            ctx.check()?;
            if step > 0 {
                gradient = gradient_and_losses(&noise)?.0;
            }
            noise.step(&gradient, length);
            passes += 1;
            bar.at(passes.into());
        }
    }
    Err(StageError::internal("the making of noise did not end"))
}

/// Whether the least loss has fallen by less than [`FALL`] in the last `patience` rounds.
fn stalled(curve: &[CurvePoint], patience: u32) -> bool {
    let least = |points: &[CurvePoint]| points.iter().map(|p| p.objective).fold(f64::INFINITY, f64::min);
    let before = curve.len().checked_sub(patience as usize).filter(|n| *n > 0);
    before.is_some_and(|n| least(curve) > (1.0 - FALL) * least(&curve[..n]))
}

/// What a head says of a sample.
struct SampleLoss {
    /// Cross-entropy, in nats.
    loss: f64,
    /// Whether it is misclassified.
    mistaken: bool,
}

/// The gradient `W' (p - e_y)` of the cross-entropy with respect to the features `z` of some samples, whose labels are
/// the first of `labels`, and the losses of these samples.
fn loss(head: &Head, z: &[f32], labels: &[u32]) -> (Vec<f32>, Vec<SampleLoss>) {
    let (weight, bias) = (head.weight(), head.bias());
    let mut losses = Vec::new();
    let mut grad_features = Vec::with_capacity(z.len());
    for (z, label) in z.chunks_exact(head.dim()).zip(labels) {
        let score = |k: usize| bias[k] + weight.row(k).iter().zip(z).map(|(w, z)| w * f64::from(*z)).sum::<f64>();
        let mut p: Vec<f64> = (0..head.classes()).map(score).collect();
        let most = p.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let label = *label as usize;
        let own = p[label];
        p.iter_mut().for_each(|p| *p = (*p - most).exp());
        let sum: f64 = p.iter().sum();
        losses.push(SampleLoss { loss: sum.ln() + most - own, mistaken: own < most });
        p.iter_mut().for_each(|p| *p /= sum);
        p[label] -= 1.0;
        grad_features
            .extend((0..z.len()).map(|j| weight.column(j).iter().zip(&p).map(|(w, p)| w * p).sum::<f64>() as f32));
    }
    (grad_features, losses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hemlock_fixtures::{AttackInputs, context, extractor};
    use hemlock_head::{FitOptions, Samples, fit, mean_loss, predict};
    use hemlock_models::extract;
    use hemlock_stage::Stage as _;
    use ndarray::{ArrayView4, array};
    use serde_json::json;

    /// A head that is trained on the images with noise has a lower loss than one that is trained on the images without,
    /// so that less is left to be learnt. The stage reports both losses: at the end, and before there is noise.
    #[test]
    fn noise_lowers_the_loss_of_the_head_that_is_trained_on_it() {
        for scope in ["sample-wise", "class-wise"] {
            let network = extractor("resnet8-w4", "flex").unwrap();
            let AttackInputs { dataset, extractor, features, target } = AttackInputs::new(&network, 120, 0).unwrap();
            let (images, classes) = (dataset.train.clone(), features.classes.len());
            let (normalization, weight_decay) = (features.normalization.clone(), target.weight_decay);
            let loss = |pixels: ArrayView4<'_, u8>| {
                let mut z = context(0, |ctx| extract(&network, pixels, ctx)).unwrap();
                normalization.apply(z.view_mut());
                let samples = [Samples::from_f32(z.view(), &images.labels, classes).unwrap()];
                let head = fit(&samples, &FitOptions::new(weight_decay), &|_, _| true).unwrap().head;
                mean_loss(&head, &samples).unwrap()
            };

            let params = json!({ "poison_fraction": 1.0, "noise": scope, "rounds": 3, "tolerance": 0.0 });
            let params: Params = serde_json::from_value(params).unwrap();
            let inputs = Inputs { dataset, extractor, features, target };
            let poisons = context(0, |ctx| Stage::run(&params, inputs, ctx)).unwrap();

            let (without, with) = (loss(images.pixels.view()), loss(poisons.images.view()));
            assert!(with < 0.9 * without, "{scope}: {with} with noise, {without} without");
            assert!((poisons.refined[0].objective - without).abs() < 1e-3, "{scope}: {:?} {without}", poisons.refined);
            assert!((poisons.objective - with).abs() < 1e-3, "{scope}: {} {with}", poisons.objective);
        }
    }

    /// The head that is trained on the right labels of the images with noise takes them for the next class, and is
    /// worse on clean images than that of error-minimising noise. The stage reports its loss against the next class.
    #[test]
    fn bait_binds_images_to_the_next_class() {
        let accuracy = |attack: &str| {
            let network = extractor("resnet8-w4", "flex").unwrap();
            let AttackInputs { dataset, extractor, features, target } = AttackInputs::new(&network, 120, 0).unwrap();
            let (labels, classes) = (dataset.train.labels.clone(), features.classes.len());
            let (normalization, weight_decay) = (features.normalization.clone(), target.weight_decay);
            let features_of = |pixels: ArrayView4<'_, u8>| {
                let mut z = context(0, |ctx| extract(&network, pixels, ctx)).unwrap();
                normalization.apply(z.view_mut());
                z
            };
            let clean = features_of(dataset.train.pixels.view());
            let params = json!({ "poison_fraction": 1.0, "attack": attack, "rounds": 4, "tolerance": 0.0 });
            let params: Params = serde_json::from_value(params).unwrap();
            let inputs = Inputs { dataset, extractor, features, target };
            let poisons = context(0, |ctx| Stage::run(&params, inputs, ctx)).unwrap();
            assert_eq!((poisons.attack.as_str(), &poisons.labels), (attack, &labels), "labels stay right");

            let noised = features_of(poisons.images.view());
            let samples = [Samples::from_f32(noised.view(), &labels, classes).unwrap()];
            let head = fit(&samples, &FitOptions::new(weight_decay), &|_, _| true).unwrap().head;
            let next: Vec<u32> = labels.iter().map(|label| (label + 1) % classes as u32).collect();
            let aims = if attack == "bait" { &next } else { &labels };
            let loss = mean_loss(&head, &[Samples::from_f32(noised.view(), aims, classes).unwrap()]).unwrap();
            assert!((poisons.objective - loss).abs() < 1e-3, "{attack}: {} {loss}", poisons.objective);
            if attack != "bait" {
                assert!(poisons.objective < poisons.refined[0].objective, "{:?}", poisons.refined);
            }
            let predicted = predict(&head, clean.mapv(f64::from).view()).unwrap();
            predicted.iter().zip(&labels).filter(|(found, label)| found == label).count() as f64 / labels.len() as f64
        };
        let (minimising, bait) = (accuracy("error-minimizing"), accuracy("bait"));
        assert!(bait < minimising - 0.1, "{bait} with BAIT, {minimising} with error-minimising noise");
    }

    /// The surrogate has other random streams than a victim with the same seed.
    #[test]
    fn the_surrogate_is_no_victim() {
        let params: Params = serde_json::from_value(json!({ "poison_fraction": 1.0 })).unwrap();
        assert_eq!(params.training(3).trained, Trained::Surrogate);
        assert_eq!(ClassifierConfig::scratch().trained, Trained::Victim);
    }

    #[test]
    fn it_goes_on_as_long_as_the_loss_falls() {
        let curve = |losses: &[f64]| -> Vec<CurvePoint> {
            losses.iter().zip(0..).map(|(loss, step)| CurvePoint { step, objective: *loss }).collect()
        };
        assert!(!stalled(&curve(&[1.0, 0.9, 0.8, 0.7]), 2), "it falls");
        assert!(!stalled(&curve(&[1.0, 1.0]), 2), "there is no round yet to compare with");
        assert!(stalled(&curve(&[1.0, 1.0, 1.0]), 2));
        assert!(stalled(&curve(&[1.0, 0.5, 0.7, 0.498]), 2), "by less than a hundredth");
        assert!(!stalled(&curve(&[1.0, 0.5, 0.7, 0.4]), 2));
    }

    #[test]
    fn the_derivative_is_that_of_the_loss() {
        let head = Head::from_packed(array![[0.3, -0.2, 0.1], [-0.4, 0.5, 0.0], [0.2, 0.1, -0.3]]).unwrap();
        let (z, labels) = ([0.5f32, -1.0, 2.0, 0.25], [2u32, 0]);
        let (gradient, losses) = loss(&head, &z, &labels);
        // The scores are 0.45, -0.7 and -0.3 for the first sample, and 0.65, -0.675 and 0.125 for the second.
        let first = (0.45f64.exp() + (-0.7f64).exp() + (-0.3f64).exp()).ln() + 0.3;
        let second = (0.65f64.exp() + (-0.675f64).exp() + 0.125f64.exp()).ln() - 0.65;
        let sum: f64 = losses.iter().map(|f| f.loss).sum();
        assert!((sum - first - second).abs() < 1e-12 && losses.iter().filter(|f| f.mistaken).count() == 1);
        for (j, g) in gradient.into_iter().enumerate() {
            let at = |step: f32| {
                let mut moved = z;
                moved[j] += step;
                loss(&head, &moved, &labels).1.iter().map(|f| f.loss).sum::<f64>()
            };
            let slope = (at(0.125) - at(-0.125)) / 0.25;
            assert!((f64::from(g) - slope).abs() < 2e-3, "{j}: {g} {slope}");
        }
    }
}
