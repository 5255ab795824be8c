//! Reading an ONNX file into a model.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use indexmap::IndexMap;
use prost::Message;

use super::external::ExternalFiles;
use super::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto,
};
use super::tensor::stored;
use super::{Extent, OnnxSource, Place};
use crate::graph::{Dim, Value};
use crate::io::{Source, mmap};
use crate::model::Storage;
use crate::tensor::checked_len;
use crate::{
    Attr, DType, Data, Error, Graph, Model, Node, Result, ResultExt, StoredTensor, Tensor, TensorId, ValueId,
};

/// How deep functions may call each other; a bound against files that call in circles.
const MAX_CALL_DEPTH: usize = 32;
/// Nodes a file may expand to; a bound against functions that double at each call.
const MAX_NODES: usize = 4_000_000;

/// Reads an ONNX file. Raw and external tensors stay in the memory map until they are asked for.
///
/// # Errors
/// Where the file is not an ONNX model, is inconsistent, or names external data outside its folder.
pub fn read(path: &Path) -> Result<Model> {
    let bytes = mmap::map_file(path)?;
    let folder = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p.to_path_buf(),
        _ => PathBuf::from("."),
    };
    from_bytes(bytes, &folder)
        .map(|mut model| {
            model.path = Some(path.to_path_buf());
            model
        })
        .at_file(path)
}

/// Reads an ONNX model from bytes; external data is looked for in `folder`.
///
/// # Errors
/// As [`read`].
pub fn from_bytes(bytes: bytes::Bytes, folder: &Path) -> Result<Model> {
    parse(bytes, Some(folder))
}

/// Reads a model; external data is refused where there is no folder to look for it.
pub(in crate::io) fn parse(bytes: bytes::Bytes, folder: Option<&Path>) -> Result<Model> {
    let proto = ModelProto::decode(bytes.clone())
        .map_err(|e| Error::input(format!("is not an ONNX model, or a damaged one ({e})")))?;
    let graph_proto =
        proto.graph.as_ref().ok_or_else(|| Error::input("is not an ONNX model: it holds no graph"))?;
    let opsets = opset_imports(&proto.opset_import)?;
    let mut builder = Builder {
        external: ExternalFiles::new(folder),
        tensors: IndexMap::new(),
        places: Vec::new(),
        extents: Vec::new(),
        functions: &proto.functions,
        frames: Vec::new(),
        nodes: 0,
    };
    let context = Context { opsets: &opsets, attrs: None, call_depth: 0, prefix: String::new() };
    let graph = builder.graph(graph_proto, &Place(vec![(7, 0)]), &context)?;
    let Builder { tensors, places, extents, external, .. } = builder;
    Ok(Model {
        tensors,
        graph: Some(graph),
        path: None,
        source: Source::Onnx(Arc::new(OnnxSource {
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
        })),
    })
}

type Opsets = IndexMap<String, u32>;

fn opset_imports(imports: &[super::proto::OperatorSetIdProto]) -> Result<Opsets> {
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

fn normal_domain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

/// What holds while the nodes of one graph or function body are read.
struct Context<'a> {
    opsets: &'a Opsets,
    /// The calling node's attributes, inside a function body.
    attrs: Option<&'a IndexMap<String, Attr>>,
    call_depth: usize,
    /// The way to nested graphs and functions, prefixed to tensor paths.
    prefix: String,
}

struct Frame {
    graph: Graph,
    /// Names visible in this graph; a function body opens a namespace of its own on top.
    names: Vec<HashMap<String, ValueId>>,
}

struct Builder<'a> {
    external: ExternalFiles,
    tensors: IndexMap<String, StoredTensor>,
    places: Vec<Option<Place>>,
    extents: Vec<Option<Extent>>,
    functions: &'a [FunctionProto],
    frames: Vec<Frame>,
    nodes: usize,
}

impl<'a> Builder<'a> {
    fn frame(&mut self) -> &mut Frame {
        self.frames.last_mut().expect("a frame is pushed before nodes are read")
    }

    fn new_value(&mut self, value: Value) -> ValueId {
        let values = &mut self.frame().graph.values;
        values.push(value);
        ValueId(values.len() as u32 - 1)
    }

    fn bind(&mut self, name: &str, id: ValueId) {
        let frame = self.frame();
        frame.names.last_mut().expect("a frame has a namespace").insert(name.to_string(), id);
    }

