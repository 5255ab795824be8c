//! Data sets, preprocessing, batches and metrics: what evaluation needs besides a runtime.
//!
//! [`DataSpec`] says what to read and opens it as a [`Dataset`]; [`Batches`] turns its samples into
//! the model's inputs with a [`Preprocess`], decoding ahead of time; a [`metrics::Scorer`] computes
//! losses and accuracies of the outputs, and [`compare::OutputErrors`]
//! compares outputs with those of another model where there are no labels.
//!
//! Files are untrusted: nothing is allocated for what a header claims before the file's length
//! confirms it, and compressed files are unpacked within limits.

mod array;
mod augment;
mod batches;
mod cifar;
pub mod compare;
mod dataset;
mod epochs;
mod folder;
mod idx;
mod image;
mod input;
mod loss;
pub mod metrics;
mod named;
mod npy;
mod preprocess;
mod resize;
mod sampling;
mod source;
mod spec;
mod tolerance;

pub use array::Array;
pub use augment::Augment;
pub use batches::{Batch, BatchIter, Batches};
pub use cifar::{Cifar, read_cifar};
pub use dataset::{Dataset, Value};
pub use epochs::Epochs;
pub use idx::read_idx;
pub use image::{Filter, Image, decode_image};
pub use input::InputSpec;
pub(crate) use loss::logits;
pub use loss::{BatchLoss, LossOptions};
pub use named::read_named;
pub use npy::{read_npy, read_npz, write_npy, write_npz};
pub use preprocess::{Channels, Layout, Preprocess, Resize, Scale, parse_size};
pub use sampling::{Sampling, Split};
pub use spec::{DataSpec, Format, TrainData};
pub use tolerance::{Tolerance, Worse, higher_is_better};
