//! Reductions over any axes.

use secateur_kernels::{ReduceOp, permute, reduce};
use secateur_model::ops::axis_index;
use secateur_model::{DType, Result, Tensor};

use super::{Build, BuildFn, Kernel, f32s, from_fn};

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
