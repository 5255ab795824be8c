//! What a pickle says, as inert values: objects are the names of what would make them and with what,
//! never made.

use super::globals::{self, Known};

/// Where a value is in its [`Values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Id(pub(super) u32);

/// The values of a pickle. They refer to each other by [`Id`], as what a pickle describes may be
/// shared and may contain itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Values(Vec<Value>);

/// A value of a pickle.
#[derive(Clone, Debug)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than 64 bits: two's complement, little-endian.
    Long(Box<[u8]>),
    Float(f64),
    Str(Box<str>),
    Bytes(Box<[u8]>),
    ByteArray(Box<[u8]>),
    Tuple(Box<[Id]>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Set(Vec<Id>),
    FrozenSet(Box<[Id]>),
    /// A class or function by module and name.
    Global(Box<(String, String)>),
    /// What the pickle refers to by an id and does not hold itself: a storage.
    Persistent(Id),
    Object(Box<Object>),
}

/// What a call of a class or function would give.
#[derive(Clone, Debug)]
pub(super) struct Object {
    /// The class or function, a [`Value::Global`].
    pub(super) call: Id,
    /// The arguments, a tuple.
    pub(super) args: Id,
    /// Whether an object is made without its initialiser (`NEWOBJ`) or by a call (`REDUCE`).
    pub(super) new: bool,
    /// Items appended to it.
    pub(super) items: Vec<Id>,
    /// Items set by key.
    pub(super) pairs: Vec<(Id, Id)>,
    /// The state it would be given.
    pub(super) state: Option<Id>,
}

impl Values {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds a value; the number of values is below 2³².
    pub(super) fn push(&mut self, value: Value) -> Id {
        self.0.push(value);
        Id((self.0.len() - 1) as u32)
    }

    pub(super) fn get(&self, id: Id) -> &Value {
        &self.0[id.0 as usize]
    }

    pub(super) fn get_mut(&mut self, id: Id) -> &mut Value {
        &mut self.0[id.0 as usize]
    }

    /// All values with their ids, in the order in which they were made.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Id, &Value)> {
        (0..).map(Id).zip(&self.0)
    }

    pub(super) fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn int(&self, id: Id) -> Option<i64> {
        match self.get(id) {
            Value::Int(value) => Some(*value),
            _ => None,
        }
    }

    pub(super) fn tuple(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::Tuple(items) => Some(items),
            _ => None,
        }
    }

    pub(super) fn global(&self, id: Id) -> Option<(&str, &str)> {
        match self.get(id) {
            Value::Global(global) => Some((&global.0, &global.1)),
            _ => None,
        }
    }

    /// What is known of a class or function.
    pub(super) fn known(&self, id: Id) -> Option<Known> {
        self.global(id).and_then(|(module, name)| globals::known(module, name))
    }

    /// The entries of a dictionary of any class, those of its constructor first; `None` for all else.
    pub(super) fn entries(&self, id: Id) -> Option<Vec<(Id, Id)>> {
        let object = match self.get(id) {
            Value::Dict(pairs) => return Some(pairs.clone()),
            Value::Object(object) => object,
            _ => return None,
        };
        if !matches!(self.known(object.call), Some(Known::Dict)) {
            return None;
        }
        // Python 2 pickles an OrderedDict with a list of its items as argument.
        let listed = self.tuple(object.args).and_then(|args| args.first()).map(|&first| self.get(first));
        let mut pairs = Vec::new();
        if let Some(Value::List(items)) = listed {
            pairs.extend(items.iter().filter_map(|&item| match self.get(item) {
                Value::Tuple(pair) => <[Id; 2]>::try_from(&**pair).ok(),
                Value::List(pair) => <[Id; 2]>::try_from(&pair[..]).ok(),
                _ => None,
            }));
        } else if let Some(Value::Dict(items)) = listed {
            pairs.extend(items.iter().map(|&(key, value)| [key, value]));
        }
        Some(pairs.into_iter().map(|[key, value]| (key, value)).chain(object.pairs.iter().copied()).collect())
    }
}
