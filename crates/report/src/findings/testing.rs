//! Rows for tests, with values that were never measured.

use crate::ConfigGroup;
use hemlock_artifact::{AttackId, LearnerState, Measured, TrainingSet, Visibility};
use hemlock_pipeline::{Origin, ResultRow};
use hemlock_stage::StageRole;
use hemlock_threat::Sees;
use serde_json::Value;
use std::collections::BTreeMap;

/// Rows of three seeds with a clean accuracy of 0.8; influence flips cost 0.01.
pub struct MadeUp(Vec<ResultRow>);

pub fn made_up(attack: &str) -> MadeUp {
    let id = match attack.split_once(" + ") {
        Some((objective, method)) => AttackId::by(objective, method),
        None => AttackId::on_features(attack),
    };
    let row = |seed: u64| ResultRow {
        pipeline: "made-up".to_owned(),
        attack: id.clone(),
        victim: "linear".to_owned(),
        replaces: false,
        clean_label: true,
        poison_fraction: 0.03,
        poisons: 30,
        objective: 0.5,
        initial_objective: None,
        learner: None,
        bound: None,
        gap: None,
        poison_fraction_bound: None,
        sees: Default::default(),
        controls_see: Default::default(),
        seed,
        device: Some("flex".to_owned()),
        collapsed: Some(false),
        verified: None,
        stepped_back: None,
        stages: BTreeMap::new(),
        declared: Vec::new(),
        roles: route(&id).iter().map(|node| (*node, role(node))).collect(),
        params: BTreeMap::new(),
        deciding: BTreeMap::new(),
        accuracy: Measured::new(0.8)
            .with("target", 0.3)
            .with("random_flips", 0.795)
            .with("influence_flips", 0.79)
            .with("duplicates", 0.8),
        per_class: Measured::new(vec![Some(0.8); 10]),
        mean_per_class: Measured::new(0.8),
        worst_group: None,
        best: None,
        clean_loss: None,
        loss_bound: Some(2.0),
        gradient_norm: Some(0.0),
        chosen_weight_decay: None,
        certificate: None,
        converged: true,
        detection: None,
        visibility: None,
        seconds: Some(1.0),
        key: format!("{attack} {seed}"),
        stage: "evaluate",
        gone: Vec::new(),
        origin: Origin::default(),
        answers: None,
        clean_outliers: None,
    };
    MadeUp((0..3).map(row).collect())
}

fn role(node: &str) -> StageRole {
    match node {
        "poison-features" => StageRole::FeatureAttack,
        "poison-images" | "unlearnable" => StageRole::ImageAttack,
        "invert" => StageRole::Inversion,
        "target-params" | "decoder" => StageRole::Preparation,
        "victim" => StageRole::Victim,
        "defence" => StageRole::Defence,
        "evaluate" => StageRole::Evaluation,
        _ => StageRole::Data,
    }
}

/// The nodes that make the poisons of an attack.
fn route(attack: &AttackId) -> &'static [&'static str] {
    match attack.method.as_deref() {
        _ if AttackId::noise_label(&attack.objective).is_some() => &["unlearnable"],
        None => &["poison-features"],
        Some("pixels") => &["poison-images"],
        Some(_) => &["poison-features", "invert"],
    }
}

/// Sets the loss on clean training data after training with poisons: 0.2 on clean data, whose accuracy is 0.8.
fn set_loss(row: &mut ResultRow, name: &str, accuracy: f64) {
    let loss = row.clean_loss.get_or_insert_with(|| Measured::new(0.2));
    loss.set(TrainingSet::new(name), 1.0 - accuracy);
}

impl MadeUp {
    fn each(mut self, values: [f64; 3], set: impl Fn(&mut ResultRow, f64)) -> Self {
        self.0.iter_mut().zip(values).for_each(|(row, v)| set(row, v));
        self
    }
    pub fn with(mut self, node: &'static str, params: Value) -> Self {
        for row in &mut self.0 {
            row.params.insert(node, params.clone());
            row.roles.insert(node, role(node));
            row.deciding.insert(node, params.clone());
        }
        self
    }
    /// Sets a node's parameters, and those of them that have an effect.
    pub fn with_idle(mut self, node: &'static str, params: Value, deciding: Value) -> Self {
        for row in &mut self.0 {
            row.params.insert(node, params.clone());
            row.roles.insert(node, role(node));
            row.deciding.insert(node, deciding.clone());
        }
        self
    }
    pub fn victim(mut self, victim: &str) -> Self {
        self.0.iter_mut().for_each(|r| victim.clone_into(&mut r.victim));
        self
    }
    /// Sets the clean accuracy and the number of classes.
    pub fn clean(self, accuracy: f64, classes: usize) -> Self {
        self.each([accuracy; 3], |r, a| {
            r.accuracy.clean = a;
            r.per_class.clean = vec![Some(a); classes];
        })
    }
    pub fn features(self, accuracy: [f64; 3]) -> Self {
        self.each(accuracy, |r, a| {
            r.accuracy.set(TrainingSet::new(TrainingSet::FEATURES), a);
            set_loss(r, TrainingSet::FEATURES, a);
        })
    }
    pub fn images(self, accuracy: [f64; 3]) -> Self {
        self.each(accuracy, |r, a| {
            r.accuracy.set(TrainingSet::new(TrainingSet::IMAGES), a);
            set_loss(r, TrainingSet::IMAGES, a);
        })
    }
    pub fn psnr(self, psnr: f64) -> Self {
        self.each([psnr, 1.01 * psnr, 0.99 * psnr], |r, psnr| {
            let (linf, l2, ssim) = (0.5, 5.0, 0.5);
            r.visibility = Some(Visibility {
                linf,
                l2,
                psnr,
                ssim,
                outliers: 0.0,
                outliers_of_features: None,
                outside: 0.0,
                relative_distance: 1.0,
            });
        })
    }
    /// Sets the share of outliers among the poisons in each seed, and among clean test samples.
    pub fn outliers(self, share: [f64; 3], clean: f64) -> Self {
        self.psnr(10.0).each(share, |r, share| {
            r.visibility.as_mut().unwrap().outliers = share;
            r.clean_outliers = Some(clean);
        })
    }
    /// Sets the attack's objective at its start and at its end.
    pub fn objective(self, start: f64, end: f64) -> Self {
        self.each([end; 3], |r, end| (r.objective, r.initial_objective) = (end, Some(start)))
    }
    /// Sets the labelled splits that the attacker sees.
    pub fn sees(mut self, sees: Sees) -> Self {
        self.0.iter_mut().for_each(|row| row.sees = sees);
        self
    }
    pub fn learner(self, learner: LearnerState) -> Self {
        self.each([0.0; 3], |r, _| r.learner = Some(learner))
    }
    /// The rows, with keys that depend on their parameters.
    pub fn rows(mut self) -> Vec<ResultRow> {
        self.0.iter_mut().for_each(|r| r.key = format!("{:?} {}", r.params, r.key));
        self.0
    }
    pub fn config(self) -> ConfigGroup {
        ConfigGroup::all(&self.0).remove(0)
    }
}
