use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use burn::module::Module;
use hemlock_models::device::{self, Backend};
use hemlock_stage::{Bar, Cancel, Checkpoints, NoCheckpoints, Progress};
use ndarray::Array4;

use super::*;
use crate::augment::AugmentConfig;
use crate::config::{OptimizerKind, PredictorConfig, ProjectorConfig};
use crate::online_network::{Named, gradients};
use crate::step::{backward, cut, forward, loss, placed, sums};
use hemlock_fixtures::{in_context, on_threads};

const METHODS: [Method; 3] = [Method::Simclr, Method::MocoV3, Method::Supervised];

/// Keeps the newest checkpoint in memory.
#[derive(Default)]
struct Memory(Mutex<Option<Vec<u8>>>);

impl Checkpoints for Memory {
    fn load(&self) -> Result<Option<Vec<u8>>, StageError> {
        Ok(self.0.lock().unwrap().clone())
    }

    fn save(&self, bytes: &[u8]) -> Result<(), StageError> {
        *self.0.lock().unwrap() = Some(bytes.to_vec());
        Ok(())
    }
}

/// Asks for a stop after a number of steps, and counts the steps that were done.
#[derive(Clone, Default)]
struct StopAfter {
    limit: u64,
    cancel: Cancel,
    steps: std::sync::Arc<AtomicU64>,
}

impl Progress for StopAfter {
    fn start(&self, _: &str, _: u64, _: &'static str) -> Box<dyn Bar> {
        Box::new(self.clone())
    }
}

impl Bar for StopAfter {
    fn at(&self, done: u64) {
        self.steps.fetch_add(1, Ordering::Relaxed);
        if done >= self.limit {
            self.cancel.request();
        }
    }
    fn say(&self, _: String) {}
}

fn tiny() -> TrainConfig {
    TrainConfig {
        arch: "resnet8-w4".parse().unwrap(),
        epochs: 2,
        batch: 8,
        warmup_epochs: 0,
        projector: ProjectorConfig { hidden: 32, out: 8 },
        predictor: PredictorConfig { hidden: 32 },
        ..TrainConfig::default()
    }
}

/// Images of noise, with labels of three classes.
fn images(n: usize) -> Images {
    let pixels = Array4::from_shape_fn((n, 3, 8, 8), |(i, c, y, x)| {
        ((i * i * 37 + c * 101 + y * (17 + i) + x * (29 + 3 * i)) % 256) as u8
    });
    Images { pixels: pixels.into(), labels: (0..n as u32).map(|i| i % 3).collect(), source_index: Vec::new() }
}

fn open() -> Device {
    device::open(Backend::default()).unwrap()
}

/// Trains to the end, or until `limit` steps are done, and returns how many were done.
fn train_on(
    method: Method,
    config: &TrainConfig,
    images: &Images,
    monitor: Option<Monitor<'_>>,
    checkpoints: &dyn Checkpoints,
    limit: u64,
) -> (Result<Pretrained, StageError>, u64) {
    let progress = StopAfter { limit, ..StopAfter::default() };
    let trained = in_context("flex", &progress, &progress.cancel, |ctx| {
        let ctx = Context { checkpoints, ..*ctx };
        pretrain(method, config, images, monitor, &vec![open(); config.devices], &ctx)
    });
    (trained, progress.steps.load(Ordering::Relaxed))
}

fn run(config: &TrainConfig, checkpoints: &dyn Checkpoints) -> Result<Pretrained, StageError> {
    train_on(Method::Simclr, config, &images(20), None, checkpoints, u64::MAX).0
}

