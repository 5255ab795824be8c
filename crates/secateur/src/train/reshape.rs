//! A training that goes on with the model in other shapes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use secateur_model::{Error, Patch, Result, Tensor, TensorId};

use super::{Masks, Masters, Trainer, Variable, tape};
use crate::data::InputSpec;

/// The indices that stay, by a tensor's path and axis, in the order of the new ones; along other axes all do. As
/// [`Shrunk::indices`](crate::shrink::Shrunk::indices).
pub type KeptIndices = BTreeMap<String, BTreeMap<usize, Vec<usize>>>;

impl Trainer {
    /// Goes on with the model in other shapes, such as without some of its channels
    /// ([`shrink`](crate::shrink::shrink)). `patch` changes shapes, nodes and what
    /// does not train of [`Masters::model`]; of what trains and of running statistics, `kept` says which elements stay. These
    /// keep their values, masks and what the optimiser keeps for them, whatever values the patch has. The number of the
    /// step, the order of the samples and their augmentation go on. Variables that the new graph does not use no longer
    /// train.
    ///
    /// [`Trainer::patch`] is over the new model then. A training that was saved behind this is resumed by a trainer that was
    /// given the same change.
    ///
    /// # Errors
    /// `Usage` where the inputs change, or the elements that stay do not make up the new shape; where the patch does not fit.
    /// The training is as before then.
    pub fn reshape(&mut self, patch: &Patch, kept: &KeptIndices) -> Result<()> {
        let model = Arc::new(patch.apply(self.masters.model())?);
        let masters = Masters::of(&model, &Masks::new())?;
        let graph = masters.in_f32().graph()?;
        if InputSpec::of(graph)? != InputSpec::of(self.masters.in_f32().graph()?)? {
            return Err(Error::usage(
                "a training goes on with the same data: the model's inputs have to stay",
            ));
        }
        let used: BTreeSet<TensorId> = graph.constants.values().copied().collect();
        let places: Vec<usize> =
            (0..self.variables.len()).filter(|&place| used.contains(&self.variables[place].id)).collect();
        let ids: Vec<TensorId> = places.iter().map(|&place| self.variables[place].id).collect();
        let mut tape = tape(&masters, &Patch::new(), &ids, &self.options)?;
        if let Some(limits) = self.limits {
            tape = tape.within(limits);
        }
        let taken = |id: TensorId, values: &[f32]| -> Result<Vec<f32>> {
            let (old, new) = (self.masters.model().tensor(id), model.tensor(id));
            taken(values, [&old.shape, &new.shape], kept.get(&old.path)).map_err(|e| e.at_tensor(&old.path))
        };
        let mut variables = Vec::with_capacity(ids.len());
        for (now, &place) in places.iter().enumerate() {
            let Variable { id, kept, state } = &self.variables[place];
            tape.update(now)?.0.copy_from_slice(&taken(*id, self.tape.values(place)?)?);
            let kept: Option<Arc<[f32]>> =
                kept.as_ref().map(|kept| Ok::<_, Error>(taken(*id, kept)?.into())).transpose()?;
            tape.hold(now, kept.clone())?;
            let state = state.iter().map(|list| taken(*id, list)).collect::<Result<Vec<_>>>()?;
            variables.push(Variable { id: *id, kept, state });
        }
        let statistics: BTreeSet<TensorId> = tape.statistics().map(|(id, _)| id).collect();
        for (id, tensor) in self.tape.statistics().filter(|(id, _)| statistics.contains(id)) {
            let values = taken(id, tensor.values::<f32>()?)?;
            tape.set_statistics(id, Tensor::new(model.tensor(id).shape.clone(), values)?)?;
        }
        (self.masters, self.tape, self.variables) = (masters, tape, variables);
        Ok(())
    }
}

/// The elements of a tensor that stay, in the order of its new shape.
fn taken(
    values: &[f32],
    [old, new]: [&[usize]; 2],
    kept: Option<&BTreeMap<usize, Vec<usize>>>,
) -> Result<Vec<f32>> {
    let Some(kept) = kept else {
        return match old == new {
            true => Ok(values.to_vec()),
            false => Err(Error::usage(format!(
                "its shape becomes {new:?}, but which of the elements of {old:?} stay is not said"
            ))),
        };
    };
    let (mut shape, mut values) = (old.to_vec(), values.to_vec());
    for (&axis, indices) in kept {
        let Some(&len) = shape.get(axis) else {
            return Err(Error::usage(format!("indices are kept along axis {axis}, the shape is {old:?}")));
        };
        let inner: usize = shape[axis + 1..].iter().product();
        let once: BTreeSet<&usize> = indices.iter().collect();
        if once.len() != indices.len() || once.last().is_some_and(|&&last| last >= len) {
            return Err(Error::usage(format!(
                "kept indices along axis {axis}: expected different ones below {len}"
            )));
        }
        let mut next = Vec::with_capacity(values.len() / len.max(1) * indices.len());
        for outer in values.chunks_exact((len * inner).max(1)) {
            indices.iter().for_each(|index| next.extend_from_slice(&outer[index * inner..][..inner]));
        }
        values = next;
        shape[axis] = indices.len();
    }
    match shape == new {
        true => Ok(values),
        false => Err(Error::usage(format!(
            "the kept indices make {shape:?} of {old:?}, the shape becomes {new:?}"
        ))),
    }
}
