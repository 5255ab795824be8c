//! What to prune and how much.

use secateur_model::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::mask::Amount;
use crate::method::Method;
use crate::select::Selector;

/// What to prune and how much. In a recipe the amount stands as `sparsity` or `count`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct PruneOptions {
    /// The method.
    pub method: Method,
    /// How much of what is ranked together.
    pub amount: Amount,
    /// Other sparsities for some layers; they leave a global ranking.
    pub overrides: Vec<Override>,
    /// Which tensors.
    pub selector: Selector,
    /// Leave the bias and batch-norm of pruned output channels as they are.
    pub weights_only: bool,
    /// The amount is of what is not zero yet: PyTorch's meaning.
    pub of_remaining: bool,
    /// The seed of random scores.
    pub seed: u64,
}

/// The sparsity of the layers whose name a glob matches; of several that match the last holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// A glob over tensor path, node label and module.
    pub name: String,
    /// Their sparsity.
    pub sparsity: f64,
}

impl PruneOptions {
    /// Options of a method and an amount, everything else left at its default.
    pub fn new(method: Method, amount: Amount) -> Self {
        PruneOptions {
            method,
            amount,
            overrides: Vec::new(),
            selector: Selector::default(),
            weights_only: false,
            of_remaining: false,
            seed: 0,
        }
    }
}

/// The options as a recipe holds them.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    method: Method,
    #[serde(skip_serializing_if = "Option::is_none")]
    sparsity: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<usize>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    weights_only: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    of_remaining: bool,
    #[serde(default)]
    seed: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    select: Selector,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    overrides: Vec<Override>,
}

fn is_default(selector: &Selector) -> bool {
    *selector == Selector::default()
}

impl TryFrom<Written> for PruneOptions {
    type Error = Error;

    fn try_from(written: Written) -> Result<Self> {
        let amount = match (written.sparsity, written.count) {
            (Some(sparsity), None) => Amount::Sparsity(sparsity),
            (None, Some(count)) => Amount::Count(count),
            _ => return Err(Error::usage("expected either `sparsity` or `count`")),
        };
        amount.check()?;
        Ok(PruneOptions {
            method: written.method,
            amount,
            overrides: written.overrides,
            selector: written.select,
            weights_only: written.weights_only,
            of_remaining: written.of_remaining,
            seed: written.seed,
        })
    }
}

impl From<PruneOptions> for Written {
    fn from(options: PruneOptions) -> Self {
        let (sparsity, count) = match options.amount {
            Amount::Sparsity(sparsity) => (Some(sparsity), None),
            Amount::Count(count) => (None, Some(count)),
        };
        Written {
            method: options.method,
            sparsity,
            count,
            weights_only: options.weights_only,
            of_remaining: options.of_remaining,
            seed: options.seed,
            select: options.selector,
            overrides: options.overrides,
        }
    }
}
