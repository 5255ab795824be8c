//! Layout: where kernels on tiles pay, values are kept in tiles.
//!
//! Sparse kernels want the pixels of a few rows of a channel side by side, or the values of one feature of many
//! tokens ([`Tiling`](secateur_kernels::tiled)); everything else runs on plain row-major tensors. This pass finds
//! what can run on tiles ([`TileCandidate`]; one file for each kind), weighs the time that saves against the time of
//! converting values into tiles and back ([`choose`]), builds the kernels and adds the conversions ([`layout`]).
//! The decision follows from the weights and a table of [`Costs`] alone, so that results depend neither on the
//! machine's load nor on the number of threads.

use std::sync::Arc;

mod calibrate;
mod choose;
mod conv;
mod elementwise;
mod layout;
mod linear;
mod norm;
mod pooling;

use secateur_kernels::Activation;
use secateur_kernels::sparse::Form;
use secateur_model::ops::{Fact, Facts};
use secateur_model::{DType, Result, ValueId};

pub use calibrate::Probe;
pub(crate) use layout::Tiles;

use crate::costs::{Costs, Counts};
use crate::item::{Choices, Item};
use crate::kernels::{Choice, Kernel};
use crate::weights::Weights;
use layout::TileLayout;

/// An item that can run on tiles.
struct TileCandidate {
    /// The inputs that are tiles then; the kernel keeps the others packed.
    operands: Vec<ValueId>,
    estimate: Estimate,
    /// Has no weights of its own: they are loaded for the estimate, and again for the kernel.
    lower: Box<dyn Lower>,
}

/// How long an item takes on tensors and on tiles, in nanoseconds; both are 0 where the two do not differ.
#[derive(Clone, Copy, Debug, Default)]
struct Estimate {
    tensors: f64,
    tiles: f64,
}

impl Estimate {
    /// With what both forms take besides.
    fn plus(self, time: f64) -> Estimate {
        Estimate { tensors: self.tensors + time, tiles: self.tiles + time }
    }

    /// For so many samples.
    fn times(self, samples: usize) -> Estimate {
        Estimate { tensors: samples as f64 * self.tensors, tiles: samples as f64 * self.tiles }
    }

    /// What it takes on tiles or on tensors, where that is known.
    fn on(&self, tiles: bool) -> Option<f64> {
        Some(if tiles { self.tiles } else { self.tensors }).filter(|time| *time > 0.0)
    }

    /// What is saved on tiles; negative where tensors are better.
    fn saving(&self) -> f64 {
        self.tensors - self.tiles
    }
}

/// Builds the kernel of a candidate.
trait Lower {
    /// The form of its weights, where it has any.
    fn form(&self) -> Option<Form> {
        None
    }

    /// The kernel for operands of these tiles, and the tiles of its result; the activation is fused into it.
    fn lower(
        &self,
        operands: &[Tiles],
        act: Activation,
        weights: &Weights,
    ) -> Result<(Arc<dyn Kernel>, Tiles)>;
}

/// Tells whether and how an item can run on tiles.
type Find = fn(&TileQuery<'_>) -> Result<Option<TileCandidate>>;

/// Every kind of candidate, by operator; other operators may be activations.
const FAMILIES: &[(&str, Find)] = &[
    ("Conv", conv::candidate),
    ("MatMul", linear::candidate),
    ("Gemm", linear::candidate),
    ("Add", elementwise::add),
    ("LayerNormalization", norm::candidate),
    ("RMSNormalization", norm::candidate),
    ("MaxPool", pooling::candidate),
    ("AveragePool", pooling::candidate),
];

/// An item that may run on tiles.
struct TileQuery<'a> {
    item: &'a Item,
    inputs: Facts<'a>,
    /// The shape of the output.
    output: &'a [usize],
    costs: &'a Costs,
    weights: &'a Weights,
    /// The form that its weights keep; the better one where nothing is given.
    form: Option<Form>,
}

impl TileQuery<'_> {
    /// The input `index`, where it is a computed f32 map (batch, channels, height, width).
    fn map(&self, index: usize) -> Option<ValueId> {
        self.tiled(index).filter(|_| self.shape(index).len() == 4)
    }

    /// The input `index` where it is computed f32 rows of features, and how many rows.
    fn tokens(&self, index: usize) -> Option<(ValueId, usize)> {
        let value = self.tiled(index).filter(|_| self.shape(index).len() != 4)?;
        Some((value, layout::rows(self.shape(index))))
    }

    /// The input `index`, where it can stand as tiles.
    fn tiled(&self, index: usize) -> Option<ValueId> {
        self.inputs.get(index).filter(|fact| is_tiled(fact))?;
        self.item.node.inputs[index]
    }

    /// An input and what is added to the result, where `tiled` says that it can be tiles too.
    fn with_residual(
        &self,
        input: ValueId,
        tiled: impl Fn(usize) -> Option<ValueId>,
    ) -> Option<Vec<ValueId>> {
        match self.item.epilogue.add {
            Some(at) => Some(vec![input, tiled(at)?]),
            None => Some(vec![input]),
        }
    }

    /// What is done to so many outputs at the end of the item takes, in nanoseconds.
    fn at_end(&self, outputs: usize) -> f64 {
        let epilogue = &self.item.epilogue;
        self.costs.time(&Counts::at_end(outputs, epilogue.add.is_some(), epilogue.act))
    }

    /// The shape of input `index`.
    fn shape(&self, index: usize) -> &[usize] {
        self.inputs.get(index).and_then(Fact::shape).unwrap_or_default()
    }
}

