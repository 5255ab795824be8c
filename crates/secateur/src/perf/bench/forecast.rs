//! Forecasts the time of a pruned model from the measured time of the unpruned one.

use std::collections::HashMap;

use secateur_runtime::PlannedNode;
use serde::Serialize;

use super::record::{LayerTime, Times};

/// One round of measurements of the unpruned model, short enough that the machine's state does not change in it.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    /// Each layer's time on the threads that forecasts are for, in seconds.
    pub(crate) layers: Vec<f64>,
    /// The same on one thread.
    pub(crate) on_one: Vec<f64>,
    /// The times of a [`secateur_runtime::Probe`]'s kernels.
    pub(crate) probe: Vec<f64>,
}

/// An unpruned model measured layer by layer: the basis of forecasts.
///
/// With m the measured time of a layer, e₀ the cost table's estimate for it unpruned and e its estimate for it pruned,
/// with the kernel that the plan of the pruned model chooses, the forecast of the layer is
///
/// - m · e ÷ e₀ where it keeps its kernel, or m where the table has no estimate,
/// - e ÷ p where it gets another kernel, p being how much faster the measured layers are on the threads than on one.
///
/// Layout conversions take e ÷ p too. All e are first multiplied by one factor that scales the costs to the machine's
/// state during the measurement. With q the measured ÷ the estimated time of the unpruned layers on one thread, and s
/// the same ratio for a probe's kernels, which ran in between, the factor is √(q · s): the probe shows the machine's
/// state and counts in full; of what the layers deviate from the probe, half is taken as the dense kernels' own.
///
/// Each quantity is the fastest of its rounds. The range comes from the same formula applied to each round alone, with
/// a quarter and with three quarters of that deviation.
#[derive(Clone, Debug)]
pub(crate) struct Baseline {
    /// The layers; together they take [`Baseline::seconds`].
    pub(crate) layers: Vec<LayerTime>,
    /// The time of the fastest run.
    pub(crate) seconds: f64,
    /// The measured ÷ the estimated time of the probe's kernels.
    pub(crate) state: f64,
    /// The factor that estimates are multiplied by.
    factor: f64,
    moments: Vec<Moment>,
}

/// The basis of forecasts from one round alone.
#[derive(Clone, Debug)]
struct Moment {
    /// Each layer's time.
    layers: Vec<f64>,
    /// The least and the largest factor.
    factors: [f64; 2],
}

/// A layer of the model if it were pruned.
#[derive(Clone, Debug, Serialize)]
pub struct LayerForecast {
    /// The node's name.
    pub name: String,
    /// The operator with what was fused into it and the kernel's kind.
    pub kernel: String,
    /// Whether the kernel skips zeros.
    pub sparse: bool,
    /// The unpruned layer's time in seconds; 0 for a layout conversion that only the pruned model needs.
    pub measured: f64,
    /// The pruned layer's predicted time in seconds.
    pub predicted: f64,
}

impl Baseline {
    /// From the layers' times in their fastest rounds and the time of a whole run: time between layers is divided among
    /// them. `probe` is the estimate for the probe's kernels.
    pub(crate) fn new(layers: &[LayerTime], rounds: &[Round], probe: &[f64], seconds: f64) -> Self {
        let estimates: Vec<Option<f64>> = layers.iter().map(|layer| layer.estimate).collect();
        let fastest = Round {
            layers: least(rounds.iter().map(|round| &round.layers[..])),
            on_one: least(rounds.iter().map(|round| &round.on_one[..])),
            probe: least(rounds.iter().map(|round| &round.probe[..])),
        };
        let all: f64 = fastest.layers.iter().sum();
        let scaled = layers
            .iter()
            .zip(&fastest.layers)
            .map(|(layer, time)| LayerTime { seconds: time * ratio(seconds, all), ..layer.clone() });
        let moment = |round: &Round| Moment {
            layers: round.layers.clone(),
            factors: [0.25, 0.75].map(|part| factor(round, &estimates, probe, part)),
        };
        Baseline {
            layers: scaled.collect(),
            seconds,
            state: ratio(fastest.probe.iter().sum(), probe.iter().sum()),
            factor: factor(&fastest, &estimates, probe, 0.5),
            moments: rounds.iter().map(moment).collect(),
        }
    }

    /// The forecasts for the layers of a pruned model, in the order in which they run.
    pub(crate) fn forecast(&self, nodes: &[PlannedNode]) -> Vec<LayerForecast> {
        let times: Vec<f64> = self.layers.iter().map(|layer| layer.seconds).collect();
        self.forecast_from(nodes, &times, self.factor)
    }

