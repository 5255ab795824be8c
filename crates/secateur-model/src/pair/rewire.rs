//! The graph over the checkpoint's tensors: a patch of the ONNX model, whose constants are then numbered as the
//! checkpoint's tensors.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use half::{bf16, f16};

use super::fold::Fold;
use super::matching::Bound;
use super::values::Fit;
use crate::graph::Dim;
use crate::model::{Applied, GraphPath};
use crate::{Attr, DType, Graph, Model, Node, NodeId, Patch, Result, Tensor, TensorId, ValueId};

/// The checkpoint with the graph, its constants replaced and its batch-norms unfolded.
///
/// # Errors
/// Those of [`Patch::apply`].
pub(super) fn build(
    checkpoint: &Model,
    onnx: &Model,
    bound: &BTreeMap<TensorId, Bound>,
    folds: &[Fold],
) -> Result<Model> {
    let mut rewire = Rewire {
        checkpoint,
        onnx,
        bound,
        folds,
        patch: Patch::by("pairing"),
        sources: HashMap::new(),
        values: HashMap::new(),
    };
    rewire.graph(&GraphPath::new(), onnx.graph()?)?;
    let applied = rewire.patch.applied(onnx)?;
    rewire.over_checkpoint(applied)
}

struct Rewire<'a> {
    checkpoint: &'a Model,
    onnx: &'a Model,
    bound: &'a BTreeMap<TensorId, Bound>,
    folds: &'a [Fold],
    patch: Patch,
    /// Which of the tensors that the patch adds are the checkpoint's.
    sources: HashMap<usize, TensorId>,
    /// The values of the current graph that are tensors of the checkpoint, converted.
    values: HashMap<(TensorId, Fit), ValueId>,
}

/// A node that converts a tensor, and what it gives.
struct Step {
    op_type: &'static str,
    attr: Option<(&'static str, Attr)>,
    dtype: DType,
    shape: Vec<usize>,
}

impl Rewire<'_> {
    /// Patches a graph and those nested in it.
    fn graph(&mut self, path: &GraphPath, graph: &Graph) -> Result<()> {
        for (id, node) in (0..).map(NodeId).zip(&graph.nodes) {
            for (name, attr) in &node.attrs {
                for (index, nested) in attr.graphs().iter().enumerate() {
                    let inner = path.iter().cloned().chain([(id, name.clone(), index)]).collect();
                    self.graph(&inner, nested)?;
                }
            }
        }
        self.patch.set_graph(path.clone());
        self.values.clear();
        for (id, node) in (0..).map(NodeId).zip(&graph.nodes) {
            let fold = self.folds.iter().find(|f| f.node == node.label() && f.op_type == node.op_type);
            if let (Some(fold), Some(Some(output))) = (fold, node.outputs.first()) {
                self.unfold(fold, graph, (id, node), *output)?;
            }
        }
        let used = used(graph);
        for (&value, constant) in graph.constants.iter().filter(|(value, _)| used.contains(value)) {
            if let Some(bound) = self.bound.get(constant).filter(|bound| !bound.fit.is_plain()) {
                self.patch.remove(*constant);
                self.value(bound.tensor, &bound.fit, Some(value))?;
            }
        }
        Ok(())
    }

    /// Replaces a layer by the layer and the batch-norm that was folded into it.
    fn unfold(
        &mut self,
        fold: &Fold,
        graph: &Graph,
        (id, node): (NodeId, &Node),
        output: ValueId,
    ) -> Result<()> {
        let (mut layer, declared) = (node.clone(), &graph.values[output.index()]);
        if !self.bound.contains_key(&fold.bias) {
            layer.inputs.truncate(2);
        }
        let before = self.patch.add_value(self.onnx, &format!("{}_before_norm", declared.name))?;
        for value in [before, output] {
            self.patch.declare(value, declared.dtype, declared.shape.clone());
        }
        layer.outputs[0] = Some(before);
        let (norm, dtype) = (&fold.norm, self.onnx.tensor(fold.bias).dtype);
        let channels = self.checkpoint.tensor(norm.mean).len();
        let mut inputs = vec![Some(before)];
        for (tensor, name, neutral) in [
            (norm.weight, "weight", 1f32),
            (norm.bias, "bias", 0.0),
            (Some(norm.mean), "running_mean", 0.0),
            (Some(norm.var), "running_var", 1.0),
        ] {
            inputs.push(Some(match tensor {
                Some(tensor) => {
                    let cast = (self.checkpoint.tensor(tensor).dtype != dtype).then_some(dtype);
                    self.value(tensor, &Fit { cast, ..Fit::default() }, None)?
                }
                None => {
                    let filled = uniform(dtype, neutral, channels);
                    self.patch.add_constant(self.onnx, &format!("{}.{name}", norm.module), filled)?
                }
            }));
        }
        let label = self.patch.fresh_name(self.onnx, &format!("{}/BatchNormalization", norm.module))?;
        let batch_norm = Node {
            module: norm.module.clone(),
            attrs: [("epsilon".to_string(), Attr::Float(fold.epsilon))].into_iter().collect(),
            ..new_node("BatchNormalization", label, inputs, output)
        };
        self.patch.replace_node(id, [layer, batch_norm]);
        Ok(())
    }

