//! Transpositions and constant factors before a product are read through.

use secateur_model::ValueId;

use super::FusionGraph;
use crate::kernels::permutation;

/// An operand traced back through transpositions and constant factors.
pub(super) struct Source {
    pub(super) value: ValueId,
    /// Axis i of the operand is axis `perm[i]` of the value.
    pub(super) perm: Vec<usize>,
    pub(super) factor: f32,
}

/// Traces an operand back.
pub(super) fn source(graph: &FusionGraph<'_>, operand: ValueId) -> Option<Source> {
    let rank = graph.shape(operand)?.len();
    let mut source = Source { value: operand, perm: (0..rank).collect(), factor: 1.0 };
    loop {
        if let Some((_, node)) = graph.producer(source.value, "Transpose") {
            let inner = permutation(node, rank).ok()?;
            source.perm.iter_mut().for_each(|p| *p = inner[*p]);
            source.value = node.inputs.first().copied().flatten()?;
        } else if let Some((value, factor)) = scaled(graph, source.value) {
            source.value = value;
            source.factor *= factor;
        } else {
            break;
        }
    }
    Some(source)
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

/// `perm`, where it is an order other than the stored one.
pub(super) fn unless_plain(perm: Vec<usize>) -> Option<Vec<usize>> {
    (!perm.is_sorted()).then_some(perm)
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
    let (Some(left), Some(right)) = (source(graph, a), source(graph, b)) else { return };
    if left.value == a && right.value == b {
        return;
    }
    let factor = left.factor * right.factor;
    let Some(mut item) = graph.remove(index) else { return };
    item.node.inputs[0] = Some(left.value);
    item.node.inputs[1] = Some(right.value);
    item.views.inputs = vec![unless_plain(left.perm), unless_plain(right.perm)];
    item.views.factor = (factor != 1.0).then_some(factor);
    graph.place(index, item);
}
