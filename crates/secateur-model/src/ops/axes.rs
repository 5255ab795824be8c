//! What many operators say of their axes.

use crate::axes::Statement;
use crate::{Node, Result};

/// All operands and results meet elementwise, numpy's way.
pub(super) fn pointwise(_: &Node, axes: &mut Statement<'_>) -> Result<()> {
    axes.pointwise();
    Ok(())
}

/// The first output has the axes of the first input.
pub(super) fn unchanged(_: &Node, axes: &mut Statement<'_>) -> Result<()> {
    axes.unchanged();
    Ok(())
}
