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
/// Values that are turned between tensors and tiles take e ÷ p too. Costs that were not measured on this machine are
/// first multiplied by one factor, so that the layers as they are come out as measured.
#[derive(Clone, Debug)]
pub(crate) struct Baseline {
    /// The layers; together they take [`Baseline::seconds`].
    pub(crate) layers: Vec<LayerTime>,
    /// The time of a run.
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
    /// there, which what is between layers is shared out by.
    pub(crate) fn new(layers: &[LayerTime], on_one: &[LayerTime], seconds: f64, costs: &CostTable) -> Self {
        let estimated = |layers: &[LayerTime]| -> (f64, f64) {
            let of = layers.iter().filter_map(|layer| Some((layer.seconds, layer.estimate?)));
            of.fold((0.0, 0.0), |sum, (time, estimate)| (sum.0 + time, sum.1 + estimate))
        };
        let ((time, _), (alone, estimate)) = (estimated(layers), estimated(on_one));
        let ratio = |a: f64, b: f64| if a > 0.0 && b > 0.0 { a / b } else { 1.0 };
        let here = if costs.source == CostSource::Measured { 1.0 } else { ratio(alone, estimate) };
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
                sparse: node.kernel == Some("sparse"),
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
