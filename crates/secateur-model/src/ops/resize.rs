//! `Resize` and `Upsample`.

use std::borrow::Cow;

use super::axes::{Slot, Statement};
use super::cast::convert;
use super::cells::{empty, len_of};
use super::number::Float;
use super::params::{constants, shape_from};
use super::pick::{FILL, Positions, pick};
use super::taps::{Axis, Coordinates, Filter, Kernel, Taps, coordinates};
use super::{Fact, Facts, Inputs, Op, axis_index};
use crate::{DType, Error, Node, Result, Tensor};

pub(super) const OPS: &[Op] = &[
    Op::new("Resize", 10, infer_resize).axes(axes_resize).eval(eval_resize),
    Op::new("Upsample", 1, infer_resize).axes(axes_resize).eval(eval_resize),
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
    Ok(vec![Fact { dtype: data.dtype, shape: Some(resized_shape(shape, &axes)?), ..Fact::default() }])
}

/// `Resize` by the nearest element, linearly or by cubic convolution, axis by axis.
fn eval_resize(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    let axes = plan(node, data.shape(), inputs)?;
    let shape = resized_shape(data.shape(), &axes)?;
    if len_of(&shape)? == 0 {
        return empty(data.dtype(), shape);
    }
    let mode = coordinate_mode(node)?;
    let Some(filter) = filter(node)? else { return nearest(node, data, &axes, mode) };
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

/// Operator sets before 11 know one mode only.
fn is_modern(node: &Node) -> bool {
    node.op_type == "Resize" && node.opset >= 11
}

fn coordinate_mode(node: &Node) -> Result<Coordinates> {
    let modern = is_modern(node);
    coordinates(if modern {
        node.str_or("coordinate_transformation_mode", "half_pixel")?
    } else {
        "asymmetric"
    })
}

/// How elements are weighed; `None` where the nearest is taken.
fn filter(node: &Node) -> Result<Option<Filter>> {
    let kernel = match node.str_or("mode", "nearest")? {
        "nearest" => return Ok(None),
        "linear" | "bilinear" => Kernel::Linear,
        "cubic" => Kernel::Cubic(node.float_or("cubic_coeff_a", -0.75)?),
        mode => return Err(Error::unsupported(format!("mode `{mode}`"))),
    };
    Ok(Some(Filter {
        kernel,
        antialias: node.int_or("antialias", 0)? != 0,
        exclude_outside: node.int_or("exclude_outside", 0)? != 0,
    }))
}

/// An axis that is interpolated: which elements of the source each element of the result is made of.
pub struct Resampled {
    /// The axis.
    pub axis: usize,
    /// Its extent in the source.
    pub from: usize,
    /// Its extent in the result.
    pub to: usize,
    /// Positions in the source, equally many for each element of the result.
    pub positions: Vec<usize>,
    /// Their weights; zero where the result is the constant of what is outside of the source.
    pub weights: Vec<f32>,
}

/// How a `Resize` or `Upsample` of data of the given shape interpolates, axis by axis; `None` where it takes the nearest
/// elements. The first of `inputs` is not read.
///
/// # Errors
/// As the evaluation.
pub fn resampled(node: &Node, shape: &[usize], inputs: Inputs<'_>) -> Result<Option<Vec<Resampled>>> {
    let (mode, Some(filter)) = (coordinate_mode(node)?, filter(node)?) else { return Ok(None) };
    let axes = plan(node, shape, inputs)?;
    let resized = axes.into_iter().enumerate().filter_map(|(at, axis)| axis.map(|axis| (at, axis)));
    let weigh = |(at, axis): (usize, Axis)| {
        let (positions, weights) = Taps::new(&axis, mode, filter)?.into_weights();
        Ok(Resampled { axis: at, from: axis.from, to: axis.to, positions, weights })
    };
    resized.map(weigh).collect::<Result<Vec<_>>>().map(Some)
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
fn nearest(node: &Node, data: &Tensor, axes: &[Option<Axis>], mode: Coordinates) -> Result<Vec<Tensor>> {
    let rounding = if is_modern(node) { node.str_or("nearest_mode", "round_prefer_floor")? } else { "" };
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

/// Axes that are not resized stay; along the others positions count.
fn axes_resize(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let (x, y, shape) = (axes.input(0), axes.output(0), axes.shape(0));
    let params = axes.params(1)?;
    let params: Vec<Option<&Tensor>> = params.iter().map(Option::as_ref).collect();
    let written =
        filled_input(Inputs(&params), 3).is_some() && node.opset >= 11 && node.int("axes")?.is_none();
    for (place, (resized, (&from, &to))) in
        plan(node, &shape, Inputs(&params))?.iter().zip(x.iter().zip(&y)).enumerate()
    {
        if resized.is_none() {
            axes.same(from, to);
            if written {
                axes.write(Slot::Input(3, place), to);
            }
        } else {
            axes.fix_all(&[from, to]);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{close, eval_optional, node, with_attr};
    use super::*;
    use crate::Attr;

    fn image() -> Tensor {
        Tensor::new([1, 1, 3, 4], (0..12u8).map(|i| f32::from(i).powi(2) / 10.0).collect()).unwrap()
    }

    fn with_texts(mut node: Node, texts: &[(&str, &str)]) -> Node {
        for &(name, text) in texts {
            node = with_attr(node, name, Attr::String(text.into()));
        }
        node
    }

    fn to_sizes(node: &Node, data: &Tensor, sizes: &[i64]) -> Result<Tensor> {
        let sizes = Tensor::vector(sizes.to_vec());
        Ok(eval_optional(node, &[Some(data), None, None, Some(&sizes)])?.remove(0))
    }

    #[test]
    fn as_pytorch_interpolates() {
        // torch.nn.functional.interpolate(torch.arange(12.).reshape(1, 1, 3, 4)**2 / 10, (5, 3), mode=…,
        // align_corners=…) of PyTorch 2.
        let table: [(&str, &str, [f64; 15]); 4] = [
            (
                "linear",
                "half_pixel",
                [
                    0.01667, 0.25, 0.81667, 0.71, 1.37, 2.36333, 1.75, 3.05, 4.68333, 4.71, 6.65, 8.92334,
                    6.68333, 9.05, 11.75,
                ],
            ),
            (
                "linear",
                "align_corners",
                [0.0, 0.25, 0.9, 0.8, 1.65, 2.9, 1.6, 3.05, 4.9, 4.0, 6.05, 8.5, 6.4, 9.05, 12.1],
            ),
            (
                "cubic",
                "half_pixel",
                [
                    -0.15415, -0.0563, 0.45914, 0.31624, 0.8669, 1.83516, 1.71007, 3.0125, 4.73252, 4.8319,
                    6.8861, 9.35789, 7.08149, 9.5885, 12.51311,
                ],
            ),
            (
                "nearest",
                "asymmetric",
                [0.0, 0.1, 0.4, 0.0, 0.1, 0.4, 1.6, 2.5, 3.6, 1.6, 2.5, 3.6, 6.4, 8.1, 10.0],
            ),
        ];
        for (mode, coordinates, expected) in table {
            let resize = with_texts(
                node("Resize", 19),
                &[("mode", mode), ("coordinate_transformation_mode", coordinates), ("nearest_mode", "floor")],
            );
            let out = to_sizes(&resize, &image(), &[1, 1, 5, 3]).unwrap();
            close(&out, &expected, 5e-6);
        }
    }

    #[test]
    fn sets_before_11_give_scales_only() {
        let scales = Tensor::vector(vec![1f32, 1.0, 2.0, 1.5]);
        for (op, opset) in [("Resize", 10), ("Upsample", 9)] {
            let out = eval_optional(&node(op, opset), &[Some(&image()), Some(&scales)]).unwrap();
            assert_eq!(out[0].shape(), [1, 1, 6, 6]);
            let row = [0.0, 0.0, 0.1, 0.4, 0.4, 0.9f32];
            assert_eq!(out[0].values::<f32>().unwrap()[..12], [row, row].concat());
        }
        let old = with_attr(node("Upsample", 7), "scales", Attr::Floats(vec![1.0, 1.0, 2.0, 1.5]));
        assert_eq!(eval_optional(&old, &[Some(&image())]).unwrap()[0].shape(), [1, 1, 6, 6]);
    }

    #[test]
    fn the_ratio_of_the_sides_is_kept_where_asked() {
        let to = |policy: &str| {
            let resize = with_texts(node("Resize", 19), &[("keep_aspect_ratio_policy", policy)]);
            let resize = with_attr(resize, "axes", Attr::Ints(vec![3, 2]));
            to_sizes(&resize, &image(), &[6, 6]).unwrap().shape().to_vec()
        };
        assert_eq!(to("stretch"), [1, 1, 6, 6]);
        assert_eq!(to("not_larger"), [1, 1, 5, 6]);
        assert_eq!(to("not_smaller"), [1, 1, 6, 8]);
    }

    #[test]
    fn integers_round_and_stay_in_range() {
        let data = Tensor::new([1, 1, 1, 3], vec![0u8, 255, 255]).unwrap();
        let cubic = with_texts(node("Resize", 19), &[("mode", "cubic")]);
        let out = to_sizes(&cubic, &data, &[1, 1, 1, 6]).unwrap();
        assert_eq!(out.values::<u8>().unwrap(), [0, 58, 197, 255, 255, 255]);
        let texts = Tensor::new([2], vec!["a".to_string(), "b".to_string()]).unwrap();
        let out = to_sizes(&node("Resize", 19), &texts, &[4]).unwrap();
        assert_eq!(out.values::<String>().unwrap(), ["a", "a", "b", "b"]);
    }

    #[test]
    fn requests_without_meaning_are_refused() {
        let resize = node("Resize", 19);
        assert!(to_sizes(&resize, &image(), &[1, 1, 5]).is_err());
        assert!(to_sizes(&resize, &image(), &[1, 1, -5, 3]).is_err());
        assert!(to_sizes(&resize, &image(), &[1, 1, i64::MAX, i64::MAX]).is_err());
        assert!(to_sizes(&resize, &Tensor::new([0], Vec::<f32>::new()).unwrap(), &[3]).is_err());
        for scale in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e30] {
            let scales = Tensor::vector(vec![1.0, 1.0, scale, 1.0]);
            let out = eval_optional(&resize, &[Some(&image()), None, Some(&scales)]);
            assert!(out.is_err(), "{scale}");
        }
        assert!(eval_optional(&resize, &[Some(&image())]).is_err());
    }
}
