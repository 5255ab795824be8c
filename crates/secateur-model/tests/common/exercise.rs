//! What is done with bytes that may be a model: by the fuzz targets and by tests over damaged models.

use std::sync::Arc;

use secateur_model::infer::{Binding, Inference};
use secateur_model::io;
use secateur_model::model::Patch;
use secateur_model::packed::{Choice, ValueType};
use secateur_model::{DType, Graph, Model, StoredTensor, Tensor, TensorId, prunable};

/// Reads a model, walks all of it, and writes it back: without a change it is the same file, with
/// one it reads again and holds the change. Anything else but an error is a defect.
pub(crate) fn model(bytes: &[u8]) {
    let Ok(model) = io::read_bytes(bytes.to_vec()) else { return };
    for tensor in model.tensors.values() {
        if tensor.dtype.is_prunable() {
            let elements: usize = tensor.chunks_f32(1000).unwrap().map(|c| c.len()).sum();
            assert_eq!(elements, tensor.len());
        }
        assert_eq!(tensor.load().unwrap().shape(), tensor.shape);
    }
    if let Some(graph) = &model.graph {
        walk(graph, &model);
    }
    let written = write(&model, &Patch::new()).expect("no change, nothing to refuse");
    if !matches!(bytes, [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..]) {
        assert_eq!(written, bytes);
    }

    let floats = model.tensors.values().enumerate().filter(|(_, t)| t.dtype.is_prunable());
    for (index, stored) in floats.take(2) {
        let tensor = stored.load().unwrap();
        let mut patch = Patch::new();
        let zeros =
            secateur_model::model::decode(stored.dtype, &stored.shape, &vec![0; stored.byte_len()]).unwrap();
        let zeros = Tensor::from_data(tensor.shape().to_vec(), zeros).unwrap();
        patch.set(TensorId(index as u32), zeros.clone());
        let Ok(written) = write(&model, &patch) else { continue };
        let again = io::read_bytes(written).expect("what was written reads");
        assert_eq!(again.tensors.len(), model.tensors.len());
        assert_eq!(again.tensors[&stored.path].load().unwrap().data(), zeros.data());
    }
}

/// Reads a checkpoint, leaves its first tensor out and adds another one: what is written reads again and
/// has the others.
#[allow(dead_code)] // not for every test
pub(crate) fn table(bytes: &[u8]) {
    let Ok(model) = io::read_bytes(bytes.to_vec()) else { return };
    let Some((path, _)) = model.tensors.get_index(0) else { return };
    let added = format!("{path}.added");
    if model.graph.is_some() || model.tensors.contains_key(&added) {
        return;
    }
    let mut patch = Patch::new();
    patch.remove(TensorId(0));
    let ones = Tensor::vector(vec![1f32; 3]);
    patch.add(&added, DType::F32, vec![3], Some(TensorId(0)), Arc::new(move || Ok(ones.clone())));
    let Ok(written) = write(&model, &patch) else { return };
    let again = io::read_bytes(written.clone()).expect("what was written reads");
    assert!(again.tensors.contains_key(&added) && again.tensors.len() == model.tensors.len());
    let bytes = |tensor: &StoredTensor| secateur_model::model::encode(tensor.load().unwrap().data()).unwrap();
    for (path, tensor) in model.tensors.iter().skip(1) {
        assert_eq!(bytes(&again.tensors[path]), bytes(tensor));
    }
    assert_eq!(write(&again, &Patch::new()).unwrap(), written);
}

/// Reads a model, writes its packed tensors dense and its dense ones packed: each reads again with every bit. Where
/// the file cannot hold that, an error says so.
#[allow(dead_code)] // not for every test
pub(crate) fn packed(bytes: &[u8]) {
    let Ok(model) = io::read_bytes(bytes.to_vec()) else { return };
    let (mut dense, mut packed) = (Patch::new(), Patch::new());
    for (id, stored) in (0..).map(TensorId).zip(model.tensors.values()) {
        if stored.packed().is_some() {
            let stored = stored.clone();
            dense.set_lazy(id, Arc::new(move || stored.load()));
        } else if stored.dtype.is_prunable() && !stored.shape.is_empty() && !stored.is_empty() {
            let tensor = stored.load().expect("what was read loads");
            let spec = Choice::Smallest.spec(&tensor, &ValueType::Exact).expect("floats are packed");
            let layout = spec.layout;
            let make =
                move || Ok(Arc::new(secateur_model::packed::pack(&tensor, layout, ValueType::Exact)?.0));
            packed.set_packed(id, spec, Arc::new(make));
        }
    }
    let bits = |tensor: &StoredTensor| secateur_model::model::encode(tensor.load().unwrap().data()).ok();
    for patch in [dense, packed] {
        let Ok(written) = write(&model, &patch) else { continue };
        let again = io::read_bytes(written).expect("what was written reads");
        for (path, tensor) in &model.tensors {
            assert_eq!(bits(&again.tensors[path]), bits(tensor), "{path}");
        }
    }
}

/// Reads a model and asks what it means: shapes, costs, what can be pruned. Problems are fine, a panic
/// is a defect.
#[allow(dead_code)] // not for every test
pub(crate) fn meaning(bytes: &[u8]) {
    let Ok(model) = io::read_bytes(bytes.to_vec()) else { return };
    let _ = Inference::of(&model, &Binding::default());
    let _ = prunable::view(&model);
}

fn write(model: &Model, patch: &Patch) -> secateur_model::Result<Vec<u8>> {
    let mut out = Vec::new();
    io::write_stream(model, patch, &[], &mut out)?;
    Ok(out)
}

/// Every index of a graph leads somewhere.
fn walk(graph: &Graph, model: &Model) {
    assert_eq!(graph.producers().len(), graph.consumers().len());
    for &value in graph.inputs.iter().chain(&graph.outputs).chain(&graph.captures) {
        assert!(value.index() < graph.values.len());
    }
    for (&value, &tensor) in &graph.constants {
        assert_eq!(graph.values[value.index()].dtype, Some(model.tensor(tensor).dtype));
    }
    for node in &graph.nodes {
        for value in node.inputs.iter().chain(&node.outputs).flatten() {
            assert!(value.index() < graph.values.len());
        }
        node.graphs().for_each(|(_, inner)| walk(inner, model));
    }
}
