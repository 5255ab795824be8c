//! `weight_norm`, `spectral_norm` and masks of PyTorch, in the forms before and after
//! `torch.nn.utils.parametrize`.

use super::Rule;
use crate::tensor::strides;
use crate::{Model, TensorId};

/// From which cosine on two vectors have one direction, but for what one step of training changes.
const ALIGNED: f64 = 0.9;
/// How many times nearer to one direction vectors have to be along the axis that is taken than along the other.
const CLEARER: f64 = 4.0;

/// Checks that g has one element for each index of one axis of v, or a single one.
pub(super) fn weight_norm_rule(
    model: &Model,
    g: Option<TensorId>,
    v: Option<TensorId>,
) -> Result<Rule, String> {
    let (Some(g), Some(v)) = (g, v) else { return Err("one of its two parts is missing".into()) };
    let (of_g, of_v) = (model.tensor(g), model.tensor(v));
    floating(model, &[g, v])?;
    let single = of_g.shape.iter().all(|&d| d == 1);
    let along = of_g.shape.len() == of_v.shape.len()
        && of_g.shape.iter().zip(&of_v.shape).all(|(g, v)| *g == 1 || g == v)
        && of_g.shape.iter().filter(|&&d| d != 1).count() == 1;
    match single || along {
        true => Ok(Rule::WeightNorm { g, v }),
        false => Err(format!(
            "the magnitude of shape {:?} is not one for each index of an axis of the direction, {:?}",
            of_g.shape, of_v.shape
        )),
    }
}

/// g · v ÷ ‖v‖, the norm over all axes along which g has one element.
pub(super) fn weight_norm(
    g: &[f64],
    g_shape: &[usize],
    v: &[f64],
    shape: &[usize],
) -> Result<Vec<f64>, String> {
    let axis = g_shape.iter().position(|&d| d != 1);
    let (stride, extent) = axis.map_or((1, 1), |axis| (strides(shape)[axis], shape[axis]));
    let index = |place: usize| place / stride % extent;
    let mut squares = vec![0.0; extent];
    v.iter().enumerate().for_each(|(place, v)| squares[index(place)] += v * v);
    if let Some(zero) = squares.iter().position(|&s| s == 0.0) {
        return Err(format!(
            "the direction is zero at index {zero} of its magnitude, where PyTorch gives NaN"
        ));
    }
    let factors: Vec<f64> = g.iter().zip(&squares).map(|(g, square)| g / square.sqrt()).collect();
    Ok(v.iter().enumerate().map(|(place, v)| v * factors[index(place)]).collect())
}

/// Checks that all parts are there.
pub(super) fn spectral_norm_rule(
    model: &Model,
    original: Option<TensorId>,
    u: Option<TensorId>,
    v: Option<TensorId>,
) -> Result<Rule, String> {
    let Some((original, u)) = original.zip(u) else { return Err("one of its parts is missing".into()) };
    let Some(v) = v else {
        return Err(
            "`weight_v` is missing, as in files of PyTorch before 1.1: load and save it in a newer one"
                .into(),
        );
    };
    floating(model, &[original, u, v])?;
    Ok(Rule::SpectralNorm { original, u, v })
}

/// W ÷ σ with σ = uᵀ W v, as PyTorch has it in evaluation: W seen as a matrix whose rows are the first axis, or
/// the second one (transposed convolutions).
pub(super) fn spectral_norm(
    weight: Vec<f64>,
    shape: &[usize],
    u: &[f64],
    v: &[f64],
) -> Result<Vec<f64>, String> {
    let mut options: Vec<(f64, f64)> = (0..shape.len().min(2))
        .filter(|&axis| shape[axis] == u.len() && u.len().checked_mul(v.len()) == Some(weight.len()))
        .map(|axis| sigma(&weight, shape, axis, u, v))
        .collect();
    options.sort_by(|a, b| b.1.total_cmp(&a.1));
    let sigma = match options[..] {
        [] => {
            return Err(format!(
                "vectors of {} and {} elements do not belong to a weight of shape {shape:?}",
                u.len(),
                v.len()
            ));
        }
        [(sigma, _)] => sigma,
        [(sigma, best), (_, other), ..] if best >= ALIGNED && CLEARER * (1.0 - best) < 1.0 - other => sigma,
        _ => return Err(format!("its vectors fit both first axes of the shape {shape:?}")),
    };
    if sigma == 0.0 || !sigma.is_finite() {
        return Err(format!("its largest singular value comes out as {sigma}"));
    }
    Ok(weight.into_iter().map(|w| w / sigma).collect())
}

