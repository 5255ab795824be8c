//! Which tensors can be pruned, and why the rest cannot.
//!
//! A weight is found from the operator that owns it: [`ops`](crate::ops) says which inputs are weights
//! and what their axes mean, and the way from the stored tensor to that input is followed through
//! operators that only rename, convert or move elements. Nothing here assumes that an axis has a
//! fixed position. A checkpoint has no operators: there names and shapes tell what a tensor is.

mod dense;
pub(crate) mod names;
mod parameters;
pub(crate) mod walk;

use std::collections::HashMap;

pub use self::dense::leave_outputs_dense;
pub use self::parameters::parameters;

use self::walk::{Found, Use, UseRole, WeightSite};
use crate::ops::AxisRole;
use crate::{DType, Model, Result, TensorId};

/// A tensor that can be pruned, seen from the operator that owns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrunableView {
    /// The stored tensor.
    pub tensor: TensorId,
    /// The node that owns it: its label; in a checkpoint the module.
    pub node: String,
    /// That node's operator; in a checkpoint `Linear`, `Conv`, `ConvTranspose`, `LSTM`, `GRU` or `RNN`.
    pub op_type: String,
    /// The module the weight belongs to: the tensor's path up to `.weight`, or else what the exporter
    /// recorded for the node, or else the tensor's path without its last part; may be empty.
    pub module: String,
    /// Which input of the node it is.
    pub input: usize,
    /// The role of each axis of the *stored* tensor.
    pub roles: Vec<AxisRole>,
    /// Groups that outputs and inputs are divided into.
    pub groups: usize,
    /// The stored axis that holds the groups one after the other; `None` where there is one group, or
    /// where the way to the node mixes that axis with others.
    pub group_axis: Option<usize>,
    /// Gates stacked along the axis of role [`AxisRole::GateOut`]; 1 for other operators.
    pub gates: usize,
    /// The operators between the stored tensor and the node, such as ``Transpose `t1` ``.
    pub via: Vec<String>,
    /// The bias: one element an output channel.
    pub bias: Option<Companion>,
    /// What else belongs to single output channels: the affine tensors of batch-norms that follow,
    /// and the biases of further nodes that use the same weight.
    pub followers: Vec<Companion>,
    /// Other nodes that use the tensor as a weight: label and operator.
    pub shared: Vec<(String, String)>,
    /// The mask that is stored beside it, as `torch.nn.utils.prune` does: of `X.weight_orig` it is
    /// `X.weight_mask`, 1 where weights are kept.
    pub mask: Option<TensorId>,
}

/// A tensor with one element an output channel of a weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Companion {
    /// The stored tensor.
    pub tensor: TensorId,
    /// What it does to the channel.
    pub kind: CompanionKind,
    /// The node that uses it: its label.
    pub node: String,
    /// Whether only the weight's own nodes use the tensor, so that it may change with the weight.
    pub exclusive: bool,
}

/// What a [`Companion`] does to its channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompanionKind {
    /// Added to the operator's output.
    Bias,
    /// The factor of a batch-norm.
    NormScale,
    /// The addend of a batch-norm.
    NormBias,
}

/// A constant tensor of a model and whether it can be pruned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The tensor.
    pub tensor: TensorId,
    /// Whether it can be pruned.
    pub status: Status,
}

impl Entry {
    /// The view, where the tensor is pruned by default.
    pub fn prunable(&self) -> Option<&PrunableView> {
        match &self.status {
            Status::Prunable(view) => Some(view),
            Status::LeftDense(..) | Status::Fixed(_) => None,
        }
    }

    /// The view, where the tensor can be pruned, even if it stays dense unless asked for.
    pub fn view(&self) -> Option<&PrunableView> {
        match &self.status {
            Status::Prunable(view) | Status::LeftDense(view, _) => Some(view),
            Status::Fixed(_) => None,
        }
    }

    /// Why the tensor is not pruned by default.
    pub fn reason(&self) -> Option<&Reason> {
        match &self.status {
            Status::Prunable(_) => None,
            Status::LeftDense(_, reason) | Status::Fixed(reason) => Some(reason),
        }
    }

