//! Elementwise arithmetic of two inputs that broadcast, or of any number of them.

use std::borrow::Cow;

use half::{bf16, f16};

use super::axes::pointwise;
use super::broadcast::{zip, zip_halves, zip_values};
use super::number::{Float, Number, is_float, with_float, wrong_type};
use super::{Fact, Facts, Inputs, ONE_TYPE, Op, Operand, axis_index, broadcast};
use crate::{DType, Error, Node, Result, Tensor, with_number_type};

/// A tensor of `$f` of two numbers of the operands' common type; f16 and bf16 compute in f32.
macro_rules! zip_numbers {
    ($a:expr, $b:expr, $f:expr) => {
        match $a.dtype() {
            DType::F16 => zip_halves::<f16>($a, $b, $f),
            DType::BF16 => zip_halves::<bf16>($a, $b, $f),
            dtype => with_number_type!(dtype, T => zip($a, $b, |&x: &T, &y: &T| $f(x, y)), else Err(wrong_type(dtype))),
        }
    };
}

/// The evaluation of an operator that combines two numbers to a third.
macro_rules! arithmetic {
    ($method:ident) => {
        |node, inputs| {
            let (a, b) = operands(node, inputs)?;
            Ok(vec![zip_numbers!(a, &b, Number::$method)?])
        }
    };
}

/// The evaluation of an operator that folds any number of inputs; f16 and bf16 round once.
macro_rules! fold {
    ($method:ident) => {
        |_, inputs| {
            let dtype = inputs.need(0)?.dtype();
            let out = if matches!(dtype, DType::F16 | DType::BF16) {
                let (shape, values) = fold(inputs, f32::load, Number::$method)?;
                f32::store(values, dtype, &shape)
            } else {
                with_number_type!(dtype, T => {
                    let (shape, values) = fold(inputs, |t| Ok(Cow::Borrowed(t.values::<T>()?)), Number::$method)?;
                    Tensor::new(shape, values)
                }, else Err(wrong_type(dtype)))
            };
            Ok(vec![out?])
        }
    };
}

pub(super) const OPS: &[Op] = &[
    Op::new("Add", 1, infer_arithmetic)
        .types(ONE_TYPE)
        .axes(pointwise)
        .sums()
        .operands(&[(0, Operand::Addend), (1, Operand::Addend)])
        .eval(arithmetic!(add)),
    Op::new("Sub", 1, infer_arithmetic).types(ONE_TYPE).axes(pointwise).sums().eval(arithmetic!(sub)),
    Op::new("Mul", 1, infer_arithmetic).types(ONE_TYPE).axes(pointwise).eval(arithmetic!(mul)),
    Op::new("Div", 1, infer_arithmetic).types(ONE_TYPE).axes(pointwise).eval(eval_div),
    Op::new("Mod", 10, infer_arithmetic).types(ONE_TYPE).axes(pointwise).eval(eval_mod),
    Op::new("Pow", 1, infer_arithmetic).axes(pointwise).eval(eval_pow),
    Op::new("Max", 1, infer_arithmetic).types(ONE_TYPE).axes(pointwise).eval(fold!(max)),
    Op::new("Min", 1, infer_arithmetic).types(ONE_TYPE).axes(pointwise).eval(fold!(min)),
    Op::new("Sum", 1, infer_arithmetic).types(ONE_TYPE).axes(pointwise).sums().eval(fold!(add)),
    Op::new("Mean", 1, infer_arithmetic).types(ONE_TYPE).axes(pointwise).sums().eval(eval_mean),
];

/// The shape that all inputs broadcast to; before operator set 7 that of the first. `None` where
/// an input's shape is not known.
pub(super) fn infer_broadcast(node: &Node, inputs: Facts<'_>, dtype: Option<DType>) -> Result<Vec<Fact>> {
    let first = inputs.need(0)?;
    let shapes: Option<Vec<&[usize]>> = (0..inputs.len()).map(|i| inputs.shape(i)).collect();
    let shape = match shapes {
        _ if aligns_by_axis(node) => first.shape.clone(),
        Some(shapes) => Some(broadcast(&shapes)?),
        None => None,
    };
    Ok(vec![Fact { dtype, shape, ..Fact::default() }])
}

