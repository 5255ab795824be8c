//! Derivatives of functions of one value.

use crate::activation::Activation;
use crate::math;
use crate::simd::{Isa, Kernel, Simd};
use crate::threads;
use crate::unary::UnaryOp;

/// What the derivative of a function is computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnaryOperand {
    /// Its argument.
    Input,
    /// Its value, where that says everything: the argument need not be kept.
    Output,
    /// Nothing: it is constant, or zero wherever there is one.
    None,
}

impl UnaryOp {
    /// What [`unary_gradient`] takes for this function.
    pub fn gradient_operand(self) -> UnaryOperand {
        use Activation as A;
        match self {
            UnaryOp::Neg | UnaryOp::Floor | UnaryOp::Ceil | UnaryOp::Round | UnaryOp::Sign => {
                UnaryOperand::None
            }
            UnaryOp::Sqrt | UnaryOp::Reciprocal | UnaryOp::Exp | UnaryOp::Tan => UnaryOperand::Output,
            UnaryOp::Act(act) => match act {
                A::None => UnaryOperand::None,
                A::Relu | A::Clip { .. } | A::Sigmoid | A::Tanh => UnaryOperand::Output,
                // With these signs the value has the sign of the argument.
                A::LeakyRelu(a) | A::Elu(a) | A::Celu(a) if a > 0.0 => UnaryOperand::Output,
                _ => UnaryOperand::Input,
            },
            _ => UnaryOperand::Input,
        }
    }
}

/// gradient ← gradient · f′, with f′ from `operand`: the argument or the value of each element, as
/// [`UnaryOp::gradient_operand`] says.
///
/// At corners the derivative is that of PyTorch: 0 for ReLU and the absolute value at 0; 1 at the bounds of a clip for
/// the argument, 0 where the value alone is known.
///
/// # Panics
/// If the lengths differ, but for a function whose derivative needs no operand.
pub fn unary_gradient(op: UnaryOp, operand: &[f32], gradient: &mut [f32]) {
    let needs = op.gradient_operand() != UnaryOperand::None;
    assert!(!needs || operand.len() == gradient.len(), "operand and gradient of {op:?}");
    unary_gradient_with(Isa::best(), op, operand, gradient);
}

fn unary_gradient_with(isa: Isa, op: UnaryOp, operand: &[f32], gradient: &mut [f32]) {
    threads::chunks(gradient, 1, 4, |first, gradient| {
        let operand = operand.get(first..first + gradient.len()).unwrap_or_default();
        isa.run(Derive { op, operand, gradient });
    });
}

struct Derive<'a> {
    op: UnaryOp,
    operand: &'a [f32],
    gradient: &'a mut [f32],
}

/// Replaces each vector `d` of a slice by an expression of it and of the vector `v` of another.
macro_rules! zip_vectors {
    ($s:ident, $data:ident, $other:ident, |$d:ident, $v:ident| $e:expr) => {{
        let (n, p, q) = ($data.len(), $data.as_mut_ptr(), $other.as_ptr());
        assert_eq!(n, $other.len());
        for i in (0..n).step_by(S::LANES) {
            let lanes = S::LANES.min(n - i);
            // SAFETY: lanes values from i on lie in both slices.
            unsafe {
                let ($d, $v) = ($s.load_n(p.add(i), lanes), $s.load_n(q.add(i), lanes));
                $s.store_n(p.add(i), $e, lanes);
            }
        }
    }};
}

impl Kernel for Derive<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Derive { op, operand, gradient } = self;
        let (zero, one) = (s.zero(), s.splat(1.0));
        match op {
            UnaryOp::Act(act) => activation(s, act, operand, gradient),
            UnaryOp::Abs => zip_vectors!(s, gradient, operand, |d, x| {
                let sign = s.copysign(one, x);
                s.mul(d, s.select(s.lt(zero, s.abs(x)), sign, zero))
            }),
            UnaryOp::Neg => gradient.iter_mut().for_each(|d| *d = -*d),
            UnaryOp::Floor | UnaryOp::Ceil | UnaryOp::Round | UnaryOp::Sign => gradient.fill(0.0),
            UnaryOp::Sqrt => zip_vectors!(s, gradient, operand, |d, y| s.div(d, s.add(y, y))),
            UnaryOp::Reciprocal => {
                zip_vectors!(s, gradient, operand, |d, y| s.neg(s.mul(d, s.mul(y, y))))
            }
            UnaryOp::Exp => zip_vectors!(s, gradient, operand, |d, y| s.mul(d, y)),
            UnaryOp::Log => zip_vectors!(s, gradient, operand, |d, x| s.div(d, x)),
            UnaryOp::Square => zip_vectors!(s, gradient, operand, |d, x| s.mul(d, s.add(x, x))),
            UnaryOp::Erf => {
                let factor = s.splat(std::f32::consts::FRAC_2_SQRT_PI);
                zip_vectors!(s, gradient, operand, |d, x| {
                    s.mul(d, s.mul(factor, math::exp(s, s.neg(s.mul(x, x)))))
                })
            }
            // Rare in networks: one by one, in double precision.
            _ => gradient.iter_mut().zip(operand).for_each(|(d, &v)| {
                *d = (f64::from(*d) * rare(op, f64::from(v))) as f32;
            }),
        }
    }
}

