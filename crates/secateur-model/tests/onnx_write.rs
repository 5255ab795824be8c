//! Writing ONNX: exactly what changed is replaced.

mod common;

use std::sync::Arc;

use common::*;
use half::{bf16, f16};
use secateur_model::io::onnx::OnnxSource;
use secateur_model::io::{self, WriteOptions};
use secateur_model::model::Patch;
use secateur_model::{Data, ErrorKind, Tensor};

#[test]
fn without_changes_the_bytes_are_the_same() {
    for path in shared_models() {
        let model = io::read(&path).unwrap();
        assert!(write(&model, &Patch::new()) == std::fs::read(&path).unwrap(), "{}", path.display());
    }
}

/// The ranges in which two byte strings of one length differ, neighbours up to 3 bytes apart joined.
fn differences(a: &[u8], b: &[u8]) -> Option<std::ops::Range<usize>> {
    assert_eq!(a.len(), b.len());
    let first = a.iter().zip(b).position(|(x, y)| x != y)?;
    let last = a.iter().zip(b).rposition(|(x, y)| x != y)?;
    Some(first..last + 1)
}

#[test]
fn a_changed_tensor_changes_its_bytes_only() {
    for path in shared_models() {
        let model = io::read(&path).unwrap();
        let before = std::fs::read(&path).unwrap();
        let floats = model.tensors.values().filter(|t| t.dtype == secateur_model::DType::F32 && t.len() > 1);
        for stored in floats.step_by(7).take(3) {
            let tensor = stored.load().unwrap();
            let mut values = tensor.values::<f32>().unwrap().to_vec();
            let n = values.len();
            (values[0], values[n - 1]) = (1234.5, -77.25);
            let after = write(&model, &set(&model, &stored.path, values.clone()));
            let changed = differences(&before, &after).unwrap();
            assert!(changed.len() <= stored.byte_len(), "{}", stored.path);
            let again = io::read_bytes(after).unwrap();
            assert_eq!(data(&again, &stored.path), Data::F32(values));
        }
    }
}

/// A model with unknown fields at every level, some length prefixes longer than needed, and a typed
/// tensor of f16 bits, whose encoding has a length of its own.
fn strange(bits: [i64; 3]) -> Msg {
    let tensor = tensor("w", 10, &[3]).unknown().ints(5, &bits).text(12, "doc").unknown();
    let body = msg()
        .unknown()
        .msg(1, node("Add", &["x", "v"], &["z"]).unknown())
        .msg(5, raw_f32("v", &[2], &[1.0, 2.0]).unknown())
        .msg(12, info("z", 1, &[2]).unknown());
    let branch = |name: &str| attr(name, 5).unknown().padded(6, &body.0).unknown();
    let graph = msg()
        .unknown()
        .msg(1, node("Cast", &["w"], &["c"]).unknown())
        .msg(
            1,
            node("If", &["b"], &["y"])
                .unknown()
                .msg(5, branch("then_branch"))
                .padded(5, &branch("else_branch").0),
        )
        .msg(
            1,
            node("Constant", &[], &["k"])
                .unknown()
                .msg(5, attr("value", 4).unknown().msg(5, raw_f32("", &[2], &[3.0, 4.0]).unknown())),
        )
        .msg(5, tensor)
        .msg(11, info("x", 1, &[2]))
        .msg(11, info("b", 9, &[]))
        .msg(12, info("y", 1, &[2]))
        .unknown();
    msg()
        .unknown()
        .int(1, 10)
        .msg(7, graph)
        .msg(14, msg().text(1, "a").text(2, "1").unknown())
        .msg(8, msg().text(1, "").int(2, 17).unknown())
        .unknown()
}

