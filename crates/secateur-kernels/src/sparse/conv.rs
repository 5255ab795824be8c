//! Convolutions on tiles with sparse weights.

use super::kernel::{Place, Rows};
use super::panel::{Panels, Tile};
use super::program::Program;
use super::values::{Matrix, Stored};
use crate::activation::{Activation, apply_in};
use crate::conv::ConvSpec;
use crate::simd::{Kernel, Simd};
use crate::size;
use crate::threads::{SharedMut, split, tasks, with_workspace};
use crate::tiled::{COLUMNS, Pack, Tiling};
use crate::value::ValueType;
use std::ops::Range;

/// Maps of at most so many pixels are walked through block by block, since their weights are larger than their
/// activations; larger ones tile by tile.
const SMALL: usize = 512;

/// Weights of maps of more tiles are f32, whatever they may be kept as: they would be widened for each tile, and take
/// up little memory beside that of the maps.
const FEW_TILES: usize = 4;

/// A convolution (cross-correlation, as in ONNX and PyTorch) on tiles that stores and multiplies only the
/// weights that aren't zero.
///
/// Values of the input that only zero weights meet don't count, NaN and infinities among them.
#[derive(Clone, Debug)]
pub struct SparseConv {
    input: Tiling,
    output: Tiling,
    pack: Pack,
    values: ValueType,
    weights: Weights,
    /// Values in which weights are widened.
    room: usize,
}

/// How weights are packed, for one kernel or the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// Output by output, zeros left out.
    Rows,
    /// Four outputs together, input by input, sorted by which of the four it has weights for: faster where few
    /// weights are zero, or where zeros lie in blocks over outputs.
    Panels,
}

impl Form {
    /// Whether blocks of inputs are large: panels pass over a tile's rows in parts, and the more inputs there are,
    /// the longer are the loops over those with one pattern of weights.
    pub(super) fn deep(self) -> bool {
        self == Form::Panels
    }
}

/// Weights in their [`Form`].
#[derive(Clone, Debug)]
enum Weights {
    Rows(Program),
    Panels(Panels),
}

impl Weights {
    /// Between how many parts threads may divide the outputs.
    fn parts(&self) -> usize {
        match self {
            Weights::Rows(program) => program.parts(),
            Weights::Panels(panels) => panels.parts(),
        }
    }

    /// Whether some parts have anything to do in a block.
    fn meet(&self, block: usize, parts: Range<usize>) -> bool {
        match self {
            Weights::Rows(program) => program.meet(block, parts),
            Weights::Panels(panels) => panels.meet(block, parts),
        }
    }

    /// Memory in which weights are widened.
    fn room(&self) -> usize {
        match self {
            Weights::Rows(program) => program.room(),
            Weights::Panels(panels) => panels.room(),
        }
    }

    /// The outputs of some parts.
    fn outputs(&self, parts: Range<usize>) -> Range<usize> {
        match self {
            Weights::Rows(program) => program.outputs(parts),
            Weights::Panels(panels) => panels.outputs(parts),
        }
    }
}

impl SparseConv {
    /// Packs `weights` (`[out_channels, in_channels / groups, kh, kw]`) and `bias` (`[out_channels]`) of a
    /// convolution over two spatial axes, the input of which is tiled as `input`.
    ///
    /// # Panics
    /// If the spec has no meaning (see [`ConvSpec`]) or other than two axes, its kernel doesn't fit into the
    /// padded input, or a slice's length or the tiling doesn't fit it.
    pub fn new(
        form: Form,
        weights: &[f32],
        bias: Option<&[f32]>,
        spec: &ConvSpec,
        input: &Tiling,
    ) -> SparseConv {
        SparseConv::with_values(form, ValueType::F32, weights, None, bias, spec, input)
    }

