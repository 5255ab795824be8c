//! Gradients of operators that move elements: each element of a result is one of an operand, or a constant.
//!
//! Where a result comes from is found by evaluating the operator on the places of elements instead of the elements. The
//! backward pass adds each gradient at the place its element came from.

use secateur_kernels::gradient::resample_gradient;
use secateur_kernels::{BinaryOp, binary};
use secateur_model::ops::{self, EvalFn, Fact, Inputs, axis_index, broadcast};
use secateur_model::{Attr, DType, Error, Node, Result, Tensor};

use super::summed::summed_to;
use super::{Build, f32s, from_fn, operand};
use crate::kernels::{Backward, Differentiated, GradientFn, Random, Reads, Training};

pub(super) const GRADIENTS: &[(&str, GradientFn)] = &[
    ("Cast", view),
    ("Compress", moved),
    ("Concat", moved),
    ("CumSum", cumulated),
    ("DepthToSpace", moved),
    ("Dropout", dropout),
    ("Expand", moved),
    ("Flatten", view),
    ("Gather", gather),
    ("GatherElements", moved),
    ("GatherND", moved),
    ("Identity", view),
    ("OneHot", moved),
    ("Pad", moved),
    ("Reshape", view),
    ("Resize", resized),
    ("RotaryEmbedding", rotated),
    ("ReverseSequence", moved),
    ("Scatter", moved),
    ("ScatterElements", scattered),
    ("ScatterND", scattered),
    ("Slice", moved),
    ("SpaceToDepth", moved),
    ("Split", moved),
    ("Squeeze", view),
    ("Tile", moved),
    ("TopK", chosen),
    ("Trilu", moved),
    ("Unsqueeze", view),
    ("Upsample", resized),
    ("Where", selected),
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

/// Elements that follow one another in a result, and are equally far apart in an operand.
struct Run {
    /// Where they begin in the operand.
    source: usize,
    /// From one to the next in the operand.
    step: usize,
    /// Where they begin in the result.
    target: usize,
    len: usize,
}

/// The inputs of a node whose elements are moved; the others say how they move.
fn data_inputs(build: &Build<'_>) -> Vec<usize> {
    match build.node.op_type.as_str() {
        "Concat" => (0..build.inputs.len()).collect(),
        "Scatter" | "ScatterElements" | "ScatterND" => vec![0, 2],
        "OneHot" => vec![2],
        _ => vec![0],
    }
}

/// A node that moves elements.
struct Mover {
    node: Node,
    eval: EvalFn,
    /// The inputs whose elements are moved, with their shapes.
    data: Vec<(usize, Vec<usize>)>,
    /// How many inputs the node has.
    inputs: usize,
    /// An input that holds what is filled in, in the type of the data.
    filling: Option<usize>,
}

/// By output and data operand: what the one takes from the other.
type Runs = Vec<Vec<Vec<Run>>>;

impl Mover {
    /// The runs that the operator takes for these other inputs: its results on the places of elements, from 1 on, so that
    /// what is filled in is 0.
    fn runs(&self, controls: &[Option<Tensor>]) -> Result<Runs> {
        let mut operands: Vec<Option<Tensor>> = controls.to_vec();
        operands.resize(self.inputs, None);
        if let Some(filling) = self.filling.and_then(|filling| operands.get_mut(filling)) {
            *filling = None;
        }
        let mut next = 1i64;
        let mut lens = Vec::with_capacity(self.data.len());
        for (input, shape) in &self.data {
            let len: usize = shape.iter().product();
            operands[*input] = Some(Tensor::new(shape.clone(), (next..next + len as i64).collect())?);
            next += len as i64;
            lens.push(len);
        }
        let references: Vec<Option<&Tensor>> = operands.iter().map(Option::as_ref).collect();
        let places = (self.eval)(&self.node, Inputs(&references))?;
        // Indices of a result, such as a sort's, are no places; none of these operators has them.
        places.iter().map(|places| Ok(runs(&places.to_i64s()?, &lens))).collect()
    }

    /// The gradients of the data, in the order of the inputs.
    fn gradients(&self, runs: &Runs, at: &mut Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let mut found = vec![None; self.inputs];
        for (operand, (input, shape)) in self.data.iter().enumerate() {
            if !at.wants(*input) {
                continue;
            }
            let mut sums = at.pool.take(shape.iter().product())?;
            sums.fill(0.0);
            for (gradient, runs) in at.gradients.iter().zip(runs) {
                let Some(gradient) = gradient else { continue };
                let gradient = gradient.values::<f32>()?;
                for Run { source, step, target, len } in &runs[operand] {
                    let from = &gradient[*target..*target + len];
                    match step {
                        1 => sums[*source..*source + len].iter_mut().zip(from).for_each(|(sum, v)| *sum += v),
                        _ => {
                            let sums = sums[*source..].iter_mut().step_by(*step);
                            sums.zip(from).for_each(|(sum, v)| *sum += v);
                        }
                    }
                }
            }
            found[*input] = Some(Tensor::new(shape.clone(), sums)?);
        }
        Ok(found)
    }
}

fn moved(build: &Build<'_>, _: &Training<'_>) -> Result<Option<Differentiated>> {
    let data = data_inputs(build);
    let float = data.iter().all(|&i| build.inputs.dtype(i) == Some(DType::F32));
    let plain = build.node.str_or("reduction", "none")? == "none";
    let Some(eval) = ops::find(build.node).and_then(|op| op.eval).filter(|_| float && plain) else {
        return Ok(None);
    };
    // Values that are filled in are no places.
    let mut node = build.node.clone();
    node.attrs.retain(|name, _| !matches!(name.as_str(), "value" | "extrapolation_value"));
    let data = data.into_iter().map(|i| Ok((i, build.shape(i)?.to_vec()))).collect::<Result<Vec<_>>>()?;
    let filling = (build.node.op_type == "Pad").then_some(2);
    let mover = Mover { node, eval, data, inputs: build.inputs.len(), filling };
    let is_control = |i: &usize| mover.data.iter().all(|(data, _)| data != i) && mover.filling != Some(*i);
    let controls: Vec<usize> =
        (0..mover.inputs).filter(is_control).filter(|i| build.inputs.get(*i).is_some()).collect();
    if !controls.iter().all(|&i| build.inputs.get(i).is_none_or(Fact::is_constant)) {
        // What is computed says how they move: known when it ran.
        return Ok(Some(Differentiated::of(Reads::inputs(controls), move |at: &mut Backward<'_>| {
            mover.gradients(&mover.runs(at.inputs)?, at)
        })));
    }
    let mut known = vec![None; mover.inputs];
    for i in controls {
        known[i] = build.inputs.get(i).map(|fact| build.weights.elements(fact)).transpose()?;
    }
    let runs = mover.runs(&known)?;
    Ok(Some(Differentiated::of(Reads::nothing(), move |at: &mut Backward<'_>| mover.gradients(&runs, at))))
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
        match found[input].last_mut().filter(|run| run.target + run.len == target) {
            Some(run) if run.len == 1 && source > run.source => {
                (run.step, run.len) = (source - run.source, 2);
            }
            Some(run) if run.source + run.len * run.step == source => run.len += 1,
            _ => found[input].push(Run { source, step: 1, target, len: 1 }),
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

/// Without a reduction updates replace elements; where they are added, both get the gradient at their place.
fn scattered(build: &Build<'_>, training: &Training<'_>) -> Result<Option<Differentiated>> {
    match build.node.str_or("reduction", "none")? {
        "none" => return moved(build, training),
        "add" if [0, 2].iter().all(|&i| build.inputs.dtype(i) == Some(DType::F32)) => {}
        _ => return Ok(None),
    }
    let mut gather = build.node.clone();
    gather.op_type = if gather.op_type == "ScatterND" { "GatherND" } else { "GatherElements" }.to_string();
    let Some(eval) = ops::find(&gather).and_then(|op| op.eval) else { return Ok(None) };
    Ok(Some(Differentiated::of(Reads::inputs([1]), move |at: &mut Backward<'_>| {
        let gradient = at.take_gradient()?;
        let mut found = vec![None; 3];
        if at.wants(2) {
            found[2] = eval(&gather, Inputs(&[Some(&gradient), Some(operand(at.inputs, 1)?)]))?.pop();
        }
        found[0] = Some(gradient);
        Ok(found)
    })))
}

/// The chosen elements get the gradients, by the indices that are the second output.
fn chosen(build: &Build<'_>, _: &Training<'_>) -> Result<Option<Differentiated>> {
    let shape = build.shape(0)?.to_vec();
    let named = build.node.outputs.get(1).is_some_and(Option::is_some);
    if build.inputs.dtype(0) != Some(DType::F32) || !named {
        return Ok(None);
    }
    let axis = axis_index(build.node.int_or("axis", -1)?, shape.len())?;
    let (extent, inner) = (shape[axis], shape[axis + 1..].iter().product::<usize>());
    Ok(Some(Differentiated::of(Reads::outputs([1]), move |at: &mut Backward<'_>| {
        let mut sums = at.pool.take(shape.iter().product())?;
        sums.fill(0.0);
        let (indices, each) = (operand(at.outputs, 1)?, (at.shape[axis] * inner).max(1));
        for (i, (&index, d)) in indices.values::<i64>()?.iter().zip(at.gradient()?).enumerate() {
            sums[(i / each * extent + index as usize) * inner + i % inner] += d;
        }
        Ok(vec![Some(Tensor::new(shape.clone(), sums)?)])
    })))
}

/// Sums in the opposite direction.
fn cumulated(build: &Build<'_>, _: &Training<'_>) -> Result<Option<Differentiated>> {
    let Some(eval) = ops::find(build.node).and_then(|op| op.eval) else { return Ok(None) };
    if build.inputs.dtype(0) != Some(DType::F32) {
        return Ok(None);
    }
    let mut node = build.node.clone();
    let reverse = node.int_or("reverse", 0)? == 0;
    node.attrs.insert("reverse".to_string(), Attr::Int(reverse.into()));
    Ok(Some(Differentiated::of(Reads::inputs([1]), move |at: &mut Backward<'_>| {
        let gradient = at.take_gradient()?;
        let found = eval(&node, Inputs(&[Some(&gradient), Some(operand(at.inputs, 1)?)]))?;
        at.pool.reclaim(gradient);
        Ok(found.into_iter().map(Some).collect())
    })))
}

/// Turned back by the same angles. The tables of angles are no variables.
fn rotated(build: &Build<'_>, training: &Training<'_>) -> Result<Option<Differentiated>> {
    let Some(eval) = ops::find(build.node).and_then(|op| op.eval) else { return Ok(None) };
    let float = (0..3).all(|i| build.inputs.dtype(i) == Some(DType::F32));
    if !float || training.wants(1) || training.wants(2) {
        return Ok(None);
    }
    let node = build.node.clone();
    let reads: Vec<usize> = (1..build.inputs.len()).filter(|&i| build.inputs.get(i).is_some()).collect();
    Ok(Some(Differentiated::of(Reads::inputs(reads), move |at: &mut Backward<'_>| {
        let gradient = at.take_gradient()?;
        let (cos, sin) = (operand(at.inputs, 1)?, operand(at.inputs, 2)?);
        let back = sin.values::<f32>()?.iter().map(|sin| -sin).collect();
        let back = Tensor::new(sin.shape(), back)?;
        let positions = at.inputs.get(3).and_then(Option::as_ref);
        let found = eval(&node, Inputs(&[Some(&gradient), Some(cos), Some(&back), positions]))?;
        at.pool.reclaim(gradient);
        Ok(found.into_iter().map(Some).collect())
    })))
}

/// The nearest elements are moved; interpolated ones are weighted sums along each axis.
fn resized(build: &Build<'_>, training: &Training<'_>) -> Result<Option<Differentiated>> {
    let controls_known = (1..build.inputs.len()).all(|i| build.inputs.get(i).is_none_or(Fact::is_constant));
    if build.inputs.dtype(0) != Some(DType::F32) || !controls_known {
        return Ok(None);
    }
    let controls = (0..build.inputs.len())
        .map(|i| match build.inputs.get(i) {
            Some(fact) if i > 0 => build.weights.elements(fact).map(Some),
            _ => Ok(None),
        })
        .collect::<Result<Vec<_>>>()?;
    let references: Vec<Option<&Tensor>> = controls.iter().map(Option::as_ref).collect();
    let shape = build.shape(0)?.to_vec();
    let Some(axes) = ops::resize::resampled(build.node, &shape, Inputs(&references))? else {
        return moved(build, training);
    };
    Ok(Some(Differentiated::of(Reads::nothing(), move |at: &mut Backward<'_>| {
        let (mut extents, mut d) = (at.shape.to_vec(), at.own_gradient()?);
        for axis in &axes {
            extents[axis.axis] = axis.from;
            let inner = extents[axis.axis + 1..].iter().product();
            let mut dx = at.pool.take(extents.iter().product())?;
            let weights = (&axis.positions[..], &axis.weights[..]);
            resample_gradient(weights, [axis.from, axis.to, inner], &d, &mut dx);
            at.pool.give(std::mem::replace(&mut d, dx));
        }
        Ok(vec![Some(Tensor::new(shape.clone(), d)?)])
    })))
}

