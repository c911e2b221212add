//! Whether the stages of a spec fit together.

use crate::graph::{Graph, Node};
use crate::source::SpecSource;
use crate::spec::{SpecError, Tables};
use hemlock_stage::{Need, Port};

/// Checks that the spec's stages fit together.
pub(crate) fn connected(variants: &Tables, graph: &Graph, source: &SpecSource) -> Result<(), SpecError> {
    // An input that a stage cannot read at all is reported before inputs that it lacks.
    accepted(variants, graph, source)?;
    supplied(variants, graph, source)?;
    ended(variants, graph, source)
}

/// Checks that every stage can read what the stages before it make with their parameters.
fn accepted(variants: &Tables, graph: &Graph, source: &SpecSource) -> Result<(), SpecError> {
    let replaced = |node: &Node, port: &Port| {
        let other = node.stage.instead().iter().find(|(role, _)| *role == port.role);
        other.is_some_and(|(_, other)| node.ports().any(|p| p.role == *other && variants.contains_key(p.node)))
    };
    let ports = graph.nodes().flat_map(|n| n.ports().map(move |p| (n, p)));
    for (node, port) in ports.filter(|(node, port)| !replaced(node, port)) {
        let given = variants.get(port.node).map_or(&[][..], Vec::as_slice);
        for params in variants.get(node.name).into_iter().flatten() {
            let at: Vec<&str> = node.name.split('.').collect();
            let refused = |e| source.error(&at, format!("[{}] {e}", node.name));
            given.iter().try_for_each(|made_with| node.stage.accepts(params, &port, made_with)).map_err(refused)?;
        }
    }
    Ok(())
}

/// Checks that every required input has a stage that makes it.
fn supplied(variants: &Tables, graph: &Graph, source: &SpecSource) -> Result<(), SpecError> {
    for node in graph.nodes() {
        let Some(tables) = variants.get(node.name) else { continue };
        let at: Vec<&str> = node.name.split('.').collect();
        if let Some(with) = node.with.filter(|with| !variants.contains_key(with)) {
            return Err(source.error(&at, format!("[{}] goes with [{with}], and the spec has no [{with}]", node.name)));
        }
        for (params, port) in tables.iter().flat_map(|t| node.ports().map(move |p| (t, p))) {
            let there = graph.fillers(port.node).any(|filler| variants.contains_key(filler));
            let need = node.stage.need(params, &port).map_err(|e| source.error(&at, e.to_string()))?;
            let (name, lacks) = (node.name, format!("what [{0}] makes, and the spec has no [{0}]", port.node));
            let message = match need {
                Need::Required if !there => format!("[{name}] reads {lacks}"),
                Need::Present if !there => {
                    let others = graph.fillers(port.node).filter(|other| *other != port.node);
                    let others: Vec<String> = others.map(|other| format!(" and no [{other}]")).collect();
                    format!("[{name}] goes with {lacks}{}", others.concat())
                }
                _ => continue,
            };
            return Err(source.error(&at, message));
        }
    }
    Ok(())
}

/// Checks that, if a stage reads poisons, some route makes them.
fn ended(variants: &Tables, graph: &Graph, source: &SpecSource) -> Result<(), SpecError> {
    for node in graph.nodes().filter(|node| node.route.is_none() && variants.contains_key(node.name)) {
        let tables = variants.get(node.name).map_or(&[][..], Vec::as_slice);
        let read = |port: &Port| tables.iter().any(|t| !matches!(node.stage.need(t, port), Ok(Need::Unread)));
        let routed = |port: &Port| graph.node(port.node).is_some_and(|n| n.route.is_some()) && read(port);
        if node.ports().any(|port| routed(&port)) && !graph.ends().any(|end| variants.contains_key(end.name)) {
            let ends = graph.ends().map(|end| format!("[{}]", end.name)).collect::<Vec<_>>().join(", ");
            let message = format!("[{}] reads poisons, and the spec has none of {ends}", node.name);
            return Err(source.error(&node.name.split('.').collect::<Vec<_>>(), message));
        }
    }
    Ok(())
}
