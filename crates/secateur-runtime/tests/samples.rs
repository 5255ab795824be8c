//! Samples of a batch that are computed one by one give what each gives alone.

#[allow(dead_code)] // packing
mod common;

use std::sync::Arc;

use common::{Chain, node_of};
use secateur_model::{Attr, Model, Patch, Tensor};
use secateur_runtime::Session;

/// A product with few weights that are not zero, then an activation.
fn product(chain: &mut Chain, shape: &[usize], attrs: &[(&str, Attr)]) {
    let weight = chain.random(shape, 12);
    let w = chain.constant(weight);
    chain.node(if shape.len() == 4 { "Conv" } else { "MatMul" }, &[w], attrs);
    chain.node("Relu", &[], &[]);
}

/// Adds what node `node` gives to the model's output.
fn with_residual(mut model: Model, node: usize) -> Model {
    let graph = model.graph.as_mut().unwrap();
    let inputs = [graph.outputs[0], graph.nodes[node].outputs[0].unwrap()];
    let (add, sum) = node_of(graph, "Add", &inputs, &[]);
    graph.nodes.push(add);
    graph.outputs = vec![sum];
    model
}

/// Maps, in the middle of which nodes that only know tensors cut the segment that runs on tiles.
fn images(batch: usize) -> Model {
    let mut chain = Chain::new(&[batch, 32, 28, 28]);
    product(&mut chain, &[64, 32, 3, 3], &[("pads", Attr::Ints(vec![1; 4]))]);
    product(&mut chain, &[64, 64, 1, 1], &[]);
    for _ in 0..2 {
        chain.node("Transpose", &[], &[("perm", Attr::Ints(vec![0, 1, 3, 2]))]);
        chain.node("Sin", &[], &[]);
    }
    product(&mut chain, &[64, 64, 3, 3], &[("pads", Attr::Ints(vec![1; 4]))]);
    product(&mut chain, &[64, 64, 1, 1], &[]);
    with_residual(chain.model(), 1)
}

fn sequences(batch: usize) -> Model {
    let mut chain = Chain::new(&[batch, 72, 96]);
    product(&mut chain, &[96, 192], &[]);
    product(&mut chain, &[192, 384], &[]);
    product(&mut chain, &[384, 192], &[]);
    with_residual(chain.model(), 1)
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.values::<f32>().unwrap().iter().map(|v| v.to_bits()).collect()
}

#[test]
fn samples_of_a_batch_equal_samples_alone() {
    for (model, shape) in [(images as fn(usize) -> Model, vec![5, 32, 28, 28]), (sequences, vec![5, 72, 96])]
    {
        let input = Chain::new(&[1]).random(&shape, 100);
        let batch = Session::new(Arc::new(model(shape[0])), Patch::new()).unwrap();
        let alone = Session::new(Arc::new(model(1)), Patch::new()).unwrap();
        let given = |tensor: &Tensor| vec![("x".to_string(), tensor.clone())];
        let len = input.len() / shape[0];
        let expected: Vec<u32> = input
            .values::<f32>()
            .unwrap()
            .chunks(len)
            .flat_map(|sample| {
                let sample = Tensor::new([&[1], &shape[1..]].concat(), sample.to_vec()).unwrap();
                bits(&alone.run(given(&sample)).unwrap()[0])
            })
            .collect();
        for threads in [1, 2, 3, 8] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for _ in 0..2 {
                let found = pool.install(|| batch.run(given(&input))).unwrap();
                assert_eq!(found[0].shape()[0], shape[0]);
                assert_eq!(bits(&found[0]), expected, "{shape:?} on {threads} threads");
            }
        }
        let (found, times) = batch.profile(given(&input)).unwrap();
        assert_eq!(bits(&found[0]), expected, "{shape:?} profiled");
        let kinds: Vec<_> = times.iter().map(|t| t.node.kind.clone()).collect();
        assert!(kinds.iter().filter(|kind| kind.contains("sparse")).count() >= 3, "{kinds:?}");
        let planned: Vec<_> = batch.nodes(given(&input)).unwrap().into_iter().map(|n| n.kind).collect();
        assert_eq!(planned, kinds);
    }
}
