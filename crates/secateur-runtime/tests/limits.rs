//! What a run may take: memory and steps end with an error that names the node, never with an abort.

mod common;

use std::sync::Arc;

use common::{Chain, node_of};
use secateur_model::graph::Value;
use secateur_model::{Attr, DType, Error, ErrorKind, Graph, Model, Patch, Tensor};
use secateur_runtime::{Limits, Session};

const MEMORY: u64 = 100 << 20;

fn run(model: Model, limits: Limits, inputs: Vec<(String, Tensor)>) -> Result<Vec<Tensor>, Error> {
    Session::new(Arc::new(model), Patch::new())?.within(limits).run(inputs)
}

/// Runs on ones of a shape, within 100 MiB.
fn fails(chain: Chain, shape: &[usize], parts: &[&str]) {
    let ones = Tensor::new(shape, vec![1f32; shape.iter().product()]).unwrap();
    let limits = Limits { memory: MEMORY, steps: 1000 };
    let error = run(chain.model(), limits, vec![("x".into(), ones)]).unwrap_err();
    let message = error.to_string();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{message}");
    for part in parts.iter().chain(&["option `memory`", "node `"]) {
        assert!(message.contains(part), "{part}: {message}");
    }
}

fn ints(values: &[i64]) -> Tensor {
    Tensor::vector(values.to_vec())
}

#[test]
fn outputs_beyond_the_bound_are_named() {
    let shape = "[60000, 60000] takes 14.4 GB";
    // Products of a column and a row, and a broadcast of the two.
    for op in ["MatMul", "Add"] {
        let mut chain = Chain::new(&[60_000, 1]);
        let row = chain.random(&[1, 60_000], 100);
        let row = chain.constant(row);
        chain.node(op, &[row], &[]);
        fails(chain, &[60_000, 1], &[op, shape]);
    }
    let mut chain = Chain::new(&[60_000, 1]);
    let row = chain.random(&[60_000, 1], 100);
    let row = chain.constant(row);
    chain.node("Gemm", &[row], &[("transB", Attr::Int(1))]);
    fails(chain, &[60_000, 1], &["Gemm", shape]);
    let mut chain = Chain::new(&[60_000]);
    let row = chain.random(&[60_000], 100);
    let row = chain.constant(row);
    chain.node("Einsum", &[row], &[("equation", Attr::String(b"i,j->ij".to_vec()))]);
    fails(chain, &[60_000], &["Einsum", shape]);
    for (op, shape) in [("Expand", ints(&[60_000, 60_000])), ("Tile", ints(&[60_000, 60_000]))] {
        let mut chain = Chain::new(&[1, 1]);
        let shape = chain.constant(shape);
        chain.node(op, &[shape], &[]);
        fails(chain, &[1, 1], &[op, "[60000, 60000]"]);
    }
    let mut chain = Chain::new(&[1, 1]);
    let pads = chain.constant(ints(&[59_999, 0, 0, 59_999]));
    chain.node("Pad", &[pads], &[]);
    fails(chain, &[1, 1], &["Pad", shape]);
}

#[test]
fn outputs_of_windows_beyond_the_bound_are_named() {
    let pads = |n: i64| Attr::Ints(vec![n; 4]);
    let mut chain = Chain::new(&[1, 1, 4, 4]);
    let kernel = chain.random(&[1, 1, 3, 3], 100);
    let kernel = chain.constant(kernel);
    chain.node("Conv", &[kernel], &[("pads", pads(30_000))]);
    fails(chain, &[1, 1, 4, 4], &["Conv", "[1, 1, 60002, 60002]"]);
    let mut chain = Chain::new(&[1, 1, 4, 4]);
    let kernel = chain.random(&[1, 1, 3, 3], 100);
    let kernel = chain.constant(kernel);
    chain.node("ConvTranspose", &[kernel], &[("strides", Attr::Ints(vec![20_000; 2]))]);
    fails(chain, &[1, 1, 4, 4], &["ConvTranspose", "60003, 60003]"]);
    let mut chain = Chain::new(&[1, 1, 4, 4]);
    let sizes = [Tensor::vector(Vec::<f32>::new()), Tensor::vector(Vec::<f32>::new())];
    let [roi, scales] = sizes.map(|t| chain.constant(t));
    let sizes = chain.constant(ints(&[1, 1, 60_000, 60_000]));
    chain.node("Resize", &[roi, scales, sizes], &[]);
    fails(chain, &[1, 1, 4, 4], &["Resize", "60000, 60000]"]);
}