fn infer_arithmetic(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    infer_broadcast(node, inputs, inputs.dtype(0))
}

/// Before operator set 7 the second operand's axes lay along the first's from attribute `axis` on.
fn aligns_by_axis(node: &Node) -> bool {
    node.domain.is_empty() && node.opset < 7 && node.attrs.contains_key("axis")
}

/// The two operands, with shapes that broadcast by numpy's rule.
pub(super) fn operands<'a>(node: &Node, inputs: Inputs<'a>) -> Result<(&'a Tensor, Cow<'a, Tensor>)> {
    let (a, b) = (inputs.need(0)?, inputs.need(1)?);
    if !aligns_by_axis(node) {
        return Ok((a, Cow::Borrowed(b)));
    }
    let axis = axis_index(node.int_or("axis", 0)?, a.rank())?;
    let mut shape = b.shape().to_vec();
    shape.resize(b.rank().max(a.rank() - axis), 1);
    Ok((a, Cow::Owned(b.reshaped(shape)?)))
}

fn refuse_zero_divisor(divisor: &Tensor) -> Result<()> {
    let dtype = divisor.dtype();
    let zero = !is_float(dtype)
        && with_number_type!(dtype, T => divisor.values::<T>()?.contains(&T::ZERO), else false);
    if zero { Err(Error::input("an integer is divided by zero")) } else { Ok(()) }
}

fn eval_div(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let (a, b) = operands(node, inputs)?;
    refuse_zero_divisor(&b)?;
    Ok(vec![zip_numbers!(a, &b, Number::div)?])
}

fn eval_mod(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let (a, b) = operands(node, inputs)?;
    refuse_zero_divisor(&b)?;
    let out = if node.int_or("fmod", 0)? != 0 {
        zip_numbers!(a, &b, Number::remainder)
    } else {
        zip_numbers!(a, &b, Number::modulo)
    };
    Ok(vec![out?])
}

/// The result has the base's type, whatever the exponent's.
fn eval_pow(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let (base, exponent) = operands(node, inputs)?;
    let dtype = base.dtype();
    if is_float(dtype) {
        return with_float!(dtype, F => {
            let (x, e) = (F::load(base)?, F::load(&exponent)?);
            let two = F::from_f64(2.0);
            let power = |&x: &F, &e: &F| if e == two { x * x } else { x.powf(e) };
            let (shape, values) = zip_values(&x, base.shape(), &e, exponent.shape(), power)?;
            Ok(vec![F::store(values, dtype, &shape)?])
        });
    }
    with_number_type!(dtype, T => {
        let x = base.values::<T>()?;
        let (shape, values) = if is_float(exponent.dtype()) {
            let e = f64::load(&exponent)?;
            zip_values(x, base.shape(), &e, exponent.shape(), |x, &e| T::from_f64(x.to_f64().powf(e)))?
        } else {
            let e = exponent.to_i64s()?;
            zip_values(x, base.shape(), &e, exponent.shape(), |&x, &e| integer_power(x, e))?
        };
        Ok(vec![Tensor::new(shape, values)?])
    }, else Err(wrong_type(dtype)))
}

/// By repeated squaring, wrapping around; a negative exponent gives the truncated fraction.
fn integer_power<T: Number>(base: T, exponent: i64) -> T {
    if exponent < 0 {
        return T::from_f64(base.to_f64().powf(exponent as f64));
    }
    let (mut power, mut square, mut left) = (T::ONE, base, exponent);
    while left > 0 {
        if left & 1 == 1 {
            power = power.mul(square);
        }
        square = square.mul(square);
        left >>= 1;
    }
    power
}

