//! The graph over the checkpoint's tensors.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::fold::Fold;
use super::matching::Bound;
use super::values::Fit;
use crate::graph::{Dim, Value};
use crate::model::Storage;
use crate::{Attr, DType, Data, Graph, Model, Node, StoredTensor, TensorId, ValueId};

/// Builds a graph whose constants are tensors of another model.
pub(super) struct Rewire<'a> {
    onnx: &'a Model,
    bound: &'a BTreeMap<TensorId, Bound>,
    folds: &'a [Fold],
    /// The checkpoint, and behind its tensors those of the graph's file that nothing replaces.
    model: Model,
    kept: HashMap<TensorId, TensorId>,
    /// The names of all values, so that new ones are their own.
    names: HashSet<String>,
}

/// A graph under work, and the nodes that come before its own.
struct Work {
    graph: Graph,
    opset: u32,
    before: Vec<Node>,
    values: HashMap<(TensorId, Fit), ValueId>,
}

/// The checkpoint with the graph, its constants replaced and its batch-norms taken apart.
pub(super) fn build(
    checkpoint: &Model,
    onnx: &Model,
    graph: &Graph,
    bound: &BTreeMap<TensorId, Bound>,
    folds: &[Fold],
) -> Model {
    let (model, names) = (checkpoint.clone(), graph.names());
    let mut rewire = Rewire { onnx, bound, folds, model, kept: HashMap::new(), names };
    rewire.model.graph = Some(rewire.graph(graph));
    rewire.model
}

