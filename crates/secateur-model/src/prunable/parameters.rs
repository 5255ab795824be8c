//! How many parameters a model has, whatever the type they are stored in.

use std::collections::HashSet;

use super::{Entry, ReasonKind, Status, names};
use crate::{DType, Model, StoredTensor, TensorId};

/// For each entry how many of the model's parameters its tensor holds: weights, biases and factors of any
/// element type, quantised ones by the number of weights they stand for. 0 for indices, masks, scales of
/// integers' quantisation, an optimiser's state, copies beside the state dict, and for further names and
/// parts of a tensor that counts already.
pub fn parameters(model: &Model, entries: &[Entry]) -> Vec<u64> {
    let again: HashSet<TensorId> = model.aliases().iter().flat_map(|group| group[1..].to_vec()).collect();
    let parts: HashSet<TensorId> = model.tensors.values().flat_map(|t| t.parts()).copied().collect();
    let count = |entry: &Entry| {
        let stored = model.tensor(entry.tensor);
        if again.contains(&entry.tensor)
            || parts.contains(&entry.tensor)
            || names::outside(model, entry.tensor).is_some()
        {
            return 0;
        }
        let kind = match &entry.status {
            Status::Fixed(reason) => Some(reason.kind),
            Status::Prunable(_) | Status::LeftDense(..) => None,
        };
        match kind {
            Some(ReasonKind::Mask | ReasonKind::Tied | ReasonKind::Copy | ReasonKind::Integer) => 0,
            Some(ReasonKind::Scale) if !stored.dtype.is_prunable() => 0,
            Some(ReasonKind::Quantised) => stands_for(model, stored),
            Some(ReasonKind::Bias) => stored.len() as u64,
            _ if stored.dtype.is_prunable() || entry.is_weight(model) => stored.len() as u64,
            _ => 0,
        }
    };
    entries.iter().map(count).collect()
}

/// Weights that a tensor stands for at most, whatever the file claims: sums of them do not wrap.
const MOST: u64 = 1 << 40;

/// The weights that a quantised tensor stands for: several lie in one integer where formats pack them.
fn stands_for(model: &Model, stored: &StoredTensor) -> u64 {
    claimed(model, stored).min(MOST)
}

fn claimed(model: &Model, stored: &StoredTensor) -> u64 {
    let len = stored.len() as u64;
    let find = |path: String| model.tensor_id(&path).map(|id| model.tensor(id));
    let extent = |t: &StoredTensor, axis: usize| t.shape.get(axis).map(|&d| d as u64);
    if let Some(module) = stored.path.strip_suffix("qweight") {
        // AWQ packs along the outputs, of which each has a scale; GPTQ along the inputs, each with a group.
        let outputs = find(format!("{module}scales")).and_then(|t| extent(t, 1));
        if let (Some(outputs), Some(rows), Some(columns)) = (outputs, extent(stored, 0), extent(stored, 1)) {
            let inputs = find(format!("{module}g_idx")).map_or(8 * rows, |t| t.len() as u64);
            return outputs.saturating_mul(if outputs > columns { rows } else { inputs });
        }
    }
    if let Some(module) = stored.path.strip_suffix("weight_packed") {
        let shape = find(format!("{module}weight_shape")).filter(|t| t.len() <= 8);
        if let Some(Ok(shape)) = shape.and_then(|t| t.load().ok()).map(|t| t.to_i64s()) {
            return shape.iter().fold(1u64, |n, &d| n.saturating_mul(d.unsigned_abs()));
        }
    }
    match stored.dtype {
        DType::I32 | DType::U32 => 8 * len,
        // bitsandbytes' 4 bits have a table of 16 values beside them, MXFP4 its blocks.
        DType::U8 if find(format!("{}.quant_map", stored.path)).is_some_and(|t| t.len() == 16) => 2 * len,
        DType::U8 if stored.path.ends_with("_blocks") => 2 * len,
        _ => len,
    }
}
