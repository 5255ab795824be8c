//! Which bytes of an ONNX file change, and what replaces them.
//!
//! The file's messages are walked by field number only as far as they can contain tensors. Where
//! nothing inside a message changes, its bytes are taken as they are, length prefix included; where
//! something does, the length prefixes around it are rewritten if the length differs. So unknown
//! fields, the order of fields and the encoding of everything else survive.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use bytes::Bytes;
use prost::Message;

use super::OnnxSource;
use super::data_file::DataFile;
use super::edit::GraphEdit;
use super::elements::{Encoding, typed_field};
use super::encode;
use super::external::{ExternalFiles, entry};
use super::proto::StringStringEntryProto;
use super::repack::{Repack, Rest, tensor_message};
use super::tensor;
use super::wire::{Field, Wire, fields, put_bytes, put_len, put_varint, varint, varint_len};
use crate::model::Patch;
use crate::packed::Part;
use crate::{DType, Error, ErrorKind, Model, Result, ResultExt, TensorId};

/// How deep messages may nest; files that were read are bounded already, this bounds their unread parts.
const MAX_DEPTH: usize = 400;

/// A kind of message that can contain tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Model,
    Training,
    Function,
    Graph,
    Node,
    Attribute,
    Sparse,
    Tensor,
}

impl Kind {
    /// The kind of message in a field, where it can contain tensors.
    pub(super) fn child(self, field: u32) -> Option<Kind> {
        Some(match (self, field) {
            (Kind::Model, 7) | (Kind::Training, 1 | 2) | (Kind::Attribute, 6 | 11) => Kind::Graph,
            (Kind::Model, 20) => Kind::Training,
            (Kind::Model, 25) => Kind::Function,
            (Kind::Graph, 1) | (Kind::Function, 7) => Kind::Node,
            (Kind::Node, 5) | (Kind::Function, 11) => Kind::Attribute,
            (Kind::Graph, 5) | (Kind::Attribute, 5 | 10) | (Kind::Sparse, 1 | 2) => Kind::Tensor,
            (Kind::Graph, 15) | (Kind::Attribute, 22 | 23) => Kind::Sparse,
            _ => return None,
        })
    }
}

/// A stretch of the new file.
#[derive(Debug)]
pub(super) enum Piece {
    /// Bytes of the source.
    Copy(Range<usize>),
    /// New bytes: tags, lengths, names, metadata.
    New(Vec<u8>),
    /// The elements of a changed tensor, encoded when written.
    Tensor(TensorId, Encoding, u64),
    /// The elements of a tensor that the patch adds, encoded when written.
    Added(usize, u64),
    /// A part of a packed tensor, made when written.
    Part(TensorId, Part, u64),
    /// Bytes of an external file.
    External(usize, Range<usize>),
}

impl Piece {
    pub(super) fn len(&self) -> u64 {
        match self {
            Piece::Copy(range) | Piece::External(_, range) => range.len() as u64,
            Piece::New(bytes) => bytes.len() as u64,
            Piece::Tensor(.., len) | Piece::Part(.., len) | Piece::Added(_, len) => *len,
        }
    }
}

/// The locations of all external data that a file mentions. What nothing reads (a function that is
/// never called, the training part) may be damaged; it holds none then.
pub(super) fn external_locations(bytes: &[u8]) -> BTreeSet<String> {
    fn walk(bytes: &[u8], kind: Kind, range: Range<usize>, depth: usize, found: &mut BTreeSet<String>) {
        if kind == Kind::Tensor {
            if let Ok(tensor) = TensorFields::find(bytes, range, None) {
                found.extend(tensor.location().filter(|_| tensor.is_external).map(str::to_string));
            }
            return;
        }
        for field in fields(bytes, range).map_while(Result::ok) {
            if let (Wire::Len, Some(child)) = (field.wire, kind.child(field.number))
                && depth < MAX_DEPTH
            {
                walk(bytes, child, field.value, depth + 1, found);
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(bytes, Kind::Model, 0..bytes.len(), 0, &mut found);
    found
}

/// Counts the fields of each number in one message.
#[derive(Default)]
struct Positions(Vec<(u32, u32)>);

impl Positions {
    /// The position of the next field with this number.
    fn next(&mut self, number: u32) -> u32 {
        match self.0.iter_mut().find(|(n, _)| *n == number) {
            Some((_, count)) => {
                *count += 1;
                *count - 1
            }
            None => {
                self.0.push((number, 1));
                0
            }
        }
    }
}

fn check_depth(depth: usize) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::input(format!("messages nest more than {MAX_DEPTH} deep")));
    }
    Ok(())
}