/// With a checkpoint after every step, no step is done twice; otherwise, those since the last epoch are.
#[test]
fn a_resumed_run_ends_in_the_same_bytes_whatever_the_threads() {
    let optimizers = [OptimizerKind::AdamW, OptimizerKind::Sgd, OptimizerKind::Lars];
    for (method, optimizer) in METHODS.into_iter().zip(optimizers) {
        let config = TrainConfig { optimizer, ..tiny() };
        let train = |config: &TrainConfig, checkpoints: &dyn Checkpoints, limit| {
            train_on(method, config, &images(24), None, checkpoints, limit)
        };
        let whole = on_threads(1, || train(&config, &NoCheckpoints, u64::MAX).0.unwrap());
        assert_eq!(whole.curve.len(), 2);
        // 24 images are three steps of 8 per epoch, so this stops within the second epoch.
        for (checkpoint_minutes, again) in [(1e-9, 1), (5.0, 3)] {
            let config = TrainConfig { checkpoint_minutes, ..config.clone() };
            let (resumed, steps) = on_threads(5, || {
                let memory = Memory::default();
                let (stopped, steps) = train(&config, &memory, 5);
                assert_eq!((stopped.unwrap_err().kind(), steps), (ErrorKind::Interrupted, 5));
                // The interval of checkpoints may change between two runs.
                train(&TrainConfig { checkpoint_minutes: 1.0, ..config.clone() }, &memory, u64::MAX)
            });
            let resumed = resumed.unwrap();
            assert_eq!(steps, again, "{method:?}");
            assert!(whole.weights == resumed.weights, "{method:?}");
            assert_eq!(whole.curve, resumed.curve, "{method:?}");
        }
    }
}

#[test]
fn an_unusable_checkpoint_means_starting_over() {
    let expected = run(&tiny(), &NoCheckpoints).unwrap();
    let memory = Memory::default();
    let other = TrainConfig { learning_rate: 0.5, ..tiny() };
    run(&other, &memory).unwrap();
    let good = memory.load().unwrap().unwrap();
    for bytes in [&good[..], &good[..good.len() - 1], &good[..20], b"", b"nonsense"] {
        memory.save(bytes).unwrap();
        let again = run(&tiny(), &memory).unwrap();
        assert!(again.weights == expected.weights);
    }
}

#[test]
fn random_is_the_initialisation_of_the_same_seed() {
    let config = tiny();
    let random = random(&config, images(20).pixels.view(), &open()).unwrap();
    assert!(random.curve.is_empty());
    let mut rng = Trained::Extractor.weights(config.seed());
    let net = Network::new(config.arch, [8, 8], &mut rng, &open());
    let initial = Extractor::new(random.spec.clone(), &net, &open());
    assert!(random.weights == initial.to_safetensors().unwrap());
    assert!(random.weights != run(&tiny(), &NoCheckpoints).unwrap().weights);
}

/// Loss and gradients of a step in two halves, and of the same step in one gradient graph.
fn both_ways<O: TrainingObjective>(
    run: &TrainingRun<'_>,
    (objective, online): (O, O::OnlineNetwork),
) -> [(f32, Named); 2] {
    let batch: Vec<usize> = (0..8).collect();
    let both = || {
        let [a, b] = objective.parts(&batch);
        [run.shards(a, 0, 0), run.shards(b, 1, 0)]
            .map(|shards| forward(&objective, placed(&online, shards), run.device))
    };
    let [a, b] = both();
    let (value, [ga, gb]) = loss(&objective, [&a.embeddings, &b.embeddings], [a.target, b.target]);
    let (ga, gb) = (cut(&a.shards, &ga), cut(&b.shards, &gb));
    let [halves, _] = sums([backward(a.shards, ga), backward(b.shards, gb)].concat(), run.device);

    let [mut a, b] = both();
    let (online, first) = a.shards.remove(0);
    // The second half again, now through the first one's copy.
    let second = online.forward(run.render(&objective.parts(&batch)[1], 0, run.device)).embeddings;
    let whole = objective.loss([first, second], [a.target, b.target]);
    let by_parameter = whole.backward();
    [(value.into_scalar::<f32>(), halves), (whole.into_scalar::<f32>(), gradients(&online, &by_parameter))]
}

/// Two devices take one half each and give the same bytes, as both compute the same. More devices cut the halves, which
/// changes the batch statistics.
#[test]
fn devices_share_a_step() {
    for method in METHODS {
        let train = |devices| {
            let config = TrainConfig { devices, ..tiny() };
            train_on(method, &config, &images(20), None, &NoCheckpoints, u64::MAX).0.unwrap()
        };
        let (one, two, four) = (train(1), train(2), train(4));
        assert!(one.weights == two.weights, "{method:?}");
        assert!(one.weights != four.weights, "{method:?}");
        let last = |trained: &Pretrained| trained.curve.last().unwrap().loss;
        assert!((last(&four) / last(&one) - 1.0).abs() < 0.3, "{method:?}: {} {}", last(&four), last(&one));
    }
}

