//! Operators that sample images at places given as numbers.

use super::axes::Statement;
use super::cells::{filled, len_of, room};
use super::number::{Float, with_float};
use super::params::{constants, shape_from};
use super::taps::Kernel;
use super::{Fact, Facts, Inputs, Op};
use crate::tensor::strides;
use crate::{Error, Node, Result, Tensor};

pub(super) const OPS: &[Op] = &[
    Op::new("GridSample", 16, infer_grid_sample).axes(axes_grid_sample).eval(eval_grid_sample),
    Op::new("AffineGrid", 20, infer_affine_grid).eval(eval_affine_grid),
];

/// What lies outside an image.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Padding {
    Zeros,
    Border,
    Reflection,
}

/// How an image is sampled.
#[derive(Clone, Copy)]
struct Sampling {
    /// The nearest element where there is none.
    kernel: Option<Kernel>,
    padding: Padding,
    /// Whether −1 and 1 are the centres of the outermost elements, or their outer edges.
    align_corners: bool,
}

fn sampling(node: &Node) -> Result<Sampling> {
    let kernel = match node.str_or("mode", "linear")? {
        "linear" | "bilinear" => Some(Kernel::Linear),
        "cubic" | "bicubic" => Some(Kernel::Cubic(-0.75)),
        "nearest" => None,
        mode => return Err(Error::unsupported(format!("mode `{mode}`"))),
    };
    let padding = match node.str_or("padding_mode", "zeros")? {
        "zeros" => Padding::Zeros,
        "border" => Padding::Border,
        "reflection" => Padding::Reflection,
        mode => return Err(Error::unsupported(format!("padding_mode `{mode}`"))),
    };
    Ok(Sampling { kernel, padding, align_corners: node.int_or("align_corners", 0)? != 0 })
}

fn sampled_shape(data: &[usize], grid: &[usize]) -> Result<Vec<usize>> {
    let axes = data.len().saturating_sub(2);
    let fits = axes > 0 && grid.len() == data.len() && grid[0] == data[0] && grid[axes + 1] == axes;
    if !fits {
        return Err(Error::input(format!("a grid of shape {grid:?} does not fit data of shape {data:?}")));
    }
    let shape = [&data[..2], &grid[1..=axes]].concat();
    len_of(&shape)?;
    Ok(shape)
}

fn infer_grid_sample(_: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let (data, grid) = (inputs.need(0)?, inputs.need(1)?);
    let shape = match (data.shape(), grid.shape()) {
        (Some(data), Some(grid)) => Some(sampled_shape(data, grid)?),
        _ => None,
    };
    Ok(vec![Fact { dtype: data.dtype, shape, ..Fact::default() }])
}

/// `GridSample`: each point of the grid holds a place in the image (x, y, … in −1..1), from which the
/// output takes its element in all channels.
fn eval_grid_sample(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let (data, grid) = (inputs.need(0)?, inputs.need(1)?);
    let sampling = sampling(node)?;
    let shape = sampled_shape(data.shape(), grid.shape())?;
    if data.shape()[2..].contains(&0) && len_of(&shape)? > 0 {
        return Err(Error::input(format!("data of shape {:?} has nothing to sample", data.shape())));
    }
    let sampled = with_float!(data.dtype(), F => {
        let (values, places) = (F::load(data)?, F::load(grid)?);
        F::store(sample::<F>(&values, data.shape(), &places, &shape, sampling)?, data.dtype(), &shape)
    })?;
    Ok(vec![sampled])
}

fn sample<F: Float>(
    values: &[F],
    data: &[usize],
    grid: &[F],
    shape: &[usize],
    sampling: Sampling,
) -> Result<Vec<F>> {
    let image = &data[2..];
    let steps = strides(image);
    let (area, points): (usize, usize) = (image.iter().product(), shape[2..].iter().product());
    let mut out = filled(len_of(shape)?, F::ZERO)?;
    if out.is_empty() {
        return Ok(out);
    }
    let images = values.chunks_exact(data[1] * area).zip(grid.chunks_exact(points * image.len()));
    for (outs, (channels, places)) in out.chunks_exact_mut(data[1] * points).zip(images) {
        for (point, place) in places.chunks_exact(image.len()).enumerate() {
            // The elements that the point is made of, with their weights.
            let mut parts = vec![(0, F::ONE)];
            for (axis, (&extent, &step)) in image.iter().zip(&steps).enumerate() {
                // The grid names axes from the last to the first.
                let taps = taps(place[image.len() - 1 - axis].to_f64(), extent, sampling);
                parts = parts
                    .iter()
                    .flat_map(|&(at, weight)| {
                        taps.iter().map(move |&(p, w)| (at + p * step, weight * F::from_f64(w)))
                    })
                    .collect();
            }
            for (channel, image) in channels.chunks_exact(area).enumerate() {
                let sum = parts.iter().fold(F::ZERO, |sum, &(at, weight)| sum + image[at] * weight);
                outs[channel * points + point] = sum;
            }
        }
    }
    Ok(out)
}

