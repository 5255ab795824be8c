//! What is fused into a kernel.

use std::fmt;

use secateur_kernels::Activation;
use secateur_model::tensor::strides;

/// What a product computes at its end: act(scale · product + shift + added).
#[derive(Clone, Debug, Default)]
pub(crate) struct Epilogue {
    /// Factor of each output channel (from batch-norms and constant factors).
    pub(crate) scale: Option<Vec<f32>>,
    /// Addend of each output channel.
    pub(crate) shift: Option<Vec<f32>>,
    /// Which input of the node is a tensor of the output's shape to add.
    pub(crate) add: Option<usize>,
    /// Applied last.
    pub(crate) act: Activation,
}

impl Epilogue {
    /// Whether nothing is fused.
    pub(crate) fn is_empty(&self) -> bool {
        self.scale.is_none() && self.shift.is_none() && self.add.is_none() && self.act == Activation::None
    }

    /// With a factor and an addend for each channel behind what there is; `None` where one of them is not
    /// finite, or the two before it are not when they are put together.
    pub(crate) fn with_affine(&self, scale: &[f32], shift: &[f32]) -> Option<Self> {
        let wide = |values: &Option<Vec<f32>>, i: usize| values.as_ref().map(|v| f64::from(v[i]));
        let factors = |i: usize| wide(&self.scale, i).unwrap_or(1.0) * f64::from(scale[i]);
        let addends =
            |i: usize| wide(&self.shift, i).unwrap_or(0.0) * f64::from(scale[i]) + f64::from(shift[i]);
        let scaled: Vec<f32> = (0..scale.len()).map(|i| factors(i) as f32).collect();
        let shifted: Vec<f32> = (0..scale.len()).map(|i| addends(i) as f32).collect();
        if !scaled.iter().chain(&shifted).all(|v| v.is_finite()) {
            return None;
        }
        let plain = self.scale.is_none() && scaled.iter().all(|&s| s == 1.0);
        Some(Epilogue { scale: (!plain).then_some(scaled), shift: Some(shifted), ..self.clone() })
    }
}

/// As a suffix of the operator's name.
impl fmt::Display for Epilogue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.scale.is_some() || self.shift.is_some() {
            f.write_str("+affine")?;
        }
        if self.add.is_some() {
            f.write_str("+add")?;
        }
        match self.act {
            Activation::None => Ok(()),
            // The name without the parameters.
            act => {
                let text = format!("{act:?}");
                write!(f, "+{}", text.split([' ', '(']).next().unwrap_or_default())
            }
        }
    }
}

/// Where the elements of an operand or a result lie in a tensor: the one at index (i₀, i₁, …) stands at
/// offset + Σ iₖ·strideₖ.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Lay {
    pub(crate) offset: usize,
    pub(crate) shape: Vec<usize>,
    pub(crate) strides: Vec<usize>,
}

impl Lay {
    /// A tensor as it is stored.
    pub(crate) fn of(shape: &[usize]) -> Self {
        Lay { offset: 0, shape: shape.to_vec(), strides: strides(shape) }
    }

    /// Where the elements lie in another tensor: there the element at index (j₀, j₁, …) of the tensor of shape `stored`
    /// stands at offset + Σ jₖ·stepₖ. `None` where an axis goes along more than one of the tensor's, or backwards.
    pub(crate) fn moved(&self, stored: &[usize], (offset, steps): (usize, &[isize])) -> Option<Self> {
        if self.shape.contains(&0) || stored.contains(&0) {
            return None;
        }
        let places = strides(stored);
        let at: Vec<usize> =
            (0..stored.len()).map(|axis| self.offset / places[axis] % stored[axis]).collect();
        let mut reach = at.clone();
        let mut moved = vec![0; self.shape.len()];
        for ((&extent, &stride), to) in self.shape.iter().zip(&self.strides).zip(&mut moved) {
            if extent == 1 {
                // Any stride will do; that of a transposed axis is its own.
                let same = (0..stored.len()).find(|&axis| stored[axis] == 1 && places[axis] == stride);
                *to = same.and_then(|axis| usize::try_from(steps[axis]).ok()).unwrap_or(0);
                continue;
            }
            let axis = places.iter().zip(stored).position(|(&place, &extent)| {
                stride.is_multiple_of(place) && (1..extent).contains(&(stride / place))
            })?;
            let times = stride / places[axis];
            reach[axis] += (extent - 1) * times;
            *to = usize::try_from(times as isize * steps[axis]).ok().filter(|&stride| stride > 0)?;
        }
        if reach.iter().zip(stored).any(|(reach, extent)| reach >= extent) {
            return None;
        }
        let first = at.iter().zip(steps).map(|(&at, &step)| at as isize * step).sum();
        Some(Lay { offset: offset.checked_add_signed(first)?, shape: self.shape.clone(), strides: moved })
    }
}

/// Operands and results that lie in another way than as tensors of their shape.
#[derive(Clone, Debug, Default)]
pub(crate) struct Views {
    /// For each input: where the operand lies in it.
    pub(crate) inputs: Vec<Option<Lay>>,
    /// Where the result lies in the output.
    pub(crate) output: Option<Lay>,
    /// Factor of the product, where constants scaled its operands.
    pub(crate) factor: Option<f32>,
}

impl Views {
    /// Whether operands and result are as stored.
    pub(crate) fn is_plain(&self) -> bool {
        self.inputs.iter().all(Option::is_none) && self.output.is_none() && self.factor.is_none()
    }

    /// Where an operand lies.
    pub(crate) fn input(&self, index: usize) -> Option<&Lay> {
        self.inputs.get(index)?.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_move_where_they_lie_along_one_of_the_tensors() {
        // Of [5, 6, 4] the pairs of its second axis, transposed, in a tensor whose first two axes are swapped.
        let lay = Lay { offset: 4, shape: vec![3, 4, 5], strides: vec![8, 1, 24] };
        let moved = lay.moved(&[5, 6, 4], (100, &[4, 20, 1])).unwrap();
        assert_eq!(moved, Lay { offset: 120, shape: vec![3, 4, 5], strides: vec![40, 1, 4] });
        // Rows that are written backwards may be looked at one at a time.
        let row = Lay { offset: 8, shape: vec![1, 4], strides: vec![4, 1] };
        assert_eq!(row.moved(&[6, 4], (20, &[-4, 1])).map(|lay| lay.offset), Some(12));
        let rows = Lay { shape: vec![2, 4], ..row };
        assert!(rows.moved(&[6, 4], (20, &[-4, 1])).is_none());
    }

    #[test]
    fn axes_that_carry_over_stay() {
        let along = |offset: usize, shape: &[usize], strides: &[usize]| {
            let lay = Lay { offset, shape: shape.to_vec(), strides: strides.to_vec() };
            lay.moved(&[5, 6], (0, &[12, 1])).is_some()
        };
        assert!(along(0, &[5, 2, 3], &[6, 3, 1]) && along(1, &[5, 5], &[6, 1]));
        // Beyond the end of a row: by its extent, its offset, or two axes together.
        assert!(!along(0, &[10, 3], &[3, 1]) && !along(2, &[4, 5], &[6, 1]));
        assert!(!along(0, &[2, 2, 4], &[6, 3, 1]));
        // Neither along rows nor along columns.
        assert!(!along(0, &[3], &[7]) && !along(0, &[3], &[0]));
    }
}
