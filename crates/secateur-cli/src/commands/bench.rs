//! `secateur bench`

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use secateur::Error;
use secateur::bench::{Bench as Found, BenchOptions, DEFAULT_ROUNDS, Peer, Timing, Version, bench};
use secateur::format;
use secateur::text::counted;
use secateur_report::{bench as report, quoted};

use super::{CostFlags, GraphFlags, InputFlags, LimitFlags};
use crate::flags::Global;
use crate::progress::Bar;
use crate::recipe::{PruneFlags, Recipe};
use crate::style;

/// Time dense and pruned models, interleaved with other runtimes.
#[derive(Args)]
#[command(
    after_help = "All contestants are loaded once and take turns in a single session, so that other load on the machine affects \
all of them alike. Speed-ups are over the first model, unpruned, in the fastest of the other runtimes, or in secateur \
if there are none. Other runtimes run through Python: the one in the environment variable SECATEUR_PYTHON, or python3. \
--threads takes several numbers here, such as --threads 1,2. The folder gets bench.json, bench.html, bench.svg and bench.png.

Examples:
  secateur bench model.onnx pruned.onnx
  secateur bench resnet50.onnx --sparsity 0.5,0.8,0.9 \\
      --method l1+uniform+ --against onnxruntime,openvino
  secateur bench bert.onnx --dim sequence=128 --batch 1,16 \\
      --threads 1,2 --sparsity 0.8 --profile -o runs/bench"
)]
pub(crate) struct Bench {
    /// The models: ONNX files, or checkpoints with --graph
    #[arg(required = true, value_name = "MODEL")]
    models: Vec<PathBuf>,
    #[command(flatten)]
    graph: GraphFlags,
    /// Runtimes to compare with: onnxruntime, openvino
    #[arg(long, value_name = "RUNTIME", value_delimiter = ',')]
    against: Vec<Peer>,
    /// Batch sizes, such as 1,16 [default: the model's, or 1]
    #[arg(long, value_name = "N", value_delimiter = ',')]
    batch: Vec<usize>,
    /// Number of timing rounds
    #[arg(long, value_name = "N", default_value_t = DEFAULT_ROUNDS)]
    rounds: usize,
    #[command(flatten)]
    inputs: InputFlags,
    /// Time each layer too
    #[arg(long)]
    profile: bool,
    #[command(flatten)]
    costs: CostFlags,
    #[command(flatten)]
    limits: LimitFlags,
    /// Output folder for the results and the plot
    #[arg(long, short, value_name = "FOLDER")]
    output: Option<PathBuf>,
    #[command(flatten)]
    prune: PruneFlags,
}

/// Layers that a profile shows, the slowest.
const SHOWN_LAYERS: usize = 15;

impl Bench {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<()> {
        let recipe = super::recipe(global, &self.graph, Some(&self.prune), None, None)?;
        super::check_used(&self.prune, &recipe.prune.method)?;
        super::check_by_weights(&recipe.prune.method)?;
        if self.output.is_none() && global.force {
            return Err(Error::usage("--force has no effect without --output").into());
        }
        if let Some(folder) = &self.output {
            secateur_report::check_bench(folder, global.force)?;
        }
        let pruned = recipe.version_options()?;
        let mut versions = Vec::new();
        let mut unused = self.graph.graph.is_some();
        for path in &self.models {
            let mut model = super::read(path)?;
            if let (Some(graph), None) = (&recipe.graph, &model.graph) {
                model = super::with_graph(&model, graph, &recipe.unused)?;
                unused = false;
            }
            versions.extend(Version::all(&Arc::new(model), &pruned)?);
        }
        if unused {
            return Err(Error::usage("--graph has no effect: every model has a graph of its own").into());
        }
        let verbose = self.costs.verbose;
        let mut options = BenchOptions {
            batches: self.batch,
            threads: global.threads.clone(),
            rounds: self.rounds,
            against: self.against,
            seed: recipe.seed.unwrap_or(0),
            profile: self.profile,
            costs: self.costs.choose()?,
            binding: self.inputs.binding(),
            limits: self.limits.limits(),
            command: String::new(),
        };
        options.command = command(&versions, &options, &recipe)?;
        let found = bench(&versions, &options, &Bar::new())?;
        let files = match &self.output {
            Some(folder) => secateur_report::write_bench(&found, folder, global.force)?,
            None => Vec::new(),
        };
        if global.json {
            return super::print_json(&found);
        }
        let mut out = crate::style::stdout();
        style::print_wrapped(&report::environment(&found), &mut out)?;
        style::print_wrapped(&format!("kernels by {}", CostFlags::said(verbose, &found.costs)), &mut out)?;
        style::print_wrapped(&format!("speed-up over {}", report::reference_name(&found)), &mut out)?;
        writeln!(out)?;
        style::print_table(&report::table(&found), &mut out)?;
        for timing in found.timings.iter().filter(|timing| !timing.layers.is_empty()) {
            profile(&mut out, &found, timing)?;
        }
        writeln!(out)?;
        for note in &found.notes {
            style::print_note(note, &mut out)?;
        }
        super::print_written(&files, &mut out)?;
        Ok(())
    }
}

