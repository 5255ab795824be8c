//! Batch normalisation in training: statistics of the batch, the normalisation with what follows it, and gradients.

use crate::activation::{Activation, apply_in};
use crate::gradient::unary::unary_gradient;
use crate::planes::{Planes, keep};
use crate::reduce::{ReduceOp, row};
use crate::simd::{Isa, Kernel, Simd, sum_lanes};
use crate::size;
use crate::threads::{self, SharedMut};
use crate::unary::UnaryOp;

/// Elements that are summed in f32 before they go into a sum in f64.
const SEGMENT: usize = 1 << 10;

/// Runs a body for whole vectors, then for what is left; whole ones without a count of lanes, so that they need no mask. A macro,
/// since a closure is not compiled for the instruction set.
macro_rules! each_vector {
    ($len:expr, |$i:ident, $lanes:ident| $body:expr) => {{
        let len = $len;
        let whole = len - len % S::LANES;
        let mut $i = 0;
        while $i < whole {
            let $lanes = None;
            $body;
            $i += S::LANES;
        }
        if whole < len {
            let $lanes = Some(len - whole);
            $body;
        }
    }};
}

/// What is normalised: rows of the channels of some samples.
#[derive(Clone, Copy, Debug)]
pub struct BatchNorm<'a> {
    /// Samples, or blocks of them.
    blocks: usize,
    channels: usize,
    /// Elements of a row.
    inner: usize,
    /// Zeros in front of the first row and behind the last one.
    margin: usize,
    /// Elements of a channel.
    count: usize,
    /// For each element of a row 1 where it is an element of the tensor, else 0; `None` where all are. The others are zero.
    inside: Option<&'a [f32]>,
}

impl<'a> BatchNorm<'a> {
    /// A tensor `[batch, channels, inner]`.
    pub fn plain([batch, channels, inner]: [usize; 3]) -> Self {
        let count = size::of(&[batch, inner]);
        BatchNorm { blocks: batch, channels, inner, margin: 0, count, inside: None }
    }

    /// A tensor in planes.
    pub fn planes(planes: &'a Planes, channels: usize) -> Self {
        BatchNorm {
            blocks: planes.blocks(),
            channels,
            inner: planes.pitch(),
            margin: planes.margin(),
            count: planes.count(),
            inside: planes.inside(),
        }
    }

    fn len(&self) -> usize {
        size::sum(&[size::of(&[self.blocks, self.channels, self.inner]), 2 * self.margin])
    }

    /// Elements of a channel.
    fn count(&self) -> f64 {
        self.count as f64
    }

    /// Calls `f` for each channel, in parallel where there is enough to do.
    fn each_channel(&self, f: impl Fn(usize) + Sync + Send) {
        threads::ranges(self.channels, self.blocks * self.inner, |channels| channels.for_each(&f));
    }

    /// Where the elements of a channel begin, row by row.
    #[inline(always)]
    fn rows(self, channel: usize) -> impl Iterator<Item = usize> {
        (0..self.blocks).map(move |n| self.margin + (n * self.channels + channel) * self.inner)
    }

    fn clear_margins(self, values: &mut [f32]) {
        let end = values.len() - self.margin;
        values[..self.margin].fill(0.0);
        values[end..].fill(0.0);
    }
}

/// What a batch-norm computes with.
#[derive(Clone, Copy, Debug)]
pub struct NormOperands<'a> {
    /// The input.
    pub x: &'a [f32],
    /// The factor of each channel.
    pub scale: &'a [f32],
    /// The addend of each channel.
    pub bias: &'a [f32],
    /// Mean and variance of each channel; those of the batch where none are given.
    pub running: Option<[&'a [f32]; 2]>,
    /// Added to the variance.
    pub eps: f64,
    /// A tensor to add.
    pub add: Option<&'a [f32]>,
    /// Applied last.
    pub act: Activation,
}

