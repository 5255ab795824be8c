//! Activation functions, alone or fused into the end of another kernel.

use crate::math;
use crate::simd::{Isa, Kernel, Simd, map_vectors};
use crate::threads;

/// A function applied to every element of a result. NaN stays NaN.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum Activation {
    /// x.
    #[default]
    None,
    /// max(x, 0).
    Relu,
    /// min(max(x, `min`), `max`); ReLU6 is `Clip { min: 0, max: 6 }`.
    Clip {
        /// Lower bound.
        min: f32,
        /// Upper bound.
        max: f32,
    },
    /// x where x >= 0, else slope · x.
    LeakyRelu(f32),
    /// x · min(max(x / 6 + 1/2, 0), 1).
    HardSwish,
    /// min(max(`alpha` · x + `beta`, 0), 1).
    HardSigmoid {
        /// Slope.
        alpha: f32,
        /// Offset.
        beta: f32,
    },
    /// 1 / (1 + e⁻ˣ).
    Sigmoid,
    /// x / (1 + e⁻ˣ).
    Silu,
    /// x / (1 + e^(−a x)).
    Swish(f32),
    /// x · Φ(x), by the error function.
    Gelu,
    /// GELU by the tanh formula: x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³))).
    GeluTanh,
    /// x · tanh(ln(1 + eˣ)).
    Mish,
    /// tanh x.
    Tanh,
    /// x where x > 0, else a · (eˣ − 1).
    Elu(f32),
    /// max(x, 0) + min(a · (e^(x/a) − 1), 0).
    Celu(f32),
    /// gamma · x where x > 0, else gamma · alpha · (eˣ − 1).
    Selu {
        /// Scale of the exponential part.
        alpha: f32,
        /// Scale of everything.
        gamma: f32,
    },
    /// ln(1 + eˣ).
    Softplus,
    /// x / (1 + |x|).
    Softsign,
    /// x where x > a, else 0.
    ThresholdedRelu(f32),
}

impl Activation {
    /// Lower and upper bound, if the activation is a clamp (including `None`).
    pub(crate) fn clamp(self) -> Option<(f32, f32)> {
        match self {
            Activation::None => Some((f32::NEG_INFINITY, f32::INFINITY)),
            Activation::Relu => Some((0.0, f32::INFINITY)),
            Activation::Clip { min, max } => Some((min, max)),
            _ => None,
        }
    }

    /// The bounds to clamp to, and the activation that remains afterwards.
    pub(crate) fn clamp_then_rest(self) -> ((f32, f32), Activation) {
        match self.clamp() {
            Some(bounds) => (bounds, Activation::None),
            None => ((f32::NEG_INFINITY, f32::INFINITY), self),
        }
    }
}

/// Applies `act` to every element, on the current rayon pool if there is enough to do.
pub fn activate(act: Activation, data: &mut [f32]) {
    activate_with(Isa::best(), act, data);
}

fn activate_with(isa: Isa, act: Activation, data: &mut [f32]) {
    if act != Activation::None {
        threads::chunks(data, 1, 4, |_, part| apply(isa, act, part));
    }
}

/// Applies `act` on this thread.
pub(crate) fn apply(isa: Isa, act: Activation, data: &mut [f32]) {
    isa.run(Apply { act, data });
}

struct Apply<'a> {
    act: Activation,
    data: &'a mut [f32],
}

impl Kernel for Apply<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        apply_in(s, self.act, self.data);
    }
}

