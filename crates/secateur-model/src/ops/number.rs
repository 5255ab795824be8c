//! Numbers as operators compute with them: [`Number`] for arithmetic in a tensor's own type, and
//! [`Float`] for mathematics, in f64 for f64 tensors and in f32 for all others.

use std::borrow::Cow;
use std::ops;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::cast::convert;
use crate::{DType, Element, Error, Result, Tensor};

/// A type of floats or integers. Integers wrap around, as all implementations of ONNX do; f16 and
/// bf16 compute in f32 and round once.
pub(super) trait Number: Element + Copy + PartialOrd {
    /// The type that sums are kept in: i64, u64 or f64.
    type Wide: Number<Wide = Self::Wide>;
    const INTEGER: bool;
    const ZERO: Self;
    const ONE: Self;
    /// The lowest value, −∞ for floats.
    const LOWEST: Self;
    /// The highest value, ∞ for floats.
    const HIGHEST: Self;

    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// The quotient, truncated for integers (whose divisor must not be zero).
    fn div(self, other: Self) -> Self;
    /// `self − ⌊self / other⌋ · other`: the divisor's sign (integers: the divisor must not be zero).
    fn modulo(self, other: Self) -> Self;
    /// `self − trunc(self / other) · other`: the dividend's sign (integers: the divisor must not be zero).
    fn remainder(self, other: Self) -> Self;
    fn abs(self) -> Self;
    fn neg(self) -> Self;
    /// −1, 0 or 1; NaN stays.
    fn sign(self) -> Self;
    fn widen(self) -> Self::Wide;
    /// Integers lose their high bits, floats round.
    fn narrow(wide: Self::Wide) -> Self;
    fn to_f64(self) -> f64;
    /// Integers truncate towards zero and saturate, floats round.
    fn from_f64(value: f64) -> Self;

    /// The smaller number; NaN where either is.
    fn min(self, other: Self) -> Self {
        if self < other || self.is_nan() { self } else { other }
    }
    /// The larger number; NaN where either is.
    fn max(self, other: Self) -> Self {
        if self > other || self.is_nan() { self } else { other }
    }
    #[allow(clippy::eq_op)] // only NaN differs from itself
    fn is_nan(self) -> bool {
        self != self
    }
}

macro_rules! integers {
    ($($ty:ty => $wide:ty),*) => {$(
        impl Number for $ty {
            type Wide = $wide;
            const INTEGER: bool = true;
            const ZERO: Self = 0;
            const ONE: Self = 1;
            const LOWEST: Self = <$ty>::MIN;
            const HIGHEST: Self = <$ty>::MAX;
            fn add(self, other: Self) -> Self { self.wrapping_add(other) }
            fn sub(self, other: Self) -> Self { self.wrapping_sub(other) }
            fn mul(self, other: Self) -> Self { self.wrapping_mul(other) }
            fn div(self, other: Self) -> Self { self.wrapping_div(other) }
            fn modulo(self, other: Self) -> Self {
                let rest = self.wrapping_rem(other);
                if rest != 0 && negative(rest ^ other) { rest.wrapping_add(other) } else { rest }
            }
            fn remainder(self, other: Self) -> Self { self.wrapping_rem(other) }
            fn abs(self) -> Self { if negative(self) { self.wrapping_neg() } else { self } }
            fn neg(self) -> Self { self.wrapping_neg() }
            fn sign(self) -> Self {
                match self {
                    0 => 0,
                    x if negative(x) => Self::ZERO.wrapping_sub(1),
                    _ => 1,
                }
            }
            fn widen(self) -> $wide { self as $wide }
            fn narrow(wide: $wide) -> Self { wide as $ty }
            fn to_f64(self) -> f64 { self as f64 }
            fn from_f64(value: f64) -> Self { value as $ty }
        }
    )*};
}

/// Whether a number is below zero; never for unsigned integers.
pub(super) fn negative<T: Number>(value: T) -> bool {
    value < T::ZERO
}

integers!(i8 => i64, i16 => i64, i32 => i64, i64 => i64, u8 => u64, u16 => u64, u32 => u64, u64 => u64);

