//! Made-up timings for tests.

use super::{Bench, CostTable, OURS, Predicted, RuntimeInfo, Times, Timing, VersionInfo};

/// Two versions; two peers know the first.
pub(crate) fn made_up() -> Bench {
    let version = |method: Option<&str>, sparsity| VersionInfo {
        model: "model.onnx".into(),
        method: method.map(str::to_string),
        target: method.map(|_| sparsity),
        sparsity,
        macs: Some(1.0 - sparsity),
        bytes: 1_000_000,
    };
    let timing = |version, runtime: &str, ms: f64| Timing {
        version,
        runtime: runtime.into(),
        batch: 1,
        threads: 2,
        latency: Times::of([0.9, 1.0, 1.1].map(|f| f * ms / 1e3).to_vec()),
        throughput: 1e3 / ms,
        load_seconds: 0.5,
        memory: (runtime != OURS).then_some(5_000_000),
        speedup_median: f64::NAN,
        speedup_best: f64::NAN,
        predicted: (version > 0).then_some(Predicted { seconds: 0.0019, off: -0.05 }),
        sparse_layers: (runtime == OURS).then_some(7 * version),
        layers: Vec::new(),
    };
    let runtime = |name: &str| RuntimeInfo { name: name.into(), version: "1.2".into() };
    Bench {
        runtimes: [OURS, "ONNX Runtime", "OpenVINO"].map(runtime).to_vec(),
        precision: "f32",
        instruction_set: "avx2",
        cpu: "Example CPU".into(),
        cores: 2,
        command: "secateur bench model.onnx --method l1 --sparsity 0.9 -o FOLDER".into(),
        seed: 0,
        rounds: 3,
        costs: CostTable::SHIPPED,
        versions: vec![version(None, 0.0), version(Some("l1"), 0.9)],
        timings: vec![
            timing(0, OURS, 8.0),
            timing(0, "ONNX Runtime", 10.0),
            timing(0, "OpenVINO", 8.0),
            timing(1, OURS, 2.0),
        ],
        notes: vec!["not timed: something".into()],
    }
}
