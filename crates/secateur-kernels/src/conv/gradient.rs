//! Gradients of convolutions.
//!
//! The gradient of a weight is the correlation of an output's gradient with a shifted input. Both are copied into planes
//! of the same pitch, in which a tap is one constant offset, so that a correlation is one long product of two vectors,
//! whatever the extents are. A stride splits the input into phases, each of every stride-th position.

use super::planes::Planes;
use super::{ConvSpec, ConvTransposeSpec, PackedConv, PackedConvTranspose};
use crate::activation::Activation;
use crate::gradient::{Kept, Sampled};
use crate::simd::{Isa, Kernel, MAX_LANES, Simd, sum_lanes};
use crate::size;
use crate::threads::{self, SharedMut};

/// Bytes of inputs and gradients that are correlated at a time: they stay in the second-level cache.
const BLOCK_BYTES: usize = 256 << 10;

/// Parts that a batch is summed in, where the weights are few. It does not depend on the number of threads.
const PARTS: usize = 8;

/// Bytes of weights up to which each part has sums of its own.
const PART_BYTES: usize = 4 << 20;

/// Inputs, each under one tap, that are correlated together.
const TAPS: usize = 3;

/// Elements that are summed in one vector before they go into the sum of a weight: longer sums lose precision.
const SEGMENT: usize = 1 << 11;

/// The gradients of a convolution's weights and input.
#[derive(Clone, Debug)]
pub struct ConvGradient {
    isa: Isa,
    spec: ConvSpec,
    planes: Planes,
    /// For each weight of an output the plane that it reads, and its offset there.
    places: Vec<(u32, u32)>,
}

impl ConvGradient {
    /// For a convolution of this shape.
    ///
    /// # Panics
    /// As [`PackedConv::new`].
    pub fn new(spec: ConvSpec) -> Self {
        Self::with(Isa::best(), spec)
    }

    fn with(isa: Isa, spec: ConvSpec) -> Self {
        let planes = Planes::new(spec.geometry().axes);
        let (phases, channels) = (planes.phases.len(), spec.in_channels / spec.groups);
        let of_channel =
            |c: usize| planes.taps.iter().map(move |&(phase, at)| ((c * phases + phase) as u32, at as u32));
        let places = (0..channels).flat_map(of_channel).collect();
        ConvGradient { isa, spec, planes, places }
    }

    fn rows(&self) -> usize {
        self.spec.out_channels / self.spec.groups
    }

    fn channels(&self) -> usize {
        self.spec.in_channels / self.spec.groups
    }

    /// The gradient of the weights `[out, in / groups, kernel…]`:
    ///
    /// ```text
    /// dw[o, c, t] = Σ over samples n and outputs p of dy[n, o, p] · x[n, c, p · stride + t · dilation − pad]
    /// ```
    ///
    /// # Panics
    /// If the lengths don't fit the shape.
    pub fn weights(&self, batch: usize, x: &[f32], dy: &[f32], dw: &mut [f32]) {
        self.weights_of(batch, x, dy, None, dw);
    }

    /// As [`ConvGradient::weights`], but only of the weights that are kept; the others get 0. Worth while where at most half of
    /// them are.
    ///
    /// # Panics
    /// If the lengths don't fit the shape.
    pub fn kept_weights(&self, batch: usize, x: &[f32], dy: &[f32], kept: &Kept, dw: &mut [f32]) {
        let (rows, columns) = (kept.rows(), kept.columns());
        assert!(rows == self.spec.out_channels && columns == self.spec.depth(), "weights of {:?}", self.spec);
        self.weights_of(batch, x, dy, Some(kept), dw);
    }

