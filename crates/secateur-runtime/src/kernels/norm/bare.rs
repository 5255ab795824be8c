//! Gradients of normalisations without parameters.

use secateur_kernels::gradient::{LocalNorm, RowNorm, layer_norm_gradient, local_norm_gradient};
use secateur_kernels::permute;
use secateur_model::ops::axis_index;
use secateur_model::{DType, Error, Result, Tensor};

use crate::kernels::{Backward, Build, Differentiated, Reads, Training};

/// Local response normalisation.
pub(super) fn local(build: &Build<'_>, _: &Training<'_>) -> Result<Option<Differentiated>> {
    let (node, shape) = (build.node, build.shape(0)?.to_vec());
    if build.inputs.dtype(0) != Some(DType::F32) || shape.len() < 2 {
        return Ok(None);
    }
    let size = node.int_or("size", 0)?;
    let norm = LocalNorm {
        channels: shape[1],
        inner: shape[2..].iter().product(),
        size: usize::try_from(size)
            .ok()
            .filter(|&size| size > 0)
            .ok_or_else(|| Error::input(format!("size is {size}, expected a positive number of channels")))?,
        alpha: node.float_or("alpha", 1e-4)?,
        beta: node.float_or("beta", 0.75)?,
        bias: node.float_or("bias", 1.0)?,
    };
    Ok(Some(Differentiated::of(Reads::inputs([0]), move |at: &mut Backward<'_>| {
        let mut dx = at.pool.take(shape.iter().product())?;
        local_norm_gradient(norm, at.input(0)?, at.gradient()?, &mut dx);
        Ok(vec![Some(Tensor::new(shape.clone(), dx)?)])
    })))
}

/// y = (x − mean) / (√variance + 1e-9) over the given axes, which are brought together for the pass.
pub(super) fn mean_variance(build: &Build<'_>, _: &Training<'_>) -> Result<Option<Differentiated>> {
    let shape = build.shape(0)?.to_vec();
    if build.inputs.dtype(0) != Some(DType::F32) {
        return Ok(None);
    }
    let mut over = vec![false; shape.len()];
    for &axis in build.node.ints("axes")?.unwrap_or(&[0, 2, 3]) {
        over[axis_index(axis, shape.len())?] = true;
    }
    let (gone, kept): (Vec<usize>, Vec<usize>) = (0..shape.len()).partition(|&axis| over[axis]);
    let n = gone.iter().map(|&axis| shape[axis]).product();
    let perm = [kept, gone].concat();
    let together: Vec<usize> = perm.iter().map(|&axis| shape[axis]).collect();
    let mut inverse = vec![0; perm.len()];
    perm.iter().enumerate().for_each(|(to, &axis)| inverse[axis] = to);
    // √(variance + 1e-18) is 1e-9 where there is none, as that of the operator.
    let norm = RowNorm { n, centred: true, eps: 1e-18 };
    Ok(Some(Differentiated::of(Reads::inputs([0]), move |at: &mut Backward<'_>| {
        let len = shape.iter().product();
        let (mut x, mut d, mut dx) = (at.pool.take(len)?, at.pool.take(len)?, at.pool.take(len)?);
        permute(at.input(0)?, &shape, &perm, &mut x);
        permute(at.gradient()?, &shape, &perm, &mut d);
        layer_norm_gradient(norm, &x, &vec![1.0; n], &mut d, Some(&mut dx));
        permute(&dx, &together, &inverse, &mut d);
        at.pool.give(x);
        at.pool.give(dx);
        Ok(vec![Some(Tensor::new(shape.clone(), d)?)])
    })))
}

/// y = x / ‖x‖ along an axis: ∂x = (∂y − ‖·‖′(x) · Σ ∂y · y) / ‖x‖, 0 where the norm is 0. Rare: in double precision, one by
/// one.
pub(super) fn lp(build: &Build<'_>, _: &Training<'_>) -> Result<Option<Differentiated>> {
    let (node, shape) = (build.node, build.shape(0)?.to_vec());
    let axis = axis_index(node.int_or("axis", -1)?, shape.len())?;
    let squares = node.int_or("p", 2)? == 2;
    if build.inputs.dtype(0) != Some(DType::F32) {
        return Ok(None);
    }
    let (extent, inner) = (shape[axis], shape[axis + 1..].iter().product::<usize>());
    Ok(Some(Differentiated::of(Reads::inputs([0]), move |at: &mut Backward<'_>| {
        let (x, d) = (at.input(0)?, at.gradient()?);
        let mut dx = vec![0f32; x.len()];
        for column in 0..x.len() / extent.max(1) {
            let start = column / inner * extent * inner + column % inner;
            let places = || (0..extent).map(|a| start + a * inner);
            let of = |values: &[f32], i: usize| f64::from(values[i]);
            let sum: f64 = places().map(|i| if squares { of(x, i).powi(2) } else { of(x, i).abs() }).sum();
            let norm = if squares { sum.sqrt() } else { sum };
            if norm == 0.0 {
                continue;
            }
            let product: f64 = places().map(|i| of(d, i) * of(x, i) / norm).sum();
            for i in places() {
                let slope = match x[i] {
                    0.0 => 0.0,
                    x if squares => f64::from(x) / norm,
                    x => f64::from(x.signum()),
                };
                dx[i] = ((of(d, i) - slope * product) / norm) as f32;
            }
        }
        Ok(vec![Some(Tensor::new(shape.clone(), dx)?)])
    })))
}
