//! Evidence of criteria from data, and repaired networks, beside PyTorch's in double precision.
//!
//! Skipped where `SECATEUR_PYTHON` names no Python with torch and onnx.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use secateur::calib::{CalibrateOptions, evidence, plan};
use secateur::data::{DataSpec, Sampling, read_npz};
use secateur::progress::Silent;
use secateur::prune::evidence::{
    EvidenceSet, GRADIENT_SQUARES, GRADIENTS, Need, OUTPUT_MAGNITUDES, OUTPUT_ZEROS, SALIENCY,
};
use secateur::prune::{MaskMap, Pattern, PruneOptions, Subject};
use secateur::solve::{Method, RepairOptions, Repairer};
use secateur::train::TrainData;
use secateur::{Amount, Model, io};

const WEIGHTS: [&str; 3] = ["conv1.weight", "conv2.weight", "fc.weight"];

/// What the script wrote; `None` where it cannot run.
struct Goldens {
    folder: tempfile::TempDir,
    found: BTreeMap<String, Vec<f64>>,
}

impl Goldens {
    fn make() -> Option<Self> {
        let python = std::env::var_os("SECATEUR_PYTHON").map(PathBuf::from);
        let usable = |python: &PathBuf| {
            let found = Command::new(python).args(["-c", "import torch, onnx"]).output();
            found.is_ok_and(|out| out.status.success())
        };
        let Some(python) = python.filter(usable) else {
            println!("skipped: SECATEUR_PYTHON names no Python with torch and onnx");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/calibration.py");
        let run = Command::new(python).arg(script).arg(folder.path()).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let arrays = read_npz(std::fs::read(folder.path().join("out.npz")).unwrap().into()).unwrap();
        let wide = |bytes: &[u8]| bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b)).collect();
        let found = arrays.into_iter().map(|(name, array)| (name, wide(array.bytes()))).collect();
        Some(Goldens { folder, found })
    }

    fn model(&self, name: &str) -> Arc<Model> {
        Arc::new(io::read(self.path(name)).unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The data in batches of five, of which the last is not full.
    fn data(&self) -> TrainData {
        TrainData {
            data: DataSpec { paths: vec![self.path("data.npz")], ..DataSpec::default() },
            sampling: Sampling { batch: Some(5), ..Sampling::default() },
            ..TrainData::default()
        }
    }

    fn assert_near(&self, key: &str, found: &[f64]) {
        let wanted = &self.found[key];
        assert_eq!(wanted.len(), found.len(), "{key}");
        let largest = wanted.iter().fold(0f64, |most, w| most.max(w.abs()));
        for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
            assert!((found - wanted).abs() <= 2e-5 * largest, "{key} {i}: {found}, PyTorch {wanted}");
        }
    }
}

fn gathered(goldens: &Goldens, methods: &[&str]) -> EvidenceSet {
    let options: Vec<PruneOptions> =
        methods.iter().map(|m| PruneOptions::new(m.parse().unwrap(), Amount::Sparsity(0.5))).collect();
    let data = CalibrateOptions { data: goldens.data(), ..CalibrateOptions::default() };
    evidence(&goldens.model("dense.onnx"), &MaskMap::new(), &options, Some(&data), &Silent).unwrap()
}

fn values(set: &EvidenceSet, need: &Need, pattern: &str, path: &str) -> Vec<f64> {
    let pattern = Pattern::parse(pattern).unwrap();
    let tensor = set.tensor(need, pattern, path).unwrap_or_else(|| panic!("{path}: no {}", need.name));
    tensor.load().unwrap().values::<f64>().unwrap().to_vec()
}

