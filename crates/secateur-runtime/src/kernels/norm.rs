//! Normalisations.

use secateur_kernels::{ReduceOp, group_norm, layer_norm, reduce, rms_norm, scale_shift};
pub(crate) use secateur_model::ops::norm::batch_norm_affine;
use secateur_model::ops::{Facts, axis_index};
use secateur_model::{DType, Error, Node, Result, Tensor};

use super::{Build, BuildFn, GradientFn, Kernel, f32s, from_fn};

mod bare;
mod batch;
mod rows;

pub(super) const KERNELS: &[(&str, BuildFn)] = &[
    ("LayerNormalization", layer),
    ("RMSNormalization", layer),
    ("InstanceNormalization", grouped),
    ("GroupNormalization", grouped),
    ("BatchNormalization", batch),
];

pub(super) const GRADIENTS: &[(&str, GradientFn)] = &[
    ("BatchNormalization", batch::gradient),
    ("LayerNormalization", rows::layer),
    ("RMSNormalization", rows::layer),
    ("SimplifiedLayerNormalization", rows::layer),
    ("SkipLayerNormalization", rows::skip),
    ("SkipSimplifiedLayerNormalization", rows::skip),
    ("InstanceNormalization", rows::grouped),
    ("GroupNormalization", rows::grouped),
    ("LRN", bare::local),
    ("LpNormalization", bare::lp),
    ("MeanVarianceNormalization", bare::mean_variance),
];

fn all_f32(facts: Facts<'_>) -> bool {
    facts.0.iter().flatten().all(|f| f.dtype == Some(DType::F32))
}

fn layer(build: &Build<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let (node, shape) = (build.node, build.shape(0)?.to_vec());
    if !all_f32(build.inputs) || shape.is_empty() {
        return Ok(None);
    }
    let axis = axis_index(node.int_or("axis", -1)?, shape.len())?;
    let n: usize = shape[axis..].iter().product();
    // Scales that broadcast over the normalised axes are left to the evaluation.
    let whole = |i: usize| build.inputs.get(i).is_none_or(|f| f.shape() == Some(&shape[axis..]));
    if !(whole(1) && whole(2)) {
        return Ok(None);
    }
    let centred = node.op_type == "LayerNormalization";
    let eps = node.float_or("epsilon", 1e-5)?;
    let has_bias = build.inputs.get(2).is_some();
    let with_statistics = centred && node.outputs.len() > 1;
    let mut statistics_shape = shape.clone();
    statistics_shape[axis..].fill(1);
    from_fn(move |inputs, pool| {
        let (x, scale) = (f32s(inputs, 0)?, f32s(inputs, 1)?);
        let mut out = pool.take(x.len())?;
        if centred {
            let bias = if has_bias { Some(f32s(inputs, 2)?) } else { None };
            layer_norm(x, &mut out, n, Some(scale), bias, eps);
        } else {
            rms_norm(x, &mut out, n, Some(scale), eps);
        }
        let mut outputs = vec![Tensor::new(shape.clone(), out)?];
        if with_statistics {
            let (mean, inverse) = statistics(x, n, eps);
            outputs.push(Tensor::new(statistics_shape.clone(), mean)?);
            outputs.push(Tensor::new(statistics_shape.clone(), inverse)?);
        }
        Ok(outputs)
    })
}

/// Mean and 1 / √(variance + eps) of each row of `n`.
fn statistics(x: &[f32], n: usize, eps: f32) -> (Vec<f32>, Vec<f32>) {
    let rows = x.len() / n.max(1);
    let mut mean = vec![0.0; rows];
    reduce(ReduceOp::Mean, x, rows, n, 1, &mut mean);
    let inverse = x
        .chunks_exact(n.max(1))
        .zip(&mean)
        .map(|(row, &mean)| {
            let sum: f64 = row.iter().map(|&v| f64::from(v - mean).powi(2)).sum();
            (1.0 / (sum / n as f64 + f64::from(eps)).sqrt()) as f32
        })
        .collect();
    (mean, inverse)
}

