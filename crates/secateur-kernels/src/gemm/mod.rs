//! Products of dense matrices: C = act(alpha · A·B + beta · C + biases).

mod micro;
mod pack;
mod vector;

pub(crate) use micro::{Block, Ending, Target};
pub use pack::MatRef;
pub(crate) use pack::{PACK_SLACK, PanelShape, PanelSource, Panels, depth_block};

use crate::activation::{Activation, apply};
use crate::simd::{Isa, MAX_LANES, TileSize};
use crate::size;
use crate::threads::{self, SharedMut};
use std::ops::Range;

/// Rows of A packed at a time: with a depth block they fill a part of the second-level cache.
const MC: usize = 384;
/// Values of a part of A that is packed as a whole, once for all columns, if it isn't larger.
const WHOLE: usize = 1 << 20;
/// Columns of C that are finished for a depth block before the next one, a multiple of every tile's: A's block
/// is read from the second-level cache for most of them, and C's part stays there.
const NC: usize = 192;
/// Multiply-adds below which a product isn't spread over threads.
pub(crate) const MIN_PARALLEL: usize = 200_000;
/// Multiply-adds that a task should have at least.
const MIN_TASK: usize = 1_000_000;

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
    /// A constant, packed for the side on which it's used.
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

/// What is done with a product: C = act(alpha · A·B + beta · C + row_bias + col_bias).
#[derive(Clone, Copy, Debug)]
pub struct Epilogue<'a> {
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of C's content, which isn't read where it's 0.
    pub beta: f32,
    /// A value for each row.
    pub row_bias: Option<&'a [f32]>,
    /// A value for each column.
    pub col_bias: Option<&'a [f32]>,
    /// Applied last.
    pub act: Activation,
}

impl Default for Epilogue<'_> {
    fn default() -> Self {
        Epilogue { alpha: 1.0, beta: 0.0, row_bias: None, col_bias: None, act: Activation::None }
    }
}

/// The matrices of a batched product: item i's begin `i · a`, `i · b` and `i · c` elements after the first's.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// Number of products.
    pub count: usize,
    /// Distance of the left operands; 0 where all share one, as a packed one must be.
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

/// C (`m` × `n`, rows `ldc` apart) = epilogue(A (`m` × `k`) · B (`k` × `n`)), on the current rayon pool.
///
/// # Panics
/// If a matrix or bias is shorter than the sizes demand, or a packed operand has another shape or side.
#[allow(clippy::too_many_arguments)]
pub fn gemm(
    m: usize,
    n: usize,
    k: usize,
    a: Operand,
    b: Operand,
    c: &mut [f32],
    ldc: usize,
    epilogue: Epilogue,
) {
    gemm_batched(Batch::ONE, m, n, k, a, b, c, ldc, epilogue);
}

/// [`gemm`] for each item of a batch.
///
/// # Panics
/// As [`gemm`], for any item; also if the results overlap.
#[allow(clippy::too_many_arguments)]
pub fn gemm_batched(
    batch: Batch,
    m: usize,
    n: usize,
    k: usize,
    a: Operand,
    b: Operand,
    c: &mut [f32],
    ldc: usize,
    epilogue: Epilogue,
) {
    // SAFETY: C is this call's alone.
    unsafe { gemm_shared(Isa::best(), batch, m, n, k, a, b, SharedMut::new(c), ldc, epilogue) };
}

