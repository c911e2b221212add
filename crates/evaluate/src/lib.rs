//! Stage: what an attack does to a victim when it is trained from scratch again, beside controls.

mod controls;

use controls::{AlignedFlips, Control, duplicates, random_flips};
use hemlock_artifact::{
    Dataset, Drawn, Evaluation, Extractor, Features, Measured, Outcome, PoisonFeatures, Poisons, TargetParams, Victim,
};
use hemlock_attack::attacks::constraint;
use hemlock_head::{FitOptions, Head, Samples, fit};
use hemlock_models::{extract, extracted, open_extractor};
use hemlock_perturb::{FrozenExtractor, visibility};
use hemlock_stage::{Context, ErrorKind, ParamError, Port, StageError, inputs};
use hemlock_threat::{Constraint, Sees, loss_ceiling};
use hemlock_victims::{Train, TrainingSetChange, VictimData, VictimSpec, measure};
use ndarray::{Array2, Axis};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Parameters of the stage.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// What the victim is trained on beside poisons, for comparison; absent: all of it, and nothing for victims that
    /// train a network, which takes them minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controls: Option<Vec<ControlKind>>,
    /// The splits whose error aligned flips raise; equal to what attacks see, unless a spec says otherwise.
    pub sees: Sees,
}

/// What is trained on for comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControlKind {
    /// As many clean samples with random wrong labels.
    RandomFlips,
    /// As many clean samples with the wrong labels that influence most, chosen in rounds; one may be chosen several
    /// times.
    AlignedFlips,
    /// As many clean samples a second time.
    Duplicates,
    /// Where poisons stand in the place of clean samples: the others alone.
    Removed,
}

impl hemlock_stage::Params for Params {}

inputs! {
    /// What the stage reads.
    pub struct Inputs {
        /// Features of the downstream dataset, as the attacker has them.
        features: Features = "features",
        /// The clean head and the target head.
        target: TargetParams = "target-params",
        ; optional {
            /// Who is attacked; a linear head that is trained to the minimum, where there is none.
            victim: Victim = "victim",
            /// Poisoned features.
            poison_features: PoisonFeatures = "poison-features",
            /// Poisons as images, from features or from pixels.
            poisons: Poisons = "invert",
            /// Downstream images.
            dataset: Dataset = "dataset.downstream",
            /// The attacker's extractor.
            extractor: Extractor = "pretrain",
            /// Features by the extractor that is deployed, where it is not the attacker's.
            deployed_features: Features = "deployed.features",
            /// The extractor that is deployed.
            deployed_extractor: Extractor = "deployed.pretrain",
        }
    }
}

/// The stage.
pub struct Stage;

