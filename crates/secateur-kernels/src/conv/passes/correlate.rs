//! Sums of products of rows of gradients with shifted rows of inputs.

use super::plan::row_block;
use crate::simd::{Kernel, MAX_LANES, Simd, sum_lanes};

/// Inputs, each under one kernel element, that are correlated together.
const TAPS: usize = 3;

/// Elements that are summed in one vector before they go into the sum of a weight: longer sums lose precision.
const SEGMENT: usize = 1 << 11;

/// dw\[o, j\] += Σ over i of gradient\[o, i\] · input\[place(j) + i\].
pub(super) struct Correlation<'a> {
    pub(super) inputs: &'a [f32],
    pub(super) gradients: &'a [f32],
    pub(super) places: &'a [usize],
    pub(super) pitch: usize,
    pub(super) dw: &'a mut [f32],
}

impl Kernel for Correlation<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        assert!(self.pitch.is_multiple_of(MAX_LANES), "rows of whole vectors");
        let rows = self.gradients.len() / self.pitch;
        let mut row = 0;
        while row < rows {
            let block = row_block(S::LANES, rows - row);
            match block {
                8 => s.call(Rows::<8>(&mut self, row)),
                4 => s.call(Rows::<4>(&mut self, row)),
                2 => s.call(Rows::<2>(&mut self, row)),
                _ => s.call(Rows::<1>(&mut self, row)),
            }
            row += block;
        }
    }
}

/// [`Correlation`] of `R` outputs from a row on.
struct Rows<'a, 'b, const R: usize>(&'a mut Correlation<'b>, usize);

impl<const R: usize> Kernel for Rows<'_, '_, R> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Rows(all, row) = self;
        let depth = all.places.len();
        let mut weight = 0;
        while weight + TAPS <= depth {
            all.block::<S, R, TAPS>(s, row, weight);
            weight += TAPS;
        }
        while weight < depth {
            all.block::<S, R, 1>(s, row, weight);
            weight += 1;
        }
    }
}

impl Correlation<'_> {
    /// The sums of `R` outputs from `row` on and of `T` weights.
    ///
    /// Arrays are walked through by indices: loops over iterators of this many registers are not unrolled.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)]
    fn block<S: Simd, const R: usize, const T: usize>(&mut self, s: S, row: usize, weight: usize) {
        let Correlation { inputs, gradients, places, pitch, .. } = *self;
        assert!((row + R) * pitch <= gradients.len());
        let mut x = [inputs.as_ptr(); T];
        for t in 0..T {
            let at = places[weight + t];
            assert!(at + pitch <= inputs.len(), "an input ends early");
            x[t] = x[t].wrapping_add(at);
        }
        let g = gradients[row * pitch..].as_ptr();
        let mut totals = [[0f32; T]; R];
        let (mut i, mut end) = (0, 0);
        while i < pitch {
            end = pitch.min(end + SEGMENT);
            let mut sums = [[s.zero(); T]; R];
            while i < end {
                // SAFETY: whole vectors of a row lie in its gradient and, from each place on, in the inputs, by the assertions.
                unsafe {
                    let mut values = [s.zero(); T];
                    for t in 0..T {
                        values[t] = s.load(x[t].add(i));
                    }
                    for r in 0..R {
                        let d = s.load(g.add(r * pitch + i));
                        for t in 0..T {
                            sums[r][t] = s.fma(d, values[t], sums[r][t]);
                        }
                    }
                }
                i += S::LANES;
            }
            for r in 0..R {
                for t in 0..T {
                    totals[r][t] += sum_lanes(s, sums[r][t]);
                }
            }
        }
        for r in 0..R {
            for t in 0..T {
                self.dw[(row + r) * places.len() + weight + t] += totals[r][t];
            }
        }
    }
}
