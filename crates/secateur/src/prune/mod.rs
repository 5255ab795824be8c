//! Pruning: from a model and options to masks, and from masks to a patch of the model.

pub mod allocation;
mod amount;
pub mod coverage;
pub mod criteria;
pub mod evidence;
pub mod groups;
mod held;
mod layer;
pub mod masks;
pub mod method;
mod options;
pub mod patterns;
mod pruning;
pub mod ranking;
pub mod registry;
mod scope;
pub mod select;
mod solve;
pub mod solvers;
pub(crate) mod subject;
pub mod units;
pub mod weights;

use std::collections::BTreeMap;
use std::sync::Arc;

use rayon::prelude::*;
use secateur_model::ops::AxisRole;
use secateur_model::prunable::{Companion, Entry, PrunableView, ReasonKind};
use secateur_model::text::listed;
use secateur_model::{Model, Result, ResultExt, TensorId};

use allocation::Place;
use evidence::EvidenceSet;
use layer::Layer;
use ranking::sets::{self, Ranked};
use select::NameGlob;

pub use allocation::{ALLOCATIONS, Allocation};
pub use amount::Amount;
pub use held::held;
pub use masks::Mask;
pub use method::Method;
pub use options::{Override, PruneOptions};
pub use patterns::{Block, ChannelAxis, NofM, PATTERNS, Pattern};
pub(crate) use pruning::masked;
pub use pruning::{Channels, LayerSummary, Pruning};
pub use registry::Registry;
pub use scope::Scope;
pub use subject::Subject;

/// The masks of tensors.
pub type MaskMap = BTreeMap<TensorId, Arc<Mask>>;

/// Finds what to prune.
///
/// # Errors
/// `Usage` where the options have no meaning for the model, `Input` where a selected weight is NaN.
pub fn plan(model: &Model, options: &PruneOptions) -> Result<Pruning> {
    plan_from(model, options, &BTreeMap::new())
}

/// Finds what to prune where masks prune weights already: those weights are zeros, whatever the
/// model stores, and the new masks prune them too. Masks of tensors that are not selected have no
/// effect.
///
/// # Errors
/// As [`plan`]; `Input` where a mask is not as long as its tensor.
pub fn plan_from(
    model: &Model,
    options: &PruneOptions,
    base: &BTreeMap<TensorId, Arc<Mask>>,
) -> Result<Pruning> {
    plan_on(&Subject::of(model), options, base)
}

/// As [`plan_from`], of a model that was analysed before: once for many plans.
///
/// # Errors
/// As [`plan_from`].
pub fn plan_on(
    subject: &Subject<'_>,
    options: &PruneOptions,
    base: &BTreeMap<TensorId, Arc<Mask>>,
) -> Result<Pruning> {
    plan_with(subject, options, base, &EvidenceSet::gather([options])?)
}

/// As [`plan_on`], with evidence that was gathered before: once for many plans, or by the caller.
///
/// # Errors
/// As [`plan_on`]; `Usage` where the method needs evidence that is not there.
pub fn plan_with(
    subject: &Subject<'_>,
    options: &PruneOptions,
    base: &BTreeMap<TensorId, Arc<Mask>>,
    evidence: &EvidenceSet,
) -> Result<Pruning> {
    options.check()?;
    evidence.check(&options.method)?;
    let (model, entries) = (subject.model, options.entries(subject)?);
    let selected = options.selector.select(model, entries)?;
    // Layers are ranked together, so those that are packed are expanded together.
    let model = &*model.with_dense(selected.iter().map(|view| view.tensor));
    let overrides: Vec<(NameGlob, f64)> = options
        .overrides
        .iter()
        .map(|o| {
            Amount::Sparsity(o.sparsity).check().at(|| format!("override `{}`", o.name))?;
            // What stays dense anyway may be said to.
            let dense = entries.iter().filter(|_| o.sparsity == 0.0).filter_map(Entry::view);
            let named: Vec<PrunableView> = selected.iter().chain(dense).cloned().collect();
            Ok((NameGlob::new(&o.name, &named, model, entries)?, o.sparsity))
        })
        .collect::<Result<_>>()?;
    let places = Places::of(model, entries);
    let layers = selected
        .into_par_iter()
        .map(|view| {
            let own = overrides.iter().rev().find(|(glob, _)| glob.matches(&view, model));
            let own = own.map(|&(_, sparsity)| Amount::Sparsity(sparsity));
            let base = base.get(&view.tensor).map(|mask| &**mask);
            let place = places.place(&view);
            Layer::new(model, view, base, options.method.pattern, own, place)
        })
        .collect::<Result<Vec<_>>>()?;
    let mut ranked = sets::rank(&layers, options, evidence)?;
    let values = solve::solve(&layers, &mut ranked.layers, options, evidence)?;
    let mut pruning = summarise(model, options, layers, ranked, base)?;
    pruning.values = values;
    Ok(pruning)
}

