//! Linear quantisation.

use half::{bf16, f16};

use super::axes::{Slot, Statement, unchanged};
use super::narrow::{self, Power, Rounding};
use super::number::{Float, Number, wrong_type};
use super::params::dtype_from;
use super::{Fact, Facts, Inputs, MICROSOFT, Op, Passes, axis_index};
use crate::{DType, Error, Node, Result, Tensor, with_number_type};

pub(super) const OPS: &[Op] = &[
    Op::new("QuantizeLinear", 10, infer_quantize)
        .axes(axes_quantize)
        .passes(Passes::Quantised { given: true })
        .eval(eval_quantize),
    Op::new("DequantizeLinear", 10, infer_dequantize)
        .axes(axes_quantize)
        .passes(Passes::Dequantised)
        .eval(eval_dequantize),
    Op::new("QuantizeLinear", 1, infer_quantize).axes(axes_quantize).domain(MICROSOFT).eval(eval_quantize),
    Op::new("DequantizeLinear", 1, infer_dequantize)
        .axes(axes_quantize)
        .domain(MICROSOFT)
        .eval(eval_dequantize),
    Op::new("DynamicQuantizeLinear", 11, infer_dynamic)
        .axes(unchanged)
        .passes(Passes::Quantised { given: false })
        .eval(eval_dynamic),
];

/// Which scale and zero point holds for which element.
struct Granularity {
    /// Elements along the axis, and those after it: a row.
    extent: usize,
    inner: usize,
    /// Elements along the axis that share a scale.
    block: usize,
    /// Whether each element of a row has its own scale (blocked), and not each row one.
    blocked: bool,
}

impl Granularity {
    fn of(node: &Node, shape: &[usize], scale: &[usize]) -> Result<Self> {
        if scale.len() <= 1 && scale.iter().all(|&d| d == 1) {
            let all = shape.iter().product();
            return Ok(Granularity { extent: 1, inner: all, block: 1, blocked: false });
        }
        let axis = axis_index(node.int_or("axis", 1)?, shape.len())?;
        let (extent, inner) = (shape[axis], shape[axis + 1..].iter().product());
        let mismatch = || {
            Error::input(format!(
                "scales of shape {scale:?} do not fit the input {shape:?} along axis {axis}"
            ))
        };
        if let &[channels] = scale {
            return if channels == extent {
                Ok(Granularity { extent, inner, block: 1, blocked: false })
            } else {
                Err(mismatch())
            };
        }
        let block = usize::try_from(node.int_or("block_size", 0)?).ok().filter(|&b| b > 0);
        let block =
            block.ok_or_else(|| Error::input("blocked scales need a positive attribute `block_size`"))?;
        let fits = scale.len() == shape.len()
            && scale
                .iter()
                .zip(shape)
                .enumerate()
                .all(|(i, (&s, &d))| s == if i == axis { d.div_ceil(block) } else { d });
        if fits { Ok(Granularity { extent, inner, block, blocked: true }) } else { Err(mismatch()) }
    }

    /// `f` of each element and the index of its scale and zero point.
    fn map<T, R>(&self, values: &[T], f: impl Fn(&T, usize) -> R) -> Vec<R> {
        let mut out = Vec::with_capacity(values.len());
        if values.is_empty() {
            return out;
        }
        let blocks = self.extent.div_ceil(self.block);
        for (row, values) in values.chunks_exact(self.inner).enumerate() {
            let (outer, at) = (row / self.extent, row % self.extent);
            if self.blocked {
                let first = (outer * blocks + at / self.block) * self.inner;
                out.extend(values.iter().zip(first..).map(|(v, parameter)| f(v, parameter)));
            } else {
                out.extend(values.iter().map(|v| f(v, at)));
            }
        }
        out
    }
}

/// The zero points, one a scale; zero where the node leaves them out.
fn zero_points(tensor: Option<&Tensor>, scale: &Tensor) -> Result<Vec<f64>> {
    let Some(tensor) = tensor else { return Ok(vec![0.0; scale.len()]) };
    if tensor.len() != scale.len() {
        return Err(Error::input(format!(
            "zero points of shape {:?} for scales of shape {:?}",
            tensor.shape(),
            scale.shape()
        )));
    }
    Ok(f64::load(tensor)?.into_owned())
}

