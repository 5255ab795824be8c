//! Operators that read or change shapes and leave elements as they are.

use super::{Fact, Facts, Inputs, Op, axis_index};
use crate::tensor::checked_len;
use crate::{DType, Error, Node, Result, Tensor};

pub(super) const OPS: &[Op] = &[
    Op::new("Identity", 1, infer_identity).eval(eval_identity),
    Op::new("Shape", 1, infer_shape),
    Op::new("Size", 1, infer_size),
    Op::new("Reshape", 5, infer_reshape).eval(eval_reshape),
    Op::new("Flatten", 1, infer_flatten).eval(eval_flatten),
];

fn infer_identity(_: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    Ok(vec![inputs.need(0)?.clone()])
}

fn eval_identity(_: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    Ok(vec![inputs.need(0)?.clone()])
}

/// `Shape` is known as soon as its input's shape is: it needs no evaluation.
fn infer_shape(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let Some(shape) = inputs.need(0)?.shape() else {
        return Ok(vec![Fact::unknown(Some(DType::I64))]);
    };
    let rank = shape.len() as i64;
    let clamp = |v: i64| (if v < 0 { v + rank } else { v }).clamp(0, rank) as usize;
    let (start, end) = (clamp(node.int_or("start", 0)?), clamp(node.int_or("end", rank)?));
    let dims = shape.get(start..end).unwrap_or_default();
    Ok(vec![Tensor::vector(dims.iter().map(|&d| d as i64).collect()).into()])
}

fn infer_size(_: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    Ok(vec![match inputs.need(0)?.shape() {
        Some(shape) => Tensor::scalar(shape.iter().product::<usize>() as i64).into(),
        None => Fact::new(DType::I64, []),
    }])
}

/// The target of `Reshape`: 0 copies an extent (unless `allowzero`), −1 takes what is left.
fn reshape_target(node: &Node, from: &[usize], to: &[i64]) -> Result<Vec<usize>> {
    let allow_zero = node.int_or("allowzero", 0)? != 0;
    let mut shape = Vec::with_capacity(to.len());
    let mut open = None;
    for (i, &d) in to.iter().enumerate() {
        shape.push(match d {
            -1 if open.is_none() => {
                open = Some(i);
                1
            }
            0 if !allow_zero => *from
                .get(i)
                .ok_or_else(|| Error::input(format!("target {to:?} copies axis {i} of shape {from:?}")))?,
            d => usize::try_from(d).map_err(|_| Error::input(format!("target {to:?} of a reshape")))?,
        });
    }
    let len: usize = from.iter().product();
    let known = checked_len(&shape).ok_or_else(|| Error::input(format!("target {to:?} is too large")))?;
    match open {
        Some(i) if known != 0 && len % known == 0 => shape[i] = len / known,
        Some(i) if known == 0 && len == 0 => shape[i] = 0,
        None if known == len => {}
        _ => return Err(Error::input(format!("cannot reshape {from:?} to {to:?}"))),
    }
    Ok(shape)
}

fn infer_reshape(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let data = inputs.need(0)?;
    Ok(vec![match (data.shape(), inputs.value(1)) {
        (Some(from), Some(to)) => {
            Fact { dtype: data.dtype, shape: Some(reshape_target(node, from, &to.to_i64s()?)?), value: None }
        }
        _ => Fact::unknown(data.dtype),
    }])
}

fn eval_reshape(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    let shape = reshape_target(node, data.shape(), &inputs.need(1)?.to_i64s()?)?;
    Ok(vec![data.reshaped(shape)?])
}

fn flatten_target(node: &Node, from: &[usize]) -> Result<Vec<usize>> {
    let axis = node.int_or("axis", 1)?;
    let axis = if axis == from.len() as i64 { from.len() } else { axis_index(axis, from.len())? };
    Ok(vec![from[..axis].iter().product(), from[axis..].iter().product()])
}

fn infer_flatten(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let data = inputs.need(0)?;
    let shape = data.shape().map(|from| flatten_target(node, from)).transpose()?;
    Ok(vec![Fact { dtype: data.dtype, shape, value: None }])
}

fn eval_flatten(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    Ok(vec![data.reshaped(flatten_target(node, data.shape())?)?])
}