/// [`gemm_batched`] into memory that others write to as well.
///
/// # Safety
/// No one else uses the elements of the results.
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn gemm_shared(
    isa: Isa,
    batch: Batch,
    m: usize,
    n: usize,
    k: usize,
    a: Operand,
    b: Operand,
    shared: SharedMut<f32>,
    ldc: usize,
    epilogue: Epilogue,
) {
    if m == 0 || n == 0 || batch.count == 0 {
        return;
    }
    let last = batch.count - 1;
    let span = size::sum(&[size::of(&[m - 1, ldc]), n]);
    assert!(ldc >= n || m == 1, "rows of {n} values don't fit {ldc} apart");
    let (needed, has) = (size::sum(&[size::of(&[last, batch.c]), span]), shared.len());
    assert!(needed <= has, "C: needs {needed} values, has {has}");
    let apart = batch.c >= span || (batch.c >= n && last * batch.c + n <= ldc);
    assert!(last == 0 || apart, "the results of a batch overlap");
    for (bias, len) in [(epilogue.row_bias, m), (epilogue.col_bias, n)] {
        assert!(bias.is_none_or(|b| b.len() >= len), "a bias is shorter than {len}");
    }
    let check = |x: Operand, rows, cols, stride: usize, side| match x {
        Operand::Ref(r) => {
            let end = size::of(&[last, stride]).min(r.data.len());
            MatRef { data: &r.data[end..], ..r }.check(rows, cols, "operand");
        }
        Operand::Packed(p) => {
            assert!(p.side == side && p.isa == isa, "operand packed for the other side");
            assert!(p.shape() == [rows, cols], "operand packed as {:?}, used as {rows}x{cols}", p.shape());
            assert!(stride == 0, "a packed operand is one matrix");
        }
    };
    check(a, m, k, batch.a, Side::Left);
    check(b, k, n, batch.b, Side::Right);

    if let (Operand::Ref(a), Operand::Ref(b)) = (a, b) {
        fn swap(e: Epilogue<'_>) -> Epilogue<'_> {
            Epilogue { row_bias: e.col_bias, col_bias: e.row_bias, ..e }
        }
        if m <= vector::MAX_ROWS && (b.col_stride == 1 || b.row_stride == 1) {
            return few_rows(isa, batch, m, n, k, a, b, shared, ldc, epilogue);
        }
        if n == 1 && ldc == 1 && (a.col_stride == 1 || a.row_stride == 1) {
            // The same product of one row.
            let batch = Batch { a: batch.b, b: batch.a, ..batch };
            let (a, b) = (b.transposed(), a.transposed());
            return few_rows(isa, batch, 1, m, k, a, b, shared, m, swap(epilogue));
        }
    }
    let col_unit = if matches!(b, Operand::Packed(_)) { isa.tile().nr } else { isa.tile().lanes };
    let grid = Grid::new(isa.tile(), batch.count, m, n, k, col_unit);
    grid.run(|item, rows, cols| {
        let (at, bt);
        let product = Product {
            isa,
            k,
            a: match a {
                Operand::Ref(r) => {
                    at = MatRef { data: &r.data[(item * batch.a).min(r.data.len())..], ..r }.transposed();
                    Source::Pack(&at)
                }
                Operand::Packed(p) => Source::Packed(&p.panels),
            },
            b: match b {
                Operand::Ref(r) => {
                    bt = MatRef { data: &r.data[(item * batch.b).min(r.data.len())..], ..r };
                    Source::Pack(&bt)
                }
                Operand::Packed(p) => Source::Packed(&p.panels),
            },
            target: Target {
                c: shared.at(item * batch.c),
                ldc,
                alpha: epilogue.alpha,
                beta: epilogue.beta,
                row_bias: epilogue.row_bias.map_or(std::ptr::null(), |b| b.as_ptr()),
                col_bias: epilogue.col_bias.map_or(std::ptr::null(), |b| b.as_ptr()),
                add: std::ptr::null(),
                act: epilogue.act,
            },
        };
        // SAFETY: the sizes were checked above, and the grid's parts of C don't overlap.
        unsafe { product.run(rows, cols) };
    });
}

/// A product of a few rows with a matrix in memory.
#[allow(clippy::too_many_arguments)]
fn few_rows(
    isa: Isa,
    batch: Batch,
    m: usize,
    n: usize,
    k: usize,
    a: MatRef,
    b: MatRef,
    c: SharedMut<f32>,
    ldc: usize,
    epilogue: Epilogue,
) {
    let (bounds, rest) = epilogue.act.clamp_then_rest();
    let address = |bias: Option<&[f32]>| bias.map_or(std::ptr::null(), |b| b.as_ptr());
    let work = size::work(&[m, n, k]);
    let parts = n.div_ceil(vector::COLUMNS).max((work / MIN_PARALLEL).min(threads::available()));
    threads::tasks(batch.count * parts, work.saturating_mul(batch.count) >= MIN_PARALLEL, |task| {
        let item = task / parts;
        let cols = threads::split(n, parts, task % parts);
        let a = MatRef { data: &a.data[(item * batch.a).min(a.data.len())..], ..a };
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
                b: MatRef { data: &b.data[(item * batch.b).min(b.data.len())..], ..b },
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
            // SAFETY: these columns of this item are this task's alone.
            apply(isa, rest, unsafe { c.slice(at + r * ldc + cols.start, cols.len()) });
        }
    });
}

/// How a product (or a batch of them) is cut into tasks. The order of the sums doesn't depend on it.
pub(crate) struct Grid {
    batch: usize,
    m: usize,
    n: usize,
    row_unit: usize,
    col_unit: usize,
    row_parts: usize,
    col_parts: usize,
    parallel: bool,
}

impl Grid {
    /// Columns are cut at multiples of `col_unit`.
    pub(crate) fn new(tile: TileSize, batch: usize, m: usize, n: usize, k: usize, col_unit: usize) -> Self {
        let threads = threads::available();
        let work = size::work(&[m, n, k.max(1)]);
        let parallel = threads > 1 && work.saturating_mul(batch) >= MIN_PARALLEL;
        let mut grid =
            Grid { batch, m, n, row_unit: tile.mr, col_unit, row_parts: 1, col_parts: 1, parallel };
        if !parallel || batch >= 4 * threads {
            return grid;
        }
        let (row_units, col_units) = (m.div_ceil(tile.mr), n.div_ceil(col_unit));
        let wanted = threads.div_ceil(batch);
        let most = (work / MIN_TASK).max(wanted).min(4 * wanted);
        let mut best = f64::INFINITY;
        for rows in 1..=row_units.min(most) {
            for cols in 1..=col_units.min(most / rows) {
                let part_m = row_units.div_ceil(rows) * tile.mr;
                let part_n = col_units.div_ceil(cols) * col_unit;
                let rounds = (batch * rows * cols).div_ceil(threads);
                // Each task multiplies, and packs its share of both operands.
                let cost = rounds as f64 * (part_m * part_n + 24 * part_n + 16 * part_m) as f64;
                if cost < best * 0.99 {
                    best = cost;
                    (grid.row_parts, grid.col_parts) = (rows, cols);
                }
            }
        }
        grid
    }

