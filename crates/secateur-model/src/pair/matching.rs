//! Which tensor of the checkpoint each constant of the graph stands for.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::names::Paths;
use super::values::{self, Fit};
use crate::ops::AxisRole;
use crate::prunable::names::LINEAR;
use crate::prunable::walk::{Use, UseRole, WeightSite};
use crate::prunable::{CompanionKind, PrunableView};
use crate::{DType, Model, Result, StoredTensor, TensorId};

/// A tensor of the checkpoint and how it becomes the constant of the graph.
#[derive(Clone, Debug)]
pub(super) struct Bound {
    pub(super) tensor: TensorId,
    pub(super) fit: Fit,
}

/// What PyTorch's modules call the inputs of operators that have parameters other than weights of layers.
const SLOTS: &[(&str, &[(usize, &str)])] = &[
    ("BatchNormalization", &[(1, "weight"), (2, "bias"), (3, "running_mean"), (4, "running_var")]),
    ("LayerNormalization", &[(1, "weight"), (2, "bias")]),
    ("GroupNormalization", &[(1, "weight"), (2, "bias")]),
    ("InstanceNormalization", &[(1, "weight"), (2, "bias")]),
    ("RMSNormalization", &[(1, "weight")]),
    ("SimplifiedLayerNormalization", &[(1, "weight")]),
    ("PRelu", &[(1, "weight")]),
    ("Gather", &[(0, "weight")]),
];

/// Elements from which on equal values are evidence.
const TELLING: usize = 8;

/// The two models and what of them is brought together so far.
pub(super) struct Matching<'a> {
    pub(super) checkpoint: &'a Model,
    pub(super) onnx: &'a Model,
    /// The uses of each constant of the graph.
    pub(super) uses: &'a [Vec<Use>],
    pub(super) paths: &'a Paths,
    /// What names and shapes say of the checkpoint's weights.
    pub(super) layers: &'a HashMap<TensorId, PrunableView>,
    /// The checkpoint's tensors that can stand for constants.
    pub(super) candidates: &'a [TensorId],
    /// The partner of each constant of the graph.
    pub(super) bound: BTreeMap<TensorId, Bound>,
    /// Constants whose namesake has another shape, with both shapes.
    pub(super) misfits: BTreeMap<TensorId, String>,
    pub(super) notes: Vec<String>,
}

impl<'a> Matching<'a> {
    /// Brings together what can be: by name, by module, by values, by order.
    pub(super) fn run(&mut self) -> Result<()> {
        self.by_name();
        self.by_module()?;
        self.by_value()?;
        self.by_order();
        self.biases();
        Ok(())
    }

    /// The constants of floats that are used and have no partner yet.
    fn open(&self) -> Vec<TensorId> {
        let ids = (0..self.onnx.tensors.len() as u32).map(TensorId);
        ids.filter(|id| {
            !self.bound.contains_key(id)
                && !self.misfits.contains_key(id)
                && !self.uses[id.0 as usize].is_empty()
                && self.onnx.tensor(*id).dtype.is_prunable()
                && !self.onnx.tensor(*id).is_empty()
        })
        .collect()
    }

    /// The use of a constant as a weight.
    pub(super) fn site(&self, constant: TensorId) -> Option<(&'a Use, &'a WeightSite)> {
        self.uses[constant.0 as usize].iter().find_map(|used| match &used.role {
            UseRole::Weight(site) => Some((used, &**site)),
            _ => None,
        })
    }

    /// The ways from a tensor of the checkpoint to a constant; where that is a product's weight also
    /// with inputs and outputs transposed, if names say that they are stored the other way round.
    fn fits(&self, tensor: TensorId, constant: TensorId, named: bool) -> Vec<Fit> {
        let (from, to) = (self.checkpoint.tensor(tensor), self.onnx.tensor(constant));
        let ends = |roles: &[AxisRole]| roles.iter().rev().take(2).rev().copied().collect::<Vec<_>>();
        let product = self.site(constant).map(|(_, site)| ends(&site.roles)).filter(|roles| {
            *roles == [AxisRole::In, AxisRole::Out] || *roles == [AxisRole::Out, AxisRole::In]
        });
        let transposed = product.map(|roles| {
            let stored = self.layers.get(&tensor).map(|layer| ends(&layer.roles));
            !named && stored.is_some_and(|stored| stored != roles)
        });
        values::fits(from, to, transposed)
    }

    fn bind(&mut self, constant: TensorId, tensor: TensorId, fit: Fit) {
        self.bound.insert(constant, Bound { tensor, fit });
    }

    fn is_taken(&self, tensor: TensorId) -> bool {
        self.bound.values().any(|bound| bound.tensor == tensor)
    }

    /// A constant keeps its parameter's name where the exporter does not compute with it.
    fn by_name(&mut self) {
        for constant in self.open() {
            let to = self.onnx.tensor(constant);
            let Some(tensor) = self.paths.find(&to.path) else { continue };
            match self.fits(tensor, constant, true).into_iter().next() {
                Some(fit) => self.bind(constant, tensor, fit),
                None => {
                    let from = self.checkpoint.tensor(tensor);
                    let text = format!("is {} in the checkpoint (`{}`)", shape(from), from.path);
                    self.misfits.insert(constant, text);
                }
            }
        }
    }

