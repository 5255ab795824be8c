//! The contestants and their turns.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rayon::ThreadPool;
use secateur_model::{Error, Result, Tensor, io};
use secateur_runtime::PlannedNode;

use super::forecast::Baseline;
use super::native::{self, NativeRunner, PROFILES};
use super::peer::{Given, PeerRunner, Process};
use super::record::{LayerTime, Loaded, Predicted, RuntimeInfo, Times, Timing};
use super::{BenchOptions, OURS, Version, inputs};
use crate::progress::Progress;

/// The least time that a turn's timed runs last.
pub(super) const LEAST_TURN: Duration = Duration::from_millis(20);
/// The most timed runs in a turn.
pub(super) const MOST_RUNS: usize = 200;
/// A run that takes longer than this refills the caches itself and needs no warm-up.
const LONG_RUN: f64 = 0.1;
/// Pause before a turn on several threads: threads of the previous runtime may still be spinning.
const PAUSE: Duration = Duration::from_millis(50);

/// A model loaded somewhere.
pub(crate) trait Runner {
    /// Runs for a while; the time of each run in seconds. `warm_up` adds a run before them that is not counted.
    fn turn(&mut self, warm_up: bool) -> Result<Vec<f64>>;

    /// The layers, each with its median time over some runs; `None` where the runtime cannot tell.
    fn profile(&self, _runs: usize) -> Result<Option<Vec<LayerTime>>> {
        Ok(None)
    }

    /// The basis of forecasts, where the fastest run takes `seconds`; `None` where the runtime cannot tell.
    fn baseline(&self, _seconds: f64) -> Result<Option<Baseline>> {
        Ok(None)
    }

    /// The nodes as they run; `None` where the runtime cannot tell.
    fn nodes(&self) -> Result<Vec<PlannedNode>> {
        Ok(Vec::new())
    }
}

/// A version's inputs at a batch size.
pub(super) struct Prepared {
    version: usize,
    batch: usize,
    inputs: Vec<(String, Tensor)>,
    /// The same as npy files, for peers.
    files: BTreeMap<String, PathBuf>,
    dims: BTreeMap<String, usize>,
}

/// What all settings share.
pub(super) struct Stage<'a> {
    versions: &'a [Version],
    options: &'a BenchOptions,
    peers: Vec<(&'static str, Rc<RefCell<Process>>)>,
    /// The versions as ONNX files for the peers, where they can be.
    files: Vec<Option<PathBuf>>,
    folder: tempfile::TempDir,
}

impl<'a> Stage<'a> {
    /// Starts the peers and writes the files they read. What is missing is noted.
    ///
    /// # Errors
    /// `Usage` where peers are asked for and none starts; `Io` where there is no room for temporary files.
    pub(super) fn new(
        versions: &'a [Version],
        options: &'a BenchOptions,
        notes: &mut Vec<String>,
    ) -> Result<Self> {
        let folder = tempfile::tempdir().map_err(|e| Error::io(std::env::temp_dir(), e))?;
        let mut peers = Vec::new();
        for &peer in &options.against {
            match Process::start(peer) {
                Ok(process) => peers.push((peer.title, Rc::new(RefCell::new(process)))),
                Err(why) => notes.push(format!("not timed: {}: {why}", peer.title)),
            }
        }
        // Speed-ups would be over secateur itself, which is not what was asked for.
        if peers.is_empty() && !options.against.is_empty() {
            return Err(Error::usage(notes.join("; ")));
        }
        let mut files = vec![None; versions.len()];
        for (i, version) in versions.iter().enumerate().filter(|_| !peers.is_empty()) {
            match version.onnx_file(folder.path(), &format!("{i}.onnx")) {
                Ok(file) => files[i] = Some(file),
                Err(why) => notes.push(format!("timed in {OURS} only: {why}")),
            }
        }
        Ok(Stage { versions, options, peers, files, folder })
    }

