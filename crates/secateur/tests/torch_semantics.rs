//! What PyTorch's own test of `torch.nn.utils.prune` asserts (`test/nn/test_pruning.py`), said of secateur:
//! each test there has a counterpart here under its name.
//!
//! Without counterpart, and why:
//! - `test_validate_pruning_amount_init`, `test_validate_pruning_amount`, `test_compute_nparams_to_prune`:
//!   counts are tested beside them, in `mask/amount.rs`; an amount that is a text does not compile.
//! - `test_pruning_container`, `test_pruning_id_consistency`, `test_random_pruning_pickle`: there are no hooks
//!   and no modules; masks compose by intersection, and a file is its own serialisation.
//! - the gradients of `test_identity_pruning`, `test_random_pruning_0perc` and `test_random_pruning`: nothing is
//!   trained here yet.
//! - `test_pruning_serialization_model`: whole-model pickles are refused.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use common::{model, stored};
use secateur::prune::masks::{self, Form, Masks};
use secateur::prune::{Amount, Mask};
use secateur::prune::{PruneOptions, Pruning, Subject, plan, plan_from};
use secateur::select::Selector;
use secateur_model::io::{self, WriteOptions};
use secateur_model::{Data, Model, Patch, TensorId};

fn linear(path: &str, shape: [usize; 2], weights: &[f32]) -> Model {
    model(vec![stored(path, &shape, Data::F32(weights.to_vec()))], &[1])
}

fn options(method: &str, amount: Amount) -> PruneOptions {
    // Some of PyTorch's weights are 1, 2, 3 and so on: tables of constants, unless they are asked for.
    let selector = Selector { include: vec!["*".into()], ..Selector::default() };
    PruneOptions {
        of_remaining: true,
        weights_only: true,
        selector,
        ..PruneOptions::new(method.parse().unwrap(), amount)
    }
}

fn mask(bits: &[u8]) -> Arc<Mask> {
    Arc::new(Mask::from_fn(bits.len(), |i| bits[i] == 1))
}

fn base(bits: &[u8]) -> BTreeMap<TensorId, Arc<Mask>> {
    BTreeMap::from([(TensorId(0), mask(bits))])
}

fn kept(pruning: &Pruning) -> Vec<u8> {
    pruning.masks[0].1.iter().map(u8::from).collect()
}

fn weights(model: &Model, patch: &Patch, id: u32) -> Vec<f32> {
    patch.load(model, TensorId(id)).unwrap().to_f32s().unwrap()
}

/// A checkpoint of two layers as a file.
fn checkpoint(folder: &Path) -> Model {
    let mut patch = Patch::new();
    let ramp = |n: usize| (0..n).map(|i| ((i * 7 % 11) as f32 - 5.0) * 0.25 + 0.1).collect::<Vec<f32>>();
    let tensors = [("0.weight", vec![10, 10]), ("0.bias", vec![10]), ("2.weight", vec![1, 10])];
    for (path, shape) in tensors {
        let tensor = secateur_model::Tensor::new(shape.clone(), ramp(shape.iter().product())).unwrap();
        let dtype = secateur_model::DType::F32;
        patch.add(path, dtype, shape, None, Arc::new(move || Ok(tensor.clone())));
    }
    let empty = Model { tensors: Default::default(), graph: None, path: None, source: io::Source::memory() };
    let path = folder.join("model.pth");
    io::convert(&empty, &patch, &[], &io::TORCH, &path, WriteOptions::default()).unwrap();
    io::read(path).unwrap()
}

fn write(model: &Model, patch: &Patch, folder: &Path, name: &str) -> Model {
    let path = folder.join(name);
    io::write(model, patch, &[], &path, WriteOptions { overwrite: true }).unwrap();
    io::read(path).unwrap()
}

/// `test_random_pruning_sizes`, `test_random_pruning_orig`, `test_random_pruning_new_weight`: originals and masks
/// have the weight's size, the original is the weight, and the weight is now original times mask. Also
/// `test_remove_pruning` and `test_pruning_serialization_state_dict`: finalised, pairs are gone, the weight is back
/// under its name and equals the pruned one.
#[test]
fn pairs_are_original_times_mask_until_they_are_final() {
    let folder = tempfile::tempdir().unwrap();
    let model = checkpoint(folder.path());
    let pruning = plan(&model, &options("random", Amount::Sparsity(0.5))).unwrap();
    let out = masks::output(&model, &pruning, &Masks::default(), Form::Pairs, false).unwrap();
    let paired = write(&model, &out.patch, folder.path(), "pairs.pth");
    let tensor = |model: &Model, path: &str| model.tensors[path].load().unwrap().to_f32s().unwrap();
    assert!(!paired.tensors.contains_key("0.weight"));
    let (original, ones) = (tensor(&paired, "0.weight_orig"), tensor(&paired, "0.weight_mask"));
    assert_eq!(original, tensor(&model, "0.weight"));
    assert_eq!(paired.tensors["0.weight_mask"].shape, [10, 10]);
    let product: Vec<f32> = original.iter().zip(&ones).map(|(w, m)| w * m).collect();
    let found = Masks::of(&paired).unwrap();
    assert_eq!(found.form(), Form::Pairs);
    let id = paired.tensor_id("0.weight_orig").unwrap();
    assert_eq!(weights(&paired, &found.effective(&paired), id.0), product);

    let done = write(&paired, &masks::finalize(&paired, &found), folder.path(), "final.pth");
    assert_eq!(tensor(&done, "0.weight"), product);
    assert!(done.tensors.keys().all(|path| !path.ends_with("_orig") && !path.ends_with("_mask")));
    assert_eq!(done.tensors.keys().collect::<Vec<_>>(), model.tensors.keys().collect::<Vec<_>>());
}