    /// Whether the tensor looks like the weight of a layer, prunable or not: a matrix that is no bias,
    /// table that is looked up, or part of a normalisation. Who asks for a sparse model wants to know
    /// of each that stays dense.
    pub fn is_weight(&self, model: &Model) -> bool {
        let stored = model.tensor(self.tensor);
        let is_matrix = stored.shape.iter().filter(|&&extent| extent > 1).count() > 1;
        match &self.status {
            Status::Prunable(_) | Status::LeftDense(..) => true,
            // What bitsandbytes packs is a column.
            Status::Fixed(reason) if reason.kind == ReasonKind::Quantised => stored.shape.len() > 1,
            Status::Fixed(reason) => {
                is_matrix
                    && match reason.kind {
                        ReasonKind::Dtype
                        | ReasonKind::UnknownOperator
                        | ReasonKind::Unfollowed
                        | ReasonKind::Attribute
                        | ReasonKind::Copy => true,
                        ReasonKind::Unused => names::outside(model, self.tensor).is_none(),
                        ReasonKind::Operand => names::is_named_weight(&stored.path),
                        _ => false,
                    }
            }
        }
    }
}

/// Whether a tensor can be pruned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// It can.
    Prunable(Box<PrunableView>),
    /// It can, and stays dense unless it is asked for by name.
    LeftDense(Box<PrunableView>, Reason),
    /// It cannot.
    Fixed(Reason),
}

/// Why a tensor is not pruned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The reason in the large.
    pub kind: ReasonKind,
    /// The reason in a sentence.
    pub text: String,
}

/// Why a tensor is not pruned, in the large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReasonKind {
    /// Left dense by default: a table of constants that stands where a weight does.
    Table,
    /// Left dense by default: a language model's layer from hidden states to logits.
    OutputProjection,
    /// Left dense by default: the layer that chooses among experts.
    Router,
    /// Left dense by default where output channels are pruned: they are the model's outputs.
    Output,
    /// A bias.
    Bias,
    /// A table that is looked up.
    Embedding,
    /// Factors, addends or statistics of a normalisation.
    Normalisation,
    /// Integers: shapes, axes and indices.
    Integer,
    /// A quantised weight: of integers, of floats of 8 bits or fewer, or behind `QuantizeLinear` or
    /// `DequantizeLinear`.
    Quantised,
    /// The scale or zero point of a quantised tensor.
    Scale,
    /// An element type that cannot be scored.
    Dtype,
    /// An operator that is not known uses it.
    UnknownOperator,
    /// A weight that is reached in a way that is not followed, or that is used in other ways too.
    Unfollowed,
    /// A weight that the file holds in a form that cannot be changed: an attribute of numbers.
    Attribute,
    /// Nothing uses it, or it is no part of the model itself: state of an optimiser.
    Unused,
    /// A copy or average of the weights that a checkpoint holds beside them.
    Copy,
    /// The mask of another tensor.
    Mask,
    /// The same elements as another tensor, which stands for both.
    Tied,
    /// Another operand.
    Operand,
}

/// All constant tensors of a model with at least one element, in the order of
/// [`Model::tensors`], each prunable or with the reason why not. Looks at the main graph and nested
/// graphs (calls of functions are expanded there). For a file without a graph names and shapes tell
/// what its tensors are: `X.weight` is a linear layer or a convolution, by its rank; a batch-norm that
/// follows, the groups of a convolution and most transposed convolutions cannot be told.
///
/// # Errors
/// Where a node contradicts its operator's meaning.
pub fn view(model: &Model) -> Result<Vec<Entry>> {
    let Some(graph) = &model.graph else { return names::view(model) };
    let uses = walk::uses(model, graph)?;
    let classifier = Classifier::new(model, &uses);
    let mut entries: Vec<Entry> =
        tensors(model).map(|tensor| Entry { tensor, status: classifier.status(tensor) }).collect();
    dense::leave_dense(model, &mut entries, &classifier.products());
    Ok(entries)
}

/// The tensors with at least one element.
fn tensors(model: &Model) -> impl Iterator<Item = TensorId> + '_ {
    (0..model.tensors.len() as u32).map(TensorId).filter(|&id| !model.tensor(id).is_empty())
}

/// Classifies tensors by their uses: prunable, or fixed and why.
struct Classifier<'a> {
    model: &'a Model,
    uses: &'a [Vec<Use>],
    /// Each companion and the use of the weight it belongs to.
    companions: HashMap<TensorId, (&'a Found, &'a Use)>,
    /// Of tensors from which others are computed, those.
    wholes: HashMap<TensorId, TensorId>,
}

