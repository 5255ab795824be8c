//! What to prune and how much.

use std::path::PathBuf;

use secateur_model::prunable::{self, Entry};
use secateur_model::{Error, Model, Result};
use serde::{Deserialize, Serialize};

use crate::prune::evidence::SCORES;
use crate::prune::method::Method;
use crate::prune::{Amount, ChannelAxis, Pattern};
use crate::select::Selector;

/// What to prune and how much. In a recipe the amount stands as `sparsity` or `count`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct PruneOptions {
    /// The method.
    pub method: Method,
    /// How much of what is ranked together; where an allocation divides it, of all layers together.
    /// Of a pattern that fixes the sparsity (N:M), that one.
    pub amount: Amount,
    /// Other sparsities for some layers; they leave a global ranking.
    pub overrides: Vec<Override>,
    /// Which tensors.
    pub selector: Selector,
    /// Leave the bias and batch-norm of pruned output channels as they are.
    pub weights_only: bool,
    /// The amount is of what is not zero yet: PyTorch's meaning.
    pub of_remaining: bool,
    /// The seed of random draws.
    pub seed: u64,
    /// The file of scores, for a method that needs one.
    pub scores: Option<PathBuf>,
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
            scores: None,
        }
    }

    /// The model's tensors as these options see them: where output channels are pruned, the layers whose channels are
    /// the model's outputs stay dense by default. Who names an axis of the tensor (`channel:0`) means just that.
    ///
    /// # Errors
    /// As [`prunable::view`].
    pub fn entries(&self, model: &Model) -> Result<Vec<Entry>> {
        let mut entries = prunable::view(model)?;
        if self.method.pattern == Pattern::Channel(ChannelAxis::Out) {
            prunable::leave_outputs_dense(model, &mut entries);
        }
        Ok(entries)
    }

    /// Checks that the options fit one another.
    ///
    /// # Errors
    /// `Usage` where they do not.
    pub fn check(&self) -> Result<()> {
        self.method.check()?;
        self.amount.check()?;
        if let Pattern::Nm(nm) = self.method.pattern
            && (!nm.fixes(self.amount) || self.of_remaining)
        {
            let amount = self.amount;
            let of = if self.of_remaining { " of what remains" } else { "" };
            return Err(Error::usage(format!(
                "{amount}{of}: the pattern {nm} fixes the sparsity at {}: leave the amount out",
                nm.sparsity()
            )));
        }
        match &self.scores {
            Some(file) if !self.method.needs(&SCORES) => Err(Error::usage(format!(
                "method `{}` takes no file of scores: use the criterion `file`, or leave `{}` out",
                self.method,
                file.display()
            ))),
            _ => Ok(()),
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scores: Option<PathBuf>,
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
        let fixed = written.method.pattern.sparsity();
        let amount = match (written.sparsity.or(fixed), written.count) {
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
            scores: written.scores,
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
            scores: options.scores,
            select: options.selector,
            overrides: options.overrides,
        }
    }
}
