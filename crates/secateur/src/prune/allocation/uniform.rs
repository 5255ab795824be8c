//! The same sparsity for each layer.

use super::{Allocation, AllocationInfo};

pub(super) const INFO: AllocationInfo = AllocationInfo {
    name: "uniform",
    summary: "the same sparsity for each layer (the default)",
    formula: "d = 1 − sparsity",
    source: "torch.nn.utils.prune",
    allocation: Allocation::Uniform,
    kept: None,
};