    fn weights_of(&self, batch: usize, x: &[f32], dy: &[f32], kept: Option<&Kept>, dw: &mut [f32]) {
        let (spec, geometry) = (&self.spec, self.spec.geometry());
        assert_eq!(x.len(), size::of(&[batch, spec.in_channels, geometry.in_plane()]), "input of {spec:?}");
        let outputs = size::of(&[batch, spec.out_channels, geometry.out_plane()]);
        assert_eq!(dy.len(), outputs, "gradient of the output of {spec:?}");
        assert_eq!(dw.len(), size::of(&[spec.out_channels, spec.depth()]), "weights of {spec:?}");
        dw.fill(0.0);
        if outputs == 0 || dw.is_empty() {
            return;
        }
        let parts = (PART_BYTES / size_of_val(dw)).clamp(1, PARTS).min(batch);
        if parts > 1 {
            let len = dw.len();
            threads::with_workspace(parts * len, |sums| {
                sums.fill(0.0);
                let shared = SharedMut::new(sums);
                threads::tasks(parts, true, |part| {
                    // SAFETY: each part has sums of its own.
                    let dw = unsafe { shared.slice(part * len, len) };
                    self.correlate(threads::split(batch, parts, part), 0..spec.out_channels, x, dy, kept, dw);
                });
                // SAFETY: the parts are done.
                let sums = unsafe { shared.slice(0, parts * len) };
                for part in sums.chunks_exact(len) {
                    dw.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
                }
            });
            return;
        }
        // Each weight's sum is computed by one thread, over all samples in their order.
        let depth = spec.depth();
        let shared = SharedMut::new(dw);
        let count = threads::available().min(spec.out_channels);
        threads::tasks(count, true, |task| {
            let outputs = threads::split(spec.out_channels, count, task);
            // SAFETY: each task has outputs of its own.
            let dw = unsafe { shared.slice(outputs.start * depth, outputs.len() * depth) };
            self.correlate(0..batch, outputs, x, dy, kept, dw);
        });
    }

    /// Adds the gradients of these outputs' weights over some samples.
    fn correlate(
        &self,
        samples: std::ops::Range<usize>,
        outputs: std::ops::Range<usize>,
        x: &[f32],
        dy: &[f32],
        kept: Option<&Kept>,
        dw: &mut [f32],
    ) {
        let (planes, rows) = (&self.planes, self.rows());
        let (channels, phases, plane) = (self.channels(), planes.phases.len(), planes.len());
        let geometry = self.spec.geometry();
        let (in_plane, out_plane) = (geometry.in_plane(), geometry.out_plane());
        let of_sample = (channels * phases + rows.min(outputs.len())) * plane * size_of::<f32>();
        let block = (BLOCK_BYTES / of_sample.max(1)).clamp(1, samples.len().max(1));
        // A tap reads on in what follows its plane, and whole vectors beyond the last one, all times zero.
        let pitch = block * plane + MAX_LANES;
        let depth = self.spec.depth();
        let inputs = channels * phases * pitch + plane;
        threads::with_workspace(size::sum(&[inputs, size::of(&[rows, pitch])]), |space| {
            space.fill(0.0);
            let (inputs, gradients) = space.split_at_mut(inputs);
            for start in samples.clone().step_by(block) {
                let count = block.min(samples.end - start);
                for group in 0..self.spec.groups {
                    let own = (group * rows).max(outputs.start)..((group + 1) * rows).min(outputs.end);
                    if own.is_empty() {
                        continue;
                    }
                    for n in 0..count {
                        let sample = start + n;
                        for c in 0..channels {
                            let x = &x[(sample * self.spec.in_channels + group * channels + c) * in_plane..];
                            for (p, phase) in planes.phases.iter().enumerate() {
                                let out = &mut inputs[(c * phases + p) * pitch + n * plane..][..plane];
                                planes.phase(*phase, &x[..in_plane], out);
                            }
                        }
                        for (row, o) in own.clone().enumerate() {
                            let dy = &dy[(sample * self.spec.out_channels + o) * out_plane..][..out_plane];
                            planes.gradient(dy, &mut gradients[row * pitch + n * plane..][..plane]);
                        }
                    }
                    // What whole vectors read behind the last sample counts nothing.
                    for gradient in gradients.chunks_exact_mut(pitch) {
                        gradient[count * plane..][..MAX_LANES].fill(0.0);
                    }
                    let dw = &mut dw[(own.start - outputs.start) * depth..][..own.len() * depth];
                    let places = &self.places[..];
                    let (len, gradients) = (count * plane, &gradients[..own.len() * pitch]);
                    match kept {
                        None => self.isa.run(Correlation { len, inputs, gradients, places, pitch, dw }),
                        Some(kept) => threads::with_workspace(depth * MAX_LANES, |sums| {
                            let at = |weight: usize| {
                                let (plane, offset) = places[weight];
                                plane as usize * pitch + offset as usize
                            };
                            let first = own.start;
                            self.isa.run(Sampled {
                                len,
                                inputs,
                                gradients,
                                pitch,
                                kept,
                                first,
                                at,
                                dw,
                                sums,
                            });
                        }),
                    }
                }
            }
        });
    }

