//! Softmax and its logarithm.

use crate::math;
use crate::reduce::{ReduceOp, row};
use crate::simd::{Isa, Kernel, Simd, map_vectors, sum_lanes};
use crate::size;
use crate::threads;

/// out[o, a, i] = e^x[o, a, i] / Σₐ e^x[o, a, i], on the current rayon pool if there is enough to do.
///
/// A row whose greatest value is infinite yields NaN at that value (∞/∞); a row of only −∞ yields NaN.
///
/// # Panics
/// If the lengths aren't `outer · axis · inner`.
pub fn softmax(x: &[f32], out: &mut [f32], outer: usize, axis: usize, inner: usize) {
    softmax_with(Isa::best(), false, x, out, outer, axis, inner);
}

/// [`softmax`] of rows of `axis` values each, in place.
///
/// # Panics
/// If the length is not a whole number of rows.
pub fn softmax_rows(x: &mut [f32], axis: usize) {
    threads::chunks(x, axis, 4 * axis, |_, rows| Isa::best().run(SoftmaxInPlace { rows, axis }));
}

/// The natural logarithm of [`softmax`], accurate for small probabilities.
///
/// # Panics
/// As [`softmax`].
pub fn log_softmax(x: &[f32], out: &mut [f32], outer: usize, axis: usize, inner: usize) {
    softmax_with(Isa::best(), true, x, out, outer, axis, inner);
}

fn softmax_with(isa: Isa, log: bool, x: &[f32], out: &mut [f32], outer: usize, axis: usize, inner: usize) {
    assert_eq!(x.len(), size::of(&[outer, axis, inner]), "input of softmax over [{outer}, {axis}, {inner}]");
    assert_eq!(out.len(), x.len(), "output of softmax over [{outer}, {axis}, {inner}]");
    let item = axis * inner;
    threads::chunks(out, item, 4 * item, |first, out| {
        let x = &x[first * item..][..out.len()];
        if inner == 1 {
            isa.run(SoftmaxRows { log, x, out, axis });
        } else {
            isa.run(SoftmaxColumns { log, x, out, axis, inner });
        }
    });
}

/// Softmax of rows of `axis` contiguous values.
struct SoftmaxRows<'a> {
    log: bool,
    x: &'a [f32],
    out: &'a mut [f32],
    axis: usize,
}

impl Kernel for SoftmaxRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (x, out) in self.x.chunks_exact(self.axis).zip(self.out.chunks_exact_mut(self.axis)) {
            if self.log {
                let shift = s.splat(row(s, ReduceOp::LogSumExp, x));
                out.copy_from_slice(x);
                map_vectors!(s, out, |v| s.sub(v, shift));
            } else {
                // SAFETY: both slices have `axis` values.
                unsafe { softmax_row(s, x.as_ptr(), out.as_mut_ptr(), x.len()) };
            }
        }
    }
}

/// Softmax of rows of `axis` contiguous values, in place.
struct SoftmaxInPlace<'a> {
    rows: &'a mut [f32],
    axis: usize,
}

impl Kernel for SoftmaxInPlace<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for row in self.rows.chunks_exact_mut(self.axis) {
            let p = row.as_mut_ptr();
            // SAFETY: the row can be read and written; each vector is read before it is written.
            unsafe { softmax_row(s, p, p, row.len()) };
        }
    }
}

/// Softmax of `n` values at `x`, written to `out`, which may be `x`.
///
/// # Safety
/// `n` values can be read at `x` and written at `out`.
#[inline(always)]
unsafe fn softmax_row<S: Simd>(s: S, x: *const f32, out: *mut f32, n: usize) {
    // SAFETY: guaranteed by the caller.
    let top = s.splat(row(s, ReduceOp::Max, unsafe { std::slice::from_raw_parts(x, n) }));
    let mut sums = [s.zero(); 2];
    // SAFETY: guaranteed by the caller; all accesses lie below n.
    unsafe {
        for at in (0..n).step_by(S::LANES) {
            let lanes = S::LANES.min(n - at);
            let e = math::exp(s, s.sub(load(s, x.add(at), lanes), top));
            let sum = &mut sums[at / S::LANES % 2];
            if lanes == S::LANES {
                s.store(out.add(at), e);
                *sum = s.add(*sum, e);
            } else {
                s.store_n(out.add(at), e, lanes);
                *sum = s.add(*sum, s.load_n(out.add(at), lanes));
            }
        }
    }
    let share = s.splat(1.0 / sum_lanes(s, s.add(sums[0], sums[1])));
    // SAFETY: guaranteed by the caller.
    let out = unsafe { std::slice::from_raw_parts_mut(out, n) };
    map_vectors!(s, out, |v| s.mul(v, share));
}

