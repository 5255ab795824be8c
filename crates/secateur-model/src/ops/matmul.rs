//! Matrix products: `MatMul`, `Gemm`, `Einsum` and attention.

use super::axes::{Axis, Statement};
use super::{AxisRole, Fact, Facts, ONE_TYPE, Op, WeightUse, broadcast, count_of};
use crate::{DType, Error, Node, Result};

pub(super) const OPS: &[Op] = &[
    Op::new("MatMul", 1, infer_matmul)
        .types(ONE_TYPE)
        .axes(axes_matmul)
        .weights(weights_matmul)
        .macs(macs_matmul),
    Op::new("MatMulInteger", 10, infer_matmul_integer).axes(axes_matmul_integer).macs(macs_matmul),
    Op::new("QLinearMatMul", 10, infer_qlinear_matmul).axes(axes_qlinear_matmul).macs(macs_matmul),
    Op::new("Gemm", 1, infer_gemm)
        .types(ONE_TYPE)
        .axes(axes_gemm)
        .weights(weights_gemm)
        .parameters(&[1, 2])
        .macs(macs_gemm),
    Op::new("Einsum", 12, infer_einsum)
        .types(ONE_TYPE)
        .axes(axes_einsum)
        .weights(weights_einsum)
        .macs(macs_einsum),
];

/// The shape of a product of stacks of matrices (numpy's `matmul`).
///
/// # Errors
/// Where the inner extents differ, or the stacks do not broadcast.
pub fn matmul_shape(a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
    let wrong = || Error::input(format!("the shapes {a:?} and {b:?} do not multiply"));
    if a.is_empty() || b.is_empty() {
        return Err(wrong());
    }
    let (rows, inner_a) = if a.len() == 1 { (None, a[0]) } else { (Some(a[a.len() - 2]), a[a.len() - 1]) };
    let (inner_b, cols) = if b.len() == 1 { (b[0], None) } else { (b[b.len() - 2], Some(b[b.len() - 1])) };
    if inner_a != inner_b {
        return Err(wrong());
    }
    let stack = |s: &'_ [usize]| s[..s.len().saturating_sub(2)].to_vec();
    let mut shape = broadcast(&[&stack(a), &stack(b)])?;
    shape.extend(rows);
    shape.extend(cols);
    Ok(shape)
}

fn infer_product(inputs: Facts<'_>, b: usize, dtype: Option<DType>) -> Result<Vec<Fact>> {
    let shape = match (inputs.need(0)?.shape(), inputs.need(b)?.shape()) {
        (Some(a), Some(b)) => Some(matmul_shape(a, b)?),
        _ => None,
    };
    Ok(vec![Fact { dtype, shape, ..Fact::default() }])
}

fn infer_matmul(_: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    infer_product(inputs, 1, inputs.dtype(0))
}

fn infer_matmul_integer(_: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    infer_product(inputs, 1, Some(DType::I32))
}

fn infer_qlinear_matmul(_: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    infer_product(inputs, 3, inputs.dtype(7))
}

/// Either operand may be the weight: `x·W` stores `[in, out]`, `W·x` stores `[out, in]`.
fn weights_matmul(_: &Node, inputs: Facts<'_>) -> Result<Vec<WeightUse>> {
    let operand = |input: usize, matrix: [AxisRole; 2]| {
        let rank = inputs.shape(input)?.len();
        if rank < 2 {
            return None;
        }
        let mut roles = vec![AxisRole::Batch; rank - 2];
        roles.extend(matrix);
        // A vector lends the result no axis.
        let other = inputs.shape(1 - input).map(<[usize]>::len).filter(|&len| len > 0);
        let out_from_last = if input == 1 { Some(0) } else { other.map(|len| usize::from(len > 1)) };
        let out_axis = other.zip(out_from_last).map(|(len, from_last)| {
            let of_result = if len == 1 { rank - 1 } else { len.max(rank) };
            of_result - 1 - from_last
        });
        Some(WeightUse { input, roles, groups: 1, bias: None, out_axis, out_from_last, gates: 1 })
    };
    Ok([operand(1, [AxisRole::In, AxisRole::Out]), operand(0, [AxisRole::Out, AxisRole::In])]
        .into_iter()
        .flatten()
        .collect())
}

