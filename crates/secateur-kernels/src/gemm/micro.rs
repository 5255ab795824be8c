//! The innermost loops of a matrix product: a tile of C held in registers.

use crate::activation::{Activation, apply_in};
use crate::simd::{Kernel, MAX_LANES, Simd};

/// Destination and epilogue of a product; addresses are those of C's element (0, 0).
///
/// Whoever passes it to an unsafe function guarantees that all of C, the biases and the added matrix are valid for the
/// rows and columns computed.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) c: *mut f32,
    /// Distance of C's rows.
    pub(crate) ldc: usize,
    /// Scale of the product.
    pub(crate) alpha: f32,
    /// Scale of C's previous content; C is not read if this is 0.
    pub(crate) beta: f32,
    /// Added at the end, unless null: one value per row,
    pub(crate) row_bias: *const f32,
    /// one per column,
    pub(crate) col_bias: *const f32,
    /// and a matrix with C's layout.
    pub(crate) add: *const f32,
    /// Applied last.
    pub(crate) act: Activation,
}

/// Rows `row..row + rows` and columns `col..col + cols` of C, over one block of the depth.
///
/// A's rows are packed in panels of `MR` (the last one may be narrower), each stored as `k` rows of its width, or read
/// where they lie. The columns are one panel of B (`NR` at most, rounded up to whole vectors), which stays in the first-level cache while A's panels
/// pass by.
///
/// `a` and `b` point to such panels, and this thread alone uses these rows and columns of the target: the kernels rely
/// on it.
#[derive(Clone, Copy)]
pub(crate) struct Block {
    pub(crate) row: usize,
    pub(crate) rows: usize,
    pub(crate) col: usize,
    pub(crate) cols: usize,
    pub(crate) k: usize,
    pub(crate) a: *const f32,
    /// From row to row and along the depth, where A is not packed.
    pub(crate) strides: Option<[usize; 2]>,
    pub(crate) b: *const f32,
    /// Whether this is the first block of the depth (scales C by beta) or the last one (adds and activates).
    pub(crate) first: bool,
    pub(crate) last: bool,
    pub(crate) target: Target,
}

/// At most this many columns beyond whole vectors are computed one by one.
const FEW: usize = 4;

/// Panels of A that single columns are multiplied by at a time, for enough independent sums.
const COLUMN_PANELS: usize = 4;

impl Kernel for Block {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rest = self.cols % S::LANES;
        // Single columns need vectors as wide as A's panels.
        let by_column = S::Narrow::LANES == S::MR && rest <= FEW && self.strides.is_none();
        let columns = if by_column { rest } else { 0 };
        let wide = self.cols - columns;
        if wide > 0 {
            for i in (0..self.rows).step_by(S::MR) {
                self.part(i, S::MR, 0, wide, S::LANES).tile(s);
            }
        }
        if columns > 0 {
            let mut i = 0;
            while i < self.rows {
                let panels = if self.rows - i >= COLUMN_PANELS * S::MR { COLUMN_PANELS } else { 1 };
                let part = self.part(i, panels * S::MR, wide, columns, S::LANES);
                if part.rows == panels * S::MR {
                    part.columns(s, panels);
                } else {
                    part.tile(s);
                }
                i += panels * S::MR;
            }
        }
        if self.last && self.target.act.clamp().is_none() {
            s.call(Finish(self));
        }
    }
}

impl Block {
    /// Up to `rows` rows from `i` on, `cols` columns from `j` on.
    #[inline(always)]
    fn part(&self, i: usize, rows: usize, j: usize, cols: usize, lanes: usize) -> Part {
        let t = &self.target;
        let (row, col) = (self.row + i, self.col + j);
        let offset = |p: *const f32, by: usize| if p.is_null() { p } else { p.wrapping_add(by) };
        let finish = self.last;
        let null = std::ptr::null();
        let ((lo, hi), _) = t.act.clamp_then_rest();
        Part {
            rows: rows.min(self.rows - i),
            cols,
            k: self.k,
            a: self.a.wrapping_add(i * self.strides.map_or(self.k, |[row, _]| row)),
            strides: self.strides,
            b: self.b.wrapping_add(j),
            ldb: self.cols.next_multiple_of(lanes),
            ending: Ending {
                c: t.c.wrapping_add(row * t.ldc + col),
                ldc: t.ldc,
                alpha: t.alpha,
                c_scale: if self.first { t.beta } else { 1.0 },
                row_bias: if finish { offset(t.row_bias, row) } else { null },
                col_bias: if finish { offset(t.col_bias, col) } else { null },
                add: if finish { offset(t.add, row * t.ldc + col) } else { null },
                lo: if finish { lo } else { f32::NEG_INFINITY },
                hi: if finish { hi } else { f32::INFINITY },
            },
        }
    }
}

