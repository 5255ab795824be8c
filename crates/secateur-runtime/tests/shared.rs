//! Plans for several input shapes, and those before and after an update, share packed weights.
//!
//! One test alone, since it counts what the whole process allocates.

#![allow(unsafe_code)] // An allocator has an unsafe interface.

#[allow(dead_code)] // packing
mod common;
#[path = "common/counting.rs"]
mod counting;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use common::Chain;
use counting::LIVE;
use secateur_model::graph::Dim;
use secateur_model::{Attr, Patch, StoredTensor, Tensor, TensorId};
use secateur_runtime::{Kernels, Session};

/// Enough that the values of a batch are small beside the weights.
const CHANNELS: usize = 128;

#[test]
fn packed_weights_are_in_memory_once() {
    let mut chain = Chain::new(&[1, CHANNELS, 8, 8]);
    for _ in 0..8 {
        let weight = chain.random(&[CHANNELS, CHANNELS, 3, 3], 100);
        let w = chain.constant(weight);
        chain.node("Conv", &[w], &[("pads", Attr::Ints(vec![1; 4]))]);
        chain.node("Relu", &[], &[]);
    }
    let input = chain.random(&[3, CHANNELS, 8, 8], 100);
    let mut model = chain.model();
    let graph = model.graph.as_mut().unwrap();
    graph.values[0].shape.as_mut().unwrap()[0] = Dim::Symbol("batch".into());
    let bytes: usize = model.tensors.values().map(StoredTensor::byte_len).sum();
    let model = Arc::new(model);
    let batch = |n: usize| {
        let values = input.values::<f32>().unwrap()[..n * CHANNELS * 64].to_vec();
        vec![("x".to_string(), Tensor::new([n, CHANNELS, 8, 8], values).unwrap())]
    };
    let mut session = Session::new(model.clone(), Patch::new()).unwrap();
    let grown = |run: &mut dyn FnMut()| {
        let before = LIVE.load(Relaxed);
        run();
        LIVE.load(Relaxed).saturating_sub(before) as f64 / bytes as f64
    };
    let first = grown(&mut || drop(session.run(batch(1)).unwrap()));
    assert!(first > 0.9, "the first plan packs the weights, and took {first} of their bytes");
    let second = grown(&mut || drop(session.run(batch(3)).unwrap()));
    assert!(second < 0.2, "a plan for another batch took {second} of the weights' bytes");
    // One of eight layers changes.
    let mut patch = Patch::new();
    let shape = &model.tensor(TensorId(4)).shape;
    patch.set(TensorId(4), Tensor::new(shape.clone(), vec![0.5f32; shape.iter().product()]).unwrap());
    for kernels in [Kernels::Keep, Kernels::Choose] {
        let updated = grown(&mut || {
            session.update(patch.clone(), kernels).unwrap();
            session.run(batch(1)).unwrap();
            session.run(batch(3)).unwrap();
        });
        assert!(updated < 0.2, "an update of a layer left {updated} of the weights' bytes more");
        session.update(Patch::new(), kernels).unwrap();
        drop((session.run(batch(1)).unwrap(), session.run(batch(3)).unwrap()));
    }
}
