//! What the tensors of a checkpoint mean, told from their names and shapes as PyTorch's modules give
//! them: a checkpoint has no graph that would say it.
//!
//! `X.weight` of rank 2 is a linear layer, of rank 3 to 5 a convolution, each with the outputs on the
//! first axis. A bias beside it has one element an output, and so tells weights that are stored with
//! the inputs first: GPT-2's `Conv1D`, transposed convolutions. What no name and no shape shows is
//! taken for the usual: groups of a convolution (1), transposed convolutions without bias or with as
//! many inputs as outputs (plain ones), embeddings under a name of their own making (linear layers).
//! A graph knows all that.

use std::collections::{HashMap, HashSet};

use super::{Companion, CompanionKind, Entry, PrunableView, Reason, ReasonKind, Status};
use crate::ops::AxisRole::{self, Batch, GateOut, In, Out, Spatial};
use crate::{DType, Model, Result, StoredTensor, TensorId, parametrised};

/// The last part of a module's path that says embedding, alone or behind `_`.
const EMBEDDINGS: &[&str] = &[
    "embed",
    "embedding",
    "embeddings",
    "emb",
    "embed_tokens",
    "embed_positions",
    "embed_in",
    "wte",
    "wpe",
    "shared",
    "relative_attention_bias",
];

/// The last part of a normalisation's path, without figures behind it.
const NORMS: &[&str] = &["norm", "bn", "ln", "gn"];

