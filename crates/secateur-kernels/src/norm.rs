//! Normalisations.

use crate::activation::{Activation, apply_in};
use crate::reduce::{ReduceOp, row};
use crate::simd::{Isa, Kernel, Simd};
use crate::size;
use crate::threads;

/// out = (x − mean) / √(variance + eps) · scale + bias over the last axis of `[rows, n]`.
///
/// The variance is the mean square of x − mean.
///
/// # Panics
/// If `n` doesn't divide the lengths, which are equal, or `scale` or `bias` hasn't `n` values.
pub fn layer_norm(
    x: &[f32],
    out: &mut [f32],
    n: usize,
    scale: Option<&[f32]>,
    bias: Option<&[f32]>,
    eps: f32,
) {
    rows_with(Isa::best(), true, x, out, n, scale, bias, eps);
}

/// out = x / √(mean square + eps) · scale over the last axis of `[rows, n]`.
///
/// # Panics
/// As [`layer_norm`].
pub fn rms_norm(x: &[f32], out: &mut [f32], n: usize, scale: Option<&[f32]>, eps: f32) {
    rows_with(Isa::best(), false, x, out, n, scale, None, eps);
}

#[allow(clippy::too_many_arguments)]
fn rows_with(
    isa: Isa,
    center: bool,
    x: &[f32],
    out: &mut [f32],
    n: usize,
    scale: Option<&[f32]>,
    bias: Option<&[f32]>,
    eps: f32,
) {
    assert_eq!(x.len(), out.len(), "input and output of a normalisation");
    assert!([scale, bias].iter().flatten().all(|p| p.len() == n), "scale and bias have {n} values");
    threads::chunks(out, n, 2 * n, |first, out| {
        let x = &x[first * n..][..out.len()];
        isa.run(Rows { center, x, out, n, scale, bias, eps });
    });
}

struct Rows<'a> {
    center: bool,
    x: &'a [f32],
    out: &'a mut [f32],
    n: usize,
    scale: Option<&'a [f32]>,
    bias: Option<&'a [f32]>,
    eps: f32,
}

impl Kernel for Rows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (x, out) in self.x.chunks_exact(self.n).zip(self.out.chunks_exact_mut(self.n)) {
            let factor = standardise(s, self.center, x, out, self.eps);
            let (n, p, f) = (out.len(), out.as_mut_ptr(), s.splat(factor));
            for i in (0..n).step_by(S::LANES) {
                let lanes = S::LANES.min(n - i);
                // SAFETY: lanes values from i on lie in out, scale and bias.
                unsafe {
                    let mut y = s.mul(s.load_n(p.add(i), lanes), f);
                    if let Some(scale) = self.scale {
                        y = s.mul(y, s.load_n(scale.as_ptr().add(i), lanes));
                    }
                    if let Some(bias) = self.bias {
                        y = s.add(y, s.load_n(bias.as_ptr().add(i), lanes));
                    }
                    s.store_n(p.add(i), y, lanes);
                }
            }
        }
    }
}

/// Writes x − mean (or x) to `out`; returns the factor that gives it a mean square of 1.
#[inline(always)]
fn standardise<S: Simd>(s: S, center: bool, x: &[f32], out: &mut [f32], eps: f32) -> f32 {
    let n = x.len() as f32;
    if center {
        let mean = row(s, ReduceOp::Sum, x) / n;
        affine(s, x, out, 1.0, -mean);
    } else {
        out.copy_from_slice(x);
    }
    1.0 / (row(s, ReduceOp::SumSquare, out) / n + eps).sqrt()
}

/// out = x · scale + shift.
#[inline(always)]
fn affine<S: Simd>(s: S, x: &[f32], out: &mut [f32], scale: f32, shift: f32) {
    let n = x.len();
    assert_eq!(n, out.len());
    let (scale, shift) = (s.splat(scale), s.splat(shift));
    for i in (0..n).step_by(S::LANES) {
        let lanes = S::LANES.min(n - i);
        // SAFETY: lanes values from i on lie in both slices.
        unsafe {
            let y = s.fma(s.load_n(x.as_ptr().add(i), lanes), scale, shift);
            s.store_n(out.as_mut_ptr().add(i), y, lanes);
        }
    }
}