fn macs_matmul(_: &Node, inputs: Facts<'_>, outputs: &[Fact]) -> Result<u64> {
    let (Some(a), Some(out)) = (inputs.shape(0), outputs.first().and_then(Fact::shape)) else { return Ok(0) };
    count_of(out.iter().chain(a.last()))
}

/// Rows, inner extent and columns of a `Gemm`.
fn gemm_extents(node: &Node, a: &[usize], b: &[usize]) -> Result<(usize, usize, usize)> {
    let (&[a0, a1], &[b0, b1]) = (a, b) else {
        return Err(Error::input(format!("the shapes {a:?} and {b:?} are not matrices")));
    };
    let (m, k) = if node.int_or("transA", 0)? != 0 { (a1, a0) } else { (a0, a1) };
    let (kb, n) = if node.int_or("transB", 0)? != 0 { (b1, b0) } else { (b0, b1) };
    if k != kb {
        return Err(Error::input(format!("the shapes {a:?} and {b:?} do not multiply")));
    }
    Ok((m, k, n))
}

/// The shape of a `Gemm`-like node whose inputs A, B and C stand at these places; `None` where it is not known.
pub(super) fn gemm_shape(
    node: &Node,
    inputs: Facts<'_>,
    [a, b, c]: [usize; 3],
) -> Result<Option<Vec<usize>>> {
    let (Some(a), Some(b)) = (inputs.need(a)?.shape(), inputs.need(b)?.shape()) else { return Ok(None) };
    let (m, _, n) = gemm_extents(node, a, b)?;
    if let Some(c) = inputs.shape(c)
        && broadcast(&[&[m, n], c])? != [m, n]
    {
        return Err(Error::input(format!("the addend {c:?} does not broadcast to [{m}, {n}]")));
    }
    Ok(Some(vec![m, n]))
}

fn infer_gemm(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let shape = gemm_shape(node, inputs, [0, 1, 2])?;
    Ok(vec![Fact { dtype: inputs.dtype(0), shape, ..Fact::default() }])
}

fn weights_gemm(node: &Node, inputs: Facts<'_>) -> Result<Vec<WeightUse>> {
    let (out_in, in_out) = (vec![AxisRole::Out, AxisRole::In], vec![AxisRole::In, AxisRole::Out]);
    let (trans_a, trans_b) = (node.int_or("transA", 0)? != 0, node.int_or("transB", 0)? != 0);
    // The addend is a bias of the columns where it has one element a column.
    let column_bias =
        inputs.shape(2).is_none_or(|c| c.len() <= 1 || c[..c.len() - 1].iter().all(|&d| d == 1));
    Ok(vec![
        WeightUse {
            input: 1,
            roles: if trans_b { out_in.clone() } else { in_out.clone() },
            groups: 1,
            bias: column_bias.then_some(2),
            out_axis: Some(1),
            out_from_last: Some(0),
            gates: 1,
        },
        WeightUse {
            input: 0,
            roles: if trans_a { in_out } else { out_in },
            groups: 1,
            bias: None,
            out_axis: Some(0),
            out_from_last: Some(1),
            gates: 1,
        },
    ])
}

fn macs_gemm(node: &Node, inputs: Facts<'_>, _: &[Fact]) -> Result<u64> {
    let (Some(a), Some(b)) = (inputs.shape(0), inputs.shape(1)) else { return Ok(0) };
    let (m, k, n) = gemm_extents(node, a, b)?;
    count_of(&[m, k, n])
}

/// A parsed `Einsum` equation, ellipses expanded: a label is a letter, or a digit from `'0'` on for
/// the axes of an ellipsis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Equation {
    /// The labels of each input's axes.
    pub inputs: Vec<Vec<char>>,
    /// The labels of the output's axes.
    pub output: Vec<char>,
}

