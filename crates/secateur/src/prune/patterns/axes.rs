//! What the axes of a weight mean to a pattern.

use secateur_model::ops::AxisRole;
use secateur_model::prunable::PrunableView;
use secateur_model::{Error, Result};

use crate::prune::units::Units;

/// Positions that fall into one unit: all of an axis.
pub(in crate::prune) const ALL: usize = usize::MAX;

/// What an axis means to a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::prune) enum Axis {
    /// Output channels of one group.
    Out,
    /// Input channels of one group.
    In,
    /// Positions of the kernel.
    Spatial,
    /// Gates of a recurrent operator.
    Gate,
    /// What has channels of its own: groups, directions, stacked matrices.
    Apart,
}

impl Axis {
    fn channels(self) -> &'static str {
        if self == Axis::Out { "output channels" } else { "input channels" }
    }
}

/// The stored axes with their extents, outermost first. An axis that holds groups or gates becomes
/// two; neighbours that hold input channels together become one, and so do those of outputs.
///
/// # Errors
/// `Usage` where the weight has no axis of a wanted meaning, `Unsupported` where its groups cannot be
/// told apart, `Input` where they do not divide it.
pub(in crate::prune) fn axes(
    view: &PrunableView,
    shape: &[usize],
    wanted: &[Axis],
) -> Result<Vec<(Axis, usize)>> {
    if view.groups > 1 && view.group_axis.is_none() {
        return Err(Error::unsupported(
            "the groups of the weight are mixed with other axes on the way to its node: channels cannot be told apart",
        ));
    }
    let mut axes: Vec<(Axis, usize)> = Vec::with_capacity(shape.len() + 2);
    for (stored, (&extent, &role)) in shape.iter().zip(&view.roles).enumerate() {
        let (axis, outer) = match role {
            AxisRole::Out => (Axis::Out, None),
            AxisRole::In => (Axis::In, None),
            AxisRole::Spatial => (Axis::Spatial, None),
            AxisRole::GateOut => (Axis::Out, Some((Axis::Gate, view.gates))),
            AxisRole::Direction | AxisRole::Batch => (Axis::Apart, None),
        };
        let groups = (view.group_axis == Some(stored)).then_some((Axis::Apart, view.groups));
        let mut rest = extent;
        for (kind, count) in outer.into_iter().chain(groups) {
            if count == 0 || !rest.is_multiple_of(count) {
                return Err(Error::input(format!(
                    "{count} groups or gates do not divide axis {stored} of the weight's shape {shape:?}"
                )));
            }
            axes.push((kind, count));
            rest /= count;
        }
        match axes.last_mut() {
            Some(last) if last.0 == axis && matches!(axis, Axis::Out | Axis::In) => last.1 *= rest,
            _ => axes.push((axis, rest)),
        }
    }
    match wanted.iter().find(|&&axis| axes.iter().all(|a| a.0 != axis)) {
        Some(axis) => Err(Error::usage(format!("the tensor has no axis of {}", axis.channels()))),
        None => Ok(axes),
    }
}

/// As [`axes`], for patterns that group neighbouring channels.
///
/// # Errors
/// Also `Unsupported` where channels of a wanted meaning lie along several axes, which have no order.
pub(in crate::prune) fn ordered_axes(
    view: &PrunableView,
    shape: &[usize],
    wanted: &[Axis],
) -> Result<Vec<(Axis, usize)>> {
    let axes = axes(view, shape, wanted)?;
    match wanted.iter().find(|&&axis| axes.iter().filter(|a| a.0 == axis).count() > 1) {
        Some(axis) => Err(Error::unsupported(format!(
            "the {} lie along several axes of the stored tensor: which are neighbours is not defined",
            axis.channels()
        ))),
        None => Ok(axes),
    }
}

/// Units of the weights that agree in ⌊position ÷ width⌋ along every axis.
pub(in crate::prune) fn units(axes: &[(Axis, usize)], width: impl Fn(Axis) -> usize) -> Units {
    let factors: Vec<_> = axes.iter().map(|&(axis, extent)| (extent, width(axis))).collect();
    Units::new(&factors)
}
