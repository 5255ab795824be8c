//! Operators that put elements around an image or cut them off.

use super::axes::{Slot, Statement};
use super::cast::convert;
use super::cells::{empty, len_of};
use super::params::{infer_one, ints, shape_from};
use super::pick::{FILL, Positions, pick};
use super::{Fact, Facts, Inputs, Op, axis_index};
use crate::tensor::MAX_LEN;
use crate::{Error, Node, Result, Tensor};

pub(super) const OPS: &[Op] = &[
    Op::new("Pad", 1, infer_pad).types(&[&[0, 2]]).axes(axes_pad).eval(eval_pad),
    Op::new("CenterCropPad", 18, infer_center_crop_pad).eval(eval_center_crop_pad),
];

/// Elements an axis gains before and after; negative where it loses some.
fn pads(node: &Node, rank: usize, inputs: Inputs<'_>) -> Result<Vec<(i64, i64)>> {
    // Operator set 1 called the attribute otherwise.
    let name = if node.opset < 2 { "paddings" } else { "pads" };
    let pads = ints(node, name, inputs, 1)?.ok_or_else(|| Error::input("there are no `pads`"))?;
    let axes = match inputs.get(3) {
        Some(axes) => axes.to_i64s()?,
        None => (0..rank as i64).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return Err(Error::input(format!("pads {pads:?} for {} axes: expected two an axis", axes.len())));
    }
    if let Some(pad) = pads.iter().find(|pad| pad.unsigned_abs() > MAX_LEN as u64) {
        return Err(Error::input(format!("a pad of {pad}, expected none beyond {MAX_LEN}")));
    }
    let (before, after) = pads.split_at(axes.len());
    let mut padded = vec![(0, 0); rank];
    for ((&axis, &before), &after) in axes.iter().zip(before).zip(after) {
        padded[axis_index(axis, rank)?] = (before, after);
    }
    Ok(padded)
}

fn padded_shape(shape: &[usize], pads: &[(i64, i64)]) -> Result<Vec<usize>> {
    let extent = |(&extent, &(before, after)): (&usize, &(i64, i64))| {
        // What is added at one end cannot be cut off at the other.
        let kept =
            (extent as i64).checked_add(before.min(0))?.checked_add(after.min(0)).filter(|&k| k >= 0)?;
        kept.checked_add(before.max(0))?.checked_add(after.max(0)).and_then(|e| usize::try_from(e).ok())
    };
    let padded: Option<Vec<usize>> = shape.iter().zip(pads).map(extent).collect();
    padded.ok_or_else(|| Error::input(format!("pads {pads:?} do not fit shape {shape:?}")))
}

fn infer_pad(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    infer_one(inputs, |shape, params| padded_shape(shape, &pads(node, shape.len(), params)?))
}

/// Where the elements around an axis come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Constant,
    /// The nearest element.
    Edge,
    /// Mirrored at the outermost elements, which are not repeated.
    Reflect,
    /// From the other end.
    Wrap,
}

/// The positions an axis takes; what negative pads cut off is not there to be mirrored either.
fn positions(mode: Mode, extent: usize, (before, after): (i64, i64)) -> Result<Positions> {
    if (before, after) == (0, 0) {
        return Ok(None);
    }
    let (first, last) = (before.saturating_neg().max(0), extent as i64 - after.saturating_neg().max(0));
    let kept = last.saturating_sub(first);
    if kept < 0 {
        return Err(Error::input(format!(
            "pads ({before}, {after}) cut off more than the {extent} elements"
        )));
    }
    if kept == 0 && mode != Mode::Constant {
        return Err(Error::input("an axis without elements has none to pad with"));
    }
    let position = |i: i64| {
        // Counted from the first element that is kept.
        let inner = match mode {
            _ if (0..kept).contains(&i) => i,
            Mode::Constant => return FILL,
            Mode::Edge => i.clamp(0, kept - 1),
            Mode::Wrap => i.rem_euclid(kept),
            Mode::Reflect if kept == 1 => 0,
            Mode::Reflect => {
                let place = i.rem_euclid(2 * (kept - 1));
                place.min(2 * (kept - 1) - place)
            }
        };
        (first + inner) as usize
    };
    let (before, after) = (before.max(0), after.max(0));
    Ok(Some((-before..kept + after).map(position).collect()))
}

