//! Operators that make tensors from shapes and parameters.

use super::axes::{Slot, Statement};
use super::cast::convert;
use super::cells::{Cell, filled, len_of, room, with_cell};
use super::params::{constants, dtype_from, shape_from, single_float, single_int};
use super::{Fact, Facts, Inputs, ONE_TYPE, Op, axis_index};
use crate::{Attr, DType, Error, Node, Result, Tensor};

pub(super) const OPS: &[Op] = &[
    Op::new("Constant", 1, infer_constant).eval(eval_constant),
    Op::new("ConstantOfShape", 9, infer_constant_of_shape)
        .axes(axes_constant_of_shape)
        .eval(eval_constant_of_shape),
    Op::new("Range", 11, infer_range).types(ONE_TYPE).eval(eval_range),
    Op::new("EyeLike", 9, infer_eye_like).eval(eval_eye_like),
    Op::new("Trilu", 14, infer_trilu).axes(axes_trilu).eval(eval_trilu),
    Op::new("OneHot", 9, infer_one_hot).axes(axes_one_hot).eval(eval_one_hot),
    Op::new("HannWindow", 17, infer_window).eval(eval_hann),
    Op::new("HammingWindow", 17, infer_window).eval(eval_hamming),
    Op::new("BlackmanWindow", 17, infer_window).eval(eval_blackman),
];

/// The numbers of a `Constant` node. Those of a file are constants of its graph; this is for the nodes that
/// stand in another's place.
fn eval_constant(node: &Node, _: Inputs<'_>) -> Result<Vec<Tensor>> {
    node.attrs
        .iter()
        .find_map(|(name, attr)| match (name.as_str(), attr) {
            ("value", Attr::Tensor(value)) => Some(value.clone()),
            ("value_float", Attr::Float(value)) => Some(Tensor::scalar(*value)),
            ("value_floats", Attr::Floats(values)) => Some(Tensor::vector(values.clone())),
            ("value_int", Attr::Int(value)) => Some(Tensor::scalar(*value)),
            ("value_ints", Attr::Ints(values)) => Some(Tensor::vector(values.clone())),
            _ => None,
        })
        .map(|value| vec![value])
        .ok_or_else(|| Error::input("no attribute gives the constant's numbers"))
}

fn infer_constant(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let values = eval_constant(node, Inputs(&vec![None; inputs.len()]))?;
    Ok(values.into_iter().map(Fact::from).collect())
}

/// The element that `ConstantOfShape` repeats: f32 zero without the attribute.
fn constant_value(node: &Node) -> Result<Tensor> {
    match node.attrs.get("value") {
        None => Ok(Tensor::scalar(0f32)),
        Some(Attr::Tensor(value)) if value.len() == 1 => Ok(value.clone()),
        Some(_) => Err(Error::input("attribute `value` is not a tensor of one element")),
    }
}

fn infer_constant_of_shape(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    inputs.need(0)?;
    let shape = match inputs.value(0) {
        Some(shape) => Some(shape_from(&shape.to_i64s()?)?),
        None => None,
    };
    Ok(vec![Fact { dtype: Some(constant_value(node)?.dtype()), shape, ..Fact::default() }])
}

fn eval_constant_of_shape(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let shape = shape_from(&inputs.need(0)?.to_i64s()?)?;
    let value = constant_value(node)?;
    with_cell!(value.dtype(), C => {
        let cells = filled(len_of(&shape)?, C::single(&value)?)?;
        Ok(vec![C::close(value.dtype(), shape, cells)?])
    })
}

fn infer_range(_: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let dtype = inputs.need(0)?.dtype;
    let Some(bounds) = constants(inputs, 0) else { return Ok(vec![Fact::unknown(dtype)]) };
    let len = match Bounds::new(Inputs(&bounds))? {
        Bounds::Integers(_, _, len) | Bounds::Floats(_, _, len) => len,
    };
    Ok(vec![Fact { dtype, shape: Some(vec![len]), ..Fact::default() }])
}

/// Start, step and length of `Range`.
enum Bounds {
    Integers(i64, i64, usize),
    Floats(f64, f64, usize),
}

