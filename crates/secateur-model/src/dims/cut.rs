//! The patch that takes positions out of dimensions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::trace::{Origin, operands, origin};
use super::{Dims, Kept};
use crate::axes::{Axis, Slot};
use crate::infer::Inference;
use crate::{Attr, DType, Error, NodeId, Patch, Result, Tensor, TensorId, ValueId, ops};

/// New numbers of constants: by node and input, the places and what stands there.
type Numbers = BTreeMap<(NodeId, usize), BTreeMap<usize, i64>>;

/// First with numbers that are computed from shapes left to follow these; where that leads to other shapes, with the
/// numbers in their place.
pub(super) fn cut(dims: &Dims<'_>, kept: &Kept) -> Result<Patch> {
    attempt(dims, kept, false).or_else(|_| attempt(dims, kept, true))
}

fn attempt(dims: &Dims<'_>, kept: &Kept, override_computed: bool) -> Result<Patch> {
    let mut patch = Patch::by("shrink");
    tensors(dims, kept, &mut patch)?;
    written(dims, kept, override_computed, &mut patch)?;
    let after = infer(dims, &patch)?;
    if factors(dims, &after, &mut patch)? {
        check(dims, kept, &infer(dims, &patch)?)?;
    } else {
        check(dims, kept, &after)?;
    }
    Ok(patch)
}

/// What is known of the values of the patched model.
fn infer(dims: &Dims<'_>, patch: &Patch) -> Result<Inference> {
    let after = Inference::of(&patch.apply(dims.model)?, &dims.binding)?;
    match after.problems.first() {
        Some(problem) => Err(Error::input(problem.text.clone())),
        None => Ok(after),
    }
}

/// Checks that values have the shapes that the axes foretell.
fn check(dims: &Dims<'_>, kept: &Kept, after: &Inference) -> Result<()> {
    let graph = dims.model.graph()?;
    // Values keep their indices: the patch only adds some.
    for value in (0..graph.values.len() as u32).map(ValueId) {
        let Some(axes) = dims.axes.value(value) else { continue };
        let expected: Vec<usize> = axes.iter().map(|&axis| extent(dims, kept, axis)).collect();
        let found = after.facts[value.index()].as_ref().and_then(ops::Fact::shape);
        if found != Some(&expected[..]) {
            let name = graph.value_name(value);
            let found = found.map_or("an open shape".to_string(), |found| format!("the shape {found:?}"));
            let error = Error::input(format!("without it `{name}` has {found}, expected {expected:?}"));
            return Err(match graph.producers().get(value.index()).copied().flatten() {
                Some(node) => error.at_node(&graph.nodes[node.0 as usize]),
                None => error,
            });
        }
    }
    Ok(())
}

/// Factors that the graph computes from extents, such as 1/√width of attention, keep their values: what is left of the
/// network computes what it did. Whether there are any that would change.
fn factors(dims: &Dims<'_>, after: &Inference, patch: &mut Patch) -> Result<bool> {
    let graph = dims.model.graph()?;
    let consumers = graph.consumers();
    let known = |inference: &Inference, value: ValueId| {
        inference.facts.get(value.index()).and_then(|fact| fact.as_ref()?.value.clone())
    };
    let mut found = false;
    for value in
        (0..graph.values.len() as u32).map(ValueId).filter(|value| !graph.constants.contains_key(value))
    {
        let (Some(before), Some(now)) = (known(&dims.inference, value), known(after, value)) else {
            continue;
        };
        let computes = |&(node, _): &(NodeId, usize)| {
            let outputs = graph.nodes[node.0 as usize].outputs.iter().flatten();
            outputs.into_iter().any(|&output| known(&dims.inference, output).is_none())
        };
        let is_float = matches!(before.dtype(), DType::F32 | DType::F64 | DType::F16 | DType::BF16);
        let changes = before.shape() == now.shape() && before != now;
        if is_float && changes && consumers[value.index()].iter().any(computes) {
            let own = patch.add_constant(dims.model, graph.value_name(value), before)?;
            patch.redirect(dims.model, value, own)?;
            found = true;
        }
    }
    Ok(found)
}

/// The extent of an axis with the positions that are kept.
fn extent(dims: &Dims<'_>, kept: &Kept, axis: Axis) -> usize {
    let space = dims.axes.space();
    match space.dims(axis).iter().any(|dim| kept.contains_key(dim)) {
        true => space.select(axis, kept).len(),
        false => space.extent(axis),
    }
}

