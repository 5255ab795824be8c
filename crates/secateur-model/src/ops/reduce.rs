//! Reductions over axes.

use super::axes::Statement;
use super::cells::{filled, len_of};
use super::number::{Number, wrong_type};
use super::{Fact, Facts, Inputs, Op, axis_index};
use crate::{DType, Node, Result, Tensor, with_number_type};

pub(super) const OPS: &[Op] = &[
    Op::new("ReduceSum", 1, infer_reduce)
        .axes(axes_reduce)
        .eval(|node, inputs| reduce(node, inputs, Kind::Sum)),
    Op::new("ReduceMean", 1, infer_reduce)
        .axes(axes_reduce)
        .eval(|node, inputs| reduce(node, inputs, Kind::Mean)),
    Op::new("ReduceMax", 1, infer_reduce)
        .axes(axes_reduce)
        .eval(|node, inputs| reduce(node, inputs, Kind::Max)),
    Op::new("ReduceMin", 1, infer_reduce)
        .axes(axes_reduce)
        .eval(|node, inputs| reduce(node, inputs, Kind::Min)),
    Op::new("ReduceProd", 1, infer_reduce)
        .axes(axes_reduce)
        .eval(|node, inputs| reduce(node, inputs, Kind::Prod)),
    Op::new("ReduceL1", 1, infer_reduce)
        .axes(axes_reduce)
        .eval(|node, inputs| reduce(node, inputs, Kind::L1)),
    Op::new("ReduceL2", 1, infer_reduce)
        .axes(axes_reduce)
        .eval(|node, inputs| reduce(node, inputs, Kind::L2)),
    Op::new("ReduceLogSum", 1, infer_reduce)
        .axes(axes_reduce)
        .eval(|node, inputs| reduce(node, inputs, Kind::LogSum)),
    Op::new("ReduceLogSumExp", 1, infer_reduce)
        .axes(axes_reduce)
        .eval(|node, inputs| reduce(node, inputs, Kind::LogSumExp)),
    Op::new("ReduceSumSquare", 1, infer_reduce)
        .axes(axes_reduce)
        .eval(|node, inputs| reduce(node, inputs, Kind::SumSquare)),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sum,
    Mean,
    Max,
    Min,
    Prod,
    L1,
    L2,
    LogSum,
    LogSumExp,
    SumSquare,
}

/// Which axes of a shape are reduced.
pub(super) struct Reduction {
    /// The shape without reduced axes, or with extents of 1 in their place.
    pub(super) output: Vec<usize>,
    /// Elements of the input for each of the output.
    pub(super) count: usize,
    /// Adjacent axes merged: extent, and whether it is reduced.
    axes: Vec<(usize, bool)>,
}

impl Reduction {
    /// A reduction of some axes of a shape.
    pub(super) fn new(shape: &[usize], reduced: &[bool], keep: bool) -> Self {
        let mut axes: Vec<(usize, bool)> = Vec::new();
        for (&extent, &reduced) in shape.iter().zip(reduced) {
            match axes.last_mut() {
                Some((length, kind)) if *kind == reduced => *length *= extent,
                _ => axes.push((extent, reduced)),
            }
        }
        Reduction {
            output: reduced_shape(shape, reduced, keep),
            count: shape.iter().zip(reduced).filter(|(_, reduced)| **reduced).map(|(d, _)| d).product(),
            axes,
        }
    }

    /// Folds the elements of each output; `start` must be neutral to `step` and `merge`, since long
    /// rows are folded in several lanes at once.
    pub(super) fn fold<T: Copy, A: Copy>(
        &self,
        values: &[T],
        start: A,
        step: impl Fn(A, T) -> A,
        merge: impl Fn(A, A) -> A,
    ) -> Result<Vec<A>> {
        let mut out = filled(len_of(&self.output)?, start)?;
        if !values.is_empty() {
            fold_axes(values, &self.axes, &mut out, start, &step, &merge);
        }
        Ok(out)
    }
}

fn reduced_shape(shape: &[usize], reduced: &[bool], keep: bool) -> Vec<usize> {
    let extents = shape.iter().zip(reduced);
    extents.filter_map(|(&d, &reduced)| if reduced { keep.then_some(1) } else { Some(d) }).collect()
}

