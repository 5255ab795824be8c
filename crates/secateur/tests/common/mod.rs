//! Models made in memory.

use std::sync::Arc;

use secateur_model::graph::Value;
use secateur_model::io::Source;
use secateur_model::model::Storage;
use secateur_model::{Attr, Data, Graph, Model, Node, StoredTensor, TensorId, ValueId};

/// A tensor in memory.
pub(crate) fn stored(path: &str, shape: &[usize], data: Data) -> StoredTensor {
    StoredTensor {
        path: path.into(),
        dtype: data.dtype(),
        shape: shape.to_vec(),
        storage: Storage::Data(Arc::new(data)),
    }
}

/// A model with a node for each tensor that owns it: `Conv`, or `Gemm` with the weight `[out, in]`.
pub(crate) fn model(tensors: Vec<StoredTensor>, groups: &[i64]) -> Model {
    let mut graph = Graph::default();
    for (t, tensor) in tensors.iter().enumerate() {
        let mut value = |name: String| {
            graph.values.push(Value { name, ..Value::default() });
            ValueId(graph.values.len() as u32 - 1)
        };
        let (x, w) = (value(format!("x{t}")), value(tensor.path.clone()));
        let y = value(format!("y{t}"));
        graph.inputs.push(x);
        graph.outputs.push(y);
        graph.constants.insert(w, TensorId(t as u32));
        let (op, attr, number) = match tensor.shape.len() {
            2 => ("Gemm", "transB", 1),
            _ => ("Conv", "group", groups[t]),
        };
        graph.nodes.push(Node {
            name: format!("node{t}"),
            op_type: op.into(),
            opset: 17,
            inputs: vec![Some(x), Some(w)],
            outputs: vec![Some(y)],
            attrs: [(attr.to_string(), Attr::Int(number))].into_iter().collect(),
            ..Node::default()
        });
    }
    let tensors = tensors.into_iter().map(|t| (t.path.clone(), t)).collect();
    Model { tensors, graph: Some(graph), path: None, source: Source::memory() }
}
