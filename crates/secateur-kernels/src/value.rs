//! Storage types of weights.

use crate::simd::{Isa, Kernel, Simd};

/// How the weights of a layer are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// Single precision.
    F32,
    /// Half precision, multiplied and summed in single precision.
    F16,
    /// Bytes with a scale per output.
    Int8,
}

/// Rounds `x` to bytes, with ±127 for ± the largest magnitude, and returns that magnitude; NaN if `x` has one. All bytes are 0
/// if it is not finite, and the scale then makes them NaN.
pub(crate) fn to_bytes(isa: Isa, x: &[f32], bytes: &mut [i8]) -> f32 {
    isa.run(ToBytes { x, bytes })
}

struct ToBytes<'a> {
    x: &'a [f32],
    bytes: &'a mut [i8],
}

impl Kernel for ToBytes<'_> {
    type Output = f32;
    // Plain loops, which are vectorised for the instruction set that this is inlined into.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> f32 {
        // Magnitudes order like their bits, with NaN above all.
        let magnitude = |v: &f32| v.to_bits() & (u32::MAX >> 1);
        let largest = f32::from_bits(self.x.iter().map(magnitude).fold(0, u32::max));
        // The quotient first, because 127 / largest overflows for a tiny largest. NaN becomes 0.
        let byte = |v: f32| if largest > 0.0 { (v / largest * 127.0).round_ties_even() as i8 } else { 0 };
        self.bytes.iter_mut().zip(self.x).for_each(|(b, v)| *b = byte(*v));
        largest
    }
}

/// Scale of bytes with ±127 for ±`largest`.
pub(crate) fn byte_scale(largest: f32) -> f32 {
    largest / 127.0
}