/// The positions and weights along an axis for a place in −1..1; none in the zeros outside.
fn taps(place: f64, extent: usize, sampling: Sampling) -> Vec<(usize, f64)> {
    let length = extent as f64;
    let (least, most) = if sampling.align_corners { (0.0, length - 1.0) } else { (-0.5, length - 0.5) };
    let mut x = if sampling.align_corners {
        (place + 1.0) / 2.0 * (length - 1.0)
    } else {
        ((place + 1.0) * length - 1.0) / 2.0
    };
    if sampling.kernel.is_none() {
        x = x.round_ties_even();
    }
    // A cubic kernel reaches beyond the border from inside: only its single positions are moved.
    if (x < least || x > most) && !matches!(sampling.kernel, Some(Kernel::Cubic(_))) {
        match sampling.padding {
            Padding::Zeros => {}
            Padding::Border => x = x.clamp(0.0, length - 1.0),
            Padding::Reflection => x = reflect(x, least, most),
        }
    }
    let position = |at: f64| {
        let inside = (0.0..length).contains(&at);
        match sampling.padding {
            _ if inside => Some(at as usize),
            Padding::Zeros => None,
            Padding::Border => Some(at.clamp(0.0, length - 1.0) as usize),
            Padding::Reflection => Some(reflect(at, least, most).clamp(0.0, length - 1.0) as usize),
        }
    };
    let Some(kernel) = sampling.kernel else {
        return position(x.trunc()).map(|at| (at, 1.0)).into_iter().collect();
    };
    let floor = x.floor();
    let reach = kernel.reach() as i32;
    (1 - reach..=reach)
        .filter_map(|k| {
            let at = floor + f64::from(k);
            position(at).map(|position| (position, kernel.weight(at - x)))
        })
        .collect()
}

/// A place outside, mirrored at the borders until it is inside.
fn reflect(x: f64, least: f64, most: f64) -> f64 {
    let range = most - least;
    if range <= 0.0 || !x.is_finite() {
        return least;
    }
    let beyond = if x < least { least - x } else { x - most };
    if beyond <= 0.0 {
        return x;
    }
    let (turns, rest) = ((beyond / range).floor(), beyond % range);
    // Even turns end at the border that was crossed, odd ones at the other.
    if (x < least) == (turns % 2.0 == 0.0) { least + rest } else { most - rest }
}

/// The batch and the extents of `AffineGrid`.
fn affine_plan(inputs: Inputs<'_>) -> Result<(usize, Vec<usize>)> {
    let size = shape_from(&inputs.need(1)?.to_i64s()?)?;
    match size[..] {
        [batch, _, ref image @ ..] if (2..=3).contains(&image.len()) => Ok((batch, image.to_vec())),
        _ => Err(Error::input(format!("size {size:?}, expected batch, channels and 2 or 3 image axes"))),
    }
}

fn grid_shape(batch: usize, image: &[usize]) -> Result<Vec<usize>> {
    let shape = [&[batch][..], image, &[image.len()]].concat();
    len_of(&shape)?;
    Ok(shape)
}

fn infer_affine_grid(_: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let dtype = inputs.need(0)?.dtype;
    let shape = match constants(inputs, 1) {
        Some(params) => {
            let (batch, image) = affine_plan(Inputs(&params))?;
            Some(grid_shape(batch, &image)?)
        }
        None => None,
    };
    Ok(vec![Fact { dtype, shape, ..Fact::default() }])
}

/// `AffineGrid`: a grid over the image (x, y, … in −1..1), transformed by each batch's matrix.
fn eval_affine_grid(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let theta = inputs.need(0)?;
    let (batch, image) = affine_plan(inputs)?;
    let axes = image.len();
    if theta.shape() != [batch, axes, axes + 1] {
        let expected = [batch, axes, axes + 1];
        return Err(Error::input(format!("theta of shape {:?}, expected {expected:?}", theta.shape())));
    }
    let align_corners = node.int_or("align_corners", 0)? != 0;
    let coordinate = |i: usize, extent: usize| {
        let (i, extent) = (i as f64, extent as f64);
        match align_corners {
            // Of a single element the middle, as in PyTorch.
            true if extent == 1.0 => 0.0,
            true => 2.0 * i / (extent - 1.0) - 1.0,
            false => (2.0 * i + 1.0) / extent - 1.0,
        }
    };
    let shape = grid_shape(batch, &image)?;
    let matrices: Vec<f64> = <f64 as Float>::load(theta)?.into_owned();
    let steps = strides(&image);
    let mut out = room(len_of(&shape)?)?;
    for matrix in matrices.chunks_exact(axes * (axes + 1)) {
        for flat in 0..image.iter().product::<usize>() {
            for row in matrix.chunks_exact(axes + 1) {
                // The matrix names axes from the last to the first.
                let own = (0..axes).rev().map(|k| coordinate(flat / steps[k] % image[k], image[k]));
                out.push(row.iter().zip(own).fold(row[axes], |sum, (factor, place)| sum + factor * place));
            }
        }
    }
    Ok(vec![<f64 as Float>::store(out, theta.dtype(), &shape)?])
}

