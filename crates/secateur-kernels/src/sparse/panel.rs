//! The panel kernel: four output rows that share their inputs, for dense weights, block sparsity, and few zeros.
//!
//! A loaded input vector is multiplied by up to four weights, so multiplications limit the loop; in the row kernel, loads
//! do. The inputs of a block are sorted by which rows have a weight for them, and each of the 15 patterns has a loop that
//! multiplies by exactly these weights.

use super::kernel::{LaidOut, PREFETCH_BYTES, Part, ROW_PREFETCH, Sums};
use super::values::{Matrix, Values};
use crate::simd::{Kernel, Simd};
use crate::tiled::COLUMNS;
use rayon::prelude::*;
use std::ops::Range;

/// Output rows of a panel.
pub(super) const ROWS: usize = 4;

/// Nonempty sets of rows that have a weight for an input.
const PATTERNS: usize = (1 << ROWS) - 1;

/// A panel's part in a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Panel {
    /// Offset of its first row in the output tile, in values.
    out: u32,
    /// Number of rows; the others have no weights, and their sums are discarded.
    rows: u8,
    /// Whether no earlier block has weights of the panel: then sums start with the bias.
    first: bool,
    /// Whether no later block has: then residual and activation are applied.
    last: bool,
    /// Number of inputs of each pattern, from pattern 1 on.
    columns: [u16; PATTERNS],
    bias: [f32; ROWS],
    /// Scale per output, if the weights are scaled.
    scales: [f32; ROWS],
}

impl Panel {
    /// Numbers of columns and weights.
    fn lens(&self) -> [usize; 2] {
        self.columns.iter().enumerate().fold([0; 2], |[columns, weights], (i, &n)| {
            let n = usize::from(n);
            [columns + n, weights + n * (i + 1).count_ones() as usize]
        })
    }
}

/// The weights of a matrix, by blocks of inputs, then by panels. Inputs with only zero weights are left out.
#[derive(Clone, Debug)]
pub(super) struct Panels {
    panels: Vec<Panel>,
    /// Byte offset of each column's input in its block.
    offsets: Vec<u16>,
    /// The weights of each column.
    weights: Values,
    scaled: bool,
    /// Numbers of panels, columns and weights before each panel of each block, and in total.
    starts: Vec<[usize; 3]>,
    /// The outputs of each panel.
    outputs: Vec<Range<usize>>,
    /// Distance between output rows in a tile, in values.
    row_len: usize,
}

