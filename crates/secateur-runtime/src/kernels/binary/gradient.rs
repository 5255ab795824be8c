//! Gradients of functions of two values, summed over the axes that an operand was broadcast along.

use secateur_kernels::{BinaryOp, binary};
use secateur_model::ops::broadcast;
use secateur_model::{DType, Result, Tensor};

use super::op;
use crate::kernels::Build;
use crate::kernels::elementwise::unary_differentiated;
use crate::kernels::summed::summed_to;
use crate::kernels::{Backward, Differentiated, GradientFn, Reads, Training};

pub(in crate::kernels) const GRADIENTS: &[(&str, GradientFn)] = &[
    ("Add", gradient),
    ("Sub", gradient),
    ("Mul", gradient),
    ("Div", gradient),
    ("Pow", gradient),
    ("Min", gradient),
    ("Max", gradient),
    ("PRelu", gradient),
    ("Sum", sum),
    ("Mean", sum),
];

fn gradient(build: &Build<'_>, training: &Training<'_>) -> Result<Option<Differentiated>> {
    if matches!(build.node.op_type.as_str(), "Min" | "Max") && build.inputs.len() != 2 {
        return extreme(build);
    }
    let both = (0..2).all(|i| build.inputs.dtype(i) == Some(DType::F32));
    if !both || build.inputs.len() != 2 || build.node.opset < 7 {
        return Ok(None);
    }
    let Some(op) = op(build.node)? else { return Ok(None) };
    let shapes = [build.shape(0)?.to_vec(), build.shape(1)?.to_vec()];
    let full = broadcast(&[&shapes[0], &shapes[1]])?;
    if let (BinaryOp::Pow, Some(&[exponent])) =
        (op, build.inputs.value(1).map(Tensor::values::<f32>).transpose()?)
        && let Some(unary) = super::power(exponent)
        && full == shapes[0]
    {
        return Ok(Some(unary_differentiated(unary)));
    }
    let reads = match op {
        BinaryOp::Add | BinaryOp::Sub => Reads::nothing(),
        BinaryOp::Mul => Reads::inputs((0..2).filter(|&i| training.wants(1 - i)).collect::<Vec<_>>()),
        // ∂b reads a, or the quotient; both read b.
        BinaryOp::Div if !training.wants(1) => Reads::inputs([1]),
        _ => Reads::inputs([0, 1]),
    };
    Ok(Some(Differentiated::of(reads, move |at: &mut Backward<'_>| {
        let dy = at.take_gradient()?;
        let mut found = vec![None, None];
        for side in 0..2 {
            if !at.wants(side) {
                continue;
            }
            let partial = partial(op, side, &dy, at, &shapes, &full)?;
            found[side] = Some(summed_to(partial, &shapes[side], at.pool)?);
        }
        at.pool.reclaim(dy);
        Ok(found)
    })))
}

/// ∂L/∂y · ∂y/∂(operand `side`), of the result's shape.
fn partial(
    op: BinaryOp,
    side: usize,
    dy: &Tensor,
    at: &mut Backward<'_>,
    shapes: &[Vec<usize>; 2],
    full: &[usize],
) -> Result<Tensor> {
    let with = |op: BinaryOp, left: &[f32], right: usize, at: &Backward<'_>, out: &mut [f32]| -> Result<()> {
        binary(op, left, full, at.input(right)?, &shapes[right], out, full);
        Ok(())
    };
    match (op, side) {
        (BinaryOp::Add, _) | (BinaryOp::Sub, 0) => Ok(dy.clone()),
        (BinaryOp::Sub, _) => {
            let mut out = at.pool.take(dy.len())?;
            out.iter_mut().zip(dy.values::<f32>()?).for_each(|(out, dy)| *out = -dy);
            Tensor::new(full, out)
        }
        (BinaryOp::Mul, side) => {
            let mut out = at.pool.take(dy.len())?;
            with(BinaryOp::Mul, dy.values()?, 1 - side, at, &mut out)?;
            Tensor::new(full, out)
        }
        (BinaryOp::Div, 0) => {
            let mut out = at.pool.take(dy.len())?;
            with(BinaryOp::Div, dy.values()?, 1, at, &mut out)?;
            Tensor::new(full, out)
        }
        (BinaryOp::Div, _) => {
            // −∂y · a / b².
            let (mut out, mut next) = (at.pool.take(dy.len())?, at.pool.take(dy.len())?);
            with(BinaryOp::Mul, dy.values()?, 0, at, &mut out)?;
            with(BinaryOp::Div, &out, 1, at, &mut next)?;
            with(BinaryOp::Div, &next, 1, at, &mut out)?;
            out.iter_mut().for_each(|v| *v = -*v);
            at.pool.give(next);
            Tensor::new(full, out)
        }
        _ => {
            let slope = slope(op, side);
            let (a, b) = (expanded(at, 0, shapes, full)?, expanded(at, 1, shapes, full)?);
            let mut out = at.pool.take(dy.len())?;
            let operands = a.iter().zip(&b).zip(dy.values::<f32>()?);
            for (out, ((&a, &b), dy)) in out.iter_mut().zip(operands) {
                *out = dy * slope(a, b);
            }
            at.pool.give(a);
            at.pool.give(b);
            Tensor::new(full, out)
        }
    }
}

