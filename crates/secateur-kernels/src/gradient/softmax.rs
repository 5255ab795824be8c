//! Gradients of softmax and its logarithm.

use crate::math;
use crate::simd::{Isa, Kernel, Simd, sum_lanes};
use crate::size;
use crate::threads;

/// The gradient of [`crate::softmax`] over the middle of `[outer, axis, inner]`, from its result y and in place of ∂L/∂y:
/// d ← y · (d − Σₐ d · y).
///
/// # Panics
/// If the lengths aren't `outer · axis · inner`.
pub fn softmax_gradient(y: &[f32], d: &mut [f32], outer: usize, axis: usize, inner: usize) {
    gradient_with(Isa::best(), false, y, d, [outer, axis, inner]);
}

/// The gradient of [`crate::log_softmax`], as [`softmax_gradient`]: d ← d − eʸ · Σₐ d.
///
/// # Panics
/// As [`softmax_gradient`].
pub fn log_softmax_gradient(y: &[f32], d: &mut [f32], outer: usize, axis: usize, inner: usize) {
    gradient_with(Isa::best(), true, y, d, [outer, axis, inner]);
}

fn gradient_with(isa: Isa, log: bool, y: &[f32], d: &mut [f32], shape: [usize; 3]) {
    let [_, axis, inner] = shape;
    assert_eq!(y.len(), size::of(&shape), "result of softmax over {shape:?}");
    assert_eq!(d.len(), y.len(), "gradient of softmax over {shape:?}");
    let item = axis * inner;
    threads::chunks(d, item, 4 * item, |first, d| {
        let y = &y[first * item..][..d.len()];
        if inner == 1 {
            isa.run(Rows { log, y, d, axis });
        } else {
            isa.run(Columns { log, y, d, axis, inner });
        }
    });
}

/// What a vector adds to the sum over the axis.
#[inline(always)]
fn term<S: Simd>(s: S, log: bool, y: S::V, d: S::V, sum: S::V) -> S::V {
    if log { s.add(d, sum) } else { s.fma(d, y, sum) }
}

/// The gradient by that sum.
#[inline(always)]
fn derive<S: Simd>(s: S, log: bool, y: S::V, d: S::V, sum: S::V) -> S::V {
    if log { s.fnma(math::exp(s, y), sum, d) } else { s.mul(y, s.sub(d, sum)) }
}

/// Rows of `axis` contiguous values.
struct Rows<'a> {
    log: bool,
    y: &'a [f32],
    d: &'a mut [f32],
    axis: usize,
}

impl Kernel for Rows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Rows { log, y, d, axis } = self;
        for (y, d) in y.chunks_exact(axis).zip(d.chunks_exact_mut(axis)) {
            let (y, d) = (y.as_ptr(), d.as_mut_ptr());
            let mut sum = s.zero();
            for i in (0..axis).step_by(S::LANES) {
                let lanes = S::LANES.min(axis - i);
                // SAFETY: lanes values from i on lie in the rows.
                sum = unsafe { term(s, log, s.load_n(y.add(i), lanes), s.load_n(d.add(i), lanes), sum) };
            }
            let sum = s.splat(sum_lanes(s, sum));
            for i in (0..axis).step_by(S::LANES) {
                let lanes = S::LANES.min(axis - i);
                // SAFETY: as above.
                unsafe {
                    let (y, v) = (s.load_n(y.add(i), lanes), s.load_n(d.add(i), lanes));
                    s.store_n(d.add(i), derive(s, log, y, v, sum), lanes);
                }
            }
        }
    }
}

/// The middle of `[items, axis, inner]`, a vector of columns at a time.
struct Columns<'a> {
    log: bool,
    y: &'a [f32],
    d: &'a mut [f32],
    axis: usize,
    inner: usize,
}

impl Kernel for Columns<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Columns { log, y, d, axis, inner } = self;
        for (y, d) in y.chunks_exact(axis * inner).zip(d.chunks_exact_mut(axis * inner)) {
            let (y, d) = (y.as_ptr(), d.as_mut_ptr());
            for i in (0..inner).step_by(S::LANES) {
                let lanes = S::LANES.min(inner - i);
                let mut sum = s.zero();
                for at in (0..axis).map(|a| a * inner + i) {
                    // SAFETY: lanes columns from i on lie in each row.
                    sum =
                        unsafe { term(s, log, s.load_n(y.add(at), lanes), s.load_n(d.add(at), lanes), sum) };
                }
                for at in (0..axis).map(|a| a * inner + i) {
                    // SAFETY: as above.
                    unsafe {
                        let (y, v) = (s.load_n(y.add(at), lanes), s.load_n(d.add(at), lanes));
                        s.store_n(d.add(at), derive(s, log, y, v, sum), lanes);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rng, in_pool};

    /// Σⱼ d\[j\] · ∂y\[j\]/∂x\[i\] for one row, by the Jacobian.
    fn by_definition(log: bool, x: &[f64], d: &[f64]) -> Vec<f64> {
        let total: f64 = x.iter().map(|x| x.exp()).sum();
        let p = |i: usize| x[i].exp() / total;
        let same = |i: usize, j: usize| f64::from(u8::from(i == j));
        let slope = |i: usize, j: usize| {
            if log { same(i, j) - p(i) } else { p(j) * (same(i, j) - p(i)) }
        };
        (0..x.len()).map(|i| (0..x.len()).map(|j| d[j] * slope(i, j)).sum()).collect()
    }

    #[test]
    fn agree_with_the_jacobian_on_any_threads() {
        let mut rng = Rng::new(12);
        for round in 0..32 {
            let log = round % 2 == 1;
            let inner = if round % 4 < 2 { 1 } else { 1 + rng.below(40) };
            let [outer, axis] = [1 + rng.below(4), 1 + rng.below(60)];
            let n = outer * axis * inner;
            let (x, given) = (rng.values(n), rng.values(n));
            let mut y = vec![0.0; n];
            let forward = if log { crate::log_softmax } else { crate::softmax };
            forward(&x, &mut y, outer, axis, inner);
            let run = |isa, threads| {
                let mut d = given.clone();
                in_pool(threads, || gradient_with(isa, log, &y, &mut d, [outer, axis, inner]));
                d
            };
            for isa in Isa::available() {
                let got = run(isa, 1);
                assert_eq!(got, run(isa, 3));
                for (o, i) in (0..outer).flat_map(|o| (0..inner).map(move |i| (o, i))) {
                    let at = |a: usize| (o * axis + a) * inner + i;
                    let column = |v: &[f32]| -> Vec<f64> { (0..axis).map(|a| v[at(a)].into()).collect() };
                    let want = by_definition(log, &column(&x), &column(&given));
                    for (a, want) in want.into_iter().enumerate() {
                        let got = f64::from(got[at(a)]);
                        assert!((got - want).abs() < 2e-6 * (1.0 + want.abs()), "{got} for {want}");
                    }
                }
            }
        }
    }
}
