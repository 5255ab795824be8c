//! Operators that read or change shapes and leave elements as they are.

use super::axes::{Slot, Statement, pointwise, unchanged};
use super::cast::convert;
use super::params::{infer_one, ints, need_ints};
use super::{Fact, Facts, Inputs, Op, Passes, axis_index};
use crate::tensor::checked_len;
use crate::{DType, Error, Node, Result, Tensor};

pub(super) const OPS: &[Op] = &[
    Op::new("Identity", 1, infer_identity).axes(unchanged).passes(Passes::InPlace).eval(eval_identity),
    Op::new("Dropout", 1, infer_dropout).axes(pointwise).eval(eval_dropout),
    Op::new("Shape", 1, infer_shape).axes(axes_shape).eval(eval_shape),
    Op::new("Size", 1, infer_size).axes(axes_shape).eval(eval_size),
    Op::new("Reshape", 1, infer_reshape).axes(axes_reshape).passes(Passes::Moved).eval(eval_reshape),
    Op::new("Flatten", 1, infer_flatten).axes(axes_regroup).passes(Passes::Moved).eval(eval_flatten),
    Op::new("Squeeze", 1, infer_squeeze).axes(axes_regroup).passes(Passes::Moved).eval(eval_squeeze),
    Op::new("Unsqueeze", 1, infer_unsqueeze).axes(axes_regroup).passes(Passes::Moved).eval(eval_unsqueeze),
];

fn infer_identity(_: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    Ok(vec![inputs.need(0)?.clone()])
}

fn eval_identity(_: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    Ok(vec![inputs.need(0)?.clone()])
}

fn infer_dropout(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let data = inputs.need(0)?;
    // The mask is like the data before operator set 10, boolean since.
    let dtype = if node.opset < 10 { data.dtype } else { Some(DType::Bool) };
    let mask = Fact { dtype, shape: data.shape.clone(), ..Fact::default() };
    Ok(vec![data.clone(), mask])
}

/// `Dropout` as in inference: the data itself and a mask of ones. Training is random and refused,
/// except that a ratio of 0 drops nothing.
fn eval_dropout(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    // Before operator set 7 an attribute chose, and training was its default.
    let training = match inputs.get(2) {
        Some(mode) => mode.values::<bool>()?.contains(&true),
        None => node.opset < 7 && node.int_or("is_test", 0)? == 0,
    };
    let ratio = match inputs.get(1) {
        Some(ratio) => ratio.to_f32s()?.first().copied().unwrap_or(0.5),
        None => node.float_or("ratio", 0.5)?,
    };
    if training && ratio != 0.0 {
        return Err(Error::unsupported(format!("dropout in training with ratio {ratio} is random")));
    }
    if node.outputs.len() < 2 {
        return Ok(vec![data.clone()]);
    }
    let ones = Tensor::new(data.shape(), vec![true; data.len()])?;
    let mask = if node.opset < 10 { convert(&ones, data.dtype())? } else { ones };
    Ok(vec![data.clone(), mask])
}

fn shape_value(node: &Node, shape: &[usize]) -> Result<Tensor> {
    let rank = shape.len() as i64;
    let clamp = |v: i64| (if v < 0 { v + rank } else { v }).clamp(0, rank) as usize;
    let (start, end) = (clamp(node.int_or("start", 0)?), clamp(node.int_or("end", rank)?));
    let dims = shape.get(start..end).unwrap_or_default();
    Ok(Tensor::vector(dims.iter().map(|&d| d as i64).collect()))
}

/// `Shape` is known as soon as its input's shape is: it needs no evaluation.
fn infer_shape(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    Ok(vec![match inputs.need(0)?.shape() {
        Some(shape) => shape_value(node, shape)?.into(),
        None => Fact::unknown(Some(DType::I64)),
    }])
}

fn eval_shape(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    Ok(vec![shape_value(node, inputs.need(0)?.shape())?])
}

fn infer_size(_: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    Ok(vec![match inputs.need(0)?.shape() {
        Some(shape) => Tensor::scalar(shape.iter().product::<usize>() as i64).into(),
        None => Fact::new(DType::I64, []),
    }])
}

fn eval_size(_: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    Ok(vec![Tensor::scalar(inputs.need(0)?.len() as i64)])
}

