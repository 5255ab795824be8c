//! Convolutions, pooling over windows, and their geometry.

use super::{AxisRole, Fact, Facts, Op, WeightUse};
use crate::{DType, Error, Node, Result};

pub(super) const OPS: &[Op] = &[
    Op::new("Conv", 1, infer_conv).weights(weights_conv).macs(macs_conv),
    Op::new("ConvInteger", 10, infer_conv_integer).macs(macs_conv),
    Op::new("QLinearConv", 10, infer_qlinear_conv).macs(macs_qlinear_conv),
    Op::new("ConvTranspose", 1, infer_conv_transpose)
        .weights(weights_conv_transpose)
        .macs(macs_conv_transpose),
    Op::new("DeformConv", 19, infer_deform_conv).weights(weights_conv).macs(macs_conv),
    Op::new("MaxPool", 1, infer_pool),
    Op::new("AveragePool", 1, infer_pool),
    Op::new("LpPool", 1, infer_pool),
    Op::new("GlobalAveragePool", 1, infer_global_pool),
    Op::new("GlobalMaxPool", 1, infer_global_pool),
    Op::new("GlobalLpPool", 1, infer_global_pool),
];

/// The geometry of a sliding window over spatial axes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Kernel extents.
    pub kernel: Vec<usize>,
    /// Steps.
    pub strides: Vec<usize>,
    /// Distances between kernel positions.
    pub dilations: Vec<usize>,
    /// Padding before each axis.
    pub before: Vec<usize>,
    /// Padding after each axis.
    pub after: Vec<usize>,
    /// Output extents.
    pub output: Vec<usize>,
}

fn positive(node: &Node, name: &str, rank: usize) -> Result<Vec<usize>> {
    let Some(values) = node.ints(name)? else { return Ok(vec![1; rank]) };
    let out: Option<Vec<usize>> =
        values.iter().map(|&v| usize::try_from(v).ok().filter(|&v| v > 0)).collect();
    match out {
        Some(out) if out.len() == rank => Ok(out),
        _ => Err(Error::input(format!("attribute `{name}` is {values:?}, expected {rank} positive numbers"))),
    }
}

fn pads(node: &Node, rank: usize) -> Result<(Vec<usize>, Vec<usize>)> {
    let Some(values) = node.ints("pads")? else { return Ok((vec![0; rank], vec![0; rank])) };
    let out: Option<Vec<usize>> = values.iter().map(|&v| usize::try_from(v).ok()).collect();
    match out {
        Some(out) if out.len() == 2 * rank => Ok((out[..rank].to_vec(), out[rank..].to_vec())),
        _ => Err(Error::unsupported(format!(
            "attribute `pads` is {values:?}, expected {rank} pairs, none negative"
        ))),
    }
}

/// The window of a convolution (`kernel` from its weight) or a pooling node over an input with the
/// given spatial extents. `ceil_mode` rounds the output up, leaving out windows that would start in
/// the padding after the input.
///
/// # Errors
/// Where attributes do not fit the rank, or the window is larger than the padded input.
pub fn window(node: &Node, kernel: &[usize], input: &[usize]) -> Result<Window> {
    let rank = kernel.len();
    if input.len() != rank {
        return Err(Error::input(format!("{} spatial axes, expected {rank} as the kernel has", input.len())));
    }
    if kernel.contains(&0) {
        return Err(Error::input(format!("the kernel {kernel:?} is empty")));
    }
    let strides = positive(node, "strides", rank)?;
    let dilations = positive(node, "dilations", rank)?;
    let ceil = node.int_or("ceil_mode", 0)? != 0;
    let auto_pad = node.str_or("auto_pad", "NOTSET")?;
    let (mut before, mut after) =
        if auto_pad == "NOTSET" { pads(node, rank)? } else { (vec![0; rank], vec![0; rank]) };
    let mut output = Vec::with_capacity(rank);
    for i in 0..rank {
        let extent = (kernel[i] - 1)
            .checked_mul(dilations[i])
            .and_then(|e| e.checked_add(1))
            .ok_or_else(|| Error::input("the dilated kernel is too large"))?;
        if let "SAME_UPPER" | "SAME_LOWER" = auto_pad {
            let out = input[i].div_ceil(strides[i]);
            let total = (out.saturating_sub(1) * strides[i] + extent).saturating_sub(input[i]);
            let (small, large) = (total / 2, total - total / 2);
            (before[i], after[i]) = if auto_pad == "SAME_UPPER" { (small, large) } else { (large, small) };
        } else if auto_pad != "NOTSET" && auto_pad != "VALID" {
            return Err(Error::input(format!("attribute `auto_pad` is `{auto_pad}`")));
        }
        let padded = input[i] + before[i] + after[i];
        let room = padded.checked_sub(extent).ok_or_else(|| {
            Error::input(format!(
                "axis {i}: the window of {extent} is larger than the padded input of {padded}"
            ))
        })?;
        let mut out = room / strides[i] + 1;
        if ceil && room % strides[i] != 0 && out * strides[i] < input[i] + before[i] {
            out += 1;
        }
        output.push(out);
    }
    Ok(Window { kernel: kernel.to_vec(), strides, dilations, before, after, output })
}

