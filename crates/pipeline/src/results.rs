//! Results: one row per branch.

use crate::{
    Branch, Plan, Task, nodes,
    origin::{Answered, EXTRACTORS, Origin},
    results_file,
};
use hemlock_artifact::{
    AttackId, Bounds, Certificate, Detection, Evaluation, LearnerState, Measured, Outcome, SteppedBack, TestGroups,
    Visibility,
};
use hemlock_stage::{Column, StageRole};
use hemlock_store::{Artifact, Store, StoreError};
use hemlock_threat::Sees;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// The result of one branch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ResultRow {
    /// Name of the spec.
    pub pipeline: String,
    /// Which attack made the poisons: the fields `attack` and `method`.
    #[serde(flatten)]
    pub attack: AttackId,
    /// Kind of the victim.
    pub victim: String,
    /// Whether the poisons have the labels of their base images.
    pub clean_label: bool,
    /// Whether the poisons replace their base images, as noise does, instead of being added.
    pub replaces: bool,
    /// Number of poisons, divided by the number of clean training samples.
    pub poison_fraction: f64,
    /// Number of poisons.
    pub poisons: u64,
    /// What the attack optimised: on features, if it has any.
    pub objective: f64,
    /// The objective at the base images, where an attack on pixels starts. `None` for other attacks.
    pub initial_objective: Option<f64>,
    /// How the crafting of noise ended. `None` for other attacks.
    pub learner: Option<LearnerState>,
    /// A lower bound of the objective. `None` if none is known.
    pub bound: Option<f64>,
    /// How far the search that began with adversarial labels ended behind the best search, in the objective. It shows
    /// how much the optimiser is known to miss. `None` if labels are not optimised.
    pub gap: Option<f64>,
    /// Lower bounds of the poison fraction that the target head needs. `None` if the attack has no target.
    pub poison_fraction_bound: Option<Bounds>,
    /// Labelled clean splits that the attacker looked at. For an attack without data of its own, those that its target
    /// was made with.
    pub sees: Sees,
    /// Labelled clean splits that influence flips were chosen with.
    pub controls_see: Sees,
    /// Seed of the attack.
    pub seed: u64,
    /// The device on which features were extracted. `None` if their artifact is gone.
    pub device: Option<String>,
    /// Whether the embeddings of an extractor all point nearly the same way. `None` if an extractor is gone.
    pub collapsed: Option<bool>,
    /// Whether every imported extractor was compared with a probe. `None` if none was imported.
    pub verified: Option<bool>,
    /// A target that is weaker than it was asked for. `None` if it is as asked for.
    pub stepped_back: Option<SteppedBack>,
    /// Numbers that stages declare as columns, by stage and name.
    #[serde(deserialize_with = "results_file::stages")]
    pub stages: BTreeMap<&'static str, BTreeMap<&'static str, f64>>,
    /// The columns that stages declare, by node.
    #[serde(skip)]
    pub declared: Vec<(&'static str, Column)>,
    /// The role of every stage, by node.
    #[serde(skip)]
    pub roles: BTreeMap<&'static str, StageRole>,
    /// All parameters, by stage.
    #[serde(deserialize_with = "results_file::params")]
    pub params: BTreeMap<&'static str, Value>,
    /// Parameters of every stage as they enter keys, by node: defaults that depend on other fields are filled in, and
    /// fields that nothing reads are left out.
    #[serde(skip)]
    pub deciding: BTreeMap<&'static str, Value>,
    /// Test accuracy, by training set.
    pub accuracy: Measured<f64>,
    /// Test accuracy after the epoch that was best on the test split, by training set. No victim can choose this epoch,
    /// but an attack that only spoils the end of a training shows here. `None` for victims without epochs.
    pub best: Option<Measured<f64>>,
    /// Test accuracy within every class, by training set. `None` for a class without test samples.
    pub per_class: Measured<Vec<Option<f64>>>,
    /// Mean of the test accuracies within the classes that have test samples, by training set: every class counts the
    /// same, however many samples it has.
    pub mean_per_class: Measured<f64>,
    /// Test accuracy within the group of samples that is classified worst, by training set. `None` if the dataset has
    /// no groups.
    pub worst_group: Option<Measured<f64>>,
    /// Mean cross-entropy on the clean training split in nats, by training set. `None` for victims that are not linear
    /// heads.
    pub clean_loss: Option<Measured<f64>>,
    /// Upper bound of the clean loss for the victim `linear`, with as many poisons within the attack's constraint,
    /// whatever the attack. It bounds `features`, and `images` if `visibility.outside` is 0. `None` if no bound
    /// applies.
    pub loss_bound: Option<f64>,
    /// Largest norm of the gradient of the mean objective at which a training stopped. `None` for victims that are not
    /// linear heads.
    pub gradient_norm: Option<f64>,
    /// The weight decay that the victim chose, by training set. `None` if it was given.
    pub chosen_weight_decay: Option<Measured<f64>>,
    /// How many poisons the predictions of the clean victim withstand. `None` if the victim certifies nothing.
    pub certificate: Option<Certificate>,
    /// Whether all trainings got as far as they should.
    pub converged: bool,
    /// What a filter removed from clean data and poisons. `None` without a filter.
    pub detection: Option<Detection>,
    /// What the poisoned images look like next to their base images. `None` if there are no images.
    pub visibility: Option<Visibility>,
    /// Time of the attacker's stages, in seconds. `None` if an artifact of theirs is gone.
    pub seconds: Option<f64>,
    /// Key of the evaluation.
    pub key: String,
    /// Name of the stage that evaluated it.
    #[serde(skip)]
    pub stage: &'static str,
    /// Folders of artifacts that are gone, because of which some fields are not known.
    #[serde(skip)]
    pub gone: Vec<String>,
    /// What the result is one draw of.
    #[serde(skip)]
    pub origin: Origin,
    /// The predictions of its victims on every test image, after they were [read](crate::read_answers).
    #[serde(skip)]
    pub answers: Option<Arc<Answered>>,
    /// The share of clean test samples that are outliers by the rule for poisons, in `[0, 1]`, after it was counted.
    #[serde(skip)]
    pub clean_outliers: Option<f64>,
}

