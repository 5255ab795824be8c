//! Made-up runs for tests, with the shapes that real ones have.

use crate::measure::{Bytes, Count, Histogram};
use crate::random::Stream;
use crate::records::{
    Environment, Latency, LayerInfo, LayerPoint, Measure, Point, PointKey, RunHeader, RunKind, RunWriter,
};
use crate::{DType, Result};

/// Random numbers in [0, 1), one after the other.
pub(crate) struct Noise {
    stream: Stream,
    position: u64,
}

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        Noise { stream: Stream::seeded(seed), position: 0 }
    }

    pub(crate) fn next(&mut self) -> f64 {
        let draw = self.stream.draw(self.position);
        self.position += 1;
        (draw >> 11) as f64 / (1u64 << 53) as f64
    }

    /// About normally distributed.
    pub(crate) fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.next()).sum::<f64>() - 6.0
    }
}

/// Per-sample losses of a model whose mean loss is about `mean`: long-tailed; the same samples are hard for
/// every model, whose own part has the standard deviation `own` relative to that.
pub(crate) fn losses(samples: u64, mean: f64, own: f64, seed: u64) -> Vec<f32> {
    let (mut hard, mut noise) = (Noise::new(7), Noise::new(seed));
    (0..samples)
        .map(|_| (mean * (-(1.0 - hard.next()).ln()) * (1.0 + own * noise.normal()).max(0.0)) as f32)
        .collect()
}

fn measure(name: &str, values: &[f32]) -> Measure {
    let n = values.len() as f64;
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    let variance = values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / (n - 1.0);
    Measure { name: name.into(), value: mean, standard_error: (variance / n).sqrt() }
}

const LAYERS: [(&str, [u64; 4], u64); 7] = [
    ("conv1.weight", [16, 3, 3, 3], 442_368),
    ("layer1.0.conv1.weight", [16, 16, 3, 3], 2_359_296),
    ("layer1.0.conv2.weight", [16, 16, 3, 3], 2_359_296),
    ("layer2.0.conv1.weight", [32, 16, 3, 3], 1_179_648),
    ("layer2.0.conv2.weight", [32, 32, 3, 3], 2_359_296),
    ("layer3.0.conv1.weight", [64, 32, 3, 3], 1_179_648),
    ("linear.weight", [10, 64, 1, 1], 640),
];

/// Each layer's weights, and their indices by rising magnitude.
fn weights(layer: usize) -> &'static (Vec<f32>, Vec<usize>) {
    static WEIGHTS: std::sync::OnceLock<Vec<(Vec<f32>, Vec<usize>)>> = std::sync::OnceLock::new();
    let make = |i: usize| {
        let mut noise = Noise::new(i as u64 + 100);
        let n = LAYERS[i].1.iter().product::<u64>();
        let w: Vec<f32> = (0..n).map(|_| (0.3 * noise.normal() / (i + 1) as f64) as f32).collect();
        let mut order: Vec<usize> = (0..w.len()).collect();
        order.sort_by(|a, b| w[*a].abs().total_cmp(&w[*b].abs()));
        (w, order)
    };
    &WEIGHTS.get_or_init(|| (0..LAYERS.len()).map(make).collect())[layer]
}

/// The header of a made-up run.
pub(crate) fn header(kind: RunKind, has_labels: bool) -> RunHeader {
    let names: &[&str] = if has_labels { &["loss", "top1", "top5"] } else { &["relative_l2", "cosine"] };
    let names: Vec<String> = names.iter().map(|s| s.to_string()).collect();
    let layers = LAYERS.iter().enumerate().map(|(i, (name, shape, macs))| LayerInfo {
        name: name.to_string(),
        op: if i == 6 { "Gemm" } else { "Conv" }.into(),
        shape: if i == 6 { shape[..2].to_vec() } else { shape.to_vec() },
        weights: shape.iter().product(),
        macs: *macs,
        selected: i < 6,
        histogram: Histogram::of(&weights(i).0, Histogram::BINS),
    });
    RunHeader {
        kind,
        model: "resnet8.onnx".into(),
        model_sha256: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".into(),
        data: "test_batch.bin.gz (CIFAR-10)".into(),
        samples: 400,
        has_labels,
        sample_measures: if has_labels { vec!["loss".into(), "top1".into()] } else { names[..1].to_vec() },
        measures: names,
        methods: METHODS.iter().map(|m| m.0.to_string()).collect(),
        seed: 1,
        recipe: serde_json::json!({ "sweep": { "step": 0.1, "ops": ["Conv"] } }),
        layers: layers.collect(),
        latency: None,
        repair: None,
        environment: Environment { secateur: "0.1.0".into(), threads: 2, cpu: "Example CPU".into() },
    }
}

/// Methods with the sparsity about which the loss explodes.
const METHODS: [(&str, f64, u64); 4] =
    [("l1", 0.62, 1), ("l1@global", 0.75, 1), ("l1/channel", 0.15, 1), ("random", 0.22, 5)];

/// The keys of a made-up run in the order of its sweep.
pub(crate) fn plan(header: &RunHeader) -> Vec<PointKey> {
    let mut keys = Vec::new();
    for target in [0.1, 0.3, 0.5, 0.7, 0.8, 0.9] {
        match header.kind {
            RunKind::Sweep => {
                for (method, _, seeds) in METHODS {
                    for seed in 0..seeds {
                        let seed = (seeds > 1).then_some(seed);
                        keys.push(PointKey { method: method.into(), layer: None, seed, target });
                    }
                }
            }
            RunKind::Sensitivity => {
                for layer in header.layers.iter().filter(|l| l.selected) {
                    let layer = Some(layer.name.clone());
                    keys.push(PointKey { method: "l1".into(), layer, seed: None, target });
                }
            }
        }
    }
    keys
}

