//! Small models made in memory, and packed.

use std::sync::Arc;

use secateur_model::graph::{Dim, Value};
use secateur_model::model::{Storage, StoredTensor};
use secateur_model::packed::{self, ValueType};
use secateur_model::{Attr, DType, Graph, Model, Node, Tensor, TensorId, ValueId, io};

/// A model of nodes that each take the result of the one before, and constants.
pub(crate) struct Chain {
    model: Model,
    graph: Graph,
    last: ValueId,
    state: u64,
}

impl Chain {
    pub(crate) fn new(input: &[usize]) -> Self {
        let model =
            Model { tensors: Default::default(), graph: None, path: None, source: io::Source::memory() };
        let mut chain = Chain { model, graph: Graph::default(), last: ValueId(0), state: 3 };
        let value = chain.value(Value {
            name: "x".into(),
            dtype: Some(DType::F32),
            shape: Some(input.iter().map(|&extent| Dim::Known(extent)).collect()),
        });
        chain.graph.inputs.push(value);
        chain
    }

    fn value(&mut self, value: Value) -> ValueId {
        self.graph.values.push(value);
        ValueId(self.graph.values.len() as u32 - 1)
    }

    /// Random values, so many of a hundred not zero.
    pub(crate) fn random(&mut self, shape: &[usize], kept: u64) -> Tensor {
        let mut next = || {
            self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            self.state >> 33
        };
        let mut value = || if next() % 100 < kept { (next() % 2001) as f32 / 10_000.0 - 0.1 } else { 0.0 };
        Tensor::new(shape, (0..shape.iter().product::<usize>()).map(|_| value()).collect()).unwrap()
    }

    pub(crate) fn constant(&mut self, tensor: Tensor) -> ValueId {
        let path = format!("w{}", self.model.tensors.len());
        let value = self.value(Value { name: path.clone(), ..Value::default() });
        self.graph.constants.insert(value, TensorId(self.model.tensors.len() as u32));
        let (dtype, (shape, data)) = (tensor.dtype(), tensor.into_parts());
        let storage = Storage::Data(Arc::new(data));
        self.model.tensors.insert(path.clone(), StoredTensor { path, dtype, shape, storage });
        value
    }

    pub(crate) fn node(&mut self, op_type: &str, constants: &[ValueId], attrs: &[(&str, Attr)]) {
        let inputs = [&[self.last], constants].concat();
        let (node, out) = node_of(&mut self.graph, op_type, &inputs, attrs);
        self.graph.nodes.push(node);
        self.last = out;
    }

    /// A node beside the chain.
    #[allow(dead_code)] // not for every test
    pub(crate) fn side(&mut self, op_type: &str, inputs: &[ValueId], attrs: &[(&str, Attr)]) -> ValueId {
        let (node, out) = node_of(&mut self.graph, op_type, inputs, attrs);
        self.graph.nodes.push(node);
        out
    }

    /// A loop that carries the chain's last value; without end where there is no trip count.
    #[allow(dead_code)] // not for every test
    pub(crate) fn looped(&mut self, trips: Option<ValueId>, body: Graph) {
        let attrs = [("body", Attr::Graph(Box::new(body)))];
        let (mut node, out) = node_of(&mut self.graph, "Loop", &[], &attrs);
        node.inputs = vec![trips, None, Some(self.last)];
        self.graph.nodes.push(node);
        self.last = out;
    }

    pub(crate) fn model(mut self) -> Model {
        self.graph.outputs.push(self.last);
        Model { graph: Some(self.graph), ..self.model }
    }
}

/// A node for a graph, and the value that is new there for its output.
pub(crate) fn node_of(
    graph: &mut Graph,
    op_type: &str,
    inputs: &[ValueId],
    attrs: &[(&str, Attr)],
) -> (Node, ValueId) {
    graph.values.push(Value::default());
    let out = ValueId(graph.values.len() as u32 - 1);
    let node = Node {
        op_type: op_type.into(),
        opset: 20,
        inputs: inputs.iter().map(|&value| Some(value)).collect(),
        outputs: vec![Some(out)],
        attrs: attrs.iter().map(|(name, attr)| ((*name).to_string(), attr.clone())).collect(),
        ..Node::default()
    };
    (node, out)
}

/// The model with its matrices and kernels packed.
#[allow(dead_code)] // not for every test
pub(crate) fn packed(model: &Model, values: ValueType) -> Model {
    let mut model = model.clone();
    for stored in model.tensors.values_mut().filter(|stored| stored.shape.len() > 1) {
        let layout = packed::Layout::bitmask(&stored.shape);
        let (packed, _) = packed::pack(&stored.load().unwrap(), layout, values).unwrap();
        stored.storage = Storage::Packed(Arc::new(packed));
    }
    model
}
