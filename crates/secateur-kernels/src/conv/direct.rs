//! Convolutions with few output channels per group: a tile of outputs reads its input vectors straight from the image,
//! because packing them would cost as much as the products.

use super::PackedConv;
use super::im2col::tap_offsets;
use super::lanes::load;
use super::spec::Geometry;
use crate::activation::Activation;
use crate::gemm::Ending;
use crate::simd::{Kernel, Simd};
use crate::size;
use crate::threads::{self, SharedMut};
use std::ops::Range;

/// Groups of at most this many output channels are faster this way.
pub(super) const MAX_ROWS: usize = 16;

/// Vectors of outputs per tile.
const NV: usize = 2;

pub(super) fn run(conv: &PackedConv, x: &[f32], out: &mut [f32], add: Option<&[f32]>, act: Activation) {
    let (spec, geometry) = (&conv.spec, &conv.geometry);
    let (in_plane, out_plane) = (geometry.in_plane(), geometry.out_plane());
    let (rows, channels) = (spec.out_channels / spec.groups, spec.in_channels / spec.groups);
    let depth = channels * geometry.taps();
    let items = out.len() / (rows * out_plane);
    let [d, h, w] = geometry.axes;
    let offsets = tap_offsets(geometry);
    let shared = SharedMut::new(out);
    // A unit of work is one row of outputs, for all channels of a group.
    let image_rows = d.out * h.out;
    threads::ranges(items * image_rows, size::work(&[rows, depth, w.out]) / 8, |range| {
        let mut unit = range.start;
        while unit < range.end {
            let item = unit / image_rows;
            let first = unit % image_rows;
            let count = (image_rows - first).min(range.end - unit);
            unit += count;
            let group = item % spec.groups;
            let (bounds, rest) = act.clamp_then_rest();
            let at = item * rows * out_plane;
            conv.isa.run(OutputRows {
                geometry,
                offsets: &offsets,
                x: &x[item * channels * in_plane..(item + 1) * channels * in_plane],
                weights: &conv.direct.as_slice()[group * rows * depth..][..rows * depth],
                channels,
                rows: first..first + count,
                ending: Ending {
                    c: shared.at(at),
                    ldc: out_plane,
                    alpha: 1.0,
                    c_scale: 0.0,
                    row_bias: conv.bias.as_ref().map_or(std::ptr::null(), |b| b[group * rows..].as_ptr()),
                    col_bias: std::ptr::null(),
                    add: add.map_or(std::ptr::null(), |a| a[at..].as_ptr()),
                    lo: bounds.0,
                    hi: bounds.1,
                },
            });
            for r in 0..rows {
                // SAFETY: tasks differ in their rows or channels.
                let part = unsafe { shared.slice(at + r * out_plane + first * w.out, count * w.out) };
                crate::activation::apply(conv.isa, rest, part);
            }
        }
    });
}

/// Some rows of outputs, for all channels of a group.
struct OutputRows<'a> {
    geometry: &'a Geometry,
    offsets: &'a [isize],
    x: &'a [f32],
    weights: &'a [f32],
    channels: usize,
    rows: Range<usize>,
    ending: Ending,
}

/// A vector of outputs within a row.
#[derive(Clone, Copy, Default)]
struct OutputVector {
    /// Position in a channel of the first kernel element's input; it may be padding.
    src: isize,
    /// Position in the output channel.
    at: usize,
    lanes: usize,
}

impl Kernel for OutputRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // Weights are packed in panels of this many channels, whatever the vector width.
        let panel = S::MR;
        if self.geometry.prefers_narrow(S::LANES, S::Narrow::LANES) {
            s.narrow().call(Sized { rows: self, panel });
        } else {
            s.call(Sized { rows: self, panel });
        }
    }
}

/// The rows, for a chosen vector width.
struct Sized<'a> {
    rows: OutputRows<'a>,
    panel: usize,
}

