//! Tensors of the checkpoint that have no place in the graph: where the network computes with them, what the graph
//! computes is not the network.

use std::collections::{BTreeMap, BTreeSet};

use super::matching::{Matching, shape};
use super::values;
use crate::{Result, TensorId};

/// What stands beside a weight without being computed with: counters of profilers, observers of quantisation.
const BESIDE: &[&str] = &[
    "num_batches_tracked",
    "total_ops",
    "total_params",
    "fake_quant",
    "observer",
    "activation_post_process",
];

/// Parameters of normalisations, and biases, that an exporter drops where they are all 0 or all 1.
const IDLE: &[&str] = &["weight", "bias", "running_mean", "running_var"];

/// The modules' parameters after which the whole module is called a layer: what lies in or below it belongs
/// to the weight.
const WEIGHT: &str = "weight";

/// Tensors that the graph does not use.
pub(super) struct Unused {
    /// A line for each that belongs to a used weight.
    pub(super) siblings: Vec<String>,
    /// The paths of the others.
    pub(super) others: Vec<String>,
}

/// Parameters and float buffers that the graph does not use. A tensor with the elements of a used one is that one:
/// exporters keep one of both, and keep buffers that they computed with as constants.
///
/// # Errors
/// Where a tensor cannot be read.
pub(super) fn unused(matching: &Matching<'_>, taken: &BTreeSet<TensorId>) -> Result<Unused> {
    let model = matching.checkpoint;
    let split = |id: TensorId| {
        let path = model.tensor(id).path.as_str();
        path.rsplit_once('.').unwrap_or(("", path))
    };
    let mut layers: BTreeMap<&str, TensorId> = BTreeMap::new();
    for &id in taken {
        let (module, name) = split(id);
        if name.strip_suffix("_orig").unwrap_or(name) == WEIGHT {
            layers.insert(module, id);
        }
    }
    // Biases have an error of their own where they are not zero.
    let biases: BTreeSet<TensorId> =
        matching.layers.values().filter_map(|layer| layer.bias.as_ref()).map(|bias| bias.tensor).collect();
    let mut unused = Unused { siblings: Vec::new(), others: Vec::new() };
    for &id in matching.candidates.iter().filter(|id| !taken.contains(id) && !biases.contains(id)) {
        let stored = model.tensor(id);
        if !stored.dtype.is_prunable() || BESIDE.iter().any(|name| stored.path.contains(name)) {
            continue;
        }
        let neutral = IDLE.contains(&split(id).1) && {
            let values = stored.load()?.to_f32s()?;
            values::is_uniform(&values) && (values[0] == 0.0 || values[0] == 1.0)
        };
        if neutral || same_as_used(matching, taken, id)? {
            continue;
        }
        match owner(&stored.path, &layers) {
            Some(&weight) => unused.siblings.push(format!(
                "`{}` ({}) of the checkpoint is not used by the graph, although `{}` of the same layer is: the network \
                 may compute its weight from both",
                stored.path,
                shape(stored),
                model.tensor(weight).path
            )),
            None => unused.others.push(stored.path.clone()),
        }
    }
    Ok(unused)
}

/// The weight of the layer that a path lies in or below.
fn owner<'a>(path: &str, layers: &'a BTreeMap<&str, TensorId>) -> Option<&'a TensorId> {
    let modules = path.match_indices('.').map(|(at, _)| &path[..at]);
    modules.chain((!path.contains('.')).then_some("")).find_map(|module| layers.get(module))
}

fn same_as_used(matching: &Matching<'_>, taken: &BTreeSet<TensorId>, id: TensorId) -> Result<bool> {
    let stored = matching.checkpoint.tensor(id);
    let elements = stored.load()?;
    let used = taken.iter().map(|&other| matching.checkpoint.tensor(other));
    for other in used.chain(matching.onnx.tensors.values()) {
        let alike = other.len() == stored.len() && other.dtype == stored.dtype;
        if alike && other.load()?.data() == elements.data() {
            return Ok(true);
        }
    }
    Ok(false)
}