/// Field numbers of `TensorProto`.
pub(super) mod tensor_field {
    pub(in crate::io::onnx) const RAW_DATA: u32 = 9;
    pub(in crate::io::onnx) const EXTERNAL_DATA: u32 = 13;
    pub(in crate::io::onnx) const DATA_LOCATION: u32 = 14;
}

/// The parts of a tensor message that say where its elements are.
#[derive(Default)]
struct TensorFields {
    raw: Option<Field>,
    external: Vec<Field>,
    entries: Vec<StringStringEntryProto>,
    is_external: bool,
    /// The fields with the requested number.
    typed: Vec<Field>,
}

impl TensorFields {
    fn find(bytes: &[u8], range: Range<usize>, typed: Option<u32>) -> Result<Self> {
        let mut found = TensorFields::default();
        for field in fields(bytes, range) {
            let field = field?;
            match (field.number, field.wire) {
                (tensor_field::RAW_DATA, Wire::Len) => found.raw = Some(field),
                (tensor_field::EXTERNAL_DATA, Wire::Len) => {
                    let entry = StringStringEntryProto::decode(&bytes[field.value.clone()])
                        .map_err(|e| Error::input(format!("the file is damaged: external data: {e}")))?;
                    found.external.push(field);
                    found.entries.push(entry);
                }
                (tensor_field::DATA_LOCATION, Wire::Varint) => {
                    found.is_external = varint(bytes, &mut field.value.start.clone())? == 1;
                }
                (number, _) if Some(number) == typed => found.typed.push(field),
                _ => {}
            }
        }
        Ok(found)
    }

    fn location(&self) -> Option<&str> {
        entry(&self.entries, "location")
    }
}

/// Makes the pieces of the new file.
pub(super) struct Splicer<'a> {
    source: &'a OnnxSource,
    bytes: &'a Bytes,
    model: &'a Model,
    patch: &'a Patch,
    metadata: &'a [(String, String)],
    /// The changed tensors by the place that holds them.
    places: BTreeMap<&'a [(u32, u32)], TensorId>,
    pub(super) external: &'a mut ExternalFiles,
    /// The external files that hold changed tensors.
    patched: BTreeSet<usize>,
    /// New locations of external files, by their index; the old one stays where there is none.
    pub(super) locations: HashMap<usize, String>,
    /// What changes where tensors are packed or made dense.
    repack: Option<Repack>,
    /// What changes of the graph.
    edit: Option<GraphEdit>,
    /// External data, where their layout changes.
    pub(super) data: Option<DataFile>,
    path: Vec<(u32, u32)>,
}

impl<'a> Splicer<'a> {
    /// Opens every external file that the model mentions, also where nothing reads the tensor (a
    /// function that is never called): all of them have to come along.
    ///
    /// # Errors
    /// Where no tensor message holds a changed tensor, or an external file cannot be opened.
    pub(super) fn new(
        source: &'a OnnxSource,
        model: &'a Model,
        patch: &'a Patch,
        metadata: &'a [(String, String)],
        external: &'a mut ExternalFiles,
    ) -> Result<Self> {
        let (mut places, mut patched) = (BTreeMap::new(), BTreeSet::new());
        for id in patch.ids().filter(|id| !patch.removes(*id)) {
            let Some(Some(place)) = source.places.get(id.0 as usize) else {
                if source.number_attributes.contains_key(&id) {
                    continue;
                }
                return Err(Error::unsupported(
                    "the file holds it in a form that cannot be rewritten (the argument of a function call, or a \
                     sparse tensor with external data); leave it out",
                )
                .at_tensor(&model.tensor(id).path));
            };
            places.insert(place.0.as_slice(), id);
            patched.extend(source.extents[id.0 as usize].as_ref().map(|(file, _)| *file));
        }
        let repack = Repack::new(source, model, patch)?;
        let edit = GraphEdit::new(source, model, patch)?;
        let relays = repack.is_some() || edit.as_ref().is_some_and(|edit| edit.relays_data);
        for location in external_locations(&source.bytes) {
            external.open(&location)?;
        }
        Ok(Splicer {
            source,
            bytes: &source.bytes,
            model,
            patch,
            metadata,
            places,
            external,
            patched,
            locations: HashMap::new(),
            repack,
            edit,
            data: relays.then(DataFile::default),
            path: Vec::new(),
        })
    }

