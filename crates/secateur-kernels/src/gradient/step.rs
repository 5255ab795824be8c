//! Steps of optimisers: weights, what the optimiser keeps of former gradients, and the mask in one pass.
//!
//! `kept` is 1 for weights that a mask keeps and 0 for those that it prunes. A pruned weight and what is kept for it
//! are exactly zero after each step, whatever its gradient is.
//!
//! What is kept of former gradients and is below the smallest normal f32 becomes zero. It would change no weight, but
//! processors take a hundred times as long for such values, and the inputs that are rarely other than zero, as the
//! borders of images, leave many of them behind.

use crate::gemm::address;
use crate::simd::{Isa, Kernel, Simd};
use crate::threads::{self, SharedMut};

/// Stochastic gradient descent, as in PyTorch's `SGD`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// The learning rate.
    pub rate: f32,
    /// The share of the velocity that goes on; 0 without momentum.
    pub momentum: f32,
    /// Decay of weights, as L2 regularisation: added to the gradient times the weight.
    pub decay: f32,
    /// Whether the step looks ahead by the velocity (Nesterov).
    pub nesterov: bool,
}

/// Adam (Kingma and Ba 2015), as in PyTorch's `Adam` and `AdamW`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// The learning rate.
    pub rate: f32,
    /// Decay of the mean of gradients.
    pub beta1: f32,
    /// Decay of the mean of their squares.
    pub beta2: f32,
    /// Added to the denominator.
    pub epsilon: f32,
    /// Decay of weights.
    pub decay: f32,
    /// Whether weights decay on their own (Loshchilov and Hutter 2019), not by their gradient.
    pub decoupled: bool,
    /// The number of this step, from 1 on.
    pub step: u64,
}

/// g ← scale · gradient + decay · w;  v ← momentum · v + g;  w ← w − rate · v, or with Nesterov w − rate · (g + momentum · v).
///
/// # Panics
/// If the lengths differ.
pub fn sgd(
    step: Sgd,
    scale: f32,
    gradient: &[f32],
    kept: Option<&[f32]>,
    weights: &mut [f32],
    velocity: &mut [f32],
) {
    let n = weights.len();
    assert!(
        gradient.len() == n && velocity.len() == n && kept.is_none_or(|k| k.len() == n),
        "a step of {n} weights"
    );
    let (weights, velocity) = (SharedMut::new(weights), SharedMut::new(velocity));
    threads::ranges(n, 4, |range| {
        let (start, len) = (range.start, range.len());
        // SAFETY: ranges are disjoint.
        let (weights, velocity) = unsafe { (weights.slice(start, len), velocity.slice(start, len)) };
        let (gradient, kept) = (&gradient[range.clone()], kept.map(|kept| &kept[range.clone()]));
        Isa::best().run(SgdStep { step, scale, gradient, kept, weights, velocity });
    });
}

struct SgdStep<'a> {
    step: Sgd,
    scale: f32,
    gradient: &'a [f32],
    kept: Option<&'a [f32]>,
    weights: &'a mut [f32],
    velocity: &'a mut [f32],
}

/// `v` where the mask keeps the weight, else 0.
#[inline(always)]
fn held<S: Simd>(s: S, kept: S::V, v: S::V) -> S::V {
    s.select(s.lt(s.zero(), kept), v, s.zero())
}

/// `v` where it is a normal number, else 0.
#[inline(always)]
fn normal<S: Simd>(s: S, v: S::V) -> S::V {
    s.select(s.lt(s.abs(v), s.splat(f32::MIN_POSITIVE)), s.zero(), v)
}

