//! Blocks of output channels × input channels.

use std::fmt;

use secateur_model::prunable::PrunableView;
use secateur_model::{Error, Result};

use super::axes::{ALL, Axis, ordered_axes, units};
use super::{Pattern, PatternInfo};
use crate::prune::units::Units;

pub(super) const INFO: PatternInfo = PatternInfo {
    name: "RxC",
    summary: "blocks of R consecutive output channels × C consecutive input channels at the same \
              position, such as 4x4, 1x4, 16x1; those at the edges may be smaller",
    source: "Gray et al. 2017, GPU Kernels for Block-Sparse Weights",
    pattern: Pattern::Block(Block { rows: 4, columns: 4 }),
    parse,
};

/// The size of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Block {
    rows: usize,
    columns: usize,
}

fn parse(text: &str) -> Option<Result<Pattern>> {
    let (rows, columns) = text.split_once('x')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(rows) || !digits(columns) {
        return None;
    }
    let numbers = rows.parse().ok().zip(columns.parse().ok());
    Some(numbers.ok_or_else(|| Block::refused(text)).and_then(|(r, c)| Block::new(r, c)).map(Pattern::Block))
}

impl Block {
    /// Blocks of `rows` output channels × `columns` input channels.
    ///
    /// # Errors
    /// `Usage` where one of them is 0, or both are 1.
    pub fn new(rows: usize, columns: usize) -> Result<Self> {
        let block = Block { rows, columns };
        if rows > 0 && columns > 0 && rows.max(columns) > 1 {
            Ok(block)
        } else {
            Err(Block::refused(&block.to_string()))
        }
    }

    fn refused(text: &str) -> Error {
        Error::usage(format!(
            "`{text}` is no block RxC: expected two numbers of which one is above 1, such as 4x4"
        ))
    }

    /// The blocks of a weight of this shape.
    ///
    /// # Errors
    /// `Usage` where the weight has no output or no input axis, `Unsupported` where its channels have
    /// no order or its groups cannot be told apart.
    pub fn units(self, view: &PrunableView, shape: &[usize]) -> Result<Units> {
        let axes = ordered_axes(view, shape, &[Axis::Out, Axis::In])?;
        Ok(units(&axes, |axis| match axis {
            Axis::Out => self.rows,
            Axis::In => self.columns,
            Axis::Spatial | Axis::Gate | Axis::Apart => 1,
        }))
    }

    /// The rows of blocks: those over the same outputs.
    ///
    /// # Errors
    /// As [`Block::units`].
    pub fn rows(self, view: &PrunableView, shape: &[usize]) -> Result<Units> {
        let mut axes = ordered_axes(view, shape, &[Axis::Out, Axis::In])?;
        for (axis, extent) in &mut axes {
            match axis {
                Axis::Out => *extent = extent.div_ceil(self.rows),
                Axis::In => *extent = extent.div_ceil(self.columns),
                Axis::Spatial | Axis::Gate | Axis::Apart => {}
            }
        }
        Ok(units(&axes, |axis| if matches!(axis, Axis::In | Axis::Spatial) { ALL } else { 1 }))
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.rows, self.columns)
    }
}
