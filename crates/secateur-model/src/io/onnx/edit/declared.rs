//! Declared types and shapes: messages of the file with another type or shape in them.

use std::ops::Range;

use crate::graph::Dim;
use crate::io::onnx::encode;
use crate::io::onnx::splice::{Cut, Piece};
use crate::io::onnx::wire::{Wire, fields, put_bytes, put_int};
use crate::{DType, Result};

/// The type and shape that a value gets, and the shape that the file declares.
pub(super) struct Declared {
    pub(super) was: Option<Vec<Dim>>,
    pub(super) dtype: Option<DType>,
    pub(super) shape: Option<Vec<Dim>>,
}

impl Declared {
    /// `ValueInfoProto` with this type and shape, all else as it was.
    pub(super) fn info(&self, bytes: &[u8], info: Range<usize>) -> Result<Vec<Piece>> {
        let whole = encode::tensor_type(self.dtype, self.shape.as_deref());
        edited(bytes, info, 2, whole, &|value| {
            edited(bytes, value, 1, self.tensor_type(), &|value| self.changed_tensor_type(bytes, value))
        })
    }

    /// `TypeProto.Tensor`.
    fn tensor_type(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.dtype.iter().for_each(|dtype| put_int(&mut out, 1, dtype.to_onnx().into()));
        self.shape.iter().for_each(|dims| put_bytes(&mut out, 2, &encode::shape_message(dims)));
        out
    }

    fn changed_tensor_type(&self, bytes: &[u8], range: Range<usize>) -> Result<Vec<Piece>> {
        let mut cut = Cut::new(range.clone());
        let (mut typed, mut shaped) = (self.dtype.is_none(), self.shape.is_none());
        for field in fields(bytes, range.clone()) {
            let field = field?;
            match (field.number, field.wire, &self.shape) {
                (1, Wire::Varint, _) if self.dtype.is_some() => {
                    cut.remove(&field);
                    if !std::mem::replace(&mut typed, true) {
                        let mut out = Vec::new();
                        self.dtype.iter().for_each(|dtype| put_int(&mut out, 1, dtype.to_onnx().into()));
                        cut.push(Piece::New(out));
                    }
                }
                (2, Wire::Len, Some(dims)) => {
                    shaped = true;
                    let content = self.changed_dims(bytes, field.value.clone(), dims)?;
                    cut.replace_value(&field, content);
                }
                (2, Wire::Len, None) => cut.remove(&field),
                _ => {}
            }
        }
        let mut out = Vec::new();
        self.dtype.iter().filter(|_| !typed).for_each(|dtype| put_int(&mut out, 1, dtype.to_onnx().into()));
        self.shape
            .iter()
            .filter(|_| !shaped)
            .for_each(|dims| put_bytes(&mut out, 2, &encode::shape_message(dims)));
        if !out.is_empty() {
            cut.end(out);
        }
        Ok(cut.finish().unwrap_or_else(|| vec![Piece::Copy(range)]))
    }

    /// The dimensions, those that stay with all that the file says of them.
    fn changed_dims(&self, bytes: &[u8], range: Range<usize>, dims: &[Dim]) -> Result<Vec<Piece>> {
        let Some(was) = self.was.as_ref().filter(|was| was.len() == dims.len()) else {
            return Ok(vec![Piece::New(encode::shape_message(dims))]);
        };
        let mut cut = Cut::new(range.clone());
        let mut axis = 0;
        for field in fields(bytes, range.clone()) {
            let field = field?;
            if (field.number, field.wire) == (1, Wire::Len) {
                if let Some(dim) = dims.get(axis).filter(|dim| was.get(axis) != Some(*dim)) {
                    let message = encode::shape_message(std::slice::from_ref(dim));
                    cut.remove(&field);
                    cut.push(Piece::New(message));
                }
                axis += 1;
            }
        }
        Ok(cut.finish().unwrap_or_else(|| vec![Piece::Copy(range)]))
    }
}

/// A message with the value of one of its fields, a message too, replaced; `whole` where it lacks the field.
fn edited(
    bytes: &[u8],
    range: Range<usize>,
    number: u32,
    whole: Vec<u8>,
    change: &dyn Fn(Range<usize>) -> Result<Vec<Piece>>,
) -> Result<Vec<Piece>> {
    let mut cut = Cut::new(range.clone());
    let mut found = false;
    for field in fields(bytes, range.clone()) {
        let field = field?;
        if (field.number, field.wire) == (number, Wire::Len) {
            found = true;
            cut.replace_value(&field, change(field.value.clone())?);
        }
    }
    if !found {
        let mut out = Vec::new();
        put_bytes(&mut out, number, &whole);
        cut.end(out);
    }
    Ok(cut.finish().unwrap_or_else(|| vec![Piece::Copy(range)]))
}

/// `ValueInfoProto` without a shape.
pub(super) fn undeclared(bytes: &[u8], info: Range<usize>) -> Result<Vec<Piece>> {
    let nothing = Declared { was: None, dtype: None, shape: None };
    let mut cut = Cut::new(info.clone());
    for field in fields(bytes, info.clone()) {
        let field = field?;
        if (field.number, field.wire) != (2, Wire::Len) {
            continue;
        }
        let mut inner = Cut::new(field.value.clone());
        for part in fields(bytes, field.value.clone()) {
            let part = part?;
            if (part.number, part.wire) == (1, Wire::Len) {
                inner.replace_value(&part, nothing.changed_tensor_type(bytes, part.value.clone())?);
            }
        }
        if let Some(content) = inner.finish() {
            cut.replace_value(&field, content);
        }
    }
    Ok(cut.finish().unwrap_or_else(|| vec![Piece::Copy(info)]))
}
