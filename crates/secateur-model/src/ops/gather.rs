//! Operators that take elements by index.

use super::axes::{Axis, Statement};
use super::cells::{Cell, len_of, room, with_cell};
use super::pick::pick;
use super::view::{View, walk};
use super::{Fact, Facts, Inputs, Op, axis_index};
use crate::tensor::strides;
use crate::{Error, Node, Result, Tensor};

pub(super) const OPS: &[Op] = &[
    Op::new("Gather", 1, infer_gather).axes(axes_gather).eval(eval_gather).views(gather_views),
    Op::new("GatherElements", 11, infer_gather_elements)
        .axes(axes_gather_elements)
        .eval(eval_gather_elements),
    Op::new("GatherND", 11, infer_gather_nd).axes(axes_gather_nd).eval(eval_gather_nd),
    Op::new("Compress", 9, infer_compress).axes(axes_compress).eval(eval_compress),
];

/// An index in `-extent..extent` as a position.
pub(super) fn position(index: i64, extent: usize) -> Result<usize> {
    let signed = extent as i64;
    let position = if index < 0 { index.saturating_add(signed) } else { index };
    if (0..signed).contains(&position) {
        Ok(position as usize)
    } else {
        Err(Error::input(format!("index {index} is out of range for an extent of {extent}")))
    }
}

fn gathered_shape(node: &Node, data: &[usize], indices: &[usize]) -> Result<(usize, Vec<usize>)> {
    let axis = axis_index(node.int_or("axis", 0)?, data.len())?;
    let shape = [&data[..axis], indices, &data[axis + 1..]].concat();
    len_of(&shape)?;
    Ok((axis, shape))
}

fn infer_gather(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let (data, indices) = (inputs.need(0)?, inputs.need(1)?);
    let shape = match (data.shape(), indices.shape()) {
        (Some(data), Some(indices)) => Some(gathered_shape(node, data, indices)?.1),
        _ => None,
    };
    Ok(vec![Fact { dtype: data.dtype, shape, ..Fact::default() }])
}

/// `Gather` takes positions of one axis, in the shape of the indices.
fn eval_gather(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let (data, indices) = (inputs.need(0)?, inputs.need(1)?);
    let (axis, shape) = gathered_shape(node, data.shape(), indices.shape())?;
    let extent = data.shape()[axis];
    let list = indices.to_i64s()?.into_iter().map(|i| position(i, extent)).collect::<Result<Vec<_>>>()?;
    let mut lists = vec![None; data.rank()];
    lists[axis] = Some(list);
    Ok(vec![pick(data, &lists, None)?.reshaped(shape)?])
}

/// A single position of the axis is a view.
fn gather_views(node: &Node, shape: &[usize], inputs: Inputs<'_>) -> Result<Option<Vec<View>>> {
    let indices = inputs.need(1)?;
    let (axis, gathered) = gathered_shape(node, shape, indices.shape())?;
    let &[index] = indices.to_i64s()?.as_slice() else { return Ok(None) };
    let mut view = View::of(shape).sliced(axis, position(index, shape[axis])?, 1, 1);
    view.strides.splice(axis..=axis, indices.shape().iter().map(|_| 0));
    Ok(Some(vec![View { shape: gathered, ..view }]))
}

/// The axis of an operator that indexes elements along it, with indices of the data's rank and, but
/// for the axis, within its extents.
pub(super) fn element_axis(node: &Node, data: &[usize], indices: &[usize]) -> Result<usize> {
    let axis = axis_index(node.int_or("axis", 0)?, data.len())?;
    let fits = indices.len() == data.len()
        && indices.iter().zip(data).enumerate().all(|(k, (i, d))| k == axis || i <= d);
    if fits {
        Ok(axis)
    } else {
        Err(Error::input(format!("indices of shape {indices:?} do not fit data of shape {data:?}")))
    }
}

fn infer_gather_elements(_: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    Ok(vec![Fact { dtype: inputs.need(0)?.dtype, shape: inputs.need(1)?.shape.clone(), ..Fact::default() }])
}

