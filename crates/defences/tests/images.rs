//! Transformations of images, compared with Pillow, torchvision and numpy (`data/images.py`).

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use hemlock_defences::images::ImageTransform;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

fn reference() -> (usize, Value) {
    let reference: Value = serde_json::from_str(include_str!("data/images.json")).unwrap();
    (reference["side"].as_u64().unwrap() as usize, reference)
}

fn bytes(reference: &Value, name: &str) -> Vec<u8> {
    let values = reference[name].as_array().unwrap_or_else(|| panic!("there is no `{name}`"));
    values.iter().map(|value| value.as_u64().unwrap() as u8).collect()
}

fn apply(transform: ImageTransform, image: &[u8], side: usize, seed: u64) -> Vec<u8> {
    let mut made = image.to_vec();
    transform.apply(&mut made, [side; 2], &mut ChaCha8Rng::seed_from_u64(seed)).unwrap();
    made
}

fn differences(a: &[u8], b: &[u8]) -> (u8, f64) {
    let each: Vec<u8> = a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).collect();
    (each.iter().copied().max().unwrap(), each.iter().map(|d| f64::from(*d)).sum::<f64>() / each.len() as f64)
}

#[test]
fn images_are_those_of_pillow_torchvision_and_numpy() {
    let (side, reference) = reference();
    let image = bytes(&reference, "image");
    let depths = [1, 5].map(|bits| (format!("bit-depth {bits}"), ImageTransform::BitDepth { bits }));
    let sizes = [0.1, 0.5, 0.8].map(|factor| (format!("resize {factor}"), ImageTransform::Resize { factor }));
    let exact = [("grey".to_owned(), ImageTransform::Grey)].into_iter().chain(depths).chain(sizes);
    for (name, transform) in exact {
        assert_eq!(differences(&apply(transform, &image, side, 0), &bytes(&reference, &name)).0, 0, "{name}");
    }
    for sigma in [0.5, 2.0] {
        let name = format!("blur {sigma:.1}");
        let (most, mean) =
            differences(&apply(ImageTransform::Blur { sigma }, &image, side, 0), &bytes(&reference, &name));
        assert!(most <= 1 && mean < 0.01, "{name}: {most}, {mean}");
    }
    // The codecs round differently, by less than a quantisation step.
    for quality in [1, 10, 75] {
        let (made, expected) =
            (apply(ImageTransform::Jpeg { quality }, &image, side, 0), bytes(&reference, &format!("jpeg {quality}")));
        let (_, mean) = differences(&made, &expected);
        let (_, changed) = differences(&image, &expected);
        assert!(mean < 0.15 * changed, "quality {quality}: {mean} apart, where JPEG changes {changed}");
    }
    // What changes nothing.
    assert_eq!(apply(ImageTransform::BitDepth { bits: 8 }, &image, side, 0), image);
}

#[test]
fn noise_has_its_standard_deviation_and_follows_its_stream() {
    let (side, image) = (40, vec![128; 3 * 40 * 40]);
    let noise = ImageTransform::Noise { std: 8.0 };
    let made = apply(noise, &image, side, 1);
    let moments: Vec<f64> = made.iter().map(|x| f64::from(*x) - 128.0).collect();
    let n = moments.len() as f64;
    let (mean, square) = (moments.iter().sum::<f64>() / n, moments.iter().map(|x| x * x).sum::<f64>() / n);
    // Rounding adds 1/12.
    assert!(mean.abs() < 0.5 && (square - 64.0 - 1.0 / 12.0).abs() < 4.0, "{mean} {square}");
    assert_eq!(apply(noise, &image, side, 1), made);
    assert_ne!(apply(noise, &image, side, 2), made);
    let black = apply(ImageTransform::Noise { std: 100.0 }, &[0; 48], 4, 1);
    assert!(black.contains(&0) && black.iter().any(|x| *x > 0), "levels saturate: {black:?}");
}

#[test]
fn parameters_have_ranges_and_images_a_size() {
    let refused = |transform: ImageTransform| {
        let mut image = vec![0; 48];
        let refused = transform.apply(&mut image, [4, 4], &mut ChaCha8Rng::seed_from_u64(0));
        refused.unwrap_err().to_string()
    };
    for (transform, expected) in [
        (ImageTransform::Jpeg { quality: 0 }, "`quality` is 0, but it must be 1 to 100"),
        (ImageTransform::Jpeg { quality: 101 }, "`quality` is 101"),
        (ImageTransform::BitDepth { bits: 0 }, "`bits` is 0, but it must be 1 to 8"),
        (ImageTransform::BitDepth { bits: 9 }, "`bits` is 9"),
        (ImageTransform::Blur { sigma: -1.0 }, "`sigma` is -1, but it must be above 0"),
        (ImageTransform::Blur { sigma: f64::NAN }, "`sigma` is NaN"),
        (ImageTransform::Resize { factor: 1.0 }, "`factor` is 1, but it must be above 0 and below 1"),
        (ImageTransform::Noise { std: 0.0 }, "`std` is 0, but it must be above 0"),
    ] {
        let message = refused(transform);
        assert!(message.contains(expected), "{message}");
    }
    let sized = |size, bytes: usize| {
        let half = ImageTransform::Resize { factor: 0.5 };
        half.apply(&mut vec![0; bytes], size, &mut ChaCha8Rng::seed_from_u64(0)).unwrap_err().to_string()
    };
    assert!(sized([4, 4], 47).contains("47 bytes are no image of 4 x 4 pixels"));
    assert!(sized([4, 2], 24).contains("not square"));
    // A single pixel has nothing around it.
    let one = [ImageTransform::Blur { sigma: 2.0 }, ImageTransform::Resize { factor: 0.5 }];
    assert!(one.iter().all(|transform| apply(*transform, &[9, 8, 7], 1, 0) == [9, 8, 7]));
}
