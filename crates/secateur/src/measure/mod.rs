//! Counts, bytes, multiply–accumulates and histograms of weights and models.

mod bytes;
mod count;
mod histogram;
mod macs;
pub(crate) mod number;

pub use bytes::{Bytes, compressed};
pub use count::{Count, nonzeros};
pub use histogram::Histogram;
pub use macs::{layer_macs, remaining_macs};
