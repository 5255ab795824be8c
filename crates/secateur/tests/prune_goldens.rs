//! Masks equal those of torch.nn.utils.prune and of the methods' authors, and random draws those of
//! another implementation.

mod common;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use secateur::data::read_npz;
use secateur::prune::allocation::{Place, Share};
use secateur::prune::evidence::{SCORES, SEED};
use secateur::prune::method::Method;
use secateur::prune::{ALLOCATIONS, Allocation, Amount, Mask, PATTERNS, Registry};
use secateur::prune::{PruneOptions, plan};
use secateur_model::model::Storage;
use secateur_model::{DType, Data, StoredTensor, TensorId};
use serde::Deserialize;

use common::{model, stored};

#[derive(Deserialize)]
struct Goldens {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    tensors: Vec<String>,
    steps: Vec<Step>,
    kept: Vec<Vec<usize>>,
}

#[derive(Deserialize)]
struct Step {
    method: String,
    amount: serde_json::Number,
    n: Option<String>,
    dim: Option<i64>,
}

impl Step {
    /// The step as our options.
    fn options(&self) -> PruneOptions {
        let method = match self.method.as_str() {
            "l1_unstructured" => "l1".to_string(),
            "global_unstructured" => "l1@global".to_string(),
            "ln_structured" => {
                format!("ln:{}/channel:{}", self.n.as_ref().unwrap(), self.dim.unwrap())
            }
            other => panic!("method {other}"),
        };
        let amount = match self.amount.as_u64() {
            Some(count) => Amount::Count(count as usize),
            None => Amount::Sparsity(self.amount.as_f64().unwrap()),
        };
        PruneOptions { of_remaining: true, ..PruneOptions::new(method.parse().unwrap(), amount) }
    }
}