/// Whether a value can stand as tiles: it is a computed f32 map or, with two or three axes, rows of features.
fn is_tiled(fact: &Fact) -> bool {
    fact.dtype == Some(DType::F32)
        && !fact.is_constant()
        && fact.shape().is_some_and(|s| (2..=4).contains(&s.len()) && s.iter().all(|&extent| extent > 0))
}

/// What the layout of items depends on besides them.
#[derive(Clone, Copy)]
pub(crate) struct Layers<'a> {
    /// Values that are needed as tensors.
    pub(crate) outputs: &'a [ValueId],
    pub(crate) weights: &'a Weights,
    /// How layers are to run; chosen by their costs where nothing is given.
    pub(crate) kept: Option<&'a Choices>,
}

impl Layers<'_> {
    /// How the layer is to run that computes a value.
    fn kept(&self, value: ValueId) -> Option<(Choice, Option<f64>)> {
        self.kept?.get(&value).copied()
    }
}

/// The items of a plan, some of them on tiles; notes in `choices` which.
pub(crate) fn lay_out(
    mut items: Vec<Item>,
    facts: &mut Vec<Option<Fact>>,
    layers: Layers<'_>,
    choices: &mut Choices,
) -> Result<Vec<Item>> {
    let candidates = items.iter().map(|item| candidate(item, facts, layers)).collect::<Result<Vec<_>>>()?;
    for (item, candidate) in items.iter_mut().zip(&candidates) {
        let kept = item.node.outputs.first().copied().flatten().and_then(|value| layers.kept(value));
        item.estimate = match (candidate, kept) {
            (None, Some((Choice::Tensors, estimate))) => estimate,
            _ => candidate.as_ref().and_then(|candidate| candidate.estimate.on(false)),
        };
    }
    let chosen: Vec<bool> = if layers.kept.is_some() {
        candidates.iter().map(Option::is_some).collect()
    } else if candidates.iter().flatten().all(|candidate| candidate.estimate.saving() <= 0.0) {
        return Ok(items);
    } else {
        let size =
            |value: ValueId| facts[value.index()].as_ref().and_then(Fact::shape).map(|s| s.iter().product());
        let convert = |value| layers.weights.costs.turn * size(value).unwrap_or(0usize) as f64;
        choose::choose(&items, &candidates, convert, layers.outputs)
    };
    let mut layout = TileLayout::new(facts, layers.weights);
    for ((mut item, candidate), on_tiles) in items.into_iter().zip(candidates).zip(chosen) {
        match candidate.filter(|_| on_tiles) {
            Some(candidate) => {
                item.estimate = candidate.estimate.on(true);
                let choice = (Choice::Tiles(candidate.lower.form()), item.estimate);
                choices.extend(item.node.outputs.iter().flatten().map(|&value| (value, choice)));
                layout.on_tiles(item, &candidate.operands, &*candidate.lower)?;
            }
            None => layout.on_tensors(item),
        }
    }
    for &output in layers.outputs {
        layout.need_tensor(output);
    }
    Ok(layout.items)
}

/// An item as a candidate for tiles; `None` where it can only run on tensors.
fn candidate(item: &Item, facts: &[Option<Fact>], layers: Layers<'_>) -> Result<Option<TileCandidate>> {
    let fact = |id: &Option<ValueId>| id.and_then(|id| facts[id.index()].clone());
    let [output @ Some(value)] = &item.node.outputs[..] else { return Ok(None) };
    let kept = layers.kept(*value).map(|(choice, _)| choice);
    let form = match kept {
        Some(Choice::Tiles(form)) => form,
        // Without a choice that is kept, all are compared.
        None if layers.kept.is_none() => None,
        _ => return Ok(None),
    };
    let output = fact(output).unwrap_or_default();
    if !is_tiled(&output) || !item.node.domain.is_empty() || !item.views.is_plain() {
        return Ok(None);
    }
    let inputs: Vec<Option<Fact>> = item.node.inputs.iter().map(fact).collect();
    let family = FAMILIES.iter().find(|(op, _)| *op == item.node.op_type);
    let find = family.map_or(elementwise::activation as Find, |(_, find)| *find);
    let (inputs, output) = (Facts(&inputs), output.shape().unwrap_or_default());
    let weights = layers.weights;
    find(&TileQuery { item, inputs, output, costs: &weights.costs, weights, form })
}
