//! Pooling over windows and over whole planes.

use secateur_kernels::{
    PoolOp, PoolSpec, ReduceOp, max_pool_gradient, max_pool_indices, pool, pool_gradient, reduce,
};
use secateur_model::ops::conv::{Window, pool_window};
use secateur_model::{DType, Error, Node, Result, Tensor};

use super::{Backward, Differentiated, GradientFn, Reads, Training};
use super::{Build, BuildFn, Kernel, f32s, from_fn, operand};

pub(super) const KERNELS: &[(&str, BuildFn)] = &[
    ("MaxPool", windowed),
    ("AveragePool", windowed),
    ("LpPool", windowed),
    ("GlobalAveragePool", global),
    ("GlobalMaxPool", global),
    ("GlobalLpPool", global),
];

pub(super) const GRADIENTS: &[(&str, GradientFn)] = &[
    ("MaxPool", max_gradient),
    ("AveragePool", window_gradient),
    ("LpPool", window_gradient),
    ("GlobalLpPool", window_gradient),
];

/// The order of the norm of `LpPool` and `GlobalLpPool`; a float before opset 2.
fn order(node: &Node) -> Result<f32> {
    if node.opset < 2 { node.float_or("p", 2.0) } else { Ok(node.int_or("p", 2)? as f32) }
}

/// What a pooling node computes over spatial axes of these extents.
pub(crate) fn pooling(node: &Node, spatial: &[usize]) -> Result<(PoolOp, PoolSpec)> {
    if spatial.len() > 3 {
        return Err(Error::unsupported(format!("{} spatial axes, supported are up to 3", spatial.len())));
    }
    let op = match node.op_type.as_str() {
        "MaxPool" => PoolOp::Max,
        "LpPool" => PoolOp::Lp(order(node)?),
        _ => PoolOp::Average { count_include_pad: node.int_or("count_include_pad", 0)? != 0 },
    };
    let Window { kernel, strides, dilations, before, after, output } = pool_window(node, spatial)?;
    let spec = PoolSpec {
        in_size: spatial.to_vec(),
        out_size: output,
        kernel,
        stride: strides,
        dilation: dilations,
        pads: [before, after].concat(),
    };
    Ok((op, spec))
}

fn windowed(build: &Build<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let (node, x) = (build.node, build.shape(0)?);
    let narrow = match build.inputs.dtype(0) {
        Some(DType::F32) => None,
        // Exact in f32, and a maximum is one of its operands.
        Some(dtype @ (DType::U8 | DType::I8)) if node.op_type == "MaxPool" => Some(dtype),
        _ => return Ok(None),
    };
    let (op, spec) = pooling(node, &x[2..])?;
    let planes: usize = x[..2].iter().product();
    let out_shape = build.out_shape(0)?.to_vec();
    let with_indices = node.outputs.get(1).is_some_and(Option::is_some);
    let column_major = node.int_or("storage_order", 0)? != 0;
    from_fn(move |inputs, buffers| {
        let widened = if narrow.is_some() { Some(operand(inputs, 0)?.to_f32s()?) } else { None };
        let x = match &widened {
            Some(values) => values,
            None => f32s(inputs, 0)?,
        };
        let mut out = buffers.take(out_shape.iter().product())?;
        let mut outputs = Vec::with_capacity(2);
        if with_indices {
            let mut indices = vec![0; out.len()];
            max_pool_indices(&spec, planes, x, &mut out, &mut indices);
            count_over_planes(&mut indices, &spec.in_size, planes, column_major);
            outputs.push(Tensor::new(out_shape.clone(), indices)?);
        } else {
            pool(op, &spec, planes, x, &mut out);
        }
        let values = match narrow {
            None => Tensor::new(out_shape.clone(), out)?,
            Some(DType::U8) => Tensor::new(out_shape.clone(), out.iter().map(|&v| v as u8).collect())?,
            Some(_) => Tensor::new(out_shape.clone(), out.iter().map(|&v| v as i8).collect())?,
        };
        outputs.insert(0, values);
        Ok(outputs)
    })
}

/// Turns positions within planes into positions within the tensor, column by column where asked.
fn count_over_planes(indices: &mut [i64], in_size: &[usize], planes: usize, column_major: bool) {
    let plane: usize = in_size.iter().product();
    let each = indices.len() / planes.max(1);
    for (p, indices) in indices.chunks_exact_mut(each.max(1)).enumerate() {
        for index in indices.iter_mut().filter(|i| **i >= 0) {
            let mut within = *index as usize;
            if column_major {
                let (mut rest, mut scale, mut column) = (within, plane, 0);
                for &extent in in_size.iter().rev() {
                    scale /= extent;
                    column += rest % extent * scale;
                    rest /= extent;
                }
                within = column;
            }
            *index = (p * plane + within) as i64;
        }
    }
}

