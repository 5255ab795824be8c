//! What the gradients of several families have in common.

use secateur_kernels::{gradient::column_sums, permute};
use secateur_model::{Result, Tensor};

use crate::buffers::Pool;

/// The sum of a gradient over the axes that an operand of `shape` was broadcast along: the gradient of the operand.
pub(crate) fn summed_to(gradient: Tensor, shape: &[usize], pool: &mut Pool) -> Result<Tensor> {
    let full = gradient.shape().to_vec();
    if full == shape {
        return Ok(gradient);
    }
    let missing = full.len() - shape.len();
    let own = |axis: usize| axis.checked_sub(missing).map_or(1, |axis| shape[axis]);
    // Neighbours that are both summed over or both kept are one axis.
    let mut merged: Vec<(usize, bool)> = Vec::new();
    for (axis, &extent) in full.iter().enumerate().filter(|(_, extent)| **extent != 1) {
        let summed = own(axis) == 1;
        match merged.last_mut() {
            Some((size, same)) if *same == summed => *size *= extent,
            _ => merged.push((extent, summed)),
        }
    }
    let (summed, kept): (Vec<usize>, Vec<usize>) = (0..merged.len()).partition(|&i| merged[i].1);
    let size = |axes: &[usize]| axes.iter().map(|&i| merged[i].0).product::<usize>();
    let (rows, columns) = (size(&summed), size(&kept));
    let mut out = pool.take(columns)?;
    let values = gradient.values::<f32>()?;
    let order: Vec<usize> = summed.iter().chain(&kept).copied().collect();
    if order.is_sorted() {
        column_sums(values, rows, columns, &mut out);
    } else {
        let sizes: Vec<usize> = merged.iter().map(|(size, _)| *size).collect();
        let mut together = pool.take(values.len())?;
        permute(values, &sizes, &order, &mut together);
        column_sums(&together, rows, columns, &mut out);
        pool.give(together);
    }
    pool.reclaim(gradient);
    Tensor::new(shape, out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;

    #[test]
    fn sums_are_over_the_axes_that_were_broadcast() {
        let mut pool = Pool::within(Limits { memory: u64::MAX, steps: 10 });
        let full = || Tensor::new([2, 3, 2], (0..12).map(|v| v as f32).collect()).unwrap();
        let mut sum = |shape: &[usize]| summed_to(full(), shape, &mut pool).unwrap();
        assert_eq!(sum(&[2, 3, 2]).values::<f32>().unwrap(), full().values::<f32>().unwrap());
        assert_eq!(sum(&[2]).values::<f32>().unwrap(), [30.0, 36.0]);
        assert_eq!(sum(&[3, 1]).values::<f32>().unwrap(), [14.0, 22.0, 30.0]);
        assert_eq!(sum(&[2, 1, 2]).values::<f32>().unwrap(), [6.0, 9.0, 24.0, 27.0]);
        assert_eq!(sum(&[]).values::<f32>().unwrap(), [66.0]);
        assert_eq!(sum(&[1, 1, 1]).shape(), [1, 1, 1]);
    }
}
