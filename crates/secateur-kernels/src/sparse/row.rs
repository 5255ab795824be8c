//! Single rows by sparse matrices.

use super::program::{Group, Program, Row};
use crate::activation::{Activation, apply_in};
use crate::simd::{Isa, Kernel, Simd};
use crate::threads::{self, SharedMut};
use std::ops::Range;

/// Inputs of a block: as many as two bytes tell apart.
const BLOCK: usize = 1 << 14;

/// Groups by which weights are asked for before they are used: for matrices that lie in memory.
const AHEAD: usize = 128;

/// A linear layer that stores and multiplies only the weights that aren't zero, for one row or a few: what a
/// classifier's head or the decoding of a token needs. Where there are more rows they belong on tiles (see
/// [`Tiling::of_tokens`](crate::tiled::Tiling::of_tokens)): a linear layer is a
/// [`SparseConv`](super::SparseConv) of 1 × 1 there.
///
/// Values of the input that only zero weights meet don't count, NaN and infinities among them.
#[derive(Clone, Debug)]
pub struct SparseRow {
    isa: Isa,
    inputs: usize,
    outputs: usize,
    blocks: Vec<Range<usize>>,
    program: Program,
}

impl SparseRow {
    /// Packs `weights` (`[outputs, inputs]`) and `bias` (`[outputs]`).
    ///
    /// # Panics
    /// If the weights aren't a whole number of rows or the bias has another length.
    pub fn new(inputs: usize, weights: &[f32], bias: Option<&[f32]>) -> SparseRow {
        SparseRow::with(Isa::best(), inputs, weights, bias)
    }

    fn with(isa: Isa, inputs: usize, weights: &[f32], bias: Option<&[f32]>) -> SparseRow {
        let outputs = weights.len() / inputs;
        assert_eq!(weights.len(), outputs * inputs, "weights of {inputs} inputs");
        assert!(bias.is_none_or(|b| b.len() == outputs), "bias of {outputs} outputs");
        let nonzeros = |o: usize| {
            let row = weights[o * inputs..(o + 1) * inputs].iter().copied().enumerate();
            row.filter(|(_, w)| *w != 0.0)
        };
        let count = inputs.div_ceil(BLOCK);
        let blocks: Vec<Range<usize>> = (0..count).map(|b| threads::split(inputs, count, b)).collect();
        let offset = |block: usize, column: usize| column - blocks[block].start;
        let program = Program::new(outputs, 1, bias, &blocks, nonzeros, offset, true);
        SparseRow { isa, inputs, outputs, blocks, program }
    }

    /// Weights that aren't zero.
    pub fn nnz(&self) -> usize {
        self.program.nnz()
    }

    /// Memory that the weights take up.
    pub fn bytes(&self) -> usize {
        self.program.bytes()
    }

    /// out = act(x W + bias + residual) for rows `[rows, inputs]`, on the current rayon pool.
    ///
    /// # Panics
    /// If a slice's length doesn't fit the others or the sizes.
    pub fn run(&self, x: &[f32], residual: Option<&[f32]>, activation: Activation, out: &mut [f32]) {
        assert!(residual.is_none_or(|r| r.len() == out.len()), "residual of {} values", out.len());
        if out.is_empty() {
            return;
        }
        let rows = out.len() / self.outputs;
        assert!(
            out.len() == rows * self.outputs && x.len() == rows * self.inputs,
            "{} and {} values for rows of {} and {}",
            x.len(),
            out.len(),
            self.inputs,
            self.outputs
        );
        let shared = SharedMut::new(out);
        let parts = self.program.parts();
        threads::ranges(parts, rows * self.nnz() / parts, |parts| {
            let outputs = self.program.outputs(parts.clone());
            for row in 0..rows {
                let at = row * self.outputs + outputs.start;
                let task = Task {
                    layer: self,
                    parts: parts.clone(),
                    x: &x[row * self.inputs..(row + 1) * self.inputs],
                    residual: residual.map(|r| &r[at..at + outputs.len()]),
                    activation,
                    // SAFETY: parts differ in their outputs.
                    out: unsafe { shared.slice(at, outputs.len()) },
                };
                self.isa.run(task);
            }
        });
    }
}

/// Some outputs of a row.
struct Task<'a> {
    layer: &'a SparseRow,
    parts: Range<usize>,
    x: &'a [f32],
    residual: Option<&'a [f32]>,
    activation: Activation,
    out: &'a mut [f32],
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Task { layer, parts, x, residual, activation, out } = self;
        let first = layer.program.outputs(parts.clone()).start;
        for (i, block) in layer.blocks.iter().enumerate() {
            let (rows, groups) = layer.program.block(i, parts.clone());
            let mut next = groups.as_ptr();
            for row in rows {
                let y = &mut out[row.out as usize - first];
                // SAFETY: the offsets of a block's groups lie in it, and the rows' groups follow one another.
                let sum = unsafe { sum(s.narrow(), row, &mut next, x[block.clone()].as_ptr()) };
                *y = sum + if row.first { row.bias } else { *y };
            }
        }
        if let Some(residual) = residual {
            out.iter_mut().zip(residual).for_each(|(y, r)| *y += r);
        }
        apply_in(s, activation, out);
    }
}

/// Sums of groups that don't wait for each other.
const SUMS: usize = 4;

/// The sum of a row's products with its inputs in a block, which begins at `x`; moves `next` over its groups.
///
/// # Safety
/// The row's groups lie at `next`, and the inputs at their offsets can be read.
#[inline(always)]
unsafe fn sum<S: Simd>(s: S, row: &Row, next: &mut *const Group, x: *const f32) -> f32 {
    let mut sums = [s.zero(); SUMS];
    // SAFETY: the caller's promise.
    unsafe {
        // Inputs `from..` of the next group, times its weights.
        let mut add = |sum: &mut S::V, from: usize| {
            let group = *next;
            s.prefetch(group.wrapping_add(AHEAD).cast());
            // One load for the four offsets: loads are what limits the loop.
            let offsets = (&raw const (*group).offsets).cast::<u64>().read_unaligned().to_le();
            let value = |i: usize| {
                if i < from { 0.0 } else { *x.byte_add((offsets >> (16 * i)) as usize & 0xffff) }
            };
            let weights = s.load_quads((&raw const (*group).weights).cast());
            *sum = s.fma(s.quad([value(0), value(1), value(2), value(3)]), weights, *sum);
            *next = group.add(1);
        };
        match row.partial {
            0 => {}
            partial => add(&mut sums[0], 4 - partial as usize),
        }
        for _ in 0..row.groups as usize / SUMS {
            sums.iter_mut().for_each(|sum| add(sum, 0));
        }
        for sum in &mut sums[..row.groups as usize % SUMS] {
            add(sum, 0);
        }
    }
    let [a, b, c, d] = sums;
    let [a, b, c, d, ..] = s.to_array(s.add(s.add(a, b), s.add(c, d)));
    (a + b) + (c + d)
}

#[cfg(test)]
mod tests;
