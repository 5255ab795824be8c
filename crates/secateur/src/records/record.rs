//! The records of a run.

use secateur_model::DType;
use serde::{Deserialize, Serialize};

/// The method name of the point that stands for the model as it came.
pub const UNPRUNED: &str = "unpruned";

/// Bits that a kept weight still needs, about: its sign and mantissa are noise, its exponent is not. Measured
/// as what gzip leaves of normally distributed weights.
fn bits_of_a_kept_weight(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 61.0,
        DType::F16 => 15.0,
        DType::BF16 => 13.0,
        DType::I8 => 7.5,
        _ => 30.0,
    }
}

/// What a run is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunKind {
    /// Methods against sparsities, over all selected weights together.
    Sweep,
    /// Each layer alone: every point names its layer.
    Sensitivity,
}

/// The first line of a run: all that is known before anything is evaluated.
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
    /// The seed that everything random derives from.
    pub seed: u64,
    /// The recipe: exactly what the flags said.
    pub recipe: serde_json::Value,
    /// The prunable layers of the model in graph order.
    pub layers: Vec<LayerInfo>,
    /// How the models were timed, where they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<LatencySettings>,
    /// Where the run was started.
    pub environment: Environment,
}

impl RunHeader {
    /// The layer of that name.
    pub fn layer(&self, name: &str) -> Option<&LayerInfo> {
        self.layers.iter().find(|l| l.name == name)
    }
}

/// Where a run was started. No result depends on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Version of secateur.
    pub secateur: String,
    /// Number of threads.
    pub threads: usize,
    /// Name of the processor.
    pub cpu: String,
}

/// How the models of a run are timed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencySettings {
    /// Samples at a time.
    pub batch: usize,
    /// Number of threads.
    pub threads: usize,
}

/// The time of a model, measured in turn with the unpruned one. Two runs never agree on it: it alone of what a point
/// holds depends on the machine and the moment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Median of its runs in seconds.
    pub median: f64,
    /// A tenth of the runs took at most this long.
    pub p10: f64,
    /// Nine tenths of the runs took at most this long.
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

/// Distribution of a layer's non-zero weights over equal bins from `-limit` to `limit`.
///
/// The first and the last bin also hold what lies beyond.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Where the outermost bins end: four times the root mean square of the non-zero weights, or the largest
    /// magnitude where that is less, so that single outliers don't squeeze the rest into the middle.
    #[serde(with = "number")]
    pub limit: f64,
    /// Weights that are exactly zero; no bin counts them.
    pub zeros: u64,
    /// Weights in each bin.
    pub counts: Vec<u64>,
}

impl Histogram {
    /// Bins that layers are recorded with: even, so that zero is an edge.
    pub const BINS: usize = 48;

    /// The distribution of `weights` over `bins` bins. Weights that aren't finite count at the ends.
    pub fn of(weights: &[f32], bins: usize) -> Histogram {
        let (mut squares, mut nonzero, mut largest) = (0.0, 0u64, 0.0f64);
        for w in weights.iter().map(|&w| f64::from(w)).filter(|w| *w != 0.0 && w.is_finite()) {
            squares += w * w;
            nonzero += 1;
            largest = largest.max(w.abs());
        }
        let limit = if nonzero == 0 { 0.0 } else { largest.min(4.0 * (squares / nonzero as f64).sqrt()) };
        let mut histogram = Histogram { limit, zeros: 0, counts: vec![0; bins] };
        histogram.counts = histogram.counts_of(weights);
        histogram.zeros = weights.iter().filter(|w| **w == 0.0).count() as u64;
        histogram
    }

    /// Counts the non-zero ones of other weights in the same bins, such as the layer's weights after pruning.
    pub fn counts_of(&self, weights: &[f32]) -> Vec<u64> {
        let bins = self.counts.len();
        let mut counts = vec![0; bins];
        if bins == 0 {
            return counts;
        }
        let scale = if self.limit > 0.0 { bins as f64 / (2.0 * self.limit) } else { 0.0 };
        for &w in weights.iter().filter(|w| **w != 0.0) {
            // Casting saturates: what lies beyond counts at the ends, NaN in the first bin.
            let bin = ((f64::from(w) + self.limit) * scale).floor() as usize;
            counts[bin.min(bins - 1)] += 1;
        }
        counts
    }
}

/// How many of some things are not zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Those that are not zero.
    pub nonzero: u64,
    /// All of them.
    pub total: u64,
}

impl Count {
    /// Zeros ÷ total, in [0, 1]; 0 where there is nothing.
    pub fn sparsity(self) -> f64 {
        if self.total == 0 { 0.0 } else { 1.0 - self.nonzero as f64 / self.total as f64 }
    }

