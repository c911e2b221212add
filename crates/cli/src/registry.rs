//! The graph of a Hemlock pipeline: which stage runs where.

use hemlock_dataset::{Downstream, Pretraining};
use hemlock_pipeline::{Graph, Node};
use hemlock_stage::{Stage, erase};

/// Makes a node of the graph in which the stage `S` runs.
#[must_use]
pub fn node<S: Stage>(name: &'static str) -> Node {
    Node { name, stage: erase::<S>(), fallback_for: None, route: None, instead: &[], with: None }
}

/// All nodes, in the order in which they run. A new stage is a new line here.
#[must_use]
pub fn graph() -> Graph {
    Graph::new(vec![
        node::<hemlock_dataset::Stage<Pretraining>>("dataset.pretrain"),
        // Without images to pre-train on, the extractor is trained on the downstream images themselves (fine-tuning).
        Node {
            fallback_for: Some("dataset.pretrain"),
            ..node::<hemlock_dataset::Stage<Downstream>>("dataset.downstream")
        },
        node::<hemlock_pretrain::Stage>("pretrain"),
        node::<hemlock_features::Stage>("features"),
        node::<hemlock_target_params::Stage>("target-params"),
        // The extractor that victims use, if the attacker crafts poisons on another one (black-box).
        Node {
            with: Some("victim-extractor.features"),
            ..node::<hemlock_pretrain::Stage>("victim-extractor.pretrain")
        },
        Node {
            instead: &[("pretrain", "victim-extractor.pretrain")],
            ..node::<hemlock_features::Stage>("victim-extractor.features")
        },
        // There are three routes to poisons: features that are inverted, pixels, or noise on the training set itself.
        // What reads the images of `invert` reads those of the other routes in its place.
        Node { route: Some("features"), ..node::<hemlock_poison_features::Stage>("poison-features") },
        Node { route: Some("features"), ..node::<hemlock_decoder::Stage>("decoder") },
        Node { route: Some("features"), ..node::<hemlock_invert::Stage>("invert") },
        Node {
            route: Some("pixels"),
            fallback_for: Some("invert"),
            ..node::<hemlock_poison_images::Stage>("poison-images")
        },
        Node {
            route: Some("noise"),
            fallback_for: Some("invert"),
            ..node::<hemlock_unlearnable::Stage>("unlearnable")
        },
        node::<hemlock_victim::Stage>("victim"),
        node::<hemlock_defence::Stage>("defence"),
        node::<hemlock_repair::Stage>("repair"),
        node::<hemlock_evaluate::Stage>("evaluate"),
    ])
}