impl Equation {
    /// Parses an equation for inputs of the given ranks.
    ///
    /// # Errors
    /// Where the equation does not fit them.
    pub fn parse(text: &str, ranks: &[usize]) -> Result<Self> {
        let wrong = |why: &str| Error::input(format!("equation `{text}`: {why}"));
        let text_only: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let (left, right) = match text_only.split_once("->") {
            Some((l, r)) => (l.to_string(), Some(r.to_string())),
            None => (text_only.clone(), None),
        };
        let terms: Vec<&str> = left.split(',').collect();
        if terms.len() != ranks.len() {
            return Err(wrong(&format!("{} terms for {} inputs", terms.len(), ranks.len())));
        }
        let letters = |t: &str| t.replace("...", "").chars().count();
        let widest = terms
            .iter()
            .zip(ranks)
            .filter(|(t, _)| t.contains("..."))
            .map(|(t, &r)| r.checked_sub(letters(t)).ok_or_else(|| wrong("more labels than axes")))
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .max()
            .unwrap_or(0);
        let expand = |term: &str, rank: Option<usize>| -> Result<Vec<char>> {
            let mut labels = Vec::new();
            let mut rest = term;
            while let Some(c) = rest.chars().next() {
                if let Some(after) = rest.strip_prefix("...") {
                    let axes = match rank {
                        Some(rank) => rank - letters(term),
                        None => widest,
                    };
                    labels.extend((widest - axes..widest).map(|i| (b'0' + i as u8) as char));
                    rest = after;
                } else if c.is_ascii_alphabetic() {
                    labels.push(c);
                    rest = &rest[1..];
                } else {
                    return Err(wrong(&format!("`{c}` is not a label")));
                }
            }
            match rank {
                Some(rank) if labels.len() != rank => {
                    Err(wrong(&format!("{} labels for rank {rank}", labels.len())))
                }
                _ => Ok(labels),
            }
        };
        if widest > 10 {
            return Err(wrong("an ellipsis of more than 10 axes"));
        }
        let inputs = terms.iter().zip(ranks).map(|(t, &r)| expand(t, Some(r))).collect::<Result<Vec<_>>>()?;
        let output = match right {
            Some(right) => expand(&right, None)?,
            None => {
                let all: Vec<char> = inputs.iter().flatten().copied().collect();
                let mut once: Vec<char> = all
                    .iter()
                    .copied()
                    .filter(|c| c.is_ascii_digit() || all.iter().filter(|d| *d == c).count() == 1)
                    .collect();
                once.sort_unstable();
                once.dedup();
                once
            }
        };
        if let Some(c) = output.iter().find(|c| !inputs.iter().flatten().any(|d| d == *c)) {
            return Err(wrong(&format!("the output's label `{c}` is in no input")));
        }
        Ok(Equation { inputs, output })
    }

    /// The extent of every label.
    ///
    /// # Errors
    /// Where a label has two extents and neither is 1.
    pub fn extents(&self, shapes: &[&[usize]]) -> Result<Vec<(char, usize)>> {
        let mut extents: Vec<(char, usize)> = Vec::new();
        for (&label, &extent) in self.inputs.iter().flatten().zip(shapes.iter().copied().flatten()) {
            match extents.iter_mut().find(|(l, _)| *l == label) {
                None => extents.push((label, extent)),
                Some((_, known)) if *known == extent || extent == 1 => {}
                Some((_, known)) if *known == 1 => *known = extent,
                Some((_, known)) => {
                    return Err(Error::input(format!(
                        "label `{label}` has the extents {known} and {extent}"
                    )));
                }
            }
        }
        Ok(extents)
    }
}

/// The equation of an `Einsum` node for its inputs' shapes.
///
/// # Errors
/// Where the attribute is missing or does not fit.
pub fn equation(node: &Node, shapes: &[&[usize]]) -> Result<Equation> {
    let text = node.str("equation")?.ok_or_else(|| Error::input("attribute `equation` is missing"))?;
    Equation::parse(text, &shapes.iter().map(|s| s.len()).collect::<Vec<_>>())
}