/// A made-up evaluation: the point and its per-sample rows.
pub(crate) fn point(header: &RunHeader, key: &PointKey) -> (Point, Vec<Vec<f32>>) {
    let free = METHODS.iter().find(|m| m.0 == key.method).map_or(1.0, |m| m.1);
    let free = match &key.layer {
        Some(name) => 0.95 - 0.08 * header.layers.iter().position(|l| l.name == *name).unwrap() as f64,
        None => free,
    };
    let seed = key.seed.unwrap_or(0);
    let excess = if key.target == 0.0 { 0.0 } else { 0.01 * ((12.0 * (key.target - free)).exp()) };
    let mut noise = Noise::new(seed * 1000 + (key.target * 1e3) as u64);
    let excess = excess * (1.0 + if key.seed.is_some() { 0.3 * noise.normal() } else { 0.0 });
    let rows = if header.has_labels {
        // Pruned a little, a network is nearly the same function; pruned much, it is another one.
        let own = 0.6 * (excess + 0.02 * key.target).min(1.0);
        let place = METHODS.iter().position(|m| m.0 == key.method).unwrap_or(9) as u64;
        let seed = 1000 * place + 100 * seed + (key.target * 10.0) as u64;
        let loss = losses(header.samples, 0.38 * (1.0 + excess).min(6.0), own, seed);
        let right = loss.iter().map(|l| f32::from(*l < 1.0)).collect();
        vec![loss, right]
    } else {
        vec![losses(header.samples, 0.1 * excess, 0.1, 3)]
    };
    let mut measures: Vec<_> =
        header.sample_measures.iter().zip(&rows).map(|(name, row)| measure(name, row)).collect();
    if header.has_labels {
        measures.push(Measure { name: "top5".into(), value: 0.99, standard_error: 0.005 })
    } else {
        measures.push(Measure { name: "cosine".into(), value: 1.0 - excess / 20.0, standard_error: 1e-3 })
    }
    let selected = |l: &LayerInfo| l.selected && key.layer.as_ref().is_none_or(|name| *name == l.name);
    let mut layers = Vec::new();
    let (mut kept, mut all, mut macs, mut all_macs, mut entropy) = (0, 0, 0.0, 0, 0.0);
    for (i, l) in header.layers.iter().enumerate() {
        all_macs += l.macs;
        if !selected(l) {
            macs += l.macs as f64;
            continue;
        }
        // A global threshold spares the first layers and takes more of the last ones.
        let tilt = if key.method.contains("@global") { 0.12 * (i as f64 - 2.5) } else { 0.0 };
        let s = (key.target * (1.0 + tilt)).clamp(0.0, 0.99);
        let (w, order) = weights(i);
        let mut w = w.clone();
        let k = (s * w.len() as f64).round_ties_even() as usize;
        order[..k].iter().for_each(|i| w[*i] = 0.0);
        let count = Count { nonzero: (w.len() - k) as u64, total: w.len() as u64 };
        kept += count.nonzero;
        all += count.total;
        macs += l.macs as f64 * (1.0 - count.sparsity());
        entropy += count.entropy_bytes(DType::F32);
        let kept = l.histogram.counts_of(&w);
        layers.push(LayerPoint {
            name: l.name.clone(),
            sparsity: count.sparsity(),
            nnz: count.nonzero,
            kept,
        });
    }
    let count = Count { nonzero: kept, total: all };
    let rest = 1_500;
    let raw = (all + rest) * 4 + 9_000;
    let point = Point {
        id: key.id(),
        key: key.clone(),
        selected: count,
        parameters: Count { nonzero: kept + rest, total: all + rest },
        macs: Count { nonzero: macs.round() as u64, total: all_macs },
        measures,
        bytes: (header.kind == RunKind::Sweep).then(|| Bytes {
            raw,
            gzip: (raw as f64 * (0.93 - 0.8 * count.sparsity())) as u64,
            zstd: (raw as f64 * (0.92 - 0.82 * count.sparsity())) as u64,
            packed: Some((raw as f64 * (1.0 - 0.85 * count.sparsity())) as u64),
            entropy: entropy + (raw - all * 4) as f64,
        }),
        // Sparse kernels pay from half the weights on.
        latency: header.latency.is_some().then(|| {
            let share = 1.0 - 0.9 * (count.sparsity() - 0.4).max(0.0);
            let median = 0.004 * share;
            Latency { median, p10: 0.97 * median, p90: 1.1 * median, runs: 40, unpruned: 0.004, share }
        }),
        layers,
    };
    (point, rows)
}

/// Continues a made-up run in `folder` for at most `limit` points.
pub(crate) fn sweep(folder: &std::path::Path, header: &RunHeader, limit: usize) -> Result<()> {
    let mut writer = RunWriter::open(folder, header)?;
    let keys = std::iter::once(PointKey::unpruned()).chain(plan(header));
    let missing: Vec<_> = keys.filter(|k| !writer.has(k)).take(limit).collect();
    for key in missing {
        let (point, rows) = point(header, &key);
        let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        writer.append(point, &rows, 0.5)?;
    }
    Ok(())
}
