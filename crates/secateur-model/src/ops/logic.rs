//! Comparisons, logic and bits.

use super::axes::pointwise;
use super::binary::{infer_broadcast, operands};
use super::broadcast::zip;
use super::narrow::is_narrow;
use super::number::{Float, is_float, map_numbers, negative, wrong_type};
use super::unary::infer_same;
use super::{Fact, Facts, Inputs, ONE_TYPE, Op};
use crate::{DType, Error, Node, Result, Tensor, with_number_type};

/// The evaluation of an operator that compares two numbers.
macro_rules! compare {
    ($operator:tt) => {
        |node, inputs| {
            let (a, b) = operands(node, inputs)?;
            let out = with_number_type!(a.dtype(), T => zip(a, &b, |x: &T, y: &T| x $operator y),
                else Err(wrong_type(a.dtype())))?;
            Ok(vec![out])
        }
    };
}

/// The evaluation of an operator on two booleans.
macro_rules! logic {
    ($operator:tt) => {
        |node, inputs| {
            let (a, b) = operands(node, inputs)?;
            Ok(vec![zip(a, &b, |x: &bool, y: &bool| x $operator y)?])
        }
    };
}

/// Runs an expression with `$ty` bound to the Rust type of an integer [`DType`].
macro_rules! with_integer_type {
    ($dtype:expr, $ty:ident => $body:expr) => {
        with_integer_type!(@arms $dtype, $ty, $body,
            I8 i8, I16 i16, I32 i32, I64 i64, U8 u8, U16 u16, U32 u32, U64 u64)
    };
    (@arms $dtype:expr, $ty:ident, $body:expr, $($variant:ident $rust:ty),*) => {
        match $dtype {
            $(DType::$variant => {
                type $ty = $rust;
                $body
            })*
            other => Err(wrong_type(other)),
        }
    };
}

/// The evaluation of an operator on the bits of two integers.
macro_rules! bits {
    ($operator:tt) => {
        |node, inputs| {
            let (a, b) = operands(node, inputs)?;
            Ok(vec![with_integer_type!(a.dtype(), T => zip(a, &b, |x: &T, y: &T| x $operator y))?])
        }
    };
}

pub(super) const OPS: &[Op] = &[
    Op::new("Equal", 1, infer_compare).types(ONE_TYPE).axes(pointwise).eval(eval_equal),
    Op::new("Greater", 1, infer_compare).types(ONE_TYPE).axes(pointwise).eval(compare!(>)),
    Op::new("GreaterOrEqual", 12, infer_compare).types(ONE_TYPE).axes(pointwise).eval(compare!(>=)),
    Op::new("Less", 1, infer_compare).types(ONE_TYPE).axes(pointwise).eval(compare!(<)),
    Op::new("LessOrEqual", 12, infer_compare).types(ONE_TYPE).axes(pointwise).eval(compare!(<=)),
    Op::new("And", 1, infer_compare).types(ONE_TYPE).axes(pointwise).eval(logic!(&)),
    Op::new("Or", 1, infer_compare).types(ONE_TYPE).axes(pointwise).eval(logic!(|)),
    Op::new("Xor", 1, infer_compare).types(ONE_TYPE).axes(pointwise).eval(logic!(^)),
    Op::new("Not", 1, infer_same).axes(pointwise).eval(eval_not),
    Op::new("IsNaN", 9, infer_test).axes(pointwise).eval(eval_is_nan),
    Op::new("IsInf", 10, infer_test).axes(pointwise).eval(eval_is_inf),
    Op::new("BitwiseAnd", 18, infer_bits).types(ONE_TYPE).axes(pointwise).eval(bits!(&)),
    Op::new("BitwiseOr", 18, infer_bits).types(ONE_TYPE).axes(pointwise).eval(bits!(|)),
    Op::new("BitwiseXor", 18, infer_bits).types(ONE_TYPE).axes(pointwise).eval(bits!(^)),
    Op::new("BitwiseNot", 18, infer_same).axes(pointwise).eval(eval_bitwise_not),
    Op::new("BitShift", 11, infer_bits).axes(pointwise).eval(eval_bit_shift),
];

fn infer_compare(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    infer_broadcast(node, inputs, Some(DType::Bool))
}

fn infer_test(_: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    Ok(vec![Fact { dtype: Some(DType::Bool), shape: inputs.need(0)?.shape.clone(), ..Fact::default() }])
}

fn infer_bits(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    infer_broadcast(node, inputs, inputs.dtype(0))
}