impl Kernel for SgdStep<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Sgd { rate, momentum, decay, nesterov } = self.step;
        let [scale, rate, momentum, decay] = [self.scale, rate, momentum, decay].map(|v| s.splat(v));
        let (w, v, n) = (self.weights.as_mut_ptr(), self.velocity.as_mut_ptr(), self.weights.len());
        let kept = address(self.kept);
        for i in (0..n).step_by(S::LANES) {
            let lanes = S::LANES.min(n - i);
            // SAFETY: lanes values from i on lie in all slices, which are of one length.
            unsafe {
                let kept = if kept.is_null() { s.splat(1.0) } else { s.load_n(kept.add(i), lanes) };
                let weight = s.load_n(w.add(i), lanes);
                let g = s.fma(scale, s.load_n(self.gradient.as_ptr().add(i), lanes), s.mul(decay, weight));
                let velocity = s.fma(momentum, s.load_n(v.add(i), lanes), g);
                let by = if nesterov { s.fma(momentum, velocity, g) } else { velocity };
                s.store_n(v.add(i), held(s, kept, normal(s, velocity)), lanes);
                s.store_n(w.add(i), held(s, kept, s.fnma(rate, by, weight)), lanes);
            }
        }
    }
}

/// With g = scale · gradient (+ decay · w where it is not decoupled):
///
/// ```text
/// m ← β₁ m + (1 − β₁) g        v ← β₂ v + (1 − β₂) g²
/// w ← w − rate · (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + ε)      before, w ← w − rate · decay · w where it is decoupled
/// ```
///
/// # Panics
/// If the lengths differ.
pub fn adam(
    step: Adam,
    scale: f32,
    gradient: &[f32],
    kept: Option<&[f32]>,
    weights: &mut [f32],
    [mean, square]: [&mut [f32]; 2],
) {
    let n = weights.len();
    let same = gradient.len() == n && mean.len() == n && square.len() == n;
    assert!(same && kept.is_none_or(|kept| kept.len() == n), "a step of {n} weights");
    let (weights, mean, square) = (SharedMut::new(weights), SharedMut::new(mean), SharedMut::new(square));
    threads::ranges(n, 8, |range| {
        let (start, len) = (range.start, range.len());
        // SAFETY: ranges are disjoint.
        let [weights, mean, square] = unsafe { [&weights, &mean, &square].map(|all| all.slice(start, len)) };
        let (gradient, kept) = (&gradient[range.clone()], kept.map(|kept| &kept[range.clone()]));
        Isa::best().run(AdamStep { step, scale, gradient, kept, weights, mean, square });
    });
}

struct AdamStep<'a> {
    step: Adam,
    scale: f32,
    gradient: &'a [f32],
    kept: Option<&'a [f32]>,
    weights: &'a mut [f32],
    mean: &'a mut [f32],
    square: &'a mut [f32],
}