#[test]
fn unknown_fields_survive_at_every_level() {
    let source = strange([1, 2, 3]);
    let model = read(&source);
    assert_eq!(write(&model, &Patch::new()), source.0);
    assert_eq!(count(&source.0, b"kept"), 25);

    // The typed tensor's encoding grows: what is written is the file that holds it so.
    let bits = [0xff00u16, 0x7000, 0xffff];
    let grown = write(&model, &set(&model, "w", bits.map(f16::from_bits).to_vec()));
    assert!(grown.len() > source.0.len());
    assert_eq!(grown, strange(bits.map(i64::from)).0);
    let again = io::read_bytes(grown).unwrap();
    let back = write(&again, &set(&again, "w", [1u16, 2, 3].map(f16::from_bits).to_vec()));
    assert_eq!(back, source.0);
}

fn count(bytes: &[u8], what: &[u8]) -> usize {
    bytes.windows(what.len()).filter(|w| *w == what).count()
}

#[test]
fn tensors_in_subgraphs_constants_and_functions_change_in_place() {
    let source = strange([1, 2, 3]);
    let model = read(&source);
    let paths: Vec<_> = model.tensors.keys().cloned().collect();
    assert_eq!(paths.len(), 4, "{paths:?}");
    for path in paths.iter().filter(|p| *p != "w") {
        let after = write(&model, &set(&model, path, vec![9.5f32, -8.5]));
        let changed = differences(&source.0, &after).unwrap();
        assert!(changed.len() <= 8, "{path}: {changed:?}");
        let again = io::read_bytes(after).unwrap();
        for other in &paths {
            let expected = if other == path { Data::F32(vec![9.5, -8.5]) } else { data(&model, other) };
            assert_eq!(data(&again, other), expected, "{other} after changing {path}");
        }
    }
}

/// A tensor of each type in its typed field, and values that need more bytes than the old ones.
fn typed() -> Vec<(i64, Msg, Data)> {
    let t = |dtype| tensor("w", dtype, &[3]);
    vec![
        (1, t(1).floats(4, &[1., 2., 3.]), Data::F32(vec![0., -5., f32::NAN])),
        (11, t(11).doubles(10, &[1., 2., 3.]), Data::F64(vec![0., -5., 1e300])),
        (6, t(6).ints(5, &[1, 2, 3]), Data::I32(vec![-1, i32::MIN, i32::MAX])),
        (3, t(3).ints(5, &[1, 2, 3]), Data::I8(vec![-1, -128, 127])),
        (5, t(5).ints(5, &[1, 2, 3]), Data::I16(vec![-1, i16::MIN, 0])),
        (2, t(2).ints(5, &[1, 2, 3]), Data::U8(vec![255, 0, 128])),
        (4, t(4).ints(5, &[1, 2, 3]), Data::U16(vec![65535, 0, 128])),
        (9, t(9).ints(5, &[1, 0, 1]), Data::Bool(vec![false, true, false])),
        (10, t(10).ints(5, &[1, 2, 3]), Data::F16(vec![f16::ONE, f16::NEG_ZERO, f16::ZERO])),
        (16, t(16).ints(5, &[1, 2, 3]), Data::BF16(vec![bf16::ONE, bf16::NEG_ZERO, bf16::ZERO])),
        (7, t(7).ints(7, &[1, 2, 3]), Data::I64(vec![-1, i64::MIN, i64::MAX])),
        (12, t(12).ints(11, &[1, 2, 3]), Data::U32(vec![u32::MAX, 0, 1])),
        (13, t(13).ints(11, &[1, 2, 3]), Data::U64(vec![u64::MAX, 0, 1])),
        (
            8,
            t(8).text(6, "a").text(6, "").text(6, "c"),
            Data::String(["", "longer", "ü"].map(String::from).into()),
        ),
        (14, tensor("w", 14, &[1]).floats(4, &[1., 2.]), Data::Raw(secateur_model::DType::C64, vec![7; 8])),
        (21, t(21).ints(5, &[0x21, 3]), Data::Raw(secateur_model::DType::U4, vec![0xff, 0x0f])),
        (17, t(17).ints(5, &[1, 2, 3]), Data::Raw(secateur_model::DType::F8E4M3FN, vec![0x80, 0, 0xff])),
    ]
}

