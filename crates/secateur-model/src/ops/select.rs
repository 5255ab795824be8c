//! Operators that choose among elements by conditions and lengths.

use super::axes::{Statement, pointwise};
use super::broadcast::Broadcast;
use super::cast::convert;
use super::cells::{Cell, room, with_cell};
use super::gather::position;
use super::{Fact, Facts, Inputs, Op, axis_index, broadcast};
use crate::tensor::strides;
use crate::{DType, Error, Node, Result, Tensor};

pub(super) const OPS: &[Op] = &[
    Op::new("Where", 9, infer_where).types(&[&[1, 2]]).axes(pointwise).eval(eval_where),
    Op::new("NonZero", 9, infer_non_zero).eval(eval_non_zero),
    Op::new("ReverseSequence", 10, infer_reverse_sequence)
        .axes(axes_reverse_sequence)
        .eval(eval_reverse_sequence),
];

fn infer_where(_: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let dtype = inputs.need(1)?.dtype.or(inputs.need(2)?.dtype);
    let shape = match (inputs.shape(0), inputs.shape(1), inputs.shape(2)) {
        (Some(a), Some(b), Some(c)) => Some(broadcast(&[a, b, c])?),
        _ => None,
    };
    Ok(vec![Fact { dtype, shape, ..Fact::default() }])
}

/// `Where`: from the second input where the condition is true, from the third elsewhere.
fn eval_where(_: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let (condition, yes, no) = (inputs.need(0)?, inputs.need(1)?, inputs.need(2)?);
    if yes.dtype() != no.dtype() {
        return Err(Error::input(format!("cannot choose between {} and {}", yes.dtype(), no.dtype())));
    }
    let plan = Broadcast::new([condition.shape(), yes.shape(), no.shape()])?;
    let condition = condition.values::<bool>()?;
    with_cell!(yes.dtype(), C => {
        let cells = choose(&plan, condition, &C::open(yes)?, &C::open(no)?)?;
        Ok(vec![C::close(yes.dtype(), plan.shape, cells)?])
    })
}

fn choose<C: Cell>(plan: &Broadcast<3>, condition: &[bool], yes: &[C], no: &[C]) -> Result<Vec<C>> {
    let mut out = room(plan.len())?;
    let steps = plan.steps();
    plan.rows(|[c, y, n], len| match steps {
        [0, ..] => {
            let (from, at, step) = if condition[c] { (yes, y, steps[1]) } else { (no, n, steps[2]) };
            match step {
                0 => out.extend(std::iter::repeat_n(&from[at], len).cloned()),
                _ => out.extend_from_slice(&from[at..at + len]),
            }
        }
        [_, 1, 1] => out.extend(
            condition[c..c + len]
                .iter()
                .zip(yes[y..y + len].iter().zip(&no[n..n + len]))
                .map(|(&c, (y, n))| if c { y.clone() } else { n.clone() }),
        ),
        [_, y_step, n_step] => out.extend((0..len).map(|i| {
            if condition[c + i] { yes[y + i * y_step].clone() } else { no[n + i * n_step].clone() }
        })),
    });
    Ok(out)
}

/// How many columns there are follows from the elements alone.
fn infer_non_zero(_: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    Ok(vec![match inputs.value(0) {
        Some(data) => Fact::new(DType::I64, [data.rank(), count(convert(data, DType::Bool)?.values()?)]),
        None => Fact::unknown(Some(DType::I64)),
    }])
}

fn count(set: &[bool]) -> usize {
    set.iter().filter(|&&set| set).count()
}

/// `NonZero`: the coordinates of all elements but zeros, one column an element.
fn eval_non_zero(_: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    let set = convert(data, DType::Bool)?;
    let set = set.values::<bool>()?;
    let count = count(set);
    let mut out = room(count * data.rank())?;
    for (&extent, step) in data.shape().iter().zip(strides(data.shape())) {
        let places = set.iter().enumerate().filter(|(_, set)| **set);
        out.extend(places.map(|(place, _)| (place / step % extent) as i64));
    }
    Ok(vec![Tensor::new([data.rank(), count], out)?])
}

fn infer_reverse_sequence(_: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let data = inputs.need(0)?;
    Ok(vec![Fact { dtype: data.dtype, shape: data.shape.clone(), ..Fact::default() }])
}

