//! Packed models stay packed: no more than a few of their weights are dense at any time.
//!
//! One test alone, since it counts what the whole process allocates.

#![allow(unsafe_code)] // An allocator has an unsafe interface.

mod common;
#[path = "common/counting.rs"]
mod counting;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use common::{Chain, packed};
use counting::{LIVE, PEAK};
use secateur_model::packed::ValueType;
use secateur_model::{Attr, Model, Patch, StoredTensor};
use secateur_runtime::Session;

/// Adds a layer with a tenth of its weights, and an activation.
fn layer(chain: &mut Chain, op_type: &str, weight: &[usize], attrs: &[(&str, Attr)]) {
    let (weight, bias) = (chain.random(weight, 10), chain.random(&weight[..1], 100));
    let constants = [chain.constant(weight), chain.constant(bias)];
    chain.node(op_type, &constants, attrs);
    chain.node("Relu", &[], &[]);
}

#[test]
fn a_packed_model_runs_as_a_dense_one_without_becoming_one() {
    let mut chain = Chain::new(&[1, 128, 14, 14]);
    for _ in 0..16 {
        layer(&mut chain, "Conv", &[128, 128, 3, 3], &[("pads", Attr::Ints(vec![1; 4]))]);
    }
    chain.node("GlobalAveragePool", &[], &[]);
    chain.node("Flatten", &[], &[]);
    layer(&mut chain, "Gemm", &[512, 128], &[("transB", Attr::Int(1))]);
    for _ in 0..8 {
        layer(&mut chain, "Gemm", &[512, 512], &[("transB", Attr::Int(1))]);
    }
    let input = chain.random(&[1, 128, 14, 14], 100);
    let given = || vec![("x".to_string(), input.clone())];
    let model = chain.model();
    let packed = Arc::new(packed(&model, ValueType::Exact));
    let dense_bytes: usize = model.tensors.values().map(StoredTensor::byte_len).sum();
    let run = |model: Arc<Model>| {
        let before = LIVE.load(Relaxed);
        PEAK.store(before, Relaxed);
        let session = Session::new(model, Patch::new()).unwrap();
        let outputs = session.run(given()).unwrap();
        let kinds: Vec<String> = session.nodes(given()).unwrap().into_iter().map(|node| node.kind).collect();
        (PEAK.load(Relaxed) - before, kinds, outputs)
    };
    let (peak, kinds, outputs) = run(packed);
    let share = peak as f64 / dense_bytes as f64;
    println!("{peak} bytes at most, {share:.3} of the dense model's");
    let (_, expected_kinds, expected) = run(Arc::new(model));
    assert_eq!(kinds, expected_kinds);
    assert_eq!(kinds.iter().filter(|kind| kind.contains("sparse")).count(), 25, "{kinds:?}");
    assert_eq!(outputs, expected);
    assert!(share < 0.5, "{share} of the dense model's bytes");
}
