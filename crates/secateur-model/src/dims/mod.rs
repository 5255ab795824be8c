//! Dimensions of a network that can be cut: a channel, a neuron or a head, in every tensor in which it occurs.
//!
//! ```text
//! Conv 1   w1 [C, 3, 3, 3]      BN  scale, bias, mean, variance [C]      Conv 2   w2 [D, C, 3, 3]
//!          C is one dimension in six tensors: cut there, and nowhere else, the network stays whole
//! ```
//!
//! [`Dims::of`] finds the dimensions that weights consist of, from what operators state of their axes
//! ([`crate::axes`]), each free or frozen with the reason. [`Dims::cut`] gives the patch that leaves only some positions
//! of them. A dimension is free where taking a position out leaves a graph whose shapes are those that the axes foretell:
//! that is tried before any is offered.

mod cut;
mod trace;

use std::collections::{BTreeMap, HashMap};

use crate::axes::{Axis, Fixed, GraphAxes};
use crate::infer::{Binding, Inference};
use crate::ops::AxisRole;
use crate::prunable::{self, Entry};
use crate::{Error, Graph, Model, NodeId, Patch, Result, TensorId, ValueId};

/// The positions of dimensions that stay, in order; a dimension that is not there stays whole.
pub type Kept = HashMap<Axis, Vec<usize>>;

/// The dimensions of a model's weights.
pub struct Dims<'a> {
    model: &'a Model,
    binding: Binding,
    inference: Inference,
    axes: GraphAxes,
    groups: Vec<Group>,
}

/// A dimension of weights, and where it occurs.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The dimension.
    pub dim: Axis,
    /// Its positions.
    pub extent: usize,
    /// The axes of stored tensors that it is part of, in the order of the tensors.
    pub slices: Vec<Slice>,
    /// Why it cannot be cut; `None` where it can.
    pub frozen: Option<Frozen>,
}

/// An axis of a stored tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The tensor.
    pub tensor: TensorId,
    /// The axis.
    pub axis: usize,
    /// What the axis is to a layer whose weight the tensor is.
    pub role: Option<AxisRole>,
}

/// Why a dimension cannot be cut.
#[derive(Clone, Debug, PartialEq)]
pub enum Frozen {
    /// Its elements keep their places.
    Fixed(Fixed),
    /// A node normalises over it, so that what is left would change.
    Normalised(NodeId),
    /// The shapes of a graph without one of its positions are not those that the axes foretell.
    Shapes(String),
}

impl Frozen {
    /// The reason in words.
    pub fn text(&self, graph: &Graph) -> String {
        let node =
            |id: NodeId| graph.nodes.get(id.0 as usize).map_or("a node", crate::Node::label).to_string();
        let operator =
            |id: NodeId| graph.nodes.get(id.0 as usize).map_or("", |node| node.op_type.as_str()).to_string();
        match *self {
            Frozen::Fixed(Fixed::Position(id)) => {
                format!("{} `{}` looks at positions", operator(id), node(id))
            }
            Frozen::Fixed(Fixed::Unstated(id)) => {
                format!("nothing is known of the axes of {} `{}`", operator(id), node(id))
            }
            Frozen::Fixed(Fixed::Irregular(id)) => {
                format!("{} `{}` rearranges elements across it", operator(id), node(id))
            }
            Frozen::Fixed(Fixed::Unknown(id)) => {
                format!("the shape of an operand of {} `{}` is not known", operator(id), node(id))
            }
            Frozen::Fixed(Fixed::Captured(value)) => {
                format!("a nested graph reads `{}`", graph.value_name(value))
            }
            Frozen::Fixed(Fixed::Input(value)) => format!("input `{}` of the model", graph.value_name(value)),
            Frozen::Fixed(Fixed::Output(value)) => {
                format!("output `{}` of the model", graph.value_name(value))
            }
            Frozen::Fixed(Fixed::Limit) => "the graph is too intricate to be followed".into(),
            Frozen::Normalised(id) => format!("{} `{}` normalises over it", operator(id), node(id)),
            Frozen::Shapes(ref why) => why.clone(),
        }
    }
}

/// The samples of a batch that shapes are inferred with: another number than 1, which would be lost in products.
const BATCH: usize = 2;

impl<'a> Dims<'a> {
    /// The dimensions of a model's weights; `widths` offers those too that layers normalise over.
    ///
    /// # Errors
    /// Where the model has no graph, or a node contradicts its operator's meaning.
    pub fn of(model: &'a Model, widths: bool) -> Result<Self> {
        let mut binding = Binding { batch: BATCH, ..Binding::default() };
        let mut inference = Inference::of(model, &binding)?;
        if !inference.problems.is_empty() {
            // The graph works for one sample at a time, though its input does not say so.
            binding.batch = 1;
            inference = Inference::of(model, &binding)?;
        }
        if let Some(problem) = inference.problems.first() {
            return Err(Error::input(problem.text.clone()));
        }
        let axes = GraphAxes::of(model, &inference)?;
        let entries = prunable::view(model)?;
        let groups = groups(model, &axes, &entries, widths)?;
        let mut dims = Dims { model, binding, inference, axes, groups };
        dims.try_cuts();
        Ok(dims)
    }

