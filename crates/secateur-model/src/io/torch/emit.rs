//! Writing values as a pickle of protocol 2, the one that `torch.save` uses and that
//! `torch.load(weights_only=True)` reads.

use std::collections::HashMap;

use indexmap::IndexSet;

use super::globals;
use super::state_dict::DEEPEST;
use super::tensors::{Storages, storage_id};
use super::value::{Id, Object, Value, Values};
use crate::model::Entry;
use crate::tensor::strides;
use crate::{Error, Result, ResultExt};

/// An entry of a dictionary that changes.
pub(super) enum Item {
    /// One of the dictionary's own, by its index.
    Kept(usize),
    /// A tensor that is added: its key and its index among the entries.
    Added(String, usize),
}

/// Where the bytes of a storage come from.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Held {
    /// A storage of the source.
    Stored(usize),
    /// An added tensor, by its index among the entries.
    Added(usize),
}

/// What a pickle is written from.
pub(super) struct Emit<'a> {
    pub(super) values: &'a Values,
    pub(super) storages: &'a Storages,
    /// The entries of dictionaries that change.
    pub(super) changed: &'a HashMap<Id, Vec<Item>>,
    pub(super) entries: &'a [Entry<'a>],
    /// For each entry the one whose storage it has, itself where no other holds the same elements.
    pub(super) ties: &'a [usize],
}

/// Writes the value as a pickle; gives it and the storages it refers to, whose keys are their places in
/// this list.
///
/// # Errors
/// `Unsupported` where an added tensor's type is none of PyTorch's, and for storages that are parts of
/// others; `Input` where values are nested too deep.
pub(super) fn emit(emit: &Emit<'_>, root: Id) -> Result<(Vec<u8>, IndexSet<Held>)> {
    let mut writer = Writer {
        from: emit,
        out: b"\x80\x02".to_vec(),
        memo: HashMap::new(),
        next: 0,
        held: IndexSet::new(),
    };
    writer.value(root, 0)?;
    writer.out.push(b'.');
    Ok((writer.out, writer.held))
}

struct Writer<'a> {
    from: &'a Emit<'a>,
    out: Vec<u8>,
    memo: HashMap<Id, u32>,
    next: u32,
    held: IndexSet<Held>,
}

