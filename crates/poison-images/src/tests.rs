//! The stage on images of 8 x 8 pixels and an extractor of random weights.

use super::*;
use hemlock_artifact::{FeatureSplit, Images, Normalization};
use hemlock_attack::attacks::all;
use hemlock_fixtures::context;
use hemlock_head::{FitOptions, Head, fit};
use hemlock_models::{Backend, ExtractorSpec, Network, device};
use hemlock_stage::{Params as _, Stage as _};
use ndarray::Array4;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::json;

const SIDE: usize = 8;
const DECAY: f64 = 1e-2;

fn extractor() -> Extractor {
    let device = device::open(Backend::default()).unwrap();
    let spec =
        ExtractorSpec { arch: "resnet8-w4".parse().unwrap(), image_size: [SIDE; 2], mean: [0.5; 3], std: [0.25; 3] };
    let net = Network::new(spec.arch, spec.image_size, &mut ChaCha8Rng::seed_from_u64(1), &device);
    Extractor::new(spec, &net, &device)
}

/// Images of two classes, one of which is lighter in the upper half.
fn images(n: usize, salt: usize) -> Images {
    let labels: Vec<u32> = (0..n).map(|i| u32::from(i % 3 == 0)).collect();
    let pixels = Array4::from_shape_fn((n, 3, SIDE, SIDE), |(i, c, y, x)| {
        let lighter = if labels[i] == 1 && y < SIDE / 2 { 60 } else { 0 };
        ((i * 37 + c * 101 + y * 17 + x * 29 + (i + salt) * x * y) % 180 + lighter) as u8
    });
    Images { pixels: pixels.into(), labels, source_index: (0..n as u32).collect() }
}

/// Inputs of the stage.
fn inputs() -> Inputs {
    let extractor = extractor();
    let split = |images: &Images| {
        let features = extractor.features(images.pixels.view(), &|_| true).unwrap();
        FeatureSplit::all(features.into(), images.labels.clone())
    };
    let (train, validation, test) = (images(60, 0), images(20, 5), images(0, 0));
    let features = Features {
        classes: vec!["dark".to_owned(), "light".to_owned()],
        normalization: Normalization::identity(extractor.feature_dim()),
        train: split(&train),
        validation: split(&validation),
        test: split(&test),
        test_groups: None,
    };
    let head = fit(&[features.train.samples(2).unwrap()], &FitOptions::new(DECAY), &|_, _| true).unwrap().head;
    let target = TargetParams {
        target: Head::from_packed(&head.packed() * 0.5).unwrap(),
        clean: head,
        weight_decay: DECAY,
        clean_gradient_norm: 0.0,
        method: String::new(),
        constraint: String::new(),
        path: Vec::new(),
        stepped_back: None,
    };
    let artifact = ExtractorArtifact {
        arch: "resnet8-w4".to_owned(),
        method: "random".to_owned(),
        dim: extractor.feature_dim(),
        image_size: SIDE,
        mean: extractor.spec().unwrap().mean,
        std: extractor.spec().unwrap().std,
        weights: extractor.to_safetensors().unwrap(),
        curve: Vec::new(),
        verified: None,
        process: None,
    };
    let dataset = Dataset {
        name: String::new(),
        classes: features.classes.clone(),
        train,
        validation,
        test,
        skipped: 0,
        test_groups: None,
    };
    Inputs { dataset, extractor: artifact, features, target }
}

fn params(fields: Value) -> Params {
    let mut table = json!({ "attack": "gradient-canceling", "poison_fraction": 0.2, "steps": 20 });
    table.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let params: Params = serde_json::from_value(table).unwrap();
    params.check().unwrap();
    params
}

fn run(fields: Value) -> Poisons {
    context(3, |ctx| Stage::run(&params(fields), inputs(), ctx).unwrap())
}

