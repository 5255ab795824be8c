//! Patches made at random, and what has to hold of them: an error, or a file that reads as the patched model.

use secateur_model::graph::{Dim, Value};
use secateur_model::io;
use secateur_model::model::{GraphPath, Patch, decode, encode};
use secateur_model::{Attr, DType, ErrorKind, Graph, Model, Node, NodeId, Tensor, TensorId, ValueId};

/// A number below an end, which is at least 1.
pub type Below<'a> = &'a mut dyn FnMut(usize) -> usize;

/// A patch of one to four changes, some of which make sense.
pub fn random(model: &Model, below: Below<'_>) -> Patch {
    let mut patch = Patch::by("random");
    for _ in 0..=below(4) {
        match &model.graph {
            Some(graph) if below(4) > 0 => {
                let (path, graph) = somewhere(graph, below);
                patch.set_graph(path);
                change_graph(model, graph, &mut patch, below);
            }
            _ => change_tensor(model, &mut patch, below),
        }
    }
    patch
}

/// Elements of zeros; `None` where there would be too many, or they are text.
pub fn zeros(dtype: DType, shape: &[usize]) -> Option<Tensor> {
    let len =
        shape.iter().try_fold(1usize, |len, &extent| len.checked_mul(extent)).filter(|&len| len < 1 << 22)?;
    let bytes = vec![0; dtype.bytes_for(len)?];
    Tensor::from_data(shape.to_vec(), decode(dtype, shape, &bytes).ok()?).ok()
}

/// The main graph, or one nested in it.
fn somewhere<'a>(main: &'a Graph, below: Below<'_>) -> (GraphPath, &'a Graph) {
    let (mut path, mut graph) = (GraphPath::new(), main);
    loop {
        let nested: Vec<(NodeId, &String, usize, &Graph)> = (0..)
            .map(NodeId)
            .zip(&graph.nodes)
            .flat_map(|(id, node)| node.attrs.iter().map(move |(name, attr)| (id, name, attr)))
            .flat_map(|(id, name, attr)| (0..).zip(attr.graphs()).map(move |(k, inner)| (id, name, k, inner)))
            .collect();
        if nested.is_empty() || below(2) == 0 {
            return (path, graph);
        }
        let (id, name, position, inner) = nested[below(nested.len())];
        path.push((id, name.clone(), position));
        graph = inner;
    }
}

fn change_tensor(model: &Model, patch: &mut Patch, below: Below<'_>) {
    if model.tensors.is_empty() {
        return;
    }
    let id = TensorId(below(model.tensors.len()) as u32);
    let stored = model.tensor(id);
    let mut shape = stored.shape.clone();
    let mut dtype = stored.dtype;
    match below(6) {
        0 => return patch.remove(id),
        1 => dtype = [DType::F32, DType::F16, DType::I64, DType::U8][below(4)],
        2 => shape.push(1 + below(2)),
        3 | 4 if !shape.is_empty() => {
            let axis = below(shape.len());
            shape[axis] = 1 + below(shape[axis].clamp(1, 64));
        }
        _ => {}
    }
    let Some(tensor) = zeros(dtype, &shape) else { return };
    if model.graph.is_none() && below(3) == 0 {
        patch.rename(id, format!("{}.renamed", stored.path));
    }
    patch.replace(id, tensor);
}

