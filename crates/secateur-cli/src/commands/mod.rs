//! One file a subcommand: parse, call the library, print.

pub(crate) mod bench;
pub(crate) mod completions;
pub(crate) mod convert;
pub(crate) mod demo;
pub(crate) mod diff;
pub(crate) mod eval;
pub(crate) mod finalize;
pub(crate) mod finetune;
pub(crate) mod groups;
pub(crate) mod inspect;
pub(crate) mod lottery;
pub(crate) mod man;
pub(crate) mod methods;
pub(crate) mod pack;
pub(crate) mod predict;
pub(crate) mod prune;
pub(crate) mod repair;
pub(crate) mod run;
pub(crate) mod shrink;
pub(crate) mod sizes;
pub(crate) mod sweep;
pub(crate) mod undo;
pub(crate) mod unpack;
pub(crate) mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use secateur::calib::needs_data;
use secateur::costs::CostTable;
use secateur::infer::Binding;
use secateur::prune::Pattern;
use secateur::prune::evidence::{FLOW, SCORES};
use secateur::prune::masks::Masks;
use secateur::text::{counted, listed};
use secateur::{Error, Limits, Model, TensorId, io};

use crate::flags::Global;
use crate::recipe::{DataFlags, PruneFlags, Recipe, SweepFlags};
use crate::style;

/// The model a command works on.
#[derive(Args)]
pub(crate) struct ModelArgs {
    /// The model: ONNX, safetensors, a PyTorch checkpoint, or a Hugging Face folder
    model: PathBuf,
    #[command(flatten)]
    graph: GraphFlags,
}

/// Where a checkpoint's graph comes from.
#[derive(Args)]
pub(crate) struct GraphFlags {
    /// ONNX export of the same network, used as the graph of a checkpoint
    #[arg(long, value_name = "ONNX")]
    graph: Option<PathBuf>,
    /// Checkpoint tensors that the graph need not use, such as 'aux_head.*'
    #[arg(long, value_name = "GLOB", value_delimiter = ',')]
    unused: Vec<String>,
}

impl ModelArgs {
    /// Reads the model; a checkpoint gets its graph where one is named.
    pub(crate) fn open(&self) -> secateur::Result<Arc<Model>> {
        self.with(self.graph.graph.as_deref(), &self.graph.unused)
    }

    /// As [`ModelArgs::open`], with the graph that the recipe has: of its file, or that of the flag.
    pub(crate) fn open_by(&self, recipe: &Recipe) -> secateur::Result<Arc<Model>> {
        self.with(recipe.graph.as_deref(), &recipe.unused)
    }

    fn with(&self, graph: Option<&Path>, unused: &[String]) -> secateur::Result<Arc<Model>> {
        let model = read(&self.model)?;
        for (path, why) in model.source.unread() {
            style::note(&format!("{}: tensor `{path}`: {why}; it is kept as it is", self.model.display()));
        }
        match graph {
            Some(graph) => Ok(Arc::new(with_graph(&model, graph, unused)?)),
            None if !unused.is_empty() => Err(Error::usage("--unused has no effect without --graph")),
            None => Ok(Arc::new(model)),
        }
    }
}

/// Reads a model. A sidecar that belongs to other weights is an error in every command.
pub(crate) fn read(path: &Path) -> secateur::Result<Model> {
    let model = io::read(path)?;
    Masks::check_sidecar(&model)?;
    Ok(model)
}

/// A checkpoint with the graph of an ONNX export, which need not use what `unused` names.
pub(crate) fn with_graph(model: &Model, graph: &Path, unused: &[String]) -> secateur::Result<Model> {
    let paired = secateur::pair(model, &io::read(graph)?, &secateur::select::any_of(unused)?)?;
    for note in &paired.notes {
        style::note(&format!("{}: {note}", graph.display()));
    }
    Ok(paired.model)
}

/// What kernels are chosen by.
#[derive(Args)]
pub(crate) struct CostFlags {
    /// Re-measure kernel costs (normally done once per machine)
    #[arg(long, conflicts_with = "costs")]
    recalibrate: bool,
    /// Use other kernel costs: `shipped`, or those recorded in a bench.json
    #[arg(long, value_name = "shipped|FILE")]
    costs: Option<PathBuf>,
    /// Also show the kernel costs
    #[arg(long)]
    pub(crate) verbose: bool,
}

