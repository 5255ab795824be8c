//! `Resize` and `Upsample`.

use std::borrow::Cow;

use super::cast::convert;
use super::cells::len_of;
use super::number::Float;
use super::params::{constants, shape_from};
use super::pick::{FILL, Positions, pick};
use super::taps::{Axis, Coordinates, Filter, Kernel, Taps, coordinates};
use super::{Fact, Facts, Inputs, Op, axis_index};
use crate::{DType, Error, Node, Result, Tensor};

pub(super) const OPS: &[Op] = &[
    Op::new("Resize", 10, infer_resize).eval(eval_resize),
    Op::new("Upsample", 1, infer_resize).eval(eval_resize),
];

/// The factors, extents and region that the inputs and attributes of all operator sets give.
struct Request {
    scales: Option<Vec<f32>>,
    sizes: Option<Vec<i64>>,
    region: Option<Vec<f32>>,
}

/// An input that counts as left out where it has no elements.
fn filled_input<'a>(inputs: Inputs<'a>, index: usize) -> Option<&'a Tensor> {
    inputs.get(index).filter(|tensor| !tensor.is_empty())
}

fn request(node: &Node, inputs: Inputs<'_>) -> Result<Request> {
    let floats = |index| filled_input(inputs, index).map(Tensor::to_f32s).transpose();
    // `Upsample` and the first `Resize` have the factors where later sets have the region.
    if node.op_type == "Resize" && node.opset >= 11 {
        return Ok(Request {
            region: floats(1)?,
            scales: floats(2)?,
            sizes: filled_input(inputs, 3).map(Tensor::to_i64s).transpose()?,
        });
    }
    let mut scales = floats(1)?.or(node.floats("scales")?.map(<[f32]>::to_vec));
    if let (None, Some(height), Some(width)) =
        (&scales, node.float("height_scale")?, node.float("width_scale")?)
    {
        scales = Some(vec![1.0, 1.0, height, width]);
    }
    Ok(Request { scales, sizes: None, region: None })
}

/// What becomes of each axis of the data; `None` where it stays.
fn plan(node: &Node, shape: &[usize], inputs: Inputs<'_>) -> Result<Vec<Option<Axis>>> {
    let Request { scales, sizes, region } = request(node, inputs)?;
    let listed = match node.ints("axes")? {
        Some(axes) => axes.iter().map(|&a| axis_index(a, shape.len())).collect::<Result<Vec<_>>>()?,
        None => (0..shape.len()).collect(),
    };
    let count = listed.len();
    let check = |name: &str, found: usize, expected: usize| {
        if found == expected {
            Ok(())
        } else {
            Err(Error::input(format!("{found} numbers in `{name}`, expected {expected}")))
        }
    };
    let mut resized: Vec<(usize, f32)> = match (scales, sizes) {
        (Some(scales), None) => {
            check("scales", scales.len(), count)?;
            if let Some(&scale) = scales.iter().find(|s| !(**s > 0.0 && s.is_finite())) {
                return Err(Error::input(format!("a scale of {scale}")));
            }
            let to = |axis: usize, scale: f32| (shape[axis] as f32 * scale) as usize;
            listed.iter().zip(&scales).map(|(&axis, &scale)| (to(axis, scale), scale)).collect()
        }
        (None, Some(sizes)) => {
            check("sizes", sizes.len(), count)?;
            let sizes = shape_from(&sizes)?;
            listed.iter().zip(&sizes).map(|(&axis, &to)| (to, to as f32 / shape[axis] as f32)).collect()
        }
        _ => return Err(Error::input("expected either scales or sizes")),
    };
    let kept = match node.str_or("keep_aspect_ratio_policy", "stretch")? {
        "stretch" => None,
        "not_larger" => resized.iter().map(|&(_, scale)| scale).reduce(f32::min),
        "not_smaller" => resized.iter().map(|&(_, scale)| scale).reduce(f32::max),
        policy => return Err(Error::unsupported(format!("keep_aspect_ratio_policy `{policy}`"))),
    };
    if let Some(scale) = kept {
        for ((to, own), &axis) in resized.iter_mut().zip(&listed) {
            (*to, *own) = ((scale * shape[axis] as f32 + 0.5) as usize, scale);
        }
    }
    if let Some(region) = &region {
        check("roi", region.len(), 2 * count)?;
    }
    let mut axes = vec![None; shape.len()];
    for (k, (&axis, (to, scale))) in listed.iter().zip(resized).enumerate() {
        let from = shape[axis];
        let region = region.as_ref().map_or((0.0, 1.0), |r| (r[k], r[count + k]));
        if from == 0 && to > 0 {
            return Err(Error::input(format!("axis {axis} of shape {shape:?} has nothing to resize")));
        }
        if (to, scale, region) != (from, 1.0, (0.0, 1.0)) {
            axes[axis] = Some(Axis { from, to, scale, region });
        }
    }
    Ok(axes)
}

fn resized_shape(shape: &[usize], axes: &[Option<Axis>]) -> Result<Vec<usize>> {
    let shape: Vec<usize> =
        shape.iter().zip(axes).map(|(&from, axis)| axis.map_or(from, |axis| axis.to)).collect();
    len_of(&shape)?;
    Ok(shape)
}