impl<'a> Classifier<'a> {
    fn new(model: &'a Model, uses: &'a [Vec<Use>]) -> Self {
        let mut companions = HashMap::new();
        for used in uses.iter().flatten() {
            if let UseRole::Weight(site) = &used.role {
                for found in &site.companions {
                    companions.entry(found.tensor).or_insert((found, used));
                }
            }
        }
        let computed = (0..).map(TensorId).zip(model.tensors.values());
        let wholes =
            computed.flat_map(|(id, stored)| stored.parts().iter().map(move |&part| (part, id))).collect();
        Classifier { model, uses, companions, wholes }
    }

    /// The tensors that are only multiplied with other stored tensors: the first of those, and whether
    /// theirs is the left operand.
    fn products(&self) -> HashMap<TensorId, (TensorId, bool)> {
        let factor = |used: &Use| match &used.role {
            UseRole::Weight(site) => site.factor.map(|factor| (factor, used.input == 0)),
            _ => None,
        };
        let all = (0..).map(TensorId).zip(self.uses);
        all.filter_map(|(id, uses)| {
            let first = factor(uses.first()?)?;
            let alike = |used: &Use| factor(used).is_some_and(|(_, left)| left == first.1);
            uses.iter().all(alike).then_some((id, first))
        })
        .collect()
    }

    fn status(&self, tensor: TensorId) -> Status {
        let stored = self.model.tensor(tensor);
        let uses = &self.uses[tensor.0 as usize];
        let fixed = |kind, text: String| Status::Fixed(Reason { kind, text });
        let weight = uses.iter().find(|u| matches!(u.role, UseRole::Weight(_)));
        let other = uses.iter().find(|u| !matches!(u.role, UseRole::Weight(_) | UseRole::Shape));
        if uses.is_empty() {
            if let Some(mask) = names::mask_reason(self.model, tensor) {
                return Status::Fixed(mask);
            }
            if let Some(beside) = names::beside_reason(self.model, tensor) {
                return Status::Fixed(beside);
            }
            return match self.wholes.get(&tensor) {
                Some(&whole) => fixed(
                    ReasonKind::Operand,
                    format!("part of `{}`, which is pruned in its place", self.model.tensor(whole).path),
                ),
                None => fixed(ReasonKind::Unused, "not used by the graph".into()),
            };
        }
        if let Some(quantised) = weight.filter(|_| uses.iter().any(|u| u.quantised)) {
            let why = match stored.dtype.is_prunable() {
                true => "their zero points differ or are computed, so that zeros would not stay zeros",
                false => "quantised weights cannot be pruned yet",
            };
            let text =
                format!("weights of {} behind QuantizeLinear or DequantizeLinear: {why}", name(quantised));
            return fixed(ReasonKind::Quantised, text);
        }
        if let Some(scale) = uses.iter().find(|u| u.op_type.ends_with("uantizeLinear") && u.input > 0) {
            return fixed(ReasonKind::Scale, format!("scale or zero point of {}", name(scale)));
        }
        if !stored.dtype.is_prunable() {
            return match (weight, stored.dtype) {
                (None, DType::I32) if uses[0].quantised || names::is_quantised(&uses[0].op_type) => {
                    fixed(ReasonKind::Bias, format!("bias of {}", name(&uses[0])))
                }
                (_, DType::I8 | DType::U8) if names::is_quantised(&uses[0].op_type) => {
                    if stored.shape.len() < 2 {
                        return fixed(ReasonKind::Scale, format!("zero point of {}", name(&uses[0])));
                    }
                    let text = format!("{} weights of {}", stored.dtype, name(&uses[0]));
                    fixed(ReasonKind::Quantised, format!("{text}: quantised weights cannot be pruned yet"))
                }
                (None, DType::I64 | DType::I32 | DType::Bool) => fixed(
                    ReasonKind::Integer,
                    format!("integer shape arithmetic (used by {})", name(&uses[0])),
                ),
                (_, dtype) => fixed(ReasonKind::Dtype, format!("dtype {dtype} (used by {})", name(&uses[0]))),
            };
        }
        match (weight, other) {
            (Some(first), None) if !self.model.source.holds_changed(tensor) => fixed(
                ReasonKind::Attribute,
                format!(
                    "weights of {} that the file holds in a form that cannot be rewritten: the argument of a \
                     function call, or a sparse tensor with external data",
                    name(first)
                ),
            ),
            (Some(first), None) => Status::Prunable(Box::new(self.prunable(tensor, first))),
            (_, Some(other)) => self.fixed(tensor, weight, other),
            (None, None) => {
                fixed(ReasonKind::Operand, format!("only its shape is read, by {}", name(&uses[0])))
            }
        }
    }

