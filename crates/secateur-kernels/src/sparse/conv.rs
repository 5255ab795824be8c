//! Convolutions on tiles with sparse weights.

use super::kernel::Rows;
use super::program::Program;
use crate::activation::{Activation, apply_in};
use crate::conv::ConvSpec;
use crate::simd::{Kernel, Simd};
use crate::threads::{SharedMut, split, tasks, with_workspace};
use crate::tiled::{Pack, Tiling};
use std::ops::Range;

/// Images of at most so many tiles are walked through block by block, since their weights are larger than their
/// activations; larger ones tile by tile.
const SMALL: usize = 8;

/// A convolution (cross-correlation, as in ONNX and PyTorch) on tiles that stores and multiplies only the
/// weights that aren't zero.
///
/// Values of the input that only zero weights meet don't count, NaN and infinities among them.
#[derive(Clone, Debug)]
pub struct SparseConv {
    input: Tiling,
    output: Tiling,
    pack: Pack,
    program: Program,
}

impl SparseConv {
    /// Packs `weights` (`[out_channels, in_channels / groups, kh, kw]`) and `bias` (`[out_channels]`) of a
    /// convolution over two spatial axes, the input of which is tiled as `input`.
    ///
    /// # Panics
    /// If the spec has no meaning (see [`ConvSpec`]) or other than two axes, its kernel doesn't fit into the
    /// padded input, or a slice's length or the tiling doesn't fit it.
    pub fn new(weights: &[f32], bias: Option<&[f32]>, spec: &ConvSpec, input: &Tiling) -> SparseConv {
        let (geometry, output) = input.convolved(spec);
        let depth = spec.in_channels / spec.groups * geometry.taps();
        assert_eq!(weights.len(), spec.out_channels * depth, "weights of {spec:?}");
        assert!(bias.is_none_or(|b| b.len() == spec.out_channels), "bias of {spec:?}");
        let pack = Pack::new(&geometry, input, &output);
        let nonzeros = |o: usize| {
            let first = o / (spec.out_channels / spec.groups) * depth;
            let row = weights[o * depth..(o + 1) * depth].iter().enumerate();
            row.filter(|(_, w)| **w != 0.0).map(move |(i, w)| (first + i, *w))
        };
        let offset = |block, column| pack.offset(block, column);
        let channels = spec.out_channels;
        let program = Program::new(channels, output.channel_len, bias, &pack.blocks, nonzeros, offset);
        SparseConv { input: input.clone(), output, pack, program }
    }

    /// The tiling of the input.
    pub fn input(&self) -> &Tiling {
        &self.input
    }

    /// The tiling of the output.
    pub fn output(&self) -> &Tiling {
        &self.output
    }

    /// Weights that aren't zero.
    pub fn nnz(&self) -> usize {
        self.program.nnz()
    }

    /// Memory that the weights take up.
    pub fn bytes(&self) -> usize {
        self.program.bytes()
    }

    /// out = act(conv(x) + bias + residual) for `batch` images, on the current rayon pool.
    ///
    /// `x` is tiled as [`SparseConv::input`], `out` and `residual` as [`SparseConv::output`].
    ///
    /// # Panics
    /// If a slice's length doesn't fit the tiling.
    pub fn run(
        &self,
        batch: usize,
        x: &[f32],
        residual: Option<&[f32]>,
        activation: Activation,
        out: &mut [f32],
    ) {
        assert_eq!(x.len(), self.input.len(batch), "input of {:?}", self.input);
        assert_eq!(out.len(), self.output.len(batch), "output of {:?}", self.output);
        assert!(residual.is_none_or(|r| r.len() == out.len()), "residual of {:?}", self.output);
        if out.is_empty() {
            return;
        }
        let tiles = batch * self.output.tiles();
        let [by_tile, by_output] = divide(tiles, self.program.parts());
        let shared = SharedMut::new(out);
        tasks(by_tile * by_output, true, |i| {
            with_workspace(self.pack.scratch(), |scratch| {
                self.output.isa.run(Task {
                    conv: self,
                    x,
                    residual,
                    activation,
                    out: shared,
                    tiles: split(tiles, by_tile, i / by_output),
                    parts: split(self.program.parts(), by_output, i % by_output),
                    scratch,
                });
            });
        });
    }
}

/// Into how many parts the tiles and the outputs are divided for the current pool's threads: by tiles where that
/// is fair, since all outputs of a tile share its packed input.
fn divide(tiles: usize, parts: usize) -> [usize; 2] {
    let threads = rayon::current_num_threads();
    if tiles >= 8 * threads {
        [4 * threads, 1]
    } else if tiles.is_multiple_of(threads) {
        [threads, 1]
    } else {
        [1, threads.min(parts)]
    }
}

/// Some outputs of some tiles, tiles counted through the batch.
struct Task<'a> {
    conv: &'a SparseConv,
    x: &'a [f32],
    residual: Option<&'a [f32]>,
    activation: Activation,
    out: SharedMut<'a, f32>,
    tiles: Range<usize>,
    parts: Range<usize>,
    scratch: &'a mut [f32],
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let image = self.conv.output.tiles();
        let group = if image <= SMALL { image } else { 1 };
        let mut start = self.tiles.start;
        while start < self.tiles.end {
            let end = (start / group * group + group).min(self.tiles.end);
            for block in 0..self.conv.pack.blocks.len() {
                for tile in start..end {
                    self.block(s, tile, block);
                }
            }
            start = end;
        }
    }
}

impl Task<'_> {
    #[inline(always)]
    fn block<S: Simd>(&mut self, s: S, tile: usize, block: usize) {
        let SparseConv { input, output, pack, program } = self.conv;
        let (rows, groups) = program.block(block, self.parts.clone());
        let (bounds, rest) = self.activation.clamp_then_rest();
        if !rows.is_empty() {
            let [_, columns] = output.grid;
            let (image, place) = (tile / output.tiles(), tile % output.tiles());
            let place = [place / columns, place % columns];
            let x = &self.x[image * input.len(1)..];
            // SAFETY: lengths were checked by `run`, and tasks differ in their tiles or in the outputs.
            unsafe {
                let input = pack.block(s.narrow(), x.as_ptr(), block, place, self.scratch.as_mut_ptr());
                let at = tile * output.tile_len;
                let residual = self.residual.map_or(std::ptr::null(), |r| r.as_ptr().add(at));
                let out = self.out.at(at);
                Rows { rows, groups, input, out, residual, bounds }.run(s, output.rows, pack.step);
            }
        }
        if rest != Activation::None && block + 1 == pack.blocks.len() {
            let outputs = program.outputs(self.parts.clone());
            let at = tile * output.tile_len + outputs.start * output.channel_len;
            // SAFETY: tasks differ in their tiles or in the outputs.
            apply_in(s, rest, unsafe { self.out.slice(at, outputs.len() * output.channel_len) });
        }
    }
}

#[cfg(test)]
mod tests;
