//! Physical shrinking: channels, neurons and heads leave the network, with everything that depends on them.
//!
//! ```text
//! Dims ──rank──▶ scores of positions ──choose──▶ kept positions ──Dims::cut──▶ Patch ──prove──▶ same outputs
//! ```
//!
//! A dimension of the network ([`secateur_model::dims`]) is cut in every tensor in which it occurs. What is left computes
//! what the network computes in which the removed positions are zero; [`prove`] runs both.

mod choose;
mod prove;
mod rank;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use secateur_model::axes::{Axis, View};
use secateur_model::dims::{Dims, Group, Kept, Slice};
use secateur_model::infer::{Binding, Inference};
use secateur_model::ops::AxisRole;
use secateur_model::prunable::{self, PrunableView};
use secateur_model::{DType, Error, Model, Patch, Result, TensorId};
use serde::{Deserialize, Serialize};

pub use self::prove::prove;
use crate::names;
use crate::prune::Method;
use crate::prune::select::NameGlob;

/// What to remove.
#[derive(Clone, Debug, PartialEq)]
pub struct ShrinkOptions {
    /// How positions are ranked and how many go; without it, those that are zero already.
    pub by: Option<(Method, f64)>,
    /// Offer widths too that layers normalise over: the network then computes something else.
    pub norm_widths: bool,
    /// Of a product, such as heads · width or the groups of a convolution, remove whole outer positions (heads, groups),
    /// not as many positions within each.
    pub whole_groups: bool,
    /// Keep a multiple of this many positions, but for a dimension that has fewer.
    pub round_to: usize,
    /// Globs of layers whose dimensions stay whole.
    pub exclude: Vec<String>,
    /// The seed of random draws.
    pub seed: u64,
}

impl Default for ShrinkOptions {
    fn default() -> Self {
        ShrinkOptions {
            by: None,
            norm_widths: false,
            whole_groups: false,
            round_to: 1,
            exclude: Vec::new(),
            seed: 0,
        }
    }
}

/// A dimension as a person sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Layers whose outputs lie along it.
    pub outputs: Vec<String>,
    /// Layers whose inputs do.
    pub inputs: Vec<String>,
    /// Its positions.
    pub extent: usize,
    /// The positions that stay.
    pub kept: usize,
    /// Elements of tensors that leave with one position, while everything else is whole.
    pub parameters: u64,
    /// Multiply–accumulates that do, for one sample.
    pub macs: u64,
    /// Why it cannot be cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frozen: Option<String>,
}

/// What a network costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Elements of its tensors of floats.
    pub parameters: u64,
    /// Multiply–accumulates for one sample; `None` where a shape is open.
    pub macs: Option<u64>,
}

/// A smaller network.
pub struct Shrunk {
    /// What makes it from the model.
    pub patch: Patch,
    /// The positions that stay.
    pub kept: Kept,
    /// The dimensions.
    pub rows: Vec<Row>,
    /// The cost before and after.
    pub size: [Size; 2],
    /// The indices that stay, by tensor and axis: enough to make the same cut elsewhere.
    pub indices: BTreeMap<String, BTreeMap<usize, Vec<usize>>>,
}

/// The dimensions of a model's weights, as a person sees them.
///
/// # Errors
/// Where the model has no graph.
pub fn rows(model: &Model, dims: &Dims<'_>, kept: &Kept) -> Result<Vec<Row>> {
    let names = names::names(model, &prunable::view(model)?);
    let graph = model.graph()?;
    let weights = of_nodes(model, dims)?;
    let row = |group: &Group| {
        let of = |wanted: &[AxisRole]| {
            let slices =
                group.slices.iter().filter(|slice| slice.role.is_some_and(|role| wanted.contains(&role)));
            let mut found: Vec<String> =
                slices.filter_map(|slice| names.get(&slice.tensor).cloned()).collect();
            found.dedup();
            found
        };
        // Of what goes along an axis, the share of one position of the dimension.
        let share = |slice: &Slice, all: u64| {
            let along =
                model.tensor(slice.tensor).shape.get(slice.axis).map_or(1, |&extent| extent.max(1) as u64);
            all * dims.positions(slice, group.dim).first().map_or(0, Vec::len) as u64 / along
        };
        let elements = |slice: &Slice| {
            let shape = &model.tensor(slice.tensor).shape;
            share(slice, shape.iter().map(|&extent| extent as u64).product())
        };
        let layers = group.slices.iter().filter(|slice| slice.role.is_some());
        let macs = layers.map(|slice| share(slice, weights.get(&slice.tensor).copied().unwrap_or(0)));
        Row {
            outputs: of(&[AxisRole::Out, AxisRole::GateOut]),
            inputs: of(&[AxisRole::In]),
            extent: group.extent,
            kept: kept.get(&group.dim).map_or(group.extent, Vec::len),
            parameters: group.slices.iter().map(elements).sum(),
            macs: macs.sum(),
            frozen: group.frozen.as_ref().map(|frozen| frozen.text(graph)),
        }
    };
    Ok(dims.groups().iter().map(row).collect())
}

/// The multiply–accumulates of the nodes that use each weight, for one sample.
fn of_nodes(model: &Model, dims: &Dims<'_>) -> Result<BTreeMap<TensorId, u64>> {
    let graph = model.graph()?;
    let inference = dims.inference();
    let samples = dims.batch() as u64;
    let mut found = BTreeMap::new();
    for (node, macs) in graph.nodes.iter().zip(&inference.macs) {
        for value in node.inputs.iter().flatten() {
            if let Some(&tensor) = graph.constants.get(value) {
                *found.entry(tensor).or_insert(0) += macs.unwrap_or(0) / samples;
            }
        }
    }
    Ok(found)
}

