//! The records of a run.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::measure::{Bytes, Count, Histogram, number};

/// The method name of the unpruned model's point.
pub const UNPRUNED: &str = "unpruned";

/// What a run is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunKind {
    /// Methods against sparsities, over all selected weights together.
    Sweep,
    /// Each layer alone: every point names its layer.
    Sensitivity,
}

/// The first line of a run: everything known before evaluation.
///
/// A run can be resumed only with an equal header ([`Environment`] aside).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunHeader {
    /// Sweep or sensitivity.
    pub kind: RunKind,
    /// File name of the model, without its folder.
    pub model: String,
    /// SHA-256 of the model file in hexadecimal.
    pub model_sha256: String,
    /// The data in words, such as `test_batch.bin.gz (CIFAR-10)`.
    pub data: String,
    /// How many samples each point is evaluated on.
    pub samples: u64,
    /// Whether the data has labels. Without them the measures compare outputs with the unpruned model's.
    pub has_labels: bool,
    /// Names of the measures, the one that decides first: `loss`, `top1`, `top5`, `mse`, `relative_l2`,
    /// `cosine`, `argmax_equal`.
    pub measures: Vec<String>,
    /// The measures whose per-sample values are kept in `samples/`, in the order of the rows there.
    pub sample_measures: Vec<String>,
    /// The methods, in the order they're shown.
    pub methods: Vec<String>,
    /// The random seed.
    pub seed: u64,
    /// The recipe: exactly what the flags said.
    pub recipe: serde_json::Value,
    /// The prunable layers of the model in graph order.
    pub layers: Vec<LayerInfo>,
    /// How the models were timed, where they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<LatencySettings>,
    /// How each pruned model was repaired before it was measured, where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair: Option<RepairSettings>,
    /// Where the run was started.
    pub environment: Environment,
}

impl RunHeader {
    /// The layer of that name.
    pub fn layer(&self, name: &str) -> Option<&LayerInfo> {
        self.layers.iter().find(|l| l.name == name)
    }
}

/// Where a run was started; results do not depend on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Version of secateur.
    pub secateur: String,
    /// Number of threads.
    pub threads: usize,
    /// Name of the processor.
    pub cpu: String,
}

/// How the pruned models of a run were repaired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairSettings {
    /// The methods, such as `norms`.
    pub methods: Vec<String>,
    /// The data in words.
    pub data: String,
    /// How many samples of them.
    pub samples: u64,
}

impl fmt::Display for RepairSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let samples = crate::format::grouped(self.samples as i64);
        write!(f, "{}, on {samples} samples of {}", self.methods.join(" and "), self.data)
    }
}

/// How the models of a run are timed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencySettings {
    /// Samples at a time.
    pub batch: usize,
    /// Number of threads.
    pub threads: usize,
}

/// The time of a model, interleaved with the unpruned one. It is the only part of a point that differs from run to run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Median of its runs in seconds.
    pub median: f64,
    /// The 10th percentile.
    pub p10: f64,
    /// The 90th percentile.
    pub p90: f64,
    /// How many runs there were.
    pub runs: usize,
    /// Median of the unpruned model's runs in the same moment.
    pub unpruned: f64,
    /// Its time ÷ the unpruned model's: the median over the rounds in which both took turns.
    pub share: f64,
}

/// One prunable layer of the unpruned model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerInfo {
    /// Path of the weight tensor.
    pub name: String,
    /// Operator that owns it, such as `Conv`.
    pub op: String,
    /// Shape of the weight.
    pub shape: Vec<u64>,
    /// Number of weights: the product of `shape`.
    pub weights: u64,
    /// Multiply-accumulate operations of the layer for one sample, all weights counted.
    pub macs: u64,
    /// Whether the run prunes it.
    pub selected: bool,
    /// Distribution of its weights.
    pub histogram: Histogram,
}

/// A measured value: the mean over the samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// One of [`RunHeader::measures`].
    pub name: String,
    /// Mean over the samples.
    #[serde(with = "number")]
    pub value: f64,
    /// Standard error of that mean: the samples' standard deviation ÷ √n.
    #[serde(with = "number")]
    pub standard_error: f64,
}

/// One layer of a pruned model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerPoint {
    /// [`LayerInfo::name`].
    pub name: String,
    /// Zeros ÷ weights.
    #[serde(with = "number")]
    pub sparsity: f64,
    /// Weights that are not zero.
    pub nnz: u64,
    /// The kept weights in the bins of [`LayerInfo::histogram`].
    pub kept: Vec<u64>,
}

