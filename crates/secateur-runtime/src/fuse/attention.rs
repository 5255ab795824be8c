//! Products around a softmax become attention.

use secateur_model::{Attr, Node, ValueId, ops};

use super::view::{Source, scaled, sink, source};
use super::{FusionGraph, Views};
use crate::item::Item;
use crate::kernels::{EMPTY_ROWS, EmptyRows};

/// softmax(scale · Q·Kᵀ + mask) · V, each of its operands with the axes of the result.
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
    let (mut last, mut written) = (index, None);
    if let Some((items, to, lay)) = sink(graph, out) {
        last = items.last().copied().unwrap_or(index);
        found.items.extend(items);
        (out, written) = (to, Some(lay));
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
        inputs: [found.query.lay, found.key.lay, found.value.lay].map(Some).into(),
        output: written,
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
    let traced = |operand| source(graph, operand, |_| true);
    let query = traced(node.inputs[0]?)?;
    let mut key = traced(node.inputs.get(1).copied().flatten()?)?;
    let mut value = traced(values)?;
    // A factor of the values is one of the result; it stays outside.
    if value.factor != 1.0 {
        value = Source::plain(graph, values)?;
    }
    let rank = shape.len();
    if [&query, &key, &value].iter().any(|source| source.lay.shape.len() != rank) {
        return None;
    }
    // The product's right operand is the keys transposed.
    key.lay.shape.swap(rank - 2, rank - 1);
    key.lay.strides.swap(rank - 2, rank - 1);
    // Stacks that broadcast are left to the products.
    let fits = |s: &Source| graph.is_f32(s.value) && s.lay.shape[..rank - 2] == shape[..rank - 2];
    let fit = [&query, &key, &value].into_iter().all(fits);
    fit.then_some(Found { query, key, value, mask, scale, empty, items })
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
