//! What holds for every method: counts, shapes of zeros, rounds, threads.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use secateur::calib::needs_data;
use secateur::prune::evidence::{FLOW, SCORES};
use secateur::prune::method::Method;
use secateur::prune::{ALLOCATIONS, Amount, Mask, Pattern, Registry, Scope};
use secateur::prune::{Override, PruneOptions, Pruning, Subject, plan, plan_from};
use secateur::random::Stream;
use secateur::verify;
use secateur_model::{Data, ErrorKind, Model, TensorId};

use common::{model, stored};

/// A matrix, a convolution, one of two groups and a depthwise one; [out, in ÷ groups, …].
const LAYERS: &[(&str, &[usize], i64)] = &[
    ("conv", &[6, 3, 3, 3], 1),
    ("grouped", &[12, 5, 1, 2], 2),
    ("depthwise", &[8, 1, 3, 3], 8),
    ("linear", &[23, 22], 1),
];

/// The model, and the file of scores that belongs to it.
fn layers(seed: u64) -> (Model, tempfile::NamedTempFile) {
    let draw = |name: &str, at: u64| Stream::new(seed, name).draw(at);
    let tensor = |(name, shape, _): &(&str, &[usize], i64), scores: bool| {
        let len: usize = shape.iter().product();
        let values = (0..len as u64).map(|i| match draw(name, i) {
            // Zeros and ties are among them.
            d if scores => (d % 1000) as f32 - 500.0,
            d if d % 7 == 0 => 0.0,
            d => ((d >> 8) % 50) as f32 - 25.0,
        });
        stored(name, shape, Data::F32(values.collect()))
    };
    let groups: Vec<i64> = LAYERS.iter().map(|l| l.2).collect();
    let scores: Vec<_> = LAYERS.iter().map(|l| tensor(l, true)).collect();
    let file = tempfile::NamedTempFile::with_suffix(".safetensors").unwrap();
    let bytes: Vec<(String, Vec<u8>, Vec<usize>)> = scores
        .iter()
        .map(|t| {
            let values = t.load().unwrap().to_f32s().unwrap().to_vec();
            (t.path.clone(), values.iter().flat_map(|v| v.to_le_bytes()).collect(), t.shape.clone())
        })
        .collect();
    std::fs::write(&file, safetensors(&bytes)).unwrap();
    (model(LAYERS.iter().map(|l| tensor(l, false)).collect(), &groups), file)
}

/// A safetensors file of f32 tensors.
fn safetensors(tensors: &[(String, Vec<u8>, Vec<usize>)]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, bytes, shape) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        let entry = serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": offsets });
        header.insert(name.clone(), entry);
        data.extend(bytes);
    }
    let header = serde_json::Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data.as_slice()].concat()
}

/// Every method that has a meaning, one for each combination.
fn methods() -> Vec<Method> {
    let combinations =
        Registry::default().matrix().into_iter().filter(|c| c.verdict.is_ok()).map(|c| c.method());
    let further = ["l1/1:3", "l2/3x2", "l1/1x4@row", "l1/16x1", "l1/channel:in", "random/channel:1"];
    let further = further.map(|text| text.parse::<Method>().unwrap());
    combinations
        .chain(further)
        .flat_map(|method| ALLOCATIONS.iter().map(move |a| Method { allocation: a.allocation, ..method }))
        // Those that look at data have tests of their own.
        .filter(|method| method.verdict().is_ok() && !needs_data(method) && !method.needs(&FLOW))
        .collect()
}

fn options(method: Method, sparsity: f64, scores: &tempfile::NamedTempFile) -> PruneOptions {
    let sparsity = method.pattern.sparsity().unwrap_or(sparsity);
    let scores = method.needs(&SCORES).then(|| scores.path().into());
    PruneOptions { scores, ..PruneOptions::new(method, Amount::Sparsity(sparsity)) }
}

/// For each element the number of its block or group of R×C: outputs and inputs within the groups.
fn members(shape: &[usize], groups: usize, rows: usize, columns: usize) -> Vec<Vec<usize>> {
    let spatial: usize = shape[2..].iter().product();
    let per_group = shape[0] / groups;
    let mut found: BTreeMap<[usize; 4], Vec<usize>> = BTreeMap::new();
    for element in 0..shape.iter().product() {
        let (out, rest) = (element / (shape[1] * spatial), element % (shape[1] * spatial));
        let (input, position) = (rest / spatial, rest % spatial);
        let key = [out / per_group, out % per_group / rows, input / columns, position];
        found.entry(key).or_default().push(element);
    }
    found.into_values().collect()
}