    /// The dimensions, in the order of the tensors in which they first occur.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The dimensions that can be cut.
    pub fn free(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().filter(|group| group.frozen.is_none())
    }

    /// What is known of the graph's values.
    pub fn inference(&self) -> &Inference {
        &self.inference
    }

    /// The samples of the batch that it is known for.
    pub fn batch(&self) -> usize {
        self.binding.batch
    }

    /// The axes of the graph's values.
    pub fn axes(&self) -> &GraphAxes {
        &self.axes
    }

    /// The positions of a tensor's axis at which a dimension has position `i`, for each `i`: all of them where the axis
    /// is the dimension itself, and those of a product or concatenation that it is part of.
    pub fn positions(&self, slice: &Slice, dim: Axis) -> Vec<Vec<usize>> {
        let Some(axis) = self.axis(slice) else { return Vec::new() };
        let space = self.axes.space();
        let of = |i: usize| space.select(axis, &Kept::from([(dim, vec![i])]));
        let others = space.select(axis, &Kept::from([(dim, Vec::new())]));
        let mut each: Vec<Vec<usize>> = (0..space.extent(dim)).map(of).collect();
        // Segments that the dimension is no part of are there at each position.
        each.iter_mut().for_each(|at| at.retain(|position| !others.contains(position)));
        each
    }

    /// The axis that a slice is.
    pub fn axis(&self, slice: &Slice) -> Option<Axis> {
        let graph = self.model.graph().ok()?;
        let (value, _) = graph.constants.iter().find(|(_, id)| **id == slice.tensor)?;
        self.axes.value(*value)?.get(slice.axis).copied()
    }

    /// Tries to take a position out of each dimension that seems free, and freezes those where that fails.
    fn try_cuts(&mut self) {
        let one_less = |group: &Group| (group.dim, (0..group.extent - 1).collect::<Vec<_>>());
        let all: Kept = self.free().map(one_less).collect();
        if all.is_empty() || self.cut(&all).is_ok() {
            return;
        }
        for index in 0..self.groups.len() {
            if self.groups[index].frozen.is_some() {
                continue;
            }
            let (dim, kept) = one_less(&self.groups[index]);
            if let Err(error) = self.cut(&Kept::from([(dim, kept)])) {
                self.groups[index].frozen = Some(Frozen::Shapes(error.to_string()));
            }
        }
    }

    /// The patch that leaves only the kept positions of dimensions.
    ///
    /// # Errors
    /// Where the graph without the others has other shapes than the axes foretell.
    pub fn cut(&self, kept: &Kept) -> Result<Patch> {
        cut::cut(self, kept)
    }
}

/// The dimensions that axes of weights consist of.
fn groups(model: &Model, axes: &GraphAxes, entries: &[Entry], widths: bool) -> Result<Vec<Group>> {
    let graph = model.graph()?;
    let views: BTreeMap<TensorId, &Entry> =
        entries.iter().filter(|entry| entry.view().is_some()).map(|entry| (entry.tensor, entry)).collect();
    let mut found: Vec<Group> = Vec::new();
    let mut places: HashMap<Axis, usize> = HashMap::new();
    let mut tensors: Vec<(TensorId, ValueId)> =
        graph.constants.iter().map(|(value, tensor)| (*tensor, *value)).collect();
    tensors.sort();
    tensors.dedup_by_key(|(tensor, _)| *tensor);
    let space = axes.space();
    // Dimensions of weights first; then every tensor in which they occur.
    for weights in [true, false] {
        for &(tensor, value) in &tensors {
            let view = views.get(&tensor).and_then(|entry| entry.view());
            for (axis, &of_axis) in axes.value(value).unwrap_or_default().iter().enumerate() {
                let role = view.and_then(|view| view.roles.get(axis)).copied();
                let layer = matches!(role, Some(AxisRole::Out | AxisRole::In | AxisRole::GateOut));
                for dim in space.dims(of_axis) {
                    if weights && layer && space.extent(dim) > 1 {
                        places.entry(dim).or_insert_with(|| {
                            let frozen = space.fixed(dim).map(Frozen::Fixed).or_else(|| {
                                space.normalised(dim).filter(|_| !widths).map(Frozen::Normalised)
                            });
                            found.push(Group { dim, extent: space.extent(dim), slices: Vec::new(), frozen });
                            found.len() - 1
                        });
                    }
                    if let (false, Some(&place)) = (weights, places.get(&dim)) {
                        found[place].slices.push(Slice { tensor, axis, role });
                    }
                }
            }
        }
    }
    Ok(found)
}
