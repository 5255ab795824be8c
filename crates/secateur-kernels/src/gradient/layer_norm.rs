//! Gradients of normalisations of rows: layer, RMS, group and instance normalisation.

use crate::gradient::batch_norm::centred_squares;
use crate::reduce::{ReduceOp, row};
use crate::simd::{Isa, Kernel, Simd, sum_lanes};
use crate::threads::{self, SharedMut};

/// A normalisation of rows: y = x̂ · scale + bias with x̂ = (x − mean) / √(variance + eps).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowNorm {
    /// Elements of a row.
    pub n: usize,
    /// Whether the mean is subtracted; otherwise it counts as 0 (RMS normalisation).
    pub centred: bool,
    /// Added to the variance.
    pub eps: f32,
}

/// The gradients of [`RowNorm`]. Row r is scaled by row r mod (rows of `scale`): layer normalisation has one row of
/// scales, group normalisation one for each group of channels. With g = ∂L/∂y · scale and m(·) the mean of a row:
///
/// ```text
/// ∂x = (g − m(g) − x̂ · m(g · x̂)) / √(variance + eps)        without m(g) where rows aren't centred
/// d  ← ∂L/∂y · x̂        in place of ∂L/∂y; summed over rows it is ∂scale
/// ```
///
/// (Ba, Kiros and Hinton 2016.)
///
/// # Panics
/// If the lengths of `x`, `d` and `dx` differ, or `n` doesn't divide them and the length of `scale`.
pub fn layer_norm_gradient(norm: RowNorm, x: &[f32], scale: &[f32], d: &mut [f32], dx: Option<&mut [f32]>) {
    layer_norm_gradient_with(Isa::best(), norm, x, scale, d, dx);
}

fn layer_norm_gradient_with(
    isa: Isa,
    norm: RowNorm,
    x: &[f32],
    scale: &[f32],
    d: &mut [f32],
    dx: Option<&mut [f32]>,
) {
    let n = norm.n;
    assert!(x.len() == d.len() && dx.as_ref().is_none_or(|dx| dx.len() == x.len()), "values of {norm:?}");
    if x.is_empty() {
        return;
    }
    assert!(!scale.is_empty() && scale.len().is_multiple_of(n), "scales of {norm:?}");
    let dx = dx.map(SharedMut::new);
    threads::chunks(d, n, 4 * n, |first, d| {
        let x = &x[first * n..][..d.len()];
        // SAFETY: chunks are disjoint.
        let dx = dx.as_ref().map(|dx| unsafe { dx.slice(first * n, d.len()) });
        isa.run(Rows { norm, first, x, scale, d, dx });
    });
}

struct Rows<'a> {
    norm: RowNorm,
    /// The first row.
    first: usize,
    x: &'a [f32],
    scale: &'a [f32],
    d: &'a mut [f32],
    dx: Option<&'a mut [f32]>,
}

