//! Products of a few rows with a matrix in memory: each value of the matrix is used so few times that packing it would
//! cost more than the product.

use super::MatRef;
use super::micro::Ending;
use crate::simd::{Kernel, Simd, sum_lanes};
use crate::size;
use std::ops::Range;

/// Most rows that are computed this way.
pub(crate) const MAX_ROWS: usize = 4;

/// Columns of a part, whose sums stay in the first-level cache.
pub(crate) const COLUMNS: usize = 1024;

/// Rows of the right operand that are read in parallel streams.
const STREAMS: usize = 8;

/// Vectors of columns at a time, or columns at a time where sums run along vectors.
const WIDTH: usize = 4;

/// Columns `cols` of a product of `rows` (at most [`MAX_ROWS`]) rows.
pub(crate) struct FewRows<'a> {
    pub(crate) rows: usize,
    pub(crate) depth: usize,
    pub(crate) cols: Range<usize>,
    /// The left operand, row-major and contiguous.
    pub(crate) a: &'a [f32],
    /// The right operand, with contiguous rows or contiguous columns.
    pub(crate) b: MatRef<'a>,
    /// For row 0 and column 0; this thread alone uses the part's columns of C.
    pub(crate) ending: Ending,
    /// Scratch memory for the sums: `rows` × [`COLUMNS`].
    pub(crate) sums: &'a mut [f32],
}

impl Kernel for FewRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        assert!(self.cols.len() <= COLUMNS && self.sums.len() >= size::of(&[self.rows, COLUMNS]));
        assert!(self.a.len() >= size::of(&[self.rows, self.depth]));
        self.b.check(self.depth, self.cols.end, "right operand");
        match self.rows {
            1 => s.call(FewRowsOf::<1>(self)),
            2 => s.call(FewRowsOf::<2>(self)),
            3 => s.call(FewRowsOf::<3>(self)),
            _ => s.call(FewRowsOf::<MAX_ROWS>(self)),
        }
    }
}

struct FewRowsOf<'a, const M: usize>(FewRows<'a>);

impl<const M: usize> Kernel for FewRowsOf<'_, M> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        if self.0.b.col_stride == 1 {
            self.along_rows(s);
        } else {
            self.along_columns(s);
        }
        let FewRows { cols, ending, sums, .. } = self.0;
        for r in 0..M {
            for j in (0..cols.len()).step_by(S::LANES) {
                let lanes = S::LANES.min(cols.len() - j);
                // SAFETY: a row has COLUMNS >= cols.len() sums, and this thread alone uses these columns of C.
                unsafe {
                    ending.write(
                        s,
                        r,
                        cols.start + j,
                        lanes,
                        s.load_n(sums.as_ptr().add(r * COLUMNS + j), lanes),
                    )
                };
            }
        }
    }
}

impl<const M: usize> FewRowsOf<'_, M> {
    /// Adds multiples of the right operand's rows to the sums.
    #[inline(always)]
    fn along_rows<S: Simd>(&mut self, s: S) {
        let n = self.0.cols.len();
        self.0.sums[..M * COLUMNS].fill(0.0);
        for k0 in (0..self.0.depth).step_by(STREAMS) {
            let k1 = self.0.depth.min(k0 + STREAMS);
            let mut j = 0;
            while j < n {
                j += if n - j >= WIDTH * S::LANES {
                    self.add_rows::<S, WIDTH>(s, k0..k1, j, S::LANES)
                } else {
                    self.add_rows::<S, 1>(s, k0..k1, j, S::LANES.min(n - j))
                };
            }
        }
    }

    /// Adds rows `depth` to `NV` vectors of sums, the last of `lanes` columns; returns the number of columns.
    #[inline(always)]
    fn add_rows<S: Simd, const NV: usize>(
        &mut self,
        s: S,
        depth: Range<usize>,
        j: usize,
        lanes: usize,
    ) -> usize {
        let FewRows { a, b, sums, cols, depth: k, .. } = &mut self.0;
        let at = |v: usize| v * S::LANES;
        let width = |v: usize| if v + 1 == NV { lanes } else { S::LANES };
        // SAFETY: `run` checks that all columns lie in the sums and in the matrix's rows.
        unsafe {
            let sums = sums.as_mut_ptr().add(j);
            let mut acc = [[s.zero(); NV]; M];
            for (r, acc) in acc.iter_mut().enumerate() {
                for (v, acc) in acc.iter_mut().enumerate() {
                    *acc = s.load_n(sums.add(r * COLUMNS + at(v)), width(v));
                }
            }
            for p in depth {
                let row = b.data.as_ptr().add(p * b.row_stride + cols.start + j);
                let mut x = [s.zero(); NV];
                for (v, x) in x.iter_mut().enumerate() {
                    *x = s.load_n(row.add(at(v)), width(v));
                }
                for (r, acc) in acc.iter_mut().enumerate() {
                    let w = s.splat(*a.as_ptr().add(r * *k + p));
                    for (acc, &x) in acc.iter_mut().zip(&x) {
                        *acc = s.fma(w, x, *acc);
                    }
                }
            }
            for (r, acc) in acc.iter().enumerate() {
                for (v, &acc) in acc.iter().enumerate() {
                    s.store_n(sums.add(r * COLUMNS + at(v)), acc, width(v));
                }
            }
        }
        (NV - 1) * S::LANES + lanes
    }

    /// Multiplies the rows by the right operand's columns, each contiguous.
    #[inline(always)]
    fn along_columns<S: Simd>(&mut self, s: S) {
        let n = self.0.cols.len();
        let mut j = 0;
        while j < n {
            j += if n - j >= WIDTH { self.dot::<S, WIDTH>(s, j) } else { self.dot::<S, 1>(s, j) };
        }
    }

    /// The sums of `NC` columns from `j` on.
    #[inline(always)]
    fn dot<S: Simd, const NC: usize>(&mut self, s: S, j: usize) -> usize {
        let FewRows { a, b, sums, cols, depth, .. } = &mut self.0;
        let depth = *depth;
        let mut acc = [[s.zero(); NC]; M];
        let mut p = 0;
        while p < depth {
            let lanes = S::LANES.min(depth - p);
            // SAFETY: `lanes` values remain of each row and, as `run` checks, of each column.
            unsafe {
                let mut x = [s.zero(); NC];
                for (c, x) in x.iter_mut().enumerate() {
                    *x = s.load_n(b.data.as_ptr().add((cols.start + j + c) * b.col_stride + p), lanes);
                }
                for (r, acc) in acc.iter_mut().enumerate() {
                    let w = s.load_n(a.as_ptr().add(r * depth + p), lanes);
                    for (acc, &x) in acc.iter_mut().zip(&x) {
                        *acc = s.fma(w, x, *acc);
                    }
                }
            }
            p += S::LANES;
        }
        for (r, acc) in acc.iter().enumerate() {
            for (c, &acc) in acc.iter().enumerate() {
                sums[r * COLUMNS + j + c] = sum_lanes(s, acc);
            }
        }
        NC
    }
}
