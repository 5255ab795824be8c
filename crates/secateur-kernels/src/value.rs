//! What weights are stored as.

/// How the weights of a layer are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// Single precision.
    F32,
    /// Half precision, multiplied and summed in single precision.
    F16,
    /// Bytes with a scale for each output.
    Int8,
}

/// The largest magnitude; NaN if there is one.
#[inline(always)]
pub(crate) fn largest(x: &[f32]) -> f32 {
    // Magnitudes are in the order of their bits, and NaN is above all.
    let magnitude = |v: &f32| v.to_bits() & (u32::MAX >> 1);
    f32::from_bits(x.iter().map(magnitude).fold(0, u32::max))
}

/// What a byte counts where ±127 are ±`largest`.
pub(crate) fn byte_scale(largest: f32) -> f32 {
    largest / 127.0
}

/// The nearest byte to `v` where ±127 are ±`largest`; 0 for 0, and for all where `largest` is not finite: what the
/// bytes count makes NaN of them.
#[inline(always)]
pub(crate) fn to_byte(v: f32, largest: f32) -> i8 {
    // The quotient first: 127 / largest overflows where largest is tiny. NaN becomes 0.
    if largest > 0.0 { (v / largest * 127.0).round_ties_even() as i8 } else { 0 }
}
