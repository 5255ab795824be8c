//! All weights, including zeros.

use super::rows::{ByRow, prefetch_ahead};
use super::value::{BLOCK, Cells, Float, Input, Value};
use crate::simd::{Simd, sum_lanes};
use std::fmt::Debug;

/// Rows of a multiple of [`BLOCK`] values.
#[derive(Debug)]
pub(super) struct Dense<T> {
    rows: usize,
    stride: usize,
    values: Cells<T>,
}

impl<T: Value> Dense<T> {
    pub(super) fn new(inputs: usize, weights: &[T]) -> Dense<T> {
        let (rows, stride) = (weights.len() / inputs, inputs.next_multiple_of(BLOCK));
        let mut values = Cells::zeroed(rows * stride);
        for (to, from) in values.as_mut_slice().chunks_exact_mut(stride).zip(weights.chunks_exact(inputs)) {
            to[..inputs].copy_from_slice(from);
        }
        Dense { rows, stride, values }
    }
}

impl<T: Dot> ByRow for Dense<T> {
    fn rows(&self) -> usize {
        self.rows
    }

    fn bytes(&self) -> usize {
        self.values.bytes()
    }

    #[inline(always)]
    unsafe fn sums<S: Simd, const R: usize>(&self, s: S, rows: [usize; R], x: &Input) -> [f32; R] {
        let w = rows.map(|row| self.values.as_slice()[row * self.stride..].as_ptr());
        let x = &T::inputs(x)[..self.stride];
        // SAFETY: a row is `stride` long, a multiple of BLOCK, and so are the inputs.
        unsafe { T::dot(s, w, x.as_ptr(), self.stride).map(T::to_f32) }
    }
}

pub(super) trait Dot: Value {
    /// Dot products of `n` values of each row with those at `x`.
    ///
    /// # Safety
    /// `n`, a multiple of [`BLOCK`], values can be read at each of `w` and at `x`.
    unsafe fn dot<S: Simd, const R: usize>(
        s: S,
        w: [*const Self; R],
        x: *const Self::X,
        n: usize,
    ) -> [Self::Sum; R];
}

impl<T: Float> Dot for T {
    #[inline(always)]
    unsafe fn dot<S: Simd, const R: usize>(s: S, w: [*const T; R], x: *const f32, n: usize) -> [f32; R] {
        /// Vectors of a row at a time, a cache line or two.
        const VECTORS: usize = 4;
        let mut sums = [[s.zero(); 2]; R];
        let mut i = 0;
        while i < n {
            for w in w {
                prefetch_ahead(s, w.wrapping_add(i), VECTORS * S::LANES * size_of::<T>());
            }
            for k in 0..VECTORS {
                let at = i + k * S::LANES;
                // SAFETY: guaranteed by the caller; VECTORS vectors divide a BLOCK.
                unsafe {
                    let x = s.load(x.add(at));
                    for r in 0..R {
                        sums[r][k % 2] = s.fma(T::load(s, w[r].add(at)), x, sums[r][k % 2]);
                    }
                }
            }
            i += VECTORS * S::LANES;
        }
        sums.map(|[a, b]| sum_lanes(s, s.add(a, b)))
    }
}

impl Dot for i8 {
    #[inline(always)]
    unsafe fn dot<S: Simd, const R: usize>(s: S, w: [*const i8; R], x: *const i8, n: usize) -> [i32; R] {
        let mut sums = [s.zero_sums(); R];
        for i in (0..n).step_by(BLOCK) {
            for (sums, w) in sums.iter_mut().zip(w) {
                prefetch_ahead(s, w.wrapping_add(i), BLOCK);
                for at in [i, i + 32] {
                    // SAFETY: guaranteed by the caller.
                    unsafe { *sums = s.add_bytes(*sums, w.add(at), x.add(at)) };
                }
            }
        }
        sums.map(|sums| s.sums_to_array(sums).iter().sum())
    }
}
