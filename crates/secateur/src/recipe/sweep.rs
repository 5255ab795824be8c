//! The points of a sweep.

use serde::{Deserialize, Serialize};

use super::{Share, is_default, value};
use crate::method::Method;

/// The points of a sweep.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct SweepFlags {
    /// The methods that are compared; those of the section `prune` where this is empty. The flag for both is
    /// `--method`.
    #[cfg_attr(feature = "cli", arg(skip))]
    #[serde(with = "value::list", alias = "methods", skip_serializing_if = "is_default")]
    pub method: Vec<Method>,
    /// Distance between sparsities, where --sparsity lists none [default: 0.05; 0.2 for `sensitivity`]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "SHARE", help_heading = "Sweep", conflicts_with = "sparsity")
    )]
    #[serde(skip_serializing_if = "is_default")]
    pub step: Option<Share>,
    /// The largest sparsity, where --sparsity lists none [default: 0.95]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "SHARE", help_heading = "Sweep", conflicts_with = "sparsity")
    )]
    #[serde(skip_serializing_if = "is_default")]
    pub max: Option<Share>,
    /// How many seeds to draw random methods with [default: 5]
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Sweep"))]
    #[serde(skip_serializing_if = "is_default")]
    pub random_seeds: Option<usize>,
    /// The relative increase in loss up to which pruning counts as free [default: 0.01]
    #[cfg_attr(feature = "cli", arg(long, value_name = "SHARE", help_heading = "Sweep"))]
    #[serde(skip_serializing_if = "is_default")]
    pub threshold: Option<f64>,
    /// Do not write and compress each pruned model to measure its size
    #[cfg_attr(feature = "cli", arg(long, help_heading = "Sweep"))]
    #[serde(skip_serializing_if = "is_default")]
    pub no_sizes: bool,
}
