//! Protobuf messages of ONNX as trees, as far as structure goes: every field is kept, known messages are entered.

/// A kind of message that is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Model,
    Opset,
    Graph,
    Function,
    Node,
    Attr,
    Tensor,
    Info,
    Type,
    TensorType,
    Element,
    Shape,
    Dim,
}

/// The kind of message in a field, where it is one that is entered.
fn inner(kind: Kind, field: u32) -> Option<Kind> {
    Some(match (kind, field) {
        (Kind::Model, 7) => Kind::Graph,
        (Kind::Model, 8) => Kind::Opset,
        (Kind::Model, 25) => Kind::Function,
        (Kind::Graph, 1) | (Kind::Function, 7) => Kind::Node,
        (Kind::Graph, 5) | (Kind::Attr, 5 | 10) => Kind::Tensor,
        (Kind::Graph, 11..=13) => Kind::Info,
        (Kind::Node, 5) => Kind::Attr,
        (Kind::Attr, 6 | 11) => Kind::Graph,
        (Kind::Info, 2) | (Kind::Element, 1) => Kind::Type,
        (Kind::Type, 1) => Kind::TensorType,
        (Kind::Type, 4 | 9) => Kind::Element,
        (Kind::TensorType, 2) => Kind::Shape,
        (Kind::Shape, 1) => Kind::Dim,
        _ => return None,
    })
}

#[derive(Clone, Debug)]
pub enum Value {
    Int(u64),
    Fixed64([u8; 8]),
    Fixed32([u8; 4]),
    Bytes(Vec<u8>),
    Msg(Msg),
}

/// A message: its fields in order.
#[derive(Clone, Debug)]
pub struct Msg {
    pub kind: Kind,
    pub fields: Vec<(u32, Value)>,
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

impl Msg {
    pub fn new(kind: Kind) -> Self {
        Msg { kind, fields: Vec::new() }
    }

    /// Reads a message; `None` where it is damaged.
    pub fn parse(kind: Kind, mut bytes: &[u8]) -> Option<Msg> {
        let mut msg = Msg::new(kind);
        while !bytes.is_empty() {
            let tag = varint(&mut bytes)?;
            let field = (tag >> 3) as u32;
            let value = match tag & 7 {
                0 => Value::Int(varint(&mut bytes)?),
                1 => {
                    let (value, rest) = bytes.split_first_chunk()?;
                    bytes = rest;
                    Value::Fixed64(*value)
                }
                5 => {
                    let (value, rest) = bytes.split_first_chunk()?;
                    bytes = rest;
                    Value::Fixed32(*value)
                }
                2 => {
                    let len = usize::try_from(varint(&mut bytes)?).ok()?;
                    let (value, rest) = bytes.split_at_checked(len)?;
                    bytes = rest;
                    match inner(kind, field) {
                        Some(kind) => Value::Msg(Msg::parse(kind, value)?),
                        None => Value::Bytes(value.to_vec()),
                    }
                }
                _ => return None,
            };
            msg.fields.push((field, value));
        }
        Some(msg)
    }

    pub fn write(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write_backwards(&mut out);
        out.reverse();
        out
    }

    /// The last byte first: so a message's length is known when it is written, however deep messages are nested.
    fn write_backwards(&self, out: &mut Vec<u8>) {
        let push = |out: &mut Vec<u8>, bytes: &[u8]| out.extend(bytes.iter().rev());
        for (field, value) in self.fields.iter().rev() {
            let start = out.len();
            let mut head = Vec::new();
            let wire = match value {
                Value::Int(value) => {
                    push_varint(&mut head, *value);
                    push(out, &head);
                    0
                }
                Value::Fixed64(value) => {
                    push(out, value);
                    1
                }
                Value::Fixed32(value) => {
                    push(out, value);
                    5
                }
                Value::Bytes(bytes) => {
                    push(out, bytes);
                    2
                }
                Value::Msg(msg) => {
                    msg.write_backwards(out);
                    2
                }
            };
            head.clear();
            push_varint(&mut head, u64::from(*field) << 3 | wire);
            if wire == 2 {
                push_varint(&mut head, (out.len() - start) as u64);
            }
            push(out, &head);
        }
    }

