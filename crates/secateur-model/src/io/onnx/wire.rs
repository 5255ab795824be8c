//! The protobuf wire format: the fields of a message, whatever they mean.

use std::ops::Range;

use crate::{Error, Result};

/// How deep groups may nest; this form, deprecated before ONNX existed, may occur in unknown fields.
const MAX_GROUP_DEPTH: usize = 100;

/// How a field is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    Varint,
    Fixed64,
    /// Length-prefixed: text, bytes, messages, packed numbers.
    Len,
    Group,
    Fixed32,
}

/// One field of a message; positions count from the start of the bytes that are walked.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) number: u32,
    pub(super) wire: Wire,
    /// The tag's first byte.
    pub(super) start: usize,
    /// Behind the tag: the length prefix where there is one.
    pub(super) prefix: usize,
    /// The value, without tag and length prefix; ends where the field ends.
    pub(super) value: Range<usize>,
}

/// The fields of the message in `range`, in the file's order.
pub(super) fn fields(bytes: &[u8], range: Range<usize>) -> Fields<'_> {
    Fields { bytes: &bytes[..range.end], at: range.start }
}

/// See [`fields`].
pub(super) struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Fields<'_> {
    fn advance(&mut self, len: u64) -> Result<Range<usize>> {
        let start = self.at;
        let end = usize::try_from(len)
            .ok()
            .and_then(|len| start.checked_add(len))
            .filter(|&end| end <= self.bytes.len())
            .ok_or_else(|| damaged("a field reaches beyond the end of its message"))?;
        self.at = end;
        Ok(start..end)
    }

    fn tag(&mut self) -> Result<(u32, u8)> {
        let tag = varint(self.bytes, &mut self.at)?;
        let number = u32::try_from(tag >> 3).ok().filter(|&n| n > 0 && n < 1 << 29);
        Ok((number.ok_or_else(|| damaged("a field number is out of range"))?, (tag & 7) as u8))
    }

    fn value(&mut self, number: u32, wire: u8) -> Result<(Wire, Range<usize>)> {
        Ok(match wire {
            0 => {
                let start = self.at;
                varint(self.bytes, &mut self.at)?;
                (Wire::Varint, start..self.at)
            }
            1 => (Wire::Fixed64, self.advance(8)?),
            2 => {
                let len = varint(self.bytes, &mut self.at)?;
                (Wire::Len, self.advance(len)?)
            }
            3 => (Wire::Group, self.group(number)?),
            5 => (Wire::Fixed32, self.advance(4)?),
            other => return Err(damaged(&format!("wire type {other}"))),
        })
    }

    /// Skips to behind the end tag of a group that was opened.
    fn group(&mut self, number: u32) -> Result<Range<usize>> {
        let start = self.at;
        let mut open = vec![number];
        while let Some(&innermost) = open.last() {
            match self.tag()? {
                (n, 3) if open.len() < MAX_GROUP_DEPTH => open.push(n),
                (n, 4) if n == innermost => {
                    open.pop();
                }
                (_, 3 | 4) => return Err(damaged("groups do not close or are too deep")),
                (n, wire) => {
                    self.value(n, wire)?;
                }
            }
        }
        Ok(start..self.at)
    }
}

impl Iterator for Fields<'_> {
    type Item = Result<Field>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let start = self.at;
        let field = self.tag().and_then(|(number, wire)| {
            let prefix = self.at;
            let (wire, value) = self.value(number, wire)?;
            Ok(Field { number, wire, start, prefix, value })
        });
        if field.is_err() {
            self.at = self.bytes.len();
        }
        Some(field)
    }
}

/// Reads a variable-length integer at `at` and moves on behind it.
pub(super) fn varint(bytes: &[u8], at: &mut usize) -> Result<u64> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        let &byte = bytes.get(*at).ok_or_else(|| damaged("it ends inside a number"))?;
        *at += 1;
        // The tenth byte holds the last bit; more is cut off, as protobuf's own readers do.
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(damaged("a number is longer than ten bytes"))
}

/// Appends a variable-length integer.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The number of bytes [`put_varint`] appends.
pub(super) fn varint_len(value: u64) -> u64 {
    u64::from((64 - (value | 1).leading_zeros()).div_ceil(7))
}

/// Appends a variable-length integer as a field.
pub(super) fn put_int(out: &mut Vec<u8>, number: u32, value: i64) {
    put_varint(out, u64::from(number) << 3);
    put_varint(out, value as u64);
}

/// Appends four bytes as a field.
pub(super) fn put_fixed32(out: &mut Vec<u8>, number: u32, value: [u8; 4]) {
    put_varint(out, u64::from(number) << 3 | 5);
    out.extend_from_slice(&value);
}

/// Appends a length-prefixed field.
pub(super) fn put_bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    put_len(out, number, value.len() as u64);
    out.extend_from_slice(value);
}

/// Appends the tag and length prefix of a length-prefixed field.
pub(super) fn put_len(out: &mut Vec<u8>, number: u32, len: u64) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, len);
}

fn damaged(what: &str) -> Error {
    Error::input(format!("the file is damaged: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_round_trip() {
        for value in [0, 1, 127, 128, 300, 1 << 35, u64::from(u32::MAX), u64::MAX] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            assert_eq!(bytes.len() as u64, varint_len(value));
            assert_eq!(varint(&bytes, &mut 0).unwrap(), value);
            bytes.pop();
            assert!(varint(&bytes, &mut 0).is_err());
        }
        assert!(varint(&[0xff; 11], &mut 0).is_err());
    }

    #[test]
    fn fields_of_every_layout_are_found() {
        let mut bytes = vec![0x08, 0x96, 0x01]; // 1: varint 150
        bytes.extend([0x11, 1, 2, 3, 4, 5, 6, 7, 8]); // 2: fixed64
        put_bytes(&mut bytes, 3, b"abc");
        bytes.extend([0x23, 0x08, 0x01, 0x2b, 0x2c, 0x24]); // 4: group with a varint and group 5
        bytes.extend([0x35, 1, 2, 3, 4]); // 6: fixed32
        let found: Vec<_> = fields(&bytes, 0..bytes.len()).map(Result::unwrap).collect();
        let layouts: Vec<_> = found.iter().map(|f| (f.number, f.wire)).collect();
        assert_eq!(
            layouts,
            [(1, Wire::Varint), (2, Wire::Fixed64), (3, Wire::Len), (4, Wire::Group), (6, Wire::Fixed32)]
        );
        assert_eq!(&bytes[found[2].value.clone()], b"abc");
        assert_eq!(found.last().unwrap().value.end, bytes.len());
        // Each cut leaves either whole fields or an error, never a field beyond the end.
        for end in 0..bytes.len() {
            for field in fields(&bytes, 0..end).flatten() {
                assert!(field.value.end <= end);
            }
        }
    }

    #[test]
    fn groups_that_do_not_close_are_refused() {
        assert!(fields(&[0x0b], 0..1).next().unwrap().is_err());
        assert!(fields(&[0x0b, 0x14], 0..2).next().unwrap().is_err());
        assert!(fields(&[0x0b; 500], 0..500).next().unwrap().is_err());
        assert!(fields(&[0x00, 0x00], 0..2).next().unwrap().is_err());
        assert!(fields(&[0x12, 0x05, 0x00], 0..3).next().unwrap().is_err());
    }
}
