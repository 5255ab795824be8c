//! Softmax and its relatives.

use super::axes::Statement;
use super::number::{Float, Number, with_float};
use super::reduce::fold_row;
use super::unary::infer_same;
use super::{Inputs, Op, axis_index};
use crate::{Node, Result, Tensor};

pub(super) const OPS: &[Op] = &[
    Op::new("Softmax", 1, infer_same)
        .axes(axes_softmax)
        .eval(|node, inputs| along_axis(node, inputs, Kind::Softmax)),
    Op::new("LogSoftmax", 1, infer_same)
        .axes(axes_softmax)
        .eval(|node, inputs| along_axis(node, inputs, Kind::LogSoftmax)),
    Op::new("Hardmax", 1, infer_same)
        .axes(axes_hardmax)
        .eval(|node, inputs| along_axis(node, inputs, Kind::Hardmax)),
];

#[derive(Clone, Copy)]
enum Kind {
    Softmax,
    LogSoftmax,
    /// 1 for the first of the largest elements, 0 for all others.
    Hardmax,
}

/// Before operator set 13 the input is flattened to a matrix at `axis` and its rows count; since,
/// `axis` is a single axis.
fn along_axis(node: &Node, inputs: Inputs<'_>, kind: Kind) -> Result<Vec<Tensor>> {
    let x = inputs.need(0)?;
    let flat = node.opset < 13;
    let axis = node.int_or("axis", if flat { 1 } else { -1 })?;
    let (extent, inner) = match (flat, x.shape()) {
        (_, []) => (1, 1),
        // The old definition lets the axis be the rank: rows of one element.
        (true, shape) if axis == shape.len() as i64 => (1, 1),
        (true, shape) => (shape[axis_index(axis, shape.len())?..].iter().product(), 1),
        (false, shape) => {
            let axis = axis_index(axis, shape.len())?;
            (shape[axis], shape[axis + 1..].iter().product())
        }
    };
    with_float!(x.dtype(), F => {
        let mut values = F::load(x)?.into_owned();
        if !values.is_empty() {
            apply::<F>(&mut values, extent, inner, kind);
        }
        Ok(vec![F::store(values, x.dtype(), x.shape())?])
    })
}

/// The logarithm of the softmax in place, over blocks of `extent` rows of `inner` columns.
pub(super) fn log_softmax<F: Float>(values: &mut [F], extent: usize, inner: usize) {
    if !values.is_empty() {
        apply(values, extent, inner, Kind::LogSoftmax);
    }
}

/// In place over blocks of `extent` rows of `inner` columns, each column by itself; the sums are kept
/// in f64.
fn apply<F: Float>(values: &mut [F], extent: usize, inner: usize, kind: Kind) {
    if inner == 1 {
        values.chunks_exact_mut(extent).for_each(|row| apply_row(row, kind));
        return;
    }
    let mut largest = vec![F::LOWEST; inner];
    let mut total = vec![0f64; inner];
    for block in values.chunks_exact_mut(extent * inner) {
        largest.copy_from_slice(&block[..inner]);
        for row in block[inner..].chunks_exact(inner) {
            largest.iter_mut().zip(row).for_each(|(m, &v)| *m = v.max(*m));
        }
        if let Kind::Hardmax = kind {
            // `total` says whether the column's largest element was met before.
            total.fill(0.0);
            for row in block.chunks_exact_mut(inner) {
                for ((v, &m), met) in row.iter_mut().zip(&largest).zip(&mut total) {
                    let first = *met == 0.0 && (*v == m || v.is_nan());
                    *v = if first { F::ONE } else { F::ZERO };
                    *met += v.to_f64();
                }
            }
            continue;
        }
        total.fill(0.0);
        for row in block.chunks_exact_mut(inner) {
            for ((v, &m), sum) in row.iter_mut().zip(&largest).zip(&mut total) {
                let shifted = *v - m;
                let power = shifted.exp();
                *sum += power.to_f64();
                *v = if let Kind::LogSoftmax = kind { shifted } else { power };
            }
        }
        if let Kind::LogSoftmax = kind {
            total.iter_mut().for_each(|sum| *sum = sum.ln());
        }
        for row in block.chunks_exact_mut(inner) {
            for (v, &sum) in row.iter_mut().zip(&total) {
                *v = match kind {
                    Kind::LogSoftmax => F::from_f64(v.to_f64() - sum),
                    _ => *v / F::from_f64(sum),
                };
            }
        }
    }
}

/// A single contiguous column.
fn apply_row<F: Float>(row: &mut [F], kind: Kind) {
    let largest = fold_row(row, F::LOWEST, &|m, v| Number::max(m, v), &|a, b| Number::max(a, b));
    let mut sum = 0.0;
    match kind {
        Kind::Hardmax => {
            let first = row.iter().position(|v| *v == largest || v.is_nan());
            row.fill(F::ZERO);
            first.into_iter().for_each(|at| row[at] = F::ONE);
        }
        Kind::Softmax => {
            for v in row.iter_mut() {
                *v = (*v - largest).exp();
                sum += v.to_f64();
            }
            row.iter_mut().for_each(|v| *v = *v / F::from_f64(sum));
        }
        Kind::LogSoftmax => {
            for v in row.iter_mut() {
                *v = *v - largest;
                sum += v.exp().to_f64();
            }
            let logarithm = sum.ln();
            row.iter_mut().for_each(|v| *v = F::from_f64(v.to_f64() - logarithm));
        }
    }
}