    /// Why a float tensor with a use other than as a weight stays.
    fn fixed(&self, tensor: TensorId, weight: Option<&Use>, other: &Use) -> Status {
        let label = name(other);
        let (kind, text) = match self.companions.get(&tensor) {
            Some((found, owner)) if found.kind == CompanionKind::Bias => {
                (ReasonKind::Bias, format!("bias of {}", name(owner)))
            }
            _ => match &other.role {
                UseRole::Bias => (ReasonKind::Bias, format!("bias of {label}")),
                UseRole::Reshaped => (
                    ReasonKind::Unfollowed,
                    format!("weights of {label} behind a Reshape that splits their axes"),
                ),
                UseRole::Part => (
                    ReasonKind::Unfollowed,
                    format!(
                        "weights of {label}, which takes a part of them, cut by Split, Slice or Concat through groups or gates"
                    ),
                ),
                _ if other.op_type == "Gather" && other.input == 0 => {
                    let tied = weight.map(|w| format!(", tied to the weights of {}", name(w)));
                    (ReasonKind::Embedding, format!("embedding ({label}){}", tied.unwrap_or_default()))
                }
                _ if other.op_type.contains("Normalization") => {
                    (ReasonKind::Normalisation, format!("normalisation parameter of {label}"))
                }
                UseRole::Output => (ReasonKind::Operand, format!("graph output `{}`", other.node)),
                UseRole::Unknown => (
                    ReasonKind::UnknownOperator,
                    format!("used by operator {}, which is not known (node `{}`)", other.op_type, other.node),
                ),
                _ => {
                    let also = weight.map(|w| format!(", besides being the weights of {}", name(w)));
                    let kind = if also.is_some() { ReasonKind::Unfollowed } else { ReasonKind::Operand };
                    let also = also.unwrap_or_default();
                    (kind, format!("operand {} of {label}{also}", other.input))
                }
            },
        };
        Status::Fixed(Reason { kind, text })
    }

    fn prunable(&self, tensor: TensorId, first: &Use) -> PrunableView {
        let uses = &self.uses[tensor.0 as usize];
        let sites: Vec<(&Use, &WeightSite)> = uses
            .iter()
            .filter_map(|u| if let UseRole::Weight(site) = &u.role { Some((u, &**site)) } else { None })
            .collect();
        let site = sites[0].1;
        // Where another node sees other axes as its outputs, its companions belong to other channels.
        let alike = || sites.iter().filter(|(_, s)| s.roles == site.roles && s.groups == site.groups);
        let mut own: Vec<usize> = sites.iter().map(|(u, _)| u.site).collect();
        own.extend(alike().flat_map(|(_, s)| &s.companions).map(|c| c.site));
        let mut companions: Vec<Companion> = Vec::new();
        for found in alike().flat_map(|(_, s)| &s.companions) {
            if companions.iter().any(|c| c.tensor == found.tensor) {
                continue;
            }
            companions.push(Companion {
                tensor: found.tensor,
                kind: found.kind,
                node: found.node.clone(),
                exclusive: self.uses[found.tensor.0 as usize].iter().all(|u| own.contains(&u.site)),
            });
        }
        let bias = companions
            .iter()
            .position(|c| {
                c.kind == CompanionKind::Bias && site.companions.iter().any(|f| f.tensor == c.tensor)
            })
            .map(|i| companions.remove(i));
        PrunableView {
            tensor,
            node: first.node.clone(),
            op_type: first.op_type.clone(),
            module: module_of(&self.model.tensor(tensor).path, &first.module).to_string(),
            input: first.input,
            roles: site.roles.clone(),
            groups: site.groups,
            group_axis: site.group_axis,
            gates: site.gates,
            via: site.via.names(),
            bias,
            followers: companions,
            shared: sites[1..].iter().map(|(u, _)| (u.node.clone(), u.op_type.clone())).collect(),
            mask: names::mask_of(self.model, tensor),
        }
    }
}

fn name(used: &Use) -> String {
    format!("{} `{}`", used.op_type, used.node)
}

/// The module a weight belongs to. The tensor's own name tells it best: exporters that fold a
/// batch-norm into a convolution record the batch-norm's module for the node.
fn module_of<'a>(path: &'a str, recorded: &'a str) -> &'a str {
    match path.rsplit_once('.') {
        Some((module, parameter)) if recorded.is_empty() || parameter.starts_with("weight") => module,
        _ => recorded,
    }
}
