//! A graph compiled for inputs of given types and shapes.

use std::collections::HashMap;
use std::sync::Arc;

use secateur_kernels::decode::Layout;
use secateur_kernels::sparse::Form;
use secateur_model::{Error, Node, Result, Tensor, ValueId};

use crate::buffers::Pool;
use crate::fuse::{Epilogue, Views};
use crate::kernels::Kernel;
use crate::segment::{Segment, Values};
use crate::session::PlannedNode;

mod compile;
mod step;
mod watch;

pub(crate) use step::Step;
pub(crate) use watch::Watch;

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
    /// Where it only hands out its input: the place of that among the values that are asked for.
    pub(crate) observes: Option<usize>,
}

/// How a layer runs, where that follows from how many of its weights are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// On tensors, by a kernel for dense weights.
    Tensors,
    /// On tiles; where it has weights, these in a form.
    Tiles(Option<Form>),
    /// On one row or a few, its weights in a layout.
    FewRows(Layout),
}

/// By value: how the layer runs that computes it, and how long it takes by the costs in nanoseconds.
pub(crate) type Choices = HashMap<ValueId, (Choice, Option<f64>)>;

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