/// The axes that are normalised over: one, before operator set 13 it and all after it.
fn normalised_axes(node: &Node, rank: usize) -> Result<std::ops::Range<usize>> {
    let flat = node.opset < 13;
    let axis = node.int_or("axis", if flat { 1 } else { -1 })?;
    if rank == 0 || (flat && axis == rank as i64) {
        return Ok(rank..rank);
    }
    let axis = axis_index(axis, rank)?;
    Ok(axis..if flat { rank } else { axis + 1 })
}

fn axes_softmax(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    axes.unchanged();
    let x = axes.input(0);
    normalised_axes(node, x.len())?.for_each(|axis| axes.normalise(x[axis]));
    Ok(())
}

/// The first of equals wins.
fn axes_hardmax(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    axes.unchanged();
    let x = axes.input(0);
    normalised_axes(node, x.len())?.for_each(|axis| axes.fix(x[axis]));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Attr;
    use crate::ops::testing::{close, eval, node, with_attr};

    #[test]
    fn old_sets_flatten_and_new_ones_take_one_axis() {
        let x = Tensor::new([1, 2, 2], vec![0f32; 4]).unwrap();
        close(&eval(&node("Softmax", 11), &[&x]).unwrap()[0], &[0.25; 4], 1e-7);
        close(&eval(&node("Softmax", 13), &[&x]).unwrap()[0], &[0.5; 4], 1e-7);
        let last = with_attr(node("Softmax", 11), "axis", Attr::Int(3));
        close(&eval(&last, &[&x]).unwrap()[0], &[1.0; 4], 1e-7);
        let x = Tensor::new([2, 2], vec![0f32, 1.0, 1f32.exp().ln(), 2.0]).unwrap();
        let first = with_attr(node("LogSoftmax", 13), "axis", Attr::Int(0));
        let (low, high) = (-(1.0 + 1f64.exp()).ln(), 1.0 - (1.0 + 1f64.exp()).ln());
        close(&eval(&first, &[&x]).unwrap()[0], &[low, low, high, high], 1e-6);
    }

    #[test]
    fn large_inputs_do_not_overflow() {
        let x = Tensor::vector(vec![1e30f32, 0.0, f32::NEG_INFINITY]);
        close(&eval(&node("Softmax", 13), &[&x]).unwrap()[0], &[1.0, 0.0, 0.0], 0.0);
        let x = Tensor::vector(vec![1000f64, 1000.0]);
        close(&eval(&node("LogSoftmax", 13), &[&x]).unwrap()[0], &[-(2f64.ln()); 2], 1e-7);
    }

    #[test]
    fn hardmax_takes_the_first_of_equals() {
        let x = Tensor::new([2, 3], vec![1f32, 3.0, 3.0, 2.0, 0.0, 1.0]).unwrap();
        close(&eval(&node("Hardmax", 13), &[&x]).unwrap()[0], &[0.0, 1.0, 0.0, 1.0, 0.0, 0.0], 0.0);
        let columns = with_attr(node("Hardmax", 13), "axis", Attr::Int(0));
        close(&eval(&columns, &[&x]).unwrap()[0], &[0.0, 1.0, 1.0, 1.0, 0.0, 0.0], 0.0);
    }

    #[test]
    fn columns_are_rows_of_the_transpose() {
        let at = |row: usize, column: usize| ((row * 7 + column * 3) % 5) as f64 - 2.0;
        let rows = Tensor::new([2, 3], (0..6).map(|i| at(i / 3, i % 3)).collect::<Vec<_>>()).unwrap();
        let columns = Tensor::new([3, 2], (0..6).map(|i| at(i % 2, i / 2)).collect::<Vec<_>>()).unwrap();
        for name in ["Softmax", "LogSoftmax", "Hardmax"] {
            let by_row = eval(&node(name, 13), &[&rows]).unwrap();
            let first = with_attr(node(name, 13), "axis", Attr::Int(0));
            let by_column = eval(&first, &[&columns]).unwrap();
            let (by_row, by_column) =
                (by_row[0].values::<f64>().unwrap(), by_column[0].values::<f64>().unwrap());
            let transposed: Vec<f64> = (0..6).map(|i| by_column[i % 3 * 2 + i / 3]).collect();
            close(&Tensor::vector(transposed), by_row, 1e-7);
        }
    }

    #[test]
    fn nothing_stays_nothing() {
        let x = Tensor::new([2, 0], Vec::<f32>::new()).unwrap();
        assert_eq!(eval(&node("Softmax", 13), &[&x]).unwrap()[0].shape(), [2, 0]);
    }
}
