//! Convolutions whose weights a mask prunes, in training: the weights change at each step, the mask does not.

use super::ConvSpec;
use super::planes::Planes;
use crate::gradient::Kept;
use crate::simd::{Isa, Kernel, MAX_LANES, Simd};
use crate::size;
use crate::threads::{self, SharedMut};

/// Bytes of inputs and outputs that are computed at a time: they stay in the second-level cache.
const BLOCK_BYTES: usize = 256 << 10;

/// A convolution and its input's gradient with the weights that a mask keeps.
#[derive(Clone, Debug)]
pub struct KeptConv {
    isa: Isa,
    spec: ConvSpec,
    planes: Planes,
    forward: Taps,
    backward: Taps,
    /// Zeros in front of each gradient: the largest offset of a tap.
    margin: usize,
}

/// What each row of a result is a sum of.
#[derive(Clone, Debug, Default)]
struct Taps {
    /// Where the terms of each row begin; one entry more than there are rows.
    starts: Vec<usize>,
    terms: Vec<Term>,
}

/// A weight times a shifted plane.
#[derive(Clone, Copy, Debug)]
struct Term {
    /// The weight, among all of the convolution.
    weight: u32,
    /// The plane, and how far before (backward) or behind (forward) its beginning it is read.
    plane: u32,
    offset: u32,
}

impl Taps {
    fn of(rows: Vec<Vec<Term>>) -> Self {
        let mut taps = Taps { starts: vec![0], terms: Vec::new() };
        for row in rows {
            taps.terms.extend(row);
            taps.starts.push(taps.terms.len());
        }
        taps
    }
}

impl KeptConv {
    /// For a convolution of this shape, whose weights are rows of outputs.
    ///
    /// # Panics
    /// As [`crate::PackedConv::new`], and if `kept` are not the weights of this shape.
    pub fn new(spec: ConvSpec, kept: &Kept) -> Self {
        Self::with(Isa::best(), spec, kept)
    }

    fn with(isa: Isa, spec: ConvSpec, kept: &Kept) -> Self {
        let planes = Planes::new(spec.geometry().axes);
        let (depth, taps, phases) = (spec.depth(), planes.taps.len(), planes.phases.len());
        assert!(kept.rows() == spec.out_channels && kept.columns() == depth, "weights of {spec:?}");
        let (rows, channels) = (spec.out_channels / spec.groups, spec.in_channels / spec.groups);
        let mut forward = vec![Vec::new(); spec.out_channels];
        let mut backward = vec![Vec::new(); spec.in_channels * phases];
        for (output, forward) in forward.iter_mut().enumerate() {
            for &column in kept.of(output) {
                let (channel, tap) = (column as usize / taps, column as usize % taps);
                let (phase, offset) = planes.taps[tap];
                let input = (output / rows * channels + channel) * phases + phase;
                let weight = (output * depth + column as usize) as u32;
                forward.push(Term { weight, plane: input as u32, offset: offset as u32 });
                backward[input].push(Term { weight, plane: output as u32, offset: offset as u32 });
            }
        }
        let margin = planes.taps.iter().map(|&(_, offset)| offset).max().unwrap_or(0);
        KeptConv { isa, spec, planes, forward: Taps::of(forward), backward: Taps::of(backward), margin }
    }

    /// Samples that are computed at a time.
    fn block(&self, batch: usize) -> usize {
        let planes = self.spec.in_channels * self.planes.phases.len() + self.spec.out_channels;
        let of_sample = size::of(&[planes, self.planes.len(), size_of::<f32>()]);
        (BLOCK_BYTES / of_sample.max(1)).clamp(1, batch.max(1))
    }

    /// out = convolution of x + bias.
    ///
    /// # Panics
    /// If the lengths don't fit the shape.
    pub fn run(&self, weights: &[f32], bias: Option<&[f32]>, batch: usize, x: &[f32], out: &mut [f32]) {
        let (spec, planes, geometry) = (&self.spec, &self.planes, self.spec.geometry());
        let (in_plane, out_plane) = (geometry.in_plane(), geometry.out_plane());
        self.check(weights, batch, x, out);
        assert!(bias.is_none_or(|bias| bias.len() == spec.out_channels), "bias of {spec:?}");
        let (inputs, outputs) = (spec.in_channels * planes.phases.len(), spec.out_channels);
        let shared = SharedMut::new(out);
        self.blocks(batch, [inputs, outputs], 0, |first, count, pitch, sources, results| {
            for n in 0..count {
                for c in 0..spec.in_channels {
                    let x = &x[((first + n) * spec.in_channels + c) * in_plane..][..in_plane];
                    for (p, phase) in planes.phases.iter().enumerate() {
                        let at = (c * planes.phases.len() + p) * pitch + n * planes.len();
                        planes.phase(*phase, x, &mut sources[at..][..planes.len()]);
                    }
                }
            }
            let offset = |term: &Term| term.plane as usize * pitch + term.offset as usize;
            self.sums(&self.forward, weights, bias, count, pitch, sources, results, offset);
            for n in 0..count {
                for o in 0..outputs {
                    let plane = &results[o * pitch + n * planes.len()..][..planes.len()];
                    // SAFETY: each sample is computed once.
                    let out = unsafe { shared.slice(((first + n) * outputs + o) * out_plane, out_plane) };
                    planes.output(plane, out);
                }
            }
        });
    }