impl Writer<'_> {
    fn value(&mut self, id: Id, depth: usize) -> Result<()> {
        if depth > DEEPEST {
            return Err(Error::input(format!("nests values deeper than {DEEPEST} levels")));
        }
        if let Some(&index) = self.memo.get(&id) {
            self.out.push(b'j');
            self.out.extend(index.to_le_bytes());
            return Ok(());
        }
        let deeper = depth + 1;
        if let Some(items) = self.from.changed.get(&id) {
            return self.changed(id, items, deeper);
        }
        match self.from.values.get(id) {
            Value::None => self.out.push(b'N'),
            Value::Bool(value) => self.out.push(if *value { 0x88 } else { 0x89 }),
            Value::Int(value) => self.int(*value),
            Value::Long(bytes) => self.long(bytes)?,
            Value::Float(value) => {
                self.out.push(b'G');
                self.out.extend(value.to_be_bytes());
            }
            Value::Str(text) => {
                self.text(text)?;
                self.remember(id);
            }
            // Protocol 2 has no bytes: they are text of the first 256 characters, encoded.
            Value::Bytes(bytes) => self.bytes("_codecs", "encode", id, bytes)?,
            Value::ByteArray(bytes) => self.bytes("__builtin__", "bytearray", id, bytes)?,
            Value::Global(global) => {
                self.global(&global.0, &global.1);
                self.remember(id);
            }
            Value::Tuple(items) => {
                self.tuple(items, deeper)?;
                self.remember(id);
            }
            Value::List(items) => {
                self.out.push(b']');
                self.remember(id);
                self.items(items, deeper)?;
            }
            Value::Dict(pairs) => {
                self.out.push(b'}');
                self.remember(id);
                self.pairs(pairs, deeper)?;
            }
            Value::Set(items) => self.set("set", id, items, deeper)?,
            Value::FrozenSet(items) => self.set("frozenset", id, items, deeper)?,
            Value::Persistent(said) => self.storage(id, *said, deeper)?,
            Value::Object(object) => self.object(id, object, deeper)?,
        }
        Ok(())
    }

    fn object(&mut self, id: Id, object: &Object, depth: usize) -> Result<()> {
        self.value(object.call, depth)?;
        self.value(object.args, depth)?;
        self.out.push(if object.new { 0x81 } else { b'R' });
        self.remember(id);
        self.items(&object.items, depth)?;
        self.pairs(&object.pairs, depth)?;
        self.state(object.state, depth)
    }

    /// A dictionary with other entries than it has.
    fn changed(&mut self, id: Id, items: &[Item], depth: usize) -> Result<()> {
        let values = self.from.values;
        let mut state = None;
        match values.get(id) {
            Value::Object(object) => {
                self.value(object.call, depth)?;
                // All entries follow, so those that an argument gives are left out there.
                let mut args = values.tuple(object.args).unwrap_or_default();
                if args
                    .first()
                    .is_some_and(|&first| matches!(values.get(first), Value::List(_) | Value::Dict(_)))
                {
                    args = &[];
                }
                self.tuple(args, depth)?;
                self.out.push(if object.new { 0x81 } else { b'R' });
                state = object.state;
            }
            _ => self.out.push(b'}'),
        }
        self.remember(id);
        let pairs = values.entries(id).unwrap_or_default();
        self.out.push(b'(');
        for item in items {
            match item {
                Item::Kept(index) => {
                    let (key, value) = pairs[*index];
                    self.value(key, depth)?;
                    self.value(value, depth)?;
                }
                Item::Added(key, index) => {
                    self.text(key)?;
                    self.tensor(*index).at_tensor(key)?;
                }
            }
        }
        self.out.push(b'u');
        self.state(state, depth)
    }

    /// A tensor of its own, as PyTorch writes a contiguous one.
    fn tensor(&mut self, index: usize) -> Result<()> {
        let entry = &self.from.entries[index];
        let class = globals::storage_of(entry.dtype);
        let name = globals::dtype_name(entry.dtype)
            .ok_or_else(|| Error::unsupported(format!("PyTorch has no element type {}", entry.dtype)))?;
        let (key, _) = self.held.insert_full(Held::Added(self.from.ties[index]));
        let version = if class.is_some() { "_rebuild_tensor_v2" } else { "_rebuild_tensor_v3" };
        self.global("torch._utils", version);
        self.out.extend(b"((");
        self.text("storage")?;
        let elements = match class {
            Some(class) => {
                self.global("torch", class);
                entry.shape.iter().product()
            }
            None => {
                self.global("torch.storage", globals::UNTYPED);
                entry.byte_len()
            }
        };
        self.text(&key.to_string())?;
        self.text("cpu")?;
        self.int(elements as i64);
        self.out.extend(b"tQ");
        self.int(0);
        for numbers in [entry.shape, &strides(entry.shape)] {
            self.out.push(b'(');
            numbers.iter().for_each(|&n| self.int(n as i64));
            self.out.push(b't');
        }
        // No gradient, no hooks.
        self.out.push(0x89);
        self.global("collections", "OrderedDict");
        self.out.extend(b")R");
        if class.is_none() {
            self.global("torch", name);
        }
        self.out.extend(b"tR");
        Ok(())
    }

    /// A storage of the source, under the key it has now.
    fn storage(&mut self, id: Id, said: Id, depth: usize) -> Result<()> {
        let values = self.from.values;
        if storage_id(values, said)?.part.is_some() {
            return Err(Error::unsupported(
                "the checkpoint has storages that are parts of others, as PyTorch before 0.4 wrote them: load it in \
                 PyTorch and `torch.save` it again first",
            ));
        }
        let stored =
            self.from.storages.referred(id).ok_or_else(|| Error::internal("a storage is unknown"))?;
        let (key, _) = self.held.insert_full(Held::Stored(stored));
        let parts = values.tuple(said).unwrap_or_default();
        self.out.push(b'(');
        for (index, &part) in parts.iter().take(5).enumerate() {
            match index {
                2 => self.text(&key.to_string())?,
                _ => self.value(part, depth)?,
            }
        }
        self.out.extend(b"tQ");
        Ok(())
    }

    fn remember(&mut self, id: Id) {
        self.out.push(b'r');
        self.out.extend(self.next.to_le_bytes());
        self.memo.insert(id, self.next);
        self.next += 1;
    }

    fn int(&mut self, value: i64) {
        match (u8::try_from(value), i32::try_from(value)) {
            (Ok(value), _) => self.out.extend([b'K', value]),
            (_, Ok(value)) => {
                self.out.push(b'J');
                self.out.extend(value.to_le_bytes());
            }
            _ => {
                self.out.extend([0x8a, 8]);
                self.out.extend(value.to_le_bytes());
            }
        }
    }

    /// An integer of more than 64 bits.
    fn long(&mut self, bytes: &[u8]) -> Result<()> {
        match u8::try_from(bytes.len()) {
            Ok(length) => self.out.extend([0x8a, length]),
            Err(_) => {
                self.out.push(0x8b);
                self.length(bytes.len())?;
            }
        }
        self.out.extend(bytes);
        Ok(())
    }

    fn length(&mut self, length: usize) -> Result<()> {
        let length = u32::try_from(length)
            .map_err(|_| Error::unsupported("the pickle holds a text of more than 4 GiB"))?;
        self.out.extend(length.to_le_bytes());
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<()> {
        self.out.push(b'X');
        self.length(text.len())?;
        self.out.extend(text.as_bytes());
        Ok(())
    }

    /// The call of a class or function that makes bytes.
    fn bytes(&mut self, module: &str, name: &str, id: Id, bytes: &[u8]) -> Result<()> {
        self.global(module, name);
        let text: String = bytes.iter().map(|&byte| char::from(byte)).collect();
        self.text(&text)?;
        self.text("latin1")?;
        self.out.extend([0x86, b'R']);
        self.remember(id);
        Ok(())
    }

    /// Neither name has a line's end in it: the reader sees to that.
    fn global(&mut self, module: &str, name: &str) {
        self.out.extend(format!("c{module}\n{name}\n").into_bytes());
    }

    fn tuple(&mut self, items: &[Id], depth: usize) -> Result<()> {
        let code = match items.len() {
            0 => b')',
            1..=3 => 0x84 + items.len() as u8,
            _ => b't',
        };
        if code == b't' {
            self.out.push(b'(');
        }
        items.iter().try_for_each(|&item| self.value(item, depth))?;
        self.out.push(code);
        Ok(())
    }

    fn items(&mut self, items: &[Id], depth: usize) -> Result<()> {
        if items.is_empty() {
            return Ok(());
        }
        self.out.push(b'(');
        items.iter().try_for_each(|&item| self.value(item, depth))?;
        self.out.push(b'e');
        Ok(())
    }

    fn pairs(&mut self, pairs: &[(Id, Id)], depth: usize) -> Result<()> {
        if pairs.is_empty() {
            return Ok(());
        }
        self.out.push(b'(');
        for &(key, value) in pairs {
            self.value(key, depth)?;
            self.value(value, depth)?;
        }
        self.out.push(b'u');
        Ok(())
    }

    fn set(&mut self, name: &str, id: Id, items: &[Id], depth: usize) -> Result<()> {
        self.global("__builtin__", name);
        self.out.push(b']');
        self.items(items, depth)?;
        self.out.extend([0x85, b'R']);
        self.remember(id);
        Ok(())
    }

    fn state(&mut self, state: Option<Id>, depth: usize) -> Result<()> {
        let Some(state) = state else { return Ok(()) };
        self.value(state, depth)?;
        self.out.push(b'b');
        Ok(())
    }
}
