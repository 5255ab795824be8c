//! Fusion: what follows a product is computed at its end, while the results are still in registers.

use std::fmt;

use secateur_kernels::Activation;
use secateur_model::ops::{Fact, Facts};
use secateur_model::{DType, Node, Tensor, ValueId};

use crate::kernels::{activation, batch_norm_affine, is_affine};
use crate::plan::Item;

/// What a product computes at its end: act(scale · product + shift + added).
#[derive(Clone, Debug, Default)]
pub(crate) struct Epilogue {
    /// Factor of each output channel (from batch-norms and constant factors).
    pub(crate) scale: Option<Vec<f32>>,
    /// Addend of each output channel.
    pub(crate) shift: Option<Vec<f32>>,
    /// Which input of the node is a tensor of the output's shape to add.
    pub(crate) add: Option<usize>,
    /// Applied last.
    pub(crate) act: Activation,
}

impl Epilogue {
    /// Whether nothing is fused.
    pub(crate) fn is_empty(&self) -> bool {
        self.scale.is_none() && self.shift.is_none() && self.add.is_none() && self.act == Activation::None
    }

    fn affine(&mut self, scale: &[f32], shift: &[f32]) {
        let old = self.shift.take().unwrap_or_else(|| vec![0.0; shift.len()]);
        self.shift = Some(old.iter().zip(scale).zip(shift).map(|((o, s), t)| o * s + t).collect());
        self.scale = Some(match self.scale.take() {
            Some(old) => old.iter().zip(scale).map(|(o, s)| o * s).collect(),
            None => scale.to_vec(),
        });
    }
}

/// As a suffix of the operator's name.
impl fmt::Display for Epilogue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.scale.is_some() || self.shift.is_some() {
            f.write_str("+affine")?;
        }
        if self.add.is_some() {
            f.write_str("+add")?;
        }
        match self.act {
            Activation::None => Ok(()),
            // The name without the parameters.
            act => {
                let text = format!("{act:?}");
                write!(f, "+{}", text.split([' ', '(']).next().unwrap_or_default())
            }
        }
    }
}

/// The items in order, with who uses each value.
struct Uses {
    items: Vec<Option<Item>>,
    /// By value: the items that use it, once for each use.
    consumers: Vec<Vec<usize>>,
    outputs: Vec<ValueId>,
}

impl Uses {
    fn new(items: Vec<Item>, values: usize, outputs: &[ValueId]) -> Self {
        let mut consumers = vec![Vec::new(); values];
        for (i, item) in items.iter().enumerate() {
            for input in item.node.inputs.iter().flatten() {
                consumers[input.index()].push(i);
            }
        }
        Uses { items: items.into_iter().map(Some).collect(), consumers, outputs: outputs.to_vec() }
    }

    /// The only use of a value, where it has just one and is not an output of the graph.
    fn only_consumer(&self, value: ValueId) -> Option<(usize, &Node)> {
        let &[index] = self.consumers[value.index()].as_slice() else { return None };
        if self.outputs.contains(&value) {
            return None;
        }
        self.items[index].as_ref().map(|item| (index, &item.node))
    }

    /// Takes an item out, with its uses.
    fn remove(&mut self, index: usize) -> Option<Item> {
        let item = self.items[index].take()?;
        for input in item.node.inputs.iter().flatten() {
            let uses = &mut self.consumers[input.index()];
            if let Some(at) = uses.iter().position(|&i| i == index) {
                uses.remove(at);
            }
        }
        Some(item)
    }

    fn place(&mut self, index: usize, item: Item) {
        for input in item.node.inputs.iter().flatten() {
            self.consumers[input.index()].push(index);
        }
        self.items[index] = Some(item);
    }
}

/// Fuses what follows products into them. A fused item stands where its last node stood, so that
/// all its operands are computed before.
pub(crate) fn fuse(items: Vec<Item>, facts: &mut [Option<Fact>], outputs: &[ValueId]) -> Vec<Item> {
    let mut uses = Uses::new(items, facts.len(), outputs);
    for i in 0..uses.items.len() {
        fuse_product(&mut uses, i, facts);
    }
    uses.items.into_iter().flatten().collect()
}

/// Which axis of the output holds the output channels of a product that takes an epilogue.
fn channel_axis(node: &Node, facts: &[Option<Fact>]) -> Option<usize> {
    let fact = |i: usize| facts[node.inputs.get(i).copied().flatten()?.index()].as_ref();
    let weight = fact(1)?;
    let known = fact(0)?.dtype == Some(DType::F32) && weight.value.is_some();
    let out = facts[node.outputs.first().copied().flatten()?.index()].as_ref()?.shape()?;
    match (node.domain.as_str(), node.op_type.as_str()) {
        ("", "Conv") if known => Some(1),
        ("", "Gemm") if known => Some(1),
        ("", "MatMul") if known && weight.shape()?.len() == 2 => Some(out.len().checked_sub(1)?),
        _ => None,
    }
}