impl Panels {
    /// Each panel belongs to one of `groups`.
    pub(super) fn new<I: Iterator<Item = (usize, f32)>>(
        matrix: &Matrix<'_, impl Fn(usize) -> I + Sync, impl Fn(usize, usize) -> usize + Sync>,
        groups: usize,
    ) -> Panels {
        let of_group = matrix.outputs / groups;
        let ranges = (0..groups).flat_map(|g| {
            let rows = g * of_group..(g + 1) * of_group;
            rows.clone().step_by(ROWS).map(move |start| start..rows.end.min(start + ROWS))
        });
        let mut panels = Panels {
            panels: vec![],
            offsets: vec![],
            weights: Values::new(matrix.values),
            scaled: matrix.scales.is_some(),
            starts: vec![],
            outputs: ranges.collect(),
            row_len: matrix.row_len,
        };
        let columns = matrix.blocks.last().map_or(0, |block| block.end);
        let strips: Vec<Strip> = panels
            .outputs
            .par_iter()
            .map_init(|| vec![[0.0; ROWS]; columns], |dense, rows| Strip::new(matrix, rows.clone(), dense))
            .collect();
        panels.offsets.reserve_exact(strips.iter().map(|strip| strip.offsets.len()).sum());
        panels.weights.reserve(strips.iter().map(|strip| strip.weights.len()).sum());
        for block in 0..matrix.blocks.len() {
            for strip in &strips {
                panels.starts.push(panels.lens());
                let [from, to] = [strip.starts[block], strip.starts[block + 1]];
                panels.panels.extend(&strip.panels[from[0]..to[0]]);
                panels.offsets.extend(&strip.offsets[from[1]..to[1]]);
                panels.weights.extend(&strip.weights[from[2]..to[2]]);
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

    /// Bytes of the panels and their columns.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.panels[..]) + size_of_val(&self.offsets[..]) + self.weights.bytes()
    }

    /// Number of parts that threads may divide the outputs into.
    pub(super) fn parts(&self) -> usize {
        self.outputs.len()
    }

    /// The outputs of some parts.
    pub(super) fn outputs(&self, parts: Range<usize>) -> Range<usize> {
        self.outputs[parts.start].start..self.outputs[parts.end - 1].end
    }

    /// Whether any of `parts` has work in a block.
    pub(super) fn meet(&self, block: usize, parts: Range<usize>) -> bool {
        let at = |part: usize| self.starts[block * self.outputs.len() + part][0];
        at(parts.start) < at(parts.end)
    }

    /// Length of the scratch memory that [`Panels::take`] needs.
    pub(super) fn scratch_len(&self) -> usize {
        self.weights.scratch_len(self.panels.iter().map(|panel| panel.lens()[1]))
    }

    /// Calls `run` with the panels of `parts` in a block; if weights must be widened, several times with a few panels each.
    #[inline(always)]
    pub(super) fn take<S: Simd>(
        &self,
        s: S,
        block: usize,
        parts: Range<usize>,
        scratch: &mut [f32],
        mut run: impl FnMut(PanelStream<'_>),
    ) {
        let [from, to] = [parts.start, parts.end].map(|part| self.starts[block * self.outputs.len() + part]);
        let (mut panels, [_, mut column, mut weight]) = (&self.panels[from[0]..to[0]], from);
        while !panels.is_empty() {
            let (mut count, [mut columns, mut weights]) = (panels.len(), [to[1] - column, to[2] - weight]);
            if !self.weights.are_wide() {
                (count, columns, weights) = (0, 0, 0);
                while let Some([c, w]) =
                    panels.get(count).map(Panel::lens).filter(|[_, w]| weights + w <= scratch.len())
                {
                    (count, columns, weights) = (count + 1, columns + c, weights + w);
                }
            }
            let (here, rest) = panels.split_at(count);
            run(PanelStream {
                panels: here,
                offsets: &self.offsets[column..column + columns],
                weights: self.weights.widened(s, weight..weight + weights, scratch),
                scaled: self.scaled,
                row_len: self.row_len,
            });
            (panels, column, weight) = (rest, column + columns, weight + weights);
        }
    }
}

/// The panels of some outputs, block by block.
struct Strip {
    panels: Vec<Panel>,
    offsets: Vec<u16>,
    weights: Vec<f32>,
    /// Numbers of panels, columns and weights before each block, and in total.
    starts: Vec<[usize; 3]>,
}

impl Strip {
    /// `dense` holds a zero for each column and row, before and after the call.
    fn new<I: Iterator<Item = (usize, f32)>>(
        matrix: &Matrix<'_, impl Fn(usize) -> I, impl Fn(usize, usize) -> usize>,
        rows: Range<usize>,
        dense: &mut [[f32; ROWS]],
    ) -> Strip {
        for (r, o) in rows.clone().enumerate() {
            (matrix.nonzeros)(o).for_each(|(column, w)| dense[column][r] = w);
        }
        let patterns: Vec<usize> = dense.iter().map(pattern).collect();
        let total = patterns.iter().filter(|p| **p != 0).count();
        let of = |values: Option<&[f32]>, other: f32| {
            let mut four = [other; ROWS];
            values.into_iter().for_each(|v| four[..rows.len()].copy_from_slice(&v[rows.clone()]));
            four
        };
        let weights = patterns.iter().map(|p| p.count_ones() as usize).sum();
        let (offsets, weights) = (Vec::with_capacity(total), Vec::with_capacity(weights));
        let mut strip = Strip { panels: vec![], offsets, weights, starts: vec![[0; 3]] };
        for (b, block) in matrix.blocks.iter().enumerate() {
            let mut panel = Panel {
                out: u32::try_from(rows.start * matrix.row_len).expect("a tile of less than 16 GB"),
                rows: rows.len() as u8,
                first: strip.offsets.is_empty(),
                last: false,
                columns: [0; PATTERNS],
                bias: of(matrix.bias, 0.0),
                scales: of(matrix.scales, 1.0),
            };
            let here = || block.clone().filter(|&column| patterns[column] != 0);
            here().for_each(|column| panel.columns[patterns[column] - 1] += 1);
            let [columns, weights] = panel.lens();
            if columns > 0 || (b == 0 && total == 0) {
                // Positions of the next column of each pattern, and of its weights.
                let (mut to, mut at) = ([[0; 2]; PATTERNS], [strip.offsets.len(), strip.weights.len()]);
                for (i, (to, &n)) in to.iter_mut().zip(&panel.columns).enumerate() {
                    *to = at;
                    at = [at[0] + usize::from(n), at[1] + usize::from(n) * (i + 1).count_ones() as usize];
                }
                strip.offsets.resize(strip.offsets.len() + columns, 0);
                strip.weights.resize(strip.weights.len() + weights, 0.0);
                for column in here() {
                    let [offset, weight] = &mut to[patterns[column] - 1];
                    let bytes = u16::try_from(4 * (matrix.offset)(b, column));
                    strip.offsets[*offset] = bytes.expect("a block of less than 64 kB");
                    *offset += 1;
                    for w in dense[column].iter().filter(|w| **w != 0.0) {
                        strip.weights[*weight] = *w;
                        *weight += 1;
                    }
                }
                panel.last = strip.offsets.len() == total;
                strip.panels.push(panel);
            }
            strip.starts.push([strip.panels.len(), strip.offsets.len(), strip.weights.len()]);
        }
        dense.fill([0.0; ROWS]);
        strip
    }
}

/// The nonzero weights, as bits.
fn pattern(weights: &[f32; ROWS]) -> usize {
    weights.iter().enumerate().map(|(r, w)| usize::from(*w != 0.0) << r).sum()
}

/// Panels with their columns and weights.
#[derive(Clone, Copy)]
pub(super) struct PanelStream<'a> {
    panels: &'a [Panel],
    offsets: &'a [u16],
    weights: &'a [f32],
    /// Whether the panels' scales apply.
    scaled: bool,
    row_len: usize,
}

/// Panels of one output tile, for one block of inputs.
#[derive(Clone, Copy)]
pub(super) struct PanelTask<'a> {
    pub(super) stream: PanelStream<'a>,
    /// The block's inputs.
    pub(super) input: *const f32,
    pub(super) out: *mut f32,
    /// Added to the outputs, in their layout; may be null.
    pub(super) residual: *const f32,
    /// Bounds that the outputs are clamped to.
    pub(super) bounds: (f32, f32),
}

impl LaidOut for PanelTask<'_> {
    /// # Safety
    /// `input` can be read at the offsets of all columns; `out` can be written and `residual` read (unless null) at the
    /// offsets of all panels' rows, for `vectors` vectors each. No other thread uses these outputs. The panels' columns and
    /// weights add up to those of the stream.
    #[inline(always)]
    unsafe fn run<S: Simd, const STEP: usize, const FOLDED: bool>(self, s: S, vectors: usize) {
        s.call(Slices::<STEP, FOLDED> { tile: self, vectors });
    }
}