    /// The value a name refers to in frame `depth`, taken from the enclosing graphs where needed.
    fn resolve(&mut self, depth: usize, name: &str) -> Option<ValueId> {
        let frame = &self.frames[depth];
        if let Some(&id) = frame.names.last().and_then(|n| n.get(name)) {
            return Some(id);
        }
        if depth == 0 || frame.names.len() > 1 {
            return None;
        }
        let outer = self.resolve(depth - 1, name)?;
        let outer_graph = &self.frames[depth - 1].graph;
        let value = outer_graph.values[outer.index()].clone();
        let constant = outer_graph.constants.get(&outer).copied();
        let graph = &mut self.frames[depth].graph;
        graph.values.push(value);
        let id = ValueId(graph.values.len() as u32 - 1);
        match constant {
            Some(tensor) => {
                graph.constants.insert(id, tensor);
            }
            None => graph.captures.push(id),
        }
        self.frames[depth].names[0].insert(name.to_string(), id);
        Some(id)
    }

    fn add_tensor(
        &mut self,
        tensor: StoredTensor,
        place: Option<Place>,
        extent: Option<Extent>,
    ) -> Result<TensorId> {
        // A function that is called twice brings the same constant twice.
        if let Some((index, _, known)) = self.tensors.get_full(&tensor.path) {
            if place.is_some() && self.places[index] == place {
                return Ok(TensorId(index as u32));
            }
            return Err(Error::input("two constant tensors have this name").at_tensor(&known.path));
        }
        self.places.push(place);
        self.extents.push(extent);
        let (index, _) = self.tensors.insert_full(tensor.path.clone(), tensor);
        Ok(TensorId(index as u32))
    }

    fn tensor(&mut self, proto: &TensorProto, path: String, place: Place) -> Result<TensorId> {
        let (tensor, extent) = stored(proto, path.clone(), &mut self.external).at_tensor(&path)?;
        self.add_tensor(tensor, Some(place), extent)
    }

    fn graph(&mut self, proto: &GraphProto, place: &Place, context: &Context<'_>) -> Result<Graph> {
        let graph = Graph { name: proto.name.clone().unwrap_or_default(), ..Graph::default() };
        self.frames.push(Frame { graph, names: vec![HashMap::new()] });

        for (i, initializer) in proto.initializer.iter().enumerate() {
            let name = initializer.name.clone().unwrap_or_default();
            let path = format!("{}{name}", context.prefix);
            let tensor = self.tensor(initializer, path, place.then(5, i))?;
            self.constant(&name, tensor);
        }
        for sparse in &proto.sparse_initializer {
            let name = sparse.values.as_ref().and_then(|v| v.name.clone()).unwrap_or_default();
            let path = format!("{}{name}", context.prefix);
            let tensor = self.densify(sparse, &path).at_tensor(&path)?;
            let id = self.add_tensor(tensor, None, None)?;
            self.constant(&name, id);
        }
        for input in &proto.input {
            let value = value_of(input);
            if self.frame().names[0].contains_key(&value.name) {
                continue;
            }
            let name = value.name.clone();
            let id = self.new_value(value);
            self.bind(&name, id);
            self.frame().graph.inputs.push(id);
        }
        let declared: HashMap<&str, &ValueInfoProto> = proto
            .value_info
            .iter()
            .chain(&proto.output)
            .map(|info| (info.name.as_deref().unwrap_or_default(), info))
            .collect();
        self.nodes(&proto.node, &declared, place, 1, context)?;
        for output in &proto.output {
            let name = output.name.as_deref().unwrap_or_default();
            let depth = self.frames.len() - 1;
            let id = self.resolve(depth, name).ok_or_else(|| {
                Error::input(format!("output `{name}` is produced by no node, input or initializer"))
            })?;
            self.frame().graph.outputs.push(id);
        }
        Ok(self.frames.pop().expect("pushed above").graph)
    }

    fn constant(&mut self, name: &str, tensor: TensorId) {
        let stored = &self.tensors[tensor.0 as usize];
        let value = Value {
            name: stored.path.clone(),
            dtype: Some(stored.dtype),
            shape: Some(stored.shape.iter().map(|&d| Dim::Known(d)).collect()),
        };
        let id = self.new_value(value);
        self.bind(name, id);
        self.frame().graph.constants.insert(id, tensor);
    }

