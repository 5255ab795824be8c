//! Weights of the pattern 2:4: two of every four inputs, with two bits each that name the input. The lanes of a vector are
//! rows, all at the same four inputs.

mod bytes;
mod float;

use super::rows::{STREAMS, streams};
use super::value::{Cells, Input, Value};
use super::{PackedRows, RowSums};
use crate::simd::{Isa, Kernel, MAX_LANES, Simd};
use std::fmt::Debug;
use std::ops::Range;

/// Inputs of which two weights are kept.
const GROUP: usize = 4;

/// For each group of as many rows as lanes, blocks along the inputs: two bits per weight that name its input, then the
/// weights.
#[derive(Debug)]
pub(super) struct Pairs<T> {
    outputs: usize,
    lanes: usize,
    /// Blocks per group of rows.
    count: usize,
    blocks: Cells<i8>,
    of: std::marker::PhantomData<T>,
}

/// Whether at most two of every four weights of each row are nonzero.
pub(super) fn holds<T: Default + PartialEq>(inputs: usize, weights: &[T]) -> bool {
    let nnz = |weights: &[T]| weights.iter().filter(|w| **w != T::default()).count();
    weights.chunks(inputs).all(|row| row.chunks(GROUP).all(|group| nnz(group) <= 2))
}

/// A weight of a pair.
pub(super) trait Paired: Value {
    /// Inputs of a block.
    const INPUTS: usize;

    /// Rows per group.
    fn lanes(isa: Isa) -> usize;
    fn block_bytes(lanes: usize) -> usize;
    /// Writes weight `k` (0 or 1) of the block's `four`-th four inputs, in a lane, and `pick`, its input among the four; `at`
    /// is `[four, k, lane]`.
    fn put(self, block: &mut [i8], lanes: usize, at: [usize; 3], pick: u8);

    /// Sets `sums`, for each row of each group in order, to the sums of `count` blocks.
    ///
    /// # Safety
    /// `count` blocks with the lanes of `S` can be read at each of `blocks`, and `count` · [`Paired::INPUTS`] inputs and 16
    /// bytes more at `x`.
    unsafe fn blocks<S: Simd, const R: usize>(
        s: S,
        blocks: [*const i8; R],
        count: usize,
        x: *const Self::X,
        sums: &mut [Self::Sum],
    );
}

impl<T: Paired> Pairs<T> {
    /// # Panics
    /// If the weights do not have the pattern.
    pub(super) fn new(isa: Isa, inputs: usize, weights: &[T]) -> Pairs<T> {
        assert!(holds(inputs, weights), "weights in pairs that aren't 2:4");
        let (outputs, lanes) = (weights.len() / inputs, T::lanes(isa));
        let (count, size) = (inputs.div_ceil(T::INPUTS), T::block_bytes(lanes));
        let mut blocks: Cells<i8> = Cells::zeroed(outputs.div_ceil(lanes) * count * size);
        for (o, row) in weights.chunks(inputs).enumerate() {
            for (b, part) in row.chunks(T::INPUTS).enumerate() {
                let block = &mut blocks.as_mut_slice()[(o / lanes * count + b) * size..][..size];
                for (four, group) in part.chunks(GROUP).enumerate() {
                    let kept = group.iter().enumerate().filter(|(_, w)| **w != T::default());
                    for (k, (i, w)) in kept.enumerate() {
                        w.put(block, lanes, [four, k, o % lanes], i as u8);
                    }
                }
            }
        }
        Pairs { outputs, lanes, count, blocks, of: std::marker::PhantomData }
    }
}

impl<T: Paired> PackedRows for Pairs<T> {
    fn bytes(&self) -> usize {
        self.blocks.bytes()
    }

    fn parts(&self) -> usize {
        self.outputs.div_ceil(self.lanes)
    }

    fn run(&self, isa: Isa, parts: Range<usize>, x: &Input, out: RowSums) {
        assert!(self.lanes == T::lanes(isa) && parts.end <= self.parts());
        let x = T::inputs(x);
        assert!(x.len() >= self.count * T::INPUTS + 16);
        isa.run(Groups { form: self, groups: parts, x, out });
    }
}

struct Groups<'a, T: Value> {
    form: &'a Pairs<T>,
    groups: Range<usize>,
    x: &'a [T::X],
    out: RowSums<'a>,
}

impl<T: Paired> Kernel for Groups<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (streams, rest) = streams(self.groups.clone());
        for at in streams {
            self.groups_at::<S, STREAMS>(s, at);
        }
        for group in rest {
            self.groups_at(s, [group]);
        }
    }
}

impl<T: Paired> Groups<'_, T> {
    #[inline(always)]
    fn groups_at<S: Simd, const R: usize>(&self, s: S, groups: [usize; R]) {
        let Pairs { outputs, lanes, count, .. } = *self.form;
        let size = count * T::block_bytes(lanes);
        let blocks = groups.map(|g| self.form.blocks.as_slice()[g * size..][..size].as_ptr());
        let mut sums = [T::Sum::default(); STREAMS * MAX_LANES];
        // SAFETY: `size` bytes, `count` blocks, were sliced of each group; `PackedRows::run` has checked the inputs.
        unsafe { T::blocks(s, blocks, count, self.x.as_ptr(), &mut sums[..R * lanes]) };
        for (group, sums) in groups.into_iter().zip(sums.chunks(lanes)) {
            let first = group * lanes;
            for (row, sum) in (first..outputs.min(first + lanes)).zip(sums) {
                // SAFETY: groups have disjoint rows.
                unsafe { self.out.write(row, T::to_f32(*sum)) };
            }
        }
    }
}