impl CostFlags {
    /// Says what kernels were chosen by, as much of it as is wanted.
    pub(crate) fn said(verbose: bool, costs: &CostTable) -> String {
        if verbose { costs.to_string() } else { costs.source.name().to_string() }
    }
}

impl CostFlags {
    /// The costs; says where they cannot be kept.
    pub(crate) fn choose(&self) -> secateur::Result<CostTable> {
        match &self.costs {
            Some(name) if name.as_os_str() == "shipped" => Ok(CostTable::SHIPPED),
            Some(path) => CostTable::of_bench(path),
            None => {
                let (table, note) = CostTable::of_machine(self.recalibrate)?;
                note.iter().for_each(|note| style::note(note));
                Ok(table)
            }
        }
    }
}

/// The sizes of inputs whose axes are dynamic.
#[derive(Args)]
pub(crate) struct InputFlags {
    /// The shape of an input with dynamic axes: NAME=1x3x224x224
    #[arg(long, value_name = "NAME=SHAPE", value_parser = shape)]
    shape: Vec<(String, Vec<usize>)>,
    /// The size of a named dynamic axis: sequence=128
    #[arg(long, value_name = "NAME=N", value_parser = dim)]
    dim: Vec<(String, usize)>,
}

impl InputFlags {
    /// The sizes, for inference.
    pub(crate) fn binding(&self) -> Binding {
        let mut binding = Binding::default();
        binding.shapes.clone_from(&self.shape);
        binding.dims.clone_from(&self.dim);
        binding
    }

    /// Checks that there is a graph that the sizes are for, in one of these models.
    ///
    /// # Errors
    /// `Usage` where sizes are given and no model has a graph.
    pub(crate) fn check(&self, models: &[(&Model, &Path)]) -> secateur::Result<()> {
        let given = !self.shape.is_empty() || !self.dim.is_empty();
        match models {
            [(_, file), ..] if given && models.iter().all(|(model, _)| model.graph.is_none()) => {
                let message = "--shape and --dim have no effect: the file holds weights without a graph; an ONNX file has one";
                Err(Error::usage(message).at_file(file))
            }
            _ => Ok(()),
        }
    }
}

/// Bounds on a run of the model.
#[derive(Args)]
pub(crate) struct LimitFlags {
    /// Memory limit for one run of the model, such as 4G [default: the available memory]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,
    /// Limit on node executions inside Loop and Scan bodies, per run of the model [default: 1000000]
    #[arg(long, value_name = "N")]
    max_steps: Option<u64>,
}

impl LimitFlags {
    /// The bounds.
    pub(crate) fn limits(&self) -> Limits {
        let machine = Limits::of_machine();
        Limits {
            memory: self.memory.unwrap_or(machine.memory),
            steps: self.max_steps.unwrap_or(machine.steps),
        }
    }
}

/// Reads a number of bytes: `4G`, `512M`, `1.5GiB`.
fn size(text: &str) -> Result<u64, String> {
    let wrong = || "expected a size such as 4G, 512M or 1.5GiB".to_string();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let unit = unit.trim().to_ascii_lowercase();
    let (prefix, step) = match unit.strip_suffix("ib") {
        Some(prefix) => (prefix, 1024.0),
        None => (unit.strip_suffix('b').unwrap_or(&unit), 1000.0),
    };
    let power = ["", "k", "m", "g", "t"].iter().position(|known| *known == prefix).ok_or_else(wrong)?;
    Ok((number * f64::powi(step, power as i32)) as u64)
}

/// Compression of a written file.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Compress {
    /// Compress with gzip; the name gets the extension .gz
    Gzip,
    /// Compress with zstd; the name gets the extension .zst
    Zstd,
}

impl Compress {
    /// The name of the file with the ending of its compression.
    pub(crate) fn name(choice: Option<Self>, path: &Path) -> PathBuf {
        match choice {
            Some(Compress::Gzip) => io::Compression::Gzip.named(path),
            Some(Compress::Zstd) => io::Compression::Zstd.named(path),
            None => path.to_path_buf(),
        }
    }
}

/// Writes a model with changes, and says what the output cannot hold. It has no sidecar; that of a
/// model that is replaced goes.
pub(crate) fn write(
    model: &Model,
    patch: &secateur::Patch,
    metadata: &[(String, String)],
    path: &Path,
    global: &Global,
) -> secateur::Result<Vec<PathBuf>> {
    write_output(model, &patch.clone().into(), metadata, path, global)
}