fn same(a: &Data, b: &Data) -> bool {
    match (a, b) {
        (Data::String(a), Data::String(b)) => a == b,
        _ => {
            a.dtype() == b.dtype()
                && secateur_model::model::encode(a).unwrap() == secateur_model::model::encode(b).unwrap()
        }
    }
}

#[test]
fn typed_fields_are_written_as_the_field_they_came_from() {
    for (dtype, tensor, values) in typed() {
        let source = model(adds(&["w"], &[3]).msg(5, tensor.text(12, "behind").unknown()));
        let model = read(&source);
        let id = id(&model, "w");
        let mut patch = Patch::new();
        patch.set(id, Tensor::from_data(model.tensor(id).shape.clone(), values.clone()).unwrap());
        let again = io::read_bytes(write(&model, &patch)).unwrap();
        assert!(same(&data(&again, "w"), &values), "type {dtype}: {:?}", data(&again, "w"));
        // Back again it is the same file, since packed fields have one encoding.
        let mut back = Patch::new();
        back.set(id, model.tensor(id).load().unwrap());
        assert!(write(&again, &back) == source.0, "type {dtype}");
    }
}

#[test]
fn unpacked_and_scattered_typed_fields_are_joined() {
    let unpacked =
        tensor("w", 1, &[4]).float(4, 1.0).text(12, "between").float(4, 2.0).floats(4, &[3.0, 4.0]);
    let model = read(&model(adds(&["w"], &[4]).msg(5, unpacked)));
    assert_eq!(data(&model, "w"), Data::F32(vec![1., 2., 3., 4.]));
    let after = write(&model, &set(&model, "w", vec![5f32, 6., 7., 8.]));
    assert_eq!(data(&io::read_bytes(after.clone()).unwrap(), "w"), Data::F32(vec![5., 6., 7., 8.]));
    assert_eq!(count(&after, b"between"), 1);
}

#[test]
fn metadata_is_added_and_replaced_by_key() {
    let source = strange([1, 2, 3])
        .msg(14, msg().text(1, "b").text(2, "2"))
        .msg(14, msg().text(1, "a").text(2, "twice"));
    let model = read(&source);
    let given = [("a".to_string(), "new".to_string()), ("c".to_string(), "3".to_string())];
    let mut out = Vec::new();
    io::write_stream(&model, &Patch::new(), &given, &mut out).unwrap();
    let again = io::read_bytes(out.clone()).unwrap();
    let onnx = again.source.downcast::<OnnxSource>().unwrap();
    let metadata: Vec<_> = onnx.metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(metadata, [("a", "new"), ("b", "2"), ("c", "3")]);
    // The same again changes nothing.
    let mut again = Vec::new();
    io::write_stream(&io::read_bytes(out.clone()).unwrap(), &Patch::new(), &given, &mut again).unwrap();
    assert_eq!(out, again);
}

