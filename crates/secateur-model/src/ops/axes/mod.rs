//! How the axes of operands and results correspond: what an operator can say of them ([`Statement`]), what an axis
//! consists of ([`Space`]), and what many operators say.

mod space;
mod statement;

pub use self::space::{Axis, Fixed, Space, View};
pub use self::statement::{AxesFn, Slot, Statement, Written};

use crate::{Node, Result};

/// All operands and results meet elementwise, numpy's way.
pub(crate) fn pointwise(_: &Node, axes: &mut Statement<'_>) -> Result<()> {
    axes.pointwise();
    Ok(())
}

/// The first output has the axes of the first input.
pub(crate) fn unchanged(_: &Node, axes: &mut Statement<'_>) -> Result<()> {
    axes.unchanged();
    Ok(())
}