impl ResultRow {
    /// What tells the result from all others: the key of its evaluation, the seed, and the parameters of the stages
    /// that measured it as well, such as a repair, and that no evaluation reads.
    #[must_use]
    pub fn identity(&self) -> (String, u64, Vec<String>) {
        let measured = self.declared.iter().filter_map(|(node, _)| self.params.get(node)).map(Value::to_string);
        (self.key.clone(), self.seed, measured.collect())
    }
}

/// Returns the results that a plan has so far, and the number of results that are still missing. The digests of the
/// evaluations are checked, and the manifests of all artifacts that they come from.
///
/// # Errors
/// An artifact is damaged or cannot be read.
pub fn rows(plan: &Plan, store: &Store) -> Result<(Vec<ResultRow>, usize), StoreError> {
    rows_of(plan, plan.branches.iter(), store)
}

/// [`rows`] for some branches of a plan.
pub(crate) fn rows_of<'a>(
    plan: &Plan,
    branches: impl Iterator<Item = &'a Branch>,
    store: &Store,
) -> Result<(Vec<ResultRow>, usize), StoreError> {
    let (mut rows, mut missing) = (Vec::new(), 0);
    let mut seen = BTreeSet::new();
    // Branches that only differ in stages that no result reads have the same result.
    for branch in branches.filter(|branch| seen.insert(of_result(plan, branch))) {
        match row(plan, branch, store)? {
            Some(row) => rows.push(row),
            None => missing += 1,
        }
    }
    Ok((rows, missing))
}

/// Whether the stage of a task has columns of results.
fn has_columns(plan: &Plan, task: usize) -> bool {
    !plan.tasks[task].about.columns.is_empty()
}

/// The tasks of a branch that distinguish its result from others.
fn of_result(plan: &Plan, branch: &Branch) -> Vec<usize> {
    let counts = |task: &usize| plan.tasks[*task].is_evaluation() || has_columns(plan, *task);
    branch.tasks.values().copied().filter(counts).collect()
}