struct Golden {
    dtype: DType,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn arrays(npz: &'static [u8]) -> BTreeMap<String, Golden> {
    let arrays = read_npz(npz.into()).unwrap();
    let golden = |array: secateur::data::Array| Golden {
        dtype: array.dtype(),
        shape: array.shape().to_vec(),
        bytes: array.bytes().to_vec(),
    };
    arrays.into_iter().map(|(name, array)| (name, golden(array))).collect()
}

impl Golden {
    fn stored(&self, path: &str) -> StoredTensor {
        StoredTensor {
            path: path.into(),
            dtype: self.dtype,
            shape: self.shape.clone(),
            storage: Storage::Bytes(self.bytes.clone().into()),
        }
    }
}

fn groups(name: &str) -> i64 {
    match name {
        "grouped" => 4,
        "depthwise" => 10,
        _ => 1,
    }
}

#[test]
fn masks_equal_pytorch() {
    let arrays = arrays(include_bytes!("../goldens/prune/prune.npz"));
    let goldens: Goldens = serde_json::from_str(include_str!("../goldens/prune/cases.json")).unwrap();
    for (index, case) in goldens.cases.iter().enumerate() {
        let tensors = case.tensors.iter().map(|name| arrays[&format!("weight/{name}")].stored(name));
        let groups: Vec<i64> = case.tensors.iter().map(|name| groups(name)).collect();
        let mut model = model(tensors.collect(), &groups);
        let mut masks: Vec<Mask> = model.tensors.values().map(|t| Mask::all(t.len())).collect();
        for (step, kept) in case.steps.iter().zip(&case.kept) {
            let options = step.options();
            let pruning = plan(&model, &options).unwrap();
            for (mask, (_, new)) in masks.iter_mut().zip(&pruning.masks) {
                *mask = mask.and(new).unwrap();
            }
            let found: Vec<usize> = masks.iter().map(Mask::kept).collect();
            assert_eq!(&found, kept, "{}", case.name);
            let patch = pruning.patch(&model);
            for t in 0..model.tensors.len() {
                let pruned = patch.load(&model, TensorId(t as u32)).unwrap();
                model.tensors[t].storage = Storage::Data(Arc::new(pruned.into_parts().1));
            }
        }
        for (t, mask) in masks.iter().enumerate() {
            let golden = &arrays[&format!("mask/{index}/{t}")].bytes;
            assert!(mask.iter().map(u8::from).eq(golden.iter().copied()), "{}", case.name);
        }
    }
}

#[derive(Deserialize)]
struct MethodGoldens {
    cases: Vec<MethodCase>,
    erk: Vec<Densities>,
}

#[derive(Deserialize)]
struct MethodCase {
    method: Method,
    tensors: Vec<String>,
    sparsity: Option<f64>,
}

#[derive(Deserialize)]
struct Densities {
    network: String,
    shapes: Vec<Vec<usize>>,
    sparsity: f64,
    sparsities: Vec<f64>,
}

fn method_goldens() -> MethodGoldens {
    serde_json::from_str(include_str!("../goldens/methods/cases.json")).unwrap()
}

#[test]
fn masks_equal_those_of_the_authors() {
    let arrays = arrays(include_bytes!("../goldens/methods/methods.npz"));
    let scores = tempfile::NamedTempFile::with_suffix(".npz").unwrap();
    std::fs::write(&scores, score_file(&arrays)).unwrap();
    for (index, case) in method_goldens().cases.iter().enumerate() {
        let tensors = case.tensors.iter().map(|name| arrays[&format!("weight/{name}")].stored(name));
        let model = model(tensors.collect(), &vec![1; case.tensors.len()]);
        let sparsity = case.sparsity.or(case.method.pattern.sparsity()).unwrap();
        let mut options = PruneOptions::new(case.method, Amount::Sparsity(sparsity));
        options.scores = case.method.needs(&SCORES).then(|| scores.path().into());
        let pruning = plan(&model, &options).unwrap();
        for (name, (_, mask)) in case.tensors.iter().zip(&pruning.masks) {
            let golden = &arrays[&format!("mask/{index}/{name}")].bytes;
            let place = format!("{} {sparsity} {name}", case.method);
            if case.method.allocation == Allocation::UniformPlus {
                // The authors round each layer by itself.
                let kept = golden.iter().filter(|&&keep| keep == 1).count();
                assert!(mask.kept().abs_diff(kept) <= 1, "{place}: {} {kept}", mask.kept());
            } else {
                assert!(mask.iter().map(u8::from).eq(golden.iter().copied()), "{place}");
            }
        }
    }
}

/// The scores of the goldens under the tensors' names, as an archive of what is not compressed.
fn score_file(arrays: &BTreeMap<String, Golden>) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, golden) in arrays {
        let Some(name) = name.strip_prefix("scores/") else { continue };
        let stored =
            zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        archive.start_file(format!("{name}.npy"), stored).unwrap();
        let shape: String = golden.shape.iter().map(|d| format!("{d},")).collect();
        let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}\n");
        archive.write_all(b"\x93NUMPY\x01\0").unwrap();
        archive.write_all(&(header.len() as u16).to_le_bytes()).unwrap();
        archive.write_all(header.as_bytes()).unwrap();
        archive.write_all(&golden.bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

#[test]
fn densities_equal_rigl() {
    for golden in method_goldens().erk {
        let shares: Vec<Share<'_>> = golden
            .shapes
            .iter()
            .map(|shape| Share { shape, size: shape.iter().product(), already: 0, place: Place::Middle })
            .collect();
        let size: usize = shares.iter().map(|s| s.size).sum();
        let pruned = (golden.sparsity * size as f64).round_ties_even() as usize;
        let targets = Allocation::Erk.targets(&shares, pruned).unwrap();
        assert_eq!(targets.iter().sum::<usize>(), pruned);
        for (share, (target, sparsity)) in shares.iter().zip(targets.iter().zip(&golden.sparsities)) {
            // RigL's sum is of counts that are rounded down layer by layer.
            let slack = 1.0 + shares.len() as f64 * share.size as f64 / (size - pruned) as f64;
            let expected = sparsity * share.size as f64;
            let near = (*target as f64 - expected).abs() <= slack;
            assert!(near, "{} {}: {target} {expected}", golden.network, golden.sparsity);
            assert_eq!(*sparsity == 0.0, *target == 0, "{} {}", golden.network, golden.sparsity);
        }
    }
}

/// What stands in a table without a golden is what nobody checked.
#[test]
fn everything_in_the_tables_has_a_golden() {
    let goldens: Goldens = serde_json::from_str(include_str!("../goldens/prune/cases.json")).unwrap();
    let steps = goldens.cases.iter().flat_map(|case| &case.steps).map(|step| step.options().method);
    let authors = method_goldens();
    let methods: Vec<Method> = steps.chain(authors.cases.iter().map(|case| case.method)).collect();
    // What comes from data or from the graph has goldens in `tests/calibration.rs`.
    let of_graphs = ["taylor", "snip", "fisher", "synflow", "mean-activation", "apoz"];
    for criterion in Registry::default().criteria().filter(|criterion| !criterion.needs(&SEED)) {
        let name = criterion.about().name;
        if of_graphs.contains(&name) {
            continue;
        }
        let covered = methods.iter().any(|m| m.criterion.about().name == name);
        assert!(covered, "no golden for {name}");
    }
    for info in PATTERNS {
        let of_kind =
            |m: &Method| std::mem::discriminant(&m.pattern) == std::mem::discriminant(&info.pattern);
        assert!(methods.iter().any(of_kind), "no golden for {}", info.name);
    }
    for info in ALLOCATIONS {
        let covered = methods.iter().any(|m| m.allocation == info.allocation)
            || (info.allocation == Allocation::Erk && !authors.erk.is_empty());
        assert!(covered, "no golden for {}", info.name);
    }
}

#[derive(Deserialize)]
struct RandomCase {
    seed: u64,
    path: String,
    size: usize,
    pruned: Vec<usize>,
}

#[test]
fn random_masks_equal_another_implementation() {
    let cases: Vec<RandomCase> = serde_json::from_str(include_str!("../goldens/random/random.json")).unwrap();
    for case in cases {
        let tensor = stored(&case.path, &[4, case.size / 4], Data::F32(vec![0.5; case.size]));
        let model = model(vec![tensor], &[1]);
        let amount = Amount::Count(case.pruned.len());
        let options =
            PruneOptions { seed: case.seed, ..PruneOptions::new("random".parse().unwrap(), amount) };
        let pruning = plan(&model, &options).unwrap();
        let pruned: Vec<usize> = (0..case.size).filter(|&i| !pruning.masks[0].1.keeps(i)).collect();
        assert_eq!(pruned, case.pruned, "{}", case.path);
    }
}