/// Values that shapes depend on are known when the node runs, and constants are folded before.
#[test]
fn late_shapes_and_folded_constants_are_bounded() {
    let mut chain = Chain::new(&[2]);
    chain.node("Cast", &[], &[("to", Attr::Int(7))]);
    chain.node("ConstantOfShape", &[], &[]);
    let model = chain.model();
    let limits = Limits { memory: MEMORY, steps: 1000 };
    let given = |n: f32| vec![("x".to_string(), Tensor::vector(vec![n, n]))];
    let error = run(model.clone(), limits, given(60_000.0)).unwrap_err().to_string();
    assert!(error.contains("ConstantOfShape") && error.contains("14.4 GB"), "{error}");
    assert_eq!(run(model, limits, given(3.0)).unwrap()[0].shape(), [3, 3]);

    let mut chain = Chain::new(&[1]);
    let (shape, depth) = (chain.constant(ints(&[60_000, 60_000])), chain.constant(Tensor::scalar(0i64)));
    let large = chain.side("ConstantOfShape", &[shape], &[]);
    let part = chain.side("Gather", &[large, depth], &[]);
    chain.node("Add", &[part], &[]);
    fails(chain, &[1], &["ConstantOfShape", "14.4 GB"]);
}

/// What operators need besides their outputs counts too.
#[test]
fn working_memory_is_bounded() {
    // The first two of three operands are joined to [i, j] before the third sums them.
    let mut chain = Chain::new(&[6000]);
    let (row, column) = (chain.random(&[6000], 100), chain.random(&[6000], 100));
    let (row, column) = (chain.constant(row), chain.constant(column));
    let equation = Attr::String(b"i,j,j->i".to_vec());
    chain.node("Einsum", &[row, column], &[("equation", equation)]);
    fails(chain, &[6000], &["Einsum", "144 MB"]);
    // The gates of all steps at once: 4 · 2,000 for each of 4,000 steps.
    let mut chain = Chain::new(&[4000, 1, 4]);
    let (w, r) = (chain.random(&[1, 8000, 4], 100), chain.random(&[1, 8000, 2000], 2));
    let (w, r) = (chain.constant(w), chain.constant(r));
    chain.node("LSTM", &[w, r], &[("hidden_size", Attr::Int(2000))]);
    fails(chain, &[4000, 1, 4], &["LSTM", "128 MB"]);
    // Sums of 8-bit products take four bytes, and their operands too.
    let mut chain = Chain::new(&[5000, 5000]);
    let (scale, zero) = (chain.constant(Tensor::scalar(0.1f32)), chain.constant(Tensor::scalar(0u8)));
    chain.node("QuantizeLinear", &[scale, zero], &[]);
    let weight = chain.constant(Tensor::new([5000, 1], vec![1u8; 5000]).unwrap());
    chain.node("MatMulInteger", &[weight], &[]);
    fails(chain, &[5000, 5000], &["", "MB"]);
}

#[test]
fn outputs_of_other_operators_beyond_the_bound_are_named() {
    let mut chain = Chain::new(&[60_000]);
    let (depth, values) = (ints(&[60_000]), Tensor::vector(vec![0f32, 1.0]));
    let (depth, values) = (chain.constant(depth), chain.constant(values));
    chain.node("OneHot", &[depth, values], &[]);
    fails(chain, &[60_000], &["OneHot", "[60000, 60000] takes 14.4 GB"]);
    // Kernels have a table as long as the output, which is not made.
    let mut chain = Chain::new(&[1, 3, 8, 8]);
    let pads = Attr::Ints(vec![0, 0, 0, 1 << 31]);
    chain.node("AveragePool", &[], &[("kernel_shape", Attr::Ints(vec![3, 3])), ("pads", pads)]);
    fails(chain, &[1, 3, 8, 8], &["AveragePool", "[1, 3, 6, 2147483654]"]);
    // Each doubles what it is given: coordinates of coordinates.
    let mut chain = Chain::new(&[1 << 14]);
    (0..20).for_each(|_| chain.node("NonZero", &[], &[]));
    fails(chain, &[1 << 14], &["NonZero", "[2, "]);
    let mut chain = Chain::new(&[1]);
    let [start, end, step] = [0f32, 1e9, 1.0].map(Tensor::scalar);
    let [start, end, step] = [start, end, step].map(|t| chain.constant(t));
    let range = chain.side("Range", &[start, end, step], &[]);
    chain.node("Add", &[range], &[]);
    fails(chain, &[1], &["Range", "[1000000000] takes 4.0 GB"]);
}

