//! Which tensors train.

use std::collections::BTreeSet;

use secateur_model::prunable::{ReasonKind, Status};
use secateur_model::text::listed;
use secateur_model::{DType, Error, Graph, Model, Result, TensorId, ops};
use secateur_runtime::running_statistics;

use crate::prune::Subject;
use crate::prune::select::any_of;

/// Constants of fewer elements are not worth a word where they do not train.
const NOTABLE: usize = 64;

/// The tensors that train, and what is worth knowing of the others.
#[derive(Clone, Debug, Default)]
pub struct Variables {
    /// In the model's order.
    pub tensors: Vec<TensorId>,
    /// Constants that look as if they could train and do not.
    pub notes: Vec<String>,
}

impl Variables {
    /// What layers own: weights, biases, embeddings, and the factors and addends of normalisations. Other constants of a
    /// graph, such as tables of positions and masks of attention, cannot be told from parameters: those that match `train`
    /// train too. What matches `freeze` stays: globs over the tensors' paths.
    ///
    /// # Errors
    /// `Usage` where a glob matches nothing, or nothing trains.
    pub fn of(subject: &Subject<'_>, train: &[String], freeze: &[String]) -> Result<Self> {
        let model = subject.model;
        let graph = model.graph()?;
        let constants: BTreeSet<TensorId> = graph.constants.values().copied().collect();
        let is_float = |id: TensorId| {
            let dtype = model.tensor(id).dtype;
            matches!(dtype, DType::F32 | DType::F16 | DType::BF16 | DType::F64)
        };
        let mut found: BTreeSet<TensorId> = BTreeSet::new();
        for entry in subject.entries()? {
            let view = match &entry.status {
                Status::Prunable(view) => view,
                Status::LeftDense(view, reason) if reason.kind != ReasonKind::Table => view,
                Status::LeftDense(..) | Status::Fixed(_) => continue,
            };
            let companions = view.bias.iter().chain(&view.followers).map(|companion| companion.tensor);
            found.extend([entry.tensor].into_iter().chain(companions));
        }
        found.extend(owned(graph));
        let fixed = running_statistics(graph);
        // What a checkpoint has from its graph's file it has no place for.
        let own = model.source.tensor_count().unwrap_or(usize::MAX);
        let changes = |id: TensorId| {
            let is_written = (id.0 as usize) < own && model.source.holds_changed(id);
            is_float(id) && !fixed.contains(&id) && is_written
        };
        found.retain(|id| constants.contains(id) && changes(*id));
        let candidates: Vec<TensorId> = constants.iter().copied().filter(|id| changes(*id)).collect();
        found.extend(matching(model, &candidates, train)?);
        let frozen = matching(model, &candidates, freeze)?;
        let left: Vec<&str> = candidates
            .iter()
            .filter(|id| !found.contains(id) && !frozen.contains(id) && model.tensor(**id).len() >= NOTABLE)
            .map(|id| model.tensor(*id).path.as_str())
            .collect();
        let mut notes = Vec::new();
        if !left.is_empty() {
            notes.push(format!("constants that belong to no layer stay as they are: {}", listed(left)));
        }
        let tensors: Vec<TensorId> = found.into_iter().filter(|id| !frozen.contains(id)).collect();
        if tensors.is_empty() {
            return Err(Error::usage(
                "nothing trains: no layer of the model has weights that are not frozen",
            ));
        }
        Ok(Variables { tensors, notes })
    }
}

/// The tensors that match one of some globs.
fn matching(model: &Model, from: &[TensorId], globs: &[String]) -> Result<BTreeSet<TensorId>> {
    let mut found = BTreeSet::new();
    for glob in globs {
        let matches = any_of(std::slice::from_ref(glob))?;
        let mut matched = from.iter().filter(|id| matches(&model.tensor(**id).path)).peekable();
        if matched.peek().is_none() {
            return Err(Error::usage(format!("`{glob}` matches no tensor that can train")));
        }
        found.extend(matched);
    }
    Ok(found)
}

/// What the nodes' operators have as parameters.
fn owned(graph: &Graph) -> impl Iterator<Item = TensorId> + '_ {
    graph.nodes.iter().flat_map(|node| {
        let parameters = ops::find(node).map_or(&[][..], |op| op.parameters);
        let inputs = parameters.iter().filter_map(|&i| node.inputs.get(i).copied().flatten());
        inputs.filter_map(|id| graph.constants.get(&id).copied())
    })
}
