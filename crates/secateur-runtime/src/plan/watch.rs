//! What is seen of a run: how long each node takes, and values inside the graph.

use std::time::Duration;

use secateur_model::{Result, Tensor};

use super::{PlannedNode, Step};

/// How long a node took.
#[derive(Clone, Debug)]
pub struct NodeTime {
    /// The node.
    pub node: PlannedNode,
    /// The time.
    pub time: Duration,
}

/// Takes a value: its place among those asked for, its elements, and where they begin along the first axis.
pub(crate) type Observer<'a> = &'a mut dyn FnMut(usize, &Tensor, usize) -> Result<()>;

/// Who watches a run; nobody by default.
#[derive(Default)]
pub(crate) struct Watch<'a> {
    /// How long each step took, of all samples together.
    pub(crate) times: Option<Vec<NodeTime>>,
    pub(crate) observer: Option<Observer<'a>>,
}

impl Watch<'_> {
    /// Whether anybody watches: then samples are computed one after the other.
    pub(crate) fn watches(&self) -> bool {
        self.times.is_some() || self.observer.is_some()
    }

    /// A step is about to run, on this sample.
    pub(crate) fn before(&mut self, step: &Step, values: &[Option<Tensor>], sample: usize) -> Result<()> {
        if let (Some(at), Some(observer)) = (step.observes, &mut self.observer) {
            for tensor in step.inputs.iter().flatten().filter_map(|(id, _)| values[id.index()].as_ref()) {
                let rows = tensor.shape().first().copied().unwrap_or(0);
                observer(at, tensor, sample * rows)?;
            }
        }
        Ok(())
    }

    /// Step `index` has run.
    pub(crate) fn after(&mut self, index: usize, step: &Step, values: &[Option<Tensor>], time: Duration) {
        if let Some(times) = &mut self.times {
            match times.get_mut(index) {
                Some(sum) => sum.time += time,
                None => times.push(step.timed(values, time)),
            }
        }
    }
}
