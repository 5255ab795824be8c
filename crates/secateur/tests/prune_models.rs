//! Pruning the shared models.

#[path = "common/shared.rs"]
mod shared;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use secateur::prune::Amount;
use secateur::prune::{PruneOptions, Subject, plan};
use secateur::verify::verify;
use secateur_model::prunable::{ReasonKind, Status, view};
use secateur_model::{Model, io};
use shared::shared;

fn read(path: &str) -> Option<Model> {
    Some(io::read(shared("models")?.join(path)).unwrap())
}

fn options(method: &str, sparsity: f64) -> PruneOptions {
    PruneOptions::new(method.parse().unwrap(), Amount::Sparsity(sparsity))
}

/// Prunable tensors and their elements.
const MODELS: &[(&str, usize, usize)] = &[
    ("cifar10-resnet/resnet20.onnx", 20, 268_336),
    ("cifar10-resnet/resnet56-dynamo.onnx", 56, 848_944),
    ("mnist/mnist.onnx", 3, 5_960),
];

#[test]
fn half_of_all_prunable_weights_go() {
    for &(path, tensors, size) in MODELS {
        let Some(model) = read(path) else { return };
        for method in ["l1", "l1@global", "random@global", "l1@row"] {
            let pruning = plan(&model, &options(method, 0.5)).unwrap();
            assert_eq!((pruning.layers.len(), pruning.size()), (tensors, size), "{path}");
            assert!((pruning.sparsity() - 0.5).abs() < 0.02, "{path} {method} {}", pruning.sparsity());
            let patch = pruning.patch(&model);
            let mut zeros = 0;
            for (id, mask) in &pruning.masks {
                let (before, after) = (model.tensor(*id).load().unwrap(), patch.load(&model, *id).unwrap());
                let (before, after) = (before.to_f32s().unwrap(), after.to_f32s().unwrap());
                for ((keep, before), after) in mask.iter().zip(before).zip(after) {
                    assert_eq!(after.to_bits(), if keep { before.to_bits() } else { 0 });
                    zeros += usize::from(after == 0.0);
                }
            }
            assert_eq!(zeros, pruning.zeros());
        }
    }
}

#[test]
fn pruned_channels_take_bias_and_batch_norm_along() {
    let Some(model) = read("cifar10-resnet/resnet20.onnx") else { return };
    let pruning = plan(&model, &options("l1/channel", 0.25)).unwrap();
    for layer in &pruning.layers {
        let expected = if layer.op_type == "Conv" { 2 } else { 1 };
        assert_eq!(layer.companions.len(), expected, "{layer:?}");
    }
    let patch = pruning.patch(&model);
    for (id, mask) in &pruning.companions {
        let values = patch.load(&model, *id).unwrap().to_f32s().unwrap();
        assert!(mask.iter().zip(values).all(|(keep, v)| keep || v == 0.0));
    }
    let alone = PruneOptions { weights_only: true, ..options("l1/channel", 0.25) };
    assert!(plan(&model, &alone).unwrap().companions.is_empty());
}

#[test]
fn layers_that_onnx_runtime_fused_are_pruned_as_their_product() {
    let Some(path) = shared("cases/cnn_ort_extended.onnx") else { return };
    let model = io::read(&path).unwrap();
    let pruning = plan(&model, &options("l1", 0.5)).unwrap();
    let mut layers: Vec<_> = pruning.layers.iter().map(|l| (l.tensor.as_str(), l.op_type.as_str())).collect();
    layers.sort_unstable();
    let expected = [
        ("w1", "Conv"),
        ("w2", "Conv"),
        ("wd", "Conv"),
        ("wg", "Gemm"),
        ("wm", "Gemm"),
        ("wt", "ConvTranspose"),
    ];
    assert_eq!(layers, expected);
    let folder = tempfile::tempdir().unwrap();
    let written = folder.path().join("pruned.onnx");
    io::write(&model, &pruning.patch(&model), &[], &written, io::WriteOptions::default()).unwrap();
    let back = io::read(&written).unwrap();
    let checked = verify(&Subject::of(&back), &options("l1", 0.5), &BTreeMap::new()).unwrap();
    assert!(checked.holds && checked.layers.len() == 6, "{checked:?}");
    // The file keeps its nodes.
    let bytes = std::fs::read(&written).unwrap();
    assert!(bytes.windows(9).any(|window| window == b"FusedConv"));
}

#[test]
fn every_tensor_of_every_shared_model_is_prunable_or_says_why_not() {
    let Some(folder) = shared("models") else { return };
    for path in onnx_files(&folder) {
        let Ok(model) = io::read(&path) else { continue };
        let entries = view(&model).unwrap();
        println!("{}", path.display());
        for entry in &entries {
            let stored = model.tensor(entry.tensor);
            println!("  {} {:?} {:?}", stored.path, stored.shape, entry.status);
            let unused = matches!(&entry.status, Status::Fixed(r) if r.kind == ReasonKind::Unused);
            assert_eq!(unused, stored.path.ends_with("num_batches_tracked"), "{}", stored.path);
        }
        assert_eq!(entries.len(), model.tensors.values().filter(|t| !t.is_empty()).count());
    }
}

fn onnx_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(onnx_files(&path));
        } else if path.extension().is_some_and(|e| e == "onnx") {
            found.push(path);
        }
    }
    found.sort();
    found
}