impl Rewire<'_> {
    fn graph(&mut self, graph: &Graph) -> Graph {
        let default = graph.nodes.iter().find(|n| n.domain.is_empty()).map_or(17, |n| n.opset);
        let mut work =
            Work { graph: graph.clone(), opset: default, before: Vec::new(), values: HashMap::new() };
        work.graph.constants.clear();
        let nodes = std::mem::take(&mut work.graph.nodes);
        for mut node in nodes {
            for attr in node.attrs.values_mut() {
                match attr {
                    Attr::Graph(nested) => **nested = self.graph(nested),
                    Attr::Graphs(all) => all.iter_mut().for_each(|nested| *nested = self.graph(nested)),
                    _ => {}
                }
            }
            let fold = self.folds.iter().find(|f| f.node == node.label() && f.op_type == node.op_type);
            match fold {
                Some(fold) => self.unfold(fold, node, &mut work),
                None => work.graph.nodes.push(node),
            }
        }
        let mut used: HashSet<ValueId> = work.graph.outputs.iter().copied().collect();
        used.extend(work.graph.nodes.iter().flat_map(|n| n.inputs.iter().flatten()));
        for (&value, &constant) in graph.constants.iter().filter(|(value, _)| used.contains(value)) {
            match self.bound.get(&constant) {
                Some(bound) => self.replace(value, bound, &mut work),
                None => {
                    let kept = self.keep(constant);
                    work.graph.constants.insert(value, kept);
                }
            }
        }
        work.graph.nodes.splice(0..0, work.before);
        work.graph
    }

    /// Puts the layer and the batch-norm in the place of the layer that holds both.
    fn unfold(&mut self, fold: &Fold, mut node: Node, work: &mut Work) {
        if !self.bound.contains_key(&fold.bias) {
            node.inputs.truncate(2);
        }
        let Some(output) = node.outputs.first().copied().flatten() else {
            work.graph.nodes.push(node);
            return;
        };
        let value = Value {
            name: self.fresh(format!("{}_before_norm", work.graph.value_name(output))),
            ..work.graph.values[output.index()].clone()
        };
        let (before, channels) = (push(&mut work.graph, value), self.model.tensor(fold.norm.mean).len());
        node.outputs[0] = Some(before);
        let dtype = self.onnx.tensor(fold.bias).dtype;
        let norm = &fold.norm;
        let weight = norm.weight.unwrap_or_else(|| self.filled(&norm.module, "weight", 1.0, channels));
        let bias = norm.bias.unwrap_or_else(|| self.filled(&norm.module, "bias", 0.0, channels));
        let mut inputs = vec![Some(before)];
        for tensor in [weight, bias, norm.mean, norm.var] {
            let cast = (self.model.tensor(tensor).dtype != dtype).then_some(dtype);
            inputs.push(Some(self.value(tensor, &Fit { cast, ..Fit::default() }, None, work)));
        }
        let label = self.fresh(format!("{}/BatchNormalization", norm.module));
        let batch_norm = Node {
            name: label.clone(),
            op_type: "BatchNormalization".to_string(),
            opset: work.opset,
            inputs,
            outputs: vec![Some(output)],
            attrs: [("epsilon".to_string(), Attr::Float(fold.epsilon))].into_iter().collect(),
            module: norm.module.clone(),
            fallback_label: label,
            ..Node::default()
        };
        work.graph.nodes.extend([node, batch_norm]);
    }

    /// Puts a tensor of the checkpoint in the place of a constant.
    fn replace(&mut self, value: ValueId, bound: &Bound, work: &mut Work) {
        if bound.fit.is_plain() {
            work.graph.constants.insert(value, bound.tensor);
        } else {
            self.value(bound.tensor, &bound.fit, Some(value), work);
        }
    }

    /// The value that a tensor of the checkpoint has behind the way of `fit`; `into` where it exists.
    fn value(&mut self, tensor: TensorId, fit: &Fit, into: Option<ValueId>, work: &mut Work) -> ValueId {
        if let (Some(&known), None) = (work.values.get(&(tensor, fit.clone())), into) {
            return known;
        }
        let stored = self.model.tensor(tensor);
        let (path, mut dtype, mut shape) = (stored.path.clone(), stored.dtype, stored.shape.clone());
        let mut steps: Vec<(&str, &str, Attr)> = Vec::new();
        if let Some(cast) = fit.cast {
            steps.push(("Cast", "to", Attr::Int(cast.to_onnx().into())));
        }
        if let Some(shape) = &fit.shape {
            steps.push(("Reshape", "", Attr::Ints(shape.iter().map(|&d| d as i64).collect())));
        }
        if let Some(perm) = &fit.perm {
            steps.push(("Transpose", "perm", Attr::Ints(perm.iter().map(|&p| p as i64).collect())));
        }
        let mut at = match (steps.is_empty(), into) {
            (true, Some(value)) => value,
            _ => push(&mut work.graph, value_of(self.fresh(path.clone()), dtype, &shape)),
        };
        work.graph.constants.insert(at, tensor);
        let count = steps.len();
        for (i, (op_type, name, attr)) in steps.into_iter().enumerate() {
            let label = self.fresh(format!("{path}/{op_type}"));
            let mut inputs = vec![Some(at)];
            let mut attrs = indexmap::IndexMap::new();
            match (op_type, attr) {
                ("Reshape", Attr::Ints(target)) => {
                    shape = target.iter().map(|&d| d as usize).collect();
                    let target = self.added(format!("{label}/shape"), vec![target.len()], Data::I64(target));
                    inputs.push(Some(self.value(target, &Fit::default(), None, work)));
                }
                (_, attr) => {
                    if let (Attr::Ints(perm), "Transpose") = (&attr, op_type) {
                        shape = perm.iter().map(|&p| shape[p as usize]).collect();
                    }
                    dtype = fit.cast.unwrap_or(dtype);
                    attrs.insert(name.to_string(), attr);
                }
            }
            at = match into.filter(|_| i + 1 == count) {
                Some(value) => value,
                None => push(&mut work.graph, value_of(self.fresh(label.clone()), dtype, &shape)),
            };
            work.before.push(Node {
                name: label.clone(),
                op_type: op_type.to_string(),
                opset: work.opset,
                inputs,
                outputs: vec![Some(at)],
                attrs,
                fallback_label: label,
                ..Node::default()
            });
        }
        work.values.insert((tensor, fit.clone()), at);
        at
    }

    /// A constant of the graph's file, behind the checkpoint's tensors.
    fn keep(&mut self, constant: TensorId) -> TensorId {
        if let Some(&kept) = self.kept.get(&constant) {
            return kept;
        }
        let stored = self.onnx.tensor(constant).clone();
        let kept = self.add(stored);
        self.kept.insert(constant, kept);
        kept
    }

    /// A parameter that the checkpoint leaves out.
    fn filled(&mut self, module: &str, name: &str, value: f32, len: usize) -> TensorId {
        self.added(format!("{module}.{name}"), vec![len], Data::F32(vec![value; len]))
    }

    fn added(&mut self, path: String, shape: Vec<usize>, data: Data) -> TensorId {
        let storage = Storage::Data(std::sync::Arc::new(data.clone()));
        self.add(StoredTensor { path, dtype: data.dtype(), shape, storage })
    }

    fn add(&mut self, mut stored: StoredTensor) -> TensorId {
        while self.model.tensors.contains_key(&stored.path) {
            stored.path.push_str("::graph");
        }
        let id = TensorId(self.model.tensors.len() as u32);
        self.model.tensors.insert(stored.path.clone(), stored);
        id
    }

    /// A name that no value has: this one, or with a number behind it.
    fn fresh(&mut self, name: String) -> String {
        let numbered = (2..).map(|number| format!("{name}_{number}"));
        let free = std::iter::once(name.clone()).chain(numbered).find(|name| !self.names.contains(name));
        let free = free.unwrap_or(name);
        self.names.insert(free.clone());
        free
    }
}

fn push(graph: &mut Graph, value: Value) -> ValueId {
    graph.values.push(value);
    ValueId(graph.values.len() as u32 - 1)
}

fn value_of(name: String, dtype: DType, shape: &[usize]) -> Value {
    Value { name, dtype: Some(dtype), shape: Some(shape.iter().map(|&d| Dim::Known(d)).collect()) }
}