/// What a method ranks of a layer: weights, or units of weights.
fn units(pattern: Pattern, layer: &(&str, &[usize], i64)) -> Vec<Vec<usize>> {
    let &(_, shape, groups) = layer;
    let text = pattern.to_string();
    match text.split_once('x') {
        Some((rows, columns)) => {
            members(shape, groups as usize, rows.parse().unwrap(), columns.parse().unwrap())
        }
        None if text == "channel" => members(shape, 1, 1, usize::MAX).into_iter().fold(
            vec![Vec::new(); shape[0]],
            |mut channels, weights| {
                let size: usize = shape[1..].iter().product();
                channels[weights[0] / size].extend(weights);
                channels
            },
        ),
        None => (0..shape.iter().product()).map(|i| vec![i]).collect(),
    }
}

fn weights(model: &Model, layer: usize) -> Vec<f32> {
    model.tensors[layer].load().unwrap().to_f32s().unwrap().to_vec()
}

/// Units that are zero as a whole afterwards, and all of them.
fn pruned_units(model: &Model, pruning: &Pruning, pattern: Pattern, layer: usize) -> (usize, usize) {
    let (units, weights) = (units(pattern, &LAYERS[layer]), weights(model, layer));
    let mask = &pruning.masks[layer].1;
    let zero = |unit: &&Vec<usize>| unit.iter().all(|&i| !mask.keeps(i) || weights[i] == 0.0);
    (units.iter().filter(zero).count(), units.len())
}

fn has_count(pattern: Pattern) -> bool {
    pattern.sparsity().is_none() && !pattern.to_string().contains("channel:")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn exactly_as_many_go_as_are_asked_for(seed in any::<u64>(), sparsity in 0.45..0.65f64) {
        let (model, scores) = layers(seed);
        for method in methods().into_iter().filter(|m| has_count(m.pattern)) {
            let pruning = plan(&model, &options(method, sparsity, &scores)).unwrap();
            let found: Vec<(usize, usize)> =
                (0..LAYERS.len()).map(|l| pruned_units(&model, &pruning, method.pattern, l)).collect();
            let count = |size: usize| (sparsity * size as f64).round_ties_even() as usize;
            if method.scope == Scope::Global || method.allocation.divides() {
                let (pruned, size) = found.iter().fold((0, 0), |sum, f| (sum.0 + f.0, sum.1 + f.1));
                prop_assert_eq!(pruned, count(size), "{} {:?}", method, found);
            } else if method.scope == Scope::Layer {
                for (pruned, size) in found {
                    prop_assert_eq!(pruned, count(size), "{}", method);
                }
            }
        }
    }

    #[test]
    fn zeros_have_the_shape_of_the_pattern(seed in any::<u64>(), sparsity in 0.0..1.0f64) {
        let (model, scores) = layers(seed);
        for method in methods().into_iter().filter(|m| !m.allocation.divides()) {
            let pruning = plan(&model, &options(method, sparsity, &scores)).unwrap();
            for (l, layer) in LAYERS.iter().enumerate() {
                let (mask, weights) = (&pruning.masks[l].1, weights(&model, l));
                if let Pattern::Nm(nm) = method.pattern {
                    for group in members(layer.1, layer.2 as usize, 1, nm.m()) {
                        let kept = group.iter().filter(|&&i| mask.keeps(i)).count();
                        let alive = group.iter().filter(|&&i| weights[i] != 0.0).count();
                        prop_assert_eq!(kept, alive.min(nm.n()), "{} {}", method, layer.0);
                    }
                } else if has_count(method.pattern) {
                    for unit in units(method.pattern, layer) {
                        let kept = unit.iter().filter(|&&i| mask.keeps(i)).count();
                        prop_assert!(kept == 0 || kept == unit.len(), "{} {}", method, layer.0);
                    }
                }
            }
        }
    }

    /// Pruning by the same amount again, by whatever criterion, finds nothing left to do.
    #[test]
    fn a_second_time_changes_nothing(seed in any::<u64>(), sparsity in 0.3..0.65f64) {
        let (model, scores) = layers(seed);
        for method in methods() {
            let options = options(method, sparsity, &scores);
            let first = plan(&model, &options).unwrap();
            let base: BTreeMap<TensorId, Arc<Mask>> = first.masks.iter().cloned().collect();
            let again = verify::verify(&Subject::of(&model), &options, &base).unwrap();
            prop_assert_eq!(again.missing(), 0, "{}", method);
        }
    }

    /// What a round prunes the next does not bring back, whether it is zeroed or masked.
    #[test]
    fn rounds_are_monotone(seed in any::<u64>(), first in 0.3..0.6f64, second in 0.45..0.8f64) {
        let (model, scores) = layers(seed);
        let rounds = methods();
        for (method, next) in rounds.iter().zip(rounds.iter().cycle().skip(7)) {
            let before = plan(&model, &options(*method, first, &scores)).unwrap();
            let base: BTreeMap<TensorId, Arc<Mask>> = before.masks.iter().cloned().collect();
            let after = match plan_from(&model, &options(*next, second, &scores), &base) {
                Ok(after) => after,
                // Little may be left but what uniform+ does not touch.
                Err(e) => {
                    prop_assert!(e.to_string().contains("uniform+ leaves"), "{next}: {e}");
                    continue;
                }
            };
            for ((_, mask), (_, base)) in after.masks.iter().zip(&before.masks) {
                prop_assert_eq!(&mask.and(base).unwrap(), &**mask, "{} after {}", next, method);
            }
            for (layer, pruned) in after.layers.iter().zip(&before.layers) {
                prop_assert_eq!(layer.pruned_before, pruned.zeros_after, "{} after {}", next, method);
            }
        }
    }
}

