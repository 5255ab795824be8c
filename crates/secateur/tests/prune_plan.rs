//! Plans on small models made in memory.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{model, stored};
use half::{bf16, f16};
use secateur::prune::{Amount, Mask};
use secateur::prune::{Override, PruneOptions, Pruning, Subject, plan, plan_from};
use secateur::select::{Part, Selector};
use secateur_model::{Data, ErrorKind, Model, TensorId};

fn options(method: &str, sparsity: f64) -> PruneOptions {
    PruneOptions::new(method.parse().unwrap(), Amount::Sparsity(sparsity))
}

/// Weights whose magnitudes grow with the index, of alternating sign.
fn rising(n: usize) -> Vec<f32> {
    (1..=n).map(|i| if i % 2 == 0 { i as f32 } else { -(i as f32) }).collect()
}

fn one(shape: &[usize], values: Vec<f32>) -> Model {
    model(vec![stored("w", shape, Data::F32(values))], &[1])
}

fn pruned(pruning: &Pruning, layer: usize) -> Vec<usize> {
    let mask = &pruning.masks[layer].1;
    (0..mask.len()).filter(|&i| !mask.keeps(i)).collect()
}

#[test]
fn zeros_that_are_there_count() {
    let mut values = rising(10);
    (values[9], values[8]) = (0.0, -0.0);
    let model = one(&[2, 5], values);
    let plan = |options| plan(&model, &options).unwrap();
    assert_eq!(pruned(&plan(options("l1", 0.4)), 0), [0, 1, 8, 9]);
    let of_remaining = PruneOptions { of_remaining: true, ..options("l1", 0.5) };
    assert_eq!(pruned(&plan(of_remaining), 0), [0, 1, 2, 3, 8, 9]);
    let random = plan(options("random", 0.4));
    assert!(pruned(&random, 0).ends_with(&[8, 9]) && random.zeros() == 4);
    // More zeros than asked for: nothing is revived, and nothing changes.
    let fewer = plan(options("l1", 0.1));
    assert_eq!((pruned(&fewer, 0), fewer.zeros()), (vec![8, 9], 2));
    assert!(fewer.notes[0].contains("more zeros than asked for"));
    assert_eq!(fewer.patch(&model).ids().count(), 0);
}

/// Weights that a base mask prunes are as zeros that are stored, but the tensor has to be written.
#[test]
fn base_masks_stand_for_stored_zeros() {
    let mut zeroed = rising(20);
    let mask = Mask::from_fn(20, |i| i % 5 != 4 && i / 5 != 3);
    let mut stored_zeros = Data::F32(zeroed.clone());
    mask.apply(&mut stored_zeros).unwrap();
    let zeros = model(vec![stored("w", &[4, 5], stored_zeros)], &[1]);
    // What is pruned may be anything.
    zeroed[19] = f32::NAN;
    let dense = one(&[4, 5], zeroed);
    let base = BTreeMap::from([(TensorId(0), Arc::new(mask.clone()))]);
    for method in ["l1", "l1@global", "l1@row", "random", "l1/channel", "l0/channel:in", "ln:0.5/channel:in"]
    {
        for of_remaining in [false, true] {
            let options = PruneOptions { of_remaining, ..options(method, 0.5) };
            let pruning = plan_from(&dense, &options, &base).unwrap();
            let expected = plan(&zeros, &options).unwrap().masks[0].1.and(&mask).unwrap();
            assert_eq!(*pruning.masks[0].1, expected, "{method}");
            let layer = &pruning.layers[0];
            assert_eq!((layer.zeros_before, layer.pruned_before), (0, mask.pruned()));
            let edited = pruning.patch(&dense).load(&dense, TensorId(0)).unwrap().to_f32s().unwrap();
            assert_eq!(edited.iter().filter(|&&w| w == 0.0).count(), layer.zeros_after);
        }
    }
    // Nothing new is pruned, and still the mask has to be applied.
    let nothing = plan_from(&dense, &options("l1", 0.0), &base).unwrap();
    assert_eq!((*nothing.masks[0].1).clone(), mask);
    assert_eq!(nothing.patch(&dense).ids().count(), 1);
    let base = BTreeMap::from([(TensorId(0), Arc::new(Mask::all(19)))]);
    let error = plan_from(&dense, &options("l1", 0.5), &base).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(error.to_string().contains("tensor `w`: the base mask has 19 elements"), "{error}");
}

#[test]
fn counts_and_what_is_out_of_range() {
    let model = one(&[2, 5], rising(10));
    let count = |n, of_remaining| {
        let amount = Amount::Count(n);
        plan(&model, &PruneOptions { amount, of_remaining, ..options("l1", 0.0) })
    };
    assert_eq!(pruned(&count(3, false).unwrap(), 0), [0, 1, 2]);
    let error = count(11, true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.to_string().contains("tensor `w`: 11 are to be pruned, but there are only 10"));
    assert!(plan(&model, &options("l1", 1.01)).is_err());
}

