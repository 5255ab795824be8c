//! Products of 8-bit integers, summed exactly.

use rayon::prelude::*;
use secateur_model::ops::conv::{Window, groups, window};
use secateur_model::ops::{broadcast, len_of};
use secateur_model::{DType, Data, Error, Result, Tensor};

use super::matmul::{offsets, widened_shape};
use super::{Build, BuildFn, Kernel, from_fn, operand};
use crate::buffers::Pool;

pub(super) const KERNELS: &[(&str, BuildFn)] = &[
    ("ConvInteger", conv_integer),
    ("QLinearConv", qlinear_conv),
    ("MatMulInteger", matmul_integer),
    ("QLinearMatMul", qlinear_matmul),
    ("QGemm", qgemm),
];

fn is_narrow(build: &Build<'_>, inputs: &[usize]) -> bool {
    inputs.iter().all(|&i| matches!(build.inputs.dtype(i), Some(DType::I8 | DType::U8)))
}

/// Where input `zero` gives a zero point, the input's elements less it; one zero point for all, or one
/// for each of the slices that `slice_of` assigns elements to.
fn centred(
    inputs: &[Option<Tensor>],
    input: usize,
    zero: usize,
    pool: &mut Pool,
    slice_of: impl Fn(usize) -> usize,
) -> Result<Vec<i32>> {
    let zeros = match inputs.get(zero).and_then(Option::as_ref) {
        Some(t) => t.to_i64s()?,
        None => vec![0],
    };
    let less = |i: usize, value: i64| {
        let point = if zeros.len() == 1 { zeros.first() } else { zeros.get(slice_of(i)) };
        let short = || Error::input(format!("input {zero} has {} elements", zeros.len()));
        point.map(|zero| value.wrapping_sub(*zero) as i32).ok_or_else(short)
    };
    fn each<T: Copy + Into<i64>>(
        values: &[T],
        out: &mut [i32],
        less: impl Fn(usize, i64) -> Result<i32>,
    ) -> Result<()> {
        out.iter_mut().zip(values).enumerate().try_for_each(|(i, (out, &value))| {
            *out = less(i, value.into())?;
            Ok(())
        })
    }
    let tensor = operand(inputs, input)?;
    let mut out = pool.filled(tensor.len(), 0i32)?;
    match tensor.data() {
        Data::U8(values) => each(values, &mut out, less)?,
        Data::I8(values) => each(values, &mut out, less)?,
        other => return Err(Error::internal(format!("elements of {} among 8-bit integers", other.dtype()))),
    }
    Ok(out)
}

/// Sums scaled into the output's type: saturate(round(sum · factor) + zero point), halves to even.
fn requantized(
    sums: &[i32],
    shape: &[usize],
    factor: impl Fn(usize) -> f32,
    zero: &Tensor,
) -> Result<Tensor> {
    let zero_point = *zero.to_i64s()?.first().ok_or_else(|| Error::input("an empty zero point"))? as f32;
    let values =
        sums.iter().enumerate().map(|(i, &sum)| (sum as f32 * factor(i)).round_ties_even() + zero_point);
    // Casts of floats saturate.
    match zero.dtype() {
        DType::U8 => Tensor::new(shape, values.map(|v| v as u8).collect()),
        DType::I8 => Tensor::new(shape, values.map(|v| v as i8).collect()),
        other => Err(Error::unsupported(format!("a zero point of type {other}"))),
    }
}

/// The scales of an input: one, or one a slice.
fn scales(inputs: &[Option<Tensor>], index: usize) -> Result<Vec<f32>> {
    let scales = operand(inputs, index)?.to_f32s()?;
    if scales.is_empty() { Err(Error::input(format!("input {index} is empty"))) } else { Ok(scales) }
}

fn pick(scales: &[f32], slice: usize) -> f32 {
    scales.get(if scales.len() == 1 { 0 } else { slice }).copied().unwrap_or(f32::NAN)
}

/// A convolution's geometry over three spatial axes, the missing ones of extent 1.
struct Conv {
    batch: usize,
    channels: usize,
    outputs: usize,
    groups: usize,
    input: [usize; 3],
    output: [usize; 3],
    kernel: [usize; 3],
    strides: [usize; 3],
    dilations: [usize; 3],
    before: [usize; 3],
    shape: Vec<usize>,
}

