//! A graph compiled for inputs of given types and shapes.

use secateur_model::{Error, Result, Tensor, ValueId};

use crate::buffers::Pool;
use crate::item::Choices;
use segment::{Segment, Values};
use step::Step;

mod compile;
mod control;
mod program;
mod segment;
mod step;
mod watch;

pub(crate) use program::Program;
pub use step::PlannedNode;
pub use watch::NodeTime;
pub(crate) use watch::Watch;

/// A list of steps for one signature of inputs.
pub(crate) struct Plan {
    steps: Vec<Step>,
    /// The steps in their order, in segments, some of which run sample by sample.
    segments: Vec<Segment>,
    /// Inputs, then captures.
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
    constants: Vec<(ValueId, Tensor)>,
    /// Bytes of constants that the file does not have: what was folded.
    folded: u64,
    values: usize,
    choices: Choices,
}

impl Plan {
    /// The steps.
    pub(crate) fn nodes(&self) -> Vec<PlannedNode> {
        self.steps.iter().map(Step::planned).collect()
    }

    /// How its layers run.
    pub(crate) fn choices(&self) -> &Choices {
        &self.choices
    }

    /// Runs the steps.
    pub(crate) fn run(
        &self,
        inputs: Vec<Tensor>,
        pool: &mut Pool,
        watch: &mut Watch<'_>,
    ) -> Result<Vec<Tensor>> {
        let mut values = Values::new(self.values);
        pool.set_live(pool.live().saturating_add(self.folded));
        for (&id, tensor) in self.inputs.iter().zip(inputs) {
            pool.hold(&tensor);
            values.whole[id.index()] = Some(tensor);
        }
        for (id, tensor) in &self.constants {
            values.whole[id.index()] = Some(tensor.clone());
        }
        for segment in &self.segments {
            if segment.samples > 1 {
                segment.run(&self.steps, &mut values, pool, watch)?;
                continue;
            }
            for index in segment.steps.clone() {
                let step = &self.steps[index];
                watch.before(step, &values.whole, 0)?;
                let time = step.run(&mut values.whole, pool)?;
                watch.after(index, step, &values.whole, time);
            }
        }
        let missing = || Error::internal("an output was not computed");
        self.outputs.iter().map(|&id| values.whole[id.index()].clone().ok_or_else(missing)).collect()
    }
}
