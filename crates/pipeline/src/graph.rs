//! The graph of nodes that a pipeline can have.

use hemlock_stage::{AnyStage, Port};
use std::{
    collections::{BTreeMap, BTreeSet},
    iter::successors,
};

/// A place in the graph where a stage runs.
pub struct Node {
    /// Path of the node's table in a spec: the stage's name, or `stage.role` where a stage stands twice.
    pub name: &'static str,
    /// What runs there.
    pub stage: Box<dyn AnyStage>,
    /// The node whose artifact stands in where a branch leaves this one out.
    pub fallback: Option<&'static str>,
    /// Of nodes that are ways to the same end: which of the ways it is on. A branch takes one.
    pub route: Option<&'static str>,
    /// Of a stage that stands twice: nodes that it reads from elsewhere, and those that it reads from here.
    pub instead: &'static [(&'static str, &'static str)],
    /// A node that must be there where this one is.
    pub with: Option<&'static str>,
}

impl Node {
    /// The roles that the stage can read here, and the nodes that fill them here.
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
    /// The graph of these nodes. Every node must stand behind those it reads from.
    #[must_use]
    pub fn new(nodes: Vec<Node>) -> Self {
        Self(nodes)
    }

    /// The same graph with one node more, behind that of a name, or at the end if there is none of that name.
    #[must_use]
    pub fn with(mut self, node: Node, behind: &str) -> Self {
        let place = self.0.iter().position(|other| other.name == behind).map_or(self.0.len(), |i| i + 1);
        self.0.insert(place, node);
        self
    }

    /// The nodes in order.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.0.iter()
    }

    /// The node of that name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.0.iter().find(|n| n.name == name)
    }

    /// A node's name, and those of the nodes that stand in for it, one after the other.
    pub(crate) fn fillers(&self, name: &'static str) -> impl Iterator<Item = &'static str> {
        successors(Some(name), |name| self.node(name)?.fallback)
    }

    /// Nodes on a route that a node off all routes can read: where routes come to their end.
    pub(crate) fn ends(&self) -> impl Iterator<Item = &Node> {
        let readers = self.nodes().filter(|node| node.route.is_none());
        let read: Vec<&str> = readers.flat_map(Node::ports).flat_map(|port| self.fillers(port.node)).collect();
        self.nodes().filter(move |node| node.route.is_some() && read.contains(&node.name))
    }

    /// The routes that lead to an end, where these nodes are there.
    pub(crate) fn routes<T>(&self, nodes: &BTreeMap<&'static str, T>) -> BTreeSet<&'static str> {
        self.ends().filter(|node| nodes.contains_key(node.name)).filter_map(|node| node.route).collect()
    }

    /// Names of the stages in order, each once.
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