impl hemlock_stage::Stage for Stage {
    const NAME: &'static str = "evaluate";
    const VERSION: u32 = 11;
    const SEEDED: bool = true;
    const USES_DEVICE: bool = true;
    const LISTS: &'static [&'static str] = &["controls", "sees"];
    type Params = Params;
    type Inputs = Inputs;
    type Output = Evaluation;

    fn accepts(_: &Params, port: &Port, made_with: &Value) -> Result<(), ParamError> {
        if port.role == "deployed_features" { extracted(port, made_with) } else { Ok(()) }
    }

    fn run(params: &Params, inputs: Inputs, ctx: &Context) -> Result<Evaluation, StageError> {
        let Inputs { target, poison_features, poisons, dataset, victim, .. } = &inputs;
        let how = match victim {
            Some(victim) => {
                serde_json::from_str(&victim.params).map_err(|e| StageError::new(ErrorKind::Artifact, e))?
            }
            None => VictimSpec::default(),
        };
        let features = inputs.deployed_features.as_ref().unwrap_or(&inputs.features);
        let own = inputs.deployed_features.is_none();
        let data = VictimData {
            features,
            images: dataset.as_ref(),
            extractor: inputs.deployed_extractor.as_ref().or(inputs.extractor.as_ref()),
            weight_decay: target.weight_decay,
            ctx,
        };
        let victims = Victims { data: &data, victim: &*how.victim() };
        let clean = match victim {
            Some(victim) => victim.clean.clone(),
            None => how.clean(&data, own.then_some(target))?,
        };

        let (attack, clean_label, replaces, eps_d, objective, labels) = match (poisons, poison_features) {
            (Some(p), _) => {
                let attack = format!("{} + {}", p.attack, p.method);
                (attack, p.clean_label, p.replaces, p.eps_d, p.objective, &p.labels)
            }
            (None, Some(p)) => (p.aim.attack.clone(), p.clean_label, false, p.eps_d, p.objective, &p.labels),
            (None, None) => return Err(StageError::internal("there are no poisons")),
        };
        let m = labels.len();
        // Another extractor has other features, and a network has none.
        let on_features = match poison_features.as_ref().filter(|_| own && !victims.victim.reads_images()) {
            Some(poisons) => {
                let features = poisons.features.mapv(f64::from);
                let change =
                    TrainingSetChange { features, labels: poisons.labels.clone(), ..TrainingSetChange::none(&data) };
                Some(victims.train("poisoned features", &change)?)
            }
            None => None,
        };
        let (mut on_images, mut seen, mut changes) = (None, None, Vec::new());
        if let Some(poisons) = poisons {
            let Some(dataset) = dataset else {
                return Err(StageError::internal("poisons came without the images they are made of"));
            };
            if poisons.pixels.is_some() && victims.victim.reads_images() {
                let victim = how.kind();
                tracing::warn!(
                    victim,
                    "this victim trains on images, and free pixels are none; it is not trained on them"
                );
            } else {
                on_images = Some(victims.train("poisoned images", &victims.poisoned(poisons)?)?);
            }
            let (visibility, each) = visibility(poisons, &dataset.train)?;
            (seen, changes) = (Some(visibility), each);
        }
        let samples = features.train.samples(data.classes())?;
        let target_head = clean.head.as_ref().filter(|_| own).map(|_| target.target.clone());
        let mut outcomes = Measured {
            target: target_head.map(|head| measure(head, &data)).transpose()?,
            clean,
            features: on_features,
            images: on_images,
            random_flips: None,
            aligned_flips: None,
            duplicates: None,
            removed: None,
        };
        let head = if own { target.clean.clone() } else { victims.head(samples)? };
        let replaced = poisons.as_ref().filter(|_| replaces).map(|poisons| poisons.base_index.as_slice());
        victims.controls(params, m, replaced, &head, &mut outcomes)?;
        Ok(Evaluation {
            attack,
            victim: how.kind().to_owned(),
            clean_label,
            replaces,
            eps_d,
            objective,
            // The features of an inversion have their own attack's objective, which did not begin at images.
            objective_at_start: match (poisons, poison_features) {
                (Some(poisons), None) => poisons.refined.first().map(|point| point.objective),
                _ => None,
            },
            taught: poisons.as_ref().and_then(|poisons| poisons.taught),
            bound: poison_features.as_ref().and_then(|poisons| poisons.bound),
            gap: poison_features.as_ref().and_then(|poisons| poisons.gap),
            poisonability: target.path.last().map(|point| point.poisonability),
            poisons: m as u64,
            ceiling: match &how {
                VictimSpec::Linear(_) if own && !replaces => Some(ceiling(&inputs, samples, m, ctx)?),
                _ => None,
            },
            outcomes,
            drawn: Drawn::of(features),
            visibility: seen,
            changes,
        })
    }
}

/// An upper bound of the clean loss, of whatever poisons the attack's constraint lets through.
fn ceiling(inputs: &Inputs, clean: Samples, m: usize, ctx: &Context) -> Result<f64, StageError> {
    let constraint = match &inputs.poison_features {
        Some(poisons) => constraint(&poisons.aim, clean)?,
        None => Constraint::default(),
    };
    let bar = ctx.progress.start("ceiling", 0, "steps");
    let TargetParams { clean: head, weight_decay, .. } = &inputs.target;
    let ceiling = loss_ceiling(clean, &constraint, m, *weight_decay, head, &|step, _| {
        bar.at(step as u64);
        !ctx.cancel.requested()
    })?;
    ctx.check()?;
    Ok(ceiling)
}

/// Samples that a victim needs: a network has batches of at least as many.
const FEWEST: usize = 4;