/// The target of `Reshape`: 0 copies an extent (unless `allowzero`), −1 takes what is left.
fn reshape_target(node: &Node, from: &[usize], inputs: Inputs<'_>) -> Result<Vec<usize>> {
    let to = need_ints(node, "shape", inputs, 1)?;
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
        Some(i) if known != 0 && len.is_multiple_of(known) => shape[i] = len / known,
        Some(i) if known == 0 && len == 0 => shape[i] = 0,
        None if known == len => {}
        _ => return Err(Error::input(format!("cannot reshape {from:?} to {to:?}"))),
    }
    Ok(shape)
}

fn infer_reshape(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    infer_one(inputs, |from, params| reshape_target(node, from, params))
}

fn eval_reshape(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    Ok(vec![data.reshaped(reshape_target(node, data.shape(), inputs)?)?])
}

fn flatten_target(node: &Node, from: &[usize]) -> Result<Vec<usize>> {
    let axis = node.int_or("axis", 1)?;
    let axis = if axis == from.len() as i64 { from.len() } else { axis_index(axis, from.len())? };
    Ok(vec![from[..axis].iter().product(), from[axis..].iter().product()])
}

fn infer_flatten(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    infer_one(inputs, |from, _| flatten_target(node, from))
}

fn eval_flatten(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    Ok(vec![data.reshaped(flatten_target(node, data.shape())?)?])
}

/// The axes of a list, marked.
fn marked_axes(axes: &[i64], rank: usize) -> Result<Vec<bool>> {
    let mut marked = vec![false; rank];
    for &axis in axes {
        if std::mem::replace(&mut marked[axis_index(axis, rank)?], true) {
            return Err(Error::input(format!("axis {axis} is listed twice in {axes:?}")));
        }
    }
    Ok(marked)
}

/// `Squeeze` drops the axes listed, or all of extent 1.
fn squeeze_target(node: &Node, from: &[usize], inputs: Inputs<'_>) -> Result<Vec<usize>> {
    let Some(axes) = ints(node, "axes", inputs, 1)? else {
        return Ok(from.iter().copied().filter(|&d| d != 1).collect());
    };
    let dropped = marked_axes(&axes, from.len())?;
    let wrong = from.iter().zip(&dropped).any(|(&d, &drop)| drop && d != 1);
    if wrong {
        return Err(Error::input(format!("axes {axes:?} of shape {from:?} are not all of extent 1")));
    }
    Ok(from.iter().zip(dropped).filter(|&(_, drop)| !drop).map(|(&d, _)| d).collect())
}

fn infer_squeeze(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    infer_one(inputs, |from, params| squeeze_target(node, from, params))
}

fn eval_squeeze(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    Ok(vec![data.reshaped(squeeze_target(node, data.shape(), inputs)?)?])
}

/// `Unsqueeze` puts axes of extent 1 where the list says, counted in the output.
fn unsqueeze_target(node: &Node, from: &[usize], inputs: Inputs<'_>) -> Result<Vec<usize>> {
    let axes = need_ints(node, "axes", inputs, 1)?;
    let added = marked_axes(&axes, from.len() + axes.len())?;
    let mut rest = from.iter().copied();
    Ok(added.into_iter().map(|add| if add { 1 } else { rest.next().unwrap_or(1) }).collect())
}

fn infer_unsqueeze(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    infer_one(inputs, |from, params| unsqueeze_target(node, from, params))
}

fn eval_unsqueeze(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    Ok(vec![data.reshaped(unsqueeze_target(node, data.shape(), inputs)?)?])
}

/// What becomes of the extents has places of its own.
fn axes_shape(_: &Node, axes: &mut Statement<'_>) -> Result<()> {
    axes.fix_all(&axes.output(0));
    Ok(())
}

/// The same elements in the same order.
fn axes_regroup(_: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let (from, to) = (axes.product(&axes.input(0)), axes.product(&axes.output(0)));
    axes.same(from, to);
    Ok(())
}

