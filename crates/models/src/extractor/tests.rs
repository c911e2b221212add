//! Tests of extractors on networks of random weights.

use super::*;
use crate::device::{self, Backend};
use hemlock_process::{Description, Fault};
use hemlock_streams::Purpose;
use ndarray::Array4;

fn extractor(arch: &str) -> Extractor {
    sized(arch, 8)
}

fn sized(arch: &str, side: usize) -> Extractor {
    let device = device::open(Backend::default()).unwrap();
    let spec = ExtractorSpec {
        arch: arch.parse().unwrap(),
        image_size: [side, side],
        mean: [0.5, 0.4, 0.3],
        std: [0.2, 0.25, 0.3],
    };
    let net = Network::new(spec.arch, spec.image_size, &mut Purpose::Test.of(1), &device);
    Extractor::new(spec, &net, &device)
}

fn images(n: usize) -> Array4<u8> {
    Array4::from_shape_fn((n, 3, 8, 8), |(i, c, y, x)| ((i * 37 + c * 101 + y * 17 + x * 29) % 256) as u8)
}

#[test]
fn features_do_not_depend_on_threads_or_on_how_many_are_asked_for() {
    let extractor = extractor("resnet8-w4");
    let images = images(150);
    let extract = |threads, n: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap().install(|| {
            let some = images.slice_axis(Axis(0), Slice::from(..n));
            extractor.features(some, &|_| true).unwrap()
        })
    };
    let one = extract(1, 150);
    assert_eq!(one.dim(), (150, 16));
    assert_eq!(one, extract(3, 150));
    assert_eq!(one.slice_axis(Axis(0), Slice::from(..70)), extract(3, 70));
}

#[test]
fn extraction_stops_when_asked_and_refuses_other_sizes() {
    let extractor = extractor("resnet8-w4");
    let stopped = extractor.features(images(200).view(), &|done| done < 100);
    assert_eq!(stopped.unwrap_err(), ExtractError::Interrupted);
    let wide = Array4::zeros((1, 3, 8, 9));
    assert_eq!(
        extractor.features(wide.view(), &|_| true).unwrap_err().to_string(),
        "images have the shape [1, 3, 8, 9]: the extractor expects [n, 3, 8, 8]; `size` in [dataset.downstream] \
         sets it"
    );
}

#[test]
fn normalisation_is_per_channel() {
    let extractor = extractor("resnet8-w4");
    let grey = Tensor::<4>::full([1, 3, 1, 1], 0.5, extractor.device());
    let data = extractor.spec().unwrap().normalise(grey).into_data();
    let expected = [0.0, 0.1 / 0.25, 0.2 / 0.3];
    for (value, expected) in data.iter::<f32>().zip(expected) {
        assert!((value - expected).abs() < 1e-6);
    }
}

#[test]
fn safetensors_round_trips_and_names_what_is_missing() {
    let extractor = extractor("resnet18-w4");
    let bytes = extractor.to_safetensors().unwrap();
    let load = |spec, bytes: &[u8]| Extractor::from_safetensors(spec, bytes, extractor.device());
    let again = load(extractor.spec().unwrap().clone(), &bytes).unwrap();
    assert_eq!(again.to_safetensors().unwrap(), bytes);
    let images = images(5);
    let features = |e: &Extractor| e.features(images.view(), &|_| true).unwrap();
    assert_eq!(features(&again), features(&extractor));

    let mut other = extractor.spec().unwrap().clone();
    other.arch = "resnet20-w4".parse().unwrap();
    let message = load(other, &bytes).unwrap_err().to_string();
    assert!(message.contains("missing: `layer1.2.bn1.bias`"), "{message}");
    assert!(message.contains("unexpected: `layer2.0.downsample.0.weight`"), "{message}");
}

