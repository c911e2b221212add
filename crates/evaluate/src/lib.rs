//! Stage: retrains a victim on poisons and on controls, and measures its accuracy.

mod controls;

use controls::Basis;
pub use controls::{ControlRef, about};
use hemlock_artifact::{
    AttackId, Dataset, Defence, Detection, Drawn, Evaluation, ExtractorArtifact, Features, LearnerState, Measured,
    Outcome, PixelChange, PoisonFeatures, Poisons, TargetParams, TrainingSet, Victim, Visibility,
};
use hemlock_attack::attacks::constraint;
use hemlock_defences::DefenceSpec;
use hemlock_head::{FitOptions, Head, Preconditioner, Samples, fit_with};
use hemlock_head_device::passes;
use hemlock_models::extracted;
use hemlock_perturb::visibility;
use hemlock_stage::{About, Context, ParamError, Port, StageError, StageRole, inputs};
use hemlock_threat::{Constraint, LossBoundStart, Sees, loss_bound};
use hemlock_victims::{DefendedData, Train, TrainingSetChange, VictimData, VictimSpec, measure, train_behind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;

/// What victims are trained on besides the poisons.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Params {
    /// The controls that the victim is trained on. By default these are all controls for victims that train on
    /// features, and none for victims that train a network, which takes minutes per control, and none with a defence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controls: Option<Vec<ControlRef>>,
    /// The splits whose error influence flips raise: `["train"]` by default, which is the default of attacks, too.
    pub sees: Sees,
}

impl hemlock_stage::Params for Params {}

/// Makes the training sets of the controls beside `count` added poisons, each with the name of its outcome. `head` is
/// trained on the clean data.
///
/// # Errors
/// A control cannot be made of this data.
pub fn controls(
    params: &Params,
    data: &VictimData,
    head: &Head,
    count: usize,
) -> Result<Vec<(String, TrainingSetChange)>, StageError> {
    let basis = Basis { data, head, count, replaced: None, sees: params.sees, reads_images: false };
    let all = params.controls(false, false).into_iter();
    all.filter_map(|control| control.make(&basis).map(|made| Some((control.outcome(), made?))).transpose()).collect()
}

impl Params {
    /// Returns the controls that a victim is trained on.
    fn controls(&self, reads_images: bool, defended: bool) -> Vec<ControlRef> {
        match &self.controls {
            // A network takes minutes to train, and a result without the defence has the controls already.
            None if reads_images || defended => Vec::new(),
            None => ControlRef::all(),
            Some(controls) => controls.clone(),
        }
    }
}

inputs! {
    /// What the stage reads.
    pub struct Inputs {
        /// Features of the downstream dataset by the attacker's extractor.
        features: Features = "features",
        /// The clean head and the target head.
        target: TargetParams = "target-params",
        ; optional {
            /// The victim; by default a linear head that is trained to the minimum.
            victim: Victim = "victim",
            /// A defence; by default there is none.
            defence: Defence = "defence",
            /// Poisoned features.
            poison_features: PoisonFeatures = "poison-features",
            /// Poisons as images, from features or from pixels.
            poisons: Poisons = "invert",
            /// Downstream images.
            dataset: Dataset = "dataset.downstream",
            /// The attacker's extractor.
            extractor: ExtractorArtifact = "pretrain",
            /// Features by the victim extractor, if it is not the attacker's.
            victim_features: Features = "victim-extractor.features",
            /// The victim extractor, if it is not the attacker's.
            victim_extractor: ExtractorArtifact = "victim-extractor.pretrain",
        }
    }
}

/// The stage.
pub struct Stage;

