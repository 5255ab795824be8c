//! Estimates the speed-up from pruning before anything is pruned.
//!
//! The unpruned model is measured layer by layer. Then it is pruned in memory by each method to each sparsity, and the
//! runtime compiles a plan for those weights. The forecast is the sum over the plan's layers: a layer that keeps its
//! kernel keeps its measured time; a layer with a sparse kernel, and a layout conversion, take what the cost table
//! says. Layers without weights keep their measured time.
//!
//! Channels are different: zeros in whole channels save no time by themselves, so the forecast is for the model with
//! the channels removed, by the share of multiply-adds that each layer keeps.

mod channels;
mod why;

use std::path::PathBuf;
use std::sync::Arc;

use secateur_model::infer::Binding;
use secateur_model::{Error, Model, Patch, Result, prunable};
use secateur_runtime::{Limits, Session};
use serde::Serialize;

use crate::format::number;
use crate::perf::bench::forecast::Baseline;
use crate::perf::bench::native::{self, NativeRunner, ROUNDS, RoundWatch};
use crate::perf::bench::{LayerForecast, LayerTime, Times, busy, inputs, pruned};
use crate::perf::costs::{CostSource, CostTable};
use crate::progress::Progress;
use crate::prune::masks::Masks;
use crate::prune::method::Method;
use crate::prune::{ChannelAxis, Pattern, PruneOptions, Subject};

/// The default methods: single weights, blocks as wide as the panels of the tile kernels, 2:4, channels.
pub const DEFAULT_METHODS: [&str; 4] = ["l1", "l1/4x1", "l1/2:4", "l1/channel"];
/// The default sparsities.
pub const DEFAULT_SPARSITIES: [f64; 5] = [0.5, 0.7, 0.8, 0.9, 0.95];
/// The least speed-up that counts as a gain: less is within the error of forecasts.
pub const LEAST_GAIN: f64 = 1.05;
/// How many times slower than when their costs were measured kernels must be to be reported.
const SLOWED: f64 = 1.5;

/// What is predicted, and for which run.
#[derive(Clone, Debug)]
pub struct PredictOptions {
    /// The methods; [`DEFAULT_METHODS`] where there are none.
    pub methods: Vec<Method>,
    /// The sparsities; [`DEFAULT_SPARSITIES`] where there are none. A pattern that fixes the sparsity needs none.
    pub sparsities: Vec<f64>,
    /// How each method prunes: everything but the method and the amount is used. Its seed is that of the inputs.
    pub prune: PruneOptions,
    /// Files of masks that hold in every pruned model.
    pub masks: Vec<PathBuf>,
    /// Samples at a time; the number that the model fixes, or 1, where none is given.
    pub batch: Option<usize>,
    /// Threads; all cores where none is given.
    pub threads: Option<usize>,
    /// Extents of inputs that are open.
    pub binding: Binding,
    /// The costs of kernels.
    pub costs: CostTable,
    /// Bounds on a run.
    pub limits: Limits,
}

impl Default for PredictOptions {
    fn default() -> Self {
        PredictOptions {
            methods: Vec::new(),
            sparsities: Vec::new(),
            prune: PruneOptions::default(),
            masks: Vec::new(),
            batch: None,
            threads: None,
            binding: Binding::default(),
            costs: CostTable::SHIPPED,
            limits: Limits::of_machine(),
        }
    }
}

/// What pruning would gain.
#[derive(Clone, Debug, Serialize)]
pub struct Prediction {
    /// File name of the model.
    pub model: String,
    /// Samples at a time.
    pub batch: usize,
    /// Threads.
    pub threads: usize,
    /// Name of the processor.
    pub cpu: String,
    /// The instruction set that the kernels use here.
    pub instruction_set: &'static str,
    /// The costs of kernels.
    pub costs: CostTable,
    /// The unpruned model's time. Forecasts are of the fastest run, as the costs of kernels are.
    pub measured: Times,
    /// The unpruned layers; together they take the fastest run of [`Prediction::measured`].
    pub layers: Vec<LayerTime>,
    /// How much of that is in layers whose weights are selected for pruning, in seconds.
    pub in_selected: f64,
    /// The forecasts, method by method, each by rising sparsity.
    pub forecasts: Vec<Forecast>,
    /// A warning that the machine is busy, where repeated measurements disagree: times and ranges may be wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub busy: Option<String>,
    /// How many times as long as the cost table says kernels take at the moment.
    pub state: f64,
    /// What is not predicted, and why.
    pub notes: Vec<String>,
}

/// What the model would take, pruned by a method to a sparsity.
#[derive(Clone, Debug, Serialize)]
pub struct Forecast {
    /// The method.
    pub method: String,
    /// The sparsity asked for.
    pub target: f64,
    /// The sparsity achieved over the selected weights.
    pub sparsity: f64,
    /// Whether it is for the model with the channels removed rather than set to zero.
    pub shrunk: bool,
    /// The time of a run in seconds.
    pub seconds: f64,
    /// The unpruned time ÷ the forecast.
    pub speedup: f64,
    /// The range in which it is likely to lie: forecasts from each round alone, with two shares of the deviation that the
    /// dense kernels show from their costs.
    pub speedup_range: [f64; 2],
    /// Why no gain is expected; `None` where one is: a speed-up of [`LEAST_GAIN`] or more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_gain_because: Option<String>,
    /// How many layers would run on a kernel that skips zeros.
    pub sparse_layers: usize,
    /// Each layer.
    pub layers: Vec<LayerForecast>,
}

