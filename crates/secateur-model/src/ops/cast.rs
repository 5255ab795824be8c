//! Operators that change the element type.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::axes::unchanged;
use super::cells::{Cell, with_cell};
use super::narrow::{self, Power, Rounding};
use super::params::dtype_from;
use super::{Fact, Facts, Inputs, Op, Passes};
use crate::{DType, Data, Element, Error, Node, Result, Tensor, with_number_type};

pub(super) const OPS: &[Op] = &[
    Op::new("Cast", 6, infer_cast).axes(unchanged).passes(Passes::InPlace).eval(eval_cast),
    Op::new("CastLike", 15, infer_cast_like).axes(unchanged).passes(Passes::InPlace).eval(eval_cast_like),
    Op::new("BitCast", 26, infer_cast).eval(eval_bit_cast),
];

fn target(node: &Node) -> Result<DType> {
    dtype_from(node.int("to")?.ok_or_else(|| Error::input("the attribute `to` is missing"))?)
}

fn rounding(node: &Node) -> Result<Rounding> {
    let power = match node.str_or("round_mode", "up")? {
        "up" => Power::Up,
        "down" => Power::Down,
        "nearest" => Power::Nearest,
        mode => return Err(Error::input(format!("round_mode `{mode}`: expected up, down or nearest"))),
    };
    Ok(Rounding { saturate: node.int_or("saturate", 1)? != 0, power })
}

fn infer_cast(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let shape = inputs.need(0)?.shape.clone();
    Ok(vec![Fact { dtype: Some(target(node)?), shape, ..Fact::default() }])
}

fn eval_cast(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    Ok(vec![cast(inputs.need(0)?, target(node)?, rounding(node)?)?])
}

fn infer_cast_like(_: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let shape = inputs.need(0)?.shape.clone();
    Ok(vec![Fact { dtype: inputs.need(1)?.dtype, shape, ..Fact::default() }])
}

fn eval_cast_like(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    Ok(vec![cast(inputs.need(0)?, inputs.need(1)?.dtype(), rounding(node)?)?])
}

/// `BitCast` keeps the bits and reads them as another type of the same width.
fn eval_bit_cast(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    let (from, to) = (data.dtype(), target(node)?);
    if from.bits() != to.bits() || from.bits() == 0 {
        return Err(Error::input(format!("the bits of {from} cannot be read as {to}")));
    }
    with_cell!(from, C => Ok(vec![C::close(to, data.shape().to_vec(), C::open(data)?.into_owned())?]))
}

/// Converts numbers as ONNX's `Cast` does. Integers keep their low bits; floats are cut towards zero
/// to integers (beyond the range the result is undefined there; here as on x86) and rounded to the
/// nearest to floats; anything but zero is true; text is read and written in decimal.
///
/// # Errors
/// Where one of the types is complex, or a text is not a number.
pub(super) fn cast(tensor: &Tensor, to: DType, rounding: Rounding) -> Result<Tensor> {
    let from = tensor.dtype();
    if from == to {
        return Ok(tensor.clone());
    }
    let refuse = || Error::unsupported(format!("casting {from} to {to} is not supported"));
    let shape = tensor.shape();
    match (tensor.data(), to) {
        (Data::F16(v), DType::F32) => return Tensor::new(shape, v.to_f32_vec()),
        (Data::BF16(v), DType::F32) => return Tensor::new(shape, v.to_f32_vec()),
        (Data::F32(v), DType::F16) => {
            let mut out = vec![f16::ZERO; v.len()];
            out.convert_from_f32_slice(v);
            return Tensor::new(shape, out);
        }
        (Data::F32(v), DType::BF16) => {
            let mut out = vec![bf16::ZERO; v.len()];
            out.convert_from_f32_slice(v);
            return Tensor::new(shape, out);
        }
        (Data::String(texts), _) => {
            return with_number_type!(to, T => {
                let values = texts.iter().map(|text| parse::<T>(text)).collect::<Result<Vec<_>>>()?;
                Tensor::new(shape, values)
            }, else Err(refuse()));
        }
        (Data::Bool(values), DType::String) => {
            return Tensor::new(
                shape,
                values.iter().map(|&v| if v { "1" } else { "0" }.to_string()).collect(),
            );
        }
        (Data::Bool(values), _) => {
            let bytes = Tensor::new(shape, values.iter().map(|&v| u8::from(v)).collect::<Vec<_>>())?;
            return cast(&bytes, to, rounding);
        }
        (Data::Raw(..), _) => {
            let wide = Tensor::new(shape, narrow::decode(tensor).map_err(|_| refuse())?)?;
            return cast(&wide, to, rounding);
        }
        _ => {}
    }
    with_number_type!(from, A => {
        let values = tensor.values::<A>()?;
        with_number_type!(to, B => Tensor::new(shape, values.iter().map(|v| v.convert::<B>()).collect::<Vec<_>>()),
        else match to {
            DType::Bool => Tensor::new(shape, values.iter().map(|v| v.convert::<f64>() != 0.0).collect::<Vec<_>>()),
            DType::String => Tensor::new(shape, values.iter().map(|v| v.text()).collect::<Vec<_>>()),
            _ if narrow::integer_sign(to).is_some() => {
                narrow::encode_integers(to, shape, values.iter().map(|v| v.convert::<i64>()))
            }
            _ if narrow::is_narrow(to) => {
                narrow::encode(to, shape, values.iter().map(|v| v.convert::<f64>()), rounding)
            }
            _ => Err(refuse()),
        })
    }, else Err(refuse()))
}

