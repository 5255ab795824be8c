//! The number types of 8 bits and fewer that are stored packed: their values and rounding to them.
//!
//! Source: ONNX's `Float8` and `Float4` documentation and the tables of its `Cast` operator.

use super::cells::{pack, unpack};
use crate::{DType, Data, Error, Result, Tensor};

/// A float type of 8 bits or fewer: one sign bit, exponent, mantissa.
struct Format {
    mantissa: u32,
    bias: i32,
    /// The code of the largest finite value.
    max: u8,
    /// The codes of infinity and NaN without sign, where the type has them.
    infinity: Option<u8>,
    nan: Option<u8>,
    sign: u8,
    /// The only NaN is the code of negative zero, which the type lacks.
    unsigned_zero: bool,
}

fn format(dtype: DType) -> Option<Format> {
    let f8 = |mantissa, bias, max, infinity, nan, unsigned_zero| {
        Some(Format { mantissa, bias, max, infinity, nan: Some(nan), sign: 0x80, unsigned_zero })
    };
    match dtype {
        DType::F8E4M3FN => f8(3, 7, 0x7e, None, 0x7f, false),
        DType::F8E4M3FNUZ => f8(3, 8, 0x7f, None, 0x80, true),
        DType::F8E5M2 => f8(2, 15, 0x7b, Some(0x7c), 0x7e, false),
        DType::F8E5M2FNUZ => f8(2, 16, 0x7f, None, 0x80, true),
        DType::F4E2M1 => Some(Format {
            mantissa: 1,
            bias: 1,
            max: 7,
            infinity: None,
            nan: None,
            sign: 8,
            unsigned_zero: false,
        }),
        _ => None,
    }
}

/// How values beyond the range, and those between two powers of two, are rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rounding {
    /// To the largest finite value, not to infinity or NaN.
    pub(super) saturate: bool,
    /// For [`DType::F8E8M0`], which holds powers of two only.
    pub(super) power: Power,
}

/// The way to the next power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Power {
    Up,
    Down,
    Nearest,
}

impl Format {
    fn decode(&self, code: u8) -> f32 {
        let magnitude = code & (self.sign - 1);
        if (self.unsigned_zero && code == self.sign) || (magnitude > self.max && self.infinity.is_none()) {
            return f32::NAN;
        }
        if magnitude > self.max && self.infinity != Some(magnitude) {
            return f32::NAN;
        }
        let (exponent, fraction) = (magnitude >> self.mantissa, magnitude & ((1 << self.mantissa) - 1));
        let value = if self.infinity == Some(magnitude) {
            f32::INFINITY
        } else {
            // Without the implicit one the exponent is that of the smallest normal number.
            let implicit = if exponent == 0 { 0 } else { 1 << self.mantissa };
            let power = i32::from(exponent).max(1) - self.bias - self.mantissa as i32;
            f32::from(implicit | fraction) * 2f32.powi(power)
        };
        if code & self.sign == 0 { value } else { -value }
    }

    /// To the nearest value, ties to the even code.
    fn encode(&self, value: f64, saturate: bool) -> u8 {
        let sign = if value.is_sign_negative() { self.sign } else { 0 };
        if value.is_nan() {
            // Types without NaN take negative zero for it, as the reference implementation does.
            return self.nan.map_or(self.sign, |nan| if self.unsigned_zero { nan } else { nan | sign });
        }
        let magnitude = value.abs();
        let beyond = || if saturate { Some(self.max) } else { self.infinity.or(self.nan) };
        let code = if magnitude.is_infinite() {
            beyond()
        } else {
            let smallest = 1 - self.bias;
            let exponent = (((magnitude.to_bits() >> 52) as i32) - 1023).max(smallest);
            let scaled = magnitude * 2f64.powi(self.mantissa as i32 - exponent);
            // A mantissa that rounds up to the next power of two carries into the exponent by itself.
            let code = ((i64::from(exponent - smallest)) << self.mantissa) + scaled.round_ties_even() as i64;
            if code > i64::from(self.max) { beyond() } else { Some(code as u8) }
        };
        match code {
            Some(0) if self.unsigned_zero => 0,
            Some(code) if self.unsigned_zero && code == self.sign => code,
            Some(code) => code | sign,
            None => self.max | sign,
        }
    }
}

/// Bits of an f32's exponent; NaN and infinity become NaN, all else a power of two.
fn encode_power(value: f64, rounding: Rounding) -> u8 {
    let bits = (value as f32).to_bits();
    let exponent = (bits >> 23 & 0xff) as u8;
    if exponent == 0xff {
        return 0xff;
    }
    let fraction = bits & 0x7f_ffff;
    let up = match rounding.power {
        Power::Up => fraction > 0,
        Power::Down => false,
        Power::Nearest => fraction > 0x40_0000 || (fraction == 0x40_0000 && exponent > 0),
    };
    if exponent == 0xfe && up { if rounding.saturate { 0xfe } else { 0xff } } else { exponent + u8::from(up) }
}

/// Whether a type is one of those here.
pub(super) fn is_narrow(dtype: DType) -> bool {
    dtype == DType::F8E8M0 || integer_sign(dtype).is_some() || format(dtype).is_some()
}

/// Whether an integer type of 4 or 2 bits has a sign; `None` for other types.
pub(super) fn integer_sign(dtype: DType) -> Option<bool> {
    match dtype {
        DType::I4 | DType::I2 => Some(true),
        DType::U4 | DType::U2 => Some(false),
        _ => None,
    }
}