/// One evaluated model: a method at a sparsity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Names the point's files; from [`PointKey::id`].
    pub id: String,
    /// What was pruned, and how.
    #[serde(flatten)]
    pub key: PointKey,
    /// The selected weights; those of the layer where a layer is pruned alone. Runs of version 0.1.0 counted all
    /// selected weights there: [`Point::counted`] reads both.
    pub selected: Count,
    /// All parameters of the model.
    pub parameters: Count,
    /// Multiply-accumulate operations for one sample; `nonzero` are those with a weight that is not zero.
    pub macs: Count,
    /// One for each of [`RunHeader::measures`].
    pub measures: Vec<Measure>,
    /// File sizes, where they were measured.
    pub bytes: Option<Bytes>,
    /// The model's time, where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
    /// The layers that were pruned.
    pub layers: Vec<LayerPoint>,
}

/// Identifies a point within its run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PointKey {
    /// `criterion[/pattern][@scope][+allocation]`, or [`UNPRUNED`].
    pub method: String,
    /// The layer that was pruned alone, in a sensitivity run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
    /// Seed, where the method draws something at random.
    pub seed: Option<u64>,
    /// Sparsity asked for.
    #[serde(with = "number")]
    pub target: f64,
}

impl PointKey {
    /// The key of the unpruned model.
    pub fn unpruned() -> PointKey {
        PointKey { method: UNPRUNED.into(), layer: None, seed: None, target: 0.0 }
    }

    /// A name that is the same in every run and safe in every file system: the method spelt with letters,
    /// digits and dashes, the target in ten-thousandths, and a hash of all fields.
    pub fn id(&self) -> String {
        let target = format!("{:05.0}", self.target * 1e4);
        let seed = self.seed.map(|s| s.to_string()).unwrap_or_default();
        let layer = self.layer.as_deref().unwrap_or_default();
        // FNV-1a; the separator can't occur in a number, and no field but the first two is free text.
        let fields = [self.method.as_str(), layer, seed.as_str(), target.as_str()].join("\0");
        let hash = fields
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        let mut slug = String::new();
        for c in self.method.chars().take(40) {
            if c.is_ascii_alphanumeric() {
                slug.push(c.to_ascii_lowercase());
            } else if !slug.ends_with('-') {
                slug.push('-');
            }
        }
        format!("{}-{target}-{:08x}", slug.trim_matches('-'), hash as u32 ^ (hash >> 32) as u32)
    }
}

impl Point {
    /// The weights that a sparsity is a share of: those of a layer, where one is pruned alone and was recorded,
    /// otherwise the selected ones.
    pub fn counted(&self, layer: Option<&LayerInfo>) -> Count {
        let of = |layer: &LayerInfo| {
            let point = self.layers.iter().find(|l| l.name == layer.name)?;
            Some(Count { nonzero: point.nnz, total: layer.weights })
        };
        layer.and_then(of).unwrap_or(self.selected)
    }

    /// The measure of that name.
    pub fn measure(&self, name: &str) -> Option<&Measure> {
        self.measures.iter().find(|m| m.name == name)
    }
}

/// How long a point took; a line of `timings.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// [`Point::id`].
    pub id: String,
    /// Seconds for pruning, evaluating and compressing.
    pub seconds: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_where_keys_do_and_are_plain() {
        let key = |method: &str, seed, target| PointKey { method: method.into(), layer: None, seed, target };
        let ids = [
            key("l1/channel", None, 0.5).id(),
            key("l1@channel", None, 0.5).id(),
            key("l1/channel", Some(0), 0.5).id(),
            key("l1/channel", None, 0.55).id(),
            PointKey { layer: Some("conv".into()), ..key("l1/channel", None, 0.5) }.id(),
        ];
        for (i, id) in ids.iter().enumerate() {
            assert!(id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "{id}");
            assert!(!ids[..i].contains(id), "{id}");
        }
        assert_eq!(key("random@global", Some(3), 0.15).id(), key("random@global", Some(3), 0.05 * 3.0).id());
        assert_eq!(PointKey::unpruned().id(), "unpruned-00000-e8f9831a");
    }

    #[test]
    fn numbers_json_lacks_survive() {
        let m = |value| Measure { name: "loss".into(), value, standard_error: 0.0 };
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.1, -3.0, 1e300] {
            let text = serde_json::to_string(&m(value)).unwrap();
            let back: Measure = serde_json::from_str(&text).unwrap();
            assert!(back.value == value || value.is_nan() && back.value.is_nan(), "{text}");
        }
        assert!(serde_json::from_str::<Measure>(r#"{"name":"a","value":"0.5","standard_error":0}"#).is_err());
    }
}
