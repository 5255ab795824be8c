//! Vectors of neighbouring outputs in a row, and the inputs of a kernel element.

use super::spec::{Axis, Geometry};
use crate::simd::{MAX_LANES, Simd};
use std::ops::Range;

/// Loads lane i from `p + i · step` where the lane's bit (see [`lane_bits`]) is set; the others are zero.
///
/// # Safety
/// `p + i · step` can be read for every lane i whose bit is set.
#[inline(always)]
pub(crate) unsafe fn load<S: Simd>(s: S, p: *const f32, step: usize, bits: u32) -> S::V {
    // SAFETY: guaranteed by the caller.
    unsafe {
        match step {
            1 => s.load_bits(p, bits),
            2 => s.load_even_bits(p, bits),
            _ => {
                let mut lanes = [0.0; MAX_LANES];
                for (i, x) in lanes.iter_mut().enumerate().take(S::LANES) {
                    if bits >> i & 1 == 1 {
                        *x = *p.wrapping_add(i * step);
                    }
                }
                s.load(lanes.as_ptr())
            }
        }
    }
}

/// The bits of lanes `lanes`, as [`load`] expects them: bit 2 i for lane i if the step is 2, else bit i.
pub(crate) fn lane_bits(lanes: Range<usize>, step: usize) -> u32 {
    if step == 2 {
        lanes.fold(0, |bits, i| bits | 1 << (2 * i))
    } else {
        ((1u32 << lanes.end.max(lanes.start)) - 1) & !((1u32 << lanes.start) - 1)
    }
}

impl Axis {
    /// The `valid` lanes of the vector of outputs that begins at `col`.
    #[inline(always)]
    pub(crate) fn bits(&self, valid: &Range<usize>, col: usize, lanes: usize) -> u32 {
        let lane = |column: usize| column.clamp(col, self.out.min(col + lanes)) - col;
        lane_bits(lane(valid.start)..lane(valid.end), self.stride)
    }
}

impl Geometry {
    /// Whether rows of outputs waste so many lanes of `wide` vectors that `narrow` ones are faster.
    pub(crate) fn prefers_narrow(&self, wide: usize, narrow: usize) -> bool {
        let out = self.axes[2].out;
        6 * out.next_multiple_of(narrow) < 5 * out.next_multiple_of(wide)
    }

    /// The lanes of the vector of outputs that begins at `col` for which kernel column `tap` reads the input.
    pub(crate) fn column_bits(&self, tap: usize, col: usize, lanes: usize) -> u32 {
        let w = self.axes[2];
        w.bits(&w.valid(tap), col, lanes)
    }
}