/// `Pad` in the modes constant, edge, reflect and wrap.
fn eval_pad(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    let mode = match node.str_or("mode", "constant")? {
        "constant" => Mode::Constant,
        "edge" => Mode::Edge,
        "reflect" => Mode::Reflect,
        "wrap" => Mode::Wrap,
        mode => return Err(Error::unsupported(format!("mode `{mode}`"))),
    };
    let pads = pads(node, data.rank(), inputs)?;
    let shape = padded_shape(data.shape(), &pads)?;
    if len_of(&shape)? == 0 {
        return empty(data.dtype(), shape);
    }
    let lists = data
        .shape()
        .iter()
        .zip(&pads)
        .map(|(&extent, &pads)| positions(mode, extent, pads))
        .collect::<Result<Vec<_>>>()?;
    let attribute = match node.float("value")? {
        Some(value) if value != 0.0 => Some(convert(&Tensor::scalar(value), data.dtype())?),
        _ => None,
    };
    Ok(vec![pick(data, &lists, inputs.get(2).or(attribute.as_ref()))?])
}

/// The extents that `CenterCropPad` brings each axis to.
fn center_target(node: &Node, shape: &[usize], inputs: Inputs<'_>) -> Result<Vec<usize>> {
    let extents = shape_from(&inputs.need(1)?.to_i64s()?)?;
    let axes = node.ints("axes")?.map_or_else(|| (0..shape.len() as i64).collect(), <[i64]>::to_vec);
    if axes.len() != extents.len() {
        return Err(Error::input(format!("extents {extents:?} for axes {axes:?}: expected one an axis")));
    }
    let mut target = shape.to_vec();
    for (axis, extent) in axes.into_iter().zip(extents) {
        target[axis_index(axis, shape.len())?] = extent;
    }
    len_of(&target)?;
    Ok(target)
}

fn infer_center_crop_pad(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    infer_one(inputs, |shape, params| center_target(node, shape, params))
}

