//! Gradients of convolutions and transposed convolutions.

use std::sync::Arc;

use secateur_kernels::gradient::column_sums;
use secateur_kernels::{Activation, ConvGradient, ConvSpec, KeptConv, PackedConv, ReduceOp, reduce};
use secateur_model::{DType, Result, Tensor};

use super::{spec, transposed_spec};
use crate::buffers::Pool;
use crate::kernels::{Backward, Differentiated, GradientFn, Reads, Training};
use crate::kernels::{Build, Kernel, f32s, from_fn};

pub(in crate::kernels) const GRADIENTS: &[(&str, GradientFn)] =
    &[("Conv", conv), ("ConvTranspose", conv_transpose)];

/// The gradient of the weights reads the input, that of the input the weights.
fn reads(training: &Training<'_>) -> Reads {
    Reads::inputs((0..2).filter(|&i| training.wants(1 - i)).collect::<Vec<_>>())
}

/// Σ over samples and positions of the gradient `[batch, channels, positions…]`.
fn bias(gradient: &Tensor, pool: &mut Pool) -> Result<Tensor> {
    let shape = gradient.shape();
    let (channels, positions) = (shape[1], shape[2..].iter().product::<usize>());
    let mut rows = pool.take(shape[0] * channels)?;
    reduce(ReduceOp::Sum, gradient.values()?, shape[0] * channels, positions, 1, &mut rows);
    let mut sums = pool.take(channels)?;
    column_sums(&rows, shape[0], channels, &mut sums);
    pool.give(rows);
    Tensor::new([channels], sums)
}

fn conv(build: &Build<'_>, training: &Training<'_>) -> Result<Option<Differentiated>> {
    if (0..2).any(|i| build.inputs.dtype(i) != Some(DType::F32)) {
        return Ok(None);
    }
    let (x_shape, w_shape) = (build.shape(0)?.to_vec(), build.shape(1)?.to_vec());
    let Some(spec) = spec(build.node, &x_shape, &w_shape)? else { return Ok(None) };
    let kept = training.kept(1, w_shape[1..].iter().product());
    // Weights that change hide nothing in an epilogue or a view.
    let sparse = kept.as_ref().map(|kept| Arc::new(KeptConv::new(spec.clone(), kept)));
    let forward = match &sparse {
        Some(conv) => sparse_forward(build, conv.clone())?,
        None => None,
    };
    let gradient = ConvGradient::new(spec);
    let backward = Differentiated::of(reads(training), move |at: &mut Backward<'_>| {
        let dy = at.take_gradient()?;
        let mut found = vec![None, None, None];
        if at.wants(0) {
            let mut dx = at.pool.take(x_shape.iter().product())?;
            match &sparse {
                Some(conv) => conv.input(at.input(1)?, x_shape[0], dy.values()?, &mut dx),
                None => gradient.input(at.input(1)?, x_shape[0], dy.values()?, &mut dx),
            }
            found[0] = Some(Tensor::new(x_shape.clone(), dx)?);
        }
        if at.wants(1) {
            let mut dw = at.pool.take(w_shape.iter().product())?;
            match &kept {
                Some(kept) => gradient.kept_weights(x_shape[0], at.input(0)?, dy.values()?, kept, &mut dw),
                None => gradient.weights(x_shape[0], at.input(0)?, dy.values()?, &mut dw),
            }
            found[1] = Some(Tensor::new(w_shape.clone(), dw)?);
        }
        if at.wants(2) {
            found[2] = Some(bias(&dy, at.pool)?);
        }
        at.pool.reclaim(dy);
        Ok(found)
    });
    Ok(Some(backward.forward(0, forward)))
}

/// The forward pass over the weights that a mask keeps.
fn sparse_forward(build: &Build<'_>, conv: Arc<KeptConv>) -> Result<Option<Box<dyn Kernel>>> {
    let (batch, out_shape) = (build.shape(0)?[0], build.out_shape(0)?.to_vec());
    let has_bias = build.inputs.get(2).is_some();
    from_fn(move |inputs, pool| {
        let bias = if has_bias { Some(f32s(inputs, 2)?) } else { None };
        let mut out = pool.take(out_shape.iter().product())?;
        conv.run(f32s(inputs, 1)?, bias, batch, f32s(inputs, 0)?, &mut out);
        Ok(vec![Tensor::new(out_shape.clone(), out)?])
    })
}

/// A transposed convolution is the gradient of the convolution that it transposes: its own gradients are that convolution
/// of ∂y, and the gradient of the convolution's weights with input and gradient exchanged.
fn conv_transpose(build: &Build<'_>, training: &Training<'_>) -> Result<Option<Differentiated>> {
    if (0..2).any(|i| build.inputs.dtype(i) != Some(DType::F32)) {
        return Ok(None);
    }
    let (x_shape, w_shape) = (build.shape(0)?.to_vec(), build.shape(1)?.to_vec());
    let Some(transposed) = transposed_spec(build)? else { return Ok(None) };
    let spec = ConvSpec {
        in_channels: transposed.conv.out_channels,
        out_channels: transposed.conv.in_channels,
        in_size: transposed.out_size(),
        ..transposed.conv
    };
    // Padding that cuts off more than a window leaves no convolution of this shape.
    if spec.out_size() != x_shape[2..] {
        return Ok(None);
    }
    let gradient = ConvGradient::new(spec.clone());
    Ok(Some(Differentiated::of(reads(training), move |at: &mut Backward<'_>| {
        let dy = at.take_gradient()?;
        let mut found = vec![None, None, None];
        if at.wants(0) {
            let mut dx = at.pool.take(x_shape.iter().product())?;
            let conv = PackedConv::new(spec.clone(), at.input(1)?, None);
            conv.run(x_shape[0], dy.values()?, &mut dx, None, Activation::None);
            found[0] = Some(Tensor::new(x_shape.clone(), dx)?);
        }
        if at.wants(1) {
            let mut dw = at.pool.take(w_shape.iter().product())?;
            gradient.weights(x_shape[0], dy.values()?, at.input(0)?, &mut dw);
            found[1] = Some(Tensor::new(w_shape.clone(), dw)?);
        }
        if at.wants(2) {
            found[2] = Some(bias(&dy, at.pool)?);
        }
        at.pool.reclaim(dy);
        Ok(found)
    })))
}
