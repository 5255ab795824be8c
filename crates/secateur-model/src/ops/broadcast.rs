//! Broadcasting: operands of an elementwise operator walked in long rows.

use half::slice::HalfFloatSliceExt;

use super::broadcast;
use super::cells::{filled, len_of, room};
use super::number::{CHUNK, Number};
use crate::tensor::strides;
use crate::{Element, Result, Tensor};

/// How `N` operands line up with the shape they broadcast to. Adjacent axes along which every
/// operand either moves or stands still are merged, so that the usual cases (equal shapes, a
/// scalar, a trailing vector, a value a channel) are one to three axes deep with a long last one.
pub(super) struct Broadcast<const N: usize> {
    /// The shape all operands broadcast to.
    pub(super) shape: Vec<usize>,
    /// Extent of each merged axis and the operands' steps along it; the last is the row.
    axes: Vec<(usize, [usize; N])>,
}

impl<const N: usize> Broadcast<N> {
    /// Lines up operands of these shapes.
    ///
    /// # Errors
    /// Where they do not broadcast, or to more elements than can be addressed.
    pub(super) fn new(shapes: [&[usize]; N]) -> Result<Self> {
        let shape = broadcast(&shapes)?;
        len_of(&shape)?;
        let strides = shapes.map(strides);
        let mut axes: Vec<(usize, [usize; N])> = Vec::new();
        for (axis, &extent) in shape.iter().enumerate() {
            if extent == 1 {
                continue;
            }
            let steps = std::array::from_fn(|n| match (axis + shapes[n].len()).checked_sub(shape.len()) {
                Some(own) if shapes[n][own] != 1 => strides[n][own],
                _ => 0,
            });
            match axes.last_mut() {
                Some((length, outer))
                    if (0..N)
                        .all(|n| outer[n] == steps[n] * extent && (outer[n] == 0) == (steps[n] == 0)) =>
                {
                    *length *= extent;
                    *outer = steps;
                }
                _ => axes.push((extent, steps)),
            }
        }
        if axes.is_empty() {
            axes.push((1, [1; N]));
        }
        Ok(Broadcast { shape, axes })
    }

    /// The number of elements of the common shape.
    pub(super) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// The operands' steps along a row: 1, or 0 where the operand stands still.
    pub(super) fn steps(&self) -> [usize; N] {
        self.axes.last().map_or([1; N], |(_, steps)| *steps)
    }

    /// Calls `row` with the operands' offsets and the length of each row, in the output's order.
    pub(super) fn rows(&self, mut row: impl FnMut([usize; N], usize)) {
        if self.len() == 0 {
            return;
        }
        let Some((&(length, _), outer)) = self.axes.split_last() else { return };
        let mut at = [0; N];
        let mut index = vec![0; outer.len()];
        loop {
            row(at, length);
            let mut axis = outer.len();
            loop {
                if axis == 0 {
                    return;
                }
                axis -= 1;
                let (extent, steps) = outer[axis];
                index[axis] += 1;
                for n in 0..N {
                    at[n] += steps[n];
                }
                if index[axis] < extent {
                    break;
                }
                index[axis] = 0;
                for n in 0..N {
                    at[n] -= steps[n] * extent;
                }
            }
        }
    }
}

/// A tensor of `f` applied to the elements of two tensors that broadcast.
///
/// # Errors
/// Where the tensors hold other types or do not broadcast.
pub(super) fn zip<A: Element, B: Element, R: Element>(
    a: &Tensor,
    b: &Tensor,
    f: impl Fn(&A, &B) -> R,
) -> Result<Tensor> {
    let (plan, values) = zip_values(a.values()?, a.shape(), b.values()?, b.shape(), f)?;
    Tensor::new(plan, values)
}

/// As [`zip`], on slices with their shapes; gives the common shape and the results.
pub(super) fn zip_values<A, B, R>(
    a: &[A],
    a_shape: &[usize],
    b: &[B],
    b_shape: &[usize],
    f: impl Fn(&A, &B) -> R,
) -> Result<(Vec<usize>, Vec<R>)> {
    let plan = Broadcast::new([a_shape, b_shape])?;
    let mut out = room(plan.len())?;
    let steps = plan.steps();
    plan.rows(|[i, j], n| match steps {
        [0, _] => out.extend(b[j..j + n].iter().map(|y| f(&a[i], y))),
        [_, 0] => out.extend(a[i..i + n].iter().map(|x| f(x, &b[j]))),
        _ => out.extend(a[i..i + n].iter().zip(&b[j..j + n]).map(|(x, y)| f(x, y))),
    });
    Ok((plan.shape, out))
}

