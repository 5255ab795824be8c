//! Weights that are large wait until a kernel needs them, however they are used.

mod common;

use std::sync::Arc;

use common::{Chain, node_of, packed};
use half::f16;
use secateur_model::graph::Value;
use secateur_model::packed::ValueType;
use secateur_model::{Attr, DType, Graph, Model, Node, Patch, Tensor, ValueId};
use secateur_runtime::Session;

/// Enough rows that a layer runs on tiles, or as a dense product.
const ROWS: usize = 24;
const INPUTS: usize = 96;
const OUTPUTS: usize = 64;

fn chain() -> (Chain, Tensor, Tensor) {
    let mut chain = Chain::new(&[ROWS, INPUTS]);
    let input = chain.random(&[ROWS, INPUTS], 100);
    let weight = chain.random(&[INPUTS, OUTPUTS], 15);
    (chain, input, weight)
}

/// The outputs of a model with its weights packed, fused and not.
fn run(model: &Model, input: &Tensor) -> Vec<Tensor> {
    let model = Arc::new(packed(model, ValueType::Exact));
    let given = vec![("x".to_string(), input.clone())];
    let plain = Session::without_fusion(model.clone(), Patch::new()).unwrap().run(given.clone()).unwrap();
    let fused = Session::new(model, Patch::new()).unwrap().run(given).unwrap();
    fused.iter().zip(&plain).for_each(|(a, b)| near(&a.to_f32s().unwrap(), &b.to_f32s().unwrap(), 1e-5));
    fused
}

fn product(x: &[f32], weight: &[f32]) -> Vec<f32> {
    let row = |x: &[f32]| -> Vec<f32> {
        (0..OUTPUTS)
            .map(|o| x.iter().zip(weight[o..].iter().step_by(OUTPUTS)).map(|(x, w)| x * w).sum())
            .collect()
    };
    x.chunks(INPUTS).flat_map(row).collect()
}

fn near(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f32, |largest, v| largest.max(v.abs()));
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() <= tolerance * largest, "{a} and {b}, the largest is {largest}");
    }
}

#[test]
fn weights_of_products_alone() {
    let (mut chain, input, weight) = chain();
    let w = chain.constant(weight.clone());
    chain.node("MatMul", &[w], &[]);
    let outputs = run(&chain.model(), &input);
    near(outputs[0].values().unwrap(), &product(input.values().unwrap(), weight.values().unwrap()), 1e-5);
}

#[test]
fn weights_of_f16() {
    let (mut chain, input, weight) = chain();
    let halves =
        |t: &Tensor| t.values::<f32>().unwrap().iter().map(|&v| f16::from_f32(v)).collect::<Vec<_>>();
    let rounded = |t: &Tensor| halves(t).into_iter().map(f16::to_f32).collect::<Vec<_>>();
    let w = chain.constant(Tensor::new(weight.shape(), halves(&weight)).unwrap());
    chain.node("Cast", &[], &[("to", Attr::Int(10))]);
    chain.node("MatMul", &[w], &[]);
    let outputs = run(&chain.model(), &input);
    assert_eq!(outputs[0].dtype(), DType::F16);
    near(&outputs[0].to_f32s().unwrap(), &product(&rounded(&input), &rounded(&weight)), 1e-3);
}

#[test]
fn weights_that_other_nodes_use_and_that_are_outputs() {
    let (mut chain, input, weight) = chain();
    let w = chain.constant(weight.clone());
    chain.node("MatMul", &[w], &[]);
    let mut model = chain.model();
    let graph = model.graph.as_mut().unwrap();
    let (neg, negative) = node_of(graph, "Neg", &[w], &[]);
    graph.nodes.push(neg);
    graph.outputs.extend([negative, w]);
    let outputs = run(&model, &input);
    let weight = weight.values::<f32>().unwrap();
    near(outputs[0].values().unwrap(), &product(input.values().unwrap(), weight), 1e-5);
    assert_eq!(outputs[1].values::<f32>().unwrap(), weight.iter().map(|w| -w).collect::<Vec<_>>());
    assert_eq!(outputs[2].values::<f32>().unwrap(), weight);
}

#[test]
fn weights_that_nested_graphs_capture() {
    let (mut chain, input, weight) = chain();
    let w = chain.constant(weight.clone());
    let yes = chain.constant(Tensor::scalar(true));
    chain.node("MatMul", &[w], &[]);
    let mut model = chain.model();
    let graph = model.graph.as_mut().unwrap();
    let inner = |op_type: &str| {
        let name = graph.value_name(w).to_string();
        let (inputs, outputs) = (vec![Some(ValueId(0))], vec![Some(ValueId(1))]);
        Attr::Graph(Box::new(Graph {
            values: vec![Value { name, ..Value::default() }, Value::default()],
            outputs: vec![ValueId(1)],
            nodes: vec![Node { op_type: op_type.into(), opset: 20, inputs, outputs, ..Node::default() }],
            captures: vec![ValueId(0)],
            ..Graph::default()
        }))
    };
    let attrs = [("then_branch", inner("Abs")), ("else_branch", inner("Neg"))];
    let (branches, out) = node_of(graph, "If", &[yes], &attrs);
    graph.nodes.push(branches);
    graph.outputs.push(out);
    let outputs = run(&model, &input);
    let weight = weight.values::<f32>().unwrap();
    near(outputs[0].values().unwrap(), &product(input.values().unwrap(), weight), 1e-5);
    assert_eq!(outputs[1].values::<f32>().unwrap(), weight.iter().map(|w| w.abs()).collect::<Vec<_>>());
}

/// Linear layers are exported so: a row for each output, transposed in the graph.
#[test]
fn weights_that_the_graph_transposes() {
    let (mut chain, input, _) = chain();
    for perm in [None, Some(vec![1, 0])] {
        let weight = chain.random(&[OUTPUTS, INPUTS], 15);
        let w = chain.constant(weight.clone());
        chain.node("MatMul", &[w], &[]);
        let mut model = chain.model();
        let graph = model.graph.as_mut().unwrap();
        let attrs: Vec<_> = perm.map(|perm| ("perm", Attr::Ints(perm))).into_iter().collect();
        let (transpose, transposed) = node_of(graph, "Transpose", &[w], &attrs);
        graph.nodes[0].inputs[1] = Some(transposed);
        graph.nodes.insert(0, transpose);
        let outputs = run(&model, &input);
        let weight = weight.values::<f32>().unwrap();
        let columns: Vec<f32> =
            (0..INPUTS).flat_map(|i| weight[i..].iter().step_by(INPUTS)).copied().collect();
        near(outputs[0].values().unwrap(), &product(input.values().unwrap(), &columns), 1e-5);
        (chain, _, _) = self::chain();
    }
}

/// A product of constants follows from them before anything runs.
#[test]
fn products_of_constants() {
    let (mut chain, input, weight) = chain();
    let (x, w) = (chain.constant(input.clone()), chain.constant(weight.clone()));
    chain.node("MatMul", &[w], &[]);
    let mut model = chain.model();
    model.graph.as_mut().unwrap().nodes[0].inputs[0] = Some(x);
    let outputs = run(&model, &input);
    near(outputs[0].values().unwrap(), &product(input.values().unwrap(), weight.values().unwrap()), 1e-5);
}