/// What a model costs.
///
/// # Errors
/// Where it has no graph.
pub fn size(model: &Model) -> Result<Size> {
    let is_float = |dtype: DType| matches!(dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16);
    let graph = model.graph()?;
    let mut used: Vec<_> = graph.constants.values().collect();
    used.sort();
    used.dedup();
    let tensors = used.into_iter().map(|id| model.tensor(*id)).filter(|tensor| is_float(tensor.dtype));
    let parameters =
        tensors.map(|tensor| tensor.shape.iter().map(|&extent| extent as u64).product::<u64>()).sum();
    Ok(Size { parameters, macs: Inference::of(model, &Binding::default())?.total_macs() })
}

/// The dimensions that take part: free, and of a product the innermost (or, with `whole_groups`, the outermost).
fn candidates<'d>(model: &Model, dims: &'d Dims<'_>, options: &ShrinkOptions) -> Result<Vec<&'d Group>> {
    let free: Vec<&Group> = dims.free().collect();
    let is_free = |dim: Axis| free.iter().any(|group| group.dim == dim);
    let mut out: Vec<Axis> = Vec::new();
    for group in &free {
        for slice in &group.slices {
            if let Some(axis) = dims.axis(slice) {
                rivals(dims, axis, options.whole_groups, &is_free, &mut out);
            }
        }
    }
    let entries = prunable::view(model)?;
    let views: Vec<PrunableView> = entries.iter().filter_map(prunable::Entry::view).cloned().collect();
    let globs = options.exclude.iter().map(|text| NameGlob::new(text, &views, model, &entries));
    let globs = globs.collect::<Result<Vec<_>>>()?;
    let left_whole: Vec<TensorId> = views
        .iter()
        .filter(|view| globs.iter().any(|glob| glob.matches(view, model)))
        .map(|view| view.tensor)
        .collect();
    let excluded = |group: &Group| group.slices.iter().any(|slice| left_whole.contains(&slice.tensor));
    Ok(free.into_iter().filter(|group| !out.contains(&group.dim) && !excluded(group)).collect())
}

/// Notes the free dimensions of an axis that a factor of the same product takes precedence over.
fn rivals(dims: &Dims<'_>, axis: Axis, outer: bool, is_free: &impl Fn(Axis) -> bool, out: &mut Vec<Axis>) {
    let space = dims.axes().space();
    match space.view(axis) {
        View::Dim => {}
        View::Concat(segments) => {
            segments.iter().for_each(|&segment| rivals(dims, segment, outer, is_free, out))
        }
        View::Product(factors) => {
            let free_in =
                |factor: Axis| space.dims(factor).into_iter().filter(|&dim| is_free(dim)).collect::<Vec<_>>();
            let with: Vec<Vec<Axis>> = factors.iter().map(|&factor| free_in(factor)).collect();
            let chosen = match outer {
                true => with.iter().position(|dims| !dims.is_empty()),
                false => with.iter().rposition(|dims| !dims.is_empty()),
            };
            for (place, dims) in with.into_iter().enumerate() {
                if Some(place) != chosen {
                    out.extend(dims);
                }
            }
            factors.iter().for_each(|&factor| rivals(dims, factor, outer, is_free, out));
        }
    }
}

/// Chooses what to remove and gives the patch that does.
///
/// # Errors
/// `Usage` where a method does not rank channels or the amount is no share; where the model has no graph.
pub fn shrink(model: &Model, options: &ShrinkOptions) -> Result<Shrunk> {
    if options.round_to == 0 {
        return Err(Error::usage("option `round_to=0`: expected at least 1"));
    }
    let dims = Dims::of(model, options.norm_widths)?;
    let candidates = candidates(model, &dims, options)?;
    let kept = match &options.by {
        Some((method, sparsity)) => {
            let scores = rank::scores(model, &dims, &candidates, method, options.seed)?;
            choose::keep(&candidates, &scores, method.scope, *sparsity, options.round_to)?
        }
        None => rank::alive(model, &dims, &candidates, options.round_to)?,
    };
    let patch = dims.cut(&kept)?;
    let smaller = patch.apply(model)?;
    let rows = rows(model, &dims, &kept)?;
    let indices = indices(model, &dims, &kept)?;
    Ok(Shrunk { size: [size(model)?, size(&smaller)?], patch, rows, indices, kept })
}

/// The indices that stay, by tensor and axis, of the axes that become shorter.
fn indices(
    model: &Model,
    dims: &Dims<'_>,
    kept: &Kept,
) -> Result<BTreeMap<String, BTreeMap<usize, Vec<usize>>>> {
    let mut found: BTreeMap<String, BTreeMap<usize, Vec<usize>>> = BTreeMap::new();
    let space = dims.axes().space();
    for (&value, &tensor) in &model.graph()?.constants {
        for (place, &axis) in dims.axes().value(value).unwrap_or_default().iter().enumerate() {
            if space.dims(axis).iter().any(|dim| kept.contains_key(dim)) {
                let stored = model.tensor(tensor).path.clone();
                found.entry(stored).or_default().insert(place, space.select(axis, kept));
            }
        }
    }
    Ok(found)
}
