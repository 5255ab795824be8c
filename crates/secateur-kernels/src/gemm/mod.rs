//! Products of dense matrices: C = act(alpha · A·B + beta · C + biases).

mod blocked;
mod micro;
mod pack;
mod vector;

pub(crate) use blocked::{Grid, Product, Source};
pub(crate) use micro::{Ending, Target};
pub use pack::MatRef;
pub(crate) use pack::{PACK_SLACK, PanelShape, PanelSource, Panels};

use crate::activation::{Activation, apply};
use crate::simd::Isa;
use crate::size;
use crate::threads::{self, SharedMut};

/// A product of fewer multiply-adds runs on one thread.
pub(crate) const MIN_PARALLEL: usize = 200_000;

/// Rows of a left operand are read where they lie for a product of at most this many columns: packing them would take
/// longer than it gains.
const DIRECT: usize = 1024;

/// A constant operand of a matrix product, packed once into the order in which the product reads it.
#[derive(Clone, Debug)]
pub struct PackedMatrix {
    isa: Isa,
    rows: usize,
    cols: usize,
    side: Side,
    panels: Panels,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

impl PackedMatrix {
    /// Packs an `m` × `k` left operand.
    ///
    /// # Panics
    /// If the matrix's memory is too short.
    pub fn left(m: usize, k: usize, a: MatRef) -> Self {
        Self::with(Isa::best(), Side::Left, m, k, a)
    }

    /// Packs a `k` × `n` right operand.
    ///
    /// # Panics
    /// If the matrix's memory is too short.
    pub fn right(k: usize, n: usize, b: MatRef) -> Self {
        Self::with(Isa::best(), Side::Right, k, n, b)
    }

    fn with(isa: Isa, side: Side, rows: usize, cols: usize, mat: MatRef) -> Self {
        mat.check(rows, cols, "packed operand");
        let panels = match side {
            Side::Left => Panels::new(isa, cols, rows, PanelShape::lhs(isa.tile()), &mat.transposed()),
            Side::Right => Panels::new(isa, rows, cols, PanelShape::rhs(isa.tile()), &mat),
        };
        PackedMatrix { isa, rows, cols, side, panels }
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }
}

/// An operand of a matrix product.
#[derive(Clone, Copy, Debug)]
pub enum Operand<'a> {
    /// A matrix in memory.
    Ref(MatRef<'a>),
    /// A constant, packed for the side on which it is used.
    Packed(&'a PackedMatrix),
}

impl<'a> From<MatRef<'a>> for Operand<'a> {
    fn from(m: MatRef<'a>) -> Self {
        Operand::Ref(m)
    }
}

impl<'a> From<&'a PackedMatrix> for Operand<'a> {
    fn from(m: &'a PackedMatrix) -> Self {
        Operand::Packed(m)
    }
}

/// What happens to a product: C = act(alpha · A·B + beta · C + row_bias + col_bias).
#[derive(Clone, Copy, Debug)]
pub struct Epilogue<'a> {
    /// Scale of the product.
    pub alpha: f32,
    /// Scale of C's previous content, which is not read where this is 0.
    pub beta: f32,
    /// One value per row.
    pub row_bias: Option<&'a [f32]>,
    /// One value per column.
    pub col_bias: Option<&'a [f32]>,
    /// Applied last.
    pub act: Activation,
}

impl Default for Epilogue<'_> {
    fn default() -> Self {
        Epilogue { alpha: 1.0, beta: 0.0, row_bias: None, col_bias: None, act: Activation::None }
    }
}

impl Epilogue<'_> {
    /// The epilogue of the transposed product.
    fn transposed(self) -> Self {
        Epilogue { row_bias: self.col_bias, col_bias: self.row_bias, ..self }
    }
}

/// The matrices of a batched product: those of item i begin `i · a`, `i · b` and `i · c` elements after the first's.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// Number of products.
    pub count: usize,
    /// Distance of the left operands; 0 where all items share one, as they must a packed one.
    pub a: usize,
    /// Distance of the right operands; likewise.
    pub b: usize,
    /// Distance of the results, which must not overlap: they lie one after the other, or side by side within
    /// rows of distance `ldc`.
    pub c: usize,
}

impl Batch {
    /// One product.
    pub const ONE: Batch = Batch { count: 1, a: 0, b: 0, c: 0 };
}

