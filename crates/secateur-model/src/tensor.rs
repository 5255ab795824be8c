//! Tensors in memory, ready to compute with.

use std::sync::Arc;

use half::{bf16, f16};

use crate::{DType, Error, Result};

/// The elements of a [`Tensor`], row-major.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // each variant is the element type it is named after
#[non_exhaustive]
pub enum Data {
    F32(Vec<f32>),
    F64(Vec<f64>),
    F16(Vec<f16>),
    BF16(Vec<bf16>),
    I8(Vec<i8>),
    I16(Vec<i16>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    U8(Vec<u8>),
    U16(Vec<u16>),
    U32(Vec<u32>),
    U64(Vec<u64>),
    Bool(Vec<bool>),
    String(Vec<String>),
    /// Types that are carried but not computed with, packed as in storage.
    Raw(DType, Vec<u8>),
}

/// A type a tensor can hold and code can compute with. Sealed: the variants of [`Data`].
pub trait Element: Clone + PartialEq + std::fmt::Debug + Send + Sync + 'static {
    /// The element type.
    const DTYPE: DType;
    /// Wraps elements.
    fn wrap(values: Vec<Self>) -> Data;
    /// The elements, where `data` holds this type.
    fn slice(data: &Data) -> Option<&[Self]>;
    /// The elements, where `data` holds this type.
    fn slice_mut(data: &mut Data) -> Option<&mut Vec<Self>>;
}

macro_rules! elements {
    ($($ty:ty => $variant:ident;)*) => {
        $(impl Element for $ty {
            const DTYPE: DType = DType::$variant;
            fn wrap(values: Vec<Self>) -> Data { Data::$variant(values) }
            fn slice(data: &Data) -> Option<&[Self]> {
                match data { Data::$variant(v) => Some(v), _ => None }
            }
            fn slice_mut(data: &mut Data) -> Option<&mut Vec<Self>> {
                match data { Data::$variant(v) => Some(v), _ => None }
            }
        })*

        impl Data {
            /// The element type.
            pub fn dtype(&self) -> DType {
                match self {
                    $(Data::$variant(_) => DType::$variant,)*
                    Data::Raw(dtype, _) => *dtype,
                }
            }
        }

        /// Runs an expression with the tensor's elements bound to a typed slice:
        /// `with_elements!(tensor, |values| values.len(), else 0)`; the `else` arm is for packed raw types.
        #[macro_export]
        macro_rules! with_elements {
            ($tensor:expr, |$v:ident| $body:expr, else $other:expr) => {
                match $tensor.data() {
                    $($crate::Data::$variant($v) => { let $v = $v.as_slice(); $body })*
                    #[allow(unreachable_patterns)]
                    _ => $other,
                }
            };
        }
    };
}

elements! {
    f32 => F32; f64 => F64; f16 => F16; bf16 => BF16;
    i8 => I8; i16 => I16; i32 => I32; i64 => I64;
    u8 => U8; u16 => U16; u32 => U32; u64 => U64;
    bool => Bool; String => String;
}

/// Runs an expression with `$ty` bound to the Rust number type of a [`DType`], floats and integers only.
#[macro_export]
macro_rules! with_number_type {
    ($dtype:expr, $ty:ident => $body:expr, else $other:expr) => {
        match $dtype {
            $crate::DType::F32 => {
                type $ty = f32;
                $body
            }
            $crate::DType::F64 => {
                type $ty = f64;
                $body
            }
            $crate::DType::F16 => {
                type $ty = half::f16;
                $body
            }
            $crate::DType::BF16 => {
                type $ty = half::bf16;
                $body
            }
            $crate::DType::I8 => {
                type $ty = i8;
                $body
            }
            $crate::DType::I16 => {
                type $ty = i16;
                $body
            }
            $crate::DType::I32 => {
                type $ty = i32;
                $body
            }
            $crate::DType::I64 => {
                type $ty = i64;
                $body
            }
            $crate::DType::U8 => {
                type $ty = u8;
                $body
            }
            $crate::DType::U16 => {
                type $ty = u16;
                $body
            }
            $crate::DType::U32 => {
                type $ty = u32;
                $body
            }
            $crate::DType::U64 => {
                type $ty = u64;
                $body
            }
            _ => $other,
        }
    };
}

/// A tensor in memory: a shape and its elements, row-major. Cloning is cheap (shared data).
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    data: Arc<Data>,
}

