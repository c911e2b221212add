//! The graph of a Hemlock pipeline: which stage runs where.

use hemlock_pipeline::{Graph, Node};
use hemlock_stage::{Stage, erase};

fn node<S: Stage>(name: &'static str) -> Node {
    Node { name, stage: erase::<S>(), fallback: None, route: None }
}

/// All nodes, in the order in which they run. A new stage is a new line here.
pub fn graph() -> Graph {
    Graph::new(vec![
        // Fine-tuning: the extractor is trained on the downstream images themselves.
        Node { fallback: Some("dataset.downstream"), ..node::<hemlock_data::Stage>("dataset.pretrain") },
        node::<hemlock_data::Stage>("dataset.downstream"),
        node::<hemlock_pretrain::Stage>("pretrain"),
        node::<hemlock_features::Stage>("features"),
        node::<hemlock_target_params::Stage>("target-params"),
        // Two ways to poisons: features that are inverted, or pixels at once.
        Node { route: Some("features"), ..node::<hemlock_poison_features::Stage>("poison-features") },
        Node { route: Some("features"), ..node::<hemlock_invert::decoder::Stage>("decoder") },
        Node { route: Some("features"), fallback: Some("poison-images"), ..node::<hemlock_invert::Stage>("invert") },
        Node { route: Some("pixels"), ..node::<hemlock_poison_images::Stage>("poison-images") },
        node::<hemlock_evaluate::Stage>("evaluate"),
    ])
}
