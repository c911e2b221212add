use std::collections::BTreeMap;

use burn::tensor::TensorData;
use hemlock_models::Network;
use hemlock_models::device::{self, Backend};
use hemlock_models::weights::{Weight, Weights};
use hemlock_stage::{Cancel, Silent};
use ndarray::{Array4, Slice};

use super::*;
use hemlock_fixtures::{in_context, on_threads};

fn open() -> Device {
    device::open(Backend::default()).unwrap()
}

/// Stripes in one of three directions, which are the classes, with random phase.
fn stripes(n: usize, from: usize) -> (Array4<u8>, Vec<u32>) {
    let class = |i: usize| (from + i) % 3;
    let pixels = Array4::from_shape_fn((n, 3, 8, 8), |(i, _, y, x)| {
        let across = [x, y, x + y][class(i)];
        (60 + 130 * ((across + (from + i) / 3) / 2 % 2) + ((from + i) * 31 + y * 17 + x * 7) % 40) as u8
    });
    (pixels, (0..n).map(|i| class(i) as u32).collect())
}

fn labelled((pixels, labels): &(Array4<u8>, Vec<u32>)) -> Labelled<'_> {
    Labelled { pixels: pixels.view(), labels }
}

fn tiny() -> ClassifierConfig {
    ClassifierConfig {
        epochs: 8,
        batch: 12,
        learning_rate: 0.05,
        warmup_epochs: 1,
        min_area: 0.8,
        ..ClassifierConfig::scratch()
    }
}

fn scratch(device: &Device) -> InitialWeights<'_> {
    InitialWeights::Scratch { arch: "resnet8-w4".parse().unwrap(), device }
}

/// An extractor whose running statistics differ from those of a new network.
fn extractor(arch: &str) -> Extractor {
    let begin = InitialWeights::Scratch { arch: arch.parse().unwrap(), device: &open() };
    let images = stripes(24, 7);
    let mut session = Session::new(begin, &tiny(), 3, &[labelled(&images)]).unwrap();
    steps(&mut session, &[labelled(&images)], 4);
    session.snapshot().unwrap().extractor
}

