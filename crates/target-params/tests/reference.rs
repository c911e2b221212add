//! GradPC against an independent float64 implementation (numpy): `gradpc_reference.json` holds its data and its answer for
//! 30 steps of a tenth of the radius, in a ball of half the clean head's norm.

use hemlock_head::{Head, HeadError, Samples, mean_loss};
use hemlock_target_params::{Ascent, ascend};
use ndarray::Array2;
use serde_json::Value;

fn matrix(v: &Value) -> Array2<f64> {
    let rows: Vec<Vec<f64>> = serde_json::from_value(v.clone()).unwrap();
    Array2::from_shape_vec((rows.len(), rows[0].len()), rows.concat()).unwrap()
}

#[test]
fn reaches_the_reference_target() {
    let reference: Value = serde_json::from_str(include_str!("gradpc_reference.json")).unwrap();
    let z = matrix(&reference["Z"]);
    let labels: Vec<u32> = serde_json::from_value(reference["Y"].clone()).unwrap();
    let samples = Samples::new(z.view(), &labels, 3).unwrap();
    let clean = Head::from_packed(matrix(&reference["w_clean"])).unwrap();
    let radius = 0.5 * clean.norm();
    let ascent = Ascent { radius, step: radius / 10.0, steps: 30 };
    let mut visited = 0;
    let target = ascend(&clean, samples, &ascent, |_, head| {
        visited += 1;
        let v = &head.packed() - &clean.packed();
        assert!(v.iter().map(|x| x * x).sum::<f64>().sqrt() <= radius * (1.0 + 1e-12));
        Ok::<_, HeadError>(())
    })
    .unwrap();
    assert_eq!(visited, 31);
    let expected = matrix(&reference["gradpc_l2_half_radius"]);
    let off = (&target.packed() - &expected).iter().fold(0.0f64, |m, x| m.max(x.abs()));
    // The clean head is known to about 1e-6, and normalised steps keep that error.
    assert!(off < 1e-5, "largest difference {off:e}");
    let loss = mean_loss(&target, &[samples]).unwrap();
    assert!((loss - reference["gradpc_mean_loss"].as_f64().unwrap()).abs() < 1e-6);
}