/// One tile, or a few panels by single columns.
#[derive(Clone, Copy)]
struct Part {
    rows: usize,
    cols: usize,
    k: usize,
    a: *const f32,
    strides: Option<[usize; 2]>,
    b: *const f32,
    ldb: usize,
    ending: Ending,
}

/// Turns sums into elements of C: c = min(max(alpha · sum + c_scale · c + biases + add, lo), hi). Addresses are those of
/// the first row and column; null adds nothing.
#[derive(Clone, Copy)]
pub(crate) struct Ending {
    pub(crate) c: *mut f32,
    pub(crate) ldc: usize,
    pub(crate) alpha: f32,
    pub(crate) c_scale: f32,
    pub(crate) row_bias: *const f32,
    pub(crate) col_bias: *const f32,
    pub(crate) add: *const f32,
    pub(crate) lo: f32,
    pub(crate) hi: f32,
}

impl Ending {
    /// The same, from column `cols` on.
    fn skip(mut self, cols: usize) -> Self {
        self.c = self.c.wrapping_add(cols);
        for p in [&mut self.col_bias, &mut self.add] {
            if !p.is_null() {
                *p = p.wrapping_add(cols);
            }
        }
        self
    }

    /// Prefetches what `rows` × `cols` will access.
    #[inline(always)]
    fn prefetch<S: Simd>(&self, s: S, rows: usize, cols: usize) {
        for r in 0..rows {
            for col in (0..cols + LINE - 1).step_by(LINE) {
                s.prefetch_write(self.c.wrapping_add(r * self.ldc + col));
                if !self.add.is_null() {
                    s.prefetch(self.add.wrapping_add(r * self.ldc + col));
                }
            }
        }
    }

    /// Writes `lanes` columns of row `row`, from `col` on.
    ///
    /// # Safety
    /// `lanes <= S::LANES`. The row and these columns are valid in C, in the biases and in the added matrix, where they
    /// are not null. No other thread uses this part of C.
    #[inline(always)]
    pub(crate) unsafe fn write<S: Simd>(&self, s: S, row: usize, col: usize, lanes: usize, sum: S::V) {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let at = row * self.ldc + col;
            let c = self.c.add(at);
            let mut x = s.mul(s.splat(self.alpha), sum);
            if self.c_scale != 0.0 {
                x = s.fma(s.splat(self.c_scale), s.load_n(c, lanes), x);
            }
            if !self.row_bias.is_null() {
                x = s.add(x, s.splat(*self.row_bias.add(row)));
            }
            if !self.col_bias.is_null() {
                x = s.add(x, s.load_n(self.col_bias.add(col), lanes));
            }
            if !self.add.is_null() {
                x = s.add(x, s.load_n(self.add.add(at), lanes));
            }
            x = s.min(s.splat(self.hi), s.max(s.splat(self.lo), x));
            s.store_n(c, x, lanes);
        }
    }

    /// [`Ending::write`] for `MR` rows of `NV` whole vectors in registers: each step is a separate loop over all of them,
    /// short enough to be unrolled.
    ///
    /// # Safety
    /// As [`Ending::write`], for all of these rows and columns.
    #[inline(always)]
    unsafe fn write_all<S: Simd, const MR: usize, const NV: usize>(&self, s: S, mut sums: [[S::V; NV]; MR]) {
        macro_rules! each {
            (|$sum:ident, $row:ident, $col:ident| $do:expr) => {
                for ($row, row) in sums.iter_mut().enumerate() {
                    for (v, $sum) in row.iter_mut().enumerate() {
                        let $col = v * S::LANES;
                        $do;
                    }
                }
            };
        }
        // SAFETY: guaranteed by the caller.
        unsafe {
            if self.alpha != 1.0 {
                let alpha = s.splat(self.alpha);
                each!(|sum, _r, _c| *sum = s.mul(alpha, *sum));
            }
            if self.c_scale != 0.0 {
                let scale = s.splat(self.c_scale);
                each!(|sum, r, c| *sum = s.fma(scale, s.load(self.c.add(r * self.ldc + c)), *sum));
            }
            if !self.row_bias.is_null() {
                each!(|sum, r, _c| *sum = s.add(*sum, s.splat(*self.row_bias.add(r))));
            }
            if !self.col_bias.is_null() {
                each!(|sum, _r, c| *sum = s.add(*sum, s.load(self.col_bias.add(c))));
            }
            if !self.add.is_null() {
                each!(|sum, r, c| *sum = s.add(*sum, s.load(self.add.add(r * self.ldc + c))));
            }
            if (self.lo, self.hi) != (f32::NEG_INFINITY, f32::INFINITY) {
                let (lo, hi) = (s.splat(self.lo), s.splat(self.hi));
                each!(|sum, _r, _c| *sum = s.min(hi, s.max(lo, *sum)));
            }
            each!(|sum, r, c| s.store(self.c.add(r * self.ldc + c), *sum));
        }
    }
}