impl Kernel for Rows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Rows { norm: RowNorm { n, centred, eps }, first, x, scale, d, mut dx } = self;
        let count = n as f32;
        for (r, (x, d)) in x.chunks_exact(n).zip(d.chunks_exact_mut(n)).enumerate() {
            let scale = &scale[(first + r) * n % scale.len()..][..n];
            let mean = if centred { row(s, ReduceOp::Sum, x) / count } else { 0.0 };
            let inverse = 1.0 / (centred_squares(s, x, mean) / count + eps).sqrt();
            // x̂ = x · inverse + shift.
            let (factor, shift) = (s.splat(inverse), s.splat(-mean * inverse));
            let (x, g, p) = (x.as_ptr(), scale.as_ptr(), d.as_mut_ptr());
            let Some(dx) = dx.as_deref_mut() else {
                for i in (0..n).step_by(S::LANES) {
                    let lanes = S::LANES.min(n - i);
                    // SAFETY: lanes values from i on lie in the rows.
                    unsafe {
                        let hat = s.fma(s.load_n(x.add(i), lanes), factor, shift);
                        s.store_n(p.add(i), s.mul(s.load_n(p.add(i), lanes), hat), lanes);
                    }
                }
                continue;
            };
            let (mut sum, mut product) = (s.zero(), s.zero());
            for i in (0..n).step_by(S::LANES) {
                let lanes = S::LANES.min(n - i);
                // SAFETY: lanes values from i on lie in the rows; lanes beyond are 0 in d.
                unsafe {
                    let hat = s.fma(s.load_n(x.add(i), lanes), factor, shift);
                    let given = s.mul(s.load_n(p.add(i), lanes), s.load_n(g.add(i), lanes));
                    sum = s.add(sum, given);
                    product = s.fma(given, hat, product);
                }
            }
            let centre = s.splat(if centred { sum_lanes(s, sum) / count } else { 0.0 });
            let slope = s.splat(sum_lanes(s, product) / count);
            let out = dx[r * n..][..n].as_mut_ptr();
            for i in (0..n).step_by(S::LANES) {
                let lanes = S::LANES.min(n - i);
                // SAFETY: lanes values from i on lie in the rows.
                unsafe {
                    let hat = s.fma(s.load_n(x.add(i), lanes), factor, shift);
                    let d = s.load_n(p.add(i), lanes);
                    let rest = s.fnma(hat, slope, s.sub(s.mul(d, s.load_n(g.add(i), lanes)), centre));
                    s.store_n(out.add(i), s.mul(rest, factor), lanes);
                    s.store_n(p.add(i), s.mul(d, hat), lanes);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rng, in_pool};

    /// Σ over a row of y · given in double precision, and x̂.
    fn row_loss(norm: RowNorm, x: &[f64], scale: &[f32], given: &[f32]) -> (f64, Vec<f64>) {
        let n = norm.n as f64;
        let mean = if norm.centred { x.iter().sum::<f64>() / n } else { 0.0 };
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        let hat: Vec<f64> = x.iter().map(|x| (x - mean) / (variance + f64::from(norm.eps)).sqrt()).collect();
        let terms = hat.iter().zip(scale).zip(given);
        (terms.map(|((hat, &scale), &given)| hat * f64::from(scale) * f64::from(given)).sum(), hat)
    }

    #[test]
    fn agree_with_central_differences_on_any_threads() {
        let mut rng = Rng::new(11);
        for round in 0..24 {
            let norm = RowNorm { n: 8 + rng.below(70), centred: round % 3 != 0, eps: 1e-5 };
            let (period, n) = (1 + rng.below(3), norm.n);
            let rows = period * (1 + rng.below(4));
            let (x, given, scale) = (rng.values(rows * n), rng.values(rows * n), rng.values(period * n));
            let run = |isa, threads| {
                let (mut d, mut dx) = (given.clone(), vec![f32::NAN; x.len()]);
                in_pool(threads, || layer_norm_gradient_with(isa, norm, &x, &scale, &mut d, Some(&mut dx)));
                (d, dx)
            };
            for isa in Isa::available() {
                let (d, dx) = run(isa, 1);
                assert_eq!((&d, &dx), (&run(isa, 3).0, &run(isa, 3).1));
                let mut alone = given.clone();
                layer_norm_gradient_with(isa, norm, &x, &scale, &mut alone, None);
                for r in 0..rows {
                    let scale = &scale[r % period * n..][..n];
                    let of = r * n..(r + 1) * n;
                    let mut own: Vec<f64> = x[of.clone()].iter().map(|&v| v.into()).collect();
                    let (_, hat) = row_loss(norm, &own, scale, &given[of.clone()]);
                    for i in 0..n {
                        let mut at = |by: f64| {
                            let former = own[i];
                            own[i] += by;
                            let value = row_loss(norm, &own, scale, &given[of.clone()]).0;
                            own[i] = former;
                            value
                        };
                        let want = (at(1e-4) - at(-1e-4)) / 2e-4;
                        let got = f64::from(dx[r * n + i]);
                        assert!((got - want).abs() < 2e-5 * (1.0 + want.abs()), "{norm:?}: {got} for {want}");
                        let want = hat[i] * f64::from(given[r * n + i]);
                        for d in [d[r * n + i], alone[r * n + i]] {
                            assert!((f64::from(d) - want).abs() < 1e-5, "{norm:?}: {d} for {want}");
                        }
                    }
                }
            }
        }
    }
}