    /// The gradient of the input.
    ///
    /// # Panics
    /// If the lengths don't fit the shape.
    pub fn input(&self, weights: &[f32], batch: usize, dy: &[f32], dx: &mut [f32]) {
        let (spec, planes, geometry) = (&self.spec, &self.planes, self.spec.geometry());
        let (in_plane, out_plane) = (geometry.in_plane(), geometry.out_plane());
        self.check(weights, batch, dx, dy);
        // Positions that no tap reads have no gradient.
        dx.fill(0.0);
        let (phases, margin) = (planes.phases.len(), self.margin);
        let (inputs, outputs) = (spec.in_channels * phases, spec.out_channels);
        let shared = SharedMut::new(dx);
        self.blocks(batch, [outputs, inputs], margin, |first, count, pitch, sources, results| {
            for n in 0..count {
                for o in 0..outputs {
                    let dy = &dy[((first + n) * outputs + o) * out_plane..][..out_plane];
                    planes
                        .gradient(dy, &mut sources[o * pitch + margin + n * planes.len()..][..planes.len()]);
                }
            }
            let offset = |term: &Term| term.plane as usize * pitch + margin - term.offset as usize;
            self.sums(&self.backward, weights, None, count, pitch, sources, results, offset);
            for n in 0..count {
                for c in 0..spec.in_channels {
                    // SAFETY: each sample is computed once.
                    let dx =
                        unsafe { shared.slice(((first + n) * spec.in_channels + c) * in_plane, in_plane) };
                    for (p, phase) in planes.phases.iter().enumerate() {
                        let plane = &results[(c * phases + p) * pitch + n * planes.len()..][..planes.len()];
                        planes.input(*phase, plane, dx);
                    }
                }
            }
        });
    }

    fn check(&self, weights: &[f32], batch: usize, x: &[f32], y: &[f32]) {
        let (spec, geometry) = (&self.spec, self.spec.geometry());
        assert_eq!(weights.len(), size::of(&[spec.out_channels, spec.depth()]), "weights of {spec:?}");
        assert_eq!(x.len(), size::of(&[batch, spec.in_channels, geometry.in_plane()]), "input of {spec:?}");
        assert_eq!(
            y.len(),
            size::of(&[batch, spec.out_channels, geometry.out_plane()]),
            "output of {spec:?}"
        );
    }

    /// Calls `f(first, count, pitch, sources, results)` for blocks of samples, with planes for them: sources that are zero
    /// where nothing is copied, with `margin` zeros in front of each, and room for as many results.
    fn blocks(
        &self,
        batch: usize,
        [sources, results]: [usize; 2],
        margin: usize,
        f: impl Fn(usize, usize, usize, &mut [f32], &mut [f32]) + Sync + Send,
    ) {
        let (block, plane) = (self.block(batch), self.planes.len());
        let pitch = margin + block * plane + MAX_LANES;
        let work = self.spec.macs() as usize / 8 * batch;
        threads::tasks(batch.div_ceil(block), work > threads::GRAIN, |task| {
            let first = task * block;
            let count = block.min(batch - first);
            // A tap reads on in what follows its plane, and whole vectors beyond the last one.
            let planes = size::of(&[sources, pitch]) + plane + MAX_LANES;
            threads::with_workspace(planes + size::of(&[results, pitch]), |space| {
                let (sources, results) = space.split_at_mut(planes);
                sources.fill(0.0);
                f(first, count, pitch, sources, results);
            });
        });
    }

    #[allow(clippy::too_many_arguments)]
    fn sums(
        &self,
        taps: &Taps,
        weights: &[f32],
        bias: Option<&[f32]>,
        count: usize,
        pitch: usize,
        sources: &[f32],
        results: &mut [f32],
        offset: impl Fn(&Term) -> usize,
    ) {
        let len = count * self.planes.len();
        let terms: Vec<(f32, usize)> =
            taps.terms.iter().map(|term| (weights[term.weight as usize], offset(term))).collect();
        self.isa.run(Sums { starts: &taps.starts, terms: &terms, bias, len, pitch, sources, results });
    }
}