/// The derivative of a function by its argument; of the tangent by its value.
fn rare(op: UnaryOp, v: f64) -> f64 {
    match op {
        UnaryOp::Sin => v.cos(),
        UnaryOp::Cos => -v.sin(),
        UnaryOp::Tan => 1.0 + v * v,
        UnaryOp::Asin => 1.0 / (1.0 - v * v).sqrt(),
        UnaryOp::Acos => -1.0 / (1.0 - v * v).sqrt(),
        UnaryOp::Atan => 1.0 / (1.0 + v * v),
        UnaryOp::Sinh => v.cosh(),
        UnaryOp::Cosh => v.sinh(),
        UnaryOp::Asinh => 1.0 / (1.0 + v * v).sqrt(),
        UnaryOp::Acosh => 1.0 / (v * v - 1.0).sqrt(),
        UnaryOp::Atanh => 1.0 / (1.0 - v * v),
        _ => unreachable!("{op:?} has a vector form"),
    }
}

/// The density of the normal distribution.
#[inline(always)]
fn density<S: Simd>(s: S, x: S::V) -> S::V {
    // e^(−x²/2) underflows beyond 14; the bound keeps the square finite.
    let a = s.min(s.splat(20.0), s.abs(x));
    s.mul(s.splat(0.398_942_3), math::exp(s, s.mul(s.splat(-0.5), s.mul(a, a))))
}

#[inline(always)]
fn activation<S: Simd>(s: S, act: Activation, operand: &[f32], gradient: &mut [f32]) {
    let (zero, one, half) = (s.zero(), s.splat(1.0), s.splat(0.5));
    match act {
        Activation::None => {}
        Activation::Relu => {
            zip_vectors!(s, gradient, operand, |d, y| s.select(s.lt(zero, y), d, zero));
        }
        Activation::Clip { min, max } => {
            let (lo, hi) = (s.splat(min), s.splat(max));
            zip_vectors!(s, gradient, operand, |d, y| {
                s.select(s.lt(lo, y), s.select(s.lt(y, hi), d, zero), zero)
            });
        }
        // The sign is that of the argument and, where the slope is positive, of the value.
        Activation::LeakyRelu(a) => {
            let a = s.splat(a);
            zip_vectors!(s, gradient, operand, |d, v| s.select(s.lt(zero, v), d, s.mul(a, d)));
        }
        Activation::HardSwish => {
            let (third, three) = (s.splat(1.0 / 3.0), s.splat(3.0));
            zip_vectors!(s, gradient, operand, |d, x| {
                let inside = s.mul(d, s.fma(third, x, half));
                let above = s.select(s.lt(x, three), inside, d);
                s.select(s.lt(s.neg(three), x), above, zero)
            });
        }
        Activation::HardSigmoid { alpha, beta } => {
            let (a, b) = (s.splat(alpha), s.splat(beta));
            zip_vectors!(s, gradient, operand, |d, x| {
                let y = s.fma(a, x, b);
                s.select(s.lt(zero, y), s.select(s.lt(y, one), s.mul(a, d), zero), zero)
            });
        }
        Activation::Sigmoid => {
            zip_vectors!(s, gradient, operand, |d, y| s.mul(d, s.mul(y, s.sub(one, y))));
        }
        Activation::Silu => swish(s, 1.0, operand, gradient),
        Activation::Swish(a) => swish(s, a, operand, gradient),
        Activation::Gelu => {
            let root = s.splat(std::f32::consts::FRAC_1_SQRT_2);
            zip_vectors!(s, gradient, operand, |d, x| {
                let below = s.mul(half, s.add(one, math::erf(s, s.mul(x, root))));
                s.mul(d, s.fma(x, density(s, x), below))
            });
        }
        Activation::GeluTanh => {
            let (c, k) = (s.splat(1.595_769), s.splat(0.044_715));
            zip_vectors!(s, gradient, operand, |d, x| {
                let square = s.mul(x, x);
                let gate = math::sigmoid(s, s.mul(c, s.mul(x, s.fma(k, square, one))));
                let slope = s.mul(c, s.fma(s.mul(s.splat(3.0), k), square, one));
                let curve = s.mul(s.mul(x, slope), s.mul(gate, s.sub(one, gate)));
                s.mul(d, s.add(gate, curve))
            });
        }
        Activation::Mish => zip_vectors!(s, gradient, operand, |d, x| {
            let t = math::tanh(s, math::softplus(s, x));
            let bend = s.mul(s.mul(x, math::sigmoid(s, x)), s.sub(one, s.mul(t, t)));
            s.mul(d, s.add(t, bend))
        }),
        Activation::Tanh => zip_vectors!(s, gradient, operand, |d, y| s.mul(d, s.sub(one, s.mul(y, y)))),
        Activation::Elu(a) => elu(s, a > 0.0, [a, 1.0, 1.0], operand, gradient),
        Activation::Celu(a) => elu(s, a > 0.0, [1.0, 1.0 / a, 1.0], operand, gradient),
        Activation::Selu { alpha, gamma } => elu(s, false, [alpha * gamma, 1.0, gamma], operand, gradient),
        Activation::Softplus => {
            zip_vectors!(s, gradient, operand, |d, x| s.mul(d, math::sigmoid(s, x)));
        }
        Activation::Softsign => zip_vectors!(s, gradient, operand, |d, x| {
            let below = s.add(one, s.abs(x));
            s.div(d, s.mul(below, below))
        }),
        Activation::ThresholdedRelu(a) => {
            let a = s.splat(a);
            zip_vectors!(s, gradient, operand, |d, x| s.select(s.lt(a, x), d, zero));
        }
    }
}