impl Bounds {
    fn new(inputs: Inputs<'_>) -> Result<Self> {
        let tensors = [inputs.need(0)?, inputs.need(1)?, inputs.need(2)?];
        let step_of_zero = || Error::input("a step of 0 has no end");
        if let Ok(start) = single_int(tensors[0]) {
            let (limit, step) = (single_int(tensors[1])?, single_int(tensors[2])?);
            let distance = (i128::from(limit) - i128::from(start)) * i128::from(step.signum());
            let len = match step {
                0 => return Err(step_of_zero()),
                _ if distance <= 0 => 0,
                _ => (distance.unsigned_abs()).div_ceil(step.unsigned_abs().into()) as usize,
            };
            return Ok(Bounds::Integers(start, step, len));
        }
        let (start, limit, step) =
            (single_float(tensors[0])?, single_float(tensors[1])?, single_float(tensors[2])?);
        if step == 0.0 {
            return Err(step_of_zero());
        }
        let len = ((limit - start) / step).ceil().max(0.0);
        if len.is_nan() {
            return Err(Error::input(format!("a range from {start} to {limit} by {step} has no length")));
        }
        Ok(Bounds::Floats(start, step, len as usize))
    }
}

/// `Range`: start + i·step, in the numbers' own type (16-bit floats in f32, rounded once).
fn eval_range(_: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let dtype = inputs.need(0)?.dtype();
    let values = match Bounds::new(inputs)? {
        Bounds::Integers(start, step, len) => {
            let mut values = room(len)?;
            values.extend((0..len as i64).map(|i| start.wrapping_add(i.wrapping_mul(step))));
            Tensor::vector(values)
        }
        Bounds::Floats(start, step, len) if dtype == DType::F64 => {
            let mut values = room(len)?;
            values.extend((0..len).map(|i| start + i as f64 * step));
            Tensor::vector(values)
        }
        Bounds::Floats(start, step, len) => {
            let (start, step) = (start as f32, step as f32);
            let mut values = room(len)?;
            values.extend((0..len).map(|i| start + i as f32 * step));
            Tensor::vector(values)
        }
    };
    Ok(vec![convert(&values, dtype)?])
}

/// The type that an attribute names, or another.
pub(super) fn type_or(node: &Node, name: &str, other: Option<DType>) -> Result<Option<DType>> {
    node.int(name)?.map_or(Ok(other), |number| dtype_from(number).map(Some))
}

fn infer_eye_like(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let data = inputs.need(0)?;
    Ok(vec![Fact {
        dtype: type_or(node, "dtype", data.dtype)?,
        shape: data.shape.clone(),
        ..Fact::default()
    }])
}

/// `EyeLike`: ones on the k-th diagonal of a matrix of the input's shape.
fn eval_eye_like(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    let &[rows, columns] = data.shape() else {
        return Err(Error::input(format!("expected a matrix, found shape {:?}", data.shape())));
    };
    let dtype = type_or(node, "dtype", Some(data.dtype()))?.unwrap_or(data.dtype());
    let one = convert(&Tensor::scalar(1i64), dtype)?;
    let k = node.int_or("k", 0)?;
    with_cell!(dtype, C => {
        let one = C::single(&one)?;
        let mut cells = filled(data.len(), C::default())?;
        for row in 0..rows {
            let column = (row as i64).checked_add(k).and_then(|c| usize::try_from(c).ok());
            if let Some(column) = column.filter(|&c| c < columns) {
                cells[row * columns + column] = one.clone();
            }
        }
        Ok(vec![C::close(dtype, data.shape().to_vec(), cells)?])
    })
}

fn infer_trilu(_: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let data = inputs.need(0)?;
    Ok(vec![Fact { dtype: data.dtype, shape: data.shape.clone(), ..Fact::default() }])
}

/// `Trilu` keeps what is on and above (`upper`) or on and below the k-th diagonal of each matrix.
fn eval_trilu(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let data = inputs.need(0)?;
    let upper = node.int_or("upper", 1)? != 0;
    let k = inputs.get(1).map_or(Ok(0), single_int)?;
    let &[.., rows, columns] = data.shape() else {
        return Err(Error::input(format!("expected matrices, found shape {:?}", data.shape())));
    };
    with_cell!(data.dtype(), C => {
        let mut cells = C::open(data)?.into_owned();
        if columns > 0 {
            for (n, line) in cells.chunks_exact_mut(columns).enumerate() {
                let diagonal = ((n % rows) as i64).saturating_add(k);
                let drop = if upper {
                    &mut line[..diagonal.clamp(0, columns as i64) as usize]
                } else {
                    &mut line[diagonal.saturating_add(1).clamp(0, columns as i64) as usize..]
                };
                drop.fill(C::default());
            }
        }
        Ok(vec![C::close(data.dtype(), data.shape().to_vec(), cells)?])
    })
}

/// The axis and the shape of `OneHot`.
fn one_hot_shape(node: &Node, indices: &[usize], depth: usize) -> Result<(usize, Vec<usize>)> {
    let axis = axis_index(node.int_or("axis", -1)?, indices.len() + 1)?;
    let mut shape = indices.to_vec();
    shape.insert(axis, depth);
    len_of(&shape)?;
    Ok((axis, shape))
}

