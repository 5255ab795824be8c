//! A forward and a backward pass as lists of steps.

use std::sync::Arc;

use secateur_kernels::{BinaryOp, binary};
use secateur_model::{Error, Node, Result, ResultExt, Tensor, ValueId};

use super::Held;
use crate::buffers::Pool;
use crate::kernels::{Backward, Gradient, Kernel};

/// The passes for inputs of given shapes.
pub(super) struct TapePlan {
    pub(super) steps: Vec<TapeStep>,
    pub(super) inputs: Vec<ValueId>,
    pub(super) output: ValueId,
    pub(super) constants: Vec<(ValueId, Tensor)>,
    /// Values that are variables or running statistics, with their places among those.
    pub(super) held: Vec<(ValueId, usize)>,
    /// By value: the place of the variable that it is.
    pub(super) variables: Vec<Option<usize>>,
    pub(super) values: Vec<Option<Tensor>>,
    pub(super) gradients: Vec<Option<Tensor>>,
}

/// A node with its passes.
pub(super) struct TapeStep {
    pub(super) node: Node,
    pub(super) kernel: Arc<dyn Kernel>,
    /// Inputs of the forward pass, each with whether its life ends here.
    pub(super) inputs: Vec<Option<(ValueId, bool)>>,
    /// The node's outputs, then what it saves for the backward pass.
    pub(super) outputs: Vec<Option<ValueId>>,
    /// Outputs that nobody reads.
    pub(super) unused: Vec<ValueId>,
    /// Outputs that are the next elements of running statistics: with these' places.
    pub(super) updates: Vec<(ValueId, usize)>,
    pub(super) backward: Option<BackwardStep>,
}

pub(super) struct BackwardStep {
    pub(super) gradient: Box<Gradient>,
    pub(super) wanted: Vec<bool>,
    /// The node's inputs, where their gradients go.
    pub(super) inputs: Vec<Option<ValueId>>,
    /// The inputs and outputs that are read.
    pub(super) read_inputs: Vec<Option<ValueId>>,
    pub(super) read_outputs: Vec<Option<ValueId>>,
    /// How many outputs the node has, without those that are saved.
    pub(super) outputs: usize,
    /// Values whose life ends here.
    pub(super) last: Vec<ValueId>,
}

impl TapePlan {
    /// Runs the forward pass.
    pub(super) fn forward(
        &mut self,
        inputs: Vec<Tensor>,
        held: &mut [Held],
        pool: &mut Pool,
    ) -> Result<Tensor> {
        let TapePlan { steps, values, .. } = self;
        for (&id, tensor) in self.inputs.iter().zip(inputs) {
            pool.hold(&tensor);
            values[id.index()] = Some(tensor);
        }
        for (id, tensor) in &self.constants {
            values[id.index()] = Some(tensor.clone());
        }
        for &(id, place) in &self.held {
            values[id.index()] = Some(held[place].tensor.clone());
        }
        for step in steps {
            step.forward(values, pool).at_node(&step.node)?;
            for &(id, place) in &step.updates {
                if let Some(next) = values[id.index()].take() {
                    let former = std::mem::replace(&mut held[place].tensor, next);
                    drop(former);
                }
            }
        }
        values[self.output.index()].clone().ok_or_else(|| Error::internal("the output was not computed"))
    }

    /// Runs the backward pass; adds to the gradients of the variables.
    pub(super) fn backward(&mut self, gradient: Tensor, held: &mut [Held], pool: &mut Pool) -> Result<()> {
        let TapePlan { steps, values, gradients, variables, .. } = self;
        gradients[self.output.index()] = Some(gradient);
        for step in steps.iter().rev() {
            let Some(backward) = &step.backward else { continue };
            backward.run(step, values, gradients, pool).at_node(&step.node)?;
            for value in backward.inputs.iter().flatten() {
                let Some(place) = variables[value.index()] else { continue };
                if let Some(found) = gradients[value.index()].take() {
                    add(&mut held[place].gradient, found, pool)?;
                }
            }
        }
        Ok(())
    }

