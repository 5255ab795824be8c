//! Where a model is repaired: its batch-norms, and the layers without one behind them.

use std::collections::BTreeMap;

use secateur_model::io::ONNX;
use secateur_model::prunable::{PrunableView, ReasonKind, Status};
use secateur_model::text::listed;
use secateur_model::{DType, Data, Graph, Model, Node, NodeId, Patch, Result, Tensor, TensorId, ValueId};

use crate::calib::Along;
use crate::masters::Masters;
use crate::prune::Subject;

/// A batch-norm or a layer.
pub(super) struct Site {
    /// The node's label.
    pub(super) name: String,
    /// How many sites lie in front of it on the longest way: those of one level do not depend on one another.
    pub(super) level: usize,
    /// The value whose statistics are taken: of a batch-norm its input, else the layer's output.
    pub(super) observed: String,
    /// The value whose mean is to be that of the dense model.
    pub(super) output: String,
    pub(super) along: Along,
    pub(super) norm: Option<Norm>,
    /// The path of what a correction is added to.
    pub(super) bias: Option<String>,
    /// The node that a bias can be added to, and the weight that it is named after.
    open: Option<(NodeId, TensorId)>,
}

/// The constants of a batch-norm, by path.
pub(super) struct Norm {
    pub(super) scale: String,
    pub(super) bias: String,
    pub(super) mean: String,
    pub(super) variance: String,
    pub(super) epsilon: f64,
}

impl Site {
    /// The bias as a tensor of the model, where that has it.
    pub(super) fn bias_of(&self, model: &Model) -> Option<TensorId> {
        model.tensor_id(self.bias.as_ref()?)
    }
}

/// The sites of a model, in graph order.
pub(super) struct Sites {
    pub(super) all: Vec<Site>,
    /// The weights of layers.
    pub(super) weights: Vec<TensorId>,
    pub(super) notes: Vec<String>,
    /// Biases that are added: their nodes, weights and paths.
    added: Vec<(NodeId, TensorId, String)>,
}

/// What is known of a graph's values and constants.
struct Around<'a> {
    model: &'a Model,
    graph: &'a Graph,
    /// How often each tensor is used.
    uses: BTreeMap<TensorId, usize>,
    consumers: Vec<Vec<(NodeId, usize)>>,
}

impl Around<'_> {
    /// The path of a constant input that only this node uses.
    fn own(&self, node: &Node, input: usize) -> Option<(TensorId, String)> {
        let id = *self.graph.constants.get(&node.inputs.get(input).copied().flatten()?)?;
        let is_f32 = self.model.tensor(id).dtype == DType::F32;
        (is_f32 && self.uses.get(&id) == Some(&1)).then(|| (id, self.model.tensor(id).path.clone()))
    }

    fn norm(&self, node: &Node) -> Result<Option<Norm>> {
        let paths: Option<Vec<String>> = (1..5).map(|input| Some(self.own(node, input)?.1)).collect();
        let Some([scale, bias, mean, variance]) = paths.and_then(|paths| <[String; 4]>::try_from(paths).ok())
        else {
            return Ok(None);
        };
        let epsilon = f64::from(node.float_or("epsilon", 1e-5)?);
        Ok(Some(Norm { scale, bias, mean, variance, epsilon }))
    }

    /// Whether only a batch-norm uses a value.
    fn goes_into_norm(&self, value: ValueId) -> bool {
        let is_norm = |(node, _): &(NodeId, usize)| is_norm(&self.graph.nodes[node.0 as usize]);
        let users = &self.consumers[value.index()];
        !self.graph.outputs.contains(&value) && !users.is_empty() && users.iter().all(is_norm)
    }
}

fn is_norm(node: &Node) -> bool {
    node.domain.is_empty() && node.op_type == "BatchNormalization"
}

/// The input that holds the bias of an operator that takes one.
fn bias_input(node: &Node) -> Option<usize> {
    let takes = node.domain.is_empty() && matches!(node.op_type.as_str(), "Conv" | "ConvTranspose" | "Gemm");
    takes.then_some(2)
}