/// f32 values per cache line.
const LINE: usize = 16;

/// Distance at which A's values are prefetched: a network's weights are in no near cache when they are needed.
const PREFETCH_BYTES: usize = 4096;

/// Vectors along C's rows: `MR` rows of `NV` vectors. A's values are those of a panel, or `STRIDED`.
struct Tile<const MR: usize, const NV: usize, const STRIDED: bool>(Part);

impl<const MR: usize, const NV: usize, const STRIDED: bool> Kernel for Tile<MR, NV, STRIDED> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let t = self.0;
        t.ending.prefetch(s, MR, t.cols);
        let mut acc = [[s.zero(); NV]; MR];
        let (mut a, mut b) = (t.a, t.b);
        let [row_step, step] = if STRIDED { t.strides.unwrap_or([1, MR]) } else { [1, MR] };
        for _ in 0..t.k {
            if !STRIDED {
                s.prefetch(a.wrapping_byte_add(PREFETCH_BYTES));
            }
            // SAFETY: A has k times MR values at these steps, B's panel k rows of ldb >= NV · LANES values.
            unsafe {
                let mut bv = [s.zero(); NV];
                for (v, x) in bv.iter_mut().enumerate() {
                    *x = s.load(b.add(v * S::LANES));
                }
                for (r, row) in acc.iter_mut().enumerate() {
                    let av = s.splat(*a.add(r * row_step));
                    for (x, &bx) in row.iter_mut().zip(&bv) {
                        *x = s.fma(av, bx, *x);
                    }
                }
                // Behind the last value of a matrix there may be nothing.
                a = a.wrapping_add(step);
                b = b.add(t.ldb);
            }
        }
        // SAFETY: the part's rows and columns are valid in the target, and only this thread uses them (see `Block`).
        unsafe {
            if t.cols == NV * S::LANES {
                return t.ending.write_all(s, acc);
            }
            // Through memory: indexing the accumulators themselves would keep them there during the sums as well.
            let mut sums = [[[0.0f32; MAX_LANES]; NV]; MR];
            for (to, from) in sums.iter_mut().zip(&acc) {
                for (to, &from) in to.iter_mut().zip(from) {
                    s.store(to.as_mut_ptr(), from);
                }
            }
            for (r, row) in sums.iter().enumerate() {
                for (v, sums) in row.iter().enumerate() {
                    let lanes = S::LANES.min(t.cols - v * S::LANES);
                    t.ending.write(s, r, v * S::LANES, lanes, s.load(sums.as_ptr()));
                }
            }
        }
    }
}

/// Vectors along C's columns: `NP` panels of `LANES` rows, `NC` columns.
struct ColumnTile<const NP: usize, const NC: usize>(Part);

