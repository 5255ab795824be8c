//! A checkpoint and the graph of the same network, brought together: a checkpoint says nothing of what
//! its tensors do, an ONNX file of the network says it, with weights of its own.
//!
//! Each weight of the graph finds its partner by name; where the exporter computed with it and so lost
//! the name (it turns the weights of products and folds batch-norms into the layers before them), by
//! the module it recorded, by values, and by order. The graph then takes the checkpoint's tensors as
//! they are stored, through `Cast`, `Reshape` and `Transpose` where needed, and folded batch-norms
//! stand in it again: what is pruned and measured is the checkpoint.

mod fold;
mod matching;
mod merged;
mod names;
mod rewire;
mod siblings;
mod values;
mod whole;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use self::fold::Fold;
use self::matching::Matching;
use self::names::Paths;
use self::whole::Whole;
use crate::prunable::walk::{self, UseRole};
use crate::prunable::{self, ReasonKind, Status};
use crate::text::{counted, listed};
use crate::{Error, ErrorKind, Model, Result, TensorId};

/// Problems that a message lists.
const SHOWN: usize = 20;
/// Elements from which on a constant that stays the graph's own is worth a note.
const NOTABLE: usize = 64;

/// A checkpoint with a graph.
#[derive(Clone, Debug)]
pub struct Paired {
    /// The checkpoint: its tensors under their paths and ids, its file; with the graph, and behind its
    /// own tensors the weights that it holds in parts (see [`StoredTensor::parts`](crate::StoredTensor::parts))
    /// and those that only the graph has, such as constants of shape arithmetic. Written, it is the
    /// checkpoint without these; where a weight in parts is changed, with all such weights in their parts' place.
    pub model: Model,
    /// Constants of the graph that are tensors of the checkpoint.
    pub matched: usize,
    /// Batch-norms that were folded in the graph's file and stand as nodes again.
    pub unfolded: usize,
    /// What is worth knowing: what was guessed, what of the checkpoint the graph does not use, what
    /// the graph keeps of its own.
    pub notes: Vec<String>,
}

/// Brings a checkpoint together with the ONNX model of the same network. `left_out` tells by their paths tensors that
/// the graph need not have, such as those of a head that is there for training alone.
///
/// # Errors
/// `Usage` where the first is no checkpoint or the second has no graph; `Input` where weights of the
/// graph have no partner in the checkpoint or one of another shape, or float tensors of the checkpoint that are not left
/// out have no place in the graph: all are named; `Unsupported` where weights are parametrised in a way that
/// cannot be computed, and where the graph has recurrent operators, which stack and reorder a checkpoint's tensors.
pub fn pair(checkpoint: &Model, onnx: &Model, left_out: &dyn Fn(&str) -> bool) -> Result<Paired> {
    if checkpoint.graph.is_some() {
        let message =
            "the model has a graph of its own: give a graph to checkpoints (safetensors, PyTorch) only";
        return Err(at(Error::usage(message), checkpoint));
    }
    if onnx.graph.is_none() {
        let message = "expected an ONNX model for the graph, found weights only";
        return Err(at(Error::usage(message), onnx));
    }
    let names = names_of(onnx);
    let whole = Whole::new(checkpoint, onnx, &names)?;
    let checkpoint = &whole.model;
    // What stands under several paths is the first of them.
    let mut first: HashMap<TensorId, TensorId> = HashMap::new();
    for group in checkpoint.aliases() {
        first.extend(group[1..].iter().map(|&id| (id, group[0])));
    }
    let mut own = Vec::new();
    let mut layers = HashMap::new();
    for entry in prunable::view(checkpoint)? {
        if whole.parts.contains(&entry.tensor) {
            continue;
        }
        match entry.status {
            Status::Fixed(reason)
                if matches!(reason.kind, ReasonKind::Unused | ReasonKind::Copy | ReasonKind::Mask) =>
            {
                continue;
            }
            Status::Fixed(_) => {}
            Status::Prunable(view) | Status::LeftDense(view, _) => drop(layers.insert(entry.tensor, *view)),
        }
        let tensor = first.get(&entry.tensor).copied().unwrap_or(entry.tensor);
        own.push((tensor, checkpoint.tensor(entry.tensor).path.as_str()));
    }
    let candidates: Vec<TensorId> =
        own.iter().map(|&(id, _)| id).collect::<BTreeSet<_>>().into_iter().collect();
    let paths = Paths::new(own.into_iter(), &names);
    let onnx = &merged::apart(onnx, checkpoint, &paths)?;
    let graph = onnx.graph()?;
    let uses = walk::uses(onnx, graph)?;
    let mut matching = Matching {
        checkpoint,
        onnx,
        uses: &uses,
        paths: &paths,
        layers: &layers,
        candidates: &candidates,
        bound: BTreeMap::new(),
        misfits: BTreeMap::new(),
        notes: Vec::new(),
    };
    matching.run()?;
    let folds = fold::find(&matching)?;
    let unused = check(&matching, &folds, &whole, left_out)?;
    let mut notes = std::mem::take(&mut matching.notes);
    notes.extend(notes_of(&matching, &folds, &whole));
    if !unused.is_empty() {
        let unused: Vec<String> = unused.iter().map(|path| format!("`{path}`")).collect();
        let count = counted(unused.len(), "tensor");
        notes.push(format!("the graph does not use {count} of the checkpoint: {}", listed(&unused)));
    }
    let model = rewire::build(checkpoint, onnx, &matching.bound, &folds)?;
    Ok(Paired { model, matched: matching.bound.len(), unfolded: folds.len(), notes })
}