/// `test_identity_pruning`, `test_random_pruning_0perc`, `test_random_pruning_forward`: a mask of ones changes
/// nothing, a mask leaves just the weights it keeps.
#[test]
fn a_mask_multiplies_the_weight() {
    let model = linear("w", [2, 5], &[1., 2., 3., 4., 5., 6., 7., 8., 9., 10.]);
    let effective = |bits: &[u8]| {
        let masks = Masks { masks: base(bits), ..Masks::default() };
        weights(&model, &masks.effective(&model), 0)
    };
    assert_eq!(effective(&[1; 10]), [1., 2., 3., 4., 5., 6., 7., 8., 9., 10.]);
    assert_eq!(effective(&[0, 0, 0, 1, 0, 1, 0, 0, 0, 0]), [0., 0., 0., 4., 0., 6., 0., 0., 0., 0.]);
    assert_eq!(
        Pruning::of_masks(&Subject::of(&model), &base(&[1; 10])).unwrap().patch(&model).ids().count(),
        0
    );
}

/// `test_remove_pruning_exception`: without masks there is nothing to take back.
#[test]
fn undoing_what_was_not_pruned_is_an_error() {
    let model = linear("w", [1, 2], &[1., 2.]);
    assert!(masks::undo(&model, &Masks::of(&model).unwrap()).is_err());
}

/// `test_multiple_pruning_calls`: what the first mask prunes, the later ones prune too.
#[test]
fn later_rounds_revive_nothing() {
    let weights: Vec<f32> = (0..32).map(|i| ((i * 13 % 17) as f32 - 8.0) / 3.0 + 0.05).collect();
    let model = model(vec![stored("w", &[4, 2, 2, 2], Data::F32(weights))], &[1]);
    let mut masks = BTreeMap::new();
    for (method, share) in [("l1", 0.1), ("l2/channel:0", 0.3), ("linf/channel:1", 0.1)] {
        let before = masks.get(&TensorId(0)).cloned().unwrap_or(Arc::new(Mask::all(32)));
        let pruning = plan_from(&model, &options(method, Amount::Sparsity(share)), &masks).unwrap();
        let after = pruning.masks[0].1.clone();
        assert_eq!(after.and(&before).unwrap(), *after);
        masks.insert(TensorId(0), after);
    }
}

/// `test_pruning_container_compute_mask`, `test_prune`.
#[test]
fn masks_compose_on_the_right_axis() {
    let model = linear("w", [2, 4], &[1., 2., 3., 4., 5., 6., 7., 8.]);
    let before = base(&[1, 1, 1, 0, 1, 1, 0, 1]);
    let found = |method: &str, count| {
        kept(&plan_from(&model, &options(method, Amount::Count(count)), &before).unwrap())
    };
    assert_eq!(found("l1", 2), [0, 0, 1, 0, 1, 1, 0, 1]);
    assert_eq!(found("l2/channel:0", 1), [0, 0, 0, 0, 1, 1, 0, 1]);
    // PyTorch counts the masked 7 of the third column and prunes the first; here a norm is of what is left.
    assert_eq!(found("l2/channel:1", 1), [1, 1, 0, 0, 1, 1, 0, 1]);
}

/// `test_l1_unstructured_pruning`.
#[test]
fn l1_removes_the_smallest_again_and_again() {
    let model = linear("w", [2, 4], &[1., 2., 3., 4., -4., -3., -2., -1.]);
    let two = options("l1", Amount::Count(2));
    let first = plan(&model, &two).unwrap();
    assert_eq!(weights(&model, &first.patch(&model), 0), [0., 2., 3., 4., -4., -3., -2., 0.]);
    let second = plan_from(&model, &two, &BTreeMap::from([first.masks[0].clone()])).unwrap();
    assert_eq!(weights(&model, &second.patch(&model), 0), [0., 0., 3., 4., -4., -3., 0., 0.]);
}

