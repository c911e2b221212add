//! The stage on images of 8 x 8 pixels and an extractor of random weights.

use super::*;
use hemlock_artifact::{AttackSpec, FeatureSplit, Images, Normalization};
use hemlock_fixtures::{StopAfter, context, network, patterns};
use hemlock_head::{FitOptions, Head, fit};
use hemlock_perturb::CleanFeatureStats;
use hemlock_stage::{Cancel, Checkpoints, ErrorKind, Params as _, Stage as _};
use hemlock_threat::ConstraintKinds;
use ndarray::Axis;
use serde_json::json;
use std::sync::Mutex;

const SIDE: usize = 8;
const POISONS: usize = 6;

fn artifact(network: &Extractor) -> ExtractorArtifact {
    ExtractorArtifact {
        arch: "resnet8-w4".to_owned(),
        method: "random".to_owned(),
        dim: network.feature_dim(),
        image_size: SIDE,
        mean: network.spec().unwrap().mean,
        std: network.spec().unwrap().std,
        weights: network.to_safetensors().unwrap(),
        curve: Vec::new(),
        verified: None,
        process: None,
    }
}

/// Inputs of the stage: the poisoned features are those of the last images, and the base images are the first ones.
fn inputs() -> Inputs {
    let network = network("resnet8-w4", SIDE);
    let split = |n: usize, salt: usize| {
        let (pixels, labels) = (patterns(n, SIDE, salt), (0..n).map(|i| u32::from(i % 3 == 0)).collect::<Vec<u32>>());
        let features = network.features(pixels.view(), &|_| true).unwrap();
        let images = Images { pixels: pixels.into(), labels: labels.clone(), source_index: (0..n as u32).collect() };
        (images, FeatureSplit::all(features.into(), labels))
    };
    let [(train, train_z), (validation, validation_z), (test, test_z)] = [split(60, 3), split(9, 5), split(0, 0)];
    let classes = vec!["a".to_owned(), "b".to_owned()];
    let features = Features {
        classes: classes.clone(),
        normalization: Normalization::identity(network.feature_dim()),
        train: train_z,
        validation: validation_z,
        test: test_z,
        test_groups: None,
    };
    let head = fit(&[features.train.samples(2).unwrap()], &FitOptions::new(1e-2), &|_, _| true).unwrap().head;
    let zeta = features.train.features.view().select(Axis(0), &(60 - POISONS..60).collect::<Vec<_>>());
    let labels = train.labels[..POISONS].to_vec();
    Inputs {
        extractor: artifact(&network),
        poison_features: PoisonFeatures {
            features: zeta,
            labels,
            base_index: (0..POISONS as u32).collect(),
            spec: AttackSpec {
                attack: "gradient-canceling".to_owned(),
                parameters: serde_json::Map::new(),
                seed: 0,
                constraint: ConstraintKinds::default(),
                quantile: 0.95,
                neighbors: 5,
                filter: None,
            },
            clean_label: true,
            poison_fraction: 0.1,
            objective: 0.5,
            bound: None,
            gap: None,
            stopped: String::new(),
            curve: Vec::new(),
        },
        target: Some(TargetParams {
            target: Head::from_packed(&head.packed() * 0.5).unwrap(),
            clean: head,
            weight_decay: 1e-2,
            clean_gradient_norm: 0.0,
            method: String::new(),
            constraint: String::new(),
            path: Vec::new(),
            stepped_back: None,
        }),
        dataset: Dataset { name: String::new(), classes, train, validation, test, skipped: 0, test_groups: None },
        features,
        decoder: None,
    }
}

fn params(fields: Value) -> Params {
    let mut table = json!({ "method": "feature-matching", "steps": 5 });
    table.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    serde_json::from_value(table).unwrap()
}

fn run(fields: Value, seed: u64) -> Poisons {
    let params = params(fields);
    params.check().unwrap();
    context(0, |ctx| Stage::run(&params, inputs(), &Context { seed, ..*ctx }).unwrap())
}

#[test]
fn what_is_refined_is_called_so_and_starts_where_it_is_told() {
    let matched = run(json!({}), 0);
    assert_eq!((matched.method.as_str(), matched.refined.len()), ("feature-matching", 0));
    let at_start = |poisons: &Poisons| poisons.refined.first().unwrap().objective;
    let [refined, base, random] =
        ["matched", "base", "random"].map(|from| run(json!({ "refine": 4, "refine_from": from }), 0));
    assert_eq!(
        [&refined, &base, &random].map(|p| p.method.as_str()),
        ["refined", "refined-from-base", "refined-from-random"]
    );
    assert!(at_start(&refined) != at_start(&base) && at_start(&base) != at_start(&random));
    assert_eq!(base.fits.iter().map(|fit| fit.passes).max(), Some(4), "nothing is matched before");
    assert!(base.curve.is_empty() && !random.curve.is_empty());
}

