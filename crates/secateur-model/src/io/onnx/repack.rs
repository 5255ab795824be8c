//! What changes in an ONNX file where tensors are packed or made dense again: their initializers, the nodes that
//! expand them, the functions, and where external data lie.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use prost::Message;

use super::OnnxSource;
use super::data_file::DataFile;
use super::elements::Encoding;
use super::encode::{self, INITIALIZER, INPUT, NODE};
use super::proto::{FunctionProto, OperatorSetIdProto, ValueInfoProto};
use super::splice::{Cut, Kind, Piece, tensor_field};
use super::unpackers::{DOMAIN, OLDEST_IR, Unpacker, VERSION, call, part_name};
use super::wire::{Field, Wire, fields, put_bytes, put_int, put_len};
use crate::model::Patch;
use crate::packed::{Part, Spec};
use crate::{DType, Error, Model, Result, ResultExt, TensorId};

/// The main graph.
pub(super) const GRAPH: (u32, u32) = (7, 0);
const FUNCTION: u32 = 25;
pub(super) const OPSET_IMPORT: u32 = 8;
const IR_VERSION: u32 = 1;

/// A tensor that is packed or expanded when it is written.
struct Change {
    id: TensorId,
    path: String,
    dtype: DType,
    shape: Vec<usize>,
    /// How it is packed; `None` where it becomes dense.
    packed: Option<Spec>,
    external: bool,
}

/// See the module.
pub(super) struct Repack {
    /// By the field number and position of the initializer or `Constant` node.
    changes: BTreeMap<(u32, u32), Change>,
    /// Parts and nodes of the main graph that go: field numbers and positions.
    dropped: BTreeSet<(u32, u32)>,
    /// New nodes; they come first, since all others may use what they give.
    nodes: Vec<u8>,
    /// Functions that calls need; found ones are taken out.
    functions: BTreeSet<Unpacker>,
    /// Whether the file still calls any.
    calls: bool,
    /// Whether functions that no packed tensor needs go.
    drops_functions: bool,
    raises_ir: bool,
    /// Inputs that go: initializers that an older IR version has among them, and a newer one would take for defaults.
    inputs: BTreeSet<String>,
    opset: u32,
    imported: bool,
}

impl Repack {
    /// What changes; `None` where all tensors keep their form.
    ///
    /// # Errors
    /// `Unsupported` where the file cannot hold a tensor packed, or is of too old an operator set.
    pub(super) fn new(source: &OnnxSource, model: &Model, patch: &Patch) -> Result<Option<Self>> {
        let ids: Vec<TensorId> =
            patch.ids().filter(|&id| patch.repacks(model, id) && !patch.removes(id)).collect();
        if ids.is_empty() {
            return Ok(None);
        }
        // Protobuf ends at 2 GiB.
        let growth = |id: &TensorId| {
            model.tensor(*id).packed().map_or(0, |p| patch.byte_len(model, *id).saturating_sub(p.byte_len()))
        };
        let too_large = source.bytes.len() + ids.iter().map(growth).sum::<usize>() > i32::MAX as usize;
        let mut found = Repack {
            changes: BTreeMap::new(),
            dropped: BTreeSet::new(),
            nodes: Vec::new(),
            functions: BTreeSet::new(),
            calls: false,
            drops_functions: !source.expands_unpackers,
            raises_ir: false,
            inputs: BTreeSet::new(),
            opset: source.opset(),
            imported: false,
        };
        let names: BTreeSet<&str> = match &model.graph {
            Some(graph) => graph.values.iter().map(|v| v.name.as_str()).collect(),
            None => BTreeSet::new(),
        };
        for id in ids {
            let stored = model.tensor(id);
            let packed = patch.packing(model, id).map(|(spec, _)| spec);
            if let Some(spec) = &packed {
                found.pack(source, id, spec, &stored.path, &names).at_tensor(&stored.path)?;
            }
            let place = source.places[id.0 as usize].as_ref();
            let step = match place.map(|place| &place.0[..]) {
                Some(&[GRAPH, step @ (INITIALIZER, _)] | &[GRAPH, step @ (NODE, _), ..]) => step,
                _ => {
                    let message = "a packed tensor that is neither an initializer nor a constant node";
                    return Err(Error::internal(message).at_tensor(&stored.path));
                }
            };
            if let Some(site) = source.packed.get(&id) {
                found.dropped.insert((NODE, site.node as u32));
                found.dropped.extend(site.parts[1..].iter().map(|&part| (INITIALIZER, part as u32)));
            }
            let external = source.extents[id.0 as usize].is_some() || too_large;
            let (dtype, shape) = patch.form(model, id);
            let (path, shape) = (stored.path.clone(), shape.to_vec());
            found.changes.insert(step, Change { id, path, dtype, shape, packed, external });
        }
        let kept = source.packed.iter().filter(|(id, _)| !patch.repacks(model, **id) && !patch.removes(**id));
        found.functions.extend(kept.map(|(_, site)| site.unpacker));
        found.calls = !found.functions.is_empty();
        found.raises_ir = found.calls && source.ir_version < OLDEST_IR;
        if found.raises_ir && source.lists_initializers() {
            found.inputs = source.defaults.iter().map(|&id| model.tensor(id).path.clone()).collect();
        }
        Ok(Some(found))
    }