/// Linear layers whose weight is a parameter of a larger module: attention, and the projection of an LSTM.
pub(crate) const LINEAR: &[&str] =
    &["in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "weight_hr"];

/// Layers that GPT-2 has as `Conv1D`, stored with the inputs first, and others as linear layers.
const CONV1D: &[&str] = &["c_attn", "q_attn", "c_fc", "c_proj"];

/// All tensors with at least one element, each prunable or with the reason why not.
pub(super) fn view(model: &Model) -> Result<Vec<Entry>> {
    let names = Names::new(model)?;
    let mut entries: Vec<Entry> =
        super::tensors(model).map(|tensor| Entry { tensor, status: names.status(tensor) }).collect();
    super::dense::leave_dense(model, &mut entries, &HashMap::new());
    for group in model.aliases() {
        names.tie(&group, &mut entries);
    }
    Ok(entries)
}

/// The mask of a tensor pruned by `torch.nn.utils.prune`: of `X.weight_orig` it is `X.weight_mask`,
/// where that has the same shape.
pub(super) fn mask_of(model: &Model, tensor: TensorId) -> Option<TensorId> {
    let original = model.tensor(tensor);
    let mask = model.tensor_id(&format!("{}_mask", original.path.strip_suffix("_orig")?))?;
    (model.tensor(mask).shape == original.shape).then_some(mask)
}

/// The reason for a tensor that is the mask of another; see [`mask_of`].
pub(super) fn mask_reason(model: &Model, tensor: TensorId) -> Option<Reason> {
    let base = model.tensor(tensor).path.strip_suffix("_mask")?;
    let original = model.tensor_id(&format!("{base}_orig"))?;
    (mask_of(model, original) == Some(tensor))
        .then(|| reason(ReasonKind::Mask, format!("mask of `{}`", model.tensor(original).path)))
}

/// Why a tensor that lies beside the model's own state stays: an optimiser's state, or another copy of
/// the weights, such as their moving average.
pub(super) fn beside_reason(model: &Model, tensor: TensorId) -> Option<Reason> {
    let part = outside(model, tensor)?;
    let path = model.tensor(tensor).path.as_str();
    let of_optimiser = ["optim", "exp_avg", "momentum", "lr_sched", "scheduler"];
    let is_state = |part: &str| part == "state" || of_optimiser.iter().any(|known| part.starts_with(known));
    if path.split('.').any(is_state) {
        return Some(reason(ReasonKind::Unused, format!("not a parameter: `{part}`")));
    }
    let own = path.match_indices('.').find_map(|(at, _)| {
        let id = model.tensor_id(&path[at + 1..]).filter(|&id| model.source.is_weight(id))?;
        (model.tensor(id).shape == model.tensor(tensor).shape).then_some((id, &path[..at]))
    });
    let text = match own {
        Some((own, place)) => {
            format!("a copy of `{}` in `{place}`, beside the state dict", model.tensor(own).path)
        }
        None => format!("stands in `{part}`, beside the state dict"),
    };
    Some(reason(ReasonKind::Copy, text))
}

/// The part of a checkpoint beside the model's own state that a tensor lies in, such as
/// `optimizer.state`. A PyTorch file says what that is; in others the name of the optimiser does.
pub(super) fn outside(model: &Model, tensor: TensorId) -> Option<&str> {
    let path = model.tensor(tensor).path.as_str();
    let beside = !model.source.is_weight(tensor) || (path.starts_with("optim") && path.contains('.'));
    let end = path.match_indices('.').nth(1).map_or(path.len(), |(at, _)| at);
    beside.then(|| &path[..end])
}

/// The name of a recurrent parameter without its layer and direction: `weight_ih_l0_reverse` is
/// `weight_ih`.
fn without_layer(name: &str) -> &str {
    match name.strip_suffix("_reverse").unwrap_or(name).rsplit_once("_l") {
        Some((front, layer)) if layer.bytes().all(|b| b.is_ascii_digit()) => front,
        _ => name,
    }
}

/// What GPTQ, AWQ, compressed-tensors and others call quantised weights.
const QUANTISED: &[&str] = &["weight", "qweight", "weight_packed"];

/// Whether a parameter of this name and of integers is a weight.
fn is_quantised_name(name: &str) -> bool {
    QUANTISED.contains(&name)
        || LINEAR.contains(&name)
        || name.ends_with("_blocks")
        || name.ends_with("_proj")
}

/// Whether an operator computes with quantised numbers: `QLinearConv`, `QGemm`, `ConvInteger`.
pub(super) fn is_quantised(op_type: &str) -> bool {
    op_type.starts_with("QLinear") || op_type == "QGemm" || op_type.ends_with("Integer")
}

/// Whether the last part of a path says that it is a weight.
pub(super) fn is_named_weight(path: &str) -> bool {
    let name = path.rsplit('.').next().unwrap_or_default();
    name.starts_with("weight") || name.ends_with("weight")
}

fn join(module: &str, name: &str) -> String {
    match module {
        "" => name.to_string(),
        module => format!("{module}.{name}"),
    }
}

fn reason(kind: ReasonKind, text: String) -> Reason {
    Reason { kind, text }
}

/// A tensor's path in its parts.
#[derive(Clone, Copy)]
struct Parameter<'a> {
    /// The path of the module; empty for parameters of the whole.
    module: &'a str,
    /// What the module calls it, without the `_orig` that a mask brings.
    name: &'a str,
}

impl<'a> Parameter<'a> {
    fn of(path: &'a str) -> Self {
        let (module, name) = path.rsplit_once('.').unwrap_or(("", path));
        Parameter { module, name: name.strip_suffix("_orig").unwrap_or(name) }
    }

    /// The last part of the module's path.
    fn layer(self) -> &'a str {
        self.module.rsplit('.').next().unwrap_or_default()
    }

    /// The module two levels up: the block that holds the attention and the perceptron of this layer.
    fn block(self) -> &'a str {
        self.module.rsplitn(3, '.').nth(2).unwrap_or_default()
    }

    fn is_embedding(self) -> bool {
        let layer = self.layer();
        let names = |known: &&str| {
            layer.strip_suffix(*known).is_some_and(|front| front.is_empty() || front.ends_with('_'))
        };
        EMBEDDINGS.iter().any(names)
    }

    fn is_norm(self) -> bool {
        let layer = self.layer().to_ascii_lowercase();
        let plain = layer.trim_end_matches(|c: char| c.is_ascii_digit() || c == '_');
        plain.ends_with("norm")
            || NORMS.contains(&plain)
            || NORMS.contains(&plain.split('_').next().unwrap_or(plain))
    }
}