    /// Drops all values.
    pub(super) fn clear(&mut self, pool: &mut Pool) {
        for slot in self.values.iter_mut().chain(&mut self.gradients) {
            if let Some(tensor) = slot.take() {
                pool.reclaim(tensor);
            }
        }
    }
}

impl TapeStep {
    fn forward(&self, values: &mut [Option<Tensor>], pool: &mut Pool) -> Result<()> {
        let operand = |input: &Option<(ValueId, bool)>| match *input {
            None => None,
            Some((id, true)) => values[id.index()].take(),
            Some((id, false)) => values[id.index()].clone(),
        };
        let mut operands: Vec<Option<Tensor>> = self.inputs.iter().map(operand).collect();
        let dying =
            self.inputs.iter().zip(&operands).filter(|(input, _)| input.is_some_and(|(_, dies)| dies));
        dying.filter_map(|(_, tensor)| tensor.as_ref()).for_each(|tensor| pool.release(tensor));
        let results = self.kernel.run(&mut operands, pool)?;
        if results.len() < self.outputs.len() {
            let (asked, found) = (self.outputs.len(), results.len());
            return Err(Error::unsupported(format!(
                "{asked} outputs are asked for, {found} can be computed"
            )));
        }
        for (id, tensor) in self.outputs.iter().zip(results) {
            if let Some(id) = id {
                pool.hold(&tensor);
                values[id.index()] = Some(tensor);
            }
        }
        operands.into_iter().flatten().for_each(|tensor| pool.reclaim(tensor));
        self.unused.iter().for_each(|id| drop_value(&mut values[id.index()], pool));
        pool.end_step();
        Ok(())
    }
}

impl BackwardStep {
    fn run(
        &self,
        step: &TapeStep,
        values: &mut [Option<Tensor>],
        gradients: &mut [Option<Tensor>],
        pool: &mut Pool,
    ) -> Result<()> {
        let of = |ids: &[Option<ValueId>]| -> Vec<Option<Tensor>> {
            ids.iter().map(|id| id.and_then(|id| values[id.index()].clone())).collect()
        };
        let own = &step.outputs[..self.outputs];
        let mut given: Vec<Option<Tensor>> =
            own.iter().map(|id| id.and_then(|id| gradients[id.index()].take())).collect();
        if let Some(first) = given.iter().flatten().next() {
            let shape = given[0].as_ref().unwrap_or(first).shape().to_vec();
            let (inputs, outputs) = (of(&self.read_inputs), of(&self.read_outputs));
            let mut at = Backward {
                inputs: &inputs,
                outputs: &outputs,
                shape: &shape,
                gradients: &mut given,
                wanted: &self.wanted,
                pool,
            };
            let found = (self.gradient)(&mut at)?;
            for ((id, &wanted), gradient) in self.inputs.iter().zip(&self.wanted).zip(found) {
                if let (Some(id), true, Some(gradient)) = (id, wanted, gradient) {
                    add(&mut gradients[id.index()], gradient, pool)?;
                }
            }
        }
        given.into_iter().flatten().for_each(|gradient| pool.reclaim(gradient));
        self.last.iter().for_each(|id| drop_value(&mut values[id.index()], pool));
        pool.end_step();
        Ok(())
    }
}

fn drop_value(slot: &mut Option<Tensor>, pool: &mut Pool) {
    if let Some(tensor) = slot.take() {
        pool.release(&tensor);
        pool.reclaim(tensor);
    }
}

/// Adds a gradient to the sum so far.
fn add(sum: &mut Option<Tensor>, gradient: Tensor, pool: &mut Pool) -> Result<()> {
    let Some(so_far) = sum.take() else {
        *sum = Some(gradient);
        return Ok(());
    };
    let shape = gradient.shape().to_vec();
    let mut total = pool.take(gradient.len())?;
    binary(BinaryOp::Add, so_far.values()?, &shape, gradient.values()?, &shape, &mut total, &shape);
    pool.reclaim(so_far);
    pool.reclaim(gradient);
    *sum = Some(Tensor::new(shape, total)?);
    Ok(())
}
