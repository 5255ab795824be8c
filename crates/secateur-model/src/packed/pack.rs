//! Packing a dense tensor.

use half::f16;

use super::layout::starts;
use super::places::{Bitmask, GroupLayout, Groups, Positions};
use super::values::quantise;
use super::{Layout, Packed, ValueType};
use crate::model::encode;
use crate::{DType, Data, Error, Result, Tensor};

/// What rounding values to fewer bits changed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rounding {
    /// The largest |w − ŵ|.
    pub largest_error: f64,
    /// The largest |w|.
    pub largest: f64,
    /// Σ (w − ŵ)².
    pub squared_error: f64,
    /// Σ w².
    pub squared: f64,
    /// Weights that were not zero and are now.
    pub to_zero: usize,
}

impl Rounding {
    /// Between finite elements and what became of them.
    fn between(before: &[f32], after: &[f32]) -> Self {
        let mut found = Rounding::default();
        for (&w, &r) in before.iter().zip(after).filter(|(w, _)| w.is_finite()) {
            let (w, error) = (f64::from(w), f64::from(w) - f64::from(r));
            found.largest_error = found.largest_error.max(error.abs());
            found.largest = found.largest.max(w.abs());
            found.squared_error += error * error;
            found.squared += w * w;
            found.to_zero += usize::from(w != 0.0 && r == 0.0);
        }
        found
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Rounding {
            largest_error: self.largest_error.max(other.largest_error),
            largest: self.largest.max(other.largest),
            squared_error: self.squared_error + other.squared_error,
            squared: self.squared + other.squared,
            to_zero: self.to_zero + other.to_zero,
        }
    }

    /// max |w − ŵ| ÷ max |w|.
    pub fn max_relative(&self) -> f64 {
        if self.largest == 0.0 { 0.0 } else { self.largest_error / self.largest }
    }

    /// √(Σ (w − ŵ)² ÷ Σ w²).
    pub fn rms_relative(&self) -> f64 {
        if self.squared == 0.0 { 0.0 } else { (self.squared_error / self.squared).sqrt() }
    }
}

/// Packs a tensor; also what rounding its values changed. Unrounded, [`Packed::unpack`] gives every bit back, but for the
/// signs of zeros ([`negative_zeros`]).
///
/// # Errors
/// `Unsupported` where the elements are no plain numbers, or some cannot be stored as `values` are
/// ([`ValueType::holds`]); `Usage` where the layout does not fit the tensor.
pub fn pack(tensor: &Tensor, layout: Layout, values: ValueType) -> Result<(Packed, Rounding)> {
    let (dtype, shape) = (tensor.dtype(), tensor.shape().to_vec());
    let kept = kept(tensor)?;
    let (positions, order) = match layout {
        Layout::Bitmask { cols } => bitmask(&kept, cols)?,
        Layout::Groups(layout) => groups(&kept, &shape, layout)?,
    };
    if values.is_exact(dtype) {
        let size = dtype.bits() / 8;
        let dense = encode(tensor.data())?;
        let mut stored = Vec::with_capacity(order.len() * size);
        for &i in &order {
            // Groups with fewer values store zeros too, without the signs that those may have.
            match kept[i] {
                true => stored.extend_from_slice(&dense[i * size..][..size]),
                false => stored.resize(stored.len() + size, 0),
            }
        }
        let packed = Packed::new(dtype, shape, positions, dtype, stored.into(), None)?;
        return Ok((packed, Rounding::default()));
    }
    let before = tensor.to_f32s()?;
    if !values.holds(dtype, &before) {
        return Err(Error::unsupported("values beyond the range of the type they would be stored as"));
    }
    let (stored, scales): (Vec<u8>, _) = match values {
        ValueType::Int8 { axis } => {
            if axis >= shape.len() {
                return Err(Error::usage(format!("the shape {shape:?} has no axis {axis}")));
            }
            let (scales, quantised) = quantise(&before, &shape, axis);
            (order.iter().map(|&i| quantised[i] as u8).collect(), Some(scales))
        }
        _ => {
            // f64 is rounded once, not by way of f32.
            let half = |i: usize| match tensor.data() {
                Data::F64(v) => f16::from_f64(v[i]),
                _ => f16::from_f32(before[i]),
            };
            (order.iter().flat_map(|&i| half(i).to_le_bytes()).collect(), None)
        }
    };
    let packed =
        Packed::new(dtype, shape.clone(), positions, values.stored_type(dtype), stored.into(), scales)?;
    let after = Tensor::from_data(shape, packed.unpack())?.to_f32s()?;
    Ok((packed, Rounding::between(&before, &after)))
}

