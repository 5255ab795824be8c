//! What was written is valid for onnx's checker, by `tests/ort/check.py` where `SECATEUR_PYTHON` names
//! a Python with onnx.

mod common;

use std::path::{Path, PathBuf};

use common::*;
use secateur_model::io::onnx::OnnxSource;
use secateur_model::io::{self, WriteOptions};
use secateur_model::model::{Patch, decode};
use secateur_model::{Model, Tensor, TensorId};

/// All prunable tensors set to zero.
fn zeros(model: &Model) -> Patch {
    let mut patch = Patch::new();
    let onnx = model.source.downcast::<OnnxSource>().unwrap();
    for (index, stored) in model.tensors.values().enumerate() {
        if stored.dtype.is_prunable() && onnx.places[index].is_some() {
            let data = decode(stored.dtype, &stored.shape, &vec![0; stored.byte_len()]).unwrap();
            patch.set(TensorId(index as u32), Tensor::from_data(stored.shape.clone(), data).unwrap());
        }
    }
    assert!(patch.ids().next().is_some());
    patch
}

/// Models in which weights are kept in unusual ways, all of them valid.
fn unusual(folder: &Path) -> Vec<PathBuf> {
    std::fs::write(folder.join("w.bin"), [0u8; 24]).unwrap();
    let at = |offset| [("location", "w.bin"), ("offset", offset), ("length", "8")];
    let outside = adds(&["u", "v"], &[2])
        .msg(5, external("u", 1, &[2], &at("0")))
        .msg(5, external("v", 1, &[2], &at("16")));
    let info16 = |name: &str| info(name, 10, &[3]);
    let typed = msg()
        .text(2, "g")
        .msg(1, node("Add", &["x", "w"], &["y"]))
        .msg(5, tensor("w", 10, &[3]).ints(5, &[0x3c00, 0x4000, 1]))
        .msg(11, info16("x"))
        .msg(12, info16("y"));
    let value = attr("value", 4).msg(5, tensor("c", 1, &[2]).float(4, 1.0).float(4, 2.0));
    let constant = msg().msg(1, node("Constant", &[], &["w"]).msg(5, value)).raw(&adds(&["w"], &[2]).0);
    let branch = |name| {
        let body = msg()
            .text(2, name)
            .msg(1, node("Add", &["x", "v"], &["z"]))
            .msg(5, raw_f32("v", &[2], &[1., 2.]));
        attr(name, 5).msg(6, body.msg(12, info("z", 1, &[2])))
    };
    let choose = msg()
        .text(2, "g")
        .msg(1, node("If", &["b"], &["y"]).msg(5, branch("then_branch")).msg(5, branch("else_branch")))
        .msg(11, info("x", 1, &[2]))
        .msg(11, info("b", 9, &[]))
        .msg(12, info("y", 1, &[2]));
    let graphs = [("outside", outside), ("typed", typed), ("constant", constant), ("branches", choose)];
    let write = |(name, graph): (&str, Msg)| {
        let path = folder.join(format!("{name}.onnx"));
        std::fs::write(&path, model(graph).0).unwrap();
        path
    };
    graphs.into_iter().map(write).collect()
}

#[test]
fn written_models_are_valid() {
    let Some(python) = python(&["numpy", "onnx", "onnxruntime"]) else { return };
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut files = shared_models();
    files.extend(unusual(from.path()));
    let mut written = Vec::new();
    for (k, file) in files.iter().enumerate() {
        let model = io::read(file).unwrap();
        let out = to.path().join(format!("{k}-{}", file.file_name().unwrap().to_str().unwrap()));
        let patch = match model.tensors.values().any(|t| t.dtype.is_prunable()) {
            true => zeros(&model),
            false => Patch::new(),
        };
        let metadata = [("recipe".to_string(), "zeros".to_string())];
        io::write(&model, &patch, &metadata, &out, WriteOptions::default()).unwrap();
        written.push(out);
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/ort/check.py");
    let output = std::process::Command::new(python).arg(script).args(&written).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.lines().count(), written.len());
}
