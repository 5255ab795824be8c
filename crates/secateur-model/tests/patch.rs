//! Patches: what they make of a model in memory, and that the file has the same.

mod common;

use common::patches::{self, check, same};
use common::*;
use secateur_model::graph::Dim;
use secateur_model::io::{self, WriteOptions};
use secateur_model::model::{GraphPath, Patch};
use secateur_model::prunable;
use secateur_model::{Attr, Data, Error, Model, Node, NodeId, Tensor, ValueId};

fn ones(shape: &[usize]) -> Tensor {
    Tensor::new(shape, vec![1f32; shape.iter().product()]).unwrap()
}

fn weight(name: &str, dims: &[i64]) -> Msg {
    raw_f32(name, dims, &vec![0.5; dims.iter().product::<i64>() as usize])
}

/// Two convolutions, with unknown fields, declared shapes, and the batch open.
fn convs() -> Msg {
    let batch = |channels: i64, extent: i64| {
        let dims = [channels, extent, extent].map(|d| msg().int(1, d));
        let shape =
            dims.into_iter().fold(msg().msg(1, msg().text(2, "N").text(3, "kept")), |m, d| m.msg(1, d));
        msg().msg(1, msg().int(1, 1).msg(2, shape)).text(6, "kept too")
    };
    let info =
        |name: &str, channels, extent| msg().text(1, name).msg(2, batch(channels, extent)).text(3, "doc");
    let conv = |name: &str, inputs: &[&str], output: &str| {
        node("Conv", inputs, &[output]).text(3, name).msg(5, attr("group", 2).int(3, 1)).unknown()
    };
    let graph = msg()
        .text(2, "g")
        .unknown()
        .msg(1, conv("one", &["x", "w"], "c"))
        .msg(1, node("Relu", &["c"], &["r"]).text(3, "relu"))
        .msg(1, conv("two", &["r", "v"], "y"))
        .msg(5, weight("w", &[4, 3, 3, 3]).unknown())
        .msg(5, weight("v", &[2, 4, 1, 1]))
        .msg(11, info("x", 3, 8))
        .msg(12, info("y", 2, 6))
        .msg(13, info("c", 4, 6))
        .msg(13, info("r", 4, 6));
    model(graph)
}

fn shape_of(model: &Model, name: &str) -> Option<Vec<Dim>> {
    let graph = model.graph().unwrap();
    graph.values.iter().find(|value| value.name == name).unwrap().shape.clone()
}

fn value(model: &Model, name: &str) -> ValueId {
    let graph = model.graph().unwrap();
    ValueId(graph.values.iter().position(|value| value.name == name).unwrap() as u32)
}

/// The file with a patch, read again: the model that `apply` gives.
fn written(model: &Model, patch: &Patch) -> Model {
    let bytes = check(model, patch).unwrap_or_else(|| {
        let applied = patch.apply(model).map(|_| ());
        panic!("{applied:?}, {:?}", io::write_stream(model, patch, &[], &mut Vec::new()))
    });
    io::read_bytes(bytes).unwrap()
}

fn refused(model: &Model, patch: &Patch) -> Error {
    let error = io::write_stream(model, patch, &[], &mut Vec::new()).unwrap_err();
    patch.apply(model).map_or_else(|error| error, |_| error)
}

#[test]
fn channels_that_go_change_shapes_and_what_is_declared_of_them() {
    let source = convs();
    let model = read(&source);
    let mut patch = Patch::by("shrink");
    patch.replace(id(&model, "w"), ones(&[3, 3, 3, 3]));
    patch.replace(id(&model, "v"), ones(&[2, 3, 1, 1]));
    let again = written(&model, &patch);
    let dims = |channels, extent| {
        let known = [channels, extent, extent].map(Dim::Known);
        Some(std::iter::once(Dim::Symbol("N".into())).chain(known).collect::<Vec<_>>())
    };
    assert_eq!(shape_of(&again, "c"), dims(3, 6));
    assert_eq!(shape_of(&again, "r"), dims(3, 6));
    assert_eq!(shape_of(&again, "y"), dims(2, 6));
    assert_eq!(data(&again, "w"), Data::F32(vec![1.0; 81]));
    // All that is not touched is there: unknown fields, documentation, what is said of an axis.
    let bytes = write(&model, &patch);
    let count =
        |bytes: &[u8], text: &str| bytes.windows(text.len()).filter(|w| *w == text.as_bytes()).count();
    for text in ["in a group", "doc", "kept", "kept too", "tests"] {
        assert_eq!(count(&bytes, text), count(&source.0, text), "{text}");
    }
    // The same shapes again give the same bytes as changed elements alone.
    let mut plain = Patch::new();
    plain.replace(id(&model, "w"), ones(&[4, 3, 3, 3]));
    assert_eq!(write(&model, &plain), write(&model, &set(&model, "w", vec![1f32; 108])));
}

