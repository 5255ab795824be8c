//! Depthwise convolutions: each output channel depends on one input channel.
//!
//! A vector holds neighbouring outputs of one row. Small square kernels work on several rows of outputs at a time,
//! so that an input vector is loaded once for all kernel rows that use it.

use super::PackedConv;
use super::lanes::load;
use super::spec::Geometry;
use crate::activation::Activation;
use crate::gemm::Ending;
use crate::simd::{Kernel, Simd};
use crate::size;
use crate::threads::{self, SharedMut};

/// Rows of outputs at a time.
const ROWS: usize = 4;

/// Largest kernel width whose lane masks are kept on the stack.
const MAX_WIDTH: usize = 5;

pub(super) fn run(conv: &PackedConv, x: &[f32], out: &mut [f32], add: Option<&[f32]>, act: Activation) {
    let geometry = &conv.geometry;
    let (in_plane, out_plane, taps) = (geometry.in_plane(), geometry.out_plane(), geometry.taps());
    let channels = conv.spec.out_channels;
    let multiplier = channels / conv.spec.groups;
    let shared = SharedMut::new(out);
    threads::ranges(shared.len() / out_plane, size::work(&[out_plane, taps + 4]), |range| {
        for plane in range {
            let channel = plane % channels;
            let (bounds, rest) = act.clamp_then_rest();
            // SAFETY: each plane is written by one task.
            let out = unsafe { shared.slice(plane * out_plane, out_plane) };
            let kernel = Plane {
                geometry,
                x: &x[plane / multiplier * in_plane..][..in_plane],
                weights: &conv.direct.as_slice()[channel * taps..][..taps],
                ending: Ending {
                    c: out.as_mut_ptr(),
                    ldc: geometry.axes[2].out,
                    alpha: 1.0,
                    c_scale: 0.0,
                    row_bias: std::ptr::null(),
                    col_bias: std::ptr::null(),
                    add: add.map_or(std::ptr::null(), |a| a[plane * out_plane..].as_ptr()),
                    lo: bounds.0,
                    hi: bounds.1,
                },
                bias: conv.bias.as_ref().map_or(0.0, |b| b[channel]),
            };
            conv.isa.run(kernel);
            crate::activation::apply(conv.isa, rest, out);
        }
    });
}

/// One plane of output.
struct Plane<'a> {
    geometry: &'a Geometry,
    x: &'a [f32],
    weights: &'a [f32],
    ending: Ending,
    bias: f32,
}

impl Kernel for Plane<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if self.geometry.prefers_narrow(S::LANES, S::Narrow::LANES) {
            s.narrow().call(Sized(self));
        } else {
            s.call(Sized(self));
        }
    }
}

/// One plane of output, for a chosen vector width.
struct Sized<'a>(Plane<'a>);

impl Kernel for Sized<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let plane = self.0;
        let [d, h, w] = plane.geometry.axes;
        let square = h.kernel == w.kernel && h.stride == w.stride && h.dilation == 1 && w.dilation == 1;
        match (square && d.kernel == 1 && d.out == 1 && d.pad == 0, w.kernel, w.stride) {
            (true, 3, 1) => s.call(Fast::<3, 1>(plane)),
            (true, 3, 2) => s.call(Fast::<3, 2>(plane)),
            (true, 5, 1) => s.call(Fast::<5, 1>(plane)),
            (true, 5, 2) => s.call(Fast::<5, 2>(plane)),
            _ => plane.any(s),
        }
    }
}

/// A `K` × `K` kernel with stride `T`.
struct Fast<'a, const K: usize, const T: usize>(Plane<'a>);

