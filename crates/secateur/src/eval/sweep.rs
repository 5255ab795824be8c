//! The loop over methods and sparsities: prune, evaluate, measure, record.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use secateur_model::{Error, Model, Patch, Result, TensorId, io};

use super::repaired;
pub use super::sparsities::{DEFAULT_MAX, DEFAULT_SENSITIVITY_STEP, DEFAULT_STEP, Sparsities};
use crate::calib::{self, CalibrateOptions};
use crate::data::metrics::{self, Metrics};
use crate::eval::evaluate::Evaluator;
use crate::files::size;
use crate::format;
use crate::measure::{Bytes, Count, Histogram};
use crate::measure::{layer_macs, nonzeros};
use crate::perf::bench::interleaved::{Interleaved, TimingSetup};
use crate::perf::costs::CostTable;
use crate::progress::{Part, Progress};
use crate::prune::Amount;
use crate::prune::evidence::SEED;
use crate::prune::method::Method;
use crate::prune::{PruneOptions, Subject};
use crate::records::{
    Environment, LatencySettings, LayerInfo, LayerPoint, Measure, Point, PointKey, Run, RunHeader, RunKind,
    RunWriter,
};
use crate::solve::{self, Repairer};

/// The default number of seeds for random methods.
pub const DEFAULT_RANDOM_SEEDS: usize = 5;

/// The default methods: magnitude per layer, per output and per input channel and over all
/// layers, and the random baseline.
///
/// # Panics
/// Never: the names are the table's.
pub fn default_methods() -> Vec<Method> {
    ["l1", "l1/channel", "l1/channel:1", "l1@global", "random"]
        .iter()
        .map(|m| m.parse().expect("a method of the table"))
        .collect()
}

/// What a sweep or a sensitivity analysis measures.
#[derive(Clone, Debug)]
pub struct SweepOptions {
    /// The methods that are compared; a sensitivity analysis takes one.
    pub methods: Vec<Method>,
    /// How each of them prunes: everything but the method and the amount is used. Its seed is that of the run.
    pub prune: PruneOptions,
    /// The sparsities.
    pub sparsities: Sparsities,
    /// The number of seeds for random methods.
    pub random_seeds: usize,
    /// What criteria that look at data are calibrated on, and models repaired.
    pub calibrate: Option<CalibrateOptions>,
    /// How each pruned model is repaired before it is measured.
    pub repair: Vec<solve::Method>,
    /// Whether each pruned model is timed, interleaved with the unpruned one.
    pub latency: bool,
    /// Whether each pruned model is written and compressed to measure its size.
    pub sizes: bool,
    /// What the data are called in the records.
    pub data: String,
    /// The recipe, for the records.
    pub recipe: serde_json::Value,
}

impl Default for SweepOptions {
    fn default() -> Self {
        SweepOptions {
            methods: default_methods(),
            prune: PruneOptions::default(),
            sparsities: Sparsities::default(),
            random_seeds: DEFAULT_RANDOM_SEEDS,
            calibrate: None,
            repair: Vec::new(),
            latency: false,
            sizes: true,
            data: String::new(),
            recipe: serde_json::Value::Null,
        }
    }
}