/// Each element's gradient goes to the operand that it was selected from.
fn selected(build: &Build<'_>, _: &Training<'_>) -> Result<Option<Differentiated>> {
    if (1..3).any(|i| build.inputs.dtype(i) != Some(DType::F32)) {
        return Ok(None);
    }
    let shapes = (0..3).map(|i| Ok(build.shape(i)?.to_vec())).collect::<Result<Vec<_>>>()?;
    let full = broadcast(&[&shapes[0], &shapes[1], &shapes[2]])?;
    Ok(Some(Differentiated::of(Reads::inputs([0]), move |at: &mut Backward<'_>| {
        let condition = operand(at.inputs, 0)?.values::<bool>()?;
        let holds: Vec<f32> = condition.iter().map(|&holds| f32::from(u8::from(holds))).collect();
        let mut whole = at.pool.take(full.iter().product())?;
        binary(BinaryOp::Add, &holds, &shapes[0], &[0.0], &[], &mut whole, &full);
        let mut found = vec![None; 3];
        for side in [1, 2].into_iter().filter(|&side| at.wanted[side]) {
            let mut own = at.pool.take(whole.len())?;
            for ((own, &holds), &d) in own.iter_mut().zip(&whole).zip(at.gradient()?) {
                *own = if (holds != 0.0) == (side == 1) { d } else { 0.0 };
            }
            found[side] = Some(summed_to(Tensor::new(full.clone(), own)?, &shapes[side], at.pool)?);
        }
        at.pool.give(whole);
        Ok(found)
    })))
}
