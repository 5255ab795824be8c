//! What packing a tensor would take, and which layout takes least.

use super::places::GroupLayout;
use super::{Scales, ValueType};
use crate::tensor::checked_len;
use crate::{DType, Result, Tensor};

/// How the places of values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A bit for each element, in rows of `cols`.
    Bitmask {
        /// Elements of a row.
        cols: usize,
    },
    /// N values for each M elements along an axis.
    Groups(GroupLayout),
}

impl Layout {
    /// The bitmask of a shape: a row for each index of the first axis; one row for a vector.
    pub fn bitmask(shape: &[usize]) -> Layout {
        let cols = match shape {
            [n] => *n,
            _ => shape.iter().skip(1).product(),
        };
        Layout::Bitmask { cols }
    }

    /// The name in tables: `bitmask`, `2:4`.
    pub fn name(self) -> String {
        match self {
            Layout::Bitmask { .. } => "bitmask".into(),
            Layout::Groups(GroupLayout { n, m, .. }) => format!("{n}:{m}"),
        }
    }
}

/// A packed tensor without its contents: what the table of a file has to say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The element type of the dense tensor.
    pub dtype: DType,
    /// The shape of the dense tensor.
    pub shape: Vec<usize>,
    /// How places are stored.
    pub layout: Layout,
    /// The type of the stored values.
    pub value_type: DType,
    /// The number of stored values.
    pub stored: usize,
    /// The shape of the scales, where there are any.
    pub scales: Option<Vec<usize>>,
}

impl Spec {
    fn len(&self) -> usize {
        checked_len(&self.shape).unwrap_or(usize::MAX)
    }

    /// Rows of the bitmask.
    pub fn rows(&self) -> usize {
        match self.layout {
            Layout::Bitmask { cols } => self.len() / cols.max(1),
            Layout::Groups(_) => 0,
        }
    }

    /// The bytes that say where values stand: bits and the offsets of rows (8 bytes a row), or indices.
    pub fn position_bytes(&self) -> usize {
        match self.layout {
            Layout::Bitmask { cols } => self.rows() * (cols.div_ceil(8) + 8),
            Layout::Groups(layout) => (self.stored * layout.index_bits()).div_ceil(8),
        }
    }

    /// The bytes that all parts take: positions, values, scales, and the shape (8 bytes an axis).
    pub fn byte_len(&self) -> usize {
        let scales = self.scales.as_ref().map_or(0, |s| s.iter().product::<usize>() * 4);
        let pattern = if matches!(self.layout, Layout::Groups(_)) { 24 } else { 0 };
        let values = self.value_type.bytes_for(self.stored).unwrap_or(usize::MAX);
        self.position_bytes() + values + scales + pattern + 8 * self.shape.len()
    }
}

/// Which layouts may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The smallest.
    Smallest,
    /// The bitmask in rows along the last axis, which compressed-tensors reads.
    Compatible,
}

impl Choice {
    /// The packed form that takes the fewest bytes for a tensor whose values are kept as `value` says. N:M is found
    /// from the zeros: along each axis, for M a power of two, N is the most that any group needs.
    ///
    /// # Errors
    /// Where the tensor is of no plain numbers.
    pub fn spec(self, tensor: &Tensor, value: &ValueType) -> Result<Spec> {
        let shape = tensor.shape();
        let kept = super::pack::kept(tensor)?;
        let spec = |layout, stored| Spec {
            dtype: tensor.dtype(),
            shape: shape.to_vec(),
            layout,
            value_type: value.stored_type(tensor.dtype()),
            stored,
            scales: match *value {
                ValueType::Int8 { axis } if !value.is_exact(tensor.dtype()) => {
                    Some(scales_shape(shape, axis))
                }
                _ => None,
            },
        };
        let stored = kept.iter().filter(|&&k| k).count();
        if self == Choice::Compatible {
            return Ok(spec(Layout::Bitmask { cols: shape.last().copied().unwrap_or(1) }, stored));
        }
        let mut best = spec(Layout::bitmask(shape), stored);
        for axis in 0..shape.len() {
            let inner: usize = shape[axis + 1..].iter().product();
            for m in [2, 4, 8, 16, GroupLayout::LARGEST] {
                if !shape[axis].is_multiple_of(m) {
                    continue;
                }
                let of = |n| {
                    let layout = GroupLayout { n, m, axis };
                    spec(Layout::Groups(layout), kept.len() / m * n)
                };
                let limit = best.byte_len();
                let mut most = 1;
                let fits = of(most).byte_len() < limit
                    && starts(&kept, shape[axis], inner, m).all(|start| {
                        let n = (0..m).filter(|i| kept[start + i * inner]).count();
                        let grows = n > most;
                        most = most.max(n);
                        !grows || of(most).byte_len() < limit
                    });
                if fits {
                    best = of(most);
                }
            }
        }
        Ok(best)
    }
}

/// The first elements of all groups of `m` along an axis, in the order of groups.
pub(super) fn starts(
    kept: &[bool],
    extent: usize,
    inner: usize,
    m: usize,
) -> impl Iterator<Item = usize> + use<> {
    let outer = kept.len() / (extent * inner);
    (0..outer).flat_map(move |o| {
        (0..inner).flat_map(move |i| (0..extent / m).map(move |j| (o * extent + j * m) * inner + i))
    })
}

/// The shape of a scale for each index of one axis, so that it broadcasts over the tensor.
pub(super) fn scales_shape(shape: &[usize], axis: usize) -> Vec<usize> {
    (0..shape.len()).map(|a| if a == axis { shape[a] } else { 1 }).collect()
}

impl Scales {
    /// The axis that has a scale for each of its indices.
    pub(super) fn axis_of(shape: &[usize]) -> usize {
        shape.iter().position(|&extent| extent != 1).unwrap_or(0)
    }
}