impl Sites {
    /// Finds the sites of the main graph of a model in f32.
    ///
    /// # Errors
    /// Where a node contradicts its operator's meaning.
    pub(super) fn of(subject: &Subject<'_>) -> Result<Self> {
        let model = subject.model;
        let graph = model.graph()?;
        let mut uses = BTreeMap::new();
        for id in graph.nodes.iter().flat_map(|node| node.inputs.iter().flatten()) {
            if let Some(tensor) = graph.constants.get(id) {
                *uses.entry(*tensor).or_insert(0) += 1;
            }
        }
        let around = Around { model, graph, uses, consumers: graph.consumers() };
        let mut sites = Sites { all: Vec::new(), weights: Vec::new(), notes: Vec::new(), added: Vec::new() };
        let mut left: Vec<String> = Vec::new();
        let mut found: BTreeMap<u32, Site> = BTreeMap::new();
        for entry in subject.entries()? {
            let view = match &entry.status {
                Status::Prunable(view) => view,
                Status::LeftDense(view, reason) if reason.kind != ReasonKind::Table => view,
                Status::LeftDense(..) | Status::Fixed(_) => continue,
            };
            sites.weights.push(view.tensor);
            match layer(&around, view) {
                Found::Site(at, site) => drop(found.insert(at.0, *site)),
                Found::BehindNorm => {}
                Found::Unsuited => left.push(view.node.clone()),
            }
        }
        for (at, node) in (0..).zip(&graph.nodes).filter(|(_, node)| is_norm(node)) {
            match (
                around.norm(node)?,
                node.inputs.first().copied().flatten(),
                node.outputs.first().copied().flatten(),
            ) {
                (Some(norm), Some(input), Some(output)) => {
                    let site = Site {
                        name: node.label().to_string(),
                        level: 0,
                        observed: graph.value_name(input).to_string(),
                        output: graph.value_name(output).to_string(),
                        along: Along::Second,
                        bias: Some(norm.bias.clone()),
                        norm: Some(norm),
                        open: None,
                    };
                    found.insert(at, site);
                }
                _ => left.push(node.label().to_string()),
            }
        }
        if !left.is_empty() {
            sites.notes.push(format!(
                "not repaired, since their constants are shared or computed, or their outputs have no channels of their own: {}",
                listed(&left)
            ));
        }
        let mut levels = vec![0; graph.values.len()];
        for (at, node) in (0..).zip(&graph.nodes) {
            let inside =
                node.captures().filter_map(|name| graph.values.iter().position(|value| value.name == name));
            let before = node.inputs.iter().flatten().map(|id| id.index()).chain(inside);
            let mut level = before.map(|value| levels[value]).max().unwrap_or(0);
            if let Some(mut site) = found.remove(&at) {
                site.level = level;
                sites.all.push(site);
                level += 1;
            }
            node.outputs.iter().flatten().for_each(|id| levels[id.index()] = level);
        }
        Ok(sites)
    }

    /// Gives the layers that have no bias one of zeros, where `adds` and the file allow it: the change of the f32 model.
    ///
    /// # Errors
    /// Where the graph cannot be changed so.
    pub(super) fn give_biases(&mut self, masters: &Masters, adds: bool) -> Result<Patch> {
        let model = masters.in_f32();
        let mut patch = Patch::by("repair");
        let mut names = model.graph()?.names();
        let allowed = adds && model.source.format().is_none_or(|format| format == &ONNX);
        for site in self.all.iter_mut().filter(|_| allowed) {
            let Some((node, weight)) = site.open else { continue };
            let stored = model.tensor(weight);
            let Some(channels) = channels(model.graph()?, node, &stored.shape)? else { continue };
            let stem = stored.path.strip_suffix(".weight").unwrap_or(&stored.path);
            let numbered =
                |n: usize| if n == 0 { format!("{stem}.bias") } else { format!("{stem}.bias_{n}") };
            let Some(path) = (0..).map(numbered).find(|path| !names.contains(path)) else { continue };
            names.insert(path.clone());
            let zeros = Tensor::new([channels], vec![0f32; channels])?;
            let value = patch.add_constant(model, &path, zeros)?;
            patch.rewire(node, 2, Some(value));
            site.bias = Some(path.clone());
            self.added.push((node, weight, path));
        }
        Ok(patch)
    }

