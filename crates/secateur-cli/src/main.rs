//! The command `secateur`: prunes trained neural networks and shows what that costs.

mod commands;
mod progress;
mod style;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Prunes trained neural networks: removes weights, shows what that costs, on your own machine.
#[derive(Parser)]
#[command(version, about, propagate_version = true, max_term_width = 110)]
#[command(after_help = "Examples:
  secateur demo
  secateur inspect model.onnx
  secateur prune model.onnx -o pruned.onnx --method l1@global --sparsity 0.8 --ops Conv
  secateur sweep model.onnx --data test.npz --methods l1,l1@global,random -o runs/model")]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

/// What every command understands.
#[derive(Args, Clone)]
pub(crate) struct Global {
    /// Threads to work with; all cores by default. Results do not depend on it
    #[arg(long, global = true, value_name = "N", value_delimiter = ',', help_heading = "Everywhere")]
    threads: Vec<usize>,
    /// What everything random derives from; 0 by default
    #[arg(long, global = true, value_name = "N", help_heading = "Everywhere")]
    seed: Option<u64>,
    /// Take flags from a recipe file (TOML); flags given beside it win
    #[arg(long, global = true, value_name = "FILE", help_heading = "Everywhere")]
    recipe: Option<std::path::PathBuf>,
    /// Print the result as JSON
    #[arg(long, global = true, help_heading = "Everywhere")]
    json: bool,
    /// Overwrite outputs that exist
    #[arg(long, global = true, help_heading = "Everywhere")]
    force: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Prune an embedded model on embedded data and show its curve
    Demo(commands::demo::Demo),
    /// Show layers, shapes, costs, zeros, and what can be pruned
    Inspect(commands::inspect::Inspect),
    /// Prune a model and write it
    Prune(commands::prune::Prune),
    /// Give the original weights back that were kept when pruning
    Undo(commands::undo::Undo),
    /// Make masks permanent: zeros in the weights, nothing kept beside them
    Finalize(commands::finalize::Finalize),
    /// Check that a file has the sparsity and pattern that a recipe promises
    Verify(commands::verify::Verify),
    /// Show what differs between two models, tensor by tensor
    Diff(commands::diff::Diff),
    /// Write a model's weights in another format, or compressed
    Convert(commands::convert::Convert),
    /// Write weights packed: zeros take a bit or less
    Pack(commands::pack::Pack),
    /// Write packed weights dense again
    Unpack(commands::unpack::Unpack),
    /// Run a model once on arrays from files
    Run(commands::run::Run),
    /// Say what pruning would gain in time, before anything is pruned
    Predict(commands::predict::Predict),
    /// Measure how fast models are, dense and pruned, and beside other runtimes
    Bench(commands::bench::Bench),
    /// Measure a model's loss and accuracy
    Eval(commands::eval::Eval),
    /// Draw the pruning curve: loss and accuracy against sparsity for several methods
    Sweep(commands::sweep::Sweep),
    /// Draw the size of the file against sparsity, compressed, packed and not, with the entropy bound
    Sizes(commands::sizes::SizesOf),
    /// Prune each layer alone and show which ones it costs most
    Sensitivity(commands::sensitivity::Sensitivity),
    /// List criteria, patterns and scopes, and which combinations have a meaning
    Methods(commands::methods::Methods),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let broken_pipe = error
                .chain()
                .filter_map(|e| e.downcast_ref::<std::io::Error>())
                .any(|e| e.kind() == std::io::ErrorKind::BrokenPipe);
            if broken_pipe {
                return ExitCode::SUCCESS;
            }
            // The library's errors say everything in their own sentence, sources included.
            match error.downcast_ref::<secateur::Error>() {
                Some(known) => {
                    eprintln!("{} {known}", style::error("error:"));
                    ExitCode::from(known.kind().exit_code())
                }
                None => {
                    eprintln!("{} {error:#}", style::error("error:"));
                    ExitCode::FAILURE
                }
            }
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let global = cli.global;
    if global.threads.contains(&0) {
        return Err(secateur::Error::usage("--threads 0: at least one thread is needed").into());
    }
    match (&global.threads[..], &cli.command) {
        // It measures with each number of threads.
        (_, Command::Bench(_)) | ([], _) => {}
        ([threads], _) => rayon::ThreadPoolBuilder::new().num_threads(*threads).build_global()?,
        _ => return Err(secateur::Error::usage("--threads takes one number here").into()),
    }
    match cli.command {
        Command::Demo(c) => c.run(&global),
        Command::Inspect(c) => c.run(&global),
        Command::Prune(c) => c.run(&global),
        Command::Undo(c) => c.run(&global),
        Command::Finalize(c) => c.run(&global),
        Command::Verify(c) => c.run(&global),
        Command::Diff(c) => c.run(&global),
        Command::Convert(c) => c.run(&global),
        Command::Pack(c) => c.run(&global),
        Command::Unpack(c) => c.run(&global),
        Command::Run(c) => c.run(&global),
        Command::Predict(c) => c.run(&global),
        Command::Bench(c) => c.run(&global),
        Command::Eval(c) => c.run(&global),
        Command::Sweep(c) => c.run(&global),
        Command::Sizes(c) => c.run(&global),
        Command::Sensitivity(c) => c.run(&global),
        Command::Methods(c) => c.run(&global),
    }
}
