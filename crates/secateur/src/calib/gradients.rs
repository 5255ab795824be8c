//! Gradients of the loss over calibration data, summed up as criteria need them.

use std::collections::BTreeMap;
use std::sync::Arc;

use rayon::prelude::*;
use secateur_model::prunable::{CompanionKind, PrunableView};
use secateur_model::{Error, Model, NodeId, Patch, Result, ResultExt, TensorId};
use secateur_runtime::{Limits, Tape, TapeOptions};

use super::{CalibrateOptions, batches};
use crate::data::{Batch, Batches, logits};
use crate::progress::Progress;
use crate::prune::patterns::Division;
use crate::prune::units::Units;
use crate::prune::{ChannelAxis, Pattern};

/// What is summed up for each layer.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    /// Σg over all samples.
    pub(super) sums: bool,
    /// E[g²] over the samples.
    pub(super) squares: bool,
    /// E[(Σ g·w)²] over the samples, of the weights or units of these patterns.
    pub(super) saliency: Vec<Pattern>,
}

impl Wanted {
    pub(super) fn is_empty(&self) -> bool {
        !self.sums && !self.squares && self.saliency.is_empty()
    }

    /// Whether gradients of single samples are needed.
    fn by_sample(&self) -> bool {
        self.squares || !self.saliency.is_empty()
    }
}

/// The sums of a layer.
pub(super) struct Layer {
    pub(super) tensor: TensorId,
    pub(super) sums: Option<Vec<f64>>,
    pub(super) squares: Option<Vec<f64>>,
    pub(super) saliency: Vec<Saliency>,
}

/// E[(Σ g·w)²] of what a pattern ranks.
pub(super) struct Saliency {
    pub(super) pattern: Pattern,
    terms: Terms,
    pub(super) sums: Vec<f64>,
}

/// The products g·w that one number is the sum of.
enum Terms {
    /// That of the weight alone.
    Weight,
    /// Those of the unit's weights, and of the bias of an output channel.
    Unit(Units, Option<TensorId>),
    /// Of an output channel those of the factors and addends of the batch-norms behind it.
    Norms(Vec<TensorId>),
}

impl Terms {
    fn of(view: &PrunableView, shape: &[usize], pattern: Pattern, model: &Model) -> Result<Self> {
        let Division::Units(units) = pattern.divide(view, shape)? else { return Ok(Terms::Weight) };
        if pattern != Pattern::Channel(ChannelAxis::Out) {
            return Ok(Terms::Unit(units, None));
        }
        let own = |id: &TensorId| model.tensor(*id).len() == units.count();
        let norms = view.followers.iter().filter(|companion| companion.exclusive);
        let norms = norms.filter(|companion| companion.kind != CompanionKind::Bias);
        let norms: Vec<TensorId> = norms.map(|companion| companion.tensor).filter(own).collect();
        let bias = view.bias.as_ref().filter(|bias| bias.exclusive).map(|bias| bias.tensor).filter(own);
        Ok(if norms.is_empty() { Terms::Unit(units, bias) } else { Terms::Norms(norms) })
    }

    /// The tensors besides the weight whose gradients are needed.
    fn others(&self) -> impl Iterator<Item = TensorId> + '_ {
        let (one, several) = match self {
            Terms::Weight => (None, &[][..]),
            Terms::Unit(_, bias) => (*bias, &[][..]),
            Terms::Norms(norms) => (None, &norms[..]),
        };
        one.into_iter().chain(several.iter().copied())
    }

    /// How many numbers there are.
    fn count(&self, weight: usize, model: &Model) -> usize {
        match self {
            Terms::Weight => weight,
            Terms::Unit(units, _) => units.count(),
            Terms::Norms(norms) => norms.first().map_or(0, |id| model.tensor(*id).len()),
        }
    }

    /// Adds the squares of one sample. `product` gives values and gradients of a tensor.
    fn add(&self, weight: TensorId, sums: &mut [f64], of: &Known<'_>) {
        let product = |(values, gradients): (Values<'_>, Values<'_>), i: usize| {
            f64::from(values[i]) * f64::from(gradients[i])
        };
        let mut found = vec![0.0; if matches!(self, Terms::Weight) { 0 } else { sums.len() }];
        match self {
            Terms::Weight => {
                if let Some(both) = of(weight) {
                    sums.iter_mut().enumerate().for_each(|(i, sum)| *sum += product(both, i).powi(2));
                }
                return;
            }
            Terms::Unit(units, _) => {
                if let Some(both) = of(weight) {
                    units.for_each_run(|start, len, first, step| {
                        (0..len).for_each(|i| found[first + i * step] += product(both, start + i));
                    });
                }
            }
            Terms::Norms(_) => {}
        }
        for both in self.others().filter_map(of) {
            found.iter_mut().enumerate().for_each(|(i, sum)| *sum += product(both, i));
        }
        sums.iter_mut().zip(&found).for_each(|(sum, found)| *sum += found * found);
    }
}

type Values<'a> = &'a [f32];

/// The values and gradients of tensors.
type Known<'a> = dyn Fn(TensorId) -> Option<(Values<'a>, Values<'a>)> + Sync + 'a;

