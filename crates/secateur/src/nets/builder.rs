//! A network that grows layer by layer.

use std::sync::Arc;

use secateur_model::graph::{Dim, Value};
use secateur_model::io::Source;
use secateur_model::model::Storage;
use secateur_model::{Attr, DType, Data, Graph, Model, Node, StoredTensor, TensorId, ValueId};

/// The version of ONNX's operators.
const OPSET: u32 = 17;

/// A network under construction. Layers are named as in PyTorch, `fc1.weight`; their weights are zeros until they are
/// initialised.
pub(super) struct Builder {
    model: Model,
    graph: Graph,
}

impl Builder {
    pub(super) fn new() -> Self {
        let model = Model { tensors: Default::default(), graph: None, path: None, source: Source::memory() };
        Builder { model, graph: Graph::default() }
    }

    fn value(&mut self, name: &str, shape: Option<Vec<Dim>>) -> ValueId {
        let dtype = shape.is_some().then_some(DType::F32);
        self.graph.values.push(Value { name: name.into(), dtype, shape });
        ValueId(self.graph.values.len() as u32 - 1)
    }

    fn tensor(&mut self, path: String, shape: &[usize], value: f32) -> ValueId {
        let id = TensorId(self.model.tensors.len() as u32);
        let values = vec![value; shape.iter().product()];
        let storage = Storage::Data(Arc::new(Data::F32(values)));
        let stored = StoredTensor { path: path.clone(), dtype: DType::F32, shape: shape.to_vec(), storage };
        let value = self.value(&path, None);
        self.model.tensors.insert(path, stored);
        self.graph.constants.insert(value, id);
        value
    }

    fn node(&mut self, name: &str, op: &str, inputs: &[ValueId], attrs: &[(&str, Attr)]) -> ValueId {
        let output = self.value(&format!("{name}.output"), None);
        self.graph.nodes.push(Node {
            name: name.into(),
            op_type: op.into(),
            opset: OPSET,
            inputs: inputs.iter().copied().map(Some).collect(),
            outputs: vec![Some(output)],
            attrs: attrs.iter().map(|(name, attr)| (name.to_string(), attr.clone())).collect(),
            ..Node::default()
        });
        output
    }

    /// The images: channels, height and width, for any number of samples.
    pub(super) fn input(&mut self, sample: [usize; 3]) -> ValueId {
        let batch = Dim::Symbol("batch".into());
        let shape = std::iter::once(batch).chain(sample.map(Dim::Known)).collect();
        let input = self.value("input", Some(shape));
        self.graph.inputs.push(input);
        input
    }

    /// The logits, for so many classes.
    pub(super) fn output(&mut self, value: ValueId, classes: usize) {
        let value_info = &mut self.graph.values[value.index()];
        value_info.name = "output".into();
        value_info.dtype = Some(DType::F32);
        value_info.shape = Some(vec![Dim::Symbol("batch".into()), Dim::Known(classes)]);
        self.graph.outputs.push(value);
    }

    /// A fully connected layer.
    pub(super) fn linear(&mut self, name: &str, input: ValueId, inputs: usize, outputs: usize) -> ValueId {
        let weight = self.tensor(format!("{name}.weight"), &[outputs, inputs], 0.0);
        let bias = self.tensor(format!("{name}.bias"), &[outputs], 0.0);
        self.node(name, "Gemm", &[input, weight, bias], &[("transB", Attr::Int(1))])
    }

    /// A convolution over a square kernel, padded so that a stride of 1 keeps the size.
    pub(super) fn conv(
        &mut self,
        name: &str,
        input: ValueId,
        [inputs, outputs]: [usize; 2],
        [kernel, stride]: [usize; 2],
        has_bias: bool,
    ) -> ValueId {
        let weight = self.tensor(format!("{name}.weight"), &[outputs, inputs, kernel, kernel], 0.0);
        let bias = has_bias.then(|| self.tensor(format!("{name}.bias"), &[outputs], 0.0));
        let ints = |value: usize, count: usize| Attr::Ints(vec![value as i64; count]);
        let operands: Vec<ValueId> = [input, weight].into_iter().chain(bias).collect();
        let attrs =
            [("kernel_shape", ints(kernel, 2)), ("pads", ints(kernel / 2, 4)), ("strides", ints(stride, 2))];
        self.node(name, "Conv", &operands, &attrs)
    }

    /// A batch-norm.
    pub(super) fn batch_norm(&mut self, name: &str, input: ValueId, channels: usize) -> ValueId {
        let parts = [("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)];
        let parts = parts.map(|(part, value)| self.tensor(format!("{name}.{part}"), &[channels], value));
        let operands: Vec<ValueId> = std::iter::once(input).chain(parts).collect();
        self.node(name, "BatchNormalization", &operands, &[])
    }

    pub(super) fn relu(&mut self, name: &str, input: ValueId) -> ValueId {
        self.node(name, "Relu", &[input], &[])
    }

    pub(super) fn add(&mut self, name: &str, one: ValueId, other: ValueId) -> ValueId {
        self.node(name, "Add", &[one, other], &[])
    }

    /// The maximum of each square of 2 × 2.
    pub(super) fn max_pool(&mut self, name: &str, input: ValueId) -> ValueId {
        let ints = || Attr::Ints(vec![2, 2]);
        self.node(name, "MaxPool", &[input], &[("kernel_shape", ints()), ("strides", ints())])
    }

    /// The mean of each channel.
    pub(super) fn global_pool(&mut self, name: &str, input: ValueId) -> ValueId {
        self.node(name, "GlobalAveragePool", &[input], &[])
    }

    pub(super) fn flatten(&mut self, input: ValueId) -> ValueId {
        self.node("flatten", "Flatten", &[input], &[])
    }

    pub(super) fn finish(self, name: &str) -> Model {
        let graph = Graph { name: name.into(), ..self.graph };
        Model { graph: Some(graph), ..self.model }
    }
}