fn known_shapes<'a>(inputs: Facts<'a>) -> Option<Vec<&'a [usize]>> {
    (0..inputs.len()).map(|i| inputs.shape(i)).collect()
}

fn infer_einsum(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let dtype = inputs.need(0)?.dtype;
    let Some(shapes) = known_shapes(inputs) else { return Ok(vec![Fact::unknown(dtype)]) };
    let equation = equation(node, &shapes)?;
    let extents = equation.extents(&shapes)?;
    let extent = |c: &char| extents.iter().find(|(l, _)| l == c).map_or(1, |(_, e)| *e);
    Ok(vec![Fact { dtype, shape: Some(equation.output.iter().map(extent).collect()), ..Fact::default() }])
}

/// The equation of a node of which only some shapes need be known: labels without an ellipsis say a rank too.
fn equation_of(node: &Node, inputs: Facts<'_>) -> Result<Option<Equation>> {
    let text = node.str("equation")?.unwrap_or_default();
    let terms = text.split("->").next().unwrap_or_default().split(',');
    // Inference says what is wrong with an equation of other operands.
    if terms.clone().count() != inputs.len() {
        return Ok(None);
    }
    let rank = |(i, term): (usize, &str)| match inputs.shape(i) {
        Some(shape) => Some(shape.len()),
        None if term.contains("...") => None,
        None => Some(term.chars().filter(char::is_ascii_alphabetic).count()),
    };
    let ranks: Option<Vec<usize>> = terms.enumerate().map(rank).collect();
    ranks.map(|ranks| Equation::parse(text, &ranks)).transpose()
}

/// An axis that stays in the output and is in no other input is an output axis of the weight.
fn weights_einsum(node: &Node, inputs: Facts<'_>) -> Result<Vec<WeightUse>> {
    let Some(equation) = equation_of(node, inputs)? else { return Ok(Vec::new()) };
    let roles = |i: usize| {
        let elsewhere = |c: &char| equation.inputs.iter().enumerate().any(|(j, t)| j != i && t.contains(c));
        let role = |c: &char| match (equation.output.contains(c), elsewhere(c)) {
            (true, true) => AxisRole::Batch,
            (true, false) => AxisRole::Out,
            _ => AxisRole::In,
        };
        equation.inputs[i].iter().map(role).collect::<Vec<_>>()
    };
    Ok((0..inputs.len())
        .filter(|&i| equation.inputs[i].len() >= 2)
        .map(|input| WeightUse {
            input,
            roles: roles(input),
            groups: 1,
            bias: None,
            out_axis: None,
            out_from_last: None,
            gates: 1,
        })
        .collect())
}

fn macs_einsum(node: &Node, inputs: Facts<'_>, _: &[Fact]) -> Result<u64> {
    let Some(shapes) = known_shapes(inputs) else { return Ok(0) };
    let equation = equation(node, &shapes)?;
    count_of(equation.extents(&shapes)?.iter().map(|(_, extent)| extent))
}

/// Stacks of `[m, k]` and `[k, n]` give stacks of `[m, n]`; a vector has no `m` or no `n`. The operands stand at `a` and
/// `b`. Gives the axes of m and n, where there are such.
fn axes_product(axes: &mut Statement<'_>, a: usize, b: usize) -> Result<[Option<Axis>; 2]> {
    let (a, b, y) = (axes.need(a, 1)?, axes.need(b, 1)?, axes.output(0));
    let ((&inner, a), (&last, b)) = match (a.split_last(), b.split_last()) {
        (Some(a), Some(b)) => (a, b),
        _ => return Ok([None; 2]),
    };
    let (column, contracted, stack_b) = match b.split_last() {
        Some((&rows, stack)) => (Some(last), rows, stack),
        None => (None, last, b),
    };
    let (row, stack_a) = a.split_last().map_or((None, a), |(&row, stack)| (Some(row), stack));
    axes.same(inner, contracted);
    let mut outer = &y[..];
    for own in [column, row].into_iter().flatten() {
        if let Some((&last, rest)) = outer.split_last() {
            axes.same(own, last);
            outer = rest;
        }
    }
    axes.meet_all(stack_a, outer);
    axes.meet_all(stack_b, outer);
    Ok([row, column])
}

