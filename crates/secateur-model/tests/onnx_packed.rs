//! Packed tensors in ONNX: round trips, every layout and value type, external data, damaged files; and that ONNX
//! Runtime computes the same with them.

mod common;
#[path = "common/exercise.rs"]
mod exercise;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::*;
use secateur_model::io::onnx::OnnxSource;
use secateur_model::io::{self, WriteOptions};
use secateur_model::model::{Patch, encode};
use secateur_model::packed::{self, Choice, GroupLayout, Layout, ValueType};
use secateur_model::{Model, Tensor};

const DOMAIN: &str = "ai.secateur";

/// Every `every`th element of each row is a number of any bits but NaN.
fn sparse(len: usize, every: usize) -> Vec<f32> {
    (0..len).map(|i| if i.is_multiple_of(every) { 0.25 + (i % 97) as f32 * -0.75 } else { 0.0 }).collect()
}

fn pack_as(patch: &mut Patch, model: &Model, path: &str, layout: Layout, kind: ValueType) {
    let tensor = model.tensors[path].load().unwrap();
    let packed = Arc::new(packed::pack(&tensor, layout, kind).unwrap().0);
    patch.set_packed(id(model, path), packed.spec(), Arc::new(move || Ok(packed.clone())));
}

/// All tensors of rank 2 and more packed in their smallest form.
fn pack_all(model: &Model) -> Patch {
    let mut patch = Patch::new();
    for (path, stored) in model.tensors.iter().filter(|(_, t)| t.shape.len() > 1 && t.dtype.is_prunable()) {
        let layout = Choice::Smallest.spec(&stored.load().unwrap(), &ValueType::Exact).unwrap().layout;
        pack_as(&mut patch, model, path, layout, ValueType::Exact);
    }
    patch
}

fn unpack_all(model: &Model) -> Patch {
    let mut patch = Patch::new();
    for (path, stored) in model.tensors.iter().filter(|(_, t)| t.packed().is_some()) {
        let stored = stored.clone();
        patch.set_lazy(id(model, path), Arc::new(move || stored.load()));
    }
    patch
}

fn bits(tensor: &Tensor) -> Vec<u8> {
    encode(tensor.data()).unwrap()
}

fn matmul(name: &str) -> Msg {
    node("MatMul", &["x", name], &[&format!("y.{name}")])
}

/// A model of opset 11 whose weights are used in all ways: by two nodes, as an output, in a branch, documented,
/// with typed elements; a default of an input; one in a branch; one listed by a function.
fn everything() -> Msg {
    let mut values = sparse(40, 5);
    values[..3].copy_from_slice(&[f32::MIN_POSITIVE, f32::from_bits(0x7fc0_1234), f32::MIN]);
    let dense = vec![0.5f32; 40];
    let branch = |name| {
        let body = msg()
            .msg(1, node("MatMul", &["x", "a"], &["t"]))
            .msg(1, node("MatMul", &["x", "inner"], &["u"]))
            .msg(1, node("Add", &["t", "u"], &["z"]))
            .text(2, name)
            .msg(5, raw_f32("inner", &[4, 10], &sparse(40, 8)))
            .msg(12, info("z", 1, &[1, 10]));
        attr(name, 5).msg(6, body)
    };
    let documented = tensor("doc", 1, &[4, 10]).floats(9, &sparse(40, 3)).text(12, "what it is").unknown();
    let outputs = ["a", "twice", "doc", "typed", "default", "dense"];
    let graph =
        ["a", "twice", "doc", "typed", "default", "dense"].iter().fold(msg(), |g, n| g.msg(1, matmul(n)));
    let graph = graph
        .msg(1, node("MatMul", &["x", "twice"], &["again"]))
        .msg(1, node("If", &["b"], &["i"]).msg(5, branch("then_branch")).msg(5, branch("else_branch")))
        .text(2, "g")
        .msg(5, raw_f32("a", &[4, 10], &values))
        .msg(5, raw_f32("twice", &[4, 10], &sparse(40, 4)))
        .msg(5, documented)
        .msg(5, tensor("typed", 1, &[4, 10]).floats(4, &sparse(40, 7)))
        .msg(5, raw_f32("default", &[4, 10], &sparse(40, 9)))
        .msg(5, raw_f32("dense", &[4, 10], &dense))
        .msg(11, info("x", 1, &[1, 4]))
        .msg(11, info("b", 9, &[]))
        .msg(11, info("default", 1, &[4, 10]))
        .msg(12, info("twice", 1, &[4, 10]))
        .msg(12, info("again", 1, &[1, 10]))
        .msg(12, info("i", 1, &[1, 10]));
    let graph = outputs.iter().fold(graph, |g, n| g.msg(12, info(&format!("y.{n}"), 1, &[1, 10])));
    msg().int(1, 8).text(2, "tests").msg(7, graph).msg(8, msg().text(1, "").int(2, 11)).unknown()
}

