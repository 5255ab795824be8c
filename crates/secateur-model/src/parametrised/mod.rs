//! Weights that a checkpoint does not hold as such but in parts: PyTorch computes them anew in each
//! forward pass.
//!
//! A state dict names the parts and not what makes the weight of them, so each form is told by the names
//! and shapes of its parts. Where these leave no doubt the weight can be computed; the rest is refused
//! with what is missing.

mod lora;
mod norms;

use std::collections::HashSet;

use half::{bf16, f16};
use indexmap::IndexMap;

use crate::{DType, Data, Model, Result, StoredTensor, Tensor, TensorId};

pub(crate) use lora::CONFIG as ADAPTER_CONFIG;

/// The part of a path under which `torch.nn.utils.parametrize` keeps what a weight is made of.
const REGISTERED: &str = "parametrizations";

/// A weight that is made of parts.
#[derive(Clone, Debug)]
pub(crate) struct Parametrised {
    /// The path that the weight has without its parametrisation.
    pub(crate) path: String,
    /// What PyTorch calls it, such as `weight_norm`.
    pub(crate) by: &'static str,
    /// The tensors it is made of, ascending.
    pub(crate) parts: Vec<TensorId>,
    /// How it is computed, or why it cannot be.
    rule: Result<Rule, String>,
}

/// How a weight is computed.
#[derive(Clone, Debug)]
enum Rule {
    /// g · v ÷ ‖v‖.
    WeightNorm { g: TensorId, v: TensorId },
    /// W ÷ (uᵀ W v).
    SpectralNorm { original: TensorId, u: TensorId, v: TensorId },
    /// Zero where the mask is.
    Mask { original: TensorId, mask: TensorId },
    /// W + scaling · B A.
    LowRank(lora::LowRank),
    /// As it is, under another name.
    Renamed(TensorId),
}

/// The parts of one weight: what the form calls each, and the tensor.
type Parts<'a> = Vec<(&'a str, TensorId)>;

impl Parametrised {
    fn new(path: String, by: &'static str, parts: &Parts<'_>, rule: Result<Rule, String>) -> Self {
        let mut parts: Vec<TensorId> = parts.iter().map(|(_, id)| *id).collect();
        parts.sort_unstable();
        Parametrised { path, by, parts, rule }
    }

    /// The weight, of the type of the tensor it is made of; or why it cannot be computed.
    ///
    /// # Errors
    /// Where a part cannot be read.
    pub(crate) fn compute(&self, model: &Model) -> Result<Result<Tensor, String>> {
        let part = |id: TensorId| model.tensor(id);
        let values = |id: TensorId| floats(part(id));
        let (of, values) = match &self.rule {
            Err(why) => return Ok(Err(why.clone())),
            Ok(Rule::Renamed(id)) => return part(*id).load().map(Ok),
            Ok(Rule::WeightNorm { g, v }) => {
                (*v, norms::weight_norm(&values(*g)?, &part(*g).shape, &values(*v)?, &part(*v).shape))
            }
            Ok(Rule::SpectralNorm { original, u, v }) => {
                let shape = &part(*original).shape;
                (*original, norms::spectral_norm(values(*original)?, shape, &values(*u)?, &values(*v)?))
            }
            Ok(Rule::Mask { original, mask }) => {
                let kept = nonzero(part(*mask))?;
                let masked = values(*original)?.into_iter().zip(kept);
                (*original, Ok(masked.map(|(w, kept)| if kept { w } else { 0.0 }).collect()))
            }
            Ok(Rule::LowRank(rule)) => (rule.base, Ok(rule.compute(model)?)),
        };
        let stored = part(of);
        match values {
            Ok(values) => Tensor::from_data(stored.shape.clone(), rounded(stored.dtype, &values)).map(Ok),
            Err(why) => Ok(Err(why)),
        }
    }
}

/// The weights of a checkpoint that are made of parts, in the order of their first parts.
///
/// # Errors
/// Where the configuration of an adapter in the checkpoint's folder cannot be read.
pub(crate) fn find(model: &Model) -> Result<Vec<Parametrised>> {
    let mut found = lora::find(model)?;
    let taken: HashSet<TensorId> = found.iter().flat_map(|f| &f.parts).copied().collect();
    let mut forms: IndexMap<(Form, String), Parts<'_>> = IndexMap::new();
    for (id, stored) in (0..).map(TensorId).zip(model.tensors.values()).filter(|(id, _)| !taken.contains(id))
    {
        if let Some((form, path, part)) = form_of(model, &stored.path) {
            forms.entry((form, path)).or_default().push((part, id));
        }
    }
    for ((form, path), parts) in forms {
        let (by, rule) = match form {
            Form::WeightNorm => (
                "weight_norm",
                norms::weight_norm_rule(model, find_part(&parts, "g"), find_part(&parts, "v")),
            ),
            Form::SpectralNorm => {
                let part = |name| find_part(&parts, name);
                ("spectral_norm", norms::spectral_norm_rule(model, part("orig"), part("u"), part("v")))
            }
            Form::Registered => registered(model, &parts),
        };
        let beside = model.tensors.contains_key(&path);
        let rule = match beside {
            true => Err("a tensor of the weight's own name stands beside its parts".to_string()),
            false => rule,
        };
        found.push(Parametrised::new(path, by, &parts, rule));
    }
    found.sort_by_key(|f| f.parts.first().copied());
    Ok(found)
}