impl Tensor {
    /// A tensor from its elements.
    ///
    /// # Errors
    /// Where the number of elements is not the product of the shape.
    pub fn new<T: Element>(shape: impl Into<Vec<usize>>, values: Vec<T>) -> Result<Self> {
        let shape = shape.into();
        if checked_len(&shape) != Some(values.len()) {
            return Err(Error::input(format!("{} elements do not fill the shape {shape:?}", values.len())));
        }
        Ok(Tensor { shape, data: Arc::new(T::wrap(values)) })
    }

    /// A tensor from data of any type, packed raw types included.
    ///
    /// # Errors
    /// Where the data does not fill the shape.
    pub fn from_data(shape: impl Into<Vec<usize>>, data: Data) -> Result<Self> {
        Self::from_shared(shape.into(), Arc::new(data))
    }

    /// As [`Tensor::from_data`], with elements that others hold as well.
    pub(crate) fn from_shared(shape: Vec<usize>, data: Arc<Data>) -> Result<Self> {
        let len = checked_len(&shape);
        let fits = match &*data {
            Data::Raw(dtype, bytes) => len.and_then(|n| dtype.bytes_for(n)) == Some(bytes.len()),
            _ => len == Some(data.len()),
        };
        if !fits {
            return Err(Error::input(format!("the data does not fill the shape {shape:?}")));
        }
        Ok(Tensor { shape, data })
    }

    /// A tensor of one element with the empty shape.
    pub fn scalar<T: Element>(value: T) -> Self {
        Tensor { shape: Vec::new(), data: Arc::new(T::wrap(vec![value])) }
    }

    /// A tensor of rank 1.
    pub fn vector<T: Element>(values: Vec<T>) -> Self {
        Tensor { shape: vec![values.len()], data: Arc::new(T::wrap(values)) }
    }

    /// The shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of axes.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.data.dtype()
    }

    /// The elements, shared.
    pub(crate) fn shared(self) -> Arc<Data> {
        self.data
    }

    /// The elements.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// The elements as a typed slice.
    ///
    /// # Errors
    /// Where the tensor holds another type.
    pub fn values<T: Element>(&self) -> Result<&[T]> {
        T::slice(&self.data)
            .ok_or_else(|| Error::input(format!("expected {} elements, found {}", T::DTYPE, self.dtype())))
    }

    /// The elements as a mutable slice; copies them first where they are shared.
    ///
    /// # Errors
    /// Where the tensor holds another type.
    pub fn values_mut<T: Element>(&mut self) -> Result<&mut [T]> {
        let found = self.dtype();
        T::slice_mut(Arc::make_mut(&mut self.data))
            .map(Vec::as_mut_slice)
            .ok_or_else(|| Error::input(format!("expected {} elements, found {found}", T::DTYPE)))
    }

    /// The shape and, where nobody else shares them, the elements themselves (a copy otherwise).
    pub fn into_parts(self) -> (Vec<usize>, Data) {
        (self.shape, Arc::unwrap_or_clone(self.data))
    }

    /// Whether another tensor holds the same data.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.data) > 1
    }

    /// The elements' vector where nobody else shares it and it is of type `T`: for reuse of the memory.
    pub fn reclaim<T: Element>(self) -> Option<Vec<T>> {
        let mut data = Arc::into_inner(self.data)?;
        T::slice_mut(&mut data).map(std::mem::take)
    }

    /// The same elements under another shape; shares the data.
    ///
    /// # Errors
    /// Where the number of elements differs.
    pub fn reshaped(&self, shape: impl Into<Vec<usize>>) -> Result<Self> {
        let shape = shape.into();
        if checked_len(&shape) != Some(self.len()) {
            return Err(Error::input(format!(
                "cannot give the shape {shape:?} to {} elements of shape {:?}",
                self.len(),
                self.shape
            )));
        }
        Ok(Tensor { shape, data: self.data.clone() })
    }

    /// The elements as i64: for shapes, axes and indices, whatever integer type they are stored in.
    ///
    /// # Errors
    /// Where the tensor is not of integers.
    pub fn to_i64s(&self) -> Result<Vec<i64>> {
        Ok(match &*self.data {
            Data::I64(v) => v.clone(),
            Data::I32(v) => v.iter().map(|&x| x.into()).collect(),
            Data::I16(v) => v.iter().map(|&x| x.into()).collect(),
            Data::I8(v) => v.iter().map(|&x| x.into()).collect(),
            Data::U32(v) => v.iter().map(|&x| x.into()).collect(),
            Data::U16(v) => v.iter().map(|&x| x.into()).collect(),
            Data::U8(v) => v.iter().map(|&x| x.into()).collect(),
            Data::Bool(v) => v.iter().map(|&x| x.into()).collect(),
            Data::U64(v) => v
                .iter()
                .map(|&x| i64::try_from(x).map_err(|_| Error::input(format!("{x} is out of range"))))
                .collect::<Result<_>>()?,
            _ => return Err(Error::input(format!("expected integers, found {}", self.dtype()))),
        })
    }

    /// The elements as f32, converted from any float or integer type.
    ///
    /// # Errors
    /// Where the tensor is not of numbers.
    pub fn to_f32s(&self) -> Result<Vec<f32>> {
        Ok(match &*self.data {
            Data::F32(v) => v.clone(),
            Data::F64(v) => v.iter().map(|&x| x as f32).collect(),
            Data::F16(v) => v.iter().map(|x| x.to_f32()).collect(),
            Data::BF16(v) => v.iter().map(|x| x.to_f32()).collect(),
            Data::I64(v) => v.iter().map(|&x| x as f32).collect(),
            Data::U64(v) => v.iter().map(|&x| x as f32).collect(),
            Data::U32(v) => v.iter().map(|&x| x as f32).collect(),
            Data::Bool(v) => v.iter().map(|&x| f32::from(u8::from(x))).collect(),
            Data::String(_) | Data::Raw(..) => {
                return Err(Error::input(format!("expected numbers, found {}", self.dtype())));
            }
            _ => self.to_i64s()?.into_iter().map(|x| x as f32).collect(),
        })
    }
}

