//! Products around a softmax become attention.

use secateur_model::{Attr, Node, ValueId, ops};

use super::view::{Source, scaled, source, unless_plain};
use super::{FusionGraph, Views};
use crate::item::Item;
use crate::kernels::{EMPTY_ROWS, EmptyRows, permutation};

/// softmax(scale · Q·Kᵀ + mask) · V, each of its operands with the axes of the product.
struct Found {
    query: Source,
    key: Source,
    value: Source,
    mask: Option<ValueId>,
    scale: f32,
    empty: EmptyRows,
    /// The items it consists of.
    items: Vec<usize>,
}

pub(super) fn fuse(graph: &mut FusionGraph<'_>, index: usize) {
    let Some(mut found) = graph.items[index].as_ref().and_then(|item| find(graph, index, &item.node)) else {
        return;
    };
    if !graph.closed(&found.items, index) {
        return;
    }
    // A transposition of the result is written in place.
    let Some(mut out) = graph.items[index].as_ref().and_then(|item| item.node.outputs[0]) else { return };
    let mut last = index;
    let mut order = None;
    if let Some((next, node)) = graph.only_consumer(out)
        && node.op_type == "Transpose"
        && let (Some(rank), Some(to)) = (graph.shape(out).map(<[usize]>::len), node.outputs[0])
        && let Ok(perm) = permutation(node, rank)
        && perm.last() == Some(&(rank - 1))
    {
        found.items.push(next);
        (last, out, order) = (next, to, Some(perm));
    }
    let mut node = Node {
        op_type: "Attention".into(),
        opset: ops::NEWEST_OPSET,
        inputs: vec![Some(found.query.value), Some(found.key.value), Some(found.value.value), found.mask],
        outputs: vec![Some(out)],
        ..Node::default()
    };
    let scale = found.scale * found.query.factor * found.key.factor;
    node.attrs.insert("scale".into(), Attr::Float(scale));
    node.attrs.insert(EMPTY_ROWS.into(), Attr::Int(found.empty as i64));
    for &i in &found.items {
        if let Some(item) = graph.remove(i).filter(|_| i == index) {
            node.name = item.node.name;
            node.fallback_label = item.node.fallback_label;
        }
    }
    let views = Views {
        inputs: [found.query.perm, found.key.perm, found.value.perm].map(Some).into(),
        output: order.and_then(unless_plain),
        factor: None,
    };
    graph.place(last, Item { node, views, ..Item::default() });
}

fn find(graph: &FusionGraph<'_>, index: usize, node: &Node) -> Option<Found> {
    if node.op_type != "MatMul" || !node.domain.is_empty() {
        return None;
    }
    let (weights, values) = (node.inputs[0]?, node.inputs.get(1).copied().flatten()?);
    let mut items = vec![index];
    let (softmaxed, empty) = guarded(graph, weights, &mut items).unwrap_or((weights, EmptyRows::NotANumber));
    let (softmax, node) = graph.producer(softmaxed, "Softmax")?;
    items.push(softmax);
    let scores = node.inputs.first().copied().flatten()?;
    let shape = graph.shape(scores)?.to_vec();
    let axis = node.int_or("axis", if node.opset < 13 { 1 } else { -1 }).ok()?;
    if !matches!(shape.len(), 3 | 4) || ops::axis_index(axis, shape.len()).ok()? != shape.len() - 1 {
        return None;
    }
    let mut value = scores;
    let mut mask = None;
    if let Some((add, node)) = graph.producer(value, "Add") {
        let &[Some(a), Some(b)] = node.inputs.as_slice() else { return None };
        let is_scores = |v: ValueId| is_product(graph, v);
        let (product, other) = if is_scores(a) { (a, b) } else { (b, a) };
        // The mask goes along with the keys, and its axes are those of the scores.
        let fits = graph.shape(other).is_some_and(|s| s.len() <= shape.len() && s.last() == shape.last());
        if graph.shape(product) != Some(&shape) || !fits || !graph.is_f32(other) {
            return None;
        }
        items.push(add);
        (value, mask) = (product, Some(other));
    }
    let mut scale = 1.0;
    if let Some((product, factor)) = scaled(graph, value) {
        items.push(graph.producers[value.index()]?);
        (value, scale) = (product, factor);
    }
    let (product, node) = graph.producer(value, "MatMul")?;
    items.push(product);
    let query = source(graph, node.inputs[0]?)?;
    let mut key = source(graph, node.inputs.get(1).copied().flatten()?)?;
    let mut values = source(graph, values)?;
    // A factor of the values is one of the result; it stays outside.
    if values.factor != 1.0 {
        values = Source { value: node_value(graph, index)?, perm: (0..shape.len()).collect(), factor: 1.0 };
    }
    // The product's right operand is the keys transposed.
    let rank = shape.len();
    if key.perm.len() != rank || query.perm.len() != rank || values.perm.len() != rank {
        return None;
    }
    key.perm.swap(rank - 2, rank - 1);
    let f32s = [query.value, key.value, values.value].iter().all(|&v| graph.is_f32(v));
    // Stacks that broadcast are left to the products.
    let stack = |s: &Source| -> Option<Vec<usize>> {
        let stored = graph.shape(s.value)?;
        Some(s.perm[..rank - 2].iter().map(|&p| stored[p]).collect())
    };
    let same = stack(&query)? == shape[..rank - 2]
        && stack(&key)? == shape[..rank - 2]
        && stack(&values)? == shape[..rank - 2];
    (f32s && same).then_some(Found { query, key, value: values, mask, scale, empty, items })
}

/// The right operand of the product with the values.
fn node_value(graph: &FusionGraph<'_>, index: usize) -> Option<ValueId> {
    graph.items[index].as_ref()?.node.inputs.get(1).copied().flatten()
}

fn is_product(graph: &FusionGraph<'_>, value: ValueId) -> bool {
    let value = scaled(graph, value).map_or(value, |(v, _)| v);
    graph.producer(value, "MatMul").is_some()
}

/// Weights with what is not a number replaced by 0: `Where(IsNaN(w), 0, w)`.
fn guarded(
    graph: &FusionGraph<'_>,
    weights: ValueId,
    items: &mut Vec<usize>,
) -> Option<(ValueId, EmptyRows)> {
    let (select, node) = graph.producer(weights, "Where")?;
    let &[Some(condition), Some(zero), Some(plain)] = node.inputs.as_slice() else { return None };
    let (test, node) = graph.producer(condition, "IsNaN")?;
    if graph.scalar(zero)? != 0.0 || node.inputs.first() != Some(&Some(plain)) {
        return None;
    }
    items.extend([select, test]);
    Some((plain, EmptyRows::Guarded))
}
