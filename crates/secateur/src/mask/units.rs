//! How the elements of a tensor fall into channels or rows.

use super::Mask;

/// A division of a tensor's elements into units of equal size: channels or rows.
///
/// The shape is a list of factors, outermost first, each either part of the unit's number or not. A
/// unit's number counts through the factors that are part of it in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Units {
    /// Extent, and whether it is part of the unit's number; neighbours differ.
    factors: Vec<(usize, bool)>,
}

impl Units {
    /// Units from the factors of a shape, outermost first: extent, and whether it is part of the
    /// unit's number.
    pub fn new(factors: &[(usize, bool)]) -> Self {
        let mut merged: Vec<(usize, bool)> = Vec::with_capacity(factors.len());
        for &(extent, part) in factors {
            match merged.last_mut() {
                Some(last) if last.1 == part => last.0 *= extent,
                _ => merged.push((extent, part)),
            }
        }
        Units { factors: merged }
    }

    /// The slices along an axis.
    pub fn along(shape: &[usize], axis: usize) -> Self {
        let factors: Vec<_> = shape.iter().enumerate().map(|(a, &extent)| (extent, a == axis)).collect();
        Units::new(&factors)
    }

    fn product(&self, part: bool) -> usize {
        self.factors.iter().filter(|f| f.1 == part).map(|f| f.0).product()
    }

    /// The number of units.
    pub fn count(&self) -> usize {
        self.product(true)
    }

    /// The elements of each unit.
    pub fn size(&self) -> usize {
        self.product(false)
    }

    /// The mask of the elements from a mask of the units.
    ///
    /// # Panics
    /// Where the mask is not of [`Units::count`] units.
    pub fn expand(&self, units: &Mask) -> Mask {
        assert_eq!(units.len(), self.count());
        let mut mask = Mask::all(self.count() * self.size());
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
        let Some((&(len, part), outer)) = self.factors.split_last() else {
            return visit(0, 1, 0, 0);
        };
        let step = usize::from(part);
        let runs: usize = outer.iter().map(|f| f.0).product();
        for run in 0..runs {
            let (mut rest, mut unit) = (run, 0);
            let mut stride = if part { len } else { 1 };
            for &(extent, part) in outer.iter().rev() {
                if part {
                    unit += rest % extent * stride;
                    stride *= extent;
                }
                rest /= extent;
            }
            visit(run * len, len, unit, step);
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
        assert_eq!(of.len(), units.count() * units.size());
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
        let units = Units::new(&[(2, true), (2, false), (3, true)]);
        assert_eq!((units.count(), units.size()), (6, 2));
        assert_eq!(units_of(&units), [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]);
    }
}