/// That model with each layout among its tensors.
fn packed_everything() -> (Model, Vec<u8>) {
    let model = read(&everything());
    let mut patch = Patch::new();
    let groups = |n, m, axis| Layout::Groups(GroupLayout { n, m, axis });
    pack_as(&mut patch, &model, "a", Layout::bitmask(&[4, 10]), ValueType::Exact);
    pack_as(&mut patch, &model, "twice", groups(2, 4, 0), ValueType::Exact);
    pack_as(&mut patch, &model, "doc", groups(1, 2, 1), ValueType::Int8 { axis: 1 });
    pack_as(&mut patch, &model, "typed", Layout::Bitmask { cols: 40 }, ValueType::F16);
    let bytes = write(&model, &patch);
    (model, bytes)
}

#[test]
fn a_packed_file_reads_as_the_dense_one() {
    let (dense, bytes) = packed_everything();
    let model = io::read_bytes(bytes.clone()).unwrap();
    assert_eq!(dense.tensors.keys().collect::<Vec<_>>(), model.tensors.keys().collect::<Vec<_>>());
    let packed: Vec<_> = model.tensors.values().filter(|t| t.packed().is_some()).map(|t| &*t.path).collect();
    assert_eq!(packed, ["a", "twice", "doc", "typed"]);
    for path in ["a", "twice", "default", "dense"] {
        let load = |model: &Model| bits(&model.tensors[path].load().unwrap());
        assert_eq!(load(&model), load(&dense), "{path}");
    }
    // The nodes that expand are no part of the graph.
    let names = |model: &Model| {
        let graph = model.graph.as_ref().unwrap();
        let nodes: Vec<_> = graph.nodes.iter().map(|n| n.op_type.clone()).collect();
        let outputs: Vec<_> = graph.outputs.iter().map(|o| graph.values[o.index()].name.clone()).collect();
        (nodes, outputs)
    };
    assert_eq!(names(&model), names(&dense));
    // Without a change the same bytes.
    assert_eq!(write(&model, &Patch::new()), bytes);
    exercise::model(&bytes);
    exercise::meaning(&bytes);
}

#[test]
fn unpacking_gives_the_file_back() {
    let source = everything();
    let model = read(&source);
    let mut patch = Patch::new();
    for path in ["a", "twice", "doc"] {
        pack_as(&mut patch, &model, path, Layout::bitmask(&[4, 10]), ValueType::Exact);
    }
    let packed = io::read_bytes(write(&model, &patch)).unwrap();
    let again = write(&packed, &unpack_all(&packed));
    // Elements in typed fields would come back raw.
    assert_eq!(again, source.0);
    for model in shared_models() {
        let model = io::read(model).unwrap();
        let source = model.source.downcast::<OnnxSource>().unwrap();
        if source.ir_version < 8
            || !source.external_files().is_empty()
            || !model.tensors.values().any(|t| t.dtype.is_prunable())
        {
            continue;
        }
        let packed = io::read_bytes(write(&model, &pack_all(&model))).unwrap();
        assert_eq!(write(&packed, &unpack_all(&packed)), source.bytes);
    }
}