/// A number that counts, given in any number type.
fn depth_of(tensor: &Tensor) -> Result<usize> {
    let depth = single_float(tensor)?;
    if depth >= 0.0 && depth < i64::MAX as f64 {
        Ok(depth as usize)
    } else {
        Err(Error::input(format!("a depth of {depth}")))
    }
}

fn infer_one_hot(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let (indices, depth) = (inputs.need(0)?, inputs.need(1)?);
    let shape = match (indices.shape(), &depth.value) {
        (Some(indices), Some(depth)) => Some(one_hot_shape(node, indices, depth_of(depth)?)?.1),
        _ => None,
    };
    Ok(vec![Fact { dtype: inputs.need(2)?.dtype, shape, ..Fact::default() }])
}

/// `OneHot`: along a new axis the second of the values at each index, the first elsewhere. Negative
/// indices count from the end; those out of range switch nothing on.
fn eval_one_hot(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let (indices, values) = (inputs.need(0)?, inputs.need(2)?);
    let depth = depth_of(inputs.need(1)?)?;
    let (axis, shape) = one_hot_shape(node, indices.shape(), depth)?;
    let inner: usize = indices.shape()[axis..].iter().product();
    let list = convert(indices, DType::I64)?;
    with_cell!(values.dtype(), C => {
        let [off, on] = &*C::open(values)? else {
            return Err(Error::input(format!("expected two values, found shape {:?}", values.shape())));
        };
        let mut cells = filled(len_of(&shape)?, off.clone())?;
        for (n, &index) in list.values::<i64>()?.iter().enumerate() {
            if let Ok(at) = super::gather::position(index, depth) {
                cells[(n / inner * depth + at) * inner + n % inner] = on.clone();
            }
        }
        Ok(vec![C::close(values.dtype(), shape, cells)?])
    })
}

fn infer_window(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let dtype = type_or(node, "output_datatype", Some(DType::F32))?;
    let size = inputs.need(0)?.value.as_ref().map(|size| shape_from(&[single_int(size)?])).transpose()?;
    Ok(vec![Fact { dtype, shape: size, ..Fact::default() }])
}

/// A window of cosines, Σ aₖ·cos(2πkn/N) for n below `size`; N is the size where it is periodic and
/// one less where it is symmetric.
fn window(node: &Node, inputs: Inputs<'_>, a: [f64; 3]) -> Result<Vec<Tensor>> {
    let shape = shape_from(&[single_int(inputs.need(0)?)?])?;
    let size = len_of(&shape)?;
    let period = if node.int_or("periodic", 1)? != 0 { size } else { size.saturating_sub(1) };
    // A symmetric window of one element has no period: it is its middle.
    let angle =
        |n| if period == 0 { std::f64::consts::PI } else { std::f64::consts::TAU * n as f64 / period as f64 };
    let mut values = room(size)?;
    values.extend((0..size).map(|n| a[0] + a[1] * angle(n).cos() + a[2] * (2.0 * angle(n)).cos()));
    let dtype = type_or(node, "output_datatype", Some(DType::F32))?.unwrap_or(DType::F32);
    Ok(vec![convert(&Tensor::vector(values), dtype)?])
}

fn eval_hann(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    window(node, inputs, [0.5, -0.5, 0.0])
}

fn eval_hamming(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    window(node, inputs, [25.0 / 46.0, -21.0 / 46.0, 0.0])
}

fn eval_blackman(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    window(node, inputs, [0.42, -0.5, 0.08])
}

/// All elements are the same.
fn axes_constant_of_shape(_: &Node, axes: &mut Statement<'_>) -> Result<()> {
    axes.fix_all(&axes.input(0));
    for (place, axis) in axes.output(0).into_iter().enumerate() {
        axes.write(Slot::Input(0, place), axis);
    }
    Ok(())
}

/// The diagonal of the last two axes counts.
fn axes_trilu(_: &Node, axes: &mut Statement<'_>) -> Result<()> {
    axes.unchanged();
    let x = axes.need(0, 2)?;
    axes.fix_all(&x[x.len() - 2..]);
    Ok(())
}