/// `ReverseSequence` turns round the first steps of each batch, as many as its length.
fn eval_reverse_sequence(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let (data, lengths) = (inputs.need(0)?, inputs.need(1)?.to_i64s()?);
    let axis = |name, default| axis_index(node.int_or(name, default)?, data.rank());
    let (batch, time) = (axis("batch_axis", 1)?, axis("time_axis", 0)?);
    if batch.max(time) != 1 || batch == time {
        return Err(Error::input(format!("batch axis {batch} and time axis {time}: expected 0 and 1")));
    }
    let (batches, steps) = (data.shape()[batch], data.shape()[time]);
    if lengths.len() != batches {
        return Err(Error::input(format!("{} lengths for a batch of {batches}", lengths.len())));
    }
    let lengths = lengths.into_iter().map(|l| position(l, steps + 1)).collect::<Result<Vec<_>>>()?;
    let block: usize = data.shape()[2..].iter().product();
    with_cell!(data.dtype(), C => {
        let cells = C::open(data)?;
        let mut out = room(data.len())?;
        for row in 0..batches * steps {
            let (b, t) = if batch == 0 { (row / steps, row % steps) } else { (row % batches, row / batches) };
            let t = if t < lengths[b] { lengths[b] - 1 - t } else { t };
            let from = if batch == 0 { b * steps + t } else { t * batches + b };
            out.extend_from_slice(&cells[from * block..][..block]);
        }
        Ok(vec![C::close(data.dtype(), data.shape().to_vec(), out)?])
    })
}

fn axes_reverse_sequence(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let data = axes.need(0, 2)?;
    let axis = |name, default| axis_index(node.int_or(name, default)?, data.len());
    let (batch, time) = (axis("batch_axis", 1)?, axis("time_axis", 0)?);
    axes.unchanged_but(time);
    axes.along(1, data[batch]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{eval, node, with_attr};
    use super::*;
    use crate::Attr;

    #[test]
    fn where_broadcasts_all_three() {
        let (yes, no) = (Tensor::vector(vec![1i64, 2, 3]), Tensor::scalar(0i64));
        let choose = |shape: &[usize], condition: &[bool]| {
            let condition = Tensor::new(shape, condition.to_vec()).unwrap();
            let out = eval(&node("Where", 16), &[&condition, &yes, &no]).unwrap();
            (out[0].shape().to_vec(), out[0].to_i64s().unwrap())
        };
        assert_eq!(choose(&[2, 1], &[true, false]), (vec![2, 3], vec![1, 2, 3, 0, 0, 0]));
        assert_eq!(choose(&[3], &[true, false, true]), (vec![3], vec![1, 0, 3]));
        assert_eq!(choose(&[], &[false]), (vec![3], vec![0, 0, 0]));
        assert!(eval(&node("Where", 16), &[&Tensor::scalar(true), &yes, &Tensor::scalar(0f32)]).is_err());
    }

    #[test]
    fn coordinates_of_what_is_not_zero() {
        let data = Tensor::new([2, 2], vec![-0f32, 3.0, f32::NAN, 0.0]).unwrap();
        let out = eval(&node("NonZero", 13), &[&data]).unwrap();
        assert_eq!(out[0], Tensor::new([2, 2], vec![0i64, 1, 1, 0]).unwrap());
        let scalar = eval(&node("NonZero", 13), &[&Tensor::scalar(5i32)]).unwrap();
        assert_eq!(scalar[0].shape(), [0, 1]);
    }

    #[test]
    fn sequences_turn_round() {
        let data = Tensor::new([2, 3], (0..6i64).collect()).unwrap();
        let lengths = |values: &[i64]| Tensor::vector(values.to_vec());
        let by_rows = with_attr(node("ReverseSequence", 10), "batch_axis", Attr::Int(0));
        let by_rows = with_attr(by_rows, "time_axis", Attr::Int(1));
        let out = eval(&by_rows, &[&data, &lengths(&[2, 3])]).unwrap();
        assert_eq!(out[0].to_i64s().unwrap(), [1, 0, 2, 5, 4, 3]);
        let out = eval(&node("ReverseSequence", 10), &[&data, &lengths(&[1, 2, 2])]).unwrap();
        assert_eq!(out[0].to_i64s().unwrap(), [0, 4, 5, 3, 1, 2]);
        assert!(eval(&by_rows, &[&data, &lengths(&[4, 1])]).is_err());
    }
}