fn steps(session: &mut Session, images: &[Labelled<'_>], count: usize) -> f64 {
    in_context("flex", &Silent, &Cancel::default(), |ctx| session.steps(images, count, ctx, &|_, _| {})).unwrap()
}

fn weights(extractor: &Extractor) -> BTreeMap<String, Weight> {
    Weights::collect(extractor.network().unwrap()).0
}

fn accuracy(classifier: &Classifier, (pixels, labels): &(Array4<u8>, Vec<u32>)) -> f64 {
    let predicted =
        in_context("flex", &Silent, &Cancel::default(), |ctx| classifier.predict(pixels.view(), ctx)).unwrap();
    predicted.iter().zip(labels).filter(|(a, b)| a == b).count() as f64 / labels.len() as f64
}

#[test]
fn a_network_learns_from_scratch_and_is_heard_after_every_epoch() {
    let (images, test, device) = (stripes(60, 0), stripes(30, 100), open());
    let mut heard = Vec::new();
    let trained = in_context("flex", &Silent, &Cancel::default(), |ctx| {
        train(scratch(&device), &tiny(), 3, &[labelled(&images)], "victim", ctx, &mut |epoch, loss, classifier| {
            heard.push((epoch, loss, accuracy(classifier, &test)));
            Ok(())
        })
    });
    let epochs: Vec<usize> = heard.iter().map(|(epoch, ..)| *epoch).collect();
    assert_eq!(epochs, [1, 2, 3, 4, 5, 6, 7, 8]);
    let (_, first, _) = heard[0];
    let (_, last, reached) = heard[7];
    assert!(first > 0.8 && last < 0.3 && reached > 0.9, "{heard:?}");
    assert_eq!(accuracy(&trained.unwrap(), &test), reached, "what is returned is what the last epoch made");
}

/// After steps that are too small to change f32, the weights are the initial ones.
#[test]
fn fine_tuning_starts_at_the_extractor_and_leaves_it_alone() {
    let images = stripes(24, 0);
    let extractor = extractor("resnet8-w4");
    let given = weights(&extractor);
    let config = ClassifierConfig { learning_rate: 1e-30, ..tiny() };
    let mut session = Session::new(InitialWeights::FineTune(&extractor), &config, 3, &[labelled(&images)]).unwrap();
    assert_eq!(weights(&session.snapshot().unwrap().extractor), given);
    steps(&mut session, &[labelled(&images)], 3);
    let after = weights(&session.snapshot().unwrap().extractor);
    for (name, weight) in &after {
        assert_eq!(*weight == given[name], !name.contains("running_"), "{name}: statistics follow the batches");
    }
    assert_eq!(weights(&extractor), given, "the extractor stays as it was");
    assert_eq!(session.snapshot().unwrap().extractor.spec().unwrap(), extractor.spec().unwrap());
}

#[test]
fn training_the_last_blocks_changes_nothing_else() {
    for (arch, frozen, last) in [
        ("resnet8-w4", 2, &["layer3.0."][..]),
        ("resnet8-w4", 1, &["layer2.0.", "layer3.0."]),
        ("resnet8-w4", 3, &[]),
        ("resnet14-w4", 5, &["layer3.1."]),
        ("vit-nano-p4-d2", 1, &["blocks.1.", "norm."]),
        ("vit-nano-p4-d2", 2, &[]),
    ] {
        let (images, extractor) = (stripes(24, 0), extractor(arch));
        let given = weights(&extractor);
        let begin = InitialWeights::AfterBlocks { extractor: &extractor, frozen };
        let mut session = Session::new(begin, &tiny(), 3, &[labelled(&images)]).unwrap();
        let before = session.snapshot().unwrap();
        steps(&mut session, &[labelled(&images)], 3);
        let after = session.snapshot().unwrap();
        for (name, weight) in weights(&after.extractor) {
            let trained = last.iter().any(|last| name.starts_with(last));
            assert_eq!(weight != given[&name], trained, "{arch} after {frozen}: {name}");
        }
        assert_ne!(before.head, after.head);
    }
    let (images, extractor) = (stripes(24, 0), extractor("resnet8-w4"));
    let begin = InitialWeights::AfterBlocks { extractor: &extractor, frozen: 4 };
    let refused = Session::new(begin, &tiny(), 3, &[labelled(&images)]).err().unwrap().to_string();
    assert!(refused.contains("`freeze`") && refused.contains("at most 3"), "{refused}");
}

#[test]
fn the_last_block_learns() {
    let (images, test, extractor) = (stripes(60, 0), stripes(30, 100), extractor("resnet8-w4"));
    let begin = InitialWeights::AfterBlocks { extractor: &extractor, frozen: 2 };
    let mut session = Session::new(begin, &tiny(), 3, &[labelled(&images)]).unwrap();
    let before = accuracy(&session.snapshot().unwrap(), &test);
    steps(&mut session, &[labelled(&images)], 40);
    let after = accuracy(&session.snapshot().unwrap(), &test);
    assert!(after > 0.8 && after > before + 0.2, "{before} to {after}");
}

/// A snapshot gives the predictions of the online network in inference mode.
#[test]
fn a_snapshot_predicts_what_the_network_does() {
    for arch in ["resnet8-w4", "vit-nano-p4-d2"] {
        let (images, device) = (stripes(24, 0), open());
        let begin = InitialWeights::Scratch { arch: arch.parse().unwrap(), device: &device };
        let mut session = Session::new(begin, &tiny(), 3, &[labelled(&images)]).unwrap();
        steps(&mut session, &[labelled(&images)], 5);
        let snapshot = session.snapshot().unwrap();
        let (test, _) = stripes(30, 100);
        let pixels: Vec<f32> = test.iter().map(|&p| f32::from(p) / 255.0).collect();
        let x = session.spec.normalise(Tensor::from_data(TensorData::new(pixels, [30, 3, 8, 8]), &device));
        let logits = session.online.valid().forward(x).embeddings;
        let features = snapshot.extractor.features(test.view(), &|_| true).unwrap().mapv(f64::from);
        let found = hemlock_head::logits(&snapshot.head, features.view()).unwrap();
        let expected: Vec<f64> = logits.into_data().iter().collect();
        let largest = expected.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-4 * largest, "{arch}: {found} {expected}");
        }
        let argmax = |row: &[f64]| (0..3).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as u32;
        let labels: Vec<u32> = expected.chunks(3).map(argmax).collect();
        let predicted =
            in_context("flex", &Silent, &Cancel::default(), |ctx| snapshot.predict(test.view(), ctx)).unwrap();
        assert_eq!(predicted, labels, "{arch}");
    }
}

/// Neither do the parts of the training set, nor how the steps are distributed over calls.
#[test]
fn threads_change_no_byte() {
    let images = stripes(40, 0);
    let extractor = extractor("resnet8-w4");
    let device = open();
    let all = [labelled(&images)];
    let part = |rows: std::ops::Range<usize>| Labelled {
        pixels: images.0.slice_axis(Axis(0), Slice::from(rows.clone())),
        labels: &images.1[rows],
    };
    let parts = [part(0..10), part(10..10), part(10..40)];
    let last_block = InitialWeights::AfterBlocks { extractor: &extractor, frozen: 2 };
    for begin in [scratch(&device), InitialWeights::FineTune(&extractor), last_block] {
        let run = |threads, images: &[Labelled<'_>], counts: &[usize]| {
            on_threads(threads, || {
                let mut session = Session::new(begin, &tiny(), 3, images).unwrap();
                counts.iter().for_each(|&count| {
                    steps(&mut session, images, count);
                });
                let Classifier { extractor, head } = session.snapshot().unwrap();
                (extractor.to_safetensors().unwrap(), head)
            })
        };
        let one = run(1, &all, &[7]);
        assert!(one == run(2, &all, &[7]), "{begin:?}");
        assert!(one == run(5, &parts, &[1, 0, 3, 3]), "{begin:?}");
    }
}