macro_rules! floats {
    ($($ty:ident),*) => {$(
        impl Number for $ty {
            type Wide = f64;
            const INTEGER: bool = false;
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const LOWEST: Self = $ty::NEG_INFINITY;
            const HIGHEST: Self = $ty::INFINITY;
            fn add(self, other: Self) -> Self { self + other }
            fn sub(self, other: Self) -> Self { self - other }
            fn mul(self, other: Self) -> Self { self * other }
            fn div(self, other: Self) -> Self { self / other }
            fn modulo(self, other: Self) -> Self {
                let rest = self % other;
                if rest == 0.0 {
                    $ty::copysign(0.0, other)
                } else if (rest < 0.0) != (other < 0.0) {
                    rest + other
                } else {
                    rest
                }
            }
            fn remainder(self, other: Self) -> Self { self % other }
            fn abs(self) -> Self { self.abs() }
            fn neg(self) -> Self { -self }
            fn sign(self) -> Self {
                if self > 0.0 { 1.0 } else if self < 0.0 { -1.0 } else { self }
            }
            fn widen(self) -> f64 { self.into() }
            fn narrow(wide: f64) -> Self { wide as $ty }
            fn to_f64(self) -> f64 { self.into() }
            fn from_f64(value: f64) -> Self { value as $ty }
        }
    )*};
}

floats!(f32, f64);

macro_rules! halves {
    ($($ty:ident),*) => {$(
        impl Number for $ty {
            type Wide = f64;
            const INTEGER: bool = false;
            const ZERO: Self = $ty::ZERO;
            const ONE: Self = $ty::ONE;
            const LOWEST: Self = $ty::NEG_INFINITY;
            const HIGHEST: Self = $ty::INFINITY;
            halves!(@binary $ty: add sub mul div modulo remainder);
            fn abs(self) -> Self { $ty::from_bits(self.to_bits() & 0x7fff) }
            fn neg(self) -> Self { -self }
            fn sign(self) -> Self { $ty::from_f32(Number::sign(self.to_f32())) }
            fn widen(self) -> f64 { self.to_f32().into() }
            fn narrow(wide: f64) -> Self { $ty::from_f64(wide) }
            fn to_f64(self) -> f64 { self.to_f32().into() }
            fn from_f64(value: f64) -> Self { $ty::from_f64(value) }
        }
    )*};
    (@binary $ty:ident: $($method:ident)*) => {$(
        fn $method(self, other: Self) -> Self {
            $ty::from_f32(Number::$method(self.to_f32(), other.to_f32()))
        }
    )*};
}

halves!(f16, bf16);

/// The float types that mathematics is done in; see [`with_float!`].
pub(super) trait Float:
    Number<Wide = f64>
    + ops::Add<Output = Self>
    + ops::Sub<Output = Self>
    + ops::Mul<Output = Self>
    + ops::Div<Output = Self>
    + ops::Neg<Output = Self>
{
    /// The elements of a tensor of any number type, converted where they are of another.
    ///
    /// # Errors
    /// Where the tensor is not of numbers.
    fn load(tensor: &Tensor) -> Result<Cow<'_, [Self]>> {
        if let Some(values) = Self::slice(tensor.data()) {
            return Ok(Cow::Borrowed(values));
        }
        if tensor.dtype() == DType::String {
            return Err(wrong_type(DType::String));
        }
        let (_, mut data) = convert(tensor, Self::DTYPE)?.into_parts();
        Ok(Cow::Owned(Self::slice_mut(&mut data).map(std::mem::take).unwrap_or_default()))
    }

    /// A tensor of a float type, rounded once.
    ///
    /// # Errors
    /// Where the type is not of floats or the values do not fill the shape.
    fn store(values: Vec<Self>, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        if !is_float(dtype) {
            return Err(wrong_type(dtype));
        }
        convert(&Tensor::new(shape, values)?, dtype)
    }

    fn exp(self) -> Self;
    fn ln_1p(self) -> Self;
    fn tanh(self) -> Self;
    fn erf(self) -> Self;
}

macro_rules! compute {
    ($ty:ident, $erf:path) => {
        impl Float for $ty {
            fn exp(self) -> Self {
                self.exp()
            }
            fn ln_1p(self) -> Self {
                self.ln_1p()
            }
            fn tanh(self) -> Self {
                self.tanh()
            }
            fn erf(self) -> Self {
                $erf(self)
            }
        }
    };
}

compute!(f32, libm::erff);
compute!(f64, libm::erf);

/// Whether a type is of floats that [`Float`] rounds to.
pub(super) fn is_float(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16)
}

/// An operator does not take elements of this type.
pub(super) fn wrong_type(dtype: DType) -> Error {
    Error::unsupported(format!("elements of type {dtype} are not supported here"))
}

/// Runs an expression with `$ty` bound to the [`Float`] that tensors of a float type compute in.
macro_rules! with_float {
    ($dtype:expr, $ty:ident => $body:expr) => {
        match $dtype {
            $crate::DType::F32 | $crate::DType::F16 | $crate::DType::BF16 => {
                type $ty = f32;
                $body
            }
            $crate::DType::F64 => {
                type $ty = f64;
                $body
            }
            other => Err($crate::ops::number::wrong_type(other)),
        }
    };
}
pub(super) use with_float;

