//! The graph of all nodes that a pipeline can have.

use hemlock_stage::{AnyStage, Port, StageRole};
use std::{
    collections::{BTreeMap, BTreeSet},
    iter::once,
};

/// A place in the graph where a stage runs.
pub struct Node {
    /// Path of the node's table in a spec: the stage's name, or `stage.role` if several nodes run the stage.
    pub name: &'static str,
    /// The stage that runs there.
    pub stage: Box<dyn AnyStage>,
    /// The node in whose place this one is read, if a branch does not have that node.
    pub fallback_for: Option<&'static str>,
    /// The route that the node is on, if several routes lead to the same end. A branch takes one of them.
    pub route: Option<&'static str>,
    /// Replacements for inputs, if several nodes run the stage: pairs of a node that the stage reads elsewhere, and the
    /// node that it reads here.
    pub instead: &'static [(&'static str, &'static str)],
    /// A node that a spec must have if it has this one.
    pub with: Option<&'static str>,
}

impl Node {
    /// The roles that the stage can read here, each with the node that fills it here.
    pub fn ports(&self) -> impl Iterator<Item = Port> {
        self.stage.ports().iter().map(|port| {
            let here = self.instead.iter().find(|(elsewhere, _)| *elsewhere == port.node);
            Port { node: here.map_or(port.node, |(_, here)| *here), ..*port }
        })
    }
}

/// All nodes, in an order in which they can run.
pub struct Graph(Vec<Node>);

impl Graph {
    /// Makes a graph of nodes. Every node must come after the nodes that it reads.
    #[must_use]
    pub fn new(nodes: Vec<Node>) -> Self {
        Self(nodes)
    }

    /// Returns the graph with one more node: after the node named `behind`, or at the end if there is no such node.
    #[must_use]
    pub fn with(mut self, node: Node, behind: &str) -> Self {
        let place = self.0.iter().position(|other| other.name == behind).map_or(self.0.len(), |i| i + 1);
        self.0.insert(place, node);
        self
    }

    /// The nodes, in order.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.0.iter()
    }

    /// The node of the given name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.0.iter().find(|n| n.name == name)
    }

    /// The name of a node, followed by the nodes that are read instead if it is missing ([`Node::fallback_for`]).
    pub(crate) fn fillers(&self, name: &'static str) -> impl Iterator<Item = &'static str> {
        let fallbacks = self.nodes().filter(move |node| node.fallback_for == Some(name));
        once(name).chain(fallbacks.map(|node| node.name))
    }

    /// The nodes on a route that a node outside all routes can read. These are the ends of the routes.
    pub(crate) fn ends(&self) -> impl Iterator<Item = &Node> {
        let readers = self.nodes().filter(|node| node.route.is_none());
        let read: Vec<&str> = readers.flat_map(Node::ports).flat_map(|port| self.fillers(port.node)).collect();
        self.nodes().filter(move |node| node.route.is_some() && read.contains(&node.name))
    }

    /// The routes whose end is among `nodes`.
    pub(crate) fn routes<T>(&self, nodes: &BTreeMap<&'static str, T>) -> BTreeSet<&'static str> {
        self.ends().filter(|node| nodes.contains_key(node.name)).filter_map(|node| node.route).collect()
    }

    /// Whether a stage evaluates poisons, by its name.
    pub(crate) fn evaluates(&self, stage: &str) -> bool {
        self.nodes().any(|node| node.stage.name() == stage && node.stage.about().role == StageRole::Evaluation)
    }

    /// Names of the stages, in the order of their first nodes and without duplicates.
    #[must_use]
    pub fn stages(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        for node in &self.0 {
            if !names.contains(&node.stage.name()) {
                names.push(node.stage.name());
            }
        }
        names
    }
}