/// What dies makes room: ten values of a quarter of the bound, one after the other.
#[test]
fn values_that_are_dead_do_not_count() {
    let len = (MEMORY / 4 / 4) as usize;
    let mut chain = Chain::new(&[len]);
    for op in ["Relu", "Exp", "Neg", "Abs", "Sqrt", "Relu", "Neg", "Exp", "Abs", "Relu"] {
        chain.node(op, &[], &[]);
    }
    let model = chain.model();
    let ones = || vec![("x".to_string(), Tensor::vector(vec![1f32; len]))];
    let session = |memory| {
        let session = Session::without_fusion(Arc::new(model.clone()), Patch::new()).unwrap();
        session.within(Limits { memory, steps: 10 })
    };
    let enough = session(MEMORY);
    for _ in 0..3 {
        assert_eq!(enough.run(ones()).unwrap()[0].len(), len);
    }
    let error = session(MEMORY / 3).run(ones()).unwrap_err().to_string();
    assert!(error.contains("26.2 MB, but only"), "{error}");
}

/// A loop whose body runs a node on what it carries; without end where there is no trip count.
fn looped(trips: Option<i64>, op: &str, given: Tensor) -> Result<Vec<Tensor>, Error> {
    let mut body = Graph::default();
    let mut value = |name: &str, dtype| {
        body.values.push(Value { name: name.into(), dtype: Some(dtype), ..Value::default() });
        secateur_model::ValueId(body.values.len() as u32 - 1)
    };
    let inputs = [value("i", DType::I64), value("go_on", DType::Bool), value("state", DType::F32)];
    let operands: &[_] = if op == "Concat" { &[inputs[2], inputs[2]] } else { &[inputs[2]] };
    let (node, state) = node_of(&mut body, op, operands, &[("axis", Attr::Int(0))]);
    body.nodes.push(node);
    body.inputs = inputs.to_vec();
    body.outputs = vec![inputs[1], state];
    let mut chain = Chain::new(given.shape());
    let trips = trips.map(|n| chain.constant(Tensor::scalar(n)));
    chain.looped(trips, body);
    let limits = Limits { memory: MEMORY, steps: 100_000 };
    run(chain.model(), limits, vec![("x".into(), given)])
}

#[test]
fn a_loop_without_end_stops() {
    let ones = || Tensor::vector(vec![1f32; 3]);
    assert_eq!(looped(Some(1000), "Neg", ones()).unwrap()[0].values::<f32>().unwrap(), [1.0; 3]);
    for trips in [None, Some(i64::MAX)] {
        let error = looped(trips, "Neg", ones()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("more than 100000 nodes"), "{error}");
        assert!(error.to_string().contains("option `max_steps`"), "{error}");
    }
    // What it carries doubles each time.
    let error = looped(None, "Concat", ones()).unwrap_err().to_string();
    assert!(error.contains("option `memory`"), "{error}");
}

/// Inputs of which the output's shape does not follow: an error, not a kernel that waits for a kernel without end.
#[test]
fn a_shape_that_stays_open_is_an_error() {
    let mut chain = Chain::new(&[2, 2]);
    chain.node("QLinearConv", &[], &[]);
    let ones = Tensor::new([2, 2], vec![1f32; 4]).unwrap();
    let limits = Limits { memory: MEMORY, steps: 10 };
    assert!(run(chain.model(), limits, vec![("x".into(), ones)]).is_err());
}
