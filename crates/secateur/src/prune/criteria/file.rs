//! Scores from a file: what another program computed.

use std::path::Path;

use indexmap::IndexMap;
use secateur_model::{Error, Result, StoredTensor};

use super::norm::fold_units;
use crate::data::read_named;
use crate::near::did_you_mean;
use crate::prune::units::Units;
use crate::prune::weights::{Weights, position_of_nan};

/// The scores of a file, by the path of the tensor that they are for.
#[derive(Debug)]
pub struct ScoreFile {
    tensors: IndexMap<String, StoredTensor>,
}

impl ScoreFile {
    /// Reads a `.npz` archive, or any file of tensors, such as safetensors. Elements stay where they
    /// lie until they are asked for.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let mut tensors = read_named(path)?;
        tensors.values_mut().filter(|t| t.packed().is_some()).for_each(|t| *t = t.dense().into_owned());
        Ok(ScoreFile { tensors })
    }

    fn named(&self, path: &str) -> Result<&StoredTensor> {
        self.tensors.get(path).ok_or_else(|| {
            let near = did_you_mean(path, self.tensors.keys().map(String::as_str));
            Error::input(format!("the file of scores has none for it{near}"))
        })
    }

    /// The scores of a weight's elements.
    ///
    /// # Errors
    /// `Input` where there are none, their shape is another or one is NaN; `Unsupported` where they
    /// are not floats.
    pub fn of_weights(&self, stored: &StoredTensor) -> Result<Weights<'_>> {
        let scores = self.named(&stored.path)?;
        if scores.shape != stored.shape {
            return Err(Error::input(format!(
                "the scores have the shape {:?}, the tensor {:?}",
                scores.shape, stored.shape
            )));
        }
        numbers(scores)
    }

    /// The scores of a weight's units: given by a vector with one for each, or else the means of
    /// the elements' scores.
    ///
    /// # Errors
    /// As [`ScoreFile::of_weights`].
    pub fn of_units(&self, stored: &StoredTensor, units: &Units) -> Result<Vec<f64>> {
        let scores = self.named(&stored.path)?;
        if scores.shape != stored.shape && scores.shape == [units.count()] {
            let mut found = Vec::with_capacity(units.count());
            numbers(scores)?
                .numbers()
                .for_each_block(0..units.count(), |_, block| found.extend_from_slice(block));
            return Ok(found);
        }
        let sums = fold_units(self.of_weights(stored)?.numbers(), units, 0.0, |s| s, |a, b| a + b);
        Ok(sums.into_iter().zip(units.sizes()).map(|(sum, n)| sum / n as f64).collect())
    }
}

fn numbers(scores: &StoredTensor) -> Result<Weights<'_>> {
    if !scores.dtype.is_prunable() {
        return Err(Error::unsupported(format!("scores of type {}: expected floats", scores.dtype)));
    }
    let weights = Weights::of(scores)?;
    match position_of_nan(weights.numbers(), scores) {
        Some(at) => Err(Error::input(format!("the score at {at:?} is NaN: it cannot be ranked"))),
        None => Ok(weights),
    }
}
