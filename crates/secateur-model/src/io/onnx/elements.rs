//! The elements of a tensor as the fields of a `TensorProto` hold them.

use std::sync::Arc;

use bytes::Bytes;
use half::{bf16, f16};

use super::wire::{Field, Wire, fields, put_bytes, put_varint, varint};
use crate::model::{Storage, encode_chunks};
use crate::{DType, Data, Element, Error, Result};

/// Field numbers of `TensorProto`'s typed fields.
pub(super) const FLOAT_DATA: u32 = 4;
pub(super) const INT32_DATA: u32 = 5;
pub(super) const STRING_DATA: u32 = 6;
pub(super) const INT64_DATA: u32 = 7;
pub(super) const DOUBLE_DATA: u32 = 10;
pub(super) const UINT64_DATA: u32 = 11;

/// The typed field that holds elements of a type where they are not raw.
pub(super) fn typed_field(dtype: DType) -> u32 {
    match dtype {
        DType::F32 | DType::C64 => FLOAT_DATA,
        DType::F64 | DType::C128 => DOUBLE_DATA,
        DType::I64 => INT64_DATA,
        DType::U32 | DType::U64 => UINT64_DATA,
        DType::String => STRING_DATA,
        // Narrow integers, 16-bit floats by their bits, types of 4 and 2 bits as their packed bytes.
        _ => INT32_DATA,
    }
}

/// The elements of a tensor message without raw data. Packed floats lie in the file as they lie in
/// memory, so they stay there; everything else is decoded. Memory follows what the file holds, never
/// what its header claims.
///
/// # Errors
/// Where the fields do not hold `len` elements.
pub(super) fn typed(message: &Bytes, dtype: DType, len: usize) -> Result<Storage> {
    let number = typed_field(dtype);
    let encoding = Encoding::of_field(number);
    let mut found = Vec::new();
    for field in fields(message, 0..message.len()) {
        let field = field?;
        if field.number == number {
            encoding.check(number, field.wire)?;
            found.push(field);
        }
    }
    let (storage, count) = match encoding {
        Encoding::Raw => {
            let bytes = packed(message, &found);
            let size = dtype.bytes_for(1).unwrap_or(1);
            let whole = bytes.len().is_multiple_of(size);
            (Storage::Bytes(bytes.clone()), if whole { bytes.len() / size } else { usize::MAX })
        }
        Encoding::Strings => {
            let text = |f: &Field| String::from_utf8(message[f.value.clone()].to_vec());
            let texts = found.iter().map(text).collect::<Result<Vec<_>, _>>();
            let texts = texts.map_err(|_| Error::input("a string of the tensor is not UTF-8"))?;
            let count = texts.len();
            (Storage::Data(Arc::new(Data::String(texts))), count)
        }
        Encoding::Varints => {
            let (data, count) = narrow(dtype, message, &found)?;
            (Storage::Data(Arc::new(data)), count)
        }
    };
    // Elements of four and two bits come several to an entry.
    let expected = match dtype.bits() {
        bits @ (2 | 4) => len.div_ceil(8 / bits),
        _ => len,
    };
    if count != expected {
        let found = match (found.is_empty(), count) {
            (true, _) => "none".to_string(),
            (_, usize::MAX) => "a broken one".to_string(),
            _ => count.to_string(),
        };
        return Err(Error::input(format!("expected {expected} elements of type {dtype}, found {found}")));
    }
    Ok(storage)
}

/// The little-endian content of packed and unpacked numbers of fixed width.
fn packed(message: &Bytes, found: &[Field]) -> Bytes {
    match found {
        [field] => message.slice(field.value.clone()),
        _ => found.iter().flat_map(|f| &message[f.value.clone()]).copied().collect::<Vec<u8>>().into(),
    }
}