    /// A node knows the module it comes from, and modules have usual names for their parameters.
    fn by_module(&mut self) -> Result<()> {
        for constant in self.open() {
            let weights = std::iter::once("weight").chain(LINEAR.iter().copied());
            let named: Vec<TensorId> = match self.site(constant) {
                Some((used, _)) => weights.filter_map(|n| self.paths.of_module(&used.module, n)).collect(),
                None => self.uses[constant.0 as usize].iter().filter_map(|u| self.slot(u)).collect(),
            };
            let options: Vec<(TensorId, Vec<Fit>)> = named
                .into_iter()
                .map(|t| (t, self.fits(t, constant, false)))
                .filter(|(_, f)| !f.is_empty())
                .collect();
            let mut found = None;
            // Where a module has several of one shape, as attention has, or one that fits both ways,
            // values tell; a single one needs no look at its elements.
            if options.len() > 1 || options.iter().any(|(_, fits)| fits.len() > 1) {
                for (tensor, fits) in &options {
                    if let Some(fit) = self.equal(*tensor, constant, fits)? {
                        found = Some((*tensor, fit));
                        break;
                    }
                }
            }
            let next = options.iter().find(|(t, _)| !self.is_taken(*t)).or(options.first());
            if let Some((tensor, fit)) = found.or_else(|| next.map(|(t, fits)| (*t, fits[0].clone()))) {
                self.bind(constant, tensor, fit);
            }
        }
        self.biases();
        Ok(())
    }

    fn slot(&self, used: &Use) -> Option<TensorId> {
        let (_, slots) = SLOTS.iter().find(|(op_type, _)| *op_type == used.op_type)?;
        let (_, name) = slots.iter().find(|(input, _)| *input == used.input)?;
        self.paths.of_module(&used.module, name)
    }

    /// Biases belong to the weights beside them.
    fn biases(&mut self) {
        for constant in self.bound.keys().copied().collect::<Vec<_>>() {
            let bias = self.layers.get(&self.bound[&constant].tensor).and_then(|l| l.bias.as_ref());
            let (Some(bias), Some((_, site))) = (bias, self.site(constant)) else { continue };
            let own = site.companions.iter().find(|c| c.kind == CompanionKind::Bias);
            let Some(own) = own.map(|c| c.tensor).filter(|t| !self.bound.contains_key(t)) else { continue };
            if let Some(fit) = self.fits(bias.tensor, own, true).into_iter().next()
                && !self.misfits.contains_key(&own)
            {
                self.bind(own, bias.tensor, fit);
            }
        }
    }

    /// The first of the ways by which a tensor has a constant's elements.
    fn equal(&self, tensor: TensorId, constant: TensorId, fits: &[Fit]) -> Result<Option<Fit>> {
        let (from, to) = (self.checkpoint.tensor(tensor), self.onnx.tensor(constant));
        let tolerance = values::tolerance(from.dtype, to.dtype);
        let wanted = to.load()?.to_f32s()?;
        for fit in fits {
            if values::same(&wanted, &values::elements(from, fit)?, tolerance) {
                return Ok(Some(fit.clone()));
            }
        }
        Ok(None)
    }

    /// Where the checkpoint was not trained on, equal elements tell; for a weight with a batch-norm
    /// folded in, elements that are equal but for a factor a channel.
    fn by_value(&mut self) -> Result<()> {
        for constant in self.open() {
            let to = self.onnx.tensor(constant);
            if to.len() < TELLING || values::is_uniform(&to.load()?.to_f32s()?) {
                continue;
            }
            for &tensor in self.candidates {
                if self.checkpoint.tensor(tensor).len() != to.len() {
                    continue;
                }
                let fits = self.fits(tensor, constant, false);
                let mut found = self.equal(tensor, constant, &fits)?;
                for fit in fits {
                    if found.is_none() && self.factors(tensor, constant, &fit)?.is_some() {
                        found = Some(fit);
                    }
                }
                if let Some(fit) = found {
                    self.bind(constant, tensor, fit);
                    break;
                }
            }
        }
        self.biases();
        Ok(())
    }

    /// The factor of each output channel that makes a constant out of a tensor of the checkpoint,
    /// where the constant is a weight with a bias and there is such a factor.
    pub(super) fn factors(
        &self,
        tensor: TensorId,
        constant: TensorId,
        fit: &Fit,
    ) -> Result<Option<Vec<f64>>> {
        let Some((_, site)) = self.site(constant) else { return Ok(None) };
        let Some(bias) = site.companions.iter().find(|c| c.kind == CompanionKind::Bias) else {
            return Ok(None);
        };
        let (from, to) = (self.checkpoint.tensor(tensor), self.onnx.tensor(constant));
        let channels = self.onnx.tensor(bias.tensor).len();
        let channel_of = channel_of(&to.shape, site);
        let (folded, plain) = (to.load()?.to_f32s()?, values::elements(from, fit)?);
        let tolerance = values::tolerance(from.dtype, to.dtype);
        Ok(values::factors(&folded, &plain, &channel_of, channels, tolerance))
    }