    /// As [`SparseConv::new`], with the weights multiplied by `factors` (`[out_channels]`) and kept as `values` where the
    /// map is small, as f32 where it has many tiles. Those
    /// of [`ValueType::F16`] are rounded to halves first, each by at most 2⁻¹¹ of itself (2⁻²⁵ below 2⁻¹⁴; infinite
    /// from 65520 on), those of [`ValueType::Int8`] to bytes of which ±127 are the largest weight of an output, each
    /// by at most 1/254 of that. They are multiplied and summed in single precision, and the factors by the sums.
    ///
    /// # Panics
    /// As [`SparseConv::new`], and if there isn't a factor for each output.
    pub fn with_values(
        form: Form,
        values: ValueType,
        weights: &[f32],
        factors: Option<&[f32]>,
        bias: Option<&[f32]>,
        spec: &ConvSpec,
        input: &Tiling,
    ) -> SparseConv {
        let (geometry, output) = input.convolved(spec);
        let depth = size::of(&[spec.in_channels / spec.groups, geometry.taps()]);
        assert_eq!(weights.len(), size::of(&[spec.out_channels, depth]), "weights of {spec:?}");
        assert!(bias.is_none_or(|b| b.len() == spec.out_channels), "bias of {spec:?}");
        let pack = Pack::of_products(&geometry, input, &output, spec.out_channels / spec.groups, form.deep());
        assert!(factors.is_none_or(|f| f.len() == spec.out_channels), "factors of {spec:?}");
        let values = if output.tiles() > FEW_TILES { ValueType::F32 } else { values };
        let stored = Stored::new(output.isa, values, weights, depth, factors);
        let scales = stored.scales();
        let nonzeros = |o: usize| {
            let first = o / (spec.out_channels / spec.groups) * depth;
            stored.nonzeros(o).map(move |(i, w)| (first + i, w))
        };
        let matrix = Matrix {
            values,
            outputs: spec.out_channels,
            row_len: output.channel_len,
            bias,
            scales: scales.as_deref(),
            blocks: &pack.blocks,
            nonzeros,
            offset: |block, column| pack.offset(block, column),
        };
        let weights = match form {
            Form::Panels => Weights::Panels(Panels::new(&matrix, spec.groups)),
            // Where an image has many tiles, processors learn how many weights each row has, and outputs are better
            // written in order.
            Form::Rows => Weights::Rows(Program::new(&matrix, output.tiles() == 1)),
        };
        let room = weights.room();
        SparseConv { input: input.clone(), output, pack, values, weights, room }
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
        match &self.weights {
            Weights::Rows(program) => program.nnz(),
            Weights::Panels(panels) => panels.nnz(),
        }
    }

    /// What the weights are kept as.
    pub fn values(&self) -> ValueType {
        self.values
    }

    /// Memory that the weights take up.
    pub fn bytes(&self) -> usize {
        match &self.weights {
            Weights::Rows(program) => program.bytes(),
            Weights::Panels(panels) => panels.bytes(),
        }
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
        let tiles = size::of(&[batch, self.output.tiles()]);
        let [by_tile, by_output] = divide(tiles, self.weights.parts());
        let shared = SharedMut::new(out);
        tasks(by_tile * by_output, true, |i| {
            with_workspace(self.pack.scratch() + self.room, |scratch| {
                self.output.isa.run(Task {
                    conv: self,
                    x,
                    residual,
                    activation,
                    out: shared,
                    tiles: split(tiles, by_tile, i / by_output),
                    parts: split(self.weights.parts(), by_output, i % by_output),
                    scratch,
                });
            });
        });
    }
}

/// Into how many parts the tiles and the outputs are divided for the current pool's threads: by tiles where that
/// is fair, since all outputs of a tile share its packed input.
fn divide(tiles: usize, parts: usize) -> [usize; 2] {
    let threads = crate::threads::available();
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
        let output = &self.conv.output;
        let (image, pixels) = (output.tiles(), output.rows * COLUMNS);
        let group = if image * pixels <= SMALL { image } else { 1 };
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
        let SparseConv { input, output, pack, weights, .. } = self.conv;
        let (bounds, rest) = self.activation.clamp_then_rest();
        if weights.meet(block, self.parts.clone()) {
            let [_, columns] = output.grid;
            let (image, place) = (tile / output.tiles(), tile % output.tiles());
            let place = [place / columns, place % columns];
            let x = &self.x[image * input.len(1)..];
            // SAFETY: lengths were checked by `run`, and tasks differ in their tiles or in the outputs.
            unsafe {
                let (scratch, room) = self.scratch.split_at_mut(pack.scratch());
                let input = pack.block(s.narrow(), x.as_ptr(), block, place, scratch.as_mut_ptr());
                let at = tile * output.tile_len;
                let residual = self.residual.map_or(std::ptr::null(), |r| r.as_ptr().add(at));
                let out = self.out.at(at);
                let parts = self.parts.clone();
                let place = Place { height: output.rows, step: pack.step, folded: pack.folded() };
                match weights {
                    Weights::Rows(program) => program.take(s, block, parts, room, |lines| {
                        place.run(s, Rows { lines, input, out, residual, bounds });
                    }),
                    Weights::Panels(panels) => panels.take(s, block, parts, room, |lines| {
                        place.run(s, Tile { lines, input, out, residual, bounds });
                    }),
                }
            }
        }
        if rest != Activation::None && block + 1 == pack.blocks.len() {
            let outputs = weights.outputs(self.parts.clone());
            let at = tile * output.tile_len + outputs.start * output.channel_len;
            // SAFETY: tasks differ in their tiles or in the outputs.
            apply_in(s, rest, unsafe { self.out.slice(at, outputs.len() * output.channel_len) });
        }
    }
}

#[cfg(test)]
mod tests;