/// The target is written down but where it says 0 (as it is) or −1 (what is left).
fn axes_reshape(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let target = match axes.value(1) {
        Some(target) => target.to_i64s()?,
        None => Vec::new(),
    };
    for (place, (extent, axis)) in target.into_iter().zip(axes.output(0)).enumerate() {
        if extent > 0 {
            axes.write(Slot::Input(1, place), axis);
        }
    }
    axes_regroup(node, axes)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{eval, eval_optional, node, with_attr, with_outputs};
    use super::*;
    use crate::Attr;

    fn data(shape: &[usize]) -> Tensor {
        Tensor::new(shape, vec![0f32; shape.iter().product()]).unwrap()
    }

    fn shape_after(node: &Node, from: &[usize], param: Option<&[i64]>) -> Result<Vec<usize>> {
        let (data, param) = (data(from), param.map(|p| Tensor::vector(p.to_vec())));
        Ok(eval_optional(node, &[Some(&data), param.as_ref()])?[0].shape().to_vec())
    }

    #[test]
    fn targets_of_a_reshape() {
        let reshape = node("Reshape", 14);
        assert_eq!(shape_after(&reshape, &[2, 3, 4], Some(&[0, -1])).unwrap(), [2, 12]);
        assert_eq!(shape_after(&reshape, &[0, 3], Some(&[3, -1])).unwrap(), [3, 0]);
        let zeros = with_attr(reshape.clone(), "allowzero", Attr::Int(1));
        assert_eq!(shape_after(&zeros, &[0, 3], Some(&[3, 0])).unwrap(), [3, 0]);
        for wrong in [&[-1i64, -1][..], &[5, -1], &[7], &[0, 0, 0, 0], &[-2, 12], &[i64::MAX, 2]] {
            assert!(shape_after(&reshape, &[2, 3, 4], Some(wrong)).is_err(), "{wrong:?}");
        }
        let old = with_attr(node("Reshape", 1), "shape", Attr::Ints(vec![4, -1]));
        assert_eq!(shape_after(&old, &[2, 6], None).unwrap(), [4, 3]);
    }

    #[test]
    fn axes_of_extent_one_go_and_come() {
        let (squeeze, unsqueeze) = (node("Squeeze", 13), node("Unsqueeze", 13));
        assert_eq!(shape_after(&squeeze, &[1, 3, 1], None).unwrap(), [3]);
        assert_eq!(shape_after(&squeeze, &[1, 3, 1], Some(&[-1])).unwrap(), [1, 3]);
        assert!(shape_after(&squeeze, &[1, 3, 1], Some(&[1])).is_err());
        assert_eq!(shape_after(&unsqueeze, &[3], Some(&[-1, 0])).unwrap(), [1, 3, 1]);
        assert!(shape_after(&unsqueeze, &[3], Some(&[1, -2])).is_err());
        let old = with_attr(node("Unsqueeze", 11), "axes", Attr::Ints(vec![1]));
        assert_eq!(shape_after(&old, &[3, 2], None).unwrap(), [3, 1, 2]);
    }

    #[test]
    fn parts_of_a_shape() {
        let part = |start, end| {
            let node = with_attr(node("Shape", 15), "start", Attr::Int(start));
            let node = with_attr(node, "end", Attr::Int(end));
            eval(&node, &[&data(&[2, 3, 4])]).unwrap()[0].to_i64s().unwrap()
        };
        assert_eq!(part(-2, 3), [3, 4]);
        assert_eq!(part(0, -1), [2, 3]);
        assert_eq!(part(-9, 9), [2, 3, 4]);
        assert!(part(2, 1).is_empty());
    }

    #[test]
    fn dropout_passes_through_but_for_training() {
        let (x, half, yes) = (data(&[2]), Tensor::scalar(0.5f32), Tensor::scalar(true));
        let dropout = with_outputs(node("Dropout", 13), 2);
        let out = eval(&dropout, &[&x, &half]).unwrap();
        assert_eq!((&out[0], out[1].values::<bool>().unwrap()), (&x, &[true, true][..]));
        assert!(eval(&dropout, &[&x, &half, &yes]).is_err());
        assert!(eval(&dropout, &[&x, &Tensor::scalar(0f32), &yes]).is_ok());
        let old = with_attr(with_outputs(node("Dropout", 6), 2), "is_test", Attr::Int(1));
        assert_eq!(eval(&old, &[&x]).unwrap()[1].values::<f32>().unwrap(), [1.0, 1.0]);
        assert!(eval(&node("Dropout", 6), &[&x]).is_err());
    }
}
