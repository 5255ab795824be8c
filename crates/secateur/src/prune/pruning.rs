//! What is pruned: masks, a summary, and the patch they make.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use secateur_model::model::Patch;
use secateur_model::prunable::PrunableView;
use secateur_model::{Model, Result, ResultExt, StoredTensor, Tensor, TensorId};
use serde::Serialize;

use crate::measure::Count;
use crate::prune::weights::Weights;
use crate::prune::{Mask, MaskMap, Subject};

/// What is pruned: masks, new weights where the method solves for them, and a summary. Other weights are neither
/// copied nor changed until [`Pruning::patch`] is asked for a tensor.
#[derive(Clone, Debug, Default)]
pub struct Pruning {
    /// The masks of the selected tensors, in the model's order. What base masks prune is pruned in
    /// them, and so are zeros that were there before, except in channels that stay.
    pub masks: Vec<(TensorId, Arc<Mask>)>,
    /// The masks of biases and batch-norm tensors that are pruned with their channels.
    pub companions: Vec<(TensorId, Arc<Mask>)>,
    /// The new weights of the tensors that solvers changed, pruned ones zero.
    pub values: BTreeMap<TensorId, Tensor>,
    /// A summary of each selected tensor, in the order of `masks`.
    pub layers: Vec<LayerSummary>,
    /// What the user should know, such as that there were more zeros than asked for.
    pub notes: Vec<String>,
}

/// What happens to one selected tensor.
#[derive(Clone, Debug, Serialize)]
pub struct LayerSummary {
    /// The tensor's path.
    pub tensor: String,
    /// The label of the node that owns it.
    pub node: String,
    /// That node's operator.
    pub op_type: String,
    /// The module.
    pub module: String,
    /// The shape as stored.
    pub shape: Vec<usize>,
    /// The number of weights.
    pub size: usize,
    /// Zeros before, as stored.
    pub zeros_before: usize,
    /// Zeros before, those included that the base mask prunes.
    pub pruned_before: usize,
    /// Zeros after.
    pub zeros_after: usize,
    /// Of a channel pattern: how many channels there are and how many of them are pruned.
    pub channels: Option<Channels>,
    /// The biases and batch-norm tensors that are pruned with these channels.
    pub companions: Vec<String>,
}

/// Channels of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Channels {
    /// How many there are.
    pub size: usize,
    /// How many are pruned.
    pub pruned: usize,
}

impl LayerSummary {
    /// Weights that are not zero afterwards.
    pub fn nnz(&self) -> usize {
        self.size - self.zeros_after
    }

    /// Zeros ÷ weights, afterwards.
    pub fn sparsity(&self) -> f64 {
        ratio(self.zeros_after, self.size)
    }
}

impl Pruning {
    /// The masks that hold after it: those that held before, and what it prunes with its companions.
    ///
    /// # Errors
    /// `Internal` where masks of a tensor differ in length.
    pub fn joined(&self, before: &MaskMap) -> Result<MaskMap> {
        let mut masks = before.clone();
        for (id, mask) in self.masks.iter().chain(&self.companions) {
            let both = before.get(id).map_or(Ok(mask.clone()), |own| own.and(mask).map(Arc::new))?;
            masks.insert(*id, both);
        }
        Ok(masks)
    }

    /// What masks alone prune, without a method: one mask per tensor.
    ///
    /// # Errors
    /// Where a tensor cannot be read.
    pub fn of_masks(subject: &Subject<'_>, masks: &BTreeMap<TensorId, Arc<Mask>>) -> Result<Pruning> {
        let mut pruning = Pruning::default();
        let model = subject.model;
        let views: BTreeMap<TensorId, &PrunableView> =
            subject.entries()?.iter().filter_map(|entry| Some((entry.tensor, entry.view()?))).collect();
        for (&id, mask) in masks {
            let (stored, view) = (model.tensor(id), views.get(&id));
            let text = |of: fn(&PrunableView) -> &String| view.map(|v| of(v).clone()).unwrap_or_default();
            let dense = stored.dense();
            let weights = Weights::of(&dense)?;
            pruning.layers.push(LayerSummary {
                tensor: stored.path.clone(),
                node: text(|v| &v.node),
                op_type: text(|v| &v.op_type),
                module: text(|v| &v.module),
                shape: stored.shape.clone(),
                size: stored.len(),
                zeros_before: weights.zeros(),
                pruned_before: weights.zeros(),
                zeros_after: weights.masked_by(mask).at_tensor(&stored.path)?.zeros(),
                channels: None,
                companions: Vec::new(),
            });
            pruning.masks.push((id, mask.clone()));
        }
        Ok(pruning)
    }

