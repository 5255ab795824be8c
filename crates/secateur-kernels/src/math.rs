//! Elementary functions on vectors, within about two units in the last place; NaN and infinities give what the
//! scalar functions of the standard library give.
//!
//! Polynomials: Cephes (Moshier, `expf`, `logf`, `tanhf`, `ndtrf`); the complementary error function is
//! e^(−z²) t p(t) with t = 1 / (1 + z/2) and a p of degree 8 fitted to erfcx on z in [0, 11], relative error 4.4e-8.

#![allow(clippy::excessive_precision, clippy::approx_constant)] // Coefficients as their sources print them.

use crate::simd::Simd;

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts; the first has few bits, so that its multiples are exact.
const LN2_HI: f32 = 0.693_359_4;
const LN2_LO: f32 = -2.121_944_4e-4;

/// Σ cᵢ xⁱ with the highest power first.
#[inline(always)]
fn poly<S: Simd, const N: usize>(s: S, x: S::V, c: [f32; N]) -> S::V {
    let mut r = s.splat(c[0]);
    for &ci in &c[1..] {
        r = s.fma(r, x, s.splat(ci));
    }
    r
}

/// x = n · ln 2 + r with whole n and |r| <= ln 2 / 2; x must be within ±110.
#[inline(always)]
fn reduce_exp<S: Simd>(s: S, x: S::V) -> (S::V, S::V) {
    let n = s.round(s.mul(x, s.splat(LOG2_E)));
    let r = s.fnma(n, s.splat(LN2_HI), x);
    (n, s.fnma(n, s.splat(LN2_LO), r))
}

/// eʳ − 1 − r for |r| <= ln 2 / 2.
#[inline(always)]
fn exp_tail<S: Simd>(s: S, r: S::V) -> S::V {
    let p = poly(
        s,
        r,
        [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5.000_000_1e-1],
    );
    s.mul(p, s.mul(r, r))
}

/// e^(x + lo), where `shift` adds `lo`, which is small compared with 1.
#[inline(always)]
fn exp_shifted<S: Simd>(s: S, x: S::V, shift: impl Fn(S::V) -> S::V) -> S::V {
    // Below −104 the result is 0. Underflow must be avoided: it takes a hundred cycles, and all scores of masked keys would
    // underflow.
    let gone = s.lt(x, s.splat(-104.0));
    let (n, r) = reduce_exp(s, s.min(s.splat(89.0), s.select(gone, s.zero(), x)));
    let r = shift(r);
    let e = s.add(s.add(exp_tail(s, r), r), s.splat(1.0));
    s.select(gone, s.zero(), s.scale2(e, n))
}

/// eˣ.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    exp_shifted(s, x, |r| r)
}

/// eˣ − 1 for x <= 0.
#[inline(always)]
pub(crate) fn expm1_nonpositive<S: Simd>(s: S, x: S::V) -> S::V {
    let x = s.max(s.splat(-105.0), x);
    let (n, r) = reduce_exp(s, x);
    let m = s.add(exp_tail(s, r), r);
    let far = s.sub(s.scale2(s.add(m, s.splat(1.0)), n), s.splat(1.0));
    s.select(s.eq(n, s.zero()), m, far)
}

/// ln x.
#[inline(always)]
pub(crate) fn ln<S: Simd>(s: S, x: S::V) -> S::V {
    let tiny = s.lt(x, s.splat(f32::MIN_POSITIVE));
    let scaled = s.select(tiny, s.mul(x, s.splat(33_554_432.0)), x);
    let (m, e) = s.frexp(scaled);
    let e = s.select(tiny, s.sub(e, s.splat(25.0)), e);
    let y = s.sub(m, s.splat(1.0));
    let z = s.mul(y, y);
    let p = poly(
        s,
        y,
        [
            7.037_683_6e-2,
            -1.151_461e-1,
            1.167_699_9e-1,
            -1.242_014_1e-1,
            1.424_932_3e-1,
            -1.666_805_8e-1,
            2.000_071_5e-1,
            -2.499_999_4e-1,
            3.333_333_1e-1,
        ],
    );
    let mut r = s.mul(s.mul(p, y), z);
    r = s.fma(e, s.splat(LN2_LO), r);
    r = s.fnma(s.splat(0.5), z, r);
    r = s.add(y, r);
    r = s.fma(e, s.splat(LN2_HI), r);
    // The special values: +inf stays, 0 gives −inf, negatives and NaN give NaN.
    r = s.select(s.lt(x, s.splat(f32::INFINITY)), r, x);
    r = s.select(s.eq(x, s.zero()), s.splat(f32::NEG_INFINITY), r);
    s.select(s.lt(x, s.zero()), s.splat(f32::NAN), r)
}