/// The gradient of a weighted sum of features agrees with central differences, and taking it
/// leaves the running statistics alone.
#[test]
fn image_gradients_match_finite_differences() {
    let extractor = extractor("resnet8-w4");
    let before = extractor.to_safetensors().unwrap();
    let pixels: Vec<f32> = images(1).iter().map(|&p| f32::from(p) / 255.0).collect();
    let weights: Vec<f32> = (0..16).map(|i| i as f32).collect();
    let gradient = extractor.vjp(&pixels, |_, _| weights.clone()).unwrap();
    let at = |i: usize, step: f32| {
        let mut moved = pixels.clone();
        moved[i] += step;
        extractor.forward(&moved).unwrap().iter().zip(&weights).map(|(z, w)| z * w).sum::<f32>()
    };
    let largest = gradient.iter().fold(0.0f32, |m, g| m.max(g.abs()));
    for i in [0, 17, 70, 130, 191] {
        let difference = (at(i, 1e-3) - at(i, -1e-3)) / 2e-3;
        assert!((gradient[i] - difference).abs() < 0.02 * largest, "pixel {i}: {} against {difference}", gradient[i]);
    }
    assert_eq!(extractor.to_safetensors().unwrap(), before);
}

/// Our own kernels and burn compute the same features and gradients.
#[test]
fn both_kernels_agree() {
    for arch in [
        "resnet8-w4",
        "resnet20",
        "resnet18-w8",
        "resnet14-b-w4",
        "resnet110-w4",
        "resnet18-pool-w8",
        "resnet18-pad2-w4",
        "resnet50-imagenet-w4",
        "resnet50-wide-w4",
        "resnet101-pool-w4",
        "vit-nano-p4-d3",
        "vit-nano-p4-d2 readout=mean",
        "dinov2-reg-small-p4-d3 readout=class-mean last=2",
        "dinov3-small-plus-p4-d2 last=2",
        "clip-base-p4-d1",
        "siglip-base-p8-d1",
        "clip-resnet50-w4 projection=8",
        "convnext-atto-w8",
        "convnextv2-atto-w20 norm_eps=1e-3",
    ] {
        // These networks are 32 times smaller than their images.
        let side = if arch.starts_with("clip-resnet") || arch.starts_with("convnext") { 64 } else { 8 };
        let own = sized(arch, side);
        let mut burn = own.clone();
        let Body::Native(native) = &mut burn.body else { panic!("{arch} is a network") };
        native.kernels = match &native.net {
            Network::ResNet(net) => Kernels::Folded(Box::new(Folded::new(net))),
            Network::ClipResNet(net) => Kernels::Folded(Box::new(Folded::of_clip(net))),
            Network::ConvNext(_) | Network::Vit(_) => Kernels::Plain,
        };
        let one = 3 * side * side;
        let pixels: Vec<f32> = (0..6 * one).map(|i| ((i * 37 + i / one * 101) % 256) as f32 / 255.0).collect();
        let close = |a: &[f32], b: &[f32]| {
            let largest = b.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            let off = a.iter().zip(b).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(a.len() == b.len() && largest > 0.0 && off < 1e-5 * largest, "{arch}: {off} of {largest}");
        };
        close(&own.forward(&pixels).unwrap(), &burn.forward(&pixels).unwrap());
        // The features of an image do not depend on the images that are processed with it.
        let d = own.feature_dim();
        // A layer norm's derivative is zero along its output.
        let by = |row: usize, z: &[f32]| z.iter().enumerate().map(|(i, z)| z * z + (row + i / d) as f32).collect();
        close(&own.vjp(&pixels, by).unwrap(), &burn.vjp(&pixels, by).unwrap());
        // Nor on the forward passes that are made before the backward pass.
        let half = |from: usize| &pixels[from * one..(from + 3) * one];
        let caches = [0, 3].map(|from| own.forward_cached(half(from)).unwrap().unwrap());
        let features = caches.iter().flat_map(|cache| cache.features.clone()).collect::<Vec<_>>();
        assert_eq!(features, own.forward(&pixels).unwrap());
        let back = caches.into_iter().enumerate().rev().map(|(i, cache)| {
            let grad_features = by(3 * i, &cache.features);
            own.backward(cache, half(3 * i), &grad_features).unwrap()
        });
        let back: Vec<Vec<f32>> = back.collect();
        assert_eq!([&back[1][..], &back[0]].concat(), own.vjp(&pixels, by).unwrap(), "{arch}");
    }
}

