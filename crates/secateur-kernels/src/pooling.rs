//! Pooling over windows.

mod gradient;

use crate::conv::lanes::load;
use crate::conv::spec::{Axis, Geometry};
use crate::simd::{Isa, Kernel, MAX_LANES, Simd};
use crate::size;
use crate::threads;
use std::ops::Range;

pub use gradient::{max_pool_gradient, pool_gradient};

/// Pooling windows over one to three spatial axes; each list has one entry per axis.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolSpec {
    /// Input size.
    pub in_size: Vec<usize>,
    /// Output size; the caller decides whether it is rounded up.
    pub out_size: Vec<usize>,
    /// Window size.
    pub kernel: Vec<usize>,
    /// Distance of neighbouring windows.
    pub stride: Vec<usize>,
    /// Distance of neighbouring window elements.
    pub dilation: Vec<usize>,
    /// Padding before each axis, then after each axis.
    pub pads: Vec<usize>,
}

/// What is computed of each window; padding is ignored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PoolOp {
    /// The greatest value; NaN if any is NaN; −∞ of an empty window.
    Max,
    /// The mean.
    Average {
        /// Whether padding counts towards the divisor.
        count_include_pad: bool,
    },
    /// (Σ |x|ᵖ)^(1/p).
    Lp(f32),
}

pub(crate) struct Windows {
    pub(crate) geometry: Geometry,
    /// Padded sizes, for averages that count padding.
    padded: [usize; 3],
}

impl Windows {
    /// Elements along an axis of the window of output `o`, with or without padding.
    pub(crate) fn elements(&self, axis: usize, o: usize, include_pad: bool) -> usize {
        let a = &self.geometry.axes[axis];
        let inside: Range<usize> = if include_pad { 0..self.padded[axis] } else { a.pad..a.pad + a.size };
        (0..a.kernel).filter(|t| inside.contains(&(o * a.stride + t * a.dilation))).count()
    }
}

impl PoolSpec {
    pub(crate) fn windows(&self) -> Windows {
        let n = self.in_size.len();
        assert!((1..=3).contains(&n), "1 to 3 spatial axes, not {n}");
        assert!(
            [&self.out_size, &self.kernel, &self.stride, &self.dilation].iter().all(|l| l.len() == n)
                && self.pads.len() == 2 * n,
            "out_size, kernel, stride, dilation and pads (twice) need {n} entries"
        );
        assert!(self.kernel.iter().chain(&self.stride).chain(&self.dilation).all(|&x| x > 0), "sizes of 0");
        let (mut axes, mut padded) = ([Axis::TRIVIAL; 3], [1; 3]);
        for d in 0..n {
            axes[3 - n + d] = Axis {
                size: self.in_size[d],
                out: self.out_size[d],
                kernel: self.kernel[d],
                stride: self.stride[d],
                dilation: self.dilation[d],
                pad: self.pads[d],
            };
            padded[3 - n + d] = size::sum(&[self.in_size[d], self.pads[d], self.pads[n + d]]);
        }
        Windows { geometry: Geometry::new(axes), padded }
    }
}

/// Pools each of `planes` (batch × channels) planes, on the current rayon pool.
///
/// # Panics
/// If the spec is invalid or a slice's length does not match it.
pub fn pool(op: PoolOp, spec: &PoolSpec, planes: usize, x: &[f32], out: &mut [f32]) {
    pool_with(Isa::best(), op, spec, planes, x, out);
}

fn pool_with(isa: Isa, op: PoolOp, spec: &PoolSpec, planes: usize, x: &[f32], out: &mut [f32]) {
    let w = spec.windows();
    let (in_plane, out_plane) = check(&w, planes, x, out);
    let geometry = &w.geometry;
    threads::chunks(out, out_plane, size::work(&[out_plane, geometry.taps()]), |first, out| {
        for (i, out) in out.chunks_exact_mut(out_plane).enumerate() {
            let x = &x[(first + i) * in_plane..(first + i + 1) * in_plane];
            match op {
                PoolOp::Max => isa.run(Plane { geometry, x, out, fold: Greatest }),
                PoolOp::Average { count_include_pad } => {
                    isa.run(Plane { geometry, x, out, fold: Sum });
                    divide(&w, count_include_pad, out);
                }
                PoolOp::Lp(2.0) => {
                    isa.run(Plane { geometry, x, out, fold: Squares });
                    out.iter_mut().for_each(|y| *y = y.sqrt());
                }
                PoolOp::Lp(p) => {
                    isa.run(Plane { geometry, x, out, fold: Powers(p) });
                    out.iter_mut().for_each(|y| *y = y.powf(1.0 / p));
                }
            }
        }
    });
}

