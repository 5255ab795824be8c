//! Low-rank adapters that are not merged: W + scaling · B A, as peft keeps them in a state dict.
//!
//! peft (0.17, `tuners/lora/layer.py`): a layer `X` becomes `X.base_layer`, beside it `X.lora_A.<adapter>`
//! and `X.lora_B.<adapter>`; scaling is α ÷ r, or α ÷ √r with `use_rslora`. α is in the adapter's
//! `adapter_config.json` alone.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde::Deserialize;

use super::{Parametrised, Parts, Rule, find_part, floats, norms};
use crate::io::mmap;
use crate::{Error, Model, Result, ResultExt, TensorId};

/// The configuration of an adapter.
pub(crate) const CONFIG: &str = "adapter_config.json";
/// What the wrapped layer is called, and what the tensors of the adapter begin with.
const BASE: &str = "base_layer";
const LORA: &str = "lora_";

/// What an adapter's configuration says of how it is merged.
#[derive(Deserialize)]
struct Config {
    lora_alpha: Option<f64>,
    #[serde(default)]
    alpha_pattern: IndexMap<String, f64>,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    fan_in_fan_out: bool,
}

/// A weight with an adapter.
#[derive(Clone, Debug)]
pub(super) struct LowRank {
    pub(super) base: TensorId,
    a: TensorId,
    b: TensorId,
    scaling: f64,
    /// Whether B A is the transposed change.
    transposed: bool,
}

impl LowRank {
    /// W + scaling · B A, in the order of W's elements.
    pub(super) fn compute(&self, model: &Model) -> Result<Vec<f64>> {
        let [base, a, b] = [self.base, self.a, self.b].map(|id| floats(model.tensor(id)));
        let (mut weight, a, b) = (base?, a?, b?);
        let rank = model.tensor(self.a).shape[0];
        let (rows, columns) = (b.len() / rank, a.len() / rank);
        for (row, b) in b.chunks_exact(rank).enumerate() {
            for (&b, a) in b.iter().zip(a.chunks_exact(columns)) {
                let factor = self.scaling * b;
                for (column, a) in a.iter().enumerate() {
                    let place = if self.transposed { column * rows + row } else { row * columns + column };
                    weight[place] += factor * a;
                }
            }
        }
        Ok(weight)
    }
}

/// The weights with adapters, and the other parameters of their layers.
///
/// # Errors
/// Where the adapter's configuration is there and cannot be read.
pub(super) fn find(model: &Model) -> Result<Vec<Parametrised>> {
    let mut found = Vec::new();
    let layers = layers(model);
    if layers.is_empty() {
        return Ok(found);
    }
    let config = config(model)?;
    for (layer, parts) in &layers {
        let path = |name: &str| if layer.is_empty() { name.into() } else { format!("{layer}.{name}") };
        let bias = find_part(parts, "base_layer.bias");
        let weight: Parts<'_> = parts.iter().filter(|(_, id)| Some(*id) != bias).copied().collect();
        let (by, rule) = rule(model, layer, parts, config.as_ref());
        if let Some(bias) = bias {
            let rule =
                if rule.is_ok() { Ok(Rule::Renamed(bias)) } else { Err("as its layer's weight".into()) };
            found.push(Parametrised::new(path("bias"), by, &vec![("bias", bias)], rule));
        }
        found.push(Parametrised::new(path("weight"), by, &weight, rule));
    }
    Ok(found)
}

/// The tensors of each layer that has an adapter, by their paths within it.
fn layers(model: &Model) -> IndexMap<&str, Parts<'_>> {
    // Where the name of the layer ends, if a part of the path says that it has an adapter.
    let end = |path: &str| {
        let mut at = 0;
        path.split('.').find_map(|part| {
            let here = at;
            at += part.len() + 1;
            (part == BASE || part.starts_with(LORA)).then_some(here)
        })
    };
    let name = |path: &'_ str, end: usize| path[..end.saturating_sub(1)].len();
    let mut layers: IndexMap<&str, Parts<'_>> = IndexMap::new();
    for path in model.tensors.keys() {
        if let Some(end) = end(path) {
            layers.entry(&path[..name(path, end)]).or_default();
        }
    }
    if layers.is_empty() {
        return layers;
    }
    for (id, path) in (0..).map(TensorId).zip(model.tensors.keys()) {
        let own = path.rsplit_once('.').map_or("", |(module, _)| module);
        let layer = end(path).map(|end| &path[..name(path, end)]);
        // loralib keeps the weight under its own name; the bias it leaves alone.
        let plain = || layers.contains_key(own).then_some(own).filter(|_| path.ends_with("weight"));
        let Some(layer) = layer.or_else(plain) else { continue };
        let rest = if layer.is_empty() { path } else { &path[layer.len() + 1..] };
        layers[layer].push((rest, id));
    }
    layers
}

