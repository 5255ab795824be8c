//! Reading ONNX: what is valid is understood, what is not gives a clear error and takes little memory.

mod common;

use common::*;
use secateur_model::graph::Dim;
use secateur_model::{Attr, DType, Data, ErrorKind, Graph, Model, io};

fn fails(message: &Msg) -> (ErrorKind, String) {
    fails_bytes(&message.0)
}

fn fails_bytes(bytes: &[u8]) -> (ErrorKind, String) {
    match io::read_bytes(bytes.to_vec()) {
        Ok(_) => panic!("was read"),
        Err(error) => (error.kind(), error.to_string()),
    }
}

#[track_caller]
fn assert_fails(message: &Msg, kind: ErrorKind, words: &[&str]) {
    let (found, text) = fails(message);
    assert_eq!(found, kind, "{text}");
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

/// A model of one constant, added to the input.
fn with_tensor(tensor: Msg) -> Msg {
    model(adds(&["w"], &[2]).msg(5, tensor))
}

fn main_graph(model: &Model) -> &Graph {
    model.graph().unwrap()
}

#[test]
fn every_shared_model_reads() {
    for path in shared_models() {
        let model = io::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        for stored in model.tensors.values() {
            stored.load().unwrap();
        }
    }
}

#[test]
fn edge_cases_give_clear_answers() {
    let Some(folder) = shared().map(|s| s.join("models/edge-cases")) else { return };
    let error = io::read(folder.join(NO_OPSET)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(error.to_string().contains("opset_import"), "{error}");

    let trees = io::read(folder.join("tree_ensemble_only.onnx")).unwrap();
    assert!(main_graph(&trees).nodes.iter().any(|n| n.op_type == "TreeEnsembleRegressor"));
}

#[test]
fn other_files_are_called_what_they_are() {
    for (bytes, word) in [
        (&b""[..], "empty"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "gzip"),
        (b"# Model\nThis is text.\n", "text"),
        (&[0xff; 64], "not an ONNX model"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
    ] {
        let (kind, text) = fails_bytes(bytes);
        assert_eq!(kind, ErrorKind::Input);
        assert!(text.contains(word), "{text}");
    }
    let folder = tempfile::tempdir().unwrap();
    let error = io::read(folder.path()).unwrap_err();
    assert!(error.to_string().contains("is a folder without a model"), "{error}");
    let error = io::read(folder.path().join("none.onnx")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("none.onnx"), "{error}");
}

#[test]
fn claims_of_a_header_allocate_nothing() {
    let huge = 1i64 << 40;
    let input = ErrorKind::Input;
    assert_fails(&with_tensor(tensor("w", 1, &[huge]).bytes(9, &[0; 8])), input, &["`w`", "found 8"]);
    assert_fails(&with_tensor(tensor("w", 1, &[huge, huge]).bytes(9, &[0; 8])), input, &["`w`", "too large"]);
    assert_fails(&with_tensor(tensor("w", 1, &[0, huge, huge])), input, &["`w`", "too large"]);
    assert_fails(&with_tensor(tensor("w", 1, &[huge]).floats(4, &[1.0])), input, &["`w`", "found 1"]);
    assert_fails(&with_tensor(tensor("w", 8, &[huge]).text(6, "a")), input, &["`w`", "found 1"]);
    assert_fails(&with_tensor(tensor("w", 7, &[huge])), input, &["`w`", "found none"]);
    let sparse =
        msg().msg(1, raw_f32("w", &[1], &[1.0])).msg(2, tensor("", 7, &[1]).ints(7, &[0])).int(3, huge);
    assert_fails(&model(adds(&["w"], &[2]).msg(15, sparse)), ErrorKind::Unsupported, &["MiB"]);
}

#[test]
fn tensors_that_contradict_themselves_are_named() {
    let input = ErrorKind::Input;
    assert_fails(
        &with_tensor(raw_f32("w", &[-2], &[1., 2.])),
        input,
        &["`w`", "-2 of the tensor is negative"],
    );
    assert_fails(&with_tensor(tensor("w", 0, &[2])), input, &["`w`", "no element type"]);
    assert_fails(&with_tensor(tensor("w", 77, &[2])), ErrorKind::Unsupported, &["`w`", "77"]);
    assert_fails(
        &with_tensor(raw_f32("w", &[3], &[1., 2.])),
        input,
        &["`w`", "expected 12 bytes", "found 8"],
    );
    assert_fails(&with_tensor(tensor("w", 8, &[1]).bytes(9, b"a")), input, &["`w`", "raw"]);
    assert_fails(&with_tensor(tensor("w", 1, &[2]).int(4, 1).int(4, 2)), input, &["`w`", "layout"]);
    assert_fails(&with_tensor(tensor("w", 1, &[1]).bytes(4, &[0; 3])), input, &["`w`", "broken"]);
    assert_fails(&with_tensor(tensor("w", 8, &[1]).bytes(6, &[0xff])), input, &["`w`", "UTF-8"]);
    assert_fails(&with_tensor(raw_f32("w", &[1; 300], &[1.])), ErrorKind::Unsupported, &["300 axes"]);
    assert_fails(&with_tensor(raw_f32("", &[2], &[1., 2.])), input, &["initializer 0 has no name"]);
    let twice = adds(&["w"], &[2]).msg(5, raw_f32("w", &[1], &[1.])).msg(5, raw_f32("w", &[1], &[2.]));
    assert_fails(&model(twice), input, &["`w`", "two constant tensors"]);
}

#[test]
fn graphs_that_contradict_themselves_are_refused() {
    let input = ErrorKind::Input;
    let io = |g: Msg| model(g.msg(11, info("x", 1, &[2])).msg(12, info("y", 1, &[2])));
    assert_fails(&io(msg().msg(1, node("Relu", &["z"], &["y"]))), input, &["node `y` (Relu)", "`z`"]);
    assert_fails(&io(msg()), input, &["output `y`"]);
    let relu = node("Relu", &["x"], &["y"]);
    assert_fails(&io(msg().msg(1, relu.clone()).msg(1, relu.clone())), input, &["`y` is produced twice"]);
    assert_fails(&io(msg().msg(1, relu.clone()).msg(11, info("x", 1, &[]))), input, &["two inputs", "`x`"]);
    assert_fails(&io(msg().msg(1, msg().text(2, "y"))), input, &["node `y`", "no operator"]);
    let alpha = || msg().text(1, "alpha").float(2, 1.0);
    assert_fails(
        &io(msg().msg(1, relu.clone().msg(5, alpha()).msg(5, alpha()))),
        input,
        &["`alpha`", "twice"],
    );
    assert_fails(&msg().int(1, 8), input, &["no graph"]);
    // Protobuf would merge two graphs; there is no place then that a change could be written to.
    let unsupported = ErrorKind::Unsupported;
    assert_fails(
        &with_tensor(raw_f32("w", &[2], &[1., 2.])).msg(7, msg()),
        unsupported,
        &["`graph`", "2 times"],
    );
    let constant = |a: Msg| io(msg().msg(1, node("Constant", &[], &["y"]).msg(5, a)));
    let t = raw_f32("", &[2], &[1., 2.]);
    assert_fails(&constant(attr("value", 4).msg(5, t.clone()).msg(5, t)), unsupported, &["`t`", "2 times"]);
}

/// `If` inside `If`, so deep.
fn nested(depth: usize) -> Msg {
    let mut body = msg().msg(1, node("Identity", &["x"], &["y"])).msg(12, info("y", 1, &[2]));
    for _ in 0..depth {
        let branch = |name, body: &Msg| attr(name, 5).msg(6, body.clone());
        let node = node("If", &["b"], &["y"]);
        body = msg()
            .msg(1, node.msg(5, branch("then_branch", &body)).msg(5, attr("else_branch", 5).msg(6, msg())))
            .msg(12, info("y", 1, &[2]));
    }
    model(body.msg(11, info("x", 1, &[2])).msg(11, info("b", 9, &[])))
}

#[test]
fn nesting_is_bounded() {
    read(&nested(40));
    for depth in [100, 3000] {
        assert_fails(&nested(depth), ErrorKind::Unsupported, &["deep"]);
    }
}

/// A function with its nodes.
fn function(name: &str, inputs: &[&str], outputs: &[&str], nodes: &[Msg]) -> Msg {
    let f = msg().text(1, name).text(10, "local").msg(9, msg().text(1, "").int(2, 17));
    let f = inputs.iter().fold(f, |f, i| f.text(4, i));
    let f = outputs.iter().fold(f, |f, o| f.text(5, o));
    nodes.iter().fold(f, |f, n| f.msg(7, n.clone()))
}

fn call(name: &str, inputs: &[&str], outputs: &[&str]) -> Msg {
    node(name, inputs, outputs).text(7, "local")
}

fn calling(nodes: &[Msg], outputs: &[&str]) -> Msg {
    let graph = nodes.iter().fold(msg().msg(11, info("x", 1, &[2])), |g, n| g.msg(1, n.clone()));
    model(outputs.iter().fold(graph, |g, o| g.msg(12, info(o, 1, &[2]))))
}

#[test]
fn functions_in_circles_or_doubling_are_refused() {
    let circle = calling(&[call("f", &["x"], &["y"])], &["y"])
        .msg(25, function("f", &["a"], &["b"], &[call("g", &["a"], &["b"])]))
        .msg(25, function("g", &["a"], &["b"], &[call("f", &["a"], &["b"])]));
    assert_fails(&circle, ErrorKind::Unsupported, &["circle"]);

    let mut doubling = calling(&[call("f0", &["x"], &["y"])], &["y"]);
    for k in 0..40 {
        let next = format!("f{}", k + 1);
        let body = [call(&next, &["a"], &["m"]), call(&next, &["m"], &["b"])];
        doubling = doubling.msg(25, function(&format!("f{k}"), &["a"], &["b"], &body));
    }
    doubling = doubling.msg(25, function("f40", &["a"], &["b"], &[node("Relu", &["a"], &["b"])]));
    assert_fails(&doubling, ErrorKind::Unsupported, &["MiB"]);

    let twice = calling(&[call("f", &["x"], &["y"])], &["y"])
        .msg(25, function("f", &["a"], &["b"], &[]))
        .msg(25, function("f", &["a"], &["b"], &[]));
    assert_fails(&twice, ErrorKind::Input, &["two functions", "`f`"]);
}

#[test]
fn a_function_called_twice_brings_its_constant_once() {
    let constant =
        node("Constant", &[], &["c"]).msg(5, attr("value", 4).msg(5, raw_f32("", &[2], &[1., 2.])));
    let number = node("Constant", &[], &["n"]).msg(5, attr("value_float", 1).float(2, 3.0));
    let body = [constant, number, node("Add", &["a", "c"], &["s"]), node("Mul", &["s", "n"], &["b"])];
    let source = calling(&[call("f", &["x"], &["h"]), call("f", &["h"], &["y"])], &["y"])
        .msg(25, function("f", &["a"], &["b"], &body));
    let model = read(&source);
    assert_eq!(model.tensors.keys().collect::<Vec<_>>(), ["h::c", "h::n"]);
    let graph = main_graph(&model);
    assert_eq!(
        graph.nodes.iter().map(|n| n.op_type.as_str()).collect::<Vec<_>>(),
        ["Add", "Mul", "Add", "Mul"]
    );
    assert_eq!(graph.nodes[0].inputs[1], graph.nodes[2].inputs[1]);
    let names: std::collections::HashSet<_> = graph.values.iter().map(|v| &v.name).collect();
    assert_eq!(names.len(), graph.values.len(), "{:?}", graph.values);
    assert_eq!(graph.value_name(graph.outputs[0]), "y");

    let changed = write(&model, &set(&model, "h::c", vec![7f32, 8.]));
    assert_eq!(changed.len(), source.0.len());
    assert_eq!(data(&io::read_bytes(changed).unwrap(), "h::c"), Data::F32(vec![7., 8.]));
}

#[test]
fn values_passed_through_a_function_keep_both_names() {
    let body = [node("Relu", &["a"], &["r"])];
    let source = calling(&[call("f", &["x"], &["p", "q", "s"])], &["p", "q", "s", "x"])
        .msg(25, function("f", &["a", "optional"], &["a", "r", "r"], &body));
    let model = read(&source);
    let graph = main_graph(&model);
    let names: Vec<_> = graph.outputs.iter().map(|&o| graph.value_name(o)).collect();
    assert_eq!(names, ["p", "q", "s", "x"]);
    let ops: Vec<_> = graph.nodes.iter().map(|n| n.op_type.as_str()).collect();
    assert_eq!(ops, ["Relu", "Identity", "Identity"]);
}

#[test]
fn inputs_that_a_call_leaves_out_are_left_out_inside() {
    let body = [node("Clip", &["a", "low", "high"], &["b"])];
    let source = calling(&[call("f", &["x", ""], &["y"])], &["y"])
        .msg(25, function("f", &["a", "low", "high"], &["b"], &body));
    let model = read(&source);
    let inputs = &main_graph(&model).nodes[0].inputs;
    assert_eq!((inputs.len(), inputs[1], inputs[2]), (3, None, None));
}

#[test]
fn attributes_of_a_call_reach_the_body_and_have_defaults() {
    let outer = |name: &str, ref_name: &str| attr(name, 1).text(21, ref_name);
    let body = [
        node("LeakyRelu", &["a"], &["l"]).msg(5, outer("alpha", "slope")),
        node("Elu", &["l"], &["b"]).msg(5, outer("alpha", "other")).msg(5, outer("gone", "nowhere")),
    ];
    let f = function("f", &["a"], &["b"], &body).msg(11, attr("other", 1).float(2, 0.25));
    let source =
        calling(&[call("f", &["x"], &["y"]).msg(5, attr("slope", 1).float(2, 0.5))], &["y"]).msg(25, f);
    let model = read(&source);
    let nodes = &main_graph(&model).nodes;
    assert_eq!(nodes[0].float("alpha").unwrap(), Some(0.5));
    assert_eq!(nodes[1].float("alpha").unwrap(), Some(0.25));
    assert!(!nodes[1].attrs.contains_key("gone"));
}

#[test]
fn attributes_of_all_kinds_are_read() {
    let body = msg().msg(1, node("Identity", &["x"], &["z"])).msg(12, info("z", 1, &[]));
    let t = || raw_f32("", &[1], &[4.0]);
    let attrs = [
        attr("float", 1).float(2, 1.5),
        attr("int", 2).int(3, -7),
        attr("string", 3).bytes(4, b"s"),
        attr("tensor", 4).msg(5, t()),
        attr("graph", 5).msg(6, body.clone()),
        attr("floats", 6).floats(7, &[1.0]).float(7, 2.0),
        attr("ints", 7).int(8, 1).ints(8, &[-2, 3]),
        attr("strings", 8).bytes(9, b"a").bytes(9, b""),
        attr("tensors", 9).msg(10, t()).msg(10, t()),
        attr("graphs", 10).msg(11, body.clone()).msg(11, body),
        attr("sparse", 11).msg(22, msg()),
        attr("type", 13).msg(14, msg()),
        msg().text(1, "untyped").int(3, 5),
        msg().text(1, "empty"),
    ];
    let custom = attrs.into_iter().fold(call("Custom", &["x"], &["y"]), |n, a| n.msg(5, a));
    let model = read(&calling(&[custom], &["y"]));
    let node = &main_graph(&model).nodes[0];
    assert_eq!(node.float("float").unwrap(), Some(1.5));
    assert_eq!(node.int("int").unwrap(), Some(-7));
    assert_eq!(node.str("string").unwrap(), Some("s"));
    assert_eq!(node.floats("floats").unwrap(), Some(&[1.0, 2.0][..]));
    assert_eq!(node.ints("ints").unwrap(), Some(&[1, -2, 3][..]));
    assert_eq!(node.int("untyped").unwrap(), Some(5));
    assert!(matches!(&node.attrs["strings"], Attr::Strings(s) if s.len() == 2));
    assert!(matches!(&node.attrs["tensor"], Attr::Tensor(t) if t.values::<f32>().unwrap() == [4.0]));
    assert!(matches!(&node.attrs["tensors"], Attr::Tensors(t) if t.len() == 2));
    assert!(matches!(&node.attrs["sparse"], Attr::Other("sparse tensor")));
    assert!(matches!(&node.attrs["type"], Attr::Other("type")));
    assert!(matches!(&node.attrs["empty"], Attr::Other("empty")));
    assert_eq!(node.graphs().count(), 3);
    assert_eq!(node.graph("graph").unwrap().captures.len(), 1);
}

#[test]
fn sparse_constants_of_any_type_are_unfolded() {
    let flat =
        msg().msg(1, tensor("w", 7, &[2]).ints(7, &[5, -6])).msg(2, tensor("", 7, &[2]).ints(7, &[1, 3]));
    let by_axis = msg()
        .msg(1, tensor("v", 10, &[1]).ints(5, &[0x3c00]))
        .msg(2, tensor("", 7, &[1, 2]).ints(7, &[1, 0]));
    let graph = adds(&["v", "w"], &[2, 2])
        .msg(15, flat.clone().int(3, 2).int(3, 2))
        .msg(15, by_axis.int(3, 2).int(3, 2));
    let read_back = read(&model(graph));
    assert_eq!(data(&read_back, "w"), Data::I64(vec![0, 5, 0, -6]));
    let one = half::f16::ONE;
    assert_eq!(
        data(&read_back, "v"),
        Data::F16([0., 0., 1., 0.].map(|v| if v > 0. { one } else { half::f16::ZERO }).into())
    );

    let outside = model(adds(&["w"], &[2]).msg(15, flat.int(3, 3)));
    assert_fails(&outside, ErrorKind::Input, &["`w`", "outside"]);
    let sparse = |v: Msg, i: Msg| model(adds(&["w"], &[2]).msg(15, msg().msg(1, v).msg(2, i).int(3, 2)));
    let index = |n: &[i64]| tensor("", 7, &[n.len() as i64]).ints(7, n);
    assert_fails(&sparse(raw_f32("w", &[1], &[1.]), index(&[-1])), ErrorKind::Input, &["`w`", "outside"]);
    assert_fails(
        &sparse(raw_f32("w", &[2], &[1., 2.]), index(&[0])),
        ErrorKind::Input,
        &["1 indices for 2 values"],
    );
    assert_fails(
        &sparse(tensor("w", 21, &[1]).ints(5, &[1]), index(&[0])),
        ErrorKind::Unsupported,
        &["`w`", "u4"],
    );
}

#[test]
fn six_bit_floats_in_entries_are_packed_as_raw_ones_are() {
    // What onnx 1.23 writes for 0..5 of FLOAT6E2M3, raw and as entries of int32_data.
    let raw = read(&with_tensor(tensor("w", 27, &[5]).bytes(9, b"\x00\x02Q\x18")));
    let typed = read(&with_tensor(tensor("w", 27, &[5]).ints(5, &[0, 8, 16, 20, 24])));
    assert_eq!(data(&raw, "w"), Data::Raw(DType::F6E2M3, b"\x00\x02Q\x18".to_vec()));
    assert_eq!(data(&typed, "w"), data(&raw, "w"));
}

#[test]
fn values_that_are_no_tensors_are_carried() {
    let element = msg().msg(1, msg().int(1, 1));
    let sequence = msg().text(1, "s").msg(2, msg().msg(4, msg().msg(1, element.clone())));
    let optional = msg().text(1, "o").msg(2, msg().msg(9, msg().msg(1, element)));
    let graph = msg()
        .msg(1, node("SequenceAt", &["s", "x"], &["y"]))
        .msg(11, sequence)
        .msg(11, optional)
        .msg(11, msg().text(1, "x").msg(2, msg().msg(1, msg().int(1, 7).msg(2, msg()))))
        .msg(12, msg().text(1, "y"));
    let model = read(&model(graph));
    let graph = main_graph(&model);
    assert_eq!(graph.inputs.len(), 3);
    let of = |k: usize| &graph.values[graph.inputs[k].index()];
    assert_eq!((of(0).dtype, of(1).dtype, of(2).dtype), (None, None, Some(DType::I64)));
    assert_eq!((of(0).shape.clone(), of(2).shape.clone()), (None, Some(Vec::new())));
}

#[test]
fn dimensions_are_numbers_names_or_unknown() {
    let shape =
        msg().msg(1, msg().int(1, 4)).msg(1, msg().text(2, "batch")).msg(1, msg()).msg(1, msg().int(1, -1));
    let x = msg().text(1, "x").msg(2, msg().msg(1, msg().int(1, 1).msg(2, shape)));
    let model =
        read(&model(msg().msg(1, node("Relu", &["x"], &["y"])).msg(11, x).msg(12, msg().text(1, "y"))));
    let graph = main_graph(&model);
    let expected = vec![Dim::Known(4), Dim::Symbol("batch".into()), Dim::Unknown, Dim::Unknown];
    assert_eq!(graph.values[graph.inputs[0].index()].shape, Some(expected));
}

#[test]
fn initializers_listed_as_inputs_are_constants() {
    let graph = adds(&["w"], &[2]).msg(5, raw_f32("w", &[2], &[1., 2.])).msg(11, info("w", 1, &[2]));
    let model = read(&model(graph));
    let graph = main_graph(&model);
    assert_eq!(graph.inputs.len(), 1);
    assert_eq!(graph.constants.len(), 1);
}

#[test]
fn branches_may_use_the_same_names() {
    let body = |v: f32| {
        msg()
            .msg(1, node("Add", &["x", "w"], &["z"]))
            .msg(5, raw_f32("w", &[1], &[v]))
            .msg(12, info("z", 1, &[]))
    };
    let branch = |name, v| attr(name, 5).msg(6, body(v));
    let choose =
        node("If", &["b"], &["y"]).msg(5, branch("then_branch", 1.)).msg(5, branch("else_branch", 2.));
    let graph = msg()
        .msg(1, choose)
        .msg(11, info("x", 1, &[1]))
        .msg(11, info("b", 9, &[]))
        .msg(12, info("y", 1, &[1]));
    let model = read(&model(graph));
    assert_eq!(data(&model, "y::then_branch::w"), Data::F32(vec![1.]));
    assert_eq!(data(&model, "y::else_branch::w"), Data::F32(vec![2.]));
}
