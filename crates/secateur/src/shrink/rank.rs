//! How much each position of a dimension matters.

use std::collections::BTreeMap;

use secateur_model::dims::{Dims, Group, Kept, Slice};
use secateur_model::ops::AxisRole;
use secateur_model::{Error, Model, Result, TensorId, prunable};

use crate::prune::{Method, Pattern};
use crate::random::Stream;

/// Scores by position of each group: higher stays.
///
/// For a norm of order p, Σ|w|ᵖ over the weights of all layers in which the position occurs, divided by the mean over the
/// positions of the group, so that groups compare (DepGraph, Fang et al. 2023, arXiv:2301.12900).
pub(super) fn scores(
    model: &Model,
    dims: &Dims<'_>,
    groups: &[&Group],
    method: &Method,
    seed: u64,
) -> Result<Vec<Vec<f64>>> {
    if !matches!(method.pattern, Pattern::Channel(_))
        || !method.solvers.is_empty()
        || method.allocation.divides()
    {
        return Err(Error::usage(format!(
            "method `{method}`: shrinking removes channels; write it as l2/channel or l2/channel@global"
        )));
    }
    let about = method.criterion.about();
    let term: fn(f64) -> f64 = match about.name {
        "random" => return Ok(groups.iter().map(|group| random(group, seed)).collect()),
        "l1" => f64::abs,
        "l2" => |w| w * w,
        "l0" => |w| f64::from(w != 0.0),
        other => {
            return Err(Error::usage(format!(
                "criterion `{other}` does not rank groups of channels; l1, l2, l0 and random do"
            )));
        }
    };
    groups.iter().map(|group| norms(model, dims, group, term)).collect()
}

fn random(group: &Group, seed: u64) -> Vec<f64> {
    let stream = Stream::new(seed, &format!("shrink {:?}", group.slices.first()));
    (0..group.extent).map(|i| stream.draw(i as u64) as f64 / u64::MAX as f64).collect()
}

fn norms(model: &Model, dims: &Dims<'_>, group: &Group, term: fn(f64) -> f64) -> Result<Vec<f64>> {
    let mut sums = vec![0f64; group.extent];
    for slice in group.slices.iter().filter(|slice| slice.role.is_some()) {
        for (sum, part) in sums.iter_mut().zip(along(model, dims, group, slice, term)?) {
            *sum += part;
        }
    }
    let mean = sums.iter().sum::<f64>() / sums.len() as f64;
    if mean > 0.0 {
        sums.iter_mut().for_each(|sum| *sum /= mean);
    }
    Ok(sums)
}

/// Σ term(w) over the elements of a tensor, by position of the group's dimension along one of its axes.
fn along(
    model: &Model,
    dims: &Dims<'_>,
    group: &Group,
    slice: &Slice,
    term: fn(f64) -> f64,
) -> Result<Vec<f64>> {
    let stored = model.tensor(slice.tensor);
    let values = stored.load()?.to_f32s()?;
    let extent = stored.shape[slice.axis];
    let mut position = vec![None; extent];
    for (i, at) in dims.positions(slice, group.dim).into_iter().enumerate() {
        at.into_iter().for_each(|place| position[place] = Some(i));
    }
    let step: usize = stored.shape[slice.axis + 1..].iter().product();
    let mut sums = vec![0f64; group.extent];
    for (block, values) in values.chunks_exact(step.max(1)).enumerate() {
        if let Some(i) = position[block % extent] {
            sums[i] += values.iter().map(|&w| term(w.into())).sum::<f64>();
        }
    }
    Ok(sums)
}

/// The positions of each group that are not zero throughout: where every layer that computes it, its bias and its
/// batch-norms give zero, or every layer that takes it multiplies it by zero. At least `round_to` positions stay, and a
/// multiple of it.
pub(super) fn alive(model: &Model, dims: &Dims<'_>, groups: &[&Group], round_to: usize) -> Result<Kept> {
    let entries = prunable::view(model)?;
    let mut companions: BTreeMap<TensorId, Vec<TensorId>> = BTreeMap::new();
    for view in entries.iter().filter_map(prunable::Entry::view) {
        let all = view.bias.iter().chain(&view.followers).map(|companion| companion.tensor);
        companions.entry(view.tensor).or_default().extend(all);
    }
    let mut kept = Kept::new();
    for group in groups {
        let of = |slice: &Slice| along(model, dims, group, slice, |w| f64::from(w != 0.0));
        let mut made = vec![0f64; group.extent];
        let mut taken = vec![0f64; group.extent];
        let mut inputs = 0;
        let followers: Vec<TensorId> = group
            .slices
            .iter()
            .filter_map(|slice| companions.get(&slice.tensor))
            .flatten()
            .copied()
            .collect();
        for slice in &group.slices {
            let is_input = slice.role == Some(AxisRole::In);
            if !is_input && slice.role.is_none() && !followers.contains(&slice.tensor) {
                continue;
            }
            inputs += usize::from(is_input);
            let sums = if is_input { &mut taken } else { &mut made };
            sums.iter_mut().zip(of(slice)?).for_each(|(sum, part)| *sum += part);
        }
        let is_alive = |&i: &usize| made[i] > 0.0 && (inputs == 0 || taken[i] > 0.0);
        let mut order: Vec<usize> = (0..group.extent).collect();
        order.sort_by_key(|i| (!is_alive(i), *i));
        let count = (0..group.extent).filter(|i| is_alive(i)).count();
        let count = count.max(1).next_multiple_of(round_to).min(group.extent);
        if count < group.extent {
            order.truncate(count);
            order.sort_unstable();
            kept.insert(group.dim, order);
        }
    }
    Ok(kept)
}
