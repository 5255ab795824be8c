//! Operators that compare elements: the largest, the different ones.

use std::cmp::Ordering;

use super::axes::Statement;
use super::cells::{filled, len_of, room};
use super::number::wrong_type;
use super::params::{constants, single_int};
use super::pick::pick;
use super::view::View;
use super::{Fact, Facts, Inputs, Op, axis_index};
use crate::{DType, Data, Element, Error, Node, Result, Tensor, with_number_type};

pub(super) const OPS: &[Op] = &[
    Op::new("ArgMax", 1, infer_arg).axes(axes_arg).eval(eval_arg_max),
    Op::new("ArgMin", 1, infer_arg).axes(axes_arg).eval(eval_arg_min),
    Op::new("TopK", 1, infer_top_k).axes(axes_top_k).eval(eval_top_k),
    Op::new("Unique", 11, infer_unique).eval(eval_unique),
];

/// Numbers in ascending order, NaN last.
fn order<T: PartialOrd>(a: &T, b: &T) -> Ordering {
    // Only NaN is not equal to itself.
    #[allow(clippy::eq_op)]
    let is_nan = |x: &T| x != x;
    a.partial_cmp(b).unwrap_or_else(|| is_nan(a).cmp(&is_nan(b)))
}

fn arg_shape(node: &Node, shape: &[usize]) -> Result<(usize, Vec<usize>)> {
    let axis = axis_index(node.int_or("axis", 0)?, shape.len())?;
    let mut reduced = shape.to_vec();
    if node.int_or("keepdims", 1)? == 1 {
        reduced[axis] = 1;
    } else {
        reduced.remove(axis);
    }
    if shape[axis] == 0 && len_of(&reduced)? > 0 {
        return Err(Error::input(format!("axis {axis} of shape {shape:?} has no elements to compare")));
    }
    Ok((axis, reduced))
}

fn infer_arg(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let shape = inputs.need(0)?.shape().map(|shape| arg_shape(node, shape)).transpose()?;
    Ok(vec![Fact { dtype: Some(DType::I64), shape: shape.map(|(_, shape)| shape), ..Fact::default() }])
}

fn eval_arg_max(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    arg(node, inputs, Ordering::Greater)
}

fn eval_arg_min(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    arg(node, inputs, Ordering::Less)
}

/// `ArgMax` and `ArgMin`: the first (or last) position along an axis of what compares as wanted to
/// all others; NaN is taken for it, as in numpy.
fn arg(node: &Node, inputs: Inputs<'_>, wanted: Ordering) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    let (axis, shape) = arg_shape(node, data.shape())?;
    let last = node.int_or("select_last_index", 0)? != 0;
    let inner = data.shape()[axis + 1..].iter().product();
    let found = with_number_type!(data.dtype(), T => {
        arg_values(data.values::<T>()?, data.shape()[axis], inner, wanted, last)
    }, else return Err(wrong_type(data.dtype())));
    Ok(vec![Tensor::new(shape, found)?])
}

fn arg_values<T: Element + PartialOrd + Copy>(
    values: &[T],
    extent: usize,
    inner: usize,
    wanted: Ordering,
    last: bool,
) -> Vec<i64> {
    // What is not comparable is NaN: a new one beats a number, none beats a NaN that is there.
    #[allow(clippy::eq_op)]
    let better = |new: T, best: T| match new.partial_cmp(&best) {
        Some(Ordering::Equal) => last,
        Some(order) => order == wanted,
        None => new != new && (best == best || last),
    };
    let mut found = Vec::new();
    for block in values.chunks_exact((extent * inner).max(1)) {
        if inner == 1 {
            let mut at = 0;
            for (i, &value) in block.iter().enumerate().skip(1) {
                if better(value, block[at]) {
                    at = i;
                }
            }
            found.push(at as i64);
            continue;
        }
        let mut best = block[..inner].to_vec();
        let start = found.len();
        found.resize(start + inner, 0);
        for (i, row) in block.chunks_exact(inner).enumerate().skip(1) {
            for ((&value, best), found) in row.iter().zip(&mut best).zip(&mut found[start..]) {
                if better(value, *best) {
                    (*best, *found) = (value, i as i64);
                }
            }
        }
    }
    found
}

/// The axis of `TopK` and how many elements of it are taken.
fn top_k_plan(node: &Node, shape: &[usize], inputs: Inputs<'_>) -> Result<(usize, usize)> {
    let axis = axis_index(node.int_or("axis", -1)?, shape.len())?;
    let k = match inputs.get(1) {
        Some(k) => single_int(k)?,
        None => {
            node.int("k")?.ok_or_else(|| Error::input("neither the attribute nor the input `k` is there"))?
        }
    };
    let taken = usize::try_from(k).ok().filter(|&k| k <= shape[axis]);
    let taken = taken
        .ok_or_else(|| Error::input(format!("the {k} largest of {} elements (axis {axis})", shape[axis])))?;
    Ok((axis, taken))
}