#[test]
fn a_change_makes_its_tensor_dense_and_leaves_the_others_packed() {
    let (_, bytes) = packed_everything();
    let model = io::read_bytes(bytes).unwrap();
    let again = io::read_bytes(write(&model, &set(&model, "twice", vec![1f32; 40]))).unwrap();
    assert!(again.tensors["twice"].packed().is_none());
    assert_eq!(again.tensors["twice"].load().unwrap().values::<f32>().unwrap(), [1.0; 40]);
    for path in ["a", "doc", "typed"] {
        assert!(again.tensors[path].packed().is_some());
        let load = |model: &Model| bits(&model.tensors[path].load().unwrap());
        assert_eq!(load(&again), load(&model), "{path}");
    }
    // A change elsewhere leaves all as they are; packing anew is a change of the form alone.
    let elsewhere = io::read_bytes(write(&model, &set(&model, "dense", vec![1f32; 40]))).unwrap();
    assert_eq!(elsewhere.tensors.values().filter(|t| t.packed().is_some()).count(), 4);
    let mut patch = Patch::new();
    pack_as(&mut patch, &model, "a", Layout::Bitmask { cols: 40 }, ValueType::Exact);
    let anew = io::read_bytes(write(&model, &patch)).unwrap();
    assert_eq!(anew.tensors["a"].packed().unwrap().positions().layout(), Layout::Bitmask { cols: 40 });
    assert_eq!(bits(&anew.tensors["a"].load().unwrap()), bits(&model.tensors["a"].load().unwrap()));
}

/// The operators' names and the functions' of a written file.
fn functions(bytes: &[u8]) -> BTreeSet<&'static str> {
    let names = ["UnpackBitmask", "UnpackBitmaskScaled", "UnpackNM", "UnpackNMScaled"];
    // Field 1 of a `FunctionProto`; calls name their operator in field 4.
    let holds = |name: &str| {
        let field = msg().text(1, name).0;
        bytes.windows(field.len()).any(|w| w == field)
    };
    names.into_iter().filter(|name| holds(name)).collect()
}

#[test]
fn functions_come_and_go_with_the_tensors_that_need_them() {
    let (_, bytes) = packed_everything();
    assert_eq!(functions(&bytes), BTreeSet::from(["UnpackBitmask", "UnpackNM", "UnpackNMScaled"]));
    let model = io::read_bytes(bytes).unwrap();
    let without = write(&model, &set(&model, "doc", vec![1f32; 40]));
    assert_eq!(functions(&without), BTreeSet::from(["UnpackBitmask", "UnpackNM"]));
    let dense = write(&model, &unpack_all(&model));
    assert!(functions(&dense).is_empty());
    assert!(!dense.windows(DOMAIN.len()).any(|w| w == DOMAIN.as_bytes()));
}

#[test]
fn what_cannot_be_packed_is_refused_by_name() {
    let model = read(&everything());
    let refused = |model: &Model, path: &str| {
        let mut patch = Patch::new();
        pack_as(&mut patch, model, path, Layout::Bitmask { cols: 10 }, ValueType::Exact);
        let message = io::write_stream(model, &patch, &[], &mut Vec::new()).unwrap_err().to_string();
        assert!(message.contains(path), "{message}");
        message
    };
    for (path, why) in
        [("default", "take it off the graph's inputs"), ("i::then_branch::inner", "a nested graph")]
    {
        assert!(refused(&model, path).contains(why));
    }
    let old = msg().int(1, 8).msg(7, adds(&["w"], &[2, 10]).msg(5, raw_f32("w", &[2, 10], &sparse(20, 4))));
    let old = read(&old.msg(8, msg().text(1, "").int(2, 9)));
    assert!(refused(&old, "w").contains("opset 11"));
    let taken = adds(&["w", "w.bitmask"], &[2, 10]);
    let taken =
        taken.msg(5, raw_f32("w", &[2, 10], &sparse(20, 4))).msg(5, raw_f32("w.bitmask", &[1], &[0.0]));
    assert!(refused(&read(&self::model(taken)), "w").contains("`w.bitmask`"));
}

#[test]
fn an_older_ir_version_is_raised() {
    let graph = || adds(&["w"], &[2, 10]).msg(5, raw_f32("w", &[2, 10], &sparse(20, 4)));
    let opset = || msg().text(1, "").int(2, 13);
    for source in [msg().int(1, 4).msg(7, graph()).msg(8, opset()), msg().msg(7, graph()).msg(8, opset())] {
        let model = read(&source);
        let packed = io::read_bytes(write(&model, &pack_all(&model))).unwrap();
        let onnx = packed.source.downcast::<OnnxSource>().unwrap();
        assert_eq!(onnx.ir_version, 8);
        assert_eq!(packed.tensors["w"].load().unwrap().data(), model.tensors["w"].load().unwrap().data());
    }
}