    /// The peers that take part.
    pub(super) fn peers(&self) -> impl Iterator<Item = RuntimeInfo> {
        let info = |(title, process): &(&str, Rc<RefCell<Process>>)| RuntimeInfo {
            name: (*title).to_string(),
            version: process.borrow().version.clone(),
        };
        self.peers.iter().map(info)
    }

    /// Turns of a setting, each contestant's loading among them.
    pub(super) fn turns(&self) -> usize {
        self.versions.len() * (self.peers.len() + 1) * (self.options.rounds + 2)
    }

    /// Makes the inputs of a batch size; versions that cannot take it are noted.
    ///
    /// # Errors
    /// `Usage` where inputs stay open, `Io` where files for peers cannot be written.
    pub(super) fn prepare(&self, batch: usize, notes: &mut Vec<String>) -> Result<Vec<Prepared>> {
        let mut prepared = Vec::new();
        for (i, version) in self.versions.iter().enumerate() {
            if let Some(fixed) = inputs::fixed_batch(&version.model)?.filter(|fixed| *fixed != batch) {
                let label = version.info.label();
                notes.push(format!("not timed: {label} in batches of {batch}: it takes {fixed} at a time"));
                continue;
            }
            let inputs = inputs::random(&version.model, &self.options.binding, batch, self.options.seed)?;
            let mut files = BTreeMap::new();
            for (k, (name, tensor)) in inputs.iter().enumerate().filter(|_| self.files[i].is_some()) {
                let path = self.folder.path().join(format!("{batch}-{i}-{k}.npy"));
                io::write_file(&path, false, |out| crate::data::write_npy(tensor, out))?;
                files.insert(name.clone(), path);
            }
            let dims = inputs::dims(&version.model, &inputs)?;
            prepared.push(Prepared { version: i, batch, inputs, files, dims });
        }
        Ok(prepared)
    }