fn infer_top_k(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let data = inputs.need(0)?;
    let shape = match (data.shape(), constants(inputs, 1)) {
        (Some(shape), Some(params)) => {
            let (axis, k) = top_k_plan(node, shape, Inputs(&params))?;
            let mut taken = shape.to_vec();
            taken[axis] = k;
            Some(taken)
        }
        _ => None,
    };
    let indices = Fact { dtype: Some(DType::I64), shape: shape.clone(), ..Fact::default() };
    Ok(vec![Fact { dtype: data.dtype, shape, ..Fact::default() }, indices])
}

/// `TopK`: the largest (or smallest) elements along an axis and their positions, the best first; of
/// equal ones the first.
fn eval_top_k(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    let (axis, k) = top_k_plan(node, data.shape(), inputs)?;
    let largest = node.int_or("largest", 1)? != 0;
    // The axis comes last for the time being.
    let (mut to_last, mut back): (Vec<usize>, Vec<usize>) = (0..data.rank()).map(|a| (a, a)).unzip();
    to_last.push(axis);
    to_last.remove(axis);
    back.insert(axis, data.rank() - 1);
    back.pop();
    let rows = View::of(data.shape()).permuted(&to_last).take(data)?;
    let mut shape = rows.shape().to_vec();
    let extent = shape[data.rank() - 1];
    shape[data.rank() - 1] = k;
    let indices = with_number_type!(data.dtype(), T => {
        top_indices(rows.values::<T>()?, extent, k, largest)?
    }, else return Err(wrong_type(data.dtype())));
    let values = with_number_type!(data.dtype(), T => {
        let rows = rows.values::<T>()?;
        let each = indices.iter().enumerate();
        let values: Vec<T> = each.map(|(n, &i)| rows[n / k * extent + i as usize]).collect();
        Tensor::new(shape.clone(), values)?
    }, else return Err(wrong_type(data.dtype())));
    let indices = Tensor::new(shape, indices)?;
    let ordered = |t: Tensor| View::of(t.shape()).permuted(&back).take(&t);
    Ok(vec![ordered(values)?, ordered(indices)?])
}

fn top_indices<T: PartialOrd>(rows: &[T], extent: usize, k: usize, largest: bool) -> Result<Vec<i64>> {
    let mut out = Vec::new();
    if k == 0 {
        return Ok(out);
    }
    let mut candidates: Vec<usize> = room(extent)?;
    for row in rows.chunks_exact(extent) {
        candidates.clear();
        candidates.extend(0..extent);
        let compare = |&a: &usize, &b: &usize| {
            let order = order(&row[a], &row[b]);
            (if largest { order.reverse() } else { order }).then(a.cmp(&b))
        };
        if k < extent {
            candidates.select_nth_unstable_by(k - 1, compare);
        }
        candidates[..k].sort_unstable_by(compare);
        out.extend(candidates[..k].iter().map(|&i| i as i64));
    }
    Ok(out)
}

fn infer_unique(_: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let positions = Fact::unknown(Some(DType::I64));
    Ok(vec![Fact::unknown(inputs.need(0)?.dtype), positions.clone(), positions.clone(), positions])
}

/// `Unique`: the different elements, or the different slices along an axis, sorted or in the order of
/// their first appearance; with it where each first appears, which of them each element is, and how
/// often each is there.
fn eval_unique(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    let (data, axis) = match node.int("axis")? {
        Some(axis) => (data.clone(), axis_index(axis, data.rank())?),
        None => (data.reshaped([data.len()])?, 0),
    };
    let extent = data.shape()[axis];
    let block = data.len().checked_div(extent).unwrap_or(0);
    let mut inverse = filled(extent, 0)?;
    let mut perm: Vec<usize> = (0..data.rank()).collect();
    perm.remove(axis);
    perm.insert(0, axis);
    let blocks = View::of(data.shape()).permuted(&perm).take(&data)?;
    let mut groups = match blocks.data() {
        Data::String(values) => groups(values, extent, block),
        Data::Bool(values) => groups(values, extent, block),
        _ => with_number_type!(data.dtype(), T => groups(blocks.values::<T>()?, extent, block),
            else return Err(wrong_type(data.dtype()))),
    };
    if node.int_or("sorted", 1)? == 0 {
        groups.sort_by_key(|group| group[0]);
    }
    let firsts: Vec<usize> = groups.iter().map(|group| group[0]).collect();
    for (n, group) in groups.iter().enumerate() {
        group.iter().for_each(|&i| inverse[i] = n as i64);
    }
    let counts = groups.iter().map(|group| group.len() as i64).collect();
    let mut lists = vec![None; data.rank()];
    lists[axis] = Some(firsts.clone());
    Ok(vec![
        pick(&data, &lists, None)?,
        Tensor::vector(firsts.into_iter().map(|i| i as i64).collect()),
        Tensor::vector(inverse),
        Tensor::vector(counts),
    ])
}

