//! Damages models by the thousand and reports each that ends a process, panics, takes too long or too much memory.
//!
//! ```text
//! secateur-structure run --data DIR --finds DIR [--from N] [--count N] [--limit-mb N] [--seconds N]
//! secateur-structure show SEED --data DIR [--out DIR]     # what the seed does; writes the model and its inputs
//! secateur-structure outputs --data DIR --finds DIR --from N --count N   # those that run, with their outputs
//! secateur-structure child --data DIR --from N --count N  # the seeds in this process
//! ```
//!
//! The parent starts a child for many seeds, and reads from it which one it is at. A child that dies, or stays at
//! one seed for too much CPU time, leaves its seed as a find, and the next child goes on behind it.

mod allocator;
mod child;
mod parent;

#[path = "../../../crates/secateur/tests/common/structure/mod.rs"]
mod structure;

use std::path::PathBuf;
use std::process::ExitCode;

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    pub data: PathBuf,
    pub finds: PathBuf,
    pub from: u64,
    pub count: u64,
    pub limit_mb: usize,
    pub seconds: f64,
    /// Only cases whose name contains this.
    pub only: String,
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let command = words.next().unwrap_or_default();
    let mut options = Options {
        data: std::env::var_os("SECATEUR_DATA")
            .map_or_else(|| PathBuf::from("../shared/data"), PathBuf::from),
        finds: PathBuf::from("finds"),
        from: 0,
        count: u64::MAX,
        limit_mb: 2048,
        seconds: 5.0,
        only: String::new(),
    };
    while let Some(word) = words.next() {
        let value = words.next().unwrap_or_default();
        let number = || value.parse::<u64>().unwrap_or_else(|_| panic!("{word} {value}: expected a number"));
        match word.as_str() {
            "--data" => options.data = value.into(),
            "--finds" => options.finds = value.into(),
            "--from" => options.from = number(),
            "--count" => options.count = number(),
            "--limit-mb" => options.limit_mb = number() as usize,
            "--seconds" => options.seconds = number() as f64,
            "--only" => options.only = value,
            _ => {
                eprintln!("unknown option {word}");
                return ExitCode::from(2);
            }
        }
    }
    match command.as_str() {
        "run" => parent::run(&options),
        "show" => child::show(&options),
        "child" => child::run(&options),
        "outputs" => child::outputs(&options),
        _ => {
            eprintln!("run, show, outputs or child");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}
