//! The gradient of local response normalisation.

use crate::simd::{Isa, Kernel, Simd};
use crate::size;
use crate::threads;

/// Local response normalisation over neighbouring channels (Krizhevsky, Sutskever and Hinton 2012) of `[…, channels, inner]`:
/// y = x · s^−beta with s = bias + alpha / size · Σ x² over `size` channels, of which ⌊(size − 1) / 2⌋ are before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LocalNorm {
    /// Channels.
    pub channels: usize,
    /// Positions.
    pub inner: usize,
    /// Channels of a window.
    pub size: usize,
    /// The factor of the mean square.
    pub alpha: f32,
    /// The exponent.
    pub beta: f32,
    /// Added to the mean square.
    pub bias: f32,
}

impl LocalNorm {
    /// The channels whose squares are in the sum of channel `c`.
    fn window(&self, c: usize) -> std::ops::Range<usize> {
        let end = c.saturating_add(self.size / 2).saturating_add(1);
        c.saturating_sub((self.size - 1) / 2)..end.min(self.channels)
    }

    /// The channels in whose sums the square of channel `c` is.
    fn readers(&self, c: usize) -> std::ops::Range<usize> {
        let end = c.saturating_add((self.size - 1) / 2).saturating_add(1);
        c.saturating_sub(self.size / 2)..end.min(self.channels)
    }
}

/// The gradient of [`LocalNorm`], with d = ∂L/∂y:
///
/// ```text
/// ∂x[c] = d[c] · s[c]^−beta − 2 · alpha · beta / size · x[c] · Σ d[j] · x[j] · s[j]^(−beta − 1)     over j with c in their sums
/// ```
///
/// # Panics
/// If the lengths differ or aren't whole numbers of samples, or `size` is 0.
pub fn local_norm_gradient(norm: LocalNorm, x: &[f32], d: &[f32], dx: &mut [f32]) {
    local_norm_gradient_with(Isa::best(), norm, x, d, dx);
}

fn local_norm_gradient_with(isa: Isa, norm: LocalNorm, x: &[f32], d: &[f32], dx: &mut [f32]) {
    assert!(x.len() == dx.len() && d.len() == dx.len() && norm.size > 0, "values of {norm:?}");
    let item = size::of(&[norm.channels, norm.inner]);
    threads::chunks(dx, item, 8 * item, |first, dx| {
        let mut power = vec![0.0; item];
        for (i, dx) in dx.chunks_exact_mut(item).enumerate() {
            let (x, d) = (&x[(first + i) * item..][..item], &d[(first + i) * item..][..item]);
            isa.run(Sample { norm, x, d, power: &mut power, dx });
        }
    });
}

struct Sample<'a> {
    norm: LocalNorm,
    x: &'a [f32],
    d: &'a [f32],
    /// Room for s^−beta, then for d · x · s^(−beta − 1).
    power: &'a mut [f32],
    dx: &'a mut [f32],
}

impl Kernel for Sample<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Sample { norm, x, d, power, dx } = self;
        let (n, share) = (norm.inner, norm.alpha / norm.size as f32);
        // s in dx.
        for (c, s) in dx.chunks_exact_mut(n).enumerate() {
            s.fill(0.0);
            for x in x[norm.window(c).start * n..norm.window(c).end * n].chunks_exact(n) {
                s.iter_mut().zip(x).for_each(|(s, x)| *s += x * x);
            }
            s.iter_mut().for_each(|s| *s = share * *s + norm.bias);
        }
        for (power, &s) in power.iter_mut().zip(&*dx) {
            // The usual exponent is a square root times the root of that.
            *power = if norm.beta == 0.75 { 1.0 / (s.sqrt() * s.sqrt().sqrt()) } else { s.powf(-norm.beta) };
        }
        for (((dx, power), &x), &d) in dx.iter_mut().zip(&mut *power).zip(x).zip(d) {
            let s = std::mem::replace(dx, d * *power);
            *power *= d * x / s;
        }
        let factor = 2.0 * share * norm.beta;
        for (c, (dx, x)) in dx.chunks_exact_mut(n).zip(x.chunks_exact(n)).enumerate() {
            for term in power[norm.readers(c).start * n..norm.readers(c).end * n].chunks_exact(n) {
                for ((dx, x), term) in dx.iter_mut().zip(x).zip(term) {
                    *dx -= factor * x * term;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rng, in_pool};

    /// Σ y · given of one position over its channels, by the definition.
    fn loss(norm: LocalNorm, x: &[f64], given: &[f64]) -> f64 {
        (0..x.len())
            .map(|c| {
                let first = c.saturating_sub((norm.size - 1) / 2);
                let squares: f64 = x[first..x.len().min(c + norm.size / 2 + 1)].iter().map(|x| x * x).sum();
                let s = f64::from(norm.bias) + f64::from(norm.alpha) / norm.size as f64 * squares;
                x[c] * s.powf(-f64::from(norm.beta)) * given[c]
            })
            .sum()
    }

    #[test]
    fn agrees_with_central_differences_on_any_threads() {
        let mut rng = Rng::new(16);
        for round in 0..24 {
            let norm = LocalNorm {
                channels: 1 + rng.below(9),
                inner: 1 + rng.below(20),
                size: 1 + rng.below(6),
                alpha: 0.5,
                beta: if round % 2 == 0 { 0.75 } else { 0.6 },
                bias: 1.0,
            };
            let LocalNorm { channels, inner, .. } = norm;
            let samples = 1 + rng.below(3);
            let n = samples * channels * inner;
            let (x, given) = (rng.values(n), rng.values(n));
            let run = |isa, threads| {
                let mut dx = vec![f32::NAN; n];
                in_pool(threads, || local_norm_gradient_with(isa, norm, &x, &given, &mut dx));
                dx
            };
            for isa in Isa::available() {
                let got = run(isa, 1);
                assert_eq!(got, run(isa, 3));
                for (o, i) in (0..samples).flat_map(|o| (0..inner).map(move |i| (o, i))) {
                    let at = |c: usize| (o * channels + c) * inner + i;
                    let column = |v: &[f32]| -> Vec<f64> { (0..channels).map(|c| v[at(c)].into()).collect() };
                    let (mut own, given) = (column(&x), column(&given));
                    for c in 0..channels {
                        let mut moved = |by: f64| {
                            own[c] += by;
                            let value = loss(norm, &own, &given);
                            own[c] -= by;
                            value
                        };
                        let want = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                        let got = f64::from(got[at(c)]);
                        assert!((got - want).abs() < 1e-5 * (1.0 + want.abs()), "{norm:?}: {got} for {want}");
                    }
                }
            }
        }
    }
}
