//! A large product cut into tasks, and the loops over blocks that each task runs.

use super::MIN_PARALLEL;
use super::micro::{Block, Target};
use super::pack::{MatRef, PACK_SLACK, PanelShape, PanelSource, Panels, depth_block};
use crate::simd::{Isa, MAX_LANES, TileSize};
use crate::size;
use crate::threads;
use std::ops::Range;

/// Rows of A packed at a time: with one depth block they fill part of the second-level cache.
const MC: usize = 384;
/// A part of A of at most this many values is packed once for all columns.
const WHOLE: usize = 1 << 20;
/// Columns of C that one depth block covers before the next begins, a multiple of every tile width: A's block is read
/// from the second-level cache for most of them, and this part of C stays there.
const NC: usize = 192;
/// Least multiply-adds of a task.
const MIN_TASK: usize = 1_000_000;

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

/// An operand ready for the blocked loops: packed already, packed block by block, or read where it lies.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    Packed(&'a Panels),
    Pack(&'a dyn PanelSource),
    /// A left operand, transposed.
    Direct(MatRef<'a>),
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
        let mc = if matches!(self.a, Source::Packed(_)) { rows.len() } else { rows.len().min(MC) };
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
                        let (a, strides) = match self.a {
                            Source::Packed(p) => (p.at(depth.clone(), i), None),
                            Source::Pack(_) if whole => (&a_space[k0 * mc..], None),
                            Source::Pack(source) => {
                                source.pack(self.isa, depth.clone(), part_rows.clone(), lhs, a_space);
                                (&*a_space, None)
                            }
                            Source::Direct(a) => {
                                let start = k0 * a.row_stride + i * a.col_stride;
                                (&a.data[start..], Some([a.col_stride, a.row_stride]))
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
                                Source::Direct(_) => unreachable!("a right operand is packed"),
                            };
                            self.isa.run(Block {
                                row: i,
                                rows: part_rows.len(),
                                col: j,
                                cols: part_cols.len(),
                                k: depth.len(),
                                a: a.as_ptr(),
                                strides,
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
