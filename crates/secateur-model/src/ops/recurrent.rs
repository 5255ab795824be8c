//! Recurrent operators.

use super::{AxisRole, Fact, Facts, Op, WeightUse, count_of, len_of};
use crate::{Error, Node, Result};

pub(super) const OPS: &[Op] = &[
    Op::new("RNN", 7, infer_recurrent).weights(weights_recurrent).macs(macs_recurrent),
    Op::new("GRU", 7, infer_recurrent).weights(weights_recurrent).macs(macs_recurrent),
    Op::new("LSTM", 7, infer_recurrent).weights(weights_recurrent).macs(macs_recurrent),
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

/// Checks the shapes of all operands but the input and the recurrence weight's first and last axis.
fn operands_fit(node: &Node, inputs: Facts<'_>, x: &[usize], [directions, hidden]: [usize; 2]) -> Result<()> {
    let gates = match node.op_type.as_str() {
        "LSTM" => 4,
        "GRU" => 3,
        _ => 1,
    };
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
fn weights_recurrent(_: &Node, _: Facts<'_>) -> Result<Vec<WeightUse>> {
    let weight = |input| WeightUse {
        input,
        roles: vec![AxisRole::Direction, AxisRole::GateOut, AxisRole::In],
        groups: 1,
        bias: None,
        out_axis: None,
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