    fn nodes(
        &mut self,
        nodes: &[NodeProto],
        declared: &HashMap<&str, &ValueInfoProto>,
        place: &Place,
        field: u32,
        context: &Context<'_>,
    ) -> Result<()> {
        for (i, proto) in nodes.iter().enumerate() {
            self.nodes += 1;
            if self.nodes > MAX_NODES {
                return Err(Error::unsupported(format!("the graph expands to more than {MAX_NODES} nodes")));
            }
            let place = place.then(field, i);
            let op_type = proto.op_type.clone().unwrap_or_default();
            let fallback_label = proto.output.first().cloned().unwrap_or_else(|| format!("#{i}"));
            let label =
                proto.name.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| fallback_label.clone());
            self.node(proto, op_type.clone(), fallback_label, declared, &place, context)
                .at(|| format!("node `{label}` ({op_type})"))?;
        }
        Ok(())
    }

    fn node(
        &mut self,
        proto: &NodeProto,
        op_type: String,
        fallback_label: String,
        declared: &HashMap<&str, &ValueInfoProto>,
        place: &Place,
        context: &Context<'_>,
    ) -> Result<()> {
        let domain = normal_domain(proto.domain.as_deref().unwrap_or_default()).to_string();
        if op_type == "Constant" && domain.is_empty() && self.constant_node(proto, place, context)? {
            return Ok(());
        }
        let depth = self.frames.len() - 1;
        let mut inputs = Vec::with_capacity(proto.input.len());
        for name in &proto.input {
            inputs.push(if name.is_empty() {
                None
            } else {
                Some(self.resolve(depth, name).ok_or_else(|| {
                    Error::input(format!(
                        "input `{name}` is produced by no earlier node, input or initializer"
                    ))
                })?)
            });
        }
        let mut attrs = IndexMap::new();
        for (j, attribute) in proto.attribute.iter().enumerate() {
            let name = attribute.name.clone().unwrap_or_default();
            let attr = match &attribute.ref_attr_name {
                Some(outer) if !outer.is_empty() => match context.attrs.and_then(|a| a.get(outer)) {
                    Some(attr) => attr.clone(),
                    None => continue,
                },
                _ => {
                    let inner = Context {
                        prefix: format!("{}{fallback_label}::{name}::", context.prefix),
                        ..*context
                    };
                    self.attr(attribute, &place.then(5, j), &inner).at(|| format!("attribute `{name}`"))?
                }
            };
            attrs.insert(name, attr);
        }
        let functions = self.functions;
        let function = functions.iter().enumerate().find(|(_, f)| {
            f.name.as_deref() == Some(&op_type)
                && normal_domain(f.domain.as_deref().unwrap_or_default()) == domain
                && f.overload.as_deref().unwrap_or_default() == proto.overload.as_deref().unwrap_or_default()
        });
        if let Some((index, function)) = function {
            return self.call(function, index, proto, &inputs, attrs, &fallback_label, context);
        }
        let opset = match context.opsets.get(&domain) {
            Some(&version) => version,
            None if domain.is_empty() => {
                return Err(Error::input(
                    "the file imports no operator set for the default domain, so the meaning of its \
                     operators is open; set `opset_import` to the version it was exported for",
                ));
            }
            None => 1,
        };
        let mut outputs = Vec::with_capacity(proto.output.len());
        for name in &proto.output {
            outputs.push(if name.is_empty() {
                None
            } else {
                if self.frame().names.last().is_some_and(|n| n.contains_key(name)) {
                    return Err(Error::input(format!("output `{name}` is produced twice")));
                }
                let mut value = declared.get(name.as_str()).map(|info| value_of(info)).unwrap_or_default();
                value.name = format!("{}{name}", if context.call_depth > 0 { &context.prefix } else { "" });
                let id = self.new_value(value);
                self.bind(name, id);
                Some(id)
            });
        }
        let node = Node {
            name: proto.name.clone().unwrap_or_default(),
            op_type,
            domain,
            opset,
            inputs,
            outputs,
            attrs,
            module: module_path(proto),
            fallback_label,
        };
        self.frame().graph.nodes.push(node);
        Ok(())
    }

    /// Reads a `Constant` node as a constant value; false where its form must stay a node.
    fn constant_node(&mut self, proto: &NodeProto, place: &Place, context: &Context<'_>) -> Result<bool> {
        let Some(name) = proto.output.first() else { return Ok(false) };
        let Some((j, attribute)) =
            proto.attribute.iter().enumerate().find(|(_, a)| {
                a.name.as_deref().is_some_and(|n| n.starts_with("value") || n == "sparse_value")
            })
        else {
            return Ok(false);
        };
        if attribute.ref_attr_name.as_ref().is_some_and(|r| !r.is_empty()) {
            let outer = attribute.ref_attr_name.as_deref().unwrap_or_default();
            let Some(attr) = context.attrs.and_then(|a| a.get(outer)).cloned() else { return Ok(false) };
            let tensor = attr_tensor(&attr)?;
            let path = format!("{}{name}", context.prefix);
            let id = self.add_tensor(in_memory(path, &tensor), None, None)?;
            self.constant(name, id);
            return Ok(true);
        }
        let path = format!("{}{name}", context.prefix);
        let id = if let Some(t) = &attribute.t {
            self.tensor(t, path, place.then(5, j).then(5, 0))?
        } else if let Some(sparse) = &attribute.sparse_tensor {
            let tensor = self.densify(sparse, &path)?;
            self.add_tensor(tensor, None, None)?
        } else {
            let attr = self.attr(attribute, &place.then(5, j), context)?;
            let tensor = attr_tensor(&attr)?;
            // Inside a function body each call would bring it again: its place tells them equal.
            self.add_tensor(in_memory(path, &tensor), None, None)?
        };
        self.constant(name, id);
        Ok(true)
    }

    fn attr(&mut self, proto: &AttributeProto, place: &Place, context: &Context<'_>) -> Result<Attr> {
        // Old files leave the type out; then the field that is there tells it.
        let kind = match proto.r#type {
            Some(t) if t != 0 => t,
            _ if proto.f.is_some() => 1,
            _ if proto.i.is_some() => 2,
            _ if proto.s.is_some() => 3,
            _ if proto.t.is_some() => 4,
            _ if proto.g.is_some() => 5,
            _ if !proto.floats.is_empty() => 6,
            _ if !proto.ints.is_empty() => 7,
            _ if !proto.strings.is_empty() => 8,
            _ => return Ok(Attr::Other("empty")),
        };
        Ok(match kind {
            1 => Attr::Float(proto.f.unwrap_or_default()),
            2 => Attr::Int(proto.i.unwrap_or_default()),
            3 => Attr::String(proto.s.as_deref().unwrap_or_default().to_vec()),
            4 => {
                let t = proto.t.as_ref().ok_or_else(|| Error::input("holds no tensor"))?;
                let (tensor, _) = stored(t, String::new(), &mut self.external)?;
                Attr::Tensor(tensor.load()?)
            }
            5 => {
                let g = proto.g.as_ref().ok_or_else(|| Error::input("holds no graph"))?;
                Attr::Graph(Box::new(self.graph(g, &place.then(6, 0), context)?))
            }
            6 => Attr::Floats(proto.floats.clone()),
            7 => Attr::Ints(proto.ints.clone()),
            8 => Attr::Strings(proto.strings.iter().map(|s| s.to_vec()).collect()),
            9 => Attr::Other("tensors"),
            10 => Attr::Graphs(
                proto
                    .graphs
                    .iter()
                    .enumerate()
                    .map(|(k, g)| {
                        let inner = Context { prefix: format!("{}{k}::", context.prefix), ..*context };
                        self.graph(g, &place.then(11, k), &inner)
                    })
                    .collect::<Result<_>>()?,
            ),
            11 => Attr::Other("sparse tensor"),
            12 => Attr::Other("sparse tensors"),
            13 => Attr::Other("type"),
            14 => Attr::Other("types"),
            other => return Err(Error::input(format!("attribute type {other} is not known"))),
        })
    }

    /// Expands a call of a model-local function into its body's nodes.
    #[allow(clippy::too_many_arguments)]
    fn call(
        &mut self,
        function: &FunctionProto,
        index: usize,
        proto: &NodeProto,
        inputs: &[Option<ValueId>],
        mut attrs: IndexMap<String, Attr>,
        label: &str,
        context: &Context<'_>,
    ) -> Result<()> {
        if context.call_depth >= MAX_CALL_DEPTH {
            return Err(Error::input(format!("functions call each other more than {MAX_CALL_DEPTH} deep")));
        }
        let place = Place(vec![(25, index as u32)]);
        for (j, default) in function.attribute_proto.iter().enumerate() {
            let name = default.name.clone().unwrap_or_default();
            if !attrs.contains_key(&name) {
                let attr = self.attr(default, &place.then(11, j), context)?;
                attrs.insert(name, attr);
            }
        }
        let mut names = HashMap::new();
        for (k, name) in function.input.iter().enumerate() {
            if let Some(Some(id)) = inputs.get(k) {
                names.insert(name.clone(), *id);
            }
        }
        self.frame().names.push(names);
        let opsets = opset_imports(&function.opset_import)?;
        let inner = Context {
            opsets: if opsets.is_empty() { context.opsets } else { &opsets },
            attrs: Some(&attrs),
            call_depth: context.call_depth + 1,
            prefix: format!("{}{label}::", context.prefix),
        };
        self.nodes(&function.node, &HashMap::new(), &place, 7, &inner)?;
        let names = self.frame().names.pop().expect("pushed above");
        for (k, name) in function.output.iter().enumerate() {
            let Some(actual) = proto.output.get(k).filter(|n| !n.is_empty()) else { continue };
            let &id = names.get(name).ok_or_else(|| {
                Error::input(format!("the function's output `{name}` is produced by no node"))
            })?;
            let produced = self.frame().graph.nodes.iter().any(|n| n.outputs.contains(&Some(id)));
            if produced && !self.frame().graph.values.iter().any(|v| v.name == *actual) {
                self.frame().graph.values[id.index()].name.clone_from(actual);
            }
            self.bind(actual, id);
        }
        Ok(())
    }

    /// A sparse constant as a dense one: bounded by what a dense file of it would hold.
    fn densify(&mut self, sparse: &super::proto::SparseTensorProto, path: &str) -> Result<StoredTensor> {
        let (Some(values), Some(indices)) = (&sparse.values, &sparse.indices) else {
            return Err(Error::input("a sparse tensor without values or indices"));
        };
        let values = stored(values, path.to_string(), &mut self.external)?.0;
        let indices = stored(indices, path.to_string(), &mut self.external)?.0.load()?;
        let shape = sparse
            .dims
            .iter()
            .map(|&d| usize::try_from(d).map_err(|_| Error::input(format!("dimension {d} is negative"))))
            .collect::<Result<Vec<_>>>()?;
        let len = checked_len(&shape).filter(|&n| n <= 1 << 28).ok_or_else(|| {
            Error::unsupported(format!("a sparse tensor of shape {shape:?} is too large to unfold"))
        })?;
        let given = values.load()?;
        let given = given.values::<f32>()?;
        let at = indices.to_i64s()?;
        let strides = crate::tensor::strides(&shape);
        let mut dense = vec![0f32; len];
        for (k, &value) in given.iter().enumerate() {
            let position = match indices.rank() {
                1 => at.get(k).copied(),
                _ => at
                    .get(k * shape.len()..(k + 1) * shape.len())
                    .map(|ix| ix.iter().zip(&strides).map(|(&i, &s)| i * s as i64).sum()),
            };
            let slot = position
                .and_then(|p| usize::try_from(p).ok())
                .and_then(|p| dense.get_mut(p))
                .ok_or_else(|| Error::input("an index of the sparse tensor is out of range"))?;
            *slot = value;
        }
        Ok(StoredTensor {
            path: path.to_string(),
            dtype: DType::F32,
            shape,
            storage: Storage::Data(Arc::new(Data::F32(dense))),
        })
    }
}