/// Sweeps over methods and sparsities and records the run in a folder. A run that was
/// interrupted resumes where it stopped and ends with the same results.
///
/// # Errors
/// Where the options do not fit the model, the folder holds another run, or evaluating fails.
pub fn sweep(
    model: &Arc<Model>,
    options: &SweepOptions,
    evaluator: &mut Evaluator,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<Run> {
    let seeds = options.random_seeds.max(1) as u64;
    if seeds > MAX_SEEDS {
        return Err(Error::usage(format!(
            "{seeds} seeds for random methods: at most {MAX_SEEDS} are allowed"
        )));
    }
    let mut jobs = Vec::new();
    for method in &options.methods {
        for target in options.sparsities.of(*method, DEFAULT_STEP)? {
            let drawn: Vec<Option<u64>> = if method.needs(&SEED) {
                (0..seeds).map(|i| Some(options.prune.seed.wrapping_add(i))).collect()
            } else {
                vec![None]
            };
            for seed in drawn {
                let mut job = options.prune.with(*method, Amount::Sparsity(target));
                job.seed = seed.unwrap_or(job.seed);
                let key = PointKey { method: method.to_string(), layer: None, seed, target };
                jobs.push(Job { key, options: job });
            }
        }
    }
    let names = options.methods.iter().map(Method::to_string).collect();
    let subject = Subject::of(model);
    Runner::new(model, &subject, options, evaluator, RunKind::Sweep, names)?.run(jobs, folder, progress)
}

/// Prunes each selected layer alone and records what each sparsity costs.
///
/// # Errors
/// As [`sweep`].
pub fn sensitivity(
    model: &Arc<Model>,
    options: &SweepOptions,
    evaluator: &mut Evaluator,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<Run> {
    let method = match options.methods[..] {
        [method] => method,
        ref several => {
            let found = several.len();
            return Err(Error::usage(format!(
                "expected one method, found {found}: each layer is pruned by one"
            )));
        }
    };
    if method.allocation.divides() {
        return Err(Error::usage(format!(
            "method `{method}`: each layer is pruned alone, so leave the allocation out"
        )));
    }
    let subject = Subject::of(model);
    let selected = selected(&subject, &options.prune.with(method, Amount::Sparsity(0.0)))?;
    let names = subject.names()?;
    let mut jobs = Vec::new();
    for tensor in selected {
        let path = model.tensor(tensor).path.clone();
        for target in options.sparsities.of(method, DEFAULT_SENSITIVITY_STEP)? {
            let mut job = options.prune.with(method, Amount::Sparsity(target));
            job.selector.include = vec![globset::escape(&path)];
            let layer = names.get(&tensor).unwrap_or(&path).clone();
            let key = PointKey { method: method.to_string(), layer: Some(layer), seed: None, target };
            jobs.push(Job { key, options: job });
        }
    }
    Runner::new(model, &subject, options, evaluator, RunKind::Sensitivity, vec![method.to_string()])?
        .run(jobs, folder, progress)
}

/// The most seeds for random methods.
const MAX_SEEDS: u64 = 1000;

/// The tensors that options select.
fn selected(subject: &Subject<'_>, options: &PruneOptions) -> Result<Vec<TensorId>> {
    let views = options.selector.select(subject.model, subject.entries()?)?;
    Ok(views.into_iter().map(|v| v.tensor).collect())
}

struct Job {
    key: PointKey,
    options: PruneOptions,
}

/// What all points of a run share.
struct Runner<'a> {
    model: &'a Arc<Model>,
    subject: &'a Subject<'a>,
    options: &'a SweepOptions,
    evaluator: &'a mut Evaluator,
    kind: RunKind,
    methods: Vec<String>,
    layers: Vec<Layer>,
    /// Elements of every float tensor that are not zero before pruning.
    before: BTreeMap<TensorId, Count>,
    /// How many of the model's parameters each tensor holds.
    parameters: Vec<(TensorId, u64)>,
    /// Multiply–accumulates of everything that is not a layer.
    other_macs: u64,
    sizes: bool,
}

struct Layer {
    tensor: TensorId,
    info: LayerInfo,
}

/// What a patch leaves of the weights.
struct Counts {
    /// Elements of every float tensor that are not zero.
    of: BTreeMap<TensorId, Count>,
    /// Of the changed layers: how many weights of each bin of the histogram are kept.
    kept: BTreeMap<TensorId, Vec<u64>>,
}

impl Counts {
    /// Those of the selected layers.
    fn of<'a>(&'a self, layers: &'a [Layer]) -> impl Iterator<Item = (TensorId, Count)> + 'a {
        let selected = layers.iter().filter(|layer| layer.info.selected).map(|layer| layer.tensor);
        selected.map(|id| (id, self.of.get(&id).copied().unwrap_or_default()))
    }
}

impl<'a> Runner<'a> {
    fn new(
        model: &'a Arc<Model>,
        subject: &'a Subject<'a>,
        options: &'a SweepOptions,
        evaluator: &'a mut Evaluator,
        kind: RunKind,
        methods: Vec<String>,
    ) -> Result<Self> {
        let (inference, entries, names) = (subject.inference()?, subject.entries()?, subject.names()?);
        let macs = layer_macs(model.graph()?, entries, inference);
        let selected = selected(subject, &options.prune.with(Method::default(), Amount::Sparsity(0.0)))?;
        let tensors = entries.iter().map(|entry| entry.tensor);
        let parameters = tensors.zip(subject.parameters()?.iter().copied()).collect();
        let mut before = BTreeMap::new();
        let mut layers = Vec::new();
        for entry in entries {
            let stored = model.tensor(entry.tensor);
            if !stored.dtype.is_prunable() {
                continue;
            }
            let tensor = stored.load()?;
            let total = tensor.len() as u64;
            before.insert(entry.tensor, Count { nonzero: nonzeros(tensor.data()), total });
            let chosen = selected.contains(&entry.tensor);
            let (op, macs) = match entry.view() {
                Some(view) => {
                    let macs = macs.get(&entry.tensor).copied().flatten();
                    (view.op_type.clone(), macs.unwrap_or(0))
                }
                None if chosen => ("bias".to_string(), 0),
                None => continue,
            };
            layers.push(Layer {
                tensor: entry.tensor,
                info: LayerInfo {
                    name: names.get(&entry.tensor).unwrap_or(&stored.path).clone(),
                    op,
                    shape: stored.shape.iter().map(|&d| d as u64).collect(),
                    weights: total,
                    macs,
                    selected: chosen,
                    histogram: Histogram::of(&tensor.to_f32s()?, Histogram::BINS),
                },
            });
        }
        let all = inference.known_macs();
        let in_layers: u64 = layers.iter().map(|l| l.info.macs).sum();
        Ok(Runner {
            model,
            subject,
            options,
            evaluator,
            kind,
            methods,
            layers,
            before,
            parameters,
            other_macs: all.saturating_sub(in_layers),
            sizes: options.sizes && kind == RunKind::Sweep,
        })
    }

    fn header(&self) -> Result<RunHeader> {
        let labelled = self.evaluator.has_labels();
        let measures: &[&str] =
            if labelled { &["loss", "top1", "top5"] } else { &["relative_l2", "cosine", "argmax_equal"] };
        Ok(RunHeader {
            kind: self.kind,
            model: crate::names::file_name(self.model),
            model_sha256: io::content_hash(self.model)?,
            data: self.options.data.clone(),
            samples: self.evaluator.samples() as u64,
            has_labels: labelled,
            measures: measures.iter().map(|m| (*m).to_string()).collect(),
            // Of these differences between models are told sample by sample.
            sample_measures: measures[..if labelled { 2 } else { 1 }]
                .iter()
                .map(|m| (*m).to_string())
                .collect(),
            methods: self.methods.clone(),
            seed: self.options.prune.seed,
            recipe: self.options.recipe.clone(),
            layers: self.layers.iter().map(|l| l.info.clone()).collect(),
            latency: None,
            repair: repaired::settings(self.model, self.options)?,
            environment: Environment {
                secateur: env!("CARGO_PKG_VERSION").to_string(),
                threads: rayon::current_num_threads(),
                cpu: crate::perf::cpu_name(),
            },
        })
    }

    fn run(mut self, jobs: Vec<Job>, folder: &Path, progress: &dyn Progress) -> Result<Run> {
        let mut header = self.header()?;
        let mut writer: Option<RunWriter> = None;
        let batches = self.evaluator.batches() as u64;
        progress.begin("unpruned", batches * (jobs.len() as u64 + 1));
        let started = Instant::now();
        let baseline = self.evaluator.baseline(progress)?;
        baseline.notes.iter().for_each(|note| progress.note(note));
        // A regression has no accuracies: the measures are those that came out.
        header.measures.retain(|m| recorded(&baseline, m).is_some());
        header.sample_measures.retain(|m| header.measures.contains(m));
        let timed = self.options.latency && self.kind == RunKind::Sweep;
        let ground = timed.then(|| self.ground(&mut header)).transpose()?;
        let writer = writer.insert(RunWriter::open(folder, &header)?);
        let header = writer.header().clone();
        let masked = self.evaluator.masks().effective(self.model);
        let beside =
            ground.as_ref().map(|ground| Interleaved::new(self.model, &masked, ground)).transpose()?;
        let time = |patch: &Patch| beside.as_ref().map(|beside| beside.time(patch)).transpose();
        if writer.unpruned().is_none() {
            let (patch, counts) = (Patch::new(), self.counts(&Patch::new())?);
            let sizes = self.sizes.then(|| size::bytes(self.model, &patch, &[], counts.of(&self.layers)));
            let mut point =
                self.point(&PointKey::unpruned(), counts, &baseline, sizes.transpose()?, &header)?;
            point.latency = time(&masked)?;
            writer.append(point, &samples(&baseline, &header), started.elapsed().as_secs_f64())?;
        }
        let base = &self.options.prune;
        let each: Vec<PruneOptions> =
            self.options.methods.iter().map(|m| base.with(*m, Amount::Sparsity(0.0))).collect();
        // A run that is complete needs neither.
        let open = jobs.iter().any(|job| !writer.has(&job.key));
        let (own, part) = (&self.evaluator.masks().masks, Part(progress));
        let data = self.options.calibrate.as_ref().filter(|_| open);
        let evidence = calib::evidence(self.model, own, &each, data, &part)?;
        let repairer = repaired::options(self.options)?.filter(|_| open);
        let repairer = repairer
            .map(|options| Repairer::new(self.model, Some((self.model, own)), &options, &part))
            .transpose()?;
        for job in jobs {
            if writer.has(&job.key) {
                progress.advance(batches);
                continue;
            }
            let started = Instant::now();
            progress.begin(&describe(&job.key), 0);
            let masks = &self.evaluator.masks().masks;
            let pruning = calib::plan(self.model, self.subject, &job.options, masks, &evidence)?;
            let patch = match &repairer {
                Some(repairer) => repaired::patch(repairer, self.model, &pruning, &masked, &part)?,
                None => pruning.patch(self.model),
            };
            let counts = self.counts(&patch)?;
            let (metrics, bytes) = self.measure(&patch, &counts, progress)?;
            let mut point = self.point(&job.key, counts, &metrics, bytes, &header)?;
            let mut whole = patch;
            whole.fill_from(&masked);
            point.latency = time(&whole)?;
            writer.append(point, &samples(&metrics, &header), started.elapsed().as_secs_f64())?;
        }
        Run::load(folder)
    }

    /// What models are timed on, which the header says.
    fn ground(&self, header: &mut RunHeader) -> Result<TimingSetup> {
        let inputs = self.evaluator.first_inputs()?;
        let batch = inputs.first().and_then(|(_, t)| t.shape().first().copied()).unwrap_or(1);
        let threads = rayon::current_num_threads();
        header.latency = Some(LatencySettings { batch, threads });
        TimingSetup::new(inputs, threads, CostTable::of_machine(false)?.0, self.evaluator.limits())
    }

    /// Counts what a patch leaves.
    fn counts(&self, patch: &Patch) -> Result<Counts> {
        let mut counts = Counts { of: self.before.clone(), kept: BTreeMap::new() };
        for id in patch.ids() {
            let tensor = patch.load(self.model, id)?;
            if let Some(count) = counts.of.get_mut(&id) {
                count.nonzero = nonzeros(tensor.data());
            }
            if let Some(layer) = self.layers.iter().find(|l| l.tensor == id) {
                counts.kept.insert(id, layer.info.histogram.counts_of(&tensor.to_f32s()?));
            }
        }
        Ok(counts)
    }

    /// Evaluates a pruned model, and meanwhile measures the size of its file where sizes are asked for: that uses one
    /// thread for most of the time, and evaluating leaves some idle.
    fn measure(
        &mut self,
        patch: &Patch,
        counts: &Counts,
        progress: &dyn Progress,
    ) -> Result<(Metrics, Option<Bytes>)> {
        let (model, layers, evaluator) = (self.model, &self.layers, &mut *self.evaluator);
        std::thread::scope(|scope| {
            let measured = || size::bytes(model, patch, &[], counts.of(layers));
            let sizes = self.sizes.then(|| scope.spawn(measured));
            let metrics = evaluator.evaluate(patch.clone(), progress);
            let sizes = sizes.map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
            Ok((metrics?, sizes.transpose()?))
        })
    }

    fn point(
        &self,
        key: &PointKey,
        counts: Counts,
        metrics: &Metrics,
        bytes: Option<Bytes>,
        header: &RunHeader,
    ) -> Result<Point> {
        let (mut selected, mut parameters) = (Count::default(), Count::default());
        let mut macs = Count { nonzero: self.other_macs, total: self.other_macs };
        let Counts { of: after, kept } = counts;
        let counts = |id: &TensorId| after.get(id).copied().unwrap_or_default();
        for layer in &self.layers {
            let count = counts(&layer.tensor);
            let share = if count.total == 0 { 0.0 } else { count.nonzero as f64 / count.total as f64 };
            macs.total += layer.info.macs;
            macs.nonzero += (layer.info.macs as f64 * share).round() as u64;
            let alone = key.layer.as_ref().is_none_or(|name| *name == layer.info.name);
            if layer.info.selected && alone {
                selected.nonzero += count.nonzero;
                selected.total += count.total;
            }
        }
        for (id, held) in self.parameters.iter().filter(|(_, held)| *held > 0) {
            let count = counts(id);
            parameters.nonzero += held - (count.total - count.nonzero);
            parameters.total += held;
        }
        let measures = header
            .measures
            .iter()
            .map(|name| {
                let found = recorded(metrics, name)
                    .ok_or_else(|| Error::internal(format!("measure `{name}` is missing")))?;
                Ok(Measure { name: name.clone(), value: found.value, standard_error: found.standard_error })
            })
            .collect::<Result<_>>()?;
        Ok(Point {
            id: key.id(),
            key: key.clone(),
            selected,
            parameters,
            macs,
            measures,
            bytes,
            latency: None,
            layers: self
                .layers
                .iter()
                .filter(|l| kept.contains_key(&l.tensor) || (l.info.selected && key.layer.is_none()))
                .map(|layer| {
                    let count = counts(&layer.tensor);
                    let unchanged = || layer.info.histogram.counts.clone();
                    LayerPoint {
                        name: layer.info.name.clone(),
                        sparsity: count.sparsity(),
                        nnz: count.nonzero,
                        kept: kept.get(&layer.tensor).cloned().unwrap_or_else(unchanged),
                    }
                })
                .collect(),
        })
    }
}

/// A measure of an evaluation under its name in records.
fn recorded<'m>(metrics: &'m Metrics, name: &str) -> Option<&'m metrics::Measure> {
    match name {
        "loss" => metrics.get("cross-entropy").or_else(|| metrics.get("mse")),
        "relative_l2" => metrics.get("relative-l2"),
        "argmax_equal" => metrics.get("same-argmax"),
        other => metrics.get(other),
    }
}

