//! The loop over methods and sparsities: prune, evaluate, measure, record.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use secateur_model::infer::{Binding, Inference};
use secateur_model::model::encode;
use secateur_model::{Error, Model, Patch, Result, TensorId, io, prunable};

use crate::bench::beside::{Beside, Ground};
use crate::costs::CostTable;
use crate::data::metrics::{self, Metrics};
use crate::evaluate::Evaluator;
use crate::inspect::{count_nonzero, layer_macs};
use crate::layer_names;
use crate::pack;
use crate::progress::Progress;
use crate::prune::Amount;
use crate::prune::evidence::{EvidenceSet, SEED};
use crate::prune::method::Method;
use crate::prune::{self, PruneOptions};
use crate::recipe::{Recipe, Share};
use crate::report::{
    Bytes, Count, Environment, Histogram, LatencySettings, LayerInfo, LayerPoint, Measure, Point, PointKey,
    Run, RunHeader, RunKind, RunWriter, format,
};

/// Distance between sparsities where none is given: the article's.
pub const DEFAULT_STEP: f64 = 0.05;
/// The largest sparsity where none is given.
pub const DEFAULT_MAX: f64 = 0.95;
/// Distance between the sparsities of a sensitivity run where none is given.
pub const DEFAULT_SENSITIVITY_STEP: f64 = 0.2;
/// Seeds that random methods are drawn with where no number is given.
pub const DEFAULT_RANDOM_SEEDS: usize = 5;

/// The methods of the article and the random baseline.
///
/// # Panics
/// Never: the names are the table's.
pub fn default_methods() -> Vec<Method> {
    ["l1", "l1/channel", "l1/channel:1", "l1@global", "random"]
        .iter()
        .map(|m| m.parse().expect("a method of the table"))
        .collect()
}

/// The methods that a recipe compares: those of a sweep's own section, else those that every command prunes by.
pub fn methods(recipe: &Recipe) -> Vec<Method> {
    let said = [&recipe.sweep.method, &recipe.prune.method].into_iter().find(|methods| !methods.is_empty());
    said.cloned().unwrap_or_else(default_methods)
}