/// The grid counts positions; samples and channels stay, and the grid's own axes come out.
fn axes_grid_sample(_: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let (x, grid, y) = (axes.need(0, 3)?, axes.need(1, 3)?, axes.need_output(0, 3)?);
    axes.fix_all(&x[2..]);
    axes.fix_all(&grid[grid.len() - 1..]);
    axes.same_all(&x[..2], &y[..2]);
    axes.same(grid[0], y[0]);
    axes.same_all(&grid[1..grid.len() - 1], &y[2..]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{close, eval, node, with_attr};
    use super::*;
    use crate::Attr;

    #[test]
    fn as_pytorch_samples() {
        // torch.nn.functional.grid_sample(torch.arange(12.).reshape(1, 1, 3, 4)**2 / 10, grid, mode=…,
        // padding_mode=…, align_corners=False) of PyTorch 2; where its mode is reflection, at the border.
        let image = (0..12u8).map(|i| f32::from(i).powi(2) / 10.0).collect();
        let image = Tensor::new([1, 1, 3, 4], image).unwrap();
        let grid = vec![-1.2f32, 0.3, 0.1, -0.7, 0.95, 1.3, 0.0, 0.0];
        let grid = Tensor::new([1, 2, 2, 2], grid).unwrap();
        let table = [
            ("linear", "zeros", [0.376, 0.2945, 0.363, 3.05]),
            ("linear", "border", [3.76, 0.31, 12.1, 3.05]),
            ("linear", "reflection", [3.76, 0.31, 12.1, 3.05]),
            ("nearest", "zeros", [0.0, 0.4, 0.0, 3.6]),
            ("nearest", "border", [1.6, 0.4, 12.1, 3.6]),
            ("nearest", "reflection", [1.6, 0.4, 12.1, 3.6]),
            ("cubic", "zeros", [0.35313, 0.15641, 0.30804, 3.0125]),
            ("cubic", "border", [3.88463, 0.16686, 12.33978, 3.0125]),
            ("cubic", "reflection", [3.80342, 0.16165, 12.73963, 3.0125]),
        ];
        for (mode, padding, expected) in table {
            let sample = with_attr(node("GridSample", 20), "mode", Attr::String(mode.into()));
            let sample = with_attr(sample, "padding_mode", Attr::String(padding.into()));
            close(&eval(&sample, &[&image, &grid]).unwrap()[0], &expected, 5e-6);
        }
    }

    #[test]
    fn places_that_are_no_numbers_harm_nothing() {
        let image = Tensor::new([1, 1, 1, 2], vec![1f32, 2.0]).unwrap();
        let grid = vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30];
        let grid = Tensor::new([1, 1, 2, 2], grid).unwrap();
        for mode in ["linear", "nearest", "cubic"] {
            for padding in ["zeros", "border", "reflection"] {
                let sample = with_attr(node("GridSample", 20), "mode", Attr::String(mode.into()));
                let sample = with_attr(sample, "padding_mode", Attr::String(padding.into()));
                assert_eq!(eval(&sample, &[&image, &grid]).unwrap()[0].shape(), [1, 1, 1, 2]);
            }
        }
    }

    #[test]
    fn as_pytorch_transforms_a_grid() {
        // torch.nn.functional.affine_grid(torch.tensor([[[1, .5, .1], [-.3, 2, .2]]]), …).
        let theta = Tensor::new([1, 2, 3], vec![1f32, 0.5, 0.1, -0.3, 2.0, 0.2]).unwrap();
        let grid = |size: [i64; 4], align| {
            let node = with_attr(node("AffineGrid", 20), "align_corners", Attr::Int(align));
            eval(&node, &[&theta, &Tensor::vector(size.to_vec())]).unwrap().remove(0)
        };
        let expected = [-0.81667, -0.6, -0.15, -0.8, 0.51667, -1.0, -0.31667, 1.4, 0.35, 1.2, 1.01667, 1.0];
        close(&grid([1, 1, 2, 3], 0), &expected, 5e-6);
        close(&grid([1, 1, 1, 3], 1), &[-0.9, 0.5, 0.1, 0.2, 1.1, -0.1], 5e-6);
    }
}