#[test]
fn images_may_change_between_steps() {
    let (images, other, device) = (stripes(24, 0), stripes(24, 1), open());
    let run = |second: &(Array4<u8>, Vec<u32>)| {
        let mut session = Session::new(scratch(&device), &tiny(), 3, &[labelled(&images)]).unwrap();
        steps(&mut session, &[labelled(&images)], 2);
        steps(&mut session, &[labelled(second)], 2);
        session.snapshot().unwrap().extractor.to_safetensors().unwrap()
    };
    assert!(run(&images) == run(&images));
    assert!(run(&images) != run(&other));
}

#[test]
fn learning_rates_rise_and_fall_or_stay() {
    let config = ClassifierConfig { epochs: 3, warmup_epochs: 1, learning_rate: 1.0, ..tiny() };
    let lr = |step| config.learning_rate_at(step, 10);
    assert_eq!((lr(0), lr(9), lr(10)), (0.1, 1.0, 1.0));
    assert!((lr(20) - 0.5).abs() < 1e-12 && lr(29) < 0.01 && lr(30).abs() < 1e-12 && lr(99).abs() < 1e-12);
    let config = ClassifierConfig { schedule: Schedule::Constant, ..config };
    let lr = |step| config.learning_rate_at(step, 10);
    assert_eq!((lr(4), lr(10), lr(99)), (0.5, 1.0, 1.0));
}

#[test]
fn what_does_not_fit_is_named() {
    let (images, device) = (stripes(24, 0), open());
    let all = [labelled(&images)];
    let begin = |config: &ClassifierConfig, classes| {
        Session::new(scratch(&device), config, classes, &all).err().unwrap().to_string()
    };
    let large = ClassifierConfig { batch: 25, ..tiny() };
    assert_eq!(begin(&large, 3), "`batch`: is 25; expected at most the 24 images");
    assert_eq!(begin(&tiny(), 2), "image 2 has the label 2; expected less than 2, the number of classes");
    let few = ClassifierConfig { epochs: 1, ..tiny() };
    assert_eq!(begin(&few, 3), "`warmup_epochs`: is 1; expected fewer than `epochs`");
    let wide = Array4::zeros((24, 3, 8, 9));
    let wide = [Labelled { pixels: wide.view(), labels: &images.1 }];
    let tuned = Session::new(InitialWeights::FineTune(&extractor("resnet8-w4")), &tiny(), 3, &wide).err().unwrap();
    assert_eq!(tuned.to_string(), "images have the shape [24, 3, 8, 9]; expected [24, 3, 8, 8]");

    let mut session = Session::new(scratch(&device), &tiny(), 3, &all).unwrap();
    let fewer = stripes(23, 0);
    let stop = Cancel::default();
    let fewer =
        in_context("flex", &Silent, &stop, |ctx| session.steps(&[labelled(&fewer)], 1, ctx, &|_, _| {})).unwrap_err();
    assert_eq!(fewer.to_string(), "a training of 24 images got 23");
    stop.request();
    let stopped = in_context("flex", &Silent, &stop, |ctx| session.steps(&all, 1, ctx, &|_, _| {})).unwrap_err();
    assert_eq!(stopped.kind(), ErrorKind::Interrupted);
    let diverging = ClassifierConfig { learning_rate: 1e30, warmup_epochs: 0, ..tiny() };
    let mut session = Session::new(scratch(&device), &diverging, 3, &all).unwrap();
    let diverged =
        in_context("flex", &Silent, &Cancel::default(), |ctx| session.steps(&all, 5, ctx, &|_, _| {})).unwrap_err();
    assert!(diverged.to_string().contains("in epoch 1, step 2"), "{diverged}");
}

/// A session that has taken no step has the extractor's features, and the classifier that was drawn.
#[test]
fn sessions_of_one_seed_begin_alike() {
    let (images, device) = (stripes(24, 0), open());
    let begin = |seed| {
        let config = ClassifierConfig { seed, ..tiny() };
        Session::new(scratch(&device), &config, 3, &[labelled(&images)]).unwrap().snapshot().unwrap()
    };
    let Classifier { extractor, head } = begin(3);
    assert_eq!(weights(&extractor), weights(&begin(3).extractor));
    assert_ne!(head, begin(4).head);
    // Different kinds of networks begin with different weights, whatever their seeds.
    let begins = |trained| {
        let config = ClassifierConfig { trained, seed: 3, ..tiny() };
        let begun = Session::new(scratch(&device), &config, 3, &[labelled(&images)]).unwrap().snapshot().unwrap();
        weights(&begun.extractor)
    };
    assert_eq!(begins(Trained::Victim), weights(&extractor));
    assert_ne!(begins(Trained::Surrogate), weights(&extractor));
    assert_ne!(begins(Trained::Surrogate), begins(Trained::Extractor));
    let mut rng = Trained::Victim.weights(3);
    let net = Network::new("resnet8-w4".parse().unwrap(), [8, 8], &mut rng, &device);
    assert_eq!(weights(&extractor), Weights::collect(&net).0);
}