/// out = act((x − mean) / √(variance + eps) · scale + bias + add); gives the mean and the variance (the mean square of
/// x − mean) of each channel that it computes with.
///
/// # Panics
/// If the lengths don't fit the shape.
pub fn batch_norm(
    shape: BatchNorm<'_>,
    of: NormOperands<'_>,
    out: &mut [f32],
    [mean, variance]: [&mut [f32]; 2],
) {
    let NormOperands { x, scale, bias, running, eps, add, act } = of;
    let (isa, channels) = (Isa::best(), shape.channels);
    assert!(x.len() == shape.len() && out.len() == x.len(), "input and output of {shape:?}");
    assert!(scale.len() == channels && bias.len() == channels, "factors of {shape:?}");
    assert!(mean.len() == channels && variance.len() == channels, "statistics of {shape:?}");
    assert!(
        running.is_none_or(|[m, v]| m.len() == channels && v.len() == channels),
        "statistics of {shape:?}"
    );
    assert!(add.is_none_or(|add| add.len() == x.len()), "added tensor of {shape:?}");
    shape.clear_margins(out);
    let (out, mean, variance) = (SharedMut::new(out), SharedMut::new(mean), SharedMut::new(variance));
    shape.each_channel(|channel| {
        let (m, v) = match running {
            Some([mean, variance]) => (mean[channel], variance[channel]),
            None => isa.run(Statistics { shape, x, channel }),
        };
        // SAFETY: each channel is written once.
        unsafe {
            mean.slice(channel, 1)[0] = m;
            variance.slice(channel, 1)[0] = v;
        }
        let scale = scale[channel] * (1.0 / (f64::from(v) + eps).sqrt()) as f32;
        let shift = (f64::from(bias[channel]) - f64::from(m) * f64::from(scale)) as f32;
        isa.run(Affine { shape, channel, x, scale, shift, add, act, out });
    });
}

struct Statistics<'a> {
    shape: BatchNorm<'a>,
    x: &'a [f32],
    channel: usize,
}

impl Kernel for Statistics<'_> {
    type Output = (f32, f32);
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f32, f32) {
        let Statistics { shape, x, channel } = self;
        let mut sum = 0.0f64;
        for start in shape.rows(channel) {
            sum += f64::from(row(s, ReduceOp::Sum, &x[start..start + shape.inner]));
        }
        let mean = (sum / shape.count()) as f32;
        let mut squares = 0.0f64;
        for start in shape.rows(channel) {
            squares += f64::from(match shape.inside {
                None => centred_squares(s, &x[start..start + shape.inner], mean),
                Some(inside) => squares_inside(s, &x[start..start + shape.inner], inside, mean),
            });
        }
        (mean, (squares / shape.count()) as f32)
    }
}

/// Σ (x − mean)².
#[inline(always)]
pub(super) fn centred_squares<S: Simd>(s: S, x: &[f32], mean: f32) -> f32 {
    let whole = x.len() - x.len() % S::LANES;
    let (at, mut sum) = (s.splat(mean), s.zero());
    for i in (0..whole).step_by(S::LANES) {
        // SAFETY: i + LANES <= len.
        let d = s.sub(unsafe { s.load(x.as_ptr().add(i)) }, at);
        sum = s.fma(d, d, sum);
    }
    let mut total = sum_lanes(s, sum);
    for &x in &x[whole..] {
        total += (x - mean) * (x - mean);
    }
    total
}

/// Σ (x − mean)² over the elements of the tensor.
#[inline(always)]
fn squares_inside<S: Simd>(s: S, x: &[f32], inside: &[f32], mean: f32) -> f32 {
    assert_eq!(x.len(), inside.len(), "elements of a row");
    let (at, mut sum) = (s.splat(mean), s.zero());
    each_vector!(x.len(), |i, lanes| {
        // SAFETY: lanes values from i on lie in both.
        unsafe {
            let d = s.sub(load(s, x.as_ptr().add(i), lanes), at);
            let d = keep(s, load(s, inside.as_ptr().add(i), lanes), d);
            sum = s.fma(d, d, sum);
        }
    });
    sum_lanes(s, sum)
}

