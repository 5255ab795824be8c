//! Backward passes, from the gradient of a result to those of operands, and the steps of optimisers.
//!
//! Each function states the formula it computes; L is the loss, and the gradient of a value x is ∂L/∂x. Sums have an
//! order that does not depend on the number of threads. Convolutions are in [`crate::TrainedConv`], pooling in
//! [`crate::pool_gradient`]; matrix products need nothing but [`crate::Gemm`] on transposed operands.

mod attention;
mod batch_norm;
mod layer_norm;
mod local_norm;
mod resample;
mod sampled;
mod softmax;
mod step;
mod sums;
mod unary;

pub use attention::{AttentionGradient, AttentionOperands};
pub use batch_norm::{BatchNorm, NormOperands, batch_norm, batch_norm_gradient};
pub use layer_norm::{RowNorm, layer_norm_gradient};
pub use local_norm::{LocalNorm, local_norm_gradient};
pub use resample::resample_gradient;
pub use sampled::Kept;
pub(crate) use sampled::Sampled;
pub use softmax::{log_softmax_gradient, softmax_gradient};
pub use step::{Adam, Sgd, adam, sgd};
pub use sums::{channel_sums, column_sums};
pub use unary::{UnaryOperand, unary_gradient};
