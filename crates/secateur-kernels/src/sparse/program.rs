//! Sparse weights as a stream for the kernel of rows.

use std::ops::Range;

/// Four weights of an output row and where their inputs lie in the block, in bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Group {
    pub(super) offsets: [u16; 4],
    pub(super) weights: [f32; 4],
}

/// An output row's part in a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// Where the row lies in the output tile, in values.
    pub(super) out: u32,
    pub(super) bias: f32,
    /// Whole groups, which follow the partial one.
    pub(super) groups: u32,
    /// Weights of the partial group, which are its last ones; none: there's no such group.
    pub(super) partial: u8,
    /// No block before this one has weights of the row: it begins with its bias.
    pub(super) first: bool,
    /// No later block has: residual and activation are due.
    pub(super) last: bool,
}

/// Parts of the outputs, of nearly equal work, between which threads may divide them.
const PARTS: usize = 16;

/// The work of a row itself, in weights.
const ROW_WORK: usize = 8;

/// The nonzero weights of a matrix, block of inputs by block, and in each output by output.
#[derive(Clone, Debug)]
pub(super) struct Program {
    rows: Vec<Row>,
    groups: Vec<Group>,
    /// Rows and groups before each part of each block, and at the end all of them.
    starts: Vec<(usize, usize)>,
    parts: Vec<Range<usize>>,
    nnz: usize,
}

impl Program {
    /// Of `outputs` rows, `row_len` values apart in the output tile.
    ///
    /// `nonzeros(o)` are the columns and values of output `o` in ascending order; `blocks` share out the columns,
    /// and `offset(block, column)` says where a column's input lies in its block, in values. `sorted` orders the
    /// outputs of a part by their weights in each block.
    pub(super) fn new<I: Iterator<Item = (usize, f32)>>(
        outputs: usize,
        row_len: usize,
        bias: Option<&[f32]>,
        blocks: &[Range<usize>],
        nonzeros: impl Fn(usize) -> I,
        offset: impl Fn(usize, usize) -> usize,
        sorted: bool,
    ) -> Program {
        let weights: Vec<Vec<(usize, f32)>> = (0..outputs).map(|o| nonzeros(o).collect()).collect();
        let parts = split(&weights);
        let mut program = Program {
            rows: vec![],
            groups: vec![],
            starts: vec![],
            nnz: weights.iter().map(Vec::len).sum(),
            parts,
        };
        let mut done = vec![0; outputs];
        for (b, block) in blocks.iter().enumerate() {
            for part in program.parts.clone() {
                program.starts.push((program.rows.len(), program.groups.len()));
                let rest = |o: usize, done: &[usize]| &weights[o][done[o]..];
                let count = |o: usize| rest(o, &done).partition_point(|w| w.0 < block.end);
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
                        groups: (here.len() / 4) as u32,
                        partial: (here.len() % 4) as u8,
                        first: done[o] == 0,
                        last: here.len() == rest.len(),
                    });
                    program.push(here, |column| offset(b, column));
                    done[o] += here.len();
                }
            }
        }
        program.starts.push((program.rows.len(), program.groups.len()));
        program
    }

    fn push(&mut self, weights: &[(usize, f32)], offset: impl Fn(usize) -> usize) {
        let (partial, whole) = weights.split_at(weights.len() % 4);
        for four in std::iter::once(partial).chain(whole.chunks(4)).filter(|four| !four.is_empty()) {
            let mut group = Group { offsets: [0; 4], weights: [0.0; 4] };
            for (i, &(column, weight)) in (4 - four.len()..).zip(four) {
                group.offsets[i] = u16::try_from(4 * offset(column)).expect("a block of less than 64 kB");
                group.weights[i] = weight;
            }
            self.groups.push(group);
        }
    }

    /// Nonzero weights.
    pub(super) fn nnz(&self) -> usize {
        self.nnz
    }

    /// Memory of rows and groups.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.rows[..]) + size_of_val(&self.groups[..])
    }

    /// Into how many parts the outputs are cut.
    pub(super) fn parts(&self) -> usize {
        self.parts.len()
    }

    /// The outputs of some parts.
    pub(super) fn outputs(&self, parts: Range<usize>) -> Range<usize> {
        self.parts[parts.start].start..self.parts[parts.end - 1].end
    }

    /// The rows of some parts in a block, and their groups.
    pub(super) fn block(&self, block: usize, parts: Range<usize>) -> (&[Row], &[Group]) {
        let (from, to) = (block * self.parts.len() + parts.start, block * self.parts.len() + parts.end);
        let (from, to) = (self.starts[from], self.starts[to]);
        (&self.rows[from.0..to.0], &self.groups[from.1..to.1])
    }
}

/// Cuts the outputs into parts of nearly equal work. An even number in each but the last, so that no cache line
/// of a tile belongs to two parts.
fn split(weights: &[Vec<(usize, f32)>]) -> Vec<Range<usize>> {
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