/// The type that a node quantises to: the zero point's, or an attribute's, or u8.
fn quantized_type(node: &Node, zero_point: Option<DType>) -> Result<DType> {
    match (zero_point, node.int_or("output_dtype", 0)?) {
        (Some(dtype), _) => Ok(dtype),
        (None, 0) => Ok(DType::U8),
        (None, number) => dtype_from(number),
    }
}

/// The range of an integer type that can be quantised to.
fn range(dtype: DType) -> Option<(i64, i64)> {
    let signed = match dtype {
        DType::I8 | DType::I16 | DType::I32 => true,
        DType::U8 | DType::U16 => false,
        _ => narrow::integer_sign(dtype)?,
    };
    let values = 1i64 << dtype.bits();
    Some(if signed { (-values / 2, values / 2 - 1) } else { (0, values - 1) })
}

fn infer_quantize(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let dtype = match inputs.get(2) {
        Some(zero_point) => zero_point.dtype,
        None => Some(quantized_type(node, None)?),
    };
    Ok(vec![Fact { dtype, shape: inputs.need(0)?.shape.clone(), ..Fact::default() }])
}

/// `saturate(round(x / scale) + zero point)`, rounded to even; the quotient has the precision of
/// attribute `precision` or of the scale. To floats of 8 bits and fewer the quotient is rounded, which
/// `saturate` lets overflow; their zero point is zero.
fn eval_quantize(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let (x, scale, zero_point) = (inputs.need(0)?, inputs.need(1)?, inputs.get(2));
    let (target, shape) = (quantized_type(node, zero_point.map(Tensor::dtype))?, x.shape());
    let plan = Granularity::of(node, shape, scale.shape())?;
    let zeros = zero_points(zero_point, scale)?;
    let precision = match node.int_or("precision", 0)? {
        0 => scale.dtype(),
        number => dtype_from(number)?,
    };
    let (values, scales) = (f32::load(x)?, f32::load(scale)?);
    let quotients = match precision {
        DType::F16 => divide(&plan, &values, &scales, |v| f16::from_f32(v).to_f32()),
        DType::BF16 => divide(&plan, &values, &scales, |v| bf16::from_f32(v).to_f32()),
        _ => divide(&plan, &values, &scales, |v| v),
    };
    if let Some((low, high)) = range(target) {
        let (low, high) = (low as f64, high as f64);
        let integer = |&q: &f32, k: usize| (f64::from(q.round_ties_even()) + zeros[k]).clamp(low, high);
        let out = if narrow::integer_sign(target).is_some() {
            let integers = plan.map(&quotients, integer);
            narrow::encode_integers(target, shape, integers.into_iter().map(|v| v as i64))
        } else {
            with_number_type!(target, T => {
                Tensor::new(shape, plan.map(&quotients, |q, k| T::from_f64(integer(q, k))))
            }, else Err(wrong_type(target)))
        };
        return Ok(vec![out?]);
    }
    if zeros.iter().any(|&z| z != 0.0) {
        return Err(Error::input(format!("a zero point of type {target} that is not zero")));
    }
    let rounding = Rounding { saturate: node.int_or("saturate", 1)? != 0, power: Power::Nearest };
    // Adding the zero point makes a negative zero positive.
    let shifted = plan.map(&quotients, |&q, k| f64::from(q) + zeros[k]);
    Ok(vec![narrow::encode(target, shape, shifted.into_iter(), rounding)?])
}

/// Each element by its scale, in the precision that `round` rounds to.
fn divide(plan: &Granularity, values: &[f32], scales: &[f32], round: impl Fn(f32) -> f32) -> Vec<f32> {
    let scales: Vec<f32> = scales.iter().map(|&s| round(s)).collect();
    plan.map(values, |&v, k| round(round(v) / scales[k]))
}