/// `CenterCropPad`: what an axis loses or gains is shared by both ends, the end taking the odd one.
fn eval_center_crop_pad(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    let target = center_target(node, data.shape(), inputs)?;
    if len_of(&target)? == 0 {
        return empty(data.dtype(), target);
    }
    let lists = data
        .shape()
        .iter()
        .zip(target)
        .map(|(&from, to)| {
            let (from, to) = (from as i64, to as i64);
            let before = if to > from { (to - from) / 2 } else { -((from - to) / 2) };
            positions(Mode::Constant, from as usize, (before, to - from - before))
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(vec![pick(data, &lists, None)?])
}

/// An axis that is padded with a constant consists of the padding before, the input and the padding after. Paddings
/// that repeat elements look at positions, and so does cutting off.
fn axes_pad(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let (x, y) = (axes.input(0), axes.output(0));
    let constant = node.str_or("mode", "constant")? == "constant";
    let params = axes.params(1)?;
    let params: Vec<Option<&Tensor>> = params.iter().map(Option::as_ref).collect();
    let pads = pads(node, x.len(), Inputs(&params))?;
    let listed: Vec<usize> = match params.get(3).copied().flatten() {
        Some(listed) => {
            listed.to_i64s()?.iter().map(|&axis| axis_index(axis, x.len())).collect::<Result<_>>()?
        }
        None => (0..x.len()).collect(),
    };
    for (axis, (&from, &to)) in x.iter().zip(&y).enumerate() {
        match pads[axis] {
            (0, 0) => axes.same(from, to),
            (before @ 0.., after @ 0..) if constant => {
                let (before, after) = (axes.dim(before as usize), axes.dim(after as usize));
                let padded = axes.concat(&[before, from, after]);
                axes.same(to, padded);
                let Some(place) = listed.iter().position(|&listed| listed == axis) else { continue };
                for (place, pad) in [(place, before), (listed.len() + place, after)] {
                    let slot =
                        if node.opset < 11 { Slot::AttrAt("pads", place) } else { Slot::Input(1, place) };
                    axes.write(slot, pad);
                }
            }
            _ => axes.fix_all(&[from, to]),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{eval, node, with_attr};
    use super::*;
    use crate::Attr;

    fn padded(mode: &str, pads: &[i64]) -> Result<Vec<i64>> {
        let node = with_attr(node("Pad", 19), "mode", Attr::String(mode.into()));
        let data = Tensor::vector(vec![1i64, 2, 3]);
        eval(&node, &[&data, &Tensor::vector(pads.to_vec()), &Tensor::scalar(9i64)])?[0].to_i64s()
    }

    #[test]
    fn modes() {
        // As numpy.pad has it, also beyond the extent.
        let table: &[(&str, [i64; 2], &[i64])] = &[
            ("constant", [2, 1], &[9, 9, 1, 2, 3, 9]),
            ("edge", [2, 1], &[1, 1, 1, 2, 3, 3]),
            ("reflect", [2, 1], &[3, 2, 1, 2, 3, 2]),
            ("reflect", [5, 0], &[2, 1, 2, 3, 2, 1, 2, 3]),
            ("wrap", [2, 4], &[2, 3, 1, 2, 3, 1, 2, 3, 1]),
            ("constant", [-1, 1], &[2, 3, 9]),
            ("reflect", [-1, 1], &[2, 3, 2]),
            ("constant", [-3, 0], &[]),
        ];
        for (mode, pads, expected) in table {
            assert_eq!(&padded(mode, pads).unwrap(), expected, "{mode} {pads:?}");
        }
        assert!(padded("constant", &[-4, 1]).is_err());
        assert!(padded("constant", &[-2, -2]).is_err());
        assert!(padded("edge", &[-3, 1]).is_err());
        assert!(padded("constant", &[1]).is_err());
        assert!(padded("constant", &[i64::MAX, i64::MAX]).is_err());
        // The sum fits, but there is nothing to cut so much from.
        assert!(padded("constant", &[i64::MIN, i64::MAX]).is_err());
        assert!(padded("edge", &[i64::MAX, i64::MIN]).is_err());
    }

    #[test]
    fn attributes_of_old_sets_and_axes_of_new_ones() {
        let data = Tensor::new([1, 2], vec![1f32, 2.0]).unwrap();
        let old = with_attr(node("Pad", 2), "pads", Attr::Ints(vec![0, 1, 0, 0]));
        let out = eval(&with_attr(old, "value", Attr::Float(7.0)), &[&data]).unwrap();
        assert_eq!(out[0].values::<f32>().unwrap(), [7.0, 1.0, 2.0]);
        let (pads, fill, axes) =
            (Tensor::vector(vec![1i64, 0]), Tensor::scalar(5f32), Tensor::vector(vec![-1i64]));
        let out = eval(&node("Pad", 18), &[&data, &pads, &fill, &axes]).unwrap();
        assert_eq!(out[0].values::<f32>().unwrap(), [5.0, 1.0, 2.0]);
    }

    #[test]
    fn the_centre_stays() {
        let data = Tensor::vector(vec![1i64, 2, 3, 4]);
        let to = |extent: i64| {
            let out = eval(&node("CenterCropPad", 18), &[&data, &Tensor::vector(vec![extent])]).unwrap();
            out[0].to_i64s().unwrap()
        };
        assert_eq!(to(3), [1, 2, 3]);
        assert_eq!(to(1), [2]);
        assert_eq!(to(7), [0, 1, 2, 3, 4, 0, 0]);
    }
}
