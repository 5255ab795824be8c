//! Which patterns the zeros of a tensor form.

use secateur_model::Result;
use secateur_model::prunable::PrunableView;
use serde::Serialize;

use crate::mask::ChannelAxis;
use crate::mask::units::Units;
use crate::report::Count;
use crate::score::norm::unit_nonzeros;
use crate::score::weights::Weights;

/// Which patterns the zeros of a tensor form. `None` where the tensor has no such units.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PatternFound {
    /// Output channels; those that are not all zero are not zero.
    pub output_channels: Option<Count>,
    /// Input channels.
    pub input_channels: Option<Count>,
}

/// Finds the patterns that the zeros of a tensor form.
pub fn pattern_found(weights: &Weights<'_>, view: &PrunableView, shape: &[usize]) -> PatternFound {
    let count = |units: Result<Units>| {
        let nonzeros = unit_nonzeros(weights, &units.ok()?);
        let nonzero = nonzeros.iter().filter(|&&n| n > 0).count() as u64;
        Some(Count { nonzero, total: nonzeros.len() as u64 })
    };
    PatternFound {
        output_channels: count(ChannelAxis::Out.units(view, shape)),
        input_channels: count(ChannelAxis::In.units(view, shape)),
    }
}

impl PatternFound {
    /// The patterns in words, such as `12 of 64 output channels`; empty where zeros stand singly.
    pub fn words(&self) -> String {
        let part = |count: Option<Count>, of: &str| {
            let count = count.filter(|c| c.nonzero < c.total)?;
            Some(format!("{} of {} {of}", count.total - count.nonzero, count.total))
        };
        let parts = [
            part(self.output_channels, "output channels"),
            part(self.input_channels, "input channels"),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
    }
}
