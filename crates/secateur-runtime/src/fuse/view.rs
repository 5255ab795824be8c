//! Operands are read where their elements were computed: what only moves elements, and constant factors, are looked
//! through.

use secateur_model::ops::{self, Inputs};
use secateur_model::tensor::strides;
use secateur_model::{Node, Tensor, ValueId};

use super::FusionGraph;
use crate::kernels::{Lay, VIEWS, permutation};

/// An operand traced back to the value whose elements it has, times a factor.
pub(super) struct Source {
    pub(super) value: ValueId,
    pub(super) lay: Lay,
    pub(super) factor: f32,
}

impl Source {
    /// The operand itself.
    pub(super) fn plain(graph: &FusionGraph<'_>, operand: ValueId) -> Option<Self> {
        Some(Source { value: operand, lay: Lay::of(graph.shape(operand)?), factor: 1.0 })
    }
}

/// Traces an operand back through the operators that `through` names and constant factors.
pub(super) fn source(graph: &FusionGraph<'_>, operand: ValueId, through: fn(&str) -> bool) -> Option<Source> {
    let mut source = Source::plain(graph, operand)?;
    loop {
        if let Some((value, lay)) = moved(graph, &source, through) {
            (source.value, source.lay) = (value, lay);
        } else if let Some((value, factor)) = scaled(graph, source.value) {
            source.value = value;
            source.factor *= factor;
        } else {
            return Some(source);
        }
    }
}

/// The first input of the node that computes a source, and how it lies there, where the node only moves elements and
/// the source has even strides there.
fn moved(graph: &FusionGraph<'_>, source: &Source, through: fn(&str) -> bool) -> Option<(ValueId, Lay)> {
    let item = graph.items[graph.producers[source.value.index()]?].as_ref()?;
    let node = &item.node;
    if !item.epilogue.is_empty()
        || !item.views.is_plain()
        || !node.domain.is_empty()
        || !through(&node.op_type)
    {
        return None;
    }
    let input = node.inputs.first().copied().flatten()?;
    let (from, to) = (graph.shape(input)?, graph.shape(source.value)?);
    if VIEWS.contains(&node.op_type.as_str()) {
        return Some((input, source.lay.clone()));
    }
    let place = node.outputs.iter().position(|output| *output == Some(source.value))?;
    let view = views(graph, node, from)?.into_iter().nth(place)?;
    Some((input, source.lay.moved(to, (view.offset, &view.strides))?))
}

/// A node's outputs as views of its first input, where all that it reads besides is constant.
fn views(graph: &FusionGraph<'_>, node: &Node, shape: &[usize]) -> Option<Vec<ops::View>> {
    let mut known: Vec<Option<&Tensor>> = vec![None; node.inputs.len()];
    for (input, known) in node.inputs.iter().zip(&mut known).skip(1) {
        *known = input.map(|id| graph.constant(id).ok_or(())).transpose().ok()?;
    }
    ops::find(node)?.views?(node, shape, Inputs(&known)).ok()?
}

/// How a result lies behind the nodes that only move its elements, one after the other: the last such node at which its
/// rows are contiguous, with its output; and the items up to it.
pub(super) fn sink(graph: &FusionGraph<'_>, result: ValueId) -> Option<(Vec<usize>, ValueId, Lay)> {
    let (mut value, mut lay) = (result, Lay::of(graph.shape(result)?));
    let (mut items, mut found) = (Vec::new(), None);
    while let Some((index, node)) = graph.only_consumer(value) {
        let (Some(from), &[Some(out)]) = (graph.shape(value), node.outputs.as_slice()) else { break };
        let Some(to) = graph.shape(out) else { break };
        if !node.domain.is_empty() || node.inputs.first() != Some(&Some(value)) {
            break;
        }
        if node.op_type == "Transpose" {
            let Ok(perm) = permutation(node, from.len()) else { break };
            let mut steps = vec![0; from.len()];
            perm.iter().zip(strides(to)).for_each(|(&axis, step)| steps[axis] = step as isize);
            let Some(next) = lay.moved(from, (0, &steps)) else { break };
            lay = next;
        } else if !VIEWS.contains(&node.op_type.as_str()) {
            break;
        }
        items.push(index);
        value = out;
        if lay.shape.last().is_some_and(|&extent| extent == 1) || lay.strides.last() == Some(&1) {
            found = Some((items.clone(), value, lay.clone()));
        }
    }
    found
}

/// A value that is another one times a constant.
pub(super) fn scaled(graph: &FusionGraph<'_>, value: ValueId) -> Option<(ValueId, f32)> {
    let (_, node) = graph.producer(value, "Mul").or_else(|| graph.producer(value, "Div"))?;
    let &[Some(a), Some(b)] = node.inputs.as_slice() else { return None };
    let (other, factor) = match (graph.scalar(a), graph.scalar(b)) {
        (_, Some(b)) if node.op_type == "Div" => (a, 1.0 / b),
        (_, Some(b)) if node.op_type == "Mul" => (a, b),
        (Some(a), _) if node.op_type == "Mul" => (b, a),
        _ => return None,
    };
    (graph.shape(other) == graph.shape(value) && factor.is_finite()).then_some((other, factor))
}

pub(super) fn fuse(graph: &mut FusionGraph<'_>, index: usize) {
    let Some(item) = &graph.items[index] else { return };
    let node = &item.node;
    if node.op_type != "MatMul" || !node.domain.is_empty() || !item.views.is_plain() {
        return;
    }
    let (Some(a), Some(b)) = (node.inputs[0], node.inputs.get(1).copied().flatten()) else { return };
    if !graph.is_f32(a) || !graph.is_f32(b) {
        return;
    }
    let transposed = |operand| source(graph, operand, |op| op == "Transpose");
    let (Some(left), Some(right)) = (transposed(a), transposed(b)) else { return };
    if left.value == a && right.value == b {
        return;
    }
    let factor = left.factor * right.factor;
    let lay = |side: &Source| {
        let stored = graph.shape(side.value).is_some_and(|shape| Lay::of(shape) == side.lay);
        (!stored).then(|| side.lay.clone())
    };
    let inputs = vec![lay(&left), lay(&right)];
    let Some(mut item) = graph.remove(index) else { return };
    item.node.inputs[0] = Some(left.value);
    item.node.inputs[1] = Some(right.value);
    item.views.inputs = inputs;
    item.views.factor = (factor != 1.0).then_some(factor);
    graph.place(index, item);
}