impl<const K: usize, const T: usize> Kernel for Fast<'_, K, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let plane = &self.0;
        let [_, h, w] = plane.geometry.axes;
        let mut weights = [[s.zero(); K]; K];
        for (to, from) in weights.iter_mut().zip(plane.weights.chunks_exact(K)) {
            for (to, &from) in to.iter_mut().zip(from) {
                *to = s.splat(from);
            }
        }
        for col in (0..w.out).step_by(S::LANES) {
            let mut bits = [0; MAX_WIDTH];
            for (tap, bits) in bits.iter_mut().enumerate().take(K) {
                *bits = plane.geometry.column_bits(tap, col, S::LANES);
            }
            let mut row = 0;
            while row + ROWS <= h.out {
                plane.rows::<S, K, T, ROWS>(s, &weights, &bits, row, col);
                row += ROWS;
            }
            while row < h.out {
                plane.rows::<S, K, T, 1>(s, &weights, &bits, row, col);
                row += 1;
            }
        }
    }
}

/// Repeats a block for each constant below `$end`.
macro_rules! unroll {
    ($name:ident < $end:expr, $body:block) => {
        unroll!(@ $name, $end, $body, 0 1 2 3 4 5 6 7 8 9 10)
    };
    (@ $name:ident, $end:expr, $body:block, $($i:literal)*) => {
        $({
            const $name: usize = $i;
            if $name < $end $body
        })*
    };
}

impl Plane<'_> {
    /// `R` rows of a vector of outputs.
    #[inline(always)]
    fn rows<S: Simd, const K: usize, const T: usize, const R: usize>(
        &self,
        s: S,
        weights: &[[S::V; K]; K],
        bits: &[u32; MAX_WIDTH],
        row: usize,
        col: usize,
    ) {
        let [_, h, w] = self.geometry.axes;
        let mut acc = [s.splat(self.bias); R];
        // The input rows of these outputs; the first ones may be padding.
        unroll!(Y < (R - 1) * T + K, {
            let y = (row * T + Y).wrapping_sub(h.pad);
            if y < h.size {
                let x = self.x.as_ptr().wrapping_add(y * w.size + col * T).wrapping_sub(w.pad);
                for tap in 0..K {
                    // SAFETY: set bits are columns of the row.
                    let v = unsafe { load(s, x.wrapping_add(tap), T, bits[tap]) };
                    for (r, acc) in acc.iter_mut().enumerate() {
                        // Rows above the output's first input row wrap to more than K.
                        let line = Y.wrapping_sub(r * T);
                        if line < K {
                            *acc = s.fma(weights[line][tap], v, *acc);
                        }
                    }
                }
            }
        });
        let lanes = S::LANES.min(w.out - col);
        for (r, &acc) in acc.iter().enumerate() {
            // SAFETY: the row and columns lie in the plane, which only this thread writes.
            unsafe { self.ending.write(s, row + r, col, lanes, acc) };
        }
    }

    /// Any kernel, a vector of outputs at a time.
    #[inline(always)]
    fn any<S: Simd>(&self, s: S) {
        let [d, h, w] = self.geometry.axes;
        for col in (0..w.out).step_by(S::LANES) {
            let lanes = S::LANES.min(w.out - col);
            let bits: Vec<u32> = (0..w.kernel).map(|t| self.geometry.column_bits(t, col, S::LANES)).collect();
            for row in 0..d.out * h.out {
                let mut acc = s.splat(self.bias);
                for td in 0..d.kernel {
                    let Some(id) = d.input(row / h.out, td) else { continue };
                    for th in 0..h.kernel {
                        let Some(ih) = h.input(row % h.out, th) else { continue };
                        let x = self.x.as_ptr().wrapping_add((id * h.size + ih) * w.size + col * w.stride);
                        let weights = &self.weights[(td * h.kernel + th) * w.kernel..][..w.kernel];
                        for (tap, (&weight, &bits)) in weights.iter().zip(&bits).enumerate() {
                            let x = x.wrapping_add(tap * w.dilation).wrapping_sub(w.pad);
                            // SAFETY: set bits are columns of the row.
                            acc = s.fma(s.splat(weight), unsafe { load(s, x, w.stride, bits) }, acc);
                        }
                    }
                }
                // SAFETY: the row and columns lie in the plane, which only this thread writes.
                unsafe { self.ending.write(s, row, col, lanes, acc) };
            }
        }
    }
}
