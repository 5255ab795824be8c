//! `Softmax` and `LogSoftmax`.

use secateur_kernels::{log_softmax, softmax};
use secateur_model::ops::axis_index;
use secateur_model::{DType, Result, Tensor};

use super::{Build, BuildFn, Kernel, f32s, from_fn};

pub(super) const KERNELS: &[(&str, BuildFn)] = &[("Softmax", build), ("LogSoftmax", build)];

fn build(build: &Build<'_>) -> Result<Option<Box<dyn Kernel>>> {
    if build.inputs.dtype(0) != Some(DType::F32) {
        return Ok(None);
    }
    let (node, shape) = (build.node, build.shape(0)?.to_vec());
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
    let apply = if node.op_type == "Softmax" { softmax } else { log_softmax };
    from_fn(move |inputs, pool| {
        let mut out = pool.take(outer * extent * inner)?;
        apply(f32s(inputs, 0)?, &mut out, outer, extent, inner);
        Ok(vec![Tensor::new(shape.clone(), out)?])
    })
}
