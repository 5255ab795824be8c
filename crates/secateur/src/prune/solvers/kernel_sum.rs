//! Gives the sum of each convolution kernel back to the weights that stay.
//!
//! Neighbouring positions of a feature map are nearly equal, so the inputs under one kernel are nearly constant,
//! and what a kernel computes of a constant is its sum. SQuant approximates the Hessian of a convolution so, with
//! a term for each kernel, and rounds weights such that their errors cancel within it; here the same term decides
//! where pruned weights go. Of all weights with the given mask and the kernel's old sum, these are the closest to
//! the old ones. No data is needed. A kernel that is pruned whole stays zero, and so does the loss of its sum.

use secateur_model::Result;

use super::{Solution, Solver};
use crate::prune::evidence::Evidence;
use crate::prune::registry::{About, Described};

/// Adds the mean of what a kernel loses to each of its weights that stay.
#[derive(Debug)]
pub(super) struct KernelSum;

static ABOUT: About = About {
    name: "kernel-sum",
    aliases: &[],
    parameter: None,
    summary: "gives each convolution kernel (one output, one input channel) its sum back, so that what it computes \
              of constant inputs stays: for single weights, needs no data; other layers stay as they are",
    formula: "w_i' = w_i + Σ_{j pruned} w_j ÷ #kept, over the kernel",
    source: "the kernel term of SQuant's Hessian (Guo et al. 2022, arXiv:2202.07471), there for rounding",
    needs: &[],
};

impl Described for KernelSum {
    fn about(&self) -> &About {
        &ABOUT
    }
}

impl Solver for KernelSum {
    fn solve(&self, layer: &Evidence<'_>, so_far: Solution) -> Result<Solution> {
        let Some(kernels) = layer.kernels()? else { return Ok(so_far) };
        let Solution { mask, mut weights } = so_far;
        let mut lost = vec![0.0; kernels.count()];
        let mut kept = vec![0usize; kernels.count()];
        kernels.for_each_run(|start, len, first, step| {
            for i in 0..len {
                let (weight, kernel) = (start + i, first + i * step);
                match mask.keeps(weight) {
                    true => kept[kernel] += 1,
                    false => lost[kernel] += weights[weight],
                }
            }
        });
        kernels.for_each_run(|start, len, first, step| {
            for i in (0..len).filter(|i| mask.keeps(start + i)) {
                let kernel = first + i * step;
                weights[start + i] += lost[kernel] / kept[kernel] as f64;
            }
        });
        Ok(Solution { mask, weights })
    }
}
