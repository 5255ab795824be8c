//! Elements as cells of their storage's width: what only moves whole elements is written and
//! compiled once a width and works on every element type, packed types and strings included.

use std::borrow::Cow;

pub(super) use super::len_of;
use crate::tensor::checked_len;
use crate::{DType, Data, Error, Result, Tensor};

/// The content of one element: an unsigned integer of its width, or a string. Narrow types (4 and
/// 2 bits) are unpacked to one byte a cell. The default is the bit pattern zero.
pub(super) trait Cell: Clone + Default + PartialEq + Send + Sync + 'static {
    /// The tensor's elements as cells.
    ///
    /// # Errors
    /// Where the elements are of another width.
    fn open(tensor: &Tensor) -> Result<Cow<'_, [Self]>>;

    /// A tensor of a type from its elements' cells.
    ///
    /// # Errors
    /// Where the type is of another width, or the cells do not fill the shape.
    fn close(dtype: DType, shape: Vec<usize>, cells: Vec<Self>) -> Result<Tensor>;

    /// The single element of a tensor as a cell.
    ///
    /// # Errors
    /// Where the tensor holds another number of elements.
    fn single(tensor: &Tensor) -> Result<Self> {
        match &*Self::open(tensor)? {
            [cell] => Ok(cell.clone()),
            cells => Err(Error::input(format!("expected a single element, found {}", cells.len()))),
        }
    }
}

/// Runs an expression with `$cell` bound to the [`Cell`] type of a [`DType`]. Cells are cloned in it,
/// since strings are not `Copy`.
macro_rules! with_cell {
    ($dtype:expr, $cell:ident => $body:expr) => {
        match $dtype.bits() {
            #[allow(clippy::clone_on_copy)]
            0 => {
                type $cell = String;
                $body
            }
            #[allow(clippy::clone_on_copy)]
            16 => {
                type $cell = u16;
                $body
            }
            #[allow(clippy::clone_on_copy)]
            32 => {
                type $cell = u32;
                $body
            }
            #[allow(clippy::clone_on_copy)]
            64 => {
                type $cell = u64;
                $body
            }
            #[allow(clippy::clone_on_copy)]
            128 => {
                type $cell = u128;
                $body
            }
            #[allow(clippy::clone_on_copy)]
            _ => {
                type $cell = u8;
                $body
            }
        }
    };
}
pub(super) use with_cell;

fn mismatch(found: DType) -> Error {
    Error::input(format!("elements of type {found} do not match the others' type"))
}

macro_rules! word_cell {
    ($cell:ty: $($variant:ident)*; raw $raw:expr, $pack:expr) => {
        impl Cell for $cell {
            fn open(tensor: &Tensor) -> Result<Cow<'_, [Self]>> {
                Ok(match tensor.data() {
                    $(Data::$variant(v) => Cow::Borrowed(bytemuck::cast_slice(v)),)*
                    Data::Raw(dtype, bytes) if dtype.bits() == <$cell>::BITS as usize => {
                        let unpack: fn(&[u8]) -> Vec<Self> = $raw;
                        Cow::Owned(unpack(bytes))
                    }
                    data => return Err(mismatch(data.dtype())),
                })
            }

            fn close(dtype: DType, shape: Vec<usize>, cells: Vec<Self>) -> Result<Tensor> {
                let data = match dtype {
                    $(DType::$variant => Data::$variant(bytemuck::allocation::cast_vec(cells)),)*
                    _ if dtype.bits() == <$cell>::BITS as usize => {
                        let pack: fn(Vec<Self>) -> Vec<u8> = $pack;
                        Data::Raw(dtype, pack(cells))
                    }
                    _ => return Err(mismatch(dtype)),
                };
                Tensor::from_data(shape, data)
            }
        }
    };
}

/// Words from bytes and back, in the machine's order: the cells are only moved.
fn words<const N: usize, T>(bytes: &[u8], from: fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|&chunk| from(chunk)).collect()
}

word_cell!(u16: U16 I16 F16 BF16; raw |b| words(b, u16::from_ne_bytes), |c| bytemuck::cast_slice(&c).to_vec());
word_cell!(u32: U32 I32 F32; raw |b| words(b, u32::from_ne_bytes), |c| bytemuck::cast_slice(&c).to_vec());
word_cell!(u64: U64 I64 F64; raw |b| words(b, u64::from_ne_bytes), |c| bytemuck::cast_slice(&c).to_vec());
word_cell!(u128: ; raw |b| words(b, u128::from_ne_bytes), |c| bytemuck::cast_slice(&c).to_vec());