/// Which of a model's weights allocations treat apart, selected or not.
struct Places {
    first_convolution: Option<TensorId>,
    last: Option<TensorId>,
}

impl Places {
    /// The weights in the order of their nodes; of nested graphs, or where there is no graph, in the
    /// model's order behind them.
    fn of(model: &Model, entries: &[Entry]) -> Self {
        let nodes = model.graph.iter().flat_map(|graph| &graph.nodes);
        let order: BTreeMap<&str, usize> = nodes.enumerate().map(|(i, node)| (node.label(), i)).collect();
        let is_layer = |entry: &&Entry| entry.reason().is_none_or(|r| r.kind != ReasonKind::Table);
        let mut views: Vec<&PrunableView> = entries.iter().filter(is_layer).filter_map(Entry::view).collect();
        views.sort_by_key(|view| order.get(view.node.as_str()).copied().unwrap_or(usize::MAX));
        let is_convolution = |view: &&&PrunableView| view.roles.contains(&AxisRole::Spatial);
        Places {
            first_convolution: views.iter().find(is_convolution).map(|view| view.tensor),
            last: views.last().map(|view| view.tensor),
        }
    }

    fn place(&self, view: &PrunableView) -> Place {
        match Some(view.tensor) {
            tensor if tensor == self.first_convolution => Place::FirstConvolution,
            tensor if tensor == self.last => Place::Last,
            _ => Place::Middle,
        }
    }
}

/// Turns masks of channels into masks of weights, masks their companions and sums up.
fn summarise(
    model: &Model,
    options: &PruneOptions,
    layers: Vec<Layer<'_>>,
    ranked: Ranked,
    base: &BTreeMap<TensorId, Arc<Mask>>,
) -> Result<Pruning> {
    let mut pruning = Pruning::default();
    let mut companions: BTreeMap<TensorId, Mask> = BTreeMap::new();
    let mut exceeded = Vec::new();
    for ((layer, pruned), more) in layers.into_iter().zip(ranked.layers).zip(ranked.exceeded) {
        if more {
            exceeded.push(layer.stored.path.as_str());
        }
        let mut summary = LayerSummary {
            tensor: layer.stored.path.clone(),
            node: layer.view.node.clone(),
            op_type: layer.view.op_type.clone(),
            module: layer.view.module.clone(),
            shape: layer.stored.shape.clone(),
            size: layer.weights.len(),
            zeros_before: layer.zeros_before,
            pruned_before: layer.pruned_before,
            zeros_after: pruned.zeros,
            channels: None,
            companions: Vec::new(),
        };
        let channels = pruned.units.filter(|_| matches!(options.method.pattern, Pattern::Channel(_)));
        if let Some(mask) = channels {
            summary.channels = Some(Channels { size: mask.len(), pruned: mask.pruned() });
            let outputs = options.method.pattern.prunes_outputs(&layer.view);
            if outputs && !options.weights_only && !more && mask.pruned() > 0 {
                for companion in layer.view.bias.iter().chain(&layer.view.followers) {
                    if let Some(why) = obstacle(model, companion, &mask) {
                        pruning.notes.push(why);
                        continue;
                    }
                    summary.companions.push(model.tensor(companion.tensor).path.clone());
                    let so_far = companions.remove(&companion.tensor);
                    let both = so_far.map_or(Ok(mask.clone()), |m| m.and(&mask))?;
                    companions.insert(companion.tensor, both);
                }
            }
        }
        pruning.masks.push((layer.view.tensor, pruned.mask));
        pruning.layers.push(summary);
    }
    if !exceeded.is_empty() {
        pruning.notes.push(format!(
            "more zeros than asked for are there already, and nothing is revived: {}",
            listed(&exceeded)
        ));
    }
    // What a companion's own mask prunes stays pruned.
    let joined = companions.into_iter().map(|(id, mask)| {
        let mask = base.get(&id).map_or(Ok(mask.clone()), |own| own.and(&mask))?;
        Ok((id, Arc::new(mask)))
    });
    pruning.companions = joined.collect::<Result<_>>()?;
    Ok(pruning)
}

/// Why a companion's channels cannot be pruned with the weight's.
fn obstacle(model: &Model, companion: &Companion, channels: &Mask) -> Option<String> {
    let stored = model.tensor(companion.tensor);
    let why = if !companion.exclusive {
        "is used in other places too"
    } else if !stored.dtype.is_prunable() || stored.len() != channels.len() {
        "does not hold one number a channel"
    } else {
        return None;
    };
    Some(format!("`{}` of node `{}` {why}: it stays as it is", stored.path, companion.node))
}
