//! Pooling on tiles.

use super::pack::Source;
use super::{COLUMNS, Pack, Tiling};
use crate::pooling::{Fold, Greatest, PoolOp, PoolSpec, Sum};
use crate::simd::{Kernel, Simd};
use crate::size;
use crate::threads::{SharedMut, split, tasks, with_workspace};
use std::ops::Range;

/// A pooling of maps on tiles: the greatest value or the mean of each window.
#[derive(Clone, Debug)]
pub struct TiledPool {
    input: Tiling,
    output: Tiling,
    pack: Pack,
    /// Offset of each window element for the first row of outputs, in values of a packed channel.
    taps: Vec<usize>,
    /// For averages: 1 ÷ the number of window elements of each pixel, tile by tile.
    shares: Option<Vec<f32>>,
}

impl TiledPool {
    /// A pooling over the two axes of maps that are tiled as `input`. `None` if tiles have no kernel for it: Lp pooling,
    /// windows of one element, strides above 2 or unequal, and windows that reach beyond the margin of a line.
    ///
    /// # Panics
    /// If the spec is invalid (see [`PoolSpec`]) or does not match the tiling.
    pub fn new(op: PoolOp, spec: &PoolSpec, input: &Tiling) -> Option<TiledPool> {
        let windows = spec.windows();
        let geometry = windows.geometry;
        assert!(spec.in_size == input.size(), "a pooling {spec:?} of maps tiled as {input:?}");
        let [_, h, w] = geometry.axes;
        if h.out == 0 || w.out == 0 || Source::of(&geometry, Source::Lines) != Source::Lines {
            return None;
        }
        let output = Tiling::with(input.isa, input.channels, h.out, w.out);
        let pack = Pack::new(&geometry, input, &output);
        let shares = match op {
            PoolOp::Max => None,
            PoolOp::Average { count_include_pad } => {
                let mut shares = vec![0.0; size::of(&[output.tiles(), output.rows, COLUMNS])];
                for (i, share) in shares.iter_mut().enumerate() {
                    let (tile, pixel) = (i / (output.rows * COLUMNS), i % (output.rows * COLUMNS));
                    let y = tile / output.grid[1] * output.rows + pixel / COLUMNS;
                    let x = tile % output.grid[1] * COLUMNS + pixel % COLUMNS;
                    let count = |axis, at| windows.elements(axis, at, count_include_pad);
                    // Pixels beyond the map have none.
                    *share = 1.0 / (count(1, y) * count(2, x)).max(1) as f32;
                }
                Some(shares)
            }
            PoolOp::Lp(_) => return None,
        };
        let taps = (0..geometry.taps()).map(|tap| pack.offset(0, tap)).collect();
        Some(TiledPool { input: input.clone(), output, pack, taps, shares })
    }

    /// The tiling of the output.
    pub fn output(&self) -> &Tiling {
        &self.output
    }

    /// Values gathered per image.
    pub fn packed(&self) -> usize {
        self.output.tiles() * self.pack.packed()
    }

    /// Pools `batch` images, on the current rayon pool.
    ///
    /// # Panics
    /// If a slice's length does not match the tiling.
    pub fn run(&self, batch: usize, x: &[f32], out: &mut [f32]) {
        assert_eq!(x.len(), self.input.len(batch), "input of {:?}", self.input);
        assert_eq!(out.len(), self.output.len(batch), "output of {:?}", self.output);
        let tiles = size::of(&[batch, self.output.tiles()]);
        let parts = tiles.min(4 * crate::threads::available());
        let shared = SharedMut::new(out);
        tasks(parts, true, |i| {
            with_workspace(self.pack.scratch_len(), |scratch| {
                let task = Task { pool: self, x, out: shared, tiles: split(tiles, parts, i), scratch };
                match self.shares {
                    None => self.output.isa.run(Folded(task, Greatest)),
                    Some(_) => self.output.isa.run(Folded(task, Sum)),
                }
            });
        });
    }
}

/// Some tiles, numbered through the batch.
struct Task<'a> {
    pool: &'a TiledPool,
    x: &'a [f32],
    out: SharedMut<'a, f32>,
    tiles: Range<usize>,
    scratch: &'a mut [f32],
}

/// A task, and how to reduce the values of a window.
struct Folded<'a, F>(Task<'a>, F);

