//! Reductions over one axis.

use crate::math;
use crate::simd::{Isa, Kernel, Simd};
use crate::size;
use crate::threads;

/// What a reduction computes of the values along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReduceOp {
    /// Σ x; 0 of nothing.
    Sum,
    /// Σ x / n; NaN of nothing.
    Mean,
    /// The greatest; NaN if any is; −∞ of nothing.
    Max,
    /// The smallest; NaN if any is; +∞ of nothing.
    Min,
    /// Π x; 1 of nothing.
    Prod,
    /// Σ |x|.
    L1,
    /// √Σ x².
    L2,
    /// Σ x².
    SumSquare,
    /// ln Σ x.
    LogSum,
    /// ln Σ eˣ, without overflow.
    LogSumExp,
}

/// out[o, i] = op over a of x[o, a, i], on the current rayon pool if there is enough to do.
///
/// # Panics
/// If the lengths aren't `outer · axis · inner` and `outer · inner`.
pub fn reduce(op: ReduceOp, x: &[f32], outer: usize, axis: usize, inner: usize, out: &mut [f32]) {
    reduce_with(Isa::best(), op, x, outer, axis, inner, out);
}

fn reduce_with(isa: Isa, op: ReduceOp, x: &[f32], outer: usize, axis: usize, inner: usize, out: &mut [f32]) {
    assert_eq!(x.len(), size::of(&[outer, axis, inner]), "input of {op:?} over [{outer}, {axis}, {inner}]");
    assert_eq!(out.len(), size::of(&[outer, inner]), "output of {op:?} over [{outer}, {axis}, {inner}]");
    if inner == 1 {
        threads::chunks(out, 1, axis, |first, out| {
            isa.run(ReduceRows { op, x: &x[first * axis..(first + out.len()) * axis], axis, out });
        });
    } else {
        threads::chunks(out, inner, axis * inner, |first, out| {
            let items = out.len() / inner;
            let x = &x[first * axis * inner..(first + items) * axis * inner];
            isa.run(ReduceColumns { op, x, axis, inner, out });
        });
    }
}

/// Initial value of a reduction.
#[inline(always)]
fn start<S: Simd>(s: S, op: ReduceOp) -> S::V {
    s.splat(match op {
        ReduceOp::Max => f32::NEG_INFINITY,
        ReduceOp::Min => f32::INFINITY,
        ReduceOp::Prod => 1.0,
        _ => 0.0,
    })
}

/// Folds a value in. `top` is the greatest value, for the operations that need it.
#[inline(always)]
fn fold<S: Simd>(s: S, op: ReduceOp, acc: S::V, x: S::V, top: S::V) -> S::V {
    match op {
        ReduceOp::Sum | ReduceOp::Mean | ReduceOp::LogSum => s.add(acc, x),
        // The vector extrema return x if either is NaN, so a NaN in acc must be kept explicitly.
        ReduceOp::Max => s.select(s.eq(acc, acc), s.max(acc, x), acc),
        ReduceOp::Min => s.select(s.eq(acc, acc), s.min(acc, x), acc),
        ReduceOp::Prod => s.mul(acc, x),
        ReduceOp::L1 => s.add(acc, s.abs(x)),
        ReduceOp::L2 | ReduceOp::SumSquare => s.fma(x, x, acc),
        ReduceOp::LogSumExp => s.add(acc, math::exp(s, s.sub(x, top))),
    }
}

/// Folds two accumulators.
#[inline(always)]
fn join<S: Simd>(s: S, op: ReduceOp, a: S::V, b: S::V) -> S::V {
    match op {
        ReduceOp::Max | ReduceOp::Min | ReduceOp::Prod => fold(s, op, a, b, b),
        _ => s.add(a, b),
    }
}

#[inline(always)]
fn finish<S: Simd>(s: S, op: ReduceOp, acc: S::V, n: usize, top: S::V) -> S::V {
    match op {
        ReduceOp::Mean => s.div(acc, s.splat(n as f32)),
        ReduceOp::L2 => s.sqrt(acc),
        ReduceOp::LogSum => math::ln(s, acc),
        ReduceOp::LogSumExp => s.add(math::ln(s, acc), top),
        _ => acc,
    }
}

