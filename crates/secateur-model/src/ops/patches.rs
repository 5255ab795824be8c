//! Operators that put patches and pooled elements back into an image.

use super::cells::{filled, len_of};
use super::number::{Number, wrong_type};
use super::params::{infer_one, shape_from};
use super::{Fact, Facts, Inputs, Op};
use crate::tensor::strides;
use crate::{Error, Node, Result, Tensor, with_number_type};

pub(super) const OPS: &[Op] = &[
    Op::new("Col2Im", 18, infer_col2im).eval(eval_col2im),
    Op::new("MaxUnpool", 9, infer_max_unpool).eval(eval_max_unpool),
];

/// A list of numbers an image axis, or a default.
fn each_axis(node: &Node, name: &str, count: usize, default: i64) -> Result<Vec<i64>> {
    let list = node.ints(name)?.map_or_else(|| vec![default; count], <[i64]>::to_vec);
    // Beyond this, products of the numbers could overflow; no image is so large.
    if list.len() == count && list.iter().all(|v| v.unsigned_abs() < 1 << 31) {
        Ok(list)
    } else {
        Err(Error::input(format!("attribute `{name}` is {list:?}, expected {count} numbers")))
    }
}

/// The way patches lie in an image, axis by axis.
struct Patches {
    image: Vec<usize>,
    kernel: Vec<usize>,
    /// Positions of the kernel.
    grid: Vec<usize>,
    strides: Vec<i64>,
    dilations: Vec<i64>,
    before: Vec<i64>,
    /// Batch and channels.
    outer: [usize; 2],
}

impl Patches {
    fn new(node: &Node, shape: &[usize], inputs: Inputs<'_>) -> Result<Self> {
        let image = shape_from(&inputs.need(1)?.to_i64s()?)?;
        let kernel = shape_from(&inputs.need(2)?.to_i64s()?)?;
        let axes = image.len();
        let pads = each_axis(node, "pads", 2 * axes, 0)?;
        let (steps, dilations) =
            (each_axis(node, "strides", axes, 1)?, each_axis(node, "dilations", axes, 1)?);
        let refuse = || {
            Error::input(format!(
                "columns of shape {shape:?} do not make images of {image:?} from patches of {kernel:?}"
            ))
        };
        let &[batch, columns, places] = shape else { return Err(refuse()) };
        let small = |extents: &[usize]| extents.iter().all(|&e| e < 1 << 31);
        if kernel.len() != axes
            || steps.iter().chain(&dilations).any(|&s| s < 1)
            || !small(&image)
            || !small(&kernel)
        {
            return Err(refuse());
        }
        let mut grid = Vec::new();
        for axis in 0..axes {
            let reach = dilations[axis] * (kernel[axis] as i64 - 1) + 1;
            let room = image[axis] as i64 + pads[axis] + pads[axes + axis] - reach;
            grid.push(if room < 0 { 0 } else { (room / steps[axis] + 1) as usize });
        }
        let (area, positions) = (len_of(&kernel)?, len_of(&grid)?);
        if area == 0 || columns % area != 0 || places != positions {
            return Err(refuse());
        }
        let before = pads[..axes].to_vec();
        let outer = [batch, columns / area];
        Ok(Patches { image, kernel, grid, strides: steps, dilations, before, outer })
    }

    fn shape(&self) -> Vec<usize> {
        [&self.outer[..], &self.image].concat()
    }

    /// Where in the image each position of each kernel element lies, kernel elements first; `None`
    /// in the padding.
    fn places(&self) -> Vec<Option<usize>> {
        let steps = strides(&self.image);
        let mut places = Vec::new();
        for element in indices(&self.kernel) {
            for position in indices(&self.grid) {
                let place = (0..self.image.len()).try_fold(0, |place, axis| {
                    let at = position[axis] as i64 * self.strides[axis] - self.before[axis]
                        + element[axis] as i64 * self.dilations[axis];
                    let at = usize::try_from(at).ok().filter(|&at| at < self.image[axis])?;
                    Some(place + at * steps[axis])
                });
                places.push(place);
            }
        }
        places
    }
}

/// All indices of a shape, in order.
fn indices(shape: &[usize]) -> impl Iterator<Item = Vec<usize>> {
    let steps = strides(shape);
    (0..shape.iter().product()).map(move |flat: usize| {
        steps.iter().zip(shape).map(|(&step, &extent)| flat / step % extent).collect()
    })
}

fn infer_col2im(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    infer_one(inputs, |shape, params| Ok(Patches::new(node, shape, params)?.shape()))
}

/// `Col2Im` adds up the patches that the columns hold.
fn eval_col2im(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    let patches = Patches::new(node, data.shape(), inputs)?;
    let sums = with_number_type!(data.dtype(), T => {
        Tensor::new(patches.shape(), add_up(data.values::<T>()?, &patches)?)
    }, else Err(wrong_type(data.dtype())));
    Ok(vec![sums?])
}

fn add_up<T: Number>(columns: &[T], patches: &Patches) -> Result<Vec<T>> {
    let area = len_of(&patches.image)?;
    let mut out = filled(len_of(&patches.shape())?, T::ZERO)?;
    if columns.is_empty() || out.is_empty() {
        return Ok(out);
    }
    let places = patches.places();
    for (image, columns) in out.chunks_exact_mut(area).zip(columns.chunks_exact(places.len())) {
        for (&value, place) in columns.iter().zip(&places) {
            if let Some(place) = *place {
                image[place] = image[place].add(value);
            }
        }
    }
    Ok(out)
}

