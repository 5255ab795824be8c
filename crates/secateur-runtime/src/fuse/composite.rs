//! Groups of nodes that spell out an operator become that operator.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use secateur_kernels::Activation;
use secateur_model::ops::{self, axis_index};
use secateur_model::{Attr, Node, Tensor, ValueId};

use super::FusionGraph;
use crate::item::Item;

pub(super) fn fuse(graph: &mut FusionGraph<'_>, index: usize) {
    let Some(node) = graph.items[index].as_ref().map(|item| item.node.clone()) else { return };
    if let Some(found) = gated(graph, index, &node) {
        replace(graph, index, found);
    } else if let Some(found) = normalised(graph, index, &node) {
        let (last, found) = with_scale_and_bias(graph, index, found);
        replace(graph, last, found);
    }
}

/// An operator and the items that spell it out.
struct Found {
    op_type: &'static str,
    inputs: Vec<ValueId>,
    attrs: Vec<(&'static str, Attr)>,
    items: Vec<usize>,
}

/// Puts the operator where the last of its items stands.
fn replace(graph: &mut FusionGraph<'_>, last: usize, found: Found) {
    let Some(head) = graph.items[last].as_ref().map(|item| item.node.clone()) else { return };
    for &i in &found.items {
        graph.remove(i);
    }
    let node = Node {
        op_type: found.op_type.into(),
        opset: ops::NEWEST_OPSET,
        inputs: found.inputs.into_iter().map(Some).collect(),
        attrs: found.attrs.into_iter().map(|(name, value)| (name.to_string(), value)).collect(),
        domain: String::new(),
        ..head
    };
    graph.place(last, Item { node, ..Item::default() });
}

fn near(a: f32, b: f32) -> bool {
    (a - b).abs() <= 1e-4 * b.abs()
}

/// The operands of a node of two operands, in both orders.
fn orders(node: &Node) -> Option<[(ValueId, ValueId); 2]> {
    match node.inputs.as_slice() {
        &[Some(a), Some(b)] => Some([(a, b), (b, a)]),
        _ => None,
    }
}

/// The node of a binary operator with a scalar constant on either side: the other operand.
fn with_scalar(
    graph: &FusionGraph<'_>,
    value: ValueId,
    op_type: &str,
    items: &mut Vec<usize>,
) -> Option<(ValueId, f32)> {
    let (index, node) = graph.producer(value, op_type)?;
    let found = orders(node)?.into_iter().find_map(|(a, b)| {
        let constant = graph.scalar(b)?;
        (graph.shape(a).is_some() && graph.shape(a) == graph.shape(value)).then_some((a, constant))
    })?;
    items.push(index);
    Some(found)
}

fn unary(graph: &FusionGraph<'_>, value: ValueId, op_type: &str, items: &mut Vec<usize>) -> Option<ValueId> {
    let (index, node) = graph.producer(value, op_type)?;
    items.push(index);
    node.inputs.first().copied().flatten()
}

/// A value times a constant, or the value itself.
fn scaled(graph: &FusionGraph<'_>, value: ValueId, items: &mut Vec<usize>) -> (ValueId, f32) {
    match super::view::scaled(graph, value) {
        Some((inner, factor)) => {
            items.extend(graph.producers[value.index()]);
            (inner, factor)
        }
        None => (value, 1.0),
    }
}

/// A gate: what multiplies x in an activation of the form coefficient · x · gate(x).
struct Gate {
    x: ValueId,
    op_type: &'static str,
    attrs: Vec<(&'static str, Attr)>,
    coefficient: f32,
    items: Vec<usize>,
}

impl Gate {
    fn new(x: ValueId, op_type: &'static str, coefficient: f32, items: Vec<usize>) -> Self {
        Gate { x, op_type, attrs: Vec::new(), coefficient, items }
    }

