//! What a model would take if it were pruned, from what it takes as it is.

use std::collections::HashMap;

use secateur_runtime::PlannedNode;
use serde::Serialize;

use super::record::LayerTime;
use crate::costs::{CostSource, CostTable};

/// A model measured as it is, layer by layer: what forecasts start from.
///
/// With m the measured time of a layer, e₀ what the costs of kernels say of it as it is and e what they say of it
/// pruned, in the kernel that the plan of the pruned model chooses, the forecast of the layer is
///
/// - m · e ÷ e₀ where it keeps its kernel, or m where the costs say nothing of it,
/// - e ÷ p where it gets another kernel, p being how much faster the measured layers are on the threads than on one.
///
/// Values that are turned between tensors and tiles take e ÷ p too. All e are first multiplied by one factor: with q
/// the time of the layers as they are on one thread ÷ what the costs say of them, it is √q, as if half of what they
/// differ by were the machine's state since the costs were measured, and half the dense kernels' own; and q for costs
/// that were measured elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct Baseline {
    /// The layers; together they take [`Baseline::seconds`].
    pub(crate) layers: Vec<LayerTime>,
    /// The time of the fastest run.
    pub(crate) seconds: f64,
    /// What an estimate is multiplied by.
    factor: f64,
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
    /// The time as it is in seconds; 0 where values are turned only then.
    pub now: f64,
    /// The time then.
    pub then: f64,
}

impl Baseline {
    /// Of layers measured on the threads that forecasts are for, and on one thread, and the time of a whole run
    /// there: what is between layers is shared out to them.
    pub(crate) fn new(layers: &[LayerTime], on_one: &[LayerTime], seconds: f64, costs: &CostTable) -> Self {
        let estimated = |layers: &[LayerTime]| -> (f64, f64) {
            let of = layers.iter().filter_map(|layer| Some((layer.seconds, layer.estimate?)));
            of.fold((0.0, 0.0), |sum, (time, estimate)| (sum.0 + time, sum.1 + estimate))
        };
        let ((time, _), (alone, estimate)) = (estimated(layers), estimated(on_one));
        let ratio = |a: f64, b: f64| if a > 0.0 && b > 0.0 { a / b } else { 1.0 };
        let slower = ratio(alone, estimate);
        let here = if costs.source == CostSource::Measured { slower.sqrt() } else { slower };
        let factor = here * ratio(time, alone);
        let all: f64 = layers.iter().map(|layer| layer.seconds).sum();
        let of_whole =
            |layer: &LayerTime| LayerTime { seconds: layer.seconds * ratio(seconds, all), ..layer.clone() };
        Baseline { layers: layers.iter().map(of_whole).collect(), seconds, factor }
    }

    /// What the layers of a pruned model would take, in the order in which they run.
    pub(crate) fn forecast(&self, nodes: &[PlannedNode]) -> Vec<LayerForecast> {
        let mut known: HashMap<&str, &LayerTime> = HashMap::new();
        // Turning values has no name.
        for layer in self.layers.iter().filter(|layer| !layer.name.is_empty()) {
            known.entry(&layer.name).or_insert(layer);
        }
        let forecast = |node: &PlannedNode| {
            let measured = known.get(node.name.as_str());
            let estimate = node.estimate.map(|time| time.as_secs_f64());
            let now = measured.map_or(0.0, |layer| layer.seconds);
            let same = measured.filter(|layer| layer.kernel == node.kind).and_then(|layer| layer.estimate);
            let then = match (estimate, same) {
                (Some(then), Some(before)) if before > 0.0 => now * then / before,
                (Some(then), _) => then * self.factor,
                (None, _) => now,
            };
            LayerForecast {
                name: node.name.clone(),
                kernel: node.kind.clone(),
                sparse: node.is_sparse(),
                now,
                then,
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
            now: layer.seconds,
            then: layer.seconds * share(&layer.name),
        };
        self.layers.iter().map(scaled).collect()
    }
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

    fn forecast(costs: CostTable, on_one: &[LayerTime]) -> Vec<f64> {
        let nodes = [
            node("", "ToTiles", Some(0.1)),
            node("a", "Conv", Some(0.4)),
            node("b", "Conv (sparse)", Some(0.2)),
            node("c", "Softmax", None),
        ];
        let baseline = Baseline::new(&as_is(), on_one, 12.0, &costs);
        baseline.forecast(&nodes).into_iter().map(|layer| layer.then).collect()
    }

    fn close(found: &[f64], expected: [f64; 4]) {
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < 1e-6, "{found:?}, expected {expected:?}");
        }
    }

    #[test]
    fn layers_keep_their_time_with_their_kernel_and_take_the_costs_with_another() {
        let measured = CostTable { source: CostSource::Measured, ..CostTable::SHIPPED };
        // Layers of 6 seconds stand for a run of 12. The root of 4 is 2.
        close(&forecast(measured, &as_is()), [0.2, 4.8, 0.4, 2.0]);
        // Costs from elsewhere are made to fit.
        close(&forecast(CostTable::SHIPPED, &as_is()), [0.4, 4.8, 0.8, 2.0]);
    }

    #[test]
    fn threads_count_as_far_as_they_help_as_it_is() {
        let slower: Vec<_> =
            as_is().into_iter().map(|layer| LayerTime { seconds: 4.0 * layer.seconds, ..layer }).collect();
        // On one thread four times as slow: the root of 16, over 4.
        let measured = CostTable { source: CostSource::Measured, ..CostTable::SHIPPED };
        close(&forecast(measured, &slower), [0.1, 4.8, 0.2, 2.0]);
    }

    #[test]
    fn shares_scale_layers() {
        let baseline = Baseline::new(&as_is(), &as_is(), 6.0, &CostTable::SHIPPED);
        let then: Vec<f64> = baseline
            .scaled(|name| if name == "a" { 0.5 } else { 1.0 })
            .iter()
            .map(|layer| layer.then)
            .collect();
        close(&then, [1.5, 1.0, 1.0, 1.0]);
    }
}
