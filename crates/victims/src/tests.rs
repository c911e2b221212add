use super::*;
use hemlock_artifact::{FeatureSplit, Features, Normalization};
use hemlock_fixtures::context;
use ndarray::Array2;

/// Two classes, one inside the other: a ring around a disc.
fn split(n: usize, turn: f32) -> FeatureSplit {
    let at = |i: usize| {
        let (angle, radius) = (i as f32 * 2.4 + turn, if i.is_multiple_of(2) { 0.4 } else { 1.6 });
        (radius * angle.cos(), radius * angle.sin())
    };
    let features = Array2::from_shape_fn((n, 2), |(i, j)| if j == 0 { at(i).0 } else { at(i).1 });
    FeatureSplit::all(features.into(), (0..n).map(|i| (i % 2) as u32).collect())
}

fn features() -> Features {
    Features {
        classes: vec!["disc".to_owned(), "ring".to_owned()],
        normalization: Normalization::identity(2),
        train: split(200, 0.0),
        validation: split(0, 0.0),
        test: split(100, 1.0),
        test_groups: None,
    }
}

fn with_data<T>(run: impl FnOnce(&VictimData) -> T) -> T {
    let features = features();
    context(0, |ctx| run(&VictimData::of_features(&features, 1e-3, ctx)))
}

#[test]
fn a_hidden_layer_tells_apart_what_a_linear_head_cannot() {
    with_data(|data| {
        let none = TrainingSetChange::none(data);
        let linear = VictimSpec::default().victim().train("linear", data, &none).unwrap();
        let mlp = Mlp { epochs: 60, batch: 20, learning_rate: 1e-2, ..Mlp::default() };
        let mlp = (&mlp).train("mlp", data, &none).unwrap();
        assert!(linear.accuracy.overall < 0.7, "{linear:?}");
        assert!(mlp.accuracy.overall > 0.97 && mlp.epochs.len() == 60, "{mlp:?}");
        assert_eq!(*mlp.epochs.last().unwrap(), mlp.accuracy.overall);
        assert_eq!(mlp.best(), mlp.epochs.iter().copied().fold(0.0, f64::max));
    });
}

/// Samples that are left out and added again change nothing with the same labels, and something with other labels.
#[test]
fn a_change_is_what_is_added_and_what_is_left_out() {
    with_data(|data| {
        let rows: Vec<usize> = (0..100).collect();
        let samples = data.features.train.samples(2).unwrap();
        let change = |ring: bool| TrainingSetChange {
            features: samples.select(&rows),
            labels: rows.iter().map(|row| (row % 2) as u32 | u32::from(ring)).collect(),
            removed: rows.iter().map(|row| *row as u32).collect(),
            ..TrainingSetChange::none(data)
        };
        for kind in ["linear", "knn"] {
            let params: VictimSpec = serde_json::from_value(serde_json::json!({ "kind": kind })).unwrap();
            let train = |change: &TrainingSetChange| params.victim().train(kind, data, change).unwrap();
            let (clean, same, flipped) =
                (train(&TrainingSetChange::none(data)), train(&change(false)), train(&change(true)));
            assert_eq!(clean.accuracy, same.accuracy, "{kind}");
            assert_ne!(clean.accuracy, flipped.accuracy, "{kind}");
        }
    });
}

#[test]
fn names_are_those_of_specs() {
    for kind in
        ["linear", "linear-sgd", "ridge", "certified-linear", "knn", "mlp", "last-block", "fine-tune", "end-to-end"]
    {
        let params: VictimSpec = serde_json::from_value(serde_json::json!({ "kind": kind })).unwrap();
        assert_eq!(params.kind(), kind);
        assert_eq!(params.victim().reads_images(), ["last-block", "fine-tune", "end-to-end"].contains(&kind));
        assert!(hemlock_stage::Params::check(&params).is_ok(), "defaults are valid");
    }
}

#[test]
fn certificates_of_a_linear_head_need_a_bounded_constraint() {
    let read = |constraint: &str| {
        let spec = serde_json::json!({ "kind": "certified-linear", "weight_decay": 0.1, "constraint": constraint });
        serde_json::from_value::<VictimSpec>(spec).unwrap()
    };
    for constraint in ["ball", "box", "sphere", "knn", "slab+ball"] {
        assert!(hemlock_stage::Params::check(&read(constraint)).is_ok(), "{constraint}");
        with_data(|data| {
            let none = TrainingSetChange::none(data);
            let outcome = read(constraint).victim().train("certified", data, &none).unwrap();
            let certified = outcome.certificate.unwrap().accuracy;
            assert_eq!(certified[0], outcome.accuracy.overall);
            assert!(certified.windows(2).all(|pair| pair[0] >= pair[1]), "{certified:?}");
        });
    }
    for constraint in ["none", "slab"] {
        let refused = hemlock_stage::Params::check(&read(constraint)).unwrap_err().to_string();
        assert!(refused.contains("constraint") && refused.contains("bounds poisons"), "{refused}");
    }
}