/// The value to subtract in `LogSumExp`: the greatest, or 0 if that is infinite, to avoid ∞ − ∞.
#[inline(always)]
fn safe_top<S: Simd>(s: S, top: S::V) -> S::V {
    s.select(s.lt(s.abs(top), s.splat(f32::INFINITY)), top, s.zero())
}

/// Reduces rows of `axis` contiguous values.
struct ReduceRows<'a> {
    op: ReduceOp,
    x: &'a [f32],
    axis: usize,
    out: &'a mut [f32],
}

impl Kernel for ReduceRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (i, out) in self.out.iter_mut().enumerate() {
            *out = row(s, self.op, &self.x[i * self.axis..(i + 1) * self.axis]);
        }
    }
}

/// Reduces one row, within a kernel. The order of the sum depends only on the row's length.
#[inline(always)]
pub(crate) fn row<S: Simd>(s: S, op: ReduceOp, x: &[f32]) -> f32 {
    let top = match op {
        ReduceOp::LogSumExp => safe_top(s, s.splat(row_of(s, ReduceOp::Max, x, s.zero()))),
        _ => s.zero(),
    };
    let acc = row_of(s, op, x, top);
    s.to_array(finish(s, op, s.splat(acc), x.len(), top))[0]
}

#[inline(always)]
fn row_of<S: Simd>(s: S, op: ReduceOp, x: &[f32], top: S::V) -> f32 {
    let mut acc = [start(s, op); 4];
    let chunks = x.chunks_exact(4 * S::LANES);
    let mut rest = chunks.remainder();
    for chunk in chunks {
        for (v, a) in acc.iter_mut().enumerate() {
            // SAFETY: a chunk has four vectors.
            let x = unsafe { s.load(chunk.as_ptr().add(v * S::LANES)) };
            *a = fold(s, op, *a, x, top);
        }
    }
    let mut total = join(s, op, join(s, op, acc[0], acc[1]), join(s, op, acc[2], acc[3]));
    while rest.len() >= S::LANES {
        // SAFETY: at least LANES values remain.
        let x = unsafe { s.load(rest.as_ptr()) };
        total = fold(s, op, total, x, top);
        rest = &rest[S::LANES..];
    }
    if !rest.is_empty() {
        // SAFETY: fewer than LANES values remain.
        let folded = s.to_array(fold(s, op, total, unsafe { s.load_n(rest.as_ptr(), rest.len()) }, top));
        let mut lanes = s.to_array(total);
        lanes[..rest.len()].copy_from_slice(&folded[..rest.len()]);
        // SAFETY: the array holds at least a vector.
        total = unsafe { s.load(lanes.as_ptr()) };
    }
    for _ in 0..S::LANES.ilog2() {
        let (even, odd) = s.unzip(total, total);
        total = join(s, op, even, odd);
    }
    s.to_array(total)[0]
}

/// Reduces over the middle of `[items, axis, inner]`, a vector of columns at a time.
struct ReduceColumns<'a> {
    op: ReduceOp,
    x: &'a [f32],
    axis: usize,
    inner: usize,
    out: &'a mut [f32],
}

