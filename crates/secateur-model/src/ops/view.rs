//! Strided views: transposing, slicing, expanding, tiling and regrouping are all the copy of one.

use super::cells::{Cell, filled, len_of, room, with_cell};
use crate::tensor::strides;
use crate::{Error, Result, Tensor};

/// A way to walk a tensor's elements: the element at index (i₀, i₁, …) stands at
/// offset + Σ iₖ·strideₖ. Strides may be negative or zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Where the first element stands.
    pub offset: usize,
    /// The extents.
    pub shape: Vec<usize>,
    /// From element to element of each axis.
    pub strides: Vec<isize>,
}

impl View {
    /// A tensor as it lies.
    pub(super) fn of(shape: &[usize]) -> Self {
        let strides = strides(shape).into_iter().map(|s| s as isize).collect();
        View { offset: 0, shape: shape.to_vec(), strides }
    }

    /// With axis `perm[k]` as axis k.
    pub(super) fn permuted(&self, perm: &[usize]) -> Self {
        View {
            offset: self.offset,
            shape: perm.iter().map(|&p| self.shape[p]).collect(),
            strides: perm.iter().map(|&p| self.strides[p]).collect(),
        }
    }

    /// With only `len` positions of an axis, from `start` on in steps.
    pub(super) fn sliced(mut self, axis: usize, start: usize, step: i64, len: usize) -> Self {
        self.shape[axis] = len;
        if len > 0 {
            self.offset = self.offset.wrapping_add_signed(start as isize * self.strides[axis]);
        }
        // One position needs no step, which may be as large as it likes.
        self.strides[axis] = if len > 1 { self.strides[axis] * step as isize } else { 0 };
        self
    }

    /// Broadcast to a shape: axes of extent 1 are repeated, missing ones added in front.
    ///
    /// # Errors
    /// Where an axis has neither the extent nor 1.
    pub(super) fn expanded(&self, shape: &[usize]) -> Result<Self> {
        let refuse = || Error::input(format!("shape {:?} does not expand to {shape:?}", self.shape));
        let missing = shape.len().checked_sub(self.shape.len()).ok_or_else(refuse)?;
        let mut strides = vec![0; shape.len()];
        for (axis, (&from, &stride)) in self.shape.iter().zip(&self.strides).enumerate() {
            match (from, shape[missing + axis]) {
                (from, to) if from == to => strides[missing + axis] = stride,
                (1, _) => {}
                _ => return Err(refuse()),
            }
        }
        Ok(View { offset: self.offset, shape: shape.to_vec(), strides })
    }

    /// The same walk with as few axes as possible: none of extent 1, neighbours merged that run on.
    fn merged(&self) -> Self {
        let mut merged = View { offset: self.offset, shape: Vec::new(), strides: Vec::new() };
        for (&extent, &stride) in self.shape.iter().zip(&self.strides) {
            if extent == 1 {
                continue;
            }
            match (merged.shape.last_mut(), merged.strides.last_mut()) {
                (Some(e), Some(s)) if *s == stride * extent as isize => {
                    *e *= extent;
                    *s = stride;
                }
                _ => {
                    merged.shape.push(extent);
                    merged.strides.push(stride);
                }
            }
        }
        merged
    }

    /// The elements walked over, in order.
    ///
    /// # Errors
    /// Where there is no memory for them.
    pub(super) fn copy<C: Cell>(&self, cells: &[C]) -> Result<Vec<C>> {
        let len = len_of(&self.shape)?;
        if len == 0 {
            return Ok(Vec::new());
        }
        let View { offset, mut shape, mut strides } = self.merged();
        let (Some(extent), Some(stride)) = (shape.pop(), strides.pop()) else {
            return Ok(vec![cells[offset].clone()]);
        };
        if let Some(axis) = transposing_axis(&shape, &strides, extent, stride) {
            let (rows, _) = (shape.remove(axis), strides.remove(axis));
            let outer: usize = shape[axis..].iter().product();
            let mut out = filled(len, C::default())?;
            // Where the rows start in the output: the axes outside them, then those between.
            let mut at = 0;
            walk(offset, &shape, &strides, |from| {
                let (before, between) = (at / outer, at % outer);
                let to = (before * rows * outer + between) * extent;
                transpose(&cells[from..], stride as usize, &mut out[to..], outer * extent, rows, extent);
                at += 1;
            });
            return Ok(out);
        }
        let mut out = room(len)?;
        walk(offset, &shape, &strides, |from| match stride {
            1 => out.extend_from_slice(&cells[from..from + extent]),
            0 => out.extend(std::iter::repeat_n(&cells[from], extent).cloned()),
            s if s > 0 => out.extend(cells[from..].iter().step_by(s as usize).take(extent).cloned()),
            s => out.extend(cells[..=from].iter().rev().step_by(s.unsigned_abs()).take(extent).cloned()),
        });
        Ok(out)
    }

    /// Whether the walk is over all of `len` elements as they lie.
    pub(super) fn is_whole(&self, len: usize) -> bool {
        let merged = self.merged();
        match (&merged.shape[..], &merged.strides[..]) {
            ([], _) => len == 1,
            ([extent], [1]) => *extent == len,
            _ => false,
        }
    }

