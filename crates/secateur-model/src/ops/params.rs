//! Parameters that some operator sets give as attributes and others as inputs.

use super::cast::convert;
use super::{Fact, Facts, Inputs};
use crate::tensor::checked_len;
use crate::{DType, Error, Node, Result, Tensor};

/// The inputs as tensors, without the first `from`, which are data and may be unknown; `None` where
/// one of the others is not a known constant.
pub(super) fn constants(inputs: Facts<'_>, from: usize) -> Option<Vec<Option<&Tensor>>> {
    let known = inputs.0.iter().skip(from).flatten().all(|fact| fact.value.is_some());
    known.then(|| (0..inputs.len()).map(|i| inputs.value(i).filter(|_| i >= from)).collect())
}

/// The facts of a single output of the data's type whose shape follows from the data's shape and the
/// parameter inputs from the second on.
pub(super) fn infer_one(
    inputs: Facts<'_>,
    shape_of: impl FnOnce(&[usize], Inputs<'_>) -> Result<Vec<usize>>,
) -> Result<Vec<Fact>> {
    let data = inputs.need(0)?;
    let (Some(shape), Some(params)) = (data.shape(), constants(inputs, 1)) else {
        return Ok(vec![Fact::unknown(data.dtype)]);
    };
    let shape = shape_of(shape, Inputs(&params))?;
    Ok(vec![Fact { dtype: data.dtype, shape: Some(shape), ..Fact::default() }])
}

/// A list of integers from the input where it is there, from the attribute otherwise.
pub(super) fn ints(node: &Node, name: &str, inputs: Inputs<'_>, index: usize) -> Result<Option<Vec<i64>>> {
    match inputs.get(index) {
        Some(tensor) => tensor.to_i64s().map(Some),
        None => Ok(node.ints(name)?.map(<[i64]>::to_vec)),
    }
}

/// The integers of a required input that other operator sets give as an attribute.
pub(super) fn need_ints(node: &Node, name: &str, inputs: Inputs<'_>, index: usize) -> Result<Vec<i64>> {
    ints(node, name, inputs, index)?
        .ok_or_else(|| Error::input(format!("neither the attribute nor the input `{name}` is there")))
}

/// The single integer of an input.
pub(super) fn single_int(tensor: &Tensor) -> Result<i64> {
    match tensor.to_i64s()?[..] {
        [value] => Ok(value),
        _ => Err(Error::input(format!("expected a single integer, found shape {:?}", tensor.shape()))),
    }
}

/// The single number of an input, whatever number type it is stored in.
pub(super) fn single_float(tensor: &Tensor) -> Result<f64> {
    match *convert(tensor, DType::F64)?.values::<f64>()? {
        [value] => Ok(value),
        _ => Err(Error::input(format!("expected a single number, found shape {:?}", tensor.shape()))),
    }
}

/// A shape given as integers.
pub(super) fn shape_from(dims: &[i64]) -> Result<Vec<usize>> {
    let shape: Option<Vec<usize>> = dims.iter().map(|&d| usize::try_from(d).ok()).collect();
    shape
        .filter(|shape| checked_len(shape).is_some())
        .ok_or_else(|| Error::input(format!("{dims:?} is not a shape")))
}

/// An element type given as ONNX's number.
pub(super) fn dtype_from(number: i64) -> Result<DType> {
    i32::try_from(number)
        .ok()
        .and_then(DType::from_onnx)
        .ok_or_else(|| Error::unsupported(format!("element type {number} is not known")))
}
