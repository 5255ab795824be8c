//! The pairs that `torch.nn.utils.prune` makes in a checkpoint: the original weight and its mask.

use secateur_model::{Model, TensorId};

use super::{MASK, ORIGINAL};

/// A weight that a checkpoint holds as an original and its mask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The weight's path without `_orig`.
    pub path: String,
    /// The original.
    pub original: TensorId,
    /// The mask: ones where the weight is kept, in a type of numbers or booleans.
    pub mask: TensorId,
}

/// The pairs of a model: `X_orig` of a float type where there is `X_mask`.
pub(super) fn find(model: &Model) -> Vec<Pair> {
    let originals = model.tensors.values().filter_map(|t| Some((t, t.path.strip_suffix(ORIGINAL)?)));
    originals
        .filter(|(original, _)| original.dtype.is_prunable())
        .filter_map(|(original, path)| {
            Some(Pair {
                path: path.to_string(),
                original: model.tensor_id(&original.path)?,
                mask: model.tensor_id(&format!("{path}{MASK}"))?,
            })
        })
        .collect()
}