    /// The first text of a field; empty where there is none.
    pub fn text(&self, field: u32) -> String {
        self.texts(field).into_iter().next().unwrap_or_default()
    }

    pub fn texts(&self, field: u32) -> Vec<String> {
        let of = |(f, value): &(u32, Value)| match value {
            Value::Bytes(bytes) if *f == field => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        };
        self.fields.iter().filter_map(of).collect()
    }

    pub fn int(&self, field: u32) -> Option<i64> {
        self.fields.iter().rev().find_map(|(f, value)| match value {
            Value::Int(value) if *f == field => Some(*value as i64),
            _ => None,
        })
    }

    /// The integers of a repeated field, packed or not.
    pub fn ints(&self, field: u32) -> Vec<i64> {
        let mut out = Vec::new();
        for (_, value) in self.fields.iter().filter(|(f, _)| *f == field) {
            match value {
                Value::Int(value) => out.push(*value as i64),
                Value::Bytes(bytes) => {
                    let mut bytes = &bytes[..];
                    while let Some(value) = varint(&mut bytes) {
                        out.push(value as i64);
                    }
                }
                _ => {}
            }
        }
        out
    }

    /// Replaces a field by these values, at its place or at the end.
    pub fn set(&mut self, field: u32, values: impl IntoIterator<Item = Value>) {
        let at = self.fields.iter().position(|(f, _)| *f == field).unwrap_or(self.fields.len());
        self.fields.retain(|(f, _)| *f != field);
        let at = at.min(self.fields.len());
        self.fields.splice(at..at, values.into_iter().map(|value| (field, value)));
    }

    pub fn set_ints(&mut self, field: u32, values: &[i64]) {
        self.set(field, values.iter().map(|&value| Value::Int(value as u64)));
    }

    pub fn set_int(&mut self, field: u32, value: i64) {
        self.set_ints(field, &[value]);
    }

    pub fn set_texts(&mut self, field: u32, values: &[String]) {
        self.set(field, values.iter().map(|value| Value::Bytes(value.clone().into_bytes())));
    }

    pub fn set_text(&mut self, field: u32, value: &str) {
        self.set(field, [Value::Bytes(value.as_bytes().to_vec())]);
    }

    pub fn push(&mut self, field: u32, msg: Msg) {
        self.fields.push((field, Value::Msg(msg)));
    }

    /// The messages of a field.
    pub fn msgs(&self, field: u32) -> impl Iterator<Item = &Msg> {
        self.fields.iter().filter_map(move |(f, value)| match value {
            Value::Msg(msg) if *f == field => Some(msg),
            _ => None,
        })
    }

    pub fn msgs_mut(&mut self, field: u32) -> impl Iterator<Item = &mut Msg> {
        self.fields.iter_mut().filter_map(move |(f, value)| match value {
            Value::Msg(msg) if *f == field => Some(msg),
            _ => None,
        })
    }

    /// How many messages of a kind there are here and below.
    pub fn count(&self, kind: Kind) -> usize {
        let below = self.fields.iter().map(|(_, value)| match value {
            Value::Msg(msg) => msg.count(kind),
            _ => 0,
        });
        usize::from(self.kind == kind) + below.sum::<usize>()
    }

    /// The message of a kind with a number, in the order of the file.
    pub fn nth(&mut self, kind: Kind, n: &mut usize) -> Option<&mut Msg> {
        if self.kind == kind {
            if *n == 0 {
                return Some(self);
            }
            *n -= 1;
        }
        self.fields.iter_mut().find_map(|(_, value)| match value {
            Value::Msg(msg) => msg.nth(kind, n),
            _ => None,
        })
    }
}
