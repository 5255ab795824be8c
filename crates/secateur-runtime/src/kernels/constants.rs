//! Constant weights, which are loaded where they are needed, and what is added to the outputs.

use std::hash::Hash;
use std::sync::Arc;

use secateur_kernels::ValueType;
use secateur_model::ops::Fact;
use secateur_model::{DType, Result, Tensor};

use super::Epilogue;
use crate::packed::Bits;
use crate::weights::{Weights, transposed};

/// Constant weights of a layer, a row for each output, with factors folded in. They are not held: whoever computes
/// with them loads them, and drops them once they are packed.
#[derive(Clone, Debug)]
pub(crate) struct LayerWeights {
    weight: Fact,
    /// Whether the weight is stored with a column for each output.
    columns: bool,
    /// The factor of each output, where there are any.
    scale: Option<Vec<f32>>,
}

impl LayerWeights {
    /// The rows of a constant; `None` for other values.
    pub(super) fn new(weight: &Fact, columns: bool, scale: Option<Vec<f32>>) -> Option<LayerWeights> {
        let fits = weight.is_constant() && weight.dtype == Some(DType::F32);
        // A weight that the graph transposes is taken as it is stored.
        let as_stored = weight.transposed().filter(|w| w.stored.is_some_and(|stored| !stored.transposed));
        fits.then(|| match as_stored {
            Some(weight) => LayerWeights { weight, columns: !columns, scale },
            None => LayerWeights { weight: weight.clone(), columns, scale },
        })
    }

    /// Loads the weights.
    pub(crate) fn load(&self, weights: &Weights) -> Result<Tensor> {
        let mut rows = weights.elements(&self.weight)?;
        if self.columns {
            rows = transposed(&rows)?;
        }
        if let Some(scale) = &self.scale {
            let len = (rows.len() / scale.len().max(1)).max(1);
            for (row, s) in rows.values_mut::<f32>()?.chunks_exact_mut(len).zip(scale) {
                row.iter_mut().for_each(|w| *w *= s);
            }
        }
        Ok(rows)
    }

    /// How many weights there are.
    pub(crate) fn len(&self) -> usize {
        self.weight.shape().unwrap_or_default().iter().product()
    }

    /// What `pack` makes of the weights, shared with all who pack them alike: where `how` is equal.
    pub(crate) fn share<T: Send + Sync + 'static>(
        &self,
        weights: &Weights,
        how: impl Hash,
        pack: impl FnOnce() -> Result<T>,
    ) -> Result<Arc<T>> {
        weights.share(&self.weight, (self.columns, self.scale.as_deref().map(Bits), how), pack)
    }

    /// Loads the weights for kernels that keep smaller values than f32, where the model has them packed as such.
    pub(crate) fn load_packed(&self, weights: &Weights) -> Result<Packed<'_>> {
        let packed = weights.packed_type(&self.weight);
        if matches!(packed, Some(DType::F16 | DType::I8)) {
            let rows = LayerWeights { scale: None, ..self.clone() }.load(weights)?;
            let values = match packed {
                Some(DType::F16) => ValueType::F16,
                _ if are_bytes(&rows)? => ValueType::Int8,
                _ => ValueType::F32,
            };
            if values != ValueType::F32 {
                return Ok(Packed { rows, factors: self.scale.as_deref(), values });
            }
        }
        Ok(Packed { rows: self.load(weights)?, factors: None, values: ValueType::F32 })
    }
}

/// Weights of a layer, a row for each output, as kernels keep them.
pub(crate) struct Packed<'a> {
    pub(crate) rows: Tensor,
    /// By what the weights of each output are multiplied.
    pub(crate) factors: Option<&'a [f32]>,
    /// What holds the weights exactly.
    pub(crate) values: ValueType,
}

/// Whether weights of each output are bytes times a number of which the largest is 127, but for rounding.
fn are_bytes(rows: &Tensor) -> Result<bool> {
    /// Added and taken off again, it leaves the nearest whole number, as `round` does, in two instructions.
    const ROUNDER: f32 = 1.5 * (1 << 23) as f32;
    let outputs = rows.shape().first().copied().unwrap_or(1);
    let are_bytes = |row: &[f32]| {
        let largest = row.iter().fold(0f32, |largest, w| if w.abs() > largest { w.abs() } else { largest });
        // Not finite where the largest is tiny, or isn't finite itself; NaN is no byte.
        let unit = if largest == 0.0 { 0.0 } else { 127.0 / largest };
        let off = |w: f32| (w * unit - (w * unit + ROUNDER - ROUNDER)).abs();
        row.iter().all(|&w| off(w) < 1e-3)
    };
    Ok(rows.values::<f32>()?.chunks((rows.len() / outputs.max(1)).max(1)).all(are_bytes))
}

/// What a kernel with weights is called: by its layout, where that isn't the usual one, and by the weights' type, where
/// that isn't f32.
pub(crate) fn kernel_name(layout: Option<&'static str>, values: ValueType) -> Option<&'static str> {
    Some(match (layout, values) {
        (None, ValueType::F32) => return None,
        (None, ValueType::F16) => "f16",
        (None, ValueType::Int8) => "int8",
        (Some("sparse"), ValueType::F16) => "sparse f16",
        (Some("sparse"), ValueType::Int8) => "sparse int8",
        (Some("tiles"), ValueType::F16) => "tiles f16",
        (Some("tiles"), ValueType::Int8) => "tiles int8",
        (Some(layout), _) => layout,
    })
}

/// What is added to each output: a layer's own bias (for each output, or one for all) times `factor`, with the
/// epilogue's factors and addends folded in.
pub(super) fn folded_bias(
    own: Option<&[f32]>,
    factor: f32,
    outputs: usize,
    epilogue: &Epilogue,
) -> Option<Vec<f32>> {
    let Some(own) = own else { return epilogue.shift.clone() };
    let mut bias = epilogue.shift.clone().unwrap_or_else(|| vec![0.0; outputs]);
    for (o, bias) in bias.iter_mut().enumerate() {
        let factor = factor * epilogue.scale.as_ref().map_or(1.0, |scale| scale[o]);
        *bias += factor * own[if own.len() == 1 { 0 } else { o }];
    }
    Some(bias)
}