    /// The range of the speed-ups by single rounds, without a tenth at either end, widened to hold `speedup`.
    pub(crate) fn range(&self, nodes: &[PlannedNode], speedup: f64) -> [f64; 2] {
        let of = |end: usize| {
            let of = |moment: &Moment| {
                let predicted = self.forecast_from(nodes, &moment.layers, moment.factors[end]);
                moment.layers.iter().sum::<f64>() / predicted.iter().map(|layer| layer.predicted).sum::<f64>()
            };
            self.moments.iter().map(of).collect::<Vec<_>>()
        };
        within(of(0), of(1), speedup)
    }

    /// As [`Baseline::range`] where each layer keeps a share of its time.
    pub(crate) fn range_scaled(&self, share: impl Fn(&str) -> f64, speedup: f64) -> [f64; 2] {
        let of = |moment: &Moment| {
            let predicted =
                self.layers.iter().zip(&moment.layers).map(|(layer, time)| time * share(&layer.name));
            moment.layers.iter().sum::<f64>() / predicted.sum::<f64>()
        };
        let all: Vec<f64> = self.moments.iter().map(of).collect();
        within(all.clone(), all, speedup)
    }

    fn forecast_from(&self, nodes: &[PlannedNode], times: &[f64], factor: f64) -> Vec<LayerForecast> {
        let mut known: HashMap<&str, (&LayerTime, f64)> = HashMap::new();
        // Turning values has no name.
        for (layer, &time) in self.layers.iter().zip(times).filter(|(layer, _)| !layer.name.is_empty()) {
            known.entry(&layer.name).or_insert((layer, time));
        }
        let forecast = |node: &PlannedNode| {
            let unpruned = known.get(node.name.as_str());
            let estimate = node.estimate.map(|time| time.as_secs_f64());
            let measured = unpruned.map_or(0.0, |(_, time)| *time);
            let same = unpruned.filter(|(layer, _)| layer.kernel == node.kind);
            let predicted = match (estimate, same.and_then(|(layer, _)| layer.estimate)) {
                (Some(estimate), Some(before)) if before > 0.0 => measured * estimate / before,
                (Some(estimate), _) => estimate * factor,
                (None, _) => measured,
            };
            LayerForecast {
                name: node.name.clone(),
                kernel: node.kind.clone(),
                sparse: node.is_sparse(),
                measured,
                predicted,
            }
        };
        nodes.iter().map(forecast).collect()
    }

    /// The layers where each keeps a share of its time.
    pub(crate) fn scaled(&self, share: impl Fn(&str) -> f64) -> Vec<LayerForecast> {
        let scaled = |layer: &LayerTime| LayerForecast {
            name: layer.name.clone(),
            kernel: layer.kernel.clone(),
            sparse: layer.sparse,
            measured: layer.seconds,
            predicted: layer.seconds * share(&layer.name),
        };
        self.layers.iter().map(scaled).collect()
    }
}

/// a ÷ b; 1 where one of them is nothing.
fn ratio(a: f64, b: f64) -> f64 {
    if a > 0.0 && b > 0.0 { a / b } else { 1.0 }
}

/// The minimum at each position.
fn least<'a>(mut rounds: impl Iterator<Item = &'a [f64]>) -> Vec<f64> {
    let mut least = rounds.next().map(<[f64]>::to_vec).unwrap_or_default();
    rounds.for_each(|round| least.iter_mut().zip(round).for_each(|(a, b)| *a = a.min(*b)));
    least
}

/// The factor for estimates, with a part in [0, 1] of what the layers deviate from the probe.
fn factor(round: &Round, estimates: &[Option<f64>], probe: &[f64], part: f64) -> f64 {
    let (mut time, mut alone, mut estimate) = (0.0, 0.0, 0.0);
    for (i, of_layer) in estimates.iter().enumerate() {
        let Some(of_layer) = of_layer else { continue };
        time += round.layers[i];
        alone += round.on_one[i];
        estimate += of_layer;
    }
    let state = ratio(round.probe.iter().sum(), probe.iter().sum());
    let rest = ratio(alone, estimate) / state;
    state * rest.powf(part) * ratio(time, alone)
}