fn in_memory(path: String, tensor: &Tensor) -> StoredTensor {
    StoredTensor {
        path,
        dtype: tensor.dtype(),
        shape: tensor.shape().to_vec(),
        storage: Storage::Data(Arc::new(tensor.data().clone())),
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

fn value_of(info: &ValueInfoProto) -> Value {
    let tensor = info.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
    Value {
        name: info.name.clone().unwrap_or_default(),
        dtype: tensor.and_then(|t| t.elem_type).and_then(DType::from_onnx),
        shape: tensor.and_then(|t| t.shape.as_ref()).map(|s| {
            s.dim
                .iter()
                .map(|d| match (&d.dim_value, &d.dim_param) {
                    (Some(v), _) => usize::try_from(*v).map_or(Dim::Unknown, Dim::Known),
                    (None, Some(name)) if !name.is_empty() => Dim::Symbol(name.clone()),
                    _ => Dim::Unknown,
                })
                .collect()
        }),
    }
}

/// The module path exporters record: PyTorch's newer exporter as metadata, the older in the node's name.
fn module_path(proto: &NodeProto) -> String {
    let scopes = proto
        .metadata_props
        .iter()
        .find(|e| e.key.as_deref() == Some("pkg.torch.onnx.name_scopes"))
        .and_then(|e| e.value.as_deref());
    if let Some(scopes) = scopes {
        // A Python list of strings: ['', 'layer1', 'layer1.0', 'layer1.0.conv1', 'convolution'].
        let quoted: Vec<&str> = scopes.split('\'').skip(1).step_by(2).collect();
        return quoted.iter().rev().nth(1).copied().unwrap_or_default().to_string();
    }
    let name = proto.name.as_deref().unwrap_or_default();
    match name.strip_prefix('/').and_then(|n| n.rsplit_once('/')) {
        Some((scope, _)) => {
            // The older exporter repeats the parents: /layer1/layer1.0/conv1/Conv.
            let mut parts: Vec<&str> = Vec::new();
            for part in scope.split('/') {
                let repeats = !parts.is_empty() && part.starts_with(&format!("{}.", parts.join(".")));
                if repeats {
                    parts.clear();
                }
                parts.push(part);
            }
            parts.join(".")
        }
        None => String::new(),
    }
}
