//! Attributes, and the constants they hold.

use bytes::Bytes;

use super::FieldPath;
use super::build::{Builder, Constant, Context};
use super::proto::{AttributeProto, NodeProto, SparseTensorProto, decode, one};
use super::tensor::{in_memory, shape, stored, tensor_name};
use crate::model::{Storage, encode};
use crate::tensor::{checked_len, strides};
use crate::{Attr, Error, Graph, Result, ResultExt, StoredTensor, Tensor, TensorId};

impl Builder {
    /// The attribute of the calling node that a body's node refers to; `None` where the call leaves
    /// it out.
    pub(super) fn outer_attr(&mut self, name: &str, context: &Context<'_>) -> Result<Option<Attr>> {
        let attr = context.attrs.and_then(|attrs| attrs.get(name));
        self.charge(attr.map_or(0, attr_size))?;
        Ok(attr.cloned())
    }

    /// Reads a `Constant` node as a constant value; false where its form must stay a node.
    pub(super) fn constant_node(
        &mut self,
        proto: &NodeProto,
        place: &FieldPath,
        context: &Context<'_>,
    ) -> Result<bool> {
        let Some(name) = proto.output.first().filter(|n| !n.is_empty()) else { return Ok(false) };
        for (j, message) in proto.attribute.iter().enumerate() {
            let attribute: AttributeProto = decode(message).at(|| format!("attribute {j}"))?;
            if !attribute.name.as_deref().is_some_and(|n| n.starts_with("value") || n == "sparse_value") {
                continue;
            }
            let place = place.then(5, j);
            let path = self.path(context, name)?;
            let outer = attribute.ref_attr_name.as_deref().filter(|outer| !outer.is_empty());
            let tensor = if let Some(outer) = outer {
                let Some(attr) = self.outer_attr(outer, context)? else { return Ok(false) };
                let tensor = in_memory(path, &attr_tensor(&attr)?);
                self.add_tensor(Constant { tensor, extent: None, origin: None, changeable: false })?
            } else if let Some(tensor) = one(&attribute.t, "t")? {
                self.tensor(tensor, path, place.then(5, 0))?
            } else if let Some(sparse) = one(&attribute.sparse_tensor, "sparse_tensor")? {
                self.sparse(sparse, place.then(22, 0), |_, _| Ok(path))?.1
            } else {
                let tensor =
                    in_memory(path, &attr_tensor(&self.attr(attribute, &place, ("", ""), context)?)?);
                let origin = Some(place);
                self.add_tensor(Constant { tensor, extent: None, origin, changeable: false })?
            };
            self.check_unbound(name)?;
            self.constant(name, tensor);
            return Ok(true);
        }
        Ok(false)
    }

