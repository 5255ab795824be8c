//! Repairs of models made in memory.

use std::path::Path;
use std::sync::Arc;

use secateur_model::{Attr, Model, Tensor};

use super::*;
use crate::data::{DataSpec, write_npz};
use crate::progress::Silent;
use crate::testing::{Net, TRANSPOSED, random};

fn data(folder: &Path, samples: usize, shape: &[usize]) -> RepairOptions {
    let path = folder.join("data.npz");
    let x = random(samples * shape.iter().product::<usize>(), 3);
    let x = Tensor::new([&[samples], shape].concat(), x).unwrap();
    write_npz(&[("x".into(), x)], &mut std::fs::File::create(&path).unwrap()).unwrap();
    let data =
        TrainData { data: DataSpec { paths: vec![path], ..DataSpec::default() }, ..TrainData::default() };
    RepairOptions { data, ..RepairOptions::default() }
}

/// A convolution with batch-norm, one without bias, and a head; the first channels' weights are `first` times as large.
fn network(batch: Option<usize>, first: f32, norm_bias: f32) -> Arc<Model> {
    let mut net = Net::new(batch, &[2, 5, 5]);
    let scaled = |mut values: Vec<f32>, len: usize| {
        values[..len].iter_mut().for_each(|v| *v *= first);
        values
    };
    net.tensor("one.weight", &[3, 2, 3, 3], scaled(random(54, 1), 18));
    net.tensor("norm.weight", &[3], scaled(vec![1.0, 0.5, 2.0], 1));
    net.tensor("norm.bias", &[3], vec![norm_bias, 0.2, -0.1]);
    net.tensor("norm.mean", &[3], vec![0.3, 0.0, 0.1]);
    net.tensor("norm.var", &[3], vec![2.0, 1.0, 0.5]);
    net.tensor("two.weight", &[4, 3, 1, 1], random(12, 2));
    net.tensor("head.weight", &[2, 36], random(72, 4));
    net.tensor("head.bias", &[2], vec![0.1, -0.1]);
    net.node("Conv", &["x", "one.weight"], "c", &[]);
    net.node("BatchNormalization", &["c", "norm.weight", "norm.bias", "norm.mean", "norm.var"], "n", &[]);
    net.node("Relu", &["n"], "r", &[]);
    net.node("Conv", &["r", "two.weight"], "d", &[]);
    net.node("Relu", &["d"], "s", &[]);
    net.node("Flatten", &["s"], "f", &[("axis", Attr::Int(1))]);
    net.node("Gemm", &["f", "head.weight", "head.bias"], "y", TRANSPOSED);
    net.ends_with("y")
}

fn repaired(pruned: &Arc<Model>, dense: &Arc<Model>, options: &RepairOptions, adds: bool) -> Repaired {
    let none = MaskMap::new();
    let repairer = Repairer::new(pruned, Some((dense, &none)), options, &Silent).unwrap();
    repairer.repair(pruned, &none, adds, &Silent).unwrap()
}

fn values(model: &Model, path: &str) -> Vec<f32> {
    model.tensors[path].load().unwrap().to_f32s().unwrap()
}

/// 7 samples in batches of 4: those that pad the last batch change nothing. Threads do not either.
#[test]
fn padding_and_threads_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let options = data(folder.path(), 7, &[2, 5, 5]);
    let of = |batch| {
        let (pruned, dense) = (network(batch, 0.5, 0.0), network(batch, 1.0, 0.0));
        repaired(&pruned, &dense, &options, true).patch.apply(&pruned).unwrap()
    };
    let (free, fixed) = (of(None), of(Some(4)));
    for path in ["norm.mean", "norm.var", "norm.bias", "two.bias", "head.bias"] {
        for (a, b) in values(&free, path).iter().zip(values(&fixed, path)) {
            assert!((a - b).abs() <= 1e-5 * (1.0 + a.abs()), "{path}: {a} {b}");
        }
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let alone = pool.install(|| of(None));
    for path in ["norm.mean", "norm.var", "norm.bias", "two.bias", "head.bias"] {
        assert_eq!(values(&free, path), values(&alone, path), "{path}");
    }
}

#[test]
fn a_layer_without_bias_gets_one_where_that_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let options = data(folder.path(), 6, &[2, 5, 5]);
    let (pruned, dense) = (network(None, 0.5, 0.0), network(None, 1.0, 0.0));
    let with = repaired(&pruned, &dense, &options, true);
    let written = with.patch.apply(&pruned).unwrap();
    assert_eq!(written.tensors["two.bias"].shape, [4]);
    assert!(with.layers.iter().all(|layer| layer.error.unwrap()[1] < 1e-5), "{:?}", with.layers);
    let without = repaired(&pruned, &dense, &options, false);
    assert!(!without.patch.changes_graph());
    assert!(
        without.notes.iter().any(|note| note.contains("without a bias") && note.contains('d')),
        "{:?}",
        without.notes
    );
    // Norms alone take no dense model, and say that biases stay.
    let repairer = Repairer::new(&pruned, None, &options, &Silent).unwrap();
    let norms = repairer.repair(&pruned, &MaskMap::new(), true, &Silent).unwrap();
    assert_eq!(norms.patch.ids().count(), 2);
    assert!(norms.notes.iter().any(|note| note.contains("option `reference`")), "{:?}", norms.notes);
    let bias = RepairOptions { methods: vec![Method::Bias], ..options };
    let error = Repairer::new(&pruned, None, &bias, &Silent).err().unwrap().to_string();
    assert!(error.contains("option `reference`"), "{error}");
}

/// A channel that was pruned whole, with its batch-norm, stays zero.
#[test]
fn entries_of_pruned_channels_stay_zero() {
    let folder = tempfile::tempdir().unwrap();
    let options = data(folder.path(), 6, &[2, 5, 5]);
    let (pruned, dense) = (network(None, 0.0, 0.0), network(None, 1.0, 0.4));
    let found = repaired(&pruned, &dense, &options, true);
    let written = found.patch.apply(&pruned).unwrap();
    let bias = values(&written, "norm.bias");
    assert_eq!(bias[0], 0.0);
    assert_ne!(bias[1], 0.2);
    assert_eq!(found.layers[0].held, 1);
    assert!(found.notes.iter().any(|note| note.contains("stay zero (1)")), "{:?}", found.notes);
    // Where only weights were pruned, the constant that the channel gave is made up for.
    let only_weights = network(None, 0.0, 0.4);
    let found = repaired(&only_weights, &dense, &options, true);
    assert_eq!(found.layers[0].held, 0);
    assert_ne!(values(&found.patch.apply(&only_weights).unwrap(), "norm.bias")[0], 0.4);
}
