//! Normalisation that takes nothing but its input. Sums are computed in f64.

use super::axes::Statement;
use super::broadcast::zip_values;
use super::cells::{filled, room};
use super::norm::Layout;
use super::number::{Float, Number, with_float};
use super::reduce::Reduction;
use super::unary::infer_same;
use super::{Inputs, Op, axis_index};
use crate::{Error, Node, Result, Tensor};

pub(super) const OPS: &[Op] = &[
    Op::new("LpNormalization", 1, infer_same).axes(axes_lp_norm).eval(eval_lp_norm),
    Op::new("LRN", 1, infer_same).axes(axes_lrn).eval(eval_lrn),
    Op::new("MeanVarianceNormalization", 9, infer_same)
        .axes(axes_mean_variance_norm)
        .eval(eval_mean_variance_norm),
];

/// Each row along an axis divided by its L1 or L2 norm; rows of zeros stay.
fn eval_lp_norm(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let x = inputs.need(0)?;
    let axis = axis_index(node.int_or("axis", -1)?, x.rank())?;
    let order = node.int_or("p", 2)?;
    if order != 1 && order != 2 {
        return Err(Error::unsupported(format!("p is {order}, expected 1 or 2")));
    }
    let mut reduced = vec![false; x.rank()];
    reduced[axis] = true;
    let plan = Reduction::new(x.shape(), &reduced, true);
    with_float!(x.dtype(), F => {
        let values = F::load(x)?;
        let norms = plan.fold(
            &values,
            0f64,
            |sum, v: F| sum + if order == 1 { v.to_f64().abs() } else { v.to_f64() * v.to_f64() },
            |a, b| a + b,
        )?;
        let norms: Vec<F> =
            norms.into_iter().map(|n| F::from_f64(if order == 1 { n } else { n.sqrt() })).collect();
        let divide = |&v: &F, &n: &F| if n == 0.0 { 0.0 } else { v / n };
        let (_, out) = zip_values(&values, x.shape(), &norms, &plan.output, divide)?;
        Ok(vec![F::store(out, x.dtype(), x.shape())?])
    })
}

/// A sum of squares over a window that moves on: what is infinite or no number is counted, as it could not be taken
/// away again.
#[derive(Clone, Default)]
struct Squares {
    finite: f64,
    infinite: usize,
    nan: usize,
}

impl Squares {
    fn add(&mut self, value: f64) {
        match value * value {
            square if square.is_nan() => self.nan += 1,
            square if square.is_infinite() => self.infinite += 1,
            square => self.finite += square,
        }
    }

    fn remove(&mut self, value: f64) {
        match value * value {
            square if square.is_nan() => self.nan -= 1,
            square if square.is_infinite() => self.infinite -= 1,
            // Rounding may leave less than nothing of it.
            square => self.finite = (self.finite - square).max(0.0),
        }
    }

    fn sum(&self) -> f64 {
        match (self.nan, self.infinite) {
            (0, 0) => self.finite,
            (0, _) => f64::INFINITY,
            _ => f64::NAN,
        }
    }
}

/// Local response normalisation over neighbouring channels (Krizhevsky, Sutskever and Hinton 2012):
/// `x / (bias + alpha / size · Σ x²)^beta`.
fn eval_lrn(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let x = inputs.need(0)?;
    let Layout { channels, inner, .. } = Layout::of(x.shape())?;
    let size = node.int_or("size", 0)?;
    let size = usize::try_from(size)
        .ok()
        .filter(|&s| s > 0)
        .ok_or_else(|| Error::input(format!("size is {size}, expected a positive number of channels")))?;
    let (before, after) = ((size - 1) / 2, size / 2);
    let alpha = f64::from(node.float_or("alpha", 1e-4)?) / size as f64;
    let (beta, bias) = (f64::from(node.float_or("beta", 0.75)?), f64::from(node.float_or("bias", 1.0)?));
    // The usual exponent is a square root times the root of that, many times faster than a power.
    let power: fn(f64, f64) -> f64 =
        if beta == 0.75 { |base, _| base.sqrt() * base.sqrt().sqrt() } else { f64::powf };
    with_float!(x.dtype(), F => {
        let values = F::load(x)?;
        let mut out = room(values.len())?;
        for sample in values.chunks_exact((channels * inner).max(1)) {
            // Squares of so many channels are in the sums, and which of these the window has.
            let mut squares = filled(inner, Squares::default())?;
            let (mut first, mut end) = (0, 0);
            for c in 0..channels {
                let window = c.saturating_sub(before)..channels.min(c.saturating_add(after).saturating_add(1));
                while end < window.end {
                    squares.iter_mut().zip(&sample[end * inner..]).for_each(|(s, v)| s.add(v.to_f64()));
                    end += 1;
                }
                while first < window.start {
                    squares.iter_mut().zip(&sample[first * inner..]).for_each(|(s, v)| s.remove(v.to_f64()));
                    first += 1;
                }
                out.extend(sample[c * inner..][..inner].iter().zip(&squares).map(|(&v, s)| {
                    F::from_f64(v.to_f64() / power(bias + alpha * s.sum(), beta))
                }));
            }
        }
        Ok(vec![F::store(out, x.dtype(), x.shape())?])
    })
}

