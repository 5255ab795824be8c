//! Values that a model has packed as f16 or int8 stay so where a layer runs on one row, and on tiles.

mod common;

use std::sync::Arc;

use common::{Chain, packed};
use secateur_model::packed::ValueType;
use secateur_model::{Attr, Model, Patch, Tensor};
use secateur_runtime::{PlannedNode, Session};

const INPUTS: usize = 300;
const OUTPUTS: usize = 130;

/// A linear layer on a row: a Gemm where its weights have a row for each output, a MatMul where they have a column.
fn linear(rows: bool, attrs: &[(&str, Attr)]) -> (Model, Tensor) {
    let mut chain = Chain::new(&[1, INPUTS]);
    if rows {
        let (weight, bias) = (chain.random(&[OUTPUTS, INPUTS], 20), chain.random(&[OUTPUTS], 100));
        let constants = [chain.constant(weight), chain.constant(bias)];
        let across = ("transB", Attr::Int(1));
        chain.node("Gemm", &constants, &[&[across], attrs].concat());
    } else {
        let weight = chain.random(&[INPUTS, OUTPUTS], 20);
        let weight = chain.constant(weight);
        chain.node("MatMul", &[weight], attrs);
    }
    let input = chain.random(&[1, INPUTS], 100);
    (chain.model(), input)
}

/// The result of a model and its nodes.
fn run_all(model: Model, input: &Tensor) -> (Vec<f32>, Vec<PlannedNode>) {
    let session = Session::new(Arc::new(model), Patch::new()).unwrap();
    let (outputs, times) = session.profile(vec![("x".into(), input.clone())]).unwrap();
    (outputs[0].to_f32s().unwrap(), times.into_iter().map(|time| time.node).collect())
}

/// The result of a model and its only node.
fn run(model: Model, input: &Tensor) -> (Vec<f32>, PlannedNode) {
    let (outputs, mut nodes) = run_all(model, input);
    assert_eq!(nodes.len(), 1);
    (outputs, nodes.remove(0))
}

/// The model with its packed tensors expanded.
fn unpacked(model: &Model) -> Model {
    let mut model = model.clone();
    model.tensors.values_mut().for_each(|stored| *stored = stored.dense().into_owned());
    model
}

#[test]
fn f16_values_stay_f16() {
    for (rows, alpha) in [(true, None), (false, None), (true, Some(1.5))] {
        let attrs = alpha.map(|alpha| ("alpha", Attr::Float(alpha)));
        let (model, input) = linear(rows, attrs.as_slice());
        let model = packed(&model, ValueType::F16);
        let (expected, dense) = run(unpacked(&model), &input);
        let (found, node) = run(model, &input);
        assert_eq!((dense.kernel, node.kernel), (Some("sparse"), Some("sparse f16")));
        assert!(dense.is_sparse() && node.is_sparse());
        // Estimates are of bytes.
        assert!(node.estimate.unwrap() < dense.estimate.unwrap());
        let largest = expected.iter().fold(0f32, |largest, v| largest.max(v.abs()));
        for (a, b) in found.iter().zip(&expected) {
            assert!((a - b).abs() <= 1e-5 * largest, "{a} and {b}, the largest is {largest}");
        }
    }
}

/// A convolution with a batch-norm behind it, whose factors are folded, and a linear layer on many rows.
#[test]
fn values_stay_what_they_are_on_tiles() {
    let conv = |percent| {
        let mut chain = Chain::new(&[1, 24, 12, 12]);
        let weight = chain.random(&[40, 24, 3, 3], percent);
        let norm: Vec<Tensor> = (0..4).map(|_| chain.random(&[40], 100)).collect();
        let weight = chain.constant(weight);
        chain.node("Conv", &[weight], &[("pads", Attr::Ints(vec![1; 4]))]);
        // Scales, shifts and means of any sign, variances of none.
        let positive = norm[3].to_f32s().unwrap().into_iter().map(|v| v.abs() + 0.5).collect::<Vec<f32>>();
        let mut norm: Vec<_> = norm[..3].iter().map(|values| chain.constant(values.clone())).collect();
        norm.push(chain.constant(Tensor::new([40], positive).unwrap()));
        chain.node("BatchNormalization", &norm, &[]);
        let input = chain.random(&[1, 24, 12, 12], 100);
        (chain.model(), input, 0)
    };
    let linear = |percent| {
        let mut chain = Chain::new(&[30, INPUTS]);
        let weight = chain.random(&[INPUTS, OUTPUTS], percent);
        let weight = chain.constant(weight);
        chain.node("MatMul", &[weight], &[]);
        let input = chain.random(&[30, INPUTS], 100);
        (chain.model(), input, 1)
    };
    let kernel =
        |nodes: &[PlannedNode]| nodes.iter().find_map(|node| node.kernel.filter(|k| k.starts_with("sparse")));
    for (model, input, axis) in [conv(8), conv(35), linear(8), linear(35)] {
        for (values, name) in [(ValueType::F16, "sparse f16"), (ValueType::Int8 { axis }, "sparse int8")] {
            let model = packed(&model, values);
            let (expected, dense) = run_all(unpacked(&model), &input);
            let (found, nodes) = run_all(model, &input);
            assert_eq!((kernel(&dense), kernel(&nodes)), (Some("sparse"), Some(name)));
            let largest = expected.iter().fold(0f32, |largest, v| largest.max(v.abs()));
            for (a, b) in found.iter().zip(&expected) {
                assert!((a - b).abs() <= 2e-5 * largest, "{name}: {a} and {b}, the largest is {largest}");
            }
        }
    }
}

#[test]
fn int8_values_with_a_scale_for_each_output_stay_int8() {
    for (rows, alpha) in [(true, None), (false, None), (true, Some(1.5))] {
        let attrs = alpha.map(|alpha| ("alpha", Attr::Float(alpha)));
        let (model, input) = linear(rows, attrs.as_slice());
        let model = packed(&model, ValueType::Int8 { axis: if rows { 0 } else { 1 } });
        let weight = model.tensors["w0"].load().unwrap().to_f32s().unwrap();
        let (expected, dense) = run(unpacked(&model), &input);
        let (found, node) = run(model, &input);
        assert_eq!((dense.kernel, node.kernel), (Some("sparse"), Some("sparse int8")));
        assert!(node.estimate.unwrap() < dense.estimate.unwrap());
        let largest = input.values::<f32>().unwrap().iter().fold(0f32, |largest, v| largest.max(v.abs()));
        for (o, (a, b)) in found.iter().zip(&expected).enumerate() {
            let at = |i: usize| if rows { o * INPUTS + i } else { i * OUTPUTS + o };
            let sum: f32 = (0..INPUTS).map(|i| weight[at(i)].abs()).sum();
            // Inputs are rounded, and weights not again.
            let bound = alpha.unwrap_or(1.0) * largest * sum / 254.0;
            assert!((a - b).abs() <= 1.001 * bound, "{a} and {b}, the bound is {bound}");
        }
    }
}

/// int8 values with a scale for each input are no bytes of an output's.
#[test]
fn other_values_become_f32() {
    let cases =
        [(true, ValueType::Int8 { axis: 1 }), (false, ValueType::Int8 { axis: 0 }), (true, ValueType::Exact)];
    for (rows, values) in cases {
        let (model, input) = linear(rows, &[]);
        let model = packed(&model, values);
        let (expected, _) = run(unpacked(&model), &input);
        let (found, node) = run(model, &input);
        assert_eq!(node.kernel, Some("sparse"));
        assert_eq!(found, expected);
    }
}