/// Calls `at` for every index, in order, with the place in the data that it points at along the axis.
pub(super) fn each_element(
    data: &[usize],
    indices: &Tensor,
    axis: usize,
    mut at: impl FnMut(usize),
) -> Result<()> {
    let (list, steps) = (indices.to_i64s()?, strides(data));
    let (mut outer, mut outer_steps) = (indices.shape().to_vec(), Vec::new());
    for (k, &step) in steps.iter().enumerate() {
        outer_steps.push(if k == axis { 0 } else { step as isize });
    }
    let (Some(row), Some(step)) = (outer.pop(), outer_steps.pop()) else {
        return Err(Error::input("expected data with at least one axis"));
    };
    if row == 0 {
        return Ok(());
    }
    let mut rows = list.chunks_exact(row);
    let mut result = Ok(());
    walk(0, &outer, &outer_steps, |base| {
        for (k, &index) in rows.next().unwrap_or_default().iter().enumerate() {
            match position(index, data[axis]) {
                Ok(position) => at(base + k * step as usize + position * steps[axis]),
                Err(error) if result.is_ok() => result = Err(error),
                Err(_) => {}
            }
        }
    });
    result
}

/// `GatherElements`: each index picks along the axis, the other coordinates being its own.
fn eval_gather_elements(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let (data, indices) = (inputs.need(0)?, inputs.need(1)?);
    let axis = element_axis(node, data.shape(), indices.shape())?;
    with_cell!(data.dtype(), C => {
        let cells = C::open(data)?;
        let mut out: Vec<C> = room(indices.len())?;
        each_element(data.shape(), indices, axis, |place| out.push(cells[place].clone()))?;
        Ok(vec![C::close(data.dtype(), indices.shape().to_vec(), out)?])
    })
}

/// Indices that each point at a block of the data: after `batch` common axes, the last axis of the
/// indices holds coordinates, what the data has beyond them is the block.
pub(super) struct Blocks {
    /// Where each block starts in the data.
    pub(super) starts: Vec<usize>,
    /// The elements of a block.
    pub(super) len: usize,
    /// The shape of the indices without their last axis, followed by the block's.
    pub(super) shape: Vec<usize>,
}

/// The shape of all blocks together, the number of coordinates, and the axes of a block's start.
fn block_shape(data: &[usize], indices: &[usize], batch: usize) -> Result<(Vec<usize>, usize)> {
    let refuse = || {
        Error::input(format!(
            "indices of shape {indices:?} do not point into data of shape {data:?} after {batch} batch axes"
        ))
    };
    let (&coordinates, outer) = indices.split_last().ok_or_else(refuse)?;
    let fits = outer.len() >= batch && data.len() >= batch + coordinates && data[..batch] == outer[..batch];
    if !fits {
        return Err(refuse());
    }
    let shape = [outer, &data[batch + coordinates..]].concat();
    len_of(&shape)?;
    Ok((shape, coordinates))
}

/// Resolves the indices of `GatherND` and `ScatterND`.
pub(super) fn blocks(data: &[usize], indices: &Tensor, batch: usize) -> Result<Blocks> {
    let (shape, coordinates) = block_shape(data, indices.shape(), batch)?;
    let steps = strides(data);
    let list = indices.to_i64s()?;
    let count: usize = indices.shape()[..indices.rank() - 1].iter().product();
    let each_batch = count.checked_div(data[..batch].iter().product()).unwrap_or(0);
    let batch_step: usize = data[batch..].iter().product();
    let starts = (0..count)
        .map(|n| {
            let mut start = n.checked_div(each_batch).unwrap_or(0) * batch_step;
            for (k, &index) in list[n * coordinates..][..coordinates].iter().enumerate() {
                start += position(index, data[batch + k])? * steps[batch + k];
            }
            Ok(start)
        })
        .collect::<Result<_>>()?;
    Ok(Blocks { starts, len: data[batch + coordinates..].iter().product(), shape })
}

fn batch_axes(node: &Node) -> Result<usize> {
    let batch = node.int_or("batch_dims", 0)?;
    usize::try_from(batch).map_err(|_| Error::input(format!("batch_dims {batch} is negative")))
}

