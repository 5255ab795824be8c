//! Which tensors train.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use secateur_model::prunable::{Entry, ReasonKind, Status};
use secateur_model::text::listed;
use secateur_model::{DType, Error, Graph, Model, Node, Result, TensorId};
use secateur_runtime::running_statistics;

use super::Masks;
use crate::prune::select::any_of;
use crate::prune::units::Units;
use crate::prune::{ChannelAxis, Mask, Subject};

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

/// The inputs of operators that are parameters by their meaning.
fn parameters(node: &Node) -> &'static [usize] {
    match (node.domain.as_str(), node.op_type.as_str()) {
        ("", "Conv" | "ConvTranspose" | "Gemm") => &[1, 2],
        (
            "",
            "BatchNormalization" | "InstanceNormalization" | "GroupNormalization" | "LayerNormalization",
        ) => &[1, 2],
        ("", "RMSNormalization" | "PRelu") => &[1],
        _ => &[],
    }
}

fn owned(graph: &Graph) -> impl Iterator<Item = TensorId> + '_ {
    graph.nodes.iter().flat_map(|node| {
        let inputs = parameters(node).iter().filter_map(|&i| node.inputs.get(i).copied().flatten());
        inputs.filter_map(|id| graph.constants.get(&id).copied())
    })
}

/// The value that a loss is computed from: the model's output, or what goes into the softmax that computes it.
pub(super) fn logits(graph: &Graph, output: Option<&str>) -> Result<String> {
    let names: Vec<&str> = graph.outputs.iter().map(|&id| graph.value_name(id)).collect();
    let at = match output {
        None => 0,
        Some(name) => names.iter().position(|own| *own == name).ok_or_else(|| {
            Error::usage(format!("the model has no output `{name}`; it has {}", listed(&names)))
        })?,
    };
    let mut value = *graph.outputs.get(at).ok_or_else(|| Error::input("the model has no outputs"))?;
    let producers = graph.producers();
    let mut found = false;
    while let Some(producer) = producers.get(value.index()).copied().flatten() {
        let node = &graph.nodes[producer.0 as usize];
        let passes = match node.op_type.as_str() {
            "Softmax" | "LogSoftmax" if !found => {
                found = true;
                true
            }
            "Identity" => true,
            _ => false,
        };
        match node.inputs.first().copied().flatten() {
            Some(input) if passes && node.domain.is_empty() => value = input,
            _ => break,
        }
    }
    Ok(graph.value_name(value).to_string())
}

/// The masks that hold in training: those that are given; of other weights that train, what is zero; and of biases and
/// batch-norms, what is zero in output channels without weights. A table of constants has no mask of its zeros.
///
/// # Errors
/// Where a tensor cannot be read.
pub fn held(subject: &Subject<'_>, given: &Masks, variables: &[TensorId]) -> Result<Masks> {
    let model = subject.model;
    let mut masks = given.clone();
    let is_table = |entry: &&Entry| entry.reason().is_some_and(|reason| reason.kind == ReasonKind::Table);
    let weights = subject.entries()?.iter().filter(|entry| !is_table(entry)).filter_map(Entry::view);
    let mut companions: BTreeMap<TensorId, Mask> = BTreeMap::new();
    for view in weights.filter(|view| variables.contains(&view.tensor)) {
        let stored = model.tensor(view.tensor);
        let mask = match masks.get(&view.tensor) {
            Some(given) => given.clone(),
            None => {
                let values = stored.load()?.to_f32s()?;
                if !values.contains(&0.0) {
                    continue;
                }
                let zeros = Arc::new(Mask::from_fn(values.len(), |i| values[i] != 0.0));
                masks.insert(view.tensor, zeros.clone());
                zeros
            }
        };
        // Channels that cannot be told apart were not pruned as such.
        let Ok(units) = ChannelAxis::Out.units(view, &stored.shape) else { continue };
        let Some(channels) = emptied(&units, &mask) else { continue };
        for companion in view.bias.iter().chain(&view.followers).filter(|companion| companion.exclusive) {
            let id = companion.tensor;
            let values = model.tensor(id).load()?.to_f32s()?;
            if variables.contains(&id) && values.len() == channels.len() {
                let mask = Mask::from_fn(values.len(), |i| channels.keeps(i) || values[i] != 0.0);
                let mask = companions.get(&id).map_or(Ok(mask.clone()), |known| known.and(&mask))?;
                companions.insert(id, mask);
            }
        }
    }
    for (id, mask) in companions.into_iter().filter(|(_, mask)| mask.pruned() > 0) {
        let both = masks.get(&id).map_or(Ok(mask.clone()), |given| given.and(&mask))?;
        masks.insert(id, Arc::new(both));
    }
    Ok(masks)
}

/// The mask of the channels that have weights left; `None` where all have.
fn emptied(units: &Units, weights: &Mask) -> Option<Mask> {
    let mut kept = vec![false; units.count()];
    units.for_each_run(|start, len, first, step| {
        (0..len).filter(|i| weights.keeps(start + i)).for_each(|i| kept[first + i * step] = true);
    });
    kept.contains(&false).then(|| Mask::from_fn(kept.len(), |i| kept[i]))
}
