//! How fast models are: versions of a model against each other and against other runtimes, interleaved.
//!
//! For each batch size and number of threads every contestant (a version in a runtime) is loaded once. Then they
//! take turns, round after round, so that other load on the machine affects all of them alike. A turn is one warm-up
//! run, which refills the caches, and then timed runs for a while. The first round is not counted. Each of secateur's
//! threads has a core of its own, where there are several.

pub(crate) mod forecast;
pub(crate) mod inputs;
pub(crate) mod interleaved;
mod memory;
pub(crate) mod native;
mod peer;
mod record;
pub(crate) mod stage;
#[cfg(test)]
mod synthetic;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use secateur_model::infer::{Binding, Inference};
use secateur_model::io::{self, Compression, ONNX, WriteOptions};
use secateur_model::text::counted;
use secateur_model::{Error, Model, Patch, Result, TensorId, prunable};
use secateur_runtime::Limits;
use serde::Serialize;
use stage::Stage;

use crate::measure::Count;
use crate::measure::{layer_macs, nonzeros, remaining_macs};
use crate::perf::costs::CostTable;
use crate::progress::Progress;
use crate::prune::Amount;
use crate::prune::masks::Masks;
use crate::prune::method::Method;
use crate::prune::{self, PruneOptions, Pruning, Subject};

pub use forecast::LayerForecast;
pub use peer::{PEERS, Peer};
pub use record::{LayerTime, Predicted, RuntimeInfo, Times, Timing, VersionInfo};

pub(crate) use record::busy;

/// What secateur's own runtime is called among the runtimes.
pub const OURS: &str = "secateur";
/// Rounds where no number is given.
pub const DEFAULT_ROUNDS: usize = 10;
/// How versions of a model are pruned.
#[derive(Clone, Debug, Default)]
pub struct VersionOptions {
    /// The methods; `l1` where there are none but sparsities.
    pub methods: Vec<Method>,
    /// The sparsities; a pattern that fixes the sparsity needs none.
    pub sparsities: Vec<f64>,
    /// How each method prunes: everything but the method and the amount is used.
    pub prune: PruneOptions,
    /// Files of masks that hold in every version.
    pub masks: Vec<PathBuf>,
}

/// A model with the weights that are timed.
#[derive(Clone)]
pub struct Version {
    info: VersionInfo,
    model: Arc<Model>,
    patch: Patch,
    /// Of each prunable tensor, the weights that are not zero.
    counts: BTreeMap<TensorId, Count>,
}

impl Version {
    /// A model as it came, and pruned in memory by each method at each sparsity. Without either, the model alone.
    ///
    /// # Errors
    /// `Usage` where the options do not fit the model, or a method has no sparsity; where a tensor cannot be
    /// read.
    pub fn all(model: &Arc<Model>, options: &VersionOptions) -> Result<Vec<Version>> {
        let masks = Masks::with_files(model, &options.masks)?;
        let subject = Subject::of(model);
        let unpruned = Masks::of_pairs(model)?.effective(model);
        let mut versions = vec![Version::new(model, &subject, None, unpruned)?];
        let mut methods = options.methods.clone();
        if methods.is_empty() && !options.sparsities.is_empty() {
            methods.push(Method::default());
        }
        for method in methods {
            let sparsities = method.sparsities(&options.sparsities);
            if sparsities.is_empty() {
                return Err(Error::usage(format!(
                    "method `{method}`: it needs a sparsity, for example option `sparsities=0.8`"
                )));
            }
            for sparsity in sparsities {
                let (_, patch) = pruned(&subject, &options.prune, &masks, method, sparsity)?;
                versions.push(Version::new(model, &subject, Some((method, sparsity)), patch)?);
            }
        }
        Ok(versions)
    }

    /// What it is.
    pub fn info(&self) -> &VersionInfo {
        &self.info
    }

    fn new(
        model: &Arc<Model>,
        subject: &Subject<'_>,
        method: Option<(Method, f64)>,
        patch: Patch,
    ) -> Result<Version> {
        let counts = subject
            .entries()?
            .par_iter()
            .filter(|entry| entry.view().is_some())
            .map(|entry| {
                let tensor = patch.load(model, entry.tensor)?;
                let count = Count { nonzero: nonzeros(tensor.data()), total: tensor.len() as u64 };
                Ok((entry.tensor, count))
            })
            .collect::<Result<BTreeMap<_, _>>>()?;
        let all = Count {
            nonzero: counts.values().map(|count| count.nonzero).sum(),
            total: counts.values().map(|count| count.total).sum(),
        };
        let info = VersionInfo {
            model: crate::names::file_name(model),
            method: method.map(|(m, _)| m.to_string()),
            target: method.map(|(_, target)| target),
            sparsity: all.sparsity(),
            macs: None,
            bytes: io::write_stream(model, &patch, &[], &mut std::io::sink())?,
        };
        Ok(Version { info, model: model.clone(), patch, counts })
    }

