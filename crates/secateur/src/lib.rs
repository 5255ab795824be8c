//! Prunes trained neural networks and shows what that costs.
//!
//! ```no_run
//! # fn main() -> secateur::Result<()> {
//! use secateur::{io, prune, Amount};
//!
//! let model = io::read("model.onnx")?;
//! let mut options = prune::PruneOptions::new("l1@global".parse()?, Amount::Sparsity(0.8));
//! options.selector.ops = vec!["Conv".into()];
//! let pruning = prune::plan(&model, &options)?;
//! io::write(&model, &pruning.patch(&model), &[], "pruned.onnx".as_ref(), io::WriteOptions::default())?;
//! # Ok(())
//! # }
//! ```

pub mod calib;
pub mod data;
pub mod demo;
pub mod eval;
pub mod files;
pub mod format;
pub mod lottery;
pub mod masters;
pub mod measure;
mod names;
pub mod near;
pub mod nets;
pub mod perf;
pub mod progress;
pub mod prune;
pub mod random;
pub mod records;
pub mod schedule;
pub mod solve;
#[cfg(test)]
mod testing;
pub mod train;

pub use eval::{evaluate, run, sizes, sweep};
pub use files::{diff, inspect, pack, verify};
pub use names::layer_names;
pub use perf::{bench, costs, predict};
pub use prune::{Amount, Method, coverage, select};
pub use secateur_kernels::LineAllocator;
pub use secateur_model::{
    DType, Error, ErrorKind, Model, Patch, Result, ResultExt, Tensor, TensorId, axes, infer, io, ops,
    pair::pair, prunable, shown, text,
};
pub use secateur_runtime::{Limits, Session};