impl Conv {
    fn new(build: &Build<'_>, weight: usize) -> Result<Self> {
        let (x, w) = (build.shape(0)?, build.shape(weight)?);
        let spatial = &x[2..];
        if spatial.len() > 3 {
            return Err(Error::unsupported(format!("{} spatial axes, supported are up to 3", spatial.len())));
        }
        let Window { kernel, strides, dilations, before, output, .. } = window(build.node, &w[2..], spatial)?;
        let pad = |values: &[usize], fill: usize| {
            let mut out = [fill; 3];
            out[3 - values.len()..].copy_from_slice(values);
            out
        };
        Ok(Conv {
            batch: x[0],
            channels: x[1],
            outputs: w[0],
            groups: groups(build.node)?,
            input: pad(spatial, 1),
            output: pad(&output, 1),
            kernel: pad(&kernel, 1),
            strides: pad(&strides, 1),
            dilations: pad(&dilations, 1),
            before: pad(&before, 0),
            shape: build.out_shape(0)?.to_vec(),
        })
    }

    fn weights_per_output(&self) -> usize {
        self.channels / self.groups * self.kernel.iter().product::<usize>()
    }

    fn run(&self, x: &[i32], w: &[i32], bias: Option<&[i32]>, pool: &mut Pool) -> Result<Vec<i32>> {
        let plane: usize = self.output.iter().product();
        let in_plane: usize = self.input.iter().product();
        let per_group = self.channels / self.groups;
        let mut out = pool.filled(self.batch * self.outputs * plane, 0i32)?;
        out.par_chunks_mut(plane.max(1)).enumerate().for_each(|(item, out)| {
            let (sample, channel) = (item / self.outputs, item % self.outputs);
            let group = channel / (self.outputs / self.groups);
            let x = &x[(sample * self.channels + group * per_group) * in_plane..][..per_group * in_plane];
            let w = &w[channel * self.weights_per_output()..][..self.weights_per_output()];
            for (position, out) in out.iter_mut().enumerate() {
                let sum = self.sum(position, x, w);
                *out = bias.map_or(0, |b| b[channel]).wrapping_add(sum);
            }
        });
        Ok(out)
    }

    /// The window at an output position times an output channel's weights. Padding is the zero point.
    fn sum(&self, position: usize, x: &[i32], w: &[i32]) -> i32 {
        let [od, oh, ow] = unravel(position, self.output);
        let taps: usize = self.kernel.iter().product();
        let in_plane: usize = self.input.iter().product();
        let mut sum = 0i32;
        for tap in 0..taps {
            let at = unravel(tap, self.kernel);
            let mut index = 0;
            let inside = [od, oh, ow].into_iter().enumerate().all(|(axis, o)| {
                let i =
                    (o * self.strides[axis] + at[axis] * self.dilations[axis]).checked_sub(self.before[axis]);
                index = index * self.input[axis] + i.unwrap_or(0);
                i.is_some_and(|i| i < self.input[axis])
            });
            if inside {
                for (x, w) in x.chunks_exact(in_plane).zip(w.chunks_exact(taps)) {
                    sum = sum.wrapping_add(x[index].wrapping_mul(w[tap]));
                }
            }
        }
        sum
    }
}

fn unravel(index: usize, extents: [usize; 3]) -> [usize; 3] {
    let [_, b, c] = extents;
    [index / (b * c), index / c % b, index % c]
}

fn conv_integer(build: &Build<'_>) -> Result<Option<Box<dyn Kernel>>> {
    if !is_narrow(build, &[0, 1]) {
        return Ok(None);
    }
    let conv = Conv::new(build, 1)?;
    from_fn(move |inputs, pool| {
        let x = centred(inputs, 0, 2, pool, |_| 0)?;
        let w = centred(inputs, 1, 3, pool, |i| i / conv.weights_per_output().max(1))?;
        Ok(vec![Tensor::new(conv.shape.clone(), conv.run(&x, &w, None, pool)?)?])
    })
}