/// ln(1 + y) for y in [0, 1].
#[inline(always)]
pub(crate) fn ln_1p_unit<S: Simd>(s: S, y: S::V) -> S::V {
    let one = s.splat(1.0);
    let u = s.add(one, y);
    // The rounding error of 1 + y, to first order.
    let lost = s.sub(y, s.sub(u, one));
    s.add(ln(s, u), s.div(lost, u))
}

/// 1 / (1 + e⁻ˣ).
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    let e = exp(s, s.neg(s.abs(x)));
    let top = s.select(s.lt(x, s.zero()), e, one);
    s.div(top, s.add(one, e))
}

/// tanh x.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    let a = s.abs(x);
    let z = s.mul(x, x);
    let p = poly(s, z, [-5.704_988_7e-3, 2.063_908_9e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328_2e-1]);
    let near = s.fma(s.mul(p, z), x, x);
    let e = exp(s, s.add(a, a));
    let far = s.sub(s.splat(1.0), s.div(s.splat(2.0), s.add(e, s.splat(1.0))));
    s.select(s.lt(a, s.splat(0.625)), near, s.copysign(far, x))
}

/// ln(1 + eˣ).
#[inline(always)]
pub(crate) fn softplus<S: Simd>(s: S, x: S::V) -> S::V {
    let tail = ln_1p_unit(s, exp(s, s.neg(s.abs(x))));
    s.add(s.max(s.zero(), x), tail)
}

/// x · tanh(ln(1 + eˣ)).
#[inline(always)]
pub(crate) fn mish<S: Simd>(s: S, x: S::V) -> S::V {
    // tanh(ln(1 + e)) = n / (n + 2) with n = e (e + 2); beyond 20 it's 1.
    let e = exp(s, s.min(s.splat(20.0), x));
    let n = s.mul(e, s.add(e, s.splat(2.0)));
    s.mul(x, s.div(n, s.add(n, s.splat(2.0))))
}

/// erfc z for z >= 0, given z² as the sum `sq + rest`.
#[inline(always)]
fn erfc_nonnegative<S: Simd>(s: S, z: S::V, sq: S::V, rest: S::V) -> S::V {
    let t = s.recip(s.fma(s.splat(0.5), z, s.splat(1.0)));
    let p = poly(
        s,
        t,
        [
            -5.927_750_731e-2,
            2.855_934_433e-1,
            -4.893_107_267e-1,
            2.804_840_835e-1,
            -2.829_182_098e-2,
            2.033_921_751e-1,
            2.429_254_818e-1,
            2.823_998_049e-1,
            2.820_850_228e-1,
        ],
    );
    s.mul(s.mul(t, p), exp_shifted(s, s.neg(sq), |r| s.sub(r, rest)))
}

/// The error function.
#[inline(always)]
pub(crate) fn erf<S: Simd>(s: S, x: S::V) -> S::V {
    // Beyond 4 it's ±1; the bound also keeps the square finite.
    let a = s.min(s.splat(5.0), s.abs(x));
    let z = s.mul(a, a);
    let p = poly(
        s,
        z,
        [
            7.853_861_4e-5,
            -8.010_193_6e-4,
            5.188_327_6e-3,
            -2.685_381_2e-2,
            1.128_358_4e-1,
            -3.761_262_6e-1,
            1.128_379_2,
        ],
    );
    let near = s.mul(x, p);
    let rest = s.neg(s.fnma(a, a, z));
    let far = s.sub(s.splat(1.0), erfc_nonnegative(s, a, z, rest));
    s.select(s.lt(a, s.splat(1.0)), near, s.copysign(far, x))
}

/// x · Φ(x) with the normal distribution's Φ.
#[inline(always)]
pub(crate) fn gelu<S: Simd>(s: S, x: S::V) -> S::V {
    // x Φ(x) = max(x, 0) − |x| Φ(−|x|), and Φ(−a) = erfc(a / √2) / 2, which is 0 beyond 15.
    let a = s.min(s.splat(15.0), s.abs(x));
    let half = s.mul(s.splat(0.5), a);
    let sq = s.mul(half, a);
    let rest = s.neg(s.fnma(half, a, sq));
    let tail = erfc_nonnegative(s, s.mul(a, s.splat(std::f32::consts::FRAC_1_SQRT_2)), sq, rest);
    s.fnma(half, tail, s.max(s.zero(), x))
}

/// GELU by the tanh formula: x · sigmoid(2 √(2/π) (x + 0.044715 x³)).
#[inline(always)]
pub(crate) fn gelu_tanh<S: Simd>(s: S, x: S::V) -> S::V {
    let cube = s.mul(s.mul(x, x), x);
    let u = s.fma(s.splat(0.044_715), cube, x);
    s.mul(x, sigmoid(s, s.mul(u, s.splat(1.595_769_1))))
}
