//! Reductions over any axes.

use secateur_kernels::{BinaryOp, ReduceOp, binary, permute, reduce};
use secateur_model::ops::axis_index;
use secateur_model::{DType, Result, Tensor};

use super::{Build, BuildFn, Kernel, f32s, from_fn};
use crate::kernels::{Backward, Differentiated, GradientFn, Reads, Training};

pub(super) const KERNELS: &[(&str, BuildFn)] = &[
    ("ReduceSum", build),
    ("ReduceMean", build),
    ("ReduceMax", build),
    ("ReduceMin", build),
    ("ReduceProd", build),
    ("ReduceL1", build),
    ("ReduceL2", build),
    ("ReduceSumSquare", build),
    ("ReduceLogSum", build),
    ("ReduceLogSumExp", build),
];

fn op(name: &str) -> Option<ReduceOp> {
    Some(match name {
        "ReduceSum" => ReduceOp::Sum,
        "ReduceMean" => ReduceOp::Mean,
        "ReduceMax" => ReduceOp::Max,
        "ReduceMin" => ReduceOp::Min,
        "ReduceProd" => ReduceOp::Prod,
        "ReduceL1" => ReduceOp::L1,
        "ReduceL2" => ReduceOp::L2,
        "ReduceSumSquare" => ReduceOp::SumSquare,
        "ReduceLogSum" => ReduceOp::LogSum,
        "ReduceLogSumExp" => ReduceOp::LogSumExp,
        _ => return None,
    })
}

/// Which axes a node reduces; `None` where they are computed by the graph.
fn reduced(build: &Build<'_>, rank: usize) -> Result<Option<Vec<bool>>> {
    let node = build.node;
    let axes = match (node.ints("axes")?, build.inputs.get(1)) {
        (Some(axes), _) => axes.to_vec(),
        (None, Some(fact)) => match &fact.value {
            Some(value) => value.to_i64s()?,
            None => return Ok(None),
        },
        (None, None) => Vec::new(),
    };
    // Without axes all are reduced, or none where the node says so.
    if axes.is_empty() {
        return Ok(Some(vec![node.int_or("noop_with_empty_axes", 0)? == 0; rank]));
    }
    let mut flags = vec![false; rank];
    for axis in axes {
        flags[axis_index(axis, rank)?] = true;
    }
    Ok(Some(flags))
}

fn build(build: &Build<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let Some(op) = op(&build.node.op_type).filter(|_| build.inputs.dtype(0) == Some(DType::F32)) else {
        return Ok(None);
    };
    let shape = build.shape(0)?;
    let Some(reduced) = reduced(build, shape.len())? else { return Ok(None) };
    let out_shape = build.out_shape(0)?.to_vec();
    // Neighbours that are both reduced or both kept are one axis.
    let mut merged: Vec<(usize, bool)> = Vec::new();
    for (&extent, &reduced) in shape.iter().zip(&reduced).filter(|(d, _)| **d != 1) {
        match merged.last_mut() {
            Some((size, same)) if *same == reduced => *size *= extent,
            _ => merged.push((extent, reduced)),
        }
    }
    let product = |list: &[(usize, bool)]| list.iter().map(|(d, _)| d).product::<usize>();
    let count = merged.iter().filter(|(_, reduced)| *reduced).count();
    if count <= 1 {
        let at = merged.iter().position(|(_, reduced)| *reduced);
        let (outer, axis, inner) = match at {
            Some(at) => (product(&merged[..at]), merged[at].0, product(&merged[at + 1..])),
            None => (product(&merged), 1, 1),
        };
        return from_fn(move |inputs, pool| {
            let mut out = pool.take(outer * inner)?;
            reduce(op, f32s(inputs, 0)?, outer, axis, inner, &mut out);
            Ok(vec![Tensor::new(out_shape.clone(), out)?])
        });
    }
    // Reduced axes apart from each other are brought together at the end.
    let (kept, gone): (Vec<usize>, Vec<usize>) = (0..merged.len()).partition(|&i| !merged[i].1);
    let perm = [kept.clone(), gone].concat();
    let sizes: Vec<usize> = merged.iter().map(|(d, _)| *d).collect();
    let outer: usize = kept.iter().map(|&i| sizes[i]).product();
    let axis: usize = merged.iter().filter(|(_, r)| *r).map(|(d, _)| d).product();
    from_fn(move |inputs, pool| {
        let mut together = pool.take(outer * axis)?;
        permute(f32s(inputs, 0)?, &sizes, &perm, &mut together);
        let mut out = pool.take(outer)?;
        reduce(op, &together, outer, axis, 1, &mut out);
        pool.give(together);
        Ok(vec![Tensor::new(out_shape.clone(), out)?])
    })
}

