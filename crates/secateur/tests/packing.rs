//! What is said of packed files is what packing makes of them, however weights stand in a file. `goldens/packing/make.py`
//! makes the models.

use std::path::Path;

use secateur::files::size;
use secateur::pack::{PackOptions, Target, plan};
use secateur_model::{ErrorKind, Model, Patch, io};

fn golden(name: &str) -> Model {
    io::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/packing").join(name)).unwrap()
}

/// The size of the file, and what is said that it has packed.
fn forecast(model: &Model) -> (u64, u64) {
    let bytes = size::bytes(model, &Patch::new(), &[], std::iter::empty()).unwrap();
    (bytes.raw, bytes.packed.unwrap())
}

#[test]
fn forecasts_are_what_packing_gives() {
    let folder = tempfile::tempdir().unwrap();
    for (name, packs, why) in [
        ("constants.onnx", 2, ""),
        ("listed-ir3.onnx", 2, ""),
        ("listed.onnx", 0, "take it off the graph's inputs"),
        ("tiny.onnx", 0, ""),
    ] {
        let model = golden(name);
        let plan = plan(&model, &PackOptions { target: Target::Onnx, ..PackOptions::default() }).unwrap();
        assert_eq!(plan.tensors.len(), packs, "{name}");
        assert!(
            plan.unfit.iter().all(|(_, reason)| !why.is_empty() && reason.contains(why)),
            "{:?}",
            plan.unfit
        );
        assert_eq!(plan.unfit.is_empty(), why.is_empty(), "{name}");
        let path = folder.path().join(name);
        let written =
            io::write(&model, &plan.patch(&model), &[], &path, io::WriteOptions::default()).unwrap();
        let (raw, packed) = forecast(&model);
        let real = written.bytes();
        assert!(packed <= raw && real <= raw, "{name}: {raw}, {packed} said, {real}");
        assert!((packed as f64 / real as f64 - 1.0).abs() < 0.03, "{name}: {packed} said, {real}");
        assert_eq!(packs > 0, real < raw / 2, "{name}: {raw} to {real}");
        let again = io::read(&path).unwrap();
        for (path, stored) in &model.tensors {
            assert_eq!(again.tensors[path].load().unwrap(), stored.load().unwrap(), "{path}");
        }
    }
}

#[test]
fn an_operator_set_without_the_operators_is_the_reason() {
    let model = golden("opset9.onnx");
    let error = plan(&model, &PackOptions { target: Target::Onnx, ..PackOptions::default() }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("opset 11 or newer, the file is of opset 9"), "{error}");
    let (raw, packed) = forecast(&model);
    assert_eq!(packed, raw);
    // As safetensors it is packed.
    assert_eq!(plan(&model, &PackOptions::default()).unwrap().tensors.len(), 2);
}
