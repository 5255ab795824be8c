//! Operators that move whole elements by a rule of shapes: transposing, cutting, joining, repeating.

use super::axes::{Axis, Slot, Statement};
use super::cells::{Cell, len_of, room, with_cell};
use super::params::{infer_one, ints, need_ints, shape_from};
use super::view::View;
use super::{Fact, Facts, Inputs, ONE_TYPE, Op, Passes, axis_index, broadcast};
use crate::{Error, Node, Result, Tensor};

pub(super) const OPS: &[Op] = &[
    Op::new("Transpose", 1, infer_transpose).axes(axes_transpose).passes(Passes::Moved).eval(eval_transpose),
    Op::new("Concat", 1, infer_concat)
        .types(ONE_TYPE)
        .axes(axes_concat)
        .passes(Passes::Joined)
        .eval(eval_concat),
    Op::new("Split", 1, infer_split).axes(axes_split).passes(Passes::Part).eval(eval_split),
    Op::new("Slice", 1, infer_slice).axes(axes_slice).passes(Passes::Part).eval(eval_slice),
    Op::new("Expand", 8, infer_expand).axes(axes_expand).eval(eval_expand),
    Op::new("Tile", 6, infer_tile).axes(axes_tile).eval(eval_tile),
    Op::new("DepthToSpace", 1, infer_depth_to_space).axes(axes_depth_to_space).eval(eval_depth_to_space),
    Op::new("SpaceToDepth", 1, infer_space_to_depth).axes(axes_space_to_depth).eval(eval_space_to_depth),
];

/// `Transpose`: axis `perm[k]` of the input becomes axis k; without `perm` the order is reversed.
fn transpose_view(node: &Node, shape: &[usize]) -> Result<View> {
    let perm = match node.ints("perm")? {
        None => (0..shape.len()).rev().collect(),
        Some(perm) => {
            let axes = perm.iter().map(|&p| axis_index(p, shape.len())).collect::<Result<Vec<_>>>()?;
            let mut sorted = axes.clone();
            sorted.sort_unstable();
            if !sorted.iter().copied().eq(0..shape.len()) {
                return Err(Error::input(format!("perm {perm:?} does not order the axes of {shape:?}")));
            }
            axes
        }
    };
    Ok(View::of(shape).permuted(&perm))
}

fn infer_transpose(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    infer_one(inputs, |shape, _| Ok(transpose_view(node, shape)?.shape))
}

fn eval_transpose(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    Ok(vec![transpose_view(node, data.shape())?.take(data)?])
}

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
    let (Some(shape), Some(params)) = (data.shape(), super::params::constants(inputs, 1)) else {
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
    let (axis, sizes) = split_plan(node, data.shape(), inputs)?;
    let whole = View::of(data.shape());
    let mut start = 0;
    sizes
        .into_iter()
        .map(|size| {
            let part = whole.clone().sliced(axis, start, 1, size).take(data);
            start += size;
            part
        })
        .collect()
}

/// What `Slice` takes of an axis: `len` elements from `start` on, `step` apart.
struct Cut {
    axis: usize,
    start: usize,
    step: i64,
    len: usize,
}

/// `Slice` from attributes (operator set 1) or inputs (10): bounds count from the end where negative
/// and are clamped; a negative step walks backwards.
fn slice_plan(node: &Node, shape: &[usize], inputs: Inputs<'_>) -> Result<Vec<Cut>> {
    let starts = need_ints(node, "starts", inputs, 1)?;
    let ends = need_ints(node, "ends", inputs, 2)?;
    let axes = ints(node, "axes", inputs, 3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = inputs.get(4).map(Tensor::to_i64s).transpose()?.unwrap_or_else(|| vec![1; starts.len()]);
    if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
        return Err(Error::input(format!(
            "starts {starts:?}, ends {ends:?}, axes {axes:?} and steps {steps:?} differ in length"
        )));
    }
    let mut cuts = Vec::with_capacity(starts.len());
    let mut seen = vec![false; shape.len()];
    for (((start, end), axis), step) in starts.into_iter().zip(ends).zip(axes).zip(steps) {
        let axis = axis_index(axis, shape.len())?;
        if std::mem::replace(&mut seen[axis], true) {
            return Err(Error::input(format!("axis {axis} is sliced twice")));
        }
        let extent = shape[axis] as i64;
        let absolute = |v: i64| if v < 0 { v.saturating_add(extent) } else { v };
        let (start, len) = match step {
            0 => return Err(Error::input("a step of 0 slices nothing")),
            _ if extent == 0 => (0, 0),
            1.. => {
                let (start, end) = (absolute(start).clamp(0, extent), absolute(end).clamp(0, extent));
                (start, (end - start).max(0).unsigned_abs().div_ceil(step.unsigned_abs()))
            }
            _ => {
                let start = absolute(start).clamp(0, extent - 1);
                let end = absolute(end).clamp(-1, extent - 1);
                (start, (start - end).max(0).unsigned_abs().div_ceil(step.unsigned_abs()))
            }
        };
        cuts.push(Cut { axis, start: start as usize, step, len: len as usize });
    }
    Ok(cuts)
}