/// How a window's values are reduced.
pub(crate) trait Fold: Copy {
    /// The result of an empty window. Added to a value outside the input (which reads as 0), it must not change the result.
    const EMPTY: f32;
    fn step<S: Simd>(self, s: S, acc: S::V, x: S::V) -> S::V;
}

#[derive(Clone, Copy)]
pub(crate) struct Greatest;

impl Fold for Greatest {
    const EMPTY: f32 = f32::NEG_INFINITY;
    #[inline(always)]
    fn step<S: Simd>(self, s: S, acc: S::V, x: S::V) -> S::V {
        // The vector maximum returns x if either is NaN, so a NaN in acc must be kept explicitly.
        s.select(s.eq(acc, acc), s.max(acc, x), acc)
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Sum;

impl Fold for Sum {
    const EMPTY: f32 = 0.0;
    #[inline(always)]
    fn step<S: Simd>(self, s: S, acc: S::V, x: S::V) -> S::V {
        s.add(acc, x)
    }
}

#[derive(Clone, Copy)]
struct Squares;

impl Fold for Squares {
    const EMPTY: f32 = 0.0;
    #[inline(always)]
    fn step<S: Simd>(self, s: S, acc: S::V, x: S::V) -> S::V {
        s.fma(x, x, acc)
    }
}

#[derive(Clone, Copy)]
struct Powers(f32);

impl Fold for Powers {
    const EMPTY: f32 = 0.0;
    #[inline(always)]
    fn step<S: Simd>(self, s: S, acc: S::V, x: S::V) -> S::V {
        let mut lanes = s.to_array(x);
        lanes.iter_mut().for_each(|x| *x = x.abs().powf(self.0));
        // SAFETY: LANES <= MAX_LANES.
        s.add(acc, unsafe { s.load(lanes.as_ptr()) })
    }
}

/// One plane of output, a vector of a row at a time.
struct Plane<'a, F> {
    geometry: &'a Geometry,
    x: &'a [f32],
    out: &'a mut [f32],
    fold: F,
}

impl<F: Fold> Kernel for Plane<'_, F> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let [d, h, w] = self.geometry.axes;
        let mut outside = [0.0; MAX_LANES];
        for col in (0..w.out).step_by(S::LANES) {
            let lanes = S::LANES.min(w.out - col);
            // For each kernel column, the lanes that read the input, and what to add for the others.
            let columns: Vec<(u32, S::V)> = (0..w.kernel)
                .map(|tap| {
                    let valid = w.valid(tap);
                    for (i, x) in outside.iter_mut().enumerate() {
                        *x = if valid.contains(&(col + i)) { 0.0 } else { F::EMPTY };
                    }
                    // SAFETY: LANES <= MAX_LANES.
                    (self.geometry.column_bits(tap, col, S::LANES), unsafe { s.load(outside.as_ptr()) })
                })
                .collect();
            for row in 0..d.out * h.out {
                let mut acc = s.splat(F::EMPTY);
                for td in 0..d.kernel {
                    let Some(id) = d.input(row / h.out, td) else { continue };
                    for th in 0..h.kernel {
                        let Some(ih) = h.input(row % h.out, th) else { continue };
                        let x = self.x.as_ptr().wrapping_add((id * h.size + ih) * w.size + col * w.stride);
                        for (tap, &(bits, outside)) in columns.iter().enumerate() {
                            let x = x.wrapping_add(tap * w.dilation).wrapping_sub(w.pad);
                            // SAFETY: set bits are columns of the row.
                            let v = s.add(unsafe { load(s, x, w.stride, bits) }, outside);
                            acc = self.fold.step(s, acc, v);
                        }
                    }
                }
                // SAFETY: the row has lanes columns from col on.
                unsafe { s.store_n(self.out[row * w.out + col..][..lanes].as_mut_ptr(), acc, lanes) };
            }
        }
    }
}