    /// Reads an attribute of the message at `place`; `names` are the node's and the attribute's, for the
    /// paths of what nested graphs hold.
    pub(super) fn attr(
        &mut self,
        proto: AttributeProto,
        place: &FieldPath,
        names: (&str, &str),
        context: &Context<'_>,
    ) -> Result<Attr> {
        // Old files omit the type; it follows from the field that is present.
        let kind = match proto.r#type {
            Some(t) if t != 0 => t,
            _ if proto.f.is_some() => 1,
            _ if proto.i.is_some() => 2,
            _ if proto.s.is_some() => 3,
            _ if !proto.t.is_empty() => 4,
            _ if !proto.g.is_empty() => 5,
            _ if !proto.floats.is_empty() => 6,
            _ if !proto.ints.is_empty() => 7,
            _ if !proto.strings.is_empty() => 8,
            _ if !proto.tensors.is_empty() => 9,
            _ if !proto.graphs.is_empty() => 10,
            _ if !proto.sparse_tensor.is_empty() => 11,
            _ => return Ok(Attr::Other("empty")),
        };
        let missing = |what: &str| Error::input(format!("holds no {what}"));
        Ok(match kind {
            1 => Attr::Float(proto.f.unwrap_or_default()),
            2 => Attr::Int(proto.i.unwrap_or_default()),
            3 => Attr::String(proto.s.as_deref().unwrap_or_default().to_vec()),
            4 => Attr::Tensor(self.attr_tensor(one(&proto.t, "t")?.ok_or_else(|| missing("tensor"))?)?),
            5 => {
                let graph = one(&proto.g, "g")?.ok_or_else(|| missing("graph"))?;
                let prefix = self.path(context, &format!("{}::{}::", names.0, names.1))?;
                let inner = Context { prefix: &prefix, depth: context.depth + 1, ..*context };
                Attr::Graph(Box::new(self.graph(graph, &place.then(6, 0), &inner)?))
            }
            6 => Attr::Floats(proto.floats),
            7 => Attr::Ints(proto.ints),
            8 => Attr::Strings(proto.strings.iter().map(|s| s.to_vec()).collect()),
            9 => Attr::Tensors(proto.tensors.iter().map(|t| self.attr_tensor(t)).collect::<Result<_>>()?),
            10 => {
                let mut graphs = Vec::with_capacity(proto.graphs.len());
                for (k, graph) in proto.graphs.iter().enumerate() {
                    let prefix = self.path(context, &format!("{}::{}::{k}::", names.0, names.1))?;
                    let inner = Context { prefix: &prefix, depth: context.depth + 1, ..*context };
                    graphs.push(self.graph(graph, &place.then(11, k), &inner)?);
                }
                Attr::Graphs(graphs)
            }
            11 => Attr::Other("sparse tensor"),
            12 => Attr::Other("sparse tensors"),
            13 => Attr::Other("type"),
            14 => Attr::Other("types"),
            other => {
                return Err(Error::unsupported(format!(
                    "attribute type {other} is newer than what is known"
                )));
            }
        })
    }

    fn attr_tensor(&mut self, message: &Bytes) -> Result<Tensor> {
        stored(message, String::new(), &mut self.external)?.0.load()
    }

    /// Adds a sparse constant as a dense one: its name, and the tensor under the path made from it. The
    /// elements that can be changed are those whose places the file lists.
    pub(super) fn sparse(
        &mut self,
        message: &Bytes,
        place: FieldPath,
        path: impl FnOnce(&mut Self, &str) -> Result<String>,
    ) -> Result<(String, TensorId)> {
        let proto: SparseTensorProto = decode(message)?;
        let values =
            one(&proto.values, "values")?.ok_or_else(|| Error::input("a sparse tensor without values"))?;
        let name = tensor_name(values)?;
        let path = path(self, &name)?;
        let (tensor, positions) = self.densify(&proto, values, &path).at_tensor(&path)?;
        let (extent, origin) = (None, Some(place.then(1, 0)));
        let changeable = positions.is_some();
        let id = self.add_tensor(Constant { tensor, extent, origin, changeable })?;
        self.sparse.extend(positions.map(|positions| (id, positions)));
        Ok((name, id))
    }

    /// The dense tensor, and the positions of the values in it; `None` where external data hold them.
    fn densify(
        &mut self,
        proto: &SparseTensorProto,
        values: &Bytes,
        path: &str,
    ) -> Result<(StoredTensor, Option<Vec<usize>>)> {
        let indices =
            one(&proto.indices, "indices")?.ok_or_else(|| Error::input("a sparse tensor without indices"))?;
        let (values, extent) = stored(values, path.to_string(), &mut self.external)?;
        let values = values.load()?;
        let indices = stored(indices, path.to_string(), &mut self.external)?.0.load()?;
        let (dtype, shape) = (values.dtype(), shape(&proto.dims)?);
        if dtype.bits() < 8 {
            return Err(Error::unsupported(format!("a sparse tensor of type {dtype}")));
        }
        let size = dtype.bits() / 8;
        let bytes = checked_len(&shape)
            .and_then(|len| len.checked_mul(size))
            .ok_or_else(|| Error::input(format!("shape {shape:?} is too large")))?;
        self.charge(bytes)?;
        let (given, at) = (encode(values.data())?, indices.to_i64s()?);
        let (strides, rank) = (strides(&shape), shape.len());
        let count = values.len();
        // One index of the flattened tensor a value, or one index an axis.
        let per_value = if indices.rank() <= 1 { 1 } else { rank };
        if at.len() != count.saturating_mul(per_value) {
            return Err(Error::input(format!("{} indices for {count} values of a sparse tensor", at.len())));
        }
        let mut dense = vec![0u8; bytes];
        let mut positions = Vec::with_capacity(count);
        for k in 0..count {
            let index = &at[k * per_value..(k + 1) * per_value];
            let position = match indices.rank() {
                0 | 1 => usize::try_from(index[0]).ok(),
                _ => index.iter().zip(&shape).zip(&strides).try_fold(0usize, |sum, ((&i, &d), &s)| {
                    let i = usize::try_from(i).ok().filter(|&i| i < d)?;
                    Some(sum + i * s)
                }),
            };
            let slot = position
                .and_then(|p| p.checked_mul(size))
                .and_then(|p| dense.get_mut(p..))
                .and_then(|rest| rest.get_mut(..size));
            slot.ok_or_else(|| {
                Error::input(format!("index {index:?} of the sparse tensor is outside {shape:?}"))
            })?
            .copy_from_slice(&given[k * size..(k + 1) * size]);
            positions.extend(position);
        }
        let storage = Storage::Bytes(dense.into());
        let tensor = StoredTensor { path: path.to_string(), dtype, shape, storage };
        Ok((tensor, extent.is_none().then_some(positions)))
    }
}

/// The bytes that a copy of an attribute takes, nearly.
fn attr_size(attr: &Attr) -> usize {
    fn graph_size(graph: &Graph) -> usize {
        let values: usize = graph.values.iter().map(|v| v.name.len() + 128).sum();
        let nodes = graph.nodes.iter().flat_map(|n| n.attrs.values());
        values + graph.nodes.len() * 512 + nodes.map(attr_size).sum::<usize>()
    }
    match attr {
        // Tensors share their elements.
        Attr::Int(_) | Attr::Float(_) | Attr::Tensor(_) | Attr::Other(_) => 64,
        Attr::String(v) => v.len(),
        Attr::Ints(v) => v.len() * 8,
        Attr::Floats(v) => v.len() * 4,
        Attr::Strings(v) => v.iter().map(|s| s.len() + 24).sum(),
        Attr::Tensors(v) => v.len() * 64,
        Attr::Graph(graph) => graph_size(graph),
        Attr::Graphs(graphs) => graphs.iter().map(graph_size).sum(),
    }
}

fn attr_tensor(attr: &Attr) -> Result<Tensor> {
    let text = |s: &Vec<u8>| String::from_utf8(s.clone()).map_err(|_| Error::input("a string is not UTF-8"));
    Ok(match attr {
        Attr::Tensor(t) => t.clone(),
        Attr::Int(v) => Tensor::scalar(*v),
        Attr::Float(v) => Tensor::scalar(*v),
        Attr::Ints(v) => Tensor::vector(v.clone()),
        Attr::Floats(v) => Tensor::vector(v.clone()),
        Attr::String(v) => Tensor::scalar(text(v)?),
        Attr::Strings(v) => Tensor::vector(v.iter().map(text).collect::<Result<Vec<_>>>()?),
        _ => return Err(Error::input("a constant of this attribute type is not known")),
    })
}