impl hemlock_stage::Stage for Stage {
    const NAME: &'static str = "evaluate";
    const ABOUT: About =
        About::new(StageRole::Evaluation, "retrain victims on poisons and on controls, and measure them");
    const VERSION: u32 = 15;
    const SEEDED: bool = true;
    const USES_DEVICE: bool = true;
    const LISTS: &'static [&'static str] = &["controls", "sees"];
    type Params = Params;
    type Inputs = Inputs;
    type Output = Evaluation;

    fn accepts(_: &Params, port: &Port, made_with: &Value) -> Result<(), ParamError> {
        if port.role == "victim_features" { extracted(port, made_with) } else { Ok(()) }
    }

    fn run(params: &Params, inputs: Inputs, ctx: &Context) -> Result<Evaluation, StageError> {
        let Inputs { target, poisons, dataset, victim, .. } = &inputs;
        let how = VictimSpec::of(victim.as_ref())?;
        let preconditioner = inputs.preconditioner(&how)?;
        let undefended = VictimData { preconditioner: preconditioner.as_ref(), ..inputs.victim_data(ctx) };
        let own = inputs.victim_features.is_none();
        let defence = inputs.defence.as_ref().map(DefenceSpec::of).transpose()?;
        let record = PoisonRecord::of(&inputs)?;
        let clean = match victim {
            Some(victim) => victim.clean.clone(),
            None => how.clean(&undefended, own.then_some(target))?,
        };
        let transform = defence.as_ref().and_then(DefenceSpec::transform);
        let defended = transform.map(|transform| DefendedData::new(transform, &undefended)).transpose()?;
        let data = defended.as_ref().map_or(undefended, |defended| defended.of(&undefended));
        // What an attacker's features mean is lost behind a transformation.
        let own = own && defended.is_none();
        let victims = Victims {
            data: &data,
            undefended: &undefended,
            defended: defended.as_ref(),
            victim: &*how.victim(),
            defence: defence.as_ref(),
            name: how.kind(),
            own,
        };
        let mut outcomes = behind(inputs.defence.as_ref(), clean);
        let detection = victims.add_poisoned(&mut outcomes, &inputs)?;
        let samples = data.features.train.samples(data.classes())?;
        let basis = Basis {
            data: &data,
            head: &if own { target.clean.clone() } else { victims.head(samples)? },
            count: record.labels.len(),
            replaced: record.replaced,
            sees: params.sees,
            reads_images: victims.victim.reads_images(),
        };
        victims.add_controls(&mut outcomes, &params.controls(basis.reads_images, defence.is_some()), &basis)?;
        let (visibility, changes) = seen(poisons.as_ref(), dataset.as_ref())?;
        Ok(Evaluation {
            attack: record.attack,
            victim: how.kind().to_owned(),
            clean_label: record.clean_label,
            replaces: record.replaced.is_some(),
            poison_fraction: record.poison_fraction,
            objective: record.objective,
            initial_objective: record.initial_objective,
            learner: record.learner,
            bound: record.bound,
            gap: record.gap,
            poison_fraction_bound: target.path.last().map(|point| point.poison_fraction_bound),
            poisons: basis.count as u64,
            loss_bound: (own && defence.is_none() && how.is_bounded() && record.replaced.is_none())
                .then(|| loss_bound_of(&inputs, samples, basis.count, &undefended))
                .transpose()?,
            outcomes,
            drawn: Drawn::of(undefended.features),
            test_groups: undefended.features.test_groups.clone(),
            visibility,
            detection,
            changes,
        })
    }
}

impl Inputs {
    /// What victims train on and are measured with, without a defence.
    fn victim_data<'a>(&'a self, ctx: &'a Context<'a>) -> VictimData<'a> {
        let features = self.victim_features.as_ref().unwrap_or(&self.features);
        VictimData {
            images: self.dataset.as_ref(),
            extractor: self.victim_extractor.as_ref().or(self.extractor.as_ref()),
            ..VictimData::of_features(features, self.target.weight_decay, ctx)
        }
    }

    /// A preconditioner that all trainings of a linear victim share, as they differ in few samples.
    fn preconditioner(&self, victim: &VictimSpec) -> Result<Option<Arc<Preconditioner>>, StageError> {
        if !victim.is_bounded() {
            return Ok(None);
        }
        let features = self.victim_features.as_ref().unwrap_or(&self.features);
        let clean = features.train.samples(features.classes.len())?;
        Ok(Some(Arc::new(Preconditioner::new(&[clean], self.target.weight_decay)?)))
    }
}

/// The outcome of training on clean data: behind the defence, if there is one, and then without it as well.
fn behind(defence: Option<&Defence>, clean: Outcome) -> Measured<Outcome> {
    match defence {
        None => Measured::new(clean),
        Some(defence) => Measured::new(defence.clean.clone()).with(TrainingSet::UNDEFENDED_CLEAN, clean),
    }
}