    /// Loads the contestants and lets them take turns.
    ///
    /// # Errors
    /// Where secateur's runtime cannot run a version. What a peer cannot do is noted.
    pub(super) fn time(
        &self,
        prepared: &[Prepared],
        threads: usize,
        notes: &mut Vec<String>,
        progress: &dyn Progress,
    ) -> Result<Vec<Timing>> {
        let pool = native::pool(threads)?;
        let mut contestants = Vec::new();
        for given in prepared {
            contestants.extend(self.load(given, &pool, notes, progress)?);
        }
        let pause = if threads > 1 { PAUSE } else { Duration::ZERO };
        run_rounds(&mut contestants, self.options.rounds, pause, notes, progress)?;
        let baselines = self.baselines(&contestants)?;
        let timing = |contestant: Contestant<'_>| {
            let latency = Times::of(contestant.times);
            let baseline = baselines.get(&contestant.given.version).filter(|_| contestant.runtime == OURS);
            let predicted = baseline.map(|baseline| {
                let layers = baseline.forecast(&contestant.runner.nodes()?);
                let seconds = layers.iter().map(|layer| layer.predicted).sum();
                Ok::<_, Error>(Predicted { seconds, off: seconds / latency.best - 1.0 })
            });
            let layers = contestant.runner.profile(if self.options.profile { PROFILES } else { 1 })?;
            let sparse_layers = layers.as_ref().map(|layers| layers.iter().filter(|l| l.sparse).count());
            Ok(Timing {
                version: contestant.given.version,
                runtime: contestant.runtime.to_string(),
                batch: contestant.given.batch,
                threads,
                latency,
                throughput: contestant.given.batch as f64 / latency.median,
                load_seconds: contestant.loaded.seconds,
                memory: contestant.loaded.memory,
                speedup_median: f64::NAN,
                speedup_best: f64::NAN,
                predicted: predicted.transpose()?,
                sparse_layers,
                layers: layers.filter(|_| self.options.profile).unwrap_or_default(),
            })
        };
        contestants.into_iter().map(timing).collect()
    }

    /// For each version that was pruned here, the basis of its forecast: the same model unpruned.
    fn baselines(&self, contestants: &[Contestant<'_>]) -> Result<BTreeMap<usize, Rc<Baseline>>> {
        let mut baselines = BTreeMap::new();
        for contestant in contestants.iter().filter(|contestant| contestant.runtime == OURS) {
            let own = &self.versions[contestant.given.version];
            let pruned =
                |version: &Version| Arc::ptr_eq(&version.model, &own.model) && version.info.method.is_some();
            let followers: Vec<usize> =
                (0..).zip(self.versions).filter(|(_, v)| pruned(v)).map(|(i, _)| i).collect();
            if own.info.method.is_some() || followers.is_empty() {
                continue;
            }
            let seconds = Times::of(contestant.times.clone()).best;
            if let Some(baseline) = contestant.runner.baseline(seconds)? {
                let baseline = Rc::new(baseline);
                baselines.extend(followers.into_iter().map(|version| (version, baseline.clone())));
            }
        }
        Ok(baselines)
    }

    /// Loads a version in every runtime.
    fn load<'p>(
        &self,
        given: &'p Prepared,
        pool: &'p ThreadPool,
        notes: &mut Vec<String>,
        progress: &dyn Progress,
    ) -> Result<Vec<Contestant<'p>>> {
        let version = &self.versions[given.version];
        let label = version.info.label();
        let costs = (&self.options.costs, self.options.limits);
        let ours = NativeRunner::load(&version.model, &version.patch, costs, &given.inputs, pool);
        let (ours, loaded) = ours.map_err(|e| e.at(&label))?;
        let mut contestants = vec![Contestant::new(given, OURS, Box::new(ours), loaded)];
        progress.advance(1);
        for (title, process) in &self.peers {
            let Some(file) = &self.files[given.version] else { continue };
            let threads = pool.current_num_threads();
            let ask = Given { file, threads, inputs: &given.files, dims: &given.dims };
            match PeerRunner::load(process, &ask) {
                Ok((runner, loaded)) => {
                    contestants.push(Contestant::new(given, title, Box::new(runner), loaded));
                }
                Err(why) => notes.push(format!("not timed: {title} on {label}: {why}")),
            }
            progress.advance(1);
        }
        Ok(contestants)
    }
}

/// A version in a runtime.
struct Contestant<'a> {
    given: &'a Prepared,
    runtime: &'static str,
    runner: Box<dyn Runner + 'a>,
    loaded: Loaded,
    times: Vec<f64>,
    /// The last run's time.
    last: f64,
}

impl<'a> Contestant<'a> {
    fn new(given: &'a Prepared, runtime: &'static str, runner: Box<dyn Runner + 'a>, loaded: Loaded) -> Self {
        Contestant { given, runtime, runner, loaded, times: Vec::new(), last: loaded.seconds }
    }
}

/// Lets contestants take turns, a round that does not count first. A peer that fails drops out.
fn run_rounds(
    contestants: &mut Vec<Contestant<'_>>,
    rounds: usize,
    pause: Duration,
    notes: &mut Vec<String>,
    progress: &dyn Progress,
) -> Result<()> {
    for round in 0..=rounds {
        // Each round begins one further on, so that no contestant is always the first.
        let count = contestants.len();
        let mut failed = Vec::new();
        for i in (0..count).map(|i| (i + round) % count) {
            let contestant = &mut contestants[i];
            std::thread::sleep(pause);
            match contestant.runner.turn(contestant.last < LONG_RUN) {
                Ok(times) => {
                    contestant.last = times.last().copied().unwrap_or(contestant.last);
                    if round > 0 {
                        contestant.times.extend(times);
                    }
                }
                Err(why) if contestant.runtime != OURS => {
                    notes.push(format!("not timed: {}: {why}", contestant.runtime));
                    failed.push(i);
                }
                Err(error) => return Err(error),
            }
            progress.advance(1);
        }
        failed.sort_unstable();
        for i in failed.into_iter().rev() {
            contestants.remove(i);
        }
    }
    Ok(())
}