    fn pack(
        &mut self,
        source: &OnnxSource,
        id: TensorId,
        spec: &Spec,
        path: &str,
        names: &BTreeSet<&str>,
    ) -> Result<()> {
        if let Some(reason) = source.stays_dense(id) {
            return Err(Error::unsupported(format!("cannot be packed: {reason}")));
        }
        let unpacker = Unpacker::of(spec);
        for &part in unpacker.inputs() {
            let name = part_name(path, part);
            if names.contains(name.as_str()) {
                let message =
                    format!("its part would be named `{name}`, which the graph has already; rename that");
                return Err(Error::unsupported(message));
            }
        }
        self.functions.insert(unpacker);
        put_bytes(&mut self.nodes, NODE, &call(path, spec));
        Ok(())
    }

    /// Whether external data are written.
    pub(super) fn has_data(&self) -> bool {
        self.changes.values().any(|change| change.external)
    }

    /// Changes a field of the model that is no message with tensors.
    pub(super) fn model_field(&mut self, bytes: &[u8], field: &Field, cut: &mut Cut) {
        match (field.number, field.wire) {
            (IR_VERSION, Wire::Varint) if self.raises_ir => {
                cut.remove(field);
                cut.push(Piece::New(ir_version()));
                self.raises_ir = false;
            }
            (OPSET_IMPORT, Wire::Len) => {
                let import = OperatorSetIdProto::decode(&bytes[field.value.clone()]).unwrap_or_default();
                if import.domain.as_deref() == Some(DOMAIN) {
                    self.imported = true;
                    if !self.calls && self.drops_functions {
                        cut.remove(field);
                    }
                }
            }
            _ => {}
        }
    }

    /// Removes a field of the main graph that is no message with tensors; false where it stays.
    pub(super) fn graph_field(&mut self, bytes: &[u8], field: &Field, cut: &mut Cut) -> bool {
        if field.number == INPUT && field.wire == Wire::Len && !self.inputs.is_empty() {
            let info = ValueInfoProto::decode(&bytes[field.value.clone()]).unwrap_or_default();
            if info.name.is_some_and(|name| self.inputs.contains(&name)) {
                cut.remove(field);
                return true;
            }
        }
        false
    }

    /// Puts new nodes in front of the first one.
    pub(super) fn before(&mut self, path: &[(u32, u32)], field: &Field, cut: &mut Cut) {
        if matches!(path, [GRAPH, (NODE, _)]) && !self.nodes.is_empty() {
            cut.insert(field, std::mem::take(&mut self.nodes));
        }
    }

