//! `Softmax` and `LogSoftmax`.

use secateur_kernels::gradient::{log_softmax_gradient, softmax_gradient};
use secateur_kernels::{log_softmax, softmax};
use secateur_model::ops::axis_index;
use secateur_model::{DType, Result, Tensor};

use super::{Backward, Differentiated, GradientFn, Reads, Training};
use super::{Build, BuildFn, Kernel, f32s, from_fn};

pub(super) const KERNELS: &[(&str, BuildFn)] = &[("Softmax", build), ("LogSoftmax", build)];

pub(super) const GRADIENTS: &[(&str, GradientFn)] = &[("Softmax", gradient), ("LogSoftmax", gradient)];

/// The extents before the axis, of the axis, and behind it.
fn extents(build: &Build<'_>) -> Result<[usize; 3]> {
    let (node, shape) = (build.node, build.shape(0)?);
    // Before opset 13 all axes from the given one on are one row.
    let rows = node.opset < 13;
    let axis = node.int_or("axis", if rows { 1 } else { -1 })?;
    let axis = if shape.is_empty() || axis == shape.len() as i64 && rows {
        shape.len()
    } else {
        axis_index(axis, shape.len())?
    };
    let size = |s: &[usize]| s.iter().product::<usize>();
    let outer = size(&shape[..axis]);
    let (extent, inner) = if rows || axis == shape.len() {
        (size(&shape[axis..]), 1)
    } else {
        (shape[axis], size(&shape[axis + 1..]))
    };
    Ok([outer, extent, inner])
}

fn build(build: &Build<'_>) -> Result<Option<Box<dyn Kernel>>> {
    if build.inputs.dtype(0) != Some(DType::F32) {
        return Ok(None);
    }
    let (node, shape) = (build.node, build.shape(0)?.to_vec());
    let [outer, extent, inner] = extents(build)?;
    let apply = if node.op_type == "Softmax" { softmax } else { log_softmax };
    from_fn(move |inputs, pool| {
        let mut out = pool.take(outer * extent * inner)?;
        apply(f32s(inputs, 0)?, &mut out, outer, extent, inner);
        Ok(vec![Tensor::new(shape.clone(), out)?])
    })
}

fn gradient(build: &Build<'_>, _: &Training<'_>) -> Result<Option<Differentiated>> {
    if build.inputs.dtype(0) != Some(DType::F32) {
        return Ok(None);
    }
    let [outer, extent, inner] = extents(build)?;
    let apply = if build.node.op_type == "Softmax" { softmax_gradient } else { log_softmax_gradient };
    Ok(Some(Differentiated::of(Reads::outputs([0]), move |at: &mut Backward<'_>| {
        let (shape, mut d) = (at.shape.to_vec(), at.own_gradient()?);
        apply(at.output(0)?, &mut d, outer, extent, inner);
        Ok(vec![Some(Tensor::new(shape, d)?)])
    })))
}