fn axes_matmul(_: &Node, axes: &mut Statement<'_>) -> Result<()> {
    axes_product(axes, 0, 1).map(|_| ())
}

fn axes_matmul_integer(_: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let ends = axes_product(axes, 0, 1)?;
    axes_scales(axes, ends, &[2], &[3]);
    Ok(())
}

fn axes_qlinear_matmul(_: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let ends = axes_product(axes, 0, 3)?;
    axes_scales(axes, ends, &[1, 2], &[4, 5]);
    Ok(())
}

/// Scales and zero points are single numbers, or one for each row of the left operand or column of the right one.
fn axes_scales(axes: &mut Statement<'_>, ends: [Option<Axis>; 2], left: &[usize], right: &[usize]) {
    for (end, operands) in ends.into_iter().zip([left, right]) {
        for &operand in operands {
            match end {
                Some(end) => axes.along(operand, end),
                None => axes.fix_all(&axes.input(operand)),
            }
        }
    }
}

/// As [`gemm_shape`], with the operands at the same places.
pub(super) fn axes_gemm_at(
    node: &Node,
    axes: &mut Statement<'_>,
    [a, b, c]: [usize; 3],
) -> Result<[Axis; 2]> {
    let (mut a, mut b, y) = (axes.need(a, 2)?, axes.need(b, 2)?, axes.need_output(0, 2)?);
    for (operand, name) in [(&mut a, "transA"), (&mut b, "transB")] {
        if node.int_or(name, 0)? != 0 {
            operand.reverse();
        }
    }
    axes.same(a[1], b[0]);
    axes.same_all(&[a[0], b[1]], &y);
    axes.meet_all(&axes.input(c), &y);
    Ok([a[0], b[1]])
}

fn axes_gemm(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    axes_gemm_at(node, axes, [0, 1, 2]).map(|_| ())
}

/// Axes of one label are the same.
fn axes_einsum(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let shapes: Vec<Vec<usize>> = (0..node.inputs.len()).map(|i| axes.shape(i)).collect();
    let equation = equation(node, &shapes.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
    let operands = equation.inputs.iter().enumerate().map(|(i, labels)| (labels, axes.input(i)));
    let all: Vec<_> = operands.chain([(&equation.output, axes.output(0))]).collect();
    let mut first: Vec<(char, Axis)> = Vec::new();
    for (&label, &axis) in all.iter().flat_map(|(labels, axes)| labels.iter().zip(axes)) {
        match first.iter().find(|(l, known)| *l == label && axes.extent(*known) == axes.extent(axis)) {
            Some(&(_, known)) => axes.same(known, axis),
            None => {
                axes.free(axis);
                first.push((label, axis));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equations() {
        let e = Equation::parse("bij, bjk -> bik", &[3, 3]).unwrap();
        assert_eq!(e.output, ['b', 'i', 'k']);
        let e = Equation::parse("...ij,...jk", &[4, 3]).unwrap();
        assert_eq!(e.output, ['0', '1', 'i', 'k']);
        assert_eq!(e.inputs[1], ['1', 'j', 'k']);
        assert!(Equation::parse("ij,jk->iz", &[2, 2]).is_err());
        assert!(Equation::parse("ij", &[3]).is_err());
        assert!(Equation::parse("...ij", &[1]).is_err());
    }

    #[test]
    fn products_of_vectors_and_stacks() {
        assert_eq!(matmul_shape(&[3], &[3]).unwrap(), Vec::<usize>::new());
        assert_eq!(matmul_shape(&[2, 1, 4, 3], &[5, 3, 6]).unwrap(), [2, 5, 4, 6]);
        assert!(matmul_shape(&[2, 3], &[2, 3]).is_err());
    }
}
