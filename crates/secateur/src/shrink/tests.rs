use std::sync::Arc;

use super::*;
use crate::nets::Net;
use crate::prune::{Amount, PruneOptions, plan};
use crate::random::Stream;
use secateur_model::Tensor;

/// A ResNet-20 with random weights, and batch-norms other than they are at the start.
fn resnet() -> Arc<Model> {
    let model = Net::named("resnet-20").unwrap().model().unwrap();
    let mut patch = Patch::new();
    for (id, stored) in (0..).map(TensorId).zip(model.tensors.values()) {
        let stream = Stream::new(1, &stored.path);
        let len: usize = stored.shape.iter().product();
        let inputs = (len / stored.shape.first().copied().unwrap_or(1)) as f64;
        let draw = |i: u64| match stored.shape.len() {
            1 => 0.5 + stream.draw(i) as f64 / u64::MAX as f64,
            _ => stream.normal(i) / inputs.sqrt(),
        };
        if stored.dtype == DType::F32 {
            let values = (0..len as u64).map(|i| draw(i) as f32).collect();
            patch.set(id, Tensor::new(stored.shape.clone(), values).unwrap());
        }
    }
    Arc::new(patch.apply(&model).unwrap())
}

fn by(method: &str, sparsity: f64) -> ShrinkOptions {
    ShrinkOptions { by: Some((method.parse().unwrap(), sparsity)), ..ShrinkOptions::default() }
}

#[test]
fn a_share_of_every_group_goes_and_the_rest_computes_the_same() {
    let model = resnet();
    for options in [by("l2/channel", 0.5), by("l1/channel@global", 0.5), by("random/channel", 0.3)] {
        let shrunk = shrink(&model, &options).unwrap();
        assert!(prove(&model, &shrunk, &options).unwrap().unwrap() < 1e-4);
        let smaller = shrunk.patch.apply(&model).unwrap();
        assert_eq!(size(&smaller).unwrap(), shrunk.size[1]);
        assert!(shrunk.size[1].parameters * 10 < shrunk.size[0].parameters * 7);
        for (path, axes) in &shrunk.indices {
            for (&axis, indices) in axes {
                assert_eq!(smaller.tensors[path].shape[axis], indices.len());
            }
        }
    }
    let rounded = ShrinkOptions { round_to: 8, ..by("l2/channel", 0.3) };
    let rows = shrink(&model, &rounded).unwrap().rows;
    assert!(rows.iter().all(|row| row.kept % 8 == 0 || row.kept == row.extent), "{rows:?}");
    let whole = ShrinkOptions { exclude: vec!["layer3.*".into()], ..by("l2/channel", 0.5) };
    let shrunk = shrink(&model, &whole).unwrap();
    assert!(shrunk.indices.keys().any(|path| path.starts_with("layer1")));
    assert!(
        shrunk
            .rows
            .iter()
            .all(|row| !row.outputs.iter().any(|name| name.starts_with("layer3")) || row.kept == row.extent)
    );
}

#[test]
fn what_is_zero_throughout_goes_and_nothing_changes() {
    let model = resnet();
    let options = PruneOptions::new("l2/channel".parse().unwrap(), Amount::Sparsity(0.5));
    let pruned = Arc::new(plan(&model, &options).unwrap().patch(&model).apply(&model).unwrap());
    let nothing = shrink(&model, &ShrinkOptions::default()).unwrap();
    assert!(nothing.kept.is_empty());
    let shrunk = shrink(&pruned, &ShrinkOptions::default()).unwrap();
    // The channels within blocks; those that a shortcut carries on are zero in no layer alone.
    assert!(shrunk.rows.iter().filter(|row| row.kept * 2 == row.extent).count() >= 9, "{:?}", shrunk.rows);
    assert!(prove(&pruned, &shrunk, &ShrinkOptions::default()).unwrap().unwrap() < 1e-4);
}

#[test]
fn methods_that_rank_no_channels_are_refused() {
    let model = resnet();
    for method in ["l1", "l1/2:4", "lamp/channel"] {
        let Ok(method) = method.parse::<Method>() else { continue };
        let options = ShrinkOptions { by: Some((method, 0.5)), ..ShrinkOptions::default() };
        assert!(shrink(&model, &options).is_err());
    }
}