#[test]
fn threads_do_not_matter() {
    let (model, scores) = layers(5);
    let pools = [1, 3].map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap());
    for method in methods() {
        let options = options(method, 0.6, &scores);
        let [one, three] =
            pools.each_ref().map(|pool| pool.install(|| plan(&model, &options).unwrap().masks));
        assert!(one == three, "{method}");
    }
}

fn parse(text: &str) -> Method {
    text.parse().unwrap()
}

#[test]
fn n_of_m_fixes_the_sparsity() {
    let (model, _) = layers(1);
    let nm = |amount| PruneOptions::new(parse("l1/2:4"), amount);
    assert!(plan(&model, &nm(Amount::Sparsity(0.5))).is_ok());
    for options in [
        nm(Amount::Sparsity(0.6)),
        nm(Amount::Count(3)),
        PruneOptions { of_remaining: true, ..nm(Amount::Sparsity(0.5)) },
    ] {
        let error = plan(&model, &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains("2:4 fixes the sparsity at 0.5"), "{error}");
    }
    let layer = |sparsity| {
        let overrides = vec![Override { name: "linear".into(), sparsity }];
        plan(&model, &PruneOptions { overrides, ..nm(Amount::Sparsity(0.5)) })
    };
    let dense = layer(0.0).unwrap();
    assert_eq!(dense.layers[3].zeros_after, dense.layers[3].zeros_before);
    assert!(dense.layers[0].zeros_after > dense.layers[0].zeros_before);
    let error = layer(0.3).unwrap_err().to_string();
    assert!(error.contains("tensor `linear`") && error.contains("0 leaves the layer dense"), "{error}");
}

#[test]
fn uniform_plus_holds_the_first_convolution_and_the_last_layer() {
    let (model, _) = layers(2);
    let plan = |sparsity| plan(&model, &PruneOptions::new(parse("l1+uniform+"), Amount::Sparsity(sparsity)));
    let pruning = plan(0.6).unwrap();
    assert_eq!(pruning.layers[0].zeros_after, pruning.layers[0].zeros_before);
    let error = plan(0.9).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.to_string().contains("uniform+ leaves the first convolution"), "{error}");
}