/// A layer told from a name: its operator and axes.
struct Layer {
    op_type: &'static str,
    roles: Vec<AxisRole>,
    groups: usize,
    gates: usize,
    input: usize,
}

impl Layer {
    fn new(op_type: &'static str, roles: impl Into<Vec<AxisRole>>) -> Self {
        Layer { op_type, roles: roles.into(), groups: 1, gates: 1, input: 1 }
    }
}

struct Names<'m> {
    model: &'m Model,
    /// Blocks whose linear layers are stored with the inputs first; see [`CONV1D`].
    inputs_first: HashSet<&'m str>,
    /// Tensors that hold the same elements as another.
    aliased: HashSet<TensorId>,
    /// Of tensors that a weight is made of: that weight's path, and what makes it of them.
    parts: HashMap<TensorId, (String, &'static str)>,
}

impl<'m> Names<'m> {
    fn new(model: &'m Model) -> Result<Self> {
        let mut parts = HashMap::new();
        for whole in parametrised::find(model)? {
            parts.extend(whole.parts.iter().map(|&id| (id, (whole.path.clone(), whole.by))));
        }
        let mut names = Names {
            model,
            inputs_first: HashSet::new(),
            aliased: model.aliases().into_iter().flatten().collect(),
            parts,
        };
        for stored in model.tensors.values() {
            let parameter = Parameter::of(&stored.path);
            let told = stored.shape.len() == 2 && CONV1D.contains(&parameter.layer());
            if told && parameter.name == "weight" && names.inputs_are_first(parameter, stored) == Some(true) {
                names.inputs_first.insert(parameter.block());
            }
        }
        Ok(names)
    }

    fn status(&self, id: TensorId) -> Status {
        let stored = self.model.tensor(id);
        let parameter = Parameter::of(&stored.path);
        if let Some(beside) = beside_reason(self.model, id) {
            return Status::Fixed(beside);
        }
        if let Some(mask) = mask_reason(self.model, id) {
            return Status::Fixed(mask);
        }
        if self.model.source.is_quantised(id) {
            let text = "a quantised tensor of PyTorch: quantised weights cannot be pruned yet";
            return Status::Fixed(reason(ReasonKind::Quantised, text.into()));
        }
        if let Some((path, by)) = self.parts.get(&id) {
            let text = format!(
                "part of the weight `{path}` under {by}, which is no weight of its own: give the network's graph, or \
                 remove the parametrisation in PyTorch"
            );
            return Status::Fixed(reason(ReasonKind::Unfollowed, text));
        }
        match self.layer(parameter, stored) {
            Ok(layer) => Status::Prunable(Box::new(self.prunable(id, parameter, layer))),
            Err(reason) => Status::Fixed(reason),
        }
    }

    /// The layer whose weight a tensor is, or why it is none.
    fn layer(&self, parameter: Parameter<'_>, stored: &StoredTensor) -> Result<Layer, Reason> {
        let Parameter { module, name } = parameter;
        let rank = stored.shape.len();
        if matches!(name, "running_mean" | "running_var" | "num_batches_tracked") {
            return Err(reason(
                ReasonKind::Normalisation,
                format!("statistics of the normalisation `{module}`"),
            ));
        }
        if let Some(quantised) = self.quantised(parameter, stored) {
            return Err(quantised);
        }
        match stored.dtype {
            DType::I64 | DType::I32 | DType::Bool => {
                let text = format!("{} elements: counts, indices or flags", stored.dtype);
                return Err(reason(ReasonKind::Integer, text));
            }
            dtype if !dtype.is_prunable() => return Err(reason(ReasonKind::Dtype, format!("dtype {dtype}"))),
            _ => {}
        }
        match (without_layer(name), rank) {
            ("weight", _) => self.weight(parameter, stored),
            (linear, 2) if LINEAR.contains(&linear) => Ok(Layer::new("Linear", [Out, In])),
            ("weight_ih", 2) => self.recurrent(parameter, stored, 1),
            ("weight_hh", 2) => self.recurrent(parameter, stored, 2),
            ("gate_up_proj" | "down_proj", 3) if parameter.layer().ends_with("experts") => {
                self.experts(parameter)
            }
            _ if name == "bias" || name.starts_with("bias_") || name.ends_with("_bias") => {
                Err(self.bias(parameter, &stored.shape))
            }
            _ => {
                let text =
                    format!("parameter of shape {:?} that is not named as a layer's weight", stored.shape);
                Err(reason(ReasonKind::Operand, text))
            }
        }
    }

