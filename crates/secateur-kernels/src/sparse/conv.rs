//! Sparse convolutions on tiles.

use super::kernel::{RowTask, VectorLayout};
use super::panel::{PanelTask, Panels};
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

/// Maps of at most this many pixels run block by block, because their weights are larger than their activations;
/// larger ones run tile by tile.
const BLOCKWISE_PIXELS: usize = 512;

/// Maps of more tiles keep their weights as f32: narrow weights would be widened again for each tile, and take little
/// memory compared with the maps.
const FEW_TILES: usize = 4;

/// A convolution (cross-correlation, as in ONNX and PyTorch) on tiles that stores and multiplies only nonzero weights.
///
/// Inputs with only zero weights have no effect, even NaN and infinities.
#[derive(Clone, Debug)]
pub struct SparseConv {
    input: Tiling,
    output: Tiling,
    pack: Pack,
    values: ValueType,
    weights: Weights,
    /// Values of scratch memory in which weights are widened.
    widening: usize,
}

/// How weights are packed: for the row kernel or the panel kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// Output by output, without zeros.
    Rows,
    /// Four outputs together: the inputs are sorted by which of the four have a weight for them. Faster if few weights
    /// are zero, or if zeros form blocks over outputs.
    Panels,
}

impl Form {
    /// Whether blocks of inputs are large: panels process a tile's rows in parts, and more inputs make longer loops per
    /// pattern of weights.
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
    /// Number of parts that threads may divide the outputs into.
    fn parts(&self) -> usize {
        match self {
            Weights::Rows(program) => program.parts(),
            Weights::Panels(panels) => panels.parts(),
        }
    }

    /// Whether any of `parts` has work in a block.
    fn meet(&self, block: usize, parts: Range<usize>) -> bool {
        match self {
            Weights::Rows(program) => program.meet(block, parts),
            Weights::Panels(panels) => panels.meet(block, parts),
        }
    }

    /// Values of scratch memory in which weights are widened.
    fn scratch_len(&self) -> usize {
        match self {
            Weights::Rows(program) => program.scratch_len(),
            Weights::Panels(panels) => panels.scratch_len(),
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
    /// If the spec is invalid (see [`ConvSpec`]) or does not have two axes, its kernel does not fit into the padded input,
    /// or a slice's length or the tiling does not match it.
    pub fn new(
        form: Form,
        weights: &[f32],
        bias: Option<&[f32]>,
        spec: &ConvSpec,
        input: &Tiling,
    ) -> SparseConv {
        SparseConv::with_values(form, ValueType::F32, weights, None, bias, spec, input)
    }

    /// As [`SparseConv::new`], with a scale per output, `factors` (`[out_channels]`), and weights stored as `values`; maps of
    /// many tiles store f32. [`ValueType::F16`] rounds each weight by at most 2⁻¹¹ of its value (2⁻²⁵ below 2⁻¹⁴; infinite
    /// from 65520). [`ValueType::Int8`] rounds to bytes, with ±127 for the largest weight of an output, by at most 1/254 of
    /// it. Products are summed in f32, and the sums are multiplied by the factors.
    ///
    /// # Panics
    /// As [`SparseConv::new`], and if there is not one factor per output.
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
            // With many tiles, branch predictors learn how many weights each row has, and outputs are better written in
            // order.
            Form::Rows => Weights::Rows(Program::new(&matrix, output.tiles() == 1)),
        };
        let widening = weights.scratch_len();
        SparseConv { input: input.clone(), output, pack, values, weights, widening }
    }

    /// The tiling of the input.
    pub fn input(&self) -> &Tiling {
        &self.input
    }

    /// The tiling of the output.
    pub fn output(&self) -> &Tiling {
        &self.output
    }

    /// Nonzero weights.
    pub fn nnz(&self) -> usize {
        match &self.weights {
            Weights::Rows(program) => program.nnz(),
            Weights::Panels(panels) => panels.nnz(),
        }
    }

    /// The type that weights are stored as.
    pub fn values(&self) -> ValueType {
        self.values
    }

    /// Bytes that the weights take.
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
    /// If a slice's length does not match the tiling.
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
            with_workspace(self.pack.scratch_len() + self.widening, |scratch| {
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

/// Numbers of parts that the tiles and the outputs are divided into for the current pool's threads: by tiles if that is
/// balanced, because all outputs of a tile share its packed input.
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

/// Some outputs of some tiles, numbered through the batch.
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
        let group = if image * pixels <= BLOCKWISE_PIXELS { image } else { 1 };
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
            // SAFETY: `run` has checked the lengths, offsets come from `pack` for this tiling, and tasks differ in their
            // tiles or outputs.
            unsafe {
                let (scratch, widened) = self.scratch.split_at_mut(pack.scratch_len());
                let input = pack.block(s.narrow(), x.as_ptr(), block, place, scratch.as_mut_ptr());
                let at = tile * output.tile_len;
                let residual = self.residual.map_or(std::ptr::null(), |r| r.as_ptr().add(at));
                let out = self.out.at(at);
                let parts = self.parts.clone();
                let layout = VectorLayout { height: output.rows, step: pack.step, folded: pack.folded() };
                match weights {
                    Weights::Rows(program) => program.take(s, block, parts, widened, |stream| {
                        layout.run(s, RowTask { stream, input, out, residual, bounds });
                    }),
                    Weights::Panels(panels) => panels.take(s, block, parts, widened, |stream| {
                        layout.run(s, PanelTask { stream, input, out, residual, bounds });
                    }),
                }
            }
        }
        if rest != Activation::None && block + 1 == pack.blocks.len() {
            let outputs = weights.outputs(self.parts.clone());
            let at = tile * output.tile_len + outputs.start * output.channel_len;
            // SAFETY: tasks differ in their tiles or outputs.
            apply_in(s, rest, unsafe { self.out.slice(at, outputs.len() * output.channel_len) });
        }
    }
}

#[cfg(test)]
mod tests;