/// The gradients of layers of a model in f32, at inference: batch-norms use their running statistics, dropout drops nothing.
/// One step of progress is a run.
///
/// # Errors
/// `Usage` where the data have no labels, or a layer is in a nested graph; `Unsupported` where gradients do not go through a
/// node; those of runs.
pub(super) fn gradients(
    model: &Arc<Model>,
    views: &[PrunableView],
    wanted: &Wanted,
    options: &CalibrateOptions,
    progress: &dyn Progress,
) -> Result<Vec<Layer>> {
    let mut layers = views.iter().map(|view| layer(model, view, wanted)).collect::<Result<Vec<_>>>()?;
    let others = layers.iter().flat_map(|l| l.saliency.iter().flat_map(|s| s.terms.others()));
    let mut variables: Vec<TensorId> = layers.iter().map(|layer| layer.tensor).chain(others).collect();
    variables.sort_unstable();
    variables.dedup();
    let model = Arc::new(without_dropout(model)?);
    let output = logits(model.graph()?, options.output.as_deref())?;
    let places: BTreeMap<TensorId, usize> = variables.iter().copied().zip(0..).collect();
    let tape = TapeOptions { variables, output: Some(output), freeze_norms: true, seed: 0 };
    let mut tape =
        Tape::new(&model, &Patch::new(), &tape)?.within(options.limits.unwrap_or_else(Limits::of_machine));
    let batches = batches(&model, &options.data).at(|| "the calibration data")?;
    check_labels(&batches)?;
    let by_sample = wanted.by_sample();
    let runs = if by_sample { batches.samples() } else { batches.len() };
    progress.begin("gathering gradients", runs as u64);
    for batch in &batches {
        let batch = batch?;
        let parts = if by_sample { batches.singly(&batch)? } else { vec![batch] };
        for part in parts {
            tape.clear();
            let output = tape.forward(part.tensors(tape.inputs()), 0)?;
            let gradient = options.loss.evaluate(&output, &part, None)?.gradient;
            drop(output);
            tape.backward(gradient)?;
            add(&mut layers, &tape, &places, &part)?;
            progress.advance(1);
        }
    }
    let samples = batches.samples() as f64;
    for layer in &mut layers {
        let means = layer.squares.iter_mut().chain(layer.saliency.iter_mut().map(|s| &mut s.sums));
        means.flatten().for_each(|sum| *sum /= samples);
    }
    Ok(layers)
}

/// # Errors
/// `Usage` where data to take gradients on have no labels.
pub(super) fn check_labels(batches: &Batches) -> Result<()> {
    if batches.has_labels()? {
        return Ok(());
    }
    Err(Error::usage("the calibration data have no labels, and gradients are those of the loss"))
}

fn layer(model: &Model, view: &PrunableView, wanted: &Wanted) -> Result<Layer> {
    let stored = model.tensor(view.tensor);
    let of = |&pattern: &Pattern| {
        let terms = Terms::of(view, &stored.shape, pattern, model).at_tensor(&stored.path)?;
        let sums = vec![0.0; terms.count(stored.len(), model)];
        Ok(Saliency { pattern, terms, sums })
    };
    if !model.graph()?.constants.values().any(|id| *id == view.tensor) {
        let message =
            "is in a nested graph, which gradients do not reach: leave it out with option `exclude`";
        return Err(Error::usage(message).at_tensor(&stored.path));
    }
    let zeros = || vec![0.0; stored.len()];
    Ok(Layer {
        tensor: view.tensor,
        sums: wanted.sums.then(zeros),
        squares: wanted.squares.then(zeros),
        saliency: wanted.saliency.iter().map(of).collect::<Result<_>>()?,
    })
}

/// Adds the gradients of one run, the mean over its samples.
fn add(layers: &mut [Layer], tape: &Tape, places: &BTreeMap<TensorId, usize>, part: &Batch) -> Result<()> {
    let samples = part.indices.len() as f64;
    // Where the loss does not depend on a tensor it has no gradient: it adds nothing.
    let mut found: BTreeMap<TensorId, (Values<'_>, Values<'_>)> = BTreeMap::new();
    for (&id, &place) in places {
        if let Some(gradient) = tape.gradient(place)? {
            found.insert(id, (tape.values(place)?, gradient));
        }
    }
    let of = |id: TensorId| found.get(&id).copied();
    layers.par_iter_mut().for_each(|layer| {
        if let Some((_, gradient)) = of(layer.tensor) {
            let gradient = || gradient.iter().map(|&g| f64::from(g));
            let sums = layer.sums.iter_mut().flatten();
            sums.zip(gradient()).for_each(|(sum, g)| *sum += samples * g);
            let squares = layer.squares.iter_mut().flatten();
            squares.zip(gradient()).for_each(|(sum, g)| *sum += g * g);
        }
        for Saliency { terms, sums, .. } in &mut layer.saliency {
            terms.add(layer.tensor, sums, &of);
        }
    });
    Ok(())
}

/// The model with dropout that drops nothing.
fn without_dropout(model: &Model) -> Result<Model> {
    let mut patch = Patch::by("calibration");
    for (at, node) in (0..).zip(&model.graph()?.nodes) {
        if node.op_type == "Dropout" && node.domain.is_empty() && node.outputs.iter().flatten().count() == 1 {
            patch.replace_node(NodeId(at), [super::identity(node)]);
        }
    }
    if patch.changes_graph() { patch.apply(model) } else { Ok(model.clone()) }
}