/// How the parts of a weight are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Form {
    /// `torch.nn.utils.weight_norm`: `weight_g` and `weight_v`.
    WeightNorm,
    /// `torch.nn.utils.spectral_norm`: `weight_orig`, `weight_u` and `weight_v`.
    SpectralNorm,
    /// `torch.nn.utils.parametrize`: `parametrizations.weight.original` and what the parametrisations keep.
    Registered,
}

/// The form that a path is part of, the path of the weight, and what the form calls the part.
fn form_of<'a>(model: &Model, path: &'a str) -> Option<(Form, String, &'a str)> {
    if let Some((owner, rest)) = split_at_part(path, REGISTERED) {
        let (name, part) = rest.split_once('.')?;
        return Some((Form::Registered, format!("{owner}{name}"), part));
    }
    let (base, part) = path.rsplit_once('_')?;
    if !base.rsplit('.').next()?.contains("weight") {
        return None;
    }
    let has = |part: &str| model.tensors.contains_key(&format!("{base}_{part}"));
    let form = match part {
        "g" | "v" if has("g") && has("v") => Form::WeightNorm,
        "orig" | "u" | "v" if has("orig") && has("u") => Form::SpectralNorm,
        _ => return None,
    };
    Some((form, base.to_string(), part))
}

/// A path before and after a part of it; the front keeps its dot.
fn split_at_part<'a>(path: &'a str, part: &str) -> Option<(&'a str, &'a str)> {
    let at = path
        .match_indices(part)
        .map(|(at, _)| at)
        .find(|&at| (at == 0 || path[..at].ends_with('.')) && path[at + part.len()..].starts_with('.'))?;
    Some((&path[..at], &path[at + part.len() + 1..]))
}

fn find_part(parts: &Parts<'_>, name: &str) -> Option<TensorId> {
    parts.iter().find(|(part, _)| *part == name).map(|(_, id)| *id)
}

/// The rule of what `torch.nn.utils.parametrize` registered, by what it keeps.
fn registered(model: &Model, parts: &Parts<'_>) -> (&'static str, Result<Rule, String>) {
    let mut names: Vec<&str> = parts.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    let part = |name| find_part(parts, name);
    match names[..] {
        ["original0", "original1"] => {
            ("weight_norm", norms::weight_norm_rule(model, part("original0"), part("original1")))
        }
        ["0._u", "0._v", "original"] => {
            ("spectral_norm", norms::spectral_norm_rule(model, part("original"), part("0._u"), part("0._v")))
        }
        ["0.mask", "original"] => ("a mask", norms::mask_rule(model, part("original"), part("0.mask"))),
        ["0.base", "original"] => (
            "orthogonal",
            Err("the file does not say by which map (`matrix_exp`, `cayley`, `householder`)".to_string()),
        ),
        ["original"] => (
            "an unnamed parametrisation",
            Err("the file does not say by which: `orthogonal`, or one of the network's own".to_string()),
        ),
        _ => {
            let why =
                format!("its parts `{}` are those of no parametrisation known here", names.join("`, `"));
            ("an unknown parametrisation", Err(why))
        }
    }
}

/// The elements of a stored tensor; see [`DType::is_prunable`].
pub(crate) fn floats(stored: &StoredTensor) -> Result<Vec<f64>> {
    let tensor = stored.load()?;
    match tensor.data() {
        Data::F64(values) => Ok(values.clone()),
        _ => Ok(tensor.to_f32s()?.into_iter().map(f64::from).collect()),
    }
}

/// Which elements of a mask are not zero.
fn nonzero(stored: &StoredTensor) -> Result<Vec<bool>> {
    match stored.load()?.data() {
        Data::Bool(values) => Ok(values.clone()),
        Data::U8(values) => Ok(values.iter().map(|&v| v != 0).collect()),
        _ => Ok(floats(stored)?.into_iter().map(|v| v != 0.0).collect()),
    }
}

/// Elements rounded to a float type.
fn rounded(dtype: DType, values: &[f64]) -> Data {
    match dtype {
        DType::F64 => Data::F64(values.to_vec()),
        DType::F16 => Data::F16(values.iter().map(|&v| f16::from_f64(v)).collect()),
        DType::BF16 => Data::BF16(values.iter().map(|&v| bf16::from_f64(v)).collect()),
        _ => Data::F32(values.iter().map(|&v| v as f32).collect()),
    }
}
