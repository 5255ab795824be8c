//! Attention reads queries, keys and values where one product left them, and their gradients join.

use super::*;
use crate::{Tape, TapeOptions};

const QUERIES: usize = 5;
const BATCH: usize = 2;
const HEADS: usize = 3;
const WIDTH: usize = 4;
const HIDDEN: usize = HEADS * WIDTH;

/// How queries, keys and values are taken from `[queries, batch, …]`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    /// As PyTorch's exporter writes it.
    Exported,
    /// The parts of a `Split`.
    Split,
    /// Slices, side by side.
    Slices,
    /// Slices, with elements between them that nobody uses.
    Gaps,
    /// Keys and values from the same slice.
    Shared,
    /// The three side by side within each head.
    Interleaved,
    /// Batch and heads as one axis, which does not lie evenly in the tensor of all three.
    Carried,
}

/// A graph of one attention.
struct Packed {
    b: Build,
    input: ValueId,
    /// The trained constants.
    variables: Vec<ValueId>,
    queries: ValueId,
    weights: ValueId,
    result: ValueId,
}

fn perm(b: &mut Build, x: ValueId, order: &[i64]) -> ValueId {
    b.node("Transpose", &[x], &[("perm", Attr::Ints(order.to_vec()))])
}

fn reshape(b: &mut Build, x: ValueId, shape: &[usize]) -> ValueId {
    let shape: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
    let shape = b.ints(&shape);
    b.node("Reshape", &[x, shape], &[])
}

/// `[queries, batch, HIDDEN]` for queries, keys and values.
fn parts(b: &mut Build, all: ValueId, form: Form) -> [ValueId; 3] {
    match form {
        Form::Exported => {
            let x = reshape(b, all, &[QUERIES, BATCH, 3, HIDDEN]);
            let x = axes(b, "Unsqueeze", x, &[0]);
            let x = perm(b, x, &[3, 1, 2, 0, 4]);
            let x = axes(b, "Squeeze", x, &[3]);
            [0, 1, 2].map(|i| {
                let index = b.constant(Tensor::scalar(i as i64));
                b.node("Gather", &[x, index], &[])
            })
        }
        Form::Interleaved => {
            let x = reshape(b, all, &[QUERIES, BATCH, HEADS, 3, WIDTH]);
            [0, 1, -1].map(|i| {
                let index = b.ints(&[i]);
                b.node("Gather", &[x, index], &[("axis", int(3))])
            })
        }
        Form::Split | Form::Carried => {
            let sizes = b.ints(&[HIDDEN as i64; 3]);
            let first = b.node("Split", &[all, sizes], &[("axis", int(-1))]);
            let others = [b.value(None), b.value(None)];
            b.graph.nodes.last_mut().unwrap().outputs.extend(others.map(Some));
            [first, others[0], others[1]]
        }
        Form::Slices | Form::Gaps | Form::Shared => {
            let apart = if form == Form::Gaps { HIDDEN + 3 } else { HIDDEN };
            let starts = if form == Form::Shared { [0, 1, 1] } else { [2, 0, 1] }.map(|i| i * apart);
            starts.map(|start| {
                let [from, to] = [start, start + HIDDEN].map(|at| b.ints(&[at as i64]));
                let axis = b.ints(&[2]);
                b.node("Slice", &[all, from, to, axis], &[])
            })
        }
    }
}

fn packed(form: Form) -> Packed {
    let mut b = Build::new();
    let input = b.input(&[QUERIES, BATCH, HIDDEN]);
    let columns = if form == Form::Gaps { 3 * HIDDEN + 9 } else { 3 * HIDDEN };
    let (weight, bias) = (b.weight(&[HIDDEN, columns]), b.weight(&[columns]));
    let all = b.node("MatMul", &[input, weight], &[]);
    let all = b.node("Add", &[bias, all], &[]);
    let parts = parts(&mut b, all, form);
    let [q, k, v] = parts.map(|x| {
        let x = reshape(&mut b, x, &[QUERIES, BATCH * HEADS, WIDTH]);
        let x = perm(&mut b, x, &[1, 0, 2]);
        if form == Form::Carried { x } else { reshape(&mut b, x, &[BATCH, HEADS, QUERIES, WIDTH]) }
    });
    let factor = b.scalar(0.7);
    let scaled = b.node("Mul", &[q, factor], &[]);
    let k = perm(&mut b, k, if form == Form::Carried { &[0, 2, 1] } else { &[0, 1, 3, 2] });
    let k = b.node("Mul", &[k, factor], &[]);
    let scores = b.node("MatMul", &[scaled, k], &[]);
    let weights = b.node("Softmax", &[scores], &[]);
    let y = b.node("MatMul", &[weights, v], &[]);
    let y = match form {
        Form::Carried => perm(&mut b, y, &[1, 0, 2]),
        // Joined before the axes move.
        Form::Slices => {
            let y = reshape(&mut b, y, &[BATCH * HEADS, QUERIES, WIDTH]);
            perm(&mut b, y, &[1, 0, 2])
        }
        _ => perm(&mut b, y, &[2, 0, 1, 3]),
    };
    let result = reshape(&mut b, y, &[QUERIES * BATCH, HIDDEN]);
    Packed { b, input, variables: vec![weight, bias], queries: q, weights, result }
}