/// σ = uᵀ W v with the rows of W along an axis, and the larger cosine of u to W v and v to Wᵀ u: PyTorch's older form
/// makes u the direction of W v last, the newer one v that of Wᵀ u.
fn sigma(weight: &[f64], shape: &[usize], axis: usize, u: &[f64], v: &[f64]) -> (f64, f64) {
    let (stride, rows) = (strides(shape)[axis], shape[axis]);
    let (mut forth, mut back) = (vec![0.0; rows], vec![0.0; v.len()]);
    for (place, w) in weight.iter().enumerate() {
        let (row, column) = (place / stride % rows, place / (stride * rows) * stride + place % stride);
        forth[row] += w * v[column];
        back[column] += w * u[row];
    }
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let sigma = dot(u, &forth);
    let cosine =
        |vector: &[f64], product: &[f64]| sigma / (dot(vector, vector) * dot(product, product)).sqrt();
    (sigma, cosine(u, &forth).max(cosine(v, &back)))
}

/// Checks that the mask has the weight's shape: `torch.ao.pruning` has such.
pub(super) fn mask_rule(
    model: &Model,
    original: Option<TensorId>,
    mask: Option<TensorId>,
) -> Result<Rule, String> {
    let Some((original, mask)) = original.zip(mask) else { return Err("one of its parts is missing".into()) };
    floating(model, &[original])?;
    match model.tensor(original).shape == model.tensor(mask).shape {
        true => Ok(Rule::Mask { original, mask }),
        false => Err("its mask has another shape".into()),
    }
}

/// Checks that parts are of float types.
pub(super) fn floating(model: &Model, parts: &[TensorId]) -> Result<(), String> {
    match parts.iter().map(|&id| model.tensor(id)).find(|part| !part.dtype.is_prunable()) {
        Some(part) => Err(format!("its part `{}` is of type {}", part.path, part.dtype)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_of_a_square_weight_follows_from_its_vectors() {
        let weight = vec![1.0, 2.0, 3.0, -4.0];
        let unit = |v: [f64; 2]| {
            let norm = v[0].hypot(v[1]);
            v.map(|v| v / norm)
        };
        let v = unit([1.0, 0.25]);
        // W v with the rows along the first axis.
        let product = [v[0] + 2.0 * v[1], 3.0 * v[0] - 4.0 * v[1]];
        let norm = product[0].hypot(product[1]);
        let scaled = spectral_norm(weight.clone(), &[2, 2], &unit(product), &v).unwrap();
        assert!(scaled.iter().zip(&weight).all(|(s, w)| (s * norm - w).abs() < 1e-12), "{scaled:?}");
        // Of the transposed weight it is the second axis.
        let transposed = spectral_norm(vec![1.0, 3.0, 2.0, -4.0], &[2, 2], &unit(product), &v).unwrap();
        assert_eq!([transposed[0], transposed[2], transposed[1], transposed[3]], scaled[..]);
        assert!(spectral_norm(weight.clone(), &[2, 2], &unit([1.0, -1.0]), &v).is_err());
        assert!(spectral_norm(weight, &[2, 2], &[1.0], &v).is_err());
    }

    #[test]
    fn a_direction_of_zeros_has_no_norm() {
        let (v, shape) = (vec![3.0, 4.0, 0.0, 0.0], [2, 2]);
        assert_eq!(weight_norm(&[10.0], &[], &v, &shape).unwrap(), [6.0, 8.0, 0.0, 0.0]);
        assert!(weight_norm(&[10.0, 1.0], &[2, 1], &v, &shape).is_err());
        assert_eq!(weight_norm(&[6.0, 2.0], &[1, 2], &v, &shape).unwrap(), [6.0, 2.0, 0.0, 0.0]);
    }
}
