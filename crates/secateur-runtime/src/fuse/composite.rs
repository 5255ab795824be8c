//! Groups of nodes that spell out an operator become that operator.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use secateur_kernels::Activation;
use secateur_model::ops::{self, axis_index};
use secateur_model::{Attr, Node, Tensor, ValueId};

use super::Uses;
use crate::plan::Item;

pub(super) fn fuse(uses: &mut Uses<'_>, index: usize) {
    let Some(node) = uses.items[index].as_ref().map(|item| item.node.clone()) else { return };
    if let Some(found) = gated(uses, index, &node) {
        replace(uses, index, found);
    } else if let Some(found) = normalised(uses, index, &node) {
        let (last, found) = with_scale_and_bias(uses, index, found);
        replace(uses, last, found);
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
fn replace(uses: &mut Uses<'_>, last: usize, found: Found) {
    let Some(head) = uses.items[last].as_ref().map(|item| item.node.clone()) else { return };
    for &i in &found.items {
        uses.remove(i);
    }
    let node = Node {
        op_type: found.op_type.into(),
        opset: ops::NEWEST_OPSET,
        inputs: found.inputs.into_iter().map(Some).collect(),
        attrs: found.attrs.into_iter().map(|(name, value)| (name.to_string(), value)).collect(),
        domain: String::new(),
        ..head
    };
    uses.place(last, Item { node, ..Item::default() });
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
    uses: &Uses<'_>,
    value: ValueId,
    op_type: &str,
    items: &mut Vec<usize>,
) -> Option<(ValueId, f32)> {
    let (index, node) = uses.producer(value, op_type)?;
    let found = orders(node)?.into_iter().find_map(|(a, b)| {
        let constant = uses.scalar(b)?;
        (uses.shape(a).is_some() && uses.shape(a) == uses.shape(value)).then_some((a, constant))
    })?;
    items.push(index);
    Some(found)
}

fn unary(uses: &Uses<'_>, value: ValueId, op_type: &str, items: &mut Vec<usize>) -> Option<ValueId> {
    let (index, node) = uses.producer(value, op_type)?;
    items.push(index);
    node.inputs.first().copied().flatten()
}

/// A value times a constant, or the value itself.
fn scaled(uses: &Uses<'_>, value: ValueId, items: &mut Vec<usize>) -> (ValueId, f32) {
    match super::view::scaled(uses, value) {
        Some((inner, factor)) => {
            items.extend(uses.producers[value.index()]);
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

    fn find(uses: &Uses<'_>, value: ValueId) -> Option<Gate> {
        [sigmoid, softplus_tanh, hard_sigmoid, relu6, erf, tanh]
            .into_iter()
            .find_map(|rule| rule(uses, value))
    }
}

/// sigmoid(a · x): Swish.
fn sigmoid(uses: &Uses<'_>, value: ValueId) -> Option<Gate> {
    let mut items = Vec::new();
    let inner = unary(uses, value, "Sigmoid", &mut items)?;
    // Where the argument is a product it may be x itself: then x is found as a factor later.
    let (x, alpha) = scaled(uses, inner, &mut items);
    let attrs = vec![("alpha", Attr::Float(alpha))];
    Some(Gate { attrs, ..Gate::new(x, "Swish", 1.0, items) })
}

/// tanh(ln(1 + eˣ)): Mish.
fn softplus_tanh(uses: &Uses<'_>, value: ValueId) -> Option<Gate> {
    let mut items = Vec::new();
    let inner = unary(uses, value, "Tanh", &mut items)?;
    let x = unary(uses, inner, "Softplus", &mut items)?;
    Some(Gate::new(x, "Mish", 1.0, items))
}

/// min(max(x / 6 + 1/2, 0), 1): HardSwish.
fn hard_sigmoid(uses: &Uses<'_>, value: ValueId) -> Option<Gate> {
    let (index, node) = uses.producer(value, "HardSigmoid")?;
    match uses.activation(node)? {
        Activation::HardSigmoid { alpha, beta } if near(alpha, 1.0 / 6.0) && near(beta, 0.5) => {
            Some(Gate::new(node.inputs[0]?, "HardSwish", 1.0, vec![index]))
        }
        _ => None,
    }
}

/// min(max(x + 3, 0), 6), a sixth of it: HardSwish.
fn relu6(uses: &Uses<'_>, value: ValueId) -> Option<Gate> {
    let (index, node) = uses.producer(value, "Clip")?;
    if uses.activation(node)? != (Activation::Clip { min: 0.0, max: 6.0 }) {
        return None;
    }
    let mut items = vec![index];
    let (x, three) = with_scalar(uses, node.inputs[0]?, "Add", &mut items)?;
    near(three, 3.0).then(|| Gate::new(x, "HardSwish", 1.0 / 6.0, items))
}

/// 1 + erf(x / √2), half of it: GELU.
fn erf(uses: &Uses<'_>, value: ValueId) -> Option<Gate> {
    let mut items = Vec::new();
    let (inner, one) = with_scalar(uses, value, "Add", &mut items)?;
    let inner = unary(uses, inner, "Erf", &mut items)?;
    let (x, factor) = scaled(uses, inner, &mut items);
    (one == 1.0 && near(factor, FRAC_1_SQRT_2)).then(|| Gate::new(x, "Gelu", 0.5, items))
}

/// 1 + tanh(√(2/π) · (x + 0.044715 · x³)), half of it: GELU by its tanh formula.
fn tanh(uses: &Uses<'_>, value: ValueId) -> Option<Gate> {
    let mut items = Vec::new();
    let (inner, one) = with_scalar(uses, value, "Add", &mut items)?;
    let inner = unary(uses, inner, "Tanh", &mut items)?;
    let (sum, factor) = scaled(uses, inner, &mut items);
    let (add, node) = uses.producer(sum, "Add")?;
    items.push(add);
    // √(2/π) is half of 2/√π times √2.
    if one != 1.0 || !near(factor, FRAC_2_SQRT_PI * FRAC_1_SQRT_2) {
        return None;
    }
    orders(node)?.into_iter().find_map(|(x, cubic)| {
        let mut items = items.clone();
        let (power, factor) = scaled(uses, cubic, &mut items);
        if !near(factor, 0.044_715) {
            return None;
        }
        let (index, node) = uses.producer(power, "Pow")?;
        items.push(index);
        if node.inputs[0]? != x || uses.scalar(node.inputs.get(1).copied().flatten()?)? != 3.0 {
            return None;
        }
        let attrs = vec![("approximate", Attr::String(b"tanh".to_vec()))];
        Some(Gate { attrs, ..Gate::new(x, "Gelu", 0.5, items) })
    })
}

/// coefficient · x · gate(x), multiplied in any order.
fn gated(uses: &Uses<'_>, index: usize, node: &Node) -> Option<Found> {
    let out = node.outputs.first().copied().flatten()?;
    if !matches!(node.op_type.as_str(), "Mul" | "Div")
        || uses.producers[out.index()] != Some(index)
        || !uses.is_f32(out)
    {
        return None;
    }
    let mut candidates = Vec::new();
    leaves(uses, out, 3, &mut candidates);
    candidates.into_iter().find_map(|value| {
        let Gate { x, op_type, attrs, coefficient, mut items } = Gate::find(uses, value)?;
        let mut factors = Factors { x, gate: value, found: [0, 0], coefficient: 1.0 };
        factors.collect(uses, out, 3, &mut items)?;
        let whole = factors.found == [1, 1]
            && near(factors.coefficient, coefficient)
            && uses.shape(x) == uses.shape(out);
        (whole && uses.closed(&items, index)).then(|| Found { op_type, inputs: vec![x], attrs, items })
    })
}

/// The values a product multiplies, intermediate products included.
fn leaves(uses: &Uses<'_>, value: ValueId, depth: usize, out: &mut Vec<ValueId>) {
    out.push(value);
    let Some((_, node)) = uses.producer(value, "Mul").or_else(|| uses.producer(value, "Div")) else { return };
    if depth > 0 {
        node.inputs.iter().flatten().for_each(|&input| leaves(uses, input, depth - 1, out));
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
        uses: &Uses<'_>,
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
        let (index, node) = uses.producer(value, "Mul").or_else(|| uses.producer(value, "Div"))?;
        let &[Some(a), Some(b)] = node.inputs.as_slice() else { return None };
        if depth == 0 {
            return None;
        }
        items.push(index);
        if let Some(constant) = uses.scalar(b) {
            self.coefficient *= if node.op_type == "Div" { 1.0 / constant } else { constant };
            self.collect(uses, a, depth - 1, items)
        } else if node.op_type == "Div" {
            None
        } else if let Some(constant) = uses.scalar(a) {
            self.coefficient *= constant;
            self.collect(uses, b, depth - 1, items)
        } else {
            self.collect(uses, a, depth - 1, items)?;
            self.collect(uses, b, depth - 1, items)
        }
    }
}

/// The mean over the last axes, from one on: what is averaged and the first axis.
fn mean(uses: &Uses<'_>, value: ValueId, items: &mut Vec<usize>) -> Option<(ValueId, usize)> {
    let (index, node) = uses.producer(value, "ReduceMean")?;
    let x = node.inputs.first().copied().flatten()?;
    let rank = uses.shape(x)?.len();
    let axes = match node.inputs.get(1).copied().flatten() {
        Some(axes) => uses.constant(axes)?.to_i64s().ok()?,
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
fn square(uses: &Uses<'_>, value: ValueId, items: &mut Vec<usize>) -> Option<ValueId> {
    if let Some((index, node)) = uses.producer(value, "Pow") {
        items.push(index);
        let two = uses.scalar(node.inputs.get(1).copied().flatten()?)?;
        return node.inputs[0].filter(|_| two == 2.0);
    }
    let (index, node) = uses.producer(value, "Mul")?;
    items.push(index);
    node.inputs[0].filter(|x| node.inputs.get(1) == Some(&Some(*x)))
}

/// √(mean of squares + eps): what is squared, the first axis, eps.
fn root_mean_square(
    uses: &Uses<'_>,
    value: ValueId,
    items: &mut Vec<usize>,
) -> Option<(ValueId, usize, f32)> {
    let sum = match uses.producer(value, "Pow") {
        Some((index, node)) if uses.scalar(node.inputs.get(1).copied().flatten()?)? == 0.5 => {
            items.push(index);
            node.inputs[0]?
        }
        _ => unary(uses, value, "Sqrt", items)?,
    };
    let (variance, eps) = with_scalar(uses, sum, "Add", items)?;
    let (squares, axis) = mean(uses, variance, items)?;
    Some((square(uses, squares, items)?, axis, eps))
}

/// x / √(mean x² + eps), or the same of x − mean x: RMS and layer normalisation without scale and bias.
fn normalised(uses: &Uses<'_>, index: usize, node: &Node) -> Option<Found> {
    let out = node.outputs.first().copied().flatten()?;
    if !node.domain.is_empty() || !uses.is_f32(out) {
        return None;
    }
    let mut items = vec![index];
    let (x, axis, eps) = match node.op_type.as_str() {
        "Div" => {
            let (x, root) = orders(node)?[0];
            let (squared, axis, eps) = root_mean_square(uses, root, &mut items)?;
            (squared == x).then_some((x, axis, eps))?
        }
        "Mul" => orders(node)?.into_iter().find_map(|(x, inverse)| {
            let mut found = vec![index];
            let root = match uses.producer(inverse, "Div") {
                Some((index, node)) if uses.scalar(node.inputs[0]?)? == 1.0 => {
                    found.push(index);
                    node.inputs.get(1).copied().flatten()?
                }
                _ => unary(uses, inverse, "Reciprocal", &mut found)?,
            };
            let (squared, axis, eps) = root_mean_square(uses, root, &mut found)?;
            items = found;
            (squared == x).then_some((x, axis, eps))
        })?,
        _ => return None,
    };
    let mut op_type = "RMSNormalization";
    let mut input = x;
    let mut centred = items.clone();
    if let Some((index, node)) = uses.producer(x, "Sub") {
        centred.push(index);
        let (whole, average) = orders(node)?[0];
        if mean(uses, average, &mut centred) == Some((whole, axis)) && uses.closed(&centred, items[0]) {
            (op_type, input, items) = ("LayerNormalization", whole, centred);
        }
    }
    if !uses.closed(&items, index) || uses.shape(out) != uses.shape(input) {
        return None;
    }
    let attrs = vec![("axis", Attr::Int(axis as i64)), ("epsilon", Attr::Float(eps))];
    Some(Found { op_type, inputs: vec![input], attrs, items })
}

/// Takes the scale and bias that follow a normalisation along; without a scale it is 1.
fn with_scale_and_bias(uses: &mut Uses<'_>, index: usize, mut found: Found) -> (usize, Found) {
    let mut last = index;
    let follower = |uses: &Uses<'_>, last: usize, op_type: &str| -> Option<(usize, ValueId)> {
        let out = uses.items[last].as_ref()?.node.outputs[0]?;
        let (next, node) = uses.only_consumer(out)?;
        if node.op_type != op_type || !node.domain.is_empty() || node.opset < 7 {
            return None;
        }
        let (_, other) = orders(node)?.into_iter().find(|(a, _)| *a == out)?;
        let shape = uses.shape(out)?;
        let axis = match found.attrs.first() {
            Some((_, Attr::Int(axis))) => *axis as usize,
            _ => return None,
        };
        (uses.shape(other) == Some(&shape[axis..]) && uses.is_f32(other)).then_some((next, other))
    };
    let scale = follower(uses, last, "Mul");
    let bias = scale.and_then(|(next, _)| follower(uses, next, "Add"));
    match scale {
        Some((next, scale)) => {
            found.inputs.push(scale);
            found.items.push(next);
            last = next;
        }
        None => {
            let extents = match (found.attrs.first(), uses.shape(found.inputs[0])) {
                (Some((_, Attr::Int(axis))), Some(shape)) => shape[*axis as usize..].to_vec(),
                _ => Vec::new(),
            };
            let ones = vec![1f32; extents.iter().product()];
            if let Ok(ones) = Tensor::new(extents, ones) {
                found.inputs.push(uses.add_constant(ones));
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
