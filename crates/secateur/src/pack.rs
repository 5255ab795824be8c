//! Which of a model's weights are smaller packed, and what that costs in precision.

use std::collections::BTreeMap;
use std::sync::Arc;

use rayon::prelude::*;
use secateur_model::ops::AxisRole;
use secateur_model::packed::{self, Choice, Rounding, Spec, ValueType};
use secateur_model::{Edits, Model, Result, ResultExt, TensorId, prunable};
use serde::Serialize;

/// How values are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Values {
    /// As they are, bit for bit.
    #[default]
    Exact,
    /// The values of weights that can be pruned are rounded to f16.
    F16,
    /// Those values become int8 with a scale for each output channel.
    Int8,
}

/// How a model is packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackOptions {
    /// How values are kept.
    pub values: Values,
    /// Choose only what compared tools read too: the bitmask in rows along the last axis.
    pub compatible: bool,
}

/// Bytes that the table of a file takes for each part of a packed tensor, about: what is not smaller by more
/// stays dense.
const PART_BYTES: usize = 100;

/// A tensor that is packed.
#[derive(Clone, Debug, Serialize)]
pub struct PackedTensor {
    /// The path.
    pub path: String,
    /// How places are stored: `bitmask`, or N:M.
    pub layout: String,
    /// The type of the stored values.
    pub values: String,
    /// Elements.
    pub elements: usize,
    /// Values that are stored.
    pub stored: usize,
    /// Bytes before.
    pub dense_bytes: usize,
    /// Bytes packed.
    pub packed_bytes: usize,
    /// max |w − ŵ| ÷ max |w|.
    pub max_relative_error: f64,
    /// √(Σ (w − ŵ)² ÷ Σ w²).
    pub rms_relative_error: f64,
    /// Weights that were not zero and are now.
    pub to_zero: usize,
    /// Why its values stay as they are, where others were asked for.
    pub note: Option<String>,
    #[serde(skip)]
    tensor: TensorId,
    #[serde(skip)]
    spec: Spec,
    #[serde(skip)]
    kind: ValueType,
    #[serde(skip)]
    rounding: Rounding,
}

/// What packing does to a model.
#[derive(Clone, Debug, Serialize)]
pub struct PackPlan {
    /// The tensors that are packed.
    pub tensors: Vec<PackedTensor>,
    /// Bytes of all tensors, dense.
    pub dense_bytes: usize,
    /// Bytes of all tensors with those packed.
    pub packed_bytes: usize,
    /// max |w − ŵ| ÷ max |w| over all packed tensors.
    pub max_relative_error: f64,
    /// √(Σ (w − ŵ)² ÷ Σ w²) over all tensors whose values were rounded.
    pub rms_relative_error: f64,
    /// Weights that were not zero and are now.
    pub to_zero: usize,
}

/// Chooses for each float tensor the smallest form. Biases, norms and embeddings keep their values' bits, whatever
/// [`PackOptions::values`] says.
///
/// # Errors
/// Where a tensor cannot be read.
pub fn plan(model: &Model, options: &PackOptions) -> Result<PackPlan> {
    let entries = prunable::view(model)?;
    let ours = model.source.tensor_count().unwrap_or(model.tensors.len());
    let found: Vec<Option<PackedTensor>> = entries
        .par_iter()
        .filter(|entry| (entry.tensor.0 as usize) < ours && model.source.is_weight(entry.tensor))
        .map(|entry| {
            let kind = match (options.values, entry.prunable()) {
                (Values::Exact, _) | (_, None) => ValueType::Exact,
                (Values::F16, Some(_)) => ValueType::F16,
                (Values::Int8, Some(view)) => {
                    let out = |role: &AxisRole| matches!(role, AxisRole::Out | AxisRole::GateOut);
                    ValueType::Int8 { axis: view.roles.iter().position(out).unwrap_or(0) }
                }
            };
            of_tensor(model, &Edits::new(), entry.tensor, kind, options)
        })
        .collect::<Result<_>>()?;
    let tensors: Vec<PackedTensor> = found.into_iter().flatten().collect();
    let dense_bytes = model.tensors.values().take(ours).map(|t| t.byte_len()).sum();
    let saved: usize = tensors.iter().map(|t| t.dense_bytes - t.packed_bytes).sum();
    let all = tensors.iter().fold(Rounding::default(), |all, t| all.and(t.rounding));
    let largest = tensors.iter().map(|t| t.max_relative_error).fold(0.0, f64::max);
    Ok(PackPlan {
        tensors,
        dense_bytes,
        packed_bytes: dense_bytes - saved,
        max_relative_error: largest,
        rms_relative_error: all.rms_relative(),
        to_zero: all.to_zero,
    })
}