/// By the argument: g + a x g (1 − g) with g = 1 / (1 + e^(−a x)).
#[inline(always)]
fn swish<S: Simd>(s: S, a: f32, operand: &[f32], gradient: &mut [f32]) {
    let (a, one) = (s.splat(a), s.splat(1.0));
    zip_vectors!(s, gradient, operand, |d, x| {
        let ax = s.mul(a, x);
        let gate = math::sigmoid(s, ax);
        s.mul(d, s.fma(s.mul(ax, gate), s.sub(one, gate), gate))
    });
}

/// `above` where the element is positive; else by the value `factor` + `rate` · y, or by the argument `factor` · e^(`rate` x).
#[inline(always)]
fn elu<S: Simd>(
    s: S,
    by_value: bool,
    [factor, rate, above]: [f32; 3],
    operand: &[f32],
    gradient: &mut [f32],
) {
    let (factor, rate, above) = (s.splat(factor), s.splat(rate), s.splat(above));
    zip_vectors!(s, gradient, operand, |d, v| {
        let scaled = s.mul(rate, v);
        let below = if by_value { s.add(factor, scaled) } else { s.mul(factor, math::exp(s, scaled)) };
        s.mul(d, s.select(s.lt(s.zero(), v), above, below))
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rng, erf64};

    /// The function in double precision.
    fn value(op: UnaryOp, x: f64) -> f64 {
        use Activation as A;
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        match op {
            UnaryOp::Abs => x.abs(),
            UnaryOp::Neg => -x,
            UnaryOp::Sqrt => x.sqrt(),
            UnaryOp::Reciprocal => 1.0 / x,
            UnaryOp::Exp => x.exp(),
            UnaryOp::Log => x.ln(),
            UnaryOp::Square => x * x,
            UnaryOp::Erf => erf64(x),
            UnaryOp::Sin => x.sin(),
            UnaryOp::Cos => x.cos(),
            UnaryOp::Tan => x.tan(),
            UnaryOp::Asin => x.asin(),
            UnaryOp::Acos => x.acos(),
            UnaryOp::Atan => x.atan(),
            UnaryOp::Sinh => x.sinh(),
            UnaryOp::Cosh => x.cosh(),
            UnaryOp::Asinh => x.asinh(),
            UnaryOp::Acosh => x.acosh(),
            UnaryOp::Atanh => x.atanh(),
            UnaryOp::Floor | UnaryOp::Ceil | UnaryOp::Round | UnaryOp::Sign => 0.0,
            UnaryOp::Act(act) => match act {
                A::None => x,
                A::Relu => x.max(0.0),
                A::Clip { min, max } => x.max(min.into()).min(max.into()),
                A::LeakyRelu(a) => {
                    if x < 0.0 {
                        x * f64::from(a)
                    } else {
                        x
                    }
                }
                A::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
                A::HardSigmoid { alpha, beta } => (f64::from(alpha) * x + f64::from(beta)).clamp(0.0, 1.0),
                A::Sigmoid => sigmoid(x),
                A::Silu => x * sigmoid(x),
                A::Swish(a) => x * sigmoid(f64::from(a) * x),
                A::Gelu => x * 0.5 * (1.0 + erf64(x / 2f64.sqrt())),
                A::GeluTanh => x * sigmoid(1.595_769_121_605_731 * (x + 0.044_715 * x.powi(3))),
                A::Mish => x * x.exp().ln_1p().tanh(),
                A::Tanh => x.tanh(),
                A::Elu(a) => {
                    if x > 0.0 {
                        x
                    } else {
                        f64::from(a) * x.exp_m1()
                    }
                }
                A::Celu(a) => x.max(0.0) + (f64::from(a) * (x / f64::from(a)).exp_m1()).min(0.0),
                A::Selu { alpha, gamma } => {
                    f64::from(gamma) * if x > 0.0 { x } else { f64::from(alpha) * x.exp_m1() }
                }
                A::Softplus => x.exp().ln_1p(),
                A::Softsign => x / (1.0 + x.abs()),
                A::ThresholdedRelu(a) => {
                    if x > f64::from(a) {
                        x
                    } else {
                        0.0
                    }
                }
            },
        }
    }

    fn all() -> Vec<UnaryOp> {
        use Activation as A;
        let acts = [
            A::None,
            A::Relu,
            A::Clip { min: -0.5, max: 0.7 },
            A::LeakyRelu(0.1),
            A::LeakyRelu(-0.1),
            A::HardSwish,
            A::HardSigmoid { alpha: 0.2, beta: 0.5 },
            A::Sigmoid,
            A::Silu,
            A::Swish(1.7),
            A::Gelu,
            A::GeluTanh,
            A::Mish,
            A::Tanh,
            A::Elu(0.8),
            A::Elu(-0.3),
            A::Celu(1.3),
            A::Selu { alpha: 1.673_263_2, gamma: 1.050_701 },
            A::Softplus,
            A::Softsign,
            A::ThresholdedRelu(0.3),
        ];
        use UnaryOp as U;
        let plain = [
            U::Abs,
            U::Neg,
            U::Sqrt,
            U::Reciprocal,
            U::Exp,
            U::Log,
            U::Square,
            U::Erf,
            U::Sin,
            U::Cos,
            U::Tan,
            U::Asin,
            U::Acos,
            U::Atan,
            U::Sinh,
            U::Cosh,
            U::Asinh,
            U::Acosh,
            U::Atanh,
            U::Floor,
            U::Ceil,
            U::Round,
            U::Sign,
        ];
        plain.into_iter().chain(acts.map(U::Act)).collect()
    }

    #[test]
    fn derivatives_agree_with_central_differences() {
        let mut rng = Rng::new(3);
        for op in all() {
            let n = 1 + rng.below(70);
            let (low, high) = match op {
                UnaryOp::Sqrt | UnaryOp::Log | UnaryOp::Reciprocal => (0.2, 3.0),
                UnaryOp::Asin | UnaryOp::Acos | UnaryOp::Atanh => (-0.9, 0.9),
                UnaryOp::Acosh => (1.1, 3.0),
                UnaryOp::Tan => (-1.0, 1.0),
                _ => (-4.0, 4.0),
            };
            let x: Vec<f32> = (0..n).map(|_| low + (high - low) * (rng.value() + 1.0) / 2.0).collect();
            let given = rng.values(n);
            let operand: Vec<f32> = match op.gradient_operand() {
                UnaryOperand::Input => x.clone(),
                UnaryOperand::Output => x.iter().map(|&x| value(op, x.into()) as f32).collect(),
                UnaryOperand::None => Vec::new(),
            };
            for isa in Isa::available() {
                let mut got = given.clone();
                unary_gradient_with(isa, op, &operand, &mut got);
                for ((&x, &d), &got) in x.iter().zip(&given).zip(&got) {
                    let (x, h) = (f64::from(x), 1e-5);
                    let slopes = [value(op, x + h) - value(op, x), value(op, x) - value(op, x - h)];
                    // Next to a corner there is no one slope.
                    if (slopes[0] - slopes[1]).abs() > 1e-3 * h {
                        continue;
                    }
                    let want = f64::from(d) * (slopes[0] + slopes[1]) / (2.0 * h);
                    let error = (f64::from(got) - want).abs();
                    assert!(error <= 2e-6 * (1.0 + want.abs()), "{op:?} at {x}: {got}, want {want}");
                }
            }
        }
    }
}