fn fold_axes<T: Copy, A: Copy>(
    values: &[T],
    axes: &[(usize, bool)],
    out: &mut [A],
    start: A,
    step: &impl Fn(A, T) -> A,
    merge: &impl Fn(A, A) -> A,
) {
    match axes {
        [] | [(_, false)] => out.iter_mut().zip(values).for_each(|(o, &v)| *o = step(*o, v)),
        [(_, true)] => out[0] = merge(out[0], fold_row(values, start, step, merge)),
        [(extent, true), rest @ ..] => {
            for part in values.chunks_exact(values.len() / extent) {
                fold_axes(part, rest, out, start, step, merge);
            }
        }
        [(extent, false), rest @ ..] => {
            let each = out.len() / extent;
            for (part, out) in values.chunks_exact(values.len() / extent).zip(out.chunks_exact_mut(each)) {
                fold_axes(part, rest, out, start, step, merge);
            }
        }
    }
}

/// A row folded in eight lanes, so that no step waits for the one before; in an order that depends
/// on the length only.
pub(super) fn fold_row<T: Copy, A: Copy>(
    values: &[T],
    start: A,
    step: &impl Fn(A, T) -> A,
    merge: &impl Fn(A, A) -> A,
) -> A {
    let (chunks, rest) = values.as_chunks::<8>();
    let mut lanes = [start; 8];
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = step(*lane, value);
        }
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    let folded = merge(merge(merge(a, b), merge(c, d)), merge(merge(e, f), merge(g, h)));
    rest.iter().fold(folded, |sum, &value| step(sum, value))
}

/// Which axes a node reduces: an attribute in older operator sets, an input in newer ones; `None`
/// where that input is not known yet.
fn reduced_axes(node: &Node, rank: usize, axes: Option<Option<&Tensor>>) -> Result<Option<Vec<bool>>> {
    let axes = match (node.ints("axes")?, axes) {
        (Some(axes), _) => axes.to_vec(),
        (None, Some(Some(axes))) => axes.to_i64s()?,
        (None, Some(None)) => Vec::new(),
        (None, None) => return Ok(None),
    };
    if axes.is_empty() {
        return Ok(Some(vec![node.int_or("noop_with_empty_axes", 0)? == 0; rank]));
    }
    let mut reduced = vec![false; rank];
    for axis in axes {
        reduced[axis_index(axis, rank)?] = true;
    }
    Ok(Some(reduced))
}

fn infer_reduce(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let data = inputs.need(0)?;
    let Some(shape) = data.shape() else { return Ok(vec![Fact::unknown(data.dtype)]) };
    let keep = node.int_or("keepdims", 1)? == 1;
    let axes = match inputs.get(1) {
        None => Some(None),
        Some(fact) => fact.value.as_ref().map(Some),
    };
    let reduced = reduced_axes(node, shape.len(), axes)?;
    let shape = reduced.map(|reduced| reduced_shape(shape, &reduced, keep));
    Ok(vec![Fact { dtype: data.dtype, shape, ..Fact::default() }])
}

fn reduce(node: &Node, inputs: Inputs<'_>, kind: Kind) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    let keep = node.int_or("keepdims", 1)? == 1;
    let reduced = reduced_axes(node, data.rank(), Some(inputs.get(1)))?.unwrap_or_default();
    let plan = Reduction::new(data.shape(), &reduced, keep);
    let out = match data.dtype() {
        DType::Bool => {
            let values = data.values::<bool>()?;
            let out = match kind {
                Kind::Max => plan.fold(values, false, |a, v| a | v, |a, b| a | b)?,
                Kind::Min => plan.fold(values, true, |a, v| a & v, |a, b| a & b)?,
                _ => return Err(wrong_type(DType::Bool)),
            };
            Tensor::new(plan.output, out)
        }
        dtype => with_number_type!(dtype, T => {
            let out = reduce_numbers(data.values::<T>()?, &plan, kind)?;
            Tensor::new(plan.output, out)
        }, else Err(wrong_type(dtype))),
    };
    Ok(vec![out?])
}