impl<F: Fold> Kernel for Folded<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Folded(task, fold) = self;
        let TiledPool { input, output, pack, taps, shares } = task.pool;
        // Packed input rows are not contiguous, so a vector spans at most one row.
        let s = s.narrow();
        let vectors = output.rows * COLUMNS / S::Narrow::LANES;
        let at = |v: usize| v * S::Narrow::LANES / COLUMNS * pack.step + v * S::Narrow::LANES % COLUMNS;
        for tile in task.tiles {
            let (image, place) = (tile / output.tiles(), tile % output.tiles());
            let shares = shares.as_ref().map(|shares| &shares[place * output.rows * COLUMNS..]);
            let place = [place / output.grid[1], place % output.grid[1]];
            let x = &task.x[image * input.len(1)..];
            for block in 0..pack.blocks.len() {
                // SAFETY: `run` has checked the lengths, offsets come from `pack` for this tiling, and tasks differ in
                // their tiles.
                unsafe {
                    pack.block(s, x.as_ptr(), block, place, task.scratch.as_mut_ptr());
                    if F::EMPTY != 0.0 {
                        pack.fill_outside(block, place, task.scratch, F::EMPTY);
                    }
                    let channels = pack.channels(block);
                    for (c, channel) in channels.enumerate() {
                        let from = task.scratch.as_ptr().add(pack.channel(c));
                        let to = task.out.at(tile * output.tile_len + channel * output.channel_len);
                        for v in 0..vectors {
                            let mut acc = s.splat(F::EMPTY);
                            for &tap in taps {
                                acc = fold.step(s, acc, s.load(from.add(tap + at(v))));
                            }
                            if let Some(shares) = shares {
                                acc = s.mul(acc, s.load(shares.as_ptr().add(v * S::Narrow::LANES)));
                            }
                            s.store(to.add(v * S::Narrow::LANES), acc);
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Isa;
    use crate::testing::{Rng, in_pool};
    use crate::threads::Buffer;
    use crate::tiled::tests::tiled;

    #[test]
    fn tiles_give_what_tensors_give() {
        let mut rng = Rng::new(61);
        let mut kernels = 0;
        for round in 0..80 {
            let [s, d] = [1 + rng.below(2), 1 + rng.below(2)];
            let kernel = if round % 2 == 0 { [3, 3] } else { [1 + rng.below(3), 1 + rng.below(3)] };
            let pads: Vec<usize> = (0..4).map(|i| rng.below(kernel[i % 2])).collect();
            let in_size: Vec<usize> = (0..2).map(|i| kernel[i] * d + rng.below(30)).collect();
            let out = |i: usize| (in_size[i] + pads[i] + pads[2 + i] - d * (kernel[i] - 1) - 1) / s + 1;
            let spec = PoolSpec {
                out_size: vec![out(0), out(1)],
                in_size: in_size.clone(),
                kernel: kernel.to_vec(),
                stride: vec![s; 2],
                dilation: vec![d; 2],
                pads: pads.clone(),
            };
            let (channels, batch) = (1 + rng.below(90), 1 + rng.below(2));
            let mut x = rng.values(batch * channels * in_size[0] * in_size[1]);
            if round % 3 == 0 {
                let at = rng.below(x.len());
                x[at] = f32::NAN;
            }
            let op = rng.pick(&[
                PoolOp::Max,
                PoolOp::Average { count_include_pad: true },
                PoolOp::Average { count_include_pad: false },
            ]);
            let mut want = vec![0.0; batch * channels * out(0) * out(1)];
            crate::pooling::pool(op, &spec, batch * channels, &x, &mut want);
            for isa in Isa::available() {
                let input = Tiling::with(isa, channels, in_size[0], in_size[1]);
                let Some(pool) = TiledPool::new(op, &spec, &input) else { continue };
                kernels += 1;
                let x = tiled(&input, batch, &x);
                let run = || {
                    let mut tiles = Buffer::zeroed(pool.output().len(batch));
                    pool.run(batch, x.as_slice(), tiles.as_mut_slice());
                    let mut got = vec![0.0; want.len()];
                    pool.output().to_nchw(batch, tiles.as_slice(), &mut got);
                    got
                };
                let got = run();
                for (g, w) in got.iter().zip(&want) {
                    assert!(
                        (g - w).abs() <= 1e-6 || g.is_nan() && w.is_nan(),
                        "{isa:?} {op:?} {spec:?}: {g} {w}"
                    );
                }
                let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&in_pool(3, run)), bits(&got), "{isa:?} {op:?} {spec:?} on three threads");
            }
        }
        assert!(kernels > 60, "{kernels} poolings of tiles");
    }
}