/// Applies `act` to a slice, within a kernel.
#[inline(always)]
pub(crate) fn apply_in<S: Simd>(s: S, act: Activation, data: &mut [f32]) {
    let (zero, one) = (s.zero(), s.splat(1.0));
    match act {
        Activation::None => {}
        Activation::Relu => map_vectors!(s, data, |x| s.max(zero, x)),
        Activation::Clip { min, max } => {
            let (lo, hi) = (s.splat(min), s.splat(max));
            map_vectors!(s, data, |x| s.min(hi, s.max(lo, x)))
        }
        Activation::LeakyRelu(a) => {
            let a = s.splat(a);
            map_vectors!(s, data, |x| s.select(s.lt(x, zero), s.mul(a, x), x))
        }
        Activation::HardSwish => {
            let (a, b) = (s.splat(1.0 / 6.0), s.splat(0.5));
            map_vectors!(s, data, |x| s.mul(x, s.min(one, s.max(zero, s.fma(x, a, b)))))
        }
        Activation::HardSigmoid { alpha, beta } => {
            let (a, b) = (s.splat(alpha), s.splat(beta));
            map_vectors!(s, data, |x| s.min(one, s.max(zero, s.fma(x, a, b))))
        }
        Activation::Sigmoid => map_vectors!(s, data, |x| math::sigmoid(s, x)),
        Activation::Silu => map_vectors!(s, data, |x| s.mul(x, math::sigmoid(s, x))),
        Activation::Swish(a) => {
            let a = s.splat(a);
            map_vectors!(s, data, |x| s.mul(x, math::sigmoid(s, s.mul(a, x))))
        }
        Activation::Gelu => map_vectors!(s, data, |x| math::gelu(s, x)),
        Activation::GeluTanh => map_vectors!(s, data, |x| math::gelu_tanh(s, x)),
        Activation::Mish => map_vectors!(s, data, |x| math::mish(s, x)),
        Activation::Tanh => map_vectors!(s, data, |x| math::tanh(s, x)),
        Activation::Elu(a) => {
            let a = s.splat(a);
            map_vectors!(s, data, |x| elu(s, x, s.mul(a, math::expm1_nonpositive(s, s.min(zero, x)))))
        }
        Activation::Celu(a) => {
            let (a, inv) = (s.splat(a), s.splat(1.0 / a));
            map_vectors!(s, data, |x| {
                let m = math::expm1_nonpositive(s, s.min(zero, s.mul(inv, x)));
                elu(s, x, s.mul(a, m))
            })
        }
        Activation::Selu { alpha, gamma } => {
            let (ag, g) = (s.splat(alpha * gamma), s.splat(gamma));
            map_vectors!(s, data, |x| {
                let m = math::expm1_nonpositive(s, s.min(zero, x));
                elu(s, s.mul(g, x), s.mul(ag, m))
            })
        }
        Activation::Softplus => map_vectors!(s, data, |x| math::softplus(s, x)),
        Activation::Softsign => map_vectors!(s, data, |x| s.div(x, s.add(one, s.abs(x)))),
        Activation::ThresholdedRelu(a) => {
            let a = s.splat(a);
            // The sum propagates NaN, which the comparison alone would map to 0.
            map_vectors!(s, data, |x| s.select(s.lt(a, x), x, s.mul(x, zero)))
        }
    }
}