/// The type that a node dequantises to: an attribute's, or the scale's.
fn dequantized_type(node: &Node, scale: Option<DType>) -> Result<Option<DType>> {
    match node.int_or("output_dtype", 0)? {
        0 => Ok(scale),
        number => dtype_from(number).map(Some),
    }
}

fn infer_dequantize(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let dtype = dequantized_type(node, inputs.need(1)?.dtype)?;
    Ok(vec![Fact { dtype, shape: inputs.need(0)?.shape.clone(), ..Fact::default() }])
}

/// `(x − zero point) · scale`.
fn eval_dequantize(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let (x, scale) = (inputs.need(0)?, inputs.need(1)?);
    let dtype = dequantized_type(node, Some(scale.dtype()))?.unwrap_or(DType::F32);
    let plan = Granularity::of(node, x.shape(), scale.shape())?;
    let (zeros, scales) = (zero_points(inputs.get(2), scale)?, f64::load(scale)?);
    let number = |v: f64, k: usize| ((v - zeros[k]) * scales[k]) as f32;
    let values = with_number_type!(x.dtype(), T => {
        plan.map(x.values::<T>()?, |v, k| number(v.to_f64(), k))
    }, else plan.map(&narrow::decode(x)?, |&v, k| number(v.into(), k)));
    Ok(vec![f32::store(values, dtype, x.shape())?])
}

fn infer_dynamic(_: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let shape = inputs.need(0)?.shape.clone();
    Ok(vec![
        Fact { dtype: Some(DType::U8), shape, ..Fact::default() },
        Fact::new(DType::F32, []),
        Fact::new(DType::U8, []),
    ])
}

/// To u8 over the range of the input and zero; gives the elements, the scale and the zero point.
fn eval_dynamic(_: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let x = inputs.need(0)?;
    let values = x.values::<f32>()?;
    let low = values.iter().fold(0f32, |a, &v| a.min(v));
    let high = values.iter().fold(0f32, |a, &v| a.max(v));
    // Zeros only have no range; any scale does.
    let scale = if high == low { 1.0 } else { (high - low) / 255.0 };
    let zero = (-low / scale).round_ties_even().clamp(0.0, 255.0);
    let quantized = values.iter().map(|v| ((v / scale).round_ties_even() + zero).clamp(0.0, 255.0) as u8);
    Ok(vec![
        Tensor::new(x.shape(), quantized.collect::<Vec<u8>>())?,
        Tensor::scalar(scale),
        Tensor::scalar(zero as u8),
    ])
}