/// How the weight of a layer is made of its parts.
fn rule(
    model: &Model,
    layer: &str,
    parts: &Parts<'_>,
    config: Option<&(PathBuf, Config)>,
) -> (&'static str, Result<Rule, String>) {
    let named = |kind: &str| -> Vec<(&str, TensorId)> {
        parts.iter().filter_map(|(rest, id)| Some((adapter_of(rest, kind)?, *id))).collect()
    };
    if !parts.iter().any(|(rest, _)| rest.starts_with(LORA)) {
        let why = "its adapter is not LoRA: merge it in peft (`merge_and_unload`)";
        return ("an adapter", Err(why.into()));
    }
    let pairs = [["lora_A", "lora_B"], ["lora_embedding_A", "lora_embedding_B"]];
    let pairs = pairs.map(|pair| pair.map(named));
    let rule = (|| {
        let Some(base) = find_part(parts, "base_layer.weight") else {
            return Err(match find_part(parts, "weight") {
                Some(_) => "it is not merged, and its alpha is not in the file: merge it before saving",
                None => "the layer it adapts is not in the file: an adapter needs its base",
            }
            .to_string());
        };
        let adapters: BTreeSet<&str> = pairs.iter().flatten().flatten().map(|(name, _)| *name).collect();
        if adapters.len() > 1 {
            let names: Vec<&str> = adapters.into_iter().collect();
            return Err(format!("it has several adapters (`{}`); merge those in use", names.join("`, `")));
        }
        let (embeds, a, b) = match &pairs {
            [[a, b], [ea, eb]] if ea.is_empty() && eb.is_empty() => (false, a, b),
            [[a, b], [ea, eb]] if a.is_empty() && b.is_empty() => (true, ea, eb),
            _ => return Err("it has adapters of two kinds".to_string()),
        };
        let (&[(_, a)], &[(_, b)]) = (&a[..], &b[..]) else {
            return Err("one of `lora_A` and `lora_B` is missing".to_string());
        };
        let known = [Some(base), Some(a), Some(b), find_part(parts, "base_layer.bias")];
        if let Some((more, _)) = parts.iter().find(|(_, id)| !known.contains(&Some(*id))) {
            return Err(format!(
                "its part `{more}` does not belong to plain LoRA (DoRA, a bias of its own?)"
            ));
        }
        norms::floating(model, &[base, a, b])?;
        let Some((path, config)) = config else {
            return Err(format!("its alpha is not in the file: put the adapter's `{CONFIG}` beside it"));
        };
        let transposed = embeds || config.fan_in_fan_out;
        let rank = shapes_fit(model, base, a, b, transposed)?;
        let alpha = config
            .alpha(layer)
            .ok_or_else(|| format!("`lora_alpha` for it does not follow from `{}`", path.display()))?;
        let scaling = alpha / if config.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
        Ok(Rule::LowRank(LowRank { base, a, b, scaling, transposed }))
    })();
    ("LoRA", rule)
}

/// The adapter that a tensor of a kind belongs to: `lora_A.default.weight`, `lora_A.weight`, `lora_A.default` and
/// `lora_A` are of that kind.
fn adapter_of<'a>(rest: &'a str, kind: &str) -> Option<&'a str> {
    let rest = rest.strip_prefix(kind)?;
    match rest.strip_prefix('.') {
        None => rest.is_empty().then_some(""),
        Some("weight") => Some(""),
        Some("bias") => None,
        Some(name) if name.ends_with(".bias") => None,
        Some(name) => Some(name.strip_suffix(".weight").unwrap_or(name)),
    }
}

/// The rank, where B A has the elements of the weight.
fn shapes_fit(
    model: &Model,
    base: TensorId,
    a: TensorId,
    b: TensorId,
    transposed: bool,
) -> Result<usize, String> {
    let [base, a, b] = [base, a, b].map(|id| model.tensor(id).shape.as_slice());
    let wrong =
        || Err(format!("B of shape {b:?} times A of shape {a:?} does not give a weight of shape {base:?}"));
    let (Some((&rank, inputs)), Some((&outputs, ranks))) = (a.split_first(), b.split_first()) else {
        return wrong();
    };
    let inner = ranks.first() == Some(&rank) && ranks[1..].iter().all(|&d| d == 1) && rank > 0;
    let inner = inner && !base.contains(&0);
    let change = if transposed { [inputs, &[outputs]].concat() } else { [&[outputs], inputs].concat() };
    if inner && change == base { Ok(rank) } else { wrong() }
}

impl Config {
    /// α of a layer; `None` where a pattern of layers is one that only Python's `re` can judge.
    fn alpha(&self, layer: &str) -> Option<f64> {
        let plain = |pattern: &str| pattern.chars().all(|c| c.is_alphanumeric() || "._-".contains(c));
        if !self.alpha_pattern.keys().all(|pattern| plain(pattern)) {
            return None;
        }
        let of = |pattern: &str| {
            layer.strip_suffix(pattern).is_some_and(|front| front.is_empty() || front.ends_with('.'))
        };
        let own = self.alpha_pattern.iter().find(|(pattern, _)| of(pattern)).map(|(_, alpha)| *alpha);
        own.or(self.lora_alpha).filter(|alpha| alpha.is_finite())
    }
}

/// The configuration of an adapter, from the checkpoint's folder.
fn config(model: &Model) -> Result<Option<(PathBuf, Config)>> {
    let Some(path) = &model.path else { return Ok(None) };
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
    let path = folder.join(CONFIG);
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = mmap::map_file(&path)?;
    let config = serde_json::from_slice(&bytes)
        .map_err(|e| Error::input(format!("is not as peft has it: {e}")))
        .at_file(&path)?;
    Ok(Some((path, config)))
}
