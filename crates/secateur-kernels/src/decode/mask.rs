//! Nonzero weights in order, and one bit per weight that tells whether it is nonzero: the smallest layout unless most
//! weights are zero, wherever the zeros are. It needs instructions that expand values to the positions of set bits.

#[cfg(target_arch = "x86_64")]
mod vbmi2;

use super::RowSums;
use super::rows::{ByRow, prefetch_ahead};
use super::value::{BLOCK, Cells, Float, Input, Value};
use crate::simd::{Isa, Simd, sum_lanes};
use std::fmt::Debug;
use std::ops::Range;

#[derive(Debug)]
pub(super) struct Mask<T> {
    /// Words of bits per row.
    words: usize,
    bits: Vec<u64>,
    /// Start of each row's values, and the end of the last row's.
    starts: Vec<usize>,
    values: Cells<T>,
}

impl<T: Value> Mask<T> {
    pub(super) fn new(inputs: usize, weights: &[T]) -> Mask<T> {
        let kept = |w: &&T| **w != T::default();
        let mut bits = vec![];
        let mut starts = vec![0];
        for row in weights.chunks_exact(inputs) {
            bits.extend(row.chunks(BLOCK).map(|block| {
                block.iter().enumerate().fold(0u64, |bits, (i, w)| bits | u64::from(kept(&w)) << i)
            }));
            starts.push(starts[starts.len() - 1] + row.iter().filter(kept).count());
        }
        let mut values = Cells::zeroed(starts[starts.len() - 1]);
        values.as_mut_slice().iter_mut().zip(weights.iter().filter(kept)).for_each(|(to, w)| *to = *w);
        Mask { words: inputs.div_ceil(BLOCK), bits, starts, values }
    }

    /// Bits and values of rows, and the inputs.
    #[inline(always)]
    fn of_rows<const R: usize>(&self, rows: [usize; R]) -> [(*const u64, *const T); R] {
        rows.map(|row| {
            let values = &self.values.as_slice()[self.starts[row]..self.starts[row + 1]];
            (self.bits[row * self.words..][..self.words].as_ptr(), values.as_ptr())
        })
    }
}

impl<T: Masked> ByRow for Mask<T> {
    fn rows(&self) -> usize {
        self.starts.len() - 1
    }

    fn bytes(&self) -> usize {
        size_of_val(&self.bits[..]) + size_of_val(&self.starts[..]) + self.values.bytes()
    }

    #[inline(always)]
    unsafe fn sums<S: Simd, const R: usize>(&self, s: S, rows: [usize; R], x: &Input) -> [f32; R] {
        let x = &T::inputs(x)[..self.words * BLOCK];
        // SAFETY: `of_rows` slices each row's bits and values, which a BLOCK of zeros follows; `x` covers all bits.
        unsafe { T::masked(s, self.of_rows(rows), self.words, x.as_ptr()).map(T::to_f32) }
    }

    fn special(&self, isa: Isa, range: Range<usize>, x: &Input, out: RowSums) -> bool {
        T::special(self, isa, range, x, out)
    }
}

pub(super) trait Masked: Value {
    /// Dot products of rows, given by their bits and values, with the inputs at `x`.
    ///
    /// # Safety
    /// For each row, `words` words of bits can be read, and a BLOCK more values than bits are set. A BLOCK of inputs per
    /// word can be read at `x`.
    unsafe fn masked<S: Simd, const R: usize>(
        s: S,
        rows: [(*const u64, *const Self); R],
        words: usize,
        x: *const Self::X,
    ) -> [Self::Sum; R];

    /// See [`ByRow::special`].
    fn special(_mask: &Mask<Self>, _isa: Isa, _range: Range<usize>, _x: &Input, _out: RowSums) -> bool {
        false
    }
}

impl<T: Float> Masked for T {
    #[inline(always)]
    unsafe fn masked<S: Simd, const R: usize>(
        s: S,
        mut rows: [(*const u64, *const T); R],
        words: usize,
        x: *const f32,
    ) -> [f32; R] {
        let mut sums = [[s.zero(); 2]; R];
        for word in 0..words {
            for ((bits, values), sums) in rows.iter_mut().zip(&mut sums) {
                // SAFETY: guaranteed by the caller.
                let mut bits = unsafe { *bits.add(word) };
                prefetch_ahead(s, *values, BLOCK / 2 * size_of::<T>());
                for i in 0..BLOCK / S::LANES {
                    let some = bits as u32 & ((1u32 << S::LANES) - 1);
                    // SAFETY: guaranteed by the caller.
                    unsafe {
                        let w = s.expand(T::load(s, *values), some);
                        sums[i % 2] = s.fma(w, s.load(x.add(word * BLOCK + i * S::LANES)), sums[i % 2]);
                        *values = values.add(some.count_ones() as usize);
                    }
                    bits >>= S::LANES;
                }
            }
        }
        sums.map(|[a, b]| sum_lanes(s, s.add(a, b)))
    }
}

impl Masked for i8 {
    #[inline(always)]
    unsafe fn masked<S: Simd, const R: usize>(
        _: S,
        rows: [(*const u64, *const i8); R],
        words: usize,
        x: *const i8,
    ) -> [i32; R] {
        rows.map(|(bits, mut values)| {
            let mut sum = 0;
            for word in 0..words {
                // SAFETY: guaranteed by the caller.
                let mut bits = unsafe { *bits.add(word) };
                while bits != 0 {
                    // SAFETY: guaranteed by the caller.
                    unsafe {
                        sum += (*values).times(*x.add(word * BLOCK + bits.trailing_zeros() as usize));
                        values = values.add(1);
                    }
                    bits &= bits - 1;
                }
            }
            sum
        })
    }

    #[cfg(target_arch = "x86_64")]
    fn special(mask: &Mask<i8>, isa: Isa, range: Range<usize>, x: &Input, out: RowSums) -> bool {
        let can = isa.has_byte_vectors();
        if can {
            // SAFETY: `has_byte_vectors` has found the instructions.
            unsafe { vbmi2::run(mask, range, x, out) };
        }
        can
    }
}