/// A model of an IR version with a weight in a `Constant` node and one that is an initializer; all initializers are
/// inputs where `listed` says so.
fn constants(ir: i64, listed: bool) -> Msg {
    let weight = |name| raw_f32(name, &[32, 40], &sparse(1280, 9));
    let constant = node("Constant", &[], &["c"]).text(3, "named").msg(5, attr("value", 4).msg(5, weight("")));
    let graph = msg()
        .msg(1, matmul("w"))
        .msg(1, constant)
        .msg(1, node("Transpose", &["c"], &["t"]))
        .msg(1, node("MatMul", &["y.w", "t"], &["y"]))
        .text(2, "g")
        .msg(5, weight("w"))
        .msg(11, info("x", 1, &[1, 32]))
        .msg(12, info("y", 1, &[1, 32]));
    let graph = if listed { graph.msg(11, info("w", 1, &[32, 40])) } else { graph };
    msg().int(1, ir).msg(7, graph).msg(8, msg().text(1, "").int(2, 13))
}

#[test]
fn constant_nodes_and_initializers_among_the_inputs_are_packed() {
    for (ir, listed, packs) in [(8, false, true), (3, true, true), (8, true, false)] {
        let dense = read(&constants(ir, listed));
        let source = dense.source.downcast::<OnnxSource>().unwrap();
        assert_eq!(source.stays_dense(id(&dense, "w")).is_none(), packs);
        assert!(source.stays_dense(id(&dense, "c")).is_none());
        let mut patch = pack_all(&dense);
        if !packs {
            patch.take(id(&dense, "w"));
        }
        let bytes = write(&dense, &patch);
        let packed = io::read_bytes(bytes.clone()).unwrap();
        assert!(packed.tensors["c"].packed().is_some());
        assert_eq!(packed.tensors["w"].packed().is_some(), packs);
        let nodes = |model: &Model| -> Vec<String> {
            model.graph.as_ref().unwrap().nodes.iter().map(|n| n.op_type.clone()).collect()
        };
        assert_eq!(nodes(&packed), nodes(&dense));
        for again in [&packed, &io::read_bytes(write(&packed, &unpack_all(&packed))).unwrap()] {
            for path in ["w", "c"] {
                let load = |model: &Model| bits(&model.tensors[path].load().unwrap());
                assert_eq!(load(again), load(&dense), "{path} of IR {ir}");
            }
        }
        // A newer IR version takes an initializer among the inputs for a default: none is left there.
        assert_eq!(packed.graph.as_ref().unwrap().inputs.len(), 1);
        exercise::model(&bytes);
    }
}

#[test]
fn a_call_whose_parts_are_used_elsewhere_is_a_function_like_any_other() {
    let model = read(&self::model(adds(&["w"], &[2, 10]).msg(5, raw_f32("w", &[2, 10], &sparse(20, 4)))));
    let bytes = write(&model, &pack_all(&model));
    // A second use of the shape, in the place of a node's first byte.
    let found = io::read_bytes(bytes.clone()).unwrap();
    assert!(found.tensors["w"].packed().is_some());
    let graph_at = bytes.iter().position(|&b| b == 0x3a).unwrap();
    let (len, prefix) = {
        let (low, high) = (bytes[graph_at + 1], bytes[graph_at + 2]);
        (usize::from(low & 0x7f) | usize::from(high) << 7, 2)
    };
    let start = graph_at + 1 + prefix;
    let shape = || node("Shape", &["w.shape"], &["s"]);
    let branch = |name| {
        let body = msg().msg(1, shape()).msg(12, msg().text(1, "s"));
        msg().text(1, name).msg(6, body).int(20, 5)
    };
    let in_a_branch = node("If", &["c"], &["t"]).msg(5, branch("then_branch")).msg(5, branch("else_branch"));
    for user in [shape(), in_a_branch] {
        let graph = msg().raw(&bytes[start..start + len]).msg(1, user).msg(11, msg().text(1, "c"));
        let used = msg().raw(&bytes[..graph_at]).msg(7, graph).raw(&bytes[start + len..]);
        let found = read(&used);
        assert!(found.tensors.contains_key("w.shape") && !found.tensors.contains_key("w"));
        assert!(found.graph.as_ref().unwrap().nodes.iter().any(|n| n.op_type == "CumSum"));
    }
}