/// Bytes that packing saves of each tensor of a changed model, values kept bit for bit; of the others it saves none.
///
/// # Errors
/// Where a tensor cannot be read.
pub(crate) fn saved(model: &Model, edits: &Edits) -> Result<BTreeMap<TensorId, u64>> {
    let ours = model.source.tensor_count().unwrap_or(model.tensors.len());
    let ids: Vec<TensorId> =
        (0..ours as u32).map(TensorId).filter(|id| model.source.is_weight(*id)).collect();
    let found: Vec<Option<(TensorId, u64)>> = ids
        .into_par_iter()
        .map(|id| {
            let packed = of_tensor(model, edits, id, ValueType::Exact, &PackOptions::default())?;
            Ok(packed.map(|packed| (id, (packed.dense_bytes - packed.packed_bytes) as u64)))
        })
        .collect::<Result<_>>()?;
    Ok(found.into_iter().flatten().collect())
}

fn of_tensor(
    model: &Model,
    edits: &Edits,
    id: TensorId,
    mut kind: ValueType,
    options: &PackOptions,
) -> Result<Option<PackedTensor>> {
    let stored = model.tensor(id);
    if !stored.dtype.is_prunable() || stored.shape.is_empty() {
        return Ok(None);
    }
    let tensor = edits.load(model, id)?;
    let mut note = None;
    if !kind.is_exact(stored.dtype) && !kind.holds(stored.dtype, &tensor.to_f32s()?) {
        let name = kind.stored_type(stored.dtype);
        note = Some(format!("values that {name} does not hold: kept as {}", stored.dtype));
        kind = ValueType::Exact;
    }
    let choice = if options.compatible { Choice::Compatible } else { Choice::Smallest };
    let layout = choice.layout(&tensor, &kind).at_tensor(&stored.path)?;
    let (packed, rounding) = packed::pack(&tensor, layout, kind).at_tensor(&stored.path)?;
    let spec = packed.spec();
    let table = PART_BYTES * (spec.parts().len() - 1);
    if packed.byte_len() + table >= stored.byte_len() {
        return Ok(None);
    }
    Ok(Some(PackedTensor {
        path: stored.path.clone(),
        layout: layout.name(),
        values: spec.value_type.to_string(),
        elements: tensor.len(),
        stored: spec.stored,
        dense_bytes: stored.byte_len(),
        packed_bytes: packed.byte_len(),
        max_relative_error: rounding.max_relative(),
        rms_relative_error: rounding.rms_relative(),
        to_zero: rounding.to_zero,
        note,
        tensor: id,
        spec,
        kind,
        rounding,
    }))
}

impl PackPlan {
    /// The changes that have the tensors written packed; each is packed when it is written.
    pub fn edits(&self, model: &Model) -> Edits {
        let mut edits = Edits::new();
        for t in &self.tensors {
            let (stored, layout, kind) = (model.tensor(t.tensor).clone(), t.spec.layout, t.kind);
            let make = move || Ok(Arc::new(packed::pack(&stored.load()?, layout, kind)?.0));
            edits.set_packed(t.tensor, t.spec.clone(), Arc::new(make));
        }
        edits
    }
}

/// The changes that have all packed tensors written dense, and how many those are.
pub fn unpack(model: &Model) -> (Edits, usize) {
    let mut edits = Edits::new();
    let packed = (0..).map(TensorId).zip(model.tensors.values()).filter(|(_, t)| t.packed().is_some());
    for (id, stored) in packed {
        let stored = stored.clone();
        edits.set_lazy(id, Arc::new(move || stored.load()));
    }
    let count = edits.ids().count();
    (edits, count)
}
