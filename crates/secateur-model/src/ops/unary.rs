//! Elementwise mathematics of one input.

use super::axes::pointwise;
use super::number::{Float, Number, map_floats, map_numbers, wrong_type};
use super::{Fact, Facts, Inputs, ONE_TYPE, Op};
use crate::{Error, Node, Result, Tensor, with_number_type};

/// The evaluation of an operator whose result is a function of each element of a float tensor.
macro_rules! floats {
    (|$x:ident: $float:ident| $body:expr) => {
        |_, inputs| Ok(vec![map_floats!(inputs.need(0)?, |$x: $float| $body)?])
    };
}

/// As [`floats!`], in the type of the elements, integers included.
macro_rules! numbers {
    (|$x:ident| $body:expr) => {
        |_, inputs| {
            let tensor = inputs.need(0)?;
            let out = with_number_type!(tensor.dtype(), T => map_numbers!(tensor, |$x: T| $body),
                else Err(wrong_type(tensor.dtype())))?;
            Ok(vec![out])
        }
    };
}

pub(super) const OPS: &[Op] = &[
    Op::new("Abs", 1, infer_same).axes(pointwise).eval(numbers!(|x| Number::abs(x))),
    Op::new("Neg", 1, infer_same).axes(pointwise).eval(numbers!(|x| Number::neg(x))),
    Op::new("Sign", 9, infer_same).axes(pointwise).eval(numbers!(|x| Number::sign(x))),
    Op::new("Ceil", 1, infer_same).axes(pointwise).eval(floats!(|x: F| x.ceil())),
    Op::new("Floor", 1, infer_same).axes(pointwise).eval(floats!(|x: F| x.floor())),
    Op::new("Round", 11, infer_same).axes(pointwise).eval(floats!(|x: F| x.round_ties_even())),
    Op::new("Reciprocal", 1, infer_same).axes(pointwise).eval(floats!(|x: F| x.recip())),
    Op::new("Sqrt", 1, infer_same).axes(pointwise).eval(floats!(|x: F| x.sqrt())),
    Op::new("Exp", 1, infer_same).axes(pointwise).eval(floats!(|x: F| x.exp())),
    Op::new("Log", 1, infer_same).axes(pointwise).eval(floats!(|x: F| x.ln())),
    Op::new("Sin", 7, infer_same).axes(pointwise).eval(floats!(|x: F| x.sin())),
    Op::new("Cos", 7, infer_same).axes(pointwise).eval(floats!(|x: F| x.cos())),
    Op::new("Tan", 7, infer_same).axes(pointwise).eval(floats!(|x: F| x.tan())),
    Op::new("Asin", 7, infer_same).axes(pointwise).eval(floats!(|x: F| x.asin())),
    Op::new("Acos", 7, infer_same).axes(pointwise).eval(floats!(|x: F| x.acos())),
    Op::new("Atan", 7, infer_same).axes(pointwise).eval(floats!(|x: F| x.atan())),
    Op::new("Sinh", 9, infer_same).axes(pointwise).eval(floats!(|x: F| x.sinh())),
    Op::new("Cosh", 9, infer_same).axes(pointwise).eval(floats!(|x: F| x.cosh())),
    Op::new("Tanh", 1, infer_same).axes(pointwise).eval(floats!(|x: F| x.tanh())),
    Op::new("Asinh", 9, infer_same).axes(pointwise).eval(floats!(|x: F| x.asinh())),
    Op::new("Acosh", 9, infer_same).axes(pointwise).eval(floats!(|x: F| x.acosh())),
    Op::new("Atanh", 9, infer_same).axes(pointwise).eval(floats!(|x: F| x.atanh())),
    Op::new("Erf", 9, infer_same).axes(pointwise).eval(floats!(|x: F| Float::erf(x))),
    Op::new("Clip", 1, infer_same).types(ONE_TYPE).axes(pointwise).eval(eval_clip),
];

/// One output of the first input's type and shape.
pub(super) fn infer_same(_: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let input = inputs.need(0)?;
    Ok(vec![Fact { dtype: input.dtype, shape: input.shape.clone(), ..Fact::default() }])
}

/// `min(high, max(low, x))`; the bounds are attributes before operator set 11, inputs since.
fn eval_clip(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    fn bound<T: Number>(node: &Node, inputs: Inputs<'_>, name: &str, index: usize) -> Result<Option<T>> {
        if node.opset < 11 {
            return Ok(node.float(name)?.map(|v| T::from_f64(v.into())));
        }
        match inputs.get(index).map(Tensor::values::<T>).transpose()? {
            None => Ok(None),
            Some(&[value]) => Ok(Some(value)),
            Some(values) => Err(Error::input(format!("`{name}` has {} elements, expected 1", values.len()))),
        }
    }
    let data = inputs.need(0)?;
    let out = with_number_type!(data.dtype(), T => {
        let low = bound::<T>(node, inputs, "min", 1)?.unwrap_or(T::LOWEST);
        let high = bound::<T>(node, inputs, "max", 2)?.unwrap_or(T::HIGHEST);
        map_numbers!(data, |x: T| Number::min(Number::max(x, low), high))
    }, else Err(wrong_type(data.dtype())))?;
    Ok(vec![out])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{eval, node, with_attr};
    use crate::{Attr, DType};

    #[test]
    fn halves_are_rounded_to_even() {
        let x = Tensor::vector(vec![0.5f32, 1.5, 2.5, -2.5, -0.5]);
        let y = eval(&node("Round", 11), &[&x]).unwrap();
        assert_eq!(y[0].values::<f32>().unwrap(), [0.0, 2.0, 2.0, -2.0, 0.0]);
    }

    #[test]
    fn types_are_kept() {
        for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
            let x = Float::store(vec![0.25f32, 4.0], dtype, &[2]).unwrap();
            let y = eval(&node("Sqrt", 13), &[&x]).unwrap();
            assert_eq!((y[0].dtype(), y[0].to_f32s().unwrap()), (dtype, vec![0.5, 2.0]));
        }
        let x = Tensor::vector(vec![-3i16, i16::MIN]);
        assert_eq!(eval(&node("Abs", 13), &[&x]).unwrap()[0].values::<i16>().unwrap(), [3, i16::MIN]);
        assert!(eval(&node("Sqrt", 13), &[&x]).is_err());
    }

    #[test]
    fn clip_bounds_are_attributes_then_inputs() {
        let x = Tensor::vector(vec![-2f32, 0.5, 9.0, f32::NAN]);
        let old = with_attr(node("Clip", 6), "max", Attr::Float(1.0));
        let y = eval(&old, &[&x]).unwrap();
        assert_eq!(y[0].values::<f32>().unwrap()[..3], [-2.0, 0.5, 1.0]);
        assert!(y[0].values::<f32>().unwrap()[3].is_nan());

        // A minimum above the maximum gives the maximum.
        let x = Tensor::vector(vec![1i8, 5]);
        let (low, high) = (Tensor::scalar(4i8), Tensor::scalar(2i8));
        let y = eval(&node("Clip", 13), &[&x, &low, &high]).unwrap();
        assert_eq!(y[0].values::<i8>().unwrap(), [2, 2]);
        assert!(eval(&node("Clip", 13), &[&x, &x]).is_err());
    }
}
