//! Batch-norms that the exporter has folded into the layer before them: which they are, and with which
//! epsilon.
//!
//! Folded, a layer's weight is W·s and its bias β + (b − μ)·s with s = γ/√(σ² + ε), one factor an
//! output channel. Where the checkpoint is the one that was exported, the values tell the batch-norm
//! and ε; where it was trained on, names do.

use std::collections::BTreeSet;

use super::matching::Matching;
use crate::prunable::CompanionKind;
use crate::prunable::walk::UseRole;
use crate::{Model, Result, TensorId, parametrised};

/// The epsilons in use, the usual one first.
const EPSILONS: &[f64] = &[1e-5, 1e-3, 1e-6, 1e-4, 1e-8, 1e-12, 2e-5, 1e-2];

/// A batch-norm of the checkpoint.
#[derive(Clone, Debug)]
pub(super) struct Norm {
    pub(super) module: String,
    pub(super) mean: TensorId,
    pub(super) var: TensorId,
    pub(super) weight: Option<TensorId>,
    pub(super) bias: Option<TensorId>,
}

/// A batch-norm that was folded into a node.
#[derive(Clone, Debug)]
pub(super) struct Fold {
    /// The node's label and operator.
    pub(super) node: String,
    pub(super) op_type: String,
    /// The constant that holds the folded bias.
    pub(super) bias: TensorId,
    pub(super) norm: Norm,
    pub(super) epsilon: f32,
    /// Whether the values told the batch-norm and the epsilon.
    pub(super) certain: bool,
}

/// A layer that may hold a batch-norm.
struct Site {
    number: usize,
    node: String,
    op_type: String,
    recorded: String,
    weight: TensorId,
    bias: TensorId,
}

/// Finds the batch-norms that are folded: of those that the graph does not hold itself.
pub(super) fn find(matching: &Matching<'_>) -> Result<Vec<Fold>> {
    let norms = unused_norms(matching);
    let mut folds = Vec::new();
    if norms.is_empty() {
        return Ok(folds);
    }
    let mut taken = BTreeSet::new();
    let mut left = Vec::new();
    for site in sites(matching) {
        match by_value(matching, &site, &norms)? {
            Some((norm, epsilon)) => {
                taken.insert(norm.mean);
                folds.push(site.fold(norm, epsilon as f32, true));
            }
            None => left.push(site),
        }
    }
    // Names first, for all: what is left then may be told by order.
    for rule in [by_name, by_order] {
        left.retain(|site| {
            let channels = matching.onnx.tensor(site.bias).len();
            let fits = |norm: &&Norm| matching.checkpoint.tensor(norm.mean).len() == channels;
            let free: Vec<&Norm> = norms.iter().filter(|n| !taken.contains(&n.mean)).filter(fits).collect();
            let Some(norm) = rule(matching, site, &free) else { return true };
            taken.insert(norm.mean);
            folds.push(site.fold(norm, EPSILONS[0] as f32, false));
            false
        });
    }
    Ok(folds)
}

impl Site {
    fn fold(&self, norm: &Norm, epsilon: f32, certain: bool) -> Fold {
        Fold {
            node: self.node.clone(),
            op_type: self.op_type.clone(),
            bias: self.bias,
            norm: norm.clone(),
            epsilon,
            certain,
        }
    }
}

/// The layers with a weight from the checkpoint and a bias, in the order of their nodes.
fn sites(matching: &Matching<'_>) -> Vec<Site> {
    let mut sites = Vec::new();
    for &weight in matching.bound.keys() {
        for used in &matching.uses[weight.0 as usize] {
            let UseRole::Weight(site) = &used.role else { continue };
            let own = site.companions.iter().find(|c| c.kind == CompanionKind::Bias && c.site == used.site);
            let (Some(bias), "Conv" | "ConvTranspose" | "Gemm") = (own, used.op_type.as_str()) else {
                continue;
            };
            sites.push(Site {
                number: used.site,
                node: used.node.clone(),
                op_type: used.op_type.clone(),
                recorded: used.module.clone(),
                weight,
                bias: bias.tensor,
            });
        }
    }
    sites.sort_by_key(|site| site.number);
    sites
}

