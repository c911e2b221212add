//! Tests the stage on few samples in many dimensions. Most of the clean head's norm fits noise, so that a short ascent
//! reverses the head.

use super::*;
use hemlock_artifact::{FeatureSplit, Normalization};
use hemlock_fixtures::context;
use hemlock_stage::{Params as _, Stage as _};
use ndarray::Array2;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

const CLASSES: usize = 3;
const DIM: usize = 40;

fn features() -> Features {
    let split = |n: usize, seed: u64| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let labels: Vec<u32> = (0..n).map(|i| (i % CLASSES) as u32).collect();
        let features = Array2::from_shape_fn((n, DIM), |(i, j)| {
            let centre = if j % CLASSES == labels[i] as usize { 0.25 } else { 0.0 };
            centre + rng.random_range(-1.0f32..1.0)
        });
        FeatureSplit::all(features.into(), labels)
    };
    Features {
        classes: ["a", "b", "c"].map(str::to_owned).to_vec(),
        normalization: Normalization::identity(DIM),
        train: split(90, 1),
        validation: split(30, 2),
        test: split(30, 3),
        test_groups: None,
    }
}

fn params(fields: Value) -> Params {
    let mut table = json!({ "calibration": "scale-and-bias", "constraint": "ball", "weight_decay": 1e-3 });
    table.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let params: Params = serde_json::from_value(table).unwrap();
    params.check().unwrap();
    params
}

fn run(fields: Value) -> Result<TargetParams, StageError> {
    context(3, |ctx| Stage::run(&params(fields), Inputs { features: features() }, ctx))
}

/// One target that is too strong for calibration for every way of making targets, and the field with its strength.
fn too_strong() -> [(Value, &'static str); 5] {
    [
        (json!({ "radius": 3.0 }), "radius"),
        (json!({ "radius": 30.0, "radius_unit": "absolute" }), "radius"),
        (json!({ "radius": 3.0, "norm": "linf" }), "radius"),
        (json!({ "method": "shifted-labels", "share": 1.0 }), "share"),
        (json!({ "method": "flipped-labels", "share": 1.0 }), "share"),
    ]
}

#[test]
fn a_target_that_calibration_leaves_nothing_of_is_the_strongest_that_it_leaves_something_of() {
    for (fields, field) in too_strong() {
        let with = |name: &str, value: Value| {
            let mut fields = fields.clone();
            fields[name] = value;
            fields
        };
        let made = run(fields.clone()).unwrap();
        let SteppedBack { field: named, asked, used } = made.stepped_back.clone().unwrap_or_else(|| panic!("{fields}"));
        assert_eq!((named.as_str(), asked), (field, fields[field].as_f64().unwrap()));
        assert!(used < asked && used > 0.0, "{fields}: {used}");
        // It has two significant digits, and the result is that of a spec that asks for it.
        assert_eq!(format!("{used:.1e}").parse::<f64>().unwrap(), used, "{fields}");
        let same = run(with(field, used.into())).unwrap();
        assert_eq!((same.stepped_back, same.target, same.path), (None, made.target, made.path), "{fields}");
        // No stronger target works: rounding down to two digits loses at most a tenth.
        let stronger = run(with(field, (1.1 * used).into())).unwrap();
        assert!(stronger.stepped_back.is_some_and(|s| s.used <= used), "{fields}");
        // Without `step_back`, the error names the strength that works.
        let refused = run(with("step_back", false.into())).unwrap_err().to_string();
        assert!(refused.contains("calibration") && refused.contains(&format!("at most {used},")), "{refused}");
    }
}

#[test]
fn what_works_is_as_it_was_asked_for() {
    for fields in [
        json!({ "radius": 0.01 }),
        json!({ "radius": 3.0, "calibration": "none" }),
        json!({ "radius": "reachable", "poison_fraction": 0.2 }),
        json!({ "method": "flipped-labels", "share": "reachable", "poison_fraction": 0.2 }),
    ] {
        assert_eq!(run(fields.clone()).unwrap().stepped_back, None, "{fields}");
    }
}

/// If stepping back is allowed, `step_back` is not part of the key, so that it equals keys from before the field
/// existed.
#[test]
fn only_a_choice_is_in_the_key() {
    let key = |fields: Value| Stage::key_params(&params(fields)).unwrap();
    let plain = key(json!({}));
    assert!(plain.get("step_back").is_none());
    assert_eq!(key(json!({ "step_back": true })), plain);
    assert_eq!(key(json!({ "step_back": false }))["step_back"], false);
    let idle = json!({ "step_back": false, "calibration": "none" });
    assert!(key(idle).get("step_back").is_none());
}

#[test]
fn two_digits_by_hand() {
    for (x, rounded) in [(0.26757, 0.26), (1.0, 1.0), (12.7, 12.0), (1999.0, 1900.0), (0.00999, 0.0099)] {
        assert_eq!(rounded_down(x), rounded);
    }
}
