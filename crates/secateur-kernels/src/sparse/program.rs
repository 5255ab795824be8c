//! Sparse weights as a stream for the row kernel.

use super::values::{Matrix, Values};
use crate::simd::Simd;
use std::ops::Range;

/// Weights of an output row that the kernel processes together.
pub(super) const GROUP: usize = 4;

/// Byte offsets of a group's inputs in the block.
pub(super) type Offsets = [u16; GROUP];

/// The part of an output row in a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// Offset of the row in the output tile, in values.
    pub(super) out: u32,
    pub(super) bias: f32,
    /// Scale of the output, if the weights are scaled.
    pub(super) scale: f32,
    /// Whole groups, which follow the partial one.
    pub(super) groups: u32,
    /// Weights of the partial group, stored at its end; 0 if there is none.
    pub(super) partial: u8,
    /// Whether no earlier block has weights of the row: then its sum starts with the bias.
    pub(super) first: bool,
    /// Whether no later block has: then residual and activation are applied.
    pub(super) last: bool,
}

impl Row {
    /// Number of groups, including the partial one.
    fn len(&self) -> usize {
        self.groups as usize + usize::from(self.partial > 0)
    }
}

/// Parts of nearly equal work that threads may divide the outputs into.
const PARTS: usize = 16;

/// Fixed work per row, in weights.
const ROW_WORK: usize = 8;

/// The nonzero weights of a matrix, by blocks of inputs, then by outputs.
#[derive(Clone, Debug)]
pub(super) struct Program {
    rows: Vec<Row>,
    /// The offsets of each group.
    offsets: Vec<Offsets>,
    /// The weights of each group; partial groups are padded with zeros.
    weights: Values,
    scaled: bool,
    /// Numbers of rows and groups before each part of each block, and in total.
    starts: Vec<(usize, usize)>,
    parts: Vec<Range<usize>>,
    nnz: usize,
}

impl Program {
    /// `sorted` orders the outputs of a part by their number of weights in each block.
    pub(super) fn new<I: Iterator<Item = (usize, f32)>>(
        matrix: &Matrix<'_, impl Fn(usize) -> I, impl Fn(usize, usize) -> usize>,
        sorted: bool,
    ) -> Program {
        let Matrix { outputs, row_len, bias, blocks, .. } = *matrix;
        let row = |o| (matrix.nonzeros)(o).map(|(column, w)| (column as u32, w)).collect();
        let weights: Vec<Vec<(u32, f32)>> = (0..outputs).map(row).collect();
        let parts = split(&weights);
        let groups = weights.iter().map(|row| groups(row, blocks)).sum();
        let mut values = Values::new(matrix.values);
        values.reserve(GROUP * groups);
        let mut program = Program {
            rows: vec![],
            offsets: Vec::with_capacity(groups),
            weights: values,
            scaled: matrix.scales.is_some(),
            starts: vec![],
            nnz: weights.iter().map(Vec::len).sum(),
            parts,
        };
        let mut done = vec![0; outputs];
        for (b, block) in blocks.iter().enumerate() {
            for part in program.parts.clone() {
                program.starts.push((program.rows.len(), program.offsets.len()));
                let rest = |o: usize, done: &[usize]| &weights[o][done[o]..];
                let count = |o: usize| rest(o, &done).partition_point(|w| (w.0 as usize) < block.end);
                let mut rows: Vec<(usize, usize)> = part.map(|o| (count(o), o)).collect();
                if sorted {
                    rows.sort_unstable();
                }
                for (count, o) in rows {
                    let rest = rest(o, &done);
                    let here = &rest[..count];
                    if here.is_empty() && (b > 0 || !weights[o].is_empty()) {
                        continue;
                    }
                    program.rows.push(Row {
                        out: u32::try_from(o * row_len).expect("a tile of less than 16 GB"),
                        bias: bias.map_or(0.0, |b| b[o]),
                        scale: matrix.scales.map_or(1.0, |s| s[o]),
                        groups: (here.len() / GROUP) as u32,
                        partial: (here.len() % GROUP) as u8,
                        first: done[o] == 0,
                        last: here.len() == rest.len(),
                    });
                    program.push(here, |column| (matrix.offset)(b, column));
                    done[o] += here.len();
                }
            }
        }
        program.starts.push((program.rows.len(), program.offsets.len()));
        program
    }

