//! Whole channels or neurons.

use std::fmt;

use secateur_model::ops::AxisRole;
use secateur_model::prunable::PrunableView;
use secateur_model::{Error, Result};

use super::axes::{ALL, Axis, axes, units};
use super::{Pattern, PatternInfo};
use crate::prune::units::Units;

pub(super) const INFO: PatternInfo = PatternInfo {
    name: "channel",
    summary: "whole output channels or neurons, with their bias and batch-norm; `channel:in` input \
              channels, `channel:D` the slices along PyTorch's dimension D (negative from the last)",
    source: "torch.nn.utils.prune; filters: Li et al. 2017, arXiv:1608.08710",
    pattern: Pattern::Channel(ChannelAxis::Out),
    parse,
};

/// Which channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ChannelAxis {
    /// Output channels, of all groups; their bias and batch-norm entries are pruned too.
    #[default]
    Out,
    /// Input channels, of all groups.
    In,
    /// The slices along one dimension as PyTorch counts them, negative from the last: matrices as
    /// `[out, in]` however they are stored, everything else as stored. Dimension 1 of a grouped
    /// convolution holds the channels of one group.
    Dim(i64),
}

/// `neuron` is an alias of `channel`.
fn parse(text: &str) -> Option<Result<Pattern>> {
    let (name, axis) = text.split_once(':').map_or((text, None), |(name, axis)| (name, Some(axis)));
    if !matches!(name, "channel" | "neuron") {
        return None;
    }
    let axis = match axis {
        None | Some("out") => Ok(ChannelAxis::Out),
        Some("in") => Ok(ChannelAxis::In),
        Some(dim) => dim
            .parse()
            .map(ChannelAxis::Dim)
            .map_err(|_| Error::usage(format!("`{dim}` names no channels: out, in or a dimension"))),
    };
    Some(axis.map(Pattern::Channel))
}

impl fmt::Display for ChannelAxis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChannelAxis::Out => f.write_str("channel"),
            ChannelAxis::In => f.write_str("channel:in"),
            ChannelAxis::Dim(dim) => write!(f, "channel:{dim}"),
        }
    }
}

impl ChannelAxis {
    /// The channels of a weight of this shape. Groups, directions and stacked matrices multiply
    /// them; the gates of one output belong together.
    ///
    /// # Errors
    /// `Usage` where the weight has no such axis, `Unsupported` where its groups cannot be told apart.
    pub fn units(self, view: &PrunableView, shape: &[usize]) -> Result<Units> {
        let wanted = match self {
            ChannelAxis::Out => Axis::Out,
            ChannelAxis::In => Axis::In,
            ChannelAxis::Dim(dim) => return Ok(Units::along(shape, self.stored_axis(dim, view)?)),
        };
        let axes = axes(view, shape, &[wanted])?;
        Ok(units(&axes, |axis| if axis == wanted || axis == Axis::Apart { 1 } else { ALL }))
    }

    /// The stored axis that PyTorch's dimension is.
    fn stored_axis(self, dim: i64, view: &PrunableView) -> Result<usize> {
        let rank = view.roles.len();
        let out_of_range =
            || Error::usage(format!("channels along dimension {dim}, but the weight has {rank} dimensions"));
        if rank < 2 {
            return Err(Error::usage("channels need a weight of at least 2 dimensions"));
        }
        let dim = if dim < 0 { dim + rank as i64 } else { dim };
        let dim = usize::try_from(dim).ok().filter(|&d| d < rank).ok_or_else(out_of_range)?;
        let stored_in_out = view.roles.ends_with(&[AxisRole::In, AxisRole::Out])
            && view.roles[..rank - 2].iter().all(|&r| r == AxisRole::Batch);
        Ok(match dim {
            d if stored_in_out && d + 2 == rank => rank - 1,
            d if stored_in_out && d + 1 == rank => rank - 2,
            d => d,
        })
    }

    /// Whether the channels are the operator's outputs, so that bias and batch-norm belong to them.
    pub fn is_out(self, view: &PrunableView) -> bool {
        match self {
            ChannelAxis::Out => true,
            ChannelAxis::In => false,
            ChannelAxis::Dim(dim) => {
                // The outputs of one group are not the operator's outputs.
                let of_group = view.group_axis.is_some_and(|axis| view.roles[axis] != AxisRole::Out);
                !of_group && self.stored_axis(dim, view).is_ok_and(|axis| view.roles[axis] == AxisRole::Out)
            }
        }
    }
}
