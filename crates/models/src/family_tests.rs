//! Compares imported transformers of every family and layout with the libraries that they come from.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::SafeTensors;
use serde::Deserialize;

use crate::device::{self, Backend};
use crate::extractor::{Extractor, ExtractorSpec};
use crate::import::WeightsChoice;

/// `tests/data/families.py` writes the files.
#[derive(Deserialize)]
struct Family {
    name: String,
    arch: String,
    sizes: Vec<usize>,
}

fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    file.tensor(name).unwrap().data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// The largest difference, relative to the largest value.
fn off(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    found.iter().zip(expected).fold(0.0f32, |m, (a, b)| m.max((a - b).abs())) / largest
}

#[test]
fn features_and_image_gradients_are_those_of_the_library() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let families: Vec<Family> = serde_json::from_slice(&std::fs::read(data.join("families.json")).unwrap()).unwrap();
    let device = device::open(Backend::default()).unwrap();
    let mut wrong = BTreeMap::new();
    for Family { name, arch, sizes } in &families {
        let path = data.join(format!("families/{name}.safetensors"));
        let bytes = std::fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        for size in sizes {
            let arch = arch.parse().unwrap_or_else(|e| panic!("{name}: {e}"));
            let spec = ExtractorSpec { arch, image_size: [*size; 2], mean: [0.0; 3], std: [1.0; 3] };
            let ignore = ["probe.*".to_owned()];
            let choice = WeightsChoice { ignore: &ignore, ..WeightsChoice::default() };
            let extractor = match Extractor::import(spec, &path, choice, &device) {
                Ok(imported) => imported.extractor,
                Err(e) => {
                    let cause = std::error::Error::source(&e).map(ToString::to_string).unwrap_or_default();
                    wrong.insert(format!("{name} at {size}"), format!("{e}: {cause}"));
                    continue;
                }
            };
            let of = |what: &str| floats(&file, &format!("probe.{size}.{what}"));
            let images = file.tensor(&format!("probe.{size}.images")).unwrap();
            let pixels: Vec<f32> = images.data().iter().map(|p| f32::from(*p) / 255.0).collect();
            let features = off(&extractor.forward(&pixels), &of("features"));
            let gradient = extractor.vjp(&pixels, |_, z| (0..z.len()).map(|i| (i as f32).cos()).collect());
            let gradient = off(&gradient, &of("gradient"));
            if features.max(gradient).is_nan() || features.max(gradient) > 1e-5 {
                wrong.insert(format!("{name} at {size}"), format!("features {features}, gradient {gradient}"));
            }
        }
    }
    assert!(families.len() >= 25 && wrong.is_empty(), "{wrong:#?}");
}