/// Stored tensors lose what is not kept.
fn tensors(dims: &Dims<'_>, kept: &Kept, patch: &mut Patch) -> Result<()> {
    let graph = dims.model.graph()?;
    let space = dims.axes.space();
    let mut seen: BTreeSet<TensorId> = BTreeSet::new();
    for (&value, &id) in &graph.constants {
        let Some(axes) = dims.axes.value(value).filter(|_| seen.insert(id)) else { continue };
        let positions: Vec<Option<Vec<usize>>> = axes
            .iter()
            .map(|&axis| {
                let touched = space.dims(axis).iter().any(|dim| kept.contains_key(dim));
                touched.then(|| space.select(axis, kept))
            })
            .collect();
        if positions.iter().all(Option::is_none) {
            continue;
        }
        let stored = dims.model.tensor(id);
        let shape = positions.iter().zip(&stored.shape);
        let shape: Vec<usize> = shape.map(|(at, &extent)| at.as_ref().map_or(extent, Vec::len)).collect();
        let (dtype, source) = (stored.dtype, stored.clone());
        let taken = move || ops::take(&source.load()?, &positions);
        patch.replace_lazy(id, dtype, shape, Arc::new(taken));
    }
    Ok(())
}

/// Nodes are told of the extents that they write down.
fn written(dims: &Dims<'_>, kept: &Kept, override_computed: bool, patch: &mut Patch) -> Result<()> {
    let graph = dims.model.graph()?;
    let mut numbers = Numbers::new();
    let mut lists: BTreeMap<(NodeId, &str), Vec<i64>> = BTreeMap::new();
    for written in dims.axes.written() {
        let (before, now) = (dims.axes.space().extent(written.axis), extent(dims, kept, written.axis));
        if before == now {
            continue;
        }
        let node = &graph.nodes[written.node.0 as usize];
        match &written.slot {
            Slot::Attr(name) => patch.set_attr(written.node, name, Attr::Int(now as i64)),
            Slot::AttrAt(name, place) => {
                let own = node.ints(name)?.unwrap_or_default();
                let list = lists.entry((written.node, *name)).or_insert_with(|| own.to_vec());
                if let Some(number) = list.get_mut(*place) {
                    *number = now as i64;
                }
            }
            Slot::Input(input, place) => {
                match origin(dims, written.node, *input, *place) {
                    Some(Origin::Stored(node, input, place)) => {
                        note(dims, &mut numbers, (node, input, place), now)?;
                    }
                    // Computed from the shapes of other values, which change with the axes.
                    Some(Origin::Computed(..)) if !override_computed => {}
                    Some(Origin::Computed(node, reader)) => {
                        let parts = computed(dims, kept, written.axis, node);
                        if let (true, Some((node, input))) = (parts.is_empty(), reader) {
                            note(dims, &mut numbers, (node, input, 0), now)?;
                        }
                        for ((node, input), now) in parts {
                            note(dims, &mut numbers, (node, input, 0), now)?;
                        }
                    }
                    None => {}
                }
            }
        }
    }
    for ((node, name), list) in lists {
        patch.set_attr(node, name, Attr::Ints(list));
    }
    for ((node, input), numbers) in numbers {
        let value = graph.nodes[node.0 as usize].inputs.get(input).copied().flatten();
        let Some(value) = value else { continue };
        let known = dims.inference.facts[value.index()].as_ref().and_then(|fact| fact.value.clone());
        let Some(mut tensor) = known else { continue };
        for (place, number) in numbers {
            set(&mut tensor, place, number)?;
        }
        if graph.constants.contains_key(&value) {
            patch.set_constant(dims.model, node, input, tensor)?;
        } else {
            let own = patch.add_constant(dims.model, graph.value_name(value), tensor)?;
            patch.rewire(node, input, Some(own));
        }
    }
    Ok(())
}

/// The stored numbers from which a node computes the extent of an axis: those that are the extents of its dimensions, with
/// what they become, such as the heads in batch · heads.
fn computed(dims: &Dims<'_>, kept: &Kept, axis: Axis, node: NodeId) -> Vec<((NodeId, usize), usize)> {
    let space = dims.axes.space();
    let cut = space.dims(axis).into_iter().filter_map(|dim| Some((space.extent(dim), kept.get(&dim)?.len())));
    cut.flat_map(|(before, now)| {
        operands(dims, node, before as i64).into_iter().map(move |reader| (reader, now))
    })
    .collect()
}

/// Notes that an element of a constant is to be another number.
fn note(
    dims: &Dims<'_>,
    numbers: &mut Numbers,
    (node, input, place): (NodeId, usize, usize),
    now: usize,
) -> Result<()> {
    let known = numbers.entry((node, input)).or_default().insert(place, now as i64);
    match known.filter(|&known| known != now as i64) {
        None => Ok(()),
        Some(known) => {
            let error = Error::input(format!("nodes need {known} and {now} of the same constant"));
            Err(error.at_node(&dims.model.graph()?.nodes[node.0 as usize]))
        }
    }
}

/// Sets an element of a tensor of integers.
fn set(tensor: &mut Tensor, place: usize, number: i64) -> Result<()> {
    let slot = match tensor.dtype() {
        DType::I64 => tensor.values_mut::<i64>()?.get_mut(place).map(|slot| *slot = number),
        DType::I32 => tensor.values_mut::<i32>()?.get_mut(place).map(|slot| *slot = number as i32),
        other => return Err(Error::unsupported(format!("an extent is written down as {other}"))),
    };
    slot.ok_or_else(|| Error::input(format!("a list of extents has no place {place}")))
}