fn slice_view(node: &Node, shape: &[usize], inputs: Inputs<'_>) -> Result<View> {
    let cuts = slice_plan(node, shape, inputs)?;
    Ok(cuts
        .into_iter()
        .fold(View::of(shape), |view, Cut { axis, start, step, len }| view.sliced(axis, start, step, len)))
}

fn infer_slice(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    infer_one(inputs, |shape, params| Ok(slice_view(node, shape, params)?.shape))
}

fn eval_slice(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    Ok(vec![slice_view(node, data.shape(), inputs)?.take(data)?])
}

/// `Expand` broadcasts both ways: the data's own extents stay where the target says 1.
fn expand_view(shape: &[usize], inputs: Inputs<'_>) -> Result<View> {
    let target = shape_from(&inputs.need(1)?.to_i64s()?)?;
    let to = broadcast(&[shape, &target])?;
    len_of(&to)?;
    View::of(shape).expanded(&to)
}

fn infer_expand(_: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    infer_one(inputs, |shape, params| Ok(expand_view(shape, params)?.shape))
}

fn eval_expand(_: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    Ok(vec![expand_view(data.shape(), inputs)?.take(data)?])
}

/// The repetitions and the shape of `Tile`.
fn tile_plan(shape: &[usize], inputs: Inputs<'_>) -> Result<(Vec<usize>, Vec<usize>)> {
    let repeats = inputs.need(1)?.to_i64s()?;
    if repeats.len() != shape.len() {
        return Err(Error::input(format!("repeats {repeats:?} for shape {shape:?}: expected one an axis")));
    }
    let repeats = shape_from(&repeats)?;
    let too_large = || Error::input(format!("repeats {repeats:?} of shape {shape:?} are too large"));
    let tiled: Option<Vec<usize>> = shape.iter().zip(&repeats).map(|(&d, &r)| d.checked_mul(r)).collect();
    let tiled = tiled.ok_or_else(too_large)?;
    len_of(&tiled)?;
    Ok((repeats, tiled))
}

fn infer_tile(_: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    infer_one(inputs, |shape, params| Ok(tile_plan(shape, params)?.1))
}

fn eval_tile(_: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    let (repeats, shape) = tile_plan(data.shape(), inputs)?;
    let whole = View::of(data.shape());
    let mut view = View { offset: 0, shape: Vec::new(), strides: Vec::new() };
    for ((&extent, &stride), repeat) in whole.shape.iter().zip(&whole.strides).zip(repeats) {
        view.shape.extend([repeat, extent]);
        view.strides.extend([0, stride]);
    }
    Ok(vec![view.take(data)?.reshaped(shape)?])
}

/// The block size, batch, channels, height and width of an image operator.
fn blocks(node: &Node, shape: &[usize]) -> Result<(usize, [usize; 4])> {
    let block = node.int("blocksize")?.and_then(|b| usize::try_from(b).ok()).filter(|&b| b > 0);
    let block = block.ok_or_else(|| Error::input("`blocksize` must be at least 1"))?;
    let dims = <[usize; 4]>::try_from(shape)
        .map_err(|_| Error::input(format!("expected an image batch of rank 4, found shape {shape:?}")))?;
    Ok((block, dims))
}