fn qlinear_conv(build: &Build<'_>) -> Result<Option<Box<dyn Kernel>>> {
    if !is_narrow(build, &[0, 3]) {
        return Ok(None);
    }
    let conv = Conv::new(build, 3)?;
    from_fn(move |inputs, pool| {
        let x = centred(inputs, 0, 2, pool, |_| 0)?;
        let w = centred(inputs, 3, 5, pool, |i| i / conv.weights_per_output().max(1))?;
        let bias = match inputs.get(8).and_then(Option::as_ref) {
            Some(b) if b.len() == conv.outputs => Some(b.values::<i32>()?),
            Some(b) => {
                return Err(Error::input(format!("a bias {:?} for {} channels", b.shape(), conv.outputs)));
            }
            None => None,
        };
        let sums = conv.run(&x, &w, bias, pool)?;
        let (xs, ws, ys) = (scales(inputs, 1)?[0], scales(inputs, 4)?, scales(inputs, 6)?[0]);
        let plane: usize = conv.output.iter().product();
        let factor = |i: usize| xs * pick(&ws, i / plane % conv.outputs) / ys;
        Ok(vec![requantized(&sums, &conv.shape, factor, operand(inputs, 7)?)?])
    })
}

/// A stack of products of integers.
struct Product {
    m: usize,
    n: usize,
    k: usize,
    items: Vec<(usize, usize)>,
    shape: Vec<usize>,
}

impl Product {
    fn new(build: &Build<'_>, right: usize) -> Result<Self> {
        let a = widened_shape(build.shape(0)?, true);
        let b = widened_shape(build.shape(right)?, false);
        let stack = broadcast(&[&a[..a.len() - 2], &b[..b.len() - 2]])?;
        let (m, n) = (a[a.len() - 2], b[b.len() - 1]);
        let items = match m * n {
            // However long the stack is, there is nothing to compute.
            0 => Vec::new(),
            _ => offsets(&a, &stack).into_iter().zip(offsets(&b, &stack)).collect(),
        };
        Ok(Product { m, k: a[a.len() - 1], n, items, shape: build.out_shape(0)?.to_vec() })
    }

    /// The row of A's stack, or the column of B's, that an element belongs to.
    fn row(&self, element: usize) -> usize {
        element / self.k.max(1)
    }

    fn column(&self, element: usize) -> usize {
        element / (self.k * self.n).max(1) * self.n + element % self.n.max(1)
    }

    fn run(&self, a: &[i32], b: &[i32], pool: &mut Pool) -> Result<Vec<i32>> {
        let mut out = pool.filled(len_of(&[self.items.len(), self.m, self.n])?, 0i32)?;
        out.par_chunks_mut(self.n.max(1)).enumerate().for_each(|(row, out)| {
            let (item, row) = (row / self.m, row % self.m);
            let (oa, ob) = self.items[item];
            let a = &a[oa + row * self.k..][..self.k];
            for (&a, b) in a.iter().zip(b[ob..].chunks_exact(self.n)) {
                out.iter_mut().zip(b).for_each(|(o, &b)| *o = o.wrapping_add(a.wrapping_mul(b)));
            }
        });
        Ok(out)
    }
}

/// A slice of a zero point or scale: all slices of the stack, or those of one matrix.
fn within(slices: usize, one: usize, slice: usize) -> usize {
    if slices == one && one > 0 { slice % one } else { slice }
}

fn matmul_integer(build: &Build<'_>) -> Result<Option<Box<dyn Kernel>>> {
    if !is_narrow(build, &[0, 1]) {
        return Ok(None);
    }
    let product = Product::new(build, 1)?;
    let count = |i: usize| build.inputs.shape(i).map_or(1, |s| s.iter().product());
    let (rows, columns): (usize, usize) = (count(2), count(3));
    from_fn(move |inputs, pool| {
        let a = centred(inputs, 0, 2, pool, |i| within(rows, product.m, product.row(i)))?;
        let b = centred(inputs, 1, 3, pool, |i| within(columns, product.n, product.column(i)))?;
        Ok(vec![Tensor::new(product.shape.clone(), product.run(&a, &b, pool)?)?])
    })
}

