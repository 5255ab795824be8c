//! Functions of one value, element by element.

use crate::activation::{Activation, apply_in};
use crate::math;
use crate::simd::{Isa, Kernel, Simd, map_vectors};
use crate::threads;

/// A function of one value. NaN and infinities give what the standard library's functions give.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum UnaryOp {
    Abs,
    Neg,
    Sqrt,
    Reciprocal,
    Exp,
    Log,
    Floor,
    Ceil,
    /// To the nearest whole number, halves to even.
    Round,
    /// −1, 0 or 1.
    Sign,
    Erf,
    Sin,
    Cos,
    Tan,
    Asin,
    Acos,
    Atan,
    Sinh,
    Cosh,
    Asinh,
    Acosh,
    Atanh,
    /// x².
    Square,
    /// An activation.
    Act(Activation),
}

/// out = op(x), on the current rayon pool if there is enough to do.
///
/// # Panics
/// If the lengths differ.
pub fn unary(op: UnaryOp, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "input and output of {op:?}");
    threads::chunks(out, 1, 4, |first, part| {
        // Short pieces, so that what is copied is still in the first-level cache when it's computed.
        for (i, piece) in part.chunks_mut(2048).enumerate() {
            let start = first + i * 2048;
            piece.copy_from_slice(&x[start..start + piece.len()]);
            Isa::best().run(InPlace { op, data: piece });
        }
    });
}

/// data = op(data), on the current rayon pool if there is enough to do.
pub fn unary_in_place(op: UnaryOp, data: &mut [f32]) {
    in_place_with(Isa::best(), op, data);
}

fn in_place_with(isa: Isa, op: UnaryOp, data: &mut [f32]) {
    threads::chunks(data, 1, 4, |_, data| isa.run(InPlace { op, data }));
}

struct InPlace<'a> {
    op: UnaryOp,
    data: &'a mut [f32],
}

impl Kernel for InPlace<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let data = self.data;
        match self.op {
            UnaryOp::Abs => map_vectors!(s, data, |x| s.abs(x)),
            UnaryOp::Neg => map_vectors!(s, data, |x| s.neg(x)),
            UnaryOp::Sqrt => map_vectors!(s, data, |x| s.sqrt(x)),
            UnaryOp::Reciprocal => map_vectors!(s, data, |x| s.div(s.splat(1.0), x)),
            UnaryOp::Exp => map_vectors!(s, data, |x| math::exp(s, x)),
            UnaryOp::Log => map_vectors!(s, data, |x| math::ln(s, x)),
            UnaryOp::Floor => map_vectors!(s, data, |x| s.floor(x)),
            UnaryOp::Ceil => map_vectors!(s, data, |x| s.ceil(x)),
            UnaryOp::Round => map_vectors!(s, data, |x| s.round(x)),
            UnaryOp::Sign => map_vectors!(s, data, |x| {
                let one = s.copysign(s.splat(1.0), x);
                s.select(s.lt(s.zero(), s.abs(x)), one, x)
            }),
            UnaryOp::Erf => map_vectors!(s, data, |x| math::erf(s, x)),
            UnaryOp::Square => map_vectors!(s, data, |x| s.mul(x, x)),
            UnaryOp::Act(act) => apply_in(s, act, data),
            UnaryOp::Sin => each(data, f32::sin),
            UnaryOp::Cos => each(data, f32::cos),
            UnaryOp::Tan => each(data, f32::tan),
            UnaryOp::Asin => each(data, f32::asin),
            UnaryOp::Acos => each(data, f32::acos),
            UnaryOp::Atan => each(data, f32::atan),
            UnaryOp::Sinh => each(data, f32::sinh),
            UnaryOp::Cosh => each(data, f32::cosh),
            UnaryOp::Asinh => each(data, f32::asinh),
            UnaryOp::Acosh => each(data, f32::acosh),
            UnaryOp::Atanh => each(data, f32::atanh),
        }
    }
}

fn each(data: &mut [f32], f: impl Fn(f32) -> f32) {
    for x in data {
        *x = f(*x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::erf64;

    fn reference(op: UnaryOp, x: f64) -> f64 {
        match op {
            UnaryOp::Abs => x.abs(),
            UnaryOp::Neg => -x,
            UnaryOp::Sqrt => x.sqrt(),
            UnaryOp::Reciprocal => 1.0 / x,
            UnaryOp::Exp => x.exp(),
            UnaryOp::Log => x.ln(),
            UnaryOp::Floor => x.floor(),
            UnaryOp::Ceil => x.ceil(),
            UnaryOp::Round => x.round_ties_even(),
            UnaryOp::Sign => {
                if x == 0.0 || x.is_nan() {
                    x
                } else {
                    x.signum()
                }
            }
            UnaryOp::Erf => erf64(x),
            UnaryOp::Square => x * x,
            UnaryOp::Sin => x.sin(),
            _ => unreachable!(),
        }
    }

    #[test]
    fn vectors_agree_with_the_standard_library() {
        let mut xs: Vec<f32> = (-3000..3000).map(|i| i as f32 * 0.031).collect();
        xs.extend([
            0.0,
            -0.0,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            1e-40,
            -1e-40,
            3e38,
            88.72,
            88.73,
            -103.9,
            -104.5,
        ]);
        xs.extend((0..2000).map(|i| f32::from_bits(i * 1_073_741 + 77)));
        let ops = [
            UnaryOp::Abs,
            UnaryOp::Neg,
            UnaryOp::Sqrt,
            UnaryOp::Reciprocal,
            UnaryOp::Exp,
            UnaryOp::Log,
            UnaryOp::Floor,
            UnaryOp::Ceil,
            UnaryOp::Round,
            UnaryOp::Sign,
            UnaryOp::Erf,
            UnaryOp::Square,
            UnaryOp::Sin,
        ];
        for isa in Isa::available() {
            for op in ops {
                let mut ys = xs.clone();
                in_place_with(isa, op, &mut ys);
                for (&x, &y) in xs.iter().zip(&ys) {
                    let want = reference(op, x as f64) as f32;
                    let same = y == want || (y.is_nan() && want.is_nan());
                    let close = (y - want).abs() <= 3e-7 * want.abs() + 1e-44;
                    assert!(same || close, "{isa:?} {op:?}({x}) = {y}, want {want}");
                }
            }
        }
    }

    #[test]
    fn both_forms_agree_over_many_chunks() {
        let x: Vec<f32> = (0..100_003).map(|i| (i as f32 * 0.37).sin() * 9.0).collect();
        let mut out = vec![0.0; x.len()];
        unary(UnaryOp::Exp, &x, &mut out);
        let mut data = x.clone();
        unary_in_place(UnaryOp::Exp, &mut data);
        assert_eq!(out, data);
    }
}