/// Equality, also of booleans and strings.
fn eval_equal(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let (a, b) = operands(node, inputs)?;
    let out = match a.dtype() {
        DType::Bool => zip(a, &b, |x: &bool, y: &bool| x == y),
        DType::String => zip(a, &b, |x: &String, y: &String| x == y),
        dtype => {
            with_number_type!(dtype, T => zip(a, &b, |x: &T, y: &T| x == y), else Err(wrong_type(dtype)))
        }
    };
    Ok(vec![out?])
}

fn eval_not(_: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    Ok(vec![map_numbers!(inputs.need(0)?, |x: bool| !x)?])
}

/// Whether each element of a tensor of floats, narrow ones included, passes a test.
fn test(tensor: &Tensor, test: impl Fn(f64) -> bool) -> Result<Vec<Tensor>> {
    let dtype = tensor.dtype();
    if !is_float(dtype) && !is_narrow(dtype) {
        return Err(wrong_type(dtype));
    }
    let values = f64::load(tensor)?;
    Ok(vec![Tensor::new(tensor.shape(), values.iter().map(|&v| test(v)).collect::<Vec<bool>>())?])
}

fn eval_is_nan(_: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    test(inputs.need(0)?, f64::is_nan)
}

fn eval_is_inf(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let negative = node.int_or("detect_negative", 1)? != 0;
    let positive = node.int_or("detect_positive", 1)? != 0;
    test(inputs.need(0)?, |x| x.is_infinite() && if x > 0.0 { positive } else { negative })
}

fn eval_bitwise_not(_: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let tensor = inputs.need(0)?;
    Ok(vec![with_integer_type!(tensor.dtype(), T => map_numbers!(tensor, |x: T| !x))?])
}

/// Shifts; arithmetic to the right for signed types. A shift by less than zero or by at least the
/// width shifts everything out.
fn eval_bit_shift(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let (a, b) = operands(node, inputs)?;
    let left = match node.str_or("direction", "")? {
        "LEFT" => true,
        "RIGHT" => false,
        other => return Err(Error::input(format!("direction `{other}`, expected LEFT or RIGHT"))),
    };
    let out = with_integer_type!(a.dtype(), T => zip(a, &b, |&x: &T, &y: &T| {
        let by = u32::try_from(i128::from(y)).unwrap_or(u32::MAX);
        if left {
            x.checked_shl(by).unwrap_or(0)
        } else {
            x.checked_shr(by).unwrap_or(if negative(x) { !0 } else { 0 })
        }
    }))?;
    Ok(vec![out])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Attr;
    use crate::ops::testing::{eval, node, with_attr};

    fn shift(direction: &str, x: Tensor, y: Tensor) -> Result<Vec<Tensor>> {
        let node = with_attr(node("BitShift", 28), "direction", Attr::String(direction.into()));
        eval(&node, &[&x, &y])
    }

    #[test]
    fn shifts_beyond_the_width_leave_the_sign() {
        let y = shift("RIGHT", Tensor::vector(vec![-8i8, -8, 8, -8]), Tensor::vector(vec![1i8, 8, 9, -1]));
        assert_eq!(y.unwrap()[0].values::<i8>().unwrap(), [-4, -1, 0, -1]);
        let y = shift("LEFT", Tensor::vector(vec![1u64, 3]), Tensor::vector(vec![63u64, 64]));
        assert_eq!(y.unwrap()[0].values::<u64>().unwrap(), [1 << 63, 0]);
        assert!(shift("UP", Tensor::scalar(1u8), Tensor::scalar(1u8)).is_err());
    }

    #[test]
    fn strings_and_booleans_compare_equal() {
        let words = |w: &[&str]| Tensor::vector(w.iter().map(|w| w.to_string()).collect());
        let y = eval(&node("Equal", 19), &[&words(&["a", "b"]), &words(&["b"])]).unwrap();
        assert_eq!(y[0].values::<bool>().unwrap(), [false, true]);
        assert!(eval(&node("Equal", 19), &[&words(&["a"]), &Tensor::scalar(true)]).is_err());
    }

    #[test]
    fn nan_is_equal_to_nothing() {
        let x = Tensor::vector(vec![f32::NAN, f32::NEG_INFINITY, 1.0]);
        let bools = |name: &str, inputs: &[&Tensor]| {
            eval(&node(name, 20), inputs).unwrap()[0].values::<bool>().unwrap().to_vec()
        };
        assert_eq!(bools("Equal", &[&x, &x]), [false, true, true]);
        assert_eq!(bools("GreaterOrEqual", &[&x, &x]), [false, true, true]);
        assert_eq!(bools("IsNaN", &[&x]), [true, false, false]);
        assert_eq!(bools("IsInf", &[&x]), [false, true, false]);
        let positive = with_attr(node("IsInf", 20), "detect_negative", Attr::Int(0));
        assert_eq!(eval(&positive, &[&x]).unwrap()[0].values::<bool>().unwrap(), [false; 3]);
    }
}