fn fuse_product(uses: &mut Uses, start: usize, facts: &[Option<Fact>]) {
    let Some(item) = &uses.items[start] else { return };
    let Some(axis) = channel_axis(&item.node, facts) else { return };
    let Some(mut value) = item.node.outputs[0] else { return };
    let Some(shape) = facts[value.index()].as_ref().and_then(|f| f.shape.clone()) else { return };
    let mut epilogue = item.epilogue.clone();
    let mut extra = None;
    let mut chain = vec![start];
    while epilogue.act == Activation::None {
        let Some((index, node)) = uses.only_consumer(value) else { break };
        let Some(out) = node.outputs.first().copied().flatten() else { break };
        if node.outputs.iter().skip(1).any(Option::is_some)
            || facts[out.index()].as_ref().and_then(Fact::shape) != Some(&shape)
        {
            break;
        }
        let linear = extra.is_none();
        if let (true, Some((scale, shift))) = (linear, channel_affine(node, value, facts, &shape, axis)) {
            epilogue.affine(&scale, &shift);
        } else if let (true, Some(other)) = (linear, residual(node, value, facts, &shape)) {
            extra = Some(other);
        } else if let Some(act) = node_activation(node, facts).filter(|_| node.inputs[0] == Some(value)) {
            epilogue.act = act;
        } else {
            break;
        }
        chain.push(index);
        value = out;
    }
    let Some(&last) = chain.last().filter(|_| chain.len() > 1) else { return };
    let Some(mut head) = uses.remove(start) else { return };
    for &index in &chain[1..] {
        uses.remove(index);
    }
    if let Some(extra) = extra {
        epilogue.add = Some(head.node.inputs.len());
        head.node.inputs.push(Some(extra));
    }
    head.epilogue = epilogue;
    head.node.outputs = vec![Some(value)];
    uses.place(last, head);
}

fn constant<'a>(node: &Node, input: usize, facts: &'a [Option<Fact>]) -> Option<&'a Tensor> {
    facts[node.inputs.get(input).copied().flatten()?.index()].as_ref()?.value.as_ref()
}

/// A batch-norm, or a constant factor or addend of each channel, as scale and shift.
fn channel_affine(
    node: &Node,
    value: ValueId,
    facts: &[Option<Fact>],
    shape: &[usize],
    axis: usize,
) -> Option<(Vec<f32>, Vec<f32>)> {
    let channels = *shape.get(axis)?;
    let at = node.inputs.iter().position(|i| *i == Some(value))?;
    match node.op_type.as_str() {
        "BatchNormalization" if at == 0 && axis == 1 && is_affine(node).ok()? => {
            let parameter = |i| constant(node, i, facts)?.to_f32s().ok().filter(|v| v.len() == channels);
            let epsilon = node.float_or("epsilon", 1e-5).ok()?;
            Some(batch_norm_affine(&parameter(1)?, &parameter(2)?, &parameter(3)?, &parameter(4)?, epsilon))
        }
        "Add" | "Mul" | "Sub" | "Div" => {
            let other = constant(node, 1 - at, facts)?;
            let broadcasts = other.rank() <= shape.len()
                && other
                    .shape()
                    .iter()
                    .rev()
                    .enumerate()
                    .all(|(i, &d)| d == 1 || (shape.len() - 1 - i == axis && d == channels));
            let values = other.values::<f32>().ok().filter(|_| broadcasts)?;
            let values: Vec<f32> =
                if values.len() == channels { values.to_vec() } else { vec![*values.first()?; channels] };
            let (ones, zeros) = (vec![1.0; channels], vec![0.0; channels]);
            match (node.op_type.as_str(), at) {
                ("Add", _) => Some((ones, values)),
                ("Mul", _) => Some((values, zeros)),
                ("Sub", 0) => Some((ones, values.iter().map(|v| -v).collect())),
                ("Sub", _) => Some((vec![-1.0; channels], values)),
                ("Div", 0) => Some((values.iter().map(|v| 1.0 / v).collect(), zeros)),
                _ => None,
            }
        }
        _ => None,
    }
}

/// The other operand of an addition of two computed tensors of equal shape.
fn residual(node: &Node, value: ValueId, facts: &[Option<Fact>], shape: &[usize]) -> Option<ValueId> {
    if node.op_type != "Add" {
        return None;
    }
    let other = node.inputs.iter().flatten().copied().find(|i| *i != value)?;
    let fact = facts[other.index()].as_ref()?;
    (fact.shape() == Some(shape) && fact.dtype == Some(DType::F32)).then_some(other)
}

fn node_activation(node: &Node, facts: &[Option<Fact>]) -> Option<Activation> {
    let operands: Vec<Option<Fact>> =
        node.inputs.iter().map(|i| i.and_then(|i| facts[i.index()].clone())).collect();
    activation(node, Facts(&operands)).ok().flatten()
}