fn change_graph(model: &Model, graph: &Graph, patch: &mut Patch, below: Below<'_>) {
    if graph.nodes.is_empty() {
        return;
    }
    let index = below(graph.nodes.len());
    let (id, node) = (NodeId(index as u32), &graph.nodes[index]);
    let value = |below: Below<'_>| ValueId(below(graph.values.len()) as u32);
    match below(11) {
        // An attribute that another node of the operator has.
        0 => {
            let alike = graph.nodes.iter().filter(|other| other.op_type == node.op_type);
            let attrs: Vec<(&String, &Attr)> = alike.flat_map(|other| &other.attrs).collect();
            if let Some((name, attr)) = attrs.get(below(attrs.len().max(1))) {
                patch.set_attr(id, name, (*attr).clone());
            }
        }
        1 => {
            if let Some((name, attr)) = node.attrs.get_index(below(node.attrs.len().max(1))) {
                match (attr, below(3)) {
                    (_, 0) => patch.remove_attr(id, name),
                    (Attr::Int(known), _) => patch.set_attr(id, name, Attr::Int(known.wrapping_add(1))),
                    (Attr::Float(known), _) => patch.set_attr(id, name, Attr::Float(known * 0.5)),
                    (attr, _) => patch.set_attr(id, name, attr.clone()),
                }
            }
        }
        // A node that does nothing in front of this one.
        2 | 3 => {
            if let Some((input, value)) = node.inputs.iter().enumerate().find_map(|(i, v)| Some((i, (*v)?))) {
                let new = patch.add_value(model, "passed").expect("the graph is there");
                let (inputs, outputs) = (vec![Some(value)], vec![Some(new)]);
                let name = format!("pass {index} {}", new.0);
                patch.insert_before(
                    id,
                    Node { op_type: "Identity".into(), name, inputs, outputs, ..Node::default() },
                );
                patch.rewire(id, input, Some(new));
            }
        }
        // The node taken out, its first input in its place.
        4 => {
            if let (Some(Some(input)), [Some(output)]) = (node.inputs.first(), &node.outputs[..]) {
                patch.redirect(model, *output, *input).expect("the graph is there");
                patch.remove_node(id);
            }
        }
        // Another node with the same outputs.
        5 => {
            let new = Node { name: format!("again {index}"), ..node.clone() };
            patch.replace_node(id, [new]);
        }
        // A constant of its own.
        6 => {
            let constant = |value: &Option<ValueId>| graph.constants.get(&(*value)?).copied();
            if let Some(input) = node.inputs.iter().position(|value| constant(value).is_some()) {
                let stored = model.tensor(constant(&node.inputs[input]).expect("found above"));
                if let Some(tensor) = zeros(stored.dtype, &stored.shape) {
                    patch.set_constant(model, id, input, tensor).expect("the input is a constant");
                }
            }
        }
        7 => {
            if !node.inputs.is_empty() {
                let value = value(below);
                patch.rewire(id, below(node.inputs.len()), Some(value));
            }
        }
        8 => match below(3) {
            0 => {
                if !graph.outputs.is_empty() {
                    patch.remove_output(graph.outputs[below(graph.outputs.len())]);
                }
            }
            _ => {
                let value = value(below);
                patch.add_output(value);
            }
        },
        9 => {
            let first = graph.values.iter().find(|value| value.dtype.is_some() && value.shape.is_some());
            let Some(Value { dtype: Some(dtype), shape: Some(shape), .. }) = first else { return };
            let input = node.inputs.len().saturating_sub(1);
            if let Ok(new) = patch.add_input(model, "given", *dtype, shape.clone()) {
                patch.rewire(id, below(input + 1), Some(new));
            }
        }
        _ => {
            let Some(&input) = graph.inputs.first() else { return };
            let shape = graph.values[input.index()].shape.clone().map(|mut dims| {
                if let Some(first) = dims.first_mut() {
                    *first = [Dim::Symbol("samples".into()), Dim::Unknown, Dim::Known(2)][below(3)].clone();
                }
                dims
            });
            patch.declare(input, None, shape);
        }
    }
}

/// Applies and writes a patch: both refuse it, or the file reads as the model that `apply` gave. Returns the file.
pub fn check(model: &Model, patch: &Patch) -> Option<Vec<u8>> {
    let applied = patch.apply(model);
    let mut out = Vec::new();
    let written = io::write_stream(model, patch, &[], &mut out);
    match (applied, written) {
        (Err(_), Ok(_)) => panic!("a patch that does not apply was written"),
        (Ok(_), Err(error)) => {
            assert_ne!(error.kind(), ErrorKind::Internal, "{error}");
            None
        }
        (Err(error), Err(_)) => {
            assert_ne!(error.kind(), ErrorKind::Internal, "{error}");
            None
        }
        (Ok(applied), Ok(_)) => {
            let again = match io::read_bytes(out.clone()) {
                Ok(again) => again,
                // External data lie behind the model in a stream, so it cannot be read from there.
                Err(_) if model.source.is_several_files() => return None,
                Err(error) => panic!("what was written does not read: {error}"),
            };
            same(&applied, &again);
            Some(out)
        }
    }
}