/// Keys of the metadata that say how a model was pruned.
const PRUNED: [&str; 4] = ["secateur.version", "secateur.recipe", "secateur.seed", "secateur.input_sha256"];

/// What a file of another format says of a pruned model: its recipe goes along, unless there is a new one.
fn carried(model: &Model, metadata: &[(String, String)]) -> Vec<(String, String)> {
    let own = model.source.metadata().iter();
    let own = own.filter(|(key, _)| PRUNED.contains(&key.as_str()) && metadata.iter().all(|(k, _)| k != key));
    own.chain(metadata).cloned().collect()
}

/// The tensors of a model's files that a file of another format does not hold.
pub(crate) fn left_out<'m>(model: &'m Model, patch: &secateur::Patch, path: &Path) -> Vec<&'m String> {
    if io::format_of(path).is_none_or(|to| model.source.format() == Some(to)) {
        return Vec::new();
    }
    let own = model.source.tensor_count().unwrap_or(model.tensors.len());
    let omitted = patch.omitted(model);
    let stays = |id: TensorId| model.source.is_weight(id) && !model.source.is_quantised(id);
    let ids = (0..).map(TensorId).zip(model.tensors.keys()).take(own);
    ids.filter(|(id, _)| !omitted.contains(id) && !stays(*id)).map(|(_, path)| path).collect()
}

/// Says which tensors were left out of a file of a format, and why.
fn say_left_out(model: &Model, left_out: &[&String], format: &io::Format) {
    let is_quantised = |path: &&String| model.tensor_id(path).is_some_and(|id| model.source.is_quantised(id));
    let (quantised, outside): (Vec<&String>, Vec<&String>) =
        left_out.iter().partition(|path| is_quantised(path));
    for (tensors, why) in [
        (outside, "outside of the state dict".to_string()),
        (quantised, format!("whose scales {format} has no place for")),
    ] {
        if !tensors.is_empty() {
            style::note(&format!(
                "left out {} {why}: {}",
                counted(tensors.len(), "tensor"),
                listed(&tensors)
            ));
        }
    }
}

/// Checks, before long work, that the output can be written.
pub(crate) fn check_output(model: &Model, path: &Path, global: &Global) -> secateur::Result<()> {
    if !model.source.is_several_files() {
        return io::check_target(path, global.force);
    }
    if path.exists() && !global.force {
        return Err(Error::usage("the folder exists: pass --force to replace it").at_file(path));
    }
    Ok(())
}

/// Writes a model with changes and its sidecar, where it has one, and says where.
pub(crate) fn write_output(
    model: &Model,
    output: &secateur::prune::masks::Output,
    metadata: &[(String, String)],
    path: &Path,
    global: &Global,
) -> secateur::Result<Vec<PathBuf>> {
    let options = io::WriteOptions { overwrite: global.force };
    let patch = &output.patch;
    if let Some(to) = io::format_of(path).filter(|to| **to != io::ONNX)
        && model.source.format() == Some(&io::ONNX)
    {
        style::note(&format!(
            "the graph is left out of {}: {to} holds weights only; use .onnx to keep it",
            path.display()
        ));
    }
    let converted = io::format_of(path).filter(|&to| model.source.format().is_some_and(|from| from != to));
    if let Some(to) = converted {
        for (path, why) in model.source.unread() {
            style::note(&format!("left out: tensor `{path}`: {why}"));
        }
        say_left_out(model, &left_out(model, patch, path), to);
    }
    let carried = carried(model, metadata);
    let (written, removed) = output.write(model, path, global.force, || match converted {
        Some(to) => io::convert(model, patch, &carried, to, path, options),
        None => io::write(model, patch, metadata, path, options),
    })?;
    if let Some(removed) = removed {
        style::note(&format!("removed {}, the sidecar of the model that was replaced", removed.display()));
    }
    // A single file has no room for the folder's other files, and nobody expects them there.
    if path.is_dir()
        && let Some(source) = model.source.downcast::<io::safetensors::SafetensorsSource>()
        && let Some(left_out) = source.folder.as_ref().map(|f| &f.left_out).filter(|names| !names.is_empty())
    {
        style::note(&format!(
            "not copied, because they are folders or could hold other weights: {}",
            listed(left_out)
        ));
    }
    let masks = output.has_sidecar().then(|| secateur::prune::masks::sidecar_path(path));
    let files = written.external.into_iter().chain([written.model]).map(|file| file.path);
    Ok(files.chain(masks).collect())
}

