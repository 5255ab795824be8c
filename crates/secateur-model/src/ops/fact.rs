//! What is known of values before running ([`Fact`]), and how operators read their inputs.

use super::broadcast;
use crate::{DType, Error, Result, StoredTensor, Tensor, TensorId};

/// What is known of a value before running: the type, the shape, and the elements of constants.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fact {
    /// The element type, where known.
    pub dtype: Option<DType>,
    /// The shape, where known.
    pub shape: Option<Vec<usize>>,
    /// The elements, where the value is a constant or follows from constants and shapes.
    pub value: Option<Tensor>,
    /// The tensor of the model that a constant is, where its elements are not loaded.
    pub stored: Option<Stored>,
}

/// A tensor of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The tensor.
    pub tensor: TensorId,
    /// Whether it is transposed; then it has two axes.
    pub transposed: bool,
}

impl Fact {
    /// A known type and shape.
    pub fn new(dtype: DType, shape: impl Into<Vec<usize>>) -> Self {
        Fact { dtype: Some(dtype), shape: Some(shape.into()), ..Fact::default() }
    }

    /// A tensor of the model, not loaded.
    pub fn stored(id: TensorId, tensor: &StoredTensor) -> Self {
        let stored = Stored { tensor: id, transposed: false };
        Fact { stored: Some(stored), ..Fact::new(tensor.dtype, tensor.shape.clone()) }
    }

    /// The transpose of a matrix that is not loaded; `None` for other values.
    pub fn transposed(&self) -> Option<Fact> {
        let (Some(Stored { tensor, transposed }), Some(&[rows, columns])) =
            (self.stored, self.shape.as_deref())
        else {
            return None;
        };
        let stored = Some(Stored { tensor, transposed: !transposed });
        Some(Fact { stored, shape: Some(vec![columns, rows]), ..self.clone() })
    }

    /// Whether the elements are known before running, though perhaps not loaded.
    pub fn is_constant(&self) -> bool {
        self.value.is_some() || self.stored.is_some()
    }

    /// Nothing but, perhaps, the type is known.
    pub fn unknown(dtype: Option<DType>) -> Self {
        Fact { dtype, ..Fact::default() }
    }

    /// The shape, where both it and the type are of interest only together.
    pub fn shape(&self) -> Option<&[usize]> {
        self.shape.as_deref()
    }
}

impl From<Tensor> for Fact {
    fn from(tensor: Tensor) -> Self {
        let fact = Fact::new(tensor.dtype(), tensor.shape());
        Fact { value: Some(tensor), ..fact }
    }
}

/// The inputs of a node as facts, with accessors that name what is missing.
#[derive(Clone, Copy)]
pub struct Facts<'a>(pub &'a [Option<Fact>]);

impl<'a> Facts<'a> {
    /// The fact of a required input.
    ///
    /// # Errors
    /// Where the node leaves it out.
    pub fn need(&self, index: usize) -> Result<&'a Fact> {
        self.get(index).ok_or_else(|| missing_input(index))
    }

    /// The fact of an optional input.
    pub fn get(&self, index: usize) -> Option<&'a Fact> {
        self.0.get(index).and_then(Option::as_ref)
    }

    /// The shape of an input where it is there and known.
    pub fn shape(&self, index: usize) -> Option<&'a [usize]> {
        self.get(index).and_then(|f| f.shape.as_deref())
    }

    /// Checks that an input has one of the shapes it may have, where it is there and its shape known.
    ///
    /// # Errors
    /// Where it has another.
    pub(crate) fn expect(&self, index: usize, what: &str, shapes: &[&[usize]]) -> Result<()> {
        match self.shape(index) {
            Some(found) if !shapes.contains(&found) => {
                let shapes: Vec<String> = shapes.iter().map(|shape| format!("{shape:?}")).collect();
                Err(Error::input(format!(
                    "input {index} ({what}) has the shape {found:?}, expected {}",
                    shapes.join(" or ")
                )))
            }
            _ => Ok(()),
        }
    }

    /// Checks that an input broadcasts to a shape, where it is there and its own is known.
    ///
    /// # Errors
    /// Where it does not.
    pub(crate) fn expect_broadcast(&self, index: usize, what: &str, to: &[usize]) -> Result<()> {
        match self.shape(index) {
            Some(found) if broadcast(&[to, found]).ok().as_deref() != Some(to) => Err(Error::input(format!(
                "input {index} ({what}) has the shape {found:?}, which does not broadcast to {to:?}"
            ))),
            _ => Ok(()),
        }
    }

    /// The elements of an input where it is there and known.
    pub fn value(&self, index: usize) -> Option<&'a Tensor> {
        self.get(index).and_then(|f| f.value.as_ref())
    }

    /// The element type of an input where known.
    pub fn dtype(&self, index: usize) -> Option<DType> {
        self.get(index).and_then(|f| f.dtype)
    }

    /// The number of inputs, those left out included.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no inputs.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The inputs of a node as tensors, with accessors that name what is missing.
#[derive(Clone, Copy)]
pub struct Inputs<'a>(pub &'a [Option<&'a Tensor>]);

impl<'a> Inputs<'a> {
    /// A required input.
    ///
    /// # Errors
    /// Where the node leaves it out.
    pub fn need(&self, index: usize) -> Result<&'a Tensor> {
        self.get(index).ok_or_else(|| missing_input(index))
    }

    /// An optional input.
    pub fn get(&self, index: usize) -> Option<&'a Tensor> {
        self.0.get(index).copied().flatten()
    }

    /// The number of inputs, those left out included.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no inputs.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn missing_input(index: usize) -> Error {
    Error::input(format!("input {index} is required, but the node leaves it out"))
}