fn infer_gather_nd(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let (data, indices) = (inputs.need(0)?, inputs.need(1)?);
    let shape = match (data.shape(), indices.shape()) {
        (Some(data), Some(indices)) => Some(block_shape(data, indices, batch_axes(node)?)?.0),
        _ => None,
    };
    Ok(vec![Fact { dtype: data.dtype, shape, ..Fact::default() }])
}

/// `GatherND`: the last axis of the indices holds coordinates of blocks.
fn eval_gather_nd(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let (data, indices) = (inputs.need(0)?, inputs.need(1)?);
    let Blocks { starts, len, shape } = blocks(data.shape(), indices, batch_axes(node)?)?;
    with_cell!(data.dtype(), C => {
        let cells = C::open(data)?;
        let mut out = room(len_of(&shape)?)?;
        for start in starts {
            out.extend_from_slice(&cells[start..][..len]);
        }
        Ok(vec![C::close(data.dtype(), shape, out)?])
    })
}

fn infer_compress(_: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    Ok(vec![Fact::unknown(inputs.need(0)?.dtype)])
}

/// `Compress` takes the positions whose condition is true, along an axis or of the flattened data.
fn eval_compress(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    let condition = inputs.need(1)?.values::<bool>()?;
    let (data, axis) = match node.int("axis")? {
        Some(axis) => (data.clone(), axis_index(axis, data.rank())?),
        None => (data.reshaped([data.len()])?, 0),
    };
    let extent = data.shape()[axis];
    if condition.len() > extent {
        let found = condition.len();
        return Err(Error::input(format!("{found} conditions for {extent} positions of axis {axis}")));
    }
    let mut lists = vec![None; data.rank()];
    lists[axis] = Some((0..condition.len()).filter(|&i| condition[i]).collect());
    Ok(vec![pick(&data, &lists, None)?])
}

/// Indices count positions along one axis of the data; their own axes come in its place.
fn axes_gather(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let (data, indices, y) = (axes.need(0, 1)?, axes.input(1), axes.output(0));
    let axis = axis_index(node.int_or("axis", 0)?, data.len())?;
    axes.fix(data[axis]);
    axes.same_all(&[&data[..axis], &indices, &data[axis + 1..]].concat(), &y);
    Ok(())
}

/// Elements along `axis` of data that indices or updates of the same rank point into: other axes are the same where
/// they are taken whole.
pub(super) fn axes_elements(axes: &mut Statement<'_>, data: &[Axis], others: &[Axis], axis: usize) {
    for (place, (&from, &to)) in data.iter().zip(others).enumerate() {
        if place != axis && axes.extent(from) == axes.extent(to) {
            axes.same(from, to);
        } else {
            axes.fix_all(&[from, to]);
        }
    }
}

fn axes_gather_elements(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let (data, indices) = (axes.input(0), axes.input(1));
    let axis = element_axis(node, &axes.shape(0), &axes.shape(1))?;
    axes_elements(axes, &data, &indices, axis);
    axes.same_all(&indices, &axes.output(0));
    Ok(())
}

fn axes_gather_nd(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let (data, indices, y) = (axes.input(0), axes.need(1, 1)?, axes.output(0));
    let batch = batch_axes(node)?;
    let (_, coordinates) = block_shape(&axes.shape(0), &axes.shape(1), batch)?;
    let Some((&last, outer)) = indices.split_last() else { return Ok(()) };
    axes.fix(last);
    axes.fix_all(&data[batch..batch + coordinates]);
    axes.same_all(&data[..batch], &outer[..batch]);
    axes.same_all(&[outer, &data[batch + coordinates..]].concat(), &y);
    Ok(())
}