/// result\[row, i\] = bias\[row\] + Σ over terms of weight · source\[offset + i\].
struct Sums<'a> {
    starts: &'a [usize],
    terms: &'a [(f32, usize)],
    bias: Option<&'a [f32]>,
    len: usize,
    pitch: usize,
    sources: &'a [f32],
    results: &'a mut [f32],
}

/// Vectors of a result that are computed together.
const VECTORS: usize = 8;

impl Kernel for Sums<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Sums { starts, terms, bias, len, pitch, sources, results } = self;
        let vectors = len.div_ceil(S::LANES);
        let rows = starts.len() - 1;
        assert!(vectors * S::LANES <= pitch && rows * pitch <= results.len());
        for &(_, offset) in terms {
            assert!(offset + vectors * S::LANES <= sources.len(), "a source ends early");
        }
        // All rows of a stretch before the next one: their sources stay in the first-level cache.
        let mut v = 0;
        while v < vectors {
            let wide = vectors - v >= VECTORS;
            for row in 0..rows {
                let terms = &terms[starts[row]..starts[row + 1]];
                let start = bias.map_or(0.0, |bias| bias[row]);
                let out = results[row * pitch + v * S::LANES..].as_mut_ptr();
                let x = sources.as_ptr().wrapping_add(v * S::LANES);
                // SAFETY: by the assertions the vectors of the stretch can be read from each term's source on, and written.
                unsafe {
                    if wide {
                        stretch::<S, VECTORS>(s, terms, start, x, out);
                    } else {
                        stretch::<S, 1>(s, terms, start, x, out);
                    }
                }
            }
            v += if wide { VECTORS } else { 1 };
        }
    }
}

/// `N` vectors of a result.
///
/// # Safety
/// `N` vectors can be read from each term's offset behind `x` on, and written at `out`.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
unsafe fn stretch<S: Simd, const N: usize>(
    s: S,
    terms: &[(f32, usize)],
    start: f32,
    x: *const f32,
    out: *mut f32,
) {
    let mut sums = [s.splat(start); N];
    let mut at = 0;
    while at < terms.len() {
        let (weight, offset) = terms[at];
        let weight = s.splat(weight);
        for i in 0..N {
            // SAFETY: guaranteed by the caller.
            sums[i] = s.fma(weight, unsafe { s.load(x.add(offset + i * S::LANES)) }, sums[i]);
        }
        at += 1;
    }
    for i in 0..N {
        // SAFETY: guaranteed by the caller.
        unsafe { s.store(out.add(i * S::LANES), sums[i]) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv::gradient::ConvGradient;
    use crate::conv::tests::{random_spec, reference};
    use crate::testing::{Rng, assert_sums, in_pool};

    #[test]
    fn passes_agree_with_dense_ones_on_any_threads() {
        let mut rng = Rng::new(41);
        for _ in 0..60 {
            let axes = rng.pick(&[1, 2, 2, 2, 3]);
            let spec = random_spec(&mut rng, axes);
            let batch = 1 + rng.below(5);
            let weights = rng.sparse(spec.out_channels * spec.depth(), 0.7);
            let kept = Kept::new(spec.depth(), weights.len(), |i| weights[i] != 0.0);
            let x = rng.values(batch * spec.in_channels * spec.in_size.iter().product::<usize>());
            let dy = rng.values(batch * spec.out_channels * spec.out_size().iter().product::<usize>());
            let bias = rng.values(spec.out_channels);
            let bias = (rng.below(2) == 0).then_some(&bias[..]);
            let (want, scale) = reference(&spec, batch, &x, &weights, bias, None);
            let mut dense = vec![f32::NAN; x.len()];
            ConvGradient::new(spec.clone()).input(&weights, batch, &dy, &mut dense);
            for isa in Isa::available() {
                let conv = KeptConv::with(isa, spec.clone(), &kept);
                let run = |threads| {
                    let (mut y, mut dx) = (vec![f32::NAN; dy.len()], vec![f32::NAN; x.len()]);
                    in_pool(threads, || {
                        conv.run(&weights, bias, batch, &x, &mut y);
                        conv.input(&weights, batch, &dy, &mut dx);
                    });
                    (y, dx)
                };
                let (y, dx) = run(1);
                assert_sums(&y, &want, &scale, spec.depth() + 1, &format!("{isa:?} {spec:?}"));
                let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-4;
                assert!(dx.iter().zip(&dense).all(near), "{isa:?} input of {spec:?}");
                assert_eq!((y, dx), run(3), "{spec:?}");
            }
        }
    }
}
