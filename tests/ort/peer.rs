//! What tests against ONNX Runtime share: where models are, inputs for them, and the comparison.
//! Included by path into the tests of several crates.

#[path = "../python.rs"]
mod python;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use secateur_model::graph::Dim;
use secateur_model::{DType, Data, Tensor};
use secateur_runtime::InputInfo;

/// The workspace: every crate that includes this stands two folders below it.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What open extents are bound to: the first axis is a batch, others are lengths.
const BATCH: usize = 2;
const LENGTH: usize = 16;

fn data_folder() -> PathBuf {
    std::env::var_os("SECATEUR_DATA").map_or_else(|| root().join("../shared/data"), PathBuf::from)
}

/// The ONNX files under a folder, those that are errors on purpose left out.
fn onnx_files(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|e| e.path()) {
        if path.is_dir() && path.file_name().is_some_and(|n| n != "edge-cases") {
            onnx_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "onnx") {
            found.push(path);
        }
    }
}

/// A deterministic random value of an input.
pub(crate) fn random(input: &InputInfo, state: &mut u64) -> Tensor {
    let dims = input.shape.as_ref().expect("a declared shape");
    let shape: Vec<usize> = dims
        .iter()
        .enumerate()
        .map(|(axis, dim)| match dim {
            Dim::Known(n) => *n,
            _ if axis == 0 => BATCH,
            _ => LENGTH,
        })
        .collect();
    let mut uniform = || {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 40) as f32 / (1u64 << 24) as f32
    };
    let len: usize = shape.iter().product();
    match input.dtype {
        Some(DType::F32) => Tensor::new(shape, (0..len).map(|_| 4.0 * (uniform() - 0.5)).collect::<Vec<_>>()),
        // Token ids, masks and token types: 0 and 1 are valid for each.
        Some(DType::I64) => {
            Tensor::new(shape, (0..len).map(|_| i64::from(uniform() < 0.7)).collect::<Vec<_>>())
        }
        other => panic!("input `{}` is of type {other:?}", input.name),
    }
    .expect("a tensor")
}

/// Writes a tensor in numpy's format, version 1.
fn write_npy(path: &Path, tensor: &Tensor) {
    let (kind, bytes): (&str, Vec<u8>) = match tensor.data() {
        Data::F32(v) => ("<f4", v.iter().flat_map(|x| x.to_le_bytes()).collect()),
        Data::I64(v) => ("<i8", v.iter().flat_map(|x| x.to_le_bytes()).collect()),
        other => panic!("{} tensors are not written", other.dtype()),
    };
    let dims: String = tensor.shape().iter().map(|d| format!("{d}, ")).collect();
    let mut header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({dims}), }}");
    header.push_str(&" ".repeat((64 - (10 + header.len() + 1) % 64) % 64));
    header.push('\n');
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.as_bytes());
    file.extend(bytes);
    std::fs::write(path, file).expect("a file in the temporary folder");
}

/// What is wrong with our outputs.
pub(crate) fn compare(
    python: &Path,
    model: &Path,
    inputs: &[Tensor],
    outputs: &[Tensor],
) -> Result<(), String> {
    // Tests of one process run at the same time.
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("secateur-models-{}-{call}", std::process::id()));
    let (given, ours) = (folder.join("inputs"), folder.join("ours"));
    for (folder, tensors) in [(&given, inputs), (&ours, outputs)] {
        std::fs::create_dir_all(folder).map_err(|e| e.to_string())?;
        for (i, tensor) in tensors.iter().enumerate() {
            write_npy(&folder.join(format!("{i}.npy")), tensor);
        }
    }
    let script = root().join("tests/ort/compare.py");
    let result = Command::new(python).arg(script).arg(model).arg(&given).arg(&ours).output();
    std::fs::remove_dir_all(&folder).map_err(|e| e.to_string())?;
    let result = result.map_err(|e| e.to_string())?;
    if result.status.success() {
        return Ok(());
    }
    let text = [result.stdout, result.stderr].concat();
    Err(String::from_utf8_lossy(&text).into_owned())
}

/// The ONNX files of the data folder and of `SECATEUR_EXPORTS`, those that `SECATEUR_MODELS` picks.
pub(crate) fn model_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    onnx_files(&data_folder().join("models"), &mut files);
    if let Some(folder) = std::env::var_os("SECATEUR_EXPORTS") {
        onnx_files(Path::new(&folder), &mut files);
    }
    let wanted = std::env::var("SECATEUR_MODELS").unwrap_or_default();
    files.retain(|f| f.to_string_lossy().contains(&wanted));
    files.sort();
    if files.is_empty() {
        println!("skipped: no ONNX files in {}", data_folder().display());
    }
    files
}

/// The Python to compare with.
pub(crate) fn python() -> Option<PathBuf> {
    python::python(&["numpy", "onnx", "onnxruntime"])
}