fn grouped(build: &Build<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let shape = build.shape(0)?.to_vec();
    if !all_f32(build.inputs) {
        return Ok(None);
    }
    let Groups { channels, inner, groups, repeats, eps } = Groups::of(build)?;
    from_fn(move |inputs, pool| {
        let channel = |i: usize| -> Result<Vec<f32>> {
            let times = repeats[i - 1];
            Ok(f32s(inputs, i)?.iter().flat_map(|&v| std::iter::repeat_n(v, times)).collect())
        };
        let x = f32s(inputs, 0)?;
        let mut out = pool.take(x.len())?;
        if !out.is_empty() {
            group_norm(x, &mut out, channels, inner, groups, Some(&channel(1)?), Some(&channel(2)?), eps);
        }
        Ok(vec![Tensor::new(shape.clone(), out)?])
    })
}

/// What an `InstanceNormalization` or a `GroupNormalization` normalises.
struct Groups {
    channels: usize,
    /// Positions of a channel.
    inner: usize,
    /// Groups of channels, each normalised over its channels and positions.
    groups: usize,
    /// To how many channels an element of scale and of bias belongs.
    repeats: [usize; 2],
    eps: f32,
}

impl Groups {
    fn of(build: &Build<'_>) -> Result<Self> {
        let (node, shape) = (build.node, build.shape(0)?);
        let &[_, channels, ref spatial @ ..] = shape else {
            return Err(Error::input(format!("input {shape:?}, expected a rank of at least 2")));
        };
        let inner: usize = spatial.iter().product();
        let groups = if node.op_type == "InstanceNormalization" {
            channels
        } else {
            let groups = node.int("num_groups")?.unwrap_or(0);
            usize::try_from(groups).ok().filter(|&g| g > 0 && channels % g == 0).ok_or_else(|| {
                Error::input(format!("attribute `num_groups` is {groups}, expected a divisor of {channels}"))
            })?
        };
        let eps = node.float_or("epsilon", 1e-5)?;
        // `GroupNormalization` had a scale for each group before opset 21.
        let per = |i: usize| -> Result<usize> {
            match build.inputs.need(i)?.shape() {
                Some(&[n]) if n == channels => Ok(1),
                Some(&[n]) if n == groups && node.opset < 21 => Ok(channels / groups),
                found => Err(Error::input(format!("input {i} is {found:?}, expected [{channels}]"))),
            }
        };
        Ok(Groups { channels, inner, groups, repeats: [per(1)?, per(2)?], eps })
    }
}

/// Whether a `BatchNormalization` computes its statistics from the batch, or one for each position:
/// then it is no scale and shift.
pub(crate) fn is_affine(node: &Node) -> Result<bool> {
    Ok(node.int_or("training_mode", 0)? == 0
        && (node.opset >= 7 || node.int_or("is_test", 0)? != 0)
        && (node.opset >= 9 || node.int_or("spatial", 1)? != 0))
}

fn batch(build: &Build<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let (node, shape) = (build.node, build.shape(0)?.to_vec());
    if !all_f32(build.inputs) || !is_affine(node)? || shape.len() < 2 {
        return Ok(None);
    }
    let (channels, inner) = (shape[1], shape[2..].iter().product());
    for i in 1..5 {
        if build.shape(i)? != [channels] {
            return Err(Error::input(format!("input {i} is {:?}, expected [{channels}]", build.shape(i)?)));
        }
    }
    let eps = node.float_or("epsilon", 1e-5)?;
    let act = build.epilogue.act;
    from_fn(move |inputs, pool| {
        let (scale, shift) =
            batch_norm_affine(f32s(inputs, 1)?, f32s(inputs, 2)?, f32s(inputs, 3)?, f32s(inputs, 4)?, eps);
        let x = f32s(inputs, 0)?;
        let mut out = pool.take(x.len())?;
        scale_shift(x, &mut out, channels, inner, &scale, &shift, act);
        Ok(vec![Tensor::new(shape.clone(), out)?])
    })
}
