//! `Transpose`, `Slice`, `Expand` and `Tile`: operators that are one strided view.

use super::axes::{Slot, Statement};
use super::cells::len_of;
use super::params::{infer_one, ints, need_ints, shape_from};
use super::view::View;
use super::{Fact, Facts, Inputs, Op, Passes, axis_index, broadcast};
use crate::{Error, Node, Result, Tensor};

pub(super) const OPS: &[Op] = &[
    Op::new("Transpose", 1, infer_transpose)
        .axes(axes_transpose)
        .passes(Passes::Moved)
        .eval(eval_transpose)
        .views(|node, shape, _| Ok(Some(vec![transpose_view(node, shape)?]))),
    Op::new("Slice", 1, infer_slice)
        .axes(axes_slice)
        .passes(Passes::Part)
        .eval(eval_slice)
        .views(|node, shape, inputs| Ok(Some(vec![slice_view(node, shape, inputs)?]))),
    Op::new("Expand", 8, infer_expand).axes(axes_expand).eval(eval_expand),
    Op::new("Tile", 6, infer_tile).axes(axes_tile).eval(eval_tile),
];

/// `Transpose`: axis `perm[k]` of the input becomes axis k; without `perm` the order is reversed.
fn transpose_view(node: &Node, shape: &[usize]) -> Result<View> {
    let perm = match node.ints("perm")? {
        None => (0..shape.len()).rev().collect(),
        Some(perm) => {
            let axes = perm.iter().map(|&p| axis_index(p, shape.len())).collect::<Result<Vec<_>>>()?;
            let mut sorted = axes.clone();
            sorted.sort_unstable();
            if !sorted.iter().copied().eq(0..shape.len()) {
                return Err(Error::input(format!("perm {perm:?} does not order the axes of {shape:?}")));
            }
            axes
        }
    };
    Ok(View::of(shape).permuted(&perm))
}

fn infer_transpose(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    infer_one(inputs, |shape, _| Ok(transpose_view(node, shape)?.shape))
}

fn eval_transpose(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    Ok(vec![transpose_view(node, data.shape())?.take(data)?])
}

/// What `Slice` takes of an axis: `len` elements from `start` on, `step` apart.
struct Cut {
    axis: usize,
    start: usize,
    step: i64,
    len: usize,
}

/// `Slice` from attributes (operator set 1) or inputs (10): bounds count from the end where negative
/// and are clamped; a negative step walks backwards.
fn slice_plan(node: &Node, shape: &[usize], inputs: Inputs<'_>) -> Result<Vec<Cut>> {
    let starts = need_ints(node, "starts", inputs, 1)?;
    let ends = need_ints(node, "ends", inputs, 2)?;
    let axes = ints(node, "axes", inputs, 3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = inputs.get(4).map(Tensor::to_i64s).transpose()?.unwrap_or_else(|| vec![1; starts.len()]);
    if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
        return Err(Error::input(format!(
            "starts {starts:?}, ends {ends:?}, axes {axes:?} and steps {steps:?} differ in length"
        )));
    }
    let mut cuts = Vec::with_capacity(starts.len());
    let mut seen = vec![false; shape.len()];
    for (((start, end), axis), step) in starts.into_iter().zip(ends).zip(axes).zip(steps) {
        let axis = axis_index(axis, shape.len())?;
        if std::mem::replace(&mut seen[axis], true) {
            return Err(Error::input(format!("axis {axis} is sliced twice")));
        }
        let extent = shape[axis] as i64;
        let absolute = |v: i64| if v < 0 { v.saturating_add(extent) } else { v };
        let (start, len) = match step {
            0 => return Err(Error::input("a step of 0 slices nothing")),
            _ if extent == 0 => (0, 0),
            1.. => {
                let (start, end) = (absolute(start).clamp(0, extent), absolute(end).clamp(0, extent));
                (start, (end - start).max(0).unsigned_abs().div_ceil(step.unsigned_abs()))
            }
            _ => {
                let start = absolute(start).clamp(0, extent - 1);
                let end = absolute(end).clamp(-1, extent - 1);
                (start, (start - end).max(0).unsigned_abs().div_ceil(step.unsigned_abs()))
            }
        };
        cuts.push(Cut { axis, start: start as usize, step, len: len as usize });
    }
    Ok(cuts)
}

fn slice_view(node: &Node, shape: &[usize], inputs: Inputs<'_>) -> Result<View> {
    let cuts = slice_plan(node, shape, inputs)?;
    Ok(cuts
        .into_iter()
        .fold(View::of(shape), |view, Cut { axis, start, step, len }| view.sliced(axis, start, step, len)))
}

fn infer_slice(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    infer_one(inputs, |shape, params| Ok(slice_view(node, shape, params)?.shape))
}