    /// The gradient of the input: the convolution of `dy` with the weights, transposed and flipped.
    ///
    /// # Panics
    /// If the lengths don't fit the shape.
    pub fn input(&self, weights: &[f32], batch: usize, dy: &[f32], dx: &mut [f32]) {
        let spec = &self.spec;
        match self.flipped() {
            Some(flipped) => {
                PackedConv::new(flipped, &self.flip(weights), None).run(
                    batch,
                    dy,
                    dx,
                    None,
                    Activation::None,
                );
            }
            None => {
                let transposed = transposed(spec);
                PackedConvTranspose::new(transposed, weights, None).run(batch, dy, dx, Activation::None);
            }
        }
    }

    /// The convolution that gives the input's gradient, where every stride is 1 and no padding is wider than the kernel.
    fn flipped(&self) -> Option<ConvSpec> {
        let spec = &self.spec;
        let axes = spec.kernel.len();
        let reach = |d: usize| (spec.kernel[d] - 1) * spec.dilation[d];
        let pads: Option<Vec<usize>> =
            (0..2 * axes).map(|i| reach(i % axes).checked_sub(spec.pads[i])).collect();
        let pads = pads.filter(|_| spec.stride.iter().all(|&stride| stride == 1))?;
        Some(ConvSpec {
            in_channels: spec.out_channels,
            out_channels: spec.in_channels,
            in_size: spec.out_size(),
            pads,
            ..spec.clone()
        })
    }

    /// Weights of inputs by outputs, each kernel from its end to its beginning.
    fn flip(&self, weights: &[f32]) -> Vec<f32> {
        let (rows, channels) = (self.rows(), self.channels());
        let taps = size::of(&self.spec.kernel);
        let mut out = vec![0.0; weights.len()];
        for group in 0..self.spec.groups {
            let at = group * rows * channels * taps;
            for o in 0..rows {
                for c in 0..channels {
                    let kernel = &weights[at + (o * channels + c) * taps..][..taps];
                    let target = &mut out[at + (c * rows + o) * taps..][..taps];
                    target.iter_mut().zip(kernel.iter().rev()).for_each(|(to, from)| *to = *from);
                }
            }
        }
        out
    }
}

/// The transposed convolution that gives the input's gradient.
fn transposed(spec: &ConvSpec) -> ConvTransposeSpec {
    let (axes, out) = (spec.kernel.len(), spec.out_size());
    let rest = |d: usize| {
        let window = (spec.kernel[d] - 1) * spec.dilation[d] + 1;
        let full = out[d].saturating_sub(1) * spec.stride[d] + window;
        (spec.in_size[d] + spec.pads[d] + spec.pads[axes + d]).saturating_sub(full)
    };
    let output_padding = (0..axes).map(rest).collect();
    let conv = ConvSpec {
        in_channels: spec.out_channels,
        out_channels: spec.in_channels,
        in_size: out.clone(),
        ..spec.clone()
    };
    ConvTransposeSpec { conv, output_padding }
}

/// dw\[o, j\] += Σ over i of gradient\[o, i\] · input\[j, i\].
struct Correlation<'a> {
    len: usize,
    inputs: &'a [f32],
    gradients: &'a [f32],
    places: &'a [(u32, u32)],
    pitch: usize,
    dw: &'a mut [f32],
}

impl Kernel for Correlation<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let rows = self.gradients.len() / self.pitch;
        let mut row = 0;
        while row < rows {
            // Sums, inputs and a gradient have to fit the registers: 32 with the widest vectors, else 16.
            row += match rows - row {
                8.. if S::LANES == 16 => s.call(Rows::<8>(&mut self, row)),
                4.. => s.call(Rows::<4>(&mut self, row)),
                2.. => s.call(Rows::<2>(&mut self, row)),
                _ => s.call(Rows::<1>(&mut self, row)),
            };
        }
    }
}

/// [`Correlation`] of `R` outputs from a row on; gives `R`.
struct Rows<'a, 'b, const R: usize>(&'a mut Correlation<'b>, usize);