/// The batch-norms of the checkpoint of which the graph holds nothing.
fn unused_norms(matching: &Matching<'_>) -> Vec<Norm> {
    let used: BTreeSet<TensorId> = matching.bound.values().map(|bound| bound.tensor).collect();
    let model = matching.checkpoint;
    let norm = |&mean: &TensorId| {
        let module = model.tensor(mean).path.strip_suffix("running_mean")?;
        // A parameter with a mask beside it has `_orig` behind its name.
        let sibling = |name: &str| {
            let path = |ending: &str| model.tensor_id(&format!("{module}{name}{ending}"));
            let id = path("").or_else(|| path("_orig"))?;
            (model.tensor(id).shape == model.tensor(mean).shape).then_some(id)
        };
        Some(Norm {
            module: module.trim_end_matches('.').to_string(),
            mean,
            var: sibling("running_var")?,
            weight: sibling("weight"),
            bias: sibling("bias"),
        })
    };
    matching.candidates.iter().filter(|id| !used.contains(id)).filter_map(norm).collect()
}

/// The batch-norm that makes the graph's weight and bias out of the checkpoint's.
fn by_value<'n>(matching: &Matching<'_>, site: &Site, norms: &'n [Norm]) -> Result<Option<(&'n Norm, f64)>> {
    let bound = &matching.bound[&site.weight];
    let Some(factors) = matching.factors(bound.tensor, site.weight, &bound.fit)? else { return Ok(None) };
    let folded = floats(matching.onnx, site.bias)?;
    let own = matching.layers.get(&bound.tensor).and_then(|l| l.bias.as_ref()).map(|b| b.tensor);
    let own = match own {
        Some(bias) => floats(matching.checkpoint, bias)?,
        None => vec![0.0; folded.len()],
    };
    if own.len() != folded.len() {
        return Ok(None);
    }
    let dtypes = (matching.checkpoint.tensor(bound.tensor).dtype, matching.onnx.tensor(site.weight).dtype);
    // Both the weight and the batch-norm may be rounded.
    let tolerance = 4.0 * f64::from(super::values::tolerance(dtypes.0, dtypes.1));
    let mut best: Option<(f64, &Norm, f64)> = None;
    for norm in norms {
        let affine = Affine::of(matching.checkpoint, norm)?;
        if affine.mean.len() != folded.len() {
            continue;
        }
        let epsilon = affine.epsilon(&factors);
        let error = affine.error(&factors, &own, &folded, epsilon);
        if error <= tolerance && best.is_none_or(|(least, ..)| error < least) {
            best = Some((error, norm, epsilon));
        }
    }
    Ok(best.map(|(_, norm, epsilon)| (norm, epsilon)))
}

/// The numbers of a batch-norm.
struct Affine {
    weight: Vec<f64>,
    bias: Vec<f64>,
    mean: Vec<f64>,
    var: Vec<f64>,
}

impl Affine {
    fn of(model: &Model, norm: &Norm) -> Result<Self> {
        let mean = floats(model, norm.mean)?;
        let or = |id: Option<TensorId>, other: f64| match id {
            Some(id) => floats(model, id),
            None => Ok(vec![other; mean.len()]),
        };
        Ok(Affine {
            weight: or(norm.weight, 1.0)?,
            bias: or(norm.bias, 0.0)?,
            var: floats(model, norm.var)?,
            mean,
        })
    }

    fn factor(&self, channel: usize, epsilon: f64) -> f64 {
        self.weight[channel] / (self.var[channel] + epsilon).sqrt()
    }

    /// The epsilon with which the factors come out best; of those in use where one does.
    fn epsilon(&self, factors: &[f64]) -> f64 {
        let known = || factors.iter().enumerate().filter(|(_, f)| !f.is_nan());
        let off = |epsilon: f64| {
            let one = |(c, f): (usize, &f64)| (self.factor(c, epsilon) - f).abs() / (f.abs() + 1e-9);
            known().map(one).fold(0.0, f64::max)
        };
        // The channel of the smallest variance shows it best: ε = (γ/s)² − σ².
        let solved = known()
            .min_by(|(a, _), (b, _)| self.var[*a].total_cmp(&self.var[*b]))
            .map(|(c, f)| (self.weight[c] / f).powi(2) - self.var[c])
            .filter(|e| *e > 0.0);
        let all = EPSILONS.iter().copied().chain(solved);
        let least = all.clone().map(off).fold(f64::INFINITY, f64::min);
        all.into_iter().find(|&e| off(e) <= (3.0 * least).max(1e-6)).unwrap_or(EPSILONS[0])
    }