/// Scores as a file: secateur takes them as they are (higher = keep), so magnitudes are given where PyTorch takes
/// magnitudes itself.
fn scores(folder: &Path, tensors: &[(&str, &[usize], &[f32])]) -> std::path::PathBuf {
    let mut patch = Patch::new();
    for (path, shape, values) in tensors {
        let magnitudes = values.iter().map(|v| v.abs()).collect();
        let tensor = secateur_model::Tensor::new(shape.to_vec(), magnitudes).unwrap();
        let dtype = secateur_model::DType::F32;
        patch.add(*path, dtype, shape.to_vec(), None, Arc::new(move || Ok(tensor.clone())));
    }
    let empty = Model { tensors: Default::default(), graph: None, path: None, source: io::Source::memory() };
    let path = folder.join("scores.safetensors");
    let force = WriteOptions { overwrite: true };
    io::convert(&empty, &patch, &[], &io::SAFETENSORS, &path, force).unwrap();
    path
}

/// `test_l1_unstructured_pruning_with_importance_scores`, `test_prune_importance_scores`,
/// `test_prune_importance_scores_mimic_default`.
#[test]
fn given_scores_decide() {
    let folder = tempfile::tempdir().unwrap();
    let model = linear("w", [2, 4], &[1., 2., 3., 4., -4., -3., -2., -1.]);
    let given = |values: &[f32]| PruneOptions {
        scores: Some(scores(folder.path(), &[("w", &[2, 4], values)])),
        ..options("file", Amount::Count(2))
    };
    let two = given(&[4., 2., 1., 3., -3., -1., -2., -4.]);
    let first = plan(&model, &two).unwrap();
    assert_eq!(weights(&model, &first.patch(&model), 0), [1., 2., 0., 4., -4., 0., -2., -1.]);
    let second = plan_from(&model, &two, &BTreeMap::from([first.masks[0].clone()])).unwrap();
    assert_eq!(weights(&model, &second.patch(&model), 0), [1., 0., 0., 4., -4., 0., 0., -1.]);

    let model = linear("w", [2, 4], &[1., 2., 3., 4., 5., 6., 7., 8.]);
    let before = base(&[1, 1, 1, 0, 1, 1, 0, 1]);
    let found = |values: &[f32]| kept(&plan_from(&model, &given(values), &before).unwrap());
    assert_eq!(found(&[1., 2., 3., 4., 1.5, 1.6, 1.7, 1.8]), [0, 1, 1, 0, 0, 1, 0, 1]);
    let by_magnitude = kept(&plan_from(&model, &options("l1", Amount::Count(2)), &before).unwrap());
    assert_eq!(found(&[1., 2., 3., 4., 5., 6., 7., 8.]), by_magnitude);
}

/// `test_unstructured_pruning_same_magnitude`.
#[test]
fn ties_do_not_change_the_count() {
    let weights: Vec<f32> = (0..70).map(|i| if i % 3 == 0 { -2.0 } else { 2.0 }).collect();
    let pruning = plan(&linear("w", [10, 7], &weights), &options("l1", Amount::Sparsity(0.2))).unwrap();
    assert_eq!(pruning.zeros(), 14);
}

/// `test_random_structured_pruning_amount`.
#[test]
fn random_channels_are_pruned_whole() {
    let weights: Vec<f32> = (0..40).map(|i| if i % 2 == 0 { -2.0 } else { 2.0 }).collect();
    let model = model(vec![stored("w", &[5, 4, 2], Data::F32(weights))], &[1]);
    let pruning = plan(&model, &options("random/channel:2", Amount::Sparsity(0.6))).unwrap();
    let mut sums = [0, 0];
    for (i, keep) in pruning.masks[0].1.iter().enumerate() {
        sums[i % 2] += usize::from(!keep);
    }
    sums.sort_unstable();
    assert_eq!(sums, [0, 20]);
}

const CONV: [f32; 12] = [1., 2., 1., 2.5, 0.5, 1., 0.1, 0.1, -3., -5., 0.1, -1.];

/// `test_ln_structured_pruning`.
#[test]
fn channels_go_by_their_norm() {
    let model = model(vec![stored("w", &[1, 3, 2, 2], Data::F32(CONV.to_vec()))], &[1]);
    let first = plan(&model, &options("l2/channel:1", Amount::Count(1))).unwrap();
    assert_eq!(kept(&first), [1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1]);
    let masks = BTreeMap::from([first.masks[0].clone()]);
    let second = plan_from(&model, &options("l1/channel:-1", Amount::Count(1)), &masks).unwrap();
    assert_eq!(kept(&second), [0, 1, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1]);
}

