//! Small graphs in memory, with random numbers.

use std::sync::Arc;

use secateur_model::graph::{Dim, Value};
use secateur_model::model::{Storage, StoredTensor};
use secateur_model::{Graph, Model, Node, Tensor, TensorId, ValueId, io, ops};

/// Numbers that are random enough, and the same each time.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    #[allow(dead_code)]
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % end
    }

    /// In −1…1.
    pub(crate) fn number(&mut self) -> f32 {
        self.below(2001) as f32 / 1000.0 - 1.0
    }

    #[allow(dead_code)]
    pub(crate) fn permutation(&mut self, len: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..len).collect();
        (1..len).for_each(|i| all.swap(i, self.below(i + 1)));
        all
    }
}

/// A graph, built node by node; what is given is kept with it.
pub(crate) struct Build {
    model: Model,
    graph: Graph,
    given: Vec<(ValueId, Tensor)>,
}

impl Build {
    pub(crate) fn new() -> Self {
        let model =
            Model { tensors: Default::default(), graph: None, path: None, source: io::Source::memory() };
        Build { model, graph: Graph::default(), given: Vec::new() }
    }

    fn value(&mut self) -> ValueId {
        let id = ValueId(self.graph.values.len() as u32);
        self.graph.values.push(Value { name: format!("v{}", id.0), ..Value::default() });
        id
    }

    pub(crate) fn input(&mut self, tensor: Tensor) -> ValueId {
        let id = self.value();
        let value = &mut self.graph.values[id.index()];
        value.dtype = Some(tensor.dtype());
        value.shape = Some(tensor.shape().iter().map(|&d| Dim::Known(d)).collect());
        self.graph.inputs.push(id);
        self.given.push((id, tensor));
        id
    }

    pub(crate) fn constant(&mut self, tensor: Tensor) -> ValueId {
        let id = self.value();
        let path = self.graph.value_name(id).to_string();
        self.graph.constants.insert(id, TensorId(self.model.tensors.len() as u32));
        self.model.tensors.insert(path.clone(), stored(path, tensor));
        id
    }

    pub(crate) fn node(&mut self, op: &ops::Op, opset: u32, node: Node, outputs: usize) -> Vec<ValueId> {
        let made: Vec<ValueId> = (0..outputs).map(|_| self.value()).collect();
        self.graph.nodes.push(Node {
            name: format!("n{}", self.graph.nodes.len()),
            op_type: op.name.into(),
            domain: op.domain.into(),
            opset,
            outputs: made.iter().map(|&v| Some(v)).collect(),
            ..node
        });
        made
    }

    pub(crate) fn output(&mut self, value: ValueId) {
        self.graph.outputs.push(value);
    }

    pub(crate) fn finish(self) -> (Model, Vec<(ValueId, Tensor)>) {
        (Model { graph: Some(self.graph), ..self.model }, self.given)
    }
}

#[allow(dead_code)]
pub(crate) fn stored(path: String, tensor: Tensor) -> StoredTensor {
    let (dtype, (shape, data)) = (tensor.dtype(), tensor.into_parts());
    StoredTensor { path, dtype, shape, storage: Storage::Data(Arc::new(data)) }
}