/// The names of the graph's tensors, and those that weights of its modules would have.
fn names_of(onnx: &Model) -> BTreeSet<String> {
    let nodes = onnx.graph.iter().flat_map(|graph| &graph.nodes);
    let modules = nodes.filter(|n| !n.module.is_empty()).map(|n| format!("{}.weight", n.module));
    onnx.tensors.keys().cloned().chain(modules).collect()
}

/// Refuses what does not fit together; gives what the graph does not use and may leave out.
fn check(
    matching: &Matching<'_>,
    folds: &[Fold],
    whole: &Whole,
    left_out: &dyn Fn(&str) -> bool,
) -> Result<Vec<String>> {
    let onnx = matching.onnx;
    let folded: BTreeSet<TensorId> = folds.iter().map(|f| f.bias).collect();
    let unmatched = matching.unmatched(&folded)?;
    let used = |id: TensorId| &matching.uses[id.0 as usize][0];
    let recurrent = |id: &&TensorId| matches!(used(**id).op_type.as_str(), "LSTM" | "GRU" | "RNN");
    if let Some(&id) = unmatched.iter().find(recurrent) {
        let message = format!(
            "node `{}` ({}): the graph stacks and reorders a recurrent layer's weights (`{}`), so they cannot be \
             brought together with a checkpoint's; work on the ONNX file itself",
            used(id).node,
            used(id).op_type,
            onnx.tensor(id).path
        );
        return Err(at(Error::unsupported(message), onnx));
    }
    let mut problems = Vec::new();
    for (&id, text) in &matching.misfits {
        let place = format!("`{}` of node `{}` ({})", onnx.tensor(id).path, used(id).node, used(id).op_type);
        problems.push(format!("{place}: {} in the graph, but {text}", matching::shape(onnx.tensor(id))));
    }
    for id in unmatched {
        let stored = onnx.tensor(id);
        let what = match &used(id).role {
            UseRole::Weight(_) => "weight",
            UseRole::Bias => "bias",
            _ => "parameter",
        };
        problems.push(format!(
            "{what} `{}` ({}) of node `{}` ({}) has no partner in the checkpoint",
            stored.path,
            matching::shape(stored),
            used(id).node,
            used(id).op_type
        ));
    }
    if !problems.is_empty() && !whole.refused.is_empty() {
        let message = format!(
            "weights of the checkpoint are parametrised, and cannot be computed from their parts:\n  {}\nremove the \
             parametrisation in PyTorch (`torch.nn.utils.parametrize.remove_parametrizations`, `remove_weight_norm`, \
             `remove_spectral_norm`; peft's `merge_and_unload`) and save the state dict",
            lines(whole.refused.clone())
        );
        return Err(at(Error::unsupported(message), matching.checkpoint));
    }
    problems.extend(lost_biases(matching)?);
    let unused = siblings::unused(matching, &taken(matching, folds))?;
    problems.extend(unused.siblings);
    let (left_out, lost): (Vec<String>, Vec<String>) =
        unused.others.into_iter().partition(|path| left_out(path));
    let way_out = match lost.is_empty() {
        true => "",
        false => {
            "; what inference does not need, such as the head of an auxiliary loss, can be left out with option \
             `unused`"
        }
    };
    let place = |path| format!("`{path}` of the checkpoint has no place in the graph");
    problems.extend(lost.into_iter().map(place));
    if problems.is_empty() {
        return Ok(left_out);
    }
    let message = format!(
        "the graph is not that of the checkpoint{}:\n  {}\nexport the graph from the network that the checkpoint \
         belongs to{way_out}",
        matching.checkpoint.path.as_ref().map(|p| format!(" `{}`", p.display())).unwrap_or_default(),
        lines(problems)
    );
    Err(at(Error::new(ErrorKind::Input, message), onnx))
}

