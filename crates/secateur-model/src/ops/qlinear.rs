//! Operators on tensors of 8-bit integers with a scale and a zero point each, as ONNX Runtime's static
//! quantiser writes them: x = scale · (code − zero point).
//!
//! Results are the integers that ONNX Runtime computes: where it adds the zero point before it rounds, or
//! multiplies the scales first, so is it done here. Source: its `contrib_ops/cpu/quantization` and `mlas`.
//! Those that are a product are computed by the runtime's kernels.

use super::axes::{Statement, pointwise};
use super::broadcast::zip_values;
use super::cells::{filled, len_of, room};
use super::conv::pool_window;
use super::matmul::{axes_gemm_at, gemm_shape};
use super::{Fact, Facts, Inputs, MICROSOFT, Op, axis_index, broadcast};
use crate::tensor::strides;
use crate::{DType, Data, Error, Node, Result, Tensor};

pub(super) const OPS: &[Op] = &[
    Op::new("QLinearAdd", 1, infer_binary).axes(pointwise).domain(MICROSOFT).eval(eval_add),
    Op::new("QLinearMul", 1, infer_binary).axes(pointwise).domain(MICROSOFT).eval(eval_mul),
    Op::new("QLinearSigmoid", 1, infer_same).axes(pointwise).domain(MICROSOFT).eval(eval_sigmoid),
    Op::new("QLinearLeakyRelu", 1, infer_same).axes(pointwise).domain(MICROSOFT).eval(eval_leaky_relu),
    Op::new("QLinearSoftmax", 1, infer_softmax).domain(MICROSOFT).eval(eval_softmax),
    Op::new("QLinearAveragePool", 1, infer_average_pool)
        .axes(axes_map)
        .domain(MICROSOFT)
        .eval(eval_average_pool),
    Op::new("QLinearGlobalAveragePool", 1, infer_global_average_pool)
        .axes(axes_map)
        .domain(MICROSOFT)
        .eval(eval_global_average_pool),
    Op::new("QGemm", 1, infer_gemm).axes(axes_gemm).domain(MICROSOFT).macs(macs_gemm),
];

fn is_code(dtype: DType) -> bool {
    matches!(dtype, DType::U8 | DType::I8)
}

/// Checks what is known of a tensor of codes at `index` and its scale and zero point at `scale` and after it:
/// one for the whole tensor. Gives its type.
fn checked(inputs: Facts<'_>, index: usize, scale: usize) -> Result<Option<DType>> {
    let dtype = inputs.need(index)?.dtype;
    if let Some(dtype) = dtype.filter(|d| !is_code(*d)) {
        return Err(Error::input(format!("input {index} is of type {dtype}, expected u8 or i8")));
    }
    one_for_all(inputs, dtype, scale)?;
    Ok(dtype)
}

/// Checks a scale and the zero point after it: a single number each.
fn one_for_all(inputs: Facts<'_>, dtype: Option<DType>, scale: usize) -> Result<()> {
    inputs.need(scale)?;
    of_type(inputs, scale, Some(DType::F32))?;
    of_type(inputs, scale + 1, dtype)?;
    for index in [scale, scale + 1] {
        if let Some(shape) = inputs.shape(index).filter(|shape| shape.iter().any(|&d| d != 1)) {
            return Err(Error::input(format!("input {index} has shape {shape:?}, expected a single number")));
        }
    }
    Ok(())
}

fn of_type(inputs: Facts<'_>, index: usize, expected: Option<DType>) -> Result<()> {
    match (inputs.dtype(index), expected) {
        (Some(found), Some(expected)) if found != expected => {
            Err(Error::input(format!("input {index} is of type {found}, expected {expected}")))
        }
        _ => Ok(()),
    }
}

/// The codes of a tensor.
fn codes(tensor: &Tensor) -> Result<Vec<i32>> {
    match tensor.data() {
        Data::U8(codes) => Ok(codes.iter().map(|&code| code.into()).collect()),
        Data::I8(codes) => Ok(codes.iter().map(|&code| code.into()).collect()),
        other => Err(Error::input(format!("codes of type {}, expected u8 or i8", other.dtype()))),
    }
}

/// A tensor of codes from rounded numbers, those beyond the range saturated.
fn coded(dtype: DType, shape: &[usize], numbers: impl Iterator<Item = f32>) -> Result<Tensor> {
    // Casts of floats saturate.
    match dtype {
        DType::U8 => Tensor::new(shape, numbers.map(|v| v as u8).collect()),
        DType::I8 => Tensor::new(shape, numbers.map(|v| v as i8).collect()),
        other => Err(Error::input(format!("codes of type {other}, expected u8 or i8"))),
    }
}

