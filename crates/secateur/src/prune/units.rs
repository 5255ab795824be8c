//! How the elements of a tensor fall into channels or rows.

use super::Mask;

/// A division of a tensor's elements into units: channels, rows or blocks.
///
/// The shape is a list of factors, outermost first, each divided into ranges of a width; the last
/// range may be narrower. Elements that are in the same range of every factor are a unit. Units are
/// numbered in row-major order of the ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Units {
    /// Extent and width, 1 ≤ width ≤ extent.
    factors: Vec<(usize, usize)>,
}

impl Units {
    /// Units from the factors of a shape, outermost first: extent and width. A width of the extent
    /// or more means that the factor does not tell units apart.
    pub fn new(factors: &[(usize, usize)]) -> Self {
        let mut merged: Vec<(usize, usize)> = Vec::with_capacity(factors.len());
        for &(extent, width) in factors.iter().filter(|f| f.0 != 1) {
            let width = width.clamp(1, extent.max(1));
            match merged.last_mut() {
                Some(last) if last.1 == 1 && width == 1 => last.0 *= extent,
                Some(last) if last.1 == last.0 && width == extent => {
                    *last = (last.0 * extent, last.1 * width)
                }
                _ => merged.push((extent, width)),
            }
        }
        Units { factors: merged }
    }

    /// The slices along an axis.
    pub fn along(shape: &[usize], axis: usize) -> Self {
        let factors: Vec<_> = shape
            .iter()
            .enumerate()
            .map(|(a, &extent)| (extent, if a == axis { 1 } else { extent }))
            .collect();
        Units::new(&factors)
    }

    /// The number of units.
    pub fn count(&self) -> usize {
        self.factors.iter().map(|(extent, width)| extent.div_ceil(*width)).product()
    }

    /// The elements of each unit that is not at an edge.
    pub fn size(&self) -> usize {
        self.factors.iter().map(|f| f.1).product()
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.factors.iter().map(|f| f.0).product()
    }

    /// The elements of each unit.
    pub fn sizes(&self) -> Vec<usize> {
        let mut sizes = vec![1];
        for &(extent, width) in &self.factors {
            let stretches: Vec<usize> = (0..extent).step_by(width).map(|at| width.min(extent - at)).collect();
            sizes = sizes.iter().flat_map(|size| stretches.iter().map(move |s| size * s)).collect();
        }
        sizes
    }

    /// The mask of the elements from a mask of the units.
    ///
    /// # Panics
    /// Where the mask is not of [`Units::count`] units.
    pub fn expand(&self, units: &Mask) -> Mask {
        assert_eq!(units.len(), self.count());
        let mut mask = Mask::all(self.elements());
        self.for_each_run(|start, len, first, step| {
            if step == 0 {
                if !units.keeps(first) {
                    mask.prune(start..start + len);
                }
            } else {
                for i in (0..len).filter(|i| !units.keeps(first + i)) {
                    mask.prune(start + i..start + i + 1);
                }
            }
        });
        mask
    }

    /// Calls `visit(start, len, first, step)` for runs of neighbouring elements, in their order:
    /// element `start + i` belongs to unit `first + i·step`.
    pub fn for_each_run(&self, mut visit: impl FnMut(usize, usize, usize, usize)) {
        let Some((&(len, width), outer)) = self.factors.split_last() else {
            return visit(0, 1, 0, 0);
        };
        let runs: usize = outer.iter().map(|f| f.0).product();
        for run in 0..runs {
            let (mut rest, mut unit, mut stride) = (run, 0, len.div_ceil(width));
            for &(extent, width) in outer.iter().rev() {
                unit += rest % extent / width * stride;
                stride *= extent.div_ceil(width);
                rest /= extent;
            }
            if width == 1 {
                visit(run * len, len, unit, 1);
            } else {
                for (stretch, at) in (0..len).step_by(width).enumerate() {
                    visit(run * len + at, width.min(len - at), unit + stretch, 0);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units_of(units: &Units) -> Vec<usize> {
        let mut of = Vec::new();
        units.for_each_run(|start, len, first, step| {
            assert_eq!(start, of.len());
            of.extend((0..len).map(|i| first + i * step));
        });
        assert_eq!(of.len(), units.elements());
        let sizes: Vec<usize> = (0..units.count()).map(|u| of.iter().filter(|&&x| x == u).count()).collect();
        assert_eq!(sizes, units.sizes());
        of
    }

    #[test]
    fn slices_along_each_axis() {
        assert_eq!(units_of(&Units::along(&[2, 3], 0)), [0, 0, 0, 1, 1, 1]);
        assert_eq!(units_of(&Units::along(&[2, 3], 1)), [0, 1, 2, 0, 1, 2]);
        assert_eq!(units_of(&Units::along(&[2, 2, 2], 1)), [0, 0, 1, 1, 0, 0, 1, 1]);
        assert_eq!(units_of(&Units::along(&[1], 0)), [0]);
    }

    #[test]
    fn groups_multiply_channels() {
        // Two groups of two rows, three columns each.
        let units = Units::new(&[(2, 1), (2, 2), (3, 1)]);
        assert_eq!((units.count(), units.size()), (6, 2));
        assert_eq!(units_of(&units), [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]);
    }

    #[test]
    fn blocks_may_be_smaller_at_the_edges() {
        let units = Units::new(&[(3, 2), (5, 2)]);
        assert_eq!((units.count(), units.size()), (6, 4));
        assert_eq!(units_of(&units), [0, 0, 1, 1, 2, 0, 0, 1, 1, 2, 3, 3, 4, 4, 5]);
        // Two outputs and two inputs at each of two positions.
        let units = Units::new(&[(2, 2), (3, 2), (2, 1)]);
        assert_eq!(units_of(&units), [0, 1, 0, 1, 2, 3, 0, 1, 0, 1, 2, 3]);
    }
}