    /// How many weights of each selected tensor are not zero afterwards.
    pub fn counts(&self) -> Vec<(TensorId, Count)> {
        self.counted(LayerSummary::nnz)
    }

    /// How many weights of each selected tensor are not zero as stored.
    pub fn counts_before(&self) -> Vec<(TensorId, Count)> {
        self.counted(|layer| layer.size - layer.zeros_before)
    }

    fn counted(&self, nonzero: impl Fn(&LayerSummary) -> usize) -> Vec<(TensorId, Count)> {
        let count = |layer| Count { nonzero: nonzero(layer) as u64, total: layer.size as u64 };
        self.masks.iter().zip(&self.layers).map(|((id, _), layer)| (*id, count(layer))).collect()
    }

    /// The selected weights: how many.
    pub fn size(&self) -> usize {
        self.layers.iter().map(|l| l.size).sum()
    }

    /// The selected weights: how many are zero afterwards.
    pub fn zeros(&self) -> usize {
        self.layers.iter().map(|l| l.zeros_after).sum()
    }

    /// The sparsity achieved over the selected weights.
    pub fn sparsity(&self) -> f64 {
        ratio(self.zeros(), self.size())
    }

    /// The sparsity achieved over all parameters of the model, of any element type, biases, norms and
    /// embeddings included. Reads those of floats that are not selected.
    ///
    /// # Errors
    /// Where a tensor cannot be read.
    pub fn model_sparsity(&self, subject: &Subject<'_>) -> Result<f64> {
        let model = subject.model;
        let (patch, mut size, mut zeros) = (self.patch(model), self.size(), self.zeros());
        let selected: BTreeSet<TensorId> = self.masks.iter().map(|(id, _)| *id).collect();
        for (entry, &count) in subject.entries()?.iter().zip(subject.parameters()?) {
            let (id, stored) = (entry.tensor, model.tensor(entry.tensor));
            if selected.contains(&id) || count == 0 {
                continue;
            }
            size += count as usize;
            if !stored.dtype.is_prunable() {
                continue;
            }
            zeros += if patch.contains(id) {
                let changed = patch.load(model, id)?.to_f32s()?;
                changed.iter().filter(|&&v| v == 0.0).count()
            } else {
                Weights::of(&stored.dense())?.zeros()
            };
        }
        Ok(ratio(zeros, size))
    }

    /// The changes to the model: each pruned tensor is read and masked on demand,
    /// in its own type. Pruned weights become +0; all others are those of a solver, or keep their bits. Tensors
    /// in which nothing new is pruned and nothing is solved are not changed.
    pub fn patch(&self, model: &Model) -> Patch {
        let mut patch = Patch::new();
        let pruned = self.masks.iter().zip(&self.layers);
        let changed =
            pruned.filter(|(_, layer)| layer.zeros_after > layer.zeros_before).map(|(mask, _)| mask);
        for (id, mask) in changed.chain(&self.companions) {
            let (stored, mask) = (model.tensor(*id).clone(), mask.clone());
            patch.set_lazy(*id, Arc::new(move || masked(&stored, &mask)));
        }
        for (id, tensor) in &self.values {
            patch.set(*id, tensor.clone());
        }
        patch.spread(model);
        patch
    }
}

/// A tensor with its mask applied.
pub(crate) fn masked(stored: &StoredTensor, mask: &Mask) -> Result<Tensor> {
    let (shape, mut data) = stored.load()?.into_parts();
    mask.apply(&mut data)?;
    Tensor::from_data(shape, data)
}

fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
