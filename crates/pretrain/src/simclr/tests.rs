use std::sync::Mutex;

use burn::module::Module;
use hemlock_models::device::{self, Backend};
use hemlock_stage::{Bar, Cancel, Checkpoints, Environment, NoCheckpoints, Progress, Silent};
use ndarray::Array4;

use super::*;
use crate::augment::AugmentConfig;
use crate::config::{OptimizerKind, ProjectorConfig};

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

/// Asks to stop after a number of steps.
#[derive(Clone)]
struct StopAfter(u64, Cancel);

impl Progress for StopAfter {
    fn start(&self, _: &str, _: u64, _: &'static str) -> Box<dyn Bar> {
        Box::new(self.clone())
    }
}

impl Bar for StopAfter {
    fn at(&self, done: u64) {
        if done >= self.0 {
            self.1.request();
        }
    }
    fn say(&self, _: String) {}
}

fn tiny() -> SimclrConfig {
    SimclrConfig {
        arch: "resnet8-w4".parse().unwrap(),
        epochs: 2,
        batch: 8,
        warmup_epochs: 0,
        projector: ProjectorConfig { hidden: 32, out: 8 },
        ..SimclrConfig::default()
    }
}

fn images(n: usize) -> Array4<u8> {
    Array4::from_shape_fn((n, 3, 8, 8), |(i, c, y, x)| {
        ((i * i * 37 + c * 101 + y * (17 + i) + x * (29 + 3 * i)) % 256) as u8
    })
}

fn open() -> Device {
    device::open(Backend::default()).unwrap()
}

/// Runs to the end, or until `limit` steps are done.
fn run(config: &SimclrConfig, checkpoints: &dyn Checkpoints, limit: u64) -> Result<Pretrained, StageError> {
    let cancel = Cancel::default();
    let (env, progress) = (Environment::default(), StopAfter(limit, cancel.clone()));
    let ctx = Context { seed: 0, device: "flex", env: &env, progress: &progress, cancel: &cancel, checkpoints };
    pretrain(config, images(20).view(), None, &open(), &ctx)
}

fn on_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
    pool.build().unwrap().install(work)
}

#[test]
fn a_resumed_run_ends_in_the_same_bytes_whatever_the_threads() {
    for optimizer in [OptimizerKind::AdamW, OptimizerKind::Sgd] {
        let config = SimclrConfig { optimizer, ..tiny() };
        let whole = on_threads(1, || run(&config, &NoCheckpoints, u64::MAX).unwrap());
        let resumed = on_threads(3, || {
            let memory = Memory::default();
            // 20 images make two steps of 8 an epoch: this stops within the second one.
            let stopped = run(&config, &memory, 3).unwrap_err();
            assert_eq!(stopped.kind(), ErrorKind::Interrupted);
            run(&config, &memory, u64::MAX).unwrap()
        });
        assert!(whole.weights == resumed.weights);
        assert_eq!(whole.curve, resumed.curve);
        assert_eq!(whole.curve.len(), 2);
    }
}

#[test]
fn an_unusable_checkpoint_means_starting_over() {
    let expected = run(&tiny(), &NoCheckpoints, u64::MAX).unwrap();
    let memory = Memory::default();
    let other = SimclrConfig { learning_rate: 0.5, ..tiny() };
    run(&other, &memory, u64::MAX).unwrap();
    let good = memory.load().unwrap().unwrap();
    for bytes in [&good[..], &good[..good.len() - 1], &good[..20], b"", b"nonsense"] {
        memory.save(bytes).unwrap();
        let again = run(&tiny(), &memory, u64::MAX).unwrap();
        assert!(again.weights == expected.weights);
    }
}

#[test]
fn random_is_the_initialisation_of_the_same_seed() {
    let config = tiny();
    let random = random(&config, images(20).view(), &open()).unwrap();
    assert!(random.curve.is_empty());
    let mut rng = stream(config.seed, Stream::Init);
    let student = Student::new(config.arch, config.projector, &mut rng, &open());
    let initial = Extractor::new(random.spec.clone(), &student.net, &open());
    assert!(random.weights == initial.to_safetensors().unwrap());
    assert!(random.weights != run(&tiny(), &NoCheckpoints, u64::MAX).unwrap().weights);
}

/// Gradients of one graph over both views: what the halves must add up to.
fn single_graph(run: &Run<'_>, student: &Student, batch: &[usize]) -> (f32, Named) {
    let a = run.forward(student, 0, batch, 0);
    let images = || {
        let augment = &run.config.augment;
        let pixels = render_views(augment, run.images, batch, run.config.seed, 0, 1);
        let [h, w] = run.spec.image_size;
        let data = TensorData::new(pixels, [batch.len(), 3, h, w]);
        Tensor::<4>::from_data(data, &run.device.clone().autodiff())
    };
    let b = a.student.forward(run.spec.normalise(images()));
    let loss = nt_xent(a.embeddings, b, run.config.temperature);
    let gradients = a.student.gradients(&loss.backward());
    (loss.into_scalar::<f32>(), gradients)
}