/// A matrix product, or a batch of them: C (`m` × `n`) = epilogue(A (`m` × `k`) · B (`k` × `n`)).
///
/// ```
/// use secateur_kernels::{Epilogue, Gemm, MatRef};
/// let (a, b, bias, mut c) = ([1.0, 2.0], [3.0, 4.0], [0.5], [0.0]);
/// let epilogue = Epilogue { row_bias: Some(&bias), ..Epilogue::default() };
/// let product = Gemm::new([1, 1, 2], MatRef::row_major(&a, 2), MatRef::row_major(&b, 1));
/// Gemm { epilogue, ..product }.run(&mut c);
/// assert_eq!(c, [11.5]);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Gemm<'a> {
    /// Rows of A and C.
    pub m: usize,
    /// Columns of B and C.
    pub n: usize,
    /// Columns of A, rows of B.
    pub k: usize,
    /// The left operand.
    pub a: Operand<'a>,
    /// The right operand.
    pub b: Operand<'a>,
    /// Distance of C's rows, whose elements are contiguous.
    pub ldc: usize,
    /// What happens to the product.
    pub epilogue: Epilogue<'a>,
    /// Number of products, and the distances of their matrices.
    pub batch: Batch,
}

impl<'a> Gemm<'a> {
    /// One product of size `[m, n, k]` without an epilogue, into a contiguous C; fields change the rest.
    pub fn new([m, n, k]: [usize; 3], a: impl Into<Operand<'a>>, b: impl Into<Operand<'a>>) -> Self {
        let (a, b) = (a.into(), b.into());
        Gemm { m, n, k, a, b, ldc: n, epilogue: Epilogue::default(), batch: Batch::ONE }
    }

    /// Computes C on the current rayon pool.
    ///
    /// # Panics
    /// If a matrix or bias is shorter than the sizes demand, a packed operand has another shape or side, or the
    /// results of a batch overlap.
    pub fn run(&self, c: &mut [f32]) {
        // SAFETY: C is borrowed mutably, so nobody else uses it.
        unsafe { self.run_shared(Isa::best(), SharedMut::new(c)) };
    }

    /// [`Gemm::run`] into memory that others write to as well.
    ///
    /// # Safety
    /// Until this returns, nobody else reads or writes the elements of the results: for each item of the batch and
    /// each row, `n` elements of `c`.
    pub(crate) unsafe fn run_shared(&self, isa: Isa, c: SharedMut<f32>) {
        if self.m == 0 || self.n == 0 || self.batch.count == 0 {
            return;
        }
        self.check(isa, c.len());
        if let (Operand::Ref(a), Operand::Ref(b)) = (self.a, self.b) {
            if self.m <= vector::MAX_ROWS && (b.col_stride == 1 || b.row_stride == 1) {
                return self.few_rows(isa, a, b, c);
            }
            if self.n == 1 && self.ldc == 1 && (a.col_stride == 1 || a.row_stride == 1) {
                // A column of C is the row of the transposed product.
                let batch = Batch { a: self.batch.b, b: self.batch.a, ..self.batch };
                let (m, n, ldc, epilogue) = (1, self.m, self.m, self.epilogue.transposed());
                let row = Gemm { m, n, ldc, epilogue, batch, ..*self };
                return row.few_rows(isa, b.transposed(), a.transposed(), c);
            }
        }
        self.blocked(isa, c);
    }

    /// # Panics
    /// If C has fewer than the needed elements (`has` are there), or as [`Gemm::run`] says.
    fn check(&self, isa: Isa, has: usize) {
        let Gemm { m, n, k, ldc, epilogue, batch, .. } = *self;
        let last = batch.count - 1;
        let span = size::sum(&[size::of(&[m - 1, ldc]), n]);
        assert!(ldc >= n || m == 1, "rows of {n} values don't fit {ldc} apart");
        let needed = size::sum(&[size::of(&[last, batch.c]), span]);
        assert!(needed <= has, "C: needs {needed} values, has {has}");
        let apart = batch.c >= span || (batch.c >= n && last * batch.c + n <= ldc);
        assert!(last == 0 || apart, "the results of a batch overlap");
        for (bias, len) in [(epilogue.row_bias, m), (epilogue.col_bias, n)] {
            assert!(bias.is_none_or(|b| b.len() >= len), "a bias is shorter than {len}");
        }
        let check = |x: Operand, rows, cols, stride: usize, side| match x {
            Operand::Ref(r) => {
                size::of(&[last, stride]);
                r.skip(last, stride).check(rows, cols, "operand");
            }
            Operand::Packed(p) => {
                assert!(p.side == side && p.isa == isa, "operand packed for the other side");
                assert!(
                    p.shape() == [rows, cols],
                    "operand packed as {:?}, used as {rows}x{cols}",
                    p.shape()
                );
                assert!(stride == 0, "a packed operand is one matrix");
            }
        };
        check(self.a, m, k, batch.a, Side::Left);
        check(self.b, k, n, batch.b, Side::Right);
    }