/// Elements that are −0, as `weight * mask` makes them of negative weights. They are zeros as any others, equal to 0 in
/// every comparison; packed, they become +0.
pub fn negative_zeros(tensor: &Tensor) -> usize {
    match tensor.data() {
        Data::F32(v) => v.iter().filter(|v| v.to_bits() == 1 << 31).count(),
        Data::F64(v) => v.iter().filter(|v| v.to_bits() == 1 << 63).count(),
        Data::F16(v) => v.iter().filter(|v| v.to_bits() == 1 << 15).count(),
        Data::BF16(v) => v.iter().filter(|v| v.to_bits() == 1 << 15).count(),
        _ => 0,
    }
}

/// Which elements are stored: all but zeros, of either sign.
pub(super) fn kept(tensor: &Tensor) -> Result<Vec<bool>> {
    Ok(match tensor.data() {
        Data::F32(v) => v.iter().map(|&v| v != 0.0).collect(),
        Data::F64(v) => v.iter().map(|&v| v != 0.0).collect(),
        Data::F16(v) => v.iter().map(|v| v.to_bits() & 0x7fff != 0).collect(),
        Data::BF16(v) => v.iter().map(|v| v.to_bits() & 0x7fff != 0).collect(),
        data => {
            let size = match data.dtype() {
                DType::String => 0,
                dtype => dtype.bits() / 8,
            };
            if size == 0 {
                return Err(Error::unsupported(format!("elements of {} cannot be packed", data.dtype())));
            }
            encode(data)?.chunks_exact(size).map(|element| element.iter().any(|&b| b != 0)).collect()
        }
    })
}

/// Positions, and the elements in their order.
type Placed = (Positions, Vec<usize>);

fn bitmask(kept: &[bool], cols: usize) -> Result<Placed> {
    if cols == 0 || !kept.len().is_multiple_of(cols) {
        return Err(Error::usage(format!("{} elements are no rows of {cols}", kept.len())));
    }
    let mut bits = Vec::with_capacity(kept.len() / cols * cols.div_ceil(8));
    for row in kept.chunks_exact(cols) {
        bits.extend(
            row.chunks(8)
                .map(|byte| byte.iter().enumerate().fold(0u8, |bits, (i, &kept)| bits | u8::from(kept) << i)),
        );
    }
    let order = (0..kept.len()).filter(|&i| kept[i]).collect();
    Ok((Positions::Bitmask(Bitmask::new(cols, bits.into())?), order))
}

/// Groups with fewer kept elements than `n` store zeros too, the first ones.
fn groups(kept: &[bool], shape: &[usize], layout: GroupLayout) -> Result<Placed> {
    let GroupLayout { n, m, axis } = layout;
    if m == 0 || shape.get(axis).is_none_or(|extent| *extent == 0 || !extent.is_multiple_of(m)) {
        return Err(Error::usage(format!("{n}:{m} along axis {axis} does not divide the shape {shape:?}")));
    }
    let inner: usize = shape[axis + 1..].iter().product();
    let width = layout.index_bits();
    let mut order = Vec::with_capacity(kept.len() / m * n);
    let mut bits = vec![0u8; (kept.len() / m * n * width).div_ceil(8)];
    for start in starts(kept, shape[axis], inner, m) {
        let of = |i: usize| kept[start + i * inner];
        let mut zeros = n.checked_sub((0..m).filter(|&i| of(i)).count()).ok_or_else(|| {
            Error::usage(format!("more than {n} of {m} elements along axis {axis} are not zero"))
        })?;
        for i in 0..m {
            if !of(i) {
                if zeros == 0 {
                    continue;
                }
                zeros -= 1;
            }
            let at = order.len() * width;
            let index = ((i as u16) << (at % 8)).to_le_bytes();
            bits[at / 8] |= index[0];
            if index[1] != 0 {
                bits[at / 8 + 1] |= index[1];
            }
            order.push(start + i * inner);
        }
    }
    Ok((Positions::Groups(Groups::new(layout, shape, bits.into())?), order))
}