/// How visible poisoned images are: of all together, and the change of each. Poisoned features have no images.
fn seen(
    poisons: Option<&Poisons>,
    dataset: Option<&Dataset>,
) -> Result<(Option<Visibility>, Vec<PixelChange>), StageError> {
    match (poisons, dataset) {
        (Some(poisons), Some(dataset)) => {
            let (all, each) = visibility(poisons, &dataset.train)?;
            Ok((Some(all), each))
        }
        (Some(_), None) => Err(StageError::internal("poisons came without the images they are made of")),
        (None, _) => Ok((None, Vec::new())),
    }
}

/// Computes an upper bound of the clean loss over all sets of `m` poisons that the attack's constraint lets through.
fn loss_bound_of(inputs: &Inputs, clean: Samples, m: usize, data: &VictimData) -> Result<f64, StageError> {
    let VictimData { weight_decay, preconditioner, ctx, .. } = data;
    let constraint = match &inputs.poison_features {
        Some(poisons) => constraint(&poisons.spec, clean)?,
        None => Constraint::default(),
    };
    let bar = ctx.progress.start("loss bound", 0, "steps");
    let start = LossBoundStart { head: &inputs.target.clean, preconditioner: preconditioner.map(Arc::as_ref) };
    let clean = [clean];
    let loss_bound = loss_bound(&passes(&clean, ctx)?, &constraint, m, *weight_decay, start, &|step, _| {
        bar.at(step as u64);
        !ctx.cancel.requested()
    })?;
    ctx.check()?;
    Ok(loss_bound)
}

/// What an evaluation says of its poisons.
struct PoisonRecord<'a> {
    attack: AttackId,
    clean_label: bool,
    /// The samples that poisons replace; `None` if they are added.
    replaced: Option<&'a [u32]>,
    poison_fraction: f64,
    objective: f64,
    /// The objective at the base images, of an attack that started from them.
    initial_objective: Option<f64>,
    learner: Option<LearnerState>,
    bound: Option<f64>,
    gap: Option<f64>,
    labels: &'a [u32],
}

impl<'a> PoisonRecord<'a> {
    /// The poisons as images or, if there are none, as features.
    fn of(inputs: &'a Inputs) -> Result<Self, StageError> {
        match (&inputs.poisons, &inputs.poison_features) {
            (Some(p), features) => Ok(Self {
                attack: AttackId::by(&p.attack, &p.method),
                clean_label: p.clean_label,
                replaced: p.replaces.then_some(&p.base_index),
                poison_fraction: p.poison_fraction,
                objective: p.objective,
                // The poisoned features of an inversion have their own attack's objective, which did not start from
                // images.
                initial_objective: match features {
                    Some(_) => None,
                    None => p.refined.first().map(|point| point.objective),
                },
                learner: p.learner,
                bound: features.as_ref().and_then(|features| features.bound),
                gap: features.as_ref().map_or(p.gap, |features| features.gap),
                labels: &p.labels,
            }),
            (None, Some(p)) => Ok(Self {
                attack: AttackId::on_features(&p.spec.attack),
                clean_label: p.clean_label,
                replaced: None,
                poison_fraction: p.poison_fraction,
                objective: p.objective,
                initial_objective: None,
                learner: None,
                bound: p.bound,
                gap: p.gap,
                labels: &p.labels,
            }),
            (None, None) => Err(StageError::internal("there are no poisons")),
        }
    }
}

/// Trains one victim on several training sets.
struct Victims<'a> {
    /// The data, behind the defence if that transforms images.
    data: &'a VictimData<'a>,
    /// The data without the defence.
    undefended: &'a VictimData<'a>,
    /// Images behind the defence, if that transforms them.
    defended: Option<&'a DefendedData>,
    victim: &'a dyn Train,
    /// The defence of its training sets.
    defence: Option<&'a DefenceSpec>,
    /// The victim's name in specs.
    name: &'static str,
    /// Whether the victim reads the features that the attacker knows.
    own: bool,
}