    /// What is known of it with inputs of these extents.
    ///
    /// # Errors
    /// Where shapes contradict each other, or a tensor cannot be read.
    fn bound(&self, binding: &Binding) -> Result<VersionInfo> {
        let mut info = self.info.clone();
        if let Some(graph) = &self.model.graph {
            let inference = Inference::of(&self.model, binding)?;
            let all = inference.total_macs();
            let layers = layer_macs(graph, &prunable::view(&self.model)?, &inference);
            let layers = layers.into_iter().filter_map(|(tensor, macs)| Some((macs?, self.counts[&tensor])));
            info.macs = all.filter(|all| *all > 0).map(|all| remaining_macs(all, layers) as f64 / all as f64);
        }
        Ok(info)
    }

    /// An ONNX file of this version: the model's own, or one written into a folder.
    ///
    /// # Errors
    /// `Unsupported` where the model is no ONNX model; `Io` where writing fails.
    fn onnx_file(&self, folder: &Path, name: &str) -> Result<PathBuf> {
        if self.model.source.format() != Some(&ONNX) {
            return Err(Error::unsupported(format!("`{}` is not an ONNX file", self.info.model)));
        }
        if self.patch.ids().next().is_none()
            && let Some(path) = self.model.path.as_ref().filter(|path| Compression::of_name(path).is_none())
        {
            return std::path::absolute(path).map_err(|e| Error::io(path, e));
        }
        let path = folder.join(name);
        io::write(&self.model, &self.patch, &[], &path, WriteOptions::default())?;
        Ok(path)
    }
}

/// A model pruned in memory by a method, the rest as the options and the model's own masks say.
///
/// # Errors
/// `Usage` where the options do not fit the model; where a tensor cannot be read.
pub(crate) fn pruned(
    subject: &Subject<'_>,
    options: &PruneOptions,
    masks: &Masks,
    method: Method,
    sparsity: f64,
) -> Result<(Pruning, Patch)> {
    let options = options.with(method, Amount::Sparsity(sparsity));
    let model = subject.model;
    let pruning = prune::plan_on(subject, &options, &masks.masks)?;
    let mut patch = pruning.patch(model);
    patch.fill_from(&masks.effective(model));
    Ok((pruning, patch))
}

/// What is timed and how.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// Batch sizes; where there are none, the one that the model fixes, or 1.
    pub batches: Vec<usize>,
    /// Numbers of threads; where there are none, all cores.
    pub threads: Vec<usize>,
    /// Rounds that count.
    pub rounds: usize,
    /// Runtimes to compare with.
    pub against: Vec<Peer>,
    /// Extents of inputs that are open.
    pub binding: Binding,
    /// The seed of the inputs.
    pub seed: u64,
    /// Whether each layer is timed too.
    pub profile: bool,
    /// What secateur's kernels are chosen by.
    pub costs: CostTable,
    /// Bounds on a run of secateur's.
    pub limits: Limits,
    /// The command that times the same again.
    pub command: String,
}

impl Default for BenchOptions {
    fn default() -> Self {
        BenchOptions {
            batches: Vec::new(),
            threads: Vec::new(),
            rounds: DEFAULT_ROUNDS,
            against: Vec::new(),
            binding: Binding::default(),
            seed: 0,
            profile: false,
            costs: CostTable::SHIPPED,
            limits: Limits::of_machine(),
            command: String::new(),
        }
    }
}

/// What was measured, and where.
#[derive(Clone, Debug, Serialize)]
pub struct Bench {
    /// The runtimes with their versions, secateur's own first.
    pub runtimes: Vec<RuntimeInfo>,
    /// The precision in which all of them compute.
    pub precision: &'static str,
    /// The instruction set that secateur's kernels use here.
    pub instruction_set: &'static str,
    /// Name of the processor.
    pub cpu: String,
    /// Cores that the process may use.
    pub cores: usize,
    /// The command that measures the same again.
    pub command: String,
    /// The seed of the inputs.
    pub seed: u64,
    /// Rounds that counted.
    pub rounds: usize,
    /// What secateur's kernels were chosen by.
    pub costs: CostTable,
    /// The models' weights; speed-ups are over the first.
    pub versions: Vec<VersionInfo>,
    /// The times, by batch size, number of threads, version and runtime.
    pub timings: Vec<Timing>,
    /// What was not timed, and why.
    pub notes: Vec<String>,
}

