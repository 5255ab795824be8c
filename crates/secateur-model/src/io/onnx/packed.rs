//! Reading packed weights: a call of an [`Unpacker`] over initializers is the tensor that it expands to.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use super::FieldPath;
use super::build::{Builder, Constant, Context, MAX_DEPTH};
use super::call::Functions;
use super::proto::{AttributeProto, GraphProto, NodeProto, decode};
use super::read::Opsets;
use super::tensor::{stored, tensor_name};
use super::unpackers::{DOMAIN, TO, Unpacker, VERSION};
use crate::model::Storage;
use crate::packed::{Packed, Part};
use crate::{DType, Error, Result, ResultExt, StoredTensor};

/// Where the main graph holds a packed tensor: positions of its node and of the initializers that hold its
/// parts, the values first.
#[derive(Clone, Debug)]
pub(super) struct PackedSite {
    pub(super) node: usize,
    pub(super) parts: Vec<usize>,
    pub(super) unpacker: Unpacker,
}

/// A call that expands a packed tensor.
pub(super) struct Call {
    path: String,
    dtype: DType,
    site: PackedSite,
}

/// The packed tensors of a graph.
#[derive(Default)]
pub(super) struct Calls {
    /// By the initializer that holds the values.
    pub(super) by_values: HashMap<usize, Call>,
    /// All initializers that hold parts.
    pub(super) parts: HashSet<usize>,
}

impl Calls {
    /// Finds calls whose inputs are initializers that nothing else uses, in nested graphs neither, of functions with
    /// the body that is written here; any other call is expanded as every function is.
    pub(super) fn find(graph: &GraphProto, opsets: &Opsets, functions: &Functions) -> Result<Self> {
        let mut calls = Calls::default();
        if opsets.get(DOMAIN).is_none_or(|&version| i64::from(version) != VERSION) {
            return Ok(calls);
        }
        let names = graph.initializer.iter().map(tensor_name).collect::<Result<Vec<_>>>()?;
        let initializers: HashMap<&str, usize> = names.iter().map(String::as_str).zip(0..).collect();
        let nodes = graph.node.iter().map(decode::<NodeProto>).collect::<Result<Vec<_>>>()?;
        let mut uses = vec![0usize; names.len()];
        let mut used = |name: &str| initializers.get(name).map_or((), |&i| uses[i] += 1);
        let listed = graph.input.iter().chain(&graph.output).filter_map(|info| info.name.as_deref());
        listed.for_each(&mut used);
        nodes.iter().try_for_each(|node| each_use(node, 0, &mut used))?;
        for (index, node) in nodes.iter().enumerate().filter(|(_, n)| n.domain.as_deref() == Some(DOMAIN)) {
            let Some(unpacker) = node.op_type.as_deref().and_then(Unpacker::named) else { continue };
            let overload = node.overload.as_deref().unwrap_or_default();
            if !functions.find(DOMAIN, unpacker.name(), overload).is_some_and(|f| unpacker.is(&f.proto)) {
                continue;
            }
            let part = |name: &String| initializers.get(name.as_str()).copied().filter(|&i| uses[i] == 1);
            let parts: Option<Vec<usize>> = node.input.iter().map(part).collect();
            let parts = parts.filter(|parts| parts.len() == unpacker.inputs().len());
            let (Some(parts), [path], Some(dtype)) = (parts, &node.output[..], dtype(node)?) else {
                continue;
            };
            calls.parts.extend(&parts);
            let site = PackedSite { node: index, parts, unpacker };
            calls.by_values.insert(site.parts[0], Call { path: path.clone(), dtype, site });
        }
        Ok(calls)
    }
}

/// The names that a node uses, those in its nested graphs too: whoever names something of their own like an
/// initializer counts as using that.
fn each_use(node: &NodeProto, depth: usize, used: &mut dyn FnMut(&str)) -> Result<()> {
    node.input.iter().for_each(|name| used(name));
    // What nests deeper is refused when its nodes are read.
    if depth > MAX_DEPTH {
        return Ok(());
    }
    for message in &node.attribute {
        let attribute: AttributeProto = decode(message)?;
        for graph in attribute.g.iter().chain(&attribute.graphs) {
            let graph: GraphProto = decode(graph)?;
            graph.output.iter().filter_map(|info| info.name.as_deref()).for_each(&mut *used);
            for inner in &graph.node {
                each_use(&decode(inner)?, depth + 1, used)?;
            }
        }
    }
    Ok(())
}

/// The element type that a call is to give.
fn dtype(node: &NodeProto) -> Result<Option<DType>> {
    for message in &node.attribute {
        let attribute: AttributeProto = decode(message)?;
        if attribute.name.as_deref() == Some(TO) {
            return Ok(attribute.i.and_then(|i| i32::try_from(i).ok()).and_then(DType::from_onnx));
        }
    }
    Ok(None)
}

impl Builder {
    /// Adds the tensor that a call expands to, packed as it is, in place of the initializer of its values.
    pub(super) fn packed(
        &mut self,
        call: &Call,
        initializers: &[Bytes],
        place: &FieldPath,
        context: &Context<'_>,
    ) -> Result<()> {
        let (path, site) = (self.path(context, &call.path)?, &call.site);
        let mut parts: HashMap<Part, StoredTensor> = HashMap::new();
        let mut extent = None;
        for (&part, &index) in site.unpacker.inputs().iter().zip(&site.parts) {
            let message = &initializers[index];
            let name = tensor_name(message)?;
            let (tensor, range) = stored(message, name.clone(), &mut self.external).at_tensor(&name)?;
            if part == Part::Compressed {
                extent = range;
            }
            parts.insert(part, tensor);
        }
        let packed = Packed::of_parts(Some(call.dtype), &|part| parts.get(&part)).at_tensor(&path)?;
        let tensor = StoredTensor {
            path,
            dtype: packed.dtype(),
            shape: packed.shape().to_vec(),
            storage: Storage::Packed(Arc::new(packed)),
        };
        if call.path.is_empty() {
            return Err(Error::input("a packed tensor without a name"));
        }
        let origin = Some(place.then(5, site.parts[0]));
        let id = self.add_tensor(Constant { tensor, extent, origin, changeable: true })?;
        self.packed_nodes.insert(place.then(1, site.node));
        self.packed_sites.insert(id, site.clone());
        self.constant(&call.path, id);
        Ok(())
    }
}