/// Normalises each group of channels of `[batch, channels, inner]` to mean 0 and variance 1, then
/// out = normalised · scale\[channel\] + bias\[channel\]. With as many groups as channels it's instance
/// normalisation.
///
/// # Panics
/// If the lengths aren't whole numbers of `channels · inner` (both equal), `groups` doesn't divide `channels`, or
/// `scale` or `bias` hasn't `channels` values.
#[allow(clippy::too_many_arguments)]
pub fn group_norm(
    x: &[f32],
    out: &mut [f32],
    channels: usize,
    inner: usize,
    groups: usize,
    scale: Option<&[f32]>,
    bias: Option<&[f32]>,
    eps: f32,
) {
    group_norm_with(Isa::best(), x, out, channels, inner, groups, scale, bias, eps);
}

#[allow(clippy::too_many_arguments)]
fn group_norm_with(
    isa: Isa,
    x: &[f32],
    out: &mut [f32],
    channels: usize,
    inner: usize,
    groups: usize,
    scale: Option<&[f32]>,
    bias: Option<&[f32]>,
    eps: f32,
) {
    assert_eq!(x.len(), out.len(), "input and output of a normalisation");
    assert!(
        groups > 0 && channels.is_multiple_of(groups),
        "{groups} groups don't divide {channels} channels"
    );
    assert!(
        [scale, bias].iter().flatten().all(|p| p.len() == channels),
        "scale and bias have {channels} values"
    );
    let each = size::of(&[channels / groups, inner]);
    threads::chunks(out, each, 2 * each, |first, out| {
        for (i, out) in out.chunks_exact_mut(each).enumerate() {
            let channel = (first + i) % groups * (channels / groups);
            let x = &x[(first + i) * each..(first + i + 1) * each];
            isa.run(Group { x, out, inner, channel, scale, bias, eps });
        }
    });
}

struct Group<'a> {
    x: &'a [f32],
    out: &'a mut [f32],
    inner: usize,
    channel: usize,
    scale: Option<&'a [f32]>,
    bias: Option<&'a [f32]>,
    eps: f32,
}

impl Kernel for Group<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.x.len() as f32;
        let mean = row(s, ReduceOp::Sum, self.x) / n;
        let factor = standardise(s, true, self.x, self.out, self.eps);
        for (c, (x, out)) in
            self.x.chunks_exact(self.inner).zip(self.out.chunks_exact_mut(self.inner)).enumerate()
        {
            let scale = factor * self.scale.map_or(1.0, |p| p[self.channel + c]);
            let bias = self.bias.map_or(0.0, |p| p[self.channel + c]);
            centered(s, x, out, mean, scale, bias);
        }
    }
}

/// out = (x − mean) · scale + bias.
#[inline(always)]
fn centered<S: Simd>(s: S, x: &[f32], out: &mut [f32], mean: f32, scale: f32, bias: f32) {
    let n = x.len();
    assert_eq!(n, out.len());
    let (mean, scale, bias) = (s.splat(mean), s.splat(scale), s.splat(bias));
    for i in (0..n).step_by(S::LANES) {
        let lanes = S::LANES.min(n - i);
        // SAFETY: lanes values from i on lie in both slices.
        unsafe {
            let y = s.fma(s.sub(s.load_n(x.as_ptr().add(i), lanes), mean), scale, bias);
            s.store_n(out.as_mut_ptr().add(i), y, lanes);
        }
    }
}

/// out = act(x · scale\[channel\] + shift\[channel\]) for `[batch, channels, inner]`: batch normalisation with
/// constant statistics.
///
/// # Panics
/// If the lengths aren't whole numbers of `channels · inner` (both equal) or `scale` and `shift` haven't
/// `channels` values.
pub fn scale_shift(
    x: &[f32],
    out: &mut [f32],
    channels: usize,
    inner: usize,
    scale: &[f32],
    shift: &[f32],
    act: Activation,
) {
    assert_eq!(x.len(), out.len(), "input and output of a scale and shift");
    assert!(scale.len() == channels && shift.len() == channels, "scale and shift have {channels} values");
    assert!(
        x.is_empty() || x.len().is_multiple_of(size::of(&[channels, inner])),
        "not a batch of {channels} x {inner}"
    );
    threads::chunks(out, inner, inner, |first, out| {
        Isa::best().run(ScaleShift {
            x: &x[first * inner..][..out.len()],
            out,
            inner,
            first,
            scale,
            shift,
            act,
        });
    });
}