/// As [`zip`], for tensors of 16-bit floats that compute in f32.
pub(super) fn zip_halves<H: Number>(a: &Tensor, b: &Tensor, f: impl Fn(f32, f32) -> f32) -> Result<Tensor>
where
    [H]: HalfFloatSliceExt,
{
    let plan = Broadcast::new([a.shape(), b.shape()])?;
    let (a, b) = (a.values::<H>()?, b.values::<H>()?);
    let mut out = filled(plan.len(), H::ZERO)?;
    let mut left = out.as_mut_slice();
    let (mut x, mut y) = ([0f32; CHUNK], [0f32; CHUNK]);
    // One operand's part of a row: converted, or repeated where it stands still.
    let load = |values: &[H], at: usize, step: usize, buffer: &mut [f32]| match step {
        0 => {
            values[at..=at].convert_to_f32_slice(&mut buffer[..1]);
            buffer.fill(buffer[0]);
        }
        _ => values[at..at + buffer.len()].convert_to_f32_slice(buffer),
    };
    let [step_a, step_b] = plan.steps();
    plan.rows(|[i, j], n| {
        for start in (0..n).step_by(CHUNK) {
            let length = CHUNK.min(n - start);
            let (x, y) = (&mut x[..length], &mut y[..length]);
            load(a, i + start * step_a, step_a, x);
            load(b, j + start * step_b, step_b, y);
            x.iter_mut().zip(&*y).for_each(|(x, &y)| *x = f(*x, y));
            let (part, rest) = std::mem::take(&mut left).split_at_mut(length);
            part.convert_from_f32_slice(x);
            left = rest;
        }
    });
    Tensor::new(plan.shape, out)
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    /// Element by element, from the coordinates.
    fn naive(a: &Tensor, b: &Tensor) -> Vec<i64> {
        let shape = broadcast(&[a.shape(), b.shape()]).unwrap();
        let at = |t: &Tensor, mut flat: usize| {
            let (mut offset, own) = (0, strides(t.shape()));
            for axis in (0..shape.len()).rev() {
                let i = flat % shape[axis];
                flat /= shape[axis];
                if let Some(k) = (axis + t.rank()).checked_sub(shape.len()) {
                    offset += if t.shape()[k] == 1 { 0 } else { i * own[k] };
                }
            }
            t.values::<i64>().unwrap()[offset]
        };
        (0..shape.iter().product()).map(|i| at(a, i) * 1000 + at(b, i)).collect()
    }

    #[test]
    fn rows_agree_with_coordinates() {
        let shapes: &[&[usize]] = &[
            &[],
            &[1],
            &[4],
            &[3, 1],
            &[3, 4],
            &[2, 3, 4],
            &[2, 1, 4],
            &[2, 1, 1],
            &[1, 3, 1],
            &[5, 2, 3, 4],
            &[5, 1, 3, 1],
            &[1, 2, 1, 4],
            &[5, 2, 1, 1],
            &[1500, 1, 1, 1, 1],
        ];
        let counted = |shape: &[usize]| {
            Tensor::new(shape, (0..shape.iter().product::<usize>() as i64).collect()).unwrap()
        };
        let halves = |t: &Tensor| {
            let values = t.values::<i64>().unwrap();
            Tensor::new(t.shape(), values.iter().map(|&v| f16::from_f32(v as f32)).collect()).unwrap()
        };
        for a in shapes {
            for b in shapes {
                let (a, b) = (counted(a), counted(b));
                let out = zip(&a, &b, |x: &i64, y: &i64| x * 1000 + y).unwrap();
                assert_eq!(out.values::<i64>().unwrap(), naive(&a, &b), "{:?} {:?}", a.shape(), b.shape());
                let (a, b) = (halves(&a), halves(&b));
                let out = zip_halves::<f16>(&a, &b, |x, y| x - 2.0 * y).unwrap();
                let expected = zip(&a, &b, |x: &f16, y: &f16| f16::from_f32(x.to_f32() - 2.0 * y.to_f32()));
                assert_eq!(out, expected.unwrap());
            }
        }
    }

    #[test]
    fn usual_cases_are_merged_to_long_rows() {
        let axes = |a: &[usize], b: &[usize]| Broadcast::new([a, b]).unwrap().axes.len();
        assert_eq!(axes(&[2, 3, 4, 5], &[2, 3, 4, 5]), 1);
        assert_eq!(axes(&[2, 3, 4, 5], &[1]), 1);
        assert_eq!(axes(&[2, 3, 4, 5], &[4, 5]), 2);
        assert_eq!(axes(&[2, 3, 4, 5], &[3, 1, 1]), 3);
    }

    #[test]
    fn empty_axes_and_mismatches() {
        let out = zip(
            &Tensor::new([0, 3], Vec::<i32>::new()).unwrap(),
            &Tensor::vector(vec![1i32, 2, 3]),
            |a: &i32, b: &i32| a + b,
        );
        assert_eq!(out.unwrap().shape(), [0, 3]);
        assert!(Broadcast::new([&[2, 3], &[4]]).is_err());
        assert!(Broadcast::new([&[usize::MAX, 1], &[2]]).is_err());
    }
}
