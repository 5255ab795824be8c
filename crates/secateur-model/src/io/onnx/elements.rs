//! The elements of a tensor as the fields of a `TensorProto` hold them.

use half::{bf16, f16};

use super::wire::{put_bytes, put_varint};
use crate::model::encode_chunks;
use crate::{DType, Data, Result};

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
        // Narrow integers, 16-bit floats by their bits; types under a byte as their packed bytes.
        _ => INT32_DATA,
    }
}

/// How elements are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Little-endian: raw data, external data, packed `float_data` and `double_data`.
    Raw,
    /// Packed variable-length integers.
    Varints,
    /// Texts, each a field with its tag.
    Strings,
}

impl Form {
    /// The form that the content of a typed field has.
    pub(super) fn of_field(field: u32) -> Form {
        match field {
            FLOAT_DATA | DOUBLE_DATA => Form::Raw,
            STRING_DATA => Form::Strings,
            _ => Form::Varints,
        }
    }

    /// Gives the encoded elements to `sink`, in pieces.
    pub(super) fn encode(self, data: &Data, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        if self == Form::Raw {
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