pub(super) const GRADIENTS: &[(&str, GradientFn)] = &[
    ("ReduceSum", gradient),
    ("ReduceMean", gradient),
    ("ReduceMax", gradient),
    ("ReduceMin", gradient),
    ("ReduceProd", gradient),
    ("ReduceL1", gradient),
    ("ReduceL2", gradient),
    ("ReduceSumSquare", gradient),
    ("ReduceLogSum", gradient),
    ("ReduceLogSumExp", gradient),
    ("GlobalAveragePool", gradient),
    ("GlobalMaxPool", gradient),
];

/// ∂y/∂x of one element x of those that y was computed of; `equal` of them are equal to y.
fn slope(op: ReduceOp, x: f32, y: f32, count: f32, equal: f32) -> f32 {
    match op {
        ReduceOp::Sum => 1.0,
        ReduceOp::Mean => 1.0 / count,
        // Elements that are equal share it, as in PyTorch's `amax`.
        ReduceOp::Max | ReduceOp::Min => f32::from(u8::from(x == y)) / equal,
        ReduceOp::Prod => y / x,
        ReduceOp::L1 if x == 0.0 => 0.0,
        ReduceOp::L1 => x.signum(),
        ReduceOp::L2 if y == 0.0 => 0.0,
        ReduceOp::L2 => x / y,
        ReduceOp::SumSquare => 2.0 * x,
        ReduceOp::LogSum => (-y).exp(),
        ReduceOp::LogSumExp => (x - y).exp(),
    }
}

fn gradient(build: &Build<'_>, _: &Training<'_>) -> Result<Option<Differentiated>> {
    let global = match build.node.op_type.as_str() {
        "GlobalAveragePool" => Some(ReduceOp::Mean),
        "GlobalMaxPool" => Some(ReduceOp::Max),
        _ => None,
    };
    let Some(op) = global.or_else(|| op(&build.node.op_type)) else { return Ok(None) };
    let shape = build.shape(0)?.to_vec();
    let over = match global {
        Some(_) => (0..shape.len()).map(|axis| axis >= 2).collect(),
        None => match reduced(build, shape.len())? {
            Some(over) => over,
            None => return Ok(None),
        },
    };
    if build.inputs.dtype(0) != Some(DType::F32) {
        return Ok(None);
    }
    let kept: Vec<usize> =
        shape.iter().zip(&over).map(|(&extent, &over)| if over { 1 } else { extent }).collect();
    let count = shape.iter().zip(&over).filter(|(_, over)| **over).map(|(&d, _)| d).product::<usize>() as f32;
    let linear = matches!(op, ReduceOp::Sum | ReduceOp::Mean);
    let reads = if linear { Reads::nothing() } else { Reads { inputs: vec![0], outputs: vec![0] } };
    Ok(Some(Differentiated::of(reads, move |at: &mut Backward<'_>| {
        let spread = |values: &[f32], out: &mut [f32]| {
            binary(BinaryOp::Add, values, &kept, &[0.0], &[], out, &shape);
        };
        let mut out = at.pool.take(shape.iter().product())?;
        if linear {
            let factor = [slope(op, 0.0, 0.0, count, 1.0)];
            binary(BinaryOp::Mul, at.gradient()?, &kept, &factor, &[], &mut out, &shape);
            return Ok(vec![Some(Tensor::new(shape.clone(), out)?)]);
        }
        spread(at.gradient()?, &mut out);
        let mut results = at.pool.take(out.len())?;
        spread(at.output(0)?, &mut results);
        let mut equal = at.pool.take(out.len())?;
        equal.fill(1.0);
        if matches!(op, ReduceOp::Max | ReduceOp::Min) {
            let same = at.input(0)?.iter().zip(&results).map(|(x, y)| f32::from(u8::from(x == y)));
            equal.iter_mut().zip(same).for_each(|(equal, same)| *equal = same);
            let ones = Tensor::new(shape.clone(), std::mem::take(&mut equal))?;
            let sums = super::summed::summed_to(ones, &kept, at.pool)?;
            equal = at.pool.take(out.len())?;
            spread(sums.values()?, &mut equal);
        }
        for (((d, &x), &y), &equal) in out.iter_mut().zip(at.input(0)?).zip(&results).zip(&equal) {
            *d *= slope(op, x, y, count, equal);
        }
        at.pool.give(results);
        at.pool.give(equal);
        Ok(vec![Some(Tensor::new(shape.clone(), out)?)])
    })))
}