/// Max pooling that also returns the index of each maximum in its plane (the first of equals), like the second output of
/// ONNX's MaxPool but relative to the plane; −1 for an empty window.
///
/// # Panics
/// As [`pool`]; also if `indices` does not have the output's length.
pub fn max_pool_indices(spec: &PoolSpec, planes: usize, x: &[f32], out: &mut [f32], indices: &mut [i64]) {
    let w = spec.windows();
    let (in_plane, out_plane) = check(&w, planes, x, out);
    assert_eq!(indices.len(), out.len(), "indices of {spec:?}");
    pool(PoolOp::Max, spec, planes, x, out);
    let out = &*out;
    let [d, h, v] = w.geometry.axes;
    threads::chunks(indices, out_plane, out_plane * 4, |first, indices| {
        for (i, index) in indices.iter_mut().enumerate() {
            let plane = first + i / out_plane;
            let (best, at) = (out[first * out_plane + i], i % out_plane);
            let x = &x[plane * in_plane..(plane + 1) * in_plane];
            let (od, oh, ow) = (at / (h.out * v.out), at / v.out % h.out, at % v.out);
            let mut places = (0..d.kernel * h.kernel * v.kernel).filter_map(|t| {
                let (td, th, tv) = (t / (h.kernel * v.kernel), t / v.kernel % h.kernel, t % v.kernel);
                Some((d.input(od, td)? * h.size + h.input(oh, th)?) * v.size + v.input(ow, tv)?)
            });
            *index = places.find(|&p| x[p] == best || x[p].is_nan()).map_or(-1, |p| p as i64);
        }
    });
}

fn check(w: &Windows, planes: usize, x: &[f32], out: &[f32]) -> (usize, usize) {
    let (in_plane, out_plane) = (w.geometry.in_plane(), w.geometry.out_plane());
    assert_eq!(x.len(), size::of(&[planes, in_plane]), "input of a pooling of {planes} planes");
    assert_eq!(out.len(), size::of(&[planes, out_plane]), "output of a pooling of {planes} planes");
    (in_plane, out_plane)
}

