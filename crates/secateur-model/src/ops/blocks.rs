//! `DepthToSpace` and `SpaceToDepth`.

use super::axes::Statement;
use super::cells::len_of;
use super::params::infer_one;
use super::view::View;
use super::{Fact, Facts, Inputs, Op};
use crate::{Error, Node, Result, Tensor};

pub(super) const OPS: &[Op] = &[
    Op::new("DepthToSpace", 1, infer_depth_to_space).axes(axes_depth_to_space).eval(eval_depth_to_space),
    Op::new("SpaceToDepth", 1, infer_space_to_depth).axes(axes_space_to_depth).eval(eval_space_to_depth),
];

/// The block size, batch, channels, height and width of an image operator.
fn blocks(node: &Node, shape: &[usize]) -> Result<(usize, [usize; 4])> {
    let block = node.int("blocksize")?.and_then(|b| usize::try_from(b).ok()).filter(|&b| b > 0);
    let block = block.ok_or_else(|| Error::input("`blocksize` must be at least 1"))?;
    let dims = <[usize; 4]>::try_from(shape)
        .map_err(|_| Error::input(format!("expected an image batch of rank 4, found shape {shape:?}")))?;
    Ok((block, dims))
}

/// `DepthToSpace`: channels become blocks of pixels. The input seen with six axes, their order, and
/// the output's shape.
fn depth_to_space_plan(node: &Node, shape: &[usize]) -> Result<([usize; 6], [usize; 6], [usize; 4])> {
    let (block, [n, c, h, w]) = blocks(node, shape)?;
    let depth =
        block.checked_mul(block).map(|area| c / area).filter(|depth| depth * block * block == c).ok_or_else(
            || Error::input(format!("{c} channels do not divide into blocks of {block}×{block}")),
        )?;
    let (split, order) = match node.str_or("mode", "DCR")? {
        "DCR" => ([n, block, block, depth, h, w], [0, 3, 4, 1, 5, 2]),
        "CRD" => ([n, depth, block, block, h, w], [0, 1, 4, 2, 5, 3]),
        mode => return Err(Error::input(format!("mode `{mode}`: expected DCR or CRD"))),
    };
    Ok((split, order, [n, depth, len_of(&[h, block])?, len_of(&[w, block])?]))
}

fn infer_depth_to_space(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    infer_one(inputs, |shape, _| Ok(depth_to_space_plan(node, shape)?.2.to_vec()))
}

fn eval_depth_to_space(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    let (split, order, shape) = depth_to_space_plan(node, data.shape())?;
    Ok(vec![View::of(&split).permuted(&order).take(data)?.reshaped(shape)?])
}

/// `SpaceToDepth`: blocks of pixels become channels. The input seen with six axes, their order, and
/// the output's shape.
fn space_to_depth_plan(node: &Node, shape: &[usize]) -> Result<([usize; 6], [usize; 6], [usize; 4])> {
    let (block, [n, c, h, w]) = blocks(node, shape)?;
    if !h.is_multiple_of(block) || !w.is_multiple_of(block) {
        return Err(Error::input(format!("{h}×{w} pixels do not divide into blocks of {block}×{block}")));
    }
    let (rows, columns) = (h / block, w / block);
    // No overflow: a block with pixels is no larger than the image.
    let depth =
        if h == 0 || w == 0 { c.saturating_mul(block).saturating_mul(block) } else { c * block * block };
    let order = match node.str_or("mode", "DCR")? {
        "DCR" => [0, 3, 5, 1, 2, 4],
        "CRD" => [0, 1, 3, 5, 2, 4],
        mode => return Err(Error::input(format!("mode `{mode}`: expected DCR or CRD"))),
    };
    Ok(([n, c, rows, block, columns, block], order, [n, depth, rows, columns]))
}

fn infer_space_to_depth(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    infer_one(inputs, |shape, _| Ok(space_to_depth_plan(node, shape)?.2.to_vec()))
}

fn eval_space_to_depth(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    let (split, order, shape) = space_to_depth_plan(node, data.shape())?;
    Ok(vec![View::of(&split).permuted(&order).take(data)?.reshaped(shape)?])
}

/// Six axes in another order. `from` and `to` say how many neighbours of them each axis of the input and the output
/// takes; the ones of the block size, whose number is an attribute, are fixed.
fn axes_blocks(
    axes: &mut Statement<'_>,
    (split, order): ([usize; 6], [usize; 6]),
    (from, to): ([usize; 4], [usize; 4]),
    blocks: [usize; 2],
) {
    let six = split.map(|extent| axes.dim(extent));
    axes.fix_all(&blocks.map(|block| six[block]));
    for (operand, order, takes) in [(axes.input(0), [0, 1, 2, 3, 4, 5], from), (axes.output(0), order, to)] {
        let mut left = &order[..];
        for (axis, count) in operand.into_iter().zip(takes) {
            let (own, rest) = left.split_at(count);
            let product = axes.product(&own.iter().map(|&place| six[place]).collect::<Vec<_>>());
            axes.same(axis, product);
            left = rest;
        }
    }
}

fn axes_depth_to_space(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let (split, order, _) = depth_to_space_plan(node, &axes.shape(0))?;
    let blocks = if node.str_or("mode", "DCR")? == "DCR" { [1, 2] } else { [2, 3] };
    axes_blocks(axes, (split, order), ([1, 3, 1, 1], [1, 1, 2, 2]), blocks);
    Ok(())
}

fn axes_space_to_depth(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let (split, order, _) = space_to_depth_plan(node, &axes.shape(0))?;
    axes_blocks(axes, (split, order), ([1, 1, 2, 2], [1, 3, 1, 1]), [3, 5]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{eval, node, with_attr};
    use super::*;
    use crate::Attr;

    #[test]
    fn blocks_and_back() {
        let depth = Tensor::new([1, 4, 1, 2], (0..8i64).collect()).unwrap();
        let to_space = with_attr(node("DepthToSpace", 13), "blocksize", Attr::Int(2));
        let out = eval(&to_space, &[&depth]).unwrap();
        assert_eq!(out[0].values::<i64>().unwrap(), [0, 2, 1, 3, 4, 6, 5, 7]);
        let to_depth = with_attr(node("SpaceToDepth", 13), "blocksize", Attr::Int(2));
        assert_eq!(eval(&to_depth, &[&out[0]]).unwrap()[0], depth);
        assert!(eval(&to_depth, &[&depth]).is_err());
    }
}
