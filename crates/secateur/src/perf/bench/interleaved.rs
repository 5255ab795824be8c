//! A pruned model timed beside the same model unpruned.

use std::sync::Arc;

use rayon::ThreadPool;
use secateur_model::{Model, Patch, Result, Tensor};
use secateur_runtime::Limits;

use super::native::{self, NativeRunner};
use super::record::Times;
use crate::perf::costs::CostTable;
use crate::records::Latency;

/// Rounds in which both take turns.
const ROUNDS: usize = 5;

/// What both models run on.
pub(crate) struct TimingSetup {
    inputs: Vec<(String, Tensor)>,
    pool: ThreadPool,
    costs: CostTable,
    limits: Limits,
}

impl TimingSetup {
    /// Threads for runs on these inputs.
    ///
    /// # Errors
    /// `Internal` where no threads can be started.
    pub(crate) fn new(
        inputs: Vec<(String, Tensor)>,
        threads: usize,
        costs: CostTable,
        limits: Limits,
    ) -> Result<TimingSetup> {
        Ok(TimingSetup { inputs, pool: native::pool(threads)?, costs, limits })
    }

    /// A model with changed weights, ready to run.
    fn load(&self, model: &Arc<Model>, patch: &Patch) -> Result<NativeRunner<'_>> {
        let (runner, _) =
            NativeRunner::load(model, patch, (&self.costs, self.limits), &self.inputs, &self.pool)?;
        Ok(runner)
    }
}

/// The unpruned model, loaded once, against which pruned ones are timed.
pub(crate) struct Interleaved<'a> {
    model: Arc<Model>,
    ground: &'a TimingSetup,
    unpruned: NativeRunner<'a>,
}

impl<'a> Interleaved<'a> {
    /// Loads the model with its own masks.
    ///
    /// # Errors
    /// Where the runtime cannot run it.
    pub(crate) fn new(model: &Arc<Model>, masked: &Patch, ground: &'a TimingSetup) -> Result<Self> {
        Ok(Interleaved { model: model.clone(), ground, unpruned: ground.load(model, masked)? })
    }

    /// The time of the model with changed weights, in turn with the unpruned model.
    ///
    /// # Errors
    /// Where the runtime cannot run it.
    pub(crate) fn time(&self, patch: &Patch) -> Result<Latency> {
        let pruned = self.ground.load(&self.model, patch)?;
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            rounds.push((pruned.timed(true)?, self.unpruned.timed(true)?));
        }
        Ok(latency(&rounds))
    }
}

/// Summarises rounds of runs: the times of a pruned model and of the unpruned one, in seconds.
fn latency(rounds: &[(Vec<f64>, Vec<f64>)]) -> Latency {
    let pruned = Times::of(rounds.iter().flat_map(|(pruned, _)| pruned).copied().collect());
    let unpruned = Times::of(rounds.iter().flat_map(|(_, unpruned)| unpruned).copied().collect());
    let ratios = rounds
        .iter()
        .map(|(pruned, unpruned)| Times::of(pruned.clone()).median / Times::of(unpruned.clone()).median);
    Latency {
        median: pruned.median,
        p10: pruned.p10,
        p90: pruned.p90,
        runs: pruned.runs,
        unpruned: unpruned.median,
        share: Times::of(ratios.collect()).median,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_within_rounds_so_that_a_slow_moment_meets_both() {
        let rounds = [(vec![1.0, 1.2], vec![2.0, 2.4]), (vec![4.0], vec![8.0]), (vec![1.0], vec![2.0])];
        let found = latency(&rounds);
        assert_eq!((found.share, found.runs), (0.5, 4));
        assert_eq!((found.median, found.unpruned), (1.1, 2.2));
        assert!(found.p10 <= found.median && found.median <= found.p90);
    }
}
