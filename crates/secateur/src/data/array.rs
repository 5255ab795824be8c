//! Arrays as data files hold them.

use bytes::Bytes;
use secateur_model::tensor::checked_len;
use secateur_model::{DType, Error, Result, Tensor, model};

/// An array of numbers: row-major, little-endian, mapped from a file or in memory.
#[derive(Clone, Debug)]
pub struct Array {
    dtype: DType,
    shape: Vec<usize>,
    bytes: Bytes,
}

impl Array {
    /// An array over its bytes (row-major, little-endian).
    ///
    /// # Errors
    /// Where the bytes do not fill the shape: truncated files, and headers that claim too much.
    pub fn new(dtype: DType, shape: Vec<usize>, bytes: Bytes) -> Result<Self> {
        let expected = byte_len(dtype, &shape)?;
        if bytes.len() != expected {
            return Err(Error::input(format!(
                "{dtype} of shape {shape:?} takes {expected} bytes, found {}: truncated, or damaged?",
                bytes.len()
            )));
        }
        Ok(Array { dtype, shape, bytes })
    }

    /// Element type, shape and bytes.
    pub fn into_parts(self) -> (DType, Vec<usize>, Bytes) {
        (self.dtype, self.shape, self.bytes)
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements: row-major, little-endian.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The whole array as a tensor.
    ///
    /// # Errors
    /// Never for arrays that were read.
    pub fn to_tensor(&self) -> Result<Tensor> {
        Tensor::from_data(self.shape.clone(), model::decode(self.dtype, &self.shape, &self.bytes)?)
    }

    /// The number of rows along the first axis; 1 for a scalar.
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// The shape of one row.
    pub fn row_shape(&self) -> &[usize] {
        self.shape.get(1..).unwrap_or_default()
    }

    /// The bytes of row `index`.
    ///
    /// # Errors
    /// Where there is no such row.
    pub fn row_bytes(&self, index: usize) -> Result<&[u8]> {
        let rows = self.rows();
        if index >= rows {
            return Err(Error::internal(format!("row {index} of {rows}")));
        }
        let len = self.bytes.len() / rows;
        Ok(&self.bytes[index * len..(index + 1) * len])
    }

    /// Row `index` as a tensor.
    ///
    /// # Errors
    /// Where there is no such row.
    pub fn row(&self, index: usize) -> Result<Tensor> {
        let shape = self.row_shape();
        Tensor::from_data(shape, model::decode(self.dtype, shape, self.row_bytes(index)?)?)
    }
}

/// The size of an array in bytes.
pub(super) fn byte_len(dtype: DType, shape: &[usize]) -> Result<usize> {
    checked_len(shape)
        .and_then(|n| dtype.bytes_for(n))
        .ok_or_else(|| Error::input(format!("{dtype} of shape {shape:?} does not fit into memory")))
}

/// Elements of `width` bytes with their bytes reversed: from big-endian to little-endian.
pub(super) fn swap_bytes(bytes: Bytes, width: usize) -> Bytes {
    if width == 1 {
        return bytes;
    }
    let mut swapped = bytes.to_vec();
    swapped.chunks_exact_mut(width).for_each(<[u8]>::reverse);
    swapped.into()
}

/// The elements of a column-major array of `width`-byte elements, row-major.
pub(super) fn to_row_major(bytes: &[u8], shape: &[usize], width: usize) -> Bytes {
    if bytes.is_empty() {
        return Bytes::new(); // the other extents may be anything
    }
    // Walks the destination in order; the source position moves by the column-major stride of the
    // axis that is counted up.
    let mut strides = Vec::with_capacity(shape.len());
    let mut stride = width;
    for &d in shape {
        strides.push(stride);
        stride *= d;
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = vec![0; shape.len()];
    let mut at = 0;
    for _ in 0..bytes.len() / width {
        out.extend_from_slice(&bytes[at..at + width]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            at -= strides[axis] * shape[axis];
            index[axis] = 0;
        }
    }
    out.into()
}