impl Data {
    /// The number of elements; bytes for packed raw types.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        match self {
            Data::F32(v) => v.len(),
            Data::F64(v) => v.len(),
            Data::F16(v) => v.len(),
            Data::BF16(v) => v.len(),
            Data::I8(v) => v.len(),
            Data::I16(v) => v.len(),
            Data::I32(v) => v.len(),
            Data::I64(v) => v.len(),
            Data::U8(v) => v.len(),
            Data::U16(v) => v.len(),
            Data::U32(v) => v.len(),
            Data::U64(v) => v.len(),
            Data::Bool(v) => v.len(),
            Data::String(v) => v.len(),
            Data::Raw(_, v) => v.len(),
        }
    }
}

/// The largest number of elements a shape may have: beyond all memory, and so far below what 64 bits hold
/// that the sum of several such numbers, and the product of one with the size of an element or with what
/// vectors and tiles round up to, cannot wrap.
pub const MAX_LEN: usize = if usize::BITS < 64 { isize::MAX as usize / 64 } else { 1 << 46 };

/// The product of a shape, `None` where it is above [`MAX_LEN`]; also where an extent of 0 hides that the
/// others are, so that no part of the product overflows elsewhere.
pub fn checked_len(shape: &[usize]) -> Option<usize> {
    let others = shape.iter().filter(|&&d| d != 0).try_fold(1usize, |n, &d| n.checked_mul(d))?;
    (others <= MAX_LEN).then_some(if shape.contains(&0) { 0 } else { others })
}

/// Row-major strides of a shape, in elements.
pub fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_number_of_elements_is_refused() {
        assert!(Tensor::new([2, 3], vec![0f32; 5]).is_err());
        assert!(Tensor::new([usize::MAX, 2], Vec::<f32>::new()).is_err());
        assert!(Tensor::new([0, usize::MAX, 2], Vec::<f32>::new()).is_err());
        assert!(Tensor::new([0, MAX_LEN, 2], Vec::<f32>::new()).is_err());
        assert!(Tensor::new([0, MAX_LEN], Vec::<f32>::new()).is_ok());
        assert!(Tensor::vector(vec![1i64, 2]).reshaped([3]).is_err());
    }

    #[test]
    fn types_are_checked() {
        let t = Tensor::vector(vec![1i32, 2]);
        assert!(t.values::<f32>().is_err());
        assert_eq!(t.to_i64s().unwrap(), [1, 2]);
        assert_eq!(t.to_f32s().unwrap(), [1.0, 2.0]);
    }
}