    /// The reason for weights of integers or small floats, and for what belongs to them.
    fn quantised(&self, parameter: Parameter<'_>, stored: &StoredTensor) -> Option<Reason> {
        let name = parameter.name;
        if !stored.dtype.is_prunable() && stored.shape.len() > 1 && is_quantised_name(name) {
            let text = format!("{} elements: quantised weights cannot be pruned yet", stored.dtype);
            return Some(reason(ReasonKind::Quantised, text));
        }
        let belongs = ["scale", "zero", "absmax", "quant_map", "qzeros", "g_idx"];
        if !belongs.iter().any(|part| name.contains(part)) {
            return None;
        }
        let holds = |path: &str| {
            let found = self.model.tensor_id(path).map(|id| self.model.tensor(id));
            found.is_some_and(|t| !t.dtype.is_prunable() && t.shape.len() > 1)
        };
        // bitsandbytes names them behind the weight, all others beside it.
        let module = parameter.module;
        let weight = QUANTISED.iter().map(|weight| join(module, weight)).find(|path| holds(path));
        let weight = weight.or_else(|| Some(module.to_string()).filter(|path| holds(path)))?;
        Some(reason(ReasonKind::Scale, format!("belongs to the quantised weights `{weight}`")))
    }

    /// The layer of `X.weight`.
    fn weight(&self, parameter: Parameter<'_>, stored: &StoredTensor) -> Result<Layer, Reason> {
        let Parameter { module, .. } = parameter;
        let (shape, rank) = (&stored.shape, stored.shape.len());
        let bias = self.sibling(parameter, "bias").map(|id| self.model.tensor(id));
        let normalises = |text: String| Err(reason(ReasonKind::Normalisation, text));
        match rank {
            0 | 1 if self.normalises(parameter) => {
                normalises(format!("factors of the normalisation `{module}`"))
            }
            0 | 1 => {
                normalises(format!("one factor per channel (`{module}`): a normalisation or an activation"))
            }
            _ if bias.is_some_and(|b| b.shape == *shape) || parameter.is_norm() => {
                normalises(format!("factors of the normalisation `{module}`"))
            }
            2 if bias.is_none() && parameter.is_embedding() => {
                Err(reason(ReasonKind::Embedding, format!("embedding `{module}`")))
            }
            2 => {
                let first = self.inputs_are_first(parameter, stored).unwrap_or_else(|| {
                    CONV1D.contains(&parameter.layer()) && self.inputs_first.contains(parameter.block())
                });
                Ok(Layer::new("Linear", if first { [In, Out] } else { [Out, In] }))
            }
            3..=5 => {
                let (op_type, front, groups) = match self.inputs_are_first(parameter, stored) {
                    Some(true) => ("ConvTranspose", [In, Out], bias.map_or(1, |b| b.len() / shape[1])),
                    _ => ("Conv", [Out, In], 1),
                };
                let mut roles = front.to_vec();
                roles.resize(rank, Spatial);
                Ok(Layer { groups, ..Layer::new(op_type, roles) })
            }
            _ => Err(reason(ReasonKind::Operand, format!("weight of rank {rank}, which no known layer has"))),
        }
    }