/// Trains one victim on training sets that differ in what they have beside clean samples.
struct Victims<'a> {
    data: &'a VictimData<'a>,
    victim: &'a dyn Train,
}

impl Victims<'_> {
    fn train(&self, what: &str, change: &TrainingSetChange) -> Result<Outcome, StageError> {
        self.victim.train(what, self.data, change)
    }

    /// The edit that poisons make.
    fn poisoned(&self, poisons: &Poisons) -> Result<TrainingSetChange, StageError> {
        let VictimData { features, extractor, ctx, .. } = self.data;
        let reads_images = self.victim.reads_images();
        let Some(extractor) = extractor else {
            return Err(StageError::internal("poisons came without the extractor they were made with"));
        };
        let features = if reads_images {
            Array2::zeros((0, 0))
        } else {
            let extractor = open_extractor(extractor, ctx.device)?;
            let z = match &poisons.pixels {
                Some(pixels) => {
                    FrozenExtractor::new(&extractor, &features.normalization).features(pixels.view(), ctx)?
                }
                None => {
                    let mut z = extract(&extractor, poisons.images.view(), ctx)?;
                    features.normalization.apply(z.view_mut());
                    z
                }
            };
            z.mapv(f64::from)
        };
        Ok(TrainingSetChange {
            features,
            images: reads_images.then(|| poisons.images.clone()),
            labels: poisons.labels.clone(),
            removed: if poisons.replaces { poisons.base_index.clone() } else { Vec::new() },
        })
    }

    /// Trains on controls for `m` poisons, or for those that stand in the place of the clean samples `replaced`. `head`
    /// is a linear one on clean data.
    fn controls(
        &self,
        params: &Params,
        m: usize,
        replaced: Option<&[u32]>,
        head: &Head,
        outcomes: &mut Measured<Outcome>,
    ) -> Result<(), StageError> {
        let VictimData { features, weight_decay, ctx, .. } = self.data;
        let wanted = |kind| match &params.controls {
            Some(controls) => controls.contains(&kind),
            None => !self.victim.reads_images(),
        };
        let clean = features.train.samples(self.data.classes())?;
        let train = |what, control: Control| self.train(what, &self.control(control, replaced.is_some())).map(Some);
        if wanted(ControlKind::RandomFlips) {
            outcomes.random_flips = train("random flips", random_flips(clean, m, ctx.seed))?;
        }
        if wanted(ControlKind::AlignedFlips) {
            let raised = params.sees.samples(clean, features.validation.samples(self.data.classes())?)?;
            let aligned =
                AlignedFlips { clean, raised: &raised, weight_decay: *weight_decay, replaces: replaced.is_some() };
            outcomes.aligned_flips = train("aligned flips", aligned.choose(head, m, ctx)?)?;
        }
        match replaced {
            None if wanted(ControlKind::Duplicates) => {
                outcomes.duplicates = train("duplicates", duplicates(clean, m, ctx.seed))?;
            }
            Some(replaced) if wanted(ControlKind::Removed) && clean.len() - replaced.len() >= FEWEST => {
                let change = TrainingSetChange { removed: replaced.to_vec(), ..TrainingSetChange::none(self.data) };
                outcomes.removed = Some(self.train("what is left", &change)?);
            }
            _ => {}
        }
        Ok(())
    }

    /// The edit that a control makes, beside clean samples or in their place.
    fn control(&self, Control { rows, labels }: Control, replaces: bool) -> TrainingSetChange {
        let images = self.data.images.filter(|_| self.victim.reads_images());
        let features = self.data.features.train.features.view().select(Axis(0), &rows).mapv(f64::from);
        TrainingSetChange {
            features,
            images: images.map(|dataset| dataset.train.pixels.view().select(Axis(0), &rows)),
            labels,
            removed: if replaces { rows.into_iter().map(|row| row as u32).collect() } else { Vec::new() },
        }
    }

    /// A linear head on clean samples.
    fn head(&self, clean: Samples) -> Result<Head, StageError> {
        let cancel = self.data.ctx.cancel;
        let trained = fit(&[clean], &FitOptions::new(self.data.weight_decay), &|_, _| !cancel.requested())?;
        self.data.ctx.check()?;
        Ok(trained.head)
    }
}
