//! What to prune and how much.

use std::path::PathBuf;

use secateur_model::prunable::Entry;
use secateur_model::{Error, Result};

use crate::prune::evidence::SCORES;
use crate::prune::method::Method;
use crate::prune::select::Selector;
use crate::prune::{Amount, ChannelAxis, Pattern, Subject};

/// What to prune and how much.
#[derive(Clone, Debug, PartialEq)]
pub struct PruneOptions {
    /// The method.
    pub method: Method,
    /// How much of what is ranked together; where an allocation divides it, of all layers together.
    /// Of a pattern that fixes the sparsity (N:M), that one.
    pub amount: Amount,
    /// Other sparsities for some layers, which then take no part in a global ranking.
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

/// The sparsity of the layers whose name a glob matches; the last match wins.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    /// A glob over tensor path, node label and module.
    pub name: String,
    /// Their sparsity.
    pub sparsity: f64,
}

impl Default for PruneOptions {
    /// `l1` at sparsity 0: a base for [`PruneOptions::with`].
    fn default() -> Self {
        PruneOptions::new(Method::default(), Amount::Sparsity(0.0))
    }
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

    /// The same selection and settings with another method and amount. Only a method that needs it keeps the file
    /// of scores.
    #[must_use]
    pub fn with(&self, method: Method, amount: Amount) -> Self {
        let scores = self.scores.clone().filter(|_| method.needs(&SCORES));
        PruneOptions { method, amount, scores, ..self.clone() }
    }

    /// The model's tensors as these options see them: where output channels are pruned, the layers whose channels are
    /// the model's outputs stay dense by default. A pattern that names an axis (`channel:0`) is an exception.
    ///
    /// # Errors
    /// As [`secateur_model::prunable::view`].
    pub fn entries<'s>(&self, subject: &'s Subject<'_>) -> Result<&'s [Entry]> {
        if self.method.pattern == Pattern::Channel(ChannelAxis::Out) {
            return subject.entries_with_dense_outputs();
        }
        subject.entries()
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
