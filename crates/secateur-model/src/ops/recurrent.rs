//! Recurrent operators.

use super::axes::{Slot, Statement};
use super::{AxisRole, Fact, Facts, Op, WeightUse, count_of, len_of};
use crate::{Error, Node, Result};

pub(super) const OPS: &[Op] = &[
    Op::new("RNN", 7, infer_recurrent)
        .types(&[&[0, 1, 2, 3, 5, 6, 7]])
        .axes(axes_recurrent)
        .weights(weights_recurrent)
        .macs(macs_recurrent),
    Op::new("GRU", 7, infer_recurrent)
        .types(&[&[0, 1, 2, 3, 5, 6, 7]])
        .axes(axes_recurrent)
        .weights(weights_recurrent)
        .macs(macs_recurrent),
    Op::new("LSTM", 7, infer_recurrent)
        .types(&[&[0, 1, 2, 3, 5, 6, 7]])
        .axes(axes_recurrent)
        .weights(weights_recurrent)
        .macs(macs_recurrent),
];

/// `X` is `[seq, batch, in]`, or `[batch, seq, in]` with `layout` 1; the outputs are
/// `Y [seq, directions, batch, hidden]`, `Y_h [directions, batch, hidden]` and, for LSTM, `Y_c`.
fn infer_recurrent(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let x = inputs.need(0)?;
    let outputs = if node.op_type == "LSTM" { 3 } else { 2 };
    let (Some(xs), Some(r)) = (x.shape(), inputs.need(2)?.shape()) else {
        return Ok(vec![Fact::unknown(x.dtype); outputs]);
    };
    let (&[a, b, _], &[directions, _, hidden]) = (xs, r) else {
        return Err(Error::input(format!("input {xs:?} and recurrence weight {r:?}: expected rank 3 each")));
    };
    operands_fit(node, inputs, xs, [directions, hidden])?;
    let facts = if node.int_or("layout", 0)? == 0 {
        let last = Fact { dtype: x.dtype, shape: Some(vec![directions, b, hidden]), ..Fact::default() };
        [
            Fact { dtype: x.dtype, shape: Some(vec![a, directions, b, hidden]), ..Fact::default() },
            last.clone(),
            last,
        ]
    } else {
        let last = Fact { dtype: x.dtype, shape: Some(vec![a, directions, hidden]), ..Fact::default() };
        [
            Fact { dtype: x.dtype, shape: Some(vec![a, b, directions, hidden]), ..Fact::default() },
            last.clone(),
            last,
        ]
    };
    Ok(facts[..outputs].to_vec())
}

fn gates(node: &Node) -> usize {
    match node.op_type.as_str() {
        "LSTM" => 4,
        "GRU" => 3,
        _ => 1,
    }
}

/// Checks the shapes of all operands but the input and the recurrence weight's first and last axis.
fn operands_fit(node: &Node, inputs: Facts<'_>, x: &[usize], [directions, hidden]: [usize; 2]) -> Result<()> {
    let gates = gates(node);
    let rows = len_of(&[gates, hidden])?;
    let batch_first = node.int_or("layout", 0)? != 0;
    let batch = if batch_first { x[0] } else { x[1] };
    inputs.expect(1, "the input weights", &[&[directions, rows, x[2]]])?;
    inputs.expect(2, "the recurrence weights", &[&[directions, rows, hidden]])?;
    inputs.expect(3, "the biases", &[&[directions, 2 * rows]])?;
    inputs.expect(4, "the sequences' lengths", &[&[batch]])?;
    let state: &[usize] =
        if batch_first { &[batch, directions, hidden] } else { &[directions, batch, hidden] };
    inputs.expect(5, "the first state", &[state])?;
    if node.op_type == "LSTM" {
        inputs.expect(6, "the first cell state", &[state])?;
        inputs.expect(7, "the peephole weights", &[&[directions, 3 * hidden]])?;
    }
    // The products of all steps with the input weights are held at once.
    len_of(&[x[0], x[1], rows]).map(|_| ())
}

/// Input weights `[directions, gates·hidden, in]` and recurrence weights `[directions, gates·hidden, hidden]`.
fn weights_recurrent(node: &Node, _: Facts<'_>) -> Result<Vec<WeightUse>> {
    let weight = |input| WeightUse {
        input,
        roles: vec![AxisRole::Direction, AxisRole::GateOut, AxisRole::In],
        groups: 1,
        bias: None,
        out_axis: None,
        out_from_last: None,
        gates: gates(node),
    };
    Ok(vec![weight(1), weight(2)])
}

/// Both weights meet every step of every sample.
fn macs_recurrent(_: &Node, inputs: Facts<'_>, _: &[Fact]) -> Result<u64> {
    let (Some(x), Some(w), Some(r)) = (inputs.shape(0), inputs.shape(1), inputs.shape(2)) else {
        return Ok(0);
    };
    let steps = || x.iter().take(2);
    Ok(count_of(steps().chain(w))? + count_of(steps().chain(r))?)
}

/// Each gate has one row for each hidden unit: weights have [h | h | …] outputs, and the recurrence weight h inputs.
/// Steps and directions are in order.
fn axes_recurrent(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let (x, w, r) = (axes.need(0, 3)?, axes.need(1, 3)?, axes.need(2, 3)?);
    let batch_first = node.int_or("layout", 0)? != 0;
    let (steps, batch) = if batch_first { (x[1], x[0]) } else { (x[0], x[1]) };
    let (directions, hidden) = (w[0], r[2]);
    axes.fix_all(&[steps, directions]);
    axes.same(r[0], directions);
    axes.same(x[2], w[2]);
    // How often a hidden unit occurs in an operand that has rows for each direction.
    for (operand, axis) in [(w, 1), (r, 1), (axes.input(3), 1), (axes.input(7), 1)] {
        let Some(&rows) = operand.get(axis) else { continue };
        let gates = axes.extent(rows).checked_div(axes.extent(hidden)).unwrap_or(0);
        let stacked = axes.concat(&vec![hidden; gates]);
        axes.same(rows, stacked);
        axes.same(operand[0], directions);
    }
    axes.along(4, batch);
    let state = if batch_first { [batch, directions, hidden] } else { [directions, batch, hidden] };
    for operand in [axes.input(5), axes.input(6), axes.output(1), axes.output(2)] {
        axes.same_all(&operand, &state);
    }
    let all =
        if batch_first { [batch, steps, directions, hidden] } else { [steps, directions, batch, hidden] };
    axes.same_all(&axes.output(0), &all);
    axes.write(Slot::Attr("hidden_size"), hidden);
    Ok(())
}