#[test]
fn lazy_changes_are_computed_when_written_and_checked() {
    let model = read(&model(
        adds(&["v", "w"], &[2]).msg(5, raw_f32("v", &[2], &[1., 2.])).msg(5, raw_f32("w", &[2], &[3., 4.])),
    ));
    let mut patch = Patch::new();
    patch.set_lazy(id(&model, "w"), Arc::new(|| Tensor::new([2], vec![0f32, 5.])));
    assert_eq!(data(&io::read_bytes(write(&model, &patch)).unwrap(), "w"), Data::F32(vec![0., 5.]));

    patch.set_lazy(id(&model, "v"), Arc::new(|| Tensor::new([3], vec![0f32; 3])));
    let error = io::write_stream(&model, &patch, &[], &mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert!(error.to_string().contains("`v`"), "{error}");
}

#[test]
fn a_constant_given_as_numbers_becomes_a_tensor() {
    let constant = node("Constant", &[], &["w"]).msg(5, attr("value_floats", 6).floats(7, &[1., 2.]));
    let graph = msg().msg(1, constant).raw(&adds(&["w"], &[2]).0);
    let model = read(&model(graph));
    let again = io::read_bytes(write(&model, &set(&model, "w", vec![0f32, 0.]))).unwrap();
    assert_eq!(data(&again, "w"), Data::F32(vec![0., 0.]));
}

fn names(folder: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

const FORCE: WriteOptions = WriteOptions { overwrite: true };

#[test]
fn a_file_is_replaced_only_where_asked() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in.onnx");
    let source = model(adds(&["w"], &[2]).msg(5, raw_f32("w", &[2], &[1., 2.])));
    std::fs::write(&input, &source.0).unwrap();
    let model = io::read(&input).unwrap();
    let patch = set(&model, "w", vec![0f32, 5.]);
    let write = |path: &str, options| io::write(&model, &patch, &[], &folder.path().join(path), options);

    let report = write("out.onnx", WriteOptions::default()).unwrap();
    assert_eq!(report.bytes(), source.0.len() as u64);
    for (path, word) in
        [("in.onnx", "input itself"), ("out.onnx", "`force`"), ("no/out.onnx", "no` does not exist")]
    {
        let error = write(path, WriteOptions::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains(word), "{error}");
    }
    assert_eq!(std::fs::read(&input).unwrap(), source.0);
    // The input is memory-mapped while it is replaced: the model still reads its old bytes.
    write("in.onnx", FORCE).unwrap();
    assert_eq!(data(&io::read(&input).unwrap(), "w"), Data::F32(vec![0., 5.]));
    assert_eq!(data(&model, "w"), Data::F32(vec![1., 2.]));
    assert_eq!(names(folder.path()), ["in.onnx", "out.onnx"]);
}

/// A writer that is full after so many bytes.
struct Full(usize);

impl std::io::Write for Full {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0 == 0 {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        Ok(taken)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_is_an_error_wherever_it_happens() {
    let source = strange([1, 2, 3]);
    let model = read(&source);
    let patch = set(&model, "w", [1u16, 2, 3].map(f16::from_bits).to_vec());
    for room in 0..source.0.len() {
        let error = io::write_stream(&model, &patch, &[], &mut Full(room)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    }
    io::write_stream(&model, &patch, &[], &mut Full(source.0.len())).unwrap();
}

/// A graph made at random: tensors of several types in all forms, constants, branches, unknown
/// fields. With `changed`, about half of the tensors hold other elements; all else is the same.
fn random_graph(numbers: &mut Numbers, changed: bool, depth: usize) -> Msg {
    let unknown = |m: Msg, numbers: &mut Numbers| if numbers.below(4) == 0 { m.unknown() } else { m };
    let mut graph = unknown(msg().text(2, "g"), numbers);
    for k in 0..1 + numbers.below(4) {
        let name = format!("t{k}");
        let len = 1 + numbers.below(40);
        let mut draws: Vec<u16> = (0..len).map(|_| numbers.below(1 << 16) as u16).collect();
        let others: Vec<u16> = (0..len).map(|_| numbers.below(1 << 16) as u16).collect();
        if numbers.below(2) == 0 && changed {
            draws = others;
        }
        let bits: Vec<i64> = draws.iter().map(|&d| d.into()).collect();
        let floats: Vec<f32> = draws.iter().map(|&d| f32::from(d) - 1000.0).collect();
        let doubles: Vec<f64> = floats.iter().map(|&f| f.into()).collect();
        let signed: Vec<i64> = bits.iter().map(|&b| (b - 30_000) << (b % 40)).collect();
        let t = |dtype| tensor(&name, dtype, &[len as i64]);
        let little: Vec<u8> = draws.iter().flat_map(|d| d.to_le_bytes()).collect();
        let t = match numbers.below(8) {
            0 => t(1).floats(4, &floats),
            1 => t(1).floats(9, &floats),
            2 => t(11).doubles(10, &doubles),
            3 => t(10).ints(5, &bits),
            4 => t(16).ints(5, &bits),
            5 => t(10).bytes(9, &little),
            6 => t(7).ints(7, &signed),
            _ => t(12).ints(11, &bits),
        };
        let t = unknown(t, numbers);
        graph = match numbers.below(3) {
            0 => graph
                .msg(1, node("Constant", &[], &[&name]).msg(5, unknown(attr("value", 4).msg(5, t), numbers))),
            _ => graph.msg(5, t),
        };
        graph = unknown(graph, numbers);
    }
    if depth > 0 {
        let branch = |name, numbers: &mut Numbers| {
            unknown(attr(name, 5), numbers).msg(6, random_graph(numbers, changed, depth - 1))
        };
        let choose = node("If", &["t0"], &["i"]).msg(5, branch("then_branch", numbers));
        graph = graph.msg(1, choose.msg(5, branch("else_branch", numbers)));
    }
    graph
}

#[test]
fn a_changed_model_is_the_file_that_holds_the_change() {
    let mut changes = 0;
    for seed in 0..400 {
        let file = |changed| model(random_graph(&mut Numbers(seed), changed, seed as usize % 3)).unknown();
        let (before, after) = (file(false), file(true));
        let (from, to) = (read(&before), read(&after));
        let mut patch = Patch::new();
        for (path, stored) in &to.tensors {
            if !same(&data(&from, path), &data(&to, path)) {
                patch.set(id(&from, path), stored.load().unwrap());
                changes += 1;
            }
        }
        assert!(write(&from, &Patch::new()) == before.0, "seed {seed}");
        assert!(write(&from, &patch) == after.0, "seed {seed}");
    }
    assert!(changes > 400, "{changes}");
}

/// `SparseTensorProto` with values and indices, one a value or one an axis, of a `[3, 4]` tensor.
fn sparse(values: Msg, indices: &[i64], dims: &[i64]) -> Msg {
    msg().msg(1, values).msg(2, tensor("", 7, dims).ints(7, indices)).int(3, 3).int(3, 4)
}

#[test]
fn of_a_sparse_tensor_the_listed_values_change() {
    let flat = sparse(raw_f32("flat", &[3], &[1.0, -2.0, 3.0]), &[1, 6, 11], &[3]);
    let typed =
        sparse(tensor("typed", 1, &[2]).floats(4, &[5.0, 6.0]).text(12, "kept"), &[0, 3, 2, 1], &[2, 2]);
    let constant = node("Constant", &[], &["k"])
        .msg(5, attr("sparse_value", 11).msg(22, sparse(raw_f32("", &[1], &[7.0]), &[4], &[1])));
    let graph = adds(&["flat", "typed", "k"], &[3, 4]).msg(15, flat).msg(15, typed);
    let source = self::model(Msg([msg().msg(1, constant).0, graph.0].concat()));
    let model = read(&source);
    let dense = |at: &[(usize, f32)]| {
        let mut values = vec![0f32; 12];
        at.iter().for_each(|&(i, v)| values[i] = v);
        values
    };
    assert_eq!(data(&model, "flat"), Data::F32(dense(&[(1, 1.0), (6, -2.0), (11, 3.0)])));
    for (path, before, after) in [
        ("flat", dense(&[(1, 1.0), (6, -2.0), (11, 3.0)]), dense(&[(6, -2.0)])),
        ("typed", dense(&[(3, 5.0), (9, 6.0)]), dense(&[(3, 5.0)])),
        ("k", dense(&[(4, 7.0)]), dense(&[])),
    ] {
        let written = write(&model, &set(&model, path, after.clone()));
        assert_eq!(written.len(), source.0.len(), "{path}");
        let again = io::read_bytes(written).unwrap();
        assert_eq!(data(&again, path), Data::F32(after));
        for other in ["flat", "typed", "k"].into_iter().filter(|other| *other != path) {
            assert_eq!(data(&again, other), data(&model, other));
        }
        assert!(write(&again, &set(&again, path, before)) == source.0, "{path}");
        let error = io::write_stream(&model, &set(&model, path, vec![1f32; 12]), &[], &mut Vec::new());
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(path) && error.to_string().contains("sparse tensor"), "{error}");
    }
}