    /// What changed, as changes of the model as it is stored. An added bias that stayed zero is left out.
    ///
    /// # Errors
    /// Where a value is beyond the range of its tensor's type.
    pub(super) fn patch(&self, masters: &Masters, changes: &Patch, current: &Model) -> Result<Patch> {
        let model = masters.model();
        let mut patch = Patch::by("repair");
        for id in changes.ids() {
            let path = &current.tensor(id).path;
            let values = changes.load(current, id)?;
            match self.added.iter().find(|(.., added)| added == path) {
                None => {
                    let own = masters.in_f32().tensor_id(path);
                    let own =
                        own.ok_or_else(|| secateur_model::Error::internal(format!("no tensor `{path}`")))?;
                    masters.store(own, &values, &mut patch)?;
                }
                Some((node, weight, _)) => {
                    let values = of_type(&values, model.tensor(*weight).dtype)?;
                    let value = patch.add_constant(model, path, values)?;
                    patch.rewire(*node, 2, Some(value));
                }
            }
        }
        patch.spread(model);
        Ok(patch)
    }
}

/// f32 elements in the type of a weight.
fn of_type(values: &Tensor, dtype: DType) -> Result<Tensor> {
    let floats = values.values::<f32>()?;
    let data = match dtype {
        DType::F16 => Data::F16(floats.iter().map(|&v| half::f16::from_f32(v)).collect()),
        DType::BF16 => Data::BF16(floats.iter().map(|&v| half::bf16::from_f32(v)).collect()),
        DType::F64 => Data::F64(floats.iter().map(|&v| f64::from(v)).collect()),
        _ => return Ok(values.clone()),
    };
    Tensor::from_data(values.shape(), data)
}

/// The output channels of a layer that a bias can be added to.
fn channels(graph: &Graph, node: NodeId, shape: &[usize]) -> Result<Option<usize>> {
    let node = &graph.nodes[node.0 as usize];
    Ok(match node.op_type.as_str() {
        "Conv" => shape.first().copied(),
        "ConvTranspose" => {
            let groups = usize::try_from(node.int_or("group", 1)?).ok();
            shape.get(1).zip(groups).map(|(of_group, groups)| of_group * groups)
        }
        "Gemm" => shape.get(if node.int_or("transB", 0)? == 0 { 1 } else { 0 }).copied(),
        _ => None,
    })
}

enum Found {
    Site(NodeId, Box<Site>),
    /// The layer is repaired in the batch-norm behind it.
    BehindNorm,
    /// Its output has no bias of its own that could be corrected.
    Unsuited,
}

/// The site of a layer.
fn layer(around: &Around<'_>, view: &PrunableView) -> Found {
    let graph = around.graph;
    let recurrent = view.gates > 1 || matches!(view.op_type.as_str(), "LSTM" | "GRU" | "RNN");
    let Some((at, node)) =
        crate::calib::node_of(graph, view).filter(|_| !recurrent && view.shared.is_empty())
    else {
        return Found::Unsuited;
    };
    let Some(value) = node.outputs.first().copied().flatten() else { return Found::Unsuited };
    if around.goes_into_norm(value) {
        return Found::BehindNorm;
    }
    let is_bias = |node: &Node| {
        view.bias.as_ref().is_some_and(|bias| {
            bias.exclusive
                && (0..node.inputs.len())
                    .any(|i| around.own(node, i).is_some_and(|(id, _)| id == bias.tensor))
        })
    };
    let bias_node = (0..).map(NodeId).zip(&graph.nodes).find(|(_, node)| is_bias(node));
    let along = crate::calib::along(view);
    let scaled = node.op_type == "Gemm" && node.float_or("beta", 1.0).unwrap_or(0.0) != 1.0;
    let (at, output, bias) = match bias_node {
        Some((at, node)) if !scaled => {
            let bias = view.bias.as_ref().map(|bias| around.model.tensor(bias.tensor).path.clone());
            match node.outputs.first().copied().flatten() {
                // A batch-norm behind the addition of a bias.
                Some(output) if around.goes_into_norm(output) => return Found::BehindNorm,
                Some(output) => (at, output, bias),
                None => return Found::Unsuited,
            }
        }
        _ => (at, value, None),
    };
    let is_free = |input: usize| node.inputs.get(input).copied().flatten().is_none();
    let takes = bias.is_none() && view.bias.is_none() && !scaled && bias_input(node).is_some_and(is_free);
    let output = graph.value_name(output).to_string();
    let site = Site {
        name: node.label().to_string(),
        level: 0,
        observed: output.clone(),
        output,
        along,
        norm: None,
        bias,
        open: takes.then_some((at, view.tensor)),
    };
    Found::Site(at, Box::new(site))
}