/// Divides sums by the number of window elements.
pub(crate) fn divide(w: &Windows, include_pad: bool, out: &mut [f32]) {
    let count = |d: usize, o: usize| w.elements(d, o, include_pad);
    let [_, h, v] = w.geometry.axes;
    let columns: Vec<usize> = (0..v.out).map(|o| count(2, o)).collect();
    if v.out == 0 {
        return;
    }
    for (r, out) in out.chunks_exact_mut(v.out).enumerate() {
        let rows = count(0, r / h.out) * count(1, r % h.out);
        for (y, c) in out.iter_mut().zip(&columns) {
            *y /= (rows * c) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rng, in_pool};

    /// One output, by the definition.
    fn reference(op: PoolOp, spec: &PoolSpec, x: &[f32], at: &[usize]) -> f64 {
        let n = at.len();
        let (mut inside, mut with_pads) = (vec![], 0);
        let taps: usize = spec.kernel.iter().product();
        for t in 0..taps {
            let (mut rest, mut index, mut is_in, mut in_padded) = (t, 0usize, true, true);
            let mut taps = vec![0; n];
            for d in (0..n).rev() {
                taps[d] = rest % spec.kernel[d];
                rest /= spec.kernel[d];
            }
            for d in 0..n {
                let p = at[d] * spec.stride[d] + taps[d] * spec.dilation[d];
                in_padded &= p < spec.in_size[d] + spec.pads[d] + spec.pads[n + d];
                is_in &= p >= spec.pads[d] && p < spec.pads[d] + spec.in_size[d];
                index = index.wrapping_mul(spec.in_size[d]).wrapping_add(p.wrapping_sub(spec.pads[d]));
            }
            with_pads += in_padded as usize;
            if is_in {
                inside.push(x[index] as f64);
            }
        }
        match op {
            PoolOp::Max => inside.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            PoolOp::Average { count_include_pad } => {
                inside.iter().sum::<f64>() / if count_include_pad { with_pads } else { inside.len() } as f64
            }
            PoolOp::Lp(p) => inside.iter().map(|v| v.abs().powf(p as f64)).sum::<f64>().powf(1.0 / p as f64),
        }
    }

    #[test]
    fn agrees_with_the_definition() {
        let mut rng = Rng::new(21);
        let ops = [
            PoolOp::Max,
            PoolOp::Average { count_include_pad: true },
            PoolOp::Average { count_include_pad: false },
            PoolOp::Lp(2.0),
            PoolOp::Lp(3.0),
        ];
        for case in 0..200 {
            let n = 1 + rng.below(3);
            let mut draw = |from: &[usize]| -> Vec<usize> { (0..n).map(|_| rng.pick(from)).collect() };
            let in_size = draw(&[3, 5, 8, 19]);
            let (kernel, stride, dilation) = (draw(&[1, 2, 3]), draw(&[1, 2, 3]), draw(&[1, 1, 2]));
            let pads: Vec<usize> = [draw(&[0, 0, 1]), draw(&[0, 1])].concat();
            let ceil = case % 3 == 0;
            let out_size: Vec<usize> = (0..n)
                .map(|d| {
                    let window = dilation[d] * (kernel[d] - 1) + 1;
                    let room = (in_size[d] + pads[d] + pads[n + d]).saturating_sub(window);
                    let out = if ceil { room.div_ceil(stride[d]) + 1 } else { room / stride[d] + 1 };
                    // A window that would begin in the padding after the input is dropped.
                    if (out - 1) * stride[d] >= in_size[d] + pads[d] { out - 1 } else { out }
                })
                .collect();
            let spec = PoolSpec { in_size, out_size, kernel, stride, dilation, pads };
            let planes = 1 + rng.below(3);
            let (in_plane, out_plane) =
                (spec.in_size.iter().product::<usize>(), spec.out_size.iter().product::<usize>());
            let x = rng.values(planes * in_plane);
            let op = ops[case % ops.len()];
            let all = Isa::available().into_iter().flat_map(|isa| {
                let mut out = vec![f32::NAN; planes * out_plane];
                pool_with(isa, op, &spec, planes, &x, &mut out);
                out
            });
            for (i, got) in all.enumerate() {
                let i = i % (planes * out_plane);
                let (plane, mut rest) = (i / out_plane, i % out_plane);
                let mut at = vec![0; n];
                for d in (0..n).rev() {
                    at[d] = rest % spec.out_size[d];
                    rest /= spec.out_size[d];
                }
                let want = reference(op, &spec, &x[plane * in_plane..(plane + 1) * in_plane], &at);
                let same = got as f64 == want || (got.is_nan() && want.is_nan());
                assert!(
                    same || (got as f64 - want).abs() < 1e-5,
                    "{op:?} {spec:?} [{i}]: {got}, want {want}"
                );
            }
        }
    }

    fn plain(size: usize, kernel: usize, stride: usize) -> PoolSpec {
        PoolSpec {
            in_size: vec![size, size],
            out_size: vec![(size - kernel) / stride + 1; 2],
            kernel: vec![kernel; 2],
            stride: vec![stride; 2],
            dilation: vec![1; 2],
            pads: vec![0; 4],
        }
    }

    #[test]
    fn indices_name_the_first_maximum() {
        let x = [1.0, 5.0, 2.0, 5.0, 0.0, 1.0, 7.0, 7.0, 3.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0];
        let (mut out, mut at) = ([0.0; 4], [0; 4]);
        max_pool_indices(&plain(4, 2, 2), 1, &x, &mut out, &mut at);
        assert_eq!((out, at), ([5.0, 7.0, 3.0, 1.0], [1, 6, 8, 10]));
    }

    #[test]
    fn nan_spreads_and_threads_do_not_change_a_bit() {
        let mut x = Rng::new(1).values(64 * 32 * 32);
        x[40] = f32::NAN;
        let spec = plain(32, 3, 2);
        let run = |threads| {
            in_pool(threads, || {
                let mut out = vec![0.0; 64 * 15 * 15];
                pool(PoolOp::Max, &spec, 64, &x, &mut out);
                out.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
            })
        };
        assert_eq!(run(1), run(2));
        assert!(f32::from_bits(run(1)[4]).is_nan());
    }
}
