//! Compute kernels of secateur: slices in, slices out, no knowledge of models.
//!
//! Tensors are f32, row-major and contiguous. Constant weights are packed once ([`PackedConv`],
//! [`PackedMatrix`]) and used many times. Kernels run on the threads of the current rayon pool if there is
//! enough to do, and compute the same bits on any number of threads: the order of a sum never depends on it.
//!
//! Functions panic if slices and sizes do not match; each says so under "Panics". The caller has checked a model's
//! shapes before.

#![allow(unsafe_code)]

mod activation;
mod allocator;
mod attention;
mod binary;
mod conv;
pub mod decode;
mod gemm;
pub mod gradient;
mod math;
mod norm;
mod permute;
mod planes;
mod pooling;
mod reduce;
pub mod select;
mod simd;
mod size;
mod softmax;
pub mod sparse;
#[cfg(test)]
mod testing;
mod threads;
pub mod tiled;
mod unary;
mod value;

pub use activation::{Activation, activate};
pub use allocator::LineAllocator;
pub use attention::{AttentionSpec, HeadStrides, Scores, attention};
pub use binary::{BinaryOp, binary};
pub use conv::{ConvSpec, ConvTransposeSpec, DenseWork, PackedConv, PackedConvTranspose, TrainedConv};
pub use gemm::{Batch, Epilogue, Gemm, MatRef, Operand, PackedMatrix};
pub use norm::{group_norm, layer_norm, rms_norm, scale_shift};
pub use permute::permute;
pub use planes::Planes;
pub use pooling::{PoolOp, PoolSpec, max_pool_gradient, max_pool_indices, pool, pool_gradient};
pub use reduce::{ReduceOp, reduce};
pub use simd::{instruction_set, peak_flops, read_bandwidth};
pub use softmax::{log_softmax, softmax, softmax_rows};
pub use threads::{Buffer, alone, split};
pub use unary::{UnaryOp, unary, unary_in_place};
pub use value::ValueType;
