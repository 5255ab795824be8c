//! The panel kernel: four rows of outputs that share their inputs, for dense weights, for zeros in blocks, and for
//! few zeros anywhere.
//!
//! An input vector that is loaded meets up to four weights, so multiplications limit the loop, where in the row
//! kernel loads do. The inputs of a block are sorted by the rows that have a weight for them: for each of the 15
//! patterns there is a loop that multiplies with these weights alone.

use super::kernel::{AHEAD, Part, Placed, ROWS_AHEAD, Sums};
use crate::simd::{Kernel, Simd};
use crate::tiled::COLUMNS;
use std::ops::Range;

/// Output rows of a panel.
pub(super) const ROWS: usize = 4;

/// Which rows have a weight for an input, as bits: there are as many patterns, but for none.
const PATTERNS: usize = (1 << ROWS) - 1;

/// A panel's part in a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Panel {
    /// Where its first row lies in the output tile, in values.
    out: u32,
    /// Rows that there are; others have no weights, and their sums are dropped.
    rows: u8,
    /// No block before this one has weights of the panel: it begins with its bias.
    first: bool,
    /// No later block has: residual and activation are due.
    last: bool,
    /// Inputs that meet weights of just the rows of a pattern, from pattern 1 on.
    columns: [u16; PATTERNS],
    bias: [f32; ROWS],
}

/// The weights of a matrix, block of inputs by block, and in each panel by panel. Inputs that meet zeros alone are
/// left out.
#[derive(Clone, Debug)]
pub(super) struct Panels {
    panels: Vec<Panel>,
    /// Where the input of each column lies in its block, in bytes.
    offsets: Vec<u16>,
    /// Each column's weights, one after the other.
    weights: Vec<f32>,
    /// Panels, columns and weights before each panel of each block, and at the end all of them.
    starts: Vec<[usize; 3]>,
    /// The outputs of each panel.
    outputs: Vec<Range<usize>>,
    /// From one row of outputs to the next in a tile, in values.
    row_len: usize,
}

impl Panels {
    /// Of `outputs` rows, `row_len` values apart in the output tile; rows of a panel lie in one of `groups`.
    ///
    /// `nonzeros(o)` are the columns and values of output `o` in ascending order; `blocks` share out the columns,
    /// and `offset(block, column)` says where a column's input lies in its block, in values.
    pub(super) fn new<I: Iterator<Item = (usize, f32)>>(
        [outputs, groups]: [usize; 2],
        row_len: usize,
        bias: Option<&[f32]>,
        blocks: &[Range<usize>],
        nonzeros: impl Fn(usize) -> I,
        offset: impl Fn(usize, usize) -> usize,
    ) -> Panels {
        let of_group = outputs / groups;
        let ranges = (0..groups).flat_map(|g| {
            let rows = g * of_group..(g + 1) * of_group;
            rows.clone().step_by(ROWS).map(move |start| start..rows.end.min(start + ROWS))
        });
        let mut panels = Panels {
            panels: vec![],
            offsets: vec![],
            weights: vec![],
            starts: vec![],
            outputs: ranges.collect(),
            row_len,
        };
        let columns: Vec<_> = panels.outputs.iter().map(|rows| columns(rows.clone(), &nonzeros)).collect();
        let mut done = vec![0; columns.len()];
        for (b, block) in blocks.iter().enumerate() {
            for (p, rows) in panels.outputs.iter().enumerate() {
                panels.starts.push(panels.lens());
                let rest = &columns[p][done[p]..];
                let mut here = rest[..rest.partition_point(|w| w.0 < block.end)].to_vec();
                if here.is_empty() && (b > 0 || !columns[p].is_empty()) {
                    continue;
                }
                let mut biases = [0.0; ROWS];
                biases.iter_mut().zip(rows.clone()).for_each(|(to, o)| *to = bias.map_or(0.0, |b| b[o]));
                panels.panels.push(Panel {
                    out: u32::try_from(rows.start * row_len).expect("a tile of less than 16 GB"),
                    rows: rows.len() as u8,
                    first: done[p] == 0,
                    last: here.len() == rest.len(),
                    columns: [0; PATTERNS],
                    bias: biases,
                });
                let counts = &mut panels.panels.last_mut().expect("the one above").columns;
                here.sort_by_key(|(_, weights)| pattern(weights));
                for (column, weights) in &here {
                    counts[pattern(weights) - 1] += 1;
                    let bytes = u16::try_from(4 * offset(b, *column));
                    panels.offsets.push(bytes.expect("a block of less than 64 kB"));
                    panels.weights.extend(weights.iter().filter(|w| **w != 0.0));
                }
                done[p] += here.len();
            }
        }
        panels.starts.push(panels.lens());
        panels
    }