/// `x` where it's positive (or NaN), else `negative`.
#[inline(always)]
fn elu<S: Simd>(s: S, x: S::V, negative: S::V) -> S::V {
    s.select(s.lt(x, s.zero()), negative, x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::erfc64;

    fn reference(act: Activation, x: f64) -> f64 {
        match act {
            Activation::None => x,
            Activation::Relu => {
                if x < 0.0 {
                    0.0
                } else {
                    x
                }
            }
            Activation::Clip { min, max } => {
                if x.is_nan() {
                    x
                } else {
                    x.max(min as f64).min(max as f64)
                }
            }
            Activation::LeakyRelu(a) => {
                if x < 0.0 {
                    a as f64 * x
                } else {
                    x
                }
            }
            Activation::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Activation::HardSigmoid { alpha, beta } => (alpha as f64 * x + beta as f64).clamp(0.0, 1.0),
            Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::Swish(a) => x / (1.0 + (-x * a as f64).exp()),
            Activation::Gelu => 0.5 * x * erfc64(-x / 2f64.sqrt()),
            Activation::GeluTanh => {
                let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                x / (1.0 + (-2.0 * u).exp())
            }
            Activation::Mish => x * x.exp().ln_1p().min(1e9).tanh(),
            Activation::Tanh => x.tanh(),
            Activation::Elu(a) => {
                if x < 0.0 {
                    a as f64 * x.exp_m1()
                } else {
                    x
                }
            }
            Activation::Celu(a) => {
                if x < 0.0 {
                    a as f64 * (x / a as f64).exp_m1()
                } else {
                    x
                }
            }
            Activation::Selu { alpha, gamma } => {
                gamma as f64 * if x < 0.0 { alpha as f64 * x.exp_m1() } else { x }
            }
            Activation::Softplus => {
                if x > 40.0 {
                    x
                } else {
                    x.exp().ln_1p()
                }
            }
            Activation::Softsign => x / (1.0 + x.abs()),
            Activation::ThresholdedRelu(a) => {
                if x > a as f64 {
                    x
                } else {
                    0.0
                }
            }
        }
    }

    const ALL: [Activation; 19] = [
        Activation::None,
        Activation::Relu,
        Activation::Clip { min: -0.5, max: 6.0 },
        Activation::LeakyRelu(0.1),
        Activation::HardSwish,
        Activation::HardSigmoid { alpha: 0.2, beta: 0.5 },
        Activation::Sigmoid,
        Activation::Silu,
        Activation::Swish(1.702),
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Mish,
        Activation::Tanh,
        Activation::Elu(1.3),
        Activation::Celu(0.7),
        Activation::Selu { alpha: 1.67, gamma: 1.05 },
        Activation::Softplus,
        Activation::Softsign,
        Activation::ThresholdedRelu(0.4),
    ];

    #[test]
    fn every_activation_is_accurate_on_every_instruction_set() {
        let mut xs: Vec<f32> = (-4000..4000).map(|i| i as f32 * 0.003).collect();
        xs.extend((0..400).map(|i| (i as f32 - 200.0) * 0.5));
        xs.extend((0..60).flat_map(|i| [2f32.powi(-i), -(2f32.powi(-i))]));
        for isa in Isa::available() {
            for act in ALL {
                let mut ys = xs.clone();
                activate_with(isa, act, &mut ys);
                for (&x, &y) in xs.iter().zip(&ys) {
                    let want = reference(act, x as f64);
                    // How much an f32's rounding of the argument alone moves the result.
                    let moved = (reference(act, x as f64 * (1.0 + 6e-8)) - want).abs();
                    let tolerance = 6e-7 * want.abs() + 4.0 * moved + 1e-37;
                    assert!((y as f64 - want).abs() <= tolerance, "{isa:?} {act:?}({x}) = {y}, want {want}");
                }
            }
        }
    }

    #[test]
    fn nan_and_infinities_go_through() {
        for isa in Isa::available() {
            for act in ALL {
                let mut y = [f32::NAN, f32::INFINITY];
                activate_with(isa, act, &mut y);
                assert!(y[0].is_nan(), "{isa:?} {act:?}(NaN) = {}", y[0]);
                let want = reference(act, f64::INFINITY) as f32;
                if !want.is_nan() {
                    assert_eq!(y[1], want, "{isa:?} {act:?}(inf)");
                }
            }
            let mut y = [f32::NEG_INFINITY; 3];
            activate_with(isa, Activation::Tanh, &mut y[..1]);
            activate_with(isa, Activation::Sigmoid, &mut y[1..2]);
            activate_with(isa, Activation::Elu(2.0), &mut y[2..]);
            assert_eq!(y, [-1.0, 0.0, -2.0]);
        }
    }

    #[test]
    fn a_part_filled_vector_gives_the_same_bits() {
        let xs: Vec<f32> = (0..37).map(|i| i as f32 * 0.37 - 6.0).collect();
        for isa in Isa::available() {
            for act in ALL {
                let mut whole = xs.clone();
                activate_with(isa, act, &mut whole);
                for (i, &x) in xs.iter().enumerate() {
                    let mut one = [x];
                    activate_with(isa, act, &mut one);
                    assert_eq!(one[0].to_bits(), whole[i].to_bits(), "{isa:?} {act:?}({x})");
                }
            }
        }
    }
}
