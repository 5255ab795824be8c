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

pub mod bench;
pub mod costs;
pub mod coverage;
pub mod data;
pub mod demo;
pub mod diff;
pub mod evaluate;
pub mod format;
pub mod inspect;
mod layer_names;
mod near;
pub mod pack;
pub mod predict;
pub mod progress;
pub mod prune;
pub mod random;
pub mod recipe;
pub mod records;
pub mod run;
pub mod select;
pub mod sizes;
pub mod sweep;
pub mod verify;

pub use layer_names::layer_names;
pub use prune::{Amount, Method};
pub use secateur_model::{
    DType, Error, ErrorKind, Model, Patch, Result, Tensor, TensorId, infer, io, ops, pair::pair, prunable,
    shown, text,
};
pub use secateur_runtime::{Limits, Session};

/// The name of the file a model was read from.
pub(crate) fn file_name(model: &Model) -> String {
    let name = model.path.as_deref().and_then(std::path::Path::file_name);
    name.map_or_else(|| "model".to_string(), |n| n.to_string_lossy().into_owned())
}

/// The name of the processor, where the system tells it.
pub(crate) fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_string(), |(_, n)| n.trim().to_string())
}
