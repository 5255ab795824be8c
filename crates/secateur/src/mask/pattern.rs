//! The shape that zeros take.

use std::fmt;

use secateur_model::ops::AxisRole;
use secateur_model::prunable::PrunableView;
use secateur_model::{Error, Result};

use super::units::Units;

/// The shape that zeros take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Pattern {
    /// Single weights.
    #[default]
    Unstructured,
    /// Whole channels or neurons.
    Channel(ChannelAxis),
}

/// Which channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ChannelAxis {
    /// Output channels, of all groups: bias and batch-norm go along.
    #[default]
    Out,
    /// Input channels, of all groups.
    In,
    /// The slices along one dimension as PyTorch counts them, negative from the last: matrices as
    /// `[out, in]` however they are stored, everything else as stored. Dimension 1 of a grouped
    /// convolution holds the channels of one group.
    Dim(i64),
}

impl Pattern {
    /// The patterns with a sentence for tables and help texts.
    pub const ALL: &'static [(Pattern, &'static str)] = &[
        (Pattern::Unstructured, "single weights (the default)"),
        (
            Pattern::Channel(ChannelAxis::Out),
            "whole output channels or neurons, with their bias and batch-norm; `channel:in` input \
             channels, `channel:D` the slices along PyTorch's dimension D (negative from the last)",
        ),
    ];

    /// Reads a pattern's name; `neuron` is another word for `channel`.
    ///
    /// # Errors
    /// `Usage` where there is no such pattern.
    pub fn parse(text: &str) -> Result<Self> {
        let (name, axis) = text.split_once(':').map_or((text, None), |(name, axis)| (name, Some(axis)));
        match (name, axis) {
            ("unstructured", None) => Ok(Pattern::Unstructured),
            ("channel" | "neuron", None | Some("out")) => Ok(Pattern::Channel(ChannelAxis::Out)),
            ("channel" | "neuron", Some("in")) => Ok(Pattern::Channel(ChannelAxis::In)),
            ("channel" | "neuron", Some(dim)) => dim
                .parse()
                .map(|dim| Pattern::Channel(ChannelAxis::Dim(dim)))
                .map_err(|_| Error::usage(format!("`{dim}` names no channels: out, in or a dimension"))),
            _ => {
                let names = ["unstructured", "channel", "neuron"];
                let near = crate::near::did_you_mean(name, names);
                Err(Error::usage(format!("no pattern is called `{text}`{near}")))
            }
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pattern::Unstructured => f.write_str("unstructured"),
            Pattern::Channel(ChannelAxis::Out) => f.write_str("channel"),
            Pattern::Channel(ChannelAxis::In) => f.write_str("channel:in"),
            Pattern::Channel(ChannelAxis::Dim(dim)) => write!(f, "channel:{dim}"),
        }
    }
}

/// The output rows of a weight: what one output is computed from. Gates of a recurrent operator and
/// the matrices of a stack have rows of their own.
///
/// # Errors
/// `Usage` where the weight has no output axis, `Unsupported` where its groups cannot be told apart.
pub fn rows(view: &PrunableView, shape: &[usize]) -> Result<Units> {
    by_roles(view, shape, AxisRole::Out, 1)
}

impl ChannelAxis {
    /// The channels of a weight of this shape.
    ///
    /// # Errors
    /// `Usage` where the weight has no such axis, `Unsupported` where its groups cannot be told apart.
    pub fn units(self, view: &PrunableView, shape: &[usize]) -> Result<Units> {
        match self {
            ChannelAxis::Out => by_roles(view, shape, AxisRole::Out, view.gates),
            ChannelAxis::In => by_roles(view, shape, AxisRole::In, 1),
            ChannelAxis::Dim(dim) => Ok(Units::along(shape, self.stored_axis(dim, view)?)),
        }
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

/// The channels of a role. Groups, directions and stacked matrices multiply them; the gates of one
/// unit belong together where `gates` says how many there are.
fn by_roles(view: &PrunableView, shape: &[usize], role: AxisRole, gates: usize) -> Result<Units> {
    let has = |wanted| view.roles.contains(&wanted);
    let found = has(role) || (role == AxisRole::Out && has(AxisRole::GateOut));
    if !found {
        let word = if role == AxisRole::Out { "output" } else { "input" };
        return Err(Error::usage(format!("the tensor has no axis of {word} channels")));
    }
    // One axis holds the groups: where it has this role it counts them already.
    let split = view.group_axis.filter(|&axis| view.roles[axis] != role);
    if view.groups > 1 && view.group_axis.is_none() {
        return Err(Error::unsupported(
            "the groups of the weight are mixed with other axes on the way to its node: channels cannot be told apart",
        ));
    }
    let mut factors = Vec::with_capacity(shape.len() + 1);
    for (axis, (&extent, &of)) in shape.iter().zip(&view.roles).enumerate() {
        match of {
            AxisRole::GateOut if role == AxisRole::Out => {
                factors.extend([(gates, gates == 1), (extent / gates, true)]);
            }
            AxisRole::Batch | AxisRole::Direction => factors.push((extent, true)),
            _ if split == Some(axis) => {
                factors.extend([(view.groups, true), (extent / view.groups, false)]);
            }
            of => factors.push((extent, of == role)),
        }
    }
    Ok(Units::new(&factors))
}