impl Kernel for Sized<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (this, panel) = (&self.rows, self.panel);
        let [d, h, w] = this.geometry.axes;
        let blocks = w.out.div_ceil(S::LANES);
        let taps = this.offsets.len();
        let valid: Vec<Range<usize>> = (0..w.kernel).map(|tap| w.valid(tap)).collect();
        let mut columns = vec![0u32; w.kernel];
        let rows = this.ending_rows();
        let mut bits = vec![[0u32; NV]; taps];
        for first in (0..this.rows.len() * blocks).step_by(NV) {
            let mut vectors = [OutputVector::default(); NV];
            for (v, vector) in vectors.iter_mut().enumerate() {
                let i = first + v;
                let row = this.rows.start + i / blocks;
                if row >= this.rows.end {
                    bits.iter_mut().for_each(|b| b[v] = 0);
                    continue;
                }
                let (od, oh, col) = (row / h.out, row % h.out, i % blocks * S::LANES);
                let start = |a: &super::spec::Axis, o: usize| (o * a.stride) as isize - a.pad as isize;
                *vector = OutputVector {
                    src: (start(&d, od) * h.size as isize + start(&h, oh)) * w.size as isize + start(&w, col),
                    at: row * w.out + col,
                    lanes: S::LANES.min(w.out - col),
                };
                for (bits, valid) in columns.iter_mut().zip(&valid) {
                    *bits = w.bits(valid, col, S::LANES);
                }
                for (line, bits) in bits.chunks_exact_mut(w.kernel).enumerate() {
                    let (td, th) = (line / h.kernel, line % h.kernel);
                    let inside = d.input(od, td).is_some() && h.input(oh, th).is_some();
                    for (bits, &columns) in bits.iter_mut().zip(&columns) {
                        bits[v] = if inside { columns } else { 0 };
                    }
                }
            }
            for r in (0..rows).step_by(panel) {
                let tile = Tile { this, vectors, bits: &bits, row: r };
                tile.run(s, panel.min(rows - r));
            }
        }
    }
}

impl OutputRows<'_> {
    fn ending_rows(&self) -> usize {
        self.weights.len() / (self.channels * self.offsets.len()).max(1)
    }
}

struct Tile<'a> {
    this: &'a OutputRows<'a>,
    vectors: [OutputVector; NV],
    bits: &'a [[u32; NV]],
    row: usize,
}

impl Tile<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S, rows: usize) {
        match rows {
            1 => s.call(TileOf::<1>(self)),
            2 => s.call(TileOf::<2>(self)),
            3 => s.call(TileOf::<3>(self)),
            4 => s.call(TileOf::<4>(self)),
            5 => s.call(TileOf::<5>(self)),
            6 => s.call(TileOf::<6>(self)),
            7 => s.call(TileOf::<7>(self)),
            _ => s.call(TileOf::<8>(self)),
        }
    }
}

/// A tile of `MR` output channels.
struct TileOf<'a, const MR: usize>(Tile<'a>);

impl<const MR: usize> Kernel for TileOf<'_, MR> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.0.this.geometry.axes[2].stride {
            1 => self.sum(s, 1),
            2 => self.sum(s, 2),
            step => self.sum(s, step),
        }
    }
}

impl<const MR: usize> TileOf<'_, MR> {
    #[inline(always)]
    fn sum<S: Simd>(&self, s: S, step: usize) {
        let Tile { this, vectors, bits, row } = &self.0;
        let plane = this.geometry.in_plane();
        let depth = this.channels * this.offsets.len();
        let mut acc = [[s.zero(); NV]; MR];
        let mut a = this.weights[row * depth..][..MR * depth].as_ptr();
        for channel in 0..this.channels {
            let x = this.x.as_ptr().wrapping_add(channel * plane);
            for (&offset, bits) in this.offsets.iter().zip(*bits) {
                let x = x.wrapping_offset(offset);
                let mut b = [s.zero(); NV];
                for ((b, vector), &bits) in b.iter_mut().zip(vectors).zip(bits) {
                    // SAFETY: set bits are values of the channel.
                    *b = unsafe { load(s, x.wrapping_offset(vector.src), step, bits) };
                }
                for (r, acc) in acc.iter_mut().enumerate() {
                    // SAFETY: the weights hold `depth` rows of MR values from here on, as sliced above.
                    let a = s.splat(unsafe { *a.add(r) });
                    for (acc, &b) in acc.iter_mut().zip(&b) {
                        *acc = s.fma(a, b, *acc);
                    }
                }
                a = a.wrapping_add(MR);
            }
        }
        // Through memory, as in the matrix product's tile.
        let mut sums = [[[0.0f32; crate::simd::MAX_LANES]; NV]; MR];
        for (to, from) in sums.iter_mut().zip(&acc) {
            for (to, &from) in to.iter_mut().zip(from) {
                // SAFETY: LANES <= MAX_LANES.
                unsafe { s.store(to.as_mut_ptr(), from) };
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (vector, sums) in vectors.iter().zip(sums) {
                if vector.lanes > 0 {
                    // SAFETY: the vectors lie within the output channel, and only this task writes them.
                    unsafe { this.ending.write(s, row + r, vector.at, vector.lanes, s.load(sums.as_ptr())) };
                }
            }
        }
    }
}
