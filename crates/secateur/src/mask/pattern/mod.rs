//! The shape that zeros take.
//!
//! One pattern a file. [`PATTERNS`] is the table of all of them: what a method can name, and what
//! help and docs say.

mod axes;
mod block;
mod channel;
mod nm;
mod unstructured;

use std::fmt;

use secateur_model::prunable::PrunableView;
use secateur_model::{Error, Result};

use super::groups::Groups;
use super::units::Units;
use crate::near::did_you_mean;

pub use block::Block;
pub use channel::ChannelAxis;
pub use nm::NofM;

/// The shape that zeros take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Pattern {
    /// Single weights.
    #[default]
    Unstructured,
    /// Whole channels or neurons.
    Channel(ChannelAxis),
    /// Single weights, at most N of each M consecutive input channels kept.
    Nm(NofM),
    /// Blocks of output channels × input channels.
    Block(Block),
}

/// A row of the table of patterns.
#[derive(Clone, Copy, Debug)]
pub struct PatternInfo {
    /// The name; parameters in capital letters.
    pub name: &'static str,
    /// What the zeros are, for help texts.
    pub summary: &'static str,
    /// Where it is defined.
    pub source: &'static str,
    /// The pattern; for one with parameters, an example.
    pub pattern: Pattern,
    /// Reads the pattern; `None` where the text names another one.
    parse: fn(&str) -> Option<Result<Pattern>>,
}

/// All patterns.
pub const PATTERNS: &[PatternInfo] = &[unstructured::INFO, channel::INFO, nm::INFO, block::INFO];

/// How the weights of a tensor are ranked.
#[derive(Clone, Debug)]
pub enum Division {
    /// Each by itself.
    Weights,
    /// Whole units.
    Units(Units),
    /// Each by itself, within its group.
    Groups(Groups),
}

impl Pattern {
    /// Reads a pattern's name.
    ///
    /// # Errors
    /// `Usage` where there is no such pattern, or its parameters have no meaning.
    pub fn parse(text: &str) -> Result<Self> {
        PATTERNS.iter().find_map(|info| (info.parse)(text)).unwrap_or_else(|| {
            let name = text.split_once(':').map_or(text, |(name, _)| name);
            let names = PATTERNS.iter().map(|info| info.name).chain(["neuron"]);
            Err(Error::usage(format!("no pattern is called `{text}`{}", did_you_mean(name, names))))
        })
    }

    /// The sparsity of every layer, where the pattern fixes it.
    pub fn sparsity(self) -> Option<f64> {
        match self {
            Pattern::Nm(nm) => Some(nm.sparsity()),
            Pattern::Unstructured | Pattern::Channel(_) | Pattern::Block(_) => None,
        }
    }

    /// How the weights of a tensor of this shape are ranked.
    ///
    /// # Errors
    /// Where the pattern has no meaning for the tensor.
    pub fn divide(self, view: &PrunableView, shape: &[usize]) -> Result<Division> {
        Ok(match self {
            Pattern::Unstructured => Division::Weights,
            Pattern::Channel(axis) => Division::Units(axis.units(view, shape)?),
            Pattern::Block(block) => Division::Units(block.units(view, shape)?),
            Pattern::Nm(nm) => Division::Groups(nm.groups(view, shape)?),
        })
    }

    /// What the scope `row` ranks together: the weights of an output, or the blocks over the same
    /// outputs.
    ///
    /// # Errors
    /// `Usage` where the pattern has no rows or the tensor no outputs.
    pub fn rows(self, view: &PrunableView, shape: &[usize]) -> Result<Units> {
        match self {
            Pattern::Unstructured => unstructured::rows(view, shape),
            Pattern::Block(block) => block.rows(view, shape),
            Pattern::Channel(_) | Pattern::Nm(_) => {
                Err(Error::usage(format!("the pattern {self} has no rows to rank within")))
            }
        }
    }

    /// Whether the pattern prunes outputs of the operator, so that bias and batch-norm go along.
    pub fn prunes_outputs(self, view: &PrunableView) -> bool {
        matches!(self, Pattern::Channel(axis) if axis.is_out(view))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pattern::Unstructured => f.write_str("unstructured"),
            Pattern::Channel(axis) => axis.fmt(f),
            Pattern::Nm(nm) => nm.fmt(f),
            Pattern::Block(block) => block.fmt(f),
        }
    }
}