    /// Replaces or removes the message at `path`; false where it stays.
    ///
    /// # Errors
    /// Where the message is damaged.
    pub(super) fn child(
        &mut self,
        path: &[(u32, u32)],
        bytes: &[u8],
        field: &Field,
        data: &mut DataFile,
        cut: &mut Cut,
    ) -> Result<bool> {
        match *path {
            [(FUNCTION, _)] => {
                let function = FunctionProto::decode(&bytes[field.value.clone()]).unwrap_or_default();
                let name = function.name.as_deref().filter(|_| function.domain.as_deref() == Some(DOMAIN));
                let Some(unpacker) = name.and_then(Unpacker::named) else { return Ok(false) };
                let drop = !self.functions.remove(&unpacker) && self.drops_functions;
                if drop {
                    cut.remove(field);
                }
                Ok(drop)
            }
            [GRAPH, step @ (number, _)] => {
                if let Some(change) = self.changes.get(&step) {
                    let rest = match number {
                        INITIALIZER => Rest::of(bytes, field.value.clone())?,
                        _ => Rest::default(),
                    };
                    cut.remove(field);
                    change.initializers(&rest, data).into_iter().for_each(|piece| cut.push(piece));
                } else if self.dropped.contains(&step) {
                    cut.remove(field);
                } else {
                    return Ok(false);
                }
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Appends what a message still lacks.
    pub(super) fn end(&mut self, kind: Kind, cut: &mut Cut) {
        match kind {
            Kind::Graph => cut.end(std::mem::take(&mut self.nodes)),
            Kind::Model => {
                let mut out = if self.raises_ir { ir_version() } else { Vec::new() };
                if self.calls && !self.imported {
                    put_bytes(&mut out, OPSET_IMPORT, &encode::opset_import(DOMAIN, VERSION));
                }
                for function in &self.functions {
                    put_bytes(&mut out, FUNCTION, &function.function(self.opset));
                }
                cut.end(out);
            }
            _ => {}
        }
    }
}

fn ir_version() -> Vec<u8> {
    let mut out = Vec::new();
    put_int(&mut out, IR_VERSION, OLDEST_IR);
    out
}

/// The fields of a tensor message that say nothing of its elements, such as its documentation: those before
/// where external data would be, and those after.
#[derive(Default)]
pub(super) struct Rest {
    before: Vec<u8>,
    behind: Vec<u8>,
}

impl Rest {
    pub(super) fn of(bytes: &[u8], tensor: Range<usize>) -> Result<Self> {
        let mut rest = Rest::default();
        for field in fields(bytes, tensor) {
            let field = field?;
            let kept = match field.number {
                1..=11 | tensor_field::EXTERNAL_DATA | tensor_field::DATA_LOCATION => continue,
                12 => &mut rest.before,
                _ => &mut rest.behind,
            };
            kept.extend_from_slice(&bytes[field.start..field.value.end]);
        }
        Ok(rest)
    }
}

impl Rest {
    /// The fields behind those of a message.
    pub(super) fn around(&self, message: Vec<u8>) -> Vec<u8> {
        [message, self.before.clone(), self.behind.clone()].concat()
    }
}

impl Change {
    /// The initializers that hold the tensor; the first keeps the rest of the one that did.
    fn initializers(&self, rest: &Rest, data: &mut DataFile) -> Vec<Piece> {
        let Some(spec) = &self.packed else {
            let len = self.dtype.bytes_for(self.shape.iter().product()).unwrap_or(0) as u64;
            let elements = Piece::Tensor(self.id, Encoding::Raw, len);
            return initializer(
                &self.path,
                self.dtype,
                &self.shape,
                elements,
                rest,
                self.external.then_some(data),
            );
        };
        let mut out = Vec::new();
        let nothing = Rest::default();
        for (part, dtype, shape) in spec.parts() {
            if !Unpacker::of(spec).inputs().contains(&part) {
                continue;
            }
            let elements = match spec.numbers(part) {
                Some(numbers) => Piece::New(numbers.into()),
                None => {
                    let len = dtype.bytes_for(shape.iter().product()).unwrap_or(0) as u64;
                    Piece::Part(self.id, part, len)
                }
            };
            let rest = if part == Part::Compressed { rest } else { &nothing };
            // Numbers that shapes follow from stay in the model, where every reader of it sees them.
            let external = self.external && matches!(elements, Piece::Part(..)) && elements.len() > 0;
            let name = part_name(&self.path, part);
            out.extend(initializer(&name, dtype, &shape, elements, rest, external.then_some(&mut *data)));
        }
        out
    }
}

/// An initializer of a graph, as the field that holds it.
pub(super) fn initializer(
    name: &str,
    dtype: DType,
    shape: &[usize],
    elements: Piece,
    rest: &Rest,
    data: Option<&mut DataFile>,
) -> Vec<Piece> {
    let message = tensor_message(name, dtype, shape, elements, rest, data);
    let mut head = Vec::new();
    put_len(&mut head, INITIALIZER, message.iter().map(Piece::len).sum());
    std::iter::once(Piece::New(head)).chain(message).collect()
}

/// A tensor message with raw elements, written to external data where there is a file for them.
pub(super) fn tensor_message(
    name: &str,
    dtype: DType,
    shape: &[usize],
    elements: Piece,
    rest: &Rest,
    data: Option<&mut DataFile>,
) -> Vec<Piece> {
    let mut head = encode::tensor_head(name, dtype, shape);
    let mut tail = rest.before.clone();
    let mut raw = None;
    match data {
        Some(data) => {
            tail.extend(data.take(elements));
            put_int(&mut tail, tensor_field::DATA_LOCATION, 1);
        }
        None => {
            put_len(&mut head, tensor_field::RAW_DATA, elements.len());
            raw = Some(elements);
        }
    }
    tail.extend_from_slice(&rest.behind);
    [Some(Piece::New(head)), raw, Some(Piece::New(tail))].into_iter().flatten().collect()
}
