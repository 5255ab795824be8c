//! Stored weights of a row layer, and the inputs that they are multiplied by.

use crate::simd::{Isa, Simd};
use crate::threads::Buffer;
use crate::value::{ValueType, byte_scale, to_bytes};
use half::f16;
use std::fmt::Debug;
use std::marker::PhantomData;
use std::ops::AddAssign;

/// Rows of dense weights and of inputs are padded with zeros to a multiple of this length.
pub(super) const BLOCK: usize = 64;

/// Rows that bytes are summed for at a time, with any instruction set.
pub(super) const BYTE_LANES: usize = 16;

/// A weight as stored.
///
/// # Safety
/// Every bit pattern is a valid value, there is no padding, and all bits zero is the value 0.
pub(super) unsafe trait Value:
    Copy + Default + PartialEq + Debug + Send + Sync + 'static
{
    /// An input as multiplied.
    type X: Copy;
    type Sum: Copy + Default + Debug + Send + Sync + AddAssign;

    /// The inputs of the row.
    fn inputs<'a>(x: &Input<'a>) -> &'a [Self::X];
    fn times(self, x: Self::X) -> Self::Sum;
    fn to_f32(sum: Self::Sum) -> f32;
}

/// A weight that is multiplied in single precision.
pub(super) trait Float: Value<X = f32, Sum = f32> {
    /// # Safety
    /// `S::LANES` values can be read at `p`.
    unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::V;
}

// SAFETY: f32 has these properties.
unsafe impl Value for f32 {
    type X = f32;
    type Sum = f32;
    fn inputs<'a>(x: &Input<'a>) -> &'a [f32] {
        x.floats
    }
    #[inline(always)]
    fn times(self, x: f32) -> f32 {
        self * x
    }
    fn to_f32(sum: f32) -> f32 {
        sum
    }
}

impl Float for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const f32) -> S::V {
        // SAFETY: guaranteed by the caller.
        unsafe { s.load(p) }
    }
}

// SAFETY: f16 has these properties.
unsafe impl Value for f16 {
    type X = f32;
    type Sum = f32;
    fn inputs<'a>(x: &Input<'a>) -> &'a [f32] {
        x.floats
    }
    #[inline(always)]
    fn times(self, x: f32) -> f32 {
        self.to_f32() * x
    }
    fn to_f32(sum: f32) -> f32 {
        sum
    }
}

impl Float for f16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const f16) -> S::V {
        // SAFETY: guaranteed by the caller.
        unsafe { s.load_f16(p) }
    }
}

// SAFETY: i8 has these properties.
unsafe impl Value for i8 {
    type X = i8;
    type Sum = i32;
    fn inputs<'a>(x: &Input<'a>) -> &'a [i8] {
        x.bytes
    }
    #[inline(always)]
    fn times(self, x: i8) -> i32 {
        i32::from(self) * i32::from(x)
    }
    fn to_f32(sum: i32) -> f32 {
        sum as f32
    }
}

/// Values aligned to a cache line and followed by [`BLOCK`] zeros.
#[derive(Clone, Debug)]
pub(super) struct Cells<T> {
    memory: Buffer,
    len: usize,
    of: PhantomData<T>,
}

impl<T: Value> Cells<T> {
    pub(super) fn zeroed(len: usize) -> Cells<T> {
        let bytes = (len + BLOCK) * size_of::<T>();
        Cells { memory: Buffer::zeroed(bytes.div_ceil(size_of::<f32>())), len, of: PhantomData }
    }

    pub(super) fn as_slice(&self) -> &[T] {
        // SAFETY: the memory holds at least `len` values, and every bit pattern is one (see `Value`).
        unsafe { std::slice::from_raw_parts(self.memory.as_slice().as_ptr().cast(), self.len) }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as in as_slice.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_mut_slice().as_mut_ptr().cast(), self.len) }
    }

    pub(super) fn bytes(&self) -> usize {
        self.memory.len() * size_of::<f32>()
    }
}

/// The inputs of a row in the form that the weights need, followed by at least [`BLOCK`] zeros; the other form is empty.
#[derive(Clone, Copy, Debug)]
pub(super) struct Input<'a> {
    pub(super) floats: &'a [f32],
    pub(super) bytes: &'a [i8],
    /// Scale of the bytes.
    pub(super) scale: f32,
}

impl<'a> Input<'a> {
    /// f32 values of scratch memory for a row of `inputs`: a scale, and the values.
    pub(super) fn scratch_len(inputs: usize) -> usize {
        BLOCK + (inputs.div_ceil(BLOCK) + 1) * BLOCK
    }

    /// Writes `x` in the form that weights of a type need.
    pub(super) fn write(isa: Isa, x: &[f32], values: ValueType, scratch: &mut [f32]) {
        let (scale, cells) = scratch.split_at_mut(BLOCK);
        if values == ValueType::Int8 {
            let (bytes, rest) = as_bytes_mut(cells).split_at_mut(x.len());
            scale[0] = byte_scale(to_bytes(isa, x, bytes));
            rest.fill(0);
        } else {
            scale[0] = 1.0;
            cells[..x.len()].copy_from_slice(x);
            cells[x.len()..].fill(0.0);
        }
    }

    /// The form that `write` wrote.
    pub(super) fn read(values: ValueType, scratch: &'a [f32]) -> Input<'a> {
        let (scale, cells) = scratch.split_at(BLOCK);
        let (floats, bytes) =
            if values == ValueType::Int8 { (&[][..], as_bytes(cells)) } else { (cells, &[][..]) };
        Input { floats, bytes, scale: scale[0] }
    }
}

fn as_bytes(cells: &[f32]) -> &[i8] {
    // SAFETY: the same memory; every bit pattern is an i8.
    unsafe { std::slice::from_raw_parts(cells.as_ptr().cast(), size_of_val(cells)) }
}

fn as_bytes_mut(cells: &mut [f32]) -> &mut [i8] {
    // SAFETY: the same memory; every bit pattern is an i8 and an f32.
    unsafe { std::slice::from_raw_parts_mut(cells.as_mut_ptr().cast(), size_of_val(cells)) }
}