/// Predicts what pruning would gain.
///
/// # Errors
/// `Usage` where the options do not fit the model, inputs stay open or there is nothing to prune; where the runtime
/// cannot run the model. What a method cannot do is a note.
pub fn predict(model: &Arc<Model>, options: &PredictOptions, progress: &dyn Progress) -> Result<Prediction> {
    let batch = options.batch.or(inputs::fixed_batch(model)?).unwrap_or(1);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = options.threads.unwrap_or(cores);
    let out_of_range = options.sparsities.iter().find(|s| !(0.0..=1.0).contains(*s));
    if batch == 0 || threads == 0 || out_of_range.is_some() {
        return Err(Error::usage(
            "expected at least one thread, batches of at least one sample and sparsities between 0 and 1",
        ));
    }
    let jobs = jobs(options)?;
    let masks = Masks::with_files(model, &options.masks)?;
    let subject = Subject::of(model);
    let selected = selected(&subject, &options.prune)?;
    let inputs = inputs::random(model, &options.binding, batch, options.prune.seed)?;
    progress.begin("measuring, then planning", (ROUNDS + jobs.len()) as u64);
    let (measured, baseline, probe) =
        measure(model, &Masks::of_pairs(model)?.effective(model), &inputs, threads, options, progress)?;
    let breakdown = why::TimeBreakdown::new(model, &baseline.layers, &selected);
    let mut prediction = Prediction {
        model: crate::names::file_name(model),
        batch,
        threads,
        cpu: crate::perf::cpu_name(),
        instruction_set: secateur_kernels::instruction_set(),
        costs: options.costs,
        measured,
        in_selected: breakdown.selected(),
        layers: baseline.layers.clone(),
        forecasts: Vec::new(),
        busy: busy([&measured, &probe].into_iter()),
        state: baseline.state,
        notes: Vec::new(),
    };
    prediction.notes.extend(slowed(&options.costs, baseline.state));
    for (method, sparsities) in jobs {
        let mut forecasts = Vec::new();
        for target in sparsities {
            let found = forecast(model, &subject, &masks, &inputs, &baseline, options, (method, target));
            match found {
                Ok(forecast) => forecasts.push(forecast),
                Err(why) => prediction.notes.push(format!("{method} at {target}: {why}")),
            }
            progress.advance(1);
        }
        why::explain(&mut forecasts, method, &breakdown);
        prediction.forecasts.append(&mut forecasts);
    }
    if prediction.forecasts.is_empty() {
        return Err(Error::usage(format!("nothing can be predicted: {}", prediction.notes.join("; "))));
    }
    Ok(prediction)
}

/// A note that kernels run slower than when their costs were measured on this machine.
fn slowed(costs: &CostTable, state: f64) -> Option<String> {
    (costs.source == CostSource::Measured && !(1.0 / SLOWED..SLOWED).contains(&state)).then(|| {
        format!(
            "kernels take {} times as long as when their costs were measured; forecasts allow for that, and \
             option `recalibrate` measures them again",
            number(state)
        )
    })
}

/// Each method with its sparsities, rising.
fn jobs(options: &PredictOptions) -> Result<Vec<(Method, Vec<f64>)>> {
    let methods = if options.methods.is_empty() {
        DEFAULT_METHODS.iter().map(|text| text.parse()).collect::<Result<_>>()?
    } else {
        options.methods.clone()
    };
    let listed = if options.sparsities.is_empty() { &DEFAULT_SPARSITIES[..] } else { &options.sparsities };
    Ok(methods.into_iter().map(|method| (method, method.sparsities(listed))).collect())
}

/// The weights that the options select.
fn selected(subject: &Subject<'_>, options: &PruneOptions) -> Result<Vec<prunable::PrunableView>> {
    let options = options.with(Method::default(), crate::prune::Amount::Sparsity(0.0));
    options.selector.select(subject.model, subject.entries()?)
}

/// Measures the unpruned model and, between its runs, its layers and the probe's kernels, which tell the machine's
/// state. The last value is the time of the probe's kernels together.
fn measure(
    model: &Arc<Model>,
    patch: &Patch,
    inputs: &[(String, secateur_model::Tensor)],
    threads: usize,
    options: &PredictOptions,
    progress: &dyn Progress,
) -> Result<(Times, Baseline, Times)> {
    let pool = native::pool(threads)?;
    let (runner, _) = NativeRunner::load(model, patch, (&options.costs, options.limits), inputs, &pool)?;
    let mut watch = RoundWatch::new(&runner)?;
    let (mut times, mut rounds) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        times.extend(runner.timed(true)?);
        rounds.push(watch.round()?);
        progress.advance(1);
    }
    let times = Times::of(times);
    let baseline = watch.baseline(&rounds, times.best)?;
    let probe = Times::of(rounds.iter().map(|round| round.probe.iter().sum()).collect());
    Ok((times, baseline, probe))
}