/// A scale and a zero point that hold for a whole tensor.
#[derive(Clone, Copy)]
struct Quant {
    scale: f32,
    zero: i32,
}

impl Quant {
    /// Those of inputs `scale` and the one after it, zero where that is left out.
    fn of(inputs: Inputs<'_>, scale: usize) -> Result<Self> {
        let one = |index: usize, len: usize| match len {
            1 => Ok(()),
            _ => Err(Error::input(format!("input {index} has {len} elements, expected a single number"))),
        };
        let numbers = inputs.need(scale)?.values::<f32>()?;
        one(scale, numbers.len())?;
        let zero = match inputs.get(scale + 1) {
            Some(tensor) => {
                one(scale + 1, tensor.len())?;
                codes(tensor)?[0]
            }
            None => 0,
        };
        Ok(Quant { scale: numbers[0], zero })
    }

    fn number(self, code: i32) -> f32 {
        (code - self.zero) as f32 * self.scale
    }

    /// The code of a number, before it saturates.
    fn code(self, number: f32) -> f32 {
        (number / self.scale).round_ties_even() + self.zero as f32
    }
}

/// Inputs: A, B, C, each with scale and zero point; C is the output.
fn infer_binary(_: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let dtype = checked(inputs, 0, 1)?;
    checked(inputs, 3, 4)?;
    of_type(inputs, 3, dtype)?;
    one_for_all(inputs, dtype, 6)?;
    let shape = match (inputs.shape(0), inputs.shape(3)) {
        (Some(a), Some(b)) => Some(broadcast(&[a, b])?),
        _ => None,
    };
    Ok(vec![Fact { dtype, shape, ..Fact::default() }])
}

fn eval_binary(inputs: Inputs<'_>, f: impl Fn([i32; 2], [Quant; 3]) -> f32) -> Result<Vec<Tensor>> {
    let (a, b) = (inputs.need(0)?, inputs.need(3)?);
    let quants = [Quant::of(inputs, 1)?, Quant::of(inputs, 4)?, Quant::of(inputs, 6)?];
    let (shape, numbers) =
        zip_values(&codes(a)?, a.shape(), &codes(b)?, b.shape(), |&a, &b| f([a, b], quants))?;
    Ok(vec![coded(a.dtype(), &shape, numbers.into_iter())?])
}

fn eval_add(_: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    eval_binary(inputs, |[a, b], [qa, qb, qc]| {
        let (ratio_a, ratio_b) = (qa.scale / qc.scale, qb.scale / qc.scale);
        let fixed = qc.zero as f32 - (ratio_a * qa.zero as f32 + ratio_b * qb.zero as f32);
        (a as f32 * ratio_a + (b as f32 * ratio_b + fixed)).round_ties_even()
    })
}

fn eval_mul(_: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    eval_binary(inputs, |[a, b], [qa, qb, qc]| {
        let product = (a - qa.zero) as f32 * (b - qb.zero) as f32;
        (product * (qa.scale * qb.scale / qc.scale) + qc.zero as f32).round_ties_even()
    })
}

/// Inputs: X, its scale and zero point, those of the output.
fn infer_same(_: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let dtype = checked(inputs, 0, 1)?;
    one_for_all(inputs, dtype, 3)?;
    Ok(vec![Fact { dtype, shape: inputs.need(0)?.shape.clone(), ..Fact::default() }])
}

/// A function of each element, by a table of what it gives for each code.
fn eval_function(inputs: Inputs<'_>, f: impl Fn(f32) -> f32) -> Result<Vec<Tensor>> {
    let x = inputs.need(0)?;
    let (from, to) = (Quant::of(inputs, 1)?, Quant::of(inputs, 3)?);
    // All codes of either type.
    let table: Vec<f32> = (-128..256).map(|code| to.code(f(from.number(code)))).collect();
    Ok(vec![coded(x.dtype(), x.shape(), codes(x)?.iter().map(|code| table[(code + 128) as usize]))?])
}

fn eval_sigmoid(_: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    eval_function(inputs, |x| 1.0 / (1.0 + (-x).exp()))
}

fn eval_leaky_relu(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let alpha = node.float_or("alpha", 0.01)?;
    eval_function(inputs, |x| if x >= 0.0 { x } else { alpha * x })
}