#[test]
fn overrides_leave_the_global_ranking() {
    let tensors =
        ["a.weight", "b.weight", "c.weight"].map(|path| stored(path, &[2, 5], Data::F32(rising(10))));
    let model = model(tensors.into(), &[1; 3]);
    let override_of = |name: &str, sparsity| Override { name: name.into(), sparsity };
    let overrides = vec![override_of("*", 0.9), override_of("b.*", 0.2), override_of("[ac]", 0.5)];
    let pruning = plan(&model, &PruneOptions { overrides, ..options("l1@global", 0.0) }).unwrap();
    assert_eq!(pruning.layers.iter().map(|l| l.zeros_after).collect::<Vec<_>>(), [5, 2, 5]);
    let overrides = vec![override_of("b.*", 0.0)];
    let pruning = plan(&model, &PruneOptions { overrides, ..options("l1@global", 0.5) }).unwrap();
    assert_eq!(pruning.layers.iter().map(|l| l.zeros_after).collect::<Vec<_>>(), [5, 0, 5]);
    let overrides = vec![override_of("d.*", 0.0)];
    let error = plan(&model, &PruneOptions { overrides, ..options("l1", 0.5) }).unwrap_err();
    assert!(error.to_string().contains("`d.*` matches no tensor"), "{error}");
}

