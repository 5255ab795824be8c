//! Graphs with the plans compiled for them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use secateur_model::ops::Fact;
use secateur_model::{Graph, Result, Tensor, ValueId};

use super::{Plan, PlannedNode, Watch};
use crate::buffers::Pool;
use crate::item::Choices;
use crate::weights::Weights;

/// Plans kept for a graph at the same time: batches of two sizes and a few image sizes.
const PLANS_KEPT: usize = 8;

/// Steps of a nested graph that compiling a node takes as long as.
const COMPILE_STEPS: usize = 10;

/// A graph with the plans compiled for it so far: the main graph, or the body of a control-flow node.
pub(crate) struct Program {
    pub(crate) graph: Arc<Graph>,
    pub(crate) weights: Arc<Weights>,
    plans: Mutex<Vec<Entry>>,
}

/// A plan for inputs (then captures) of given types and shapes.
struct Entry {
    inputs: Vec<Fact>,
    /// Values that are handed out while it runs.
    observed: Vec<ValueId>,
    /// How the layers ran before an update, where they are to keep that.
    kept: Option<Choices>,
    /// `None` after an update, until it is asked for.
    plan: Option<Arc<Plan>>,
}

impl Program {
    pub(crate) fn new(graph: Arc<Graph>, weights: Arc<Weights>) -> Self {
        Program { graph, weights, plans: Mutex::default() }
    }

    /// Runs with other weights from here on. Where kernels are kept, so are the choices of the plans so far.
    pub(crate) fn update(&mut self, weights: Arc<Weights>, keep_kernels: bool) {
        self.weights = weights;
        let plans = self.plans.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !keep_kernels {
            plans.clear();
        }
        for entry in plans {
            if let Some(plan) = entry.plan.take() {
                entry.kept = Some(plan.choices().clone());
            }
        }
    }

    /// The plan for inputs (then captures) such as these, with these values handed out; whoever waits for a new one
    /// counts that as steps.
    fn plan(&self, inputs: Vec<Fact>, observed: &[ValueId], pool: Option<&mut Pool>) -> Result<Arc<Plan>> {
        let of = |entry: &&mut Entry| entry.inputs == inputs && entry.observed == observed;
        let mut kept = None;
        if let Some(entry) = self.lock().iter_mut().find(of) {
            if let Some(plan) = &entry.plan {
                return Ok(plan.clone());
            }
            kept = entry.kept.clone();
        }
        if let Some(pool) = pool {
            pool.count(COMPILE_STEPS * self.graph.nodes.len(), 0)?;
        }
        // Not locked meanwhile: compiling waits for threads, which may run another plan.
        let plan = Arc::new(Plan::compile(&self.graph, &self.weights, &inputs, observed, kept.as_ref())?);
        let mut plans = self.lock();
        match plans.iter_mut().find(of) {
            Some(entry) => entry.plan = Some(plan.clone()),
            None => {
                if plans.len() == PLANS_KEPT {
                    plans.remove(0);
                }
                let (observed, plan) = (observed.to_vec(), Some(plan.clone()));
                plans.push(Entry { inputs, observed, kept, plan });
            }
        }
        // After an update, weights that stay wait in the cache for the last plan to be compiled.
        if plans.iter().all(|entry| entry.plan.is_some()) {
            self.weights.packed.drop_unused();
        }
        Ok(plan)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the graph runs on inputs such as these, then captures.
    pub(crate) fn nodes(&self, inputs: &[Tensor]) -> Result<Vec<PlannedNode>> {
        Ok(self.plan(facts(inputs), &[], None)?.nodes())
    }

    /// Runs the graph on the values of its inputs, then its captures; `watch` sees these values.
    pub(crate) fn run(
        &self,
        inputs: Vec<Tensor>,
        observed: &[ValueId],
        pool: &mut Pool,
        watch: &mut Watch<'_>,
    ) -> Result<Vec<Tensor>> {
        self.plan(facts(&inputs), observed, Some(pool))?.run(inputs, pool, watch)
    }
}

/// The types and shapes of tensors.
fn facts(tensors: &[Tensor]) -> Vec<Fact> {
    tensors.iter().map(|t| Fact::new(t.dtype(), t.shape())).collect()
}
