//! Solvers: rules that give a mask *and* new weights.
//!
//! One solver per file: its description ([`About`](super::registry::About)) and how it solves. [`SOLVERS`] is the table
//! of all of them, which methods, help and documentation read.

mod kernel_sum;

use secateur_model::Result;

use super::evidence::Evidence;
use super::masks::Mask;
use super::registry::Described;

/// A rule that changes the remaining weights to make up for the pruned ones, and may change which ones remain.
///
/// It keeps no state: everything it knows of a layer comes as [`Evidence`], and the same evidence gives the same
/// weights on any number of threads.
pub trait Solver: Described {
    /// Solves a layer. `so_far` is the result of the criterion or of the previous solver; the original weights are
    /// [`Evidence::weights`].
    ///
    /// The mask that is returned prunes as many weights, and no pattern is broken by it; what an earlier round
    /// pruned stays pruned. The values of pruned weights are not looked at.
    ///
    /// # Errors
    /// Where the evidence is missing or does not fit.
    fn solve(&self, layer: &Evidence<'_>, so_far: Solution) -> Result<Solution>;
}

/// A layer's mask and weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    /// Which weights are kept.
    pub mask: Mask,
    /// The weights, in the order in which they are stored.
    pub weights: Vec<f64>,
}

/// All solvers.
pub static SOLVERS: &[&dyn Solver] = &[&kernel_sum::KernelSum];