/// Sums and products are kept in the type's [`Number::Wide`] and rounded once.
fn reduce_numbers<T: Number>(values: &[T], plan: &Reduction, kind: Kind) -> Result<Vec<T>> {
    let zero = T::Wide::ZERO;
    let add = |a: T::Wide, b: T::Wide| a.add(b);
    let narrow = |wide: Vec<T::Wide>| wide.into_iter().map(T::narrow).collect();
    let through_f64 = |wide: Vec<T::Wide>, f: fn(f64) -> f64| {
        wide.into_iter().map(|w| T::from_f64(f(w.to_f64()))).collect()
    };
    let sum = || plan.fold(values, zero, |a, v| a.add(v.widen()), add);
    let sum_of_squares = || plan.fold(values, zero, |a, v| a.add(v.widen().mul(v.widen())), add);
    Ok(match kind {
        Kind::Max => plan.fold(values, T::LOWEST, T::max, T::max)?,
        Kind::Min => plan.fold(values, T::HIGHEST, T::min, T::min)?,
        Kind::Sum => narrow(sum()?),
        Kind::Prod => narrow(plan.fold(values, T::Wide::ONE, |a, v| a.mul(v.widen()), |a, b| a.mul(b))?),
        Kind::L1 => narrow(plan.fold(values, zero, |a, v| a.add(v.widen().abs()), add)?),
        Kind::SumSquare => narrow(sum_of_squares()?),
        Kind::L2 => through_f64(sum_of_squares()?, f64::sqrt),
        Kind::LogSum => through_f64(sum()?, f64::ln),
        Kind::Mean if T::INTEGER && plan.count == 0 => narrow(sum()?),
        Kind::Mean => {
            let count = T::Wide::from_f64(plan.count as f64);
            narrow(sum()?.into_iter().map(|s| s.div(count)).collect())
        }
        Kind::LogSumExp => plan
            .fold(values, LogSum::EMPTY, |a, v| a.merge(LogSum { max: v.to_f64(), sum: 1.0 }), LogSum::merge)?
            .into_iter()
            .map(|s| T::from_f64(s.max + s.sum.ln()))
            .collect(),
    })
}

/// `exp(max) · sum`, which neither over- nor underflows.
#[derive(Clone, Copy)]
struct LogSum {
    max: f64,
    sum: f64,
}

impl LogSum {
    const EMPTY: LogSum = LogSum { max: f64::NEG_INFINITY, sum: 0.0 };

    fn merge(self, other: LogSum) -> LogSum {
        if self.max == other.max {
            return LogSum { max: self.max, sum: self.sum + other.sum };
        }
        let (high, low) = if other.max > self.max { (other, self) } else { (self, other) };
        LogSum { max: high.max, sum: high.sum + low.sum * (low.max - high.max).exp() }
    }
}