#[test]
fn nan_is_refused_and_infinity_kept() {
    let mut values = rising(10);
    values[7] = f32::NAN;
    let error = plan(&one(&[2, 5], values), &options("l1", 0.5)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(error.to_string().starts_with("tensor `w`: the weight at [1, 2] is NaN"), "{error}");
    let mut values = rising(10);
    values[0] = f32::NEG_INFINITY;
    for method in ["l1", "l2/channel", "ln:3/channel", "ln:0.5/channel", "linf/channel"] {
        let pruning = plan(&one(&[2, 5], values.clone()), &options(method, 0.5)).unwrap();
        assert!(pruning.masks[0].1.keeps(0), "{method}");
    }
}

#[test]
fn every_type_is_pruned_in_its_own_type() {
    let values = rising(12);
    let of = |data| model(vec![stored("w", &[3, 4], data)], &[1]);
    let models = [
        of(Data::F32(values.clone())),
        of(Data::F64(values.iter().map(|&v| v.into()).collect())),
        of(Data::F16(values.iter().map(|&v| f16::from_f32(v)).collect())),
        of(Data::BF16(values.iter().map(|&v| bf16::from_f32(v)).collect())),
    ];
    for model in &models {
        for (method, expected) in [
            ("l1", vec![0, 1, 2, 3]),
            ("l1@global", vec![0, 1, 2, 3]),
            ("l1@row", vec![0, 4, 8]),
            ("l2/channel", vec![0, 1, 2, 3]),
            ("l2/channel:in", vec![0, 4, 8]),
            ("lamp@global", vec![0, 1, 2, 3]),
            ("l1/2x2", vec![0, 1, 4, 5]),
        ] {
            let pruning = plan(model, &options(method, 0.33)).unwrap();
            assert_eq!(pruned(&pruning, 0), expected, "{method}");
            let edited = pruning.patch(model).load(model, TensorId(0)).unwrap();
            assert_eq!(edited.dtype(), model.tensor(TensorId(0)).dtype);
            let kept = edited.to_f32s().unwrap();
            for (i, (&before, after)) in values.iter().zip(kept).enumerate() {
                assert_eq!(after.to_bits(), if expected.contains(&i) { 0 } else { before.to_bits() });
            }
        }
    }
}

/// f64 weights that f32 cannot tell apart.
#[test]
fn f64_magnitudes_are_compared_exactly() {
    let values: Vec<f64> = (0..6).rev().map(|i| 1.0 + f64::from(i) * 1e-12).collect();
    let model = model(vec![stored("w", &[2, 3], Data::F64(values))], &[1]);
    assert_eq!(pruned(&plan(&model, &options("l1", 0.5)).unwrap(), 0), [3, 4, 5]);
}

/// Four groups of two outputs, each over two inputs.
#[test]
fn channels_of_grouped_convolutions() {
    // Of unlike steps, so that it is no table of constants.
    let values = || rising(16).into_iter().map(|v| v * v.abs()).collect();
    let grouped = || model(vec![stored("w", &[8, 2, 1, 1], Data::F32(values()))], &[4]);
    let channels = |method: &str| {
        let pruning = plan(&grouped(), &options(method, 0.25)).unwrap();
        let channels = pruning.layers[0].channels.unwrap();
        (channels.size, channels.pruned, pruned(&pruning, 0))
    };
    assert_eq!(channels("l1/channel"), (8, 2, vec![0, 1, 2, 3]));
    assert_eq!(channels("l1/channel:0"), (8, 2, vec![0, 1, 2, 3]));
    // All inputs of all groups: those of the first group are the smallest.
    assert_eq!(channels("l1/channel:in"), (8, 2, vec![0, 1, 2, 3]));
    // PyTorch's dimension 1: the first input of every group. A quarter of 2 rounds to none.
    assert_eq!(channels("l1/channel:1"), (2, 0, vec![]));
}

#[test]
fn biases_can_be_selected() {
    let mut model = one(&[2, 5], rising(10));
    let graph = model.graph.as_mut().unwrap();
    graph.values.push(secateur_model::graph::Value { name: "b".into(), ..Default::default() });
    let value = secateur_model::ValueId(graph.values.len() as u32 - 1);
    graph.constants.insert(value, TensorId(1));
    graph.nodes[0].inputs.push(Some(value));
    model.tensors.insert("b".into(), stored("b", &[2], Data::F32(vec![2.0, 1.0])));
    let selector = Selector { part: Part::Biases, ..Selector::default() };
    let pruning = plan(&model, &PruneOptions { selector, ..options("l1", 0.5) }).unwrap();
    assert_eq!((pruning.layers[0].tensor.as_str(), pruned(&pruning, 0)), ("b", vec![1]));
    // And they go along with their channel.
    let pruning = plan(&model, &options("l1/channel", 0.5)).unwrap();
    let bias = pruning.patch(&model).load(&model, TensorId(1)).unwrap();
    assert_eq!(bias.to_f32s().unwrap(), [0.0, 1.0]);
    assert_eq!(pruning.layers[0].companions, ["b"]);
    assert!((pruning.model_sparsity(&Subject::of(&model)).unwrap() - 0.5).abs() < 1e-9);
}

#[test]
fn selection() {
    let paths = ["encoder.0.weight", "encoder.1.weight", "head.weight"];
    let tensors = paths.map(|path| stored(path, &[2, 5], Data::F32(rising(10))));
    let model = model(tensors.into(), &[1; 3]);
    let select = |selector: Selector| {
        let options = PruneOptions { selector, ..options("l1", 0.5) };
        plan(&model, &options).map(|p| p.layers.into_iter().map(|l| l.tensor).collect::<Vec<_>>())
    };
    let texts = |texts: &[&str]| texts.iter().map(|t| t.to_string()).collect::<Vec<_>>();
    let by = |selector: Selector| select(selector).unwrap();
    assert_eq!(by(Selector { ops: texts(&["Gemm"]), ..Default::default() }), paths);
    assert_eq!(by(Selector { modules: texts(&["encoder"]), ..Default::default() }), paths[..2]);
    assert_eq!(by(Selector { modules: texts(&["*.1", "head"]), ..Default::default() }), paths[1..]);
    assert_eq!(by(Selector { include: texts(&["node1"]), ..Default::default() }), paths[1..2]);
    assert_eq!(by(Selector { exclude: texts(&["head*"]), ..Default::default() }), paths[..2]);
    let error = |selector: Selector| {
        let error = select(selector).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        error.to_string()
    };
    assert!(error(Selector { ops: texts(&["gem"]), ..Default::default() }).contains("did you mean `Gemm`"));
    assert!(error(Selector { modules: texts(&["encodr"]), ..Default::default() }).contains("`encoder`"));
    assert!(
        error(Selector { exclude: texts(&["tail"]), ..Default::default() }).contains("matches no tensor")
    );
    assert!(error(Selector { include: texts(&["[z"]), ..Default::default() }).contains("not a glob"));
    let both = Selector { include: texts(&["head*"]), modules: texts(&["encoder"]), ..Default::default() };
    assert!(error(both).contains("the selection is empty"));
}

/// The same masks whatever the number of threads.
#[test]
fn threads_do_not_matter() {
    let stream = secateur::random::Stream::new(3, "threads");
    let draws = |n: usize| (0..n as u64).map(|i| stream.draw(i) as i64 as f32 / 1e18).collect();
    let tensors = [600_000, 12, 300_000].into_iter().enumerate();
    let tensors = tensors.map(|(t, n)| stored(&format!("w{t}"), &[n / 6, 6], Data::F32(draws(n))));
    let model = model(tensors.collect(), &[1; 3]);
    for method in ["l1", "l1@global", "random@global", "l1@row", "l2/channel", "random/channel@global"] {
        let masks = [1, 2, 5].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| plan(&model, &options(method, 0.7)).unwrap().masks)
        });
        assert!(masks[0] == masks[1] && masks[0] == masks[2], "{method}");
    }
}