/// All inputs combined one after the other, each broadcast.
fn fold<'a, T: Number>(
    inputs: Inputs<'a>,
    load: fn(&'a Tensor) -> Result<Cow<'a, [T]>>,
    step: impl Fn(T, T) -> T,
) -> Result<(Vec<usize>, Vec<T>)> {
    let first = inputs.need(0)?;
    let (mut shape, mut values) = (first.shape().to_vec(), load(first)?);
    for index in 1..inputs.len() {
        let next = inputs.need(index)?;
        let combined = zip_values(&values, &shape, &load(next)?, next.shape(), |&x, &y| step(x, y))?;
        (shape, values) = (combined.0, Cow::Owned(combined.1));
    }
    Ok((shape, values.into_owned()))
}

fn eval_mean(_: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let dtype = inputs.need(0)?.dtype();
    with_float!(dtype, F => {
        let (shape, mut values) = fold(inputs, F::load, Number::add)?;
        let count = inputs.len() as F;
        values.iter_mut().for_each(|v| *v /= count);
        Ok(vec![F::store(values, dtype, &shape)?])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Attr;
    use crate::ops::testing::{eval, node, with_attr};

    #[test]
    fn integers_divide_towards_zero_and_never_by_it() {
        let (a, b) = (Tensor::vector(vec![-7i32, 7, i32::MIN]), Tensor::vector(vec![2i32, -2, -1]));
        let y = eval(&node("Div", 14), &[&a, &b]).unwrap();
        assert_eq!(y[0].values::<i32>().unwrap(), [-3, -3, i32::MIN]);
        let zero = Tensor::scalar(0i32);
        assert!(eval(&node("Div", 14), &[&a, &zero]).is_err());
        assert!(eval(&node("Mod", 13), &[&a, &zero]).is_err());
    }

    #[test]
    fn powers_take_the_type_of_the_base() {
        let x = Tensor::vector(vec![2f32, 3.0]);
        let y = eval(&node("Pow", 13), &[&x, &Tensor::scalar(3i64)]).unwrap();
        assert_eq!(y[0].values::<f32>().unwrap(), [8.0, 27.0]);
        let x = Tensor::vector(vec![4i32, -2, 1]);
        let y = eval(&node("Pow", 13), &[&x, &Tensor::vector(vec![0.5f32, 3.0, 9.0])]).unwrap();
        assert_eq!(y[0].values::<i32>().unwrap(), [2, -8, 1]);
        let y = eval(&node("Pow", 13), &[&x, &Tensor::vector(vec![-1i64, 2, -5])]).unwrap();
        assert_eq!(y[0].values::<i32>().unwrap(), [0, 4, 1]);
    }

    #[test]
    fn half_precision_sums_round_once() {
        let terms: Vec<Tensor> =
            [2048.0, 1.0, 1.0].iter().map(|&v| Tensor::scalar(f16::from_f32(v))).collect();
        let y = eval(&node("Sum", 13), &terms.iter().collect::<Vec<_>>()).unwrap();
        assert_eq!(y[0].values::<f16>().unwrap()[0].to_f32(), 2050.0);
    }

    #[test]
    fn any_number_of_inputs_broadcast() {
        let (a, b) = (Tensor::new([2, 1], vec![1i64, 5]).unwrap(), Tensor::vector(vec![3i64, 4, 9]));
        let y = eval(&node("Max", 13), &[&a, &b, &Tensor::scalar(4i64)]).unwrap();
        assert_eq!((y[0].shape(), y[0].values::<i64>().unwrap()), (&[2, 3][..], &[4, 4, 9, 5, 5, 9][..]));
    }

    #[test]
    fn before_set_7_axes_are_aligned_by_an_attribute() {
        let a = Tensor::new([1, 2, 2], vec![1f32, 2.0, 3.0, 4.0]).unwrap();
        let b = Tensor::vector(vec![10f32, 20.0]);
        let old = with_attr(with_attr(node("Add", 6), "broadcast", Attr::Int(1)), "axis", Attr::Int(1));
        let y = eval(&old, &[&a, &b]).unwrap();
        assert_eq!(y[0].values::<f32>().unwrap(), [11.0, 12.0, 23.0, 24.0]);
    }
}
