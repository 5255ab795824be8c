//! What the channels of layers give: statistics of the activations that they reach.

use std::sync::Arc;

use secateur_model::ops::AxisRole;
use secateur_model::prunable::PrunableView;
use secateur_model::{Error, Graph, Model, Node, NodeId, Result, ResultExt, ValueId};

use super::{Along, CalibrateOptions, Channels, Statistic, batches, observe, session};
use crate::progress::Progress;

/// Functions of single elements behind which a channel's activation is observed.
const ACTIVATIONS: &[&str] = &[
    "Relu",
    "LeakyRelu",
    "PRelu",
    "ThresholdedRelu",
    "Clip",
    "Elu",
    "Selu",
    "Celu",
    "Gelu",
    "Sigmoid",
    "HardSigmoid",
    "HardSwish",
    "Swish",
    "Mish",
    "Softplus",
    "Softsign",
    "Tanh",
    "QuickGelu",
    "BiasGelu",
    "FastGelu",
];

/// Operators that lie between a layer and its activation: normalisations, biases, scales, sums with a shortcut.
const BETWEEN: &[&str] = &[
    "BatchNormalization",
    "InstanceNormalization",
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Sum",
    "Identity",
    "Dropout",
    "Cast",
];

/// The axis of the channels of a layer's output.
pub(crate) fn along(view: &PrunableView) -> Along {
    if view.roles.contains(&AxisRole::Spatial) { Along::Second } else { Along::Last }
}

/// The node of a weight in the main graph.
pub(crate) fn node_of<'g>(graph: &'g Graph, view: &PrunableView) -> Option<(NodeId, &'g Node)> {
    let is_own = |node: &Node| node.label() == view.node && node.op_type == view.op_type;
    (0..).map(NodeId).zip(&graph.nodes).find(|(_, node)| is_own(node))
}

/// The value behind the first activation that a layer's output reaches, through normalisations, biases and sums; where it
/// reaches none, the last value on that way.
fn reached(graph: &Graph, view: &PrunableView) -> Option<ValueId> {
    let consumers = graph.consumers();
    let mut value = node_of(graph, view)?.1.outputs.first().copied().flatten()?;
    loop {
        let users: Vec<&Node> =
            consumers[value.index()].iter().map(|(node, _)| &graph.nodes[node.0 as usize]).collect();
        let first = |node: &Node| node.outputs.first().copied().flatten();
        if let Some(node) = users.iter().find(|node| ACTIVATIONS.contains(&node.op_type.as_str())) {
            return first(node);
        }
        match users[..] {
            [node] if BETWEEN.contains(&node.op_type.as_str()) && !graph.outputs.contains(&value) => {
                value = first(node)?;
            }
            _ => return Some(value),
        }
    }
}

/// Observes the activations of layers: statistics in the order of `views`.
///
/// # Errors
/// `Unsupported` where a layer is in a nested graph; those of runs.
pub(super) fn activations(
    model: &Arc<Model>,
    views: &[PrunableView],
    options: &CalibrateOptions,
    progress: &dyn Progress,
) -> Result<Vec<Channels>> {
    let graph = model.graph()?;
    let named = |view: &PrunableView| {
        let found = reached(graph, view).map(|value| (graph.value_name(value), Channels::new(along(view))));
        found.ok_or_else(|| {
            let message =
                "is in a nested graph, where it is not observed: leave it out with option `exclude`";
            Error::unsupported(message).at_tensor(&model.tensor(view.tensor).path)
        })
    };
    let mut found = views.iter().map(named).collect::<Result<Vec<_>>>()?;
    let batches = batches(model, &options.data).at(|| "the calibration data")?;
    progress.begin("observing activations", batches.len() as u64);
    let mut wanted: Vec<(&str, &mut dyn Statistic)> =
        found.iter_mut().map(|(name, channels)| (*name, channels as &mut dyn Statistic)).collect();
    observe(&session(model, options.limits)?, &batches, &mut wanted, progress)?;
    Ok(found.into_iter().map(|(_, channels)| channels).collect())
}