/// The masks a model comes with and those of files.
pub(crate) fn masks(model: &Model, files: &[PathBuf]) -> secateur::Result<Masks> {
    let mut masks = Masks::of(model)?;
    for file in files {
        masks.intersect_file(file, model)?;
    }
    Ok(masks)
}

/// The recipe file with the flags laid over it.
fn recipe(
    global: &Global,
    graph: &GraphFlags,
    prune: Option<&PruneFlags>,
    data: Option<&DataFlags>,
    sweep: Option<&SweepFlags>,
) -> secateur::Result<Recipe> {
    let flags = Recipe {
        seed: global.seed,
        graph: graph.graph.clone(),
        unused: graph.unused.clone(),
        prune: prune.cloned().unwrap_or_default(),
        data: data.cloned().unwrap_or_default(),
        sweep: sweep.cloned().unwrap_or_default(),
        ..Recipe::default()
    };
    match &global.recipe {
        Some(path) => Recipe::load(path)?.with(&flags),
        None => Ok(flags),
    }
}

/// Refuses what was asked for in flags and none of the methods looks at.
fn check_used(flags: &PruneFlags, methods: &[secateur::Method]) -> secateur::Result<()> {
    if methods.is_empty() {
        return Ok(());
    }
    if flags.scores.is_some() && !methods.iter().any(|method| method.needs(&SCORES)) {
        return Err(Error::usage(
            "--scores has no effect without the criterion `file`, such as --method file",
        ));
    }
    let channels = |method: &secateur::Method| matches!(method.pattern, Pattern::Channel(_));
    if flags.weights_only && !methods.iter().any(channels) {
        return Err(Error::usage(
            "--weights-only has no effect without channels, such as --method l1/channel: only pruned channels take \
             their bias and batch-norm entries along",
        ));
    }
    Ok(())
}

/// Refuses criteria that run the model, of commands that only look at its weights.
fn check_by_weights(methods: &[secateur::Method]) -> secateur::Result<()> {
    match methods.iter().find(|method| needs_data(method) || method.needs(&FLOW)) {
        Some(method) => Err(Error::usage(format!(
            "method `{method}` runs the model, which this command does not: write the pruned model with `secateur prune` first"
        ))),
        None => Ok(()),
    }
}

/// Reads an input's shape: `NAME=1x3x224x224`.
fn shape(text: &str) -> Result<(String, Vec<usize>), String> {
    let (name, dims) = text.rsplit_once('=').ok_or("expected NAME=1x3x224x224")?;
    let dims = dims.split('x').map(str::parse).collect::<Result<_, _>>();
    Ok((name.to_string(), dims.map_err(|_| "expected a shape such as 1x3x224x224")?))
}

/// Reads the size of a named axis: `NAME=N`.
fn dim(text: &str) -> Result<(String, usize), String> {
    let (name, n) = text.rsplit_once('=').ok_or("expected NAME=N")?;
    Ok((name.to_string(), n.parse().map_err(|_| "expected a number")?))
}

/// Says which files were written.
fn print_written(files: &[PathBuf], out: &mut impl std::io::Write) -> std::io::Result<()> {
    files.iter().try_for_each(|file| writeln!(out, "wrote {}", file.display()))
}

/// A path for JSON, which holds no bytes: what is not UTF-8 in it is replaced.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// As [`text`], of several.
fn texts(paths: &[PathBuf]) -> Vec<String> {
    paths.iter().map(|path| text(path)).collect()
}

/// Prints a value as JSON.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    use std::io::Write;
    // Standard output alone would be written at each line.
    let mut out = std::io::BufWriter::with_capacity(1 << 16, crate::style::stdout());
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_are_read() {
        let read = ["4G", "512M", "1.5GiB", "100", "2kb", "3 TB"].map(|text| super::size(text).unwrap());
        assert_eq!(read, [4_000_000_000, 512_000_000, 3 << 29, 100, 2000, 3_000_000_000_000]);
        assert!(["", "G", "4X", "-1G", "4 G G"].iter().all(|text| super::size(text).is_err()));
    }
}
