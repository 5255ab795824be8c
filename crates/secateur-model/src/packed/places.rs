//! Where the values of a packed tensor stand.

use bytes::Bytes;

use super::Layout;
use crate::{Error, Result};

/// The places of the stored values in a dense tensor.
#[derive(Clone, Debug)]
pub enum Positions {
    /// A bit for each element.
    Bitmask(Bitmask),
    /// N values for each M elements, with their indices.
    Groups(Groups),
}

/// A bit for each element, row by row: bit `i % 8`, the lowest first, of byte `i / 8` of a row says whether
/// element `i` of the row is stored. Each row begins with a byte of its own; the bits behind its end are 0.
#[derive(Clone, Debug)]
pub struct Bitmask {
    cols: usize,
    bits: Bytes,
    row_offsets: Vec<usize>,
}

/// N:M: the axis of extent A is divided into groups of `m` elements, of which `n` are stored. Of the tensor,
/// seen as [outer, A, inner], group g = (o · inner + i) · A/m + j holds the elements (o, j·m + index, i) for its
/// `n` ascending indices. The indices of all groups follow each other as numbers of ceil(log2 m) bits, the
/// lowest first.
#[derive(Clone, Debug)]
pub struct Groups {
    layout: GroupLayout,
    groups: usize,
    extent: usize,
    inner: usize,
    indices: Bytes,
}

/// N:M along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupLayout {
    /// Values stored of each group.
    pub n: usize,
    /// Elements of a group, 2 to 32.
    pub m: usize,
    /// The axis along which the elements of a group stand.
    pub axis: usize,
}

impl GroupLayout {
    /// The largest group: what a file's size says of the dense tensor's is bounded by it.
    pub const LARGEST: usize = 32;

    /// Bits of an index: ceil(log2 m).
    pub fn index_bits(self) -> usize {
        self.m.next_power_of_two().trailing_zeros() as usize
    }
}

impl Bitmask {
    /// A mask of rows of `cols` elements.
    ///
    /// # Errors
    /// `Input` where the bytes are no whole rows, or bits are set behind the end of a row.
    pub fn new(cols: usize, bits: Bytes) -> Result<Self> {
        let width = cols.div_ceil(8);
        if cols == 0 || !bits.len().is_multiple_of(width) {
            let message = format!("the bitmask's {} bytes are no rows of {cols} elements", bits.len());
            return Err(Error::input(message));
        }
        let beyond = match cols % 8 {
            0 => 0,
            used => u8::MAX << used,
        };
        let mut row_offsets = Vec::with_capacity(bits.len() / width + 1);
        let mut sum = 0;
        row_offsets.push(0);
        for (row, bytes) in bits.chunks_exact(width).enumerate() {
            if bytes[width - 1] & beyond != 0 {
                let message = format!("row {row} of the bitmask has bits behind its {cols} elements");
                return Err(Error::input(message));
            }
            sum += bytes.iter().map(|b| b.count_ones() as usize).sum::<usize>();
            row_offsets.push(sum);
        }
        Ok(Bitmask { cols, bits, row_offsets })
    }

    /// The elements of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.row_offsets.len() - 1
    }

    /// The bits: ceil(cols / 8) bytes a row.
    pub fn bits(&self) -> &Bytes {
        &self.bits
    }

    /// Where each row's values begin among all values, and behind the last row their number.
    pub fn row_offsets(&self) -> &[usize] {
        &self.row_offsets
    }

    fn for_each(&self, mut each: impl FnMut(usize, usize)) {
        let mut k = 0;
        for (row, bytes) in self.bits.chunks_exact(self.cols.div_ceil(8)).enumerate() {
            for (at, &byte) in bytes.iter().enumerate() {
                let mut rest = byte;
                while rest != 0 {
                    each(k, row * self.cols + at * 8 + rest.trailing_zeros() as usize);
                    k += 1;
                    rest &= rest - 1;
                }
            }
        }
    }
}

