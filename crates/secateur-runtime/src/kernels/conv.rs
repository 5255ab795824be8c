//! Convolutions and transposed convolutions.

use std::borrow::Cow;

use secateur_kernels::{Activation, ConvSpec, ConvTransposeSpec, PackedConv, PackedConvTranspose};
use secateur_model::ops::conv::{Window, groups, transposed_window, window};
use secateur_model::ops::{Fact, Facts};
use secateur_model::{DType, Error, Node, Result, Tensor};

use super::{Build, BuildFn, Kernel};
use crate::fuse::Epilogue;
use crate::pool::Pool;

pub(super) const KERNELS: &[(&str, BuildFn)] = &[("Conv", conv), ("ConvTranspose", conv_transpose)];

/// The weights and bias of a convolution with the epilogue's factors and addends folded in. Weights
/// are rows, each of the output channel that `channel` names.
fn folded<'a>(
    weights: &'a [f32],
    bias: Option<&[f32]>,
    epilogue: &Epilogue,
    rows: usize,
    channel: impl Fn(usize) -> usize,
) -> (Cow<'a, [f32]>, Option<Vec<f32>>) {
    let mut weights = Cow::Borrowed(weights);
    let mut bias = bias.map(<[f32]>::to_vec);
    if let Some(scale) = &epilogue.scale {
        let rows = rows.max(1);
        let row = (weights.len() / rows).max(1);
        for (i, row) in weights.to_mut().chunks_exact_mut(row).enumerate() {
            let s = scale[channel(i)];
            row.iter_mut().for_each(|w| *w *= s);
        }
        for (b, s) in bias.iter_mut().flatten().zip(scale) {
            *b *= s;
        }
    }
    if let Some(shift) = &epilogue.shift {
        let bias = bias.get_or_insert_with(|| vec![0.0; shift.len()]);
        bias.iter_mut().zip(shift).for_each(|(b, s)| *b += s);
    }
    (weights, bias)
}

/// A convolution's geometry, and its weights and bias with the epilogue's factors and addends folded in.
pub(crate) struct ConvConstants {
    pub(crate) spec: ConvSpec,
    pub(crate) weights: Vec<f32>,
    pub(crate) bias: Option<Vec<f32>>,
}

/// The geometry of a convolution; `None` where it has more spatial axes than the kernels take.
fn spec(node: &Node, x: &[usize], w: &[usize]) -> Result<Option<ConvSpec>> {
    let spatial = &x[2..];
    let Window { kernel, strides, dilations, before, after, .. } = window(node, &w[2..], spatial)?;
    Ok((spatial.len() <= 3).then_some(ConvSpec {
        in_channels: x[1],
        out_channels: w[0],
        groups: groups(node)?,
        in_size: spatial.to_vec(),
        kernel,
        stride: strides,
        dilation: dilations,
        pads: [before, after].concat(),
    }))
}

/// A convolution over two axes with constant weights; `None` for others.
pub(crate) fn conv_constants(
    node: &Node,
    inputs: Facts<'_>,
    epilogue: &Epilogue,
) -> Result<Option<ConvConstants>> {
    let shape = |i: usize| inputs.get(i).and_then(|f| f.shape());
    let (Some(x), Some(w), Some(weights)) = (shape(0), shape(1), inputs.value(1)) else { return Ok(None) };
    if x.len() != 4 || weights.dtype() != DType::F32 {
        return Ok(None);
    }
    let Some(spec) = spec(node, x, w)? else { return Ok(None) };
    let bias = match inputs.get(2).filter(|_| epilogue.add != Some(2)) {
        Some(Fact { value: Some(bias), .. }) => Some(bias.values::<f32>()?),
        Some(_) => return Ok(None),
        None => None,
    };
    let (weights, bias) = folded(weights.values()?, bias, epilogue, spec.out_channels, |row| row);
    Ok(Some(ConvConstants { weights: weights.into_owned(), bias, spec }))
}

fn conv(build: &Build<'_>) -> Result<Option<Box<dyn Kernel>>> {
    if build.inputs.dtype(0) != Some(DType::F32) || build.inputs.dtype(1) != Some(DType::F32) {
        return Ok(None);
    }
    let x = build.shape(0)?;
    let Some(spec) = spec(build.node, x, build.shape(1)?)? else { return Ok(None) };
    let (batch, out_shape) = (x[0], build.out_shape(0)?.to_vec());
    let constant_bias = build.inputs.get(2).filter(|_| build.epilogue.add != Some(2));
    let packed = match (build.inputs.value(1), constant_bias) {
        (Some(weights), bias) if bias.is_none_or(|b| b.value.is_some()) => {
            let bias = bias.and_then(|b| b.value.as_ref()).map(|b| b.values::<f32>()).transpose()?;
            let (weights, bias) =
                folded(weights.values()?, bias, build.epilogue, spec.out_channels, |row| row);
            Some(PackedConv::new(spec.clone(), &weights, bias.as_deref()))
        }
        _ => None,
    };
    let held = if packed.is_some() { vec![1, 2] } else { Vec::new() };
    let held = held.into_iter().filter(|&i| build.epilogue.add != Some(i)).collect();
    Ok(Some(Box::new(Conv {
        batch,
        spec,
        packed,
        held,
        out_shape,
        add: build.epilogue.add,
        act: build.epilogue.act,
    })))
}