/// # Safety
/// `lanes <= S::LANES`, and `lanes` values can be read at `p`.
#[inline(always)]
unsafe fn load<S: Simd>(s: S, p: *const f32, lanes: usize) -> S::V {
    // SAFETY: guaranteed by the caller.
    unsafe { if lanes == S::LANES { s.load(p) } else { s.load_n(p, lanes) } }
}

/// Softmax over the middle of `[items, axis, inner]`, a vector of columns at a time.
struct SoftmaxColumns<'a> {
    log: bool,
    x: &'a [f32],
    out: &'a mut [f32],
    axis: usize,
    inner: usize,
}

impl Kernel for SoftmaxColumns<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (axis, inner) = (self.axis, self.inner);
        let item = axis * inner;
        for (x, out) in self.x.chunks_exact(item).zip(self.out.chunks_exact_mut(item)) {
            for col in (0..inner).step_by(S::LANES) {
                let n = S::LANES.min(inner - col);
                // SAFETY: n columns from col on lie in each of the axis' rows.
                let at = |a: usize| unsafe { s.load_n(x.as_ptr().add(a * inner + col), n) };
                let mut top = s.splat(f32::NEG_INFINITY);
                for a in 0..axis {
                    top = s.max(top, at(a));
                }
                let mut sum = s.zero();
                for a in 0..axis {
                    let e = math::exp(s, s.sub(at(a), top));
                    sum = s.add(sum, e);
                    if !self.log {
                        // SAFETY: as the loads above.
                        unsafe { s.store_n(out.as_mut_ptr().add(a * inner + col), e, n) };
                    }
                }
                let ln_sum = if self.log { math::ln(s, sum) } else { s.zero() };
                for a in 0..axis {
                    // SAFETY: as the loads above.
                    unsafe {
                        let p = out.as_mut_ptr().add(a * inner + col);
                        let y = if self.log {
                            s.sub(s.sub(at(a), top), ln_sum)
                        } else {
                            s.div(s.load_n(p, n), sum)
                        };
                        s.store_n(p, y, n);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rng;

    #[test]
    fn agrees_with_the_reference() {
        let mut rng = Rng::new(11);
        for case in 0..80 {
            let (outer, axis, inner) = (rng.below(4), 1 + rng.below(150), rng.pick(&[1, 1, 2, 16, 21]));
            let x: Vec<f32> = rng.values(outer * axis * inner).iter().map(|v| v * 20.0).collect();
            let log = case % 2 == 0;
            for isa in Isa::available() {
                let mut out = vec![0.0; x.len()];
                softmax_with(isa, log, &x, &mut out, outer, axis, inner);
                for (i, &got) in out.iter().enumerate() {
                    let (o, c) = (i / (axis * inner), i % inner);
                    let column = (0..axis).map(|a| x[(o * axis + a) * inner + c] as f64);
                    let top = column.clone().fold(f64::NEG_INFINITY, f64::max);
                    let sum: f64 = column.map(|v| (v - top).exp()).sum();
                    let ln = x[i] as f64 - top - sum.ln();
                    let (want, tolerance) =
                        if log { (ln, 4e-6) } else { (ln.exp(), 3e-6 * ln.exp() + 1e-37) };
                    assert!(
                        (got as f64 - want).abs() <= tolerance,
                        "{isa:?} {got}, want {want} (log: {log})"
                    );
                }
            }
        }
    }

    #[test]
    fn large_values_do_not_overflow_and_masked_ones_vanish() {
        for isa in Isa::available() {
            let mut out = [0.0; 3];
            softmax_with(isa, false, &[1e30, 1e30, f32::NEG_INFINITY], &mut out, 1, 3, 1);
            assert_eq!(out, [0.5, 0.5, 0.0]);
            let mut out = [0.0; 6];
            softmax_with(isa, false, &[1e30, 0.0, 1e30, 0.0, f32::NEG_INFINITY, 0.0], &mut out, 1, 3, 2);
            assert_eq!([out[0], out[2], out[4]], [0.5, 0.5, 0.0]);
        }
    }
}
