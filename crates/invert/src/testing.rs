//! Small networks and images for tests.

use hemlock_models::{Backend, Extractor, ExtractorSpec, Network, device};
use hemlock_stage::{Cancel, Context, Environment, NoCheckpoints, Silent};
use ndarray::Array4;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// A network of random weights.
pub(crate) fn extractor(arch: &str, side: usize) -> Extractor {
    let device = device::open(Backend::default()).unwrap();
    let spec = ExtractorSpec { arch: arch.parse().unwrap(), image_size: [side, side], mean: [0.5; 3], std: [0.25; 3] };
    let net = Network::new(spec.arch, spec.image_size, &mut ChaCha8Rng::seed_from_u64(1), &device);
    Extractor::new(spec, &net, &device)
}

pub(crate) fn images(n: usize, side: usize, salt: usize) -> Array4<u8> {
    Array4::from_shape_fn((n, 3, side, side), |(i, c, y, x)| {
        ((i * 37 + c * 101 + y * 17 + x * 29 + (i + 1) * x * salt) % 256) as u8
    })
}

pub(crate) fn context<T>(run: impl FnOnce(&Context) -> T) -> T {
    let (env, cancel) = (Environment::default(), Cancel::default());
    run(&Context {
        seed: 0,
        device: "flex",
        env: &env,
        progress: &Silent,
        cancel: &cancel,
        checkpoints: &NoCheckpoints,
        scratch: &std::env::temp_dir(),
    })
}

pub(crate) fn on_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}
