//! The parts that a file stores a packed tensor in.

use bytes::Bytes;

use super::{Bitmask, GroupLayout, Groups, Layout, Packed, Positions, Scales, Spec};
use crate::model::{Storage, encode};
use crate::{DType, Error, Result, ResultExt, StoredTensor};

/// A part of a packed tensor, a tensor of its own in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The values, in the order of the positions.
    Compressed,
    /// u8: the bits of [`Bitmask`], [rows, ceil(cols / 8)].
    Bitmask,
    /// u8: the indices of [`Groups`].
    Indices,
    /// i64: n, m and the axis of [`Groups`].
    Pattern,
    /// f32: the factors of int8 values, broadcast over the tensor.
    Scales,
    /// i64: the shape of the dense tensor.
    Shape,
    /// i64: where the values of each row of the bitmask begin.
    RowOffsets,
}

impl Part {
    /// All parts.
    pub const ALL: [Part; 7] = [
        Part::Compressed,
        Part::Bitmask,
        Part::Indices,
        Part::Pattern,
        Part::Scales,
        Part::Shape,
        Part::RowOffsets,
    ];

    /// The name, the ending of the part's path.
    pub fn name(self) -> &'static str {
        match self {
            Part::Compressed => "compressed",
            Part::Bitmask => "bitmask",
            Part::Indices => "indices",
            Part::Pattern => "pattern",
            Part::Scales => "scales",
            Part::Shape => "shape",
            Part::RowOffsets => "row_offsets",
        }
    }
}

impl Spec {
    /// The parts with their types and shapes.
    pub fn parts(&self) -> Vec<(Part, DType, Vec<usize>)> {
        let mut parts = vec![(Part::Compressed, self.value_type, vec![self.stored])];
        match self.layout {
            Layout::Bitmask { cols } => {
                parts.push((Part::Bitmask, DType::U8, vec![self.rows(), cols.div_ceil(8)]));
                parts.push((Part::RowOffsets, DType::I64, vec![self.rows()]));
            }
            Layout::Groups(_) => {
                parts.push((Part::Indices, DType::U8, vec![self.position_bytes()]));
                parts.push((Part::Pattern, DType::I64, vec![3]));
            }
        }
        parts.extend(self.scales.clone().map(|shape| (Part::Scales, DType::F32, shape)));
        parts.push((Part::Shape, DType::I64, vec![self.shape.len()]));
        parts
    }

    /// The bytes of the parts that follow from the spec alone: the shape and the pattern.
    pub fn numbers(&self, part: Part) -> Option<Bytes> {
        match (part, self.layout) {
            (Part::Shape, _) => Some(bytes_of(&self.shape)),
            (Part::Pattern, Layout::Groups(GroupLayout { n, m, axis })) => Some(bytes_of(&[n, m, axis])),
            _ => None,
        }
    }
}

/// Numbers as little-endian i64.
fn bytes_of(numbers: &[usize]) -> Bytes {
    numbers.iter().flat_map(|&n| (n as i64).to_le_bytes()).collect::<Vec<u8>>().into()
}

impl Packed {
    /// The bytes of a part; empty where there is none.
    pub fn part(&self, part: Part) -> Bytes {
        match (part, self.positions()) {
            (Part::Compressed, _) => self.values().clone(),
            (Part::Bitmask, Positions::Bitmask(mask)) => mask.bits().clone(),
            (Part::RowOffsets, Positions::Bitmask(mask)) => bytes_of(&mask.row_offsets()[..mask.rows()]),
            (Part::Indices, Positions::Groups(groups)) => groups.bits().clone(),
            (Part::Scales, _) => {
                let factors = self.scales().map(Scales::values).unwrap_or_default();
                factors.iter().flat_map(|s| s.to_le_bytes()).collect::<Vec<u8>>().into()
            }
            _ => self.spec().numbers(part).unwrap_or_default(),
        }
    }