#[test]
fn packed_operands_are_read_where_they_lie() {
    for form in [Form::Exported, Form::Split, Form::Slices, Form::Gaps, Form::Shared, Form::Interleaved] {
        let Packed { b, result, .. } = packed(form);
        assert_eq!(b.agree(&[result]), ["MatMul+affine", "Attention"], "{form:?}");
    }
    let Packed { b, result, .. } = packed(Form::Carried);
    assert_eq!(b.agree(&[result]), ["MatMul+affine", "Split", "Attention"]);
}

#[test]
fn views_that_others_use_stay() {
    let Packed { b, result, queries, .. } = packed(Form::Split);
    let kinds = b.agree(&[result, queries]);
    assert_eq!(kinds, ["MatMul+affine", "Split", "Reshape", "Transpose", "Reshape", "Attention"]);
}

/// The operators that training runs, and the gradients of the variables.
fn trained(form: Form, watched: bool) -> (Vec<String>, Vec<Vec<f32>>) {
    let Packed { mut b, input, variables, weights, mut result, .. } = packed(form);
    if watched {
        // Who else uses the weights keeps the nodes apart.
        let zero = b.scalar(0.0);
        let sum = b.node("ReduceSum", &[weights], &[("keepdims", int(0))]);
        let nothing = b.node("Mul", &[sum, zero], &[]);
        result = b.node("Add", &[result, nothing], &[]);
    }
    let x = b.random(&[QUERIES, BATCH, HIDDEN]);
    let slope = b.random(&[QUERIES * BATCH, HIDDEN]);
    b.graph.outputs = vec![result];
    let variables: Vec<_> = variables.iter().map(|value| b.graph.constants[value]).collect();
    let graph = b.graph.clone();
    b.model.graph = Some(b.graph);
    let model = Arc::new(b.model);
    let held = variables.iter().copied().zip(0..).collect();
    let weights = Arc::new(Weights::new(model.clone(), Patch::new(), true, Costs::SHIPPED));
    let given = [Fact::new(DType::F32, [QUERIES, BATCH, HIDDEN])];
    assert_eq!(graph.inputs, [input]);
    let (items, _) = compile_for_training(&graph, &weights, &given, &held, result).unwrap();
    let options = TapeOptions { variables, ..TapeOptions::default() };
    let mut tape = Tape::new(&model, &Patch::new(), &options).unwrap();
    // Buffers of the second step hold what the first one left.
    for step in 0..2 {
        tape.clear();
        tape.forward(vec![x.clone()], step).unwrap();
        tape.backward(slope.clone()).unwrap();
    }
    let gradients = (0..2).map(|at| tape.gradient(at).unwrap().unwrap().to_vec()).collect();
    (items.into_iter().map(|item| item.node.op_type).collect(), gradients)
}

#[test]
fn gradients_of_packed_operands_join() {
    for form in [
        Form::Exported,
        Form::Split,
        Form::Slices,
        Form::Gaps,
        Form::Shared,
        Form::Interleaved,
        Form::Carried,
    ] {
        let (kinds, found) = trained(form, false);
        let expected: &[&str] = match form {
            Form::Carried => &["MatMul", "Add", "Split", "Attention"],
            _ => &["MatMul", "Add", "Attention"],
        };
        assert_eq!(kinds, expected, "{form:?}");
        let (kinds, wanted) = trained(form, true);
        assert!(!kinds.contains(&"Attention".to_string()), "{form:?}: {kinds:?}");
        for (found, wanted) in found.iter().zip(&wanted) {
            let largest = wanted.iter().fold(0f32, |most, v| most.max(v.abs()));
            assert!(largest > 0.0);
            for (a, b) in found.iter().zip(wanted) {
                assert!(
                    (a - b).abs() <= 1e-5 * largest,
                    "{form:?}: {a}, apart {b}, the largest is {largest}"
                );
            }
        }
    }
}
