//! `TensorProto` to [`StoredTensor`].

use std::sync::Arc;

use bytes::Bytes;
use half::{bf16, f16};
use prost::Message;

use super::Extent;
use super::external::ExternalFiles;
use super::proto::TensorProto;
use crate::model::Storage;
use crate::tensor::checked_len;
use crate::{DType, Data, Error, Result, StoredTensor, Tensor};

/// Reads a serialised `TensorProto`, as ONNX's test data and many tools write them (`.pb`).
///
/// # Errors
/// Where the bytes are not one, or name external data.
pub fn read_tensor(bytes: Bytes) -> Result<Tensor> {
    let proto =
        TensorProto::decode(bytes).map_err(|e| Error::input(format!("is not a TensorProto ({e})")))?;
    if proto.data_location == Some(1) {
        return Err(Error::input("the tensor's data lies in another file"));
    }
    stored(&proto, proto.name.clone().unwrap_or_default(), &mut ExternalFiles::default())?.0.load()
}

/// Reads a tensor message; the elements stay in the file where they are raw.
pub(super) fn stored(
    proto: &TensorProto,
    path: String,
    external: &mut ExternalFiles,
) -> Result<(StoredTensor, Option<Extent>)> {
    let dtype = proto
        .data_type
        .and_then(DType::from_onnx)
        .ok_or_else(|| Error::unsupported(format!("element type {:?} is not known", proto.data_type)))?;
    let shape = proto
        .dims
        .iter()
        .map(|&d| usize::try_from(d).map_err(|_| Error::input(format!("dimension {d} is negative"))))
        .collect::<Result<Vec<_>>>()?;
    let len = checked_len(&shape).ok_or_else(|| Error::input(format!("shape {shape:?} is too large")))?;
    let mut extent = None;
    let storage = if proto.data_location == Some(1) {
        let expected = dtype
            .bytes_for(len)
            .ok_or_else(|| Error::input(format!("external data of type {dtype} and shape {shape:?}")))?;
        let (file, range) = external.range(&proto.external_data, expected)?;
        extent = Some((file, range.clone()));
        Storage::Bytes(external.files()[file].bytes.slice(range))
    } else if let Some(raw) = &proto.raw_data {
        if dtype.bytes_for(len) != Some(raw.len()) {
            return Err(Error::input(format!(
                "{} bytes of raw data, expected {:?} for {dtype} of shape {shape:?}",
                raw.len(),
                dtype.bytes_for(len)
            )));
        }
        Storage::Bytes(raw.clone())
    } else {
        Storage::Data(Arc::new(typed(proto, dtype, len)?))
    };
    Ok((StoredTensor { path, dtype, shape, storage }, extent))
}

/// The elements of the typed fields.
fn typed(proto: &TensorProto, dtype: DType, len: usize) -> Result<Data> {
    let ints = &proto.int32_data;
    let data = match dtype {
        DType::F32 => Data::F32(proto.float_data.clone()),
        DType::F64 => Data::F64(proto.double_data.clone()),
        DType::I64 => Data::I64(proto.int64_data.clone()),
        DType::U64 => Data::U64(proto.uint64_data.clone()),
        DType::U32 => Data::U32(proto.uint64_data.iter().map(|&v| v as u32).collect()),
        DType::I32 => Data::I32(ints.clone()),
        DType::I16 => Data::I16(ints.iter().map(|&v| v as i16).collect()),
        DType::I8 => Data::I8(ints.iter().map(|&v| v as i8).collect()),
        DType::U16 => Data::U16(ints.iter().map(|&v| v as u16).collect()),
        DType::U8 => Data::U8(ints.iter().map(|&v| v as u8).collect()),
        DType::Bool => Data::Bool(ints.iter().map(|&v| v != 0).collect()),
        DType::F16 => Data::F16(ints.iter().map(|&v| f16::from_bits(v as u16)).collect()),
        DType::BF16 => Data::BF16(ints.iter().map(|&v| bf16::from_bits(v as u16)).collect()),
        DType::String => Data::String(
            proto
                .string_data
                .iter()
                .map(|s| String::from_utf8(s.to_vec()).map_err(|_| Error::input("a string is not UTF-8")))
                .collect::<Result<_>>()?,
        ),
        DType::C64 => Data::Raw(dtype, proto.float_data.iter().flat_map(|v| v.to_le_bytes()).collect()),
        DType::C128 => Data::Raw(dtype, proto.double_data.iter().flat_map(|v| v.to_le_bytes()).collect()),
        // 8-bit floats one a value; narrower types hold one packed byte a value.
        _ => Data::Raw(dtype, ints.iter().map(|&v| v as u8).collect()),
    };
    let expected = match data {
        Data::Raw(..) => dtype.bytes_for(len),
        _ => Some(len),
    };
    if expected != Some(data.len()) {
        return Err(Error::input(format!(
            "{} elements in the typed fields, expected {len} of type {dtype}",
            data.len()
        )));
    }
    Ok(data)
}