/// `DepthToSpace`: channels become blocks of pixels. The input seen with six axes, their order, and
/// the output's shape.
fn depth_to_space_plan(node: &Node, shape: &[usize]) -> Result<([usize; 6], [usize; 6], [usize; 4])> {
    let (block, [n, c, h, w]) = blocks(node, shape)?;
    let depth =
        block.checked_mul(block).map(|area| c / area).filter(|depth| depth * block * block == c).ok_or_else(
            || Error::input(format!("{c} channels do not divide into blocks of {block}×{block}")),
        )?;
    let (split, order) = match node.str_or("mode", "DCR")? {
        "DCR" => ([n, block, block, depth, h, w], [0, 3, 4, 1, 5, 2]),
        "CRD" => ([n, depth, block, block, h, w], [0, 1, 4, 2, 5, 3]),
        mode => return Err(Error::input(format!("mode `{mode}`: expected DCR or CRD"))),
    };
    Ok((split, order, [n, depth, len_of(&[h, block])?, len_of(&[w, block])?]))
}

fn infer_depth_to_space(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    infer_one(inputs, |shape, _| Ok(depth_to_space_plan(node, shape)?.2.to_vec()))
}

fn eval_depth_to_space(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    let (split, order, shape) = depth_to_space_plan(node, data.shape())?;
    Ok(vec![View::of(&split).permuted(&order).take(data)?.reshaped(shape)?])
}

/// `SpaceToDepth`: blocks of pixels become channels. The input seen with six axes, their order, and
/// the output's shape.
fn space_to_depth_plan(node: &Node, shape: &[usize]) -> Result<([usize; 6], [usize; 6], [usize; 4])> {
    let (block, [n, c, h, w]) = blocks(node, shape)?;
    if !h.is_multiple_of(block) || !w.is_multiple_of(block) {
        return Err(Error::input(format!("{h}×{w} pixels do not divide into blocks of {block}×{block}")));
    }
    let (rows, columns) = (h / block, w / block);
    // No overflow: a block with pixels is no larger than the image.
    let depth =
        if h == 0 || w == 0 { c.saturating_mul(block).saturating_mul(block) } else { c * block * block };
    let order = match node.str_or("mode", "DCR")? {
        "DCR" => [0, 3, 5, 1, 2, 4],
        "CRD" => [0, 1, 3, 5, 2, 4],
        mode => return Err(Error::input(format!("mode `{mode}`: expected DCR or CRD"))),
    };
    Ok(([n, c, rows, block, columns, block], order, [n, depth, rows, columns]))
}

fn infer_space_to_depth(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    infer_one(inputs, |shape, _| Ok(space_to_depth_plan(node, shape)?.2.to_vec()))
}

fn eval_space_to_depth(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    let (split, order, shape) = space_to_depth_plan(node, data.shape())?;
    Ok(vec![View::of(&split).permuted(&order).take(data)?.reshaped(shape)?])
}

