//! ONNX: reading into a [`Model`](crate::Model) and splicing changes back into the file's bytes.

mod attr;
mod body;
mod build;
mod call;
#[cfg(test)]
mod descriptor;
mod elements;
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

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use bytes::Bytes;

use crate::TensorId;

pub use external::ExternalFile;
pub use read::from_bytes;
pub(super) use read::parse;
pub use tensor::read_tensor;
pub(super) use write::{write, write_stream};

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
    /// Where each tensor stands in the file, by [`TensorId`]; `None` where no
    /// `TensorProto` holds it (a `Constant` given as an attribute of numbers).
    pub places: Vec<Option<Place>>,
    external: external::ExternalFiles,
    /// The external file and the bytes in it that hold each tensor, by [`TensorId`];
    /// `None` where the model file itself holds it.
    extents: Vec<Option<Extent>>,
    /// Where packed tensors stand.
    stands: BTreeMap<TensorId, packed::Stand>,
    /// Whether functions that expand packed tensors are called in other ways too.
    expands_unpackers: bool,
    /// Initializers that are inputs of the graph too.
    defaults: HashSet<TensorId>,
}

/// An external file by its index, and bytes in it.
type Extent = (usize, Range<usize>);

impl OnnxSource {
    /// The files beside the model that hold elements of its tensors, in the order they were met.
    pub fn external_files(&self) -> &[ExternalFile] {
        self.external.files()
    }

    /// Whether a tensor can be packed in the file: an initializer of the main graph that is no default of an
    /// input, which a caller may replace.
    pub fn holds_packed(&self, id: TensorId) -> bool {
        let place = self.places.get(id.0 as usize).and_then(Option::as_ref);
        place.is_some_and(|place| matches!(place.0[..], [(7, 0), (5, _)])) && !self.defaults.contains(&id)
    }
}

/// The way to a `TensorProto` in the file: field numbers and, for repeated fields, the position.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(pub Vec<(u32, u32)>);

impl Place {
    /// The place one step further in.
    fn then(&self, field: u32, index: usize) -> Place {
        let mut steps = self.0.clone();
        steps.push((field, index as u32));
        Place(steps)
    }
}