fn eval_slice(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    Ok(vec![slice_view(node, data.shape(), inputs)?.take(data)?])
}

/// `Expand` broadcasts both ways: the data's own extents stay where the target says 1.
fn expand_view(shape: &[usize], inputs: Inputs<'_>) -> Result<View> {
    let target = shape_from(&inputs.need(1)?.to_i64s()?)?;
    let to = broadcast(&[shape, &target])?;
    len_of(&to)?;
    View::of(shape).expanded(&to)
}

fn infer_expand(_: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    infer_one(inputs, |shape, params| Ok(expand_view(shape, params)?.shape))
}

fn eval_expand(_: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    Ok(vec![expand_view(data.shape(), inputs)?.take(data)?])
}

/// The repetitions and the shape of `Tile`.
fn tile_plan(shape: &[usize], inputs: Inputs<'_>) -> Result<(Vec<usize>, Vec<usize>)> {
    let repeats = inputs.need(1)?.to_i64s()?;
    if repeats.len() != shape.len() {
        return Err(Error::input(format!("repeats {repeats:?} for shape {shape:?}: expected one an axis")));
    }
    let repeats = shape_from(&repeats)?;
    let too_large = || Error::input(format!("repeats {repeats:?} of shape {shape:?} are too large"));
    let tiled: Option<Vec<usize>> = shape.iter().zip(&repeats).map(|(&d, &r)| d.checked_mul(r)).collect();
    let tiled = tiled.ok_or_else(too_large)?;
    len_of(&tiled)?;
    Ok((repeats, tiled))
}

fn infer_tile(_: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    infer_one(inputs, |shape, params| Ok(tile_plan(shape, params)?.1))
}

fn eval_tile(_: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    let (repeats, shape) = tile_plan(data.shape(), inputs)?;
    let whole = View::of(data.shape());
    let mut view = View { offset: 0, shape: Vec::new(), strides: Vec::new() };
    for ((&extent, &stride), repeat) in whole.shape.iter().zip(&whole.strides).zip(repeats) {
        view.shape.extend([repeat, extent]);
        view.strides.extend([0, stride]);
    }
    Ok(vec![view.take(data)?.reshaped(shape)?])
}

fn axes_transpose(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let (x, y) = (axes.input(0), axes.output(0));
    let places: Vec<usize> = (0..x.len()).collect();
    // The view of a shape whose extents are the axes' numbers is their order.
    let order = transpose_view(node, &places)?.shape;
    order.into_iter().zip(y).for_each(|(from, to)| axes.same(x[from], to));
    Ok(())
}

/// An axis that is cut with a step of 1 consists of what is before the cut, the result and what is after it.
fn axes_slice(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let (x, y, shape) = (axes.input(0), axes.output(0), axes.shape(0));
    let params = axes.params(1)?;
    let params: Vec<Option<&Tensor>> = params.iter().map(Option::as_ref).collect();
    let cuts = slice_plan(node, &shape, Inputs(&params))?;
    for (axis, (&from, &to)) in x.iter().zip(&y).enumerate() {
        match cuts.iter().enumerate().find(|(_, cut)| cut.axis == axis) {
            None => axes.same(from, to),
            Some((place, &Cut { start, step: 1, len, .. })) => {
                let (before, after) = (axes.dim(start), axes.dim(shape[axis] - start - len));
                let whole = axes.concat(&[before, to, after]);
                axes.same(from, whole);
                let end = axes.concat(&[before, to]);
                let slots = match node.opset < 10 {
                    true => [Slot::AttrAt("starts", place), Slot::AttrAt("ends", place)],
                    false => [Slot::Input(1, place), Slot::Input(2, place)],
                };
                slots.into_iter().zip([before, end]).for_each(|(slot, axis)| axes.write(slot, axis));
            }
            Some(_) => axes.fix_all(&[from, to]),
        }
    }
    Ok(())
}

fn axes_expand(_: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let (x, y, rank) = (axes.input(0), axes.output(0), axes.shape(1).iter().product::<usize>());
    axes.meet_all(&x, &y);
    for (place, &axis) in y.iter().rev().take(rank).rev().enumerate() {
        axes.write(Slot::Input(1, place), axis);
    }
    Ok(())
}

