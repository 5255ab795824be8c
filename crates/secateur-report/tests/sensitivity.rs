//! `sensitivity` on real networks: the share of its own weights that each layer can lose.

#[path = "../../secateur/tests/common/shared.rs"]
mod shared;

use std::path::Path;
use std::sync::Arc;

use secateur::data::write_npy;
use secateur::evaluate::Evaluator;
use secateur::infer::Binding;
use secateur::inspect::{InspectOptions, inspect};
use secateur::progress::Silent;
use secateur::prune::masks::Masks;
use secateur::recipe::Recipe;
use secateur::records::{Count, FREE_THRESHOLD};
use secateur::{io, pair, sweep};
use secateur_report::analysis::Analysis;
use shared::shared;

/// The first layers of the demo model, each pruned alone: a point counts its layer's weights.
#[test]
fn points_count_the_weights_of_their_layer() {
    let folder = tempfile::tempdir().unwrap();
    let files = secateur::demo::unpack(folder.path()).unwrap();
    let model = Arc::new(io::read(&files.model).unwrap());
    let mut recipe = Recipe::default();
    recipe.data.data = vec![files.data];
    recipe.data.samples = Some(20);
    (recipe.sweep.step, recipe.sweep.max) = ("0.4".parse().ok(), "0.8".parse().ok());
    let mut evaluator = Evaluator::new(&model, &recipe.eval_options().unwrap(), None).unwrap();
    let run =
        sweep::sensitivity(&model, &recipe, &mut evaluator, &folder.path().join("run"), &Silent).unwrap();
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
    let mut recipe = Recipe::default();
    recipe.data.data = vec![data];
    recipe.sweep.method = vec!["l1".parse().unwrap()];
    (recipe.sweep.step, recipe.sweep.max) = ("0.5".parse().ok(), "0.5".parse().ok());
    let mut evaluator = Evaluator::new(&model, &recipe.eval_options().unwrap(), None).unwrap();
    let run = sweep::sweep(&model, &recipe, &mut evaluator, &folder.path().join("run"), &Silent).unwrap();
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
    let mut recipe = Recipe::default();
    recipe.data.data = vec![data];
    (recipe.data.mean, recipe.data.std) = (vec![0.485, 0.456, 0.406], vec![0.229, 0.224, 0.225]);
    recipe.prune.include =
        ["conv1.weight", "layer2.0.conv1.weight", "layer2.0.conv2.weight"].map(String::from).to_vec();
    (recipe.sweep.step, recipe.sweep.max) = ("0.2".parse().ok(), "0.6".parse().ok());
    let mut evaluator = Evaluator::new(&model, &recipe.eval_options().unwrap(), None).unwrap();
    let run = sweep::sensitivity(&model, &recipe, &mut evaluator, folder.path(), &Silent).unwrap();
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
