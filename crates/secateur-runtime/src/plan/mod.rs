//! A graph compiled for inputs of given types and shapes.

use std::sync::Arc;

use secateur_model::{Error, Node, Result, Tensor, ValueId};

use crate::fuse::{Epilogue, Views};
use crate::kernels::Kernel;
use crate::pool::Pool;
use crate::segment::{Segment, Values};
use crate::session::{NodeTime, PlannedNode};

mod compile;
mod step;

pub(crate) use step::Step;

/// A node on its way to a step, and what was fused into it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Item {
    pub(crate) node: Node,
    pub(crate) epilogue: Epilogue,
    pub(crate) views: Views,
    /// The kernel, where a pass has chosen it already.
    pub(crate) kernel: Option<Arc<dyn Kernel>>,
    /// What it takes by the costs that kernels are chosen by, in nanoseconds, where they say it.
    pub(crate) estimate: Option<f64>,
    /// How many samples it computes one by one; less than 2 where it computes everything at once.
    pub(crate) samples: usize,
}

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
}

impl Plan {
    /// The steps.
    pub(crate) fn nodes(&self) -> Vec<PlannedNode> {
        self.steps.iter().map(Step::planned).collect()
    }

    /// Runs the steps; notes how long each took where asked.
    pub(crate) fn run(
        &self,
        inputs: Vec<Tensor>,
        pool: &mut Pool,
        mut times: Option<&mut Vec<NodeTime>>,
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
            let steps = &self.steps[segment.steps.clone()];
            if segment.samples > 1 {
                segment.run(steps, &mut values, pool, times.as_deref_mut())?;
                continue;
            }
            for step in steps {
                let time = step.run(&mut values.whole, pool)?;
                times.iter_mut().for_each(|times| times.push(step.timed(&values.whole, time)));
            }
        }
        let missing = || Error::internal("an output was not computed");
        self.outputs.iter().map(|&id| values.whole[id.index()].clone().ok_or_else(missing)).collect()
    }
}