fn with_run<T>(config: &SimclrConfig, images: &Array4<u8>, work: impl FnOnce(Run<'_>) -> T) -> T {
    let (mean, std) = channel_statistics(images.view());
    let spec =
        ExtractorSpec { arch: config.arch, image_size: [images.len_of(Axis(2)), images.len_of(Axis(3))], mean, std };
    work(Run { config, images: images.view(), monitor: None, spec: &spec, device: &open() })
}

#[test]
fn the_halves_give_the_gradient_of_the_whole() {
    let config = tiny();
    with_run(&config, &images(8), |run| {
        let mut rng = stream(config.seed, Stream::Init);
        let student = Student::new(config.arch, config.projector, &mut rng, run.device);
        let batch: Vec<usize> = (0..8).collect();
        let (expected_loss, expected) = single_graph(&run, &student, &batch);

        let a = run.forward(&student, 0, &batch, 0);
        let b = run.forward(&student, 0, &batch, 1);
        let (loss, [ga, gb]) = run.loss(&a, &b);
        let gradients = merge(a.backward(ga).0, b.backward(gb).0, |a, b| a + b);
        assert_eq!(loss, expected_loss);
        assert_eq!(gradients.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        let mut largest = 0.0f32;
        for (name, gradient) in gradients {
            let difference = (gradient.clone() - expected[&name].clone()).abs().max();
            let scale = gradient.abs().max().into_scalar::<f32>();
            let difference = difference.into_scalar::<f32>();
            assert!(difference <= 1e-5 + 1e-4 * scale, "{name}: {difference} of {scale}");
            largest = largest.max(scale);
        }
        assert!(largest > 1e-3);
    });
}

/// With the weights held still, the running statistics come to those of the batch: in eval mode the
/// network then gives what it gives in training mode.
#[test]
fn running_statistics_are_those_of_the_batches() {
    let config = SimclrConfig {
        epochs: 80,
        learning_rate: 1e-20,
        weight_decay: 0.0,
        augment: AugmentConfig { min_area: 1.0, flip: 0.0, jitter: 0.0, grayscale: 0.0, ..AugmentConfig::default() },
        batch: 20,
        ..tiny()
    };
    // With all aspect ratios but 1 not fitting, a crop of the whole area is the identity.
    let trained = run(&config, &NoCheckpoints, u64::MAX).unwrap();
    let device = open();
    let extractor = Extractor::from_safetensors(trained.spec.clone(), &trained.weights, &device).unwrap();
    let in_eval = extractor.features(images(20).view(), &|_| true).unwrap();

    let mut rng = stream(config.seed, Stream::Init);
    let net = Student::new(config.arch, config.projector, &mut rng, &device).net.train();
    let pixels: Vec<f32> = images(20).iter().map(|&p| f32::from(p) / 255.0).collect();
    let data = TensorData::new(pixels, [20, 3, 8, 8]);
    let x = Tensor::<4>::from_data(data, &device.autodiff());
    let in_training: Vec<f32> = net.forward(trained.spec.normalise(x)).into_data().iter().collect();
    for (a, b) in in_eval.iter().zip(in_training) {
        assert!((a - b).abs() < 0.02 * b.abs().max(1.0), "{a} in eval, {b} in training");
    }
}

#[test]
fn training_lowers_the_loss_without_collapse() {
    let config = SimclrConfig {
        epochs: 30,
        batch: 10,
        learning_rate: 1e-2,
        augment: AugmentConfig { min_area: 0.7, jitter: 0.0, grayscale: 0.0, ..AugmentConfig::default() },
        ..tiny()
    };
    let curve = run(&config, &NoCheckpoints, u64::MAX).unwrap().curve;
    let (first, last) = (&curve[0], &curve[29]);
    assert!(last.loss < 0.8 * first.loss, "{curve:?}");
    assert!(last.spread > 0.5, "{curve:?}");
    assert!(last.learning_rate < first.learning_rate);
}

#[test]
fn divergence_and_misfits_are_errors() {
    let diverging = SimclrConfig { optimizer: OptimizerKind::Sgd, learning_rate: 1e30, ..tiny() };
    let message = run(&diverging, &NoCheckpoints, u64::MAX).unwrap_err().to_string();
    assert!(message.contains("in epoch 1, step 2"), "{message}");
    assert!(message.ends_with("choose a smaller `learning_rate`"), "{message}");
    let large = SimclrConfig { batch: 32, ..tiny() };
    assert_eq!(
        run(&large, &NoCheckpoints, u64::MAX).unwrap_err().to_string(),
        "`batch`: is 32; expected at most the 20 images"
    );
}

#[test]
fn the_monitor_measures_when_it_is_due_and_changes_nothing() {
    let labelled = |n: usize| Images {
        pixels: images(n),
        labels: (0..n as u32).map(|i| i % 2).collect(),
        source_index: Vec::new(),
    };
    let (reference, queries) = (labelled(20), labelled(10));
    let monitor = Monitor { reference: &reference, queries: &queries };
    let config = SimclrConfig { epochs: 3, knn_every: 2, ..tiny() };
    let (env, cancel) = (Environment::default(), Cancel::default());
    let ctx =
        Context { seed: 0, device: "flex", env: &env, progress: &Silent, cancel: &cancel, checkpoints: &NoCheckpoints };
    let with = pretrain(&config, images(20).view(), Some(monitor), &open(), &ctx).unwrap();
    let measured: Vec<bool> = with.curve.iter().map(|e| e.knn.is_some()).collect();
    assert_eq!(measured, [false, true, true]);
    assert!(with.weights == run(&config, &NoCheckpoints, u64::MAX).unwrap().weights);
}

#[test]
fn channel_statistics_are_those_of_the_pixels() {
    let images = Array4::from_shape_fn((2, 3, 1, 2), |(i, c, _, x)| match c {
        0 => [0, 255][x],
        1 => 51,
        _ => (i * 102) as u8,
    });
    let (mean, std) = channel_statistics(images.view());
    assert_eq!(mean, [0.5, 0.2, 0.2]);
    assert_eq!(std, [0.5, 1.0, 0.2]);
}
