//! Values that a model has packed as f16 or int8 stay so where a layer runs on one row.

mod common;

use std::sync::Arc;

use common::{Chain, packed};
use secateur_model::packed::ValueType;
use secateur_model::{Attr, Edits, Model, Tensor};
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

/// The result of a model and its only node.
fn run(model: Model, input: &Tensor) -> (Vec<f32>, PlannedNode) {
    let session = Session::new(Arc::new(model), Edits::new()).unwrap();
    let (outputs, mut times) = session.profile(vec![("x".into(), input.clone())]).unwrap();
    assert_eq!(times.len(), 1);
    (outputs[0].to_f32s().unwrap(), times.remove(0).node)
}

/// The model with its packed tensors expanded.
fn unpacked(model: &Model) -> Model {
    let mut model = model.clone();
    model.tensors.values_mut().for_each(|stored| *stored = stored.dense().into_owned());
    model
}

#[test]
fn f16_values_stay_f16() {
    for rows in [true, false] {
        let (model, input) = linear(rows, &[]);
        let model = packed(&model, ValueType::F16);
        let (expected, dense) = run(unpacked(&model), &input);
        let (found, node) = run(model, &input);
        assert_eq!((dense.kernel, node.kernel), (Some("sparse"), Some("sparse f16")));
        assert!(dense.is_sparse() && node.is_sparse());
        // Estimates are of bytes.
        assert!(node.estimate.unwrap().as_secs_f64() < 0.8 * dense.estimate.unwrap().as_secs_f64());
        let largest = expected.iter().fold(0f32, |largest, v| largest.max(v.abs()));
        for (a, b) in found.iter().zip(&expected) {
            assert!((a - b).abs() <= 1e-5 * largest, "{a} and {b}, the largest is {largest}");
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
        assert!(node.estimate.unwrap().as_secs_f64() < 0.6 * dense.estimate.unwrap().as_secs_f64());
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

/// Factors would round f16 values again, and int8 values with a scale for each input are no bytes of an output's.
#[test]
fn other_values_become_f32() {
    let cases = [
        (true, vec![("alpha", Attr::Float(1.5))], ValueType::F16),
        (true, vec![], ValueType::Int8 { axis: 1 }),
        (false, vec![], ValueType::Int8 { axis: 0 }),
        (true, vec![], ValueType::Exact),
    ];
    for (rows, attrs, values) in cases {
        let (model, input) = linear(rows, &attrs);
        let model = packed(&model, values);
        let (expected, _) = run(unpacked(&model), &input);
        let (found, node) = run(model, &input);
        assert_eq!(node.kernel, Some("sparse"));
        assert_eq!(found, expected);
    }
}
