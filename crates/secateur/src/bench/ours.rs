//! Models in secateur's own runtime.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rayon::ThreadPool;
use secateur_model::{Edits, Error, Model, Result, Tensor};
use secateur_runtime::{Limits, NodeTime, PlannedNode, Session};

use super::forecast::Baseline;
use super::memory;
use super::record::{LayerTime, Loaded, Times};
use super::stage::{LEAST_TURN, MOST_RUNS, Runner};
use crate::costs::CostTable;

/// Runs whose medians make a profile.
pub(super) const PROFILES: usize = 5;
/// Runs the fastest layers of which a forecast starts from.
const BASELINE_RUNS: usize = 10;

/// A model in secateur's runtime.
pub(crate) struct OurRunner<'a> {
    session: Session,
    inputs: &'a [(String, Tensor)],
    pool: &'a ThreadPool,
}

/// A pool of threads to run in, each on a core of its own where there are several threads and as many cores: what was
/// asleep while others had their turn is else often woken on the core that another thread is busy on, and left there.
pub(crate) fn pool(threads: usize) -> Result<ThreadPool> {
    let mut cores = core_affinity::get_core_ids().unwrap_or_default();
    if threads == 1 || threads > cores.len() {
        cores.clear();
    }
    let bind = move |thread: usize| {
        if let Some(core) = cores.get(thread) {
            // Where it cannot be, the thread runs anywhere.
            core_affinity::set_for_current(*core);
        }
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).start_handler(bind).build();
    pool.map_err(|e| Error::internal(e.to_string()))
}

impl<'a> OurRunner<'a> {
    /// Prepares a model, with changed weights laid over it, and runs it once; tells what that took.
    ///
    /// # Errors
    /// Where the runtime cannot run it.
    pub(crate) fn load(
        model: &Arc<Model>,
        edits: &Edits,
        (costs, limits): (&CostTable, Limits),
        inputs: &'a [(String, Tensor)],
        pool: &'a ThreadPool,
    ) -> Result<(Self, Loaded)> {
        let start = Instant::now();
        let (session, memory) = memory::growth(|| {
            pool.install(|| {
                let session = Session::with_costs(model.clone(), edits.clone(), costs.costs)?.within(limits);
                session.run(inputs.to_vec())?;
                Ok::<_, Error>(session)
            })
        });
        let loaded = Loaded { seconds: start.elapsed().as_secs_f64(), memory };
        Ok((OurRunner { session: session?, inputs, pool }, loaded))
    }

    /// Each layer's time over some runs in a pool: that `of` them.
    fn layers(&self, runs: usize, pool: &ThreadPool, of: fn(&Times) -> f64) -> Result<Vec<LayerTime>> {
        let runs = (0..runs)
            .map(|_| Ok(pool.install(|| self.session.profile(self.inputs.to_vec()))?.1))
            .collect::<Result<Vec<_>>>()?;
        let time = |time: Duration| time.as_secs_f64();
        let layer = |(i, NodeTime { node, .. }): (usize, &NodeTime)| LayerTime {
            name: node.name.clone(),
            kernel: node.kind.clone(),
            sparse: node.is_sparse(),
            shape: node.shape.clone(),
            estimate: node.estimate.map(time),
            seconds: of(&Times::of(runs.iter().map(|run| time(run[i].time)).collect())),
        };
        Ok(runs.first().map(|nodes| nodes.iter().enumerate().map(layer).collect()).unwrap_or_default())
    }
}

impl Runner for OurRunner<'_> {
    fn turn(&mut self, rouse: bool) -> Result<Vec<f64>> {
        self.pool.install(|| {
            if rouse {
                self.session.run(self.inputs.to_vec())?;
            }
            let mut times = Vec::new();
            let begin = Instant::now();
            while times.is_empty() || (begin.elapsed() < LEAST_TURN && times.len() < MOST_RUNS) {
                let inputs = self.inputs.to_vec();
                let start = Instant::now();
                self.session.run(inputs)?;
                times.push(start.elapsed().as_secs_f64());
            }
            Ok(times)
        })
    }

    fn profile(&self, runs: usize) -> Result<Option<Vec<LayerTime>>> {
        self.layers(runs, self.pool, |times| times.median).map(Some)
    }

    fn baseline(&self, seconds: f64, costs: &CostTable) -> Result<Option<Baseline>> {
        let best = |pool: &ThreadPool| self.layers(BASELINE_RUNS, pool, |times| times.best);
        let layers = best(self.pool)?;
        let on_one = match self.pool.current_num_threads() {
            1 => None,
            _ => Some(best(&pool(1)?)?),
        };
        Ok(Some(Baseline::new(&layers, on_one.as_ref().unwrap_or(&layers), seconds, costs)))
    }

    fn nodes(&self) -> Result<Vec<PlannedNode>> {
        self.session.nodes(self.inputs.to_vec())
    }
}
