//! What was measured.

use serde::{Deserialize, Serialize};

use super::{Bench, OURS};
use crate::format;

/// Times of one thing, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Times {
    /// The minimum.
    pub best: f64,
    /// The median.
    pub median: f64,
    /// The 10th percentile.
    pub p10: f64,
    /// The 90th percentile.
    pub p90: f64,
    /// How many runs there were.
    pub runs: usize,
}

impl Times {
    /// Times in any order; quantiles in between are interpolated. Without any, everything is NaN.
    pub fn of(mut seconds: Vec<f64>) -> Times {
        seconds.sort_by(f64::total_cmp);
        let quantile = |share: f64| {
            let place = share * seconds.len().saturating_sub(1) as f64;
            let at = |i: f64| seconds.get(i as usize).copied().unwrap_or(f64::NAN);
            let (low, high) = (at(place.floor()), at(place.ceil()));
            low + (high - low) * place.fract()
        };
        Times {
            best: quantile(0.0),
            median: quantile(0.5),
            p10: quantile(0.1),
            p90: quantile(0.9),
            runs: seconds.len(),
        }
    }
}

impl Times {
    /// Repeated runs that differ more than this mean that the machine is busy.
    pub const CALM: f64 = 1.3;

    /// How many times as long as the fastest tenth of the runs the slowest tenth takes at least.
    pub fn disagreement(&self) -> f64 {
        self.p90 / self.p10
    }
}

/// A warning that the machine is busy, where repeated measurements disagree; `worst` is the one that disagrees most.
pub(crate) fn busy<'a>(all: impl Iterator<Item = &'a Times>) -> Option<String> {
    let worst = all.max_by(|a, b| a.disagreement().total_cmp(&b.disagreement()))?;
    (worst.disagreement() > Times::CALM).then(|| {
        format!(
            "this machine is busy: eight in ten of the same runs took {} to {}, the others less or more; stop other \
             programs and measure again for times that hold",
            format::milliseconds(worst.p10),
            format::milliseconds(worst.p90)
        )
    })
}

/// A model's weights as they were timed.
#[derive(Clone, Debug, Serialize)]
pub struct VersionInfo {
    /// File name of the model.
    pub model: String,
    /// How it was pruned in memory; `None` for the model as it came.
    pub method: Option<String>,
    /// The sparsity asked for, where it was pruned in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<f64>,
    /// Zeros ÷ prunable weights.
    pub sparsity: f64,
    /// Multiply–accumulates whose weight is not zero ÷ all; `None` where shapes stay open.
    pub macs: Option<f64>,
    /// Size of its file.
    pub bytes: u64,
}

impl VersionInfo {
    /// A name for people: the file's, and how it was pruned.
    pub fn label(&self) -> String {
        match &self.method {
            None => self.model.clone(),
            Some(method) => format!("{} {method} {}", self.model, format::percent(self.sparsity)),
        }
    }
}

/// A runtime that took part.
#[derive(Clone, Debug, Serialize)]
pub struct RuntimeInfo {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// What loading a model took.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Loaded {
    pub(super) seconds: f64,
    pub(super) memory: Option<u64>,
}

/// One version in one runtime at one batch size and number of threads.
#[derive(Clone, Debug, Serialize)]
pub struct Timing {
    /// Position in [`Bench::versions`].
    pub version: usize,
    /// The runtime's name.
    pub runtime: String,
    /// Samples at a time.
    pub batch: usize,
    /// Threads.
    pub threads: usize,
    /// Time of one run.
    pub latency: Times,
    /// Samples per second, by the median.
    pub throughput: f64,
    /// Time to load the model and run it for the first time, in seconds.
    pub load_seconds: f64,
    /// How far the process's peak memory grew while it was loaded and first run, in bytes.
    pub memory: Option<u64>,
    /// How many times as fast as [`Bench::reference`] by the medians.
    pub speedup_median: f64,
    /// The same by the best runs.
    pub speedup_best: f64,
    /// What it was predicted to take, of versions pruned here and of secateur only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted: Option<Predicted>,
    /// How many layers ran on a kernel that skips zeros: of secateur only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sparse_layers: Option<usize>,
    /// Each layer, where a profile was asked for: of secateur only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<LayerTime>,
}

