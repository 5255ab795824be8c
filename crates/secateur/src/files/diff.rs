//! What differs between two models, whatever their formats.

use std::collections::{BTreeMap, HashSet};

use indexmap::IndexMap;
use secateur_model::infer::{Binding, Inference};
use secateur_model::{Data, Graph, Model, Patch, Result, TensorId, prunable};
use serde::Serialize;

use crate::measure::{Count, layer_macs, nonzeros, remaining_macs};
use crate::prune::masks::{Masks, ORIGINAL};

/// What differs between two models.
#[derive(Clone, Debug, Serialize)]
pub struct Diff {
    /// Tensors that both have, in the order of the first.
    pub tensors: Vec<TensorDiff>,
    /// Tensors that only the first has.
    pub only_first: Vec<String>,
    /// Tensors that only the second has.
    pub only_second: Vec<String>,
    /// Multiply–accumulates of one sample, first and second, where the model has a graph: all of them.
    pub macs: [Option<u64>; 2],
    /// Those whose weight is not zero.
    pub effective_macs: [Option<u64>; 2],
}

/// A tensor that both models have.
#[derive(Clone, Debug, Serialize)]
pub struct TensorDiff {
    /// Its path in the first.
    pub path: String,
    /// Its path in the second, where it is another one.
    pub other: Option<String>,
    /// The shapes, first and second.
    pub shapes: [Vec<usize>; 2],
    /// The element types.
    pub dtypes: [String; 2],
    /// Elements that are zero.
    pub zeros: [u64; 2],
    /// Elements that differ, and the largest difference; `None` where the shapes differ.
    pub changed: Option<(u64, f64)>,
}

impl TensorDiff {
    /// Whether nothing differs.
    pub fn is_same(&self) -> bool {
        self.dtypes[0] == self.dtypes[1] && self.changed.is_some_and(|(count, _)| count == 0)
    }
}

impl Diff {
    /// Whether nothing differs.
    pub fn is_same(&self) -> bool {
        self.only_first.is_empty()
            && self.only_second.is_empty()
            && self.tensors.iter().all(TensorDiff::is_same)
    }
}

/// A model with pairs combined into one weight.
struct Side<'m> {
    model: &'m Model,
    effective: Patch,
    names: IndexMap<String, TensorId>,
}

impl<'m> Side<'m> {
    fn new(model: &'m Model) -> Result<Self> {
        let masks = Masks::of_pairs(model)?;
        let mut names = IndexMap::new();
        for (id, path) in (0..).map(TensorId).zip(model.tensors.keys()) {
            if masks.pairs.iter().any(|pair| pair.mask == id) {
                continue;
            }
            let joined = masks.masks.contains_key(&id).then(|| path.strip_suffix(ORIGINAL)).flatten();
            names.insert(joined.unwrap_or(path).to_string(), id);
        }
        Ok(Side { model, effective: masks.effective(model), names })
    }

    fn load(&self, id: TensorId) -> Result<secateur_model::Tensor> {
        self.effective.load(self.model, id)
    }
}

