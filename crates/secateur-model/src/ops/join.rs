//! `Concat` and `Split`.

use super::axes::{Axis, Slot, Statement};
use super::cells::{Cell, len_of, room, with_cell};
use super::params::{constants, ints};
use super::view::View;
use super::{Fact, Facts, Inputs, ONE_TYPE, Op, Passes, axis_index};
use crate::{Error, Node, Result, Tensor};

pub(super) const OPS: &[Op] = &[
    Op::new("Concat", 1, infer_concat)
        .types(ONE_TYPE)
        .axes(axes_concat)
        .passes(Passes::Joined)
        .eval(eval_concat),
    Op::new("Split", 1, infer_split)
        .axes(axes_split)
        .passes(Passes::Part)
        .eval(eval_split)
        .views(|node, shape, inputs| split_views(node, shape, inputs).map(Some)),
];

/// The shape and axis of `Concat`.
fn concat_plan(node: &Node, shapes: &[&[usize]]) -> Result<(Vec<usize>, usize)> {
    let Some((first, rest)) = shapes.split_first() else {
        return Err(Error::input("expected at least one input to join"));
    };
    let axis = axis_index(node.int_or("axis", 1)?, first.len())?;
    let mut shape = first.to_vec();
    for other in rest {
        let fits = other.len() == shape.len()
            && shape.iter().zip(*other).enumerate().all(|(k, (a, b))| k == axis || a == b);
        if !fits {
            return Err(Error::input(format!("shapes {shapes:?} do not join along axis {axis}")));
        }
        shape[axis] = shape[axis]
            .checked_add(other[axis])
            .ok_or_else(|| Error::input(format!("shapes {shapes:?} are too large to join")))?;
    }
    len_of(&shape)?;
    Ok((shape, axis))
}

fn infer_concat(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let dtype = (0..inputs.len()).find_map(|i| inputs.dtype(i));
    let shapes: Option<Vec<&[usize]>> = (0..inputs.len()).map(|i| inputs.shape(i)).collect();
    let shape = shapes.map(|shapes| concat_plan(node, &shapes)).transpose()?;
    Ok(vec![Fact { dtype, shape: shape.map(|(shape, _)| shape), ..Fact::default() }])
}

fn eval_concat(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let tensors: Vec<&Tensor> = (0..inputs.len()).map(|i| inputs.need(i)).collect::<Result<_>>()?;
    let shapes: Vec<&[usize]> = tensors.iter().map(|t| t.shape()).collect();
    let (shape, axis) = concat_plan(node, &shapes)?;
    let dtype = tensors[0].dtype();
    with_cell!(dtype, C => {
        let mut parts = Vec::with_capacity(tensors.len());
        for tensor in &tensors {
            if tensor.dtype() != dtype {
                return Err(Error::input(format!("cannot join {} to {dtype}", tensor.dtype())));
            }
            parts.push((C::open(tensor)?, tensor.shape()[axis..].iter().product::<usize>()));
        }
        let mut out = room(len_of(&shape)?)?;
        for outer in 0..shape[..axis].iter().product() {
            for (cells, block) in &parts {
                out.extend_from_slice(&cells[outer * block..][..*block]);
            }
        }
        Ok(vec![C::close(dtype, shape, out)?])
    })
}

/// The axis of `Split` and the extent of each part.
fn split_plan(node: &Node, shape: &[usize], inputs: Inputs<'_>) -> Result<(usize, Vec<usize>)> {
    let axis = axis_index(node.int_or("axis", 0)?, shape.len())?;
    let extent = shape[axis];
    let sizes = match ints(node, "split", inputs, 1)? {
        Some(sizes) => {
            let extents: Option<Vec<usize>> = sizes.iter().map(|&s| usize::try_from(s).ok()).collect();
            extents.ok_or_else(|| Error::input(format!("parts {sizes:?}: expected none below 0")))?
        }
        None => {
            // Equal parts, the last one smaller where the extent does not divide (operator set 18).
            let parts = node.outputs.len();
            if let Some(n) = node.int("num_outputs")?.filter(|&n| usize::try_from(n) != Ok(parts)) {
                return Err(Error::input(format!(
                    "the attribute `num_outputs` is {n}, but the node has {parts} outputs"
                )));
            }
            if parts == 0 || (node.opset < 18 && !extent.is_multiple_of(parts)) {
                return Err(Error::input(format!(
                    "axis {axis} of shape {shape:?} does not split into {parts} equal parts"
                )));
            }
            let each = extent.div_ceil(parts);
            (0..parts).map(|i| each.min(extent.saturating_sub(i * each))).collect()
        }
    };
    if sizes.len() != node.outputs.len() {
        return Err(Error::input(format!(
            "{} parts for the {} outputs of the node",
            sizes.len(),
            node.outputs.len()
        )));
    }
    if sizes.iter().try_fold(0usize, |sum, &s| sum.checked_add(s)) != Some(extent) {
        return Err(Error::input(format!("parts {sizes:?} do not add up to axis {axis} of shape {shape:?}")));
    }
    Ok((axis, sizes))
}

