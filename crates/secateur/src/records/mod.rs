//! The records of a run: what sweeps and sensitivity analyses write, point by point, and read back.
//!
//! A run is a folder. [`RunWriter`] fills it, one line per point, so that a run killed at any moment loses at most
//! the current point; [`Run::load`] reads it back.
//!
//! | file | holds |
//! |---|---|
//! | `results.jsonl` | the [`RunHeader`], the unpruned [`Point`], then one [`Point`] per line: the same bytes however often the run was interrupted, measured times aside |
//! | `results.csv` | the same as a table, with ShrinkBench's columns first |
//! | `timings.jsonl` | one [`Timing`] per point, kept apart because times differ from run to run |
//! | `samples/<id>.npy` | a row of f32 for each of [`RunHeader::sample_measures`], a column for each sample |

mod csv;
mod curve;
mod record;
mod store;
#[cfg(test)]
mod synthetic;

pub use csv::{SIZES, line as csv_line, size_cells};
pub(crate) use curve::measures;
pub use curve::{CurvePoint, CurveWriter, Event, LogLine, Logged, MeasuredOn, read_curve};
pub use record::{
    Environment, Latency, LatencySettings, LayerInfo, LayerPoint, Measure, Point, PointKey, RepairSettings,
    RunHeader, RunKind, Timing, UNPRUNED,
};
pub use store::{CSV_FILE, RESULTS_FILE, Run, RunWriter, SAMPLES_FOLDER, TIMINGS_FILE};
