//! Convolutions, pooling over windows, and their geometry.

use super::axes::{Axis, Slot, Statement};
use super::{AxisRole, Fact, Facts, ONE_TYPE, Op, WeightUse, count_of};
use crate::tensor::{MAX_LEN, checked_len};
use crate::{DType, Error, ErrorKind, Node, Result};

pub(super) const OPS: &[Op] = &[
    Op::new("Conv", 1, infer_conv)
        .types(ONE_TYPE)
        .axes(axes_conv)
        .weights(weights_conv)
        .parameters(&[1, 2])
        .macs(macs_conv),
    Op::new("ConvInteger", 10, infer_conv_integer).axes(axes_conv_integer).macs(macs_conv),
    Op::new("QLinearConv", 10, infer_qlinear_conv).axes(axes_qlinear_conv).macs(macs_qlinear_conv),
    Op::new("ConvTranspose", 1, infer_conv_transpose)
        .types(ONE_TYPE)
        .axes(axes_conv_transpose)
        .weights(weights_conv_transpose)
        .parameters(&[1, 2])
        .macs(macs_conv_transpose),
    Op::new("DeformConv", 19, infer_deform_conv)
        .types(ONE_TYPE)
        .axes(axes_deform_conv)
        .weights(weights_conv)
        .macs(macs_conv),
    Op::new("MaxPool", 1, infer_pool).axes(axes_pool),
    Op::new("AveragePool", 1, infer_pool).axes(axes_pool),
    Op::new("LpPool", 1, infer_pool).axes(axes_pool),
    Op::new("GlobalAveragePool", 1, infer_global_pool).axes(axes_global_pool),
    Op::new("GlobalMaxPool", 1, infer_global_pool).axes(axes_global_pool),
    Op::new("GlobalLpPool", 1, infer_global_pool).axes(axes_global_pool),
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

/// The numbers of an attribute as extents, none above [`MAX_LEN`]; `None` where one is not.
fn extents(values: &[i64]) -> Option<Vec<usize>> {
    values.iter().map(|&v| usize::try_from(v).ok().filter(|&v| v <= MAX_LEN)).collect()
}

fn positive(node: &Node, name: &str, rank: usize) -> Result<Vec<usize>> {
    let Some(values) = node.ints(name)? else { return Ok(vec![1; rank]) };
    match extents(values) {
        Some(out) if out.len() == rank && !out.contains(&0) => Ok(out),
        _ => Err(Error::input(format!(
            "attribute `{name}` is {values:?}, expected {rank} positive numbers up to {MAX_LEN}"
        ))),
    }
}

fn pads(node: &Node, rank: usize) -> Result<(Vec<usize>, Vec<usize>)> {
    let Some(values) = node.ints("pads")? else { return Ok((vec![0; rank], vec![0; rank])) };
    match extents(values) {
        Some(out) if out.len() == 2 * rank => Ok((out[..rank].to_vec(), out[rank..].to_vec())),
        _ => {
            let kind = match values.iter().any(|&pad| pad < 0) {
                true => ErrorKind::Unsupported,
                false => ErrorKind::Input,
            };
            Err(Error::new(
                kind,
                format!(
                    "attribute `pads` is {values:?}, expected {rank} pairs, none negative and none above {MAX_LEN}"
                ),
            ))
        }
    }
}

/// The distance from the first to the last element of a window along an axis, plus 1.
fn span(axis: usize, kernel: usize, dilation: usize) -> Result<usize> {
    (kernel - 1).checked_mul(dilation).and_then(|e| e.checked_add(1)).filter(|&e| e <= MAX_LEN).ok_or_else(
        || Error::input(format!("axis {axis}: a kernel of {kernel} dilated by {dilation} is too large")),
    )
}

/// Checks that the positions a window passes over can be counted: then so can the window's elements, the outputs, and
/// the distance of any two positions in memory.
fn countable(what: &str, passed: &[usize]) -> Result<()> {
    checked_len(passed)
        .map(|_| ())
        .ok_or_else(|| Error::input(format!("{what} of {passed:?} has more positions than any memory holds")))
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
    let (mut output, mut passed) = (Vec::with_capacity(rank), Vec::with_capacity(rank));
    for i in 0..rank {
        let extent = span(i, kernel[i], dilations[i])?;
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
        passed.push(padded);
    }
    countable("the padded input", &passed)?;
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
    infer_with_bias(node, inputs, Some(2))
}

/// A convolution's output; `bias` is the input that has one element for each output channel.
fn infer_with_bias(node: &Node, inputs: Facts<'_>, bias: Option<usize>) -> Result<Vec<Fact>> {
    let (x, w) = (inputs.need(0)?, inputs.need(1)?);
    if let (Some(bias), Some(&[outputs, ..])) = (bias, w.shape()) {
        inputs.expect(bias, "the bias", &[&[outputs]])?;
    }
    let shape = match (x.shape(), w.shape()) {
        (Some(x), Some(w)) => Some(conv_shape(node, x, w)?),
        _ => None,
    };
    Ok(vec![Fact { dtype: x.dtype, shape, ..Fact::default() }])
}

fn infer_conv_integer(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let mut facts = infer_with_bias(node, inputs, None)?;
    facts[0].dtype = Some(DType::I32);
    Ok(facts)
}

fn infer_qlinear_conv(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let shape = match (inputs.shape(0), inputs.shape(3)) {
        (Some(x), Some(w)) => {
            let shape = conv_shape(node, x, w)?;
            inputs.expect(8, "the bias", &[&w[..1]])?;
            Some(shape)
        }
        _ => None,
    };
    Ok(vec![Fact { dtype: inputs.dtype(7), shape, ..Fact::default() }])
}

/// `DeformConv` takes the offsets as input 2, the bias as input 3 and a mask as input 4.
fn infer_deform_conv(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let facts = infer_with_bias(node, inputs, Some(3))?;
    if let (Some(x), Some(w), Some(out)) = (inputs.shape(0), inputs.shape(1), facts[0].shape()) {
        let groups = offset_groups(node, x[1])?;
        for (index, what, each) in [(2, "the offsets", 2), (4, "the mask", 1)] {
            let mut expected = vec![x[0], super::len_of(&[&w[2..], &[groups, each]].concat())?];
            expected.extend(&out[2..]);
            inputs.expect(index, what, &[&expected])?;
        }
        // What a sample's windows see, brought together.
        super::len_of(&[&w[2..], &[x[1]], &out[2..]].concat())?;
    }
    Ok(facts)
}

/// Groups of channels of a `DeformConv` that share offsets.
///
/// # Errors
/// Where the attribute is not positive or does not divide the channels.
pub fn offset_groups(node: &Node, channels: usize) -> Result<usize> {
    let groups = node.int_or("offset_group", 1)?;
    usize::try_from(groups).ok().filter(|&g| g > 0 && channels.is_multiple_of(g)).ok_or_else(|| {
        Error::input(format!("attribute `offset_group` is {groups}, expected a divisor of {channels}"))
    })
}

fn weights_conv(node: &Node, inputs: Facts<'_>) -> Result<Vec<WeightUse>> {
    let rank = inputs.shape(1).map_or(4, <[usize]>::len);
    let mut roles = vec![AxisRole::Out, AxisRole::In];
    roles.resize(rank.max(2), AxisRole::Spatial);
    let bias = if node.op_type == "DeformConv" { 3 } else { 2 };
    Ok(vec![WeightUse {
        input: 1,
        roles,
        groups: groups(node)?,
        bias: Some(bias),
        out_axis: Some(1),
        out_from_last: rank.checked_sub(2),
        gates: 1,
    }])
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
    count_of(w.iter().chain(out.first()).chain(out.iter().skip(2)))
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
        Some(v) => extents(v).filter(|extra| extra.len() == rank).ok_or_else(|| {
            Error::input(format!(
                "attribute `output_padding` is {v:?}, expected {rank} numbers, none negative and none above {MAX_LEN}"
            ))
        })?,
        None => vec![0; rank],
    };
    let auto_pad = node.str_or("auto_pad", "NOTSET")?;
    let wanted = node.ints("output_shape")?;
    let (mut before, mut after) = if auto_pad == "NOTSET" && wanted.is_none() {
        pads(node, rank)?
    } else {
        (vec![0; rank], vec![0; rank])
    };
    // Some exporters give batch and channels too.
    let wanted = match wanted {
        Some(w) => match extents(w) {
            Some(sizes) if sizes.len() == rank || sizes.len() == rank + 2 => {
                Some(sizes[sizes.len() - rank..].to_vec())
            }
            _ => {
                return Err(Error::input(format!(
                    "attribute `output_shape` is {w:?}, expected {rank} numbers from 0 to {MAX_LEN}"
                )));
            }
        },
        None => None,
    };
    let (mut output, mut passed) = (Vec::with_capacity(rank), Vec::with_capacity(rank));
    for i in 0..rank {
        let steps = |count: usize| {
            count.checked_mul(strides[i]).filter(|&steps| steps <= MAX_LEN).ok_or_else(|| {
                Error::input(format!(
                    "axis {i}: {count} inputs {} apart give too large an output",
                    strides[i]
                ))
            })
        };
        let full = steps(input[i].saturating_sub(1))? + extra[i] + span(i, kernel[i], dilations[i])?;
        let target = match &wanted {
            Some(sizes) => Some(sizes[i]),
            None if auto_pad.starts_with("SAME") => Some(steps(input[i])?),
            None => None,
        };
        passed.push(full.max(target.unwrap_or(0)));
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
    countable("the result before it is cut", &passed)?;
    Ok(Window { kernel: kernel.to_vec(), strides, dilations, before, after, output })
}

fn infer_conv_transpose(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let (x, w) = (inputs.need(0)?, inputs.need(1)?);
    let shape = match (x.shape(), w.shape()) {
        (Some(x), Some(w)) => {
            let groups = groups(node)?;
            if x.len() < 3 || w.len() != x.len() || w[0] != x[1] || w[0] % groups != 0 {
                return Err(Error::input(format!(
                    "input {x:?} and weight {w:?} do not fit with {groups} groups"
                )));
            }
            let mut shape = vec![x[0], super::len_of(&[w[1], groups])?];
            shape.extend(transposed_window(node, &w[2..], &x[2..])?.output);
            inputs.expect(2, "the bias", &[&shape[1..2]])?;
            // What each input adds to the outputs, before it is summed.
            super::len_of(&[&w[1..], &x[2..]].concat())?;
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
    Ok(vec![WeightUse {
        input: 1,
        roles,
        groups: groups(node)?,
        bias: Some(2),
        out_axis: Some(1),
        out_from_last: rank.checked_sub(2),
        gates: 1,
    }])
}

/// Each weight meets each input position of each sample.
fn macs_conv_transpose(_: &Node, inputs: Facts<'_>, _: &[Fact]) -> Result<u64> {
    let (Some(x), Some(w)) = (inputs.shape(0), inputs.shape(1)) else { return Ok(0) };
    count_of(w.iter().chain(x.first()).chain(x.iter().skip(2)))
}

/// The window's extents of a pooling node over `rank` spatial axes.
///
/// # Errors
/// Where the attribute is missing or does not fit the rank.
fn pool_kernel(node: &Node, rank: usize) -> Result<Vec<usize>> {
    if node.attrs.contains_key("kernel_shape") {
        positive(node, "kernel_shape", rank)
    } else {
        Err(Error::input("attribute `kernel_shape` is missing"))
    }
}

/// Elements that a pooling window may have however small its input is.
const WINDOW_ELEMENTS: usize = 1 << 20;

/// Windows that are larger than this do not overlap much: an image would take hours otherwise.
const LARGE_WINDOW: u64 = 1 << 12;

/// How often large windows may look at an element of their input, on average.
const LOOKS: u64 = 64;

/// The window of a pooling node over an input with the given spatial extents.
///
/// # Errors
/// As [`window`], where `kernel_shape` is missing or does not fit the rank, and where the window has far more elements
/// than the input: nothing but padding would be looked at, at length.
pub fn pool_window(node: &Node, input: &[usize]) -> Result<Window> {
    let found = window(node, &pool_kernel(node, input.len())?, input)?;
    let (elements, positions) = (super::len_of(&found.kernel)?, super::len_of(input)?);
    if elements > positions.max(WINDOW_ELEMENTS) {
        return Err(Error::input(format!(
            "a window of {:?}, {elements} elements, over an input of {input:?}",
            found.kernel
        )));
    }
    let looks = super::count_of(found.kernel.iter().chain(&found.output))?;
    if elements as u64 > LARGE_WINDOW && looks > (positions as u64).max(LARGE_WINDOW).saturating_mul(LOOKS) {
        return Err(Error::unsupported(format!(
            "windows of {:?} that overlap: each element of an input of {input:?} would be looked at {} times",
            found.kernel,
            looks / (positions as u64).max(1)
        )));
    }
    Ok(found)
}

fn infer_pool(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let x = inputs.need(0)?;
    let shape = match x.shape() {
        Some(shape) if shape.len() >= 3 => {
            let mut out = shape[..2].to_vec();
            out.extend(pool_window(node, &shape[2..])?.output);
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

/// Windows look at positions; but those of one element, next to each other, pass each position on.
fn axes_windows(axes: &mut Statement<'_>, x: &[Axis], y: &[Axis], window: &Window) {
    for (i, (&x, &y)) in x.iter().zip(y).enumerate() {
        if window.kernel[i] == 1 && window.strides[i] == 1 && window.before[i] + window.after[i] == 0 {
            axes.same(x, y);
        } else {
            axes.fix_all(&[x, y]);
        }
    }
}

/// `[N, groups·in, …]` with the weight `[groups·out, in, …]` gives `[N, groups·out, …]`. `per_output` lists operands of
/// one element for each output channel.
fn axes_grouped(node: &Node, axes: &mut Statement<'_>, weight: usize, per_output: &[usize]) -> Result<Axis> {
    let (x, w, y) = (axes.need(0, 3)?, axes.need(weight, 3)?, axes.need_output(0, 3)?);
    let groups = groups(node)?;
    let (group, out) = (axes.dim(groups), axes.dim(axes.extent(w[0]) / groups));
    let (inputs, outputs) = (axes.product(&[group, w[1]]), axes.product(&[group, out]));
    axes.same(x[0], y[0]);
    axes.same(x[1], inputs);
    axes.same(w[0], outputs);
    axes.same(y[1], w[0]);
    axes.fix_all(&w[2..]);
    if groups > 1 {
        axes.write(Slot::Attr("group"), group);
    }
    per_output.iter().for_each(|&input| axes.along(input, w[0]));
    Ok(x[1])
}

fn axes_window_of(node: &Node, axes: &mut Statement<'_>, weight: usize) -> Result<()> {
    let window = window(node, &axes.shape(weight)[2..], &axes.shape(0)[2..])?;
    let (x, y) = (axes.need(0, 3)?, axes.need_output(0, 3)?);
    axes_windows(axes, &x[2..], &y[2..], &window);
    Ok(())
}

fn axes_conv(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    axes_grouped(node, axes, 1, &[2])?;
    axes_window_of(node, axes, 1)
}

fn axes_conv_integer(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    axes_grouped(node, axes, 1, &[3])?;
    axes_window_of(node, axes, 1)
}

fn axes_qlinear_conv(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    axes_grouped(node, axes, 3, &[4, 5, 8])?;
    axes_window_of(node, axes, 3)
}

/// Each group of channels has offsets of its own, two for each element of the window.
fn axes_deform_conv(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let channels = axes_grouped(node, axes, 1, &[3])?;
    let (x, y) = (axes.need(0, 3)?, axes.need_output(0, 3)?);
    let groups = offset_groups(node, axes.extent(channels))?;
    let (group, each) = (axes.dim(groups), axes.dim(axes.extent(channels) / groups));
    let grouped = axes.product(&[group, each]);
    axes.same(channels, grouped);
    for input in [2, 4] {
        if !axes.has_input(input) {
            continue;
        }
        let offsets = axes.need(input, 3)?;
        let place = axes.dim(axes.extent(offsets[1]) / groups);
        axes.fix(place);
        let places = axes.product(&[group, place]);
        axes.same(offsets[1], places);
        axes.same(offsets[0], x[0]);
        axes.fix_all(&offsets[2..]);
    }
    axes.write(Slot::Attr("offset_group"), group);
    axes.fix_all(&x[2..]);
    axes.fix_all(&y[2..]);
    Ok(())
}

/// `[N, groups·in, …]` with the weight `[groups·in, out, …]` gives `[N, groups·out, …]`.
fn axes_conv_transpose(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let (x, w, y) = (axes.need(0, 3)?, axes.need(1, 3)?, axes.need_output(0, 3)?);
    let groups = groups(node)?;
    let (group, input) = (axes.dim(groups), axes.dim(axes.extent(w[0]) / groups));
    let (inputs, outputs) = (axes.product(&[group, input]), axes.product(&[group, w[1]]));
    axes.same(x[0], y[0]);
    axes.same(x[1], inputs);
    axes.same(w[0], x[1]);
    axes.same(y[1], outputs);
    axes.fix_all(&[&x[2..], &w[2..], &y[2..]].concat());
    if groups > 1 {
        axes.write(Slot::Attr("group"), group);
    }
    axes.along(2, y[1]);
    Ok(())
}

/// Pooling keeps samples and channels. Where it says which elements it took, it counts them over the whole input.
fn axes_pool(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    if axes.has_output(1) {
        axes.fix_everything();
        return Ok(());
    }
    let (x, y) = (axes.need(0, 3)?, axes.need_output(0, 3)?);
    axes.same_all(&x[..2], &y[..2]);
    let window = pool_window(node, &axes.shape(0)[2..])?;
    axes_windows(axes, &x[2..], &y[2..], &window);
    Ok(())
}

fn axes_global_pool(_: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let (x, y) = (axes.need(0, 2)?, axes.need_output(0, 2)?);
    axes.same_all(&x[..2], &y[..2]);
    Ok(())
}