/// Random features are drawn from the seed; nothing else is.
#[test]
fn random_features_are_the_seed_s() {
    let from = |from: &str, seed| run(json!({ "refine": 1, "refine_from": from }), seed).images;
    assert_eq!(from("random", 1), from("random", 1));
    assert_ne!(from("random", 1), from("random", 2));
    assert_eq!(from("matched", 1), from("matched", 2));
    let seeded = |from: &str| Stage::seeded(&params(json!({ "refine": 1, "refine_from": from })));
    assert_eq!(["matched", "base", "random"].map(seeded), [false, false, true]);
}

#[test]
fn what_a_start_makes_idle_is_not_in_the_key() {
    let key = |fields: Value| Stage::key_params(&params(fields)).unwrap();
    let base = |fields: Value| {
        let mut table = json!({ "refine": 4, "refine_from": "base" });
        table.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        key(table)
    };
    assert_eq!(base(json!({ "steps": 7, "restarts": 2, "optimizer": "adam" })), base(json!({})));
    assert_ne!(base(json!({})), key(json!({ "refine": 4 })));
    assert_eq!(key(json!({ "refine_from": "matched" })), key(json!({})));
}

#[test]
fn a_start_without_refinement_is_refused() {
    let error = params(json!({ "refine_from": "base" })).check().unwrap_err().to_string();
    assert!(error.starts_with("`refine_from`: says where refinement starts, and there is none"), "{error}");
}

#[test]
fn outliers_of_the_features_are_counted_by_the_images_rule() {
    let inputs = inputs();
    let train = inputs.features.train.features.view();
    let clean = CleanFeatureStats::new(train);
    assert_eq!(
        run(json!({}), 0).outliers_of_features,
        Some(clean.outliers(inputs.poison_features.features.view(), train))
    );
    let mut far = self::inputs();
    far.poison_features.features.fill(1e4);
    let poisons = context(0, |ctx| Stage::run(&params(json!({ "steps": 1 })), far, ctx).unwrap());
    assert_eq!(poisons.outliers_of_features, Some(1.0));
}

/// Pieces, in memory.
#[derive(Default)]
struct Pieces(Mutex<Vec<Vec<u8>>>);

impl Checkpoints for Pieces {
    fn load(&self) -> Result<Option<Vec<u8>>, StageError> {
        Ok(None)
    }
    fn save(&self, _: &[u8]) -> Result<(), StageError> {
        Ok(())
    }
    fn pieces(&self) -> Result<Vec<Vec<u8>>, StageError> {
        Ok(self.0.lock().unwrap().clone())
    }
    fn add_piece(&self, piece: &[u8]) -> Result<(), StageError> {
        self.0.lock().unwrap().push(piece.to_vec());
        Ok(())
    }
}

/// Whichever parts were computed before, and whatever became of the others, the images are the same.
#[test]
fn images_do_not_depend_on_their_parts() {
    for fields in [json!({ "restarts": 1 }), json!({ "refine": 2, "refine_from": "random" })] {
        let params = params(fields);
        assert!(Stage::splits(&params));
        let whole = context(0, |ctx| Stage::run(&params, inputs(), ctx).unwrap());
        for parts in [&["1/3", "2/3", "3/3"][..], &["2/4", "2/4"], &["3/7"]] {
            let pieces = Pieces::default();
            for part in parts {
                let part = part.parse().unwrap();
                let checkpoints = &pieces;
                context(0, |ctx| Stage::part(&params, inputs(), part, &Context { checkpoints, ..*ctx }).unwrap());
            }
            // A part that was computed before is not computed again, and damaged pieces are left out.
            assert_eq!(pieces.0.lock().unwrap().len(), if parts.len() == 3 { 3 } else { 1 });
            pieces.0.lock().unwrap().push(b"damaged".to_vec());
            let merged = context(0, |ctx| Stage::run(&params, inputs(), &Context { checkpoints: &pieces, ..*ctx }));
            assert_eq!(merged.unwrap(), whole, "{parts:?}");
        }
    }
    let splits = |fields: Value| Stage::splits(&params(fields));
    assert!(!splits(json!({ "refine": 2, "refine_from": "base" })), "nothing is matched");
    assert!(!Stage::splits(&Params::Decoder {}));
}

/// What a run has finished when it is stopped is not done again.
#[test]
fn a_run_that_was_stopped_continues() {
    let params = params(json!({ "steps": 25, "restarts": 3, "tolerance": 0.3 }));
    let whole = context(0, |ctx| Stage::run(&params, inputs(), ctx).unwrap());
    let (pieces, mut before) = (Pieces::default(), Vec::new());
    let found = loop {
        let cancel = Cancel::default();
        let progress = StopAfter::new(11 + before.len() as u64, &cancel);
        let run = hemlock_fixtures::in_context("flex", &progress, &cancel, |ctx| {
            Stage::run(&params, inputs(), &Context { checkpoints: &pieces, ..*ctx })
        });
        before.push(progress.least());
        match run {
            Ok(found) => break found,
            Err(e) => assert_eq!(e.kind(), ErrorKind::Interrupted, "{e}"),
        }
        assert!(before.len() < 30, "it never ends");
    };
    assert!(before.len() > 3 && before[0] == 0 && before.is_sorted() && before[before.len() - 1] > 0, "{before:?}");
    assert_eq!(found, whole);
}