#[test]
fn the_halves_give_the_gradient_of_the_whole() {
    let (config, images, device) = (tiny(), images(8), open());
    for method in METHODS {
        let (spec, net, mut rng) =
            start(config.arch, EXTRACTOR, config.seed(), &[images.pixels.view()], &device).unwrap();
        let (images, spec, device) = (&images, &spec, &device);
        let devices = std::slice::from_ref(device);
        let run = TrainingRun {
            method,
            config: &config,
            images,
            monitor: None,
            spec,
            devices,
            device,
            pair: PoolPair::halves(),
        };
        let rng = &mut rng;
        let [(loss, gradients), (expected_loss, expected)] = match method {
            Method::Simclr => both_ways(&run, Simclr::new(&config, net, rng, device)),
            Method::MocoV3 => both_ways(&run, MocoV3::new(&config, net, rng, device)),
            Method::Supervised => both_ways(&run, Supervised::new(&config, &images.labels, net, rng, device).unwrap()),
        };
        assert!((loss - expected_loss).abs() < 1e-6 * loss, "{method:?}: {loss} {expected_loss}");
        assert_eq!(gradients.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        let mut largest = 0.0f32;
        for (name, gradient) in gradients {
            let difference = (gradient.clone() - expected[&name].clone()).abs().max();
            let scale = gradient.abs().max().into_scalar::<f32>();
            let difference = difference.into_scalar::<f32>();
            assert!(difference <= 1e-5 + 1e-4 * scale, "{method:?} {name}: {difference} of {scale}");
            largest = largest.max(scale);
        }
        assert!(largest > 1e-3);
    }
}

/// If the weights do not change, the running statistics converge to those of the batch, and the network gives the same
/// in inference mode as in training mode.
#[test]
fn running_statistics_are_those_of_the_batches() {
    let config = TrainConfig {
        epochs: 80,
        learning_rate: 1e-20,
        weight_decay: 0.0,
        augment: AugmentConfig { min_area: 1.0, flip: 0.0, jitter: 0.0, grayscale: 0.0, ..AugmentConfig::default() },
        batch: 20,
        ..tiny()
    };
    // With all aspect ratios but 1 not fitting, a crop of the whole area is the identity.
    let trained = run(&config, &NoCheckpoints).unwrap();
    let device = open();
    let extractor = Extractor::from_safetensors(trained.spec.clone(), &trained.weights, &device).unwrap();
    let in_eval = extractor.features(images(20).pixels.view(), &|_| true).unwrap();

    let mut rng = Trained::Extractor.weights(config.seed());
    let net = Network::new(config.arch, [8, 8], &mut rng, &device).train();
    let pixels: Vec<f32> = images(20).pixels.view().iter().map(|&p| f32::from(p) / 255.0).collect();
    let data = TensorData::new(pixels, [20, 3, 8, 8]);
    let x = Tensor::<4>::from_data(data, &device.autodiff());
    let in_training: Vec<f32> = net.forward(trained.spec.normalise(x)).into_data().iter().collect();
    for (a, b) in in_eval.iter().zip(in_training) {
        assert!((a - b).abs() < 0.02 * b.abs().max(1.0), "{a} in eval, {b} in training");
    }
}

/// A configuration that the small network learns with.
fn learning() -> TrainConfig {
    TrainConfig {
        epochs: 30,
        batch: 10,
        learning_rate: 1e-2,
        augment: AugmentConfig { min_area: 0.7, jitter: 0.0, grayscale: 0.0, ..AugmentConfig::default() },
        ..tiny()
    }
}

#[test]
fn training_lowers_the_loss_without_collapse() {
    // The momentum is small because there are few steps.
    let config = TrainConfig { momentum: 0.8, ..learning() };
    for (method, images) in [(Method::Simclr, images(20)), (Method::MocoV3, stripes(20, 0))] {
        let curve = train_on(method, &config, &images, None, &NoCheckpoints, u64::MAX).0.unwrap().curve;
        let (first, last) = (&curve[0], &curve[29]);
        assert!(last.loss < 0.8 * first.loss, "{method:?} {curve:?}");
        assert!(last.spread > 0.5, "{method:?} {curve:?}");
        assert!(last.learning_rate < first.learning_rate);
    }
}

/// Stripes of two directions, which are the classes. As their phase varies, no pixel tells the class, but a convolution
/// does.
fn stripes(n: usize, from: usize) -> Images {
    let pixels = Array4::from_shape_fn((n, 3, 8, 8), |(i, _, y, x)| {
        let across = if i % 2 == 0 { x } else { y };
        (60 + 130 * ((across + (from + i) / 2) / 2 % 2) + (i * 31 + y * 17 + x * 7) % 40) as u8
    });
    Images { pixels: pixels.into(), labels: (0..n as u32).map(|i| i % 2).collect(), source_index: Vec::new() }
}

#[test]
fn supervised_training_learns_classes_that_no_pixel_shows() {
    let (reference, queries) = (stripes(40, 0), stripes(20, 5));
    let config = TrainConfig { epochs: 12, knn_every: 12, ..learning() };
    let monitor = Some(Monitor { reference: &reference, queries: Some(&queries) });
    let curve = train_on(Method::Supervised, &config, &reference, monitor, &NoCheckpoints, u64::MAX).0.unwrap().curve;
    assert!(curve[0].loss > 0.5 && curve[11].loss < 0.25, "{curve:?}");
    assert_eq!(curve[11].knn, Some(1.0), "{curve:?}");
    assert!(curve[11].spread > 0.3, "{curve:?}");
}

/// Weight decay shrinks the weights to nothing, and the steps are too small to restore them.
#[test]
fn a_collapse_is_an_error_unless_it_is_allowed() {
    for method in METHODS {
        let collapsing = TrainConfig { epochs: 10, learning_rate: 1e-6, weight_decay: 9e5, ..learning() };
        let memory = Memory::default();
        let train = |config: &TrainConfig| train_on(method, config, &images(20), None, &memory, u64::MAX);
        let error = train(&collapsing).0.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Numeric);
        assert!(
            error.to_string().contains("the network has collapsed: the spread of its embeddings is 0.0"),
            "{error}"
        );
        // Allowing the collapse does not train again.
        let (allowed, steps) = train(&TrainConfig { allow_collapse: true, ..collapsing });
        let curve = allowed.unwrap().curve;
        assert_eq!(steps, 0);
        assert!(!curve[0].collapsed() && curve[9].collapsed(), "{method:?} {curve:?}");
    }
}

