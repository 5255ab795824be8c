//! The inputs of a model.

use secateur_model::graph::Dim;
use secateur_model::{DType, Error, Graph, Result, Tensor};

/// An input of a model: its name, element type and shape, the batch axis first.
#[derive(Clone, Debug, PartialEq)]
pub struct InputSpec {
    /// The input's name.
    pub name: String,
    /// The element type.
    pub dtype: DType,
    /// The shape, `None` for each dynamic extent; `None` where the model declares no shape.
    pub shape: Option<Vec<Option<usize>>>,
}

impl InputSpec {
    /// The inputs of a graph.
    ///
    /// # Errors
    /// Where an input declares no element type.
    pub fn of(graph: &Graph) -> Result<Vec<InputSpec>> {
        let spec = |id: &secateur_model::ValueId| {
            let value = &graph.values[id.index()];
            let dtype = value.dtype.ok_or_else(|| {
                Error::unsupported(format!(
                    "input `{}` of the model is not a tensor of a known type",
                    value.name
                ))
            })?;
            let extent = |dim: &Dim| match dim {
                Dim::Known(n) => Some(*n),
                _ => None,
            };
            let shape = value.shape.as_ref().map(|dims| dims.iter().map(extent).collect());
            Ok(InputSpec { name: value.name.clone(), dtype, shape })
        };
        graph.inputs.iter().map(spec).collect()
    }

    /// The batch size, where the model fixes it.
    pub fn fixed_batch(&self) -> Option<usize> {
        *self.shape.as_ref()?.first()?
    }

    /// The sample reshaped to the input's shape (without its batch axis): axes of length 1 are added or
    /// removed, and a sample is flattened where the input has a single axis of the right length.
    pub(super) fn fit(&self, sample: &Tensor) -> Result<Tensor> {
        let Some(expected) = self.shape.as_ref().and_then(|s| s.get(1..)) else {
            return Ok(sample.clone());
        };
        let found = sample.shape();
        if matches(expected, found) {
            return Ok(sample.clone());
        }
        if let &[Some(len)] = expected
            && len == sample.len()
        {
            return sample.reshaped([len]);
        }
        let long: Vec<usize> = found.iter().copied().filter(|&d| d != 1).collect();
        let mut left = long.iter();
        // A dynamic extent of the input takes the sample's next extent.
        let target: Option<Vec<usize>> = expected
            .iter()
            .map(|extent| match extent {
                Some(1) => Some(1),
                _ => left.next().copied(),
            })
            .collect();
        match target {
            Some(target) if left.len() == 0 && matches(expected, &target) => sample.reshaped(target),
            _ => Err(Error::input(format!(
                "input `{}` takes samples of shape {}, found {found:?}",
                self.name,
                show(expected)
            ))),
        }
    }
}

fn matches(expected: &[Option<usize>], found: &[usize]) -> bool {
    expected.len() == found.len() && expected.iter().zip(found).all(|(e, f)| e.is_none_or(|e| e == *f))
}

/// A shape with `?` for dynamic extents.
fn show(shape: &[Option<usize>]) -> String {
    let dims: Vec<_> = shape.iter().map(|d| d.map_or("?".to_string(), |d| d.to_string())).collect();
    format!("[{}]", dims.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(expected: &[Option<usize>], found: &[usize]) -> Result<Vec<usize>> {
        let shape = Some([&[None], expected].concat());
        let input = InputSpec { name: "x".into(), dtype: DType::F32, shape };
        let sample = Tensor::new(found, vec![0f32; found.iter().product()])?;
        Ok(input.fit(&sample)?.shape().to_vec())
    }

    #[test]
    fn only_axes_of_length_one_and_flattening_are_adapted() {
        assert_eq!(fit(&[Some(28), Some(28)], &[1, 28, 28]).unwrap(), [28, 28]);
        assert_eq!(fit(&[Some(1), None, Some(8)], &[5, 8]).unwrap(), [1, 5, 8]);
        assert_eq!(fit(&[Some(784)], &[1, 28, 28]).unwrap(), [784]);
        let error = fit(&[Some(3), None, Some(8)], &[8, 8, 3]).unwrap_err().to_string();
        assert_eq!(error, "input `x` takes samples of shape [3, ?, 8], found [8, 8, 3]");
        assert!(fit(&[Some(4), Some(4)], &[2, 8]).is_err());
        assert!(fit(&[Some(1)], &[]).is_ok());
    }
}
