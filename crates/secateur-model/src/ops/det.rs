//! Determinants.

use super::cells::{filled, len_of};
use super::number::Float;
use super::{Fact, Facts, Inputs, Op};
use crate::{Error, Node, Result, Tensor};

pub(super) const OPS: &[Op] = &[Op::new("Det", 11, infer_det).eval(eval_det)];

/// The axes before the matrices, and the matrices' order.
fn matrices(shape: &[usize]) -> Result<(&[usize], usize)> {
    match shape {
        [batch @ .., rows, columns] if rows == columns => Ok((batch, *rows)),
        _ => Err(Error::input(format!("expected square matrices, found the shape {shape:?}"))),
    }
}

fn infer_det(_: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let x = inputs.need(0)?;
    let shape = x.shape().map(|shape| matrices(shape).map(|(batch, _)| batch.to_vec())).transpose()?;
    Ok(vec![Fact { dtype: x.dtype, shape, ..Fact::default() }])
}

fn eval_det(_: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let x = inputs.need(0)?;
    let (batch, order) = matrices(x.shape())?;
    let values = f64::load(x)?;
    let out = match order {
        0 => filled(len_of(batch)?, 1.0)?,
        _ => values.chunks_exact(order * order).map(|m| determinant(m.to_vec(), order)).collect(),
    };
    Ok(vec![f64::store(out, x.dtype(), batch)?])
}

/// By elimination with the largest pivot of each column.
fn determinant(mut m: Vec<f64>, order: usize) -> f64 {
    let mut det = 1.0;
    for k in 0..order {
        let pivot = (k..order).max_by(|&a, &b| m[a * order + k].abs().total_cmp(&m[b * order + k].abs()));
        let pivot = pivot.unwrap_or(k);
        if pivot != k {
            for column in 0..order {
                m.swap(k * order + column, pivot * order + column);
            }
            det = -det;
        }
        let top = m[k * order + k];
        det *= top;
        if top == 0.0 {
            return 0.0;
        }
        for row in k + 1..order {
            let factor = m[row * order + k] / top;
            for column in k + 1..order {
                m[row * order + column] -= factor * m[k * order + column];
            }
        }
    }
    det
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{close, eval, node};

    #[test]
    fn determinants() {
        let x = Tensor::new([3, 2, 2], vec![0f32, 1.0, 2.0, 3.0, 1.0, 2.0, 2.0, 4.0, 2.0, 0.0, 0.0, 3.0])
            .unwrap();
        let y = eval(&node("Det", 22), &[&x]).unwrap();
        assert_eq!(y[0].shape(), [3]);
        close(&y[0], &[-2.0, 0.0, 6.0], 1e-7);
        let x = Tensor::new([3, 3], vec![2f32, -1.0, 0.0, 1.0, 3.0, 2.0, 0.0, 5.0, -4.0]).unwrap();
        close(&eval(&node("Det", 22), &[&x]).unwrap()[0], &[-48.0], 1e-6);
        assert!(eval(&node("Det", 22), &[&Tensor::vector(vec![1f32])]).is_err());
    }
}
