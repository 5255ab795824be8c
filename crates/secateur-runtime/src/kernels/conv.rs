//! Convolutions and transposed convolutions.

use std::borrow::Cow;
use std::sync::Arc;

use secateur_kernels::{Activation, ConvSpec, ConvTransposeSpec, PackedConv, PackedConvTranspose};
use secateur_model::ops::conv::{Window, groups, transposed_window, window};
use secateur_model::ops::{Fact, Facts};
use secateur_model::{DType, Error, Node, Result, Tensor};

use super::constants::{LayerWeights, folded_bias};
use super::{Build, BuildFn, Kernel};
use crate::fuse::Epilogue;
use crate::packed::Bits;
use crate::pool::Pool;

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
    let x = build.shape(0)?;
    let Some(spec) = spec(build.node, x, build.shape(1)?)? else { return Ok(None) };
    let (batch, out_shape) = (x[0], build.out_shape(0)?.to_vec());
    let packed = match conv_constants(build.node, build.inputs, build.epilogue)? {
        Some(ConvConstants { spec, rows, bias }) => {
            Some(rows.share(build.weights, (&spec, bias.as_deref().map(Bits)), || {
                Ok(PackedConv::new(spec.clone(), rows.load(build.weights)?.values()?, bias.as_deref()))
            })?)
        }
        None => None,
    };
    let prepacked = if packed.is_some() { vec![1, 2] } else { Vec::new() };
    let prepacked = prepacked.into_iter().filter(|&i| build.epilogue.add != Some(i)).collect();
    Ok(Some(Box::new(Conv {
        batch,
        spec,
        packed,
        prepacked,
        out_shape,
        add: build.epilogue.add,
        act: build.epilogue.act,
    })))
}

struct Conv {
    batch: usize,
    spec: ConvSpec,
    /// `None` where the weights are computed by the graph: then they are packed at each run.
    packed: Option<Arc<PackedConv>>,
    prepacked: Vec<usize>,
    out_shape: Vec<usize>,
    add: Option<usize>,
    act: Activation,
}

impl Kernel for Conv {
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        let given = |i: usize| inputs.get(i).and_then(Option::as_ref);
        let need = |i: usize| given(i).ok_or_else(|| Error::input(format!("input {i} is missing")));
        let packed = match &self.packed {
            Some(packed) => Cow::Borrowed(&**packed),
            None => {
                let bias = given(2).map(|b| b.values::<f32>()).transpose()?;
                Cow::Owned(PackedConv::new(self.spec.clone(), need(1)?.values()?, bias))
            }
        };
        let add = self.add.map(need).transpose()?.map(|t| t.values::<f32>()).transpose()?;
        let mut out = pool.take(self.out_shape.iter().product())?;
        packed.run(self.batch, need(0)?.values()?, &mut out, add, self.act);
        Ok(vec![Tensor::new(self.out_shape.clone(), out)?])
    }

    fn prepacked_inputs(&self) -> &[usize] {
        &self.prepacked
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
            let bias = folded_bias(bias, 1.0, spec.out_channels, build.epilogue);
            let scale = build.epilogue.scale.as_deref();
            let how = (&spec, scale.map(Bits), bias.as_deref().map(Bits));
            Some(build.weights.share(build.inputs.need(1)?, how, || {
                let mut weights = weights.clone();
                if let Some(scale) = scale {
                    scale_outputs(&mut weights, scale, &spec)?;
                }
                Ok(PackedConvTranspose::new(spec.clone(), weights.values()?, bias.as_deref()))
            })?)
        }
        _ => None,
    };
    let prepacked = if packed.is_some() { vec![1, 2] } else { Vec::new() };
    let (batch, out_shape) = (x[0], build.out_shape(0)?.to_vec());
    let act = build.epilogue.act;
    Ok(Some(Box::new(ConvTranspose { batch, spec, packed, prepacked, out_shape, act })))
}

/// Multiplies the weights of a transposed convolution (input channels × the group's output channels × kernel) by a
/// factor for each output channel.
fn scale_outputs(weights: &mut Tensor, scale: &[f32], spec: &ConvTransposeSpec) -> Result<()> {
    let per_group = spec.out_channels / spec.groups;
    let taps = spec.kernel.iter().product::<usize>().max(1);
    for (i, row) in weights.values_mut::<f32>()?.chunks_exact_mut(taps).enumerate() {
        let group = i / per_group / (spec.in_channels / spec.groups);
        let s = scale[group * per_group + i % per_group];
        row.iter_mut().for_each(|w| *w *= s);
    }
    Ok(())
}

struct ConvTranspose {
    batch: usize,
    spec: ConvTransposeSpec,
    packed: Option<Arc<PackedConvTranspose>>,
    prepacked: Vec<usize>,
    out_shape: Vec<usize>,
    act: Activation,
}

impl Kernel for ConvTranspose {
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        let given = |i: usize| inputs.get(i).and_then(Option::as_ref);
        let need = |i: usize| given(i).ok_or_else(|| Error::input(format!("input {i} is missing")));
        let packed = match &self.packed {
            Some(packed) => Cow::Borrowed(&**packed),
            None => {
                let bias = given(2).map(|b| b.values::<f32>()).transpose()?;
                Cow::Owned(PackedConvTranspose::new(self.spec.clone(), need(1)?.values()?, bias))
            }
        };
        let mut out = pool.take(self.out_shape.iter().product())?;
        packed.run(self.batch, need(0)?.values()?, &mut out, self.act);
        Ok(vec![Tensor::new(self.out_shape.clone(), out)?])
    }

    fn prepacked_inputs(&self) -> &[usize] {
        &self.prepacked
    }
}
