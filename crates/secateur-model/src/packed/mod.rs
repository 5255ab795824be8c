//! Packed weights: the places of what is not zero, and the values that stand there.
//!
//! Zeros cost a bit each ([`Positions::Bitmask`]), or less where they stand in groups ([`Positions::Groups`],
//! N:M); values are kept as they are, as f16, or as int8 with scales. Only +0 is a zero: −0 and NaN are stored
//! with all their bits, so that packing without rounding is exact. The bitmask's layout is that of the format
//! `sparse-bitmask` of compressed-tensors.

mod cache;
mod layout;
mod pack;
mod parts;
mod places;
#[cfg(test)]
mod tests;
mod values;

use bytes::Bytes;

pub(crate) use cache::PackedCache;
pub use layout::{Choice, Layout, Spec};
pub use pack::{Rounding, negative_zeros, pack};
pub use parts::Part;
pub use places::{Bitmask, GroupLayout, Groups, Positions};
pub use values::{Scales, ValueType};

use crate::tensor::checked_len;
use crate::{DType, Data, Error, Result};

/// A tensor whose zeros take next to no room. Made by [`pack`], or from parts of a file by [`Packed::new`];
/// either way its parts fit together.
#[derive(Clone, Debug)]
pub struct Packed {
    dtype: DType,
    shape: Vec<usize>,
    positions: Positions,
    value_type: DType,
    values: Bytes,
    scales: Option<Scales>,
}

impl Packed {
    /// A packed tensor from its parts, which are checked against each other: `dtype` and `shape` are those of
    /// the dense tensor, `values` are of type `value_type`, little-endian, in the order of the positions.
    /// Nothing of the dense tensor's size is allocated.
    ///
    /// # Errors
    /// `Input` where the positions do not fit the shape, or are another number than the values; where the
    /// types do not go together; where the scales do not fit the shape.
    pub fn new(
        dtype: DType,
        shape: Vec<usize>,
        positions: Positions,
        value_type: DType,
        values: Bytes,
        scales: Option<Scales>,
    ) -> Result<Self> {
        let len = checked_len(&shape).filter(|&n| n > 0).ok_or_else(|| {
            Error::input(format!("a packed tensor cannot have the shape {shape:?}: empty, or too large"))
        })?;
        let stored = positions.check(len, &shape)?;
        values::check_types(dtype, value_type, scales.is_some())?;
        let expected = value_type.bytes_for(stored);
        if expected != Some(values.len()) {
            let found = values.len() / (value_type.bits() / 8).max(1);
            let message = format!("the positions say {stored} values, but {found} {value_type} are there");
            return Err(Error::input(message));
        }
        if let Some(scales) = &scales {
            scales.check(&shape)?;
        }
        Ok(Packed { dtype, shape, positions, value_type, values, scales })
    }

    /// The element type of the dense tensor.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The shape of the dense tensor.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Where the values stand.
    pub fn positions(&self) -> &Positions {
        &self.positions
    }

    /// The element type of the stored values: the dense tensor's, f16 or i8.
    pub fn value_type(&self) -> DType {
        self.value_type
    }

    /// The stored values, little-endian, in the order of [`Packed::positions`].
    pub fn values(&self) -> &Bytes {
        &self.values
    }

    /// The scales by which int8 values are multiplied.
    pub fn scales(&self) -> Option<&Scales> {
        self.scales.as_ref()
    }

    /// The number of stored values; some of N:M's may be zeros.
    pub fn stored(&self) -> usize {
        self.values.len() / (self.value_type.bits() / 8)
    }

    /// What there is to know without the values.
    pub fn spec(&self) -> Spec {
        Spec {
            dtype: self.dtype,
            shape: self.shape.clone(),
            layout: self.positions.layout(),
            value_type: self.value_type,
            stored: self.stored(),
            scales: self.scales.as_ref().map(|s| s.shape().to_vec()),
        }
    }

    /// The bytes that all parts take, in a file and in memory.
    pub fn byte_len(&self) -> usize {
        self.spec().byte_len()
    }

    /// Whether another packed tensor has the same parts, bit for bit.
    pub(crate) fn holds_the_same(&self, other: &Packed) -> bool {
        let (spec, others) = (self.spec(), other.spec());
        let same = |part: Part| self.part(part) == other.part(part);
        spec.parts() == others.parts() && spec.parts().into_iter().all(|(part, ..)| same(part))
    }

    /// The dense elements.
    pub fn unpack(&self) -> Data {
        values::unpack(self)
    }
}