    /// Whether external data are written into a new file.
    pub(super) fn has_new_data(&self) -> bool {
        let edited = self.edit.as_ref().is_some_and(|edit| edit.writes_external);
        edited || self.repack.as_ref().is_some_and(Repack::has_data)
    }

    /// The pieces of the whole new file.
    ///
    /// # Errors
    /// Where a changed tensor cannot be computed.
    pub(super) fn splice(&mut self) -> Result<Vec<Piece>> {
        let all = 0..self.bytes.len();
        let spliced = self.message(Kind::Model, all.clone())?;
        Ok(spliced.unwrap_or_else(|| vec![Piece::Copy(all)]))
    }

    /// The new content of a message; `None` where nothing in it changes. One that nothing reads may be
    /// damaged: it stays as it is.
    fn message(&mut self, kind: Kind, range: Range<usize>) -> Result<Option<Vec<Piece>>> {
        let content = self.content(kind, range);
        let path = self.path.as_slice();
        let edited = || self.edit.as_ref().is_some_and(|edit| edit.changes_in(path));
        let placed = || self.places.range(path..).next().is_some_and(|(place, _)| place.starts_with(path));
        let changes = || placed() || edited();
        match content {
            Err(error) if kind != Kind::Model && error.kind() == ErrorKind::Input && !changes() => Ok(None),
            content => content,
        }
    }

    fn content(&mut self, kind: Kind, range: Range<usize>) -> Result<Option<Vec<Piece>>> {
        if kind == Kind::Tensor {
            return match self.places.get(self.path.as_slice()).copied() {
                Some(id) => self.tensor(range, Some(id)).at_tensor(&self.model.tensor(id).path),
                None => self.tensor(range, None),
            };
        }
        check_depth(self.path.len())?;
        let mut cut = Cut::new(range.clone());
        let mut positions = Positions::default();
        let mut written = vec![false; self.metadata.len()];
        for field in fields(self.bytes, range) {
            let field = field?;
            if let Some(repack) = self.repack.as_mut().filter(|_| kind == Kind::Model) {
                repack.model_field(self.bytes, &field, &mut cut);
            }
            if let Some(repack) = self.repack.as_mut().filter(|_| kind == Kind::Graph && self.path.len() == 1)
                && repack.graph_field(self.bytes, &field, &mut cut)
            {
                continue;
            }
            if field.wire != Wire::Len {
                continue;
            }
            if let Some(edit) = &mut self.edit
                && edit.leaf(kind, &self.path, self.bytes, &field, &mut cut)?
            {
                continue;
            }
            if kind == Kind::Model && field.number == METADATA_PROPS {
                self.metadata_entry(&field, &mut cut, &mut written);
            }
            let Some(child) = kind.child(field.number) else { continue };
            self.path.push((field.number, positions.next(field.number)));
            let content = match self.replaced(&field, &mut cut) {
                Ok(false) => self.message(child, field.value.clone()),
                replaced => replaced.map(|_| None),
            };
            self.path.pop();
            if let Some(content) = content? {
                cut.replace_value(&field, content);
            }
        }
        if let Some(repack) = self.repack.as_mut().filter(|_| self.path.len() < 2) {
            repack.end(kind, &mut cut);
        }
        if let Some(edit) = &mut self.edit {
            edit.end(kind, &self.path, self.data.as_mut(), &mut cut);
        }
        if kind == Kind::Model {
            for ((key, value), _) in self.metadata.iter().zip(&written).filter(|(_, written)| !**written) {
                cut.end(metadata_field(key, value));
            }
        }
        Ok(cut.finish())
    }

    /// Puts something in front of the message at the path, in its place, or removes it; false where it stays.
    fn replaced(&mut self, field: &Field, cut: &mut Cut) -> Result<bool> {
        if let (Some(repack), Some(data)) = (&mut self.repack, &mut self.data) {
            repack.before(&self.path, field, cut);
            if let Some(edit) = &mut self.edit {
                edit.before(&self.path, field, cut);
            }
            if repack.child(&self.path, self.bytes, field, data, cut)? {
                return Ok(true);
            }
        } else if let Some(edit) = &mut self.edit {
            edit.before(&self.path, field, cut);
        }
        match &mut self.edit {
            Some(edit) => edit.child(&self.path, self.bytes, field, cut),
            None => Ok(false),
        }
    }