/// ∂y/∂(operand `side`) where it takes both operands. Equal operands of a maximum share its gradient, as in PyTorch.
fn slope(op: BinaryOp, side: usize) -> fn(f32, f32) -> f32 {
    match (op, side) {
        (BinaryOp::Max, 0) | (BinaryOp::Min, 1) => |a, b| share(a > b, a == b),
        (BinaryOp::Max, _) | (BinaryOp::Min, _) => |a, b| share(a < b, a == b),
        (BinaryOp::Pow, 0) => |a, b| if b == 0.0 { 0.0 } else { b * a.powf(b - 1.0) },
        // 0^b is constant in b > 0.
        (BinaryOp::Pow, _) => |a, b| if a == 0.0 && b >= 0.0 { 0.0 } else { a.powf(b) * a.ln() },
        (BinaryOp::Prelu, 0) => |a, b| if a > 0.0 { 1.0 } else { b },
        (BinaryOp::Prelu, _) => |a, _| a.min(0.0),
        _ => |_, _| 0.0,
    }
}

fn share(wins: bool, equal: bool) -> f32 {
    match (wins, equal) {
        (_, true) => 0.5,
        (true, _) => 1.0,
        _ => 0.0,
    }
}

/// An operand in the result's shape.
fn expanded(
    at: &mut Backward<'_>,
    side: usize,
    shapes: &[Vec<usize>; 2],
    full: &[usize],
) -> Result<Vec<f32>> {
    let mut out = at.pool.take(full.iter().product())?;
    binary(BinaryOp::Add, at.input(side)?, &shapes[side], &[0.0], &[], &mut out, full);
    Ok(out)
}

/// The least or greatest of any number of operands: those that are equal to it share its gradient.
fn extreme(build: &Build<'_>) -> Result<Option<Differentiated>> {
    let count = build.inputs.len();
    if (0..count).any(|i| build.inputs.dtype(i) != Some(DType::F32)) {
        return Ok(None);
    }
    let shapes = (0..count).map(|i| Ok(build.shape(i)?.to_vec())).collect::<Result<Vec<_>>>()?;
    let full = build.out_shape(0)?.to_vec();
    let reads = Reads { inputs: (0..count).collect(), outputs: vec![0] };
    Ok(Some(Differentiated::of(reads, move |at: &mut Backward<'_>| {
        let (y, mut d) = (at.output(0)?, at.own_gradient()?);
        let mut equal = at.pool.take(d.len())?;
        equal.fill(0.0);
        let mut wide = Vec::with_capacity(count);
        for (i, shape) in shapes.iter().enumerate() {
            let mut own = at.pool.take(d.len())?;
            binary(BinaryOp::Add, at.input(i)?, shape, &[0.0], &[], &mut own, &full);
            for ((own, equal), y) in own.iter_mut().zip(&mut equal).zip(y) {
                *own = f32::from(u8::from(*own == *y));
                *equal += *own;
            }
            wide.push(own);
        }
        d.iter_mut().zip(&equal).for_each(|(d, equal)| *d /= equal.max(1.0));
        at.pool.give(equal);
        let mut found = vec![None; count];
        for (i, mut own) in wide.into_iter().enumerate() {
            if at.wants(i) {
                own.iter_mut().zip(&d).for_each(|(own, d)| *own *= d);
                found[i] = Some(summed_to(Tensor::new(full.clone(), own)?, &shapes[i], at.pool)?);
            } else {
                at.pool.give(own);
            }
        }
        at.pool.give(d);
        Ok(found)
    })))
}

/// Y = Σ X_i, or the mean.
fn sum(build: &Build<'_>, _: &Training<'_>) -> Result<Option<Differentiated>> {
    let count = build.inputs.len();
    if (0..count).any(|i| build.inputs.dtype(i) != Some(DType::F32)) {
        return Ok(None);
    }
    let shapes = (0..count).map(|i| Ok(build.shape(i)?.to_vec())).collect::<Result<Vec<_>>>()?;
    let mean = build.node.op_type == "Mean";
    Ok(Some(Differentiated::of(Reads::nothing(), move |at: &mut Backward<'_>| {
        let dy = if mean {
            let (shape, mut dy) = (at.shape.to_vec(), at.own_gradient()?);
            dy.iter_mut().for_each(|d| *d /= count as f32);
            Tensor::new(shape, dy)?
        } else {
            at.take_gradient()?
        };
        let pool = &mut *at.pool;
        let mut of = |shape: &Vec<usize>| summed_to(dy.clone(), shape, pool);
        shapes.iter().zip(at.wanted).map(|(shape, wants)| wants.then(|| of(shape)).transpose()).collect()
    })))
}