/// # Safety
/// The lanes, all without a count, can be read at `p`.
#[inline(always)]
unsafe fn load<S: Simd>(s: S, p: *const f32, lanes: Option<usize>) -> S::V {
    // SAFETY: guaranteed by the caller.
    unsafe {
        match lanes {
            None => s.load(p),
            Some(n) => s.load_n(p, n),
        }
    }
}

/// # Safety
/// The lanes, all without a count, can be written at `p`.
#[inline(always)]
unsafe fn store<S: Simd>(s: S, p: *mut f32, v: S::V, lanes: Option<usize>) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        match lanes {
            None => s.store(p, v),
            Some(n) => s.store_n(p, v, n),
        }
    }
}

/// out = act(x · scale + shift + add), the rows of a channel.
struct Affine<'a> {
    shape: BatchNorm<'a>,
    channel: usize,
    x: &'a [f32],
    scale: f32,
    shift: f32,
    add: Option<&'a [f32]>,
    act: Activation,
    out: SharedMut<'a, f32>,
}

impl Kernel for Affine<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Affine { shape, channel, .. } = self;
        let ((lo, hi), rest) = self.act.clamp_then_rest();
        let (lo, hi) = (s.splat(lo), s.splat(hi));
        let (scale, shift) = (s.splat(self.scale), s.splat(self.shift));
        for row in shape.rows(channel) {
            // SAFETY: the rows of a channel are no one else's.
            let out = unsafe { self.out.slice(row, shape.inner) };
            let (x, y) = (self.x[row..row + shape.inner].as_ptr(), out.as_mut_ptr());
            let add = self.add.map(|add| add[row..row + shape.inner].as_ptr());
            each_vector!(shape.inner, |i, lanes| {
                // SAFETY: lanes values from i on lie in the rows.
                unsafe {
                    let mut v = s.fma(load(s, x.add(i), lanes), scale, shift);
                    if let Some(add) = add {
                        v = s.add(v, load(s, add.add(i), lanes));
                    }
                    v = s.min(hi, s.max(lo, v));
                    if let Some(inside) = shape.inside {
                        v = keep(s, load(s, inside.as_ptr().add(i), lanes), v);
                    }
                    store(s, y.add(i), v, lanes);
                }
            });
            apply_in(s, rest, out);
            if let (Some(inside), true) = (shape.inside, rest != Activation::None) {
                out.iter_mut().zip(inside).filter(|(_, inside)| **inside == 0.0).for_each(|(y, _)| *y = 0.0);
            }
        }
    }
}