/// Times versions of models.
///
/// # Errors
/// `Usage` where there is nothing to time, or inputs stay open; where secateur's runtime cannot run a model.
/// What a peer cannot do is a note.
pub fn bench(versions: &[Version], options: &BenchOptions, progress: &dyn Progress) -> Result<Bench> {
    let first = versions.first().ok_or_else(|| Error::usage("no model is given"))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let or = |given: &[usize], default| if given.is_empty() { vec![default] } else { given.to_vec() };
    let batches = or(&options.batches, inputs::fixed_batch(&first.model)?.unwrap_or(1));
    let threads = or(&options.threads, cores);
    if options.rounds == 0 || batches.contains(&0) || threads.contains(&0) {
        return Err(Error::usage(
            "expected at least one round, one thread, and batches of at least one sample",
        ));
    }
    let mut bench = Bench {
        runtimes: vec![RuntimeInfo { name: OURS.into(), version: env!("CARGO_PKG_VERSION").into() }],
        precision: "f32",
        instruction_set: secateur_kernels::instruction_set(),
        cpu: crate::perf::cpu_name(),
        cores,
        command: options.command.clone(),
        seed: options.seed,
        rounds: options.rounds,
        costs: options.costs,
        versions: versions.iter().map(|version| version.bound(&options.binding)).collect::<Result<_>>()?,
        timings: Vec::new(),
        notes: Vec::new(),
    };
    let stage = Stage::new(versions, options, &mut bench.notes)?;
    bench.runtimes.extend(stage.peers());
    progress.begin("timing", (batches.len() * threads.len() * stage.turns()) as u64);
    for &batch in &batches {
        let prepared = stage.prepare(batch, &mut bench.notes)?;
        for &threads in &threads {
            progress.begin(&format!("batch {batch}, {}", counted(threads, "thread")), 0);
            bench.timings.extend(stage.time(&prepared, threads, &mut bench.notes, progress)?);
        }
    }
    if bench.timings.is_empty() {
        return Err(Error::usage(format!("nothing can be timed: {}", bench.notes.join("; "))));
    }
    let busy = record::busy(bench.timings.iter().map(|timing| &timing.latency));
    bench.notes.extend(busy);
    bench.compare();
    Ok(bench)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    #[test]
    fn versions_are_timed_in_turn() {
        let folder = tempfile::tempdir().unwrap();
        let files = crate::demo::unpack(folder.path()).unwrap();
        let model = Arc::new(io::read(&files.model).unwrap());
        let mut pruned =
            VersionOptions { methods: vec!["l1/2:4".parse().unwrap()], ..VersionOptions::default() };
        assert_eq!(Version::all(&model, &pruned).unwrap().len(), 2);
        pruned.methods = vec!["l1".parse().unwrap()];
        assert!(Version::all(&model, &pruned).err().unwrap().to_string().contains("`sparsities=0.8`"));
        pruned.sparsities = vec![0.5, 0.9];
        let versions = Version::all(&model, &pruned).unwrap();
        let sparsities: Vec<f64> = versions.iter().map(|v| (v.info.sparsity * 100.0).round()).collect();
        assert_eq!(sparsities, [0.0, 50.0, 90.0]);
        let options = BenchOptions {
            batches: vec![1, 4],
            threads: vec![1, 2],
            rounds: 2,
            profile: true,
            ..BenchOptions::default()
        };
        let found = bench(&versions, &options, &Silent).unwrap();
        assert_eq!(found.settings(), [(1, 1), (1, 2), (4, 1), (4, 2)]);
        assert_eq!(found.timings.len(), 4 * 3);
        for timing in &found.timings {
            let t = timing.latency;
            assert!(0.0 < t.best && t.best <= t.p10 && t.p10 <= t.median && t.median <= t.p90, "{t:?}");
            assert!(t.runs >= 2 && timing.speedup_best > 0.0);
            assert!(timing.layers.iter().any(|layer| layer.kernel.starts_with("Conv")));
        }
        assert!(found.timings.iter().all(|t| t.sparse_layers.is_some()));
        for timing in &found.timings {
            assert_eq!(timing.predicted.is_some(), timing.version > 0);
            assert!(timing.predicted.is_none_or(|p| p.seconds > 0.0 && p.off > -1.0));
        }
        assert!(found.timings.iter().filter(|t| t.version == 0).all(|t| t.speedup_median == 1.0));
    }
}
