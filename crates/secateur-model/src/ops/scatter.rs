//! Operators that put elements where indices say.

use super::axes::Statement;
use super::cells::{Cell, with_cell};
use super::gather::{Blocks, axes_elements, blocks, each_element, element_axis};
use super::number::{Number, wrong_type};
use super::{Fact, Facts, Inputs, Op, axis_index};
use crate::{Error, Node, Result, Tensor, with_number_type};

pub(super) const OPS: &[Op] = &[
    Op::new("Scatter", 9, infer_scatter)
        .types(&[&[0, 2]])
        .axes(axes_scatter_elements)
        .eval(eval_scatter_elements),
    Op::new("ScatterElements", 11, infer_scatter)
        .types(&[&[0, 2]])
        .axes(axes_scatter_elements)
        .eval(eval_scatter_elements),
    Op::new("ScatterND", 11, infer_scatter).types(&[&[0, 2]]).axes(axes_scatter_nd).eval(eval_scatter_nd),
    Op::new("TensorScatter", 24, infer_scatter).types(&[&[0, 1]]).eval(eval_tensor_scatter),
];

fn infer_scatter(_: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let data = inputs.need(0)?;
    Ok(vec![Fact { dtype: data.dtype, shape: data.shape.clone(), ..Fact::default() }])
}

/// `ScatterElements`: each index puts its update along the axis, the other coordinates being its own.
fn eval_scatter_elements(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let (data, indices, updates) = (inputs.need(0)?, inputs.need(1)?, inputs.need(2)?);
    let axis = element_axis(node, data.shape(), indices.shape())?;
    if indices.shape() != updates.shape() {
        return Err(Error::input(format!(
            "indices of shape {:?}, updates of shape {:?}: expected the same",
            indices.shape(),
            updates.shape()
        )));
    }
    let mut starts = Vec::with_capacity(indices.len());
    each_element(data.shape(), indices, axis, |place| starts.push(place))?;
    Ok(vec![scatter(node, data, updates, &starts, 1)?])
}

/// `ScatterND`: the last axis of the indices holds coordinates of blocks.
fn eval_scatter_nd(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let (data, indices, updates) = (inputs.need(0)?, inputs.need(1)?, inputs.need(2)?);
    let Blocks { starts, len, shape } = blocks(data.shape(), indices, 0)?;
    if updates.shape() != shape {
        return Err(Error::input(format!("updates of shape {:?}, expected {shape:?}", updates.shape())));
    }
    Ok(vec![scatter(node, data, updates, &starts, len)?])
}

/// Puts blocks of `len` updates where they start, one after the other.
fn scatter(node: &Node, data: &Tensor, updates: &Tensor, starts: &[usize], len: usize) -> Result<Tensor> {
    let reduction = match node.str_or("reduction", "none")? {
        "none" => {
            return with_cell!(data.dtype(), C => {
                let (mut cells, updates) = (C::open(data)?.into_owned(), C::open(updates)?);
                apply(&mut cells, &updates, starts, len, |_, update: &C| update.clone());
                C::close(data.dtype(), data.shape().to_vec(), cells)
            });
        }
        name => Reduction::from_name(name)?,
    };
    with_number_type!(data.dtype(), T => reduced::<T>(data, updates, starts, len, reduction),
        else Err(wrong_type(data.dtype())))
}

#[derive(Clone, Copy)]
enum Reduction {
    Add,
    Mul,
    Min,
    Max,
}

impl Reduction {
    fn from_name(name: &str) -> Result<Self> {
        Ok(match name {
            "add" => Reduction::Add,
            "mul" => Reduction::Mul,
            "min" => Reduction::Min,
            "max" => Reduction::Max,
            _ => return Err(Error::unsupported(format!("reduction `{name}`"))),
        })
    }
}

fn reduced<T: Number>(
    data: &Tensor,
    updates: &Tensor,
    starts: &[usize],
    len: usize,
    reduction: Reduction,
) -> Result<Tensor> {
    let mut cells = data.values::<T>()?.to_vec();
    let updates = updates.values::<T>()?;
    match reduction {
        Reduction::Add => apply(&mut cells, updates, starts, len, |&a, &b| a.add(b)),
        Reduction::Mul => apply(&mut cells, updates, starts, len, |&a, &b| a.mul(b)),
        Reduction::Min => apply(&mut cells, updates, starts, len, |&a, &b| a.min(b)),
        Reduction::Max => apply(&mut cells, updates, starts, len, |&a, &b| a.max(b)),
    }
    Tensor::new(data.shape(), cells)
}

fn apply<T>(cells: &mut [T], updates: &[T], starts: &[usize], len: usize, f: impl Fn(&T, &T) -> T) {
    // Without elements in a block there is nothing to put anywhere.
    for (&start, block) in starts.iter().zip(updates.chunks_exact(len.max(1))) {
        for (cell, update) in cells[start..start + len].iter_mut().zip(block) {
            *cell = f(cell, update);
        }
    }
}