    /// Whether the checkpoint has its tensors in the order of definition: files of safetensors have
    /// them by type and name, which says nothing.
    pub(super) fn is_in_order(&self) -> bool {
        let mut by_type: BTreeMap<DType, Vec<&str>> = BTreeMap::new();
        for stored in self.checkpoint.tensors.values() {
            by_type.entry(stored.dtype).or_default().push(&stored.path);
        }
        !by_type.values().all(|paths| paths.is_sorted())
    }

    /// What is left of one shape on both sides is brought together in its order, where the checkpoint
    /// has the order of definition and as many are left on either side.
    fn by_order(&mut self) {
        let ordered = self.is_in_order();
        let kind = |op_type: &str, shape: &[usize]| {
            let mut sorted = shape.to_vec();
            sorted.sort_unstable();
            (op_type.starts_with("Conv"), sorted)
        };
        let mut left: BTreeMap<_, (Vec<TensorId>, Vec<TensorId>)> = BTreeMap::new();
        for constant in self.open() {
            if let Some((used, _)) = self.site(constant) {
                let kind = kind(&used.op_type, &self.onnx.tensor(constant).shape);
                left.entry(kind).or_default().0.push(constant);
            }
        }
        let mut layers: Vec<&PrunableView> = self.layers.values().collect();
        layers.sort_by_key(|layer| layer.tensor);
        for layer in layers.into_iter().filter(|l| !self.is_taken(l.tensor)) {
            let kind = kind(&layer.op_type, &self.checkpoint.tensor(layer.tensor).shape);
            if let Some((_, tensors)) = left.get_mut(&kind) {
                tensors.push(layer.tensor);
            }
        }
        for (mut constants, tensors) in left.into_values() {
            if constants.len() != tensors.len() || (constants.len() > 1 && !ordered) {
                continue;
            }
            constants.sort_by_key(|&c| self.site(c).map(|(used, _)| used.site));
            for (constant, tensor) in constants.into_iter().zip(tensors) {
                if let Some(fit) = self.fits(tensor, constant, false).into_iter().next() {
                    self.bind(constant, tensor, fit);
                    let (tensor, constant) =
                        (&self.checkpoint.tensor(tensor).path, &self.onnx.tensor(constant).path);
                    self.notes
                        .push(format!("`{tensor}` is taken for `{constant}` by its shape and order: check"));
                }
            }
        }
    }

    /// The constants without which the network would not be the checkpoint's: weights, biases,
    /// embeddings and parameters of normalisations; those that do nothing need no partner.
    pub(super) fn unmatched(&self, folded: &BTreeSet<TensorId>) -> Result<Vec<TensorId>> {
        let mut needed = BTreeSet::new();
        for (id, uses) in (0..).map(TensorId).zip(self.uses) {
            for used in uses {
                let normalises = used.op_type.contains("Normalization") && used.input > 0;
                let embeds =
                    used.op_type == "Gather" && used.input == 0 && self.onnx.tensor(id).shape.len() == 2;
                match &used.role {
                    UseRole::Weight(site) => {
                        needed.insert(id);
                        needed.extend(site.companions.iter().map(|c| c.tensor));
                    }
                    UseRole::Bias => drop(needed.insert(id)),
                    _ if normalises || embeds => drop(needed.insert(id)),
                    _ => {}
                }
            }
        }
        let mut unmatched = Vec::new();
        for id in self.open().into_iter().filter(|id| needed.contains(id) && !folded.contains(id)) {
            let does_nothing = self.site(id).is_none() && {
                let values = self.onnx.tensor(id).load()?.to_f32s()?;
                values::is_uniform(&values) && (values[0] == 0.0 || values[0] == 1.0)
            };
            if !does_nothing {
                unmatched.push(id);
            }
        }
        Ok(unmatched)
    }
}

/// The output channel of each element of a weight, by its place.
fn channel_of(shape: &[usize], site: &WeightSite) -> impl Fn(usize) -> usize + use<> {
    let strides = crate::tensor::strides(shape);
    let axis = site.roles.iter().position(|r| *r == AxisRole::Out).unwrap_or(0);
    let (stride, outputs) = (strides[axis], shape[axis]);
    // Transposed convolutions: the inputs' axis holds the groups, each with outputs of its own.
    let grouped = site.group_axis.filter(|&a| site.roles[a] == AxisRole::In);
    let (group_stride, group_extent, group_size) =
        grouped.map_or((1, 1, 1), |a| (strides[a], shape[a], (shape[a] / site.groups).max(1)));
    move |place| {
        let group = if group_extent == 1 { 0 } else { place / group_stride % group_extent / group_size };
        group * outputs + place / stride % outputs
    }
}

/// A tensor's type and shape, for messages.
pub(super) fn shape(stored: &StoredTensor) -> String {
    format!("{} {:?}", stored.dtype, stored.shape)
}
