//! ONNX: reading into a [`Model`] and splicing changes back into the file's bytes.

mod attr;
mod body;
mod build;
mod call;
mod create;
mod data_file;
#[cfg(test)]
mod descriptor;
mod edit;
mod elements;
mod encode;
mod external;
mod modules;
mod packed;
mod proto;
mod read;
mod repack;
mod splice;
mod tensor;
mod unpackers;
mod wire;
mod write;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;

use crate::io::Compression;
use crate::model::{Container, Format, Metadata, Patch, WriteOptions, WriteReport, decode, encode};
use crate::packed::Spec;
use crate::{Error, Graph, Model, Result, ResultExt, StoredTensor, Tensor, TensorId, ValueId};

pub use external::ExternalFile;
pub use read::from_bytes;
pub use tensor::read_tensor;

/// ONNX: weights and graph.
pub static ONNX: Format = Format {
    name: "ONNX",
    extensions: &["onnx"],
    // A protobuf message has no mark: whatever no other format takes is read as one, or refused with what it looks like.
    begins: |_| true,
    read: read::parse,
    create: write::create_stream,
    create_files: Some(write::create),
};

/// What the writer needs to know of the ONNX file a model came from.
#[derive(Clone, Debug)]
pub struct OnnxSource {
    /// The file's bytes, memory-mapped.
    pub bytes: Bytes,
    /// The IR version.
    pub ir_version: i64,
    /// Who wrote the file, and the version.
    pub producer: String,
    /// Versions of the operator sets, by domain (`ai.onnx` is the empty string).
    pub opsets: Vec<(String, u32)>,
    /// The metadata, in the file's order.
    pub metadata: Vec<(String, String)>,
    /// The `TensorProto` of each tensor, by [`TensorId`]; `None` where a `Constant` node holds it as numbers. Of a
    /// sparse tensor, that of its values.
    pub places: Vec<Option<FieldPath>>,
    external: external::ExternalFiles,
    /// The external file and the bytes in it that hold each tensor, by [`TensorId`];
    /// `None` where the model file itself holds it.
    extents: Vec<Option<Extent>>,
    /// The nodes and initializers of packed tensors.
    packed: BTreeMap<TensorId, packed::PackedSite>,
    /// The positions of the values that the file has of sparse tensors, in its order.
    sparse: BTreeMap<TensorId, Vec<usize>>,
    /// Whether functions that expand packed tensors are called in other ways too.
    expands_unpackers: bool,
    /// Initializers that are inputs of the graph too.
    defaults: HashSet<TensorId>,
    /// The attributes of `Constant` nodes that hold a tensor as numbers or strings.
    number_attributes: BTreeMap<TensorId, FieldPath>,
    /// The graphs of the file, by their places.
    sites: HashMap<FieldPath, GraphSite>,
}

/// How the file holds a graph.
#[derive(Clone, Debug, Default)]
struct GraphSite {
    /// The node of the file that each node comes from.
    nodes: Vec<NodeSite>,
    /// The names that the file has for values with other names in the graph; `None` for values inside a function,
    /// for which it has none.
    names: HashMap<ValueId, Option<String>>,
}

impl GraphSite {
    /// What the file calls a value of the graph; `None` where it has no name for it.
    fn name_of<'a>(&'a self, graph: &'a Graph, value: ValueId) -> Option<&'a str> {
        match self.names.get(&value) {
            Some(name) => name.as_deref(),
            None => Some(graph.value_name(value)),
        }
    }
}

/// The node of the file that one of the graph comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NodeSite {
    /// The position in the file's graph.
    index: u32,
    /// Whether the file's node is just this one, not the call of a function or an operator that is expanded into several.
    whole: bool,
}

/// An external file by its index, and bytes in it.
type Extent = (usize, Range<usize>);

impl Container for OnnxSource {
    fn format(&self) -> Option<&'static Format> {
        Some(&ONNX)
    }

    fn write_stream(
        &self,
        model: &Model,
        patch: &Patch,
        metadata: &Metadata,
        out: &mut dyn Write,
    ) -> Result<u64> {
        write::write_stream(self, model, patch, metadata, out)
    }

    fn write_files(
        &self,
        model: &Model,
        patch: &Patch,
        metadata: &Metadata,
        path: &Path,
        options: WriteOptions,
    ) -> Result<Option<WriteReport>> {
        if Compression::of_name(path).is_none() {
            return write::write(self, model, patch, metadata, path, options).map(Some);
        }
        if self.is_several_files() {
            let message = "the model has external data, so it is not one file that could be compressed";
            return Err(Error::unsupported(message)).at_file(path);
        }
        Ok(None)
    }

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn holds_changed(&self, id: TensorId) -> bool {
        self.places.get(id.0 as usize).is_none_or(Option::is_some) || self.number_attributes.contains_key(&id)
    }

    fn files(&self) -> Vec<&Bytes> {
        let external = self.external_files().iter().map(|file| &file.bytes);
        std::iter::once(&self.bytes).chain(external).collect()
    }
}

