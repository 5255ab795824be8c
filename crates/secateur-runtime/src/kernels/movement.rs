//! Gradients of operators that move elements: each element of a result is one of an operand, or a constant.
//!
//! Where a result comes from is found by evaluating the operator on the places of elements instead of the elements. The
//! backward pass adds each gradient at the place its element came from.

use secateur_model::ops::{self, Fact, Inputs, axis_index};
use secateur_model::{DType, Error, Result, Tensor};

use super::{Build, f32s, from_fn};
use crate::kernels::{Backward, Differentiated, GradientFn, Random, Reads, Training};

pub(super) const GRADIENTS: &[(&str, GradientFn)] = &[
    ("Cast", view),
    ("Concat", moved),
    ("DepthToSpace", moved),
    ("Dropout", dropout),
    ("Expand", moved),
    ("Flatten", view),
    ("Gather", gather),
    ("GatherElements", moved),
    ("GatherND", moved),
    ("Identity", view),
    ("Pad", moved),
    ("Reshape", view),
    ("ReverseSequence", moved),
    ("Slice", moved),
    ("SpaceToDepth", moved),
    ("Split", moved),
    ("Squeeze", view),
    ("Tile", moved),
    ("Unsqueeze", view),
];

/// The same elements in the same order.
fn view(build: &Build<'_>, _: &Training<'_>) -> Result<Option<Differentiated>> {
    let dtypes = [build.inputs.dtype(0), build.outputs.first().and_then(|fact| fact.dtype)];
    if dtypes != [Some(DType::F32); 2] {
        return Ok(None);
    }
    let shape = build.shape(0)?.to_vec();
    Ok(Some(Differentiated::of(Reads::nothing(), move |at: &mut Backward<'_>| at.reshaped_gradient(&shape))))
}

/// Elements that follow one another in a result and in an operand.
struct Run {
    /// Where they begin in the operand.
    source: usize,
    /// Where they begin in the result.
    target: usize,
    len: usize,
}

/// How many inputs of a node are data, from the first on: the others say how they move.
fn data_inputs(build: &Build<'_>) -> usize {
    if build.node.op_type == "Concat" { build.inputs.len() } else { 1 }
}

fn moved(build: &Build<'_>, _: &Training<'_>) -> Result<Option<Differentiated>> {
    let data = data_inputs(build);
    let controls_known = (data..build.inputs.len()).all(|i| {
        let fact = build.inputs.get(i);
        fact.is_none_or(Fact::is_constant)
    });
    let float = (0..data).all(|i| build.inputs.dtype(i) == Some(DType::F32));
    let Some(eval) = ops::find(build.node).and_then(|op| op.eval).filter(|_| controls_known && float) else {
        return Ok(None);
    };
    // The operator on places: from 1 on, so that what is filled in is 0.
    let shapes = (0..data).map(|i| Ok(build.shape(i)?.to_vec())).collect::<Result<Vec<_>>>()?;
    let mut next = 1i64;
    let mut operands: Vec<Option<Tensor>> = Vec::with_capacity(build.inputs.len());
    for shape in &shapes {
        let len: usize = shape.iter().product();
        operands.push(Some(Tensor::new(shape.clone(), (next..next + len as i64).collect())?));
        next += len as i64;
    }
    for i in data..build.inputs.len() {
        let control = build.inputs.get(i).map(|fact| build.weights.elements(fact)).transpose()?;
        // The value that is filled in has the type of the data.
        operands.push(control.filter(|control| control.dtype() != DType::F32));
    }
    let references: Vec<Option<&Tensor>> = operands.iter().map(Option::as_ref).collect();
    let places = eval(build.node, Inputs(&references))?;
    let lens: Vec<usize> = shapes.iter().map(|shape| shape.iter().product()).collect();
    let runs = places.iter().map(|places| Ok(runs(&places.to_i64s()?, &lens))).collect::<Result<Vec<_>>>()?;
    Ok(Some(Differentiated::of(Reads::nothing(), move |at: &mut Backward<'_>| {
        let mut found = Vec::with_capacity(shapes.len());
        for (input, shape) in shapes.iter().enumerate() {
            if !at.wants(input) {
                found.push(None);
                continue;
            }
            let mut sums = at.pool.take(shape.iter().product())?;
            sums.fill(0.0);
            for (gradient, runs) in at.gradients.iter().zip(&runs) {
                let Some(gradient) = gradient else { continue };
                let gradient = gradient.values::<f32>()?;
                for Run { source, target, len } in &runs[input] {
                    let from = &gradient[*target..*target + len];
                    sums[*source..*source + len].iter_mut().zip(from).for_each(|(sum, v)| *sum += v);
                }
            }
            found.push(Some(Tensor::new(shape.clone(), sums)?));
        }
        Ok(found)
    })))
}

/// For each input the runs that a result takes from it.
fn runs(places: &[i64], lens: &[usize]) -> Vec<Vec<Run>> {
    let mut found: Vec<Vec<Run>> = lens.iter().map(|_| Vec::new()).collect();
    for (target, &place) in places.iter().enumerate() {
        let Ok(mut source) = usize::try_from(place - 1) else { continue };
        let Some(input) = lens.iter().position(|&len| {
            let inside = source < len;
            if !inside {
                source -= len;
            }
            inside
        }) else {
            continue;
        };
        match found[input].last_mut() {
            Some(run) if run.source + run.len == source && run.target + run.len == target => run.len += 1,
            _ => found[input].push(Run { source, target, len: 1 }),
        }
    }
    found
}

/// Slices of an operand by indices, which may be computed.
fn gather(build: &Build<'_>, _: &Training<'_>) -> Result<Option<Differentiated>> {
    if build.inputs.dtype(0) != Some(DType::F32) {
        return Ok(None);
    }
    let shape = build.shape(0)?.to_vec();
    let axis = axis_index(build.node.int_or("axis", 0)?, shape.len())?;
    let size = |axes: &[usize]| axes.iter().product::<usize>();
    let (outer, extent, inner) = (size(&shape[..axis]), shape[axis], size(&shape[axis + 1..]));
    Ok(Some(Differentiated::of(Reads::inputs([1]), move |at: &mut Backward<'_>| {
        let indices = at.inputs[1].as_ref().map_or(Ok(Vec::new()), Tensor::to_i64s)?;
        let mut sums = at.pool.take(outer * extent * inner)?;
        sums.fill(0.0);
        let slices = at.gradient()?.chunks_exact(inner.max(1));
        let targets = (0..outer).flat_map(|o| indices.iter().map(move |&index| (o, index)));
        for ((o, index), slice) in targets.zip(slices) {
            let index = if index < 0 { index + extent as i64 } else { index };
            let index = usize::try_from(index).ok().filter(|&index| index < extent);
            let index = index.ok_or_else(|| Error::input(format!("an index is not within {extent}")))?;
            let sum = &mut sums[(o * extent + index) * inner..][..inner];
            sum.iter_mut().zip(slice).for_each(|(sum, v)| *sum += v);
        }
        Ok(vec![Some(Tensor::new(shape.clone(), sums)?)])
    })))
}

/// y = x / (1 − p) with probability 1 − p, else 0; other elements at each step.
fn dropout(build: &Build<'_>, training: &Training<'_>) -> Result<Option<Differentiated>> {
    if build.inputs.dtype(0) != Some(DType::F32) || build.node.outputs.len() > 1 {
        return Ok(None);
    }
    let ratio = match build.inputs.get(1) {
        Some(fact) if build.node.opset >= 12 => build.weights.elements(fact)?.to_f32s()?.first().copied(),
        _ => None,
    };
    let ratio = ratio.map_or_else(|| build.node.float_or("ratio", 0.5), Ok)?;
    if !(0.0..1.0).contains(&ratio) {
        return Err(Error::input(format!("a share of {ratio} is dropped, expected one in [0, 1)")));
    }
    let (shape, random) = (build.shape(0)?.to_vec(), training.random.clone());
    let factor = 1.0 / (1.0 - ratio);
    let keep = move |seed: u64, i: usize| if Random::uniform(seed, i) < ratio { 0.0 } else { factor };
    let of_forward = random.clone();
    let forward = from_fn(move |inputs, pool| {
        let (x, seed) = (f32s(inputs, 0)?, of_forward.of_step());
        let mut out = pool.take(x.len())?;
        out.iter_mut().zip(x).enumerate().for_each(|(i, (out, x))| *out = x * keep(seed, i));
        Ok(vec![Tensor::new(shape.clone(), out)?])
    })?;
    let backward = Differentiated::of(Reads::nothing(), move |at: &mut Backward<'_>| {
        let (shape, seed) = (at.shape.to_vec(), random.of_step());
        let mut gradient = at.own_gradient()?;
        gradient.iter_mut().enumerate().for_each(|(i, d)| *d *= keep(seed, i));
        Ok(vec![Some(Tensor::new(shape, gradient)?)])
    });
    Ok(Some(backward.forward(0, forward)))
}