    fn lens(&self) -> [usize; 3] {
        [self.panels.len(), self.offsets.len(), self.weights.len()]
    }

    /// Nonzero weights.
    pub(super) fn nnz(&self) -> usize {
        self.weights.len()
    }

    /// Memory of the panels and their columns.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.panels[..]) + size_of_val(&self.offsets[..]) + size_of_val(&self.weights[..])
    }

    /// Between how many parts threads may divide the outputs.
    pub(super) fn parts(&self) -> usize {
        self.outputs.len()
    }

    /// The outputs of some parts.
    pub(super) fn outputs(&self, parts: Range<usize>) -> Range<usize> {
        self.outputs[parts.start].start..self.outputs[parts.end - 1].end
    }

    /// Whether some parts have anything to do in a block.
    pub(super) fn meet(&self, block: usize, parts: Range<usize>) -> bool {
        let at = |part: usize| self.starts[block * self.outputs.len() + part][0];
        at(parts.start) < at(parts.end)
    }

    /// The work of some parts in a block on a tile's `input`, `out` and `residual` (which may be null).
    pub(super) fn on(
        &self,
        block: usize,
        parts: Range<usize>,
        [input, residual]: [*const f32; 2],
        out: *mut f32,
        bounds: (f32, f32),
    ) -> Tile<'_> {
        let at = |part: usize| self.starts[block * self.outputs.len() + part];
        let (from, to) = (at(parts.start), at(parts.end));
        Tile {
            panels: &self.panels[from[0]..to[0]],
            offsets: &self.offsets[from[1]..to[1]],
            weights: &self.weights[from[2]..to[2]],
            row_len: self.row_len,
            input,
            out,
            residual,
            bounds,
        }
    }
}

/// The columns in which any of some outputs has a weight, and the weights.
fn columns<I: Iterator<Item = (usize, f32)>>(
    rows: Range<usize>,
    nonzeros: impl Fn(usize) -> I,
) -> Vec<(usize, [f32; ROWS])> {
    let mut rows: Vec<_> = rows.map(|o| nonzeros(o).peekable()).collect();
    let mut columns = Vec::new();
    while let Some(column) = rows.iter_mut().filter_map(|row| row.peek().map(|w| w.0)).min() {
        let mut weights = [0.0; ROWS];
        for (weight, row) in weights.iter_mut().zip(&mut rows) {
            if let Some((_, w)) = row.next_if(|w| w.0 == column) {
                *weight = w;
            }
        }
        columns.push((column, weights));
    }
    columns
}

/// Which weights aren't zero.
fn pattern(weights: &[f32; ROWS]) -> usize {
    weights.iter().enumerate().map(|(r, w)| usize::from(*w != 0.0) << r).sum()
}

/// Panels of outputs of one tile and block.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    panels: &'a [Panel],
    offsets: &'a [u16],
    weights: &'a [f32],
    row_len: usize,
    input: *const f32,
    out: *mut f32,
    residual: *const f32,
    bounds: (f32, f32),
}

impl Placed for Tile<'_> {
    /// # Safety
    /// Inputs can be read at the offsets of all columns, and outputs and residuals at those of all panels.
    #[inline(always)]
    unsafe fn run<S: Simd, const STEP: usize, const FOLDED: bool>(self, s: S, vectors: usize) {
        s.call(Slices::<STEP, FOLDED> { tile: self, vectors });
    }
}