fn qlinear_matmul(build: &Build<'_>) -> Result<Option<Box<dyn Kernel>>> {
    if !is_narrow(build, &[0, 3]) {
        return Ok(None);
    }
    let product = Product::new(build, 3)?;
    let count = |i: usize| build.inputs.shape(i).map_or(1, |s| s.iter().product());
    let (rows, columns): (usize, usize) = (count(2), count(5));
    from_fn(move |inputs, pool| {
        let a = centred(inputs, 0, 2, pool, |i| within(rows, product.m, product.row(i)))?;
        let b = centred(inputs, 3, 5, pool, |i| within(columns, product.n, product.column(i)))?;
        let sums = product.run(&a, &b, pool)?;
        let (sa, sb, sy) = (scales(inputs, 1)?, scales(inputs, 4)?, scales(inputs, 6)?[0]);
        if sa.len() > 1 && sa.len() != product.m || sb.len() > 1 && sb.len() != product.n {
            return Err(Error::unsupported("scales for each row of a stack"));
        }
        let factor = |i: usize| pick(&sa, i / product.n % product.m) * pick(&sb, i % product.n) / sy;
        Ok(vec![requantized(&sums, &product.shape, factor, operand(inputs, 7)?)?])
    })
}

/// The transpose of a matrix of integers.
fn transposed(matrix: &[i32], columns: usize, pool: &mut Pool) -> Result<Vec<i32>> {
    let rows = matrix.len() / columns.max(1);
    let mut out = pool.filled(matrix.len(), 0)?;
    out.iter_mut().enumerate().for_each(|(i, out)| *out = matrix[i % rows * columns + i / rows]);
    Ok(out)
}

/// The output is f32 where it has no scale.
fn qgemm(build: &Build<'_>) -> Result<Option<Box<dyn Kernel>>> {
    if !is_narrow(build, &[0, 3]) {
        return Ok(None);
    }
    let (&[a_rows, a_columns], &[_, b_columns]) = (build.shape(0)?, build.shape(3)?) else {
        return Err(Error::internal("a Gemm of operands that are not matrices"));
    };
    let trans_a = build.node.int_or("transA", 0)? != 0;
    let trans_b = build.node.int_or("transB", 0)? != 0;
    let alpha = build.node.float_or("alpha", 1.0)?;
    let shape = build.out_shape(0)?.to_vec();
    let (m, n) = (shape[0], shape[1]);
    let k = if trans_a { a_rows } else { a_columns };
    let product = Product { m, n, k, items: vec![(0, 0)], shape };
    // How far the bias moves with a row and with a column.
    let step = |extent: Option<usize>, step: usize| if extent.unwrap_or(1) == 1 { 0 } else { step };
    let bias = build.inputs.shape(6).unwrap_or_default().iter().rev().copied().collect::<Vec<_>>();
    let across = step(bias.first().copied(), 1);
    let down = step(bias.get(1).copied(), bias.first().copied().unwrap_or(1));
    let dtype = build.outputs.first().and_then(|fact| fact.dtype);
    from_fn(move |inputs, pool| {
        let column = |i: usize| if trans_b { i / b_columns.max(1) } else { i % b_columns.max(1) };
        let (a, b) = (centred(inputs, 0, 2, pool, |_| 0)?, centred(inputs, 3, 5, pool, column)?);
        let a = if trans_a { transposed(&a, a_columns, pool)? } else { a };
        let b = if trans_b { transposed(&b, b_columns, pool)? } else { b };
        let mut sums = product.run(&a, &b, pool)?;
        if let Some(bias) = inputs.get(6).and_then(Option::as_ref) {
            let bias = bias.values::<i32>()?;
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = sum.wrapping_add(bias[i / n * down + i % n * across]);
            }
        }
        let (sa, sb) = (scales(inputs, 1)?[0], scales(inputs, 4)?);
        let scale = |i: usize| alpha * sa * pick(&sb, i % n);
        if inputs.get(7).and_then(Option::as_ref).is_none() {
            let values = sums.iter().enumerate().map(|(i, &sum)| sum as f32 * scale(i)).collect();
            return Ok(vec![Tensor::new(product.shape.clone(), values)?]);
        }
        let sy = scales(inputs, 7)?[0];
        let zero = match (inputs.get(8).and_then(Option::as_ref), dtype) {
            (Some(zero), _) => zero.clone(),
            (None, Some(DType::I8)) => Tensor::scalar(0i8),
            (None, _) => Tensor::scalar(0u8),
        };
        Ok(vec![requantized(&sums, &product.shape, |i| scale(i) / sy, &zero)?])
    })
}