fn axes_compress(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let Some(axis) = node.int("axis")? else {
        axes.fix_everything();
        return Ok(());
    };
    let axis = axis_index(axis, axes.input(0).len())?;
    axes.unchanged_but(axis);
    axes.fix_all(&axes.input(1));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{eval, node, with_attr};
    use super::*;
    use crate::Attr;

    fn grid() -> Tensor {
        Tensor::new([2, 3], (0..6i64).collect()).unwrap()
    }

    fn ints(shape: &[usize], values: &[i64]) -> Tensor {
        Tensor::new(shape, values.to_vec()).unwrap()
    }

    #[test]
    fn a_single_position_is_a_view() {
        let data = Tensor::new([2, 3, 4], (0..24i64).collect()).unwrap();
        for (axis, indices) in
            [(0, ints(&[], &[1])), (1, ints(&[1], &[-1])), (-1, ints(&[1, 1], &[2])), (1, ints(&[], &[0]))]
        {
            let node = with_attr(node("Gather", 13), "axis", Attr::Int(axis));
            let views = gather_views(&node, data.shape(), Inputs(&[None, Some(&indices)])).unwrap();
            let view = views.unwrap().pop().unwrap().take(&data).unwrap();
            assert_eq!(view, eval(&node, &[&data, &indices]).unwrap()[0]);
        }
        let more = ints(&[2], &[0, 0]);
        let node = with_attr(node("Gather", 13), "axis", Attr::Int(1));
        assert!(gather_views(&node, data.shape(), Inputs(&[None, Some(&more)])).unwrap().is_none());
    }

    #[test]
    fn positions_of_an_axis() {
        let gather = |axis, indices: &Tensor| {
            eval(&with_attr(node("Gather", 13), "axis", Attr::Int(axis)), &[&grid(), indices])
        };
        let out = &gather(-1, &ints(&[2, 2], &[0, -1, 1, 1])).unwrap()[0];
        assert_eq!(
            (out.shape(), &out.to_i64s().unwrap()[..]),
            (&[2, 2, 2][..], &[0, 2, 1, 1, 3, 5, 4, 4][..])
        );
        let row = &gather(0, &Tensor::scalar(1i32)).unwrap()[0];
        assert_eq!((row.shape(), &row.to_i64s().unwrap()[..]), (&[3][..], &[3, 4, 5][..]));
        assert!(gather(1, &Tensor::scalar(3i64)).is_err());
        assert!(gather(1, &Tensor::scalar(-4i64)).is_err());
    }

    #[test]
    fn elements_along_an_axis() {
        let elements = |axis, indices: &Tensor| {
            eval(&with_attr(node("GatherElements", 13), "axis", Attr::Int(axis)), &[&grid(), indices])
        };
        assert_eq!(elements(1, &ints(&[2, 2], &[2, 0, -2, 1])).unwrap()[0].to_i64s().unwrap(), [2, 0, 4, 4]);
        assert_eq!(elements(0, &ints(&[1, 3], &[1, 0, -1])).unwrap()[0].to_i64s().unwrap(), [3, 1, 5]);
        assert!(elements(0, &ints(&[1, 4], &[0; 4])).is_err());
        assert!(elements(1, &ints(&[1, 1], &[3])).is_err());
    }

    #[test]
    fn blocks_at_coordinates() {
        let data = ints(&[2, 2, 2], &[0, 1, 2, 3, 4, 5, 6, 7]);
        let at = |batch, indices: &Tensor| {
            eval(&with_attr(node("GatherND", 13), "batch_dims", Attr::Int(batch)), &[&data, indices])
        };
        assert_eq!(at(0, &ints(&[2, 2], &[0, 1, 1, -2])).unwrap()[0].to_i64s().unwrap(), [2, 3, 4, 5]);
        let batched = &at(1, &ints(&[2, 1], &[1, 0])).unwrap()[0];
        assert_eq!((batched.shape(), &batched.to_i64s().unwrap()[..]), (&[2, 2][..], &[2, 3, 4, 5][..]));
        assert!(at(0, &ints(&[1, 4], &[0; 4])).is_err());
        assert!(at(1, &ints(&[1, 1], &[0])).is_err());
    }

    #[test]
    fn positions_by_condition() {
        let yes = Tensor::vector(vec![false, true]);
        let along = with_attr(node("Compress", 11), "axis", Attr::Int(1));
        assert_eq!(eval(&along, &[&grid(), &yes]).unwrap()[0], ints(&[2, 1], &[1, 4]));
        assert_eq!(eval(&node("Compress", 11), &[&grid(), &yes]).unwrap()[0], ints(&[1], &[1]));
        let many = Tensor::vector(vec![true; 4]);
        assert!(eval(&along, &[&grid(), &many]).is_err());
    }
}
