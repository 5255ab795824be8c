//! `sensitivity` on real networks: the share of its own weights that each layer can lose.

#[path = "../../secateur/tests/common/shared.rs"]
mod shared;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use secateur::data::write_npy;
use secateur::data::{DataSpec, Preprocess, Sampling};
use secateur::evaluate::{EvalOptions, Evaluator};
use secateur::infer::Binding;
use secateur::inspect::{InspectOptions, inspect};
use secateur::measure::Count;
use secateur::progress::Silent;
use secateur::prune::masks::Masks;
use secateur::records::Run;
use secateur::sweep::{self, Sparsities, SweepOptions};
use secateur::{Model, io, pair};
use secateur_report::analysis::{Analysis, FREE_THRESHOLD};
use shared::shared;

fn eval_options(data: PathBuf, preprocess: Preprocess) -> EvalOptions {
    EvalOptions {
        data: DataSpec { paths: vec![data], ..DataSpec::default() },
        preprocess,
        ..EvalOptions::default()
    }
}

/// `l1` at the multiples of a step.
fn one_method(step: f64, max: f64) -> SweepOptions {
    SweepOptions {
        methods: vec!["l1".parse().unwrap()],
        sparsities: Sparsities::Steps { step: Some(step), max: Some(max) },
        ..SweepOptions::default()
    }
}

fn sensitivity(model: &Arc<Model>, eval: &EvalOptions, points: &SweepOptions, folder: &Path) -> Run {
    let mut evaluator = Evaluator::new(model, eval, None).unwrap();
    sweep::sensitivity(model, points, &mut evaluator, folder, &Silent).unwrap()
}

/// The first layers of the demo model, each pruned alone: a point counts its layer's weights.
#[test]
fn points_count_the_weights_of_their_layer() {
    let folder = tempfile::tempdir().unwrap();
    let files = secateur::demo::unpack(folder.path()).unwrap();
    let model = Arc::new(io::read(&files.model).unwrap());
    let eval = EvalOptions {
        sampling: Sampling { samples: Some(20), ..Sampling::default() },
        ..eval_options(files.data, Preprocess::default())
    };
    let run = sensitivity(&model, &eval, &one_method(0.4, 0.8), &folder.path().join("run"));
    assert!(run.points.len() > 4);
    for point in &run.points {
        let layer = run.header.layer(point.key.layer.as_ref().unwrap()).unwrap();
        assert_eq!(point.selected.total, layer.weights, "{}", layer.name);
        let rounding = 1.0 / layer.weights as f64;
        assert!((point.selected.sparsity() - point.key.target).abs() <= rounding, "{point:?}");
    }
}

/// Under weight norm the weight is computed from two tensors beside it: its parameters count once, as in `inspect`.
#[test]
fn runs_count_the_parameters_of_the_model() {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../secateur-model/tests/goldens/parametrised");
    let read = |name: &str| io::read(goldens.join(name)).unwrap();
    let model = Arc::new(pair(&read("weight_norm_old.pth"), &read("first.onnx"), &|_| false).unwrap().model);
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("x.npy");
    let mut file = std::fs::File::create(&data).unwrap();
    write_npy(&read("expected.safetensors").tensors["x"].load().unwrap(), &mut file).unwrap();
    let eval = eval_options(data, Preprocess::default());
    let mut evaluator = Evaluator::new(&model, &eval, None).unwrap();
    let points = one_method(0.5, 0.5);
    let run = sweep::sweep(&model, &points, &mut evaluator, &folder.path().join("run"), &Silent).unwrap();
    let options = InspectOptions { binding: Binding::default(), scan: true, sizes: false };
    let parameters = inspect(&model, &Masks::default(), &options).unwrap().parameters;
    assert!(parameters.total > 0);
    assert_eq!(run.unpruned.parameters, parameters);
    let pruned = &run.points[0];
    let gone = pruned.selected.total - pruned.selected.nonzero;
    assert!(gone > 0);
    let expected = Count { nonzero: parameters.nonzero - gone, total: parameters.total };
    assert_eq!(pruned.parameters, expected);
}

/// On the 1,000 test images, from the losses of ONNX Runtime on the same pruned files: both convolutions of layer2.0
/// lose 25 % and 41 % of their weights before the loss, linear between the points, rises by 1 %, the first convolution
/// 40 %. As shares of all weights, of which the first convolution has the fewest, they would stand in another order.
#[test]
fn layers_of_resnet20_can_lose_these_shares() {
    let (Some(model), Some(data)) =
        (shared("models/cifar10-resnet/resnet20.onnx"), shared("cifar-10-batches-bin/test_batch.bin.gz"))
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let model = Arc::new(io::read(model).unwrap());
    let (mean, std) = (vec![0.485, 0.456, 0.406], vec![0.229, 0.224, 0.225]);
    let eval = eval_options(data, Preprocess { mean, std, ..Preprocess::default() });
    let mut points = one_method(0.2, 0.6);
    points.prune.selector.include =
        ["conv1.weight", "layer2.0.conv1.weight", "layer2.0.conv2.weight"].map(String::from).to_vec();
    let run = sensitivity(&model, &eval, &points, folder.path());
    let analysis = Analysis::of(&run, FREE_THRESHOLD).unwrap();
    let found = analysis.curves.iter().map(|c| c.at(c.crossing(1.01).unwrap(), |point| point.sparsity));
    let found: Vec<f64> = found.collect();
    for (found, expected) in found.iter().zip([0.403, 0.250, 0.414]) {
        assert!((found - expected).abs() < 0.02, "{found:?}, expected {expected}");
    }
    assert!(found[1] < found[0] && found[0] < found[2], "{found:?}");
    let order = analysis.by_sensitivity().into_iter().map(|i| analysis.curves[i].name());
    let expected = ["layer2.0.conv1.weight", "conv1.weight", "layer2.0.conv2.weight"];
    assert!(order.clone().eq(expected), "{:?}", order.collect::<Vec<_>>());
}