/// One window over a plane.
fn whole(plane: usize) -> PoolSpec {
    let line = |n: usize| vec![n];
    PoolSpec {
        in_size: line(plane),
        out_size: line(1),
        kernel: line(plane.max(1)),
        stride: line(1),
        dilation: line(1),
        pads: vec![0; 2],
    }
}

fn global(build: &Build<'_>) -> Result<Option<Box<dyn Kernel>>> {
    if build.inputs.dtype(0) != Some(DType::F32) {
        return Ok(None);
    }
    let x = build.shape(0)?;
    let (planes, inner): (usize, usize) = (x[..2].iter().product(), x[2..].iter().product());
    let out_shape = build.out_shape(0)?.to_vec();
    let norm = if build.node.op_type == "GlobalLpPool" { Some(order(build.node)?) } else { None };
    let op = if build.node.op_type == "GlobalMaxPool" { ReduceOp::Max } else { ReduceOp::Mean };
    from_fn(move |inputs, buffers| {
        let x = f32s(inputs, 0)?;
        let mut out = buffers.take(planes)?;
        match norm {
            Some(p) => pool(PoolOp::Lp(p), &whole(inner), planes, x, &mut out),
            None => reduce(op, x, planes, inner, 1, &mut out),
        }
        Ok(vec![Tensor::new(out_shape.clone(), out)?])
    })
}

/// The forward pass keeps where each maximum is: the first of equal ones gets the gradient, as in PyTorch.
fn max_gradient(build: &Build<'_>, training: &Training<'_>) -> Result<Option<Differentiated>> {
    let (node, shape) = (build.node, build.shape(0)?.to_vec());
    if build.inputs.dtype(0) != Some(DType::F32) || !training.wants_any() {
        return Ok(None);
    }
    let (_, spec) = pooling(node, &shape[2..])?;
    let planes: usize = shape[..2].iter().product();
    let out_shape = build.out_shape(0)?.to_vec();
    let given = node.outputs.len().max(1);
    let column_major = node.int_or("storage_order", 0)? != 0;
    let forward = from_fn(move |inputs, buffers| {
        let mut out = buffers.take(out_shape.iter().product())?;
        let mut indices = buffers.filled(out.len(), 0i64)?;
        max_pool_indices(&spec, planes, f32s(inputs, 0)?, &mut out, &mut indices);
        let mut found = vec![Tensor::new(out_shape.clone(), out)?];
        if given == 2 {
            let mut counted = indices.clone();
            count_over_planes(&mut counted, &spec.in_size, planes, column_major);
            found.push(Tensor::new(out_shape.clone(), counted)?);
        }
        found.push(Tensor::new(out_shape.clone(), indices)?);
        Ok(found)
    })?;
    let backward = Differentiated::of(Reads::outputs([given]), move |at: &mut Backward<'_>| {
        let mut dx = at.pool.take(shape.iter().product())?;
        max_pool_gradient(planes, operand(at.outputs, given)?.values()?, at.gradient()?, &mut dx);
        Ok(vec![Some(Tensor::new(shape.clone(), dx)?)])
    });
    Ok(Some(backward.forward(1, forward)))
}

fn window_gradient(build: &Build<'_>, _: &Training<'_>) -> Result<Option<Differentiated>> {
    let (node, shape) = (build.node, build.shape(0)?.to_vec());
    if build.inputs.dtype(0) != Some(DType::F32) || shape.len() < 2 {
        return Ok(None);
    }
    let (op, spec) = match node.op_type.as_str() {
        "GlobalLpPool" => (PoolOp::Lp(order(node)?), whole(shape[2..].iter().product())),
        _ => pooling(node, &shape[2..])?,
    };
    let planes: usize = shape[..2].iter().product();
    let reads = match op {
        PoolOp::Lp(_) => Reads { inputs: vec![0], outputs: vec![0] },
        _ => Reads::nothing(),
    };
    Ok(Some(Differentiated::of(reads, move |at: &mut Backward<'_>| {
        let (mut d, mut dx) = (at.own_gradient()?, at.pool.take(shape.iter().product())?);
        let values = match op {
            PoolOp::Lp(_) => (at.input(0)?, at.output(0)?),
            _ => Default::default(),
        };
        pool_gradient(op, &spec, planes, values, &mut d, &mut dx);
        at.pool.give(d);
        Ok(vec![Some(Tensor::new(shape.clone(), dx)?)])
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_over_planes_in_both_orders() {
        // Two planes of 2 × 3; position 4 is row 1, column 1.
        let mut rows = [4, 4];
        count_over_planes(&mut rows, &[2, 3], 2, false);
        assert_eq!(rows, [4, 10]);
        let mut columns = [4, 4];
        count_over_planes(&mut columns, &[2, 3], 2, true);
        assert_eq!(columns, [3, 9]);
    }
}
