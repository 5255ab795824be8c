//! What tests share: models made in memory.

use std::sync::Arc;

use secateur_model::graph::{Dim, Value};
use secateur_model::io::Source;
use secateur_model::model::Storage;
use secateur_model::{Attr, DType, Data, Graph, Model, Node, StoredTensor, TensorId, ValueId};

use crate::random::Stream;

/// Numbers between −1 and 1.
pub(crate) fn random(count: usize, seed: u64) -> Vec<f32> {
    let stream = Stream::new(seed, "test");
    (0..count as u64).map(|i| (stream.draw(i) >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// A model that grows node by node; its input is `x`.
pub(crate) struct Net {
    pub(crate) model: Model,
}

impl Net {
    pub(crate) fn new(batch: Option<usize>, sample: &[usize]) -> Self {
        let first = batch.map_or(Dim::Symbol("n".into()), Dim::Known);
        let shape = std::iter::once(first).chain(sample.iter().map(|&n| Dim::Known(n))).collect();
        let input = Value { name: "x".into(), dtype: Some(DType::F32), shape: Some(shape) };
        let graph = Graph { values: vec![input], inputs: vec![ValueId(0)], ..Graph::default() };
        let tensors = Default::default();
        Net { model: Model { tensors, graph: Some(graph), path: None, source: Source::memory() } }
    }

    fn graph(&mut self) -> &mut Graph {
        self.model.graph.as_mut().unwrap()
    }

    fn value(&mut self, name: &str) -> ValueId {
        let known = self.graph().values.iter().position(|value| value.name == name);
        let at = known.unwrap_or_else(|| {
            self.graph().values.push(Value { name: name.into(), ..Value::default() });
            self.graph().values.len() - 1
        });
        ValueId(at as u32)
    }

    pub(crate) fn tensor(&mut self, path: &str, shape: &[usize], values: Vec<f32>) {
        if self.model.tensors.contains_key(path) {
            return;
        }
        let id = TensorId(self.model.tensors.len() as u32);
        let stored = StoredTensor {
            path: path.into(),
            dtype: DType::F32,
            shape: shape.to_vec(),
            storage: Storage::Data(Arc::new(Data::F32(values))),
        };
        self.model.tensors.insert(path.into(), stored);
        let value = self.value(path);
        self.graph().constants.insert(value, id);
    }

    pub(crate) fn node(&mut self, op: &str, inputs: &[&str], output: &str, attrs: &[(&str, Attr)]) {
        let inputs = inputs.iter().map(|name| Some(self.value(name))).collect();
        let outputs = vec![Some(self.value(output))];
        let attrs = attrs.iter().map(|(name, attr)| (name.to_string(), attr.clone())).collect();
        let (op_type, fallback_label) = (op.into(), output.into());
        let node = Node { op_type, opset: 17, inputs, outputs, attrs, fallback_label, ..Node::default() };
        self.graph().nodes.push(node);
    }

    pub(crate) fn ends_with(mut self, output: &str) -> Arc<Model> {
        let output = self.value(output);
        self.graph().outputs.push(output);
        Arc::new(self.model)
    }
}

pub(crate) const TRANSPOSED: &[(&str, Attr)] = &[("transB", Attr::Int(1))];
