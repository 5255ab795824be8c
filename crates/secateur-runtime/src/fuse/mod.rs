//! Fusion: nodes that together are one computation become one item.
//!
//! In this order: groups of nodes that spell out an operator become that operator ([`composite`]),
//! constant padding becomes the convolution's own ([`pad`]), products around a softmax become
//! attention ([`attention`]), what follows a product is computed at its end, while the results are
//! still in registers ([`product`]), and transpositions before a product are read through ([`view`]).
//! Only items change, never the graph.

use secateur_kernels::Activation;
use secateur_model::ops::{Fact, Facts};
use secateur_model::{DType, Node, Tensor, ValueId};

use crate::item::Item;
use crate::kernels::{Epilogue, Views};
use crate::weights::Weights;

mod attention;
mod composite;
mod pad;
mod product;
#[cfg(test)]
mod tests;
mod training;
mod view;

/// The items in order, with who computes and who uses each value.
struct FusionGraph<'a> {
    items: Vec<Option<Item>>,
    facts: &'a mut Vec<Option<Fact>>,
    /// By value: the item that computes it.
    producers: Vec<Option<usize>>,
    /// By value: the items that use it, once for each use.
    consumers: Vec<Vec<usize>>,
    outputs: &'a [ValueId],
    weights: &'a Weights,
}

impl<'a> FusionGraph<'a> {
    fn new(
        items: Vec<Item>,
        facts: &'a mut Vec<Option<Fact>>,
        outputs: &'a [ValueId],
        weights: &'a Weights,
    ) -> Self {
        let count = facts.len();
        let mut graph = FusionGraph {
            items: vec![None; items.len()],
            facts,
            producers: vec![None; count],
            consumers: vec![Vec::new(); count],
            outputs,
            weights,
        };
        for (i, item) in items.into_iter().enumerate() {
            graph.place(i, item);
        }
        graph
    }

    fn fact(&self, value: ValueId) -> Option<&Fact> {
        self.facts.get(value.index())?.as_ref()
    }

    fn shape(&self, value: ValueId) -> Option<&[usize]> {
        self.fact(value)?.shape()
    }

    /// The elements of a constant, where they are loaded: those of large weights are not.
    fn constant(&self, value: ValueId) -> Option<&Tensor> {
        self.fact(value)?.value.as_ref()
    }

    /// The largest magnitude among the elements of a constant, loaded or not; 0 of a computed value. `None`
    /// where one is not finite, or they are no f32.
    fn largest(&self, value: ValueId) -> Option<f32> {
        let Some(fact) = self.fact(value).filter(|fact| fact.is_constant()) else { return Some(0.0) };
        let elements = self.weights.elements(fact).ok()?;
        let values = elements.values::<f32>().ok()?;
        let finite = values.iter().all(|v| v.is_finite());
        finite.then(|| values.iter().fold(0f32, |most, v| most.max(v.abs())))
    }

    fn is_constant(&self, value: ValueId) -> bool {
        self.fact(value).is_some_and(Fact::is_constant)
    }

    /// The only element of a constant.
    fn scalar(&self, value: ValueId) -> Option<f32> {
        match self.constant(value)?.values::<f32>() {
            Ok(&[v]) => Some(v),
            _ => None,
        }
    }

    fn is_f32(&self, value: ValueId) -> bool {
        self.fact(value).is_some_and(|f| f.dtype == Some(DType::F32))
    }

    /// The facts of a node's inputs.
    fn inputs(&self, node: &Node) -> Vec<Option<Fact>> {
        node.inputs.iter().map(|i| i.and_then(|i| self.fact(i).cloned())).collect()
    }

    /// The activation a node computes on its first input, where it is one.
    fn activation(&self, node: &Node) -> Option<Activation> {
        crate::kernels::activation(node, Facts(&self.inputs(node))).ok().flatten()
    }

    /// The item that computes a value, where it is an operator of ONNX with this name and one output.
    fn producer(&self, value: ValueId, op_type: &str) -> Option<(usize, &Node)> {
        let index = self.producers[value.index()]?;
        let item = self.items[index].as_ref()?;
        let node = &item.node;
        let plain = item.epilogue.is_empty() && item.views.is_plain();
        (plain && node.domain.is_empty() && node.op_type == op_type && node.outputs.len() == 1)
            .then_some((index, node))
    }

    /// The only use of a value, where it has just one and is not an output of the graph.
    fn only_consumer(&self, value: ValueId) -> Option<(usize, &Node)> {
        let &[index] = self.consumers[value.index()].as_slice() else { return None };
        if self.outputs.contains(&value) {
            return None;
        }
        self.items[index].as_ref().map(|item| (index, &item.node))
    }

    /// Whether everything that uses the results of these items but the last is among them.
    fn closed(&self, items: &[usize], last: usize) -> bool {
        items.iter().filter(|i| **i != last).all(|&i| {
            let outputs = self.items[i].iter().flat_map(|item| item.node.outputs.iter().flatten());
            outputs.into_iter().all(|o| {
                !self.outputs.contains(o) && self.consumers[o.index()].iter().all(|c| items.contains(c))
            })
        })
    }

    /// A new constant.
    fn add_constant(&mut self, tensor: Tensor) -> ValueId {
        self.facts.push(Some(tensor.into()));
        self.producers.push(None);
        self.consumers.push(Vec::new());
        ValueId(self.facts.len() as u32 - 1)
    }

    /// Takes an item out, with its uses.
    fn remove(&mut self, index: usize) -> Option<Item> {
        let item = self.items[index].take()?;
        for input in item.node.inputs.iter().flatten() {
            let consumers = &mut self.consumers[input.index()];
            if let Some(at) = consumers.iter().position(|&i| i == index) {
                consumers.remove(at);
            }
        }
        for output in item.node.outputs.iter().flatten() {
            self.producers[output.index()] = None;
        }
        Some(item)
    }

    fn place(&mut self, index: usize, item: Item) {
        for input in item.node.inputs.iter().flatten() {
            self.consumers[input.index()].push(index);
        }
        for output in item.node.outputs.iter().flatten() {
            self.producers[output.index()] = Some(index);
        }
        self.items[index] = Some(item);
    }
}

/// Fuses items. A fused item stands where its last node stood, so that all its operands are computed
/// before.
pub(crate) fn fuse(
    items: Vec<Item>,
    facts: &mut Vec<Option<Fact>>,
    outputs: &[ValueId],
    weights: &Weights,
) -> Vec<Item> {
    run(
        &[composite::fuse, pad::fuse, attention::fuse, product::fuse, view::fuse],
        items,
        facts,
        outputs,
        weights,
    )
}

/// Fuses nothing but nodes that spell out an operator or attention, and what follows a batch-norm.
pub(crate) fn for_training(
    items: Vec<Item>,
    facts: &mut Vec<Option<Fact>>,
    outputs: &[ValueId],
    weights: &Weights,
) -> Vec<Item> {
    run(&[composite::fuse, attention::fuse, training::fuse], items, facts, outputs, weights)
}

/// A pass at one item.
type Pass = fn(&mut FusionGraph<'_>, usize);

fn run(
    passes: &[Pass],
    items: Vec<Item>,
    facts: &mut Vec<Option<Fact>>,
    outputs: &[ValueId],
    weights: &Weights,
) -> Vec<Item> {
    let mut graph = FusionGraph::new(items, facts, outputs, weights);
    for pass in passes {
        for index in 0..graph.items.len() {
            pass(&mut graph, index);
        }
    }
    graph.items.into_iter().flatten().collect()
}