    fn find(graph: &FusionGraph<'_>, value: ValueId) -> Option<Gate> {
        [sigmoid, softplus_tanh, hard_sigmoid, relu6, erf, tanh]
            .into_iter()
            .find_map(|rule| rule(graph, value))
    }
}

/// sigmoid(a · x): Swish.
fn sigmoid(graph: &FusionGraph<'_>, value: ValueId) -> Option<Gate> {
    let mut items = Vec::new();
    let inner = unary(graph, value, "Sigmoid", &mut items)?;
    // Where the argument is a product it may be x itself: then x is found as a factor later.
    let (x, alpha) = scaled(graph, inner, &mut items);
    let attrs = vec![("alpha", Attr::Float(alpha))];
    Some(Gate { attrs, ..Gate::new(x, "Swish", 1.0, items) })
}

/// tanh(ln(1 + eˣ)): Mish.
fn softplus_tanh(graph: &FusionGraph<'_>, value: ValueId) -> Option<Gate> {
    let mut items = Vec::new();
    let inner = unary(graph, value, "Tanh", &mut items)?;
    let x = unary(graph, inner, "Softplus", &mut items)?;
    Some(Gate::new(x, "Mish", 1.0, items))
}

/// min(max(x / 6 + 1/2, 0), 1): HardSwish.
fn hard_sigmoid(graph: &FusionGraph<'_>, value: ValueId) -> Option<Gate> {
    let (index, node) = graph.producer(value, "HardSigmoid")?;
    match graph.activation(node)? {
        Activation::HardSigmoid { alpha, beta } if near(alpha, 1.0 / 6.0) && near(beta, 0.5) => {
            Some(Gate::new(node.inputs[0]?, "HardSwish", 1.0, vec![index]))
        }
        _ => None,
    }
}

/// min(max(x + 3, 0), 6), a sixth of it: HardSwish.
fn relu6(graph: &FusionGraph<'_>, value: ValueId) -> Option<Gate> {
    let (index, node) = graph.producer(value, "Clip")?;
    if graph.activation(node)? != (Activation::Clip { min: 0.0, max: 6.0 }) {
        return None;
    }
    let mut items = vec![index];
    let (x, three) = with_scalar(graph, node.inputs[0]?, "Add", &mut items)?;
    near(three, 3.0).then(|| Gate::new(x, "HardSwish", 1.0 / 6.0, items))
}

/// 1 + erf(x / √2), half of it: GELU.
fn erf(graph: &FusionGraph<'_>, value: ValueId) -> Option<Gate> {
    let mut items = Vec::new();
    let (inner, one) = with_scalar(graph, value, "Add", &mut items)?;
    let inner = unary(graph, inner, "Erf", &mut items)?;
    let (x, factor) = scaled(graph, inner, &mut items);
    (one == 1.0 && near(factor, FRAC_1_SQRT_2)).then(|| Gate::new(x, "Gelu", 0.5, items))
}

/// 1 + tanh(√(2/π) · (x + 0.044715 · x³)), half of it: GELU by its tanh formula.
fn tanh(graph: &FusionGraph<'_>, value: ValueId) -> Option<Gate> {
    let mut items = Vec::new();
    let (inner, one) = with_scalar(graph, value, "Add", &mut items)?;
    let inner = unary(graph, inner, "Tanh", &mut items)?;
    let (sum, factor) = scaled(graph, inner, &mut items);
    let (add, node) = graph.producer(sum, "Add")?;
    items.push(add);
    // √(2/π) is half of 2/√π times √2.
    if one != 1.0 || !near(factor, FRAC_2_SQRT_PI * FRAC_1_SQRT_2) {
        return None;
    }
    orders(node)?.into_iter().find_map(|(x, cubic)| {
        let mut items = items.clone();
        let (power, factor) = scaled(graph, cubic, &mut items);
        if !near(factor, 0.044_715) {
            return None;
        }
        let (index, node) = graph.producer(power, "Pow")?;
        items.push(index);
        if node.inputs[0]? != x || graph.scalar(node.inputs.get(1).copied().flatten()?)? != 3.0 {
            return None;
        }
        let attrs = vec![("approximate", Attr::String(b"tanh".to_vec()))];
        Some(Gate { attrs, ..Gate::new(x, "Gelu", 0.5, items) })
    })
}

/// coefficient · x · gate(x), multiplied in any order.
fn gated(graph: &FusionGraph<'_>, index: usize, node: &Node) -> Option<Found> {
    let out = node.outputs.first().copied().flatten()?;
    if !matches!(node.op_type.as_str(), "Mul" | "Div")
        || graph.producers[out.index()] != Some(index)
        || !graph.is_f32(out)
    {
        return None;
    }
    let mut candidates = Vec::new();
    leaves(graph, out, 3, &mut candidates);
    candidates.into_iter().find_map(|value| {
        let Gate { x, op_type, attrs, coefficient, mut items } = Gate::find(graph, value)?;
        let mut factors = Factors { x, gate: value, found: [0, 0], coefficient: 1.0 };
        factors.collect(graph, out, 3, &mut items)?;
        let whole = factors.found == [1, 1]
            && near(factors.coefficient, coefficient)
            && graph.shape(x) == graph.shape(out);
        (whole && graph.closed(&items, index)).then(|| Found { op_type, inputs: vec![x], attrs, items })
    })
}

/// The values a product multiplies, intermediate products included.
fn leaves(graph: &FusionGraph<'_>, value: ValueId, depth: usize, out: &mut Vec<ValueId>) {
    out.push(value);
    let Some((_, node)) = graph.producer(value, "Mul").or_else(|| graph.producer(value, "Div")) else {
        return;
    };
    if depth > 0 {
        node.inputs.iter().flatten().for_each(|&input| leaves(graph, input, depth - 1, out));
    }
}

/// The factors of a product of x, a gate and constants.
struct Factors {
    x: ValueId,
    gate: ValueId,
    /// How often x and the gate were found.
    found: [usize; 2],
    coefficient: f32,
}

impl Factors {
    fn collect(
        &mut self,
        graph: &FusionGraph<'_>,
        value: ValueId,
        depth: usize,
        items: &mut Vec<usize>,
    ) -> Option<()> {
        if value == self.x {
            self.found[0] += 1;
            return Some(());
        }
        if value == self.gate {
            self.found[1] += 1;
            return Some(());
        }
        let (index, node) = graph.producer(value, "Mul").or_else(|| graph.producer(value, "Div"))?;
        let &[Some(a), Some(b)] = node.inputs.as_slice() else { return None };
        if depth == 0 {
            return None;
        }
        items.push(index);
        if let Some(constant) = graph.scalar(b) {
            self.coefficient *= if node.op_type == "Div" { 1.0 / constant } else { constant };
            self.collect(graph, a, depth - 1, items)
        } else if node.op_type == "Div" {
            None
        } else if let Some(constant) = graph.scalar(a) {
            self.coefficient *= constant;
            self.collect(graph, b, depth - 1, items)
        } else {
            self.collect(graph, a, depth - 1, items)?;
            self.collect(graph, b, depth - 1, items)
        }
    }
}

/// The mean over the last axes, from one on: what is averaged and the first axis.
fn mean(graph: &FusionGraph<'_>, value: ValueId, items: &mut Vec<usize>) -> Option<(ValueId, usize)> {
    let (index, node) = graph.producer(value, "ReduceMean")?;
    let x = node.inputs.first().copied().flatten()?;
    let rank = graph.shape(x)?.len();
    let axes = match node.inputs.get(1).copied().flatten() {
        Some(axes) => graph.constant(axes)?.to_i64s().ok()?,
        None => node.ints("axes").ok()??.to_vec(),
    };
    let mut axes = axes.into_iter().map(|a| axis_index(a, rank).ok()).collect::<Option<Vec<usize>>>()?;
    axes.sort_unstable();
    let first = *axes.first()?;
    if node.int_or("keepdims", 1).ok()? != 1 || !axes.into_iter().eq(first..rank) {
        return None;
    }
    items.push(index);
    Some((x, first))
}

/// x²: what is squared.
fn square(graph: &FusionGraph<'_>, value: ValueId, items: &mut Vec<usize>) -> Option<ValueId> {
    if let Some((index, node)) = graph.producer(value, "Pow") {
        items.push(index);
        let two = graph.scalar(node.inputs.get(1).copied().flatten()?)?;
        return node.inputs[0].filter(|_| two == 2.0);
    }
    let (index, node) = graph.producer(value, "Mul")?;
    items.push(index);
    node.inputs[0].filter(|x| node.inputs.get(1) == Some(&Some(*x)))
}

/// √(mean of squares + eps): what is squared, the first axis, eps.
fn root_mean_square(
    graph: &FusionGraph<'_>,
    value: ValueId,
    items: &mut Vec<usize>,
) -> Option<(ValueId, usize, f32)> {
    let sum = match graph.producer(value, "Pow") {
        Some((index, node)) if graph.scalar(node.inputs.get(1).copied().flatten()?)? == 0.5 => {
            items.push(index);
            node.inputs[0]?
        }
        _ => unary(graph, value, "Sqrt", items)?,
    };
    let (variance, eps) = with_scalar(graph, sum, "Add", items)?;
    let (squares, axis) = mean(graph, variance, items)?;
    Some((square(graph, squares, items)?, axis, eps))
}

/// x / √(mean x² + eps), or the same of x − mean x: RMS and layer normalisation without scale and bias.
fn normalised(graph: &FusionGraph<'_>, index: usize, node: &Node) -> Option<Found> {
    let out = node.outputs.first().copied().flatten()?;
    if !node.domain.is_empty() || !graph.is_f32(out) {
        return None;
    }
    let mut items = vec![index];
    let (x, axis, eps) = match node.op_type.as_str() {
        "Div" => {
            let (x, root) = orders(node)?[0];
            let (squared, axis, eps) = root_mean_square(graph, root, &mut items)?;
            (squared == x).then_some((x, axis, eps))?
        }
        "Mul" => orders(node)?.into_iter().find_map(|(x, inverse)| {
            let mut found = vec![index];
            let root = match graph.producer(inverse, "Div") {
                Some((index, node)) if graph.scalar(node.inputs[0]?)? == 1.0 => {
                    found.push(index);
                    node.inputs.get(1).copied().flatten()?
                }
                _ => unary(graph, inverse, "Reciprocal", &mut found)?,
            };
            let (squared, axis, eps) = root_mean_square(graph, root, &mut found)?;
            items = found;
            (squared == x).then_some((x, axis, eps))
        })?,
        _ => return None,
    };
    let mut op_type = "RMSNormalization";
    let mut input = x;
    let mut centred = items.clone();
    if let Some((index, node)) = graph.producer(x, "Sub") {
        centred.push(index);
        let (whole, average) = orders(node)?[0];
        if mean(graph, average, &mut centred) == Some((whole, axis)) && graph.closed(&centred, items[0]) {
            (op_type, input, items) = ("LayerNormalization", whole, centred);
        }
    }
    if !graph.closed(&items, index) || graph.shape(out) != graph.shape(input) {
        return None;
    }
    let attrs = vec![("axis", Attr::Int(axis as i64)), ("epsilon", Attr::Float(eps))];
    Some(Found { op_type, inputs: vec![input], attrs, items })
}

/// Takes the scale and bias that follow a normalisation along; without a scale it is 1.
fn with_scale_and_bias(graph: &mut FusionGraph<'_>, index: usize, mut found: Found) -> (usize, Found) {
    let mut last = index;
    let follower = |graph: &FusionGraph<'_>, last: usize, op_type: &str| -> Option<(usize, ValueId)> {
        let out = graph.items[last].as_ref()?.node.outputs[0]?;
        let (next, node) = graph.only_consumer(out)?;
        if node.op_type != op_type || !node.domain.is_empty() || node.opset < 7 {
            return None;
        }
        let (_, other) = orders(node)?.into_iter().find(|(a, _)| *a == out)?;
        let shape = graph.shape(out)?;
        let axis = match found.attrs.first() {
            Some((_, Attr::Int(axis))) => *axis as usize,
            _ => return None,
        };
        (graph.shape(other) == Some(&shape[axis..]) && graph.is_f32(other)).then_some((next, other))
    };
    let scale = follower(graph, last, "Mul");
    let bias = scale.and_then(|(next, _)| follower(graph, next, "Add"));
    match scale {
        Some((next, scale)) => {
            found.inputs.push(scale);
            found.items.push(next);
            last = next;
        }
        None => {
            let extents = match (found.attrs.first(), graph.shape(found.inputs[0])) {
                (Some((_, Attr::Int(axis))), Some(shape)) => shape[*axis as usize..].to_vec(),
                _ => Vec::new(),
            };
            let ones = vec![1f32; extents.iter().product()];
            if let Ok(ones) = Tensor::new(extents, ones) {
                found.inputs.push(graph.add_constant(ones));
            }
        }
    }
    if let Some((next, bias)) = bias.filter(|_| found.op_type == "LayerNormalization") {
        found.inputs.push(bias);
        found.items.push(next);
        last = next;
    }
    (last, found)
}
