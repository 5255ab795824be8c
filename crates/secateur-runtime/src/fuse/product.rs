//! What follows a product is computed at its end.

use secateur_kernels::Activation;
use secateur_model::ops::norm::batch_norm_affine;
use secateur_model::{Node, Tensor, ValueId};

use super::{Epilogue, FusionGraph};
use crate::kernels::is_affine;

/// An item that takes an epilogue.
struct Head {
    /// The axis of the output that holds the output channels; `None` where it takes an activation alone.
    channels: Option<usize>,
    /// Whether it can add a tensor of the output's shape.
    adds: bool,
}

fn head(graph: &FusionGraph<'_>, node: &Node) -> Option<Head> {
    let input = |i: usize| node.inputs.get(i).copied().flatten();
    let constant = |i: usize| input(i).is_none_or(|v| graph.is_constant(v));
    if !graph.is_f32(input(0)?) || !graph.is_f32(input(1)?) || !node.domain.is_empty() {
        return None;
    }
    let out = graph.shape(node.outputs.first().copied().flatten()?)?;
    let weights = constant(1) && constant(2);
    match node.op_type.as_str() {
        "Conv" if weights => Some(Head { channels: Some(1), adds: true }),
        "ConvTranspose" if weights => Some(Head { channels: Some(1), adds: false }),
        "Gemm" if weights => {
            // An addend that is no bias of the columns has the place of what would be added.
            let columns = *out.last()?;
            let bias = |v: ValueId| {
                graph.shape(v).is_some_and(|s| {
                    s.iter().product::<usize>() == 1
                        || s.iter().rev().skip(1).all(|&d| d == 1) && s.last() == Some(&columns)
                })
            };
            input(2).is_none_or(bias).then_some(Head { channels: Some(1), adds: true })
        }
        "MatMul" if constant(1) && graph.shape(input(1)?)?.len() == 2 => {
            Some(Head { channels: Some(out.len().checked_sub(1)?), adds: true })
        }
        "BatchNormalization" if is_affine(node).ok()? && node.outputs.len() == 1 => {
            Some(Head { channels: None, adds: false })
        }
        _ => None,
    }
}

pub(super) fn fuse(graph: &mut FusionGraph<'_>, start: usize) {
    let Some(item) = &graph.items[start] else { return };
    let Some(Head { channels, adds }) = head(graph, &item.node) else { return };
    let Some(mut value) = item.node.outputs[0] else { return };
    let Some(shape) = graph.shape(value).map(<[usize]>::to_vec) else { return };
    let mut epilogue = item.epilogue.clone();
    let mut extra = None;
    let mut chain = vec![start];
    while epilogue.act == Activation::None {
        let Some((index, node)) = graph.only_consumer(value) else { break };
        let Some(out) = node.outputs.first().copied().flatten() else { break };
        if node.outputs.iter().skip(1).any(Option::is_some)
            || !node.domain.is_empty()
            || graph.shape(out) != Some(&shape)
        {
            break;
        }
        let affine = |axis| {
            let (scale, shift) = channel_affine(graph, node, value, &shape, axis)?;
            epilogue.with_affine(&scale, &shift).filter(|folded| stays_finite(graph, &item.node, folded))
        };
        if let (None, Some(folded)) = (extra, channels.and_then(affine)) {
            epilogue = folded;
        } else if let (None, true, Some(other)) = (extra, adds, residual(graph, node, value, &shape)) {
            extra = Some(other);
        } else if let Some(act) = graph.activation(node).filter(|_| node.inputs[0] == Some(value)) {
            epilogue.act = act;
        } else {
            break;
        }
        chain.push(index);
        value = out;
    }
    let Some(&last) = chain.last().filter(|_| chain.len() > 1) else { return };
    let Some(mut head) = graph.remove(start) else { return };
    for &index in &chain[1..] {
        graph.remove(index);
    }
    if let Some(extra) = extra {
        epilogue.add = Some(head.node.inputs.len());
        head.node.inputs.push(Some(extra));
    }
    head.epilogue = epilogue;
    head.node.outputs = vec![Some(value)];
    graph.place(last, head);
}

/// Whether a product's weights and addends stay finite when an epilogue's factors are multiplied into them: a
/// weight that becomes infinite gives NaN for an input of 0.
fn stays_finite(graph: &FusionGraph<'_>, node: &Node, epilogue: &Epilogue) -> bool {
    let largest = |values: &Option<Vec<f32>>, otherwise: f32| {
        values.as_ref().map_or(otherwise, |v| v.iter().fold(0f32, |most, v| most.max(v.abs())))
    };
    let alpha = node.float_or("alpha", 1.0).unwrap_or(1.0).abs();
    let factor = f64::from(largest(&epilogue.scale, 1.0)) * f64::from(alpha.max(1.0));
    // Most factors make weights smaller, and then these need not be looked at.
    if factor <= 1.0 {
        return true;
    }
    let shift = f64::from(largest(&epilogue.shift, 0.0));
    [1, 2].iter().filter_map(|&input| node.inputs.get(input).copied().flatten()).all(|input| {
        graph.largest(input).is_some_and(|most| f64::from(most) * factor + shift <= f64::from(f32::MAX))
    })
}

/// A batch-norm, or a constant factor or addend of each channel, as scale and shift.
fn channel_affine(
    graph: &FusionGraph<'_>,
    node: &Node,
    value: ValueId,
    shape: &[usize],
    axis: usize,
) -> Option<(Vec<f32>, Vec<f32>)> {
    let channels = *shape.get(axis)?;
    let at = node.inputs.iter().position(|i| *i == Some(value))?;
    let constant = |i: usize| graph.constant(node.inputs.get(i).copied().flatten()?);
    match node.op_type.as_str() {
        "BatchNormalization" if at == 0 && axis == 1 && is_affine(node).ok()? => {
            let parameter = |i| constant(i)?.to_f32s().ok().filter(|v| v.len() == channels);
            let epsilon = node.float_or("epsilon", 1e-5).ok()?;
            Some(batch_norm_affine(&parameter(1)?, &parameter(2)?, &parameter(3)?, &parameter(4)?, epsilon))
        }
        // Before opset 7 operands broadcast by an attribute.
        "Add" | "Mul" | "Sub" | "Div" if node.opset >= 7 => {
            let values = channel_values(constant(1 - at)?, shape, axis)?;
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

/// The elements of a constant that has one for each channel, or one for all.
fn channel_values(constant: &Tensor, shape: &[usize], axis: usize) -> Option<Vec<f32>> {
    let channels = *shape.get(axis)?;
    let skip = shape.len().checked_sub(constant.rank())?;
    let along_channels =
        constant.shape().iter().enumerate().all(|(i, &d)| d == 1 || skip + i == axis && d == channels);
    match constant.values::<f32>().ok().filter(|_| along_channels)? {
        &[v] => Some(vec![v; channels]),
        values => Some(values.to_vec()),
    }
}

/// The other operand of an addition of two computed tensors of equal shape.
fn residual(graph: &FusionGraph<'_>, node: &Node, value: ValueId, shape: &[usize]) -> Option<ValueId> {
    if node.op_type != "Add" {
        return None;
    }
    let other = node.inputs.iter().flatten().copied().find(|i| *i != value)?;
    (graph.shape(other) == Some(shape) && graph.is_f32(other)).then_some(other)
}
