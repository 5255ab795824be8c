//! The command `secateur`: prunes trained neural networks and shows what that costs.

mod commands;
mod flags;
mod interrupt;
mod options;
mod progress;
mod recipe;
mod style;

use std::process::ExitCode;

use clap::error::{ContextKind, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::flags::Global;

/// Training takes 5 % less time where values begin at cache lines.
#[global_allocator]
static ALLOCATOR: secateur::LineAllocator = secateur::LineAllocator;

/// Prune trained neural networks: remove weights, and measure the loss in accuracy and the gain in size and speed.
#[derive(Parser)]
#[command(name = "secateur", version, propagate_version = true, max_term_width = 110)]
#[command(after_help = "Examples:
  secateur demo
  secateur inspect model.onnx
  secateur prune model.onnx -o pruned.onnx --method l1@global \\
      --sparsity 0.8 --ops Conv
  secateur sweep model.onnx --data test.npz \\
      --method l1,l1@global,random -o runs/model")]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

#[derive(Subcommand)]
enum Command {
    /// Prune a built-in model, test it on built-in data and plot its pruning curve
    Demo(commands::demo::Demo),
    /// Show layers, shapes, costs and zeros, which layers can be pruned, and why the others cannot
    Inspect(commands::inspect::Inspect),
    /// Prune a model and write it to a file
    Prune(commands::prune::Prune),
    /// Train a model while its pruned weights stay zero, or prune it while it trains
    Finetune(Box<commands::finetune::Finetune>),
    /// Repair a pruned model on data, without training
    Repair(commands::repair::Repair),
    /// Search for lottery tickets: train, prune, put the kept weights back, and repeat
    Lottery(Box<commands::lottery::Lottery>),
    /// Restore the original weights that were kept when pruning
    Undo(commands::undo::Undo),
    /// Make masks permanent: write zeros into the weights and keep nothing else
    Finalize(commands::finalize::Finalize),
    /// Check that every tensor has at least the sparsity asked for, and its pattern
    Verify(commands::verify::Verify),
    /// Compare two models tensor by tensor
    Diff(commands::diff::Diff),
    /// Convert a model's weights to another format, or compress the file
    Convert(commands::convert::Convert),
    /// Pack weights: store each zero in at most one bit
    Pack(commands::pack::Pack),
    /// Unpack packed weights
    Unpack(commands::unpack::Unpack),
    /// Run the model once on .npy or .npz inputs
    Run(commands::run::Run),
    /// Estimate the speed-up from pruning, before anything is pruned
    Predict(commands::predict::Predict),
    /// Time dense and pruned models, interleaved with other runtimes
    Bench(commands::bench::Bench),
    /// Measure a model's loss and accuracy
    Eval(commands::eval::Eval),
    /// Plot pruning curves: loss and accuracy against sparsity for several methods
    Sweep(commands::sweep::Sweep),
    /// Plot the file size against sparsity: plain, compressed, packed, and the entropy bound
    Sizes(commands::sizes::SizesOf),
    /// Prune each layer alone and show which layers are the most sensitive
    Sensitivity(commands::sweep::Sensitivity),
    /// List criteria, patterns, scopes and allocations, and which combinations are valid
    Methods(commands::methods::Methods),
    /// Print shell completions
    Completions(commands::completions::Completions),
    /// Print the man page, or write one page per command
    Man(commands::man::Man),
}

/// The command line with all its flags.
fn command_line() -> clap::Command {
    flags::hide(Cli::command())
}

fn main() -> ExitCode {
    let mut command_line = command_line();
    let matches = command_line.try_get_matches_from_mut(std::env::args_os()).unwrap_or_else(|mut error| {
        if error.kind() == ErrorKind::UnknownArgument {
            // No command takes values that look like flags, which clap suggests to pass.
            error.remove(ContextKind::Suggested);
        }
        error.exit()
    });
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    style::set(cli.global.color, cli.global.quiet);
    let checks = matches!(cli.command, Command::Verify(_));
    let outcome = match flags::refused(&matches) {
        Some(message) => Err(secateur::Error::usage(message).into()),
        None => run(cli),
    };
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    if is_broken_pipe(&error) {
        return ExitCode::SUCCESS;
    }
    // The library's errors say everything in their own sentence, sources included.
    match error.downcast_ref::<secateur::Error>() {
        Some(known) => {
            style::error(&known.to_string());
            match known.kind() {
                // 1 is kept for what was checked and does not hold.
                kind if checks && kind != secateur::ErrorKind::Failed => ExitCode::from(2),
                // Who names a file that is not there made a mistake.
                secateur::ErrorKind::Io if is_misnamed(known) => ExitCode::from(2),
                kind => ExitCode::from(kind.exit_code()),
            }
        }
        None => {
            style::error(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Whether a file could not be opened or made for what the path says, not for what the machine does.
fn is_misnamed(error: &secateur::Error) -> bool {
    use std::io::ErrorKind::{AlreadyExists, IsADirectory, NotADirectory, NotFound};
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    source.is_some_and(|e| matches!(e.kind(), NotFound | NotADirectory | IsADirectory | AlreadyExists))
}

/// Whether whoever read the output has gone, as `head` does.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
    error.chain().any(|e| {
        e.downcast_ref::<std::io::Error>().is_some_and(broken)
            || e.downcast_ref::<serde_json::Error>()
                .is_some_and(|e| e.io_error_kind() == Some(std::io::ErrorKind::BrokenPipe))
    })
}

/// At most as many threads as there are cores: more would only wait for each other.
fn cap_threads(threads: &mut Vec<usize>) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if let Some(most) = threads.iter().copied().max().filter(|most| *most > cores) {
        let cores = secateur::text::counted(cores, "core");
        style::note(&format!("--threads {most}: using {cores}, as many as there are"));
    }
    threads.iter_mut().for_each(|number| *number = (*number).min(cores));
    threads.sort_unstable();
    threads.dedup();
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let mut global = cli.global;
    if global.threads.contains(&0) {
        return Err(secateur::Error::usage("--threads 0: at least one thread is needed").into());
    }
    cap_threads(&mut global.threads);
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
        Command::Finetune(c) => c.run(&global),
        Command::Repair(c) => c.run(&global),
        Command::Lottery(c) => c.run(&global),
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
        Command::Completions(c) => c.run(command_line()),
        Command::Man(c) => c.run(command_line(), &global),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_of_threads_are_timed_once_each() {
        let mut threads = vec![9999, 1, 9998, 1];
        super::cap_threads(&mut threads);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut expected = vec![1, cores];
        expected.dedup();
        assert_eq!(threads, expected);
    }
}
