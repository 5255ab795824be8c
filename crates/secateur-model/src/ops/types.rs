//! Which inputs of a node have the same element type.

use super::{Facts, find};
use crate::{Error, Node, Result, ResultExt};

/// All inputs have one element type.
pub(super) const ONE_TYPE: &[&[usize]] = &[&[]];

/// Checks that inputs have the same element type where the operator says so. Inference goes on without: a runtime may
/// convert them.
///
/// # Errors
/// `Input` where two differ, with both types.
pub(crate) fn check_types(node: &Node, inputs: Facts<'_>) -> Result<()> {
    for group in find(node).map_or(&[][..], |op| op.types) {
        let all: Vec<usize> = (0..inputs.len()).collect();
        let group = if group.is_empty() { &all } else { *group };
        let mut known = group.iter().filter_map(|&index| Some((index, inputs.dtype(index)?)));
        let Some((first, dtype)) = known.next() else { continue };
        if let Some((index, other)) = known.find(|(_, other)| *other != dtype) {
            let message = format!(
                "input {first} is of type {dtype}, but input {index} of type {other}: they must agree"
            );
            return Err(Error::input(message)).at_node(node);
        }
    }
    Ok(())
}
