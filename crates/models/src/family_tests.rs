//! Compares imported networks of every family and layout with the libraries that they come from.
//!
//! `HEMLOCK_FAMILIES` names a folder with other files than those of the repository, such as networks of full size
//! (`benches/peer/checkpoints.py families`).

use std::path::{Path, PathBuf};

use burn::tensor::Device;

use safetensors::SafeTensors;
use serde::Deserialize;

use crate::device::{self, Backend};
use crate::extractor::{Extractor, ExtractorSpec};
use crate::import::WeightsChoice;

/// The largest difference that is allowed, as a share of the largest value.
const TOLERANCE: f32 = 1e-4;
/// The same for the gradient of a large network with ReLUs, in the Euclidean norm: where a ReLU's input is within
/// rounding of zero, its derivative is the other one, and a few pixels have another gradient. PyTorch's own gradient in
/// single precision differs from that in double precision by some 1e-3.
const RECTIFIED: f32 = 1e-2;

/// `tests/data/families.py` writes the files of transformers, `tests/data/resnets.py` those of residual networks, and
/// `tests/data/checkpoints.py` those of trainers.
#[derive(Deserialize)]
struct Family {
    name: String,
    families: String,
    arch: String,
    sizes: Vec<usize>,
    /// The file of weights, if they are not beside the probes.
    file: Option<String>,
    /// The set of weights that is meant.
    branch: Option<String>,
    /// Whether it is a large network with ReLUs.
    #[serde(default)]
    rectified: bool,
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

/// The difference in the Euclidean norm, relative to the norm.
fn off_in_norm(found: &[f32], expected: &[f32]) -> f32 {
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    (difference / norm(&mut expected.iter().copied())) as f32
}

/// The largest differences for images of one size, of features and of image gradients.
fn differences(family: &Family, path: &Path, size: usize, device: &Device) -> Result<[f32; 2], String> {
    let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| e.to_string())?;
    let arch = family.arch.parse().map_err(|e| format!("{e}"))?;
    let spec = ExtractorSpec { arch, image_size: [size; 2], mean: [0.0; 3], std: [1.0; 3] };
    let probes = ["probe.*".to_owned()];
    let (path, ignore) = match &family.file {
        Some(name) => (path.with_file_name(name), &[][..]),
        None => (path.to_owned(), &probes[..]),
    };
    let choice = WeightsChoice { ignore, branch: family.branch.as_deref(), ..WeightsChoice::default() };
    let extractor = Extractor::import(spec, &path, choice, device).map_err(|e| format!("{e:?}"))?.extractor;
    let of = |what: &str| floats(&file, &format!("probe.{size}.{what}"));
    let images = file.tensor(&format!("probe.{size}.images")).map_err(|e| e.to_string())?;
    let pixels: Vec<f32> = images.data().iter().map(|p| f32::from(*p) / 255.0).collect();
    let mut cosines = 0..;
    // The derivative of all features in a row, whatever images are passed together.
    let cosines = |_, z: &[f32]| cosines.by_ref().take(z.len()).map(|i| (i as f32).cos()).collect();
    let gradient = extractor.vjp(&pixels, cosines).map_err(|e| e.to_string())?;
    let features = extractor.forward(&pixels).map_err(|e| e.to_string())?;
    let by = if family.rectified { off_in_norm } else { off };
    Ok([off(&features, &of("features")), by(&gradient, &of("gradient"))])
}

#[test]
fn features_and_image_gradients_are_those_of_the_library() {
    let own = ["families", "resnets", "convnexts", "checkpoints"]
        .map(|name| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name));
    let other = std::env::var_os("HEMLOCK_FAMILIES").map(PathBuf::from);
    let folders = other.as_ref().map_or(&own[..], std::slice::from_ref);
    let mut families: Vec<(&Path, Family)> = Vec::new();
    for folder in folders {
        let listed: Vec<Family> =
            serde_json::from_slice(&std::fs::read(folder.join("families.json")).unwrap()).unwrap();
        families.extend(listed.into_iter().map(|family| (&**folder, family)));
    }
    let device = device::open(Backend::default()).unwrap();
    let (mut table, mut wrong) = (String::new(), Vec::new());
    for (folder, family) in &families {
        for size in &family.sizes {
            let path = folder.join(format!("{}.safetensors", family.name));
            let found = differences(family, &path, *size, &device);
            let Family { name, families, arch, .. } = family;
            let shown = found.as_ref().map_or_else(Clone::clone, |off| off.map(|off| format!("{off:.1e}")).join(", "));
            table.push_str(&format!("| {name} | {families} | `{arch}` | {size} | {shown} |\n"));
            let most = [TOLERANCE, if family.rectified { RECTIFIED } else { TOLERANCE }];
            if !found.as_ref().is_ok_and(|off| off.iter().zip(most).all(|(off, most)| *off <= most)) {
                wrong.push(format!("{name} at {size}: {found:?}"));
            }
        }
    }
    if let Some(folder) = &other {
        std::fs::write(folder.join("differences.md"), table).unwrap();
    }
    assert!((other.is_some() || families.len() >= 45) && wrong.is_empty(), "{wrong:#?}");
}
