//! A checkpoint pruned through `--graph` is the ONNX pruned: the same weights go, the accuracy is the same.

#[path = "common/shared.rs"]
mod shared;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use secateur::evaluate::{EvalOptions, Evaluator};
use secateur::pair;
use secateur::progress::Silent;
use secateur::prune::Amount;
use secateur::prune::masks::Masks;
use secateur::prune::{PruneOptions, plan};
use secateur_model::io::{self, WriteOptions};
use shared::shared;

fn cifar(shared: &Path, samples: usize) -> EvalOptions {
    let mut options = EvalOptions::default();
    options.data.paths = vec![shared.join("cifar-10-batches-bin/test_batch.bin.gz")];
    options.preprocess.mean = vec![0.485, 0.456, 0.406];
    options.preprocess.std = vec![0.229, 0.224, 0.225];
    options.sampling.samples = Some(samples);
    options
}

#[test]
fn checkpoints_are_pruned_as_their_onnx_is() {
    let Some(shared) = shared("") else { return };
    let models = shared.join("models/cifar10-resnet");
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        ("resnet20-12fca82f.th", "resnet20-bn-folded.onnx", "resnet20.onnx", "l1@global", 0.6, 200),
        ("resnet20-12fca82f.th", "resnet20.onnx", "resnet20.onnx", "l2/channel", 0.1, 200),
        ("resnet56-4bfd9763.th", "resnet56-dynamo.onnx", "resnet56.onnx", "l1", 0.5, 100),
    ];
    for (checkpoint, graph, onnx, method, sparsity, samples) in cases {
        let options = PruneOptions::new(method.parse().unwrap(), Amount::Sparsity(sparsity));
        let eval = cifar(&shared, samples);

        let reference = Arc::new(io::read(models.join(onnx)).unwrap());
        let expected = plan(&reference, &options).unwrap();
        let expected_edits = expected.patch(&reference);

        let read = io::read(models.join(checkpoint)).unwrap();
        let graph = io::read(models.join(graph)).unwrap();
        let paired = Arc::new(pair(&read, &graph, &|_| false).unwrap().model);
        let pruning = plan(&paired, &options).unwrap();

        // Written and read again, without the graph: the same tensors are changed to the same values.
        let path = folder.path().join("pruned.pth");
        io::write(&paired, &pruning.patch(&paired), &[], &path, WriteOptions { overwrite: true }).unwrap();
        let written = io::read(&path).unwrap();
        assert_eq!(written.tensors.len(), read.tensors.len());
        let mut compared = BTreeSet::new();
        for id in expected_edits.ids() {
            let name = &reference.tensor(id).path;
            let found = written.tensors[&format!("module.{name}")].load().unwrap();
            let expected = expected_edits.load(&reference, id).unwrap();
            assert_eq!(found.data(), expected.data(), "{checkpoint} {method}: {name}");
            compared.insert(name.clone());
        }
        assert_eq!(compared.len(), pruning.patch(&paired).ids().count());

        let loss = |model: &Arc<_>, patch| {
            let mut evaluator = Evaluator::new(model, &eval, None).unwrap();
            evaluator.baseline(&Silent).unwrap();
            let metrics = evaluator.evaluate(patch, &Silent).unwrap();
            (metrics.get("cross-entropy").unwrap().value, metrics.get("top1").unwrap().value)
        };
        let (expected_loss, expected_top1) = loss(&reference, expected_edits);
        let (found_loss, found_top1) = loss(&paired, pruning.patch(&paired));
        assert_eq!(found_top1, expected_top1, "{checkpoint} {method}");
        assert!((found_loss - expected_loss).abs() < 1e-4 * expected_loss, "{found_loss} {expected_loss}");
        assert!(Masks::of(&written).unwrap().masks.is_empty());
    }
}