/// A scale for all, for each position along an axis, or for each block along it.
fn axes_quantize(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    axes.unchanged();
    let x = axes.input(0);
    for input in 1..3 {
        let scale = axes.input(input);
        if scale.len() <= 1 && scale.iter().all(|&axis| axes.extent(axis) == 1) {
            continue;
        }
        let axis = axis_index(node.int_or("axis", 1)?, x.len())?;
        if scale.len() == 1 {
            axes.along(input, x[axis]);
            continue;
        }
        for (&blocks, &whole) in scale.iter().zip(&x) {
            let (count, extent) = (axes.extent(blocks), axes.extent(whole));
            if count == extent {
                axes.same(blocks, whole);
            } else if count > 0 && extent.is_multiple_of(count) {
                let each = axes.dim(extent / count);
                let product = axes.product(&[blocks, each]);
                axes.write(Slot::Attr("block_size"), each);
                axes.same(whole, product);
            } else {
                axes.fix_all(&[blocks, whole]);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{close, eval, node, with_attr, with_outputs};
    use crate::{Attr, Data};

    #[test]
    fn halves_round_to_even_and_the_range_saturates() {
        let x = Tensor::vector(vec![0f32, 1.0, 3.0, 5.0, 1000.0, -254.0, -1000.0]);
        let (scale, zero) = (Tensor::scalar(2f32), Tensor::scalar(128u8));
        let y = eval(&node("QuantizeLinear", 13), &[&x, &scale, &zero]).unwrap();
        assert_eq!(y[0].values::<u8>().unwrap(), [128, 128, 130, 130, 255, 1, 0]);
        let y = eval(&node("DequantizeLinear", 13), &[&y[0], &scale, &zero]).unwrap();
        close(&y[0], &[0.0, 0.0, 4.0, 4.0, 254.0, -254.0, -256.0], 0.0);
    }

    #[test]
    fn a_scale_a_channel_or_a_block() {
        let x = Tensor::new([2, 3], vec![1i8, 2, 3, 4, 5, 6]).unwrap();
        let rows = with_attr(node("DequantizeLinear", 13), "axis", Attr::Int(0));
        let y = eval(&rows, &[&x, &Tensor::vector(vec![1f32, 10.0])]).unwrap();
        close(&y[0], &[1.0, 2.0, 3.0, 40.0, 50.0, 60.0], 0.0);
        assert!(eval(&rows, &[&x, &Tensor::vector(vec![1f32; 3])]).is_err());
        // Blocks of two along the last axis, the second one not full.
        let blocks = with_attr(node("DequantizeLinear", 21), "block_size", Attr::Int(2));
        let scale = Tensor::new([2, 2], vec![1f32, 2.0, 10.0, 20.0]).unwrap();
        let y = eval(&blocks, &[&x, &scale]).unwrap();
        close(&y[0], &[1.0, 2.0, 6.0, 40.0, 50.0, 120.0], 0.0);
        // And along the first, where a row has a scale for each element.
        let columns = with_attr(blocks, "axis", Attr::Int(0));
        let scale = Tensor::new([1, 3], vec![1f32, 2.0, 3.0]).unwrap();
        close(&eval(&columns, &[&x, &scale]).unwrap()[0], &[1.0, 4.0, 9.0, 4.0, 10.0, 18.0], 0.0);
        assert!(eval(&columns, &[&x, &Tensor::new([2, 2], vec![1f32; 4]).unwrap()]).is_err());
    }

    #[test]
    fn packed_integers_and_the_scale_s_precision() {
        let x = Tensor::vector(vec![-9f32, 0.5, 1.5, 20.0]);
        let zero = Tensor::from_data([], Data::Raw(DType::I4, vec![1])).unwrap();
        let y = eval(&node("QuantizeLinear", 21), &[&x, &Tensor::scalar(1f32), &zero]).unwrap();
        assert_eq!(y[0].data(), &Data::Raw(DType::I4, vec![0x18, 0x73]));
        let y = eval(&node("DequantizeLinear", 21), &[&y[0], &Tensor::scalar(1f32), &zero]).unwrap();
        close(&y[0], &[-9.0, 0.0, 2.0, 6.0], 0.0);
        // 2049 is no f16: the quotient is that of 2048.
        let (x, scale) = (Tensor::vector(vec![2049f32]), Tensor::scalar(f16::ONE));
        let zero = Tensor::scalar(0i16);
        let y = eval(&node("QuantizeLinear", 21), &[&x, &scale, &zero]).unwrap();
        assert_eq!(y[0].values::<i16>().unwrap(), [2048]);
    }

    #[test]
    fn large_integers_lose_their_zero_point_exactly() {
        let (x, zero) = (Tensor::vector(vec![(1i32 << 30) + 1]), Tensor::scalar(1i32 << 30));
        let y = eval(&node("DequantizeLinear", 13), &[&x, &Tensor::scalar(0.5f32), &zero]).unwrap();
        close(&y[0], &[0.5], 0.0);
    }

    #[test]
    fn the_range_always_holds_zero() {
        let op = with_outputs(node("DynamicQuantizeLinear", 11), 3);
        let y = eval(&op, &[&Tensor::vector(vec![1f32, 2.0, 51.0])]).unwrap();
        assert_eq!(y[0].values::<u8>().unwrap(), [5, 10, 255]);
        assert_eq!(
            (y[1].values::<f32>().unwrap(), y[2].values::<u8>().unwrap()),
            (&[0.2f32][..], &[0u8][..])
        );
        let y = eval(&op, &[&Tensor::vector(vec![0f32; 2])]).unwrap();
        assert_eq!(
            (y[0].values::<u8>().unwrap(), y[1].values::<f32>().unwrap()),
            (&[0u8; 2][..], &[1f32][..])
        );
    }
}
