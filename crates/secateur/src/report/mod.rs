//! What a sweep found: the records it writes as it goes, and everything that shows them.
//!
//! A run is a folder. [`RunWriter`] fills it, one line a point, so that a kill at any moment loses at most
//! the point under way; [`Run::load`] reads it back.
//!
//! | file | holds |
//! |---|---|
//! | `results.jsonl` | the [`RunHeader`], the unpruned [`Point`], then one [`Point`] a line: the same bytes however often the run was interrupted, measured times aside |
//! | `results.csv` | the same as a table, with ShrinkBench's columns first |
//! | `timings.jsonl` | one [`Timing`] a point, kept apart because no two runs agree on it |
//! | `samples/<id>.npy` | a row of f32 for each of [`RunHeader::sample_measures`], a column for each sample |

pub mod analysis;
mod command;
mod csv;
mod draw;
pub mod figures;
pub mod format;
mod html;
mod record;
mod store;
#[cfg(test)]
mod synthetic;
mod terminal;
mod write;

pub(crate) use command::{flags, quoted};
pub(crate) use csv::sizes as sizes_csv;
pub use draw::Drawing;
pub(crate) use html::{bench as bench_page, sizes as sizes_page};
pub use record::{
    Bytes, Count, Environment, Histogram, Latency, LatencySettings, LayerInfo, LayerPoint, Measure, Point,
    PointKey, RunHeader, RunKind, Timing, UNPRUNED,
};
pub use store::{CSV_FILE, RESULTS_FILE, Run, RunWriter, SAMPLES_FOLDER, TIMINGS_FILE};
pub use terminal::{Align, Table, bar, print_summary, wrap};
pub use write::write_inspection;
pub(crate) use write::{check_files, pictures, write_files};