/// The extents before, along and after what `QLinearSoftmax` normalises: one axis from operator set 13 of
/// `Softmax` on, before that this and all after it.
fn softmax_extents(node: &Node, shape: &[usize]) -> Result<[usize; 3]> {
    let along_one = node.int_or("opset", 13)? >= 13;
    let axis = axis_index(node.int_or("axis", if along_one { -1 } else { 1 })?, shape.len())?;
    let end = if along_one { axis + 1 } else { shape.len() };
    Ok([len_of(&shape[..axis])?, len_of(&shape[axis..end])?, len_of(&shape[end..])?])
}

fn infer_softmax(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let facts = infer_same(node, inputs)?;
    if let Some(shape) = inputs.shape(0) {
        softmax_extents(node, shape)?;
    }
    Ok(facts)
}

/// Exponentials as whole numbers from a table, so that rows are summed exactly; the largest code of a row has
/// the table's last one.
fn eval_softmax(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let x = inputs.need(0)?;
    let (from, to) = (Quant::of(inputs, 1)?, Quant::of(inputs, 3)?);
    let [outer, extent, inner] = softmax_extents(node, x.shape())?;
    let codes = codes(x)?;
    let largest = (f64::from(u32::MAX) / extent as f64).min(f64::from(0x7f_ffff));
    // Of a scale below 0 no power exceeds the largest either: sums fit 32 bits.
    let power = |i: i32| (f64::from(i - 255) * f64::from(from.scale)).exp().min(1.0);
    let table: Vec<u64> = (0..256).map(|i| (largest * power(i)) as u64).collect();
    let steps = (1.0 / to.scale).floor() as u64;
    let mut out = filled(codes.len(), 0f32)?;
    for row in 0..outer * inner {
        let (block, offset) = (row / inner, row % inner);
        let at = |i: usize| (block * extent + i) * inner + offset;
        let highest = (0..extent).map(|i| codes[at(i)]).max().unwrap_or_default();
        let power = |i: usize| table[(255 + codes[at(i)] - highest) as usize];
        let sum: u64 = (0..extent).map(power).sum();
        for i in 0..extent {
            // At most 2⁶³: the steps of a positive scale fit 40 bits, or saturate the code anyway.
            let share = (power(i).saturating_mul(steps).saturating_add(sum / 2)).checked_div(sum);
            out[at(i)] = share.unwrap_or_default() as f32 + to.zero as f32;
        }
    }
    Ok(vec![coded(x.dtype(), x.shape(), out.into_iter())?])
}

/// Where channels and positions of a map lie, and its extents.
struct Map {
    batch: usize,
    channels: usize,
    /// The axis of the channels: 1, or the last.
    axis: usize,
    spatial: Vec<usize>,
}

impl Map {
    fn new(node: &Node, shape: &[usize]) -> Result<Self> {
        if shape.len() < 3 {
            return Err(Error::input(format!("input {shape:?}, expected a rank of at least 3")));
        }
        len_of(shape)?;
        let last = node.int_or("channels_last", 0)? != 0;
        let axis = if last { shape.len() - 1 } else { 1 };
        let spatial = if last { &shape[1..axis] } else { &shape[2..] };
        Ok(Map { batch: shape[0], channels: shape[axis], axis, spatial: spatial.to_vec() })
    }

    fn shape(&self) -> Vec<usize> {
        let mut shape = vec![self.batch];
        shape.extend(&self.spatial);
        shape.insert(self.axis, self.channels);
        shape
    }

    /// The same map over other positions.
    fn over(&self, spatial: Vec<usize>) -> Map {
        Map { spatial, ..*self }
    }

    /// The offset of each sample's channel, and the step along each spatial axis.
    fn layout(&self) -> (Vec<usize>, Vec<usize>) {
        let mut steps = strides(&self.shape());
        let channel = steps.remove(self.axis);
        let sample = steps.remove(0);
        let starts = (0..self.batch).flat_map(|n| (0..self.channels).map(move |c| n * sample + c * channel));
        (starts.collect(), steps)
    }
}