/// [`cast`] between types for which there is nothing to choose.
pub(super) fn convert(tensor: &Tensor, to: DType) -> Result<Tensor> {
    cast(tensor, to, Rounding { saturate: true, power: Power::Up })
}

/// A number type that converts to every other.
trait Convert: Element {
    fn from_f64(value: f64) -> Self;
    fn from_i64(value: i64) -> Self;
    fn from_u64(value: u64) -> Self;
    fn convert<T: Convert>(&self) -> T;
    fn text(&self) -> String;
}

macro_rules! convert {
    ($($ty:ty: from_f64 $float:expr, from_i64 $int:expr, from_u64 $uint:expr, via $via:ident $wide:expr;)*) => {$(
        impl Convert for $ty {
            fn from_f64(value: f64) -> Self { let f: fn(f64) -> Self = $float; f(value) }
            fn from_i64(value: i64) -> Self { let f: fn(i64) -> Self = $int; f(value) }
            fn from_u64(value: u64) -> Self { let f: fn(u64) -> Self = $uint; f(value) }
            fn convert<T: Convert>(&self) -> T { T::$via($wide(*self)) }
            fn text(&self) -> String { text(&self.to_string()) }
        }
    )*};
}

convert! {
    f32: from_f64 |v| v as f32, from_i64 |v| v as f32, from_u64 |v| v as f32, via from_f64 f64::from;
    f64: from_f64 |v| v, from_i64 |v| v as f64, from_u64 |v| v as f64, via from_f64 f64::from;
    f16: from_f64 |v| f16::from_f32(odd(v)), from_i64 |v| f16::from_f32(odd(v as f64)),
        from_u64 |v| f16::from_f32(odd(v as f64)),
        via from_f64 f16::to_f64;
    bf16: from_f64 |v| bf16::from_f32(odd(v)), from_i64 |v| bf16::from_f32(odd(v as f64)),
        from_u64 |v| bf16::from_f32(odd(v as f64)),
        via from_f64 bf16::to_f64;
    i8: from_f64 |v| v as i32 as i8, from_i64 |v| v as i8, from_u64 |v| v as i8, via from_i64 i64::from;
    i16: from_f64 |v| v as i32 as i16, from_i64 |v| v as i16, from_u64 |v| v as i16, via from_i64 i64::from;
    i32: from_f64 |v| v as i32, from_i64 |v| v as i32, from_u64 |v| v as i32, via from_i64 i64::from;
    i64: from_f64 |v| v as i64, from_i64 |v| v, from_u64 |v| v as i64, via from_i64 i64::from;
    u8: from_f64 |v| v as i32 as u8, from_i64 |v| v as u8, from_u64 |v| v as u8, via from_u64 u64::from;
    u16: from_f64 |v| v as i32 as u16, from_i64 |v| v as u16, from_u64 |v| v as u16, via from_u64 u64::from;
    u32: from_f64 |v| v as i64 as u32, from_i64 |v| v as u32, from_u64 |v| v as u32, via from_u64 u64::from;
    u64: from_f64 |v| v as u64, from_i64 |v| v as u64, from_u64 |v| v, via from_u64 u64::from;
}