/// `TensorScatter` writes new steps of a sequence into a cache, from each batch's position on, in the
/// mode `circular` around its end.
fn eval_tensor_scatter(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let (cache, update) = (inputs.need(0)?, inputs.need(1)?);
    let shape = cache.shape();
    let axis = axis_index(node.int_or("axis", -2)?, shape.len())?;
    let fits = axis > 0
        && update.rank() == shape.len()
        && shape.iter().zip(update.shape()).enumerate().all(|(k, (c, u))| k == axis && u <= c || c == u);
    if !fits {
        return Err(Error::input(format!(
            "an update of shape {:?} along axis {axis} does not fit a cache of shape {shape:?}",
            update.shape()
        )));
    }
    let circular = match node.str_or("mode", "linear")? {
        "linear" => false,
        "circular" => true,
        mode => return Err(Error::unsupported(format!("mode `{mode}`"))),
    };
    let begins = match inputs.get(2) {
        Some(begins) => begins.to_i64s()?,
        None => vec![0; shape[0]],
    };
    if begins.len() != shape[0] {
        return Err(Error::input(format!("{} write indices for a batch of {}", begins.len(), shape[0])));
    }
    let (steps, new, inner) =
        (shape[axis], update.shape()[axis], shape[axis + 1..].iter().product::<usize>());
    let each_batch: usize = shape[1..axis].iter().product();
    let mut starts = Vec::new();
    for (batch, &begin) in begins.iter().enumerate() {
        let begin = usize::try_from(begin)
            .ok()
            .filter(|&begin| if circular { begin < steps.max(1) } else { begin + new <= steps })
            .ok_or_else(|| Error::input(format!("write index {begin} in a cache of {steps} steps")))?;
        for row in batch * each_batch..(batch + 1) * each_batch {
            starts.extend((begin..begin + new).map(|step| (row * steps + step % steps) * inner));
        }
    }
    Ok(vec![scatter(node, cache, update, &starts, inner)?])
}

/// Of updates of one element the last one stays: their order along the axis counts.
fn axes_scatter_elements(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    axes.unchanged();
    let (data, indices, updates) = (axes.input(0), axes.input(1), axes.input(2));
    let axis = element_axis(node, &axes.shape(0), &axes.shape(1))?;
    axes_elements(axes, &data, &indices, axis);
    axes.same_all(&indices, &updates);
    Ok(())
}

/// The data's axes behind the coordinates are those of the updates.
fn axes_scatter_nd(_: &Node, axes: &mut Statement<'_>) -> Result<()> {
    axes.unchanged();
    let (data, indices, updates) = (axes.input(0), axes.need(1, 1)?, axes.input(2));
    let coordinates = axes.shape(1).last().copied().unwrap_or(0).min(data.len());
    axes.fix_all(&data[..coordinates]);
    axes.fix_all(&indices);
    let outer = (indices.len() - 1).min(updates.len());
    axes.fix_all(&updates[..outer]);
    axes.same_all(&data[coordinates..], &updates[outer..]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{eval, node, with_attr};
    use super::*;
    use crate::Attr;

    fn ints(shape: &[usize], values: &[i64]) -> Tensor {
        Tensor::new(shape, values.to_vec()).unwrap()
    }

    fn with_reduction(op: &str, reduction: &str) -> Node {
        with_attr(node(op, 18), "reduction", Attr::String(reduction.into()))
    }

    #[test]
    fn the_same_place_twice_is_reduced_in_order() {
        let (data, indices, updates) =
            (ints(&[3], &[2, 2, 2]), ints(&[3], &[1, -2, 0]), ints(&[3], &[3, 5, 1]));
        for (reduction, expected) in [
            ("none", [1, 5, 2]),
            ("add", [3, 10, 2]),
            ("mul", [2, 30, 2]),
            ("min", [1, 2, 2]),
            ("max", [2, 5, 2]),
        ] {
            let out =
                eval(&with_reduction("ScatterElements", reduction), &[&data, &indices, &updates]).unwrap();
            assert_eq!(out[0].to_i64s().unwrap(), expected, "{reduction}");
            let column = indices.reshaped([3, 1]).unwrap();
            let out = eval(&with_reduction("ScatterND", reduction), &[&data, &column, &updates]).unwrap();
            assert_eq!(out[0].to_i64s().unwrap(), expected, "{reduction}");
        }
        assert!(eval(&with_reduction("ScatterND", "sub"), &[&data, &indices, &updates]).is_err());
    }

    #[test]
    fn places_outside_are_refused() {
        let (data, updates) = (ints(&[3], &[0; 3]), ints(&[1], &[9]));
        assert!(eval(&node("ScatterElements", 13), &[&data, &ints(&[1], &[3]), &updates]).is_err());
        assert!(eval(&node("ScatterND", 13), &[&data, &ints(&[1, 1], &[-4]), &updates]).is_err());
        assert!(eval(&node("ScatterND", 13), &[&data, &ints(&[1, 1], &[0]), &ints(&[2], &[1, 2])]).is_err());
    }

    #[test]
    fn a_cache_is_written_around_its_end() {
        let cache = ints(&[2, 3, 1], &[0; 6]);
        let update = ints(&[2, 2, 1], &[1, 2, 3, 4]);
        let scatter = |mode: &str, at: &[i64]| {
            let node = with_attr(node("TensorScatter", 24), "mode", Attr::String(mode.into()));
            eval(&node, &[&cache, &update, &ints(&[2], at)])
        };
        assert_eq!(scatter("linear", &[1, 0]).unwrap()[0].to_i64s().unwrap(), [0, 1, 2, 3, 4, 0]);
        assert_eq!(scatter("circular", &[2, 1]).unwrap()[0].to_i64s().unwrap(), [2, 0, 1, 0, 3, 4]);
        assert!(scatter("linear", &[2, 0]).is_err());
        assert!(scatter("circular", &[3, 0]).is_err());
    }
}