    fn push(&mut self, weights: &[(u32, f32)], offset: impl Fn(usize) -> usize) {
        let (partial, whole) = weights.split_at(weights.len() % GROUP);
        for some in std::iter::once(partial).chain(whole.chunks(GROUP)).filter(|some| !some.is_empty()) {
            let (mut offsets, mut values) = ([0; GROUP], [0.0; GROUP]);
            for (i, &(column, weight)) in (GROUP - some.len()..).zip(some) {
                offsets[i] = u16::try_from(4 * offset(column as usize)).expect("a block of less than 64 kB");
                values[i] = weight;
            }
            self.offsets.push(offsets);
            self.weights.extend(&values);
        }
    }

    /// Nonzero weights.
    pub(super) fn nnz(&self) -> usize {
        self.nnz
    }

    /// Bytes of the rows and groups.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.rows[..]) + size_of_val(&self.offsets[..]) + self.weights.bytes()
    }

    /// Number of parts that the outputs are divided into.
    pub(super) fn parts(&self) -> usize {
        self.parts.len()
    }

    /// The outputs of some parts.
    pub(super) fn outputs(&self, parts: Range<usize>) -> Range<usize> {
        self.parts[parts.start].start..self.parts[parts.end - 1].end
    }

    /// Length of the scratch memory that [`Program::take`] needs.
    pub(super) fn scratch_len(&self) -> usize {
        self.weights.scratch_len(self.rows.iter().map(|row| GROUP * row.len()))
    }

    /// Whether some parts have anything to do in a block.
    pub(super) fn meet(&self, block: usize, parts: Range<usize>) -> bool {
        let [from, to] = self.ends(block, parts);
        from.0 < to.0
    }

    fn ends(&self, block: usize, parts: Range<usize>) -> [(usize, usize); 2] {
        [parts.start, parts.end].map(|part| self.starts[block * self.parts.len() + part])
    }

    /// Calls `run` with the rows of `parts` in a block; if weights must be widened, several times with a few rows each.
    #[inline(always)]
    pub(super) fn take<S: Simd>(
        &self,
        s: S,
        block: usize,
        parts: Range<usize>,
        scratch: &mut [f32],
        mut run: impl FnMut(RowStream<'_>),
    ) {
        let [from, to] = self.ends(block, parts);
        let (mut rows, mut first) = (&self.rows[from.0..to.0], from.1);
        while !rows.is_empty() {
            let (mut count, mut groups) = (rows.len(), to.1 - first);
            if !self.weights.are_wide() {
                (count, groups) = (0, 0);
                while let Some(row) =
                    rows.get(count).filter(|row| GROUP * (groups + row.len()) <= scratch.len())
                {
                    count += 1;
                    groups += row.len();
                }
            }
            let (here, rest) = rows.split_at(count);
            run(RowStream {
                rows: here,
                offsets: &self.offsets[first..first + groups],
                weights: self.weights.widened(s, GROUP * first..GROUP * (first + groups), scratch),
                scaled: self.scaled,
            });
            (rows, first) = (rest, first + groups);
        }
    }
}

/// Rows with their groups.
#[derive(Clone, Copy)]
pub(super) struct RowStream<'a> {
    pub(super) rows: &'a [Row],
    pub(super) offsets: &'a [Offsets],
    pub(super) weights: &'a [f32],
    /// Whether the rows' scales apply.
    pub(super) scaled: bool,
}

/// Number of groups of a row in all blocks.
fn groups(row: &[(u32, f32)], blocks: &[Range<usize>]) -> usize {
    let mut rest = row;
    let of_block = |block: &Range<usize>| {
        let (here, later) = rest.split_at(rest.partition_point(|w| (w.0 as usize) < block.end));
        rest = later;
        here.len().div_ceil(GROUP)
    };
    blocks.iter().map(of_block).sum()
}

/// Divides the outputs into parts of nearly equal work. Each part but the last has an even number of outputs, so that no
/// cache line of a tile belongs to two parts.
fn split(weights: &[Vec<(u32, f32)>]) -> Vec<Range<usize>> {
    let work = |rows: &[Vec<_>]| rows.iter().map(|r| r.len() + ROW_WORK).sum::<usize>();
    let goal = work(weights).div_ceil(PARTS);
    let (mut parts, mut start, mut sum) = (vec![], 0, 0);
    for (i, pair) in weights.chunks(2).enumerate() {
        let end = 2 * i + pair.len();
        sum += work(pair);
        if sum >= goal * (parts.len() + 1) || end == weights.len() {
            parts.push(start..end);
            start = end;
        }
    }
    parts
}