impl Kernel for ReduceColumns<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let ReduceColumns { op, axis, inner, .. } = self;
        for (item, out) in self.out.chunks_exact_mut(inner).enumerate() {
            let x = &self.x[item * axis * inner..(item + 1) * axis * inner];
            for col in (0..inner).step_by(S::LANES) {
                let n = S::LANES.min(inner - col);
                let over = |op: ReduceOp, top: S::V| {
                    let mut acc = start(s, op);
                    for a in 0..axis {
                        // SAFETY: n columns from col on lie in each row of x.
                        acc = fold(s, op, acc, unsafe { s.load_n(x.as_ptr().add(a * inner + col), n) }, top);
                    }
                    acc
                };
                let top = if op == ReduceOp::LogSumExp {
                    safe_top(s, over(ReduceOp::Max, s.zero()))
                } else {
                    s.zero()
                };
                let result = finish(s, op, over(op, top), axis, top);
                // SAFETY: n columns from col on lie in out.
                unsafe { s.store_n(out.as_mut_ptr().add(col), result, n) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rng, in_pool};

    fn reference(op: ReduceOp, x: &[f64]) -> f64 {
        let sum = |f: &dyn Fn(f64) -> f64| x.iter().map(|&v| f(v)).sum::<f64>();
        match op {
            ReduceOp::Sum => sum(&|v| v),
            ReduceOp::Mean => sum(&|v| v) / x.len() as f64,
            ReduceOp::Max => x.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            ReduceOp::Min => x.iter().copied().fold(f64::INFINITY, f64::min),
            ReduceOp::Prod => x.iter().product(),
            ReduceOp::L1 => sum(&f64::abs),
            ReduceOp::L2 => sum(&|v| v * v).sqrt(),
            ReduceOp::SumSquare => sum(&|v| v * v),
            ReduceOp::LogSum => sum(&|v| v).ln(),
            ReduceOp::LogSumExp => sum(&f64::exp).ln(),
        }
    }

    const ALL: [ReduceOp; 10] = [
        ReduceOp::Sum,
        ReduceOp::Mean,
        ReduceOp::Max,
        ReduceOp::Min,
        ReduceOp::Prod,
        ReduceOp::L1,
        ReduceOp::L2,
        ReduceOp::SumSquare,
        ReduceOp::LogSum,
        ReduceOp::LogSumExp,
    ];

    #[test]
    fn agrees_with_the_reference() {
        let mut rng = Rng::new(3);
        for case in 0..120 {
            let (outer, axis, inner) = (rng.below(5), rng.below(200), rng.pick(&[1, 1, 2, 7, 16, 33]));
            // Positive values, so that sums don't cancel and logarithms exist.
            let x: Vec<f32> = rng.values(outer * axis * inner).iter().map(|v| v.abs() + 0.5).collect();
            let op = ALL[case % ALL.len()];
            for isa in Isa::available() {
                let mut out = vec![0.0; outer * inner];
                reduce_with(isa, op, &x, outer, axis, inner, &mut out);
                for (i, &got) in out.iter().enumerate() {
                    let column: Vec<f64> =
                        (0..axis).map(|a| x[(i / inner * axis + a) * inner + i % inner] as f64).collect();
                    let want = reference(op, &column);
                    let same = got as f64 == want || (got.is_nan() && want.is_nan());
                    assert!(
                        same || (got as f64 - want).abs() <= 3e-6 * want.abs().max(0.1),
                        "{isa:?} {op:?} [{outer},{axis},{inner}] {i}: {got}, want {want}"
                    );
                }
            }
        }
    }

    #[test]
    fn nan_survives_and_exponentials_do_not_overflow() {
        for isa in Isa::available() {
            for at in [0, 17, 70] {
                let mut x = vec![1.0; 71];
                x[at] = f32::NAN;
                for op in ALL {
                    let mut out = [0.0];
                    reduce_with(isa, op, &x, 1, 71, 1, &mut out);
                    assert!(out[0].is_nan(), "{isa:?} {op:?} with NaN at {at}");
                }
            }
            let mut out = [0.0];
            reduce_with(isa, ReduceOp::LogSumExp, &[1000.0; 4], 1, 4, 1, &mut out);
            assert!((out[0] - (1000.0 + 4f32.ln())).abs() < 1e-3);
            reduce_with(isa, ReduceOp::LogSumExp, &[f32::NEG_INFINITY; 4], 1, 4, 1, &mut out);
            assert_eq!(out[0], f32::NEG_INFINITY);
            reduce_with(isa, ReduceOp::LogSumExp, &[f32::INFINITY, 0.0], 1, 2, 1, &mut out);
            assert_eq!(out[0], f32::INFINITY);
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let x = Rng::new(5).values(64 * 3000);
        for (outer, axis, inner) in [(64, 3000, 1), (8, 300, 80)] {
            let run = |threads| {
                in_pool(threads, || {
                    let mut out = vec![0.0; outer * inner];
                    reduce(ReduceOp::Sum, &x, outer, axis, inner, &mut out);
                    out
                })
            };
            assert_eq!(run(1), run(2));
        }
    }
}