/// The number of groups of a convolution.
///
/// # Errors
/// Where the attribute is not positive.
pub fn groups(node: &Node) -> Result<usize> {
    let group = node.int_or("group", 1)?;
    usize::try_from(group)
        .ok()
        .filter(|&g| g > 0)
        .ok_or_else(|| Error::input(format!("attribute `group` is {group}, expected a positive number")))
}

fn conv_shape(node: &Node, x: &[usize], w: &[usize]) -> Result<Vec<usize>> {
    let groups = groups(node)?;
    if x.len() < 3 || w.len() != x.len() {
        return Err(Error::input(format!(
            "input {x:?} and weight {w:?}: expected equal ranks of at least 3"
        )));
    }
    if w[1].checked_mul(groups) != Some(x[1]) || !w[0].is_multiple_of(groups) {
        return Err(Error::input(format!("input {x:?} and weight {w:?} do not fit with {groups} groups")));
    }
    let mut shape = vec![x[0], w[0]];
    shape.extend(window(node, &w[2..], &x[2..])?.output);
    Ok(shape)
}

fn infer_conv(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let (x, w) = (inputs.need(0)?, inputs.need(1)?);
    let shape = match (x.shape(), w.shape()) {
        (Some(x), Some(w)) => Some(conv_shape(node, x, w)?),
        _ => None,
    };
    Ok(vec![Fact { dtype: x.dtype, shape, ..Fact::default() }])
}

fn infer_conv_integer(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let mut facts = infer_conv(node, inputs)?;
    facts[0].dtype = Some(DType::I32);
    Ok(facts)
}

fn infer_qlinear_conv(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let shape = match (inputs.shape(0), inputs.shape(3)) {
        (Some(x), Some(w)) => Some(conv_shape(node, x, w)?),
        _ => None,
    };
    Ok(vec![Fact { dtype: inputs.dtype(7), shape, ..Fact::default() }])
}

/// `DeformConv` takes the offsets as input 2 and the bias as input 3.
fn infer_deform_conv(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    infer_conv(node, inputs)
}

fn weights_conv(node: &Node, inputs: Facts<'_>) -> Result<Vec<WeightUse>> {
    let rank = inputs.shape(1).map_or(4, <[usize]>::len);
    let mut roles = vec![AxisRole::Out, AxisRole::In];
    roles.resize(rank.max(2), AxisRole::Spatial);
    let bias = if node.op_type == "DeformConv" { 3 } else { 2 };
    Ok(vec![WeightUse { input: 1, roles, groups: groups(node)?, bias: Some(bias), out_axis: Some(1) }])
}

fn product(shape: &[usize]) -> u64 {
    shape.iter().map(|&d| d as u64).product()
}

fn macs_conv(_: &Node, inputs: Facts<'_>, outputs: &[Fact]) -> Result<u64> {
    macs_of_windows(inputs.shape(1), outputs)
}

fn macs_qlinear_conv(_: &Node, inputs: Facts<'_>, outputs: &[Fact]) -> Result<u64> {
    macs_of_windows(inputs.shape(3), outputs)
}

/// A multiply–accumulate for each weight at each output position of each sample.
fn macs_of_windows(weight: Option<&[usize]>, outputs: &[Fact]) -> Result<u64> {
    let (Some(w), Some(out)) = (weight, outputs.first().and_then(Fact::shape)) else { return Ok(0) };
    Ok(product(w) * out.first().map_or(1, |&n| n as u64) * product(out.get(2..).unwrap_or_default()))
}