#[test]
fn a_file_of_scores_has_to_fit() {
    let weights = stored("w", &[2, 3], Data::F32(vec![0.5; 6]));
    let model = model(vec![weights], &[1]);
    let file = tempfile::NamedTempFile::with_suffix(".safetensors").unwrap();
    let plan = |method: &str, name: &str, shape: &[usize], values: &[f32]| {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        std::fs::write(&file, safetensors(&[(name.into(), bytes, shape.to_vec())])).unwrap();
        let scores = Some(file.path().into());
        plan(&model, &PruneOptions { scores, ..PruneOptions::new(parse(method), Amount::Sparsity(0.5)) })
    };
    // Negative scores are lower than positive ones: no magnitudes are taken.
    let pruning = plan("file", "w", &[2, 3], &[0.0, -9.0, 3.0, 1.0, -0.5, 2.0]).unwrap();
    assert_eq!(*pruning.masks[0].1, Mask::from_fn(6, |i| [2, 3, 5].contains(&i)));
    let pruning = plan("file/channel", "w", &[2], &[5.0, -5.0]).unwrap();
    assert_eq!(*pruning.masks[0].1, Mask::from_fn(6, |i| i < 3));
    for (name, shape, values, expected) in [
        ("v", &[2, 3][..], [1.0; 6], "none for it; there are `v`"),
        ("w", &[3, 2], [1.0; 6], "scores have the shape [3, 2]; expected [2, 3]"),
        ("w", &[2, 3], [1.0, 1.0, 1.0, 1.0, f32::NAN, 1.0], "the element at [1, 1] of the scores is NaN"),
    ] {
        let error = plan("file", name, shape, &values).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Input);
        assert!(error.to_string().contains("tensor `w`") && error.to_string().contains(expected), "{error}");
    }
    let error = plan("l1", "w", &[2, 3], &[1.0; 6]).unwrap_err();
    assert!(error.to_string().contains("takes no file of scores"), "{error}");
    let error = secateur::prune::plan(&model, &PruneOptions::new(parse("file"), Amount::Sparsity(0.5)));
    assert!(error.unwrap_err().to_string().contains("option `scores=scores.npz`"));
}

/// What a kernel computes of a constant stays, and nothing else of the layer changes.
#[test]
fn kernel_sum_keeps_the_sum_of_each_kernel() {
    let stream = Stream::new(0, "kernels");
    let values = |len: usize| -> Vec<f32> {
        (0..len).map(|i| (stream.draw(i as u64) >> 40) as f32 / (1 << 24) as f32 - 0.5).collect()
    };
    let tensors = vec![
        stored("linear", &[8, 12], Data::F32(values(96))),
        stored("conv", &[4, 3, 3, 3], Data::F32(values(108))),
    ];
    let model = model(tensors, &[1, 1]);
    let options = |method: &str| PruneOptions::new(method.parse().unwrap(), Amount::Sparsity(0.9));
    let pruned = plan(&model, &options("l1")).unwrap();
    let solved = plan(&model, &options("l1+kernel-sum")).unwrap();
    assert_eq!(pruned.masks, solved.masks);
    assert_eq!(pruned.zeros(), solved.zeros());
    let load = |pruning: &Pruning, layer: usize| {
        pruning.patch(&model).load(&model, TensorId(layer as u32)).unwrap().to_f32s().unwrap()
    };
    assert_eq!(load(&pruned, 0), load(&solved, 0));
    let (dense, masked, after) = (values(108), load(&pruned, 1), load(&solved, 1));
    let (mut whole, mut changed) = (0, 0);
    for kernel in (0..108).step_by(9).map(|at| at..at + 9) {
        let sum = |of: &[f32]| of[kernel.clone()].iter().map(|&w| f64::from(w)).sum::<f64>();
        let moved: Vec<f64> = kernel
            .clone()
            .filter(|&i| masked[i] != 0.0)
            .map(|i| f64::from(after[i]) - f64::from(dense[i]))
            .collect();
        if moved.is_empty() {
            whole += 1;
            assert!(after[kernel].iter().all(|&w| w == 0.0));
            continue;
        }
        changed += 1;
        assert!((sum(&after) - sum(&dense)).abs() < 1e-6);
        // The closest such weights: all that stay move alike.
        assert!(moved.iter().all(|m| (m - moved[0]).abs() < 1e-6));
    }
    assert!(whole > 0 && changed > 0, "{whole} {changed}");

    // Zeros that were there before stay, also where the pattern keeps what they belong to.
    let mut twice = model.clone();
    twice.tensors["conv"] = stored("conv", &[4, 3, 3, 3], Data::F32(masked.clone()));
    let solved =
        plan(&twice, &PruneOptions::new("l1/2x1+kernel-sum".parse().unwrap(), Amount::Sparsity(0.9)));
    let after = solved.unwrap().patch(&twice).load(&twice, TensorId(1)).unwrap().to_f32s().unwrap();
    assert!(masked.iter().zip(&after).all(|(before, after)| *before != 0.0 || *after == 0.0));
    assert!(masked != after);
}
