//! Weights stored row by row: several rows at a time, as parallel streams.

use super::value::Input;
use super::{PackedRows, RowSums};
use crate::simd::{Isa, Kernel, Simd};
use std::fmt::Debug;
use std::ops::Range;

/// Rows at a time. A core reads several streams faster than one.
pub(super) const STREAMS: usize = 4;

/// Distance at which weights are prefetched.
pub(super) const PREFETCH_BYTES: usize = 2048;

/// Prefetches the weights [`PREFETCH_BYTES`] after the `bytes` at `p`.
#[inline(always)]
pub(super) fn prefetch_ahead<S: Simd, T>(s: S, p: *const T, bytes: usize) {
    prefetch_lines(p, bytes, |p| s.prefetch(p.cast()));
}

/// As [`prefetch_ahead`], with `prefetch` for each cache line.
#[inline(always)]
pub(super) fn prefetch_lines<T>(p: *const T, bytes: usize, prefetch: impl Fn(*const T)) {
    const LINE: usize = 64;
    for line in 0..bytes.div_ceil(LINE) {
        prefetch(p.wrapping_byte_add(PREFETCH_BYTES + line * LINE));
    }
}

pub(super) trait ByRow: Debug + Send + Sync {
    fn rows(&self) -> usize;
    fn bytes(&self) -> usize;

    /// Dot products of rows with the inputs.
    ///
    /// # Safety
    /// `rows` are below [`ByRow::rows`], and `x` holds the layer's inputs in the form of its weights.
    unsafe fn sums<S: Simd, const R: usize>(&self, s: S, rows: [usize; R], x: &Input) -> [f32; R];

    /// Computes all sums of `range` and returns true if this instruction set has a faster way than [`ByRow::sums`].
    fn special(&self, _isa: Isa, _range: Range<usize>, _x: &Input, _out: RowSums) -> bool {
        false
    }
}

impl<F: ByRow> PackedRows for F {
    fn bytes(&self) -> usize {
        ByRow::bytes(self)
    }

    fn parts(&self) -> usize {
        self.rows()
    }

    fn run(&self, isa: Isa, parts: Range<usize>, x: &Input, out: RowSums) {
        assert!(parts.end <= self.rows());
        if !self.special(isa, parts.clone(), x, out) {
            isa.run(Streams { form: self, rows: parts, x, out });
        }
    }
}

struct Streams<'a, F> {
    form: &'a F,
    rows: Range<usize>,
    x: &'a Input<'a>,
    out: RowSums<'a>,
}

impl<F: ByRow> Kernel for Streams<'_, F> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Streams { form, rows, x, out } = self;
        let (streams, rest) = streams(rows);
        for at in streams {
            // SAFETY: `run` has checked the range, and ranges have disjoint rows.
            unsafe { form.sums(s, at, x).into_iter().zip(at).for_each(|(sum, row)| out.write(row, sum)) }
        }
        for row in rest {
            // SAFETY: as above.
            unsafe { out.write(row, form.sums(s, [row], x)[0]) }
        }
    }
}

/// Rows in [`STREAMS`] streams that begin a quarter of the range apart, and the remaining rows.
pub(super) fn streams(rows: Range<usize>) -> (impl Iterator<Item = [usize; STREAMS]>, Range<usize>) {
    let (start, quarter) = (rows.start, rows.len() / STREAMS);
    let streams = (0..quarter).map(move |i| std::array::from_fn(|k| start + k * quarter + i));
    (streams, start + STREAMS * quarter..rows.end)
}
