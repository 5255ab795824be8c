//! Evidence computed by hand, of models made in memory.

use std::path::Path;
use std::sync::Arc;

use secateur_model::{Attr, Model, Tensor};

use super::*;
use crate::data::metrics::Loss;
use crate::data::{DataSpec, write_npz};
use crate::progress::Silent;
use crate::prune::evidence::{GRADIENT_SQUARES, GRADIENTS, Need, SALIENCY};
use crate::prune::{self, Amount, MaskMap, Pattern, PruneOptions, Subject};
use crate::testing::{Net, TRANSPOSED};

fn data(folder: &Path, arrays: &[(String, Tensor)]) -> TrainData {
    let path = folder.join("data.npz");
    write_npz(arrays, &mut std::fs::File::create(&path).unwrap()).unwrap();
    TrainData { data: DataSpec { paths: vec![path], ..DataSpec::default() }, ..TrainData::default() }
}

fn options(methods: &[&str]) -> Vec<PruneOptions> {
    methods.iter().map(|m| PruneOptions::new(m.parse().unwrap(), Amount::Count(1))).collect()
}

/// y = w·x with w = (1, −½), and dropout that is not to drop.
fn linear(batch: Option<usize>) -> Arc<Model> {
    let mut net = Net::new(batch, &[2]);
    net.tensor("w", &[1, 2], vec![1.0, -0.5]);
    net.node("Dropout", &["x"], "d", &[]);
    net.node("Gemm", &["d", "w"], "y", TRANSPOSED);
    net.ends_with("y")
}

/// Samples (1, 2) and (3, 0) with the target 1: errors −1 and 2, so that the gradients of the squared error are (−2, −4)
/// and (12, 0).
fn regression(folder: &Path) -> CalibrateOptions {
    let x = Tensor::new([2, 2], vec![1.0f32, 2.0, 3.0, 0.0]).unwrap();
    let y = Tensor::new([2, 1], vec![1.0f32, 1.0]).unwrap();
    let loss = LossOptions { loss: Loss::Mse, ..LossOptions::default() };
    CalibrateOptions {
        data: data(folder, &[("x".into(), x), ("y".into(), y)]),
        loss,
        ..CalibrateOptions::default()
    }
}

#[test]
fn gradients_are_those_computed_by_hand() {
    let folder = tempfile::tempdir().unwrap();
    let calibrate = regression(folder.path());
    // A model that takes three samples at a time gets rows of padding, which have no gradients.
    for batch in [None, Some(3)] {
        let model = linear(batch);
        let all = options(&["snip", "fisher", "taylor"]);
        let set = evidence(&model, &MaskMap::new(), &all, Some(&calibrate), &Silent).unwrap();
        let found = |need: &Need| {
            set.tensor(need, Pattern::Unstructured, "w")
                .unwrap()
                .load()
                .unwrap()
                .values::<f64>()
                .unwrap()
                .to_vec()
        };
        assert_eq!(found(&GRADIENTS), [10.0, -4.0], "{batch:?}");
        assert_eq!(found(&GRADIENT_SQUARES), [74.0, 8.0]);
        assert_eq!(found(&SALIENCY), [74.0, 2.0]);
        let alone = options(&["snip"]);
        let set = evidence(&model, &MaskMap::new(), &alone, Some(&calibrate), &Silent).unwrap();
        let sums = set.tensor(&GRADIENTS, Pattern::Unstructured, "w").unwrap().load().unwrap();
        assert_eq!(sums.values::<f64>().unwrap(), [10.0, -4.0]);
    }
    // The smaller weight goes by its score, the larger one by magnitude would stay.
    let model = linear(None);
    let all = options(&["snip", "fisher", "taylor", "taylor/channel:in"]);
    let set = evidence(&model, &MaskMap::new(), &all, Some(&calibrate), &Silent).unwrap();
    for options in &all {
        let pruning = prune::plan_with(&Subject::of(&model), options, &MaskMap::new(), &set).unwrap();
        assert_eq!(pruning.masks[0].1.iter().collect::<Vec<_>>(), [true, false], "{}", options.method);
    }
}

#[test]
fn a_criterion_without_its_data_says_what_to_give() {
    let model = linear(None);
    let all = options(&["snip"]);
    let set = evidence(&model, &MaskMap::new(), &all, None, &Silent).unwrap();
    let error =
        prune::plan_with(&Subject::of(&model), &all[0], &MaskMap::new(), &set).unwrap_err().to_string();
    assert!(
        error.contains("`snip` needs the gradient") && error.contains("option `calibrate=train.npz`"),
        "{error}"
    );
    let folder = tempfile::tempdir().unwrap();
    let unlabelled = Tensor::new([2, 2], vec![1.0f32; 4]).unwrap();
    let data = CalibrateOptions {
        data: data(folder.path(), &[("x".into(), unlabelled)]),
        ..CalibrateOptions::default()
    };
    let error = evidence(&model, &MaskMap::new(), &all, Some(&data), &Silent).unwrap_err().to_string();
    assert!(error.contains("no labels"), "{error}");
}