/// The rows of per-sample values to keep.
fn samples<'m>(metrics: &'m Metrics, header: &RunHeader) -> Vec<&'m [f32]> {
    let of = |name: &String| recorded(metrics, name).map_or(&[][..], |m| &m.per_sample);
    header.sample_measures.iter().map(of).collect()
}

fn describe(key: &PointKey) -> String {
    let layer = key.layer.as_ref().map(|l| format!(" {l}")).unwrap_or_default();
    let seed = key.seed.map(|s| format!(" (seed {s})")).unwrap_or_default();
    format!("{}{layer} at {}{seed}", key.method, format::percent(key.target))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use crate::prune::subject::tests::ANALYSED;

    /// Whatever the number of points: what is known of a model does not depend on how it is pruned.
    #[test]
    fn a_model_is_analysed_once() {
        let folder = tempfile::tempdir().unwrap();
        let files = crate::demo::unpack(folder.path()).unwrap();
        let model = Arc::new(io::read(&files.model).unwrap());
        let mut eval = crate::demo::eval_options(&files);
        eval.sampling.samples = Some(10);
        let options = SweepOptions {
            methods: vec!["l1".parse().unwrap()],
            sparsities: Sparsities::Listed(vec![0.3, 0.6, 0.9]),
            sizes: false,
            ..SweepOptions::default()
        };
        let measure = |kind: RunKind| {
            let mut evaluator = Evaluator::new(&model, &eval, None).unwrap();
            let into = folder.path().join(format!("{kind:?}"));
            match kind {
                RunKind::Sweep => sweep(&model, &options, &mut evaluator, &into, &Silent),
                RunKind::Sensitivity => sensitivity(&model, &options, &mut evaluator, &into, &Silent),
            }
        };
        for kind in [RunKind::Sweep, RunKind::Sensitivity] {
            let before = ANALYSED.get();
            assert!(measure(kind).unwrap().points.len() >= 3);
            assert_eq!(ANALYSED.get() - before, 1, "{kind:?}");
        }
    }
}