/// All panels, a few vectors of their rows at a time.
struct Slices<'a, const STEP: usize, const FOLDED: bool> {
    tile: Tile<'a>,
    vectors: usize,
}

impl<const STEP: usize, const FOLDED: bool> Kernel for Slices<'_, STEP, FOLDED> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // Vectors of sums a row that leave registers for inputs and all four weights, which compilers load at once;
        // wide vectors have twice the registers.
        let most = if S::LANES > COLUMNS { 4 } else { 2 };
        let slices = self.vectors.div_ceil(most);
        for i in 0..slices {
            let slice = crate::threads::split(self.vectors, slices, i);
            let part = Part { from: slice.start, of: self.vectors };
            macro_rules! lengths {
                ($($n:literal)*) => {
                    match slice.len() {
                        // SAFETY: the caller of `Tile::run` promises that panels, inputs and columns fit.
                        $($n => unsafe { self.tile.slice::<S, $n, STEP, FOLDED>(s, part) },)*
                        n => unreachable!("slices of {n} vectors"),
                    }
                };
            }
            lengths!(1 2 3 4);
        }
    }
}

impl Tile<'_> {
    /// `N` vectors of each of the panels' rows.
    ///
    /// # Safety
    /// As [`Placed::run`].
    #[inline(always)]
    unsafe fn slice<S: Simd, const N: usize, const STEP: usize, const FOLDED: bool>(&self, s: S, part: Part) {
        let (mut offset, mut weight) = (self.offsets.as_ptr(), self.weights.as_ptr());
        for panel in self.panels {
            let row = |r: usize| panel.out as usize + r * self.row_len;
            let rows = panel.rows as usize;
            // Of rows that there aren't, too: as many each time, the loop is unrolled.
            for r in 0..ROWS {
                for v in part.from..part.from + N {
                    let ahead = row(r) + v * S::LANES + ROWS_AHEAD;
                    if panel.first && panel.last {
                        s.prefetch_write(self.out.wrapping_add(ahead));
                    }
                    if panel.last && !self.residual.is_null() {
                        s.prefetch(self.residual.wrapping_add(ahead));
                    }
                }
            }
            // SAFETY: the caller's promise; rows that there aren't are neither read nor written. Panels have as many
            // columns and weights as their patterns say.
            unsafe {
                let mut sums = [Sums::<S, N>::splat(s, 0.0); ROWS];
                for (r, sums) in sums.iter_mut().enumerate() {
                    *sums = if panel.first || r >= rows {
                        Sums::splat(s, panel.bias[r])
                    } else {
                        Sums::load::<FOLDED>(s, self.out.add(row(r)), part)
                    };
                }
                macro_rules! columns {
                    ($($pattern:literal: $($row:literal)+;)+) => {$(
                        for _ in 0..panel.columns[$pattern - 1] {
                            s.prefetch(weight.wrapping_byte_add(AHEAD));
                            let x = self.input.byte_add(*offset as usize);
                            let x = Sums::load_inputs::<STEP>(s, x, part.from);
                            offset = offset.add(1);
                            $(
                                sums[$row].add_scaled(s, &x, s.splat(*weight));
                                weight = weight.add(1);
                            )+
                        }
                    )+};
                }
                columns! {
                    1: 0; 2: 1; 3: 0 1; 4: 2; 5: 0 2; 6: 1 2; 7: 0 1 2;
                    8: 3; 9: 0 3; 10: 1 3; 11: 0 1 3; 12: 2 3; 13: 0 2 3; 14: 1 2 3; 15: 0 1 2 3;
                }
                for (r, sums) in sums.iter_mut().enumerate().take(rows) {
                    if panel.last {
                        if !self.residual.is_null() {
                            sums.add(s, &Sums::load::<FOLDED>(s, self.residual.add(row(r)), part));
                        }
                        sums.clamp(s, self.bounds);
                    }
                    sums.store::<FOLDED>(s, self.out.add(row(r)), part);
                }
            }
        }
    }
}