/// The forecast for one method and sparsity, without reasons.
fn forecast(
    model: &Arc<Model>,
    subject: &Subject<'_>,
    masks: &Masks,
    inputs: &[(String, secateur_model::Tensor)],
    baseline: &Baseline,
    options: &PredictOptions,
    (method, target): (Method, f64),
) -> Result<Forecast> {
    let (pruning, patch) = pruned(subject, &options.prune, masks, method, target)?;
    let shrunk = method.pattern == Pattern::Channel(ChannelAxis::Out);
    let speedup =
        |layers: &[LayerForecast]| baseline.seconds / layers.iter().map(|l| l.predicted).sum::<f64>();
    let (layers, speedup_range) = if shrunk {
        let shares = channels::shares(model, &pruning, &options.binding)?;
        let share = |name: &str| shares.get(name).copied().unwrap_or(1.0);
        let layers = baseline.scaled(share);
        let range = baseline.range_scaled(share, speedup(&layers));
        (layers, range)
    } else {
        let session = Session::with_costs(model.clone(), patch, options.costs.costs)?.within(options.limits);
        let nodes = session.nodes(inputs.to_vec())?;
        let layers = baseline.forecast(&nodes);
        let range = baseline.range(&nodes, speedup(&layers));
        (layers, range)
    };
    Ok(Forecast {
        method: method.to_string(),
        target,
        sparsity: pruning.sparsity(),
        shrunk,
        seconds: layers.iter().map(|layer| layer.predicted).sum(),
        speedup: speedup(&layers),
        speedup_range,
        no_gain_because: None,
        sparse_layers: layers.iter().filter(|layer| layer.sparse).count(),
        layers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    fn digits() -> Arc<Model> {
        let folder = tempfile::tempdir().unwrap();
        let files = crate::demo::unpack(folder.path()).unwrap();
        Arc::new(secateur_model::io::read(files.model).unwrap())
    }

    fn options(methods: &[&str], sparsities: &[f64]) -> PredictOptions {
        PredictOptions {
            methods: methods.iter().map(|text| text.parse().unwrap()).collect(),
            sparsities: sparsities.to_vec(),
            batch: Some(2),
            threads: Some(1),
            ..PredictOptions::default()
        }
    }

    #[test]
    fn every_method_is_predicted_and_its_layers_add_up() {
        let options = options(&[], &[0.9, 0.5]);
        let found = predict(&digits(), &options, &Silent).unwrap();
        let points: Vec<_> = found.forecasts.iter().map(|f| (f.method.as_str(), f.target)).collect();
        let expected = [
            ("l1", 0.5),
            ("l1", 0.9),
            ("l1/4x1", 0.5),
            ("l1/4x1", 0.9),
            ("l1/2:4", 0.5),
            ("l1/channel", 0.5),
            ("l1/channel", 0.9),
        ];
        assert_eq!(points, expected, "{:?}", found.notes);
        let sum: f64 = found.layers.iter().map(|layer| layer.seconds).sum();
        assert!((sum / found.measured.best - 1.0).abs() < 1e-9);
        assert!(found.in_selected > 0.0 && found.in_selected <= sum);
        for forecast in &found.forecasts {
            let sum: f64 = forecast.layers.iter().map(|layer| layer.predicted).sum();
            assert!((sum / forecast.seconds - 1.0).abs() < 1e-9);
            assert_eq!(forecast.no_gain_because.is_none(), forecast.speedup >= LEAST_GAIN, "{forecast:?}");
            assert_eq!(forecast.shrunk, forecast.method == "l1/channel");
            let [low, high] = forecast.speedup_range;
            assert!(low > 0.0 && low <= forecast.speedup && forecast.speedup <= high, "{forecast:?}");
        }
        // Fewer channels are less work, whatever the machine does meanwhile.
        let [.., half, tenth] = &found.forecasts[..] else { unreachable!() };
        assert!(found.measured.best > half.seconds && half.seconds > tenth.seconds);
    }

    #[test]
    fn costs_of_another_state_are_said() {
        let measured = CostTable { source: CostSource::Measured, ..CostTable::SHIPPED };
        assert_eq!(slowed(&measured, 1.2), None);
        assert_eq!(slowed(&CostTable::SHIPPED, 2.0), None);
        assert!(slowed(&measured, 2.0).unwrap().contains("2.00 times as long"));
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let error = |options: &PredictOptions| predict(&digits(), options, &Silent).unwrap_err().to_string();
        assert!(error(&options(&["l1"], &[1.5])).contains("between 0 and 1"));
        let mut none = options(&["l1"], &[0.5]);
        none.prune.selector.include = vec!["nothing*".into()];
        let message = predict(&digits(), &none, &Silent).unwrap_err().to_string();
        assert!(message.contains("nothing*"), "{message}");
    }
}
