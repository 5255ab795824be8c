//! `TensorProto` to [`StoredTensor`].

use std::sync::Arc;

use bytes::Bytes;

use super::Extent;
use super::elements::typed;
use super::external::ExternalFiles;
use super::proto::{TensorProto, decode};
use crate::model::Storage;
use crate::tensor::checked_len;
use crate::{DType, Error, Result, StoredTensor, Tensor};

/// Reads a serialised `TensorProto`, as ONNX's test data and many tools write them (`.pb`).
///
/// # Errors
/// Where the bytes are not one, or name external data.
pub fn read_tensor(bytes: Bytes) -> Result<Tensor> {
    let (name, stored) = (tensor_name(&bytes)?, &mut ExternalFiles::default());
    self::stored(&bytes, name, stored)?.0.load()
}

/// The name in a tensor message.
pub(super) fn tensor_name(message: &Bytes) -> Result<String> {
    Ok(decode::<TensorProto>(message)?.name.unwrap_or_default())
}

/// Reads a tensor message; the elements stay in the file where they are raw.
pub(super) fn stored(
    message: &Bytes,
    path: String,
    external: &mut ExternalFiles,
) -> Result<(StoredTensor, Option<Extent>)> {
    let proto: TensorProto = decode(message)?;
    let dtype = dtype(proto.data_type)?;
    let shape = shape(&proto.dims)?;
    let len = checked_len(&shape).ok_or_else(|| Error::input(format!("shape {shape:?} is too large")))?;
    if !proto.segment.is_empty() {
        return Err(Error::unsupported("the tensor is one segment of a larger one"));
    }
    let bytes_expected = || {
        dtype.bytes_for(len).ok_or_else(|| {
            Error::input(format!(
                "elements of type {dtype} and shape {shape:?} cannot be stored as raw bytes"
            ))
        })
    };
    let mut extent = None;
    let storage = if proto.data_location == Some(1) {
        let (file, range) = external.range(&proto.external_data, bytes_expected()?)?;
        extent = Some((file, range.clone()));
        Storage::Bytes(external.files()[file].bytes.slice(range))
    } else if let Some(raw) = proto.raw_data {
        let expected = bytes_expected()?;
        if raw.len() != expected {
            return Err(Error::input(format!(
                "expected {expected} bytes of raw data for {dtype} of shape {shape:?}, found {}",
                raw.len()
            )));
        }
        Storage::Bytes(raw)
    } else {
        typed(message, dtype, len)?
    };
    Ok((StoredTensor { path, dtype, shape, storage }, extent))
}

fn dtype(number: Option<i32>) -> Result<DType> {
    match number {
        None | Some(0) => Err(Error::input("the tensor has no element type (`data_type`)")),
        Some(number) => DType::from_onnx(number)
            .ok_or_else(|| Error::unsupported(format!("element type {number} is newer than what is known"))),
    }
}

/// Axes a shape may have; graphs that share a value each hold its shape.
pub(super) const MAX_RANK: usize = 255;

/// A shape from signed dimensions.
pub(super) fn shape(dims: &[i64]) -> Result<Vec<usize>> {
    if dims.len() > MAX_RANK {
        return Err(Error::unsupported(format!(
            "a tensor of {} axes; up to {MAX_RANK} are read",
            dims.len()
        )));
    }
    dims.iter()
        .map(|&d| {
            usize::try_from(d).map_err(|_| Error::input(format!("dimension {d} of the tensor is negative")))
        })
        .collect()
}

/// A tensor that exists already.
pub(super) fn in_memory(path: String, tensor: &Tensor) -> StoredTensor {
    StoredTensor {
        path,
        dtype: tensor.dtype(),
        shape: tensor.shape().to_vec(),
        storage: Storage::Data(Arc::new(tensor.data().clone())),
    }
}