impl OnnxSource {
    /// The files of external data, in the order in which the model names them.
    pub fn external_files(&self) -> &[ExternalFile] {
        self.external.files()
    }

    /// A tensor's elements as the file has them: all, or of a sparse tensor those that it lists.
    ///
    /// # Errors
    /// `Unsupported` where another element of a sparse tensor is not zero.
    fn written(&self, id: TensorId, tensor: Tensor) -> Result<Tensor> {
        let Some(positions) = self.sparse.get(&id) else { return Ok(tensor) };
        let size = tensor.dtype().bits() / 8;
        let mut dense = encode(tensor.data())?;
        let mut values = Vec::with_capacity(positions.len() * size);
        for &position in positions {
            values.extend_from_slice(&dense[position * size..][..size]);
        }
        for &position in positions {
            dense[position * size..][..size].fill(0);
        }
        if dense.iter().any(|&byte| byte != 0) {
            return Err(Error::unsupported(
                "would get weights where the file, which has it as a sparse tensor, lists none",
            ));
        }
        let shape = vec![positions.len()];
        let data = decode(tensor.dtype(), &shape, &values)?;
        Tensor::from_data(shape, data)
    }

    /// The size of a tensor's elements as raw data of the file.
    fn raw_len(&self, id: TensorId, stored: &StoredTensor) -> usize {
        let listed = self.sparse.get(&id).map(|positions| positions.len() * stored.dtype.bits() / 8);
        listed.unwrap_or_else(|| stored.byte_len())
    }

    /// Where the file has a tensor's elements: a tensor message, or an attribute of numbers. `None` where neither.
    fn place(&self, id: TensorId) -> Option<&FieldPath> {
        self.places[id.0 as usize].as_ref().or_else(|| self.number_attributes.get(&id))
    }

    /// Why no tensor can be packed in the file; `None` where it can hold packed tensors.
    pub fn unpackable(&self) -> Option<String> {
        let opset = self.opset();
        (opset < unpackers::OLDEST_OPSET).then(|| {
            format!(
                "packed weights need opset {} or newer, the file is of opset {opset}: convert it with \
                 onnx.version_converter, or pack into safetensors",
                unpackers::OLDEST_OPSET
            )
        })
    }

    /// Why a tensor cannot be packed in the file; `None` where it can: an initializer or a `Constant` node of the main
    /// graph. Before IR version 4 every initializer is an input too, and constant all the same.
    pub fn stays_dense(&self, id: TensorId) -> Option<String> {
        if let Some(reason) = self.unpackable() {
            return Some(reason);
        }
        if self.sparse.contains_key(&id) {
            return Some("the file has it as a sparse tensor".into());
        }
        let place = self.places.get(id.0 as usize).and_then(Option::as_ref);
        match place.map(|place| &place.0[..]) {
            Some([(7, 0), (5, _)]) if self.defaults.contains(&id) && !self.lists_initializers() => Some(
                "it is the default of an input, which a caller may replace: take it off the graph's inputs"
                    .into(),
            ),
            Some([(7, 0), (5, _)] | [(7, 0), (1, _), (5, _), (5, 0)]) => None,
            Some(_) => Some("it is in a nested graph or a function".into()),
            None => Some("its elements are stored as a node attribute or a sparse tensor".into()),
        }
    }

    /// Whether the file is of an IR version that has every initializer among the inputs.
    fn lists_initializers(&self) -> bool {
        self.ir_version < 4
    }

    /// The version of the default operator set; 0 where the file has none.
    fn opset(&self) -> u32 {
        self.opsets.iter().find(|(domain, _)| domain.is_empty()).map_or(0, |(_, version)| *version)
    }

    /// The function that expands a tensor packed as `spec` says: its name, and the bytes that it takes in a file,
    /// once for all such tensors.
    pub fn unpacker(&self, spec: &Spec) -> (&'static str, usize) {
        let unpacker = unpackers::Unpacker::of(spec);
        (unpacker.name(), unpacker.function(self.opset()).len())
    }
}

/// The path from the file to a message in it: field numbers, each with the position among fields of that number.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FieldPath(pub Vec<(u32, u32)>);

impl std::borrow::Borrow<[(u32, u32)]> for FieldPath {
    fn borrow(&self) -> &[(u32, u32)] {
        &self.0
    }
}

impl FieldPath {
    /// The path one step further in.
    fn then(&self, field: u32, index: usize) -> FieldPath {
        let mut steps = self.0.clone();
        steps.push((field, index as u32));
        FieldPath(steps)
    }
}