/// Calls `f` with each index within `extents`, the last axis the fastest.
fn positions(extents: &[usize], mut f: impl FnMut(&[usize])) {
    let mut index = vec![0; extents.len()];
    for _ in 0..extents.iter().product::<usize>() {
        f(&index);
        for axis in (0..extents.len()).rev() {
            index[axis] += 1;
            if index[axis] < extents[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
}

fn infer_average_pool(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let mut facts = infer_same(node, inputs)?;
    if let Some(shape) = inputs.shape(0) {
        let map = Map::new(node, shape)?;
        let pooled = map.over(pool_window(node, &map.spatial)?.output).shape();
        len_of(&pooled)?;
        facts[0].shape = Some(pooled);
    }
    Ok(facts)
}

fn eval_average_pool(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let x = inputs.need(0)?;
    let (from, to) = (Quant::of(inputs, 1)?, Quant::of(inputs, 3)?);
    let map = Map::new(node, x.shape())?;
    let window = pool_window(node, &map.spatial)?;
    let (kernel, taps) = (&window.kernel, len_of(&window.kernel)?);
    let pooled = map.over(window.output.clone());
    let padding_counts = node.int_or("count_include_pad", 0)? != 0;
    let codes = codes(x)?;
    let mut out = filled(len_of(&pooled.shape())?, 0f32)?;
    let ((starts, steps), (out_starts, out_steps)) = (map.layout(), pooled.layout());
    for (start, out_start) in starts.into_iter().zip(out_starts) {
        positions(&window.output, |at| {
            let (mut sum, mut count) = (0f32, 0);
            positions(kernel, |tap| {
                let mut offset = start;
                for axis in 0..tap.len() {
                    let padded = at[axis] * window.strides[axis] + tap[axis] * window.dilations[axis];
                    match padded.checked_sub(window.before[axis]).filter(|&i| i < map.spatial[axis]) {
                        Some(i) => offset += i * steps[axis],
                        None => return,
                    }
                }
                sum += from.number(codes[offset]);
                count += 1;
            });
            let mean = sum / if padding_counts { taps } else { count } as f32;
            let offset: usize = at.iter().zip(&out_steps).map(|(i, step)| i * step).sum();
            out[out_start + offset] = (mean / to.scale + to.zero as f32).round_ties_even();
        });
    }
    Ok(vec![coded(x.dtype(), &pooled.shape(), out.into_iter())?])
}

fn infer_global_average_pool(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let mut facts = infer_same(node, inputs)?;
    if let Some(shape) = inputs.shape(0) {
        let map = Map::new(node, shape)?;
        facts[0].shape = Some(map.over(vec![1; map.spatial.len()]).shape());
    }
    Ok(facts)
}

/// Codes are summed as integers.
fn eval_global_average_pool(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let x = inputs.need(0)?;
    let (from, to) = (Quant::of(inputs, 1)?, Quant::of(inputs, 3)?);
    let map = Map::new(node, x.shape())?;
    let factor = from.scale / (to.scale * len_of(&map.spatial)? as f32);
    let codes = codes(x)?;
    let (starts, steps) = map.layout();
    let mut out = room(starts.len())?;
    for start in starts {
        let mut sum = 0i64;
        positions(&map.spatial, |at| {
            let offset: usize = at.iter().zip(&steps).map(|(i, step)| i * step).sum();
            sum += i64::from(codes[start + offset] - from.zero);
        });
        out.push((sum as f32 * factor).round_ties_even() + to.zero as f32);
    }
    let pooled = map.over(vec![1; map.spatial.len()]).shape();
    Ok(vec![coded(x.dtype(), &pooled, out.into_iter())?])
}

/// Inputs: A and B, each with scale and zero point (those of B one for all or one for each column), an i32
/// bias in the scale of the product, and the output's scale and zero point; without these it is f32.
fn infer_gemm(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let dtype = checked(inputs, 0, 1)?;
    if let Some(dtype) = inputs.need(3)?.dtype.filter(|d| !is_code(*d)) {
        return Err(Error::input(format!("input 3 is of type {dtype}, expected u8 or i8")));
    }
    inputs.need(4)?;
    of_type(inputs, 4, Some(DType::F32))?;
    of_type(inputs, 5, inputs.dtype(3))?;
    of_type(inputs, 6, Some(DType::I32))?;
    let quantized = inputs.get(7).is_some();
    if quantized {
        one_for_all(inputs, None, 7)?;
    }
    let shape = gemm_shape(node, inputs, [0, 3, 6])?;
    if let Some(&[_, columns]) = shape.as_deref() {
        for index in [4, 5] {
            if let Some(found) = inputs.shape(index)
                && !matches!(found, [] | [1])
                && found != [columns]
            {
                return Err(Error::input(format!(
                    "input {index} has shape {found:?}, expected a single number or one for each of {columns} columns"
                )));
            }
        }
    }
    let dtype = match inputs.get(8) {
        _ if !quantized => Some(DType::F32),
        Some(zero) => zero.dtype,
        None => dtype,
    };
    Ok(vec![Fact { dtype, shape, ..Fact::default() }])
}

/// Rows × columns × the extent that is summed over.
fn macs_gemm(node: &Node, inputs: Facts<'_>, outputs: &[Fact]) -> Result<u64> {
    let (Some(&[rows, columns]), Some(out)) = (inputs.shape(0), outputs.first().and_then(Fact::shape)) else {
        return Ok(0);
    };
    let depth = if node.int_or("transA", 0)? != 0 { rows } else { columns };
    Ok(out.iter().chain([&depth]).fold(1, |macs: u64, &extent| macs.saturating_mul(extent as u64)))
}

/// Samples and channels stay, positions are averaged over.
fn axes_map(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let (x, y) = (axes.need(0, 3)?, axes.need_output(0, 3)?);
    let channels = Map::new(node, &axes.shape(0))?.axis;
    for (place, (&from, &to)) in x.iter().zip(&y).enumerate() {
        if place == 0 || place == channels {
            axes.same(from, to);
        } else {
            axes.fix_all(&[from, to]);
        }
    }
    Ok(())
}

fn axes_gemm(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let [_, columns] = axes_gemm_at(node, axes, [0, 3, 6])?;
    [4, 5].into_iter().for_each(|scale| axes.along(scale, columns));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{eval, node, with_attr};
    use crate::{Attr, ops};

    fn of(op_type: &str) -> Node {
        Node { domain: MICROSOFT.into(), ..node(op_type, 1) }
    }

    // What is computed is checked against ONNX Runtime: `goldens/onnxruntime` of the runtime.

    #[test]
    fn scales_and_zero_points_are_single_numbers_of_the_right_type() {
        let x = Tensor::new([1, 2, 3], vec![0u8; 6]).unwrap();
        let (scale, zero) = (Tensor::scalar(0.5f32), Tensor::scalar(3u8));
        let sigmoid = of("QLinearSigmoid");
        assert!(eval(&sigmoid, &[&x, &scale, &zero, &scale, &zero]).is_ok());
        let message = |inputs: &[&Tensor]| {
            let facts: Vec<_> = inputs.iter().map(|t| Some(Fact::new(t.dtype(), t.shape()))).collect();
            ops::infer(&sigmoid, Facts(&facts)).unwrap_err().to_string()
        };
        let (two, signed) = (Tensor::vector(vec![0.5f32; 2]), Tensor::scalar(3i8));
        assert!(message(&[&x, &two, &zero, &scale, &zero]).contains("a single number"));
        assert!(message(&[&x, &scale, &signed, &scale, &zero]).contains("is of type i8, expected u8"));
        assert!(message(&[&two, &scale, &zero, &scale, &zero]).contains("expected u8 or i8"));
        assert!(message(&[&x, &scale, &zero]).contains("input 3"));
        // Where shapes are known only when it runs.
        let given = [&x, &two, &zero, &scale, &zero].map(Some);
        assert!(eval_sigmoid(&sigmoid, Inputs(&given)).is_err());
    }

    #[test]
    fn windows_and_axes_have_to_fit() {
        let x = Tensor::new([1, 2, 3], vec![0u8; 6]).unwrap();
        let (scale, zero) = (Tensor::scalar(0.5f32), Tensor::scalar(3u8));
        let inputs = [&x, &scale, &zero, &scale, &zero];
        let pool =
            |extents: Vec<i64>| with_attr(of("QLinearAveragePool"), "kernel_shape", Attr::Ints(extents));
        assert!(eval(&pool(vec![2]), &inputs).is_ok());
        assert!(ops::infer(&pool(vec![4]), Facts(&inputs.map(|t| Some(t.clone().into())))).is_err());
        assert!(ops::infer(&pool(vec![2, 2]), Facts(&inputs.map(|t| Some(t.clone().into())))).is_err());
        let softmax = with_attr(of("QLinearSoftmax"), "axis", Attr::Int(3));
        assert!(ops::infer(&softmax, Facts(&inputs.map(|t| Some(t.clone().into())))).is_err());
        let empty = Tensor::new([0, 2, 3], Vec::<u8>::new()).unwrap();
        let inputs = [&empty, &scale, &zero, &scale, &zero];
        for op in ["QLinearSoftmax", "QLinearGlobalAveragePool"] {
            assert_eq!(eval(&of(op), &inputs).unwrap()[0].len(), 0);
        }
    }
}