/// The command that times these versions so.
///
/// # Errors
/// Never for recipes that were read or built from flags.
fn command(versions: &[Version], options: &BenchOptions, recipe: &Recipe) -> secateur::Result<String> {
    let mut flags = secateur_report::flags("bench", &recipe.as_text().to_json()?);
    let mut add = |flag: &str, values: Vec<String>| {
        if !values.is_empty() {
            flags += &format!(" --{flag} {}", quoted(&values.join(",")));
        }
    };
    let numbers = |all: &[usize]| all.iter().map(usize::to_string).collect::<Vec<_>>();
    add("batch", numbers(&options.batches));
    add("threads", numbers(&options.threads));
    add("rounds", numbers(&[options.rounds]));
    add("against", options.against.iter().map(|peer| peer.name.to_string()).collect());
    let dims = options.binding.dims.iter().map(|(name, extent)| ("dim", format!("{name}={extent}")));
    let shapes = options.binding.shapes.iter().map(|(name, shape)| {
        let shape: Vec<String> = shape.iter().map(usize::to_string).collect();
        ("shape", format!("{name}={}", shape.join("x")))
    });
    dims.chain(shapes).for_each(|(flag, value)| add(flag, vec![value]));
    if options.profile {
        flags += " --profile";
    }
    let unpruned = versions.iter().map(Version::info).filter(|info| info.method.is_none());
    let models: Vec<String> = unpruned.map(|info| quoted(&info.model)).collect();
    Ok(format!("secateur bench {}{flags} -o FOLDER", models.join(" ")))
}

/// Where a run's time goes: by kernel, then the slowest layers.
fn profile(out: &mut impl Write, found: &Found, timing: &Timing) -> std::io::Result<()> {
    let total: f64 = timing.layers.iter().map(|layer| layer.seconds).sum();
    // Costs are those of one thread.
    let estimated = timing.threads == 1;
    let time = |seconds: f64| format!("{} ms", format::number(seconds * 1e3));
    let row = |name: &str, kernel: &str, what: String, seconds: f64, estimate: Option<f64>| {
        let estimate = estimate.filter(|_| estimated).map_or_else(String::new, time);
        let share = format::percent(seconds / total);
        vec![name.to_string(), kernel.to_string(), what, time(seconds), estimate, share]
    };
    let mut kinds: BTreeMap<&str, (usize, f64, Option<f64>)> = BTreeMap::new();
    for layer in &timing.layers {
        let kind = kinds.entry(&layer.kernel).or_insert((0, 0.0, Some(0.0)));
        let estimate = kind.2.zip(layer.estimate).map(|(sum, time)| sum + time);
        *kind = (kind.0 + 1, kind.1 + layer.seconds, estimate);
    }
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
    let mut slowest: Vec<_> = timing.layers.iter().collect();
    slowest.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    let all = kinds.into_iter().map(|(kernel, (count, seconds, estimate))| {
        row("all layers", kernel, counted(count, "layer"), seconds, estimate)
    });
    let layers = slowest.into_iter().take(SHOWN_LAYERS);
    let layers = layers.map(|l| {
        row(
            if l.name.is_empty() { "(layout)" } else { &l.name },
            &l.kernel,
            format!("{:?}", l.shape),
            l.seconds,
            l.estimate,
        )
    });
    let label = found.versions[timing.version].label();
    writeln!(
        out,
        "\n{label}, batch {}, {}: {}",
        timing.batch,
        counted(timing.threads, "thread"),
        counted(timing.layers.len(), "layer")
    )?;
    let header = ["layer", "kernel", "output", "time", "by costs", "share"];
    let table = style::table(&header, all.chain(layers).collect(), &[1, 2]);
    style::print_table(&table.without_if_narrow(&["by costs", "output"]), out)
}
