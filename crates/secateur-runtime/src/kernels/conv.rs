//! Convolutions and transposed convolutions.

use std::borrow::Cow;
use std::sync::Arc;

use secateur_kernels::{Activation, ConvSpec, ConvTransposeSpec, PackedConv, PackedConvTranspose};
use secateur_model::ops::conv::{Window, groups, transposed_window, window};
use secateur_model::ops::{Fact, Facts};
use secateur_model::{DType, Error, Node, Result, Tensor};

use super::constants::{LayerWeights, folded_bias};
use super::{Build, BuildFn, Epilogue, Kernel};
use crate::buffers::Pool;
use crate::packed::Bits;

mod gradient;

pub(super) use gradient::GRADIENTS;
pub(crate) use gradient::trained_conv;

pub(super) const KERNELS: &[(&str, BuildFn)] = &[("Conv", conv), ("ConvTranspose", conv_transpose)];

/// A convolution's geometry, and its constant weights and bias with the epilogue's factors and addends folded in.
pub(crate) struct ConvConstants {
    pub(crate) spec: ConvSpec,
    pub(crate) rows: LayerWeights,
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

/// A convolution with constant weights; `None` for others.
pub(crate) fn conv_constants(
    node: &Node,
    inputs: Facts<'_>,
    epilogue: &Epilogue,
) -> Result<Option<ConvConstants>> {
    let (Some(x), Some(w), Some(weight)) = (inputs.shape(0), inputs.shape(1), inputs.get(1)) else {
        return Ok(None);
    };
    let Some(spec) = spec(node, x, w)? else { return Ok(None) };
    let Some(rows) = LayerWeights::new(weight, false, epilogue.scale.clone()) else { return Ok(None) };
    let bias = match inputs.get(2).filter(|_| epilogue.add != Some(2)) {
        Some(Fact { value: Some(bias), .. }) => Some(bias.values::<f32>()?),
        Some(_) => return Ok(None),
        None => None,
    };
    let bias = folded_bias(bias, 1.0, spec.out_channels, epilogue);
    Ok(Some(ConvConstants { spec, rows, bias }))
}

fn conv(build: &Build<'_>) -> Result<Option<Box<dyn Kernel>>> {
    if build.inputs.dtype(0) != Some(DType::F32) || build.inputs.dtype(1) != Some(DType::F32) {
        return Ok(None);
    }
    let Some(spec) = spec(build.node, build.shape(0)?, build.shape(1)?)? else { return Ok(None) };
    let packed = match conv_constants(build.node, build.inputs, build.epilogue)? {
        Some(ConvConstants { spec, rows, bias }) => {
            let how = (&spec, bias.as_deref().map(Bits));
            Some(rows.share(build.weights, how, || {
                Ok(Spec::Conv(spec.clone()).pack(rows.load(build.weights)?.values()?, bias.as_deref()))
            })?)
        }
        None => None,
    };
    convolution(build, Spec::Conv(spec), packed)
}

/// The geometry of a transposed convolution; `None` where it has more spatial axes than the kernels take.
fn transposed_spec(build: &Build<'_>) -> Result<Option<ConvTransposeSpec>> {
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
    let conv = ConvSpec {
        in_channels: x[1],
        out_channels: w[1] * groups,
        groups,
        in_size: x[2..].to_vec(),
        kernel: found.kernel,
        stride: found.strides,
        dilation: found.dilations,
        pads: [found.before, found.after].concat(),
    };
    Ok(Some(ConvTransposeSpec { conv, output_padding }))
}

fn conv_transpose(build: &Build<'_>) -> Result<Option<Box<dyn Kernel>>> {
    if build.inputs.dtype(0) != Some(DType::F32) {
        return Ok(None);
    }
    let Some(spec) = transposed_spec(build)? else { return Ok(None) };
    let packed = match (build.inputs.value(1), build.inputs.get(2)) {
        (Some(weights), bias) if bias.is_none_or(|b| b.value.is_some()) => {
            let bias = bias.and_then(|b| b.value.as_ref()).map(|b| b.values::<f32>()).transpose()?;
            let bias = folded_bias(bias, 1.0, spec.conv.out_channels, build.epilogue);
            let scale = build.epilogue.scale.as_deref();
            let how = (&spec, scale.map(Bits), bias.as_deref().map(Bits));
            Some(build.weights.share(build.inputs.need(1)?, how, || {
                let mut weights = weights.clone();
                if let Some(scale) = scale {
                    scale_outputs(weights.values_mut::<f32>()?, scale, &spec.conv);
                }
                Ok(Spec::Transposed(spec.clone()).pack(weights.values()?, bias.as_deref()))
            })?)
        }
        _ => None,
    };
    convolution(build, Spec::Transposed(spec), packed)
}

/// Multiplies the weights of a transposed convolution (input channels × the group's output channels × kernel) by a
/// factor for each output channel.
fn scale_outputs(weights: &mut [f32], scale: &[f32], spec: &ConvSpec) {
    let (channels, per_group) = (spec.in_channels / spec.groups, spec.out_channels / spec.groups);
    let taps = spec.kernel.iter().product::<usize>().max(1);
    for (i, row) in weights.chunks_exact_mut(taps).enumerate() {
        let group = i / per_group / channels;
        let s = scale[group * per_group + i % per_group];
        row.iter_mut().for_each(|w| *w *= s);
    }
}

/// The shape of a convolution.
enum Spec {
    Conv(ConvSpec),
    Transposed(ConvTransposeSpec),
}

/// A convolution with its weights packed.
#[derive(Clone)]
enum Packed {
    Conv(PackedConv),
    Transposed(PackedConvTranspose),
}

impl Spec {
    fn pack(&self, weights: &[f32], bias: Option<&[f32]>) -> Packed {
        match self {
            Spec::Conv(spec) => Packed::Conv(PackedConv::new(spec.clone(), weights, bias)),
            Spec::Transposed(spec) => {
                Packed::Transposed(PackedConvTranspose::new(spec.clone(), weights, bias))
            }
        }
    }
}

fn convolution(
    build: &Build<'_>,
    spec: Spec,
    packed: Option<Arc<Packed>>,
) -> Result<Option<Box<dyn Kernel>>> {
    let Epilogue { add, act, .. } = *build.epilogue;
    let constants = if packed.is_some() { vec![1, 2] } else { Vec::new() };
    let prepacked = constants.into_iter().filter(|&i| add != Some(i)).collect();
    let (batch, out_shape) = (build.shape(0)?[0], build.out_shape(0)?.to_vec());
    Ok(Some(Box::new(Convolution { batch, spec, packed, prepacked, out_shape, add, act })))
}

struct Convolution {
    batch: usize,
    spec: Spec,
    /// `None` where the graph computes the weights: then each run packs them.
    packed: Option<Arc<Packed>>,
    prepacked: Vec<usize>,
    out_shape: Vec<usize>,
    add: Option<usize>,
    act: Activation,
}

impl Kernel for Convolution {
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        let given = |i: usize| inputs.get(i).and_then(Option::as_ref);
        let need = |i: usize| given(i).ok_or_else(|| Error::input(format!("input {i} is missing")));
        let packed = match &self.packed {
            Some(packed) => Cow::Borrowed(&**packed),
            None => {
                let bias = given(2).map(|b| b.values::<f32>()).transpose()?;
                Cow::Owned(self.spec.pack(need(1)?.values()?, bias))
            }
        };
        let x = need(0)?.values()?;
        let add = self.add.map(need).transpose()?.map(|t| t.values::<f32>()).transpose()?;
        let mut out = pool.take(self.out_shape.iter().product())?;
        match packed.as_ref() {
            Packed::Conv(conv) => conv.run(self.batch, x, &mut out, add, self.act),
            Packed::Transposed(conv) => conv.run(self.batch, x, &mut out, self.act),
        }
        Ok(vec![Tensor::new(self.out_shape.clone(), out)?])
    }

    fn prepacked_inputs(&self) -> &[usize] {
        &self.prepacked
    }
}