    /// The product in blocks that fit the caches.
    fn blocked(&self, isa: Isa, c: SharedMut<f32>) {
        let Gemm { m, n, k, a, b, ldc, epilogue, batch } = *self;
        let col_unit = if matches!(b, Operand::Packed(_)) { isa.tile().nr } else { isa.tile().lanes };
        let grid = Grid::new(isa.tile(), batch.count, m, n, k, col_unit);
        grid.run(|item, rows, cols| {
            let (at, bt);
            let product = Product {
                isa,
                k,
                a: match a {
                    Operand::Ref(r) => {
                        at = r.skip(item, batch.a).transposed();
                        if r.col_stride == 1 && n <= DIRECT { Source::Direct(at) } else { Source::Pack(&at) }
                    }
                    Operand::Packed(p) => Source::Packed(&p.panels),
                },
                b: match b {
                    Operand::Ref(r) => {
                        bt = r.skip(item, batch.b);
                        Source::Pack(&bt)
                    }
                    Operand::Packed(p) => Source::Packed(&p.panels),
                },
                target: Target {
                    c: c.at(item * batch.c),
                    ldc,
                    alpha: epilogue.alpha,
                    beta: epilogue.beta,
                    row_bias: address(epilogue.row_bias),
                    col_bias: address(epilogue.col_bias),
                    add: std::ptr::null(),
                    act: epilogue.act,
                },
            };
            // SAFETY: `check` found C, the biases and the operands long enough; the grid's parts of C are disjoint.
            unsafe { product.run(rows, cols) };
        });
    }

    /// A product of at most [`vector::MAX_ROWS`] rows with a matrix in memory.
    fn few_rows(&self, isa: Isa, a: MatRef, b: MatRef, c: SharedMut<f32>) {
        let Gemm { m, n, k, ldc, epilogue, batch, .. } = *self;
        let (bounds, rest) = epilogue.act.clamp_then_rest();
        let work = size::work(&[m, n, k]);
        let parts = n.div_ceil(vector::COLUMNS).max((work / MIN_PARALLEL).min(threads::available()));
        threads::tasks(batch.count * parts, work.saturating_mul(batch.count) >= MIN_PARALLEL, |task| {
            let item = task / parts;
            let cols = threads::split(n, parts, task % parts);
            let a = a.skip(item, batch.a);
            let at = item * batch.c;
            threads::with_workspace(size::of(&[m, k + vector::COLUMNS]), |space| {
                let (rows, sums) = space.split_at_mut(m * k);
                for (i, x) in rows.iter_mut().enumerate() {
                    *x = a.data[i / k * a.row_stride + i % k * a.col_stride];
                }
                isa.run(vector::FewRows {
                    rows: m,
                    depth: k,
                    cols: cols.clone(),
                    a: rows,
                    b: b.skip(item, batch.b),
                    ending: Ending {
                        c: c.at(at),
                        ldc,
                        alpha: epilogue.alpha,
                        c_scale: epilogue.beta,
                        row_bias: address(epilogue.row_bias),
                        col_bias: address(epilogue.col_bias),
                        add: std::ptr::null(),
                        lo: bounds.0,
                        hi: bounds.1,
                    },
                    sums,
                });
            });
            for r in 0..m {
                // SAFETY: tasks differ in their item or columns.
                apply(isa, rest, unsafe { c.slice(at + r * ldc + cols.start, cols.len()) });
            }
        });
    }
}

/// The address of the first value, null where there are none.
pub(crate) fn address(values: Option<&[f32]>) -> *const f32 {
    values.map_or(std::ptr::null(), <[f32]>::as_ptr)
}

#[cfg(test)]
mod tests;