/// The interval between two lists of ends, without a tenth on either side, widened to hold a value.
fn within(low: Vec<f64>, high: Vec<f64>, value: f64) -> [f64; 2] {
    let (a, b) = (Times::of(low), Times::of(high));
    [a.p10.min(b.p10).min(value), a.p90.max(b.p90).max(value)]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn layer(name: &str, kernel: &str, seconds: f64, estimate: Option<f64>) -> LayerTime {
        let (name, kernel) = (name.to_string(), kernel.to_string());
        LayerTime { name, kernel, sparse: false, shape: Vec::new(), seconds, estimate }
    }

    fn node(name: &str, kind: &str, estimate: Option<f64>) -> PlannedNode {
        let kernel = kind.contains("sparse").then_some("sparse");
        let estimate = estimate.map(Duration::from_secs_f64);
        PlannedNode { name: name.into(), kind: kind.into(), kernel, shape: Vec::new(), estimate }
    }

    /// Two layers that the costs know, of which they say a quarter of the time, and one that they don't.
    fn as_is() -> Vec<LayerTime> {
        vec![
            layer("a", "Conv", 3.0, Some(0.5)),
            layer("b", "Conv", 1.0, Some(0.5)),
            layer("", "ToTiles", 1.0, None),
            layer("c", "Softmax", 1.0, None),
        ]
    }

    /// A round in which the layers take so many times as long, on one thread as well and the probe too.
    fn round(layers: f64, on_one: f64, probe: f64) -> Round {
        let times = |by: f64| as_is().iter().map(|layer| by * layer.seconds).collect();
        Round { layers: times(layers), on_one: times(on_one), probe: vec![probe] }
    }

    fn nodes() -> [PlannedNode; 4] {
        [
            node("", "ToTiles", Some(0.1)),
            node("a", "Conv", Some(0.4)),
            node("b", "Conv (sparse)", Some(0.2)),
            node("c", "Softmax", None),
        ]
    }

    fn forecast(rounds: &[Round]) -> Vec<f64> {
        let baseline = Baseline::new(&as_is(), rounds, &[1.0], 12.0);
        baseline.forecast(&nodes()).into_iter().map(|layer| layer.predicted).collect()
    }

    fn close(found: &[f64], expected: [f64; 4]) {
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < 1e-6, "{found:?}, expected {expected:?}");
        }
    }

    #[test]
    fn layers_keep_their_time_with_their_kernel_and_take_the_costs_with_another() {
        // Layers of 6 seconds stand for a run of 12. The probe takes what the costs say, the layers four times that:
        // the root of 4 is 2.
        close(&forecast(&[round(1.0, 1.0, 1.0)]), [0.2, 4.8, 0.4, 2.0]);
        // The probe takes as many times as long as the layers: all of that is the machine.
        close(&forecast(&[round(1.0, 1.0, 4.0)]), [0.4, 4.8, 0.8, 2.0]);
    }

    #[test]
    fn the_fastest_of_the_rounds_count() {
        close(&forecast(&[round(5.0, 1.0, 3.0), round(1.0, 7.0, 1.0)]), [0.2, 4.8, 0.4, 2.0]);
    }

    #[test]
    fn threads_count_as_far_as_they_help_as_it_is() {
        // On one thread four times as slow: the root of 16, over 4.
        close(&forecast(&[round(1.0, 4.0, 1.0)]), [0.1, 4.8, 0.2, 2.0]);
    }

    #[test]
    fn speedups_are_the_same_on_a_machine_that_is_slower_by_as_much_for_everything() {
        let speedup = |by: f64| {
            let baseline = Baseline::new(&as_is(), &[round(by, by, by)], &[1.0], 6.0 * by);
            let predicted: f64 = baseline.forecast(&nodes()).iter().map(|layer| layer.predicted).sum();
            let speedup = 6.0 * by / predicted;
            (speedup, baseline.range(&nodes(), speedup))
        };
        let ((calm, calm_range), (busy, busy_range)) = (speedup(1.0), speedup(2.5));
        assert!((calm / busy - 1.0).abs() < 1e-9, "{calm} {busy}");
        assert!((0..2).all(|end| (calm_range[end] / busy_range[end] - 1.0).abs() < 1e-9));
    }

    #[test]
    fn ranges_are_wider_where_rounds_disagree_and_hold_the_forecast() {
        let range = |rounds: &[Round]| {
            let baseline = Baseline::new(&as_is(), rounds, &[1.0], 6.0);
            let predicted: f64 = baseline.forecast(&nodes()).iter().map(|layer| layer.predicted).sum();
            let [low, high] = baseline.range(&nodes(), 6.0 / predicted);
            assert!(low <= 6.0 / predicted && 6.0 / predicted <= high);
            high / low
        };
        let calm = range(&[round(1.0, 1.0, 1.0), round(1.0, 1.0, 1.0)]);
        assert!(calm > 1.0 && calm < 1.2, "{calm}");
        assert!(range(&[round(1.0, 1.0, 1.0), round(1.0, 1.0, 3.0), round(1.0, 3.0, 1.0)]) > 1.1 * calm);
    }

    #[test]
    fn shares_scale_layers() {
        let baseline = Baseline::new(&as_is(), &[round(1.0, 1.0, 1.0)], &[1.0], 6.0);
        assert_eq!(baseline.range_scaled(|_| 0.5, 2.0), [2.0, 2.0]);
        let predicted: Vec<f64> = baseline
            .scaled(|name| if name == "a" { 0.5 } else { 1.0 })
            .iter()
            .map(|layer| layer.predicted)
            .collect();
        close(&predicted, [1.5, 1.0, 1.0, 1.0]);
    }
}