    /// The value of a tensor of the checkpoint behind the conversions of `fit`: `into`, where it is given.
    fn value(&mut self, tensor: TensorId, fit: &Fit, into: Option<ValueId>) -> Result<ValueId> {
        if let (Some(&known), None) = (self.values.get(&(tensor, fit.clone())), into) {
            return Ok(known);
        }
        let stored = self.checkpoint.tensor(tensor).clone();
        let (path, mut dtype, mut shape) = (stored.path.clone(), stored.dtype, stored.shape.clone());
        self.sources.insert(self.patch.added_count(), tensor);
        let make = Arc::new(move || stored.load());
        let mut at = self.patch.add_lazy_constant(self.onnx, &path, dtype, shape.clone(), make)?;
        let ints = |numbers: &[usize]| numbers.iter().map(|&n| n as i64).collect::<Vec<i64>>();
        let mut steps: Vec<Step> = Vec::new();
        if let Some(cast) = fit.cast {
            dtype = cast;
            let attr = Some(("to", Attr::Int(cast.to_onnx().into())));
            steps.push(Step { op_type: "Cast", attr, dtype, shape: shape.clone() });
        }
        if let Some(target) = &fit.shape {
            shape.clone_from(target);
            steps.push(Step { op_type: "Reshape", attr: None, dtype, shape: shape.clone() });
        }
        if let Some(perm) = &fit.perm {
            shape = perm.iter().map(|&axis| shape[axis]).collect();
            let attr = Some(("perm", Attr::Ints(ints(perm))));
            steps.push(Step { op_type: "Transpose", attr, dtype, shape: shape.clone() });
        }
        let count = steps.len();
        for (i, Step { op_type, attr, dtype, shape }) in steps.into_iter().enumerate() {
            let label = self.patch.fresh_name(self.onnx, &format!("{path}/{op_type}"))?;
            let mut inputs = vec![Some(at)];
            if op_type == "Reshape" {
                let target = Tensor::vector(ints(&shape));
                inputs.push(Some(self.patch.add_constant(self.onnx, &format!("{label}/shape"), target)?));
            }
            at = match into.filter(|_| i + 1 == count) {
                Some(value) => value,
                None => self.patch.add_value(self.onnx, &label)?,
            };
            self.patch.declare(at, Some(dtype), Some(shape.into_iter().map(Dim::Known).collect()));
            let attrs = attr.into_iter().map(|(name, attr)| (name.to_string(), attr)).collect();
            self.patch.insert_before(NodeId(0), Node { attrs, ..new_node(op_type, label, inputs, at) });
        }
        self.values.insert((tensor, fit.clone()), at);
        Ok(at)
    }

    /// The checkpoint with the patched graph. Its tensors keep their ids; those that only the graph has follow.
    fn over_checkpoint(&self, mut applied: Applied) -> Result<Model> {
        let mut model = self.checkpoint.clone();
        let added = self.sources.iter().map(|(&index, &tensor)| (applied.added[index], tensor));
        let mut known: HashMap<TensorId, TensorId> = added.collect();
        for (constant, bound) in self.bound {
            known.extend(applied.id_of(*constant).map(|id| (id, bound.tensor)));
        }
        let mut graph = applied.model.graph.take();
        let mut keep = |id: TensorId| {
            *known.entry(id).or_insert_with(|| {
                let mut stored = applied.model.tensor(id).clone();
                while model.tensors.contains_key(&stored.path) {
                    stored.path.push_str("::graph");
                }
                model.tensors.insert(stored.path.clone(), stored);
                TensorId(model.tensors.len() as u32 - 1)
            })
        };
        graph.iter_mut().for_each(|graph| renumber(graph, &mut keep));
        model.graph = graph;
        Ok(model)
    }
}

/// Numbers the constants that a graph uses anew; the others go.
fn renumber(graph: &mut Graph, keep: &mut dyn FnMut(TensorId) -> TensorId) {
    let attrs = graph.nodes.iter_mut().flat_map(|node| node.attrs.values_mut());
    attrs.flat_map(Attr::graphs_mut).for_each(|nested| renumber(nested, keep));
    let used = used(graph);
    graph.constants.retain(|value, _| used.contains(value));
    graph.constants.values_mut().for_each(|id| *id = keep(*id));
}

/// The values that nodes use, or that are outputs.
fn used(graph: &Graph) -> HashSet<ValueId> {
    let inputs = graph.nodes.iter().flat_map(|node| node.inputs.iter().flatten());
    inputs.chain(&graph.outputs).copied().collect()
}

/// A vector of floats that are all the same.
fn uniform(dtype: DType, value: f32, len: usize) -> Tensor {
    match dtype {
        DType::F16 => Tensor::vector(vec![f16::from_f32(value); len]),
        DType::BF16 => Tensor::vector(vec![bf16::from_f32(value); len]),
        DType::F64 => Tensor::vector(vec![f64::from(value); len]),
        _ => Tensor::vector(vec![value; len]),
    }
}

/// A node with one output; its operator set is that of the other nodes.
fn new_node(op_type: &str, label: String, inputs: Vec<Option<ValueId>>, output: ValueId) -> Node {
    Node {
        name: label.clone(),
        op_type: op_type.to_string(),
        inputs,
        outputs: vec![Some(output)],
        fallback_label: label,
        ..Node::default()
    }
}