#[test]
fn divergence_and_misfits_are_errors() {
    let diverging = TrainConfig { optimizer: OptimizerKind::Sgd, learning_rate: 1e30, ..tiny() };
    let message = run(&diverging, &NoCheckpoints).unwrap_err().to_string();
    assert!(message.contains("in epoch 1, step 2"), "{message}");
    assert!(message.ends_with("choose a smaller `learning_rate`"), "{message}");
    let large = TrainConfig { batch: 32, ..tiny() };
    assert_eq!(run(&large, &NoCheckpoints).unwrap_err().to_string(), "`batch`: is 32; expected at most the 20 images");
    let alike = Images { labels: vec![0; 20], ..images(20) };
    let error = train_on(Method::Supervised, &tiny(), &alike, None, &NoCheckpoints, u64::MAX).0.unwrap_err();
    assert_eq!(error.to_string(), "`method`: is supervised; expected another one for images of a single class");
}

#[test]
fn the_monitor_measures_when_it_is_due_and_changes_nothing() {
    let (reference, queries) = (images(20), images(10));
    let monitor = Monitor { reference: &reference, queries: Some(&queries) };
    for method in METHODS {
        let config = TrainConfig { epochs: 3, knn_every: 2, ..tiny() };
        let train = |monitor| train_on(method, &config, &reference, monitor, &NoCheckpoints, u64::MAX).0.unwrap();
        let with = train(Some(monitor));
        let measured: Vec<bool> = with.curve.iter().map(|e| e.knn.is_some()).collect();
        assert_eq!(measured, [false, true, true]);
        assert!(with.weights == train(None).weights);
    }
}

#[test]
fn channel_statistics_are_those_of_the_pixels() {
    let images = Array4::from_shape_fn((2, 3, 1, 2), |(i, c, _, x)| match c {
        0 => [0, 255][x],
        1 => 51,
        _ => (i * 102) as u8,
    });
    let (mean, std) =
        channel_statistics(&[images.slice_axis(Axis(0), (..1).into()), images.slice_axis(Axis(0), (1..).into())]);
    assert_eq!(mean, [0.5, 0.2, 0.2]);
    assert_eq!(std, [0.5, 1.0, 0.2]);
}