/// Elements that are converted at once: few enough for the processor's first cache.
pub(super) const CHUNK: usize = 1024;

/// Each element of 16 bits replaced, computed in f32.
pub(super) fn map_halves<H: Number>(values: &[H], f: impl Fn(f32) -> f32) -> Vec<H>
where
    [H]: HalfFloatSliceExt,
{
    let mut out = vec![H::ZERO; values.len()];
    let mut buffer = [0f32; CHUNK];
    for (from, to) in values.chunks(CHUNK).zip(out.chunks_mut(CHUNK)) {
        let buffer = &mut buffer[..from.len()];
        from.convert_to_f32_slice(buffer);
        buffer.iter_mut().for_each(|v| *v = f(*v));
        to.convert_from_f32_slice(buffer);
    }
    out
}

/// A tensor with each element of a float tensor replaced: `map_floats!(tensor, |x: F| x.exp())`.
/// `F` is f64 for f64 tensors and f32 for all others, whose results round once.
macro_rules! map_floats {
    ($tensor:expr, |$x:ident: $float:ident| $body:expr) => {{
        use $crate::{Data, Tensor};
        let tensor: &Tensor = $tensor;
        match tensor.data() {
            Data::F32(values) => {
                #[allow(dead_code)]
                type $float = f32;
                Tensor::new(tensor.shape(), values.iter().map(|&$x| $body).collect::<Vec<f32>>())
            }
            Data::F64(values) => {
                #[allow(dead_code)]
                type $float = f64;
                Tensor::new(tensor.shape(), values.iter().map(|&$x| $body).collect::<Vec<f64>>())
            }
            Data::F16(values) => {
                #[allow(dead_code)]
                type $float = f32;
                Tensor::new(
                    tensor.shape(),
                    $crate::ops::number::map_halves(values, |$x: f32| -> f32 { $body }),
                )
            }
            Data::BF16(values) => {
                #[allow(dead_code)]
                type $float = f32;
                Tensor::new(
                    tensor.shape(),
                    $crate::ops::number::map_halves(values, |$x: f32| -> f32 { $body }),
                )
            }
            data => Err($crate::ops::number::wrong_type(data.dtype())),
        }
    }};
}
pub(super) use map_floats;

/// A tensor with each element replaced by one of the same type: `map_numbers!(tensor, |x: i32| -x)`.
macro_rules! map_numbers {
    ($tensor:expr, |$x:ident: $number:ty| $body:expr) => {{
        let tensor: &$crate::Tensor = $tensor;
        let values = tensor.values::<$number>()?;
        $crate::Tensor::new(tensor.shape(), values.iter().map(|&$x| $body).collect::<Vec<$number>>())
    }};
}
pub(super) use map_numbers;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modulo_takes_the_sign_of_the_divisor_and_remainder_that_of_the_dividend() {
        for (a, b, modulo, remainder) in [(-4, 3, 2, -1), (4, -3, -2, 1), (7, 3, 1, 1), (-6, 3, 0, 0)] {
            assert_eq!((Number::modulo(a, b), Number::remainder(a, b)), (modulo, remainder), "{a} {b}");
            let (x, y) = (f64::from(a), f64::from(b));
            assert_eq!((x.modulo(y), x.remainder(y)), (modulo.into(), remainder.into()));
        }
        assert_eq!(i8::MIN.modulo(-1), 0);
        assert_eq!(Number::modulo(200u8, 7), 4);
        assert_eq!((-1f32).modulo(f32::INFINITY), f32::INFINITY);
        assert!((-0f32).modulo(3.0).is_sign_positive() && 0f32.modulo(-3.0).is_sign_negative());
        assert!(1f32.modulo(0.0).is_nan() && f32::INFINITY.modulo(1.0).is_nan());
    }

    #[test]
    fn nan_wins_minimum_and_maximum() {
        for (a, b) in [(f32::NAN, 1.0), (1.0, f32::NAN)] {
            assert!(Number::max(a, b).is_nan() && Number::min(a, b).is_nan());
        }
        assert_eq!(Number::max(f16::from_f32(-1.0), f16::from_f32(2.0)).to_f32(), 2.0);
    }

    #[test]
    fn integers_wrap_around_and_conversions_saturate() {
        assert_eq!(Number::add(250u8, 10), 4);
        assert_eq!(Number::abs(i8::MIN), i8::MIN);
        assert_eq!(Number::sign(-5i64), -1);
        assert_eq!(<u8 as Number>::from_f64(-3.7), 0);
        assert_eq!(<i8 as Number>::from_f64(300.0), 127);
    }
}