fn row(plan: &Plan, branch: &Branch, store: &Store) -> Result<Option<ResultRow>, StoreError> {
    let Some(number) = branch.tasks.values().copied().find(|task| plan.tasks[*task].is_evaluation()) else {
        return Ok(None);
    };
    let task = &plan.tasks[number];
    let Some(manifest) = store.lookup(task.stage, &task.key)? else { return Ok(None) };
    let evaluation = Evaluation::read_numbers(store, &manifest)?;
    let read = upstream(plan, number);
    let from = Upstream::of(plan, branch, &read, store)?;
    let outcomes = &evaluation.outcomes;
    let loss = outcomes.try_map(|_, outcome| outcome.clean_loss.ok_or(()));
    Ok(Some(ResultRow {
        pipeline: plan.pipeline.clone(),
        attack: evaluation.attack.clone(),
        victim: evaluation.victim.clone(),
        clean_label: evaluation.clean_label,
        replaces: evaluation.replaces,
        poison_fraction: evaluation.poison_fraction,
        poisons: evaluation.poisons,
        objective: evaluation.objective,
        initial_objective: evaluation.initial_objective,
        learner: evaluation.learner,
        bound: evaluation.bound,
        gap: evaluation.gap,
        poison_fraction_bound: evaluation.poison_fraction_bound,
        sees: from.seen_by(&evaluation.attack)?,
        controls_see: sees(&task.identity.params)?.unwrap_or_default(),
        seed: branch.seed.unwrap_or(0),
        device: from.device,
        collapsed: from.collapsed,
        verified: verified(&from.params),
        stepped_back: from.stepped_back,
        stages: from.stages,
        declared: from.declared,
        roles: from.roles,
        params: from.params,
        deciding: from.deciding,
        accuracy: outcomes.map(|outcome| outcome.accuracy.overall),
        best: (!outcomes.clean.epochs.is_empty()).then(|| outcomes.map(Outcome::best)),
        per_class: outcomes.map(|outcome| outcome.accuracy.per_class.clone()),
        mean_per_class: outcomes.map(|outcome| outcome.accuracy.mean_per_class()),
        worst_group: TestGroups::read_worst(&store.reader(&manifest, Evaluation::KIND), outcomes)?,
        clean_loss: loss.ok(),
        loss_bound: evaluation.loss_bound,
        gradient_norm: evaluation.gradient_norm(),
        chosen_weight_decay: chosen_decays(outcomes),
        certificate: outcomes.clean.certificate.clone(),
        converged: outcomes.named().all(|(_, outcome)| outcome.converged),
        detection: evaluation.detection,
        visibility: evaluation.visibility,
        seconds: from.seconds,
        key: task.key.to_string(),
        stage: task.stage,
        gone: from.gone,
        origin: Origin::of(plan, &branch.tasks, &read, branch.seed.unwrap_or(0)),
        answers: None,
        clean_outliers: None,
    }))
}

/// The weight decays that a victim chose. The target head is not trained, and chose none.
fn chosen_decays(outcomes: &Measured<Outcome>) -> Option<Measured<f64>> {
    let mut chosen = Measured::new(outcomes.clean.weight_decay?);
    for (set, outcome) in outcomes.others() {
        outcome.weight_decay.into_iter().for_each(|decay| chosen.set(set.clone(), decay));
    }
    Some(chosen)
}

/// What is known of the stages that a result comes from, and of their artifacts.
#[derive(Default)]
struct Upstream {
    params: BTreeMap<&'static str, Value>,
    deciding: BTreeMap<&'static str, Value>,
    roles: BTreeMap<&'static str, StageRole>,
    declared: Vec<(&'static str, Column)>,
    stages: BTreeMap<&'static str, BTreeMap<&'static str, f64>>,
    device: Option<String>,
    collapsed: Option<bool>,
    stepped_back: Option<SteppedBack>,
    seconds: Option<f64>,
    gone: Vec<String>,
}

impl Upstream {
    /// `read`: the tasks that the result comes from.
    fn of(plan: &Plan, branch: &Branch, read: &BTreeSet<usize>, store: &Store) -> Result<Self, StoreError> {
        let mut from = Self { collapsed: Some(false), seconds: Some(0.0), ..Self::default() };
        for (&node, task) in branch.tasks.iter().filter(|(_, task)| read.contains(task) || has_columns(plan, **task)) {
            let task = &plan.tasks[*task];
            from.params.insert(node, task.shown_params());
            from.deciding.insert(node, task.identity.params.clone());
            from.roles.insert(node, task.about.role);
            from.declared.extend(task.about.columns.iter().map(|column| (node, *column)));
            if task.about.role.is_attackers()
                || EXTRACTORS.contains(&node)
                || node == nodes::FEATURES
                || !task.about.columns.is_empty()
            {
                from.look_into(node, task, store)?;
            }
        }
        Ok(from)
    }

    /// Takes what only the artifact of a task tells. If it is gone, its part of the result is unknown; a sum without it
    /// would be wrong.
    fn look_into(&mut self, node: &'static str, task: &Task, store: &Store) -> Result<(), StoreError> {
        let made = store.lookup(task.stage, &task.key)?;
        if made.is_none() {
            self.gone.push(task.folder());
        }
        let made = made.as_ref();
        if let (Some(made), false) = (made, task.about.columns.is_empty()) {
            let number = |column: &Column| Some((column.field, made.summary.get(column.field)?.as_f64()?));
            self.stages.insert(node, task.about.columns.iter().filter_map(number).collect());
        }
        if task.about.role.is_attackers() {
            self.seconds = self.seconds.zip(made).map(|(sum, made)| sum + made.seconds);
        }
        if EXTRACTORS.contains(&node) {
            let this = made.map(|made| made.summary["collapsed"] == true);
            let any = this == Some(true) || self.collapsed == Some(true);
            self.collapsed = if any { Some(true) } else { this.and(self.collapsed) };
        }
        if node == nodes::FEATURES {
            self.device = made.map(|made| made.device.clone());
        }
        if task.about.role == StageRole::Preparation {
            let stepped_back = made.and_then(|made| SteppedBack::in_summary(&made.summary));
            self.stepped_back = self.stepped_back.take().or(stepped_back);
        }
        Ok(())
    }