    /// Replaces a metadata entry that gets another value; of a repeated key one entry is kept.
    fn metadata_entry(&self, field: &Field, cut: &mut Cut, written: &mut [bool]) {
        let entry = StringStringEntryProto::decode(&self.bytes[field.value.clone()]).unwrap_or_default();
        let given = self.metadata.iter().position(|(key, _)| entry.key.as_ref() == Some(key));
        if let Some(index) = given {
            cut.remove(field);
            if !std::mem::replace(&mut written[index], true) {
                let (key, value) = &self.metadata[index];
                cut.push(Piece::New(metadata_field(key, value)));
            }
        } else if self.patch.drops(entry.key.as_deref().unwrap_or_default()) {
            cut.remove(field);
        }
    }

    fn tensor(&mut self, range: Range<usize>, edit: Option<TensorId>) -> Result<Option<Vec<Piece>>> {
        if let Some(id) = edit.filter(|&id| self.patch.reforms(self.model, id)) {
            return self.reformed(range, id).map(Some);
        }
        let stored = edit.map(|id| self.model.tensor(id));
        let field_number = stored.map(|s| typed_field(s.dtype));
        let found = TensorFields::find(self.bytes, range.clone(), field_number)?;
        let mut cut = Cut::new(range.clone());
        if let (true, Some(data)) = (found.is_external, &mut self.data) {
            let (_, extent) = tensor::stored(&self.bytes.slice(range), String::new(), self.external)?;
            let content = extent.map(|(file, range)| match edit {
                Some(id) => Piece::Tensor(id, Encoding::Raw, range.len() as u64),
                None => Piece::External(file, range),
            });
            let mut entries = content.map(|content| data.take(content));
            for field in &found.external {
                cut.remove(field);
                entries.take().into_iter().for_each(|entries| cut.push(Piece::New(entries)));
            }
        } else if found.is_external {
            self.move_external(&found, &mut cut)?;
        } else if let (Some((id, stored)), Some(raw)) = (edit.zip(stored), &found.raw) {
            if raw.value.len() != self.source.raw_len(id, stored) {
                return Err(Error::internal("the source holds another number of bytes than when read"));
            }
            cut.replace_value(raw, vec![Piece::Tensor(id, Encoding::Raw, raw.value.len() as u64)]);
        } else if let (Some(id), Some(number), Some((first, rest))) =
            (edit, field_number, found.typed.split_first())
        {
            let form = Encoding::of_field(number);
            let len = self.encoded_len(id, form)?;
            cut.remove(first);
            if form != Encoding::Strings {
                let mut head = Vec::new();
                put_len(&mut head, number, len);
                cut.push(Piece::New(head));
            }
            cut.push(Piece::Tensor(id, form, len));
            rest.iter().for_each(|field| cut.remove(field));
        }
        Ok(cut.finish())
    }

    /// The message of a tensor that gets another type or shape; what says nothing of its elements stays.
    fn reformed(&mut self, range: Range<usize>, id: TensorId) -> Result<Vec<Piece>> {
        let rest = Rest::of(self.bytes, range.clone())?;
        let name = tensor::tensor_name(&self.bytes.slice(range))?;
        let (dtype, shape) = self.patch.form(self.model, id);
        if dtype == DType::String {
            let message = encode::tensor(&name, &self.patch.load(self.model, id)?)?;
            return Ok(vec![Piece::New(rest.around(message))]);
        }
        let external = self.edit.as_ref().is_some_and(|edit| edit.is_external(id));
        let elements = Piece::Tensor(id, Encoding::Raw, self.patch.byte_len(self.model, id) as u64);
        let data = self.data.as_mut().filter(|_| external);
        Ok(tensor_message(&name, dtype, shape, elements, &rest, data))
    }