    /// Whether a weight's first axis is that of the inputs, where its bias tells.
    fn inputs_are_first(&self, parameter: Parameter<'_>, stored: &StoredTensor) -> Option<bool> {
        let bias = self.model.tensor(self.sibling(parameter, "bias")?);
        let (&first, &second) = (stored.shape.first()?, stored.shape.get(1)?);
        let groups = bias.len().checked_div(second).filter(|g| g * second == bias.len())?;
        // Only convolutions have groups: each divides the inputs.
        let fits =
            groups > 0 && if stored.shape.len() == 2 { groups == 1 } else { first.is_multiple_of(groups) };
        match (bias.len() == first, fits) {
            (true, false) => Some(false),
            (false, true) => Some(true),
            // As many outputs on either axis; more groups than one are rare enough to be doubted.
            (true, true) if groups > 1 => Some(false),
            _ => None,
        }
    }

    /// A weight of a recurrent layer; its rows stack the gates: 4 for an LSTM, 3 for a GRU.
    fn recurrent(
        &self,
        parameter: Parameter<'_>,
        stored: &StoredTensor,
        input: usize,
    ) -> Result<Layer, Reason> {
        let end = &parameter.name["weight_ih".len()..];
        // The projection of an LSTM takes what the recurrence weights would otherwise take.
        let extent = |name: &str| {
            let id = self.sibling(parameter, &format!("{name}{end}"))?;
            self.model.tensor(id).shape.get(1).copied()
        };
        let hidden = extent("weight_hr").or_else(|| extent("weight_hh")).unwrap_or(0);
        let gates = stored.shape[0].checked_div(hidden).filter(|gates| gates * hidden == stored.shape[0]);
        let op_type = match gates {
            Some(1) => "RNN",
            Some(3) => "GRU",
            Some(4) => "LSTM",
            _ => {
                let text = format!("recurrent weight of shape {:?} for {hidden} hidden units", stored.shape);
                return Err(reason(ReasonKind::Operand, format!("{text}: gates of no known layer")));
            }
        };
        Ok(Layer { gates: gates.unwrap_or(1), input, ..Layer::new(op_type, [GateOut, In]) })
    }

    /// The stacked matrices of a mixture of experts; which of their axes is the output follows from
    /// the hidden width, which is an axis of both and halved from one to the other.
    fn experts(&self, parameter: Parameter<'_>) -> Result<Layer, Reason> {
        let shape = |name| self.sibling(parameter, name).map(|id| self.model.tensor(id).shape.as_slice());
        if let (Some(&[_, up1, up2]), Some(&[_, down1, down2])) = (shape("gate_up_proj"), shape("down_proj"))
        {
            let halves = |wide: usize, narrow: usize| wide.is_multiple_of(2) && wide / 2 == narrow;
            if halves(up2, down1) && up1 == down2 {
                return Ok(Layer::new("Linear", [Batch, In, Out]));
            }
            if halves(up1, down2) && up2 == down1 {
                return Ok(Layer::new("Linear", [Batch, Out, In]));
            }
        }
        let text = "weights of experts whose shapes do not tell inputs from outputs".into();
        Err(reason(ReasonKind::Operand, text))
    }

    fn bias(&self, parameter: Parameter<'_>, shape: &[usize]) -> Reason {
        let module = parameter.module;
        let weight = self.sibling(parameter, "weight").map(|id| self.model.tensor(id));
        if self.normalises(parameter) || weight.is_some_and(|w| w.shape == shape) {
            return reason(ReasonKind::Normalisation, format!("addends of the normalisation `{module}`"));
        }
        match shape {
            [_] => reason(ReasonKind::Bias, format!("bias of `{module}`")),
            _ => reason(ReasonKind::Operand, format!("constant of shape {shape:?} of `{module}`")),
        }
    }

    fn normalises(&self, parameter: Parameter<'_>) -> bool {
        parameter.is_norm() || self.sibling(parameter, "running_mean").is_some()
    }

    /// Another parameter of the module, perhaps with a mask of its own.
    fn sibling(&self, parameter: Parameter<'_>, name: &str) -> Option<TensorId> {
        let path = join(parameter.module, name);
        self.model.tensor_id(&path).or_else(|| self.model.tensor_id(&format!("{path}_orig")))
    }