impl Kernel for AdamStep<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Adam { rate, beta1, beta2, epsilon, decay, decoupled, step } = self.step;
        let correction = |beta: f32| 1.0 - f64::from(beta).powf(step as f64);
        let by = (f64::from(rate) / correction(beta1)) as f32;
        let root = (1.0 / correction(beta2).sqrt()) as f32;
        let shrink = if decoupled { 1.0 - rate * decay } else { 1.0 };
        let pull = if decoupled { 0.0 } else { decay };
        let [scale, beta1, rest1, beta2, rest2, epsilon, by, root, shrink, pull] =
            [self.scale, beta1, 1.0 - beta1, beta2, 1.0 - beta2, epsilon, by, root, shrink, pull]
                .map(|v| s.splat(v));
        let (w, m, v) = (self.weights.as_mut_ptr(), self.mean.as_mut_ptr(), self.square.as_mut_ptr());
        let (n, kept) = (self.weights.len(), address(self.kept));
        for i in (0..n).step_by(S::LANES) {
            let lanes = S::LANES.min(n - i);
            // SAFETY: lanes values from i on lie in all slices, which are of one length.
            unsafe {
                let kept = if kept.is_null() { s.splat(1.0) } else { s.load_n(kept.add(i), lanes) };
                let weight = s.load_n(w.add(i), lanes);
                let g = s.fma(scale, s.load_n(self.gradient.as_ptr().add(i), lanes), s.mul(pull, weight));
                let mean = s.fma(beta1, s.load_n(m.add(i), lanes), s.mul(rest1, g));
                let square = s.fma(beta2, s.load_n(v.add(i), lanes), s.mul(rest2, s.mul(g, g)));
                let below = s.fma(s.sqrt(square), root, epsilon);
                let next = s.fnma(by, s.div(mean, below), s.mul(shrink, weight));
                s.store_n(m.add(i), held(s, kept, normal(s, mean)), lanes);
                s.store_n(v.add(i), held(s, kept, normal(s, square)), lanes);
                s.store_n(w.add(i), held(s, kept, next), lanes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rng;

    #[test]
    fn steps_follow_their_formulas_and_keep_pruned_weights_zero() {
        let mut rng = Rng::new(4);
        for round in 0..12u64 {
            let n = 1 + rng.below(90);
            let (mut w, decoupled) = (rng.values(n), round % 2 == 0);
            let kept: Vec<f32> = (0..n).map(|_| rng.pick(&[0.0, 1.0])).collect();
            let kept = (round % 3 > 0).then_some(&kept[..]);
            let prunes = |i: usize| kept.is_some_and(|kept| kept[i] == 0.0);
            (0..n).filter(|&i| prunes(i)).for_each(|i| w[i] = 0.0);
            let start: Vec<f64> = w.iter().map(|&w| w.into()).collect();
            let of = Sgd { rate: 0.1, momentum: 0.9, decay: 0.01, nesterov: decoupled };
            let (mut v, mut want_w, mut want_v) = (vec![0.0; n], start.clone(), vec![0f64; n]);
            let mut by_adam = w.clone();
            for _ in 0..3 {
                let mut g = rng.values(n);
                // What a mask prunes may have any gradient.
                (0..n).filter(|&i| prunes(i)).for_each(|i| g[i] = [f32::NAN, f32::INFINITY, 1.0][i % 3]);
                sgd(of, 0.5, &g, kept, &mut w, &mut v);
                for i in (0..n).filter(|&i| !prunes(i)) {
                    let g = 0.5 * f64::from(g[i]) + 0.01 * want_w[i];
                    want_v[i] = 0.9 * want_v[i] + g;
                    want_w[i] -= 0.1 * if of.nesterov { g + 0.9 * want_v[i] } else { want_v[i] };
                }
                for i in 0..n {
                    let (want, velocity) = if prunes(i) { (0.0, 0.0) } else { (want_w[i], want_v[i]) };
                    assert!(
                        (f64::from(w[i]) - want).abs() < 1e-6 && (f64::from(v[i]) - velocity).abs() < 1e-6
                    );
                    assert!(!prunes(i) || (w[i] == 0.0 && v[i] == 0.0));
                }
            }
            let (mut m, mut v) = (vec![0.0; n], vec![0.0; n]);
            let (mut want_w, mut want_m, mut want_v) = (start, vec![0f64; n], vec![0f64; n]);
            for step in 1..4 {
                let g = rng.values(n);
                let of =
                    Adam { rate: 0.01, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, decay: 0.1, decoupled, step };
                adam(of, 2.0, &g, kept, &mut by_adam, [&mut m, &mut v]);
                for i in 0..n {
                    if prunes(i) {
                        assert_eq!((by_adam[i], m[i], v[i]), (0.0, 0.0, 0.0));
                        continue;
                    }
                    let g = 2.0 * f64::from(g[i]) + if decoupled { 0.0 } else { 0.1 * want_w[i] };
                    want_m[i] = 0.9 * want_m[i] + 0.1 * g;
                    want_v[i] = 0.999 * want_v[i] + 0.001 * g * g;
                    let [one, two] = [0.9f64, 0.999].map(|beta| 1.0 - beta.powi(step as i32));
                    want_w[i] *= if decoupled { 1.0 - 0.001 } else { 1.0 };
                    want_w[i] -= 0.01 * (want_m[i] / one) / ((want_v[i] / two).sqrt() + 1e-8);
                    assert!((f64::from(by_adam[i]) - want_w[i]).abs() < 2e-5, "{} {}", by_adam[i], want_w[i]);
                }
            }
        }
    }
}
