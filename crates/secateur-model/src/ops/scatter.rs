//! Operators that put elements where indices say.

use super::cells::{Cell, with_cell};
use super::gather::{Blocks, blocks, each_element, element_axis};
use super::number::{Number, wrong_type};
use super::{Fact, Facts, Inputs, Op, axis_index};
use crate::{Error, Node, Result, Tensor, with_number_type};

pub(super) const OPS: &[Op] = &[
    Op::new("Scatter", 9, infer_scatter).eval(eval_scatter_elements),
    Op::new("ScatterElements", 11, infer_scatter).eval(eval_scatter_elements),
    Op::new("ScatterND", 11, infer_scatter).eval(eval_scatter_nd),
    Op::new("TensorScatter", 24, infer_scatter).eval(eval_tensor_scatter),
];

fn infer_scatter(_: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let data = inputs.need(0)?;
    Ok(vec![Fact { value: None, ..data.clone() }])
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
