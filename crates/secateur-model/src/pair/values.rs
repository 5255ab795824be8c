//! How a tensor of the checkpoint becomes what the graph holds in its place, and whether the two
//! hold the same elements.

use half::{bf16, f16};

use crate::{DType, Result, StoredTensor};

/// The way from a stored tensor to the one it stands for: converted, reshaped and transposed, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Fit {
    pub(super) cast: Option<DType>,
    pub(super) shape: Option<Vec<usize>>,
    pub(super) perm: Option<Vec<usize>>,
}

impl Fit {
    /// Whether the stored tensor is what the graph holds, as it is.
    pub(super) fn is_plain(&self) -> bool {
        *self == Fit::default()
    }
}

/// The ways from a tensor to another one, the most likely first: as it is, with its last two axes
/// transposed where `transposed` is given (first where it is true), with axes of extent 1 added or removed.
pub(super) fn fits(from: &StoredTensor, to: &StoredTensor, transposed: Option<bool>) -> Vec<Fit> {
    if !from.dtype.is_prunable() || !to.dtype.is_prunable() {
        return Vec::new();
    }
    let cast = (from.dtype != to.dtype).then_some(to.dtype);
    let rank = from.shape.len();
    let mut found = Vec::new();
    if from.shape == to.shape {
        found.push(Fit { cast, ..Fit::default() });
    }
    if let (Some(first), 2..) = (transposed, rank) {
        let mut perm: Vec<usize> = (0..rank).collect();
        perm.swap(rank - 2, rank - 1);
        if perm.iter().map(|&axis| from.shape[axis]).eq(to.shape.iter().copied()) {
            found.insert(if first { 0 } else { found.len() }, Fit { cast, shape: None, perm: Some(perm) });
        }
    }
    let wide = |shape: &[usize]| shape.iter().copied().filter(|&d| d != 1).collect::<Vec<_>>();
    if found.is_empty() && wide(&from.shape) == wide(&to.shape) {
        found.push(Fit { cast, shape: Some(to.shape.clone()), perm: None });
    }
    found
}

/// The elements of a stored tensor as the graph has them.
pub(super) fn elements(stored: &StoredTensor, fit: &Fit) -> Result<Vec<f32>> {
    let values = stored.load()?.to_f32s()?;
    if fit.perm.is_none() {
        return Ok(values);
    }
    let &[.., rows, columns] = stored.shape.as_slice() else { return Ok(values) };
    let mut transposed = Vec::with_capacity(values.len());
    for matrix in values.chunks_exact(rows * columns) {
        transposed.extend((0..columns).flat_map(|c| (0..rows).map(move |r| matrix[r * columns + c])));
    }
    Ok(transposed)
}

/// How much elements may differ, relative to the largest, and still be the same ones stored in
/// another type or computed in another order.
pub(super) fn tolerance(a: DType, b: DType) -> f32 {
    let of = |dtype| match dtype {
        DType::BF16 => 2.0 * bf16::EPSILON.to_f32(),
        DType::F16 => 2.0 * f16::EPSILON.to_f32(),
        _ => 1e-4,
    };
    of(a).max(of(b))
}

/// Whether two lists hold the same elements.
pub(super) fn same(a: &[f32], b: &[f32], tolerance: f32) -> bool {
    let largest = a.iter().fold(0f32, |m, v| m.max(v.abs()));
    a.len() == b.len() && a.iter().zip(b).all(|(x, y)| (x - y).abs() <= tolerance * largest)
}

/// Whether all elements are one number; such a list is no evidence.
pub(super) fn is_uniform(values: &[f32]) -> bool {
    values.iter().all(|v| *v == values[0])
}

/// The factor of each channel that makes `folded` out of `plain`, where there is one; NaN for a channel
/// of zeros, which has any. None where an element is of no channel: the node contradicts itself.
pub(super) fn factors(
    folded: &[f32],
    plain: &[f32],
    channel_of: &dyn Fn(usize) -> usize,
    channels: usize,
    tolerance: f32,
) -> Option<Vec<f64>> {
    let (mut dot, mut square) = (vec![0f64; channels], vec![0f64; channels]);
    for (i, (&f, &p)) in folded.iter().zip(plain).enumerate() {
        let channel = channel_of(i);
        *dot.get_mut(channel)? += f64::from(f) * f64::from(p);
        square[channel] += f64::from(p) * f64::from(p);
    }
    let factors: Vec<f64> = dot.iter().zip(&square).map(|(d, s)| d / s).collect();
    let (mut off, mut largest) = (vec![0f64; channels], vec![0f64; channels]);
    for (i, (&f, &p)) in folded.iter().zip(plain).enumerate() {
        let channel = channel_of(i);
        let expected = if factors[channel].is_nan() { 0.0 } else { factors[channel] * f64::from(p) };
        off[channel] = off[channel].max((f64::from(f) - expected).abs());
        largest[channel] = largest[channel].max(f64::from(f).abs());
    }
    let fits = off.iter().zip(&largest).all(|(o, l)| *o <= f64::from(tolerance) * l);
    (fits && factors.iter().any(|f| !f.is_nan())).then_some(factors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Data;
    use crate::model::Storage;

    fn stored(shape: &[usize]) -> StoredTensor {
        let values = (0..shape.iter().product::<usize>()).map(|v| v as f32).collect();
        let storage = Storage::Data(std::sync::Arc::new(Data::F32(values)));
        StoredTensor { path: "w".into(), dtype: DType::F32, shape: shape.to_vec(), storage }
    }

    #[test]
    fn fits_are_ordered() {
        let shapes = |from: &[usize], to: &[usize], transposed| {
            let fits = fits(&stored(from), &stored(to), transposed);
            fits.iter().map(|f| (f.perm.is_some(), f.shape.is_some())).collect::<Vec<_>>()
        };
        assert_eq!(shapes(&[2, 3], &[2, 3], Some(true)), [(false, false)]);
        assert_eq!(shapes(&[2, 3], &[3, 2], Some(false)), [(true, false)]);
        assert_eq!(shapes(&[2, 3], &[3, 2], None), []);
        assert_eq!(shapes(&[3, 3], &[3, 3], Some(true)), [(true, false), (false, false)]);
        assert_eq!(shapes(&[3, 3], &[3, 3], Some(false)), [(false, false), (true, false)]);
        assert_eq!(shapes(&[4], &[4, 1, 1], None), [(false, true)]);
        assert_eq!(shapes(&[4], &[5], None), []);
        let transposed = &fits(&stored(&[2, 2, 3]), &stored(&[2, 3, 2]), Some(true))[0];
        let expected = [0., 3., 1., 4., 2., 5., 6., 9., 7., 10., 8., 11.];
        assert_eq!(elements(&stored(&[2, 2, 3]), transposed).unwrap(), expected);
    }

    #[test]
    fn factors_are_one_a_channel() {
        let plain = [1., 2., 0., 0., 3., -1.];
        let channel = |i: usize| i / 2;
        let folded = [2., 4., 0., 0., -1.5, 0.5];
        let found = factors(&folded, &plain, &channel, 3, 1e-6).unwrap();
        assert!(found[1].is_nan());
        assert_eq!([found[0], found[2]], [2., -0.5]);
        assert!(factors(&[2., 4., 0., 0.1, 3., -1.], &plain, &channel, 3, 1e-6).is_none());
        assert!(factors(&folded, &plain, &channel, 2, 1e-6).is_none());
        assert!(factors(&[2., 4.1, 0., 0., 3., -1.], &plain, &channel, 3, 1e-6).is_none());
    }
}
