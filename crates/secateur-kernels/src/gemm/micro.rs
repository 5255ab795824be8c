//! The innermost loops of a matrix product: a tile of C held in registers.

use crate::activation::{Activation, apply_in};
use crate::simd::{Kernel, Simd};

/// Where products go and what is done to them; addresses are those of C's element (0, 0).
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) c: *mut f32,
    /// Distance of C's rows.
    pub(crate) ldc: usize,
    /// Factor of the product.
    pub(crate) alpha: f32,
    /// Factor of what C holds; C isn't read where it's 0.
    pub(crate) beta: f32,
    /// Added at the end, where not null: one value for each row,
    pub(crate) row_bias: *const f32,
    /// one for each column,
    pub(crate) col_bias: *const f32,
    /// and a matrix laid out as C.
    pub(crate) add: *const f32,
    /// Applied last.
    pub(crate) act: Activation,
}

/// Rows `row..row + rows` and columns `col..col + cols` of C, over one block of the depth.
///
/// The operands lie in panels: `MR` rows of A (the last panel has what is left) and `NR` columns of B (the last
/// panel has what is left, rounded up to whole vectors), each panel as `k` rows of its width.
#[derive(Clone, Copy)]
pub(crate) struct Block {
    pub(crate) row: usize,
    pub(crate) rows: usize,
    pub(crate) col: usize,
    pub(crate) cols: usize,
    pub(crate) k: usize,
    pub(crate) a: *const f32,
    pub(crate) b: *const f32,
    /// The first block of the depth (scales C by beta) and the last one (adds and activates).
    pub(crate) first: bool,
    pub(crate) last: bool,
    /// Which operand's panel stays in the first-level cache while the other's pass by.
    pub(crate) hold_b: bool,
    pub(crate) target: Target,
}

impl Kernel for Block {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let nr = S::NV * S::LANES;
        if self.hold_b {
            for j in (0..self.cols).step_by(nr) {
                for i in (0..self.rows).step_by(S::MR) {
                    self.tile(s, i, j);
                }
            }
        } else {
            for i in (0..self.rows).step_by(S::MR) {
                for j in (0..self.cols).step_by(nr) {
                    self.tile(s, i, j);
                }
            }
        }
        if self.last && self.target.act.clamp().is_none() {
            s.call(Finish(self));
        }
    }
}

impl Block {
    #[inline(always)]
    fn tile<S: Simd>(&self, s: S, i: usize, j: usize) {
        let nr = S::NV * S::LANES;
        let rows = S::MR.min(self.rows - i);
        let cols = nr.min(self.cols - j);
        let vectors = cols.div_ceil(S::LANES);
        let t = &self.target;
        let (row, col) = (self.row + i, self.col + j);
        let offset = |p: *const f32, by: usize| if p.is_null() { p } else { p.wrapping_add(by) };
        let finish = self.last;
        let null = std::ptr::null();
        let ((lo, hi), _) = t.act.clamp_then_rest();
        let part = Part {
            k: self.k,
            a: self.a.wrapping_add(i * self.k),
            b: self.b.wrapping_add(j * self.k),
            ldb: vectors * S::LANES,
            c: t.c.wrapping_add(row * t.ldc + col),
            ldc: t.ldc,
            last_lanes: cols - (vectors - 1) * S::LANES,
            alpha: t.alpha,
            c_scale: if self.first { t.beta } else { 1.0 },
            finish,
            row_bias: if finish { offset(t.row_bias, row) } else { null },
            col_bias: if finish { offset(t.col_bias, col) } else { null },
            add: if finish { offset(t.add, row * t.ldc + col) } else { null },
            lo,
            hi,
        };
        macro_rules! pick {
            ($($mr:literal),*) => {
                match rows {
                    $($mr => match vectors {
                        1 => s.call(Tile::<$mr, 1>(part)),
                        2 => s.call(Tile::<$mr, 2>(part)),
                        _ => s.call(Tile::<$mr, 3>(part)),
                    },)*
                    _ => unreachable!("a tile has 1 to 8 rows"),
                }
            };
        }
        if S::MR == 4 { pick!(1, 2, 3, 4) } else { pick!(1, 2, 3, 4, 5, 6, 7, 8) }
    }
}

/// Addresses and factors of one tile.
#[derive(Clone, Copy)]
struct Part {
    k: usize,
    a: *const f32,
    b: *const f32,
    ldb: usize,
    c: *mut f32,
    ldc: usize,
    last_lanes: usize,
    alpha: f32,
    c_scale: f32,
    finish: bool,
    row_bias: *const f32,
    col_bias: *const f32,
    add: *const f32,
    lo: f32,
    hi: f32,
}

struct Tile<const MR: usize, const NV: usize>(Part);

impl<const MR: usize, const NV: usize> Kernel for Tile<MR, NV> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let t = self.0;
        let mut acc = [[s.zero(); NV]; MR];
        let (mut a, mut b) = (t.a, t.b);
        for _ in 0..t.k {
            // SAFETY: the panels hold k rows of MR values of A and of ldb >= NV · LANES values of B.
            unsafe {
                let mut bv = [s.zero(); NV];
                for (v, x) in bv.iter_mut().enumerate() {
                    *x = s.load(b.add(v * S::LANES));
                }
                for (r, row) in acc.iter_mut().enumerate() {
                    let av = s.splat(*a.add(r));
                    for (x, &bx) in row.iter_mut().zip(&bv) {
                        *x = s.fma(av, bx, *x);
                    }
                }
                a = a.add(MR);
                b = b.add(t.ldb);
            }
        }
        let alpha = s.splat(t.alpha);
        let (scale, lo, hi) = (s.splat(t.c_scale), s.splat(t.lo), s.splat(t.hi));
        for (r, row) in acc.iter().enumerate() {
            for (v, &x) in row.iter().enumerate() {
                let lanes = if v + 1 == NV { t.last_lanes } else { S::LANES };
                // SAFETY: the tile's rows and columns lie within C, the biases and the added matrix.
                unsafe {
                    let at = r * t.ldc + v * S::LANES;
                    let c = t.c.add(at);
                    let mut x = s.mul(alpha, x);
                    if t.c_scale != 0.0 {
                        x = s.fma(scale, s.load_n(c, lanes), x);
                    }
                    if t.finish {
                        if !t.row_bias.is_null() {
                            x = s.add(x, s.splat(*t.row_bias.add(r)));
                        }
                        if !t.col_bias.is_null() {
                            x = s.add(x, s.load_n(t.col_bias.add(v * S::LANES), lanes));
                        }
                        if !t.add.is_null() {
                            x = s.add(x, s.load_n(t.add.add(at), lanes));
                        }
                        x = s.min(hi, s.max(lo, x));
                    }
                    s.store_n(c, x, lanes);
                }
            }
        }
    }
}

/// Activates a finished block, for activations that aren't clamps.
struct Finish(Block);

impl Kernel for Finish {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (b, t) = (self.0, self.0.target);
        for r in b.row..b.row + b.rows {
            // SAFETY: the block's rows and columns lie within C, and no other thread writes them.
            let row = unsafe { std::slice::from_raw_parts_mut(t.c.add(r * t.ldc + b.col), b.cols) };
            apply_in(s, t.act, row);
        }
    }
}
