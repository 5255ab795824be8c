//! `TensorProto` to [`StoredTensor`].

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use half::{bf16, f16};
use prost::Message;

use super::proto::TensorProto;
use crate::io::mmap;
use crate::model::Storage;
use crate::tensor::checked_len;
use crate::{DType, Data, Error, Result, StoredTensor, Tensor};

/// External data files, mapped once each.
#[derive(Default)]
pub(super) struct ExternalFiles {
    open: Vec<(String, Bytes)>,
}

impl ExternalFiles {
    fn get(&mut self, folder: &Path, location: &str) -> Result<Bytes> {
        if let Some((_, bytes)) = self.open.iter().find(|(l, _)| l == location) {
            return Ok(bytes.clone());
        }
        let relative = Path::new(location);
        let inside = !location.is_empty()
            && relative
                .components()
                .all(|c| matches!(c, std::path::Component::Normal(_) | std::path::Component::CurDir));
        if !inside {
            return Err(Error::input(format!(
                "external data at `{location}`: expected a path inside the model's folder"
            )));
        }
        let path = folder.join(relative);
        let (root, real) = (folder.canonicalize(), path.canonicalize());
        let real = real.map_err(|e| Error::io(&path, e))?;
        if !root.is_ok_and(|root| real.starts_with(root)) {
            return Err(Error::input(format!(
                "external data at `{location}` leads outside the model's folder"
            )));
        }
        let bytes = mmap::map_file(&real)?;
        self.open.push((location.to_string(), bytes.clone()));
        Ok(bytes)
    }
}

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
    stored(&proto, proto.name.clone().unwrap_or_default(), Path::new("."), &mut ExternalFiles::default())?
        .load()
}

/// Reads a tensor message; the elements stay in the file where they are raw.
pub(super) fn stored(
    proto: &TensorProto,
    path: String,
    folder: &Path,
    external: &mut ExternalFiles,
) -> Result<StoredTensor> {
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
    let storage = if proto.data_location == Some(1) {
        let field = |key: &str| {
            proto
                .external_data
                .iter()
                .find(|e| e.key.as_deref() == Some(key))
                .and_then(|e| e.value.as_deref())
        };
        let number = |key: &str| -> Result<Option<usize>> {
            field(key)
                .map(|v| {
                    v.parse().map_err(|_| Error::input(format!("external data: {key} `{v}` is not a number")))
                })
                .transpose()
        };
        let location = field("location").ok_or_else(|| Error::input("external data without a location"))?;
        let file = external.get(folder, location)?;
        let expected = dtype
            .bytes_for(len)
            .ok_or_else(|| Error::input(format!("external data of type {dtype} and shape {shape:?}")))?;
        let offset = number("offset")?.unwrap_or(0);
        let length = number("length")?.unwrap_or(expected);
        if length != expected {
            return Err(Error::input(format!(
                "external data: length {length}, expected {expected} bytes for {dtype} of shape {shape:?}"
            )));
        }
        let end = offset.checked_add(length).filter(|&end| end <= file.len()).ok_or_else(|| {
            Error::input(format!(
                "external data: bytes {offset}..+{length} are outside `{location}` of {} bytes",
                file.len()
            ))
        })?;
        Storage::Bytes(file.slice(offset..end))
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
    Ok(StoredTensor { path, dtype, shape, storage })
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
