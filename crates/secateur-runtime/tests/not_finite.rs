//! Weights that are infinite, or no number, give on sparse kernels what they give on dense ones.

#[allow(dead_code)] // each test uses its part
mod common;

use std::sync::Arc;

use common::Chain;
use secateur_model::{Attr, Model, Patch, Tensor};
use secateur_runtime::Session;

const NOT_FINITE: [f32; 3] = [f32::NEG_INFINITY, f32::INFINITY, f32::NAN];

/// Weights with so many of a hundred not zero, and some of them not finite.
fn weights(chain: &mut Chain, shape: &[usize], kept: u64, values: &[f32]) -> Tensor {
    let mut tensor = chain.random(shape, kept);
    let len = tensor.len();
    for (i, &value) in values.iter().cycle().take(if values.is_empty() { 0 } else { 7 }).enumerate() {
        tensor.values_mut::<f32>().unwrap()[(i * 613 + 5) % len] = value;
    }
    tensor
}

/// Whether two results are the same: not finite alike, else but for rounding.
fn are_alike(found: &[f32], expected: &[f32], about: &str) {
    assert_eq!(found.len(), expected.len(), "{about}");
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        let alike = if a.is_finite() && b.is_finite() {
            (a - b).abs() <= 1e-4 * b.abs().max(1.0)
        } else {
            a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
        };
        assert!(alike, "{about}, output {i}: {a}, expected {b}");
    }
}

fn run(session: &Session, input: &Tensor) -> Vec<f32> {
    session.run(vec![("x".into(), input.clone())]).unwrap()[0].to_f32s().unwrap()
}

/// The fused model, with whatever kernels pay, and node by node on dense ones.
fn same_fused_and_not(model: Model, input: &Tensor, about: &str) -> Vec<f32> {
    let model = Arc::new(model);
    let fused = run(&Session::new(model.clone(), Patch::new()).unwrap(), input);
    let plain = run(&Session::without_fusion(model, Patch::new()).unwrap(), input);
    are_alike(&fused, &plain, about);
    fused
}

#[test]
fn convolutions() {
    for not_finite in [&NOT_FINITE[..1], &NOT_FINITE[1..2], &NOT_FINITE[2..], &NOT_FINITE] {
        for (channels, size, kernel, stride, pad, kept) in [
            (24, 14, 3, 1, 1, 10),
            (40, 9, 3, 2, 1, 10),
            (16, 12, 5, 1, 2, 5),
            (32, 8, 1, 1, 0, 10),
            (24, 14, 3, 1, 1, 100),
        ] {
            let mut chain = Chain::new(&[2, channels, size, size]);
            let weight = weights(&mut chain, &[48, channels, kernel, kernel], kept, not_finite);
            let norm: Vec<Tensor> = (0..4).map(|_| chain.random(&[48], 100)).collect();
            let weight = chain.constant(weight);
            chain.node(
                "Conv",
                &[weight],
                &[("pads", Attr::Ints(vec![pad; 4])), ("strides", Attr::Ints(vec![stride; 2]))],
            );
            let mut norm = norm;
            norm[3].values_mut::<f32>().unwrap().iter_mut().for_each(|v| *v = v.abs() + 0.5);
            let norm: Vec<_> = norm.into_iter().map(|tensor| chain.constant(tensor)).collect();
            chain.node("BatchNormalization", &norm, &[]);
            let input = chain.random(&[2, channels, size, size], 100);
            let about = format!("{not_finite:?} {channels} channels, {kernel} kernel, stride {stride}");
            let found = same_fused_and_not(chain.model(), &input, &about);
            assert!(found.iter().any(|v| !v.is_finite()), "{about}");
            assert!(found.iter().any(|v| v.is_finite()), "{about}");
        }
    }
}

/// On one row and a few, where weights with zeros are stored apart, and on many.
#[test]
fn linear_layers() {
    for not_finite in [&NOT_FINITE[..1], &NOT_FINITE[1..2], &NOT_FINITE[2..], &NOT_FINITE] {
        for (rows, inputs, outputs, kept) in [
            (1, 300, 130, 8),
            (1, 300, 130, 40),
            (2, 64, 70, 10),
            (3, 257, 33, 50),
            (90, 96, 64, 10),
            (1, 40, 9, 100),
        ] {
            let mut chain = Chain::new(&[rows, inputs]);
            let weight = weights(&mut chain, &[outputs, inputs], kept, not_finite);
            let constant = chain.constant(weight.clone());
            chain.node("Gemm", &[constant], &[("transB", Attr::Int(1))]);
            let input = chain.random(&[rows, inputs], 100);
            let about = format!("{not_finite:?} {rows} rows of {inputs} to {outputs}, {kept} % kept");
            let found = same_fused_and_not(chain.model(), &input, &about);
            let (x, w) = (input.to_f32s().unwrap(), weight.to_f32s().unwrap());
            let sum = |i: usize| -> f32 {
                let (row, output) = (i / outputs, i % outputs);
                let pairs = x[row * inputs..][..inputs].iter().zip(&w[output * inputs..][..inputs]);
                pairs.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>() as f32
            };
            let expected: Vec<f32> = (0..rows * outputs).map(sum).collect();
            are_alike(&found, &expected, &about);
            assert!(found.iter().any(|v| !v.is_finite()) && found.iter().any(|v| v.is_finite()), "{about}");
        }
    }
}

/// A mask of 0 and −∞ that is multiplied or added behind a layer acts behind it, not on its weights of zero.
#[test]
fn masks_behind_a_layer() {
    for op in ["Mul", "Add", "Div", "Sub"] {
        for value in NOT_FINITE.into_iter().chain([0.0, 1e38]) {
            let mut chain = Chain::new(&[2, 16, 7, 7]);
            let weight = chain.random(&[12, 16, 3, 3], 10);
            let mut mask = chain.random(&[12, 1, 1], 100);
            mask.values_mut::<f32>().unwrap()[3] = value;
            let (weight, mask) = (chain.constant(weight), chain.constant(mask));
            chain.node("Conv", &[weight], &[("pads", Attr::Ints(vec![1; 4]))]);
            chain.node(op, &[mask], &[]);
            let input = chain.random(&[2, 16, 7, 7], 100);
            same_fused_and_not(chain.model(), &input, &format!("{op} {value}"));
        }
    }
}

#[test]
fn a_model_without_inputs_runs() {
    let mut chain = Chain::new(&[1, 4]);
    let a = chain.random(&[3, 4], 100);
    let b = chain.random(&[4, 2], 100);
    let (a, b) = (chain.constant(a), chain.constant(b));
    let mut model = chain.model();
    let graph = model.graph.as_mut().unwrap();
    let (node, out) = common::node_of(graph, "MatMul", &[a, b], &[]);
    let (second, last) = common::node_of(graph, "Relu", &[out], &[]);
    graph.nodes = vec![node, second];
    graph.inputs.clear();
    graph.outputs = vec![last];
    let session = Session::new(Arc::new(model), Patch::new()).unwrap();
    assert!(session.inputs().is_empty());
    assert_eq!(session.run(Vec::new()).unwrap()[0].shape(), [3, 2]);
}