fn axes_one_hot(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    let (indices, mut y) = (axes.input(0), axes.need_output(0, 1)?);
    let classes = y.remove(axis_index(node.int_or("axis", -1)?, y.len())?);
    axes.fix(classes);
    axes.fix_all(&axes.input(2));
    axes.same_all(&indices, &y);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{close, eval, node, with_attr};
    use super::*;

    #[test]
    fn ranges() {
        let ints = |start: i64, limit: i64, step: i64| {
            let inputs = [start, limit, step].map(Tensor::scalar);
            eval(&node("Range", 11), &[&inputs[0], &inputs[1], &inputs[2]])
                .map(|out| out[0].to_i64s().unwrap())
        };
        assert_eq!(ints(2, 9, 3).unwrap(), [2, 5, 8]);
        assert_eq!(ints(5, -1, -2).unwrap(), [5, 3, 1]);
        assert!(ints(5, 5, 1).unwrap().is_empty() && ints(0, 5, -1).unwrap().is_empty());
        assert!(ints(0, 1, 0).is_err() && ints(i64::MIN, i64::MAX, 1).is_err());
        let floats = [0f32, 0.5, 0.1].map(Tensor::scalar);
        let out = eval(&node("Range", 11), &[&floats[0], &floats[1], &floats[2]]).unwrap();
        close(&out[0], &[0.0, 0.1, 0.2, 0.3, 0.4], 1e-6);
    }

    #[test]
    fn triangles() {
        let data = Tensor::new([2, 3], (1..7i64).collect()).unwrap();
        let keep = |upper, k: i64| {
            let node = with_attr(node("Trilu", 14), "upper", Attr::Int(upper));
            eval(&node, &[&data, &Tensor::scalar(k)]).unwrap()[0].to_i64s().unwrap()
        };
        assert_eq!(keep(1, 0), [1, 2, 3, 0, 5, 6]);
        assert_eq!(keep(1, 2), [0, 0, 3, 0, 0, 0]);
        assert_eq!(keep(0, 0), [1, 0, 0, 4, 5, 0]);
        assert_eq!(keep(0, -1), [0, 0, 0, 4, 0, 0]);
        assert_eq!(keep(1, i64::MIN), keep(0, i64::MAX));
    }

    #[test]
    fn one_of_many() {
        let values = Tensor::vector(vec![1f32, 5.0]);
        let (indices, depth) = (Tensor::vector(vec![0i32, -1, 7]), Tensor::scalar(3f32));
        let out = eval(&node("OneHot", 11), &[&indices, &depth, &values]).unwrap();
        let rows = [5.0, 1.0, 1.0, 1.0, 1.0, 5.0, 1.0, 1.0, 1.0];
        assert_eq!((out[0].shape(), out[0].values::<f32>().unwrap()), (&[3, 3][..], &rows[..]));
        let first = with_attr(node("OneHot", 11), "axis", Attr::Int(0));
        let out = eval(&first, &[&indices, &depth, &values]).unwrap();
        assert_eq!(out[0].values::<f32>().unwrap()[..3], [5.0, 1.0, 1.0]);
        assert!(eval(&first, &[&indices, &Tensor::scalar(-1i64), &values]).is_err());
    }

    #[test]
    fn constants_and_diagonals() {
        let two = with_attr(node("ConstantOfShape", 9), "value", Attr::Tensor(Tensor::vector(vec![true])));
        let out = eval(&two, &[&Tensor::vector(vec![2i64])]).unwrap();
        assert_eq!(out[0], Tensor::vector(vec![true, true]));
        let out = eval(&node("ConstantOfShape", 9), &[&Tensor::vector(Vec::<i64>::new())]).unwrap();
        assert_eq!(out[0], Tensor::scalar(0f32));
        assert!(eval(&two, &[&Tensor::vector(vec![-1i64])]).is_err());
        assert!(eval(&two, &[&Tensor::vector(vec![1i64 << 61])]).is_err());
        let eye = with_attr(node("EyeLike", 9), "k", Attr::Int(-1));
        let out = eval(&eye, &[&Tensor::new([2, 3], vec![7u8; 6]).unwrap()]).unwrap();
        assert_eq!(out[0].values::<u8>().unwrap(), [0, 0, 0, 1, 0, 0]);
    }

    #[test]
    fn windows() {
        // scipy.signal.windows, sym=False and sym=True.
        let window = |op: &str, periodic| {
            let node = with_attr(node(op, 17), "periodic", Attr::Int(periodic));
            eval(&node, &[&Tensor::scalar(4i64)]).unwrap().remove(0)
        };
        close(&window("HannWindow", 1), &[0.0, 0.5, 1.0, 0.5], 1e-6);
        close(&window("HannWindow", 0), &[0.0, 0.75, 0.75, 0.0], 1e-6);
        close(&window("BlackmanWindow", 0), &[0.0, 0.63, 0.63, 0.0], 1e-6);
        let one = with_attr(node("HannWindow", 17), "periodic", Attr::Int(0));
        close(&eval(&one, &[&Tensor::scalar(1i64)]).unwrap()[0], &[1.0], 1e-6);
    }
}
