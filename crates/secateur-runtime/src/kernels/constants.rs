//! Constant weights, which are loaded where they are needed, and what is added to the outputs.

use secateur_model::ops::Fact;
use secateur_model::{DType, Result, Tensor};

use crate::fuse::Epilogue;
use crate::session::{Weights, turned};

/// Constant weights of a layer, a row for each output, with factors folded in. They are not held: whoever computes
/// with them loads them, and drops them once they are packed.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    weight: Fact,
    /// Whether the weight is stored with a column for each output.
    columns: bool,
    /// The factor of each output, where there are any.
    scale: Option<Vec<f32>>,
}

impl Rows {
    /// The rows of a constant; `None` for other values.
    pub(super) fn new(weight: &Fact, columns: bool, scale: Option<Vec<f32>>) -> Option<Rows> {
        let fits = weight.is_constant() && weight.dtype == Some(DType::F32);
        // A weight that the graph turns is taken as it is stored.
        let as_stored = weight.turned().filter(|w| w.stored.is_some_and(|stored| !stored.turned));
        fits.then(|| match as_stored {
            Some(weight) => Rows { weight, columns: !columns, scale },
            None => Rows { weight: weight.clone(), columns, scale },
        })
    }

    /// Loads the weights.
    pub(crate) fn load(&self, weights: &Weights) -> Result<Tensor> {
        let mut rows = weights.elements(&self.weight)?;
        if self.columns {
            rows = turned(&rows)?;
        }
        if let Some(scale) = &self.scale {
            let len = (rows.len() / scale.len().max(1)).max(1);
            for (row, s) in rows.values_mut::<f32>()?.chunks_exact_mut(len).zip(scale) {
                row.iter_mut().for_each(|w| *w *= s);
            }
        }
        Ok(rows)
    }

    /// The type of values that the model has the weights packed with, where factors leave it to them: the scale of an
    /// output's int8 values takes in its factor.
    pub(super) fn packed_type(&self, weights: &Weights) -> Option<DType> {
        weights.packed_type(&self.weight).filter(|dtype| *dtype == DType::I8 || self.scale.is_none())
    }
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