/// The forecast of the fastest run, from the unpruned model and the cost table.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Predicted {
    /// The time in seconds.
    pub seconds: f64,
    /// Predicted ÷ measured − 1.
    pub off: f64,
}

/// A layer's time.
#[derive(Clone, Debug, Serialize)]
pub struct LayerTime {
    /// The node's name.
    pub name: String,
    /// The operator with what was fused into it and the kernel's kind.
    pub kernel: String,
    /// Whether the kernel skips zeros.
    pub sparse: bool,
    /// Shape of its first output.
    pub shape: Vec<usize>,
    /// Median time in seconds.
    pub seconds: f64,
    /// The time on one thread in seconds by the costs that kernels are chosen by, where they say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimate: Option<f64>,
}

impl Bench {
    /// The batch sizes and thread counts that were timed, in order.
    pub fn settings(&self) -> Vec<(usize, usize)> {
        let mut settings: Vec<(usize, usize)> = Vec::new();
        for timing in &self.timings {
            let setting = (timing.batch, timing.threads);
            if !settings.contains(&setting) {
                settings.push(setting);
            }
        }
        settings
    }

    /// The timings of a batch size and number of threads.
    pub fn of(&self, setting: (usize, usize)) -> impl Iterator<Item = &Timing> {
        self.timings.iter().filter(move |t| (t.batch, t.threads) == setting)
    }

    /// The time that speed-ups are over: of the first version in the fastest peer, or in secateur where no peer
    /// was timed.
    pub fn reference(&self, setting: (usize, usize), of: fn(&Times) -> f64) -> f64 {
        let fastest = |ours: bool| {
            let first = self.of(setting).filter(|t| t.version == 0 && (t.runtime == OURS) == ours);
            first.map(|t| of(&t.latency)).min_by(f64::total_cmp)
        };
        fastest(false).or_else(|| fastest(true)).unwrap_or(f64::NAN)
    }

    /// Computes the speed-ups of all timings.
    pub fn compare(&mut self) {
        for setting in self.settings() {
            let [median, best] =
                [|t: &Times| t.median, |t: &Times| t.best].map(|of| self.reference(setting, of));
            for timing in self.timings.iter_mut().filter(|t| (t.batch, t.threads) == setting) {
                timing.speedup_median = median / timing.latency.median;
                timing.speedup_best = best / timing.latency.best;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_the_runs() {
        let times = Times::of(vec![5.0, 1.0, 3.0, 2.0, 4.0]);
        assert_eq!((times.best, times.median, times.runs), (1.0, 3.0, 5));
        assert!((times.p10 - 1.4).abs() < 1e-12 && (times.p90 - 4.6).abs() < 1e-12);
        assert_eq!(Times::of(vec![1.0, 2.0]).median, 1.5);
        assert_eq!(Times::of(vec![7.0]).p90, 7.0);
        assert!(Times::of(Vec::new()).median.is_nan());
    }

    #[test]
    fn a_machine_is_busy_where_repeated_runs_disagree() {
        let calm = Times::of(vec![1.0, 1.1, 1.05, 1.0]);
        let disturbed = Times::of(vec![1.0, 2.0, 1.0, 3.0]);
        assert_eq!(busy([&calm].into_iter()), None);
        let said = busy([&calm, &disturbed].into_iter()).unwrap();
        assert!(
            said.starts_with("this machine is busy: eight in ten of the same runs took 1,000 ms to 2,700 ms"),
            "{said}"
        );
        assert_eq!(busy(std::iter::empty()), None);
    }

    #[test]
    fn speedups_are_over_the_fastest_peer_on_the_first_version() {
        let mut bench = super::super::synthetic::made_up();
        bench.compare();
        let speedups =
            |bench: &Bench| -> Vec<f64> { bench.timings.iter().map(|t| t.speedup_median).collect() };
        // ONNX Runtime takes 10 ms, OpenVINO 8 ms, secateur 8 ms and, pruned, 2 ms.
        assert_eq!(speedups(&bench), [1.0, 0.8, 1.0, 4.0]);
        bench.timings.retain(|t| t.runtime == OURS);
        bench.compare();
        assert_eq!(speedups(&bench), [1.0, 4.0]);
    }
}
