//! What the tests of files share: a small protobuf encoder that knows no schema, so that it can write
//! what no ONNX library would, and the shared models.
#![allow(dead_code, unreachable_pub, missing_docs)] // each test uses its part

pub mod build;
pub mod patches;
#[path = "../../../../tests/python.rs"]
mod python;

use std::path::{Path, PathBuf};

pub(crate) use python::python;
use secateur_model::model::Patch;
use secateur_model::{Data, Element, Model, Tensor, TensorId};

/// A message under construction.
#[derive(Clone, Debug, Default)]
pub struct Msg(pub Vec<u8>);

pub fn msg() -> Msg {
    Msg::default()
}

pub fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

impl Msg {
    fn tag(mut self, number: u32, wire: u64) -> Self {
        self.0.extend(varint(u64::from(number) << 3 | wire));
        self
    }
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
    pub fn int(self, number: u32, value: i64) -> Self {
        self.tag(number, 0).raw(&varint(value as u64))
    }
    pub fn bytes(self, number: u32, value: &[u8]) -> Self {
        self.tag(number, 2).raw(&varint(value.len() as u64)).raw(value)
    }
    /// As `bytes`, with a length prefix longer than needed.
    pub fn padded(self, number: u32, value: &[u8]) -> Self {
        let len = value.len();
        assert!(len < 1 << 14);
        let prefix = [(len & 0x7f) as u8 | 0x80, (len >> 7) as u8 | 0x80, 0];
        self.tag(number, 2).raw(&prefix).raw(value)
    }
    pub fn text(self, number: u32, value: &str) -> Self {
        self.bytes(number, value.as_bytes())
    }
    pub fn msg(self, number: u32, value: Msg) -> Self {
        self.bytes(number, &value.0)
    }
    pub fn fixed32(self, number: u32, value: [u8; 4]) -> Self {
        self.tag(number, 5).raw(&value)
    }
    pub fn fixed64(self, number: u32, value: [u8; 8]) -> Self {
        self.tag(number, 1).raw(&value)
    }
    pub fn float(self, number: u32, value: f32) -> Self {
        self.fixed32(number, value.to_le_bytes())
    }
    pub fn group(self, number: u32, value: Msg) -> Self {
        self.tag(number, 3).raw(&value.0).tag(number, 4)
    }
    pub fn floats(self, number: u32, values: &[f32]) -> Self {
        self.bytes(number, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
    }
    pub fn doubles(self, number: u32, values: &[f64]) -> Self {
        self.bytes(number, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
    }
    pub fn ints(self, number: u32, values: &[i64]) -> Self {
        self.bytes(number, &values.iter().flat_map(|&v| varint(v as u64)).collect::<Vec<_>>())
    }
    /// Fields that no schema knows, of each layout.
    pub fn unknown(self) -> Self {
        self.int(900, 7)
            .text(901, "kept")
            .fixed32(902, [1, 2, 3, 4])
            .fixed64(903, [8; 8])
            .group(904, msg().int(1, 5).text(2, "in a group"))
    }
}

/// `TensorProto` without elements.
pub fn tensor(name: &str, dtype: i64, dims: &[i64]) -> Msg {
    dims.iter().fold(msg(), |m, &d| m.int(1, d)).int(2, dtype).text(8, name)
}

/// `TensorProto` of raw f32.
pub fn raw_f32(name: &str, dims: &[i64], values: &[f32]) -> Msg {
    tensor(name, 1, dims).floats(9, values)
}

/// `TensorProto` whose elements are in another file.
pub fn external(name: &str, dtype: i64, dims: &[i64], entries: &[(&str, &str)]) -> Msg {
    entries
        .iter()
        .fold(tensor(name, dtype, dims), |m, (key, value)| m.msg(13, msg().text(1, key).text(2, value)))
        .int(14, 1)
}

/// `NodeProto`.
pub fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> Msg {
    let m = inputs.iter().fold(msg(), |m, i| m.text(1, i));
    outputs.iter().fold(m, |m, o| m.text(2, o)).text(4, op)
}

/// `AttributeProto` with a name and a type.
pub fn attr(name: &str, kind: i64) -> Msg {
    msg().text(1, name).int(20, kind)
}

/// `ValueInfoProto` of a tensor.
pub fn info(name: &str, dtype: i64, dims: &[i64]) -> Msg {
    let shape = dims.iter().fold(msg(), |m, &d| m.msg(1, msg().int(1, d)));
    msg().text(1, name).msg(2, msg().msg(1, msg().int(1, dtype).msg(2, shape)))
}

/// `ModelProto` around a graph.
pub fn model(graph: Msg) -> Msg {
    msg().int(1, 10).text(2, "tests").msg(7, graph).msg(8, msg().text(1, "").int(2, 17))
}

/// A graph whose output `y` is the sum of the input `x` and each of the named constants.
pub fn adds(names: &[&str], dims: &[i64]) -> Msg {
    let mut last = "x".to_string();
    let mut graph = msg().text(2, "g");
    for (i, name) in names.iter().enumerate() {
        let next = if i + 1 == names.len() { "y".to_string() } else { format!("s{i}") };
        graph = graph.msg(1, node("Add", &[&last, name], &[&next]));
        last = next;
    }
    graph.msg(11, info("x", 1, dims)).msg(12, info("y", 1, dims))
}

pub fn read(message: &Msg) -> Model {
    secateur_model::io::read_bytes(message.0.clone()).unwrap()
}

pub fn write(model: &Model, patch: &Patch) -> Vec<u8> {
    let mut out = Vec::new();
    let len = secateur_model::io::write_stream(model, patch, &[], &mut out).unwrap();
    assert_eq!(len, out.len() as u64);
    out
}

pub fn id(model: &Model, path: &str) -> TensorId {
    model.tensor_id(path).unwrap_or_else(|| panic!("no `{path}` among {:?}", model.tensors.keys()))
}

pub fn set<T: Element>(model: &Model, path: &str, values: Vec<T>) -> Patch {
    let id = id(model, path);
    let mut patch = Patch::new();
    patch.set(id, Tensor::new(model.tensor(id).shape.clone(), values).unwrap());
    patch
}

pub fn data(model: &Model, path: &str) -> Data {
    model.tensor(id(model, path)).load().unwrap().data().clone()
}

/// The folder of shared models; prints why where it is absent.
pub fn shared() -> Option<PathBuf> {
    let folder = std::env::var_os("SECATEUR_DATA").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"),
        PathBuf::from,
    );
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: no shared data at {} (set SECATEUR_DATA)", folder.display());
    None
}

/// The checkpoints made by PyTorch.
pub fn torch_goldens() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/torch")
}