/// An axis repeated r times is r · axis.
fn axes_tile(_: &Node, axes: &mut Statement<'_>) -> Result<()> {
    for (place, (from, to)) in axes.input(0).into_iter().zip(axes.output(0)).enumerate() {
        let repeats = axes.dim(axes.extent(to).checked_div(axes.extent(from)).unwrap_or(0));
        let tiled = axes.product(&[repeats, from]);
        axes.same(to, tiled);
        axes.write(Slot::Input(1, place), repeats);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{eval, node, with_attr};
    use super::*;
    use crate::{Attr, DType, Data};

    fn ints(values: &[i64]) -> Tensor {
        Tensor::vector(values.to_vec())
    }

    fn strings(values: &[&str]) -> Tensor {
        Tensor::vector(values.iter().map(|s| s.to_string()).collect())
    }

    #[test]
    fn slices() {
        const MIN: i64 = i64::MIN;
        const MAX: i64 = i64::MAX;
        let data = ints(&[0, 1, 2, 3, 4, 5]);
        // (start, end, step, elements)
        let table: &[(i64, i64, i64, &[i64])] = &[
            (1, 4, 1, &[1, 2, 3]),
            (-2, MAX, 1, &[4, 5]),
            (0, MAX, 4, &[0, 4]),
            (-1, MIN, -1, &[5, 4, 3, 2, 1, 0]),
            (4, 0, -3, &[4, 1]),
            (MAX, -3, -1, &[5, 4]),
            (3, 3, 1, &[]),
            (4, 2, 1, &[]),
            (1, 3, -1, &[]),
            (MIN, MIN, -1, &[0]),
            (2, 5, MAX, &[2]),
        ];
        for &(start, end, step, expected) in table {
            let params = [start, end, 0, step].map(|v| ints(&[v]));
            let inputs = [&data, &params[0], &params[1], &params[2], &params[3]];
            let out = eval(&node("Slice", 13), &inputs).unwrap();
            assert_eq!(out[0].values::<i64>().unwrap(), expected, "{start}:{end}:{step}");
        }
        let node = node("Slice", 1);
        let node = with_attr(node, "starts", Attr::Ints(vec![1]));
        let node = with_attr(node, "ends", Attr::Ints(vec![1000]));
        let node = with_attr(node, "axes", Attr::Ints(vec![1]));
        let out = eval(&node, &[&data.reshaped([2, 3]).unwrap()]).unwrap();
        assert_eq!((out[0].shape(), out[0].values::<i64>().unwrap()), (&[2, 2][..], &[1, 2, 4, 5][..]));
    }

    #[test]
    fn slices_without_meaning_are_refused() {
        let data = Tensor::new([2, 3], vec![0f32; 6]).unwrap();
        let slice = |starts: &[i64], ends: &[i64], axes: &[i64], steps: &[i64]| {
            eval(&node("Slice", 13), &[&data, &ints(starts), &ints(ends), &ints(axes), &ints(steps)])
        };
        assert!(slice(&[0], &[1], &[2], &[1]).is_err());
        assert!(slice(&[0], &[1], &[0], &[0]).is_err());
        assert!(slice(&[0], &[1, 2], &[0], &[1]).is_err());
        assert!(slice(&[0, 0], &[1, 1], &[0, -2], &[1, 1]).is_err());
    }

    #[test]
    fn every_element_type_moves() {
        let transpose = node("Transpose", 13);
        let words = strings(&["a", "b", "c", "d", "e", "f"]).reshaped([2, 3]).unwrap();
        let out = eval(&transpose, &[&words]).unwrap();
        assert_eq!(out[0].values::<String>().unwrap(), ["a", "d", "b", "e", "c", "f"]);
        // 0..6 of four bits, the first in the low half of a byte.
        let narrow = Tensor::from_data([2, 3], Data::Raw(DType::U4, vec![0x10, 0x32, 0x54])).unwrap();
        let out = eval(&transpose, &[&narrow]).unwrap();
        assert_eq!(out[0].data(), &Data::Raw(DType::U4, vec![0x30, 0x41, 0x52]));
        let complex = Tensor::from_data([2], Data::Raw(DType::C128, (0..32).collect())).unwrap();
        let joined =
            eval(&with_attr(node("Concat", 13), "axis", Attr::Int(-1)), &[&complex, &complex]).unwrap();
        let twice: Vec<u8> = (0..32).chain(0..32).collect();
        assert_eq!(joined[0].data(), &Data::Raw(DType::C128, twice));
    }

    #[test]
    fn a_shape_cannot_ask_for_more_than_there_is() {
        let one = Tensor::scalar(0f32);
        let huge = ints(&[i64::MAX, i64::MAX]);
        assert!(eval(&node("Expand", 13), &[&one, &huge]).is_err());
        assert!(eval(&node("Expand", 13), &[&one, &ints(&[1 << 60])]).is_err());
        assert!(eval(&node("Tile", 13), &[&ints(&[0, 0]), &ints(&[i64::MAX])]).is_err());
    }

    #[test]
    fn repeats() {
        let data = ints(&[0, 1, 2, 3]).reshaped([2, 2]).unwrap();
        let out = eval(&node("Tile", 13), &[&data, &ints(&[2, 3])]).unwrap();
        assert_eq!(out[0].shape(), [4, 6]);
        assert_eq!(out[0].values::<i64>().unwrap()[..12], [0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3]);
    }
}
