//! The shape that zeros take.
//!
//! One pattern per file. [`PATTERNS`] is the table of all of them: what a method can name, and what
//! help and docs say.

pub(super) mod axes;
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

    /// Whether the pattern prunes outputs of the operator, so that bias and batch-norm are pruned too.
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

#[cfg(test)]
mod tests {
    use secateur_model::TensorId;
    use secateur_model::ops::AxisRole::{self, Batch, Direction, GateOut, In, Out, Spatial};

    use super::*;

    fn view(roles: &[AxisRole], groups: usize, group_axis: Option<usize>, gates: usize) -> PrunableView {
        PrunableView {
            tensor: TensorId(0),
            node: "node".into(),
            op_type: "op".into(),
            module: String::new(),
            input: 1,
            roles: roles.to_vec(),
            groups,
            group_axis,
            gates,
            via: Vec::new(),
            bias: None,
            followers: Vec::new(),
            shared: Vec::new(),
            mask: None,
        }
    }

    /// The unit of each element.
    fn units(pattern: &str, view: &PrunableView, shape: &[usize]) -> Vec<usize> {
        let Ok(Division::Units(units)) = Pattern::parse(pattern).unwrap().divide(view, shape) else {
            panic!("{pattern} divides into units");
        };
        let mut of = Vec::new();
        units.for_each_run(|_, len, first, step| of.extend((0..len).map(|i| first + i * step)));
        of
    }

    fn groups(view: &PrunableView, shape: &[usize]) -> Result<[usize; 4]> {
        match Pattern::parse("2:4")?.divide(view, shape)? {
            Division::Groups(g) => Ok([g.outer, g.extent, g.inner, g.m]),
            _ => panic!("2:4 divides into groups"),
        }
    }

    /// Roles say what an axis is, wherever it stands.
    #[test]
    fn axes_are_told_by_their_roles() {
        let linear = view(&[Out, In], 1, None, 1);
        assert_eq!(groups(&linear, &[6, 8]).unwrap(), [6, 8, 1, 4]);
        let product = view(&[Batch, In, Out], 1, None, 1);
        assert_eq!(groups(&product, &[3, 8, 6]).unwrap(), [3, 8, 6, 4]);
        let convolution = view(&[Out, In, Spatial, Spatial], 2, Some(0), 1);
        assert_eq!(groups(&convolution, &[6, 8, 3, 3]).unwrap(), [6, 8, 9, 4]);
        // All groups' inputs stand along the first axis, but a group of 2:4 is within one of them.
        let transposed = view(&[In, Out, Spatial], 2, Some(0), 1);
        assert_eq!(groups(&transposed, &[12, 4, 5]).unwrap(), [2, 6, 20, 4]);
        let recurrent = view(&[Direction, GateOut, In], 1, None, 4);
        assert_eq!(groups(&recurrent, &[2, 12, 8]).unwrap(), [24, 8, 1, 4]);

        assert_eq!(units("2x3", &linear, &[2, 4]), [0, 0, 0, 1, 0, 0, 0, 1]);
        // Stored `[in, out]`: three inputs down, two outputs across.
        assert_eq!(units("2x3", &view(&[In, Out], 1, None, 1), &[4, 2]), [0, 0, 0, 0, 0, 0, 1, 1]);
        // Neither over groups nor over gates.
        assert_eq!(units("4x1", &view(&[Out, In], 2, Some(0), 1), &[4, 1]), [0, 0, 1, 1]);
        assert_eq!(units("4x1", &recurrent, &[1, 8, 1]), [0, 0, 1, 1, 2, 2, 3, 3]);
        // The gates of one output are one channel.
        assert_eq!(units("channel", &recurrent, &[1, 8, 1]), [0, 1, 0, 1, 0, 1, 0, 1]);
        assert_eq!(units("channel:in", &convolution, &[4, 2, 1, 1]), [0, 1, 0, 1, 2, 3, 2, 3]);
    }

    #[test]
    fn neighbours_have_to_be_defined() {
        // Two axes of inputs that follow each other are one.
        assert_eq!(groups(&view(&[In, In, Out], 1, None, 1), &[2, 6, 5]).unwrap(), [1, 12, 5, 4]);
        let message = |view, shape: &[usize]| groups(&view, shape).unwrap_err().to_string();
        assert!(message(view(&[In, Out, In], 1, None, 1), &[2, 6, 5]).contains("several axes"));
        assert!(message(view(&[Out], 1, None, 1), &[6]).contains("no axis of input channels"));
        assert!(message(view(&[Out, In], 2, None, 1), &[6, 4]).contains("cannot be told apart"));
    }
}