    /// The view of a tensor as a tensor of its own; shares the elements where they lie as walked.
    ///
    /// # Errors
    /// Where there is no memory for it.
    pub(super) fn take(self, tensor: &Tensor) -> Result<Tensor> {
        if self.is_whole(tensor.len()) {
            return tensor.reshaped(self.shape);
        }
        with_cell!(tensor.dtype(), C => {
            let cells = self.copy(&C::open(tensor)?)?;
            C::close(tensor.dtype(), self.shape, cells)
        })
    }
}

/// The outer axis along which the elements lie side by side, where the inner one is strided and
/// copying blocks of both is worth it.
fn transposing_axis(shape: &[usize], strides: &[isize], extent: usize, stride: isize) -> Option<usize> {
    let axis = strides.iter().rposition(|&s| s == 1)?;
    (stride > 1 && extent >= 4 && shape[axis] >= 4).then_some(axis)
}

/// Calls `at` with the offset of every index of the shape, in order.
pub(super) fn walk(offset: usize, shape: &[usize], strides: &[isize], mut at: impl FnMut(usize)) {
    if shape.contains(&0) {
        return;
    }
    let mut index = vec![0; shape.len()];
    let mut place = offset;
    loop {
        at(place);
        let Some(axis) = (0..shape.len()).rev().find(|&axis| {
            index[axis] += 1;
            place = place.wrapping_add_signed(strides[axis]);
            let goes_on = index[axis] < shape[axis];
            if !goes_on {
                place = place.wrapping_add_signed(-strides[axis] * shape[axis] as isize);
                index[axis] = 0;
            }
            goes_on
        }) else {
            return;
        };
        debug_assert!(index[axis] < shape[axis]);
    }
}

/// The side of the blocks that a transposition copies through: one cache line of f32.
const TILE: usize = 16;

/// `to[r][c] = from[c][r]` for r < rows, c < columns; the distances are between neighbouring c in
/// `from` and between neighbouring r in `to`.
fn transpose<C: Cell>(
    from: &[C],
    from_stride: usize,
    to: &mut [C],
    to_stride: usize,
    rows: usize,
    columns: usize,
) {
    for r in (0..rows).step_by(TILE) {
        let height = TILE.min(rows - r);
        for c in (0..columns).step_by(TILE) {
            let width = TILE.min(columns - c);
            if height == TILE && width == TILE {
                let lines: [&[C; TILE]; TILE] = std::array::from_fn(|i| {
                    from[(c + i) * from_stride + r..].first_chunk().expect("a whole tile lies inside")
                });
                for j in 0..TILE {
                    let line = &mut to[(r + j) * to_stride + c..][..TILE];
                    for (cell, source) in line.iter_mut().zip(lines) {
                        *cell = source[j].clone();
                    }
                }
            } else {
                for j in r..r + height {
                    let line = &mut to[j * to_stride + c..][..width];
                    for (i, cell) in line.iter_mut().enumerate() {
                        *cell = from[(c + i) * from_stride + j].clone();
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every element by its index: the plain meaning of a view.
    fn naive(view: &View, cells: &[u32]) -> Vec<u32> {
        let mut out = Vec::new();
        walk(view.offset, &view.shape, &view.strides, |at| out.push(cells[at]));
        out
    }

    #[test]
    fn copies_equal_the_plain_walk() {
        let cells: Vec<u32> = (0..3 * 40 * 5 * 33).collect();
        let whole = View::of(&[3, 40, 5, 33]);
        let perms = [
            [0, 1, 2, 3],
            [0, 2, 1, 3],
            [3, 2, 1, 0],
            [0, 3, 1, 2],
            [2, 3, 0, 1],
            [1, 0, 3, 2],
            [3, 0, 1, 2],
            [0, 1, 3, 2],
            [2, 0, 3, 1],
        ];
        for perm in perms {
            let view = whole.permuted(&perm);
            assert_eq!(view.copy(&cells).unwrap(), naive(&view, &cells), "{perm:?}");
        }
        let cut = whole.sliced(1, 38, -3, 12).sliced(3, 2, 2, 15).sliced(2, 4, -1, 5);
        assert_eq!(cut.copy(&cells).unwrap(), naive(&cut, &cells));
        for perm in perms {
            let view = cut.permuted(&perm);
            assert_eq!(view.copy(&cells).unwrap(), naive(&view, &cells), "cut, {perm:?}");
        }
        let wide = View::of(&[4, 1, 3]).expanded(&[2, 4, 5, 3]).unwrap();
        assert_eq!(wide.copy(&cells[..12]).unwrap(), naive(&wide, &cells));
        let last = View::of(&[4, 1]).expanded(&[4, 6]).unwrap();
        assert_eq!(last.copy(&cells[..4]).unwrap(), naive(&last, &cells));
    }

    #[test]
    fn empty_and_single_views() {
        assert!(View::of(&[2, 0, 3]).permuted(&[2, 1, 0]).copy::<u32>(&[]).unwrap().is_empty());
        assert_eq!(View::of(&[]).copy(&[7u32]).unwrap(), [7]);
        let one = View::of(&[3, 3]).sliced(0, 1, i64::MAX, 1).sliced(1, 2, i64::MIN, 1);
        assert_eq!(one.copy(&[0u32, 1, 2, 3, 4, 5, 6, 7, 8]).unwrap(), [5]);
        assert!(View::of(&[1, 4, 1]).permuted(&[2, 1, 0]).is_whole(4));
        assert!(!View::of(&[2, 4]).sliced(0, 1, 1, 1).is_whole(8));
    }
}