/// `test_ln_structured_pruning_importance_scores`: a channel's score is the mean of those of its weights, which
/// orders as the sums of PyTorch's test do.
#[test]
fn channels_go_by_given_scores() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(vec![stored("w", &[1, 3, 2, 2], Data::F32(CONV.to_vec()))], &[1]);
    let values = [10., 1., 10., 1., 30., 3., 30., 3., -20., -2., -20., -2.];
    let path = scores(folder.path(), &[("w", &[1, 3, 2, 2], &values)]);
    let by = |method: &str| PruneOptions { scores: Some(path.clone()), ..options(method, Amount::Count(1)) };
    let first = plan(&model, &by("file/channel:1")).unwrap();
    assert_eq!(kept(&first), [0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]);
    let masks = BTreeMap::from([first.masks[0].clone()]);
    let second = plan_from(&model, &by("file/channel:-1"), &masks).unwrap();
    assert_eq!(kept(&second), [0, 0, 0, 0, 1, 0, 1, 0, 1, 0, 1, 0]);
}

/// `test_global_pruning`, `test_global_pruning_importance_scores`. The zero that is there counts among the four.
#[test]
fn several_layers_are_ranked_together() {
    let folder = tempfile::tempdir().unwrap();
    let m = stored("m", &[2, 4], Data::F32(vec![1., 2., 3., 4., -4., -3., -2., -1.]));
    let n = stored("n", &[1, 3], Data::F32(vec![0., 0.1, -2.]));
    let model = model(vec![m, n], &[1, 1]);
    let four = |method: &str| {
        let mut four = PruneOptions { of_remaining: false, ..options(method, Amount::Count(4)) };
        // The numbers of `m` are a sequence: a table of constants takes part where it is named.
        four.selector.include = vec!["m".into(), "n".into()];
        four
    };
    let pruning = plan(&model, &four("l1@global")).unwrap();
    assert_eq!(weights(&model, &pruning.patch(&model), 0), [0., 2., 3., 4., -4., -3., -2., 0.]);
    assert_eq!(weights(&model, &pruning.patch(&model), 1), [0., 0., -2.]);
    let given = scores(
        folder.path(),
        &[("m", &[2, 4], &[4., 2., 1., 3., -3., -1., -2., -4.]), ("n", &[1, 3], &[0., 10., -0.2])],
    );
    let pruning = plan(&model, &PruneOptions { scores: Some(given), ..four("file@global") }).unwrap();
    assert_eq!(weights(&model, &pruning.patch(&model), 0), [1., 2., 0., 4., -4., 0., -2., -1.]);
    assert_eq!(weights(&model, &pruning.patch(&model), 1), [0., 0.1, 0.]);
}

/// `test_custom_from_mask_pruning`.
#[test]
fn a_custom_mask_is_intersected_with_the_one_there_is() {
    let mut masks = Masks { masks: base(&[0, 0, 0, 0, 1, 1, 1, 1]), ..Masks::default() };
    masks.intersect(TensorId(0), (*mask(&[0, 1, 1, 0, 0, 0, 1, 1])).clone()).unwrap();
    assert_eq!(*masks.masks[&TensorId(0)], *mask(&[0, 0, 0, 0, 0, 0, 1, 1]));
}

/// `test_pruning_rollback`: where something fails, nothing was changed or left behind.
#[test]
fn a_failure_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let model = checkpoint(folder.path());
    let before = std::fs::read(folder.path().join("model.pth")).unwrap();
    let mut patch = Patch::new();
    patch.set_lazy(TensorId(0), Arc::new(|| Err(secateur::Error::internal("HA!"))));
    for name in ["model.pth", "new.pth"] {
        let path = folder.path().join(name);
        assert!(io::write(&model, &patch, &[], &path, WriteOptions { overwrite: true }).is_err());
    }
    assert_eq!(std::fs::read(folder.path().join("model.pth")).unwrap(), before);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// `test_rnn_pruning`: one of a recurrent layer's weights is pruned and made permanent.
#[test]
fn one_weight_of_a_recurrent_layer() {
    let ramp = |n: usize| Data::F32((0..n).map(|i| (i % 13) as f32 - 6.5).collect());
    let tensors =
        vec![stored("rnn.weight_ih_l0", &[16, 3], ramp(48)), stored("rnn.weight_hh_l0", &[16, 4], ramp(64))];
    let tensors = tensors.into_iter().map(|t| (t.path.clone(), t)).collect();
    let model = Model { tensors, graph: None, path: None, source: io::Source::memory() };
    let mut half = options("l1", Amount::Sparsity(0.5));
    half.selector.include = vec!["*weight_ih_l0".into()];
    let pruning = plan(&model, &half).unwrap();
    assert_eq!(pruning.masks.len(), 1);
    assert_eq!((pruning.layers[0].op_type.as_str(), pruning.zeros()), ("LSTM", 24));
}