impl Cell for u8 {
    fn open(tensor: &Tensor) -> Result<Cow<'_, [Self]>> {
        Ok(match tensor.data() {
            Data::U8(v) => Cow::Borrowed(v),
            Data::I8(v) => Cow::Borrowed(bytemuck::cast_slice(v)),
            Data::Bool(v) => Cow::Borrowed(bytemuck::cast_slice(v)),
            Data::Raw(dtype, bytes) if dtype.bits() == 8 => Cow::Borrowed(bytes),
            Data::Raw(dtype, bytes) if dtype.bits() < 8 => {
                Cow::Owned(unpack(bytes, dtype.bits(), tensor.len()))
            }
            data => return Err(mismatch(data.dtype())),
        })
    }

    fn close(dtype: DType, shape: Vec<usize>, cells: Vec<Self>) -> Result<Tensor> {
        let data = match dtype {
            DType::U8 => Data::U8(cells),
            DType::I8 => Data::I8(bytemuck::allocation::cast_vec(cells)),
            DType::Bool => Data::Bool(cells.into_iter().map(|b| b != 0).collect()),
            _ if dtype.bits() == 8 => Data::Raw(dtype, cells),
            _ if (1..8).contains(&dtype.bits()) => {
                if checked_len(&shape) != Some(cells.len()) {
                    return Err(Error::internal(format!("{} cells do not fill {shape:?}", cells.len())));
                }
                Data::Raw(dtype, pack(&cells, dtype.bits()))
            }
            _ => return Err(mismatch(dtype)),
        };
        Tensor::from_data(shape, data)
    }
}

impl Cell for String {
    fn open(tensor: &Tensor) -> Result<Cow<'_, [Self]>> {
        match tensor.data() {
            Data::String(v) => Ok(Cow::Borrowed(v)),
            data => Err(mismatch(data.dtype())),
        }
    }

    fn close(dtype: DType, shape: Vec<usize>, cells: Vec<Self>) -> Result<Tensor> {
        if dtype != DType::String {
            return Err(mismatch(dtype));
        }
        Tensor::new(shape, cells)
    }
}

/// Narrow elements one a byte; the first stands in the lowest bits.
pub(super) fn unpack(bytes: &[u8], bits: usize, len: usize) -> Vec<u8> {
    let mask = (1u8 << bits) - 1;
    let each = 8 / bits;
    (0..len).map(|i| bytes[i / each] >> (i % each * bits) & mask).collect()
}

/// The inverse of [`unpack`]; unused bits of the last byte are zero.
pub(super) fn pack(cells: &[u8], bits: usize) -> Vec<u8> {
    let mask = (1u8 << bits) - 1;
    cells
        .chunks(8 / bits)
        .map(|chunk| chunk.iter().rev().fold(0, |byte, &cell| (byte << bits) | (cell & mask)))
        .collect()
}

/// An empty vector with room for `len` elements.
///
/// # Errors
/// Where there is not so much memory: a file can ask for any extent.
pub(super) fn room<T>(len: usize) -> Result<Vec<T>> {
    let mut out = Vec::new();
    out.try_reserve_exact(len)
        .map_err(|_| Error::input(format!("no memory for an output of {len} elements")))?;
    Ok(out)
}

/// A vector of `len` copies of a value.
///
/// # Errors
/// Where there is not so much memory.
pub(super) fn filled<T: Clone>(len: usize, value: T) -> Result<Vec<T>> {
    // Reserving first finds out whether there is room; `vec!` gets zeros from the allocator for free.
    drop(room::<T>(len)?);
    Ok(vec![value; len])
}

/// The output of an operator where its shape has no elements, however large its other extents are.
///
/// # Errors
/// Where the type has no elements to compute with.
pub(super) fn empty(dtype: DType, shape: Vec<usize>) -> Result<Vec<Tensor>> {
    with_cell!(dtype, C => Ok(vec![C::close(dtype, shape, Vec::<C>::new())?]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_elements_round_trip() {
        let cells = [1u8, 15, 7, 0, 9];
        assert_eq!(pack(&cells, 4), [0xf1, 0x07, 0x09]);
        assert_eq!(unpack(&pack(&cells, 4), 4, 5), cells);
        let cells = [3u8, 0, 1, 2, 3];
        assert_eq!(pack(&cells, 2), [0b1001_0011, 0b11]);
        assert_eq!(unpack(&pack(&cells, 2), 2, 5), cells);
    }

    #[test]
    fn every_type_opens_and_closes_as_it_was() {
        for &dtype in DType::ALL {
            let tensor = if dtype == DType::String {
                Tensor::new([3], vec!["a".to_string(), String::new(), "c".to_string()]).unwrap()
            } else {
                let bytes: Vec<u8> = match dtype {
                    DType::Bool => vec![1, 0, 1],
                    _ => (1..=dtype.bytes_for(3).unwrap() as u8).map(|b| b & 0x3f).collect(),
                };
                Tensor::from_data([3], crate::model::decode(dtype, &[3], &bytes).unwrap()).unwrap()
            };
            let again = with_cell!(dtype, C => {
                let cells = C::open(&tensor).unwrap().into_owned();
                assert_eq!(cells.len(), 3, "{dtype}");
                C::close(dtype, vec![3], cells).unwrap()
            });
            // The unused high bits of a packed last byte are not part of any element.
            if dtype.bits() != 4 && dtype.bits() != 2 {
                assert_eq!(again, tensor, "{dtype}");
            }
        }
        assert!(u32::open(&Tensor::scalar(1i64)).is_err());
    }

    #[test]
    fn too_large_an_output_is_an_error() {
        assert!(room::<u32>(usize::MAX / 2).is_err());
        assert!(len_of(&[usize::MAX, 2]).is_err());
    }
}