    /// A packed tensor from the parts that a file holds, `find` giving each; `dtype` is the dense tensor's, that
    /// of the values where the file does not say another.
    ///
    /// # Errors
    /// `Input` where a part is missing, of another type, or does not fit the others: as [`Packed::new`]; where
    /// there are parts of both layouts; where the offsets of rows are not what the bitmask counts.
    pub fn of_parts<'a>(
        dtype: Option<DType>,
        find: &dyn Fn(Part) -> Option<&'a StoredTensor>,
    ) -> Result<Packed> {
        let need = |part: Part| {
            find(part).ok_or_else(|| Error::input(format!("its part `{}` is missing", part.name())))
        };
        let other: &[Part] = match find(Part::Indices) {
            Some(_) => &[Part::Bitmask, Part::RowOffsets],
            None => &[Part::Pattern],
        };
        if let Some(part) = other.iter().find(|&&part| find(part).is_some()) {
            let message = format!("`{}` is no part of it: its places are said in another way", part.name());
            return Err(Error::input(message));
        }
        let compressed = need(Part::Compressed)?;
        let shape = numbers(need(Part::Shape)?)?;
        let positions = match find(Part::Indices) {
            Some(indices) => {
                let pattern = numbers(need(Part::Pattern)?)?;
                let [n, m, axis] = pattern[..] else {
                    return Err(Error::input(format!("the pattern {pattern:?} is not n, m and the axis")));
                };
                let bits = raw(indices, DType::U8)?;
                Positions::Groups(Groups::new(GroupLayout { n, m, axis }, &shape, bits)?)
            }
            None => {
                let stored = need(Part::Bitmask)?;
                let mask = bitmask(stored, &shape)?;
                if let Some(offsets) = find(Part::RowOffsets) {
                    check_offsets(&mask, offsets)?;
                }
                Positions::Bitmask(mask)
            }
        };
        let scales = match find(Part::Scales) {
            Some(stored) => {
                let values = raw(stored, DType::F32)?;
                let values = values.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
                Some(Scales::new(stored.shape.clone(), values)?)
            }
            None => None,
        };
        let value_type = compressed.dtype;
        let values = raw(compressed, value_type)?;
        Packed::new(dtype.unwrap_or(value_type), shape, positions, value_type, values, scales)
    }
}

/// The bitmask of a tensor: its last axis is the bytes of a row.
fn bitmask(stored: &StoredTensor, shape: &[usize]) -> Result<Bitmask> {
    let bits = raw(stored, DType::U8)?;
    let width = stored.shape.last().copied().unwrap_or(0);
    let len = crate::tensor::checked_len(shape).unwrap_or(0);
    let rows = bits.len().checked_div(width).unwrap_or(0);
    let cols = len.checked_div(rows).unwrap_or(0);
    if cols == 0 || cols.div_ceil(8) != width || rows.checked_mul(cols) != Some(len) {
        let message = format!("a bitmask of shape {:?} does not belong to the shape {shape:?}", stored.shape);
        return Err(Error::input(message));
    }
    Bitmask::new(cols, bits)
}

/// Checks the offsets of rows. Those of a tensor of more than two axes may stand in its leading axes, summed
/// along the first of them only, as compressed-tensors writes them.
fn check_offsets(mask: &Bitmask, stored: &StoredTensor) -> Result<()> {
    let given = numbers_of(stored)?;
    let step: usize = stored.shape.iter().skip(1).product();
    let starts = mask.row_offsets();
    let count = |row: usize| starts[row + 1] - starts[row];
    let mut expected = vec![0; mask.rows()];
    for row in step..mask.rows() {
        expected[row] = expected[row - step] + count(row - step);
    }
    match given == expected {
        true => Ok(()),
        false => Err(Error::input("the offsets of rows are not what the bitmask counts")),
    }
}

/// A short list of numbers that are not negative, such as a shape.
fn numbers(stored: &StoredTensor) -> Result<Vec<usize>> {
    const LONGEST: usize = 255;
    if stored.len() > LONGEST {
        return Err(Error::input(format!("{} numbers where a shape or pattern is expected", stored.len())));
    }
    numbers_of(stored)
}

fn numbers_of(stored: &StoredTensor) -> Result<Vec<usize>> {
    let bytes = raw(stored, DType::I64)?;
    let number = |&b: &[u8; 8]| {
        let value = i64::from_le_bytes(b);
        usize::try_from(value)
            .map_err(|_| Error::input(format!("{value} is negative")).at_tensor(&stored.path))
    };
    bytes.as_chunks::<8>().0.iter().map(number).collect()
}

/// The bytes of a part of a type.
fn raw(stored: &StoredTensor, dtype: DType) -> Result<Bytes> {
    if stored.dtype != dtype {
        let message = format!("expected elements of type {dtype}, found {}", stored.dtype);
        return Err(Error::input(message).at_tensor(&stored.path));
    }
    match &stored.storage {
        Storage::Bytes(bytes) => Ok(bytes.clone()),
        _ => Ok(encode(stored.load()?.data()).at_tensor(&stored.path)?.into()),
    }
}
