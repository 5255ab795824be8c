//! The points of a sweep.

use secateur::prune::method::Method;
use secateur::solve;
use secateur_report::analysis::Tolerance;
use serde::{Deserialize, Serialize};

use super::{Share, is_default, value, word};

/// The points of a sweep.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct SweepFlags {
    /// The methods that are compared; those of the section `prune` where this is empty. The flag for both is
    /// `--method`.
    #[arg(skip)]
    #[serde(with = "value::list", alias = "methods", skip_serializing_if = "is_default")]
    pub(crate) method: Vec<Method>,
    /// Step between sparsities, unless --sparsity lists them [default: 0.05; 0.2 for `sensitivity`]
    #[arg(long, value_name = "SHARE", help_heading = "Sweep", conflicts_with = "sparsity")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) step: Option<Share>,
    /// The largest sparsity, unless --sparsity lists them [default: 0.95]
    #[arg(long, value_name = "SHARE", help_heading = "Sweep", conflicts_with = "sparsity")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) max: Option<Share>,
    /// Number of seeds for random methods [default: 5]
    #[arg(long, value_name = "N", help_heading = "Sweep")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) random_seeds: Option<usize>,
    /// The degradation that still counts as free: loss:1% (of the unpruned loss) or top1:1pt (percentage points)
    /// [default: loss:1%]
    #[arg(long, value_name = "MEASURE:AMOUNT", help_heading = "Sweep", conflicts_with = "threshold")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) free: Option<Tolerance>,
    /// The same as a share of the loss
    #[arg(long, value_name = "SHARE", hide = true)]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) threshold: Option<f64>,
    /// Time each pruned model, interleaved with the unpruned one, and plot accuracy against latency
    #[arg(long, help_heading = "Sweep")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) latency: bool,
    /// Repair each pruned model on the --calibrate data before it is measured: norms, bias or both
    #[arg(long, value_name = "HOW", value_delimiter = ',', value_parser = word::<solve::Method>, help_heading = "Sweep")]
    #[serde(with = "value::list", skip_serializing_if = "is_default")]
    pub(crate) repair: Vec<solve::Method>,
    /// Do not write and compress each pruned model to measure its size
    #[arg(long, help_heading = "Sweep")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) no_sizes: bool,
}

impl SweepFlags {
    /// How much worse than the unpruned model still counts as free.
    pub(crate) fn tolerance(&self) -> Tolerance {
        self.free.clone().or(self.threshold.map(Tolerance::from)).unwrap_or_default()
    }
}