    /// How far folding is from the graph's factors and bias, relative to their sizes.
    fn error(&self, factors: &[f64], own: &[f64], folded: &[f64], epsilon: f64) -> f64 {
        let mut error = 0f64;
        for (c, factor) in factors.iter().enumerate() {
            let s = self.factor(c, epsilon);
            if !s.is_finite() {
                return f64::INFINITY;
            }
            if !factor.is_nan() {
                error = error.max((s - factor).abs() / s.abs().max(1e-9));
            }
            let shift = (own[c] - self.mean[c]) * s;
            let size = self.bias[c].abs() + shift.abs() + 1e-6;
            error = error.max((self.bias[c] + shift - folded[c]).abs() / size);
        }
        error
    }
}

/// The batch-norm that names tell: the one that the exporter recorded for the node, or the one that is
/// named after the layer.
fn by_name<'n>(matching: &Matching<'_>, site: &Site, free: &[&'n Norm]) -> Option<&'n Norm> {
    let mean = matching.paths.of_module(&site.recorded, "running_mean");
    let weight = matching.bound[&site.weight].tensor;
    let module = matching.checkpoint.tensor(weight).path.rsplit_once('.').map_or("", |(module, _)| module);
    let recorded = free.iter().find(|norm| Some(norm.mean) == mean);
    recorded.or_else(|| free.iter().find(|norm| follows(module, &norm.module))).copied()
}

/// The batch-norm that comes next in the checkpoint, for a layer that must have one as its bias is
/// not the checkpoint's.
fn by_order<'n>(matching: &Matching<'_>, site: &Site, free: &[&'n Norm]) -> Option<&'n Norm> {
    let weight = matching.bound[&site.weight].tensor;
    match free {
        _ if matching.bound.contains_key(&site.bias) => None,
        [only] => Some(only),
        _ if !matching.is_in_order() => None,
        _ => free.iter().find(|norm| norm.mean > weight).copied(),
    }
}

/// Whether a batch-norm's module is named after a layer's: `conv1` and `bn1`, or `0` and `1` in a
/// sequence.
fn follows(layer: &str, norm: &str) -> bool {
    let (parent, layer) = layer.rsplit_once('.').unwrap_or(("", layer));
    let (norm_parent, norm) = norm.rsplit_once('.').unwrap_or(("", norm));
    let next = layer.parse::<u32>().ok().and_then(|n| n.checked_add(1)).map(|n| n.to_string());
    let renamed = ["bn", "norm", "batch_norm", "batchnorm"]
        .iter()
        .flat_map(|to| ["conv", "fc", "linear"].map(|from| layer.replacen(from, to, 1)))
        .any(|name| name == norm && name != layer);
    parent == norm_parent && (renamed || next.as_deref() == Some(norm) || norm == format!("{layer}_bn"))
}

fn floats(model: &Model, id: TensorId) -> Result<Vec<f64>> {
    parametrised::floats(model.tensor(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epsilon_is_solved() {
        let affine = Affine {
            weight: vec![1.5, -0.5, 0.7],
            bias: vec![0.1, 0.2, 0.3],
            mean: vec![1.0, -1.0, 0.5],
            var: vec![0.5, 2.0, 1e-4],
        };
        for epsilon in [1e-5, 1e-3, 7e-4] {
            let factors: Vec<f64> = (0..3).map(|c| affine.factor(c, epsilon)).collect();
            let solved = affine.epsilon(&factors);
            assert!((solved / epsilon - 1.0).abs() < 1e-6, "{solved} for {epsilon}");
            let folded: Vec<f64> = (0..3).map(|c| affine.bias[c] - affine.mean[c] * factors[c]).collect();
            assert!(affine.error(&factors, &[0.0; 3], &folded, solved) < 1e-6);
            assert!(affine.error(&factors, &[0.1; 3], &folded, solved) > 1e-2);
        }
    }

    #[test]
    fn batch_norms_are_named_after_layers() {
        for (layer, norm, expected) in [
            ("layer1.0.conv2", "layer1.0.bn2", true),
            ("layer1.0.conv2", "layer1.0.bn1", false),
            ("layer1.0.conv2", "layer1.1.bn2", false),
            ("features.0", "features.1", true),
            ("features.0", "features.2", false),
            ("conv", "conv_bn", true),
            ("conv", "norm", true),
            ("proj", "proj", false),
        ] {
            assert_eq!(follows(layer, norm), expected, "{layer} {norm}");
        }
    }
}