struct Conv {
    batch: usize,
    spec: ConvSpec,
    /// `None` where the weights are computed by the graph: then they are packed at each run.
    packed: Option<PackedConv>,
    held: Vec<usize>,
    out_shape: Vec<usize>,
    add: Option<usize>,
    act: Activation,
}

impl Kernel for Conv {
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        let given = |i: usize| inputs.get(i).and_then(Option::as_ref);
        let need = |i: usize| given(i).ok_or_else(|| Error::input(format!("input {i} is missing")));
        let packed = match &self.packed {
            Some(packed) => Cow::Borrowed(packed),
            None => {
                let bias = given(2).map(|b| b.values::<f32>()).transpose()?;
                Cow::Owned(PackedConv::new(self.spec.clone(), need(1)?.values()?, bias))
            }
        };
        let add = self.add.map(need).transpose()?.map(|t| t.values::<f32>()).transpose()?;
        let mut out = pool.take(self.out_shape.iter().product());
        packed.run(self.batch, need(0)?.values()?, &mut out, add, self.act);
        Ok(vec![Tensor::new(self.out_shape.clone(), out)?])
    }

    fn held(&self) -> &[usize] {
        &self.held
    }
}

fn conv_transpose(build: &Build<'_>) -> Result<Option<Box<dyn Kernel>>> {
    if build.inputs.dtype(0) != Some(DType::F32) {
        return Ok(None);
    }
    let (x, w) = (build.shape(0)?, build.shape(1)?);
    if x.len() > 5 {
        return Ok(None);
    }
    let found = transposed_window(build.node, &w[2..], &x[2..])?;
    let groups = groups(build.node)?;
    // What the padding leaves of the full result may be less than the wanted output: then the rest
    // is padding after it.
    let output_padding = (0..found.kernel.len())
        .map(|i| {
            let full = x[2 + i].saturating_sub(1) * found.strides[i]
                + (found.kernel[i] - 1) * found.dilations[i]
                + 1;
            (found.output[i] + found.before[i] + found.after[i]).saturating_sub(full)
        })
        .collect();
    let spec = ConvTransposeSpec {
        in_channels: x[1],
        out_channels: w[1] * groups,
        groups,
        in_size: x[2..].to_vec(),
        kernel: found.kernel,
        stride: found.strides,
        dilation: found.dilations,
        pads: [found.before, found.after].concat(),
        output_padding,
    };
    let packed = match (build.inputs.value(1), build.inputs.get(2)) {
        (Some(weights), bias) if bias.is_none_or(|b| b.value.is_some()) => {
            let bias = bias.and_then(|b| b.value.as_ref()).map(|b| b.values::<f32>()).transpose()?;
            // Input channels × the group's output channels × kernel.
            let per_group = spec.out_channels / groups;
            let channel =
                |row: usize| row / per_group / (spec.in_channels / groups) * per_group + row % per_group;
            let (weights, bias) =
                folded(weights.values()?, bias, build.epilogue, spec.in_channels * per_group, channel);
            Some(PackedConvTranspose::new(spec.clone(), &weights, bias.as_deref()))
        }
        _ => None,
    };
    let held = if packed.is_some() { vec![1, 2] } else { Vec::new() };
    let (batch, out_shape) = (x[0], build.out_shape(0)?.to_vec());
    let act = build.epilogue.act;
    Ok(Some(Box::new(ConvTranspose { batch, spec, packed, held, out_shape, act })))
}

struct ConvTranspose {
    batch: usize,
    spec: ConvTransposeSpec,
    packed: Option<PackedConvTranspose>,
    held: Vec<usize>,
    out_shape: Vec<usize>,
    act: Activation,
}

impl Kernel for ConvTranspose {
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        let given = |i: usize| inputs.get(i).and_then(Option::as_ref);
        let need = |i: usize| given(i).ok_or_else(|| Error::input(format!("input {i} is missing")));
        let packed = match &self.packed {
            Some(packed) => Cow::Borrowed(packed),
            None => {
                let bias = given(2).map(|b| b.values::<f32>()).transpose()?;
                Cow::Owned(PackedConvTranspose::new(self.spec.clone(), need(1)?.values()?, bias))
            }
        };
        let mut out = pool.take(self.out_shape.iter().product());
        packed.run(self.batch, need(0)?.values()?, &mut out, self.act);
        Ok(vec![Tensor::new(self.out_shape.clone(), out)?])
    }

    fn held(&self) -> &[usize] {
        &self.held
    }
}
