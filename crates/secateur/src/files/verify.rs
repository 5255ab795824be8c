//! Checks that a file has the sparsity and the pattern that a recipe asks for.

use std::collections::BTreeMap;
use std::sync::Arc;

use secateur_model::{Error, Result, TensorId};
use serde::Serialize;

use crate::prune::coverage::Coverage;
use crate::prune::method::Solvers;
use crate::prune::select::Part;
use crate::prune::{self, Mask, Method, PruneOptions, Registry, Scope, Subject};

/// The result of a check.
#[derive(Clone, Debug, Serialize)]
pub struct Verification {
    /// Whether everything that the recipe asks for is there.
    pub holds: bool,
    /// Each selected tensor.
    pub layers: Vec<Check>,
    /// Biases and batch-norm tensors that are not zero in channels that are pruned.
    pub companions: Vec<String>,
    /// Whether the recipe is about all tensors together, so that no tensor alone can fail.
    pub global: bool,
    /// Which of the model's weights take part, and which stay dense. Biases are left out.
    pub coverage: Option<Coverage>,
}

/// A tensor: what the recipe asks for and what is there.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// The tensor's path.
    pub tensor: String,
    /// The number of weights.
    pub size: usize,
    /// Zeros that are there.
    pub zeros: usize,
    /// The fewest further zeros that would satisfy the recipe.
    pub missing: usize,
    /// Of channels: how many there are, and how many should be pruned.
    pub channels: Option<prune::Channels>,
}

impl Verification {
    /// Zeros that are missing, of all tensors.
    pub fn missing(&self) -> usize {
        self.layers.iter().map(|layer| layer.missing).sum()
    }
}

/// Checks a model: pruning it by the recipe's pattern, scope, allocation and amount has nothing left to
/// do. Which weights are zero is not checked: whatever the criterion, zeros go first. Masks that prune
/// weights are zeros too.
///
/// # Errors
/// `Usage` where the recipe does not fit the model, or its amount is of what remains, which a file cannot
/// tell.
pub fn verify(
    subject: &Subject<'_>,
    options: &PruneOptions,
    masks: &BTreeMap<TensorId, Arc<Mask>>,
) -> Result<Verification> {
    if options.of_remaining {
        return Err(Error::usage(
            "the amount is of what remained before pruning (option `of_remaining`), which the file does not tell: \
             set option `amount` to the final sparsity that you expect",
        ));
    }
    let model = subject.model;
    let mut options = options.clone();
    let criterion = Registry::default().criterion("l1")?;
    options.method = Method { criterion, solvers: Solvers::default(), ..options.method };
    options.scores = None;
    let pruning = prune::plan_on(subject, &options, masks)?;
    let layers: Vec<Check> = pruning
        .layers
        .iter()
        .map(|layer| Check {
            tensor: layer.tensor.clone(),
            size: layer.size,
            zeros: layer.pruned_before,
            missing: layer.zeros_after - layer.pruned_before,
            channels: layer.channels,
        })
        .collect();
    let mut companions = Vec::new();
    for (id, mask) in &pruning.companions {
        let stored = model.tensor(*id);
        let values = stored.load()?.to_f32s()?;
        // The original of a pair keeps its values: its mask says which are zero.
        let own = |i: usize| masks.get(id).is_none_or(|own| own.keeps(i));
        if mask.iter().zip(&values).enumerate().any(|(i, (keep, &value))| !keep && own(i) && value != 0.0) {
            companions.push(stored.path.clone());
        }
    }
    let holds = companions.is_empty() && layers.iter().all(|layer| layer.missing == 0);
    let coverage = match options.selector.part {
        Part::Weights => {
            Some(Coverage::among(model, options.entries(subject)?, pruning.masks.iter().map(|(id, _)| *id)))
        }
        Part::Biases => None,
    };
    Ok(Verification { holds, layers, companions, global: options.method.scope == Scope::Global, coverage })
}
