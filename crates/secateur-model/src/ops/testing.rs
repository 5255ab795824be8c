//! What the tests of operators share.

use super::{Fact, Facts, Inputs, find, infer};
use crate::{Attr, Node, Result, Tensor, ValueId};

/// A node of the default domain with one output.
pub(super) fn node(op_type: &str, opset: u32) -> Node {
    Node { op_type: op_type.into(), opset, outputs: vec![Some(ValueId(0))], ..Node::default() }
}

/// A node with an attribute more.
pub(super) fn with_attr(mut node: Node, name: &str, attr: Attr) -> Node {
    node.attrs.insert(name.into(), attr);
    node
}

/// A node with as many outputs.
pub(super) fn with_outputs(mut node: Node, outputs: usize) -> Node {
    node.outputs = (0..outputs).map(|i| Some(ValueId(i as u32))).collect();
    node
}

/// Evaluates a node, and checks that inference from types and shapes alone says nothing else.
pub(super) fn eval(node: &Node, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
    let some: Vec<Option<&Tensor>> = inputs.iter().map(|&t| Some(t)).collect();
    eval_optional(node, &some)
}

/// As [`eval`], with inputs left out.
pub(super) fn eval_optional(node: &Node, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>> {
    let op = find(node).unwrap_or_else(|| panic!("{} {} is not in the table", node.op_type, node.opset));
    let outputs = op.eval.expect("the operator evaluates")(node, Inputs(inputs))?;
    let shapes: Vec<Option<Fact>> =
        inputs.iter().map(|t| t.map(|t| Fact::new(t.dtype(), t.shape()))).collect();
    for (fact, output) in infer(node, Facts(&shapes))?.iter().zip(&outputs) {
        assert!(fact.dtype.is_none_or(|d| d == output.dtype()), "{}: {fact:?}, {output:?}", node.op_type);
        assert!(fact.shape().is_none_or(|s| s == output.shape()), "{}: {fact:?}, {output:?}", node.op_type);
    }
    Ok(outputs)
}

/// Asserts that elements are within a relative (and the same absolute) tolerance of expected ones.
#[track_caller]
pub(super) fn close(tensor: &Tensor, expected: &[f64], tolerance: f64) {
    let values = tensor.to_f32s().unwrap();
    assert_eq!(values.len(), expected.len());
    for (&found, &expected) in values.iter().zip(expected) {
        let found = f64::from(found);
        let equal = found == expected
            || (found.is_nan() && expected.is_nan())
            || (found - expected).abs() <= tolerance * (1.0 + expected.abs());
        assert!(equal, "found {found}, expected {expected} in {values:?}");
    }
}
