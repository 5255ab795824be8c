//! Reading an ONNX file into a model.

use std::path::Path;

use bytes::Bytes;
use indexmap::IndexMap;
use prost::Message;

use super::OnnxSource;
use super::build::Builder;
use super::proto::{ModelProto, OperatorSetIdProto, one};
use crate::io::sniff;
use crate::model::Source;
use crate::{Error, Model, Result};

/// Reads an ONNX model from bytes; external data is looked for in `folder`.
///
/// # Errors
/// Where the bytes are no ONNX model, are inconsistent, or name external data outside the folder.
pub fn from_bytes(bytes: Bytes, folder: &Path) -> Result<Model> {
    parse(bytes, Some(folder))
}

/// Reads a model; external data is refused where there is no folder to look for it.
pub(super) fn parse(bytes: Bytes, folder: Option<&Path>) -> Result<Model> {
    let proto = ModelProto::decode(bytes.clone()).map_err(|e| not_onnx(&bytes, &e.to_string()))?;
    let graph = one(&proto.graph, "graph")?.ok_or_else(|| not_onnx(&bytes, "it holds no graph"))?.clone();
    let opsets = opset_imports(&proto.opset_import)?;
    let mut builder = Builder::new(folder, &proto.functions)?;
    let graph = builder.main_graph(&graph, &opsets)?;
    let number_attributes = builder.number_attributes();
    let Builder {
        tensors,
        places,
        extents,
        external,
        packed_sites,
        sparse,
        defaults,
        expands_unpackers,
        sites,
        ..
    } = builder;
    Ok(Model {
        tensors,
        graph: Some(graph),
        path: None,
        source: Source::new(OnnxSource {
            bytes,
            ir_version: proto.ir_version.unwrap_or(0),
            producer: [proto.producer_name, proto.producer_version]
                .into_iter()
                .flatten()
                .filter(|s| !s.is_empty())
                .collect::<Vec<_>>()
                .join(" "),
            opsets: opsets.into_iter().collect(),
            metadata: proto
                .metadata_props
                .into_iter()
                .map(|e| (e.key.unwrap_or_default(), e.value.unwrap_or_default()))
                .collect(),
            places,
            external,
            extents,
            packed: packed_sites,
            sparse,
            expands_unpackers,
            defaults,
            number_attributes,
            sites,
        }),
    })
}

/// What to say of a file that does not read: what it looks like, or what about it is wrong.
fn not_onnx(bytes: &[u8], why: &str) -> Error {
    match sniff::looks_like(bytes) {
        Some(what) => Error::input(format!("looks like {what}; expected an ONNX model")),
        None => Error::input(format!("is not an ONNX model, or a damaged one ({why})")),
    }
}

/// Versions of operator sets by domain.
pub(super) type Opsets = IndexMap<String, u32>;

pub(super) fn opset_imports(imports: &[OperatorSetIdProto]) -> Result<Opsets> {
    imports
        .iter()
        .map(|import| {
            let domain = normal_domain(import.domain.as_deref().unwrap_or_default()).to_string();
            let version = import.version.unwrap_or(0);
            let version = u32::try_from(version)
                .map_err(|_| Error::input(format!("opset version {version} of domain `{domain}`")))?;
            Ok((domain, version))
        })
        .collect()
}

/// A domain by the name used here: the default one has two.
pub(super) fn normal_domain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}
