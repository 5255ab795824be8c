//! One file a subcommand: parse, call the library, print.

pub(crate) mod bench;
pub(crate) mod convert;
pub(crate) mod demo;
pub(crate) mod diff;
pub(crate) mod eval;
pub(crate) mod finalize;
pub(crate) mod inspect;
pub(crate) mod methods;
pub(crate) mod pack;
pub(crate) mod predict;
pub(crate) mod prune;
pub(crate) mod run;
pub(crate) mod sensitivity;
pub(crate) mod sizes;
pub(crate) mod sweep;
pub(crate) mod undo;
pub(crate) mod unpack;
pub(crate) mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use secateur::costs::CostTable;
use secateur::masks::Masks;
use secateur::recipe::{DataFlags, PruneFlags, Recipe, SweepFlags};
use secateur::{Model, io};

use crate::Global;

/// The model a command works on.
#[derive(Args)]
pub(crate) struct ModelArgs {
    /// The model: ONNX, safetensors, a PyTorch checkpoint, or a Hugging Face folder
    model: PathBuf,
    /// The ONNX of the same network, which gives a checkpoint its graph
    #[arg(long, value_name = "ONNX")]
    graph: Option<PathBuf>,
}

impl ModelArgs {
    /// Reads the model; a checkpoint gets its graph where one is named.
    pub(crate) fn open(&self) -> secateur::Result<Arc<Model>> {
        let model = io::read(&self.model)?;
        let Some(graph) = &self.graph else { return Ok(Arc::new(model)) };
        let paired = secateur::pair(&model, &io::read(graph)?)?;
        for note in &paired.notes {
            eprintln!("{}: {note}", graph.display());
        }
        Ok(Arc::new(paired.model))
    }
}

/// What kernels are chosen by.
#[derive(Args)]
pub(crate) struct CostFlags {
    /// Measure anew what kernels cost here, by which they are chosen; else that is done once on a machine
    #[arg(long, conflicts_with = "costs")]
    recalibrate: bool,
    /// Choose kernels by other costs: `shipped`, or those that a bench.json records
    #[arg(long, value_name = "shipped|FILE")]
    costs: Option<PathBuf>,
}

impl CostFlags {
    /// The costs; says where they cannot be kept.
    pub(crate) fn choose(&self) -> secateur::Result<CostTable> {
        match &self.costs {
            Some(name) if name.as_os_str() == "shipped" => Ok(CostTable::SHIPPED),
            Some(path) => CostTable::of_bench(path),
            None => {
                let (table, note) = CostTable::of_machine(self.recalibrate)?;
                note.iter().for_each(|note| eprintln!("{note}"));
                Ok(table)
            }
        }
    }
}

/// Compression of a written file.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Compress {
    /// gzip: the file gets the ending .gz
    Gzip,
    /// zstd: the file gets the ending .zst
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

/// Writes a model with changes and says where.
pub(crate) fn write(
    model: &Model,
    edits: &secateur::Edits,
    metadata: &[(String, String)],
    path: &Path,
    global: &Global,
) -> secateur::Result<Vec<PathBuf>> {
    let options = io::WriteOptions { overwrite: global.force };
    let written = match (io::Format::of_name(path), model.source.format()) {
        (Some(to), Some(from)) if to != from => io::convert(model, edits, metadata, to, path, options)?,
        _ => io::write(model, edits, metadata, path, options)?,
    };
    if let io::Source::Safetensors(source) = &model.source
        && let Some(left_out) = source.folder.as_ref().map(|f| &f.left_out).filter(|names| !names.is_empty())
    {
        eprintln!("not copied, since they hold other weights or are folders: {}", left_out.join(", "));
    }
    Ok(written.external.into_iter().chain([written.model]).map(|file| file.path).collect())
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
    prune: Option<&PruneFlags>,
    data: Option<&DataFlags>,
    sweep: Option<&SweepFlags>,
) -> secateur::Result<Recipe> {
    let flags = Recipe {
        seed: global.seed,
        prune: prune.cloned().unwrap_or_default(),
        data: data.cloned().unwrap_or_default(),
        sweep: sweep.cloned().unwrap_or_default(),
    };
    match &global.recipe {
        Some(path) => Recipe::load(path)?.with(&flags),
        None => Ok(flags),
    }
}

/// Reads an input's shape: `NAME=1x3x224x224`.
fn shape(text: &str) -> Result<(String, Vec<usize>), String> {
    let (name, dims) = text.rsplit_once('=').ok_or("expected NAME=1x3x224x224")?;
    let dims = dims.split('x').map(str::parse).collect::<Result<_, _>>();
    Ok((name.to_string(), dims.map_err(|_| "expected a shape such as 1x3x224x224")?))
}

/// Reads the extent of a named axis: `NAME=N`.
fn dim(text: &str) -> Result<(String, usize), String> {
    let (name, n) = text.rsplit_once('=').ok_or("expected NAME=N")?;
    Ok((name.to_string(), n.parse().map_err(|_| "expected a number")?))
}

/// Says which files were written.
fn print_written(files: &[PathBuf], out: &mut impl std::io::Write) -> std::io::Result<()> {
    files.iter().try_for_each(|file| writeln!(out, "wrote {}", file.display()))
}

/// Prints a value as JSON.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}