fn not_narrow(dtype: DType) -> Error {
    Error::unsupported(format!("elements of type {dtype} have no value as a number here"))
}

/// The values of a tensor of a narrow type.
pub(super) fn decode(tensor: &Tensor) -> Result<Vec<f32>> {
    let Data::Raw(dtype, bytes) = tensor.data() else {
        return Err(not_narrow(tensor.dtype()));
    };
    let bits = dtype.bits();
    if let Some(format) = format(*dtype) {
        let table: Vec<f32> = (0..=u8::MAX).map(|code| format.decode(code)).collect();
        let value = |&code: &u8| table[usize::from(code)];
        return Ok(if bits == 8 {
            bytes.iter().map(value).collect()
        } else {
            unpack(bytes, bits, tensor.len()).iter().map(value).collect()
        });
    }
    if let Some(signed) = integer_sign(*dtype) {
        let half = 1 << (bits - 1);
        let value = |cell: u8| i16::from(cell) - if signed && cell >= half { 2 * i16::from(half) } else { 0 };
        return Ok(unpack(bytes, bits, tensor.len()).into_iter().map(|cell| value(cell).into()).collect());
    }
    if *dtype == DType::F8E8M0 {
        let value =
            |&code: &u8| if code == 0xff { f32::NAN } else { 2f64.powi(i32::from(code) - 127) as f32 };
        return Ok(bytes.iter().map(value).collect());
    }
    Err(not_narrow(*dtype))
}

/// A tensor of a narrow float type, rounded from numbers.
pub(super) fn encode(
    dtype: DType,
    shape: &[usize],
    values: impl Iterator<Item = f64>,
    rounding: Rounding,
) -> Result<Tensor> {
    let bytes = if dtype == DType::F8E8M0 {
        values.map(|v| encode_power(v, rounding)).collect()
    } else {
        let format = format(dtype).ok_or_else(|| not_narrow(dtype))?;
        // The type of 4 bits has neither NaN nor infinity: it always saturates.
        let codes: Vec<u8> = values.map(|v| format.encode(v, rounding.saturate)).collect();
        if dtype.bits() == 8 { codes } else { pack(&codes, dtype.bits()) }
    };
    Tensor::from_data(shape, Data::Raw(dtype, bytes))
}

/// A tensor of integers of 4 or 2 bits: the low bits of integers.
pub(super) fn encode_integers(
    dtype: DType,
    shape: &[usize],
    values: impl Iterator<Item = i64>,
) -> Result<Tensor> {
    let cells: Vec<u8> = values.map(|v| v as u8).collect();
    Tensor::from_data(shape, Data::Raw(dtype, pack(&cells, dtype.bits())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOATS: [DType; 5] =
        [DType::F8E4M3FN, DType::F8E4M3FNUZ, DType::F8E5M2, DType::F8E5M2FNUZ, DType::F4E2M1];

    #[test]
    fn every_code_decodes_and_rounds_to_itself() {
        for dtype in FLOATS {
            let format = format(dtype).unwrap();
            for code in 0..(1u16 << dtype.bits()) {
                let value = format.decode(code as u8);
                let back = format.encode(value.into(), false);
                if value.is_nan() {
                    assert!(format.decode(back).is_nan(), "{dtype} {code:#x}");
                } else {
                    assert_eq!(back, code as u8, "{dtype} {value}");
                }
            }
        }
    }

    #[test]
    fn rounding_is_to_the_nearest_with_ties_to_even() {
        for dtype in FLOATS {
            let format = format(dtype).unwrap();
            for code in 0..format.max {
                let (a, b) = (f64::from(format.decode(code)), f64::from(format.decode(code + 1)));
                let middle = (a + b) / 2.0;
                let even = if code % 2 == 0 { code } else { code + 1 };
                assert_eq!(format.encode(middle, true), even, "{dtype} {middle}");
                assert_eq!(format.encode(a + (b - a) * 0.49, true), code, "{dtype}");
                assert_eq!(format.encode(a + (b - a) * 0.51, true), code + 1, "{dtype}");
            }
        }
    }

    #[test]
    fn beyond_the_range() {
        // (type, largest, whether infinity without saturation stays infinite)
        let table = [
            (DType::F8E4M3FN, 448.0, false),
            (DType::F8E4M3FNUZ, 240.0, false),
            (DType::F8E5M2, 57344.0, true),
            (DType::F8E5M2FNUZ, 57344.0, false),
        ];
        for (dtype, largest, infinite) in table {
            let format = format(dtype).unwrap();
            for value in [1e9, f64::INFINITY] {
                assert_eq!(format.decode(format.encode(value, true)), largest);
                assert_eq!(format.decode(format.encode(-value, true)), -largest);
                let open = format.decode(format.encode(-value, false));
                assert!(if infinite { open == f32::NEG_INFINITY } else { open.is_nan() }, "{dtype} {open}");
            }
        }
    }

    #[test]
    fn powers_of_two() {
        let round = |value, power| encode_power(value, Rounding { saturate: true, power });
        assert_eq!([Power::Up, Power::Down, Power::Nearest].map(|p| round(1.1, p)), [128, 127, 127]);
        assert_eq!(round(1.5, Power::Nearest), 128);
        assert_eq!(round(f64::from(f32::MAX), Power::Up), 0xfe);
        assert_eq!(round(f64::NAN, Power::Up), 0xff);
    }
}