    /// Bytes that these weights need at least where the zeros stand independently of each other:
    /// (H(s) + (1 − s)·b)/8 a weight, H the binary entropy and b the bits that a kept weight still needs: 30
    /// for f32, 15 for f16, 13 for bf16, 61 for f64, 7.5 for values packed as int8.
    ///
    /// Zeros that stand in order, such as whole channels, can take less.
    pub fn entropy_bytes(self, dtype: DType) -> f64 {
        let s = self.sparsity();
        let part = |p: f64| if p > 0.0 { -p * p.log2() } else { 0.0 };
        self.total as f64 * (part(s) + part(1.0 - s) + (1.0 - s) * bits_of_a_kept_weight(dtype)) / 8.0
    }
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

/// Sizes of the written model file, or of a tensor, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bytes {
    /// As written.
    pub raw: u64,
    /// After gzip.
    pub gzip: u64,
    /// After zstd.
    pub zstd: u64,
    /// With its tensors packed bit for bit, as `secateur pack` stores them; not known of runs that were written
    /// before there was packing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packed: Option<u64>,
    /// The entropy bound: [`Count::entropy_bytes`] of each selected tensor plus everything else as it is.
    #[serde(with = "number")]
    pub entropy: f64,
}

impl Bytes {
    /// As written, after gzip and zstd, packed, the entropy bound: what tables show of a size, in their order.
    pub fn all(&self) -> [Option<f64>; 5] {
        let counts = [Some(self.raw), Some(self.gzip), Some(self.zstd), self.packed];
        let [raw, gzip, zstd, packed] = counts.map(|count| count.map(|bytes| bytes as f64));
        [raw, gzip, zstd, packed, Some(self.entropy)]
    }
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
    /// What was pruned how.
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

/// What distinguishes a point from the others of its run.
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

/// JSON has no infinities and no NaN, and a network pruned to death has both: they're written as strings.
mod number {
    use serde::de::{self, Visitor};
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &f64, out: S) -> Result<S::Ok, S::Error> {
        if value.is_finite() { out.serialize_f64(*value) } else { out.collect_str(value) }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = f64;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number, \"NaN\", \"inf\" or \"-inf\"")
            }
            fn visit_f64<E: de::Error>(self, v: f64) -> Result<f64, E> {
                Ok(v)
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<f64, E> {
                Ok(v as f64)
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<f64, E> {
                Ok(v as f64)
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<f64, E> {
                match v {
                    "NaN" => Ok(f64::NAN),
                    "inf" => Ok(f64::INFINITY),
                    "-inf" => Ok(f64::NEG_INFINITY),
                    _ => Err(E::invalid_value(de::Unexpected::Str(v), &self)),
                }
            }
        }
        from.deserialize_any(Number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histogram_counts_every_weight_once() {
        let weights = [0.0, 0.5, -0.5, 0.1, -0.1, 0.0, 3.0];
        let h = Histogram::of(&weights, 4);
        assert_eq!(h.zeros, 2);
        assert_eq!(h.counts.iter().sum::<u64>(), 5);
        assert_eq!(h.counts, [0, 2, 2, 1]);
        assert_eq!(h.limit, 3.0);
        let outlier: Vec<f32> =
            (0..999).map(|i| if i % 2 == 0 { 0.1 } else { -0.1 }).chain([100.0]).collect();
        let h = Histogram::of(&outlier, 8);
        assert!(h.limit < 13.0, "{}", h.limit);
        assert_eq!(h.counts.iter().sum::<u64>(), 1000);
        assert_eq!(h.counts[7], 1);
    }

    #[test]
    fn histogram_of_nothing() {
        assert_eq!(Histogram::of(&[], 4).counts, [0; 4]);
        let h = Histogram::of(&[0.0; 3], 4);
        assert_eq!((h.zeros, h.limit), (3, 0.0));
        assert_eq!(h.counts_of(&[f32::NAN, f32::INFINITY]).iter().sum::<u64>(), 2);
    }

    #[test]
    fn entropy_bound_at_known_sparsities() {
        let at = |nonzero| Count { nonzero, total: 800 }.entropy_bytes(DType::F32);
        assert_eq!(at(800), 3000.0); // 30 bits a weight
        assert_eq!(at(400), 1600.0); // 1 + 15 bits a weight
        assert_eq!(at(0), 0.0);
        assert_eq!(Count { nonzero: 800, total: 800 }.entropy_bytes(DType::F16), 1500.0);
        assert_eq!(Count::default().entropy_bytes(DType::F32), 0.0);
    }

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