fn infer_split(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let data = inputs.need(0)?;
    let (Some(shape), Some(params)) = (data.shape(), constants(inputs, 1)) else {
        return Ok(vec![Fact::unknown(data.dtype); node.outputs.len()]);
    };
    let (axis, sizes) = split_plan(node, shape, Inputs(&params))?;
    let part = |size| {
        let mut shape = shape.to_vec();
        shape[axis] = size;
        Fact { dtype: data.dtype, shape: Some(shape), ..Fact::default() }
    };
    Ok(sizes.into_iter().map(part).collect())
}

fn eval_split(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    split_views(node, data.shape(), inputs)?.into_iter().map(|part| part.take(data)).collect()
}

fn split_views(node: &Node, shape: &[usize], inputs: Inputs<'_>) -> Result<Vec<View>> {
    let (axis, sizes) = split_plan(node, shape, inputs)?;
    let starts = sizes.iter().scan(0, |next, size| Some(std::mem::replace(next, *next + size)));
    Ok(starts.zip(&sizes).map(|(start, &size)| View::of(shape).sliced(axis, start, 1, size)).collect())
}

/// The axes of values that differ along one: the whole has the others' segments there.
fn axes_joined(axes: &mut Statement<'_>, whole: &[Axis], parts: &[Vec<Axis>], axis: usize) {
    let along: Vec<Axis> = parts.iter().filter_map(|part| part.get(axis)).copied().collect();
    let joined = axes.concat(&along);
    for part in parts {
        let others = part.iter().zip(whole).enumerate().filter(|(place, _)| *place != axis);
        others.for_each(|(_, (&a, &b))| axes.same(a, b));
    }
    axes.same(whole[axis], joined);
}

fn axes_concat(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let whole = axes.need_output(0, 1)?;
    let axis = axis_index(node.int_or("axis", 1)?, whole.len())?;
    let parts: Vec<Vec<Axis>> = (0..node.inputs.len()).map(|i| axes.input(i)).collect();
    axes_joined(axes, &whole, &parts, axis);
    Ok(())
}

fn axes_split(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let (whole, shape) = (axes.need(0, 1)?, axes.shape(0));
    let params = axes.params(1)?;
    let params: Vec<Option<&Tensor>> = params.iter().map(Option::as_ref).collect();
    let (axis, sizes) = split_plan(node, &shape, Inputs(&params))?;
    let parts: Vec<Vec<Axis>> = sizes
        .iter()
        .enumerate()
        .map(|(i, &size)| match axes.has_output(i) {
            true => axes.output(i),
            // Nothing takes this part.
            false => {
                let mut part = whole.clone();
                part[axis] = axes.dim(size);
                part
            }
        })
        .collect();
    for (i, part) in parts.iter().enumerate() {
        let slot = if node.opset < 13 { Slot::AttrAt("split", i) } else { Slot::Input(1, i) };
        axes.write(slot, part[axis]);
    }
    axes_joined(axes, &whole, &parts, axis);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{eval, node, with_attr, with_outputs};
    use super::*;
    use crate::Attr;

    fn ints(values: &[i64]) -> Tensor {
        Tensor::vector(values.to_vec())
    }

    #[test]
    fn parts_of_a_split() {
        let data = ints(&[0, 1, 2, 3, 4, 5, 6]);
        let extents =
            |parts: Result<Vec<Tensor>>| -> Vec<usize> { parts.unwrap().iter().map(Tensor::len).collect() };
        let three = with_outputs(node("Split", 18), 3);
        let three = with_attr(three, "num_outputs", Attr::Int(3));
        assert_eq!(extents(eval(&three, &[&data])), [3, 3, 1]);
        let four = with_attr(with_outputs(node("Split", 18), 5), "num_outputs", Attr::Int(5));
        assert_eq!(extents(eval(&four, &[&data])), [2, 2, 2, 1, 0]);
        let given = with_outputs(node("Split", 13), 2);
        assert_eq!(extents(eval(&given, &[&data, &ints(&[0, 7])])), [0, 7]);
        assert!(eval(&given, &[&data, &ints(&[2, 6])]).is_err());
        for absurd in [-1, 0, 4, 6, 1 << 28, i64::MAX] {
            let claimed = with_attr(with_outputs(node("Split", 18), 5), "num_outputs", Attr::Int(absurd));
            assert!(eval(&claimed, &[&data]).is_err(), "{absurd}");
        }
        let old = with_attr(with_outputs(node("Split", 2), 2), "split", Attr::Ints(vec![3, 4]));
        assert_eq!(extents(eval(&old, &[&data])), [3, 4]);
        assert!(eval(&with_outputs(node("Split", 11), 2), &[&data]).is_err());
    }

    #[test]
    fn joining_checks_types_and_extents() {
        let concat = with_attr(node("Concat", 13), "axis", Attr::Int(1));
        let a = Tensor::new([2, 1], vec![1i64, 2]).unwrap();
        let b = Tensor::new([2, 2], vec![3i64, 4, 5, 6]).unwrap();
        let out = eval(&concat, &[&a, &b]).unwrap();
        assert_eq!(out[0].values::<i64>().unwrap(), [1, 3, 4, 2, 5, 6]);
        assert!(eval(&concat, &[&a, &Tensor::new([1, 2], vec![0i64; 2]).unwrap()]).is_err());
        assert!(eval(&concat, &[&a, &Tensor::new([2, 1], vec![0f32; 2]).unwrap()]).is_err());
    }
}
