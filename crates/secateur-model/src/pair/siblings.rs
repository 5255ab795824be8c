//! Tensors of the checkpoint that belong to a weight which the graph uses, and that have no place in it: the
//! network computes with them, in a way that is not known here.

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

/// A line for each sibling of a used weight that the graph does not use. A tensor with the elements of a used one
/// is that one: exporters keep one of both.
///
/// # Errors
/// Where a tensor cannot be read.
pub(super) fn unused(matching: &Matching<'_>, taken: &BTreeSet<TensorId>) -> Result<Vec<String>> {
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
    let mut lines = Vec::new();
    for &id in matching.candidates.iter().filter(|id| !taken.contains(id) && !biases.contains(id)) {
        let stored = model.tensor(id);
        if !stored.dtype.is_prunable() || BESIDE.iter().any(|name| stored.path.contains(name)) {
            continue;
        }
        let Some(&weight) = owner(&stored.path, &layers) else { continue };
        let neutral = IDLE.contains(&split(id).1) && {
            let values = stored.load()?.to_f32s()?;
            values::is_uniform(&values) && (values[0] == 0.0 || values[0] == 1.0)
        };
        if !neutral && !same_as_used(matching, taken, id)? {
            lines.push(format!(
                "`{}` ({}) of the checkpoint has no place in the graph, which uses `{}` beside it: the network may \
                 compute its weight from both",
                stored.path,
                shape(stored),
                model.tensor(weight).path
            ));
        }
    }
    Ok(lines)
}

/// The weight of the layer that a path lies in or below.
fn owner<'a>(path: &str, layers: &'a BTreeMap<&str, TensorId>) -> Option<&'a TensorId> {
    let modules = path.match_indices('.').map(|(at, _)| &path[..at]);
    modules.chain((!path.contains('.')).then_some("")).find_map(|module| layers.get(module))
}

fn same_as_used(matching: &Matching<'_>, taken: &BTreeSet<TensorId>, id: TensorId) -> Result<bool> {
    let stored = matching.checkpoint.tensor(id);
    let elements = stored.load()?;
    for other in taken.iter().map(|&other| matching.checkpoint.tensor(other)) {
        if other.shape == stored.shape && other.dtype == stored.dtype && other.load()? == elements {
            return Ok(true);
        }
    }
    Ok(false)
}
