//! Where an element of a small vector of numbers comes from.

use std::collections::BTreeSet;

use super::Dims;
use crate::ops;
use crate::{NodeId, ValueId};

/// What says an element of a node's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A stored constant, read by this input of a node: the element at a place in it.
    Stored(NodeId, usize, usize),
    /// A number that a node computes; it is read as one element by an input of a node, where there is one.
    Computed(NodeId, Option<(NodeId, usize)>),
}

/// Where an element of a node's input comes from, through nodes that only move elements; `None` where the graph's caller
/// gives it.
pub(super) fn origin(dims: &Dims<'_>, node: NodeId, input: usize, place: usize) -> Option<Origin> {
    let graph = dims.model.graph().ok()?;
    let producers = graph.producers();
    let (mut node, mut input, mut place) = (node, input, place);
    let mut computed = None;
    // A graph has no cycles, and each round goes to an earlier node.
    loop {
        let value: ValueId = graph.nodes[node.0 as usize].inputs.get(input).copied().flatten()?;
        if graph.constants.contains_key(&value) {
            return Some(Origin::Stored(node, input, place));
        }
        let single = dims.inference.facts[value.index()].as_ref().and_then(ops::Fact::shape);
        if computed.is_none() && single.is_some_and(|shape| shape.iter().product::<usize>() == 1) {
            computed = Some((node, input));
        }
        let producer = producers.get(value.index()).copied().flatten()?;
        let earlier = &graph.nodes[producer.0 as usize];
        let output = earlier.outputs.iter().position(|&output| output == Some(value))?;
        let facts = dims.inference.operands(earlier);
        let Some(moved) = ops::moved_from(earlier, ops::Facts(&facts), output, place) else {
            return Some(Origin::Computed(producer, computed));
        };
        (node, input, place) = (producer, moved.0, moved.1);
    }
}

/// The stored numbers from which a node computes, through nodes whose results are known: those that are `number`, each with
/// the node and the input that read it.
pub(super) fn operands(dims: &Dims<'_>, node: NodeId, number: i64) -> Vec<(NodeId, usize)> {
    let Ok(graph) = dims.model.graph() else { return Vec::new() };
    let producers = graph.producers();
    let (mut found, mut seen, mut left) = (Vec::new(), BTreeSet::from([node]), vec![node]);
    while let Some(node) = left.pop() {
        for (input, value) in graph.nodes[node.0 as usize].inputs.iter().enumerate() {
            let Some(value) = *value else { continue };
            let Some(known) =
                dims.inference.facts[value.index()].as_ref().and_then(|fact| fact.value.as_ref())
            else {
                continue;
            };
            if graph.constants.contains_key(&value) {
                if known.len() == 1 && known.to_i64s().is_ok_and(|numbers| numbers == [number]) {
                    found.push((node, input));
                }
            } else if let Some(producer) = producers.get(value.index()).copied().flatten()
                && seen.insert(producer)
            {
                left.push(producer);
            }
        }
    }
    found
}