/// To f32 so that rounding again to 16 bits gives what rounding once would: towards zero, with the
/// last bit set where anything was cut off (Boldo and Melquiond, "Emulation of FMA and correctly
/// rounded sums", 2008: rounding to odd).
fn odd(value: f64) -> f32 {
    let near = value as f32;
    if near.is_infinite() || f64::from(near) == value || value.is_nan() {
        return near;
    }
    let beyond = f64::from(near).abs() > value.abs();
    f32::from_bits((near.to_bits() - u32::from(beyond)) | 1)
}

/// Infinity as ONNX writes it.
fn text(number: &str) -> String {
    number.replace("inf", "INF")
}

fn parse<T: Convert>(text: &str) -> Result<T> {
    if let Ok(integer) = text.parse::<i64>() {
        return Ok(T::from_i64(integer));
    }
    let number: f64 = text.parse().map_err(|_| Error::input(format!("`{text}` is not a number")))?;
    Ok(T::from_f64(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to<T: Element>(tensor: Tensor) -> Vec<T> {
        convert(&tensor, T::DTYPE).unwrap().values::<T>().unwrap().to_vec()
    }

    #[test]
    fn numbers() {
        assert_eq!(to::<i32>(Tensor::vector(vec![-1.9f32, 2.9, f32::NAN, 1e20])), [-1, 2, 0, i32::MAX]);
        assert_eq!(to::<u8>(Tensor::vector(vec![-1i64, 258, 7])), [255, 2, 7]);
        assert_eq!(to::<u8>(Tensor::vector(vec![-1f32, 200.0])), [255, 200]);
        assert_eq!(to::<f32>(Tensor::vector(vec![u64::MAX, 3])), [18446744073709551615f32, 3.0]);
        assert_eq!(to::<i64>(Tensor::vector(vec![u64::MAX])), [-1]);
        assert_eq!(to::<bool>(Tensor::vector(vec![0.0f32, -0.0, 0.3, f32::NAN])), [false, false, true, true]);
        assert_eq!(to::<f64>(Tensor::vector(vec![true, false])), [1.0, 0.0]);
        let halves = to::<f16>(Tensor::vector(vec![1.0009765f32, 70000.0, -2.5]));
        assert_eq!(halves, [1.0009766, f32::INFINITY, -2.5].map(f16::from_f32));
        // One rounding: by way of f32 this would be a tie and become 1.
        assert_eq!(
            to::<f16>(Tensor::vector(vec![1.0 + 2f64.powi(-11) + 2f64.powi(-40)])),
            [f16::from_f32(1.0009766)]
        );
    }

    #[test]
    fn texts() {
        let texts = ["3.5", "-1e-5", "INF", "-inf", "9007199254740993"].map(String::from).to_vec();
        let numbers = to::<f64>(Tensor::vector(texts.clone()));
        assert_eq!(numbers, [3.5, -1e-5, f64::INFINITY, f64::NEG_INFINITY, 9007199254740992.0]);
        assert_eq!(to::<i64>(Tensor::vector(texts[4..].to_vec())), [9007199254740993]);
        assert_eq!(
            to::<String>(Tensor::vector(vec![0.1f32, f32::NEG_INFINITY, f32::NAN])),
            ["0.1", "-INF", "NaN"]
        );
        assert!(convert(&Tensor::vector(vec!["x".to_string()]), DType::F32).is_err());
    }

    #[test]
    fn narrow_types() {
        let wide = Tensor::vector(vec![-9f32, -8.0, 7.0, 8.5]);
        let four = convert(&wide, DType::I4).unwrap();
        assert_eq!(to::<i8>(four.clone()), [7, -8, 7, -8]);
        assert_eq!(to::<f32>(convert(&four, DType::F8E4M3FN).unwrap()), [7.0, -8.0, 7.0, -8.0]);
        assert_eq!(to::<f16>(convert(&wide, DType::U2).unwrap()), [3.0, 0.0, 3.0, 0.0].map(f16::from_f32));
    }

    #[test]
    fn complex_numbers_are_refused() {
        let complex = Tensor::from_data([1], Data::Raw(DType::C64, vec![0; 8])).unwrap();
        let message = convert(&complex, DType::F32).unwrap_err().to_string();
        assert!(message.contains("c64") && message.contains("f32"), "{message}");
    }
}
