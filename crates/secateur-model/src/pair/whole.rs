//! The weights that a checkpoint holds in parts, computed: a graph that was exported without the
//! parametrisation has the weight alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::names::Paths;
use crate::model::Storage;
use crate::{Model, Result, StoredTensor, TensorId, parametrised};

/// A checkpoint with its weights whole.
pub(super) struct Whole {
    /// The checkpoint, and behind its tensors those that were computed.
    pub(super) model: Model,
    /// Of those what makes them of their parts, such as `weight_norm`.
    pub(super) computed: BTreeMap<TensorId, &'static str>,
    /// Parts, which stand for no constant of the graph.
    pub(super) parts: BTreeSet<TensorId>,
    /// Weights that cannot be computed, each with the reason.
    pub(super) refused: Vec<String>,
}

impl Whole {
    /// Computes what the graph does not compute itself: it does where it has the parts by their names.
    ///
    /// # Errors
    /// Where a tensor, or the configuration of an adapter, cannot be read.
    pub(super) fn new(checkpoint: &Model, onnx: &Model, names: &BTreeSet<String>) -> Result<Self> {
        let mut whole = Whole {
            model: checkpoint.clone(),
            computed: BTreeMap::new(),
            parts: BTreeSet::new(),
            refused: Vec::new(),
        };
        let found = parametrised::find(checkpoint)?;
        if found.is_empty() {
            return Ok(whole);
        }
        let all = (0..).map(TensorId).zip(checkpoint.tensors.keys().map(String::as_str));
        let paths = Paths::new(all, names);
        let held: BTreeSet<TensorId> = onnx.tensors.keys().filter_map(|name| paths.find(name)).collect();
        for weight in found {
            // Without the parametrisation these stand for the weight in the graph's names.
            let telling = |id: &TensorId| {
                let path = &checkpoint.tensor(*id).path;
                !path.ends_with("_orig") && *path != weight.path
            };
            if weight.parts.iter().any(|id| held.contains(id) && telling(id)) {
                continue;
            }
            whole.parts.extend(&weight.parts);
            let path = weight.path.clone();
            let computed = match whole.model.tensors.contains_key(&path) {
                true => Err("another tensor has its name".to_string()),
                false => weight.compute(checkpoint)?,
            };
            match computed {
                Ok(tensor) => {
                    let (shape, data) = tensor.into_parts();
                    let dtype = data.dtype();
                    let storage = Storage::Computed(Arc::new(data), weight.parts.into());
                    whole.computed.insert(TensorId(whole.model.tensors.len() as u32), weight.by);
                    whole.model.tensors.insert(path.clone(), StoredTensor { path, dtype, shape, storage });
                }
                Err(why) => whole.refused.push(format!("`{path}` under {}: {why}", weight.by)),
            }
        }
        Ok(whole)
    }
}