/// Sweeps over the recipe's methods and sparsities and records the run in a folder. A run that was
/// interrupted goes on where it stopped and ends in the same results.
///
/// # Errors
/// Where the recipe does not fit the model, the folder holds another run, or evaluating fails.
pub fn sweep(
    model: &Arc<Model>,
    recipe: &Recipe,
    evaluator: &mut Evaluator,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<Run> {
    let methods = methods(recipe);
    let seed = recipe.seed.unwrap_or(0);
    let seeds = recipe.sweep.random_seeds.unwrap_or(DEFAULT_RANDOM_SEEDS).max(1) as u64;
    if seeds > MAX_SEEDS {
        return Err(Error::usage(format!(
            "{seeds} seeds of random methods: {MAX_SEEDS} at most are drawn with"
        )));
    }
    let mut jobs = Vec::new();
    for method in &methods {
        for target in sparsities(*method, recipe, DEFAULT_STEP)? {
            let drawn: Vec<Option<u64>> = if method.needs(&SEED) {
                (0..seeds).map(|i| Some(seed.wrapping_add(i))).collect()
            } else {
                vec![None]
            };
            for seed in drawn {
                let mut options = recipe.options_for(*method, Amount::Sparsity(target))?;
                options.seed = seed.unwrap_or(options.seed);
                let key = PointKey { method: method.to_string(), layer: None, seed, target };
                jobs.push(Job { key, options });
            }
        }
    }
    let names = methods.iter().map(Method::to_string).collect();
    Runner::new(model, recipe, evaluator, RunKind::Sweep, names)?.run(jobs, folder, progress)
}

/// Prunes each selected layer alone and records what each sparsity costs.
///
/// # Errors
/// As [`sweep`].
pub fn sensitivity(
    model: &Arc<Model>,
    recipe: &Recipe,
    evaluator: &mut Evaluator,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<Run> {
    let method = match recipe.only_method("each layer is pruned by one; run this once for each")? {
        Some(method) => method,
        None => "l1".parse()?,
    };
    if method.allocation.divides() {
        return Err(Error::usage(format!(
            "method `{method}`: each layer is pruned alone, so leave the allocation out"
        )));
    }
    let selected = selected(model, &recipe.options_for(method, Amount::Sparsity(0.0))?)?;
    let names = layer_names::names(model, &prunable::view(model)?);
    let mut jobs = Vec::new();
    for tensor in selected {
        let path = model.tensor(tensor).path.clone();
        for target in sparsities(method, recipe, DEFAULT_SENSITIVITY_STEP)? {
            let mut options = recipe.options_for(method, Amount::Sparsity(target))?;
            options.selector.include = vec![globset::escape(&path)];
            let layer = names.get(&tensor).unwrap_or(&path).clone();
            let key = PointKey { method: method.to_string(), layer: Some(layer), seed: None, target };
            jobs.push(Job { key, options });
        }
    }
    Runner::new(model, recipe, evaluator, RunKind::Sensitivity, vec![method.to_string()])?
        .run(jobs, folder, progress)
}

/// The most seeds that random methods are drawn with.
const MAX_SEEDS: u64 = 1000;

/// The smallest distance between sparsities: a thousand points of each method.
const MIN_STEP: f64 = 0.001;

/// The sparsities of a method, rising: the one that its pattern fixes, or multiples of the step up to the largest
/// where the recipe has one of these, or those that the recipe lists, or the default multiples.
pub(crate) fn sparsities(method: Method, recipe: &Recipe, default_step: f64) -> Result<Vec<f64>> {
    if let Some(fixed) = method.pattern.sparsity() {
        return Ok(vec![fixed]);
    }
    if recipe.sweep.step.is_none() && recipe.sweep.max.is_none() && !recipe.prune.sparsity.is_empty() {
        let mut listed = recipe.prune.sparsities();
        listed.sort_by(f64::total_cmp);
        listed.dedup();
        return Ok(listed);
    }
    let step = recipe.sweep.step.map_or(default_step, Share::get);
    let max = recipe.sweep.max.map_or(DEFAULT_MAX, Share::get);
    let meant = step >= MIN_STEP && (step..=1.0).contains(&max);
    if !meant {
        return Err(Error::usage(format!(
            "steps of {step:?} up to {max}: expected a step of at least {MIN_STEP} and a largest sparsity from \
             there to 1"
        )));
    }
    let count = (max / step + 1e-9).floor() as usize;
    // Rounded so that 3 · 0.05 is 0.15 in every record.
    Ok((1..=count).map(|i| (i as f64 * step * 1e6).round() / 1e6).collect())
}

/// The tensors that options select.
fn selected(model: &Model, options: &PruneOptions) -> Result<Vec<TensorId>> {
    let views = options.selector.select(model, &prunable::view(model)?)?;
    Ok(views.into_iter().map(|v| v.tensor).collect())
}

struct Job {
    key: PointKey,
    options: PruneOptions,
}

/// What all points of a run share.
struct Runner<'a> {
    model: &'a Arc<Model>,
    recipe: &'a Recipe,
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

impl<'a> Runner<'a> {
    fn new(
        model: &'a Arc<Model>,
        recipe: &'a Recipe,
        evaluator: &'a mut Evaluator,
        kind: RunKind,
        methods: Vec<String>,
    ) -> Result<Self> {
        let inference = Inference::of(model, &Binding::default())?;
        let entries = prunable::view(model)?;
        let macs = layer_macs(model.graph()?, &entries, &inference);
        let selected = selected(model, &recipe.options_for("l1".parse()?, Amount::Sparsity(0.0))?)?;
        let names = layer_names::names(model, &entries);
        let parameters = prunable::parameters(model, &entries);
        let parameters = entries.iter().map(|entry| entry.tensor).zip(parameters).collect();
        let mut before = BTreeMap::new();
        let mut layers = Vec::new();
        for entry in &entries {
            let stored = model.tensor(entry.tensor);
            if !stored.dtype.is_prunable() {
                continue;
            }
            let tensor = stored.load()?;
            let total = tensor.len() as u64;
            before.insert(entry.tensor, Count { nonzero: count_nonzero(tensor.data()), total });
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
            recipe,
            evaluator,
            kind,
            methods,
            layers,
            before,
            parameters,
            other_macs: all.saturating_sub(in_layers),
            sizes: !recipe.sweep.no_sizes && kind == RunKind::Sweep,
        })
    }

    fn header(&self) -> Result<RunHeader> {
        let labelled = self.evaluator.has_labels();
        let data: Vec<String> = self
            .recipe
            .data
            .data
            .iter()
            .map(|p| {
                p.file_name().map_or_else(|| p.display().to_string(), |n| n.to_string_lossy().into_owned())
            })
            .collect();
        let measures: &[&str] =
            if labelled { &["loss", "top1", "top5"] } else { &["relative_l2", "cosine", "argmax_equal"] };
        Ok(RunHeader {
            kind: self.kind,
            model: crate::file_name(self.model),
            model_sha256: io::content_hash(self.model)?,
            data: data.join(", "),
            samples: self.evaluator.samples() as u64,
            has_labels: labelled,
            measures: measures.iter().map(|m| (*m).to_string()).collect(),
            // Of these differences between models are told sample by sample.
            sample_measures: measures[..if labelled { 2 } else { 1 }]
                .iter()
                .map(|m| (*m).to_string())
                .collect(),
            methods: self.methods.clone(),
            seed: self.recipe.seed.unwrap_or(0),
            recipe: self.recipe.as_text().to_json()?,
            layers: self.layers.iter().map(|l| l.info.clone()).collect(),
            latency: None,
            environment: Environment {
                secateur: env!("CARGO_PKG_VERSION").to_string(),
                threads: rayon::current_num_threads(),
                cpu: crate::cpu_name(),
            },
        })
    }

    fn run(self, jobs: Vec<Job>, folder: &Path, progress: &dyn Progress) -> Result<Run> {
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
        let timed = self.recipe.sweep.latency && self.kind == RunKind::Sweep;
        let ground = timed.then(|| self.ground(&mut header)).transpose()?;
        let writer = writer.insert(RunWriter::open(folder, &header)?);
        let header = writer.header().clone();
        let masked = self.evaluator.masks().effective(self.model);
        let beside = ground.as_ref().map(|ground| Beside::new(self.model, &masked, ground)).transpose()?;
        let time = |patch: &Patch| beside.as_ref().map(|beside| beside.time(patch)).transpose();
        if writer.unpruned().is_none() {
            let mut point = self.point(&PointKey::unpruned(), &Patch::new(), &baseline, &header)?;
            point.latency = time(&masked)?;
            writer.append(point, &samples(&baseline, &header), started.elapsed().as_secs_f64())?;
        }
        let evidence = EvidenceSet::gather(jobs.iter().map(|job| &job.options))?;
        for job in jobs {
            if writer.has(&job.key) {
                progress.advance(batches);
                continue;
            }
            let started = Instant::now();
            progress.begin(&describe(&job.key), 0);
            let pruning =
                prune::plan_with(self.model, &job.options, &self.evaluator.masks().masks, &evidence)?;
            let patch = pruning.patch(self.model);
            let metrics = self.evaluator.evaluate(patch.clone(), progress)?;
            let mut point = self.point(&job.key, &patch, &metrics, &header)?;
            let mut whole = patch;
            whole.fill_from(&masked);
            point.latency = time(&whole)?;
            writer.append(point, &samples(&metrics, &header), started.elapsed().as_secs_f64())?;
        }
        Run::load(folder)
    }

    /// What models are timed on, which the header says.
    fn ground(&self, header: &mut RunHeader) -> Result<Ground> {
        let inputs = self.evaluator.first_inputs()?;
        let batch = inputs.first().and_then(|(_, t)| t.shape().first().copied()).unwrap_or(1);
        let threads = rayon::current_num_threads();
        header.latency = Some(LatencySettings { batch, threads });
        Ground::new(inputs, threads, CostTable::of_machine(false)?.0, self.evaluator.limits())
    }

    fn point(&self, key: &PointKey, patch: &Patch, metrics: &Metrics, header: &RunHeader) -> Result<Point> {
        let (mut selected, mut parameters) = (Count::default(), Count::default());
        let mut macs = Count { nonzero: self.other_macs, total: self.other_macs };
        let mut after = self.before.clone();
        let mut kept: BTreeMap<TensorId, Vec<u64>> = BTreeMap::new();
        for id in patch.ids() {
            let tensor = patch.load(self.model, id)?;
            if let Some(count) = after.get_mut(&id) {
                count.nonzero = count_nonzero(tensor.data());
            }
            if let Some(layer) = self.layers.iter().find(|l| l.tensor == id) {
                kept.insert(id, layer.info.histogram.counts_of(&tensor.to_f32s()?));
            }
        }
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
        let chosen = self.layers.iter().filter(|l| l.info.selected).map(|l| (l.tensor, counts(&l.tensor)));
        let bytes = if self.sizes { Some(bytes(self.model, patch, &[], chosen)?) } else { None };
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

/// The sizes of a pruned model's file, which is measured as it would be written; the entropy bound is of the
/// tensors that are counted, everything else as it is.
///
/// # Errors
/// Where a changed tensor cannot be computed or written.
pub fn bytes(
    model: &Model,
    patch: &Patch,
    metadata: &[(String, String)],
    counts: impl Iterator<Item = (TensorId, Count)>,
) -> Result<Bytes> {
    let sizes = sizes(model, patch, metadata)?;
    let saved = counts.map(|(id, count)| {
        pack::written_len(model, patch, id) as f64 - count.entropy_bytes(pack::value_type(model, patch, id))
    });
    Ok(Bytes { entropy: sizes.raw as f64 - saved.sum::<f64>(), ..sizes })
}

/// The size a model's file (with its external data) would have: raw, after gzip and after zstd, at
/// their default levels, and with its tensors packed. `entropy` is left at the raw size.
fn sizes(model: &Model, patch: &Patch, metadata: &[(String, String)]) -> Result<Bytes> {
    let compressed = compressed(|out| io::write_stream(model, patch, metadata, out))?;
    let saved = pack::saved(model, patch)?.bytes();
    Ok(Bytes { packed: Some(compressed.raw - saved), ..compressed })
}

/// The sizes of a tensor that counts so; `packed` is what it takes packed.
pub(crate) fn tensor_bytes(
    model: &Model,
    patch: &Patch,
    id: TensorId,
    count: Count,
    packed: u64,
) -> Result<Bytes> {
    let elements = encode(patch.load(model, id)?.data())?;
    let compressed = compressed(|out| {
        out.write_all(&elements).map_err(|e| Error::internal(format!("compressing: {e}")))?;
        Ok(elements.len() as u64)
    })?;
    let entropy = count.entropy_bytes(pack::value_type(model, patch, id));
    Ok(Bytes { packed: Some(packed), entropy, ..compressed })
}

/// The sizes of what is written, after gzip and after zstd at their default levels; the others are left at the size
/// as it is written, which `write` tells.
fn compressed(write: impl Fn(&mut dyn Write) -> Result<u64> + Sync) -> Result<Bytes> {
    let failed = |e: std::io::Error| Error::internal(format!("compressing: {e}"));
    // Each encoder has it written anew: that is cheap beside compressing, and both run at a time.
    let (gzip, zstd) = rayon::join(
        || -> Result<(u64, u64)> {
            let mut encoder = flate2::write::GzEncoder::new(Counter(0), flate2::Compression::default());
            let raw = write(&mut encoder)?;
            Ok((raw, encoder.finish().map_err(failed)?.0))
        },
        || -> Result<u64> {
            let mut encoder =
                zstd::Encoder::new(Counter(0), zstd::DEFAULT_COMPRESSION_LEVEL).map_err(failed)?;
            write(&mut encoder)?;
            Ok(encoder.finish().map_err(failed)?.0)
        },
    );
    let (raw, gzip) = gzip?;
    Ok(Bytes { raw, gzip, zstd: zstd?, packed: Some(raw), entropy: raw as f64 })
}

/// Counts what is written.
struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
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

    #[test]
    fn steps_are_not_finer_than_can_be_told_apart() {
        let points = |step: f64| {
            let mut recipe = Recipe::default();
            recipe.sweep.step = Some(Share::new(step).unwrap());
            sparsities("l1".parse().unwrap(), &recipe, 0.25)
        };
        assert_eq!(points(0.001).unwrap().len(), 950);
        for step in [0.0009, 1e-9, 1e-300, 0.0] {
            let error = points(step).unwrap_err();
            assert_eq!(error.kind(), secateur_model::ErrorKind::Usage);
            assert!(error.to_string().contains("at least 0.001"), "{error}");
        }
    }

    #[test]
    fn a_pattern_that_fixes_the_sparsity_is_one_point() {
        let points = |method: &str| sparsities(method.parse().unwrap(), &Recipe::default(), 0.25).unwrap();
        assert_eq!(points("l1"), [0.25, 0.5, 0.75]);
        assert_eq!(points("l1/1:4"), [0.75]);
    }
}