impl<const NP: usize, const NC: usize> Kernel for ColumnTile<NP, NC> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let t = self.0;
        let mut acc = [[s.zero(); NC]; NP];
        let (mut a, mut b) = (t.a, t.b);
        for _ in 0..t.k {
            // SAFETY: the panels hold k rows of LANES values of A and of ldb >= NC values of B.
            unsafe {
                let mut bv = [s.zero(); NC];
                for (c, x) in bv.iter_mut().enumerate() {
                    *x = s.splat(*b.add(c));
                }
                for (p, row) in acc.iter_mut().enumerate() {
                    let av = s.load(a.add(p * t.k * S::LANES));
                    for (x, &bx) in row.iter_mut().zip(&bv) {
                        *x = s.fma(av, bx, *x);
                    }
                }
                a = a.add(S::LANES);
                b = b.add(t.ldb);
            }
        }
        let mut sums = [[[0.0f32; MAX_LANES]; NC]; NP];
        for (to, from) in sums.iter_mut().zip(&acc) {
            for (to, &from) in to.iter_mut().zip(from) {
                // SAFETY: LANES <= MAX_LANES.
                unsafe { s.store(to.as_mut_ptr(), from) };
            }
        }
        for r in 0..NP * S::LANES {
            let mut row = [0.0; MAX_LANES];
            for (x, column) in row.iter_mut().zip(&sums[r / S::LANES]) {
                *x = column[r % S::LANES];
            }
            // SAFETY: the part's rows and columns are valid in the target, and only this thread uses them (see `Block`).
            unsafe { t.ending.write(s, r, 0, NC, s.load(row.as_ptr())) };
        }
    }
}

impl Part {
    /// Computes it with vectors along rows; a last vector that a narrower one can hold is computed with that one.
    #[inline(always)]
    fn tile<S: Simd>(self, s: S) {
        let vectors = self.cols.div_ceil(S::LANES);
        let whole = (vectors - 1) * S::LANES;
        if S::Narrow::LANES < S::LANES && self.cols - whole <= S::Narrow::LANES {
            if whole > 0 {
                Part { cols: whole, ..self }.tile_of(s, vectors - 1);
            }
            let rest = Part {
                cols: self.cols - whole,
                b: self.b.wrapping_add(whole),
                ending: self.ending.skip(whole),
                ..self
            };
            rest.tile_of(s.narrow(), 1);
        } else {
            self.tile_of(s, vectors);
        }
    }

    #[inline(always)]
    fn tile_of<S: Simd>(self, s: S, vectors: usize) {
        macro_rules! pick {
            ($strided:literal: $($mr:literal),*) => {
                match self.rows {
                    $($mr => match vectors {
                        1 => s.call(Tile::<$mr, 1, $strided>(self)),
                        2 => s.call(Tile::<$mr, 2, $strided>(self)),
                        _ => s.call(Tile::<$mr, 3, $strided>(self)),
                    },)*
                    _ => unreachable!("a tile has 1 to 8 rows"),
                }
            };
        }
        match self.strides {
            None => pick!(false: 1, 2, 3, 4, 5, 6, 7, 8),
            Some(_) => pick!(true: 1, 2, 3, 4, 5, 6, 7, 8),
        }
    }

    /// Computes `panels` whole panels with vectors along columns.
    #[inline(always)]
    fn columns<S: Simd>(self, s: S, panels: usize) {
        let s = s.narrow();
        match (panels, self.cols) {
            (COLUMN_PANELS, 1) => s.call(ColumnTile::<COLUMN_PANELS, 1>(self)),
            (COLUMN_PANELS, 2) => s.call(ColumnTile::<COLUMN_PANELS, 2>(self)),
            (COLUMN_PANELS, 3) => s.call(ColumnTile::<COLUMN_PANELS, 3>(self)),
            (COLUMN_PANELS, _) => s.call(ColumnTile::<COLUMN_PANELS, FEW>(self)),
            (_, 1) => s.call(ColumnTile::<1, 1>(self)),
            (_, 2) => s.call(ColumnTile::<1, 2>(self)),
            (_, 3) => s.call(ColumnTile::<1, 3>(self)),
            _ => s.call(ColumnTile::<1, FEW>(self)),
        }
    }
}

/// Applies activations that are not clamps to a finished block.
struct Finish(Block);

impl Kernel for Finish {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (b, t) = (self.0, self.0.target);
        for r in b.row..b.row + b.rows {
            // SAFETY: the block's rows and columns are valid in C, and no other thread uses them (see `Block`).
            let row = unsafe { std::slice::from_raw_parts_mut(t.c.add(r * t.ldc + b.col), b.cols) };
            apply_in(s, t.act, row);
        }
    }
}