/// The gradients of y = act((x − mean) / √(variance + eps) · scale + bias + add) where mean and variance are those of the
/// batch, `inverse` = 1 / √(variance + eps), n the elements of a channel and x̂ = (x − mean) · inverse:
///
/// ```text
/// d      = act′ · ∂L/∂y                        in place of ∂L/∂y; the gradient of what was added
/// ∂bias  = Σ d        ∂scale = Σ d · x̂
/// ∂x     = scale · inverse · (d − ∂bias / n − x̂ · ∂scale / n)
/// ```
///
/// (Ioffe and Szegedy 2015, §3.) Where mean and variance are constants, not `of_batch`, ∂x = scale · inverse · d. `y` is the
/// result, from which the activation's derivative is computed.
///
/// # Panics
/// If the lengths don't fit the shape, or the derivative of the activation takes its argument.
pub fn batch_norm_gradient(
    shape: BatchNorm<'_>,
    x: &[f32],
    ([mean, inverse, scale], of_batch): ([&[f32]; 3], bool),
    (act, y): (Activation, &[f32]),
    d: &mut [f32],
    [d_scale, d_bias]: [&mut [f32]; 2],
    mut dx: Option<&mut [f32]>,
) {
    assert!(x.len() == shape.len() && d.len() == x.len() && y.len() == x.len(), "values of {shape:?}");
    let all = [mean.len(), inverse.len(), scale.len(), d_scale.len(), d_bias.len()];
    assert!(all.iter().all(|&len| len == shape.channels), "statistics of {shape:?}");
    assert!(dx.as_ref().is_none_or(|dx| dx.len() == x.len()), "gradient of the input of {shape:?}");
    // What is no clamp is derived first: the pass below knows clamps.
    if act.clamp().is_none() {
        unary_gradient(UnaryOp::Act(act), y, d);
    }
    if let Some(dx) = &mut dx {
        shape.clear_margins(dx);
    }
    // Constants do not depend on x: nothing of the sums comes back through them.
    let share = if of_batch { 1.0 / shape.count() } else { 0.0 };
    let (isa, clamp) = (Isa::best(), act.clamp());
    let (d, dx) = (SharedMut::new(d), dx.map(SharedMut::new));
    let (d_scale, d_bias) = (SharedMut::new(d_scale), SharedMut::new(d_bias));
    shape.each_channel(|channel| {
        let mean = mean[channel];
        let (sum, product) = isa.run(ChannelSums { shape, x, y, d, channel, mean, clamp });
        let (mean, inverse) = (f64::from(mean), f64::from(inverse[channel]));
        // SAFETY: each channel is written once.
        unsafe {
            d_bias.slice(channel, 1)[0] = sum as f32;
            d_scale.slice(channel, 1)[0] = (product * inverse) as f32;
        }
        let Some(dx) = dx else { return };
        let factor = f64::from(scale[channel]) * inverse;
        let slope = -factor * inverse * inverse * product * share;
        let constant = -factor * sum * share - slope * mean;
        let factors = [factor, slope, constant].map(|v| v as f32);
        isa.run(Combine { shape, channel, factors, x, d, dx });
    });
}

/// d ← act′ · d in the rows of a channel, and its sums.
struct ChannelSums<'a> {
    shape: BatchNorm<'a>,
    x: &'a [f32],
    y: &'a [f32],
    d: SharedMut<'a, f32>,
    channel: usize,
    mean: f32,
    clamp: Option<(f32, f32)>,
}

impl Kernel for ChannelSums<'_> {
    /// Σ d and Σ d · (x − mean).
    type Output = (f64, f64);
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f64, f64) {
        let ChannelSums { shape, x, y, d, channel, mean, clamp } = self;
        let inner = shape.inner;
        let (mean, zero) = (s.splat(mean), s.zero());
        let clamp = clamp.filter(|&(lo, hi)| lo > f32::NEG_INFINITY || hi < f32::INFINITY);
        let clamp = clamp.map(|(lo, hi)| (s.splat(lo), s.splat(hi)));
        let (mut sum, mut product) = (0.0f64, 0.0f64);
        for row in shape.rows(channel) {
            // Short pieces: long sums in f32 lose precision.
            for at in (0..inner).step_by(SEGMENT) {
                let (start, len) = (row + at, SEGMENT.min(inner - at));
                let (x, y) = (x[start..start + len].as_ptr(), y[start..start + len].as_ptr());
                // SAFETY: the rows of a channel are no one else's.
                let d = unsafe { d.slice(start, len) }.as_mut_ptr();
                let (mut total, mut cross) = (s.zero(), s.zero());
                each_vector!(len, |i, lanes| {
                    // SAFETY: lanes values from i on lie in the rows.
                    unsafe {
                        let mut v = load(s, d.add(i), lanes);
                        if let Some((lo, hi)) = clamp {
                            let y = load(s, y.add(i), lanes);
                            let below = s.select(s.lt(y, hi), v, zero);
                            v = s.select(s.lt(lo, y), below, zero);
                            store(s, d.add(i), v, lanes);
                        }
                        total = s.add(total, v);
                        // Lanes behind the end are no elements: their mean is no part of the sum, since v is 0 there.
                        cross = s.fma(v, s.sub(load(s, x.add(i), lanes), mean), cross);
                    }
                });
                sum += f64::from(sum_lanes(s, total));
                product += f64::from(sum_lanes(s, cross));
            }
        }
        (sum, product)
    }
}

