//! A reader of pickles that makes values and executes nothing: the stack machine of Python's
//! `pickletools` (protocols 2 to 5), with the calls kept as names.

use std::collections::HashMap;

use super::value::{Id, Object, Value, Values};
use crate::{Error, Result};

/// The most values that a pickle may have: each takes some 30 bytes here, whatever it takes there.
const MOST_VALUES: usize = 1 << 23;

/// Reads one pickle from the beginning of `bytes`: its values are added to `values`; gives the value it
/// stands for, and its length.
///
/// # Errors
/// `Input` where it is damaged or cut off; `Unsupported` where it would call or make what is not known
/// to be plain data, and for protocols before 2.
pub(super) fn read(bytes: &[u8], values: &mut Values) -> Result<(Id, usize)> {
    Reader { bytes, at: 0, values, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() }.run()
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    values: &'a mut Values,
    stack: Vec<Id>,
    /// The height of the stack at each mark.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Reader<'a> {
    fn run(mut self) -> Result<(Id, usize)> {
        loop {
            let [code] = self.array()?;
            if code == b'.' {
                let root = self.pop()?;
                return Ok((root, self.at));
            }
            self.step(code)?;
        }
    }

    fn step(&mut self, code: u8) -> Result<()> {
        if let Some(value) = self.scalar(code)? {
            return self.push(value);
        }
        if let Some(value) = self.compound(code)? {
            return self.push(value);
        }
        match code {
            0x80 => match self.array()? {
                [2..=5] => Ok(()),
                [protocol] => {
                    Err(Error::unsupported(format!("pickle protocol {protocol}: expected one of 2 to 5")))
                }
            },
            // A frame only says how much to read at once.
            0x95 => self.array::<8>().map(|_| ()),
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' => self.pop().map(|_| ()),
            b'1' => self.pop_mark().map(|_| ()),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
                Ok(())
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])
            }
            b'e' | 0x90 => {
                let items = self.pop_mark()?;
                self.append(items)
            }
            b's' => {
                let pair = self.pop_many(2)?;
                self.set_items(&pair)
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.set_items(&items)
            }
            b'b' => self.build(),
            0x94 => self.put(self.memo.len() as u32),
            b'q' | b'r' => {
                let index = self.number(if code == b'q' { 1 } else { 4 })?;
                self.put(index as u32)
            }
            b'h' | b'j' => {
                let index = self.number(if code == b'h' { 1 } else { 4 })?;
                self.get(index as u32)
            }
            _ => {
                let message = format!(
                    "has the operation {code:#04x} at byte {}, which weights have no use for",
                    self.at
                );
                Err(Error::unsupported(message))
            }
        }
    }

    /// The value that an operation writes out in the pickle itself; `None` for the other operations.
    fn scalar(&mut self, code: u8) -> Result<Option<Value>> {
        Ok(Some(match code {
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'J' => Value::Int(i32::from_le_bytes(self.array()?).into()),
            b'K' => Value::Int(u8::from_le_bytes(self.array()?).into()),
            b'M' => Value::Int(u16::from_le_bytes(self.array()?).into()),
            b'I' => {
                // Python 2 writes integers of more than 32 bits as a line of text.
                let line = self.line()?;
                let value = line.parse().map_err(|_| self.damaged(&format!("`{line}` is no integer")))?;
                Value::Int(value)
            }
            0x8a => self.long(1)?,
            0x8b => self.long(4)?,
            b'G' => Value::Float(f64::from_be_bytes(self.array()?)),
            0x8c => self.text(1)?,
            b'X' => self.text(4)?,
            0x8d => self.text(8)?,
            // Strings of Python 2: text or bytes.
            b'U' | b'T' => {
                let bytes = self.counted(if code == b'U' { 1 } else { 4 })?;
                match std::str::from_utf8(bytes) {
                    Ok(text) => Value::Str(text.into()),
                    Err(_) => Value::Bytes(bytes.into()),
                }
            }
            b'C' => Value::Bytes(self.counted(1)?.into()),
            b'B' => Value::Bytes(self.counted(4)?.into()),
            0x8e => Value::Bytes(self.counted(8)?.into()),
            0x96 => Value::ByteArray(self.counted(8)?.into()),
            b'c' => {
                let (module, name) = (self.line()?.to_string(), self.line()?.to_string());
                Value::Global(Box::new((module, name)))
            }
            _ => return Ok(None),
        }))
    }

    /// The value that an operation makes empty or from values on the stack; `None` for the other operations.
    fn compound(&mut self, code: u8) -> Result<Option<Value>> {
        Ok(Some(match code {
            b']' => Value::List(Vec::new()),
            b'}' => Value::Dict(Vec::new()),
            0x8f => Value::Set(Vec::new()),
            b')' => Value::Tuple([].into()),
            0x85..=0x87 => Value::Tuple(self.pop_many(usize::from(code - 0x84))?.into()),
            b't' => Value::Tuple(self.pop_mark()?.into()),
            0x91 => Value::FrozenSet(self.pop_mark()?.into()),
            0x93 => self.named()?,
            b'R' => self.object(false)?,
            0x81 => self.object(true)?,
            b'Q' => Value::Persistent(self.pop()?),
            _ => return Ok(None),
        }))
    }

    fn damaged(&self, what: &str) -> Error {
        Error::input(format!("the pickle is damaged before its byte {}: {what}", self.at))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let Some(taken) = rest.get(..count) else {
            let message = format!(
                "the pickle wants {count} bytes at its byte {}, where {} are left: cut off?",
                self.at,
                rest.len()
            );
            return Err(Error::input(message));
        };
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.take(N)?;
        <[u8; N]>::try_from(bytes).map_err(|_| self.damaged("cut off"))
    }

    /// A little-endian number of `width` bytes, at most 8.
    fn number(&mut self, width: usize) -> Result<u64> {
        let mut number = [0; 8];
        number[..width].copy_from_slice(self.take(width)?);
        Ok(u64::from_le_bytes(number))
    }

    /// Bytes after their count, a number of `width` bytes.
    fn counted(&mut self, width: usize) -> Result<&'a [u8]> {
        let count = usize::try_from(self.number(width)?).unwrap_or(usize::MAX);
        self.take(count)
    }

    /// A text after the count of its bytes.
    fn text(&mut self, width: usize) -> Result<Value> {
        let bytes = self.counted(width)?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.damaged("a text is not valid UTF-8"))?;
        Ok(Value::Str(text.into()))
    }

    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.bytes[self.at..];
        let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
            return Err(self.damaged("a line without end"));
        };
        let line = self.take(end + 1)?;
        std::str::from_utf8(&line[..end]).map_err(|_| self.damaged("a name is not valid UTF-8"))
    }

    /// An integer of any length after the count of its bytes.
    fn long(&mut self, width: usize) -> Result<Value> {
        let bytes = self.counted(width)?;
        if bytes.len() > 8 {
            return Ok(Value::Long(bytes.into()));
        }
        let sign = if bytes.last().is_some_and(|&b| b >= 0x80) { 0xff } else { 0 };
        let mut wide = [sign; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        Ok(Value::Int(i64::from_le_bytes(wide)))
    }

    /// The class or function that two texts on the stack name: its module and its name.
    fn named(&mut self) -> Result<Value> {
        let names = self.pop_many(2)?;
        let text = |id| self.values.text(id).map(str::to_string);
        // Names are lines in older protocols, in which they may be written again.
        let text = |id| text(id).filter(|name| !name.contains('\n'));
        let (Some(module), Some(name)) = (text(names[0]), text(names[1])) else {
            return Err(self.damaged("a class is named by what is no name"));
        };
        Ok(Value::Global(Box::new((module, name))))
    }

    fn push(&mut self, value: Value) -> Result<()> {
        if self.values.len() >= MOST_VALUES {
            return Err(Error::unsupported(format!(
                "the pickle holds more than {MOST_VALUES} values; weights have few"
            )));
        }
        let id = self.values.push(value);
        self.stack.push(id);
        Ok(())
    }

    /// The lowest index that may be taken from the stack: what lies below the last mark is out of reach.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Id> {
        Ok(self.pop_many(1)?[0])
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Id>> {
        match self.stack.len().checked_sub(count) {
            Some(at) if at >= self.floor() => Ok(self.stack.split_off(at)),
            _ => Err(self.damaged("it takes more from its stack than there is")),
        }
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>> {
        match self.marks.pop() {
            Some(at) => Ok(self.stack.split_off(at)),
            None => Err(self.damaged("a mark is missing")),
        }
    }

    fn top(&self) -> Result<Id> {
        match self.stack.last() {
            Some(&top) if self.stack.len() > self.floor() => Ok(top),
            _ => Err(self.damaged("its stack is empty")),
        }
    }

    fn put(&mut self, index: u32) -> Result<()> {
        let top = self.top()?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn get(&mut self, index: u32) -> Result<()> {
        let Some(&id) = self.memo.get(&index) else {
            return Err(self.damaged("it takes from its memo what is not there"));
        };
        self.stack.push(id);
        Ok(())
    }

    fn append(&mut self, items: Vec<Id>) -> Result<()> {
        let top = self.top()?;
        match self.values.get_mut(top) {
            Value::List(list) | Value::Set(list) => list.extend(items),
            Value::Object(object) => object.items.extend(items),
            _ => return Err(self.damaged("it appends to what is no list")),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> Result<()> {
        let (pairs, []) = items.as_chunks::<2>() else {
            return Err(self.damaged("a key without value"));
        };
        let pairs = pairs.iter().map(|&[key, value]| (key, value));
        let top = self.top()?;
        match self.values.get_mut(top) {
            Value::Dict(dict) => dict.extend(pairs),
            Value::Object(object) => object.pairs.extend(pairs),
            _ => return Err(self.damaged("it sets an item of what is no dictionary")),
        }
        Ok(())
    }

    fn object(&mut self, new: bool) -> Result<Value> {
        let parts = self.pop_many(2)?;
        let (call, args) = (parts[0], parts[1]);
        if self.values.tuple(args).is_none() {
            return Err(self.damaged("arguments that are no tuple"));
        }
        self.check(call)?;
        let object = Object { call, args, new, items: Vec::new(), pairs: Vec::new(), state: None };
        Ok(Value::Object(Box::new(object)))
    }

    /// Refuses what is not known to be plain data.
    fn check(&self, call: Id) -> Result<()> {
        // Whole models of the old layout refer to their classes by persistent ids with the source code.
        let class = match self.values.get(call) {
            Value::Persistent(said) => self.values.tuple(*said).and_then(|parts| parts.get(1)).copied(),
            _ => Some(call),
        };
        match class.and_then(|class| self.values.global(class)) {
            Some(_) if self.values.known(call).is_some() => Ok(()),
            Some((module, name)) => Err(foreign(&format!("`{module}.{name}`"))),
            None => Err(foreign("something that it makes itself")),
        }
    }

    fn build(&mut self) -> Result<()> {
        let state = self.pop()?;
        let top = self.top()?;
        match self.values.get_mut(top) {
            Value::Object(object) if object.state.is_none() => {
                object.state = Some(state);
                Ok(())
            }
            _ => Err(self.damaged("it gives a state to what takes none")),
        }
    }
}

/// The error for a class or function that is none of a checkpoint of weights, with the way out.
pub(super) fn foreign(name: &str) -> Error {
    Error::unsupported(format!(
        "the pickle names {name} to be called or made, which would run code, and nothing of a file is executed \
         here; where it is a whole model, store its weights alone in the program that made it: \
         `torch.save(model.state_dict(), \"weights.pth\")`"
    ))
}