/// The largest change of a pixel from the base images, in grey levels.
fn moved(poisons: &Poisons) -> u8 {
    let base = base_images(&inputs().dataset.train, &poisons.base_index).unwrap();
    poisons.images.iter().zip(&base).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

#[test]
fn pixels_stay_within_their_limit_and_use_it() {
    let (near, unbounded) = (run(json!({ "linf": "4/255" })), run(json!({})));
    assert_eq!(near.images.dim(), (12, 3, SIDE, SIDE));
    assert_eq!(moved(&near), 4);
    assert!(moved(&unbounded) > 4, "{}", moved(&unbounded));
    assert!(unbounded.objective < near.objective, "{} {}", unbounded.objective, near.objective);
}

/// A constraint limits the features of the images, and weakens the attack.
#[test]
fn features_stay_in_the_set_that_they_have_to_lie_in() {
    let near = |quantile: f64| run(json!({ "constraint": "ball", "quantile": quantile, "steps": 60 }));
    let (unbounded, held) = (run(json!({ "steps": 60 })), near(0.3));
    let Inputs { features, .. } = inputs();
    let mut norms: Vec<f32> = features.train.features.view().rows().into_iter().map(|z| z.dot(&z).sqrt()).collect();
    norms.sort_by(f32::total_cmp);
    let radius = norms[(0.3 * norms.len() as f64) as usize];
    let farthest = |poisons: &Poisons| poisons.fits.iter().map(|fit| fit.norm).fold(0.0, f32::max);
    assert!(farthest(&unbounded) > 1.1 * radius, "{} {radius}", farthest(&unbounded));
    let mean = |poisons: &Poisons| poisons.fits.iter().map(|fit| fit.norm).sum::<f32>() / poisons.fits.len() as f32;
    assert!(
        mean(&held) < 1.05 * radius && mean(&held) < mean(&unbounded),
        "{} {} {radius}",
        mean(&held),
        mean(&unbounded)
    );
    assert!(held.objective > unbounded.objective, "{} {}", held.objective, unbounded.objective);
    // Violations are measured against this constraint: images that have hardly moved are outside of it.
    let begun = run(json!({ "constraint": "ball", "quantile": 0.3, "steps": 1 }));
    assert!(unbounded.outside() == 0.0 && begun.fits.iter().any(|fit| fit.outside > 0.0));
}

/// The quantile is in the key only if the constraint has one.
#[test]
fn an_idle_quantile_is_not_in_the_key() {
    let key = |fields: Value| <Stage as hemlock_stage::Stage>::key_params(&params(fields)).unwrap();
    assert_eq!(key(json!({ "quantile": 0.5 })), key(json!({})));
    assert_ne!(key(json!({ "constraint": "ball", "quantile": 0.5 })), key(json!({ "constraint": "ball" })));
    assert_eq!(key(json!({ "constraint": "ball", "neighbors": 3 })), key(json!({ "constraint": "ball" })));
}

#[test]
fn labels_are_kept_or_others() {
    let train = inputs().dataset.train.labels;
    for labels in ["clean", "random"] {
        let poisons = run(json!({ "labels": labels, "steps": 1 }));
        let own: Vec<u32> = poisons.base_index.iter().map(|i| train[*i as usize]).collect();
        let same = own.iter().zip(&poisons.labels).filter(|(own, label)| own == label).count();
        assert_eq!(same, if labels == "clean" { 12 } else { 0 });
        assert_eq!(poisons.clean_label, labels == "clean");
    }
}

/// Adversarial labels do at least as well as clean labels, and say what their own start has missed.
#[test]
fn adversarial_labels_end_no_worse_than_clean_ones() {
    let (mut missed, mut went_on) = (false, false);
    for (attack, steps) in [("gradient-canceling", 1), ("gradient-canceling", 10), ("bilevel", 1), ("bilevel", 10)] {
        let end = |labels: &str| {
            let poisons = run(json!({ "attack": attack, "labels": labels, "steps": steps }));
            let value = if attack == "bilevel" { -poisons.objective } else { poisons.objective };
            (value, poisons)
        };
        let ((clean, kept), (adversarial, free)) = (end("clean"), end("adversarial"));
        assert!(adversarial <= clean, "{attack}, {steps} steps: {adversarial} after {clean}");
        assert_eq!(kept.gap, None);
        missed |= free.gap.unwrap() > 0.0;
        let passes = free.fits[0].passes;
        assert!(passes == steps || passes == 2 * steps, "{passes}");
        if passes == 2 * steps {
            went_on = true;
            let last = free.refined.last().unwrap();
            assert_eq!((last.step, free.base_index), (2 * steps, kept.base_index));
            assert!(last.objective == free.objective && free.labels != kept.labels);
        }
    }
    assert!(missed && went_on, "clean labels are no start that helps: {missed} {went_on}");
    let stochastic = run(json!({ "attack": "tgda", "labels": "adversarial", "steps": 1 }));
    assert_eq!(stochastic.gap, None, "values cannot be compared");
}

/// The objective falls if it is to vanish, and rises if it is to be maximised.
#[test]
fn every_attack_goes_where_it_wants_to() {
    for attack in all() {
        let poisons = run(json!({ "attack": attack.name() }));
        let (first, last) = (poisons.refined.first().unwrap().objective, poisons.objective);
        let better = if attack.has_zero_minimum() { first - last } else { last - first };
        // If the head moves, its values change whatever the images do.
        let moves = params(json!({})).own.stochasticity(attacks::find(attack.name()).unwrap());
        assert!(moves.is_some() || better > 0.01 * first, "{}: {first} to {last}", attack.name());
        assert_eq!(poisons.attack, attack.name());
    }
}

#[test]
fn neither_runs_nor_threads_change_a_byte() {
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        // More images than one tile, and a learner that draws its batches.
        pool.install(|| run(json!({ "attack": "tgda", "poison_fraction": 0.6, "steps": 3, "labels": "random" })))
    };
    let once = on(1);
    assert_eq!(once, on(1));
    assert_eq!(once, on(2));
}

#[test]
fn all_fields_are_known_and_images_start_at_images() {
    let whole = params(json!({ "start": "clean", "linf": "1/255", "step": 0.1, "adaptive": true }));
    let own = whole.own.clone().into_table();
    let table = serde_json::to_value(whole).unwrap();
    let fields: Vec<&String> = table.as_object().unwrap().keys().filter(|field| !own.contains_key(*field)).collect();
    let mut known = Params::FIELDS;
    known.sort_unstable();
    assert_eq!(fields, known);
    let greedy: Params =
        serde_json::from_value(json!({ "attack": "bilevel", "poison_fraction": 0.1, "start": "greedy" })).unwrap();
    assert!(greedy.check().unwrap_err().message.contains("expected `clean` or `influence`"));
}