/// A file with one packed tensor, `w`.
fn packed_w() -> Vec<u8> {
    let model = read(&self::model(adds(&["w"], &[2, 10]).msg(5, raw_f32("w", &[2, 10], &sparse(20, 4)))));
    write(&model, &pack_all(&model))
}

/// The bytes with the only `from` in them, behind `after`, replaced by as many others.
fn replaced(bytes: &[u8], after: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let start = bytes.windows(after.len()).position(|w| w == after).unwrap();
    let at = start + bytes[start..].windows(from.len()).position(|w| w == from).unwrap();
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

#[test]
fn a_function_that_does_something_else_is_expanded_as_it_is() {
    let bytes = packed_w();
    assert!(io::read_bytes(bytes.clone()).unwrap().tensors["w"].packed().is_some());
    // Other runtimes run the body, so `w` is what the body makes of its parts: here other values, or another type.
    let body = b"UnpackBitmask";
    for (from, to) in [(&b"Mul"[..], &b"Add"[..]), (b"CumSum", b"Negate"), (b"numbers", b"numberz")] {
        let count = bytes.windows(from.len()).filter(|w| *w == from).count();
        let mut other = bytes.clone();
        for _ in 0..if from == b"numbers" { count } else { 1 } {
            other = replaced(&other, body, from, to);
        }
        let found = io::read_bytes(other).unwrap();
        assert!(!found.tensors.contains_key("w") && found.tensors.contains_key("w.bitmask"), "{from:?}");
    }
    // Names of nodes and texts for people mean nothing.
    let told = replaced(&bytes, b"UnpackBitmask", b"A dense tensor", b"A DENSE tensor");
    assert!(io::read_bytes(told).unwrap().tensors["w"].packed().is_some());
}

#[test]
fn a_damaged_function_body_is_an_error() {
    let bytes = packed_w();
    let node = [&[10, 6][..], b"counts"].concat();
    for (from, to, word) in [
        // The input `counts` of a node as a field that is cut off, as no text, and as a name of nothing.
        (&node[..], &[&[10, 0x7f][..], b"counts"].concat()[..], "damaged"),
        (&node, &[&[10, 6][..], b"count\xff"].concat(), "damaged"),
        (&node, &[&[10, 6][..], b"countz"].concat(), "`countz`"),
    ] {
        let broken = replaced(&bytes, b"UnpackBitmask", from, to);
        let message = io::read_bytes(broken).unwrap_err().to_string();
        assert!(message.contains("function `UnpackBitmask`") && message.contains(word), "{message}");
    }
}

#[test]
fn damaged_files_are_errors_or_read() {
    let (_, bytes) = packed_everything();
    exercise::packed(&bytes);
    for end in (0..bytes.len()).step_by(7) {
        exercise::model(&bytes[..end]);
        exercise::packed(&bytes[..end]);
    }
    let mut flipped = bytes.clone();
    for bit in (0..bytes.len() * 8).step_by(11) {
        flipped[bit / 8] ^= 1 << (bit % 8);
        exercise::model(&flipped);
        exercise::packed(&flipped);
        flipped[bit / 8] ^= 1 << (bit % 8);
    }
    let mut numbers = Numbers(11);
    for _ in 0..1500 {
        let damaged = damage(&bytes, &mut numbers);
        exercise::model(&damaged);
        exercise::packed(&damaged);
    }
}

#[test]
fn parts_that_do_not_fit_are_named() {
    let model = read(&self::model(adds(&["w"], &[2, 10]).msg(5, raw_f32("w", &[2, 10], &sparse(20, 4)))));
    let mut patch = Patch::new();
    pack_as(&mut patch, &model, "w", Layout::bitmask(&[2, 10]), ValueType::Exact);
    let bytes = write(&model, &patch);
    let mask = [0b0001_0001u8, 0b01, 0b0100_0100, 0];
    let at = bytes.windows(4).position(|w| w == mask).unwrap();
    for (byte, what) in [(0, "5 values"), (0b0100_0001, "behind its 10")] {
        let mut broken = bytes.clone();
        match byte {
            0 => broken[at] = 0b0001_0000,
            byte => broken[at + 1] = byte,
        }
        let message = io::read_bytes(broken).unwrap_err().to_string();
        assert!(message.contains("`w`") && (message.contains(what) || byte == 0), "{message}");
    }
}

/// A model whose tensors lie in two external files, one of them named twice, one small and inline.
fn outside(folder: &Path) -> PathBuf {
    let floats = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let (a, b) = (floats(&sparse(4096, 5)), floats(&sparse(4096, 9)));
    std::fs::write(folder.join("one.bin"), [&[7; 12][..], &a, &[9; 4], &b].concat()).unwrap();
    std::fs::write(folder.join("two.bin"), floats(&vec![0.5; 4096])).unwrap();
    let at = |file: &'static str, offset: &'static str| {
        [("location", file), ("offset", offset), ("length", "16384")]
    };
    let graph = adds(&["a", "b", "tied", "c", "d"], &[64, 64])
        .msg(5, external("a", 1, &[64, 64], &at("one.bin", "12")))
        .msg(5, external("b", 1, &[64, 64], &at("one.bin", "16400")))
        .msg(5, external("tied", 1, &[64, 64], &at("./one.bin", "16400")))
        .msg(5, external("c", 1, &[64, 64], &at("two.bin", "0")))
        .msg(5, raw_f32("d", &[64, 1], &sparse(64, 2)));
    let path = folder.join("outside.onnx");
    std::fs::write(&path, model(graph).0).unwrap();
    path
}

#[test]
fn external_data_are_laid_out_anew() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let model = io::read(outside(from.path())).unwrap();
    let mut patch = Patch::new();
    for path in ["a", "b"] {
        pack_as(&mut patch, &model, path, Layout::bitmask(&[64, 64]), ValueType::Exact);
    }
    let packed = to.path().join("packed.onnx");
    let report = io::write(&model, &patch, &[], &packed, WriteOptions::default()).unwrap();
    assert_eq!(report.external.len(), 1);
    let size = std::fs::metadata(&report.external[0].path).unwrap().len();
    assert_eq!(size, report.external[0].bytes);
    // Two dense ones, of which `tied` shares nothing any more, and the two packed.
    assert!(size < 2 * 16384 + 8192 + 2 * 4096, "{size}");
    let again = io::read(&packed).unwrap();
    assert_eq!(again.tensors.values().filter(|t| t.packed().is_some()).count(), 2);
    let same = |other: &Model| {
        for (path, stored) in &model.tensors {
            assert_eq!(bits(&other.tensors[path].load().unwrap()), bits(&stored.load().unwrap()), "{path}");
        }
    };
    same(&again);
    // Unchanged, or with a change in place, the files are as they were but for that.
    let third = to.path().join("third.onnx");
    io::write(&again, &set(&again, "c", vec![2f32; 4096]), &[], &third, WriteOptions::default()).unwrap();
    let third = io::read(&third).unwrap();
    assert_eq!(third.tensors["c"].load().unwrap().values::<f32>().unwrap(), vec![2f32; 4096]);
    assert_eq!(third.tensors.values().filter(|t| t.packed().is_some()).count(), 2);
    // Dense again, and over the input itself.
    let dense = to.path().join("dense.onnx");
    io::write(&again, &unpack_all(&again), &[], &dense, WriteOptions::default()).unwrap();
    same(&io::read(&dense).unwrap());
    io::write(&again, &unpack_all(&again), &[], &packed, WriteOptions { overwrite: true }).unwrap();
    let replaced = io::read(&packed).unwrap();
    same(&replaced);
    assert!(replaced.tensors.values().all(|t| t.packed().is_none()));
}

