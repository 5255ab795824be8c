//! Small models made in memory, and what is said of their tensors.

use std::sync::Arc;

use secateur_model::graph::{Dim, Value};
use secateur_model::io::Source;
use secateur_model::model::Storage;
use secateur_model::prunable::{PrunableView, Reason, Status, view};
use secateur_model::{Attr, Graph, Model, Node, StoredTensor, Tensor, TensorId, ValueId};

/// Builds a model: constants by name, nodes by lines such as `Conv x w b -> y`.
#[derive(Default)]
pub struct Build {
    pub graph: Graph,
    pub tensors: Vec<StoredTensor>,
}

impl Build {
    pub fn value(&mut self, name: &str) -> Option<ValueId> {
        if name == "_" {
            return None;
        }
        let known = self.graph.values.iter().position(|v| v.name == name);
        Some(ValueId(known.unwrap_or_else(|| {
            self.graph.values.push(Value { name: name.into(), ..Value::default() });
            self.graph.values.len() - 1
        }) as u32))
    }

    pub fn stored(mut self, name: &str, tensor: Tensor) -> Self {
        let value = self.value(name).unwrap();
        self.graph.constants.insert(value, TensorId(self.tensors.len() as u32));
        self.tensors.push(StoredTensor {
            path: name.into(),
            dtype: tensor.dtype(),
            shape: tensor.shape().to_vec(),
            storage: Storage::Data(Arc::new(tensor.data().clone())),
        });
        self
    }

    pub fn weight(self, name: &str, shape: &[usize]) -> Self {
        let len = shape.iter().product();
        self.stored(name, Tensor::new(shape, vec![0.5f32; len]).unwrap())
    }

    pub fn node(self, line: &str) -> Self {
        self.node_with(line, [])
    }

    pub fn node_with<const N: usize>(mut self, line: &str, attrs: [(&str, Attr); N]) -> Self {
        let words: Vec<&str> = line.split(' ').collect();
        let arrow = words.iter().position(|&w| w == "->").unwrap();
        let inputs = words[1..arrow].iter().map(|name| self.value(name)).collect();
        let outputs: Vec<_> = words[arrow + 1..].iter().map(|name| self.value(name)).collect();
        self.graph.nodes.push(Node {
            name: format!("n{}", self.graph.nodes.len()),
            op_type: words[0].into(),
            opset: 17,
            inputs,
            outputs,
            attrs: attrs.into_iter().map(|(name, attr)| (name.to_string(), attr)).collect(),
            ..Node::default()
        });
        self
    }

    pub fn output(mut self, name: &str) -> Self {
        let value = self.value(name).unwrap();
        self.graph.outputs.push(value);
        self
    }

    pub fn shape(mut self, name: &str, rank: usize) -> Self {
        let value = self.value(name).unwrap();
        self.graph.values[value.index()].shape = Some(vec![Dim::Unknown; rank]);
        self
    }

    pub fn model(self) -> Model {
        Model {
            tensors: self.tensors.into_iter().map(|t| (t.path.clone(), t)).collect(),
            graph: Some(self.graph),
            path: None,
            source: Source::memory(),
        }
    }

    pub fn prunable(self, name: &str) -> PrunableView {
        match status(&self.model(), name) {
            Status::Prunable(view) => *view,
            Status::LeftDense(_, reason) | Status::Fixed(reason) => panic!("{reason:?}"),
        }
    }

    pub fn fixed(self, name: &str) -> Reason {
        match status(&self.model(), name) {
            Status::Prunable(view) | Status::LeftDense(view, _) => panic!("{view:?}"),
            Status::Fixed(reason) => reason,
        }
    }

    pub fn left_dense(self, name: &str) -> Reason {
        match status(&self.model(), name) {
            Status::LeftDense(_, reason) => reason,
            other => panic!("{other:?}"),
        }
    }
}

/// What is said of a tensor.
pub fn status(model: &Model, name: &str) -> Status {
    let id = model.tensor_id(name).unwrap();
    view(model).unwrap().into_iter().find(|e| e.tensor == id).unwrap().status
}