/// The elements that packed or unpacked integers encode, and the number of entries.
fn narrow(dtype: DType, message: &Bytes, found: &[Field]) -> Result<(Data, usize)> {
    let each = |take: &mut dyn FnMut(u64)| -> Result<()> {
        for field in found {
            let bytes = &message[field.value.clone()];
            let mut at = 0;
            while at < bytes.len() {
                take(varint(bytes, &mut at)?);
            }
        }
        Ok(())
    };
    type Each<'a> = &'a dyn Fn(&mut dyn FnMut(u64)) -> Result<()>;
    fn cast<T: Element>(each: Each<'_>, to: impl Fn(u64) -> T) -> Result<Data> {
        let mut values = Vec::new();
        each(&mut |value| values.push(to(value)))?;
        Ok(T::wrap(values))
    }
    let data = match dtype {
        DType::I64 => cast(&each, |v| v as i64),
        DType::I32 => cast(&each, |v| v as i32),
        DType::I16 => cast(&each, |v| v as i16),
        DType::I8 => cast(&each, |v| v as i8),
        DType::U64 => cast(&each, |v| v),
        DType::U32 => cast(&each, |v| v as u32),
        DType::U16 => cast(&each, |v| v as u16),
        DType::Bool => cast(&each, |v| v != 0),
        DType::F16 => cast(&each, |v| f16::from_bits(v as u16)),
        DType::BF16 => cast(&each, |v| bf16::from_bits(v as u16)),
        _ => cast(&each, |v| v as u8),
    }?;
    let count = data.len();
    Ok(match data {
        Data::U8(bytes) if dtype.bits() == 6 => (Data::Raw(dtype, pack6(&bytes)), count),
        Data::U8(bytes) if dtype != DType::U8 => (Data::Raw(dtype, bytes), count),
        data => (data, count),
    })
}

/// Six-bit values as a stream of bits, lowest first.
fn pack6(values: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity((values.len() * 6).div_ceil(8));
    for four in values.chunks(4) {
        let bits = four.iter().rev().fold(0u32, |bits, &v| bits << 6 | u32::from(v & 0x3f));
        bytes.extend_from_slice(&bits.to_le_bytes()[..(four.len() * 6).div_ceil(8)]);
    }
    bytes
}

/// How elements are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Little-endian: raw data, external data, packed `float_data` and `double_data`.
    Raw,
    /// Packed variable-length integers.
    Varints,
    /// Strings, each a field with its tag.
    Strings,
}

impl Encoding {
    /// The encoding of a typed field.
    pub(super) fn of_field(field: u32) -> Encoding {
        match field {
            FLOAT_DATA | DOUBLE_DATA => Encoding::Raw,
            STRING_DATA => Encoding::Strings,
            _ => Encoding::Varints,
        }
    }

    /// Checks that a field is packed, or holds a single element in this encoding.
    fn check(self, number: u32, wire: Wire) -> Result<()> {
        let single = match self {
            Encoding::Raw if number == DOUBLE_DATA => Wire::Fixed64,
            Encoding::Raw => Wire::Fixed32,
            Encoding::Varints => Wire::Varint,
            Encoding::Strings => Wire::Len,
        };
        if wire != Wire::Len && wire != single {
            return Err(Error::input("the file is damaged: elements of a tensor have another layout"));
        }
        Ok(())
    }

    /// Gives the encoded elements to `sink`, in pieces.
    pub(super) fn encode(self, data: &Data, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        if self == Encoding::Raw {
            return encode_chunks(data, sink);
        }
        match data {
            Data::I64(v) => varints(v, |x| x as u64, sink),
            Data::I32(v) => varints(v, |x| i64::from(x) as u64, sink),
            Data::I16(v) => varints(v, |x| i64::from(x) as u64, sink),
            Data::I8(v) => varints(v, |x| i64::from(x) as u64, sink),
            Data::U64(v) => varints(v, |x| x, sink),
            Data::U32(v) => varints(v, u64::from, sink),
            Data::U16(v) => varints(v, u64::from, sink),
            Data::Raw(dtype, _) if dtype.bits() == 6 => {
                Err(Error::unsupported(format!("elements of type {dtype} are carried, not changed")))
            }
            Data::U8(v) | Data::Raw(_, v) => varints(v, u64::from, sink),
            Data::Bool(v) => varints(v, u64::from, sink),
            Data::F16(v) => varints(v, |x: f16| x.to_bits().into(), sink),
            Data::BF16(v) => varints(v, |x: bf16| x.to_bits().into(), sink),
            Data::F32(_) | Data::F64(_) => encode_chunks(data, sink),
            Data::String(v) => v.iter().try_for_each(|text| {
                let mut field = Vec::with_capacity(text.len() + 6);
                put_bytes(&mut field, STRING_DATA, text.as_bytes());
                sink(&field)
            }),
        }
    }
}

fn varints<T: Copy>(
    values: &[T],
    to: impl Fn(T) -> u64,
    sink: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut buffer = Vec::new();
    for chunk in values.chunks(1 << 15) {
        buffer.clear();
        chunk.iter().for_each(|&value| put_varint(&mut buffer, to(value)));
        sink(&buffer)?;
    }
    Ok(())
}
