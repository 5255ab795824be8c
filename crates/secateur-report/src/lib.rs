//! Shows what secateur measured: analysis of runs, tables, plots in the terminal, figures as SVG and PNG, and HTML
//! pages that need no network.
//!
//! ```no_run
//! # fn main() -> secateur::Result<()> {
//! use secateur::records::Run;
//! use secateur_report::analysis::{Analysis, FREE_THRESHOLD};
//!
//! let run = Run::load("runs/resnet56")?;
//! let analysis = Analysis::of(&run, FREE_THRESHOLD)?;
//! secateur_report::write_report(&run, &analysis, &run.folder)?;
//! # Ok(())
//! # }
//! ```

pub mod analysis;
pub mod bench;
mod command;
mod draw;
pub mod figures;
mod html;
pub mod lottery;
pub mod predict;
mod sizes;
mod terminal;
#[cfg(test)]
mod testing;
pub mod training;
mod write;

// What the made-up runs of the tests of `secateur` import from their crate.
#[cfg(test)]
use secateur::{DType, Result, measure, random, records};

pub use command::{flags, quoted};
pub use draw::Drawing;
pub use terminal::{Align, Table, bar, print_summary, sparkline, wrap};
pub use write::{
    check_bench, check_sizes, check_training, write_bench, write_inspection, write_report, write_sizes,
    write_tickets, write_training,
};