    /// Calls `f(item, rows, cols)` for each task.
    pub(crate) fn run(&self, f: impl Fn(usize, Range<usize>, Range<usize>) + Sync + Send) {
        let parts = self.row_parts * self.col_parts;
        let cut = |len: usize, unit: usize, parts: usize, i: usize| {
            let r = threads::split(len.div_ceil(unit), parts, i);
            r.start * unit..(r.end * unit).min(len)
        };
        threads::tasks(self.batch * parts, self.parallel, |t| {
            let (item, part) = (t / parts, t % parts);
            let rows = cut(self.m, self.row_unit, self.row_parts, part / self.col_parts);
            let cols = cut(self.n, self.col_unit, self.col_parts, part % self.col_parts);
            if !rows.is_empty() && !cols.is_empty() {
                f(item, rows, cols);
            }
        });
    }
}

/// An operand ready for the blocked loops: packed already, or packed block by block.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    Packed(&'a Panels),
    Pack(&'a dyn PanelSource),
}

/// The blocked loops around the tile kernel, for a part of C on one thread.
pub(crate) struct Product<'a> {
    pub(crate) isa: Isa,
    pub(crate) k: usize,
    /// Its panels run along C's rows.
    pub(crate) a: Source<'a>,
    /// Its panels run along C's columns.
    pub(crate) b: Source<'a>,
    pub(crate) target: Target,
}

impl Product<'_> {
    /// Computes rows `rows` and columns `cols` of C. Both begin at a panel of an operand that is packed already.
    ///
    /// # Safety
    /// The target's addresses are valid for these rows and columns, and no other thread uses this part of C.
    pub(crate) unsafe fn run(&self, rows: Range<usize>, cols: Range<usize>) {
        let tile = self.isa.tile();
        let (lhs, rhs) = (PanelShape::lhs(tile), PanelShape::rhs(tile));
        let kc = depth_block(tile, self.k);
        let pack_a = matches!(self.a, Source::Pack(_));
        let whole = rows.len() <= MC && rows.len() * self.k <= WHOLE;
        let mc = if pack_a { rows.len().min(MC) } else { rows.len() };
        let held = mc * if whole { self.k } else { kc };
        let a_len = if pack_a { (held + PACK_SLACK).next_multiple_of(MAX_LANES) } else { 0 };
        let b_len = if matches!(self.b, Source::Pack(_)) { tile.nr * kc + PACK_SLACK } else { 0 };
        threads::with_workspace(a_len + b_len, |space| {
            let (a_space, b_space) = space.split_at_mut(a_len);
            if let (Source::Pack(source), true) = (self.a, whole) {
                for k0 in (0..self.k).step_by(kc) {
                    let depth = k0..self.k.min(k0 + kc);
                    source.pack(self.isa, depth, rows.clone(), lhs, &mut a_space[k0 * mc..]);
                }
            }
            for j0 in cols.clone().step_by(NC) {
                // At least one round, so that an empty inner dimension still writes C.
                for k0 in (0..self.k.max(1)).step_by(kc) {
                    let depth = k0..self.k.min(k0 + kc);
                    for i in rows.clone().step_by(mc) {
                        let part_rows = i..rows.end.min(i + mc);
                        let a = match self.a {
                            Source::Packed(p) => p.at(depth.clone(), i),
                            Source::Pack(_) if whole => &a_space[k0 * mc..],
                            Source::Pack(source) => {
                                source.pack(self.isa, depth.clone(), part_rows.clone(), lhs, a_space);
                                &*a_space
                            }
                        };
                        for j in (j0..cols.end.min(j0 + NC)).step_by(tile.nr) {
                            let part_cols = j..cols.end.min(j + tile.nr);
                            let b = match self.b {
                                Source::Packed(p) => p.at(depth.clone(), j),
                                Source::Pack(source) => {
                                    source.pack(self.isa, depth.clone(), part_cols.clone(), rhs, b_space);
                                    &*b_space
                                }
                            };
                            self.isa.run(Block {
                                row: i,
                                rows: part_rows.len(),
                                col: j,
                                cols: part_cols.len(),
                                k: depth.len(),
                                a: a.as_ptr(),
                                b: b.as_ptr(),
                                first: k0 == 0,
                                last: depth.end == self.k,
                                target: self.target,
                            });
                        }
                    }
                }
            }
        });
    }
}

#[cfg(test)]
mod tests;