/// `(x − mean) / (standard deviation + 1e-9)` over the given axes.
fn eval_mean_variance_norm(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let x = inputs.need(0)?;
    let mut reduced = vec![false; x.rank()];
    for &axis in node.ints("axes")?.unwrap_or(&[0, 2, 3]) {
        reduced[axis_index(axis, x.rank())?] = true;
    }
    let plan = Reduction::new(x.shape(), &reduced, true);
    let average = |values: &[f64], f: fn(f64) -> f64| -> Result<Vec<f64>> {
        let sums = plan.fold(values, 0.0, |a, v| a + f(v), |a, b| a + b)?;
        Ok(sums.into_iter().map(|s| s / plan.count as f64).collect())
    };
    with_float!(x.dtype(), F => {
        let wide = f64::load(x)?;
        let means = average(&wide, |v| v)?;
        let (_, centred) = zip_values(&wide, x.shape(), &means, &plan.output, |v, m| v - m)?;
        let variances = average(&centred, |v| v * v)?;
        let divide = |v: &f64, variance: &f64| F::from_f64(v / (variance.sqrt() + 1e-9));
        let (_, out) = zip_values(&centred, x.shape(), &variances, &plan.output, divide)?;
        Ok(vec![F::store(out, x.dtype(), x.shape())?])
    })
}

fn axes_lp_norm(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    axes.unchanged();
    let x = axes.input(0);
    axes.normalise(x[axis_index(node.int_or("axis", -1)?, x.len())?]);
    Ok(())
}

/// A window over channels.
fn axes_lrn(_: &Node, axes: &mut Statement<'_>) -> Result<()> {
    axes.unchanged_but(1);
    Ok(())
}

fn axes_mean_variance_norm(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    axes.unchanged();
    let x = axes.input(0);
    for &axis in node.ints("axes")?.unwrap_or(&[0, 2, 3]) {
        axes.normalise(x[axis_index(axis, x.len())?]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Attr;
    use crate::ops::testing::{close, eval, node, with_attr};

    #[test]
    fn rows_of_zeros_stay_under_lp_normalisation() {
        let x = Tensor::new([2, 2], vec![3f32, -4.0, 0.0, 0.0]).unwrap();
        close(&eval(&node("LpNormalization", 22), &[&x]).unwrap()[0], &[0.6, -0.8, 0.0, 0.0], 1e-7);
        let op = with_attr(node("LpNormalization", 22), "p", Attr::Int(1));
        close(&eval(&op, &[&x]).unwrap()[0], &[3.0 / 7.0, -4.0 / 7.0, 0.0, 0.0], 1e-7);
    }

    #[test]
    fn local_response_looks_at_more_channels_after_than_before() {
        let x = Tensor::new([1, 3, 1], vec![1f32, 2.0, 3.0]).unwrap();
        let op = with_attr(with_attr(node("LRN", 13), "size", Attr::Int(2)), "alpha", Attr::Float(2.0));
        let y = eval(&with_attr(op, "beta", Attr::Float(1.0)), &[&x]).unwrap();
        close(&y[0], &[1.0 / 6.0, 2.0 / 14.0, 0.3], 1e-6);
    }
}