    /// The data that the attacker saw: by the attack's own parameters or, if it has none, by those of its target's
    /// maker. Noise has no target, and is made from the training split.
    fn seen_by(&self, attack: &AttackId) -> Result<Sees, StoreError> {
        let of = |role: fn(StageRole) -> bool| {
            let nodes = self.roles.iter().filter(|(_, of)| role(**of)).filter_map(|(node, _)| self.deciding.get(node));
            nodes.map(sees).find_map(Result::transpose).transpose()
        };
        let own = of(StageRole::is_attack)?;
        if own.is_some() || AttackId::noise_label(&attack.objective).is_some() {
            return Ok(own.unwrap_or_default());
        }
        Ok(of(|role| role == StageRole::Preparation)?.unwrap_or_default())
    }
}

/// The data that a stage saw, by the parameters in its key. `None` if they do not say it.
fn sees(deciding: &Value) -> Result<Option<Sees>, StoreError> {
    let Some(sees) = deciding.get("sees") else { return Ok(None) };
    let refused = |e| StoreError::Refused { what: format!("`sees` is {sees}: {e}") };
    serde_json::from_value(sees.clone()).map(Some).map_err(refused)
}

/// The value of [`ResultRow::verified`]. An imported extractor is only published if its features match those of its
/// probe, so that having a probe means that it was compared.
fn verified(params: &BTreeMap<&'static str, Value>) -> Option<bool> {
    let extractors = EXTRACTORS.into_iter().filter_map(|node| params.get(node));
    let imports = extractors.filter(|params| params["method"] == "import");
    imports.map(|params| params["probe"].is_string()).reduce(|a, b| a && b)
}

/// A sentence that says what is not known about results because artifacts are gone. Returns `None` if nothing is gone.
#[must_use]
pub fn unknown(rows: &[ResultRow]) -> Option<String> {
    const SHOWN: usize = 3;
    let gone: BTreeSet<&str> = rows.iter().flat_map(|r| &r.gone).map(String::as_str).collect();
    let first = gone.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    let more = gone.len().saturating_sub(SHOWN);
    let shown = if more > 0 { format!("{first} and {more} more") } else { first };
    let fields = [
        ("seconds", rows.iter().filter(|r| r.seconds.is_none()).count()),
        ("device", rows.iter().filter(|r| r.device.is_none()).count()),
        ("whether the extractor collapsed", rows.iter().filter(|r| r.collapsed.is_none()).count()),
    ];
    let fields = fields.iter().filter(|(_, n)| *n > 0).map(|(field, n)| format!("{field} (of {n})"));
    let fields = fields.collect::<Vec<_>>().join(", ");
    let of = if rows.len() == 1 { "1 result".to_owned() } else { format!("{} results", rows.len()) };
    (!gone.is_empty()).then(|| {
        format!("not known of {of}: {fields}, as artifacts behind them are gone: {shown}; a run makes them again")
    })
}

/// A task and all tasks that its result comes from. A branch can have other tasks, which nothing in it reads.
pub(crate) fn upstream(plan: &Plan, task: usize) -> BTreeSet<usize> {
    let mut found = BTreeSet::from([task]);
    // Inputs come before the tasks that read them.
    for i in (0..=task).rev() {
        if found.contains(&i) {
            found.extend(plan.tasks[i].inputs.values());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_idles_is_not_seen() {
        let both = serde_json::json!({ "sees": ["train", "validation"] });
        let (train, none) = (serde_json::json!({ "sees": ["train"] }), serde_json::json!({}));
        let seen = |attack: &str, role, target: &Value, own: &Value| {
            let from = Upstream {
                roles: BTreeMap::from([("attack", role), ("target", StageRole::Preparation)]),
                deciding: BTreeMap::from([("attack", own.clone()), ("target", target.clone())]),
                ..Upstream::default()
            };
            from.seen_by(&AttackId::on_features(attack))
        };
        let (features, images) = (StageRole::FeatureAttack, StageRole::ImageAttack);
        assert_eq!(seen("tgda", features, &both, &train).unwrap(), Sees::Train);
        assert_eq!(seen("gradient-canceling", images, &both, &none).unwrap(), Sees::TrainAndValidation);
        assert_eq!(seen("tgda", images, &train, &both).unwrap(), Sees::TrainAndValidation);
        assert_eq!(seen(AttackId::ERROR_MINIMIZING, images, &both, &none).unwrap(), Sees::Train);
        let wrong = serde_json::json!({ "sees": "both" });
        assert!(seen("tgda", features, &both, &wrong).is_err(), "it is not taken for the default");
    }
}
