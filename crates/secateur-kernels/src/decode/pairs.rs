//! Weights of the pattern 2:4: two of each four inputs, with two bits each that say which. The lanes of a vector
//! are rows, all at the same four inputs.

use super::rows::{STREAMS, ask_ahead, streams};
use super::value::{Cells, Float, Input};
use super::{Form, Rows};
use crate::simd::{Isa, Kernel, MAX_LANES, Simd};
use std::fmt::Debug;
use std::ops::Range;

/// Inputs of which two weights are kept.
const GROUP: usize = 4;

/// Weights of a row in a block: what a word of 32 bits has places for.
const WEIGHTS: usize = 16;

/// Inputs of a block.
const INPUTS: usize = WEIGHTS / 2 * GROUP;

/// For each group of as many rows as lanes, blocks along the inputs: a word for each lane, with two bits for each
/// weight, and then the weights, lane by lane.
#[derive(Debug)]
pub(super) struct Pairs<T> {
    outputs: usize,
    lanes: usize,
    /// Blocks of a group.
    count: usize,
    blocks: Cells<i8>,
    of: std::marker::PhantomData<T>,
}

const fn block_bytes<T>(lanes: usize) -> usize {
    lanes * (size_of::<u32>() + WEIGHTS * size_of::<T>())
}

/// Whether at most two of each four weights of each row aren't zero.
pub(super) fn holds<T: Default + PartialEq>(inputs: usize, weights: &[T]) -> bool {
    let nnz = |weights: &[T]| weights.iter().filter(|w| **w != T::default()).count();
    weights.chunks(inputs).all(|row| row.chunks(GROUP).all(|group| nnz(group) <= 2))
}

impl<T: Float> Pairs<T> {
    /// # Panics
    /// If the weights don't have the pattern.
    pub(super) fn new(isa: Isa, inputs: usize, weights: &[T]) -> Pairs<T> {
        assert!(holds(inputs, weights), "weights in pairs that aren't 2:4");
        let (outputs, lanes) = (weights.len() / inputs, isa.tile().lanes);
        let count = inputs.div_ceil(INPUTS);
        let mut blocks: Cells<i8> = Cells::zeroed(outputs.div_ceil(lanes) * count * block_bytes::<T>(lanes));
        let base = blocks.as_mut_slice();
        for (o, row) in weights.chunks(inputs).enumerate() {
            for (b, part) in row.chunks(INPUTS).enumerate() {
                let at = (o / lanes * count + b) * block_bytes::<T>(lanes);
                let block = &mut base[at..][..block_bytes::<T>(lanes)];
                let (words, values) = block.split_at_mut(lanes * size_of::<u32>());
                let mut word = 0u32;
                for (g, group) in part.chunks(GROUP).enumerate() {
                    let kept = group.iter().enumerate().filter(|(_, w)| **w != T::default());
                    for (k, (i, w)) in kept.enumerate() {
                        let step = 2 * g + k;
                        word |= (i as u32) << (2 * step);
                        let value =
                            &mut values[(step * lanes + o % lanes) * size_of::<T>()..][..size_of::<T>()];
                        // SAFETY: as many bytes as a weight's, any bits of which are one.
                        unsafe { value.as_mut_ptr().cast::<T>().write_unaligned(*w) };
                    }
                }
                let at = o % lanes * size_of::<u32>();
                words[at..at + size_of::<u32>()].copy_from_slice(&word.to_ne_bytes().map(|b| b as i8));
            }
        }
        Pairs { outputs, lanes, count, blocks, of: std::marker::PhantomData }
    }
}

impl<T: Float> Form for Pairs<T> {
    fn bytes(&self) -> usize {
        self.blocks.bytes()
    }

    fn parts(&self) -> usize {
        self.outputs.div_ceil(self.lanes)
    }

    fn run(&self, isa: Isa, parts: Range<usize>, x: &Input, out: Rows) {
        assert!(self.lanes == isa.tile().lanes && parts.end <= self.parts());
        assert!(x.floats.len() >= self.count * INPUTS);
        isa.run(Groups { form: self, groups: parts, x: x.floats, out });
    }
}

struct Groups<'a, T> {
    form: &'a Pairs<T>,
    groups: Range<usize>,
    x: &'a [f32],
    out: Rows<'a>,
}

impl<T: Float> Kernel for Groups<'_, T> {
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

impl<T: Float> Groups<'_, T> {
    #[inline(always)]
    fn groups_at<S: Simd, const R: usize>(&self, s: S, groups: [usize; R]) {
        let Pairs { outputs, lanes, count, .. } = *self.form;
        let size = count * block_bytes::<T>(lanes);
        let mut blocks = groups.map(|g| self.form.blocks.as_slice()[g * size..][..size].as_ptr());
        let mut sums = [[s.zero(); 2]; R];
        for b in 0..count {
            // SAFETY: there are `count` blocks in each group, and inputs for them.
            unsafe {
                let mut words = [s.load_words(blocks[0].cast()); R];
                for (words, block) in words.iter_mut().zip(blocks) {
                    ask_ahead(s, block, block_bytes::<T>(S::LANES));
                    *words = s.load_words(block.cast());
                }
                for g in 0..WEIGHTS / 2 {
                    let x = s.load_quads(self.x.as_ptr().add(b * INPUTS + g * GROUP));
                    for r in 0..R {
                        let weights = blocks[r].add(S::LANES * size_of::<u32>()).cast::<T>();
                        for (k, sum) in sums[r].iter_mut().enumerate() {
                            let w = T::load(s, weights.add((2 * g + k) * S::LANES));
                            *sum = s.fma(w, s.pick_quads(x, words[r]), *sum);
                            words[r] = s.shift_right::<2>(words[r]);
                        }
                    }
                }
                blocks.iter_mut().for_each(|block| *block = block.add(block_bytes::<T>(S::LANES)));
            }
        }
        for (group, [a, b]) in groups.into_iter().zip(sums) {
            let sums: [f32; MAX_LANES] = s.to_array(s.add(a, b));
            let first = group * lanes;
            for (row, sum) in (first..outputs.min(first + lanes)).zip(sums) {
                // SAFETY: each group has rows of its own.
                unsafe { self.out.write(row, sum) };
            }
        }
    }
}
