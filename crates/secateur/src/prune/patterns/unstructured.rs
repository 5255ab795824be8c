//! Single weights.

use secateur_model::Result;
use secateur_model::prunable::PrunableView;

use super::axes::{ALL, Axis, axes, units};
use super::{Pattern, PatternInfo};
use crate::prune::units::Units;

pub(super) const INFO: PatternInfo = PatternInfo {
    name: "unstructured",
    summary: "single weights (the default)",
    source: "torch.nn.utils.prune",
    pattern: Pattern::Unstructured,
    parse: |text| (text == "unstructured").then_some(Ok(Pattern::Unstructured)),
};

/// The output rows of a weight: what one output is computed from. Gates of a recurrent operator and
/// the matrices of a stack have rows of their own.
///
/// # Errors
/// `Usage` where the weight has no output axis, `Unsupported` where its groups cannot be told apart.
pub(super) fn rows(view: &PrunableView, shape: &[usize]) -> Result<Units> {
    let axes = axes(view, shape, &[Axis::Out])?;
    Ok(units(&axes, |axis| match axis {
        Axis::Out | Axis::Gate | Axis::Apart => 1,
        Axis::In | Axis::Spatial => ALL,
    }))
}
