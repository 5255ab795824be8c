//! Models, tensors, the graph, the meaning of operators and the file formats of secateur.
//!
//! A file is read into one [`Model`]: tensors by stable path (lazy, memory-mapped), an optional
//! [`Graph`] and the source container, from which the writer later takes every byte that was not
//! changed. [`ops`] says what each operator means: its shapes, the role of each axis of its weights
//! and its cost. [`prunable`] derives from that what can be pruned and why the rest cannot.
//!
//! ```no_run
//! # fn main() -> secateur_model::Result<()> {
//! let model = secateur_model::io::read("model.onnx")?;
//! for tensor in model.tensors.values() {
//!     println!("{} {:?} {}", tensor.path, tensor.shape, tensor.dtype);
//! }
//! # Ok(())
//! # }
//! ```

pub mod axes;
pub mod dims;
pub mod dtype;
pub mod error;
pub mod graph;
pub mod infer;
pub mod io;
pub mod model;
pub mod ops;
pub mod packed;
pub mod pair;
pub(crate) mod parametrised;
pub mod prunable;
pub mod shown;
pub mod tensor;
pub mod text;

pub use dtype::DType;
pub use error::{Error, ErrorKind, Result, ResultExt};
pub use graph::{Attr, Graph, Node, NodeId, ValueId};
pub use model::{Model, Patch, StoredTensor, TensorId};
pub use tensor::{Data, Element, Tensor};