/// A network behind functions. What is wrong with it is one of the faults, or nothing.
#[derive(Debug)]
struct Behind {
    about: Description,
    network: Extractor,
    wrong: &'static str,
}

impl Behind {
    fn of(network: &Extractor, wrong: &'static str) -> Extractor {
        let (features, image_size) = (network.feature_dim(), network.image_size());
        let about = Description { name: "net".to_owned(), features, image_size, keep: 1 };
        let device = network.device();
        Extractor::functions(Arc::new(Self { about, network: network.clone(), wrong }), device)
    }
}

impl ExtractorFunctions for Behind {
    fn about(&self) -> &Description {
        &self.about
    }

    fn forward(&self, pixels: &[f32]) -> Result<Vec<f32>, Fault> {
        let mut made = self.network.forward(pixels).unwrap();
        match self.wrong {
            "short" => drop(made.pop()),
            "infinite" => made[self.about.features + 1] = f32::INFINITY,
            "raises" => return Err(Fault::Refused { request: "forward", message: "no".to_owned() }),
            _ => {}
        }
        Ok(made)
    }

    fn forward_kept(&self, pixels: &[f32]) -> Result<(Vec<f32>, Option<KeptBackward>), Fault> {
        let (network, pixels) = (self.network.clone(), pixels.to_vec());
        let features = self.forward(&pixels)?;
        let back = move |by: &[f32]| Ok(network.vjp(&pixels, |_, _| by.to_vec()).unwrap());
        Ok((features, (self.wrong != "forgets").then(|| Box::new(back) as KeptBackward)))
    }

    fn vjp(&self, pixels: &[f32], grad_features: &[f32]) -> Result<Vec<f32>, Fault> {
        Ok(self.network.vjp(pixels, |_, _| grad_features.to_vec()).unwrap())
    }
}

#[test]
fn functions_of_a_network_give_its_features_and_gradients() {
    let network = extractor("resnet8-w4");
    let (images, pixels) = (images(70), vec![0.25f32; 2 * 3 * 64]);
    let twice = |_: usize, z: &[f32]| z.iter().map(|z| 2.0 * z).collect::<Vec<f32>>();
    let expected = network.vjp(&pixels, twice).unwrap();
    for wrong in ["nothing", "forgets"] {
        let behind = Behind::of(&network, wrong);
        assert!(behind.on_host() && behind.network().is_err());
        assert_eq!(
            behind.features(images.view(), &|_| true).unwrap(),
            network.features(images.view(), &|_| true).unwrap()
        );
        assert_eq!(behind.vjp(&pixels, twice).unwrap(), expected);
        let cache = behind.forward_cached(&pixels).unwrap();
        assert_eq!(cache.is_some(), wrong == "nothing");
        if let Some(cache) = cache {
            let by = twice(0, &cache.features);
            assert_eq!(behind.backward(cache, &pixels, &by).unwrap(), expected);
        }
    }
}

#[test]
fn what_functions_do_wrong_is_said() {
    let network = extractor("resnet8-w4");
    for (wrong, said) in [
        ("short", "the extractor `net` answered `forward` with 31 numbers; expected 16 for each of 2 images"),
        ("infinite", "the extractor `net` answered `forward` with inf for image 1, value 1; expected finite numbers"),
        ("raises", "the extractor `net` cannot answer `forward`: no"),
    ] {
        let error = Behind::of(&network, wrong).forward(&vec![0.5; 2 * 3 * 64]).unwrap_err();
        assert_eq!(error.to_string(), said);
    }
}