/// Two models are the same but for the order of their tensors.
pub fn same(one: &Model, other: &Model) {
    match (&one.graph, &other.graph) {
        (Some(graph), Some(others)) => same_graph((one, graph), (other, others), true),
        (None, None) => {
            let tensors = |model: &Model| {
                let ids = (0..model.tensors.len() as u32).map(TensorId);
                ids.map(|id| tensor(model, id)).collect::<std::collections::BTreeMap<_, _>>()
            };
            assert_eq!(tensors(one), tensors(other));
        }
        _ => panic!("one has a graph"),
    }
}

fn tensor(model: &Model, id: TensorId) -> (String, (DType, Vec<usize>, Vec<u8>)) {
    let stored = model.tensor(id);
    let tensor = stored.load().unwrap();
    let bytes = match tensor.data() {
        secateur_model::Data::String(texts) => format!("{texts:?}").into_bytes(),
        data => encode(data).unwrap(),
    };
    (stored.path.clone(), (stored.dtype, stored.shape.clone(), bytes))
}

fn same_graph((one, graph): (&Model, &Graph), (other, others): (&Model, &Graph), main: bool) {
    // A constant of a nested graph is named by the way there, which changes with the node around it.
    let own = |name: &str| match main {
        true => name.to_string(),
        false => name.rsplit("::").next().unwrap_or(name).to_string(),
    };
    let declared = |graph: &Graph, values: &[ValueId]| {
        let of = |value: &ValueId| {
            let Value { name, dtype, shape } = &graph.values[value.index()];
            (own(name), *dtype, shape.clone().filter(|_| main))
        };
        values.iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(declared(graph, &graph.inputs), declared(others, &others.inputs));
    assert_eq!(declared(graph, &graph.outputs), declared(others, &others.outputs));
    assert_eq!(graph.nodes.len(), others.nodes.len());
    for (node, found) in graph.nodes.iter().zip(&others.nodes) {
        let names = |graph: &Graph, node: &Node| {
            let given = node.inputs.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
            let name = |value: &Option<ValueId>| value.map(|value| own(graph.value_name(value)));
            node.inputs[..given].iter().map(name).collect::<Vec<_>>()
        };
        assert_eq!(
            (&node.op_type, &node.domain, node.opset, &node.name),
            (&found.op_type, &found.domain, found.opset, &found.name)
        );
        assert_eq!(names(graph, node), names(others, found), "{}", node.name);
        let outputs = |node: &Node| node.outputs.iter().flatten().copied().collect::<Vec<_>>();
        assert_eq!(declared(graph, &outputs(node)), declared(others, &outputs(found)), "{}", node.name);
        for (value, again) in node.inputs.iter().flatten().zip(found.inputs.iter().flatten()) {
            let constants = (graph.constants.get(value), others.constants.get(again));
            match constants {
                (Some(&id), Some(&again)) => assert_eq!(tensor(one, id).1, tensor(other, again).1),
                (one, other) => assert_eq!(one.is_some(), other.is_some()),
            }
        }
        let keys = |node: &Node| node.attrs.keys().cloned().collect::<std::collections::BTreeSet<_>>();
        assert_eq!(keys(node), keys(found));
        for (name, attr) in &node.attrs {
            match (attr, &found.attrs[name]) {
                (Attr::Graph(graph), Attr::Graph(others)) => same_graph((one, graph), (other, others), false),
                (Attr::Graphs(graphs), Attr::Graphs(others)) => {
                    for (graph, others) in graphs.iter().zip(others) {
                        same_graph((one, graph), (other, others), false);
                    }
                }
                (attr, found) => assert_eq!(format!("{attr:?}"), format!("{found:?}")),
            }
        }
    }
}
