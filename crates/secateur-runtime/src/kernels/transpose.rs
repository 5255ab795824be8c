//! `Transpose`.

use secateur_kernels::permute;
use secateur_model::{DType, Error, Node, Result, Tensor};

use super::{Build, BuildFn, Kernel, f32s, from_fn, operand};
use crate::kernels::{Backward, Differentiated, GradientFn, Reads, Training};

pub(super) const KERNELS: &[(&str, BuildFn)] = &[("Transpose", build)];

/// The order of axes a `Transpose` gives an operand of rank `rank`.
pub(crate) fn permutation(node: &Node, rank: usize) -> Result<Vec<usize>> {
    let Some(given) = node.ints("perm")? else { return Ok((0..rank).rev().collect()) };
    let perm: Vec<usize> = given.iter().filter_map(|&p| usize::try_from(p).ok()).collect();
    let mut sorted = perm.clone();
    sorted.sort_unstable();
    if given.len() == rank && sorted.iter().copied().eq(0..rank) {
        Ok(perm)
    } else {
        Err(Error::input(format!("attribute `perm` is {given:?}, expected an order of {rank} axes")))
    }
}

fn build(build: &Build<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let shape = build.shape(0)?.to_vec();
    let perm = permutation(build.node, shape.len())?;
    let out_shape: Vec<usize> = perm.iter().map(|&p| shape[p]).collect();
    // Where only axes of extent 1 move, the elements stay in order.
    let moving: Vec<usize> = perm.iter().copied().filter(|&p| shape[p] != 1).collect();
    if moving.is_sorted() {
        return from_fn(move |inputs, _| Ok(vec![operand(inputs, 0)?.reshaped(out_shape.clone())?]));
    }
    if build.inputs.dtype(0) != Some(DType::F32) {
        return Ok(None);
    }
    from_fn(move |inputs, pool| {
        let mut out = pool.take(out_shape.iter().product())?;
        permute(f32s(inputs, 0)?, &shape, &perm, &mut out);
        Ok(vec![Tensor::new(out_shape.clone(), out)?])
    })
}

pub(super) const GRADIENTS: &[(&str, GradientFn)] = &[("Transpose", gradient)];

/// The gradient in the order of the operand's axes.
fn gradient(build: &Build<'_>, _: &Training<'_>) -> Result<Option<Differentiated>> {
    if build.inputs.dtype(0) != Some(DType::F32) {
        return Ok(None);
    }
    let shape = build.shape(0)?.to_vec();
    let perm = permutation(build.node, shape.len())?;
    let inverse: Vec<usize> =
        (0..perm.len()).filter_map(|axis| perm.iter().position(|&p| p == axis)).collect();
    Ok(Some(Differentiated::of(Reads::nothing(), move |at: &mut Backward<'_>| {
        let mut out = at.pool.take(shape.iter().product())?;
        permute(at.gradient()?, at.shape, &inverse, &mut out);
        Ok(vec![Some(Tensor::new(shape.clone(), out)?)])
    })))
}