#[test]
fn a_half_made_change_is_refused_with_rule_node_and_shapes() {
    let model = read(&convs());
    let mut patch = Patch::by("shrink");
    patch.replace(id(&model, "w"), ones(&[3, 3, 3, 3]));
    let error = refused(&model, &patch).to_string();
    for text in ["rule `shrink`", "`two` (Conv)", "`r` [1, 3, 6, 6]", "`r` [1, 4, 6, 6]", "`v` [2, 4, 1, 1]"]
    {
        assert!(error.contains(text), "{error}");
    }
    let mut patch = Patch::by("drop");
    patch.remove(id(&model, "v"));
    let error = refused(&model, &patch).to_string();
    for text in ["rule `drop`", "`two` (Conv)", "`v`", "still used"] {
        assert!(error.contains(text), "{error}");
    }
    let mut patch = Patch::by("cut");
    patch.remove_node(NodeId(1));
    let error = refused(&model, &patch).to_string();
    for text in ["rule `cut`", "`two` (Conv)", "`r`"] {
        assert!(error.contains(text), "{error}");
    }
    // The input's channels are declared otherwise than the first weight has them.
    let mut patch = Patch::by("widen");
    patch.declare(value(&model, "x"), None, Some([1, 5, 8, 8].map(Dim::Known).to_vec()));
    let error = refused(&model, &patch).to_string();
    for text in ["rule `widen`", "`one` (Conv)", "`x` [1, 5, 8, 8]", "`x` [1, 3, 8, 8]"] {
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn what_is_declared_behind_an_unknown_operator_stays_where_nothing_reaches_it() {
    let odd = node("Odd", &["c"], &["o"]).text(7, "own");
    let graph = msg()
        .text(2, "g")
        .msg(1, node("Conv", &["x", "w"], &["c"]).text(3, "conv"))
        .msg(1, odd)
        .msg(1, node("Relu", &["o"], &["y"]))
        .msg(5, weight("w", &[4, 3, 1, 1]))
        .msg(11, info("x", 1, &[1, 3, 2, 2]))
        .msg(12, info("y", 1, &[1, 9]))
        .msg(13, info("o", 1, &[1, 9]));
    let model = read(&common::model(graph).msg(8, msg().text(1, "own").int(2, 1)));
    // The node is another one, but gives the same shape.
    let mut patch = Patch::new();
    let node = model.graph().unwrap().nodes[0].clone();
    patch.replace_node(NodeId(0), [node]);
    let declared = Some([1, 9].map(Dim::Known).to_vec());
    assert_eq!(shape_of(&written(&model, &patch), "o"), declared);
    patch.replace(id(&model, "w"), ones(&[5, 3, 1, 1]));
    let again = written(&model, &patch);
    assert_eq!((shape_of(&again, "o"), shape_of(&again, "y")), (None, Some(vec![Dim::Unknown; 2])));
}

#[test]
fn types_that_contradict_each_other_are_refused() {
    let model = read(&convs());
    let mut patch = Patch::by("quantise");
    patch.replace(id(&model, "v"), Tensor::new([2, 4, 1, 1], vec![1u8; 8]).unwrap());
    let error = refused(&model, &patch).to_string();
    for text in ["rule `quantise`", "`two` (Conv)", "input 0 is of type f32, but input 1 of type u8"] {
        assert!(error.contains(text), "{error}");
    }
    // With all operands of the other type it is right.
    let mut patch = Patch::by("halve");
    for (name, shape) in [("w", [4, 3, 3, 3]), ("v", [2, 4, 1, 1])] {
        let halves = vec![half::f16::ONE; shape.iter().product()];
        patch.replace(id(&model, name), Tensor::new(shape, halves).unwrap());
    }
    patch.declare(value(&model, "x"), Some(secateur_model::DType::F16), None);
    assert_eq!(written(&model, &patch).graph().unwrap().values[0].dtype, Some(secateur_model::DType::F16));
}

#[test]
fn nodes_and_attributes_change() {
    let model = read(&convs());
    let mut patch = Patch::by("edit");
    patch.set_attr(NodeId(0), "group", Attr::Int(1));
    patch.set_attr(NodeId(0), "strides", Attr::Ints(vec![2, 2]));
    patch.remove_attr(NodeId(2), "group");
    let new = |op_type: &str, name: &str, inputs: Vec<ValueId>, output| Node {
        op_type: op_type.into(),
        name: name.into(),
        inputs: inputs.into_iter().map(Some).collect(),
        outputs: vec![Some(output)],
        ..Node::default()
    };
    let (relu, conv) = (value(&model, "r"), value(&model, "c"));
    patch.replace_node(NodeId(1), [new("LeakyRelu", "leaky", vec![conv], relu)]);
    let scale = patch.add_constant(&model, "scale", Tensor::scalar(2f32)).unwrap();
    let scaled = patch.add_value(&model, "scaled").unwrap();
    patch.insert_before(NodeId(2), new("Mul", "mul", vec![relu, scale], scaled));
    patch.rewire(NodeId(2), 0, Some(scaled));
    let bias = patch.add_constant(&model, "bias", ones(&[2])).unwrap();
    patch.rewire(NodeId(2), 2, Some(bias));
    let again = written(&model, &patch);
    let ops: Vec<_> = again.graph().unwrap().nodes.iter().map(|node| node.op_type.clone()).collect();
    assert_eq!(ops, ["Conv", "LeakyRelu", "Mul", "Conv"]);
    assert_eq!(again.graph().unwrap().nodes[0].ints("strides").unwrap(), Some(&[2, 2][..]));
    assert_eq!(shape_of(&again, "y").unwrap()[2], Dim::Known(3));
    // And back: the file that was written changes as any other does.
    let mut patch = Patch::new();
    patch.redirect(&again, value(&again, "scaled"), value(&again, "r")).unwrap();
    patch.remove_node(NodeId(2));
    patch.remove(id(&again, "scale"));
    patch.rewire(NodeId(3), 2, None);
    patch.remove(id(&again, "bias"));
    let last = written(&again, &patch);
    assert_eq!(last.tensors.keys().collect::<Vec<_>>(), ["w", "v"]);
    assert_eq!(last.graph().unwrap().nodes.len(), 3);
}

#[test]
fn a_shared_constant_is_copied_where_one_node_needs_another() {
    let graph = adds(&["w", "w"], &[2]).msg(5, raw_f32("w", &[2], &[1., 2.]));
    let model = read(&common::model(graph));
    let mut patch = Patch::new();
    let tensor = Tensor::vector(vec![3f32, 4.]);
    patch.set_constant(&model, NodeId(1), 1, tensor).unwrap();
    let again = written(&model, &patch);
    assert_eq!(data(&again, "w"), Data::F32(vec![1., 2.]));
    assert_eq!(data(&again, "w_2"), Data::F32(vec![3., 4.]));
    assert!(patch.set_constant(&model, NodeId(1), 0, ones(&[2])).is_err());
    assert!(patch.set_constant(&model, NodeId(9), 0, ones(&[2])).is_err());
}

#[test]
fn a_constant_that_is_an_output_is_copied_where_a_nested_node_needs_another() {
    let branch = |name: &str, inner: Msg| {
        attr(name, 5).msg(6, msg().text(2, name).msg(1, inner).msg(12, info("z", 1, &[2])))
    };
    let choose = node("If", &["cond"], &["y"])
        .msg(5, branch("then_branch", node("Add", &["x", "w"], &["z"])))
        .msg(5, branch("else_branch", node("Relu", &["x"], &["z"])));
    let graph = msg()
        .text(2, "g")
        .msg(1, choose)
        .msg(5, raw_f32("w", &[2], &[1., 2.]))
        .msg(11, info("x", 1, &[2]))
        .msg(11, info("cond", 9, &[]))
        .msg(12, info("y", 1, &[2]))
        .msg(12, info("w", 1, &[2]));
    let model = read(&common::model(graph));
    let mut patch = Patch::new();
    patch.set_graph([(NodeId(0), "then_branch".to_string(), 0)]);
    patch.set_constant(&model, NodeId(0), 1, Tensor::vector(vec![3f32, 4.])).unwrap();
    assert_eq!(data(&patch.apply(&model).unwrap(), "w"), Data::F32(vec![1., 2.]));
}

#[test]
fn initializers_that_are_inputs_too_are_declared_alike() {
    let graph = adds(&["w"], &[2]).msg(5, raw_f32("w", &[2], &[1., 2.])).msg(11, info("w", 1, &[2]));
    let old = msg().int(1, 3).msg(7, graph).msg(8, msg().text(1, "").int(2, 8));
    let model = read(&old);
    let mut patch = Patch::new();
    patch.replace(id(&model, "w"), ones(&[1]));
    let bytes = write(&model, &patch);
    same(&patch.apply(&model).unwrap(), &io::read_bytes(bytes.clone()).unwrap());
    assert!(bytes.windows(12).any(|w| w == &info("w", 1, &[1]).0[..12]));
    assert_eq!(bytes.len(), old.0.len() - 4);
    // A new one is an input too, and one that goes is none.
    let mut patch = Patch::new();
    let own = patch.add_constant(&model, "own", ones(&[2])).unwrap();
    patch.rewire(NodeId(0), 1, Some(own));
    patch.remove(id(&model, "w"));
    let again = written(&model, &patch);
    assert_eq!(again.tensors.keys().collect::<Vec<_>>(), ["own"]);
    assert!(again.graph().unwrap().inputs.len() == 1 && write(&model, &patch).len() > 20);
}

#[test]
fn external_data_are_laid_out_anew() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let floats: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
    std::fs::write(from.path().join("w.bin"), floats).unwrap();
    let at = |offset| [("location", "w.bin"), ("offset", offset), ("length", "8")];
    let graph = adds(&["u", "v"], &[2])
        .msg(5, external("u", 1, &[2], &at("0")))
        .msg(5, external("v", 1, &[2], &at("16")));
    let path = from.path().join("m.onnx");
    std::fs::write(&path, common::model(graph).0).unwrap();
    let model = io::read(&path).unwrap();
    let mut patch = Patch::new();
    patch.replace(id(&model, "u"), ones(&[1]));
    let out = to.path().join("m.onnx");
    io::write(&model, &patch, &[], &out, WriteOptions::default()).unwrap();
    let again = io::read(&out).unwrap();
    same(&patch.apply(&model).unwrap(), &again);
    assert_eq!(data(&again, "v"), Data::F32(vec![4., 5.]));
    assert_eq!(std::fs::read(to.path().join("w.bin")).unwrap().len(), 64 + 8);
}

#[test]
fn tensors_of_nested_graphs_change_their_shape() {
    let branch = |name| {
        let body = msg()
            .text(2, name)
            .msg(1, node("Mul", &["x", "v"], &["z"]))
            .msg(5, raw_f32("v", &[2], &[1., 2.]));
        attr(name, 5).msg(6, body.msg(12, info("z", 1, &[2])).msg(13, info("z", 1, &[2])))
    };
    let graph = msg()
        .text(2, "g")
        .msg(1, node("If", &["b"], &["y"]).msg(5, branch("then_branch")).msg(5, branch("else_branch")))
        .msg(11, info("x", 1, &[2]))
        .msg(11, info("b", 9, &[]))
        .msg(12, info("y", 1, &[2]));
    let model = read(&common::model(graph));
    let mut patch = Patch::new();
    patch.replace(id(&model, "y::then_branch::v"), ones(&[1]));
    let again = written(&model, &patch);
    assert_eq!(again.tensors["y::then_branch::v"].shape, [1]);
    let (_, nested) = again.graph().unwrap().nodes[0].graphs().next().unwrap();
    assert_eq!(nested.values[nested.outputs[0].index()].shape, None);
    // A value that a branch uses cannot go.
    let mut patch = Patch::by("cut");
    patch.remove(id(&model, "y::then_branch::v"));
    assert!(refused(&model, &patch).to_string().contains("rule `cut`"));
}

/// An `If` whose branches multiply `x` by a constant and add another; the condition is an input.
fn branches() -> Msg {
    let branch = |name: &str| {
        let body = msg()
            .text(2, name)
            .unknown()
            .msg(1, node("Constant", &[], &["b"]).msg(5, attr("value_floats", 6).floats(7, &[1., 2.])))
            .msg(1, node("Mul", &["h", "v"], &["m"]).text(3, "mul").unknown())
            .msg(1, node("Add", &["m", "b"], &["z"]).text(3, "add"))
            .msg(5, raw_f32("v", &[2], &[1., 2.]));
        attr(name, 5).msg(6, body.msg(12, info("z", 1, &[2])).msg(13, info("m", 1, &[2])))
    };
    let choose = node("If", &["cond"], &["y"]).text(3, "if");
    msg()
        .text(2, "g")
        .msg(1, node("Relu", &["x"], &["h"]))
        .msg(1, choose.msg(5, branch("then_branch")).msg(5, branch("else_branch")))
        .msg(11, info("x", 1, &[2]))
        .msg(11, info("cond", 9, &[]))
        .msg(12, info("y", 1, &[2]))
}

fn branch_of(name: &str) -> Vec<(NodeId, String, usize)> {
    vec![(NodeId(1), name.to_string(), 0)]
}

fn value_in(model: &Model, path: &GraphPath, name: &str) -> ValueId {
    let values = &model.graph_at(path).unwrap().values;
    ValueId(values.iter().position(|value| value.name.rsplit("::").next() == Some(name)).unwrap() as u32)
}

#[test]
fn nodes_of_nested_graphs_change() {
    let source = common::model(branches());
    let model = read(&source);
    let path = branch_of("then_branch");
    let of = |name| value_in(&model, &path, name);
    let new = |op_type: &str, inputs: &[ValueId], output| Node {
        op_type: op_type.into(),
        name: format!("new {op_type}"),
        inputs: inputs.iter().copied().map(Some).collect(),
        outputs: vec![Some(output)],
        ..Node::default()
    };
    let mut patch = Patch::by("inner");
    patch.set_graph(path.clone());
    // A new constant, a value of the main graph, and a node that is replaced.
    let scale = patch.add_constant(&model, "scale", Tensor::vector(vec![3f32, 3.])).unwrap();
    let x = patch.capture(&model, value(&model, "x")).unwrap();
    assert_eq!(patch.capture(&model, value(&model, "h")).unwrap(), of("h"));
    let scaled = patch.add_value(&model, "scaled").unwrap();
    patch.insert_before(NodeId(1), new("Mul", &[of("m"), scale], scaled));
    patch.rewire(NodeId(1), 0, Some(scaled));
    patch.rewire(NodeId(1), 1, Some(x));
    patch.remove(id(&model, "y::then_branch::b"));
    patch.replace_node(NodeId(0), [new("Sub", &[of("h"), of("v")], of("m"))]);
    patch.set(id(&model, "y::then_branch::v"), Tensor::vector(vec![5f32, 6.]));
    let again = written(&model, &patch);
    let nested = again.graph_at(&path).unwrap();
    let ops: Vec<_> = nested.nodes.iter().map(|node| node.op_type.as_str()).collect();
    assert_eq!(ops, ["Sub", "Mul", "Add"]);
    assert_eq!(data(&again, "y::then_branch::v"), Data::F32(vec![5., 6.]));
    assert!(again.tensor_id("y::then_branch::b").is_none() && again.tensor_id("y::else_branch::b").is_some());
    let bytes = write(&model, &patch);
    let count = |bytes: &[u8]| bytes.windows(10).filter(|w| *w == b"in a group").count();
    assert_eq!(count(&bytes) + 1, count(&source.0), "only the node that is replaced loses what is not known");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nested.onnx");
    std::fs::write(&file, bytes).unwrap();
    // An attribute, and a constant that one node needs different.
    let mut patch = Patch::by("inner");
    patch.set_graph(branch_of("else_branch"));
    patch.set_constant(&model, NodeId(0), 1, Tensor::vector(vec![7f32])).unwrap();
    patch.replace_node(
        NodeId(1),
        [Node {
            attrs: [("alpha".to_string(), Attr::Float(0.5))].into_iter().collect(),
            ..new("LeakyRelu", &[of("m")], of("z"))
        }],
    );
    let again = written(&model, &patch);
    assert_eq!(again.tensors["y::else_branch::v"].shape, [1]);
    let mut patch = Patch::new();
    patch.set_graph(branch_of("else_branch"));
    patch.set_attr(NodeId(1), "alpha", Attr::Float(0.25));
    let again = written(&again, &patch);
    let node = &again.graph_at(&branch_of("else_branch")).unwrap().nodes[1];
    assert_eq!(node.float("alpha").unwrap(), Some(0.25));
    let other = folder.path().join("attribute.onnx");
    std::fs::write(&other, write(&again, &Patch::new())).unwrap();
    valid(&[file, other]);
}

#[test]
fn wrong_changes_of_nested_graphs_are_refused() {
    let model = read(&common::model(branches()));
    let path = branch_of("then_branch");
    let inner = |change: &dyn Fn(&mut Patch)| {
        let mut patch = Patch::by("inner");
        patch.set_graph(path.clone());
        change(&mut patch);
        refused(&model, &patch).to_string()
    };
    let wide = |patch: &mut Patch| {
        patch.set_constant(&model, NodeId(0), 1, ones(&[3])).unwrap();
    };
    for (text, parts) in [
        (inner(&wide), vec!["`if` (If)", "`mul` (Mul)", "`h` [2]", "v` [3]", "v` [2]"]),
        (inner(&|patch| patch.remove_node(NodeId(0))), vec!["`add` (Add)", "`m`"]),
        (inner(&|patch| patch.remove_node(NodeId(7))), vec!["none with the index 7"]),
        (inner(&|patch| patch.add_output(ValueId(0))), vec!["belong to its node"]),
        (
            inner(&|patch| {
                patch.remove_node(NodeId(0));
                patch.set_graph([]);
                patch.remove_node(NodeId(1));
            }),
            vec!["no nested graph", "`then_branch` of node 1"],
        ),
    ] {
        for part in parts.iter().chain(&["rule `inner`"]) {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
    let mut patch = Patch::new();
    patch.set_graph([(NodeId(0), "body".to_string(), 0)]);
    assert!(patch.add_value(&model, "x").is_err());
    patch.set_graph([]);
    assert!(patch.capture(&model, ValueId(0)).is_err());
}

#[test]
fn the_graph_gets_inputs_and_outputs() {
    let model = read(&convs());
    let mut patch = Patch::by("open");
    let dims = [Dim::Symbol("N".into()), Dim::Known(4), Dim::Known(1), Dim::Known(1)].to_vec();
    let gate = patch.add_input(&model, "gate", secateur_model::DType::F32, dims.clone()).unwrap();
    let gated = patch.add_value(&model, "gated").unwrap();
    let inputs = vec![Some(value(&model, "r")), Some(gate)];
    let (op_type, outputs) = ("Mul".into(), vec![Some(gated)]);
    patch.insert_before(NodeId(2), Node { op_type, inputs, outputs, ..Node::default() });
    patch.rewire(NodeId(2), 0, Some(gated));
    for output in [gated, value(&model, "c"), value(&model, "w")] {
        patch.add_output(output);
    }
    let again = written(&model, &patch);
    let names = |values: &[ValueId]| {
        values.iter().map(|&v| again.graph().unwrap().value_name(v).to_string()).collect::<Vec<_>>()
    };
    let graph = again.graph().unwrap();
    assert_eq!(
        (names(&graph.inputs), names(&graph.outputs)),
        (vec!["x".to_string(), "gate".into()], ["y", "gated", "c", "w"].map(String::from).to_vec())
    );
    assert_eq!(shape_of(&again, "gate"), Some(dims));
    assert_eq!(shape_of(&again, "gated").unwrap().len(), 4);
    let folder = tempfile::tempdir().unwrap();
    let paths = ["more.onnx", "fewer.onnx"].map(|name| folder.path().join(name));
    std::fs::write(&paths[0], write(&model, &patch)).unwrap();
    // Without the first output, which stays as an internal value.
    let mut patch = Patch::new();
    patch.remove_output(value(&again, "c"));
    patch.remove_output(value(&again, "y"));
    patch.remove_node(NodeId(3));
    let last = written(&again, &patch);
    assert_eq!(last.graph().unwrap().outputs.len(), 2);
    assert_eq!(shape_of(&last, "c"), shape_of(&again, "c"));
    std::fs::write(&paths[1], write(&again, &patch)).unwrap();
    valid(&paths);
    // What is wrong is named.
    for (change, part) in [
        ((&|patch: &mut Patch| patch.remove_output(value(&model, "y"))) as &dyn Fn(&mut Patch), "no output"),
        (&|patch: &mut Patch| patch.remove_output(value(&model, "x")), "`x` is no output"),
        (&|patch: &mut Patch| patch.add_output(value(&model, "y")), "`y` is an output of the graph already"),
        (&|patch: &mut Patch| patch.add_output(ValueId(99)), "none with the id 99"),
        (
            &|patch: &mut Patch| {
                let unknown = patch.add_value(&model, "unknown").unwrap();
                let (op_type, domain) = ("Odd".into(), "own".into());
                let outputs = vec![Some(unknown)];
                patch
                    .insert_before(NodeId(0), Node { op_type, domain, outputs, opset: 1, ..Node::default() });
                patch.add_output(unknown);
            },
            "`unknown` cannot be inferred",
        ),
    ] {
        let mut patch = Patch::by("open");
        change(&mut patch);
        let text = refused(&model, &patch).to_string();
        assert!(text.contains(part) && text.contains("rule `open`"), "{part} in {text}");
    }
}

#[test]
fn what_stands_in_a_call_changes_only_as_a_whole() {
    let body = msg()
        .text(1, "twice")
        .text(4, "a")
        .text(5, "b")
        .msg(7, node("Add", &["a", "a"], &["s"]).text(3, "inner"))
        .msg(7, node("Relu", &["s"], &["b"]))
        .msg(9, msg().text(1, "").int(2, 17))
        .text(10, "own");
    let call = node("twice", &["x"], &["t"]).text(3, "call").text(7, "own");
    let graph = msg()
        .text(2, "g")
        .msg(1, call)
        .msg(1, node("Relu", &["t"], &["y"]).text(3, "last"))
        .msg(11, info("x", 1, &[2]))
        .msg(12, info("y", 1, &[2]));
    let file = common::model(graph).msg(8, msg().text(1, "own").int(2, 1)).msg(25, body);
    let model = read(&file);
    assert_eq!(model.graph().unwrap().nodes.len(), 3);
    let mut patch = Patch::new();
    patch.set_attr(NodeId(0), "a", Attr::Int(1));
    let error = refused(&model, &patch).to_string();
    assert!(error.contains("inner") && error.contains("call of a function"), "{error}");
    let mut patch = Patch::new();
    let input = model.graph().unwrap().inputs[0];
    patch.redirect(&model, value(&model, "t"), input).unwrap();
    patch.remove_node(NodeId(0));
    patch.remove_node(NodeId(1));
    assert_eq!(written(&model, &patch).graph().unwrap().nodes.len(), 1);
    // A node in front of the call and one behind it are no part of it.
    let mut patch = Patch::new();
    let passed = patch.add_value(&model, "passed").unwrap();
    let (inputs, outputs) = (vec![Some(input)], vec![Some(passed)]);
    patch.insert_before(
        NodeId(0),
        Node { op_type: "Abs".into(), name: "abs".into(), inputs, outputs, ..Node::default() },
    );
    patch.rewire(NodeId(2), 0, Some(passed));
    assert_eq!(written(&model, &patch).graph().unwrap().nodes.len(), 4);
}

#[test]
fn a_constant_given_as_numbers_becomes_a_tensor() {
    let constant = node("Constant", &[], &["shape"]).msg(5, attr("value_ints", 7).int(8, 3).int(8, 2));
    let graph = msg()
        .text(2, "g")
        .msg(1, constant)
        .msg(1, node("Reshape", &["x", "shape"], &["y"]))
        .msg(11, info("x", 1, &[6]))
        .msg(12, info("y", 1, &[3, 2]));
    let model = read(&common::model(graph));
    let mut patch = Patch::by("flatten");
    patch.replace(id(&model, "shape"), Tensor::vector(vec![1i64, 2, 3]));
    let again = written(&model, &patch);
    assert_eq!(shape_of(&again, "y"), Some([1, 2, 3].map(Dim::Known).to_vec()));
    let mut patch = Patch::by("flatten");
    patch.set(id(&model, "shape"), Tensor::vector(vec![2i64, 3]));
    assert_eq!(shape_of(&written(&model, &patch), "y"), Some([2, 3].map(Dim::Known).to_vec()));
    let mut patch = Patch::by("flatten");
    patch.set(id(&model, "shape"), Tensor::vector(vec![4i64, 2]));
    assert!(refused(&model, &patch).to_string().contains("rule `flatten`"));
}

#[test]
fn weights_given_as_numbers_are_pruned() {
    let branch = |name| {
        let numbers = attr("value_floats", 6).floats(7, &[4., 5., 6.]);
        let column = format!("{name}_column");
        let inner = format!("{name}_weights");
        let body = msg()
            .text(2, name)
            .msg(1, node("Constant", &[], &[&inner]).msg(5, numbers))
            .msg(1, node("Unsqueeze", &[&inner, "axes"], &[&column]))
            .msg(1, node("MatMul", &["x", &column], &[&format!("{name}_result")]));
        attr(name, 5).msg(6, body.msg(12, info(&format!("{name}_result"), 1, &[1, 1])))
    };
    let numbers = attr("value_floats", 6).floats(7, &[1., 2., 3.]);
    let graph = msg()
        .text(2, "g")
        .msg(1, node("Constant", &[], &["outer"]).msg(5, numbers))
        .msg(1, node("Constant", &[], &["axes"]).msg(5, attr("value_ints", 7).int(8, 1)))
        .msg(1, node("Unsqueeze", &["outer", "axes"], &["column"]))
        .msg(1, node("MatMul", &["x", "column"], &["y"]))
        .msg(1, node("If", &["b"], &["t"]).msg(5, branch("then_branch")).msg(5, branch("else_branch")))
        .msg(11, info("x", 1, &[1, 3]))
        .msg(11, info("b", 9, &[]))
        .msg(12, info("y", 1, &[1, 1]))
        .msg(12, info("t", 1, &[1, 1]));
    let model = read(&common::model(graph));
    let prunable: Vec<&str> = prunable::view(&model)
        .unwrap()
        .iter()
        .filter(|entry| entry.prunable().is_some())
        .map(|entry| model.tensor(entry.tensor).path.as_str())
        .collect();
    assert_eq!(
        prunable,
        ["outer", "t::then_branch::then_branch_weights", "t::else_branch::else_branch_weights"]
    );
    let mut patch = Patch::by("prune");
    for path in &prunable {
        patch.set(id(&model, path), Tensor::vector(vec![0f32, 7., 0.]));
    }
    let bytes = check(&model, &patch).unwrap();
    let again = io::read_bytes(bytes.clone()).unwrap();
    for path in &prunable {
        assert_eq!(data(&again, path), Data::F32(vec![0., 7., 0.]));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pruned.onnx");
    std::fs::write(&path, bytes).unwrap();
    valid(&[path]);
}

#[test]
fn a_constant_that_stands_behind_its_new_use_is_moved_to_the_front() {
    let value = |name: &str, v: f32| {
        node("Constant", &[], &[name]).msg(5, attr("value", 4).msg(5, raw_f32("", &[2], &[v, v]))).unknown()
    };
    let graph = msg()
        .text(2, "g")
        .msg(1, node("Relu", &["x"], &["r"]).text(3, "first"))
        .msg(1, value("a", 1.0))
        .msg(1, value("b", 2.0))
        .msg(1, node("Add", &["r", "a"], &["s"]).text(3, "add"))
        .msg(1, node("Mul", &["s", "b"], &["y"]).text(3, "mul"))
        .msg(11, info("x", 1, &[2]))
        .msg(12, info("y", 1, &[2]));
    let model = read(&common::model(graph));
    for changes in [false, true] {
        let mut patch = Patch::new();
        let b = self::value(&model, "b");
        patch.rewire(NodeId(0), 0, Some(b));
        if changes {
            patch.set(id(&model, "b"), Tensor::vector(vec![5f32, 6.]));
        }
        let again = written(&model, &patch);
        let expected = if changes { vec![5., 6.] } else { vec![2., 2.] };
        assert_eq!(data(&again, "b"), Data::F32(expected));
    }
}

#[test]
fn a_model_made_in_memory_is_written_as_onnx() {
    let build = build::Build::default()
        .weight("w", &[4, 3, 1, 1])
        .stored("shape", Tensor::vector(vec![0i64, -1]))
        .node("Conv x w -> c")
        .node_with("Softmax c -> s", [("axis", Attr::Int(1))])
        .node("Reshape s shape -> y")
        .output("y");
    let mut model = build.model();
    let input = value(&model, "x");
    let graph = model.graph.as_mut().unwrap();
    graph.inputs.push(input);
    graph.values[input.index()].dtype = Some(secateur_model::DType::F32);
    graph.values[input.index()].shape =
        Some(vec![Dim::Symbol("N".into()), Dim::Known(3), Dim::Known(2), Dim::Known(2)]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    io::write(&model, &Patch::new(), &[], &path, WriteOptions::default()).unwrap();
    let again = io::read(&path).unwrap();
    assert_eq!(again.tensors["w"].load().unwrap().data(), model.tensors["w"].load().unwrap().data());
    let names = |model: &Model| {
        model.graph().unwrap().nodes.iter().map(|n| (n.name.clone(), n.opset)).collect::<Vec<_>>()
    };
    assert_eq!(names(&again), names(&model));
    // Read and written again it is the same file, and a patched model is a file as well.
    let mut patch = Patch::new();
    patch.replace(id(&again, "w"), ones(&[2, 3, 1, 1]));
    let applied = patch.apply(&again).unwrap();
    let other = folder.path().join("applied.onnx");
    io::write(&applied, &Patch::new(), &[], &other, WriteOptions::default()).unwrap();
    same(&applied, &io::read(&other).unwrap());
    valid(&[path, other]);
}

#[test]
fn a_checkpoint_gets_other_shapes_and_names() {
    let folder = tempfile::tempdir().unwrap();
    let empty = Model { tensors: Default::default(), graph: None, path: None, source: io::Source::memory() };
    let mut patch = Patch::new();
    for (name, shape) in [("a.weight", vec![2usize, 3]), ("b.weight", vec![4])] {
        let tensor = ones(&shape);
        patch.add(
            name,
            secateur_model::DType::F32,
            shape,
            None,
            std::sync::Arc::new(move || Ok(tensor.clone())),
        );
    }
    for (format, name) in [(&io::SAFETENSORS, "m.safetensors"), (&io::TORCH, "m.pth")] {
        let path = folder.path().join(name);
        io::convert(&empty, &patch, &[], format, &path, WriteOptions::default()).unwrap();
        let model = io::read(&path).unwrap();
        let mut patch = Patch::by("shrink");
        patch.replace(id(&model, "a.weight"), Tensor::new([1, 3], vec![7f32, 8., 9.]).unwrap());
        patch.rename(id(&model, "b.weight"), "c.weight");
        let again = written(&model, &patch);
        assert_eq!(again.tensors.keys().collect::<Vec<_>>(), ["a.weight", "c.weight"]);
        assert_eq!(again.tensors["a.weight"].shape, [1, 3]);
        patch.rename(id(&model, "a.weight"), "c.weight");
        assert!(refused(&model, &patch).to_string().contains("c.weight"));
    }
}

/// ONNX's checker takes the files; skipped without it.
fn valid(files: &[std::path::PathBuf]) {
    let Some(python) = python(&["numpy", "onnx", "onnxruntime"]) else { return };
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/ort/check.py");
    let output = std::process::Command::new(python).arg(script).args(files).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn random_patches_are_refused_or_written_as_applied() {
    let mut sources: Vec<Model> = vec![read(&convs()), read(&common::model(branches()))];
    for path in shared_models() {
        if std::fs::metadata(&path).unwrap().len() < 1 << 20 {
            sources.push(io::read(&path).unwrap());
        }
    }
    for name in ["legacy.pt", "nested.pt"] {
        sources.extend(io::read(torch_goldens().join(name)).ok());
    }
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    let mut numbers = Numbers(16);
    let mut written = 0;
    for round in 0..400 {
        let model = &sources[round % sources.len()];
        let patch = patches::random(model, &mut |end| numbers.below(end));
        let Some(bytes) = check(model, &patch) else { continue };
        written += 1;
        if model.graph.is_some() && files.len() < 60 {
            let path = folder.path().join(format!("{round}.onnx"));
            std::fs::write(&path, bytes).unwrap();
            files.push(path);
        }
    }
    assert!(written > 60, "{written}");
    valid(&files);
}