struct ScaleShift<'a> {
    x: &'a [f32],
    out: &'a mut [f32],
    inner: usize,
    first: usize,
    scale: &'a [f32],
    shift: &'a [f32],
    act: Activation,
}

impl Kernel for ScaleShift<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (i, (x, out)) in
            self.x.chunks_exact(self.inner).zip(self.out.chunks_exact_mut(self.inner)).enumerate()
        {
            let channel = (self.first + i) % self.scale.len();
            affine(s, x, out, self.scale[channel], self.shift[channel]);
            apply_in(s, self.act, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rng;

    /// Normalises `x` in double precision: returns (x − mean) / √(variance + eps).
    fn reference(x: &[f32], center: bool, eps: f32) -> Vec<f64> {
        let n = x.len() as f64;
        let mean = if center { x.iter().map(|&v| v as f64).sum::<f64>() / n } else { 0.0 };
        let var = x.iter().map(|&v| (v as f64 - mean).powi(2)).sum::<f64>() / n;
        x.iter().map(|&v| (v as f64 - mean) / (var + eps as f64).sqrt()).collect()
    }

    #[test]
    fn rows_agree_with_the_reference() {
        let mut rng = Rng::new(2);
        for case in 0..60 {
            let (rows, n) = (rng.below(4), 1 + rng.below(300));
            let x: Vec<f32> = rng.values(rows * n).iter().map(|v| v * 3.0 + 1.5).collect();
            let (scale, bias) = (rng.values(n), rng.values(n));
            let center = case % 2 == 0;
            let affine = case % 3 != 0;
            for isa in Isa::available() {
                let mut out = vec![0.0; x.len()];
                let (sc, bi) = (affine.then_some(&scale[..]), (affine && center).then_some(&bias[..]));
                rows_with(isa, center, &x, &mut out, n, sc, bi, 1e-5);
                for r in 0..rows {
                    let want = reference(&x[r * n..(r + 1) * n], center, 1e-5);
                    for i in 0..n {
                        let w = want[i] * sc.map_or(1.0, |p| p[i] as f64) + bi.map_or(0.0, |p| p[i] as f64);
                        let got = out[r * n + i] as f64;
                        assert!((got - w).abs() <= 4e-6 * (1.0 + w.abs()), "{isa:?} n={n} {got}, want {w}");
                    }
                }
            }
        }
    }

    #[test]
    fn groups_agree_with_the_reference() {
        let mut rng = Rng::new(4);
        for _ in 0..40 {
            let (batch, groups, per, inner) =
                (1 + rng.below(2), 1 + rng.below(4), 1 + rng.below(4), 1 + rng.below(80));
            let channels = groups * per;
            let x: Vec<f32> = rng.values(batch * channels * inner).iter().map(|v| v + 2.0).collect();
            let (scale, bias) = (rng.values(channels), rng.values(channels));
            for isa in Isa::available() {
                let mut out = vec![0.0; x.len()];
                group_norm_with(isa, &x, &mut out, channels, inner, groups, Some(&scale), Some(&bias), 1e-5);
                let size = per * inner;
                for g in 0..batch * groups {
                    let want = reference(&x[g * size..(g + 1) * size], true, 1e-5);
                    for (i, w) in want.iter().enumerate() {
                        let c = g % groups * per + i / inner;
                        let w = w * scale[c] as f64 + bias[c] as f64;
                        let got = out[g * size + i] as f64;
                        // Few values have a variance near eps, where the mean's rounding counts most.
                        assert!((got - w).abs() <= 3e-5 * (1.0 + w.abs()), "{isa:?} {got}, want {w}");
                    }
                }
            }
        }
    }

    #[test]
    fn scale_shift_goes_by_channel() {
        let x: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let mut out = vec![0.0; 24];
        scale_shift(&x, &mut out, 3, 4, &[1.0, -1.0, 2.0], &[0.0, 5.0, 1.0], Activation::Relu);
        for (i, &y) in out.iter().enumerate() {
            let c = i / 4 % 3;
            assert_eq!(y, (i as f32 * [1.0, -1.0, 2.0][c] + [0.0, 5.0, 1.0][c]).max(0.0));
        }
    }
}
