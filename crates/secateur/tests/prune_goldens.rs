//! Masks equal those of torch.nn.utils.prune, and random draws those of another implementation.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use secateur::data::read_npz;
use secateur::mask::{Amount, Mask};
use secateur::prune::{PruneOptions, plan};
use secateur::score::CRITERIA;
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

fn arrays() -> BTreeMap<String, Golden> {
    let npz = include_bytes!("../goldens/prune/prune.npz");
    let arrays = read_npz(npz.as_slice().into()).unwrap();
    let golden = |array: secateur::data::Array| {
        let rows: Vec<&[u8]> = (0..array.rows()).map(|i| array.row_bytes(i).unwrap()).collect();
        Golden { dtype: array.dtype(), shape: array.shape().to_vec(), bytes: rows.concat() }
    };
    arrays.into_iter().map(|(name, array)| (name, golden(array))).collect()
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
    let arrays = arrays();
    let goldens: Goldens = serde_json::from_str(include_str!("../goldens/prune/cases.json")).unwrap();
    let mut covered = BTreeSet::new();
    for (index, case) in goldens.cases.iter().enumerate() {
        let tensors = case.tensors.iter().map(|name| {
            let weight = &arrays[&format!("weight/{name}")];
            StoredTensor {
                path: name.clone(),
                dtype: weight.dtype,
                shape: weight.shape.clone(),
                storage: Storage::Bytes(weight.bytes.clone().into()),
            }
        });
        let groups: Vec<i64> = case.tensors.iter().map(|name| groups(name)).collect();
        let mut model = model(tensors.collect(), &groups);
        let mut masks: Vec<Mask> = model.tensors.values().map(|t| Mask::all(t.len())).collect();
        for (step, kept) in case.steps.iter().zip(&case.kept) {
            let options = step.options();
            covered.insert(options.method.criterion.to_string());
            let pruning = plan(&model, &options).unwrap();
            for (mask, (_, new)) in masks.iter_mut().zip(&pruning.masks) {
                *mask = mask.and(new).unwrap();
            }
            let found: Vec<usize> = masks.iter().map(Mask::kept).collect();
            assert_eq!(&found, kept, "{}", case.name);
            let edits = pruning.edits(&model);
            for t in 0..model.tensors.len() {
                let pruned = edits.load(&model, TensorId(t as u32)).unwrap();
                model.tensors[t].storage = Storage::Data(Arc::new(pruned.into_parts().1));
            }
        }
        for (t, mask) in masks.iter().enumerate() {
            let golden = &arrays[&format!("mask/{index}/{t}")].bytes;
            assert!(mask.iter().map(u8::from).eq(golden.iter().copied()), "{}", case.name);
        }
    }
    // A criterion of the table without a golden is a criterion nobody checked.
    for info in CRITERIA.iter().filter(|info| info.name != "random") {
        let golden = match info.name {
            "ln:P" => covered.iter().any(|name| name.starts_with("ln:")),
            name => covered.contains(name),
        };
        assert!(golden, "no golden for {}", info.name);
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
        let tensor = stored(&case.path, &[4, case.size / 4], Data::F32(vec![1.0; case.size]));
        let model = model(vec![tensor], &[1]);
        let amount = Amount::Count(case.pruned.len());
        let options =
            PruneOptions { seed: case.seed, ..PruneOptions::new("random".parse().unwrap(), amount) };
        let pruning = plan(&model, &options).unwrap();
        let pruned: Vec<usize> = (0..case.size).filter(|&i| !pruning.masks[0].1.keeps(i)).collect();
        assert_eq!(pruned, case.pruned, "{}", case.path);
    }
}