/// The shape that pooling came from, and the shape of the output, which may be larger.
fn unpool_shapes(node: &Node, shape: &[usize], inputs: Inputs<'_>) -> Result<[Vec<usize>; 2]> {
    let refuse = |what: &str| Error::input(format!("{what} for data of shape {shape:?}"));
    let kernel = node.ints("kernel_shape")?.ok_or_else(|| refuse("no `kernel_shape`"))?;
    let axes = kernel.len();
    if shape.len() != axes + 2 {
        return Err(refuse(&format!("kernel {kernel:?}")));
    }
    let (steps, pads) = (each_axis(node, "strides", axes, 1)?, each_axis(node, "pads", 2 * axes, 0)?);
    let mut pooled = shape.to_vec();
    for axis in 0..axes {
        let extent = (shape[axis + 2] as i64 - 1)
            .checked_mul(steps[axis])
            .and_then(|extent| extent.checked_add(kernel[axis]))
            .and_then(|extent| extent.checked_sub(pads[axis])?.checked_sub(pads[axes + axis]))
            .and_then(|extent| usize::try_from(extent).ok());
        pooled[axis + 2] = extent.ok_or_else(|| refuse(&format!("kernel {kernel:?}, pads {pads:?}")))?;
    }
    len_of(&pooled)?;
    let output = match inputs.get(2) {
        Some(output) => shape_from(&output.to_i64s()?)?,
        None => pooled.clone(),
    };
    if output.len() != pooled.len() || output.iter().zip(&pooled).any(|(o, p)| o < p) {
        return Err(refuse(&format!("output shape {output:?}, expected at least {pooled:?}")));
    }
    Ok([pooled, output])
}

fn infer_max_unpool(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let data = inputs.need(0)?;
    let shape = match (data.shape(), inputs.get(2), inputs.value(2)) {
        (Some(shape), output, value) if output.is_none() || value.is_some() => {
            let [_, output] = unpool_shapes(node, shape, Inputs(&[None, None, value]))?;
            Some(output)
        }
        _ => None,
    };
    Ok(vec![Fact { dtype: data.dtype, shape, ..Fact::default() }])
}

/// `MaxUnpool` puts elements back where `MaxPool` found them, zeros elsewhere.
fn eval_max_unpool(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let (data, indices) = (inputs.need(0)?, inputs.need(1)?.to_i64s()?);
    let [pooled, output] = unpool_shapes(node, data.shape(), inputs)?;
    if indices.len() != data.len() {
        return Err(Error::input(format!("{} indices for {} elements", indices.len(), data.len())));
    }
    let steps = (strides(&pooled), strides(&output));
    let len = len_of(&pooled)?;
    // Indices count in the pooled shape, which lies in the output's first corner.
    let place = |index: i64| {
        let index = super::gather::position(index, len)?;
        let axes = steps.0.iter().zip(&steps.1).zip(&pooled);
        Ok(axes.map(|((from, to), extent)| index / from % extent * to).sum())
    };
    let places = indices.into_iter().map(place).collect::<Result<Vec<usize>>>()?;
    let put = with_number_type!(data.dtype(), T => {
        let mut out = filled(len_of(&output)?, T::ZERO)?;
        for (&value, &place) in data.values::<T>()?.iter().zip(&places) {
            out[place] = value;
        }
        Tensor::new(output, out)
    }, else Err(wrong_type(data.dtype())));
    Ok(vec![put?])
}

#[cfg(test)]
mod tests {
    use super::super::testing::{close, eval, node, with_attr};
    use super::*;
    use crate::Attr;

    #[test]
    fn as_pytorch_folds() {
        // torch.nn.functional.fold(torch.arange(1., 17.).reshape(1, 4, 4), (3, 3), (2, 2)).
        let columns = Tensor::new([1, 4, 4], (1..17u8).map(f32::from).collect()).unwrap();
        let [image, kernel] = [[3i64, 3], [2, 2]].map(|v| Tensor::vector(v.to_vec()));
        let out = eval(&node("Col2Im", 18), &[&columns, &image, &kernel]).unwrap();
        close(&out[0], &[1.0, 7.0, 6.0, 12.0, 34.0, 22.0, 11.0, 27.0, 16.0], 1e-6);
        let padded = with_attr(node("Col2Im", 18), "pads", Attr::Ints(vec![1; 4]));
        assert!(eval(&padded, &[&columns, &image, &kernel]).is_err());
        let steps = with_attr(node("Col2Im", 18), "strides", Attr::Ints(vec![0, 1]));
        assert!(eval(&steps, &[&columns, &image, &kernel]).is_err());
    }

    #[test]
    fn pooled_elements_go_back() {
        let data = Tensor::new([1, 1, 1, 2], vec![5f32, 6.0]).unwrap();
        let unpool = with_attr(node("MaxUnpool", 11), "kernel_shape", Attr::Ints(vec![2, 2]));
        let unpool = with_attr(unpool, "strides", Attr::Ints(vec![2, 2]));
        let at = Tensor::new([1, 1, 1, 2], vec![5i64, 2]).unwrap();
        let out = eval(&unpool, &[&data, &at]).unwrap();
        assert_eq!(out[0].shape(), [1, 1, 2, 4]);
        close(&out[0], &[0.0, 0.0, 6.0, 0.0, 0.0, 5.0, 0.0, 0.0], 0.0);
        let larger = Tensor::vector(vec![1i64, 1, 2, 5]);
        let out = eval(&unpool, &[&data, &at, &larger]).unwrap();
        close(&out[0], &[0.0, 0.0, 6.0, 0.0, 0.0, 0.0, 5.0, 0.0, 0.0, 0.0], 0.0);
        let beyond = Tensor::new([1, 1, 1, 2], vec![8i64, 0]).unwrap();
        assert!(eval(&unpool, &[&data, &beyond]).is_err());
    }
}