/// Problems one below the other.
fn lines(mut problems: Vec<String>) -> String {
    let more = problems.len().saturating_sub(SHOWN);
    problems.truncate(SHOWN);
    if more > 0 {
        problems.push(format!("and {more} more"));
    }
    problems.join("\n  ")
}

/// The tensors of the checkpoint that the graph uses.
fn taken(matching: &Matching<'_>, folds: &[Fold]) -> BTreeSet<TensorId> {
    let mut taken: BTreeSet<TensorId> = matching.bound.values().map(|b| b.tensor).collect();
    for norm in folds.iter().map(|f| &f.norm) {
        taken.extend([norm.mean, norm.var]);
        taken.extend(norm.weight.iter().chain(&norm.bias));
    }
    taken
}

/// Biases that the exporter dropped for being zero then, and that are not any more.
fn lost_biases(matching: &Matching<'_>) -> Result<Vec<String>> {
    let taken: BTreeSet<TensorId> = matching.bound.values().map(|b| b.tensor).collect();
    let mut lost = Vec::new();
    for bias in taken.iter().filter_map(|id| matching.layers.get(id)?.bias.as_ref()) {
        let stored = matching.checkpoint.tensor(bias.tensor);
        if !taken.contains(&bias.tensor) && stored.load()?.to_f32s()?.iter().any(|&v| v != 0.0) {
            lost.push(format!(
                "bias `{}` ({}) of the checkpoint has no place in the graph, where `{}` has none",
                stored.path,
                matching::shape(stored),
                bias.node
            ));
        }
    }
    Ok(lost)
}

/// What a person should know of how the two were brought together.
fn notes_of(matching: &Matching<'_>, folds: &[Fold], whole: &Whole) -> Vec<String> {
    let mut notes = Vec::new();
    let taken = taken(matching, folds);
    let mut computed: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (id, by) in whole.computed.iter().filter(|(id, _)| taken.contains(id)) {
        computed.entry(by).or_default().push(format!("`{}`", matching.checkpoint.tensor(*id).path));
    }
    for (by, paths) in computed {
        notes.push(format!(
            "{by}: {} computed from parts: {}",
            counted(paths.len(), "tensor"),
            listed(&paths)
        ));
    }
    let guessed: Vec<String> = folds
        .iter()
        .filter(|f| !f.certain)
        .map(|f| format!("`{}` behind `{}`", f.norm.module, f.node))
        .collect();
    if !guessed.is_empty() {
        notes.push(format!(
            "folded batch-norms told by name, with the usual epsilon of 1e-5, as the values differ: {}",
            listed(&guessed)
        ));
    }
    let own: Vec<String> = (0..)
        .map(TensorId)
        .zip(matching.onnx.tensors.values())
        .filter(|(id, t)| t.dtype.is_prunable() && t.len() >= NOTABLE && !matching.bound.contains_key(id))
        .filter(|(id, _)| !matching.uses[id.0 as usize].is_empty() && !folds.iter().any(|f| f.bias == *id))
        .map(|(_, t)| format!("`{}`", t.path))
        .collect();
    if !own.is_empty() {
        notes.push(format!(
            "{} from the graph's file, not in the checkpoint: {}",
            counted(own.len(), "tensor"),
            listed(&own)
        ));
    }
    notes
}

/// Adds the file of a model to an error.
fn at(error: Error, model: &Model) -> Error {
    match &model.path {
        Some(path) => error.at_file(path),
        None => error,
    }
}