/// Compares two models tensor by tensor. Names are matched as they are, or without the prefixes that
/// programs add to all of them (`module.`, `model.`). `binding` gives dynamic extents of inputs: without them
/// multiply–accumulates may stay unknown.
///
/// # Errors
/// Where a tensor cannot be read, or `binding` names an input that a graph does not have.
pub fn diff(first: &Model, second: &Model, binding: &Binding) -> Result<Diff> {
    let (a, b) = (Side::new(first)?, Side::new(second)?);
    let plain: BTreeMap<&str, &str> = b.names.keys().map(|name| (plain_name(name), name.as_str())).collect();
    let mut partners: Vec<(&str, &str)> = Vec::new();
    let mut only_first = Vec::new();
    let mut matched: HashSet<&str> = HashSet::new();
    for name in a.names.keys() {
        let other = match b.names.get_key_value(name.as_str()) {
            Some((other, _)) => Some(other.as_str()),
            None => plain.get(plain_name(name)).copied().filter(|other| !a.names.contains_key(*other)),
        };
        // Names that differ in their beginnings alone may have the same partner.
        match other.filter(|other| matched.insert(other)) {
            Some(other) => partners.push((name, other)),
            None => only_first.push(name.clone()),
        }
    }
    let only_second = b.names.keys().filter(|name| !matched.contains(name.as_str())).cloned().collect();
    let tensors =
        partners.into_iter().map(|(name, other)| compare(&a, &b, name, other)).collect::<Result<Vec<_>>>()?;
    let mut macs = [None, None];
    let mut effective = [None, None];
    for (i, side) in [&a, &b].into_iter().enumerate() {
        if let Some(graph) = &side.model.graph {
            let inference = Inference::of(side.model, binding)?;
            let open = inference.macs.iter().any(Option::is_none);
            macs[i] = inference.total_macs();
            effective[i] = effective_macs(side.model, graph, &inference, &side.effective)?.filter(|_| !open);
        }
    }
    Ok(Diff { tensors, only_first, only_second, macs, effective_macs: effective })
}

/// A name without the prefixes of wrappers.
fn plain_name(name: &str) -> &str {
    let mut name = name;
    while let Some(rest) =
        ["module.", "model.", "_orig_mod.", "state_dict."].iter().find_map(|p| name.strip_prefix(p))
    {
        name = rest;
    }
    name
}

fn compare(a: &Side<'_>, b: &Side<'_>, name: &str, other: &str) -> Result<TensorDiff> {
    let (x, y) = (a.load(a.names[name])?, b.load(b.names[other])?);
    let changed = if x.shape() != y.shape() {
        None
    } else if x.dtype().is_prunable() && y.dtype().is_prunable() {
        Some(differences(x.data(), y.data()))
    } else {
        Some((if x.data() == y.data() { 0 } else { x.len() as u64 }, f64::NAN))
    };
    Ok(TensorDiff {
        path: name.to_string(),
        other: (name != other).then(|| other.to_string()),
        zeros: [zeros(x.data()), zeros(y.data())],
        dtypes: [x.dtype().to_string(), y.dtype().to_string()],
        shapes: [x.shape().to_vec(), y.shape().to_vec()],
        changed,
    })
}

/// Multiply–accumulates for one sample whose weight is not zero; everything that is not a layer counts
/// in full. `None` where a layer's cost is unknown.
fn effective_macs(
    model: &Model,
    graph: &Graph,
    inference: &Inference,
    effective: &Patch,
) -> Result<Option<u64>> {
    let layers = layer_macs(graph, &prunable::view(model)?, inference);
    let mut counts = Vec::with_capacity(layers.len());
    for (tensor, macs) in layers {
        let Some(macs) = macs else { return Ok(None) };
        let weights = effective.load(model, tensor)?;
        let nonzero = nonzeros(weights.data());
        counts.push((macs, Count { nonzero, total: weights.len() as u64 }));
    }
    Ok(Some(remaining_macs(inference.known_macs(), counts)))
}

fn zeros(data: &Data) -> u64 {
    data.len() as u64 - nonzeros(data)
}

/// How many numbers differ, and the largest difference. 0 equals −0, and NaN equals NaN.
fn differences(a: &Data, b: &Data) -> (u64, f64) {
    let at = |data: &Data, i: usize| -> f64 {
        match data {
            Data::F32(v) => v[i].into(),
            Data::F64(v) => v[i],
            Data::F16(v) => v[i].into(),
            Data::BF16(v) => v[i].into(),
            _ => f64::NAN,
        }
    };
    let (mut count, mut largest) = (0, 0.0);
    for i in 0..a.len() {
        let (x, y) = (at(a, i), at(b, i));
        if x != y && !(x.is_nan() && y.is_nan()) {
            count += 1;
            largest = f64::max(largest, (x - y).abs());
        }
    }
    (count, largest)
}
