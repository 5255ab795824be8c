//! Gradients of convolutions and transposed convolutions.

use std::sync::Arc;

use secateur_kernels::gradient::channel_sums;
use secateur_kernels::{Activation, ConvSpec, PackedConv, Planes, TrainedConv};
use secateur_model::ops::Fact;
use secateur_model::{DType, Node, Result, Tensor};

use super::{spec, transposed_spec};
use crate::buffers::Pool;
use crate::kernels::{Backward, Differentiated, GradientFn, Reads, Training};
use crate::kernels::{Build, f32s, from_fn};

pub(in crate::kernels) const GRADIENTS: &[(&str, GradientFn)] =
    &[("Conv", conv), ("ConvTranspose", conv_transpose)];

/// The gradient of the weights reads the input, that of the input the weights.
fn reads(training: &Training<'_>) -> Reads {
    Reads::inputs((0..2).filter(|&i| training.wants(1 - i)).collect::<Vec<_>>())
}

/// The gradient of the bias.
fn bias(planes: &Planes, channels: usize, gradient: &Tensor, pool: &mut Pool) -> Result<Tensor> {
    let mut sums = pool.take(channels)?;
    channel_sums(planes, gradient.values()?, &mut sums);
    Tensor::new([channels], sums)
}

/// The batch and the shape of a convolution of f32 values; `None` for other nodes and for more axes than the kernels take.
pub(crate) fn trained_conv(node: &Node, facts: &[Option<Fact>]) -> Result<Option<(usize, ConvSpec)>> {
    let operand = |k: usize| facts[node.inputs.get(k).copied().flatten()?.index()].as_ref();
    let shape = |k: usize| operand(k).filter(|fact| fact.dtype == Some(DType::F32)).and_then(Fact::shape);
    let is_conv = node.domain.is_empty() && node.op_type == "Conv";
    let (true, Some(x), Some(w)) = (is_conv, shape(0), shape(1)) else { return Ok(None) };
    Ok(spec(node, x, w)?.map(|spec| (x[0], spec)))
}

fn conv(build: &Build<'_>, training: &Training<'_>) -> Result<Option<Differentiated>> {
    if (0..2).any(|i| build.inputs.dtype(i) != Some(DType::F32)) {
        return Ok(None);
    }
    let (x_shape, w_shape) = (build.shape(0)?.to_vec(), build.shape(1)?.to_vec());
    let Some(spec) = spec(build.node, &x_shape, &w_shape)? else { return Ok(None) };
    if !training.wants_any() {
        return Ok(Some(Differentiated::of(Reads::nothing(), |_| Ok(Vec::new()))));
    }
    let kept = training.kept(1, w_shape[1..].iter().product(), crate::kernels::SPARSE_CONV);
    let (batch, out_shape) = (x_shape[0], build.out_shape(0)?.to_vec());
    let takes = training.place(0);
    let place = training.layouts.and_then(|of| of.get(batch, &spec.out_size()));
    let plain = |size: &[usize]| Planes::plain(batch, size);
    let x_planes = takes.as_deref().cloned().unwrap_or_else(|| plain(&spec.in_size));
    let y_planes = place.as_deref().cloned().unwrap_or_else(|| plain(&spec.out_size()));
    let (x_len, y_len) = (x_planes.len(spec.in_channels), y_planes.len(spec.out_channels));
    let in_planes = [takes.is_some(), place.is_some()];
    let conv = Arc::new(TrainedConv::new(spec, x_planes, y_planes.clone(), kept));
    let shaped =
        |in_planes: bool, shape: &[usize], len: usize| if in_planes { vec![len] } else { shape.to_vec() };
    let (x_shape, out_shape) =
        (shaped(in_planes[0], &x_shape, x_len), shaped(in_planes[1], &out_shape, y_len));
    let forward = {
        let (conv, has_bias) = (conv.clone(), build.inputs.get(2).is_some());
        from_fn(move |inputs, pool| {
            let bias = if has_bias { Some(f32s(inputs, 2)?) } else { None };
            let mut out = pool.take(y_len)?;
            conv.run(f32s(inputs, 1)?, bias, f32s(inputs, 0)?, &mut out);
            Ok(vec![Tensor::new(out_shape.clone(), out)?])
        })?
    };
    let backward = Differentiated::of(reads(training), move |at: &mut Backward<'_>| {
        let dy = at.take_gradient()?;
        let mut found = vec![None, None, None];
        if at.wants(0) {
            let mut dx = at.pool.take(x_len)?;
            conv.input(at.input(1)?, dy.values()?, &mut dx);
            found[0] = Some(Tensor::new(x_shape.clone(), dx)?);
        }
        if at.wants(1) {
            let mut dw = at.pool.take(w_shape.iter().product())?;
            conv.weights(at.input(0)?, dy.values()?, &mut dw);
            found[1] = Some(Tensor::new(w_shape.clone(), dw)?);
        }
        if at.wants(2) {
            found[2] = Some(bias(&y_planes, w_shape[0], &dy, at.pool)?);
        }
        at.pool.reclaim(dy);
        Ok(found)
    });
    Ok(Some(backward.forward(0, forward).placed(vec![takes], place)))
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
    let plain = |size: &[usize]| Planes::plain(x_shape[0], size);
    let (image, maps) = (plain(&spec.in_size), plain(&spec.out_size()));
    let gradient = TrainedConv::new(spec.clone(), image.clone(), maps, None);
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
            gradient.weights(dy.values()?, at.input(0)?, &mut dw);
            found[1] = Some(Tensor::new(w_shape.clone(), dw)?);
        }
        if at.wants(2) {
            found[2] = Some(bias(&image, spec.in_channels, &dy, at.pool)?);
        }
        at.pool.reclaim(dy);
        Ok(found)
    })))
}