impl<const R: usize> Kernel for Rows<'_, '_, R> {
    type Output = usize;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> usize {
        let Rows(all, row) = self;
        let depth = all.places.len();
        let mut weight = 0;
        while weight + TAPS <= depth {
            all.block::<S, R, TAPS>(s, row, weight);
            weight += TAPS;
        }
        while weight < depth {
            all.block::<S, R, 1>(s, row, weight);
            weight += 1;
        }
        R
    }
}

impl Correlation<'_> {
    /// The sums of `R` outputs from `row` on and of `T` weights.
    ///
    /// Arrays are walked through by indices: loops over iterators of this many registers are not unrolled.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)]
    fn block<S: Simd, const R: usize, const T: usize>(&mut self, s: S, row: usize, weight: usize) {
        let Correlation { len, inputs, gradients, places, pitch, .. } = *self;
        assert!((row + R) * pitch <= gradients.len() && len + MAX_LANES <= pitch);
        let mut x = [inputs.as_ptr(); T];
        for t in 0..T {
            let (plane, offset) = places[weight + t];
            let at = plane as usize * pitch + offset as usize;
            assert!(at + len + MAX_LANES <= inputs.len(), "a tap is outside of its plane");
            x[t] = x[t].wrapping_add(at);
        }
        let g = gradients[row * pitch..].as_ptr();
        let mut totals = [[0f32; T]; R];
        let (mut i, mut end) = (0, 0);
        while i < len {
            end = len.min(end + SEGMENT);
            let mut sums = [[s.zero(); T]; R];
            while i < end {
                // SAFETY: the whole vectors that len elements fill lie within the pitch of a gradient and, from each tap on,
                // within the inputs, by the assertions.
                unsafe {
                    let mut values = [s.zero(); T];
                    for t in 0..T {
                        values[t] = s.load(x[t].add(i));
                    }
                    for r in 0..R {
                        let d = s.load(g.add(r * pitch + i));
                        for t in 0..T {
                            sums[r][t] = s.fma(d, values[t], sums[r][t]);
                        }
                    }
                }
                i += S::LANES;
            }
            for r in 0..R {
                for t in 0..T {
                    totals[r][t] += sum_lanes(s, sums[r][t]);
                }
            }
        }
        for r in 0..R {
            for t in 0..T {
                self.dw[(row + r) * places.len() + weight + t] += totals[r][t];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rng, assert_sums, in_pool};

    fn spec(rng: &mut Rng) -> ConvSpec {
        let axes = 1 + rng.below(3);
        let groups = 1 + rng.below(3);
        let mut of = |from: usize, to: usize| -> Vec<usize> {
            (0..axes).map(|_| from + rng.below(to - from)).collect()
        };
        let (kernel, stride, dilation) = (of(1, 4), of(1, 4), of(1, 3));
        let pads = [of(0, 4), of(0, 4)].concat();
        let extra = of(0, 8);
        let in_size = (0..axes).map(|d| (kernel[d] - 1) * dilation[d] + 1 + extra[d]).collect();
        let (a, b) = (1 + rng.below(5), 1 + rng.below(11));
        ConvSpec {
            in_channels: groups * a,
            out_channels: groups * b,
            groups,
            in_size,
            kernel,
            stride,
            dilation,
            pads,
        }
    }

    /// Calls `f(output, input, weight)` for each product of the convolution of one sample.
    fn each_product(spec: &ConvSpec, mut f: impl FnMut(usize, usize, usize)) {
        let axes = spec.geometry().axes;
        let (rows, channels) = (spec.out_channels / spec.groups, spec.in_channels / spec.groups);
        for o in 0..spec.out_channels {
            for c in 0..channels {
                let channel = o / rows * channels + c;
                for (p, out) in points(axes.map(|a| a.out)).enumerate() {
                    for (t, tap) in points(axes.map(|a| a.kernel)).enumerate() {
                        let at: Option<Vec<usize>> = (0..3).map(|d| axes[d].input(out[d], tap[d])).collect();
                        let Some(at) = at else { continue };
                        let place = (at[0] * axes[1].size + at[1]) * axes[2].size + at[2];
                        let outputs: usize = axes.iter().map(|a| a.out).product();
                        let inputs: usize = axes.iter().map(|a| a.size).product();
                        let taps: usize = axes.iter().map(|a| a.kernel).product();
                        f(o * outputs + p, channel * inputs + place, (o * channels + c) * taps + t);
                    }
                }
            }
        }
    }

    fn points(extents: [usize; 3]) -> impl Iterator<Item = [usize; 3]> {
        let [_, b, c] = extents;
        (0..extents.iter().product()).map(move |i: usize| [i / (b * c), i / c % b, i % c])
    }

    #[test]
    fn gradients_agree_with_the_definition_on_any_threads() {
        let mut rng = Rng::new(21);
        for _ in 0..60 {
            let spec = spec(&mut rng);
            let batch = 1 + rng.below(12);
            let inputs = spec.in_channels * spec.in_size.iter().product::<usize>();
            let outputs = spec.out_channels * spec.out_size().iter().product::<usize>();
            let (x, dy) = (rng.values(batch * inputs), rng.values(batch * outputs));
            let weights = rng.values(spec.out_channels * spec.depth());
            let (mut dw, mut dw_scale) = (vec![0f64; weights.len()], vec![0f64; weights.len()]);
            let (mut dx, mut dx_scale) = (vec![0f64; x.len()], vec![0f64; x.len()]);
            for n in 0..batch {
                each_product(&spec, |o, i, w| {
                    let (x, d) = (f64::from(x[n * inputs + i]), f64::from(dy[n * outputs + o]));
                    dw[w] += x * d;
                    dw_scale[w] += (x * d).abs();
                    let product = f64::from(weights[w]) * d;
                    dx[n * inputs + i] += product;
                    dx_scale[n * inputs + i] += product.abs();
                });
            }
            for isa in Isa::available() {
                let gradient = ConvGradient::with(isa, spec.clone());
                let of_weights = |threads| {
                    let mut got = vec![f32::NAN; dw.len()];
                    in_pool(threads, || gradient.weights(batch, &x, &dy, &mut got));
                    got
                };
                let got = of_weights(1);
                assert_sums(&got, &dw, &dw_scale, batch * outputs, &format!("weights of {spec:?}"));
                assert_eq!(got, of_weights(3), "{spec:?}");
                let kept = Kept::new(spec.depth(), dw.len(), |i| i * 7 % 5 == 1);
                let of_kept = |threads| {
                    let mut got = vec![f32::NAN; dw.len()];
                    in_pool(threads, || gradient.kept_weights(batch, &x, &dy, &kept, &mut got));
                    got
                };
                let got = of_kept(1);
                let masked: Vec<f64> =
                    dw.iter().enumerate().map(|(i, &dw)| if i * 7 % 5 == 1 { dw } else { 0.0 }).collect();
                assert_sums(&got, &masked, &dw_scale, batch * outputs, &format!("kept weights of {spec:?}"));
                assert_eq!(got, of_kept(3), "{spec:?}");
            }
            let mut got = vec![f32::NAN; x.len()];
            ConvGradient::new(spec.clone()).input(&weights, batch, &dy, &mut got);
            assert_sums(
                &got,
                &dx,
                &dx_scale,
                spec.out_channels * spec.depth(),
                &format!("input of {spec:?}"),
            );
        }
    }

    #[test]
    fn many_weights_are_summed_by_outputs() {
        let mut rng = Rng::new(22);
        let spec =
            ConvSpec { stride: vec![2, 2], pads: vec![1; 4], ..ConvSpec::new(300, 250, &[3, 3], &[3, 3]) };
        assert!(spec.out_channels * spec.depth() * 8 > PART_BYTES);
        let (x, dy) = (rng.values(2 * 300 * 9), rng.values(2 * 250 * 4));
        let gradient = ConvGradient::new(spec.clone());
        let of_weights = |threads| {
            let mut got = vec![f32::NAN; 250 * 2700];
            in_pool(threads, || gradient.weights(2, &x, &dy, &mut got));
            got
        };
        let got = of_weights(1);
        assert_eq!(got, of_weights(3));
        let (mut want, mut scale) = (vec![0f64; got.len()], vec![0f64; got.len()]);
        for n in 0..2 {
            each_product(&spec, |o, i, w| {
                let product = f64::from(x[n * 2700 + i]) * f64::from(dy[n * 1000 + o]);
                want[w] += product;
                scale[w] += product.abs();
            });
        }
        assert_sums(&got, &want, &scale, 8, &"many weights");
    }
}