/// Checks that PyTorch reads the same from checkpoints as is read here: each with the key of its state
/// dict, and whether it holds more than `weights_only=True` allows. Skipped without a PyTorch.
pub fn same_as_pytorch<'a>(checkpoints: impl IntoIterator<Item = (PathBuf, Option<&'a str>, bool)>) {
    let Some(python) = python(&["torch", "safetensors"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(python);
    command.arg(torch_goldens().join("read.py"));
    let mut read = Vec::new();
    for (index, (checkpoint, key, full)) in checkpoints.into_iter().enumerate() {
        let out = folder.path().join(format!("{index}.safetensors"));
        command.args([&checkpoint, &out]).arg(key.unwrap_or("-"));
        command.arg(if full { "full" } else { "weights" });
        read.push((checkpoint, out));
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for (checkpoint, out) in read {
        same_tensors(&secateur_model::io::read(checkpoint).unwrap(), &out);
    }
}

/// A model has the tensors of a safetensors file, in whatever order.
pub fn same_tensors(model: &Model, expected: &Path) {
    let expected = secateur_model::io::read(expected).unwrap();
    let paths = |model: &Model| model.tensors.keys().cloned().collect::<std::collections::BTreeSet<_>>();
    assert_eq!(paths(model), paths(&expected));
    for (path, stored) in &expected.tensors {
        let (found, expected) = (model.tensors[path].load().unwrap(), stored.load().unwrap());
        assert_eq!((found.dtype(), found.shape()), (expected.dtype(), expected.shape()), "{path}");
        let bytes = |tensor: &Tensor| secateur_model::model::encode(tensor.data()).unwrap();
        assert_eq!(bytes(&found), bytes(&expected), "{path}");
    }
}

/// All shared ONNX models but those made to fail.
pub fn shared_models() -> Vec<PathBuf> {
    fn find(folder: &std::path::Path, out: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
            if entry.is_dir() {
                find(&entry, out);
            } else if entry.extension().is_some_and(|e| e == "onnx") && !entry.ends_with(NO_OPSET) {
                out.push(entry);
            }
        }
    }
    let mut models = Vec::new();
    if let Some(folder) = shared() {
        find(&folder.join("models"), &mut models);
        models.sort();
        assert!(models.len() >= 10, "{models:?}");
    }
    models
}

pub const NO_OPSET: &str = "super_resolution_no_opset.onnx";

/// The same numbers on every machine (SplitMix64).
pub struct Numbers(pub u64);

impl Numbers {
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }
}

/// Changes some bytes: flips a bit, sets a byte to one that often matters, cuts, repeats or moves a part.
pub fn damage(bytes: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=numbers.below(3) {
        let at = numbers.below(bytes.len().max(1));
        if bytes.is_empty() {
            break;
        }
        match numbers.below(6) {
            0 | 1 => bytes[at] ^= 1 << numbers.below(8),
            2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][numbers.below(5)],
            3 => bytes.truncate(at),
            4 => {
                let end = bytes.len().min(at + 1 + numbers.below(40));
                let part = bytes[at..end].to_vec();
                let to = numbers.below(bytes.len());
                bytes.splice(to..to, part);
            }
            _ => drop(bytes.drain(at..(at + 1 + numbers.below(20)).min(bytes.len()))),
        }
    }
    bytes
}
