//! Compiles a model into a plan and runs it on the CPU.
//!
//! [`Session::run`] compiles a plan for each signature of input shapes it meets and keeps it:
//! shapes are inferred, constants folded, nodes fused, weights packed and the lifetime of
//! every value fixed. The plan is a list of steps, each with a kernel of the operator table
//! (`kernels`); operators without a kernel of their own run by their evaluation in
//! [`secateur_model::ops`]. Work is spread over the current rayon pool; results do not depend on
//! its size.
//!
//! [`Session::observe`] hands out values inside the graph while it runs, [`Session::extract`] runs a part of the graph
//! alone, and [`Session::update`] lays other weights over the model without starting anew.
//!
//! ```no_run
//! # fn main() -> secateur_model::Result<()> {
//! use secateur_model::{Patch, Tensor, io};
//! let model = std::sync::Arc::new(io::read("model.onnx")?);
//! let session = secateur_runtime::Session::new(model, Patch::new())?;
//! let image = Tensor::new([1, 3, 32, 32], vec![0f32; 3072])?;
//! let outputs = session.run(vec![("input".into(), image)])?;
//! # Ok(())
//! # }
//! ```

mod buffers;
mod costs;
mod fuse;
mod input;
mod item;
mod kernels;
mod limits;
mod nested;
mod packed;
mod part;
mod plan;
mod session;
mod tape;
mod tile;
mod weights;

pub use costs::Costs;
pub use input::InputInfo;
pub use kernels::differentiable;
pub use limits::Limits;
pub use plan::{NodeTime, PlannedNode};
pub use session::{Kernels, Observed, Session};
pub use tape::{Tape, TapeOptions, running_statistics};
pub use tile::Probe;