    fn prunable(&self, tensor: TensorId, parameter: Parameter<'_>, layer: Layer) -> PrunableView {
        let stored = self.model.tensor(tensor);
        let extent = |role| {
            layer.roles.iter().zip(&stored.shape).filter(|(r, _)| **r == role).map(|(_, d)| d).product()
        };
        let outputs: usize = extent(Out);
        let outputs = if layer.op_type == "ConvTranspose" { outputs * layer.groups } else { outputs };
        let node = if parameter.module.is_empty() { &stored.path } else { parameter.module }.to_string();
        let bias = match parameter.name {
            "weight" => self.sibling(parameter, "bias"),
            "in_proj_weight" => self.sibling(parameter, "in_proj_bias"),
            _ => None,
        };
        let bias = bias.filter(|&id| self.model.tensor(id).len() == outputs).map(|tensor| Companion {
            tensor,
            kind: CompanionKind::Bias,
            node: node.clone(),
            exclusive: !self.aliased.contains(&tensor),
        });
        PrunableView {
            tensor,
            node,
            op_type: layer.op_type.to_string(),
            module: parameter.module.to_string(),
            input: layer.input,
            roles: layer.roles,
            groups: layer.groups,
            group_axis: (layer.groups > 1).then_some(0),
            gates: layer.gates,
            via: Vec::new(),
            bias,
            followers: Vec::new(),
            shared: Vec::new(),
            mask: mask_of(self.model, tensor),
        }
    }

    /// Says of parameters with the very same elements what holds of them together: none can be pruned
    /// where one of them cannot, and the first stands for all where they can.
    fn tie(&self, group: &[TensorId], entries: &mut [Entry]) {
        // Entries are in the order of the tensors.
        let at = |id: TensorId| entries.binary_search_by_key(&id, |e| e.tensor).ok();
        let beside = |&place: &usize| match &entries[place].status {
            Status::Fixed(reason) => {
                matches!(reason.kind, ReasonKind::Unused | ReasonKind::Copy | ReasonKind::Mask)
            }
            Status::Prunable(_) | Status::LeftDense(..) => false,
        };
        let places: Vec<usize> = group.iter().filter_map(|&id| at(id)).filter(|p| !beside(p)).collect();
        let path = |place: usize, entries: &[Entry]| self.model.tensor(entries[place].tensor).path.clone();
        let fixed = places.iter().find_map(|&place| match &entries[place].status {
            Status::Fixed(reason) => Some((place, reason.clone())),
            Status::Prunable(_) | Status::LeftDense(..) => None,
        });
        if let Some((of, Reason { kind, text })) = fixed {
            let text = format!("the same elements as `{}`: {text}", path(of, entries));
            for &place in places.iter().filter(|&&p| entries[p].view().is_some()).collect::<Vec<_>>() {
                entries[place].status = Status::Fixed(reason(kind, text.clone()));
            }
            return;
        }
        let Some((&first, others)) = places.split_first() else { return };
        for &place in others {
            let text = format!("the same elements as `{}`, which stands for both", path(first, entries));
            let other =
                std::mem::replace(&mut entries[place].status, Status::Fixed(reason(ReasonKind::Tied, text)));
            let (other, dense) = match other {
                Status::Prunable(view) => (view, None),
                Status::LeftDense(view, why) => (view, Some(why)),
                Status::Fixed(_) => continue,
            };
            let own = std::mem::replace(
                &mut entries[first].status,
                Status::Fixed(reason(ReasonKind::Tied, String::new())),
            );
            // What is left dense under one name is so under all.
            entries[first].status = match (own, dense) {
                (Status::Prunable(mut view), dense) => {
                    view.shared.push((other.node, other.op_type));
                    match dense {
                        None => Status::Prunable(view),
                        Some(Reason { kind, text }) => {
                            let text = format!("the same elements as `{}`: {text}", path(place, entries));
                            Status::LeftDense(view, reason(kind, text))
                        }
                    }
                }
                (Status::LeftDense(mut view, why), _) => {
                    view.shared.push((other.node, other.op_type));
                    Status::LeftDense(view, why)
                }
                (fixed @ Status::Fixed(_), _) => fixed,
            };
        }
    }
}
