//! The values of a packed tensor: as they are, as f16, or as int8 with scales.

use half::{bf16, f16};

use super::layout::scales_shape;
use super::{Packed, Positions};
use crate::model::decode;
use crate::{DType, Data, Element, Error, Result};

/// How values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// As they are, bit for bit; −0 counts as a zero.
    Exact,
    /// Rounded to f16, where they are wider.
    F16,
    /// Symmetric int8: value = scale · q with q in −127..=127 and scale = max |value| ÷ 127 for each index of
    /// `axis`, the output channels. 0 stays 0.
    Int8 {
        /// The axis that has a scale for each of its indices.
        axis: usize,
    },
}

impl ValueType {
    /// The element type of stored values of a tensor.
    pub fn stored_type(self, dtype: DType) -> DType {
        match self {
            ValueType::F16 if dtype.bits() > 16 => DType::F16,
            ValueType::Int8 { .. } => DType::I8,
            _ => dtype,
        }
    }

    /// Whether values of a tensor lose anything.
    pub fn is_exact(self, dtype: DType) -> bool {
        self.stored_type(dtype) == dtype
    }

    /// Whether all values can be stored: f16 ends at 65504, int8 with scales knows neither infinity nor NaN.
    pub fn holds(self, dtype: DType, values: &[f32]) -> bool {
        if self.is_exact(dtype) {
            return true;
        }
        match self {
            ValueType::F16 => values.iter().all(|&v| !v.is_finite() || f16::from_f32(v).is_finite()),
            // The scale of the smallest values must not vanish.
            _ => {
                values.iter().all(|&v| v.is_finite() && (v == 0.0 || v.abs() / 127.0 >= f32::MIN_POSITIVE))
                    || values.iter().all(|v| *v == 0.0)
            }
        }
    }
}

/// The factors of int8 values: one for each index of one axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Scales {
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Scales {
    /// Scales that broadcast over a tensor.
    ///
    /// # Errors
    /// `Input` where they are another number than the shape has elements.
    pub fn new(shape: Vec<usize>, values: Vec<f32>) -> Result<Self> {
        if crate::tensor::checked_len(&shape) != Some(values.len()) {
            return Err(Error::input(format!("{} scales do not fill the shape {shape:?}", values.len())));
        }
        Ok(Scales { shape, values })
    }

    /// The shape, of the tensor's rank: 1 but for one axis.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The factors.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    pub(super) fn check(&self, shape: &[usize]) -> Result<()> {
        let axis = Self::axis_of(&self.shape);
        if self.shape != scales_shape(shape, axis) && self.values.len() != 1 {
            let message = format!(
                "scales of shape {:?} do not give one to each index of an axis of {shape:?}",
                self.shape
            );
            return Err(Error::input(message));
        }
        Ok(())
    }

    /// The factor of each element of a tensor of `shape`.
    fn of<'a>(&'a self, shape: &[usize]) -> impl Fn(usize) -> f32 + use<'a> {
        // A scalar has no axis, and one scale.
        let inner: usize = shape.iter().skip(Self::axis_of(&self.shape) + 1).product();
        move |element| self.values[element / inner % self.values.len()]
    }
}

/// Scales and quantised values: element by its index in the dense tensor.
pub(super) fn quantise(values: &[f32], shape: &[usize], axis: usize) -> (Scales, Vec<i8>) {
    let inner: usize = shape[axis + 1..].iter().product();
    let mut largest = vec![0f32; shape[axis]];
    let row = |element: usize| element / inner % shape[axis];
    for (i, v) in values.iter().enumerate() {
        let largest = &mut largest[row(i)];
        *largest = largest.max(v.abs());
    }
    let factors: Vec<f32> = largest.iter().map(|l| l / 127.0).collect();
    let quantised = values.iter().enumerate().map(|(i, &v)| match v == 0.0 {
        true => 0,
        // The cast saturates.
        false => (v / factors[row(i)]).round_ties_even().clamp(-127.0, 127.0) as i8,
    });
    let quantised = quantised.collect();
    (Scales { shape: scales_shape(shape, axis), values: factors }, quantised)
}

/// Checks that values of a type give elements of another.
pub(super) fn check_types(dtype: DType, value_type: DType, scaled: bool) -> Result<()> {
    let fits = match scaled {
        true => value_type == DType::I8 && dtype.is_prunable(),
        false => {
            let whole_bytes = dtype.bits() > 0 && dtype.bits().is_multiple_of(8);
            let widened = value_type == DType::F16 && matches!(dtype, DType::F32 | DType::F64);
            (value_type == dtype && whole_bytes) || widened
        }
    };
    if fits {
        return Ok(());
    }
    let with = if scaled { "with" } else { "without" };
    Err(Error::unsupported(format!("{value_type} values {with} scales do not give elements of {dtype}")))
}

pub(super) fn unpack(packed: &Packed) -> Data {
    let (from, to) = (packed.value_type, packed.dtype);
    if let Some(scales) = &packed.scales {
        let factor = scales.of(&packed.shape);
        let values: Vec<f32> = scatter(packed, |element, [byte]| f32::from(byte as i8) * factor(element));
        return match to {
            DType::F64 => Data::F64(values.iter().map(|&v| v.into()).collect()),
            DType::F16 => Data::F16(values.iter().map(|&v| f16::from_f32(v)).collect()),
            DType::BF16 => Data::BF16(values.iter().map(|&v| bf16::from_f32(v)).collect()),
            _ => Data::F32(values),
        };
    }
    match (from, to) {
        (DType::F16, DType::F32) => Data::F32(scatter(packed, |_, b| f16::from_le_bytes(b).to_f32())),
        (DType::F16, DType::F64) => Data::F64(scatter(packed, |_, b| f16::from_le_bytes(b).to_f64())),
        (_, DType::F32) => Data::F32(scatter(packed, |_, b| f32::from_le_bytes(b))),
        (_, DType::F64) => Data::F64(scatter(packed, |_, b| f64::from_le_bytes(b))),
        (_, DType::F16) => Data::F16(scatter(packed, |_, b| f16::from_le_bytes(b))),
        (_, DType::BF16) => Data::BF16(scatter(packed, |_, b| bf16::from_le_bytes(b))),
        _ => {
            let bytes = dense_bytes(&packed.positions, packed.shape.iter().product(), &packed.values, to);
            decode(to, &packed.shape, &bytes).expect("the bytes fill the shape")
        }
    }
}

fn scatter<T: Element + Default, const N: usize>(
    packed: &Packed,
    value: impl Fn(usize, [u8; N]) -> T,
) -> Vec<T> {
    let mut dense = vec![T::default(); packed.shape.iter().product()];
    let (values, _) = packed.values.as_chunks::<N>();
    packed.positions.for_each(|k, element| dense[element] = value(element, values[k]));
    dense
}

fn dense_bytes(positions: &Positions, len: usize, values: &[u8], dtype: DType) -> Vec<u8> {
    let size = dtype.bits() / 8;
    let mut dense = vec![0; len * size];
    positions.for_each(|k, element| {
        dense[element * size..][..size].copy_from_slice(&values[k * size..][..size]);
    });
    dense
}