fn axes_transpose(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let (x, y) = (axes.input(0), axes.output(0));
    let places: Vec<usize> = (0..x.len()).collect();
    // The view of a shape whose extents are the axes' numbers is their order.
    let order = transpose_view(node, &places)?.shape;
    order.into_iter().zip(y).for_each(|(from, to)| axes.same(x[from], to));
    Ok(())
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

/// An axis that is cut with a step of 1 consists of what is before the cut, the result and what is after it.
fn axes_slice(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let (x, y, shape) = (axes.input(0), axes.output(0), axes.shape(0));
    let params = axes.params(1)?;
    let params: Vec<Option<&Tensor>> = params.iter().map(Option::as_ref).collect();
    let cuts = slice_plan(node, &shape, Inputs(&params))?;
    for (axis, (&from, &to)) in x.iter().zip(&y).enumerate() {
        match cuts.iter().enumerate().find(|(_, cut)| cut.axis == axis) {
            None => axes.same(from, to),
            Some((place, &Cut { start, step: 1, len, .. })) => {
                let (before, after) = (axes.dim(start), axes.dim(shape[axis] - start - len));
                let whole = axes.concat(&[before, to, after]);
                axes.same(from, whole);
                let end = axes.concat(&[before, to]);
                let slots = match node.opset < 10 {
                    true => [Slot::AttrAt("starts", place), Slot::AttrAt("ends", place)],
                    false => [Slot::Input(1, place), Slot::Input(2, place)],
                };
                slots.into_iter().zip([before, end]).for_each(|(slot, axis)| axes.write(slot, axis));
            }
            Some(_) => axes.fix_all(&[from, to]),
        }
    }
    Ok(())
}

fn axes_expand(_: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let (x, y, rank) = (axes.input(0), axes.output(0), axes.shape(1).iter().product::<usize>());
    axes.meet_all(&x, &y);
    for (place, &axis) in y.iter().rev().take(rank).rev().enumerate() {
        axes.write(Slot::Input(1, place), axis);
    }
    Ok(())
}

/// An axis repeated r times is r · axis.
fn axes_tile(_: &Node, axes: &mut Statement<'_>) -> Result<()> {
    for (place, (from, to)) in axes.input(0).into_iter().zip(axes.output(0)).enumerate() {
        let repeats = axes.dim(axes.extent(to).checked_div(axes.extent(from)).unwrap_or(0));
        let tiled = axes.product(&[repeats, from]);
        axes.same(to, tiled);
        axes.write(Slot::Input(1, place), repeats);
    }
    Ok(())
}

/// Six axes in another order. `from` and `to` say how many neighbours of them each axis of the input and the output
/// takes; the ones of the block size, whose number is an attribute, are fixed.
fn axes_blocks(
    axes: &mut Statement<'_>,
    (split, order): ([usize; 6], [usize; 6]),
    (from, to): ([usize; 4], [usize; 4]),
    blocks: [usize; 2],
) {
    let six = split.map(|extent| axes.dim(extent));
    axes.fix_all(&blocks.map(|block| six[block]));
    for (operand, order, takes) in [(axes.input(0), [0, 1, 2, 3, 4, 5], from), (axes.output(0), order, to)] {
        let mut left = &order[..];
        for (axis, count) in operand.into_iter().zip(takes) {
            let (own, rest) = left.split_at(count);
            let product = axes.product(&own.iter().map(|&place| six[place]).collect::<Vec<_>>());
            axes.same(axis, product);
            left = rest;
        }
    }
}

fn axes_depth_to_space(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let (split, order, _) = depth_to_space_plan(node, &axes.shape(0))?;
    let blocks = if node.str_or("mode", "DCR")? == "DCR" { [1, 2] } else { [2, 3] };
    axes_blocks(axes, (split, order), ([1, 3, 1, 1], [1, 1, 2, 2]), blocks);
    Ok(())
}

fn axes_space_to_depth(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let (split, order, _) = space_to_depth_plan(node, &axes.shape(0))?;
    axes_blocks(axes, (split, order), ([1, 1, 2, 2], [1, 3, 1, 1]), [3, 5]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{eval, node, with_attr, with_outputs};
    use super::*;
    use crate::{Attr, DType, Data};

    fn ints(values: &[i64]) -> Tensor {
        Tensor::vector(values.to_vec())
    }

    fn strings(values: &[&str]) -> Tensor {
        Tensor::vector(values.iter().map(|s| s.to_string()).collect())
    }

    #[test]
    fn slices() {
        const MIN: i64 = i64::MIN;
        const MAX: i64 = i64::MAX;
        let data = ints(&[0, 1, 2, 3, 4, 5]);
        // (start, end, step, elements)
        let table: &[(i64, i64, i64, &[i64])] = &[
            (1, 4, 1, &[1, 2, 3]),
            (-2, MAX, 1, &[4, 5]),
            (0, MAX, 4, &[0, 4]),
            (-1, MIN, -1, &[5, 4, 3, 2, 1, 0]),
            (4, 0, -3, &[4, 1]),
            (MAX, -3, -1, &[5, 4]),
            (3, 3, 1, &[]),
            (4, 2, 1, &[]),
            (1, 3, -1, &[]),
            (MIN, MIN, -1, &[0]),
            (2, 5, MAX, &[2]),
        ];
        for &(start, end, step, expected) in table {
            let params = [start, end, 0, step].map(|v| ints(&[v]));
            let inputs = [&data, &params[0], &params[1], &params[2], &params[3]];
            let out = eval(&node("Slice", 13), &inputs).unwrap();
            assert_eq!(out[0].values::<i64>().unwrap(), expected, "{start}:{end}:{step}");
        }
        let node = node("Slice", 1);
        let node = with_attr(node, "starts", Attr::Ints(vec![1]));
        let node = with_attr(node, "ends", Attr::Ints(vec![1000]));
        let node = with_attr(node, "axes", Attr::Ints(vec![1]));
        let out = eval(&node, &[&data.reshaped([2, 3]).unwrap()]).unwrap();
        assert_eq!((out[0].shape(), out[0].values::<i64>().unwrap()), (&[2, 2][..], &[1, 2, 4, 5][..]));
    }

    #[test]
    fn slices_without_meaning_are_refused() {
        let data = Tensor::new([2, 3], vec![0f32; 6]).unwrap();
        let slice = |starts: &[i64], ends: &[i64], axes: &[i64], steps: &[i64]| {
            eval(&node("Slice", 13), &[&data, &ints(starts), &ints(ends), &ints(axes), &ints(steps)])
        };
        assert!(slice(&[0], &[1], &[2], &[1]).is_err());
        assert!(slice(&[0], &[1], &[0], &[0]).is_err());
        assert!(slice(&[0], &[1, 2], &[0], &[1]).is_err());
        assert!(slice(&[0, 0], &[1, 1], &[0, -2], &[1, 1]).is_err());
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
    fn every_element_type_moves() {
        let transpose = node("Transpose", 13);
        let words = strings(&["a", "b", "c", "d", "e", "f"]).reshaped([2, 3]).unwrap();
        let out = eval(&transpose, &[&words]).unwrap();
        assert_eq!(out[0].values::<String>().unwrap(), ["a", "d", "b", "e", "c", "f"]);
        // 0..6 of four bits, the first in the low half of a byte.
        let narrow = Tensor::from_data([2, 3], Data::Raw(DType::U4, vec![0x10, 0x32, 0x54])).unwrap();
        let out = eval(&transpose, &[&narrow]).unwrap();
        assert_eq!(out[0].data(), &Data::Raw(DType::U4, vec![0x30, 0x41, 0x52]));
        let complex = Tensor::from_data([2], Data::Raw(DType::C128, (0..32).collect())).unwrap();
        let joined =
            eval(&with_attr(node("Concat", 13), "axis", Attr::Int(-1)), &[&complex, &complex]).unwrap();
        let twice: Vec<u8> = (0..32).chain(0..32).collect();
        assert_eq!(joined[0].data(), &Data::Raw(DType::C128, twice));
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

    #[test]
    fn a_shape_cannot_ask_for_more_than_there_is() {
        let one = Tensor::scalar(0f32);
        let huge = ints(&[i64::MAX, i64::MAX]);
        assert!(eval(&node("Expand", 13), &[&one, &huge]).is_err());
        assert!(eval(&node("Expand", 13), &[&one, &ints(&[1 << 60])]).is_err());
        assert!(eval(&node("Tile", 13), &[&ints(&[0, 0]), &ints(&[i64::MAX])]).is_err());
    }

    #[test]
    fn tiles_and_blocks() {
        let data = ints(&[0, 1, 2, 3]).reshaped([2, 2]).unwrap();
        let out = eval(&node("Tile", 13), &[&data, &ints(&[2, 3])]).unwrap();
        assert_eq!(out[0].shape(), [4, 6]);
        assert_eq!(out[0].values::<i64>().unwrap()[..12], [0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3]);
        let depth = Tensor::new([1, 4, 1, 2], (0..8i64).collect()).unwrap();
        let to_space = with_attr(node("DepthToSpace", 13), "blocksize", Attr::Int(2));
        let out = eval(&to_space, &[&depth]).unwrap();
        assert_eq!(out[0].values::<i64>().unwrap(), [0, 2, 1, 3, 4, 6, 5, 7]);
        let to_depth = with_attr(node("SpaceToDepth", 13), "blocksize", Attr::Int(2));
        assert_eq!(eval(&to_depth, &[&out[0]]).unwrap()[0], depth);
        assert!(eval(&to_depth, &[&depth]).is_err());
    }
}