fn infer_resize(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let data = inputs.need(0)?;
    // The region moves nothing in the shape, but it is small and constant in practice.
    let (Some(shape), Some(params)) = (data.shape(), constants(inputs, 1)) else {
        return Ok(vec![Fact::unknown(data.dtype)]);
    };
    let axes = plan(node, shape, Inputs(&params))?;
    Ok(vec![Fact { dtype: data.dtype, shape: Some(resized_shape(shape, &axes)?), value: None }])
}

/// `Resize` by the nearest element, linearly or by cubic convolution, axis by axis.
fn eval_resize(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    let axes = plan(node, data.shape(), inputs)?;
    resized_shape(data.shape(), &axes)?;
    // Operator sets before 11 know one mode only.
    let modern = node.op_type == "Resize" && node.opset >= 11;
    let mode =
        if modern { node.str_or("coordinate_transformation_mode", "half_pixel")? } else { "asymmetric" };
    let mode = coordinates(mode)?;
    let kernel = match node.str_or("mode", "nearest")? {
        "nearest" => return nearest(node, data, &axes, mode, modern),
        "linear" | "bilinear" => Kernel::Linear,
        "cubic" => Kernel::Cubic(node.float_or("cubic_coeff_a", -0.75)?),
        mode => return Err(Error::unsupported(format!("mode `{mode}`"))),
    };
    let filter = Filter {
        kernel,
        antialias: node.int_or("antialias", 0)? != 0,
        exclude_outside: node.int_or("exclude_outside", 0)? != 0,
    };
    let outside = node.float_or("extrapolation_value", 0.0)?;
    let resampled = match data.dtype() {
        DType::F32 | DType::F16 | DType::BF16 => resample::<f32>(data, &axes, mode, filter, outside)?,
        DType::F64 => resample::<f64>(data, &axes, mode, filter, outside)?,
        // Integers are rounded to the nearest and kept within their range.
        dtype => {
            round_to(resample::<f64>(&convert(data, DType::F64)?, &axes, mode, filter, outside)?, dtype)?
        }
    };
    Ok(vec![convert(&resampled, data.dtype())?])
}

fn resample<T: Float>(
    data: &Tensor,
    axes: &[Option<Axis>],
    mode: Coordinates,
    filter: Filter,
    outside: f32,
) -> Result<Tensor> {
    let mut order: Vec<(usize, Axis)> =
        axes.iter().enumerate().filter_map(|(k, axis)| axis.map(|axis| (k, axis))).collect();
    // What shrinks comes first, and inner axes before outer ones: the later passes then have less to
    // do, or long rows to do it on.
    order.sort_by(|(j, a), (k, b)| {
        let growth = |axis: &Axis| axis.to as f64 / axis.from as f64;
        growth(a).total_cmp(&growth(b)).then(k.cmp(j))
    });
    let (mut shape, mut values) = (data.shape().to_vec(), T::load(data)?);
    for (k, axis) in order {
        let taps = Taps::new(&axis, mode, filter)?;
        let inner = shape[k + 1..].iter().product();
        values = Cow::Owned(taps.apply(&values, axis.from, inner, T::from_f64(outside.into()))?);
        shape[k] = axis.to;
    }
    Tensor::new(shape, values.into_owned())
}

fn round_to(tensor: Tensor, dtype: DType) -> Result<Tensor> {
    let (least, most) = match dtype {
        DType::I8 => (i8::MIN.into(), i8::MAX.into()),
        DType::U8 => (0.0, u8::MAX.into()),
        DType::I16 => (i16::MIN.into(), i16::MAX.into()),
        DType::U16 => (0.0, u16::MAX.into()),
        DType::U32 => (0.0, u32::MAX.into()),
        _ => (f64::NEG_INFINITY, f64::INFINITY),
    };
    let round = |&v: &f64| v.round_ties_even().clamp(least, most);
    Tensor::new(tensor.shape(), tensor.values::<f64>()?.iter().map(round).collect())
}

/// The nearest elements, on any type.
fn nearest(
    node: &Node,
    data: &Tensor,
    axes: &[Option<Axis>],
    mode: Coordinates,
    modern: bool,
) -> Result<Vec<Tensor>> {
    let rounding = if modern { node.str_or("nearest_mode", "round_prefer_floor")? } else { "" };
    let rounding: fn(f32, &Axis) -> f32 = match rounding {
        "round_prefer_floor" => |x, _| (x - 0.5).ceil(),
        "round_prefer_ceil" => |x, _| (x + 0.5).floor(),
        "floor" => |x, _| x.floor(),
        "ceil" => |x, _| x.ceil(),
        // Operator sets before 11 leave it open: as ONNX Runtime does.
        "" => |x, axis| if axis.scale < 1.0 { x.ceil() } else { x.floor() },
        mode => return Err(Error::unsupported(format!("nearest_mode `{mode}`"))),
    };
    let positions = |axis: &Axis| {
        let position = |place| {
            let outside = mode == Coordinates::TfCropAndResize && axis.is_outside(place);
            if outside { FILL } else { axis.clamp(rounding(place, axis)) }
        };
        axis.places(mode).into_iter().map(position).collect()
    };
    let lists: Vec<Positions> = axes.iter().map(|axis| axis.as_ref().map(positions)).collect();
    let fill = match node.float("extrapolation_value")? {
        Some(value) if value != 0.0 => Some(convert(&Tensor::scalar(value), data.dtype())?),
        _ => None,
    };
    Ok(vec![pick(data, &lists, fill.as_ref())?])
}