/// The window of a transposed convolution: `output` is the larger side. The padding is what is cut
/// off the full result.
///
/// # Errors
/// Where attributes do not fit the rank.
pub fn transposed_window(node: &Node, kernel: &[usize], input: &[usize]) -> Result<Window> {
    let rank = kernel.len();
    if input.len() != rank || kernel.contains(&0) {
        return Err(Error::input(format!("kernel {kernel:?} over the spatial extents {input:?}")));
    }
    let strides = positive(node, "strides", rank)?;
    let dilations = positive(node, "dilations", rank)?;
    let extra = match node.ints("output_padding")? {
        Some(v) => v.iter().map(|&v| v.max(0) as usize).collect(),
        None => vec![0; rank],
    };
    if extra.len() != rank {
        return Err(Error::input(format!(
            "attribute `output_padding` has {} numbers, expected {rank}",
            extra.len()
        )));
    }
    let auto_pad = node.str_or("auto_pad", "NOTSET")?;
    let wanted = node.ints("output_shape")?;
    let (mut before, mut after) = if auto_pad == "NOTSET" && wanted.is_none() {
        pads(node, rank)?
    } else {
        (vec![0; rank], vec![0; rank])
    };
    let mut output = Vec::with_capacity(rank);
    for i in 0..rank {
        let full = input[i].saturating_sub(1) * strides[i] + extra[i] + (kernel[i] - 1) * dilations[i] + 1;
        let target = match wanted {
            // Some exporters give batch and channels too.
            Some(w) if w.len() == rank || w.len() == rank + 2 => {
                let d = w[w.len() - rank + i];
                Some(
                    usize::try_from(d)
                        .map_err(|_| Error::input(format!("attribute `output_shape` is {w:?}")))?,
                )
            }
            Some(w) => {
                return Err(Error::input(format!(
                    "attribute `output_shape` is {w:?}, expected {rank} numbers"
                )));
            }
            None if auto_pad.starts_with("SAME") => Some(input[i] * strides[i]),
            None => None,
        };
        if let Some(target) = target {
            let total = full.saturating_sub(target);
            let (small, large) = (total / 2, total - total / 2);
            (before[i], after[i]) = if auto_pad == "SAME_UPPER" { (small, large) } else { (large, small) };
            output.push(target);
        } else {
            output.push(full.checked_sub(before[i] + after[i]).ok_or_else(|| {
                Error::input(format!("axis {i}: the padding is larger than the full result of {full}"))
            })?);
        }
    }
    Ok(Window { kernel: kernel.to_vec(), strides, dilations, before, after, output })
}

fn infer_conv_transpose(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let (x, w) = (inputs.need(0)?, inputs.need(1)?);
    let shape = match (x.shape(), w.shape()) {
        (Some(x), Some(w)) => {
            if x.len() < 3 || w.len() != x.len() || w[0] != x[1] || w[0] % groups(node)? != 0 {
                return Err(Error::input(format!("input {x:?} and weight {w:?} do not fit")));
            }
            let mut shape = vec![x[0], w[1] * groups(node)?];
            shape.extend(transposed_window(node, &w[2..], &x[2..])?.output);
            Some(shape)
        }
        _ => None,
    };
    Ok(vec![Fact { dtype: x.dtype, shape, ..Fact::default() }])
}

/// `ConvTranspose` stores its weight `[in, out/groups, …]`.
fn weights_conv_transpose(node: &Node, inputs: Facts<'_>) -> Result<Vec<WeightUse>> {
    let rank = inputs.shape(1).map_or(4, <[usize]>::len);
    let mut roles = vec![AxisRole::In, AxisRole::Out];
    roles.resize(rank.max(2), AxisRole::Spatial);
    Ok(vec![WeightUse { input: 1, roles, groups: groups(node)?, bias: Some(2), out_axis: Some(1) }])
}

/// Each weight meets each input position of each sample.
fn macs_conv_transpose(_: &Node, inputs: Facts<'_>, _: &[Fact]) -> Result<u64> {
    let (Some(x), Some(w)) = (inputs.shape(0), inputs.shape(1)) else { return Ok(0) };
    Ok(product(w) * x.first().map_or(1, |&n| n as u64) * product(x.get(2..).unwrap_or_default()))
}

/// The window's extents of a pooling node over `rank` spatial axes.
///
/// # Errors
/// Where the attribute is missing or does not fit the rank.
pub fn pool_kernel(node: &Node, rank: usize) -> Result<Vec<usize>> {
    if node.attrs.contains_key("kernel_shape") {
        positive(node, "kernel_shape", rank)
    } else {
        Err(Error::input("attribute `kernel_shape` is missing"))
    }
}

fn infer_pool(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let x = inputs.need(0)?;
    let shape = match x.shape() {
        Some(shape) if shape.len() >= 3 => {
            let kernel = pool_kernel(node, shape.len() - 2)?;
            let mut out = shape[..2].to_vec();
            out.extend(window(node, &kernel, &shape[2..])?.output);
            Some(out)
        }
        Some(shape) => return Err(Error::input(format!("input {shape:?}, expected a rank of at least 3"))),
        None => None,
    };
    let index = Fact { dtype: Some(DType::I64), shape: shape.clone(), ..Fact::default() };
    Ok(vec![Fact { dtype: x.dtype, shape, ..Fact::default() }, index])
}

fn infer_global_pool(_: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let x = inputs.need(0)?;
    let shape = match x.shape() {
        Some(shape) if shape.len() >= 2 => {
            Some(shape.iter().enumerate().map(|(i, &d)| if i < 2 { d } else { 1 }).collect())
        }
        Some(shape) => return Err(Error::input(format!("input {shape:?}, expected a rank of at least 2"))),
        None => None,
    };
    Ok(vec![Fact { dtype: x.dtype, shape, ..Fact::default() }])
}