/// The order of what is reduced does not matter.
fn axes_reduce(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let x = axes.input(0);
    let listed = if axes.has_input(1) { axes.value(1).map(Some) } else { Some(None) };
    let Some(reduced) = reduced_axes(node, x.len(), listed)? else {
        axes.fix_everything();
        return Ok(());
    };
    let keep = node.int_or("keepdims", 1)? == 1;
    let left = x.into_iter().zip(&reduced).filter(|(_, reduced)| keep || !**reduced);
    let pairs: Vec<_> = left.zip(axes.output(0)).filter(|((_, reduced), _)| !**reduced).collect();
    pairs.into_iter().for_each(|((from, _), to)| axes.same(from, to));
    Ok(())
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::Attr;
    use crate::ops::testing::{close, eval, node, with_attr};

    fn counted(shape: &[usize]) -> Tensor {
        Tensor::new(shape, (0..shape.iter().product::<usize>()).map(|v| v as f32).collect()).unwrap()
    }

    #[test]
    fn every_set_of_axes_gives_the_naive_sum() {
        let shape = [2, 3, 4, 5];
        let x = counted(&shape);
        for mask in 0..16u32 {
            let axes: Vec<i64> = (0..4).filter(|a| mask >> a & 1 == 1).collect();
            let op = with_attr(node("ReduceSum", 13), "noop_with_empty_axes", Attr::Int(1));
            let y = eval(&op, &[&x, &Tensor::vector(axes)]).unwrap();
            let kept: Vec<usize> = (0..4).map(|a| if mask >> a & 1 == 1 { 1 } else { shape[a] }).collect();
            assert_eq!(y[0].shape(), kept);
            let mut sums = vec![0.0; kept.iter().product()];
            for flat in 0..120 {
                let (mut rest, mut at, mut step) = (flat, 0, 1);
                for a in (0..4).rev() {
                    at += if kept[a] == 1 { 0 } else { rest % shape[a] * step };
                    step *= kept[a];
                    rest /= shape[a];
                }
                sums[at] += flat as f64;
            }
            close(&y[0], &sums, 1e-7);
        }
    }

    #[test]
    fn axes_are_an_attribute_or_an_input() {
        let x = counted(&[2, 3]);
        let old = with_attr(
            with_attr(node("ReduceMean", 11), "axes", Attr::Ints(vec![-1])),
            "keepdims",
            Attr::Int(0),
        );
        let y = eval(&old, &[&x]).unwrap();
        assert_eq!((y[0].shape(), y[0].values::<f32>().unwrap()), (&[2][..], &[1.0, 4.0][..]));
        let y = eval(&node("ReduceMean", 18), &[&x, &Tensor::vector(vec![0i64])]).unwrap();
        assert_eq!((y[0].shape(), y[0].values::<f32>().unwrap()), (&[1, 3][..], &[1.5, 2.5, 3.5][..]));
        assert!(eval(&node("ReduceMean", 18), &[&x, &Tensor::vector(vec![2i64])]).is_err());
    }

    #[test]
    fn nothing_reduced_still_applies_the_composite() {
        let x = Tensor::vector(vec![3f32, -4.0]);
        let op = with_attr(node("ReduceSumSquare", 18), "noop_with_empty_axes", Attr::Int(1));
        assert_eq!(eval(&op, &[&x]).unwrap()[0].values::<f32>().unwrap(), [9.0, 16.0]);
    }

    #[test]
    fn empty_sets_give_the_neutral_element() {
        let x = Tensor::new([2, 0], Vec::<f32>::new()).unwrap();
        let axes = Tensor::vector(vec![1i64]);
        for (name, expected) in [
            ("ReduceSum", 0.0),
            ("ReduceProd", 1.0),
            ("ReduceMax", f64::NEG_INFINITY),
            ("ReduceMin", f64::INFINITY),
            ("ReduceLogSum", f64::NEG_INFINITY),
            ("ReduceLogSumExp", f64::NEG_INFINITY),
            ("ReduceL2", 0.0),
            ("ReduceMean", f64::NAN),
        ] {
            close(&eval(&node(name, 20), &[&x, &axes]).unwrap()[0], &[expected; 2], 0.0);
        }
        let x = Tensor::new([0], Vec::<bool>::new()).unwrap();
        assert_eq!(eval(&node("ReduceMin", 20), &[&x]).unwrap()[0].values::<bool>().unwrap(), [true]);
        let x = Tensor::new([0], Vec::<u8>::new()).unwrap();
        assert_eq!(eval(&node("ReduceMax", 20), &[&x]).unwrap()[0].values::<u8>().unwrap(), [0]);
    }

    #[test]
    fn sums_are_kept_wide() {
        let x = Tensor::vector(vec![f16::from_f32(1.0); 4096]);
        assert_eq!(eval(&node("ReduceSum", 13), &[&x]).unwrap()[0].to_f32s().unwrap(), [4096.0]);
        let x = Tensor::vector(vec![100i8, 100, -100, 50]);
        assert_eq!(eval(&node("ReduceMean", 13), &[&x]).unwrap()[0].values::<i8>().unwrap(), [37]);
    }

    #[test]
    fn log_sum_exp_does_not_overflow() {
        let x = Tensor::vector(vec![1000f32, 1000.0, f32::NEG_INFINITY]);
        close(&eval(&node("ReduceLogSumExp", 18), &[&x]).unwrap()[0], &[1000.0 + 2f64.ln()], 1e-7);
        let x = Tensor::vector(vec![f32::INFINITY, 0.0]);
        close(&eval(&node("ReduceLogSumExp", 18), &[&x]).unwrap()[0], &[f64::INFINITY], 0.0);
        let x = Tensor::vector(vec![f32::NAN, 0.0, 1.0]);
        close(&eval(&node("ReduceLogSumExp", 18), &[&x]).unwrap()[0], &[f64::NAN], 0.0);
    }

    #[test]
    fn maxima_keep_nan_and_long_rows() {
        let mut values: Vec<f32> = (0..101).map(|v| v as f32).collect();
        let x = Tensor::vector(values.clone());
        close(&eval(&node("ReduceMax", 18), &[&x]).unwrap()[0], &[100.0], 0.0);
        values[3] = f32::NAN;
        close(&eval(&node("ReduceMax", 18), &[&Tensor::vector(values)]).unwrap()[0], &[f64::NAN], 0.0);
    }
}