impl Groups {
    /// The groups of a tensor of a shape.
    ///
    /// # Errors
    /// `Input` where the layout does not fit the shape, the indices are another number than there are groups
    /// for, or those of a group do not ascend within it.
    pub fn new(layout: GroupLayout, shape: &[usize], indices: Bytes) -> Result<Self> {
        let GroupLayout { n, m, axis } = layout;
        let extent = shape.get(axis).copied().unwrap_or(0);
        if !(2..=GroupLayout::LARGEST).contains(&m)
            || n == 0
            || n > m
            || extent == 0
            || !extent.is_multiple_of(m)
        {
            let message = format!("{n}:{m} along axis {axis} does not divide the shape {shape:?}");
            return Err(Error::input(message));
        }
        let len = crate::tensor::checked_len(shape)
            .ok_or_else(|| Error::input(format!("the shape {shape:?} is too large")))?;
        let found =
            Groups { layout, groups: len / m, extent, inner: shape[axis + 1..].iter().product(), indices };
        let expected = (found.groups * n).checked_mul(layout.index_bits()).map(|bits| bits.div_ceil(8));
        if expected != Some(found.indices.len()) {
            let message =
                format!("{n}:{m} of shape {shape:?} has other than {} bytes of indices", found.indices.len());
            return Err(Error::input(message));
        }
        let mut before = None;
        let mut wrong = None;
        found.indices(|k, index| {
            let first = k.is_multiple_of(n);
            if index >= m || (!first && before.is_some_and(|b| b >= index)) {
                wrong.get_or_insert(k / n);
            }
            before = Some(index);
        });
        match wrong {
            Some(group) => Err(Error::input(format!("the indices of group {group} do not ascend below {m}"))),
            None => Ok(found),
        }
    }

    /// The pattern and its axis.
    pub fn layout(&self) -> GroupLayout {
        self.layout
    }

    /// The number of groups.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// The packed indices.
    pub fn bits(&self) -> &Bytes {
        &self.indices
    }

    /// [outer, inner, A]: the shape in which groups follow each other.
    pub fn order(&self) -> [usize; 3] {
        [self.groups * self.layout.m / (self.inner * self.extent), self.inner, self.extent]
    }

    /// Each index in its group, with its number.
    fn indices(&self, mut each: impl FnMut(usize, usize)) {
        let width = self.layout.index_bits();
        for k in 0..self.groups * self.layout.n {
            let at = k * width;
            // At most 5 bits: they lie in two bytes.
            let low = self.indices[at / 8];
            let high = self.indices.get(at / 8 + 1).copied().unwrap_or(0);
            let bits = u16::from_le_bytes([low, high]) >> (at % 8);
            each(k, usize::from(bits) & ((1 << width) - 1));
        }
    }

    fn for_each(&self, mut each: impl FnMut(usize, usize)) {
        let GroupLayout { n, m, .. } = self.layout;
        let along = self.extent / m;
        self.indices(|k, index| {
            let group = k / n;
            let (lane, j) = (group / along, group % along);
            let (outer, inner) = (lane / self.inner, lane % self.inner);
            each(k, (outer * self.extent + j * m + index) * self.inner + inner);
        });
    }
}

impl Positions {
    /// Calls `each` with the number of every stored value and the element it is, both counted from 0, elements
    /// row-major in the dense tensor.
    pub fn for_each(&self, each: impl FnMut(usize, usize)) {
        match self {
            Positions::Bitmask(mask) => mask.for_each(each),
            Positions::Groups(groups) => groups.for_each(each),
        }
    }

    /// The layout.
    pub fn layout(&self) -> Layout {
        match self {
            Positions::Bitmask(mask) => Layout::Bitmask { cols: mask.cols },
            Positions::Groups(groups) => Layout::Groups(groups.layout),
        }
    }

    /// The number of positions, checked to belong to `len` elements of a shape.
    pub(super) fn check(&self, len: usize, shape: &[usize]) -> Result<usize> {
        match self {
            Positions::Bitmask(mask) => {
                if mask.rows().checked_mul(mask.cols) != Some(len) {
                    let (rows, cols) = (mask.rows(), mask.cols);
                    let message = format!("the bitmask is of {rows} x {cols} elements, the shape {shape:?}");
                    return Err(Error::input(message));
                }
                Ok(mask.row_offsets[mask.rows()])
            }
            Positions::Groups(groups) => {
                if groups.groups * groups.layout.m != len
                    || shape.get(groups.layout.axis) != Some(&groups.extent)
                {
                    return Err(Error::input(format!("the groups are of another shape than {shape:?}")));
                }
                Ok(groups.groups * groups.layout.n)
            }
        }
    }
}