impl Victims<'_> {
    /// Measures what the attack aimed at, and trains on what it made, as far as this victim can train on it. Returns
    /// what the defence detected of the poisons in the form that victims get.
    fn add_poisoned(&self, outcomes: &mut Measured<Outcome>, inputs: &Inputs) -> Result<Option<Detection>, StageError> {
        let linear = outcomes.clean.head.is_some();
        let mut add = |name: &str, outcome: Outcome| outcomes.set(TrainingSet::new(name), outcome);
        if self.own && linear {
            add(TrainingSet::TARGET, measure(inputs.target.target.clone(), self.data)?);
        }
        let (mut last, mut detection) = (None, None);
        // Poisoned features mean nothing to another extractor, and a network is not trained on features.
        if let Some(poisons) = inputs.poison_features.as_ref().filter(|_| self.own && !self.victim.reads_images()) {
            let change = TrainingSetChange::of_features(self.data, poisons);
            let (outcome, detected) = self.train("poisoned features", &change)?;
            add(TrainingSet::FEATURES, outcome);
            (last, detection) = (Some(change), detected);
        }
        if let Some(poisons) = inputs.poisons.as_ref().filter(|poisons| self.can_train_on(poisons)) {
            let change = self.change(self.undefended, poisons)?;
            let behind = self.defended.map(|defended| defended.poisons(poisons, self.data.ctx)).transpose()?;
            let behind = behind.map(|poisons| self.change(self.data, &poisons)).transpose()?;
            let (outcome, detected) = self.train("poisoned images", behind.as_ref().unwrap_or(&change))?;
            add(TrainingSet::IMAGES, outcome);
            (last, detection) = (Some(change), detected);
        }
        if let (Some(_), Some(change)) = (self.defence, last) {
            let outcome = self.victim.train("poisons without the defence", self.undefended, &change)?;
            add(TrainingSet::UNDEFENDED, outcome);
        }
        Ok(detection)
    }

    /// The change that poisoned images make, as this victim reads it.
    fn change(&self, data: &VictimData, poisons: &Poisons) -> Result<TrainingSetChange, StageError> {
        if self.victim.reads_images() {
            return Ok(TrainingSetChange::of_pictures(poisons));
        }
        TrainingSetChange::of_images(data, poisons)
    }

    /// Trains on the controls that exist for these poisons.
    fn add_controls(
        &self,
        outcomes: &mut Measured<Outcome>,
        controls: &[ControlRef],
        basis: &Basis,
    ) -> Result<(), StageError> {
        for control in controls {
            if let Some(change) = control.make(basis)? {
                let set = TrainingSet::new(control.outcome());
                let (outcome, _) = self.train(&set.words(), &change)?;
                outcomes.set(set, outcome);
            }
        }
        Ok(())
    }

    /// Whether the victim can train on these poisons. Otherwise it warns.
    fn can_train_on(&self, poisons: &Poisons) -> bool {
        let (victim, why) = (self.name, "unclipped pixels are no images");
        if poisons.pixels.is_none() {
            return true;
        }
        if self.victim.reads_images() {
            tracing::warn!(victim, "this victim trains on images, and {why}; it is not trained on them");
            return false;
        }
        if let Some(defence) = self.defence.filter(|defence| defence.transform().is_some()) {
            let defence = defence.kind.name();
            tracing::warn!(defence, "this defence transforms images, and {why}; the victim is not trained on them");
            return false;
        }
        true
    }

    /// Trains on clean data with a change, behind the defence if there is one.
    fn train(&self, what: &str, change: &TrainingSetChange) -> Result<(Outcome, Option<Detection>), StageError> {
        let Some(defence) = self.defence else { return Ok((self.victim.train(what, self.data, change)?, None)) };
        let (outcome, detection) = train_behind(defence, self.victim, what, self.data, change)?;
        Ok((outcome, detection))
    }

    /// Trains a linear head on clean samples.
    fn head(&self, clean: Samples) -> Result<Head, StageError> {
        let cancel = self.data.ctx.cancel;
        let preconditioner = self.data.preconditioner.cloned();
        let options = FitOptions { preconditioner, ..FitOptions::new(self.data.weight_decay) };
        let trained = fit_with(&passes(&[clean], self.data.ctx)?, &options, &|_, _| !cancel.requested())?;
        self.data.ctx.check()?;
        Ok(trained.head)
    }
}