/// Two channels: one that the ReLU lets pass for half of the inputs, one that it never does.
#[test]
fn activations_are_observed_behind_the_relu_without_padding() {
    let folder = tempfile::tempdir().unwrap();
    let x = Tensor::new([3, 1, 1, 2], vec![1.0f32, -1.0, 2.0, -2.0, 3.0, -3.0]).unwrap();
    let data = data(folder.path(), &[("x".into(), x)]);
    for batch in [None, Some(2)] {
        let mut net = Net::new(batch, &[1, 1, 2]);
        net.tensor("conv.weight", &[2, 1, 1, 1], vec![1.0, 0.0]);
        net.tensor("shift", &[2, 1, 1], vec![0.0, -1.0]);
        net.tensor("head.weight", &[1, 4], vec![1.0; 4]);
        net.node("Conv", &["x", "conv.weight"], "c", &[]);
        net.node("Add", &["c", "shift"], "a", &[]);
        net.node("Relu", &["a"], "r", &[]);
        net.node("Flatten", &["r"], "f", &[("axis", Attr::Int(1))]);
        net.node("Gemm", &["f", "head.weight"], "y", TRANSPOSED);
        let model = net.ends_with("y");
        let mut all = options(&["mean-activation/channel", "apoz/channel"]);
        all.iter_mut().for_each(|o| o.selector.include = vec!["conv.*".into()]);
        let calibrate = CalibrateOptions { data: data.clone(), ..CalibrateOptions::default() };
        let set = evidence(&model, &MaskMap::new(), &all, Some(&calibrate), &Silent).unwrap();
        let found = |need: &Need| {
            let tensor = set.tensor(need, all[0].method.pattern, "conv.weight").unwrap();
            tensor.load().unwrap().values::<f64>().unwrap().to_vec()
        };
        assert_eq!(found(&prune::evidence::OUTPUT_MAGNITUDES), [1.0, 0.0], "{batch:?}");
        assert_eq!(found(&prune::evidence::OUTPUT_ZEROS), [0.5, 1.0]);
        let pruning = prune::plan_with(&Subject::of(&model), &all[1], &MaskMap::new(), &set).unwrap();
        assert_eq!(pruning.masks[0].1.iter().collect::<Vec<_>>(), [true, false]);
    }
}

/// 60 layers of weights of 8: flows of 16^60 and gradients alike are beyond f32, shares of them are not.
#[test]
fn synaptic_flow_of_a_deep_network_does_not_overflow() {
    let mut net = Net::new(None, &[2]);
    let mut value = "x".to_string();
    for layer in 0..60 {
        let (path, next) = (format!("w{layer}"), format!("v{layer}"));
        net.tensor(&path, &[2, 2], vec![8.0, -8.0, 8.0, if layer == 30 { 4.0 } else { 8.0 }]);
        net.node("Gemm", &[&value, &path], &next, TRANSPOSED);
        net.node("Relu", &[&next], &format!("r{layer}"), &[]);
        value = format!("r{layer}");
    }
    let model = net.ends_with(&value);
    let subject = Subject::of(&model);
    let views: Vec<_> = subject.entries().unwrap().iter().filter_map(|entry| entry.view()).collect();
    let found = super::flow::flow(&model, &views).unwrap();
    assert_eq!(found.len(), 60);
    for (at, (_, scores)) in found.iter().enumerate() {
        let total: f64 = scores.iter().sum();
        let expected = if at == 30 { [2.0, 2.0, 2.0, 1.0].map(|part| part / 7.0) } else { scores_of(at) };
        for (score, expected) in scores.iter().zip(expected) {
            assert!((score / total - expected).abs() < 1e-6, "{at}: {scores:?}");
        }
        // What flows through each layer is all of it.
        let first: f64 = found[0].1.iter().sum();
        assert!((total / first - 1.0).abs() < 1e-5, "{at}");
    }
}

/// The shares of a layer of equal weights: in front of layer 30 and behind it flow is uneven.
fn scores_of(at: usize) -> [f64; 4] {
    match at {
        29 => [4.0, 4.0, 3.0, 3.0].map(|part| part / 14.0),
        31 => [4.0, 3.0, 4.0, 3.0].map(|part| part / 14.0),
        _ => [0.25; 4],
    }
}
