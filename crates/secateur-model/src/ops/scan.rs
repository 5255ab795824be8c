//! Running sums and products along an axis.

use super::axes::Statement;
use super::number::{Number, wrong_type};
use super::params::single_int;
use super::unary::infer_same;
use super::{Inputs, Op, axis_index};
use crate::{Node, Result, Tensor, with_number_type};

pub(super) const OPS: &[Op] = &[
    Op::new("CumSum", 11, infer_same).axes(axes_scan).eval(|node, inputs| {
        let x = inputs.need(0)?;
        with_number_type!(x.dtype(), T => scan::<T>(node, inputs, Number::ZERO, Number::add),
            else Err(wrong_type(x.dtype())))
    }),
    Op::new("CumProd", 26, infer_same).axes(axes_scan).eval(|node, inputs| {
        let x = inputs.need(0)?;
        with_number_type!(x.dtype(), T => scan::<T>(node, inputs, Number::ONE, Number::mul),
            else Err(wrong_type(x.dtype())))
    }),
];

/// Folds along the axis of the second input and keeps each step; exclusive steps leave the element
/// itself out. The running value is kept wide.
fn scan<T: Number>(
    node: &Node,
    inputs: Inputs<'_>,
    start: T::Wide,
    step: fn(T::Wide, T::Wide) -> T::Wide,
) -> Result<Vec<Tensor>> {
    let x = inputs.need(0)?;
    let shape = x.shape();
    let axis = axis_index(single_int(inputs.need(1)?)?, shape.len())?;
    let (exclusive, reverse) = (node.int_or("exclusive", 0)? != 0, node.int_or("reverse", 0)? != 0);
    let (extent, inner) = (shape[axis], shape[axis + 1..].iter().product::<usize>());
    let mut values = x.values::<T>()?.to_vec();
    if values.is_empty() {
        return Ok(vec![x.clone()]);
    }
    let mut running = vec![start; inner];
    for block in values.chunks_exact_mut(extent * inner) {
        running.fill(start);
        for at in 0..extent {
            let row = if reverse { extent - 1 - at } else { at };
            for (v, total) in block[row * inner..][..inner].iter_mut().zip(&mut running) {
                let before = *total;
                *total = step(before, v.widen());
                *v = T::narrow(if exclusive { before } else { *total });
            }
        }
    }
    Ok(vec![Tensor::new(shape, values)?])
}

fn axes_scan(_: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let rank = axes.input(0).len();
    match axes.value(1) {
        Some(axis) => axes.unchanged_but(axis_index(single_int(axis)?, rank)?),
        None => axes.fix_everything(),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Attr;
    use crate::ops::testing::{eval, node, with_attr};

    #[test]
    fn forwards_and_backwards_with_and_without_the_element() {
        let x = Tensor::vector(vec![1i32, 2, 3]);
        let cases: [(&str, i64, i64, [i32; 3]); 8] = [
            ("CumSum", 0, 0, [1, 3, 6]),
            ("CumSum", 1, 0, [0, 1, 3]),
            ("CumSum", 0, 1, [6, 5, 3]),
            ("CumSum", 1, 1, [5, 3, 0]),
            ("CumProd", 0, 0, [1, 2, 6]),
            ("CumProd", 1, 0, [1, 1, 2]),
            ("CumProd", 0, 1, [6, 6, 3]),
            ("CumProd", 1, 1, [6, 3, 1]),
        ];
        for (name, exclusive, reverse, expected) in cases {
            let op = with_attr(node(name, 26), "exclusive", Attr::Int(exclusive));
            let op = with_attr(op, "reverse", Attr::Int(reverse));
            let y = eval(&op, &[&x, &Tensor::scalar(0i64)]).unwrap();
            assert_eq!(y[0].values::<i32>().unwrap(), expected, "{name} {exclusive} {reverse}");
        }
    }

    #[test]
    fn any_axis() {
        let x = Tensor::new([2, 2], vec![1f64, 2.0, 3.0, 4.0]).unwrap();
        let y = eval(&node("CumSum", 14), &[&x, &Tensor::scalar(0i32)]).unwrap();
        assert_eq!(y[0].values::<f64>().unwrap(), [1.0, 2.0, 4.0, 6.0]);
        let y = eval(&node("CumSum", 14), &[&x, &Tensor::scalar(-1i32)]).unwrap();
        assert_eq!(y[0].values::<f64>().unwrap(), [1.0, 3.0, 3.0, 7.0]);
        assert!(eval(&node("CumSum", 14), &[&x, &Tensor::scalar(2i32)]).is_err());
    }
}