#[test]
fn evidence_is_that_of_pytorch() {
    let Some(goldens) = Goldens::make() else { return };
    let set = gathered(&goldens, &["snip", "fisher", "taylor", "taylor/channel", "taylor/channel:in"]);
    for path in WEIGHTS {
        goldens.assert_near(&format!("sum/{path}"), &values(&set, &GRADIENTS, "unstructured", path));
        goldens
            .assert_near(&format!("square/{path}"), &values(&set, &GRADIENT_SQUARES, "unstructured", path));
        goldens.assert_near(&format!("saliency/{path}"), &values(&set, &SALIENCY, "unstructured", path));
        goldens.assert_near(&format!("input/{path}"), &values(&set, &SALIENCY, "channel:in", path));
    }
    // The channels of the last layer are the model's outputs, which stay dense by default; evidence is gathered once for all.
    for path in WEIGHTS {
        goldens.assert_near(&format!("channel/{path}"), &values(&set, &SALIENCY, "channel", path));
    }
    // Whole batches give the same sums as single samples.
    let set = gathered(&goldens, &["snip"]);
    goldens.assert_near("sum/conv2.weight", &values(&set, &GRADIENTS, "unstructured", "conv2.weight"));
    let set = gathered(&goldens, &["mean-activation/channel", "apoz/channel@global"]);
    for path in &WEIGHTS[..2] {
        goldens.assert_near(&format!("magnitude/{path}"), &values(&set, &OUTPUT_MAGNITUDES, "channel", path));
        goldens.assert_near(&format!("zeros/{path}"), &values(&set, &OUTPUT_ZEROS, "channel", path));
    }
}

#[test]
fn a_repaired_network_is_that_of_pytorch() {
    let Some(goldens) = Goldens::make() else { return };
    let (dense, pruned) = (goldens.model("dense.onnx"), goldens.model("pruned.onnx"));
    let options = RepairOptions { data: goldens.data(), ..RepairOptions::default() };
    let none = MaskMap::new();
    let repairer = Repairer::new(&pruned, Some((&dense, &none)), &options, &Silent).unwrap();
    let repaired = repairer.repair(&pruned, &none, true, &Silent).unwrap();
    let changed: Vec<&str> = repaired.patch.ids().map(|id| pruned.tensor(id).path.as_str()).collect();
    let mut expected = vec!["bn.mean", "bn.var", "bn.bias", "conv2.bias", "fc.bias"];
    for path in &expected {
        let id = pruned.tensor_id(path).unwrap();
        let values = repaired.patch.load(&pruned, id).unwrap().to_f32s().unwrap();
        let values: Vec<f64> = values.into_iter().map(f64::from).collect();
        goldens.assert_near(&format!("repaired/{path}"), &values);
    }
    expected.sort_by_key(|path| pruned.tensor_id(path));
    assert_eq!(changed, expected);
    for layer in &repaired.layers {
        let [before, after] = layer.error.unwrap();
        assert!(before > 1e-2 && after < 1e-5, "{layer:?}");
    }
    // A model that is its own reference needs no repair of its biases.
    let options = RepairOptions { methods: vec![Method::Bias], ..options };
    let own = Repairer::new(&pruned, Some((&pruned, &none)), &options, &Silent).unwrap();
    assert_eq!(own.repair(&pruned, &none, true, &Silent).unwrap().patch.ids().count(), 0);
}

#[test]
fn synaptic_flow_is_that_of_pytorch() {
    let Some(goldens) = Goldens::make() else { return };
    let model = goldens.model("dense.onnx");
    let subject = Subject::of(&model);
    let options = |sparsity| PruneOptions::new("synflow@global".parse().unwrap(), Amount::Sparsity(sparsity));
    let pruning = plan(&model, &subject, &options(0.8), &MaskMap::new(), &EvidenceSet::default()).unwrap();
    for ((id, mask), path) in pruning.masks.iter().zip(WEIGHTS) {
        assert_eq!(model.tensor(*id).path, path);
        let kept: Vec<f64> = mask.iter().map(|keep| f64::from(u8::from(keep))).collect();
        assert_eq!(kept, goldens.found[&format!("flow-mask/{path}")], "{path}");
    }
}