/// The positions of equal blocks, ascending by the blocks and in each group by position.
fn groups<T: PartialOrd>(values: &[T], extent: usize, block: usize) -> Vec<Vec<usize>> {
    let compare = |a: usize, b: usize| {
        let (a, b) = (&values[a * block..][..block], &values[b * block..][..block]);
        a.iter().zip(b).map(|(a, b)| order(a, b)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
    };
    let mut positions: Vec<usize> = (0..extent).collect();
    positions.sort_by(|&a, &b| compare(a, b));
    positions.chunk_by(|&a, &b| compare(a, b).is_eq()).map(<[usize]>::to_vec).collect()
}

/// A position along the axis comes out.
fn axes_arg(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let mut x = axes.need(0, 1)?;
    let (axis, _) = arg_shape(node, &axes.shape(0))?;
    axes.fix(x[axis]);
    let mut y = axes.output(0);
    x.remove(axis);
    if node.int_or("keepdims", 1)? == 1 {
        y.remove(axis);
    }
    axes.same_all(&x, &y);
    Ok(())
}

fn axes_top_k(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let axis = axis_index(node.int_or("axis", -1)?, axes.input(0).len())?;
    axes.unchanged_but(axis);
    axes.same_all(&axes.output(0), &axes.output(1));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{eval, node, with_attr, with_outputs};
    use super::*;
    use crate::Attr;

    const NAN: f32 = f32::NAN;

    #[test]
    fn the_first_or_last_of_equals_and_nan_wins() {
        let find = |op: &str, values: &[f32], last: i64| {
            let node = with_attr(node(op, 13), "select_last_index", Attr::Int(last));
            eval(&node, &[&Tensor::vector(values.to_vec())]).unwrap()[0].to_i64s().unwrap()[0]
        };
        assert_eq!([find("ArgMax", &[1.0, 3.0, 3.0], 0), find("ArgMax", &[1.0, 3.0, 3.0], 1)], [1, 2]);
        assert_eq!([find("ArgMin", &[1.0, 0.0, 0.0], 0), find("ArgMin", &[1.0, 0.0, 0.0], 1)], [1, 2]);
        for op in ["ArgMax", "ArgMin"] {
            assert_eq!([find(op, &[1.0, NAN, 3.0, NAN], 0), find(op, &[NAN, 1.0], 0)], [1, 0]);
        }
        let matrix = Tensor::new([2, 3], vec![1i32, 5, 2, 4, 5, 0]).unwrap();
        let columns = with_attr(node("ArgMax", 13), "keepdims", Attr::Int(0));
        assert_eq!(eval(&columns, &[&matrix]).unwrap()[0], Tensor::vector(vec![1i64, 0, 0]));
        assert!(eval(&node("ArgMax", 13), &[&Tensor::new([0, 2], Vec::<f32>::new()).unwrap()]).is_err());
    }

    #[test]
    fn the_best_of_each_row() {
        let data = Tensor::new([2, 4], vec![1f32, 3.0, 3.0, 2.0, NAN, 0.0, -1.0, 0.0]).unwrap();
        let top = |largest, axis, k| {
            let node = with_attr(with_outputs(node("TopK", 11), 2), "largest", Attr::Int(largest));
            let node = with_attr(node, "axis", Attr::Int(axis));
            eval(&node, &[&data, &Tensor::vector(vec![k])]).map(|out| out[1].to_i64s().unwrap())
        };
        assert_eq!(top(1, -1, 3).unwrap(), [1, 2, 3, 0, 1, 3]);
        assert_eq!(top(0, 1, 2).unwrap(), [0, 3, 2, 1]);
        assert_eq!(top(1, 0, 1).unwrap(), [1, 0, 0, 0]);
        assert!(top(1, 1, 0).unwrap().is_empty());
        assert!(top(1, 1, 5).is_err() && top(1, 1, -1).is_err());
        let old = with_attr(with_outputs(node("TopK", 1), 2), "k", Attr::Int(1));
        assert_eq!(eval(&old, &[&data]).unwrap()[1].to_i64s().unwrap(), [1, 0]);
    }

    #[test]
    fn different_elements_and_slices() {
        let all = |node: &Node, data: &Tensor| -> Vec<Vec<i64>> {
            eval(node, &[data]).unwrap().iter().map(|t| t.to_i64s().unwrap()).collect()
        };
        let data = Tensor::vector(vec![2i64, 1, 1, 3, 2]);
        let unique = with_outputs(node("Unique", 11), 4);
        let sorted = [vec![1, 2, 3], vec![1, 0, 3], vec![1, 0, 0, 2, 1], vec![2, 2, 1]];
        assert_eq!(all(&unique, &data), sorted);
        let unsorted = with_attr(unique.clone(), "sorted", Attr::Int(0));
        let expected = [vec![2, 1, 3], vec![0, 1, 3], vec![0, 1, 1, 2, 0], vec![2, 2, 1]];
        assert_eq!(all(&unsorted, &data), expected);
        let columns = with_attr(unique.clone(), "axis", Attr::Int(1));
        let data = Tensor::new([2, 3], vec![1i64, 0, 1, 5, 4, 5]).unwrap();
        assert_eq!(all(&columns, &data), [vec![0, 1, 4, 5], vec![1, 0], vec![1, 0, 1], vec![1, 2]]);
        let words = Tensor::vector(["b", "a", "b"].map(String::from).to_vec());
        assert_eq!(eval(&unique, &[&words]).unwrap()[0].values::<String>().unwrap(), ["a", "b"]);
    }
}