    /// Writes the new location of a tensor's external file into its entries.
    fn move_external(&mut self, found: &TensorFields, cut: &mut Cut) -> Result<()> {
        let Some(old) = found.location() else { return Ok(()) };
        let file = self.external.open(old)?;
        let new = self.locations.get(&file).filter(|new| new.as_str() != old);
        for (field, entry) in found.external.iter().zip(&found.entries) {
            match entry.key.as_deref() {
                Some("location") => {
                    if let Some(new) = new {
                        let mut inner = Cut::new(field.value.clone());
                        for part in fields(self.bytes, field.value.clone()) {
                            let part = part?;
                            if (part.number, part.wire) == (2, Wire::Len) {
                                inner.replace_value(&part, vec![Piece::New(new.clone().into_bytes())]);
                            }
                        }
                        cut.replace_value(field, inner.finish().unwrap_or_default());
                    }
                }
                // The digest of the whole file, which no longer holds once any tensor in it changes.
                Some("checksum") if self.patched.contains(&file) => cut.remove(field),
                _ => {}
            }
        }
        Ok(())
    }

    /// The length of a changed tensor in a typed field. Only variable-length forms need the elements.
    fn encoded_len(&self, id: TensorId, form: Encoding) -> Result<u64> {
        if form == Encoding::Raw {
            return Ok(self.source.raw_len(id, self.model.tensor(id)) as u64);
        }
        let mut len = 0;
        let tensor = self.source.written(id, self.patch.load(self.model, id)?)?;
        form.encode(tensor.data(), &mut |bytes| {
            len += bytes.len() as u64;
            Ok(())
        })?;
        Ok(len)
    }
}

/// `ModelProto.metadata_props`.
pub(super) const METADATA_PROPS: u32 = 14;

pub(super) fn metadata_field(key: &str, value: &str) -> Vec<u8> {
    let mut entry = Vec::new();
    put_bytes(&mut entry, 1, key.as_bytes());
    put_bytes(&mut entry, 2, value.as_bytes());
    let mut field = Vec::new();
    put_bytes(&mut field, METADATA_PROPS, &entry);
    field
}

/// A message with some of its bytes replaced, from front to back.
pub(super) struct Cut {
    range: Range<usize>,
    pieces: Vec<Piece>,
    /// Up to here the source's bytes are dealt with.
    at: usize,
    changed: bool,
}

impl Cut {
    pub(super) fn new(range: Range<usize>) -> Self {
        Cut { at: range.start, range, pieces: Vec::new(), changed: false }
    }

    pub(super) fn push(&mut self, piece: Piece) {
        self.changed = true;
        if piece.len() > 0 {
            self.pieces.push(piece);
        }
    }

    fn copy_until(&mut self, end: usize) {
        if self.at < end {
            self.pieces.push(Piece::Copy(self.at..end));
        }
        self.at = end;
    }

    /// Leaves a field out.
    pub(super) fn remove(&mut self, field: &Field) {
        self.copy_until(field.start);
        self.at = field.value.end;
        self.changed = true;
    }

    /// Replaces the value of a length-prefixed field; the prefix stays as it is if the length does.
    pub(super) fn replace_value(&mut self, field: &Field, content: Vec<Piece>) {
        let len: u64 = content.iter().map(Piece::len).sum();
        if len == field.value.len() as u64 {
            self.copy_until(field.value.start);
        } else {
            self.copy_until(field.prefix);
            let mut prefix = Vec::with_capacity(varint_len(len) as usize);
            put_varint(&mut prefix, len);
            self.push(Piece::New(prefix));
        }
        content.into_iter().for_each(|piece| self.push(piece));
        self.at = field.value.end;
        self.changed = true;
    }

    /// Puts bytes in front of a field.
    pub(super) fn insert(&mut self, field: &Field, bytes: Vec<u8>) {
        self.copy_until(field.start);
        self.push(Piece::New(bytes));
    }

    /// Appends pieces behind the last field.
    pub(super) fn end_with(&mut self, pieces: Vec<Piece>) {
        self.copy_until(self.range.end);
        pieces.into_iter().for_each(|piece| self.push(piece));
    }

    /// Appends bytes behind the last field.
    pub(super) fn end(&mut self, bytes: Vec<u8>) {
        self.copy_until(self.range.end);
        self.push(Piece::New(bytes));
    }

    pub(super) fn finish(mut self) -> Option<Vec<Piece>> {
        if !self.changed {
            return None;
        }
        self.copy_until(self.range.end);
        Some(self.pieces)
    }
}
