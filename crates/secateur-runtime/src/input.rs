//! The inputs of a model.

use half::{bf16, f16};
use secateur_model::graph::Dim;
use secateur_model::{DType, Data, Error, Graph, Result, Tensor};

/// An input of the model.
#[derive(Clone, Debug)]
pub struct InputInfo {
    /// The name.
    pub name: String,
    /// The declared element type.
    pub dtype: Option<DType>,
    /// The declared shape.
    pub shape: Option<Vec<Dim>>,
}

impl InputInfo {
    pub(crate) fn of(graph: &Graph) -> Vec<InputInfo> {
        graph
            .inputs
            .iter()
            .map(|&id| {
                let value = &graph.values[id.index()];
                InputInfo { name: value.name.clone(), dtype: value.dtype, shape: value.shape.clone() }
            })
            .collect()
    }

    /// A tensor as the model takes it: numbers of f32 are rounded to the nearest value, ties to even, where
    /// the input is bf16 or f16, and the bit patterns of bf16 may come as u16, since numpy has no bf16.
    ///
    /// # Errors
    /// As [`InputInfo::check`].
    pub fn accept(&self, tensor: Tensor) -> Result<Tensor> {
        let shape = tensor.shape();
        let taken = match (self.dtype, tensor.data()) {
            (Some(DType::BF16), Data::F32(values)) => {
                Tensor::new(shape, values.iter().map(|&v| bf16::from_f32(v)).collect())?
            }
            (Some(DType::BF16), Data::U16(bits)) => {
                Tensor::new(shape, bits.iter().map(|&bits| bf16::from_bits(bits)).collect())?
            }
            (Some(DType::F16), Data::F32(values)) => {
                Tensor::new(shape, values.iter().map(|&v| f16::from_f32(v)).collect())?
            }
            _ => tensor,
        };
        self.check(&taken)?;
        Ok(taken)
    }

    /// Checks that a tensor has the declared type and shape.
    ///
    /// # Errors
    /// `Input` where it has another.
    pub fn check(&self, tensor: &Tensor) -> Result<()> {
        let fits = self.shape.as_ref().is_none_or(|dims| {
            dims.len() == tensor.rank()
                && dims.iter().zip(tensor.shape()).all(|(d, &n)| match d {
                    Dim::Known(k) => *k == n,
                    _ => true,
                })
        });
        if !fits || self.dtype.is_some_and(|d| d != tensor.dtype()) {
            let dims: Vec<String> = self
                .shape
                .iter()
                .flatten()
                .map(|d| match d {
                    Dim::Known(n) => n.to_string(),
                    Dim::Symbol(s) => s.clone(),
                    Dim::Unknown => "?".to_string(),
                })
                .collect();
            return Err(Error::input(format!(
                "input `{}`: expected {} [{}], found {} {:?}",
                self.name,
                self.dtype.map_or("any type", DType::name),
                dims.join(", "),
                tensor.dtype(),
                tensor.shape()
            )));
        }
        Ok(())
    }
}
