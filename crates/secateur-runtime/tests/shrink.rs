//! A network without some positions of its dimensions computes what the network does in which they are zero.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use secateur_model::dims::{Dims, Kept};
use secateur_model::infer::{Binding, Inference};
use secateur_model::{DType, Model, Patch, Tensor, io};
use secateur_runtime::Session;

/// The shared ONNX files; empty, with the reason printed, where there are none.
fn shared() -> Vec<PathBuf> {
    let folder = std::env::var_os("SECATEUR_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"), PathBuf::from);
    let mut found = Vec::new();
    let mut left = vec![folder.join("models")];
    while let Some(folder) = left.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|extension| extension == "onnx") {
                found.push(path);
            }
        }
    }
    if found.is_empty() {
        println!("skipped: no models in {}", folder.display());
    }
    found.sort();
    found
}

/// A small generator of numbers.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }

    fn value(&mut self) -> f32 {
        (self.next() >> 20) as f32 / (1u64 << 32) as f32 - 1.0
    }
}

/// Keeps about two thirds of each dimension that is free.
fn drawn(dims: &Dims<'_>, random: &mut Random) -> Kept {
    let mut kept = HashMap::new();
    for group in dims.free() {
        let mut order: Vec<usize> = (0..group.extent).collect();
        for i in (1..group.extent).rev() {
            order.swap(i, random.next() as usize % (i + 1));
        }
        order.truncate((group.extent * 2 / 3).max(1));
        order.sort_unstable();
        kept.insert(group.dim, order);
    }
    kept
}

/// The patch that sets to zero what a cut would remove, in every tensor.
fn masked(model: &Model, dims: &Dims<'_>, kept: &Kept) -> Patch {
    let mut patch = Patch::new();
    let graph = model.graph().unwrap();
    let space = dims.axes().space();
    for (&value, &id) in &graph.constants {
        let Some(axes) = dims.axes().value(value) else { continue };
        let stored = model.tensor(id);
        if stored.dtype != DType::F32 {
            continue;
        }
        let lists: Vec<Vec<usize>> = axes.iter().map(|&axis| space.select(axis, kept)).collect();
        if lists.iter().zip(&stored.shape).all(|(list, &extent)| list.len() == extent) {
            continue;
        }
        let tensor = stored.load().unwrap();
        let (shape, mut values) = (tensor.shape().to_vec(), tensor.to_f32s().unwrap());
        let mut step = values.len();
        for (list, &extent) in lists.iter().zip(&shape) {
            step /= extent;
            for (i, value) in values.iter_mut().enumerate() {
                if !list.contains(&(i / step % extent)) {
                    *value = 0.0;
                }
            }
        }
        patch.set(id, Tensor::new(shape, values).unwrap());
    }
    patch
}

fn run(model: &Arc<Model>, patch: Patch, inputs: &[(String, Tensor)]) -> Vec<Tensor> {
    Session::new(model.clone(), patch).unwrap().run(inputs.to_vec()).unwrap()
}

#[test]
fn a_cut_network_computes_what_the_masked_one_does() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for path in shared() {
        let Ok(model) = io::read(&path) else { continue };
        if model.graph.is_none() {
            continue;
        }
        let model = Arc::new(model);
        let begun = std::time::Instant::now();
        let dims = match Dims::of(&model, false) {
            Ok(dims) => dims,
            Err(why) => {
                println!("{}: {why}", path.display());
                continue;
            }
        };
        let took = begun.elapsed();
        let kept = drawn(&dims, &mut random);
        let cut = dims.cut(&kept).unwrap();
        let smaller = Arc::new(cut.apply(&model).unwrap());
        let graph = model.graph().unwrap();
        let inference = Inference::of(&model, &Binding::default()).unwrap();
        let inputs: Vec<(String, Tensor)> = graph
            .inputs
            .iter()
            .filter(|id| !graph.constants.contains_key(id))
            .map(|id| {
                let shape = inference.facts[id.index()].as_ref().unwrap().shape().unwrap().to_vec();
                let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.value()).collect();
                (graph.value_name(*id).to_string(), Tensor::new(shape, values).unwrap())
            })
            .collect();
        let count =
            |model: &Model| model.tensors.values().map(|t| t.shape.iter().product::<usize>()).sum::<usize>();
        println!(
            "{}: {} of {} dimensions free, {} of {} elements left, found in {took:?}",
            path.file_name().unwrap().to_string_lossy(),
            kept.len(),
            dims.groups().len(),
            count(&smaller),
            count(&model),
        );
        for group in dims.groups().iter().filter(|group| group.frozen.is_some()) {
            println!("    {}: {}", group.extent, group.frozen.as_ref().unwrap().text(graph));
        }
        if kept.is_empty() {
            continue;
        }
        let want = run(&model, masked(&model, &dims, &kept), &inputs);
        let got = run(&smaller, Patch::new(), &inputs);
        for (want, got) in want.iter().zip(&got) {
            assert_eq!(want.shape(), got.shape());
            let (want, got) = (want.to_f32s().unwrap(), got.to_f32s().unwrap());
            let most = want.iter().fold(0f32, |most, v| most.max(v.abs()));
            for (want, got) in want.iter().zip(&got) {
                assert!((want - got).abs() <= 1e-4 * most.max(1e-3), "{}: {got} {want}", path.display());
            }
        }
    }
}