/// All panels, a few vectors of their rows at a time.
struct Slices<'a, const STEP: usize, const FOLDED: bool> {
    tile: PanelTask<'a>,
    vectors: usize,
}

impl<const STEP: usize, const FOLDED: bool> Kernel for Slices<'_, STEP, FOLDED> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // Vectors of sums per row that leave registers for inputs and all four weights, which compilers load together;
        // wide vectors have twice as many registers.
        let most = if S::LANES > COLUMNS { 4 } else { 2 };
        let slices = self.vectors.div_ceil(most);
        for i in 0..slices {
            let slice = crate::threads::split(self.vectors, slices, i);
            let part = Part { from: slice.start, of: self.vectors };
            macro_rules! lengths {
                ($($n:literal)*) => {
                    match slice.len() {
                        // SAFETY: the contract of `PanelTask::run`, for a part of its vectors.
                        $($n => unsafe { self.tile.slice::<S, $n, STEP, FOLDED>(s, part) },)*
                        n => unreachable!("slices of {n} vectors"),
                    }
                };
            }
            lengths!(1 2 3 4);
        }
    }
}

impl PanelTask<'_> {
    /// Computes `N` vectors of each row of the panels.
    ///
    /// # Safety
    /// As [`PanelTask`]'s [`LaidOut::run`], for the vectors of `part`.
    #[inline(always)]
    unsafe fn slice<S: Simd, const N: usize, const STEP: usize, const FOLDED: bool>(&self, s: S, part: Part) {
        let PanelStream { panels, offsets, weights, scaled, row_len } = self.stream;
        let (mut offset, mut weight) = (offsets.as_ptr(), weights.as_ptr());
        for panel in panels {
            let row = |r: usize| panel.out as usize + r * row_len;
            let rows = panel.rows as usize;
            // Missing rows are prefetched too: with a fixed count the loop is unrolled.
            for r in 0..ROWS {
                for v in part.from..part.from + N {
                    let ahead = row(r) + v * S::LANES + ROW_PREFETCH;
                    if panel.first && panel.last {
                        s.prefetch_write(self.out.wrapping_add(ahead));
                    }
                    if panel.last && !self.residual.is_null() {
                        s.prefetch(self.residual.wrapping_add(ahead));
                    }
                }
            }
            // SAFETY: guaranteed by the caller. Missing rows are neither read nor written, and a panel has as many columns
            // and weights as its patterns count.
            unsafe {
                let mut sums = [Sums::<S, N>::splat(s, 0.0); ROWS];
                for (r, sums) in sums.iter_mut().enumerate() {
                    *sums = if panel.first || r >= rows {
                        Sums::splat(s, if scaled { 0.0 } else { panel.bias[r] })
                    } else {
                        Sums::load::<FOLDED>(s, self.out.add(row(r)), part)
                    };
                }
                macro_rules! columns {
                    ($($pattern:literal: $($row:literal)+;)+) => {$(
                        for _ in 0..panel.columns[$pattern - 1] {
                            s.prefetch(weight.wrapping_byte_add(PREFETCH_BYTES));
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
                if scaled && panel.last {
                    for (r, sums) in sums.iter_mut().enumerate() {
                        sums.scale(s, panel.scales[r], panel.bias[r]);
                    }
                }
                // Short enough to be unrolled; otherwise the sums would live in memory.
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