/// Every layout, value type and several operator sets; onnx's checker takes them, and ONNX Runtime computes
/// with each exactly what it computes with the dense file of the same weights.
#[test]
fn onnx_runtime_computes_the_same() {
    let Some(python) = python(&["numpy", "onnx", "onnxruntime"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut pairs: Vec<PathBuf> = Vec::new();
    let mut add = |name: &str, model: &Model, patch: &Patch| {
        let [dense, packed] =
            ["dense", "packed"].map(|kind| folder.path().join(format!("{name}-{kind}.onnx")));
        io::write(model, patch, &[], &packed, WriteOptions::default()).unwrap();
        let read = io::read(&packed).unwrap();
        io::write(&read, &unpack_all(&read), &[], &dense, WriteOptions::default()).unwrap();
        pairs.extend([dense, packed]);
    };
    for (ir, listed) in [(8, false), (3, true)] {
        let model = read(&constants(ir, listed));
        add(&format!("constants-{ir}"), &model, &pack_all(&model));
    }
    for opset in [11, 13, 18, 21] {
        for (shape, every) in [(vec![4, 32], 8), (vec![1, 3], 2), (vec![4, 16], 100), (vec![4, 5], 1)] {
            let shape: Vec<i64> = shape;
            let len = shape.iter().product::<i64>() as usize;
            let dims: Vec<usize> = shape.iter().map(|&d| d as usize).collect();
            for (number, dtype) in [(1, 4), (11, 8), (10, 2)] {
                let values = sparse(len, every);
                let raw: Vec<u8> = match dtype {
                    4 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
                    8 => values.iter().flat_map(|&v| f64::from(v).to_le_bytes()).collect(),
                    _ => values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect(),
                };
                let graph = msg()
                    .msg(1, node("Add", &["x", "w"], &["y"]))
                    .text(2, "g")
                    .msg(5, tensor("w", number, &shape).bytes(9, &raw))
                    .msg(11, info("x", number, &shape))
                    .msg(12, info("y", number, &shape));
                let source = msg().int(1, 8).msg(7, graph).msg(8, msg().text(1, "").int(2, opset));
                let model = read(&source);
                let mut layouts = vec![Layout::bitmask(&dims), Layout::Bitmask { cols: len }];
                layouts.extend([(8, 1), (32, 1), (2, 0), (16, 1)].map(|(m, axis)| {
                    Layout::Groups(GroupLayout { n: if m == 32 { 4 } else { m.min(2) }, m, axis })
                }));
                for kind in [ValueType::Exact, ValueType::F16, ValueType::Int8 { axis: 1 }] {
                    for (k, &layout) in layouts.iter().enumerate() {
                        let tensor = model.tensors["w"].load().unwrap();
                        let Ok((packed, _)) = packed::pack(&tensor, layout, kind) else { continue };
                        let packed = Arc::new(packed);
                        let mut patch = Patch::new();
                        patch.set_packed(
                            id(&model, "w"),
                            packed.spec(),
                            Arc::new(move || Ok(packed.clone())),
                        );
                        add(&format!("{opset}-{len}-{number}-{kind:?}-{k}").replace(' ', ""), &model, &patch);
                    }
                }
            }
        }
    }
    // A convolutional network and one of attention, all their weights packed; external data.
    for model in shared_models() {
        let name = model.file_stem().unwrap().to_str().unwrap().to_string();
        if ["resnet20", "resnet56-dynamo", "vit_cifar10"].contains(&&*name) {
            let model = zeroed(io::read(model).unwrap());
            add(&name, &model.0, &model.1);
        }
    }
    let outside = io::read(outside(folder.path())).unwrap();
    add("outside", &outside, &pack_all(&outside));
    let everything = read(&everything());
    add("everything", &everything, &{
        let mut patch = Patch::new();
        pack_as(&mut patch, &everything, "twice", Layout::bitmask(&[4, 10]), ValueType::Exact);
        pack_as(&mut patch, &everything, "doc", Layout::bitmask(&[4, 10]), ValueType::Exact);
        patch
    });

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/ort/same.py");
    let output = std::process::Command::new(python).arg(script).args(&pairs).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.lines().count(), pairs.len() / 2);
}

/// A model with most of its weights set to zero, and the changes that pack them.
fn zeroed(model: Model) -> (Model, Patch) {
    let mut patch = Patch::new();
    for (k, (path, stored)) in model.tensors.iter().enumerate() {
        if stored.shape.len() < 2 || !stored.dtype.is_prunable() {
            continue;
        }
        let mut tensor = stored.load().unwrap();
        for (i, value) in tensor.values_mut::<f32>().unwrap().iter_mut().enumerate() {
            // Some keep one of eight, others what chance says.
            let kept = if k % 2 == 0 { i % 8 == i / 8 % 8 } else { (i * 2_654_435_761) >> 7 & 3 == 0 };
            *value = if kept { *value } else { 0.0 };
        }
        let layout = Choice::Smallest.spec(&tensor, &ValueType::Exact).unwrap().layout;
        let packed = Arc::new(packed::pack(&tensor, layout, ValueType::Exact).unwrap().0);
        patch.set_packed(id(&model, path), packed.spec(), Arc::new(move || Ok(packed.clone())));
    }
    (model, patch)
}