/// dx = a · d + b · x + c, the rows of a channel.
struct Combine<'a> {
    shape: BatchNorm<'a>,
    channel: usize,
    factors: [f32; 3],
    x: &'a [f32],
    d: SharedMut<'a, f32>,
    dx: SharedMut<'a, f32>,
}

impl Kernel for Combine<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Combine { shape, channel, factors, x, d, dx } = self;
        let [a, b, c] = factors.map(|factor| s.splat(factor));
        for row in shape.rows(channel) {
            let x = x[row..row + shape.inner].as_ptr();
            // SAFETY: the rows of a channel are no one else's.
            let (d, dx) = unsafe { (d.slice(row, shape.inner), dx.slice(row, shape.inner)) };
            let (d, dx) = (d.as_ptr(), dx.as_mut_ptr());
            each_vector!(shape.inner, |i, lanes| {
                // SAFETY: lanes values from i on lie in the rows.
                unsafe {
                    let rest = s.fma(b, load(s, x.add(i), lanes), c);
                    let mut v = s.fma(a, load(s, d.add(i), lanes), rest);
                    if let Some(inside) = shape.inside {
                        v = keep(s, load(s, inside.as_ptr().add(i), lanes), v);
                    }
                    store(s, dx.add(i), v, lanes);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rng, in_pool};

    struct Case {
        shape: [usize; 3],
        x: Vec<f32>,
        add: Vec<f32>,
        scale: Vec<f32>,
        bias: Vec<f32>,
        given: Vec<f32>,
        act: Activation,
    }

    const EPS: f64 = 1e-5;

    /// Σ y · given in double precision, with each operand as it is.
    fn loss(
        case: &Case,
        x: &[f64],
        scale: &[f64],
        bias: &[f64],
        add: &[f64],
        frozen: Option<&[(f64, f64)]>,
    ) -> f64 {
        let [batch, channels, inner] = case.shape;
        let channel = |i: usize| i / inner % channels;
        let n = (batch * inner) as f64;
        let own: Vec<(f64, f64)> = (0..channels)
            .map(|c| {
                let of = || x.iter().enumerate().filter(|(i, _)| channel(*i) == c).map(|(_, x)| x);
                let mean = of().sum::<f64>() / n;
                (mean, of().map(|x| (x - mean).powi(2)).sum::<f64>() / n)
            })
            .collect();
        let statistics = frozen.unwrap_or(&own);
        (0..x.len())
            .map(|i| {
                let c = channel(i);
                let z =
                    (x[i] - statistics[c].0) / (statistics[c].1 + EPS).sqrt() * scale[c] + bias[c] + add[i];
                let y = match case.act {
                    Activation::Relu => z.max(0.0),
                    Activation::Tanh => z.tanh(),
                    Activation::Sigmoid => 1.0 / (1.0 + (-z).exp()),
                    _ => z,
                };
                y * f64::from(case.given[i])
            })
            .sum()
    }

    fn wide(values: &[f32]) -> Vec<f64> {
        values.iter().map(|&v| v.into()).collect()
    }

    /// The gradients of x, scale, bias and what is added; the values in planes where these are given.
    fn run(case: &Case, frozen: Option<[&[f32]; 2]>, planes: Option<&Planes>) -> [Vec<f32>; 4] {
        let c = case.shape[1];
        let placed = |values: &[f32]| match planes {
            None => values.to_vec(),
            Some(planes) => {
                let mut out = vec![f32::NAN; planes.len(c)];
                planes.pack(c, values, &mut out);
                out
            }
        };
        let back = |values: Vec<f32>| {
            let Some(planes) = planes else { return values };
            let mut out = vec![f32::NAN; case.x.len()];
            planes.unpack(c, &values, &mut out);
            assert_eq!(placed(&out), values, "zeros around the maps");
            out
        };
        let shape = planes.map_or(BatchNorm::plain(case.shape), |planes| BatchNorm::planes(planes, c));
        let (x, add) = (placed(&case.x), placed(&case.add));
        let (mut mean, mut variance) = (vec![f32::NAN; c], vec![f32::NAN; c]);
        let mut y = vec![f32::NAN; x.len()];
        let operands = NormOperands {
            x: &x,
            scale: &case.scale,
            bias: &case.bias,
            running: frozen,
            eps: EPS,
            add: Some(&add),
            act: case.act,
        };
        batch_norm(shape, operands, &mut y, [&mut mean, &mut variance]);
        let inverse: Vec<f32> =
            variance.iter().map(|&v| (1.0 / (f64::from(v) + EPS).sqrt()) as f32).collect();
        let (mut d, mut dx) = (placed(&case.given), vec![f32::NAN; y.len()]);
        let (mut d_scale, mut d_bias) = (vec![0.0; c], vec![0.0; c]);
        let statistics = [&mean[..], &inverse[..], &case.scale[..]];
        let sums = [&mut d_scale[..], &mut d_bias[..]];
        batch_norm_gradient(
            shape,
            &x,
            (statistics, frozen.is_none()),
            (case.act, &y),
            &mut d,
            sums,
            Some(&mut dx),
        );
        back(y);
        [back(dx), d_scale, d_bias, back(d)]
    }

    #[test]
    fn gradients_agree_with_central_differences_on_any_threads() {
        let mut rng = Rng::new(9);
        for round in 0..36 {
            let maps = [1 + rng.below(6), 1 + rng.below(7)];
            let shape = [2 + rng.below(4), 1 + rng.below(4), maps[0] * maps[1]];
            let act = [Activation::None, Activation::Relu, Activation::Tanh, Activation::Sigmoid][round % 4];
            let (channels, n) = (shape[1], shape.iter().product());
            let extents = [1, maps[0] + rng.below(3), maps[1] + rng.below(3)];
            let planes = (round % 3 > 0).then(|| Planes::padded(shape[0], &maps, extents, rng.below(20)));
            let case = Case {
                shape,
                x: rng.values(n),
                add: rng.values(n),
                scale: rng.values(channels),
                bias: rng.values(channels),
                given: rng.values(n),
                act,
            };
            let (mean, variance) = (rng.values(channels), vec![0.7; channels]);
            let frozen = (round % 2 == 0).then_some([&mean[..], &variance[..]]);
            let got = run(&case, frozen, planes.as_ref());
            assert_eq!(got, in_pool(3, || run(&case, frozen, planes.as_ref())));
            let pairs: Option<Vec<(f64, f64)>> =
                frozen.map(|[m, v]| wide(m).into_iter().zip(wide(v)).collect());
            let mut operands = [wide(&case.x), wide(&case.scale), wide(&case.bias), wide(&case.add)];
            for which in 0..4 {
                for _ in 0..8 {
                    let i = rng.below(operands[which].len());
                    let mut at = |by: f64| {
                        let former = operands[which][i];
                        operands[which][i] += by;
                        let [x, scale, bias, add] = &operands;
                        let value = loss(&case, x, scale, bias, add, pairs.as_deref());
                        operands[which][i] = former;
                        value
                    };
                    let h = 1e-4;
                    let (up, here, down) = (at(h), at(0.0), at(-h));
                    // Next to the corner of a ReLU there is no one slope.
                    if act == Activation::Relu && ((up - here) - (here - down)).abs() > 1e-2 * h {
                        continue;
                    }
                    let want = (up - down) / (2.0 * h);
                    let error = (f64::from(got[which][i]) - want).abs();
                    assert!(
                        error < 2e-5 * (1.0 + want.abs()) * n as f64,
                        "{shape:?} {act:?} operand {which}: {} for {want}",
                        got[which][i]
                    );
                }
            }
        }
    }
}
