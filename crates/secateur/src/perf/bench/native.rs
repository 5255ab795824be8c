//! Models in secateur's own runtime.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rayon::ThreadPool;
use secateur_model::{Error, Model, Patch, Result, Tensor};
use secateur_runtime::{Limits, NodeTime, PlannedNode, Probe, Session};

use super::forecast::{Baseline, Round};
use super::memory;
use super::record::{LayerTime, Loaded, Times};
use super::stage::{LEAST_TURN, MOST_RUNS, Runner};
use crate::perf::costs::CostTable;

/// Runs whose medians make a profile.
pub(super) const PROFILES: usize = 5;
/// Rounds measured for a forecast.
pub(crate) const ROUNDS: usize = 10;

/// A model in secateur's runtime.
pub(crate) struct NativeRunner<'a> {
    session: Session,
    inputs: &'a [(String, Tensor)],
    pool: &'a ThreadPool,
    /// What its kernels are chosen by.
    costs: CostTable,
}

/// A thread pool with each thread pinned to its own core, if there are several threads and enough cores: a thread that
/// slept during the turn of another contestant is otherwise often woken on a busy core and stays there.
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

impl<'a> NativeRunner<'a> {
    /// Prepares a model with the weights of a patch and runs it once; returns the time and memory that took.
    ///
    /// # Errors
    /// Where the runtime cannot run it.
    pub(crate) fn load(
        model: &Arc<Model>,
        patch: &Patch,
        (costs, limits): (&CostTable, Limits),
        inputs: &'a [(String, Tensor)],
        pool: &'a ThreadPool,
    ) -> Result<(Self, Loaded)> {
        let start = Instant::now();
        let (session, memory) = memory::growth(|| {
            pool.install(|| {
                let session = Session::with_costs(model.clone(), patch.clone(), costs.costs)?.within(limits);
                session.run(inputs.to_vec())?;
                Ok::<_, Error>(session)
            })
        });
        let loaded = Loaded { seconds: start.elapsed().as_secs_f64(), memory };
        Ok((NativeRunner { session: session?, inputs, pool, costs: *costs }, loaded))
    }

    /// Runs for a while; the time of each run in seconds. `warm_up` adds a run before them that is not counted.
    pub(crate) fn timed(&self, warm_up: bool) -> Result<Vec<f64>> {
        self.pool.install(|| {
            if warm_up {
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

    /// Each layer's times over some runs in a pool, reduced by `of`.
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

/// Measures a model layer by layer in rounds.
pub(crate) struct RoundWatch<'a> {
    runner: &'a NativeRunner<'a>,
    /// A pool of one thread.
    one: ThreadPool,
    probe: Probe,
}

impl<'a> RoundWatch<'a> {
    pub(crate) fn new(runner: &'a NativeRunner<'a>) -> Result<Self> {
        let one = pool(1)?;
        let mut probe = Probe::new();
        // The first run warms up.
        one.install(|| probe.run());
        Ok(RoundWatch { runner, one, probe })
    }

    /// The layers on the runner's threads and on one, and the probe's kernels, each in its turn.
    pub(crate) fn round(&mut self) -> Result<Round> {
        let times =
            |layers: Vec<LayerTime>| layers.into_iter().map(|layer| layer.seconds).collect::<Vec<_>>();
        let layers = times(self.runner.layers(1, self.runner.pool, |times| times.best)?);
        let on_one = match self.runner.pool.current_num_threads() {
            1 => layers.clone(),
            _ => times(self.runner.layers(1, &self.one, |times| times.best)?),
        };
        let probe = &mut self.probe;
        Ok(Round { layers, on_one, probe: self.one.install(|| probe.run()) })
    }

    /// The basis of forecasts from these rounds, where the fastest run takes `seconds`.
    pub(crate) fn baseline(&self, rounds: &[Round], seconds: f64) -> Result<Baseline> {
        let layers = self.runner.layers(1, self.runner.pool, |times| times.best)?;
        Ok(Baseline::new(&layers, rounds, &self.probe.estimates(&self.runner.costs.costs), seconds))
    }
}

impl Runner for NativeRunner<'_> {
    fn turn(&mut self, warm_up: bool) -> Result<Vec<f64>> {
        self.timed(warm_up)
    }

    fn profile(&self, runs: usize) -> Result<Option<Vec<LayerTime>>> {
        self.layers(runs, self.pool, |times| times.median).map(Some)
    }

    fn baseline(&self, seconds: f64) -> Result<Option<Baseline>> {
        let (mut watch, mut rounds) = (RoundWatch::new(self)?, Vec::new());
        for _ in 0..ROUNDS {
            rounds.push(watch.round()?);
        }
        watch.baseline(&rounds, seconds).map(Some)
    }

    fn nodes(&self) -> Result<Vec<PlannedNode>> {
        self.session.nodes(self.inputs.to_vec())
    }
}
