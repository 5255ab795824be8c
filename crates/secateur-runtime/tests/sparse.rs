//! Sparse kernels compute what dense ones do, on whole networks.

#[path = "../../../tests/ort/peer.rs"]
#[allow(dead_code)] // the part for ONNX Runtime
mod peer;

use std::collections::BTreeSet;
use std::sync::Arc;

use secateur_model::prunable;
use secateur_model::{Model, Patch, Tensor, io};
use secateur_runtime::Session;

/// Zeroes a share of each prunable weight, by a fixed pattern without structure.
fn thinned(model: &Model, density: f64) -> Patch {
    let mut patch = Patch::new();
    for entry in prunable::view(model).unwrap() {
        if entry.prunable().is_none() {
            continue;
        }
        let stored = model.tensor(entry.tensor);
        let values = stored.load().unwrap().to_f32s().unwrap();
        let keeps = |i: usize| {
            // Mixed twice: multiples of a constant alone repeat from row to row, as blocks do.
            let mixed = (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let bits = (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40;
            (bits as f64) < density * (1 << 24) as f64
        };
        let thin = values.into_iter().enumerate().map(|(i, v)| if keeps(i) { v } else { 0.0 }).collect();
        patch.set(entry.tensor, Tensor::new(stored.shape.clone(), thin).unwrap());
    }
    patch
}

/// The largest difference relative to the largest element.
fn difference(a: &Tensor, b: &Tensor) -> f32 {
    let (a, b) = (a.to_f32s().unwrap(), b.to_f32s().unwrap());
    let largest = b.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
    a.iter().zip(&b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max) / largest
}

#[test]
fn networks_on_tiles_equal_networks_node_by_node() {
    let mut sparse_layers = 0;
    for file in peer::model_files() {
        let model = Arc::new(io::read(&file).unwrap());
        if !model.tensors.values().all(|t| t.dtype != secateur_model::DType::F16) || model.tensors.len() > 600
        {
            continue;
        }
        let patch = thinned(&model, 0.15);
        let fused = Session::new(model.clone(), patch.clone()).unwrap();
        let mut state = 5;
        let given: Vec<(String, Tensor)> =
            fused.inputs().iter().map(|i| (i.name.clone(), peer::random(i, &mut state))).collect();
        let (outputs, times) = fused.profile(given.clone()).unwrap();
        let planned = fused.nodes(given.clone()).unwrap();
        let kinds = times.iter().map(|t| (&t.node.name, &t.node.kind, t.node.estimate));
        assert!(planned.iter().map(|n| (&n.name, &n.kind, n.estimate)).eq(kinds), "{}", file.display());
        let sparse = times.iter().filter(|t| t.node.kind.contains("sparse")).count();
        if sparse == 0 {
            continue;
        }
        sparse_layers += sparse;
        let plain =
            Session::without_fusion(model.clone(), patch.clone()).unwrap().run(given.clone()).unwrap();
        for (found, expected) in outputs.iter().zip(&plain).filter(|(f, _)| f.to_f32s().is_ok()) {
            let off = difference(found, expected);
            assert!(off < 1e-3, "{}: {off}", file.display());
        }
        let bits = |outputs: &[Tensor]| -> Vec<Vec<u32>> {
            let values = outputs.iter().filter_map(|t| t.to_f32s().ok());
            values.map(|v| v.iter().map(|x| x.to_bits()).collect()).collect()
        };
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            bits(&pool.install(|| fused.run(given.clone())).unwrap())
        };
        let different: BTreeSet<_> = [on(1), on(3)].into_iter().collect();
        assert_eq!(different.len(), 1, "{}: the result depends on the threads", file.display());
        println!("ok {}: {sparse} sparse layers", file.display());
    }
    if sparse_layers == 0 {
        println!("skipped: no shared models");
    }
}
